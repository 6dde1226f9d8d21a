//! Evaluation: a decoded batch in, rows of the table and rejects out.
//!
//! An expression fails as a whole where one row is bad, so on failure the batch is cut in halves until
//! the rows are found. Casts at the top of an expression know their bad rows and need none of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array,
};
use arrow::compute::{concat, filter, filter_record_batch, interleave, take};
use arrow::datatypes::{DataType, Field};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_decode::cast::CastContext;
use stevedore_decode::errors::{for_column, null_value};
use stevedore_decode::spec::{DecodedBatch, RowError};

use super::{LoadedBatch, Output, OutputSource, Transform};
use crate::query::from_datafusion;
use crate::query::functions::kernel;
use crate::query::stage_scan::StageFile;

/// What the values of an expression may take for a batch of rows.
const COLUMN_BYTES: usize = 512 << 20;

/// Messages by row of the batch at hand; the first of a row stays.
type Rejects = BTreeMap<usize, String>;

pub(super) fn apply(transform: &Transform, decoded: DecodedBatch, file: &StageFile) -> Result<LoadedBatch> {
    let DecodedBatch { batch, mut row_numbers, mut lines, mut defaulted, mut errors, input_bytes } = decoded;
    let mut input = input_batch(transform, &batch, &row_numbers, file)?;

    if let Some(predicate) = &transform.filter {
        let mut rejects = Rejects::new();
        let mask = evaluate(predicate, &input, &mut rejects, &|message| format!("{message}, in the WHERE"))?;
        let mask = mask
            .as_boolean_opt()
            .ok_or_else(|| Error::invalid("the WHERE of the COPY is no condition"))?
            .clone();
        report(&rejects, &row_numbers, &lines, &mut errors);
        let keep: BooleanArray = (0..mask.len())
            .map(|row| Some(mask.is_valid(row) && mask.value(row) && !rejects.contains_key(&row)))
            .collect();
        input = filter_record_batch(&input, &keep)?;
        row_numbers = keep_rows(&row_numbers, &keep);
        lines = keep_rows(&lines, &keep);
        for rows in defaulted.iter_mut().flatten() {
            *rows = filter(rows, &keep)?.as_boolean().clone();
        }
    }

    let mut rejects = Rejects::new();
    let columns = transform
        .outputs
        .iter()
        .map(|output| column(transform, output, &input, &defaulted, &mut rejects))
        .collect::<Result<Vec<ArrayRef>>>()?;
    report(&rejects, &row_numbers, &lines, &mut errors);
    let columns = without_rejected(columns, input.num_rows(), &rejects)?;
    errors.sort_by_key(|error| error.row);
    let rows = input.num_rows() - rejects.len();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&transform.schema), columns, &options)
        .map_err(|e| Error::internal(format!("rows do not fit their table: {e}")))?;
    Ok(LoadedBatch { batch, errors, input_bytes })
}

fn input_batch(
    transform: &Transform,
    batch: &RecordBatch,
    row_numbers: &[u64],
    file: &StageFile,
) -> Result<RecordBatch> {
    let expected = transform.input.fields().len();
    let mut columns = batch.columns().to_vec();
    columns.extend(
        transform.metadata.iter().map(|which| which.values(file, row_numbers, transform.scan_start_us)),
    );
    if columns.len() != expected {
        return Err(Error::internal(format!("a decoder gave {} columns, not {expected}", columns.len())));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(row_numbers.len()));
    RecordBatch::try_new_with_options(Arc::clone(&transform.input), columns, &options)
        .map_err(|e| Error::internal(format!("a decoded batch is not what was asked for: {e}")))
}

/// One column of the table, of its type; rows in `rejects` hold anything.
fn column(
    transform: &Transform,
    output: &Output,
    input: &RecordBatch,
    defaulted: &[Option<BooleanArray>],
    rejects: &mut Rejects,
) -> Result<ArrayRef> {
    let rows = input.num_rows();
    let values = match &output.source {
        OutputSource::Default => default_values(output, rows)?,
        OutputSource::Expression { expr, direct } => {
            let (number, name) = (output.number, &output.column.name);
            let of_column = |message: &str| for_column(message, number, name, &output.column.ty);
            let values = evaluate(expr, input, rejects, &of_column)?;
            let field = expr.return_field(&input.schema()).map_err(|e| from_datafusion(&e))?;
            let field = Field::new(field.name(), values.data_type().clone(), true)
                .with_metadata(field.metadata().clone());
            let context =
                CastContext { column_number: output.number, column_name: output.column.name.clone() };
            let cast = kernel::cast_column(&values, &field, &output.column.ty, &transform.cast, &context)?;
            for (row, message) in cast.rejects {
                rejects.entry(row).or_insert(message);
            }
            match direct.and_then(|index| defaulted.get(index)).and_then(Option::as_ref) {
                Some(mask) if mask.true_count() > 0 => fill(&cast.values, mask, output)?,
                _ => cast.values,
            }
        }
    };
    if !output.column.nullable && values.null_count() > 0 {
        for row in (0..rows).filter(|row| values.is_null(*row)) {
            rejects
                .entry(row)
                .or_insert_with(|| null_value(output.number, &output.column.name, &output.column.ty));
        }
    }
    Ok(values)
}

