//! DELETE, UPDATE and MERGE INTO.
//!
//! Comes in: the pieces of the statement's query. Goes out: a job whose query has a row for each change: which
//! row of the target, what happens to it, and the row that takes its place. Workers run it over their share of
//! the target's files, and write the files that hold such rows again without them. A commit that finds one of
//! these files changed fails the job, and the statement is run again on the rows as they are by then.

use std::collections::BTreeMap;

use iceberg::spec::TableMetadataRef;
use stevedore_common::ids::{JobId, derived_id};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1::QuerySpec;
use stevedore_sql::ast::{Assignment, Change, MergeAction, MergeClause, Mutation, ObjectRef};
use stevedore_state::catalog::Table;
use stevedore_state::jobs::{self, Job, JobKind, JobSpec};
use stevedore_state::streams;
use uuid::Uuid;

use super::load::{query_job, query_plan};
use super::query::check_parameters;
use super::streams::consumed;
use super::tables::target_columns;
use super::{Description, Engine, Execution, StatementHandle, StatementKind};
use crate::planner::plan::{JobPlan, MutationPlan, QueryPlan, RelationPlan, RelationTarget};
use crate::planner::spec::number_target;
use crate::results::ColumnKind::UnsignedBigInt;
use crate::results::{Columns, Value};

/// How often a statement is run when others change the same rows.
const MOST_RUNS: u32 = 5;

macro_rules! counts {
    ($($what:literal),+) => {
        &[$((concat!("number of rows ", $what), UnsignedBigInt)),+]
    };
}

/// The columns of the answer: what the statement can do.
pub(super) fn columns_of(mutation: &Mutation) -> Columns {
    let clauses = match &mutation.change {
        Change::Delete { .. } => return counts!("deleted"),
        Change::Update { .. } => return counts!("updated"),
        Change::Merge { clauses, .. } => clauses,
    };
    let has = |kind: fn(&MergeAction) -> bool| clauses.iter().any(|clause| kind(&clause.action));
    let inserts = has(MergeAction::inserts);
    let updates = has(|action| matches!(action, MergeAction::Update(_) | MergeAction::UpdateAll));
    let deletes = has(|action| matches!(action, MergeAction::Delete));
    match (inserts, updates, deletes) {
        (true, true, true) => counts!("inserted", "updated", "deleted"),
        (true, true, false) => counts!("inserted", "updated"),
        (true, false, true) => counts!("inserted", "deleted"),
        (true, false, false) => counts!("inserted"),
        (false, true, true) => counts!("updated", "deleted"),
        (false, true, false) => counts!("updated"),
        (false, false, _) => counts!("deleted"),
    }
}

/// The job of a run of the statement; the first has the handle's id, as clients know it.
fn job_of_run(handle: Uuid, run: u32) -> JobId {
    JobId(if run == 0 { handle } else { derived_id(handle, &run.to_be_bytes()) })
}

fn kind_of(change: &Change) -> JobKind {
    match change {
        Change::Delete { .. } => JobKind::Delete,
        Change::Update { .. } => JobKind::Update,
        Change::Merge { .. } => JobKind::Merge,
    }
}

/// A name as workers match it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.to_lowercase().replace('"', "\"\""))
}

/// A value of a column; `None` is its default.
fn given<'a>(column: &'a Column, value: Option<&'a str>) -> &'a str {
    value.or(column.default.as_deref()).unwrap_or("NULL")
}

/// The same in the column's type, as values of several clauses need it to be one column.
fn value_of(column: &Column, value: Option<&str>) -> String {
    format!("__cast({}, '{}')", given(column, value), column.ty.to_string().replace('\'', "''"))
}

/// A column that a MERGE expects in its source, where the source lacks it. That of the target does not do.
fn not_in_source(error: Error, change: &Change, schema: &TableSchema) -> Error {
    let Change::Merge { clauses, .. } = change else { return error };
    let missing = match (error.kind(), error.subject()) {
        (ErrorKind::NotFound, Some(name)) => name.to_lowercase(),
        _ => return error,
    };
    // The target has it: it can only be the source that was asked.
    if !schema.columns.iter().any(|column| column.name.to_lowercase() == missing) {
        return error;
    }
    let has = |kind: fn(&MergeAction) -> bool| clauses.iter().any(|clause| kind(&clause.action));
    let hint = if has(|action| matches!(action, MergeAction::UpdateAll | MergeAction::InsertAll)) {
        "UPDATE * and INSERT * take every column of the target from the source's column of the same name; \
         name the columns that it has: INSERT (a, b) VALUES (s.a, s.b)"
    } else if has(MergeAction::inserts) {
        "WHEN NOT MATCHED sees the source alone: there is no row of the target"
    } else {
        return error;
    };
    Error::new(ErrorKind::NotFound, format!("the source has no column '{missing}'"))
        .about(&missing)
        .hint(hint)
}

