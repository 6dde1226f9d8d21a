//! DELETE, UPDATE and MERGE INTO, by copy on write.
//!
//! Comes in: a query with a row for each change, over the numbered rows of a share of the table's files. Goes
//! out: data files with the rows that are new or have new values, and with those of the touched files that stay
//! as they were, each with which row it is; and which files they stand for. Files without a change are not written
//! again, those that lose all their rows are not even read. Keeps in memory which rows of the slice's files change: a
//! bit for each row of the touched ones at most (a million rows take 125 kB), less where few change, within the memory
//! of queries; what does not fit fails the statement.
//!
//! Must never: change a row twice (the statement fails), lose or double a row of a touched file, forget which row
//! one is that it copies or changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, Schema};
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::{MutationSource, QuerySpec, Relation, TableScan, TableTarget, relation};

use super::insert::Insert;
use super::lineage::Lineage;
use super::{SliceCounters, SliceFailure, SliceRunner, missing};
use crate::query::from_datafusion;
use crate::query::numbered_scan::Number;
use crate::query::row_set::RowSet;
use crate::query::table_scan::DataFileFacts;
use crate::write::BatchSink;

/// Columns before those of the new row: file, row, action; then which row it was.
const LEADING: usize = 3;
const LINEAGE: usize = 3;

/// What a statement did to the rows of its share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mutated {
    /// Locations of the files that others stand for now.
    pub(super) removed: Vec<String>,
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
}

/// Which rows of which files change, and how many.
struct Changes {
    files: Vec<DataFileFacts>,
    marks: BTreeMap<u32, RowSet>,
    /// What these take.
    bytes: u64,
    memory: MemoryReservation,
    done: Mutated,
}

impl Changes {
    fn new(files: Vec<DataFileFacts>, memory: MemoryReservation) -> Self {
        Self { files, marks: BTreeMap::new(), bytes: 0, memory, done: Mutated::default() }
    }

    /// Notes the changes of a batch; answers the rows that bring a new row, and those that are new themselves.
    fn note(&mut self, batch: &RecordBatch, table: &str) -> Result<(BooleanArray, BooleanArray)> {
        let column = |index: usize| -> Result<Int64Array> {
            let column = batch.columns().get(index).ok_or_else(|| missing("the numbers of its rows"))?;
            Ok(arrow::compute::cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        };
        let (files, rows, actions) = (column(0)?, column(1)?, column(2)?);
        let mut brings_new = Vec::with_capacity(batch.num_rows());
        let mut is_new = Vec::with_capacity(batch.num_rows());
        for index in 0..batch.num_rows() {
            let action = if actions.is_valid(index) { actions.value(index) } else { 0 };
            brings_new.push(matches!(action, 1 | 3));
            is_new.push(action == 3);
            match action {
                1 => self.done.updated += 1,
                2 => self.done.deleted += 1,
                3 => {
                    self.done.inserted += 1;
                    continue;
                }
                _ => continue,
            }
            let place = u32::try_from(files.value(index)).ok().filter(|_| files.is_valid(index));
            let facts = place.and_then(|place| Some((place, self.files.get(place as usize)?)));
            let Some((place, facts)) = facts else { return Err(missing("the file of a row that changes")) };
            let row = u64::try_from(rows.value(index)).ok().filter(|row| *row < facts.rows);
            let Some(row) = row else { return Err(missing("the place of a row that changes")) };
            let marks = self.marks.entry(place).or_default();
            let before = marks.bytes();
            let is_first = marks.insert(row);
            self.bytes += marks.bytes() - before;
            if !is_first {
                return Err(Error::bad_data(format!(
                    "a row of table '{table}' matches more than one row of the source, so that it is not clear what \
                     becomes of it"
                ))
                .hint("make the source's rows unique, for example with GROUP BY or SELECT DISTINCT"));
            }
        }
        let held = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        self.memory.try_resize(held).map_err(|e| {
            from_datafusion(&e).context(format!("keeping in mind which rows of table '{table}' change"))
        })?;
        Ok((BooleanArray::from(brings_new), BooleanArray::from(is_new)))
    }

    /// Files of which some rows stay, by place.
    fn to_copy(&self) -> Vec<u32> {
        let stays = |(place, marks): (&u32, &RowSet)| {
            let facts = self.files.get(*place as usize)?;
            (facts.has_deletes || marks.count() < facts.rows).then_some(*place)
        };
        self.marks.iter().filter_map(stays).collect()
    }

    /// The rows of a numbered batch that stay.
    fn staying(&self, files: &Int64Array, rows: &Int64Array) -> BooleanArray {
        let stays = |index: usize| {
            let marks = u32::try_from(files.value(index)).ok().and_then(|place| self.marks.get(&place));
            !marks.is_some_and(|marks| marks.contains(rows.value(index).cast_unsigned()))
        };
        BooleanArray::new(BooleanBuffer::collect_bool(files.len(), stays), None)
    }

    fn finish(mut self) -> Mutated {
        let location = |place: &u32| self.files.get(*place as usize).map(|facts| facts.location.clone());
        self.done.removed = self.marks.keys().filter_map(location).collect();
        self.done
    }
}

/// The scan of the relation that changes.
fn target_scan<'a>(query: &'a QuerySpec, target: &str) -> Result<&'a TableScan> {
    let relation = query.relations.iter().find(|relation| relation.name == target);
    match relation.and_then(|relation| relation.relation.as_ref()) {
        Some(relation::Relation::Table(scan)) if scan.numbered => Ok(scan),
        _ => Err(missing("the table that changes")),
    }
}

