//! COPY INTO a stage or location.

use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{AnalyzedQuery, Statement, Unload};
use crate::lexer::{Token, tokenize};
use crate::query;

const OPTIONS: &str = "FILE_FORMAT, PARTITION BY, SINGLE, MAX_FILE_SIZE, OVERWRITE, INCLUDE_QUERY_ID, USE_RAW_PATH, \
                       DETAILED_OUTPUT, CONNECTION";
/// MAX_FILE_SIZE where the statement does not say, bytes.
const DEFAULT_FILE_SIZE: u64 = 64 << 20;

/// The rows as they stand in the statement.
enum Rows<'a> {
    Table(String),
    Query(&'a [Token]),
}

impl Parser<'_> {
    /// After COPY INTO.
    pub(super) fn unload(&mut self) -> Result<Statement> {
        let mut location = self.location("a location")?;
        while !self.is_kw("FROM") {
            let token = self.peek();
            match self.option_name().as_deref() {
                Some("CONNECTION") => {
                    self.pos += 1;
                    self.expect_equals()?;
                    let (spec, at) = self.connection_spec()?;
                    self.attach_connection(&mut location, spec, at)?;
                    self.eat_sym(",");
                }
                _ => return Err(self.expected_at("FROM", token)),
            }
        }
        self.pos += 1;
        let from = self.peek();
        let rows = if self.is_sym("(") {
            let start = self.pos;
            self.skip_parentheses()?;
            Rows::Query(self.tokens.get(start + 1..self.pos.saturating_sub(1)).unwrap_or(&[]))
        } else {
            let table = self.object_ref("the name of a table, or (SELECT …)")?;
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let database = table.database.iter().map(|database| format!("{}.", quoted(database)));
            Rows::Table(format!("{}{}", database.collect::<String>(), quoted(&table.name)))
        };
        let (mut file_format, mut partition) = (None, None);
        let (mut single, mut max_file_size, mut overwrite) = (None, None, None);
        let (mut include_query_id, mut use_raw_path, mut detailed_output) = (None, None, None);
        self.eat_sym(",");
        while !self.at_end() {
            let token = self.peek();
            if self.eat_kws(&["PARTITION", "BY"]) {
                let start = self.pos;
                if !self.is_sym("(") {
                    return Err(self.expected("'('"));
                }
                self.skip_parentheses()?;
                let inside = self.tokens.get(start + 1..self.pos.saturating_sub(1)).unwrap_or(&[]);
                let text = self.text_of(inside);
                if text.is_empty() {
                    return Err(self.at_token(Error::invalid("PARTITION BY is empty"), token));
                }
                self.once(&mut partition, text, "PARTITION BY", token)?;
                self.eat_sym(",");
                continue;
            }
            let option = self.option_name().ok_or_else(|| self.expected(OPTIONS))?;
            self.pos += 1;
            self.expect_equals()?;
            let flag = |parser: &mut Self| {
                let value = parser.option_value()?.0;
                value.as_bool(&option).map_err(|e| parser.at_token(e, token))
            };
            match option.as_str() {
                "FILE_FORMAT" => {
                    let format = self.file_format()?;
                    self.once(&mut file_format, format, "FILE_FORMAT", token)?;
                }
                "CONNECTION" => {
                    let (spec, at) = self.connection_spec()?;
                    self.attach_connection(&mut location, spec, at)?;
                }
                "SINGLE" => {
                    let value = flag(self)?;
                    self.once(&mut single, value, "SINGLE", token)?;
                }
                "MAX_FILE_SIZE" => {
                    let value = self.option_value()?.0;
                    let value = value.as_u64(&option).map_err(|e| self.at_token(e, token))?;
                    if value == 0 {
                        return Err(self.at_token(
                            Error::invalid("MAX_FILE_SIZE is 0; at least 1 byte is expected"),
                            token,
                        ));
                    }
                    self.once(&mut max_file_size, value, "MAX_FILE_SIZE", token)?;
                }
                "OVERWRITE" => {
                    let value = flag(self)?;
                    self.once(&mut overwrite, value, "OVERWRITE", token)?;
                }
                "INCLUDE_QUERY_ID" => {
                    let value = flag(self)?;
                    self.once(&mut include_query_id, value, "INCLUDE_QUERY_ID", token)?;
                }
                "USE_RAW_PATH" => {
                    let value = flag(self)?;
                    self.once(&mut use_raw_path, value, "USE_RAW_PATH", token)?;
                }
                "DETAILED_OUTPUT" => {
                    let value = flag(self)?;
                    self.once(&mut detailed_output, value, "DETAILED_OUTPUT", token)?;
                }
                "VALIDATION_MODE" => {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet("VALIDATION_MODE of COPY INTO a location".into()));
                }
                other => {
                    let error = Error::invalid(format!("COPY INTO a location has no option {other}"))
                        .hint(format!("allowed: {OPTIONS}"));
                    return Err(self.at_token(error, token));
                }
            }
            self.eat_sym(",");
        }
        let query = self.unloaded_query(&rows, partition.as_deref(), from)?;
        let unload = Unload {
            location,
            query,
            partitioned: partition.is_some(),
            file_format,
            single: single.unwrap_or(false),
            max_file_size: max_file_size.unwrap_or(DEFAULT_FILE_SIZE),
            overwrite: overwrite.unwrap_or(false),
            include_query_id: include_query_id.unwrap_or(true),
            use_raw_path: use_raw_path.unwrap_or(false),
            detailed_output: detailed_output.unwrap_or(false),
        };
        check(&unload, max_file_size.is_some())?;
        Ok(Statement::Unload(Box::new(unload)))
    }

    fn text_of(&self, tokens: &[Token]) -> String {
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => self.text.get(first.start..last.end).unwrap_or_default().to_owned(),
            _ => String::new(),
        }
    }

    fn unloaded_query(
        &self,
        rows: &Rows<'_>,
        partition: Option<&str>,
        from: Option<&Token>,
    ) -> Result<AnalyzedQuery> {
        let source = match rows {
            Rows::Table(name) => name.clone(),
            Rows::Query(tokens) => {
                // The user's own text first: what is wrong with it is told at its place.
                let query =
                    query::analyze_statement(self.text, tokens).map_err(|e| self.at_token(e, from))?;
                match partition {
                    None => return Ok(query),
                    Some(_) if query.parameters > 0 => {
                        return Err(Error::not_supported_yet(
                            "parameters together with PARTITION BY in COPY INTO a location",
                        ));
                    }
                    Some(_) => format!("({}) AS \"unloaded rows\"", self.text_of(tokens)),
                }
            }
        };
        let text = match partition {
            Some(expression) => format!("SELECT *, ({expression}) AS \"partition path\" FROM {source}"),
            None => format!("SELECT * FROM {source}"),
        };
        let made = |e: Error| Error::new(e.kind(), e.message().to_owned()).context("PARTITION BY");
        let tokens = tokenize(&text).map_err(|e| made(e.error))?;
        query::analyze_statement(&text, &tokens).map_err(|e| self.at_token(made(e), from))
    }
}

/// Options that contradict each other.
fn check(unload: &Unload, sized: bool) -> Result<()> {
    let wrong = |what: &str, hint: &str| Err(Error::invalid(what).hint(hint));
    if unload.single && sized {
        return wrong("SINGLE = true and MAX_FILE_SIZE exclude each other", "leave one of them out");
    }
    if unload.single && unload.partitioned {
        return wrong("SINGLE = true and PARTITION BY exclude each other", "leave one of them out");
    }
    if unload.use_raw_path && !unload.single {
        return wrong(
            "USE_RAW_PATH = true names one file, so it needs SINGLE = true",
            "add SINGLE = true, or leave USE_RAW_PATH out",
        );
    }
    if unload.overwrite && unload.include_query_id && !unload.use_raw_path {
        return wrong(
            "OVERWRITE = true has nothing to overwrite: names with the query's id are always new",
            "add INCLUDE_QUERY_ID = false, or USE_RAW_PATH = true",
        );
    }
    Ok(())
}
