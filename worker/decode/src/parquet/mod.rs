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
//! StoredColumn ◀─────────────────────────────── ParquetFile::stored_column ──────┘
//! ```
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod batch_memory;
mod bounds;
mod chunks;
mod columns;
mod file;
mod filter;
mod footer;
mod footer_shape;
mod page_headers;
mod page_index;
mod reader;
mod row_group;
mod runs;
mod stored;
mod value_counts;

pub use crate::columnar::FileColumn;
pub use bounds::{ColumnBounds, PartBounds};
pub use chunks::{BlockingRanges, ChunkRead, GroupBytes};
pub use columns::file_schema;
pub use file::{ParquetFile, RowGroupTask};
pub use filter::{PrunedPages, RowFilter, SelectedRows};
pub use footer::{Footer, TAIL_BYTES, read_footer};
pub use row_group::RowGroupDecoder;
pub use stored::{
    ColumnDefaults, ColumnEncoder, ColumnEncoders, EncodedColumn, Facts, LEAST_ROWS, StoredChunk,
    StoredColumn, StoredGroup, StoredLayout, StoredPlan, StoredTarget,
};

#[cfg(test)]
mod tests;
