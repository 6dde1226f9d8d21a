//! The fields of CSV and TSV, written so that the same options read each as it was.
//!
//! Comes in: the text of a value, or NULL. Goes out: a field, quoted or escaped where it would be read as something
//! else. Where the options give no way to write it, the statement fails: with an error that names the column, the
//! value and the option.

use stevedore_common::file_format::{EmptyFieldAs, FileFormat, FormatKind, QuoteStyle};
use stevedore_common::{Error, Result};
use stevedore_decode::errors::cut;

/// What a text is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// VARCHAR, where the empty text is a value.
    String,
    /// What QUOTE_STYLE = NON_NUMERIC does not quote.
    Number,
    Other,
}

/// Writes fields.
#[derive(Debug)]
pub(super) struct Delimited {
    format: FileFormat,
    /// The starts of the delimiter that make it begin too early where a text ends in them, as `|` of `||`.
    early: Vec<String>,
    /// A line with nothing in it is no record of CSV.
    blank_is_lost: bool,
    /// The field that is NULL; `None`: there is none.
    null: Option<String>,
}

impl Delimited {
    /// For records of so many columns.
    pub(super) fn new(format: &FileFormat, columns: usize) -> Self {
        let delimiter = &format.field_delimiter;
        let starts = delimiter.char_indices().skip(1).map(|(at, _)| delimiter.split_at(at));
        let mut delimited = Self {
            early: starts
                .filter(|(_, rest)| delimiter.starts_with(rest))
                .map(|(start, _)| start.to_owned())
                .collect(),
            blank_is_lost: format.kind == FormatKind::Csv && columns == 1,
            null: None,
            format: format.clone(),
        };
        delimited.null = delimited.null_field();
        delimited
    }

    fn null_field(&self) -> Option<String> {
        let (format, null) = (&self.format, &self.format.null_display);
        if format.trim_space && is_trimmed(null.as_bytes()) {
            return None;
        }
        if format.kind == FormatKind::Tsv {
            // The format was validated: nothing in it ends the field.
            return (!self.begins_delimiter(null)).then(|| null.clone());
        }
        let is_blank = null.is_empty() && self.blank_is_lost;
        // A quote that does not begin the field is a character like others.
        let breaks = self.ends_field(null) || null.starts_with(format.quote);
        if !is_blank && !breaks {
            return Some(null.clone());
        }
        let quoted_is_null =
            format.allow_quoted_nulls || is_blank && format.quoted_empty_field_as == EmptyFieldAs::Null;
        quoted_is_null.then(|| {
            let mut field = Vec::new();
            self.quote(&mut field, null);
            String::from_utf8_lossy(&field).into_owned()
        })
    }

    /// Writes NULL.
    ///
    /// # Errors
    /// Bad data where no field is NULL.
    pub(super) fn null(&self, line: &mut Vec<u8>, column: &str) -> Result<()> {
        let Some(field) = &self.null else { return Err(self.no_null(column)) };
        line.extend_from_slice(field.as_bytes());
        Ok(())
    }

    #[cold]
    fn no_null(&self, column: &str) -> Error {
        let null = &self.format.null_display;
        let why = if null.is_empty() {
            "a line with nothing in it is no record".to_owned()
        } else if self.format.trim_space && is_trimmed(null.as_bytes()) {
            TRIMMED.to_owned()
        } else {
            format!("with FIELD_DELIMITER = '{}' behind it, it is another text", self.format.field_delimiter)
        };
        Error::bad_data(format!(
            "NULL in column '{column}' could not be read back: NULL_DISPLAY is '{}', and {why}",
            cut(null)
        ))
        .hint("set NULL_DISPLAY to a text that no value has, such as '\\\\N'")
    }

    /// Writes a text that is there.
    ///
    /// # Errors
    /// Bad data where it would be read as something else.
    #[inline]
    pub(super) fn value(&self, line: &mut Vec<u8>, text: &str, value: Value, column: &str) -> Result<()> {
        let start = line.len();
        let lost = if self.format.kind == FormatKind::Tsv {
            self.escape(line, text);
            self.lost_in_tsv(&line[start..], text)
        } else {
            let unusual = self.breaks(text) || text.is_empty() || text == self.format.null_display;
            let quoted = self.is_quoted(unusual, text, value);
            if quoted {
                self.quote(line, text);
            } else {
                line.extend_from_slice(text.as_bytes());
            }
            if unusual || self.format.trim_space { self.lost_in_csv(text, quoted, value) } else { None }
        };
        match lost {
            None => Ok(()),
            Some(why) => Err(not_read_back(column, text, &why)),
        }
    }

    /// Writes the name of a column, which readers skip.
    ///
    /// # Errors
    /// Bad data for one that ends the field or the record.
    pub(super) fn name(&self, line: &mut Vec<u8>, name: &str) -> Result<()> {
        if self.format.kind == FormatKind::Tsv {
            self.escape(line, name);
            return Ok(());
        }
        let breaks = self.breaks(name);
        if self.is_quoted(breaks, name, Value::Other) {
            self.quote(line, name);
            return Ok(());
        }
        if breaks {
            return Err(not_read_back(name, name, BREAKS));
        }
        line.extend_from_slice(name.as_bytes());
        Ok(())
    }

