//! One run, from its condition to its end.
//!
//! A run that another leader began is gone on with: statements that are done are passed over (but for what they
//! changed in the session), and the one that was under way is run again under the same id, which finds what it
//! did. What cannot be reached for a moment is tried again for a while.

use std::time::Duration;

use arrow::array::{Array, BooleanArray};
use futures::StreamExt;
use stevedore_common::ids::{JobId, TaskRun, derived_id};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::Statement;
use stevedore_state::command::Command;
use stevedore_state::tasks::{self, Run, RunEnd, RunState, TaskCommand};
use stevedore_state::{catalog, jobs};
use tokio::time::Instant;
use uuid::Uuid;

use crate::engine::{Engine, SessionChange, StatementHandle, WAREHOUSE, check_keeps_warehouse};

/// How long a run waits for what cannot be reached.
const PATIENCE: Duration = Duration::from_secs(120);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The id of a statement of a run: the same whoever runs it.
fn statement_id(run: Uuid, step: usize) -> Uuid {
    derived_id(run, &(step as u64).to_be_bytes())
}

/// The session of a run, as its statements have left it so far.
fn session_of(run: &Run) -> StatementHandle {
    let mut settings = run.definition.settings.clone();
    settings.insert(WAREHOUSE.to_owned(), run.definition.warehouse.to_string());
    StatementHandle {
        id: run.id,
        sql: String::new(),
        session: format!("task-{}", run.id.simple()),
        user: run.owner.clone(),
        database: run.definition.database.clone(),
        settings,
        parameters: None,
        pins: Default::default(),
        traceparent: String::new(),
        transaction: None,
    }
}

fn change_session(session: &mut StatementHandle, change: SessionChange) {
    match change {
        SessionChange::Database(database) => session.database = database,
        SessionChange::Setting(name, Some(value)) => {
            session.settings.insert(name, value);
        }
        SessionChange::Setting(name, None) => {
            session.settings.remove(&name);
        }
    }
}

/// What a statement that was run before has changed in the session.
fn past_change(sql: &str) -> Result<Option<SessionChange>> {
    Ok(match stevedore_sql::parse(sql)? {
        Statement::Use { database } => Some(SessionChange::Database(database)),
        Statement::Set { name, value } => Some(SessionChange::Setting(name, Some(value))),
        Statement::Unset { name } => Some(SessionChange::Setting(name, None)),
        _ => None,
    })
}

