//! Statements that run as jobs: COPY INTO, INSERT, CREATE TABLE AS.
//!
//! Here a statement is bound, its job created under the handle's id, and its end waited for. The job
//! itself is driven by the leader, from its record alone: a client that goes away does not harm it, and
//! one that comes back with the same handle (or idempotency key) finds it.

use std::time::Duration;

use sha2::{Digest, Sha256};
use stevedore_common::file_format::FileFormat;
use stevedore_common::ids::JobId;
use stevedore_common::schema::Column;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::{
    ColumnMatchMode, CopyInto, CopyOptions, CopySource, CreateTable, Insert, InsertSource, OnError, Statement,
};
use stevedore_state::catalog::{self, Table};
use stevedore_state::command::{Command, JobEnding};
use stevedore_state::event::Event;
use stevedore_state::jobs::{self, ErrorMode, Job, JobKind, JobPhase, JobSpec, OnError as StateOnError};
use stevedore_state::result::CommandResult;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::ddl::{copy_options_of, mode_flags};
use super::evolution::evolution_plan;
use super::streams::consumed;
use super::tables::target_columns;
use super::{Engine, Execution, StatementHandle};
use crate::planner::plan::{CopyPlan, JobPlan, NewTablePlan, QueryPlan, SourcePlan, TransformPlan};
use crate::results::ColumnKind::UnsignedBigInt;
use crate::results::Columns;

/// The column of INSERT.
pub(super) const INSERT_COLUMNS: Columns = &[("number of rows inserted", UnsignedBigInt)];

/// The state is looked at this often while a job runs, whatever events say.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a job that was created may take to show in this node's state.
const CATCH_UP_FOR: Duration = Duration::from_secs(30);
/// The longest statement text that a job's record keeps, bytes.
const MOST_STATEMENT: usize = 4 * 1024;

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    /// Whether it ended.
    pub ended: bool,
    /// From 0 to 1, where it is known.
    pub fraction: Option<f64>,
}

/// A job that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmittedJob {
    /// The job.
    pub job: JobId,
    /// The idempotency key was known: it is the earlier job.
    pub existing: bool,
}

fn on_error_of(on_error: OnError) -> StateOnError {
    let (mode, limit) = match on_error {
        OnError::Abort => (ErrorMode::Abort, 0),
        OnError::AbortAfter(n) => (ErrorMode::AbortN, n),
        OnError::Continue => (ErrorMode::Continue, 0),
        OnError::SkipFile => (ErrorMode::SkipFile, 0),
        OnError::SkipFileCount(n) => (ErrorMode::SkipFileN, n),
        OnError::SkipFilePercent(percent) => (ErrorMode::SkipFilePercent, u64::from(percent)),
    };
    StateOnError { mode, limit }
}

