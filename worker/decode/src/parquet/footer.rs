//! The footer: from the last bytes of a file to its metadata.

use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::footer_shape;
use crate::columnar::guarded;

/// How many bytes of the end to fetch at first: enough for the footers of most files.
pub const TAIL_BYTES: u64 = 64 * 1024;
/// The largest footer accepted; wider ones would not fit beside the data anyway.
const MAX_FOOTER_BYTES: u64 = 512 << 20;
/// The most rows of a row group: where no column is read, they are only counted, and lies cost time.
const MAX_ROWS: i64 = 1 << 32;
/// Metadata length and magic.
const END_BYTES: usize = 8;

/// What the end of a file tells.
#[derive(Debug, Clone)]
pub enum Footer {
    /// The metadata.
    Ready(Arc<ParquetMetaData>),
    /// The footer is larger: call again with this many bytes from the end.
    Need(u64),
}

/// Reads the footer from the last bytes of a file of `file_size` bytes ([`TAIL_BYTES`] of them, or the
/// whole file where it is smaller).
///
/// # Errors
/// Bad data that says why this is not a Parquet file; not supported for what is encrypted, or compressed in
/// a way that nobody writes any more.
pub fn read_footer(file_size: u64, tail: &Bytes) -> Result<Footer> {
    let not_parquet = |why: String| Error::bad_data(format!("not a Parquet file: {why}"));
    if file_size < 12 {
        return Err(not_parquet(format!("it has {file_size} bytes, the smallest has 12")));
    }
    let Some((head, end)) = tail.split_last_chunk::<END_BYTES>() else {
        return Ok(Footer::Need(TAIL_BYTES.min(file_size)));
    };
    let [a, b, c, d, magic @ ..] = end;
    if magic == b"PARE" {
        return Err(Error::not_supported("encrypted Parquet files"));
    }
    if magic != b"PAR1" {
        return Err(not_parquet("it does not end with PAR1; it is of another format, or cut off".into()));
    }
    let length = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    // The file starts with a magic too.
    if length + END_BYTES as u64 + 4 > file_size {
        return Err(not_parquet(format!(
            "the footer is damaged (it claims {length} bytes, the file has {file_size})"
        )));
    }
    if length > MAX_FOOTER_BYTES {
        return Err(Error::exhausted(format!(
            "the footer of the Parquet file has {length} bytes; at most {MAX_FOOTER_BYTES} are read"
        )));
    }
    let Some(start) = head.len().checked_sub(length as usize) else {
        return Ok(Footer::Need(length + END_BYTES as u64));
    };
    footer_shape::check(&head[start..])
        .map_err(|what| not_parquet(format!("the footer is damaged ({what})")))?;
    let metadata = guarded(
        || "not a Parquet file: the footer".into(),
        || {
            ParquetMetaDataReader::decode_metadata(&head[start..])
                .map_err(|error| not_parquet(format!("the footer is damaged ({error})")))
        },
    )?;
    check(&metadata, file_size)?;
    Ok(Footer::Ready(Arc::new(metadata)))
}

/// Counts and places that later steps rely on.
fn check(metadata: &ParquetMetaData, file_size: u64) -> Result<()> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let damaged = |what: String| {
            Error::bad_data(format!("row group {} of the Parquet file is damaged ({what})", number + 1))
        };
        if group.num_rows() < 0 {
            return Err(damaged(format!("it claims {} rows", group.num_rows())));
        }
        if group.num_rows() > MAX_ROWS || (group.num_rows() > 0 && group.columns().is_empty()) {
            let columns = group.columns().len();
            return Err(damaged(format!("it claims {} rows of {columns} columns", group.num_rows())));
        }
        for column in group.columns() {
            let name = || column.column_path().string();
            if column.crypto_metadata().is_some() {
                return Err(Error::not_supported(format!("encrypted Parquet files (column '{}')", name())));
            }
            if column.compression() == Compression::LZO {
                return Err(Error::not_supported(format!(
                    "Parquet files compressed with LZO (column '{}')",
                    name()
                )));
            }
            // Every row has a value or a NULL, also in lists.
            if column.num_values() < group.num_rows() {
                return Err(damaged(format!(
                    "it claims {} rows, its column {} {} values",
                    group.num_rows(),
                    name(),
                    column.num_values()
                )));
            }
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let inside = end.is_some_and(|end| start >= 0 && end >= start && end.unsigned_abs() <= file_size);
            if !inside {
                return Err(damaged(format!(
                    "column {} lies outside of the file's {file_size} bytes; the file may be cut off",
                    name()
                )));
            }
        }
    }
    Ok(())
}
