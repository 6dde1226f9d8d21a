//! What the leader does when nobody waits: ledger entries made explicit, what ended jobs left behind
//! deleted, the records of old jobs trimmed, groups of workers that are gone forgotten, gauges set.
//!
//! Comes in: time, and the end of jobs. Goes out: small proposals, deletions of files that no table refers
//! to. Must never delete a file of a job that has not ended; whether it has is asked of the state by a
//! linearizable read, and it never begins again.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stevedore_common::ids::JobId;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_state::command::Command;
use stevedore_state::event::Event;
use stevedore_state::jobs::{self, Job, JobKind};
use stevedore_state::view::ReadView;
use stevedore_state::worker_groups::KnownGroup;
use stevedore_state::{catalog, ledger, worker_groups};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::phases::{Context, data_files, removed_file};
use super::workers::Workers;
use super::{transactions, unload};
use crate::committer::sweep;
use crate::planner::plan::JobPlan;

/// How often a round runs.
const EVERY: Duration = Duration::from_secs(1);
/// Ledger entries that one command settles or sweeps.
const LEDGER_LIMIT: u32 = 500;
/// Jobs looked at for trimming between two rounds, and records that one command trims.
const TRIM_JOBS: usize = 16;
const TRIM_RECORDS: u32 = 500;
/// Slices read at a time.
const SLICES: usize = 256;
/// Ended jobs that wait for their first sweep; those beyond are swept before they are trimmed.
const MOST_WAITING: usize = 10_000;

pub(crate) const DAY_MS: i64 = 24 * 3600 * 1000;
/// How often it is recorded that a group has workers.
const NOTE_GROUPS_EVERY_MS: i64 = 3600 * 1000;
/// A group whose workers are away is known for so long.
const REMEMBER_GROUPS_FOR_MS: i64 = 7 * DAY_MS;
/// A new leader gives workers so long to come before it takes any for gone.
const SETTLED_AFTER_MS: i64 = 600 * 1000;

/// The housekeeping of one term of leadership.
pub(super) struct Housekeeping {
    context: Context,
    workers: Arc<Workers>,
    led_since_ms: i64,
    /// Jobs that ended, and when they are swept.
    waiting: VecDeque<(i64, JobId)>,
}

impl Housekeeping {
    pub(super) fn new(context: Context, workers: Arc<Workers>) -> Self {
        let led_since_ms = context.replica.now_ms();
        Self { context, workers, led_since_ms, waiting: VecDeque::new() }
    }

