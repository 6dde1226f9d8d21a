//! SHOW and DESC.

use regex::Regex;
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use stevedore_sql::ast::{ObjectRef, Statement};
use stevedore_sql::connection::masked_params;
use stevedore_state::catalog::{
    self, Connection, NamedFileFormat, Stage, StageFormat, StageKind, StageSource,
};
use stevedore_state::view::ReadView;

use super::ddl::copy_options_of;
use super::system_tables::{self, VIRTUAL_TABLES};
use super::{
    Engine, Execution, StatementHandle, files, is_virtual_database, settings, streams, tasks, warehouses,
};
use crate::results::ColumnKind::{self, BigInt, Boolean, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};

const DATABASES: Columns = &[("name", Text)];
const TABLES: Columns = &[
    ("name", Text),
    ("kind", Text),
    ("database", Text),
    ("created_on", Timestamp),
    ("num_rows", UnsignedBigInt),
    ("data_size", UnsignedBigInt),
    ("comment", Text),
];
const DESC_TABLE: Columns =
    &[("Field", Text), ("Type", Text), ("Null", Text), ("Default", Text), ("Extra", Text)];
const SHOW_COLUMNS: Columns =
    &[("Field", Text), ("Type", Text), ("Null", Text), ("Default", Text), ("Comment", Text)];
const SHOW_CREATE: Columns = &[("Table", Text), ("Create Table", Text)];
/// The columns of SHOW CONNECTIONS.
pub(super) const CONNECTIONS: Columns = &[("name", Text), ("storage_type", Text), ("storage_params", Text)];
/// The columns of SHOW FILE FORMATS.
pub(super) const FILE_FORMATS: Columns = &[("name", Text), ("format_options", Text)];
/// The columns of SHOW SETTINGS.
pub(super) const SETTINGS: Columns =
    &[("name", Text), ("value", Text), ("default", Text), ("description", Text)];
/// The columns of SHOW STAGES.
pub(super) const STAGES: Columns = &[
    ("name", Text),
    ("stage_type", Text),
    ("storage_type", Text),
    ("url", Text),
    ("endpoint", Text),
    ("has_credentials", Boolean),
    ("has_encryption_key", Boolean),
    ("storage_params", Text),
    ("file_format_options", Text),
    ("copy_options", Text),
    ("creator", Text),
    ("created_on", Timestamp),
    ("comment", Text),
    ("owner", Text),
];
/// The columns of LIST.
pub(super) const FILES: Columns =
    &[("name", Text), ("size", BigInt), ("md5", Text), ("last_modified", Timestamp), ("creator", Text)];

/// The columns of a statement whose rows the coordinator makes itself.
pub(super) fn columns_of(statement: &Statement) -> Option<Columns> {
    Some(match statement {
        Statement::ShowDatabases { .. } => DATABASES,
        Statement::ShowTables { .. } => TABLES,
        Statement::DescTable { .. } => DESC_TABLE,
        Statement::ShowColumns { .. } => SHOW_COLUMNS,
        Statement::ShowCreateTable { .. } => SHOW_CREATE,
        Statement::ShowConnections { .. } | Statement::DescConnection { .. } => CONNECTIONS,
        Statement::ShowFileFormats { .. } => FILE_FORMATS,
        Statement::ShowStages { .. } | Statement::DescStage { .. } => STAGES,
        Statement::ShowSettings { .. } => SETTINGS,
        Statement::ShowStreams { .. } | Statement::DescStream { .. } => streams::SHOWN,
        Statement::ShowWarehouses { .. } => warehouses::WAREHOUSES,
        Statement::ShowTasks { .. } | Statement::DescTask { .. } => tasks::TASKS,
        Statement::ShowNotifications { .. } | Statement::DescNotification { .. } => tasks::INTEGRATIONS,
        Statement::List(_) => FILES,
        Statement::Remove(_) => files::REMOVED,
        Statement::Presign(_) => files::PRESIGNED,
        _ => return None,
    })
}

