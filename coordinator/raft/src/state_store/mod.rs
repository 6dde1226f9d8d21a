//! The applied state of one member: a sled database (or a map in memory) that holds the effects of
//! committed entries together with the index up to which they were applied.
//!
//! Owns: the keys and values of the state machine, the applied index and term, the membership as of
//! that index, the generations that snapshots are installed into. In: write batches in log order, and
//! snapshots. Out: views of exactly one applied index. Need not be durable at once, since the log is:
//! `sync` before the log is cut off. Must never show half a batch, and never repair itself: a failure
//! is an error that ends the node.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};
use stevedore_common::{Error, Result};
use stevedore_state::view::{KeyValue as Pair, ReadView, WriteBatch};

mod backend;
mod generation;
#[cfg(test)]
mod tests;
mod values;

use backend::{KeyValue, MemoryKeyValue, SledKeyValue, Writes};
use generation::Generation;
pub use generation::StateView;

/// How much of a snapshot is written in one batch.
const INSTALL_BATCH_BYTES: usize = 1024 * 1024;

/// Who takes part, as of an applied index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only receive.
    pub learners: Vec<u64>,
    /// What was said about a member when it was added (its address, its incarnation): opaque here.
    #[serde(default)]
    pub notes: BTreeMap<u64, String>,
}

impl Membership {
    pub(crate) fn conf_state(&self) -> ConfState {
        ConfState::from((self.voters.clone(), self.learners.clone()))
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: &ConfState) {
        self.voters = conf_state.voters.clone();
        self.learners = conf_state.learners.clone();
        self.voters.sort_unstable();
        self.learners.sort_unstable();
        let known = |id: &u64| self.voters.contains(id) || self.learners.contains(id);
        self.notes.retain(|id, _| known(id));
    }
}

/// What is written with every batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMeta {
    /// The prefix that the state lies under.
    pub generation: u64,
    /// The incarnation of the member that this store belongs to.
    pub incarnation: String,
    /// The last applied log index.
    pub applied: u64,
    /// Its term.
    pub applied_term: u64,
    /// The index of the snapshot that was installed last (0: none).
    pub installed: u64,
    /// Who takes part.
    pub membership: Membership,
}

impl StateMeta {
    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::internal(format!("encoding the state's meta record failed: {e}")))
    }
}

struct Inner {
    kv: Arc<dyn KeyValue>,
    memory: Option<MemoryKeyValue>,
    current: RwLock<Arc<Generation>>,
    next_generation: Mutex<u64>,
    retired: Arc<Mutex<Vec<u64>>>,
}

/// See the module. A clone is another handle to the same store.
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for StateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateStore").field("meta", &self.meta()).finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens or creates the store in a folder.
    ///
    /// # Errors
    /// Bad data, if the store is damaged; conflict, if another process uses it; storage otherwise.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self> {
        Self::over(Arc::new(SledKeyValue::open(folder, cache_bytes)?), None)
    }

    /// A store that keeps nothing beyond this process.
    pub fn memory() -> Self {
        let memory = MemoryKeyValue::default();
        let kv = Arc::new(memory.clone());
        let retired = Arc::new(Mutex::new(Vec::new()));
        let first = Generation::new(
            Arc::clone(&kv) as Arc<dyn KeyValue>,
            StateMeta { generation: 1, ..StateMeta::default() },
            Arc::clone(&retired),
        );
        Self {
            inner: Arc::new(Inner {
                kv,
                memory: Some(memory),
                current: RwLock::new(first),
                next_generation: Mutex::new(2),
                retired,
            }),
        }
    }

    /// Opens what a store in memory holds, as a restarted process would. With `lose_unsynced`, what
    /// was written since the last sync is gone, as after the death of the machine.
    ///
    /// # Errors
    /// Unsupported, if the store is not in memory; bad data, if its content makes no sense.
    pub fn reopen_memory(&self, lose_unsynced: bool) -> Result<Self> {
        let Some(memory) = &self.inner.memory else {
            return Err(Error::not_supported("reopening a store on disk that is still open"));
        };
        if lose_unsynced {
            memory.crash();
        }
        Self::over(Arc::new(memory.clone()), Some(memory.clone()))
    }

    /// From now on a store in memory knows what was synced. Costs a copy of the state at every sync.
    pub fn track_syncs(&self) {
        if let Some(memory) = &self.inner.memory {
            memory.track_syncs();
        }
    }

    fn over(kv: Arc<dyn KeyValue>, memory: Option<MemoryKeyValue>) -> Result<Self> {
        let meta = match kv.get(values::META)? {
            Some(bytes) => serde_json::from_slice::<StateMeta>(&bytes)
                .map_err(|e| kv.damaged(format!("its meta record cannot be read: {e}")))?,
            None => StateMeta { generation: 1, ..StateMeta::default() },
        };
        let mut leftovers = Vec::new();
        let mut newest = meta.generation;
        let mut from = b"g".to_vec();
        while let Some((key, _)) = kv.range(Bound::Included(&from), b"h", 1)?.pop() {
            let number = values::generation_of(&key)
                .ok_or_else(|| kv.damaged("a key of the state has the wrong length".to_owned()))?;
            if number != meta.generation {
                leftovers.push(number);
            }
            newest = newest.max(number);
            from = values::generation_bounds(number).1;
        }
        let retired = Arc::new(Mutex::new(leftovers));
        let current = Generation::new(Arc::clone(&kv), meta, Arc::clone(&retired));
        Ok(Self {
            inner: Arc::new(Inner {
                kv,
                memory,
                current: RwLock::new(current),
                next_generation: Mutex::new(newest + 1),
                retired,
            }),
        })
    }

    fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.inner.current.read())
    }

    /// The meta record of the newest applied index.
    pub fn meta(&self) -> Arc<StateMeta> {
        self.current().published()
    }

    /// The state as of the newest applied index.
    pub fn view(&self) -> StateView {
        self.current().view()
    }

    /// Writes the effects of applied entries together with the meta record. Visible on return, durable
    /// after the next `sync`. The generation in `meta` is set here.
    ///
    /// # Errors
    /// Internal, if the applied index does not move forward; storage, if writing fails.
    pub fn write(&self, batch: &WriteBatch, mut meta: StateMeta) -> Result<()> {
        let current = self.current();
        meta.generation = current.number;
        current.write(batch, meta)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Storage, if that fails.
    pub fn sync(&self) -> Result<()> {
        self.inner.kv.sync()
    }

    /// Begins to install a snapshot beside the current state.
    pub fn begin_install(&self) -> Installation {
        let mut next = self.inner.next_generation.lock();
        let generation = *next;
        *next += 1;
        Installation { store: self.clone(), generation, writes: Vec::new(), bytes: 0, finished: false }
    }

    /// Removes up to `limit` keys of generations that nobody looks at any more; true if some are left.
    ///
    /// # Errors
    /// Storage, if writing fails.
    pub fn sweep(&self, limit: usize) -> Result<bool> {
        let Some(number) = self.inner.retired.lock().last().copied() else { return Ok(false) };
        let (low, high) = values::generation_bounds(number);
        let found = self.inner.kv.range(Bound::Included(&low), &high, limit)?;
        if found.len() < limit {
            self.inner.retired.lock().retain(|n| *n != number);
        }
        self.inner.kv.apply(found.into_iter().map(|(key, _)| (key.to_vec(), None)).collect())?;
        Ok(!self.inner.retired.lock().is_empty())
    }

    /// What entries that are about to be applied read: the newest state below the effects of the
    /// entries before them.
    pub(crate) fn overlaid<'a>(&self, effects: &'a WriteBatch) -> OverlaidView<'a> {
        OverlaidView { generation: self.current(), effects }
    }
}

