//! Parquet files: from the footer to row groups, from their bytes to batches.
//!
//! Comes in: the last bytes of a file, then the byte ranges that a row group's columns fill; the caller
//! fetches them, as it likes and as many at once as it likes. Goes out: [`DecodedBatch`]es whose columns
//! are cast to the types wanted, with a reject per row whose value does not fit. One row group is one
//! piece of CPU work; row groups are independent of each other. Nothing here does I/O. A damaged file is
//! an error that says what is damaged, also where the library panics on it.
//!
//! ```text
//! tail ──read_footer──▶ metadata ──ParquetFile::open──▶ ParquetFile ──plan──▶ RowGroupTasks
//!                                                                                │ fetch byte_ranges
//! DecodedBatch ◀──iterate── RowGroupDecoder ◀──ParquetFile::decode_row_group─────┤
//! StoredGroup  ◀─────────────────────────────── ParquetFile::verify_row_group ───┘
//! ```
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod chunks;
mod columns;
mod file;
mod footer;
mod row_group;
mod stored;

pub use columns::{FileColumn, file_schema};
pub use file::{ParquetFile, RowGroupTask};
pub use footer::{Footer, TAIL_BYTES, read_footer};
pub use row_group::RowGroupDecoder;
pub use stored::{StoredChunk, StoredGroup, StoredLayout};

use std::panic::{AssertUnwindSafe, catch_unwind};

use stevedore_common::error::{Error, Result};

/// Runs library code that may panic on damaged input; `what` is the part of the file that it reads.
fn guarded<T>(what: impl Fn() -> String, run: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a panic leaves half done is dropped by every caller.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown failure");
        Err(Error::bad_data(format!("{} is damaged ({text})", what())))
    })
}

#[cfg(test)]
mod tests;
