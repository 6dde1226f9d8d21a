//! From plans to what is sent to workers: slices and relations with the credentials they need.
//!
//! Built anew at every lease, from the state as it is then. Nothing here is kept: the messages hold
//! secrets.

use std::collections::BTreeMap;

use futures::StreamExt;
use iceberg::spec::{Schema, TableMetadata};
use stevedore_common::file_format::FileFormat;
use stevedore_common::file_identity::{FileEntry, FileVersion};
use stevedore_common::ids::{AttemptKey, JobId, SliceKey};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_state::jobs::{self, ErrorMode, JobSpec, OnError};
use stevedore_state::transactions;
use stevedore_state::view::ReadView;

use super::plan::{
    CopyPlan, EvolutionPlan, JobPlan, PlacePlan, QueryPlan, RelationPlan, RelationTarget, SchemaQuestion,
    SourcePlan, UnloadPlan,
};
use crate::committer::{Committer, with_columns};
use crate::config::Scheduling;
use crate::engine::{COMPATIBLE, SERIALIZATION_POLICY, TARGET_FILE_SIZE};
use crate::stores::{ResolvedSource, Stores, access_of};

/// Most files that one query may read from stages.
pub const MOST_QUERY_FILES: usize = 100_000;

/// Text files that infer_schema looks at when it is not told how many.
const INFERRED_TEXT_FILES: usize = 64;
/// Records of a text file that infer_schema looks at when it is not told how many.
const INFERRED_RECORDS: u64 = 1_000;

/// What slices are built from.
#[derive(Debug, Clone, Copy)]
pub struct SpecContext<'a> {
    /// The stores.
    pub stores: &'a Stores,
    /// The tables' metadata.
    pub committer: &'a Committer,
    /// Sizes and times.
    pub scheduling: &'a Scheduling,
}

/// The spec of a slice under an attempt.
///
/// # Errors
/// Not found, when something it needs is gone; storage.
pub async fn slice(
    view: &dyn ReadView,
    context: SpecContext<'_>,
    attempt: AttemptKey,
    job: &JobSpec,
    plan: &JobPlan,
) -> Result<v1::SliceSpec> {
    if let JobPlan::Unload(unload) = plan {
        return unload_slice(view, context, attempt, unload).await;
    }
    let (target, options) = target(view, context, attempt.slice.job, job, plan).await?;
    let (source, traceparent) = match plan {
        JobPlan::Copy(plan) => {
            let copy = copy_source(view, context.stores, attempt.slice, plan)?;
            (v1::slice_spec::Source::Copy(copy), &plan.traceparent)
        }
        JobPlan::Query(plan) => {
            let query = query_source(view, context.stores, plan).await?;
            (v1::slice_spec::Source::Query(query), &plan.traceparent)
        }
        JobPlan::Mutation(plan) => {
            let mut query = query_source(view, context.stores, &plan.query).await?;
            let part = attempt.slice.slice.0;
            let share = match &plan.insertions {
                Some(insertions) if part >= plan.parts => {
                    query.sql.clone_from(insertions);
                    None
                }
                _ => Some((part, plan.parts)),
            };
            number_target(&mut query, &plan.target, share);
            let mutation = v1::MutationSource { changes: Some(query), target: plan.target.clone() };
            (v1::slice_spec::Source::Mutation(mutation), &plan.query.traceparent)
        }
        JobPlan::Ingest(plan) => (v1::slice_spec::Source::Ingest(v1::IngestSource {}), &plan.traceparent),
        JobPlan::Unload(_) => return Err(Error::internal("an unload has no target table")),
    };
    Ok(v1::SliceSpec {
        slice: Some(slice_ref(attempt)),
        target: Some(target),
        source: Some(source),
        settings: plan.settings().clone().into_iter().collect(),
        traceparent: traceparent.clone().unwrap_or_default(),
        lease_ms: context.scheduling.lease_ms.max(0) as u64,
        target_file_bytes: options
            .get(TARGET_FILE_SIZE)
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(context.scheduling.target_file_bytes),
        compatible_encodings: options.get(SERIALIZATION_POLICY).is_some_and(|policy| policy == COMPATIBLE),
        helpers: Vec::new(),
        portion_bytes: context.scheduling.portion_bytes(),
    })
}

