//! BEGIN, COMMIT and ROLLBACK of a transaction.

use stevedore_common::Result;

use super::Parser;
use crate::ast::{Statement, TransactionControl};

impl Parser<'_> {
    /// `BEGIN [TRANSACTION]`, `START TRANSACTION`, `COMMIT`, `ROLLBACK`; by its first word, in upper case.
    pub(super) fn transaction(&mut self, word: &str) -> Result<Statement> {
        self.pos += 1;
        let control = match word {
            "COMMIT" => TransactionControl::Commit,
            "ROLLBACK" => TransactionControl::RollBack,
            _ => TransactionControl::Begin,
        };
        if !self.eat_kw("TRANSACTION") && word == "START" {
            return Err(self.expected("TRANSACTION"));
        }
        if control == TransactionControl::RollBack && self.is_kw("TO") {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("ROLLBACK TO (savepoints)".to_owned()));
        }
        Ok(Statement::Transaction(control))
    }
}
