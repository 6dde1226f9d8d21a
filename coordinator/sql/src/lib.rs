//! The SQL of the dialect: text in, checked statements out.
//!
//! Owns: tokens and string literals, the grammar, the options of every statement, the analysis of
//! queries and their rendering for a worker's engine, the masking of secrets in texts.
//! Comes in: the text of a statement. Goes out: a [`ast::Statement`], or an error that points into the
//! text and says what was expected. Holds no catalog state and does no I/O: names are bound to objects
//! by the coordinator. Bad input never panics: length, nesting and chains are limited.

pub mod ast;
pub mod connection;
mod lexer;
mod mask;
mod parser;
pub mod pattern;
mod query;
pub mod render;
pub mod script;
pub mod task;

pub use ast::Statement;
pub use mask::mask_secrets;

use stevedore_common::Result;

/// The longest statement, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;

/// Parses one statement; a trailing `;` is allowed.
///
/// # Errors
/// Invalid input with a position; «not supported» for options that are recognised but not built.
pub fn parse(sql: &str) -> Result<Statement> {
    script::parse_one(sql)
}

/// Parses statements separated by `;`, each with its own text.
///
/// # Errors
/// As [`parse`], with positions in the whole text.
pub fn parse_script(sql: &str) -> Result<Vec<(String, Statement)>> {
    script::parse_all(sql)
}

/// Reads the name of a table from the argument of a function: `[database.]name`, normalised.
///
/// # Errors
/// Invalid input for anything else.
pub fn parse_table_name(text: &str) -> Result<ast::ObjectRef> {
    let tokens = lexer::tokenize(text).map_err(|e| e.error)?;
    parser::read_object_ref(text, &tokens)
}
