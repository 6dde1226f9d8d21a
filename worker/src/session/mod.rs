//! A worker's session with the leading coordinator.
//!
//! The worker calls out: it registers, sends heartbeats, progress and reports, and takes slices. Comes in:
//! addresses of coordinators, an executor of slices. Goes out: what the executor did, chunk by chunk,
//! each chunk sent again after a lost connection until it is answered.
//!
//! Leases: slices outlive a lost connection for as long as their lease; a worker that has heard nothing
//! from a coordinator for that long stops them by itself and discards what they did, since another worker
//! may run them by then. Must never report a slice that was cancelled or revoked.

mod connect;
mod deliver;
mod running;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stevedore_common::telemetry::SpanParentExt;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1::coordinator_message::Message as FromCoordinator;
use stevedore_proto::v1::worker_message::Message as ToCoordinator;
use stevedore_proto::v1::{Heartbeat, Register, SliceProgress, SliceSpec, WorkerMessage};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::flight_token::FlightToken;
use crate::slice::SliceExecutor;
use connect::{Connected, Connection, Coordinators};
use deliver::{Link, deliver};
use running::{Running, SliceId};

/// Between two progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may wait for a connection to take them.
const OUTBOX: usize = 64;
/// How long slices get to say that they ended when the worker shuts down.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// How the worker registers.
    pub register: Register,
    /// Cluster addresses of coordinators, `host:port` or URLs.
    pub coordinators: Vec<String>,
    /// Slices at a time; more that are assigned wait.
    pub slots: usize,
    /// Where the leader's token goes.
    pub token: FlightToken,
}

/// Keeps a session until `shutdown`. Connection failures are retried for ever.
///
/// # Errors
/// Invalid input for addresses that are none.
pub async fn run_session(
    config: SessionConfig,
    executor: Arc<dyn SliceExecutor>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut coordinators = Coordinators::new(&config.coordinators)?;
    let link = Link::default();
    let running = Arc::new(Running::new(config.slots));
    let session = Session { config, executor, link, running };
    let mut lease_ends: Option<Instant> = None;
    loop {
        let connecting = coordinators.connect(&session.config.register);
        let connected = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = session.lease_over(lease_ends) => {
                lease_ends = None;
                continue;
            }
            connected = connecting => connected,
        };
        match connected {
            Ok(Connected::Registered(mut connection)) => {
                session.config.token.set(std::mem::take(&mut connection.flight_token));
                coordinators.reset();
                lease_ends = Some(session.converse(*connection, &shutdown).await);
            }
            Ok(Connected::NotLeader(hint)) => coordinators.follow(hint),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutcomeUnknown) => {
                tracing::debug!(%error, "no session with a coordinator yet");
            }
            Err(error) => tracing::warn!(%error, "a coordinator refused the registration"),
        }
        if shutdown.is_cancelled() {
            break;
        }
        let pause = sleep(coordinators.pause());
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = session.lease_over(lease_ends) => lease_ends = None,
            () = pause => {}
        }
    }
    session.running.stop_all();
    Ok(())
}

struct Session {
    config: SessionConfig,
    executor: Arc<dyn SliceExecutor>,
    link: Link,
    running: Arc<Running>,
}

impl Session {
    /// Ends when the lease does, after stopping all slices; never, while there is none.
    async fn lease_over(&self, ends: Option<Instant>) {
        match ends {
            Some(ends) if !self.running.is_empty() => {
                tokio::time::sleep_until(ends).await;
                tracing::warn!("no coordinator was heard of for the length of a lease: stopping all slices");
                self.running.stop_all();
            }
            _ => std::future::pending().await,
        }
    }

