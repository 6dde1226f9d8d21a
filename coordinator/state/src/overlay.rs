//! A view with writes on top that are not in the store yet, so that the steps of one command see
//! each other, and so that several commands can be applied before their batch is written.

use bytes::Bytes;
use stevedore_common::Result;

use crate::view::{KeyValue, ReadView, WriteBatch};

/// A batch over a view.
pub struct Overlay<'a> {
    view: &'a dyn ReadView,
    batch: WriteBatch,
}

impl std::fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("writes", &self.batch.writes.len()).finish_non_exhaustive()
    }
}

impl<'a> Overlay<'a> {
    /// Nothing over `view`.
    pub fn new(view: &'a dyn ReadView) -> Self {
        Self { view, batch: WriteBatch::default() }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.batch.put(key, value);
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.batch.delete(key);
    }

    /// Adds the writes of a batch.
    pub fn extend(&mut self, batch: WriteBatch) {
        self.batch.writes.extend(batch.writes);
    }

    /// The writes.
    pub fn into_batch(self) -> WriteBatch {
        self.batch
    }
}

impl ReadView for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.batch.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut written = self
            .batch
            .writes
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        if written.peek().is_none() {
            return self.view.scan(prefix, after, limit);
        }
        // Merge the two ordered ranges; where both have a key, the written one counts.
        // A short range may have many deleted keys before it: they are passed in larger pages.
        let page_size = limit.max(64);
        let mut merged = Vec::new();
        let mut page: std::collections::VecDeque<KeyValue> = self.view.scan(prefix, after, page_size)?.into();
        let mut more = page.len() == page_size;
        let mut last = page.back().map(|(key, _)| key.clone());
        while merged.len() < limit {
            if page.is_empty() && more {
                page = self.view.scan(prefix, last.as_deref(), page_size)?.into();
                more = page.len() == page_size;
                last = page.back().map(|(key, _)| key.clone()).or(last);
            }
            let stored_first = match (page.front(), written.peek()) {
                (None, None) => break,
                (Some((stored, _)), Some((key, _))) => {
                    if stored == *key {
                        page.pop_front();
                        continue;
                    }
                    stored < *key
                }
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            if stored_first {
                merged.extend(page.pop_front());
            } else if let Some((key, Some(value))) = written.next() {
                merged.push((key.clone(), value.clone()));
            }
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryState;

    proptest! {
        #[test]
        fn a_scan_shows_what_the_store_would_show_after_the_writes(
            stored in prop::collection::btree_map(0u8..40, any::<u8>(), 0..30),
            written in prop::collection::btree_map(0u8..40, any::<Option<u8>>(), 0..30),
            after in prop::option::of(0u8..40),
            limit in 1usize..12,
        ) {
            let key = |k: u8| vec![b'p', k];
            let mut state = MemoryState::default();
            let mut batch = WriteBatch::default();
            for (k, v) in &stored {
                batch.put(key(*k), vec![*v]);
            }
            batch.put(vec![b'q'], vec![1]);
            state.write(&batch);
            let mut overlay = Overlay::new(&state);
            let mut batch = WriteBatch::default();
            for (k, v) in &written {
                match v {
                    Some(v) => { overlay.put(key(*k), vec![*v]); batch.put(key(*k), vec![*v]); }
                    None => { overlay.delete(key(*k)); batch.delete(key(*k)); }
                }
            }
            let after = after.map(key);
            let shown = overlay.scan(b"p", after.as_deref(), limit).unwrap();
            let mut expected = state.clone();
            expected.write(&batch);
            prop_assert_eq!(shown, expected.scan(b"p", after.as_deref(), limit).unwrap());
        }
    }
}
