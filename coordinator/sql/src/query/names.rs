//! The names of a query's output columns, and names as they are rendered.
//!
//! An item of the outermost SELECT keeps its alias as written; an expression without one is named by
//! its own text; a plain column is left to the worker, which knows how the table spells it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    ExcludeSelectItem, Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, ObjectNamePart, OrderByKind,
    Query, RenameSelectItem, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias,
    TableFactor, TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use sqlparser::tokenizer::Span;

/// A name in double quotes that prints exactly so.
pub(super) fn quoted(name: &str) -> Ident {
    // The library's own quoting leaves quotes alone that look escaped; a name without a quote style
    // is printed as it is.
    Ident { value: format!("\"{}\"", name.replace('"', "\"\"")), quote_style: None, span: Span::empty() }
}

/// Whether a name is rendered already.
pub(super) fn is_rendered(ident: &Ident) -> bool {
    ident.quote_style.is_none() && ident.value.starts_with('"')
}

/// Renders a name for matching in any case: in lower case.
pub(super) fn fold(ident: &mut Ident) {
    if !is_rendered(ident) {
        *ident = quoted(&ident.value.to_lowercase());
    }
}

/// The line and column where a name stands.
pub(super) fn place_of(ident: &Ident) -> (u32, u32) {
    let start = ident.span.start;
    (
        u32::try_from(start.line).unwrap_or(u32::MAX).max(1),
        u32::try_from(start.column).unwrap_or(u32::MAX).max(1),
    )
}

/// Folds an alias and the columns it names; with AS, so that any word may be one.
pub(super) fn fold_alias(alias: Option<&mut TableAlias>) {
    if let Some(alias) = alias {
        alias.explicit = true;
        fold(&mut alias.name);
        for column in &mut alias.columns {
            fold(&mut column.name);
        }
    }
}

/// The names in what follows `*`.
pub(super) fn fold_wildcard(options: &mut WildcardAdditionalOptions) {
    if let Some(exclude) = &mut options.opt_exclude {
        match exclude {
            ExcludeSelectItem::Single(ident) => fold(ident),
            ExcludeSelectItem::Multiple(idents) => idents.iter_mut().for_each(fold),
        }
    }
    if let Some(except) = &mut options.opt_except {
        fold(&mut except.first_element);
        except.additional_elements.iter_mut().for_each(fold);
    }
    if let Some(replace) = &mut options.opt_replace {
        for item in &mut replace.items {
            fold(&mut item.column_name);
        }
    }
    match &mut options.opt_rename {
        Some(RenameSelectItem::Single(item)) => {
            fold(&mut item.ident);
            fold(&mut item.alias);
        }
        Some(RenameSelectItem::Multiple(items)) => {
            for item in items {
                fold(&mut item.ident);
                fold(&mut item.alias);
            }
        }
        None => {}
    }
}

/// The columns of USING, in joins and in joins inside parentheses.
pub(super) fn fold_joins(from: &mut TableWithJoins) {
    for join in &mut from.joins {
        let constraint = match &mut join.join_operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)
            | JoinOperator::CrossJoin(constraint)
            | JoinOperator::Semi(constraint)
            | JoinOperator::LeftSemi(constraint)
            | JoinOperator::RightSemi(constraint)
            | JoinOperator::Anti(constraint)
            | JoinOperator::LeftAnti(constraint)
            | JoinOperator::RightAnti(constraint)
            | JoinOperator::StraightJoin(constraint) => constraint,
            JoinOperator::AsOf { constraint, .. } => constraint,
            JoinOperator::CrossApply | JoinOperator::OuterApply => continue,
        };
        if let JoinConstraint::Using(columns) = constraint {
            for part in columns.iter_mut().flat_map(|name| &mut name.0) {
                if let ObjectNamePart::Identifier(ident) = part {
                    fold(ident);
                }
            }
        }
        if let TableFactor::NestedJoin { table_with_joins, .. } = &mut join.relation {
            fold_joins(table_with_joins);
        }
    }
    if let TableFactor::NestedJoin { table_with_joins, .. } = &mut from.relation {
        fold_joins(table_with_joins);
    }
}

/// The SELECT whose items name the output.
fn outermost_select(query: &mut Query) -> Option<&mut Select> {
    let mut body = query.body.as_mut();
    loop {
        match body {
            SetExpr::Select(select) => return Some(select),
            SetExpr::SetOperation { left, .. } => body = left.as_mut(),
            SetExpr::Query(inner) => body = inner.body.as_mut(),
            _ => return None,
        }
    }
}

/// The column that an expression is: its name, and the whole of it as written.
fn column_of(expr: &Expr) -> Option<(String, String)> {
    let parts: Vec<String> = match expr {
        Expr::Identifier(ident) => vec![ident.value.to_lowercase()],
        Expr::CompoundIdentifier(parts) => parts.iter().map(|part| part.value.to_lowercase()).collect(),
        _ => return None,
    };
    Some((parts.last()?.clone(), parts.join(".")))
}

