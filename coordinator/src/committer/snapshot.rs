//! A snapshot: its identity, its time, its summary, and the metadata that makes it current.

use std::collections::HashMap;
use std::collections::HashSet;

use iceberg::spec::{
    DataContentType, DataFile, MAIN_BRANCH, Operation, Snapshot, Struct, Summary, TableMetadata,
};
use stevedore_common::Result;
use stevedore_common::clock::UnixMillis;
use stevedore_common::row_lineage::ROW_LINEAGE;
use uuid::Uuid;

use super::manifests::ParsedFiles;
use super::{Append, COMMIT_ID, Committer, JOB_ID};

/// What a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Data files.
    pub data_files: u64,
    /// Rows, before deletes that other engines keep beside them.
    pub records: u64,
    /// Bytes of data and delete files.
    pub bytes: u64,
    /// Delete files.
    pub delete_files: u64,
    /// Rows named by position deletes.
    pub position_deletes: u64,
    /// Rows of equality deletes.
    pub equality_deletes: u64,
}

impl Totals {
    /// From a snapshot's summary, if it has all of it.
    fn from_summary(summary: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| summary.get(key)?.parse().ok();
        Some(Self {
            data_files: number("total-data-files")?,
            records: number("total-records")?,
            bytes: number("total-files-size")?,
            delete_files: number("total-delete-files").unwrap_or(0),
            position_deletes: number("total-position-deletes").unwrap_or(0),
            equality_deletes: number("total-equality-deletes").unwrap_or(0),
        })
    }
}

/// What a snapshot adds and removes.
#[derive(Debug, Default)]
pub(super) struct Change {
    added: Totals,
    removed: Totals,
    partitions: HashSet<Struct>,
}

impl Change {
    pub(super) fn added(files: &ParsedFiles) -> Self {
        let mut change = Self::default();
        for file in files.iter() {
            count(&mut change.added, file);
            change.partitions.insert(file.partition().clone());
        }
        change
    }

    pub(super) fn removed(&mut self, file: &DataFile) {
        count(&mut self.removed, file);
        self.partitions.insert(file.partition().clone());
    }

    pub(super) fn apply(&self, before: Totals) -> Totals {
        let next = |before: u64, added: u64, removed: u64| (before + added).saturating_sub(removed);
        let (added, removed) = (&self.added, &self.removed);
        Totals {
            data_files: next(before.data_files, added.data_files, removed.data_files),
            records: next(before.records, added.records, removed.records),
            bytes: next(before.bytes, added.bytes, removed.bytes),
            delete_files: next(before.delete_files, added.delete_files, removed.delete_files),
            position_deletes: next(before.position_deletes, added.position_deletes, removed.position_deletes),
            equality_deletes: next(before.equality_deletes, added.equality_deletes, removed.equality_deletes),
        }
    }
}

fn count(totals: &mut Totals, file: &DataFile) {
    totals.bytes += file.file_size_in_bytes();
    match file.content_type() {
        DataContentType::Data => {
            totals.data_files += 1;
            totals.records += file.record_count();
        }
        DataContentType::PositionDeletes => {
            totals.delete_files += 1;
            totals.position_deletes += file.record_count();
        }
        DataContentType::EqualityDeletes => {
            totals.delete_files += 1;
            totals.equality_deletes += file.record_count();
        }
    }
}

/// A snapshot to be.
#[derive(Debug)]
pub(super) struct NewSnapshot {
    pub(super) id: i64,
    pub(super) parent: Option<i64>,
    pub(super) sequence_number: i64,
    timestamp_ms: UnixMillis,
    keeps_lineage: bool,
}

impl NewSnapshot {
    pub(super) fn new(metadata: &TableMetadata, now_ms: UnixMillis) -> Self {
        let id = loop {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            let id = ((high ^ low) >> 1) as i64;
            if id != 0 && metadata.snapshot_by_id(id).is_none() {
                break id;
            }
        };
        Self {
            id,
            parent: metadata.current_snapshot_id(),
            sequence_number: metadata.next_sequence_number(),
            // Leaders' clocks differ; the table's history must not run backwards.
            timestamp_ms: now_ms.max(metadata.last_updated_ms()),
            keeps_lineage: false,
        }
    }

    /// The same, for one whose files say of each row that they took over which one it is.
    pub(super) fn keeping_lineage(self) -> Self {
        Self { keeps_lineage: true, ..self }
    }

    pub(super) fn summary(
        &self,
        operation: Operation,
        change: &Change,
        totals: &Totals,
        append: &Append,
    ) -> Summary {
        let mut properties: HashMap<String, String> =
            append.summary.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut set = |key: &str, value: u64, always: bool| {
            if always || value > 0 {
                properties.insert(key.to_owned(), value.to_string());
            }
        };
        set("added-data-files", change.added.data_files, false);
        set("added-records", change.added.records, false);
        set("added-files-size", change.added.bytes, false);
        set("deleted-data-files", change.removed.data_files, false);
        set("deleted-records", change.removed.records, false);
        set("removed-files-size", change.removed.bytes, false);
        set("removed-delete-files", change.removed.delete_files, false);
        set("removed-position-deletes", change.removed.position_deletes, false);
        set("removed-equality-deletes", change.removed.equality_deletes, false);
        set("changed-partition-count", change.partitions.len() as u64, true);
        set("total-data-files", totals.data_files, true);
        set("total-records", totals.records, true);
        set("total-files-size", totals.bytes, true);
        set("total-delete-files", totals.delete_files, true);
        set("total-position-deletes", totals.position_deletes, true);
        set("total-equality-deletes", totals.equality_deletes, true);
        properties.insert(JOB_ID.to_owned(), append.job_id.clone());
        properties.insert(COMMIT_ID.to_owned(), append.commit_id.clone());
        if self.keeps_lineage {
            properties.insert(ROW_LINEAGE.to_owned(), "true".to_owned());
        }
        Summary { operation, additional_properties: properties }
    }

    /// The metadata with this snapshot as the current one.
    pub(super) fn build(
        self,
        metadata: &TableMetadata,
        metadata_location: &str,
        manifest_list: String,
        summary: Summary,
    ) -> iceberg::Result<TableMetadata> {
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.id)
            .with_parent_snapshot_id(self.parent)
            .with_sequence_number(self.sequence_number)
            .with_timestamp_ms(self.timestamp_ms)
            .with_manifest_list(manifest_list)
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id())
            .build();
        // The builder limits the metadata log (write.metadata.previous-versions-max, 100 by default).
        let built = metadata
            .clone()
            .into_builder(Some(metadata_location.to_owned()))
            .set_branch_snapshot(snapshot, MAIN_BRANCH)?
            .build()?;
        Ok(built.metadata)
    }
}

impl Committer {
    /// What the table holds: from the summary of its current snapshot, or counted where another
    /// engine left that out.
    ///
    /// # Errors
    /// Storage, where manifests must be read and cannot be.
    pub async fn totals(&self, metadata: &TableMetadata) -> Result<Totals> {
        let Some(snapshot) = metadata.current_snapshot() else {
            return Ok(Totals::default());
        };
        if let Some(totals) = Totals::from_summary(&snapshot.summary().additional_properties) {
            return Ok(totals);
        }
        let mut totals = Totals::default();
        for manifest in self.live_manifests(metadata).await? {
            let manifest = self.load_manifest(&manifest).await?;
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                count(&mut totals, &entry.data_file);
            }
        }
        Ok(totals)
    }
}
