//! What the user named, as a folder, a path in it and a pattern.
//!
//! Comes in: a local path, a glob or a URL. Goes out: the URL of a folder that a stage can have, the literal
//! beginning of the paths below it, and the PATTERN of what follows. Local paths become absolute. Does no I/O
//! but asking whether a local path is a folder.

use std::path::{Path, PathBuf};

use stevedore_common::file_format::{Compression, FormatKind};
use stevedore_common::{Error, Result};

/// Characters that begin a glob.
const GLOB: &[char] = &['*', '?', '[', '{'];

/// Files of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The URL of the folder, with its slash (HTTP: the URL as it is).
    pub(crate) url: String,
    /// The literal beginning of the paths below the folder; maybe empty.
    pub(crate) path: String,
    /// A regular expression for what follows; `None` for everything.
    pub(crate) pattern: Option<String>,
    /// The folder, if it is a local one.
    pub(crate) local: Option<PathBuf>,
}

impl Source {
    /// Reads what the user wrote; local paths are relative to `current`.
    ///
    /// # Errors
    /// Invalid input for globs that do not end, and for `..` in a URL.
    pub(crate) fn parse(text: &str, current: &Path) -> Result<Self> {
        if let Some((scheme, rest)) = text.split_once("://") {
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
                // The server expands the globs of such a URL itself; there is no folder to list.
                return Ok(Self { url: text.to_owned(), path: String::new(), pattern: None, local: None });
            }
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (folder, path, pattern) = split(path)?;
            let local = scheme.eq_ignore_ascii_case("fs").then(|| PathBuf::from(format!("/{folder}")));
            return Ok(Self { url: format!("{scheme}://{authority}/{folder}"), path, pattern, local });
        }
        if text.is_empty() {
            return Err(
                Error::invalid("no file is named").hint("write stevedore load 'orders/*.csv' --into orders")
            );
        }
        let mut whole = absolute(text, current)?;
        if whole.len() > 1 && (text.ends_with('/') || text.ends_with("/.") || Path::new(&whole).is_dir()) {
            whole.push('/');
        }
        let (folder, path, pattern) = split(whole.trim_start_matches('/'))?;
        let local = Some(PathBuf::from(format!("/{folder}")));
        Ok(Self { url: format!("fs:///{folder}"), path, pattern, local })
    }
}

/// A local path from the root on, without `.`, `..` and a slash at its end.
///
/// # Errors
/// Invalid input for a path that is no UTF-8.
pub(crate) fn absolute(text: &str, current: &Path) -> Result<String> {
    let joined = current.join(text);
    let mut parts: Vec<&str> = Vec::new();
    let whole = joined
        .to_str()
        .ok_or_else(|| Error::invalid(format!("the path '{}' is no UTF-8", joined.display())))?;
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The folder (with its slash, or empty), the literal beginning after it, the pattern of the rest.
fn split(path: &str) -> Result<(String, String, Option<String>)> {
    let Some(glob) = path.find(GLOB) else {
        let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        // One file and nothing whose name only begins like it.
        let pattern = (!name.is_empty()).then(String::new);
        return Ok((folder.to_owned(), name.to_owned(), pattern));
    };
    let (literal, rest) = path.split_at(glob);
    let (folder, name) = literal.split_at(literal.rfind('/').map_or(0, |slash| slash + 1));
    Ok((folder.to_owned(), name.to_owned(), Some(expression(rest)?)))
}

/// A glob as a regular expression: `*` and `?` stay within a folder, `**` does not.
fn expression(glob: &str) -> Result<String> {
    let mut expression = String::new();
    let mut chars = glob.chars().peekable();
    let mut depth = 0;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                // `**/` also stands for no folder at all.
                if chars.peek() == Some(&'/') {
                    chars.next();
                    expression.push_str("(?:.*/)?");
                } else {
                    expression.push_str(".*");
                }
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '{' => {
                depth += 1;
                expression.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                expression.push(')');
            }
            ',' if depth > 0 => expression.push('|'),
            '[' => expression.push_str(&class(&mut chars, glob)?),
            c => literal(c, &mut expression),
        }
    }
    if depth > 0 {
        return Err(Error::invalid(format!("'{glob}' has a {{ without its }}")));
    }
    Ok(expression)
}

