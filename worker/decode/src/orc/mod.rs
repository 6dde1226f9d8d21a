//! ORC files: from the tail to stripes, from their bytes to batches.
//!
//! Comes in: the last bytes of a file, then the byte ranges that a stripe's columns fill; the caller
//! fetches them, as it likes and as many at once as it likes. Goes out: [`DecodedBatch`]es whose columns
//! are cast to the types wanted, with a reject per row whose value does not fit. One stripe is one piece
//! of CPU work; stripes are independent of each other. Nothing here does I/O. A damaged file is an error
//! that says what is damaged, also where the library panics on it.
//!
//! ```text
//! tail ──read_tail──▶ OrcMetadata ──OrcFile::open──▶ OrcFile ──plan──▶ StripeTasks
//!                                                       │ fetch the stripe's footer, then its streams
//! DecodedBatch ◀──iterate── StripeDecoder ◀──OrcFile::decode_stripe
//! ```
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod file;
mod lengths;
mod ranges;
mod stripe;
mod tail;
mod types;

pub use crate::columnar::FileColumn;
pub use file::{OrcFile, StripeTask, file_schema};
pub use stripe::StripeDecoder;
pub use tail::{OrcMetadata, TAIL_BYTES, Tail, read_tail};

#[cfg(test)]
mod tests;
