//! Builders that turn the fields of many records into one Arrow array, column by column.
//!
//! Comes in: [`Cells`], the fields of one column over a run of records, from any text format. Goes out: an
//! array with exactly one entry a record; a field that cannot be read is NULL there and its record is
//! marked in [`Marks`], so that whoever assembles the batch drops the row. The inner loops are
//! monomorphic in the type and in the format; one dynamic call covers about a thousand fields.

pub(crate) mod bytes;
pub(crate) mod nested;
pub(crate) mod primitive;

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::ArrayRef;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use stevedore_common::file_format::BinaryFormat;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use crate::csv::cells::CsvCells;
use crate::errors;
use crate::ndjson::cells::JsonCells;
use crate::parse::datetime::Zone;
use crate::parse::{Reason, lossy_head};
use crate::spec::DecodeSpec;

/// One field.
pub(crate) enum Cell<'a> {
    /// NULL.
    Null,
    /// The column's default.
    Default,
    /// A value, as text.
    Text(&'a [u8]),
    /// Text that the format itself cannot read.
    Bad(&'a [u8], Reason),
}

/// The fields of one column over a run of records.
pub(crate) trait Cells {
    /// How many.
    fn rows(&self) -> usize;

    /// The text of a value: quotes and escapes are gone, a JSON string is its content, other JSON is as
    /// written. `scratch` is where unescaped text may live.
    fn text<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s>;

    /// The value as JSON. For CSV and TSV this is [`Cells::text`], not yet checked.
    fn json<'s>(&'s self, row: usize, scratch: &'s mut Vec<u8>) -> Cell<'s>;

    /// Whether [`Cells::json`] has been checked already.
    const JSON_IS_VALID: bool;
}

/// What a builder needs to know of its column, for messages and NULLs.
#[derive(Debug)]
pub(crate) struct ColumnInfo {
    /// From 1, in the statement's list.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) ty: SqlType,
    pub(crate) nullable: bool,
    pub(crate) has_default: bool,
    /// The encoding of the files.
    pub(crate) encoding: &'static str,
    pub(crate) text: TextSize,
}

/// How many bytes the values without a fixed width take in a batch of a column, as seen so far.
#[derive(Debug, Default)]
pub(crate) struct TextSize(AtomicUsize);

impl TextSize {
    /// A batch had so many. Small batches come between large ones, so that what was seen fades slowly.
    pub(crate) fn seen(&self, bytes: usize) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(bytes.max(before - before / 16), Ordering::Relaxed);
    }

    /// What the next batch should have room for, made from a block of so many bytes.
    pub(crate) fn expected(&self, block_bytes: usize) -> usize {
        let seen = self.0.load(Ordering::Relaxed);
        (seen + seen / 8).min(block_bytes)
    }
}

/// Messages beyond this many in one block are not written out: only the first of a file is ever shown.
const DESCRIBED_ERRORS: usize = 1000;

/// The rejected rows of a batch; the first reason of a row stays.
#[derive(Debug, Default)]
pub(crate) struct Rejects {
    flags: Vec<u64>,
    errors: Vec<(usize, String)>,
    described: usize,
}

impl Rejects {
    /// Rejects a row, unless it is already.
    #[cold]
    pub(crate) fn reject(&mut self, row: usize, message: impl FnOnce() -> String) {
        let (word, bit) = (row / 64, 1 << (row % 64));
        if self.flags.len() <= word {
            self.flags.resize(word + 1, 0);
        }
        if self.flags[word] & bit != 0 {
            return;
        }
        self.flags[word] |= bit;
        self.described += 1;
        let message = if self.described <= DESCRIBED_ERRORS {
            message()
        } else {
            "invalid row; too many errors nearby to describe each".to_owned()
        };
        self.errors.push((row, message));
    }

    /// Whether a row is rejected.
    pub(crate) fn contains(&self, row: usize) -> bool {
        self.flags.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Whether no row is.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The rows and messages, by row; nothing stays but the count of messages.
    pub(crate) fn take(&mut self) -> Vec<(usize, String)> {
        self.flags.clear();
        let mut errors = std::mem::take(&mut self.errors);
        errors.sort_by_key(|(row, _)| *row);
        errors
    }
}

/// Where a builder puts what is not a value.
pub(crate) struct Marks<'a> {
    pub(crate) column: &'a ColumnInfo,
    /// The row in the batch of the first cell.
    pub(crate) base: usize,
    pub(crate) rejects: &'a mut Rejects,
    pub(crate) defaulted: &'a mut Vec<usize>,
}

impl Marks<'_> {
    /// The value of a row cannot be read.
    #[cold]
    pub(crate) fn bad(&mut self, row: usize, value: &[u8], reason: &str) {
        let column = self.column;
        self.rejects.reject(self.base + row, || {
            errors::invalid_value(&lossy_head(value), column.number, &column.name, &column.ty, reason)
        });
    }

    /// The bytes of a row's value are no text in the encoding of the file.
    #[cold]
    pub(crate) fn bad_text(&mut self, row: usize, value: &[u8]) {
        let reason = format!("invalid {}", self.column.encoding);
        self.bad(row, value, &reason);
    }

    /// The value of a row is NULL.
    #[inline(always)]
    pub(crate) fn null(&mut self, row: usize) {
        if !self.column.nullable {
            let column = self.column;
            self.rejects
                .reject(self.base + row, || errors::null_value(column.number, &column.name, &column.ty));
        }
    }

    /// The value of a row is the column's default.
    pub(crate) fn default(&mut self, row: usize) {
        if self.column.has_default {
            self.defaulted.push(self.base + row);
        } else {
            self.null(row);
        }
    }
}

