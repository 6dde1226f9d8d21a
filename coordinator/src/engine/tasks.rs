//! Scheduled tasks and notification integrations: DDL, SHOW and DESC, the history.
//!
//! Comes in: statements. Goes out: commands that carry the whole of what an object is afterwards, with the
//! version that they rest on; rows. Schedules are checked and their next tick is computed here, since the state
//! knows no calendar.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone};
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::TaskId;
use stevedore_common::secret::{MASK, Secret};
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::{
    AlterTask, AlterTaskAction, CreateMode, CreateTask, FunctionArg, GivenName, NotificationOptions,
    Statement, TableFunction, TaskOptions, TaskSchedule, WebhookOptions,
};
use stevedore_state::command::Command;
use stevedore_state::tasks::{
    self, NotificationIntegration, Run, RunState, Schedule, Task, TaskCommand, TaskDefinition, Webhook,
};
use stevedore_state::view::ReadView;
use url::Url;

use super::ddl::mode_flags;
use super::history::{MOST_ROWS, Rows};
use super::{Engine, Execution, StatementHandle, settings};
use crate::cron::schedule::Ticks;
use crate::results::ColumnKind::{Boolean, Int, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};

/// The columns of SHOW TASKS.
pub(super) const TASKS: Columns = &[
    ("created_on", Timestamp),
    ("name", Text),
    ("id", UnsignedBigInt),
    ("owner", Text),
    ("comment", Text),
    ("warehouse", Text),
    ("schedule", Text),
    ("state", Text),
    ("definition", Text),
    ("condition_text", Text),
    ("after", Text),
    ("suspend_task_after_num_failures", Int),
    ("error_integration", Text),
    ("next_schedule_time", Timestamp),
    ("last_committed_on", Timestamp),
    ("last_suspended_on", Timestamp),
    ("session_parameters", Text),
];
/// The columns of TASK_HISTORY.
pub(super) const TASK_HISTORY: Columns = &[
    ("name", Text),
    ("id", UnsignedBigInt),
    ("owner", Text),
    ("comment", Text),
    ("schedule", Text),
    ("warehouse", Text),
    ("state", Text),
    ("definition", Text),
    ("condition_text", Text),
    ("run_id", Text),
    ("query_id", Text),
    ("exception_code", Text),
    ("exception_text", Text),
    ("attempt_number", Int),
    ("completed_time", Timestamp),
    ("scheduled_time", Timestamp),
    ("root_task_id", Text),
    ("session_parameters", Text),
];
/// The columns of SHOW NOTIFICATION INTEGRATIONS.
pub(super) const INTEGRATIONS: Columns = &[
    ("created_on", Timestamp),
    ("name", Text),
    ("type", Text),
    ("enabled", Boolean),
    ("webhook_options", Text),
    ("comment", Text),
];

const DEFAULT_METHOD: &str = "POST";
/// Rows of TASK_HISTORY without RESULT_LIMIT.
const DEFAULT_LIMIT: u64 = 100;
const PAGE: usize = 500;
/// Runs that one statement looks at.
const MOST_LOOKED_AT: usize = 200_000;
/// Times that a statement on a task is tried when somebody else changes the task meanwhile.
const TRIES: u64 = 8;

/// What the secrets of a webhook are sealed for.
pub(crate) fn webhook_owner(integration: &str, key: &str) -> String {
    format!("notification/{integration}/{key}")
}

fn schedule_of(schedule: &TaskSchedule) -> Schedule {
    match schedule {
        TaskSchedule::Interval { ms } => Schedule::Interval { ms: *ms },
        TaskSchedule::Cron { expression, timezone } => {
            Schedule::Cron { expression: expression.clone(), timezone: timezone.clone() }
        }
    }
}

fn check_known(setting: &str) -> Result<()> {
    if settings::is_known(setting) {
        return Ok(());
    }
    Err(Error::invalid(format!("a task has no option or setting {setting}")).about(setting).hint(
        "options are WAREHOUSE, SCHEDULE, AFTER, WHEN, SUSPEND_TASK_AFTER_NUM_FAILURES, \
         ERROR_INTEGRATION, COMMENT; SHOW SETTINGS lists the settings",
    ))
}

