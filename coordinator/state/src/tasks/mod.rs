//! Scheduled tasks: their definitions, their runs, the notifications of failed ones.
//!
//! Owns: which runs there are. A tick of a schedule is taken by one command that names the task's version
//! and the tick's time, and is refused once the task has moved on: whoever leads, a tick becomes one run.
//! A run belongs to the graph that its root's run began; the end of a run begins those that wait for it,
//! in the same command. Must never compute a schedule: the next tick is stamped into the command by whoever
//! knows calendars and time zones.

pub(crate) mod command;
pub(crate) mod define;
pub(crate) mod integrations;
mod read;
pub(crate) mod runs;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{TaskId, TaskRun};
use stevedore_common::secret::Sealed;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use uuid::Uuid;

pub use command::{RunEnd, TaskCommand, Tick};
pub use read::*;

/// When a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Each so many milliseconds.
    Interval {
        /// The interval.
        ms: u64,
    },
    /// By a cron expression in a time zone.
    Cron {
        /// Six fields: second, minute, hour, day of the month, month, day of the week.
        expression: String,
        /// An IANA name.
        timezone: String,
    },
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval { ms } => {
                write!(f, "INTERVAL {} SECOND", ms / 1_000)?;
                match ms % 1_000 {
                    0 => Ok(()),
                    rest => write!(f, " {rest} MILLISECOND"),
                }
            }
            Self::Cron { expression, timezone } => write!(f, "CRON {expression} TIMEZONE {timezone}"),
        }
    }
}

/// What a task does, and when: all that CREATE and ALTER say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDefinition {
    /// The database that names without one are of: that of the session which created it.
    pub database: String,
    /// WAREHOUSE.
    pub warehouse: WorkerGroup,
    /// SCHEDULE; excludes `after`.
    pub schedule: Option<Schedule>,
    /// AFTER: names of tasks.
    pub after: Vec<String>,
    /// WHEN, as written.
    pub condition: Option<String>,
    /// SUSPEND_TASK_AFTER_NUM_FAILURES; none: never.
    pub suspend_after: Option<u32>,
    /// ERROR_INTEGRATION.
    pub error_integration: Option<String>,
    /// COMMENT.
    pub comment: String,
    /// The session's settings while it runs.
    pub settings: BTreeMap<String, String>,
    /// What stands behind AS, as written.
    pub body: String,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id; OR REPLACE makes another task.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Who created it; it runs as them.
    pub owner: String,
    /// What it does.
    pub definition: TaskDefinition,
    /// Counts its changes, from 1.
    pub version: u64,
    /// Whether it is resumed.
    pub started: bool,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// The next tick, of a started task with a schedule.
    pub next_tick_ms: Option<UnixMillis>,
    /// When it was created or altered last.
    pub last_committed_on_ms: UnixMillis,
    /// When it was suspended last.
    pub last_suspended_on_ms: Option<UnixMillis>,
    /// Failures since the last success.
    pub failures: u32,
    /// Its run that has not ended.
    pub live: Option<TaskRun>,
    /// The run of its own that began the graph which has not ended.
    pub graph: Option<TaskRun>,
    /// When its last graph ended.
    pub idle_since_ms: Option<UnixMillis>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is to begin.
    Scheduled,
    /// Its statements run.
    Executing,
    /// All of them succeeded.
    Succeeded,
    /// One of them failed.
    Failed,
    /// One of them was cancelled.
    Cancelled,
    /// None was run.
    Skipped,
}

impl RunState {
    /// As TASK_HISTORY has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Executing => "EXECUTING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Skipped => "SKIPPED",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_ended(self) -> bool {
        !matches!(self, Self::Scheduled | Self::Executing)
    }
}

/// A run of a task, with the definition that it runs by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub number: TaskRun,
    /// Its id: what the ids of its statements are made from.
    pub id: Uuid,
    /// The task.
    pub task: TaskId,
    /// The task's name.
    pub name: String,
    /// Whom it runs as.
    pub owner: String,
    /// What it does.
    pub definition: TaskDefinition,
    /// The run that began its graph; its own number for a root.
    pub graph: TaskRun,
    /// The id of that run.
    pub graph_id: Uuid,
    /// The task of that run.
    pub root: TaskId,
    /// The name of that task.
    pub root_name: String,
    /// The tick, or the time of what caused it.
    pub scheduled_on_ms: UnixMillis,
    /// Where it stands.
    pub state: RunState,
    /// When its first statement began.
    pub begun_on_ms: Option<UnixMillis>,
    /// When it ended.
    pub completed_on_ms: Option<UnixMillis>,
    /// Statements that are done.
    pub step: u32,
    /// The last statement that was begun.
    pub query: Option<Uuid>,
    /// Why it failed.
    pub error: Option<Error>,
    /// Why it was skipped.
    pub remark: Option<String>,
}

/// Runs of one graph that have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Graph {
    pub(crate) live: u32,
}

/// Where notifications go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationIntegration {
    /// Its name.
    pub name: String,
    /// ENABLED.
    pub enabled: bool,
    /// The webhook.
    pub webhook: Webhook,
    /// COMMENT.
    pub comment: String,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// Counts its changes, from 1.
    pub version: u64,
}

/// WEBHOOK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// url: sealed, since many services put their secret into it.
    pub url: Sealed,
    /// What of the url may be shown: scheme and host.
    pub shown_url: String,
    /// method.
    pub method: String,
    /// authorization_header.
    pub authorization_header: Option<Sealed>,
}

/// A failure that is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The run that failed.
    pub run: TaskRun,
    /// Where to.
    pub integration: String,
    /// Since when.
    pub created_on_ms: UnixMillis,
}

/// A task by its name.
///
/// # Errors
/// Not found.
pub fn require_task(view: &dyn crate::view::ReadView, name: &str) -> Result<Task> {
    task(view, name)?.ok_or_else(|| missing_task(name))
}

pub(crate) fn missing_task(name: &str) -> Error {
    Error::not_found(format!("task '{name}' does not exist")).about(name).hint("SHOW TASKS lists them")
}
