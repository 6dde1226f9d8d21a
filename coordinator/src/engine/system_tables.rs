//! The tables of `system` and `information_schema`: the catalog as rows that any SELECT can read.
//!
//! Comes in: the state, and the tables' metadata where columns are asked for. Goes out: Arrow batches
//! of a bounded size, each of one applied index. No secret is in them: what is masked in SHOW is masked
//! here. They are read-only, and never name a table that is dropped.

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::WorkerStatus;
use stevedore_state::catalog::{self, Table};
use stevedore_state::view::ReadView;

use super::history::{self, MOST_ROWS, Rows};
use super::{Engine, StatementHandle, VIRTUAL_DATABASES, show, streams, tasks, transactions, warehouses};
use crate::results::ColumnKind::{self, Boolean, Int, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};
use crate::worker_directory::group_of;

/// The one catalog, as Flight SQL and `table_catalog` name it.
pub const CATALOG: &str = "stevedore";
/// What tables of these databases are to clients that ask for their type.
pub const SYSTEM_VIEW: &str = "SYSTEM VIEW";
/// Metadata files that are read at a time.
const METADATA_READS: usize = 16;

const DATABASES: Columns =
    &[("name", Text), ("database_id", UnsignedBigInt), ("created_on", Timestamp), ("comment", Text)];
const TABLES: Columns = &[
    ("database", Text),
    ("name", Text),
    ("table_id", UnsignedBigInt),
    ("uuid", Text),
    ("kind", Text),
    ("created_on", Timestamp),
    ("updated_on", Timestamp),
    ("num_rows", UnsignedBigInt),
    ("data_size", UnsignedBigInt),
    ("snapshot_id", Text),
    ("metadata_location", Text),
    ("table_options", Text),
    ("comment", Text),
];
const COLUMNS: Columns = &[
    ("database", Text),
    ("table_name", Text),
    ("name", Text),
    ("position", Int),
    ("data_type", Text),
    ("is_nullable", Boolean),
    ("default_expression", Text),
    ("comment", Text),
];
const SCHEMATA: Columns = &[
    ("catalog_name", Text),
    ("schema_name", Text),
    ("schema_owner", Text),
    ("default_character_set_catalog", Text),
    ("default_character_set_schema", Text),
    ("default_character_set_name", Text),
    ("sql_path", Text),
];
const INFORMATION_TABLES: Columns = &[
    ("table_catalog", Text),
    ("table_schema", Text),
    ("table_name", Text),
    ("table_type", Text),
    ("create_time", Timestamp),
    ("table_rows", UnsignedBigInt),
    ("data_length", UnsignedBigInt),
    ("table_comment", Text),
];
const INFORMATION_COLUMNS: Columns = &[
    ("table_catalog", Text),
    ("table_schema", Text),
    ("table_name", Text),
    ("column_name", Text),
    ("ordinal_position", Int),
    ("column_default", Text),
    ("is_nullable", Text),
    ("data_type", Text),
    ("character_maximum_length", Int),
    ("numeric_precision", Int),
    ("numeric_precision_radix", Int),
    ("numeric_scale", Int),
    ("datetime_precision", Int),
    ("column_comment", Text),
];
const VIEWS: Columns = &[
    ("table_catalog", Text),
    ("table_schema", Text),
    ("table_name", Text),
    ("view_definition", Text),
    ("check_option", Text),
    ("is_updatable", Text),
];

const WORKERS: Columns = &[
    ("id", Text),
    ("address", Text),
    ("version", Text),
    ("state", Text),
    ("worker_group", Text),
    ("cores", Int),
    ("memory_budget", UnsignedBigInt),
    ("memory_used", UnsignedBigInt),
    ("slots", Int),
    ("running_slices", Int),
    ("last_heartbeat", Timestamp),
];

/// All of them, by database and name.
pub(super) const VIRTUAL_TABLES: &[(&str, &str, Columns)] = &[
    ("information_schema", "columns", INFORMATION_COLUMNS),
    ("information_schema", "schemata", SCHEMATA),
    ("information_schema", "tables", INFORMATION_TABLES),
    ("information_schema", "views", VIEWS),
    ("system", "columns", COLUMNS),
    ("system", "connections", show::CONNECTIONS),
    ("system", "databases", DATABASES),
    ("system", "file_formats", show::FILE_FORMATS),
    ("system", "load_history", history::LOAD_HISTORY),
    ("system", "settings", show::SETTINGS),
    ("system", "stages", show::STAGES),
    ("system", "streams", streams::STREAMS),
    ("system", "tables", TABLES),
    ("system", "task_history", tasks::TASK_HISTORY),
    ("system", "tasks", tasks::TASKS),
    ("system", "transactions", transactions::TRANSACTIONS),
    ("system", "warehouses", warehouses::WAREHOUSES),
    ("system", "workers", WORKERS),
];

