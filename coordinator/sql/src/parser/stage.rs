//! Stages, LIST, REMOVE, PRESIGN, PUT, GET, and locations inside queries.

use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{
    AlterStage, CopyOptions, CreateStage, GetFiles, ListFiles, LocationRef, PresignFile, PutFiles,
    StageSource, Statement,
};
use crate::connection::StorageType;
use crate::lexer::{Tok, Token};

const STAGE_OPTIONS: &str = "URL, CONNECTION, FILE_FORMAT, COPY_OPTIONS, COMMENT";

/// EXPIRE of PRESIGN where the statement does not say, and at most, seconds.
const DEFAULT_PRESIGN: u32 = 3600;
const LONGEST_PRESIGN: u32 = 7 * 24 * 3600;

/// Reads `location [( NAME => value, … )]` at the start of the tokens of a query; gives how many it took.
pub(crate) fn read_stage_source(text: &str, tokens: &[Token]) -> Result<(StageSource, usize)> {
    let mut parser = Parser { text, tokens, pos: 0 };
    let source = parser.stage_source()?;
    Ok((source, parser.pos))
}

impl<'a> Parser<'a> {
    fn stage_source(&mut self) -> Result<StageSource> {
        let location = self.location("a location")?;
        let mut source = StageSource {
            location,
            file_format: None,
            pattern: None,
            files: None,
            case_sensitive: false,
            positions: Vec::new(),
        };
        let is_options = self.is_sym("(")
            && (self.peek_at(1).is_some_and(|token| token.is_sym(")"))
                || self.peek_at(2).is_some_and(|token| token.is_sym("=>") || token.is_sym("=")));
        if !is_options {
            return Ok(source);
        }
        self.pos += 1;
        let mut case_sensitive = None;
        while !self.is_sym(")") {
            let token = self.peek();
            let name = self.name("the name of an option")?.text.to_ascii_uppercase();
            self.expect_equals()?;
            match name.as_str() {
                "FILE_FORMAT" => {
                    let format = self.file_format_argument()?;
                    self.once(&mut source.file_format, format, &name, token)?;
                }
                "PATTERN" => {
                    let pattern = self.pattern()?;
                    self.once(&mut source.pattern, pattern, &name, token)?;
                }
                "FILES" => {
                    let files = self.files()?;
                    self.once(&mut source.files, files, &name, token)?;
                }
                "CONNECTION" => {
                    let (spec, at) = self.connection_spec()?;
                    self.attach_connection(&mut source.location, spec, at)?;
                }
                "CASE_SENSITIVE" => {
                    let value = self.option_value()?.0;
                    let value = value.as_bool(&name).map_err(|e| self.at_token(e, token))?;
                    self.once(&mut case_sensitive, value, &name, token)?;
                }
                other => {
                    let error = Error::invalid(format!("a location in a query has no option {other}"))
                        .hint("allowed: FILE_FORMAT, PATTERN, FILES, CONNECTION, CASE_SENSITIVE");
                    return Err(self.at_token(error, token));
                }
            }
            if !self.eat_sym(",") && !self.is_sym(")") {
                return Err(self.expected("',' or ')'"));
            }
        }
        self.pos += 1;
        source.case_sensitive = case_sensitive.unwrap_or(false);
        Ok(source)
    }

    /// A folder's URL: bucket and `fs` URLs need the trailing slash.
    fn stage_url(&mut self) -> Result<String> {
        let token = self.peek();
        let url = match token.map(|token| &token.tok) {
            Some(Tok::Str(url) | Tok::Uri(url)) => url.clone(),
            _ => return Err(self.expected("a URL in quotes, as in 's3://bucket/path/'")),
        };
        let wrong = |error: Error| Err(self.at_token(error, token));
        let storage_type = match StorageType::of_uri(&url) {
            Ok(storage_type) => storage_type,
            Err(error) => return wrong(error),
        };
        if url.split('/').any(|segment| segment == "..") {
            return wrong(Error::invalid(format!("'..' is not allowed in the URL '{url}'")));
        }
        if storage_type != StorageType::Https && !url.ends_with('/') {
            return wrong(
                Error::invalid(format!("the URL '{url}' of a stage must name a folder"))
                    .hint(format!("write '{url}/'")),
            );
        }
        self.pos += 1;
        Ok(url)
    }

