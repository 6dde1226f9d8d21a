//! What a COPY would do with files: VALIDATION_MODE and EXPLAIN COPY INTO.
//!
//! Comes in: the files and the table of a COPY, and what is asked: the rows that it would reject, the rows
//! as it would load them, or where the table's columns would come from. Goes out: rows of a fixed shape
//! (or of the table's), streamed. It reads, decodes, transforms and casts as a load does, by the same
//! code. Must never write: no sink is made, and the message has no warehouse to make one of.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use stevedore_common::file_format::{FileFormat, MissingFieldAs};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::{Error, Result};
use stevedore_decode::cast::check_field;
use stevedore_decode::errors::parts;
use stevedore_decode::spec::RowError;
use stevedore_proto::v1::{CopyCheck, CopyCheckKind, CopySource, TableTarget};

use super::copy::{Input, Prepared, Ready};
use super::{SliceRunner, missing, parse_target};
use crate::infer::{InferredColumn, Sample, columns_in_order, infer_columns};
use crate::query::normalize::{natural_batch, natural_schema};
use crate::read::{Consumer, FileEvent, is_fault_of_file};
use crate::transform::target_columns;

/// The rows of a check and their schema.
pub type Checked = (SchemaRef, BoxStream<'static, Result<RecordBatch>>);

/// The columns of the rows that would be rejected.
static ERRORS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        text("file"),
        number("line"),
        number("row"),
        text("column"),
        text("value"),
        text("reason"),
    ]))
});

/// The columns of the answer about columns.
static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        text("column"),
        text("type"),
        text("source"),
        text("source_type"),
        text("status"),
        text("problem"),
    ]))
});

/// The columns of the answer about the columns of files.
static FILE_COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![text("name", false), text("type", true)]))
});

/// An error of a file, of a row of it or of all of it.
struct Found {
    file: String,
    line: Option<u64>,
    row: Option<u64>,
    message: String,
}

impl SliceRunner {
    /// The columns of the answer to a check. Reads no file.
    ///
    /// # Errors
    /// Internal, for a message that asks nothing known.
    pub fn check_schema(check: &CopyCheck) -> Result<SchemaRef> {
        match check.kind() {
            CopyCheckKind::CheckErrors => Ok(Arc::clone(&ERRORS)),
            CopyCheckKind::CheckColumns => Ok(Arc::clone(&COLUMNS)),
            CopyCheckKind::CheckFileColumns => Ok(Arc::clone(&FILE_COLUMNS)),
            CopyCheckKind::CheckRows => {
                let target = check.target.as_ref().ok_or_else(|| missing("the target table"))?;
                Ok(natural_schema(&parse_target(target)?.table.to_arrow()))
            }
            CopyCheckKind::Unspecified => {
                Err(Error::internal("a check of a COPY asks for something unknown"))
            }
        }
    }

    /// Answers a check.
    ///
    /// # Errors
    /// What would fail the COPY before it reads rows. Later failures are items of the stream.
    pub async fn check(&self, check: &CopyCheck, settings: &HashMap<String, String>) -> Result<Checked> {
        let schema = Self::check_schema(check)?;
        let source = check.copy.as_ref().ok_or_else(|| missing("its source"))?;
        if check.kind() == CopyCheckKind::CheckFileColumns {
            return Ok((schema, stream::iter([self.file_columns(check, source).await]).boxed()));
        }
        let target = check.target.as_ref().ok_or_else(|| missing("the target table"))?;
        let table = parse_target(target)?.table;
        let rows = usize::try_from(check.rows).unwrap_or(usize::MAX);
        let stream = match check.kind() {
            CopyCheckKind::CheckErrors => {
                match self.prepared(source, target, &table, settings, None).await? {
                    Prepared::Input(input) => errors_of(*input),
                    Prepared::Unreadable(errors) => {
                        let found: Vec<Found> = errors
                            .into_iter()
                            .map(|(file, error)| unreadable(name(source, file), &error))
                            .collect();
                        stream::iter([errors_batch(&found)]).boxed()
                    }
                }
            }
            CopyCheckKind::CheckRows => {
                // A batch of as many rows as are wanted: what comes after them is not judged.
                let batch_rows = (rows > 0).then_some(rows);
                match self.prepared(source, target, &table, settings, batch_rows).await? {
                    Prepared::Input(input) => {
                        rows_of(*input, if rows > 0 { rows } else { usize::MAX }, Arc::clone(&schema))
                    }
                    Prepared::Unreadable(errors) => match errors.into_iter().next() {
                        Some((file, error)) => {
                            return Err(error.context(format!("file '{}'", name(source, file))));
                        }
                        None => stream::empty().boxed(),
                    },
                }
            }
            _ => stream::iter([self.columns_of(check, source, target, &table).await]).boxed(),
        };
        Ok((schema, stream))
    }

