//! What is wanted of a file: output columns matched to the file's.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use stevedore_common::error::{Error, ErrorKind, Result};
use stevedore_common::merged_type::reads_exactly;
use stevedore_common::types::SqlType;

use super::columns::FileColumn;
use crate::cast;
use crate::spec::{ColumnSource, DecodeSpec, ExpectedColumns, OutputColumn};

/// The columns of a file and those wanted, matched. Immutable.
pub(crate) struct ColumnPlan {
    pub(crate) spec: DecodeSpec,
    pub(crate) columns: Vec<FileColumn>,
    pub(crate) outputs: Vec<Output>,
    /// The file's columns that are read, in order.
    pub(crate) read: Vec<usize>,
    /// The schema of the batches.
    pub(crate) schema: SchemaRef,
}

/// An output column and where it comes from in this file.
pub(crate) struct Output {
    pub(super) column: OutputColumn,
    pub(crate) ty: SqlType,
    pub(crate) source: Source,
}

impl Output {
    /// Whether a file that lacks it asks for the default of its column.
    pub(crate) fn has_default(&self) -> bool {
        self.column.has_default
    }

    /// Whether NULL is allowed.
    pub(crate) fn may_be_null(&self) -> bool {
        self.column.nullable
    }
}

pub(crate) enum Source {
    /// The n-th column of the file.
    Column(usize),
    /// All of them.
    WholeRow,
    /// None: NULL, or the column's default.
    Missing,
}

impl ColumnPlan {
    /// Matches the columns of a spec to a file's.
    ///
    /// # Errors
    /// A wanted column is missing (MISSING_FIELD_AS = ERROR), ambiguous, of a type that the dialect
    /// does not know, or never casts to the type wanted.
    pub(crate) fn new(columns: Vec<FileColumn>, spec: &DecodeSpec) -> Result<Self> {
        if let Some(expected) = &spec.expected {
            check_columns(&columns, expected, spec.case_sensitive)?;
        }
        let mut outputs = Vec::with_capacity(spec.columns.len());
        for column in &spec.columns {
            let source = source_of(column, &columns, spec)?;
            let ty = match (&column.ty, &source) {
                (Some(ty), _) => ty.clone(),
                (None, Source::Column(index)) => columns[*index].natural_type()?,
                (None, Source::WholeRow) => SqlType::Variant,
                (None, Source::Missing) => SqlType::String,
            };
            let describe = || format!("column '{}'", column.name);
            match &source {
                Source::Column(index) => {
                    cast::check_field(&columns[*index].source, &ty)
                        .map_err(|error| of_this_file(error).context(describe()))?;
                    if let (Some(ExpectedColumns::Shared { of, .. }), Some(wanted)) =
                        (spec.expected.as_deref(), &column.ty)
                    {
                        check_type(&columns[*index], wanted, of)?;
                    }
                }
                Source::WholeRow => {
                    for column in &columns {
                        column.natural_type()?;
                    }
                    cast::check(&SqlType::Variant, &ty).map_err(|error| error.context(describe()))?;
                }
                Source::Missing => {}
            }
            outputs.push(Output { column: column.clone(), ty, source });
        }
        let whole = outputs.iter().any(|output| matches!(output.source, Source::WholeRow));
        let read = (0..columns.len())
            .filter(|i| {
                whole || outputs.iter().any(|o| matches!(o.source, Source::Column(column) if column == *i))
            })
            .collect();
        let fields: Vec<Field> =
            outputs.iter().map(|output| output.ty.to_field(&output.column.name, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { spec: spec.clone(), columns, outputs, read, schema })
    }
}

/// Holds a file's columns against those that are expected.
///
/// # Errors
/// They differ.
fn check_columns(columns: &[FileColumn], expected: &ExpectedColumns, case_sensitive: bool) -> Result<()> {
    match expected {
        ExpectedColumns::Same(expected) => {
            let same = |(column, (name, ty)): (&FileColumn, &(String, SqlType))| {
                column.name == *name && column.natural_type().is_ok_and(|natural| natural == *ty)
            };
            if columns.len() == expected.len() && columns.iter().zip(expected).all(same) {
                return Ok(());
            }
            Err(Error::bad_data("the columns of the file are not those that the transform was made for"))
        }
        ExpectedColumns::Shared { all: None, .. } => Ok(()),
        ExpectedColumns::Shared { of, all: Some(all) } => {
            let key = |name: &str| if case_sensitive { name.to_owned() } else { name.to_lowercase() };
            let known: HashSet<String> = all.iter().map(|name| key(name)).collect();
            let Some(new) = columns.iter().find(|column| !known.contains(&key(&column.name))) else {
                return Ok(());
            };
            let ty = new.natural_type().map_or_else(|_| String::new(), |ty| format!(" ({ty})"));
            let message =
                format!("column '{}'{ty} is not in file '{of}', whose columns * stands for", new.name);
            Err(Error::bad_data(message).hint(MERGE_HINT))
        }
    }
}

/// Holds the type of a file's column against that of another file's.
///
/// # Errors
/// Values would change; says both types.
fn check_type(column: &FileColumn, wanted: &SqlType, of: &str) -> Result<()> {
    let natural = column.natural_type()?;
    // A column of nothing but NULLs is one of any type.
    if column.field.data_type().is_null() || reads_exactly(&natural, wanted) {
        return Ok(());
    }
    let message = format!(
        "column '{}' is {natural} and in file '{of}' {wanted}, which does not hold all of its values",
        column.name
    );
    Err(Error::bad_data(message).hint(MERGE_HINT))
}

const MERGE_HINT: &str = "MISSING_FIELD_AS = FIELD_DEFAULT in the file format merges the columns of all files; or \
    name files that have the same columns";

/// Types that never cast are an error of the statement where it is planned. Here the statement is good for
/// other files: it is this one whose column does not fit.
fn of_this_file(error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput => Error::bad_data(error.message()),
        _ => error,
    }
}