fn check_setting(name: &str, value: &str) -> Result<()> {
    check_known(name)?;
    settings::check(name, Some(value))
}

/// A task keeps its text where everybody who may see it reads it.
fn check_no_secret(text: &str) -> Result<()> {
    if stevedore_sql::mask_secrets(text) == text {
        return Ok(());
    }
    Err(Error::invalid("the statements of a task hold a secret, and a task shows its statements")
        .hint("CREATE CONNECTION, or a stage with it, and name that in the task"))
}

fn check_body(body: &str) -> Result<()> {
    check_no_secret(body)?;
    for sql in stevedore_sql::task::statements(body)? {
        check_keeps_warehouse(&stevedore_sql::parse(&sql)?)?;
    }
    Ok(())
}

/// The workers of a run are its task's to choose, not its statements'.
pub(crate) fn check_keeps_warehouse(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Set { name, .. } | Statement::Unset { name } if name == settings::WAREHOUSE => Err(
            Error::not_supported("changing the warehouse within a task: all of a run is on the task's own")
                .hint("CREATE TASK … WAREHOUSE = 'name', or ALTER TASK … SET WAREHOUSE = 'name'"),
        ),
        _ => Ok(()),
    }
}

/// The names of tasks, as those that exist; each once.
fn tasks_named(view: &dyn ReadView, given: &[GivenName]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::with_capacity(given.len());
    for name in given {
        let name = name.resolve(|text| tasks::task(view, text).map(|task| task.is_some()))?;
        if names.contains(&name) {
            return Err(Error::invalid(format!("task '{name}' stands twice")).about(name));
        }
        names.push(name);
    }
    Ok(names)
}

/// Puts options into a definition.
fn apply_options(view: &dyn ReadView, definition: &mut TaskDefinition, options: &TaskOptions) -> Result<()> {
    if let Some(warehouse) = &options.warehouse {
        definition.warehouse = WorkerGroup::parse(warehouse).map_err(|error| error.about(warehouse))?;
    }
    if let Some(schedule) = &options.schedule {
        let schedule = schedule_of(schedule);
        Ticks::of(&schedule)?.first(0)?;
        definition.schedule = Some(schedule);
    }
    if let Some(count) = options.suspend_after {
        definition.suspend_after = Some(count).filter(|count| *count > 0);
    }
    if let Some(integration) = &options.error_integration {
        let known = |text: &str| tasks::integration(view, text).map(|integration| integration.is_some());
        definition.error_integration = Some(integration.resolve(known)?).filter(|name| !name.is_empty());
    }
    if let Some(comment) = &options.comment {
        definition.comment.clone_from(comment);
    }
    for (name, value) in &options.settings {
        check_setting(name, value)?;
        definition.settings.insert(name.clone(), value.clone());
    }
    Ok(())
}

fn unset(definition: &mut TaskDefinition, name: &str) -> Result<()> {
    match name {
        "warehouse" => definition.warehouse = WorkerGroup::default(),
        "schedule" => definition.schedule = None,
        "when" => definition.condition = None,
        "comment" => definition.comment.clear(),
        "suspend_task_after_num_failures" => definition.suspend_after = None,
        "error_integration" => definition.error_integration = None,
        setting => {
            if definition.settings.remove(setting).is_none() {
                check_known(setting)?;
            }
        }
    }
    Ok(())
}

