//! One type for the values of several: how columns of files merge, in inference and in schema evolution, and
//! which types hold every value of another one.

use crate::types::SqlType;

/// The largest precision of a decimal.
pub const MOST_DIGITS: u8 = 38;

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

/// Whether every value of one type is a value of another, so that reading it as that one changes nothing.
pub fn reads_exactly(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{
        Array, Date, Decimal, Float32, Float64, Map, String, Timestamp, TimestampTz, Tuple, Variant,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (SqlType::Binary, _) | (Variant, _) => false,
        (_, Variant) => true,
        (Array(from), Array(to)) => reads_exactly(from, to),
        (Map(from_key, from), Map(to_key, to)) => reads_exactly(from_key, to_key) && reads_exactly(from, to),
        (Tuple(from), Tuple(to)) => from.iter().all(|(name, from)| {
            let exact = to.iter().find(|(other, _)| other == name);
            let field =
                exact.or_else(|| to.iter().find(|(other, _)| other.to_lowercase() == name.to_lowercase()));
            field.is_some_and(|(_, to)| reads_exactly(from, to))
        }),
        (Date, Timestamp) | (Timestamp, TimestampTz) | (TimestampTz, Timestamp) => true,
        (Float32, Float64) => true,
        (from, String) => !matches!(from, Array(_) | Map(..) | Tuple(_) | SqlType::Vector(_)),
        (from, Float32) => integer_bits(from).is_some_and(|(bits, _)| bits <= 16),
        (from, Float64) => integer_bits(from).is_some_and(|(bits, _)| bits <= 32),
        (from, Decimal(..)) => match (digits(from), digits(to)) {
            (Some((before, behind)), Some((before_to, behind_to))) => {
                before <= before_to && behind <= behind_to
            }
            _ => false,
        },
        (from, to) => match (integer_bits(from), integer_bits(to)) {
            (Some((from, signed)), Some((to, true))) => {
                if signed {
                    from <= to
                } else {
                    from < to
                }
            }
            (Some((from, false)), Some((to, false))) => from <= to,
            _ => false,
        },
    }
}

/// Bits of an integer, and whether it may be negative.
fn integer_bits(ty: &SqlType) -> Option<(u8, bool)> {
    Some(match ty {
        SqlType::Int8 => (8, true),
        SqlType::Int16 => (16, true),
        SqlType::Int32 => (32, true),
        SqlType::Int64 => (64, true),
        SqlType::UInt8 => (8, false),
        SqlType::UInt16 => (16, false),
        SqlType::UInt32 => (32, false),
        SqlType::UInt64 => (64, false),
        _ => return None,
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

    #[test]
    fn a_type_is_read_as_another_where_no_value_changes() -> crate::Result<()> {
        for (from, to, exact) in [
            ("INT", "BIGINT", true),
            ("BIGINT", "INT", false),
            ("INT UNSIGNED", "BIGINT", true),
            ("BIGINT UNSIGNED", "BIGINT", false),
            ("INT", "BIGINT UNSIGNED", false),
            ("INT", "DOUBLE", true),
            ("BIGINT", "DOUBLE", false),
            ("DOUBLE", "INT", false),
            ("FLOAT", "DOUBLE", true),
            ("DOUBLE", "FLOAT", false),
            ("DECIMAL(5,1)", "DECIMAL(6,2)", true),
            ("DECIMAL(5,3)", "DECIMAL(5,1)", false),
            ("INT", "DECIMAL(12,2)", true),
            ("INT", "DECIMAL(11,2)", false),
            ("DECIMAL(5,0)", "INT", false),
            ("DATE", "TIMESTAMP", true),
            ("TIMESTAMP", "DATE", false),
            ("INT", "TIMESTAMP", false),
            ("BIGINT", "VARCHAR", true),
            ("VARCHAR", "BIGINT", false),
            ("BINARY", "VARCHAR", false),
            ("ARRAY(INT)", "ARRAY(BIGINT)", true),
            ("ARRAY(INT)", "VARCHAR", false),
            ("TUPLE(x INT, y INT)", "TUPLE(X INT)", false),
            ("TUPLE(x INT)", "TUPLE(X BIGINT, y INT)", true),
            ("TUPLE(x INT)", "VARIANT", true),
            ("VARIANT", "VARCHAR", false),
        ] {
            let is_exact = reads_exactly(&SqlType::parse(from)?, &SqlType::parse(to)?);
            assert_eq!(is_exact, exact, "{from} as {to}");
        }
        Ok(())
    }
}
