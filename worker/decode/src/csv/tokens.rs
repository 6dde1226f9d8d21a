//! Where the fields of many records end.
//!
//! 64 bytes at a time: masks of delimiters, record ends and quotes; a prefix xor over the quotes tells
//! what is inside them. That is right as long as every quote that opens stands where a field begins; the
//! masks show where that is not so, and such a record is walked by [`Dialect::walk`] instead, as are all
//! records of formats with delimiters of several bytes. Offsets go into one array, a row of it a record,
//! so that a column is read with a stride.

use super::dialect::{CarriageReturn, Dialect, Ending};
use crate::bits::{chunk_at, escaped, prefix_xor};

/// The end of a field that the record does not have.
pub(crate) const MISSING: u32 = u32::MAX;

/// What is wrong with a record as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It has this many fields, which is not what is expected.
    FieldCount(usize),
    /// A quoted field that began in this line does not end.
    UnclosedQuote(u64),
}

/// The fields of some records.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// For each record: its start minus the delimiter's length, then the end of each field.
    offsets: Vec<u32>,
    width: usize,
    expected: Option<usize>,
    /// The physical line of each record.
    pub(crate) lines: Vec<u64>,
    /// Records that are wrong as a whole.
    pub(crate) problems: Vec<(usize, Problem)>,
    /// Whether some field may hold a backslash (TSV).
    pub(crate) some_escapes: bool,
}

impl Tokens {
    /// Room for `rows` records of which the first `width` fields matter.
    pub(crate) fn new(width: usize, expected: Option<usize>, rows: usize) -> Self {
        Self {
            offsets: vec![0; (width + 1) * (rows + 1)],
            width,
            expected,
            lines: Vec::with_capacity(rows),
            problems: Vec::new(),
            some_escapes: false,
        }
    }

    /// The number of records.
    pub(crate) fn rows(&self) -> usize {
        self.lines.len()
    }

    /// The bounds of a field; its end is [`MISSING`] where there is none.
    #[inline(always)]
    pub(crate) fn field(&self, row: usize, position: usize, delimiter: usize) -> (usize, u32) {
        let at = row * (self.width + 1) + position;
        (self.offsets[at].wrapping_add(delimiter as u32) as usize, self.offsets[at + 1])
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.problems.clear();
        self.some_escapes = false;
    }

    #[inline(always)]
    fn begin(&mut self, start: usize, delimiter: usize) -> usize {
        let at = self.lines.len() * (self.width + 1);
        self.offsets[at] = (start as u32).wrapping_sub(delimiter as u32);
        at + 1
    }

    #[inline(always)]
    fn end(&mut self, at: usize, fields: usize, line: u64) {
        if fields < self.width {
            self.offsets[at + fields..at + self.width].fill(MISSING);
        }
        if let Some(expected) = self.expected
            && expected != fields
        {
            self.problems.push((self.lines.len(), Problem::FieldCount(fields)));
        }
        self.lines.push(line);
    }
}

