//! Names in a rendered query: which columns it mentions, and the columns that it means.
//!
//! Identifiers of the dialect are case-insensitive, DataFusion's are not. So before planning, every
//! identifier that is no exact name of a column in scope is replaced by the first one that equals it in
//! another case. Relations have their columns in lower case here; how results are spelt is told in
//! `spelling`. Stage relations get two rules of theirs here: `*` leaves out `$1` and `metadata$…`, and is
//! refused on CSV and TSV.
//!
//! Comes in: the statement as parsed, and the columns of each relation. Goes out: the statement, changed.
//! A name that matches nothing is left for the planner to report.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    ObjectNamePart, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement, TableFactor, Values, Visit, VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
};
use stevedore_common::{Error, Result};

/// The columns of one relation.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelationColumns {
    /// All of them, in order.
    pub columns: Vec<String>,
    /// Those that `*` leaves out.
    pub hidden: BTreeSet<String>,
    /// Why `*` is refused, if it is.
    pub star_refused: Option<&'static str>,
}

/// A column of VALUES where one row calls PARSE_JSON is a VARIANT in every row: the planner wants all rows
/// of one kind, so the literals of the others (NULL, JSON text) are parsed too.
fn align_variants(values: &mut Values) {
    let parses = |expr: &Expr| match expr {
        Expr::Function(function) => {
            let name = function.name.to_string();
            ["parse_json", "try_parse_json"].iter().any(|known| name.eq_ignore_ascii_case(known))
        }
        _ => false,
    };
    let width = values.rows.first().map_or(0, Vec::len);
    for column in 0..width {
        let Some(call) =
            values.rows.iter().filter_map(|row| row.get(column)).find(|expr| parses(expr)).cloned()
        else {
            continue;
        };
        for expr in values.rows.iter_mut().filter_map(|row| row.get_mut(column)) {
            if !matches!(expr, Expr::Value(_)) {
                continue;
            }
            let mut call = call.clone();
            if let Expr::Function(function) = &mut call
                && let FunctionArguments::List(list) = &mut function.args
                && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_mut_slice()
            {
                *argument = expr.clone();
                *expr = call;
            }
        }
    }
}

/// The columns of the relations of a query, by generated name.
pub(crate) type Relations = HashMap<String, RelationColumns>;