/// The values that assignments give, by column.
fn assigned<'a>(
    schema: &'a TableSchema,
    set: &'a [Assignment],
    table: &ObjectRef,
) -> Result<Vec<(&'a Column, Option<&'a str>)>> {
    let names: Vec<String> = set.iter().map(|assignment| assignment.column.clone()).collect();
    let columns = target_columns(schema, Some(&names), table)?;
    Ok(columns.into_iter().zip(set.iter().map(|assignment| assignment.value.as_deref())).collect())
}

/// Which rows of a source a MERGE looks at. Other statements have no others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceRows {
    All,
    /// Those that match rows of the target.
    Matched,
    /// Those that match none, and are inserted.
    Unmatched,
}

/// The query with a row for each change.
fn changes_sql(mutation: &Mutation, schema: &TableSchema, rows: SourceRows) -> Result<String> {
    let alias = &mutation.alias;
    let row = format!("{alias}.\"__target_file\", {alias}.\"__target_row\"");
    // Which row the new one was before.
    let lineage =
        ["origin", "origin_row", "added"].map(|name| format!("{alias}.\"__target_{name}\"")).join(", ");
    let tail = |from: &str, filter: &Option<String>| match filter {
        Some(filter) => format!("FROM {from} WHERE {filter}"),
        None => format!("FROM {from}"),
    };
    Ok(match &mutation.change {
        Change::Delete { from, filter } => {
            format!("SELECT {row}, 2 AS \"__target_action\" {}", tail(from, filter))
        }
        Change::Update { from, filter, set } => {
            let set = assigned(schema, set, &mutation.table)?;
            let new = |column: &Column| match set.iter().find(|(known, _)| known.id == column.id) {
                // Who writes it casts it, and knows which column does not fit.
                Some((_, value)) => given(column, *value).to_owned(),
                None => format!("{alias}.{}", quoted(&column.name)),
            };
            let new = values(schema, &mut |column| Ok(new(column)))?;
            format!("SELECT {row}, 1 AS \"__target_action\", {lineage}, {new} {}", tail(from, filter))
        }
        Change::Merge { source, source_alias, on, clauses } => {
            let merge = Merge { alias, source_alias, schema, table: &mutation.table };
            let action = merge.by_clause(clauses, "0", &mut |action| {
                Ok(match action {
                    MergeAction::Update(_) | MergeAction::UpdateAll => "1",
                    MergeAction::Delete => "2",
                    MergeAction::Insert { .. } | MergeAction::InsertAll => "3",
                }
                .to_owned())
            })?;
            let new = values(schema, &mut |column| {
                merge.by_clause(clauses, "NULL", &mut |action| merge.value(action, column))
            })?;
            // Rows of the source that match nothing are wanted only where they are inserted.
            let (join, filter) = match rows {
                SourceRows::All if mutation.inserts() => ("LEFT", String::new()),
                SourceRows::All | SourceRows::Matched => ("INNER", String::new()),
                SourceRows::Unmatched => ("LEFT", format!(" WHERE {alias}.\"__target_file\" IS NULL")),
            };
            format!(
                "SELECT {row}, {action} AS \"__target_action\", {lineage}, {new} FROM {source} {join} JOIN \"{}\" AS {alias} ON {on}{filter}",
                mutation.target
            )
        }
    })
}

/// The columns of the new row, each under a name of its own.
fn values(schema: &TableSchema, value: &mut dyn FnMut(&Column) -> Result<String>) -> Result<String> {
    let columns = schema
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| Ok(format!("{} AS \"__target_value_{index}\"", value(column)?)));
    Ok(columns.collect::<Result<Vec<_>>>()?.join(", "))
}

/// What the clauses of a MERGE are rendered with.
struct Merge<'a> {
    alias: &'a str,
    source_alias: &'a str,
    schema: &'a TableSchema,
    table: &'a ObjectRef,
}