/// `[abc]`, `[a-z]` or `[!a]`, after its bracket.
fn class(chars: &mut impl Iterator<Item = char>, glob: &str) -> Result<String> {
    let mut members = String::new();
    for c in chars {
        match c {
            ']' if !members.is_empty() && members != "^" => return Ok(format!("[{members}]")),
            '!' | '^' if members.is_empty() => members.push('^'),
            '-' => members.push('-'),
            c => literal(c, &mut members),
        }
    }
    Err(Error::invalid(format!("'{glob}' has a [ without its ]")))
}

/// A character that stands for itself.
fn literal(c: char, expression: &mut String) {
    if r"\.+*?()|[]{}^$#&-~".contains(c) {
        expression.push('\\');
    }
    expression.push(c);
}

/// The format of files by their extension, an extension of compression left out.
pub(super) fn format_of(text: &str) -> Option<FormatKind> {
    let name = text.split(['?', '#']).next().unwrap_or(text).rsplit('/').next()?.to_ascii_lowercase();
    // Of `{csv,csv.gz}` and `csv*` the last extension counts.
    let mut extensions =
        name.rsplit('.').filter_map(|part| part.trim_end_matches(['}', '*', ']']).rsplit([',', '{']).next());
    let mut extension = extensions.next()?;
    if Compression::of_extension(extension) != Compression::None {
        extension = extensions.next()?;
    }
    Some(match extension {
        "csv" => FormatKind::Csv,
        "tsv" | "tab" => FormatKind::Tsv,
        "ndjson" | "jsonl" => FormatKind::Ndjson,
        // An array, or objects one after the other: on lines too.
        "json" => FormatKind::Json,
        "parquet" | "pq" => FormatKind::Parquet,
        "orc" => FormatKind::Orc,
        "avro" => FormatKind::Avro,
        "arrow" | "feather" => FormatKind::Arrow,
        "arrows" => FormatKind::ArrowStream,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> (String, String, Option<String>) {
        let source = Source::parse(text, Path::new("/home/ada/work")).unwrap();
        (source.url, source.path, source.pattern)
    }

    fn parts(url: &str, path: &str, pattern: Option<&str>) -> (String, String, Option<String>) {
        (url.to_owned(), path.to_owned(), pattern.map(str::to_owned))
    }

    #[test]
    fn a_path_becomes_a_folder_a_prefix_and_a_pattern() {
        assert_eq!(parse("a.csv"), parts("fs:///home/ada/work/", "a.csv", Some("")));
        assert_eq!(parse("../x/./a.csv"), parts("fs:///home/ada/x/", "a.csv", Some("")));
        assert_eq!(parse("in/a*.csv"), parts("fs:///home/ada/work/in/", "a", Some("[^/]*\\.csv")));
        assert_eq!(parse("/data/**/?.csv"), parts("fs:///data/", "", Some("(?:.*/)?[^/]\\.csv")));
        assert_eq!(parse("/data/"), parts("fs:///data/", "", None));
        assert_eq!(parse("s3://b/p/{a,b}-[0-9].csv"), parts("s3://b/p/", "", Some("(?:a|b)\\-[0-9]\\.csv")));
        assert_eq!(parse("s3://b/p/"), parts("s3://b/p/", "", None));
        assert_eq!(parse("fs:///d/a b.csv"), parts("fs:///d/", "a b.csv", Some("")));
        let https = "https://host/x{1,2}.csv";
        assert_eq!(parse(https), parts(https, "", None));
    }

    #[test]
    fn globs_that_do_not_end_are_refused() {
        for text in ["a{b", "a[b", ""] {
            assert!(Source::parse(text, Path::new("/d")).is_err(), "{text}");
        }
        assert_eq!(expression("[!a-c]x").unwrap(), "[^a-c]x");
    }

    #[test]
    fn the_extension_tells_the_format() {
        for (name, kind) in [
            ("a.csv", Some(FormatKind::Csv)),
            ("in/*.CSV.gz", Some(FormatKind::Csv)),
            ("a.jsonl.zst", Some(FormatKind::Ndjson)),
            ("a.json.gz", Some(FormatKind::Json)),
            ("a.arrow", Some(FormatKind::Arrow)),
            ("https://h/a.tsv?x=1", Some(FormatKind::Tsv)),
            ("s3://b/p/*.parquet", Some(FormatKind::Parquet)),
            ("in/o*.{csv,csv.gz}", Some(FormatKind::Csv)),
            ("s3://b/p/", None),
            ("a.gz", None),
            ("a.txt", None),
        ] {
            assert_eq!(format_of(name), kind, "{name}");
        }
    }
}
