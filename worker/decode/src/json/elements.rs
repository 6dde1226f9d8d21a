//! Cutting JSON text into blocks of whole elements that decode independently of each other.
//!
//! Comes in: decompressed UTF-8 in pieces of any size, that holds JSON values one after the other. Goes
//! out: [`TextBlock`]s of about `block_bytes` that know where each element begins and ends, and the
//! physical line of their first byte. An element is an element of an array that stands at the top, or any
//! other value there. Only the structure is looked at here: strings and brackets, 64 bytes at a time. What
//! an element holds is the decoder's business, and a mistake within it costs its row only; it has its end
//! where its brackets, of either kind, are closed.
//!
//! Fails where the structure of the file is broken, since nobody can say then where the next element
//! begins: text other than a comma between elements, an array or an element that the file does not close.
//! What stood before is handed out first. It holds one block and one element at most; an element above
//! `max_record_bytes` is an error of the file.

use bytes::Bytes;
use stevedore_common::{Error, Result};

use crate::bits::{Chunk, escaped, prefix_xor};
use crate::blocks::{LARGEST_BLOCK, PIECE, TextBlock, last_line};
use crate::limits::TextLimits;

/// What comes next between elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// A value, or the end of the file.
    Values,
    /// The first element of an array, or its end.
    First,
    /// A comma, or the end of the array.
    Comma,
    /// An element, since there was a comma.
    Element,
}

/// The value that the walk is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// An object or array: brackets that are open; whether it is in a string, and whether the next byte is
    /// escaped.
    Nested { depth: usize, in_string: bool, is_escaped: bool },
    /// A string.
    Text,
    /// Anything else.
    Word,
}

/// What follows the bytes that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// More bytes, later.
    ToCome,
    /// The end of the file: a word ends there.
    End,
    /// Bytes that cannot be read: a word may go on in them.
    Lost,
}

/// Cuts blocks of elements. See the module.
#[derive(Debug)]
pub(crate) struct ElementCutter {
    limits: TextLimits,
    buffer: Vec<u8>,
    /// The line of the buffer's first byte, and how many bytes of that line came before it.
    line: u64,
    before_in_line: u64,
    /// How far the buffer was walked.
    at: usize,
    between: Between,
    /// The element that the walk is in began at `start`.
    within: Option<Within>,
    start: usize,
    /// The line in which the array began that is open.
    array_line: u64,
    /// A place up to which lines were counted, and its line: a file may begin an array with every other byte.
    counted: (usize, u64),
    /// The elements of the buffer that are whole.
    elements: Vec<(u32, u32)>,
    /// Elements of earlier blocks.
    before: u64,
    input_bytes: u64,
}

impl ElementCutter {
    /// For a whole file.
    pub(crate) fn new(limits: TextLimits) -> Self {
        Self {
            limits: TextLimits { block_bytes: limits.block_bytes.clamp(1, LARGEST_BLOCK), ..limits },
            buffer: Vec::new(),
            line: 1,
            before_in_line: 0,
            at: 0,
            between: Between::Values,
            within: None,
            start: 0,
            array_line: 0,
            counted: (0, 1),
            elements: Vec::new(),
            before: 0,
            input_bytes: 0,
        }
    }

    /// Counts bytes of input as stored; the next block stands for them.
    pub(crate) fn count_input(&mut self, bytes: u64) {
        self.input_bytes += bytes;
    }

