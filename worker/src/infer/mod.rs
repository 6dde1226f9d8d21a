//! What files are like: the columns of files, and the facts of a Parquet file.
//!
//! Comes in: a stage scan. Goes out: columns with their types, merged over the files, and who has them;
//! or what a Parquet footer says. Parquet is told by footers, text by the first records of each file, read
//! as a load would read them (decompressed, in their charset). `columns` merges, `text` says which type a
//! field's text has, `json` which one a JSON value has.
//!
//! Must never: read more of a text file than its first records need, guess a type that would change a
//! value (`007` is text). Fails with the name of the file that cannot be read.

mod columns;
pub(crate) mod json;
mod text;

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use futures::{StreamExt, TryStreamExt};
use stevedore_common::error::ResultExt;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::storage::Store;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_decode::spec::DecodeSpec;
use stevedore_proto::v1::FileTask;

use crate::read::{WorkerResources, file_columns, is_fault_of_file, parquet_footer, read_file};
pub use columns::InferredColumn;
use columns::{FileColumn, Merge};
use text::FieldTypes;

/// Files that are looked at at once.
const FILES_AT_ONCE: usize = 8;
/// Records that are decoded at once, at most.
const BATCH_RECORDS: usize = 1000;

/// The facts of a Parquet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetFacts {
    /// Who wrote it, where it says so.
    pub created_by: Option<String>,
    /// Leaf columns.
    pub num_columns: u64,
    /// Rows.
    pub num_rows: u64,
    /// Row groups.
    pub num_row_groups: u64,
    /// Bytes of the footer.
    pub serialized_size: u64,
    /// Bytes of the largest row group as stored.
    pub max_row_groups_size_compressed: u64,
    /// Bytes of the largest row group once decompressed.
    pub max_row_groups_size_uncompressed: u64,
}

/// The columns of files in order of appearance, merged over all of them; of text files from the first
/// `max_records` of each. Names that differ in case only are one column, unless they are `case_sensitive` or of
/// one file.
///
/// # Errors
/// A file that cannot be read, by its name.
pub async fn infer_columns(
    files: &[FileTask],
    store: &Store,
    format: &FileFormat,
    case_sensitive: bool,
    max_records: usize,
    resources: &WorkerResources,
) -> Result<Vec<InferredColumn>> {
    let by_place = matches!(format.kind, FormatKind::Csv | FormatKind::Tsv);
    let mut merge = Merge::new(by_place, case_sensitive);
    let jobs: Vec<_> = files
        .iter()
        .cloned()
        .map(|task| {
            let (store, format, resources) = (store.clone(), format.clone(), resources.clone());
            async move {
                let found = columns_of(&task, &store, &format, case_sensitive, max_records, &resources).await;
                Ok::<_, Error>((found.context(|| format!("file '{}'", task.name))?.columns, task.name))
            }
        })
        .collect();
    let mut found = futures::stream::iter(jobs).buffered(FILES_AT_ONCE);
    while let Some((columns, name)) = found.try_next().await? {
        merge.add(&name, columns);
    }
    Ok(merge.finish())
}

/// How much of text files is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Records of each file.
    pub records_per_file: usize,
    /// Records of all files together.
    pub records: usize,
}

/// The names of the columns of files in order of appearance, with a type for all files that can be read; without one
/// where only NULLs were seen. Files that cannot be read are passed over: whoever loads them judges them.
///
/// # Errors
/// A column of a type that SQL lacks, by file; a store that cannot be reached.
pub async fn columns_in_order(
    files: &[FileTask],
    store: &Store,
    format: &FileFormat,
    case_sensitive: bool,
    sample: Sample,
    resources: &WorkerResources,
) -> Result<Vec<(String, Option<SqlType>)>> {
    let mut merge = Merge::new(false, case_sensitive);
    let mut left = sample.records;
    let mut files = files;
    while !files.is_empty() && left > 0 {
        // As many at once as cannot have too many records together: the last ones of a sample one by one.
        let at_once = match format.kind.is_text() {
            true => (left / sample.records_per_file.max(1)).clamp(1, FILES_AT_ONCE),
            false => files.len(),
        };
        let (now, later) = files.split_at(at_once.min(files.len()));
        files = later;
        let most = sample.records_per_file.min(left).max(1);
        let mut found = futures::stream::iter(now.to_vec())
            .map(|task| {
                let (store, format, resources) = (store.clone(), format.clone(), resources.clone());
                async move {
                    let found = columns_of(&task, &store, &format, case_sensitive, most, &resources).await;
                    (found, task.name)
                }
            })
            .buffered(FILES_AT_ONCE);
        while let Some((found, name)) = found.next().await {
            match found {
                Ok(Looked { columns, records }) => {
                    left = left.saturating_sub(records);
                    merge.add(&name, columns);
                }
                Err(error) if is_fault_of_file(&error) && error.kind() != ErrorKind::Unsupported => {
                    tracing::debug!(file = name, %error, "a file tells no columns");
                }
                Err(error) => return Err(error.context(format!("file '{name}'"))),
            }
        }
    }
    Ok(merge.types())
}

