//! The memory of files that are being written, of all writers of the process together.
//!
//! Comes in: what each file holds (rows on their way to the encoders, the row group under way, the parts of its
//! upload). Goes out: whether that is more than the share of the budget that writing has. Nobody waits for
//! memory here: a writer that waited would hold what it is to free, and what readers wait for. Instead row groups
//! end sooner, and files of partitions, which frees most of what is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The share of writing. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(super) struct WriteMemory(Arc<Share>);

#[derive(Debug)]
struct Share {
    bytes: u64,
    held: AtomicU64,
}

impl WriteMemory {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Arc::new(Share { bytes, held: AtomicU64::new(0) }))
    }

    /// The bytes of the whole share.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// What all files hold.
    pub(super) fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Whether that is more than there is.
    pub(super) fn is_exceeded(&self) -> bool {
        self.held() > self.0.bytes
    }

    /// An account for a file, which holds nothing yet.
    pub(super) fn account(&self) -> Account {
        Account { memory: self.clone(), held: 0 }
    }
}

/// What one file holds; nothing any more once it is dropped.
#[derive(Debug)]
pub(super) struct Account {
    memory: WriteMemory,
    held: u64,
}

impl Account {
    /// What the file holds.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The file holds so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        let all = &self.memory.0.held;
        match bytes.checked_sub(self.held) {
            Some(more) => all.fetch_add(more, Ordering::Relaxed),
            None => all.fetch_sub(self.held - bytes, Ordering::Relaxed),
        };
        self.held = bytes;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_hold_adds_up_and_is_given_back_with_them() {
        let memory = WriteMemory::new(100);
        let (mut one, mut other) = (memory.account(), memory.account());
        one.set(60);
        other.set(40);
        assert_eq!((memory.held(), memory.is_exceeded()), (100, false));
        one.set(61);
        assert!(memory.is_exceeded());
        one.set(10);
        assert_eq!(memory.held(), 50);
        drop(other);
        assert_eq!(memory.held(), 10);
        drop(one);
        assert_eq!(memory.held(), 0);
    }
}
