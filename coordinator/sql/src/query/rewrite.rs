//! The rewriting of a query's tree into what a worker runs; [`crate::render`] says what that is.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, CastKind, DataType, Expr, Function, FunctionArg as LibArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, JoinConstraint, JoinOperator, LimitClause, ObjectName,
    ObjectNamePart, Offset, OffsetRows, Query, RenameSelectItem, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Statement, TableAlias, TableFactor, TableFunctionArgs,
    TableWithJoins, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
    WindowType,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::mutation::TARGET;
use super::names::{fold, is_rendered, quoted};
use super::prepare::{PATH, Prepared, STAGE, TYPE};
use super::suffix::{Found, Suffix};
use crate::ast::{FunctionArg, ObjectRef, RelationRef, RelationTarget, StageSource, TableFunction};

/// Table functions of the dialect.
const OWN_FUNCTIONS: &[&str] = &[
    "list_stage",
    "infer_schema",
    "inspect_parquet",
    "copy_history",
    "task_history",
    STREAM_STATUS,
    "system.snapshots",
];
/// Whether a stream has changes: a table function, and a function in expressions.
pub(super) const STREAM_STATUS: &str = "stream_status";
/// Table functions that the dialect has and nobody answers yet.
const LATER_FUNCTIONS: &[&str] = &["flatten", "numbers", "fuse_snapshot", "fuse_segment", "fuse_block"];
/// Table functions of the worker's engine.
const ENGINE_FUNCTIONS: &[&str] = &["range", "generate_series", "unnest"];

