//! The log in sled: one tree, prefixed big-endian keys.
//!
//! `i` identity · `h` hard state · `s` start of the log · `p<id>` a peer's incarnation ·
//! `e<index>` an entry. The bounds of the log are kept in memory, found once on opening, where gaps and
//! lost entries show.

use std::path::Path;

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use sled::Batch;
use stevedore_common::{Error, Result};

use super::{DurableDb, LogStart, LogStore, LogWrite, check_continuity, entry_weight, open_sled, outside};
use crate::MAX_VALUE_BYTES;
use crate::identity::Identity;

const IDENTITY: &[u8] = b"i";
const HARD_STATE: &[u8] = b"h";
const START: &[u8] = b"s";

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn peer_key(node_id: u64) -> [u8; 9] {
    let mut key = [b'p'; 9];
    key[1..].copy_from_slice(&node_id.to_be_bytes());
    key
}

/// See the module.
#[derive(Debug)]
pub struct SledLogStore {
    store: DurableDb,
    start: LogStart,
    last_index: u64,
}

impl SledLogStore {
    /// Opens or creates the store in a folder.
    ///
    /// # Errors
    /// Bad data, if the store is damaged; conflict, if another process uses it; storage otherwise.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self> {
        let store = open_sled(folder, cache_bytes)?;
        let start = match get(&store, START)? {
            Some(bytes) => decode_start(&store, &bytes)?,
            None => LogStart::default(),
        };
        let mut opened = Self { last_index: start.index, store, start };
        opened.find_end()?;
        Ok(opened)
    }

    fn find_end(&mut self) -> Result<()> {
        let mut expected = self.start.index + 1;
        for key in self.store.db.scan_prefix(b"e").keys() {
            let key = key.map_err(|e| self.store.failed("reading", &e))?;
            let index = key
                .get(1..9)
                .and_then(|b| b.try_into().ok())
                .map(u64::from_be_bytes)
                .ok_or_else(|| self.store.damaged("a log key has the wrong length"))?;
            if index != expected {
                return Err(self.store.damaged(format!("log entry {expected} is missing")));
            }
            expected += 1;
        }
        self.last_index = expected - 1;
        let commit = self.hard_state()?.commit;
        if commit > self.last_index {
            return Err(self.store.damaged(format!(
                "it had committed up to log entry {commit} and now ends at {}",
                self.last_index
            )));
        }
        Ok(())
    }

    /// Begins the log at `start`, with what else the batch writes.
    fn begin(&mut self, mut batch: Batch, start: LogStart, hard_state: &HardState) -> Result<()> {
        batch.insert(START, encode_start(start));
        batch.insert(HARD_STATE, encode(hard_state)?);
        self.apply(batch, true)?;
        self.start = start;
        self.last_index = start.index;
        Ok(())
    }

    fn apply(&self, batch: Batch, sync: bool) -> Result<()> {
        self.store.db.apply_batch(batch).map_err(|e| self.store.failed("writing", &e))?;
        if sync { self.store.sync() } else { Ok(()) }
    }

    fn entry(&self, index: u64) -> Result<Entry> {
        let bytes = get(&self.store, &entry_key(index))?
            .ok_or_else(|| self.store.damaged(format!("log entry {index} is missing")))?;
        let entry = Entry::parse_from_bytes(&bytes)
            .map_err(|e| self.store.damaged(format!("log entry {index} cannot be read: {e}")))?;
        if entry.index == index {
            Ok(entry)
        } else {
            Err(self.store.damaged(format!("in place of log entry {index} there is {}", entry.index)))
        }
    }
}

fn get(store: &DurableDb, key: &[u8]) -> Result<Option<sled::IVec>> {
    store.db.get(key).map_err(|e| store.failed("reading", &e))
}

fn encode(message: &impl protobuf::Message) -> Result<Vec<u8>> {
    message.write_to_bytes().map_err(|e| Error::internal(format!("encoding a raft record failed: {e}")))
}

fn encode_start(start: LogStart) -> Vec<u8> {
    [start.index.to_be_bytes(), start.term.to_be_bytes()].concat()
}

