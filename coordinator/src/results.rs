//! Results that the coordinator makes itself (SHOW, DESC, LIST, the rows of a COPY) as Arrow batches.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use stevedore_common::Result;

/// The type of a result column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// VARCHAR.
    Text,
    /// INT.
    Int,
    /// BIGINT.
    BigInt,
    /// BIGINT UNSIGNED.
    UnsignedBigInt,
    /// BOOLEAN.
    Boolean,
    /// TIMESTAMP, given in milliseconds.
    Timestamp,
}

/// A value of a result row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// For [`ColumnKind::Text`].
    Text(String),
    /// For the integer kinds, and milliseconds for [`ColumnKind::Timestamp`].
    Int(i64),
    /// For [`ColumnKind::Boolean`].
    Boolean(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The columns of a result: fixed by the statement, known before it runs.
pub type Columns = &'static [(&'static str, ColumnKind)];

/// The Arrow schema of such a result.
pub fn schema_of(columns: Columns) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, kind)| {
            let data_type = match kind {
                ColumnKind::Text => DataType::Utf8,
                ColumnKind::Int => DataType::Int32,
                ColumnKind::BigInt => DataType::Int64,
                ColumnKind::UnsignedBigInt => DataType::UInt64,
                ColumnKind::Boolean => DataType::Boolean,
                ColumnKind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            };
            Field::new(*name, data_type, true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

macro_rules! build {
    ($builder:ty, $rows:ident, $index:ident, $value:pat => $out:expr) => {{
        let mut builder = <$builder>::new();
        for row in $rows {
            match row.get($index) {
                Some($value) => builder.append_value($out),
                _ => builder.append_null(),
            }
        }
        Arc::new(builder.finish()) as ArrayRef
    }};
}

/// One batch of rows. A value that does not fit its column's kind is NULL.
///
/// # Errors
/// Internal, if Arrow refuses the batch.
pub fn batch_of(columns: Columns, rows: &[Vec<Value>]) -> Result<RecordBatch> {
    let arrays = columns
        .iter()
        .enumerate()
        .map(|(index, (_, kind))| match kind {
            ColumnKind::Text => build!(StringBuilder, rows, index, Value::Text(text) => text),
            ColumnKind::Int => {
                build!(Int32Builder, rows, index, Value::Int(n) => i32::try_from(*n).unwrap_or(i32::MAX))
            }
            ColumnKind::BigInt => build!(Int64Builder, rows, index, Value::Int(n) => *n),
            ColumnKind::UnsignedBigInt => {
                build!(UInt64Builder, rows, index, Value::Int(n) => u64::try_from(*n).unwrap_or(0))
            }
            ColumnKind::Boolean => build!(BooleanBuilder, rows, index, Value::Boolean(b) => *b),
            ColumnKind::Timestamp => {
                let naive = build!(TimestampMicrosecondBuilder, rows, index, Value::Int(ms) => ms.saturating_mul(1000));
                arrow::compute::cast(&naive, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
                    .unwrap_or(naive)
            }
        })
        .collect();
    Ok(RecordBatch::try_new(schema_of(columns), arrays)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_become_a_batch_of_the_declared_types() {
        const COLUMNS: Columns = &[("name", ColumnKind::Text), ("created_on", ColumnKind::Timestamp)];
        let batch =
            batch_of(COLUMNS, &[vec!["a".into(), Value::Int(1)], vec![Value::Null, Value::Null]]).unwrap();
        assert_eq!(batch.schema(), schema_of(COLUMNS));
        assert_eq!((batch.num_rows(), batch.column(1).null_count()), (2, 1));
    }
}
