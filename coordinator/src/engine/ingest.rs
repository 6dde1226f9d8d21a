//! Bulk ingestion: a client's rows into a table, in one commit.
//!
//! Comes in: what to do with which table, the rows' schema, the rows as Flight messages that are not decoded here.
//! A job with one slice is created; the leader leases the slice to a worker as any other; the rows are sent to that
//! worker under the attempt's name, as fast as it takes them; its report and the commit are those of an INSERT.
//! Must never: commit rows of a client that went away before it had sent all of them, or send rows twice. So the
//! job is aborted where the client, the worker or this coordinator fails half-way, and the client sends again.

use std::fmt;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow_flight::{FlightData, FlightDescriptor};
use futures::{Stream, StreamExt, TryFutureExt};
use prost::Message;
use stevedore_common::ids::{AttemptKey, JobId, SliceIndex, SliceKey, WorkerId};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{CreateMode, CreateTable, ObjectRef};
use stevedore_state::catalog;
use stevedore_state::command::{Command, JobEnding};
use stevedore_state::jobs::{self, JobKind, JobSpec, SliceState};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::load::{columns_of_query, query_job};
use super::{Engine, StatementHandle, transactions};
use crate::planner::plan::{IngestPlan, JobPlan, NewTablePlan};
use crate::planner::spec;
use crate::replica::Replica;
use crate::worker_directory::no_worker;

/// The only slice of an ingestion.
const SLICE: SliceIndex = SliceIndex(0);
/// Messages on their way to the worker; each may hold a large batch.
const IN_FLIGHT: usize = 2;
/// The state is looked at this often while its events do not matter.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The same while rows are sent.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long rows wait for a first worker to appear.
const WAIT_FOR_WORKERS: Duration = Duration::from_secs(10);

/// What becomes of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngestMode {
    /// It is created; one that exists is an error.
    Create,
    /// It is created where it is missing, and gets the rows.
    CreateOrAppend,
    /// It must exist, and gets the rows.
    Append,
    /// A new one takes its place, if it exists.
    Replace,
    /// A new one takes its place; it must exist.
    ReplaceExisting,
}

/// A bulk ingestion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestRequest {
    /// The database; `None` is the session's current one.
    pub database: Option<String>,
    /// The table.
    pub table: String,
    /// What becomes of it.
    pub mode: IngestMode,
}

impl fmt::Display for IngestRequest {
    /// As the record of its job shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            IngestMode::Create => "create",
            IngestMode::CreateOrAppend => "create_append",
            IngestMode::Append => "append",
            IngestMode::Replace | IngestMode::ReplaceExisting => "replace",
        };
        let table = ObjectRef { database: self.database.clone(), name: self.table.clone() };
        write!(f, "bulk ingestion into {table} ({mode})")
    }
}

/// Aborts its job when it is dropped: the call that sends the rows ends with its client.
struct Abandoned {
    replica: Replica,
    job: Option<JobId>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let replica = self.replica.clone();
        let error = Error::cancelled("the client went away before it had sent all its rows")
            .hint("nothing was loaded; send them again");
        tokio::spawn(async move {
            let end = Command::EndJob { job, end: JobEnding::Aborted(error) };
            if let Err(error) = replica.propose(end).await {
                // The worker, whose rows end too early, aborts it as well.
                tracing::debug!(%job, %error, "an abandoned ingestion was not aborted here");
            }
        });
    }
}

impl Engine {
    /// Writes rows to a table, all of them or none. Answers how many.
    ///
    /// # Errors
    /// Whatever is wrong with the request, the columns or a row; unavailable where a worker was lost on the way.
    pub async fn ingest(
        &self,
        handle: &StatementHandle,
        request: &IngestRequest,
        schema: &Schema,
        rows: impl Stream<Item = Result<FlightData>> + Send,
    ) -> Result<u64> {
        metrics::counter!("stevedore_statements_total", "statement" => "bulk ingestion").increment(1);
        let (handle, request) = &self.join_ingest(handle, request, schema).await?;
        let rows = self.ingest_rows(handle, request, schema, rows).await;
        self.or_fail(handle, rows).await
    }

