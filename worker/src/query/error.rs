//! DataFusion's errors as ours, and back.
//!
//! Comes in: an error from planning or running a query. Goes out: a kind and a text that a user of the
//! dialect understands, in one line. An error of ours that travelled through DataFusion comes out unchanged.

use arrow::datatypes::DataType;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind};
use stevedore_decode::errors::cut;

use super::stage_scan::MAX_POSITION;

/// Wraps an error of ours so that it survives the way through DataFusion.
pub fn to_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error of ours that a DataFusion error stands for.
pub fn from_datafusion(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(nested) => from_datafusion(nested),
                None => {
                    let text = inner.to_string();
                    regular_expression(&text).unwrap_or_else(|| Error::internal(text))
                }
            },
        },
        DataFusionError::ArrowError(inner, _) => from_arrow(inner),
        DataFusionError::ParquetError(inner) => match inner.as_ref() {
            parquet::errors::ParquetError::External(source) => from_source(source.as_ref())
                .unwrap_or_else(|| Error::storage(source.to_string()).retryable(true)),
            other => Error::bad_data(other.to_string()),
        },
        DataFusionError::ObjectStore(inner) => from_object_store(inner),
        DataFusionError::IoError(inner) => Error::storage(inner.to_string()),
        DataFusionError::SQL(inner, _) => Error::invalid(inner.to_string()),
        DataFusionError::NotImplemented(text) => {
            misplaced(text).unwrap_or_else(|| Error::not_supported(text))
        }
        DataFusionError::Internal(text) => signature(text)
            .or_else(|| regular_expression(text))
            .unwrap_or_else(|| Error::internal(text.clone())),
        DataFusionError::Plan(text) => signature(text)
            .or_else(|| subquery(text))
            .or_else(|| condition(text))
            .unwrap_or_else(|| Error::invalid(tidy(text))),
        DataFusionError::Configuration(text) => Error::invalid(text.clone()),
        DataFusionError::SchemaError(inner, _) => from_schema(inner),
        DataFusionError::Execution(text) => of_values(text),
        DataFusionError::ExecutionJoin(inner) if inner.is_cancelled() => {
            Error::cancelled("the query was cancelled")
        }
        DataFusionError::ExecutionJoin(inner) => Error::internal(inner.to_string()),
        DataFusionError::ResourcesExhausted(text) => {
            Error::exhausted(format!("the query needs more memory than its limit: {text}"))
                .hint("make the query smaller, or give the worker a larger memory budget")
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => from_datafusion(first),
            None => Error::internal("the query failed without saying why"),
        },
        other => Error::internal(other.to_string()),
    }
}

/// The error of ours that iceberg's holds, where our storage made it.
pub(crate) fn from_iceberg(error: iceberg::Error) -> Error {
    match std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Error>()) {
        Some(ours) => ours.clone(),
        None => error.into(),
    }
}

fn from_arrow(error: &arrow::error::ArrowError) -> Error {
    use arrow::error::ArrowError;
    match error {
        ArrowError::ExternalError(source) => {
            from_source(source.as_ref()).unwrap_or_else(|| Error::internal(source.to_string()))
        }
        ArrowError::DivideByZero => division_by_zero(),
        ArrowError::CastError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::ArithmeticOverflow(text)
        | ArrowError::ParseError(text)
        | ArrowError::InvalidArgumentError(text) => of_values(text),
        ArrowError::ParquetError(text) => Error::bad_data(text.clone()),
        ArrowError::NotYetImplemented(text) => Error::not_supported(text),
        other => Error::internal(other.to_string()),
    }
}

fn from_source(source: &(dyn std::error::Error + 'static)) -> Option<Error> {
    if let Some(ours) = source.downcast_ref::<Error>() {
        return Some(ours.clone());
    }
    if let Some(nested) = source.downcast_ref::<DataFusionError>() {
        return Some(from_datafusion(nested));
    }
    if let Some(store) = source.downcast_ref::<object_store::Error>() {
        return Some(from_object_store(store));
    }
    if let Some(arrow) = source.downcast_ref::<arrow::error::ArrowError>() {
        return Some(from_arrow(arrow));
    }
    None
}

fn from_object_store(error: &object_store::Error) -> Error {
    use object_store::Error as E;
    match error {
        E::NotFound { path, .. } => Error::not_found(format!("object '{path}' does not exist")),
        E::PermissionDenied { path, .. } | E::Unauthenticated { path, .. } => {
            Error::denied(format!("the object store refused access to '{path}'"))
                .hint("check the credentials of the connection")
        }
        E::Precondition { path, .. } => Error::conflict(format!("object '{path}' changed while it was read")),
        other => Error::storage(other.to_string()).retryable(true),
    }
}

fn from_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            if let Some(digits) = field.name.strip_prefix('$')
                && digits.parse().is_ok_and(|number: u64| number > MAX_POSITION as u64)
            {
                let text = format!(
                    "column '{}' is beyond the limit of {MAX_POSITION} columns of a file",
                    field.name
                );
                return Error::invalid(text).about(&field.name);
            }
            // Those of the target of a MERGE that have generated names are not the user's.
            let mut names: Vec<&str> = valid_fields
                .iter()
                .map(|column| column.name.as_str())
                .filter(|name| !name.starts_with("__"))
                .collect();
            names.dedup();
            let error = Error::new(ErrorKind::NotFound, format!("column '{}' does not exist", field.name))
                .about(&field.name);
            if names.is_empty() {
                return error.hint("the query has no columns here; those of CSV and TSV files are $1, $2, …");
            }
            let more = if names.len() > 30 { ", …" } else { "" };
            names.truncate(30);
            error.hint(format!("available columns: {}{more}", names.join(", ")))
        }
        SchemaError::AmbiguousReference { field } => {
            Error::invalid(format!("column '{}' is ambiguous", field.name))
                .about(&field.name)
                .hint("put the name of its table before it")
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::invalid(format!("column '{name}' stands twice"))
                .about(name)
                .hint("give one of them another name")
        }
    }
}

