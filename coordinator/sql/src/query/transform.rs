//! The `(SELECT … FROM location [alias] [WHERE …])` of COPY INTO: what it may be, and its pieces.

use std::ops::ControlFlow;

use sqlparser::ast::{
    CastKind, DataType, Distinct, Expr, Function, GroupByExpr, Ident, ObjectNamePart, Query, Select,
    SelectItem, SetExpr, SetOperator, TableFactor, Visit, Visitor,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::names::quoted;
use super::prepare::{STAGE, TYPE, prepare};
use super::rewrite::{STREAM_STATUS, position_of};
use super::{at_start, parse_query, rewrite};
use crate::ast::{AnalyzedTransform, ColumnRef, RelationRef, RelationTarget, StageSource, TransformItem};
use crate::lexer::Token;

const AGGREGATES: &[&str] = &[
    "any",
    "any_value",
    "approx_count_distinct",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "arg_max",
    "arg_min",
    "array_agg",
    "avg",
    "avg_if",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bitmap_and_count",
    "bool_and",
    "bool_or",
    "boolean_and",
    "boolean_or",
    "corr",
    "count",
    "count_distinct",
    "count_if",
    "countif",
    "covar",
    "covar_pop",
    "covar_samp",
    "every",
    "first_value",
    "group_array",
    "group_array_moving_avg",
    "group_array_moving_sum",
    "group_concat",
    "grouping",
    "histogram",
    "json_array_agg",
    "json_object_agg",
    "kurtosis",
    "last_value",
    "list",
    "listagg",
    "max",
    "max_by",
    "max_if",
    "mean",
    "median",
    "min",
    "min_by",
    "min_if",
    "mode",
    "nth_value",
    "percentile_cont",
    "percentile_disc",
    "quantile",
    "quantile_cont",
    "quantile_disc",
    "quantile_tdigest",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "retention",
    "skewness",
    "std",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "sum_distinct",
    "sum_if",
    "sum_zero",
    "uniq",
    "var",
    "var_pop",
    "var_samp",
    "variance",
    "variance_pop",
    "variance_samp",
    "window_funnel",
];
const WINDOW_ONLY: &[&str] =
    &["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"];
const SET_RETURNING: &[&str] = &[
    "unnest",
    "flatten",
    "generate_series",
    "range",
    "json_each",
    "json_array_elements",
    "jq",
    "json_path_query",
    "regexp_split_to_table",
    "numbers",
];

fn refuse(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("COPY INTO cannot transform with {what}"))
        .hint("it takes one location, expressions over a row, and WHERE; load into a table first for more")
}

/// What a function is, where it does not work on one row.
pub(super) fn refused_function(function: &Function) -> Option<String> {
    let name = match function.name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => ident.value.to_lowercase(),
        _ => return None,
    };
    if function.over.is_some() || WINDOW_ONLY.contains(&name.as_str()) {
        Some(format!("window function {name}"))
    } else if AGGREGATES.contains(&name.as_str()) {
        Some(format!("aggregate function {name}"))
    } else if SET_RETURNING.contains(&name.as_str()) {
        Some(format!("set-returning function {name}"))
    } else if name == STREAM_STATUS {
        Some(format!("function {name}"))
    } else {
        None
    }
}

/// Whether this is an aggregate of the rows around it.
pub(super) fn is_aggregate(function: &Function) -> bool {
    matches!(function.name.0.last(), Some(ObjectNamePart::Identifier(name))
        if function.over.is_none() && AGGREGATES.contains(&name.value.to_lowercase().as_str()))
}

struct Refusals {
    found: Option<Error>,
}

impl Visitor for Refusals {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.found = Some(refuse("a subquery"));
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let Some(what) = refused_function(function) else { return ControlFlow::Continue(()) };
        let place = match function.name.0.first() {
            Some(ObjectNamePart::Identifier(ident)) => ident.span.start,
            _ => return ControlFlow::Continue(()),
        };
        let error = refuse(format!("the {what}"));
        self.found = Some(match (u32::try_from(place.line), u32::try_from(place.column)) {
            (Ok(line), Ok(column)) if line > 0 => error.at(line, column),
            _ => error,
        });
        ControlFlow::Break(())
    }
}