    async fn ingest_rows(
        &self,
        handle: &StatementHandle,
        request: &IngestRequest,
        schema: &Schema,
        rows: impl Stream<Item = Result<FlightData>> + Send,
    ) -> Result<u64> {
        let job = JobId(handle.id);
        let spec = self.bind_ingest(handle, request, schema).await?;
        tracing::info!(%job, table = spec.table_name, "ingesting");
        let group = spec.group.clone();
        let mut abandoned = Abandoned { replica: self.replica.clone(), job: Some(job) };
        self.create_job(job, spec).await?;
        let sent = self.send_rows(job, &group, rows).await;
        // From here on the job ends by itself, whether the client waits for it or not.
        abandoned.job = None;
        let lost = match sent {
            Ok(attempt) => tokio::select! {
                ended = self.job_result(job) => return ended.map(|job| job.rows),
                lost = self.lost(attempt) => lost,
            },
            Err(error) => error,
        };
        let end = Command::EndJob { job, end: JobEnding::Aborted(lost) };
        if let Err(error) = self.replica.propose(end).await {
            tracing::debug!(%job, %error, "an ingestion was not aborted here");
        }
        // The state knows: another reason may have come first, or the commit.
        self.job_result(job).await.map(|job| job.rows)
    }

    /// The request in the handle's transaction, if there is one. A table that is to be created is there at once, empty,
    /// where the transaction has changed nothing yet; its rows come with the commit.
    async fn join_ingest(
        &self,
        handle: &StatementHandle,
        request: &IngestRequest,
        schema: &Schema,
    ) -> Result<(StatementHandle, IngestRequest)> {
        let Some(transaction) = handle.transaction else { return Ok((handle.clone(), request.clone())) };
        let view = self.replica.read().await?;
        let table = ObjectRef { database: request.database.clone(), name: request.table.clone() };
        let (database, name) = self.qualify(handle, &table);
        let exists = catalog::table(&*view, &database, &name)?.is_some();
        match request.mode {
            IngestMode::Replace | IngestMode::ReplaceExisting => {
                return Err(transactions::refused("a bulk ingestion that replaces its table"));
            }
            IngestMode::Create | IngestMode::CreateOrAppend if !exists => {
                let what = "a bulk ingestion that creates its table";
                let outside = self.join(handle, transaction, None, what).await?;
                check_columns(schema)?;
                let create = new_table(table, CreateMode::Create, schema)?;
                self.create_table(&outside.fresh(), &create).await?;
            }
            IngestMode::Create | IngestMode::CreateOrAppend | IngestMode::Append => {}
        }
        let creates = request.mode == IngestMode::Create && exists;
        let mode = if creates { IngestMode::Create } else { IngestMode::Append };
        let handle = self.join(handle, transaction, Some(true), "a bulk ingestion").await?;
        Ok((handle, IngestRequest { mode, ..request.clone() }))
    }

    async fn bind_ingest(
        &self,
        handle: &StatementHandle,
        request: &IngestRequest,
        schema: &Schema,
    ) -> Result<JobSpec> {
        check_columns(schema)?;
        let view = self.replica.read().await?;
        let table = ObjectRef { database: request.database.clone(), name: request.table.clone() };
        let (database, name) = self.qualify(handle, &table);
        self.require_database(&*view, &database)?;
        let exists = catalog::table(&*view, &database, &name)?.is_some();
        let creates = match request.mode {
            IngestMode::Create if exists => {
                return Err(Error::already_exists(format!("table '{database}.{name}' exists already"))
                    .hint("append to it, or replace it"));
            }
            IngestMode::Append => false,
            IngestMode::CreateOrAppend => !exists,
            IngestMode::Create | IngestMode::Replace => true,
            IngestMode::ReplaceExisting => {
                self.require_table(&*view, handle, &table)?;
                true
            }
        };
        let mut plan = IngestPlan {
            field_ids: Vec::new(),
            settings: handle.settings.clone(),
            traceparent: stevedore_common::telemetry::current_traceparent(),
            new_table: None,
        };
        let warehouse = self.stores.warehouse().store();
        if creates {
            let or_replace = request.mode != IngestMode::Create && request.mode != IngestMode::CreateOrAppend;
            let mode = if or_replace { CreateMode::OrReplace } else { CreateMode::Create };
            let create = new_table(table, mode, schema)?;
            let (created, options) = self.write_new_table(&create, &database, create.columns.clone()).await?;
            plan.field_ids = created.schema.columns.iter().map(|column| column.id).collect();
            plan.new_table = Some(NewTablePlan {
                database: database.clone(),
                name: name.clone(),
                metadata_location: created.metadata_location.clone(),
                comment: String::new(),
                transient: false,
                options,
                if_not_exists: false,
                or_replace,
            });
            let plan = JobPlan::Ingest(Box::new(plan)).store(JobId(handle.id), warehouse).await?;
            return Ok(JobSpec {
                table_name: format!("{database}.{name}"),
                schema_id: created.metadata.current_schema_id(),
                spec_id: created.metadata.default_partition_spec_id(),
                ..query_job(JobKind::CreateTableAs, handle, plan)?
            });
        }
        let target = self.require_table(&*view, handle, &table)?;
        let columns = self.schema_of_table(&target).await?;
        plan.field_ids = matched(schema, &columns, &format!("{database}.{name}"))?;
        let plan = JobPlan::Ingest(Box::new(plan)).store(JobId(handle.id), warehouse).await?;
        Ok(JobSpec {
            table: Some(target.id),
            table_name: format!("{database}.{name}"),
            epoch: target.epoch,
            schema_id: target.schema_id,
            spec_id: target.spec_id,
            ..query_job(JobKind::Insert, handle, plan)?
        })
    }

