//! Tables, locations and table functions of a query: each becomes a relation under a generated name, or is left to
//! the worker's engine.

use sqlparser::ast::{
    Expr, FunctionArg as LibArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart,
    TableAlias, TableFactor, TableFunctionArgs, UnaryOperator, Value,
};
use stevedore_common::{Error, Result};

use super::Rewriter;
use crate::ast::{FunctionArg, ObjectRef, RelationRef, RelationTarget, TableFunction};
use crate::query::mutation::TARGET;
use crate::query::names::{fold, fold_alias, place_of, quoted};
use crate::query::prepare::STAGE;
use crate::query::read_by;
use crate::query::suffix::{Found, Suffix};
use crate::query::table_functions;

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
pub(in crate::query) const STREAM_STATUS: &str = "stream_status";
/// Table functions that the dialect has and nobody answers yet.
const LATER_FUNCTIONS: &[&str] = &["flatten", "numbers", "fuse_snapshot", "fuse_segment", "fuse_block"];
/// Table functions of the worker's engine.
const ENGINE_FUNCTIONS: &[&str] = &["range", "generate_series", "unnest"];

impl Rewriter {
    pub(super) fn table_factor(&mut self, factor: &mut TableFactor) -> Result<()> {
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
        let arguments = self.constants(&function, args).map_err(|e| e.at(line, column))?;
        table_functions::check(&function, &arguments).map_err(|e| e.at(line, column))?;
        let index = self.add_relation(RelationTarget::Function(TableFunction { name: function, arguments }));
        *name = relation_name(index);
        Ok(())
    }

    /// The arguments of a function of ours.
    pub(super) fn constants(
        &mut self,
        function: &str,
        args: Vec<LibArg>,
    ) -> Result<Vec<(Option<String>, FunctionArg)>> {
        let not_constant = || Error::invalid(format!("the arguments of {function} must be constants"));
        let mut arguments: Vec<(Option<String>, FunctionArg)> = Vec::new();
        for arg in args {
            let (key, value) = match arg {
                LibArg::Named { name, arg, .. } => (Some(name.value.to_lowercase()), arg),
                LibArg::ExprNamed { name, arg, .. } => (Some(name.to_string().to_lowercase()), arg),
                LibArg::Unnamed(arg) => (None, arg),
            };
            let FunctionArgExpr::Expr(mut expr) = value else { return Err(not_constant()) };
            let of_tasks = function == "task_history";
            if of_tasks {
                expr = without_timestamp(expr);
            }
            let is_time =
                of_tasks && key.as_deref().is_some_and(|key| key.starts_with("scheduled_time_range_"));
            let value = match literal_value(&expr) {
                Some(value) => value,
                None if is_time => self.time(function, key.as_deref().unwrap_or_default(), expr)?,
                None => return Err(not_constant()),
            };
            if key.is_some() && arguments.iter().any(|(known, _)| *known == key) {
                let key = key.unwrap_or_default();
                return Err(Error::invalid(format!("argument {key} of {function} is given twice")));
            }
            arguments.push((key, value));
        }
        Ok(arguments)
    }

    /// A time that depends on nothing but when it is evaluated.
    fn time(&mut self, function: &str, key: &str, mut expr: Expr) -> Result<FunctionArg> {
        self.run(&mut expr)?;
        // Looked at when units of time are no names any more: `dateadd(hour, …)`.
        match read_by(&expr) {
            None => Ok(FunctionArg::Time(expr.to_string())),
            // Names are in quotes by now, whether they were written so or not.
            Some(what) => Err(Error::invalid(format!("{key} of {function} holds {}", what.replace('"', "")))
                .hint("allowed are constants, and functions and arithmetic over them, as in now() - INTERVAL '1 hour'")),
        }
    }

    pub(super) fn add_relation(&mut self, target: RelationTarget) -> usize {
        if !matches!(target, RelationTarget::Stage(_) | RelationTarget::Target(_))
            && let Some(known) = self.relations.iter().position(|relation| relation.target == target)
        {
            return known;
        }
        let index = self.relations.len();
        self.relations.push(RelationRef { name: format!("__rel_{index}"), target });
        index
    }

    /// What stands behind a name, before its alias.
    fn suffix_of(&mut self, name: &Ident) -> Option<Found> {
        let start = name.span.start;
        let found = self.suffixes.iter().position(|found| found.after == (start.line, start.column))?;
        Some(self.suffixes.remove(found))
    }
}

/// A time that is written as `TO_TIMESTAMP('…')` or with a cast, as the text in it.
fn without_timestamp(expr: Expr) -> Expr {
    match expr {
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("to_timestamp") => {
            let argument = match &function.args {
                FunctionArguments::List(list) => match list.args.as_slice() {
                    [LibArg::Unnamed(FunctionArgExpr::Expr(only))] if is_text(only) => Some(only.clone()),
                    _ => None,
                },
                _ => None,
            };
            argument.unwrap_or(Expr::Function(function))
        }
        Expr::Cast { expr, .. } if is_text(&expr) => *expr,
        Expr::TypedString(typed) => Expr::Value(typed.value),
        other => other,
    }
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)))
}

/// The value of a literal.
fn literal_value(expr: &Expr) -> Option<FunctionArg> {
    Some(match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => FunctionArg::Text(text.clone()),
            Value::Number(number, _) => FunctionArg::Number(number.to_string()),
            Value::Boolean(value) => FunctionArg::Bool(*value),
            Value::Null => FunctionArg::Null,
            _ => return None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal_value(expr)? {
            FunctionArg::Number(number) => FunctionArg::Number(format!("-{number}")),
            _ => return None,
        },
        _ => return None,
    })
}

fn relation_name(index: usize) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(quoted(&format!("__rel_{index}")))])
}
