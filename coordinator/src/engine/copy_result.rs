//! What a COPY INTO a table answers: a row for each file that was loaded or failed, read from its job's record.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use stevedore_common::ids::FileIndex;
use stevedore_common::{Error, Result};
use stevedore_state::jobs::{self, ErrorMode, FileStatus, FileStatusKind, Job};

use super::files::MOST_SORTED;
use super::{Engine, Execution};
use crate::planner::plan::JobPlan;
use crate::replica::Replica;
use crate::results::ColumnKind::{Int, Text};
use crate::results::{Columns, Value, batch_of, schema_of};

/// The columns of COPY INTO a table.
pub(super) const COPY_COLUMNS: Columns = &[
    ("File", Text),
    ("Rows_loaded", Int),
    ("Errors_seen", Int),
    ("First_error", Text),
    ("First_error_line", Int),
];

/// Files read from the state at a time.
const PAGE: usize = 1_000;

impl Engine {
    /// A row for each file, by name; of more files than a listing is sorted up to, in the order of the listing, handed
    /// on as they are read.
    pub(super) async fn copy_result(&self, job: &Job) -> Result<Execution> {
        let spec = jobs::job_spec(&*self.replica.local(), job.id)?
            .ok_or_else(|| Error::not_found(format!("job {} is not remembered", job.id)))?;
        let plan = JobPlan::load(&spec.plan, self.stores.warehouse().store()).await?;
        let told = ToldFiles {
            failed_only: matches!(&plan, JobPlan::Copy(plan) if plan.return_failed_only),
            tolerated: spec.on_error.mode == ErrorMode::AbortN,
        };
        let affected = job.rows as i64;
        let mut pages = pages_of_files(self.replica.clone(), job.clone());
        if job.files as usize <= MOST_SORTED {
            let mut rows: Vec<(String, Vec<Value>)> = Vec::new();
            while let Some(page) = pages.try_next().await? {
                rows.extend(page.into_iter().filter_map(|file| told.row(file)));
            }
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            let rows: Vec<Vec<Value>> = rows.into_iter().map(|(_, row)| row).collect();
            return Ok(Execution::rows(COPY_COLUMNS, &rows)?.with_affected(affected));
        }
        let batches = pages.and_then(move |page| {
            let rows: Vec<Vec<Value>> = page.into_iter().filter_map(|file| Some(told.row(file)?.1)).collect();
            std::future::ready(batch_of(COPY_COLUMNS, &rows))
        });
        Ok(Execution {
            schema: schema_of(COPY_COLUMNS),
            batches: batches.boxed(),
            affected: Some(affected),
            session_change: None,
        })
    }
}

/// Which files of a COPY its answer tells, and how.
#[derive(Clone, Copy)]
struct ToldFiles {
    failed_only: bool,
    /// Errors that were tolerated are not told.
    tolerated: bool,
}

impl ToldFiles {
    /// The name of a file and its row, if it has one.
    fn row(self, file: FileStatus) -> Option<(String, Vec<Value>)> {
        let reported = matches!(
            file.status,
            FileStatusKind::Loaded | FileStatusKind::PartiallyLoaded | FileStatusKind::Failed
        );
        if !reported || (self.failed_only && file.errors == 0) {
            return None;
        }
        let errors = if self.tolerated { 0 } else { file.errors };
        let first = (errors > 0 && !file.first_error.is_empty()).then_some(file.first_error);
        let line = (errors > 0 && file.first_error_line > 0).then_some(file.first_error_line);
        let row = vec![file.name.clone().into(), file.rows.into(), errors.into(), first.into(), line.into()];
        Some((file.name, row))
    }
}

/// What became of the files of an ended job, in claiming order.
fn pages_of_files(replica: Replica, job: Job) -> BoxStream<'static, Result<Vec<FileStatus>>> {
    let page = move |(after, seen): (Option<FileIndex>, u32)| {
        let page = jobs::file_statuses(&*replica.local(), &job, after, PAGE).and_then(|page| {
            let left = job.files.saturating_sub(seen);
            match page.last() {
                Some(last) => Ok(Some(((Some(last.file), seen + page.len() as u32), page))),
                None if left > 0 => Err(Error::not_found(format!(
                    "{left} files of job {} are not remembered any more",
                    job.id
                ))),
                None => Ok(None),
            }
        });
        std::future::ready(page.map(|page| page.map(|(next, page)| (page, next))))
    };
    futures::stream::try_unfold((None, 0), page).boxed()
}
