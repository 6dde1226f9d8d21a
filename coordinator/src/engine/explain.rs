//! EXPLAIN COPY INTO: what a COPY would do and what is wrong with it, without doing it.
//!
//! Comes in: the parsed COPY with the problems of its options. Goes out: one table of rows, in sections:
//! every problem that can be found at once; the statement's facts; the files by what would become of
//! them; the columns one by one; the files by name. Files are listed and looked up in the ledger, the
//! first ones are looked into by a worker. Must never claim, record or write anything. What is wrong with
//! the statement is a row, never an error.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use stevedore_common::file_identity::FileEntry;
use stevedore_common::ids::FileIndex;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_sql::ast::{ColumnRef, CopyInto, CopySource, TransformItem};
use stevedore_state::jobs::{ClaimRule, SkipReason, preview_claim};
use stevedore_state::result::ClaimOutcome;

use super::ddl::copy_options_of;
use super::evolution::evolution_plan;
use super::load::{BoundCopy, copy_plan};
use super::settings::group_of;
use super::tables::target_columns;
use super::{Engine, Execution, StatementHandle};
use crate::planner::plan::{CopyPlan, PlacePlan, SourcePlan, TransformPlan};
use crate::planner::planning::{Fleet, can_split, pack_rule};
use crate::planner::slices::{PackFile, pack};
use crate::planner::spec::CopyQuestion;
use crate::results::ColumnKind::{BigInt, Text};
use crate::results::{Columns, Value};

/// The columns of the answer.
pub(super) const COLUMNS: Columns =
    &[("section", Text), ("name", Text), ("status", Text), ("number", BigInt), ("detail", Text)];

/// Files that are listed at most.
const MOST_LISTED: usize = 1_000_000;
/// Files of a status that are shown by name.
const MOST_SHOWN: usize = 100;
/// Files that are looked into.
const LOOKED_INTO: usize = 8;
/// Files that are looked into for columns that the table lacks.
const LOOKED_INTO_FOR_COLUMNS: usize = 10_000;

/// The statuses of files, in the order in which they are shown.
const STATUSES: &[(&str, &str)] = &[
    ("new", "would be loaded"),
    ("already_loaded", "loaded before: left alone"),
    ("changed", "loaded before, with other content: left alone"),
    ("claimed", "another job is loading it: left to that job"),
    ("empty", "holds nothing: left alone"),
    ("over_max_files", "MAX_FILES are taken: left to the next COPY"),
];

/// The rows of the answer.
#[derive(Debug, Default)]
struct Report {
    problems: Vec<Vec<Value>>,
    facts: Vec<Vec<Value>>,
    columns: Vec<Vec<Value>>,
    files: Vec<Vec<Value>>,
}

impl Report {
    fn problem(&mut self, name: &str, error: &Error) {
        let row = vec!["problem".into(), name.into(), "error".into(), Value::Null, error.to_string().into()];
        // Two ways may lead to the same finding.
        if !self.problems.contains(&row) {
            self.problems.push(row);
        }
    }

    fn check<T>(&mut self, name: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problem(name, &error)).ok()
    }

    fn fact(&mut self, name: &str, number: Option<u64>, detail: Option<String>) {
        self.facts.push(vec!["statement".into(), name.into(), Value::Null, number.into(), detail.into()]);
    }

    fn column(&mut self, name: &str, status: &str, place: Option<u64>, detail: String) {
        self.columns.push(vec!["column".into(), name.into(), status.into(), place.into(), detail.into()]);
    }

    fn finish(self) -> Result<Execution> {
        let Self { problems, facts, columns, files } = self;
        let rows: Vec<Vec<Value>> = [problems, facts, columns, files].into_iter().flatten().collect();
        Execution::rows(COLUMNS, &rows)
    }
}

/// A file that is shown: its name, its size, and what there is to say of it.
type ShownFile = (String, u64, Option<String>);

/// What a listing holds, by what would become of it.
#[derive(Debug, Default)]
struct Found {
    counts: BTreeMap<&'static str, (u64, u64)>,
    shown: BTreeMap<&'static str, Vec<ShownFile>>,
    packed: Vec<PackFile>,
    first: Vec<FileEntry>,
}

