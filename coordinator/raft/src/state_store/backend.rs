//! Ordered bytes below the state store: sled on disk, a map in memory.
//!
//! Point reads and batches are atomic, ranges are not: whoever needs one version of several keys goes
//! through a view.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use stevedore_common::{Error, Result};

use crate::log_store::{DurableDb, open_sled};

/// Keys to set or delete, together.
pub(crate) type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

pub(crate) trait KeyValue: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Up to `limit` pairs from `low` to `high` (excluded), in order; each is some committed version.
    fn range(&self, low: Bound<&[u8]>, high: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>>;
    /// Atomic; durable after the next `sync`.
    fn apply(&self, writes: Writes) -> Result<()>;
    fn sync(&self) -> Result<()>;
    /// An error about content that makes no sense.
    fn damaged(&self, what: String) -> Error;
}

pub(crate) struct SledKeyValue {
    store: DurableDb,
}

impl SledKeyValue {
    pub(crate) fn open(folder: &Path, cache_bytes: u64) -> Result<Self> {
        Ok(Self { store: open_sled(folder, cache_bytes)? })
    }
}

impl KeyValue for SledKeyValue {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.store.db.get(key).map_err(|e| self.store.failed("reading", &e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, low: Bound<&[u8]>, high: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.store
            .db
            .range::<&[u8], _>((low, Bound::Excluded(high)))
            .take(limit)
            .map(|pair| {
                let (key, value) = pair.map_err(|e| self.store.failed("reading", &e))?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            })
            .collect()
    }

    fn apply(&self, writes: Writes) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.store.db.apply_batch(batch).map_err(|e| self.store.failed("writing", &e))
    }

    fn sync(&self) -> Result<()> {
        self.store.sync()
    }

    fn damaged(&self, what: String) -> Error {
        self.store.damaged(what)
    }
}

type Map = BTreeMap<Vec<u8>, Bytes>;

/// A map in memory. A clone shares it, like a second look at the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryKeyValue {
    map: Arc<RwLock<Map>>,
    synced: Arc<Mutex<Option<Map>>>,
}

impl MemoryKeyValue {
    /// From now on remembers what was synced, so that a crash can be simulated.
    pub(crate) fn track_syncs(&self) {
        *self.synced.lock() = Some(self.map.read().clone());
    }

    /// Forgets what was not synced.
    pub(crate) fn crash(&self) {
        if let Some(synced) = &*self.synced.lock() {
            *self.map.write() = synced.clone();
        }
    }
}

impl KeyValue for MemoryKeyValue {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.map.read().get(key).cloned())
    }

    fn range(&self, low: Bound<&[u8]>, high: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let map = self.map.read();
        let range = map.range::<[u8], _>((low, Bound::Excluded(high)));
        Ok(range.take(limit).map(|(k, v)| (Bytes::copy_from_slice(k), v.clone())).collect())
    }

    fn apply(&self, writes: Writes) -> Result<()> {
        let mut map = self.map.write();
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value.into()),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut synced = self.synced.lock();
        if synced.is_some() {
            *synced = Some(self.map.read().clone());
        }
        Ok(())
    }

    fn damaged(&self, what: String) -> Error {
        Error::bad_data(format!("the state in memory is damaged: {what}"))
    }
}
