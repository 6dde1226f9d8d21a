//! NDJSON and JSON: one object a line, or an element.
//!
//! Comes in: a block of whole lines, or of elements and where they are. Goes out: batches. [`records`] walks
//! them once, checks their grammar and notes where the value of each wanted field begins and ends; [`cells`]
//! then reads one column at a time from these spans, straight into the builders. A bad line or element costs
//! its row only, and the next one starts afresh.

pub(crate) mod cells;
pub(crate) mod records;
mod whole_row;

use std::sync::Arc;

use stevedore_common::file_format::{FormatKind, MissingFieldAs, NullFieldAs};
use stevedore_common::{Error, Result};

use crate::batches::{BatchAssembler, BatchPlan};
use crate::blocks::TextBlock;
use crate::parse::columns::Marks;
use crate::spec::{ColumnSource, DecodeSpec};
use crate::text::{BlockDecoder, EachBatch};
use cells::{JsonCells, Sampled};
use records::{Names, Problem, Records};

/// Spans that are held at once, as many as stay in the cache.
const SPANS_AT_ONCE: usize = 1 << 14;

/// Decodes blocks of NDJSON or JSON.
#[derive(Debug)]
pub(crate) struct NdjsonDecoder {
    plan: BatchPlan,
    names: Names,
    /// For each column the slot of its field; `None`: the whole row.
    slots: Vec<Option<usize>>,
    /// For each slot whether a record must have it.
    required: Vec<bool>,
}

impl NdjsonDecoder {
    /// A decoder for a specification.
    ///
    /// # Errors
    /// Invalid input for columns that have no name and for a time zone that does not exist.
    pub(crate) fn new(spec: Arc<DecodeSpec>) -> Result<Self> {
        let mut names = Vec::new();
        let mut slots = Vec::new();
        let mut required: Vec<bool> = Vec::new();
        for column in &spec.columns {
            let slot = match &column.source {
                ColumnSource::WholeRow => None,
                ColumnSource::Name(name) => Some(match names.iter().position(|known| known == name) {
                    Some(slot) => slot,
                    None => {
                        names.push(name.clone());
                        names.len() - 1
                    }
                }),
                ColumnSource::Position(_) => {
                    return Err(Error::invalid(format!(
                        "column {} is given by position; JSON fields have names",
                        column.name
                    )));
                }
            };
            required.resize(names.len(), false);
            if let Some(required) = slot.and_then(|slot| required.get_mut(slot)) {
                *required |= spec.is_required(column);
            }
            slots.push(slot);
        }
        Ok(Self {
            names: Names::new(names, spec.case_sensitive),
            slots,
            required,
            plan: BatchPlan::new(spec)?,
        })
    }
}

impl NdjsonDecoder {
    /// A field that a record must have is not there.
    fn missing_field(&self, slot: usize) -> String {
        let spec = &self.plan.spec;
        let wants = |column: &usize| self.slots.get(*column) == Some(&Some(slot));
        let required =
            |column: &usize| spec.columns.get(*column).is_some_and(|column| spec.is_required(column));
        let columns = || (0..self.slots.len()).filter(wants);
        let column = columns().find(required).or_else(|| columns().next()).unwrap_or_default();
        self.plan.missing_field(self.names.name(slot), column)
    }
}

impl BlockDecoder for NdjsonDecoder {
    fn decode_each(&self, block: TextBlock, each: &mut EachBatch<'_>) -> Result<Option<TextBlock>> {
        let bytes = &block.bytes[..];
        let spec = &self.plan.spec;
        let rows_at_once = (SPANS_AT_ONCE / (2 * self.names.len() + 1)).clamp(1, 1024);
        let unit = if spec.format.kind == FormatKind::Json { "element" } else { "line" };
        let missing_is_default = spec.evolves || spec.format.missing_field_as == MissingFieldAs::FieldDefault;
        let sampled = |i: usize| {
            let ty = spec.columns.get(i).filter(|_| spec.sampled)?.ty.as_ref()?;
            Sampled::of_type(ty)
        };
        let mut records = Records::new(&self.names, &block, spec.max_nesting, &self.required);
        records.tell_unknown = spec.evolves;
        let mut batches = BatchAssembler::new(&self.plan, &block, self.names.len() * 4)?;
        loop {
            records.fill(rows_at_once.min(batches.room()));
            if let Some((row, name)) = records.unknown() {
                let place = records.lines().get(*row).map_or(String::new(), |line| format!("line {line}: "));
                return Err(unknown_field(name, &place));
            }
            if records.rows() == 0 {
                break;
            }
            for (row, problem) in records.problems() {
                batches.reject(*row, || match problem {
                    Problem::Invalid { column, reason } => {
                        format!("invalid JSON at byte {column} of the {unit}: {reason}")
                    }
                    Problem::NotAnObject if unit == "line" => "expected an object, one a line".to_owned(),
                    Problem::NotAnObject => "expected an object".to_owned(),
                    Problem::Missing(slot) => self.missing_field(*slot),
                });
            }
            batches.append(records.lines(), |i, builder, marks: &mut Marks<'_>| {
                let cells = JsonCells {
                    bytes,
                    records: &records,
                    slot: self.slots[i],
                    null_if: &spec.format.null_if,
                    missing_is_default,
                    null_is_default: spec.format.null_field_as == NullFieldAs::FieldDefault,
                    sampled: sampled(i),
                };
                builder.append_json(&cells, marks);
            });
            if batches.room() == 0 {
                let position = records.position();
                if each(batches.finish(position)?)?.is_break() {
                    return Ok(block.rest(
                        position,
                        records.line(),
                        batches.input_left(),
                        records.elements_left(),
                    ));
                }
            }
        }
        batches.finish_block(each)?;
        Ok(None)
    }
}

/// A field that the table neither has nor gets: it turned up behind the records that were looked at.
fn unknown_field(name: &str, place: &str) -> Error {
    let shown: String = name.chars().take(100).collect();
    Error::invalid(format!(
        "{place}field '{shown}' is no column of the table, and was in none of the records that were looked at for new \
         columns"
    ))
    .hint(
        "look at more of them with SCHEMA_EVOLUTION = (SAMPLE_FILES = …, SAMPLE_RECORDS_PER_FILE = …, \
         SAMPLE_TOTAL_RECORDS = …), or add the column with ALTER TABLE … ADD COLUMN",
    )
}