/// Gives the relation that a statement changes the numbers of its rows, and a share of its files.
pub fn number_target(query: &mut v1::QuerySpec, target: &str, share: Option<(u32, u32)>) {
    for relation in query.relations.iter_mut().filter(|relation| relation.name == target) {
        if let Some(v1::relation::Relation::Table(scan)) = &mut relation.relation {
            scan.numbered = true;
            (scan.part, scan.parts) = share.unwrap_or_default();
        }
    }
}

async fn unload_slice(
    view: &dyn ReadView,
    context: SpecContext<'_>,
    attempt: AttemptKey,
    plan: &UnloadPlan,
) -> Result<v1::SliceSpec> {
    let target = context.stores.resolve(view, &plan.target)?;
    let folder = plan.folder(&target.prefix);
    let raw_name = if plan.raw_path { &target.prefix[folder.len()..] } else { "" };
    let mut query = query_source(view, context.stores, &plan.query).await?;
    if plan.parts > 1 {
        for relation in &mut query.relations {
            if let Some(v1::relation::Relation::Table(scan)) = &mut relation.relation {
                (scan.part, scan.parts) = (attempt.slice.slice.0, plan.parts);
            }
        }
    }
    let source = v1::UnloadSource {
        query: Some(query),
        storage: Some(target.access()),
        folder: folder.to_owned(),
        file_format: format_json(&plan.format)?,
        single: plan.single,
        max_file_bytes: plan.max_file_bytes,
        partitioned: plan.partitioned,
        query_id: if plan.include_query_id { attempt.slice.job.to_string() } else { String::new() },
        raw_name: raw_name.to_owned(),
    };
    Ok(v1::SliceSpec {
        slice: Some(slice_ref(attempt)),
        target: None,
        source: Some(v1::slice_spec::Source::Unload(source)),
        settings: plan.query.settings.clone().into_iter().collect(),
        traceparent: plan.query.traceparent.clone().unwrap_or_default(),
        lease_ms: context.scheduling.lease_ms.max(0) as u64,
        target_file_bytes: 0,
        compatible_encodings: false,
        helpers: Vec::new(),
        portion_bytes: 0,
    })
}

/// An attempt as messages name it.
pub fn slice_ref(attempt: AttemptKey) -> v1::SliceRef {
    v1::SliceRef {
        job_id: attempt.slice.job.to_string(),
        slice: attempt.slice.slice.0,
        attempt: attempt.attempt.0,
    }
}

/// The table that a job writes to, and its options.
async fn target(
    view: &dyn ReadView,
    context: SpecContext<'_>,
    id: JobId,
    job: &JobSpec,
    plan: &JobPlan,
) -> Result<(v1::TableTarget, BTreeMap<String, String>)> {
    let new_table = plan.new_table();
    let field_ids = match plan {
        JobPlan::Copy(plan) => &plan.field_ids,
        JobPlan::Query(plan) => &plan.field_ids,
        JobPlan::Ingest(plan) => &plan.field_ids,
        JobPlan::Mutation(plan) => &plan.query.field_ids,
        JobPlan::Unload(_) => return Err(Error::internal("an unload has no target table")),
    };
    let (metadata_location, options) = match (new_table, job.table) {
        (Some(new), _) => (new.metadata_location.clone(), new.options.clone()),
        (None, Some(table)) => {
            let table = transactions::table_of_job(view, job.transaction, table)?
                .ok_or_else(|| Error::not_found("the table was dropped while the statement was running"))?;
            (table.metadata_location, table.options)
        }
        (None, None) => return Err(Error::internal("a job without a table has no target")),
    };
    let metadata = context.committer.load(&metadata_location).await?;
    // The schema that the plan rests on, whatever was added meanwhile: all slices write alike, and the
    // commit compares it with the one that is current then.
    let brought = jobs::job_columns(view, id)?;
    let schema_id = brought.as_ref().map_or(job.schema_id, |brought| brought.schema_id);
    let (columns, field_ids) = match brought {
        Some(brought) => (brought.reserved(), &Vec::new()),
        None => (Vec::new(), field_ids),
    };
    let schema = metadata.schema_by_id(schema_id).ok_or_else(|| {
        Error::conflict(format!(
            "the columns of table '{}' changed while the statement was running",
            job.table_name
        ))
        .hint("run the statement again")
    })?;
    let mut target = table_target(&metadata, schema, &columns, &job.table_name, field_ids)?;
    target.data_location = format!("{}/data", metadata.location().trim_end_matches('/'));
    target.warehouse = Some(access_of(context.stores.warehouse().spec()));
    Ok((target, options))
}