/// What was found in one file.
struct Looked {
    columns: Vec<FileColumn>,
    /// Records looked at, where the format does not say its columns.
    records: usize,
}

async fn columns_of(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    case_sensitive: bool,
    max_records: usize,
    resources: &WorkerResources,
) -> Result<Looked> {
    if format.kind.is_text() {
        return text_columns(task, store, format, case_sensitive, max_records, resources).await;
    }
    let columns = file_columns(task, store, format, resources).await?;
    let column = |(name, ty, nullable): (String, SqlType, bool)| FileColumn { name, ty: Some(ty), nullable };
    Ok(Looked { columns: columns.into_iter().map(column).collect(), records: 0 })
}

/// What the footer of a Parquet file says.
///
/// # Errors
/// The file cannot be read, or is no Parquet file.
pub async fn inspect_parquet(
    task: &FileTask,
    store: &Store,
    resources: &WorkerResources,
) -> Result<ParquetFacts> {
    let (metadata, serialized_size) =
        parquet_footer(task, store, resources).await.context(|| format!("file '{}'", task.name))?;
    let file = metadata.file_metadata();
    let largest = |size: &dyn Fn(usize) -> i64| {
        (0..metadata.num_row_groups()).map(size).max().unwrap_or_default().unsigned_abs()
    };
    Ok(ParquetFacts {
        created_by: file.created_by().map(str::to_owned),
        num_columns: file.schema_descr().num_columns() as u64,
        num_rows: file.num_rows().unsigned_abs(),
        num_row_groups: metadata.num_row_groups() as u64,
        serialized_size,
        max_row_groups_size_compressed: largest(&|group| metadata.row_group(group).compressed_size()),
        max_row_groups_size_uncompressed: largest(&|group| metadata.row_group(group).total_byte_size()),
    })
}

/// The columns that the first records of a text file show.
async fn text_columns(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    case_sensitive: bool,
    max_records: usize,
    resources: &WorkerResources,
) -> Result<Looked> {
    let is_json = format.kind.is_json();
    // The header is a record here: its names are wanted.
    let has_header = !is_json && format.skip_header == 1;
    let mut format = format.clone();
    if has_header {
        format.skip_header = 0;
    }
    let nan = format.nan_display.clone();
    let mut objects = json::Objects::new(format.null_if.clone(), case_sensitive).bounded();
    let mut spec = DecodeSpec::new(format, Vec::new());
    spec.raw_records = true;
    spec.batch_rows = max_records.saturating_add(1).min(BATCH_RECORDS);
    let mut names: Vec<Option<String>> = Vec::new();
    let mut fields: Vec<FieldTypes> = Vec::new();
    let mut left = max_records;
    let mut is_header = has_header;
    let mut unread = None;
    let mut batches = read_file(task.clone(), store.clone(), Arc::new(spec), resources.clone());
    // Dropping the batches stops the reading of the file.
    while left > 0
        && let Some(batch) = batches.try_next().await?
    {
        if unread.is_none() {
            unread = batch.errors.first().map(|error| format!("line {}: {}", error.line, error.message));
        }
        for record in batch.batch.column(0).as_list::<i32>().iter().flatten() {
            let texts = record.as_string::<i32>();
            if std::mem::take(&mut is_header) {
                names = texts.iter().map(|name| name.map(|name| name.trim().to_owned())).collect();
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            if is_json {
                let line = texts.iter().flatten().next().unwrap_or_default();
                if let Err(reason) = objects.add(line) {
                    unread.get_or_insert(reason);
                }
                continue;
            }
            if fields.len() < texts.len() {
                fields.resize_with(texts.len(), FieldTypes::default);
            }
            for (field, text) in fields.iter_mut().zip(texts) {
                field.add(text.unwrap_or_default(), &nan);
            }
        }
    }
    drop(batches);
    let columns = if is_json { objects.finish()? } else { text::columns(&names, &fields) };
    match unread {
        Some(reason) if columns.is_empty() => {
            Err(Error::bad_data(format!("no record can be read; {reason}")))
        }
        _ => Ok(Looked { columns, records: max_records - left }),
    }
}

#[cfg(test)]
mod tests;
