//! The buffers of a message: what is claimed of them checked, those that are wanted decompressed.
//!
//! The library takes memory for what compressed buffers claim to be, and does not bound what LZ4 makes of
//! them. So buffers are decompressed here, into one body, each behind the mark of a buffer that is not
//! compressed, and the places of the buffers in the metadata are set to where they are now.

use std::collections::VecDeque;
use std::io::Read;

use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{DataType, Field, Schema, UnionMode};
use arrow::ipc::{self, CompressionType, MetadataVersion};
use bytes::Bytes;
use stevedore_common::error::{Error, Result};

use super::message::{damaged, has_union_validity, parse};

/// Entries that an array may claim, however few bytes there are: NULLs take none.
const FREE_ENTRIES: u64 = 1 << 24;
/// Where buffers begin: any array may lie there.
const ALIGNMENT: usize = 64;
/// What stands before a compressed buffer: its size once decompressed.
const SIZE_BYTES: usize = 8;
/// In its place: the buffer is as it is.
const AS_IT_IS: i64 = -1;

/// A message whose buffers can be used as they are.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) metadata: Bytes,
    pub(super) body: Buffer,
}

/// A buffer of a message: where it is, and where it goes.
struct Place {
    from: usize,
    length: usize,
    /// Bytes once decompressed, behind the mark; `None`: it is not wanted.
    size: Option<usize>,
}

/// Checks the record batch of a message (of rows or a dictionary) and decompresses its buffers. `wanted`
/// says for each buffer whether it will be looked at; `None`: all are.
pub(super) fn unpack(
    metadata: &[u8],
    body: Bytes,
    wanted: Option<&[bool]>,
    limit: u64,
    part: &str,
) -> Result<Unpacked> {
    let message = parse(metadata, part)?;
    let batch = batch_of(&message).ok_or_else(|| damaged(part, "it has no record batch"))?;
    let buffers = batch.buffers().ok_or_else(|| damaged(part, "it has no buffers"))?;
    check(&batch, &body, part)?;
    let Some(compression) = batch.compression() else {
        if body.len() as u64 > limit {
            return Err(too_large(part, body.len() as u64, limit));
        }
        check_entries(&batch, body.len() as u64, part)?;
        return Ok(Unpacked { metadata: Bytes::copy_from_slice(metadata), body: Buffer::from(body) });
    };
    let codec = compression.codec();
    if !matches!(codec, CompressionType::LZ4_FRAME | CompressionType::ZSTD) {
        return Err(Error::not_supported(format!("Arrow buffers compressed by {codec:?} ({part})")));
    }
    let mut places = Vec::with_capacity(buffers.len());
    let mut total = 0u64;
    for (index, buffer) in buffers.iter().enumerate() {
        let (from, length) = (buffer.offset() as usize, buffer.length() as usize);
        let is_wanted = wanted.is_none_or(|wanted| wanted.get(index).copied().unwrap_or(true));
        let size = match (is_wanted, length) {
            (false, _) => None,
            (true, 0) => Some(0),
            (true, length) => {
                let claimed = body[from..from + length].first_chunk::<SIZE_BYTES>();
                let claimed = claimed.map(|bytes| i64::from_le_bytes(*bytes));
                let size = match claimed {
                    Some(AS_IT_IS) => (length - SIZE_BYTES) as u64,
                    Some(size) if size >= 0 => size as u64,
                    _ => return Err(damaged(part, "the size of a compressed buffer")),
                };
                total = total.saturating_add(size + 2 * ALIGNMENT as u64);
                if total > limit {
                    return Err(too_large(part, total, limit));
                }
                Some(size as usize)
            }
        };
        places.push(Place { from, length, size });
    }
    check_entries(&batch, total, part)?;
    let mut unpacked = MutableBuffer::from_len_zeroed(total as usize);
    let mut patched = metadata.to_vec();
    let at = buffers.bytes().as_ptr() as usize - metadata.as_ptr() as usize;
    let mut end = 0;
    for (place, entry) in places.iter().zip(patched[at..].chunks_exact_mut(16)) {
        let (mut offset, mut length) = (0, 0);
        if let Some(size) = place.size.filter(|size| *size > 0) {
            let start = (end + SIZE_BYTES).next_multiple_of(ALIGNMENT);
            (offset, length) = (start - SIZE_BYTES, size + SIZE_BYTES);
            let out = &mut unpacked.as_slice_mut()[offset..start + size];
            let (mark, out) = out.split_at_mut(SIZE_BYTES);
            mark.copy_from_slice(&AS_IT_IS.to_le_bytes());
            let stored = &body[place.from..place.from + place.length];
            decompress(codec, stored, out).map_err(|what| damaged(part, what))?;
            end = start + size;
        }
        let (first, second) = entry.split_at_mut(8);
        first.copy_from_slice(&(offset as i64).to_le_bytes());
        second.copy_from_slice(&(length as i64).to_le_bytes());
    }
    let metadata = Bytes::from(patched);
    // Tables of hostile metadata may overlap: what was written may have changed more than it should.
    let body: Buffer = unpacked.into();
    {
        let message = parse(&metadata, part)?;
        let batch = batch_of(&message).ok_or_else(|| damaged(part, "it has no record batch"))?;
        check(&batch, &body, part)?;
        check_entries(&batch, total, part)?;
    }
    Ok(Unpacked { metadata, body })
}

