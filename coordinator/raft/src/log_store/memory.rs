//! A log in memory: for tests, simulations, and nodes that keep nothing.
//!
//! A clone shares its content, so that a simulated crash can drop the node and reopen «the disk».

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};
use stevedore_common::{Error, Result};

use super::{LogStart, LogStore, LogWrite, check_continuity, entry_weight, outside};
use crate::identity::Identity;

#[derive(Debug, Default)]
struct Content {
    identity: Option<Identity>,
    hard_state: HardState,
    start: LogStart,
    entries: Vec<Entry>,
    peers: BTreeMap<u64, String>,
    failing: Option<String>,
}

impl Content {
    fn last_index(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    fn check_disk(&self) -> Result<()> {
        match &self.failing {
            Some(reason) => Err(Error::storage(format!("the log store failed: {reason}"))),
            None => Ok(()),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemoryLogStore {
    content: Arc<Mutex<Content>>,
}

impl MemoryLogStore {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every later write fail (or work again), as a broken disk would.
    pub fn fail_writes(&self, reason: Option<&str>) {
        self.content.lock().failing = reason.map(str::to_owned);
    }
}

impl LogStore for MemoryLogStore {
    fn identity(&self) -> Result<Option<Identity>> {
        Ok(self.content.lock().identity.clone())
    }

    fn bootstrap(&mut self, identity: &Identity, start: LogStart, hard_state: &HardState) -> Result<()> {
        let mut content = self.content.lock();
        content.check_disk()?;
        if content.identity.is_some() {
            return Err(Error::already_exists("the log store has an identity already"));
        }
        content.identity = Some(identity.clone());
        content.start = start;
        content.hard_state = hard_state.clone();
        content.entries.clear();
        Ok(())
    }

    fn hard_state(&self) -> Result<HardState> {
        Ok(self.content.lock().hard_state.clone())
    }

    fn start(&self) -> LogStart {
        self.content.lock().start
    }

    fn last_index(&self) -> u64 {
        self.content.lock().last_index()
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        let content = self.content.lock();
        let last = content.last_index();
        if low <= content.start.index || high > last + 1 || low > high {
            return Err(outside("the range before", high, content.start, last));
        }
        let first = content.start.index + 1;
        let mut taken = Vec::new();
        let mut bytes = 0_u64;
        for entry in &content.entries[(low - first) as usize..(high - first) as usize] {
            bytes = bytes.saturating_add(entry_weight(entry));
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> Result<u64> {
        let content = self.content.lock();
        if index == content.start.index {
            return Ok(content.start.term);
        }
        let last = content.last_index();
        if index < content.start.index || index > last {
            return Err(outside("entry", index, content.start, last));
        }
        Ok(content.entries[(index - content.start.index - 1) as usize].term)
    }

    fn write(&mut self, write: &LogWrite<'_>, _sync: bool) -> Result<()> {
        let mut content = self.content.lock();
        content.check_disk()?;
        check_continuity(write.entries, content.start, content.last_index())?;
        if let Some(first) = write.entries.first() {
            let keep = (first.index - content.start.index - 1) as usize;
            content.entries.truncate(keep);
            content.entries.extend_from_slice(write.entries);
        }
        if let Some(hard_state) = write.hard_state {
            content.hard_state = hard_state.clone();
        }
        Ok(())
    }

    fn restart_at(&mut self, start: LogStart, hard_state: &HardState) -> Result<()> {
        let mut content = self.content.lock();
        content.check_disk()?;
        content.start = start;
        content.entries.clear();
        content.hard_state = hard_state.clone();
        Ok(())
    }

    fn compact(&mut self, index: u64) -> Result<()> {
        let term = {
            let content = self.content.lock();
            content.check_disk()?;
            if index <= content.start.index {
                return Ok(());
            }
            drop(content);
            self.term(index)?
        };
        let mut content = self.content.lock();
        let cut = (index - content.start.index) as usize;
        content.entries.drain(..cut);
        content.start = LogStart { index, term };
        Ok(())
    }

    fn peer(&self, node_id: u64) -> Result<Option<String>> {
        Ok(self.content.lock().peers.get(&node_id).cloned())
    }

    fn set_peer(&mut self, node_id: u64, incarnation: Option<&str>) -> Result<()> {
        let mut content = self.content.lock();
        content.check_disk()?;
        match incarnation {
            Some(incarnation) => content.peers.insert(node_id, incarnation.to_owned()),
            None => content.peers.remove(&node_id),
        };
        Ok(())
    }
}
