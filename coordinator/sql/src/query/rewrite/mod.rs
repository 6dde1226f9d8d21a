//! The rewriting of a query's tree into what a worker runs; [`crate::render`] says what that is.
//!
//! Here is the walk, and what queries and SELECTs become; tables and table functions become relations in
//! [`relations`], columns and casts are in [`expressions`], functions in [`functions`].

mod expressions;
mod functions;
mod relations;

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, LimitClause, Offset, OffsetRows, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Statement, TableFactor, Value, Visit, VisitMut, VisitorMut,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::names::{fold, fold_alias, fold_joins, fold_wildcard};
use super::prepare::Prepared;
use super::suffix::{Found, Suffix};
use super::values;
use crate::ast::{ObjectRef, RelationRef, StageSource};
use expressions::{Qualifiers, literal};

pub(super) use expressions::position_of;
pub(super) use relations::STREAM_STATUS;

/// Rewrites one query.
pub(super) struct Rewriter {
    types: Vec<SqlType>,
    paths: Vec<String>,
    stages: Vec<Option<StageSource>>,
    /// Those whose table was not met yet.
    suffixes: Vec<Found>,
    pub(super) parameters: usize,
    pub(super) relations: Vec<RelationRef>,
    /// What stands for the table that the statement changes, until it is met.
    pub(super) target: Option<ObjectRef>,
    /// The relation of that table.
    pub(super) target_relation: Option<String>,
    /// Whether the query reads from a function of the engine's.
    pub(super) reads_elsewhere: bool,
    /// What qualifies columns anywhere in the query, in lower case.
    qualifiers: HashSet<String>,
    /// Queries around the place of the walk.
    scopes: Vec<Scope>,
    /// Aliases of stage relations, in lower case, with the relation's index.
    stage_aliases: Vec<(Option<String>, usize)>,
    /// `$n` as met: qualifier, number, the place.
    positions: Vec<(Option<String>, u32, (u32, u32))>,
    /// Columns read by name, in order of appearance.
    pub(super) columns: Vec<String>,
    error: Option<Error>,
}

/// The CTEs of one query.
struct Scope {
    ctes: Vec<String>,
    recursive: bool,
    /// Queries directly inside that the walk has entered: the first ones are the CTEs' bodies.
    entered: usize,
}

impl Rewriter {
    pub(super) fn new(prepared: Prepared) -> Self {
        Self {
            types: prepared.types,
            paths: prepared.paths,
            stages: prepared.stages.into_iter().map(Some).collect(),
            suffixes: prepared.suffixes,
            parameters: prepared.parameters,
            relations: Vec::new(),
            target: None,
            target_relation: None,
            reads_elsewhere: false,
            qualifiers: HashSet::new(),
            scopes: Vec::new(),
            stage_aliases: Vec::new(),
            positions: Vec::new(),
            columns: Vec::new(),
            error: None,
        }
    }

    /// Learns which names qualify columns.
    pub(super) fn collect_names(&mut self, query: &Query) {
        let _ = query.visit(&mut Qualifiers { names: &mut self.qualifiers });
    }

