//! COPY INTO.

use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{ColumnMatchMode, CopyInto, CopyOptions, CopySource, Statement, ValidationMode};
use crate::lexer::{Tok, Token};
use crate::query;

/// What COPY INTO turned out to be.
enum Copy {
    Table(Box<CopyInto>),
    Other(Statement),
}

impl<'a> Parser<'a> {
    pub(super) fn copy(&mut self) -> Result<Statement> {
        match self.copy_into(&mut None)? {
            Copy::Table(copy) => Ok(Statement::CopyIntoTable(copy)),
            Copy::Other(statement) => Ok(statement),
        }
    }

    /// EXPLAIN COPY INTO: reads on after an option that is wrong.
    pub(super) fn explain_copy(&mut self) -> Result<Statement> {
        let mut problems = Some(Vec::new());
        match self.copy_into(&mut problems)? {
            Copy::Table(copy) => Ok(Statement::ExplainCopy { copy, problems: problems.unwrap_or_default() }),
            Copy::Other(Statement::Unload(_)) => {
                Ok(Statement::NotSupportedYet("EXPLAIN of COPY INTO a location".into()))
            }
            Copy::Other(Statement::NotSupportedYet(what)) => {
                Ok(Statement::NotSupportedYet(format!("EXPLAIN of {what}")))
            }
            Copy::Other(statement) => Ok(statement),
        }
    }

    /// Where problems are collected, one of an option does not end the reading.
    fn copy_into(&mut self, problems: &mut Option<Vec<Error>>) -> Result<Copy> {
        self.pos += 1;
        self.expect_kw("INTO")?;
        if matches!(self.peek().map(|token| &token.tok), Some(Tok::At(_) | Tok::Str(_) | Tok::Uri(_))) {
            return Ok(Copy::Other(self.unload()?));
        }
        let table = self.object_ref("the name of a table")?;
        let columns = if self.is_sym("(") { Some(self.column_list()?) } else { None };
        self.expect_kw("FROM")?;
        let (mut files, mut pattern, mut file_format) = (None, None, None);
        let mut case_sensitive = false;
        let source = if self.is_sym("(") {
            let open = self.peek();
            let from = self.pos;
            self.skip_parentheses()?;
            let inside = self.tokens.get(from + 1..self.pos.saturating_sub(1)).unwrap_or(&[]);
            let (transform, stage) =
                query::analyze_transform(self.text, inside).map_err(|e| self.at_token(e, open))?;
            files = stage.files;
            pattern = stage.pattern;
            file_format = stage.file_format;
            case_sensitive = stage.case_sensitive;
            CopySource::Transform(Box::new(transform))
        } else {
            CopySource::Location(self.location("a stage (@stage/path), a URL in quotes, or (SELECT …)")?)
        };
        let options = CopyOptions::default();
        let mut copy =
            CopyInto { table, columns, source, files, pattern, file_format, options, validation: None };
        self.eat_sym(",");
        while !self.at_end() {
            let token = self.peek();
            let what =
                "FILES, PATTERN, FILE_FORMAT, a copy option (NAME = value) or the end of the statement";
            let option = self.option_name().ok_or_else(|| self.expected(what))?;
            self.pos += 1;
            self.expect_equals()?;
            let begin = self.pos;
            let read = self.copy_clause(&mut copy, &option, token);
            match (read, problems.as_mut()) {
                (Ok(()), _) => {}
                (Err(error), None) => return Err(error),
                (Err(error), Some(problems)) => {
                    problems.push(error);
                    self.pos = begin;
                    self.skip_to_option()?;
                }
            }
            self.eat_sym(",");
        }
        if case_sensitive && copy.options.column_match_mode.is_none() {
            copy.options.column_match_mode = Some(ColumnMatchMode::CaseSensitive);
        }
        if let (CopySource::Transform(transform), Some(columns)) = (&copy.source, &copy.columns)
            && let Some(count) = transform.expression_count().filter(|count| *count != columns.len())
        {
            let error = Error::invalid(format!(
                "the query has {count} expressions, the statement names {} columns of '{}'; \
                     they must be as many",
                columns.len(),
                copy.table
            ));
            match problems {
                Some(problems) => problems.push(error),
                None => return Err(error),
            }
        }
        Ok(Copy::Table(Box::new(copy)))
    }

