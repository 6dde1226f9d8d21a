//! Putting columns together to [`DecodedBatch`]es: rejected rows dropped, rows numbered.
//!
//! Comes in: runs of records, column by column. Goes out: batches of at most `batch_rows` rows. Every
//! record of a block ends as a row or as an error of exactly one batch, in order, which is what lets
//! [`crate::text::RowNumbering`] number the rows of a file whose blocks are decoded in parallel.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions,
};
use arrow::compute::FilterBuilder;
use arrow::datatypes::SchemaRef;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use crate::blocks::TextBlock;
use crate::charset::encoding_name;
use crate::errors;
use crate::parse::columns::{Builder, ColumnInfo, Marks, Rejects, Room, TextSize, ValueRules, builder};
use crate::spec::{DecodeSpec, DecodedBatch, RowError};
use crate::text::EachBatch;

/// What all batches of a specification share.
#[derive(Debug)]
pub(crate) struct BatchPlan {
    pub(crate) spec: Arc<DecodeSpec>,
    pub(crate) rules: ValueRules,
    schema: SchemaRef,
    columns: Vec<ColumnInfo>,
    most_rows: usize,
}

impl BatchPlan {
    /// The plan of a specification.
    ///
    /// # Errors
    /// Invalid input for settings that cannot be followed, unsupported for types that cannot be built.
    pub(crate) fn new(spec: Arc<DecodeSpec>) -> Result<Self> {
        let schema = spec.text_schema();
        let rules = ValueRules::new(&spec)?;
        let columns = spec
            .columns
            .iter()
            .zip(schema.fields())
            .enumerate()
            .map(|(i, (column, field))| {
                let ty = match &column.ty {
                    Some(ty) => ty.clone(),
                    None => SqlType::from_arrow_field(field)?,
                };
                builder(&ty, &rules, Room::default())?;
                Ok(ColumnInfo {
                    number: spec.number(i),
                    name: column.name.clone(),
                    ty,
                    nullable: column.nullable,
                    has_default: column.has_default,
                    encoding: encoding_name(&spec.format.encoding),
                    text: TextSize::default(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let width: usize = columns.iter().map(|column| width(&column.ty)).sum();
        let most_rows = spec.batch_rows.clamp(1, (DecodeSpec::BATCH_BYTES / width.max(1)).max(1));
        Ok(Self { spec, rules, schema, columns, most_rows })
    }
}

impl BatchPlan {
    /// The error of a row that lacks the field of a column.
    pub(crate) fn missing_field(&self, field: &str, column: usize) -> String {
        match self.columns.get(column) {
            Some(column) => errors::missing_field(field, column.number, &column.name, &column.ty),
            None => format!("missing field '{field}'"),
        }
    }
}

/// Bytes that every row takes, NULL or not.
fn width(ty: &SqlType) -> usize {
    match ty {
        SqlType::Boolean | SqlType::Int8 | SqlType::UInt8 => 1,
        SqlType::Int16 | SqlType::UInt16 => 2,
        SqlType::Decimal(..) => 16,
        SqlType::Vector(n) => 4 * usize::from(*n),
        SqlType::Tuple(fields) => fields.iter().map(|(_, ty)| width(ty)).sum(),
        _ => 8,
    }
}

/// Bytes of the values of an array that have no fixed width.
fn text_bytes(array: &ArrayRef) -> Option<usize> {
    let text = array.as_string_opt::<i32>().map(|array| array.value_data().len());
    text.or_else(|| array.as_binary_opt::<i32>().map(|array| array.value_data().len()))
}

/// Builds the batches of one block.
pub(crate) struct BatchAssembler<'a> {
    plan: &'a BatchPlan,
    builders: Vec<Box<dyn Builder>>,
    defaulted: Vec<Vec<usize>>,
    rejects: Rejects,
    lines: Vec<u64>,
    /// Records of the block that are in finished batches.
    finished_rows: u64,
    block_bytes: usize,
    input_bytes: u64,
    /// Input bytes that are in finished batches.
    finished_bytes: u64,
}

impl<'a> BatchAssembler<'a> {
    /// For a block whose records have `width` fields or so.
    ///
    /// # Errors
    /// As [`BatchPlan::new`].
    pub(crate) fn new(plan: &'a BatchPlan, block: &TextBlock, width: usize) -> Result<Self> {
        if block.bytes.len() > i32::MAX as usize {
            return Err(Error::internal("a block of text is larger than 2 GiB"));
        }
        let rows = plan.most_rows.min(block.bytes.len() / (2 * width.max(1)) + 1);
        let builders = plan
            .columns
            .iter()
            .map(|column| {
                let bytes = column.text.expected(block.bytes.len());
                builder(&column.ty, &plan.rules, Room { rows, bytes })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            plan,
            defaulted: vec![Vec::new(); builders.len()],
            builders,
            rejects: Rejects::default(),
            lines: Vec::with_capacity(rows),
            finished_rows: 0,
            block_bytes: block.bytes.len(),
            input_bytes: block.input_bytes,
            finished_bytes: 0,
        })
    }

    /// Rows that the batch has room for.
    pub(crate) fn room(&self) -> usize {
        self.plan.most_rows - self.lines.len()
    }

    /// Rejects a record of the run that [`BatchAssembler::append`] gets next.
    pub(crate) fn reject(&mut self, row: usize, message: impl FnOnce() -> String) {
        self.rejects.reject(self.lines.len() + row, message);
    }

    /// Appends a run of records: `column` is called for each column and appends as many entries as there
    /// are lines.
    pub(crate) fn append(
        &mut self,
        lines: &[u64],
        mut column: impl FnMut(usize, &mut dyn Builder, &mut Marks<'_>),
    ) {
        for (i, builder) in self.builders.iter_mut().enumerate() {
            let mut marks = Marks {
                column: &self.plan.columns[i],
                base: self.lines.len(),
                rejects: &mut self.rejects,
                defaulted: &mut self.defaulted[i],
            };
            column(i, builder.as_mut(), &mut marks);
        }
        self.lines.extend_from_slice(lines);
    }

    /// Ends the batch; the block has been read up to `position`.
    ///
    /// # Errors
    /// Internal, where columns do not fit together.
    pub(crate) fn finish(&mut self, position: usize) -> Result<DecodedBatch> {
        let rows = self.lines.len();
        let mut arrays = Vec::with_capacity(self.builders.len());
        for (i, builder) in self.builders.iter_mut().enumerate() {
            let mut marks = Marks {
                column: &self.plan.columns[i],
                base: 0,
                rejects: &mut self.rejects,
                defaulted: &mut self.defaulted[i],
            };
            let array = builder.finish(Some(&mut marks))?;
            if let Some(bytes) = text_bytes(&array) {
                marks.column.text.seen(bytes);
            }
            arrays.push(array);
        }
        let mut lines = std::mem::replace(&mut self.lines, Vec::with_capacity(rows));
        let mut row_numbers: Vec<u64> = (self.finished_rows..self.finished_rows + rows as u64).collect();
        let mut defaulted: Vec<Option<BooleanArray>> = self
            .defaulted
            .iter_mut()
            .map(|marked| {
                let marked = std::mem::take(marked);
                (!marked.is_empty()).then(|| {
                    let mut bits = BooleanBufferBuilder::new(rows);
                    bits.append_n(rows, false);
                    marked.iter().for_each(|row| bits.set_bit(*row, true));
                    BooleanArray::new(bits.finish(), None)
                })
            })
            .collect();
        let mut errors = Vec::new();
        let mut kept = rows;
        if !self.rejects.is_empty() {
            let keep: BooleanArray = (0..rows).map(|row| Some(!self.rejects.contains(row))).collect();
            errors = self
                .rejects
                .take()
                .into_iter()
                .map(|(row, message)| RowError { line: lines[row], row: row_numbers[row], message })
                .collect();
            kept = rows - errors.len();
            let filter = FilterBuilder::new(&keep).optimize().build();
            arrays = arrays.iter().map(|array| filter.filter(array)).collect::<Result<Vec<ArrayRef>, _>>()?;
            let keeps = |row: usize| keep.value(row);
            let mut row = 0;
            lines.retain(|_| (keeps(row), row += 1).0);
            row = 0;
            row_numbers.retain(|_| (keeps(row), row += 1).0);
            for marked in defaulted.iter_mut().flatten() {
                *marked = (0..rows).filter(|row| keeps(*row)).map(|row| Some(marked.value(row))).collect();
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept));
        let batch = RecordBatch::try_new_with_options(self.plan.schema.clone(), arrays, &options)?;
        let read = if self.block_bytes == 0 {
            self.input_bytes
        } else {
            (u128::from(self.input_bytes) * position as u128 / self.block_bytes as u128) as u64
        };
        let input_bytes = read.saturating_sub(self.finished_bytes);
        self.finished_bytes = read;
        self.finished_rows += rows as u64;
        Ok(DecodedBatch { batch, row_numbers, lines, defaulted, errors, input_bytes })
    }

    /// Ends the block: hands out what is left, if anything.
    ///
    /// # Errors
    /// As [`BatchAssembler::finish`], and those of `each`.
    pub(crate) fn finish_block(&mut self, each: &mut EachBatch<'_>) -> Result<()> {
        if !self.lines.is_empty() || self.finished_bytes < self.input_bytes {
            // Whether more is wanted does not matter any more.
            let _ = each(self.finish(self.block_bytes)?)?;
        }
        Ok(())
    }

    /// Input bytes of the block that are in no batch yet.
    pub(crate) fn input_left(&self) -> u64 {
        self.input_bytes - self.finished_bytes
    }
}

impl std::fmt::Debug for BatchAssembler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchAssembler").field("rows", &self.lines.len()).finish_non_exhaustive()
    }
}