    /// Runs until the term ends.
    pub(super) async fn run(mut self, term: CancellationToken) {
        let mut events = self.context.replica.events();
        let mut rounds = tokio::time::interval(EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = term.cancelled() => return,
                event = events.recv() => self.note(event),
                _ = rounds.tick() => if let Err(error) = self.round().await {
                    tracing::debug!(%error, "housekeeping was put off");
                },
            }
        }
    }

    fn note(&mut self, event: std::result::Result<Event, broadcast::error::RecvError>) {
        if let Ok(Event::JobChanged { job, phase }) = event
            && phase.is_ended()
            && self.waiting.len() < MOST_WAITING
        {
            // Workers that still run a slice of it are told to stop; they have a lease's time to hear it.
            let due = self.context.replica.now_ms() + self.context.scheduling.lease_ms;
            self.waiting.push_back((due, job));
        }
    }

    async fn round(&mut self) -> Result<()> {
        self.measure()?;
        self.settle().await?;
        while let Some((due, job)) = self.waiting.front().copied()
            && due <= self.context.replica.now_ms()
        {
            self.waiting.pop_front();
            if let Err(error) = self.sweep(job).await {
                tracing::info!(%job, %error, "what a job left behind is swept later");
            }
        }
        transactions::keep_house(&self.context).await?;
        self.keep_groups().await?;
        self.trim().await
    }

    /// Makes ledger entries explicit and clears those that a TRUNCATE left, a little at a time.
    async fn settle(&self) -> Result<()> {
        let replica = &self.context.replica;
        let mut commands: Vec<Command> = jobs::unsettled_jobs(&*replica.local(), 4)?
            .into_iter()
            .map(|job| Command::SettleLedger { job, limit: LEDGER_LIMIT })
            .collect();
        for table in ledger::sweepable_ledgers(&*replica.local(), 4)? {
            commands.push(Command::SweepLedger { table, limit: LEDGER_LIMIT });
        }
        for command in commands {
            replica.propose(command).await?;
        }
        Ok(())
    }

    /// Records which groups have workers, and forgets one that has had none for long and that nothing names.
    async fn keep_groups(&self) -> Result<()> {
        let replica = &self.context.replica;
        let now_ms = replica.now_ms();
        let known = worker_groups::worker_groups(&*replica.local())?;
        let upkeep = group_upkeep(&known, &self.workers.groups(), now_ms, now_ms - self.led_since_ms);
        for command in upkeep {
            if let Command::ForgetWorkerGroup { group, .. } = &command
                && worker_groups::user_of(&*replica.local(), group)?.is_some()
            {
                continue;
            }
            match replica.propose(command).await {
                // Something has come to name it: it stays.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                // Workers that came back after their group was dropped, and there is no room for it any more.
                Err(error) if error.kind() == ErrorKind::ResourceExhausted => {
                    tracing::warn!(%error, "a group of workers is not known to statements");
                }
                result => {
                    result?;
                }
            }
        }
        Ok(())
    }

    /// Forgets jobs that ended long ago, after one more sweep.
    async fn trim(&self) -> Result<()> {
        let before_ms = self.context.replica.now_ms() - self.context.scheduling.job_history_days * DAY_MS;
        let old = jobs::ended_before(&*self.context.replica.local(), before_ms, TRIM_JOBS)?;
        let Some(last) = old.last().and_then(|job| job.ended_on_ms) else { return Ok(()) };
        for job in &old {
            match self.sweep(job.id).await {
                // The warehouse no longer has the table at all.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                swept => swept?,
            }
            let plan = format!("jobs/{}/plan.json", job.id);
            self.context.stores.warehouse().store().delete(&plan).await?;
        }
        // Only those that were swept just now, and at least one of them.
        let first = old.first().and_then(|job| job.ended_on_ms).unwrap_or(last);
        let before_ms = if old.len() < TRIM_JOBS { before_ms } else { last.max(first + 1) };
        self.context.replica.propose(Command::TrimJobs { before_ms, limit: TRIM_RECORDS }).await?;
        Ok(())
    }

    /// Deletes the data files of an ended job that its commit did not add.
    async fn sweep(&self, id: JobId) -> Result<()> {
        let view = self.context.replica.read().await?;
        let Some(job) = jobs::job(&*view, id)?.filter(|job| job.phase.is_ended()) else { return Ok(()) };
        let warehouse = self.context.stores.warehouse();
        let committed = job.phase.is_committed();
        if committed && first_attempts_only(&*view, id)? {
            return Ok(());
        }
        if job.kind == JobKind::Unload {
            return self.sweep_unload(&*view, &job).await;
        }
        let (metadata_location, never_was) = match job.table {
            Some(table) => (metadata_of(&*view, table)?, false),
            None => (self.planned_table(&*view, &job).await?, !committed),
        };
        let Some(metadata_location) = metadata_location else { return Ok(()) };
        let table = self.context.committer.load(&metadata_location).await?.location().to_owned();
        let folder = warehouse.store().path_of_uri(&table)?;
        let mut kept = HashSet::new();
        if committed {
            for file in data_files(&*view, &job)? {
                if removed_file(&file).is_none() {
                    kept.insert(sweep::file_name(&path_of(&file)?).to_owned());
                }
            }
        }
        drop(view);
        let swept = if never_was {
            sweep::sweep_table(warehouse.store(), &folder).await?
        } else {
            sweep::sweep_job(warehouse.store(), &folder, id, &kept).await?
        };
        if swept > 0 {
            tracing::info!(job = %id, files = swept, "swept what a job left behind");
            metrics::counter!("stevedore_files_swept_total").increment(swept);
        }
        Ok(())
    }

    /// What an unload left under hidden names.
    async fn sweep_unload(&self, view: &dyn ReadView, job: &Job) -> Result<()> {
        let Some(spec) = jobs::job_spec(view, job.id)? else { return Ok(()) };
        let stores = &self.context.stores;
        if let JobPlan::Unload(plan) = JobPlan::load(&spec.plan, stores.warehouse().store()).await? {
            let swept = unload::sweep(stores, view, job, &plan).await?;
            if swept > 0 {
                tracing::info!(job = %job.id, files = swept, "swept what an unload left behind");
            }
        }
        Ok(())
    }

    /// The table that a CREATE TABLE AS was to make.
    async fn planned_table(&self, view: &dyn ReadView, job: &Job) -> Result<Option<String>> {
        let Some(spec) = jobs::job_spec(view, job.id)? else { return Ok(None) };
        let plan = JobPlan::load(&spec.plan, self.context.stores.warehouse().store()).await?;
        Ok(plan.new_table().map(|new| new.metadata_location.clone()))
    }

    fn measure(&self) -> Result<()> {
        metrics::gauge!("stevedore_workers").set(self.workers.views().len() as f64);
        let view = self.context.replica.local();
        let groups = worker_groups::worker_groups(&*view)?.into_iter().map(|known| known.group);
        for group in groups.chain([WorkerGroup::default()]) {
            let workers = self.workers.fleet(&group).workers;
            metrics::gauge!("stevedore_warehouse_workers", "warehouse" => group.to_string())
                .set(f64::from(workers));
        }
        let mut by_phase: BTreeMap<&'static str, u32> = BTreeMap::new();
        for id in jobs::live_jobs(&*view)? {
            if let Some(job) = jobs::job(&*view, id)? {
                *by_phase.entry(job.phase.as_str()).or_default() += 1;
            }
        }
        for phase in ["claiming", "running", "committing", "purging"] {
            let count = by_phase.get(phase).copied().unwrap_or(0);
            metrics::gauge!("stevedore_live_jobs", "phase" => phase).set(f64::from(count));
        }
        Ok(())
    }
}