    /// Takes bytes and hands out the blocks that they complete.
    ///
    /// # Errors
    /// A broken structure, an element above the limit, and the errors of `each`.
    pub(crate) fn push(&mut self, data: &[u8], each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        for piece in data.chunks(PIECE) {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(self.limits.block_bytes + PIECE);
            }
            self.buffer.extend_from_slice(piece);
            self.walk_on(Rest::ToCome, each)?;
            if self.buffer.len() >= self.limits.block_bytes {
                self.cut(each)?;
            }
            self.check_size()?;
        }
        Ok(())
    }

    /// Ends the stream and hands out the rest.
    ///
    /// # Errors
    /// As [`ElementCutter::push`].
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        self.walk_on(Rest::End, each)?;
        let unfinished = match (self.within, self.between) {
            (Some(_), _) => Some(
                Error::bad_data(format!(
                    "the file ends within element {}, which begins in line {}",
                    self.next_number(),
                    self.line_of(self.start)
                ))
                .hint("a bracket or a quote of it may be missing"),
            ),
            (None, Between::Values) => None,
            (None, _) => Some(Error::bad_data(format!(
                "the array that begins in line {} has no end: the file ends after element {}",
                self.array_line,
                self.next_number() - 1
            ))),
        };
        if unfinished.is_none() {
            // The rest of the file belongs to its last block, so that its lines are counted.
            self.at = self.buffer.len();
        }
        self.hand_out(each)?;
        unfinished.map_or(Ok(()), Err)
    }

    /// Hands out the whole elements that are held: nothing follows them, since the stream is damaged there.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) fn rescue(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        // What is broken after them is not the first damage.
        let _ = self.walk(Rest::Lost);
        self.hand_out(each)
    }

    /// The number of the element that is next, from 1.
    fn next_number(&self) -> u64 {
        self.before + self.elements.len() as u64 + 1
    }

    fn line_of(&self, at: usize) -> u64 {
        self.line + lines(&self.buffer[..at])
    }

    /// Walks what there is; hands out what stood before a broken place.
    fn walk_on(&mut self, rest: Rest, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        let Err(reason) = self.walk(rest) else { return Ok(()) };
        let line_start = memchr::memrchr(b'\n', &self.buffer[..self.at]).map(|end| end + 1);
        let byte = match line_start {
            Some(start) => (self.at - start) as u64 + 1,
            None => self.at as u64 + self.before_in_line + 1,
        };
        let error = Error::bad_data(format!(
            "the JSON is broken at line {}, byte {byte}, after element {}: {reason}",
            self.line_of(self.at),
            self.next_number() - 1
        ));
        self.hand_out(each)?;
        Err(error)
    }

    fn walk(&mut self, rest: Rest) -> Result<(), String> {
        loop {
            if let Some(within) = self.within {
                let ended = match within {
                    Within::Nested { .. } => self.end_of_nested(rest != Rest::ToCome),
                    Within::Text => self.end_of_text(),
                    Within::Word => self.end_of_word(rest == Rest::End),
                };
                if !ended {
                    return Ok(());
                }
                self.within = None;
                self.elements.push((self.start as u32, self.at as u32));
                self.between = match self.between {
                    Between::Values => Between::Values,
                    _ => Between::Comma,
                };
            }
            let Some(byte) = self.buffer.get(self.at).copied() else { return Ok(()) };
            match (self.between, byte) {
                (_, b' ' | b'\n' | b'\r' | b'\t') => {}
                (Between::Values, b'[') => {
                    let (from, line) = self.counted;
                    self.array_line = line + lines(&self.buffer[from..self.at]);
                    self.counted = (self.at, self.array_line);
                    self.between = Between::First;
                }
                (Between::First | Between::Comma, b']') => self.between = Between::Values,
                (Between::Comma, b',') => self.between = Between::Element,
                (Between::Comma, _) => return Err(format!("{} where ',' or ']' is expected", shown(byte))),
                (_, b',' | b']' | b'}') => {
                    return Err(format!("{} where an element is expected", shown(byte)));
                }
                (_, byte) => {
                    self.start = self.at;
                    self.within = Some(match byte {
                        b'{' | b'[' => Within::Nested { depth: 0, in_string: false, is_escaped: false },
                        b'"' => Within::Text,
                        _ => Within::Word,
                    });
                    // The quote that opens a text does not close it.
                    self.at += usize::from(byte == b'"');
                    continue;
                }
            }
            self.at += 1;
        }
    }

    /// Goes to the end of an object or array, or as far as there are bytes.
    fn end_of_nested(&mut self, is_all: bool) -> bool {
        let Some(Within::Nested { mut depth, mut in_string, mut is_escaped }) = self.within else {
            return false;
        };
        let mut ended = false;
        while !ended {
            // A part of a chunk is left until there is more, so that nothing is looked at twice.
            let mut padded = [0; 64];
            let rest = &self.buffer[self.at..];
            let chunk = match rest.first_chunk::<64>() {
                Some(chunk) => chunk,
                None if is_all && !rest.is_empty() => {
                    padded[..rest.len()].copy_from_slice(rest);
                    &padded
                }
                None => break,
            };
            let chunk = Chunk::load(chunk);
            let quotes = chunk.eq(b'"') & !escaped(chunk.eq(b'\\'), &mut is_escaped);
            let inside = prefix_xor(quotes) ^ u64::from(in_string).wrapping_neg();
            // `[` and `{` differ in one bit, as do `]` and `}`.
            let folded = chunk.with_bit(0x20);
            let (opens, closes) = (folded.eq(b'{') & !inside, folded.eq(b'}') & !inside);
            let after = depth + opens.count_ones() as usize;
            if (closes.count_ones() as usize) < depth {
                depth = after - closes.count_ones() as usize;
            } else {
                let mut brackets = opens | closes;
                while brackets != 0 {
                    let bit = brackets & brackets.wrapping_neg();
                    brackets ^= bit;
                    if opens & bit != 0 {
                        depth += 1;
                        continue;
                    }
                    depth -= 1;
                    if depth == 0 {
                        self.at += bit.trailing_zeros() as usize + 1;
                        ended = true;
                        break;
                    }
                }
            }
            if !ended {
                in_string = inside >> 63 == 1;
                self.at = (self.at + 64).min(self.buffer.len());
            }
        }
        self.within = Some(Within::Nested { depth, in_string, is_escaped });
        ended
    }

    fn end_of_text(&mut self) -> bool {
        while let Some(stop) = memchr::memchr2(b'"', b'\\', &self.buffer[self.at..]) {
            self.at += stop;
            if self.buffer[self.at] == b'"' {
                self.at += 1;
                return true;
            }
            if self.at + 1 == self.buffer.len() {
                return false;
            }
            self.at += 2;
        }
        self.at = self.buffer.len();
        false
    }

    fn end_of_word(&mut self, at_end: bool) -> bool {
        let ends = |byte: &u8| b" \n\r\t,[]{}\"".contains(byte);
        match self.buffer[self.at..].iter().position(ends) {
            Some(length) => {
                self.at += length;
                true
            }
            None => {
                self.at = self.buffer.len();
                at_end
            }
        }
    }

    /// Hands out the whole elements, if there are any.
    fn cut(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        let kept = if self.within.is_some() { self.start } else { self.at };
        if kept > 0 {
            let block = self.take(kept);
            if !block.elements.as_ref().is_none_or(Vec::is_empty) {
                return each(block);
            }
            self.input_bytes += block.input_bytes;
        }
        Ok(())
    }

    /// Hands out what was walked, and the input that was counted.
    fn hand_out(&mut self, each: &mut dyn FnMut(TextBlock) -> Result<()>) -> Result<()> {
        let walked = if self.within.is_some() { self.start } else { self.at };
        if walked > 0 || self.input_bytes > 0 {
            each(self.take(walked))?;
        }
        Ok(())
    }

    /// Takes the first bytes of the buffer, which end no element within.
    fn take(&mut self, end: usize) -> TextBlock {
        let mut rest = Vec::with_capacity(self.limits.block_bytes + PIECE);
        rest.extend_from_slice(&self.buffer[end..]);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(end);
        let first_line = self.line;
        self.line += lines(&bytes);
        let last_line = last_line(self.line, &bytes, b'\n');
        self.before_in_line = match memchr::memrchr(b'\n', &bytes) {
            Some(at) => (bytes.len() - at) as u64 - 1,
            None => self.before_in_line + bytes.len() as u64,
        };
        self.counted = match self.counted {
            (at, line) if at >= end => (at - end, line),
            _ => (0, self.line),
        };
        self.at -= end;
        self.start = self.start.saturating_sub(end);
        self.before += self.elements.len() as u64;
        let elements = std::mem::take(&mut self.elements);
        let input_bytes = std::mem::take(&mut self.input_bytes);
        TextBlock { bytes: Bytes::from(bytes), first_line, last_line, input_bytes, elements: Some(elements) }
    }

    fn check_size(&self) -> Result<()> {
        let limit = self.limits.record_bytes();
        let bytes = self.buffer.len() - self.start;
        if self.within.is_none() || bytes <= limit.max(self.limits.block_bytes + PIECE) {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "element {}, which begins in line {}, is larger than {limit} bytes (limit max_record_bytes)",
            self.next_number(),
            self.line_of(self.start)
        ))
        .hint("a bracket or a quote of it may be missing"))
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("byte {byte:#04x}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The elements of a text, each after its line, and the error that ended it.
    fn cut(text: &str, block_bytes: usize, piece: usize) -> (Vec<String>, Option<String>) {
        let limits = TextLimits { block_bytes, max_record_bytes: 1 << 20 };
        let mut cutter = ElementCutter::new(limits);
        let mut elements = Vec::new();
        let mut each = |block: TextBlock| {
            for (start, end) in block.elements.unwrap() {
                let (start, end) = (start as usize, end as usize);
                let line = block.first_line + lines(&block.bytes[..start]);
                elements.push(format!("{line} {}", std::str::from_utf8(&block.bytes[start..end]).unwrap()));
            }
            Ok(())
        };
        let pushed = text.as_bytes().chunks(piece).try_for_each(|piece| cutter.push(piece, &mut each));
        let error = pushed.and_then(|()| cutter.finish(&mut each)).err();
        (elements, error.map(|error| error.message().to_owned()))
    }

    fn all(text: &str) -> (Vec<String>, Option<String>) {
        let whole = cut(text, 1 << 20, usize::MAX);
        for (block, piece) in [(1, 1), (1, 7), (64, 64), (10, 1000)] {
            assert_eq!(cut(text, block, piece), whole, "blocks of {block}, pieces of {piece}: {text}");
        }
        whole
    }

    fn good(text: &str) -> Vec<String> {
        let (elements, error) = all(text);
        assert_eq!(error, None, "{text}");
        elements
    }

    fn bad(text: &str) -> (usize, String) {
        let (elements, error) = all(text);
        (elements.len(), error.unwrap())
    }

    #[test]
    fn elements_of_arrays_and_values_one_after_the_other() {
        assert_eq!(good(r#"[{"a":1},{"a":2}]"#), [r#"1 {"a":1}"#, r#"1 {"a":2}"#]);
        let pretty = "[\n  {\n    \"a\": [1, {\"b\": \"]}\\\"\"}]\n  },\n  {}\n]\n";
        assert_eq!(good(pretty), ["2 {\n    \"a\": [1, {\"b\": \"]}\\\"\"}]\n  }", "5 {}"]);
        assert_eq!(good("{\"a\":1}{\"a\":2}\n\n{\"a\":3}"), ["1 {\"a\":1}", "1 {\"a\":2}", "3 {\"a\":3}"]);
        assert_eq!(good("[{}] [{},{}]\n{}"), ["1 {}", "1 {}", "1 {}", "2 {}"]);
        assert_eq!(
            good("[1, \"a,]\\\\\", null,[2],-1.5]"),
            ["1 1", "1 \"a,]\\\\\"", "1 null", "1 [2]", "1 -1.5"]
        );
        assert_eq!(good("1 true\n\"x\"word"), ["1 1", "1 true", "2 \"x\"", "2 word"]);
        for empty in ["", " \n", "[]", "[ ] [\n]"] {
            assert!(good(empty).is_empty(), "{empty}");
        }
    }

    #[test]
    fn mistakes_within_an_element_do_not_end_the_file() {
        assert_eq!(good(r#"[{"a" 1,},{:},{"b":2}]"#), [r#"1 {"a" 1,}"#, "1 {:}", r#"1 {"b":2}"#]);
    }

    #[test]
    fn a_broken_structure_is_told_with_its_place() {
        assert_eq!(
            bad("[{}\n,{} {}]"),
            (
                2,
                "the JSON is broken at line 2, byte 5, after element 2: '{' where ',' or ']' is expected"
                    .into()
            )
        );
        assert_eq!(
            bad("[{},]").1,
            "the JSON is broken at line 1, byte 5, after element 1: ']' where an element is expected"
        );
        assert_eq!(
            bad("[,{}]").1,
            "the JSON is broken at line 1, byte 2, after element 0: ',' where an element is expected"
        );
        assert_eq!(
            bad("{}\n}").1,
            "the JSON is broken at line 2, byte 1, after element 1: '}' where an element is expected"
        );
        assert_eq!(
            bad("[{}}").1,
            "the JSON is broken at line 1, byte 4, after element 1: '}' where ',' or ']' is expected"
        );
        assert_eq!(
            bad("\n[{},{}"),
            (2, "the array that begins in line 2 has no end: the file ends after element 2".into())
        );
        assert_eq!(
            bad("[{}, \n{\"a\":[1}]"),
            (2, "the array that begins in line 1 has no end: the file ends after element 2".into())
        );
        assert_eq!(bad("{} \"abc\\\""), (1, "the file ends within element 2, which begins in line 1".into()));
    }

    #[test]
    fn the_largest_element_is_limited_and_space_is_not() {
        let limits = TextLimits { block_bytes: 1 << 10, max_record_bytes: 1 << 17 };
        let mut cutter = ElementCutter::new(limits);
        let mut each = |_| Ok(());
        cutter.push(b"[{},\n", &mut each).unwrap();
        cutter.push(&vec![b' '; 1 << 20], &mut each).unwrap();
        assert!(cutter.buffer.len() < 1 << 17);
        cutter.push(b"{\"a\":\"", &mut each).unwrap();
        let error = cutter.push(&vec![b'x'; 1 << 20], &mut each).unwrap_err();
        assert_eq!(
            error.message(),
            "element 2, which begins in line 2, is larger than 131072 bytes (limit max_record_bytes)"
        );
    }

    #[test]
    fn many_arrays_take_no_longer_than_their_bytes() {
        // Minutes, if the lines before each of them were counted anew.
        let text = "[]\n".repeat(2_000_000) + "[1,";
        let (elements, error) = cut(&text, 1 << 26, usize::MAX);
        assert_eq!(elements, ["2000001 1"]);
        assert!(error.unwrap().contains("line 2000001"));
        assert_eq!(
            bad("[]\n[\n]\n[{}").1,
            "the array that begins in line 4 has no end: the file ends after element 1"
        );
    }

    #[test]
    fn elements_before_damage_are_rescued_whole() {
        let text = b"[{\"a\": 1}, 12, {\"b\": [2]}, 3";
        for piece in [1, 100] {
            let mut cutter = ElementCutter::new(TextLimits::default());
            let mut elements = Vec::new();
            let mut each = |block: TextBlock| {
                elements.extend(block.elements.unwrap().into_iter().map(|(start, end)| {
                    String::from_utf8(block.bytes[start as usize..end as usize].to_vec()).unwrap()
                }));
                Ok(())
            };
            text.chunks(piece).try_for_each(|piece| cutter.push(piece, &mut each)).unwrap();
            cutter.rescue(&mut each).unwrap();
            // The last one may have been 34.
            assert_eq!(elements, [r#"{"a": 1}"#, "12", r#"{"b": [2]}"#], "pieces of {piece}");
        }
    }

    proptest! {
        #[test]
        fn elements_are_those_that_serde_json_finds(
            texts in proptest::collection::vec(r#"[\[\]{},:"\\a\n ]{0,90}"#, 0..6),
            block in 1usize..200,
            piece in 1usize..100,
        ) {
            let values: Vec<serde_json::Value> =
                texts.iter().map(|text| serde_json::json!({ "k": text, text: [text, {}] })).collect();
            let pretty = serde_json::to_string_pretty(&values).unwrap();
            let (elements, error) = cut(&pretty, block, piece);
            prop_assert_eq!(error, None);
            let found: Vec<serde_json::Value> = elements
                .iter()
                .map(|element| serde_json::from_str(element.split_once(' ').unwrap().1).unwrap())
                .collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_text_is_an_answer_whatever_the_pieces(text in r#"[\[\]{},:"\\a1\n ]{0,300}"#, piece in 1usize..100) {
            prop_assert_eq!(cut(&text, 1, piece), cut(&text, 1 << 20, usize::MAX));
        }
    }
}