/// Gives an alias to every plain column that a SELECT has already, by name or by `*`: the engine takes none twice.
/// The first repetition of `a` is named `a_2`.
pub(super) fn number_repeats(tree: &mut impl VisitMut) {
    let _ = tree.visit(&mut Repeats);
}

struct Repeats;

impl VisitorMut for Repeats {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // Queries in parentheses are visited by themselves.
        let mut bodies = vec![query.body.as_mut()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => number_repeats_of(select),
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_mut(), right.as_mut()]),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

fn number_repeats_of(select: &mut Select) {
    let mut taken: HashSet<String> = HashSet::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut stars: HashSet<String> = HashSet::new();
    let mut every_column = false;
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => taken.extend(column_of(expr).map(|(name, _)| name)),
            SelectItem::ExprWithAlias { alias, .. } => drop(taken.insert(alias.value.to_lowercase())),
            SelectItem::Wildcard(options) => every_column |= leaves_all(options),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
                if leaves_all(options) =>
            {
                if let Some(ObjectNamePart::Identifier(last)) = name.0.last() {
                    stars.insert(last.value.to_lowercase());
                }
            }
            SelectItem::QualifiedWildcard(..) => {}
        }
    }
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let Some((name, whole)) = column_of(expr) else { continue };
        let qualifier = whole.strip_suffix(&format!(".{name}")).and_then(|rest| rest.rsplit('.').next());
        let is_in_star = every_column || qualifier.is_some_and(|qualifier| stars.contains(qualifier));
        if seen.insert(whole) && !is_in_star {
            continue;
        }
        let alias = unique(name, &mut taken, &HashSet::new());
        let expr = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) };
    }
}

/// Whether `*` is every column.
fn leaves_all(options: &WildcardAdditionalOptions) -> bool {
    options.opt_exclude.is_none() && options.opt_except.is_none() && options.opt_rename.is_none()
}

/// Gives the items of the outermost SELECT their output names, and references to them in ORDER BY,
/// GROUP BY, HAVING and QUALIFY the same spelling.
pub(super) fn name_outputs(query: &mut Query, texts: &[String]) {
    let Some(select) = outermost_select(query) else { return };
    let texts = if texts.len() == select.projection.len() { texts } else { &[] };
    let mut taken: HashSet<String> = HashSet::new();
    let mut columns: HashSet<String> = HashSet::new();
    let mut aliases: Vec<String> = Vec::new();
    for (i, item) in select.projection.iter_mut().enumerate() {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                if let Some((name, _)) = column_of(expr) {
                    columns.insert(name);
                    continue;
                }
                let text = texts.get(i).filter(|text| !text.is_empty());
                let name = unique(text.cloned().unwrap_or_else(|| expr.to_string()), &mut taken, &columns);
                let expr = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
                *item = SelectItem::ExprWithAlias { expr, alias: quoted(&name) };
            }
            SelectItem::ExprWithAlias { alias, .. } => {
                let name = unique(alias.value.clone(), &mut taken, &HashSet::new());
                aliases.push(name.clone());
                *alias = quoted(&name);
            }
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {}
        }
    }
    // A reference in lower case already matches an alias in lower case.
    aliases.retain(|alias| alias.chars().any(char::is_uppercase));
    if aliases.is_empty() {
        return;
    }
    let mut spelling = Spelling { aliases };
    let is_plain = matches!(query.body.as_ref(), SetExpr::Select(_));
    if let Some(order_by) = &mut query.order_by
        && let OrderByKind::Expressions(expressions) = &mut order_by.kind
    {
        for expression in expressions {
            let _ = VisitMut::visit(&mut expression.expr, &mut spelling);
        }
    }
    if !is_plain {
        return;
    }
    if let Some(select) = outermost_select(query) {
        if let GroupByExpr::Expressions(expressions, _) = &mut select.group_by {
            for expression in expressions {
                let _ = VisitMut::visit(expression, &mut spelling);
            }
        }
        for condition in [&mut select.having, &mut select.qualify].into_iter().flatten() {
            let _ = VisitMut::visit(condition, &mut spelling);
        }
    }
}

/// A name that none before has, by a number after it where needed.
fn unique(name: String, taken: &mut HashSet<String>, columns: &HashSet<String>) -> String {
    let mut candidate = name.clone();
    let mut number = 2usize;
    while taken.contains(&candidate) || columns.contains(&candidate) {
        candidate = format!("{name}_{number}");
        number += 1;
    }
    taken.insert(candidate.clone());
    candidate
}

struct Spelling {
    aliases: Vec<String>,
}

impl VisitorMut for Spelling {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        // Inside a subquery the names are others.
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr {
            let folded = ident.value.to_lowercase();
            if let Some(alias) = self.aliases.iter().find(|alias| alias.to_lowercase() == folded) {
                *ident = quoted(alias);
            }
        }
        ControlFlow::Continue(())
    }
}
