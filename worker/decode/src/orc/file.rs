//! A file and what is wanted of it: columns matched to fields, stripes chosen, ranges to fetch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use orc_rust::projection::ProjectionMask;
use orc_rust::schema::{ArrowSchemaOptions, RootDataType, TimestampPrecision};
use orc_rust::stripe::{Stripe, StripeMetadata};
use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

use super::ranges::{Fetched, Noted};
use super::stripe::StripeDecoder;
use super::tail::OrcMetadata;
use crate::columnar::{ColumnPlan, FileColumn, NANOSECONDS_AS, columns_in_sql, guarded, map_fields};
use crate::spec::DecodeSpec;

/// Stripes up to this size are fetched whole: a second request costs more.
const SMALL_STRIPE: u64 = 512 * 1024;
/// Gaps up to this size are fetched along with their neighbours.
const JOIN_GAP: u64 = 64 * 1024;

/// A file that is about to be decoded. Cheap to share: everything in it is immutable.
pub struct OrcFile {
    pub(super) metadata: OrcMetadata,
    pub(super) columns: ColumnPlan,
    /// The columns that are read.
    pub(super) root: RootDataType,
    /// The types that the library is to decode them to.
    pub(super) raw: SchemaRef,
}

/// One stripe to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeTask {
    /// Its number within the file, from 0.
    pub stripe: usize,
    /// How many rows it has.
    pub rows: u64,
    /// The number of its first row within the file, from 0.
    pub first_row: u64,
    /// The bytes to fetch first; none where no column is read.
    pub first_range: Option<Range<u64>>,
    /// What the stripe takes in the file.
    pub input_bytes: u64,
}

/// The columns of a file, their types and whether they may be NULL.
///
/// # Errors
/// Names the column that the dialect has no type for; bad data for a damaged schema.
pub fn file_schema(metadata: &OrcMetadata) -> Result<Vec<(String, SqlType, bool)>> {
    columns_in_sql(&columns(metadata.file.root_data_type())?)
}

