//! Statements, from their text to their results.
//!
//! Owns: what each statement does: binding names to objects, creating jobs and waiting for them, DDL,
//! SHOW, relaying queries to workers. Comes in: [`StatementHandle`]s from the services. Goes out:
//! [`Execution`]s. It decodes no row data and runs no query itself; all changes go through proposals,
//! each under a key of the handle's, so that running a handle twice changes things once.

mod copy_result;
mod ddl;
mod evolution;
mod explain;
mod files;
mod handle;
mod history;
mod ingest;
mod load;
mod mutate;
mod query;
mod relations;
mod settings;
mod show;
mod snapshots;
mod streams;
mod system_tables;
mod tables;
mod tasks;
mod transactions;
mod unload;
mod validate;
mod warehouses;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_common::telemetry::SpanParentExt;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_sql::ast::Statement;
use stevedore_state::catalog;
use stevedore_state::command::Command;
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;
use stevedore_state::worker_groups::require_worker_group;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::committer::Committer;
use crate::config::Scheduling;
use crate::replica::Replica;
use crate::results::{Columns, Value, batch_of, schema_of};
use crate::scheduler::progress::LiveProgress;
use crate::stores::Stores;
use crate::worker_directory::WorkerDirectory;

pub use handle::{DEFAULT_USER, Description, StatementHandle, StatementKind, TransactionRef};
pub use ingest::{IngestMode, IngestRequest};
pub use load::{JobProgress, SubmittedJob};
pub(crate) use settings::{DEFAULT_IDLE_SECONDS, WAREHOUSE};
pub use streams::STREAM;
pub use system_tables::{CATALOG, SYSTEM_VIEW};
pub(crate) use tables::{COMPATIBLE, SERIALIZATION_POLICY, TARGET_FILE_SIZE, contents_of};
pub use tables::{TABLE, TableListing};
pub(crate) use tasks::{check_keeps_warehouse, webhook_owner};

/// A change of the client's session that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    /// USE.
    Database(String),
    /// SET, or UNSET.
    Setting(String, Option<String>),
}

/// A running statement.
pub struct Execution {
    /// The schema of its rows; empty for DDL.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// Rows inserted or loaded, where it changes rows.
    pub affected: Option<i64>,
    /// What it changes in the session.
    pub session_change: Option<SessionChange>,
}

impl Execution {
    /// No rows.
    fn nothing() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            batches: futures::stream::empty().boxed(),
            affected: None,
            session_change: None,
        }
    }

    /// Rows that are there already.
    fn rows(columns: Columns, rows: &[Vec<Value>]) -> Result<Self> {
        let batch = batch_of(columns, rows)?;
        Ok(Self {
            schema: schema_of(columns),
            batches: futures::stream::iter([Ok(batch)]).boxed(),
            affected: None,
            session_change: None,
        })
    }

    fn with_affected(mut self, affected: i64) -> Self {
        self.affected = Some(affected);
        self
    }
}

/// The statements' engine of one coordinator.
pub struct Engine {
    replica: Replica,
    stores: Arc<Stores>,
    committer: Committer,
    workers: Arc<WorkerDirectory>,
    progress: LiveProgress,
    scheduling: Scheduling,
    /// Queries that run here, to cancel them by their handle's id.
    running: Arc<DashMap<Uuid, CancellationToken>>,
    /// Transactions of which a statement failed, where the state could not be told.
    failed: transactions::Unrecorded,
}

