//! One generation of the state, and the views that look at it.
//!
//! The store holds the newest version of every key. While it is overwritten, the values from before are
//! kept here for as long as a view needs them: a reader reads the store first and then asks for an
//! earlier value; the writer leaves the earlier value here before it touches the store. So a view
//! always shows exactly one applied index, while nobody waits for anybody.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use stevedore_common::{Error, Result};
use stevedore_state::view::{KeyValue as Pair, ReadView, WriteBatch};

use super::StateMeta;
use super::backend::KeyValue;
use super::values;

#[derive(Debug)]
struct Versions {
    /// What the newest complete write left; new views show this.
    published: Arc<StateMeta>,
    /// Open views by the index they show.
    open: BTreeMap<u64, usize>,
    /// Per key, ascending: the index of the write, and the value before it.
    before: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// The same by write, oldest first.
    order: VecDeque<(u64, Vec<Bytes>)>,
}

impl Versions {
    fn value_at(&self, key: &[u8], version: u64) -> Option<&Option<Bytes>> {
        self.before.get(key)?.iter().find(|(write, _)| *write > version).map(|(_, value)| value)
    }

    /// Drops the earlier values that no view can ask for any more.
    fn prune(&mut self) {
        let oldest = self.open.keys().next().copied().unwrap_or(self.published.applied);
        while self.order.front().is_some_and(|(write, _)| *write <= oldest) {
            let Some((write, keys)) = self.order.pop_front() else { break };
            for key in keys {
                if let Some(values) = self.before.get_mut(&key) {
                    values.retain(|(w, _)| *w != write);
                    if values.is_empty() {
                        self.before.remove(&key);
                    }
                }
            }
        }
    }
}

/// The state under one prefix. Dropped with its last view, it hands its number over to be swept.
pub(super) struct Generation {
    pub(super) number: u64,
    kv: Arc<dyn KeyValue>,
    versions: Mutex<Versions>,
    /// The newest write that has begun: views at or after it need no earlier values.
    begun: AtomicU64,
    retired: Arc<Mutex<Vec<u64>>>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.retired.lock().push(self.number);
    }
}

impl Generation {
    pub(super) fn new(kv: Arc<dyn KeyValue>, meta: StateMeta, retired: Arc<Mutex<Vec<u64>>>) -> Arc<Self> {
        Arc::new(Self {
            number: meta.generation,
            kv,
            begun: AtomicU64::new(meta.applied),
            versions: Mutex::new(Versions {
                published: Arc::new(meta),
                open: BTreeMap::new(),
                before: BTreeMap::new(),
                order: VecDeque::new(),
            }),
            retired,
        })
    }

    pub(super) fn published(&self) -> Arc<StateMeta> {
        Arc::clone(&self.versions.lock().published)
    }

    pub(super) fn view(self: &Arc<Self>) -> StateView {
        let mut versions = self.versions.lock();
        let meta = Arc::clone(&versions.published);
        *versions.open.entry(meta.applied).or_default() += 1;
        drop(versions);
        StateView { generation: Arc::clone(self), meta }
    }

    fn close(&self, version: u64) {
        let mut versions = self.versions.lock();
        if let Some(count) = versions.open.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                versions.open.remove(&version);
                versions.prune();
            }
        }
    }

    /// Writes a batch and the meta record atomically. One writer at a time.
    pub(super) fn write(&self, batch: &WriteBatch, meta: StateMeta) -> Result<()> {
        let published = self.published();
        if meta.applied <= published.applied {
            return Err(Error::internal(format!(
                "log entry {} was applied again; the state is at {} already",
                meta.applied, published.applied
            )));
        }
        let mut writes = Vec::with_capacity(batch.writes.len() + 1);
        let mut before = Vec::with_capacity(batch.writes.len());
        for (key, value) in &batch.writes {
            let value_before = values::put(&*self.kv, self.number, key, value.as_ref(), &mut writes)?;
            before.push((key.clone(), value_before));
        }
        writes.push((values::META.to_vec(), Some(meta.encode()?)));

        let write = meta.applied;
        {
            let mut versions = self.versions.lock();
            let mut keys = Vec::with_capacity(before.len());
            for (key, value) in before {
                versions.before.entry(key.clone()).or_default().push((write, value));
                keys.push(key);
            }
            versions.order.push_back((write, keys));
        }
        self.begun.store(write, Ordering::SeqCst);
        self.kv.apply(writes)?;
        let mut versions = self.versions.lock();
        versions.published = Arc::new(meta);
        versions.prune();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn earlier_values(&self) -> usize {
        self.versions.lock().before.len()
    }

    /// The newest value, for the writer itself.
    pub(super) fn newest(&self, key: &[u8]) -> Result<Option<Bytes>> {
        values::get(&*self.kv, self.number, key)
    }

    /// The newest pairs, for the writer itself.
    pub(super) fn scan_newest(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>> {
        values::scan(&*self.kv, self.number, prefix, after, limit)?
            .into_iter()
            .map(|(key, value)| value.map(|value| (key, value)))
            .collect()
    }

    fn get_at(&self, key: &[u8], version: u64) -> Result<Option<Bytes>> {
        let newest = values::get(&*self.kv, self.number, key);
        if self.begun.load(Ordering::SeqCst) > version
            && let Some(value) = self.versions.lock().value_at(key, version)
        {
            return Ok(value.clone());
        }
        newest
    }

    fn scan_at(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize, version: u64) -> Result<Vec<Pair>> {
        let mut found: Vec<Pair> = Vec::new();
        let mut cursor: Option<Bytes> = after.map(Bytes::copy_from_slice);
        while found.len() < limit {
            let wanted = limit - found.len();
            let newest = values::scan(&*self.kv, self.number, prefix, cursor.as_deref(), wanted)?;
            let end = (newest.len() == wanted).then(|| newest.last().map(|(key, _)| key.clone())).flatten();
            let mut pairs: BTreeMap<Bytes, Result<Bytes>> = newest.into_iter().collect();
            if self.begun.load(Ordering::SeqCst) > version {
                let versions = self.versions.lock();
                let low = match cursor.as_deref() {
                    Some(cursor) if cursor >= prefix => Bound::Excluded(cursor),
                    _ => Bound::Included(prefix),
                };
                for (key, _) in versions.before.range::<[u8], _>((low, Bound::Unbounded)) {
                    if !key.starts_with(prefix) || end.as_ref().is_some_and(|end| key > end) {
                        break;
                    }
                    match versions.value_at(key, version) {
                        Some(Some(value)) => drop(pairs.insert(key.clone(), Ok(value.clone()))),
                        Some(None) => drop(pairs.remove(key)),
                        None => {}
                    }
                }
            }
            for (key, value) in pairs {
                found.push((key, value?));
            }
            match end {
                Some(end) => cursor = Some(end),
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// The state as of one applied index, whatever is applied meanwhile. Cheap to make; hold it briefly,
/// since values that are overwritten meanwhile stay in memory for it.
pub struct StateView {
    generation: Arc<Generation>,
    meta: Arc<StateMeta>,
}

impl StateView {
    /// The applied index that it shows.
    pub fn applied(&self) -> u64 {
        self.meta.applied
    }

    /// The meta record at that index.
    pub fn meta(&self) -> &StateMeta {
        &self.meta
    }
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView").field("applied", &self.meta.applied).finish_non_exhaustive()
    }
}

impl Drop for StateView {
    fn drop(&mut self) {
        self.generation.close(self.meta.applied);
    }
}

impl ReadView for StateView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.generation.get_at(key, self.meta.applied)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>> {
        self.generation.scan_at(prefix, after, limit, self.meta.applied)
    }
}
