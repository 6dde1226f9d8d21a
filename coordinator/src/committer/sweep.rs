//! Which data files of an ended job nobody needs.
//!
//! Comes in: the warehouse, the table folder that the job wrote to, the data files that its commit added
//! (none, where it did not commit). Goes out: the deletion of every other file of the job's. That the job
//! has ended is the caller's to know, from a linearizable read; age never decides here. Files that
//! another engine or another job wrote are never touched, whatever refers to them.

use std::collections::HashSet;

use futures::StreamExt;
use stevedore_common::ids::JobId;
use stevedore_common::storage::{ListOptions, Store};
use stevedore_common::{Error, Result};
use tokio::task::JoinSet;

/// Deletions at a time.
const DELETES: usize = 16;

/// The last segment of a path or URI.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Deletes the data files below `table` (relative to the warehouse) that `job` wrote and whose names are not
/// among `kept`; answers how many. Data files are named `<job>-<slice>-<attempt>-…`.
///
/// # Errors
/// Storage; what was deleted until then stays deleted.
pub async fn sweep_job(warehouse: &Store, table: &str, job: JobId, kept: &HashSet<String>) -> Result<u64> {
    let prefix = format!("{table}/data/{job}-");
    delete(warehouse, &prefix, |path| !kept.contains(file_name(path))).await
}

/// Deletes the whole folder of a table that never was: that of a CREATE TABLE AS that did not commit.
///
/// # Errors
/// Storage.
pub async fn sweep_table(warehouse: &Store, table: &str) -> Result<u64> {
    if table.is_empty() || table.ends_with('/') {
        return Err(Error::internal(format!("'{table}' is not the folder of a table")));
    }
    delete(warehouse, &format!("{table}/"), |_| true).await
}

async fn delete(warehouse: &Store, prefix: &str, unneeded: impl Fn(&str) -> bool) -> Result<u64> {
    let mut files = warehouse.list(prefix, ListOptions::default());
    let mut deleting = JoinSet::new();
    let mut count = 0;
    loop {
        let next = match files.next().await {
            Some(file) => Some(file?.path),
            None => None,
        };
        let at_a_time = if next.is_some() { DELETES } else { 1 };
        while deleting.len() >= at_a_time {
            if let Some(deleted) = deleting.join_next().await {
                deleted.map_err(|e| Error::internal(format!("a deletion ended early: {e}")))??;
            }
        }
        match next {
            Some(path) if unneeded(&path) => {
                let warehouse = warehouse.clone();
                deleting.spawn(async move { warehouse.delete(&path).await });
                count += 1;
            }
            Some(_) => {}
            None => return Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn only_what_the_job_left_behind_goes() {
        let store = Store::in_memory();
        let (job, other) = (JobId::generate(), JobId::generate());
        let kept = format!("{job}-0-2-0-x.parquet");
        for name in [
            kept.clone(),
            format!("{job}-0-1-0-x.parquet"),
            format!("{other}-0-1-0-x.parquet"),
            "00000-0-of-another-engine.parquet".to_owned(),
        ] {
            store.put(&format!("default/t-1/data/{name}"), "rows".into()).await.unwrap();
        }
        let kept = HashSet::from([kept]);
        assert_eq!(sweep_job(&store, "default/t-1", job, &kept).await.unwrap(), 1);
        assert_eq!(sweep_job(&store, "default/t-1", job, &kept).await.unwrap(), 0);
        let left: Vec<_> = store.list("default/t-1/", ListOptions::default()).try_collect().await.unwrap();
        assert_eq!(left.len(), 3);
        assert!(sweep_table(&store, "").await.is_err());
        assert_eq!(sweep_table(&store, "default/t-1").await.unwrap(), 3);
    }
}
