//! From a file task to a file pinned to the version that was listed.

use stevedore_common::file_identity::FileVersion;
use stevedore_common::storage::PinnedFile;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::FileTask;

use super::FileJob;

/// The version that a task was listed with.
pub fn version_of(task: &FileTask) -> FileVersion {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    FileVersion {
        size: task.size,
        etag: given(&task.etag),
        version: given(&task.version),
        last_modified_ms: task.last_modified_ms,
    }
}

/// The part of a file that a task means, if it does not mean the whole.
pub(super) fn part_of(task: &FileTask) -> Option<(u64, u64)> {
    (task.range_end > 0).then_some((task.range_start, task.range_end))
}

pub(super) async fn open(job: &FileJob) -> Result<PinnedFile> {
    let file = job.store.open(&job.task.path, &version_of(&job.task)).await?;
    if part_of(&job.task).is_some() && !file.can_split() {
        return Err(Error::internal(format!(
            "'{}' was split although its store gives no etag and version",
            job.task.name
        )));
    }
    Ok(file)
}
