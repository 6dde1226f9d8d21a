//! Runs: how they begin, go on and end.

use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{TaskId, TaskRun};
use uuid::Uuid;

use super::command::{RunEnd, Tick};
use super::define::put_task;
use super::{Graph, Notification, Run, RunState, Schedule, Task, missing_task, task, task_run, tasks};
use crate::apply::{Outcome, Transaction, next, refuse};
use crate::event::Event;
use crate::keys;
use crate::result::CommandResult;

const MAX_TRIM: usize = 10_000;

/// The graph that a run belongs to.
struct Root {
    graph: TaskRun,
    graph_id: Uuid,
    task: TaskId,
    name: String,
}

impl Root {
    fn of(run: &Run) -> Self {
        Self { graph: run.graph, graph_id: run.graph_id, task: run.root, name: run.root_name.clone() }
    }
}

/// A run of a task; one without a root begins a graph.
fn new_run(
    txn: &mut Transaction<'_>,
    task: &Task,
    id: Uuid,
    scheduled_on_ms: UnixMillis,
    root: Option<Root>,
) -> Outcome<Run> {
    let number = TaskRun(txn.count(|counters| next(&mut counters.task_runs))?);
    let root =
        root.unwrap_or_else(|| Root { graph: number, graph_id: id, task: task.id, name: task.name.clone() });
    Ok(Run {
        number,
        id,
        task: task.id,
        name: task.name.clone(),
        owner: task.owner.clone(),
        definition: task.definition.clone(),
        graph: root.graph,
        graph_id: root.graph_id,
        root: root.task,
        root_name: root.name,
        scheduled_on_ms,
        state: RunState::Scheduled,
        begun_on_ms: None,
        completed_on_ms: None,
        step: 0,
        query: None,
        error: None,
        remark: None,
    })
}

/// Has a run begin. The task's record is the caller's to write.
fn start(txn: &mut Transaction<'_>, task: &mut Task, run: &Run) -> Outcome<()> {
    task.live = Some(run.number);
    if run.graph == run.number {
        task.graph = Some(run.number);
    }
    let mut graph: Graph = txn.read(&keys::task_graph(run.graph))?.unwrap_or(Graph { live: 0 });
    graph.live += 1;
    txn.put(keys::task_graph(run.graph), &graph)?;
    txn.put(keys::live_task_run(run.number), &run.number)?;
    index(txn, run)
}

/// Records a run that does not take place.
fn skip(txn: &mut Transaction<'_>, mut run: Run, remark: String) -> Outcome<()> {
    run.state = RunState::Skipped;
    run.remark = Some(remark);
    run.completed_on_ms = Some(txn.now_ms);
    txn.put(keys::ended_task_run(txn.now_ms, run.number), &run.number)?;
    index(txn, &run)
}

fn index(txn: &mut Transaction<'_>, run: &Run) -> Outcome<()> {
    txn.put(keys::task_run(run.number), run)?;
    txn.put(keys::run_of_name(&run.name, run.number), &run.number)?;
    txn.put(keys::graph_member(run.graph, run.task), &run.number)?;
    txn.event(Event::TasksChanged);
    Ok(())
}

fn is_busy(task: &Task) -> bool {
    task.live.is_some() || task.graph.is_some()
}

pub(crate) fn execute(txn: &mut Transaction<'_>, name: &str, id: Uuid) -> Outcome<CommandResult> {
    let Some(mut task) = task(txn.view(), name)? else { return refuse(missing_task(name)) };
    if is_busy(&task) {
        return refuse(
            Error::conflict(format!("task '{name}' is running, and runs of a task do not overlap"))
                .about(name)
                .hint("TASK_HISTORY tells when it has ended"),
        );
    }
    let now_ms = txn.now_ms;
    let run = new_run(txn, &task, id, now_ms, None)?;
    start(txn, &mut task, &run)?;
    put_task(txn, &task)?;
    Ok(CommandResult::TaskRun { run: Some(run.number) })
}