/// The columns of such a table.
///
/// # Errors
/// Not found.
pub(super) fn columns_of(database: &str, name: &str) -> Result<Columns> {
    VIRTUAL_TABLES
        .iter()
        .find(|(of, known, _)| *of == database && *known == name)
        .map(|(_, _, columns)| *columns)
        .ok_or_else(|| {
            Error::not_found(format!("table '{database}.{name}' does not exist"))
                .about(name)
                .hint(format!("SHOW TABLES FROM {database} lists them"))
        })
}

/// The name of a column's type.
pub(super) fn type_name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Text => "VARCHAR",
        ColumnKind::Int => "INT",
        ColumnKind::BigInt => "BIGINT",
        ColumnKind::UnsignedBigInt => "BIGINT UNSIGNED",
        ColumnKind::Boolean => "BOOLEAN",
        ColumnKind::Timestamp => "TIMESTAMP",
    }
}

/// A table with its database's name.
type Named = (String, Table);

fn all_tables(view: &dyn ReadView) -> Result<Vec<Named>> {
    let mut all = Vec::new();
    for database in catalog::databases(view)? {
        for table in catalog::tables(view, database.id)? {
            all.push((database.name.clone(), table));
        }
    }
    Ok(all)
}

fn kind_of(table: &Table) -> &'static str {
    if table.transient { "TRANSIENT TABLE" } else { "TABLE" }
}

fn position(index: usize) -> Value {
    Value::Int(i64::try_from(index + 1).unwrap_or(i64::MAX))
}

fn table_row((database, table): Named) -> Vec<Value> {
    let kind = kind_of(&table);
    let options: Vec<String> =
        table.options.iter().map(|(name, value)| format!("{name} = '{value}'")).collect();
    vec![
        database.into(),
        table.name.into(),
        table.id.0.into(),
        table.uuid.to_string().into(),
        kind.into(),
        Value::Int(table.created_on_ms),
        Value::Int(table.updated_on_ms),
        table.num_rows.into(),
        table.data_size.into(),
        table.snapshot_id.map(|id| id.to_string()).into(),
        table.metadata_location.into(),
        options.join(" ").into(),
        table.comment.into(),
    ]
}

fn column_row(database: &str, table: &Table, index: usize, column: Column) -> Vec<Value> {
    vec![
        database.into(),
        table.name.as_str().into(),
        column.name.into(),
        position(index),
        column.ty.to_string().into(),
        column.nullable.into(),
        column.default.into(),
        column.comment.into(),
    ]
}

/// Precision in decimal digits, radix and scale; of times, the digits of a second.
fn numbers_of(ty: &SqlType) -> [Value; 4] {
    let exact =
        |precision: i64, scale: i64| [Value::Int(precision), Value::Int(10), Value::Int(scale), Value::Null];
    match ty {
        SqlType::Decimal(precision, scale) => exact(i64::from(*precision), i64::from(*scale)),
        SqlType::Timestamp | SqlType::TimestampTz => [Value::Null, Value::Null, Value::Null, Value::Int(6)],
        _ => [Value::Null, Value::Null, Value::Null, Value::Null],
    }
}

fn information_column(
    schema: &str,
    table: &str,
    index: usize,
    column: Column,
    [precision, radix, scale, second]: [Value; 4],
) -> Vec<Value> {
    vec![
        CATALOG.into(),
        schema.into(),
        table.into(),
        column.name.into(),
        position(index),
        column.default.into(),
        if column.nullable { "YES" } else { "NO" }.into(),
        column.ty.to_string().into(),
        Value::Null,
        precision,
        radix,
        scale,
        second,
        column.comment.into(),
    ]
}

fn worker_row(worker: WorkerStatus) -> Vec<Value> {
    let state = match (worker.connected, worker.running) {
        (false, _) => "DISCONNECTED",
        (true, 0) => "IDLE",
        (true, _) => "RUNNING",
    };
    let group = group_of(&worker).to_string();
    vec![
        worker.worker_id.into(),
        worker.flight_address.into(),
        worker.version.into(),
        state.into(),
        group.into(),
        i64::from(worker.cores).into(),
        worker.memory_budget.into(),
        worker.memory_used.into(),
        i64::from(worker.slots).into(),
        i64::from(worker.running).into(),
        worker.last_heartbeat_ms.into(),
    ]
}