/// LIKE with `%` and `_`, in any case.
struct Like(Option<Regex>);

impl Like {
    fn new(pattern: Option<&str>) -> Result<Self> {
        let Some(pattern) = pattern else { return Ok(Self(None)) };
        let mut regex = String::from("(?is)^");
        for c in pattern.chars() {
            match c {
                '%' => regex.push_str(".*"),
                '_' => regex.push('.'),
                c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push('$');
        Regex::new(&regex)
            .map(|regex| Self(Some(regex)))
            .map_err(|_| Error::invalid(format!("the LIKE pattern '{pattern}' is too long")))
    }

    fn matches(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}

impl Engine {
    pub(super) async fn show(&self, handle: &StatementHandle, statement: &Statement) -> Result<Execution> {
        let view = self.replica.read().await?;
        let view = &*view;
        match statement {
            Statement::ShowDatabases { like } => {
                let like = Like::new(like.as_deref())?;
                let mut names: Vec<String> = catalog::databases(view)?.into_iter().map(|d| d.name).collect();
                names.extend(["information_schema".to_owned(), "system".to_owned()]);
                names.sort();
                let rows: Vec<_> = names
                    .into_iter()
                    .filter(|name| like.matches(name))
                    .map(|name| vec![name.into()])
                    .collect();
                Execution::rows(DATABASES, &rows)
            }
            Statement::ShowTables { database, like } => {
                let name = database.as_deref().unwrap_or(&handle.database);
                self.require_database(view, name)?;
                let like = Like::new(like.as_deref())?;
                let mut rows = Vec::new();
                for (_, table, _) in
                    VIRTUAL_TABLES.iter().filter(|(of, table, _)| *of == name && like.matches(table))
                {
                    let mut row = vec![(*table).into(), "SYSTEM VIEW".into(), name.into()];
                    row.resize(TABLES.len(), Value::Null);
                    rows.push(row);
                }
                if let Some(database) = catalog::database(view, name)? {
                    for table in catalog::tables(view, database.id)? {
                        if like.matches(&table.name) {
                            rows.push(vec![
                                table.name.into(),
                                if table.transient { "TRANSIENT TABLE" } else { "TABLE" }.into(),
                                name.into(),
                                Value::Int(table.created_on_ms),
                                table.num_rows.into(),
                                table.data_size.into(),
                                table.comment.into(),
                            ]);
                        }
                    }
                }
                Execution::rows(TABLES, &rows)
            }
            Statement::DescTable { table } if is_virtual_database(&self.qualify(handle, table).0) => {
                Execution::rows(DESC_TABLE, &self.virtual_column_rows(handle, table, &Like(None))?)
            }
            Statement::DescTable { table } => {
                let schema = self.schema_of_table(&self.require_table(view, handle, table)?).await?;
                Execution::rows(DESC_TABLE, &column_rows(&schema, &Like(None), |_| Value::from("")))
            }
            Statement::ShowColumns { table, like } if is_virtual_database(&self.qualify(handle, table).0) => {
                let like = Like::new(like.as_deref())?;
                Execution::rows(SHOW_COLUMNS, &self.virtual_column_rows(handle, table, &like)?)
            }
            Statement::ShowColumns { table, like } => {
                let like = Like::new(like.as_deref())?;
                let schema = self.schema_of_table(&self.require_table(view, handle, table)?).await?;
                let comment = |column: &stevedore_common::schema::Column| {
                    column.comment.clone().unwrap_or_default().into()
                };
                Execution::rows(SHOW_COLUMNS, &column_rows(&schema, &like, comment))
            }
            Statement::ShowCreateTable { table } => {
                let table = self.require_table(view, handle, table)?;
                let text = self.create_statement(&table).await?;
                Execution::rows(SHOW_CREATE, &[vec![table.name.into(), text.into()]])
            }
            Statement::ShowConnections { like } => {
                let like = Like::new(like.as_deref())?;
                let rows: Vec<_> = catalog::connections(view)?
                    .iter()
                    .filter(|connection| like.matches(&connection.name))
                    .map(connection_row)
                    .collect();
                Execution::rows(CONNECTIONS, &rows)
            }
            Statement::DescConnection { name } => {
                let connection = catalog::require_connection(view, name)?;
                Execution::rows(CONNECTIONS, &[connection_row(&connection)])
            }
            Statement::ShowFileFormats { like } => {
                let like = Like::new(like.as_deref())?;
                let rows: Vec<_> = catalog::file_formats(view)?
                    .into_iter()
                    .filter(|format| like.matches(&format.name))
                    .map(file_format_row)
                    .collect();
                Execution::rows(FILE_FORMATS, &rows)
            }
            Statement::ShowStages { like } => {
                let like = Like::new(like.as_deref())?;
                let rows = catalog::stages(view)?
                    .iter()
                    .filter(|stage| like.matches(&stage.name))
                    .map(|stage| stage_row(view, stage))
                    .collect::<Result<Vec<_>>>()?;
                Execution::rows(STAGES, &rows)
            }
            Statement::DescStage { name } if name == "~" => {
                Execution::rows(STAGES, &[user_stage_row(&handle.user)])
            }
            Statement::DescStage { name } => {
                let stage = catalog::require_stage(view, name)?;
                Execution::rows(STAGES, &[stage_row(view, &stage)?])
            }
            Statement::ShowSettings { like } => {
                let like = Like::new(like.as_deref())?;
                let rows: Vec<_> = setting_rows(handle)
                    .filter(|row| matches!(row.first(), Some(Value::Text(name)) if like.matches(name)))
                    .collect();
                Execution::rows(SETTINGS, &rows)
            }
            Statement::ShowStreams { database, like } => {
                let name = database.as_deref().unwrap_or(&handle.database);
                self.require_database(view, name)?;
                let like = Like::new(like.as_deref())?;
                let rows = self.shown_streams(view, name, |stream| like.matches(stream)).await?;
                Execution::rows(streams::SHOWN, &rows)
            }
            Statement::DescStream { stream } => {
                let (database, stream) = self.require_stream(view, handle, stream)?;
                let rows = self.shown_streams(view, &database, |name| name == stream.name).await?;
                Execution::rows(streams::SHOWN, &rows)
            }
            Statement::ShowWarehouses { like } => {
                let like = Like::new(like.as_deref())?;
                let all = self.warehouse_rows(view).await?;
                let rows: Vec<_> =
                    all.into_iter().filter(|(name, _)| like.matches(name)).map(|(_, row)| row).collect();
                Execution::rows(warehouses::WAREHOUSES, &rows)
            }
            Statement::ShowTasks { like } => {
                let like = Like::new(like.as_deref())?;
                let all = stevedore_state::tasks::tasks(view)?;
                let rows: Vec<_> =
                    all.iter().filter(|task| like.matches(&task.name)).map(tasks::task_row).collect();
                Execution::rows(tasks::TASKS, &rows)
            }
            Statement::DescTask { name } => {
                let task = stevedore_state::tasks::require_task(view, name)?;
                Execution::rows(tasks::TASKS, &[tasks::task_row(&task)])
            }
            Statement::ShowNotifications { like } => {
                let like = Like::new(like.as_deref())?;
                let all = stevedore_state::tasks::integrations(view)?;
                let shown = all.iter().filter(|integration| like.matches(&integration.name));
                let rows: Vec<_> = shown.map(tasks::integration_row).collect();
                Execution::rows(tasks::INTEGRATIONS, &rows)
            }
            Statement::DescNotification { name } => {
                let integration = tasks::require_integration(view, name)?;
                Execution::rows(tasks::INTEGRATIONS, &[tasks::integration_row(&integration)])
            }
            other => Err(Error::not_supported_yet(other.name())),
        }
    }

    /// The columns of a table of `system` or `information_schema`, for DESC and SHOW COLUMNS.
    fn virtual_column_rows(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        like: &Like,
    ) -> Result<Vec<Vec<Value>>> {
        let (database, name) = self.qualify(handle, table);
        let columns = system_tables::columns_of(&database, &name)?;
        let row = |(name, kind): &(&'static str, ColumnKind)| {
            vec![
                (*name).into(),
                system_tables::type_name(*kind).into(),
                "YES".into(),
                "NULL".into(),
                "".into(),
            ]
        };
        Ok(columns.iter().filter(|(name, _)| like.matches(name)).map(row).collect())
    }
}

fn column_rows(
    schema: &TableSchema,
    like: &Like,
    last: impl Fn(&stevedore_common::schema::Column) -> Value,
) -> Vec<Vec<Value>> {
    schema
        .columns
        .iter()
        .filter(|column| like.matches(&column.name))
        .map(|column| {
            vec![
                column.name.clone().into(),
                column.ty.to_string().into(),
                if column.nullable { "YES" } else { "NO" }.into(),
                column.default.clone().unwrap_or_else(|| "NULL".to_owned()).into(),
                last(column),
            ]
        })
        .collect()
}

pub(super) fn file_format_row(format: NamedFileFormat) -> Vec<Value> {
    vec![format.name.into(), format.format.to_string().into()]
}

/// The settings as the session has them.
pub(super) fn setting_rows(handle: &StatementHandle) -> impl Iterator<Item = Vec<Value>> {
    settings::SETTINGS.iter().map(move |setting| {
        let value = handle.settings.get(setting.name).map_or(setting.default, String::as_str);
        vec![setting.name.into(), value.into(), setting.default.into(), setting.description.into()]
    })
}

pub(super) fn connection_row(connection: &Connection) -> Vec<Value> {
    vec![
        connection.name.clone().into(),
        connection.storage_type.clone().into(),
        masked_params(&connection.params, connection.secrets.keys()).into(),
    ]
}

/// The user's own stage: nobody made it, and nothing about it can be set.
fn user_stage_row(user: &str) -> Vec<Value> {
    let mut row = vec![Value::from("~"), "User".into(), Value::Null, Value::Null, Value::Null];
    row.extend([false.into(), false.into(), "".into(), "".into(), "".into()]);
    row.extend([user.into(), Value::Null, "".into(), user.into()]);
    row
}

pub(super) fn stage_row(view: &dyn ReadView, stage: &Stage) -> Result<Vec<Value>> {
    let mut endpoint = None;
    let mut credentials = false;
    let mut encryption = false;
    let mut shown = String::new();
    let (stage_type, storage_type, url) = match &stage.kind {
        StageKind::Internal => ("Internal", Value::Null, Value::Null),
        StageKind::External { url, source } => {
            let (storage_type, params, secrets) = match source {
                StageSource::Named(name) => match catalog::connection(view, name)? {
                    Some(connection) => (connection.storage_type, connection.params, connection.secrets),
                    None => Default::default(),
                },
                StageSource::Inline { storage_type, params, secrets } => {
                    (storage_type.clone(), params.clone(), secrets.clone())
                }
            };
            endpoint = params.get("endpoint_url").cloned();
            encryption = secrets.contains_key("master_key");
            credentials = !secrets.is_empty();
            shown = match source {
                StageSource::Named(name) => format!("connection_name = '{name}'"),
                StageSource::Inline { .. } => masked_params(&params, secrets.keys()),
            };
            ("External", Value::from(storage_type), Value::from(url.as_str()))
        }
    };
    let format = match &stage.file_format {
        Some(StageFormat::Named(name)) => format!("FORMAT_NAME = '{name}'"),
        Some(StageFormat::Inline(format)) => format.to_string(),
        None => String::new(),
    };
    Ok(vec![
        stage.name.clone().into(),
        stage_type.into(),
        storage_type,
        url,
        endpoint.into(),
        credentials.into(),
        encryption.into(),
        shown.into(),
        format.into(),
        copy_options_of(&stage.copy_options)?.to_string().into(),
        stage.creator.clone().into(),
        Value::Int(stage.created_on_ms),
        stage.comment.clone().into(),
        Value::Null,
    ])
}
