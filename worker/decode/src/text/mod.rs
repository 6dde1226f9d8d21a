//! Text files end to end: stored bytes in, blocks and batches out.
//!
//! One task a file drives a [`TextInput`] (decompress, transcode, cut); the blocks that it hands out are
//! decoded by a [`BlockDecoder`] on any thread, in any order; put back in file order, their batches get the
//! row numbers of the file from [`RowNumbering`]. Nothing here waits or does I/O. Bad rows are in the
//! batches; an error means that the file cannot be read on.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::{Error, Result};

use crate::blocks::{BlockCutter, TextBlock};
use crate::charset::Transcoder;
use crate::csv::CsvDecoder;
use crate::csv::records::RecordDecoder;
use crate::decompress::Decompressor;
use crate::json::elements::ElementCutter;
use crate::limits::{DecompressLimits, TextLimits};
use crate::ndjson::NdjsonDecoder;
use crate::spec::{DecodeSpec, DecodedBatch};

/// Decodes blocks of a text format. Blocks may be decoded at once and in any order.
pub trait BlockDecoder: Send + Sync {
    /// Decodes a block and hands out batches of at most `batch_rows` rows, in order, so that no more than
    /// one of them is held. Every record is a row or an error of exactly one batch; row numbers count from
    /// the block's first record. Where `each` breaks off, the records behind that batch are answered: they are
    /// a block again.
    ///
    /// # Errors
    /// Internal ones, and those of `each`; bad data is in the batches.
    fn decode_each(&self, block: TextBlock, each: &mut EachBatch<'_>) -> Result<Option<TextBlock>>;

    /// The batches of a block until they take `most_bytes` of memory, at least one, and what is left of the
    /// block. A byte of text may be a row of a thousand columns.
    ///
    /// # Errors
    /// As [`BlockDecoder::decode_each`].
    fn decode_some(
        &self,
        block: TextBlock,
        most_bytes: usize,
    ) -> Result<(Vec<DecodedBatch>, Option<TextBlock>)> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let rest = self.decode_each(block, &mut |batch: DecodedBatch| {
            bytes += batch.memory_bytes();
            batches.push(batch);
            Ok(if bytes < most_bytes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok((batches, rest))
    }

    /// All batches of a block, which may take far more memory than it.
    ///
    /// # Errors
    /// As [`BlockDecoder::decode_each`].
    fn decode(&self, block: TextBlock) -> Result<Vec<DecodedBatch>> {
        self.decode_some(block, usize::MAX).map(|(batches, _)| batches)
    }
}

/// Takes batches, and breaks off where it has enough of them.
pub type EachBatch<'a> = dyn FnMut(DecodedBatch) -> Result<ControlFlow<()>> + 'a;

/// The decoder for a CSV, TSV, NDJSON or JSON specification.
///
/// # Errors
/// Invalid input for a specification that the format cannot serve, unsupported for other formats.
pub fn text_decoder(spec: Arc<DecodeSpec>) -> Result<Box<dyn BlockDecoder>> {
    Ok(match spec.format.kind {
        kind if kind.is_text() && spec.raw_records => Box::new(RecordDecoder::new(&spec)),
        FormatKind::Csv | FormatKind::Tsv => Box::new(CsvDecoder::new(spec)?),
        FormatKind::Ndjson | FormatKind::Json => Box::new(NdjsonDecoder::new(spec)?),
        kind => return Err(Error::not_supported(format!("decoding {kind} files as text"))),
    })
}

/// Makes the row numbers of batches count from the start of the file: hand it the batches in file order.
#[derive(Debug, Default)]
pub struct RowNumbering {
    rows: u64,
}

impl RowNumbering {
    /// Numbers the batches of the next block.
    pub fn number_block(&mut self, batches: &mut [DecodedBatch]) {
        let base = self.rows;
        for batch in batches {
            batch.row_numbers.iter_mut().for_each(|row| *row += base);
            batch.errors.iter_mut().for_each(|error| error.row += base);
            self.rows += (batch.row_numbers.len() + batch.errors.len()) as u64;
        }
    }

    /// Records so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// From the stored bytes of a file to blocks of records.
#[derive(Debug)]
pub struct TextInput {
    decompressor: Option<Decompressor>,
    transcoder: Transcoder,
    cutter: Cutter,
}

/// What cuts a format's text.
#[derive(Debug)]
enum Cutter {
    Records(Box<BlockCutter>),
    Elements(Box<ElementCutter>),
}

impl Cutter {
    fn count_input(&mut self, bytes: u64) {
        match self {
            Self::Records(cutter) => cutter.count_input(bytes),
            Self::Elements(cutter) => cutter.count_input(bytes),
        }
    }

    fn push(&mut self, text: &[u8], each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Records(cutter) => cutter.push(text, each),
            Self::Elements(cutter) => cutter.push(text, each),
        }
    }

    fn push_shared(&mut self, text: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Records(cutter) => cutter.push_shared(text, each),
            Self::Elements(cutter) => cutter.push(text, each),
        }
    }

    fn finish_with(&mut self, text: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Records(cutter) => cutter.finish_with(text, each),
            Self::Elements(cutter) => cutter.push(text, each).and_then(|()| cutter.finish(each)),
        }
    }

    fn rescue(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Records(cutter) => cutter.rescue(each),
            Self::Elements(cutter) => cutter.rescue(each),
        }
    }

    fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        match self {
            Self::Records(cutter) => cutter.finish(each),
            Self::Elements(cutter) => cutter.finish(each),
        }
    }
}

impl TextInput {
    /// For a file whose codec is known ([`Compression::resolve`]).
    ///
    /// # Errors
    /// Invalid input for an encoding that does not exist, internal for an unresolved codec.
    pub fn new(
        format: &FileFormat,
        codec: Compression,
        decompress: DecompressLimits,
        text: TextLimits,
    ) -> Result<Self> {
        Ok(Self {
            decompressor: match codec {
                Compression::None => None,
                codec => Some(Decompressor::new(codec, decompress)?),
            },
            transcoder: Transcoder::new(&format.encoding, format.encoding_error_mode)?,
            cutter: match format.kind {
                FormatKind::Json => Cutter::Elements(Box::new(ElementCutter::new(text))),
                _ => Cutter::Records(Box::new(BlockCutter::new(format, text))),
            },
        })
    }

    /// Takes the next bytes and hands out the blocks that they complete. `each` may wait: what one push
    /// holds stays bounded however well the bytes were compressed. Blocks may be parts of `input`.
    ///
    /// # Errors
    /// A damaged stream, a limit, and the errors of `each`.
    pub fn push(&mut self, input: &Bytes, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        self.cutter.count_input(input.len() as u64);
        let (transcoder, cutter) = (&mut self.transcoder, &mut self.cutter);
        let result = match &mut self.decompressor {
            None => match transcoder.pass(input) {
                Some(text) => cutter.push_shared(&text, each),
                None => transcoder.push(input, &mut |text| cutter.push(text, each)),
            },
            Some(decompressor) => decompressor
                .push(input, &mut |bytes| transcoder.push(bytes, &mut |text| cutter.push(text, each))),
        };
        self.or_rescue(result, each)
    }

    /// Ends the file with its last bytes, as [`TextInput::push`] and [`TextInput::finish`] do. A small file that
    /// is text as it stands is one block.
    ///
    /// # Errors
    /// As there.
    pub fn finish_with(
        &mut self,
        input: &Bytes,
        each: &mut dyn FnMut(TextBlock) -> Result<()>,
    ) -> Result<()> {
        if self.decompressor.is_none()
            && let Some(text) = self.transcoder.pass(input)
        {
            self.cutter.count_input(input.len() as u64);
            let result = self.cutter.finish_with(&text, each);
            return self.or_rescue(result, each);
        }
        self.push(input, each)?;
        self.finish(each)
    }

    /// Hands out the records before the place that cannot be read.
    fn or_rescue(&mut self, result: Result<()>, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        if result.is_err() {
            // Where `each` has failed it fails again; the first failure is the one to tell.
            let _ = self.cutter.rescue(each);
        }
        result
    }

    /// Ends the file and hands out the rest.
    ///
    /// # Errors
    /// As [`TextInput::push`], and a stream that is truncated.
    pub fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        let (transcoder, cutter) = (&mut self.transcoder, &mut self.cutter);
        if let Some(decompressor) = &mut self.decompressor {
            let end = decompressor
                .finish(&mut |bytes| transcoder.push(bytes, &mut |text| cutter.push(text, each)))
                .and_then(|()| transcoder.finish(&mut |text| cutter.push(text, each)));
            self.or_rescue(end, each)?;
        } else {
            let end = transcoder.finish(&mut |text| cutter.push(text, each));
            self.or_rescue(end, each)?;
        }
        self.cutter.finish(each)
    }
}

#[cfg(test)]
mod tests;
