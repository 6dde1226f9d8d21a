//! Versions that empty a table, and may fill it again in the same snapshot.

use iceberg::spec::Operation;
use stevedore_common::Result;

use super::snapshot::{Change, NewSnapshot};
use super::{Append, Committer, Prepared};

impl Committer {
    /// A version whose only rows are those of the data files: INSERT OVERWRITE, and TRUNCATE where
    /// there are none. The snapshot lists the files that went, as deleted.
    ///
    /// # Errors
    /// As [`Committer::append`].
    pub async fn overwrite(&self, metadata_location: &str, append: &Append) -> Result<Prepared> {
        let base = self.prepare_base(metadata_location, append).await?;
        let live = self.live_manifests(&base.metadata).await?;
        // No row is taken over.
        let snapshot = NewSnapshot::new(&base.metadata, append.now_ms).keeping_lineage();
        let mut written = Vec::new();
        let mut change = Change::added(&base.files);
        let added =
            self.write_added(&base.metadata, &snapshot, &base.schema, append.spec_id, &base.files).await?;
        written.extend(added.iter().map(|manifest| manifest.manifest_path.clone()));
        let deleted = self.write_deleted(&base.metadata, &snapshot, live, &mut change).await?;
        written.extend(deleted.iter().map(|manifest| manifest.manifest_path.clone()));
        let operation = if base.files.is_empty() { Operation::Delete } else { Operation::Overwrite };
        let manifests = added.into_iter().chain(deleted).collect();
        self.finish_snapshot(metadata_location, base, append, snapshot, operation, change, manifests, written)
            .await
    }

    /// TRUNCATE: a version without rows.
    ///
    /// # Errors
    /// As [`Committer::append`].
    pub async fn truncate(
        &self,
        metadata_location: &str,
        job_id: &str,
        commit_id: &str,
        now_ms: i64,
    ) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        let nothing = Append {
            data_files: Vec::new(),
            schema_id: metadata.current_schema_id(),
            spec_id: metadata.default_partition_spec_id(),
            job_id: job_id.to_owned(),
            commit_id: commit_id.to_owned(),
            now_ms,
            summary: Default::default(),
            evolution: None,
        };
        self.overwrite(metadata_location, &nothing).await
    }
}
