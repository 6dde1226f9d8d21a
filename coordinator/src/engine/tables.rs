//! Tables: CREATE, TRUNCATE, ALTER, and what SHOW and Flight SQL tell of them.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::Schema;
use iceberg::spec::{TableMetadata, Transform};
use stevedore_common::schema::{Column, ColumnChange, TableSchema};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::{self, CreateTable, ObjectRef, PartitionTransform};
use stevedore_state::catalog::{self, Table, quoted_name};
use stevedore_state::command::{Command, FieldIds, NewTable, TableChange, TableChangeKind, TableContents};
use stevedore_state::result::{CommandResult, TableCommitOutcome};
use stevedore_state::view::ReadView;
use stevedore_state::{streams, transactions};
use uuid::Uuid;

use super::ddl::mode_flags;
use super::streams::{STREAM, with_change_columns};
use super::system_tables::{SYSTEM_VIEW, VIRTUAL_TABLES};
use super::{Engine, Execution, StatementHandle, VIRTUAL_DATABASES, is_virtual_database};
use crate::committer::{self, Committer, Created, Prepared, check_column_name};
use crate::results::schema_of;

/// How often a change is rebased before the statement gives up.
const MOST_REBASES: usize = 50;
/// The option that sets the size data files aim at.
pub(crate) const TARGET_FILE_SIZE: &str = "target_file_size";
/// The table option that lets loads bring columns.
const SCHEMA_EVOLUTION: &str = "enable_schema_evolution";
/// The table option that says how new an encoding its files may use.
pub(crate) const SERIALIZATION_POLICY: &str = "storage_serialization_policy";
/// Its value for encodings that every reader knows.
pub(crate) const COMPATIBLE: &str = "compatible";

/// A table for Flight SQL's GetTables.
#[derive(Debug, Clone)]
pub struct TableListing {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Its columns; empty unless they were asked for.
    pub schema: Schema,
    /// What it is to clients that ask for its type.
    pub table_type: &'static str,
}

/// What tables of the catalog are to clients that ask for their type.
pub const TABLE: &str = "TABLE";

/// A change of a table's metadata, which can be made again on a newer version.
pub(super) enum TableEdit {
    Truncate { id: String, now_ms: i64 },
    AddColumns(Vec<Column>),
    DropColumn(String),
    RenameColumn { column: String, to: String },
    ModifyColumns(Vec<ColumnChange>),
    SetProperties(HashMap<String, String>),
}

impl TableEdit {
    /// The names that columns have after it and had not before.
    fn new_names(&self) -> Vec<&str> {
        match self {
            Self::AddColumns(columns) => columns.iter().map(|column| column.name.as_str()).collect(),
            Self::RenameColumn { to, .. } => vec![to],
            Self::Truncate { .. } | Self::DropColumn(_) | Self::ModifyColumns(_) | Self::SetProperties(_) => {
                Vec::new()
            }
        }
    }

    async fn prepare(
        &self,
        committer: &Committer,
        location: &str,
        last_reserved_id: i32,
    ) -> Result<Prepared> {
        match self {
            Self::Truncate { id, now_ms } => committer.truncate(location, id, id, *now_ms).await,
            Self::AddColumns(columns) => committer.add_columns(location, columns, last_reserved_id).await,
            Self::DropColumn(column) => committer.drop_column(location, column).await,
            Self::RenameColumn { column, to } => committer.rename_column(location, column, to).await,
            Self::ModifyColumns(changes) => committer.modify_columns(location, changes).await,
            Self::SetProperties(properties) => {
                committer.set_properties(location, properties.clone(), &[]).await
            }
        }
    }
}