/// Every identifier that stands where a column may stand, and every alias, as written.
pub(crate) fn mentioned(statement: &Statement) -> BTreeSet<String> {
    struct Mentioned(BTreeSet<String>);
    impl Visitor for Mentioned {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(ident) => {
                    self.0.insert(ident.value.clone());
                }
                Expr::CompoundIdentifier(idents) => {
                    self.0.extend(idents.iter().skip(1).map(|ident| ident.value.clone()));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let mut visitor = Mentioned(BTreeSet::new());
    let _ = statement.visit(&mut visitor);
    visitor.0
}

/// Whether the statement has a `*` anywhere in a select list.
pub(crate) fn has_star(statement: &Statement) -> bool {
    struct Star;
    impl Visitor for Star {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let mut found = false;
            for_each_select(&query.body, &mut |select| found |= select.projection.iter().any(is_star));
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    statement.visit(&mut Star).is_break()
}

fn is_star(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

fn for_each_select(body: &SetExpr, f: &mut impl FnMut(&Select)) {
    match body {
        SetExpr::Select(select) => f(select),
        SetExpr::SetOperation { left, right, .. } => {
            for_each_select(left, f);
            for_each_select(right, f);
        }
        _ => {}
    }
}

/// Replaces the names of a statement by those of the columns that they mean.
///
/// # Errors
/// Invalid input for `*` where it is refused.
pub(crate) fn resolve(statement: &mut Statement, relations: &Relations) -> Result<()> {
    let mut aliases = Aliases::default();
    let _ = Visit::visit(statement, &mut aliases);
    let mut resolver = Resolver { relations, aliases, scopes: Vec::new() };
    resolver.statement(statement)
}

/// The names that the query itself gives.
#[derive(Debug, Default)]
struct Aliases {
    columns: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Visitor for Aliases {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for_each_select(&query.body, &mut |select| {
            for item in &select.projection {
                if let SelectItem::ExprWithAlias { alias, .. } = item {
                    self.columns.insert(alias.value.clone());
                }
            }
        });
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.tables.insert(cte.alias.name.value.clone());
            self.columns.extend(cte.alias.columns.iter().map(|column| column.name.value.clone()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. } = factor
        {
            self.tables.insert(alias.name.value.clone());
            self.columns.extend(alias.columns.iter().map(|column| column.name.value.clone()));
        }
        ControlFlow::Continue(())
    }
}

/// A table of a FROM list.
#[derive(Debug, Clone)]
struct ScopeTable {
    alias: String,
    /// The generated name, where it is a relation of the query rather than a subquery.
    relation: Option<String>,
}

struct Resolver<'a> {
    relations: &'a Relations,
    aliases: Aliases,
    /// The FROM lists around the expression, innermost last.
    scopes: Vec<Vec<ScopeTable>>,
}

impl Resolver<'_> {
    fn statement(&mut self, statement: &mut Statement) -> Result<()> {
        match statement {
            Statement::Query(query) => self.query(query),
            Statement::Explain { statement, .. } => self.statement(statement),
            _ => Ok(()),
        }
    }

    fn query(&mut self, query: &mut Query) -> Result<()> {
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            self.query(&mut cte.query)?;
        }
        let mut tables = Vec::new();
        self.body(&mut query.body, &mut tables)?;
        self.scopes.push(tables);
        let mut result = Ok(());
        if let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(exprs) = &mut order_by.kind
        {
            for expr in exprs {
                // In ORDER BY the query's own aliases come first.
                if let Expr::Identifier(ident) = &expr.expr
                    && self.aliases.columns.contains(&ident.value)
                {
                    continue;
                }
                result = result.and(self.expressions(expr));
            }
        }
        self.scopes.pop();
        result
    }

    fn body(&mut self, body: &mut SetExpr, tables: &mut Vec<ScopeTable>) -> Result<()> {
        match body {
            SetExpr::Select(select) => self.select(select, tables),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, tables)?;
                self.body(right, tables)
            }
            SetExpr::Values(values) => {
                align_variants(values);
                self.expressions(values)
            }
            _ => Ok(()),
        }
    }

    fn select(&mut self, select: &mut Select, tables: &mut Vec<ScopeTable>) -> Result<()> {
        let mut own = Vec::new();
        for table in &select.from {
            scope_table(&table.relation, self.relations, &mut own);
            for join in &table.joins {
                scope_table(&join.relation, self.relations, &mut own);
            }
        }
        self.stars(select, &own)?;
        tables.extend(own.iter().cloned());
        self.scopes.push(own);
        let result = self.expressions(select);
        self.scopes.pop();
        result
    }

    fn stars(&self, select: &mut Select, tables: &[ScopeTable]) -> Result<()> {
        for item in &mut select.projection {
            let (options, qualifier): (&mut WildcardAdditionalOptions, Option<String>) = match item {
                SelectItem::Wildcard(options) => (options, None),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                    if let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut()
                        && let Some(table) = find_table(tables, &ident.value)
                    {
                        ident.value.clone_from(&table.alias);
                    }
                    (options, last_part(name))
                }
                _ => continue,
            };
            let mut hidden = BTreeSet::new();
            for table in tables {
                if qualifier.as_ref().is_some_and(|name| *name != table.alias) {
                    continue;
                }
                let Some(columns) = table.relation.as_ref().and_then(|name| self.relations.get(name)) else {
                    continue;
                };
                if let Some(reason) = columns.star_refused {
                    return Err(Error::invalid(format!("SELECT * is not possible here: {reason}"))
                        .hint("name the columns: SELECT $1, $2, …"));
                }
                hidden.extend(columns.hidden.iter().cloned());
            }
            match &mut options.opt_exclude {
                Some(ExcludeSelectItem::Single(ident)) => {
                    hidden.insert(ident.value.clone());
                }
                Some(ExcludeSelectItem::Multiple(idents)) => {
                    hidden.extend(idents.iter().map(|ident| ident.value.clone()));
                }
                None => {}
            }
            if !hidden.is_empty() {
                options.opt_exclude = Some(ExcludeSelectItem::Multiple(
                    hidden.into_iter().map(|name| Ident::with_quote('"', name)).collect(),
                ));
            }
        }
        Ok(())
    }

    /// Resolves the identifiers of a part of the tree; queries inside it get scopes of their own.
    fn expressions<T: VisitMut>(&mut self, part: &mut T) -> Result<()> {
        let mut visitor = Identifiers { resolver: self, depth: 0 };
        match part.visit(&mut visitor) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn column(&self, ident: &mut Ident) {
        for scope in self.scopes.iter().rev() {
            let names: Vec<&str> = scope.iter().flat_map(|table| self.columns_of(table)).collect();
            match find_name(names.iter().copied(), &ident.value) {
                Found::Exact => return,
                Found::Other(name) => return replace(ident, name),
                Found::Nothing => {}
            }
        }
        match find_name(self.aliases.columns.iter().map(String::as_str), &ident.value) {
            Found::Exact => return,
            Found::Other(name) => return replace(ident, name),
            Found::Nothing => {}
        }
        let all: BTreeSet<&str> = self
            .relations
            .values()
            .flat_map(|relation| relation.columns.iter().map(String::as_str))
            .collect();
        if let Found::Other(name) = find_name(all.into_iter(), &ident.value) {
            replace(ident, name);
        }
    }

    fn qualified(&self, idents: &mut [Ident]) {
        let [qualifier, rest @ ..] = idents else { return };
        let table = self.scopes.iter().rev().find_map(|scope| find_table(scope, &qualifier.value));
        let Some(table) = table else {
            // Perhaps a struct column and its field.
            match find_name(self.aliases.tables.iter().map(String::as_str), &qualifier.value) {
                Found::Other(name) => replace(qualifier, name),
                Found::Exact => {}
                Found::Nothing => return self.column(qualifier),
            }
            if let Some(first) = rest.first_mut() {
                self.column(first);
            }
            return;
        };
        if qualifier.value != table.alias {
            replace(qualifier, &table.alias);
        }
        let Some(first) = rest.first_mut() else { return };
        if table.relation.is_none() {
            return self.column(first);
        }
        if let Found::Other(name) = find_name(self.columns_of(table).into_iter(), &first.value) {
            replace(first, name);
        }
    }

    fn columns_of(&self, table: &ScopeTable) -> Vec<&str> {
        table
            .relation
            .as_ref()
            .and_then(|name| self.relations.get(name))
            .map(|relation| relation.columns.iter().map(String::as_str).collect())
            .unwrap_or_default()
    }
}

