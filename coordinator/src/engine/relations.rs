//! The relations of a query: from names in the text to what a worker needs to read them.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{
    AnalyzedQuery, ConnectionRef, FileFormatRef, FunctionArg, ListFiles, LocationRef, ObjectRef, RelationRef,
    RelationTarget as SqlTarget, StreamOptions, TableFunction,
};
use stevedore_sql::connection::StorageType;
use stevedore_state::catalog::{Stage, StageFormat};
use stevedore_state::view::ReadView;

use super::{Engine, StatementHandle, history, is_virtual_database, snapshots};
use crate::planner::plan::{RelationPlan, RelationTarget, SchemaQuestion};
use crate::planner::spec;

impl Engine {
    /// The format of files: the statement's, then the stage's, then Parquet.
    pub(super) fn resolve_format(
        &self,
        view: &dyn ReadView,
        statement: Option<&FileFormatRef>,
        stage: Option<&Stage>,
    ) -> Result<FileFormat> {
        Ok(match (statement, stage.and_then(|stage| stage.file_format.as_ref())) {
            (Some(FileFormatRef::Named(name)), _) => self.named_format(view, name)?,
            (Some(FileFormatRef::Inline(format)), _) => (**format).clone(),
            (None, Some(StageFormat::Named(name))) => self.named_format(view, name)?,
            (None, Some(StageFormat::Inline(format))) => (**format).clone(),
            (None, None) => FileFormat::defaults(FormatKind::Parquet),
        })
    }

    /// What the query's relations are, tables pinned as the handle says, else to now.
    pub(super) async fn plan_relations(
        &self,
        handle: &StatementHandle,
        query: &AnalyzedQuery,
    ) -> Result<Vec<RelationPlan>> {
        self.plan_relations_of(handle, &query.relations).await
    }

    pub(super) async fn plan_relations_of(
        &self,
        handle: &StatementHandle,
        relations: &[RelationRef],
    ) -> Result<Vec<RelationPlan>> {
        let view = self.replica.read().await?;
        let mut plans = Vec::with_capacity(relations.len());
        for relation in relations {
            let target = match &relation.target {
                SqlTarget::Table(name) if is_virtual_database(&self.qualify(handle, name).0) => {
                    let (database, name) = self.qualify(handle, name);
                    let rows = self.virtual_rows(&*view, handle, &database, &name).await?;
                    RelationTarget::Rows(BASE64.encode(ipc_stream(&rows)?))
                }
                SqlTarget::Stream { stream, options } => {
                    let stream = self.require_stream(&*view, handle, stream)?;
                    self.plan_stream(&*view, handle, stream, *options).await?
                }
                SqlTarget::Table(name) => match self.stream_named(&*view, handle, name)? {
                    Some(stream) => {
                        self.plan_stream(&*view, handle, stream, StreamOptions::default()).await?
                    }
                    None => self.plan_table(&*view, handle, name)?,
                },
                SqlTarget::Target(name) => self.plan_table(&*view, handle, name)?,
                SqlTarget::TableAt { table, at } => {
                    self.plan_table_at(&*view, handle, &relation.name, table, at).await?
                }
                SqlTarget::Stage(stage) => {
                    let (source, record) = self.stores.plan(
                        &*view,
                        &handle.user,
                        &stage.location,
                        stage.files.clone(),
                        stage.pattern.clone(),
                    )?;
                    let format = self.resolve_format(&*view, stage.file_format.as_ref(), record.as_ref())?;
                    RelationTarget::Stage { source, format: Box::new(format) }
                }
                SqlTarget::Function(function) => self.plan_function(&*view, handle, function).await?,
            };
            plans.push(RelationPlan { name: relation.name.clone(), target });
        }
        Ok(plans)
    }

    /// A table as its pin says, else as it is now.
    fn plan_table(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        name: &ObjectRef,
    ) -> Result<RelationTarget> {
        let table = self.require_table(view, handle, name)?;
        let pinned = handle.pin(&table.id.to_string());
        Ok(RelationTarget::Table {
            table: table.id,
            empty: pinned.is_none() && table.snapshot_id.is_none(),
            metadata_location: pinned.cloned().unwrap_or(table.metadata_location),
            snapshot_id: None,
        })
    }