/// What a task is after a statement, and whether it is resumed.
fn altered(view: &dyn ReadView, task: &Task, action: &AlterTaskAction) -> Result<(TaskDefinition, bool)> {
    let mut definition = task.definition.clone();
    let mut started = task.started;
    match action {
        AlterTaskAction::Resume => started = true,
        AlterTaskAction::Suspend => started = false,
        AlterTaskAction::Set(options) => apply_options(view, &mut definition, options)?,
        AlterTaskAction::Unset(names) => {
            for name in names {
                unset(&mut definition, name)?;
            }
        }
        AlterTaskAction::ModifyBody(body) => {
            check_body(body)?;
            definition.body.clone_from(body);
        }
        AlterTaskAction::ModifyCondition(condition) => {
            check_no_secret(condition)?;
            definition.condition = Some(condition.clone());
        }
        AlterTaskAction::AddAfter(names) => {
            for name in tasks_named(view, names)? {
                if !definition.after.contains(&name) {
                    definition.after.push(name);
                }
            }
        }
        AlterTaskAction::RemoveAfter(names) => {
            for name in names {
                let is_there =
                    |text: &str| Ok::<_, Error>(definition.after.iter().any(|after| after == text));
                let name = name.resolve(is_there)?;
                let Some(at) = definition.after.iter().position(|after| *after == name) else {
                    let error = Error::not_found(format!("task '{}' does not run after '{name}'", task.name));
                    return Err(error.about(name));
                };
                definition.after.remove(at);
            }
        }
    }
    Ok((definition, started))
}

/// The next tick of a task that is like this from now on.
fn next_tick(
    task: &Task,
    definition: &TaskDefinition,
    started: bool,
    now_ms: UnixMillis,
) -> Result<Option<UnixMillis>> {
    match &definition.schedule {
        None => Ok(None),
        Some(_) if !started => Ok(None),
        Some(schedule) if task.started && task.definition.schedule.as_ref() == Some(schedule) => {
            Ok(task.next_tick_ms.or(Some(Ticks::of(schedule)?.first(now_ms)?)))
        }
        Some(schedule) => Ticks::of(schedule)?.first(now_ms).map(Some),
    }
}

fn settings_text(settings: &BTreeMap<String, String>) -> String {
    // Maps of strings always serialise.
    serde_json::to_string(settings).unwrap_or_default()
}

pub(super) fn task_row(task: &Task) -> Vec<Value> {
    let Task { definition, .. } = task;
    vec![
        task.created_on_ms.into(),
        task.name.as_str().into(),
        task.id.0.into(),
        task.owner.as_str().into(),
        definition.comment.as_str().into(),
        definition.warehouse.as_str().into(),
        definition.schedule.as_ref().map(ToString::to_string).into(),
        if task.started { "Started" } else { "Suspended" }.into(),
        definition.body.as_str().into(),
        definition.condition.clone().into(),
        definition.after.join(", ").into(),
        definition.suspend_after.map(i64::from).into(),
        definition.error_integration.clone().into(),
        task.next_tick_ms.into(),
        task.last_committed_on_ms.into(),
        task.last_suspended_on_ms.into(),
        settings_text(&definition.settings).into(),
    ]
}

fn run_row(run: &Run) -> Vec<Value> {
    let Run { definition, .. } = run;
    let text = run.error.as_ref().map(ToString::to_string).or_else(|| run.remark.clone());
    vec![
        run.name.as_str().into(),
        run.task.0.into(),
        run.owner.as_str().into(),
        definition.comment.as_str().into(),
        definition.schedule.as_ref().map(ToString::to_string).into(),
        definition.warehouse.as_str().into(),
        run.state.as_str().into(),
        definition.body.as_str().into(),
        definition.condition.clone().into(),
        run.id.to_string().into(),
        run.query.map(|query| query.to_string()).into(),
        run.error.as_ref().map(|error| error.kind().as_str()).into(),
        text.into(),
        Value::Int(1),
        run.completed_on_ms.into(),
        run.scheduled_on_ms.into(),
        run.root.to_string().into(),
        settings_text(&definition.settings).into(),
    ]
}

pub(super) fn integration_row(integration: &NotificationIntegration) -> Vec<Value> {
    let webhook = &integration.webhook;
    let mut options = serde_json::json!({ "url": webhook.shown_url, "method": webhook.method });
    if webhook.authorization_header.is_some()
        && let Some(options) = options.as_object_mut()
    {
        options.insert("authorization_header".into(), MASK.into());
    }
    vec![
        integration.created_on_ms.into(),
        integration.name.as_str().into(),
        "WEBHOOK".into(),
        integration.enabled.into(),
        options.to_string().into(),
        integration.comment.as_str().into(),
    ]
}

