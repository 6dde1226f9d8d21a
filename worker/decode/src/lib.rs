//! From the bytes of files to Arrow batches of SQL types: decompression, charsets, record cutting,
//! the decoders, and the casts.
//!
//! Comes in: bytes in order (text) or a random-access reader (columnar formats) and a
//! [`spec::DecodeSpec`]. Goes out: [`spec::DecodedBatch`]es whose rows know their place in the file, and
//! the rows that were rejected. Everything here is synchronous CPU work that the caller schedules; it
//! does no I/O of its own, holds no task and never panics on input.

pub mod arrow_ipc;
pub mod avro;
pub(crate) mod batches;
pub(crate) mod bits;
pub mod blocks;
pub mod cast;
pub mod charset;
pub(crate) mod columnar;
pub(crate) mod csv;
pub mod decompress;
pub mod errors;
pub(crate) mod json;
pub mod limits;
pub(crate) mod ndjson;
pub mod orc;
pub mod parquet;
pub mod parse;
pub mod spec;
pub mod text;
pub mod variant;
pub mod vector;
