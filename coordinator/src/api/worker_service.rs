//! WorkerService on the cluster port: the sessions that workers open to the leader.
//!
//! A session only relays: registrations and heartbeats to the registry, reports to proposals, answers and
//! assignments back. What counts is in the state; a session that breaks costs nothing but time.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_common::clock::Clock;
use stevedore_common::ids::{Attempt, AttemptKey, FileIndex, SliceIndex, SliceKey, WorkerId};
use stevedore_common::secret::Secret;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::worker_service_server::WorkerService;
use stevedore_proto::v1::{coordinator_message, worker_message};
use stevedore_state::command::Command;
use stevedore_state::jobs::{self, FileOutcome, FileReport, SliceState, SliceTotals};
use stevedore_state::result::CommandResult;
use stevedore_state::worker_groups::worker_group;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::Scheduling;
use crate::replica::Replica;
use crate::scheduler::driver::Driver;
use crate::scheduler::progress::{Progress, ProgressBoard};
use crate::scheduler::workers::{WorkerInfo, Workers};
use stevedore_status::{error_info, error_of, status_of};

/// Messages that wait for a worker.
const OUTBOX: usize = 256;

/// The service.
#[derive(Clone)]
pub struct WorkerSessions {
    replica: Replica,
    workers: Arc<Workers>,
    driver: Arc<Driver>,
    progress: Arc<ProgressBoard>,
    scheduling: Scheduling,
    /// What opens the workers' Flight services.
    flight_token: Secret<String>,
    clock: Arc<dyn Clock>,
}

impl WorkerSessions {
    /// Over the registry and the driver of this node; workers that register are told the token.
    pub fn new(
        replica: Replica,
        workers: Arc<Workers>,
        driver: Arc<Driver>,
        progress: Arc<ProgressBoard>,
        scheduling: Scheduling,
        flight_token: Secret<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { replica, workers, driver, progress, scheduling, flight_token, clock }
    }

    fn not_leader(&self) -> v1::CoordinatorMessage {
        let leader_address = self
            .replica
            .leader()
            .and_then(|leader| self.replica.peers().peer(leader))
            .map(|peer| peer.cluster_address.clone())
            .unwrap_or_default();
        v1::CoordinatorMessage {
            message: Some(coordinator_message::Message::NotLeader(v1::NotLeader { leader_address })),
        }
    }

    /// The group that a worker names. One of which it is the first is known to the cluster before it is registered.
    async fn known_group(&self, name: &str) -> Result<WorkerGroup> {
        let group = WorkerGroup::of_message(name)?;
        if !group.is_default() && worker_group(&*self.replica.local(), &group)?.is_none() {
            self.replica.propose(Command::NoteWorkerGroup { group: group.clone() }).await?;
        }
        Ok(group)
    }

