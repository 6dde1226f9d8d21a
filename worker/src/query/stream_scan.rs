//! What changed in a table between two of its snapshots, as a relation: the rows of a stream.
//!
//! Comes in: two snapshots. Goes out: the table's current columns, then what happened to each row, whether that is
//! half of an update, and which row it is. Manifests that both snapshots have are passed over, so that reading costs
//! what changed. The relation is a plan over the files that only one of the snapshots has, into which filters and
//! projections go down:
//!
//! - Files that an append added hold rows that are new.
//! - Files that were rewritten say of each row when it was inserted and when it last changed: those that did neither
//!   after the first snapshot only moved, and are left out.
//! - The files that went say how rows were. Those that only moved are left out, by comparison with the rewritten files
//!   (`compared_scan`), of which a bit a row is kept in memory.
//! - A stream of appended rows compares nothing.
//!
//! Must never guess: a snapshot that does not say what became of each row fails the query.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use iceberg::io::FileIO;
use iceberg::spec::{Operation, SnapshotRef, TableMetadata};
use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result, row_lineage};
use stevedore_proto::v1::StreamScan;
use tokio::runtime::Handle;

use super::compared_scan::{ComparedTable, IS_UPDATED};
use super::error::from_datafusion;
use super::manifests::{ChangedFiles, MetadataCache, SnapshotFiles};
use super::numbered_scan::{Number, NumberedTable};
use super::origins::Origins;
use super::spelling::planned_names;
use super::table_scan::IcebergTable;

/// How the plan calls the files that only the later snapshot has, and those that only the earlier one has.
const NEW: &str = "new";
const OLD: &str = "old";

/// The relation, and how its columns are spelt. Runs on the I/O runtime.
///
/// # Errors
/// Where a snapshot is gone, or one between the two does not say what became of each row; storage.
pub(crate) async fn provider(
    scan: &StreamScan,
    file_io: FileIO,
    cache: &Arc<MetadataCache>,
    io: &Handle,
    origins: &Arc<Origins>,
) -> Result<(Arc<dyn TableProvider>, Vec<(String, String)>)> {
    let location = &scan.metadata_location;
    let metadata = cache.table(&file_io, location).await?;
    row_lineage::explain(&metadata, scan.from_snapshot, scan.to_snapshot).map_err(|unexplained| {
        Error::invalid(format!("the changes of the table cannot be told: {unexplained}"))
            .hint("create the stream again: CREATE OR REPLACE STREAM …")
    })?;
    let from = metadata.snapshot_by_id(scan.from_snapshot).filter(|_| scan.from_snapshot != 0);
    let something = scan.to_snapshot != 0 && scan.to_snapshot != scan.from_snapshot;
    let files = match metadata.snapshot_by_id(scan.to_snapshot).filter(|_| something) {
        Some(to) => cache
            .changed_files(&file_io, &metadata, from, to)
            .await
            .context(|| "reading what changed in a table".to_owned())?,
        None => ChangedFiles::default(),
    };
    let table = IcebergTable::open(file_io, location, 0, Arc::clone(cache), io.clone()).await?;
    let names: Vec<String> = table.spelling().into_iter().map(|(_, name)| name).collect();
    let spelt: Vec<&str> = names.iter().map(String::as_str).chain(row_lineage::CHANGE_COLUMNS).collect();
    let planned = planned_names(spelt.iter().copied());
    let changes = Changes { table, names: planned.clone(), origins: Arc::clone(origins) };
    let plan = changes.plan(&metadata, files, from, scan.append_only).map_err(|e| from_datafusion(&e))?;
    let spelling = planned.into_iter().zip(spelt.into_iter().map(str::to_owned)).collect();
    Ok((Arc::new(ViewTable::new(plan, None)), spelling))
}

/// What the plan is made of.
struct Changes {
    table: IcebergTable,
    /// Planned names of the relation's columns.
    names: Vec<String>,
    origins: Arc<Origins>,
}

