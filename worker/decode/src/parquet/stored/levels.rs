//! Chunks of columns that cannot be NULL, made chunks of columns that may be.
//!
//! Comes in: a flat chunk without levels. Goes out: the same values under pages of version 2, which have their
//! levels before the values, outside of what is compressed: one run that says that every value is there. The
//! values of a page stay as they are, compressed and encoded, since a page without levels holds nothing else. A
//! chunk that cannot be read so is `None`: its values are encoded again.

use ::parquet::basic::Encoding;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::ChunkReader;
use bytes::Bytes;

use crate::parquet::chunks::GroupBytes;
use crate::parquet::page_headers::{PageHeader, PageKind};

/// Headers that are longer hold statistics of long texts.
const LONGEST_HEADER: u64 = 64 * 1024;
/// Numbers of encodings in the format.
const PLAIN_DICTIONARY: i64 = 2;
const RLE_DICTIONARY: i64 = 8;

/// A chunk with levels; offsets are within its bytes.
#[derive(Debug)]
pub(super) struct Leveled {
    pub(super) bytes: Bytes,
    pub(super) dictionary_page_offset: Option<i64>,
    pub(super) data_page_offset: i64,
    pub(super) uncompressed_size: i64,
    pub(super) encodings: Vec<Encoding>,
}

/// Adds levels to a chunk that has none.
pub(super) fn with_levels(chunk: &ColumnChunkMetaData, bytes: &GroupBytes) -> Option<Leveled> {
    let (start, length) = chunk.byte_range();
    let (mut at, end) = (start, start.checked_add(length)?);
    let mut out = Vec::with_capacity(usize::try_from(length).ok()?);
    let (mut dictionary, mut first_data, mut uncompressed) = (None, None, 0i64);
    while at < end {
        let head = bytes.get_bytes(at, usize::try_from((end - at).min(LONGEST_HEADER)).ok()?).ok()?;
        let header = PageHeader::read(&head)?;
        let body_at = at.checked_add(header.length as u64)?;
        let size = u64::try_from(header.compressed).ok()?;
        at = body_at.checked_add(size).filter(|at| *at <= end)?;
        let body = bytes.get_bytes(body_at, usize::try_from(size).ok()?).ok()?;
        let position = i64::try_from(out.len()).ok()?;
        match header.kind {
            PageKind::Dictionary if dictionary.is_none() && first_data.is_none() => {
                dictionary = Some(position);
                out.extend_from_slice(&head[..header.length]);
                uncompressed = uncompressed.checked_add(header.uncompressed)?;
            }
            // A page of version 2 may have none to add to.
            PageKind::Data | PageKind::DataV2 if header.levels == 0 => {
                first_data.get_or_insert(position);
                let levels = all_there(u32::try_from(header.values).ok()?);
                write_header(&header, &levels, &mut out)?;
                out.extend_from_slice(&levels);
                uncompressed =
                    uncompressed.checked_add(header.uncompressed)?.checked_add(levels.len() as i64)?;
            }
            _ => return None,
        }
        uncompressed = uncompressed.checked_add(i64::try_from(out.len()).ok()? - position)?;
        out.extend_from_slice(&body);
    }
    let renamed =
        |encoding| if encoding == Encoding::PLAIN_DICTIONARY { Encoding::RLE_DICTIONARY } else { encoding };
    let mut encodings: Vec<Encoding> = chunk.encodings().map(renamed).collect();
    encodings.push(Encoding::RLE);
    Some(Leveled {
        bytes: out.into(),
        dictionary_page_offset: dictionary,
        data_page_offset: first_data?,
        uncompressed_size: uncompressed,
        encodings,
    })
}

/// The levels of so many values, none of which is NULL: one run of ones.
fn all_there(values: u32) -> Vec<u8> {
    let mut levels = Vec::with_capacity(6);
    if values > 0 {
        varint(u64::from(values) << 1, &mut levels);
        levels.push(1);
    }
    levels
}

/// Writes the header of a page of version 2 that holds these levels and the values of another.
fn write_header(page: &PageHeader, levels: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = levels.len() as i64;
    // DATA_PAGE_V2, both sizes.
    integer(3, out)?;
    integer(page.uncompressed.checked_add(length)?, out)?;
    integer(page.compressed.checked_add(length)?, out)?;
    // Its own header, five fields further.
    out.push(0x5C);
    integer(page.values, out)?;
    // No NULLs, as many rows.
    integer(0, out)?;
    integer(page.values, out)?;
    integer(if page.encoding == PLAIN_DICTIONARY { RLE_DICTIONARY } else { page.encoding }, out)?;
    // The bytes of definition levels and of repetition levels.
    integer(length, out)?;
    integer(0, out)?;
    let is_compressed = page.kind == PageKind::Data || page.is_compressed;
    out.extend([if is_compressed { 0x11 } else { 0x12 }, 0, 0]);
    Some(())
}

/// The next field of a structure, an integer that is not negative.
fn integer(value: i64, out: &mut Vec<u8>) -> Option<()> {
    out.push(0x15);
    let value = i32::try_from(value).ok().and_then(|value| u32::try_from(value).ok())?;
    varint(u64::from(value) << 1, out);
    Some(())
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