    async fn serve(
        self,
        info: WorkerInfo,
        session: u64,
        outbox: mpsc::Sender<v1::CoordinatorMessage>,
        mut inbox: Streaming<v1::WorkerMessage>,
    ) {
        let mut status = self.replica.status();
        loop {
            let message = tokio::select! {
                message = inbox.next() => message,
                changed = status.changed() => {
                    if changed.is_err() || !self.replica.is_leader() {
                        let _ = outbox.send(self.not_leader()).await;
                        return;
                    }
                    continue;
                }
            };
            let message = match message {
                Some(Ok(v1::WorkerMessage { message: Some(message) })) => message,
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::info!(worker = %info.id, %error, "a worker's session broke");
                    return;
                }
                None => return,
            };
            self.workers.heard(&info.id, session, self.clock.now_ms());
            match message {
                worker_message::Message::Register(_) => {}
                worker_message::Message::Heartbeat(heartbeat) => {
                    if let Err(error) = self.heartbeat(&info.id, session, heartbeat, &outbox).await {
                        tracing::warn!(worker = %info.id, %error, "a heartbeat could not be answered");
                    }
                }
                worker_message::Message::Progress(progress) => {
                    if let Some(attempt) = progress.slice.as_ref().and_then(|slice| attempt_of(slice).ok()) {
                        let sums = Progress {
                            files: progress.files_done,
                            rows: progress.rows,
                            bytes: progress.bytes,
                            errors: progress.errors,
                        };
                        self.progress.note(attempt, sums);
                    }
                }
                // The worker waits for the answer to a chunk before it sends the next, so chunks of one
                // slice stay in order though each is handled by a task of its own.
                worker_message::Message::Report(chunk) => {
                    let (service, outbox) = (self.clone(), outbox.clone());
                    tokio::spawn(async move { service.report(chunk, outbox).await });
                }
                worker_message::Message::Failed(failed) => {
                    let service = self.clone();
                    tokio::spawn(async move { service.failed(failed).await });
                }
            }
        }
    }

    async fn heartbeat(
        &self,
        worker: &WorkerId,
        session: u64,
        heartbeat: v1::Heartbeat,
        outbox: &mpsc::Sender<v1::CoordinatorMessage>,
    ) -> Result<()> {
        self.workers.uses_memory(worker, session, heartbeat.memory_used);
        let view = self.replica.local();
        let mut running = BTreeSet::new();
        let mut revoked = Vec::new();
        for slice in heartbeat.running {
            let attempt = attempt_of(&slice)?;
            let key = attempt.slice;
            let current = jobs::slice(&*view, key.job, key.slice)?.is_some_and(|slice| {
                slice.attempt == attempt.attempt && matches!(slice.state, SliceState::Leased { .. })
            });
            if current {
                running.insert(attempt);
            } else {
                revoked.push(slice);
            }
        }
        let patience = self.scheduling.lease_ms / 2;
        for attempt in self.workers.reconcile(worker, session, &running, self.clock.now_ms(), patience) {
            tracing::warn!(%attempt, %worker, "a worker lost a slice");
        }
        let answer = v1::HeartbeatAnswer { revoked };
        send(outbox, coordinator_message::Message::HeartbeatAnswer(answer)).await;
        Ok(())
    }

    async fn report(self, chunk: v1::ReportChunk, outbox: mpsc::Sender<v1::CoordinatorMessage>) {
        let Some(slice) = chunk.slice.clone() else { return };
        let (sequence, last) = (chunk.sequence, chunk.last);
        let result = self.stage(chunk).await;
        if let Err(error) = &result
            && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutcomeUnknown)
        {
            // Not a refusal: the worker sends the chunk again, to whoever leads then.
            tracing::info!(slice = slice.slice, %error, "a report was not recorded");
            return;
        }
        if let Ok(attempt) = attempt_of(&slice)
            && (last || result.is_err())
        {
            self.workers.ended(attempt);
            self.progress.forget(attempt);
            // A stale report is a conflict. One that the state cannot take is a failure like any other: it counts,
            // so that the slice is not tried for ever, and is cut into its files before its job is given up.
            if let Err(error) = &result
                && !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
            {
                tracing::warn!(%attempt, %error, "the report of a slice cannot be recorded");
                let command =
                    Command::FailSlice { attempt, error: error.clone(), permanent: false, file: None };
                if let Err(error) = self.replica.propose(command).await {
                    tracing::debug!(%attempt, %error, "a failure was not recorded");
                }
            }
            self.driver.wake();
        }
        let answer = v1::ReportAnswer {
            slice: Some(slice),
            sequence,
            accepted: result.is_ok(),
            refused: result.err().as_ref().map(error_info),
        };
        send(&outbox, coordinator_message::Message::ReportAnswer(answer)).await;
    }

    async fn stage(&self, chunk: v1::ReportChunk) -> Result<()> {
        let attempt =
            attempt_of(chunk.slice.as_ref().ok_or_else(|| Error::invalid("a report names no slice"))?)?;
        let files = chunk.files.iter().map(file_report).collect::<Result<_>>()?;
        chunk.data_files.iter().try_for_each(|file| check_data_file(file))?;
        let totals = chunk.totals.as_ref().map(|totals| SliceTotals {
            files: totals.files,
            rows: totals.rows,
            data_files: totals.data_files,
            input_bytes: totals.input_bytes,
            output_bytes: totals.output_bytes,
            errors: totals.errors,
            rows_updated: totals.rows_updated,
            rows_deleted: totals.rows_deleted,
        });
        let command = Command::StageReport {
            attempt,
            sequence: chunk.sequence,
            files,
            data_files: chunk.data_files,
            last: chunk.last,
            totals,
        };
        match self.replica.propose(command).await? {
            CommandResult::Staged { .. } => Ok(()),
            other => Err(Error::internal(format!("unexpected answer to a report: {other:?}"))),
        }
    }

    async fn failed(self, failed: v1::SliceFailed) {
        let Some(attempt) = failed.slice.as_ref().and_then(|slice| attempt_of(slice).ok()) else { return };
        let error = failed
            .error
            .as_ref()
            .map_or_else(|| Error::internal("a slice failed without a reason"), error_of);
        tracing::info!(%attempt, %error, permanent = failed.permanent, "a slice failed");
        let file = failed.file.as_ref().and_then(|file| file_report(file).ok());
        self.workers.ended(attempt);
        self.progress.forget(attempt);
        let command = Command::FailSlice { attempt, error, permanent: failed.permanent, file };
        if let Err(error) = self.replica.propose(command).await {
            // A refusal: another attempt is current, or the job ended. Else the lease runs out.
            tracing::debug!(%attempt, %error, "a failure was not recorded");
        }
        self.driver.wake();
    }
}