/// Refuses what a transform may not be, by its name.
fn check(query: &Query) -> Result<()> {
    if query.with.is_some() {
        return Err(refuse("WITH (common table expressions)"));
    }
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { op, .. } => {
            return Err(refuse(format!(
                "the set operation {}",
                match op {
                    SetOperator::Union => "UNION",
                    SetOperator::Except | SetOperator::Minus => "EXCEPT",
                    SetOperator::Intersect => "INTERSECT",
                }
            )));
        }
        SetExpr::Query(_) => return Err(refuse("a query in parentheses")),
        SetExpr::Values(_) => return Err(refuse("VALUES; INSERT does it")),
        _ => return Err(refuse("anything but SELECT")),
    };
    if query.order_by.is_some() {
        return Err(refuse("ORDER BY"));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return Err(refuse("LIMIT or OFFSET"));
    }
    check_select(select)
}

fn check_select(select: &Select) -> Result<()> {
    match &select.distinct {
        None | Some(Distinct::All) => {}
        Some(_) => return Err(refuse("DISTINCT")),
    }
    match &select.group_by {
        GroupByExpr::Expressions(expressions, modifiers)
            if expressions.is_empty() && modifiers.is_empty() => {}
        _ => return Err(refuse("GROUP BY")),
    }
    for (is_there, what) in [
        (select.having.is_some(), "HAVING"),
        (select.qualify.is_some(), "QUALIFY"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.from.len() > 1, "a join"),
        (select.from.iter().any(|from| !from.joins.is_empty()), "a join"),
    ] {
        if is_there {
            return Err(refuse(what));
        }
    }
    let Some(from) = select.from.first() else {
        return Err(refuse("a SELECT that reads no location").hint("write SELECT … FROM @stage/path"));
    };
    match &from.relation {
        TableFactor::Table { args: Some(_), name, .. } => {
            return Err(refuse(format!("the table function {}", name.to_string().to_lowercase())));
        }
        TableFactor::Table { name, .. } if name.to_string().trim_matches('"').starts_with(STAGE) => {}
        TableFactor::Table { name, .. } => {
            return Err(Error::invalid(format!(
                "COPY INTO reads from a stage or a location, and '{name}' is the name of a table"
            ))
            .hint(format!("INSERT INTO … SELECT … FROM {name} reads tables; a stage is written @{name}")));
        }
        TableFactor::Derived { .. } => return Err(refuse("a subquery")),
        TableFactor::NestedJoin { .. } => return Err(refuse("a join")),
        TableFactor::UNNEST { .. } => return Err(refuse("the set-returning function unnest")),
        _ => return Err(refuse("this kind of source")),
    }
    let mut refusals = Refusals { found: None };
    let _ = select.projection.visit(&mut refusals);
    let _ = select.selection.visit(&mut refusals);
    refusals.found.map_or(Ok(()), Err)
}

