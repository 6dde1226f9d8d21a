//! The tour itself: each statement printed, run, shown and checked.

use std::io::Write;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

use super::folder::TourFolder;
use super::generate::{BAD_FILE_ROWS, BAD_LINE, Expected, late_file, late_file_name};
use super::statements as sql;
use crate::client::Client;
use crate::shell::{self, Options};

/// Rows of a result that are printed.
const SHOWN_ROWS: usize = 8;
/// How long the run of a task may take.
const RUN_WITHIN: Duration = Duration::from_secs(60);

/// A tour over a fresh instance.
pub(super) struct Tour<'a> {
    client: &'a Client,
    folder: &'a TourFolder,
    expected: Expected,
    out: &'a mut (dyn Write + Send),
    options: Options,
    steps: u32,
}

/// The rows of a statement, as texts.
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Answer {
    fn of(batches: &[RecordBatch]) -> Result<Self> {
        let mut answer = Self { columns: Vec::new(), rows: Vec::new() };
        for batch in batches {
            answer.columns = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            let columns = shell::cells(batch)?;
            for row in 0..batch.num_rows() {
                answer.rows.push(columns.iter().filter_map(|column| column.get(row).cloned()).collect());
            }
        }
        Ok(answer)
    }

    fn column(&self, name: &str) -> Result<Vec<&str>> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let index = self
            .columns
            .iter()
            .position(|column| column == name)
            .ok_or_else(|| Error::internal(format!("the answer has no column '{name}'")))?;
        Ok(self.rows.iter().filter_map(|row| row.get(index)).map(String::as_str).collect())
    }

    fn sum(&self, name: &str) -> Result<u64> {
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| Error::internal(format!("column '{name}' holds '{text}', no count")))
        };
        self.column(name)?.into_iter().map(number).sum()
    }
}

/// Fails unless what came is what was foretold.
fn check<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::internal(format!("{what}: {expected:?} expected, {found:?} found")))
}

impl<'a> Tour<'a> {
    pub(super) fn new(
        client: &'a Client,
        folder: &'a TourFolder,
        expected: Expected,
        out: &'a mut (dyn Write + Send),
    ) -> Self {
        let options = Options { max_rows: SHOWN_ROWS, ..Options::default() };
        Self { client, folder, expected, out, options, steps: 0 }
    }

    /// All of it, in order.
    ///
    /// # Errors
    /// The statement that failed, or what was not as foretold.
    pub(super) async fn run(mut self) -> Result<()> {
        self.stage().await?;
        self.load().await?;
        self.query().await?;
        self.load_again().await?;
        self.stream().await?;
        self.task().await?;
        self.text_formats().await?;
        self.bad_row().await?;
        self.say("What there is now")?;
        let tables = self.statement(sql::SHOW_TABLES).await?;
        check("tables", tables.rows.len(), 7)
    }

    fn say(&mut self, heading: &str) -> Result<()> {
        self.steps += 1;
        Ok(writeln!(self.out, "── {}. {heading}\n", self.steps)?)
    }

    /// Prints a statement in full, runs it, prints its rows.
    async fn statement(&mut self, sql: &str) -> Result<Answer> {
        let indented = sql.replace('\n', "\n    ");
        writeln!(self.out, "  > {indented};\n")?;
        self.out.flush()?;
        let first_line = sql.lines().next().unwrap_or_default();
        self.run_statement(sql).await.context(|| format!("statement '{first_line} …'"))
    }

    async fn run_statement(&mut self, sql: &str) -> Result<Answer> {
        let started = Instant::now();
        let statement = self.client.prepare(sql).await?;
        let rows = shell::start(self.client, &statement, &self.options).await?;
        let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
        let elapsed = started.elapsed();
        let answer = Answer::of(&batches)?;
        let count = (!rows.schema.fields().is_empty()).then_some(answer.rows.len() as u64);
        let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        shell::render(&rows.schema, batches, self.options.format, self.options.max_rows, self.out).await?;
        let note = match &statement.job_id {
            Some(job_id) => shell::skipped_note(self.client, job_id).await,
            None => String::new(),
        };
        writeln!(self.out, "{}{note}\n", shell::footer(count, elapsed, true))?;
        Ok(answer)
    }

