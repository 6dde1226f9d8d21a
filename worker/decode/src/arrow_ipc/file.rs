//! The footer of a file: where its messages are.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc;
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::message::{
    BatchMessage, Dictionaries, Frame, Kind, MAX_METADATA, damaged, frame, head, parse, schema,
};
use crate::errors::cut;

/// How many bytes of the end to look at first: enough for the footers of most files.
pub const TAIL_BYTES: u64 = 64 * 1024;
const MAGIC: &[u8; 6] = b"ARROW1";
/// The end of every file: the length of the footer and the magic.
const END_BYTES: usize = 4 + MAGIC.len();

/// What the end of a file gives.
#[derive(Debug)]
pub enum Tail {
    /// All that is needed.
    Ready(FileLayout),
    /// So many bytes of the end are needed.
    Need(u64),
}

/// Where the messages of a file are, and its schema.
#[derive(Debug, Clone)]
pub struct FileLayout {
    schema: SchemaRef,
    dictionaries: Vec<BatchPlace>,
    batches: Vec<BatchPlace>,
}

/// A message of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPlace {
    /// Its number among those of its kind, from 1.
    number: u64,
    /// Its bytes: frame, metadata, body.
    pub range: Range<u64>,
    /// The bytes of frame and metadata.
    metadata: u64,
}

impl BatchPlace {
    /// The bytes that say what the message is.
    pub fn metadata_range(&self) -> Range<u64> {
        self.range.start..self.range.start + self.metadata
    }

    /// How many of its kind come before it.
    pub fn index(&self) -> usize {
        self.number as usize - 1
    }

    /// The bytes of the whole message.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// What the metadata of a record batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// How many rows it has.
    pub rows: u64,
    /// What it may be expected to take in memory.
    pub memory: u64,
}

/// What a record batch of so many bytes may be expected to take in memory.
pub(super) fn memory_of(bytes: u64, metadata: &[u8]) -> u64 {
    let compressed = parse(metadata, "").ok().is_some_and(|message| {
        message.header_as_record_batch().is_some_and(|batch| batch.compression().is_some())
    });
    bytes.saturating_mul(if compressed { 6 } else { 2 })
}

/// Reads the footer from the last bytes of a file of `size` bytes.
///
/// # Errors
/// Bad data that says why this is not an Arrow file; not supported for what cannot be read.
pub fn read_tail(size: u64, tail: &[u8]) -> Result<Tail> {
    let not_arrow = |why: &str| Error::bad_data(format!("not an Arrow file: {why}"));
    if tail.starts_with(b"FEA1") || tail.ends_with(b"FEA1") {
        return Err(Error::not_supported("Feather files of version 1").hint("write them as version 2"));
    }
    let Some((rest, end)) = tail.split_last_chunk::<END_BYTES>().filter(|(_, end)| end.ends_with(MAGIC))
    else {
        return Err(not_arrow("it does not end with ARROW1")
            .hint("a stream is TYPE = ARROW_STREAM; otherwise it is cut off or of another format"));
    };
    let length = i32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_METADATA);
    let length = length.ok_or_else(|| not_arrow("the length of its footer is not valid"))?;
    let needed = (length + END_BYTES) as u64;
    if needed > size {
        return Err(not_arrow("its footer is longer than the file"));
    }
    let Some(start) = rest.len().checked_sub(length) else { return Ok(Tail::Need(needed)) };
    let part = "the footer of the Arrow file";
    let footer = ipc::root_as_footer(&rest[start..])
        .map_err(|error| damaged(part, error.to_string().lines().next().unwrap_or_default()))?;
    let schema = schema(footer.schema().ok_or_else(|| damaged(part, "it has no schema"))?)?;
    let end = size - needed;
    let places = |blocks: Option<_>, what: &str| {
        places(blocks, end).ok_or_else(|| damaged(part, format!("a {what} lies beyond the file")))
    };
    let dictionaries =
        places(footer.dictionaries().map(|blocks| blocks.iter().copied().collect()), "dictionary")?;
    let batches =
        places(footer.recordBatches().map(|blocks| blocks.iter().copied().collect()), "record batch")?;
    Ok(Tail::Ready(FileLayout { schema, dictionaries, batches }))
}

