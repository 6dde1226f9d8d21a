//! A bar on standard error that follows a job.
//!
//! It comes up only for jobs that take a moment, and is gone before their rows are printed. When a job
//! cannot be followed there is no bar; the statement goes on.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use stevedore_common::ErrorKind;
use stevedore_proto::v1::{Job, JobPhase};

use crate::client::Client;

/// A job that ends sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often is asked for a job that does not exist yet.
const RETRY: Duration = Duration::from_millis(200);

/// Taken away on drop, so that it never stands beside the result.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows a job until it ends or this future is dropped.
pub(super) async fn follow(client: &Client, job_id: &str) {
    let started = Instant::now();
    tokio::time::sleep(PATIENCE).await;
    let mut jobs = loop {
        match client.watch(job_id).await {
            Ok(jobs) => break jobs,
            Err(error) if error.kind() == ErrorKind::NotFound => tokio::time::sleep(RETRY).await,
            Err(_) => return,
        }
    };
    let bar = Bar(ProgressBar::new(100));
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {percent:>3}% {msg}") {
        bar.0.set_style(style.progress_chars("=> "));
    }
    bar.0.enable_steady_tick(Duration::from_millis(120));
    while let Ok(Some(job)) = jobs.message().await {
        match percent(&job) {
            Some(percent) => bar.0.set_position(percent),
            // What an INSERT will read is not known beforehand.
            None => bar.0.set_style(ProgressStyle::default_spinner()),
        }
        bar.0.set_message(description(&job, started.elapsed()));
    }
}

/// How much of its input a job has read, where that is known.
fn percent(job: &Job) -> Option<u64> {
    let progress = job.progress?;
    let (done, total) = match progress.bytes_total {
        0 => (progress.files_done, progress.files_total),
        total => (progress.bytes_done, total),
    };
    match job.phase() {
        JobPhase::Claiming => Some(0),
        _ => Some(done.saturating_mul(100).checked_div(total)?.min(100)),
    }
}

/// What a job has done so far, in a line.
fn description(job: &Job, elapsed: Duration) -> String {
    let progress = job.progress.unwrap_or_default();
    let mut parts = Vec::new();
    match job.phase() {
        JobPhase::Claiming => parts.push("finding files".to_owned()),
        JobPhase::Committing => parts.push("committing".to_owned()),
        JobPhase::Purging => parts.push("removing loaded files".to_owned()),
        _ => {}
    }
    if progress.files_total > 0 {
        parts.push(format!("{}/{} files", HumanCount(progress.files_done), HumanCount(progress.files_total)));
    }
    parts.push(format!("{} rows", HumanCount(progress.rows)));
    if progress.bytes_done > 0 {
        let second = progress.bytes_done as f64 / elapsed.as_secs_f64().max(0.001);
        parts.push(format!("{}/s", HumanBytes(second as u64)));
    }
    if progress.errors > 0 {
        parts.push(format!("{} errors", HumanCount(progress.errors)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use stevedore_proto::v1::Progress;

    use super::*;

    #[test]
    fn a_job_tells_files_rows_speed_and_errors() {
        let progress = Progress {
            files_total: 200,
            files_done: 3,
            rows: 1_234_567,
            bytes_total: 4 << 20,
            bytes_done: 2 << 20,
            errors: 2,
        };
        let mut job = Job { phase: JobPhase::Running.into(), progress: Some(progress), ..Default::default() };
        assert_eq!(
            description(&job, Duration::from_secs(2)),
            "3/200 files, 1,234,567 rows, 1.00 MiB/s, 2 errors"
        );
        assert_eq!(percent(&job), Some(50));
        job.phase = JobPhase::Committing.into();
        assert!(description(&job, Duration::from_secs(2)).starts_with("committing, 3/200"));
        let unknown = Job { progress: Some(Progress::default()), ..Default::default() };
        assert_eq!(percent(&unknown), None);
    }
}
