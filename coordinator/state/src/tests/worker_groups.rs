//! Worker groups: known from their first worker on, kept while anything names them.

use stevedore_common::worker_group::WorkerGroup;

use super::tasks::{create, definition};
use super::*;
use crate::tasks::{TaskCommand, TaskDefinition};
use crate::worker_groups::MAX_WORKER_GROUPS;

fn group(name: &str) -> WorkerGroup {
    WorkerGroup::parse(name).unwrap()
}

fn note(name: &str) -> Command {
    Command::NoteWorkerGroup { group: group(name) }
}

fn forget(name: &str, unseen_since_ms: i64) -> Command {
    Command::ForgetWorkerGroup { group: group(name), unseen_since_ms }
}

fn of_group(name: &str) -> TaskDefinition {
    TaskDefinition { warehouse: group(name), ..definition(None, &[]) }
}

impl World {
    fn groups(&self) -> Vec<String> {
        let known = read::worker_groups(&self.state).unwrap();
        known.into_iter().map(|known| known.group.to_string()).collect()
    }
}

#[test]
fn a_group_is_known_from_its_first_worker_on_and_default_always() {
    let mut world = World::new();
    world.ok(note("etl"));
    let first = read::worker_group(&world.state, &group("etl")).unwrap().unwrap();
    world.ok(note("etl"));
    let again = read::worker_group(&world.state, &group("etl")).unwrap().unwrap();
    assert_eq!(first.created_on_ms, again.created_on_ms);
    assert!(again.seen_ms > first.seen_ms);
    world.ok(note("default"));
    assert_eq!(world.groups(), ["etl"]);
    read::require_worker_group(&world.state, &WorkerGroup::default()).unwrap();
    let error = read::require_worker_group(&world.state, &group("elt")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.contains("warehouse 'elt' does not exist") && text.contains("default, etl"), "{text}");
}

#[test]
fn jobs_and_tasks_take_groups_that_are_known() {
    let mut world = World::new();
    let table = world.table("t");
    let spec = JobSpec { group: group("etl"), ..copy_spec(table) };
    let command = Command::CreateJob { job: job_id(1), spec };
    assert_eq!(world.refused(command.clone()).kind(), ErrorKind::NotFound);
    assert_eq!(world.refused(create("k", of_group("etl"))).kind(), ErrorKind::NotFound);
    world.ok(note("etl"));
    world.ok(command);
    assert_eq!(world.job(job_id(1)).group, group("etl"));
    world.ok(create("k", of_group("etl")));
    let task = read::task(&world.state, "k").unwrap().unwrap();
    let alter = |warehouse: &str| {
        let (definition, started) = (of_group(warehouse), false);
        let (name, version, next_tick_ms) = (task.name.clone(), task.version, None);
        Command::Task(TaskCommand::Alter { name, version, definition, started, next_tick_ms })
    };
    assert_eq!(world.refused(alter("elt")).kind(), ErrorKind::NotFound);
    world.ok(alter("default"));
}

#[test]
fn a_group_is_forgotten_once_nothing_is_left_of_it() {
    let mut world = World::new();
    let table = world.table("t");
    world.ok(note("etl"));
    let seen = world.now_ms;
    let job = world.copy_with(1, table, |spec| spec.group = group("etl"));
    world.ok(create("k", of_group("etl")));
    assert!(world.refused(forget("etl", seen - 1)).to_string().contains("workers of it came"));
    assert!(world.refused(forget("etl", seen)).to_string().contains("task 'k' names it"));
    world.ok(Command::Task(TaskCommand::Drop { name: "k".into(), if_exists: false }));
    assert!(world.refused(forget("etl", seen)).to_string().contains(&job.to_string()));
    world.end(job, JobEnding::Cancelled);
    world.ok(forget("etl", seen));
    assert!(world.groups().is_empty());
    assert_eq!(world.ok(forget("etl", seen)), CommandResult::Dropped { existed: false });
    assert_eq!(world.refused(forget("default", i64::MAX)).kind(), ErrorKind::InvalidInput);
}

#[test]
fn there_is_a_limit_that_known_groups_do_not_meet() {
    let mut world = World::new();
    for n in 0..MAX_WORKER_GROUPS {
        world.ok(note(&format!("g{n}")));
    }
    assert_eq!(world.refused(note("more")).kind(), ErrorKind::ResourceExhausted);
    world.ok(note("g0"));
    world.ok(note("default"));
    world.ok(forget("g1", i64::MAX));
    world.ok(note("more"));
}

#[test]
fn records_from_before_there_were_groups_are_of_the_default_one() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let record = serde_json::to_value(world.job(job)).unwrap();
    assert!(record.get("group").is_none());
    assert!(serde_json::from_value::<Job>(record).unwrap().group.is_default());
    let spec = serde_json::to_value(copy_spec(table)).unwrap();
    assert!(spec.get("group").is_none());
    assert!(serde_json::from_value::<JobSpec>(spec).unwrap().group.is_default());
    let task = serde_json::to_value(definition(None, &[])).unwrap();
    assert_eq!(task["warehouse"], "default");
}