/// A table as a worker needs to know it, with columns that a load brings and without a place to write to.
fn table_target(
    metadata: &TableMetadata,
    schema: &Schema,
    columns: &[Column],
    name: &str,
    field_ids: &[i32],
) -> Result<v1::TableTarget> {
    let (schema, types) = with_columns(schema, columns)?;
    let mut properties = metadata.properties().clone();
    properties.extend(types);
    // Refuses here what the dialect cannot hold, rather than on the worker.
    TableSchema::from_iceberg(&schema, &properties)?;
    let json = |e: serde_json::Error| Error::internal(format!("table metadata cannot be encoded: {e}"));
    Ok(v1::TableTarget {
        name: name.to_owned(),
        table_uuid: metadata.uuid().to_string(),
        iceberg_schema: serde_json::to_string(&schema).map_err(json)?,
        partition_spec: serde_json::to_string(metadata.default_partition_spec().as_ref()).map_err(json)?,
        properties,
        data_location: String::new(),
        warehouse: None,
        field_ids: field_ids.to_vec(),
    })
}

/// What is asked about the files of a COPY that is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyQuestion {
    /// The rows that it would reject.
    Errors,
    /// The rows that it would load, up to a number, or all.
    Rows(Option<u64>),
    /// Where its columns come from.
    Columns,
}

/// A question about the files of a COPY, for a worker, `columns` being those that the COPY brings. Nothing is written.
///
/// # Errors
/// What the dialect cannot hold.
pub fn copy_check(
    source: &ResolvedSource,
    metadata: &TableMetadata,
    table_name: &str,
    plan: &CopyPlan,
    files: &[FileEntry],
    columns: &[Column],
    question: CopyQuestion,
) -> Result<v1::QuerySpec> {
    let field_ids = if plan.evolution.is_some() { &Vec::new() } else { &plan.field_ids };
    let schema = metadata.current_schema();
    let (kind, rows) = match question {
        CopyQuestion::Errors => (v1::CopyCheckKind::CheckErrors, 0),
        CopyQuestion::Rows(most) => (v1::CopyCheckKind::CheckRows, most.unwrap_or(0)),
        CopyQuestion::Columns => (v1::CopyCheckKind::CheckColumns, 0),
    };
    let check = v1::CopyCheck {
        copy: Some(copy_files(source, plan, tasks_of(source, files))?),
        target: Some(table_target(metadata, schema, columns, table_name, field_ids)?),
        kind: kind.into(),
        rows,
        max_records_per_file: INFERRED_RECORDS,
        max_records: 0,
    };
    Ok(check_spec(plan, check))
}

/// The question which columns files have.
///
/// # Errors
/// Internal, for a format that cannot be encoded.
pub fn file_columns(
    source: &ResolvedSource,
    plan: &CopyPlan,
    evolution: &EvolutionPlan,
    files: &[FileEntry],
) -> Result<v1::QuerySpec> {
    let check = v1::CopyCheck {
        copy: Some(copy_files(source, plan, tasks_of(source, files))?),
        target: None,
        kind: v1::CopyCheckKind::CheckFileColumns.into(),
        rows: 0,
        max_records_per_file: evolution.sample_records_per_file,
        max_records: evolution.sample_total_records,
    };
    Ok(check_spec(plan, check))
}

fn tasks_of(source: &ResolvedSource, files: &[FileEntry]) -> Vec<v1::FileTask> {
    let task = |(file, index): (&FileEntry, u32)| {
        file_task(index, &file.path, source.name_of(&file.path), &file.version)
    };
    files.iter().zip(0..).map(task).collect()
}

fn check_spec(plan: &CopyPlan, check: v1::CopyCheck) -> v1::QuerySpec {
    v1::QuerySpec {
        settings: plan.settings.clone().into_iter().collect(),
        traceparent: plan.traceparent.clone().unwrap_or_default(),
        check: Some(check),
        ..v1::QuerySpec::default()
    }
}

