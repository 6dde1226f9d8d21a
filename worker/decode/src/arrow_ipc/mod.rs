//! Arrow IPC, files and streams: from messages to batches.
//!
//! Comes in: the end of a file, then the byte ranges of its messages; or a stream from its first byte on.
//! Goes out: [`DecodedBatch`]es whose columns are cast to the types wanted, with a reject per row whose value
//! does not fit. A record batch is one piece of CPU work; with the dictionaries before it, it is independent
//! of the others. What messages claim (lengths, places, sizes once decompressed) is checked here before memory
//! is taken for it; buffers are decompressed here too, only those that are wanted; the arrays are built by the
//! library, which checks their offsets, keys and text. Nothing here does I/O. A damaged file is an error that
//! says what is damaged, also where the library panics on it.
//!
//! ```text
//! tail ──read_tail──▶ FileLayout ──plan──▶ BatchPlaces ──fetch, message──▶ BatchMessage ─┐
//! bytes ──StreamCutter────────────────────────────────────────────────────▶ BatchMessage ─┤
//!                    ArrowFile::open ──▶ ArrowFile ──decode──▶ BatchDecoder ──iterate──▶ DecodedBatch
//! ```
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod body;
mod file;
mod message;
mod rows;
mod stream;
mod weight;

pub use file::{BatchHead, BatchPlace, FileLayout, TAIL_BYTES, Tail, read_tail};
pub use message::{BatchMessage, Dictionaries};
pub use rows::{ArrowFile, BatchDecoder, schema_columns};
pub use stream::StreamCutter;

#[cfg(test)]
mod tests;