struct Identifiers<'r, 'a> {
    resolver: &'r mut Resolver<'a>,
    depth: usize,
}

impl VisitorMut for Identifiers<'_, '_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.depth += 1;
        if self.depth == 1
            && let Err(error) = self.resolver.query(query)
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if self.depth == 0 {
            match expr {
                Expr::Identifier(ident) => self.resolver.column(ident),
                Expr::CompoundIdentifier(idents) => self.resolver.qualified(idents),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

fn scope_table(factor: &TableFactor, relations: &Relations, scope: &mut Vec<ScopeTable>) {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let Some(relation) = last_part(name) else { return };
            let alias = alias.as_ref().map_or_else(|| relation.clone(), |alias| alias.name.value.clone());
            let relation = relations.contains_key(&relation).then_some(relation);
            scope.push(ScopeTable { alias, relation });
        }
        TableFactor::Derived { alias: Some(alias), .. } => {
            scope.push(ScopeTable { alias: alias.name.value.clone(), relation: None });
        }
        TableFactor::NestedJoin { table_with_joins, .. } => {
            scope_table(&table_with_joins.relation, relations, scope);
            for join in &table_with_joins.joins {
                scope_table(&join.relation, relations, scope);
            }
        }
        _ => {}
    }
}

fn last_part(name: &ObjectName) -> Option<String> {
    match name.0.last()? {
        ObjectNamePart::Identifier(ident) => Some(ident.value.clone()),
        ObjectNamePart::Function(_) => None,
    }
}

