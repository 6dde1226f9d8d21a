//! Avro object container files: from the header to blocks, from blocks to batches.
//!
//! Comes in: the bytes of a file, in order. Goes out: [`DecodedBatch`]es whose columns are cast to the
//! types wanted, with a reject per row whose value does not fit. Blocks are independent of each other:
//! some of them are one piece of CPU work. The container (header, block borders, sync markers, block
//! codecs) is read here, since the library neither bounds nor checks it; the records are decoded by the
//! library, in memory. Nothing here does I/O. A damaged file is an error that says what is damaged.
//!
//! ```text
//! first bytes ──read_header──▶ AvroHeader ──AvroFile::open──▶ AvroFile
//! bytes after it ──BlockCutter──▶ BlockGroups ──AvroFile::decode──▶ GroupDecoder ──iterate──▶ DecodedBatch
//! ```
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod blocks;
mod codec;
mod file;
mod header;
mod schema;

pub use crate::columnar::FileColumn;
pub use blocks::{BlockCutter, BlockGroup};
pub use file::{AvroFile, GroupDecoder, file_schema};
pub use header::{AvroHeader, HEADER_BYTES, read_header};

#[cfg(test)]
mod tests;
