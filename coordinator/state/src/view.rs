//! The seam between the pure state machine and the store that keeps it.
//!
//! `apply` reads through a [`ReadView`] and answers with a [`WriteBatch`]; whoever keeps the store
//! writes the batch and the applied index atomically. Keys are ordered byte strings; every range is
//! read in key order, so that apply is deterministic.

use std::collections::BTreeMap;

use bytes::Bytes;
use stevedore_common::Result;

/// A key-value pair.
pub type KeyValue = (Bytes, Bytes);

/// Read access to the state as of one applied index.
pub trait ReadView: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// Storage, if the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Up to `limit` pairs whose key starts with `prefix` and is greater than `after`, in key order.
    ///
    /// # Errors
    /// Storage, if the store cannot be read.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>>;
}

impl<V: ReadView + ?Sized> ReadView for std::sync::Arc<V> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        (**self).get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>> {
        (**self).scan(prefix, after, limit)
    }
}

/// Writes to apply together: the last write to a key wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// New values; `None` deletes.
    pub writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), None);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}
