//! Versions in which some data files stand for others: DELETE, UPDATE and MERGE INTO, by copy on write.

use std::collections::HashSet;

use futures::{StreamExt, stream};
use iceberg::spec::{ManifestContentType, ManifestFile, Operation};
use stevedore_common::{Error, Result};

use super::snapshot::{Change, NewSnapshot};
use super::{Append, Committer, Prepared};

/// Manifests read at a time.
const CONCURRENCY: usize = 8;

fn moved() -> Error {
    Error::conflict("rows that the statement changes were changed by another commit meanwhile")
        .hint("nothing was changed; run the statement again")
}

impl Committer {
    /// A version with the data files added and those at `removed` gone, whose rows the former hold as the
    /// statement left them. What the latter held is known from the snapshot `base`: the table may have got
    /// other files since, but these must be as they were.
    ///
    /// # Errors
    /// Conflict where a file of `removed` is gone, or rows were deleted beside the data files, since `base`;
    /// as [`Committer::append`].
    pub async fn rewrite(
        &self,
        metadata_location: &str,
        append: &Append,
        removed: &[String],
        base: Option<i64>,
    ) -> Result<Prepared> {
        let table = self.prepare_base(metadata_location, append).await?;
        let metadata = &table.metadata;
        let seen = match base {
            None => 0,
            Some(id) => metadata.snapshot_by_id(id).ok_or_else(moved)?.sequence_number(),
        };
        let live = self.live_manifests(metadata).await?;
        let deletes = |manifest: &&ManifestFile| manifest.content == ManifestContentType::Deletes;
        if !removed.is_empty() && live.iter().filter(deletes).any(|manifest| manifest.sequence_number > seen)
        {
            return Err(moved());
        }
        let snapshot = NewSnapshot::new(metadata, append.now_ms).keeping_lineage();
        let mut missing: HashSet<&str> = removed.iter().map(String::as_str).collect();
        let mut change = Change::added(&table.files);
        let mut written = Vec::new();
        let mut manifests =
            self.write_added(metadata, &snapshot, &table.schema, append.spec_id, &table.files).await?;
        written.extend(manifests.iter().map(|manifest| manifest.manifest_path.clone()));
        let loads: Vec<_> = live
            .iter()
            .map(|file| async move {
                let needed = file.content == ManifestContentType::Data && !removed.is_empty();
                let manifest = if needed { Some(self.load_manifest(file).await?) } else { None };
                Ok::<_, Error>((file, manifest))
            })
            .collect();
        let mut loaded = stream::iter(loads).buffered(CONCURRENCY);
        while let Some(next) = loaded.next().await {
            let (file, manifest) = next?;
            let touched = manifest.filter(|manifest| {
                manifest.entries().iter().any(|entry| entry.is_alive() && missing.contains(entry.file_path()))
            });
            let Some(manifest) = touched else {
                manifests.push(file.clone());
                continue;
            };
            let without =
                self.write_without(metadata, &snapshot, file, &manifest, &mut missing, &mut change).await?;
            written.push(without.manifest_path.clone());
            manifests.push(without);
        }
        if !missing.is_empty() {
            self.discard_files(&written).await;
            return Err(moved());
        }
        let operation = match (removed.is_empty(), table.files.is_empty()) {
            (true, _) => Operation::Append,
            (false, true) => Operation::Delete,
            (false, false) => Operation::Overwrite,
        };
        self.finish_snapshot(
            metadata_location,
            table,
            append,
            snapshot,
            operation,
            change,
            manifests,
            written,
        )
        .await
    }
}
