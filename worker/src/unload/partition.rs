//! Rows by the path of their partition, which is the last column of the query.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use stevedore_common::storage::UNFINISHED;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::Target;
use crate::query::functions::kernel;

/// The path of rows whose partition is NULL.
const NULL_PATH: &str = "_NULL_";

/// The rows of a batch, without the column of the partition, by its path; one group with an empty path where
/// there are no partitions.
pub(super) fn split(target: &Target, batch: &RecordBatch) -> Result<Vec<(String, RecordBatch)>> {
    let width = target.schema.fields().len();
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(target.schema.fields())
        .map(|(column, field)| {
            if column.data_type().is_null() && !field.data_type().is_null() {
                arrow::array::new_null_array(field.data_type(), column.len())
            } else {
                column.clone()
            }
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let rows = RecordBatch::try_new_with_options(target.schema.clone(), columns, &options)
        .map_err(|e| Error::internal(format!("rows do not fit their files: {e}")))?;
    if !target.partitioned {
        return Ok(vec![(String::new(), rows)]);
    }
    let (column, schema) = (batch.column(width), batch.schema());
    let text = kernel::cast(column, schema.field(width), &SqlType::String, &target.cast)
        .map_err(|e| e.context("PARTITION BY"))?;
    if let Some((_, message)) = text.rejects.first() {
        return Err(Error::bad_data(message.clone()).context("PARTITION BY"));
    }
    let paths = text.values.as_string_opt::<i32>().ok_or_else(|| Error::internal("a path is no text"))?;
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for row in 0..paths.len() {
        let path = if paths.is_null(row) { NULL_PATH } else { paths.value(row) };
        groups.entry(path).or_default().push(row as u32);
    }
    groups
        .into_iter()
        .map(|(path, numbers)| {
            let path = checked(path)?;
            let group = take_record_batch(&rows, &UInt32Array::from(numbers))
                .map_err(|e| Error::internal(format!("taking the rows of a partition: {e}")))?;
            Ok((path, group))
        })
        .collect()
}

/// A path of folders below the location: it never leads out of it.
fn checked(path: &str) -> Result<String> {
    let trimmed = path.trim_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.starts_with(UNFINISHED);
    if trimmed.split('/').any(bad) || trimmed.contains(['\0', '\\']) {
        return Err(Error::bad_data(format!("'{path}' is no path of a partition"))
            .context("PARTITION BY")
            .hint("give folders, as in 'year=' || year(t)"));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_partition_never_leads_out_of_the_location() {
        assert_eq!(checked("a=1/b=x y/").unwrap(), "a=1/b=x y");
        for path in ["", "/", "..", "a/../b", "a//b", ".", "a\0", "a\\b"] {
            assert!(checked(path).is_err(), "{path}");
        }
    }
}