    async fn prepared(
        &self,
        source: &CopySource,
        target: &TableTarget,
        table: &TableSchema,
        settings: &HashMap<String, String>,
        batch_rows: Option<usize>,
    ) -> Result<Prepared> {
        self.prepare(source, target, table, settings, batch_rows).await.map_err(|failure| failure.error)
    }

    /// Where the columns of the table come from, and which columns of the files go nowhere.
    async fn columns_of(
        &self,
        check: &CopyCheck,
        source: &CopySource,
        target: &TableTarget,
        table: &TableSchema,
    ) -> Result<RecordBatch> {
        let scan = source.scan.as_ref().ok_or_else(|| missing("its files"))?;
        let (store, format) = self.source_of(scan)?;
        let records = usize::try_from(check.max_records_per_file).unwrap_or(usize::MAX).max(1);
        let inferred =
            infer_columns(&scan.files, &store, &format, scan.case_sensitive, records, &self.resources)
                .await?;
        let targets = target_columns(table, &target.field_ids)?;
        let names = Names { case_sensitive: scan.case_sensitive, evolves: source.evolves };
        let matched = match_columns(&targets, table, &inferred, &format, names);
        columns_batch(&matched)
    }

    /// The columns of the files that can be read.
    async fn file_columns(&self, check: &CopyCheck, source: &CopySource) -> Result<RecordBatch> {
        let scan = source.scan.as_ref().ok_or_else(|| missing("its files"))?;
        let (store, format) = self.source_of(scan)?;
        let sample = Sample {
            records_per_file: usize::try_from(check.max_records_per_file).unwrap_or(usize::MAX),
            records: usize::try_from(check.max_records).unwrap_or(usize::MAX),
        };
        let columns =
            columns_in_order(&scan.files, &store, &format, scan.case_sensitive, sample, &self.resources)
                .await?;
        let names: StringArray = columns.iter().map(|(name, _)| Some(name)).collect();
        let types: StringArray = columns.iter().map(|(_, ty)| ty.as_ref().map(ToString::to_string)).collect();
        Ok(RecordBatch::try_new(Arc::clone(&FILE_COLUMNS), vec![Arc::new(names), Arc::new(types)])?)
    }
}

fn name(source: &CopySource, file: usize) -> &str {
    source.scan.as_ref().and_then(|scan| scan.files.get(file)).map_or("", |file| file.name.as_str())
}

fn unreadable(file: &str, error: &Error) -> Found {
    Found { file: file.to_owned(), line: None, row: None, message: error.to_string() }
}

fn rejected(file: &str, error: RowError, has_lines: bool) -> Found {
    Found {
        file: file.to_owned(),
        line: has_lines.then_some(error.line),
        row: Some(error.row + 1),
        message: error.message,
    }
}

/// The rows that would be rejected, and the files that cannot be read.
fn errors_of(input: Input) -> BoxStream<'static, Result<RecordBatch>> {
    let ready = input.read_all(Consumer::default());
    let has_lines = input.has_lines();
    ready
        .filter_map(move |(index, event)| {
            let file = input.name(index);
            let batch = match event {
                Ok(Ready::Rows(loaded)) if loaded.errors.is_empty() => None,
                Ok(Ready::Rows(loaded)) => {
                    let found: Vec<Found> =
                        loaded.errors.into_iter().map(|error| rejected(file, error, has_lines)).collect();
                    Some(errors_batch(&found))
                }
                Ok(Ready::Other(FileEvent::Failed(error))) if is_fault_of_file(&error) => {
                    Some(errors_batch(&[unreadable(file, &error)]))
                }
                Ok(Ready::Other(FileEvent::Failed(error))) => {
                    Some(Err(error.context(format!("file '{file}'"))))
                }
                Ok(Ready::Other(_)) => None,
                Err(error) => Some(Err(error)),
            };
            std::future::ready(batch)
        })
        .boxed()
}

