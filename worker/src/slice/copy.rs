//! COPY: files in, rows of the table out.
//!
//! Files are read ahead and decoded on the CPU threads; the transform of several batches runs at a time,
//! their order kept, so that the first error is the first in the file.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::{CopySource, FileReport, StageScan, TableTarget};

use super::errors::{ErrorPolicy, FileState};
use super::{SliceCounters, SliceFailure, SliceRunner, missing};
use crate::query::stage_scan::StageFile;
use crate::read::{FileEvent, FileRead, is_fault_of_file, read_files_for};
use crate::storage_access::storage_spec;
use crate::transform::{LoadedBatch, Transform, TransformRequest};
use crate::write::BatchSink;

/// An event with its rows made ready for the table.
enum Ready {
    Rows(LoadedBatch),
    Other(FileEvent),
}

impl SliceRunner {
    /// Loads the files of a slice into the sink; what became of each comes back, in their order.
    pub(super) async fn copy(
        &self,
        source: &CopySource,
        target: &TableTarget,
        table: &TableSchema,
        settings: &HashMap<String, String>,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<Vec<FileReport>, SliceFailure> {
        let scan = source.scan.as_ref().ok_or_else(|| missing("its files"))?;
        let mut policy = ErrorPolicy::new(source.on_error.as_ref())?;
        let access = scan.storage.as_ref().ok_or_else(|| missing("the store of its files"))?;
        let store = self.stores.get(&storage_spec(access)?)?;
        let transform = Arc::new(self.compile(source, scan, target, table, settings).await?);

        let mut states: Vec<FileState> = scan.files.iter().map(FileState::new).collect();
        let names: Vec<Arc<StageFile>> = scan
            .files
            .iter()
            .map(|task| {
                Arc::new(StageFile { name: task.name.clone(), last_modified_ms: task.last_modified_ms })
            })
            .collect();
        let spec = Arc::new(transform.spec().clone());
        let layout = transform.is_identity().then(|| sink.stored_layout()).flatten();
        let events = read_files_for(scan.files.clone(), store, spec, layout, self.resources.clone());
        let mut ready = events
            .map(|FileRead { index, event }| {
                let (cpu, transform, file) =
                    (self.resources.cpu.clone(), transform.clone(), names.get(index).cloned());
                async move {
                    let ready = match (event, file) {
                        (FileEvent::Batch(decoded), Some(file)) => {
                            cpu.run(move || transform.apply(decoded, &file)).await.map(Ready::Rows)
                        }
                        (event, _) => Ok(Ready::Other(event)),
                    };
                    (index, ready)
                }
            })
            .buffered(self.resources.cpu.threads() + 1);
        while let Some((index, event)) = ready.next().await {
            let file = states
                .get_mut(index)
                .ok_or_else(|| Error::internal("an event of a file that is not read"))?;
            match event? {
                Ready::Rows(loaded) => {
                    SliceCounters::add(&counters.bytes, loaded.input_bytes);
                    SliceCounters::add(&counters.errors, loaded.errors.len() as u64);
                    for error in &loaded.errors {
                        policy.row(file, error)?;
                    }
                    let rows = loaded.batch.num_rows() as u64;
                    file.rows += rows;
                    sink.write(loaded.batch).await?;
                    SliceCounters::add(&counters.rows, rows);
                }
                Ready::Other(FileEvent::Stored(group)) => {
                    let rows = group.rows;
                    SliceCounters::add(&counters.bytes, group.input_bytes);
                    file.rows += rows;
                    sink.write_stored(*group).await?;
                    SliceCounters::add(&counters.rows, rows);
                }
                Ready::Other(FileEvent::Finished(totals)) => {
                    (file.lines, file.records, file.whole) = (totals.lines, totals.rows, true);
                    SliceCounters::add(&counters.files_done, 1);
                }
                Ready::Other(FileEvent::Failed(error)) => {
                    if !is_fault_of_file(&error) {
                        let retried =
                            SliceFailure::from(error.context(format!("file '{}'", names[index].name)));
                        return Err(SliceFailure { permanent: false, ..retried });
                    }
                    SliceCounters::add(&counters.errors, 1);
                    policy.file(file, &error)?;
                    SliceCounters::add(&counters.files_done, 1);
                }
                Ready::Other(FileEvent::Started | FileEvent::Batch(_)) => {}
            }
        }
        Ok(states.iter().map(|file| policy.report(file)).collect())
    }

    async fn compile(
        &self,
        source: &CopySource,
        scan: &StageScan,
        target: &TableTarget,
        table: &TableSchema,
        settings: &HashMap<String, String>,
    ) -> Result<Transform> {
        let format: FileFormat = serde_json::from_str(&scan.file_format)
            .map_err(|e| Error::internal(format!("the file format of a slice is not readable: {e}")))?;
        // Expressions need the types of the columns they read; a plain load only their names.
        let source_columns = match format.kind {
            FormatKind::Csv | FormatKind::Tsv => Vec::new(),
            _ if source.transform.is_empty() => Vec::new(),
            _ => self.stages.infer(scan).await?,
        };
        let request = TransformRequest {
            format: &format,
            case_sensitive: scan.case_sensitive,
            sql: &source.transform,
            relation: &source.relation,
            source_columns: &source_columns,
            table,
            field_ids: &target.field_ids,
            settings,
            disable_variant_check: source.disable_variant_check,
        };
        Transform::compile(&self.engine, request).await
    }
}
