//! Streams: what changed in a table since it was consumed last.
//!
//! Comes in: statements on streams, and queries that read them. Goes out: the two snapshots between which a worker
//! looks for changes, and the moves of offsets that a commit makes. What is between them is judged here, from the
//! table's metadata alone: a stream whose changes cannot be told is never read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{SnapshotRef, TableMetadata};
use stevedore_common::ids::{StreamId, TransactionId};
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result, row_lineage};
use stevedore_sql::ast::{
    CreateStream, FunctionArg, ObjectRef, StreamOptions, StreamStart, TableFunction, TimeTravel,
};
use stevedore_state::catalog::{self, Table, quoted_name};
use stevedore_state::command::Command;
use stevedore_state::streams::{self, NewStream, Stream, StreamCommand, StreamMove};
use stevedore_state::transactions::{self, TransactionCommand};
use stevedore_state::view::ReadView;

use super::ddl::mode_flags;
use super::history::Rows;
use super::snapshots::{AT_TIME, shown};
use super::system_tables::CATALOG;
use super::{Engine, Execution, StatementHandle};
use crate::committer::INSERTED_ROWS;
use crate::planner::plan::{RelationPlan, RelationTarget};
use crate::results::ColumnKind::{Boolean, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};

/// The columns of SHOW STREAMS and DESC STREAM.
pub(super) const SHOWN: Columns = &[
    ("created_on", Timestamp),
    ("name", Text),
    ("database", Text),
    ("catalog", Text),
    ("table_on", Text),
    ("owner", Text),
    ("comment", Text),
    ("mode", Text),
    ("invalid_reason", Text),
    ("has_data", Boolean),
];

/// The columns of `system.streams`.
pub(super) const STREAMS: Columns = &[
    ("catalog", Text),
    ("database", Text),
    ("name", Text),
    ("stream_id", UnsignedBigInt),
    ("created_on", Timestamp),
    ("updated_on", Timestamp),
    ("mode", Text),
    ("comment", Text),
    ("table_name", Text),
    ("table_id", UnsignedBigInt),
    ("table_version", UnsignedBigInt),
    ("snapshot_location", Text),
    ("invalid_reason", Text),
    ("has_data", Boolean),
    ("owner", Text),
    ("lag_snapshots", UnsignedBigInt),
    ("lag_files", UnsignedBigInt),
    ("lag_rows", UnsignedBigInt),
];

/// What streams are to clients that ask for their type.
pub const STREAM: &str = "STREAM";

/// How far the clock of a worker, which evaluates times, may be ahead.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// The columns of `stream_status('s')`.
const STATUS: Columns = &[("has_data", Boolean)];

/// The columns of a stream on a table.
pub(super) fn with_change_columns(table: &TableSchema) -> Schema {
    let mut fields = table.to_arrow().fields().to_vec();
    let types = [DataType::Utf8, DataType::Boolean, DataType::Utf8];
    let more = row_lineage::CHANGE_COLUMNS.into_iter().zip(types);
    fields.extend(more.map(|(name, ty)| Arc::new(Field::new(name, ty, true))));
    Schema::new(fields)
}

/// Refuses a stream on a table with a column that is named as one of the stream's own: it could not be read there.
fn check_hides_nothing(schema: &TableSchema, database: &str, stream: &str, table: &ObjectRef) -> Result<()> {
    let Some(hidden) = schema.columns.iter().find(|column| streams::is_change_column(&column.name)) else {
        return Ok(());
    };
    let error = Error::invalid(format!(
        "stream '{database}.{stream}' cannot be on table '{table}': the table's column '{}' is named as one that \
         every stream has",
        hidden.name
    ));
    Err(error.about(&hidden.name).hint(format!(
        "rename it: ALTER TABLE {} RENAME COLUMN {} TO …",
        shown_ref(table),
        quoted_name(&hidden.name)
    )))
}

/// A name as it is written in a statement.
fn shown_ref(object: &ObjectRef) -> String {
    let database = object.database.as_ref().map(|database| format!("{}.", quoted_name(database)));
    format!("{}{}", database.unwrap_or_default(), quoted_name(&object.name))
}

