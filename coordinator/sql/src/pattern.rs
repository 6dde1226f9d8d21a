//! PATTERN: a regular expression that must match the whole of a path.
//!
//! Owns: the one way in which patterns are compiled, with limits on their size. Fails by naming the
//! option and what is wrong in the expression.

use regex::{Regex, RegexBuilder};
use stevedore_common::{Error, Result};

/// The longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 4096;
/// The largest compiled pattern, in bytes.
const MAX_COMPILED_BYTES: usize = 4 << 20;

/// Compiles a PATTERN; the result matches only whole paths.
///
/// # Errors
/// Invalid input for an expression that is wrong or too large.
pub fn compile(pattern: &str) -> Result<Regex> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Error::invalid(format!(
            "option PATTERN has {} bytes; at most {MAX_PATTERN_BYTES} are allowed",
            pattern.len()
        )));
    }
    // Alone first: brackets that the frame below would balance are the user's mistake.
    for text in [pattern.to_owned(), format!("^(?:{pattern})$")] {
        let compiled = RegexBuilder::new(&text)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build();
        match compiled {
            Ok(regex) if text.len() != pattern.len() => return Ok(regex),
            Ok(_) => {}
            Err(error) => {
                let what = error.to_string();
                let last = what.lines().last().unwrap_or("").trim().trim_start_matches("error: ").to_owned();
                return Err(Error::invalid(format!(
                    "option PATTERN is not a valid regular expression: {last}"
                )));
            }
        }
    }
    Err(Error::internal("a pattern was not compiled"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_pattern_matches_whole_paths_only() {
        let regex = compile("a|b.*[.]csv").unwrap();
        assert!(regex.is_match("bx.csv") && regex.is_match("a"));
        assert!(!regex.is_match("a.csv") && !regex.is_match("xa") && !regex.is_match("bx.csv.gz"));
    }

    #[test]
    fn wrong_and_huge_patterns_are_refused() {
        assert!(compile("*.csv").unwrap_err().to_string().contains("option PATTERN"));
        assert!(compile("a)(b").is_err());
        assert!(compile(&"a".repeat(5000)).unwrap_err().to_string().contains("4096"));
        assert!(compile("(?:a{1000}){1000}").is_err());
    }
}
