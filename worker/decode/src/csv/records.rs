//! Records as they are, without columns: what the inference of schemas looks at.
//!
//! Comes in: a block of CSV, TSV, NDJSON or JSON. Goes out: batches of one column, a list of the texts of each
//! record's fields, NULLs, quotes and escapes resolved; a JSON record is one text. Nothing is parsed
//! any further. A record that cannot be taken apart is an error of its row.

use std::sync::Arc;

use arrow::array::{ListBuilder, RecordBatch, StringBuilder};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::{Error, Result};

use super::cells::{CsvCells, FieldRules};
use super::dialect::Dialect;
use super::tokens::{MISSING, Problem, Tokeniser, Tokens};
use crate::blocks::TextBlock;
use crate::parse::columns::{Cell, Cells};
use crate::spec::{DecodeSpec, DecodedBatch, RowError};
use crate::text::{BlockDecoder, EachBatch};

/// The name of the one column.
const FIELDS: &str = "fields";
/// The most fields of a record; more are an error of the row.
const MOST_FIELDS: usize = 10_000;
/// Records taken apart at once.
const RECORDS_AT_ONCE: usize = 64;
/// Matches no number of fields, so that the number of each record is told.
const ANY_OTHER: usize = usize::MAX;

/// Takes records apart.
#[derive(Debug)]
pub(crate) struct RecordDecoder {
    dialect: Dialect,
    rules: FieldRules,
    is_json: bool,
    batch_rows: usize,
}

impl RecordDecoder {
    /// For the format of a specification.
    pub(crate) fn new(spec: &DecodeSpec) -> Self {
        let is_json = spec.format.kind.is_json();
        // Fields of records are looked at as text: what stands for NULL is NULL, the rest is as it is.
        let rules = if is_json { FileFormat::defaults(FormatKind::Csv) } else { spec.format.clone() };
        Self {
            dialect: if is_json { Dialect::lines() } else { Dialect::new(&spec.format) },
            rules: FieldRules::new(&rules),
            is_json,
            batch_rows: spec.batch_rows.max(1),
        }
    }

    /// The elements of a block of JSON.
    fn decode_elements(
        &self,
        block: &TextBlock,
        elements: &[(u32, u32)],
        each: &mut EachBatch<'_>,
    ) -> Result<Option<TextBlock>> {
        let mut rows = Rows::new(block.input_bytes);
        let (mut line, mut counted) = (block.first_line, 0);
        for (n, (start, end)) in elements.iter().enumerate() {
            let (start, end) = (*start as usize, *end as usize);
            line += memchr::memchr_iter(b'\n', &block.bytes[counted..start]).count() as u64;
            counted = start;
            rows.begin(line);
            rows.field(Some(&block.bytes[start..end]));
            rows.end();
            if rows.len() == self.batch_rows && each(rows.finish(block.bytes.len())?)?.is_break() {
                return Ok(block.rest(start, line, 0, elements.get(n + 1..)));
            }
        }
        let _ = each(rows.finish(block.bytes.len())?)?;
        Ok(None)
    }

    /// The lines of a block that hold something.
    fn decode_lines(&self, block: &TextBlock, each: &mut EachBatch<'_>) -> Result<Option<TextBlock>> {
        let mut rows = Rows::new(block.input_bytes);
        let mut position = 0;
        for (line, bytes) in (block.first_line..).zip(block.bytes.split(|byte| *byte == b'\n')) {
            position += bytes.len() + 1;
            let text = bytes.trim_ascii();
            if text.is_empty() {
                continue;
            }
            rows.begin(line);
            rows.field(Some(text));
            rows.end();
            if rows.len() == self.batch_rows && each(rows.finish(block.bytes.len())?)?.is_break() {
                return Ok(block.rest(position, line + 1, 0, None));
            }
        }
        let _ = each(rows.finish(block.bytes.len())?)?;
        Ok(None)
    }
}