    async fn plan_function(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        function: &TableFunction,
    ) -> Result<RelationTarget> {
        let text = |name: &str| function.named(name).and_then(FunctionArg::text).map(str::to_owned);
        let count = |name: &str| function.named(name).and_then(FunctionArg::count);
        let first = || function.arguments.first().and_then(|(_, value)| value.text()).map(str::to_owned);
        if function.name == "task_history" {
            let rows = self.task_history(view, handle, function).await?;
            return Ok(RelationTarget::Rows(BASE64.encode(ipc_stream(&rows)?)));
        }
        if function.name == "stream_status" {
            let rows = self.stream_status(view, handle, function).await?;
            return Ok(RelationTarget::Rows(BASE64.encode(ipc_stream(&rows)?)));
        }
        if function.name == "copy_history" {
            let name = text("table_name").or_else(first).unwrap_or_default();
            let table = self.require_table(view, handle, &stevedore_sql::parse_table_name(&name)?)?;
            let rows = history::copy_history(view, &table, count("result_limit"))?;
            return Ok(RelationTarget::Rows(BASE64.encode(ipc_stream(&rows)?)));
        }
        if function.name == "system.snapshots" {
            let name = text("table_name").or_else(first).unwrap_or_default();
            let table = self.require_table(view, handle, &stevedore_sql::parse_table_name(&name)?)?;
            let metadata = self.committer.load(&table.metadata_location).await?;
            let rows = snapshots::rows(&metadata, &table, count("result_limit"))?;
            return Ok(RelationTarget::Rows(BASE64.encode(ipc_stream(&rows)?)));
        }
        let location = text("location")
            .or_else(first)
            .ok_or_else(|| Error::invalid(format!("{} needs location => '@stage[/path]'", function.name)))?;
        let location = location_of(&location, text("connection"))?;
        let (format, question) = match function.name.as_str() {
            "list_stage" => {
                return Ok(RelationTarget::Rows(self.listed_rows(handle, location, text("pattern")).await?));
            }
            "infer_schema" => {
                let question = SchemaQuestion::InferSchema {
                    max_files: count("max_file_count"),
                    max_records: count("max_records_per_file"),
                };
                (text("file_format").map(|name| FileFormatRef::Named(name.to_lowercase())), question)
            }
            "inspect_parquet" => {
                let parquet = FileFormat::defaults(FormatKind::Parquet);
                (Some(FileFormatRef::Inline(Box::new(parquet))), SchemaQuestion::InspectParquet)
            }
            name => {
                return Err(
                    Error::not_found(format!("the table function '{name}' does not exist")).about(name)
                );
            }
        };
        let (source, stage) = self.stores.plan(view, &handle.user, &location, None, text("pattern"))?;
        let format = self.resolve_format(view, format.as_ref(), stage.as_ref())?;
        Ok(RelationTarget::Schema { source, format: Box::new(format), question })
    }

    async fn listed_rows(
        &self,
        handle: &StatementHandle,
        location: LocationRef,
        pattern: Option<String>,
    ) -> Result<String> {
        let mut listed = self.list_files(handle, &ListFiles { location, pattern }).await?;
        let mut batches = vec![RecordBatch::new_empty(listed.schema.clone())];
        while let Some(batch) = listed.batches.next().await {
            batches.push(batch?);
        }
        Ok(BASE64.encode(ipc_stream(&batches)?))
    }

    /// The pins of planned relations, for the client's ticket.
    pub(super) fn pins_of(relations: &[RelationPlan]) -> BTreeMap<String, String> {
        let mut pins = BTreeMap::new();
        for relation in relations {
            Self::pin_stream(&mut pins, &relation.target);
            if let RelationTarget::Table { table, metadata_location, empty: false, snapshot_id } =
                &relation.target
            {
                pins.insert(table.to_string(), metadata_location.clone());
                if let Some(id) = snapshot_id {
                    pins.insert(snapshots::pin_of(*table, &relation.name), id.to_string());
                }
            }
        }
        pins
    }

    /// The query as a worker gets it.
    pub(super) async fn query_spec(
        &self,
        handle: &StatementHandle,
        sql: String,
        relations: &[RelationPlan],
    ) -> Result<v1::QuerySpec> {
        let view = self.replica.local();
        let mut specs = Vec::with_capacity(relations.len());
        for relation in relations {
            specs.push(spec::relation(&*view, &self.stores, relation).await?);
        }
        Ok(v1::QuerySpec {
            sql,
            relations: specs,
            settings: handle.settings.clone().into_iter().collect(),
            traceparent: stevedore_common::telemetry::current_traceparent().unwrap_or_default(),
            parameters: handle.parameter_bytes()?.into_iter().collect(),
            check: None,
            portion: None,
            started_on_ms: 0,
        })
    }
}

/// The location that the argument of a table function names.
fn location_of(text: &str, connection: Option<String>) -> Result<LocationRef> {
    let Some(stage) = text.strip_prefix('@') else {
        let storage_type = StorageType::of_uri(text)?;
        let connection = connection.map(|name| ConnectionRef::Named { name, storage_type });
        return Ok(LocationRef::Uri { url: text.to_owned(), connection });
    };
    if connection.is_some() {
        return Err(Error::invalid(
            "a stage has its own connection; connection goes with a 'scheme://…' location",
        ));
    }
    let (name, path) = stage.split_once('/').unwrap_or((stage, ""));
    Ok(match name {
        "~" => LocationRef::UserStage { path: path.to_owned() },
        name => LocationRef::Stage { name: name.to_lowercase(), path: path.to_owned() },
    })
}

fn ipc_stream(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(first) = batches.first() {
        let mut writer = StreamWriter::try_new(&mut bytes, &first.schema())?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.finish()?;
    }
    Ok(bytes)
}
