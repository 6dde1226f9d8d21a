//! Columns of composite values, from JSON text: VECTOR, ARRAY, TUPLE, MAP.
//!
//! Every push appends exactly one entry, so a bad element inside leaves all children in step: the list or
//! map keeps what was read so far under a NULL, and the row is dropped later.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, MapArray, NullBufferBuilder, StructArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::{Builder, Cell, Cells, Marks, Room, ValueRules, builder};
use crate::csv::cells::CsvCells;
use crate::json::scan::{for_each_element, for_each_entry, validate};
use crate::json::unescape::unescape;
use crate::ndjson::cells::JsonCells;
use crate::parse::number::parse_float;
use crate::parse::{Reason, WRONG_SIZE};

/// A builder that takes one JSON value at a time.
trait JsonBuilder: Builder {
    fn max_nesting(&self) -> usize;
}

/// Appends a run of fields to a composite column.
fn append<C: Cells>(column: &mut impl JsonBuilder, cells: &C, marks: &mut Marks<'_>) {
    let (mut scratch, mut inner) = (Vec::new(), Vec::new());
    for row in 0..cells.rows() {
        match cells.json(row, &mut scratch) {
            Cell::Text(text) => match push_checked::<C>(column, text, &mut inner) {
                Ok(()) => continue,
                Err(failure) => {
                    match failure.reason {
                        Some(reason) => marks.bad(row, text, reason),
                        None => marks.bad_text(row, text),
                    }
                    if failure.appended {
                        continue;
                    }
                }
            },
            Cell::Null => marks.null(row),
            Cell::Default => marks.default(row),
            Cell::Bad(text, reason) => marks.bad(row, text, reason),
        }
        column.push_null();
    }
}

struct Failure {
    /// `None`: the bytes are no text.
    reason: Option<Reason>,
    appended: bool,
}

fn push_checked<C: Cells>(
    column: &mut impl JsonBuilder,
    text: &[u8],
    inner: &mut Vec<u8>,
) -> Result<(), Failure> {
    let fail = |reason| Failure { reason: Some(reason), appended: false };
    let mut text = text.trim_ascii();
    let mut valid = C::JSON_IS_VALID;
    // A JSON string may hold the value as text: "[1,2]".
    if valid && let [b'"', content @ .., b'"'] = text {
        inner.clear();
        unescape(content, inner).map_err(fail)?;
        text = inner.trim_ascii();
        valid = false;
    }
    if !valid {
        validate(text, column.max_nesting()).map_err(|e| fail(e.reason))?;
    }
    if std::str::from_utf8(text).is_err() {
        return Err(Failure { reason: None, appended: false });
    }
    column.push_json(text).map_err(|reason| Failure { reason: Some(reason), appended: true })
}

macro_rules! appends {
    ($column:ty) => {
        fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
            append(self, cells, marks);
        }

        fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
            append(self, cells, marks);
        }
    };
}

macro_rules! nesting {
    ($($column:ty),*) => {$(
        impl JsonBuilder for $column {
            fn max_nesting(&self) -> usize { self.max_nesting }
        }
    )*};
}
nesting!(VectorColumn, ListColumn, StructColumn, MapColumn);

fn unfit() -> Error {
    Error::internal("a composite column was built with a type that is not its own")
}

fn broken(_: crate::json::scan::JsonError) -> Reason {
    "invalid JSON"
}

/// A VECTOR(n) column.
pub(crate) struct VectorColumn {
    size: usize,
    ty: SqlType,
    values: Vec<f32>,
    nulls: NullBufferBuilder,
    max_nesting: usize,
    nan: Vec<u8>,
}

impl VectorColumn {
    pub(crate) fn new(size: u16, rules: &ValueRules) -> Self {
        Self {
            size: usize::from(size),
            ty: SqlType::Vector(size),
            values: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            max_nesting: rules.max_nesting,
            nan: rules.nan.clone(),
        }
    }

