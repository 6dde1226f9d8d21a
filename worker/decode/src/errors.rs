//! The sentences that row errors are made of.
//!
//! Comes in: a value, the column it was meant for, a reason. Goes out: one line of text that names all
//! three, with the value cut so that a huge field cannot fill a report. Never fails.

use std::borrow::Cow;
use std::fmt::Write as _;

use stevedore_common::types::SqlType;

/// The number of characters of a value that a message shows.
pub const VALUE_CHARS: usize = 100;

/// A value as messages show it: at most [`VALUE_CHARS`] characters, then `…`; control characters as
/// escapes, so that a message stays one line.
pub fn cut(value: &str) -> Cow<'_, str> {
    let plain = |text: &str| !text.bytes().any(|b| b < 0x20 || b == 0x7f);
    if value.len() <= VALUE_CHARS && plain(value) {
        return Cow::Borrowed(value);
    }
    let mut shown = String::with_capacity(VALUE_CHARS + 8);
    for (i, c) in value.chars().enumerate() {
        if i == VALUE_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// `column 2 (b INT)`; the number counts from 1.
pub fn column(number: usize, name: &str, ty: &SqlType) -> String {
    format!("column {number} ({name} {ty})")
}

/// `invalid value 'b' for column 2 (b INT): invalid digit`.
pub fn invalid_value(value: &str, number: usize, name: &str, ty: &SqlType, reason: &str) -> String {
    let mut message = format!("invalid value '{}' for ", cut(value));
    let _ = write!(message, "column {number} ({name} {ty}): {reason}");
    message
}

/// `NULL is not allowed for column 2 (b INT NOT NULL)`.
pub fn null_value(number: usize, name: &str, ty: &SqlType) -> String {
    format!("NULL is not allowed for column {number} ({name} {ty} NOT NULL)")
}

/// What is wrong with a value that an expression computes for a column: the column where the value and a type
/// stand, as in [`invalid_value`], else before the reason: `column 2 (b INT): division by zero`.
pub fn for_column(message: &str, number: usize, name: &str, ty: &SqlType) -> String {
    match parts(message) {
        Parts { column: Some(_), .. } => message.to_owned(),
        // What the parts leave between value and reason is the type.
        Parts { value: Some(value), column: None, reason } => {
            let start = "invalid value '".len() + value.len() + "' for ".len();
            let end = message.len() - reason.len() - ": ".len();
            let asked = message.get(start..end).unwrap_or_default();
            format!("invalid value '{value}' for column {number} ({name} {asked}): {reason}")
        }
        Parts { value: None, column: None, reason } => format!("{}: {reason}", column(number, name, ty)),
    }
}

/// `missing field 'b' for column 2 (b INT)`.
pub fn missing_field(field: &str, number: usize, name: &str, ty: &SqlType) -> String {
    format!("missing field '{}' for {}", cut(field), column(number, name, ty))
}

/// What a message says, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The value, as shown.
    pub value: Option<&'a str>,
    /// The name and type of the column, as in `b INT`.
    pub column: Option<&'a str>,
    /// What is wrong with it.
    pub reason: &'a str,
}

/// Takes a message of this module apart; of any other it is all reason.
pub fn parts(message: &str) -> Parts<'_> {
    // JSON elements are named by their number first.
    let message = match message.strip_prefix("element ").and_then(|rest| rest.split_once(": ")) {
        Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => message,
    };
    let column_of = |target: &'_ str| -> Option<(usize, usize)> {
        let open = target.strip_prefix("column ")?.find(" (")? + "column ".len() + 2;
        target.ends_with(')').then(|| (open, target.len() - 1))
    };
    if let Some(target) = message.strip_prefix("NULL is not allowed for ") {
        let column = column_of(target).and_then(|(from, to)| target.get(from..to));
        let column = column.map(|column| column.strip_suffix(" NOT NULL").unwrap_or(column));
        return Parts { value: None, column, reason: "NULL is not allowed" };
    }
    if let Some((target, reason)) = message.split_once("): ").filter(|_| message.starts_with("column ")) {
        let target = message.get(..target.len() + 1).unwrap_or_default();
        if let Some((from, to)) = column_of(target) {
            return Parts { value: None, column: target.get(from..to), reason };
        }
    }
    if message.starts_with("missing field '")
        && let Some((reason, target)) = message.rsplit_once("' for ")
        && let Some((from, to)) = column_of(target)
    {
        let reason = message.get(..reason.len() + 1).unwrap_or(message);
        return Parts { value: None, column: target.get(from..to), reason };
    }
    let Some(rest) = message.strip_prefix("invalid value '") else {
        return Parts { value: None, column: None, reason: message };
    };
    // The value may hold anything, so the border is the first that a column or a type follows.
    for (end, border) in rest.match_indices("' for ") {
        let (value, target) = (rest.get(..end), rest.get(end + border.len()..).unwrap_or_default());
        let Some((target, reason)) = target.split_once(": ") else { continue };
        if let Some((from, to)) = column_of(target) {
            return Parts { value, column: target.get(from..to), reason };
        }
        if SqlType::parse(target).is_ok() {
            return Parts { value, column: None, reason };
        }
    }
    Parts { value: None, column: None, reason: message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_value_column_and_reason_in_one_line() {
        assert_eq!(
            invalid_value("b", 2, "b", &SqlType::Int32, "invalid digit"),
            "invalid value 'b' for column 2 (b INT): invalid digit"
        );
        assert_eq!(cut("a\nb"), "a\\nb");
        let long = "é".repeat(300);
        assert_eq!(cut(&long), format!("{}…", "é".repeat(100)));
        assert_eq!(cut(&"x".repeat(100)), "x".repeat(100));
    }

    #[test]
    fn a_message_is_taken_apart_into_what_it_was_made_of() {
        let ty = SqlType::Decimal(10, 2);
        for value in ["b", "it's for column 3", "x' for y: z", ""] {
            let message = invalid_value(value, 2, "a b", &ty, "invalid digit: no");
            let expected =
                Parts { value: Some(value), column: Some("a b DECIMAL(10, 2)"), reason: "invalid digit: no" };
            assert_eq!(parts(&message), expected);
            assert_eq!(parts(&format!("element 17: {message}")), expected);
        }
        let expected = Parts { value: None, column: Some("b INT"), reason: "NULL is not allowed" };
        assert_eq!(parts(&null_value(2, "b", &SqlType::Int32)), expected);
        let expected = Parts { value: Some("b"), column: None, reason: "invalid digit" };
        assert_eq!(parts("invalid value 'b' for INT: invalid digit"), expected);
        let computed = for_column("invalid value 'b' for INT: invalid digit", 2, "c", &SqlType::String);
        assert_eq!(computed, "invalid value 'b' for column 2 (c INT): invalid digit");
        assert_eq!(for_column(&computed, 3, "d", &SqlType::String), computed);
        let computed = for_column("division by zero", 2, "c", &SqlType::Decimal(10, 2));
        assert_eq!(computed, "column 2 (c DECIMAL(10, 2)): division by zero");
        let expected = Parts { value: None, column: Some("c DECIMAL(10, 2)"), reason: "division by zero" };
        assert_eq!(parts(&computed), expected);
        let message = missing_field("it's for b", 2, "b", &SqlType::Int32);
        assert_eq!(message, "missing field 'it's for b' for column 2 (b INT)");
        let expected = Parts { value: None, column: Some("b INT"), reason: "missing field 'it's for b'" };
        assert_eq!(parts(&message), expected);
        let other = "expected 2 fields, found 3";
        assert_eq!(parts(other), Parts { value: None, column: None, reason: other });
    }
}
