//! Rows into CSV, TSV and NDJSON, so that COPY INTO with the same format reads them as they were.
//!
//! Nested values and VARIANT are JSON. In CSV what would be read as something else is quoted: the text of
//! NULL_DISPLAY, the empty text, whatever holds a delimiter or a quote. In TSV it is escaped. What the options
//! give no way to write fails: [`delimited`] knows.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Float32Array, Float64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type, SchemaRef};
use base64::Engine as _;
use stevedore_common::file_format::{BinaryFormat, FileFormat, FormatKind};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::{CastContext, natural_type};
use stevedore_decode::spec::CastOptions;
use stevedore_decode::variant::JsonWriter;

use super::compress::Compressor;
use super::delimited::{Delimited, Value};
use crate::query::functions::kernel;

pub(super) struct TextEncoder {
    format: FileFormat,
    schema: SchemaRef,
    types: Vec<Option<SqlType>>,
    cast: CastOptions,
    compressor: Compressor,
    /// CSV and TSV.
    delimited: Delimited,
    at_start: bool,
    line: Vec<u8>,
}

/// The byte order mark.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// A column of a batch, ready to be written.
enum Cells {
    Null,
    Text { values: StringArray, value: Value },
    Float32(StringArray, Float32Array),
    Float64(StringArray, Float64Array),
    Binary(BinaryArray),
}

impl TextEncoder {
    pub(super) fn new(format: &FileFormat, schema: &SchemaRef, cast: &CastOptions) -> Result<Self> {
        let ty = |field: &FieldRef| {
            if field.data_type().is_null() { Ok(None) } else { natural_type(field).map(Some) }
        };
        let mut encoder = Self {
            format: format.clone(),
            schema: schema.clone(),
            types: schema.fields().iter().map(ty).collect::<Result<_>>()?,
            cast: cast.clone(),
            compressor: Compressor::new(format.compression)?,
            delimited: Delimited::new(format, schema.fields().len()),
            at_start: true,
            line: Vec::new(),
        };
        if format.output_header && format.kind != FormatKind::Ndjson {
            encoder.header()?;
        }
        Ok(encoder)
    }

    fn header(&mut self) -> Result<()> {
        let mut line = std::mem::take(&mut self.line);
        for (index, field) in self.schema.fields().iter().enumerate() {
            if index > 0 {
                line.extend_from_slice(self.format.field_delimiter.as_bytes());
            }
            self.delimited.name(&mut line, field.name())?;
        }
        line.extend_from_slice(self.format.record_delimiter.as_bytes());
        self.lines(&line)?;
        line.clear();
        self.line = line;
        Ok(())
    }

    fn lines(&mut self, lines: &[u8]) -> Result<()> {
        // Readers take one mark off the beginning of a file: it must not be that of the first value.
        if std::mem::take(&mut self.at_start) && lines.starts_with(BOM) {
            self.compressor.write(BOM)?;
        }
        self.compressor.write(lines)
    }

    pub(super) fn waiting(&self) -> usize {
        self.compressor.waiting()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.compressor.take()
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        self.compressor.finish()
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut lines = std::mem::take(&mut self.line);
        lines.clear();
        if self.format.kind == FormatKind::Ndjson {
            self.objects(batch, &mut lines)?;
        } else {
            self.records(batch, &mut lines)?;
        }
        self.lines(&lines)?;
        self.line = lines;
        Ok(())
    }

