//! The query inside DELETE, UPDATE and MERGE INTO: one SELECT over the target, taken to pieces.

use sqlparser::ast::{
    Expr, GroupByExpr, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, TableAlias,
    TableFactor,
};
use stevedore_common::{Error, Result};

use super::names::number_repeats;
use super::prepare::prepare;
use super::repeatable::is_repeatable;
use super::rewrite::Rewriter;
use super::{at_start, parse_query};
use crate::ast::{ObjectRef, RelationRef};
use crate::lexer::Token;

/// What stands for the target in the tokens of such a SELECT.
pub(crate) const TARGET: &str = "__target";

/// The pieces, rendered.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) items: Vec<String>,
    /// FROM.
    pub(crate) from: String,
    /// What the target is joined with, as MERGE does: the source, what qualifies its columns, ON.
    pub(crate) join: Option<(String, String, String)>,
    /// WHERE.
    pub(crate) filter: Option<String>,
    pub(crate) relations: Vec<RelationRef>,
    /// The target's relation.
    pub(crate) target: String,
    pub(crate) parameters: usize,
    /// Whether the sources give the same rows each time they are read.
    pub(crate) repeatable: bool,
}

/// Analyses the SELECT of a statement, whose name errors mention.
pub(crate) fn analyze_mutation(
    text: &str,
    tokens: &[Token],
    statement: &str,
    target: &ObjectRef,
) -> Result<Pieces> {
    let prepared = prepare(text, tokens)?;
    let mut query = parse_query(text, tokens, &prepared)?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        // Its own items are values, not columns with names.
        number_repeats(&mut select.from);
    }
    let mut rewriter = Rewriter::new(prepared);
    rewriter.collect_names(&query);
    rewriter.target = Some(target.clone());
    rewriter.run(query.as_mut())?;
    rewriter.assign_positions()?;
    rewriter.check_suffixes()?;
    check(&query, statement).map_err(|e| at_start(e, tokens))?;
    let lost = || Error::internal(format!("the target of {statement} is lost"));
    let SetExpr::Select(select) = query.body.as_ref() else { return Err(lost()) };
    let items = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) => Ok(expr.to_string()),
        _ => Err(at_start(
            Error::invalid(format!("{statement} takes an expression, not '*' or an alias")),
            tokens,
        )),
    });
    let join = select.from.first().and_then(|from| from.joins.first()).and_then(|join| {
        let (JoinOperator::Join(JoinConstraint::On(on)) | JoinOperator::Inner(JoinConstraint::On(on))) =
            &join.join_operator
        else {
            return None;
        };
        Some((&join.relation, on))
    });
    let repeatable = is_repeatable(&query, join.map(|(_, on)| on));
    let join = join.and_then(|(source, on)| Some((source.to_string(), alias_of(source)?, on.to_string())));
    Ok(Pieces {
        items: items.collect::<Result<_>>()?,
        from: select.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        join,
        filter: select.selection.as_ref().map(Expr::to_string),
        target: rewriter.target_relation.clone().ok_or_else(lost)?,
        parameters: rewriter.parameters,
        repeatable,
        relations: rewriter.relations,
    })
}

fn alias_of(factor: &TableFactor) -> Option<String> {
    let alias: &Option<TableAlias> = match factor {
        TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => alias,
        _ => return None,
    };
    alias.as_ref().map(|alias| alias.name.to_string())
}

/// What may follow WHERE in a SELECT has no place here.
fn check(query: &Query, statement: &str) -> Result<()> {
    let refuse = |what: &str| Err(Error::not_supported(format!("{what} in {statement}")));
    let SetExpr::Select(select) = query.body.as_ref() else {
        return refuse("a set operation");
    };
    let Select { group_by, having, qualify, named_window, .. } = select.as_ref();
    match group_by {
        GroupByExpr::Expressions(expressions, modifiers)
            if expressions.is_empty() && modifiers.is_empty() => {}
        _ => return refuse("GROUP BY"),
    }
    for (is_there, what) in [
        (having.is_some(), "HAVING"),
        (qualify.is_some(), "QUALIFY"),
        (!named_window.is_empty(), "WINDOW"),
        (query.order_by.is_some(), "ORDER BY"),
        (query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT"),
    ] {
        if is_there {
            return refuse(what);
        }
    }
    Ok(())
}
