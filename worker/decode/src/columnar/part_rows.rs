//! How far a part of a file (a row group, a stripe) is decoded.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use stevedore_common::error::{Error, Result};

/// The rows of a part: how many it has, how many were given, and the bytes that they stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartRows {
    all: u64,
    done: u64,
    input_bytes: u64,
}

impl PartRows {
    pub(crate) fn new(all: u64, input_bytes: u64) -> Self {
        Self { all, done: 0, input_bytes }
    }

    pub(crate) fn all(&self) -> u64 {
        self.all
    }

    /// Rows given so far, rejected ones included.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    pub(crate) fn left(&self) -> u64 {
        self.all - self.done
    }

    /// The next rows of a part of which no column is read: they are only counted.
    pub(crate) fn count(&self, batch_rows: usize) -> Result<Option<RecordBatch>> {
        if self.left() == 0 {
            return Ok(None);
        }
        let rows = self.left().min(batch_rows.max(1) as u64) as usize;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options);
        empty.map(Some).map_err(|error| Error::internal(error.to_string()))
    }

    /// The part of the bytes that the next rows stand for; the parts add up.
    pub(crate) fn share_of(&self, rows: u64) -> u64 {
        let total = u128::from(self.input_bytes);
        let upto = |row: u64| (total * u128::from(row) / u128::from(self.all.max(1))) as u64;
        upto(self.done + rows) - upto(self.done)
    }

    /// The next rows, of which there are no more than are left, were given.
    pub(crate) fn advance(&mut self, rows: u64) {
        self.done += rows;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_counted_to_their_end_and_shares_of_bytes_add_up() {
        let mut rows = PartRows::new(7, 100);
        let mut shares = Vec::new();
        while let Some(batch) = rows.count(3).unwrap() {
            shares.push(rows.share_of(batch.num_rows() as u64));
            rows.advance(batch.num_rows() as u64);
        }
        assert_eq!((shares, rows.done(), rows.left()), (vec![42, 43, 15], 7, 0));
        assert!(PartRows::new(0, 100).count(3).unwrap().is_none());
    }
}
