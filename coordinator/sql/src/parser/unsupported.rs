//! What the dialect has and this build does not: recognised by its first words, answered by name.

use stevedore_common::Result;

use super::Parser;
use crate::ast::Statement;
use crate::lexer::Tok;

/// Kinds of objects that CREATE, ALTER and DROP may name.
const OBJECTS: &[&str] = &[
    "VIEW",
    "FUNCTION",
    "SEQUENCE",
    "USER",
    "ROLE",
    "PIPE",
    "INDEX",
    "CATALOG",
    "DICTIONARY",
    "TAG",
    "SHARE",
];

/// Kinds of objects that have a second word.
const LONG_OBJECTS: &[&[&str]] = &[
    &["MATERIALIZED", "VIEW"],
    &["AGGREGATING", "INDEX"],
    &["ASYNC", "AGGREGATING", "INDEX"],
    &["INVERTED", "INDEX"],
    &["NGRAM", "INDEX"],
    &["VECTOR", "INDEX"],
    &["VIRTUAL", "COLUMN"],
    &["EXTERNAL", "TABLE"],
    &["DYNAMIC", "TABLE"],
    &["PASSWORD", "POLICY"],
    &["NETWORK", "POLICY"],
    &["MASKING", "POLICY"],
    &["ROW", "ACCESS", "POLICY"],
    &["WORKLOAD", "GROUP"],
];

impl Parser<'_> {
    /// `CREATE VIEW …` and its like. `None`: the kind is unknown.
    pub(super) fn unsupported_object(&mut self, verb: &str, kind: &str) -> Option<Statement> {
        if kind == "PROCEDURE" {
            self.skip_rest();
            return Some(Statement::NotSupported(format!("{verb} PROCEDURE (stored procedures)")));
        }
        if kind == "WAREHOUSE" && self.rest().len() > 1 {
            self.skip_rest();
            return Some(Statement::NotSupported(format!(
                "{verb} WAREHOUSE: there is one for each group that workers name in their configuration, as in \
                 `stevedore worker --group NAME`"
            )));
        }
        for words in LONG_OBJECTS {
            if words.iter().enumerate().all(|(i, word)| self.is_kw_at(i, word)) {
                self.skip_rest();
                return Some(Statement::NotSupportedYet(format!("{verb} {}", words.join(" "))));
            }
        }
        let alters = verb == "ALTER" && matches!(kind, "DATABASE" | "SCHEMA" | "CONNECTION");
        if (OBJECTS.contains(&kind) || alters) && self.rest().len() > 1 {
            self.skip_rest();
            return Some(Statement::NotSupportedYet(format!("{verb} {kind}")));
        }
        None
    }

    /// A statement by its first word, in upper case.
    pub(super) fn unsupported(&mut self, word: &str) -> Result<Statement> {
        let more = self.rest().len() > 1;
        let second = |parser: &Self| match parser.peek_at(1).map(|token| &token.tok) {
            Some(Tok::Word(word)) => word.to_ascii_uppercase(),
            _ => String::new(),
        };
        let not_yet = match word {
            "GRANT" | "REVOKE" | "KILL" | "VACUUM" | "OPTIMIZE" | "ANALYZE" | "REFRESH" | "REPORT"
                if more =>
            {
                Some(word.to_owned())
            }
            "UNDROP" | "RENAME" | "EXCHANGE" | "EXECUTE" | "ATTACH" | "COMMENT" if more => {
                let second = second(self);
                if word == "EXECUTE" && second == "IMMEDIATE" {
                    self.skip_rest();
                    return Ok(Statement::NotSupported("EXECUTE IMMEDIATE (stored procedures)".into()));
                }
                Some(format!("{word} {second}"))
            }
            _ => None,
        };
        if let Some(what) = not_yet {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet(what.trim().to_owned()));
        }
        if word == "CALL" && more {
            self.skip_rest();
            return Ok(Statement::NotSupported("CALL (stored procedures)".into()));
        }
        Err(self.expected(
            "a statement (SELECT, COPY INTO, INSERT, CREATE, DROP, ALTER, SHOW, DESC, LIST, REMOVE, USE, SET, …)",
        ))
    }
}
