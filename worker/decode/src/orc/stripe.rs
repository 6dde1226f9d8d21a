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
use super::lengths::sum_within;
use super::ranges::Fetched;
use crate::columnar::{PartRows, guarded};
use crate::spec::DecodedBatch;

/// Entries of a dictionary that a stripe may claim: memory is taken for them before they are read.
const MAX_DICTIONARY: usize = 1 << 26;
/// Items of lists that a stripe may claim, for the same reason.
const MAX_ITEMS: u128 = 1 << 27;
/// What the nanoseconds of all rows of a stripe, as they are encoded, stay below; one below 0 is above it.
const MAX_NANOSECONDS: u128 = (1 << 31) * 8_000_000_008;
/// Bytes of lengths that are looked at.
const MAX_LENGTHS: u64 = 256 << 20;

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
            let rows = file.columns.spec.batch_rows.max(1);
            let reader = guarded(
                || part(&task),
                || {
                    check(&stripe).map_err(|error| damaged(&task, &error))?;
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

/// Refuses sizes that no stripe has, and that memory would be taken for before anything is read.
fn check(stripe: &Stripe) -> Result<(), String> {
    let mut columns = stripe.columns().to_vec();
    while let Some(column) = columns.pop() {
        let entries = column.dictionary_size();
        if entries > MAX_DICTIONARY {
            return Err(format!("column '{}' claims a dictionary of {entries} entries", column.name()));
        }
        let sum_is_within = |kind, most| {
            let Some(stream) = stripe.stream_map().get_opt(&column, kind) else { return Ok(true) };
            let mut bytes = Vec::new();
            stream.take(MAX_LENGTHS).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            let version_2 = matches!(column.encoding().kind(), Encoding::DirectV2 | Encoding::DictionaryV2);
            Ok::<bool, String>(sum_within(&bytes, version_2, most).is_some())
        };
        match column.data_type() {
            OrcType::List { .. } | OrcType::Map { .. } if !sum_is_within(StreamKind::Length, MAX_ITEMS)? => {
                return Err(format!("column '{}' claims more than {MAX_ITEMS} items", column.name()));
            }
            // Arrow C++ (pyarrow) writes them for fractions of a second before 1970. The library takes them
            // for other instants, silently.
            OrcType::Timestamp { .. } | OrcType::TimestampWithLocalTimezone { .. }
                if !sum_is_within(StreamKind::Secondary, MAX_NANOSECONDS)? =>
            {
                return Err(format!(
                    "column '{}' has timestamps with nanoseconds below 0, as pyarrow writes them before 1970; \
                     they are not supported",
                    column.name()
                ));
            }
            _ => {}
        }
        columns.extend(column.children());
    }
    Ok(())
}
