//! Text in any WHATWG encoding to UTF-8, as a stream.
//!
//! Comes in: bytes in pieces of any size. Goes out: UTF-8 in pieces, without a byte order mark. UTF-8
//! under STRICT passes through unchanged and unchecked: the decoders check it where a field is used, so
//! that a bad byte costs a row rather than the file. For the same end any other encoding under STRICT becomes
//! `MALFORMED`, which is no UTF-8 either, where its bytes are no text; REPLACE puts U+FFFD. A byte order mark
//! says more than the label does, so it wins over any label but that of UTF-8.

use bytes::Bytes;
use encoding_rs::{CoderResult, Decoder, DecoderResult, Encoding, UTF_8};
use stevedore_common::file_format::EncodingErrorMode;
use stevedore_common::{Error, Result};

/// The byte order mark of UTF-8.
pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";
/// What stands for bytes that are no text. It is in no UTF-8, so in no delimiter either.
const MALFORMED: u8 = 0xff;
/// Text that is handed out at once.
const PIECE: usize = 256 << 10;

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

/// The name of the encoding that a label stands for, as in `Big5`. Labels were checked.
pub(crate) fn encoding_name(label: &str) -> &'static str {
    Encoding::for_label_no_replacement(label.as_bytes()).unwrap_or(UTF_8).name()
}

/// Turns a stream to UTF-8.
pub struct Transcoder {
    label: String,
    strict: bool,
    /// `None`: UTF-8 that passes through.
    decoder: Option<Decoder>,
    /// The first bytes, while they may be a byte order mark (pass-through only).
    head: Option<Vec<u8>>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcoder").field("label", &self.label).finish_non_exhaustive()
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
        let decoder = match encoding == UTF_8 {
            true if strict => None,
            true => Some(encoding.new_decoder_with_bom_removal()),
            false => Some(encoding.new_decoder()),
        };
        Ok(Self {
            label: label.to_owned(),
            strict,
            head: decoder.is_none().then(Vec::new),
            decoder,
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
    /// Those of `each`.
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

    /// Ends the stream. A character that is cut off is no text.
    ///
    /// # Errors
    /// As [`Transcoder::push`].
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
        self.buffer.resize(PIECE, 0);
        let mut filled = 0;
        loop {
            // The last byte is left for MALFORMED.
            let space = &mut self.buffer[filled..PIECE - 1];
            let (result, read, written) = if self.strict {
                decoder.decode_to_utf8_without_replacement(input, space, last)
            } else {
                let (result, read, written, _) = decoder.decode_to_utf8(input, space, last);
                let result = match result {
                    CoderResult::InputEmpty => DecoderResult::InputEmpty,
                    CoderResult::OutputFull => DecoderResult::OutputFull,
                };
                (result, read, written)
            };
            input = &input[read..];
            filled += written;
            if matches!(result, DecoderResult::Malformed(..)) {
                self.buffer[filled] = MALFORMED;
                filled += 1;
            }
            let ended = result == DecoderResult::InputEmpty;
            // A decoder wants room for its longest character.
            if filled > 0 && (ended || filled + 64 > PIECE || result == DecoderResult::OutputFull) {
                each(&self.buffer[..filled])?;
                filled = 0;
            }
            if ended {
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
    fn bytes_that_are_no_text_leave_the_rest_readable() {
        let bytes = |label: &str, input: &[u8], piece: usize| {
            let mut out = Vec::new();
            let mut each = |text: &[u8]| {
                out.extend_from_slice(text);
                Ok(())
            };
            let mut transcoder = Transcoder::new(label, EncodingErrorMode::Strict).unwrap();
            input.chunks(piece).for_each(|piece| transcoder.push(piece, &mut each).unwrap());
            transcoder.finish(&mut each).unwrap();
            out
        };
        for piece in [1, 2, 3, 100] {
            for (label, input, text) in [
                ("gbk", &b"\xc4\xe3,\xff\xff\n\xba\xc3"[..], &b"\xe4\xbd\xa0,\xff\xff\n\xe5\xa5\xbd"[..]),
                // The line ends though the character before it is cut off.
                ("gbk", b"a\x81\nb", b"a\xff\nb"),
                ("utf-16le", b"a\0\0\xd8b\0", b"a\xffb"),
                ("utf-16le", b"a\0b", b"a\xff"),
                ("Shift_JIS", b"\x93", b"\xff"),
            ] {
                assert_eq!(bytes(label, input, piece), text, "{label} by {piece}");
            }
        }
        let bad = vec![0xff; 3 * PIECE];
        assert_eq!(bytes("gbk", &bad, bad.len()), bad);
    }

    #[test]
    fn a_byte_order_mark_wins_over_the_label() {
        let big: Vec<u8> = "\u{feff}aé".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for piece in [1, 2, 100] {
            for (label, input) in [("utf-16", &big[..]), ("utf-16le", &big), ("gbk", "\u{feff}aé".as_bytes())]
            {
                assert_eq!(
                    transcode(label, EncodingErrorMode::Strict, input, piece).unwrap(),
                    "aé",
                    "{label}"
                );
            }
        }
    }

    #[test]
    fn labels_are_checked() {
        for label in ["klingon", "replacement"] {
            assert!(check_encoding(label).unwrap_err().to_string().contains("ENCODING"), "{label}");
        }
        check_encoding("windows-1252").unwrap();
        assert_eq!(["utf8", "gb2312", "latin1"].map(encoding_name), ["UTF-8", "GBK", "windows-1252"]);
    }
}
