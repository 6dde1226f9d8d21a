//! Snapshots as plain files: written from a view of one applied index, sent in pieces, received,
//! checked, and read into the state store.
//!
//! A file is written under a temporary name, synced, renamed, and its folder synced; its name and its
//! manifest carry its checksum. It opens with a magic line and the meta record, then pairs, each with
//! its lengths, then their number. All of this blocks: never on a thread of the async runtime.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use serde::{Deserialize, Serialize};
use stevedore_common::error::ResultExt as _;
use stevedore_common::{Error, Result};
use stevedore_state::view::ReadView as _;
use uuid::Uuid;

use crate::log_store::sync_folder;
use crate::state_store::{StateMeta, StateStore, StateView};

const MAGIC: &[u8] = b"stevedore snapshot 1\n";
const PAGE: usize = 1_000;
const END: u32 = u32::MAX;
/// No key or value comes near; a larger length is damage.
const MAX_LENGTH: u32 = 1 << 30;
/// How much of a file one message carries.
pub const SNAPSHOT_PIECE_BYTES: usize = 1024 * 1024;

/// Travels in the snapshot message in place of the data, and names the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// The applied index that the snapshot is of.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The size of the file.
    pub bytes: u64,
    /// The checksum of the whole file.
    pub crc32: u32,
}

impl SnapshotManifest {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::internal(format!("encoding a snapshot's manifest failed: {e}")))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::bad_data(format!("a snapshot's manifest cannot be read: {e}")))
    }

    fn file_name(&self) -> String {
        format!("{:020}-{:010}-{:08x}.snapshot", self.index, self.term, self.crc32)
    }
}

#[derive(Debug)]
struct FolderInner {
    path: PathBuf,
    temporary: bool,
}

