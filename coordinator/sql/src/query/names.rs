//! The names of a query's output columns, and names as they are rendered.
//!
//! An item of the outermost SELECT keeps its alias as written; an expression without one is named by
//! its own text; a plain column is left to the worker, which knows how the table spells it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, VisitMut, VisitorMut,
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
                let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                if is_column && columns.insert(expr.to_string().to_lowercase()) {
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
