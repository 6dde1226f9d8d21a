//! CREATE STREAM.

use stevedore_common::{Error, Result};

use super::{Parser, read_object_ref};
use crate::ast::{CreateStream, Statement, StreamStart};
use crate::lexer::{Tok, Token};
use crate::query;

impl Parser<'_> {
    /// After CREATE [OR REPLACE] STREAM.
    pub(super) fn create_stream(&mut self, or_replace: bool) -> Result<Statement> {
        let mode = self.create_mode(or_replace)?;
        let stream = self.object_ref("the name of a stream")?;
        self.expect_kw("ON")?;
        if self.is_kw("VIEW") && self.peek_at(1).is_some() {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("CREATE STREAM … ON VIEW".into()));
        }
        self.expect_kw("TABLE")?;
        let table = self.object_ref("the name of a table")?;
        let (mut at, mut append_only, mut comment) = (None, None, None);
        while !self.at_end() {
            let token = self.peek();
            if self.is_kw("AT") {
                let start = self.stream_start()?;
                self.once(&mut at, start, "AT", token)?;
            } else if self.eat_kw("APPEND_ONLY") {
                self.expect_equals()?;
                let on = match (self.eat_kw("TRUE"), self.eat_kw("FALSE")) {
                    (true, _) => true,
                    (_, true) => false,
                    _ => return Err(self.expected("TRUE or FALSE")),
                };
                self.once(&mut append_only, on, "APPEND_ONLY", token)?;
            } else if self.eat_kw("COMMENT") {
                self.eat_sym("=");
                let text = self.string("a comment in quotes")?;
                self.once(&mut comment, text, "COMMENT", token)?;
            } else {
                return Err(self.expected("AT (…), APPEND_ONLY, COMMENT or the end of the statement"));
            }
        }
        let append_only = append_only.unwrap_or(true);
        Ok(Statement::CreateStream(Box::new(CreateStream { stream, mode, table, at, append_only, comment })))
    }

    /// `AT (TIMESTAMP => … | SNAPSHOT => '…' | STREAM => s)`.
    fn stream_start(&mut self) -> Result<StreamStart> {
        self.pos += 1;
        let open = self.peek();
        self.expect_sym("(")?;
        let inside = query::inside(self.rest(), "AT (…)", open)?;
        let [key, arrow, value @ ..] = inside else {
            return Err(self.expected("TIMESTAMP => …, SNAPSHOT => '…' or STREAM => <stream>"));
        };
        if !arrow.is_sym("=>") {
            return Err(self.expected_at("'=>'", Some(arrow)));
        }
        let start = if key.is_word("STREAM") {
            StreamStart::Stream(match value {
                [Token { tok: Tok::Str(name), .. }] => crate::parse_table_name(name).map_err(|_| {
                    self.at_token(Error::invalid("AT (STREAM => …) names no stream"), Some(key))
                })?,
                name => read_object_ref(self.text, name).map_err(|e| self.at_token(e, Some(key)))?,
            })
        } else {
            StreamStart::Table(query::time_travel(self.text, Some(key), value)?)
        };
        self.pos += inside.len();
        self.expect_sym(")")?;
        Ok(start)
    }
}
