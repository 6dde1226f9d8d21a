//! File formats: the options of the dialect, their defaults, their validation, their text form.
//!
//! Comes in: option names and values from a statement. Goes out: a [`FileFormat`] that decoders can
//! rely on (every combination it can hold is valid). Unknown options and values are errors that name
//! the option and list what is allowed.

mod keywords;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use keywords::{
    BinaryFormat, Compression, EmptyFieldAs, EncodingErrorMode, FormatKind, MissingFieldAs, NullFieldAs,
    OptionValue, QuoteStyle,
};

/// A file format with every option set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFormat {
    /// TYPE.
    pub kind: FormatKind,
    /// COMPRESSION.
    pub compression: Compression,
    /// RECORD_DELIMITER (CSV, TSV): one byte, or `\r\n`. `\n` also accepts a preceding `\r`.
    pub record_delimiter: String,
    /// FIELD_DELIMITER (CSV, TSV): 1 to 20 bytes.
    pub field_delimiter: String,
    /// QUOTE (CSV): one ASCII byte. TSV has none.
    pub quote: char,
    /// ESCAPE (CSV): an additional escape byte inside quotes.
    pub escape: Option<char>,
    /// SKIP_HEADER: records skipped at the top of each file.
    pub skip_header: u64,
    /// TRIM_SPACE.
    pub trim_space: bool,
    /// NULL_DISPLAY.
    pub null_display: String,
    /// ALLOW_QUOTED_NULLS.
    pub allow_quoted_nulls: bool,
    /// NAN_DISPLAY.
    pub nan_display: String,
    /// EMPTY_FIELD_AS.
    pub empty_field_as: EmptyFieldAs,
    /// QUOTED_EMPTY_FIELD_AS.
    pub quoted_empty_field_as: EmptyFieldAs,
    /// ERROR_ON_COLUMN_COUNT_MISMATCH.
    pub error_on_column_count_mismatch: bool,
    /// BINARY_FORMAT.
    pub binary_format: BinaryFormat,
    /// ENCODING: a WHATWG label, as given.
    pub encoding: String,
    /// ENCODING_ERROR_MODE.
    pub encoding_error_mode: EncodingErrorMode,
    /// OUTPUT_HEADER (unload only).
    pub output_header: bool,
    /// QUOTE_STYLE (unload only).
    pub quote_style: QuoteStyle,
    /// NULL_FIELD_AS (NDJSON, JSON).
    pub null_field_as: NullFieldAs,
    /// MISSING_FIELD_AS.
    pub missing_field_as: MissingFieldAs,
    /// NULL_IF: strings that are NULL.
    pub null_if: Vec<String>,
    /// USE_LOGIC_TYPE (Parquet, Avro).
    pub use_logic_type: bool,
    /// The options that were set, in the statement's order, canonical; the others are defaults.
    pub explicit: Vec<String>,
}

impl FormatKind {
    /// Whether files are text: decompressed, brought to UTF-8, and read record by record.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv) || self.is_json()
    }

    /// Whether records are JSON objects.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Ndjson | Self::Json)
    }

    /// Whether files say their columns and the types of these.
    pub fn says_columns(self) -> bool {
        !self.is_text()
    }
}

impl FileFormat {
    /// The defaults of a type.
    pub fn defaults(kind: FormatKind) -> Self {
        let tsv = kind == FormatKind::Tsv;
        Self {
            kind,
            compression: Compression::Auto,
            record_delimiter: "\n".into(),
            field_delimiter: if tsv { "\t" } else { "," }.into(),
            quote: '"',
            escape: tsv.then_some('\\'),
            skip_header: 0,
            trim_space: false,
            null_display: "\\N".into(),
            allow_quoted_nulls: false,
            nan_display: "NaN".into(),
            empty_field_as: if tsv { EmptyFieldAs::FieldDefault } else { EmptyFieldAs::Null },
            quoted_empty_field_as: EmptyFieldAs::String,
            error_on_column_count_mismatch: true,
            binary_format: BinaryFormat::Hex,
            encoding: "UTF-8".into(),
            encoding_error_mode: EncodingErrorMode::Strict,
            output_header: false,
            quote_style: QuoteStyle::Necessary,
            null_field_as: NullFieldAs::Null,
            missing_field_as: MissingFieldAs::Error,
            null_if: Vec::new(),
            use_logic_type: true,
            explicit: Vec::new(),
        }
    }

