//! What the leader does for scheduled tasks: takes the ticks that are due, and carries out the runs that there
//! are, its own and those that an earlier leader began.
//!
//! Which runs there are is the state's to say. Here is only memory of which of them are being carried out; it
//! goes with the term, and the statements that were under way are then the next leader's to go on with.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::TaskRun;
use stevedore_common::{ErrorKind, Result};
use stevedore_state::command::Command;
use stevedore_state::event::Event;
use stevedore_state::tasks::{self, Schedule, Task, TaskCommand, Tick};
use stevedore_state::view::ReadView;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::schedule::Ticks;
use super::{notify, run};
use crate::engine::Engine;
use crate::leadership::while_leading;
use crate::stores::Stores;

/// The state is looked at this often, whatever events and schedules say.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Ticks that are taken at a time.
const TICKS_AT_ONCE: usize = 32;
/// Between two looks at old runs, and how many one command forgets.
const TRIM_EVERY: Duration = Duration::from_secs(30);
const TRIM_RUNS: u32 = 500;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// The driver of one coordinator; it does something only while its node leads.
pub struct CronDriver {
    engine: Arc<Engine>,
    stores: Arc<Stores>,
    history_days: i64,
}

/// The tick that a task has to take now, if it has. An interval's waits until the run before it has ended.
pub(super) fn due_tick(task: &Task, now_ms: UnixMillis, run: Uuid) -> Result<Option<Tick>> {
    let (Some(schedule), Some(first_ms)) = (&task.definition.schedule, task.next_tick_ms) else {
        return Ok(None);
    };
    let busy = task.live.is_some() || task.graph.is_some();
    if !task.started || first_ms > now_ms || (busy && matches!(schedule, Schedule::Interval { .. })) {
        return Ok(None);
    }
    let due = Ticks::of(schedule)?.due(first_ms, now_ms);
    Ok(Some(Tick {
        name: task.name.clone(),
        task: task.id,
        version: task.version,
        first_ms,
        last_ms: due.last_ms,
        due: due.count,
        next_ms: due.next_ms,
        run,
    }))
}

impl CronDriver {
    /// A driver whose statements run through `engine`; runs are remembered for `history_days`.
    pub fn new(engine: Arc<Engine>, stores: Arc<Stores>, history_days: i64) -> Arc<Self> {
        Arc::new(Self { engine, stores, history_days })
    }

    /// Runs until shutdown, leading whenever the node does.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let status = self.engine.replica().status();
        while_leading(status, shutdown, |term| self.clone().lead(term)).await;
    }

    async fn lead(self: Arc<Self>, term: CancellationToken) {
        let mut events = self.engine.replica().events();
        let mut runs: JoinSet<TaskRun> = JoinSet::new();
        let mut driven: HashSet<TaskRun> = HashSet::new();
        let mut notifying = JoinSet::new();
        notifying.spawn(notify::deliver(self.engine.clone(), self.stores.clone()));
        let mut trimmed = Instant::now();
        loop {
            let look = async {
                let wait = match self.look(&mut runs, &mut driven).await {
                    Ok(wait) => wait,
                    Err(error) => {
                        tracing::error!(%error, "scheduled tasks could not be looked at");
                        LOOK_EVERY
                    }
                };
                if trimmed.elapsed() > TRIM_EVERY {
                    trimmed = Instant::now();
                    if let Err(error) = self.trim().await {
                        tracing::debug!(%error, "old runs are forgotten later");
                    }
                }
                wait
            };
            let wait = tokio::select! {
                () = term.cancelled() => break,
                wait = look => wait,
            };
            tokio::select! {
                () = term.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                Some(ended) = runs.join_next() => match ended {
                    Ok(run) => {
                        driven.remove(&run);
                    }
                    // A run's task panicked: its number is not known, so all that nobody carries out are looked at.
                    Err(error) => {
                        tracing::error!(%error, "a run ended unexpectedly, and is gone on with");
                        runs.abort_all();
                        while runs.join_next().await.is_some() {}
                        driven.clear();
                    }
                },
                () = next_change(&mut events) => {}
            }
        }
        runs.shutdown().await;
        notifying.shutdown().await;
    }

    /// One look at the state: starts what is to be done, and says when to look again.
    async fn look(&self, runs: &mut JoinSet<TaskRun>, driven: &mut HashSet<TaskRun>) -> Result<Duration> {
        let replica = self.engine.replica();
        let view = replica.local();
        self.start_runs(&*view, runs, driven)?;
        let now_ms = replica.now_ms();
        let mut ticks = Vec::new();
        let mut wait = LOOK_EVERY;
        for task in tasks::tasks(&*view)? {
            match due_tick(&task, now_ms, Uuid::now_v7()) {
                Ok(Some(tick)) => ticks.push(tick),
                Ok(None) => {
                    if let Some(next) = task.next_tick_ms.filter(|next| task.started && *next > now_ms) {
                        wait = wait.min(Duration::from_millis((next - now_ms).unsigned_abs()));
                    }
                }
                Err(error) => tracing::warn!(task = task.name, %error, "a schedule cannot be computed"),
            }
        }
        drop(view);
        if ticks.is_empty() {
            return Ok(wait);
        }
        futures::stream::iter(ticks).for_each_concurrent(TICKS_AT_ONCE, |tick| self.take(tick)).await;
        self.start_runs(&*replica.local(), runs, driven)?;
        Ok(Duration::ZERO)
    }

    fn start_runs(
        &self,
        view: &dyn ReadView,
        runs: &mut JoinSet<TaskRun>,
        driven: &mut HashSet<TaskRun>,
    ) -> Result<()> {
        for number in tasks::live_task_runs(view)? {
            if driven.insert(number) {
                let engine = self.engine.clone();
                runs.spawn(async move {
                    run::carry_out(&engine, number).await;
                    number
                });
            }
        }
        Ok(())
    }

    async fn take(&self, tick: Tick) {
        let name = tick.name.clone();
        let taken = self.engine.replica().propose(Command::Task(TaskCommand::TakeTick(tick))).await;
        match taken {
            Ok(_) => metrics::counter!("stevedore_task_ticks_total").increment(1),
            // It was altered or dropped meanwhile, or runs.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                tracing::debug!(task = name, %error, "a tick was not taken");
            }
            Err(error) => tracing::warn!(task = name, %error, "a tick was not taken yet"),
        }
    }

    /// Forgets runs that ended long ago, some at a time.
    async fn trim(&self) -> Result<()> {
        let replica = self.engine.replica();
        let before_ms = replica.now_ms() - self.history_days * DAY_MS;
        if tasks::has_old_task_runs(&*replica.local(), before_ms)? {
            let command = TaskCommand::TrimRuns { before_ms, limit: TRIM_RUNS };
            replica.propose(Command::Task(command)).await?;
        }
        Ok(())
    }
}

/// The next change of tasks or runs, or that some may have been missed.
async fn next_change(events: &mut broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(Event::TasksChanged) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The node has ended; the term's token follows.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