fn copy_source(
    view: &dyn ReadView,
    stores: &Stores,
    key: SliceKey,
    plan: &CopyPlan,
) -> Result<v1::CopySource> {
    let source = stores.resolve(view, &plan.source)?;
    let mut files = Vec::new();
    for task in jobs::slice_files(view, key)? {
        let file = jobs::job_file(view, key.job, task.file)?.ok_or_else(|| {
            Error::internal(format!("file {} of job {} is not recorded", task.file, key.job))
        })?;
        files.push(v1::FileTask {
            range_start: task.range_start,
            range_end: task.range_end,
            part: task.part,
            parts: task.parts,
            ..file_task(task.file.0, &file.path, &file.name, &file.version)
        });
    }
    copy_files(&source, plan, files)
}

/// Some files as the source of a COPY.
fn copy_files(source: &ResolvedSource, plan: &CopyPlan, files: Vec<v1::FileTask>) -> Result<v1::CopySource> {
    let (transform, relation) = plan.transform.clone().map(|t| (t.sql, t.relation)).unwrap_or_default();
    Ok(v1::CopySource {
        scan: Some(v1::StageScan {
            storage: Some(source.access()),
            file_format: format_json(&plan.format)?,
            files,
            case_sensitive: plan.case_sensitive,
        }),
        transform,
        relation,
        on_error: Some(on_error(plan.on_error)),
        disable_variant_check: plan.disable_variant_check,
        evolves: plan.evolution.is_some(),
    })
}

fn format_json(format: &FileFormat) -> Result<String> {
    serde_json::to_string(format)
        .map_err(|e| Error::internal(format!("a file format cannot be encoded: {e}")))
}

fn on_error(on_error: OnError) -> v1::OnError {
    let mode = match on_error.mode {
        ErrorMode::Abort => v1::ErrorMode::Abort,
        ErrorMode::AbortN => v1::ErrorMode::AbortN,
        ErrorMode::Continue => v1::ErrorMode::Continue,
        ErrorMode::SkipFile => v1::ErrorMode::SkipFile,
        ErrorMode::SkipFileN => v1::ErrorMode::SkipFileN,
        ErrorMode::SkipFilePercent => v1::ErrorMode::SkipFilePercent,
    };
    v1::OnError { mode: mode.into(), limit: on_error.limit }
}

fn file_task(index: u32, path: &str, name: &str, version: &FileVersion) -> v1::FileTask {
    v1::FileTask {
        file: index,
        path: path.to_owned(),
        name: name.to_owned(),
        size: version.size,
        etag: version.etag.clone().unwrap_or_default(),
        version: version.version.clone().unwrap_or_default(),
        last_modified_ms: version.last_modified_ms,
        range_start: 0,
        range_end: 0,
        part: 0,
        parts: 1,
    }
}

async fn query_source(view: &dyn ReadView, stores: &Stores, plan: &QueryPlan) -> Result<v1::QuerySpec> {
    let mut relations = Vec::with_capacity(plan.relations.len());
    for planned in &plan.relations {
        relations.push(relation(view, stores, planned).await?);
    }
    Ok(v1::QuerySpec {
        sql: plan.sql.clone(),
        relations,
        settings: plan.settings.clone().into_iter().collect(),
        traceparent: plan.traceparent.clone().unwrap_or_default(),
        parameters: plan.parameters.as_deref().map(decode_base64).transpose()?.into_iter().collect(),
        check: None,
        portion: None,
        started_on_ms: plan.started_on_ms,
    })
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| Error::internal("the bytes of a plan are damaged"))
}