    /// Talks until the connection or the worker ends. Answers until when leases hold.
    async fn converse(&self, connection: Connection, shutdown: &CancellationToken) -> Instant {
        let Connection { mut incoming, outgoing, heartbeat_interval, lease, .. } = connection;
        self.link.up(outgoing.clone());
        let mut heartbeat = interval(heartbeat_interval);
        let mut progress = interval(PROGRESS_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let silent = tokio::time::sleep_until(heard + lease);
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.farewell(&outgoing).await;
                    break;
                }
                message = incoming.message() => match message {
                    Ok(Some(message)) => {
                        heard = Instant::now();
                        if let Some(message) = message.message {
                            self.take(message, shutdown).await;
                        }
                    }
                    Ok(None) => break,
                    Err(status) => {
                        tracing::debug!(%status, "the session with the coordinator ended");
                        break;
                    }
                },
                // A connection that says nothing for a whole lease is dead; so are the leases.
                () = silent => break,
                _ = heartbeat.tick() => {
                    let beat = Heartbeat { running: self.running.refs(), memory_used: self.executor.memory_used() };
                    // Never waits: while the connection is stuck, answers must still be taken.
                    let _ = outgoing.try_send(message_of(ToCoordinator::Heartbeat(beat)));
                }
                _ = progress.tick() => self.send_progress(&outgoing),
            }
        }
        self.link.down();
        heard + lease
    }

    fn send_progress(&self, outgoing: &mpsc::Sender<WorkerMessage>) {
        for (slice, counters) in self.running.counters() {
            let progress = SliceProgress {
                slice: Some(slice),
                files_done: counters.files_done.load(Ordering::Relaxed),
                rows: counters.rows.load(Ordering::Relaxed),
                bytes: counters.bytes.load(Ordering::Relaxed),
                errors: counters.errors.load(Ordering::Relaxed),
            };
            // Lost without harm.
            let _ = outgoing.try_send(message_of(ToCoordinator::Progress(progress)));
        }
    }

    async fn take(&self, message: FromCoordinator, shutdown: &CancellationToken) {
        match message {
            FromCoordinator::Assign(spec) => self.assign(spec, shutdown),
            FromCoordinator::Cancel(cancel) => {
                if let Some(slice) = cancel.slice {
                    tracing::info!(slice = %SliceId::from(&slice), reason = cancel.reason, "a slice is cancelled");
                    self.running.stop(&SliceId::from(&slice));
                }
            }
            FromCoordinator::ReportAnswer(answer) => self.running.answer(answer).await,
            FromCoordinator::HeartbeatAnswer(answer) => {
                for slice in &answer.revoked {
                    tracing::warn!(slice = %SliceId::from(slice), "the lease of a slice was revoked");
                    self.running.stop(&SliceId::from(slice));
                }
            }
            // Only ever the first answer; a later one changes nothing.
            FromCoordinator::Registered(_) | FromCoordinator::NotLeader(_) => {}
        }
    }

    fn assign(&self, spec: SliceSpec, shutdown: &CancellationToken) {
        let Some(slice) = spec.slice.clone() else {
            tracing::warn!("a slice was assigned without its number");
            return;
        };
        let Some(task) = self.running.start(&slice) else {
            // The same attempt is running: the assignment was sent again.
            return;
        };
        let (executor, link, running, shutdown) =
            (self.executor.clone(), self.link.clone(), self.running.clone(), shutdown.clone());
        let span =
            tracing::info_span!("slice", job = slice.job_id, slice = slice.slice, attempt = slice.attempt);
        span.set_parent_from(&spec.traceparent);
        let run = async move {
            let id = SliceId::from(&slice);
            deliver(spec, slice, task, executor, &link, &running, &shutdown).await;
            running.ended(&id);
        };
        tokio::spawn(run.instrument(span));
    }

    /// Stops all slices and gives them a moment to say so, so that others can take them at once.
    async fn farewell(&self, outgoing: &mpsc::Sender<WorkerMessage>) {
        self.running.stop_all();
        let quiet = async {
            while !self.running.is_empty() || outgoing.capacity() < outgoing.max_capacity() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, quiet).await;
    }
}

fn message_of(message: ToCoordinator) -> WorkerMessage {
    WorkerMessage { message: Some(message) }
}

/// An error that ends a worker's work for reasons of its own.
fn shutting_down() -> Error {
    Error::unavailable("the worker is shutting down")
}