/// Builds the array of one column.
pub(crate) trait Builder: Send {
    /// Appends the fields of a run of CSV or TSV records.
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>);

    /// Appends the fields of a run of NDJSON records.
    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>);

    /// Appends one validated JSON value. Exactly one entry is appended, also on an error.
    ///
    /// # Errors
    /// Why the value does not fit the type.
    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason>;

    /// Appends NULL.
    fn push_null(&mut self);

    /// Entries so far.
    fn len(&self) -> usize;

    /// The array; the builder is empty again. Rows that only now turn out bad are marked, with rows
    /// counted from the start of the array.
    ///
    /// # Errors
    /// Internal, if the parts do not fit together.
    fn finish(&mut self, marks: Option<&mut Marks<'_>>) -> Result<ArrayRef>;
}

/// Settings that value parsers take from the statement.
#[derive(Debug, Clone)]
pub(crate) struct ValueRules {
    pub(crate) zone: Zone,
    pub(crate) truncate: bool,
    pub(crate) invalid_json_as_null: bool,
    pub(crate) nan: Vec<u8>,
    pub(crate) binary: BinaryFormat,
    pub(crate) max_nesting: usize,
    pub(crate) case_sensitive: bool,
}

impl ValueRules {
    /// The settings of a specification.
    ///
    /// # Errors
    /// Invalid input for a time zone that does not exist.
    pub(crate) fn new(spec: &DecodeSpec) -> Result<Self> {
        Ok(Self {
            zone: Zone::parse(&spec.cast.timezone)?,
            truncate: spec.cast.truncate,
            invalid_json_as_null: spec.cast.invalid_json_as_null,
            nan: spec.format.nan_display.as_bytes().to_vec(),
            binary: spec.format.binary_format,
            max_nesting: spec.max_nesting,
            case_sensitive: spec.case_sensitive,
        })
    }
}

/// What a builder makes room for at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    /// Of values without a fixed width, all together.
    pub(crate) bytes: usize,
}

/// A builder for a type.
///
/// # Errors
/// Unsupported, for a MAP whose keys are not scalars.
pub(crate) fn builder(ty: &SqlType, rules: &ValueRules, room: Room) -> Result<Box<dyn Builder>> {
    let rows = room.rows;
    use primitive::{DateText, DecimalText, FloatText, IntegerText, PrimitiveColumn, TimestampText};
    macro_rules! integer {
        ($arrow:ty) => {
            Box::new(PrimitiveColumn::<IntegerText<$arrow>>::new(IntegerText::new(rules.truncate), ty, rows))
        };
    }
    Ok(match ty {
        SqlType::Boolean => Box::new(primitive::BooleanColumn::new(rows)),
        SqlType::Int8 => integer!(Int8Type),
        SqlType::Int16 => integer!(Int16Type),
        SqlType::Int32 => integer!(Int32Type),
        SqlType::Int64 => integer!(Int64Type),
        SqlType::UInt8 => integer!(UInt8Type),
        SqlType::UInt16 => integer!(UInt16Type),
        SqlType::UInt32 => integer!(UInt32Type),
        SqlType::UInt64 => integer!(UInt64Type),
        SqlType::Float32 => {
            Box::new(PrimitiveColumn::new(FloatText::<Float32Type>::new(&rules.nan), ty, rows))
        }
        SqlType::Float64 => {
            Box::new(PrimitiveColumn::new(FloatText::<Float64Type>::new(&rules.nan), ty, rows))
        }
        SqlType::Decimal(p, s) => {
            Box::new(PrimitiveColumn::<DecimalText<Decimal128Type>>::new(DecimalText::new(*p, *s), ty, rows))
        }
        SqlType::Date => Box::new(PrimitiveColumn::<DateText<Date32Type>>::new(DateText::new(), ty, rows)),
        SqlType::Timestamp | SqlType::TimestampTz => Box::new(PrimitiveColumn::<
            TimestampText<TimestampMicrosecondType>,
        >::new(
            TimestampText::new(rules.zone), ty, rows
        )),
        SqlType::String => Box::new(bytes::StringColumn::new(room)),
        SqlType::Variant => Box::new(bytes::VariantColumn::new(rules, room)),
        SqlType::Binary => Box::new(bytes::BinaryColumn::new(rules.binary, room)),
        SqlType::Vector(n) => Box::new(nested::VectorColumn::new(*n, rules)),
        SqlType::Array(element) => Box::new(nested::ListColumn::new(ty, element, rules)?),
        SqlType::Tuple(fields) => Box::new(nested::StructColumn::new(ty, fields, rules)?),
        SqlType::Map(key, value) => {
            if matches!(**key, SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_))
            {
                return Err(Error::not_supported(format!("MAP keys of type {key}")));
            }
            Box::new(nested::MapColumn::new(ty, key, value, rules)?)
        }
    })
}