impl Drop for FolderInner {
    fn drop(&mut self) {
        if self.temporary {
            // It lies below the system's folder for temporary files: what stays there is not lost.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Where snapshots lie. Its files belong to it: they are removed when it is opened, since every one of
/// them can be made or sent again.
#[derive(Debug, Clone)]
pub struct SnapshotFolder {
    inner: Arc<FolderInner>,
}

impl SnapshotFolder {
    /// Opens or creates the folder and empties it.
    ///
    /// # Errors
    /// Storage, if it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        Self::prepare(path, false)
    }

    /// A folder that goes with the process.
    ///
    /// # Errors
    /// Storage, if it cannot be made.
    pub fn temporary() -> Result<Self> {
        let name = format!("stevedore-raft-{}", Uuid::new_v4().simple());
        Self::prepare(&std::env::temp_dir().join(name), true)
    }

    fn prepare(path: &Path, temporary: bool) -> Result<Self> {
        let prepare = || -> std::io::Result<()> {
            std::fs::create_dir_all(path)?;
            for file in std::fs::read_dir(path)? {
                let file = file?.path();
                if file.extension().is_some_and(|e| e == "snapshot" || e == "partial") {
                    std::fs::remove_file(file)?;
                }
            }
            Ok(())
        };
        prepare()
            .map_err(Error::from)
            .context(|| format!("preparing the snapshot folder '{}'", path.display()))?;
        Ok(Self { inner: Arc::new(FolderInner { path: path.to_owned(), temporary }) })
    }

    /// Where the file of a manifest lies.
    pub fn path_of(&self, manifest: &SnapshotManifest) -> PathBuf {
        self.inner.path.join(manifest.file_name())
    }

    fn partial(&self) -> PathBuf {
        self.inner.path.join(format!("{}.partial", Uuid::new_v4().simple()))
    }

    /// Removes every snapshot but the given ones.
    pub(crate) fn keep_only(&self, keep: &[&SnapshotManifest]) -> Result<()> {
        let keep: Vec<String> = keep.iter().map(|manifest| manifest.file_name()).collect();
        for file in std::fs::read_dir(&self.inner.path)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".snapshot") && !keep.iter().any(|kept| *kept == name) {
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    fn commit(&self, file: &File, partial: &Path, manifest: &SnapshotManifest) -> Result<()> {
        file.sync_all()?;
        std::fs::rename(partial, self.path_of(manifest))?;
        sync_folder(&self.inner.path)
    }

    /// Writes the snapshot of a view.
    ///
    /// # Errors
    /// Storage, if reading the state or writing the file fails.
    pub fn write(&self, view: &StateView) -> Result<SnapshotManifest> {
        let partial = self.partial();
        let written = self.write_partial(view, &partial);
        if written.is_err() {
            // The next opening of the folder removes what stays.
            let _ = std::fs::remove_file(&partial);
        }
        written.context(|| format!("writing the snapshot of log entry {}", view.applied()))
    }

    fn write_partial(&self, view: &StateView, partial: &Path) -> Result<SnapshotManifest> {
        let file = File::create_new(partial)?;
        let mut out = Checksummed::new(BufWriter::with_capacity(1 << 20, file));
        out.write_all(MAGIC)?;
        // What belongs to this member stays out: the same state gives the same file anywhere.
        let shared =
            StateMeta { generation: 0, incarnation: String::new(), installed: 0, ..view.meta().clone() };
        let meta = serde_json::to_vec(&shared)
            .map_err(|e| Error::internal(format!("encoding a snapshot's meta record failed: {e}")))?;
        out.write_all(&length(&meta)?.to_be_bytes())?;
        out.write_all(&meta)?;
        let mut count = 0_u64;
        let mut after: Option<Bytes> = None;
        loop {
            let page = view.scan(b"", after.as_deref(), PAGE)?;
            for (key, value) in &page {
                out.write_all(&length(key)?.to_be_bytes())?;
                out.write_all(&length(value)?.to_be_bytes())?;
                out.write_all(key)?;
                out.write_all(value)?;
                count += 1;
            }
            if page.len() < PAGE {
                break;
            }
            after = page.last().map(|(key, _)| key.clone());
        }
        out.write_all(&END.to_be_bytes())?;
        out.write_all(&count.to_be_bytes())?;
        out.flush()?;
        let manifest = SnapshotManifest {
            index: view.applied(),
            term: view.meta().applied_term,
            bytes: out.bytes,
            crc32: out.hasher.finalize(),
        };
        let file = out.inner.into_inner().map_err(|e| Error::from(e.into_error()))?;
        self.commit(&file, partial, &manifest)?;
        Ok(manifest)
    }

    /// Reads a snapshot into the store and makes it the current state, keeping the store's incarnation.
    ///
    /// # Errors
    /// Bad data, if the file is not what its manifest says; storage otherwise. The state is unchanged
    /// then.
    pub fn install(&self, manifest: &SnapshotManifest, store: &StateStore) -> Result<StateMeta> {
        let path = self.path_of(manifest);
        self.install_file(&path, manifest, store)
            .context(|| format!("installing the snapshot '{}'", path.display()))
    }

    fn install_file(
        &self,
        path: &Path,
        manifest: &SnapshotManifest,
        store: &StateStore,
    ) -> Result<StateMeta> {
        let mut input = Checksummed::new(BufReader::with_capacity(1 << 20, File::open(path)?));
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(Error::bad_data("it is not a snapshot of this version"));
        }
        let meta_length = input.number()?;
        let mut meta: StateMeta = serde_json::from_slice(&input.take_exactly(meta_length)?)
            .map_err(|e| Error::bad_data(format!("its meta record cannot be read: {e}")))?;
        if (meta.applied, meta.applied_term) != (manifest.index, manifest.term) {
            return Err(Error::bad_data(format!(
                "it is of log entry {}, not {}",
                meta.applied, manifest.index
            )));
        }
        let mut installation = store.begin_install();
        let mut count = 0_u64;
        loop {
            let key_length = input.number()?;
            if key_length == END {
                break;
            }
            let value_length = input.number()?;
            let key = input.take_exactly(key_length)?;
            let value = input.take_exactly(value_length)?;
            installation.put(&key.into(), &value.into())?;
            count += 1;
        }
        let mut expected = [0; 8];
        input.read_exact(&mut expected)?;
        if u64::from_be_bytes(expected) != count {
            return Err(Error::bad_data("it does not have as many pairs as it says"));
        }
        if (input.bytes, input.hasher.clone().finalize()) != (manifest.bytes, manifest.crc32) {
            return Err(Error::bad_data("its checksum does not match its manifest"));
        }
        meta.incarnation = store.meta().incarnation.clone();
        meta.installed = meta.applied;
        installation.finish(meta)?;
        Ok((*store.meta()).clone())
    }

    /// Begins to receive the snapshot that a message announces.
    ///
    /// # Errors
    /// Invalid input, if the message is not a snapshot; storage, if the file cannot be made.
    pub(crate) fn receive(&self, message: &Bytes) -> Result<(SnapshotManifest, PartialSnapshot)> {
        let message = Message::parse_from_carllerche_bytes(message)
            .map_err(|e| Error::invalid(format!("a snapshot message cannot be read: {e}")))?;
        if message.msg_type != MessageType::MsgSnapshot {
            return Err(Error::invalid("a snapshot was announced by another kind of message"));
        }
        let manifest = SnapshotManifest::decode(&message.get_snapshot().data)?;
        let metadata = message.get_snapshot().get_metadata();
        if (metadata.index, metadata.term) != (manifest.index, manifest.term) {
            return Err(Error::invalid("a snapshot message and its manifest name different log entries"));
        }
        let path = self.partial();
        let out = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
        let partial = PartialSnapshot {
            folder: self.clone(),
            manifest: manifest.clone(),
            path,
            out: Some(Checksummed::new(out)),
        };
        Ok((manifest, partial))
    }
}

fn length(bytes: &[u8]) -> Result<u32> {
    match u32::try_from(bytes.len()) {
        Ok(length) if length < MAX_LENGTH => Ok(length),
        _ => Err(Error::internal(format!(
            "a key or value of {} bytes does not fit into a snapshot",
            bytes.len()
        ))),
    }
}

/// Counts and checksums what passes.
struct Checksummed<T> {
    inner: T,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl<T> Checksummed<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: crc32fast::Hasher::new(), bytes: 0 }
    }
}

