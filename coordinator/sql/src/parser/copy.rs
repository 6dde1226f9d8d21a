//! COPY INTO.

use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{ColumnMatchMode, CopyInto, CopyOptions, CopySource, Statement};
use crate::lexer::Tok;
use crate::query;

impl Parser<'_> {
    pub(super) fn copy(&mut self) -> Result<Statement> {
        self.pos += 1;
        self.expect_kw("INTO")?;
        if matches!(self.peek().map(|token| &token.tok), Some(Tok::At(_) | Tok::Str(_) | Tok::Uri(_))) {
            return self.unload();
        }
        let table = self.object_ref("the name of a table")?;
        let columns = if self.is_sym("(") { Some(self.column_list()?) } else { None };
        self.expect_kw("FROM")?;
        let (mut files, mut pattern, mut file_format) = (None, None, None);
        let mut case_sensitive = false;
        let mut source = if self.is_sym("(") {
            let open = self.peek();
            let from = self.pos;
            self.skip_parentheses()?;
            let inside = self.tokens.get(from + 1..self.pos.saturating_sub(1)).unwrap_or(&[]);
            match query::analyze_transform(self.text, inside).map_err(|e| self.at_token(e, open))? {
                query::TransformOutcome::Transform(transform, stage) => {
                    files = stage.files;
                    pattern = stage.pattern;
                    file_format = stage.file_format;
                    case_sensitive = stage.case_sensitive;
                    CopySource::Transform(transform)
                }
                query::TransformOutcome::NotSupportedYet(what) => {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet(what));
                }
            }
        } else {
            CopySource::Location(self.location("a stage (@stage/path), a URL in quotes, or (SELECT …)")?)
        };
        let mut options = CopyOptions::default();
        self.eat_sym(",");
        while !self.at_end() {
            let token = self.peek();
            let what =
                "FILES, PATTERN, FILE_FORMAT, a copy option (NAME = value) or the end of the statement";
            let option = self.option_name().ok_or_else(|| self.expected(what))?;
            self.pos += 1;
            self.expect_equals()?;
            match option.as_str() {
                "FILES" => {
                    let value = self.files()?;
                    self.once(&mut files, value, "FILES", token)?;
                }
                "PATTERN" => {
                    let value = self.pattern()?;
                    self.once(&mut pattern, value, "PATTERN", token)?;
                }
                "FILE_FORMAT" => {
                    let value = self.file_format()?;
                    self.once(&mut file_format, value, "FILE_FORMAT", token)?;
                }
                "CONNECTION" => {
                    let (spec, at) = self.connection_spec()?;
                    match &mut source {
                        CopySource::Location(location) => self.attach_connection(location, spec, at)?,
                        CopySource::Transform(transform) => {
                            self.attach_connection(&mut transform.location, spec, at)?;
                        }
                    }
                }
                "COPY_OPTIONS" => {
                    let more = self.copy_options()?;
                    if options
                        .to_pairs()
                        .iter()
                        .any(|(name, _)| more.to_pairs().iter().any(|(n, _)| n == name))
                    {
                        let error = Error::invalid("COPY_OPTIONS gives an option twice");
                        return Err(self.at_token(error, token));
                    }
                    options = options.or(&more);
                }
                _ => self.copy_option(&mut options, &option, token)?,
            }
            self.eat_sym(",");
        }
        if case_sensitive && options.column_match_mode.is_none() {
            options.column_match_mode = Some(ColumnMatchMode::CaseSensitive);
        }
        if let (CopySource::Transform(transform), Some(columns)) = (&source, &columns)
            && let Some(count) = transform.expression_count().filter(|count| *count != columns.len())
        {
            return Err(Error::invalid(format!(
                "the query has {count} expressions, the statement names {} columns of '{table}'; \
                     they must be as many",
                columns.len()
            )));
        }
        Ok(Statement::CopyIntoTable(Box::new(CopyInto {
            table,
            columns,
            source,
            files,
            pattern,
            file_format,
            options,
        })))
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
