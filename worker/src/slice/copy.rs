//! COPY: files in, rows of the table out.
//!
//! Files are read ahead and decoded on the CPU threads; the transform of several batches runs at a time,
//! their order kept, so that the first error is the first in the file. A transform that goes by the types of the
//! columns is compiled anew for files that have others. Where a bad row costs its whole
//! file, [`whole_files`] has the rows until the file is known to be good.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{BoxStream, Fuse};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::schema::TableSchema;
use stevedore_common::storage::Store;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_decode::spec::{ExpectedColumns, RowError};
use stevedore_proto::v1::{CopySource, FileReport, FileTask, StageScan, TableTarget};

use super::errors::{ErrorPolicy, FileState, SkipRule};
use super::{SliceCounters, SliceFailure, SliceRunner, missing, whole_files};
use crate::query::session::QueryEngine;
use crate::query::stage_scan::StageFile;
use crate::read::{
    Consumer, FileEvent, FileRead, WorkerResources, file_columns, is_fault_of_file, read_files_for,
};
use crate::storage_access::storage_spec;
use crate::transform::{LoadedBatch, Transform, TransformRequest};
use crate::write::BatchSink;

/// Rows that are made ready in one go, about.
const ROWS_TOGETHER: usize = 4096;
const BYTES_TOGETHER: usize = 4 << 20;
/// Files whose columns do not go with a SELECT, after which the SELECT is to blame.
const MOST_TRIED: usize = 16;

/// An event with its rows made ready for the table.
pub(super) enum Ready {
    Rows(LoadedBatch),
    Other(FileEvent),
}

/// The files of a slice on their way to rows of its table. Cheap to clone.
#[derive(Clone)]
pub(super) struct Input {
    files: Arc<[FileTask]>,
    names: Arc<[Arc<StageFile>]>,
    store: Store,
    transform: Arc<Transform>,
    /// Makes the transforms of files whose columns `transform` was not made for.
    transforms: Option<Arc<Transforms>>,
    pub(super) resources: WorkerResources,
}

/// Columns of a file.
type Columns = Vec<(String, SqlType)>;

/// What a transform is compiled from but for the columns of the file, and those that were compiled.
struct Transforms {
    engine: Arc<QueryEngine>,
    source: CopySource,
    format: FileFormat,
    case_sensitive: bool,
    table: TableSchema,
    field_ids: Vec<i32>,
    settings: HashMap<String, String>,
    batch_rows: Option<usize>,
    compiled: Mutex<HashMap<Columns, Arc<Transform>>>,
}

impl Transforms {
    /// The transform of files with these columns.
    async fn of(&self, columns: &Columns) -> Result<Arc<Transform>> {
        if let Some(transform) = self.compiled.lock().get(columns) {
            return Ok(Arc::clone(transform));
        }
        let request = TransformRequest {
            format: &self.format,
            case_sensitive: self.case_sensitive,
            sql: &self.source.transform,
            relation: &self.source.relation,
            source_columns: columns,
            table: &self.table,
            field_ids: &self.field_ids,
            settings: &self.settings,
            disable_variant_check: self.source.disable_variant_check,
            evolves: self.source.evolves,
        };
        let mut transform = Transform::compile(&self.engine, request).await?;
        if let Some(rows) = self.batch_rows {
            transform = transform.with_batch_rows(rows);
        }
        let transform = Arc::new(transform);
        self.compiled.lock().insert(columns.clone(), Arc::clone(&transform));
        Ok(transform)
    }

    /// The transform of a file that failed, where its columns are others than those it was read for.
    async fn of_failed(&self, task: &FileTask, input: &Input) -> Result<Option<Arc<Transform>>> {
        let columns = columns_in_sql(task, &input.store, &self.format, &input.resources).await?;
        if input.transform.spec().expected.as_deref() == Some(&ExpectedColumns::Same(columns.clone())) {
            return Ok(None);
        }
        // The statement is good for other files.
        self.of(&columns).await.map(Some).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Error::bad_data(format!(
                "its columns do not go with the SELECT: {}",
                error.message_with_context()
            )),
            _ => error,
        })
    }
}