    /// A COPY that must load this many rows from this many files, without errors.
    async fn copy(&mut self, sql: &str, files: usize, rows: u64) -> Result<()> {
        let answer = self.statement(sql).await?;
        let what = sql.lines().next().unwrap_or_default();
        check(&format!("files loaded by '{what}'"), answer.rows.len(), files)?;
        check(&format!("rows loaded by '{what}'"), answer.sum("Rows_loaded")?, rows)?;
        check(&format!("errors seen by '{what}'"), answer.sum("Errors_seen")?, 0)
    }

    async fn stage(&mut self) -> Result<()> {
        self.say("A connection says how a store is reached, a stage where files are")?;
        self.statement(sql::CREATE_CONNECTION).await?;
        let files = self.folder.files();
        let files = files.to_str().ok_or_else(|| Error::invalid("the path of the files is not UTF-8"))?;
        self.statement(&sql::create_stage(files)).await?;
        let listed = self.statement(sql::LIST).await?;
        check("files listed", listed.rows.len(), 13)?;
        self.say("Files can be looked at before anything is loaded; LIMIT stops reading early")?;
        let preview = self.statement(sql::PREVIEW).await?;
        check("rows of the preview", preview.rows.len(), 5)?;
        self.statement(sql::CREATE_FILE_FORMAT).await?;
        let preview = self.statement(sql::PREVIEW_CSV).await?;
        check("rows of the preview of CSV", preview.rows.len(), 3)
    }

    async fn load(&mut self) -> Result<()> {
        self.say("Tables are Apache Iceberg tables; VARIANT holds JSON, VECTOR(n) holds embeddings")?;
        self.statement(sql::CREATE_SESSIONS).await?;
        self.statement(&sql::create_events("frame_events")).await?;
        self.statement(sql::CREATE_PAYLOADS).await?;
        self.statement(sql::CREATE_EMBEDDINGS).await?;
        self.say("COPY INTO loads files in one transaction, with casts on the way")?;
        self.copy(sql::COPY_SESSIONS, 2, self.expected.sessions).await?;
        self.copy(sql::COPY_EVENTS, 2, self.expected.frames).await?;
        self.copy(sql::COPY_PAYLOADS, 2, self.expected.payloads).await?;
        self.copy(sql::COPY_EMBEDDINGS, 2, self.expected.embeddings).await?;
        let counts = self.statement(sql::COUNTS).await?;
        let expected = &self.expected;
        let expected = [expected.sessions, expected.embeddings, expected.frames, expected.payloads];
        check(
            "rows of the four tables",
            counts.column("num_rows")?,
            expected.map(|n| n.to_string()).iter().map(String::as_str).collect(),
        )
    }

    async fn query(&mut self) -> Result<()> {
        self.say("Queries join, read paths in JSON, and measure distances between vectors")?;
        let routes = self.statement(sql::RISKY_ROUTES).await?;
        check("near misses", routes.sum("near_misses")?, self.expected.near_misses)?;
        let fast = self.statement(sql::FAST_DETECTIONS).await?;
        let pedestrians: u64 = fast
            .column("first_seen")?
            .iter()
            .zip(fast.column("frames")?)
            .filter(|(label, _)| **label == "pedestrian")
            .filter_map(|(_, frames)| frames.parse::<u64>().ok())
            .sum();
        check("pedestrians seen first above 100 km/h", pedestrians, self.expected.fast_pedestrians)?;
        let nearest = self.statement(sql::NEAREST).await?;
        check("nearest frames", nearest.rows.len(), 3)?;
        let nearest = nearest.column("frame_id")?.first().copied().unwrap_or_default().to_owned();
        let similar = self.statement(&sql::similar_frames(&nearest)).await?;
        // Nothing is nearer to a frame than itself.
        check("the most similar frame", similar.column("frame_id")?.first().copied(), Some(nearest.as_str()))
    }

    async fn load_again(&mut self) -> Result<()> {
        self.say("The same COPY again loads nothing: each file is loaded once")?;
        self.copy(sql::COPY_EVENTS, 0, 0).await
    }

    async fn stream(&mut self) -> Result<()> {
        self.say("A stream shows what comes into a table from here on")?;
        self.statement(sql::CREATE_STREAM).await?;
        let (folder, expected) = (self.folder.files(), self.expected.clone());
        let late_rows = expected.late_frames;
        super::blocking(move || late_file(&folder, &expected)).await?;
        self.say(&format!("One more file comes in ({}), and only that one is loaded", late_file_name()))?;
        self.copy(sql::COPY_EVENTS, 1, late_rows).await?;
        let new = self.statement(sql::NEW_FRAMES).await?;
        check("rows of the stream", new.sum("num_rows")?, late_rows)?;
        check(
            "changes that are no insertions",
            new.column("change$action")?.iter().any(|a| *a != "INSERT"),
            false,
        )
    }

