//! Buffers that are used again.
//!
//! Memory that is new to a process costs a fault for every page, which is more than it costs to fill one
//! with a file that the system has cached. Allocators give large buffers back to the system at once, or keep
//! many times what is in use in the corners of their arenas; so those that are needed over and over are kept
//! here: a bounded number of bytes, in sizes that double.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Keeps buffers of one size or of several. Cheap to clone; clones share what is kept.
#[derive(Debug, Clone)]
pub struct BufferPool(Arc<Shelves>);

#[derive(Debug)]
struct Shelves {
    smallest: usize,
    sizes: usize,
    kept_bytes: usize,
    free: Mutex<Free>,
}

/// What nobody uses.
#[derive(Debug)]
struct Free {
    /// By size: the smallest, twice that, and so on.
    buffers: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl BufferPool {
    /// Buffers of `buffer_bytes`, of which so many are kept while nobody uses them.
    pub fn new(buffer_bytes: usize, kept: usize) -> Self {
        Self::of_sizes(buffer_bytes, 1, buffer_bytes.saturating_mul(kept))
    }

    /// Buffers of so many sizes, each twice the one before; `kept_bytes` are kept while nobody uses them.
    pub fn of_sizes(smallest: usize, sizes: usize, kept_bytes: usize) -> Self {
        let free = Mutex::new(Free { buffers: vec![Vec::new(); sizes], bytes: 0 });
        Self(Arc::new(Shelves { smallest: smallest.max(1), sizes, kept_bytes, free }))
    }

    /// The size of the smallest buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.0.smallest
    }

    /// An empty buffer with room for `bytes`, which is the pool's if that would fill more than half of one.
    pub fn take(&self, bytes: usize) -> PooledBuffer {
        let Some((shelf, size)) = self.0.shelf_of(bytes) else {
            return PooledBuffer { bytes: Vec::with_capacity(bytes), home: None };
        };
        let mut free = self.0.free.lock();
        let kept = free.buffers.get_mut(shelf).and_then(Vec::pop);
        if kept.is_some() {
            free.bytes -= size;
        }
        drop(free);
        let home = Some((self.clone(), shelf));
        PooledBuffer { bytes: kept.unwrap_or_else(|| Vec::with_capacity(size)), home }
    }
}

impl Shelves {
    /// The shelf for a buffer with room for `bytes`, and the size of those on it.
    fn shelf_of(&self, bytes: usize) -> Option<(usize, usize)> {
        let shelf = bytes.div_ceil(self.smallest).next_power_of_two().trailing_zeros() as usize;
        let size = self.size_of(shelf)?;
        (bytes > size / 2 && shelf < self.sizes).then_some((shelf, size))
    }

    fn size_of(&self, shelf: usize) -> Option<usize> {
        self.smallest.checked_shl(u32::try_from(shelf).ok()?)
    }

    fn put_back(&self, shelf: usize, mut buffer: Vec<u8>) {
        let Some(size) = self.size_of(shelf) else { return };
        let is_grown = buffer.capacity() >= 2 * size;
        let mut free = self.free.lock();
        if !is_grown && free.bytes + size <= self.kept_bytes {
            buffer.clear();
            free.bytes += size;
            free.buffers[shelf].push(buffer);
        }
    }
}

/// A buffer that goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Vec<u8>,
    /// The pool, and the shelf in it.
    home: Option<(BufferPool, usize)>,
}

impl PooledBuffer {
    /// The buffer to fill. What grows beyond its room is not the pool's any more.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What it was filled with, to be shared; the buffer goes back with the last part of it.
    pub fn freeze(mut self) -> Bytes {
        match self.home {
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
        if let Some((pool, shelf)) = &self.home {
            pool.0.put_back(*shelf, std::mem::take(&mut self.bytes));
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
        assert_eq!(pool.0.free.lock().bytes, 1000);
    }

    #[test]
    fn what_does_not_fit_is_no_buffer_of_the_pool() {
        let pool = BufferPool::new(1000, 4);
        for bytes in [0, 10, 500, 1001] {
            let mut buffer = pool.take(bytes);
            buffer.vec().resize(bytes, 1);
            assert_eq!(buffer.freeze().len(), bytes);
        }
        let mut grown = pool.take(1000);
        grown.vec().resize(2000, 1);
        drop(grown.freeze());
        assert_eq!(pool.0.free.lock().bytes, 0);
    }

    #[test]
    fn sizes_double_and_what_is_kept_is_bounded_over_all_of_them() {
        let pool = BufferPool::of_sizes(1000, 3, 5000);
        let room_of = |bytes| pool.take(bytes).vec().capacity();
        // Those that are kept have been used before.
        assert_eq!([501, 1000, 1001, 2000, 2001, 4000].map(room_of), [1000, 1000, 2000, 2000, 4000, 4000]);
        assert_eq!(pool.0.free.lock().bytes, 3000);
        assert_eq!((room_of(500), room_of(4001)), (500, 4001));
        let both = (pool.take(1500), pool.take(900), pool.take(3900));
        assert_eq!(pool.0.free.lock().bytes, 0);
        drop(both);
        assert_eq!(pool.0.free.lock().bytes, 3000);
    }
}