    /// Rewrites a tree in place.
    pub(super) fn run(&mut self, tree: &mut impl VisitMut) -> Result<()> {
        match tree.visit(self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(self.error.take().unwrap_or_else(|| Error::internal("a query was left half rewritten")))
            }
        }
    }

    /// Refuses an `AT (…)` or `WITH …` that follows something else than a name.
    pub(super) fn check_suffixes(&self) -> Result<()> {
        let Some(found) = self.suffixes.first() else { return Ok(()) };
        let of = match found.suffix {
            Suffix::At(_) => "a table",
            Suffix::With(_) => "a stream",
        };
        let error = Error::invalid(format!(
            "{} stands right after the name of {of}, before its alias",
            found.suffix.shown()
        ));
        Err(error.at(found.place.0, found.place.1))
    }

    fn fail(&mut self, error: Error) -> ControlFlow<()> {
        self.error.get_or_insert(error);
        ControlFlow::Break(())
    }

    fn is_cte(&self, name: &str) -> bool {
        let innermost = self.scopes.len().saturating_sub(1);
        self.scopes.iter().enumerate().any(|(i, scope)| {
            let visible = if i == innermost || scope.entered > scope.ctes.len() {
                scope.ctes.len()
            } else {
                // Inside the body of a CTE: those before it, and itself where recursive.
                scope.entered.saturating_sub(usize::from(!scope.recursive))
            };
            scope.ctes.iter().take(visible).any(|cte| cte == name)
        })
    }

    fn generated(&self, name: &str, prefix: &str) -> Option<usize> {
        name.strip_prefix(prefix).and_then(|digits| digits.parse().ok())
    }

    fn query(&mut self, query: &mut Query) -> Result<()> {
        if let Some(outer) = self.scopes.last_mut() {
            outer.entered += 1;
        }
        let mut scope = Scope { ctes: Vec::new(), recursive: false, entered: 0 };
        if let Some(with) = &mut query.with {
            scope.recursive = with.recursive;
            for cte in &mut with.cte_tables {
                scope.ctes.push(cte.alias.name.value.to_lowercase());
                fold_alias(Some(&mut cte.alias));
                // Written with AS, the name of a WITH would not parse again.
                cte.alias.explicit = false;
                // A hint for other engines.
                cte.materialized = None;
            }
        }
        self.scopes.push(scope);
        if !query.locks.is_empty() {
            return Err(Error::not_supported("FOR UPDATE and FOR SHARE"));
        }
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return Err(Error::not_supported("what follows the query"));
        }
        if let Some(LimitClause::OffsetCommaLimit { offset, limit }) = &query.limit_clause {
            query.limit_clause = Some(LimitClause::LimitOffset {
                limit: Some(limit.clone()),
                offset: Some(Offset { value: offset.clone(), rows: OffsetRows::None }),
                limit_by: Vec::new(),
            });
        }
        self.set_expression(&mut query.body)
    }

    fn set_expression(&mut self, body: &mut SetExpr) -> Result<()> {
        // Chains of set operations lean to the left: a loop there, recursion to the right only.
        let mut body = body;
        loop {
            match body {
                SetExpr::Select(select) => return self.select(select),
                SetExpr::SetOperation { left, right, .. } => {
                    self.set_expression(right)?;
                    body = left.as_mut();
                }
                SetExpr::Values(rows) => {
                    if let Some(union) = values::union_of(rows)? {
                        *body = union;
                    }
                    return Ok(());
                }
                SetExpr::Query(_) => return Ok(()),
                SetExpr::Table(_) => {
                    return Err(Error::not_supported("TABLE t as a query").hint("write SELECT * FROM t"));
                }
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                    return Err(Error::not_supported("a statement that changes data inside a query"));
                }
            }
        }
    }

    fn select(&mut self, select: &mut Select) -> Result<()> {
        for (is_there, what) in [
            (select.into.is_some(), "SELECT INTO"),
            (select.top.is_some(), "TOP; write LIMIT"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (!select.cluster_by.is_empty(), "CLUSTER BY in a query"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (select.value_table_mode.is_some(), "SELECT AS STRUCT and AS VALUE"),
        ] {
            if is_there {
                return Err(Error::not_supported(what));
            }
        }
        select.optimizer_hint = None;
        for item in &mut select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => fold(alias),
                SelectItem::QualifiedWildcard(kind, options) => {
                    if let SelectItemQualifiedWildcardKind::ObjectName(name) = kind {
                        self.qualifier(name);
                    }
                    fold_wildcard(options);
                }
                SelectItem::Wildcard(options) => fold_wildcard(options),
                SelectItem::UnnamedExpr(_) => {}
            }
        }
        for window in &mut select.named_window {
            fold(&mut window.0);
            if let sqlparser::ast::NamedWindowExpr::NamedWindow(name) = &mut window.1 {
                fold(name);
            }
        }
        for from in &mut select.from {
            fold_joins(from);
        }
        Ok(())
    }
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        match self.query(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.fail(error),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match self.table_factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.fail(error),
        }
    }

    fn pre_visit_statement(&mut self, _: &mut Statement) -> ControlFlow<()> {
        self.fail(Error::not_supported("a statement that changes data inside a query"))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match self.before_operands(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.fail(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match self.expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => self.fail(error),
        }
    }

    fn pre_visit_value(&mut self, value: &mut Value) -> ControlFlow<()> {
        if let Value::SingleQuotedString(text) = value {
            *value = literal(text);
        }
        ControlFlow::Continue(())
    }
}