    pub(super) fn create_stage(&mut self, or_replace: bool) -> Result<Statement> {
        let mode = self.create_mode(or_replace)?;
        let name_token = self.peek();
        let name = self.object_name("the name of a stage")?;
        if name.is_empty() || name == "~" || name.contains('/') {
            return Err(
                self.at_token(Error::invalid("a stage's name holds no '/' and is not '~'"), name_token)
            );
        }
        let mut url = None;
        let (mut connection, mut file_format, mut copy_options, mut comment) = (None, None, None, None);
        if matches!(self.peek().map(|token| &token.tok), Some(Tok::Str(_) | Tok::Uri(_))) {
            url = Some(self.stage_url()?);
        }
        while !self.at_end() {
            let token = self.peek();
            let option = self.option_name().ok_or_else(|| self.expected(STAGE_OPTIONS))?;
            self.pos += 1;
            self.expect_equals()?;
            match option.as_str() {
                "URL" => {
                    let value = self.stage_url()?;
                    self.once(&mut url, value, "URL", token)?;
                }
                "CONNECTION" => {
                    let spec = self.connection_spec()?;
                    self.once(&mut connection, spec, "CONNECTION", token)?;
                }
                "FILE_FORMAT" => {
                    let format = self.file_format()?;
                    self.once(&mut file_format, format, "FILE_FORMAT", token)?;
                }
                "COPY_OPTIONS" => {
                    let options = self.copy_options()?;
                    self.once(&mut copy_options, options, "COPY_OPTIONS", token)?;
                }
                "COMMENT" => {
                    let text = self.string("a comment in quotes")?;
                    self.once(&mut comment, text, "COMMENT", token)?;
                }
                "CREDENTIALS" | "ENCRYPTION" => {
                    let error = Error::invalid(format!("a stage has no option {option}"))
                        .hint(format!("credentials go into CONNECTION = (…); allowed: {STAGE_OPTIONS}"));
                    return Err(self.at_token(error, token));
                }
                other => {
                    let error = Error::invalid(format!("a stage has no option {other}"))
                        .hint(format!("allowed: {STAGE_OPTIONS}"));
                    return Err(self.at_token(error, token));
                }
            }
            self.eat_sym(",");
        }
        let mut location = url.map(|url| LocationRef::Uri { url, connection: None });
        if let Some((spec, token)) = connection {
            match &mut location {
                Some(location) => self.attach_connection(location, spec, token)?,
                None => {
                    let error = Error::invalid("CONNECTION needs a URL: without one the stage is internal");
                    return Err(self.at_token(error, token));
                }
            }
        }
        Ok(Statement::CreateStage(Box::new(CreateStage {
            name,
            mode,
            location,
            file_format,
            copy_options: copy_options.unwrap_or_else(CopyOptions::default),
            comment,
        })))
    }

