//! Decodes the stripes: batches from the library, columns cast, rows rejected.

use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use orc_rust::array_decoder::NaiveStripeDecoder;
use orc_rust::proto::column_encoding::Kind as Encoding;
use orc_rust::proto::stream::Kind as StreamKind;
use orc_rust::schema::DataType as OrcType;
use orc_rust::stripe::Stripe;
use stevedore_common::error::Result;

use super::file::{OrcFile, StripeTask, damaged, part};
use super::lengths::{Lengths, sum_within};
use super::ranges::Fetched;
use crate::columnar::{PartRows, guarded};
use crate::spec::{DecodeSpec, DecodedBatch};

/// Entries of a dictionary that a stripe may claim: memory is taken for them before they are read.
const MAX_DICTIONARY: usize = 1 << 26;
/// Items of lists that a stripe may claim, for the same reason.
const MAX_ITEMS: u128 = 1 << 27;
/// What the nanoseconds of all rows of a stripe, as they are encoded, stay below; one below 0 is above it.
const MAX_NANOSECONDS: u128 = (1 << 31) * 8_000_000_008;
/// Bytes of lengths that are looked at.
const MAX_LENGTHS: u64 = 64 << 20;
const BATCH_BYTES: u128 = DecodeSpec::BATCH_BYTES as u128;
/// What a value takes besides the bytes that it points to.
const ENTRY_BYTES: u128 = 16;
/// By how much batches that would take more become shorter.
const SHORTER: usize = 8;

/// The batches of one stripe, in order. After an error it yields nothing more.
pub struct StripeDecoder {
    file: Arc<OrcFile>,
    task: StripeTask,
    /// `None` where no column is read: rows are only counted.
    reader: Option<NaiveStripeDecoder>,
    rows: PartRows,
    failed: bool,
}

impl StripeDecoder {
    pub(super) fn new(file: Arc<OrcFile>, task: StripeTask, mut bytes: Fetched) -> Result<Self> {
        let reader = if file.columns.read.is_empty() {
            None
        } else {
            let stripe = file.stripe(&task, &mut bytes)?;
            let reader = guarded(
                || part(&task),
                || {
                    let rows = rows_of_batch(&stripe, task.rows, &file.columns.spec)
                        .map_err(|error| damaged(&task, &error))?;
                    NaiveStripeDecoder::new(stripe, file.raw.clone(), rows)
                        .map_err(|error| damaged(&task, &error))
                },
            )?;
            Some(reader)
        };
        let rows = PartRows::new(task.rows, task.input_bytes);
        Ok(Self { file, task, reader, rows, failed: false })
    }

    fn next_columns(&mut self) -> Result<Option<RecordBatch>> {
        let left = self.rows.left();
        match &mut self.reader {
            None => self.rows.count(self.file.columns.spec.batch_rows),
            _ if left == 0 => Ok(None),
            Some(reader) => {
                let task = &self.task;
                let batch = guarded(
                    || part(task),
                    || reader.next().transpose().map_err(|error| damaged(task, &error)),
                )?;
                match batch {
                    Some(batch)
                        if (1..=left).contains(&(batch.num_rows() as u64))
                            && batch.num_columns() == self.file.columns.read.len() =>
                    {
                        Ok(Some(batch))
                    }
                    _ => Err(damaged(
                        task,
                        &format!("it ends after {} of its {} rows", self.rows.done(), task.rows),
                    )),
                }
            }
        }
    }

    fn decode(&mut self, batch: &RecordBatch) -> Result<DecodedBatch> {
        let rows = batch.num_rows() as u64;
        let bytes = self.rows.share_of(rows);
        let first_row = self.task.first_row + self.rows.done();
        let task = &self.task;
        let decoded = guarded(|| part(task), || self.file.columns.decode(batch, first_row, bytes))?;
        self.rows.advance(rows);
        Ok(decoded)
    }
}

impl Iterator for StripeDecoder {
    type Item = Result<DecodedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match self.next_columns() {
            Ok(None) => return None,
            Ok(Some(batch)) => self.decode(&batch),
            Err(error) => Err(error),
        };
        self.failed = result.is_err();
        Some(result)
    }
}