/// Arguments that a function does not take come as a page of candidates, one line of which says it.
fn signature(text: &str) -> Option<Error> {
    const BEGIN: &str = "No function matches the given name and argument types '";
    let call = text.split_once(BEGIN)?.1.split('\'').next()?;
    Some(
        Error::invalid(format!("no function takes these types: {call}"))
            .hint("cast the arguments, as in f(x::DOUBLE)"),
    )
}

pub(crate) fn division_by_zero() -> Error {
    Error::invalid("division by zero").hint("nullif(divisor, 0) gives NULL instead")
}

/// A failure over values.
fn of_values(text: &str) -> Error {
    regular_expression(text).unwrap_or_else(|| Error::invalid(tidy(text)))
}

/// A pattern that is no regular expression comes as a picture over several lines: the pattern, marks below
/// the place, and `error: ` with the reason.
fn regular_expression(text: &str) -> Option<Error> {
    const PICTURE: &str = "regex parse error:\n";
    const PLAIN: &str = "Regular expression did not compile: ";
    let wrong = |text: String| Some(Error::invalid(format!("invalid regular expression{text}")));
    if text.contains("Compiled regex exceeds size limit") || text.contains("CompiledTooBig(") {
        return wrong(": it is too large".to_owned());
    }
    if let Some((_, picture)) = text.split_once(PICTURE) {
        let (shown, rest) = picture.rsplit_once("\nerror: ")?;
        let reason = rest.lines().next().unwrap_or_default();
        // A pattern of several lines has dashes and numbers about it.
        let mut lines = shown.lines();
        return match (lines.next().and_then(|line| line.strip_prefix("    ")), lines.next(), lines.next()) {
            (Some(pattern), Some(marks), None) if marks.trim_matches([' ', '^']).is_empty() => {
                wrong(format!(" '{pattern}': {reason}"))
            }
            _ => wrong(format!(": {reason}")),
        };
    }
    let (_, pattern) = text.split_once(PLAIN)?;
    wrong(format!(" '{}'", pattern.lines().next().unwrap_or_default()))
}

/// An expression that no plan can compute where it stands comes as a dump of its tree.
fn misplaced(text: &str) -> Option<Error> {
    let expression = text.strip_prefix("Physical plan does not support logical expression ")?;
    let kind = match expression.split(['(', ' ', '{']).next()? {
        "WindowFunction" => "window functions",
        "AggregateFunction" => "aggregate functions",
        "Unnest" => "functions that give several rows",
        "ScalarSubquery" | "InSubquery" | "Exists" | "SetComparison" => return Some(unsupported_subquery()),
        _ => return Some(Error::not_supported("this expression, where it stands")),
    };
    Some(
        Error::invalid(format!("{kind} are not allowed here")).hint("compute them in a subquery: (SELECT …)"),
    )
}

fn unsupported_subquery() -> Error {
    Error::not_supported("this subquery, here or with what it takes from the query around it")
        .hint("compare by = in its WHERE, aggregate it (max(x)), or write a join or UPDATE … FROM")
}

/// What DataFusion's checks say of subqueries.
fn subquery(text: &str) -> Option<Error> {
    const COLUMNS: &[&str] = &[
        "Too many columns! The subquery",
        "Scalar subquery should only return one column",
        "InSubquery should only return one column",
        "Set comparison subquery should only return one column",
    ];
    const PLACES: &[&str] = &[
        "Correlated scalar subquery",
        "In/Exist/SetComparison subquery can only be used",
        "Accessing outer reference columns is not allowed",
        "A GROUP BY clause in a scalar correlated subquery",
        "Unsupported Subquery plan",
    ];
    let is = |begins: &[&str]| begins.iter().any(|begin| text.starts_with(begin));
    if is(COLUMNS) {
        let what = "a subquery that stands for a value, or for a list of them, must have one column";
        return Some(Error::invalid(what));
    }
    is(PLACES).then(unsupported_subquery)
}