    /// After ALTER STAGE.
    pub(super) fn alter_stage(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.object_name("the name of a stage")?;
        let mut alter = AlterStage {
            name,
            if_exists,
            url: None,
            connection: None,
            file_format: None,
            copy_options: None,
            comment: None,
            unset_file_format: false,
            unset_comment: false,
        };
        if self.eat_kw("UNSET") {
            let in_parentheses = self.eat_sym("(");
            loop {
                let token = self.peek();
                match self.name("FILE_FORMAT or COMMENT")?.text.to_ascii_uppercase().as_str() {
                    "FILE_FORMAT" => alter.unset_file_format = true,
                    "COMMENT" => alter.unset_comment = true,
                    _ => return Err(self.expected_at("FILE_FORMAT or COMMENT", token)),
                }
                if !self.eat_sym(",") && (self.at_end() || self.is_sym(")")) {
                    break;
                }
            }
            if in_parentheses {
                self.expect_sym(")")?;
            }
            return Ok(Statement::AlterStage(Box::new(alter)));
        }
        if !self.eat_kw("SET") {
            return Err(self.expected("SET or UNSET"));
        }
        loop {
            let token = self.peek();
            let option = self.option_name().ok_or_else(|| self.expected(STAGE_OPTIONS))?;
            self.pos += 1;
            self.expect_equals()?;
            match option.as_str() {
                "URL" => {
                    let url = self.stage_url()?;
                    self.once(&mut alter.url, url, "URL", token)?;
                }
                "CONNECTION" => {
                    let (spec, _) = self.connection_spec()?;
                    self.once(&mut alter.connection, spec, "CONNECTION", token)?;
                }
                "FILE_FORMAT" => {
                    let format = self.file_format()?;
                    self.once(&mut alter.file_format, format, "FILE_FORMAT", token)?;
                }
                "COPY_OPTIONS" => {
                    let options = self.copy_options()?;
                    self.once(&mut alter.copy_options, options, "COPY_OPTIONS", token)?;
                }
                "COMMENT" => {
                    let text = self.string("a comment in quotes")?;
                    self.once(&mut alter.comment, text, "COMMENT", token)?;
                }
                other => {
                    let error = Error::invalid(format!("a stage has no option {other}"))
                        .hint(format!("allowed: {STAGE_OPTIONS}"));
                    return Err(self.at_token(error, token));
                }
            }
            self.eat_sym(",");
            if self.at_end() {
                return Ok(Statement::AlterStage(Box::new(alter)));
            }
        }
    }

    /// The options that a statement ends with, `NAME = value` each. `take` is called at the value; it answers false for
    /// an option that the statement does not have.
    fn options_to_end(
        &mut self,
        statement: &str,
        expected: &str,
        allowed: &str,
        mut take: impl FnMut(&mut Self, &str, Option<&Token>) -> Result<bool>,
    ) -> Result<()> {
        while !self.at_end() {
            let token = self.peek();
            let option = self.option_name().ok_or_else(|| self.expected(expected))?;
            self.pos += 1;
            self.expect_equals()?;
            if !take(self, &option, token)? {
                let error = Error::invalid(format!("{statement} has no option {option}"));
                return Err(self.at_token(error.hint(format!("allowed: {allowed}")), token));
            }
            self.eat_sym(",");
        }
        Ok(())
    }

