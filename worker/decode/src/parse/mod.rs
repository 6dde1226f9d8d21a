//! From the text of one value to the value: numbers, decimals, times, booleans, binary.
//!
//! Comes in: the bytes of a field. Goes out: the native value that an Arrow array of the type holds, or
//! the reason why there is none, as the short text that ends a row error. No function here panics or
//! allocates on the hot path; none guesses: a text that is not wholly a value is an error.
//! `columns` has the builders that put the values into arrays.

pub mod binary;
pub(crate) mod columns;
pub mod datetime;
pub mod decimal;
pub mod number;

/// Why a text is not a value of a type.
pub type Reason = &'static str;

/// Of a VECTOR, whose type says how many elements it wants.
pub(crate) const WRONG_SIZE: Reason = "the number of elements is not the dimension of the vector";

/// The reason for a number that its type cannot hold.
pub const OUT_OF_RANGE: Reason = "out of range";
/// The reason for text that is no number.
pub const INVALID_DIGIT: Reason = "invalid digit";

/// Cuts ASCII white space off both ends.
#[inline]
pub fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// Reads TRUE, FALSE, T, F, 1 or 0 in any case.
///
/// # Errors
/// Says that it is no boolean.
pub fn parse_boolean(text: &[u8]) -> Result<bool, Reason> {
    match text {
        b"true" | b"1" | b"t" | b"T" | b"TRUE" | b"True" => Ok(true),
        b"false" | b"0" | b"f" | b"F" | b"FALSE" | b"False" => Ok(false),
        _ => {
            let text = trim(text);
            if text.eq_ignore_ascii_case(b"true") || text == b"1" || text.eq_ignore_ascii_case(b"t") {
                Ok(true)
            } else if text.eq_ignore_ascii_case(b"false") || text == b"0" || text.eq_ignore_ascii_case(b"f") {
                Ok(false)
            } else {
                Err("invalid boolean")
            }
        }
    }
}

/// The head of a value as text for an error, long enough for the cut that messages make.
pub(crate) fn lossy_head(value: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&value[..value.len().min(4 * crate::errors::VALUE_CHARS + 4)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_have_six_spellings_in_any_case() {
        for text in ["true", "T", "1", "tRUE", " true "] {
            assert_eq!(parse_boolean(text.as_bytes()), Ok(true), "{text}");
        }
        for text in ["false", "f", "0", "FALSE", "fAlse"] {
            assert_eq!(parse_boolean(text.as_bytes()), Ok(false), "{text}");
        }
        for text in ["", "yes", "2", "truee", "10"] {
            assert!(parse_boolean(text.as_bytes()).is_err(), "{text}");
        }
    }
}