impl Input {
    /// What users call a file.
    pub(super) fn name(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |file| file.name.as_str())
    }

    /// Whether rows are found by the line they begin at.
    pub(super) fn has_lines(&self) -> bool {
        self.transform.spec().format.kind.is_text()
    }

    /// Reads all files, in order.
    pub(super) fn read_all(&self, consumer: Consumer) -> BoxStream<'static, (usize, Result<Ready>)> {
        self.read(0..self.files.len(), consumer)
    }

    /// Reads some of the files, in order, each by the columns that it has. Places are those among all files.
    pub(super) fn read(
        &self,
        files: Range<usize>,
        consumer: Consumer,
    ) -> BoxStream<'static, (usize, Result<Ready>)> {
        let ready = self.read_as(&self.transform, files, consumer);
        if self.transforms.is_none() || self.transform.spec().expected.is_none() {
            return ready;
        }
        let input = self.clone();
        ready
            .flat_map(move |(index, event)| match event {
                // Nothing was read of a file with other columns.
                Ok(Ready::Other(FileEvent::Failed(error))) if error.kind() == ErrorKind::BadData => {
                    input.read_by_its_columns(index, error)
                }
                event => futures::stream::iter([(index, event)]).boxed(),
            })
            .boxed()
    }

    /// Reads a file that failed by the transform for its own columns, if that is another one.
    fn read_by_its_columns(&self, index: usize, failed: Error) -> BoxStream<'static, (usize, Result<Ready>)> {
        let input = self.clone();
        let ready = async move {
            let transform = match (&input.transforms, input.files.get(index)) {
                (Some(transforms), Some(task)) => transforms.of_failed(task, &input).await,
                _ => Ok(None),
            };
            let failed = match transform {
                Ok(Some(transform)) => {
                    return input.read_as(&transform, index..index + 1, Consumer::default());
                }
                Ok(None) => failed,
                Err(error) => error,
            };
            futures::stream::iter([(index, Ok(Ready::Other(FileEvent::Failed(failed))))]).boxed()
        };
        futures::stream::once(ready).flatten().boxed()
    }

    fn read_as(
        &self,
        transform: &Arc<Transform>,
        files: Range<usize>,
        consumer: Consumer,
    ) -> BoxStream<'static, (usize, Result<Ready>)> {
        let first = files.start;
        let tasks = self.files.get(files).unwrap_or_default().to_vec();
        let spec = Arc::new(transform.spec().clone());
        let (cpu, transform, names) = (self.resources.cpu.clone(), Arc::clone(transform), self.names.clone());
        let by_element = spec.format.kind == FormatKind::Json;
        let at_a_time = cpu.threads() + 1;
        let consumer = Consumer { filter: transform.row_filter().cloned(), ..consumer };
        let make_ready = move |FileRead { index, event }: FileRead| {
            let index = first + index;
            let ready = match (event, names.get(index)) {
                (FileEvent::Batch(decoded), Some(file)) => {
                    transform.apply(decoded, file).map(|mut loaded| {
                        if by_element {
                            loaded.errors.iter_mut().for_each(RowError::name_element);
                        }
                        Ready::Rows(loaded)
                    })
                }
                (event, _) => Ok(Ready::Other(event)),
            };
            (index, ready)
        };
        // What has ended is asked once more, where the last events come together.
        let reads = read_files_for(tasks, self.store.clone(), spec, self.resources.clone(), consumer).fuse();
        futures::stream::unfold(
            reads,
            |mut reads| async move { Some((ready_together(&mut reads).await?, reads)) },
        )
        .map(move |reads| {
            let (cpu, make_ready) = (cpu.clone(), make_ready.clone());
            let first = reads.first().map_or(0, |read| first + read.index);
            let ready = move || reads.into_iter().map(make_ready).collect::<Vec<_>>();
            async move { cpu.run(|| Ok(ready())).await.unwrap_or_else(|e| vec![(first, Err(e))]) }
        })
        .buffered(at_a_time)
        .flat_map(futures::stream::iter)
        .boxed()
    }
}

