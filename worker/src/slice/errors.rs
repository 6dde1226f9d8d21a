//! ON_ERROR: what a bad row or file does to its slice.

use stevedore_common::Error;
use stevedore_decode::spec::RowError;
use stevedore_proto::v1::{ErrorMode, FileOutcome, FileReport, FileTask, OnError};

use super::SliceFailure;
use crate::read::FileTotals;

/// Counts errors over the files of a slice and says when they are too many.
#[derive(Debug)]
pub(super) struct ErrorPolicy {
    /// The slice fails with this many errors; `None`: never.
    fail_at: Option<u64>,
    seen: u64,
}

impl ErrorPolicy {
    pub(super) fn new(on_error: Option<&OnError>) -> Self {
        let (mode, limit) = on_error.map_or((ErrorMode::Abort, 0), |on| (on.mode(), on.limit));
        // Under `abort_N` the coordinator adds up the errors of all slices; here a slice only stops early.
        let fail_at = match mode {
            ErrorMode::Unspecified | ErrorMode::Abort => Some(1),
            ErrorMode::AbortN => Some(limit.max(1)),
            // Under `skip_file` the file is at stake, never the slice: see [`SkipRule`].
            ErrorMode::Continue | ErrorMode::SkipFile | ErrorMode::SkipFileN | ErrorMode::SkipFilePercent => {
                None
            }
        };
        Self { fail_at, seen: 0 }
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
        file.count(line, message);
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
}

/// ON_ERROR = skip_file and its kin: when a file is left out as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipRule {
    /// At so many errors.
    Errors(u64),
    /// When its errors are so many percent of its rows, those that loaded and those that are bad; never
    /// without an error.
    Percent(u64),
}

impl SkipRule {
    /// The rule of a statement; `None`: its files are not at stake.
    pub(super) fn of(on_error: Option<&OnError>) -> Option<Self> {
        let on_error = on_error?;
        match on_error.mode() {
            ErrorMode::SkipFile => Some(Self::Errors(1)),
            ErrorMode::SkipFileN => Some(Self::Errors(on_error.limit.max(1))),
            ErrorMode::SkipFilePercent => Some(Self::Percent(on_error.limit)),
            ErrorMode::Unspecified | ErrorMode::Abort | ErrorMode::AbortN | ErrorMode::Continue => None,
        }
    }

    /// Whether the errors seen so far decide it, whatever else the file holds.
    pub(super) fn is_out_already(self, file: &FileState) -> bool {
        match self {
            Self::Errors(limit) => file.errors >= limit,
            Self::Percent(0) => file.errors > 0,
            Self::Percent(_) => false,
        }
    }

    /// Whether a file that was read to its end is left out.
    pub(super) fn is_out(self, file: &FileState) -> bool {
        match self {
            Self::Errors(_) => self.is_out_already(file),
            Self::Percent(percent) => {
                let (rows, errors) = (u128::from(file.rows), u128::from(file.errors));
                errors > 0 && errors * 100 >= u128::from(percent) * (rows + errors)
            }
        }
    }
}

/// One file task while it is loaded.
#[derive(Debug)]
pub(super) struct FileState {
    number: u32,
    part: u32,
    name: String,
    pub(super) rows: u64,
    lines: u64,
    /// Rows that the file has, good, bad or filtered; known at its end.
    records: u64,
    /// It was read to its end.
    pub(super) whole: bool,
    /// No row of it is loaded, whatever it holds.
    left_out: bool,
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
            left_out: false,
            errors: 0,
            first_error: None,
        }
    }

    /// The same file task, of which nothing has been read.
    pub(super) fn anew(&self) -> Self {
        Self::new(&FileTask {
            file: self.number,
            part: self.part,
            name: self.name.clone(),
            ..FileTask::default()
        })
    }

    /// What users call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The part of the file, from 0.
    pub(super) fn part(&self) -> u32 {
        self.part
    }

    /// It was read to its end.
    pub(super) fn finished(&mut self, totals: FileTotals) {
        (self.lines, self.records, self.whole) = (totals.lines, totals.rows, true);
    }

    /// Counts an error; the first one is kept. Line 0: it is not of a line.
    pub(super) fn count(&mut self, line: u64, message: &str) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some((line, message.to_owned()));
        }
    }

    /// Leaves the file out: none of its rows may have gone to the writer.
    pub(super) fn leave_out(&mut self) {
        (self.left_out, self.rows) = (true, 0);
    }

    /// Whether it was left out.
    pub(super) fn is_left_out(&self) -> bool {
        self.left_out
    }

    /// What is reported of it at its end.
    pub(super) fn report(&self) -> FileReport {
        let outcome = match (self.whole, self.rows, self.records + self.errors) {
            _ if self.left_out => FileOutcome::LeftOut,
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
        ErrorPolicy::new(Some(&OnError { mode: mode.into(), limit }))
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
        let report = file.report();
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
        let report = state.report();
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
    fn skip_file_decides_at_the_first_error_or_the_nth() {
        let rule = |mode: ErrorMode, limit| SkipRule::of(Some(&OnError { mode: mode.into(), limit }));
        assert_eq!(rule(ErrorMode::Continue, 3), None);
        assert_eq!(rule(ErrorMode::SkipFile, 0), Some(SkipRule::Errors(1)));
        let (three, mut file) = (rule(ErrorMode::SkipFileN, 3).unwrap(), file());
        for line in 1..3 {
            file.count(line, "bad");
            assert!(!three.is_out_already(&file) && !three.is_out(&file));
        }
        file.count(3, "bad");
        assert!(three.is_out_already(&file) && three.is_out(&file));
    }

    #[test]
    fn a_percentage_is_of_the_rows_loaded_and_bad_and_known_at_the_end() {
        let out = |percent, rows, errors| {
            let mut state = file();
            (0..errors).for_each(|line| state.count(line + 1, "bad"));
            state.rows = rows;
            let rule =
                SkipRule::of(Some(&OnError { mode: ErrorMode::SkipFilePercent.into(), limit: percent }));
            (rule.unwrap().is_out_already(&state), rule.unwrap().is_out(&state))
        };
        assert_eq!(out(10, 91, 9), (false, false));
        assert_eq!(out(10, 90, 10), (false, true));
        assert_eq!(out(100, 1, 99), (false, false));
        assert_eq!(out(100, 0, 2), (false, true));
        // Zero percent is any bad row; a file without one is never left out.
        assert_eq!(out(0, 1000, 1), (true, true));
        assert_eq!(out(0, 1000, 0), (false, false));
        assert_eq!(out(50, 0, 0), (false, false));
    }

    #[test]
    fn a_file_left_out_has_no_rows_and_keeps_its_errors() {
        let mut state = file();
        (state.rows, state.whole, state.records) = (7, true, 8);
        state.count(5, "bad 5");
        state.leave_out();
        let report = state.report();
        assert_eq!((report.outcome(), report.rows, report.errors), (FileOutcome::LeftOut, 0, 1));
        assert_eq!((report.first_error.as_str(), report.first_error_line), ("bad 5", 5));
        let anew = state.anew().report();
        assert_eq!((anew.file, anew.errors, anew.rows), (report.file, 0, 0));
    }
}
