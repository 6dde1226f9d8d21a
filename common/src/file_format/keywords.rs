//! The values of options: as they stand in a statement, and the keywords that they may be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The value of an option as it stands in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptionValue {
    /// A string literal, already unescaped.
    Text(String),
    /// A bare word or number, as written.
    Word(String),
    /// A parenthesised list of string literals.
    List(Vec<String>),
}

impl OptionValue {
    /// The value as text.
    ///
    /// # Errors
    /// Names the option.
    pub fn as_text(&self, option: &str) -> Result<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Ok(text),
            Self::List(_) => Err(Error::invalid(format!("option {option} takes one value, not a list"))),
        }
    }

    /// The value as a boolean: `TRUE`/`FALSE` in any case, quoted or not.
    ///
    /// # Errors
    /// Names the option.
    pub fn as_bool(&self, option: &str) -> Result<bool> {
        match self.as_text(option)?.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(Error::invalid(format!("option {option} is '{other}'; allowed: TRUE, FALSE"))),
        }
    }

    /// The value as a whole number from 0.
    ///
    /// # Errors
    /// Names the option.
    pub fn as_u64(&self, option: &str) -> Result<u64> {
        let text = self.as_text(option)?;
        text.parse().map_err(|_| {
            Error::invalid(format!("option {option} is '{text}'; a whole number from 0 is expected"))
        })
    }
}

macro_rules! keyword_enums {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// The keyword as printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Reads the keyword in any case.
            ///
            /// # Errors
            /// Names the option and lists what is allowed.
            pub fn parse(option: &str, text: &str) -> Result<Self> {
                let upper = text.to_ascii_uppercase();
                match upper.as_str() {
                    $($text $(| $alias)* => Ok(Self::$variant),)*
                    _ => Err(Error::invalid(format!(
                        "option {option} is '{text}'; allowed: {}", [$($text),*].join(", ")
                    ))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    )*};
}

keyword_enums! {
    /// The format family.
    FormatKind {
        /// Comma-separated values (RFC 4180 and its relatives).
        Csv = "CSV",
        /// Tab-separated values with backslash escapes.
        Tsv = "TSV" | "TEXT",
        /// One JSON object a line.
        Ndjson = "NDJSON",
        /// JSON objects: the elements of an array, or one after the other; they may span lines.
        Json = "JSON",
        /// Apache Parquet.
        Parquet = "PARQUET",
        /// Apache ORC.
        Orc = "ORC",
        /// Apache Avro object container files.
        Avro = "AVRO",
        /// Arrow IPC files (Feather version 2).
        Arrow = "ARROW",
        /// Arrow IPC streams.
        ArrowStream = "ARROW_STREAM",
    }
    /// How the bytes of a file are compressed.
    Compression {
        /// By the file's extension.
        Auto = "AUTO",
        /// Not at all.
        None = "NONE",
        /// gzip (RFC 1952), concatenated members too.
        Gzip = "GZIP" | "GZ",
        /// bzip2.
        Bz2 = "BZ2" | "BZIP2",
        /// Brotli (RFC 7932).
        Brotli = "BROTLI" | "BR",
        /// Zstandard (RFC 8878).
        Zstd = "ZSTD" | "ZST",
        /// zlib (RFC 1950).
        Deflate = "DEFLATE" | "ZLIB",
        /// raw deflate (RFC 1951).
        RawDeflate = "RAW_DEFLATE",
        /// xz.
        Xz = "XZ",
        /// A zip archive that holds one file.
        Zip = "ZIP",
    }
    /// EMPTY_FIELD_AS and QUOTED_EMPTY_FIELD_AS.
    EmptyFieldAs {
        /// NULL.
        Null = "NULL",
        /// '' for strings, NULL for others.
        String = "STRING",
        /// The column's default.
        FieldDefault = "FIELD_DEFAULT",
    }
    /// NULL_FIELD_AS.
    NullFieldAs {
        /// NULL.
        Null = "NULL",
        /// The column's default.
        FieldDefault = "FIELD_DEFAULT",
    }
    /// MISSING_FIELD_AS.
    MissingFieldAs {
        /// An error of the row (NDJSON) or the file.
        Error = "ERROR",
        /// NULL (NDJSON only).
        Null = "NULL",
        /// The column's default.
        FieldDefault = "FIELD_DEFAULT",
    }
    /// BINARY_FORMAT.
    BinaryFormat {
        /// Hexadecimal digits.
        Hex = "HEX",
        /// base64 (RFC 4648, standard alphabet).
        Base64 = "BASE64",
    }
    /// ENCODING_ERROR_MODE.
    EncodingErrorMode {
        /// A byte sequence that is not valid is an error.
        Strict = "STRICT",
        /// It becomes U+FFFD.
        Replace = "REPLACE",
    }
    /// QUOTE_STYLE (unload only).
    QuoteStyle {
        /// Where needed.
        Necessary = "NECESSARY",
        /// Everywhere.
        Always = "ALWAYS",
        /// Everywhere but on numbers.
        NonNumeric = "NON_NUMERIC",
        /// Nowhere.
        Never = "NEVER",
    }
}

impl Compression {
    /// The codec that AUTO means for a path.
    pub fn of_path(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.rsplit_once('.').map_or(Self::None, |(_, extension)| Self::of_extension(extension))
    }

    /// The codec that an extension (without its dot) stands for.
    pub fn of_extension(extension: &str) -> Self {
        match extension.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Self::Gzip,
            "bz2" => Self::Bz2,
            "br" => Self::Brotli,
            "zst" | "zstd" => Self::Zstd,
            "xz" => Self::Xz,
            "zl" => Self::Deflate,
            "deflate" => Self::RawDeflate,
            "zip" => Self::Zip,
            _ => Self::None,
        }
    }

    /// The extension of files that are written with this codec, without its dot.
    pub fn extension(self) -> Option<&'static str> {
        Some(match self {
            Self::Auto | Self::None => return None,
            Self::Gzip => "gz",
            Self::Bz2 => "bz2",
            Self::Brotli => "br",
            Self::Zstd => "zst",
            Self::Xz => "xz",
            Self::Deflate => "zl",
            Self::RawDeflate => "deflate",
            Self::Zip => "zip",
        })
    }

    /// The codec for a path: AUTO resolved.
    pub fn resolve(self, path: &str) -> Self {
        if self == Self::Auto { Self::of_path(path) } else { self }
    }
}
