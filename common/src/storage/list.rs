//! Which files a statement means: PATTERN and FILES, on top of a store's raw listing.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use regex::Regex;

use crate::error::{Error, ErrorKind, Result};
use crate::file_identity::FileEntry;

use super::Store;

/// How the names of files begin that are being written. They are listed only by a prefix that begins so itself.
pub const UNFINISHED: &str = ".stevedore-";

const HEADS_AT_ONCE: usize = 16;
const MAX_PATTERN_PROGRAM: usize = 4 << 20;

/// PATTERN: a regular expression that must match the whole of the path after `@stage/path`.
#[derive(Debug, Clone)]
pub struct StagePattern(Regex);

impl StagePattern {
    /// Compiles the text of a PATTERN.
    ///
    /// # Errors
    /// Invalid input with what is wrong in the expression.
    pub fn new(pattern: &str) -> Result<Self> {
        regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(MAX_PATTERN_PROGRAM)
            .dot_matches_new_line(true)
            .build()
            .map(Self)
            .map_err(|e| {
                let reason = e.to_string();
                let reason =
                    reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Error::invalid(format!("invalid PATTERN '{pattern}': {reason}"))
                    .hint("PATTERN is a regular expression, as in '.*[.]csv'")
            })
    }

    /// Whether a file with this path after the prefix is meant. After a prefix without a trailing slash
    /// the rest may begin with one; it may be left out of the expression.
    pub fn matches(&self, rest: &str) -> bool {
        self.0.is_match(rest) || rest.strip_prefix('/').is_some_and(|rest| self.0.is_match(rest))
    }
}

/// What to list below a prefix.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// FILES: explicit names relative to the prefix; each must exist.
    pub files: Option<Vec<String>>,
    /// PATTERN.
    pub pattern: Option<StagePattern>,
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Store {
    /// Streams the files below a raw prefix (relative to the root), in the order of the store (or of
    /// FILES). HTTP prefixes may hold globs. Nothing that matches is an empty stream, but a name in
    /// FILES that does not exist is an error.
    pub fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'static, Result<FileEntry>> {
        let ListOptions { files, pattern } = options;
        let prefix_len = prefix.len();
        let listed = match files {
            Some(files) => self.explicit(prefix, files),
            None => {
                let asked_for = last_segment(prefix).starts_with(UNFINISHED);
                let finished =
                    move |entry: &FileEntry| asked_for || !last_segment(&entry.path).starts_with(UNFINISHED);
                self.list_raw(prefix).try_filter(move |entry| std::future::ready(finished(entry))).boxed()
            }
        };
        match pattern {
            Some(pattern) => {
                // Globs make names that do not begin with the prefix as written: match after the folder.
                let folder = self
                    .root()
                    .join(prefix)
                    .ok()
                    .filter(|location| location.has_globs())
                    .map(|location| location.folder_path()[self.root().path().len()..].to_owned());
                listed
                    .try_filter(move |entry| {
                        let rest = entry.path.get(prefix_len..).unwrap_or_default();
                        let rest = match &folder {
                            Some(folder) => entry.path.strip_prefix(folder.as_str()).unwrap_or(&entry.path),
                            None => rest,
                        };
                        std::future::ready(pattern.matches(rest))
                    })
                    .boxed()
            }
            None => listed,
        }
    }

    fn explicit(&self, prefix: &str, files: Vec<String>) -> BoxStream<'static, Result<FileEntry>> {
        let mut seen = std::collections::HashSet::new();
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            match self.join_file(prefix, &file) {
                Ok(path) if seen.insert(path.clone()) => paths.push((path, file)),
                Ok(_) => {}
                Err(e) => return futures::stream::once(async move { Err(e.context("FILES")) }).boxed(),
            }
        }
        let store = self.clone();
        let prefix = prefix.to_owned();
        futures::stream::iter(paths)
            .map(move |(path, file)| {
                let (store, prefix) = (store.clone(), prefix.clone());
                async move {
                    store.head(&path).await.map_err(|e| match e.kind() {
                        ErrorKind::NotFound => Error::not_found(format!(
                            "the file '{file}' of FILES does not exist in '{}{prefix}'",
                            store.root()
                        ))
                        .hint("names in FILES are relative to the location"),
                        _ => e,
                    })
                }
            })
            .buffered(HEADS_AT_ONCE)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_path() {
        let pattern = StagePattern::new(".*[.]csv").unwrap();
        assert!(pattern.matches("a/b.csv") && pattern.matches("/b.csv"));
        assert!(!pattern.matches("b.csv.gz"));
        let pattern = StagePattern::new("a|b").unwrap();
        assert!(pattern.matches("a") && pattern.matches("/b") && !pattern.matches("ab"));
    }

    #[test]
    fn a_wrong_pattern_is_explained() {
        let error = StagePattern::new("*.csv").unwrap_err().to_string();
        assert!(error.contains("invalid PATTERN '*.csv'") && error.contains("repetition"), "{error}");
        assert!(StagePattern::new("(a{1000}){1000}").is_err());
    }
}
