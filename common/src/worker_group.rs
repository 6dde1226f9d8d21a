//! Worker groups: the name by which workers are chosen, in SQL a WAREHOUSE.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The group of every worker that names none.
const DEFAULT: &str = "default";
/// The longest name, bytes.
const MOST_BYTES: usize = 63;

/// The name of a group, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerGroup(String);

impl WorkerGroup {
    /// A name as people write it, in any case.
    ///
    /// # Errors
    /// Invalid input, for what is no name.
    pub fn parse(text: &str) -> Result<Self> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if begins && text.len() <= MOST_BYTES && text.chars().all(is_part) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let shown: String = text.chars().take(MOST_BYTES).collect();
        let cut = if shown.len() < text.len() { "…" } else { "" };
        Err(Error::invalid(format!("'{shown}{cut}' is not the name of a worker group"))
            .hint(format!("a name {}", Self::RULE)))
    }

    /// What a name is like.
    pub const RULE: &str = "has 1 to 63 letters, digits, _ and -, and begins with a letter, a digit or _";

    /// A name as a message carries it; none is the default group.
    ///
    /// # Errors
    /// As [`WorkerGroup::parse`].
    pub fn of_message(text: &str) -> Result<Self> {
        if text.is_empty() { Ok(Self::default()) } else { Self::parse(text) }
    }

    /// Whether it is the group that always exists.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for WorkerGroup {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl fmt::Display for WorkerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_like_an_identifier_and_in_any_case_the_same() {
        let long = "a".repeat(MOST_BYTES);
        for name in ["etl", "ETL_2", "_x", "2nd-floor", &long] {
            assert_eq!(WorkerGroup::parse(name).unwrap().as_str(), name.to_lowercase());
        }
        let too_long = "a".repeat(MOST_BYTES + 1);
        for name in ["", "-a", "a b", "a.b", "größe", "a'", "a\n", &too_long] {
            let error = WorkerGroup::parse(name).unwrap_err();
            assert!(error.to_string().contains("is not the name of a worker group"), "{name}: {error}");
        }
    }

    #[test]
    fn the_default_group_is_what_nobody_names() {
        assert!(WorkerGroup::parse("Default").unwrap().is_default());
        assert!(WorkerGroup::of_message("").unwrap().is_default());
        assert!(!WorkerGroup::of_message("etl").unwrap().is_default());
        assert_eq!(WorkerGroup::default().to_string(), "default");
    }
}
