//! Options: `NAME = value` lists, with or without commas, and what FILE_FORMAT, CONNECTION,
//! PATTERN, FILES and the copy options mean.

use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};
use stevedore_common::secret::Secret;
use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{
    ColumnMatchMode, ConnectionRef, ConnectionSpec, CopyOptions, FileFormatRef, LocationRef, OnError,
    SchemaSample,
};
use crate::connection::{ConnectionOptions, StorageType};
use crate::lexer::{AtPath, Tok, Token, at_of_string};

/// The most files that MAX_FILES may ask for.
const MAX_MAX_FILES: u64 = 15_000;
/// The most files that SCHEMA_EVOLUTION may look at.
const MAX_SAMPLE_FILES: u64 = 10_000;
/// The most records.
const MAX_SAMPLE_RECORDS: u64 = 10_000_000;

/// What the copy options of a table are called.
const COPY_OPTIONS: &str = "ON_ERROR, FORCE, PURGE, MAX_FILES, RETURN_FAILED_ONLY, COLUMN_MATCH_MODE, \
                            DISABLE_VARIANT_CHECK, SCHEMA_EVOLUTION";

/// One `NAME = value`.
#[derive(Debug)]
pub(super) struct OptionPair<'a> {
    /// In upper case.
    pub(super) name: String,
    pub(super) value: OptionValue,
    /// Whether a value in quotes (`"…"`) names an object exactly.
    pub(super) exact: bool,
    pub(super) token: &'a Token,
}

impl<'a> Parser<'a> {
    /// The name of an option at the cursor, in upper case, when `=` or `=>` follows it.
    pub(super) fn option_name(&self) -> Option<String> {
        let Some(Tok::Word(name)) = self.peek().map(|token| &token.tok) else { return None };
        self.peek_at(1)
            .is_some_and(|token| token.is_sym("=") || token.is_sym("=>"))
            .then(|| name.to_ascii_uppercase())
    }

    /// Past `=` or `=>`.
    pub(super) fn expect_equals(&mut self) -> Result<()> {
        if self.eat_sym("=") || self.eat_sym("=>") { Ok(()) } else { Err(self.expected("'='")) }
    }

    /// A value: a string, a word (hyphens allowed inside), a number, or a list of strings.
    pub(super) fn option_value(&mut self) -> Result<(OptionValue, bool)> {
        let negative = self.is_sym("-") && matches!(self.peek_at(1).map(|t| &t.tok), Some(Tok::Number(_)));
        if negative {
            self.pos += 1;
        }
        let value = match self.peek().map(|token| &token.tok) {
            Some(Tok::Str(text)) => OptionValue::Text(text.clone()),
            Some(Tok::Quoted(text)) => {
                let text = text.clone();
                self.pos += 1;
                return Ok((OptionValue::Text(text), true));
            }
            Some(Tok::Number(text)) => {
                OptionValue::Word(format!("{}{text}", if negative { "-" } else { "" }))
            }
            Some(Tok::Word(text)) => {
                let mut word = text.clone();
                self.pos += 1;
                while self.is_sym("-") {
                    let Some(Tok::Word(part)) = self.peek_at(1).map(|token| &token.tok) else { break };
                    word = format!("{word}-{part}");
                    self.pos += 2;
                }
                // `skip_file_5%`
                if self.is_sym("%") {
                    self.pos += 1;
                    word.push('%');
                }
                return Ok((OptionValue::Word(word), false));
            }
            Some(Tok::Sym("(")) => return Ok((OptionValue::List(self.string_list()?), false)),
            _ => return Err(self.expected("a value")),
        };
        self.pos += 1;
        Ok((value, false))
    }

    /// `('a', 'b')`, also empty.
    pub(super) fn string_list(&mut self) -> Result<Vec<String>> {
        self.expect_sym("(")?;
        let mut list = Vec::new();
        if self.eat_sym(")") {
            return Ok(list);
        }
        loop {
            list.push(self.string("a string")?);
            if !self.eat_sym(",") {
                break;
            }
        }
        self.expect_sym(")")?;
        Ok(list)
    }

