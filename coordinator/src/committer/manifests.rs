//! Reading and writing manifests: new ones for added files, merged ones for many small ones, and
//! those that record what was deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{
    DataContentType, DataFile, ManifestContentType, ManifestFile, ManifestList, ManifestListWriter,
    ManifestWriter, ManifestWriterBuilder, PartitionSpec, SchemaRef, StructType, TableMetadata,
    deserialize_data_file_from_json,
};
use stevedore_common::{Error, Result};
use uuid::Uuid;

use super::snapshot::{Change, NewSnapshot};
use super::{Committer, failed};

/// A new manifest holds at most so many files, so that planning a scan can read them in parallel.
const FILES_PER_MANIFEST: usize = 2000;
/// Manifests below this size are merged when there are many of them.
const SMALL_MANIFEST: i64 = 8 << 20;
/// How many small manifests pile up before they are merged.
pub(super) const SMALL_MANIFESTS_MAX: usize = 100;
/// Manifests read or written at a time.
const CONCURRENCY: usize = 8;

/// Data files, parsed.
#[derive(Debug, Default)]
pub(super) struct ParsedFiles(Vec<DataFile>);

impl ParsedFiles {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DataFile> {
        self.0.iter()
    }
}

/// Parses what workers reported. Off the core threads: there can be many files, each with hundreds of
/// column statistics.
pub(super) async fn parse_data_files(
    data_files: Vec<String>,
    spec_id: i32,
    partition_type: StructType,
    schema: SchemaRef,
) -> Result<ParsedFiles> {
    let parse = move || {
        let mut seen = std::collections::HashSet::new();
        let mut parsed = Vec::with_capacity(data_files.len());
        for json in &data_files {
            let file = deserialize_data_file_from_json(json, spec_id, &partition_type, &schema)
                .map_err(|e| failed("reading a reported data file", e))?;
            if file.content_type() != DataContentType::Data {
                return Err(Error::internal(format!("{} is reported and holds no rows", file.file_path())));
            }
            if !seen.insert(file.file_path().to_owned()) {
                return Err(Error::internal(format!("data file {} is reported twice", file.file_path())));
            }
            parsed.push(file);
        }
        Ok(ParsedFiles(parsed))
    };
    tokio::task::spawn_blocking(parse)
        .await
        .map_err(|e| Error::internal(format!("reading the reported data files: {e}")))?
}

impl Committer {
    /// The manifests of the current snapshot that still hold live files.
    pub(super) async fn live_manifests(&self, metadata: &TableMetadata) -> Result<Vec<ManifestFile>> {
        let Some(snapshot) = metadata.current_snapshot() else {
            return Ok(Vec::new());
        };
        let location = snapshot.manifest_list();
        let read = async {
            let bytes = self.file_io.new_input(location)?.read().await?;
            ManifestList::parse_with_version(&bytes, metadata.format_version())
        };
        let list = read.await.map_err(|e| failed(&format!("reading manifest list {location}"), e))?;
        Ok(list
            .consume_entries()
            .into_iter()
            .filter(|manifest| manifest.has_added_files() || manifest.has_existing_files())
            .collect())
    }

    /// Manifests that add the files.
    pub(super) async fn write_added(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        schema: &SchemaRef,
        spec_id: i32,
        files: &ParsedFiles,
    ) -> Result<Vec<ManifestFile>> {
        let spec = spec_of(metadata, spec_id)?;
        // The futures are made before the stream: one that makes them as it goes is not `Send`.
        let writes: Vec<_> = files
            .0
            .chunks(FILES_PER_MANIFEST)
            .map(|chunk| async move {
                let mut writer =
                    self.manifest_writer(metadata, snapshot, schema, spec, ManifestContentType::Data)?;
                for file in chunk {
                    // A negative number means: the snapshot's own, inherited.
                    writer.add_file(file.clone(), -1).map_err(|e| failed("adding a data file", e))?;
                }
                writer.write_manifest_file().await.map_err(|e| failed("writing a manifest", e))
            })
            .collect();
        stream::iter(writes).buffered(CONCURRENCY).try_collect().await
    }

