//! Stage files as queries see them: [`StageReader`] over the reading of slices.
//!
//! Columns of Parquet, ORC, Avro and Arrow come from the schema in the first file or, where MISSING_FIELD_AS is set,
//! in all of them; those of JSON from the first records of the first files, as `infer` has them.

use std::sync::Arc;

use arrow::array::AsArray;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use stevedore_common::file_format::{FileFormat, FormatKind, MissingFieldAs};
use stevedore_common::storage::{Store, Stores};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::RowFilter;
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};
use stevedore_proto::v1::{FileTask, StageScan};

use crate::infer::json::Objects;
use crate::infer::{InferredColumn, ParquetFacts, infer_columns, inspect_parquet};
use crate::query::stage_scan::{StageBatch, StageFile, StageReader, file_format};
use crate::read::{Consumer, FileEvent, FileRead, WorkerResources, file_columns, read_file, read_files_for};
use crate::storage_access::storage_spec;

/// JSON records that are looked at, of a file and of all.
const SAMPLE_FILE: usize = 1000;
const SAMPLE_RECORDS: usize = 10_000;
/// JSON files that are looked at.
const SAMPLE_FILES: usize = 64;

/// Reads stage files for queries.
#[derive(Debug, Clone)]
pub struct StageFiles {
    stores: Arc<Stores>,
    resources: WorkerResources,
}

impl StageFiles {
    /// A reader that shares stores, threads and memory with the slices.
    pub fn new(stores: Arc<Stores>, resources: WorkerResources) -> Self {
        Self { stores, resources }
    }

    fn store(&self, scan: &StageScan) -> Result<Store> {
        let access = scan
            .storage
            .as_ref()
            .ok_or_else(|| Error::internal("a stage came without the store of its files"))?;
        self.stores.get(&storage_spec(access)?)
    }

    /// The columns of all files.
    async fn merged_columns(&self, scan: &StageScan, format: &FileFormat) -> Result<Vec<(String, SqlType)>> {
        let files: Vec<FileTask> = scan.files.iter().filter(|file| file.size > 0).cloned().collect();
        let store = self.store(scan)?;
        let columns =
            infer_columns(&files, &store, format, scan.case_sensitive, SAMPLE_FILE, &self.resources).await?;
        Ok(columns.into_iter().map(|column| (column.name, column.ty)).collect())
    }

    async fn infer_json(&self, scan: &StageScan, format: &FileFormat) -> Result<Vec<(String, SqlType)>> {
        let store = self.store(scan)?;
        let whole = OutputColumn {
            name: "$1".to_owned(),
            ty: Some(SqlType::Variant),
            source: ColumnSource::WholeRow,
            nullable: true,
            has_default: false,
        };
        let mut spec = DecodeSpec::new(format.clone(), vec![whole]);
        spec.batch_rows = SAMPLE_FILE;
        let spec = Arc::new(spec);
        let mut columns = Objects::new(format.null_if.clone(), scan.case_sensitive);
        let mut records = 0;
        for task in scan.files.iter().take(SAMPLE_FILES) {
            let mut batches = read_file(task.clone(), store.clone(), spec.clone(), self.resources.clone());
            let mut of_file = 0;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(|e| e.context(format!("file '{}'", task.name)))?.batch;
                let rows = batch.column(0).as_string_opt::<i32>();
                for record in
                    rows.into_iter().flat_map(|rows| rows.iter().flatten()).take(SAMPLE_FILE - of_file)
                {
                    // The decoder has parsed it: it is an object or, of some other kind, has no columns.
                    let _ = columns.add(record);
                    of_file += 1;
                }
                // Dropping the batches stops the reading of this file.
                if of_file >= SAMPLE_FILE {
                    break;
                }
            }
            records += of_file;
            if records >= SAMPLE_RECORDS {
                break;
            }
        }
        let types = columns.types().into_iter();
        Ok(types.map(|(name, ty)| (name, ty.unwrap_or(SqlType::String))).collect())
    }
}

#[async_trait]
impl StageReader for StageFiles {
    async fn infer(&self, scan: &StageScan) -> Result<Vec<(String, SqlType)>> {
        let format = file_format(scan)?;
        match format.kind {
            FormatKind::Ndjson | FormatKind::Json => self.infer_json(scan, &format).await,
            FormatKind::Parquet
            | FormatKind::Orc
            | FormatKind::Avro
            | FormatKind::Arrow
            | FormatKind::ArrowStream => {
                if format.missing_field_as != MissingFieldAs::Error {
                    return self.merged_columns(scan, &format).await;
                }
                let Some(first) = scan.files.iter().find(|file| file.size > 0) else {
                    return Ok(Vec::new());
                };
                let columns = file_columns(first, &self.store(scan)?, &format, &self.resources)
                    .await
                    .map_err(|e| e.context(format!("file '{}'", first.name)))?;
                Ok(columns.into_iter().map(|(name, ty, _)| (name, ty)).collect())
            }
            FormatKind::Csv | FormatKind::Tsv => {
                Err(Error::internal(format!("{} files do not say their columns", format.kind)))
            }
        }
    }

    async fn describe(&self, scan: &StageScan, max_records: usize) -> Result<Vec<InferredColumn>> {
        let format = file_format(scan)?;
        let store = self.store(scan)?;
        infer_columns(&scan.files, &store, &format, scan.case_sensitive, max_records, &self.resources).await
    }

    async fn inspect_parquet(&self, scan: &StageScan) -> Result<Vec<ParquetFacts>> {
        let store = self.store(scan)?;
        let mut facts = Vec::with_capacity(scan.files.len());
        for task in &scan.files {
            facts.push(inspect_parquet(task, &store, &self.resources).await?);
        }
        Ok(facts)
    }

    fn read(
        &self,
        scan: StageScan,
        spec: DecodeSpec,
        filter: Option<Arc<dyn RowFilter>>,
    ) -> BoxStream<'static, Result<StageBatch>> {
        let store = match self.store(&scan) {
            Ok(store) => store,
            Err(error) => return stream::once(std::future::ready(Err(error))).boxed(),
        };
        let files: Vec<Arc<StageFile>> = scan
            .files
            .iter()
            .map(|task| {
                Arc::new(StageFile { name: task.name.clone(), last_modified_ms: task.last_modified_ms })
            })
            .collect();
        let consumer = Consumer { filter, ..Consumer::default() };
        read_files_for(scan.files, store, Arc::new(spec), self.resources.clone(), consumer)
            .filter_map(move |FileRead { index, event }| {
                let file = files.get(index).cloned();
                std::future::ready(match (event, file) {
                    (FileEvent::Batch(rows), Some(file)) => Some(Ok(StageBatch { file, rows })),
                    (FileEvent::Failed(error), Some(file)) => {
                        Some(Err(error.context(format!("file '{}'", file.name))))
                    }
                    _ => None,
                })
            })
            .boxed()
    }
}
