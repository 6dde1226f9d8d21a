//! Text in any WHATWG encoding to UTF-8, as a stream.
//!
//! Comes in: bytes in pieces of any size. Goes out: UTF-8 in pieces, without a byte order mark. UTF-8
//! under STRICT passes through unchanged and unchecked: the decoders check it where a field is used, so
//! that a bad byte costs a row rather than the file. Every other encoding under STRICT fails with the
//! offset of the bad byte, once the text before it was handed out; REPLACE puts U+FFFD.

use bytes::Bytes;
use encoding_rs::{CoderResult, Decoder, DecoderResult, Encoding, UTF_8};
use stevedore_common::file_format::EncodingErrorMode;
use stevedore_common::{Error, Result};

/// The byte order mark of UTF-8.
pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

fn encoding(label: &str) -> Result<&'static Encoding> {
    Encoding::for_label_no_replacement(label.as_bytes()).ok_or_else(|| {
        Error::invalid(format!("option ENCODING is '{label}', which is no character encoding")).hint(
            "any label of the WHATWG encoding standard is allowed, such as UTF-8, ISO-8859-1, GBK, UTF-16LE",
        )
    })
}

/// Checks the value of ENCODING.
///
/// # Errors
/// Invalid input that names the option.
pub fn check_encoding(label: &str) -> Result<()> {
    encoding(label).map(|_| ())
}

/// Turns a stream to UTF-8.
pub struct Transcoder {
    label: String,
    strict: bool,
    /// `None`: UTF-8 that passes through.
    decoder: Option<Decoder>,
    /// The first bytes, while they may be a byte order mark (pass-through only).
    head: Option<Vec<u8>>,
    /// Bytes read so far.
    offset: u64,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcoder").field("label", &self.label).field("offset", &self.offset).finish()
    }
}

impl Transcoder {
    /// For an encoding label.
    ///
    /// # Errors
    /// As [`check_encoding`].
    pub fn new(label: &str, mode: EncodingErrorMode) -> Result<Self> {
        let encoding = encoding(label)?;
        let strict = mode == EncodingErrorMode::Strict;
        let passes = encoding == UTF_8 && strict;
        Ok(Self {
            label: label.to_owned(),
            strict,
            decoder: (!passes).then(|| encoding.new_decoder_with_bom_removal()),
            head: passes.then(Vec::new),
            offset: 0,
            buffer: Vec::new(),
        })
    }

    /// The next bytes as text, where they are text as they stand; else `None`, and
    /// [`Transcoder::push`] takes them.
    pub fn pass(&mut self, input: &Bytes) -> Option<Bytes> {
        match &self.head {
            _ if self.decoder.is_some() => None,
            None => Some(input.clone()),
            Some(head) if head.is_empty() && input.len() >= BOM.len() => {
                self.head = None;
                Some(if input.starts_with(BOM) { input.slice(BOM.len()..) } else { input.clone() })
            }
            Some(_) => None,
        }
    }

