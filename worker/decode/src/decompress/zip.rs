//! What is around the one file of a zip archive, read as a stream.
//!
//! Before the file: its local header, after those of folders. After it: perhaps a data descriptor and more
//! folders, then the central directory, which is kept (it is small) and checked at the end: one file, its size, its CRC.

use stevedore_common::{Error, Result};

const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";
const DIRECTORY_END: [u8; 4] = *b"PK\x05\x06";
/// The flag of an entry whose sizes stand behind its content.
const HAS_DESCRIPTOR: u16 = 8;
/// More than a directory of one file with a few folders needs.
const MOST_TAIL: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Before,
    File,
    After,
}

/// The envelope of the file.
#[derive(Debug, Default)]
pub(super) struct ZipEnvelope {
    place: Place,
    header: Vec<u8>,
    /// Something, empty once unpacked, stands behind the header of a folder: the next header is looked for.
    seeking: bool,
    /// The file's size, where it is stored rather than deflated.
    stored: Option<u64>,
    crc: flate2::Crc,
    tail: Vec<u8>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// Whether a local header is that of a folder.
fn is_folder(header: &[u8]) -> bool {
    let name = u16_at(header, 26).and_then(|length| header.get(30..30 + usize::from(length)));
    name.is_some_and(|name| name.ends_with(b"/"))
}

fn bad(what: &str) -> Error {
    Error::bad_data(format!("zip archive: {what}"))
}

impl ZipEnvelope {
    /// Takes bytes outside of the file; answers how many. It stops where the file begins.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<usize> {
        if self.place == Place::After {
            if self.tail.len() + input.len() > MOST_TAIL {
                return Err(bad("its directory is too large for an archive of one file"));
            }
            self.tail.extend_from_slice(input);
            return Ok(input.len());
        }
        for (i, byte) in input.iter().enumerate() {
            self.header.push(*byte);
            if self.seeking && self.header.len() == 4 {
                if self.header != LOCAL_HEADER && self.header != DIRECTORY_ENTRY {
                    self.header.remove(0);
                    continue;
                }
                self.seeking = false;
            }
            if self.seeking {
                continue;
            }
            if self.header_is_whole()? && self.header_is_of_a_file()? {
                self.place = Place::File;
                return Ok(i + 1);
            }
        }
        Ok(input.len())
    }

    fn header_is_whole(&self) -> Result<bool> {
        let known = self.header.len().min(4);
        if self.header[..known] != LOCAL_HEADER[..known] {
            return Err(
                if self.header.starts_with(&DIRECTORY_END[..known])
                    || self.header.starts_with(&DIRECTORY_ENTRY[..known])
                {
                    bad("it holds no file")
                } else {
                    bad("it does not begin with a file")
                        .hint("check COMPRESSION: it must be that of the file")
                },
            );
        }
        let lengths = u16_at(&self.header, 26).zip(u16_at(&self.header, 28));
        Ok(lengths
            .is_some_and(|(name, extra)| self.header.len() == 30 + usize::from(name) + usize::from(extra)))
    }

    fn header_is_of_a_file(&mut self) -> Result<bool> {
        let header = &self.header;
        let (flags, method) = (u16_at(header, 6).unwrap_or(0), u16_at(header, 8).unwrap_or(0));
        let size = u32_at(header, 18).unwrap_or(0);
        let name_length = usize::from(u16_at(header, 26).unwrap_or(0));
        let name = &header[30..30 + name_length];
        if name.ends_with(b"/") {
            self.seeking = size > 0 || flags & HAS_DESCRIPTOR != 0;
            self.header.clear();
            return Ok(false);
        }
        if flags & 1 != 0 {
            return Err(bad("its file is encrypted"));
        }
        match method {
            8 => Ok(true),
            0 if flags & HAS_DESCRIPTOR == 0 && size != u32::MAX => {
                self.stored = Some(u64::from(size));
                Ok(true)
            }
            0 => Err(bad("its file is stored without a size ahead of it")),
            other => {
                Err(bad(&format!("its file is compressed by method {other}; deflate and none are read")))
            }
        }
    }

    /// Whether the file has begun and not ended.
    pub(super) fn in_file(&self) -> bool {
        self.place == Place::File
    }

    /// The file's size, where it is stored.
    pub(super) fn stored_bytes(&self) -> Option<u64> {
        self.stored
    }

    /// Takes some of the file's content.
    pub(super) fn checksum(&mut self, content: &[u8]) {
        self.crc.update(content);
    }

    /// The file's content ends here.
    pub(super) fn file_ends(&mut self) {
        self.place = Place::After;
    }

    /// Checks what is around the file, of `written` bytes, once all is read.
    pub(super) fn finish(&self, read: u64, written: u64) -> Result<()> {
        let truncated = || Error::bad_data(format!("zip stream is truncated after {read} bytes"));
        match self.place {
            Place::Before if read == 0 => return Ok(()),
            Place::Before | Place::File => return Err(truncated()),
            Place::After => {}
        }
        let tail = &self.tail[..];
        let find = |what: &[u8]| memchr::memmem::find(tail, what);
        let entries = &tail[..find(&DIRECTORY_ENTRY).unwrap_or(tail.len())];
        if memchr::memmem::find_iter(entries, &LOCAL_HEADER).any(|at| !is_folder(&entries[at..])) {
            return Err(
                bad("it holds more than one file").hint("pack each file by itself, or use gzip or zstd")
            );
        }
        let (Some(mut at), Some(end)) = (find(&DIRECTORY_ENTRY), memchr::memmem::rfind(tail, &DIRECTORY_END))
        else {
            return Err(truncated());
        };
        if u16_at(tail, end + 20).is_none_or(|comment| tail.len() < end + 22 + usize::from(comment)) {
            return Err(truncated());
        }
        while tail.get(at..at + 4) == Some(&DIRECTORY_ENTRY) {
            let field = |offset: usize| u32_at(tail, at + offset).ok_or_else(truncated);
            let length = |offset: usize| u16_at(tail, at + offset).map(usize::from).ok_or_else(truncated);
            let (crc, size) = (field(16)?, field(24)?);
            let name = tail.get(at + 46..at + 46 + length(28)?).ok_or_else(truncated)?;
            if !name.ends_with(b"/")
                && (crc != self.crc.sum() || (size != u32::MAX && u64::from(size) != written))
            {
                return Err(bad("its file does not match its checksum"));
            }
            at += 46 + length(28)? + length(30)? + length(32)?;
        }
        Ok(())
    }
}