/// The columns of a batch from a place on.
fn columns_from(batch: &RecordBatch, first: usize) -> Result<RecordBatch> {
    let indices: Vec<usize> = (first..batch.num_columns()).collect();
    Ok(batch.project(&indices)?)
}

impl SliceRunner {
    pub(super) async fn mutate(
        &self,
        source: &MutationSource,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<Mutated, SliceFailure> {
        let query = source.changes.as_ref().ok_or_else(|| missing("its query"))?;
        let scan = target_scan(query, &source.target)?;
        let files = self.engine.data_files(scan).await?;
        let memory = self.engine.reservation("rows that a statement changes");
        let mut changes = Changes::new(files, memory);

        let planned = self.engine.plan(query).await?;
        let origins = planned.origins();
        let fields = planned.schema().fields().iter();
        let new_rows = Schema::new(fields.skip(LEADING + LINEAGE).cloned().collect::<Vec<_>>());
        let insert = match planned.schema().fields().len() > LEADING {
            false => None,
            true => Some(Arc::new(Insert::compile(
                &self.engine,
                &query.settings,
                target,
                table,
                &Arc::new(new_rows),
                "the query",
            )?)),
        };
        let mut rows = self.engine.execute(planned).await?;
        let mut seen = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let (brings_new, is_new) = changes.note(&batch, &target.name)?;
            if let Some(insert) = insert.clone() {
                let (first, origins) = (seen, Arc::clone(&origins));
                let apply = move || {
                    let lineage = Lineage::of(&batch.columns()[LEADING..LEADING + LINEAGE])?;
                    let lineage = lineage.but_new(&is_new).filter(&brings_new)?;
                    let new = filter_record_batch(&columns_from(&batch, LEADING + LINEAGE)?, &brings_new)?;
                    lineage.append_to(&insert.apply(&new, first)?, &origins)
                };
                let new = self.resources.cpu.run(apply).await?;
                seen += new.num_rows() as u64;
                self.take(new, sink, counters).await?;
            }
        }
        drop(rows);
        let changes = self.copy_staying(query, source, target, table, sink, counters, changes).await?;
        Ok(changes.finish())
    }

