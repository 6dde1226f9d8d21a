//! Schema evolution as statements see it: whether a COPY brings columns, and which, before it runs.

use futures::{StreamExt, stream};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::file_identity::FileEntry;
use stevedore_common::schema::{Column, TableSchema, new_iceberg_field};
use stevedore_common::{Error, Result};
use stevedore_sql::ast::{CopyInto, CopyOptions, CopySource};
use stevedore_state::catalog::Table;
use stevedore_state::streams;

use super::Engine;
use super::load::BoundCopy;
use super::settings::group_of;
use super::tables::takes_new_columns;
use crate::planner::evolution::columns_of_files;
use crate::planner::plan::EvolutionPlan;

/// How the columns are found that a COPY brings; `None`: it takes the table as it is.
///
/// # Errors
/// Invalid input for SCHEMA_EVOLUTION in a statement that brings none, or finds them otherwise.
pub(super) fn evolution_plan(
    table: &Table,
    copy: &CopyInto,
    format: &FileFormat,
    options: &CopyOptions,
) -> Result<Option<EvolutionPlan>> {
    let by_place = matches!(format.kind, FormatKind::Csv | FormatKind::Tsv);
    let obstacle = if matches!(copy.source, CopySource::Transform(_)) {
        Some(("a transform says itself which columns it loads".to_owned(), "load the files without a SELECT"))
    } else if copy.columns.is_some() {
        Some((
            "the statement names the columns that it loads".to_owned(),
            "leave the list of columns out to load all of them",
        ))
    } else if by_place {
        Some((
            format!("the columns of {} files have no names", format.kind),
            "add columns with ALTER TABLE … ADD COLUMN",
        ))
    } else if !takes_new_columns(table) {
        Some((
            format!("table '{}' takes no new columns", table.name),
            "ALTER TABLE … SET OPTIONS (ENABLE_SCHEMA_EVOLUTION = true) lets it",
        ))
    } else {
        None
    };
    let is_said = copy.options.schema_evolution.is_some();
    if let Some((obstacle, hint)) = obstacle {
        return match is_said {
            true => Err(Error::invalid(format!("the option SCHEMA_EVOLUTION does not go here: {obstacle}"))
                .hint(hint)),
            false => Ok(None),
        };
    }
    if is_said && !format.kind.is_json() {
        return Err(Error::invalid(format!(
            "the option SCHEMA_EVOLUTION says how much of NDJSON and JSON files is looked at; all {} files are",
            format.kind
        ))
        .hint("leave the option out"));
    }
    let sample = options.schema_evolution();
    Ok(Some(EvolutionPlan {
        sample_files: sample.files(),
        sample_records_per_file: sample.records_per_file(),
        sample_total_records: sample.total_records(),
    }))
}

impl Engine {
    /// The columns that a COPY of these files would add to its table, with ids that nothing else of it has.
    pub(super) async fn new_columns(&self, bound: &BoundCopy, files: &[FileEntry]) -> Result<Vec<Column>> {
        let Some(evolution) = &bound.plan.evolution else { return Ok(Vec::new()) };
        let source = self.stores.resolve(&*self.replica.local(), &bound.plan.source)?;
        let (files, group) = (stream::iter(files.to_vec()).map(Ok), group_of(&bound.plan.settings)?);
        let found = columns_of_files(&self.workers, &group, &source, &bound.plan, evolution, files).await?;
        let metadata = self.committer.load(&bound.table.metadata_location).await?;
        let mut columns = found.new_to(&TableSchema::from_metadata(&metadata)?)?;
        for column in &columns {
            if let Some(error) = streams::hides_column(&*self.replica.local(), bound.table.id, &column.name)?
            {
                return Err(error);
            }
        }
        let mut last_id = metadata.last_column_id().max(bound.table.last_field_id);
        for column in &mut columns {
            last_id += 1;
            column.id = last_id;
            new_iceberg_field(column, column.id, &mut last_id);
        }
        Ok(columns)
    }
}
