//! PUT and GET: files between this machine and stages, many at a time.
//!
//! Owns: which local files a statement names, what is left to do after an earlier try, how files are sent and
//! fetched, and the rows that say so. Comes in: a parsed PUT or GET and a [`Client`]. Goes out: files in the
//! stage or in the local folder, each whole or not there at all, with checksums compared at both ends, and a
//! row for each. A file that is there already with the same content is not moved again, so a statement that
//! broke off is simply repeated. Must never: read or write a local file that the statement does not name, keep
//! more than a few pieces of a file in memory. A file that fails is tried again where that can help; the others
//! go on, and then the statement fails with the first failure.

mod get;
mod put;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{LocationRef, Statement};
use tokio::io::AsyncReadExt;

use crate::client::Client;

/// Files at a time, where PARALLEL does not say.
const DEFAULT_PARALLEL: u32 = 4;
/// Tries of a file whose transfer breaks off.
const ATTEMPTS: u32 = 4;
/// Bytes read and sent at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was moved.
    Success,
    /// It was there already, with this content.
    Skipped,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// A file that is where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    /// The local path, or for GET the path that it now has.
    file: String,
    outcome: Outcome,
    /// Bytes in the stage.
    size: u64,
}

/// The statement, if it is PUT or GET. Whatever else is wrong with it is the server's to say.
pub fn of_statement(sql: &str) -> Option<Statement> {
    let word = sql.trim_start().get(..3)?;
    if !word.eq_ignore_ascii_case("put") && !word.eq_ignore_ascii_case("get") {
        return None;
    }
    stevedore_sql::parse(sql)
        .ok()
        .filter(|statement| matches!(statement, Statement::Put(_) | Statement::Get(_)))
}

/// Runs PUT or GET; `progress` shows a bar on standard error meanwhile.
///
/// # Errors
/// The first failure, once every file was tried; files that were moved stay.
pub async fn run(client: &Client, statement: &Statement, progress: bool) -> Result<RecordBatch> {
    let bar = Progress::new(progress);
    let moved = match statement {
        Statement::Put(put) => put::run(client, put, &bar).await,
        Statement::Get(get) => get::run(client, get, &bar).await,
        other => Err(Error::internal(format!("{} moves no files", other.name()))),
    };
    bar.0.finish_and_clear();
    rows(&moved?)
}

fn rows(moved: &[Moved]) -> Result<RecordBatch> {
    let schema = Schema::new(vec![
        Field::new("file", DataType::Utf8, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("size", DataType::Int64, true),
    ]);
    let size = |file: &Moved| i64::try_from(file.size).unwrap_or(i64::MAX);
    Ok(RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(moved.iter().map(|file| Some(file.file.as_str())).collect::<StringArray>()),
            Arc::new(moved.iter().map(|file| Some(file.outcome.as_str())).collect::<StringArray>()),
            Arc::new(moved.iter().map(size).collect::<Int64Array>()),
        ],
    )?)
}

/// The bar, hidden where nobody looks.
struct Progress(ProgressBar);

impl Progress {
    fn new(shown: bool) -> Self {
        if !shown {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{spinner} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    fn expect(&self, files: usize, bytes: u64) {
        self.0.set_length(bytes);
        self.0.set_message(format!("{files} files, {}", HumanBytes(bytes)));
    }

    fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// Moves each of the files, some at a time. All are tried, whatever becomes of the others.
async fn each<T, F: Future<Output = Result<Moved>>>(
    files: Vec<T>,
    parallel: Option<u32>,
    one: impl Fn(T) -> F,
) -> Result<Vec<Moved>> {
    let at_once = parallel.unwrap_or(DEFAULT_PARALLEL).max(1) as usize;
    let count = files.len();
    let results: Vec<Result<Moved>> = futures::stream::iter(files).map(one).buffered(at_once).collect().await;
    let failed = results.iter().filter(|result| result.is_err()).count();
    results.into_iter().collect::<Result<Vec<_>>>().map_err(|error| {
        error.context(format!("{failed} of {count} files failed; run the statement again to go on"))
    })
}

/// Tries again what broke off for a reason that may pass.
async fn retried<T, F: Future<Output = Result<T>>>(once: impl Fn() -> F) -> Result<T> {
    let mut attempt = 1;
    loop {
        match once().await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// The stage and the path in it that a location names.
fn stage_path(location: &LocationRef) -> Result<v1::StagePath> {
    match location {
        LocationRef::Stage { name, path } => Ok(v1::StagePath { stage: name.clone(), path: path.clone() }),
        LocationRef::UserStage { path } => Ok(v1::StagePath { stage: "~".to_owned(), path: path.clone() }),
        LocationRef::Uri { url, .. } => Err(Error::invalid(format!("'{url}' is no stage"))),
    }
}

/// A failure that names the local file.
fn about(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::from(error).context(format!("local file '{path}'"))
}

/// The checksum of the first `limit` bytes of a local file.
async fn sha256_of(path: &std::path::Path, limit: u64) -> Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await.map_err(about(path))?.take(limit);
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece).await.map_err(about(path))?;
        match piece.get(..read) {
            Some(bytes) if read > 0 => hash.update(bytes),
            _ => return Ok(hash.finalize().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_put_and_get_run_here() {
        assert!(of_statement("  put fs:///a/* @~").is_some());
        assert!(of_statement("GET @s/x fs:///a/").is_some());
        for sql in ["SELECT 1", "PU", "", "putty", "GET nonsense"] {
            assert!(of_statement(sql).is_none(), "{sql}");
        }
    }

    #[tokio::test]
    async fn all_files_are_tried_and_the_first_failure_is_told() {
        let tried = std::sync::atomic::AtomicU32::new(0);
        let one = |n: u32| {
            tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                if n == 1 {
                    return Err(Error::bad_data("file 1 is bad"));
                }
                Ok(Moved { file: n.to_string(), outcome: Outcome::Success, size: 1 })
            }
        };
        let error = each(vec![0, 1, 2], Some(1), one).await.unwrap_err();
        assert_eq!(tried.load(std::sync::atomic::Ordering::Relaxed), 3);
        assert!(error.to_string().contains("1 of 3 files"), "{error}");
        assert!(error.to_string().contains("file 1 is bad"), "{error}");
    }
}
