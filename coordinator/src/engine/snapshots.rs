//! A table's history: the snapshot that `AT (…)` names, and the rows of `system.snapshots('t')`.
//!
//! Comes in: a table's metadata, and what the statement says. Goes out: the id of a snapshot, or Arrow
//! batches, newest snapshot first. Times are evaluated by a worker, as any expression is.

use arrow::array::{Array, RecordBatch, TimestampMicrosecondArray};
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt;
use iceberg::spec::{Snapshot, TableMetadata};
use stevedore_common::ids::TableId;
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{ObjectRef, TimeTravel};
use stevedore_state::catalog::Table;
use stevedore_state::view::ReadView;

use super::history::{MOST_ROWS, Rows};
use super::system_tables::columns_of;
use super::{Engine, StatementHandle, is_virtual_database};
use crate::committer::JOB_ID;
use crate::planner::plan::RelationTarget;
use crate::results::ColumnKind::{Boolean, Text, Timestamp, UnsignedBigInt};
use crate::results::{Columns, Value};

/// The columns of `system.snapshots`.
const SNAPSHOTS: Columns = &[
    ("snapshot_id", Text),
    ("previous_snapshot_id", Text),
    ("timestamp", Timestamp),
    ("operation", Text),
    ("row_count", UnsignedBigInt),
    ("file_count", UnsignedBigInt),
    ("bytes", UnsignedBigInt),
    ("added_rows", UnsignedBigInt),
    ("deleted_rows", UnsignedBigInt),
    ("added_files", UnsignedBigInt),
    ("deleted_files", UnsignedBigInt),
    ("job_id", Text),
    ("is_current", Boolean),
    ("snapshot_location", Text),
];

/// What errors call the time that a table is read at.
pub(super) const AT_TIME: &str = "AT (TIMESTAMP => …)";

/// What pins the snapshot of a relation, beside the metadata of its table.
pub(super) fn pin_of(table: TableId, relation: &str) -> String {
    format!("{table}@{relation}")
}

/// A time as messages show it.
pub(super) fn shown(micros: i64) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{micros} µs after 1970"),
    }
}

fn hint_of(table: &str) -> String {
    format!("SELECT * FROM system.snapshots('{table}') lists them")
}

/// The snapshot of an id.
fn named(metadata: &TableMetadata, table: &str, id: &str) -> Result<i64> {
    id.trim().parse().ok().filter(|id| metadata.snapshot_by_id(*id).is_some()).ok_or_else(|| {
        Error::not_found(format!("snapshot '{id}' of table '{table}' does not exist"))
            .about(table.rsplit('.').next().unwrap_or(table))
            .hint(hint_of(table))
    })
}

/// The snapshot that was the current one at a time.
fn as_of(metadata: &TableMetadata, table: &str, at_us: i64) -> Result<i64> {
    let about = |error: Error| error.about(table.rsplit('.').next().unwrap_or(table));
    let Some(first) = metadata.history().first() else {
        return Err(about(Error::not_found(format!("table '{table}' has no snapshot yet"))));
    };
    let was_current =
        metadata.history().iter().rev().find(|entry| entry.timestamp_ms.saturating_mul(1000) <= at_us);
    let Some(entry) = was_current else {
        return Err(about(Error::not_found(format!(
            "table '{table}' has no snapshot as old as {}; its first is of {}",
            shown(at_us),
            shown(first.timestamp_ms.saturating_mul(1000))
        )))
        .hint(hint_of(table)));
    };
    named(metadata, table, &entry.snapshot_id.to_string())
}

fn row_of(metadata: &TableMetadata, snapshot: &Snapshot) -> Vec<Value> {
    let summary = snapshot.summary();
    let text = |key: &str| summary.additional_properties.get(key).cloned();
    let total = |key: &str| -> Value { text(key).and_then(|number| number.parse::<u64>().ok()).into() };
    // What did not change is left out of a summary.
    let change =
        |key: &str| -> Value { text(key).map_or(Some(0), |number| number.parse::<u64>().ok()).into() };
    vec![
        snapshot.snapshot_id().to_string().into(),
        snapshot.parent_snapshot_id().map(|id| id.to_string()).into(),
        snapshot.timestamp_ms().into(),
        summary.operation.as_str().into(),
        total("total-records"),
        total("total-data-files"),
        total("total-files-size"),
        change("added-records"),
        change("deleted-records"),
        change("added-data-files"),
        change("deleted-data-files"),
        text(JOB_ID).into(),
        (metadata.current_snapshot_id() == Some(snapshot.snapshot_id())).into(),
        snapshot.manifest_list().into(),
    ]
}

