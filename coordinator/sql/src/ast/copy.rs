//! COPY INTO a table: source, file choice, options.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AnalyzedTransform, FileFormatRef, LocationRef, ObjectRef};

/// COPY INTO a table.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyInto {
    /// The target.
    pub table: ObjectRef,
    /// The target's columns, as written; `None` is all of them.
    pub columns: Option<Vec<String>>,
    /// Where from.
    pub source: CopySource,
    /// FILES: paths relative to the location.
    pub files: Option<Vec<String>>,
    /// PATTERN: a regular expression, checked, that must match the whole path below the location.
    pub pattern: Option<String>,
    /// FILE_FORMAT; `None` is the stage's.
    pub file_format: Option<FileFormatRef>,
    /// The options that the statement sets.
    pub options: CopyOptions,
    /// VALIDATION_MODE: nothing is loaded.
    pub validation: Option<ValidationMode>,
}

/// VALIDATION_MODE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValidationMode {
    /// RETURN_ERRORS: the rows that would be rejected, of the files that would be loaded.
    ReturnErrors,
    /// RETURN_ALL_ERRORS: also of those that were loaded before.
    ReturnAllErrors,
    /// RETURN_n_ROWS: the first rows as they would be loaded, or the first error; RETURN_ROWS: all rows.
    ReturnRows(Option<u64>),
}

impl CopyInto {
    /// The location that files are read from.
    pub fn location(&self) -> &LocationRef {
        match &self.source {
            CopySource::Location(location) => location,
            CopySource::Transform(transform) => &transform.location,
        }
    }
}

/// What COPY INTO reads.
#[derive(Debug, Clone, PartialEq)]
pub enum CopySource {
    /// Files, whose columns match the table's by name or position.
    Location(LocationRef),
    /// `(SELECT … FROM location [WHERE …])`.
    Transform(Box<AnalyzedTransform>),
}

/// The options of COPY INTO a table, as a statement or a stage sets them. What is `None` was not
/// set; the methods of the same names give the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyOptions {
    /// ON_ERROR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// FORCE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// PURGE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge: Option<bool>,
    /// MAX_FILES.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u32>,
    /// RETURN_FAILED_ONLY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_failed_only: Option<bool>,
    /// COLUMN_MATCH_MODE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column_match_mode: Option<ColumnMatchMode>,
    /// DISABLE_VARIANT_CHECK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_variant_check: Option<bool>,
    /// SCHEMA_EVOLUTION.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_evolution: Option<SchemaSample>,
}

impl CopyOptions {
    /// The options with those of `fallback` (a stage's) where none is set.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        let Self {
            on_error,
            force,
            purge,
            max_files,
            return_failed_only,
            column_match_mode,
            disable_variant_check,
            schema_evolution,
        } = self;
        Self {
            on_error: on_error.or(fallback.on_error),
            force: force.or(fallback.force),
            purge: purge.or(fallback.purge),
            max_files: max_files.or(fallback.max_files),
            return_failed_only: return_failed_only.or(fallback.return_failed_only),
            column_match_mode: column_match_mode.or(fallback.column_match_mode),
            disable_variant_check: disable_variant_check.or(fallback.disable_variant_check),
            schema_evolution: schema_evolution.or(fallback.schema_evolution),
        }
    }

    /// ON_ERROR; abort.
    pub fn on_error(&self) -> OnError {
        self.on_error.unwrap_or_default()
    }

    /// FORCE; false.
    pub fn force(&self) -> bool {
        self.force.unwrap_or(false)
    }

    /// PURGE; false.
    pub fn purge(&self) -> bool {
        self.purge.unwrap_or(false)
    }

    /// RETURN_FAILED_ONLY; false.
    pub fn return_failed_only(&self) -> bool {
        self.return_failed_only.unwrap_or(false)
    }

    /// COLUMN_MATCH_MODE; case-insensitive.
    pub fn column_match_mode(&self) -> ColumnMatchMode {
        self.column_match_mode.unwrap_or_default()
    }

    /// DISABLE_VARIANT_CHECK; false.
    pub fn disable_variant_check(&self) -> bool {
        self.disable_variant_check.unwrap_or(false)
    }

    /// SCHEMA_EVOLUTION; AUTO for each of its numbers.
    pub fn schema_evolution(&self) -> SchemaSample {
        self.schema_evolution.unwrap_or_default()
    }

    /// The options that are set, as `NAME = value` in a fixed order, for `DESC STAGE`.
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        let mut push = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
        push("ON_ERROR", self.on_error.map(|v| v.to_string()));
        push("FORCE", self.force.map(|v| v.to_string()));
        push("PURGE", self.purge.map(|v| v.to_string()));
        push("MAX_FILES", self.max_files.map(|v| v.to_string()));
        push("RETURN_FAILED_ONLY", self.return_failed_only.map(|v| v.to_string()));
        push("COLUMN_MATCH_MODE", self.column_match_mode.map(|v| v.to_string()));
        push("DISABLE_VARIANT_CHECK", self.disable_variant_check.map(|v| v.to_string()));
        push("SCHEMA_EVOLUTION", self.schema_evolution.map(|v| v.to_string()));
        pairs
    }
}

