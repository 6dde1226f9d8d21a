//! The files of a snapshot: table metadata, manifest list, manifests.
//!
//! Comes in: a metadata location. Goes out: the live data and delete files with what a scan needs to
//! know of them. Metadata files and manifests never change under their names, so they are cached by
//! path, bounded by their bytes. Must never cache by anything that can be written twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{
    Manifest, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestList, SnapshotRef, TableMetadata,
};
use parking_lot::Mutex;
use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

use super::error::from_iceberg;

/// Manifests read at a time.
const CONCURRENCY: usize = 8;
/// What a cached entry costs at least.
const ENTRY_BYTES: u64 = 4096;

/// Table metadata and manifests by path.
#[derive(Debug)]
pub(crate) struct MetadataCache {
    manifests: Mutex<Bounded<Manifest>>,
    tables: Mutex<Bounded<TableMetadata>>,
}

#[derive(Debug)]
struct Bounded<T> {
    limit: u64,
    used: u64,
    clock: u64,
    entries: HashMap<String, (Arc<T>, u64, u64)>,
}

impl<T> Bounded<T> {
    fn new(limit: u64) -> Self {
        Self { limit, used: 0, clock: 0, entries: HashMap::new() }
    }

    fn get(&mut self, path: &str) -> Option<Arc<T>> {
        self.clock += 1;
        let (value, _, used_at) = self.entries.get_mut(path)?;
        *used_at = self.clock;
        Some(Arc::clone(value))
    }

    fn insert(&mut self, path: String, value: Arc<T>, bytes: u64) {
        let bytes = bytes.max(ENTRY_BYTES);
        if bytes > self.limit {
            return;
        }
        while self.used + bytes > self.limit {
            let Some(oldest) =
                self.entries.iter().min_by_key(|(_, (_, _, used_at))| *used_at).map(|(path, _)| path.clone())
            else {
                break;
            };
            if let Some((_, freed, _)) = self.entries.remove(&oldest) {
                self.used -= freed;
            }
        }
        self.clock += 1;
        self.used += bytes;
        if let Some((_, replaced, _)) = self.entries.insert(path, (value, bytes, self.clock)) {
            self.used -= replaced;
        }
    }
}

