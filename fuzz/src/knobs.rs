//! Options, types and columns made of a few bytes. Every choice can be reached; zeros choose defaults.

use arbitrary::{Result, Unstructured};
use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};
use stevedore_common::types::SqlType;
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};

/// The names that columns and fields go by.
pub const NAMES: [&str; 8] = ["a", "b", "c", "A", "id", "é", "x y", "nested"];
const TEXTS: [&str; 12] = ["\\N", "", "NULL", "NaN", "-", "\"", "'", "\\", ",", "é", "null", "a"];
const DELIMITERS: [&str; 12] = [",", "\t", ";", "|", "||", "::", "<->", "é", "\u{1}", " ", "a", "aa"];
const RECORD_ENDS: [&str; 6] = ["\n", "\r\n", "|", "\u{1e}", ";", "a"];
const ENCODINGS: [&str; 8] = [
    "UTF-8",
    "utf-16le",
    "utf-16be",
    "gb18030",
    "shift_jis",
    "windows-1252",
    "iso-2022-jp",
    "x-user-defined",
];

fn option(u: &mut Unstructured<'_>, name: &str) -> Result<OptionValue> {
    let text = match name {
        "RECORD_DELIMITER" => u.choose(&RECORD_ENDS)?,
        "FIELD_DELIMITER" => u.choose(&DELIMITERS)?,
        "QUOTE" => u.choose(&["\"", "'", "`"])?,
        "ESCAPE" => u.choose(&["", "\\"])?,
        "SKIP_HEADER" => u.choose(&["0", "1", "2", "1000000000000"])?,
        "NULL_DISPLAY" | "NAN_DISPLAY" => u.choose(&TEXTS)?,
        "EMPTY_FIELD_AS" | "QUOTED_EMPTY_FIELD_AS" => u.choose(&["NULL", "STRING", "FIELD_DEFAULT"])?,
        "NULL_FIELD_AS" => u.choose(&["NULL", "FIELD_DEFAULT"])?,
        "MISSING_FIELD_AS" => u.choose(&["FIELD_DEFAULT", "NULL", "ERROR"])?,
        "BINARY_FORMAT" => u.choose(&["HEX", "BASE64"])?,
        "ENCODING" => u.choose(&ENCODINGS)?,
        "ENCODING_ERROR_MODE" => u.choose(&["STRICT", "REPLACE"])?,
        "NULL_IF" => {
            let texts = (0..u.int_in_range(0..=2)?).map(|_| u.choose(&TEXTS).map(|text| text.to_string()));
            return Ok(OptionValue::List(texts.collect::<Result<_>>()?));
        }
        _ => u.choose(&["true", "false"])?,
    };
    Ok(OptionValue::Text((*text).to_owned()))
}

/// A valid format of a kind.
///
/// # Errors
/// Where the options contradict each other, or the bytes do not do.
pub fn format(u: &mut Unstructured<'_>, kind: FormatKind) -> Result<FileFormat> {
    // What the bytes of a file are read with.
    let names = FileFormat::allowed_options(kind).iter();
    let names = names.filter(|name| !["COMPRESSION", "OUTPUT_HEADER", "QUOTE_STYLE"].contains(*name));
    let set: u16 = u.arbitrary()?;
    let mut options = vec![("TYPE".to_owned(), OptionValue::Word(kind.as_str().to_owned()))];
    for (place, name) in names.enumerate() {
        if set >> place & 1 == 1 {
            options.push(((*name).to_owned(), option(u, name)?));
        }
    }
    FileFormat::from_options(&options).map_err(|_| arbitrary::Error::IncorrectFormat)
}

/// Any type of the dialect.
///
/// # Errors
/// Where the bytes do not do.
pub fn sql_type(u: &mut Unstructured<'_>, depth: usize) -> Result<SqlType> {
    let kinds = if depth < 3 { 23 } else { 19 };
    Ok(match u.int_in_range(0..=kinds - 1)? {
        0 => SqlType::String,
        1 => SqlType::Int64,
        2 => SqlType::Float64,
        3 => SqlType::Boolean,
        4 => SqlType::Timestamp,
        5 => SqlType::Date,
        6 => SqlType::Variant,
        7 => SqlType::Binary,
        8 => SqlType::Decimal(38, 10),
        9 => SqlType::Decimal(4, 4),
        10 => SqlType::Int8,
        11 => SqlType::Int16,
        12 => SqlType::Int32,
        13 => SqlType::UInt8,
        14 => SqlType::UInt16,
        15 => SqlType::UInt32,
        16 => SqlType::UInt64,
        17 => SqlType::Float32,
        18 => SqlType::Vector(2),
        19 => SqlType::Array(Box::new(sql_type(u, depth + 1)?)),
        20 => SqlType::Map(Box::new(SqlType::String), Box::new(sql_type(u, depth + 1)?)),
        21 => SqlType::Map(Box::new(SqlType::Int32), Box::new(sql_type(u, depth + 1)?)),
        _ => SqlType::Tuple(vec![
            ("a".to_owned(), sql_type(u, depth + 1)?),
            ("b".to_owned(), sql_type(u, depth + 1)?),
        ]),
    })
}

/// What to decode of a text file: up to four columns.
///
/// # Errors
/// Where the bytes do not do.
pub fn text_spec(u: &mut Unstructured<'_>, format: FileFormat) -> Result<DecodeSpec> {
    let named = format.kind.is_json();
    let mut columns = Vec::new();
    let count = u.int_in_range(1..=4)?;
    for place in 0..count {
        let flags: u8 = u.arbitrary()?;
        columns.push(OutputColumn {
            name: format!("c{place}"),
            ty: Some(sql_type(u, 0)?),
            source: match flags >> 4 {
                15 if named => ColumnSource::WholeRow,
                n if named => ColumnSource::Name(NAMES[usize::from(n) % NAMES.len()].to_owned()),
                15 => ColumnSource::Position(3),
                _ => ColumnSource::Position(place),
            },
            nullable: flags & 1 == 0,
            has_default: flags & 2 != 0,
        });
    }
    let flags: u8 = u.arbitrary()?;
    let mut spec = DecodeSpec::new(format, columns);
    spec.record_fields = (flags & 1 == 0).then_some(count);
    spec.raw_records = flags & 0xf0 == 0xf0;
    spec.case_sensitive = flags & 2 != 0;
    spec.cast.truncate = flags & 4 != 0;
    spec.cast.invalid_json_as_null = flags & 8 != 0;
    spec.batch_rows = if flags & 16 == 0 { 8192 } else { 3 };
    spec.max_nesting = 64;
    Ok(spec)
}