impl Merge<'_> {
    /// What the first clause that holds for a row gives.
    fn by_clause(
        &self,
        clauses: &[MergeClause],
        otherwise: &str,
        give: &mut dyn FnMut(&MergeAction) -> Result<String>,
    ) -> Result<String> {
        let mut text = "CASE".to_owned();
        for MergeClause { condition, action } in clauses {
            let not = if action.inserts() { "" } else { " NOT" };
            let and = condition.as_ref().map(|condition| format!(" AND {condition}")).unwrap_or_default();
            let given = give(action)?;
            text.push_str(&format!(" WHEN {}.\"__target_file\" IS{not} NULL{and} THEN {given}", self.alias));
        }
        Ok(format!("{text} ELSE {otherwise} END"))
    }

    /// A column of the row that an action makes.
    fn value(&self, action: &MergeAction, column: &Column) -> Result<String> {
        let same = || format!("{}.{}", self.source_alias, quoted(&column.name));
        Ok(match action {
            MergeAction::Delete => "NULL".to_owned(),
            MergeAction::UpdateAll | MergeAction::InsertAll => value_of(column, Some(&same())),
            MergeAction::Update(set) => {
                let set = assigned(self.schema, set, self.table)?;
                match set.iter().find(|(known, _)| known.id == column.id) {
                    Some((_, value)) => value_of(column, *value),
                    None => format!("{}.{}", self.alias, quoted(&column.name)),
                }
            }
            MergeAction::Insert { columns, values } => {
                let columns = target_columns(self.schema, columns.as_deref(), self.table)?;
                if columns.len() != values.len() {
                    return Err(Error::invalid(format!(
                        "INSERT of MERGE INTO has {} values, table '{}' has {} columns",
                        values.len(),
                        self.table,
                        columns.len()
                    ))
                    .hint("name the columns: INSERT (a, b) VALUES (…)"));
                }
                let given = columns.iter().zip(values).find(|(known, _)| known.id == column.id);
                value_of(column, given.and_then(|(_, value)| value.as_deref()))
            }
        })
    }
}

/// What a statement would change, bound to the objects that it names.
struct Changes {
    table: Table,
    database: String,
    relations: Vec<RelationPlan>,
    metadata: TableMetadataRef,
    schema: TableSchema,
    sql: String,
    spec: QuerySpec,
}

impl Engine {
    pub(super) async fn mutate(&self, handle: &StatementHandle, mutation: &Mutation) -> Result<Execution> {
        let mut run = 0;
        let job = loop {
            let id = job_of_run(handle.id, run);
            if jobs::job(&*self.replica.read().await?, id)?.is_none() {
                let spec = self.bind_mutation(handle, id, mutation).await?;
                self.create_job(id, spec).await?;
            }
            match self.job_result(id).await {
                // Of two who consume a stream one is told so, and may try again.
                Err(error) if error.is_lost_race() && run + 1 < MOST_RUNS && !self.has_lost_stream(id)? => {
                    tracing::info!(job = %id, %error, "run again on the rows as they are now");
                    run += 1;
                }
                job => break job?,
            }
        };
        let columns = columns_of(mutation);
        let count = |name: &str| match name.rsplit(' ').next() {
            Some("inserted") => job.rows,
            Some("updated") => job.rows_updated,
            _ => job.rows_deleted,
        };
        let counts: Vec<Value> = columns.iter().map(|(name, _)| count(name).into()).collect();
        Ok(Execution::rows(columns, &[counts])?.with_affected(rows_changed(&job)))
    }

    /// Whether somebody else consumed what a run was to consume.
    fn has_lost_stream(&self, run: JobId) -> Result<bool> {
        let view = self.replica.local();
        let spec = jobs::job_spec(&*view, run)?;
        Ok(match spec {
            Some(spec) => streams::unmoved(&*view, &spec.consumes)?.is_err(),
            None => false,
        })
    }

