//! Row-level deletes of Iceberg v2.
//!
//! Comes in: the delete files of a snapshot and the data files that a scan reads. Goes out: for each data
//! file the rows that are gone by position (as a row selection, so that they are never decoded) and the
//! sets of keys that are gone by equality (as a filter above the scan). A delete file applies by the
//! sequence-number and partition rules of the format. Fails on delete files of formats other than
//! Parquet.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::datasource::physical_plan::parquet::ParquetAccessPlan;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFileFormat, TableMetadata};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

use super::manifests::TableFile;
use super::storage_types::convert;
use super::table_files::ParquetFiles;

/// Which delete files apply to a data file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Applicable {
    /// Places in the list of delete files.
    pub(crate) position: Vec<usize>,
    /// As above.
    pub(crate) equality: Vec<usize>,
}

/// Finds the delete files of a data file.
pub(crate) fn applicable(data: &TableFile, deletes: &[TableFile], metadata: &TableMetadata) -> Applicable {
    let mut found = Applicable::default();
    for (index, delete) in deletes.iter().enumerate() {
        let file = delete.entry.data_file();
        let same_partition =
            delete.spec_id == data.spec_id && file.partition() == data.entry.data_file().partition();
        match file.content_type() {
            DataContentType::PositionDeletes => {
                let other_file = file
                    .referenced_data_file()
                    .is_some_and(|path| path != data.entry.data_file().file_path());
                if delete.sequence >= data.sequence && same_partition && !other_file {
                    found.position.push(index);
                }
            }
            DataContentType::EqualityDeletes => {
                let everywhere =
                    metadata.partition_spec_by_id(delete.spec_id).is_some_and(|spec| spec.is_unpartitioned());
                if delete.sequence > data.sequence && (everywhere || same_partition) {
                    found.equality.push(index);
                }
            }
            DataContentType::Data => {}
        }
    }
    found
}

fn check_format(delete: &TableFile) -> Result<()> {
    let file = delete.entry.data_file();
    if file.file_format() == DataFileFormat::Parquet {
        return Ok(());
    }
    Err(Error::not_supported(format!(
        "the delete file '{}' of format {}",
        file.file_path(),
        file.file_format()
    )))
}

/// Reads position delete files: for each data file the deleted rows, in order, each once.
pub(crate) async fn positions(
    files: &ParquetFiles,
    deletes: &[&TableFile],
) -> Result<HashMap<String, Vec<u64>>> {
    let mut all: HashMap<String, Vec<u64>> = HashMap::new();
    for delete in deletes {
        check_format(delete)?;
        let path = delete.entry.data_file().file_path();
        let batches = read_columns(files, delete, |schema| {
            ["file_path", "pos"].iter().map(|name| schema.index_of(name).ok()).collect()
        })
        .await
        .context(|| format!("reading the delete file '{path}'"))?;
        for batch in batches {
            let broken =
                || Error::bad_data(format!("the delete file '{path}' lacks the columns file_path and pos"));
            let names = batch.column_by_name("file_path").ok_or_else(broken)?;
            let names = convert(names, &DataType::Utf8)?;
            let rows = convert(batch.column_by_name("pos").ok_or_else(broken)?, &DataType::Int64)?;
            let (names, rows) = (names.as_string::<i32>(), rows.as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                if names.is_valid(row) && rows.is_valid(row) {
                    let position = u64::try_from(rows.value(row)).map_err(|_| broken())?;
                    match all.get_mut(names.value(row)) {
                        Some(list) => list.push(position),
                        None => drop(all.insert(names.value(row).to_owned(), vec![position])),
                    }
                }
            }
        }
    }
    for list in all.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    Ok(all)
}

