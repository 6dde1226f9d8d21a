//! Which columns the files of a COPY have that its table lacks.
//!
//! Comes in: files and how many records of them may be looked at. A worker looks into them (all that say their
//! columns, a sample of the others); here what was found is merged over the files and compared with the table, by
//! the rule that the load itself matches names with. Goes out: columns to add, without ids. Must never say a column
//! whose name differs from another one of the table in case only: no table has two such columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use futures::stream::{FuturesOrdered, Stream, StreamExt, TryStreamExt};
use stevedore_common::file_identity::FileEntry;
use stevedore_common::merged_type::merged;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::QuerySpec;

use super::plan::{CopyPlan, EvolutionPlan};
use super::spec;
use crate::committer::check_column_name;
use crate::stores::ResolvedSource;
use crate::worker_directory::WorkerDirectory;

/// Files that one question to a worker is about.
const FILES_A_QUESTION: usize = 1_000;
/// Questions that are asked at once.
const QUESTIONS_AT_ONCE: usize = 4;

/// The columns of files, merged over all of them, in order of appearance.
#[derive(Debug)]
pub struct FileColumns {
    case_sensitive: bool,
    columns: Vec<(String, Option<SqlType>)>,
    places: HashMap<String, usize>,
}

fn folded(name: &str) -> String {
    name.to_lowercase()
}

impl FileColumns {
    /// None yet; names that differ in case only are one column unless the load tells them apart.
    pub fn new(case_sensitive: bool) -> Self {
        Self { case_sensitive, columns: Vec::new(), places: HashMap::new() }
    }

    /// Adds a column of some file. Without a type only NULLs were seen.
    pub fn add(&mut self, name: String, ty: Option<SqlType>) {
        let key = if self.case_sensitive { name.clone() } else { folded(&name) };
        let place = *self.places.entry(key).or_insert(self.columns.len());
        match self.columns.get_mut(place) {
            Some((_, known)) => *known = merged(known.take(), ty),
            None => self.columns.push((name, ty)),
        }
    }

    /// The columns that a table lacks, nullable, to be added at its end.
    ///
    /// # Errors
    /// Invalid input for names that differ in case only, where the load tells them apart, and for those that no
    /// column of a table may have.
    pub fn new_to(&self, table: &TableSchema) -> Result<Vec<Column>> {
        // By folded name: the name as it is, and whose it is.
        let mut names: HashMap<String, (&str, &str)> = table
            .columns
            .iter()
            .map(|column| (folded(&column.name), (column.name.as_str(), "the table")))
            .collect();
        let mut new = Vec::new();
        for (name, ty) in &self.columns {
            match names.get(&folded(name)) {
                None => {
                    check_column_name(name)?;
                    names.insert(folded(name), (name, "the files"));
                    new.push(Column {
                        id: 0,
                        name: name.clone(),
                        ty: ty.clone().unwrap_or(SqlType::String),
                        nullable: true,
                        default: None,
                        comment: None,
                    });
                }
                Some((other, _)) if other == name || !self.case_sensitive => {}
                Some((other, whose)) => {
                    return Err(Error::invalid(format!(
                        "column '{name}' of the files differs from column '{other}' of {whose} in case only, and a \
                         table has no two such columns"
                    ))
                    .hint("COLUMN_MATCH_MODE = CASE_INSENSITIVE loads both into one column"));
                }
            }
        }
        Ok(new)
    }
}

/// Has workers of a group look into files.
///
/// # Errors
/// Unavailable without a worker; a column of a type that SQL lacks, by file. A file that cannot be read is left to
/// the load itself.
pub async fn columns_of_files(
    workers: &Arc<WorkerDirectory>,
    group: &WorkerGroup,
    source: &ResolvedSource,
    plan: &CopyPlan,
    evolution: &EvolutionPlan,
    files: impl Stream<Item = Result<FileEntry>> + Send,
) -> Result<FileColumns> {
    // The records of a sample are counted over all of its files.
    let (most, at_once) = match plan.format.kind.is_json() {
        true => (evolution.sample_files as usize, evolution.sample_files as usize),
        false => (usize::MAX, FILES_A_QUESTION),
    };
    let has_bytes = |file: &FileEntry| std::future::ready(file.version.size > 0);
    let chunks = files.try_filter(has_bytes).take(most).try_chunks(at_once.max(1));
    let mut chunks = std::pin::pin!(chunks);
    let mut columns = FileColumns::new(plan.case_sensitive);
    let mut asked = FuturesOrdered::new();
    loop {
        while asked.len() < QUESTIONS_AT_ONCE
            && let Some(files) = chunks.next().await
        {
            let files = files.map_err(|error| error.1)?;
            let question = spec::file_columns(source, plan, evolution, &files)?;
            asked.push_back(ask(Arc::clone(workers), group, question));
        }
        let Some(found) = asked.next().await else { break };
        for (name, ty) in found? {
            columns.add(name, ty);
        }
    }
    Ok(columns)
}