    /// One clause or option, its `=` already read.
    fn copy_clause(&mut self, copy: &mut CopyInto, option: &str, token: Option<&'a Token>) -> Result<()> {
        match option {
            "FILES" => {
                let value = self.files()?;
                self.once(&mut copy.files, value, "FILES", token)
            }
            "PATTERN" => {
                let value = self.pattern()?;
                self.once(&mut copy.pattern, value, "PATTERN", token)
            }
            "FILE_FORMAT" => {
                let value = self.file_format()?;
                self.once(&mut copy.file_format, value, "FILE_FORMAT", token)
            }
            "VALIDATION_MODE" => {
                let value = self.validation_mode()?;
                self.once(&mut copy.validation, value, "VALIDATION_MODE", token)
            }
            "CONNECTION" => {
                let (spec, at) = self.connection_spec()?;
                match &mut copy.source {
                    CopySource::Location(location) => self.attach_connection(location, spec, at),
                    CopySource::Transform(transform) => {
                        self.attach_connection(&mut transform.location, spec, at)
                    }
                }
            }
            "COPY_OPTIONS" => {
                let more = self.copy_options()?;
                let given = copy.options.to_pairs();
                if given.iter().any(|(name, _)| more.to_pairs().iter().any(|(n, _)| n == name)) {
                    let error = Error::invalid("COPY_OPTIONS gives an option twice");
                    return Err(self.at_token(error, token));
                }
                copy.options = copy.options.or(&more);
                Ok(())
            }
            _ => self.copy_option(&mut copy.options, option, token),
        }
    }

    /// `RETURN_ERRORS`, `RETURN_ALL_ERRORS`, `RETURN_ROWS` or `RETURN_n_ROWS`.
    fn validation_mode(&mut self) -> Result<ValidationMode> {
        let token = self.peek();
        let (value, _) = self.option_value()?;
        let text = value.as_text("VALIDATION_MODE").map_err(|e| self.at_token(e, token))?;
        let upper = text.to_ascii_uppercase();
        let count = |rows: &str| match rows.parse::<u64>() {
            Ok(n) if n > 0 && rows.bytes().all(|b| b.is_ascii_digit()) => Some(n),
            _ => None,
        };
        let mode = match upper.as_str() {
            "RETURN_ERRORS" => Some(ValidationMode::ReturnErrors),
            "RETURN_ALL_ERRORS" => Some(ValidationMode::ReturnAllErrors),
            "RETURN_ROWS" => Some(ValidationMode::ReturnRows(None)),
            other => other
                .strip_prefix("RETURN_")
                .and_then(|rest| rest.strip_suffix("_ROWS"))
                .and_then(count)
                .map(|rows| ValidationMode::ReturnRows(Some(rows))),
        };
        mode.ok_or_else(|| {
            let error = Error::invalid(format!(
                "option VALIDATION_MODE is '{text}'; allowed: RETURN_ERRORS, RETURN_ALL_ERRORS, RETURN_ROWS, \
                 RETURN_n_ROWS with n from 1"
            ));
            self.at_token(error, token)
        })
    }

    /// To the next option outside of parentheses, or the end.
    fn skip_to_option(&mut self) -> Result<()> {
        while !self.at_end() {
            if self.is_sym("(") {
                self.skip_parentheses()?;
            } else if self.option_name().is_some() {
                return Ok(());
            } else {
                self.pos += 1;
            }
        }
        Ok(())
    }

    /// From a `(` past its `)`.
    pub(super) fn skip_parentheses(&mut self) -> Result<()> {
        let mut depth = 0usize;
        while let Some(token) = self.next() {
            if token.is_sym("(") {
                depth += 1;
            } else if token.is_sym(")") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            }
        }
        Err(self.expected("')'"))
    }
}