    fn read(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw.first() != Some(&b'[') {
            return Err("expected an array of numbers");
        }
        let most = self.values.len() + self.size;
        for_each_element(raw, |element| {
            if self.values.len() == most {
                return Err(WRONG_SIZE);
            }
            if !matches!(element.first(), Some(b'-' | b'0'..=b'9')) {
                return Err("expected an array of numbers");
            }
            self.values.push(parse_float(element, &self.nan)?);
            Ok(())
        })
        .map_err(broken)??;
        if self.values.len() == most { Ok(()) } else { Err(WRONG_SIZE) }
    }
}

impl Builder for VectorColumn {
    appends!(VectorColumn);

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        let before = self.values.len();
        let done = self.read(raw);
        if done.is_ok() {
            self.nulls.append_non_null();
        } else {
            self.values.truncate(before);
            self.push_null();
        }
        done
    }

    fn push_null(&mut self) {
        self.values.resize(self.values.len() + self.size, 0.0);
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let DataType::FixedSizeList(field, size) = self.ty.to_arrow() else { return Err(unfit()) };
        let values = Arc::new(Float32Array::from(std::mem::take(&mut self.values)));
        Ok(Arc::new(FixedSizeListArray::try_new(field, size, values, self.nulls.finish())?))
    }
}

/// An ARRAY(T) column.
pub(crate) struct ListColumn {
    field: Arc<Field>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    element: Box<dyn Builder>,
    max_nesting: usize,
}

impl ListColumn {
    pub(crate) fn new(ty: &SqlType, element: &SqlType, rules: &ValueRules) -> Result<Self> {
        let DataType::List(field) = ty.to_arrow() else { return Err(unfit()) };
        Ok(Self {
            field,
            offsets: vec![0],
            nulls: NullBufferBuilder::new(0),
            element: builder(element, rules, Room::default())?,
            max_nesting: rules.max_nesting,
        })
    }
}

impl Builder for ListColumn {
    appends!(ListColumn);

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        let done = match raw.first() {
            Some(b'n') => {
                self.push_null();
                return Ok(());
            }
            Some(b'[') => for_each_element(raw, |element| self.element.push_json(element))
                .map_err(broken)
                .and_then(|done| done),
            _ => Err("expected an array"),
        };
        self.offsets.push(self.element.len() as i32);
        self.nulls.append(done.is_ok());
        done
    }

    fn push_null(&mut self) {
        self.offsets.push(self.element.len() as i32);
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let elements = self.element.finish(None)?;
        Ok(Arc::new(ListArray::try_new(self.field.clone(), offsets, elements, self.nulls.finish())?))
    }
}

/// A TUPLE column.
pub(crate) struct StructColumn {
    fields: Fields,
    children: Vec<Box<dyn Builder>>,
    nulls: NullBufferBuilder,
    max_nesting: usize,
    case_sensitive: bool,
}

impl StructColumn {
    pub(crate) fn new(ty: &SqlType, fields: &[(String, SqlType)], rules: &ValueRules) -> Result<Self> {
        let DataType::Struct(arrow) = ty.to_arrow() else { return Err(unfit()) };
        let children =
            fields.iter().map(|(_, ty)| builder(ty, rules, Room::default())).collect::<Result<_>>()?;
        Ok(Self {
            fields: arrow,
            children,
            nulls: NullBufferBuilder::new(0),
            max_nesting: rules.max_nesting,
            case_sensitive: rules.case_sensitive,
        })
    }

    /// The value of each field: by name (exact, else in any case; the last of equals), or by position.
    fn values<'a>(&self, raw: &'a [u8]) -> Result<Vec<Option<&'a [u8]>>, Reason> {
        let mut found: Vec<Option<&[u8]>> = vec![None; self.fields.len()];
        if raw.first() == Some(&b'[') {
            let mut n = 0;
            for_each_element(raw, |element| {
                if let Some(slot) = found.get_mut(n) {
                    *slot = Some(element);
                }
                n += 1;
                Ok::<_, Reason>(())
            })
            .map_err(broken)??;
            return if n == found.len() {
                Ok(found)
            } else {
                Err("the number of elements is not that of the tuple")
            };
        }
        if raw.first() != Some(&b'{') {
            return Err("expected an object");
        }
        let mut exact = vec![false; found.len()];
        let mut name = Vec::new();
        for_each_entry(raw, |key, value| {
            name.clear();
            if unescape(key, &mut name).is_err() {
                return;
            }
            for (i, field) in self.fields.iter().enumerate() {
                let field = field.name().as_bytes();
                if field == name.as_slice() {
                    found[i] = Some(value);
                    exact[i] = true;
                } else if !self.case_sensitive && !exact[i] && field.eq_ignore_ascii_case(&name) {
                    found[i] = Some(value);
                }
            }
        })
        .map_err(broken)?;
        Ok(found)
    }
}