    async fn task(&mut self) -> Result<()> {
        self.say("A task runs on a schedule; an INSERT that reads a stream consumes it in the same commit")?;
        self.statement(sql::CREATE_RISKY).await?;
        self.statement(sql::CREATE_TASK).await?;
        self.statement(sql::RESUME_TASK).await?;
        self.say("EXECUTE TASK runs it now, without waiting for the minute")?;
        self.statement(sql::EXECUTE_TASK).await?;
        self.wait_for_a_run().await?;
        let runs = self.statement(sql::TASK_RUNS).await?;
        check("the state of the run", runs.column("state")?, vec!["SUCCEEDED"])?;
        let risky = self.statement(sql::RISKY).await?;
        check("rows that the task took from the stream", risky.sum("num_rows")?, self.expected.late_risky)?;
        check("rows left in the stream", risky.sum("left_in_the_stream")?, 0)
    }

    /// Until the task has run once.
    async fn wait_for_a_run(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = Answer::of(&self.client.query(sql::ENDED_RUNS).await?)?;
            if answer.rows.first().and_then(|row| row.first()).is_some_and(|ended| ended != "0") {
                return Ok(());
            }
            if started.elapsed() > RUN_WITHIN {
                return Err(Error::internal(format!("the task did not end within {RUN_WITHIN:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn text_formats(&mut self) -> Result<()> {
        self.say("The same events from CSV and from NDJSON")?;
        self.statement(&sql::create_events("frame_events_csv")).await?;
        self.copy(sql::COPY_CSV, 2, self.expected.frames).await?;
        self.statement(&sql::create_events("frame_events_ndjson")).await?;
        self.copy(sql::COPY_NDJSON, 2, self.expected.frames).await?;
        let compared = self.statement(sql::COMPARE).await?;
        let rows = self.expected.frames.to_string();
        check("rows from CSV and NDJSON", compared.column("num_rows")?, vec![rows.as_str(); 2])?;
        for risk in compared.column("risk")? {
            let found: f64 =
                risk.parse().map_err(|_| Error::internal(format!("the sum '{risk}' is no number")))?;
            let expected = self.expected.risk_sum as f64 / 10_000.0;
            if (found - expected).abs() > 0.001 {
                return Err(Error::internal(format!(
                    "sum of the risk scores: {expected} expected, {found} found"
                )));
            }
        }
        Ok(())
    }

    async fn bad_row(&mut self) -> Result<()> {
        self.say("A file with a bad row: ON_ERROR = CONTINUE drops the row and reports it")?;
        let answer = self.statement(sql::COPY_BROKEN).await?;
        check("files of the load with a bad row", answer.rows.len(), 1)?;
        check("rows of the load with a bad row", answer.sum("Rows_loaded")?, BAD_FILE_ROWS - 1)?;
        check("errors of the load with a bad row", answer.sum("Errors_seen")?, 1)?;
        check("line of the bad row", answer.sum("First_error_line")?, BAD_LINE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, UInt64Array};

    use super::*;

    #[test]
    fn an_answer_is_read_by_column_over_all_its_batches() {
        let files: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let rows: ArrayRef = Arc::new(UInt64Array::from(vec![2, 5]));
        let batch = RecordBatch::try_from_iter([("File", files), ("Rows_loaded", rows)]).unwrap();
        let answer = Answer::of(&[batch.clone(), batch.slice(0, 1)]).unwrap();
        assert_eq!(answer.sum("Rows_loaded").unwrap(), 9);
        assert_eq!(answer.column("File").unwrap(), ["a", "b", "a"]);
        assert!(answer.column("Errors").is_err() && answer.sum("File").is_err());
        assert_eq!(Answer::of(&[]).unwrap().sum("Rows_loaded").unwrap(), 0);
    }

    #[test]
    fn a_wrong_result_says_what_was_expected() {
        assert!(check("rows", 1, 1).is_ok());
        assert_eq!(check("rows", 1, 2).unwrap_err().message(), "rows: 2 expected, 1 found");
    }
}