/// The rows of `system.snapshots`: all of them, or the newest `limit`.
pub(super) fn rows(metadata: &TableMetadata, table: &Table, limit: Option<u64>) -> Result<Vec<RecordBatch>> {
    let mut snapshots: Vec<&Snapshot> = metadata.snapshots().map(AsRef::as_ref).collect();
    snapshots
        .sort_by_key(|snapshot| std::cmp::Reverse((snapshot.sequence_number(), snapshot.timestamp_ms())));
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut rows = Rows::new(SNAPSHOTS, MOST_ROWS);
    for snapshot in snapshots.into_iter().take(limit) {
        if !rows.push(row_of(metadata, snapshot))? {
            return Err(Error::exhausted(format!(
                "table '{}' has more snapshots than one statement may read",
                table.name
            ))
            .hint(format!("read the newest: system.snapshots('{}', result_limit => 1000)", table.name)));
        }
    }
    rows.finish()
}

impl Engine {
    /// A table as `AT (…)` says, for a query's relation of this name.
    pub(super) async fn plan_table_at(
        &self,
        view: &dyn ReadView,
        handle: &StatementHandle,
        relation: &str,
        table: &ObjectRef,
        at: &TimeTravel,
    ) -> Result<RelationTarget> {
        let (database, name) = self.qualify(handle, table);
        if is_virtual_database(&database) {
            columns_of(&database, &name)?;
            return Err(Error::not_supported(format!(
                "AT (…) on '{database}.{name}': it is made when it is read, and has no snapshots"
            ))
            .about(name));
        }
        let table = self.require_table(view, handle, table)?;
        let pinned = handle.pin(&table.id.to_string());
        let metadata_location = pinned.unwrap_or(&table.metadata_location).clone();
        let metadata = self.committer.load(&metadata_location).await?;
        let full_name = format!("{database}.{name}");
        let snapshot_id = match handle.pin(&pin_of(table.id, relation)) {
            Some(id) => named(&metadata, &full_name, id)?,
            None => self.snapshot_at(handle, &metadata, &full_name, at).await?,
        };
        Ok(RelationTarget::Table {
            table: table.id,
            metadata_location,
            empty: false,
            snapshot_id: Some(snapshot_id),
        })
    }

    /// The snapshot of a table that `AT (…)` names.
    pub(super) async fn snapshot_at(
        &self,
        handle: &StatementHandle,
        metadata: &TableMetadata,
        table: &str,
        at: &TimeTravel,
    ) -> Result<i64> {
        match at {
            TimeTravel::Snapshot(id) => named(metadata, table, id),
            TimeTravel::Timestamp(time) => as_of(metadata, table, self.instant(handle, time, AT_TIME).await?),
        }
    }

    /// The value of a constant expression as a TIMESTAMP, in microseconds; errors say what it is.
    pub(super) async fn instant(&self, handle: &StatementHandle, time: &str, what: &str) -> Result<i64> {
        let context = |e: Error| e.context(what);
        let spec = v1::QuerySpec {
            sql: format!("SELECT __cast({time}, 'TIMESTAMP') AS at"),
            settings: handle.settings.clone().into_iter().collect(),
            traceparent: stevedore_common::telemetry::current_traceparent().unwrap_or_default(),
            ..v1::QuerySpec::default()
        };
        let (_, mut batches) = self.workers.run(&handle.group()?, &spec).await.map_err(context)?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(context)?;
            let times =
                batch.columns().first().and_then(|c| c.as_any().downcast_ref::<TimestampMicrosecondArray>());
            if let Some(times) = times.filter(|times| !times.is_empty()) {
                return match times.is_valid(0) {
                    true => Ok(times.value(0)),
                    false => Err(Error::invalid(format!("{what} is NULL; a time is expected"))),
                };
            }
        }
        Err(Error::internal(format!("a worker gave no value for {what}")))
    }
}