    /// Sends the rows to whoever runs the job's slice. Answers the attempt that took all of them.
    async fn send_rows(
        &self,
        job: JobId,
        group: &WorkerGroup,
        rows: impl Stream<Item = Result<FlightData>> + Send,
    ) -> Result<AttemptKey> {
        let (attempt, worker) = self.holder(job, group).await?;
        let (to_worker, messages) = mpsc::channel(IN_FLIGHT);
        let put = self.workers.put(&worker, ReceiverStream::new(messages)).map_err(of_lost_worker);
        let feed = feed(rows, attempt, to_worker);
        tokio::pin!(put, feed);
        tokio::select! {
            biased;
            put = &mut put => put?,
            fed = &mut feed => {
                fed?;
                tokio::select! {
                    put = &mut put => put?,
                    lost = self.lost(attempt) => return Err(lost),
                }
            }
            lost = self.lost(attempt) => return Err(lost),
        }
        Ok(attempt)
    }

    /// The attempt at the job's slice and who runs it, once a worker does.
    async fn holder(&self, job: JobId, group: &WorkerGroup) -> Result<(AttemptKey, WorkerId)> {
        let created = Instant::now();
        loop {
            let view = self.replica.local();
            if let Some(slice) = jobs::slice(&*view, job, SLICE)?
                && let SliceState::Leased { worker, .. } = slice.state
            {
                let slice_key = SliceKey { job, slice: SLICE };
                return Ok((AttemptKey { slice: slice_key, attempt: slice.attempt }, worker));
            }
            if jobs::job(&*view, job)?.is_some_and(|job| job.phase.is_ended()) {
                return Err(Error::cancelled(format!("job {job} was ended before its rows were sent")));
            }
            if created.elapsed() > WAIT_FOR_WORKERS && self.workers.size(group).await?.0 == 0 {
                return Err(no_worker(group));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until an attempt is not the current one any more, though its job goes on.
    async fn lost(&self, attempt: AttemptKey) -> Error {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let view = self.replica.local();
            let job = jobs::job(&*view, attempt.slice.job);
            let slice = jobs::slice(&*view, attempt.slice.job, attempt.slice.slice);
            let (Ok(Some(job)), Ok(Some(slice))) = (job, slice) else { continue };
            let current = slice.attempt == attempt.attempt
                && matches!(slice.state, SliceState::Leased { .. } | SliceState::Accepted);
            if !current || job.phase.is_ended() {
                return worker_lost("another attempt is current");
            }
        }
    }
}

fn worker_lost(how: &str) -> Error {
    Error::unavailable(format!("the worker that took the rows was lost: {how}"))
        .hint("nothing was loaded; send them again")
}

/// A connection that broke says nothing of the outcome, but the job does: it is aborted, unless it is committed.
fn of_lost_worker(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::OutcomeUnknown => worker_lost(&error.message_with_context()),
        _ => error,
    }
}

/// Sends a client's messages on, under the attempt's name, and says when all have come.
async fn feed(
    rows: impl Stream<Item = Result<FlightData>> + Send,
    attempt: AttemptKey,
    to_worker: mpsc::Sender<FlightData>,
) -> Result<()> {
    tokio::pin!(rows);
    let command = v1::PutCommand { slice: Some(spec::slice_ref(attempt)) }.encode_to_vec();
    let mut descriptor = Some(FlightDescriptor::new_cmd(command));
    while let Some(message) = rows.next().await {
        let message = message.map_err(|e| e.context("receiving the rows"))?;
        // Without a header it carries no Arrow data, and to the worker it would mean the end.
        if message.data_header.is_empty() {
            continue;
        }
        let message =
            FlightData { flight_descriptor: descriptor.take(), app_metadata: Default::default(), ..message };
        if to_worker.send(message).await.is_err() {
            // The worker's answer says why.
            std::future::pending::<()>().await;
        }
    }
    // The stream of a client that was cut off may end as if it were complete; such a call is dropped where it next
    // waits, and so does not come to say that all rows are there.
    tokio::task::yield_now().await;
    if to_worker.send(FlightData::default()).await.is_err() {
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn check_columns(schema: &Schema) -> Result<()> {
    if schema.fields().is_empty() {
        return Err(Error::invalid("the data to ingest has no columns"));
    }
    for (index, field) in schema.fields().iter().enumerate() {
        if field.name().is_empty() {
            return Err(Error::invalid(format!("column {} of the data to ingest has no name", index + 1)));
        }
        let twin = |other: &arrow::datatypes::FieldRef| other.name().eq_ignore_ascii_case(field.name());
        if schema.fields().iter().take(index).any(twin) {
            return Err(Error::invalid(format!(
                "the data to ingest has two columns named '{}'",
                field.name()
            )));
        }
    }
    Ok(())
}

/// The table that is made for the rows.
fn new_table(table: ObjectRef, mode: CreateMode, schema: &Schema) -> Result<CreateTable> {
    Ok(CreateTable {
        table,
        mode,
        transient: false,
        columns: new_columns(schema)?,
        partition_by: Vec::new(),
        cluster_by: Vec::new(),
        options: Vec::new(),
        comment: None,
        as_query: None,
        like: None,
    })
}

/// The columns of a table that is made for the rows.
fn new_columns(schema: &Schema) -> Result<Vec<Column>> {
    let columns = columns_of_query(schema, &[])?;
    let fields = schema.fields().iter();
    Ok(columns.into_iter().zip(fields).map(|(c, f)| Column { nullable: f.is_nullable(), ..c }).collect())
}

/// The table's column for each of the rows', by name.
fn matched(schema: &Schema, table: &TableSchema, name: &str) -> Result<Vec<i32>> {
    let known = || table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut ids = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = table.column(field.name()).ok_or_else(|| {
            Error::not_found(format!("column '{}' does not exist in table '{name}'", field.name()))
                .hint(format!("its columns are {}", known()))
        })?;
        ids.push(column.id);
    }
    let missing =
        |column: &&Column| !column.nullable && column.default.is_none() && !ids.contains(&column.id);
    let missing: Vec<&str> =
        table.columns.iter().filter(missing).map(|column| column.name.as_str()).collect();
    match missing.as_slice() {
        [] => Ok(ids),
        [column] => Err(Error::invalid(format!(
            "the data to ingest has no column '{column}', which is NOT NULL in table '{name}' and has no default"
        ))),
        columns => Err(Error::invalid(format!(
            "the data to ingest lacks the columns {}, which are NOT NULL in table '{name}' and have no default",
            columns.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::{DataType, Field};
    use stevedore_common::types::SqlType;

    use super::*;

    fn table() -> TableSchema {
        let column = |id, name: &str, nullable| Column {
            id,
            name: name.to_owned(),
            ty: SqlType::Int64,
            nullable,
            default: None,
            comment: None,
        };
        TableSchema { columns: vec![column(1, "id", false), column(2, "Name", true), column(3, "n", false)] }
    }

    fn schema(names: &[&str]) -> Schema {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
        Schema::new(fields)
    }

    #[test]
    fn columns_match_by_name_in_any_order() {
        assert_eq!(matched(&schema(&["n", "name", "ID"]), &table(), "d.t").unwrap(), [3, 2, 1]);
    }

    #[test]
    fn columns_that_do_not_match_are_named() {
        let error = matched(&schema(&["id", "n", "colour"]), &table(), "d.t").unwrap_err().to_string();
        assert!(error.contains("column 'colour' does not exist in table 'd.t'"), "{error}");
        let error = matched(&schema(&["id"]), &table(), "d.t").unwrap_err().to_string();
        assert!(error.contains("no column 'n', which is NOT NULL"), "{error}");
        let error = matched(&schema(&["name"]), &table(), "d.t").unwrap_err().to_string();
        assert!(error.contains("lacks the columns id, n"), "{error}");
        let error = check_columns(&schema(&["id", "ID"])).unwrap_err().to_string();
        assert!(error.contains("two columns named 'ID'"), "{error}");
        assert!(check_columns(&schema(&[])).is_err());
    }
}