impl Engine {
    pub(super) async fn explain_copy(
        &self,
        handle: &StatementHandle,
        copy: &CopyInto,
        problems: Vec<Error>,
    ) -> Result<Execution> {
        let mut report = Report::default();
        for error in &problems {
            report.problem("options", error);
        }
        let view = self.replica.read().await?;
        let table = report.check("table", self.require_table(&*view, handle, &copy.table));
        let schema = match &table {
            Some(table) => report.check("table", self.schema_of_table(table).await),
            None => None,
        };
        let (files, pattern) = (copy.files.clone(), copy.pattern.clone());
        let planned = self.stores.plan(&*view, &handle.user, copy.location(), files, pattern);
        let planned = report.check("location", planned);
        let stage = planned.as_ref().and_then(|(_, stage)| stage.as_ref());
        let stage_options = stage.map(|stage| copy_options_of(&stage.copy_options)).transpose();
        let options = copy.options.or(&report.check("stage", stage_options).flatten().unwrap_or_default());
        let format = self.resolve_format(&*view, copy.file_format.as_ref(), stage);
        let format = report.check("file format", format);
        let columns = schema.as_ref().map(|schema| checked_columns(&mut report, schema, copy));

        let (database, _) = self.qualify(handle, &copy.table);
        report.fact("table", None, Some(format!("{database}.{}", copy.table.name)));
        if let Some((source, _)) = &planned {
            report.fact("location", None, Some(place_text(source)));
        }
        // Of a stage that is not there nobody knows it.
        let is_said = planned.is_some() || copy.file_format.is_some();
        if let Some(format) = format.as_ref().filter(|_| is_said) {
            report.fact("file format", None, Some(format.kind.to_string()));
        }
        report.fact("on_error", None, Some(options.on_error().to_string()));

        let (Some(table), Some(schema), Some((source, _)), Some(format), Some(columns)) =
            (table, schema.as_ref(), planned, format, columns)
        else {
            return report.finish();
        };
        let transform = match &copy.source {
            CopySource::Location(_) => None,
            CopySource::Transform(transform) => {
                let (sql, relation) = (transform.sql.clone(), transform.relation.clone());
                Some(TransformPlan { sql, relation })
            }
        };
        let evolution = report.check("options", evolution_plan(&table, copy, &format, &options)).flatten();
        let plan = CopyPlan { evolution, ..copy_plan(handle, source, format, transform, &columns, &options) };
        let bound = BoundCopy { table_name: format!("{database}.{}", table.name), table, options, plan };
        let found = self.listed(&bound).await;
        let Some(found) = report.check("files", found) else { return report.finish() };
        let Some(group) = report.check("workers", handle.group()) else { return report.finish() };
        self.files_section(&mut report, &found, &group).await;
        self.columns_section(&mut report, &bound, copy, schema, &columns, &found.first).await;
        report.finish()
    }

    async fn listed(&self, bound: &BoundCopy) -> Result<Found> {
        let view = self.replica.read().await?;
        let source = self.stores.resolve(&*view, &bound.plan.source)?;
        let rule = ClaimRule { force: bound.options.force(), max_files: bound.options.max_files };
        let (mut found, mut taken, mut listed) = (Found::default(), 0u32, 0usize);
        let looked_into = if bound.plan.evolution.is_some() { LOOKED_INTO_FOR_COLUMNS } else { LOOKED_INTO };
        let mut listing = source.list()?;
        while let Some(file) = listing.next().await {
            let file = file?;
            listed += 1;
            if listed > MOST_LISTED {
                return Err(Error::exhausted(format!("more than {MOST_LISTED} files match"))
                    .hint("EXPLAIN looks at no more; narrow the path, or add PATTERN or FILES"));
            }
            let outcome = preview_claim(&*view, &bound.table, &source.identity, &file, rule, taken)?;
            let (status, detail) = match outcome {
                ClaimOutcome::Claimed(_) => ("new", None),
                ClaimOutcome::AlreadyLoaded => (SkipReason::AlreadyLoaded.as_str(), None),
                ClaimOutcome::Changed => (SkipReason::Changed.as_str(), None),
                ClaimOutcome::ClaimedBy(job) => (SkipReason::Claimed.as_str(), Some(format!("by job {job}"))),
                ClaimOutcome::Empty => (SkipReason::Empty.as_str(), None),
                ClaimOutcome::OverMaxFiles => (SkipReason::OverMaxFiles.as_str(), None),
            };
            let (count, bytes) = found.counts.entry(status).or_default();
            (*count, *bytes) = (*count + 1, bytes.saturating_add(file.version.size));
            let shown = found.shown.entry(status).or_default();
            if shown.len() < MOST_SHOWN {
                shown.push((source.name_of(&file.path).to_owned(), file.version.size, detail));
            }
            if let ClaimOutcome::Claimed(_) = outcome {
                let splittable = can_split(&bound.plan.format, bound.plan.on_error.mode, &file);
                found.packed.push(PackFile { file: FileIndex(taken), size: file.version.size, splittable });
                taken += 1;
            }
            // Where nothing is new, what was loaded before still says what the columns are.
            let is_new = matches!(outcome, ClaimOutcome::Claimed(_));
            let was_loaded = matches!(outcome, ClaimOutcome::AlreadyLoaded | ClaimOutcome::Changed);
            if found.first.len() < looked_into && (is_new || (taken == 0 && was_loaded)) {
                found.first.push(file);
            }
        }
        Ok(found)
    }