/// The options of CREATE TABLE and ALTER TABLE SET OPTIONS, checked.
fn check_options(options: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut checked = BTreeMap::new();
    for (name, value) in options {
        match name.as_str() {
            TARGET_FILE_SIZE => {
                let bytes: u64 = value.parse().map_err(|_| {
                    Error::invalid(format!("option {name} is '{value}'; a number of bytes is expected"))
                })?;
                if !(1 << 20..=8 << 30).contains(&bytes) {
                    return Err(Error::invalid(format!("option {name} is {bytes}; allowed: 1 MiB to 8 GiB")));
                }
            }
            SERIALIZATION_POLICY if value == COMPATIBLE || value == "optimized" => {}
            SERIALIZATION_POLICY => {
                return Err(Error::invalid(format!(
                    "option {name} is '{value}'; allowed: OPTIMIZED, COMPATIBLE"
                )));
            }
            SCHEMA_EVOLUTION if value == "true" || value == "false" => {}
            SCHEMA_EVOLUTION => {
                return Err(Error::invalid(format!("option {name} is '{value}'; allowed: true, false")));
            }
            _ => {
                return Err(Error::invalid(format!("unknown table option '{name}'")).hint(format!(
                    "options are {SCHEMA_EVOLUTION}, {SERIALIZATION_POLICY}, {TARGET_FILE_SIZE}"
                )));
            }
        }
        checked.insert(name.clone(), value.clone());
    }
    Ok(checked)
}

fn transform_of(transform: PartitionTransform) -> Transform {
    match transform {
        PartitionTransform::Identity => Transform::Identity,
        PartitionTransform::Year => Transform::Year,
        PartitionTransform::Month => Transform::Month,
        PartitionTransform::Day => Transform::Day,
        PartitionTransform::Hour => Transform::Hour,
        PartitionTransform::Bucket(n) => Transform::Bucket(n),
        PartitionTransform::Truncate(n) => Transform::Truncate(n),
    }
}

/// The inverse of [`transform_of`]; `None` for one that no longer partitions.
fn transform_in_sql(transform: Transform) -> Option<PartitionTransform> {
    Some(match transform {
        Transform::Identity => PartitionTransform::Identity,
        Transform::Year => PartitionTransform::Year,
        Transform::Month => PartitionTransform::Month,
        Transform::Day => PartitionTransform::Day,
        Transform::Hour => PartitionTransform::Hour,
        Transform::Bucket(n) => PartitionTransform::Bucket(n),
        Transform::Truncate(n) => PartitionTransform::Truncate(n),
        Transform::Void | Transform::Unknown => return None,
    })
}

/// PARTITION BY of a table with these columns.
fn partition_fields(metadata: &TableMetadata, columns: &[Column]) -> Vec<ast::PartitionField> {
    let fields = metadata.default_partition_spec().fields().iter().filter_map(|field| {
        let column = columns.iter().find(|column| column.id == field.source_id)?.name.clone();
        Some(ast::PartitionField { column, transform: transform_in_sql(field.transform)? })
    });
    fields.collect()
}

impl Engine {
    /// Database and name of a reference.
    pub(super) fn qualify(&self, handle: &StatementHandle, table: &ObjectRef) -> (String, String) {
        (table.database.clone().unwrap_or_else(|| handle.database.clone()), table.name.clone())
    }

    pub(super) fn require_table(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        table: &ObjectRef,
    ) -> Result<Table> {
        let (database, name) = self.qualify(handle, table);
        if is_virtual_database(&database) {
            super::system_tables::columns_of(&database, &name)?;
            return Err(Error::denied(format!("table '{database}.{name}' is read-only")).about(name));
        }
        self.require_database(view, &database)?;
        if let Some(table) = catalog::table(view, &database, &name)? {
            // A transaction sees the table with its own changes, else as it was when it began.
            let transaction = handle.transaction_id().map(|id| transactions::transaction(view, id));
            return match transaction.transpose()?.flatten() {
                Some(transaction) => transactions::version_in(view, &transaction, table),
                None => Ok(table),
            };
        }
        if self.stream_named(view, handle, table)?.is_some() {
            return Err(Error::invalid(format!("'{database}.{name}' is a stream, not a table"))
                .about(name)
                .hint("a stream is read, and changes as its table does"));
        }
        Err(Error::not_found(format!("table '{database}.{name}' does not exist"))
            .about(name)
            .hint("SHOW TABLES lists them"))
    }

    pub(super) async fn schema_of_table(&self, table: &Table) -> Result<TableSchema> {
        TableSchema::from_metadata(&*self.committer.load(&table.metadata_location).await?)
    }