/// The next event, and those after it that have come already, up to so many rows as are worth a hop to
/// another thread, or so much memory: small files give few.
async fn ready_together(reads: &mut Fuse<BoxStream<'static, FileRead>>) -> Option<Vec<FileRead>> {
    let size_of = |read: &FileRead| match &read.event {
        FileEvent::Batch(decoded) => (decoded.batch.num_rows(), decoded.memory_bytes()),
        _ => (0, 0),
    };
    let first = reads.next().await?;
    let ((mut rows, mut bytes), mut together) = (size_of(&first), vec![first]);
    while rows < ROWS_TOGETHER
        && bytes < BYTES_TOGETHER
        && let Some(Some(read)) = reads.next().now_or_never()
    {
        let (more_rows, more_bytes) = size_of(&read);
        (rows, bytes) = (rows + more_rows, bytes + more_bytes);
        together.push(read);
    }
    Some(together)
}

/// An attempt ends without a verdict on a file; another one may come to one, unless it is the statement or its
/// credentials that are wrong.
pub(super) fn try_again(file: &FileState, error: Error) -> SliceFailure {
    let hopeless = matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied);
    let permanent = hopeless && !error.is_retryable();
    let place = match file.part() {
        0 => format!("file '{}'", file.name()),
        part => format!("file '{}', in its part {part}, whose lines are counted from 1", file.name()),
    };
    let failure = SliceFailure::from(error.context(place));
    SliceFailure { permanent, ..failure }
}

/// The state of the file that an event is about.
pub(super) fn state_of(states: &mut [FileState], index: usize) -> Result<&mut FileState> {
    states.get_mut(index).ok_or_else(|| Error::internal("an event of a file that is not read"))
}

/// What there is to load the files of a slice with.
pub(super) enum Prepared {
    /// All that it takes.
    Input(Box<Input>),
    /// No file says what its columns are; why, for each that has bytes.
    Unreadable(Vec<(usize, Error)>),
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
        let mut policy = ErrorPolicy::new(source.on_error.as_ref());
        let mut states: Vec<FileState> = scan.files.iter().map(FileState::new).collect();
        let input = match self.prepare(source, target, table, settings, None).await? {
            Prepared::Input(input) => *input,
            Prepared::Unreadable(errors) => {
                states.iter_mut().for_each(|file| file.whole = true);
                for (index, error) in errors {
                    let file = state_of(&mut states, index)?;
                    file.whole = false;
                    SliceCounters::add(&counters.errors, 1);
                    policy.file(file, &error)?;
                }
                SliceCounters::add(&counters.files_done, states.len() as u64);
                return Ok(states.iter().map(FileState::report).collect());
            }
        };
        match SkipRule::of(source.on_error.as_ref()) {
            Some(rule) => whole_files::load(&input, rule, &mut states, sink, counters).await?,
            None => load_rows(&input, &mut policy, &mut states, sink, counters).await?,
        }
        Ok(states.iter().map(FileState::report).collect())
    }

    /// The store and format of some files.
    pub(super) fn source_of(&self, scan: &StageScan) -> Result<(Store, FileFormat)> {
        let access = scan.storage.as_ref().ok_or_else(|| missing("the store of its files"))?;
        let store = self.stores.get(&storage_spec(access)?)?;
        let format = serde_json::from_str(&scan.file_format)
            .map_err(|e| Error::internal(format!("the file format of a slice is not readable: {e}")))?;
        Ok((store, format))
    }

    /// Compiles what turns the files of a COPY into rows of its table, in batches of `batch_rows` at most.
    pub(super) async fn prepare(
        &self,
        source: &CopySource,
        target: &TableTarget,
        table: &TableSchema,
        settings: &HashMap<String, String>,
        batch_rows: Option<usize>,
    ) -> Result<Prepared, SliceFailure> {
        let scan = source.scan.as_ref().ok_or_else(|| missing("its files"))?;
        let (store, format) = self.source_of(scan)?;
        let transforms = Transforms {
            engine: self.engine.clone(),
            source: CopySource { scan: None, ..source.clone() },
            format,
            case_sensitive: scan.case_sensitive,
            table: table.clone(),
            field_ids: target.field_ids.clone(),
            settings: settings.clone(),
            batch_rows,
            compiled: Mutex::default(),
        };
        let transform = match self.first_transform(&transforms, scan, &store).await? {
            Ok(transform) => transform,
            Err(unreadable) => return Ok(Prepared::Unreadable(unreadable)),
        };
        let input = self.input(scan, store, transform);
        Ok(Prepared::Input(Box::new(Input { transforms: Some(Arc::new(transforms)), ..input })))
    }

    pub(super) fn input(&self, scan: &StageScan, store: Store, transform: Arc<Transform>) -> Input {
        let name = |task: &FileTask| {
            Arc::new(StageFile { name: task.name.clone(), last_modified_ms: task.last_modified_ms })
        };
        Input {
            names: scan.files.iter().map(name).collect(),
            files: scan.files.clone().into(),
            store,
            transform,
            transforms: None,
            resources: self.resources.clone(),
        }
    }

    /// Expressions need the types of the columns they read, and only some formats say them; a plain load needs only
    /// names. The first files that can be read say them, for all that have the same. Where no file can be read, why,
    /// for each that has bytes.
    async fn first_transform(
        &self,
        transforms: &Transforms,
        scan: &StageScan,
        store: &Store,
    ) -> Result<Result<Arc<Transform>, Vec<(usize, Error)>>, SliceFailure> {
        if transforms.source.transform.is_empty() || !transforms.format.kind.says_columns() {
            return Ok(Ok(transforms.of(&Vec::new()).await?));
        }
        let mut unreadable = Vec::new();
        let mut refused = None;
        let mut tried = 0;
        for (index, task) in scan.files.iter().enumerate().filter(|(_, task)| task.size > 0) {
            let columns = match columns_in_sql(task, store, &transforms.format, &self.resources).await {
                Ok(columns) => columns,
                Err(error) if is_fault_of_file(&error) => {
                    unreadable.push((index, error));
                    continue;
                }
                Err(error) => return Err(error.context(format!("file '{}'", task.name)).into()),
            };
            match transforms.of(&columns).await {
                Ok(transform) => return Ok(Ok(transform)),
                // It may be the file whose columns do not go with the SELECT.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
            tried += 1;
            if tried == MOST_TRIED {
                break;
            }
        }
        match refused {
            Some(error) => Err(error.into()),
            None => Ok(Err(unreadable)),
        }
    }
}

