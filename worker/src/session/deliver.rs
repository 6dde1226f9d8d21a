//! One slice, from its assignment until the coordinator has answered its last chunk.

use std::sync::Arc;
use std::time::Duration;

use stevedore_common::Error;
use stevedore_proto::v1::worker_message::Message as ToCoordinator;
use stevedore_proto::v1::{ReportChunk, SliceFailed, SliceRef, SliceSpec, WorkerMessage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::running::{Running, SliceTask};
use super::{message_of, shutting_down};
use crate::slice::{SliceExecutor, SliceFailure};
use stevedore_status::error_info;

/// After this long without an answer a chunk is sent again on the same connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

type Outgoing = mpsc::Sender<WorkerMessage>;

/// The connection of the moment, if there is one, with a number that grows with each.
#[derive(Clone)]
pub(super) struct Link(Arc<watch::Sender<(u64, Option<Outgoing>)>>);

impl Default for Link {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new((0, None))))
    }
}

impl Link {
    pub(super) fn up(&self, outgoing: Outgoing) {
        self.0.send_modify(|(number, current)| {
            *number += 1;
            *current = Some(outgoing);
        });
    }

    pub(super) fn down(&self) {
        self.0.send_modify(|(_, current)| *current = None);
    }

    /// Waits for a connection that is up.
    async fn connected(&self) -> (u64, Outgoing) {
        let mut changes = self.0.subscribe();
        loop {
            if let (number, Some(outgoing)) = &*changes.borrow_and_update() {
                return (*number, outgoing.clone());
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Waits until a connection is no longer the one that is up.
    async fn lost(&self, number: u64) {
        let mut changes = self.0.subscribe();
        loop {
            if !matches!(&*changes.borrow_and_update(), (current, Some(_)) if *current == number) {
                return;
            }
            let _ = changes.changed().await;
        }
    }
}

/// Runs a slice and sees its report, or its failure, through to the coordinator.
pub(super) async fn deliver(
    spec: SliceSpec,
    slice: SliceRef,
    task: SliceTask,
    executor: Arc<dyn SliceExecutor>,
    link: &Link,
    running: &Running,
    shutdown: &CancellationToken,
) {
    let SliceTask { cancel, counters, mut answers } = task;
    let outcome = async {
        // The semaphore is never closed.
        let _slot = running.slots.acquire().await;
        if cancel.is_cancelled() {
            return Err(shutting_down().into());
        }
        // In a task of its own: a panic must fail this slice, not leave it held for ever.
        let cancel = cancel.clone();
        let run = tokio::spawn(async move { executor.run(spec, counters, cancel).await });
        match AbortOnDropHandle::new(run).await {
            Ok(outcome) => outcome,
            Err(e) => Err(Error::internal(format!("the task of a slice failed: {e}")).into()),
        }
    };
    let outcome = outcome.await;
    if cancel.is_cancelled() {
        // Told by the coordinator, or out of lease: nothing of it is wanted. On shutdown it may start
        // elsewhere at once.
        if shutdown.is_cancelled() {
            send_failure(&slice, shutting_down().into(), link, &CancellationToken::new()).await;
        }
        return;
    }
    match outcome {
        Ok(report) => {
            for chunk in report.chunks(&slice) {
                if !send_chunk(chunk, link, &mut answers, &cancel).await {
                    return;
                }
            }
        }
        Err(failure) => send_failure(&slice, failure, link, &cancel).await,
    }
}

/// Sends a chunk until it is answered. `false`: nobody wants the rest.
async fn send_chunk(
    chunk: ReportChunk,
    link: &Link,
    answers: &mut mpsc::Receiver<stevedore_proto::v1::ReportAnswer>,
    cancel: &CancellationToken,
) -> bool {
    let attempt = async {
        loop {
            let (number, outgoing) = link.connected().await;
            if outgoing.send(message_of(ToCoordinator::Report(chunk.clone()))).await.is_err() {
                link.lost(number).await;
                continue;
            }
            let answered = async {
                loop {
                    match answers.recv().await {
                        // Answers to chunks before it that were sent twice.
                        Some(answer) if answer.sequence != chunk.sequence => {}
                        answer => return answer,
                    }
                }
            };
            tokio::select! {
                answer = answered => return answer,
                () = link.lost(number) => {}
                () = tokio::time::sleep(ANSWER_TIMEOUT) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => false,
        answer = attempt => match answer {
            Some(answer) if answer.accepted => true,
            Some(answer) => {
                let why = answer.refused.map(|error| error.message).unwrap_or_default();
                tracing::info!(slice = ?answer.slice, why, "the report of a slice was refused");
                false
            }
            None => false,
        },
    }
}

/// Sends a failure once there is a connection. A message that is lost on its way is made up for by the
/// lease: the slice is no longer in the heartbeats.
async fn send_failure(slice: &SliceRef, failure: SliceFailure, link: &Link, cancel: &CancellationToken) {
    tracing::info!(?slice, error = %failure.error, permanent = failure.permanent, "a slice failed");
    let failed = SliceFailed {
        slice: Some(slice.clone()),
        error: Some(error_info(&failure.error)),
        permanent: failure.permanent,
        file: failure.file,
    };
    let send = async {
        loop {
            let (number, outgoing) = link.connected().await;
            if outgoing.send(message_of(ToCoordinator::Failed(failed.clone()))).await.is_ok() {
                return;
            }
            link.lost(number).await;
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = send => {}
    }
}