fn find_table<'t>(scope: &'t [ScopeTable], name: &str) -> Option<&'t ScopeTable> {
    scope
        .iter()
        .find(|table| table.alias == name)
        .or_else(|| scope.iter().find(|table| table.alias.eq_ignore_ascii_case(name)))
}

enum Found<'n> {
    Exact,
    Other(&'n str),
    Nothing,
}

/// The first name that equals the wanted one in another case, unless one equals it exactly.
fn find_name<'n>(names: impl Iterator<Item = &'n str>, wanted: &str) -> Found<'n> {
    let folded = wanted.to_lowercase();
    let mut other: Option<&str> = None;
    for name in names {
        if name == wanted {
            return Found::Exact;
        }
        if other.is_none() && name.to_lowercase() == folded {
            other = Some(name);
        }
    }
    other.map_or(Found::Nothing, Found::Other)
}

fn replace(ident: &mut Ident, name: &str) {
    ident.value = name.to_owned();
    ident.quote_style = Some('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn resolved(sql: &str, relations: &[(&str, &[&str])]) -> String {
        let relations: Relations = relations
            .iter()
            .map(|(name, columns)| {
                let columns = columns.iter().map(|column| (*column).to_owned()).collect();
                ((*name).to_owned(), RelationColumns { columns, ..RelationColumns::default() })
            })
            .collect();
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql).unwrap().remove(0);
        resolve(&mut statement, &relations).unwrap();
        statement.to_string()
    }

    #[test]
    fn names_match_in_any_case_and_exact_ones_win() {
        let relations: &[(&str, &[&str])] = &[("__rel_0", &["Id", "name", "NAME"])];
        assert_eq!(
            resolved("SELECT ID, name, T.NAME FROM \"__rel_0\" AS t WHERE id > 1 ORDER BY iD", relations),
            "SELECT \"Id\", name, \"t\".NAME FROM \"__rel_0\" AS t WHERE \"Id\" > 1 ORDER BY \"Id\""
        );
    }

    #[test]
    fn each_select_has_its_own_scope() {
        let relations: &[(&str, &[&str])] = &[("__rel_0", &["ID"]), ("__rel_1", &["id"])];
        assert_eq!(
            resolved("SELECT Id FROM \"__rel_0\" UNION ALL SELECT Id FROM \"__rel_1\"", relations),
            "SELECT \"ID\" FROM \"__rel_0\" UNION ALL SELECT \"id\" FROM \"__rel_1\""
        );
        assert_eq!(
            resolved(
                "SELECT X FROM (SELECT Id AS x FROM \"__rel_0\" WHERE EXISTS (SELECT 1 FROM \"__rel_1\" b WHERE B.ID = 1)) s",
                relations
            ),
            "SELECT \"x\" FROM (SELECT \"ID\" AS x FROM \"__rel_0\" WHERE EXISTS (SELECT 1 FROM \"__rel_1\" b WHERE \"b\".\"id\" = 1)) s"
        );
    }

    #[test]
    fn an_alias_wins_in_order_by() {
        let relations: &[(&str, &[&str])] = &[("__rel_0", &["a"])];
        assert_eq!(
            resolved("SELECT a AS A FROM \"__rel_0\" ORDER BY A", relations),
            "SELECT a AS A FROM \"__rel_0\" ORDER BY A"
        );
    }
}
