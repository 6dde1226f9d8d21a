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
}
