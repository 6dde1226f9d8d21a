//! The statements of the dialect as data.
//!
//! Owns: what a statement says, after parsing and checking of everything that needs no catalog:
//! options are typed, names normalised (unquoted ones in lower case), queries rendered for a worker.
//! Comes in: from [`crate::parse`]. Goes out: to the coordinator, which binds names to objects.
//! Must never hold catalog state. Secrets are kept in [`Secret`](stevedore_common::secret::Secret), so printing a statement is safe.

mod copy;
mod location;
mod mutation;
mod query;
mod stage;
mod stream;
mod table;
mod task;
mod unload;

pub use copy::{ColumnMatchMode, CopyInto, CopyOptions, CopySource, OnError, SchemaSample, ValidationMode};
pub use location::{ConnectionRef, ConnectionSpec, FileFormatRef, LocationRef};
pub use mutation::{Assignment, Change, MergeAction, MergeClause, Mutation};
pub use query::{
    AnalyzedQuery, AnalyzedTransform, ColumnRef, FunctionArg, RelationRef, RelationTarget, StageSource,
    StreamOptions, TableFunction, TimeTravel, TransformItem,
};
pub use stage::{AlterStage, CreateStage, GetFiles, ListFiles, PresignFile, PutFiles};
pub use stream::{CreateStream, StreamStart};
pub use table::{CreateTable, Insert, InsertSource, PartitionField, PartitionTransform};
pub use task::{
    AlterTask, AlterTaskAction, CreateTask, GivenName, NotificationOptions, TaskOptions, TaskSchedule,
    WebhookOptions,
};
pub use unload::Unload;

use std::fmt;

use serde::{Deserialize, Serialize};
use stevedore_common::Error;
use stevedore_common::file_format::FileFormat;
use stevedore_common::schema::{Column, ColumnChange};

use crate::connection::ConnectionOptions;

/// The name of a table or another object of a database: `[database.]name`, normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The database; `None` is the session's current one.
    pub database: Option<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "{database}.")?;
        }
        f.write_str(&self.name)
    }
}

/// What CREATE does when the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreateMode {
    /// Fails.
    Create,
    /// Does nothing: IF NOT EXISTS.
    IfNotExists,
    /// Takes its place: OR REPLACE.
    OrReplace,
}

/// What a statement says of the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionControl {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    RollBack,
}

