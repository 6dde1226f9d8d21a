//! The expressions of a query: columns by name and by position, fields of VARIANT, casts and functions, as the worker
//! knows them.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg as LibArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, TableFactor,
    UnaryOperator, Value, ValueWithSpan, Visitor, WindowType,
};
use sqlparser::tokenizer::Span;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::relations::STREAM_STATUS;
use super::{Rewriter, functions};
use crate::ast::{RelationRef, RelationTarget, TableFunction};
use crate::query::names::{fold, is_rendered, place_of, quoted};
use crate::query::prepare::{PATH, TYPE};
use crate::query::table_functions;

impl Rewriter {
    /// Tells each stage relation which of its columns are read by position.
    pub(in crate::query) fn assign_positions(&mut self) -> Result<()> {
        for (qualifier, number, (line, column)) in std::mem::take(&mut self.positions) {
            let mut found = false;
            for (alias, index) in &self.stage_aliases {
                if qualifier.is_some() && qualifier != *alias {
                    continue;
                }
                found = true;
                if let Some(RelationRef { target: RelationTarget::Stage(source), .. }) =
                    self.relations.get_mut(*index)
                {
                    let mut positions: BTreeSet<u32> = source.positions.iter().copied().collect();
                    positions.insert(number);
                    source.positions = positions.into_iter().collect();
                }
            }
            if !found {
                return Err(Error::invalid(format!(
                    "${number} is a column of files by its position, and {}",
                    match &qualifier {
                        Some(qualifier) => format!("'{qualifier}' is no stage or location of the query"),
                        None => "the query reads no stage or location".to_owned(),
                    }
                ))
                .at(line, column));
            }
        }
        Ok(())
    }

    /// What must be changed of an expression before its operands are.
    pub(super) fn before_operands(&mut self, expr: &mut Expr) -> Result<()> {
        if let Expr::CompoundFieldAccess { root, access_chain } = expr {
            merge_root(root, access_chain);
        }
        if let Expr::Function(function) = expr {
            if is_stream_status(function) {
                *expr = self.stream_status(function)?;
            } else if let Some(other) = functions::replacement(function)? {
                *expr = other;
            }
        }
        Ok(())
    }

