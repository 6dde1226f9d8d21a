//! COPY INTO … VALIDATION_MODE: what a COPY would do, without doing it.
//!
//! Comes in: a bound COPY. Goes out: a worker's answer, relayed. The files are those that the COPY would
//! take now, by the ledger, or for RETURN_ALL_ERRORS all that hold something. Must never claim, record or
//! write anything: no job is made.

use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use stevedore_common::file_identity::FileEntry;
use stevedore_common::schema::Column;
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{CopyInto, ValidationMode};
use stevedore_state::jobs::{ClaimRule, preview_claim};
use stevedore_state::result::ClaimOutcome;

use super::load::BoundCopy;
use super::{Engine, Execution, StatementHandle};
use crate::planner::spec::{self, CopyQuestion, MOST_QUERY_FILES};

fn question_of(mode: ValidationMode) -> CopyQuestion {
    match mode {
        ValidationMode::ReturnErrors | ValidationMode::ReturnAllErrors => CopyQuestion::Errors,
        ValidationMode::ReturnRows(most) => CopyQuestion::Rows(most),
    }
}

impl Engine {
    /// The columns that validating will give.
    pub(super) async fn validation_schema(
        &self,
        handle: &StatementHandle,
        copy: &CopyInto,
    ) -> Result<SchemaRef> {
        let bound = self.bind_copy_plan(handle, copy).await?;
        let mode = copy.validation.unwrap_or(ValidationMode::ReturnErrors);
        // Rows have the columns that the COPY would bring as well.
        let columns = match mode {
            ValidationMode::ReturnRows(_) if bound.plan.evolution.is_some() => {
                self.new_columns(&bound, &self.validated_files(&bound, false).await?).await?
            }
            _ => Vec::new(),
        };
        let check = self.check_of(&bound, &[], &columns, question_of(mode)).await?;
        self.workers.describe(&handle.group()?, &check).await
    }

    pub(super) async fn validate(&self, handle: &StatementHandle, copy: &CopyInto) -> Result<Execution> {
        let bound = self.bind_copy_plan(handle, copy).await?;
        let mode = copy.validation.unwrap_or(ValidationMode::ReturnErrors);
        let files = self.validated_files(&bound, mode == ValidationMode::ReturnAllErrors).await?;
        let columns = self.new_columns(&bound, &files).await?;
        self.relay(handle, &self.check_of(&bound, &files, &columns, question_of(mode)).await?).await
    }

    /// A question about files of a COPY that brings some columns.
    pub(super) async fn check_of(
        &self,
        bound: &BoundCopy,
        files: &[FileEntry],
        columns: &[Column],
        question: CopyQuestion,
    ) -> Result<v1::QuerySpec> {
        let metadata = self.committer.load(&bound.table.metadata_location).await?;
        let source = self.stores.resolve(&*self.replica.local(), &bound.plan.source)?;
        spec::copy_check(&source, &metadata, &bound.table_name, &bound.plan, files, columns, question)
    }

    async fn validated_files(&self, bound: &BoundCopy, all: bool) -> Result<Vec<FileEntry>> {
        let view = self.replica.read().await?;
        let source = self.stores.resolve(&*view, &bound.plan.source)?;
        let rule = ClaimRule { force: all || bound.options.force(), max_files: bound.options.max_files };
        let mut listing = source.list()?;
        let mut files = Vec::new();
        while let Some(file) = listing.next().await {
            let file = file?;
            let taken = u32::try_from(files.len()).unwrap_or(u32::MAX);
            match preview_claim(&*view, &bound.table, &source.identity, &file, rule, taken)? {
                ClaimOutcome::Claimed(_) => {}
                // Whatever else is listed would not be taken either.
                ClaimOutcome::OverMaxFiles => break,
                _ => continue,
            }
            files.push(file);
            if files.len() > MOST_QUERY_FILES {
                return Err(Error::exhausted(format!("more than {MOST_QUERY_FILES} files match"))
                    .hint("narrow the path, add PATTERN or FILES, or set MAX_FILES"));
            }
        }
        Ok(files)
    }
}
