//! The SQL types and what each is in Arrow (results and decoding) and in Iceberg (storage).
//!
//! The table of the mapping is in `docs/architecture.md`. What Iceberg v2 cannot say (VARIANT,
//! VECTOR(n), unsigned and small integers, TIMESTAMP_TZ) is kept beside it as the text of the SQL
//! type in table properties; [`crate::schema`] puts the two together.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest VECTOR dimension.
pub const MAX_VECTOR_DIMENSION: u16 = 4096;
/// The key of an Arrow field's canonical extension name.
pub const EXTENSION_NAME: &str = "ARROW:extension:name";
/// The canonical extension of VARIANT columns: UTF-8 that holds JSON.
pub const JSON_EXTENSION: &str = "arrow.json";

/// A column type of the dialect. Elements of ARRAY, MAP values and TUPLE fields are nullable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// BOOLEAN.
    Boolean,
    /// TINYINT.
    Int8,
    /// SMALLINT.
    Int16,
    /// INT.
    Int32,
    /// BIGINT.
    Int64,
    /// TINYINT UNSIGNED.
    UInt8,
    /// SMALLINT UNSIGNED.
    UInt16,
    /// INT UNSIGNED.
    UInt32,
    /// BIGINT UNSIGNED.
    UInt64,
    /// FLOAT.
    Float32,
    /// DOUBLE.
    Float64,
    /// DECIMAL(precision, scale), precision 1…38.
    Decimal(u8, u8),
    /// DATE.
    Date,
    /// TIMESTAMP: microseconds, a UTC instant.
    Timestamp,
    /// TIMESTAMP_TZ: stored as the instant, the offset is not kept.
    TimestampTz,
    /// VARCHAR.
    String,
    /// BINARY.
    Binary,
    /// ARRAY(T).
    Array(Box<SqlType>),
    /// MAP(K, V).
    Map(Box<SqlType>, Box<SqlType>),
    /// TUPLE(name T, …).
    Tuple(Vec<(String, SqlType)>),
    /// VARIANT: JSON text.
    Variant,
    /// VECTOR(n): exactly n float32.
    Vector(u16),
}