/// The first rows as they would be loaded; the first error among the rows looked at ends them.
fn rows_of(input: Input, most: usize, schema: SchemaRef) -> BoxStream<'static, Result<RecordBatch>> {
    let ready = input.read_all(Consumer::default());
    let state = Some((ready, input, schema, most));
    stream::unfold(state, |state| async move {
        let (mut ready, input, schema, left) = state?;
        while left > 0
            && let Some((index, event)) = ready.next().await
        {
            let file = input.name(index);
            match event {
                Ok(Ready::Rows(loaded)) => {
                    if let Some(error) = loaded.errors.first() {
                        let place = match input.has_lines() {
                            true => format!("file '{file}', line {}", error.line),
                            false => format!("file '{file}', row {}", error.row + 1),
                        };
                        return Some((Err(Error::bad_data(&error.message).context(place)), None));
                    }
                    let rows = loaded.batch.num_rows().min(left);
                    if rows > 0 {
                        let batch = natural_batch(&loaded.batch.slice(0, rows), &schema);
                        return Some((batch, Some((ready, input, schema, left - rows))));
                    }
                }
                Ok(Ready::Other(FileEvent::Failed(error))) => {
                    return Some((Err(error.context(format!("file '{file}'"))), None));
                }
                Ok(Ready::Other(_)) => {}
                Err(error) => return Some((Err(error), None)),
            }
        }
        None
    })
    .boxed()
}

fn errors_batch(found: &[Found]) -> Result<RecordBatch> {
    let number = |of: &dyn Fn(&Found) -> Option<u64>| -> ArrayRef {
        let numbers = found.iter().map(|error| of(error).and_then(|n| i64::try_from(n).ok()));
        Arc::new(numbers.collect::<Int64Array>())
    };
    // The name of a column ends where its type begins: the last word of a name is never a type's.
    let column_name = |column: &str| -> String {
        let border = column.match_indices(' ').find(|(at, _)| {
            let ty = column.get(at + 1..).unwrap_or_default();
            stevedore_common::types::SqlType::parse(ty).is_ok()
        });
        border.and_then(|(at, _)| column.get(..at)).unwrap_or(column).to_owned()
    };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(found.iter().map(|error| Some(error.file.as_str())).collect::<StringArray>()),
        number(&|error| error.line),
        number(&|error| error.row),
        Arc::new(
            found.iter().map(|error| parts(&error.message).column.map(column_name)).collect::<StringArray>(),
        ),
        Arc::new(found.iter().map(|error| parts(&error.message).value).collect::<StringArray>()),
        Arc::new(found.iter().map(|error| Some(parts(&error.message).reason)).collect::<StringArray>()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&ERRORS), arrays)?)
}

/// A column of the table, of the files, or of both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Matched {
    column: Option<String>,
    ty: Option<String>,
    source: Option<String>,
    source_type: Option<String>,
    status: &'static str,
    problem: Option<String>,
}

/// How the names of columns match.
#[derive(Debug, Clone, Copy)]
struct Names {
    case_sensitive: bool,
    /// Nullable columns may be missing.
    evolves: bool,
}

/// `same`, `cast`, `default` (also NULL), `ignored`, `incompatible`, `missing`.
fn match_columns(
    targets: &[&Column],
    table: &TableSchema,
    inferred: &[InferredColumn],
    format: &FileFormat,
    names: Names,
) -> Vec<Matched> {
    let by_place = format.kind.is_text() && !format.kind.is_json();
    let find = |place: usize, column: &Column| -> Option<usize> {
        if by_place {
            return (place < inferred.len()).then_some(place);
        }
        inferred.iter().position(|found| found.name == column.name).or_else(|| {
            let loose = |found: &InferredColumn| found.name.eq_ignore_ascii_case(&column.name);
            if names.case_sensitive { None } else { inferred.iter().position(loose) }
        })
    };
    let forgiving = if by_place {
        !format.error_on_column_count_mismatch
    } else {
        format.missing_field_as != MissingFieldAs::Error
    };
    let mut used = vec![false; inferred.len()];
    let mut matched = Vec::new();
    for column in &table.columns {
        let mut row = Matched {
            column: Some(column.name.clone()),
            ty: Some(column.ty.to_string()),
            ..Matched::default()
        };
        let place = targets.iter().position(|target| target.id == column.id);
        let found = place.and_then(|place| find(place, column));
        match found.and_then(|at| inferred.get(at).map(|source| (at, source))) {
            Some((at, source)) => {
                for (n, (other, used)) in inferred.iter().zip(&mut used).enumerate() {
                    // Another spelling of the name, of other files or records, goes there as well.
                    let loosely = !by_place && !names.case_sensitive;
                    *used |= n == at || (loosely && other.name.eq_ignore_ascii_case(&column.name));
                }
                row.source = Some(if by_place { format!("${}", at + 1) } else { source.name.clone() });
                row.source_type = Some(source.ty.to_string());
                let checked = check_field(&source.ty.to_field(&source.name, true), &column.ty);
                row.status = match &checked {
                    // Text is parsed straight into the column, whatever it looks like.
                    _ if by_place && source.ty == column.ty => "same",
                    _ if by_place => "cast",
                    Ok(()) if source.ty == column.ty => "same",
                    Ok(()) => "cast",
                    Err(_) => "incompatible",
                };
                if row.status == "incompatible" {
                    row.problem = checked.err().map(|error| error.to_string());
                }
            }
            None => {
                let needs_value = !column.nullable && column.default.is_none();
                let may_be_missing = forgiving || (names.evolves && column.nullable);
                let is_wanted = place.is_some() && !may_be_missing;
                row.status = if needs_value || is_wanted { "missing" } else { "default" };
                if needs_value {
                    row.problem = Some(
                        "it is NOT NULL without a DEFAULT, and the files have no such column".to_owned(),
                    );
                } else if is_wanted {
                    let option = if by_place { "ERROR_ON_COLUMN_COUNT_MISMATCH" } else { "MISSING_FIELD_AS" };
                    row.problem = Some(format!("the files have no such column; see the option {option}"));
                } else {
                    row.source = Some(column.default.clone().unwrap_or_else(|| "NULL".to_owned()));
                }
            }
        }
        matched.push(row);
    }
    for (at, (source, _)) in inferred.iter().zip(&used).enumerate().filter(|(_, (_, used))| !**used) {
        let problem = (by_place && !forgiving)
            .then(|| format!("records have {} fields, the target {} columns", inferred.len(), targets.len()));
        matched.push(Matched {
            source: Some(if by_place { format!("${}", at + 1) } else { source.name.clone() }),
            source_type: Some(source.ty.to_string()),
            status: "ignored",
            problem,
            ..Matched::default()
        });
    }
    matched
}

