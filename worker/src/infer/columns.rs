//! Columns of files merged: one type for all files, and which files have it.

use std::collections::{HashMap, HashSet};

use stevedore_common::merged_type::merged;
use stevedore_common::types::SqlType;

/// Files of a column that are named; of the others only the number is told.
const MOST_NAMES: usize = 20;

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
    /// Names that differ in case only are those of different columns.
    case_sensitive: bool,
    columns: Vec<Merged>,
    /// By the name as it is.
    places: HashMap<String, usize>,
    /// The first of each name in lower case.
    folded: HashMap<String, usize>,
    files: usize,
}

impl Merge {
    pub(super) fn new(by_place: bool, case_sensitive: bool) -> Self {
        Self {
            by_place,
            case_sensitive,
            columns: Vec::new(),
            places: HashMap::new(),
            folded: HashMap::new(),
            files: 0,
        }
    }

    /// The place of a column of a file that has `of_file`, as loads match names: the exact one first. Two columns of
    /// one file are never the same.
    fn place(&mut self, name: &str, of_file: &HashSet<&str>) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let next = self.columns.len();
        let folded = name.to_lowercase();
        let place = match self.folded.get(&folded) {
            Some(place) if !self.case_sensitive => {
                let other = self.columns.get(*place).map(|merged| merged.column.name.as_str());
                if other.is_some_and(|other| of_file.contains(other)) { next } else { *place }
            }
            _ => next,
        };
        self.folded.entry(folded).or_insert(place);
        if place == next {
            self.places.insert(name.to_owned(), place);
        }
        place
    }

    /// Adds the columns of the next file.
    pub(super) fn add(&mut self, file: &str, columns: Vec<FileColumn>) {
        self.files += 1;
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let of_file: HashSet<&str> = names.iter().map(String::as_str).collect();
        for (place, column) in columns.into_iter().enumerate() {
            let known = if self.by_place { place } else { self.place(&column.name, &of_file) };
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

    /// The names in order of appearance with their types.
    pub(super) fn types(self) -> Vec<(String, Option<SqlType>)> {
        self.columns.into_iter().map(|merged| (merged.column.name, merged.column.ty)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, ty: Option<SqlType>, nullable: bool) -> FileColumn {
        FileColumn { name: name.to_owned(), ty, nullable }
    }

    #[test]
    fn files_merge_by_name_and_a_missing_column_is_nullable() {
        let mut merge = Merge::new(false, false);
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
    fn names_that_differ_in_case_are_one_column_unless_a_file_has_both() {
        let names = |case_sensitive: bool, files: &[&[&str]]| {
            let mut merge = Merge::new(false, case_sensitive);
            for file in files {
                merge.add("f", file.iter().map(|name| column(name, Some(SqlType::Int64), true)).collect());
            }
            merge.types().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(false, &[&["id"], &["ID", "x"], &["Id"]]), "id x");
        assert_eq!(names(true, &[&["id"], &["ID", "x"]]), "id ID x");
        assert_eq!(names(false, &[&["a", "A"], &["A", "a"]]), "a A");
        assert_eq!(names(false, &[&["A"], &["a", "A"]]), "A a");
    }

    #[test]
    fn files_merge_by_place_where_they_load_by_place() {
        let mut merge = Merge::new(true, false);
        merge.add("a", vec![column("x", Some(SqlType::Int64), true)]);
        merge.add("b", vec![column("c1", Some(SqlType::Float64), true), column("c2", None, true)]);
        let columns = merge.finish();
        let names: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.ty.to_string())).collect();
        assert_eq!(names, [("x", "DOUBLE".to_owned()), ("c2", "VARCHAR".to_owned())]);
    }

    #[test]
    fn many_files_are_counted_rather_than_named() {
        let mut merge = Merge::new(false, false);
        for n in 0..30 {
            merge.add(&format!("f{n}"), vec![column("x", None, true)]);
        }
        let columns = merge.finish();
        let names = columns.first().map(|column| column.filenames.clone()).unwrap_or_default();
        assert!(names.starts_with("f0, f1, ") && names.ends_with("f19, … (30 files)"), "{names}");
    }
}
