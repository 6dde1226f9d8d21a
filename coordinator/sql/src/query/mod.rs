//! The analysis of queries: which relations they read, and the SQL that a worker runs for them.
//!
//! Comes in: the tokens of a query, of the transform of COPY INTO, of VALUES, of a DEFAULT. Goes out:
//! [`AnalyzedQuery`] and its like. The tree of the query parser library never leaves this folder.
//! Fails with positions in the user's text; never shows a generated name in an error.

mod metered;
mod mutation;
mod names;
mod prepare;
mod repeatable;
mod rewrite;
mod row_by_row;
mod suffix;
mod table_functions;
mod transform;
mod values;

pub(crate) use mutation::{Item, Pieces, TARGET, analyze_mutation};
pub(crate) use suffix::{inside, time_travel};
pub(crate) use transform::analyze_transform;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{Expr, Query, SetExpr, Visit, Visitor};
use sqlparser::parser::{Parser as LibParser, ParserError};
use sqlparser::tokenizer::Token as LibToken;
use stevedore_common::{Error, Result};

use crate::ast::AnalyzedQuery;
use crate::lexer::{Tok, Token};
use crate::parser::shown;
use metered::Metered;
use prepare::{Prepared, prepare};
use rewrite::Rewriter;
use row_by_row::is_row_by_row;

/// How deep queries and expressions may nest. The library's own default: its parser tries some
/// readings twice at each level, so that a larger limit would let small texts take long.
const MAX_NESTING: usize = 50;

/// Analyses a SELECT, with its CTEs, set operations and ORDER BY, or VALUES.
pub(crate) fn analyze_statement(text: &str, tokens: &[Token]) -> Result<AnalyzedQuery> {
    let prepared = prepare(text, tokens)?;
    let mut query = parse_query(text, tokens, &prepared)?;
    let is_row_by_row = is_row_by_row(&query);
    names::number_repeats(&mut query);
    names::name_outputs(&mut query, &prepared.items);
    let (query, rewriter) = rewrite(query, prepared)?;
    Ok(AnalyzedQuery { is_row_by_row, ..finish(&query, rewriter) })
}

/// Analyses the VALUES of an INSERT; gives the width of its rows and their number.
pub(crate) fn analyze_values(text: &str, tokens: &[Token]) -> Result<(AnalyzedQuery, usize, usize)> {
    for (i, token) in tokens.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| tokens.get(i));
        let after = tokens.get(i + 1);
        if token.is_word("DEFAULT")
            && before.is_some_and(|t| t.is_sym("(") || t.is_sym(","))
            && after.is_some_and(|t| t.is_sym(")") || t.is_sym(","))
        {
            return Err(Error::not_supported_yet("DEFAULT inside VALUES")
                .hint("leave the column out of the list of columns: INSERT INTO t (a, b) VALUES …")
                .at(token.line, token.column));
        }
    }
    let prepared = prepare(text, tokens)?;
    let query = parse_query(text, tokens, &prepared)?;
    let (width, rows) = match query.body.as_ref() {
        SetExpr::Values(values) => {
            let width = values.rows.first().map_or(0, Vec::len);
            if let Some((number, row)) = values.rows.iter().enumerate().find(|(_, row)| row.len() != width) {
                let error = Error::invalid(format!(
                    "row {} of VALUES has {} values, the first row has {width}",
                    number + 1,
                    row.len()
                ));
                return Err(at_start(error, tokens));
            }
            if width == 0 {
                return Err(at_start(Error::invalid("a row of VALUES is empty"), tokens));
            }
            (width, values.rows.len())
        }
        _ => return Err(at_start(Error::invalid("expected only VALUES (…), …"), tokens)),
    };
    let (query, rewriter) = rewrite(query, prepared)?;
    Ok((finish(&query, rewriter), width, rows))
}

/// Renders the expression of a DEFAULT.
pub(crate) fn render_default(text: &str, tokens: &[Token], column: &str) -> Result<String> {
    render_constant(text, tokens, &format!("the DEFAULT of column '{column}'"))
}

/// Renders an expression that reads nothing: constants, functions of constants, arithmetic.
fn render_constant(text: &str, tokens: &[Token], subject: &str) -> Result<String> {
    let wrong = |what: &str| {
        let error = Error::invalid(format!("{subject} holds {what}"))
            .hint("allowed are constants, and functions and arithmetic over them, as in now() or 1 + 1");
        Err(at_start(error, tokens))
    };
    let prepared = prepare(text, tokens)?;
    if prepared.parameters > 0 {
        return wrong("a parameter");
    }
    let expr = parse_with(text, tokens, &prepared, |parser| parser.parse_expr())?;
    if let Some(what) = read_by(&expr) {
        return wrong(&what);
    }
    let mut rewriter = Rewriter::new(prepared);
    let mut expr = expr;
    rewriter.run(&mut expr)?;
    Ok(expr.to_string())
}

/// What an expression reads, if it reads anything.
fn read_by(expr: &sqlparser::ast::Expr) -> Option<String> {
    let mut finder = ConstantCheck { found: None };
    let _ = expr.visit(&mut finder);
    finder.found
}

struct ConstantCheck {
    found: Option<String>,
}