/// Which runs are asked for.
#[derive(Default)]
struct HistoryFilter {
    name: Option<String>,
    from_ms: Option<UnixMillis>,
    to_ms: Option<UnixMillis>,
    errors: bool,
    root: Option<TaskId>,
}

impl HistoryFilter {
    fn matches(&self, run: &Run) -> bool {
        self.from_ms.is_none_or(|from| run.scheduled_on_ms >= from)
            && self.to_ms.is_none_or(|to| run.scheduled_on_ms <= to)
            && (!self.errors || matches!(run.state, RunState::Failed | RunState::Cancelled))
            && self.root.is_none_or(|root| run.root == root)
    }
}

fn too_long() -> Error {
    Error::exhausted("the history of tasks is longer than one statement may read")
        .hint("read the newest runs of one task: task_history('name', 1000); task_history_days says how long runs are kept")
}

/// The newest runs that are asked for, `limit` at most. What is longer than one statement may read is refused, and
/// never cut in silence.
fn history_rows(view: &dyn ReadView, filter: &HistoryFilter, limit: u64) -> Result<Vec<RecordBatch>> {
    let mut rows = Rows::new(TASK_HISTORY, MOST_ROWS);
    let mut left = limit;
    let (mut before, mut looked_at) = (None, 0);
    loop {
        let page = tasks::task_runs(view, filter.name.as_deref(), before, PAGE)?;
        let last = page.last().map(|run| run.number);
        looked_at += page.len();
        for run in &page {
            if !filter.matches(run) {
                continue;
            }
            if left == 0 {
                return rows.finish();
            }
            left -= 1;
            if !rows.push(run_row(run))? {
                return Err(too_long());
            }
        }
        match last {
            Some(last) if looked_at < MOST_LOOKED_AT => before = Some(last),
            Some(_) => return Err(too_long()),
            None => return rows.finish(),
        }
    }
}

/// All runs.
pub(super) fn all_runs(view: &dyn ReadView) -> Result<Vec<RecordBatch>> {
    history_rows(view, &HistoryFilter::default(), u64::MAX)
}

/// A task's name as users write it in a string: exactly, or in any case.
fn name_of(view: &dyn ReadView, text: &str) -> Result<String> {
    GivenName::Text(text.to_owned()).resolve(|text| tasks::task(view, text).map(|task| task.is_some()))
}

/// A time in an argument, read as text without a zone is in this session.
fn time_of_text(handle: &StatementHandle, name: &str, text: &str) -> Result<UnixMillis> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)) {
        return Ok(time.timestamp_millis());
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    let zone = handle.settings.get("timezone").and_then(|zone| zone.parse().ok()).unwrap_or(chrono_tz::UTC);
    naive
        .and_then(|naive| zone.from_local_datetime(&naive).earliest())
        .map(|time| time.timestamp_millis())
        .ok_or_else(|| {
            Error::invalid(format!("{name} of task_history is '{text}', which is not a time"))
                .hint("write '2026-01-31 09:00:00' or '2026-01-31T09:00:00-07:00'")
        })
}

impl Engine {
    /// The rows of `task_history(…)`.
    pub(super) async fn task_history(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        function: &TableFunction,
    ) -> Result<Vec<RecordBatch>> {
        let mut filter = HistoryFilter::default();
        let mut limit = DEFAULT_LIMIT;
        for (place, (name, value)) in function.arguments.iter().enumerate() {
            let name = name.as_deref().unwrap_or(if place == 0 { "task_name" } else { "result_limit" });
            let text = match value {
                FunctionArg::Text(text) | FunctionArg::Number(text) => text.as_str(),
                _ => "",
            };
            match name {
                "task_name" => filter.name = Some(name_of(view, text)?),
                "result_limit" => limit = value.count().unwrap_or(limit),
                "scheduled_time_range_start" => {
                    filter.from_ms = Some(self.time_of(handle, name, value).await?)
                }
                "scheduled_time_range_end" => filter.to_ms = Some(self.time_of(handle, name, value).await?),
                "error_only" => filter.errors = *value == FunctionArg::Bool(true),
                "root_task_id" => {
                    filter.root = Some(text.parse().map_err(|_| {
                        Error::invalid(format!("root_task_id of task_history is '{text}'; it is a number"))
                    })?);
                }
                _ => {}
            }
        }
        history_rows(view, &filter, limit)
    }