impl Builder for StructColumn {
    appends!(StructColumn);

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        let values = match self.values(raw) {
            Ok(values) => values,
            Err(reason) => {
                self.push_null();
                return Err(reason);
            }
        };
        let mut done = Ok(());
        for (child, value) in self.children.iter_mut().zip(values) {
            match value {
                Some(value) => done = done.and(child.push_json(value)),
                None => child.push_null(),
            }
        }
        self.nulls.append(done.is_ok());
        done
    }

    fn push_null(&mut self) {
        for child in &mut self.children {
            child.push_null();
        }
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let len = self.nulls.len();
        let children = self.children.iter_mut().map(|child| child.finish(None)).collect::<Result<_>>()?;
        Ok(Arc::new(StructArray::try_new_with_length(
            self.fields.clone(),
            children,
            self.nulls.finish(),
            len,
        )?))
    }
}

/// A MAP(K, V) column.
pub(crate) struct MapColumn {
    entries: Arc<Field>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    key: Box<dyn Builder>,
    value: Box<dyn Builder>,
    max_nesting: usize,
    quoted: Vec<u8>,
}

impl MapColumn {
    pub(crate) fn new(ty: &SqlType, key: &SqlType, value: &SqlType, rules: &ValueRules) -> Result<Self> {
        let DataType::Map(entries, _) = ty.to_arrow() else { return Err(unfit()) };
        Ok(Self {
            entries,
            offsets: vec![0],
            nulls: NullBufferBuilder::new(0),
            key: builder(key, rules, Room::default())?,
            value: builder(value, rules, Room::default())?,
            max_nesting: rules.max_nesting,
            quoted: Vec::new(),
        })
    }

    fn read(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw.first() != Some(&b'{') {
            return Err("expected an object");
        }
        let mut entries: Vec<(&[u8], &[u8])> = Vec::new();
        for_each_entry(raw, |key, value| entries.push((key, value))).map_err(broken)?;
        // Of equal keys the last one counts, at the place of the first.
        let mut seen: HashMap<&[u8], usize> = HashMap::with_capacity(entries.len());
        let mut unique: Vec<(&[u8], &[u8])> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match seen.get(key) {
                Some(at) => unique[*at].1 = value,
                None => {
                    seen.insert(key, unique.len());
                    unique.push((key, value));
                }
            }
        }
        for (key, value) in unique {
            self.quoted.clear();
            self.quoted.push(b'"');
            self.quoted.extend_from_slice(key);
            self.quoted.push(b'"');
            if let Err(reason) = self.key.push_json(&self.quoted) {
                // The key was appended as NULL, which a map cannot hold: see `finish`.
                self.value.push_null();
                return Err(reason);
            }
            self.value.push_json(value)?;
        }
        Ok(())
    }
}

impl Builder for MapColumn {
    appends!(MapColumn);

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        let done = self.read(raw);
        self.offsets.push(self.key.len() as i32);
        self.nulls.append(done.is_ok());
        done
    }

    fn push_null(&mut self) {
        self.offsets.push(self.key.len() as i32);
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let DataType::Struct(fields) = self.entries.data_type() else { return Err(unfit()) };
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let mut keys = self.key.finish(None)?;
        if keys.null_count() > 0 {
            // Only keys of maps that are NULL themselves are.
            keys = arrow::array::make_array(keys.to_data().into_builder().nulls(None).build()?);
        }
        let values = self.value.finish(None)?;
        let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        Ok(Arc::new(MapArray::try_new(self.entries.clone(), offsets, entries, self.nulls.finish(), false)?))
    }
}
