//! Reading one version of a file: whole or in ranges, with bounded read-ahead, resumed where a
//! connection broke under the same validator.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::file_identity::FileVersion;

use super::backend::BackendFile;
use super::egress::backoff;
use super::failure::changed;

const ATTEMPTS: u32 = 4;
/// Ranges nearer to each other than this are fetched as one.
const COALESCE_GAP: u64 = 256 << 10;
/// The largest request that coalescing makes.
const COALESCE_MAX: u64 = 16 << 20;
const RANGES_AT_ONCE: usize = 8;

/// How far a sequential read runs ahead of its reader; memory is `chunk_bytes * (ahead + 1)` at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAhead {
    /// Bytes a request.
    pub chunk_bytes: u64,
    /// Requests in flight.
    pub ahead: usize,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self { chunk_bytes: 4 << 20, ahead: 3 }
    }
}

/// A file pinned to the version that was listed. Every read fails with a conflict that names the file
/// once the store holds another version.
#[derive(Debug, Clone)]
pub struct PinnedFile {
    file: Arc<dyn BackendFile>,
    path: Arc<str>,
    version: FileVersion,
}

impl PinnedFile {
    pub(crate) fn new(file: Arc<dyn BackendFile>, path: &str, version: FileVersion) -> Self {
        Self { file, path: path.into(), version }
    }

    /// The path below the store's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.version.size
    }

    /// The version that reads are pinned to.
    pub fn version(&self) -> &FileVersion {
        &self.version
    }

    /// Whether ranges read apart are known to be of one version. Without it only
    /// [`PinnedFile::chunks`] of the whole file and [`PinnedFile::read_all`] work.
    pub fn can_split(&self) -> bool {
        self.file.can_split()
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// Conflict if the file changed; bad data for a range outside it; what the store says.
    pub async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > self.version.size {
            return Err(Error::bad_data(format!(
                "file '{}' ends before byte {}: it has {} bytes",
                self.path, range.end, self.version.size
            )));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if !self.can_split() && range != (0..self.version.size) {
            return Err(Error::not_supported(format!(
                "reading a part of '{}': its store gives no etag and version",
                self.path
            )));
        }
        if !self.can_split() {
            return self.read_all(u64::MAX).await;
        }
        let mut attempt = 1;
        loop {
            match self.file.read(range.clone()).await {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes),
                Ok(_) => return Err(changed(&self.path)),
                Err(e) if e.is_retryable() && attempt < ATTEMPTS => {
                    tracing::debug!(path = %self.path, attempt, error = %e, "a ranged read is tried again");
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The bytes of several ranges, in their order; near ones are fetched together.
    ///
    /// # Errors
    /// As [`PinnedFile::read_range`].
    pub async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fetches = coalesce(ranges);
        let this = self.clone();
        let fetched: Vec<(Range<u64>, Bytes)> = futures::stream::iter(fetches)
            .map(move |range| {
                let this = this.clone();
                async move { Ok::<_, Error>((range.clone(), this.read_range(range).await?)) }
            })
            .buffered(RANGES_AT_ONCE)
            .try_collect()
            .await?;
        ranges
            .iter()
            .map(|range| {
                if range.is_empty() {
                    return Ok(Bytes::new());
                }
                let at = fetched.partition_point(|(fetch, _)| fetch.start <= range.start);
                let (fetch, bytes) = at
                    .checked_sub(1)
                    .and_then(|at| fetched.get(at))
                    .filter(|(fetch, _)| fetch.end >= range.end)
                    .ok_or_else(|| Error::internal("a range was not covered by what was fetched"))?;
                let offset = |at: u64| usize::try_from(at - fetch.start).unwrap_or(usize::MAX);
                Ok(bytes.slice(offset(range.start)..offset(range.end)))
            })
            .collect()
    }

    /// The whole file in memory.
    ///
    /// # Errors
    /// Resource exhausted for a file larger than `limit`; otherwise as [`PinnedFile::read_range`].
    pub async fn read_all(&self, limit: u64) -> Result<Bytes> {
        if self.size() > limit {
            return Err(Error::exhausted(format!(
                "file '{}' has {} bytes and must be held in memory, where {limit} are allowed",
                self.path,
                self.size()
            )));
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(self.size()).unwrap_or(0));
        let mut chunks = self.chunks(0..self.size(), ReadAhead::default());
        while let Some(chunk) = chunks.try_next().await? {
            if whole.is_empty() && chunk.len() as u64 == self.size() {
                return Ok(chunk);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The bytes of a range in order, fetched ahead of the reader. Where the file cannot be read in
    /// pieces, one pass from its start serves any range.
    pub fn chunks(&self, range: Range<u64>, ahead: ReadAhead) -> BoxStream<'static, Result<Bytes>> {
        if range.start >= range.end {
            return futures::stream::empty().boxed();
        }
        let this = self.clone();
        if !self.can_split() {
            return futures::stream::once(async move { this.one_pass(range).await }).try_flatten().boxed();
        }
        let step = ahead.chunk_bytes.max(64 << 10);
        let starts = std::iter::successors(Some(range.start), move |at| at.checked_add(step))
            .take_while(move |at| *at < range.end);
        futures::stream::iter(starts)
            .map(move |at| {
                let (this, end) = (this.clone(), range.end.min(at + step));
                async move { this.read_range(at..end).await }
            })
            .buffered(ahead.ahead.max(1))
            .boxed()
    }

    async fn one_pass(&self, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut attempt = 1;
        // Only the beginning can be tried again: later the bytes may be of another version.
        let body = loop {
            match self.file.stream().await {
                Err(e) if e.is_retryable() && attempt < ATTEMPTS => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                other => break other?,
            }
        };
        let (path, size) = (Arc::clone(&self.path), self.size());
        let state = (body, 0u64);
        Ok(futures::stream::try_unfold(state, move |(mut body, mut at)| {
            let (path, range) = (Arc::clone(&path), range.clone());
            async move {
                while at < range.end {
                    let Some(mut chunk) = body.try_next().await? else {
                        return if at == size { Ok(None) } else { Err(changed(&path)) };
                    };
                    let start = at;
                    at += chunk.len() as u64;
                    if at > size {
                        return Err(changed(&path));
                    }
                    if at > range.end {
                        chunk.truncate(usize::try_from(range.end - start).unwrap_or(0));
                    }
                    if start < range.start {
                        let skip =
                            usize::try_from(range.start - start).unwrap_or(usize::MAX).min(chunk.len());
                        chunk = chunk.slice(skip..);
                    }
                    if !chunk.is_empty() {
                        return Ok(Some((chunk, (body, at))));
                    }
                }
                Ok(None)
            }
        })
        .boxed())
    }
}

/// Sorted, disjoint ranges that cover all of `ranges`.
fn coalesce(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match out.last_mut() {
            Some(last)
                if range.start < last.end
                    || (range.start <= last.end + COALESCE_GAP && range.end - last.start <= COALESCE_MAX) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_fetched_together_and_far_ones_apart() {
        let far = 10 << 20;
        assert_eq!(coalesce(&[5..9, 0..4, far..far + 1, 3..3]), vec![0..9, far..far + 1]);
        assert_eq!(coalesce(&[0..10, 2..4]), vec![0..10]);
        // Overlapping ranges stay one however large they get, so that each is covered.
        assert_eq!(coalesce(&[0..COALESCE_MAX, 1..COALESCE_MAX + 5]), vec![0..COALESCE_MAX + 5]);
    }
}