impl OrcFile {
    /// Matches the columns of a spec to a file.
    ///
    /// # Errors
    /// A wanted column is missing (MISSING_FIELD_AS = ERROR), ambiguous, of a type that the dialect
    /// does not know, or never casts to the type wanted; a damaged schema.
    pub fn open(metadata: OrcMetadata, spec: &DecodeSpec) -> Result<Self> {
        let whole = metadata.file.root_data_type();
        let columns = ColumnPlan::new(columns(whole)?, spec)?;
        let children = whole.children();
        let indexes = columns.read.iter().filter_map(|i| children.get(*i));
        let indexes: Vec<usize> = indexes.map(|child| child.data_type().column_index()).collect();
        let root = whole.project(&ProjectionMask::roots(whole, indexes));
        let read = columns.read.iter().map(|i| &columns.columns[*i]);
        let raw = read.map(|column| decoded_field(column.raw.as_ref().unwrap_or(&column.field)));
        let raw = Arc::new(Schema::new(raw.collect::<Vec<Field>>()));
        Ok(Self { metadata, columns, root, raw })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    /// The columns of the file.
    pub fn columns(&self) -> &[FileColumn] {
        &self.columns.columns
    }

    /// How much larger than its bytes as stored a stripe may be expected to be.
    pub fn growth(&self) -> u64 {
        if self.metadata.file.compression().is_some() { 8 } else { 4 }
    }

    /// The stripes to decode: all of them, or those whose first byte lies in `range`, so that ranges
    /// which cover a file cover each stripe once.
    pub fn plan(&self, range: Option<Range<u64>>) -> Vec<StripeTask> {
        let mut tasks = Vec::new();
        let mut first_row = 0;
        let all = self.columns.read.len() == self.columns.columns.len();
        for (stripe, info) in self.metadata.file.stripe_metadatas().iter().enumerate() {
            let rows = info.number_of_rows();
            if range.as_ref().is_none_or(|range| range.contains(&info.offset())) {
                let whole = data_range(info);
                let small = all || whole.end - whole.start <= SMALL_STRIPE;
                let first = if small { whole } else { footer_range(info) };
                let first_range = (!self.columns.read.is_empty()).then_some(first);
                let input_bytes = info.index_length() + info.data_length() + info.footer_length();
                tasks.push(StripeTask { stripe, rows, first_row, first_range, input_bytes });
            }
            first_row += rows;
        }
        tasks
    }

    /// What else to fetch of a stripe, `first` being the bytes of [`StripeTask::first_range`]: in file
    /// order, neighbours joined, often nothing.
    ///
    /// # Errors
    /// Where the stripe's footer is damaged.
    pub fn streams(&self, task: &StripeTask, first: &Bytes) -> Result<Vec<Range<u64>>> {
        let info = self.info(task)?;
        let footer = footer_range(info);
        if task.first_range.as_ref() != Some(&footer) {
            return Ok(Vec::new());
        }
        let mut reader = Noted::new(self.metadata.file_size, footer, first.clone());
        self.stripe(task, &mut reader)?;
        let data = info.offset() + info.index_length()..info.footer_offset();
        let mut ranges = reader.streams();
        ranges.retain(|range| !range.is_empty() && range.start >= data.start);
        if ranges.iter().any(|range| range.end > data.end) {
            return Err(Error::bad_data(format!("{} is damaged (a stream ends beyond it)", part(task))));
        }
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let close = next.start <= last.end.saturating_add(JOIN_GAP);
            if close {
                last.end = last.end.max(next.end);
            }
            close
        });
        Ok(ranges)
    }

    /// Decodes a stripe whose bytes were fetched: ranges with their bytes, those of
    /// [`StripeTask::first_range`] and of [`OrcFile::streams`].
    ///
    /// # Errors
    /// Where a range is missing or short, or the stripe is damaged.
    pub fn decode_stripe(
        self: &Arc<Self>,
        task: &StripeTask,
        fetched: Vec<(Range<u64>, Bytes)>,
    ) -> Result<StripeDecoder> {
        let mut chunks = Vec::with_capacity(fetched.len());
        for (range, bytes) in fetched {
            if bytes.len() as u64 != range.end - range.start {
                return Err(Error::bad_data(format!(
                    "the file is cut off: of the bytes {} to {} only {} are there",
                    range.start,
                    range.end,
                    bytes.len()
                )));
            }
            chunks.push((range.start, bytes));
        }
        let info = self.info(task)?;
        let index = info.offset()..info.offset() + info.index_length();
        let reader = Fetched::new(self.metadata.file_size, chunks, index);
        StripeDecoder::new(self.clone(), task.clone(), reader)
    }

    /// The streams of a stripe, as the library holds them.
    pub(super) fn stripe<R: orc_rust::reader::ChunkReader>(
        &self,
        task: &StripeTask,
        reader: &mut R,
    ) -> Result<Stripe> {
        let info = self.info(task)?;
        guarded(
            || part(task),
            || {
                Stripe::new(reader, &self.metadata.file, &self.root, info)
                    .map_err(|error| damaged(task, &error))
            },
        )
    }

    fn info(&self, task: &StripeTask) -> Result<&StripeMetadata> {
        let info = self.metadata.file.stripe_metadatas().get(task.stripe);
        info.ok_or_else(|| Error::internal(format!("the ORC file has no stripe {}", task.stripe + 1)))
    }
}

pub(super) fn part(task: &StripeTask) -> String {
    format!("stripe {} of the ORC file", task.stripe + 1)
}

pub(super) fn damaged(task: &StripeTask, error: &dyn std::fmt::Display) -> Error {
    Error::bad_data(format!("{} is damaged: {error}", part(task)))
}

/// A stripe without its index.
fn data_range(info: &StripeMetadata) -> Range<u64> {
    info.offset() + info.index_length()..info.footer_offset() + info.footer_length()
}

fn footer_range(info: &StripeMetadata) -> Range<u64> {
    info.footer_offset()..info.footer_offset() + info.footer_length()
}

fn columns(root: &RootDataType) -> Result<Vec<FileColumn>> {
    guarded(
        || "the schema of the ORC file".into(),
        || {
            let options = ArrowSchemaOptions::new().with_timestamp_precision(TimestampPrecision::Microsecond);
            let schema = root.create_arrow_schema_with_options(&HashMap::new(), options);
            let columns = schema.fields().iter().map(|field| FileColumn::settled(field.as_ref().clone()));
            Ok(columns.collect())
        },
    )
}

/// What the library is to decode a field to: timestamps as decimals of nanoseconds, since it fails on
/// what is not a whole number of microseconds, or is too far away to be counted in nanoseconds.
fn decoded_field(field: &Field) -> Field {
    let walk = |field: &FieldRef| Arc::new(decoded_field(field));
    let data_type = match field.data_type() {
        DataType::Timestamp(..) => NANOSECONDS_AS,
        DataType::Union(fields, mode) => {
            DataType::Union(fields.iter().map(|(id, field)| (id, walk(field))).collect(), *mode)
        }
        other => map_fields(other, walk).unwrap_or_else(|| other.clone()),
    };
    field.clone().with_data_type(data_type)
}