async fn ask(
    workers: Arc<WorkerDirectory>,
    group: &WorkerGroup,
    question: QuerySpec,
) -> Result<Vec<(String, Option<SqlType>)>> {
    let (_, batches) = workers.run(group, &question).await?;
    let batches: Vec<RecordBatch> = batches.try_collect().await?;
    let mut columns = Vec::new();
    for batch in &batches {
        let texts = |column: usize| {
            let texts = batch.columns().get(column).and_then(|column| column.as_string_opt::<i32>());
            texts.ok_or_else(|| Error::internal("a worker told the columns of files in another form"))
        };
        let (names, types) = (texts(0)?, texts(1)?);
        for row in 0..batch.num_rows() {
            let ty = types.is_valid(row).then(|| SqlType::parse(types.value(row))).transpose()?;
            columns.push((names.value(row).to_owned(), ty));
        }
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(names: &[&str]) -> TableSchema {
        let column = |name: &&str| Column {
            id: 1,
            name: (*name).to_owned(),
            ty: SqlType::Int32,
            nullable: true,
            default: None,
            comment: None,
        };
        TableSchema { columns: names.iter().map(column).collect() }
    }

    fn found(case_sensitive: bool, columns: &[(&str, Option<&str>)]) -> FileColumns {
        let mut all = FileColumns::new(case_sensitive);
        for (name, ty) in columns {
            all.add((*name).to_owned(), ty.map(|ty| SqlType::parse(ty).unwrap()));
        }
        all
    }

    fn new(columns: &FileColumns, names: &[&str]) -> Vec<String> {
        let new = columns.new_to(&table(names)).unwrap();
        assert!(new.iter().all(|column| column.nullable && column.id == 0));
        new.into_iter().map(|column| format!("{} {}", column.name, column.ty)).collect()
    }

    #[test]
    fn what_the_table_lacks_comes_in_order_of_appearance_with_a_type_for_all_files() {
        let columns = found(
            false,
            &[
                ("id", Some("BIGINT")),
                ("n", Some("BIGINT")),
                ("only_null", None),
                ("v", Some("BOOLEAN")),
                ("n", Some("DOUBLE")),
                ("v", Some("BIGINT")),
                ("deep", Some("VARIANT")),
                ("deep", Some("VARCHAR")),
                ("late", None),
                ("late", Some("DATE")),
            ],
        );
        let expected = ["n DOUBLE", "only_null VARCHAR", "v VARCHAR", "deep VARIANT", "late DATE"];
        assert_eq!(new(&columns, &["id"]), expected);
        assert_eq!(new(&columns, &["id", "N", "deep"]), ["only_null VARCHAR", "v VARCHAR", "late DATE"]);
    }

    #[test]
    fn names_in_another_case_are_one_column_unless_the_load_tells_them_apart() {
        let names =
            [("ID", Some("INT")), ("Größe", Some("INT")), ("GRÖSSE", Some("INT")), ("größe", Some("DOUBLE"))];
        assert_eq!(new(&found(false, &names), &["id"]), ["Größe DOUBLE", "GRÖSSE INT"]);
        let error = found(true, &names).new_to(&table(&["id"])).unwrap_err().to_string();
        assert!(error.contains("column 'ID' of the files differs from column 'id' of the table"), "{error}");
        let error = found(true, &names).new_to(&table(&["ID"])).unwrap_err().to_string();
        assert!(error.contains("'größe' of the files differs from column 'Größe' of the files"), "{error}");
        assert_eq!(new(&found(true, &[("ID", None), ("x", None)]), &["ID"]), ["x VARCHAR"]);
    }
}