    /// `( NAME = value [,] … )`.
    pub(super) fn option_list(&mut self) -> Result<Vec<OptionPair<'a>>> {
        self.expect_sym("(")?;
        let pairs = self.open_option_list()?;
        self.expect_sym(")")?;
        Ok(pairs)
    }

    /// `NAME = value [,] …`, as far as it goes.
    pub(super) fn open_option_list(&mut self) -> Result<Vec<OptionPair<'a>>> {
        let mut pairs: Vec<OptionPair<'a>> = Vec::new();
        while let Some(token) = self.peek().filter(|token| !token.is_sym(")")) {
            let (Tok::Word(name) | Tok::Quoted(name)) = &token.tok else {
                return Err(self.expected("the name of an option"));
            };
            self.pos += 1;
            self.expect_equals()?;
            let (value, exact) = self.option_value()?;
            pairs.push(OptionPair { name: name.to_ascii_uppercase(), value, exact, token });
            if self.eat_sym(",") && (self.at_end() || self.is_sym(")")) {
                return Err(self.expected("the name of an option"));
            }
        }
        Ok(pairs)
    }

    /// Refuses an option that stands twice.
    pub(super) fn once<T>(
        &self,
        slot: &mut Option<T>,
        value: T,
        name: &str,
        token: Option<&Token>,
    ) -> Result<()> {
        if slot.is_some() {
            return Err(self.at_token(Error::invalid(format!("option {name} is given twice")), token));
        }
        *slot = Some(value);
        Ok(())
    }

    // --- FILE_FORMAT ------------------------------------------------------------------------------

    /// `(FORMAT_NAME = 'x')` or `(TYPE = … options)`.
    pub(super) fn file_format(&mut self) -> Result<FileFormatRef> {
        let open = self.peek();
        let pairs = self.option_list()?;
        if let Some(named) = pairs.iter().find(|pair| pair.name == "FORMAT_NAME") {
            if let Some(other) = pairs.iter().find(|pair| pair.name != "FORMAT_NAME") {
                let error =
                    Error::invalid(format!("options FORMAT_NAME and {} exclude each other", other.name));
                return Err(self.at_token(error, Some(other.token)));
            }
            if pairs.len() > 1 {
                return Err(self.at_token(Error::invalid("option FORMAT_NAME is given twice"), open));
            }
            let name = named.value.as_text("FORMAT_NAME").map_err(|e| self.at_token(e, Some(named.token)))?;
            return Ok(FileFormatRef::Named(if named.exact { name.to_owned() } else { name.to_lowercase() }));
        }
        Ok(FileFormatRef::Inline(Box::new(self.inline_file_format(&pairs, open)?)))
    }

    /// The format of `TYPE = … options`; an error points at the option that it names.
    pub(super) fn inline_file_format(
        &self,
        pairs: &[OptionPair<'a>],
        otherwise: Option<&Token>,
    ) -> Result<FileFormat> {
        let options: Vec<(String, OptionValue)> =
            pairs.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect();
        FileFormat::from_options(&options).map_err(|error| {
            let words: Vec<String> = error
                .message()
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .map(str::to_owned)
                .collect();
            // The last one, so that «given twice» points at the second.
            let culprit = pairs.iter().rev().find(|pair| words.contains(&pair.name));
            self.at_token(error, culprit.map(|pair| pair.token).or(otherwise))
        })
    }

    /// What FILE_FORMAT is in the parentheses after a location: a name, or as elsewhere.
    pub(super) fn file_format_argument(&mut self) -> Result<FileFormatRef> {
        match self.peek().map(|token| &token.tok) {
            Some(Tok::Sym("(")) => self.file_format(),
            Some(Tok::Quoted(name)) => {
                self.pos += 1;
                Ok(FileFormatRef::Named(name.clone()))
            }
            Some(Tok::Str(name) | Tok::Word(name)) => {
                self.pos += 1;
                Ok(FileFormatRef::Named(name.to_lowercase()))
            }
            _ => Err(self.expected("the name of a file format, or (TYPE = …)")),
        }
    }

    // --- CONNECTION -------------------------------------------------------------------------------

    /// `(CONNECTION_NAME = 'x')` or `(key = 'value' …)`, the storage type not known.
    pub(super) fn connection_spec(&mut self) -> Result<(ConnectionSpec, Option<&'a Token>)> {
        let open = self.peek();
        let pairs = self.option_list()?;
        if let Some(named) = pairs.iter().find(|pair| pair.name == "CONNECTION_NAME") {
            if let Some(other) = pairs.iter().find(|pair| pair.name != "CONNECTION_NAME") {
                let error =
                    Error::invalid(format!("options CONNECTION_NAME and {} exclude each other", other.name));
                return Err(self.at_token(error, Some(other.token)));
            }
            if pairs.len() > 1 {
                return Err(self.at_token(Error::invalid("option CONNECTION_NAME is given twice"), open));
            }
            let name =
                named.value.as_text("CONNECTION_NAME").map_err(|e| self.at_token(e, Some(named.token)))?;
            let name = if named.exact { name.to_owned() } else { name.to_lowercase() };
            return Ok((ConnectionSpec::Named(name), open));
        }
        Ok((ConnectionSpec::Inline(self.secret_pairs(&pairs)?), open))
    }

    pub(super) fn secret_pairs(&self, pairs: &[OptionPair<'a>]) -> Result<Vec<(String, Secret<String>)>> {
        pairs
            .iter()
            .map(|pair| {
                let value = pair.value.as_text(&pair.name).map_err(|e| self.at_token(e, Some(pair.token)))?;
                Ok((pair.name.clone(), Secret::new(value.to_owned())))
            })
            .collect()
    }

    /// The connection of a URI, or an error when the keys are not those of its storage type.
    pub(super) fn connection_of(
        &self,
        spec: ConnectionSpec,
        storage_type: StorageType,
        token: Option<&Token>,
    ) -> Result<ConnectionRef> {
        match spec {
            ConnectionSpec::Named(name) => Ok(ConnectionRef::Named { name, storage_type }),
            ConnectionSpec::Inline(pairs) => ConnectionOptions::from_pairs(storage_type, pairs)
                .map(ConnectionRef::Inline)
                .map_err(|e| self.at_token(e, token)),
        }
    }

    // --- locations --------------------------------------------------------------------------------

    /// `@stage/path`, `@~/path`, `'@stage/path'` or `'scheme://…'`, without a connection.
    pub(super) fn location(&mut self, what: &str) -> Result<LocationRef> {
        let token = self.peek();
        let location = match token.map(|token| &token.tok) {
            Some(Tok::At(at)) => self.stage_location(at, token)?,
            Some(Tok::Str(text)) => match at_of_string(text) {
                Some(at) => self.stage_location(&at, token)?,
                None => self.uri_location(text, token)?,
            },
            Some(Tok::Uri(text)) => self.uri_location(text, token)?,
            _ => return Err(self.expected(what)),
        };
        self.pos += 1;
        Ok(location)
    }

    fn stage_location(&self, at: &AtPath, token: Option<&Token>) -> Result<LocationRef> {
        let path = at.path.clone();
        if path.split('/').any(|segment| segment == "..") {
            return Err(self.at_token(Error::invalid("'..' is not allowed in a path"), token));
        }
        if path.contains('\0') {
            return Err(self.at_token(Error::invalid("a path holds a NUL character"), token));
        }
        if at.name == "~" && !at.quoted {
            return Ok(LocationRef::UserStage { path });
        }
        let name = if at.quoted { at.name.clone() } else { at.name.to_lowercase() };
        Ok(LocationRef::Stage { name, path })
    }

    fn uri_location(&self, text: &str, token: Option<&Token>) -> Result<LocationRef> {
        StorageType::of_uri(text).map_err(|e| self.at_token(e, token))?;
        Ok(LocationRef::Uri { url: text.to_owned(), connection: None })
    }

    /// Gives a location its CONNECTION.
    pub(super) fn attach_connection(
        &self,
        location: &mut LocationRef,
        spec: ConnectionSpec,
        token: Option<&Token>,
    ) -> Result<()> {
        match location {
            LocationRef::Uri { url, connection } => {
                if connection.is_some() {
                    return Err(self.at_token(Error::invalid("option CONNECTION is given twice"), token));
                }
                let storage_type = StorageType::of_uri(url).map_err(|e| self.at_token(e, token))?;
                *connection = Some(self.connection_of(spec, storage_type, token)?);
                Ok(())
            }
            LocationRef::Stage { .. } | LocationRef::UserStage { .. } => Err(self.at_token(
                Error::invalid(
                    "a stage has its own connection; CONNECTION goes with a 'scheme://…' location",
                ),
                token,
            )),
        }
    }

    // --- FILES and PATTERN ------------------------------------------------------------------------

    pub(super) fn pattern(&mut self) -> Result<String> {
        let token = self.peek();
        let pattern = self.string("a regular expression in quotes")?;
        crate::pattern::compile(&pattern).map_err(|e| self.at_token(e, token))?;
        Ok(pattern)
    }

    pub(super) fn files(&mut self) -> Result<Vec<String>> {
        let token = self.peek();
        let files = self.string_list()?;
        if files.is_empty() {
            return Err(self.at_token(Error::invalid("option FILES is an empty list"), token));
        }
        if let Some(file) = files.iter().find(|file| file.is_empty() || file.split('/').any(|s| s == "..")) {
            let error = Error::invalid(format!("option FILES holds '{file}', which is not a relative path"));
            return Err(self.at_token(error, token));
        }
        Ok(files)
    }

    // --- copy options -----------------------------------------------------------------------------

    /// Takes one copy option, its `=` already read.
    pub(super) fn copy_option(
        &mut self,
        options: &mut CopyOptions,
        name: &str,
        token: Option<&'a Token>,
    ) -> Result<()> {
        let unsupported = |error: Error| Err(self.at_token(error, token));
        match name {
            "SIZE_LIMIT" => {
                return unsupported(
                    Error::not_supported("the option SIZE_LIMIT")
                        .hint("MAX_FILES limits how much one statement loads"),
                );
            }
            "SPLIT_SIZE" => {
                return unsupported(
                    Error::not_supported("the option SPLIT_SIZE").hint("large files are split by themselves"),
                );
            }
            "VALIDATION_MODE" => {
                return unsupported(
                    Error::invalid("VALIDATION_MODE cannot be one of COPY_OPTIONS")
                        .hint("write it in the COPY INTO whose files are to be checked"),
                );
            }
            "SCHEMA_EVOLUTION" => {
                let sample = self.schema_sample()?;
                return self.once(&mut options.schema_evolution, sample, name, token);
            }
            "ON_CHANGE" => {
                return unsupported(Error::not_supported_yet(format!("the option {name} of COPY INTO")));
            }
            "ON_ERROR"
            | "FORCE"
            | "PURGE"
            | "MAX_FILES"
            | "RETURN_FAILED_ONLY"
            | "COLUMN_MATCH_MODE"
            | "DISABLE_VARIANT_CHECK" => {}
            other => {
                return unsupported(Error::invalid(format!("COPY INTO a table has no option {other}")).hint(
                    format!(
                        "allowed: FILES, PATTERN, FILE_FORMAT, CONNECTION, VALIDATION_MODE, {COPY_OPTIONS}"
                    ),
                ));
            }
        }
        let value_token = self.peek();
        let (value, _) = self.option_value()?;
        let wrong = |error: Error| self.at_token(error, value_token);
        match name {
            "ON_ERROR" => {
                let mode = on_error(value.as_text(name).map_err(wrong)?).map_err(wrong)?;
                self.once(&mut options.on_error, mode, name, token)
            }
            "FORCE" => self.once(&mut options.force, value.as_bool(name).map_err(wrong)?, name, token),
            "PURGE" => self.once(&mut options.purge, value.as_bool(name).map_err(wrong)?, name, token),
            "RETURN_FAILED_ONLY" => {
                self.once(&mut options.return_failed_only, value.as_bool(name).map_err(wrong)?, name, token)
            }
            "DISABLE_VARIANT_CHECK" => self.once(
                &mut options.disable_variant_check,
                value.as_bool(name).map_err(wrong)?,
                name,
                token,
            ),
            "MAX_FILES" => {
                let n = value.as_u64(name).map_err(wrong)?;
                if n == 0 || n > MAX_MAX_FILES {
                    return Err(wrong(Error::invalid(format!(
                        "option MAX_FILES is {n}; allowed: 1 to {MAX_MAX_FILES}"
                    ))));
                }
                self.once(&mut options.max_files, n as u32, name, token)
            }
            _ => {
                let text = value.as_text(name).map_err(wrong)?.to_ascii_uppercase().replace('-', "_");
                let mode = match text.as_str() {
                    "CASE_SENSITIVE" => ColumnMatchMode::CaseSensitive,
                    "CASE_INSENSITIVE" => ColumnMatchMode::CaseInsensitive,
                    other => {
                        return Err(wrong(Error::invalid(format!(
                            "option COLUMN_MATCH_MODE is '{other}'; allowed: CASE_SENSITIVE, CASE_INSENSITIVE"
                        ))));
                    }
                };
                self.once(&mut options.column_match_mode, mode, name, token)
            }
        }
    }

    /// `(SAMPLE_FILES = n | AUTO, …)` of SCHEMA_EVOLUTION.
    fn schema_sample(&mut self) -> Result<SchemaSample> {
        let mut sample = SchemaSample::default();
        let mut seen: Vec<String> = Vec::new();
        for OptionPair { name, value, token, .. } in self.option_list()? {
            let wrong = |error: Error| self.at_token(error, Some(token));
            let most = match name.as_str() {
                "SAMPLE_FILES" => MAX_SAMPLE_FILES,
                "SAMPLE_RECORDS_PER_FILE" | "SAMPLE_TOTAL_RECORDS" => MAX_SAMPLE_RECORDS,
                _ => {
                    return Err(wrong(
                        Error::invalid(format!("SCHEMA_EVOLUTION has no option {name}"))
                            .hint("allowed: SAMPLE_FILES, SAMPLE_RECORDS_PER_FILE, SAMPLE_TOTAL_RECORDS"),
                    ));
                }
            };
            if seen.contains(&name) {
                return Err(wrong(Error::invalid(format!("option {name} is given twice"))));
            }
            let is_auto = value.as_text(&name).is_ok_and(|text| text.eq_ignore_ascii_case("AUTO"));
            let number = match is_auto {
                true => None,
                false => {
                    Some(value.as_u64(&name).ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| {
                        let text = value.as_text(&name).unwrap_or("a list");
                        wrong(Error::invalid(format!(
                            "option {name} is '{text}'; allowed: AUTO, 1 to {most}"
                        )))
                    })?)
                }
            };
            match name.as_str() {
                "SAMPLE_FILES" => sample.files = number.and_then(|n| u32::try_from(n).ok()),
                "SAMPLE_RECORDS_PER_FILE" => sample.records_per_file = number,
                _ => sample.total_records = number,
            }
            seen.push(name);
        }
        Ok(sample)
    }

    /// `COPY_OPTIONS = ( … )`, the `=` already read.
    pub(super) fn copy_options(&mut self) -> Result<CopyOptions> {
        let mut options = CopyOptions::default();
        self.expect_sym("(")?;
        while !self.is_sym(")") {
            let token = self.peek();
            let name = self.name("the name of an option")?.text.to_ascii_uppercase();
            self.expect_equals()?;
            self.copy_option(&mut options, &name, token)?;
            self.eat_sym(",");
        }
        self.expect_sym(")")?;
        Ok(options)
    }
}

