//! The bytes of one file on their way to the object store.
//!
//! [`PartSink`] is written to by encoding threads; full parts cross a bounded channel to a task that
//! uploads several at a time. A small file is one put. The file exists only after [`PartSink::complete`]
//! and the task's answer: a sink that is dropped earlier aborts the upload.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use stevedore_common::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes a part; all but the last have exactly this size, as some stores demand.
const PART_BYTES: usize = 8 << 20;
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
    buffer: BytesMut,
    pieces: mpsc::Sender<Piece>,
}

impl PartSink {
    /// Sends the rest. Blocks like a write.
    pub(super) fn complete(&mut self) -> Result<()> {
        let rest = self.buffer.split().freeze();
        self.pieces.blocking_send(Piece::Last(rest)).map_err(|_| Error::storage("the upload ended early"))
    }
}

impl io::Write for PartSink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.pieces
                .blocking_send(Piece::Part(part))
                .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The upload's answer.
pub(super) struct Upload(JoinHandle<Result<()>>);

impl Upload {
    /// Waits until the file is durable, or says why it is not.
    pub(super) async fn finished(self) -> Result<()> {
        self.0.await.map_err(|e| Error::internal(format!("an upload failed: {e}")))?
    }
}

/// Starts the upload of a file; `local`: the store is this machine's file system.
pub(super) fn start(store: Arc<dyn ObjectStore>, path: Path, local: bool) -> (PartSink, Upload) {
    let (pieces, received) = mpsc::channel(WAITING_PARTS);
    let upload = tokio::spawn(async move {
        let durable = async {
            upload(store.as_ref(), &path, received).await?;
            if local { sync_local(&path).await } else { Ok(()) }
        };
        durable.await.map_err(|e| e.context(format!("writing data file '{path}'")))
    });
    (PartSink { buffer: BytesMut::new(), pieces }, Upload(upload))
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
        for size in [0, 10, PART_BYTES, 2 * PART_BYTES, 6 * PART_BYTES + 5] {
            let path = Path::from(format!("f{size}"));
            let (mut sink, upload) = start(store.clone(), path.clone(), false);
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
        let (mut sink, upload) = start(store.clone(), path.clone(), false);
        tokio::task::spawn_blocking(move || sink.write_all(&vec![1; PART_BYTES + 1]).unwrap()).await.unwrap();
        assert_eq!(upload.finished().await.unwrap_err().kind(), stevedore_common::ErrorKind::Cancelled);
        assert!(store.head(&path).await.is_err());
    }
}
