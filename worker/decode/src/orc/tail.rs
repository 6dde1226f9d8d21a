//! The tail: from the last bytes of a file to its metadata.
//!
//! The postscript is read here before the library sees it: sizes in it decide how much memory is asked
//! for, and a file of another format should be told as such.

use std::sync::Arc;

use bytes::Bytes;
use orc_rust::reader::metadata::{FileMetadata, read_metadata};
use stevedore_common::error::{Error, Result};

use super::ranges::Fetched;
use super::types;
use crate::columnar::guarded;

/// How many bytes of the end to fetch at first: enough for the tails of most files.
pub const TAIL_BYTES: u64 = 64 * 1024;
/// The largest tail accepted; larger ones would not fit beside the data anyway.
const MAX_TAIL_BYTES: u64 = 64 << 20;
/// The most rows of a stripe: where no column is read, they are only counted, and lies cost time.
const MAX_ROWS: u64 = 1 << 32;
/// The number of the postscript's field that says how long the statistics of stripes are.
const METADATA_LENGTH: u64 = 5;
/// The largest compression block: its length has to fit into 23 bits.
const MAX_COMPRESSION_BLOCK: u64 = 1 << 23;

/// A file's metadata.
#[derive(Debug, Clone)]
pub struct OrcMetadata {
    pub(super) file: Arc<FileMetadata>,
    pub(super) file_size: u64,
}

/// What the end of a file tells.
#[derive(Debug, Clone)]
pub enum Tail {
    /// The metadata.
    Ready(OrcMetadata),
    /// The tail is larger: call again with this many bytes from the end.
    Need(u64),
}

/// Reads the tail from the last bytes of a file of `file_size` bytes ([`TAIL_BYTES`] of them, or the
/// whole file where it is smaller).
///
/// # Errors
/// Bad data that says why this is not an ORC file.
pub fn read_tail(file_size: u64, tail: &Bytes) -> Result<Tail> {
    let not_orc = |why: &str| Error::bad_data(format!("not an ORC file: {why}"));
    let (length, head) = tail.split_last().ok_or_else(|| not_orc("it is empty"))?;
    let length = u64::from(*length);
    if length + 1 > file_size {
        return Err(not_orc("it is too short"));
    }
    let Some(start) = head.len().checked_sub(length as usize) else {
        return Ok(Tail::Need(TAIL_BYTES.min(file_size)));
    };
    let postscript =
        Postscript::parse(&head[start..]).filter(|postscript| postscript.has_magic).ok_or_else(|| {
            not_orc("it does not end with an ORC postscript; it is of another format, or cut off")
        })?;
    let needed = postscript.footer_length.checked_add(length + 1);
    let all = needed.and_then(|needed| needed.checked_add(postscript.metadata_length));
    let needed = needed.filter(|_| all.is_some_and(|all| all <= file_size)).ok_or_else(|| {
        not_orc(&format!(
            "the postscript is damaged (it claims a footer of {} bytes, the file has {file_size})",
            postscript.footer_length
        ))
    })?;
    if needed > MAX_TAIL_BYTES {
        return Err(Error::exhausted(format!(
            "the tail of the ORC file has {needed} bytes; at most {MAX_TAIL_BYTES} are read"
        )));
    }
    if postscript.compression_block > MAX_COMPRESSION_BLOCK {
        return Err(not_orc(&format!(
            "the postscript is damaged (compression blocks of {} bytes)",
            postscript.compression_block
        )));
    }
    if (tail.len() as u64) < needed {
        return Ok(Tail::Need(needed));
    }
    // All of it is there: the sizes were added up above.
    let sections = head.get(..start).unwrap_or_default();
    let footer = sections.len().saturating_sub(postscript.footer_length as usize);
    types::check(&tail.slice(footer..start), &head[start..])
        .map_err(|what| not_orc(&format!("the footer is damaged ({what})")))?;
    let mut reader = without_statistics(&sections[footer..], &head[start..])
        .ok_or_else(|| not_orc("the postscript is damaged"))?;
    let file = guarded(
        || "not an ORC file: the footer".into(),
        || read_metadata(&mut reader).map_err(|error| not_orc(&format!("the footer is damaged ({error})"))),
    )?;
    check(&file, file_size)?;
    Ok(Tail::Ready(OrcMetadata { file: Arc::new(file), file_size }))
}

/// A file that ends as the one does, without the statistics of stripes. They may be of any size, and nobody asks for
/// them.
fn without_statistics(footer: &[u8], postscript: &[u8]) -> Option<Fetched> {
    let mut end = footer.to_vec();
    let mut rest = postscript;
    while !rest.is_empty() {
        let start = rest;
        if field(&mut rest)?.0 != METADATA_LENGTH {
            end.extend_from_slice(&start[..start.len() - rest.len()]);
        }
    }
    end.extend_from_slice(&[METADATA_LENGTH as u8 * 8, 0]);
    end.push(u8::try_from(end.len() - footer.len()).ok()?);
    Some(Fetched::new(end.len() as u64, vec![(0, end.into())], 0..0))
}

/// Places that later steps rely on.
fn check(file: &FileMetadata, file_size: u64) -> Result<()> {
    let mut rows = 0u64;
    for (number, stripe) in file.stripe_metadatas().iter().enumerate() {
        let end = [stripe.offset(), stripe.index_length(), stripe.data_length(), stripe.footer_length()]
            .iter()
            .try_fold(0u64, |sum, part| sum.checked_add(*part));
        if end.is_none_or(|end| end > file_size) {
            return Err(Error::bad_data(format!(
                "stripe {} of the ORC file is damaged (it lies outside of the file's {file_size} bytes; the file may be cut off)",
                number + 1
            )));
        }
        if stripe.number_of_rows() > MAX_ROWS {
            return Err(Error::bad_data(format!(
                "stripe {} of the ORC file is damaged (it claims {} rows)",
                number + 1,
                stripe.number_of_rows()
            )));
        }
        rows = rows.saturating_add(stripe.number_of_rows());
    }
    if rows != file.number_of_rows() {
        return Err(Error::bad_data(format!(
            "the footer of the ORC file is damaged (it claims {} rows, its stripes {rows})",
            file.number_of_rows()
        )));
    }
    Ok(())
}

/// What matters of the postscript.
#[derive(Debug, Default)]
struct Postscript {
    footer_length: u64,
    metadata_length: u64,
    compression_block: u64,
    has_magic: bool,
}

impl Postscript {
    /// Reads the message (protocol buffers); `None` where it is none.
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut postscript = Self::default();
        while !bytes.is_empty() {
            let (number, (value, text)) = field(&mut bytes)?;
            match number {
                1 => postscript.footer_length = value,
                3 => postscript.compression_block = value,
                METADATA_LENGTH => postscript.metadata_length = value,
                8000 => postscript.has_magic |= text == b"ORC",
                _ => {}
            }
        }
        Some(postscript)
    }
}

/// The next field of a message: its number, and its value as a number or as bytes.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, (u64, &'a [u8]))> {
    let key = varint(bytes)?;
    let (mut value, mut length) = (0, 0);
    match key & 7 {
        0 => value = varint(bytes)?,
        1 => length = 8,
        2 => length = usize::try_from(varint(bytes)?).ok()?,
        5 => length = 4,
        _ => return None,
    }
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((key >> 3, (value, text)))
}

pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
