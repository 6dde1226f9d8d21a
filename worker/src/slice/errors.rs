//! ON_ERROR: what a bad row or file does to its slice.

use stevedore_common::{Error, Result};
use stevedore_decode::spec::RowError;
use stevedore_proto::v1::{ErrorMode, FileOutcome, FileReport, FileTask, OnError};

use super::SliceFailure;

/// Counts errors over the files of a slice and says when they are too many.
#[derive(Debug)]
pub(super) struct ErrorPolicy {
    /// The slice fails with this many errors; `None`: never.
    fail_at: Option<u64>,
    seen: u64,
}

impl ErrorPolicy {
    pub(super) fn new(on_error: Option<&OnError>) -> Result<Self> {
        let (mode, limit) = on_error.map_or((ErrorMode::Abort, 0), |on| (on.mode(), on.limit));
        // Under `abort_N` the coordinator adds up the errors of all slices; here a slice only stops early.
        let fail_at = match mode {
            ErrorMode::Unspecified | ErrorMode::Abort => Some(1),
            ErrorMode::AbortN => Some(limit.max(1)),
            ErrorMode::Continue => None,
            ErrorMode::SkipFile | ErrorMode::SkipFileN | ErrorMode::SkipFilePercent => {
                return Err(Error::not_supported_yet("ON_ERROR = skip_file"));
            }
        };
        Ok(Self { fail_at, seen: 0 })
    }

    /// Counts a rejected row.
    pub(super) fn row(&mut self, file: &mut FileState, error: &RowError) -> Result<(), SliceFailure> {
        self.count(file, error.line, &error.message)
    }

    /// Counts a file that cannot be read on: one error of that file.
    pub(super) fn file(&mut self, file: &mut FileState, error: &Error) -> Result<(), SliceFailure> {
        self.count(file, 0, &error.to_string())
    }

    fn count(&mut self, file: &mut FileState, line: u64, message: &str) -> Result<(), SliceFailure> {
        self.seen += 1;
        file.errors += 1;
        if file.first_error.is_none() {
            file.first_error = Some((line, message.to_owned()));
        }
        if self.fail_at.is_none_or(|limit| self.seen < limit) {
            return Ok(());
        }
        let place = match line {
            0 => format!("file '{}'", file.name),
            line => format!("file '{}', line {line}", file.name),
        };
        Err(SliceFailure {
            error: Error::bad_data(message).context(place),
            permanent: true,
            file: Some(FileReport {
                errors: file.errors,
                first_error: message.to_owned(),
                first_error_line: line,
                ..file.report()
            }),
        })
    }

    /// What is reported of a file at its end.
    pub(super) fn report(&self, file: &FileState) -> FileReport {
        file.report()
    }
}

/// One file task while it is loaded.
#[derive(Debug)]
pub(super) struct FileState {
    number: u32,
    part: u32,
    name: String,
    pub(super) rows: u64,
    pub(super) lines: u64,
    /// Rows that the file has, good, bad or filtered; known at its end.
    pub(super) records: u64,
    /// It was read to its end.
    pub(super) whole: bool,
    errors: u64,
    first_error: Option<(u64, String)>,
}

impl FileState {
    pub(super) fn new(task: &FileTask) -> Self {
        Self {
            number: task.file,
            part: task.part,
            name: task.name.clone(),
            rows: 0,
            lines: 0,
            records: 0,
            whole: false,
            errors: 0,
            first_error: None,
        }
    }

    fn report(&self) -> FileReport {
        let outcome = match (self.whole, self.rows, self.records + self.errors) {
            (true, 0, 0) => FileOutcome::Empty,
            // Rows that are in the data files are loaded, however the file went on.
            (false, 0, _) => FileOutcome::LeftOut,
            _ => FileOutcome::Loaded,
        };
        let (first_error_line, first_error) = match &self.first_error {
            Some((line, message)) => (*line, message.clone()),
            None => (0, String::new()),
        };
        FileReport {
            file: self.number,
            outcome: outcome.into(),
            rows: self.rows,
            errors: self.errors,
            first_error,
            first_error_line,
            lines: self.lines,
            part: self.part,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn policy(mode: ErrorMode, limit: u64) -> ErrorPolicy {
        ErrorPolicy::new(Some(&OnError { mode: mode.into(), limit })).unwrap()
    }

    fn file() -> FileState {
        FileState::new(&FileTask { file: 4, name: "dir/a.csv".into(), ..FileTask::default() })
    }

    fn bad(line: u64) -> RowError {
        RowError { line, row: line - 1, message: format!("bad {line}") }
    }

    #[test]
    fn abort_names_the_file_and_the_line() {
        let failure = policy(ErrorMode::Abort, 0).row(&mut file(), &bad(3)).unwrap_err();
        assert_eq!(failure.error.to_string(), "file 'dir/a.csv', line 3: bad 3");
        assert!(failure.permanent);
        let report = failure.file.unwrap();
        assert_eq!((report.file, report.errors, report.first_error_line), (4, 1, 3));
    }

    #[test]
    fn abort_n_tolerates_fewer_and_reports_them_for_the_sum_over_all_slices() {
        let (mut policy, mut file) = (policy(ErrorMode::AbortN, 3), file());
        policy.row(&mut file, &bad(1)).unwrap();
        policy.row(&mut file, &bad(2)).unwrap();
        let report = policy.report(&file);
        assert_eq!((report.errors, report.first_error.as_str()), (2, "bad 1"));
        let mut other = FileState::new(&FileTask { name: "b".into(), ..FileTask::default() });
        assert!(policy.row(&mut other, &bad(9)).unwrap_err().error.to_string().contains("'b', line 9"));
    }

    #[test]
    fn continue_counts_and_keeps_the_first_error() {
        let (mut policy, mut state) = (policy(ErrorMode::Continue, 0), file());
        policy.row(&mut state, &bad(2)).unwrap();
        policy.row(&mut state, &bad(5)).unwrap();
        (state.whole, state.records) = (true, 2);
        let report = policy.report(&state);
        assert_eq!((report.errors, report.first_error.as_str(), report.first_error_line), (2, "bad 2", 2));
        assert_eq!(report.outcome(), FileOutcome::Loaded);
    }

    #[test]
    fn the_outcome_tells_empty_and_unreadable_files_from_loaded_ones() {
        let mut empty = file();
        empty.whole = true;
        assert_eq!(empty.report().outcome(), FileOutcome::Empty);
        let mut broken = file();
        policy(ErrorMode::Continue, 0).file(&mut broken, &Error::bad_data("no footer")).unwrap();
        assert_eq!(broken.report().outcome(), FileOutcome::LeftOut);
        // Its rows cannot be taken back: a file that breaks half-way is loaded as far as it goes.
        broken.rows = 10;
        assert_eq!(broken.report().outcome(), FileOutcome::Loaded);
    }

    #[test]
    fn skip_file_is_not_built() {
        let on_error = OnError { mode: ErrorMode::SkipFile.into(), limit: 0 };
        assert!(ErrorPolicy::new(Some(&on_error)).unwrap_err().to_string().contains("skip_file"));
    }
}