/// What pins the range of a stream, beside the metadata of its table.
fn pin_of(stream: StreamId) -> String {
    format!("stream-{stream}")
}

/// The rows and files that a snapshot changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lag {
    snapshots: u64,
    files: u64,
    rows: u64,
}

impl Lag {
    /// What a snapshot has for a stream.
    fn of(snapshot: &SnapshotRef, append_only: bool) -> Self {
        let summary = &snapshot.summary().additional_properties;
        // What did not change is left out of a summary.
        let number = |key: &str| summary.get(key).and_then(|text| text.parse::<u64>().ok());
        let some = |key: &str| number(key).unwrap_or(0);
        let (files, rows) = if append_only {
            (some("added-data-files"), number(INSERTED_ROWS).unwrap_or_else(|| some("added-records")))
        } else {
            let both =
                |what: &str| some(&format!("added-{what}")).saturating_add(some(&format!("deleted-{what}")));
            (both("data-files"), both("records"))
        };
        Self { snapshots: 1, files, rows }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            snapshots: self.snapshots.saturating_add(other.snapshots),
            files: self.files.saturating_add(other.files),
            rows: self.rows.saturating_add(other.rows),
        }
    }
}

/// The snapshots behind one up to another, oldest first, or why what they changed cannot be told.
fn between(
    metadata: &TableMetadata,
    from: Option<i64>,
    to: Option<i64>,
) -> std::result::Result<Vec<SnapshotRef>, String> {
    row_lineage::explain(metadata, from.unwrap_or(0), to.unwrap_or(0)).map_err(|why| why.to_string())?;
    let mut snapshots = Vec::new();
    let mut next = to.filter(|_| to != from).and_then(|id| metadata.snapshot_by_id(id));
    while let Some(snapshot) = next {
        snapshots.push(Arc::clone(snapshot));
        let parent = snapshot.parent_snapshot_id().filter(|parent| Some(*parent) != from);
        next = parent.and_then(|id| metadata.snapshot_by_id(id));
    }
    snapshots.reverse();
    Ok(snapshots)
}

/// A stream and what it has.
struct Standing {
    stream: Stream,
    /// `database.table`; none: it is gone.
    table_on: Option<String>,
    table: Option<Table>,
    metadata: Option<Arc<TableMetadata>>,
    /// The snapshots behind its offset, oldest first, or why it cannot be read.
    behind: std::result::Result<Vec<SnapshotRef>, String>,
}

impl Standing {
    fn lag(&self) -> Lag {
        let of = |snapshot| Lag::of(snapshot, self.stream.append_only);
        self.behind.iter().flatten().map(of).fold(Lag::default(), Lag::plus)
    }

    fn mode(&self) -> &'static str {
        if self.stream.append_only { "append_only" } else { "standard" }
    }

    fn invalid_reason(&self) -> &str {
        self.behind.as_ref().err().map_or("", String::as_str)
    }

    fn shown_row(&self, database: &str) -> Vec<Value> {
        let stream = &self.stream;
        vec![
            stream.created_on_ms.into(),
            stream.name.as_str().into(),
            database.into(),
            CATALOG.into(),
            self.table_on.clone().into(),
            stream.owner.as_str().into(),
            stream.comment.as_str().into(),
            self.mode().into(),
            self.invalid_reason().into(),
            (self.lag().rows > 0).into(),
        ]
    }

    fn system_row(&self, database: &str) -> Vec<Value> {
        let stream = &self.stream;
        let offset = stream.offset.zip(self.metadata.as_ref());
        let offset = offset.and_then(|(id, metadata)| metadata.snapshot_by_id(id));
        let version = offset.and_then(|snapshot| u64::try_from(snapshot.sequence_number()).ok());
        let lag = self.lag();
        vec![
            CATALOG.into(),
            database.into(),
            stream.name.as_str().into(),
            stream.id.0.into(),
            stream.created_on_ms.into(),
            stream.updated_on_ms.into(),
            self.mode().into(),
            stream.comment.as_str().into(),
            self.table_on.clone().into(),
            stream.table.0.into(),
            version.into(),
            offset.map(|snapshot| snapshot.manifest_list().to_owned()).into(),
            self.invalid_reason().into(),
            (lag.rows > 0).into(),
            stream.owner.as_str().into(),
            lag.snapshots.into(),
            lag.files.into(),
            lag.rows.into(),
        ]
    }
}