    async fn files_section(&self, report: &mut Report, found: &Found, group: &WorkerGroup) {
        let (files, bytes) = found.counts.get("new").copied().unwrap_or_default();
        report.fact("files", Some(files), Some("to load".to_owned()));
        report.fact("bytes", Some(bytes), Some("to read".to_owned()));
        let (workers, slots) = match self.workers.size(group).await {
            Ok(size) => size,
            Err(error) => {
                report.problem("workers", &error);
                (0, 0)
            }
        };
        let fleet = Fleet { workers: u32::try_from(workers).unwrap_or(u32::MAX), slots };
        let slices = pack(&found.packed, pack_rule(&self.scheduling, fleet)).len();
        report.fact("slices", Some(slices as u64), Some("units of work that a worker takes".to_owned()));
        let of_group = if group.is_default() { String::new() } else { format!(", warehouse {group}") };
        report.fact("workers", Some(workers as u64), Some(format!("{slots} slices at a time{of_group}")));
        for (status, meaning) in STATUSES {
            let Some((count, _)) = found.counts.get(status) else { continue };
            report.files.push(vec![
                "files".into(),
                Value::Null,
                (*status).into(),
                (*count).into(),
                (*meaning).into(),
            ]);
        }
        for (status, _) in STATUSES {
            for (name, size, detail) in found.shown.get(status).into_iter().flatten() {
                report.files.push(vec![
                    "file".into(),
                    name.clone().into(),
                    (*status).into(),
                    (*size).into(),
                    detail.clone().into(),
                ]);
            }
        }
    }

    async fn columns_section(
        &self,
        report: &mut Report,
        bound: &BoundCopy,
        copy: &CopyInto,
        schema: &TableSchema,
        targets: &[&Column],
        files: &[FileEntry],
    ) {
        if let CopySource::Transform(transform) = &copy.source {
            for (place, column) in (1..).zip(&schema.columns) {
                let item = targets.iter().position(|target| target.id == column.id);
                let item = item.and_then(|item| transform.items.as_ref().and_then(|items| items.get(item)));
                let (status, from) = match item {
                    Some(item) => ("transform", expression(item)),
                    None if transform.items.is_none() => ("transform", "*".to_owned()),
                    None => ("default", default_of(column)),
                };
                report.column(&column.name, status, Some(place), format!("{} <- {from}", column.ty));
            }
        }
        if files.is_empty() {
            return;
        }
        // A transform is compiled and tried on a row: its types depend on the files.
        let question = match &copy.source {
            CopySource::Transform(_) => CopyQuestion::Rows(Some(1)),
            CopySource::Location(_) => CopyQuestion::Columns,
        };
        let new = report.check("columns", self.new_columns(bound, files).await).unwrap_or_default();
        let files = files.get(..LOOKED_INTO).unwrap_or(files);
        let asked = async {
            let spec = self.check_of(bound, files, &new, question).await?;
            let (_, batches) = self.workers.run(&group_of(&bound.plan.settings)?, &spec).await?;
            batches.try_collect::<Vec<RecordBatch>>().await
        };
        let Some(batches) = report.check("columns", asked.await) else { return };
        if question != CopyQuestion::Columns {
            return;
        }
        let mut place = 0;
        for batch in &batches {
            let text = |column: usize, row: usize| -> Option<String> {
                let texts = batch.columns().get(column)?.as_string_opt::<i32>()?;
                texts.is_valid(row).then(|| texts.value(row).to_owned())
            };
            for row in 0..batch.num_rows() {
                let [column, ty, source, source_type, status, problem] =
                    std::array::from_fn(|n| text(n, row));
                let status = status.unwrap_or_default();
                if let Some(problem) = problem {
                    let name = column.as_deref().or(source.as_deref()).unwrap_or_default();
                    report.problem("columns", &Error::invalid(format!("column '{name}': {problem}")));
                }
                let from = [source.clone(), source_type].into_iter().flatten().collect::<Vec<_>>().join(" ");
                match (column, ty) {
                    (Some(column), Some(ty)) if new.iter().any(|new| new.name == column) => {
                        place += 1;
                        report.column(&column, "added", Some(place), format!("{ty}: not in the table yet"));
                    }
                    (Some(column), Some(ty)) => {
                        place += 1;
                        let detail = if from.is_empty() { ty } else { format!("{ty} <- {from}") };
                        report.column(&column, &status, Some(place), detail);
                    }
                    _ => report.column(
                        &source.unwrap_or_default(),
                        &status,
                        None,
                        format!("{from}: not in the table"),
                    ),
                }
            }
        }
    }
}

