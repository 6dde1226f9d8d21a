//! BEGIN, COMMIT and ROLLBACK of a transaction.

use stevedore_common::Result;

use super::Parser;
use crate::ast::{Statement, TransactionControl};

impl Parser<'_> {
    /// `BEGIN`, `START TRANSACTION`, `COMMIT`, `ROLLBACK`, each with [TRANSACTION | WORK] but for START; by its first
    /// word, in upper case.
    pub(super) fn transaction(&mut self, word: &str) -> Result<Statement> {
        self.pos += 1;
        let control = match word {
            "COMMIT" => TransactionControl::Commit,
            "ROLLBACK" => TransactionControl::RollBack,
            _ => TransactionControl::Begin,
        };
        let named = self.eat_kw("TRANSACTION") || (word != "START" && self.eat_kw("WORK"));
        if !named && word == "START" {
            return Err(self.expected("TRANSACTION"));
        }
        if control == TransactionControl::RollBack && self.is_kw("TO") {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("ROLLBACK TO (savepoints)".to_owned()));
        }
        Ok(Statement::Transaction(control))
    }
}