    /// Merges small manifests of the same partitioning once more than [`SMALL_MANIFESTS_MAX`] piled up.
    pub(super) async fn merge_small_manifests(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        manifests: &mut Vec<ManifestFile>,
        written: &mut Vec<String>,
    ) -> Result<()> {
        let mergeable = |manifest: &ManifestFile| {
            manifest.content == ManifestContentType::Data && manifest.manifest_length < SMALL_MANIFEST
        };
        let mut small: BTreeMap<i32, Vec<ManifestFile>> = BTreeMap::new();
        for manifest in manifests.iter().filter(|manifest| mergeable(manifest)) {
            small.entry(manifest.partition_spec_id).or_default().push(manifest.clone());
        }
        for (spec_id, group) in small {
            let spec = spec_of(metadata, spec_id)?;
            // A partitioning by a column that is gone cannot be bound to the current schema.
            if group.len() <= SMALL_MANIFESTS_MAX || spec.partition_type(metadata.current_schema()).is_err() {
                continue;
            }
            manifests.retain(|manifest| !(mergeable(manifest) && manifest.partition_spec_id == spec_id));
            for bin in bins(group) {
                let merged = self.write_merged(metadata, snapshot, spec, &bin).await?;
                written.push(merged.manifest_path.clone());
                manifests.push(merged);
            }
        }
        Ok(())
    }

    async fn write_merged(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        spec: &PartitionSpec,
        bin: &[ManifestFile],
    ) -> Result<ManifestFile> {
        let schema = metadata.current_schema();
        let mut writer = self.manifest_writer(metadata, snapshot, schema, spec, ManifestContentType::Data)?;
        let loads: Vec<_> = bin.iter().map(|manifest| self.load_manifest(manifest)).collect();
        let mut loaded = stream::iter(loads).buffered(CONCURRENCY);
        while let Some(manifest) = loaded.next().await {
            for entry in manifest?.entries().iter().filter(|entry| entry.is_alive()) {
                let (Some(added_by), Some(sequence)) = (entry.snapshot_id(), entry.sequence_number()) else {
                    return Err(Error::internal(format!("{} has no sequence number", entry.file_path())));
                };
                let file_sequence = entry.file_sequence_number.unwrap_or(sequence);
                writer
                    .add_existing_file(entry.data_file.clone(), added_by, sequence, Some(file_sequence))
                    .map_err(|e| failed("merging manifests", e))?;
            }
        }
        writer.write_manifest_file().await.map_err(|e| failed("writing a merged manifest", e))
    }

