//! What raft-rs reads: the log through a cache of its newest entries, and the newest snapshot.
//!
//! raft-rs treats most errors from here as fatal and panics; the driver catches that and ends the node.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use stevedore_common::{Error, Result};

use crate::log_store::{LogStart, LogStore, LogWrite};
use crate::snapshot_files::SnapshotManifest;
use crate::state_store::Membership;

const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// A snapshot that followers can be sent.
#[derive(Debug, Clone)]
pub(crate) struct AvailableSnapshot {
    pub(crate) manifest: SnapshotManifest,
    pub(crate) membership: Membership,
}

pub(crate) struct RaftStorage {
    log: Box<dyn LogStore>,
    first_conf_state: ConfState,
    /// The newest entries without a gap, ending at the last index.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    pub(crate) bytes_since_compaction: u64,
    pub(crate) available: RefCell<Option<AvailableSnapshot>>,
    wanted: Cell<bool>,
}

impl RaftStorage {
    pub(crate) fn new(log: Box<dyn LogStore>, first_conf_state: ConfState) -> Self {
        Self {
            log,
            first_conf_state,
            recent: VecDeque::new(),
            recent_bytes: 0,
            bytes_since_compaction: 0,
            available: RefCell::new(None),
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn log(&self) -> &dyn LogStore {
        &*self.log
    }

    pub(crate) fn log_mut(&mut self) -> &mut dyn LogStore {
        &mut *self.log
    }

    /// Whether a follower asked for a snapshot that was not there, since the last call.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(crate) fn write(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
        sync: bool,
    ) -> Result<()> {
        self.log.write(&LogWrite { entries, hard_state }, sync)?;
        let Some(first) = entries.first() else { return Ok(()) };
        while self.recent.back().is_some_and(|last| last.index >= first.index) {
            if let Some(replaced) = self.recent.pop_back() {
                self.recent_bytes -= replaced.data.len();
            }
        }
        for entry in entries {
            self.recent_bytes += entry.data.len();
            self.bytes_since_compaction += entry.data.len() as u64;
            self.recent.push_back(entry.clone());
        }
        while self.recent_bytes > CACHE_BYTES
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.data.len();
        }
        Ok(())
    }

    pub(crate) fn restart_at(&mut self, start: LogStart, hard_state: &HardState) -> Result<()> {
        self.log.restart_at(start, hard_state)?;
        self.recent.clear();
        self.recent_bytes = 0;
        self.bytes_since_compaction = 0;
        Ok(())
    }

    pub(crate) fn compact(&mut self, index: u64) -> Result<()> {
        self.log.compact(index)?;
        self.bytes_since_compaction = 0;
        while self.recent.front().is_some_and(|entry| entry.index <= index) {
            if let Some(oldest) = self.recent.pop_front() {
                self.recent_bytes -= oldest.data.len();
            }
        }
        Ok(())
    }
}

fn failed(error: Error) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard_state = self.log.hard_state().map_err(failed)?;
        Ok(RaftState { hard_state, conf_state: self.first_conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low <= self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.log.last_index() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let Some(cached_from) = self.recent.front().map(|entry| entry.index).filter(|first| *first <= low)
        else {
            return self.log.entries(low, high, max_bytes).map_err(failed);
        };
        let mut taken = Vec::new();
        let mut bytes = 0_u64;
        for entry in self.recent.range((low - cached_from) as usize..(high - cached_from) as usize) {
            bytes += (entry.data.len() + entry.context.len() + 32) as u64;
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.log.last_index() {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        match self.recent.front().map(|entry| entry.index) {
            Some(first) if first <= index => Ok(self.recent[(index - first) as usize].term),
            _ => self.log.term(index).map_err(failed),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.start().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // A follower can go on from a snapshot only if the log still has what comes after it.
        let needed = request_index.max(self.log.start().index);
        let available = self.available.borrow();
        match &*available {
            Some(found) if found.manifest.index >= needed => found.to_raft().map_err(failed),
            _ => {
                self.wanted.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

impl AvailableSnapshot {
    fn to_raft(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot { data: self.manifest.encode()?.into(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.manifest.index;
        metadata.term = self.manifest.term;
        metadata.set_conf_state(self.membership.conf_state());
        Ok(snapshot)
    }
}
