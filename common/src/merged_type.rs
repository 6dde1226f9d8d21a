//! One type for the values of several: how columns of files merge, in inference and in schema evolution.

use crate::types::SqlType;

/// The largest precision of a decimal.
const MOST_DIGITS: u8 = 38;

/// The type that holds the values of two types; `None` is a column without values.
pub fn merged(a: Option<SqlType>, b: Option<SqlType>) -> Option<SqlType> {
    let (a, b) = match (a, b) {
        (a, None) => return a,
        (None, b) => return b,
        (Some(a), Some(b)) => (a, b),
    };
    let is_nested = |ty: &SqlType| {
        matches!(
            ty,
            SqlType::Variant | SqlType::Array(_) | SqlType::Map(..) | SqlType::Tuple(_) | SqlType::Vector(_)
        )
    };
    let is_time = |ty: &SqlType| matches!(ty, SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz);
    Some(match (a, b) {
        (a, b) if a == b => a,
        (a, b) if is_nested(&a) || is_nested(&b) => SqlType::Variant,
        (a, b) if is_time(&a) && is_time(&b) => SqlType::Timestamp,
        (a, b) if a.is_numeric() && b.is_numeric() => number(&a, &b),
        _ => SqlType::String,
    })
}

/// Digits before and behind the point, of integers and decimals.
fn digits(ty: &SqlType) -> Option<(u8, u8)> {
    Some(match ty {
        SqlType::Int8 | SqlType::UInt8 => (3, 0),
        SqlType::Int16 | SqlType::UInt16 => (5, 0),
        SqlType::Int32 | SqlType::UInt32 => (10, 0),
        SqlType::Int64 => (19, 0),
        SqlType::UInt64 => (20, 0),
        SqlType::Decimal(precision, scale) => (precision.saturating_sub(*scale), *scale),
        _ => return None,
    })
}

/// Two unlike numbers.
fn number(a: &SqlType, b: &SqlType) -> SqlType {
    let (Some((before, behind)), Some((before_b, behind_b))) = (digits(a), digits(b)) else {
        return SqlType::Float64;
    };
    let (before, behind) = (before.max(before_b), behind.max(behind_b));
    let is_decimal = matches!(a, SqlType::Decimal(..)) || matches!(b, SqlType::Decimal(..));
    match before + behind {
        // Unlike integers.
        _ if !is_decimal && before < 20 => SqlType::Int64,
        precision if precision <= MOST_DIGITS => SqlType::Decimal(precision, behind),
        _ => SqlType::Float64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_holds_the_values_of_both() {
        let merge = |a: SqlType, b: SqlType| {
            let there = merged(Some(a.clone()), Some(b.clone()));
            assert_eq!(there, merged(Some(b), Some(a)), "the order does not matter");
            there.map(|ty| ty.to_string()).unwrap_or_default()
        };
        assert_eq!(merge(SqlType::Int64, SqlType::Float64), "DOUBLE");
        assert_eq!(merge(SqlType::Int32, SqlType::Int64), "BIGINT");
        assert_eq!(merge(SqlType::Int64, SqlType::UInt64), "DECIMAL(20, 0)");
        assert_eq!(merge(SqlType::Decimal(10, 2), SqlType::Decimal(12, 4)), "DECIMAL(12, 4)");
        assert_eq!(merge(SqlType::Decimal(38, 2), SqlType::Decimal(38, 4)), "DOUBLE");
        assert_eq!(merge(SqlType::Boolean, SqlType::Int64), "VARCHAR");
        assert_eq!(merge(SqlType::Date, SqlType::Timestamp), "TIMESTAMP");
        assert_eq!(merge(SqlType::Date, SqlType::String), "VARCHAR");
        assert_eq!(merge(SqlType::Array(Box::new(SqlType::Int64)), SqlType::String), "VARIANT");
        assert_eq!(merged(None, Some(SqlType::Date)), Some(SqlType::Date));
    }
}