/// A time that is written as `TO_TIMESTAMP('…')` or with a cast, as the text in it.
fn without_timestamp(expr: Expr) -> Expr {
    match expr {
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("to_timestamp") => {
            let argument = match &function.args {
                FunctionArguments::List(list) => match list.args.as_slice() {
                    [LibArg::Unnamed(FunctionArgExpr::Expr(only))] => Some(only.clone()),
                    _ => None,
                },
                _ => None,
            };
            argument.unwrap_or(Expr::Function(function))
        }
        Expr::Cast { expr, .. } => without_timestamp(*expr),
        Expr::TypedString(typed) => Expr::Value(typed.value),
        other => other,
    }
}

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

    /// Tells each stage relation which of its columns are read by position.
    pub(super) fn assign_positions(&mut self) -> Result<()> {
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

    /// What stands behind a name, before its alias.
    fn suffix_of(&mut self, name: &Ident) -> Option<Found> {
        let start = name.span.start;
        let found = self.suffixes.iter().position(|found| found.after == (start.line, start.column))?;
        Some(self.suffixes.remove(found))
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

    fn add_relation(&mut self, target: RelationTarget) -> usize {
        if !matches!(target, RelationTarget::Stage(_) | RelationTarget::Target(_))
            && let Some(known) = self.relations.iter().position(|relation| relation.target == target)
        {
            return known;
        }
        let index = self.relations.len();
        self.relations.push(RelationRef { name: format!("__rel_{index}"), target });
        index
    }

    fn generated(&self, name: &str, prefix: &str) -> Option<usize> {
        name.strip_prefix(prefix).and_then(|digits| digits.parse().ok())
    }

    // --- relations --------------------------------------------------------------------------------

    fn table(&mut self, name: &mut ObjectName, alias: &mut Option<TableAlias>) -> Result<()> {
        let mut parts: Vec<&Ident> = Vec::new();
        for part in &name.0 {
            match part {
                ObjectNamePart::Identifier(ident) => parts.push(ident),
                ObjectNamePart::Function(_) => return Err(Error::invalid("a function cannot name a table")),
            }
        }
        let Some(last) = parts.last().copied().cloned() else {
            return Err(Error::invalid("a table has no name"));
        };
        let place = place_of(&last);
        let suffix = self.suffix_of(&last);
        let no_suffix = |what: &str| match &suffix {
            Some(Found { suffix, place: (line, column), .. }) => {
                let (why, hint) = match suffix {
                    Suffix::At(_) => ("it has no snapshots", "AT (…) follows the name of a table"),
                    Suffix::With(_) => ("it is not consumed", "WITH … follows the name of a stream"),
                };
                let error = Error::not_supported(format!("{} on {what}: {why}", suffix.shown()));
                Err(error.hint(hint).at(*line, *column))
            }
            None => Ok(()),
        };
        if let ([only], Some(stage)) = (parts.as_slice(), self.generated(&last.value, STAGE)) {
            let _ = only;
            no_suffix("a stage or location")?;
            let source = self.stages.get_mut(stage).and_then(Option::take);
            let source = source.ok_or_else(|| Error::internal("a location of the query is lost"))?;
            let index = self.add_relation(RelationTarget::Stage(source));
            *name = relation_name(index);
            self.stage_aliases.push((alias.as_ref().map(|alias| alias.name.value.to_lowercase()), index));
            fold_alias(alias.as_mut());
            return Ok(());
        }
        if last.value == TARGET
            && let Some(target) = self.target.take()
        {
            let index = self.add_relation(RelationTarget::Target(target));
            self.target_relation = Some(format!("__rel_{index}"));
            *name = relation_name(index);
            fold_alias(alias.as_mut());
            return Ok(());
        }
        let object = |ident: &Ident| {
            if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
        };
        let table = match parts.as_slice() {
            [table] if self.is_cte(&table.value.to_lowercase()) => {
                no_suffix(&format!("'{}', a query of WITH", table.value))?;
                *name = ObjectName(vec![ObjectNamePart::Identifier(quoted(&last.value.to_lowercase()))]);
                fold_alias(alias.as_mut());
                return Ok(());
            }
            [table] => ObjectRef { database: None, name: object(table) },
            [database, table] => ObjectRef { database: Some(object(database)), name: object(table) },
            _ => {
                return Err(
                    Error::invalid("a name has at most two parts: database.name").at(place.0, place.1)
                );
            }
        };
        let index = self.add_relation(match suffix.map(|found| found.suffix) {
            Some(Suffix::At(at)) => RelationTarget::TableAt { table, at },
            Some(Suffix::With(options)) => RelationTarget::Stream { stream: table, options },
            None => RelationTarget::Table(table),
        });
        *name = relation_name(index);
        match alias {
            Some(_) => fold_alias(alias.as_mut()),
            None => {
                let name = quoted(&last.value.to_lowercase());
                *alias = Some(TableAlias { explicit: true, name, columns: Vec::new() });
            }
        }
        Ok(())
    }

    /// A table function: ours becomes a relation, the engine's stays.
    fn function(&mut self, name: &mut ObjectName, args: &mut Option<TableFunctionArgs>) -> Result<()> {
        let (ident, function) = match name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => (ident.clone(), ident.value.to_lowercase()),
            [ObjectNamePart::Identifier(database), ObjectNamePart::Identifier(ident)] => {
                (database.clone(), format!("{}.{}", database.value, ident.value).to_lowercase())
            }
            _ => return Err(Error::invalid(format!("unknown table function '{name}'"))),
        };
        let (line, column) = place_of(&ident);
        if LATER_FUNCTIONS.contains(&function.as_str()) {
            return Err(Error::not_supported_yet(format!("the table function {function}")).at(line, column));
        }
        if ENGINE_FUNCTIONS.contains(&function.as_str()) {
            self.reads_elsewhere = true;
            *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(function))]);
            return Ok(());
        }
        if !OWN_FUNCTIONS.contains(&function.as_str()) {
            return Err(Error::invalid(format!("unknown table function '{function}'"))
                .hint(
                    "known are list_stage, infer_schema, inspect_parquet, copy_history, task_history, stream_status, system.snapshots, \
                     range, \
                     generate_series, unnest",
                )
                .at(line, column));
        }
        let args = args.take().map(|args| args.args).unwrap_or_default();
        let arguments = constants(&function, args).map_err(|e| e.at(line, column))?;
        super::table_functions::check(&function, &arguments).map_err(|e| e.at(line, column))?;
        let index = self.add_relation(RelationTarget::Function(TableFunction { name: function, arguments }));
        *name = relation_name(index);
        Ok(())
    }

    fn table_factor(&mut self, factor: &mut TableFactor) -> Result<()> {
        // TABLE(f(…)) is another way to write f(…).
        if let TableFactor::TableFunction { expr: Expr::Function(function), alias } = factor {
            let args = match &function.args {
                FunctionArguments::List(list) => list.args.clone(),
                _ => Vec::new(),
            };
            *factor = TableFactor::Table {
                name: function.name.clone(),
                alias: alias.take(),
                args: Some(TableFunctionArgs { args, settings: None }),
                with_hints: Vec::new(),
                version: None,
                with_ordinality: false,
                partitions: Vec::new(),
                json_path: None,
                sample: None,
                index_hints: Vec::new(),
            };
        }
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                if version.is_some() {
                    return Err(Error::not_supported_yet("time travel in a query"));
                }
                if sample.is_some() {
                    return Err(Error::not_supported_yet("SAMPLE"));
                }
                if !with_hints.is_empty()
                    || !partitions.is_empty()
                    || !index_hints.is_empty()
                    || json_path.is_some()
                    || *with_ordinality
                {
                    return Err(Error::not_supported(format!(
                        "what follows the table '{name}' in the query"
                    )));
                }
                if args.is_some() {
                    self.function(name, args)?;
                    fold_alias(alias.as_mut());
                    return Ok(());
                }
                self.table(name, alias)
            }
            TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
                fold_alias(alias.as_mut());
                Ok(())
            }
            TableFactor::UNNEST { alias, with_offset_alias, .. } => {
                self.reads_elsewhere = true;
                fold_alias(alias.as_mut());
                if let Some(ident) = with_offset_alias {
                    fold(ident);
                }
                Ok(())
            }
            TableFactor::Function { name, .. } => {
                Err(Error::not_supported_yet(format!("LATERAL {}", name.to_string().to_uppercase())))
            }
            TableFactor::TableFunction { .. } => Err(Error::not_supported("TABLE(…) of this expression")),
            TableFactor::Pivot { .. } => Err(Error::not_supported_yet("PIVOT")),
            TableFactor::Unpivot { .. } => Err(Error::not_supported_yet("UNPIVOT")),
            TableFactor::MatchRecognize { .. } => Err(Error::not_supported("MATCH_RECOGNIZE")),
            _ => Err(Error::not_supported("this kind of table in a query")),
        }
    }

    // --- queries ----------------------------------------------------------------------------------

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
                cte.alias.explicit = false;
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
                SetExpr::Query(_) | SetExpr::Values(_) => return Ok(()),
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

    /// `t.*` and `db.t.*`: tables are aliased to their own names.
    fn qualifier(&self, name: &mut ObjectName) {
        if let Some(ObjectNamePart::Identifier(last)) = name.0.last().cloned()
            && !is_rendered(&last)
        {
            *name = ObjectName(vec![ObjectNamePart::Identifier(quoted(&last.value.to_lowercase()))]);
        }
    }

    // --- expressions ------------------------------------------------------------------------------

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
        let arguments = constants(STREAM_STATUS, list.args.clone())?;
        super::table_functions::check(STREAM_STATUS, &arguments)?;
        let name = STREAM_STATUS.to_owned();
        let index = self.add_relation(RelationTarget::Function(TableFunction { name, arguments }));
        // As it is printed: nothing in it is to be rewritten.
        let text = format!("(SELECT \"has_data\" FROM \"__rel_{index}\")");
        Ok(Expr::Value(ValueWithSpan {
            value: Value::Placeholder(text),
            span: sqlparser::tokenizer::Span::empty(),
        }))
    }

    fn expression(&mut self, expr: &mut Expr) -> Result<()> {
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
        if let Expr::CompoundFieldAccess { root, access_chain } = expr {
            merge_root(root, access_chain);
        }
        if let Expr::Function(function) = expr {
            if is_stream_status(function) {
                match self.stream_status(function) {
                    Ok(status) => *expr = status,
                    Err(error) => return self.fail(error),
                }
                return ControlFlow::Continue(());
            }
            unit_argument(function);
        }
        ControlFlow::Continue(())
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

fn is_stream_status(function: &Function) -> bool {
    matches!(function.name.0.as_slice(), [ObjectNamePart::Identifier(name)]
        if name.value.eq_ignore_ascii_case(STREAM_STATUS))
}

/// The arguments of a function of ours.
fn constants(function: &str, args: Vec<LibArg>) -> Result<Vec<(Option<String>, FunctionArg)>> {
    let not_constant = || Error::invalid(format!("the arguments of {function} must be constants"));
    let mut arguments: Vec<(Option<String>, FunctionArg)> = Vec::new();
    for arg in args {
        let (key, value) = match arg {
            LibArg::Named { name, arg, .. } => (Some(name.value.to_lowercase()), arg),
            LibArg::ExprNamed { name, arg, .. } => (Some(name.to_string().to_lowercase()), arg),
            LibArg::Unnamed(arg) => (None, arg),
        };
        let value = match value {
            FunctionArgExpr::Expr(expr) if function == "task_history" => without_timestamp(expr),
            FunctionArgExpr::Expr(expr) => expr,
            _ => return Err(not_constant()),
        };
        let Expr::Value(value) = value else { return Err(not_constant()) };
        let value = match value.value {
            Value::SingleQuotedString(text) => FunctionArg::Text(text),
            Value::Number(number, _) => FunctionArg::Number(number.to_string()),
            Value::Boolean(value) => FunctionArg::Bool(value),
            Value::Null => FunctionArg::Null,
            _ => return Err(not_constant()),
        };
        if key.is_some() && arguments.iter().any(|(known, _)| *known == key) {
            let key = key.unwrap_or_default();
            return Err(Error::invalid(format!("argument {key} of {function} is given twice")));
        }
        arguments.push((key, value));
    }
    Ok(arguments)
}

/// Names that qualify columns: aliases, tables, CTEs.
struct Qualifiers<'a> {
    names: &'a mut HashSet<String>,
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

fn place_of(ident: &Ident) -> (u32, u32) {
    let start = ident.span.start;
    (
        u32::try_from(start.line).unwrap_or(u32::MAX).max(1),
        u32::try_from(start.column).unwrap_or(u32::MAX).max(1),
    )
}

/// The n of `$n`.
pub(super) fn position_of(name: &str) -> Option<u32> {
    name.strip_prefix('$').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn relation_name(index: usize) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(quoted(&format!("__rel_{index}")))])
}