async fn send(outbox: &mpsc::Sender<v1::CoordinatorMessage>, message: coordinator_message::Message) {
    // A session that is gone needs no answer.
    let _ = outbox.send(v1::CoordinatorMessage { message: Some(message) }).await;
}

fn attempt_of(slice: &v1::SliceRef) -> Result<AttemptKey> {
    Ok(AttemptKey {
        slice: SliceKey { job: slice.job_id.parse()?, slice: SliceIndex(slice.slice) },
        attempt: Attempt(slice.attempt),
    })
}

/// What says nothing would be found out by the commit only, when the slice cannot run again.
fn check_data_file(file: &str) -> Result<()> {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(file)
        .map(|_| ())
        .map_err(|error| Error::invalid(format!("a data file of a report is no JSON object: {error}")))
}

fn file_report(file: &v1::FileReport) -> Result<FileReport> {
    let outcome = match file.outcome() {
        v1::FileOutcome::Loaded => FileOutcome::Loaded,
        v1::FileOutcome::LeftOut => FileOutcome::LeftOut,
        v1::FileOutcome::Empty => FileOutcome::Empty,
        v1::FileOutcome::Unspecified => return Err(Error::invalid("a file report has no outcome")),
    };
    Ok(FileReport {
        file: FileIndex(file.file),
        part: file.part,
        outcome,
        rows: file.rows,
        errors: file.errors,
        first_error: file.first_error.clone(),
        first_error_line: file.first_error_line,
        lines: file.lines,
    })
}

#[tonic::async_trait]
impl WorkerService for WorkerSessions {
    type SessionStream = BoxStream<'static, std::result::Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> std::result::Result<Response<Self::SessionStream>, Status> {
        let mut inbox = request.into_inner();
        let register = match inbox.next().await.transpose()? {
            Some(v1::WorkerMessage { message: Some(worker_message::Message::Register(register)) }) => {
                register
            }
            _ => return Err(status_of(Error::invalid("a worker's session begins with Register"))),
        };
        let (outbox, stream) = mpsc::channel(OUTBOX);
        if !self.replica.is_leader() {
            let _ = outbox.send(self.not_leader()).await;
        } else if register.worker_id.is_empty() || register.slots == 0 {
            return Err(status_of(Error::invalid("a worker needs an id and at least one slot")));
        } else {
            let group = self.known_group(&register.group).await.map_err(status_of)?;
            let info = WorkerInfo {
                id: WorkerId(register.worker_id),
                incarnation: register.incarnation,
                flight_address: register.flight_address,
                cores: register.cores,
                slots: register.slots,
                version: register.version,
                group,
                memory_budget: register.memory_budget,
            };
            let (flight, slots) = (&info.flight_address, info.slots);
            tracing::info!(worker = %info.id, group = %info.group, flight, slots, "a worker registered");
            let registered = v1::Registered {
                heartbeat_interval_ms: self.scheduling.heartbeat_ms,
                lease_ms: self.scheduling.lease_ms.max(0) as u64,
                flight_token: self.flight_token.expose().clone(),
            };
            send(&outbox, coordinator_message::Message::Registered(registered)).await;
            let (session, lost) = self.workers.register(info.clone(), outbox.clone(), self.clock.now_ms());
            for attempt in lost {
                tracing::info!(%attempt, worker = %info.id, "a restarted worker lost a slice");
            }
            tokio::spawn(self.clone().serve(info, session, outbox, inbox));
            self.driver.wake();
        }
        Ok(Response::new(ReceiverStream::new(stream).map(Ok).boxed()))
    }
}
