//! What a decoder is asked for and what it answers.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use stevedore_common::file_format::{FileFormat, MissingFieldAs};
use stevedore_common::types::SqlType;

/// Where the values of an output column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnSource {
    /// The n-th field of a record, from 0 (CSV, TSV).
    Position(usize),
    /// The field of this name (all but CSV and TSV); any case unless the spec says otherwise.
    Name(String),
    /// The whole record as a VARIANT with sorted keys (`$1` of named formats).
    WholeRow,
}

/// A column to produce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Name in the batch and in row errors (`for column 2 (b INT)`).
    pub name: String,
    /// Type of the values. Text formats parse straight into it; columnar ones cast to it.
    /// `None`: the file's own type (Parquet, ORC, Avro, Arrow previews); VARCHAR for CSV and TSV, VARIANT for NDJSON and JSON.
    pub ty: Option<SqlType>,
    /// Where it comes from.
    pub source: ColumnSource,
    /// Whether NULL is allowed; a NULL elsewhere rejects the row.
    pub nullable: bool,
    /// Whether the target column has a DEFAULT. Where an option says FIELD_DEFAULT, rows that need it
    /// are marked in [`DecodedBatch::defaulted`] (their value is NULL, the NOT NULL check is left to
    /// whoever fills the default in); without a default the value is NULL.
    pub has_default: bool,
}

/// What the columns of a file are held against before it is read, where its format says them. Files with others
/// are bad data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedColumns {
    /// These and no others, in order: what a transform was compiled for.
    Same(Vec<(String, SqlType)>),
    /// The types wanted are those of another file. Each column wanted must be read as its type without a change
    /// to any value.
    Shared {
        /// The name of that file.
        of: String,
        /// The names of its columns, where a file may have no others.
        all: Option<Vec<String>>,
    },
}

/// Settings of casts that come from the session or the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CastOptions {
    /// IANA time zone that text without a zone is read in.
    pub timezone: String,
    /// `numeric_cast_option = 'truncate'`: decimals become integers by truncation rather than rounding half away from zero.
    pub truncate: bool,
    /// DISABLE_VARIANT_CHECK: text that is no JSON becomes NULL rather than an error.
    pub invalid_json_as_null: bool,
}

impl Default for CastOptions {
    fn default() -> Self {
        Self { timezone: "UTC".into(), truncate: false, invalid_json_as_null: false }
    }
}

/// What to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeSpec {
    /// The format and all its options.
    pub format: FileFormat,
    /// The columns wanted, in the order of the batch. Others are not parsed.
    pub columns: Vec<OutputColumn>,
    /// The numbers of the columns in row errors, from 1; empty: their places in `columns`.
    pub numbers: Vec<usize>,
    /// CSV and TSV: the number of fields a record must have (ERROR_ON_COLUMN_COUNT_MISMATCH); `None`: any.
    pub record_fields: Option<usize>,
    /// Text formats: one column with the list of each record's fields as they are (of JSON the record)
    /// instead of `columns`; what inference looks at.
    pub raw_records: bool,
    /// COLUMN_MATCH_MODE = CASE_SENSITIVE.
    pub case_sensitive: bool,
    /// The columns are all that the table takes: a nullable one that is missing is its default, whatever
    /// MISSING_FIELD_AS says, and a field of NDJSON or JSON that is none of them ends the file as invalid input.
    pub evolves: bool,
    /// NDJSON and JSON: the types are what a sample showed, and nobody asked for them. A value that would have made
    /// the sample show a wider one rejects its row, where a cast would change it in silence.
    pub sampled: bool,
    /// What each file's columns must be besides castable to the types wanted.
    pub expected: Option<Arc<ExpectedColumns>>,
    /// Settings of casts.
    pub cast: CastOptions,
    /// Rows a batch, at most (default 8192).
    pub batch_rows: usize,
    /// Deepest JSON nesting accepted (default 128).
    pub max_nesting: usize,
    /// The largest page of a Parquet file or block of an Avro file, decompressed, bytes.
    pub max_block_bytes: usize,
}

impl DecodeSpec {
    /// The default of `max_block_bytes`. Common writers stay below 100 MB.
    pub const MAX_BLOCK_BYTES: usize = 128 << 20;
    /// Memory that a batch may take, about, whatever `batch_rows` says. A single row may take more.
    pub const BATCH_BYTES: usize = 8 << 20;

    /// The default limits for a format and columns.
    pub fn new(format: FileFormat, columns: Vec<OutputColumn>) -> Self {
        Self {
            format,
            columns,
            numbers: Vec::new(),
            record_fields: None,
            raw_records: false,
            case_sensitive: false,
            evolves: false,
            sampled: false,
            expected: None,
            cast: CastOptions::default(),
            batch_rows: 8192,
            max_nesting: 128,
            max_block_bytes: Self::MAX_BLOCK_BYTES,
        }
    }

    /// Whether a record or file without a column is an error.
    pub(crate) fn is_required(&self, column: &OutputColumn) -> bool {
        self.format.missing_field_as == MissingFieldAs::Error && !(self.evolves && column.nullable)
    }

    /// The number that row errors give to the n-th column.
    pub fn number(&self, index: usize) -> usize {
        self.numbers.get(index).copied().unwrap_or(index + 1)
    }

    /// The schema of the batches for text formats, whose types do not depend on the file.
    pub fn text_schema(&self) -> SchemaRef {
        let untyped = match self.format.kind {
            kind if kind.is_json() => SqlType::Variant,
            _ => SqlType::String,
        };
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|column| column.ty.as_ref().unwrap_or(&untyped).to_field(&column.name, true))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// A row that was rejected. The text is one sentence, as in
/// `invalid value 'b' for column 1 (b INT): invalid digit`; values are cut at 100 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Text formats: the physical line at which the record starts, from 1 within the file (or part).
    /// Columnar formats: the row, from 1 within the file.
    pub line: u64,
    /// The row within the file (or part), from 0, rejected rows counted.
    pub row: u64,
    /// What is wrong.
    pub message: String,
}

impl RowError {
    /// JSON: people find an element by its number, which the message then begins with.
    pub fn name_element(&mut self) {
        self.message.insert_str(0, &format!("element {}: ", self.row + 1));
    }
}

/// Some rows of one file, in file order.
#[derive(Debug, Clone)]
pub struct DecodedBatch {
    /// The good rows. All fields are nullable.
    pub batch: RecordBatch,
    /// For each row of `batch`: its number within the file (or part), from 0, rejected rows counted
    /// (`metadata$file_row_number`).
    pub row_numbers: Vec<u64>,
    /// For each row of `batch`: the line (as [`RowError::line`]), so that a later cast error names it.
    pub lines: Vec<u64>,
    /// For each column: the rows whose value is to be the column's default, if any.
    pub defaulted: Vec<Option<BooleanArray>>,
    /// The rejected rows, in order.
    pub errors: Vec<RowError>,
    /// Bytes of input (as stored, before decompression) that this batch stands for; for progress.
    pub input_bytes: u64,
}

impl DecodedBatch {
    /// Memory that it holds, about.
    pub fn memory_bytes(&self) -> usize {
        let numbers = size_of::<u64>() * (self.row_numbers.len() + self.lines.len());
        let defaulted = self.defaulted.iter().flatten().map(|marked| marked.len() / 8).sum::<usize>();
        let error = |error: &RowError| size_of::<RowError>() + error.message.len();
        let errors = self.errors.iter().map(error).sum::<usize>();
        self.batch.get_array_memory_size() + numbers + defaulted + errors
    }
}