fn fold_alias(alias: Option<&mut TableAlias>) {
    if let Some(alias) = alias {
        alias.explicit = true;
        fold(&mut alias.name);
        for column in &mut alias.columns {
            fold(&mut column.name);
        }
    }
}

fn fold_wildcard(options: &mut WildcardAdditionalOptions) {
    if let Some(exclude) = &mut options.opt_exclude {
        match exclude {
            sqlparser::ast::ExcludeSelectItem::Single(ident) => fold(ident),
            sqlparser::ast::ExcludeSelectItem::Multiple(idents) => idents.iter_mut().for_each(fold),
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
fn fold_joins(from: &mut TableWithJoins) {
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

/// `date_trunc(MONTH, x)`: the unit is a word, which the engine wants as a string.
fn unit_argument(function: &mut Function) {
    const UNITS: &[&str] = &[
        "year",
        "quarter",
        "month",
        "week",
        "day",
        "hour",
        "minute",
        "second",
        "millisecond",
        "microsecond",
    ];
    let [ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else { return };
    if !["date_trunc", "date_part", "datetrunc", "datepart"]
        .iter()
        .any(|f| name.value.eq_ignore_ascii_case(f))
    {
        return;
    }
    let FunctionArguments::List(list) = &mut function.args else { return };
    if let Some(LibArg::Unnamed(FunctionArgExpr::Expr(first))) = list.args.first_mut()
        && let Expr::Identifier(ident) = first
        && ident.quote_style.is_none()
        && UNITS.iter().any(|unit| ident.value.eq_ignore_ascii_case(unit))
    {
        *first = string(&ident.value.to_lowercase());
    }
}

/// A string literal that prints in standard SQL.
fn literal(text: &str) -> Value {
    // As with names, the library's quoting cannot be relied on where quotes are inside; a placeholder
    // is printed as it is.
    if text.contains('\'') {
        Value::Placeholder(format!("'{}'", text.replace('\'', "''")))
    } else {
        Value::SingleQuotedString(text.to_owned())
    }
}

fn string(text: &str) -> Expr {
    Expr::Value(ValueWithSpan { value: literal(text), span: sqlparser::tokenizer::Span::empty() })
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
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
