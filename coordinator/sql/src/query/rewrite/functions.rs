//! Functions that are something else to the engine: conditions that are CASE, other names, units of time written as
//! words, aggregates under a condition.
//!
//! Comes in: a call as it was written. Goes out: the call, or the expression, that the engine knows. Which functions
//! there are and what types they take is the worker's to say.

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    BinaryOperator, CaseWhen, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, Ident, ObjectNamePart, OrderByExpr, OrderByOptions,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::expressions::{call, string};
use crate::query::names::place_of;

/// Functions that the engine knows under another name.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("any", "first_value"),
    ("any_value", "first_value"),
    ("approx_count_distinct", "approx_distinct"),
    ("endswith", "ends_with"),
    ("gen_random_uuid", "uuid"),
    ("group_array", "array_agg"),
    ("group_concat", "string_agg"),
    ("lcase", "lower"),
    ("list", "array_agg"),
    ("listagg", "string_agg"),
    ("rand", "random"),
    ("sign", "signum"),
    ("startswith", "starts_with"),
    ("std", "stddev"),
    ("stddev_samp", "stddev"),
    ("truncate", "trunc"),
    ("ucase", "upper"),
    ("variance_pop", "var_pop"),
    ("variance_samp", "var_samp"),
];

/// Functions whose argument at a place is a unit of time, which may be written as a word.
const UNIT_ARGUMENTS: &[(&str, usize)] = &[
    ("date_add", 0),
    ("date_between", 0),
    ("date_diff", 0),
    ("date_part", 0),
    ("date_sub", 0),
    ("date_trunc", 0),
    ("dateadd", 0),
    ("datebetween", 0),
    ("datediff", 0),
    ("datepart", 0),
    ("datesub", 0),
    ("datetrunc", 0),
    ("last_day", 1),
    ("next_day", 1),
    ("previous_day", 1),
    ("timestamp_between", 0),
    ("timestamp_diff", 0),
    ("timestampadd", 0),
    ("timestampdiff", 0),
];

/// What the engine is to compute instead of a call, whose arguments are as they were written.
///
/// # Errors
/// Invalid input, for a wrong number of arguments.
pub(super) fn replacement(function: &mut Function) -> Result<Option<Expr>> {
    let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice() else { return Ok(None) };
    let place = place_of(ident);
    let name = ident.value.to_lowercase();
    let replaced = match name.as_str() {
        "if" | "iff" => conditional(&name, arguments(function)).map(Some),
        "decode" if argument_count(function) > 2 => decode(arguments(function)).map(Some),
        "is_null" | "isnull" => one(&name, function).map(|value| Some(Expr::IsNull(value))),
        "is_not_null" | "isnotnull" => one(&name, function).map(|value| Some(Expr::IsNotNull(value))),
        "mod" => two(&name, function).map(|(left, right)| Some(remainder(left, right))),
        "to_decimal" | "try_to_decimal" => decimal(&name, function).map(Some),
        "count_if" | "countif" => match <[Expr; 1]>::try_from(arguments(function)) {
            Ok([condition]) => conditioned("count", None, condition, &name, function),
            Err(_) => Err(wrong_arguments(&format!("{name}(condition)"))),
        },
        "sum_if" | "avg_if" | "min_if" | "max_if" => {
            let plain = name.trim_end_matches("_if");
            two(&name, function)
                .and_then(|(value, condition)| conditioned(plain, Some(value), condition, &name, function))
        }
        "uniq" => distinct_count(&name, function),
        "arg_max" | "max_by" => extreme(&name, function, false),
        "arg_min" | "min_by" => extreme(&name, function, true),
        "quantile_cont" => quantile(&name, function),
        "json_array_agg" => {
            rename(function, "array_agg");
            Ok(Some(call("__cast", vec![Expr::Function(function.clone()), string("VARIANT")])))
        }
        _ => {
            if matches!(name.as_str(), "group_concat" | "listagg" | "string_agg")
                && argument_count(function) == 1
            {
                push_argument(function, string(""));
            }
            unit_argument(&name, function);
            if let Some((_, known)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) {
                rename(function, known);
            }
            Ok(None)
        }
    };
    replaced.map_err(|error| error.at(place.0, place.1))
}

fn rename(function: &mut Function, name: &str) {
    if let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice() {
        name.clone_into(&mut ident.value);
    }
}

fn argument_count(function: &Function) -> usize {
    match &function.args {
        FunctionArguments::List(list) => list.args.len(),
        _ => 0,
    }
}

fn push_argument(function: &mut Function, argument: Expr) {
    if let FunctionArguments::List(list) = &mut function.args {
        list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    }
}

/// The arguments of a call; others than expressions are left out, and then their number is wrong.
fn arguments(function: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    list.args
        .iter()
        .filter_map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect()
}

fn wrong_arguments(form: &str) -> Error {
    Error::invalid(format!("wrong number of arguments; write {form}"))
}

fn one(name: &str, function: &Function) -> Result<Box<Expr>> {
    match <[Expr; 1]>::try_from(arguments(function)) {
        Ok([value]) => Ok(Box::new(value)),
        Err(_) => Err(wrong_arguments(&format!("{name}(value)"))),
    }
}