pub(super) fn default_values(output: &Output, rows: usize) -> Result<ArrayRef> {
    match &output.default {
        Some(default) => default.values(rows),
        None => Ok(new_null_array(&output.column.ty.to_arrow(), rows)),
    }
}

/// Puts defaults where they were asked for, each row its own.
fn fill(values: &ArrayRef, mask: &BooleanArray, output: &Output) -> Result<ArrayRef> {
    let defaults = default_values(output, mask.true_count())?;
    let mut next = 0;
    let places: Vec<(usize, usize)> = (0..values.len())
        .map(|row| {
            if mask.is_valid(row) && mask.value(row) {
                next += 1;
                (1, next - 1)
            } else {
                (0, row)
            }
        })
        .collect();
    Ok(interleave(&[values.as_ref(), defaults.as_ref()], &places)?)
}

/// Evaluates an expression; rows that fail are NULL and in `rejects`, with what `place` makes of the messages.
fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    rejects: &mut Rejects,
    place: &dyn Fn(&str) -> String,
) -> Result<ArrayRef> {
    let ty = expr.data_type(&batch.schema()).map_err(|e| from_datafusion(&e))?;
    Rows { expr, ty, place }.evaluate(batch, 0, rejects)
}

/// An expression whose rows may fail.
struct Rows<'a> {
    expr: &'a Arc<dyn PhysicalExpr>,
    ty: DataType,
    place: &'a dyn Fn(&str) -> String,
}

impl Rows<'_> {
    fn evaluate(&self, batch: &RecordBatch, first: usize, rejects: &mut Rejects) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let error = match self.values(batch) {
            Ok(values) => return Ok(values),
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::Internal | ErrorKind::ResourceExhausted | ErrorKind::Cancelled) {
            return Err(error);
        }
        if rows <= 1 {
            rejects.entry(first).or_insert_with(|| (self.place)(&error.message_with_context()));
            return Ok(new_null_array(&self.ty, rows));
        }
        let half = rows / 2;
        let left = self.evaluate(&batch.slice(0, half), first, rejects)?;
        let right = self.evaluate(&batch.slice(half, rows - half), first + half, rejects)?;
        let bytes = left.to_data().get_slice_memory_size()? + right.to_data().get_slice_memory_size()?;
        if bytes > COLUMN_BYTES {
            return Err(too_large());
        }
        Ok(concat(&[left.as_ref(), right.as_ref()])?)
    }

    fn values(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        match self.expr.evaluate(batch).map_err(|e| from_datafusion(&e))? {
            ColumnarValue::Array(values) => Ok(values),
            ColumnarValue::Scalar(value) => {
                if rows > 1 && value.size().saturating_mul(rows) > COLUMN_BYTES {
                    return Err(too_large());
                }
                value.to_array_of_size(rows).map_err(|e| from_datafusion(&e))
            }
        }
    }
}

fn too_large() -> Error {
    let error =
        format!("the values of an expression take more than {} MiB for a batch of rows", COLUMN_BYTES >> 20);
    Error::exhausted(error).hint("load fewer or shorter values")
}

fn report(rejects: &Rejects, row_numbers: &[u64], lines: &[u64], errors: &mut Vec<RowError>) {
    for (row, message) in rejects {
        errors.push(RowError {
            line: lines.get(*row).copied().unwrap_or(0),
            row: row_numbers.get(*row).copied().unwrap_or(0),
            message: message.clone(),
        });
    }
}

fn keep_rows(values: &[u64], keep: &BooleanArray) -> Vec<u64> {
    values.iter().zip(keep.values().iter()).filter_map(|(value, keep)| keep.then_some(*value)).collect()
}

fn without_rejected(columns: Vec<ArrayRef>, rows: usize, rejects: &Rejects) -> Result<Vec<ArrayRef>> {
    if rejects.is_empty() {
        return Ok(columns);
    }
    let good: UInt64Array =
        (0..rows).filter(|row| !rejects.contains_key(row)).map(|row| row as u64).collect();
    columns.iter().map(|column| Ok(take(column, &good, None)?)).collect()
}
