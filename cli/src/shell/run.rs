//! Statements and scripts, run and printed.

use std::io::Write;
use std::time::{Duration, Instant};

use futures::StreamExt;
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{Statement as Parsed, TransactionControl};
use stevedore_sql::script::split_script_with_places;

use super::{Format, Options, mistakes, progress, tables};
use crate::client::{Client, Rows, Statement};
use crate::transfer;

/// Runs an accepted statement up to its rows; a bar follows it as long as that takes.
///
/// # Errors
/// What came in its way.
pub async fn start(client: &Client, statement: &Statement, options: &Options) -> Result<Rows> {
    let running = client.run(statement);
    let Some(job_id) = statement.job_id.as_deref().filter(|_| options.progress) else {
        return running.await;
    };
    tokio::pin!(running);
    tokio::select! {
        rows = &mut running => rows,
        () = progress::follow(client, job_id) => running.await,
    }
}

/// Runs a statement and prints what it gives; answers the number of rows.
///
/// # Errors
/// What is wrong with it, or came in its way.
pub async fn run_statement(
    client: &Client,
    sql: &str,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<u64> {
    let started = Instant::now();
    if let Some(statement) = transfer::of_statement(sql) {
        return run_transfer(client, &statement, started, options, out).await;
    }
    let statement = client.prepare(sql).await?;
    run_accepted(client, &statement, started, options, out).await
}

/// Runs an accepted statement and prints what it gives.
pub(super) async fn run_accepted(
    client: &Client,
    statement: &Statement,
    started: Instant,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<u64> {
    let rows = start(client, statement, options).await?;
    let gives_rows = !rows.schema.fields().is_empty();
    let count = tables::render(&rows.schema, rows.batches, options.format, options.max_rows, out).await?;
    if options.format != Format::Table {
        return Ok(count);
    }
    let elapsed = started.elapsed();
    let note = match &statement.job_id {
        Some(job_id) => skipped_note(client, job_id).await,
        None => String::new(),
    };
    writeln!(out, "{}{note}", footer(gives_rows.then_some(count), elapsed, options.timing))?;
    out.flush()?;
    Ok(count)
}

/// Runs PUT or GET and prints its rows.
pub(super) async fn run_transfer(
    client: &Client,
    statement: &stevedore_sql::ast::Statement,
    started: Instant,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<u64> {
    let batch = transfer::run(client, statement, options.progress).await?;
    let (schema, rows) = (batch.schema(), futures::stream::iter([Ok(batch)]).boxed());
    let count = tables::render(&schema, rows, options.format, options.max_rows, out).await?;
    if options.format == Format::Table {
        writeln!(out, "{}", footer(Some(count), started.elapsed(), options.timing))?;
    }
    out.flush()?;
    Ok(count)
}

/// The last line of a table, or all that a statement without rows prints.
pub(crate) fn footer(rows: Option<u64>, elapsed: Duration, timing: bool) -> String {
    let time = if elapsed < Duration::from_secs(10) {
        format!("{} ms", elapsed.as_millis())
    } else {
        format!("{:.1} s", elapsed.as_secs_f64())
    };
    match (rows, timing) {
        (None, true) => format!("ok ({time})"),
        (None, false) => "ok".to_owned(),
        (Some(1), true) => format!("(1 row, {time})"),
        (Some(1), false) => "(1 row)".to_owned(),
        (Some(rows), true) => format!("({rows} rows, {time})"),
        (Some(rows), false) => format!("({rows} rows)"),
    }
}

/// What a load left out, which its rows do not say.
pub(crate) async fn skipped_note(client: &Client, job_id: &str) -> String {
    let request = v1::GetJobRequest { job_id: job_id.to_owned(), idempotency_key: String::new() };
    match client.jobs().get_job(request).await {
        Ok(job) => skipped_text(job.into_inner().skipped),
        Err(_) => String::new(),
    }
}

fn skipped_text(skipped: impl IntoIterator<Item = (String, u64)>) -> String {
    let mut parts: Vec<String> = skipped
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| {
            let files = if count == 1 { "file" } else { "files" };
            format!("{count} {files} {}", reason.replace('_', " "))
        })
        .collect();
    parts.sort();
    if parts.is_empty() { String::new() } else { format!(" skipped: {}", parts.join(", ")) }
}

/// Runs statements separated by `;`, up to the first that fails. The place of its mistake is shown on
/// standard error.
///
/// # Errors
/// The first failure, with its line in the text.
pub async fn run_script(
    client: &Client,
    text: &str,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let statements = match split_script_with_places(text) {
        Ok(statements) => statements,
        Err(error) => return Err(shown(text, error)),
    };
    let count = statements.len();
    let mut open = false;
    for (place, sql) in statements {
        if let Err(error) = run_statement(client, &sql, options, out).await {
            out.flush()?;
            return Err(shown(text, mistakes::in_script(error, place, count)));
        }
        open = transaction_open_after(&sql, open);
    }
    if open {
        eprintln!(
            "warning: the statements end within a transaction, which is rolled back; COMMIT would keep it"
        );
    }
    Ok(())
}

/// Whether a transaction is open after a statement that succeeded.
fn transaction_open_after(sql: &str, open: bool) -> bool {
    match stevedore_sql::parse(sql) {
        Ok(Parsed::Transaction(control)) => control == TransactionControl::Begin,
        _ => open,
    }
}

fn shown(text: &str, error: Error) -> Error {
    if let Some(excerpt) = mistakes::excerpt(text, &error) {
        eprint!("{excerpt}");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_leaves_a_transaction_open_is_noticed() {
        let open = |statements: &[&str]| {
            statements.iter().fold(false, |open, sql| transaction_open_after(sql, open))
        };
        assert!(open(&["BEGIN", "INSERT INTO t VALUES (1)"]));
        assert!(open(&["COMMIT", "START TRANSACTION", "SELECT 1"]));
        assert!(!open(&["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]));
        assert!(!open(&["BEGIN", "ROLLBACK", "SELECT 1"]));
    }

    #[test]
    fn the_footer_counts_and_times() {
        assert_eq!(footer(None, Duration::from_millis(3), true), "ok (3 ms)");
        assert_eq!(footer(Some(1), Duration::from_millis(12), true), "(1 row, 12 ms)");
        assert_eq!(footer(Some(20), Duration::from_millis(12_340), true), "(20 rows, 12.3 s)");
        assert_eq!(footer(Some(0), Duration::ZERO, false), "(0 rows)");
    }

    #[test]
    fn what_a_load_left_out_is_told() {
        assert_eq!(skipped_text([]), "");
        let skipped = [("already_loaded".to_owned(), 2), ("changed".to_owned(), 1), ("empty".to_owned(), 0)];
        assert_eq!(skipped_text(skipped), " skipped: 1 file changed, 2 files already loaded");
    }
}
