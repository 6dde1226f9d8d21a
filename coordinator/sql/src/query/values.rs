//! VALUES that hold subqueries.
//!
//! Comes in: VALUES. Goes out: the same rows as a union of SELECTs, since workers plan no subquery inside VALUES. Rows
//! without one stay VALUES. The columns have the names that VALUES gives them.

use std::ops::ControlFlow;

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SelectFlavor, SelectItem, SetExpr, SetOperator, SetQuantifier, Values,
    Visit, Visitor,
};
use stevedore_common::{Error, Result};

use super::names::quoted;

/// Each is a level that planning descends.
const MOST_PARTS: usize = 200;

/// The union, where there is a subquery in the values.
pub(super) fn union_of(values: &mut Values) -> Result<Option<SetExpr>> {
    if !values.rows.iter().any(|row| has_query(row)) {
        return Ok(None);
    }
    let mut parts: Vec<SetExpr> = Vec::new();
    for row in std::mem::take(&mut values.rows) {
        match parts.last_mut() {
            _ if has_query(&row) => parts.push(SetExpr::Select(Box::new(select(row)))),
            Some(SetExpr::Values(plain)) => plain.rows.push(row),
            _ => parts.push(SetExpr::Values(Values { rows: vec![row], ..values.clone() })),
        }
    }
    if parts.len() > MOST_PARTS {
        return Err(Error::exhausted(format!("VALUES has subqueries in more than {MOST_PARTS} places"))
            .hint("write several statements, or a SELECT with a join"));
    }
    Ok(parts.into_iter().reduce(|left, right| SetExpr::SetOperation {
        op: SetOperator::Union,
        set_quantifier: SetQuantifier::All,
        left: Box::new(left),
        right: Box::new(right),
    }))
}

fn has_query(row: &[Expr]) -> bool {
    row.iter().any(|value| value.visit(&mut Queries).is_break())
}

struct Queries;

impl Visitor for Queries {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

/// SELECT of a row.
fn select(row: Vec<Expr>) -> Select {
    let item =
        |(index, expr)| SelectItem::ExprWithAlias { expr, alias: quoted(&format!("column{}", index + 1)) };
    Select {
        select_token: AttachedToken::empty(),
        optimizer_hint: None,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: row.into_iter().enumerate().map(item).collect(),
        exclude: None,
        into: None,
        from: Vec::new(),
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    }
}
