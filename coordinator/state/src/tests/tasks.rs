//! Scheduled tasks: ticks that are taken once, graphs, failures, and random logs over all of it.

use proptest::prelude::*;
use stevedore_common::ids::TaskRun;

use super::*;
use crate::tasks::*;

pub(super) fn definition(schedule: Option<Schedule>, after: &[&str]) -> TaskDefinition {
    TaskDefinition {
        database: "default".into(),
        warehouse: WorkerGroup::default(),
        schedule,
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        condition: None,
        suspend_after: None,
        error_integration: None,
        comment: String::new(),
        settings: BTreeMap::new(),
        body: "SELECT 1".into(),
    }
}

fn cron() -> Option<Schedule> {
    Some(Schedule::Cron { expression: "* * * * * *".into(), timezone: "UTC".into() })
}

fn interval() -> Option<Schedule> {
    Some(Schedule::Interval { ms: 100 })
}

impl World {
    fn create_task(&mut self, name: &str, definition: TaskDefinition) {
        self.ok(create(name, definition));
    }

    fn resume(&mut self, name: &str, next_tick_ms: Option<i64>) {
        let task = read::task(&self.state, name).unwrap().unwrap();
        self.ok(Command::Task(TaskCommand::Alter {
            name: name.into(),
            version: task.version,
            definition: task.definition,
            started: true,
            next_tick_ms,
        }));
    }

    fn task(&self, name: &str) -> Task {
        read::task(&self.state, name).unwrap().unwrap()
    }

    /// The runs of a task, oldest first.
    fn runs(&self, name: &str) -> Vec<Run> {
        let mut runs = read::task_runs(&self.state, Some(name), None, 1_000).unwrap();
        runs.reverse();
        runs
    }

    fn states(&self, name: &str) -> Vec<RunState> {
        self.runs(name).iter().map(|run| run.state).collect()
    }

    fn end_run(&mut self, run: TaskRun, end: RunEnd) {
        self.ok(Command::Task(TaskCommand::EndRun { run, end, query: None }));
    }