/// The snapshot up to which a stream is read: the newest, or that of the last commit within `most` rows.
fn read_up_to(
    behind: &[SnapshotRef],
    from: Option<i64>,
    append_only: bool,
    most: Option<u64>,
) -> Option<i64> {
    let mut rows = 0_u64;
    let mut to = from;
    for snapshot in behind {
        rows = rows.saturating_add(Lag::of(snapshot, append_only).rows);
        if to != from && most.is_some_and(|most| rows > most) {
            break;
        }
        to = Some(snapshot.snapshot_id());
    }
    to
}

/// The error of a stream, by its full name, whose changes cannot be told.
fn unreadable(stream: &str, why: &str) -> Error {
    Error::conflict(format!("stream '{stream}' cannot be read: {why}"))
        .about(stream.rsplit('.').next().unwrap_or(stream))
        .hint(format!("CREATE OR REPLACE STREAM {stream} … makes it anew, from where you say"))
}

/// The command that moves offsets: now, or with the transaction's commit.
fn consumption(handle: &StatementHandle, moves: Vec<StreamMove>) -> Command {
    match handle.transaction_id() {
        Some(id) => Command::Transaction(TransactionCommand::Consume { id, moves }),
        None => Command::Stream(StreamCommand::Consume { moves }),
    }
}

/// The moves of the streams that relations read.
pub(super) fn consumed(relations: &[RelationPlan]) -> Vec<StreamMove> {
    moves(relations, |_| true)
}

/// The moves of the streams that are read WITH CONSUME.
pub(super) fn consumed_by_query(relations: &[RelationPlan]) -> Vec<StreamMove> {
    moves(relations, |consume| consume)
}

fn moves(relations: &[RelationPlan], which: impl Fn(bool) -> bool) -> Vec<StreamMove> {
    let mut by_stream = BTreeMap::new();
    for relation in relations {
        if let RelationTarget::Stream { stream, from, to, consume, .. } = relation.target
            && which(consume)
        {
            by_stream.insert(stream, StreamMove { stream, from, to });
        }
    }
    by_stream.into_values().collect()
}

impl Engine {
    /// The stream of a name, if it is one's, with the name of its database.
    pub(super) fn stream_named(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        name: &ObjectRef,
    ) -> Result<Option<(String, Stream)>> {
        let (database, name) = self.qualify(handle, name);
        Ok(streams::stream(view, &database, &name)?.map(|stream| (database, stream)))
    }

    /// A stream that must be there, with the name of its database.
    pub(super) fn require_stream(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        stream: &ObjectRef,
    ) -> Result<(String, Stream)> {
        if let Some(found) = self.stream_named(view, handle, stream)? {
            return Ok(found);
        }
        let (database, name) = self.qualify(handle, stream);
        self.require_database(view, &database)?;
        Err(Error::not_found(format!("stream '{database}.{name}' does not exist"))
            .about(name)
            .hint("SHOW STREAMS lists them"))
    }

    /// A stream within a transaction ends where the transaction began, and has none of its changes: where these will
    /// be in the table's history is known once it has committed.
    async fn standing(
        &self,
        view: &dyn ReadView,
        stream: Stream,
        transaction: Option<TransactionId>,
    ) -> Result<Standing> {
        let table = catalog::table_by_id(view, stream.table)?;
        let Some(table) = table.filter(|table| table.dropped_on_ms.is_none()) else {
            let behind = Err("its table was dropped or replaced".to_owned());
            return Ok(Standing { stream, table_on: None, table: None, metadata: None, behind });
        };
        let transaction = transaction.map(|id| transactions::transaction(view, id)).transpose()?.flatten();
        let table = match transaction {
            Some(transaction) => transactions::version_at_begin(view, &transaction, table)?,
            None => table,
        };
        let database = catalog::databases(view)?.into_iter().find(|database| database.id == table.database);
        let table_on = database.map(|database| format!("{}.{}", database.name, table.name));
        let metadata = self.committer.load(&table.metadata_location).await?;
        let behind = between(&metadata, stream.offset, table.snapshot_id);
        Ok(Standing { stream, table_on, table: Some(table), metadata: Some(metadata), behind })
    }