/// The target's columns; each that does not exist is a problem.
fn checked_columns<'a>(report: &mut Report, schema: &'a TableSchema, copy: &CopyInto) -> Vec<&'a Column> {
    let columns = match &copy.columns {
        None => schema.columns.iter().collect(),
        Some(names) => {
            let mut columns: Vec<&Column> = Vec::new();
            for name in names {
                let found = target_columns(schema, Some(std::slice::from_ref(name)), &copy.table);
                for column in report.check("columns", found).into_iter().flatten() {
                    if columns.iter().any(|other| other.id == column.id) {
                        report.problem("columns", &Error::invalid(format!("column '{name}' is named twice")));
                    } else {
                        columns.push(column);
                    }
                }
            }
            columns
        }
    };
    for column in schema.columns.iter().filter(|column| !column.nullable && column.default.is_none()) {
        if !columns.iter().any(|target| target.id == column.id) {
            let error = Error::invalid(format!(
                "column '{}' is NOT NULL without a DEFAULT, and nothing is loaded into it",
                column.name
            ));
            report.problem("columns", &error);
        }
    }
    if let CopySource::Transform(transform) = &copy.source {
        if transform.parameters > 0 {
            report
                .problem("transform", &Error::not_supported_yet("parameters in the transform of COPY INTO"));
        }
        // The parser has compared it with the columns that are named.
        if let Some(count) = transform.expression_count().filter(|count| *count != columns.len())
            && copy.columns.is_none()
        {
            let error = Error::invalid(format!(
                "the transform has {count} expressions, the target has {} columns",
                columns.len()
            ));
            report.problem("transform", &error);
        }
    }
    columns
}

/// An expression of a transform for people to read: never as it is rendered for workers.
fn expression(item: &TransformItem) -> String {
    let cast = item.cast.as_ref().map(|ty| format!("::{ty}")).unwrap_or_default();
    match (&item.source, &item.alias) {
        (Some(ColumnRef::Name(name)), _) => format!("{name}{cast}"),
        (Some(ColumnRef::Position(place)), _) => format!("${place}{cast}"),
        (None, Some(alias)) => format!("expression {alias}"),
        (None, None) => "expression".to_owned(),
    }
}

fn default_of(column: &Column) -> String {
    column.default.clone().unwrap_or_else(|| "NULL".to_owned())
}

fn place_text(source: &SourcePlan) -> String {
    let place = match &source.place {
        PlacePlan::Internal(_) => "internal stage: ".to_owned(),
        PlacePlan::User(user) => format!("stage of user {user}: "),
        PlacePlan::Connection { url, .. } | PlacePlan::Inline { url, .. } => url.clone(),
    };
    let mut text = format!("{place}{}", source.path);
    if let Some(files) = &source.files {
        text.push_str(&format!(", {} FILES", files.len()));
    }
    if let Some(pattern) = &source.pattern {
        text.push_str(&format!(", PATTERN '{pattern}'"));
    }
    text
}
