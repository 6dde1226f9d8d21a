//! Messages: their frame, what they are, the schema and the dictionaries among them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::read_dictionary;
use arrow::ipc::{self, MessageHeader, MetadataVersion};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::body;
use super::file::memory_of;
use crate::columnar::guarded;
use crate::errors::cut;

/// What stands before a message, since version 0.15 of Arrow.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The most metadata of a message.
pub(super) const MAX_METADATA: usize = 256 << 20;
/// Columns of a file, nested ones too.
const MAX_FIELDS: usize = 100_000;

/// Rows that a record batch may claim before its body is looked at: those of a file can be added up.
const MAX_ROWS: u64 = 1 << 40;

/// The frame of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// So many bytes of frame, then so many of metadata.
    Message { frame: usize, metadata: usize },
    /// The end of a stream, and the bytes that say so.
    End(usize),
    /// More bytes are needed to tell.
    More,
}

/// Reads the frame at the beginning of some bytes; `None` where no message begins there.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame> {
    let Some(first) = bytes.first_chunk::<4>() else { return Some(Frame::More) };
    let (frame, length) = if *first == CONTINUATION {
        let Some(length) = bytes[4..].first_chunk::<4>() else { return Some(Frame::More) };
        (8, *length)
    } else {
        (4, *first)
    };
    match i32::from_le_bytes(length) {
        0 => Some(Frame::End(frame)),
        length => {
            let metadata = usize::try_from(length).ok().filter(|length| *length <= MAX_METADATA)?;
            Some(Frame::Message { frame, metadata })
        }
    }
}

/// A damaged part of a file.
pub(super) fn damaged(part: &str, what: impl std::fmt::Display) -> Error {
    Error::bad_data(format!("{part} is damaged ({})", cut(&what.to_string())))
}

/// What a message is, as its metadata says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Schema,
    Dictionary,
    /// Rows: how many.
    Batch(u64),
}

/// What the metadata of a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Bytes of the body.
    pub(super) body: u64,
}

/// Parses metadata. `part` is what people call the message.
pub(super) fn parse<'a>(metadata: &'a [u8], part: &str) -> Result<ipc::Message<'a>> {
    ipc::root_as_message(metadata).map_err(|error| damaged(part, first_line(&error.to_string())))
}

/// The head of a message.
pub(super) fn head(metadata: &[u8], part: &str) -> Result<Head> {
    let message = parse(metadata, part)?;
    let body = u64::try_from(message.bodyLength()).map_err(|_| damaged(part, "a size below 0"))?;
    let kind = match message.header_type() {
        MessageHeader::Schema => Kind::Schema,
        MessageHeader::DictionaryBatch => Kind::Dictionary,
        MessageHeader::RecordBatch => {
            let batch = message.header_as_record_batch().ok_or_else(|| damaged(part, "it has no header"))?;
            let rows = u64::try_from(batch.length()).map_err(|_| damaged(part, "a length below 0"))?;
            if rows > MAX_ROWS {
                return Err(damaged(part, format!("it claims {rows} rows")));
            }
            Kind::Batch(rows)
        }
        MessageHeader::Tensor | MessageHeader::SparseTensor => {
            return Err(Error::not_supported(format!("Arrow tensors ({part})")));
        }
        other => return Err(damaged(part, format!("it is of an unknown kind, {other:?}"))),
    };
    Ok(Head { kind, body })
}

/// The schema that a message or a footer holds.
pub(super) fn schema(schema: ipc::Schema<'_>) -> Result<SchemaRef> {
    let part = "the schema of the Arrow data";
    if schema.endianness() != ipc::Endianness::Little {
        return Err(Error::not_supported("Arrow data with big-endian numbers"));
    }
    if schema.fields().is_none() {
        return Err(damaged(part, "it has no fields"));
    }
    let schema = guarded(|| part.to_owned(), || Ok(ipc::convert::fb_to_schema(schema)))?;
    if schema.flattened_fields().len() > MAX_FIELDS {
        return Err(Error::exhausted(format!("the Arrow data has more than {MAX_FIELDS} columns")));
    }
    Ok(Arc::new(schema))
}

/// The values that the columns with dictionaries refer to, as far as the file was read.
#[derive(Debug, Clone, Default)]
pub struct Dictionaries {
    pub(super) arrays: HashMap<i64, ArrayRef>,
    /// Bytes of each.
    bytes: HashMap<i64, u64>,
}

impl Dictionaries {
    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// Takes a message with a dictionary, or more of one.
    pub(super) fn add(
        &mut self,
        schema: &Schema,
        metadata: &[u8],
        body: Bytes,
        limit: u64,
        part: &str,
    ) -> Result<()> {
        let header =
            |message: &ipc::Message<'_>| message.header_as_dictionary_batch().map(|d| (d.id(), d.isDelta()));
        let (id, is_delta) =
            header(&parse(metadata, part)?).ok_or_else(|| damaged(part, "it is no dictionary"))?;
        let held = if is_delta { self.bytes.get(&id).copied().unwrap_or(0) } else { 0 };
        let others = self.bytes() - self.bytes.get(&id).copied().unwrap_or(0);
        let left = limit.saturating_sub(others + held);
        let unpacked = body::unpack(metadata, body, None, left, part)?;
        let message = parse(&unpacked.metadata, part)?;
        let dictionary =
            message.header_as_dictionary_batch().ok_or_else(|| damaged(part, "it is no dictionary"))?;
        let arrays = &mut self.arrays;
        guarded(
            || part.to_owned(),
            || {
                read_dictionary(&unpacked.body, dictionary, schema, arrays, &message.version())
                    .map_err(|error| damaged(part, error))
            },
        )?;
        self.bytes.insert(id, held + unpacked.body.len() as u64);
        Ok(())
    }
}

/// A record batch on its way to be decoded.
#[derive(Debug, Clone)]
pub struct BatchMessage {
    /// Its number within the file, from 1.
    pub(super) number: u64,
    pub(super) metadata: Bytes,
    pub(super) body: Bytes,
    pub(super) dictionaries: Arc<Dictionaries>,
    /// How many rows it has.
    pub rows: u64,
    /// The number of its first row within the file, from 0.
    pub first_row: u64,
    /// What it takes in the file.
    pub input_bytes: u64,
}

impl BatchMessage {
    /// What it may be expected to take in memory.
    pub fn memory(&self) -> u64 {
        memory_of(self.input_bytes, &self.metadata)
    }
}

/// The versions that differ in layout: before 5 unions had validity of their own.
pub(super) fn has_union_validity(version: MetadataVersion) -> bool {
    version < MetadataVersion::V5
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
