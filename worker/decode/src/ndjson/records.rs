//! Where the values of the wanted fields are, record by record.
//!
//! Fields mostly come in the same order from record to record, so each name is first compared with the
//! one that followed the last time (and the few after it, for fields that are left out); only then is it
//! looked up. A name matches exactly, or, where no field of the record does, in any case. Of equal names
//! the last one counts. Values of unknown fields are checked and skipped.

use std::collections::HashMap;

use crate::blocks::TextBlock;
use crate::json::scan::{JsonError, skip_space, skip_string, skip_value};
use crate::json::unescape::unescape;
use crate::parse::Reason;

/// The names of the wanted fields.
#[derive(Debug)]
pub(crate) struct Names {
    names: Vec<String>,
    exact: HashMap<Vec<u8>, usize>,
    /// By lower-case name; empty if the case matters.
    any_case: HashMap<Vec<u8>, Vec<usize>>,
}

/// What a name in a file stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Unknown,
    Exact(usize),
    /// Wanted names that differ from it in case only.
    AnyCase(Vec<usize>),
}

impl Names {
    pub(crate) fn new(names: Vec<String>, case_sensitive: bool) -> Self {
        let exact = names.iter().enumerate().map(|(slot, name)| (name.as_bytes().to_vec(), slot)).collect();
        let mut any_case: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        if !case_sensitive {
            for (slot, name) in names.iter().enumerate() {
                any_case.entry(name.to_lowercase().into_bytes()).or_default().push(slot);
            }
        }
        Self { names, exact, any_case }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, slot: usize) -> &str {
        &self.names[slot]
    }

    fn target(&self, name: &[u8]) -> Target {
        // Wanted names that differ in case only are each served by their own.
        if let Some(slot) = self.exact.get(name) {
            return Target::Exact(*slot);
        }
        let lower = std::str::from_utf8(name).ok().map(str::to_lowercase);
        match lower.and_then(|lower| self.any_case.get(lower.as_bytes())) {
            Some(slots) => Target::AnyCase(slots.clone()),
            None => Target::Unknown,
        }
    }
}

/// What is wrong with a line as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The grammar; the byte counts from 1, in the line or in the element.
    Invalid { column: usize, reason: Reason },
    /// Some other JSON value.
    NotAnObject,
    /// A wanted field is not there.
    Missing(usize),
}

/// The end of the span of a field that is not there.
const MISSING: u32 = u32::MAX;
/// In the end of a span: the value is a string with escapes.
const ESCAPES: u32 = 1 << 31;
/// In the start of a span: the name matched in another case.
const OTHER_CASE: u32 = 1 << 31;

/// A value in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) escapes: bool,
}

/// A name as it stands in the file, with quotes and colon.
#[derive(Debug)]
struct Known {
    text: Vec<u8>,
    target: Target,
}

/// Names that are remembered in the order of the file.
const REMEMBERED: usize = 4096;
/// How many fields left out are bridged without a look-up.
const AHEAD: usize = 4;

/// Walks the records of a block.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    names: &'a Names,
    bytes: &'a [u8],
    /// JSON: where the records are that were not walked yet. NDJSON: they are the lines.
    elements: Option<&'a [(u32, u32)]>,
    at: usize,
    /// The line at `at`.
    line: u64,
    max_nesting: usize,
    /// For each slot whether its field must be there.
    required: &'a [bool],
    any_required: bool,
    /// Whether fields that are not wanted are told of.
    pub(crate) tell_unknown: bool,
    /// The first of them, and its record.
    unknown: Option<(usize, String)>,
    order: Vec<Known>,
    by_name: HashMap<Vec<u8>, usize>,
    scratch: Vec<u8>,
    /// For each record start and end of each slot's value, then those of the record itself.
    spans: Vec<(u32, u32)>,
    lines: Vec<u64>,
    problems: Vec<(usize, Problem)>,
}

