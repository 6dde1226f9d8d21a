//! Texts with several statements.
//!
//! Owns: where one statement ends and the next begins, and whether what a shell has read so far is
//! complete. A `;` ends a statement, except inside the BEGIN … END of a task.

use stevedore_common::error::Position;
use stevedore_common::{Error, Result};

use crate::MAX_STATEMENT_BYTES;
use crate::ast::Statement;
use crate::lexer::{LexError, Tok, Token, tokenize};
use crate::parser::parse_statement;

/// Whether a text that a shell has read can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// Nothing but white space and comments.
    Empty,
    /// The last statement, a string, a name or a comment goes on.
    Incomplete,
    /// It ends with `;`, or holds a mistake that more text cannot mend.
    Complete,
}

/// Whether a text that a shell has read can be run.
pub fn completeness(text: &str) -> Completeness {
    match tokenize(text) {
        Ok(tokens) if tokens.is_empty() => Completeness::Empty,
        Ok(tokens) => match split(&tokens).last() {
            Some((_, ended)) if !ended => Completeness::Incomplete,
            _ => Completeness::Complete,
        },
        Err(failed) if failed.unterminated => Completeness::Incomplete,
        Err(_) if text.trim_end().ends_with(';') => Completeness::Complete,
        Err(_) => Completeness::Incomplete,
    }
}

/// The texts of the statements, without their `;`. Statements need not be right, only tokens.
///
/// # Errors
/// Invalid input, with a position, for a string, name or comment that is not closed, or a stray character.
pub fn split_script(text: &str) -> Result<Vec<String>> {
    let tokens = tokenize(text).map_err(|failed| failed.error)?;
    Ok(split(&tokens).into_iter().map(|(piece, _)| text_of(text, piece).to_owned()).collect())
}

/// As [`split_script`], each with the place where it begins in the text.
///
/// # Errors
/// As [`split_script`].
pub fn split_script_with_places(text: &str) -> Result<Vec<(Position, String)>> {
    let tokens = tokenize(text).map_err(|failed| failed.error)?;
    let place = |piece: &[Token]| {
        piece.first().map_or(Position { line: 1, column: 1 }, |token| Position {
            line: token.line,
            column: token.column,
        })
    };
    Ok(split(&tokens).into_iter().map(|(piece, _)| (place(piece), text_of(text, piece).to_owned())).collect())
}

/// Where a name first stands in the text of a statement: as a name, a stage, or a string that names an
/// object. A place where it is only given to something (`… AS name`) comes last.
pub fn place_of_name(text: &str, name: &str) -> Option<Position> {
    let tokens = tokenize(text).ok()?;
    let rank = |index: usize, token: &Token| {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        let given = index.checked_sub(1).and_then(|i| tokens.get(i)).is_some_and(|t| t.is_word("AS"));
        match &token.tok {
            Tok::Word(text) | Tok::Quoted(text) if same(text) => Some(u8::from(given) * 2),
            Tok::At(at) if same(&at.name) => Some(0),
            Tok::Dollar(n) if name.strip_prefix('$').is_some_and(|rest| rest == n.to_string()) => Some(0),
            Tok::Str(text) if same(text) => Some(1),
            _ => None,
        }
    };
    let ranked = tokens.iter().enumerate().filter_map(|(i, token)| Some((rank(i, token)?, i, token)));
    let (_, _, found) = ranked.min_by_key(|(rank, i, _)| (*rank, *i))?;
    Some(Position { line: found.line, column: found.column })
}

pub(crate) fn parse_one(text: &str) -> Result<Statement> {
    check_length(text.len(), 1, 1)?;
    let tokens = tokenize(text).map_err(|failed: Box<LexError>| failed.error)?;
    let pieces = split(&tokens);
    match pieces.as_slice() {
        [] => Err(Error::invalid("the statement is empty").at(1, 1)),
        [(only, _)] => with_stack(|| parse_statement(text, only)),
        [(first, _), (second, _), ..] => {
            // Where the first is wrong itself, what follows its ';' is seldom what was meant.
            with_stack(|| parse_statement(text, first))?;
            let error = Error::invalid("expected one statement, found a second one after ';'");
            Err(match second.first() {
                Some(token) => error.at(token.line, token.column),
                None => error,
            })
        }
    }
}

pub(crate) fn parse_all(text: &str) -> Result<Vec<(String, Statement)>> {
    let tokens = tokenize(text).map_err(|failed| failed.error)?;
    split(&tokens)
        .into_iter()
        .map(|(piece, _)| {
            let own = text_of(text, piece);
            let (line, column) = piece.first().map_or((1, 1), |token| (token.line, token.column));
            check_length(own.len(), line, column)?;
            Ok((own.to_owned(), with_stack(|| parse_statement(text, piece))?))
        })
        .collect()
}

