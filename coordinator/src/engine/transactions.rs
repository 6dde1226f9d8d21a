//! BEGIN, COMMIT, ROLLBACK, and what it means for a statement to run in a transaction.
//!
//! Comes in: statements whose handle names a transaction. Goes out: the handle to go on with (a transaction may be
//! begun here, by its first statement), the failure of the transaction where a statement of it fails. What a
//! transaction is lives in the state, so any coordinator may have its next statement; the session that is in it is
//! known there as well.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use futures::StreamExt;
use stevedore_common::ids::TransactionId;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::{Statement, TransactionControl};
use stevedore_state::jobs;
use stevedore_state::result::TransactionOutcome;
use stevedore_state::transactions::{self, ClientTransaction, TransactionCommand, TransactionPhase};
use stevedore_state::view::ReadView;
use uuid::Uuid;

use super::history::MOST_ROWS;
use super::settings::idle_limit_ms;
use super::{Engine, Execution, StatementHandle, TransactionRef, show};
use crate::replica::Replica;
use crate::results::ColumnKind::{Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};
use crate::scheduler::DAY_MS;
use crate::scheduler::phases::Context;
use crate::scheduler::transactions::{commit, propose, rolled_back};

/// How often a long answer says that its client is there.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// The columns of `system.transactions`.
pub(super) const TRANSACTIONS: Columns = &[
    ("id", Text),
    ("user", Text),
    ("phase", Text),
    ("begun_on", Timestamp),
    ("last_activity", Timestamp),
    ("ended_on", Timestamp),
    ("statements", UnsignedBigInt),
    ("tables", Text),
    ("error", Text),
];

/// The rows of `system.transactions`, one more than fit an answer at most. Which tables one has changed is known
/// until a while after its end.
pub(super) fn transaction_rows(view: &dyn ReadView) -> Result<Vec<Vec<Value>>> {
    let row = |record: ClientTransaction| -> Result<Vec<Value>> {
        let tables = transactions::transaction_tables(view, record.id)?;
        let tables: Vec<&str> = tables.iter().map(|own| own.name.as_str()).collect();
        Ok(vec![
            record.id.to_string().into(),
            record.user.into(),
            record.phase.as_str().into(),
            Value::Int(record.begun_on_ms),
            Value::Int(record.active_on_ms),
            record.ended_on_ms.map_or(Value::Null, Value::Int),
            u64::from(record.jobs).into(),
            tables.join(", ").into(),
            record.error.map(|error| error.to_string()).into(),
        ])
    };
    transactions::transactions(view, MOST_ROWS + 1)?.into_iter().map(row).collect()
}

/// Whether a statement may run in a transaction: what reads, and what changes rows of tables that are there. All
/// else takes effect at once, and could not be rolled back.
fn may_join(statement: &Statement) -> bool {
    match statement {
        Statement::Remove(_) => false,
        Statement::Query(_)
        | Statement::Explain { .. }
        | Statement::ExplainMutation { .. }
        | Statement::ExplainCopy { .. }
        | Statement::CopyIntoTable(_)
        | Statement::Insert(_)
        | Statement::Mutation(_)
        | Statement::ConsumeStream { .. }
        | Statement::Use { .. }
        | Statement::Set { .. }
        | Statement::Unset { .. }
        | Statement::Put(_)
        | Statement::Get(_) => true,
        other => show::columns_of(other).is_some(),
    }
}

/// Whether a statement looks at tables: what a transaction sees of them is fixed before the first of these.
fn looks_at_tables(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Query(_)
            | Statement::Explain { .. }
            | Statement::ExplainMutation { .. }
            | Statement::CopyIntoTable(_)
            | Statement::Insert(_)
            | Statement::Mutation(_)
            | Statement::ConsumeStream { .. }
    )
}

pub(super) fn refused(what: &str) -> Error {
    Error::invalid(format!("{what} cannot run inside a transaction: COMMIT or ROLLBACK first"))
        .hint(
            "the transaction goes on; it may hold SELECT, INSERT, DELETE, UPDATE, MERGE INTO, COPY INTO a table and \
             CONSUME STREAM",
        )
}

impl Engine {
    /// What a commit takes.
    fn context(&self) -> Context {
        Context {
            replica: self.replica.clone(),
            stores: self.stores.clone(),
            directory: self.workers.clone(),
            committer: self.committer.clone(),
            scheduling: self.scheduling.clone(),
        }
    }

