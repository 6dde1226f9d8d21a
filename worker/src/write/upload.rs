//! The bytes of one file on their way to the object store.
//!
//! [`PartSink`] is written to by encoding threads; full parts cross a bounded channel to a task that
//! uploads several at a time. A small file is one put. The file exists only after [`PartSink::complete`]
//! and the task's answer: a sink that is dropped earlier aborts the upload.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use stevedore_common::buffers::{BufferPool, PooledBuffer};
use stevedore_common::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes a part; all but the last have exactly this size, as some stores demand.
const PART_BYTES: usize = 8 << 20;
/// The same for the local file system, which has no price for a request: small enough to be written while the
/// CPU's caches hold it.
const LOCAL_PART_BYTES: usize = 1 << 20;
/// Parts that wait for the upload.
const WAITING_PARTS: usize = 2;
/// Parts uploaded at a time.
const PARTS_IN_FLIGHT: usize = 4;

enum Piece {
    Part(Bytes),
    Last(Bytes),
}

/// The sync end. Blocks its thread while the upload is behind: never write to it on a core thread,
/// except for less than a part.
pub(super) struct PartSink {
    buffer: PooledBuffer,
    part_bytes: usize,
    buffers: BufferPool,
    pieces: mpsc::Sender<Piece>,
}

impl PartSink {
    /// Sends the rest. Blocks like a write.
    pub(super) fn complete(&mut self) -> Result<()> {
        let rest = self.next_part();
        self.pieces.blocking_send(Piece::Last(rest)).map_err(|_| Error::storage("the upload ended early"))
    }

    fn next_part(&mut self) -> Bytes {
        std::mem::replace(&mut self.buffer, self.buffers.take(self.part_bytes)).freeze()
    }
}