    /// What a query reads of a stream, as its pins say, else up to now.
    pub(super) async fn plan_stream(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        (database, stream): (String, Stream),
        options: StreamOptions,
    ) -> Result<RelationTarget> {
        let full_name = format!("{database}.{}", stream.name);
        let pinned = handle.pin(&pin_of(stream.id)).map(|pin| serde_json::from_str(pin)).transpose();
        let pinned: Option<(Option<i64>, Option<i64>)> =
            pinned.map_err(|_| Error::invalid(format!("the pin of stream '{full_name}' is damaged")))?;
        let append_only = stream.append_only;
        let standing = self.standing(view, stream, handle.transaction_id()).await?;
        let (id, offset) = (standing.stream.id, standing.stream.offset);
        let behind = standing.behind.map_err(|why| unreadable(&full_name, &why))?;
        let Some(table) = standing.table else {
            return Err(Error::internal(format!("the table of stream '{full_name}' is lost")));
        };
        let location = handle.pin(&table.id.to_string()).unwrap_or(&table.metadata_location).clone();
        let (from, to) = match pinned {
            Some(range) => range,
            None => (offset, read_up_to(&behind, offset, append_only, options.max_batch_size)),
        };
        Ok(RelationTarget::Stream {
            stream: id,
            table: table.id,
            metadata_location: location,
            from,
            to,
            append_only,
            consume: options.consume,
        })
    }

    /// The pins of streams among planned relations.
    pub(super) fn pin_stream(pins: &mut BTreeMap<String, String>, target: &RelationTarget) {
        if let RelationTarget::Stream { stream, table, metadata_location, from, to, .. } = target {
            pins.insert(table.to_string(), metadata_location.clone());
            // A pair of numbers always serialises.
            pins.insert(pin_of(*stream), serde_json::to_string(&(from, to)).unwrap_or_default());
        }
    }

    /// The rows of a query, and after the last of them the moves of the streams that they were read from.
    pub(super) fn consuming(
        &self,
        handle: &StatementHandle,
        moves: Vec<StreamMove>,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let replica = self.replica.clone();
        let proposer = Self::proposer_of(handle);
        let command = consumption(handle, moves);
        let moved = async move { replica.propose_as(proposer, 1, command).await };
        // A query that failed consumes nothing: its error is the end.
        futures::stream::try_unfold((batches, moved), |(mut batches, moved)| async move {
            match batches.try_next().await? {
                Some(batch) => Ok(Some((batch, (batches, moved)))),
                None => moved.await.map(|_| None),
            }
        })
        .boxed()
    }

    pub(super) async fn stream_status(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        function: &TableFunction,
    ) -> Result<Vec<RecordBatch>> {
        let name =
            function.arguments.first().and_then(|(_, name)| FunctionArg::text(name)).unwrap_or_default();
        let stream = stevedore_sql::parse_table_name(name)?;
        let (database, stream) = self.require_stream(view, handle, &stream)?;
        let standing = self.standing(view, stream, handle.transaction_id()).await?;
        let has_data = standing.lag().rows > 0;
        if let Err(why) = &standing.behind {
            return Err(unreadable(&format!("{database}.{}", standing.stream.name), why));
        }
        let mut rows = Rows::new(STATUS, 1);
        rows.push(vec![has_data.into()])?;
        rows.finish()
    }

    /// Refuses a time that has not come: what the table will be then is not known.
    async fn check_has_come(&self, handle: &StatementHandle, time: &str) -> Result<()> {
        let at_us = self.instant(handle, time, AT_TIME).await?;
        if at_us.div_euclid(1_000) <= self.replica.now_ms().saturating_add(CLOCKS_DIFFER_MS) {
            return Ok(());
        }
        Err(Error::invalid(format!("{AT_TIME} of CREATE STREAM is {}, which is in the future", shown(at_us)))
            .hint("without AT a stream begins now"))
    }

