//! Result rows as text, the way tests compare them.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// All values of all rows. NULL is `NULL`, an empty string `(empty)`, times are in UTC, floating-point
/// numbers as short as they can be.
pub fn rows(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| values(batch, row))).collect()
}

/// The rows as lines, the values apart by ` | `.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    rows(batches).into_iter().map(|row| row.join(" | ")).collect()
}

/// The names and types of columns: `File Utf8`.
pub fn columns<'a>(fields: impl IntoIterator<Item = &'a std::sync::Arc<Field>>) -> Vec<Vec<String>> {
    fields.into_iter().map(|field| vec![field.name().clone(), type_name(field)]).collect()
}

fn type_name(field: &Field) -> String {
    let name = match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => format!("Timestamp(us,{zone})"),
        DataType::FixedSizeList(item, n) => format!("FixedSizeList({},{n})", item.data_type()),
        other => other.to_string().replace(' ', ""),
    };
    match field.metadata().get("ARROW:extension:name") {
        Some(extension) => format!("{name}:{extension}"),
        None => name,
    }
}

fn values(batch: &RecordBatch, row: usize) -> Vec<String> {
    batch.columns().iter().map(|column| value(column.as_ref(), row)).collect()
}

fn value(array: &dyn Array, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".to_owned();
    }
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            chrono::DateTime::from_timestamp_micros(micros)
                .map_or_else(|| micros.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S%.f").to_string())
        }
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        _ => {
            let options = FormatOptions::default().with_null("NULL");
            let text = ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string();
            if text.is_empty() { "(empty)".to_owned() } else { text }
        }
    }
}