/// ON_ERROR in any case.
fn on_error(text: &str) -> Result<OnError> {
    let lower = text.to_ascii_lowercase();
    let wrong = || {
        Error::invalid(format!(
            "option ON_ERROR is '{text}'; allowed: abort, abort_N, continue, skip_file, skip_file_N, skip_file_N%, \
             with N from 1, N % from 0 to 100"
        ))
    };
    let count = |digits: &str| -> Result<u64> {
        match digits.parse::<u64>() {
            Ok(n) if n > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(wrong()),
        }
    };
    match lower.as_str() {
        "abort" => Ok(OnError::Abort),
        "continue" => Ok(OnError::Continue),
        "skip_file" => Ok(OnError::SkipFile),
        _ => {
            if let Some(digits) = lower.strip_prefix("abort_") {
                return count(digits).map(OnError::AbortAfter);
            }
            let rest = lower.strip_prefix("skip_file_").ok_or_else(wrong)?;
            match rest.strip_suffix('%') {
                Some(digits) => match digits.parse::<u8>() {
                    Ok(n) if n <= 100 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                        Ok(OnError::SkipFilePercent(n))
                    }
                    _ => Err(wrong()),
                },
                None => count(rest).map(OnError::SkipFileCount),
            }
        }
    }
}

impl Parser<'_> {
    // --- connections and file formats as objects --------------------------------------------------

    /// CREATE CONNECTION, after these words.
    pub(super) fn create_connection(&mut self, or_replace: bool) -> Result<crate::ast::Statement> {
        let mode = self.create_mode(or_replace)?;
        let name_token = self.peek();
        let name = self.object_name("the name of a connection")?;
        let in_parentheses = self.eat_sym("(");
        let pairs = self.open_option_list()?;
        if in_parentheses {
            self.expect_sym(")")?;
        }
        let mut storage_type = None;
        for pair in pairs.iter().filter(|pair| pair.name == "STORAGE_TYPE") {
            let parsed = pair.value.as_text("STORAGE_TYPE").and_then(StorageType::parse);
            let parsed = parsed.map_err(|e| self.at_token(e, Some(pair.token)))?;
            self.once(&mut storage_type, parsed, "STORAGE_TYPE", Some(pair.token))?;
        }
        let Some(storage_type) = storage_type else {
            let error = Error::invalid("a connection needs STORAGE_TYPE = '…'")
                .hint("allowed: s3, azblob, gcs, oss, cos, hf, ipfs, https, fs");
            return Err(self.at_token(error, name_token));
        };
        let mut keys = Vec::new();
        for pair in pairs.iter().filter(|pair| pair.name != "STORAGE_TYPE") {
            keys.extend(self.secret_pairs(std::slice::from_ref(pair))?);
            // One key at a time more, so that an error points at the key that brought it.
            ConnectionOptions::of_keys(storage_type, keys.iter().cloned())
                .map_err(|e| self.at_token(e, Some(pair.token)))?;
        }
        let options =
            ConnectionOptions::from_pairs(storage_type, keys).map_err(|e| self.at_token(e, name_token))?;
        Ok(crate::ast::Statement::CreateConnection { name, mode, options })
    }

    /// CREATE FILE FORMAT, after these words.
    pub(super) fn create_file_format(&mut self, or_replace: bool) -> Result<crate::ast::Statement> {
        let mode = self.create_mode(or_replace)?;
        let token = self.peek();
        let name = self.object_name("the name of a file format")?;
        if FormatKind::parse("TYPE", &name).is_ok() {
            let error = Error::invalid(format!("'{name}' is the name of a built-in file format"));
            return Err(self.at_token(error, token));
        }
        self.eat_sym("=");
        let in_parentheses = self.eat_sym("(");
        let pairs = self.open_option_list()?;
        if in_parentheses {
            self.expect_sym(")")?;
        }
        let format = Box::new(self.inline_file_format(&pairs, token)?);
        Ok(crate::ast::Statement::CreateFileFormat { name, mode, format })
    }
}
