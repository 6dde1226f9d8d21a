//! Stage files as the readers of this worker read them.
//!
//! Comes in: a stage scan. Goes out: its columns (a Parquet footer, or a sample of NDJSON records) and
//! its rows. Files fail the query with their name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_common::error::ResultExt;
use stevedore_common::file_format::FormatKind;
use stevedore_common::storage::{Store, Stores};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};
use stevedore_decode::variant::scan::{self, Kind};
use stevedore_proto::v1::{FileTask, StageScan};

use super::stage_scan::{StageBatch, StageFile, StageReader, WHOLE_ROW, file_format};
use crate::read::{self, FileEvent, WorkerResources};
use crate::storage_access::storage_spec;

/// Records that tell the columns of NDJSON files.
const SAMPLE_RECORDS: usize = 1000;

/// Reads stage files with the worker's threads, memory and stores.
#[derive(Debug, Clone)]
pub struct StageFiles {
    stores: Arc<Stores>,
    resources: WorkerResources,
}

impl StageFiles {
    /// A reader that shares what the worker's slices use.
    pub fn new(stores: Arc<Stores>, resources: WorkerResources) -> Self {
        Self { stores, resources }
    }

    fn store(&self, scan: &StageScan) -> Result<Store> {
        let access = scan.storage.as_ref().ok_or_else(|| Error::internal("a stage scan names no store"))?;
        self.stores.get(&storage_spec(access)?)
    }

    async fn sample_ndjson(&self, scan: &StageScan) -> Result<Vec<(String, SqlType)>> {
        let whole = OutputColumn {
            name: WHOLE_ROW.to_owned(),
            ty: Some(SqlType::Variant),
            source: ColumnSource::WholeRow,
            nullable: true,
            has_default: false,
        };
        let mut spec = DecodeSpec::new(file_format(scan)?, vec![whole]);
        spec.batch_rows = SAMPLE_RECORDS;
        let mut columns = SampledColumns::default();
        let mut left = SAMPLE_RECORDS;
        let mut batches = self.read(scan.clone(), spec);
        while left > 0
            && let Some(batch) = batches.next().await
        {
            let batch = batch?;
            if let Some(error) = batch.rows.errors.first() {
                return Err(at_line(&batch.file, error.line, &error.message));
            }
            let Some(rows) = batch.rows.batch.columns().first().and_then(|c| c.as_string_opt::<i32>()) else {
                return Err(Error::internal("a sample of NDJSON is no text"));
            };
            for row in (0..rows.len().min(left)).filter(|row| rows.is_valid(*row)) {
                columns.add(rows.value(row));
            }
            left = left.saturating_sub(rows.len());
        }
        Ok(columns.finish())
    }
}

/// What a bad row of a query's file says.
pub(crate) fn at_line(file: &StageFile, line: u64, message: &str) -> Error {
    Error::bad_data(format!("file '{}', line {line}: {message}", file.name))
}

#[async_trait]
impl StageReader for StageFiles {
    async fn infer(&self, scan: &StageScan) -> Result<Vec<(String, SqlType)>> {
        let format = file_format(scan)?;
        match format.kind {
            FormatKind::Ndjson => self.sample_ndjson(scan).await,
            FormatKind::Parquet => {
                // Empty files say nothing; the readers hold the others to the first one's columns.
                let Some(task) = scan.files.iter().find(|task| task.size > 0) else { return Ok(Vec::new()) };
                let columns = read::parquet_columns(task, &self.store(scan)?, &format, &self.resources)
                    .await
                    .context(|| format!("file '{}'", task.name))?;
                Ok(columns.into_iter().map(|(name, ty, _)| (name, ty)).collect())
            }
            other => Err(Error::not_supported_yet(format!("queries of {other} files"))),
        }
    }

    fn read(&self, scan: StageScan, spec: DecodeSpec) -> BoxStream<'static, Result<StageBatch>> {
        let store = match self.store(&scan) {
            Ok(store) => store,
            Err(e) => return futures::stream::once(async move { Err(e) }).boxed(),
        };
        let files: Vec<Arc<StageFile>> = scan.files.iter().map(stage_file).collect();
        read::read_files(scan.files, store, Arc::new(spec), self.resources.clone())
            .filter_map(move |read| {
                let file = files.get(read.index).cloned();
                std::future::ready(match (read.event, file) {
                    (FileEvent::Batch(rows), Some(file)) => Some(Ok(StageBatch { file, rows })),
                    (FileEvent::Failed(e), Some(file)) => Some(Err(e.context(format!("file '{}'", file.name)))),
                    (FileEvent::Failed(e), None) => Some(Err(e)),
                    _ => None,
                })
            })
            .boxed()
    }
}

fn stage_file(task: &FileTask) -> Arc<StageFile> {
    Arc::new(StageFile { name: task.name.clone(), last_modified_ms: task.last_modified_ms })
}

/// What the records of a sample have in common.
#[derive(Debug, Default)]
struct SampledColumns {
    /// Names in the order in which they turned up, and what their values are.
    names: Vec<String>,
    types: HashMap<String, BTreeMap<&'static str, ()>>,
}

impl SampledColumns {
    fn add(&mut self, record: &str) {
        for (name, value) in scan::members(record) {
            let name = scan::unescape(name).into_owned();
            if !self.types.contains_key(&name) {
                self.names.push(name.clone());
            }
            let kinds = self.types.entry(name).or_default();
            let kind = match scan::kind(value) {
                Some(Kind::Bool) => "bool",
                Some(Kind::Number) if value.parse::<i64>().is_ok() => "int",
                Some(Kind::Number) => "float",
                Some(Kind::String) => "string",
                Some(Kind::Null) | None => continue,
                Some(_) => "nested",
            };
            kinds.insert(kind, ());
        }
    }

    /// Integers and floats are DOUBLE, unlike scalars VARCHAR, anything nested VARIANT; a name that is
    /// only ever null is VARIANT too.
    fn finish(mut self) -> Vec<(String, SqlType)> {
        self.names
            .into_iter()
            .map(|name| {
                let kinds: Vec<&str> =
                    self.types.remove(&name).unwrap_or_default().into_keys().collect();
                let ty = match kinds.as_slice() {
                    ["bool"] => SqlType::Boolean,
                    ["int"] => SqlType::Int64,
                    ["float"] | ["float", "int"] => SqlType::Float64,
                    [] => SqlType::Variant,
                    kinds if kinds.contains(&"nested") => SqlType::Variant,
                    _ => SqlType::String,
                };
                (name, ty)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_gives_the_narrowest_types_that_hold_its_values() {
        let mut columns = SampledColumns::default();
        columns.add(r#"{"a":1,"b":true,"c":"x","d":[1],"e":null,"f":1}"#);
        columns.add(r#"{"a":1.5,"b":"no","c":null,"d":2,"f":2}"#);
        let types: Vec<String> = columns.finish().into_iter().map(|(name, ty)| format!("{name} {ty}")).collect();
        assert_eq!(types, ["a DOUBLE", "b VARCHAR", "c VARCHAR", "d VARIANT", "e VARIANT", "f BIGINT"]);
    }
}
