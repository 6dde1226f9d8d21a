//! Worker groups that the cluster knows, in SQL its warehouses.
//!
//! Owns: which names a statement or a task may choose its workers by. A group is known from when its first worker
//! registers; it stays known while its workers are away, so that a restart of them fails nobody. `default` is always
//! known and has no record. A group is forgotten once nothing is left of it: the leader says since when no worker of
//! it was seen, and here it is checked that no task and no live job names it. Must never know which workers live:
//! sessions are the leader's memory.

use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};

use crate::apply::{Outcome, Transaction, refuse};
use crate::result::CommandResult;
use crate::view::ReadView;
use crate::{jobs, keys, tasks};

/// Groups beside `default` at most.
pub const MAX_WORKER_GROUPS: usize = 256;

/// A group that workers have named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGroup {
    /// Its name.
    pub group: WorkerGroup,
    /// When its first worker registered.
    pub created_on_ms: UnixMillis,
    /// When it was last recorded that a worker of it lives.
    pub seen_ms: UnixMillis,
}

/// The record of a group; `default` has none.
///
/// # Errors
/// Storage.
pub fn worker_group(view: &dyn ReadView, group: &WorkerGroup) -> Result<Option<KnownGroup>> {
    keys::read(view, &keys::worker_group(group.as_str()))
}

/// All groups but `default`, by name.
///
/// # Errors
/// Storage.
pub fn worker_groups(view: &dyn ReadView) -> Result<Vec<KnownGroup>> {
    keys::read_all(view, &keys::worker_groups())
}

/// Checks that a group is known.
///
/// # Errors
/// Not found, naming those that are; storage.
pub fn require_worker_group(view: &dyn ReadView, group: &WorkerGroup) -> Result<()> {
    match missing(view, group)? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// What keeps a group from being forgotten, whether or not it has workers: a task or a live job.
///
/// # Errors
/// Storage.
pub fn user_of(view: &dyn ReadView, group: &WorkerGroup) -> Result<Option<String>> {
    if let Some(task) = tasks::tasks(view)?.iter().find(|task| task.definition.warehouse == *group) {
        return Ok(Some(format!("task '{}' names it", task.name)));
    }
    for id in jobs::live_jobs(view)? {
        if jobs::job(view, id)?.is_some_and(|job| job.group == *group) {
            return Ok(Some(format!("job {id} runs on its workers")));
        }
    }
    Ok(None)
}

fn missing(view: &dyn ReadView, group: &WorkerGroup) -> Result<Option<Error>> {
    if group.is_default() || worker_group(view, group)?.is_some() {
        return Ok(None);
    }
    let mut known = vec![WorkerGroup::default().to_string()];
    known.extend(worker_groups(view)?.into_iter().map(|known| known.group.to_string()));
    let error = Error::not_found(format!("warehouse '{group}' does not exist")).about(group.as_str());
    Ok(Some(error.hint(format!(
        "warehouses are {}; there is one for each group that workers name: stevedore worker --group {group}",
        known.join(", ")
    ))))
}

/// Refuses a command that names a group which is not known.
pub(crate) fn check(txn: &Transaction<'_>, group: &WorkerGroup) -> Outcome<()> {
    match missing(txn.view(), group)? {
        Some(error) => refuse(error),
        None => Ok(()),
    }
}

pub(crate) fn note(txn: &mut Transaction<'_>, group: &WorkerGroup) -> Outcome<CommandResult> {
    if group.is_default() {
        return Ok(CommandResult::Done);
    }
    let known = worker_group(txn.view(), group)?;
    if known.is_none() && worker_groups(txn.view())?.len() >= MAX_WORKER_GROUPS {
        return refuse(
            Error::exhausted(format!(
                "worker group '{group}' is one too many: the cluster has {MAX_WORKER_GROUPS}"
            ))
            .hint("DROP WAREHOUSE forgets one that has no worker any more"),
        );
    }
    let created_on_ms = known.map_or(txn.now_ms, |known| known.created_on_ms);
    let record = KnownGroup { group: group.clone(), created_on_ms, seen_ms: txn.now_ms };
    txn.put(keys::worker_group(group.as_str()), &record)?;
    Ok(CommandResult::Done)
}

pub(crate) fn forget(
    txn: &mut Transaction<'_>,
    group: &WorkerGroup,
    unseen_since_ms: UnixMillis,
) -> Outcome<CommandResult> {
    if group.is_default() {
        return refuse(Error::invalid("warehouse 'default' always exists").about(group.as_str()));
    }
    let Some(known) = worker_group(txn.view(), group)? else {
        return Ok(CommandResult::Dropped { existed: false });
    };
    let kept = |why: String| {
        refuse(Error::conflict(format!("warehouse '{group}' is in use: {why}")).about(group.as_str()))
    };
    if known.seen_ms > unseen_since_ms {
        return kept("workers of it came".to_owned());
    }
    if let Some(user) = user_of(txn.view(), group)? {
        return kept(user);
    }
    txn.delete(keys::worker_group(group.as_str()));
    Ok(CommandResult::Dropped { existed: true })
}
