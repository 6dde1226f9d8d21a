//! The query inside DELETE, UPDATE and MERGE INTO: one SELECT over the target, taken to pieces.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, ObjectNamePart, Query, Select, SelectItem,
    SetExpr, TableAlias, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};
use stevedore_common::{Error, Result};

use super::names::{is_rendered, number_repeats, place_of};
use super::prepare::prepare;
use super::repeatable::is_repeatable;
use super::rewrite::Rewriter;
use super::transform::is_aggregate;
use super::{at_start, parse_query};
use crate::ast::{ObjectRef, RelationRef};
use crate::lexer::Token;

/// What stands for the target in the tokens of such a SELECT.
pub(crate) const TARGET: &str = "__target";

/// What an item of such a SELECT is in the statement.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    /// The clause that errors name.
    pub(crate) clause: &'static str,
    /// Whether it is of WHEN NOT MATCHED, where there is no row of the target.
    pub(crate) of_source: bool,
    /// Where it begins.
    pub(crate) place: (u32, u32),
}

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

/// Analyses the SELECT of a statement, whose name errors mention. `alias`: what qualifies the target's columns,
/// rendered.
pub(crate) fn analyze_mutation(
    text: &str,
    tokens: &[Token],
    items: &[Item],
    statement: &str,
    (target, alias): (&ObjectRef, &str),
) -> Result<Pieces> {
    let prepared = prepare(text, tokens)?;
    let mut query = parse_query(text, tokens, &prepared)?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        refuse_aggregates(select, items)?;
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
    let on = match query.body.as_ref() {
        SetExpr::Select(select) => joined(select).map(|(_, on)| on),
        _ => None,
    };
    let repeatable = is_repeatable(&query, on);
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(lost()) };
    let join = joined(select);
    let join = join.and_then(|(source, on)| Some((source.to_string(), alias_of(source)?, on.to_string())));
    if let Some((_, source, _)) = &join {
        if source == alias {
            let error = Error::invalid(format!("the source of {statement} has the target's name, {alias}"));
            return Err(at_start(error.hint("give it an alias: USING t AS s"), tokens));
        }
        of_source_alone(select, items, source, alias)?;
    }
    let items = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) => Ok(expr.to_string()),
        _ => Err(at_start(
            Error::invalid(format!("{statement} takes an expression, not '*' or an alias")),
            tokens,
        )),
    });
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

/// What the target is joined with, and by what.
fn joined(select: &Select) -> Option<(&TableFactor, &Expr)> {
    let join = select.from.first()?.joins.first()?;
    let (JoinOperator::Join(JoinConstraint::On(on)) | JoinOperator::Inner(JoinConstraint::On(on))) =
        &join.join_operator
    else {
        return None;
    };
    Some((&join.relation, on))
}

/// An aggregate of the rows that change is of no one row. A window over them is, but cannot pick them.
fn refuse_aggregates(select: &Select, items: &[Item]) -> Result<()> {
    let search = |tree: &Expr, clause, windows| {
        let mut search = Aggregates { clause, windows, within: 0, found: None };
        let _ = tree.visit(&mut search);
        search.found.map_or(Ok(()), Err)
    };
    for (item, Item { clause, .. }) in select.projection.iter().zip(items) {
        if let SelectItem::UnnamedExpr(expr) = item {
            search(expr, clause, true)?;
        }
    }
    if let Some((_, on)) = joined(select) {
        search(on, "ON", false)?;
    }
    match &select.selection {
        Some(filter) => search(filter, "WHERE", false),
        None => Ok(()),
    }
}

/// Looks for aggregates, and for windows where there may be none, outside of subqueries.
struct Aggregates {
    clause: &'static str,
    /// Whether windows may be there.
    windows: bool,
    within: usize,
    found: Option<Error>,
}

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.within += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.within -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let Some(ObjectNamePart::Identifier(name)) = function.name.0.last() else {
            return ControlFlow::Continue(());
        };
        let kind = if function.over.is_some() { "window" } else { "aggregate" };
        let refused = match kind {
            "window" => !self.windows,
            _ => is_aggregate(function),
        };
        if self.within > 0 || !refused {
            return ControlFlow::Continue(());
        }
        let (line, column) = place_of(name);
        let error = Error::invalid(format!("{kind} functions are not allowed in {}", self.clause))
            .hint("compute it in a subquery: (SELECT …)");
        self.found = Some(error.at(line, column));
        ControlFlow::Break(())
    }
}

/// Where there is no row of the target, a name without a table is the source's.
fn of_source_alone(select: &mut Select, items: &[Item], source: &str, target: &str) -> Result<()> {
    for (item, Item { place: (line, column), .. }) in
        select.projection.iter_mut().zip(items).filter(|(_, item)| item.of_source)
    {
        if let SelectItem::UnnamedExpr(expr) = item {
            let mut columns = SourceColumns { source, target, within: 0, of_target: None };
            let _ = expr.visit(&mut columns);
            if let Some(name) = columns.of_target {
                let error = Error::invalid(format!(
                    "WHEN NOT MATCHED has no row of the target: its column {name} cannot be read there"
                ));
                return Err(error.hint("take columns of the source").at(*line, *column));
            }
        }
    }
    Ok(())
}

/// Qualifies columns, outside of subqueries.
struct SourceColumns<'a> {
    source: &'a str,
    target: &'a str,
    within: usize,
    of_target: Option<String>,
}

impl VisitorMut for SourceColumns<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.within += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.within -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            _ if self.within > 0 => {}
            Expr::Identifier(name) if is_rendered(name) => {
                *expr = Expr::CompoundIdentifier(vec![Ident::new(self.source), name.clone()]);
            }
            Expr::CompoundIdentifier(parts)
                if parts.first().is_some_and(|part| part.value == self.target) =>
            {
                self.of_target = Some(expr.to_string());
                return ControlFlow::Break(());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
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
