//! The workers that have a session with this coordinator, and what each runs.
//!
//! Owns: the registry of sessions, the slices each worker holds, when each was last heard. Comes in:
//! registrations, heartbeats, ends of sessions. Goes out: views for [`super::decide`], messages to
//! workers, leases that ran out. It is memory only: a new leader starts with none and learns them as
//! workers register and say what they run.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{AttemptKey, JobId, SliceKey, WorkerId};
use stevedore_common::worker_group::WorkerGroup;
use stevedore_proto::v1;
use tokio::sync::mpsc;

use super::decide::WorkerView;
use crate::planner::planning::Fleet;

/// What a worker said of itself.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Its id.
    pub id: WorkerId,
    /// The process.
    pub incarnation: String,
    /// Where its Flight service answers.
    pub flight_address: String,
    /// Cores.
    pub cores: u32,
    /// Slices at a time.
    pub slots: u32,
    /// The version of its program.
    pub version: String,
    /// Its group.
    pub group: WorkerGroup,
    /// Bytes that its slices share.
    pub memory_budget: u64,
}

#[derive(Debug)]
struct Worker {
    info: WorkerInfo,
    session: u64,
    outbox: mpsc::Sender<v1::CoordinatorMessage>,
    running: BTreeMap<AttemptKey, UnixMillis>,
    /// Slices that are being leased for it: its slots are taken before the state has agreed.
    promised: BTreeSet<SliceKey>,
    last_heard_ms: UnixMillis,
    memory_used: u64,
}

/// The registry. Cheap to share behind an `Arc`.
#[derive(Debug, Default)]
pub struct Workers {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<WorkerId, Worker>,
    last_session: u64,
}

impl Workers {
    /// Registers a session; a worker that was registered is replaced (its old session is dead or will
    /// be refused). Answers the session's number, and the attempts that the worker's last process held:
    /// they died with it.
    pub fn register(
        &self,
        info: WorkerInfo,
        outbox: mpsc::Sender<v1::CoordinatorMessage>,
        now_ms: UnixMillis,
    ) -> (u64, Vec<AttemptKey>) {
        let mut inner = self.inner.lock();
        inner.last_session += 1;
        let session = inner.last_session;
        let old = inner.workers.remove(&info.id);
        let same_process = old.as_ref().is_some_and(|old| old.info.incarnation == info.incarnation);
        let held = old.map(|old| old.running).unwrap_or_default();
        let (running, lost) =
            if same_process { (held, Vec::new()) } else { (BTreeMap::new(), held.into_keys().collect()) };
        let promised = BTreeSet::new();
        let worker =
            Worker { session, outbox, running, promised, last_heard_ms: now_ms, memory_used: 0, info };
        inner.workers.insert(worker.info.id.clone(), worker);
        (session, lost)
    }

    /// Notes a sign of life.
    pub fn heard(&self, id: &WorkerId, session: u64, now_ms: UnixMillis) {
        if let Some(worker) = self.inner.lock().workers.get_mut(id).filter(|w| w.session == session) {
            worker.last_heard_ms = now_ms;
        }
    }

    /// Notes how much of its budget a worker uses.
    pub fn uses_memory(&self, id: &WorkerId, session: u64, bytes: u64) {
        if let Some(worker) = self.inner.lock().workers.get_mut(id).filter(|w| w.session == session) {
            worker.memory_used = bytes;
        }
    }

    /// Notes what the worker runs, as it says itself. Answers the attempts that it should run for longer
    /// than `patience_ms` and does not name: it lost them.
    pub fn reconcile(
        &self,
        id: &WorkerId,
        session: u64,
        running: &BTreeSet<AttemptKey>,
        now_ms: UnixMillis,
        patience_ms: i64,
    ) -> Vec<AttemptKey> {
        let mut inner = self.inner.lock();
        let Some(worker) = inner.workers.get_mut(id).filter(|w| w.session == session) else {
            return Vec::new();
        };
        let lost: Vec<AttemptKey> = worker
            .running
            .iter()
            .filter(|(attempt, since)| !running.contains(attempt) && now_ms - **since > patience_ms)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in &lost {
            worker.running.remove(attempt);
        }
        for attempt in running {
            worker.running.entry(*attempt).or_insert(now_ms);
        }
        lost
    }

    /// Takes a slot for a slice that is about to be leased, until it is assigned or [`Workers::withdraw`]n:
    /// whoever decides meanwhile sees it taken.
    pub fn promise(&self, id: &WorkerId, slice: SliceKey) {
        if let Some(worker) = self.inner.lock().workers.get_mut(id) {
            worker.promised.insert(slice);
        }
    }

    /// Gives back the slot of a slice that was not leased after all.
    pub fn withdraw(&self, id: &WorkerId, slice: SliceKey) {
        if let Some(worker) = self.inner.lock().workers.get_mut(id) {
            worker.promised.remove(&slice);
        }
    }