impl TransactionControl {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::RollBack => "ROLLBACK",
        }
    }
}

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// CREATE DATABASE.
    CreateDatabase {
        /// Name.
        name: String,
        /// What to do when it exists.
        mode: CreateMode,
    },
    /// DROP DATABASE.
    DropDatabase {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// SHOW DATABASES.
    ShowDatabases {
        /// LIKE: `%` and `_`.
        like: Option<String>,
    },
    /// DROP WAREHOUSE: forgets a group of workers that is gone.
    DropWarehouse {
        /// The name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// SHOW WAREHOUSES.
    ShowWarehouses {
        /// LIKE.
        like: Option<String>,
    },
    /// USE.
    Use {
        /// The database.
        database: String,
    },
    /// CREATE TABLE, also AS SELECT.
    CreateTable(Box<CreateTable>),
    /// DROP TABLE.
    DropTable {
        /// The table.
        table: ObjectRef,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// TRUNCATE TABLE.
    TruncateTable {
        /// The table.
        table: ObjectRef,
    },
    /// DESC TABLE.
    DescTable {
        /// The table.
        table: ObjectRef,
    },
    /// SHOW TABLES.
    ShowTables {
        /// FROM or IN; `None` is the current database.
        database: Option<String>,
        /// LIKE.
        like: Option<String>,
    },
    /// SHOW COLUMNS FROM.
    ShowColumns {
        /// The table.
        table: ObjectRef,
        /// LIKE.
        like: Option<String>,
    },
    /// SHOW CREATE TABLE.
    ShowCreateTable {
        /// The table.
        table: ObjectRef,
    },
    /// UNDROP TABLE.
    UndropTable {
        /// The table.
        table: ObjectRef,
    },
    /// RENAME TABLE, ALTER TABLE RENAME TO.
    RenameTable {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// Its new name; without a database it stays where it is.
        to: ObjectRef,
    },
    /// ALTER TABLE DROP COLUMN.
    AlterTableDropColumn {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// The column.
        column: String,
    },
    /// ALTER TABLE RENAME COLUMN.
    AlterTableRenameColumn {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// The column.
        column: String,
        /// Its new name.
        to: String,
    },
    /// ALTER TABLE MODIFY COLUMN.
    AlterTableModifyColumns {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// What changes, at least one.
        changes: Vec<ColumnChange>,
    },
    /// ALTER TABLE ADD COLUMN.
    AlterTableAddColumn {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// ADD COLUMN IF NOT EXISTS.
        if_not_exists: bool,
        /// The column, with id 0.
        column: Column,
    },
    /// ALTER TABLE SET OPTIONS.
    AlterTableSetOptions {
        /// The table.
        table: ObjectRef,
        /// ALTER TABLE IF EXISTS.
        if_exists: bool,
        /// Names in lower case, in the statement's order.
        options: Vec<(String, String)>,
    },
    /// CREATE CONNECTION.
    CreateConnection {
        /// Name.
        name: String,
        /// What to do when it exists.
        mode: CreateMode,
        /// Type and keys.
        options: ConnectionOptions,
    },
    /// DROP CONNECTION.
    DropConnection {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DESC CONNECTION.
    DescConnection {
        /// Name.
        name: String,
    },
    /// SHOW CONNECTIONS.
    ShowConnections {
        /// LIKE.
        like: Option<String>,
    },
    /// CREATE STAGE.
    CreateStage(Box<CreateStage>),
    /// DROP STAGE.
    DropStage {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DESC STAGE.
    DescStage {
        /// Name; `~` is the user's own stage.
        name: String,
    },
    /// SHOW STAGES.
    ShowStages {
        /// LIKE.
        like: Option<String>,
    },
    /// ALTER STAGE.
    AlterStage(Box<AlterStage>),
    /// CREATE FILE FORMAT.
    CreateFileFormat {
        /// Name.
        name: String,
        /// What to do when it exists.
        mode: CreateMode,
        /// The format, checked.
        format: Box<FileFormat>,
    },
    /// DROP FILE FORMAT.
    DropFileFormat {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// SHOW FILE FORMATS.
    ShowFileFormats {
        /// LIKE.
        like: Option<String>,
    },
    /// LIST.
    List(ListFiles),
    /// REMOVE.
    Remove(ListFiles),
    /// PRESIGN.
    Presign(PresignFile),
    /// PUT: runs in the client.
    Put(PutFiles),
    /// GET: runs in the client.
    Get(GetFiles),
    /// COPY INTO a table.
    CopyIntoTable(Box<CopyInto>),
    /// COPY INTO a location.
    Unload(Box<Unload>),
    /// INSERT INTO and INSERT OVERWRITE.
    Insert(Box<Insert>),
    /// DELETE, UPDATE, MERGE INTO.
    Mutation(Box<Mutation>),
    /// A query.
    Query(Box<AnalyzedQuery>),
    /// EXPLAIN.
    Explain {
        /// The query.
        query: Box<AnalyzedQuery>,
        /// EXPLAIN ANALYZE: runs it.
        analyze: bool,
        /// EXPLAIN VERBOSE.
        verbose: bool,
    },
    /// EXPLAIN of DELETE, UPDATE and MERGE INTO.
    ExplainMutation {
        /// The statement.
        mutation: Box<Mutation>,
        /// EXPLAIN VERBOSE.
        verbose: bool,
    },
    /// EXPLAIN COPY INTO a table.
    ExplainCopy {
        /// The statement, as far as it could be read.
        copy: Box<CopyInto>,
        /// What is wrong with its options, all of it.
        problems: Vec<Error>,
    },
    /// SET.
    Set {
        /// The setting, in lower case.
        name: String,
        /// The value as text.
        value: String,
    },
    /// UNSET: back to the default.
    Unset {
        /// The setting, in lower case.
        name: String,
    },
    /// BEGIN, COMMIT, ROLLBACK.
    Transaction(TransactionControl),
    /// SHOW SETTINGS.
    ShowSettings {
        /// LIKE.
        like: Option<String>,
    },
    /// CREATE STREAM.
    CreateStream(Box<CreateStream>),
    /// DROP STREAM.
    DropStream {
        /// The stream.
        stream: ObjectRef,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DESC STREAM.
    DescStream {
        /// The stream.
        stream: ObjectRef,
    },
    /// SHOW STREAMS.
    ShowStreams {
        /// FROM or IN; `None` is the current database.
        database: Option<String>,
        /// LIKE.
        like: Option<String>,
    },
    /// CONSUME STREAM.
    ConsumeStream {
        /// The stream.
        stream: ObjectRef,
    },
    /// CREATE TASK.
    CreateTask(Box<CreateTask>),
    /// ALTER TASK.
    AlterTask(Box<AlterTask>),
    /// DROP TASK.
    DropTask {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DESC TASK.
    DescTask {
        /// Name.
        name: String,
    },
    /// SHOW TASKS.
    ShowTasks {
        /// LIKE.
        like: Option<String>,
    },
    /// EXECUTE TASK.
    ExecuteTask {
        /// Name.
        name: String,
    },
    /// CREATE NOTIFICATION INTEGRATION.
    CreateNotification {
        /// What it is.
        options: Box<NotificationOptions>,
        /// What to do when it exists.
        mode: CreateMode,
    },
    /// ALTER NOTIFICATION INTEGRATION.
    AlterNotification {
        /// What changes.
        options: Box<NotificationOptions>,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DROP NOTIFICATION INTEGRATION.
    DropNotification {
        /// Name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DESC NOTIFICATION INTEGRATION.
    DescNotification {
        /// Name.
        name: String,
    },
    /// SHOW NOTIFICATION INTEGRATIONS.
    ShowNotifications {
        /// LIKE.
        like: Option<String>,
    },
    /// In the dialect's grammar, but not built yet: answer [`Error::not_supported_yet`].
    NotSupportedYet(String),
    /// Will not be built: answer [`Error::not_supported`].
    NotSupported(String),
}

impl Statement {
    /// What the statement is called in messages and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateDatabase { .. } => "CREATE DATABASE",
            Self::DropDatabase { .. } => "DROP DATABASE",
            Self::ShowDatabases { .. } => "SHOW DATABASES",
            Self::DropWarehouse { .. } => "DROP WAREHOUSE",
            Self::ShowWarehouses { .. } => "SHOW WAREHOUSES",
            Self::Use { .. } => "USE",
            Self::CreateTable(create) if create.as_query.is_some() => "CREATE TABLE AS SELECT",
            Self::CreateTable(_) => "CREATE TABLE",
            Self::DropTable { .. } => "DROP TABLE",
            Self::TruncateTable { .. } => "TRUNCATE TABLE",
            Self::DescTable { .. } => "DESC TABLE",
            Self::ShowTables { .. } => "SHOW TABLES",
            Self::ShowColumns { .. } => "SHOW COLUMNS",
            Self::ShowCreateTable { .. } => "SHOW CREATE TABLE",
            Self::UndropTable { .. } => "UNDROP TABLE",
            Self::RenameTable { .. } => "RENAME TABLE",
            Self::AlterTableDropColumn { .. } => "ALTER TABLE DROP COLUMN",
            Self::AlterTableRenameColumn { .. } => "ALTER TABLE RENAME COLUMN",
            Self::AlterTableModifyColumns { .. } => "ALTER TABLE MODIFY COLUMN",
            Self::AlterTableAddColumn { .. } => "ALTER TABLE ADD COLUMN",
            Self::AlterTableSetOptions { .. } => "ALTER TABLE SET OPTIONS",
            Self::CreateConnection { .. } => "CREATE CONNECTION",
            Self::DropConnection { .. } => "DROP CONNECTION",
            Self::DescConnection { .. } => "DESC CONNECTION",
            Self::ShowConnections { .. } => "SHOW CONNECTIONS",
            Self::CreateStage(_) => "CREATE STAGE",
            Self::DropStage { .. } => "DROP STAGE",
            Self::DescStage { .. } => "DESC STAGE",
            Self::ShowStages { .. } => "SHOW STAGES",
            Self::AlterStage(_) => "ALTER STAGE",
            Self::CreateFileFormat { .. } => "CREATE FILE FORMAT",
            Self::DropFileFormat { .. } => "DROP FILE FORMAT",
            Self::ShowFileFormats { .. } => "SHOW FILE FORMATS",
            Self::List(_) => "LIST",
            Self::Remove(_) => "REMOVE",
            Self::Presign(_) => "PRESIGN",
            Self::Put(_) => "PUT",
            Self::Get(_) => "GET",
            Self::CopyIntoTable(_) => "COPY INTO",
            Self::Unload(_) => "COPY INTO location",
            Self::Insert(insert) if insert.overwrite => "INSERT OVERWRITE",
            Self::Insert(_) => "INSERT INTO",
            Self::Mutation(mutation) => match mutation.change {
                Change::Delete { .. } => "DELETE",
                Change::Update { .. } => "UPDATE",
                Change::Merge { .. } => "MERGE INTO",
            },
            Self::Query(_) => "SELECT",
            Self::Explain { .. } | Self::ExplainMutation { .. } => "EXPLAIN",
            Self::ExplainCopy { .. } => "EXPLAIN COPY INTO",
            Self::Set { .. } => "SET",
            Self::Unset { .. } => "UNSET",
            Self::Transaction(control) => control.name(),
            Self::ShowSettings { .. } => "SHOW SETTINGS",
            Self::CreateStream(_) => "CREATE STREAM",
            Self::DropStream { .. } => "DROP STREAM",
            Self::DescStream { .. } => "DESC STREAM",
            Self::ShowStreams { .. } => "SHOW STREAMS",
            Self::ConsumeStream { .. } => "CONSUME STREAM",
            Self::CreateTask(_) => "CREATE TASK",
            Self::AlterTask(_) => "ALTER TASK",
            Self::DropTask { .. } => "DROP TASK",
            Self::DescTask { .. } => "DESC TASK",
            Self::ShowTasks { .. } => "SHOW TASKS",
            Self::ExecuteTask { .. } => "EXECUTE TASK",
            Self::CreateNotification { .. } => "CREATE NOTIFICATION INTEGRATION",
            Self::AlterNotification { .. } => "ALTER NOTIFICATION INTEGRATION",
            Self::DropNotification { .. } => "DROP NOTIFICATION INTEGRATION",
            Self::DescNotification { .. } => "DESC NOTIFICATION INTEGRATION",
            Self::ShowNotifications { .. } => "SHOW NOTIFICATION INTEGRATIONS",
            Self::NotSupportedYet(_) | Self::NotSupported(_) => "unsupported statement",
        }
    }

    /// How many `?` parameters the statement has. Only queries, INSERT, DELETE, UPDATE, MERGE INTO, CREATE
    /// TABLE AS and the transform of COPY can have them.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Query(query) | Self::Explain { query, .. } => query.parameters,
            Self::Insert(insert) => insert.source.query().parameters,
            Self::Mutation(mutation) | Self::ExplainMutation { mutation, .. } => mutation.parameters,
            Self::Unload(unload) => unload.query.parameters,
            Self::CreateTable(create) => create.as_query.as_ref().map_or(0, |query| query.parameters),
            Self::CopyIntoTable(copy) | Self::ExplainCopy { copy, .. } => match &copy.source {
                CopySource::Location(_) => 0,
                CopySource::Transform(transform) => transform.parameters,
            },
            _ => 0,
        }
    }

    /// The answer to a statement that is not built.
    pub fn unsupported(&self) -> Option<Error> {
        match self {
            Self::NotSupportedYet(what) => Some(Error::not_supported_yet(what)),
            Self::NotSupported(what) => Some(Error::not_supported(what)),
            _ => None,
        }
    }
}