async fn read_columns(
    files: &ParquetFiles,
    file: &TableFile,
    columns: impl FnOnce(&Schema) -> Option<Vec<usize>>,
) -> Result<Vec<RecordBatch>> {
    let data_file = file.entry.data_file();
    let reader = files.open(data_file.file_path(), data_file.file_size_in_bytes())?;
    let bad = |e: parquet::errors::ParquetError| Error::bad_data(e.to_string());
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(bad)?;
    let Some(columns) = columns(builder.schema()) else {
        return Err(Error::bad_data("it lacks columns that it should have"));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    builder.with_projection(mask).build().map_err(bad)?.try_collect().await.map_err(bad)
}

/// The rows of a data file that remain, for its reader.
pub(crate) async fn access_plan(
    files: &ParquetFiles,
    file: &TableFile,
    deleted: &[u64],
) -> Result<ParquetAccessPlan> {
    let data_file = file.entry.data_file();
    let mut reader = files.open(data_file.file_path(), data_file.file_size_in_bytes())?;
    let metadata = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new())
        .await
        .map_err(|e| Error::bad_data(format!("reading '{}': {e}", data_file.file_path())))?;
    let rows: Vec<u64> = metadata
        .metadata()
        .row_groups()
        .iter()
        .map(|group| u64::try_from(group.num_rows()).unwrap_or(0))
        .collect();
    Ok(select_rows(&rows, deleted))
}

/// `deleted` is in order.
fn select_rows(row_groups: &[u64], deleted: &[u64]) -> ParquetAccessPlan {
    let mut plan = ParquetAccessPlan::new_all(row_groups.len());
    let mut start = 0u64;
    for (index, rows) in row_groups.iter().enumerate() {
        let end = start + rows;
        let from = deleted.partition_point(|position| *position < start);
        let to = deleted.partition_point(|position| *position < end);
        let gone = &deleted[from..to];
        if gone.len() as u64 == *rows {
            plan.skip(index);
        } else if !gone.is_empty() {
            let mut kept = Vec::with_capacity(gone.len() + 1);
            let mut next = start;
            for position in gone {
                if next < *position {
                    kept.push((next - start) as usize..(*position - start) as usize);
                }
                next = position + 1;
            }
            if next < end {
                kept.push((next - start) as usize..*rows as usize);
            }
            let selection = RowSelection::from_consecutive_ranges(kept.into_iter(), *rows as usize);
            plan.scan_selection(index, selection);
        }
        start = end;
    }
    plan
}

/// Keys that are deleted by equality, over some columns of the table.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// Names of the table's columns that make the key.
    pub(crate) columns: Vec<String>,
    types: Vec<DataType>,
    keys: HashSet<Box<[u8]>>,
}

impl KeySet {
    fn converter(types: &[DataType]) -> Result<RowConverter> {
        Ok(RowConverter::new(types.iter().map(|ty| SortField::new(ty.clone())).collect())?)
    }
}

/// Reads equality delete files; `columns` gives the name and type of a field id of the table.
pub(crate) async fn key_sets(
    files: &ParquetFiles,
    deletes: &[&TableFile],
    columns: &BTreeMap<i32, (String, DataType)>,
) -> Result<Vec<KeySet>> {
    let mut sets: BTreeMap<Vec<i32>, KeySet> = BTreeMap::new();
    for delete in deletes {
        check_format(delete)?;
        let path = delete.entry.data_file().file_path().to_owned();
        let ids = delete.entry.data_file().equality_ids().unwrap_or_default();
        if ids.is_empty() {
            return Err(Error::bad_data(format!("the delete file '{path}' names no columns")));
        }
        let mut names = Vec::new();
        let mut types = Vec::new();
        for id in &ids {
            let (name, ty) = columns.get(id).ok_or_else(|| {
                Error::not_supported(format!("the delete file '{path}': its column of id {id} was dropped"))
            })?;
            names.push(name.clone());
            types.push(ty.clone());
        }
        let batches = read_columns(files, delete, |schema| {
            ids.iter().map(|id| super::field_ids::field_of_id(schema, *id)).collect()
        })
        .await
        .context(|| format!("reading the delete file '{path}'"))?;
        let converter = KeySet::converter(&types)?;
        let set = sets.entry(ids.clone()).or_insert_with(|| KeySet {
            columns: names,
            types: types.clone(),
            keys: HashSet::new(),
        });
        for batch in batches {
            let keys = ids
                .iter()
                .zip(&types)
                .map(|(id, ty)| {
                    let index = super::field_ids::field_of_id(&batch.schema(), *id).ok_or_else(|| {
                        Error::bad_data(format!("the delete file '{path}' lacks the column of id {id}"))
                    })?;
                    convert(batch.column(index), ty)
                })
                .collect::<Result<Vec<ArrayRef>>>()?;
            let rows = converter.convert_columns(&keys)?;
            set.keys.extend(rows.iter().map(|row| Box::from(row.as_ref())));
        }
    }
    Ok(sets.into_values().collect())
}