    /// Notes an assignment.
    pub fn assigned(&self, id: &WorkerId, attempt: AttemptKey, now_ms: UnixMillis) {
        if let Some(worker) = self.inner.lock().workers.get_mut(id) {
            worker.promised.remove(&attempt.slice);
            worker.running.insert(attempt, now_ms);
        }
    }

    /// The process behind a worker's session, as long as it is of this group: a worker may come back in another one.
    pub fn incarnation(&self, id: &WorkerId, group: &WorkerGroup) -> Option<String> {
        let inner = self.inner.lock();
        let worker = inner.workers.get(id).filter(|worker| worker.info.group == *group)?;
        Some(worker.info.incarnation.clone())
    }

    /// How many there are of a group, and what they run at a time.
    pub fn fleet(&self, group: &WorkerGroup) -> Fleet {
        let inner = self.inner.lock();
        let of_group = inner.workers.values().filter(|worker| worker.info.group == *group);
        of_group.fold(Fleet::default(), |fleet, worker| Fleet {
            workers: fleet.workers + 1,
            slots: fleet.slots.saturating_add(worker.info.slots),
        })
    }

    /// The groups of which a worker is connected.
    pub fn groups(&self) -> BTreeSet<WorkerGroup> {
        let inner = self.inner.lock();
        let connected = inner.workers.values().filter(|worker| !worker.outbox.is_closed());
        connected.map(|worker| worker.info.group.clone()).collect()
    }

    /// The Flight addresses of all of a worker's group but its own.
    pub fn others(&self, id: &WorkerId) -> Vec<String> {
        let inner = self.inner.lock();
        let Some(group) = inner.workers.get(id).map(|worker| &worker.info.group) else { return Vec::new() };
        let others = inner.workers.iter().filter(|(other, worker)| {
            *other != id && worker.info.group == *group && !worker.outbox.is_closed()
        });
        others.map(|(_, worker)| worker.info.flight_address.clone()).collect()
    }

    /// The attempts of a job that are running.
    pub fn attempts_of(&self, job: JobId) -> Vec<AttemptKey> {
        let inner = self.inner.lock();
        let all = inner.workers.values().flat_map(|worker| worker.running.keys());
        all.filter(|attempt| attempt.slice.job == job).copied().collect()
    }

    /// Notes that an attempt ended, on whatever worker.
    pub fn ended(&self, attempt: AttemptKey) {
        for worker in self.inner.lock().workers.values_mut() {
            worker.running.remove(&attempt);
        }
    }

    /// Whether some live session holds the attempt.
    pub fn holds(&self, attempt: AttemptKey) -> bool {
        self.inner.lock().workers.values().any(|worker| worker.running.contains_key(&attempt))
    }

    /// Drops workers that were not heard for `lease_ms`; answers the attempts they held.
    pub fn expire(&self, now_ms: UnixMillis, lease_ms: i64) -> Vec<AttemptKey> {
        let mut inner = self.inner.lock();
        let dead: Vec<WorkerId> = inner
            .workers
            .iter()
            .filter(|(_, worker)| now_ms.saturating_sub(worker.last_heard_ms) > lease_ms)
            .map(|(id, _)| id.clone())
            .collect();
        dead.iter()
            .filter_map(|id| inner.workers.remove(id))
            .flat_map(|worker| worker.running.into_keys())
            .collect()
    }

    /// Forgets everyone: leadership was lost.
    pub fn clear(&self) {
        self.inner.lock().workers.clear();
    }

    /// Sends to a worker. False: it has no session, or its outbox is full or closed.
    pub fn send(&self, id: &WorkerId, message: v1::coordinator_message::Message) -> bool {
        let outbox = self.inner.lock().workers.get(id).map(|worker| worker.outbox.clone());
        outbox
            .is_some_and(|outbox| outbox.try_send(v1::CoordinatorMessage { message: Some(message) }).is_ok())
    }

    /// Sends to whoever holds the attempt.
    pub fn send_to_holder(&self, attempt: AttemptKey, message: v1::coordinator_message::Message) -> bool {
        let holder = {
            let inner = self.inner.lock();
            inner.workers.iter().find(|(_, w)| w.running.contains_key(&attempt)).map(|(id, _)| id.clone())
        };
        holder.is_some_and(|id| self.send(&id, message))
    }

    /// For the decision.
    pub fn views(&self) -> Vec<WorkerView> {
        self.inner
            .lock()
            .workers
            .values()
            .filter(|worker| !worker.outbox.is_closed())
            .map(|worker| WorkerView {
                id: worker.info.id.clone(),
                group: worker.info.group.clone(),
                slots: worker.info.slots,
                running: (worker.running.len() + worker.promised.len()) as u32,
            })
            .collect()
    }