/// The messages of a footer; `None` where one does not lie within the file.
fn places(blocks: Option<Vec<ipc::Block>>, end: u64) -> Option<Vec<BatchPlace>> {
    let mut places = Vec::new();
    for (number, block) in (1..).zip(blocks.into_iter().flatten()) {
        let start = u64::try_from(block.offset()).ok()?;
        let metadata =
            u64::try_from(block.metaDataLength()).ok().filter(|length| *length <= MAX_METADATA as u64)?;
        let body = u64::try_from(block.bodyLength()).ok()?;
        let range = start..start.checked_add(metadata)?.checked_add(body)?;
        if range.end > end {
            return None;
        }
        places.push(BatchPlace { number, range, metadata });
    }
    Some(places)
}

/// A message taken apart.
struct Whole {
    kind: Kind,
    metadata: Bytes,
    body: Bytes,
}

fn split(place: &BatchPlace, bytes: &Bytes, part: &str) -> Result<Whole> {
    let metadata_end = (place.metadata as usize).min(bytes.len());
    let (start, end) = match frame(&bytes[..metadata_end]) {
        Some(Frame::Message { frame, metadata }) if frame + metadata <= metadata_end => {
            (frame, frame + metadata)
        }
        _ => return Err(damaged(part, "no message begins where the footer says")),
    };
    let metadata = bytes.slice(start..end);
    let head = head(&metadata, part)?;
    let body = bytes.slice(metadata_end..);
    let length = usize::try_from(head.body).unwrap_or(usize::MAX);
    // Of a message whose metadata alone was fetched, the body is not there.
    let body = if body.is_empty() {
        body
    } else {
        if length > body.len() {
            return Err(damaged(part, "it is longer than the footer says"));
        }
        body.slice(..length)
    };
    Ok(Whole { kind: head.kind, metadata, body })
}

impl FileLayout {
    /// The schema of the file.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The messages with dictionaries, in order.
    pub fn dictionaries(&self) -> &[BatchPlace] {
        &self.dictionaries
    }

    /// The record batches to decode: all of them, or those whose first byte lies in `range`, so that ranges
    /// which cover a file cover each batch once.
    pub fn plan(&self, range: Option<Range<u64>>) -> Vec<BatchPlace> {
        let chosen =
            |place: &&BatchPlace| range.as_ref().is_none_or(|range| range.contains(&place.range.start));
        self.batches.iter().filter(chosen).cloned().collect()
    }

    /// The batches that come before the last one of a plan in the file's order: their rows count.
    pub fn before(&self, plan: &[BatchPlace]) -> &[BatchPlace] {
        let last = plan.last().map_or(0, |place| place.number as usize - 1);
        &self.batches[..last]
    }

    /// Adds a dictionary from the bytes of its place. They may take `limit` bytes together.
    ///
    /// # Errors
    /// Bad data for what is no dictionary of the schema; resource exhausted above the limit.
    pub fn add_dictionary(
        &self,
        place: &BatchPlace,
        bytes: &Bytes,
        dictionaries: &mut Dictionaries,
        limit: u64,
    ) -> Result<()> {
        let part = format!("dictionary {} of the Arrow file", place.number);
        let whole = split(place, bytes, &part)?;
        if whole.kind != Kind::Dictionary {
            return Err(damaged(&part, "another kind of message stands there"));
        }
        dictionaries.add(&self.schema, &whole.metadata, whole.body, limit, &part)
    }

    /// What a batch is like, from the bytes of its place or of its metadata.
    ///
    /// # Errors
    /// Bad data for what is no record batch.
    pub fn head(&self, place: &BatchPlace, bytes: &Bytes) -> Result<BatchHead> {
        let part = batch(place.number);
        let whole = split(place, bytes, &part)?;
        match whole.kind {
            Kind::Batch(rows) => Ok(BatchHead { rows, memory: memory_of(place.bytes(), &whole.metadata) }),
            _ => Err(damaged(&part, "another kind of message stands there")),
        }
    }

    /// The batch that the bytes of its place hold; `first_row` is the number of its first row within the
    /// file.
    ///
    /// # Errors
    /// Bad data for what is no record batch.
    pub fn message(
        &self,
        place: &BatchPlace,
        bytes: &Bytes,
        dictionaries: &Arc<Dictionaries>,
        first_row: u64,
    ) -> Result<BatchMessage> {
        let part = batch(place.number);
        let Whole { kind: Kind::Batch(rows), metadata, body } = split(place, bytes, &part)? else {
            return Err(damaged(&part, "another kind of message stands there"));
        };
        let dictionaries = Arc::clone(dictionaries);
        Ok(BatchMessage {
            number: place.number,
            metadata,
            body,
            dictionaries,
            rows,
            first_row,
            input_bytes: place.bytes(),
        })
    }
}

/// What people call a record batch.
pub(super) fn batch(number: u64) -> String {
    format!("record batch {} of the Arrow data", cut(&number.to_string()))
}
