//! Rows as text: a table for people, CSV and JSON lines for programs.
//!
//! CSV and JSON lines are written batch by batch. A table needs the widths of all its cells, so it keeps the
//! rows that it prints and counts the others. What terminals would take for commands is escaped in tables.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::WriterBuilder as JsonBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::value::RawValue;
use stevedore_common::{Error, Result};

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people; wide cells are cut where there is more than one row.
    Table,
    /// CSV with a header; nested values as JSON.
    Csv,
    /// One JSON object a line; VARIANT values are embedded.
    Json,
}

/// Characters of a cell that are shown when a table has more than one row.
const WIDEST_CELL: usize = 60;
/// The extension of VARIANT columns.
const VARIANT: &str = "arrow.json";
const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";

/// Writes rows, and answers how many there were. Of a table at most `max_rows` are printed.
///
/// # Errors
/// Those of the rows; those of the writer.
pub async fn render(
    schema: &SchemaRef,
    mut batches: BoxStream<'_, Result<RecordBatch>>,
    format: Format,
    max_rows: usize,
    out: &mut (dyn Write + Send),
) -> Result<u64> {
    let mut count = 0;
    match format {
        Format::Table => {
            let mut table = TableText::new(schema.clone(), max_rows);
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                count += batch.num_rows() as u64;
                table.add(&batch)?;
            }
            table.write(count, out)?;
        }
        Format::Csv => {
            write_csv(&RecordBatch::new_empty(schema.clone()), true, out)?;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                count += batch.num_rows() as u64;
                write_csv(&batch, false, out)?;
            }
        }
        Format::Json => {
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                count += batch.num_rows() as u64;
                write_json(&batch, out)?;
            }
        }
    }
    out.flush()?;
    Ok(count)
}

fn cannot_show(name: &str, error: impl std::fmt::Display) -> Error {
    Error::internal(format!("column '{name}' cannot be shown: {error}"))
}

struct TableText {
    schema: SchemaRef,
    max_rows: usize,
    rows: Vec<Vec<String>>,
}

impl TableText {
    fn new(schema: SchemaRef, max_rows: usize) -> Self {
        Self { schema, max_rows, rows: Vec::new() }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let room = self.max_rows.saturating_sub(self.rows.len()).min(batch.num_rows());
        if room == 0 {
            return Ok(());
        }
        let columns = cells(&batch.slice(0, room))?;
        for row in 0..room {
            // One row alone is shown in full: SHOW CREATE TABLE, a single value.
            let keep = if self.rows.is_empty() { usize::MAX } else { WIDEST_CELL };
            self.rows.push(
                columns
                    .iter()
                    .map(|column| column.get(row).map_or(String::new(), |c| cut(c, keep)))
                    .collect(),
            );
        }
        Ok(())
    }

    fn write(mut self, count: u64, out: &mut (dyn Write + Send)) -> Result<()> {
        if self.schema.fields().is_empty() {
            return Ok(());
        }
        let many = self.rows.len() > 1;
        if many && let Some(first) = self.rows.first_mut() {
            for cell in first {
                *cell = cut(cell, WIDEST_CELL);
            }
        }
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.schema.fields().iter().map(|field| Cell::new(printable(field.name(), many))));
        let printed = self.rows.len() as u64;
        for row in self.rows {
            table.add_row(row.iter().map(|cell| Cell::new(printable(cell, many))));
        }
        for (index, field) in self.schema.fields().iter().enumerate() {
            if field.data_type().is_numeric()
                && let Some(column) = table.column_mut(index)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(out, "{table}")?;
        if count > printed {
            writeln!(out, "… and {} more rows", count - printed)?;
        }
        Ok(())
    }
}

