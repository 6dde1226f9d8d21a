//! The header: from the first bytes of a file to its schema, codec and sync marker.

use serde_json::Value;
use stevedore_common::error::{Error, Result};

use super::codec::BlockCodec;

/// How many bytes of the beginning to look at first: enough for the headers of most files.
pub const HEADER_BYTES: usize = 64 * 1024;
/// The largest header accepted.
const MAX_HEADER_BYTES: usize = 64 << 20;
const MAGIC: &[u8; 4] = b"Obj\x01";

/// What the beginning of a file tells.
#[derive(Debug, Clone)]
pub struct AvroHeader {
    /// The schema that the file was written with.
    pub(super) schema: Value,
    pub(super) codec: BlockCodec,
    pub(super) sync: [u8; 16],
    /// How long the header is: the first block follows.
    pub length: usize,
}

/// Reads the header from the first bytes of a file; `None`: more of them are needed. `is_all` says that
/// there are no more.
///
/// # Errors
/// Bad data that says why this is not an Avro file; not supported for an unknown codec.
pub fn read_header(bytes: &[u8], is_all: bool) -> Result<Option<AvroHeader>> {
    let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if !MAGIC.starts_with(start) || (is_all && start.len() < MAGIC.len()) {
        return Err(not_avro("it does not begin with Obj and 1; it is of another format"));
    }
    match parse(bytes) {
        Ok(header) => Ok(Some(header)),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::More) if is_all => Err(not_avro("its header is cut off")),
        Err(Stop::More) if bytes.len() > MAX_HEADER_BYTES => Err(Error::exhausted(format!(
            "the header of the Avro file has more than {MAX_HEADER_BYTES} bytes"
        ))),
        Err(Stop::More) => Ok(None),
    }
}

fn not_avro(why: &str) -> Error {
    Error::bad_data(format!("not an Avro file: {why}"))
}

enum Stop {
    /// The bytes end before the header does.
    More,
    Error(Error),
}

fn damaged(what: &str) -> Stop {
    Stop::Error(not_avro(&format!("its header is damaged ({what})")))
}

fn parse(bytes: &[u8]) -> Result<AvroHeader, Stop> {
    let mut rest = Bytes(bytes);
    rest.take(MAGIC.len())?;
    let (mut schema, mut codec) = (None, BlockCodec::Null);
    loop {
        let mut entries = rest.long()?;
        if entries == 0 {
            break;
        }
        if entries < 0 {
            // The size of the entries in bytes follows.
            rest.long()?;
            entries = entries.checked_neg().ok_or_else(|| damaged("a count"))?;
        }
        for _ in 0..entries {
            let key = rest.bytes()?;
            let value = rest.bytes()?;
            match key {
                b"avro.schema" => {
                    let parsed = serde_json::from_slice::<Value>(value);
                    schema = Some(parsed.map_err(|error| damaged(&format!("its schema: {error}")))?);
                }
                b"avro.codec" => codec = BlockCodec::parse(value).map_err(Stop::Error)?,
                _ => {}
            }
        }
    }
    let mut sync = [0; 16];
    sync.copy_from_slice(rest.take(16)?);
    let schema = schema.ok_or_else(|| damaged("it has no schema"))?;
    Ok(AvroHeader { schema, codec, sync, length: bytes.len() - rest.0.len() })
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Stop::More)?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, Stop> {
        match read_long(self.0) {
            Long::Value(value, length) => {
                self.take(length)?;
                Ok(value)
            }
            Long::More => Err(Stop::More),
            Long::Endless => Err(damaged("a number")),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.long()?;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER_BYTES);
        self.take(length.ok_or_else(|| damaged("a length"))?)
    }
}

/// A number as Avro writes it.
pub(super) enum Long {
    /// The number, and the bytes that it takes.
    Value(i64, usize),
    More,
    Endless,
}

/// Reads the number that bytes begin with: zigzag, seven bits a byte.
pub(super) fn read_long(bytes: &[u8]) -> Long {
    let mut value = 0u64;
    for (place, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Long::Value((value >> 1) as i64 ^ -((value & 1) as i64), place + 1);
        }
    }
    if bytes.len() < 10 { Long::More } else { Long::Endless }
}

/// A number as Avro writes it.
pub(super) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