/// Takes a run to its end. Never gives up before the run has one, unless it is dropped.
pub(super) async fn carry_out(engine: &Engine, number: TaskRun) {
    let since = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let (error, query) = match Attempt::new(engine, number).carry_out().await {
            Ok(()) => return,
            Err(failed) => failed,
        };
        if since.elapsed() > PATIENCE && !matches!(error.kind(), ErrorKind::OutcomeUnknown) {
            let command = TaskCommand::EndRun { run: number, end: RunEnd::Failed(error), query };
            match engine.replica().propose(Command::Task(command)).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(run = %number, %error, "the end of a run was not recorded yet"),
            }
        } else {
            tracing::info!(run = %number, %error, "a step of a run is tried again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

type Failed = (Error, Option<Uuid>);

struct Attempt<'a> {
    engine: &'a Engine,
    number: TaskRun,
}

impl<'a> Attempt<'a> {
    fn new(engine: &'a Engine, number: TaskRun) -> Self {
        Self { engine, number }
    }

    async fn propose(&self, command: TaskCommand) -> Result<(), Failed> {
        match self.engine.replica().propose(Command::Task(command)).await {
            Ok(_) => Ok(()),
            // It has ended, or is gone: there is nothing left to do.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Ok(()),
            Err(error) => Err((error, None)),
        }
    }

    async fn end(&self, end: RunEnd, query: Option<Uuid>) -> Result<(), Failed> {
        self.propose(TaskCommand::EndRun { run: self.number, end, query }).await
    }

    /// An error is one that may pass: the run goes on later.
    async fn carry_out(&self) -> Result<(), Failed> {
        let without_query = |error: Error| (error, None);
        let view = self.engine.replica().read().await.map_err(without_query)?;
        let run = tasks::task_run(&*view, self.number).map_err(without_query)?;
        drop(view);
        let Some(run) = run.filter(|run| !run.state.is_ended()) else { return Ok(()) };
        let session = session_of(&run);
        if run.state == RunState::Scheduled {
            if let Some(condition) = &run.definition.condition {
                match self.holds(&session, condition).await {
                    Ok(true) => {}
                    Ok(false) => {
                        return self
                            .end(RunEnd::Skipped("the condition of WHEN was not true".into()), None)
                            .await;
                    }
                    Err(error) if may_pass(&error) => return Err((error, None)),
                    Err(error) => {
                        return self.end(RunEnd::Failed(error.context("the condition of WHEN")), None).await;
                    }
                }
            }
            self.propose(TaskCommand::BeginRun { run: self.number }).await?;
        }
        let (end, query) = self.run_statements(&run, session.clone()).await?;
        let left_open = self.engine.transaction_of_session(&session.session).await;
        let end = match left_open.map_err(|error| (error, query))? {
            None => end,
            Some(_) => {
                self.engine.close_session(&session.session).await.map_err(|error| (error, query))?;
                match end {
                    RunEnd::Succeeded => RunEnd::Failed(
                        Error::invalid(
                            "the statements of the task left a transaction open: it was rolled back",
                        )
                        .hint("end it by COMMIT"),
                    ),
                    end => end,
                }
            }
        };
        self.end(end, query).await
    }

    /// Runs the statements that are not done yet. Answers how the run ends, and its last statement.
    async fn run_statements(
        &self,
        run: &Run,
        mut session: StatementHandle,
    ) -> Result<(RunEnd, Option<Uuid>), Failed> {
        let without_query = |error: Error| (error, None);
        let statements = match stevedore_sql::task::statements(&run.definition.body) {
            Ok(statements) => statements,
            Err(error) => return Ok((RunEnd::Failed(error), None)),
        };
        let done = usize::try_from(run.step).unwrap_or(usize::MAX);
        let mut query = run.query;
        let which = |error: Error, step: usize| {
            let error = self.about_database(run, error);
            match statements.len() {
                1 => error,
                all => error.context(format!("statement {} of {all}", step + 1)),
            }
        };
        for (step, sql) in statements.iter().enumerate() {
            if step < done {
                if let Some(change) = past_change(sql).map_err(without_query)? {
                    change_session(&mut session, change);
                }
                continue;
            }
            let id = statement_id(run.id, step);
            // After BEGIN, the run's session is in a transaction; whoever takes the run over finds it there.
            let transaction = self.engine.transaction_of_session(&session.session).await;
            let transaction = transaction.map_err(|error| (error, query))?;
            let handle = StatementHandle { id, sql: sql.clone(), transaction, ..session.clone() };
            query = Some(id);
            match self.execute(&handle).await {
                Ok(Some(change)) => change_session(&mut session, change),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Cancelled => {
                    return Ok((RunEnd::Cancelled(which(error, step)), query));
                }
                Err(error) if may_pass(&error) && !self.job_has_ended(id) => {
                    return Err((which(error, step), query));
                }
                Err(error) => return Ok((RunEnd::Failed(which(error, step)), query)),
            }
            if step + 1 < statements.len() {
                let step = u32::try_from(step + 1).unwrap_or(u32::MAX);
                self.propose(TaskCommand::AdvanceRun { run: self.number, step, query: id }).await?;
            }
        }
        Ok((RunEnd::Succeeded, query))
    }

    /// Runs a statement to its end; its rows are nobody's.
    async fn execute(&self, handle: &StatementHandle) -> Result<Option<SessionChange>> {
        check_keeps_warehouse(&stevedore_sql::parse(&handle.sql)?)?;
        let mut execution = self.engine.execute(handle).await?;
        while let Some(batch) = execution.batches.next().await {
            batch?;
        }
        Ok(execution.session_change)
    }

    /// Whether a condition is true. NULL is not.
    async fn holds(&self, session: &StatementHandle, condition: &str) -> Result<bool> {
        let sql = stevedore_sql::task::condition_query(condition);
        let handle = StatementHandle { id: Uuid::now_v7(), sql, ..session.clone() };
        let mut execution = self.engine.execute(&handle).await?;
        let mut holds = None;
        while let Some(batch) = execution.batches.next().await {
            let batch = batch?;
            let values = batch.columns().first().and_then(|c| c.as_any().downcast_ref::<BooleanArray>());
            let Some(values) = values.filter(|values| !values.is_empty()) else { continue };
            if holds.is_some() || values.len() > 1 {
                return Err(Error::invalid("the condition gave more than one row"));
            }
            holds = Some(values.is_valid(0) && values.value(0));
        }
        holds.ok_or_else(|| Error::internal("a worker gave no value for the condition"))
    }

    /// Where the task's own database is gone, nothing it names is found: that is what to do something about.
    fn about_database(&self, run: &Run, error: Error) -> Error {
        let name = &run.definition.database;
        let gone = matches!(catalog::database(&*self.engine.replica().local(), name), Ok(None));
        if error.kind() != ErrorKind::NotFound || !gone {
            return error;
        }
        error.hint(format!(
            "task '{}' runs in database '{name}', which does not exist any more: create it again, or the task in \
             another one",
            run.name
        ))
    }

    /// A job that has ended stays as it is: to wait for it again is of no use.
    fn job_has_ended(&self, id: Uuid) -> bool {
        let job = jobs::job(&*self.engine.replica().local(), JobId(id)).ok().flatten();
        job.is_some_and(|job| job.phase.is_ended())
    }
}

fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutcomeUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_ids_of_their_own_that_never_change() {
        let run = Uuid::from_u128(7);
        assert_eq!(statement_id(run, 0), statement_id(run, 0));
        assert_ne!(statement_id(run, 0), statement_id(run, 1));
        assert_ne!(statement_id(run, 0), statement_id(Uuid::from_u128(8), 0));
    }
}