fn columns_batch(matched: &[Matched]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Matched) -> Option<&str>| -> ArrayRef {
        Arc::new(matched.iter().map(of).collect::<StringArray>())
    };
    let arrays = vec![
        text(&|row| row.column.as_deref()),
        text(&|row| row.ty.as_deref()),
        text(&|row| row.source.as_deref()),
        text(&|row| row.source_type.as_deref()),
        text(&|row| Some(row.status)),
        text(&|row| row.problem.as_deref()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&COLUMNS), arrays)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use stevedore_common::file_format::FormatKind;
    use stevedore_common::types::SqlType;

    use super::*;

    fn column(id: i32, name: &str, ty: SqlType, nullable: bool) -> Column {
        Column { id, name: name.into(), ty, nullable, default: None, comment: None }
    }

    fn inferred(name: &str, ty: SqlType) -> InferredColumn {
        InferredColumn { name: name.into(), ty, nullable: true, filenames: String::new() }
    }

    fn statuses(format: &FileFormat, case_sensitive: bool) -> Vec<(String, &'static str)> {
        let table = TableSchema {
            columns: vec![
                column(1, "a", SqlType::Int64, true),
                column(2, "B", SqlType::Int32, true),
                column(3, "c", SqlType::Int64, false),
                column(4, "d", SqlType::Int64, true),
            ],
        };
        let files = [
            inferred("a", SqlType::Int64),
            inferred("b", SqlType::String),
            inferred("d", SqlType::Array(Box::new(SqlType::Int64))),
            inferred("x", SqlType::Int64),
        ];
        let targets: Vec<&Column> = table.columns.iter().collect();
        match_columns(&targets, &table, &files, format, Names { case_sensitive, evolves: false })
            .into_iter()
            .map(|row| (row.column.or(row.source).unwrap(), row.status))
            .collect()
    }

    #[test]
    fn columns_match_by_name_and_say_what_becomes_of_them() {
        let mut format = FileFormat::defaults(FormatKind::Parquet);
        let expected =
            [("a", "same"), ("B", "cast"), ("c", "missing"), ("d", "incompatible"), ("x", "ignored")];
        assert!(statuses(&format, false).iter().map(|(n, s)| (n.as_str(), *s)).eq(expected));
        let sensitive = statuses(&format, true);
        assert!(sensitive.contains(&("B".into(), "missing")) && sensitive.contains(&("b".into(), "ignored")));
        format.missing_field_as = MissingFieldAs::FieldDefault;
        let forgiving = statuses(&format, true);
        assert!(forgiving.contains(&("B".into(), "default")) && forgiving.contains(&("c".into(), "missing")));
    }

    #[test]
    fn columns_of_csv_match_by_place() {
        let format = FileFormat::defaults(FormatKind::Csv);
        let expected = [("a", "same"), ("B", "cast"), ("c", "cast"), ("d", "same")];
        assert!(statuses(&format, false).iter().map(|(n, s)| (n.as_str(), *s)).eq(expected));
    }
}
