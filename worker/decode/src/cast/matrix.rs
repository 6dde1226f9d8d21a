//! Which types can be cast to which.

use stevedore_common::error::{Error, Result};
use stevedore_common::types::SqlType;

/// Whether values of one type can ever be cast to another.
///
/// Everything casts to VARCHAR and VARIANT, and they to everything. Numbers and booleans cast to each
/// other, integers to DATE (days) and TIMESTAMP (by magnitude) and back, DATE and TIMESTAMP to each
/// other. Arrays cast by element, maps by key and value, vectors and arrays of numbers to each other,
/// tuples by field name or, where no name agrees, by position.
///
/// # Errors
/// `cannot cast DATE to BOOLEAN`.
pub fn check(from: &SqlType, to: &SqlType) -> Result<()> {
    if castable(from, to) { Ok(()) } else { Err(Error::invalid(format!("cannot cast {from} to {to}"))) }
}

fn castable(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{
        Array, Binary, Boolean, Date, Map, String, Timestamp, TimestampTz, Tuple, Variant, Vector,
    };
    let instant = |ty: &SqlType| matches!(ty, Timestamp | TimestampTz);
    match (from, to) {
        (_, String | Variant) | (String | Variant, _) => true,
        (Boolean, Boolean) | (Binary, Binary) | (Vector(_), Vector(_)) => true,
        (Boolean, to) => to.is_numeric(),
        (from, Boolean) => from.is_numeric(),
        (Date, Date) => true,
        (Date, to) => instant(to) || to.is_integer(),
        (from, Date) => instant(from) || from.is_integer(),
        (from, to) if instant(from) => instant(to) || to.is_integer(),
        (from, to) if instant(to) => from.is_integer(),
        (Array(from), Array(to)) => castable(from, to),
        (Array(from), Vector(_)) => castable(from, &SqlType::Float32),
        (Vector(_), Array(to)) => castable(&SqlType::Float32, to),
        (Map(fk, fv), Map(tk, tv)) => castable(fk, tk) && castable(fv, tv),
        (Tuple(from), Tuple(to)) => match tuple_plan(from, to) {
            Some(plan) => plan
                .iter()
                .zip(to)
                .all(|(source, (_, to))| source.is_none_or(|index| castable(&from[index].1, to))),
            None => false,
        },
        (from, to) => from.is_numeric() && to.is_numeric(),
    }
}

/// For each wanted field of a tuple the field that it comes from: by name in any case where a name
/// agrees at all (fields without a source are NULL), else by position; `None` where neither works.
pub(super) fn tuple_plan(from: &[(String, SqlType)], to: &[(String, SqlType)]) -> Option<Vec<Option<usize>>> {
    let by_name: Vec<Option<usize>> = to
        .iter()
        .map(|(name, _)| {
            let exact = from.iter().position(|(other, _)| other == name);
            exact.or_else(|| from.iter().position(|(other, _)| other.to_lowercase() == name.to_lowercase()))
        })
        .collect();
    if by_name.iter().any(Option::is_some) {
        Some(by_name)
    } else if from.len() == to.len() {
        Some((0..to.len()).map(Some).collect())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_matrix() {
        let ty = |text: &str| SqlType::parse(text).unwrap();
        for (from, to, works) in [
            ("DATE", "BOOLEAN", false),
            ("DATE", "INT", true),
            ("DATE", "DOUBLE", false),
            ("DATE", "TIMESTAMP", true),
            ("BOOLEAN", "DECIMAL(3,1)", true),
            ("BOOLEAN", "TIMESTAMP", false),
            ("DOUBLE", "TIMESTAMP", false),
            ("BIGINT", "TIMESTAMP", true),
            ("BINARY", "INT", false),
            ("INT", "BINARY", false),
            ("BINARY", "VARCHAR", true),
            ("INT", "ARRAY(INT)", false),
            ("ARRAY(DATE)", "ARRAY(BOOLEAN)", false),
            ("ARRAY(INT)", "ARRAY(VARCHAR)", true),
            ("ARRAY(DECIMAL(5,1))", "VECTOR(3)", true),
            ("ARRAY(DATE)", "VECTOR(3)", false),
            ("VECTOR(3)", "ARRAY(DOUBLE)", true),
            ("MAP(VARCHAR, INT)", "MAP(VARCHAR, BIGINT)", true),
            ("MAP(VARCHAR, DATE)", "MAP(VARCHAR, BOOLEAN)", false),
            ("TUPLE(a INT, b DATE)", "TUPLE(B DATE)", true),
            ("TUPLE(a INT, b DATE)", "TUPLE(x INT, y DATE)", true),
            ("TUPLE(a INT, b DATE)", "TUPLE(x INT)", false),
            ("TUPLE(a DATE)", "TUPLE(A BOOLEAN)", false),
            ("MAP(VARCHAR, INT)", "TUPLE(a INT)", false),
            ("VARIANT", "MAP(VARCHAR, INT)", true),
            ("VARCHAR", "VECTOR(2)", true),
            ("MAP(VARCHAR, INT)", "VARIANT", true),
        ] {
            assert_eq!(check(&ty(from), &ty(to)).is_ok(), works, "{from} to {to}");
        }
        assert_eq!(
            check(&SqlType::Date, &SqlType::Boolean).unwrap_err().message(),
            "cannot cast DATE to BOOLEAN"
        );
    }
}