    /// After LIST or REMOVE.
    pub(super) fn list_files(&mut self, verb: &str) -> Result<ListFiles> {
        let token = self.peek();
        let mut location = self.location("a stage, as in @stage/path")?;
        if verb == "REMOVE" && matches!(location, LocationRef::Uri { .. }) {
            return Err(self.expected_at("a stage, as in @stage/path", token));
        }
        let mut pattern = None;
        self.options_to_end(verb, "PATTERN = '…'", "PATTERN", |parser, option, token| {
            match option {
                "PATTERN" => {
                    let value = parser.pattern()?;
                    parser.once(&mut pattern, value, "PATTERN", token)?;
                }
                "CONNECTION" => {
                    let (spec, at) = parser.connection_spec()?;
                    parser.attach_connection(&mut location, spec, at)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(ListFiles { location, pattern })
    }

    /// `fs:///…`, in quotes or not.
    fn local_path(&mut self) -> Result<String> {
        let token = self.peek();
        let local = match token.map(|token| &token.tok) {
            Some(Tok::Str(text) | Tok::Uri(text)) => text.clone(),
            _ => return Err(self.expected("a local path, as in fs:///folder/*.csv")),
        };
        if !local.to_ascii_lowercase().starts_with("fs://")
            && !local.to_ascii_lowercase().starts_with("file://")
        {
            let error =
                Error::invalid(format!("'{local}' is not a local path")).hint("write fs:///folder/file");
            return Err(self.at_token(error, token));
        }
        self.pos += 1;
        Ok(local)
    }

    fn stage_of_transfer(&mut self) -> Result<LocationRef> {
        let token = self.peek();
        let location = self.location("a stage, as in @stage/path")?;
        if matches!(location, LocationRef::Uri { .. }) {
            return Err(self.expected_at("a stage, as in @stage/path", token));
        }
        Ok(location)
    }

    pub(super) fn presign(&mut self) -> Result<Statement> {
        self.pos += 1;
        let upload = self.eat_kw("UPLOAD");
        if !upload {
            self.eat_kw("DOWNLOAD");
        }
        let location = self.stage_of_transfer()?;
        let (mut expire, mut content_type) = (None, None);
        let allowed = "EXPIRE, and CONTENT_TYPE for UPLOAD";
        self.options_to_end("PRESIGN", "EXPIRE = seconds", allowed, |parser, option, token| {
            match option {
                "EXPIRE" => {
                    let at = parser.peek();
                    let seconds: u32 = parser.number("a number of seconds")?;
                    if !(1..=LONGEST_PRESIGN).contains(&seconds) {
                        let error = Error::invalid(format!("EXPIRE is {seconds}"))
                            .hint(format!("allowed: 1 to {LONGEST_PRESIGN} seconds (a week)"));
                        return Err(parser.at_token(error, at));
                    }
                    parser.once(&mut expire, seconds, "EXPIRE", token)?;
                }
                "CONTENT_TYPE" if upload => {
                    let value = parser.string("a media type in quotes, as in 'text/csv'")?;
                    parser.once(&mut content_type, value, "CONTENT_TYPE", token)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Statement::Presign(PresignFile {
            location,
            upload,
            expire_seconds: expire.unwrap_or(DEFAULT_PRESIGN),
            content_type,
        }))
    }

    pub(super) fn put(&mut self) -> Result<Statement> {
        self.pos += 1;
        let local = self.local_path()?;
        let location = self.stage_of_transfer()?;
        let (mut auto_compress, mut parallel) = (None, None);
        let (expected, allowed) = ("PARALLEL or AUTO_COMPRESS", "PARALLEL, AUTO_COMPRESS");
        self.options_to_end("PUT", expected, allowed, |parser, option, token| {
            let value = parser.option_value()?.0;
            match option {
                "AUTO_COMPRESS" => {
                    let value = value.as_bool(option).map_err(|e| parser.at_token(e, token))?;
                    parser.once(&mut auto_compress, value, "AUTO_COMPRESS", token)?;
                }
                "PARALLEL" => {
                    let value = parser.parallel(&value, token)?;
                    parser.once(&mut parallel, value, "PARALLEL", token)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Statement::Put(PutFiles {
            local,
            location,
            auto_compress: auto_compress.unwrap_or(false),
            parallel,
        }))
    }

    pub(super) fn get(&mut self) -> Result<Statement> {
        self.pos += 1;
        let location = self.stage_of_transfer()?;
        let local = self.local_path()?;
        let (mut pattern, mut parallel) = (None, None);
        let (expected, allowed) = ("PARALLEL or PATTERN", "PARALLEL, PATTERN");
        self.options_to_end("GET", expected, allowed, |parser, option, token| {
            match option {
                "PATTERN" => {
                    let value = parser.pattern()?;
                    parser.once(&mut pattern, value, "PATTERN", token)?;
                }
                "PARALLEL" => {
                    let value = parser.option_value()?.0;
                    let value = parser.parallel(&value, token)?;
                    parser.once(&mut parallel, value, "PARALLEL", token)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Statement::Get(GetFiles { location, local, pattern, parallel }))
    }

    fn parallel(
        &self,
        value: &stevedore_common::file_format::OptionValue,
        token: Option<&Token>,
    ) -> Result<u32> {
        let n = value.as_u64("PARALLEL").map_err(|e| self.at_token(e, token))?;
        match u32::try_from(n) {
            Ok(n) if (1..=99).contains(&n) => Ok(n),
            _ => {
                Err(self.at_token(Error::invalid(format!("option PARALLEL is {n}; allowed: 1 to 99")), token))
            }
        }
    }
}
