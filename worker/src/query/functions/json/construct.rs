//! `json_object('a', 1, …)` and `json_array(1, …)`: a VARIANT of values of any types.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use stevedore_common::Result;
use stevedore_common::types::SqlType;
use stevedore_decode::variant::{JsonWriter, push_escaped};

use super::unpaired;
use crate::query::functions::call::Call;
use crate::query::functions::definition::Inputs;

pub(super) fn object_type(inputs: &Inputs<'_>) -> Result<SqlType> {
    match inputs.count() {
        count if count % 2 == 0 => Ok(SqlType::Variant),
        count => Err(unpaired(inputs.name(), count)),
    }
}

/// A value to write.
struct Value {
    /// `None` of the literal NULL.
    writer: Option<JsonWriter>,
    array: ArrayRef,
    constant: bool,
}

impl Value {
    fn new(call: &Call<'_>, index: usize) -> Result<Self> {
        let (array, field, constant) = call.raw(index)?;
        let writer = match array.data_type() {
            DataType::Null => None,
            _ => Some(JsonWriter::new(array, field, call.options)?),
        };
        Ok(Self { writer, array: array.clone(), constant })
    }

    fn is_null(&self, row: usize) -> bool {
        self.writer.is_none() || self.array.is_null(self.place(row))
    }

    fn place(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    fn write(&self, row: usize, out: &mut String) {
        match &self.writer {
            Some(writer) => writer.write(self.place(row), out),
            None => out.push_str("null"),
        }
    }
}

pub(super) fn array(call: &Call<'_>) -> Result<ArrayRef> {
    let values = (0..call.count()).map(|index| Value::new(call, index)).collect::<Result<Vec<_>>>()?;
    call.texts(|row, out| {
        out.push('[');
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            value.write(row, out);
        }
        out.push(']');
        Ok(true)
    })
}

/// Keys are sorted, as in every VARIANT; a key that is NULL leaves its pair out.
pub(super) fn object(call: &Call<'_>, keeps_nulls: bool) -> Result<ArrayRef> {
    let keyed = (0..call.count() / 2).try_fold(None, |read: Option<Call<'_>>, pair| {
        read.as_ref().unwrap_or(call).read_as(pair * 2, |_| SqlType::String).map(Some)
    })?;
    let keyed = keyed.as_ref().unwrap_or(call);
    let pairs = (0..keyed.count() / 2)
        .map(|pair| Ok((keyed.text(pair * 2)?, Value::new(keyed, pair * 2 + 1)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut names = String::new();
    let mut members: Vec<(Range<usize>, usize)> = Vec::new();
    call.texts(|row, out| {
        names.clear();
        members.clear();
        for (index, (keys, value)) in pairs.iter().enumerate() {
            let Some(key) = keys.get(row) else { continue };
            if !keeps_nulls && value.is_null(row) {
                continue;
            }
            let start = names.len();
            push_escaped(key, &mut names);
            members.push((start..names.len(), index));
        }
        // By what stands between the quotes.
        let inner = |range: &Range<usize>| &names[range.start + 1..range.end - 1];
        members.sort_by(|(a, _), (b, _)| inner(a).cmp(inner(b)));
        if let Some(twice) = members.windows(2).find(|pair| inner(&pair[0].0) == inner(&pair[1].0)) {
            return Err(call.wrong(inner(&twice[0].0), "the key stands twice"));
        }
        out.push('{');
        for (n, (name, index)) in members.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push_str(&names[name.clone()]);
            out.push(':');
            if let Some((_, value)) = pairs.get(*index) {
                value.write(row, out);
            }
        }
        out.push('}');
        Ok(true)
    })
}
