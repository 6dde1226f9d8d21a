//! The commands on tasks, runs and notification integrations.

use serde::{Deserialize, Serialize};
use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{TaskId, TaskRun};
use uuid::Uuid;

use super::{TaskDefinition, Webhook, define, integrations, runs};
use crate::apply::{Outcome, Transaction};
use crate::result::CommandResult;

/// A change of tasks, their runs, or notification integrations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskCommand {
    /// CREATE TASK. It begins suspended.
    Create {
        /// The name.
        name: String,
        /// Who creates it.
        owner: String,
        /// What it does.
        definition: TaskDefinition,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is dropped.
        or_replace: bool,
    },
    /// ALTER TASK: the whole of what it is afterwards.
    Alter {
        /// The name.
        name: String,
        /// The version that this rests on.
        version: u64,
        /// What it does afterwards.
        definition: TaskDefinition,
        /// Whether it is resumed afterwards.
        started: bool,
        /// The next tick, if it is resumed and has a schedule.
        next_tick_ms: Option<UnixMillis>,
    },
    /// DROP TASK; refused while another one waits for it.
    Drop {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// EXECUTE TASK.
    Execute {
        /// The name.
        name: String,
        /// The id of the run.
        run: Uuid,
    },
    /// Takes a tick of a schedule: a run begins, or is recorded as skipped.
    TakeTick(Tick),
    /// The statements of a run begin.
    BeginRun {
        /// The run.
        run: TaskRun,
    },
    /// Statements of a run are done.
    AdvanceRun {
        /// The run.
        run: TaskRun,
        /// How many are.
        step: u32,
        /// The last of them.
        query: Uuid,
    },
    /// A run ended. Those that wait for it begin.
    EndRun {
        /// The run.
        run: TaskRun,
        /// How.
        end: RunEnd,
        /// Its last statement.
        query: Option<Uuid>,
    },
    /// Deletes runs that ended before a time, oldest first.
    TrimRuns {
        /// Ended before this.
        before_ms: UnixMillis,
        /// Runs at most.
        limit: u32,
    },
    /// CREATE NOTIFICATION INTEGRATION.
    CreateIntegration {
        /// The name.
        name: String,
        /// ENABLED.
        enabled: bool,
        /// WEBHOOK.
        webhook: Webhook,
        /// COMMENT.
        comment: String,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is changed.
        or_replace: bool,
    },
    /// ALTER NOTIFICATION INTEGRATION: the whole of what it is afterwards.
    AlterIntegration {
        /// The name.
        name: String,
        /// The version that this rests on.
        version: u64,
        /// ENABLED.
        enabled: bool,
        /// WEBHOOK.
        webhook: Webhook,
        /// COMMENT.
        comment: String,
    },
    /// DROP NOTIFICATION INTEGRATION; refused while a task names it.
    DropIntegration {
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// A failure was told, or cannot be.
    EndNotification {
        /// The run that failed.
        run: TaskRun,
    },
}

/// A tick of a schedule, with those behind it that are due as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The task's name.
    pub name: String,
    /// The task.
    pub task: TaskId,
    /// The version that the schedule is of.
    pub version: u64,
    /// The first tick that is due: what the task has as its next one.
    pub first_ms: UnixMillis,
    /// The last tick that is due: the one that runs.
    pub last_ms: UnixMillis,
    /// How many are due, at least.
    pub due: u32,
    /// The tick after them.
    pub next_ms: Option<UnixMillis>,
    /// The id of the run.
    pub run: Uuid,
}

/// How a run ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// All statements succeeded.
    Succeeded,
    /// One failed.
    Failed(Error),
    /// One was cancelled.
    Cancelled(Error),
    /// None was run, for this reason.
    Skipped(String),
}

impl TaskCommand {
    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create_task",
            Self::Alter { .. } => "alter_task",
            Self::Drop { .. } => "drop_task",
            Self::Execute { .. } => "execute_task",
            Self::TakeTick(_) => "take_tick",
            Self::BeginRun { .. } => "begin_run",
            Self::AdvanceRun { .. } => "advance_run",
            Self::EndRun { .. } => "end_run",
            Self::TrimRuns { .. } => "trim_task_runs",
            Self::CreateIntegration { .. } => "create_notification_integration",
            Self::AlterIntegration { .. } => "alter_notification_integration",
            Self::DropIntegration { .. } => "drop_notification_integration",
            Self::EndNotification { .. } => "end_notification",
        }
    }
}

pub(crate) fn run(txn: &mut Transaction<'_>, command: &TaskCommand) -> Outcome<CommandResult> {
    match command {
        TaskCommand::Create { name, owner, definition, if_not_exists, or_replace } => {
            define::create(txn, name, owner, definition, *if_not_exists, *or_replace)
        }
        TaskCommand::Alter { name, version, definition, started, next_tick_ms } => {
            define::alter(txn, name, *version, definition, *started, *next_tick_ms)
        }
        TaskCommand::Drop { name, if_exists } => define::drop(txn, name, *if_exists),
        TaskCommand::Execute { name, run } => runs::execute(txn, name, *run),
        TaskCommand::TakeTick(tick) => runs::take_tick(txn, tick),
        TaskCommand::BeginRun { run } => runs::begin(txn, *run),
        TaskCommand::AdvanceRun { run, step, query } => runs::advance(txn, *run, *step, *query),
        TaskCommand::EndRun { run, end, query } => runs::end(txn, *run, end, *query),
        TaskCommand::TrimRuns { before_ms, limit } => runs::trim(txn, *before_ms, *limit),
        TaskCommand::CreateIntegration { name, enabled, webhook, comment, if_not_exists, or_replace } => {
            integrations::create(txn, name, *enabled, webhook, comment, (*if_not_exists, *or_replace))
        }
        TaskCommand::AlterIntegration { name, version, enabled, webhook, comment } => {
            integrations::alter(txn, name, *version, *enabled, webhook, comment)
        }
        TaskCommand::DropIntegration { name, if_exists } => integrations::drop(txn, name, *if_exists),
        TaskCommand::EndNotification { run } => {
            txn.delete(crate::keys::notification(*run));
            Ok(CommandResult::Done)
        }
    }
}