/// A relation as a worker reads it; files are listed now.
///
/// # Errors
/// What listing says; resource exhausted beyond the number of files that a query may read.
pub async fn relation(view: &dyn ReadView, stores: &Stores, plan: &RelationPlan) -> Result<v1::Relation> {
    let relation = match &plan.target {
        RelationTarget::Table { metadata_location, empty, snapshot_id, .. } => {
            v1::relation::Relation::Table(v1::TableScan {
                metadata_location: metadata_location.clone(),
                warehouse: Some(access_of(stores.warehouse().spec())),
                snapshot_id: snapshot_id.unwrap_or(0),
                empty: *empty,
                ..v1::TableScan::default()
            })
        }
        RelationTarget::Stream { metadata_location, from, to, append_only, .. } => {
            v1::relation::Relation::Stream(v1::StreamScan {
                metadata_location: metadata_location.clone(),
                warehouse: Some(access_of(stores.warehouse().spec())),
                from_snapshot: from.unwrap_or(0),
                to_snapshot: to.unwrap_or(0),
                append_only: *append_only,
            })
        }
        RelationTarget::Stage { source, format } => {
            let source = stores.resolve(view, source)?;
            v1::relation::Relation::Stage(v1::StageScan {
                storage: Some(source.access()),
                file_format: format_json(format)?,
                files: list_for_query(&source).await?,
                case_sensitive: false,
            })
        }
        RelationTarget::Schema { source, format, question } => v1::relation::Relation::Schema(
            schema_scan(&stores.resolve(view, source)?, source, format, question).await?,
        ),
        RelationTarget::Rows(base64) => v1::relation::Relation::Rows(decode_base64(base64)?),
    };
    Ok(v1::Relation { name: plan.name.clone(), relation: Some(relation) })
}

async fn list_for_query(source: &ResolvedSource) -> Result<Vec<v1::FileTask>> {
    let files = list_first(source, MOST_QUERY_FILES + 1).await?;
    if files.len() > MOST_QUERY_FILES {
        return Err(Error::exhausted(format!("more than {MOST_QUERY_FILES} files match"))
            .hint("narrow the path, or add PATTERN or FILES"));
    }
    Ok(files)
}

/// The first files that hold something.
async fn list_first(source: &ResolvedSource, most: usize) -> Result<Vec<v1::FileTask>> {
    let mut listing = source.list()?;
    let mut files = Vec::new();
    while files.len() < most
        && let Some(file) = listing.next().await
    {
        let file = file?;
        if file.version.size > 0 {
            files.push(file_task(files.len() as u32, &file.path, source.name_of(&file.path), &file.version));
        }
    }
    Ok(files)
}

/// The files of a question about them; there must be some.
async fn schema_scan(
    source: &ResolvedSource,
    plan: &SourcePlan,
    format: &FileFormat,
    question: &SchemaQuestion,
) -> Result<v1::SchemaScan> {
    let mut max_records_per_file = INFERRED_RECORDS;
    let (files, question) = match question {
        SchemaQuestion::InferSchema { max_files, max_records } => {
            max_records_per_file = max_records.unwrap_or(INFERRED_RECORDS);
            let files = match max_files {
                Some(most) => {
                    let most = usize::try_from(*most).unwrap_or(usize::MAX);
                    list_first(source, most.min(MOST_QUERY_FILES)).await?
                }
                None if format.kind.is_text() => list_first(source, INFERRED_TEXT_FILES).await?,
                None => list_for_query(source).await?,
            };
            (files, v1::SchemaQuestion::InferSchema)
        }
        SchemaQuestion::InspectParquet => {
            let path = &source.prefix;
            let files = match source.store.head(path).await {
                Ok(file) => vec![file_task(0, &file.path, source.name_of(&file.path), &file.version)],
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            (files, v1::SchemaQuestion::InspectParquet)
        }
    };
    if files.is_empty() {
        return Err(no_files(plan));
    }
    Ok(v1::SchemaScan {
        scan: Some(v1::StageScan {
            storage: Some(source.access()),
            file_format: format_json(format)?,
            files,
            case_sensitive: false,
        }),
        question: question.into(),
        max_records_per_file,
    })
}

fn no_files(plan: &SourcePlan) -> Error {
    let url = match &plan.place {
        PlacePlan::Internal(_) | PlacePlan::User(_) => "the stage's ",
        PlacePlan::Connection { url, .. } | PlacePlan::Inline { url, .. } => url,
    };
    let pattern = plan.pattern.as_ref().map(|text| format!(" with PATTERN '{text}'")).unwrap_or_default();
    Error::not_found(format!("no file that holds anything matches '{url}{}'{pattern}", plan.path))
        .hint("LIST shows the files of a stage")
}
