//! Where rows that are put on this worker meet the attempt that they are for.
//!
//! Comes in: streams of Flight messages, each under the name of an attempt, from the Flight service. Goes out: the
//! same, to the slice that runs that attempt. Either may come first, and waits a while for the other. Rows for an
//! attempt that does not run here are refused; so is a second stream for one attempt. Nothing is decoded here.

use std::collections::HashMap;
use std::time::Duration;

use arrow_flight::FlightData;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use stevedore_common::ids::AttemptKey;
use stevedore_common::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows on their way to an attempt.
pub struct Delivery {
    /// Arrow messages, the schema first, up to the one that ends them.
    pub messages: BoxStream<'static, Result<FlightData>>,
    /// Told once they were taken to their end, or why they were not.
    pub taken: oneshot::Sender<Result<()>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

/// The meeting place.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<HashMap<AttemptKey, Waiting>>,
    patience: Duration,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { waiting: Mutex::default(), patience: PATIENCE }
    }
}

#[derive(Debug)]
enum Waiting {
    /// The attempt waits for its rows.
    Attempt(oneshot::Sender<Delivery>),
    /// The rows wait for their attempt.
    Rows(Delivery, oneshot::Sender<()>),
}

/// An entry, for as long as somebody waits under it; who meets them takes it away.
struct Place<'a> {
    inbox: &'a Inbox,
    attempt: AttemptKey,
    met: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.met {
            self.inbox.waiting.lock().remove(&self.attempt);
        }
    }
}

impl Inbox {
    /// Hands rows to their attempt. Answers once they were taken to their end.
    ///
    /// # Errors
    /// Why they were not taken; not found, where the attempt does not run here; conflict, where it has its rows.
    pub async fn put(
        &self,
        attempt: AttemptKey,
        messages: BoxStream<'static, Result<FlightData>>,
    ) -> Result<()> {
        let (taken, answer) = oneshot::channel();
        match self.offer(attempt, Delivery { messages, taken })? {
            Some(meeting) => self.await_attempt(attempt, meeting, answer).await,
            None => answer.await.unwrap_or_else(|_| Err(gone(attempt))),
        }
    }

    /// Hands rows to an attempt that waits for them; else they wait, and what is answered says when they are met.
    fn offer(&self, attempt: AttemptKey, delivery: Delivery) -> Result<Option<oneshot::Receiver<()>>> {
        let mut waiting = self.waiting.lock();
        match waiting.remove(&attempt) {
            Some(Waiting::Attempt(slice)) => match slice.send(delivery) {
                Ok(()) => Ok(None),
                Err(_) => Err(gone(attempt)),
            },
            Some(rows @ Waiting::Rows(..)) => {
                waiting.insert(attempt, rows);
                Err(Error::conflict(format!("attempt {attempt} is sent its rows twice")))
            }
            None => {
                let (met, meeting) = oneshot::channel();
                waiting.insert(attempt, Waiting::Rows(delivery, met));
                Ok(Some(meeting))
            }
        }
    }

    async fn await_attempt(
        &self,
        attempt: AttemptKey,
        met: oneshot::Receiver<()>,
        answer: oneshot::Receiver<Result<()>>,
    ) -> Result<()> {
        let mut place = Place { inbox: self, attempt, met: false };
        if matches!(timeout(self.patience, met).await, Ok(Ok(()))) {
            place.met = true;
            return answer.await.unwrap_or_else(|_| Err(gone(attempt)));
        }
        Err(Error::not_found(format!("attempt {attempt} does not run on this worker")).retryable(true))
    }

    /// The rows of an attempt that runs here, once they come.
    ///
    /// # Errors
    /// Unavailable, where none do.
    pub async fn rows_of(&self, attempt: AttemptKey) -> Result<Delivery> {
        let coming = {
            let mut waiting = self.waiting.lock();
            match waiting.remove(&attempt) {
                Some(Waiting::Rows(delivery, met)) => {
                    // Whoever sends them may have given up this moment: then the stream says so.
                    let _ = met.send(());
                    return Ok(delivery);
                }
                Some(Waiting::Attempt(_)) | None => {
                    let (slice, coming) = oneshot::channel();
                    waiting.insert(attempt, Waiting::Attempt(slice));
                    coming
                }
            }
        };
        let mut place = Place { inbox: self, attempt, met: false };
        match timeout(self.patience, coming).await {
            Ok(Ok(delivery)) => {
                place.met = true;
                Ok(delivery)
            }
            _ => Err(Error::unavailable("the rows that were to be ingested did not come")
                .hint("nothing was loaded; send them again")),
        }
    }
}

fn gone(attempt: AttemptKey) -> Error {
    Error::unavailable(format!("attempt {attempt} ended before it had taken its rows"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::{StreamExt, stream};
    use stevedore_common::ErrorKind;
    use stevedore_common::ids::{Attempt, JobId, SliceIndex, SliceKey};

    use super::*;

    fn attempt(n: u32) -> AttemptKey {
        let slice = SliceKey { job: JobId(uuid::Uuid::nil()), slice: SliceIndex(0) };
        AttemptKey { slice, attempt: Attempt(n) }
    }

    fn rows(n: usize) -> BoxStream<'static, Result<FlightData>> {
        stream::iter((0..n).map(|_| Ok(FlightData::default()))).boxed()
    }

    fn impatient() -> Inbox {
        Inbox { patience: Duration::from_millis(20), ..Inbox::default() }
    }

    async fn take(inbox: &Inbox, n: u32) -> usize {
        let delivery = inbox.rows_of(attempt(n)).await.unwrap();
        let count = delivery.messages.count().await;
        delivery.taken.send(Ok(())).unwrap();
        count
    }

    #[tokio::test]
    async fn rows_meet_their_attempt_whichever_comes_first() {
        let inbox = Inbox::default();
        let (put, taken) = tokio::join!(inbox.put(attempt(1), rows(3)), take(&inbox, 1));
        assert_eq!((put.unwrap(), taken), ((), 3));
        let (taken, put) = tokio::join!(take(&inbox, 2), inbox.put(attempt(2), rows(2)));
        assert_eq!((put.unwrap(), taken), ((), 2));
        assert!(inbox.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_and_leaves_nothing() {
        let inbox = impatient();
        let error = inbox.put(attempt(1), rows(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = inbox.rows_of(attempt(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(inbox.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn a_second_stream_for_an_attempt_is_refused() {
        let inbox = impatient();
        let (first, second) = tokio::join!(inbox.put(attempt(1), rows(1)), inbox.put(attempt(1), rows(1)));
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(first.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_attempt_that_ends_tells_whoever_sends() {
        let inbox = Inbox::default();
        let take = async { drop(inbox.rows_of(attempt(1)).await.unwrap()) };
        let (put, ()) = tokio::join!(inbox.put(attempt(1), rows(1)), take);
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