/// The stack that one statement may need: the query parser library recurses, with large frames in
/// unoptimised builds, and printing and dropping its trees do too.
const STACK_BYTES: usize = 64 << 20;

/// Runs the parsing of one statement where there is stack for the deepest that the limits allow.
fn with_stack<T>(parse: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_BYTES / 2, STACK_BYTES, parse)
}

fn check_length(bytes: usize, line: u32, column: u32) -> Result<()> {
    if bytes > MAX_STATEMENT_BYTES {
        return Err(Error::exhausted(format!(
            "the statement has {bytes} bytes; at most {MAX_STATEMENT_BYTES} are allowed"
        ))
        .hint("put large data into files and load them with COPY INTO")
        .at(line, column));
    }
    Ok(())
}

pub(crate) fn text_of<'a>(text: &'a str, tokens: &[Token]) -> &'a str {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => text.get(first.start..last.end).unwrap_or(""),
        _ => "",
    }
}

/// Cuts tokens at `;`; empty statements are left out. Says of each whether a `;` ended it.
fn split(tokens: &[Token]) -> Vec<(&[Token], bool)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut blocks = Blocks::default();
    for (i, token) in tokens.iter().enumerate() {
        if token.is_sym(";") && !blocks.open() {
            if let Some(piece) = tokens.get(start..i).filter(|piece| !piece.is_empty()) {
                pieces.push((piece, true));
            }
            start = i + 1;
            blocks = Blocks::default();
        } else {
            blocks.see(i - start, token, tokens.get(i + 1));
        }
    }
    if let Some(piece) = tokens.get(start..).filter(|piece| !piece.is_empty()) {
        pieces.push((piece, false));
    }
    pieces
}

/// Statements of procedural languages, which scripts of tasks do not have.
const PROCEDURAL: &[&str] = &[
    "IF",
    "FOR",
    "WHILE",
    "LOOP",
    "REPEAT",
    "CASE",
    "DECLARE",
    "LET",
    "RETURN",
    "EXCEPTION",
    "OPEN",
    "FETCH",
    "CLOSE",
    "BREAK",
    "CONTINUE",
];
/// What `END …` ends, beside blocks.
const ENDED: &[&str] = &["IF", "FOR", "WHILE", "LOOP", "REPEAT"];

/// BEGIN, unless it is that of a transaction: `BEGIN;`, `BEGIN TRANSACTION`, `BEGIN WORK`.
fn begins_block(token: &Token, next: Option<&Token>) -> bool {
    let of_transaction =
        |next: &Token| next.is_sym(";") || next.is_word("TRANSACTION") || next.is_word("WORK");
    token.is_word("BEGIN") && !next.is_some_and(of_transaction)
}

/// What a statement of a task is that no script has: its word.
pub(crate) fn procedural(piece: &[Token]) -> Option<&'static str> {
    let first = piece.first()?;
    if piece.len() > 1 && begins_block(first, piece.get(1)) {
        return Some("BEGIN … END");
    }
    PROCEDURAL.iter().find(|word| first.is_word(word)).copied()
}

/// The statements of a task: what stands in its BEGIN … END, or the one that it is.
pub(crate) fn body_statements(tokens: &[Token]) -> Vec<&[Token]> {
    let is_block = tokens.first().is_some_and(|first| begins_block(first, tokens.get(1)))
        && tokens.last().is_some_and(|last| last.is_word("END"));
    if !is_block {
        return vec![tokens];
    }
    let inner = tokens.get(1..tokens.len() - 1).unwrap_or(&[]);
    inner.split(|token| token.is_sym(";")).filter(|piece| !piece.is_empty()).collect()
}

/// BEGIN … END and CASE … END inside the statement of a task.
#[derive(Default)]
struct Blocks {
    /// The statement is CREATE TASK or ALTER TASK.
    task: bool,
    depth: usize,
    /// Between `AS DECLARE` and its BEGIN.
    declares: bool,
    /// The token before was AS.
    after_as: bool,
    /// The token before was END.
    after_end: bool,
}

impl Blocks {
    fn open(&self) -> bool {
        self.depth > 0 || self.declares
    }

