//! Reads of tasks, runs and notification integrations.

use stevedore_common::Result;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::TaskRun;

use super::{Notification, NotificationIntegration, Run, Task};
use crate::keys;
use crate::view::ReadView;

/// A task.
///
/// # Errors
/// Storage.
pub fn task(view: &dyn ReadView, name: &str) -> Result<Option<Task>> {
    keys::read(view, &keys::task(name))
}

/// All tasks, by name.
///
/// # Errors
/// Storage.
pub fn tasks(view: &dyn ReadView) -> Result<Vec<Task>> {
    keys::read_all(view, &keys::tasks())
}

/// A run.
///
/// # Errors
/// Storage.
pub fn task_run(view: &dyn ReadView, number: TaskRun) -> Result<Option<Run>> {
    keys::read(view, &keys::task_run(number))
}

/// Runs that have not ended, oldest first.
///
/// # Errors
/// Storage.
pub fn live_task_runs(view: &dyn ReadView) -> Result<Vec<TaskRun>> {
    keys::read_all(view, &keys::live_task_runs())
}

/// Runs of all tasks, or of those of a name, newest first, before one.
///
/// # Errors
/// Storage.
pub fn task_runs(
    view: &dyn ReadView,
    of: Option<&str>,
    before: Option<TaskRun>,
    limit: usize,
) -> Result<Vec<Run>> {
    let (prefix, after) = match of {
        Some(name) => (keys::runs_of_name(name), before.map(|run| keys::run_of_name(name, run))),
        None => (keys::task_runs(), before.map(keys::task_run)),
    };
    let mut runs = Vec::new();
    for (key, value) in view.scan(&prefix, after.as_deref(), limit)? {
        match of {
            None => runs.push(keys::decode(&key, &value)?),
            Some(_) => runs.extend(task_run(view, keys::decode(&key, &value)?)?),
        }
    }
    Ok(runs)
}

/// Whether a run ended before a time.
///
/// # Errors
/// Storage.
pub fn has_old_task_runs(view: &dyn ReadView, before_ms: UnixMillis) -> Result<bool> {
    let Some((key, value)) = view.scan(&keys::ended_task_runs(), None, 1)?.pop() else { return Ok(false) };
    let oldest = task_run(view, keys::decode(&key, &value)?)?;
    Ok(oldest.and_then(|run| run.completed_on_ms).is_none_or(|ended| ended < before_ms))
}

/// A notification integration.
///
/// # Errors
/// Storage.
pub fn integration(view: &dyn ReadView, name: &str) -> Result<Option<NotificationIntegration>> {
    keys::read(view, &keys::integration(name))
}

/// All notification integrations, by name.
///
/// # Errors
/// Storage.
pub fn integrations(view: &dyn ReadView) -> Result<Vec<NotificationIntegration>> {
    keys::read_all(view, &keys::integrations())
}

/// Failures that are to be told, oldest first.
///
/// # Errors
/// Storage.
pub fn notifications(view: &dyn ReadView, limit: usize) -> Result<Vec<Notification>> {
    view.scan(&keys::notifications(), None, limit)?
        .iter()
        .map(|(key, value)| keys::decode(key, value))
        .collect()
}