    /// Writes the first metadata file of a table.
    pub(super) async fn write_new_table(
        &self,
        create: &CreateTable,
        database: &str,
        columns: Vec<Column>,
    ) -> Result<(Created, BTreeMap<String, String>)> {
        if !create.cluster_by.is_empty() {
            return Err(Error::not_supported_yet("CLUSTER BY"));
        }
        if is_virtual_database(database) {
            return Err(Error::denied(format!("database '{database}' is read-only")));
        }
        if columns.is_empty() {
            return Err(Error::invalid("a table needs at least one column"));
        }
        for column in &columns {
            check_column_name(&column.name)?;
        }
        let options = check_options(&create.options)?;
        let location = self.stores.warehouse().table_location(database, &create.table.name, Uuid::now_v7());
        let partition_by = create
            .partition_by
            .iter()
            .map(|field| committer::PartitionField {
                column: field.column.clone(),
                transform: transform_of(field.transform),
            })
            .collect();
        let new = committer::NewTable {
            location,
            schema: TableSchema { columns },
            partition_by,
            properties: Default::default(),
        };
        Ok((self.committer.create_table(&new).await?, options))
    }

    pub(super) async fn create_table(
        &self,
        handle: &StatementHandle,
        create: &CreateTable,
    ) -> Result<Execution> {
        let (database, name) = self.qualify(handle, &create.table);
        let view = self.replica.read().await?;
        self.require_database(&*view, &database)?;
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        if catalog::table(&*view, &database, &name)?.is_some() && if_not_exists {
            return Ok(Execution::nothing());
        }
        let alike = match &create.like {
            Some(like) => Some(self.alike(&self.require_table(&*view, handle, like)?, create).await?),
            None => None,
        };
        let create = alike.as_ref().unwrap_or(create);
        let (created, options) = self.write_new_table(create, &database, create.columns.clone()).await?;
        let command = Command::CreateTable(NewTable {
            database,
            name,
            uuid: created.metadata.uuid(),
            metadata_location: created.metadata_location.clone(),
            schema_id: created.metadata.current_schema_id(),
            spec_id: created.metadata.default_partition_spec_id(),
            comment: create.comment.clone().unwrap_or_default(),
            transient: create.transient,
            options,
            if_not_exists,
            or_replace,
            contents: TableContents::default(),
        });
        match self.propose_once(handle, command).await {
            Ok(CommandResult::Table { created: false, .. }) => {
                let _ = self.committer.file_io().delete(&created.metadata_location).await;
            }
            Ok(_) => {}
            Err(error) => {
                if error.kind() != ErrorKind::OutcomeUnknown {
                    let _ = self.committer.file_io().delete(&created.metadata_location).await;
                }
                return Err(error);
            }
        }
        Ok(Execution::nothing())
    }

    /// CREATE TABLE … LIKE with what it takes from the other table.
    async fn alike(&self, like: &Table, create: &CreateTable) -> Result<CreateTable> {
        let metadata = self.committer.load(&like.metadata_location).await?;
        let columns = TableSchema::from_metadata(&metadata)?.columns;
        Ok(CreateTable {
            partition_by: partition_fields(&metadata, &columns),
            columns: columns.iter().map(|column| Column { id: 0, ..column.clone() }).collect(),
            options: like.options.clone().into_iter().collect(),
            ..create.clone()
        })
    }