impl MetadataCache {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            manifests: Mutex::new(Bounded::new(limit_bytes)),
            tables: Mutex::new(Bounded::new(limit_bytes / 8)),
        }
    }

    /// The metadata file of a table.
    pub(crate) async fn table(&self, file_io: &FileIO, location: &str) -> Result<Arc<TableMetadata>> {
        if let Some(found) = self.tables.lock().get(location) {
            return Ok(found);
        }
        let metadata = TableMetadata::read_from(file_io, location)
            .await
            .map_err(from_iceberg)
            .context(|| format!("reading the table metadata '{location}'"))?;
        let metadata = Arc::new(metadata);
        self.tables.lock().insert(location.to_owned(), Arc::clone(&metadata), 64 << 10);
        Ok(metadata)
    }

    async fn manifest(&self, file_io: &FileIO, file: &ManifestFile) -> Result<Arc<Manifest>> {
        // The same manifest reads the same under every snapshot: sequence numbers are inherited from
        // the list entry, which does not change once it is committed.
        if let Some(found) = self.manifests.lock().get(&file.manifest_path) {
            return Ok(found);
        }
        let manifest = file
            .load_manifest(file_io)
            .await
            .map_err(from_iceberg)
            .context(|| format!("reading the manifest '{}'", file.manifest_path))?;
        let manifest = Arc::new(manifest);
        let bytes = u64::try_from(file.manifest_length).unwrap_or(0) * 8;
        self.manifests.lock().insert(file.manifest_path.clone(), Arc::clone(&manifest), bytes);
        Ok(manifest)
    }

    /// The manifests of a snapshot.
    async fn list(
        &self,
        file_io: &FileIO,
        metadata: &TableMetadata,
        snapshot: &SnapshotRef,
    ) -> Result<Vec<ManifestFile>> {
        let path = snapshot.manifest_list();
        let read = async { file_io.new_input(path)?.read().await };
        let bytes =
            read.await.map_err(from_iceberg).context(|| format!("reading the manifest list '{path}'"))?;
        let list = ManifestList::parse_with_version(&bytes, metadata.format_version())
            .context(|| format!("reading the manifest list '{path}'"))?;
        Ok(list.consume_entries().into_iter().collect())
    }

    /// The live files of manifests.
    async fn live(&self, file_io: &FileIO, manifests: Vec<ManifestFile>) -> Result<SnapshotFiles> {
        let manifests: Vec<(ManifestFile, Arc<Manifest>)> = futures::stream::iter(manifests)
            .map(|file| async move {
                let manifest = self.manifest(file_io, &file).await?;
                Ok::<_, Error>((file, manifest))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let mut files = SnapshotFiles::default();
        for (file, manifest) in manifests {
            let live = manifest.entries().iter().filter(|entry| entry.is_alive()).map(|entry| TableFile {
                entry: Arc::clone(entry),
                spec_id: file.partition_spec_id,
                sequence: entry.sequence_number().unwrap_or(file.sequence_number),
            });
            match file.content {
                ManifestContentType::Data => files.data.extend(live),
                ManifestContentType::Deletes => files.deletes.extend(live),
            }
        }
        Ok(files)
    }

    /// The live files of a snapshot.
    pub(crate) async fn files(
        &self,
        file_io: &FileIO,
        metadata: &TableMetadata,
        snapshot: &SnapshotRef,
    ) -> Result<SnapshotFiles> {
        let manifests = self.list(file_io, metadata, snapshot).await?;
        self.live(file_io, manifests).await
    }

    /// The data files that only one of two snapshots has, each side with the delete files of its snapshot. `from`
    /// `None`: before the first one. Manifests of data files that both have are not read.
    pub(crate) async fn changed_files(
        &self,
        file_io: &FileIO,
        metadata: &TableMetadata,
        from: Option<&SnapshotRef>,
        to: &SnapshotRef,
    ) -> Result<ChangedFiles> {
        let new = self.list(file_io, metadata, to).await?;
        let old = match from {
            Some(from) => self.list(file_io, metadata, from).await?,
            None => Vec::new(),
        };
        let paths = |manifests: &[ManifestFile]| -> HashSet<String> {
            manifests.iter().map(|manifest| manifest.manifest_path.clone()).collect()
        };
        let (in_new, in_old) = (paths(&new), paths(&old));
        let unlike = |manifests: Vec<ManifestFile>, other: &HashSet<String>| -> Vec<ManifestFile> {
            let is_unlike = |manifest: &ManifestFile| {
                manifest.content == ManifestContentType::Deletes || !other.contains(&manifest.manifest_path)
            };
            manifests.into_iter().filter(is_unlike).collect()
        };
        let mut added = self.live(file_io, unlike(new, &in_old)).await?;
        let mut removed = self.live(file_io, unlike(old, &in_new)).await?;
        let paths = |files: &SnapshotFiles| -> HashSet<String> {
            files.data.iter().map(|file| file.entry.file_path().to_owned()).collect()
        };
        let (in_added, in_removed) = (paths(&added), paths(&removed));
        added.data.retain(|file| !in_removed.contains(file.entry.file_path()));
        removed.data.retain(|file| !in_added.contains(file.entry.file_path()));
        Ok(ChangedFiles { added, removed })
    }
}

/// The data files that only one of two snapshots has.
#[derive(Debug, Default)]
pub(crate) struct ChangedFiles {
    /// Those of the later one.
    pub(crate) added: SnapshotFiles,
    /// Those of the earlier one.
    pub(crate) removed: SnapshotFiles,
}

/// Live files of a snapshot.
#[derive(Debug, Default, Clone)]
pub(crate) struct SnapshotFiles {
    pub(crate) data: Vec<TableFile>,
    pub(crate) deletes: Vec<TableFile>,
}

/// A data or delete file.
#[derive(Debug, Clone)]
pub(crate) struct TableFile {
    pub(crate) entry: ManifestEntryRef,
    pub(crate) spec_id: i32,
    /// Its data sequence number.
    pub(crate) sequence: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bytes_and_drops_what_was_used_longest_ago() {
        let mut cache = Bounded::new(3 * ENTRY_BYTES);
        for name in ["a", "b", "c"] {
            cache.insert(name.to_owned(), Arc::new(name), 1);
        }
        assert!(cache.get("a").is_some());
        cache.insert("d".to_owned(), Arc::new("d"), 1);
        assert!(cache.get("b").is_none());
        assert!(cache.get("a").is_some() && cache.get("c").is_some() && cache.get("d").is_some());
        assert_eq!(cache.used, 3 * ENTRY_BYTES);
    }
}