impl Visitor for ConstantCheck {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> std::ops::ControlFlow<()> {
        self.found = Some("a subquery".into());
        std::ops::ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> std::ops::ControlFlow<()> {
        let found = match expr {
            Expr::Identifier(ident) => format!("the column '{}'", ident.value),
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
                format!("the column '{}'", parts.join("."))
            }
            Expr::Function(function) => match transform::refused_function(function) {
                Some(what) => format!("the {what}"),
                None => return std::ops::ControlFlow::Continue(()),
            },
            Expr::Value(value) if matches!(value.value, sqlparser::ast::Value::Placeholder(_)) => {
                "a parameter".to_owned()
            }
            _ => return std::ops::ControlFlow::Continue(()),
        };
        self.found = Some(found);
        std::ops::ControlFlow::Break(())
    }
}

fn at_start(error: Error, tokens: &[Token]) -> Error {
    match tokens.first() {
        Some(token) => error.at(token.line, token.column),
        None => error,
    }
}

fn rewrite(mut query: Box<Query>, prepared: Prepared) -> Result<(Box<Query>, Rewriter)> {
    let mut rewriter = Rewriter::new(prepared);
    rewriter.collect_names(&query);
    rewriter.run(query.as_mut())?;
    rewriter.assign_positions()?;
    rewriter.check_suffixes()?;
    Ok((query, rewriter))
}

fn finish(query: &Query, rewriter: Rewriter) -> AnalyzedQuery {
    AnalyzedQuery {
        sql: query.to_string(),
        is_constant: rewriter.relations.is_empty() && !rewriter.reads_elsewhere,
        is_row_by_row: false,
        parameters: rewriter.parameters,
        relations: rewriter.relations,
    }
}

fn parse_query(text: &str, tokens: &[Token], prepared: &Prepared) -> Result<Box<Query>> {
    parse_with(text, tokens, prepared, |parser| parser.parse_query())
}

/// Runs the library's parser over all of the prepared tokens.
fn parse_with<T>(
    text: &str,
    tokens: &[Token],
    prepared: &Prepared,
    parse: impl FnOnce(&mut LibParser<'_>) -> std::result::Result<T, ParserError>,
) -> Result<T> {
    let dialect = Metered::new(tokens.len());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut parser = LibParser::new(&dialect)
            .with_recursion_limit(MAX_NESTING)
            .with_tokens_with_locations(prepared.tokens.clone());
        let parsed = parse(&mut parser)?;
        let next = parser.peek_token();
        if next.token != LibToken::EOF {
            return parser.expected("the end of the query", next);
        }
        Ok(parsed)
    }));
    match outcome {
        Ok(Ok(parsed)) => Ok(parsed),
        Ok(Err(_)) if dialect.is_exhausted() => {
            let error = Error::invalid("the query is wrong somewhere in its nested parts")
                .hint("check that each parenthesis, CASE and CAST is complete");
            Err(at_start(error, tokens))
        }
        Ok(Err(error)) => Err(user_error(text, tokens, prepared, &error)),
        Err(_) => Err(at_start(Error::internal("the query parser failed on this text"), tokens)),
    }
}

/// The library's error in our words: its position and «found» come from the user's text.
fn user_error(text: &str, tokens: &[Token], prepared: &Prepared, error: &ParserError) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            let error = Error::exhausted(format!("the statement nests deeper than {MAX_NESTING} levels"));
            return at_start(error, tokens);
        }
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    let (message, place) = match message.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, parse_place(place)),
        None => (message.as_str(), None),
    };
    let known = place.and_then(|(line, column)| {
        prepared.places.iter().find(|(l, c, _)| (*l, *c) == (line, column)).map(|(_, _, range)| range.clone())
    });
    let expected = message.strip_prefix("Expected: ").and_then(|rest| rest.split(", found: ").next());
    let what = match (expected, &known) {
        (Some(expected), Some(range)) => {
            let token = tokens.iter().find(|token| token.start == range.start);
            let found = token.map_or_else(|| "something else".to_owned(), |token| shown(token, text));
            format!("expected {expected}, found {found}")
        }
        (Some(expected), None) => format!("expected {expected}, found the end of the statement"),
        (None, _) => {
            let mut characters = message.chars();
            match characters.next() {
                Some(first) => first.to_lowercase().collect::<String>() + characters.as_str(),
                None => "the query is not understood".to_owned(),
            }
        }
    };
    let what =
        if prepare::mentions_generated(&what) { "the query is not understood here".to_owned() } else { what };
    let error = Error::invalid(what);
    match (place, tokens.last()) {
        (Some((line, column)), _) if line > 0 => {
            error.at(u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
        }
        (_, Some(last)) => {
            let width = match &last.tok {
                Tok::Str(_) => 1,
                _ => text.get(last.start..last.end).map_or(0, |t| t.chars().count()),
            };
            error.at(last.line, last.column.saturating_add(width as u32))
        }
        (_, None) => error.at(1, 1),
    }
}

/// `<line>, Column: <column>`.
fn parse_place(text: &str) -> Option<(u64, u64)> {
    let (line, column) = text.split_once(", Column: ")?;
    Some((line.trim().parse().ok()?, column.trim().parse().ok()?))
}
