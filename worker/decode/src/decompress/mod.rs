//! Decompression as a stream, for text files.
//!
//! Comes in: compressed bytes in pieces of any size, and a resolved codec. Goes out: the bytes they stand
//! for, in pieces of at most [`PIECE`] bytes that are handed to a callback, so that a bomb never stands in
//! memory; the callback may wait. Concatenated members are read through (gzip, zstd, bz2, xz), a zip
//! archive holds one file. It fails on damaged and truncated streams, naming the codec and the offset, and
//! on the limits of [`DecompressLimits`].

mod codecs;
mod zip;

use stevedore_common::file_format::Compression;
use stevedore_common::{Error, Result};

use crate::limits::DecompressLimits;
use codecs::Codec;
use zip::ZipEnvelope;

/// The largest piece that is handed out.
pub const PIECE: usize = 256 << 10;

/// What a codec did with some input.
#[derive(Debug, Clone, Copy)]
struct Step {
    read: usize,
    written: usize,
    /// The member has ended.
    ended: bool,
}

/// A stream that is being decompressed.
pub struct Decompressor {
    name: Compression,
    codec: Codec,
    limits: DecompressLimits,
    output: Vec<u8>,
    read: u64,
    written: u64,
    state: State,
    zip: Option<ZipEnvelope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a member.
    Between,
    Within,
    /// After the last member of a codec that has one only, or in the padding after members.
    Done,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor")
            .field("codec", &self.name)
            .field("read", &self.read)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Decompressor {
    /// For a codec other than AUTO and NONE.
    ///
    /// # Errors
    /// Internal for these two, and where the codec cannot be set up.
    pub fn new(codec: Compression, limits: DecompressLimits) -> Result<Self> {
        Ok(Self {
            name: codec,
            codec: Codec::new(codec)?,
            limits,
            output: Vec::new(),
            read: 0,
            written: 0,
            state: State::Between,
            zip: (codec == Compression::Zip).then(ZipEnvelope::default),
        })
    }

    /// Takes compressed bytes and hands out what they stand for.
    ///
    /// # Errors
    /// Bad data for a damaged stream, resource exhausted for a limit, and the errors of `each`.
    pub fn push(&mut self, mut input: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.output.resize(PIECE, 0);
        loop {
            if let Some(zip) = &mut self.zip
                && self.state != State::Within
            {
                // Headers before the file, the directory after it.
                let taken = zip.push(input)?;
                self.read += taken as u64;
                input = &input[taken..];
                if !zip.in_file() {
                    return Ok(());
                }
                self.state = State::Within;
                self.codec = Codec::zip_member(zip.stored_bytes());
            }
            if self.state == State::Between {
                if input.is_empty() {
                    return Ok(());
                }
                if self.written_members_end_here(input) {
                    self.state = State::Done;
                }
            }
            if self.state == State::Done {
                return self.padding(input);
            }
            self.state = State::Within;
            let step = self.codec.step(input, &mut self.output).map_err(|what| self.damaged(&what))?;
            self.read += step.read as u64;
            input = &input[step.read..];
            self.account(step.written)?;
            if step.written > 0 {
                if let Some(zip) = &mut self.zip {
                    zip.checksum(&self.output[..step.written]);
                }
                each(&self.output[..step.written])?;
            }
            if step.ended {
                self.state = if self.codec.has_members() { State::Between } else { State::Done };
                if self.state == State::Between {
                    self.codec.reset().map_err(|what| self.damaged(&what))?;
                }
                if let Some(zip) = &mut self.zip {
                    zip.file_ends();
                }
            } else if step.read == 0 && step.written == 0 {
                if input.is_empty() {
                    return Ok(());
                }
                return Err(self.damaged("no progress"));
            } else if input.is_empty() && step.written < self.output.len() {
                // An output that is full may have more behind it.
                return Ok(());
            }
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Bad data where it is truncated.
    pub fn finish(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.push(&[], each)?;
        if let Some(zip) = &self.zip {
            return zip.finish(self.read, self.written);
        }
        // No bytes at all are an empty file.
        if self.state == State::Within && self.read > 0 {
            return Err(Error::bad_data(format!(
                "{} stream is truncated after {} bytes",
                self.name.as_str().to_ascii_lowercase(),
                self.read
            )));
        }
        Ok(())
    }

    /// Whether what follows a member is padding rather than another member: zeros, as tape and xz have.
    fn written_members_end_here(&self, input: &[u8]) -> bool {
        self.read > 0 && input[0] == 0
    }

    fn padding(&mut self, input: &[u8]) -> Result<()> {
        match input.iter().position(|byte| *byte != 0) {
            None => {
                self.read += input.len() as u64;
                Ok(())
            }
            Some(at) => {
                self.read += at as u64;
                Err(self.damaged("unexpected bytes after the end"))
            }
        }
    }

    fn account(&mut self, written: usize) -> Result<()> {
        self.written += written as u64;
        let limits = &self.limits;
        let name = self.name.as_str().to_ascii_lowercase();
        if self.written > limits.max_output_bytes {
            return Err(Error::exhausted(format!(
                "{name} stream is larger than {} bytes (limit max_decompressed_bytes)",
                limits.max_output_bytes
            )));
        }
        if self.written > DecompressLimits::RATIO_FLOOR.min(limits.max_output_bytes)
            && self.written / limits.max_ratio.max(1) > self.read
        {
            return Err(Error::exhausted(format!(
                "{name} stream grows more than {}-fold (limit max_decompression_ratio)",
                limits.max_ratio
            )));
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        let name = self.name.as_str().to_ascii_lowercase();
        let error = Error::bad_data(format!("{name} stream is damaged near byte {}: {what}", self.read));
        if self.written == 0 { error.hint("check COMPRESSION: it must be that of the file") } else { error }
    }
}

#[cfg(test)]
mod tests;