/// What is to be recorded of groups, given those that are known and those that have workers now.
fn group_upkeep(
    known: &[KnownGroup],
    living: &BTreeSet<WorkerGroup>,
    now_ms: i64,
    led_for_ms: i64,
) -> Vec<Command> {
    let seen: BTreeMap<&WorkerGroup, i64> = known.iter().map(|known| (&known.group, known.seen_ms)).collect();
    let mut commands = Vec::new();
    for group in living.iter().filter(|group| !group.is_default()) {
        if seen.get(group).is_none_or(|seen_ms| now_ms - seen_ms >= NOTE_GROUPS_EVERY_MS) {
            commands.push(Command::NoteWorkerGroup { group: group.clone() });
        }
    }
    let unseen_since_ms = now_ms - REMEMBER_GROUPS_FOR_MS;
    let gone = known.iter().filter(|known| known.seen_ms < unseen_since_ms && !living.contains(&known.group));
    if led_for_ms >= SETTLED_AFTER_MS {
        commands.extend(
            gone.map(|known| Command::ForgetWorkerGroup { group: known.group.clone(), unseen_since_ms }),
        );
    }
    commands
}

/// Whether no attempt of the job's ever failed or was lost: then every file that it wrote was committed.
fn first_attempts_only(view: &dyn ReadView, job: JobId) -> Result<bool> {
    let mut after = None;
    loop {
        let page = jobs::slices(view, job, after, SLICES)?;
        if page.iter().any(|(_, slice)| slice.attempt.0 > 1 || slice.failures > 0) {
            return Ok(false);
        }
        match page.last() {
            Some((last, _)) if page.len() == SLICES => after = Some(*last),
            _ => return Ok(true),
        }
    }
}

fn metadata_of(view: &dyn ReadView, table: stevedore_common::ids::TableId) -> Result<Option<String>> {
    Ok(catalog::table_by_id(view, table)?.map(|table| table.metadata_location))
}

/// The path in a data file's description (Iceberg JSON, as the worker reported it).
fn path_of(data_file: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct DataFile {
        file_path: String,
    }
    serde_json::from_str::<DataFile>(data_file)
        .map(|file| file.file_path)
        .map_err(|e| Error::internal(format!("a reported data file cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn group(name: &str) -> WorkerGroup {
        WorkerGroup::parse(name).unwrap()
    }

    fn known(name: &str, seen_ms: i64) -> KnownGroup {
        KnownGroup { group: group(name), created_on_ms: 0, seen_ms }
    }

    #[test]
    fn groups_are_noted_while_they_have_workers_and_forgotten_long_after() {
        let now = 30 * DAY_MS;
        let living = BTreeSet::from([WorkerGroup::default(), group("new"), group("fresh"), group("old")]);
        let note = |name: &str| Command::NoteWorkerGroup { group: group(name) };
        let unseen_since_ms = now - REMEMBER_GROUPS_FOR_MS;
        let records = [
            known("away", unseen_since_ms),
            known("fresh", now - NOTE_GROUPS_EVERY_MS + 1),
            known("gone", unseen_since_ms - 1),
            known("old", 0),
        ];
        let upkeep = |led_for_ms| group_upkeep(&records, &living, now, led_for_ms);
        let noted = [note("new"), note("old")];
        assert_eq!(upkeep(SETTLED_AFTER_MS - 1), noted);
        let forget = Command::ForgetWorkerGroup { group: group("gone"), unseen_since_ms };
        assert_eq!(upkeep(SETTLED_AFTER_MS), [&noted[..], &[forget]].concat());
    }
}
