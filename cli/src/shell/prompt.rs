//! The interactive shell.
//!
//! Lines are edited on a thread of their own, because reading a terminal blocks. A statement may span lines
//! and ends with `;`. Ctrl-C clears the line or cancels what runs, Ctrl-D leaves. The history is kept in the
//! user's state folder, with secrets masked.

use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Instant;

use rustyline::completion::Completer;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_sql::mask_secrets;
use stevedore_sql::script::{Completeness, completeness, split_script_with_places};
use tokio::sync::oneshot;

use super::{Options, mistakes, run};
use crate::client::Client;
use crate::transfer;

const PROMPT: &str = "stevedore> ";
const HISTORY_ENTRIES: usize = 2_000;

const HELP: &str = "\
Statements end with ';' and may span lines. The arrow keys walk through the history, Tab completes keywords.
  help, \\h        this text
  exit, quit, \\q  leave (as Ctrl-D)
  Ctrl-C          clear the line, or cancel what runs
To begin with:
  SHOW TABLES;   SHOW STAGES;   DESC TABLE t;   LIST @stage;
  SELECT * FROM @stage/path/ (FILE_FORMAT => 'PARQUET') LIMIT 5;
  COPY INTO t FROM @stage/path/ FILE_FORMAT = (TYPE = PARQUET);
";

const WORDS: &[&str] = &[
    "ALTER TABLE",
    "BETWEEN",
    "CONNECTION",
    "CONNECTION_NAME",
    "COPY INTO",
    "COUNT(*)",
    "CREATE CONNECTION",
    "CREATE DATABASE",
    "CREATE FILE FORMAT",
    "CREATE STAGE",
    "CREATE TABLE",
    "DATABASE",
    "DESC TABLE",
    "DISTINCT",
    "DROP CONNECTION",
    "DROP DATABASE",
    "DROP FILE FORMAT",
    "DROP STAGE",
    "DROP TABLE",
    "EXPLAIN",
    "FILE_FORMAT",
    "FILES",
    "FORCE",
    "FROM",
    "GET",
    "GROUP BY",
    "HAVING",
    "INSERT INTO",
    "JOIN",
    "LIMIT",
    "LIST",
    "MAX_FILES",
    "ON_ERROR",
    "ORDER BY",
    "PARQUET",
    "PATTERN",
    "PRESIGN",
    "PURGE",
    "PUT",
    "REMOVE",
    "RETURN_FAILED_ONLY",
    "SELECT",
    "SET",
    "SHOW COLUMNS FROM",
    "SHOW CONNECTIONS",
    "SHOW CREATE TABLE",
    "SHOW DATABASES",
    "SHOW FILE FORMATS",
    "SHOW SETTINGS",
    "SHOW STAGES",
    "SHOW TABLES",
    "SHOW WAREHOUSES",
    "SKIP_HEADER",
    "STORAGE_TYPE",
    "TIMESTAMP",
    "TRUNCATE TABLE",
    "TYPE",
    "UNSET",
    "URL",
    "USE",
    "VALUES",
    "VARCHAR",
    "VARIANT",
    "VECTOR",
    "WHERE",
    "WITH",
];

/// What a line can be apart from SQL.
#[derive(Debug, PartialEq, Eq)]
enum Verb {
    Help,
    Leave,
}

fn verb(text: &str) -> Option<Verb> {
    match text.trim().trim_end_matches(';').trim_end().to_ascii_lowercase().as_str() {
        "help" | "?" | "\\h" | "\\?" => Some(Verb::Help),
        "exit" | "quit" | "\\q" => Some(Verb::Leave),
        _ => None,
    }
}

fn is_ready(text: &str) -> bool {
    verb(text).is_some() || completeness(text) != Completeness::Incomplete
}

/// Where the word at `place` begins, and how it can go on.
fn completions(line: &str, place: usize) -> (usize, Vec<String>) {
    let before = line.get(..place).unwrap_or(line);
    let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |last| {
        last + before.get(last..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
    });
    let word = before.get(start..).unwrap_or("");
    if word.is_empty() {
        return (start, Vec::new());
    }
    let lower = word.chars().all(|c| !c.is_ascii_uppercase());
    let upper = word.to_ascii_uppercase();
    let words = WORDS.iter().filter(|known| known.starts_with(&upper));
    (start, words.map(|known| if lower { known.to_ascii_lowercase() } else { (*known).to_owned() }).collect())
}

struct Sql;

impl Completer for Sql {
    type Candidate = String;

    fn complete(&self, line: &str, place: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completions(line, place))
    }
}

