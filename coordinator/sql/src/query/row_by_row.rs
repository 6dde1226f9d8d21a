//! Whether the rows of a query can be made from the rows of its table one by one.
//!
//! Comes in: the tree of a query. Goes out: true, where the rows that shares of the table's files give are together
//! those that the whole table gives, in no order. Must never say so of a query that looks at more than one row: what
//! is not known to be harmless is not.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Function, GroupByExpr, ObjectNamePart, Query, SelectItem, SetExpr, TableFactor, Visit, Visitor,
};

/// Functions of one row. Any other may be an aggregate, or give several rows.
const FUNCTIONS: &[&str] = &[
    "abs",
    "ceil",
    "coalesce",
    "concat",
    "date_part",
    "date_trunc",
    "day",
    "floor",
    "hour",
    "if",
    "ifnull",
    "length",
    "lower",
    "ltrim",
    "minute",
    "month",
    "nullif",
    "nvl",
    "replace",
    "round",
    "rtrim",
    "second",
    "split_part",
    "strpos",
    "substr",
    "substring",
    "to_date",
    "to_timestamp",
    "to_varchar",
    "trim",
    "upper",
    "year",
];

pub(super) fn is_row_by_row(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let [from] = select.from.as_slice() else { return false };
    let of_one = match &from.relation {
        TableFactor::Table { args: None, .. } => true,
        TableFactor::Derived { subquery, lateral: false, .. } => is_row_by_row(subquery),
        _ => false,
    };
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && select.distinct.is_none()
        && select.top.is_none()
        && select.having.is_none()
        && select.qualify.is_none()
        && select.named_window.is_empty()
        && select.lateral_views.is_empty()
        && from.joins.is_empty()
        && matches!(&select.group_by, GroupByExpr::Expressions(keys, more) if keys.is_empty() && more.is_empty());
    of_one && plain && select.projection.iter().all(item_is_harmless) && is_harmless(&select.selection)
}

fn item_is_harmless(item: &SelectItem) -> bool {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_harmless(expr),
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => is_harmless(options),
    }
}

fn is_harmless(tree: &impl Visit) -> bool {
    tree.visit(&mut Harm).is_continue()
}

struct Harm;

impl Visitor for Harm {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) if !is_known(function) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn is_known(function: &Function) -> bool {
    function.over.is_none()
        && matches!(function.name.0.as_slice(), [ObjectNamePart::Identifier(name)]
            if FUNCTIONS.iter().any(|known| name.value.eq_ignore_ascii_case(known)))
}