    /// A time in an argument: a text, or what a worker evaluates.
    async fn time_of(&self, handle: &StatementHandle, name: &str, value: &FunctionArg) -> Result<UnixMillis> {
        match value {
            FunctionArg::Time(time) => {
                let micros = self.instant(handle, time, &format!("{name} of task_history")).await?;
                Ok(micros.div_euclid(1_000))
            }
            value => time_of_text(handle, name, value.text().unwrap_or_default()),
        }
    }

    /// A statement on tasks or notification integrations that changes them.
    pub(super) async fn task_ddl(&self, handle: &StatementHandle, statement: Statement) -> Result<Execution> {
        let command = match statement {
            Statement::CreateTask(create) => {
                let view = self.replica.read().await?;
                self.create_task_command(&*view, handle, &create)?
            }
            Statement::AlterTask(alter) => return self.alter_task(handle, &alter).await,
            Statement::DropTask { name, if_exists } => TaskCommand::Drop { name, if_exists },
            Statement::ExecuteTask { name } => TaskCommand::Execute { name, run: handle.id },
            Statement::CreateNotification { options, mode } => {
                self.create_notification_command(&options, mode)?
            }
            Statement::AlterNotification { options, if_exists } => {
                return self.alter_notification(handle, &options, if_exists).await;
            }
            Statement::DropNotification { name, if_exists } => {
                TaskCommand::DropIntegration { name, if_exists }
            }
            other => return Err(Error::not_supported_yet(other.name())),
        };
        self.propose_once(handle, Command::Task(command)).await?;
        Ok(Execution::nothing())
    }

    fn create_task_command(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        create: &CreateTask,
    ) -> Result<TaskCommand> {
        check_body(&create.body)?;
        create.condition.as_deref().map_or(Ok(()), check_no_secret)?;
        let mut definition = TaskDefinition {
            database: handle.database.clone(),
            warehouse: WorkerGroup::default(),
            schedule: None,
            after: tasks_named(view, &create.after)?,
            condition: create.condition.clone(),
            suspend_after: None,
            error_integration: None,
            comment: String::new(),
            settings: BTreeMap::new(),
            body: create.body.clone(),
        };
        apply_options(view, &mut definition, &create.options)?;
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        let (name, owner) = (create.name.clone(), handle.user.clone());
        Ok(TaskCommand::Create { name, owner, definition, if_not_exists, or_replace })
    }

    /// Reads an object, changes it and proposes the change, until nobody came between.
    async fn read_and_propose(
        &self,
        handle: &StatementHandle,
        command: impl Fn(&dyn ReadView) -> Result<Option<TaskCommand>>,
    ) -> Result<Execution> {
        let proposer = Self::proposer_of(handle);
        let mut sequence = 1;
        loop {
            let view = self.replica.read().await?;
            let Some(command) = command(&*view)? else { return Ok(Execution::nothing()) };
            drop(view);
            match self.replica.propose_as(proposer.clone(), sequence, Command::Task(command)).await {
                Err(error) if error.is_lost_race() && sequence < TRIES => sequence += 1,
                result => return result.map(|_| Execution::nothing()),
            }
        }
    }