/// A condition of another type than BOOLEAN.
fn condition(text: &str) -> Option<Error> {
    if let Some(ty) = text.strip_prefix("Join condition must be boolean type, but got ") {
        let what = format!("the condition of the join must be BOOLEAN, and is {}", sql_type(ty));
        return Some(Error::invalid(what));
    }
    let rest = text.strip_prefix("Cannot create filter with non-boolean predicate '")?;
    let (condition, ty) = rest.rsplit_once("' returning ")?;
    Some(Error::invalid(format!("the condition must be BOOLEAN, '{condition}' is {}", sql_type(ty))))
}

/// The name in SQL of a type of Arrow's.
fn sql_type(name: &str) -> String {
    let known = name.parse().ok().and_then(|data_type| SqlType::from_arrow(&data_type).ok());
    known.map_or_else(|| name.to_owned(), |ty| ty.to_string())
}

/// DataFusion's texts begin with a capital and sometimes carry its own prefix.
fn tidy(text: &str) -> String {
    let text = text.strip_prefix("Error during planning: ").unwrap_or(text);
    if let Some(text) = in_our_words(text) {
        return text;
    }
    lower_first(text)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// What DataFusion and arrow say of values, as the dialect does.
fn in_our_words(text: &str) -> Option<String> {
    let of_type = |ty: &str| {
        let ty = ty.parse::<DataType>().ok()?;
        SqlType::from_arrow(&ty).ok().map(|ty| ty.to_string())
    };
    if let Some(operation) = text.strip_prefix("Overflow happened on: ") {
        return Some(format!("{operation} is out of range"));
    }
    if let Some((value, ty)) =
        text.strip_prefix("Cannot cast string '").and_then(|rest| rest.rsplit_once("' to value of "))
    {
        let ty = of_type(ty.strip_suffix(" type")?)?;
        return Some(format!("invalid value '{}' for {ty}: it is no {ty}", cut(value)));
    }
    if let Some((value, ty)) =
        text.strip_prefix("Can't cast value ").and_then(|rest| rest.rsplit_once(" to type "))
    {
        return Some(format!("invalid value '{}' for {}: out of range", cut(value), of_type(ty)?));
    }
    if let Some((_, call)) = text.split_once("Array overflow on abs(") {
        return Some(format!("abs of '{}': out of range", call.strip_suffix(')')?));
    }
    for encoding in ["hex", "base64"] {
        if let Some(reason) = text.strip_prefix(&format!("Failed to decode from {encoding}: ")) {
            return Some(format!("invalid text of {encoding}: {}", lower_first(reason)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::Column;

    #[test]
    fn an_unknown_column_names_those_that_exist() {
        let error = DataFusionError::SchemaError(
            Box::new(SchemaError::FieldNotFound {
                field: Box::new(Column::from_name("x")),
                valid_fields: vec![Column::from_name("a"), Column::from_name("b")],
            }),
            Box::new(None),
        );
        let error = from_datafusion(&error.context("planning"));
        assert_eq!(error.to_string(), "column 'x' does not exist; available columns: a, b");
    }

    #[test]
    fn a_broken_regular_expression_is_said_in_one_line() {
        let picture = "regex parse error:\n    x(\n     ^\nerror: unclosed group";
        let expected = "invalid regular expression 'x(': unclosed group";
        let external = DataFusionError::External(picture.into());
        assert_eq!(from_datafusion(&external).to_string(), expected);
        assert_eq!(from_datafusion(&external).kind(), ErrorKind::InvalidInput);
        let framed = format!("Regular expression did not compile: Syntax(\n~~~~\n{picture}\n~~~~\n)");
        let compute = arrow::error::ArrowError::ComputeError(framed.clone());
        assert_eq!(from_datafusion(&DataFusionError::from(compute)).to_string(), expected);
        let internal = DataFusionError::Internal(format!("failed to call 'f' {framed}"));
        assert_eq!(from_datafusion(&internal).to_string(), expected);
        let plain = DataFusionError::Execution("Regular expression did not compile: (x".to_owned());
        assert_eq!(from_datafusion(&plain).to_string(), "invalid regular expression '(x'");
    }

    #[test]
    fn errors_over_values_are_in_words_of_the_dialect() {
        for (theirs, ours) in [
            (
                "Cannot cast string 'ok' to value of Int64 type",
                "invalid value 'ok' for BIGINT: it is no BIGINT",
            ),
            ("Can't cast value 300 to type Int8", "invalid value '300' for TINYINT: out of range"),
            (
                "Int64Array overflow on abs(-9223372036854775808)",
                "abs of '-9223372036854775808': out of range",
            ),
            ("Failed to decode from hex: Odd number of digits", "invalid text of hex: odd number of digits"),
            ("Overflow happened on: 1 + 2", "1 + 2 is out of range"),
            ("Anything else", "anything else"),
        ] {
            assert_eq!(from_datafusion(&DataFusionError::Execution(theirs.to_owned())).to_string(), ours);
        }
    }

    #[test]
    fn our_errors_survive_the_way_through_datafusion() {
        let ours = Error::bad_data("file 'a.csv', line 3: broken").hint("mend it");
        let wrapped = DataFusionError::from(arrow::error::ArrowError::ExternalError(Box::new(
            to_datafusion(ours.clone()),
        )))
        .context("somewhere");
        assert_eq!(from_datafusion(&wrapped), ours);
    }
}