    fn see(&mut self, index: usize, token: &Token, next: Option<&Token>) {
        // CREATE [OR REPLACE] TASK, ALTER TASK
        if index <= 3 && token.is_word("TASK") {
            self.task = true;
        }
        if !self.task {
            return;
        }
        let case = token.is_word("CASE") && !self.after_end;
        if begins_block(token, next) || (self.depth > 0 && case) {
            self.depth += 1;
            self.declares = false;
        } else if self.depth == 0 && self.after_as && token.is_word("DECLARE") {
            self.declares = true;
        } else if token.is_word("END")
            && !next.is_some_and(|next| ENDED.iter().any(|word| next.is_word(word)))
        {
            self.depth = self.depth.saturating_sub(1);
        }
        self.after_as = token.is_word("AS");
        self.after_end = token.is_word("END");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_script_is_cut_at_semicolons_outside_of_strings_comments_and_task_blocks() {
        let script = "SELECT ';'; -- a; b\nSHOW TABLES;;\n CREATE TASK t AS BEGIN INSERT INTO a VALUES (CASE WHEN 1 = 1 \
                      THEN 1 END); SELECT 2; END;\nSELECT 3";
        let pieces = split_script(script).unwrap();
        assert_eq!(pieces.len(), 4, "{pieces:?}");
        assert_eq!(pieces[0], "SELECT ';'");
        assert_eq!(pieces[1], "SHOW TABLES");
        assert!(pieces[2].starts_with("CREATE TASK") && pieces[2].ends_with("SELECT 2; END"));
        assert_eq!(pieces[3], "SELECT 3");
        let parsed = parse_all(script).unwrap();
        assert!(matches!(&parsed[2].1, Statement::CreateTask(create) if create.name == "t"));
    }

    #[test]
    fn errors_of_a_script_point_into_the_whole_text() {
        let error = parse_all("SELECT 1;\nSELECT 2;\n  DROP TABL t").unwrap_err();
        let position = error.position().unwrap();
        assert_eq!((position.line, position.column), (3, 8));
    }

    #[test]
    fn a_shell_knows_when_to_go_on_reading() {
        for (text, expected) in [
            ("", Completeness::Empty),
            ("  -- nothing\n", Completeness::Empty),
            ("SELECT 1", Completeness::Incomplete),
            ("SELECT 1;", Completeness::Complete),
            ("SELECT 1; -- done", Completeness::Complete),
            ("SELECT 1; SELECT", Completeness::Incomplete),
            ("SELECT ';", Completeness::Incomplete),
            ("SELECT 1 /* ;", Completeness::Incomplete),
            ("CREATE TASK t AS BEGIN SELECT 1;", Completeness::Incomplete),
            ("CREATE TASK t AS BEGIN SELECT 1; END;", Completeness::Complete),
            ("CREATE TASK t AS BEGIN BEGIN; SELECT 1; COMMIT; END;", Completeness::Complete),
            ("CREATE TASK t AS BEGIN IF (1 = 1) THEN SELECT 1;", Completeness::Incomplete),
            ("CREATE TASK t AS BEGIN IF (1 = 1) THEN SELECT 1; END IF;", Completeness::Incomplete),
            ("CREATE TASK t AS BEGIN IF (1 = 1) THEN SELECT 1; END IF; END;", Completeness::Complete),
            ("CREATE TASK t AS BEGIN CASE 1 WHEN 1 THEN SELECT 1; END CASE; END;", Completeness::Complete),
            ("CREATE TASK t AS DECLARE x INT;", Completeness::Incomplete),
            ("CREATE TASK t AS DECLARE x INT; BEGIN SELECT 1; END;", Completeness::Complete),
            ("CREATE TASK t AS BEGIN BEGIN WORK; SELECT 1; COMMIT WORK; END;", Completeness::Complete),
            ("SELECT 1abc;", Completeness::Complete),
        ] {
            assert_eq!(completeness(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_found_where_it_is_used() {
        let place = |text: &str, name: &str| place_of_name(text, name).map(|p| (p.line, p.column));
        assert_eq!(place("SELECT a AS x,\n  x + 1 FROM t", "x"), Some((2, 3)));
        assert_eq!(place("SELECT 'x', X FROM t", "x"), Some((1, 13)));
        assert_eq!(place("COPY INTO t FROM @landing/a/", "landing"), Some((1, 18)));
        assert_eq!(place("SELECT $1, $2 FROM @s (FILE_FORMAT => 'f')", "f"), Some((1, 39)));
        assert_eq!(place("SELECT $1, $12, $2 FROM @s", "$2"), Some((1, 17)));
        assert_eq!(place("SELECT 1", "y"), None);
    }

    #[test]
    fn one_statement_means_one() {
        assert!(parse_one("SELECT 1;;").is_ok());
        let error = parse_one("SELECT 1; SELECT 2").unwrap_err();
        assert_eq!(error.position().unwrap().column, 11);
        assert!(parse_one(" ; ").unwrap_err().to_string().contains("empty"));
        let long = format!("SELECT '{}'", "x".repeat(MAX_STATEMENT_BYTES));
        assert!(parse_one(&long).unwrap_err().to_string().contains("at most"));
    }
}