impl io::Write for PartSink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = self.buffer.vec();
        let taken = data.len().min(self.part_bytes - part.len());
        part.extend_from_slice(&data[..taken]);
        if part.len() == self.part_bytes {
            let part = self.next_part();
            self.pieces
                .blocking_send(Piece::Part(part))
                .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The upload's answer.
pub(super) struct Upload(JoinHandle<Result<()>>);

impl Upload {
    /// Waits until the file is durable, or says why it is not.
    pub(super) async fn finished(mut self) -> Result<()> {
        self.ended().await
    }

    /// Why an upload whose sink is gone ended.
    pub(super) async fn failure(&mut self) -> Option<Error> {
        self.ended().await.err()
    }

    async fn ended(&mut self) -> Result<()> {
        (&mut self.0).await.map_err(|e| Error::internal(format!("an upload failed: {e}")))?
    }
}

/// The buffers that the parts of a writer's files are gathered in; `local`: their store is this machine's
/// file system.
pub(super) fn part_buffers(local: bool) -> BufferPool {
    let part_bytes = if local { LOCAL_PART_BYTES } else { PART_BYTES };
    BufferPool::new(part_bytes, WAITING_PARTS + PARTS_IN_FLIGHT)
}

/// What the upload of a file of which so much was written holds at most: the part that is gathered, those that wait
/// and those under way; buffers are kept for the next parts.
pub(super) fn held_by(written: usize, part_bytes: usize) -> usize {
    written.min((1 + WAITING_PARTS + PARTS_IN_FLIGHT) * part_bytes)
}

/// Starts the upload of a file; `local`: the store is this machine's file system.
pub(super) fn start(
    store: Arc<dyn ObjectStore>,
    path: Path,
    local: bool,
    buffers: &BufferPool,
) -> (PartSink, Upload) {
    let (pieces, received) = mpsc::channel(WAITING_PARTS);
    let upload = tokio::spawn(async move {
        let durable = async {
            upload(store.as_ref(), &path, received).await?;
            if local { sync_local(&path).await } else { Ok(()) }
        };
        durable.await.map_err(|e| e.context(format!("writing data file '{path}'")))
    });
    let (buffers, part_bytes) = (buffers.clone(), buffers.buffer_bytes());
    (PartSink { buffer: buffers.take(part_bytes), part_bytes, buffers, pieces }, Upload(upload))
}

/// The local file system's store leaves files in the page cache; a commit must outlive a power failure.
async fn sync_local(path: &Path) -> Result<()> {
    let file = std::path::Path::new("/").join(path.as_ref());
    tokio::task::spawn_blocking(move || {
        std::fs::File::open(&file)?.sync_all()?;
        match file.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    })
    .await
    .map_err(|e| Error::internal(format!("syncing a file failed: {e}")))??;
    Ok(())
}

async fn upload(store: &dyn ObjectStore, path: &Path, mut pieces: mpsc::Receiver<Piece>) -> Result<()> {
    let first = match pieces.recv().await {
        None => return Err(given_up()),
        Some(Piece::Last(whole)) => {
            store.put(path, PutPayload::from_bytes(whole)).await?;
            return Ok(());
        }
        Some(Piece::Part(part)) => part,
    };
    let mut multipart = store.put_multipart(path).await?;
    let uploaded = upload_parts(multipart.as_mut(), first, &mut pieces).await;
    if uploaded.is_err() {
        // The parts cost money until they are dropped; the error that counts is the first one.
        if let Err(error) = multipart.abort().await {
            tracing::debug!(%path, %error, "an unfinished upload was left behind");
        }
    }
    uploaded
}

async fn upload_parts(
    multipart: &mut dyn MultipartUpload,
    first: Bytes,
    pieces: &mut mpsc::Receiver<Piece>,
) -> Result<()> {
    let mut in_flight = JoinSet::new();
    in_flight.spawn(multipart.put_part(PutPayload::from_bytes(first)));
    let mut last = false;
    while !last {
        let part = match pieces.recv().await {
            None => return Err(given_up()),
            Some(Piece::Part(part)) => part,
            Some(Piece::Last(part)) => {
                last = true;
                part
            }
        };
        while in_flight.len() >= PARTS_IN_FLIGHT {
            part_done(in_flight.join_next().await)?;
        }
        if !part.is_empty() {
            in_flight.spawn(multipart.put_part(PutPayload::from_bytes(part)));
        }
    }
    while let Some(result) = in_flight.join_next().await {
        part_done(Some(result))?;
    }
    multipart.complete().await?;
    Ok(())
}

type PartResult = Option<Result<object_store::Result<()>, tokio::task::JoinError>>;

fn part_done(result: PartResult) -> Result<()> {
    match result {
        Some(Ok(result)) => Ok(result?),
        Some(Err(e)) => Err(Error::internal(format!("an upload failed: {e}"))),
        None => Ok(()),
    }
}

fn given_up() -> Error {
    Error::cancelled("the file was given up")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write as _;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn files_of_one_and_of_many_parts_arrive_whole() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let buffers = part_buffers(false);
        for size in [0, 10, PART_BYTES, 2 * PART_BYTES, 6 * PART_BYTES + 5] {
            let path = Path::from(format!("f{size}"));
            let (mut sink, upload) = start(store.clone(), path.clone(), false, &buffers);
            let data: Vec<u8> = (0..size).map(|n| (n / 1000) as u8).collect();
            let written = data.clone();
            tokio::task::spawn_blocking(move || {
                for piece in written.chunks(1 << 20) {
                    sink.write_all(piece).unwrap();
                }
                sink.complete().unwrap();
            })
            .await
            .unwrap();
            upload.finished().await.unwrap();
            let stored = store.get(&path).await.unwrap().bytes().await.unwrap();
            assert!(stored == data, "{size}");
        }
    }

    #[tokio::test]
    async fn a_dropped_sink_leaves_no_file() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("f");
        let (mut sink, upload) = start(store.clone(), path.clone(), false, &part_buffers(false));
        tokio::task::spawn_blocking(move || sink.write_all(&vec![1; PART_BYTES + 1]).unwrap()).await.unwrap();
        assert_eq!(upload.finished().await.unwrap_err().kind(), stevedore_common::ErrorKind::Cancelled);
        assert!(store.head(&path).await.is_err());
    }
}