fn decode_start(store: &DurableDb, bytes: &[u8]) -> Result<LogStart> {
    let number = |range: std::ops::Range<usize>| {
        bytes.get(range).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
    };
    match (number(0..8), number(8..16)) {
        (Some(index), Some(term)) => Ok(LogStart { index, term }),
        _ => Err(store.damaged("the start of the log cannot be read")),
    }
}

impl LogStore for SledLogStore {
    fn identity(&self) -> Result<Option<Identity>> {
        get(&self.store, IDENTITY)?
            .map(|bytes| {
                Identity::decode(&bytes)
                    .map_err(|e| self.store.damaged(format!("the member's identity cannot be read: {e}")))
            })
            .transpose()
    }

    fn bootstrap(&mut self, identity: &Identity, start: LogStart, hard_state: &HardState) -> Result<()> {
        if self.identity()?.is_some() {
            return Err(Error::already_exists("the log store has an identity already"));
        }
        let mut batch = Batch::default();
        batch.insert(IDENTITY, identity.encode()?);
        self.begin(batch, start, hard_state)
    }

    fn hard_state(&self) -> Result<HardState> {
        match get(&self.store, HARD_STATE)? {
            Some(bytes) => HardState::parse_from_bytes(&bytes)
                .map_err(|e| self.store.damaged(format!("the hard state cannot be read: {e}"))),
            None => Ok(HardState::default()),
        }
    }

    fn start(&self) -> LogStart {
        self.start
    }

    fn last_index(&self) -> u64 {
        self.last_index
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        if low <= self.start.index || high > self.last_index + 1 || low > high {
            return Err(outside("the range before", high, self.start, self.last_index));
        }
        let mut taken = Vec::new();
        let mut bytes = 0_u64;
        for index in low..high {
            let entry = self.entry(index)?;
            bytes = bytes.saturating_add(entry_weight(&entry));
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry);
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index || index > self.last_index {
            return Err(outside("entry", index, self.start, self.last_index));
        }
        self.entry(index).map(|entry| entry.term)
    }

    fn write(&mut self, write: &LogWrite<'_>, sync: bool) -> Result<()> {
        check_continuity(write.entries, self.start, self.last_index)?;
        let mut batch = Batch::default();
        let mut last_index = self.last_index;
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            for entry in write.entries {
                let value = encode(entry)?;
                if value.len() > MAX_VALUE_BYTES {
                    return Err(Error::internal(format!(
                        "log entry {} has {} bytes, more than a store takes",
                        entry.index,
                        value.len()
                    )));
                }
                batch.insert(&entry_key(entry.index), value);
            }
            for stale in (last.index + 1).max(first.index)..=self.last_index {
                batch.remove(&entry_key(stale));
            }
            last_index = last.index;
        }
        if let Some(hard_state) = write.hard_state {
            batch.insert(HARD_STATE, encode(hard_state)?);
        }
        self.apply(batch, sync)?;
        self.last_index = last_index;
        Ok(())
    }

    fn restart_at(&mut self, start: LogStart, hard_state: &HardState) -> Result<()> {
        let mut batch = Batch::default();
        for index in self.start.index + 1..=self.last_index {
            batch.remove(&entry_key(index));
        }
        self.begin(batch, start, hard_state)
    }

    fn compact(&mut self, index: u64) -> Result<()> {
        if index <= self.start.index {
            return Ok(());
        }
        let start = LogStart { index, term: self.term(index)? };
        let mut batch = Batch::default();
        for stale in self.start.index + 1..=index {
            batch.remove(&entry_key(stale));
        }
        batch.insert(START, encode_start(start));
        // Not synced: a cut that is lost is made again, and it is atomic with the new start.
        self.apply(batch, false)?;
        self.start = start;
        Ok(())
    }

    fn peer(&self, node_id: u64) -> Result<Option<String>> {
        get(&self.store, &peer_key(node_id))?
            .map(|bytes| {
                String::from_utf8(bytes.to_vec())
                    .map_err(|_| self.store.damaged(format!("the record of peer {node_id} cannot be read")))
            })
            .transpose()
    }

    fn set_peer(&mut self, node_id: u64, incarnation: Option<&str>) -> Result<()> {
        let mut batch = Batch::default();
        match incarnation {
            Some(incarnation) => batch.insert(&peer_key(node_id), incarnation.as_bytes()),
            None => batch.remove(&peer_key(node_id)),
        }
        self.apply(batch, true)
    }
}
