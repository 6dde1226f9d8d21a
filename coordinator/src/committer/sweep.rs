//! Which files nobody needs any more.
//!
//! Comes in: a listing of data files and the set that metadata refers to. Goes out: the files that may
//! be deleted. The decision to sweep (which jobs have ended, after a linearizable read) is the
//! caller's; age alone never decides here.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{ManifestList, TableMetadata};
use stevedore_common::Result;
use stevedore_common::ids::JobId;

use super::{Committer, failed};

/// The job that wrote a data file, told from its name (`<job>-<slice>-<attempt>-…`).
pub fn job_of(data_file: &str) -> Option<JobId> {
    const UUID_LENGTH: usize = 36;
    let name = data_file.rsplit('/').next().unwrap_or(data_file);
    let (job, rest) = name.split_at_checked(UUID_LENGTH)?;
    if rest.starts_with('-') { job.parse().ok() } else { None }
}

/// The listed data files that one of `ended` jobs wrote and nothing refers to. Files whose names are
/// not ours are never among them.
pub fn orphans(
    listing: impl IntoIterator<Item = String>,
    ended: &HashSet<JobId>,
    referenced: &HashSet<String>,
) -> Vec<String> {
    listing
        .into_iter()
        .filter(|file| job_of(file).is_some_and(|job| ended.contains(&job)) && !referenced.contains(file))
        .collect()
}

impl Committer {
    /// Every data and delete file that any snapshot of the table holds, as live or as deleted.
    ///
    /// # Errors
    /// Storage; then nothing may be swept.
    pub async fn referenced_files(&self, metadata: &TableMetadata) -> Result<HashSet<String>> {
        let mut manifests = HashSet::new();
        let mut to_read = Vec::new();
        for snapshot in metadata.snapshots() {
            let location = snapshot.manifest_list();
            let read = async {
                let bytes = self.file_io.new_input(location)?.read().await?;
                ManifestList::parse_with_version(&bytes, metadata.format_version())
            };
            let list = read.await.map_err(|e| failed(&format!("reading manifest list {location}"), e))?;
            for manifest in list.consume_entries() {
                if manifests.insert(manifest.manifest_path.clone()) {
                    to_read.push(manifest);
                }
            }
        }
        stream::iter(to_read)
            .map(|manifest| async move { self.load_manifest(&manifest).await })
            .buffer_unordered(8)
            .try_fold(HashSet::new(), |mut files, manifest| async move {
                files.extend(manifest.entries().iter().map(|entry| entry.file_path().to_owned()));
                Ok(files)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_unreferenced_files_of_ended_jobs_are_orphans() {
        let (ended, live) = (JobId::generate(), JobId::generate());
        let file = |job: &JobId, n: u32| format!("s3://w/t/data/{job}-0-1-{n}-x.parquet");
        let listing = vec![
            file(&ended, 0),
            file(&ended, 1),
            file(&live, 0),
            "s3://w/t/data/00000-0-written-by-another-engine-with-a-long-name.parquet".to_owned(),
        ];
        let referenced = HashSet::from([file(&ended, 0)]);
        assert_eq!(orphans(listing, &HashSet::from([ended]), &referenced), [file(&ended, 1)]);
    }
}
