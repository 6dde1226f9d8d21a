//! Row groups of which a statement wants some rows only: pages that cannot hold one are not fetched, and the columns
//! that a filter looks at are decoded before the others are fetched.
//!
//! Comes in: a filter, and one row group after the other. Goes out: the rows of each that may pass. What does not
//! help (an index that rules nothing out, a filter that most rows pass) is not tried for ever. An index that does
//! not fit its row group is left aside, and the row group read without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stevedore_common::{ErrorKind, Result};
use stevedore_decode::parquet::{ParquetFile, PrunedPages, RowFilter, RowGroupTask};

use super::columnar::Ranges;
use super::pieces::Decoder;
use super::resources::CpuPool;

/// Row groups smaller than this are fetched whole: a request for their index costs as much.
const INDEX_PAYS: u64 = 256 * 1024;
/// Indexes that rule nothing out, one after the other, before no other of the file is fetched.
const INDEXES_IN_VAIN: usize = 4;

/// How the row groups of a file are filtered.
pub(super) struct Filtering {
    filter: Arc<dyn RowFilter>,
    file_size: u64,
    /// Whether fewer than half of the rows passed, where it was looked.
    selective: AtomicBool,
    /// Indexes that ruled nothing out since one did.
    in_vain: AtomicUsize,
}

impl Filtering {
    pub(super) fn new(filter: Arc<dyn RowFilter>, file_size: u64) -> Self {
        Self { filter, file_size, selective: AtomicBool::new(true), in_vain: AtomicUsize::new(0) }
    }

    /// Whether anything is left to try.
    pub(super) fn helps(&self) -> bool {
        self.selective.load(Ordering::Relaxed) || self.indexes_help()
    }

    fn indexes_help(&self) -> bool {
        self.in_vain.load(Ordering::Relaxed) < INDEXES_IN_VAIN
    }

    /// The rows of a row group that may pass.
    pub(super) async fn read(
        &self,
        file: &Arc<ParquetFile>,
        task: &RowGroupTask,
        ranges: &Ranges,
        cpu: &CpuPool,
    ) -> Result<Decoder> {
        let group = Group { file, task, ranges, cpu };
        let Some(pages) = self.pages(&group).await? else { return self.rows(&group, None).await };
        if pages.count == 0 {
            return Ok(Box::new(std::iter::empty()));
        }
        match self.rows(&group, Some(Arc::new(pages))).await {
            Err(error) if error.kind() == ErrorKind::BadData => {
                tracing::debug!(%error, "a row group is read without the index of its pages");
                self.in_vain.store(INDEXES_IN_VAIN, Ordering::Relaxed);
                self.rows(&group, None).await
            }
            read => read,
        }
    }

    /// The pages that may hold a row that passes; `None` where no index says so.
    async fn pages(&self, group: &Group<'_>) -> Result<Option<PrunedPages>> {
        let Group { file, task, ranges, cpu } = group;
        if task.input_bytes() < INDEX_PAYS || !self.indexes_help() {
            return Ok(None);
        }
        let indexes = file.index_ranges(task, self.filter.as_ref(), self.file_size);
        let Some(byte_ranges) = indexes else { return Ok(None) };
        let indexes = RowGroupTask { byte_ranges, ..RowGroupTask::clone(task) };
        let fetched = indexes.fetched(ranges.read(&indexes.byte_ranges).await?)?;
        let (file, filter) = (Arc::clone(file), Arc::clone(&self.filter));
        let pages = cpu.run(move || Ok(file.pruned_pages(&indexes, filter.as_ref(), &fetched))).await?;
        match pages.as_ref().is_some_and(|pages| pages.skips(task)) {
            true => self.in_vain.store(0, Ordering::Relaxed),
            false => _ = self.in_vain.fetch_add(1, Ordering::Relaxed),
        }
        Ok(pages)
    }

    async fn rows(&self, group: &Group<'_>, pages: Option<Arc<PrunedPages>>) -> Result<Decoder> {
        let Group { file, task, ranges, cpu } = *group;
        let selective = self.selective.load(Ordering::Relaxed);
        let first =
            selective.then(|| file.first_part(task, self.filter.as_ref(), pages.as_deref())).flatten();
        let Some(first) = first else {
            // The filter sees all columns, or had better be left to the statement.
            let pages = pages.filter(|pages| pages.skips(task));
            let task = match &pages {
                Some(pages) => file.pruned_task(task, pages),
                None => task.clone(),
            };
            let fetched = ranges.read(&task.byte_ranges).await?;
            let file = Arc::clone(file);
            return cpu
                .run(move || {
                    Ok(Box::new(file.decode_parts(vec![(task, fetched)], pages.as_deref(), None)?) as Decoder)
                })
                .await;
        };
        let looked_at = ranges.read(&first.byte_ranges).await?;
        let selected = {
            let (file, filter, pages) = (Arc::clone(file), Arc::clone(&self.filter), pages.clone());
            let (first, looked_at) = (first.clone(), looked_at.clone());
            cpu.run(move || file.select_rows(&first, &looked_at, filter.as_ref(), pages.as_deref())).await?
        };
        if selected.count == 0 {
            return Ok(Box::new(std::iter::empty()));
        }
        let looked_through = pages.as_ref().map_or(task.rows, |pages| pages.count);
        let selected = (selected.count <= looked_through / 2).then_some(selected);
        if selected.is_none() {
            self.selective.store(false, Ordering::Relaxed);
        }
        let rest = file.rest_part(task, self.filter.as_ref(), pages.as_deref(), selected.as_ref());
        let others = ranges.read(&rest.byte_ranges).await?;
        let file = Arc::clone(file);
        let parts = vec![(first, looked_at), (rest, others)];
        cpu.run(move || Ok(Box::new(file.decode_parts(parts, pages.as_deref(), selected)?) as Decoder)).await
    }
}

/// A row group of a file, and what reads it.
#[derive(Clone, Copy)]
struct Group<'a> {
    file: &'a Arc<ParquetFile>,
    task: &'a RowGroupTask,
    ranges: &'a Ranges,
    cpu: &'a CpuPool,
}