/// A snapshot on its way into the store. Dropped unfinished, it leaves the current state as it is.
pub struct Installation {
    store: StateStore,
    generation: u64,
    writes: Writes,
    bytes: usize,
    finished: bool,
}

impl Installation {
    /// Adds a pair; every key once.
    ///
    /// # Errors
    /// Storage, if writing fails.
    pub fn put(&mut self, key: &Bytes, value: &Bytes) -> Result<()> {
        values::put(&*self.store.inner.kv, self.generation, key, Some(value), &mut self.writes)?;
        self.bytes += key.len() + value.len();
        if self.bytes >= INSTALL_BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        self.store.inner.kv.apply(std::mem::take(&mut self.writes))
    }

    /// Makes the installed state durable and then the current one. Views of the old one stay good.
    ///
    /// # Errors
    /// Storage, if writing fails.
    pub fn finish(mut self, mut meta: StateMeta) -> Result<()> {
        self.flush()?;
        meta.generation = self.generation;
        let inner = Arc::clone(&self.store.inner);
        inner.kv.sync()?;
        inner.kv.apply(vec![(values::META.to_vec(), Some(meta.encode()?))])?;
        inner.kv.sync()?;
        let installed = Generation::new(Arc::clone(&inner.kv), meta, Arc::clone(&inner.retired));
        let replaced = std::mem::replace(&mut *inner.current.write(), installed);
        drop(replaced);
        self.finished = true;
        Ok(())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if !self.finished {
            self.store.inner.retired.lock().push(self.generation);
        }
    }
}

/// See [`StateStore::overlaid`].
pub(crate) struct OverlaidView<'a> {
    generation: Arc<Generation>,
    effects: &'a WriteBatch,
}

impl ReadView for OverlaidView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.effects.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.generation.newest(key),
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>> {
        let low = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut effects = self
            .effects
            .writes
            .range::<[u8], _>((low, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut found = Vec::new();
        let mut cursor: Option<Bytes> = after.map(Bytes::copy_from_slice);
        loop {
            let wanted = limit - found.len();
            let stored = self.generation.scan_newest(prefix, cursor.as_deref(), wanted)?;
            let exhausted = stored.len() < wanted;
            cursor = stored.last().map(|(key, _)| key.clone()).or(cursor);
            for (key, value) in stored {
                while let Some((changed, new)) = effects.next_if(|(changed, _)| **changed < key) {
                    found.extend(new.clone().map(|new| (changed.clone(), new)));
                }
                match effects.next_if(|(changed, _)| **changed == key) {
                    Some((_, new)) => found.extend(new.clone().map(|new| (key, new))),
                    None => found.push((key, value)),
                }
            }
            if exhausted {
                found.extend(effects.by_ref().filter_map(|(k, v)| v.clone().map(|v| (k.clone(), v))));
            }
            if exhausted || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }
}
