//! The format of the files of a load, as SQL.
//!
//! Comes in: what the user wrote for it, the format by name or extension. Goes out: the options of a
//! FILE_FORMAT. Fields that a record or file lacks are NULL unless the user says otherwise, as the created
//! table has them. Options are only told apart here; what they mean is checked where the statement is.

use stevedore_common::file_format::FormatKind;
use stevedore_common::{Error, Result};

/// The options of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FormatOptions {
    pub(super) kind: FormatKind,
    /// What the user wrote, without TYPE and brackets.
    text: String,
    /// The options in it, in upper case.
    names: Vec<String>,
}

impl FormatOptions {
    /// Takes the user's options apart. `chosen` is the format that was asked for, `by_name` that or the one
    /// of the extension. `None`: nothing says the format.
    ///
    /// # Errors
    /// Invalid input for text that is no list of options, and for what the command has a flag for.
    pub(super) fn parse(
        text: &str,
        chosen: Option<FormatKind>,
        by_name: Option<FormatKind>,
    ) -> Result<Option<Self>> {
        let text = text.trim();
        let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text).trim();
        let found = options(inner)
            .ok_or_else(|| Error::invalid(format!("--format-options '{text}' is no list of NAME = value")))?;
        let mut kind = by_name;
        let mut rest = String::new();
        let mut names = Vec::new();
        for (name, value, option) in found {
            match name.as_str() {
                "TYPE" => {
                    let named = FormatKind::parse("TYPE", value.trim_matches('\''))?;
                    if chosen.is_some_and(|chosen| chosen != named) {
                        return Err(Error::invalid(format!(
                            "--format-options says TYPE = {named}, --format differs"
                        )));
                    }
                    kind = Some(named);
                }
                "SKIP_HEADER" => {
                    return Err(Error::invalid("--format-options cannot set SKIP_HEADER")
                        .hint("--header says whether the files have a header"));
                }
                _ => {
                    rest.push(' ');
                    rest.push_str(option);
                    names.push(name);
                }
            }
        }
        Ok(kind.map(|kind| Self { kind, text: rest, names }))
    }

    /// Whether it is the built-in format, where there is no header.
    pub(super) fn is_built_in(&self) -> bool {
        self.names.is_empty()
    }

    /// The options in SQL, those of a file with a header if `header` says so.
    pub(super) fn in_sql(&self, header: bool) -> String {
        let own = match self.kind {
            FormatKind::Csv | FormatKind::Tsv if header => " SKIP_HEADER = 1",
            FormatKind::Csv | FormatKind::Tsv => "",
            _ if self.names.iter().any(|name| name == "MISSING_FIELD_AS") => "",
            FormatKind::Ndjson | FormatKind::Json => " MISSING_FIELD_AS = NULL",
            _ => " MISSING_FIELD_AS = FIELD_DEFAULT",
        };
        format!("TYPE = {}{own}{}", self.kind, self.text)
    }
}

/// The options of a text: name in upper case, value, both as written. `None`: it is no list of options.
fn options(text: &str) -> Option<Vec<(String, &str, &str)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let name_end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|end| *end > 0)?;
        let name = rest[..name_end].to_ascii_uppercase();
        let value = rest[name_end..].trim_start().strip_prefix('=')?;
        let value = value.strip_prefix('>').unwrap_or(value).trim_start();
        let end = value_end(value)?;
        let whole = rest.len() - value.len() + end;
        found.push((name, &value[..end], &rest[..whole]));
        rest = value[end..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(found)
}

/// Where a value ends: a string, a list in brackets, or a word.
fn value_end(value: &str) -> Option<usize> {
    match value.chars().next()? {
        '\'' => string_end(value),
        '(' => {
            let mut at = 1;
            loop {
                match value[at..].chars().next()? {
                    ')' => return Some(at + 1),
                    '\'' => at += string_end(&value[at..])?,
                    c => at += c.len_utf8(),
                }
            }
        }
        _ => {
            let end = value.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(value.len());
            (end > 0).then_some(end)
        }
    }
}

fn string_end(value: &str) -> Option<usize> {
    let mut chars = value.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => drop(chars.next()),
            '\'' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> FormatOptions {
        FormatOptions::parse(text, None, Some(FormatKind::Csv)).unwrap().unwrap()
    }

    #[test]
    fn options_are_told_apart_whatever_their_strings_hold() {
        let options =
            parse("(type = tsv, Null_Display = 'a '' = \\' b' NULL_IF=('x)', 'y') trim_space => true)");
        assert_eq!(options.kind, FormatKind::Tsv);
        assert_eq!(options.names, ["NULL_DISPLAY", "NULL_IF", "TRIM_SPACE"]);
        assert_eq!(
            options.in_sql(true),
            "TYPE = TSV SKIP_HEADER = 1 Null_Display = 'a '' = \\' b' NULL_IF=('x)', 'y') trim_space => true"
        );
        assert!(parse("").is_built_in() && parse("TYPE = csv").is_built_in());
        for text in ["x", "x =", "= 1", "a = 'b", "a = ('b'", "; DROP TABLE t"] {
            assert!(FormatOptions::parse(text, None, None).is_err(), "{text}");
        }
    }

    #[test]
    fn missing_fields_are_null_unless_the_user_says_otherwise() {
        let json =
            |text| FormatOptions::parse(text, None, Some(FormatKind::Json)).unwrap().unwrap().in_sql(false);
        assert_eq!(json(""), "TYPE = JSON MISSING_FIELD_AS = NULL");
        assert_eq!(json("missing_field_as = ERROR"), "TYPE = JSON missing_field_as = ERROR");
    }
}
