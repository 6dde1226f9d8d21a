//! What running slices say of their progress: live numbers beside what the state has accepted.
//!
//! Memory of the leader only, lost without harm; sums per job over its running attempts. Other coordinators
//! ask the leader for it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stevedore_common::ids::{AttemptKey, JobId};

use crate::replica::Replica;

/// Sums since an attempt began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files done.
    pub files: u64,
    /// Rows written.
    pub rows: u64,
    /// Input bytes read.
    pub bytes: u64,
    /// Rows rejected.
    pub errors: u64,
}

/// Progress by attempt.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    attempts: Mutex<HashMap<AttemptKey, Progress>>,
}

impl ProgressBoard {
    /// Notes what an attempt says.
    pub fn note(&self, attempt: AttemptKey, progress: Progress) {
        self.attempts.lock().insert(attempt, progress);
    }

    /// Forgets an attempt: it ended, and what it did is in the state.
    pub fn forget(&self, attempt: AttemptKey) {
        self.attempts.lock().remove(&attempt);
    }

    /// The sums over a job's running attempts.
    pub fn of_job(&self, job: JobId) -> Progress {
        let attempts = self.attempts.lock();
        attempts.iter().filter(|(attempt, _)| attempt.slice.job == job).fold(
            Progress::default(),
            |sum, (_, one)| Progress {
                files: sum.files + one.files,
                rows: sum.rows + one.rows,
                bytes: sum.bytes + one.bytes,
                errors: sum.errors + one.errors,
            },
        )
    }
}

/// The progress of jobs as any coordinator can tell it.
#[derive(Clone)]
pub struct LiveProgress {
    board: Arc<ProgressBoard>,
    replica: Replica,
}

impl LiveProgress {
    /// Over this node's board, which has something to say while the node leads.
    pub fn new(board: Arc<ProgressBoard>, replica: Replica) -> Self {
        Self { board, replica }
    }

    /// The sums over a job's running attempts; zeros where no leader answers soon.
    pub async fn of_job(&self, job: JobId) -> Progress {
        match self.replica.leader() {
            Some(leader) if leader != self.replica.id() => {
                self.replica.peers().job_progress(leader, job).await.unwrap_or_default()
            }
            _ => self.board.of_job(job),
        }
    }
}

#[cfg(test)]
mod tests {
    use stevedore_common::ids::{Attempt, SliceIndex, SliceKey};

    use super::*;

    #[test]
    fn a_jobs_progress_is_the_sum_of_its_running_attempts() {
        let board = ProgressBoard::default();
        let job = JobId(uuid::Uuid::nil());
        let attempt = |n| AttemptKey { slice: SliceKey { job, slice: SliceIndex(n) }, attempt: Attempt(1) };
        board.note(attempt(0), Progress { rows: 5, ..Progress::default() });
        board.note(attempt(0), Progress { rows: 7, ..Progress::default() });
        board.note(attempt(1), Progress { rows: 1, ..Progress::default() });
        assert_eq!(board.of_job(job).rows, 8);
        board.forget(attempt(0));
        assert_eq!(board.of_job(job).rows, 1);
    }
}