impl SqlType {
    /// The Arrow type of this type in results, in decoded batches and in what writers accept.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            // The parser refuses scale > precision ≤ 38, so the cast cannot wrap.
            Self::Decimal(p, s) => DataType::Decimal128(*p, *s as i8),
            Self::Date => DataType::Date32,
            Self::Timestamp | Self::TimestampTz => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            Self::String | Self::Variant => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Array(element) => DataType::List(Arc::new(element.to_field("element", true))),
            Self::Map(key, value) => DataType::Map(
                Arc::new(Field::new(
                    "key_value",
                    DataType::Struct(Fields::from(vec![
                        key.to_field("key", false),
                        value.to_field("value", true),
                    ])),
                    false,
                )),
                false,
            ),
            Self::Tuple(fields) => {
                DataType::Struct(fields.iter().map(|(name, ty)| ty.to_field(name, true)).collect())
            }
            Self::Vector(n) => DataType::FixedSizeList(
                Arc::new(Field::new("element", DataType::Float32, false)),
                i32::from(*n),
            ),
        }
    }

    /// An Arrow field of this type, with the extension name where the type has one.
    pub fn to_field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.to_arrow(), nullable);
        if *self == Self::Variant {
            field.with_metadata([(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned())].into())
        } else {
            field
        }
    }

    /// The type that an Arrow field of a file or a query result has in SQL: the narrowest that
    /// holds every value, VARIANT for the `arrow.json` extension.
    ///
    /// # Errors
    /// Unsupported, naming the type, where the dialect has nothing that could hold it.
    pub fn from_arrow_field(field: &Field) -> Result<Self> {
        if field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == JSON_EXTENSION) {
            return Ok(Self::Variant);
        }
        Self::from_arrow(field.data_type())
    }

    /// See [`SqlType::from_arrow_field`].
    ///
    /// # Errors
    /// As there.
    pub fn from_arrow(data_type: &DataType) -> Result<Self> {
        Ok(match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 => Self::Int8,
            DataType::Int16 => Self::Int16,
            DataType::Int32 => Self::Int32,
            DataType::Int64 => Self::Int64,
            DataType::UInt8 => Self::UInt8,
            DataType::UInt16 => Self::UInt16,
            DataType::UInt32 => Self::UInt32,
            DataType::UInt64 => Self::UInt64,
            DataType::Float16 | DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s)
                if *s >= 0 && *p <= 38 =>
            {
                Self::Decimal(*p, *s as u8)
            }
            DataType::Decimal256(p, s) if *s >= 0 && *p <= 38 => Self::Decimal(*p, *s as u8),
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(..) => Self::Timestamp,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Self::String,
            DataType::Time32(_) | DataType::Time64(_) => Self::String,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Binary,
            DataType::FixedSizeList(item, n)
                if *item.data_type() == DataType::Float32
                    && (1..=i32::from(MAX_VECTOR_DIMENSION)).contains(n) =>
            {
                Self::Vector(*n as u16)
            }
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::FixedSizeList(item, _) => Self::Array(Box::new(Self::from_arrow_field(item)?)),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(kv) if kv.len() == 2 => Self::Map(
                    Box::new(Self::from_arrow_field(&kv[0])?),
                    Box::new(Self::from_arrow_field(&kv[1])?),
                ),
                other => return Err(Error::not_supported(format!("map entries of type {other}"))),
            },
            DataType::Struct(fields) => Self::Tuple(
                fields
                    .iter()
                    .map(|f| Ok((f.name().clone(), Self::from_arrow_field(f)?)))
                    .collect::<Result<_>>()?,
            ),
            DataType::Dictionary(_, value) => Self::from_arrow(value)?,
            other => return Err(Error::not_supported(format!("the Arrow type {other}"))),
        })
    }

    /// Whether values are numbers.
    pub fn is_numeric(&self) -> bool {
        self.is_integer() || matches!(self, Self::Float32 | Self::Float64 | Self::Decimal(..))
    }

    /// Whether values are integers.
    pub fn is_integer(&self) -> bool {
        matches!(
            self,
            Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::UInt8
                | Self::UInt16
                | Self::UInt32
                | Self::UInt64
        )
    }

    /// Parses the text of a type with all the aliases of the dialect, `NULL` and `NOT NULL` on
    /// inner types allowed and without effect.
    ///
    /// # Errors
    /// Invalid input that names what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = TypeParser { text, rest: text };
        let ty = parser.parse_type()?;
        parser.skip_space();
        if parser.rest.is_empty() {
            Ok(ty)
        } else {
            Err(Error::invalid(format!("unexpected '{}' after type {ty}", parser.rest.trim())))
        }
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::Int8 => f.write_str("TINYINT"),
            Self::Int16 => f.write_str("SMALLINT"),
            Self::Int32 => f.write_str("INT"),
            Self::Int64 => f.write_str("BIGINT"),
            Self::UInt8 => f.write_str("TINYINT UNSIGNED"),
            Self::UInt16 => f.write_str("SMALLINT UNSIGNED"),
            Self::UInt32 => f.write_str("INT UNSIGNED"),
            Self::UInt64 => f.write_str("BIGINT UNSIGNED"),
            Self::Float32 => f.write_str("FLOAT"),
            Self::Float64 => f.write_str("DOUBLE"),
            Self::Decimal(p, s) => write!(f, "DECIMAL({p}, {s})"),
            Self::Date => f.write_str("DATE"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::TimestampTz => f.write_str("TIMESTAMP_TZ"),
            Self::String => f.write_str("VARCHAR"),
            Self::Binary => f.write_str("BINARY"),
            Self::Array(t) => write!(f, "ARRAY({t})"),
            Self::Map(k, v) => write!(f, "MAP({k}, {v})"),
            Self::Tuple(fields) => {
                f.write_str("TUPLE(")?;
                for (i, (name, ty)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    if is_plain_identifier(name) {
                        write!(f, "{name} {ty}")?;
                    } else {
                        write!(f, "\"{}\" {ty}", name.replace('"', "\"\""))?;
                    }
                }
                f.write_str(")")
            }
            Self::Variant => f.write_str("VARIANT"),
            Self::Vector(n) => write!(f, "VECTOR({n})"),
        }
    }
}