pub(crate) fn take_tick(txn: &mut Transaction<'_>, tick: &Tick) -> Outcome<CommandResult> {
    let Some(mut task) = task(txn.view(), &tick.name)?.filter(|task| task.id == tick.task) else {
        return refuse(missing_task(&tick.name));
    };
    if task.version != tick.version || !task.started || task.next_tick_ms != Some(tick.first_ms) {
        return refuse(Error::conflict(format!(
            "the tick {} of task '{}' was taken, or the task was changed",
            tick.first_ms, tick.name
        )));
    }
    task.next_tick_ms = tick.next_ms;
    if is_busy(&task) {
        if let Some(Schedule::Interval { .. }) = task.definition.schedule {
            return refuse(Error::conflict(format!(
                "task '{}' is running; its next run begins when this one has ended",
                tick.name
            )));
        }
        let run = new_run(txn, &task, tick.run, tick.last_ms, None)?;
        skip(txn, run, "the run before it had not ended".to_owned())?;
        put_task(txn, &task)?;
        return Ok(CommandResult::TaskRun { run: None });
    }
    if tick.due > 1 {
        let why = if task.idle_since_ms.is_some_and(|idle| idle >= tick.first_ms) {
            "the run before them took longer"
        } else {
            "nobody was there to run them"
        };
        let missed = tick.due - 1;
        let run = new_run(txn, &task, skipped_id(tick.run), tick.first_ms, None)?;
        let remark = if missed == 1 {
            format!("this tick was missed: {why}; the one after it ran")
        } else {
            format!("{missed} ticks from here on were missed: {why}; the one after them ran")
        };
        skip(txn, run, remark)?;
    }
    let run = new_run(txn, &task, tick.run, tick.last_ms, None)?;
    start(txn, &mut task, &run)?;
    put_task(txn, &task)?;
    Ok(CommandResult::TaskRun { run: Some(run.number) })
}

/// The id of the row that stands for missed ticks.
fn skipped_id(run: Uuid) -> Uuid {
    Uuid::from_u128(!run.as_u128())
}

/// The id of the run of a task within a graph.
fn member_id(graph: Uuid, task: TaskId) -> Uuid {
    Uuid::from_u128(graph.as_u128() ^ u128::from(task.0).rotate_left(20))
}

fn live_run(txn: &Transaction<'_>, number: TaskRun) -> Outcome<Run> {
    match task_run(txn.view(), number)? {
        Some(run) if run.state.is_ended() => {
            refuse(Error::conflict(format!("run {number} has ended: {}", run.state.as_str())))
        }
        Some(run) => Ok(run),
        None => refuse(Error::not_found(format!("run {number} does not exist"))),
    }
}

pub(crate) fn begin(txn: &mut Transaction<'_>, number: TaskRun) -> Outcome<CommandResult> {
    let mut run = live_run(txn, number)?;
    if run.state == RunState::Scheduled {
        run.state = RunState::Executing;
        run.begun_on_ms = Some(txn.now_ms);
        txn.put(keys::task_run(number), &run)?;
    }
    Ok(CommandResult::Done)
}

pub(crate) fn advance(
    txn: &mut Transaction<'_>,
    number: TaskRun,
    step: u32,
    query: Uuid,
) -> Outcome<CommandResult> {
    let mut run = live_run(txn, number)?;
    if step > run.step {
        run.step = step;
        run.query = Some(query);
        txn.put(keys::task_run(number), &run)?;
    }
    Ok(CommandResult::Done)
}

pub(crate) fn end(
    txn: &mut Transaction<'_>,
    number: TaskRun,
    end: &RunEnd,
    query: Option<Uuid>,
) -> Outcome<CommandResult> {
    let Some(mut run) = task_run(txn.view(), number)? else {
        return refuse(Error::not_found(format!("run {number} does not exist")));
    };
    if run.state.is_ended() {
        return Ok(CommandResult::Done);
    }
    run.completed_on_ms = Some(txn.now_ms);
    run.query = query.or(run.query);
    match end {
        RunEnd::Succeeded => run.state = RunState::Succeeded,
        RunEnd::Failed(error) => {
            run.state = RunState::Failed;
            run.error = Some(error.clone());
        }
        RunEnd::Cancelled(error) => {
            run.state = RunState::Cancelled;
            run.error = Some(error.clone());
        }
        RunEnd::Skipped(why) => {
            run.state = RunState::Skipped;
            run.remark = Some(why.clone());
        }
    }
    txn.put(keys::task_run(number), &run)?;
    txn.delete(keys::live_task_run(number));
    txn.put(keys::ended_task_run(txn.now_ms, number), &number)?;
    if let Some(mut task) = task(txn.view(), &run.name)?.filter(|task| task.live == Some(number)) {
        task.live = None;
        if task.id == run.task {
            count_failures(txn, &mut task, run.state);
        }
        put_task(txn, &task)?;
    }
    if run.state == RunState::Failed
        && let Some(integration) = run.definition.error_integration.clone()
    {
        let notification = Notification { run: number, integration, created_on_ms: txn.now_ms };
        txn.put(keys::notification(number), &notification)?;
    }
    if run.state == RunState::Succeeded {
        start_followers(txn, &run)?;
    }
    end_in_graph(txn, &run)?;
    txn.event(Event::TasksChanged);
    Ok(CommandResult::Done)
}