    /// The same manifests with every live entry marked as deleted; counts what goes into `change`.
    pub(super) async fn write_deleted(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        live: Vec<ManifestFile>,
        change: &mut Change,
    ) -> Result<Vec<ManifestFile>> {
        let mut written = Vec::with_capacity(live.len());
        for manifest_file in live {
            let manifest = self.load_manifest(&manifest_file).await?;
            let spec = spec_of(metadata, manifest_file.partition_spec_id)?;
            // Its own schema: the files may have columns that are gone by now.
            let schema = Arc::new(manifest.metadata().schema().as_ref().clone());
            let mut writer =
                self.manifest_writer(metadata, snapshot, &schema, spec, manifest_file.content)?;
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                let Some(sequence) = entry.sequence_number() else {
                    return Err(Error::internal(format!("{} has no sequence number", entry.file_path())));
                };
                change.removed(&entry.data_file);
                writer
                    .add_delete_file(
                        entry.data_file.clone(),
                        sequence,
                        Some(entry.file_sequence_number.unwrap_or(sequence)),
                    )
                    .map_err(|e| failed("recording a deleted file", e))?;
            }
            written.push(writer.write_manifest_file().await.map_err(|e| failed("writing a manifest", e))?);
        }
        Ok(written)
    }

    /// A manifest whose entries at `removed` are marked as deleted; they are taken out of `removed`, and
    /// counted in `change`.
    pub(super) async fn write_without(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        file: &ManifestFile,
        manifest: &iceberg::spec::Manifest,
        removed: &mut HashSet<&str>,
        change: &mut Change,
    ) -> Result<ManifestFile> {
        let spec = spec_of(metadata, file.partition_spec_id)?;
        // Its own schema: the files may have columns that are gone by now.
        let schema = Arc::new(manifest.metadata().schema().as_ref().clone());
        let mut writer = self.manifest_writer(metadata, snapshot, &schema, spec, file.content)?;
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let (Some(added_by), Some(sequence)) = (entry.snapshot_id(), entry.sequence_number()) else {
                return Err(Error::internal(format!("{} has no sequence number", entry.file_path())));
            };
            let file_sequence = Some(entry.file_sequence_number.unwrap_or(sequence));
            let written = if removed.remove(entry.file_path()) {
                change.removed(&entry.data_file);
                writer.add_delete_file(entry.data_file.clone(), sequence, file_sequence)
            } else {
                writer.add_existing_file(entry.data_file.clone(), added_by, sequence, file_sequence)
            };
            written.map_err(|e| failed("recording a replaced file", e))?;
        }
        writer.write_manifest_file().await.map_err(|e| failed("writing a manifest", e))
    }

    pub(super) async fn load_manifest(&self, manifest: &ManifestFile) -> Result<iceberg::spec::Manifest> {
        manifest
            .load_manifest(&self.file_io)
            .await
            .map_err(|e| failed(&format!("reading manifest {}", manifest.manifest_path), e))
    }

    fn manifest_writer(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        schema: &SchemaRef,
        spec: &PartitionSpec,
        content: ManifestContentType,
    ) -> Result<ManifestWriter> {
        let location = format!("{}/metadata/{}-m.avro", metadata.location(), Uuid::new_v4());
        let output =
            self.file_io.new_output(&location).map_err(|e| failed(&format!("writing {location}"), e))?;
        let builder = ManifestWriterBuilder::new(output, Some(snapshot.id), schema.clone(), spec.clone());
        Ok(match content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        })
    }

    pub(super) async fn write_manifest_list(
        &self,
        metadata: &TableMetadata,
        snapshot: &NewSnapshot,
        manifests: Vec<ManifestFile>,
    ) -> Result<String> {
        let location =
            format!("{}/metadata/snap-{}-{}.avro", metadata.location(), snapshot.id, Uuid::new_v4());
        let write = async {
            let output = self.file_io.new_output(&location)?.writer().await?;
            let mut writer =
                ManifestListWriter::v2(output, snapshot.id, snapshot.parent, snapshot.sequence_number);
            writer.add_manifests(manifests.into_iter())?;
            writer.close().await
        };
        write.await.map_err(|e| failed(&format!("writing manifest list {location}"), e))?;
        Ok(location)
    }
}

fn spec_of(metadata: &TableMetadata, spec_id: i32) -> Result<&PartitionSpec> {
    metadata
        .partition_spec_by_id(spec_id)
        .map(Arc::as_ref)
        .ok_or_else(|| Error::conflict(format!("the table has no partition spec {spec_id}")))
}

/// Packs manifests, in order, into groups of about the size from which a manifest is left alone.
fn bins(manifests: Vec<ManifestFile>) -> Vec<Vec<ManifestFile>> {
    let mut bins: Vec<Vec<ManifestFile>> = Vec::new();
    let mut size = i64::MAX;
    for manifest in manifests {
        if size >= SMALL_MANIFEST {
            bins.push(Vec::new());
            size = 0;
        }
        size += manifest.manifest_length;
        if let Some(bin) = bins.last_mut() {
            bin.push(manifest);
        }
    }
    bins
}
