//! A simulated week of ticks over leader changes, stale leaders and a night without any.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use stevedore_common::worker_group::WorkerGroup;
use stevedore_state::command::Envelope;
use stevedore_state::result::CommandResult;
use stevedore_state::tasks::{Run, RunEnd, RunState, TaskDefinition};
use stevedore_state::{MemoryState, read};

use super::*;

const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
/// 2026-03-02T00:00:00Z, a Monday. Los Angeles changes its clocks on the Sunday after it.
const MONDAY: i64 = 1_772_409_600_000;

struct Cluster {
    state: MemoryState,
    sequence: u64,
}

impl Cluster {
    fn new() -> Self {
        Self { state: MemoryState::default(), sequence: 0 }
    }

    fn propose(&mut self, time_ms: i64, command: TaskCommand) -> CommandResult {
        self.sequence += 1;
        let command = Command::Task(command);
        let envelope = Envelope { proposer: "p".into(), sequence: self.sequence, time_ms, command };
        self.state.apply(&envelope).unwrap().0
    }

    fn start(&mut self, name: &str, schedule: Schedule, now: i64) {
        let definition = TaskDefinition {
            database: "default".into(),
            warehouse: WorkerGroup::default(),
            schedule: Some(schedule.clone()),
            after: Vec::new(),
            condition: None,
            suspend_after: None,
            error_integration: None,
            comment: String::new(),
            settings: BTreeMap::new(),
            body: "SELECT 1".into(),
        };
        self.propose(
            now,
            TaskCommand::Create {
                name: name.into(),
                owner: "root".into(),
                definition: definition.clone(),
                if_not_exists: false,
                or_replace: false,
            },
        );
        let next_tick_ms = Some(Ticks::of(&schedule).unwrap().first(now).unwrap());
        let started = true;
        self.propose(
            now,
            TaskCommand::Alter { name: name.into(), version: 1, definition, started, next_tick_ms },
        );
    }

    /// What a leader with this view proposes at this time.
    fn ticks(view: &MemoryState, now: i64) -> Vec<Tick> {
        let tasks = read::tasks(view).unwrap();
        tasks.iter().filter_map(|task| due_tick(task, now, Uuid::now_v7()).unwrap()).collect()
    }

    fn end_all(&mut self, now: i64) {
        for run in read::live_task_runs(&self.state).unwrap() {
            self.propose(now, TaskCommand::EndRun { run, end: RunEnd::Succeeded, query: None });
        }
    }

    fn runs(&self, name: &str) -> Vec<Run> {
        let mut runs = read::task_runs(&self.state, Some(name), None, 100_000).unwrap();
        runs.reverse();
        runs
    }

    fn ran(&self, name: &str) -> Vec<i64> {
        let ran = self.runs(name).into_iter().filter(|run| run.state == RunState::Succeeded);
        ran.map(|run| run.scheduled_on_ms).collect()
    }
}

fn hourly() -> Schedule {
    Schedule::Cron { expression: "0 0 * * * *".into(), timezone: "America/Los_Angeles".into() }
}

#[test]
fn a_week_of_ticks_over_leader_changes_is_run_tick_by_tick() {
    let mut cluster = Cluster::new();
    cluster.start("hourly", hourly(), MONDAY);
    cluster.start("each_7_minutes", Schedule::Interval { ms: 7 * 60_000 }, MONDAY);
    let mut stale = cluster.state.clone();
    let mut refused = 0;
    let week = 7 * 24 * HOUR;
    for minute in 1..=week / MINUTE {
        let now = MONDAY + minute * MINUTE;
        // A leader proposes from what it knows. Every few minutes an older one, which does not know yet that it
        // is none any more, proposes from an old view as well, before or after.
        let mut ticks = Cluster::ticks(&cluster.state, now);
        if minute % 3 == 0 {
            let late = Cluster::ticks(&stale, now);
            if minute % 2 == 0 {
                ticks.extend(late)
            } else {
                ticks.splice(0..0, late);
            }
        }
        for tick in ticks {
            if let CommandResult::Refused(_) = cluster.propose(now, TaskCommand::TakeTick(tick)) {
                refused += 1;
            }
        }
        if minute % 5 == 0 {
            stale = cluster.state.clone();
        }
        cluster.end_all(now);
    }
    let grid = |every: i64| -> Vec<i64> { (1..=week / every).map(|n| MONDAY + n * every).collect() };
    assert_eq!(cluster.ran("hourly"), grid(HOUR));
    assert_eq!(cluster.ran("each_7_minutes"), grid(7 * MINUTE));
    assert!(refused > 100, "the stale leaders took no part: {refused}");
    assert!(cluster.runs("hourly").iter().all(|run| run.state == RunState::Succeeded));
}

#[test]
fn a_night_without_a_leader_is_one_run_and_one_record() {
    let mut cluster = Cluster::new();
    cluster.start("hourly", hourly(), MONDAY);
    let morning = MONDAY + 9 * HOUR + 30 * MINUTE;
    for tick in Cluster::ticks(&cluster.state, morning) {
        cluster.propose(morning, TaskCommand::TakeTick(tick));
    }
    cluster.end_all(morning);
    let runs = cluster.runs("hourly");
    let shown: Vec<(RunState, i64)> =
        runs.iter().map(|run| (run.state, (run.scheduled_on_ms - MONDAY) / HOUR)).collect();
    assert_eq!(shown, [(RunState::Skipped, 1), (RunState::Succeeded, 9)]);
    assert!(runs[0].remark.as_ref().unwrap().starts_with("8 ticks from here on were missed"));
    assert_eq!(read::task(&cluster.state, "hourly").unwrap().unwrap().next_tick_ms, Some(MONDAY + 10 * HOUR));
}

#[test]
fn an_overrun_starts_the_next_run_at_once_and_keeps_the_grid() {
    let mut cluster = Cluster::new();
    cluster.start("t", Schedule::Interval { ms: 1_000 }, MONDAY);
    let take = |cluster: &mut Cluster, after: i64| {
        let now = MONDAY + after;
        for tick in Cluster::ticks(&cluster.state, now) {
            cluster.propose(now, TaskCommand::TakeTick(tick));
        }
    };
    take(&mut cluster, 1_000);
    // It takes a second and a half: the tick at 2,000 waits, and runs at once when the run has ended.
    take(&mut cluster, 2_000);
    assert_eq!(cluster.runs("t").len(), 1);
    cluster.end_all(MONDAY + 2_500);
    take(&mut cluster, 2_500);
    cluster.end_all(MONDAY + 2_600);
    take(&mut cluster, 2_900);
    assert_eq!(cluster.ran("t"), [MONDAY + 1_000, MONDAY + 2_000]);
    take(&mut cluster, 3_000);
    cluster.end_all(MONDAY + 3_100);
    assert_eq!(cluster.ran("t"), [MONDAY + 1_000, MONDAY + 2_000, MONDAY + 3_000]);
}
