//! The rows of a part that its library gives all at once, handed out batch by batch.

use arrow::array::RecordBatch;
use stevedore_common::error::Result;

use super::{ColumnPlan, PartRows, guarded};
use crate::spec::DecodedBatch;

/// A part of a file that is read whole, then cast a batch at a time. After an error it yields nothing more.
pub(crate) struct HeldRows {
    /// The number of its first row within the file.
    first_row: u64,
    rows: PartRows,
    /// The columns that are read, once they were.
    all: Option<RecordBatch>,
    failed: bool,
}

impl HeldRows {
    /// For a part of so many rows that takes `input_bytes` in the file.
    pub(crate) fn new(first_row: u64, rows: u64, input_bytes: u64) -> Self {
        Self { first_row, rows: PartRows::new(rows, input_bytes), all: None, failed: false }
    }

    /// The next batch. `part` is what people call the part, `read` reads it, and `most` says how many of
    /// the rows from one on, so many at most, make a batch.
    pub(crate) fn next(
        &mut self,
        plan: &ColumnPlan,
        part: impl Fn() -> String,
        read: impl FnOnce() -> Result<RecordBatch>,
        most: impl FnOnce(&RecordBatch, usize, usize) -> usize,
    ) -> Option<Result<DecodedBatch>> {
        if self.failed || self.rows.left() == 0 {
            return None;
        }
        let result = guarded(part, || self.decode(plan, read, most));
        self.failed = result.is_err();
        Some(result)
    }

    fn decode(
        &mut self,
        plan: &ColumnPlan,
        read: impl FnOnce() -> Result<RecordBatch>,
        most: impl FnOnce(&RecordBatch, usize, usize) -> usize,
    ) -> Result<DecodedBatch> {
        let all = match &self.all {
            Some(all) => all,
            None => self.all.insert(read()?),
        };
        let done = self.rows.done() as usize;
        let rows = self.rows.left().min(plan.spec.batch_rows.max(1) as u64) as usize;
        let rows = most(all, done, rows);
        let batch = all.slice(done, rows);
        let bytes = self.rows.share_of(rows as u64);
        let decoded = plan.decode(&batch, self.first_row + self.rows.done(), bytes)?;
        self.rows.advance(rows as u64);
        Ok(decoded)
    }
}
