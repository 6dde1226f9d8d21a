//! Cuts the bytes after the header into blocks, and puts small blocks together.

use bytes::{Bytes, BytesMut};
use stevedore_common::error::{Error, Result};

use super::header::{AvroHeader, Long, read_long};
use crate::spec::DecodeSpec;

/// Blocks are put together up to this many bytes as stored.
const GROUP_BYTES: u64 = 1 << 20;
/// Records that a block may claim: where no column is read, they are only counted, and lies cost time.
const MAX_RECORDS: u64 = 1 << 24;

/// Some blocks of a file, one piece of work.
#[derive(Debug, Clone, Default)]
pub struct BlockGroup {
    /// For each block: its number within the file, from 1, its records, its bytes as stored.
    pub(super) blocks: Vec<(u64, usize, Bytes)>,
    /// How many records they hold.
    pub rows: u64,
    /// The number of the first record within the file, from 0.
    pub first_row: u64,
    /// What they take in the file.
    pub input_bytes: u64,
}

/// Finds blocks in the bytes of a file, given in order.
#[derive(Debug)]
pub struct BlockCutter {
    sync: [u8; 16],
    group_rows: u64,
    max_block_bytes: usize,
    buffer: BytesMut,
    /// Bytes of the header that are still to come.
    skip: usize,
    /// Blocks found so far.
    blocks: u64,
    group: BlockGroup,
}

impl BlockCutter {
    /// Takes a file from its first byte on. Groups of blocks end where they fill a batch.
    pub fn new(header: &AvroHeader, spec: &DecodeSpec) -> Self {
        Self {
            sync: header.sync,
            group_rows: spec.batch_rows.max(1) as u64,
            max_block_bytes: spec.max_block_bytes,
            buffer: BytesMut::new(),
            skip: header.length,
            blocks: 0,
            group: BlockGroup::default(),
        }
    }

    /// Takes the next bytes and adds the groups that are complete. What was found before an error is
    /// added too.
    ///
    /// # Errors
    /// Bad data that names the block.
    pub fn push(&mut self, bytes: &[u8], groups: &mut Vec<BlockGroup>) -> Result<()> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
        loop {
            match self.next_block() {
                Ok(true) => {
                    if self.group.rows >= self.group_rows || self.group.input_bytes >= GROUP_BYTES {
                        self.end_group(groups);
                    }
                }
                Ok(false) => return Ok(()),
                Err(error) => {
                    self.end_group(groups);
                    return Err(error);
                }
            }
        }
    }

    /// Takes the end of the file, and adds the last group.
    ///
    /// # Errors
    /// Bad data where the file ends within a block.
    pub fn finish(&mut self, groups: &mut Vec<BlockGroup>) -> Result<()> {
        self.end_group(groups);
        if self.buffer.is_empty() && self.skip == 0 {
            return Ok(());
        }
        Err(Error::bad_data(format!("the Avro file is cut off within block {}", self.blocks + 1)))
    }

    fn end_group(&mut self, groups: &mut Vec<BlockGroup>) {
        let next = BlockGroup { first_row: self.group.first_row + self.group.rows, ..BlockGroup::default() };
        let group = std::mem::replace(&mut self.group, next);
        if group.rows > 0 {
            groups.push(group);
        }
    }

    /// Moves the next block from the buffer to the group; whether there was one.
    fn next_block(&mut self) -> Result<bool> {
        let number = self.blocks + 1;
        let damaged =
            |what: &str| Error::bad_data(format!("block {number} of the Avro file is damaged ({what})"));
        let mut start = 0;
        let mut long = |bytes: &[u8]| match read_long(&bytes[start..]) {
            Long::Value(value, length) => {
                start += length;
                usize::try_from(value).map(Some).map_err(|_| damaged("a size below 0"))
            }
            Long::More => Ok(None),
            Long::Endless => Err(damaged("a size")),
        };
        let Some(records) = long(&self.buffer)? else { return Ok(false) };
        let Some(size) = long(&self.buffer)? else { return Ok(false) };
        if records as u64 > MAX_RECORDS {
            return Err(damaged(&format!("it claims {records} records")));
        }
        if size > self.max_block_bytes {
            return Err(Error::exhausted(format!(
                "block {number} of the Avro file claims {size} bytes; at most {} are read (limit max_block_bytes)",
                self.max_block_bytes
            )));
        }
        let end = start + size;
        let Some(marker) = self.buffer.get(end..end + self.sync.len()) else { return Ok(false) };
        if marker != self.sync {
            return Err(damaged("its end is not where it should be"));
        }
        let whole = self.buffer.split_to(end + self.sync.len()).freeze();
        self.blocks = number;
        self.group.rows += records as u64;
        self.group.input_bytes += whole.len() as u64;
        if records > 0 {
            self.group.blocks.push((number, records, whole.slice(start..end)));
        }
        Ok(true)
    }
}