    /// Changes a table's metadata: prepares a version, flips, and does both again on a newer version as
    /// long as others come first.
    async fn change_table(
        &self,
        handle: &StatementHandle,
        table: Table,
        kind: TableChangeKind,
        edit: TableEdit,
    ) -> Result<Execution> {
        let mut location = table.metadata_location.clone();
        let mut after = table.last_field_id;
        for attempt in 1..=MOST_REBASES {
            let prepared = edit.prepare(&self.committer, &location, after).await?;
            let adds_columns = matches!(edit, TableEdit::AddColumns(_));
            let command = Command::CommitTable(TableChange {
                table: table.id,
                uuid: table.uuid,
                epoch: table.epoch,
                expected_location: location.clone(),
                new_location: prepared.metadata_location.clone(),
                kind: kind.clone(),
                schema_id: prepared.schema_id,
                spec_id: prepared.spec_id,
                contents: contents_of(&prepared),
                new_field_ids: adds_columns.then_some(FieldIds { after, last: prepared.last_column_id }),
            });
            // Each rebase is a command of its own; the same one again is deduplicated.
            let key = format!("statement-{}", handle.id.simple());
            match self.replica.propose_as(key, attempt as u64, command).await {
                Ok(CommandResult::TableCommit(TableCommitOutcome::Committed { .. })) => {
                    return Ok(Execution::nothing());
                }
                Ok(CommandResult::TableCommit(TableCommitOutcome::Moved { current_location })) => {
                    self.committer.discard(&prepared).await;
                    location = current_location;
                    // Loads may have reserved ids for the columns that they bring.
                    let now = catalog::table_by_id(&*self.replica.read().await?, table.id)?;
                    after = now.map_or(after, |now| now.last_field_id);
                }
                Ok(other) => {
                    return Err(Error::internal(format!("unexpected answer to a table change: {other:?}")));
                }
                Err(error) => {
                    if error.kind() != ErrorKind::OutcomeUnknown {
                        self.committer.discard(&prepared).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::conflict(format!("table '{}' changes too often, the statement gave up", table.name))
            .retryable(true))
    }

    pub(super) async fn truncate_table(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
    ) -> Result<Execution> {
        let table = self.require_table(&*self.replica.read().await?, handle, table)?;
        let edit = TableEdit::Truncate { id: handle.id.to_string(), now_ms: self.replica.now_ms() };
        self.change_table(handle, table, TableChangeKind::Truncate, edit).await
    }

    pub(super) async fn add_column(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        if_exists: bool,
        if_not_exists: bool,
        column: Column,
    ) -> Result<Execution> {
        let edit = TableEdit::AddColumns(vec![column]);
        match self.alter_columns(handle, table, if_exists, edit).await {
            Err(error) if if_not_exists && error.kind() == ErrorKind::AlreadyExists => {
                Ok(Execution::nothing())
            }
            other => other,
        }
    }

    /// Changes the columns of a table. Loads that were planned with the ones before commit where their files
    /// still fit, and fail otherwise.
    pub(super) async fn alter_columns(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        if_exists: bool,
        edit: TableEdit,
    ) -> Result<Execution> {
        let Some(table) = self.table_if_exists(handle, table, if_exists).await? else {
            return Ok(Execution::nothing());
        };
        for name in edit.new_names() {
            check_column_name(name)?;
            if let Some(error) = streams::hides_column(&*self.replica.local(), table.id, name)? {
                return Err(error.context(format!("table '{}'", table.name)));
            }
        }
        self.change_table(handle, table, TableChangeKind::Alter { comment: None }, edit).await
    }

    pub(super) async fn rename_table(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        if_exists: bool,
        to: ObjectRef,
    ) -> Result<Execution> {
        if self.table_if_exists(handle, table, if_exists).await?.is_none() {
            return Ok(Execution::nothing());
        }
        let (database, name) = self.qualify(handle, table);
        let new_database = to.database.unwrap_or_else(|| database.clone());
        let command = Command::RenameTable { database, name, new_database, new_name: to.name };
        self.propose_once(handle, command).await?;
        Ok(Execution::nothing())
    }

    pub(super) async fn set_table_options(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        if_exists: bool,
        options: Vec<(String, String)>,
    ) -> Result<Execution> {
        let options = check_options(&options)?;
        let Some(table) = self.table_if_exists(handle, table, if_exists).await? else {
            return Ok(Execution::nothing());
        };
        let properties =
            options.iter().map(|(name, value)| (format!("stevedore.option.{name}"), value.clone())).collect();
        let edit = TableEdit::SetProperties(properties);
        self.change_table(handle, table, TableChangeKind::Options(options), edit).await
    }

    async fn table_if_exists(
        &self,
        handle: &StatementHandle,
        table: &ObjectRef,
        if_exists: bool,
    ) -> Result<Option<Table>> {
        match self.require_table(&*self.replica.read().await?, handle, table) {
            Ok(table) => Ok(Some(table)),
            Err(error) if if_exists && error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The CREATE TABLE that makes a table like this one.
    pub(super) async fn create_statement(&self, table: &Table) -> Result<String> {
        let metadata = self.committer.load(&table.metadata_location).await?;
        let schema = TableSchema::from_metadata(&metadata)?;
        let mut text = format!(
            "CREATE {}TABLE {} (\n",
            if table.transient { "TRANSIENT " } else { "" },
            quoted_name(&table.name)
        );
        for (index, column) in schema.columns.iter().enumerate() {
            text.push_str(&format!("  {} {}", quoted_name(&column.name), column.ty));
            text.push_str(if column.nullable { " NULL" } else { " NOT NULL" });
            if let Some(default) = &column.default {
                text.push_str(&format!(" DEFAULT {default}"));
            }
            if let Some(comment) = &column.comment {
                text.push_str(&format!(" COMMENT '{}'", comment.replace('\'', "''")));
            }
            text.push_str(if index + 1 < schema.columns.len() { ",\n" } else { "\n" });
        }
        text.push(')');
        let partitions: Vec<String> = partition_fields(&metadata, &schema.columns)
            .into_iter()
            .map(|field| ast::PartitionField { column: quoted_name(&field.column), ..field }.to_string())
            .collect();
        if !partitions.is_empty() {
            text.push_str(&format!(" PARTITION BY ({})", partitions.join(", ")));
        }
        for (name, value) in &table.options {
            text.push_str(&format!(" {name} = '{value}'"));
        }
        if !table.comment.is_empty() {
            text.push_str(&format!(" COMMENT = '{}'", table.comment.replace('\'', "''")));
        }
        Ok(text)
    }

    /// The names of all databases, also of those that are not in the catalog.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn list_databases(&self) -> Result<Vec<String>> {
        let view = self.replica.read().await?;
        let mut names: Vec<String> =
            catalog::databases(&*view)?.into_iter().map(|database| database.name).collect();
        names.extend(VIRTUAL_DATABASES.map(str::to_owned));
        Ok(names)
    }

    /// All tables of all databases, also those that are made when they are read.
    ///
    /// # Errors
    /// Unavailable; storage, when columns are asked for.
    pub async fn list_tables(&self, with_columns: bool) -> Result<Vec<TableListing>> {
        let view = self.replica.read().await?;
        let mut listings = Vec::new();
        for database in catalog::databases(&*view)? {
            for table in catalog::tables(&*view, database.id)? {
                let schema = if with_columns {
                    self.schema_of_table(&table).await?.to_arrow().as_ref().clone()
                } else {
                    Schema::empty()
                };
                listings.push(TableListing {
                    database: database.name.clone(),
                    name: table.name,
                    schema,
                    table_type: TABLE,
                });
            }
            for stream in streams::streams_of(&*view, database.id)? {
                let schema = match catalog::table_by_id(&*view, stream.table)? {
                    Some(table) if with_columns => with_change_columns(&self.schema_of_table(&table).await?),
                    _ => Schema::empty(),
                };
                listings.push(TableListing {
                    database: database.name.clone(),
                    name: stream.name,
                    schema,
                    table_type: STREAM,
                });
            }
        }
        listings.extend(VIRTUAL_TABLES.iter().map(|(database, name, columns)| TableListing {
            database: (*database).to_owned(),
            name: (*name).to_owned(),
            schema: if with_columns { schema_of(columns).as_ref().clone() } else { Schema::empty() },
            table_type: SYSTEM_VIEW,
        }));
        Ok(listings)
    }
}

/// Whether loads bring the columns that their files have and the table lacks.
pub(super) fn takes_new_columns(table: &Table) -> bool {
    table.options.get(SCHEMA_EVOLUTION).is_some_and(|value| value == "true")
}

/// What a prepared version holds.
pub(crate) fn contents_of(prepared: &Prepared) -> TableContents {
    TableContents {
        snapshot_id: prepared.snapshot_id,
        num_rows: prepared.rows_total,
        data_size: prepared.bytes_total,
    }
}

/// The columns named in a statement, resolved against the table: all of them where none are named.
pub(super) fn target_columns<'a>(
    schema: &'a TableSchema,
    names: Option<&[String]>,
    table: &ast::ObjectRef,
) -> Result<Vec<&'a Column>> {
    let Some(names) = names else { return Ok(schema.columns.iter().collect()) };
    let mut columns: Vec<&Column> = Vec::with_capacity(names.len());
    for name in names {
        let column = schema.column(name).ok_or_else(|| {
            let known: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
            Error::not_found(format!("column '{name}' does not exist in table '{table}'"))
                .about(name)
                .hint(format!("its columns are {}", known.join(", ")))
        })?;
        if columns.iter().any(|other| other.id == column.id) {
            return Err(Error::invalid(format!("column '{name}' is named twice")).about(name));
        }
        columns.push(column);
    }
    Ok(columns)
}
