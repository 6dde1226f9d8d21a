//! Columns of variable width: VARCHAR, VARIANT, BINARY.
//!
//! UTF-8 is checked once over the whole column when it is finished; only if that fails is each value
//! looked at, to find the rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, NullBufferBuilder, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use stevedore_common::Result;
use stevedore_common::file_format::BinaryFormat;

use super::primitive::scalar_text;
use super::{Builder, Cell, Cells, Marks, Room, ValueRules};
use crate::csv::cells::CsvCells;
use crate::json::scan::validate;
use crate::ndjson::cells::JsonCells;
use crate::parse::Reason;
use crate::parse::binary::parse_binary;

/// Values end to end, offsets, validity. A batch comes from one block, which is smaller than 2 GiB, and no
/// text grows when it is unescaped, so offsets fit.
struct Slices {
    offsets: Vec<i32>,
    values: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl Slices {
    fn new(room: Room) -> Self {
        let mut offsets = Vec::with_capacity(room.rows + 1);
        offsets.push(0);
        Self { offsets, values: Vec::with_capacity(room.bytes), nulls: NullBufferBuilder::new(room.rows) }
    }

    #[inline(always)]
    fn end_value(&mut self) {
        self.offsets.push(self.values.len() as i32);
    }

    fn push_null(&mut self) {
        self.end_value();
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn finish(&mut self) -> (Vec<i32>, Vec<u8>, Option<NullBuffer>) {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        (offsets, std::mem::take(&mut self.values), self.nulls.finish())
    }

    fn finish_text(&mut self, marks: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let (offsets, values, nulls) = self.finish();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let values = Buffer::from_vec(values);
        match StringArray::try_new(offsets.clone(), values.clone(), nulls.clone()) {
            Ok(array) => Ok(Arc::new(array)),
            Err(_) => Ok(Arc::new(without_bad_text(&BinaryArray::new(offsets, values, nulls), marks))),
        }
    }
}

/// The values that are UTF-8; the others become NULL and their rows are marked.
#[cold]
fn without_bad_text(array: &BinaryArray, mut marks: Option<&mut Marks<'_>>) -> StringArray {
    array
        .iter()
        .enumerate()
        .map(|(row, value)| match value.map(std::str::from_utf8) {
            Some(Err(_)) => {
                if let Some(marks) = &mut marks {
                    marks.bad_text(row, array.value(row));
                }
                None
            }
            Some(Ok(text)) => Some(text),
            None => None,
        })
        .collect()
}

/// A VARCHAR column.
pub(crate) struct StringColumn {
    slices: Slices,
    scratch: Vec<u8>,
}

impl StringColumn {
    pub(crate) fn new(room: Room) -> Self {
        Self { slices: Slices::new(room), scratch: Vec::new() }
    }

    #[inline]
    fn append<C: Cells>(&mut self, cells: &C, marks: &mut Marks<'_>) {
        let rows = cells.rows();
        self.slices.offsets.reserve(rows);
        let mut run = 0;
        for row in 0..rows {
            match cells.text(row, &mut self.scratch) {
                Cell::Text(text) => {
                    self.slices.values.extend_from_slice(text);
                    self.slices.end_value();
                    run += 1;
                    continue;
                }
                Cell::Null => marks.null(row),
                Cell::Default => marks.default(row),
                Cell::Bad(text, reason) => marks.bad(row, text, reason),
            }
            self.slices.nulls.append_n_non_nulls(run);
            self.slices.push_null();
            run = 0;
        }
        self.slices.nulls.append_n_non_nulls(run);
    }
}

impl Builder for StringColumn {
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        match scalar_text(raw, &mut self.scratch) {
            Ok(text) => {
                self.slices.values.extend_from_slice(text);
                self.slices.end_value();
                self.slices.nulls.append_non_null();
                Ok(())
            }
            Err(reason) => {
                self.push_null();
                Err(reason)
            }
        }
    }

    fn push_null(&mut self) {
        self.slices.push_null();
    }

    fn len(&self) -> usize {
        self.slices.len()
    }

    fn finish(&mut self, marks: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        self.slices.finish_text(marks)
    }
}

/// A VARIANT column: JSON kept as written.
pub(crate) struct VariantColumn {
    slices: Slices,
    scratch: Vec<u8>,
    max_nesting: usize,
    invalid_as_null: bool,
}

impl VariantColumn {
    pub(crate) fn new(rules: &ValueRules, room: Room) -> Self {
        Self {
            slices: Slices::new(room),
            scratch: Vec::new(),
            max_nesting: rules.max_nesting,
            invalid_as_null: rules.invalid_json_as_null,
        }
    }

    #[inline]
    fn append<C: Cells>(&mut self, cells: &C, marks: &mut Marks<'_>) {
        for row in 0..cells.rows() {
            match cells.json(row, &mut self.scratch) {
                Cell::Text(text) => {
                    let text = text.trim_ascii();
                    let checked = if C::JSON_IS_VALID {
                        Ok(())
                    } else {
                        validate(text, self.max_nesting).map_err(|e| e.reason)
                    };
                    match checked {
                        Ok(()) => {
                            self.slices.values.extend_from_slice(text);
                            self.slices.end_value();
                            self.slices.nulls.append_non_null();
                            continue;
                        }
                        Err(_) if self.invalid_as_null => marks.null(row),
                        Err(reason) => marks.bad(row, text, &format!("invalid JSON: {reason}")),
                    }
                }
                Cell::Null => marks.null(row),
                Cell::Default => marks.default(row),
                Cell::Bad(text, reason) => marks.bad(row, text, reason),
            }
            self.slices.push_null();
        }
    }
}

impl Builder for VariantColumn {
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        self.slices.values.extend_from_slice(raw);
        self.slices.end_value();
        self.slices.nulls.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.slices.push_null();
    }

    fn len(&self) -> usize {
        self.slices.len()
    }

    fn finish(&mut self, marks: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        self.slices.finish_text(marks)
    }
}

/// A BINARY column.
pub(crate) struct BinaryColumn {
    slices: Slices,
    scratch: Vec<u8>,
    format: BinaryFormat,
}

impl BinaryColumn {
    pub(crate) fn new(format: BinaryFormat, room: Room) -> Self {
        Self { slices: Slices::new(room), scratch: Vec::new(), format }
    }

    #[inline]
    fn append<C: Cells>(&mut self, cells: &C, marks: &mut Marks<'_>) {
        for row in 0..cells.rows() {
            match cells.text(row, &mut self.scratch) {
                Cell::Text(text) => match parse_binary(text, self.format, &mut self.slices.values) {
                    Ok(()) => {
                        self.slices.end_value();
                        self.slices.nulls.append_non_null();
                        continue;
                    }
                    Err(reason) => marks.bad(row, text, reason),
                },
                Cell::Null => marks.null(row),
                Cell::Default => marks.default(row),
                Cell::Bad(text, reason) => marks.bad(row, text, reason),
            }
            self.slices.push_null();
        }
    }
}

impl Builder for BinaryColumn {
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        let (format, values) = (self.format, &mut self.slices.values);
        match scalar_text(raw, &mut self.scratch).and_then(|text| parse_binary(text, format, values)) {
            Ok(()) => {
                self.slices.end_value();
                self.slices.nulls.append_non_null();
                Ok(())
            }
            Err(reason) => {
                self.push_null();
                Err(reason)
            }
        }
    }

    fn push_null(&mut self) {
        self.slices.push_null();
    }

    fn len(&self) -> usize {
        self.slices.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let (offsets, values, nulls) = self.slices.finish();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(values), nulls)?))
    }
}
