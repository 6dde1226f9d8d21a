//! A table that grows snapshot by snapshot, its manifests written as the coordinator writes them. For tests and
//! benchmarks: whatever goes wrong panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;

use iceberg::TableCreation;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, MAIN_BRANCH, ManifestFile, ManifestListWriter, ManifestWriter, ManifestWriterBuilder,
    Operation, Schema, Snapshot, Summary, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec,
};

/// A table and how it came to be.
pub(crate) struct History {
    io: FileIO,
    location: String,
    pub(crate) metadata: TableMetadata,
    manifests: Vec<(ManifestFile, Vec<Live>)>,
    written: usize,
}

#[derive(Clone)]
struct Live {
    file: DataFile,
    sequence: i64,
    snapshot: i64,
}

impl History {
    pub(crate) fn create(
        io: FileIO,
        location: String,
        schema: Schema,
        properties: HashMap<String, String>,
        spec: UnboundPartitionSpec,
    ) -> Self {
        let creation = TableCreation::builder()
            .name("t".to_owned())
            .location(location.clone())
            .schema(schema)
            .partition_spec(spec)
            .properties(properties)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
        Self { io, location, metadata, manifests: Vec::new(), written: 0 }
    }

    fn path(&mut self, name: &str) -> String {
        self.written += 1;
        format!("{}/metadata/{}-{name}", self.location, self.written)
    }

    fn manifest(&mut self, snapshot: i64) -> ManifestWriter {
        let path = self.path("m.avro");
        let (schema, spec) =
            (self.metadata.current_schema().clone(), self.metadata.default_partition_spec().as_ref().clone());
        let output = self.io.new_output(path).unwrap();
        ManifestWriterBuilder::new(output, Some(snapshot), schema, spec).build_v2_data()
    }

    /// The next snapshot; answers its id.
    pub(crate) async fn commit(
        &mut self,
        operation: Operation,
        added: Vec<DataFile>,
        removed: &[String],
        summary: &[(&str, &str)],
    ) -> i64 {
        let sequence = self.metadata.last_sequence_number() + 1;
        let snapshot = 100 + sequence;
        let mut manifests = Vec::new();
        if !added.is_empty() {
            let mut writer = self.manifest(snapshot);
            for file in &added {
                writer.add_file(file.clone(), -1).unwrap();
            }
            let live = added.into_iter().map(|file| Live { file, sequence, snapshot }).collect();
            manifests.push((writer.write_manifest_file().await.unwrap(), live));
        }
        for (manifest, live) in std::mem::take(&mut self.manifests) {
            let goes = |entry: &Live| removed.iter().any(|path| *path == entry.file.file_path());
            if !live.iter().any(goes) {
                manifests.push((manifest, live));
                continue;
            }
            let mut writer = self.manifest(snapshot);
            for Live { file, sequence, snapshot } in live.iter().cloned() {
                match goes(&Live { file: file.clone(), sequence, snapshot }) {
                    true => writer.add_delete_file(file, sequence, Some(sequence)).unwrap(),
                    false => writer.add_existing_file(file, snapshot, sequence, Some(sequence)).unwrap(),
                }
            }
            let rest = live.into_iter().filter(|entry| !goes(entry)).collect();
            manifests.push((writer.write_manifest_file().await.unwrap(), rest));
        }
        let list = self.path("list.avro");
        let output = self.io.new_output(&list).unwrap().writer().await.unwrap();
        let parent = self.metadata.current_snapshot_id();
        let mut writer = ManifestListWriter::v2(output, snapshot, parent, sequence);
        writer.add_manifests(manifests.iter().map(|(manifest, _)| manifest.clone())).unwrap();
        writer.close().await.unwrap();
        // What they inherit is known once they are committed.
        for (manifest, _) in manifests.iter_mut().filter(|(manifest, _)| manifest.sequence_number < 0) {
            manifest.sequence_number = sequence;
            manifest.min_sequence_number =
                if manifest.min_sequence_number < 0 { sequence } else { manifest.min_sequence_number };
        }
        self.manifests = manifests;
        let additional_properties =
            summary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let built = Snapshot::builder()
            .with_snapshot_id(snapshot)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(sequence)
            .with_timestamp_ms(self.metadata.last_updated_ms() + 1)
            .with_manifest_list(list)
            .with_summary(Summary { operation, additional_properties })
            .with_schema_id(self.metadata.current_schema_id())
            .build();
        self.change(|builder| builder.set_branch_snapshot(built, MAIN_BRANCH).unwrap());
        snapshot
    }

    /// Any other change of the metadata.
    pub(crate) fn change(&mut self, change: impl FnOnce(TableMetadataBuilder) -> TableMetadataBuilder) {
        self.metadata = change(self.metadata.clone().into_builder(None)).build().unwrap().metadata;
    }

    /// The live data files.
    pub(crate) fn data_files(&self) -> impl Iterator<Item = &DataFile> {
        self.manifests.iter().flat_map(|(_, live)| live).map(|live| &live.file)
    }

    /// Their locations.
    pub(crate) fn files(&self) -> Vec<String> {
        self.data_files().map(|file| file.file_path().to_owned()).collect()
    }

    /// Writes the metadata as it is now; answers its location.
    pub(crate) async fn metadata_location(&mut self) -> String {
        let path = self.path("v.metadata.json");
        let json = serde_json::to_vec(&self.metadata).unwrap();
        self.io.new_output(&path).unwrap().write(json.into()).await.unwrap();
        path
    }
}