fn source_of(column: &OutputColumn, columns: &[FileColumn], spec: &DecodeSpec) -> Result<Source> {
    let name = match &column.source {
        ColumnSource::WholeRow => return Ok(Source::WholeRow),
        ColumnSource::Position(index) if *index < columns.len() => return Ok(Source::Column(*index)),
        ColumnSource::Position(index) => {
            return Err(Error::bad_data(format!(
                "column {} is wanted, the file has {}",
                index + 1,
                columns.len()
            )));
        }
        ColumnSource::Name(name) => name,
    };
    let matches = |same: &dyn Fn(&str) -> bool| -> Vec<usize> {
        columns.iter().enumerate().filter(|(_, column)| same(&column.name)).map(|(i, _)| i).collect()
    };
    let mut found = matches(&|other| other == name);
    if found.is_empty() && !spec.case_sensitive {
        let lower = name.to_lowercase();
        found = matches(&|other| other.to_lowercase() == lower);
    }
    let list = |columns: &mut dyn Iterator<Item = &FileColumn>| {
        let names: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
        let shown = names[..names.len().min(50)].join(", ");
        if names.len() > 50 { format!("{shown}, … ({} in all)", names.len()) } else { shown }
    };
    match found.as_slice() {
        [one] => Ok(Source::Column(*one)),
        [] if spec.is_required(column) => Err(Error::bad_data(format!(
            "column '{name}' is not in the file, which has: {}",
            list(&mut columns.iter())
        ))
        .hint("MISSING_FIELD_AS = FIELD_DEFAULT fills missing columns in")),
        [] => Ok(Source::Missing),
        several => Err(Error::bad_data(format!(
            "column '{name}' is ambiguous in the file, which has: {}",
            list(&mut several.iter().map(|i| &columns[*i]))
        ))
        .hint("COLUMN_MATCH_MODE = CASE_SENSITIVE tells names apart by case")),
    }
}

/// Whether NULL_IF applies to values of this type.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}