    /// A line for each row, members in the order of the columns.
    fn objects(&self, batch: &RecordBatch, lines: &mut Vec<u8>) -> Result<()> {
        let mut writers: Vec<(String, Option<JsonWriter>)> = Vec::with_capacity(batch.num_columns());
        for (column, field) in batch.columns().iter().zip(self.schema.fields()) {
            let key = serde_json::to_string(field.name())
                .map_err(|e| Error::internal(format!("a column's name is no JSON: {e}")))?;
            let writer = match column.data_type() {
                DataType::Null => None,
                DataType::Binary if self.format.binary_format == BinaryFormat::Base64 => {
                    let text: StringArray =
                        column.as_binary::<i32>().iter().map(|bytes| bytes.map(|b| self.binary(b))).collect();
                    let field = arrow::datatypes::Field::new(field.name(), DataType::Utf8, true);
                    Some(JsonWriter::new(&(std::sync::Arc::new(text) as ArrayRef), &field, &self.cast)?)
                }
                _ => Some(JsonWriter::new(column, field, &self.cast)?),
            };
            writers.push((key, writer));
        }
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            text.clear();
            for (index, (key, writer)) in writers.iter().enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                text.push_str(key);
                text.push(':');
                match writer {
                    Some(writer) => writer.write(row, &mut text),
                    None => text.push_str("null"),
                }
            }
            text.push_str("}\n");
            lines.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    fn records(&self, batch: &RecordBatch, lines: &mut Vec<u8>) -> Result<()> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (index, column) in batch.columns().iter().enumerate() {
            columns.push(self.cells(index, column)?);
        }
        for row in 0..batch.num_rows() {
            for (index, cells) in columns.iter().enumerate() {
                if index > 0 {
                    lines.extend_from_slice(self.format.field_delimiter.as_bytes());
                }
                self.cell(lines, cells, row, self.schema.field(index).name())?;
            }
            lines.extend_from_slice(self.format.record_delimiter.as_bytes());
        }
        Ok(())
    }

    /// The texts of a column.
    fn cells(&self, index: usize, column: &ArrayRef) -> Result<Cells> {
        let field = self.schema.field(index);
        let Some(Some(ty)) = self.types.get(index) else { return Ok(Cells::Null) };
        if let (SqlType::Binary, Some(binary)) = (ty, column.as_binary_opt::<i32>()) {
            return Ok(Cells::Binary(binary.clone()));
        }
        let nested =
            matches!(ty, SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_));
        let wanted = if nested { SqlType::Variant } else { SqlType::String };
        let values = if matches!(ty, SqlType::Variant) {
            // As it stands: a cast to text would take the quotes off a JSON string.
            column.clone()
        } else {
            let context = CastContext { column_number: index + 1, column_name: field.name().clone() };
            let cast = kernel::cast_column(column, field, &wanted, &self.cast, &context)?;
            if let Some((_, message)) = cast.rejects.into_iter().next() {
                return Err(Error::bad_data(message));
            }
            cast.values
        };
        let text = values
            .as_string_opt::<i32>()
            .ok_or_else(|| Error::internal(format!("column '{}' has no text", field.name())))?
            .clone();
        Ok(match ty {
            SqlType::Float32 => match column.as_primitive_opt::<Float32Type>() {
                Some(floats) => Cells::Float32(text, floats.clone()),
                None => Cells::Text { values: text, value: Value::Number },
            },
            SqlType::Float64 => match column.as_primitive_opt::<Float64Type>() {
                Some(floats) => Cells::Float64(text, floats.clone()),
                None => Cells::Text { values: text, value: Value::Number },
            },
            SqlType::String => Cells::Text { values: text, value: Value::String },
            ty if ty.is_numeric() => Cells::Text { values: text, value: Value::Number },
            _ => Cells::Text { values: text, value: Value::Other },
        })
    }

    fn cell(&self, line: &mut Vec<u8>, cells: &Cells, row: usize, name: &str) -> Result<()> {
        let (text, value) = match cells {
            Cells::Null => (None, Value::Other),
            Cells::Text { values, value } => (values.is_valid(row).then(|| values.value(row)), *value),
            Cells::Float32(_, floats) if floats.is_valid(row) && floats.value(row).is_nan() => {
                (Some(self.format.nan_display.as_str()), Value::Number)
            }
            Cells::Float64(_, floats) if floats.is_valid(row) && floats.value(row).is_nan() => {
                (Some(self.format.nan_display.as_str()), Value::Number)
            }
            Cells::Float32(values, _) | Cells::Float64(values, _) => {
                (values.is_valid(row).then(|| values.value(row)), Value::Number)
            }
            Cells::Binary(values) if values.is_valid(row) => {
                return self.delimited.value(line, &self.binary(values.value(row)), Value::Other, name);
            }
            Cells::Binary(_) => (None, Value::Other),
        };
        match text {
            Some(text) => self.delimited.value(line, text, value, name),
            None => self.delimited.null(line, name),
        }
    }

    fn binary(&self, bytes: &[u8]) -> String {
        match self.format.binary_format {
            BinaryFormat::Base64 => base64::engine::general_purpose::STANDARD.encode(bytes),
            BinaryFormat::Hex => hex::encode(bytes),
        }
    }
}