/// Walks the records of a block.
#[derive(Debug)]
pub(crate) struct Tokeniser<'a> {
    dialect: &'a Dialect,
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl<'a> Tokeniser<'a> {
    /// Begins at the start of `bytes`, which is a record's start in physical line `line`.
    pub(crate) fn new(dialect: &'a Dialect, bytes: &'a [u8], line: u64) -> Self {
        Self { dialect, bytes, at: 0, line }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The physical line there.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Replaces `tokens` by the next records, `rows` at most; none at the end of the block.
    pub(crate) fn fill(&mut self, tokens: &mut Tokens, rows: usize) {
        tokens.clear();
        while tokens.rows() < rows && self.at < self.bytes.len() {
            let unusual = match (self.dialect.delimiter.len(), self.dialect.quote) {
                (1, Some(quote)) => self.many::<true, false>(tokens, rows, quote),
                (1, None) => self.many::<false, true>(tokens, rows, 0),
                _ => true,
            };
            if unusual {
                self.one(tokens);
            }
        }
    }

    /// Takes records until there are `rows` (false), the block ends (false), or one needs
    /// [`Tokeniser::one`] (true).
    #[inline(always)]
    fn many<const QUOTES: bool, const BACKSLASH: bool>(
        &mut self,
        tokens: &mut Tokens,
        rows: usize,
        quote: u8,
    ) -> bool {
        let dialect = self.dialect;
        let bytes = self.bytes;
        let (delimiter, record_end) = (dialect.delimiter[0], dialect.record_end);
        let required = dialect.carriage_return == CarriageReturn::Required;
        let width = tokens.width;

        let mut record_start = self.at;
        let mut record_line = self.line;
        let mut slot = tokens.begin(record_start, 1);
        let mut field_start = record_start;
        let mut fields = 0;
        let mut line = self.line;

        // What the chunk before says about its successor's first byte.
        let (mut in_quotes, mut after_separator, mut after_quote, mut after_return) =
            (0u64, 1u64, 0u64, 0u64);
        let mut after_backslash = false;
        let mut base = self.at;
        while base < bytes.len() {
            let (chunk, valid) = chunk_at(bytes, base);
            let mut delimiters = chunk.eq(delimiter) & valid;
            let mut line_ends = chunk.eq(record_end) & valid;
            let mut ends = line_ends;
            if required {
                let returns = chunk.eq(b'\r') & valid;
                ends &= returns << 1 | after_return;
                after_return = returns >> 63;
            }
            if BACKSLASH {
                let backslashes = chunk.eq(b'\\') & valid;
                tokens.some_escapes |= backslashes != 0;
                let escaped = escaped(backslashes, &mut after_backslash);
                delimiters &= !escaped;
                ends &= !escaped;
            }
            let mut unusual = 0;
            if QUOTES {
                let quotes = chunk.eq(quote) & valid;
                let separators = delimiters | ends;
                if quotes | in_quotes != 0 {
                    let inside = prefix_xor(quotes) ^ in_quotes;
                    unusual =
                        quotes & inside & !(separators << 1 | after_separator | quotes << 1 | after_quote);
                    if let Some(escape) = dialect.escape {
                        unusual |= chunk.eq(escape) & valid & inside;
                    }
                    delimiters &= !inside;
                    ends &= !inside;
                    in_quotes = (inside >> 63).wrapping_neg();
                }
                after_separator = separators >> 63;
                after_quote = quotes >> 63;
                if unusual != 0 {
                    let before = (unusual & unusual.wrapping_neg()) - 1;
                    delimiters &= before;
                    line_ends &= before;
                }
            }
            let mut bits = delimiters | line_ends;
            while bits != 0 {
                let at = base + bits.trailing_zeros() as usize;
                let bit = bits & bits.wrapping_neg();
                bits ^= bit;
                if delimiters & bit != 0 {
                    if fields < width {
                        tokens.offsets[slot + fields] = at as u32;
                    }
                    fields += 1;
                    field_start = at + 1;
                    continue;
                }
                line += 1;
                if ends & bit == 0 {
                    continue;
                }
                let end = dialect.field_end(bytes, field_start, at);
                // A CSV line that is empty is no record.
                if BACKSLASH || fields != 0 || end != record_start {
                    if fields < width {
                        tokens.offsets[slot + fields] = end as u32;
                    }
                    tokens.end(slot, fields + 1, record_line);
                    if tokens.rows() == rows {
                        self.at = at + 1;
                        self.line = line;
                        return false;
                    }
                }
                record_start = at + 1;
                record_line = line;
                field_start = record_start;
                fields = 0;
                slot = tokens.begin(record_start, 1);
            }
            if unusual != 0 {
                self.at = record_start;
                self.line = record_line;
                return true;
            }
            base += 64;
        }
        self.at = record_start;
        self.line = record_line;
        // The last record has no delimiter; inside quotes it has no end either, which `one` describes.
        record_start < bytes.len()
    }

    /// Takes one record by walking it.
    fn one(&mut self, tokens: &mut Tokens) {
        let start = self.at;
        let slot = tokens.begin(start, self.dialect.delimiter.len());
        let (mut fields, mut last_end) = (0, start);
        let record = self.dialect.walk(self.bytes, start, |end| {
            if fields < tokens.width {
                tokens.offsets[slot + fields] = end as u32;
            }
            fields += 1;
            last_end = end;
        });
        tokens.some_escapes = true;
        self.at = record.next;
        if let Ending::Quoted(open) = record.ending {
            let line = self.line + self.dialect.count_lines(&self.bytes[start..open]);
            tokens.problems.push((tokens.rows(), Problem::UnclosedQuote(line)));
        }
        if self.dialect.backslash || fields != 1 || last_end != start {
            tokens.end(slot, fields, self.line);
        }
        self.line += record.inner_lines + u64::from(record.ending == Ending::Delimiter);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use stevedore_common::file_format::{FileFormat, FormatKind};

    type Rows = Vec<(u64, Vec<(usize, u32)>)>;

    fn tokens(dialect: &Dialect, bytes: &[u8], rows: usize, walk: bool) -> (Rows, Vec<(usize, Problem)>) {
        let width = 4;
        let mut tokens = Tokens::new(width, Some(2), rows);
        let mut tokeniser = Tokeniser::new(dialect, bytes, 1);
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        loop {
            if walk {
                tokens.clear();
                while tokens.rows() < rows && tokeniser.at < bytes.len() {
                    tokeniser.one(&mut tokens);
                }
            } else {
                tokeniser.fill(&mut tokens, rows);
            }
            if tokens.rows() == 0 {
                return (all, problems);
            }
            problems.extend(tokens.problems.iter().map(|(row, problem)| (row + all.len(), *problem)));
            for row in 0..tokens.rows() {
                // The start of a field after a missing one means nothing.
                let mut fields: Vec<_> =
                    (0..width).map(|f| tokens.field(row, f, dialect.delimiter.len())).collect();
                fields.iter_mut().filter(|f| f.1 == MISSING).for_each(|f| f.0 = 0);
                all.push((tokens.lines[row], fields));
            }
        }
    }

    fn csv(change: impl FnOnce(&mut FileFormat)) -> Dialect {
        let mut format = FileFormat::defaults(FormatKind::Csv);
        change(&mut format);
        Dialect::new(&format)
    }

    #[test]
    fn fields_lines_and_problems() {
        let text = b"a,b\n\n\"x\ny\",\"q\"\"r\"\r\n1\n5\" pipe,\"a\"b,c\n,\nu,\"open\n";
        let (rows, problems) = tokens(&csv(|_| ()), text, 100, false);
        let fields: Vec<Vec<&str>> = rows
            .iter()
            .map(|(_, f)| {
                f.iter()
                    .filter(|f| f.1 != MISSING)
                    .map(|f| std::str::from_utf8(&text[f.0..f.1 as usize]).unwrap())
                    .collect()
            })
            .collect();
        assert_eq!(
            fields,
            [
                vec!["a", "b"],
                vec!["\"x\ny\"", "\"q\"\"r\""],
                vec!["1"],
                vec!["5\" pipe", "\"a\"b", "c"],
                vec!["", ""],
                vec!["u", "\"open\n"],
            ]
        );
        assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3, 5, 6, 7, 8]);
        assert_eq!(
            problems,
            [(2, Problem::FieldCount(1)), (3, Problem::FieldCount(3)), (5, Problem::UnclosedQuote(8))]
        );
    }

    proptest! {
        #[test]
        fn masks_and_walking_agree(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "a", "bc", ",", ",", "\n", "\r\n", "\r", "\"", "\"", "\"\"", "\\", " ", ";", "longer text without any", "ü",
            ]), 0..200),
            escape: bool, trim: bool, strict: bool, tsv: bool, rows in 1usize..50,
        ) {
            let text = pieces.concat();
            let mut dialect = if tsv {
                let mut format = FileFormat::defaults(FormatKind::Tsv);
                format.field_delimiter = ",".into();
                Dialect::new(&format)
            } else {
                csv(|f| { f.escape = escape.then_some('\\'); f.trim_space = trim; })
            };
            if strict { dialect.carriage_return = CarriageReturn::Required; }
            prop_assert_eq!(
                tokens(&dialect, text.as_bytes(), rows, false),
                tokens(&dialect, text.as_bytes(), rows, true)
            );
        }
    }
}
