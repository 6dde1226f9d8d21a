//! CSV and TSV: records of delimited fields.
//!
//! Comes in: a block of whole records. Goes out: batches. [`dialect`] says what the bytes mean and walks
//! one record at a time, exactly and slowly; [`tokens`] does the same for many records with bit masks and
//! falls back to it wherever quoting is unusual; [`cells`] reads the fields of one column from the offsets
//! that the tokeniser wrote; [`records`] gives all fields of a record, for inference. A bad field costs its row only.

pub(crate) mod cells;
pub(crate) mod dialect;
pub(crate) mod records;
pub(crate) mod tokens;

use std::sync::Arc;

use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use crate::batches::{BatchAssembler, BatchPlan};
use crate::blocks::TextBlock;
use crate::parse::columns::Marks;
use crate::spec::{ColumnSource, DecodeSpec};
use crate::text::{BlockDecoder, EachBatch};
use cells::{CsvCells, FieldRules};
use dialect::Dialect;
use tokens::{Problem, Tokeniser, Tokens};

/// Fields whose offsets are held at once: they stay in the cache while their columns are parsed.
const FIELDS_AT_ONCE: usize = 1 << 14;

/// Decodes blocks of CSV or TSV.
#[derive(Debug)]
pub(crate) struct CsvDecoder {
    plan: BatchPlan,
    dialect: Dialect,
    fields: FieldRules,
    /// For each column the field it comes from.
    positions: Vec<usize>,
    /// Fields of a record that are looked at: up to the last one wanted.
    width: usize,
    expected: Option<usize>,
}

impl CsvDecoder {
    /// A decoder for a specification.
    ///
    /// # Errors
    /// Invalid input for columns that have no position and for a time zone that does not exist.
    pub(crate) fn new(spec: Arc<DecodeSpec>) -> Result<Self> {
        let positions = spec
            .columns
            .iter()
            .map(|column| match &column.source {
                ColumnSource::Position(position) => Ok(*position),
                _ => Err(Error::invalid(format!(
                    "column {} is not given by position; {} files have no field names",
                    column.name, spec.format.kind
                ))),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            dialect: Dialect::new(&spec.format),
            fields: FieldRules::new(&spec.format),
            width: positions.iter().max().map_or(0, |last| last + 1),
            positions,
            expected: spec.record_fields.filter(|_| spec.format.error_on_column_count_mismatch),
            plan: BatchPlan::new(spec)?,
        })
    }
}

impl BlockDecoder for CsvDecoder {
    fn decode_each(&self, block: TextBlock, each: &mut EachBatch<'_>) -> Result<Option<TextBlock>> {
        let bytes = &block.bytes[..];
        let mut tokeniser = Tokeniser::new(&self.dialect, bytes, block.first_line);
        let rows_at_once = (FIELDS_AT_ONCE / (self.width + 1)).clamp(1, 1024);
        let mut tokens = Tokens::new(self.width, self.expected, rows_at_once);
        let mut batches = BatchAssembler::new(&self.plan, &block, self.width)?;
        loop {
            tokeniser.fill(&mut tokens, rows_at_once.min(batches.room()));
            if tokens.rows() == 0 {
                break;
            }
            for (row, problem) in &tokens.problems {
                batches.reject(*row, || match problem {
                    Problem::FieldCount(found) => {
                        let expected = self.expected.unwrap_or_default();
                        let plural = if expected == 1 { "" } else { "s" };
                        format!("expected {expected} column{plural}, found {found}")
                    }
                    Problem::UnclosedQuote(line) => format!(
                        "unclosed quote: the quoted field that begins in line {line} does not end before the file does"
                    ),
                });
            }
            batches.append(&tokens.lines, |i, builder, marks: &mut Marks<'_>| {
                let cells = CsvCells {
                    bytes,
                    tokens: &tokens,
                    dialect: &self.dialect,
                    rules: &self.fields,
                    position: self.positions[i],
                    is_string: marks.column.ty == SqlType::String,
                };
                builder.append_csv(&cells, marks);
            });
            if batches.room() == 0 {
                let position = tokeniser.position();
                if each(batches.finish(position)?)?.is_break() {
                    return Ok(block.rest(position, tokeniser.line(), batches.input_left(), None));
                }
            }
        }
        batches.finish_block(each)?;
        Ok(None)
    }
}
