//! CREATE, ALTER and DROP TASK, and the rules of graphs: those named in AFTER exist, nobody waits for
//! himself, and a task has one root.

use std::collections::{BTreeMap, BTreeSet};

use stevedore_common::Error;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::TaskId;

use super::{Task, TaskDefinition, integration, missing_task, task, tasks};
use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog::objects::{check_name, missing};
use crate::catalog::quoted_name;
use crate::event::Event;
use crate::keys;
use crate::result::CommandResult;
use crate::worker_groups;

pub(crate) fn put_task(txn: &mut Transaction<'_>, task: &Task) -> Outcome<()> {
    txn.put(keys::task(&task.name), task)?;
    txn.event(Event::TasksChanged);
    Ok(())
}

pub(crate) fn create(
    txn: &mut Transaction<'_>,
    name: &str,
    owner: &str,
    definition: &TaskDefinition,
    if_not_exists: bool,
    or_replace: bool,
) -> Outcome<CommandResult> {
    check_name("task", name)?;
    let existing = task(txn.view(), name)?;
    if let Some(existing) = &existing {
        if if_not_exists {
            return Ok(CommandResult::Created { id: existing.id.0, created: false });
        }
        if !or_replace {
            return refuse(Error::already_exists(format!("task '{name}' exists already")).about(name));
        }
    }
    check(txn, name, definition)?;
    let id = TaskId(txn.count(|counters| next(&mut counters.tasks))?);
    // A run of the task that this one replaces goes on, and still keeps the next one from beginning.
    let (live, graph) = existing.map_or((None, None), |existing| (existing.live, existing.graph));
    let task = Task {
        id,
        name: name.to_owned(),
        owner: owner.to_owned(),
        definition: definition.clone(),
        version: 1,
        started: false,
        created_on_ms: txn.now_ms,
        next_tick_ms: None,
        last_committed_on_ms: txn.now_ms,
        last_suspended_on_ms: None,
        failures: 0,
        live,
        graph,
        idle_since_ms: None,
    };
    put_task(txn, &task)?;
    Ok(CommandResult::Created { id: id.0, created: true })
}

pub(crate) fn alter(
    txn: &mut Transaction<'_>,
    name: &str,
    version: u64,
    definition: &TaskDefinition,
    started: bool,
    next_tick_ms: Option<UnixMillis>,
) -> Outcome<CommandResult> {
    let Some(mut task) = task(txn.view(), name)? else { return refuse(missing_task(name)) };
    if task.version != version {
        let error = Error::conflict(format!("task '{name}' was changed meanwhile"));
        return refuse(error.retryable(true).hint("run the statement again"));
    }
    if task.definition != *definition {
        check(txn, name, definition)?;
    }
    if started && !task.started {
        task.failures = 0;
    }
    if !started && task.started {
        task.last_suspended_on_ms = Some(txn.now_ms);
    }
    task.definition = definition.clone();
    task.version += 1;
    task.started = started;
    task.next_tick_ms = next_tick_ms.filter(|_| started);
    task.last_committed_on_ms = txn.now_ms;
    put_task(txn, &task)?;
    Ok(CommandResult::Done)
}

pub(crate) fn drop(txn: &mut Transaction<'_>, name: &str, if_exists: bool) -> Outcome<CommandResult> {
    if task(txn.view(), name)?.is_none() {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing_task(name))
        };
    }
    let waiting =
        tasks(txn.view())?.into_iter().find(|other| other.definition.after.iter().any(|a| a == name));
    if let Some(other) = waiting {
        return refuse(
            Error::conflict(format!("task '{name}' cannot be dropped: task '{}' runs after it", other.name))
                .about(name)
                .hint(format!(
                    "drop '{}' first, or ALTER TASK {} REMOVE AFTER {}",
                    other.name,
                    quoted_name(&other.name),
                    quoted_name(name)
                )),
        );
    }
    txn.delete(keys::task(name));
    txn.event(Event::TasksChanged);
    Ok(CommandResult::Dropped { existed: true })
}

/// Whether a task may be like this.
fn check(txn: &Transaction<'_>, name: &str, definition: &TaskDefinition) -> Outcome<()> {
    if definition.schedule.is_some() && !definition.after.is_empty() {
        return refuse(Error::invalid(format!(
            "task '{name}' cannot have both SCHEDULE and AFTER: what runs after others has no schedule of its own"
        )));
    }
    worker_groups::check(txn, &definition.warehouse)?;
    if let Some(integration_name) = &definition.error_integration
        && integration(txn.view(), integration_name)?.is_none()
    {
        return refuse(missing("notification integration", integration_name));
    }
    let mut after: BTreeMap<String, Vec<String>> =
        tasks(txn.view())?.into_iter().map(|task| (task.name, task.definition.after)).collect();
    after.insert(name.to_owned(), definition.after.clone());
    for predecessor in &definition.after {
        if !after.contains_key(predecessor) {
            return refuse(missing_task(predecessor));
        }
    }
    if let Some(circle) = circle(&after, name) {
        return refuse(
            Error::invalid(format!("tasks cannot run after each other in a circle: {}", circle.join(" -> ")))
                .about(name),
        );
    }
    for task in after.keys() {
        let roots = roots(&after, task);
        if roots.len() > 1 {
            let roots: Vec<String> = roots.iter().map(|root| format!("'{root}'")).collect();
            return refuse(
                Error::invalid(format!(
                    "task '{task}' would run after tasks of different graphs, whose roots are {}",
                    roots.join(" and ")
                ))
                .about(name)
                .hint("all tasks of AFTER must lead back to one root"),
            );
        }
    }
    Ok(())
}

/// A way from a task back to itself, by AFTER.
fn circle(after: &BTreeMap<String, Vec<String>>, start: &str) -> Option<Vec<String>> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut paths: Vec<Vec<&str>> = vec![vec![start]];
    while let Some(path) = paths.pop() {
        for predecessor in path.last().and_then(|last| after.get(*last)).into_iter().flatten() {
            let mut longer = path.clone();
            longer.push(predecessor);
            if predecessor == start {
                return Some(longer.into_iter().map(str::to_owned).collect());
            }
            if seen.insert(predecessor) {
                paths.push(longer);
            }
        }
    }
    None
}

/// The tasks without AFTER that a task leads back to.
fn roots<'a>(after: &'a BTreeMap<String, Vec<String>>, start: &'a str) -> BTreeSet<&'a str> {
    let mut roots = BTreeSet::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        match after.get(name) {
            Some(before) if !before.is_empty() => open.extend(before.iter().map(String::as_str)),
            _ => {
                roots.insert(name);
            }
        }
    }
    roots
}