fn schema_row(name: &str) -> Vec<Value> {
    let mut row = vec![CATALOG.into(), name.into()];
    row.resize(SCHEMATA.len(), Value::Null);
    row
}

impl Engine {
    /// The rows of a table of `system` or `information_schema`.
    ///
    /// # Errors
    /// Not found; resource exhausted, where it has more rows than fit an answer; storage.
    pub(super) async fn virtual_rows(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        database: &str,
        name: &str,
    ) -> Result<Vec<RecordBatch>> {
        let columns = columns_of(database, name)?;
        let mut rows = Rows::new(columns, MOST_ROWS);
        let mut push = |row: Vec<Value>| -> Result<()> {
            if rows.push(row)? {
                return Ok(());
            }
            Err(Error::exhausted(format!("'{database}.{name}' has more rows than one statement may read"))
                .hint("SHOW TABLES and SHOW COLUMNS read one database or table at a time"))
        };
        match (database, name) {
            ("system", "load_history") => return history::load_history(view),
            ("system", "streams") => self.stream_rows(view).await?.into_iter().try_for_each(&mut push)?,
            ("system", "task_history") => return tasks::all_runs(view),
            ("system", "transactions") => {
                transactions::transaction_rows(view)?.into_iter().try_for_each(&mut push)?;
            }
            ("system", "tasks") => {
                for task in stevedore_state::tasks::tasks(view)? {
                    push(tasks::task_row(&task))?;
                }
            }
            ("system", "databases") => {
                for database in catalog::databases(view)? {
                    push(vec![
                        database.name.into(),
                        database.id.0.into(),
                        Value::Int(database.created_on_ms),
                        database.comment.into(),
                    ])?;
                }
            }
            ("system", "tables") => {
                for table in all_tables(view)? {
                    push(table_row(table))?;
                }
            }
            ("system", "columns") => {
                for (database, table, schema) in self.all_schemas(view).await? {
                    for (index, column) in schema.columns.into_iter().enumerate() {
                        push(column_row(&database, &table, index, column))?;
                    }
                }
            }
            ("system", "connections") => {
                for connection in catalog::connections(view)? {
                    push(show::connection_row(&connection))?;
                }
            }
            ("system", "stages") => {
                for stage in catalog::stages(view)? {
                    push(show::stage_row(view, &stage)?)?;
                }
            }
            ("system", "file_formats") => {
                for format in catalog::file_formats(view)? {
                    push(show::file_format_row(format))?;
                }
            }
            ("system", "settings") => {
                for row in show::setting_rows(handle) {
                    push(row)?;
                }
            }
            ("system", "warehouses") => {
                for (_, row) in self.warehouse_rows(view).await? {
                    push(row)?;
                }
            }
            ("system", "workers") => {
                for worker in self.workers.listed().await? {
                    push(worker_row(worker))?;
                }
            }
            ("information_schema", "schemata") => {
                for database in catalog::databases(view)? {
                    push(schema_row(&database.name))?;
                }
                for database in VIRTUAL_DATABASES {
                    push(schema_row(database))?;
                }
            }
            ("information_schema", "tables") => {
                for (database, table) in all_tables(view)? {
                    push(vec![
                        CATALOG.into(),
                        database.into(),
                        table.name.into(),
                        "BASE TABLE".into(),
                        Value::Int(table.created_on_ms),
                        table.num_rows.into(),
                        table.data_size.into(),
                        table.comment.into(),
                    ])?;
                }
                for (database, name, _) in VIRTUAL_TABLES {
                    let mut row =
                        vec![CATALOG.into(), (*database).into(), (*name).into(), SYSTEM_VIEW.into()];
                    row.resize(INFORMATION_TABLES.len(), Value::Null);
                    push(row)?;
                }
            }
            ("information_schema", "columns") => {
                for (database, table, schema) in self.all_schemas(view).await? {
                    for (index, column) in schema.columns.into_iter().enumerate() {
                        let numbers = numbers_of(&column.ty);
                        push(information_column(&database, &table.name, index, column, numbers))?;
                    }
                }
            }
            // There are no views yet, and so no rows.
            ("information_schema", "views") => {}
            _ => return Err(Error::internal(format!("'{database}.{name}' has columns and no rows"))),
        }
        rows.finish()
    }

    /// The columns of all tables.
    async fn all_schemas(&self, view: &dyn ReadView) -> Result<Vec<(String, Table, TableSchema)>> {
        futures::stream::iter(all_tables(view)?)
            .map(|(database, table)| async move {
                let schema = self.schema_of_table(&table).await?;
                Ok::<_, Error>((database, table, schema))
            })
            .buffered(METADATA_READS)
            .try_collect()
            .await
    }
}