/// How many rows a batch may have: as many as it should, or fewer where they would take more than [`BATCH_BYTES`].
///
/// # Errors
/// Sizes that no stripe has, and that memory would be taken for before anything is read; values that are too large.
fn rows_of_batch(stripe: &Stripe, rows: u64, spec: &DecodeSpec) -> Result<usize, String> {
    let counts: Vec<usize> = std::iter::successors(Some(spec.batch_rows.max(1)), |rows| {
        (*rows > 1).then_some((*rows / SHORTER).max(1))
    })
    .collect();
    let mut weight = Weight { counts: &counts, bytes: vec![0; counts.len()], largest: 0 };
    // Each with how many values it has in a row, in the mean.
    let mut columns: Vec<_> = stripe.columns().iter().map(|column| (column.clone(), 1)).collect();
    while let Some((column, in_row)) = columns.pop() {
        let stream = |kind| {
            let Some(stream) = stripe.stream_map().get_opt(&column, kind) else { return Ok(Vec::new()) };
            let mut bytes = Vec::new();
            stream.take(MAX_LENGTHS).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            Ok(bytes)
        };
        let claims = Claims {
            name: column.name(),
            data_type: column.data_type(),
            encoding: column.encoding().kind(),
            entries: column.dictionary_size(),
            in_row,
            stream: &stream,
        };
        let items = claims.weigh(rows, spec.max_block_bytes, &mut weight)?;
        columns.extend(column.children().into_iter().map(|child| (child, items)));
    }
    let most = BATCH_BYTES.saturating_add(weight.largest.saturating_mul(3));
    let fits = counts.iter().zip(&weight.bytes).find(|(_, bytes)| **bytes <= most);
    Ok(fits.map_or(1, |(rows, _)| *rows))
}

/// What batches take.
struct Weight<'a> {
    /// Rows of a batch.
    counts: &'a [usize],
    /// For each of these what a batch takes.
    bytes: Vec<u128>,
    /// The largest values of all columns.
    largest: u128,
}

impl Weight<'_> {
    fn add(&mut self, of: impl Fn(usize, u128) -> u128) {
        for (n, (rows, bytes)) in self.counts.iter().zip(&mut self.bytes).enumerate() {
            *bytes = bytes.saturating_add(of(n, *rows as u128));
        }
    }
}

/// What a stripe claims of a column.
struct Claims<'a> {
    name: &'a str,
    data_type: &'a OrcType,
    encoding: Encoding,
    /// Of its dictionary.
    entries: usize,
    /// How many values a row has, in the mean.
    in_row: u64,
    stream: &'a dyn Fn(StreamKind) -> Result<Vec<u8>, String>,
}

impl Claims<'_> {
    /// Adds what the values take; answers how many values of its children a row has, in the mean.
    fn weigh(&self, rows: u64, largest: usize, weight: &mut Weight<'_>) -> Result<u64, String> {
        let Self { name, encoding, entries, in_row, stream, .. } = *self;
        if entries > MAX_DICTIONARY {
            return Err(format!("column '{name}' claims a dictionary of {entries} entries"));
        }
        let version_2 = matches!(encoding, Encoding::DirectV2 | Encoding::DictionaryV2);
        let (in_row, all) = (u128::from(in_row), u128::from(rows.max(1)));
        weight.add(|_, rows| rows.saturating_mul(ENTRY_BYTES).saturating_mul(in_row));
        match self.data_type {
            OrcType::List { .. } | OrcType::Map { .. } => {
                let Some(items) = sum_within(&stream(StreamKind::Length)?, version_2, MAX_ITEMS) else {
                    return Err(format!("column '{name}' claims more than {MAX_ITEMS} items"));
                };
                return Ok(u64::try_from(items.div_ceil(all)).unwrap_or(u64::MAX).max(1));
            }
            // Arrow C++ (pyarrow) writes them for fractions of a second before 1970. The library takes them
            // for other instants, silently.
            OrcType::Timestamp { .. } | OrcType::TimestampWithLocalTimezone { .. }
                if sum_within(&stream(StreamKind::Secondary)?, version_2, MAX_NANOSECONDS).is_none() =>
            {
                return Err(format!(
                    "column '{name}' has timestamps with nanoseconds below 0, as pyarrow writes them before 1970; \
                     they are not supported"
                ));
            }
            OrcType::String { .. }
            | OrcType::Varchar { .. }
            | OrcType::Char { .. }
            | OrcType::Binary { .. } => {
                let is_dictionary = matches!(encoding, Encoding::Dictionary | Encoding::DictionaryV2);
                let lengths = Lengths::read(&stream(StreamKind::Length)?, version_2, weight.counts);
                let (what, whole) = match is_dictionary {
                    true => ("a dictionary", lengths.sum),
                    false => ("a value", lengths.largest),
                };
                if whole > largest as u128 {
                    return Err(format!(
                        "column '{name}' has {what} of {whole} bytes, at most {largest} are read (limit max_block_bytes)"
                    ));
                }
                weight.largest = weight.largest.saturating_add(lengths.largest);
                weight.add(|n, rows| match is_dictionary {
                    true => rows.saturating_mul(in_row).saturating_mul(lengths.largest),
                    false if in_row == 1 => lengths.of_values.get(n).copied().unwrap_or_default(),
                    // As many as all rows have in the mean.
                    false => lengths.sum.saturating_mul(rows.min(all)) / all,
                });
            }
            _ => {}
        }
        Ok(self.in_row)
    }
}