/// The texts of each column's cells.
pub(crate) fn cells(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::new()
        .with_null("NULL")
        .with_timestamp_format(Some(TIMESTAMP))
        .with_timestamp_tz_format(Some(TIMESTAMP));
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        if array.data_type().is_nested() {
            let texts = json_texts(field.name(), array)?;
            let text =
                |(row, text): (usize, String)| if array.is_null(row) { "NULL".to_owned() } else { text };
            columns.push(texts.into_iter().enumerate().map(text).collect());
            continue;
        }
        let formatter = ArrayFormatter::try_new(array, &options).map_err(|e| cannot_show(field.name(), e))?;
        let texts = (0..array.len())
            .map(|row| formatter.value(row).try_to_string().map_err(|e| cannot_show(field.name(), e)))
            .collect::<Result<Vec<String>>>()?;
        columns.push(texts);
    }
    Ok(columns)
}

fn cut(text: &str, keep: usize) -> String {
    match text.char_indices().nth(keep) {
        Some(_) => text.chars().take(keep.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// Control characters as escapes, so that a value cannot command the terminal.
fn printable(text: &str, one_line: bool) -> String {
    let harmless = |c: char| !c.is_control() || (c == '\n' && !one_line);
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmless(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

/// Each value of a column as JSON text on one line.
fn json_texts(name: &str, array: &ArrayRef) -> Result<Vec<String>> {
    const KEY: &str = "{\"v\":";
    let schema = Schema::new(vec![Field::new("v", array.data_type().clone(), true)]);
    let lines = || -> std::result::Result<Vec<u8>, arrow::error::ArrowError> {
        let batch = RecordBatch::try_new(Arc::new(schema), vec![array.clone()])?;
        let mut writer = JsonBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&batch)?;
        writer.finish()?;
        Ok(writer.into_inner())
    };
    let lines = lines().map_err(|e| cannot_show(name, e))?;
    let lines = String::from_utf8(lines).map_err(|e| cannot_show(name, e))?;
    let value = |line: &str| {
        line.strip_prefix(KEY)
            .and_then(|rest| rest.strip_suffix('}'))
            .map(str::to_owned)
            .ok_or_else(|| cannot_show(name, "it has no JSON form"))
    };
    lines.lines().map(value).collect()
}

fn write_csv(batch: &RecordBatch, header: bool, out: &mut (dyn Write + Send)) -> Result<()> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        if array.data_type().is_nested() {
            let texts = json_texts(field.name(), array)?;
            let texts: StringArray = texts
                .into_iter()
                .enumerate()
                .map(|(row, text)| array.is_valid(row).then_some(text))
                .collect();
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(texts) as ArrayRef);
        } else {
            fields.push(Field::new(field.name(), array.data_type().clone(), true));
            columns.push(array.clone());
        }
    }
    if fields.is_empty() {
        return Ok(());
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let mut writer = CsvBuilder::new().with_header(header).build(out);
    writer.write(&batch).map_err(|e| Error::internal(format!("writing CSV: {e}")))
}

fn write_json(batch: &RecordBatch, out: &mut (dyn Write + Send)) -> Result<()> {
    let mut keys = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        keys.push(serde_json::to_string(field.name()).map_err(|e| cannot_show(field.name(), e))?);
        let texts = json_texts(field.name(), array)?;
        columns.push(if field.extension_type_name() == Some(VARIANT) {
            embedded(array, texts)
        } else {
            texts
        });
    }
    let mut line = String::new();
    for row in 0..batch.num_rows() {
        line.clear();
        line.push('{');
        for (index, (key, column)) in keys.iter().zip(&columns).enumerate() {
            if index > 0 {
                line.push(',');
            }
            line.push_str(key);
            line.push(':');
            line.push_str(column.get(row).map_or("null", String::as_str));
        }
        line.push_str("}\n");
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// The JSON that a VARIANT column's texts hold; a text that is none stays a string.
fn embedded(array: &ArrayRef, quoted: Vec<String>) -> Vec<String> {
    let Some(texts) = array.as_string_opt::<i32>() else { return quoted };
    let value = |(row, quoted): (usize, String)| {
        if texts.is_null(row) {
            return quoted;
        }
        let text = texts.value(row);
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) if !raw.get().contains(['\n', '\r']) => raw.get().to_owned(),
            // White space between tokens would break the line; strings hold none unescaped.
            Ok(raw) => raw.get().replace(['\n', '\r'], " "),
            Err(_) => quoted,
        }
    };
    quoted.into_iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use arrow::array::{Decimal128Array, Float32Builder, Int64Array, ListBuilder, TimestampMicrosecondArray};

    use super::*;

    fn batch() -> RecordBatch {
        let mut vectors = ListBuilder::new(Float32Builder::new());
        vectors.append_value([Some(1.0), Some(0.5)]);
        vectors.append_null();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(7), None])),
            Arc::new(StringArray::from(vec![Some("a,\"b\""), Some("\u{1b}[2J\n")])),
            Arc::new(StringArray::from(vec![Some("{\"k\":\n [1]}"), Some("no json")])),
            Arc::new(vectors.finish()),
            Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, 0]).with_timezone("UTC")),
            Arc::new(Decimal128Array::from(vec![1250, -5]).with_precision_and_scale(6, 3).unwrap()),
        ];
        let names = ["n", "s", "v", "e", "t", "d"];
        let fields: Vec<Field> = names
            .iter()
            .zip(&columns)
            .map(|(name, column)| {
                let field = Field::new(*name, column.data_type().clone(), true);
                if *name != "v" {
                    return field;
                }
                field.with_metadata([("ARROW:extension:name".to_owned(), VARIANT.to_owned())].into())
            })
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    async fn rendered(batches: Vec<RecordBatch>, format: Format, max_rows: usize) -> String {
        let schema = batch().schema();
        let mut out = Vec::new();
        let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        render(&schema, batches, format, max_rows, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn csv_has_one_header_and_nested_values_as_json() {
        let text = rendered(vec![batch(), batch().slice(0, 1)], Format::Csv, 0).await;
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap(), "n,s,v,e,t,d");
        assert!(text.contains("7,\"a,\"\"b\"\"\","), "{text}");
        assert!(text.contains(",\"[1.0,0.5]\",1970-01-01T00:00:01.500Z,1.250"), "{text}");
        assert_eq!(text.matches("n,s,v").count(), 1);
        assert_eq!(rendered(vec![], Format::Csv, 0).await, "n,s,v,e,t,d\n");
    }

    #[tokio::test]
    async fn json_lines_embed_variants_and_keep_each_row_on_a_line() {
        let text = rendered(vec![batch()], Format::Json, 0).await;
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["v"]["k"][0], 1);
        assert_eq!(rows[0]["e"], serde_json::json!([1.0, 0.5]));
        assert_eq!(rows[1]["n"], serde_json::Value::Null);
        assert_eq!(rows[1]["v"], "no json");
        assert_eq!(rows[1]["s"], "\u{1b}[2J\n");
    }

    #[tokio::test]
    async fn tables_escape_control_characters_and_count_what_they_do_not_print() {
        let text = rendered(vec![batch(), batch()], Format::Table, 3).await;
        assert!(text.contains("NULL") && text.contains("1970-01-01 00:00:01.500"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2J\\n"), "{text}");
        assert!(text.ends_with("… and 1 more rows\n"), "{text}");
    }

    #[tokio::test]
    async fn a_single_row_is_shown_in_full_and_many_are_cut() {
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(100); 2]));
        let batch = RecordBatch::try_from_iter([("long", long)]).unwrap();
        let widest = |text: String| text.lines().map(|line| line.matches('x').count()).max().unwrap();
        let shown = async |batch: RecordBatch| {
            let mut out = Vec::new();
            let schema = batch.schema();
            let batches = futures::stream::iter([Ok(batch)]).boxed();
            render(&schema, batches, Format::Table, 10, &mut out).await.unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(widest(shown(batch.slice(0, 1)).await), 100);
        assert_eq!(widest(shown(batch).await), WIDEST_CELL - 1);
    }
}
