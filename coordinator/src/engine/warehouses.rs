//! Warehouses: the groups of workers that statements choose from.
//!
//! Comes in: the groups that the state knows, and the workers as the leader lists them. Goes out: a row for each
//! group; the command that forgets one. Must never forget a group of which a worker lives: the state cannot know it.

use std::collections::BTreeMap;

use stevedore_common::clock::UnixMillis;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::WorkerStatus;
use stevedore_state::command::Command;
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;
use stevedore_state::worker_groups::{require_worker_group, worker_groups};

use super::{Engine, Execution, StatementHandle};
use crate::results::ColumnKind::{Int, Text, Timestamp};
use crate::results::{Columns, Value};
use crate::worker_directory::group_of;

/// The columns of SHOW WAREHOUSES.
pub(super) const WAREHOUSES: Columns = &[
    ("name", Text),
    ("state", Text),
    ("workers", Int),
    ("cores", Int),
    ("slots", Int),
    ("running_slices", Int),
    ("created_on", Timestamp),
];

/// What the workers of a group add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    workers: i64,
    cores: i64,
    slots: i64,
    running: i64,
}

/// Every group that is known, by name, with what the workers of it that are connected add up to.
fn sums(
    known: impl IntoIterator<Item = WorkerGroup>,
    listed: &[WorkerStatus],
) -> BTreeMap<WorkerGroup, Sums> {
    let mut all: BTreeMap<WorkerGroup, Sums> =
        known.into_iter().map(|group| (group, Sums::default())).collect();
    for worker in listed.iter().filter(|worker| worker.connected) {
        let sums = all.entry(group_of(worker)).or_default();
        sums.workers += 1;
        sums.cores += i64::from(worker.cores);
        sums.slots += i64::from(worker.slots);
        sums.running += i64::from(worker.running);
    }
    all
}

fn row(group: &WorkerGroup, sums: Sums, created_on_ms: Option<UnixMillis>) -> Vec<Value> {
    vec![
        group.as_str().into(),
        if sums.workers > 0 { "Running" } else { "No workers" }.into(),
        sums.workers.into(),
        sums.cores.into(),
        sums.slots.into(),
        sums.running.into(),
        created_on_ms.into(),
    ]
}

impl Engine {
    /// All warehouses, by name.
    pub(super) async fn warehouse_rows(&self, view: &dyn ReadView) -> Result<Vec<(String, Vec<Value>)>> {
        let mut created: BTreeMap<WorkerGroup, Option<UnixMillis>> =
            BTreeMap::from([(WorkerGroup::default(), None)]);
        for known in worker_groups(view)? {
            created.insert(known.group, Some(known.created_on_ms));
        }
        let sums = sums(created.keys().cloned(), &self.workers.listed().await?);
        let row = |(group, sums): (WorkerGroup, Sums)| {
            let created_on_ms = created.get(&group).copied().flatten();
            (group.to_string(), row(&group, sums, created_on_ms))
        };
        Ok(sums.into_iter().map(row).collect())
    }

    pub(super) async fn drop_warehouse(
        &self,
        handle: &StatementHandle,
        name: &str,
        if_exists: bool,
    ) -> Result<Execution> {
        let group = WorkerGroup::parse(name).map_err(|error| error.about(name))?;
        let is_connected = |worker: &WorkerStatus| worker.connected && group_of(worker) == group;
        if !group.is_default()
            && let Some(worker) = self.workers.listed().await?.into_iter().find(is_connected)
        {
            return Err(Error::conflict(format!(
                "warehouse '{group}' is in use: worker '{}' is in it",
                worker.worker_id
            ))
            .about(name)
            .hint("stop its workers, or start them in another group; then nothing is left to drop"));
        }
        let missing = require_worker_group(&*self.replica.read().await?, &group).err();
        let command = Command::ForgetWorkerGroup { group, unseen_since_ms: UnixMillis::MAX };
        match (self.propose_once(handle, command).await?, missing) {
            (CommandResult::Dropped { existed: false }, Some(missing)) if !if_exists => Err(missing),
            _ => Ok(Execution::nothing()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn worker(group: &str, connected: bool) -> WorkerStatus {
        WorkerStatus {
            group: group.to_owned(),
            connected,
            cores: 4,
            slots: 2,
            running: 1,
            ..WorkerStatus::default()
        }
    }

    #[test]
    fn a_group_is_shown_without_workers_and_counts_those_that_are_connected() {
        let group = |name: &str| WorkerGroup::parse(name).unwrap();
        let listed = [worker("default", true), worker("", true), worker("etl", true), worker("etl", false)];
        let sums = sums([WorkerGroup::default(), group("idle")], &listed);
        let names: Vec<&str> = sums.keys().map(WorkerGroup::as_str).collect();
        assert_eq!(names, ["default", "etl", "idle"]);
        let of = |name: &str| sums[&group(name)];
        assert_eq!(of("default"), Sums { workers: 2, cores: 8, slots: 4, running: 2 });
        assert_eq!(of("etl"), Sums { workers: 1, cores: 4, slots: 2, running: 1 });
        assert_eq!(of("idle"), Sums::default());
    }
}
