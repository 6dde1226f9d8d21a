//! A file and what is wanted of it; groups of blocks decoded to batches.

use std::io::Read;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_avro::reader::{Reader, ReaderBuilder};
use stevedore_common::error::{Error, Result};
use stevedore_common::file_format::FileFormat;
use stevedore_common::types::{EXTENSION_NAME, SqlType};

use super::blocks::BlockGroup;
use super::codec::BlockCodec;
use super::header::{AvroHeader, write_long};
use super::schema::{PlainSchema, UUID_MARK, plain};
use crate::cast::UUID_EXTENSION;
use crate::columnar::{ColumnPlan, FileColumn, HeldRows, columns_in_sql, guarded};
use crate::spec::{DecodeSpec, DecodedBatch};

/// Records without bytes that a block may claim.
const MAX_EMPTY_RECORDS: usize = 1 << 24;
/// What NULLs of fixed types may take, at the most, in a group.
const MAX_FIXED: u64 = 8 << 30;
/// The same for types of a size that nobody has use for: there, few records are enough.
const MAX_LARGE_FIXED: u64 = 256 << 20;
const LARGE_FIXED: u64 = 4096;
/// The marker between our own header and block; its bytes do not matter.
const SYNC: [u8; 16] = [0x5e; 16];

/// A file that is about to be decoded. Cheap to share: everything in it is immutable.
pub struct AvroFile {
    columns: ColumnPlan,
    codec: BlockCodec,
    max_block_bytes: usize,
    largest_fixed: u64,
    /// A header of an uncompressed file of the same records, for the library.
    header: Vec<u8>,
    /// The columns that the library decodes, where it need not decode all.
    projection: Option<Vec<usize>>,
}

/// The columns of a file, their types and whether they may be NULL.
///
/// # Errors
/// Names the column that the dialect has no type for; bad data for a schema that is not valid.
pub fn file_schema(header: &AvroHeader, format: &FileFormat) -> Result<Vec<(String, SqlType, bool)>> {
    let schema = plain(&header.schema, format.use_logic_type)?;
    columns_in_sql(&columns(&library_header(&schema))?)
}