/// Analyses the query inside the parentheses of COPY INTO; gives also the options that stand at its location.
pub(crate) fn analyze_transform(text: &str, tokens: &[Token]) -> Result<(AnalyzedTransform, StageSource)> {
    if !tokens
        .first()
        .is_some_and(|t| t.is_word("SELECT") || t.is_word("WITH") || t.is_sym("(") || t.is_word("VALUES"))
    {
        return Err(at_start(Error::invalid("expected SELECT … FROM a stage or location"), tokens));
    }
    let prepared = prepare(text, tokens)?;
    let mut query = parse_query(text, tokens, &prepared)?;
    check(&query).map_err(|e| at_start(e, tokens))?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::internal("a transform is no SELECT"));
    };
    let alias = match select.from.first().map(|from| &from.relation) {
        Some(TableFactor::Table { alias, .. }) => alias.as_ref().map(|alias| alias.name.value.to_lowercase()),
        _ => None,
    };
    let wildcards = select
        .projection
        .iter()
        .filter(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)))
        .count();
    if wildcards > 0 && select.projection.len() > 1 {
        return Err(at_start(refuse("'*' beside other expressions"), tokens));
    }
    let mut pieces: Vec<(Option<ColumnRef>, Option<SqlType>, Option<String>)> = Vec::new();
    if wildcards == 0 {
        for (i, item) in select.projection.iter_mut().enumerate() {
            let (expr, written) = match item {
                SelectItem::UnnamedExpr(expr) => (expr.clone(), None),
                SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), Some(alias.value.clone())),
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => continue,
            };
            let (source, cast) = simple_piece(&expr, alias.as_deref(), &prepared.types);
            pieces.push((source, cast, written));
            // By position, whatever the expressions are: two of them may be the same.
            *item = SelectItem::ExprWithAlias { expr, alias: quoted(&format!("__col_{i}")) };
        }
    } else if let Some(SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options)) =
        select.projection.first()
        && (options.opt_exclude.is_some()
            || options.opt_except.is_some()
            || options.opt_replace.is_some()
            || options.opt_rename.is_some()
            || options.opt_ilike.is_some())
    {
        return Err(at_start(refuse("'*' with EXCLUDE, REPLACE or RENAME"), tokens));
    }
    let parameters = prepared.parameters;
    let (query, mut rewriter) = rewrite(query, prepared)?;
    let columns = std::mem::take(&mut rewriter.columns);
    let mut relations = rewriter.relations.into_iter();
    let (relation, stage) = match (relations.next(), relations.next()) {
        (Some(RelationRef { name, target: RelationTarget::Stage(stage) }), None) => (name, stage),
        _ => return Err(Error::internal("a transform reads something else than one location")),
    };
    let sql = query.to_string();
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Err(Error::internal("a transform is no SELECT"));
    };
    let items = (wildcards == 0).then(|| {
        pieces
            .into_iter()
            .zip(&select.projection)
            .map(|((source, cast, alias), item)| {
                let sql = match item {
                    SelectItem::ExprWithAlias { expr, .. } | SelectItem::UnnamedExpr(expr) => {
                        expr.to_string()
                    }
                    other => other.to_string(),
                };
                TransformItem { source, cast, sql, alias }
            })
            .collect()
    });
    let transform = AnalyzedTransform {
        sql,
        relation,
        location: stage.location.clone(),
        items,
        filter: select.selection.as_ref().map(ToString::to_string),
        positions: stage.positions.clone(),
        columns,
        parameters,
    };
    Ok((transform, stage))
}

/// A column, or a cast of one.
fn simple_piece(expr: &Expr, alias: Option<&str>, types: &[SqlType]) -> (Option<ColumnRef>, Option<SqlType>) {
    match expr {
        Expr::Nested(inner) => simple_piece(inner, alias, types),
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
            array: false,
        } => {
            let ty = match data_type {
                DataType::Custom(name, _) => name
                    .to_string()
                    .strip_prefix(TYPE)
                    .and_then(|i| i.parse::<usize>().ok())
                    .and_then(|i| types.get(i)),
                _ => None,
            };
            match (column(expr, alias), ty) {
                (Some(source), Some(ty)) => (Some(source), Some(ty.clone())),
                _ => (None, None),
            }
        }
        other => (column(other, alias), None),
    }
}

fn column(expr: &Expr, alias: Option<&str>) -> Option<ColumnRef> {
    let of = |ident: &Ident| match position_of(&ident.value) {
        Some(position) => ColumnRef::Position(position),
        None => ColumnRef::Name(ident.value.clone()),
    };
    match expr {
        Expr::Nested(inner) => column(inner, alias),
        Expr::Identifier(ident) => Some(of(ident)),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [qualifier, ident] if alias.is_some_and(|alias| qualifier.value.to_lowercase() == alias) => {
                Some(of(ident))
            }
            _ => None,
        },
        _ => None,
    }
}