/// Checks what a record batch claims of which no buffer is looked at, so that it does not claim more rows than
/// there can be.
pub(super) fn check_claims(metadata: &[u8], body: &[u8], limit: u64, part: &str) -> Result<()> {
    let message = parse(metadata, part)?;
    let batch = batch_of(&message).ok_or_else(|| damaged(part, "it has no record batch"))?;
    check(&batch, body, part)?;
    let mut bytes = body.len() as u64;
    if batch.compression().is_some() {
        // As large as its buffers say that they are, which may be no more than what could be read.
        let claimed = |buffer: &ipc::Buffer| {
            let from = buffer.offset() as usize;
            let size = body[from..from + buffer.length() as usize].first_chunk::<SIZE_BYTES>()?;
            u64::try_from(i64::from_le_bytes(*size)).ok()
        };
        let buffers = batch.buffers();
        let sum = buffers.iter().flatten().filter_map(claimed).fold(0, u64::saturating_add);
        bytes = bytes.max(sum.min(limit));
    }
    check_entries(&batch, bytes, part)
}

fn too_large(part: &str, bytes: u64, limit: u64) -> Error {
    Error::exhausted(format!(
        "{part} takes {bytes} bytes in memory, and {limit} of the worker's memory_budget are left for it"
    ))
    .hint("write the file in smaller record batches")
}

fn batch_of<'a>(message: &ipc::Message<'a>) -> Option<ipc::RecordBatch<'a>> {
    match message.header_as_dictionary_batch() {
        Some(dictionary) => dictionary.data(),
        None => message.header_as_record_batch(),
    }
}

/// Every buffer lies within the body.
fn check(batch: &ipc::RecordBatch<'_>, body: &[u8], part: &str) -> Result<()> {
    let within = |buffer: &ipc::Buffer| {
        let (offset, length) = (u64::try_from(buffer.offset()).ok()?, u64::try_from(buffer.length()).ok()?);
        (offset.checked_add(length)? <= body.len() as u64).then_some(())
    };
    for buffer in batch.buffers().iter().flatten() {
        within(buffer).ok_or_else(|| damaged(part, "a buffer lies beyond its body"))?;
    }
    Ok(())
}

/// No array claims more entries than so many bytes can hold.
fn check_entries(batch: &ipc::RecordBatch<'_>, bytes: u64, part: &str) -> Result<()> {
    let most = FREE_ENTRIES.max(bytes.saturating_mul(8));
    let lengths = batch.nodes().into_iter().flatten().map(|node| (node.length(), node.null_count()));
    for (length, nulls) in lengths.chain([(batch.length(), 0)]) {
        if length < 0 || nulls < 0 || nulls > length || length as u64 > most {
            return Err(damaged(part, format!("an array claims {length} entries, {nulls} of them NULL")));
        }
    }
    Ok(())
}

/// Decompresses a buffer into exactly the bytes that it claims to be.
fn decompress(codec: CompressionType, stored: &[u8], out: &mut [u8]) -> Result<(), String> {
    let (claimed, packed) = stored.split_at(SIZE_BYTES);
    if claimed == AS_IT_IS.to_le_bytes() {
        out.copy_from_slice(packed);
        return Ok(());
    }
    let differs = || format!("a compressed buffer is not of the {} bytes that it claims", out.len());
    if codec == CompressionType::ZSTD {
        let expected = out.len();
        let differs = differs();
        let written = zstd::bulk::decompress_to_buffer(packed, out).map_err(|error| error.to_string())?;
        return if written == expected { Ok(()) } else { Err(differs) };
    }
    let differs = differs();
    let mut decoder = lz4_flex::frame::FrameDecoder::new(packed);
    decoder.read_exact(out).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => differs.clone(),
        _ => error.to_string(),
    })?;
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(differs),
        Err(error) => Err(error.to_string()),
    }
}

/// For each buffer of a batch, whether it is of a column that is read.
pub(super) fn wanted_buffers(
    batch: &ipc::RecordBatch<'_>,
    schema: &Schema,
    read: &[usize],
    version: MetadataVersion,
) -> Vec<bool> {
    let buffers = batch.buffers().map_or(0, |buffers| buffers.len());
    let mut variadic: VecDeque<i64> = batch.variadicBufferCounts().into_iter().flatten().collect();
    let mut wanted = Vec::with_capacity(buffers);
    for (column, field) in schema.fields().iter().enumerate() {
        let count = count(field, &mut variadic, version, buffers);
        let to = wanted.len().saturating_add(count).min(buffers);
        wanted.resize(to, read.binary_search(&column).is_ok());
    }
    wanted.resize(buffers, true);
    wanted
}

/// How many buffers a column has; `most` at the most.
fn count(field: &Field, variadic: &mut VecDeque<i64>, version: MetadataVersion, most: usize) -> usize {
    let mut child = |field: &Field| count(field, variadic, version, most);
    let count = match field.data_type() {
        DataType::Null => 0,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 3,
        DataType::Utf8View | DataType::BinaryView => {
            let data = variadic.pop_front().and_then(|count| usize::try_from(count).ok());
            data.unwrap_or(0).saturating_add(2)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            child(item).saturating_add(2)
        }
        DataType::ListView(item) | DataType::LargeListView(item) => child(item).saturating_add(3),
        DataType::FixedSizeList(item, _) => child(item).saturating_add(1),
        DataType::Struct(fields) => {
            fields.iter().fold(1usize, |count, field| count.saturating_add(child(field)))
        }
        DataType::RunEndEncoded(ends, values) => child(ends).saturating_add(child(values)),
        DataType::Union(fields, mode) => {
            let own = 1 + usize::from(*mode == UnionMode::Dense) + usize::from(has_union_validity(version));
            fields.iter().fold(own, |count, (_, field)| count.saturating_add(child(field)))
        }
        _ => 2,
    };
    count.min(most)
}
