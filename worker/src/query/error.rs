//! DataFusion's errors as ours, and back.
//!
//! Comes in: an error from planning or running a query. Goes out: a kind and a text that a user of the
//! dialect understands. An error of ours that travelled through DataFusion comes out unchanged.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, ErrorKind};

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
                None => Error::internal(inner.to_string()),
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
        DataFusionError::Internal(text) => signature(text).unwrap_or_else(|| Error::internal(text.clone())),
        DataFusionError::Plan(text) => signature(text)
            .or_else(|| subquery(text))
            .or_else(|| condition(text))
            .unwrap_or_else(|| Error::invalid(tidy(text))),
        DataFusionError::Configuration(text) => Error::invalid(text.clone()),
        DataFusionError::SchemaError(inner, _) => from_schema(inner),
        DataFusionError::Execution(text) => Error::invalid(tidy(text)),
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
        ArrowError::DivideByZero => Error::invalid("division by zero"),
        ArrowError::CastError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::ArithmeticOverflow(text)
        | ArrowError::ParseError(text)
        | ArrowError::InvalidArgumentError(text) => Error::invalid(tidy(text)),
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
                return error.hint("the query has no columns here");
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
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
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
    fn our_errors_survive_the_way_through_datafusion() {
        let ours = Error::bad_data("file 'a.csv', line 3: broken").hint("mend it");
        let wrapped = DataFusionError::from(arrow::error::ArrowError::ExternalError(Box::new(
            to_datafusion(ours.clone()),
        )))
        .context("somewhere");
        assert_eq!(from_datafusion(&wrapped), ours);
    }
}