    /// Builds a format from a statement's options. `TYPE` must be among them.
    ///
    /// # Errors
    /// Invalid input that names the option and lists what is allowed.
    pub fn from_options(options: &[(String, OptionValue)]) -> Result<Self> {
        let mut kind = None;
        for (name, value) in options {
            if name.eq_ignore_ascii_case("TYPE") {
                kind = Some(FormatKind::parse("TYPE", value.as_text("TYPE")?)?);
            }
        }
        let kind = kind.ok_or_else(|| {
            Error::invalid("a file format needs TYPE = …")
                .hint("allowed: CSV, TSV, NDJSON, JSON, PARQUET, ORC, AVRO, ARROW, ARROW_STREAM")
        })?;
        let mut format = Self::defaults(kind);
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in options {
            let option = name.to_ascii_uppercase();
            if seen.contains(&option) {
                return Err(Error::invalid(format!("option {option} is given twice")));
            }
            if option != "TYPE" {
                format.set(&option, value)?;
            }
            seen.push(option);
        }
        format.check()?;
        Ok(format)
    }

    /// The options that files of a kind have.
    pub fn allowed_options(kind: FormatKind) -> &'static [&'static str] {
        match kind {
            FormatKind::Csv => &[
                "COMPRESSION",
                "RECORD_DELIMITER",
                "FIELD_DELIMITER",
                "QUOTE",
                "ESCAPE",
                "SKIP_HEADER",
                "TRIM_SPACE",
                "NULL_DISPLAY",
                "ALLOW_QUOTED_NULLS",
                "NAN_DISPLAY",
                "EMPTY_FIELD_AS",
                "QUOTED_EMPTY_FIELD_AS",
                "ERROR_ON_COLUMN_COUNT_MISMATCH",
                "BINARY_FORMAT",
                "ENCODING",
                "ENCODING_ERROR_MODE",
                "OUTPUT_HEADER",
                "QUOTE_STYLE",
            ],
            FormatKind::Tsv => &[
                "COMPRESSION",
                "RECORD_DELIMITER",
                "FIELD_DELIMITER",
                "SKIP_HEADER",
                "TRIM_SPACE",
                "NULL_DISPLAY",
                "NAN_DISPLAY",
                "EMPTY_FIELD_AS",
                "ERROR_ON_COLUMN_COUNT_MISMATCH",
                "BINARY_FORMAT",
                "ENCODING",
                "ENCODING_ERROR_MODE",
                "OUTPUT_HEADER",
            ],
            FormatKind::Ndjson | FormatKind::Json => &[
                "COMPRESSION",
                "NULL_FIELD_AS",
                "MISSING_FIELD_AS",
                "NULL_IF",
                "ENCODING",
                "ENCODING_ERROR_MODE",
                "BINARY_FORMAT",
                "NAN_DISPLAY",
            ],
            FormatKind::Parquet => &["COMPRESSION", "MISSING_FIELD_AS", "NULL_IF", "USE_LOGIC_TYPE"],
            FormatKind::Avro => &["COMPRESSION", "MISSING_FIELD_AS", "NULL_IF", "USE_LOGIC_TYPE"],
            FormatKind::Orc => &["COMPRESSION", "MISSING_FIELD_AS"],
            FormatKind::Arrow | FormatKind::ArrowStream => &["COMPRESSION", "MISSING_FIELD_AS", "NULL_IF"],
        }
    }

    fn set(&mut self, option: &str, value: &OptionValue) -> Result<()> {
        let allowed = Self::allowed_options(self.kind);
        if !allowed.contains(&option) {
            return Err(Error::invalid(format!("{} files have no option {option}", self.kind))
                .hint(format!("allowed: TYPE, {}", allowed.join(", "))));
        }
        match option {
            "COMPRESSION" => self.compression = Compression::parse(option, value.as_text(option)?)?,
            "RECORD_DELIMITER" => self.record_delimiter = value.as_text(option)?.to_owned(),
            "FIELD_DELIMITER" => self.field_delimiter = value.as_text(option)?.to_owned(),
            "QUOTE" => {
                self.quote = match value.as_text(option)? {
                    "\"" => '"',
                    "'" => '\'',
                    "`" => '`',
                    other => {
                        return Err(Error::invalid(format!("option QUOTE is '{other}'; allowed: \", ', `")));
                    }
                }
            }
            "ESCAPE" => {
                self.escape = match value.as_text(option)? {
                    "" => None,
                    "\\" => Some('\\'),
                    other => {
                        return Err(Error::invalid(format!(
                            "option ESCAPE is '{other}'; allowed: '' (none), '\\\\'"
                        )));
                    }
                }
            }
            "SKIP_HEADER" => self.skip_header = value.as_u64(option)?,
            "TRIM_SPACE" => self.trim_space = value.as_bool(option)?,
            "NULL_DISPLAY" => self.null_display = value.as_text(option)?.to_owned(),
            "ALLOW_QUOTED_NULLS" => self.allow_quoted_nulls = value.as_bool(option)?,
            "NAN_DISPLAY" => self.nan_display = value.as_text(option)?.to_owned(),
            "EMPTY_FIELD_AS" => self.empty_field_as = EmptyFieldAs::parse(option, value.as_text(option)?)?,
            "QUOTED_EMPTY_FIELD_AS" => {
                self.quoted_empty_field_as = EmptyFieldAs::parse(option, value.as_text(option)?)?;
            }
            "ERROR_ON_COLUMN_COUNT_MISMATCH" => {
                self.error_on_column_count_mismatch = value.as_bool(option)?
            }
            "BINARY_FORMAT" => self.binary_format = BinaryFormat::parse(option, value.as_text(option)?)?,
            "ENCODING" => {
                let label = value.as_text(option)?;
                if encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()).is_none() {
                    return Err(Error::invalid(format!(
                        "option ENCODING is '{label}'; a WHATWG label such as UTF-8, GBK or windows-1252 is expected"
                    )));
                }
                self.encoding = label.to_owned();
            }
            "ENCODING_ERROR_MODE" => {
                self.encoding_error_mode = EncodingErrorMode::parse(option, value.as_text(option)?)?;
            }
            "OUTPUT_HEADER" => self.output_header = value.as_bool(option)?,
            "QUOTE_STYLE" => self.quote_style = QuoteStyle::parse(option, value.as_text(option)?)?,
            "NULL_FIELD_AS" => self.null_field_as = NullFieldAs::parse(option, value.as_text(option)?)?,
            "MISSING_FIELD_AS" => {
                self.missing_field_as = MissingFieldAs::parse(option, value.as_text(option)?)?
            }
            "NULL_IF" => {
                self.null_if = match value {
                    OptionValue::List(list) => list.clone(),
                    OptionValue::Text(text) => vec![text.clone()],
                    OptionValue::Word(word) => {
                        return Err(Error::invalid(format!(
                            "option NULL_IF is {word}; a list of strings is expected"
                        )));
                    }
                }
            }
            "USE_LOGIC_TYPE" => self.use_logic_type = value.as_bool(option)?,
            // `allowed_options` and this match name the same options.
            other => return Err(Error::internal(format!("option {other} is listed but not handled"))),
        }
        self.explicit.push(option.to_owned());
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let record = self.record_delimiter.as_bytes();
        if !(record.len() == 1 && record[0].is_ascii() || record == b"\r\n") {
            return Err(Error::invalid(format!(
                "option RECORD_DELIMITER is {:?}; one byte or '\\r\\n' is expected",
                self.record_delimiter
            )));
        }
        if self.field_delimiter.is_empty() || self.field_delimiter.len() > 20 {
            return Err(Error::invalid(format!(
                "option FIELD_DELIMITER has {} bytes; 1 to 20 are expected",
                self.field_delimiter.len()
            )));
        }
        self.check_delimiters()?;
        if !self.kind.is_text() && !matches!(self.compression, Compression::Auto | Compression::None) {
            return Err(Error::invalid(format!(
                "option COMPRESSION is {}; {} files carry their own compression, allowed: AUTO, NONE",
                self.compression, self.kind
            )));
        }
        if self.kind.says_columns() && self.missing_field_as == MissingFieldAs::Null {
            return Err(Error::invalid("option MISSING_FIELD_AS is NULL; allowed: ERROR, FIELD_DEFAULT"));
        }
        Ok(())
    }

    /// Whether the characters with a meaning can be told apart.
    fn check_delimiters(&self) -> Result<()> {
        let holds = |c: char| self.field_delimiter.contains(c) || self.record_delimiter.contains(c);
        if self.kind == FormatKind::Tsv && holds('\\') {
            return Err(Error::invalid(
                "a delimiter holds a backslash, which escapes delimiters in TSV; they must differ",
            )
            .hint("set FIELD_DELIMITER and RECORD_DELIMITER to others, or use TYPE = CSV"));
        }
        let csv = self.kind == FormatKind::Csv;
        for (name, c) in [("QUOTE", Some(self.quote)), ("ESCAPE", self.escape)] {
            if let Some(c) = c.filter(|c| csv && holds(*c)) {
                return Err(Error::invalid(format!(
                    "option {name} is {c:?}, which is part of a delimiter; they must differ"
                )));
            }
        }
        let record = self.record_delimiter.as_bytes();
        if self.field_delimiter.as_bytes().iter().any(|b| record.contains(b)) {
            return Err(Error::invalid(
                "options FIELD_DELIMITER and RECORD_DELIMITER share a byte; they must differ",
            ));
        }
        if matches!(self.kind, FormatKind::Csv | FormatKind::Tsv) {
            self.check_null_display()?;
        }
        Ok(())
    }

    /// Whether a field can have the text of NULL_DISPLAY, bare or (where that is NULL too) in quotes.
    fn check_null_display(&self) -> Result<()> {
        let null = &self.null_display;
        let csv = self.kind == FormatKind::Csv;
        let lines: &[char] = if self.record_delimiter.ends_with('\n') { &['\r', '\n'] } else { &[] };
        let what = if null.contains(&self.field_delimiter) {
            "the FIELD_DELIMITER"
        } else if null.contains(&self.record_delimiter) {
            "the RECORD_DELIMITER"
        } else if null.contains(lines) {
            "a line break"
        } else if csv && null.starts_with(self.quote) {
            "the QUOTE at its beginning"
        } else if !csv && null.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1 {
            "a backslash at its end"
        } else {
            return Ok(());
        };
        if csv && self.allow_quoted_nulls {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "option NULL_DISPLAY is {}, which holds {what}: no field has that text",
            quoted(null)
        ))
        .hint("set NULL_DISPLAY to another text, such as ''"))
    }

    /// The value of an option as SHOW FILE FORMATS prints it.
    fn option_text(&self, option: &str) -> String {
        match option {
            "COMPRESSION" => self.compression.to_string(),
            "RECORD_DELIMITER" => quoted(&self.record_delimiter),
            "FIELD_DELIMITER" => quoted(&self.field_delimiter),
            "QUOTE" => quoted(&self.quote.to_string()),
            "ESCAPE" => quoted(&self.escape.map(String::from).unwrap_or_default()),
            "SKIP_HEADER" => self.skip_header.to_string(),
            "TRIM_SPACE" => self.trim_space.to_string(),
            "NULL_DISPLAY" => quoted(&self.null_display),
            "ALLOW_QUOTED_NULLS" => self.allow_quoted_nulls.to_string(),
            "NAN_DISPLAY" => quoted(&self.nan_display),
            "EMPTY_FIELD_AS" => self.empty_field_as.to_string(),
            "QUOTED_EMPTY_FIELD_AS" => self.quoted_empty_field_as.to_string(),
            "ERROR_ON_COLUMN_COUNT_MISMATCH" => self.error_on_column_count_mismatch.to_string(),
            "BINARY_FORMAT" => self.binary_format.to_string(),
            "ENCODING" => quoted(&self.encoding),
            "ENCODING_ERROR_MODE" => self.encoding_error_mode.to_string(),
            "OUTPUT_HEADER" => self.output_header.to_string(),
            "QUOTE_STYLE" => self.quote_style.to_string(),
            "NULL_FIELD_AS" => self.null_field_as.to_string(),
            "MISSING_FIELD_AS" => self.missing_field_as.to_string(),
            "NULL_IF" => {
                let list: Vec<String> = self.null_if.iter().map(|text| quoted(text)).collect();
                format!("({})", list.join(", "))
            }
            "USE_LOGIC_TYPE" => self.use_logic_type.to_string(),
            _ => String::new(),
        }
    }
}