impl AvroFile {
    /// Matches the columns of a spec to a file.
    ///
    /// # Errors
    /// A wanted column is missing (MISSING_FIELD_AS = ERROR), ambiguous, of a type that the dialect
    /// does not know, or never casts to the type wanted; a schema that is not valid.
    pub fn open(header: &AvroHeader, spec: &DecodeSpec) -> Result<Self> {
        let schema = plain(&header.schema, spec.format.use_logic_type)?;
        let own = library_header(&schema);
        let columns = ColumnPlan::new(columns(&own)?, spec)?;
        let all = columns.read.len() == columns.columns.len();
        let projection = (!all && !columns.read.is_empty()).then(|| columns.read.clone());
        Ok(Self {
            columns,
            codec: header.codec,
            max_block_bytes: spec.max_block_bytes,
            largest_fixed: schema.largest_fixed,
            header: own,
            projection,
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    /// The columns of the file.
    pub fn columns(&self) -> &[FileColumn] {
        &self.columns.columns
    }

    /// How much larger than its bytes as stored a group may be expected to be.
    pub fn growth(&self) -> u64 {
        match self.codec {
            BlockCodec::Null => 3,
            _ => 10,
        }
    }

    /// Decodes some blocks.
    pub fn decode(self: &Arc<Self>, group: BlockGroup) -> GroupDecoder {
        let rows = HeldRows::new(group.first_row, group.rows, group.input_bytes);
        GroupDecoder { file: self.clone(), group, rows }
    }

    /// The columns that are read, of all records of a group.
    fn records(&self, group: &BlockGroup) -> Result<RecordBatch> {
        let rows = usize::try_from(group.rows).map_err(|_| Error::bad_data("too many records in a block"))?;
        let mut data = Vec::new();
        for (number, records, stored) in &group.blocks {
            let start = data.len();
            if self.columns.read.is_empty() {
                continue;
            }
            guarded(|| block(*number), || self.codec.decompress(stored, self.max_block_bytes, &mut data))
                .map_err(|error| {
                    let told = error.message().contains("the Avro file");
                    if told {
                        error
                    } else {
                        error.context(format!("{} cannot be decompressed", block(*number)))
                    }
                })?;
            if data.len() == start && *records > MAX_EMPTY_RECORDS {
                return Err(Error::bad_data(format!(
                    "{} is damaged (it claims {records} records in no bytes)",
                    block(*number)
                )));
            }
        }
        let most = if self.largest_fixed > LARGE_FIXED { MAX_LARGE_FIXED } else { MAX_FIXED };
        if self.largest_fixed.saturating_mul(data.len() as u64) > most {
            return Err(Error::exhausted(format!(
                "the Avro file has values of {} bytes, too large for blocks of {} bytes",
                self.largest_fixed,
                data.len()
            )));
        }
        let read = self.columns.read.iter().map(|column| &self.columns.columns[*column]);
        if data.is_empty() {
            // Records of NULLs alone, or nothing of them is wanted.
            let (fields, nulls): (Vec<Field>, Vec<ArrayRef>) = read
                .map(|column| {
                    let ty = column.raw.as_ref().unwrap_or(&column.field).data_type().clone();
                    (Field::new(&column.name, ty.clone(), true), new_null_array(&ty, rows))
                })
                .unzip();
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), nulls, &options)
                .map_err(|error| Error::internal(error.to_string()));
        }
        let parts = || blocks(group);
        guarded(parts, || {
            let damaged =
                |error: &dyn std::fmt::Display| Error::bad_data(format!("{} is damaged: {error}", parts()));
            let mut before = Vec::with_capacity(20);
            // More records are claimed than there are, so that the library never finds itself with bytes
            // and no records left, which it cannot end.
            write_long(i64::MAX, &mut before);
            write_long(data.len() as i64, &mut before);
            let input = self.header.as_slice().chain(&before[..]).chain(&data[..]).chain(&SYNC[..]);
            let mut reader = reader(input, rows, self.projection.clone())?;
            let batch = reader.next().transpose().map_err(|error| damaged(&error))?;
            let batch = batch.filter(|batch| batch.num_rows() == rows);
            let batch = batch.ok_or_else(|| damaged(&"it has fewer records than it claims"))?;
            match reader.next() {
                None => Ok(batch),
                Some(_) => Err(damaged(&"bytes are left after its records")),
            }
        })
    }
}

/// The header of an uncompressed file with a schema.
fn library_header(schema: &PlainSchema) -> Vec<u8> {
    let mut header = b"Obj\x01".to_vec();
    let text = schema.json.to_string();
    write_long(1, &mut header);
    for bytes in [b"avro.schema".as_slice(), text.as_bytes()] {
        write_long(bytes.len() as i64, &mut header);
        header.extend_from_slice(bytes);
    }
    write_long(0, &mut header);
    header.extend_from_slice(&SYNC);
    header
}

fn reader<R: std::io::BufRead>(input: R, rows: usize, projection: Option<Vec<usize>>) -> Result<Reader<R>> {
    let mut builder = ReaderBuilder::new().with_batch_size(rows);
    if let Some(projection) = projection {
        builder = builder.with_projection(projection);
    }
    builder
        .build(input)
        .map_err(|error| Error::bad_data(format!("the schema of the Avro file cannot be used: {error}")))
}

fn columns(header: &[u8]) -> Result<Vec<FileColumn>> {
    let schema = guarded(|| "the schema of the Avro file".into(), || Ok(reader(header, 1, None)?.schema()))?;
    Ok(schema.fields().iter().map(|field| FileColumn::settled(with_uuids(field))).collect())
}

/// The field with UUIDs marked by their Arrow extension, at any depth.
fn with_uuids(field: &Field) -> Field {
    let walk = |field: &FieldRef| Arc::new(with_uuids(field));
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(walk(item)),
        DataType::Map(entries, sorted) => DataType::Map(walk(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(walk).collect()),
        DataType::Union(fields, mode) => {
            DataType::Union(fields.iter().map(|(id, field)| (id, walk(field))).collect(), *mode)
        }
        other => other.clone(),
    };
    let marked = field.metadata().contains_key(UUID_MARK);
    let extension = marked.then(|| (EXTENSION_NAME.to_owned(), UUID_EXTENSION.to_owned()));
    // The library's own remarks are of no use to anybody.
    Field::new(field.name(), data_type, field.is_nullable()).with_metadata(extension.into_iter().collect())
}

/// The batches of some blocks, in order. After an error it yields nothing more.
pub struct GroupDecoder {
    file: Arc<AvroFile>,
    group: BlockGroup,
    rows: HeldRows,
}

impl Iterator for GroupDecoder {
    type Item = Result<DecodedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { file, group, rows } = self;
        let parts = blocks(group);
        let read = || {
            let records = file.records(group)?;
            group.blocks.clear();
            Ok(records)
        };
        rows.next(&file.columns, || parts.clone(), read, |_, _, rows| rows)
    }
}

fn block(number: u64) -> String {
    format!("block {number} of the Avro file")
}

fn blocks(group: &BlockGroup) -> String {
    match (group.blocks.first(), group.blocks.last()) {
        (Some((first, ..)), Some((last, ..))) if first != last => {
            format!("one of the blocks {first} to {last} of the Avro file")
        }
        (Some((first, ..)), _) => block(*first),
        _ => "a block of the Avro file".to_owned(),
    }
}
