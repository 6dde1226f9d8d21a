//! Buffers that are used again.
//!
//! Memory that is new to a process costs a fault for every page, which is more than it costs to fill one
//! with a file that the system has cached. Allocators give large buffers back to the system at once, so
//! those that are needed over and over are kept here: a bounded number, of one size.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Keeps buffers of one size. Cheap to clone; clones share what is kept.
#[derive(Debug, Clone)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    buffer_bytes: usize,
    kept: usize,
}

impl BufferPool {
    /// Buffers of `buffer_bytes`, of which so many are kept while nobody uses them.
    pub fn new(buffer_bytes: usize, kept: usize) -> Self {
        Self { free: Arc::new(Mutex::new(Vec::new())), buffer_bytes, kept }
    }

    /// The size of a buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// An empty buffer with room for `bytes`, which is the pool's if that is its size.
    pub fn take(&self, bytes: usize) -> PooledBuffer {
        let pool = (bytes == self.buffer_bytes).then(|| self.clone());
        let kept = pool.as_ref().and_then(|pool| pool.free.lock().pop());
        PooledBuffer { bytes: kept.unwrap_or_else(|| Vec::with_capacity(bytes)), pool }
    }
}

/// A buffer that goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Option<BufferPool>,
}

impl PooledBuffer {
    /// The buffer to fill. What grows beyond its room is not the pool's any more.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What it was filled with, to be shared; the buffer goes back with the last part of it.
    pub fn freeze(mut self) -> Bytes {
        match self.pool {
            Some(_) => Bytes::from_owner(self),
            None => Bytes::from(std::mem::take(&mut self.bytes)),
        }
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut free = pool.free.lock();
        let is_grown = bytes.capacity() >= 2 * pool.buffer_bytes;
        if !is_grown && free.len() < pool.kept {
            bytes.clear();
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_the_last_part_of_it_is_gone() {
        let pool = BufferPool::new(1000, 1);
        let mut buffer = pool.take(1000);
        buffer.vec().extend_from_slice(b"some text");
        let at = buffer.vec().as_ptr();
        let text = buffer.freeze();
        let part = text.slice(5..);
        drop(text);
        let mut other = pool.take(1000);
        assert_ne!(other.vec().as_ptr(), at);
        assert_eq!(part, b"text"[..]);
        drop(part);
        let mut again = pool.take(1000);
        assert!(again.vec().is_empty() && again.vec().as_ptr() == at);
        // One is kept, whatever comes back.
        drop((other, again));
        assert_eq!(pool.free.lock().len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_no_buffer_of_the_pool() {
        let pool = BufferPool::new(1000, 4);
        for bytes in [0, 10, 999, 1001] {
            let mut buffer = pool.take(bytes);
            buffer.vec().resize(bytes, 1);
            assert_eq!(buffer.freeze().len(), bytes);
        }
        let mut grown = pool.take(1000);
        grown.vec().resize(2000, 1);
        drop(grown.freeze());
        assert!(pool.free.lock().is_empty());
    }
}