impl Validator for Sql {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let ready = is_ready(context.input());
        Ok(if ready { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Hinter for Sql {
    type Hint = String;
}
impl Highlighter for Sql {}
impl Helper for Sql {}

/// What came from the terminal.
enum Input {
    Text(String),
    Cleared,
    End,
    Failed(String),
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local").join("state")))?;
    Some(state.join("stevedore").join("history"))
}

/// The thread of the editor: one line for each request, until nobody asks any more.
fn edit(requests: mpsc::Receiver<oneshot::Sender<Input>>) {
    let editor = Editor::<Sql, DefaultHistory>::new();
    let mut editor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            if let Ok(request) = requests.recv() {
                let _ = request.send(Input::Failed(error.to_string()));
            }
            return;
        }
    };
    editor.set_helper(Some(Sql));
    let _ = editor.set_max_history_size(HISTORY_ENTRIES);
    // A history that cannot be read or written is done without.
    let history =
        history_file().filter(|file| file.parent().is_some_and(|dir| std::fs::create_dir_all(dir).is_ok()));
    if let Some(file) = &history {
        let _ = editor.load_history(file);
    }
    while let Ok(request) = requests.recv() {
        let input = match editor.readline(PROMPT) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    let _ = editor.add_history_entry(mask_secrets(text.trim()));
                    if let Some(file) = &history {
                        let _ = editor.append_history(file);
                    }
                }
                Input::Text(text)
            }
            Err(ReadlineError::Interrupted) => Input::Cleared,
            Err(ReadlineError::Eof) => Input::End,
            Err(error) => Input::Failed(error.to_string()),
        };
        let _ = request.send(input);
    }
}

/// Reads statements from the terminal and runs them, until the user leaves.
///
/// # Errors
/// The terminal cannot be read. What is wrong with statements is printed.
pub async fn prompt(client: &Client, options: &Options) -> Result<()> {
    let (requests, inbox) = mpsc::channel();
    std::thread::Builder::new()
        .name("prompt".to_owned())
        .spawn(move || edit(inbox))
        .map_err(|e| Error::internal(format!("starting the prompt: {e}")))?;
    println!("Stevedore {}. 'help' helps, 'exit' leaves.", env!("CARGO_PKG_VERSION"));
    loop {
        let (request, answer) = oneshot::channel();
        if requests.send(request).is_err() {
            return Ok(());
        }
        match answer.await {
            Ok(Input::Text(text)) => match verb(&text) {
                Some(Verb::Help) => print!("{HELP}"),
                Some(Verb::Leave) => return Ok(()),
                None => run_text(client, &text, options).await?,
            },
            Ok(Input::Cleared) => {}
            Ok(Input::End) | Err(_) => return Ok(()),
            Ok(Input::Failed(error)) => {
                return Err(Error::internal(format!("reading the terminal: {error}")));
            }
        }
    }
}

/// Runs what was entered, and says what went wrong.
async fn run_text(client: &Client, text: &str, options: &Options) -> Result<()> {
    let failed = |error: Error| {
        if let Some(excerpt) = mistakes::excerpt(text, &error) {
            eprint!("{excerpt}");
        }
        eprintln!("error: {}", error.message_with_context());
        if let Some(hint) = error.hint_text() {
            eprintln!("hint: {hint}");
        }
    };
    let statements = match split_script_with_places(text) {
        Ok(statements) => statements,
        Err(error) => {
            failed(error);
            return Ok(());
        }
    };
    let count = statements.len();
    for (place, sql) in statements {
        if let Err(error) = run_cancellable(client, &sql, options).await {
            failed(mistakes::in_script(error, place, count));
            break;
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Ctrl-C drops a query, which ends it, and cancels a job, whose own answer then comes.
async fn run_cancellable(client: &Client, sql: &str, options: &Options) -> Result<()> {
    let cancelled = || Error::cancelled("the statement was cancelled");
    let started = Instant::now();
    if let Some(transfer) = transfer::of_statement(sql) {
        let mut out = std::io::stdout();
        return tokio::select! {
            moved = run::run_transfer(client, &transfer, started, options, &mut out) => moved.map(drop),
            _ = tokio::signal::ctrl_c() => Err(cancelled()),
        };
    }
    let statement = tokio::select! {
        statement = client.prepare(sql) => statement?,
        _ = tokio::signal::ctrl_c() => return Err(cancelled()),
    };
    let mut out = std::io::stdout();
    let running = run::run_accepted(client, &statement, started, options, &mut out);
    tokio::pin!(running);
    tokio::select! {
        result = &mut running => return result.map(drop),
        _ = tokio::signal::ctrl_c() => {}
    }
    let Some(job_id) = statement.job_id.clone() else { return Err(cancelled()) };
    match client.jobs().cancel_job(v1::CancelJobRequest { job_id }).await {
        // Too late, or cancelled: the statement itself says which.
        Ok(_) => running.await.map(drop),
        Err(status) => {
            let error = stevedore_status::error_of_status(&status);
            if error.kind() == ErrorKind::NotFound { Err(cancelled()) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sql_except_for_a_few_words() {
        assert_eq!(verb(" EXIT; "), Some(Verb::Leave));
        assert_eq!(verb("\\q"), Some(Verb::Leave));
        assert_eq!(verb("help"), Some(Verb::Help));
        assert_eq!(verb("SELECT 'exit'"), None);
    }

    #[test]
    fn enter_runs_what_is_complete() {
        for (text, ready) in
            [("", true), ("exit", true), ("SELECT 1;", true), ("SELECT 1", false), ("SELECT ';", false)]
        {
            assert_eq!(is_ready(text), ready, "{text}");
        }
    }

    #[test]
    fn keywords_are_completed_in_the_case_they_were_begun() {
        assert_eq!(completions("SHOW TABLES; trunc", 18), (13, vec!["truncate table".to_owned()]));
        assert_eq!(completions("SEL", 3), (0, vec!["SELECT".to_owned()]));
        assert_eq!(completions("é", 2).1, Vec::<String>::new());
        assert_eq!(completions("", 0).1, Vec::<String>::new());
    }
}
