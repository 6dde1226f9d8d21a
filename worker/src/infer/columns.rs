//! Columns of files merged: one type for all files, and which files have it.

use std::collections::HashMap;

use stevedore_common::types::SqlType;

/// Files of a column that are named; of the others only the number is told.
const MOST_NAMES: usize = 20;
/// The largest precision of a decimal.
const MOST_DIGITS: u8 = 38;

/// A column of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileColumn {
    pub(super) name: String,
    /// `None`: only NULLs were seen.
    pub(super) ty: Option<SqlType>,
    pub(super) nullable: bool,
}

/// A column of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferredColumn {
    /// Its name.
    pub name: String,
    /// The type that holds its values in all files.
    pub ty: SqlType,
    /// Whether it may be NULL, or is missing in some file.
    pub nullable: bool,
    /// The files that have it, for people to read.
    pub filenames: String,
}

#[derive(Debug)]
struct Merged {
    column: FileColumn,
    files: usize,
    names: Vec<String>,
}

/// The columns of the files so far.
#[derive(Debug)]
pub(super) struct Merge {
    /// CSV and TSV load by place: the names are those of the first file.
    by_place: bool,
    columns: Vec<Merged>,
    places: HashMap<String, usize>,
    files: usize,
}

impl Merge {
    pub(super) fn new(by_place: bool) -> Self {
        Self { by_place, columns: Vec::new(), places: HashMap::new(), files: 0 }
    }

    /// Adds the columns of the next file.
    pub(super) fn add(&mut self, file: &str, columns: Vec<FileColumn>) {
        self.files += 1;
        for (place, column) in columns.into_iter().enumerate() {
            let next = self.columns.len();
            let known =
                if self.by_place { place } else { *self.places.entry(column.name.clone()).or_insert(next) };
            match self.columns.get_mut(known) {
                Some(merged_column) => {
                    let ty = merged_column.column.ty.take();
                    merged_column.column.ty = merged(ty, column.ty);
                    merged_column.column.nullable |= column.nullable;
                    merged_column.files += 1;
                    if merged_column.names.len() < MOST_NAMES {
                        merged_column.names.push(file.to_owned());
                    }
                }
                None => self.columns.push(Merged { column, files: 1, names: vec![file.to_owned()] }),
            }
        }
    }

    pub(super) fn finish(self) -> Vec<InferredColumn> {
        let files = self.files;
        self.columns
            .into_iter()
            .map(|merged| {
                let mut filenames = merged.names.join(", ");
                if merged.files > merged.names.len() {
                    filenames.push_str(&format!(", … ({} files)", merged.files));
                }
                InferredColumn {
                    name: merged.column.name,
                    ty: merged.column.ty.unwrap_or(SqlType::String),
                    nullable: merged.column.nullable || merged.files < files,
                    filenames,
                }
            })
            .collect()
    }
}

/// The type that holds the values of two types; `None` is a column without values.
pub(crate) fn merged(a: Option<SqlType>, b: Option<SqlType>) -> Option<SqlType> {
    let (a, b) = match (a, b) {
        (a, None) => return a,
        (None, b) => return b,
        (Some(a), Some(b)) => (a, b),
    };
    let is_nested = |ty: &SqlType| {
        matches!(
            ty,
            SqlType::Variant | SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_)
        )
    };
    let is_time = |ty: &SqlType| matches!(ty, SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz);
    Some(match (a, b) {
        (a, b) if a == b => a,
        (a, b) if is_nested(&a) || is_nested(&b) => SqlType::Variant,
        (a, b) if is_time(&a) && is_time(&b) => SqlType::Timestamp,
        (a, b) if a.is_numeric() && b.is_numeric() => number(&a, &b),
        _ => SqlType::String,
    })
}

/// Digits before and behind the point, of integers and decimals.
fn digits(ty: &SqlType) -> Option<(u8, u8)> {
    Some(match ty {
        SqlType::Int8 | SqlType::UInt8 => (3, 0),
        SqlType::Int16 | SqlType::UInt16 => (5, 0),
        SqlType::Int32 | SqlType::UInt32 => (10, 0),
        SqlType::Int64 => (19, 0),
        SqlType::UInt64 => (20, 0),
        SqlType::Decimal(precision, scale) => (precision.saturating_sub(*scale), *scale),
        _ => return None,
    })
}