async fn columns_in_sql(
    task: &FileTask,
    store: &Store,
    format: &FileFormat,
    resources: &WorkerResources,
) -> Result<Columns> {
    let columns = file_columns(task, store, format, resources).await?;
    Ok(columns.into_iter().map(|(name, ty, _)| (name, ty)).collect())
}

/// Loads files row by row: what is good goes to the writer at once.
async fn load_rows(
    input: &Input,
    policy: &mut ErrorPolicy,
    states: &mut [FileState],
    sink: &mut dyn BatchSink,
    counters: &SliceCounters,
) -> Result<(), SliceFailure> {
    let stored = sink.stored_layout().and_then(|layout| Transform::stored_target(&input.transform, layout));
    let mut ready = input.read(0..states.len(), Consumer { stored, ..Consumer::default() });
    while let Some((index, event)) = ready.next().await {
        let file = state_of(states, index)?;
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
            Ready::Other(FileEvent::Stored(group, _held)) => {
                let rows = group.rows;
                SliceCounters::add(&counters.bytes, group.input_bytes);
                file.rows += rows;
                sink.write_stored(*group).await?;
                SliceCounters::add(&counters.rows, rows);
            }
            Ready::Other(FileEvent::Finished(totals)) => {
                file.finished(totals);
                SliceCounters::add(&counters.files_done, 1);
            }
            Ready::Other(FileEvent::Failed(error)) => {
                if !is_fault_of_file(&error) {
                    return Err(try_again(file, error));
                }
                SliceCounters::add(&counters.errors, 1);
                policy.file(file, &error)?;
                SliceCounters::add(&counters.files_done, 1);
            }
            Ready::Other(FileEvent::Started | FileEvent::Batch(_)) => {}
        }
    }
    Ok(())
}