    /// Rewrites an expression whose operands are rewritten.
    pub(super) fn expression(&mut self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::Identifier(ident) if !is_rendered(ident) => {
                let ident = ident.clone();
                self.column(None, &ident);
                *expr = Expr::Identifier(quoted(&ident.value.to_lowercase()));
            }
            Expr::CompoundIdentifier(parts) if !parts.iter().all(is_rendered) => {
                let parts = std::mem::take(parts);
                *expr = self.compound(parts);
            }
            Expr::QualifiedWildcard(name, _) => self.qualifier(name),
            Expr::Cast { kind, expr: inner, data_type, format, array } => {
                if format.is_some() || *array {
                    return Err(Error::not_supported("CAST with FORMAT or ARRAY"));
                }
                let inner = std::mem::replace(inner.as_mut(), Expr::Identifier(Ident::new("")));
                *expr = self.cast(kind, inner, data_type)?;
            }
            Expr::TypedString(typed) => {
                if let Ok(ty) = SqlType::parse(&typed.data_type.to_string()) {
                    let value = Expr::Value(typed.value.clone());
                    *expr = call("__cast", vec![value, string(&ty.to_string())]);
                }
            }
            Expr::RLike { negated, expr: value, pattern, .. } => {
                let [value, pattern] = [value, pattern]
                    .map(|operand| std::mem::replace(operand.as_mut(), Expr::Identifier(Ident::new(""))));
                let matches = call("regexp_like", vec![value, pattern]);
                *expr = if *negated { not(matches) } else { matches };
            }
            Expr::BinaryOp { left, op: BinaryOperator::MyIntegerDivide, right } => {
                let [left, right] = [left, right]
                    .map(|operand| std::mem::replace(operand.as_mut(), Expr::Identifier(Ident::new(""))));
                *expr = call("__div", vec![left, right]);
            }
            Expr::Function(function) => {
                if let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice() {
                    *ident = Ident::new(ident.value.to_lowercase());
                }
                match &mut function.over {
                    Some(WindowType::NamedWindow(name)) => fold(name),
                    Some(WindowType::WindowSpec(spec)) => {
                        if let Some(name) = &mut spec.window_name {
                            fold(name);
                        }
                    }
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn column(&mut self, qualifier: Option<&Ident>, ident: &Ident) {
        if let Some(number) = position_of(&ident.value) {
            let qualifier = qualifier.map(|ident| ident.value.to_lowercase());
            self.positions.push((qualifier, number, place_of(ident)));
            return;
        }
        let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
        if !self.columns.contains(&name) {
            self.columns.push(name);
        }
    }

    /// `[db.]t.c`, `t.c`, or a field of a column: `c.f`.
    fn compound(&mut self, parts: Vec<Ident>) -> Expr {
        let mut parts = parts;
        let is_qualifier =
            |ident: &Ident, names: &HashSet<String>| names.contains(&ident.value.to_lowercase());
        // `db.t.c` where t is no column of db: tables go by their own name.
        if parts.len() >= 3
            && !parts.first().is_some_and(|first| is_qualifier(first, &self.qualifiers))
            && parts.get(1).is_some_and(|second| is_qualifier(second, &self.qualifiers))
        {
            parts.remove(0);
        }
        let qualified =
            parts.len() >= 2 && parts.first().is_some_and(|first| is_qualifier(first, &self.qualifiers));
        let mut rest = parts.into_iter();
        let qualifier = if qualified { rest.next() } else { None };
        let Some(column) = rest.next() else { return Expr::Identifier(Ident::new("")) };
        self.column(qualifier.as_ref(), &column);
        let path: Vec<serde_json::Value> = rest.map(|ident| serde_json::Value::from(ident.value)).collect();
        let column = quoted(&column.value.to_lowercase());
        let column = match qualifier {
            Some(qualifier) => {
                Expr::CompoundIdentifier(vec![quoted(&qualifier.value.to_lowercase()), column])
            }
            None => Expr::Identifier(column),
        };
        if path.is_empty() {
            return column;
        }
        call("__variant_get", vec![column, string(&serde_json::Value::from(path).to_string())])
    }

    fn cast(&mut self, kind: &CastKind, expr: Expr, data_type: &DataType) -> Result<Expr> {
        let name = match data_type {
            DataType::Custom(name, modifiers) if modifiers.is_empty() => name.to_string(),
            _ => return Err(Error::not_supported(format!("a cast to {data_type} here"))),
        };
        if let Some(path) = self.generated(&name, PATH).and_then(|i| self.paths.get(i)) {
            return Ok(call("__variant_get", vec![expr, string(path)]));
        }
        let Some(ty) = self.generated(&name, TYPE).and_then(|i| self.types.get(i)) else {
            return Err(Error::internal("the type of a cast is lost"));
        };
        let function = match kind {
            CastKind::Cast | CastKind::DoubleColon => "__cast",
            CastKind::TryCast | CastKind::SafeCast => "__try_cast",
        };
        Ok(call(function, vec![expr, string(&ty.to_string())]))
    }

    /// `STREAM_STATUS('s')` in an expression: what the table function gives.
    fn stream_status(&mut self, function: &Function) -> Result<Expr> {
        let FunctionArguments::List(list) = &function.args else {
            return Err(Error::invalid("stream_status takes the name of a stream in quotes"));
        };
        let arguments = self.constants(STREAM_STATUS, list.args.clone())?;
        table_functions::check(STREAM_STATUS, &arguments)?;
        let name = STREAM_STATUS.to_owned();
        let index = self.add_relation(RelationTarget::Function(TableFunction { name, arguments }));
        // As it is printed: nothing in it is to be rewritten.
        let text = format!("(SELECT \"has_data\" FROM \"__rel_{index}\")");
        Ok(Expr::Value(ValueWithSpan { value: Value::Placeholder(text), span: Span::empty() }))
    }

    /// `t.*` and `db.t.*`: tables are aliased to their own names.
    pub(super) fn qualifier(&self, name: &mut ObjectName) {
        if let Some(ObjectNamePart::Identifier(last)) = name.0.last().cloned()
            && !is_rendered(&last)
        {
            *name = ObjectName(vec![ObjectNamePart::Identifier(quoted(&last.value.to_lowercase()))]);
        }
    }
}

fn is_stream_status(function: &Function) -> bool {
    matches!(function.name.0.as_slice(), [ObjectNamePart::Identifier(name)]
        if name.value.eq_ignore_ascii_case(STREAM_STATUS))
}

/// Names that qualify columns: aliases, tables, CTEs.
pub(super) struct Qualifiers<'a> {
    pub(super) names: &'a mut HashSet<String>,
}

impl Visitor for Qualifiers<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.names.insert(cte.alias.name.value.to_lowercase());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let alias = match factor {
            TableFactor::Table { name, alias, .. } => {
                if alias.is_none()
                    && let Some(ObjectNamePart::Identifier(last)) = name.0.last()
                {
                    self.names.insert(last.value.to_lowercase());
                }
                alias
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => alias,
            _ => return ControlFlow::Continue(()),
        };
        if let Some(alias) = alias {
            self.names.insert(alias.name.value.to_lowercase());
        }
        ControlFlow::Continue(())
    }
}

/// The n of `$n`.
pub(in crate::query) fn position_of(name: &str) -> Option<u32> {
    name.strip_prefix('$').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Makes the names at the head of `a.b[1]` one compound name.
fn merge_root(root: &mut Expr, chain: &mut Vec<AccessExpr>) {
    let Expr::Identifier(first) = root else { return };
    let names =
        chain.iter().take_while(|access| matches!(access, AccessExpr::Dot(Expr::Identifier(_)))).count();
    if names == 0 {
        return;
    }
    let mut parts = vec![first.clone()];
    for access in chain.drain(..names) {
        if let AccessExpr::Dot(Expr::Identifier(ident)) = access {
            parts.push(ident);
        }
    }
    *root = Expr::CompoundIdentifier(parts);
}

/// A string literal that prints in standard SQL.
pub(super) fn literal(text: &str) -> Value {
    // As with names, the library's quoting cannot be relied on where quotes are inside; a placeholder
    // is printed as it is.
    if text.contains('\'') {
        Value::Placeholder(format!("'{}'", text.replace('\'', "''")))
    } else {
        Value::SingleQuotedString(text.to_owned())
    }
}

fn not(expr: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }))
}

pub(super) fn string(text: &str) -> Expr {
    Expr::Value(ValueWithSpan { value: literal(text), span: Span::empty() })
}

pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(|arg| LibArg::Unnamed(FunctionArgExpr::Expr(arg))).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