/// Leaves out the rows whose key is deleted, and the columns that only the keys needed.
#[derive(Debug)]
pub(crate) struct EqualityDeleteExec {
    input: Arc<dyn ExecutionPlan>,
    sets: Arc<Vec<KeySet>>,
    /// The number of leading columns of the input that are output.
    width: usize,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl EqualityDeleteExec {
    pub(crate) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        sets: Arc<Vec<KeySet>>,
        width: usize,
    ) -> DfResult<Self> {
        let indices: Vec<usize> = (0..width).collect();
        let schema = Arc::new(input.schema().project(&indices)?);
        let properties = Arc::new(PlanProperties::new(
            datafusion::physical_expr::EquivalenceProperties::new(Arc::clone(&schema)),
            input.properties().partitioning.clone(),
            input.properties().emission_type,
            input.properties().boundedness,
        ));
        Ok(Self { input, sets, width, schema, properties })
    }
}

impl DisplayAs for EqualityDeleteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: usize = self.sets.iter().map(|set| set.keys.len()).sum();
        write!(f, "EqualityDeleteExec: keys={keys}")
    }
}

impl ExecutionPlan for EqualityDeleteExec {
    fn name(&self) -> &str {
        "EqualityDeleteExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::try_new(input, Arc::clone(&self.sets), self.width)?)),
            _ => Err(DataFusionError::Internal("EqualityDeleteExec has one input".into())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (sets, width) = (Arc::clone(&self.sets), self.width);
        let stream = input.map(move |batch| {
            let batch = batch?;
            let keep = remaining(&batch, &sets).map_err(super::error::to_datafusion)?;
            let indices: Vec<usize> = (0..width).collect();
            Ok(filter_record_batch(&batch.project(&indices)?, &keep)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream)))
    }
}

/// Which rows of a batch remain; it has the key columns under their names.
pub(crate) fn remaining(batch: &RecordBatch, sets: &[KeySet]) -> Result<BooleanArray> {
    let mut keep = vec![true; batch.num_rows()];
    for set in sets {
        let columns = set
            .columns
            .iter()
            .map(|name| {
                batch
                    .column_by_name(name)
                    .cloned()
                    .ok_or_else(|| Error::internal(format!("the key column '{name}' was not read")))
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let rows = KeySet::converter(&set.types)?.convert_columns(&columns)?;
        for (row, keep) in rows.iter().zip(&mut keep) {
            *keep &= !set.keys.contains(row.as_ref());
        }
    }
    Ok(BooleanArray::from(keep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_positions_become_a_selection_of_each_row_group() {
        let plan = select_rows(&[3, 2, 4], &[1, 3, 4, 5, 8]);
        let kept: Vec<bool> = (0..3).map(|group| plan.should_scan(group)).collect();
        assert_eq!(kept, [true, false, true]);
        let rows: Vec<String> = plan.inner().iter().map(|access| format!("{access:?}")).collect();
        assert!(rows[0].contains("row_count: 1, skip: false"), "{rows:?}");
        assert!(rows[2].contains("row_count: 2, skip: false"), "{rows:?}");
    }
}
