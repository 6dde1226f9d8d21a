//! The texts that a scheduled task keeps, as what is to be run.

use stevedore_common::Result;

use crate::lexer::tokenize;
use crate::script;

/// The statements of a task's body: one, or those of `BEGIN …; … END`.
///
/// # Errors
/// Invalid input, for a text that CREATE TASK would not have taken.
pub fn statements(body: &str) -> Result<Vec<String>> {
    let tokens = tokenize(body).map_err(|failed| failed.error)?;
    Ok(script::body_statements(&tokens)
        .into_iter()
        .map(|piece| script::text_of(body, piece).to_owned())
        .collect())
}

/// The query that says whether a condition holds: its one row has one column.
pub fn condition_query(condition: &str) -> String {
    format!("SELECT CAST((\n{condition}\n) AS BOOLEAN) AS holds")
}