fn count_failures(txn: &Transaction<'_>, task: &mut Task, state: RunState) {
    match state {
        RunState::Succeeded => task.failures = 0,
        RunState::Failed | RunState::Cancelled => {
            task.failures = task.failures.saturating_add(1);
            if task.started && task.definition.suspend_after.is_some_and(|most| task.failures >= most) {
                task.started = false;
                task.next_tick_ms = None;
                task.version += 1;
                task.last_suspended_on_ms = Some(txn.now_ms);
            }
        }
        RunState::Scheduled | RunState::Executing | RunState::Skipped => {}
    }
}

/// Begins the runs of those that waited for this one last.
fn start_followers(txn: &mut Transaction<'_>, run: &Run) -> Outcome<()> {
    let all = tasks(txn.view())?;
    for mut follower in all.iter().cloned() {
        if !follower.started || !follower.definition.after.contains(&run.name) {
            continue;
        }
        if txn.read::<TaskRun>(&keys::graph_member(run.graph, follower.id))?.is_some() {
            continue;
        }
        // Suspended predecessors are passed over, as if they were not there.
        let mut ready = true;
        for name in &follower.definition.after {
            let Some(predecessor) = all.iter().find(|task| task.name == *name) else { continue };
            if *name != run.name && predecessor.started {
                let member: Option<TaskRun> = txn.read(&keys::graph_member(run.graph, predecessor.id))?;
                let state = match member {
                    Some(member) => task_run(txn.view(), member)?.map(|run| run.state),
                    None => None,
                };
                ready &= state == Some(RunState::Succeeded);
            }
        }
        if !ready {
            continue;
        }
        let id = member_id(run.graph_id, follower.id);
        let now_ms = txn.now_ms;
        let next = new_run(txn, &follower, id, now_ms, Some(Root::of(run)))?;
        if is_busy(&follower) {
            skip(txn, next, "the run before it had not ended".to_owned())?;
        } else {
            start(txn, &mut follower, &next)?;
            put_task(txn, &follower)?;
        }
    }
    Ok(())
}

/// The graph ends with its last run.
fn end_in_graph(txn: &mut Transaction<'_>, run: &Run) -> Outcome<()> {
    let mut graph: Graph = txn.read(&keys::task_graph(run.graph))?.unwrap_or(Graph { live: 1 });
    graph.live = graph.live.saturating_sub(1);
    if graph.live > 0 {
        txn.put(keys::task_graph(run.graph), &graph)?;
        return Ok(());
    }
    txn.delete(keys::task_graph(run.graph));
    if let Some(mut root) = task(txn.view(), &run.root_name)?.filter(|root| root.graph == Some(run.graph)) {
        root.graph = None;
        root.idle_since_ms = Some(txn.now_ms);
        put_task(txn, &root)?;
    }
    Ok(())
}

pub(crate) fn trim(txn: &mut Transaction<'_>, before_ms: UnixMillis, limit: u32) -> Outcome<CommandResult> {
    let limit = usize::try_from(limit).unwrap_or(MAX_TRIM).clamp(1, MAX_TRIM);
    let page = txn.view().scan(&keys::ended_task_runs(), None, limit)?;
    let full = page.len() == limit;
    for (key, value) in page {
        let number: TaskRun = keys::decode(&key, &value)?;
        if let Some(run) = task_run(txn.view(), number)? {
            if run.completed_on_ms.is_none_or(|ended| ended >= before_ms) {
                return Ok(CommandResult::Progress { done: true });
            }
            // What is still to be told needs the run.
            if txn.read::<Notification>(&keys::notification(number))?.is_some() {
                continue;
            }
            txn.delete(keys::task_run(number));
            txn.delete(keys::run_of_name(&run.name, number));
            txn.delete(keys::graph_member(run.graph, run.task));
        }
        txn.delete(key);
    }
    Ok(CommandResult::Progress { done: !full })
}
