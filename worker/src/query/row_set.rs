//! Sets of rows of a file, by position: a bit a row at most, and hardly anything for rows that stand together.

use std::ops::Range;

use roaring::RoaringTreemap;

/// Positions that share a container of the bitmap, and its bytes when it is full of them.
const BLOCK: u64 = 1 << 16;
const BLOCK_BYTES: u64 = BLOCK / 8;
/// What a container takes beside its positions, with its place in the bitmap.
const BLOCK_OVERHEAD: u64 = 64;
/// A position in a container that has few, in a vector that may have grown to twice of what is in it.
const POSITION_BYTES: u64 = 4;

/// Positions of rows.
#[derive(Debug, Default)]
pub(crate) struct RowSet {
    rows: RoaringTreemap,
    count: u64,
    /// After the last one.
    end: u64,
}

impl RowSet {
    /// False: it is in there already.
    pub(crate) fn insert(&mut self, row: u64) -> bool {
        let new = self.rows.insert(row);
        self.count += u64::from(new);
        self.end = self.end.max(row + 1);
        new
    }

    /// Adds rows that stand together.
    pub(crate) fn insert_range(&mut self, rows: Range<u64>) {
        self.end = self.end.max(rows.end);
        self.count += self.rows.insert_range(rows);
    }

    pub(crate) fn contains(&self, row: u64) -> bool {
        self.rows.contains(row)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The memory that it takes, at most.
    pub(crate) fn bytes(&self) -> u64 {
        let blocks = self.end.div_ceil(BLOCK).min(self.count);
        blocks * BLOCK_OVERHEAD + (self.count * POSITION_BYTES).min(blocks * BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_once_and_take_a_bit_at_most() {
        let mut rows = RowSet::default();
        assert!(rows.insert(7) && !rows.insert(7));
        rows.insert_range(5..10);
        assert_eq!((rows.count(), rows.contains(9), rows.contains(10)), (5, true, false));
        assert!(rows.bytes() < 100, "{}", rows.bytes());
        let mut all = RowSet::default();
        (0..1_000_000).for_each(|row| assert!(all.insert(row)));
        assert!((125_000..140_000).contains(&all.bytes()), "{}", all.bytes());
        // Few rows of a huge file take no bit for each of the others.
        let mut few = RowSet::default();
        (0..1_000).for_each(|row| assert!(few.insert(row * 1_000_000_000)));
        assert!(few.bytes() < 100_000, "{}", few.bytes());
    }
}