    fn started(&mut self, command: Command) -> TaskRun {
        match self.ok(command) {
            CommandResult::TaskRun { run: Some(run) } => run,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn create(name: &str, definition: TaskDefinition) -> Command {
    Command::Task(TaskCommand::Create {
        name: name.into(),
        owner: "root".into(),
        definition,
        if_not_exists: false,
        or_replace: false,
    })
}

fn tick(task: &Task, due: u32, run: u128) -> Command {
    let first_ms = task.next_tick_ms.unwrap_or(0);
    let last_ms = first_ms + i64::from(due - 1) * 100;
    Command::Task(TaskCommand::TakeTick(Tick {
        name: task.name.clone(),
        task: task.id,
        version: task.version,
        first_ms,
        last_ms,
        due,
        next_ms: Some(last_ms + 100),
        run: Uuid::from_u128(run),
    }))
}

fn execute(name: &str, run: u128) -> Command {
    Command::Task(TaskCommand::Execute { name: name.into(), run: Uuid::from_u128(run) })
}

fn failed() -> RunEnd {
    RunEnd::Failed(Error::invalid("no"))
}

#[test]
fn a_tick_is_taken_once_by_whoever_comes_first() {
    let mut world = World::new();
    world.create_task("t", definition(cron(), &[]));
    let suspended = world.task("t");
    assert_eq!(world.refused(tick(&suspended, 1, 1)).kind(), ErrorKind::Conflict);
    world.resume("t", Some(5_000));
    let seen = world.task("t");
    let run = world.started(tick(&seen, 1, 1));
    assert_eq!(world.refused(tick(&seen, 1, 2)).kind(), ErrorKind::Conflict);
    assert_eq!(world.task("t").next_tick_ms, Some(5_100));
    assert_eq!(world.task("t").live, Some(run));
    // A schedule that was changed meanwhile has no such tick.
    world.end_run(run, RunEnd::Succeeded);
    let seen = world.task("t");
    world.resume("t", Some(9_000));
    assert_eq!(world.refused(tick(&seen, 1, 3)).kind(), ErrorKind::Conflict);
    assert_eq!(world.states("t"), [RunState::Succeeded]);
}

#[test]
fn runs_of_a_task_do_not_overlap() {
    let mut world = World::new();
    world.create_task("c", definition(cron(), &[]));
    world.create_task("i", definition(interval(), &[]));
    for name in ["c", "i"] {
        world.resume(name, Some(5_000));
        let first = world.task(name);
        world.started(tick(&first, 1, 1));
        assert!(world.refused(execute(name, 2)).to_string().contains("is running"));
    }
    // The tick of a cron expression is skipped, and that is recorded.
    let task = world.task("c");
    assert_eq!(world.ok(tick(&task, 1, 3)), CommandResult::TaskRun { run: None });
    assert_eq!(world.states("c"), [RunState::Scheduled, RunState::Skipped]);
    assert!(world.runs("c")[1].remark.as_ref().unwrap().contains("had not ended"));
    // That of an interval waits, and is run at once.
    let task = world.task("i");
    assert_eq!(world.refused(tick(&task, 1, 3)).kind(), ErrorKind::Conflict);
    let live = task.live.unwrap();
    world.end_run(live, RunEnd::Succeeded);
    let task = world.task("i");
    world.started(tick(&task, 1, 4));
    assert_eq!(world.states("i"), [RunState::Succeeded, RunState::Scheduled]);
    assert_eq!(world.runs("i")[1].scheduled_on_ms, 5_100);
}

#[test]
fn missed_ticks_run_once_and_are_recorded() {
    let mut world = World::new();
    world.create_task("t", definition(interval(), &[]));
    world.resume("t", Some(5_000));
    let task = world.task("t");
    world.started(tick(&task, 7, 1));
    let runs = world.runs("t");
    assert_eq!(world.states("t"), [RunState::Skipped, RunState::Scheduled]);
    assert_eq!((runs[0].scheduled_on_ms, runs[1].scheduled_on_ms), (5_000, 5_600));
    assert!(runs[0].remark.as_ref().unwrap().starts_with("6 ticks from here on were missed: nobody"));
    assert_eq!(world.task("t").next_tick_ms, Some(5_700));
}

#[test]
fn a_graph_goes_from_its_root_to_those_that_wait_for_all() {
    let mut world = World::new();
    world.create_task("root", definition(None, &[]));
    world.create_task("a", definition(None, &["root"]));
    world.create_task("b", definition(None, &["root"]));
    world.create_task("last", definition(None, &["a", "b"]));
    for name in ["a", "b", "last"] {
        world.resume(name, None);
    }
    let root = world.started(execute("root", 1));
    assert!(world.runs("a").is_empty());
    world.end_run(root, RunEnd::Succeeded);
    let (a, b) = (world.runs("a")[0].clone(), world.runs("b")[0].clone());
    assert_eq!((a.graph, a.root_name.as_str()), (root, "root"));
    world.end_run(a.number, RunEnd::Succeeded);
    assert!(world.runs("last").is_empty());
    // The graph has not ended, so that the root may not begin again.
    assert!(world.refused(execute("root", 2)).to_string().contains("do not overlap"));
    world.end_run(b.number, RunEnd::Succeeded);
    let last = world.runs("last")[0].clone();
    assert_eq!(last.graph, root);
    world.end_run(last.number, RunEnd::Succeeded);
    assert_eq!(world.task("root").graph, None);
    // A failure stops what waits for it; a suspended task is passed over.
    let root = world.started(execute("root", 3));
    world.end_run(root, RunEnd::Succeeded);
    let (a, b) = (world.runs("a")[1].number, world.runs("b")[1].number);
    world.end_run(a, failed());
    world.end_run(b, RunEnd::Succeeded);
    assert_eq!(world.runs("last").len(), 1);
    assert_eq!(world.task("root").graph, None);
    world.started(execute("root", 4));
}

#[test]
fn graphs_have_one_root_and_no_circles() {
    let mut world = World::new();
    assert!(
        world.refused(create("a", definition(None, &["no"]))).to_string().contains("'no' does not exist")
    );
    assert!(
        world
            .refused(create("a", definition(interval(), &["no"])))
            .to_string()
            .contains("both SCHEDULE and AFTER")
    );
    world.create_task("a", definition(None, &[]));
    world.create_task("b", definition(None, &["a"]));
    world.create_task("c", definition(None, &["b"]));
    let circle = world.refused(Command::Task(TaskCommand::Alter {
        name: "a".into(),
        version: 1,
        definition: definition(None, &["c"]),
        started: false,
        next_tick_ms: None,
    }));
    assert!(circle.to_string().contains("in a circle: a -> c -> b -> a"), "{circle}");
    world.create_task("other", definition(None, &[]));
    let two = world.refused(create("d", definition(None, &["b", "other"])));
    assert!(two.to_string().contains("different graphs, whose roots are 'a' and 'other'"), "{two}");
    let dropped = world.refused(Command::Task(TaskCommand::Drop { name: "b".into(), if_exists: false }));
    assert!(dropped.to_string().contains("task 'c' runs after it"), "{dropped}");
}

#[test]
fn a_task_that_keeps_failing_is_suspended_and_told_of() {
    let mut world = World::new();
    let webhook = Webhook {
        url: stevedore_common::secret::Sealed { key_id: "k".into(), data: "x".into() },
        shown_url: "https://host/******".into(),
        method: "POST".into(),
        authorization_header: None,
    };
    world.ok(Command::Task(TaskCommand::CreateIntegration {
        name: "hook".into(),
        enabled: true,
        webhook,
        comment: String::new(),
        if_not_exists: false,
        or_replace: false,
    }));
    let mut failing = definition(interval(), &[]);
    failing.suspend_after = Some(2);
    failing.error_integration = Some("hook".into());
    world.create_task("t", failing);
    world.resume("t", Some(5_000));
    for run in 1..=2 {
        assert!(world.task("t").started);
        let task = world.task("t");
        let number = world.started(tick(&task, 1, run));
        world.end_run(number, failed());
    }
    let task = world.task("t");
    assert_eq!((task.started, task.next_tick_ms, task.failures), (false, None, 2));
    assert!(task.last_suspended_on_ms.is_some());
    let told = read::notifications(&world.state, 10).unwrap();
    assert_eq!(told.len(), 2);
    let in_use =
        world.refused(Command::Task(TaskCommand::DropIntegration { name: "hook".into(), if_exists: false }));
    assert!(in_use.to_string().contains("task 't' names it"), "{in_use}");
    // What is still to be told is not forgotten.
    world.ok(Command::Task(TaskCommand::EndNotification { run: told[0].run }));
    world.ok(Command::Task(TaskCommand::TrimRuns { before_ms: i64::MAX, limit: 100 }));
    assert_eq!(world.runs("t").iter().map(|run| run.number).collect::<Vec<_>>(), [told[1].run]);
    world.resume("t", Some(9_000));
    assert_eq!(world.task("t").failures, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Resume(u8),
    Suspend(u8),
    Tick { task: u8, due: u32 },
    Execute(u8),
    End { pick: u8, how: u8 },
    Drop(u8),
    Create { task: u8, after: u8 },
    Trim,
    Retry(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let task = || 0u8..4;
    let step = prop_oneof![
        6 => task().prop_map(Step::Resume),
        1 => task().prop_map(Step::Suspend),
        12 => (task(), 1u32..4).prop_map(|(task, due)| Step::Tick { task, due }),
        3 => task().prop_map(Step::Execute),
        14 => (any::<u8>(), 0u8..8).prop_map(|(pick, how)| Step::End { pick, how }),
        1 => task().prop_map(Step::Drop),
        2 => (task(), 0u8..8).prop_map(|(task, after)| Step::Create { task, after }),
        1 => Just(Step::Trim),
        2 => (0u8..10).prop_map(Step::Retry),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #[test]
    fn in_any_order_runs_do_not_overlap_and_ticks_are_taken_once(steps in steps()) {
        let mut world = World::new();
        world.create_task("t0", definition(cron(), &[]));
        world.create_task("t1", definition(interval(), &[]));
        world.create_task("t2", definition(None, &["t0"]));
        world.create_task("t3", definition(None, &["t2"]));
        let mut next_id = 1u128;
        for step in steps {
            next_id += 1;
            let named = |task: u8| format!("t{task}");
            let command = match step {
                Step::Resume(task) | Step::Suspend(task) => {
                    let Some(known) = read::task(&world.state, &named(task)).unwrap() else { continue };
                    let started = matches!(step, Step::Resume(_));
                    let next_tick_ms = known.definition.schedule.as_ref().map(|_| 5_000 + i64::from(task));
                    Command::Task(TaskCommand::Alter {
                        name: known.name, version: known.version, definition: known.definition, started,
                        next_tick_ms: known.next_tick_ms.or(next_tick_ms),
                    })
                }
                Step::Tick { task, due } => {
                    let Some(known) = read::task(&world.state, &named(task)).unwrap() else { continue };
                    tick(&known, due, next_id)
                }
                Step::Execute(task) => execute(&named(task), next_id),
                Step::End { pick, how } => {
                    let live = read::live_task_runs(&world.state).unwrap();
                    if live.is_empty() { continue }
                    let run = live[usize::from(pick) % live.len()];
                    let end = match how {
                        0 => failed(),
                        1 => RunEnd::Skipped("no".into()),
                        _ => RunEnd::Succeeded,
                    };
                    Command::Task(TaskCommand::EndRun { run, end, query: None })
                }
                Step::Drop(task) => Command::Task(TaskCommand::Drop { name: named(task), if_exists: true }),
                Step::Create { task, after } => {
                    let after = named(after % 4);
                    let definition = if task < 2 { definition(cron(), &[]) } else { definition(None, &[&after]) };
                    Command::Task(TaskCommand::Create {
                        name: named(task), owner: "root".into(), definition, if_not_exists: false,
                        or_replace: next_id.is_multiple_of(2),
                    })
                }
                Step::Trim => Command::Task(TaskCommand::TrimRuns { before_ms: i64::MAX, limit: 50 }),
                Step::Retry(back) => {
                    let Some(at) = world.log.len().checked_sub(1 + usize::from(back)) else { continue };
                    let envelope = world.log[at].clone();
                    let before = world.state.clone();
                    world.state.apply(&envelope).unwrap();
                    prop_assert!(before.pairs().eq(world.state.pairs()), "a retried command changed something");
                    continue;
                }
            };
            world.run(command);

            // Of each task one run at most is live, and the records agree on which.
            let live = read::live_task_runs(&world.state).unwrap();
            let runs: Vec<Run> =
                live.iter().map(|run| read::task_run(&world.state, *run).unwrap().unwrap()).collect();
            let mut names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            if read::tasks(&world.state).unwrap().len() == 4 {
                for task in read::tasks(&world.state).unwrap() {
                    if let Some(run) = task.live {
                        prop_assert!(live.contains(&run), "task {} waits for a run that ended", task.name);
                    }
                    if let Some(graph) = task.graph {
                        prop_assert!(
                            runs.iter().any(|run| run.graph == graph),
                            "task {} waits for a graph that ended", task.name
                        );
                    }
                }
            }
            prop_assert!(runs.iter().all(|run| !run.state.is_ended()));
            prop_assert!(count == names.len() || world.log.iter().any(|e| matches!(
                &e.command, Command::Task(TaskCommand::Drop { .. })
            )), "two runs of a task at a time: {runs:?}");
            // No tick of a task began two runs.
            let all = read::task_runs(&world.state, None, None, 1_000).unwrap();
            let mut ids: Vec<Uuid> = all.iter().map(|run| run.id).collect();
            ids.sort_unstable();
            let count = ids.len();
            ids.dedup();
            prop_assert_eq!(count, ids.len(), "two runs have one id");
        }
    }
}
