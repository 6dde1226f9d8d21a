//! The slices that this worker holds, from their assignment to the last answer to their report.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use stevedore_proto::v1::{ReportAnswer, SliceRef};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::slice::SliceCounters;

/// One attempt at a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SliceId {
    job: String,
    slice: u32,
    attempt: u32,
}

impl From<&SliceRef> for SliceId {
    fn from(slice: &SliceRef) -> Self {
        Self { job: slice.job_id.clone(), slice: slice.slice, attempt: slice.attempt }
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.job, self.slice, self.attempt)
    }
}

struct Held {
    slice: SliceRef,
    cancel: CancellationToken,
    counters: Arc<SliceCounters>,
    answers: mpsc::Sender<ReportAnswer>,
}

/// What the task of a slice works with.
pub(super) struct SliceTask {
    pub(super) cancel: CancellationToken,
    pub(super) counters: Arc<SliceCounters>,
    pub(super) answers: mpsc::Receiver<ReportAnswer>,
}

/// All of them.
pub(super) struct Running {
    held: Mutex<HashMap<SliceId, Held>>,
    pub(super) slots: Arc<Semaphore>,
}

impl Running {
    pub(super) fn new(slots: usize) -> Self {
        Self { held: Mutex::default(), slots: Arc::new(Semaphore::new(slots.max(1))) }
    }

    /// Takes a slice on; `None` if this attempt or a later one is held already. An earlier attempt ends.
    pub(super) fn start(&self, slice: &SliceRef) -> Option<SliceTask> {
        let id = SliceId::from(slice);
        let mut held = self.held.lock();
        for (other, running) in held.iter() {
            if other.job == id.job && other.slice == id.slice {
                if other.attempt >= id.attempt {
                    return None;
                }
                running.cancel.cancel();
            }
        }
        let (answers, answered) = mpsc::channel(4);
        let (cancel, counters) = (CancellationToken::new(), Arc::new(SliceCounters::default()));
        let task = SliceTask { cancel: cancel.clone(), counters: counters.clone(), answers: answered };
        held.insert(id, Held { slice: slice.clone(), cancel, counters, answers });
        Some(task)
    }

    pub(super) fn stop(&self, id: &SliceId) {
        if let Some(held) = self.held.lock().get(id) {
            held.cancel.cancel();
        }
    }

    pub(super) fn stop_all(&self) {
        for held in self.held.lock().values() {
            held.cancel.cancel();
        }
    }

    pub(super) fn ended(&self, id: &SliceId) {
        self.held.lock().remove(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }

    /// Those that the worker means to go on with.
    pub(super) fn refs(&self) -> Vec<SliceRef> {
        self.held
            .lock()
            .values()
            .filter(|held| !held.cancel.is_cancelled())
            .map(|held| held.slice.clone())
            .collect()
    }

    pub(super) fn counters(&self) -> Vec<(SliceRef, Arc<SliceCounters>)> {
        self.held.lock().values().map(|held| (held.slice.clone(), held.counters.clone())).collect()
    }

    /// Hands an answer to the slice that waits for it.
    pub(super) async fn answer(&self, answer: ReportAnswer) {
        let Some(id) = answer.slice.as_ref().map(SliceId::from) else { return };
        let waiting = self.held.lock().get(&id).map(|held| held.answers.clone());
        if let Some(waiting) = waiting {
            // A full queue holds answers to chunks that were sent twice; one of them will do.
            let _ = waiting.try_send(answer);
        }
    }
}