impl Serialize for SqlType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SqlType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn is_plain_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct TypeParser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> TypeParser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) {
            Ok(())
        } else {
            Err(Error::invalid(format!("expected '{c}' in type '{}'", self.text)))
        }
    }

    fn word(&mut self) -> String {
        self.skip_space();
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn eat_word(&mut self, expected: &str) -> bool {
        let before = self.rest;
        if self.word().eq_ignore_ascii_case(expected) {
            true
        } else {
            self.rest = before;
            false
        }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T> {
        let word = self.word();
        word.parse()
            .map_err(|_| Error::invalid(format!("'{word}' is not a valid number in type '{}'", self.text)))
    }

    fn name(&mut self) -> Result<String> {
        self.skip_space();
        for quote in ['"', '`'] {
            if let Some(mut rest) = self.rest.strip_prefix(quote) {
                let mut name = String::new();
                loop {
                    let Some(end) = rest.find(quote) else {
                        return Err(Error::invalid(format!("unclosed {quote} in type '{}'", self.text)));
                    };
                    name.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    if !rest.starts_with(quote) {
                        break;
                    }
                    name.push(quote);
                    rest = &rest[1..];
                }
                self.rest = rest;
                return Ok(name);
            }
        }
        Ok(self.word())
    }

    fn parse_type(&mut self) -> Result<SqlType> {
        let word = self.word().to_ascii_uppercase();
        let ty = match word.as_str() {
            "BOOLEAN" | "BOOL" => SqlType::Boolean,
            "TINYINT" | "INT8" => self.maybe_unsigned(SqlType::Int8, SqlType::UInt8),
            "SMALLINT" | "INT16" => self.maybe_unsigned(SqlType::Int16, SqlType::UInt16),
            "INT" | "INTEGER" | "INT32" => self.maybe_unsigned(SqlType::Int32, SqlType::UInt32),
            "BIGINT" | "INT64" => self.maybe_unsigned(SqlType::Int64, SqlType::UInt64),
            "UINT8" => SqlType::UInt8,
            "UINT16" => SqlType::UInt16,
            "UINT32" => SqlType::UInt32,
            "UINT64" => SqlType::UInt64,
            "FLOAT" | "FLOAT32" | "REAL" => SqlType::Float32,
            "DOUBLE" | "FLOAT64" => {
                self.eat_word("PRECISION");
                SqlType::Float64
            }
            "DECIMAL" | "NUMERIC" => self.decimal()?,
            "DATE" => SqlType::Date,
            "TIMESTAMP" | "DATETIME" => {
                if self.eat('(') {
                    self.number::<u8>()?;
                    self.expect(')')?;
                }
                SqlType::Timestamp
            }
            "TIMESTAMP_TZ" => SqlType::TimestampTz,
            "STRING" | "VARCHAR" | "TEXT" | "CHAR" | "CHARACTER" => {
                if self.eat('(') {
                    self.number::<u64>()?;
                    self.expect(')')?;
                }
                SqlType::String
            }
            "BINARY" | "VARBINARY" | "BLOB" => {
                if self.eat('(') {
                    self.number::<u64>()?;
                    self.expect(')')?;
                }
                SqlType::Binary
            }
            "VARIANT" | "JSON" => SqlType::Variant,
            "ARRAY" => {
                self.expect('(')?;
                let element = self.parse_type()?;
                self.expect(')')?;
                SqlType::Array(Box::new(element))
            }
            "MAP" => {
                self.expect('(')?;
                let key = self.parse_type()?;
                self.expect(',')?;
                let value = self.parse_type()?;
                self.expect(')')?;
                SqlType::Map(Box::new(key), Box::new(value))
            }
            "TUPLE" => self.tuple()?,
            "VECTOR" => {
                self.expect('(')?;
                let n: u64 = self.number()?;
                self.expect(')')?;
                match u16::try_from(n) {
                    Ok(n) if (1..=MAX_VECTOR_DIMENSION).contains(&n) => SqlType::Vector(n),
                    _ => {
                        return Err(Error::invalid(format!(
                            "VECTOR({n}): the dimension must be from 1 to {MAX_VECTOR_DIMENSION}"
                        )));
                    }
                }
            }
            "" => return Err(Error::invalid(format!("expected a type in '{}'", self.text))),
            _ => {
                return Err(Error::invalid(format!("unknown type '{word}'")).hint(
                    "types are BOOLEAN, TINYINT … BIGINT [UNSIGNED], FLOAT, DOUBLE, DECIMAL(p, s), DATE, \
                     TIMESTAMP, TIMESTAMP_TZ, VARCHAR, BINARY, ARRAY(T), MAP(K, V), TUPLE(a T, …), VARIANT, VECTOR(n)",
                ));
            }
        };
        self.skip_space();
        if self.eat_word("NOT") {
            if !self.eat_word("NULL") {
                return Err(Error::invalid(format!("expected NULL after NOT in type '{}'", self.text)));
            }
        } else {
            self.eat_word("NULL");
        }
        Ok(ty)
    }

    fn maybe_unsigned(&mut self, signed: SqlType, unsigned: SqlType) -> SqlType {
        if self.eat_word("UNSIGNED") { unsigned } else { signed }
    }

    fn decimal(&mut self) -> Result<SqlType> {
        let (mut precision, mut scale) = (18u64, 3u64);
        if self.eat('(') {
            precision = self.number()?;
            scale = if self.eat(',') { self.number()? } else { 0 };
            self.expect(')')?;
        }
        if precision > 38 && precision <= 76 {
            return Err(Error::not_supported(format!(
                "DECIMAL({precision}, {scale}): Iceberg tables hold decimals of up to 38 digits"
            )));
        }
        if precision == 0 || precision > 38 || scale > precision {
            return Err(Error::invalid(format!(
                "DECIMAL({precision}, {scale}): the precision must be from 1 to 38, the scale at most the precision"
            )));
        }
        Ok(SqlType::Decimal(precision as u8, scale as u8))
    }

    fn tuple(&mut self) -> Result<SqlType> {
        self.expect('(')?;
        let mut fields: Vec<(String, SqlType)> = Vec::new();
        loop {
            let before = self.rest;
            // `TUPLE(a INT)` names its fields, `TUPLE(INT, INT)` numbers them from 1.
            let field = match self.parse_type() {
                Ok(ty)
                    if {
                        self.skip_space();
                        self.rest.starts_with([',', ')'])
                    } =>
                {
                    ((fields.len() + 1).to_string(), ty)
                }
                _ => {
                    self.rest = before;
                    let name = self.name()?;
                    (name, self.parse_type()?)
                }
            };
            if fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(&field.0)) {
                return Err(Error::invalid(format!("field '{}' stands twice in '{}'", field.0, self.text)));
            }
            fields.push(field);
            if !self.eat(',') {
                break;
            }
        }
        self.expect(')')?;
        Ok(SqlType::Tuple(fields))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_type_prints_what_it_parses() {
        for text in [
            "BOOLEAN",
            "TINYINT",
            "BIGINT UNSIGNED",
            "DECIMAL(10, 2)",
            "TIMESTAMP_TZ",
            "ARRAY(ARRAY(INT))",
            "MAP(VARCHAR, DOUBLE)",
            "TUPLE(a INT, \"b c\" VARIANT)",
            "VECTOR(4)",
            "TUPLE(1 INT, 2 VARCHAR)",
        ] {
            let ty = SqlType::parse(text).unwrap();
            assert_eq!(SqlType::parse(&ty.to_string()).unwrap(), ty, "{text}");
        }
        assert_eq!(SqlType::parse("int unsigned not null").unwrap(), SqlType::UInt32);
        assert_eq!(SqlType::parse("Array(String NULL)").unwrap(), SqlType::Array(Box::new(SqlType::String)));
    }

    #[test]
    fn a_wrong_type_is_named() {
        for (text, message) in [
            ("VECTOR(0)", "the dimension must be from 1 to 4096"),
            ("DECIMAL(50,2)", "not supported"),
            ("FLOATY", "unknown type 'FLOATY'"),
            ("ARRAY(INT", "expected ')'"),
        ] {
            let error = SqlType::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