    /// The transaction that a session is in.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn transaction_of_session(&self, session: &str) -> Result<Option<TransactionRef>> {
        let view = self.replica.read().await?;
        let record = transactions::transaction_of_session(&*view, session)?;
        Ok(record.map(|record| TransactionRef { id: record.id, named: false }))
    }

    /// Ends a session's transaction with it.
    ///
    /// # Errors
    /// Unavailable; outcome unknown.
    pub async fn close_session(&self, session: &str) -> Result<()> {
        match self.transaction_of_session(session).await? {
            Some(transaction) => self.roll_back(transaction.id).await,
            None => Ok(()),
        }
    }

    /// The id of a transaction that a client may name from now on.
    pub fn new_transaction(&self) -> TransactionId {
        TransactionId(Uuid::now_v7())
    }

    /// Commits or rolls back a transaction that the client names. One without a statement changed nothing.
    ///
    /// # Errors
    /// As COMMIT: a transaction that failed did not commit, whatever its client was told before.
    pub async fn end_transaction(&self, id: TransactionId, commits: bool) -> Result<()> {
        if !commits {
            return self.roll_back(id).await;
        }
        self.record_failure(id).await?;
        let record = transactions::transaction(&*self.replica.read().await?, id)?;
        match record {
            None => self.check_recent(id),
            Some(record) if record.phase == TransactionPhase::Failed => {
                self.roll_back(id).await?;
                Err(rolled_back(record.reason()))
            }
            Some(_) => commit(&self.context(), id).await,
        }
    }

    /// An id that is older than what is remembered may be that of a transaction which ended.
    fn check_recent(&self, id: TransactionId) -> Result<()> {
        let made_ms = id.0.get_timestamp().map(|at| at.to_unix().0.saturating_mul(1_000));
        let age_ms = made_ms.and_then(|at| i64::try_from(at).ok()).map(|at| self.replica.now_ms() - at);
        match age_ms {
            Some(age) if age < self.scheduling.job_history_days.max(1) * DAY_MS => Ok(()),
            _ => Err(Error::not_found(format!("transaction {id} is not known, or not any more"))
                .hint("begin another one")),
        }
    }

    /// Tells the state of a failure that it could not be told of.
    async fn record_failure(&self, id: TransactionId) -> Result<()> {
        let Some(error) = self.failed.get(&id).map(|entry| entry.value().clone()) else { return Ok(()) };
        propose(&self.replica, TransactionCommand::Fail { id, error, told: true, idle_since_ms: None })
            .await?;
        self.failed.remove(&id);
        Ok(())
    }

    async fn roll_back(&self, id: TransactionId) -> Result<()> {
        match propose(&self.replica, TransactionCommand::RollBack { id }).await {
            Ok(TransactionOutcome::Committed) => {
                Err(Error::conflict(format!("transaction {id} has committed: it cannot be rolled back")))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn control_transaction(
        &self,
        handle: &StatementHandle,
        control: TransactionControl,
    ) -> Result<Execution> {
        match (control, handle.transaction) {
            (TransactionControl::Begin, None) => {
                let begin = TransactionCommand::Begin {
                    id: TransactionId(handle.id),
                    session: Some(handle.session.clone()),
                    user: handle.user.clone(),
                    idle_limit_ms: idle_limit_ms(&handle.settings),
                };
                propose(&self.replica, begin).await?;
            }
            // There are no nested transactions: it goes on.
            (TransactionControl::Begin, Some(transaction)) => {
                if let Some(record) = transactions::transaction(&*self.replica.read().await?, transaction.id)?
                {
                    record.check_open()?;
                }
            }
            // Nothing to end.
            (TransactionControl::Commit | TransactionControl::RollBack, None) => {}
            (TransactionControl::Commit, Some(transaction)) => self.commit_session(transaction.id).await?,
            (TransactionControl::RollBack, Some(transaction)) => self.roll_back(transaction.id).await?,
        }
        Ok(Execution::nothing())
    }

    /// COMMIT as a statement: the end of a transaction of which a statement has failed, as its client knows, is no
    /// error, and commits nothing.
    async fn commit_session(&self, id: TransactionId) -> Result<()> {
        self.record_failure(id).await?;
        let record = transactions::transaction(&*self.replica.read().await?, id)?;
        match record {
            None => Ok(()),
            Some(record) if record.phase == TransactionPhase::Failed => {
                self.roll_back(id).await?;
                if record.told { Ok(()) } else { Err(rolled_back(record.reason())) }
            }
            Some(_) => commit(&self.context(), id).await,
        }
    }

    /// A statement and the handle to run it under: in its transaction, which may begin now, or outside of it.
    ///
    /// # Errors
    /// What is wrong with the text; a refusal, which leaves the transaction as it is.
    pub(super) async fn enter(&self, handle: &StatementHandle) -> Result<(Statement, StatementHandle)> {
        let parsed = stevedore_sql::parse(&handle.sql);
        let parsed = parsed.and_then(|statement| match statement.unsupported() {
            Some(error) => Err(error),
            None => Ok(statement),
        });
        let Some(transaction) = handle.transaction else { return Ok((parsed?, handle.clone())) };
        let statement = self.or_fail(handle, parsed).await?;
        if let Statement::Transaction(_) = statement {
            return Ok((statement, handle.clone()));
        }
        let joins = may_join(&statement).then(|| looks_at_tables(&statement));
        let entered = self.join(handle, transaction, joins, statement.name()).await;
        match entered {
            Ok(entered) => Ok((statement, entered)),
            // The client is told that this statement was not run; a commit must not go on without it.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutcomeUnknown) => {
                self.or_fail(handle, Err(error)).await
            }
            Err(error) => Err(error),
        }
    }

    /// `joins`: whether it looks at tables; none: it cannot run in a transaction.
    pub(super) async fn join(
        &self,
        handle: &StatementHandle,
        transaction: TransactionRef,
        joins: Option<bool>,
        what: &str,
    ) -> Result<StatementHandle> {
        let id = transaction.id;
        self.record_failure(id).await?;
        let view = self.replica.read().await?;
        let record = transactions::transaction(&*view, id)?;
        // A ticket that is redeemed again finds its job, whatever became of the transaction.
        if jobs::job(&*view, stevedore_common::ids::JobId(handle.id))?.is_some() {
            return Ok(handle.clone());
        }
        drop(view);
        if let Some(record) = &record {
            record.check_open()?;
        } else if !transaction.named {
            return Err(Error::not_found(format!("transaction {id} is not known any more"))
                .hint("nothing of it was changed; BEGIN another one"));
        } else {
            self.check_recent(id)?;
        }
        match (joins, record) {
            // A driver's transaction that has changed nothing does not stand in the way: it begins anew afterwards.
            (None, None) if transaction.named => Ok(handle.outside()),
            (None, Some(record)) if transaction.named && !record.has_changes() => {
                propose(&self.replica, TransactionCommand::Renew { id }).await?;
                Ok(handle.outside())
            }
            (None, _) => Err(refused(what)),
            (Some(true), None) => {
                let begin = TransactionCommand::Begin {
                    id,
                    session: None,
                    user: handle.user.clone(),
                    idle_limit_ms: idle_limit_ms(&handle.settings),
                };
                propose(&self.replica, begin).await?;
                Ok(handle.clone())
            }
            (Some(_), Some(record)) => {
                self.sign(&record).await?;
                Ok(handle.clone())
            }
            (Some(false), None) => Ok(handle.clone()),
        }
    }

    /// Records that the client is there, now and then.
    async fn sign(&self, record: &ClientTransaction) -> Result<()> {
        if self.replica.now_ms() - record.active_on_ms > record.idle_limit_ms / 4 {
            propose(&self.replica, TransactionCommand::Touch { id: record.id }).await?;
        }
        Ok(())
    }

    /// The result of a statement; an error of it is the end of its transaction.
    pub(super) async fn or_fail<T>(&self, handle: &StatementHandle, result: Result<T>) -> Result<T> {
        if let (Some(transaction), Err(error)) = (handle.transaction, &result) {
            fail(&self.replica, &self.failed, transaction.id, error).await;
        }
        result
    }

    /// The rows of a statement; an error among them is the end of its transaction, and as long as they flow its
    /// client is there.
    pub(super) fn watched(&self, handle: &StatementHandle, execution: Execution) -> Execution {
        let Some(TransactionRef { id, .. }) = handle.transaction else { return execution };
        let replica = self.replica.clone();
        let (signed, unrecorded) = (tokio::time::Instant::now(), self.failed.clone());
        let watched = futures::stream::unfold(
            (execution.batches, replica, unrecorded, signed),
            move |(mut batches, replica, unrecorded, mut signed)| async move {
                let batch = batches.next().await?;
                if let Err(error) = &batch {
                    fail(&replica, &unrecorded, id, error).await;
                } else if signed.elapsed() > SIGN_EVERY {
                    signed = tokio::time::Instant::now();
                    let sign = propose(&replica, TransactionCommand::Touch { id });
                    if let Err(error) = sign.await {
                        tracing::debug!(transaction = %id, %error, "a sign of its client was not recorded");
                    }
                }
                Some((batch, (batches, replica, unrecorded, signed)))
            },
        );
        Execution { batches: watched.boxed(), ..execution }
    }
}

/// Failures that could not be recorded: no commit may go on without them.
pub(super) type Unrecorded = Arc<DashMap<TransactionId, Error>>;

/// Ends a transaction of which a statement has failed, as the client is about to hear.
async fn fail(replica: &Replica, unrecorded: &Unrecorded, id: TransactionId, error: &Error) {
    let failure = error;
    let command = TransactionCommand::Fail { id, error: error.clone(), told: true, idle_since_ms: None };
    match propose(replica, command).await {
        Ok(_) => {}
        // It has not begun: there is nothing to roll back.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(transaction = %id, %error, "a transaction of which a statement failed is not rolled back yet");
            unrecorded.insert(id, failure.clone());
        }
    }
}
