//! What the formats with named, typed columns share: Parquet, ORC, Avro, Arrow.
//!
//! Comes in: the columns of a file as its library shows them, what is wanted of them, and batches of the
//! columns that are read. Goes out: [`DecodedBatch`]es whose columns are cast to the types wanted, with a
//! reject per row whose value does not fit. Knows nothing of bytes. A damaged file is an error that says
//! what is damaged, also where a library panics on it ([`guarded`]).
//!
//! [`DecodedBatch`]: crate::spec::DecodedBatch

mod columns;
mod held;
mod layout;
mod part_rows;
mod plan;
mod rows;

pub use columns::FileColumn;
pub(crate) use columns::{columns_in_sql, map_fields};
pub(crate) use held::HeldRows;
pub(crate) use layout::{NANOSECONDS_AS, settled_field};
pub(crate) use part_rows::PartRows;
pub(crate) use plan::{ColumnPlan, Output, Source, is_text};

use std::panic::{AssertUnwindSafe, catch_unwind};

use stevedore_common::error::{Error, Result};

/// Runs library code that may panic on damaged input; `what` is the part of the file that it reads.
pub(crate) fn guarded<T>(what: impl Fn() -> String, run: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a panic leaves half done is dropped by every caller. What it says is for those who know the
    // library; it stands in the log.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(Error::bad_data(format!("{} is damaged (its parts do not fit together)", what())))
    })
}