impl<T: Write> Write for Checksummed<T> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Checksummed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<T: Read> Checksummed<T> {
    fn number(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn take_exactly(&mut self, length: u32) -> Result<Vec<u8>> {
        if length >= MAX_LENGTH {
            return Err(Error::bad_data("it has a length that cannot be"));
        }
        let mut bytes = Vec::new();
        // Grows with what is really there, so that a wrong length does not allocate.
        self.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == u64::from(length) {
            Ok(bytes)
        } else {
            Err(Error::bad_data("it ends too early"))
        }
    }
}

/// A snapshot on its way in. Dropped unfinished, its file is removed.
#[derive(Debug)]
pub(crate) struct PartialSnapshot {
    folder: SnapshotFolder,
    manifest: SnapshotManifest,
    path: PathBuf,
    out: Option<Checksummed<BufWriter<File>>>,
}

impl<T: std::fmt::Debug> std::fmt::Debug for Checksummed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksummed")
            .field("inner", &self.inner)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl PartialSnapshot {
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let Some(out) = &mut self.out else {
            return Err(Error::internal("the snapshot was finished already"));
        };
        if offset != out.bytes {
            return Err(Error::invalid(format!(
                "a piece of a snapshot starts at {offset} where {} was expected",
                out.bytes
            )));
        }
        if offset + data.len() as u64 > self.manifest.bytes {
            return Err(Error::invalid("a snapshot is larger than announced"));
        }
        Ok(out.write_all(data)?)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        let Some(mut out) = self.out.take() else { return Ok(()) };
        out.flush()?;
        if (out.bytes, out.hasher.clone().finalize()) != (self.manifest.bytes, self.manifest.crc32) {
            return Err(Error::bad_data(format!(
                "the snapshot of log entry {} did not arrive whole: {} of {} bytes, or a wrong checksum",
                self.manifest.index, out.bytes, self.manifest.bytes
            )));
        }
        self.folder.commit(out.inner.get_ref(), &self.path, &self.manifest)
    }
}

impl Drop for PartialSnapshot {
    fn drop(&mut self) {
        // Renamed away if it was finished; whatever else stays goes with the next opening.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One piece of a snapshot file, for sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// Where it starts.
    pub offset: u64,
    /// Its bytes.
    pub data: Bytes,
    /// Their checksum.
    pub crc32: u32,
    /// Whether it is the last one.
    pub last: bool,
}

/// Reads a snapshot file piece by piece. Blocks.
#[derive(Debug)]
pub struct SnapshotPieces {
    file: File,
    offset: u64,
    total: u64,
}

impl SnapshotPieces {
    /// Opens the file that `Transport::send_snapshot` names.
    ///
    /// # Errors
    /// Not found, if a newer snapshot has replaced it; storage otherwise.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let total = file.metadata()?.len();
        Ok(Self { file, offset: 0, total })
    }

    fn read(&mut self) -> Result<SnapshotPiece> {
        let mut data = Vec::with_capacity(SNAPSHOT_PIECE_BYTES);
        (&mut self.file).take(SNAPSHOT_PIECE_BYTES as u64).read_to_end(&mut data)?;
        if data.is_empty() {
            return Err(Error::bad_data("a snapshot file became shorter while it was sent"));
        }
        let offset = self.offset;
        self.offset += data.len() as u64;
        Ok(SnapshotPiece {
            offset,
            crc32: crc32fast::hash(&data),
            data: data.into(),
            last: self.offset >= self.total,
        })
    }
}

