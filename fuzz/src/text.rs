//! Text files from bytes to rows, however the bytes come.

use std::sync::Arc;

use arbitrary::Unstructured;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use stevedore_common::file_format::{Compression, FormatKind};
use stevedore_decode::limits::{DecompressLimits, TextLimits};
use stevedore_decode::spec::{DecodeSpec, RowError};
use stevedore_decode::text::{RowNumbering, TextInput, text_decoder};

use crate::{knobs, split};

/// What became of a file.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    rows: Option<RecordBatch>,
    row_numbers: Vec<u64>,
    lines: Vec<u64>,
    defaulted: Vec<Vec<u64>>,
    errors: Vec<RowError>,
    /// What is wrong with the file as a whole.
    failure: Option<String>,
}

/// Decodes a file that comes in pieces of so many bytes, cut into blocks of so many.
pub fn decode(spec: &Arc<DecodeSpec>, file: &[u8], piece: usize, block_bytes: usize) -> Option<Outcome> {
    let decoder = text_decoder(Arc::clone(spec)).ok()?;
    let limits = TextLimits { block_bytes, ..TextLimits::default() };
    let mut input =
        TextInput::new(&spec.format, Compression::None, DecompressLimits::default(), limits).ok()?;
    let (mut numbering, mut batches) = (RowNumbering::default(), Vec::new());
    let mut each = |block| {
        let mut rest = Some(block);
        while let Some(block) = rest {
            // Broken off after each batch, or after some.
            let mut decoded;
            (decoded, rest) = decoder.decode_some(block, piece)?;
            numbering.number_block(&mut decoded);
            batches.append(&mut decoded);
        }
        Ok(())
    };
    let mut result = Ok(());
    for bytes in file.chunks(piece) {
        result = result.and_then(|()| input.push(&Bytes::copy_from_slice(bytes), &mut each));
    }
    result = result.and_then(|()| input.finish(&mut each));
    let columns = if spec.raw_records { 1 } else { spec.columns.len() };
    let mut outcome = Outcome {
        rows: None,
        row_numbers: Vec::new(),
        lines: Vec::new(),
        defaulted: vec![Vec::new(); columns],
        errors: Vec::new(),
        failure: result.err().map(|error| error.to_string()),
    };
    for batch in &batches {
        assert_eq!(batch.batch.num_rows(), batch.row_numbers.len());
        assert_eq!(batch.batch.num_rows(), batch.lines.len());
        assert!(batch.batch.num_rows() <= spec.batch_rows);
        for (column, defaulted) in batch.defaulted.iter().enumerate() {
            for (row, number) in batch.row_numbers.iter().enumerate() {
                if defaulted.as_ref().is_some_and(|rows| rows.value(row)) {
                    outcome.defaulted[column].push(*number);
                }
            }
        }
        outcome.row_numbers.extend(&batch.row_numbers);
        outcome.lines.extend(&batch.lines);
        outcome.errors.extend(batch.errors.iter().cloned());
    }
    let mut numbers: Vec<u64> =
        outcome.row_numbers.iter().copied().chain(outcome.errors.iter().map(|error| error.row)).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "each record is a row or an error, once");
    assert!(outcome.lines.is_sorted());
    if let Some(first) = batches.first() {
        let rows = batches.iter().map(|batch| &batch.batch);
        outcome.rows = concat_batches(&first.batch.schema(), rows).ok();
        assert!(outcome.rows.is_some());
    }
    // A batch without rows is as good as none.
    outcome.rows.take_if(|rows| rows.num_rows() == 0);
    Some(outcome)
}

/// One input of the targets for CSV, TSV and NDJSON: whatever the pieces and blocks, the rows are the same.
pub fn target(kind: FormatKind, input: &[u8]) {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let Ok((piece, block)) = u.arbitrary::<(u8, u16)>() else { return };
    let Ok(format) = knobs::format(&mut u, kind) else { return };
    let Ok(spec) = knobs::text_spec(&mut u, format) else { return };
    let spec = Arc::new(spec);
    let Some(whole) = decode(&spec, file, file.len().max(1), 1 << 20) else { return };
    let pieces = decode(&spec, file, usize::from(piece) + 1, usize::from(block) + 1);
    match &whole.failure {
        None => assert_eq!(pieces.as_ref(), Some(&whole)),
        // How many rows come before the failure is not said.
        Some(_) => assert_eq!(pieces.map(|pieces| pieces.failure), Some(whole.failure)),
    }
}
