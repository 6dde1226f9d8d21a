//! The durable Raft log of one member: its identity, hard state, entries, and the peers it has met.
//!
//! Owns: what must be on disk before a message may leave. In: entries and hard state, one batch at a
//! time. Out: the same, in order. Must never answer from memory what it has not made durable when
//! asked to, and never repair itself: a failed write or a damaged store is an error that ends the
//! node. Every implementation passes `conformance`.

use raft::eraftpb::{Entry, HardState};
use stevedore_common::{Error, Result};

use crate::identity::Identity;

#[cfg(test)]
mod conformance;
mod durable_sync;
mod memory;
mod sled_store;

pub(crate) use durable_sync::{DurableDb, open_sled, sync_folder};
pub use memory::MemoryLogStore;
pub use sled_store::SledLogStore;

/// The place up to which the log has been cut off: entries start after it, its term stays known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStart {
    /// Index of the last entry that is no longer kept (0: none was ever cut off).
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What one `Ready` asks to keep. Entries replace everything from the first of them on.
#[derive(Debug, Default)]
pub struct LogWrite<'a> {
    /// Consecutive entries.
    pub entries: &'a [Entry],
    /// The hard state, if it moved.
    pub hard_state: Option<&'a HardState>,
}

/// Keeps the log of one member.
pub trait LogStore: Send + 'static {
    /// Who this disk belongs to; `None` before the bootstrap.
    ///
    /// # Errors
    /// Storage, if the store cannot be read.
    fn identity(&self) -> Result<Option<Identity>>;

    /// Stamps a fresh store: identity, where the log starts, and the first hard state, durably.
    ///
    /// # Errors
    /// Already exists, if the store has an identity; storage, if it cannot be written.
    fn bootstrap(&mut self, identity: &Identity, start: LogStart, hard_state: &HardState) -> Result<()>;

    /// The hard state last written.
    ///
    /// # Errors
    /// Storage, if the store cannot be read.
    fn hard_state(&self) -> Result<HardState>;

    /// Where the log starts.
    fn start(&self) -> LogStart;

    /// The index of the last entry, or of the start if there is none.
    fn last_index(&self) -> u64;

    /// Entries in `[low, high)`, cut where their sizes add up to more than `max_bytes` (the first one
    /// is always given).
    ///
    /// # Errors
    /// Internal, if the range is not inside the log; storage, if the store cannot be read.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>>;

    /// The term of an entry between the start and the last index, both included.
    ///
    /// # Errors
    /// Internal, if the index is outside the log; storage, if the store cannot be read.
    fn term(&self, index: u64) -> Result<u64>;

    /// Writes entries and hard state atomically; durable on return if `sync`.
    ///
    /// # Errors
    /// Internal, if the entries leave a gap or reach below the start; storage, if writing fails.
    fn write(&mut self, write: &LogWrite<'_>, sync: bool) -> Result<()>;

    /// Drops the whole log and starts it after `start`, atomically and durably.
    ///
    /// # Errors
    /// Storage, if writing fails.
    fn restart_at(&mut self, start: LogStart, hard_state: &HardState) -> Result<()>;

    /// Cuts off every entry up to `index` (included). Below the start it does nothing.
    ///
    /// # Errors
    /// Internal, if the index lies behind the last entry; storage, if writing fails.
    fn compact(&mut self, index: u64) -> Result<()>;

    /// The incarnation under which a peer has been met.
    ///
    /// # Errors
    /// Storage, if the store cannot be read.
    fn peer(&self, node_id: u64) -> Result<Option<String>>;

    /// Remembers the incarnation of a peer, durably; `None` forgets it.
    ///
    /// # Errors
    /// Storage, if writing fails.
    fn set_peer(&mut self, node_id: u64, incarnation: Option<&str>) -> Result<()>;
}

/// Checks that entries continue or overwrite the log without a gap.
fn check_continuity(entries: &[Entry], start: LogStart, last_index: u64) -> Result<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    if first.index <= start.index {
        return Err(Error::internal(format!(
            "log entry {} lies below the start of the log at {}",
            first.index, start.index
        )));
    }
    if first.index > last_index + 1 {
        return Err(Error::internal(format!(
            "log entry {} would leave a gap after {last_index}",
            first.index
        )));
    }
    for pair in entries.windows(2) {
        if pair[1].index != pair[0].index + 1 {
            return Err(Error::internal(format!(
                "log entries {} and {} are not consecutive",
                pair[0].index, pair[1].index
            )));
        }
    }
    Ok(())
}

fn outside(what: &str, index: u64, start: LogStart, last_index: u64) -> Error {
    Error::internal(format!(
        "{what} {index} is outside the log, which runs from {} to {last_index}",
        start.index + 1
    ))
}

/// How much an entry counts against a size limit.
fn entry_weight(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}