fn two(name: &str, function: &Function) -> Result<(Expr, Expr)> {
    match <[Expr; 2]>::try_from(arguments(function)) {
        Ok([first, second]) => Ok((first, second)),
        Err(_) => Err(wrong_arguments(&format!("{name} with two arguments"))),
    }
}

/// CASE, of which only the branch that is taken is computed.
fn case(conditions: Vec<CaseWhen>, otherwise: Option<Expr>) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions,
        else_result: otherwise.map(Box::new),
    }
}

/// `if(condition, value, …, otherwise)`.
fn conditional(name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    if arguments.len() < 3 || arguments.len().is_multiple_of(2) {
        return Err(wrong_arguments(&format!(
            "{name}(condition, value, otherwise) or {name}(condition, value, condition, value, …, otherwise)"
        )));
    }
    let mut rest = arguments.into_iter();
    let mut conditions = Vec::new();
    loop {
        let Some(first) = rest.next() else { return Ok(case(conditions, None)) };
        match rest.next() {
            Some(result) => conditions.push(CaseWhen { condition: first, result }),
            None => return Ok(case(conditions, Some(first))),
        }
    }
}

/// `decode(value, search, result, …[, otherwise])`: NULL finds NULL.
fn decode(arguments: Vec<Expr>) -> Result<Expr> {
    let mut rest = arguments.into_iter();
    let value = rest.next().ok_or_else(|| wrong_arguments("decode(value, search, result, …)"))?;
    let mut conditions = Vec::new();
    loop {
        let Some(search) = rest.next() else { return Ok(case(conditions, None)) };
        match rest.next() {
            Some(result) => {
                let condition = Expr::IsNotDistinctFrom(Box::new(value.clone()), Box::new(search));
                conditions.push(CaseWhen { condition, result });
            }
            None => return Ok(case(conditions, Some(search))),
        }
    }
}

fn remainder(left: Expr, right: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::BinaryOp {
        left: Box::new(Expr::Nested(Box::new(left))),
        op: BinaryOperator::Modulo,
        right: Box::new(Expr::Nested(Box::new(right))),
    }))
}

/// `to_decimal(precision, scale)(value)`.
fn decimal(name: &str, function: &Function) -> Result<Expr> {
    let form = || wrong_arguments(&format!("{name}(precision, scale)(value)"));
    let FunctionArguments::List(list) = &function.parameters else { return Err(form()) };
    let parameters: Vec<String> = list.args.iter().map(ToString::to_string).collect();
    let value = *one(name, function).map_err(|_| form())?;
    let ty = SqlType::parse(&format!("DECIMAL({})", parameters.join(", ")))?;
    let cast = if name.starts_with("try_") { "__try_cast" } else { "__cast" };
    Ok(call(cast, vec![value, string(&ty.to_string())]))
}

/// An aggregate of the rows for which a condition is true; without a value it counts them.
fn conditioned(
    plain: &str,
    value: Option<Expr>,
    condition: Expr,
    name: &str,
    function: &mut Function,
) -> Result<Option<Expr>> {
    if function.filter.is_some() {
        return Err(Error::not_supported(format!("FILTER after {name}")));
    }
    rename(function, plain);
    if let FunctionArguments::List(list) = &mut function.args {
        list.args =
            vec![FunctionArg::Unnamed(value.map_or(FunctionArgExpr::Wildcard, FunctionArgExpr::Expr))];
    }
    function.filter = Some(Box::new(condition));
    Ok(None)
}

fn distinct_count(name: &str, function: &mut Function) -> Result<Option<Expr>> {
    one(name, function)?;
    rename(function, "count");
    if let FunctionArguments::List(list) = &mut function.args {
        list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
    }
    Ok(None)
}

/// `arg_max(value, by)`: the value of the row where the other is largest; rows where that is NULL come last.
fn extreme(name: &str, function: &mut Function, smallest: bool) -> Result<Option<Expr>> {
    let (value, by) = two(name, function)?;
    rename(function, "first_value");
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))];
        list.clauses = vec![FunctionArgumentClause::OrderBy(vec![OrderByExpr {
            expr: by,
            options: OrderByOptions { asc: Some(smallest), nulls_first: Some(false) },
            with_fill: None,
        }])];
    }
    Ok(None)
}

/// `quantile_cont(0.5)(value)`.
fn quantile(name: &str, function: &mut Function) -> Result<Option<Expr>> {
    let value = *one(name, function)?;
    let level = match std::mem::replace(&mut function.parameters, FunctionArguments::None) {
        FunctionArguments::List(list) if list.args.len() == 1 => list,
        _ => return Err(wrong_arguments(&format!("{name}(level)(value), as in {name}(0.5)(x)"))),
    };
    rename(function, "percentile_cont");
    function.args = FunctionArguments::List(level);
    function.within_group =
        vec![OrderByExpr { expr: value, options: OrderByOptions::default(), with_fill: None }];
    Ok(None)
}

/// `date_trunc(MONTH, x)`: the unit is a word, which the engine wants as a string.
fn unit_argument(name: &str, function: &mut Function) {
    let Some((_, place)) = UNIT_ARGUMENTS.iter().find(|(known, _)| *known == name) else { return };
    let FunctionArguments::List(list) = &mut function.args else { return };
    if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) = list.args.get_mut(*place)
        && let Expr::Identifier(Ident { value, quote_style: None, .. }) = argument
    {
        *argument = string(&value.to_lowercase());
    }
}