    /// Whether the text, as it stands, would end its field or its record, or begin a quoted one.
    #[inline]
    fn breaks(&self, text: &str) -> bool {
        text.contains(self.format.quote) || self.ends_field(text)
    }

    #[inline]
    fn ends_field(&self, text: &str) -> bool {
        let format = &self.format;
        text.contains(format.field_delimiter.as_str())
            || text.contains(['\r', '\n'])
            || text.contains(format.record_delimiter.as_str())
            || self.begins_delimiter(text)
    }

    /// Whether the delimiter behind the text would be found too early.
    #[inline]
    fn begins_delimiter(&self, text: &str) -> bool {
        self.early.iter().any(|start| text.ends_with(start.as_str()))
    }

    fn is_quoted(&self, unusual: bool, text: &str, value: Value) -> bool {
        match self.format.quote_style {
            QuoteStyle::Always => true,
            QuoteStyle::NonNumeric => unusual || value != Value::Number,
            QuoteStyle::Necessary => unusual && !(text.is_empty() && self.is_better_bare(value)),
            QuoteStyle::Never => false,
        }
    }

    /// Whether the empty text is read back without quotes only.
    fn is_better_bare(&self, value: Value) -> bool {
        let format = &self.format;
        value == Value::String
            && format.quoted_empty_field_as != EmptyFieldAs::String
            && format.empty_field_as == EmptyFieldAs::String
            && !self.blank_is_lost
    }

    /// Why a text that was written in CSV would be read as something else.
    #[cold]
    fn lost_in_csv(&self, text: &str, quoted: bool, value: Value) -> Option<String> {
        let format = &self.format;
        let never = format.quote_style == QuoteStyle::Never;
        let and_never = if never { ", and QUOTE_STYLE is NEVER" } else { "" };
        if format.trim_space && is_trimmed(text.as_bytes()) {
            return Some(TRIMMED.to_owned());
        }
        if text == format.null_display && (!quoted || format.allow_quoted_nulls) {
            let option = if never { "QUOTE_STYLE is NEVER" } else { "ALLOW_QUOTED_NULLS is true" };
            return Some(format!("it is the text of NULL_DISPLAY, and {option}"));
        }
        if !quoted && self.breaks(text) {
            return Some(BREAKS.to_owned());
        }
        if !text.is_empty() {
            return None;
        }
        if !quoted && self.blank_is_lost {
            return Some(format!("a line with nothing in it is no record{and_never}"));
        }
        let (option, meaning) = if quoted {
            ("QUOTED_EMPTY_FIELD_AS", format.quoted_empty_field_as)
        } else {
            ("EMPTY_FIELD_AS", format.empty_field_as)
        };
        (value == Value::String && meaning != EmptyFieldAs::String)
            .then(|| format!("{option} is {meaning}{and_never}"))
    }

    /// Why a text that was written in TSV would be read as something else.
    #[inline]
    fn lost_in_tsv(&self, field: &[u8], text: &str) -> Option<String> {
        let format = &self.format;
        if field == format.null_display.as_bytes() {
            return Some("TSV has no quotes, and it is the text of NULL_DISPLAY".to_owned());
        }
        if format.trim_space && is_trimmed(field) {
            return Some(TRIMMED.to_owned());
        }
        for (option, delimiter) in
            [("FIELD_DELIMITER", &format.field_delimiter), ("RECORD_DELIMITER", &format.record_delimiter)]
        {
            // After a backslash these letters are control characters.
            if delimiter.starts_with(['b', 'f', 'n', 'r', 't', '0']) && text.contains(&delimiter[..1]) {
                return Some(format!(
                    "{option} is '{delimiter}', and a backslash before it means another character"
                ));
            }
        }
        None
    }

    fn quote(&self, line: &mut Vec<u8>, text: &str) {
        let format = &self.format;
        let mut buffer = [0; 4];
        line.extend_from_slice(format.quote.encode_utf8(&mut buffer).as_bytes());
        for c in text.chars() {
            if c == format.quote || Some(c) == format.escape {
                line.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
            line.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
        line.extend_from_slice(format.quote.encode_utf8(&mut buffer).as_bytes());
    }

    fn escape(&self, line: &mut Vec<u8>, text: &str) {
        let mut buffer = [0; 4];
        for c in text.chars() {
            let escape = match c {
                '\\' => Some('\\'),
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                '\0' => Some('0'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                // Without its first character no delimiter begins; a backslash before the others would stay.
                c if self.format.field_delimiter.starts_with(c)
                    || self.format.record_delimiter.starts_with(c) =>
                {
                    Some(c)
                }
                _ => None,
            };
            if escape.is_some() {
                line.push(b'\\');
            }
            line.extend_from_slice(escape.unwrap_or(c).encode_utf8(&mut buffer).as_bytes());
        }
    }
}

const BREAKS: &str = "it holds a delimiter, a quote or a line break, and QUOTE_STYLE is NEVER";
const TRIMMED: &str = "TRIM_SPACE = true takes off the white space around it";

/// Whether TRIM_SPACE takes something off.
fn is_trimmed(text: &[u8]) -> bool {
    text.trim_ascii().len() < text.len()
}

#[cold]
fn not_read_back(column: &str, text: &str, why: &str) -> Error {
    Error::bad_data(format!("value '{}' of column '{column}' could not be read back: {why}", cut(text)))
        .hint("change that option, or unload as NDJSON or PARQUET, which hold any value")
}