impl<'a> Records<'a> {
    pub(crate) fn new(
        names: &'a Names,
        block: &'a TextBlock,
        max_nesting: usize,
        required: &'a [bool],
    ) -> Self {
        Self {
            names,
            bytes: &block.bytes,
            elements: block.elements.as_deref(),
            at: 0,
            line: block.first_line,
            max_nesting,
            required,
            any_required: required.iter().any(|required| *required),
            tell_unknown: false,
            unknown: None,
            order: Vec::new(),
            by_name: HashMap::new(),
            scratch: Vec::new(),
            spans: Vec::new(),
            lines: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn lines(&self) -> &[u64] {
        &self.lines
    }

    pub(crate) fn problems(&self) -> &[(usize, Problem)] {
        &self.problems
    }

    /// The first field that is not wanted, and which of the records has it.
    pub(crate) fn unknown(&self) -> Option<&(usize, String)> {
        self.unknown.as_ref()
    }

    /// How far it is.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The physical line there.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// JSON: the elements behind it.
    pub(crate) fn elements_left(&self) -> Option<&'a [(u32, u32)]> {
        self.elements
    }

    /// The value of a slot in a record, if it is there.
    #[inline(always)]
    pub(crate) fn value(&self, row: usize, slot: usize) -> Option<Span> {
        let (start, end) = self.spans[row * (self.names.len() + 1) + slot];
        (end != MISSING).then_some(Span {
            start: (start & !OTHER_CASE) as usize,
            end: (end & !ESCAPES) as usize,
            escapes: end & ESCAPES != 0,
        })
    }

    /// The record itself; `None` if it is not valid.
    pub(crate) fn record(&self, row: usize) -> Option<Span> {
        self.value(row, self.names.len())
    }

    /// Replaces what is held by the next records, `rows` at most; none at the end of the block.
    pub(crate) fn fill(&mut self, rows: usize) {
        self.lines.clear();
        self.problems.clear();
        self.spans.clear();
        while self.lines.len() < rows {
            let Some((start, end, line)) = self.next_record() else { break };
            let first = skip_space(&self.bytes[..end], start);
            if first == end {
                continue;
            }
            let slots = self.names.len();
            let row = self.spans.len();
            self.spans.resize(row + slots + 1, (0, MISSING));
            let problem = match self.record_at(first, end, row) {
                Ok(0) => None,
                Ok(_) if !self.any_required => None,
                Ok(_) => {
                    let spans = self.spans[row..row + slots].iter().zip(self.required);
                    let missing =
                        spans.enumerate().find(|(_, (span, required))| span.1 == MISSING && **required);
                    missing.map(|(slot, _)| Problem::Missing(slot))
                }
                Err(error) if error.reason == NOT_AN_OBJECT => Some(Problem::NotAnObject),
                Err(error) => {
                    // What is no JSON has no fields.
                    self.unknown.take_if(|(record, _)| *record == self.lines.len());
                    self.spans[row..row + slots].fill((0, MISSING));
                    Some(Problem::Invalid { column: error.at.min(end) - start + 1, reason: error.reason })
                }
            };
            match problem {
                Some(problem @ (Problem::Invalid { .. } | Problem::NotAnObject)) => {
                    self.problems.push((self.lines.len(), problem));
                }
                problem => {
                    self.spans[row + slots] = (first as u32, end as u32);
                    self.problems.extend(problem.map(|problem| (self.lines.len(), problem)));
                }
            }
            self.lines.push(line);
        }
        self.at = self.at.min(self.bytes.len());
    }

    /// Where the next record begins and ends, and its line.
    #[inline(always)]
    fn next_record(&mut self) -> Option<(usize, usize, u64)> {
        if let Some(elements) = self.elements {
            return self.next_element(elements);
        }
        if self.at >= self.bytes.len() {
            return None;
        }
        let start = self.at;
        let end = memchr::memchr(b'\n', &self.bytes[start..]).map_or(self.bytes.len(), |n| start + n);
        self.at = end + 1;
        self.line += 1;
        Some((start, end, self.line - 1))
    }

    fn next_element(&mut self, elements: &'a [(u32, u32)]) -> Option<(usize, usize, u64)> {
        let Some(((start, end), rest)) = elements.split_first() else {
            self.at = self.bytes.len();
            return None;
        };
        self.elements = Some(rest);
        let (start, end) = (*start as usize, *end as usize);
        self.line += memchr::memchr_iter(b'\n', &self.bytes[self.at..start]).count() as u64;
        self.at = start;
        Some((start, end, self.line))
    }

    /// Walks the object that begins at `at` and writes spans; answers how many slots have no value.
    #[inline(always)]
    fn record_at(&mut self, mut at: usize, line_end: usize, row: usize) -> Result<usize, JsonError> {
        let bytes = &self.bytes[..line_end];
        let mut missing = self.names.len();
        if bytes[at] != b'{' {
            let (end, _) = skip_value(bytes, at, self.max_nesting)?;
            let end = skip_space(bytes, end);
            return Err(if end == line_end { not_an_object(at) } else { trailing(end) });
        }
        at = skip_space(bytes, at + 1);
        if bytes.get(at) == Some(&b'}') {
            at += 1;
        } else {
            let mut next = 0;
            loop {
                let known;
                (at, known) = self.name_at(bytes, at, next)?;
                at = skip_space(bytes, at);
                let start = at;
                let escapes;
                (at, escapes) = skip_value(bytes, at, self.max_nesting)?;
                let end = at as u32 | if escapes { ESCAPES } else { 0 };
                match known {
                    Some(index) => {
                        next = index + 1;
                        match &self.order[index].target {
                            Target::Exact(slot) => {
                                let span = &mut self.spans[row + slot];
                                missing -= usize::from(span.1 == MISSING);
                                *span = (start as u32, end);
                            }
                            Target::Unknown if self.tell_unknown => self.note_unknown(index),
                            Target::Unknown => {}
                            Target::AnyCase(slots) => {
                                for slot in slots {
                                    missing -= other_case(&mut self.spans[row + slot], start, end);
                                }
                            }
                        }
                    }
                    // Too many names to remember: `name_at` left it in `scratch`.
                    None => match self.names.target(&self.scratch) {
                        Target::Exact(slot) => {
                            let span = &mut self.spans[row + slot];
                            missing -= usize::from(span.1 == MISSING);
                            *span = (start as u32, end);
                        }
                        Target::Unknown if self.tell_unknown && self.unknown.is_none() => {
                            let name = String::from_utf8_lossy(&self.scratch).into_owned();
                            self.unknown = Some((self.lines.len(), name));
                        }
                        Target::Unknown => {}
                        Target::AnyCase(slots) => {
                            for slot in slots {
                                missing -= other_case(&mut self.spans[row + slot], start, end);
                            }
                        }
                    },
                }
                if bytes.get(at) != Some(&b',') {
                    at = skip_space(bytes, at);
                }
                match bytes.get(at) {
                    Some(b',') => at = skip_space(bytes, at + 1),
                    Some(b'}') => {
                        at += 1;
                        break;
                    }
                    None => return Err(JsonError { at, reason: "unexpected end of the record" }),
                    Some(_) => return Err(JsonError { at, reason: "expected ',' or '}'" }),
                }
            }
        }
        at = skip_space(bytes, at);
        if at == line_end { Ok(missing) } else { Err(trailing(at)) }
    }

    #[cold]
    fn note_unknown(&mut self, index: usize) {
        if self.unknown.is_none() {
            let text = &self.order[index].text;
            let name = text.get(1..text.len().saturating_sub(2)).unwrap_or_default();
            self.unknown = Some((self.lines.len(), String::from_utf8_lossy(name).into_owned()));
        }
    }

    /// The name that begins at `at`: where its value begins, after the colon, and which known name it is.
    #[inline(always)]
    fn name_at(&mut self, bytes: &[u8], at: usize, next: usize) -> Result<(usize, Option<usize>), JsonError> {
        if let Some(known) = self.order.get(next)
            && bytes[at..].starts_with(&known.text)
        {
            return Ok((at + known.text.len(), Some(next)));
        }
        self.name_slowly(bytes, at, next)
    }

    fn name_slowly(
        &mut self,
        bytes: &[u8],
        at: usize,
        next: usize,
    ) -> Result<(usize, Option<usize>), JsonError> {
        for ahead in next + 1..(next + AHEAD).min(self.order.len()) {
            if bytes[at..].starts_with(&self.order[ahead].text) {
                return Ok((at + self.order[ahead].text.len(), Some(ahead)));
            }
        }
        if bytes.get(at) != Some(&b'"') {
            return Err(JsonError { at, reason: "expected a field name in quotes" });
        }
        let (end, escapes) = skip_string(bytes, at + 1)?;
        let content = &bytes[at + 1..end - 1];
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            return Err(JsonError { at: colon, reason: "expected ':'" });
        }
        self.scratch.clear();
        if escapes {
            unescape(content, &mut self.scratch).map_err(|reason| JsonError { at, reason })?;
        } else {
            self.scratch.extend_from_slice(content);
        }
        if let Some(index) = self.by_name.get(&self.scratch) {
            return Ok((colon + 1, Some(*index)));
        }
        if self.order.len() == REMEMBERED {
            return Ok((colon + 1, None));
        }
        // A name with escapes is remembered by what it means; its text will not match, its look-up will.
        let mut text = vec![b'"'];
        text.extend_from_slice(&self.scratch);
        text.extend_from_slice(b"\":");
        let target = self.names.target(&self.scratch);
        self.by_name.insert(self.scratch.clone(), self.order.len());
        self.order.push(Known { text, target });
        Ok((colon + 1, Some(self.order.len() - 1)))
    }
}

const NOT_AN_OBJECT: Reason = "not an object";

fn not_an_object(at: usize) -> JsonError {
    JsonError { at, reason: NOT_AN_OBJECT }
}

fn trailing(at: usize) -> JsonError {
    JsonError { at, reason: "unexpected text after the value" }
}

/// Writes a value whose name matches in another case only, unless the exact name is there; answers
/// whether the slot had none.
fn other_case(span: &mut (u32, u32), start: usize, end: u32) -> usize {
    let first = span.1 == MISSING;
    if first || span.0 & OTHER_CASE != 0 {
        *span = (start as u32 | OTHER_CASE, end);
    }
    usize::from(first)
}
