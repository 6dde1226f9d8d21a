//! The state in memory: for tests and for the simulation.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use stevedore_common::Result;

use crate::apply::apply;
use crate::command::Envelope;
use crate::event::Event;
use crate::result::CommandResult;
use crate::view::{KeyValue, ReadView, WriteBatch};

/// A state in a map. A clone is a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryState {
    pairs: BTreeMap<Bytes, Bytes>,
    applied: u64,
}

impl MemoryState {
    /// The index of the last command applied by [`MemoryState::apply`].
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The state of a snapshot: the index it was taken at, and its pairs.
    pub fn restore(applied: u64, pairs: impl IntoIterator<Item = KeyValue>) -> Self {
        Self { pairs: pairs.into_iter().collect(), applied }
    }

    /// Writes a batch.
    pub fn write(&mut self, batch: &WriteBatch) {
        for (key, value) in &batch.writes {
            match value {
                Some(value) => {
                    self.pairs.insert(key.clone(), value.clone());
                }
                None => {
                    self.pairs.remove(key);
                }
            }
        }
    }

    /// Applies a command at the next index and writes its batch.
    ///
    /// # Errors
    /// Internal, if the state is damaged.
    pub fn apply(&mut self, envelope: &Envelope) -> Result<(CommandResult, Vec<Event>)> {
        let applied = apply(self, self.applied + 1, envelope)?;
        self.write(&applied.batch);
        self.applied += 1;
        Ok((applied.result, applied.events))
    }

    /// All pairs in key order.
    pub fn pairs(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.pairs.iter()
    }
}

impl ReadView for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        Ok(self
            .pairs
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}
