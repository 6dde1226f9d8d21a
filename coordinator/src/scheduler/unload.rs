//! The end of an unload: its files get their names, and what is left over goes.
//!
//! Comes in: the files that accepted slices have written under hidden names. Goes out: the same files under
//! the names that users see, then the command that ends the job. Renaming can be done again from its start: a
//! file whose hidden name is gone has its own already. What a job leaves under hidden names, whatever became of
//! it, is deleted once it has ended; so are files that have their names where the others could not get theirs.

use futures::{StreamExt, TryStreamExt};
use stevedore_common::storage::{ListOptions, UNFINISHED};
use stevedore_common::unloaded_file::UnloadedFile;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_state::command::{Command, JobCommit};
use stevedore_state::jobs::{Job, JobPhase};
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;

use super::phases::{Context, data_files};
use crate::planner::plan::UnloadPlan;
use crate::stores::{ResolvedSource, Stores};

/// Files renamed or deleted at a time.
const AT_ONCE: usize = 16;

fn folder_of(stores: &Stores, view: &dyn ReadView, plan: &UnloadPlan) -> Result<(ResolvedSource, String)> {
    let source = stores.resolve(view, &plan.target)?;
    let folder = plan.folder(&source.prefix).to_owned();
    Ok((source, folder))
}

/// The files of a job whose slices are accepted.
///
/// # Errors
/// Storage.
pub(crate) fn unloaded_files(view: &dyn ReadView, job: &Job) -> Result<Vec<UnloadedFile>> {
    data_files(view, job)?.iter().map(|file| UnloadedFile::parse(file)).collect()
}

/// Publishes the files, then ends the job.
///
/// # Errors
/// Storage; refusals.
pub(super) async fn commit(context: &Context, job: &Job, plan: &UnloadPlan) -> Result<()> {
    let ((source, folder), files) = {
        let view = context.replica.read().await?;
        (folder_of(&context.stores, &*view, plan)?, unloaded_files(&*view, job)?)
    };
    let (store, folder) = (&source.store, &folder);
    futures::stream::iter(files)
        .map(|file| async move {
            let (hidden, name) = (format!("{folder}{}", file.hidden), format!("{folder}{}", file.name));
            match store.rename(&hidden, &name).await {
                Err(error) if error.kind() == ErrorKind::NotFound => match store.head(&name).await {
                    Ok(there) if there.version.size == file.bytes => Ok(()),
                    _ => {
                        Err(error.context(format!("file '{}' was removed before it had its name", file.name)))
                    }
                },
                other => other,
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let commit = JobCommit { job: job.id, tables: Vec::new(), new_table: None };
    match context.replica.propose(Command::CommitJob(commit)).await? {
        CommandResult::Commit(_) => {
            tracing::info!(job = %job.id, rows = job.rows, "unloaded");
            Ok(())
        }
        other => Err(Error::internal(format!("unexpected answer to a commit: {other:?}"))),
    }
}

/// Deletes what an ended job left under hidden names, and the files of an aborted one that had their names
/// already; answers how many.
///
/// # Errors
/// Storage.
pub(super) async fn sweep(stores: &Stores, view: &dyn ReadView, job: &Job, plan: &UnloadPlan) -> Result<u64> {
    let (source, folder) = match folder_of(stores, view, plan) {
        Ok(found) => found,
        // The connection is gone, and with it the way there.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let store = &source.store;
    // Names with the job's id in them are nobody else's.
    let published = if job.phase == JobPhase::Aborted && plan.include_query_id && !plan.raw_path {
        unloaded_files(view, job)?
    } else {
        Vec::new()
    };
    let published = published.into_iter().map(|file| Ok(format!("{folder}{}", file.name)));
    store
        .list(&format!("{folder}{UNFINISHED}unload-{}-", job.id), ListOptions::default())
        .map_ok(|file| file.path)
        .chain(futures::stream::iter(published))
        .map(|path| async move {
            store.delete(&path?).await?;
            Ok::<u64, Error>(1)
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, one| std::future::ready(Ok(sum + one)))
        .await
}
