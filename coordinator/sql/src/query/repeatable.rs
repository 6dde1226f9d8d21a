//! Whether a statement's sources give the same rows each time they are read.
//!
//! Comes in: the SELECT of a DELETE, UPDATE or MERGE INTO. Goes out: false, where workers that each look at a share
//! of the target could see different rows in the sources, or match them differently. Looks at functions and clauses
//! by name; must never say true of a source that picks rows by chance, or by an order that its text leaves open.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Distinct, Expr, Function, ObjectNamePart, Query, SetExpr, TableFactor, Visit, Visitor, WindowFrameUnits,
    WindowType,
};

/// Functions with another value each time.
const VOLATILE: &[&str] = &["gen_random_uuid", "rand", "random", "randstr", "uuid", "uuid_string"];
/// Functions of several rows whose value depends on an order that ORDER BY may leave open.
const ORDERED: &[&str] = &[
    "any_value",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "array_agg",
    "first_value",
    "group_concat",
    "lag",
    "last_value",
    "lead",
    "list_agg",
    "listagg",
    "nth_value",
    "ntile",
    "row_number",
    "string_agg",
];

/// `on`: what the target is joined with its source by, where rows that match nothing count as well.
pub(super) fn is_repeatable(query: &Query, on: Option<&Expr>) -> bool {
    let is_sure = |on: &Expr| on.visit(&mut Search { within: 2 }).is_continue();
    query.visit(&mut Search { within: 0 }).is_continue() && on.is_none_or(is_sure)
}

fn is_one_of(function: &Function, names: &[&str]) -> bool {
    matches!(function.name.0.last(), Some(ObjectNamePart::Identifier(name))
        if names.iter().any(|known| name.value.eq_ignore_ascii_case(known)))
}

/// A frame of so many rows depends on which of equal ones come first.
fn counts_rows(function: &Function) -> bool {
    match &function.over {
        Some(WindowType::WindowSpec(window)) => {
            window.window_frame.as_ref().is_some_and(|frame| frame.units == WindowFrameUnits::Rows)
        }
        Some(WindowType::NamedWindow(_)) => true,
        None => false,
    }
}

/// Whether a SELECT keeps some of its rows, whichever come first.
fn picks_rows(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.top.is_some() || matches!(select.distinct, Some(Distinct::On(_))),
        SetExpr::SetOperation { left, right, .. } => picks_rows(left) || picks_rows(right),
        _ => false,
    }
}

/// Looks for what is not repeatable, in queries within the statement's own. In that one stand the values of the rows
/// that change, each of which is made once.
struct Search {
    /// Queries around, the statement's own among them.
    within: usize,
}

impl Search {
    fn is_found(&self, function: &Function) -> bool {
        match self.within {
            // A window over the rows that change looks at all of them.
            0 | 1 => function.over.is_some(),
            _ => is_one_of(function, VOLATILE) || is_one_of(function, ORDERED) || counts_rows(function),
        }
    }
}

impl Visitor for Search {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let picks = query.limit_clause.is_some() || query.fetch.is_some() || picks_rows(&query.body);
        let found = self.within > 0 && picks;
        self.within += 1;
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.within -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) if self.is_found(function) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::ast::Statement;

    fn is_repeatable(sql: &str) -> bool {
        match crate::parse(sql).unwrap() {
            Statement::Mutation(mutation) => mutation.repeatable,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sources_that_pick_rows_by_chance_are_told_from_values_that_are_made_once() {
        for sql in [
            "DELETE FROM t WHERE random() < 0.5",
            "DELETE FROM t WHERE a IN (SELECT a FROM u)",
            "UPDATE t SET a = uuid()",
            "UPDATE t SET a = u.b FROM u WHERE t.a = u.a AND random() < 0.5",
            "UPDATE t SET a = (SELECT max(b) FROM u WHERE u.a = t.a)",
            "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED AND random() < 0.5 THEN DELETE \
             WHEN NOT MATCHED THEN INSERT VALUES (uuid())",
            "MERGE INTO t USING (SELECT a, sum(b) AS b FROM u GROUP BY a) AS s ON t.a = s.a WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING (SELECT a, rank() OVER (PARTITION BY a ORDER BY b) AS r FROM u) AS s \
             ON t.a = s.a AND s.r = 1 WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING (SELECT now() AS at, a FROM u) AS s ON t.a = s.a WHEN MATCHED THEN DELETE",
        ] {
            assert!(is_repeatable(sql), "{sql}");
        }
        for sql in [
            "DELETE FROM t WHERE a IN (SELECT a FROM u LIMIT 1)",
            "DELETE FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a AND random() < 0.5)",
            "UPDATE t SET a = s.b FROM (SELECT a, uuid() AS b FROM u) AS s WHERE t.a = s.a",
            "UPDATE t SET a = sum(b) OVER (PARTITION BY c)",
            "UPDATE t SET a = (SELECT any_value(b) FROM u WHERE u.a = t.a)",
            "MERGE INTO t USING u ON t.a = u.a AND RANDOM() < 0.5 WHEN NOT MATCHED THEN INSERT *",
            "MERGE INTO t USING (SELECT DISTINCT ON (a) a, b FROM u) AS s ON t.a = s.a WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING (SELECT a, row_number() OVER (PARTITION BY a ORDER BY b) AS r FROM u) AS s \
             ON t.a = s.a AND s.r = 1 WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING (WITH r AS (SELECT a FROM u LIMIT 3) SELECT a FROM r) AS s ON t.a = s.a \
             WHEN NOT MATCHED THEN INSERT *",
            "MERGE INTO t USING (SELECT a FROM u UNION ALL SELECT random()) AS s ON t.a = s.a WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING (SELECT a, sum(b) OVER (ORDER BY c ROWS 1 PRECEDING) AS b FROM u) AS s ON t.a = s.b \
             WHEN MATCHED THEN DELETE",
        ] {
            assert!(!is_repeatable(sql), "{sql}");
        }
    }
}