    /// Takes bytes and hands out the text that they complete.
    ///
    /// # Errors
    /// Bad data that names the offset, and the errors of `each`.
    pub fn push(&mut self, input: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.decoder.is_some() {
            return self.decode(input, false, each);
        }
        let Some(head) = &mut self.head else { return each(input) };
        let missing = BOM.len() - head.len();
        let (first, rest) = input.split_at(missing.min(input.len()));
        head.extend_from_slice(first);
        if BOM.starts_with(head) && head.len() < BOM.len() {
            return Ok(());
        }
        let head = self.head.take().unwrap_or_default();
        if head != BOM {
            each(&head)?;
        }
        if rest.is_empty() { Ok(()) } else { each(rest) }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As [`Transcoder::push`], and a character that is cut off.
    pub fn finish(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.decoder.is_some() {
            return self.decode(&[], true, each);
        }
        match self.head.take() {
            Some(head) if !head.is_empty() => each(&head),
            _ => Ok(()),
        }
    }

    fn decode(
        &mut self,
        mut input: &[u8],
        last: bool,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        self.buffer.resize(256 << 10, 0);
        loop {
            let (more, read, written) = if self.strict {
                let (result, read, written) =
                    decoder.decode_to_utf8_without_replacement(input, &mut self.buffer, last);
                if let DecoderResult::Malformed(length, after) = result {
                    let at = (self.offset + read as u64).saturating_sub(u64::from(length) + u64::from(after));
                    if written > 0 {
                        each(&self.buffer[..written])?;
                    }
                    return Err(Error::bad_data(format!("invalid {} at byte {at} of the text", self.label))
                        .hint("set ENCODING to the encoding of the file, or ENCODING_ERROR_MODE = REPLACE"));
                }
                (result == DecoderResult::OutputFull, read, written)
            } else {
                let (result, read, written, _) = decoder.decode_to_utf8(input, &mut self.buffer, last);
                (result == CoderResult::OutputFull, read, written)
            };
            self.offset += read as u64;
            input = &input[read..];
            if written > 0 {
                each(&self.buffer[..written])?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn transcode(label: &str, mode: EncodingErrorMode, input: &[u8], piece: usize) -> Result<String> {
        let mut out = Vec::new();
        let mut each = |text: &[u8]| {
            out.extend_from_slice(text);
            Ok(())
        };
        let mut transcoder = Transcoder::new(label, mode)?;
        for piece in input.chunks(piece) {
            transcoder.push(piece, &mut each)?;
        }
        transcoder.finish(&mut each)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn encodings_become_utf8_however_they_are_cut() {
        let utf16: Vec<u8> = "\u{feff}aé😀".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for piece in [1, 2, 3, 100] {
            for (label, input, text) in [
                ("latin1", &b"caf\xe9"[..], "café"),
                ("gbk", b"\xc4\xe3\xba\xc3", "你好"),
                ("Shift_JIS", b"\x93\xfa", "日"),
                ("utf-16le", &utf16, "aé😀"),
                ("UTF-8", b"\xef\xbb\xbfa", "a"),
                ("utf8", b"\xef\xbb", "\u{fffd}"),
                ("utf8", "\u{feff}".as_bytes(), ""),
                ("utf8", "ab\u{feff}".as_bytes(), "ab\u{feff}"),
                ("utf8", b"", ""),
            ] {
                assert_eq!(
                    transcode(label, EncodingErrorMode::Strict, input, piece).unwrap(),
                    text,
                    "{label} by {piece}"
                );
            }
            assert_eq!(
                transcode("utf-8", EncodingErrorMode::Replace, b"a\xffb", piece).unwrap(),
                "a\u{fffd}b"
            );
        }
    }

    #[test]
    fn text_before_the_bad_byte_is_handed_out() {
        for piece in [1, 2, 100] {
            let mut text = Vec::new();
            let mut each = |more: &[u8]| {
                text.extend_from_slice(more);
                Ok(())
            };
            let mut transcoder = Transcoder::new("gbk", EncodingErrorMode::Strict).unwrap();
            let mut pieces = b"\xc4\xe3 ab\xff\xffdef".chunks(piece);
            assert!(pieces.any(|piece| transcoder.push(piece, &mut each).is_err()), "pieces of {piece}");
            assert_eq!(String::from_utf8(text).unwrap(), "你 ab", "pieces of {piece}");
        }
    }

    #[test]
    fn strict_names_the_byte_and_labels_are_checked() {
        for piece in [1, 2, 100] {
            let error = transcode("gbk", EncodingErrorMode::Strict, b"abc\xff\xffdef", piece).unwrap_err();
            assert!(error.to_string().starts_with("invalid gbk at byte 3 of the text"), "{error}");
            let error = transcode("utf-16le", EncodingErrorMode::Strict, b"a\0b", piece).unwrap_err();
            assert!(error.to_string().contains("byte 2"), "{error}");
        }
        assert!(check_encoding("klingon").unwrap_err().to_string().contains("ENCODING"));
        check_encoding("windows-1252").unwrap();
    }
}