    async fn alter_task(&self, handle: &StatementHandle, alter: &AlterTask) -> Result<Execution> {
        self.read_and_propose(handle, |view| {
            let task = match tasks::require_task(view, &alter.name) {
                Err(error) if alter.if_exists && error.kind() == ErrorKind::NotFound => return Ok(None),
                task => task?,
            };
            let (definition, started) = altered(view, &task, &alter.action)?;
            let next_tick_ms = next_tick(&task, &definition, started, self.replica.now_ms())?;
            let (name, version) = (task.name, task.version);
            Ok(Some(TaskCommand::Alter { name, version, definition, started, next_tick_ms }))
        })
        .await
    }

    /// Checks a webhook's URL and seals it.
    fn sealed_url(
        &self,
        integration: &str,
        url: &Secret<String>,
    ) -> Result<(stevedore_common::secret::Sealed, String)> {
        let parsed = Url::parse(url.expose())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Error::invalid("the url of a webhook must be an http or https URL")
                    .hint("as in https://hooks.example.com/services/…")
            })?;
        self.stores.egress().check_url(&parsed)?;
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("{}://{}{port}/{MASK}", parsed.scheme(), parsed.host_str().unwrap_or_default());
        Ok((self.stores.seal(&webhook_owner(integration, "url"), url)?, shown))
    }

    /// A webhook with what a statement changes of it.
    fn webhook(&self, name: &str, known: Option<&Webhook>, options: &WebhookOptions) -> Result<Webhook> {
        let (url, shown_url) = match (&options.url, known) {
            (Some(url), _) => self.sealed_url(name, url)?,
            (None, Some(known)) => (known.url.clone(), known.shown_url.clone()),
            (None, None) => return Err(Error::invalid("a webhook needs a url")),
        };
        let authorization_header = match &options.authorization_header {
            Some(header) if header.expose().is_empty() => None,
            Some(header) if header.expose().chars().any(|c| c.is_control() || !c.is_ascii()) => {
                return Err(Error::invalid("the authorization_header of a webhook must be printable ASCII"));
            }
            Some(header) => Some(self.stores.seal(&webhook_owner(name, "authorization_header"), header)?),
            None => known.and_then(|known| known.authorization_header.clone()),
        };
        let method = options.method.clone().or_else(|| known.map(|known| known.method.clone()));
        let method = method.unwrap_or_else(|| DEFAULT_METHOD.to_owned());
        Ok(Webhook { url, shown_url, method, authorization_header })
    }

    fn create_notification_command(
        &self,
        options: &NotificationOptions,
        mode: CreateMode,
    ) -> Result<TaskCommand> {
        let (if_not_exists, or_replace) = mode_flags(mode);
        let webhook = self.webhook(
            &options.name,
            None,
            options.webhook.as_ref().unwrap_or(&WebhookOptions::default()),
        )?;
        Ok(TaskCommand::CreateIntegration {
            name: options.name.clone(),
            enabled: options.enabled.unwrap_or(true),
            webhook,
            comment: options.comment.clone().unwrap_or_default(),
            if_not_exists,
            or_replace,
        })
    }

    async fn alter_notification(
        &self,
        handle: &StatementHandle,
        options: &NotificationOptions,
        if_exists: bool,
    ) -> Result<Execution> {
        self.read_and_propose(handle, |view| {
            let known = match require_integration(view, &options.name) {
                Err(error) if if_exists && error.kind() == ErrorKind::NotFound => return Ok(None),
                known => known?,
            };
            let webhook = match &options.webhook {
                Some(webhook) => self.webhook(&known.name, Some(&known.webhook), webhook)?,
                None => known.webhook,
            };
            Ok(Some(TaskCommand::AlterIntegration {
                name: known.name,
                version: known.version,
                enabled: options.enabled.unwrap_or(known.enabled),
                webhook,
                comment: options.comment.clone().unwrap_or(known.comment),
            }))
        })
        .await
    }
}

pub(super) fn require_integration(view: &dyn ReadView, name: &str) -> Result<NotificationIntegration> {
    tasks::integration(view, name)?.ok_or_else(|| {
        Error::not_found(format!("notification integration '{name}' does not exist"))
            .about(name)
            .hint("SHOW NOTIFICATION INTEGRATIONS lists them")
    })
}