/// Two unlike numbers.
fn number(a: &SqlType, b: &SqlType) -> SqlType {
    let (Some((before, behind)), Some((before_b, behind_b))) = (digits(a), digits(b)) else {
        return SqlType::Float64;
    };
    let (before, behind) = (before.max(before_b), behind.max(behind_b));
    let is_decimal = matches!(a, SqlType::Decimal(..)) || matches!(b, SqlType::Decimal(..));
    match before + behind {
        // Unlike integers.
        _ if !is_decimal && before < 20 => SqlType::Int64,
        precision if precision <= MOST_DIGITS => SqlType::Decimal(precision, behind),
        _ => SqlType::Float64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, ty: Option<SqlType>, nullable: bool) -> FileColumn {
        FileColumn { name: name.to_owned(), ty, nullable }
    }

    #[test]
    fn a_type_holds_the_values_of_both() {
        let merge = |a: SqlType, b: SqlType| {
            let there = merged(Some(a.clone()), Some(b.clone()));
            assert_eq!(there, merged(Some(b), Some(a)), "the order does not matter");
            there.map(|ty| ty.to_string()).unwrap_or_default()
        };
        assert_eq!(merge(SqlType::Int64, SqlType::Float64), "DOUBLE");
        assert_eq!(merge(SqlType::Int32, SqlType::Int64), "BIGINT");
        assert_eq!(merge(SqlType::Int64, SqlType::UInt64), "DECIMAL(20, 0)");
        assert_eq!(merge(SqlType::Decimal(10, 2), SqlType::Decimal(12, 4)), "DECIMAL(12, 4)");
        assert_eq!(merge(SqlType::Decimal(38, 2), SqlType::Decimal(38, 4)), "DOUBLE");
        assert_eq!(merge(SqlType::Boolean, SqlType::Int64), "VARCHAR");
        assert_eq!(merge(SqlType::Date, SqlType::Timestamp), "TIMESTAMP");
        assert_eq!(merge(SqlType::Date, SqlType::String), "VARCHAR");
        assert_eq!(merge(SqlType::Array(Box::new(SqlType::Int64)), SqlType::String), "VARIANT");
        assert_eq!(merged(None, Some(SqlType::Date)), Some(SqlType::Date));
    }

    #[test]
    fn files_merge_by_name_and_a_missing_column_is_nullable() {
        let mut merge = Merge::new(false);
        merge.add("a", vec![column("x", Some(SqlType::Int64), false), column("y", None, false)]);
        merge.add(
            "b",
            vec![column("z", Some(SqlType::Date), false), column("x", Some(SqlType::Int64), false)],
        );
        let columns = merge.finish();
        let shown: Vec<_> = columns
            .iter()
            .map(|c| (c.name.as_str(), c.ty.to_string(), c.nullable, c.filenames.as_str()))
            .collect();
        let expected = [
            ("x", "BIGINT".to_owned(), false, "a, b"),
            ("y", "VARCHAR".to_owned(), true, "a"),
            ("z", "DATE".to_owned(), true, "b"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn files_merge_by_place_where_they_load_by_place() {
        let mut merge = Merge::new(true);
        merge.add("a", vec![column("x", Some(SqlType::Int64), true)]);
        merge.add("b", vec![column("c1", Some(SqlType::Float64), true), column("c2", None, true)]);
        let columns = merge.finish();
        let names: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.ty.to_string())).collect();
        assert_eq!(names, [("x", "DOUBLE".to_owned()), ("c2", "VARCHAR".to_owned())]);
    }

    #[test]
    fn many_files_are_counted_rather_than_named() {
        let mut merge = Merge::new(false);
        for n in 0..30 {
            merge.add(&format!("f{n}"), vec![column("x", None, true)]);
        }
        let columns = merge.finish();
        let names = columns.first().map(|column| column.filenames.clone()).unwrap_or_default();
        assert!(names.starts_with("f0, f1, ") && names.ends_with("f19, … (30 files)"), "{names}");
    }
}
