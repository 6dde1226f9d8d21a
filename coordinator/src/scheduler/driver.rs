//! What the leader does: drives every live job from phase to phase, and slices to workers.
//!
//! Comes in: events of the state, and time. Goes out: proposals, messages to workers. Everything it knows
//! beyond the state (which tasks run, which leases it granted) is memory: a new leader starts from the
//! state alone. A step that fails for a moment is tried again; one that cannot succeed aborts its job.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stevedore_common::ids::{AttemptKey, JobId, SliceKey, WorkerId};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1::{CancelSlice, coordinator_message};
use stevedore_state::command::{Command, JobEnding};
use stevedore_state::event::Event;
use stevedore_state::jobs::{self, Job, JobPhase, SliceState};
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::decide::{Assignment, JobView, assign};
use super::housekeeping::Housekeeping;
use super::phases::{self, Context};
use super::workers::Workers;
use crate::leadership::while_leading;
use crate::planner::plan::JobPlan;
use crate::planner::spec;

/// The state is looked at this often, whatever events say.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pending slices of one job that one round looks at.
const LOOK_AHEAD: usize = 64;
/// Tries of a step that fails for a moment, before its job is aborted.
const MOST_TRIES: u32 = 8;
/// The same while files are listed: nothing is lost yet, and somebody waits to hear that a bucket cannot
/// be reached.
const MOST_TRIES_OF_LISTING: u32 = 3;

/// The driver of one coordinator; it does something only while its node leads.
pub struct Driver {
    context: Context,
    workers: Arc<Workers>,
    wake: Arc<Notify>,
    leasing: Mutex<HashSet<SliceKey>>,
    plans: Mutex<HashMap<JobId, Arc<JobPlan>>>,
}

impl Driver {
    /// A driver over what the phases of jobs need, and the workers of this node.
    pub fn new(context: Context, workers: Arc<Workers>) -> Arc<Self> {
        Arc::new(Self {
            context,
            workers,
            wake: Arc::new(Notify::new()),
            leasing: Mutex::default(),
            plans: Mutex::default(),
        })
    }