impl fmt::Display for FileFormat {
    /// `TYPE = CSV SKIP_HEADER = 1`: the type and the options that were set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TYPE = {}", self.kind)?;
        for option in &self.explicit {
            write!(f, " {option} = {}", self.option_text(option))?;
        }
        Ok(())
    }
}

/// A text as a literal of the dialect.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for c in text.chars() {
        match c {
            '\\' => literal.push_str("\\\\"),
            '\'' => literal.push_str("\\'"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            '\0' => literal.push_str("\\0"),
            c if c.is_ascii_control() => literal.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Vec<(String, OptionValue)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), OptionValue::Text((*v).to_owned()))).collect()
    }

    #[test]
    fn options_are_checked_by_type() {
        let csv = FileFormat::from_options(&options(&[
            ("type", "csv"),
            ("skip_header", "1"),
            ("FIELD_DELIMITER", "||"),
        ]))
        .unwrap();
        assert_eq!(csv.skip_header, 1);
        assert_eq!(csv.to_string(), "TYPE = CSV SKIP_HEADER = 1 FIELD_DELIMITER = '||'");
        for (pairs, message) in [
            (vec![("TYPE", "PARQUET"), ("SKIP_HEADER", "1")], "PARQUET files have no option SKIP_HEADER"),
            (vec![("TYPE", "CSV"), ("QUOTE", "x")], "allowed: \", ', `"),
            (vec![("TYPE", "CSV"), ("RECORD_DELIMITER", "ab")], "one byte or"),
            (vec![("TYPE", "CSV"), ("SKIP_HEADER", "-1")], "whole number"),
            (vec![("TYPE", "CSV"), ("ENCODING", "replacement")], "option ENCODING is 'replacement'"),
            (
                vec![("TYPE", "TSV"), ("FIELD_DELIMITER", "\\")],
                "a backslash, which escapes delimiters in TSV",
            ),
            (
                vec![("TYPE", "CSV"), ("FIELD_DELIMITER", "\\")],
                r"NULL_DISPLAY is '\\N', which holds the FIELD_DELIMITER",
            ),
            (vec![("TYPE", "CSV"), ("FIELD_DELIMITER", "N")], "which holds the FIELD_DELIMITER"),
            (
                vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a,b")],
                "NULL_DISPLAY is 'a,b', which holds the FIELD_DELIMITER",
            ),
            (vec![("TYPE", "CSV"), ("NULL_DISPLAY", "\"")], "which holds the QUOTE"),
            (vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a\r")], "which holds a line break"),
            (
                vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a;"), ("RECORD_DELIMITER", ";")],
                "the RECORD_DELIMITER",
            ),
            (vec![("TYPE", "TSV"), ("NULL_DISPLAY", "a\tb")], "which holds the FIELD_DELIMITER"),
            (vec![("TYPE", "TSV"), ("NULL_DISPLAY", "a\\")], "which holds a backslash at its end"),
            (vec![("TYPE", "CSV"), ("ENCODING", "klingon")], "option ENCODING is 'klingon'; a WHATWG label"),
            (vec![("TYPE", "XML")], "allowed: CSV, TSV"),
            (vec![("SKIP_HEADER", "1")], "needs TYPE"),
            (vec![("TYPE", "CSV"), ("TYPE", "CSV")], "given twice"),
            (vec![("TYPE", "PARQUET"), ("COMPRESSION", "GZIP")], "allowed: AUTO, NONE"),
        ] {
            let error = FileFormat::from_options(&options(&pairs)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn null_displays_that_some_field_can_have_are_taken() {
        for pairs in [
            vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a,b"), ("ALLOW_QUOTED_NULLS", "true")],
            vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a\"b")],
            vec![("TYPE", "CSV"), ("FIELD_DELIMITER", "\\"), ("NULL_DISPLAY", "")],
            vec![("TYPE", "TSV"), ("NULL_DISPLAY", "\"a\"")],
            vec![("TYPE", "CSV"), ("NULL_DISPLAY", "a\n"), ("RECORD_DELIMITER", ";")],
        ] {
            FileFormat::from_options(&options(&pairs)).unwrap();
        }
    }

    #[test]
    fn texts_print_as_literals_of_the_dialect() {
        let format = FileFormat::from_options(&options(&[
            ("TYPE", "CSV"),
            ("FIELD_DELIMITER", "§\u{1}"),
            ("NULL_DISPLAY", "\\N's"),
            ("RECORD_DELIMITER", "\r\n"),
        ]))
        .unwrap();
        let text = r"TYPE = CSV FIELD_DELIMITER = '§\x01' NULL_DISPLAY = '\\N\'s' RECORD_DELIMITER = '\r\n'";
        assert_eq!(format.to_string(), text);
    }

    #[test]
    fn auto_compression_goes_by_extension() {
        assert_eq!(Compression::Auto.resolve("a/b.csv.gz"), Compression::Gzip);
        assert_eq!(Compression::Auto.resolve("a.gz/b.csv"), Compression::None);
        assert_eq!(Compression::None.resolve("b.csv.gz"), Compression::None);
        use Compression::{Brotli, Bz2, Deflate, Gzip, RawDeflate, Xz, Zip, Zstd};
        for codec in [Gzip, Bz2, Brotli, Zstd, Xz, Deflate, RawDeflate, Zip] {
            assert_eq!(codec.extension().map(Compression::of_extension), Some(codec));
        }
    }
}
