//! Which slice goes to which worker: a pure function.
//!
//! Owns: the assignment rule. Comes in: the pending slices by job, and the workers with their free
//! slots. Goes out: assignments for this round. It never looks at a clock, does no I/O, and answers the
//! same for the same input.
//!
//! The problem: keep every slot busy while no job starves. The rule: jobs take turns, the one with the
//! fewest running slices first (older jobs first among equals), and each slice goes to the worker with
//! the largest share of free slots (by id among equals) of its job's group, so that work spreads before it
//! stacks. A group with no free slot keeps nobody of another group waiting, and gets no slot of theirs.

use std::collections::BTreeMap;

use stevedore_common::ids::{JobId, SliceIndex, SliceKey, WorkerId};
use stevedore_common::worker_group::WorkerGroup;

/// A worker as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Who.
    pub id: WorkerId,
    /// Its group.
    pub group: WorkerGroup,
    /// Slices it runs at a time.
    pub slots: u32,
    /// Slices it runs now.
    pub running: u32,
}

/// A job as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Which; ids are ordered by age.
    pub job: JobId,
    /// The workers that it runs on.
    pub group: WorkerGroup,
    /// Slices that run now.
    pub running: u32,
    /// Slices that wait, in the order in which they are to run.
    pub pending: Vec<SliceIndex>,
}

/// A slice for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The slice.
    pub slice: SliceKey,
    /// The worker.
    pub worker: WorkerId,
}

/// The assignments of one round.
pub fn assign(jobs: &[JobView], workers: &[WorkerView]) -> Vec<Assignment> {
    let mut free: BTreeMap<&WorkerGroup, BTreeMap<&WorkerId, (u32, u32)>> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| worker.slots > worker.running) {
        let share = (worker.slots - worker.running, worker.slots);
        free.entry(&worker.group).or_default().insert(&worker.id, share);
    }
    let mut turns: BTreeMap<(u32, JobId), (&WorkerGroup, std::slice::Iter<'_, SliceIndex>)> =
        jobs.iter().map(|job| ((job.running, job.job), (&job.group, job.pending.iter()))).collect();
    let mut assignments = Vec::new();
    while let Some(((running, job), (group, mut pending))) = turns.pop_first() {
        let Some(slice) = pending.next() else { continue };
        let Some(free) = free.get_mut(group) else { continue };
        // The largest share of free slots; iteration is by id, and only a strictly larger share replaces.
        let mut best: Option<(&WorkerId, (u32, u32))> = None;
        for (id, share) in free.iter() {
            let better = best.is_none_or(|(_, (best_free, best_slots))| {
                u64::from(share.0) * u64::from(best_slots) > u64::from(best_free) * u64::from(share.1)
            });
            if better {
                best = Some((id, *share));
            }
        }
        let Some((worker, (left, slots))) = best else { continue };
        assignments.push(Assignment { slice: SliceKey { job, slice: *slice }, worker: worker.clone() });
        if left > 1 {
            free.insert(worker, (left - 1, slots));
        } else {
            free.remove(worker);
        }
        turns.insert((running + 1, job), (group, pending));
    }
    assignments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn job(n: u128, running: u32, pending: u32) -> JobView {
        JobView {
            job: JobId(uuid::Uuid::from_u128(n)),
            group: WorkerGroup::default(),
            running,
            pending: (0..pending).map(SliceIndex).collect(),
        }
    }

    fn worker(id: &str, slots: u32, running: u32) -> WorkerView {
        WorkerView { id: WorkerId(id.to_owned()), group: WorkerGroup::default(), slots, running }
    }

    fn group(name: &str) -> WorkerGroup {
        WorkerGroup::parse(name).unwrap()
    }

    fn who(assignments: &[Assignment]) -> Vec<(u128, u32, &str)> {
        assignments.iter().map(|a| (a.slice.job.0.as_u128(), a.slice.slice.0, a.worker.0.as_str())).collect()
    }

    #[test]
    fn work_spreads_before_it_stacks() {
        let assignments = assign(&[job(1, 0, 3)], &[worker("a", 2, 0), worker("b", 2, 0)]);
        assert_eq!(who(&assignments), [(1, 0, "a"), (1, 1, "b"), (1, 2, "a")]);
    }

    #[test]
    fn a_small_job_is_not_starved_by_a_large_one() {
        let assignments = assign(&[job(1, 4, 100), job(2, 0, 2)], &[worker("a", 8, 5)]);
        assert_eq!(who(&assignments), [(2, 0, "a"), (2, 1, "a"), (1, 0, "a")]);
    }

    #[test]
    fn a_slice_goes_to_a_worker_of_its_jobs_group_only() {
        let etl = JobView { group: group("etl"), ..job(1, 0, 3) };
        let workers = [worker("a", 4, 0), WorkerView { group: group("etl"), ..worker("b", 2, 0) }];
        assert_eq!(who(&assign(std::slice::from_ref(&etl), &workers)), [(1, 0, "b"), (1, 1, "b")]);
        // Of the two groups each gets its own slots: a full one holds up nobody of the other.
        let both = assign(&[etl.clone(), job(2, 0, 3)], &workers);
        assert_eq!(who(&both), [(1, 0, "b"), (2, 0, "a"), (1, 1, "b"), (2, 1, "a"), (2, 2, "a")]);
        let other = JobView { group: group("ml"), ..job(3, 0, 3) };
        assert!(assign(&[other, etl], &[worker("a", 4, 0)]).is_empty());
    }

    #[test]
    fn nothing_is_assigned_without_a_free_slot() {
        assert!(assign(&[job(1, 0, 3)], &[worker("a", 2, 2), worker("b", 0, 0)]).is_empty());
        assert!(assign(&[job(1, 0, 3)], &[]).is_empty());
    }
}