impl Engine {
    /// An engine over the replicated state, the stores and the workers; slices are planned as `scheduling` says.
    pub fn new(
        replica: Replica,
        stores: Arc<Stores>,
        committer: Committer,
        workers: Arc<WorkerDirectory>,
        progress: LiveProgress,
        scheduling: Scheduling,
    ) -> Self {
        Self {
            replica,
            stores,
            committer,
            workers,
            progress,
            scheduling,
            running: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// The replicated state.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What running slices say of a job, beside what the state has accepted.
    pub fn progress(&self) -> &LiveProgress {
        &self.progress
    }

    /// What a statement is and which rows it will give. Changes nothing.
    ///
    /// # Errors
    /// Whatever is wrong with the statement.
    pub async fn describe(&self, handle: &StatementHandle) -> Result<Description> {
        let (statement, handle) = self.enter(handle).await?;
        let described = self.describe_statement(&handle, &statement).await;
        self.or_fail(&handle, described.map_err(|error| pointed(error, &handle))).await
    }

    async fn describe_statement(
        &self,
        handle: &StatementHandle,
        statement: &Statement,
    ) -> Result<Description> {
        let parameters = statement.parameters();
        let simple =
            |kind, schema| Description { kind, schema, parameters, pins: Default::default(), is_job: false };
        if let Some(columns) = show::columns_of(statement) {
            let changes = matches!(statement, Statement::Remove(_));
            let kind = if changes { StatementKind::RowsAndChanges } else { StatementKind::Query };
            return Ok(simple(kind, schema_of(columns)));
        }
        Ok(match statement {
            Statement::Query(query) => self.describe_query(handle, query, None).await?,
            Statement::Explain { query, analyze, verbose } => {
                self.describe_query(handle, query, Some((*analyze, *verbose))).await?
            }
            Statement::ExplainMutation { mutation, verbose } => {
                self.describe_changes(handle, mutation, *verbose).await?
            }
            Statement::CopyIntoTable(copy) if copy.validation.is_some() => {
                simple(StatementKind::Query, self.validation_schema(handle, copy).await?)
            }
            Statement::ExplainCopy { .. } => simple(StatementKind::Query, schema_of(explain::COLUMNS)),
            Statement::CopyIntoTable(_) => Description {
                is_job: true,
                ..simple(StatementKind::RowsAndChanges, schema_of(copy_result::COPY_COLUMNS))
            },
            Statement::Unload(unload) => Description {
                is_job: true,
                ..simple(StatementKind::RowsAndChanges, schema_of(unload::columns_of(unload)))
            },
            Statement::Insert(_) => {
                Description { is_job: true, ..simple(StatementKind::Dml, schema_of(load::INSERT_COLUMNS)) }
            }
            Statement::Mutation(mutation) => Description {
                is_job: true,
                ..simple(StatementKind::Dml, schema_of(mutate::columns_of(mutation)))
            },
            Statement::CreateTable(create) if create.as_query.is_some() => {
                Description { is_job: true, ..simple(StatementKind::Ddl, Arc::new(Schema::empty())) }
            }
            _ => simple(StatementKind::Ddl, Arc::new(Schema::empty())),
        })
    }

    /// Runs a statement. Running the same handle again gives the same result and changes nothing more.
    ///
    /// # Errors
    /// Whatever is wrong with the statement, or came in its way.
    pub async fn execute(&self, handle: &StatementHandle) -> Result<Execution> {
        let (statement, handle) = self.enter(handle).await?;
        if let Statement::Transaction(_) = statement {
            return self.run_statement(&handle, statement).await;
        }
        let execution = self.run_statement(&handle, statement).await;
        let execution = self.or_fail(&handle, execution).await?;
        Ok(self.watched(&handle, execution))
    }

    async fn run_statement(&self, handle: &StatementHandle, statement: Statement) -> Result<Execution> {
        metrics::counter!("stevedore_statements_total", "statement" => statement.name()).increment(1);
        let started = std::time::Instant::now();
        let span = tracing::info_span!("statement", id = %handle.id, statement = statement.name());
        span.set_parent_from(&handle.traceparent);
        let result =
            self.dispatch(handle, statement).instrument(span).await.map_err(|error| pointed(error, handle));
        tracing::info!(
            sql = %stevedore_sql::mask_secrets(&handle.sql),
            elapsed_ms = started.elapsed().as_millis() as u64,
            error = result.as_ref().err().map(tracing::field::display),
            "statement"
        );
        result
    }

    async fn dispatch(&self, handle: &StatementHandle, statement: Statement) -> Result<Execution> {
        if show::columns_of(&statement).is_some()
            && !matches!(statement, Statement::List(_) | Statement::Remove(_) | Statement::Presign(_))
        {
            return self.show(handle, &statement).await;
        }
        match statement {
            Statement::Query(query) => self.run_query(handle, &query, None).await,
            Statement::Explain { query, analyze, verbose } => {
                self.run_query(handle, &query, Some((analyze, verbose))).await
            }
            Statement::ExplainMutation { mutation, verbose } => {
                self.explain_changes(handle, &mutation, verbose).await
            }
            Statement::CopyIntoTable(copy) if copy.validation.is_some() => self.validate(handle, &copy).await,
            Statement::ExplainCopy { copy, problems } => self.explain_copy(handle, &copy, problems).await,
            Statement::CopyIntoTable(copy) => self.copy_into_table(handle, &copy).await,
            Statement::Unload(unload) => self.copy_into_location(handle, &unload).await,
            Statement::Insert(insert) => self.insert(handle, &insert).await,
            Statement::Mutation(mutation) => self.mutate(handle, &mutation).await,
            Statement::CreateTable(create) if create.as_query.is_some() => {
                self.create_table_as(handle, &create).await
            }
            Statement::CreateTable(create) => self.create_table(handle, &create).await,
            Statement::Transaction(control) => self.control_transaction(handle, control).await,
            Statement::List(list) => self.list_files(handle, &list).await,
            Statement::Remove(list) => self.remove_files(handle, &list).await,
            Statement::Presign(presign) => self.presign(handle, &presign).await,
            Statement::Use { database } => {
                self.require_database(&*self.replica.read().await?, &database)?;
                Ok(Execution {
                    session_change: Some(SessionChange::Database(database)),
                    ..Execution::nothing()
                })
            }
            Statement::Set { name, value } => {
                self.check_setting(&name, Some(&value)).await?;
                let change = SessionChange::Setting(name, Some(value));
                Ok(Execution { session_change: Some(change), ..Execution::nothing() })
            }
            Statement::Unset { name } => {
                settings::check(&name, None)?;
                Ok(Execution {
                    session_change: Some(SessionChange::Setting(name, None)),
                    ..Execution::nothing()
                })
            }
            Statement::Put(_) | Statement::Get(_) => Err(Error::not_supported(format!(
                "{} outside of the client: it moves local files",
                statement.name()
            ))
            .hint("run it in `stevedore sql`, or use `stevedore put` and `stevedore get`")),
            ddl => self.ddl(handle, ddl).await,
        }
    }

    /// Whether a database exists, as this node knows it.
    ///
    /// # Errors
    /// Storage.
    pub fn has_database(&self, name: &str) -> Result<bool> {
        Ok(is_virtual_database(name) || catalog::database(&*self.replica.local(), name)?.is_some())
    }

    /// Whether a session may have this setting.
    ///
    /// # Errors
    /// Invalid input that names the setting and what is allowed; not found, for a warehouse that there is not.
    pub async fn check_setting(&self, name: &str, value: Option<&str>) -> Result<()> {
        settings::check(name, value)?;
        match value {
            Some(value) if name == WAREHOUSE => {
                require_worker_group(&*self.replica.read().await?, &WorkerGroup::parse(value)?)
            }
            _ => Ok(()),
        }
    }

    fn require_database(&self, view: &dyn ReadView, name: &str) -> Result<()> {
        if is_virtual_database(name) || catalog::database(view, name)?.is_some() {
            return Ok(());
        }
        Err(Error::not_found(format!("database '{name}' does not exist"))
            .about(name)
            .hint("SHOW DATABASES lists them"))
    }

    /// Proposes the statement's own command: once, however often the handle is run.
    async fn propose_once(&self, handle: &StatementHandle, command: Command) -> Result<CommandResult> {
        self.replica.propose_as(Self::proposer_of(handle), 1, command).await
    }

    /// The key by which the commands of a statement are deduplicated.
    fn proposer_of(handle: &StatementHandle) -> String {
        format!("statement-{}", handle.id.simple())
    }

    /// Cancels what runs under a handle's id: a job of the cluster, or a query of this node.
    ///
    /// # Errors
    /// Unavailable, or outcome unknown.
    pub async fn cancel(&self, id: Uuid) -> Result<bool> {
        if let Some((_, token)) = self.running.remove(&id) {
            token.cancel();
            return Ok(true);
        }
        self.cancel_runs(id).await
    }
}

/// Points an error about a name to where the name stands in the statement.
fn pointed(error: Error, handle: &StatementHandle) -> Error {
    let place = error.subject().and_then(|name| stevedore_sql::script::place_of_name(&handle.sql, name));
    match place {
        Some(place) => error.at(place.line, place.column),
        None => error,
    }
}

/// Databases that are not in the catalog.
const VIRTUAL_DATABASES: [&str; 2] = ["information_schema", "system"];

fn is_virtual_database(name: &str) -> bool {
    VIRTUAL_DATABASES.contains(&name)
}
