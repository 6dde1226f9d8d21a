//! Makes new versions of Iceberg tables: everything up to, and never including, the flip.
//!
//! Comes in: a table's current metadata location and what is to change (data files as JSON, columns,
//! properties). Goes out: a [`Prepared`] version, whose files are all written under fresh names and
//! which nothing refers to yet. The caller proposes ONE command that flips the table from the location
//! that the version rests on to the new one; when that race is lost, the same call on the newer
//! location is the rebase (data files are only added again, never changed), and what was prepared
//! before is garbage ([`Committer::discard`]).
//!
//! Must never: overwrite or delete a file that a metadata file could refer to, decide whether a commit
//! happened, read the clock (time is an argument, clamped to the table's last update), change what data
//! files mean. Fails with `Conflict` where the written files no longer fit the table (their slices run
//! again), with retryable `Storage` errors where the warehouse cannot be reached.

mod alter;
mod append;
mod create;
mod evolve;
mod manifests;
mod overwrite;
mod rewrite;
mod snapshot;
pub mod sweep;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec::{FormatVersion, SnapshotRef, TableMetadata, TableMetadataRef};
use parking_lot::Mutex;
use stevedore_common::{Error, Result};

pub use alter::check_column_name;
pub use append::Append;
pub use create::{Created, NewTable, PartitionField};
pub use evolve::{Evolution, with_columns};
pub use snapshot::Totals;
pub use stevedore_common::row_lineage::JOB_ID;

/// The summary key that says how many of the rows that a snapshot added are new, where it also has rows in the
/// place of others.
pub const INSERTED_ROWS: &str = "stevedore.inserted-rows";
/// The summary key that names the try at committing that job.
pub const COMMIT_ID: &str = "stevedore.commit-id";

/// How many parsed metadata files are kept.
const CACHED_METADATA: usize = 128;

/// A version of a table that is written and waits for its flip.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The location to flip to.
    pub metadata_location: String,
    /// The table.
    pub table_uuid: String,
    /// The current snapshot of the new version, if it has one.
    pub snapshot_id: Option<i64>,
    /// Rows of the table in the new version.
    pub rows_total: u64,
    /// Bytes of its data files.
    pub bytes_total: u64,
    /// The current schema of the version that it was built on.
    pub base_schema_id: i32,
    /// Its current schema.
    pub schema_id: i32,
    /// The last field id that was handed out in it.
    pub last_column_id: i32,
    /// Its default partition spec.
    pub spec_id: i32,
    /// Everything that was written for this version, the metadata file last.
    pub written: Vec<String>,
}

/// Prepares versions of tables in one warehouse. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    file_io: FileIO,
    cache: Arc<Mutex<MetadataCache>>,
}

#[derive(Debug, Default)]
struct MetadataCache {
    by_location: HashMap<String, TableMetadataRef>,
    oldest_first: VecDeque<String>,
}

impl MetadataCache {
    fn insert(&mut self, location: &str, metadata: TableMetadataRef) {
        if self.by_location.insert(location.to_owned(), metadata).is_none() {
            self.oldest_first.push_back(location.to_owned());
        }
        while self.oldest_first.len() > CACHED_METADATA {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.by_location.remove(&oldest);
            }
        }
    }
}

impl Committer {
    /// A committer over a warehouse.
    pub fn new(file_io: FileIO) -> Self {
        Self { file_io, cache: Arc::default() }
    }

    /// The warehouse's files.
    pub fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    /// The metadata at a location. Metadata files never change, so they are cached by location.
    ///
    /// # Errors
    /// Storage (retryable) where it cannot be read; internal where it is no table metadata.
    pub async fn load(&self, metadata_location: &str) -> Result<TableMetadataRef> {
        if let Some(metadata) = self.cache.lock().by_location.get(metadata_location) {
            return Ok(metadata.clone());
        }
        let metadata = TableMetadata::read_from(&self.file_io, metadata_location)
            .await
            .map_err(|e| failed(&format!("reading table metadata {metadata_location}"), e))?;
        let metadata = Arc::new(metadata);
        self.cache.lock().insert(metadata_location, metadata.clone());
        Ok(metadata)
    }

    /// Deletes what was written for a version whose flip was certainly refused. Best effort: what
    /// stays is found by the sweep.
    pub async fn discard(&self, prepared: &Prepared) {
        self.cache.lock().by_location.remove(&prepared.metadata_location);
        self.discard_files(&prepared.written).await;
    }

    /// Deletes files of versions that nothing refers to and nothing ever will. Best effort.
    pub async fn discard_files(&self, written: &[String]) {
        for location in written {
            if let Err(error) = self.file_io.delete(location).await {
                tracing::debug!(location, %error, "an unused metadata file was left behind");
            }
        }
    }

    /// Writes `metadata` as the version after `current_location`.
    async fn write_next(
        &self,
        current_location: &str,
        metadata: TableMetadata,
        totals: Totals,
        mut written: Vec<String>,
    ) -> Result<Prepared> {
        let base_schema_id = self.load(current_location).await?.current_schema_id();
        let location: MetadataLocation = current_location.parse().map_err(|e| {
            failed(&format!("the metadata location {current_location} is not one of ours"), e)
        })?;
        let location = location.with_next_version().with_new_metadata(&metadata);
        let metadata_location = self.write_metadata(&metadata, &location).await?;
        written.push(metadata_location.clone());
        let prepared = Prepared {
            table_uuid: metadata.uuid().to_string(),
            snapshot_id: metadata.current_snapshot_id(),
            rows_total: totals.records,
            bytes_total: totals.bytes,
            base_schema_id,
            schema_id: metadata.current_schema_id(),
            last_column_id: metadata.last_column_id(),
            spec_id: metadata.default_partition_spec_id(),
            written,
            metadata_location,
        };
        self.cache.lock().insert(&prepared.metadata_location, Arc::new(metadata));
        Ok(prepared)
    }

    async fn write_metadata(&self, metadata: &TableMetadata, location: &MetadataLocation) -> Result<String> {
        metadata
            .write_to(&self.file_io, location)
            .await
            .map_err(|e| failed(&format!("writing table metadata {location}"), e))?;
        Ok(location.to_string())
    }
}

/// The snapshot that a job committed, if it did: a commit that is tried again answers with it.
pub fn find_commit<'a>(metadata: &'a TableMetadata, job_id: &str) -> Option<&'a SnapshotRef> {
    metadata
        .snapshots()
        .find(|snapshot| snapshot.summary().additional_properties.get(JOB_ID).is_some_and(|id| id == job_id))
}

/// Tables of other format versions are read, not written.
fn check_writable(metadata: &TableMetadata) -> Result<()> {
    match metadata.format_version() {
        FormatVersion::V2 => Ok(()),
        other => Err(Error::not_supported(format!("writing Iceberg tables of format {other}"))
            .hint("tables of format version 2 can be written")),
    }
}

/// An error of the iceberg crate, with what was being done. Its storage errors carry no kind that
/// tells a missing network from a missing file, so all of them may be tried again.
fn failed(what: &str, error: iceberg::Error) -> Error {
    let error = match error.kind() {
        iceberg::ErrorKind::DataInvalid => Error::internal(format!("iceberg: {error}")),
        iceberg::ErrorKind::FeatureUnsupported => Error::not_supported(format!("{error}")),
        _ => Error::storage(format!("iceberg: {error}")).retryable(true),
    };
    error.context(what)
}

#[cfg(test)]
mod tests;