impl Iterator for SnapshotPieces {
    type Item = Result<SnapshotPiece>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.offset < self.total).then(|| self.read())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use stevedore_state::view::WriteBatch;

    use super::*;

    fn store_with(pairs: u32, applied: u64) -> StateStore {
        let store = StateStore::memory();
        let mut batch = WriteBatch::default();
        for i in 0..pairs {
            batch.put(format!("key{i:06}"), format!("value{i}"));
        }
        batch.put("large", vec![9; 200_000]);
        let meta = StateMeta { applied, applied_term: 3, incarnation: "a".into(), ..StateMeta::default() };
        store.write(&batch, meta).unwrap();
        store
    }

    #[test]
    fn a_snapshot_is_of_one_index_whatever_is_applied_meanwhile() {
        let folder = SnapshotFolder::temporary().unwrap();
        let store = store_with(2_500, 40);
        let view = store.view();
        let mut later = WriteBatch::default();
        for i in (0..2_500).step_by(2) {
            later.delete(format!("key{i:06}"));
        }
        later.put("new", "x");
        store.write(&later, StateMeta { applied: 41, ..StateMeta::default() }).unwrap();

        let manifest = folder.write(&view).unwrap();
        let target = StateStore::memory();
        let meta = folder.install(&manifest, &target).unwrap();

        assert_eq!((meta.applied, meta.applied_term, meta.installed), (40, 3, 40));
        let installed = target.view().scan(b"", None, 10_000).unwrap();
        assert_eq!(installed, view.scan(b"", None, 10_000).unwrap());
        assert_eq!(installed.len(), 2_501);
    }

    #[test]
    fn a_damaged_file_changes_nothing() {
        let folder = SnapshotFolder::temporary().unwrap();
        let manifest = folder.write(&store_with(100, 5).view()).unwrap();
        let path = folder.path_of(&manifest);
        let good = std::fs::read(&path).unwrap();
        for damage in [good.len() / 2, good.len() - 3, 2, 40] {
            let mut bad = good.clone();
            bad[damage] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let target = store_with(3, 2);
            assert!(folder.install(&manifest, &target).is_err());
            std::fs::write(&path, &good[..damage]).unwrap();
            assert!(folder.install(&manifest, &target).is_err());
            assert_eq!(target.meta().applied, 2);
            assert_eq!(target.view().scan(b"", None, 10).unwrap().len(), 4);
        }
    }

    #[test]
    fn a_snapshot_travels_in_pieces() {
        let sender = SnapshotFolder::temporary().unwrap();
        let store = StateStore::memory();
        let mut batch = WriteBatch::default();
        batch.put("large", (0..3_000_000_u32).map(|i| i as u8).collect::<Vec<_>>());
        store.write(&batch, StateMeta { applied: 9, applied_term: 2, ..StateMeta::default() }).unwrap();
        let manifest = sender.write(&store.view()).unwrap();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.mut_snapshot().data = manifest.encode().unwrap().into();
        message.mut_snapshot().mut_metadata().index = 9;
        message.mut_snapshot().mut_metadata().term = 2;
        let message = Bytes::from(message.write_to_bytes().unwrap());

        let receiver = SnapshotFolder::temporary().unwrap();
        let pieces: Vec<_> =
            SnapshotPieces::open(&sender.path_of(&manifest)).unwrap().map(|p| p.unwrap()).collect();
        assert_eq!(pieces.iter().map(|p| p.last).collect::<Vec<_>>(), [false, false, true]);

        let (announced, mut partial) = receiver.receive(&message).unwrap();
        assert_eq!(announced, manifest);
        partial.write(0, &pieces[0].data).unwrap();
        assert!(partial.write(0, &pieces[0].data).is_err(), "a piece twice");
        assert!(partial.finish().is_err(), "a piece is missing");
        assert!(!receiver.path_of(&manifest).exists());

        let (_, mut partial) = receiver.receive(&message).unwrap();
        for piece in &pieces {
            partial.write(piece.offset, &piece.data).unwrap();
        }
        partial.finish().unwrap();
        let target = StateStore::memory();
        receiver.install(&manifest, &target).unwrap();
        assert_eq!(target.view().get(b"large").unwrap().unwrap().len(), 3_000_000);
    }
}
