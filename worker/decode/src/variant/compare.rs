//! The order of VARIANT values: null < booleans < numbers < strings < arrays < objects; numbers by
//! value, strings by code point, arrays and objects item by item.

use std::cmp::Ordering;

use super::scan::{self, Kind};

/// Compares two JSON texts by value; text that is no JSON comes first.
pub fn compare(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    let (left, right) = (left.trim(), right.trim());
    let (kind, other) = (scan::kind(left), scan::kind(right));
    if kind != other {
        return kind.cmp(&other);
    }
    match kind {
        None | Some(Kind::Null) => Ordering::Equal,
        Some(Kind::Bool) => (left == "true").cmp(&(right == "true")),
        Some(Kind::Number) => compare_numbers(left, right),
        Some(Kind::String) => scan::string_of(left).cmp(&scan::string_of(right)),
        Some(Kind::Array) => {
            let (mut a, mut b) = (scan::elements(left), scan::elements(right));
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return Ordering::Equal,
                    (None, _) => return Ordering::Less,
                    (_, None) => return Ordering::Greater,
                    (Some(x), Some(y)) => match compare(x, y) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                }
            }
        }
        Some(Kind::Object) => {
            let sorted = |text| {
                let mut members: Vec<_> =
                    scan::members(text).map(|(key, value)| (scan::unescape(key), value)).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members
            };
            let (a, b) = (sorted(left), sorted(right));
            for ((ka, va), (kb, vb)) in a.iter().zip(&b) {
                match ka.cmp(kb).then_with(|| compare(va, vb)) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                }
            }
            a.len().cmp(&b.len())
        }
    }
}

fn compare_numbers(left: &str, right: &str) -> Ordering {
    if let (Ok(a), Ok(b)) = (left.parse::<i128>(), right.parse::<i128>()) {
        return a.cmp(&b);
    }
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        _ => left.cmp(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_by_kind_then_by_value() {
        let ascending = [
            "null",
            "false",
            "true",
            "-1",
            "0.5",
            "2",
            "10",
            "9007199254740993",
            "9007199254740994",
            r#""a""#,
            r#""b""#,
            "[]",
            "[1]",
            "[1,2]",
            "[2]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"b":0}"#,
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1", "1.0"), Ordering::Equal);
        assert_eq!(compare(r#"{"b":1,"a":2}"#, r#"{"a":2, "b":1}"#), Ordering::Equal);
        assert_eq!(compare(r#""\u0041""#, r#""A""#), Ordering::Equal);
    }
}