    async fn take(
        &self,
        batch: RecordBatch,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<(), SliceFailure> {
        if batch.num_rows() > 0 {
            SliceCounters::add(&counters.rows, batch.num_rows() as u64);
            sink.write(batch).await?;
        }
        Ok(())
    }

    /// Writes the rows of the touched files that stay as they were.
    #[allow(clippy::too_many_arguments, reason = "what a slice works with, and what is found by then")]
    async fn copy_staying(
        &self,
        query: &QuerySpec,
        source: &MutationSource,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
        changes: Changes,
    ) -> Result<Changes, SliceFailure> {
        let files = changes.to_copy();
        if files.is_empty() {
            return Ok(changes);
        }
        let scan = TableScan { files, ..target_scan(query, &source.target)?.clone() };
        let relation = relation::Relation::Table(scan);
        let copy = QuerySpec {
            sql: format!("SELECT * FROM \"{}\"", source.target),
            relations: vec![Relation { name: source.target.clone(), relation: Some(relation) }],
            settings: query.settings.clone(),
            traceparent: query.traceparent.clone(),
            ..QuerySpec::default()
        };
        let planned = self.engine.plan(&copy).await?;
        // The numbers of the rows stand last.
        let width = planned.schema().fields().len().saturating_sub(Number::ALL.len());
        let kept: Vec<_> = planned.schema().fields().iter().take(width).cloned().collect();
        let all = Insert::compile(
            &self.engine,
            &copy.settings,
            target,
            table,
            &Arc::new(Schema::new(kept)),
            "the table",
        )?;
        let (all, changes, origins) = (Arc::new(all), Arc::new(changes), planned.origins());
        let mut rows = self.engine.execute(planned).await?;
        let mut seen = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let (all, changes, origins) = (all.clone(), changes.clone(), origins.clone());
            let first = seen;
            let keep = move || {
                let (columns, numbers) = batch.columns().split_at(width);
                let [file, row, lineage @ ..] = numbers else {
                    return Err(missing("the numbers of its rows"));
                };
                let staying = changes.staying(file.as_primitive(), row.as_primitive());
                let lineage = Lineage::of(lineage)?.filter(&staying)?;
                let columns: Vec<usize> = (0..columns.len()).collect();
                let staying = filter_record_batch(&batch.project(&columns)?, &staying)?;
                lineage.append_to(&all.apply(&staying, first)?, &origins)
            };
            let staying = self.resources.cpu.run(keep).await?;
            seen += staying.num_rows() as u64;
            self.take(staying, sink, counters).await?;
        }
        drop(rows);
        Arc::into_inner(changes)
            .ok_or_else(|| Error::internal("the changes of a slice are still in use").into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::ArrayRef;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
    use stevedore_common::ErrorKind;

    use super::*;

    fn memory(bytes: usize) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(bytes));
        MemoryConsumer::new("rows").register(&pool)
    }

    fn changes(rows: &[u64]) -> Changes {
        let facts =
            |rows: &u64| DataFileFacts { location: format!("f{rows}"), rows: *rows, has_deletes: false };
        Changes::new(rows.iter().map(facts).collect(), memory(usize::MAX))
    }

    fn batch(rows: &[(Option<i64>, Option<i64>, i64)]) -> RecordBatch {
        let columns: [ArrayRef; 3] = [
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
        ];
        RecordBatch::try_from_iter(["file", "row", "action"].into_iter().zip(columns)).unwrap()
    }

    #[test]
    fn files_that_lose_all_rows_are_not_copied_and_untouched_ones_stay() {
        let mut changes = changes(&[2, 100, 7]);
        let rows = [(Some(0), Some(0), 2), (Some(0), Some(1), 2), (Some(1), Some(64), 1), (None, None, 3)];
        let (brings_new, is_new) = changes.note(&batch(&rows), "t").unwrap();
        assert_eq!(brings_new, BooleanArray::from(vec![false, false, true, true]));
        assert_eq!(is_new, BooleanArray::from(vec![false, false, false, true]));
        assert_eq!(changes.to_copy(), [1]);
        let (files, rows) = (Int64Array::from(vec![1, 1, 1]), Int64Array::from(vec![63, 64, 65]));
        assert_eq!(changes.staying(&files, &rows), BooleanArray::from(vec![true, false, true]));
        let done = changes.finish();
        let removed = vec!["f2".to_owned(), "f100".to_owned()];
        assert_eq!(done, Mutated { removed, inserted: 1, updated: 1, deleted: 2 });
    }

    #[test]
    fn a_row_that_changes_twice_fails_and_one_that_nothing_happens_to_may_match_often() {
        let mut changes = changes(&[5]);
        changes
            .note(&batch(&[(Some(0), Some(3), 0), (Some(0), Some(3), 0), (Some(0), Some(3), 1)]), "t")
            .unwrap();
        let error = changes.note(&batch(&[(Some(0), Some(3), 2)]), "d.t").unwrap_err();
        assert!(error.to_string().contains("'d.t' matches more than one row"), "{error}");
        assert!(changes.note(&batch(&[(Some(1), Some(0), 2)]), "t").is_err());
        assert!(changes.note(&batch(&[(Some(0), Some(5), 2)]), "t").is_err(), "no row of the file");
    }

    #[test]
    fn rows_that_change_are_kept_within_the_memory_of_queries() {
        let mut changes = changes(&[1 << 20]);
        changes.memory = memory(10_000);
        let some: Vec<_> = (0..1_000).map(|row| (Some(0), Some(row * 1_000), 2)).collect();
        changes.note(&batch(&some), "t").unwrap();
        let rest: Vec<_> = (0..10_000).map(|row| (Some(0), Some(row * 100 + 1), 2)).collect();
        let error = changes.note(&batch(&rest), "d.t").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.to_string().contains("which rows of table 'd.t' change"), "{error}");
    }
}