    /// For operators: everyone, with the number of slices each runs and when it was last heard.
    pub fn statuses(&self) -> Vec<v1::WorkerStatus> {
        let status = |worker: &Worker| v1::WorkerStatus {
            worker_id: worker.info.id.to_string(),
            flight_address: worker.info.flight_address.clone(),
            cores: worker.info.cores,
            slots: worker.info.slots,
            running: worker.running.len() as u32,
            last_heartbeat_ms: worker.last_heard_ms,
            version: worker.info.version.clone(),
            group: worker.info.group.to_string(),
            memory_budget: worker.info.memory_budget,
            memory_used: worker.memory_used,
            connected: !worker.outbox.is_closed(),
        };
        self.inner.lock().workers.values().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use stevedore_common::ids::{Attempt, SliceIndex};

    use super::*;

    fn info(id: &str, incarnation: &str) -> WorkerInfo {
        WorkerInfo {
            id: WorkerId(id.into()),
            incarnation: incarnation.into(),
            flight_address: String::new(),
            cores: 2,
            slots: 2,
            version: String::new(),
            group: WorkerGroup::default(),
            memory_budget: 1 << 30,
        }
    }

    fn attempt(n: u32) -> AttemptKey {
        let job = JobId(uuid::Uuid::nil());
        AttemptKey { slice: SliceKey { job, slice: SliceIndex(n) }, attempt: Attempt(1) }
    }

    #[test]
    fn a_silent_worker_loses_what_it_held() {
        let workers = Workers::default();
        let (outbox, _inbox) = mpsc::channel(1);
        workers.register(info("a", "x"), outbox, 0);
        workers.assigned(&WorkerId("a".into()), attempt(0), 0);
        assert!(workers.expire(10, 10).is_empty());
        assert_eq!(workers.expire(11, 10), [attempt(0)]);
        assert!(workers.views().is_empty());
    }

    #[test]
    fn a_reconnected_process_keeps_its_slices_and_a_restarted_one_does_not() {
        let workers = Workers::default();
        let (outbox, _inbox) = mpsc::channel(1);
        workers.register(info("a", "x"), outbox.clone(), 0);
        workers.assigned(&WorkerId("a".into()), attempt(0), 0);
        workers.register(info("a", "x"), outbox.clone(), 1);
        assert!(workers.holds(attempt(0)));
        let (_, lost) = workers.register(info("a", "y"), outbox, 2);
        assert_eq!(lost, [attempt(0)]);
        assert!(!workers.holds(attempt(0)));
    }

    #[test]
    fn a_slot_is_taken_from_the_decision_to_the_end_of_the_slice() {
        let workers = Workers::default();
        let (outbox, _inbox) = mpsc::channel(1);
        let (id, running) = (WorkerId("a".into()), || workers.views()[0].running);
        workers.register(info("a", "x"), outbox, 0);
        workers.promise(&id, attempt(0).slice);
        workers.promise(&id, attempt(1).slice);
        assert_eq!(running(), 2);
        workers.assigned(&id, attempt(0), 0);
        assert_eq!(running(), 2);
        workers.withdraw(&id, attempt(0).slice);
        workers.withdraw(&id, attempt(1).slice);
        assert_eq!(running(), 1);
        workers.ended(attempt(0));
        assert_eq!(running(), 0);
    }

    #[test]
    fn a_worker_counts_and_helps_in_its_own_group_only() {
        let workers = Workers::default();
        let (outbox, _inbox) = mpsc::channel(1);
        let etl = WorkerGroup::parse("etl").unwrap();
        let in_group = |id: &str, process: &str, group: &WorkerGroup| {
            let address = format!("http://{id}");
            WorkerInfo { group: group.clone(), flight_address: address, ..info(id, process) }
        };
        for (id, group) in [("a", WorkerGroup::default()), ("b", etl.clone()), ("c", etl.clone())] {
            workers.register(in_group(id, "x", &group), outbox.clone(), 0);
        }
        assert_eq!(workers.fleet(&etl), Fleet { workers: 2, slots: 4 });
        assert_eq!(workers.fleet(&WorkerGroup::default()), Fleet { workers: 1, slots: 2 });
        assert_eq!(workers.fleet(&WorkerGroup::parse("ml").unwrap()), Fleet::default());
        assert_eq!(workers.others(&WorkerId("b".into())), ["http://c"]);
        assert!(workers.others(&WorkerId("a".into())).is_empty());
        let b = WorkerId("b".into());
        assert_eq!(workers.incarnation(&b, &etl).as_deref(), Some("x"));
        workers.register(in_group("b", "y", &WorkerGroup::default()), outbox, 0);
        assert_eq!(workers.incarnation(&b, &etl), None);
        assert_eq!(workers.fleet(&etl).workers, 1);
    }

    #[test]
    fn an_old_session_says_nothing_anymore() {
        let workers = Workers::default();
        let (outbox, _inbox) = mpsc::channel(1);
        let (old, _) = workers.register(info("a", "x"), outbox.clone(), 0);
        workers.register(info("a", "x"), outbox, 0);
        assert!(workers.statuses()[0].connected);
        workers.heard(&WorkerId("a".into()), old, 100);
        workers.uses_memory(&WorkerId("a".into()), old, 100);
        let statuses = workers.statuses();
        assert_eq!((statuses[0].last_heartbeat_ms, statuses[0].memory_used), (0, 0));
    }
}