impl BlockDecoder for RecordDecoder {
    fn decode_each(&self, block: TextBlock, each: &mut EachBatch<'_>) -> Result<Option<TextBlock>> {
        if let Some(elements) = &block.elements {
            return self.decode_elements(&block, elements, each);
        }
        if self.is_json {
            return self.decode_lines(&block, each);
        }
        let bytes = &block.bytes[..];
        let at_once = RECORDS_AT_ONCE.min(self.batch_rows);
        let mut counting = Tokeniser::new(&self.dialect, bytes, block.first_line);
        let mut counts = Tokens::new(0, Some(ANY_OTHER), at_once);
        let mut tokeniser = Tokeniser::new(&self.dialect, bytes, block.first_line);
        let mut rows = Rows::new(block.input_bytes);
        let mut scratch = Vec::new();
        loop {
            counting.fill(&mut counts, at_once);
            if counts.rows() == 0 {
                break;
            }
            let widest = counts.problems.iter().filter_map(|(_, problem)| match problem {
                Problem::FieldCount(fields) => Some(*fields),
                Problem::UnclosedQuote(_) => None,
            });
            let width = widest.max().unwrap_or_default().min(MOST_FIELDS);
            let mut tokens = Tokens::new(width, None, at_once);
            tokeniser.fill(&mut tokens, counts.rows());
            for row in 0..tokens.rows() {
                let line = tokens.lines.get(row).copied().unwrap_or_default();
                let wrong = counts.problems.iter().filter(|(at, _)| *at == row).find_map(|(_, problem)| {
                    match problem {
                        Problem::UnclosedQuote(line) => Some(format!(
                            "unclosed quote: the quoted field that begins in line {line} does not end before the file does"
                        )),
                        Problem::FieldCount(fields) if *fields > MOST_FIELDS => {
                            Some(format!("the record has {fields} fields; at most {MOST_FIELDS} are looked at"))
                        }
                        Problem::FieldCount(_) => None,
                    }
                });
                if let Some(message) = wrong {
                    rows.reject(line, message);
                    continue;
                }
                rows.begin(line);
                for position in 0..width {
                    if tokens.field(row, position, self.dialect.delimiter.len()).1 == MISSING {
                        break;
                    }
                    let cells = CsvCells {
                        bytes,
                        tokens: &tokens,
                        dialect: &self.dialect,
                        rules: &self.rules,
                        position,
                        is_string: true,
                    };
                    match cells.text(row, &mut scratch) {
                        Cell::Text(text) | Cell::Bad(text, _) => rows.field(Some(text)),
                        Cell::Null | Cell::Default => rows.field(None),
                    }
                }
                rows.end();
            }
            if rows.len() + at_once > self.batch_rows && each(rows.finish(bytes.len())?)?.is_break() {
                return Ok(block.rest(tokeniser.position(), tokeniser.line(), 0, None));
            }
        }
        let _ = each(rows.finish(bytes.len())?)?;
        Ok(None)
    }
}

/// Records on their way into a batch.
struct Rows {
    fields: ListBuilder<StringBuilder>,
    row: u64,
    row_numbers: Vec<u64>,
    lines: Vec<u64>,
    errors: Vec<RowError>,
    input_bytes: u64,
}

impl Rows {
    fn new(input_bytes: u64) -> Self {
        Self {
            fields: ListBuilder::new(StringBuilder::new()),
            row: 0,
            row_numbers: Vec::new(),
            lines: Vec::new(),
            errors: Vec::new(),
            input_bytes,
        }
    }

    fn len(&self) -> usize {
        self.lines.len() + self.errors.len()
    }

    fn reject(&mut self, line: u64, message: String) {
        self.errors.push(RowError { line, row: self.row, message });
        self.row += 1;
    }

    fn begin(&mut self, line: u64) {
        self.lines.push(line);
        self.row_numbers.push(self.row);
        self.row += 1;
    }

    fn field(&mut self, text: Option<&[u8]>) {
        self.fields.values().append_option(text.map(String::from_utf8_lossy));
    }

    fn end(&mut self) {
        self.fields.append(true);
    }