    /// Cancels whichever run of the statement is live.
    pub(super) async fn cancel_runs(&self, id: Uuid) -> Result<bool> {
        for run in 0..MOST_RUNS {
            if self.cancel_job(job_of_run(id, run)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The query with a row for each change of the target's rows as they are.
    async fn changes(&self, handle: &StatementHandle, mutation: &Mutation) -> Result<Changes> {
        let view = self.replica.read().await?;
        let (database, _) = self.qualify(handle, &mutation.table);
        let table = self.require_table(&*view, handle, &mutation.table)?;
        let relations = self.plan_relations_of(handle, &mutation.relations).await?;
        // The rows, the columns and the snapshot are those of one version of the table.
        let location = relations.iter().find_map(|relation| match relation {
            RelationPlan { name, target: RelationTarget::Table { metadata_location, .. } }
                if *name == mutation.target =>
            {
                Some(metadata_location)
            }
            _ => None,
        });
        let location = location.ok_or_else(|| Error::internal("the target of the statement is lost"))?;
        let metadata = self.committer.load(location).await?;
        let schema = TableSchema::from_metadata(&metadata)?;
        let sql = changes_sql(mutation, &schema, SourceRows::All)?;
        let mut spec = self.query_spec(handle, sql.clone(), &relations).await?;
        number_target(&mut spec, &mutation.target, None);
        Ok(Changes { table, database, relations, metadata, schema, sql, spec })
    }

    async fn explained_changes(
        &self,
        handle: &StatementHandle,
        mutation: &Mutation,
        verbose: bool,
    ) -> Result<(QuerySpec, BTreeMap<String, String>)> {
        let Changes { spec, relations, .. } = self.changes(handle, mutation).await?;
        let sql = format!("EXPLAIN {}{}", if verbose { "VERBOSE " } else { "" }, spec.sql);
        Ok((QuerySpec { sql, ..spec }, Self::pins_of(&relations)))
    }

    /// The columns of EXPLAIN DELETE and its like.
    pub(super) async fn describe_changes(
        &self,
        handle: &StatementHandle,
        mutation: &Mutation,
        verbose: bool,
    ) -> Result<Description> {
        let (spec, pins) = self.explained_changes(handle, mutation, verbose).await?;
        let schema = self.workers.describe(&handle.group()?, &spec).await?;
        let parameters = mutation.parameters;
        Ok(Description { kind: StatementKind::Query, schema, parameters, pins, is_job: false })
    }

    /// EXPLAIN DELETE and its like: the plan of the query that finds the changes, as a worker would run it. Nothing
    /// of it is run.
    pub(super) async fn explain_changes(
        &self,
        handle: &StatementHandle,
        mutation: &Mutation,
        verbose: bool,
    ) -> Result<Execution> {
        check_parameters(handle, mutation.parameters)?;
        let (spec, _) = self.explained_changes(handle, mutation, verbose).await?;
        self.relay(handle, &spec).await
    }

    /// The specification of a run, whose job this is.
    pub(super) async fn bind_mutation(
        &self,
        handle: &StatementHandle,
        job: JobId,
        mutation: &Mutation,
    ) -> Result<JobSpec> {
        check_parameters(handle, mutation.parameters)?;
        let Changes { table, database, relations, metadata, schema, sql, spec } =
            self.changes(handle, mutation).await?;
        // What is wrong with the statement is told before there is a job.
        let described = self.workers.describe(&handle.group()?, &spec).await;
        described.map_err(|error| not_in_source(error, &mutation.change, &schema))?;
        // Files are listed anew for each slice, and chance is another for each: only one may look then.
        let listed = relations.iter().any(|relation| {
            matches!(relation.target, RelationTarget::Stage { .. } | RelationTarget::Schema { .. })
        });
        let parts = if listed || !mutation.repeatable { 1 } else { self.parts_of(&metadata, None) };
        // Of a share alone nobody knows which rows of the source match nothing: a slice of its own looks at all.
        let apart = parts > 1 && mutation.inserts();
        let rows = |rows: SourceRows| changes_sql(mutation, &schema, rows);
        let (sql, insertions) = match apart {
            true => (rows(SourceRows::Matched)?, Some(rows(SourceRows::Unmatched)?)),
            false => (sql, None),
        };
        let consumes = consumed(&relations);
        let plan = MutationPlan {
            parts,
            insertions,
            base_snapshot: metadata.current_snapshot_id(),
            target: mutation.target.clone(),
            query: QueryPlan {
                started_on_ms: self.replica.now_ms(),
                ..query_plan(handle, sql, relations, Vec::new(), None)
            },
        };
        let plan = JobPlan::Mutation(Box::new(plan)).store(job, self.stores.warehouse().store()).await?;
        Ok(JobSpec {
            table: Some(table.id),
            table_name: format!("{database}.{}", table.name),
            epoch: table.epoch,
            schema_id: metadata.current_schema_id(),
            spec_id: metadata.default_partition_spec_id(),
            consumes,
            ..query_job(kind_of(&mutation.change), handle, plan)?
        })
    }
}

/// Rows that a job inserted, updated and deleted.
fn rows_changed(job: &Job) -> i64 {
    let rows = job.rows.saturating_add(job.rows_updated).saturating_add(job.rows_deleted);
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn runs_of_a_statement_have_ids_that_can_be_told_again() {
        let handle = Uuid::now_v7();
        assert_eq!(job_of_run(handle, 0), JobId(handle));
        assert_eq!(job_of_run(handle, 1), job_of_run(handle, 1));
        assert_ne!(job_of_run(handle, 1), job_of_run(handle, 2));
        assert_ne!(job_of_run(handle, 1), job_of_run(Uuid::now_v7(), 1));
    }
}