    /// Has the driver look at the state now: a slot became free.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Runs until shutdown, leading whenever the node does.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        while_leading(self.context.replica.status(), shutdown, |term| {
            let driver = self.clone();
            async move {
                driver.clone().lead(term).await;
                driver.workers.clear();
            }
        })
        .await;
    }

    async fn lead(self: Arc<Self>, term: CancellationToken) {
        tracing::info!("leading: driving jobs");
        self.leasing.lock().clear();
        let led_since = self.context.replica.now_ms();
        let mut events = self.context.replica.events();
        let mut jobs: JoinSet<JobId> = JoinSet::new();
        let mut driven: HashSet<JobId> = HashSet::new();
        let housekeeping = Housekeeping::new(self.context.clone(), self.workers.clone());
        let housekeeping = tokio::spawn(housekeeping.run(term.clone()));
        loop {
            if let Err(error) = self.look(led_since, &mut jobs, &mut driven) {
                tracing::error!(%error, "the state could not be read");
            }
            tokio::select! {
                () = term.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(ended) = jobs.join_next() => {
                    if let Ok(job) = ended {
                        driven.remove(&job);
                    } else {
                        // A job's task panicked: its id is not known, so all idle ones are looked at again.
                        driven.clear();
                    }
                }
                event = next_event(&mut events) => if let Some((job, phase)) = event && phase.is_ended() {
                    self.plans.lock().remove(&job);
                    self.stop_slices(job);
                },
            }
        }
        jobs.shutdown().await;
        housekeeping.abort();
        tracing::info!("no longer leading");
    }

    fn stop_slices(&self, job: JobId) {
        for attempt in self.workers.attempts_of(job) {
            let cancel =
                CancelSlice { slice: Some(spec::slice_ref(attempt)), reason: "the job ended".into() };
            self.workers.send_to_holder(attempt, coordinator_message::Message::Cancel(cancel));
            self.workers.ended(attempt);
        }
    }

    /// One look at the state: starts what is to be done.
    fn look(
        self: &Arc<Self>,
        led_since: i64,
        tasks: &mut JoinSet<JobId>,
        driven: &mut HashSet<JobId>,
    ) -> Result<()> {
        let view = self.context.replica.local();
        let view = &*view;
        let now = self.context.replica.now_ms();
        let lease_ms = self.context.scheduling.lease_ms;
        for lost in self.workers.expire(now, lease_ms) {
            self.release(lost, "its worker was not heard for longer than the lease");
        }
        let mut running = Vec::new();
        for id in jobs::live_jobs(view)? {
            let Some(job) = jobs::job(view, id)?.filter(|job| !job.prepared) else { continue };
            if job.phase == JobPhase::Running && !job.all_accepted() && job.reopening.is_none() {
                running.push(job);
            } else if driven.insert(id) {
                let driver = self.clone();
                tasks.spawn(async move {
                    driver.drive(id).await;
                    id
                });
            }
        }
        // After a change of leaders, workers get a lease's time to say what they run.
        let settled = now - led_since > lease_ms;
        let mut views = Vec::new();
        for job in &running {
            let leased = self.leased(view, job, settled)?;
            let leasing = self.leasing.lock();
            let pending = jobs::pending_slices(view, job.id, None, LOOK_AHEAD)?
                .into_iter()
                .filter(|slice| !leasing.contains(&SliceKey { job: job.id, slice: *slice }))
                .collect();
            views.push(JobView { job: job.id, group: job.group.clone(), running: leased, pending });
        }
        for assignment in assign(&views, &self.workers.views()) {
            if self.leasing.lock().insert(assignment.slice) {
                self.workers.promise(&assignment.worker, assignment.slice);
                let driver = self.clone();
                tokio::spawn(async move { driver.lease(assignment).await });
            }
        }
        Ok(())
    }

    /// How many slices of a job are leased; leases that nobody holds are taken back.
    fn leased(self: &Arc<Self>, view: &dyn ReadView, job: &Job, settled: bool) -> Result<u32> {
        let mut count = 0;
        let mut after = None;
        loop {
            let page = jobs::leased_slices(view, job.id, after, 256)?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            after = Some(*last);
            for (index, slice) in page {
                let key = SliceKey { job: job.id, slice: index };
                let attempt = AttemptKey { slice: key, attempt: slice.attempt };
                if !settled || self.workers.holds(attempt) || self.leasing.lock().contains(&key) {
                    count += 1;
                } else if matches!(slice.state, SliceState::Leased { .. }) {
                    self.release(attempt, "no worker holds it");
                }
            }
        }
    }

    fn release(self: &Arc<Self>, attempt: AttemptKey, reason: &str) {
        if !self.leasing.lock().insert(attempt.slice) {
            return;
        }
        let driver = self.clone();
        let reason = reason.to_owned();
        tokio::spawn(async move {
            driver.workers.ended(attempt);
            let command = Command::ReleaseSlice { attempt, reason, failure: false };
            if let Err(error) = driver.context.replica.propose(command).await {
                tracing::debug!(%attempt, %error, "a lease was not released");
            }
            driver.leasing.lock().remove(&attempt.slice);
            driver.wake();
        });
    }

    async fn lease(self: Arc<Self>, assignment: Assignment) {
        let slice = assignment.slice;
        if let Err(error) = self.lease_slice(&assignment).await {
            tracing::warn!(%slice, worker = %assignment.worker, %error, "a slice was not leased");
        }
        self.workers.withdraw(&assignment.worker, slice);
        self.leasing.lock().remove(&slice);
        self.wake();
    }

    async fn lease_slice(&self, assignment: &Assignment) -> Result<()> {
        let Assignment { slice, worker } = assignment;
        let replica = &self.context.replica;
        let Some(job) = jobs::job(&*replica.local(), slice.job)? else { return Ok(()) };
        let Some(incarnation) = self.workers.incarnation(worker, &job.group) else { return Ok(()) };
        let command = Command::LeaseSlice {
            job: slice.job,
            slice: slice.slice,
            worker: worker.clone(),
            incarnation: incarnation.clone(),
            steal: false,
        };
        let CommandResult::Leased { attempt } = replica.propose(command).await? else { return Ok(()) };
        let attempt = AttemptKey { slice: *slice, attempt };
        let now = replica.now_ms();
        self.workers.assigned(worker, attempt, now);
        let failure = match self.spec(attempt).await {
            Ok(mut spec) => {
                spec.helpers = self.helpers(&job, worker);
                let is_same = self.workers.incarnation(worker, &job.group) == Some(incarnation);
                if is_same && self.workers.send(worker, coordinator_message::Message::Assign(spec)) {
                    return Ok(());
                }
                None
            }
            Err(error) => Some(error),
        };
        self.workers.ended(attempt);
        let command = match failure {
            // The plan cannot be carried out: not the worker's fault, and no other one could.
            Some(error) if !error.is_retryable() => {
                Command::EndJob { job: slice.job, end: JobEnding::Aborted(error) }
            }
            Some(error) => Command::ReleaseSlice { attempt, reason: error.to_string(), failure: true },
            None => Command::ReleaseSlice { attempt, reason: "its worker went away".into(), failure: false },
        };
        replica.propose(command).await.map(|_| ())
    }

    /// The workers that may read for the holder of a slice: all others of the job's group, where the job has no slice
    /// for each.
    fn helpers(&self, job: &Job, holder: &WorkerId) -> Vec<String> {
        let fleet = self.workers.fleet(&job.group);
        if self.context.scheduling.lane_bytes().is_none() || job.slices >= fleet.workers {
            return Vec::new();
        }
        self.workers.others(holder)
    }

    async fn spec(&self, attempt: AttemptKey) -> Result<stevedore_proto::v1::SliceSpec> {
        let view = self.context.replica.local();
        let job = attempt.slice.job;
        let record = jobs::job_spec(&*view, job)?
            .ok_or_else(|| Error::internal(format!("job {job} has no specification")))?;
        let known = self.plans.lock().get(&job).cloned();
        let plan = match known {
            Some(plan) => plan,
            None => {
                let plan =
                    Arc::new(JobPlan::load(&record.plan, self.context.stores.warehouse().store()).await?);
                self.plans.lock().insert(job, plan.clone());
                plan
            }
        };
        spec::slice(&*view, self.context.spec_context(), attempt, &record, &plan).await
    }

    /// Takes a job through the phases in which the leader itself is at work.
    async fn drive(&self, id: JobId) {
        let mut tries = 0;
        loop {
            let error = match self.drive_once(id).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tries += 1;
            let phase = jobs::job(&*self.context.replica.local(), id).ok().flatten().map(|job| job.phase);
            let ended = phase.is_none_or(JobPhase::is_ended);
            if ended {
                return;
            }
            let transient = error.is_retryable() || error.kind() == ErrorKind::OutcomeUnknown;
            let most = if phase == Some(JobPhase::Claiming) { MOST_TRIES_OF_LISTING } else { MOST_TRIES };
            // A committed job is never given up: its purge is tried until it is done.
            if phase == Some(JobPhase::Purging) || (transient && tries < most) {
                tracing::warn!(job = %id, %error, tries, "a job's step failed, trying again");
                tokio::time::sleep(Duration::from_millis(100 << tries.min(7))).await;
                continue;
            }
            tracing::warn!(job = %id, %error, "a job is aborted");
            let end = Command::EndJob { job: id, end: JobEnding::Aborted(error) };
            if let Err(error) = self.context.replica.propose(end).await {
                tracing::warn!(job = %id, %error, "a job was not aborted yet");
            }
            return;
        }
    }

    async fn drive_once(&self, id: JobId) -> Result<()> {
        // No view of the state is held while a phase is carried out: it would keep in memory what is overwritten.
        let Some(job) = jobs::job(&*self.context.replica.local(), id)? else { return Ok(()) };
        match job.phase {
            JobPhase::Claiming => phases::claim(&self.context, id, self.workers.fleet(&job.group)).await,
            JobPhase::Running | JobPhase::Committing => phases::commit(&self.context, &job).await,
            JobPhase::Purging => phases::purge(&self.context, &job).await,
            JobPhase::Committed | JobPhase::Aborted | JobPhase::Cancelled => Ok(()),
        }
    }
}

/// The next change of a job; `None` where events were missed or are of something else.
async fn next_event(events: &mut broadcast::Receiver<Event>) -> Option<(JobId, JobPhase)> {
    match events.recv().await {
        Ok(Event::JobChanged { job, phase }) => Some((job, phase)),
        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => None,
        Err(broadcast::error::RecvError::Closed) => {
            // The node has ended; the term's token follows.
            std::future::pending().await
        }
    }
}