    fn finish(&mut self, block_bytes: usize) -> Result<DecodedBatch> {
        if block_bytes > i32::MAX as usize {
            return Err(Error::internal("a block of text is larger than 2 GiB"));
        }
        let column = Arc::new(self.fields.finish());
        let batch = RecordBatch::try_from_iter_with_nullable([(FIELDS, column as _, true)])?;
        Ok(DecodedBatch {
            batch,
            row_numbers: std::mem::take(&mut self.row_numbers),
            lines: std::mem::take(&mut self.lines),
            defaulted: vec![None],
            errors: std::mem::take(&mut self.errors),
            input_bytes: std::mem::take(&mut self.input_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;

    use super::*;

    /// The fields of each record, NULL as `∅`, and the lines of those that were rejected.
    fn records(kind: FormatKind, text: &str) -> (Vec<Vec<String>>, Vec<u64>) {
        let mut spec = DecodeSpec::new(FileFormat::defaults(kind), Vec::new());
        spec.batch_rows = 3;
        let block = TextBlock {
            bytes: text.as_bytes().to_vec().into(),
            first_line: 1,
            last_line: 1,
            input_bytes: 7,
            elements: (kind == FormatKind::Json).then(|| vec![(2, 5), (9, 15)]),
        };
        let (mut rows, mut rejected, mut next) = (Vec::new(), Vec::new(), 0);
        let decoder = RecordDecoder::new(&spec);
        let whole = decoder.decode(block.clone()).unwrap();
        let (mut parts, mut rest, mut before) = (Vec::new(), Some(block), 0);
        while let Some(block) = rest {
            let mut part;
            (part, rest) = decoder.decode_some(block, 1).unwrap();
            for batch in &mut part {
                batch.row_numbers.iter_mut().for_each(|row| *row += before);
                batch.errors.iter_mut().for_each(|error| error.row += before);
                before += (batch.lines.len() + batch.errors.len()) as u64;
            }
            parts.append(&mut part);
        }
        let shown = |batches: &[DecodedBatch]| -> Vec<String> {
            let batches = batches.iter().filter(|batch| batch.lines.len() + batch.errors.len() > 0);
            batches.map(|batch| format!("{batch:?}")).collect()
        };
        assert_eq!(shown(&parts), shown(&whole));
        for batch in parts {
            assert!(batch.row_numbers.len() + batch.errors.len() <= 3);
            for list in batch.batch.column(0).as_list::<i32>().iter() {
                let list = list.unwrap();
                let texts = list.as_string::<i32>();
                rows.push(texts.iter().map(|text| text.unwrap_or("∅").to_owned()).collect());
            }
            let mut numbers: Vec<u64> = batch.row_numbers.clone();
            numbers.extend(batch.errors.iter().map(|error| error.row));
            numbers.sort_unstable();
            for number in numbers {
                assert_eq!(number, next);
                next += 1;
            }
            rejected.extend(batch.errors.iter().map(|error| error.line));
        }
        (rows, rejected)
    }

    #[test]
    fn records_of_any_width_come_as_their_fields() {
        let text = "a,b\n1\n\"x\n\"\"y\"\"\",,\\N\n\n2,3,4,5\n6,7\n\"open,8\n";
        let (rows, rejected) = records(FormatKind::Csv, text);
        let expected: Vec<Vec<&str>> = vec![
            vec!["a", "b"],
            vec!["1"],
            vec!["x\n\"y\"", "∅", "∅"],
            vec!["2", "3", "4", "5"],
            vec!["6", "7"],
        ];
        assert_eq!(rows, expected);
        assert_eq!(rejected, [8]);
    }

    #[test]
    fn tsv_fields_lose_their_escapes_and_json_lines_stay_whole() {
        assert_eq!(records(FormatKind::Tsv, "a\\tb\tc\n").0, [["a\tb", "c"]]);
        let (rows, _) = records(FormatKind::Ndjson, "{\"b\":1, \"a\":\",\"}\r\n\n {} \n");
        assert_eq!(rows, [["{\"b\":1, \"a\":\",\"}"], ["{}"]]);
        assert_eq!(records(FormatKind::Json, "[\n{ }\n ,\n{\n\"a\":1}]").0, [["{ }"], ["{\n\"a\":"]]);
    }
}