pub(super) fn recorded_text(sql: &str) -> String {
    let mut text = stevedore_sql::mask_secrets(sql);
    if text.len() > MOST_STATEMENT {
        let cut = (0..=MOST_STATEMENT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// What tells one request under an idempotency key from another. Secrets have no part in it.
fn digest(handle: &StatementHandle) -> String {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    field(&stevedore_sql::mask_secrets(&handle.sql));
    field(&handle.database);
    for (name, value) in &handle.settings {
        field(name);
        field(value);
    }
    hex::encode(hash.finalize())
}

impl Engine {
    pub(super) async fn copy_into_table(
        &self,
        handle: &StatementHandle,
        copy: &CopyInto,
    ) -> Result<Execution> {
        if !self.job_exists(handle).await? {
            let spec = self.bind_copy(handle, copy).await?;
            self.create_job(JobId(handle.id), spec).await?;
        }
        let job = self.job_result(JobId(handle.id)).await?;
        self.copy_result(&job).await
    }

    pub(super) async fn insert(&self, handle: &StatementHandle, insert: &Insert) -> Result<Execution> {
        if !self.job_exists(handle).await? {
            let spec = self.bind_insert(handle, insert).await?;
            self.create_job(JobId(handle.id), spec).await?;
        }
        let job = self.job_result(JobId(handle.id)).await?;
        Ok(Execution::rows(INSERT_COLUMNS, &[vec![job.rows.into()]])?.with_affected(job.rows as i64))
    }

    pub(super) async fn create_table_as(
        &self,
        handle: &StatementHandle,
        create: &CreateTable,
    ) -> Result<Execution> {
        let (database, name) = self.qualify(handle, &create.table);
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        // The view is let go before the job is waited for.
        let (known, is_there) = {
            let view = self.replica.read().await?;
            let known = jobs::job(&*view, JobId(handle.id))?.is_some();
            (known, catalog::table(&*view, &database, &name)?.is_some())
        };
        if !known && is_there {
            if if_not_exists {
                return Ok(Execution::nothing());
            }
            if !or_replace {
                return Err(Error::already_exists(format!("table '{database}.{name}' exists already"))
                    .about(&name)
                    .hint("use OR REPLACE or IF NOT EXISTS"));
            }
        }
        if !known {
            let spec = self.bind_create_table_as(handle, create).await?;
            self.create_job(JobId(handle.id), spec).await?;
        }
        let job = self.job_result(JobId(handle.id)).await?;
        let rows = job.committed.as_ref().map_or(0, |summary| summary.rows);
        Ok(Execution::nothing().with_affected(rows as i64))
    }

    /// Creates the handle's job, if it is not there yet.
    ///
    /// # Errors
    /// Whatever is wrong with the statement.
    pub async fn start_job(&self, handle: &StatementHandle) -> Result<()> {
        let started = self.submit(handle, None).await.map(|_| ());
        self.or_fail(handle, started).await
    }

    /// Creates a job for a statement, under an idempotency key if there is one.
    ///
    /// # Errors
    /// Whatever is wrong with the statement; invalid input for one that does not run as a job.
    pub async fn submit(&self, handle: &StatementHandle, key: Option<String>) -> Result<SubmittedJob> {
        let view = self.replica.read().await?;
        let request = digest(handle);
        // The objects that it names may be gone by now; whether another request has the key is the state's to say.
        if let Some(key) = &key
            && let Some(job) = jobs::job_by_key(&*view, key)?
        {
            let known = jobs::job_spec(&*view, job)?.map(|spec| spec.request);
            if known.as_ref() == Some(&request) {
                return Ok(SubmittedJob { job, existing: true });
            }
        }
        if jobs::job(&*view, JobId(handle.id))?.is_some() {
            return Ok(SubmittedJob { job: JobId(handle.id), existing: true });
        }
        let statement = stevedore_sql::parse(&handle.sql)?;
        let mut spec = match &statement {
            Statement::CopyIntoTable(copy) => self.bind_copy(handle, copy).await?,
            Statement::Insert(insert) => self.bind_insert(handle, insert).await?,
            Statement::Mutation(mutation) => self.bind_mutation(handle, JobId(handle.id), mutation).await?,
            Statement::Unload(unload) => self.bind_unload(handle, unload).await?,
            Statement::CreateTable(create) if create.as_query.is_some() => {
                self.bind_create_table_as(handle, create).await?
            }
            other => {
                return Err(other.unsupported().unwrap_or_else(|| {
                    Error::invalid(format!("{} does not run as a job", other.name()))
                        .hint(
                            "jobs are COPY INTO, INSERT, DELETE, UPDATE, MERGE INTO and CREATE TABLE AS; run others \
                             through Flight SQL",
                        )
                }));
            }
        };
        spec.idempotency_key = key;
        spec.request = request;
        self.create_job(JobId(handle.id), spec).await
    }

    pub(super) async fn create_job(&self, job: JobId, spec: JobSpec) -> Result<SubmittedJob> {
        match self.replica.propose(Command::CreateJob { job, spec }).await? {
            CommandResult::JobCreated { job, existing } => Ok(SubmittedJob { job, existing }),
            other => Err(Error::internal(format!("unexpected answer to a new job: {other:?}"))),
        }
    }

    /// A ticket that is redeemed again finds its job, whatever became of the objects it names.
    pub(super) async fn job_exists(&self, handle: &StatementHandle) -> Result<bool> {
        Ok(jobs::job(&*self.replica.read().await?, JobId(handle.id))?.is_some())
    }

    /// The job once its rows are in the table, or why they are not.
    pub(super) async fn job_result(&self, id: JobId) -> Result<Job> {
        let job = self.wait_for_job(id).await?;
        match job.phase {
            JobPhase::Aborted => Err(job
                .error
                .unwrap_or_else(|| Error::internal(format!("job {id} was aborted without a reason")))),
            JobPhase::Cancelled => {
                Err(Error::cancelled(format!("job {id} was cancelled; nothing was loaded")))
            }
            _ => Ok(job),
        }
    }

    /// Waits until the job ended, or its rows are in the table, or in its transaction's version of it.
    ///
    /// # Errors
    /// Unavailable, if the job does not show in this node's state.
    pub async fn wait_for_job(&self, id: JobId) -> Result<Job> {
        let mut events = self.replica.events();
        let created = Instant::now();
        loop {
            match jobs::job(&*self.replica.local(), id)? {
                Some(job) if job.phase.is_ended() || job.prepared => return Ok(job),
                None if created.elapsed() > CATCH_UP_FOR => {
                    return Err(Error::unavailable(format!(
                        "job {id} is not known here; this coordinator lags behind"
                    )));
                }
                _ => {}
            }
            let of_this_job = async {
                loop {
                    match events.recv().await {
                        Ok(Event::JobChanged { job, .. }) if job == id => return,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            };
            let _ = timeout(LOOK_EVERY, of_this_job).await;
        }
    }

    /// Waits a while for the job's end and tells how far it is.
    ///
    /// # Errors
    /// Storage.
    pub async fn poll_job(&self, id: Uuid, patience: Duration) -> Result<JobProgress> {
        match timeout(patience, self.wait_for_job(JobId(id))).await {
            Ok(job) => job.map(|_| JobProgress { ended: true, fraction: Some(1.0) }),
            Err(_) => {
                let job = jobs::job(&*self.replica.local(), JobId(id))?;
                let fraction = match job.filter(|job| job.phase >= JobPhase::Running && job.bytes > 0) {
                    Some(job) => {
                        let live = self.progress.of_job(job.id).await;
                        let done = (job.accepted_bytes + live.bytes).min(job.bytes);
                        Some(done as f64 / job.bytes as f64)
                    }
                    None => None,
                };
                Ok(JobProgress { ended: false, fraction })
            }
        }
    }

    /// Cancels a job. False: it had ended, or is not known.
    ///
    /// # Errors
    /// Unavailable, or outcome unknown.
    pub async fn cancel_job(&self, job: JobId) -> Result<bool> {
        match jobs::job(&*self.replica.read().await?, job)? {
            None => return Ok(false),
            Some(known) if !known.phase.is_loading() => return Ok(false),
            Some(_) => {}
        }
        match self.replica.propose(Command::EndJob { job, end: JobEnding::Cancelled }).await {
            Ok(CommandResult::Job { phase }) => Ok(phase == JobPhase::Cancelled),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a COPY says, bound to the objects that it names.
    pub(super) async fn bind_copy_plan(
        &self,
        handle: &StatementHandle,
        copy: &CopyInto,
    ) -> Result<BoundCopy> {
        let view = self.replica.read().await?;
        let (database, _) = self.qualify(handle, &copy.table);
        let table = self.require_table(&*view, handle, &copy.table)?;
        let (source, stage) = self.stores.plan(
            &*view,
            &handle.user,
            copy.location(),
            copy.files.clone(),
            copy.pattern.clone(),
        )?;
        let stage_options =
            stage.as_ref().map(|stage| copy_options_of(&stage.copy_options)).transpose()?.unwrap_or_default();
        let options: CopyOptions = copy.options.or(&stage_options);
        let format = self.resolve_format(&*view, copy.file_format.as_ref(), stage.as_ref())?;
        let schema = self.schema_of_table(&table).await?;
        let columns = target_columns(&schema, copy.columns.as_deref(), &copy.table)?;
        let transform = match &copy.source {
            CopySource::Location(_) => None,
            CopySource::Transform(transform) => {
                if transform.parameters > 0 {
                    return Err(Error::not_supported_yet("parameters in the transform of COPY INTO"));
                }
                if let Some(count) = transform.expression_count()
                    && count != columns.len()
                {
                    return Err(Error::invalid(format!(
                        "the transform has {count} expressions, the target has {} columns",
                        columns.len()
                    ))
                    .hint(format!("name the target's columns: COPY INTO {} (…) FROM (…)", copy.table)));
                }
                Some(TransformPlan { sql: transform.sql.clone(), relation: transform.relation.clone() })
            }
        };
        let evolution = evolution_plan(&table, copy, &format, &options)?;
        let plan = CopyPlan { evolution, ..copy_plan(handle, source, format, transform, &columns, &options) };
        Ok(BoundCopy { table_name: format!("{database}.{}", table.name), table, options, plan })
    }

    async fn bind_copy(&self, handle: &StatementHandle, copy: &CopyInto) -> Result<JobSpec> {
        if copy.validation.is_some() {
            return Err(Error::invalid("COPY INTO with VALIDATION_MODE loads nothing, so it is no job")
                .hint("run it through Flight SQL"));
        }
        let BoundCopy { table_name, table, options, plan } = self.bind_copy_plan(handle, copy).await?;
        let identity = self.stores.resolve(&*self.replica.local(), &plan.source)?.identity;
        let on_error = plan.on_error;
        let plan =
            JobPlan::Copy(Box::new(plan)).store(JobId(handle.id), self.stores.warehouse().store()).await?;
        Ok(JobSpec {
            kind: JobKind::Copy,
            statement: recorded_text(&handle.sql),
            table: Some(table.id),
            table_name,
            epoch: table.epoch,
            schema_id: table.schema_id,
            spec_id: table.spec_id,
            store: Some(identity),
            on_error,
            force: options.force(),
            purge: options.purge(),
            max_files: options.max_files,
            idempotency_key: None,
            request: String::new(),
            consumes: Vec::new(),
            plan,
            transaction: handle.transaction_id(),
            group: handle.group()?,
        })
    }

    async fn bind_insert(&self, handle: &StatementHandle, insert: &Insert) -> Result<JobSpec> {
        let view = self.replica.read().await?;
        let (database, _) = self.qualify(handle, &insert.table);
        let table = self.require_table(&*view, handle, &insert.table)?;
        let schema = self.schema_of_table(&table).await?;
        let columns = target_columns(&schema, insert.columns.as_deref(), &insert.table)?;
        let (given, relations) = match &insert.source {
            InsertSource::Values { width, query, .. } => (*width, self.plan_relations(handle, query).await?),
            InsertSource::Select(query) => {
                let (schema, relations, _) = self.query_schema(handle, query).await?;
                (schema.fields().len(), relations)
            }
        };
        if given != columns.len() {
            return Err(Error::invalid(format!(
                "the rows have {given} values, the target has {} columns",
                columns.len()
            ))
            .hint(format!("name the target's columns: INSERT INTO {} (…) …", insert.table)));
        }
        let query = insert.source.query();
        let field_ids = columns.iter().map(|column| column.id).collect();
        let consumes = consumed(&relations);
        let plan = QueryPlan {
            overwrite: insert.overwrite,
            ..query_plan(handle, query.sql.clone(), relations, field_ids, None)
        };
        let plan =
            JobPlan::Query(Box::new(plan)).store(JobId(handle.id), self.stores.warehouse().store()).await?;
        Ok(JobSpec {
            table: Some(table.id),
            table_name: format!("{database}.{}", table.name),
            epoch: table.epoch,
            schema_id: table.schema_id,
            spec_id: table.spec_id,
            consumes,
            ..query_job(JobKind::Insert, handle, plan)?
        })
    }

    async fn bind_create_table_as(&self, handle: &StatementHandle, create: &CreateTable) -> Result<JobSpec> {
        let Some(query) = &create.as_query else {
            return Err(Error::internal("CREATE TABLE without AS is no job"));
        };
        let view = self.replica.read().await?;
        let (database, name) = self.qualify(handle, &create.table);
        self.require_database(&*view, &database)?;
        let (schema, relations, _) = self.query_schema(handle, query).await?;
        let columns = columns_of_query(&schema, &create.columns)?;
        let (created, options) = self.write_new_table(create, &database, columns).await?;
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        let field_ids = created.schema.columns.iter().map(|column| column.id).collect();
        let new_table = NewTablePlan {
            database: database.clone(),
            name: name.clone(),
            metadata_location: created.metadata_location.clone(),
            comment: create.comment.clone().unwrap_or_default(),
            transient: create.transient,
            options,
            if_not_exists,
            or_replace,
        };
        let consumes = consumed(&relations);
        let plan = query_plan(handle, query.sql.clone(), relations, field_ids, Some(new_table));
        let plan =
            JobPlan::Query(Box::new(plan)).store(JobId(handle.id), self.stores.warehouse().store()).await?;
        Ok(JobSpec {
            table_name: format!("{database}.{name}"),
            schema_id: created.metadata.current_schema_id(),
            spec_id: created.metadata.default_partition_spec_id(),
            consumes,
            ..query_job(JobKind::CreateTableAs, handle, plan)?
        })
    }
}

/// A COPY, bound to the objects that it names.
pub(super) struct BoundCopy {
    /// `database.table`, for messages.
    pub(super) table_name: String,
    /// The target.
    pub(super) table: Table,
    /// The statement's options, then the stage's.
    pub(super) options: CopyOptions,
    /// What is to be done.
    pub(super) plan: CopyPlan,
}

/// The plan of a COPY whose names are bound, and which takes the table as it is.
pub(super) fn copy_plan(
    handle: &StatementHandle,
    source: SourcePlan,
    format: FileFormat,
    transform: Option<TransformPlan>,
    columns: &[&Column],
    options: &CopyOptions,
) -> CopyPlan {
    CopyPlan {
        source,
        format,
        transform,
        field_ids: columns.iter().map(|column| column.id).collect(),
        case_sensitive: options.column_match_mode() == ColumnMatchMode::CaseSensitive,
        disable_variant_check: options.disable_variant_check(),
        on_error: on_error_of(options.on_error()),
        return_failed_only: options.return_failed_only(),
        settings: handle.settings.clone(),
        traceparent: stevedore_common::telemetry::current_traceparent(),
        evolution: None,
    }
}

pub(super) fn query_plan(
    handle: &StatementHandle,
    sql: String,
    relations: Vec<crate::planner::plan::RelationPlan>,
    field_ids: Vec<i32>,
    new_table: Option<NewTablePlan>,
) -> QueryPlan {
    QueryPlan {
        sql,
        relations,
        parameters: handle.parameters.clone(),
        field_ids,
        settings: handle.settings.clone(),
        traceparent: stevedore_common::telemetry::current_traceparent(),
        new_table,
        overwrite: false,
        started_on_ms: 0,
    }
}

/// The record of a job that a query feeds; the target is the caller's to set.
///
/// # Errors
/// As [`StatementHandle::group`].
pub(super) fn query_job(kind: JobKind, handle: &StatementHandle, plan: String) -> Result<JobSpec> {
    Ok(JobSpec {
        kind,
        statement: recorded_text(&handle.sql),
        table: None,
        table_name: String::new(),
        epoch: 0,
        schema_id: 0,
        spec_id: 0,
        store: None,
        on_error: StateOnError::default(),
        force: false,
        purge: false,
        max_files: None,
        idempotency_key: None,
        request: String::new(),
        consumes: Vec::new(),
        plan,
        transaction: handle.transaction_id(),
        group: handle.group()?,
    })
}

/// The columns of CREATE TABLE AS: those declared, else the query's.
pub(super) fn columns_of_query(
    schema: &arrow::datatypes::Schema,
    declared: &[Column],
) -> Result<Vec<Column>> {
    if !declared.is_empty() {
        if declared.len() != schema.fields().len() {
            return Err(Error::invalid(format!(
                "{} columns are declared, the query gives {}",
                declared.len(),
                schema.fields().len()
            )));
        }
        return Ok(declared.to_vec());
    }
    let mut columns: Vec<Column> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if columns.iter().any(|column| column.name.eq_ignore_ascii_case(field.name())) {
            return Err(Error::invalid(format!("the query gives two columns named '{}'", field.name()))
                .hint("name them apart with AS"));
        }
        columns.push(Column {
            id: 0,
            name: field.name().clone(),
            ty: SqlType::from_arrow_field(field)
                .map_err(|e| e.context(format!("column '{}'", field.name())))?,
            nullable: true,
            default: None,
            comment: None,
        });
    }
    Ok(columns)
}