impl Changes {
    fn plan(
        &self,
        metadata: &TableMetadata,
        files: ChangedFiles,
        from: Option<&SnapshotRef>,
        append_only: bool,
    ) -> DfResult<LogicalPlan> {
        let ChangedFiles { added, removed } = files;
        let Some(from) = from else {
            return self.rows(self.scan(NEW, added)?, NEW, "INSERT", lit(false))?.build();
        };
        let since = from.sequence_number();
        let later = |number: Number| number_of(NEW, number).gt(lit(since));
        let (appended, rewritten) = by_origin(metadata, added);
        let mut branches = vec![self.rows(self.scan(NEW, appended)?, NEW, "INSERT", lit(false))?];
        let (written, gone) = (!rewritten.data.is_empty(), !removed.data.is_empty());
        if append_only {
            if written {
                let rows = self.scan(NEW, rewritten)?.filter(later(Number::Added))?;
                branches.push(self.rows(rows, NEW, "INSERT", lit(false))?);
            }
        } else {
            if gone {
                branches.push(if written {
                    let (old, new) = (self.numbered(removed), self.numbered(rewritten.clone()));
                    let compared = ComparedTable::new(old, new, since);
                    let rows = scan(OLD, Arc::new(compared))?;
                    self.rows(rows, OLD, "DELETE", Expr::Column(column(OLD, IS_UPDATED)))?
                } else {
                    self.rows(self.scan(OLD, removed)?, OLD, "DELETE", lit(false))?
                });
            }
            if written {
                let rows = self.scan(NEW, rewritten)?.filter(later(Number::Updated))?;
                let was_there = !later(Number::Added);
                branches.push(self.rows(rows, NEW, "INSERT", was_there)?);
            }
        }
        let mut branches = branches.into_iter();
        let Some(first) = branches.next() else { return LogicalPlanBuilder::empty(false).build() };
        branches.try_fold(first, |all, branch| all.union(branch.build()?))?.build()
    }

    fn numbered(&self, files: SnapshotFiles) -> NumberedTable {
        NumberedTable::with_row_ids(self.table.with_files(files), Arc::clone(&self.origins))
    }

    fn scan(&self, side: &str, files: SnapshotFiles) -> DfResult<LogicalPlanBuilder> {
        scan(side, Arc::new(self.numbered(files)))
    }

    /// The columns of the relation.
    fn rows(
        &self,
        rows: LogicalPlanBuilder,
        side: &str,
        action: &str,
        is_update: Expr,
    ) -> DfResult<LogicalPlanBuilder> {
        let schema = self.table.schema();
        let of_table = schema.fields().iter().map(|field| Expr::Column(column(side, field.name())));
        let columns = of_table.chain([lit(action), is_update, number_of(side, Number::RowId)]);
        rows.project(columns.zip(&self.names).map(|(column, name)| column.alias(name)).collect::<Vec<_>>())
    }
}

fn column(side: &str, name: &str) -> Column {
    Column::new(Some(TableReference::bare(side)), name)
}

fn scan(side: &str, table: Arc<dyn TableProvider>) -> DfResult<LogicalPlanBuilder> {
    LogicalPlanBuilder::scan(TableReference::bare(side), provider_as_source(table), None)
}

fn number_of(side: &str, number: Number) -> Expr {
    Expr::Column(column(side, number.name()))
}

/// The files that appends added, which only hold new rows; and the others.
fn by_origin(metadata: &TableMetadata, files: SnapshotFiles) -> (SnapshotFiles, SnapshotFiles) {
    let is_append = |id: i64| {
        metadata.snapshot_by_id(id).is_some_and(|snapshot| snapshot.summary().operation == Operation::Append)
    };
    let SnapshotFiles { data, deletes } = files;
    let (appended, rewritten) =
        data.into_iter().partition(|file| file.entry.snapshot_id().is_some_and(is_append));
    (SnapshotFiles { data: appended, deletes: deletes.clone() }, SnapshotFiles { data: rewritten, deletes })
}