    pub(super) async fn create_stream(
        &self,
        handle: &StatementHandle,
        create: &CreateStream,
    ) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (database, name) = self.qualify(handle, &create.stream);
        self.require_database(&*view, &database)?;
        let table = self.require_table(&*view, handle, &create.table)?;
        let metadata = self.committer.load(&table.metadata_location).await?;
        check_hides_nothing(&TableSchema::from_metadata(&metadata)?, &database, &name, &create.table)?;
        let offset = match &create.at {
            None => table.snapshot_id,
            Some(StreamStart::Table(at)) => {
                let full_name = format!("{}.{}", self.qualify(handle, &create.table).0, table.name);
                if let TimeTravel::Timestamp(time) = at {
                    self.check_has_come(handle, time).await?;
                }
                Some(self.snapshot_at(handle, &metadata, &full_name, at).await?)
            }
            Some(StreamStart::Stream(other)) => {
                let (of, other) = self.require_stream(&*view, handle, other)?;
                if other.table != table.id {
                    return Err(Error::invalid(format!(
                        "stream '{of}.{}' is on another table than '{}'",
                        other.name, create.table
                    ))
                    .hint("AT (STREAM => …) names a stream on the same table"));
                }
                other.offset
            }
        };
        // A stream that could never be read is refused now rather than at its first use.
        between(&metadata, offset, table.snapshot_id).map_err(|why| {
            Error::invalid(format!("stream '{database}.{name}' cannot begin there: {why}"))
                .about(name.clone())
        })?;
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        let stream = NewStream {
            database,
            name,
            table: table.id,
            append_only: create.append_only,
            offset,
            comment: create.comment.clone().unwrap_or_default(),
            owner: handle.user.clone(),
        };
        let command = StreamCommand::Create { stream, if_not_exists, or_replace };
        self.propose_once(handle, Command::Stream(command)).await?;
        Ok(Execution::nothing())
    }

    pub(super) async fn drop_stream(
        &self,
        handle: &StatementHandle,
        stream: &ObjectRef,
        if_exists: bool,
    ) -> Result<Execution> {
        let (database, name) = self.qualify(handle, stream);
        let command = StreamCommand::Drop { database, name, if_exists };
        self.propose_once(handle, Command::Stream(command)).await?;
        Ok(Execution::nothing())
    }

    /// CONSUME STREAM: its offset moves to now.
    pub(super) async fn consume_stream(
        &self,
        handle: &StatementHandle,
        stream: &ObjectRef,
    ) -> Result<Execution> {
        let view = self.replica.read().await?;
        let stream = self.require_stream(&*view, handle, stream)?;
        let target = self.plan_stream(&*view, handle, stream, StreamOptions::default()).await?;
        let relation = RelationPlan { name: String::new(), target };
        self.propose_once(handle, consumption(handle, consumed(&[relation]))).await?;
        Ok(Execution::nothing())
    }

    /// The rows of SHOW STREAMS and DESC STREAM.
    pub(super) async fn shown_streams(
        &self,
        view: &dyn ReadView,
        database: &str,
        matches: impl Fn(&str) -> bool,
    ) -> Result<Vec<Vec<Value>>> {
        let Some(found) = catalog::database(view, database)? else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        for stream in streams::streams_of(view, found.id)? {
            if matches(&stream.name) {
                rows.push(self.standing(view, stream, None).await?.shown_row(database));
            }
        }
        Ok(rows)
    }

    /// The rows of `system.streams`.
    pub(super) async fn stream_rows(&self, view: &dyn ReadView) -> Result<Vec<Vec<Value>>> {
        let mut rows = Vec::new();
        for database in catalog::databases(view)? {
            for stream in streams::streams_of(view, database.id)? {
                rows.push(self.standing(view, stream, None).await?.system_row(&database.name));
            }
        }
        Ok(rows)
    }
}