impl fmt::Display for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.to_pairs().into_iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{name} = {value}")?;
        }
        Ok(())
    }
}

/// ON_ERROR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The first bad row fails the statement.
    #[default]
    Abort,
    /// `abort_N`, N ≥ 1: the N-th error does; those before it are dropped.
    AbortAfter(u64),
    /// Bad rows are dropped and counted.
    Continue,
    /// A file with a bad row is left out.
    SkipFile,
    /// `skip_file_N`, N ≥ 1: a file with N bad rows is left out.
    SkipFileCount(u64),
    /// `skip_file_N%`, N from 0 to 100: a file of which N % of the rows are bad is left out.
    SkipFilePercent(u8),
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abort => f.write_str("abort"),
            Self::AbortAfter(n) => write!(f, "abort_{n}"),
            Self::Continue => f.write_str("continue"),
            Self::SkipFile => f.write_str("skip_file"),
            Self::SkipFileCount(n) => write!(f, "skip_file_{n}"),
            Self::SkipFilePercent(n) => write!(f, "skip_file_{n}%"),
        }
    }
}

/// SCHEMA_EVOLUTION: how much of NDJSON and JSON files is looked at to find the columns that the table lacks.
/// `None` is AUTO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct SchemaSample {
    /// SAMPLE_FILES.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// SAMPLE_RECORDS_PER_FILE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_file: Option<u64>,
    /// SAMPLE_TOTAL_RECORDS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_records: Option<u64>,
}

impl SchemaSample {
    /// Files; 64.
    pub fn files(&self) -> u32 {
        self.files.unwrap_or(64)
    }

    /// Records of each file; 1,000.
    pub fn records_per_file(&self) -> u64 {
        self.records_per_file.unwrap_or(1_000)
    }

    /// Records of all files together; 10,000.
    pub fn total_records(&self) -> u64 {
        self.total_records.unwrap_or(10_000)
    }
}

impl fmt::Display for SchemaSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u64>| n.map_or("AUTO".to_owned(), |n| n.to_string());
        write!(
            f,
            "(SAMPLE_FILES = {}, SAMPLE_RECORDS_PER_FILE = {}, SAMPLE_TOTAL_RECORDS = {})",
            number(self.files.map(u64::from)),
            number(self.records_per_file),
            number(self.total_records)
        )
    }
}

/// COLUMN_MATCH_MODE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnMatchMode {
    /// Names match in any case.
    #[default]
    CaseInsensitive,
    /// Names match exactly.
    CaseSensitive,
}

impl fmt::Display for ColumnMatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CaseInsensitive => "case_insensitive",
            Self::CaseSensitive => "case_sensitive",
        })
    }
}
