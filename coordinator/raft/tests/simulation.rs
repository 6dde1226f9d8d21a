//! A deterministic simulation: real nodes, logs and states in memory, one seeded source of chance.
//!
//! Events: messages are delayed, reordered, lost and doubled; links are cut and mended; nodes crash,
//! with or without what their state store had not synced, and open again; disks fail; snapshots arrive
//! or do not; clocks run unevenly; clients propose and read anywhere.
//! Checked: one leader a term; the same state at the same index everywhere; what was answered is applied
//! exactly once, what is unknown at most once, what was refused never; a linearizable read sees
//! everything answered before it was asked; after all is mended the members agree; the same seed gives
//! the same run.
//! Gaps: membership does not change; the log never loses an unsynced write.
//!
//! `STEVEDORE_SEEDS=1000` runs more seeds, `STEVEDORE_SEED=7` one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use stevedore_common::ids::NodeId;
use stevedore_raft::log_store::MemoryLogStore;
use stevedore_raft::{
    NodeConfig, NodeCore, ProposeError, Proposed, Role, SnapshotFolder, SnapshotPieces, Start, StateStore,
    Stores, Transport,
};
use stevedore_state::view::ReadView;
use support::{Counting, count_of};
use tokio::sync::oneshot::{self, error::TryRecvError};

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

#[derive(Clone)]
enum Parcel {
    Message(Bytes),
    Snapshot(Bytes, PathBuf),
}

struct Outbox {
    from: u64,
    parcels: Arc<Mutex<Vec<(u64, u64, Parcel)>>>,
}

impl Transport for Outbox {
    fn send(&self, to: NodeId, messages: Vec<Bytes>) {
        let mut parcels = self.parcels.lock();
        parcels.extend(messages.into_iter().map(|m| (self.from, to.0, Parcel::Message(m))));
    }

    fn send_snapshot(&self, to: NodeId, message: Bytes, file: PathBuf) {
        self.parcels.lock().push((self.from, to.0, Parcel::Snapshot(message, file)));
    }
}

struct Machine {
    node: Option<NodeCore<Counting>>,
    log: MemoryLogStore,
    state: StateStore,
    starts: u64,
    /// The applied index whose state was compared last.
    checked: u64,
}

struct Read {
    node: u64,
    answered_before: Vec<String>,
    answer: oneshot::Receiver<stevedore_common::Result<u64>>,
}

struct Simulation {
    seed: u64,
    chance: Chance,
    now: u64,
    machines: BTreeMap<u64, Machine>,
    outbox: Arc<Mutex<Vec<(u64, u64, Parcel)>>>,
    /// By the time of arrival and a sequence.
    wire: BTreeMap<(u64, u64), (u64, u64, Parcel)>,
    sent: u64,
    cut: BTreeSet<(u64, u64)>,
    proposals: Vec<(String, oneshot::Receiver<Result<Proposed, ProposeError>>)>,
    proposed: u64,
    answered: BTreeSet<String>,
    unknown: BTreeSet<String>,
    refused: BTreeSet<String>,
    reads: Vec<Read>,
    reads_checked: u64,
    snapshots: u64,
    crashes: u64,
    leaders: BTreeMap<u64, u64>,
    states: BTreeMap<u64, u64>,
    trace: DefaultHasher,
}

fn digest(view: &impl ReadView) -> u64 {
    let mut hasher = DefaultHasher::new();
    view.scan(b"", None, usize::MAX).unwrap().hash(&mut hasher);
    hasher.finish()
}

impl Simulation {
    fn new(seed: u64, size: u64) -> Self {
        let mut simulation = Self {
            seed,
            chance: Chance(seed),
            now: 0,
            machines: BTreeMap::new(),
            outbox: Arc::default(),
            wire: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            proposals: Vec::new(),
            proposed: 0,
            answered: BTreeSet::new(),
            unknown: BTreeSet::new(),
            refused: BTreeSet::new(),
            reads: Vec::new(),
            reads_checked: 0,
            snapshots: 0,
            crashes: 0,
            leaders: BTreeMap::new(),
            states: BTreeMap::new(),
            trace: DefaultHasher::new(),
        };
        for id in 1..=size {
            let state = StateStore::memory();
            state.track_syncs();
            let machine = Machine { node: None, log: MemoryLogStore::new(), state, starts: 0, checked: 0 };
            simulation.machines.insert(id, machine);
        }
        for id in 1..=size {
            simulation.launch(id, Start::Bootstrap);
        }
        simulation
    }

    fn launch(&mut self, id: u64, start: Start) {
        let voters = self.machines.keys().copied().map(NodeId).collect();
        let machine = self.machines.get_mut(&id).unwrap();
        machine.log.fail_writes(None);
        machine.starts += 1;
        let config = NodeConfig {
            compact_after_entries: 30,
            log_tail_entries: 10,
            read_timeout_ticks: 30,
            seed: Some(self.seed.rotate_left(17) ^ machine.starts << 8),
            ..NodeConfig::new(NodeId(id), "simulated", voters)
        };
        let stores = Stores {
            log: Box::new(machine.log.clone()),
            state: machine.state.clone(),
            snapshots: SnapshotFolder::temporary().unwrap(),
        };
        let outbox = Arc::new(Outbox { from: id, parcels: Arc::clone(&self.outbox) });
        machine.node = Some(NodeCore::open(config, start, stores, Counting, outbox).unwrap());
    }

    fn crash(&mut self, id: u64, lose_unsynced: bool) {
        let machine = self.machines.get_mut(&id).unwrap();
        if machine.node.take().is_some() {
            machine.state = machine.state.reopen_memory(lose_unsynced).unwrap();
            machine.log.fail_writes(None);
            self.crashes += 1;
        }
    }

    /// Runs one node after its inputs; a node that fails is gone.
    fn run(&mut self, id: u64, input: impl FnOnce(&mut NodeCore<Counting>) -> stevedore_common::Result<()>) {
        let machine = self.machines.get_mut(&id).unwrap();
        let Some(node) = &mut machine.node else { return };
        let outcome = input(node).and_then(|()| node.cycle()).and_then(|()| match node.take_snapshot_job() {
            Some(job) => node.snapshot_made(job.run()),
            None => Ok(()),
        });
        if let Err(error) = outcome {
            assert!(error.to_string().contains("simulated"), "seed {}: node {id} failed: {error}", self.seed);
            return self.crash(id, true);
        }
        let status = node.status().borrow().clone();
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            assert_eq!(leader, id, "seed {}: two leaders in term {}", self.seed, status.term);
        }
        if status.applied != machine.checked {
            machine.checked = status.applied;
            let digest = digest(&node.state().view());
            let agreed = *self.states.entry(status.applied).or_insert(digest);
            assert_eq!(
                agreed, digest,
                "seed {}: node {id} differs at log entry {}",
                self.seed, status.applied
            );
            digest.hash(&mut self.trace);
        }
        (self.now, id, status.term, status.commit, status.applied).hash(&mut self.trace);
    }

    fn post(&mut self, calm: bool) {
        let parcels = std::mem::take(&mut *self.outbox.lock());
        for (from, to, parcel) in parcels {
            if !calm && self.chance.one_in(20) {
                self.lost(from, to, &parcel);
                continue;
            }
            let doubled = !calm && matches!(parcel, Parcel::Message(_)) && self.chance.one_in(30);
            for _ in 0..=u8::from(doubled) {
                let delay = if calm { 1 } else { 1 + self.chance.below(12) };
                self.sent += 1;
                self.wire.insert((self.now + delay, self.sent), (from, to, parcel.clone()));
            }
        }
    }

    fn lost(&mut self, from: u64, to: u64, parcel: &Parcel) {
        let snapshot = matches!(parcel, Parcel::Snapshot(..));
        self.run(from, |node| {
            if snapshot {
                node.report_snapshot(NodeId(to), false);
            } else {
                node.report_unreachable(NodeId(to));
            }
            Ok(())
        });
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, parcel) = entry.remove();
            if self.cut.contains(&(from, to)) || self.machines[&to].node.is_none() {
                self.lost(from, to, &parcel);
                continue;
            }
            match parcel {
                Parcel::Message(message) => self.run(to, |node| node.step_bytes(&[message])),
                Parcel::Snapshot(message, file) => {
                    // The sender may have crashed, and its folder gone with it.
                    let delivered = match SnapshotPieces::open(&file) {
                        Ok(pieces) => {
                            self.run(to, |node| node.receive_snapshot(&message, pieces));
                            true
                        }
                        Err(_) => false,
                    };
                    self.snapshots += u64::from(delivered);
                    self.run(from, |node| {
                        node.report_snapshot(NodeId(to), delivered);
                        Ok(())
                    });
                }
            }
        }
    }

    fn collect(&mut self) {
        for (command, mut answer) in std::mem::take(&mut self.proposals) {
            match answer.try_recv() {
                Err(TryRecvError::Empty) => self.proposals.push((command, answer)),
                Ok(Ok(proposed)) => {
                    assert_eq!(proposed.result, "1", "seed {}: {command} was applied before", self.seed);
                    self.answered.insert(command);
                }
                Ok(Err(error)) if error.is_certainly_without_effect() => drop(self.refused.insert(command)),
                Ok(Err(_)) | Err(TryRecvError::Closed) => drop(self.unknown.insert(command)),
            }
        }
        for mut read in std::mem::take(&mut self.reads) {
            match read.answer.try_recv() {
                Err(TryRecvError::Empty) => self.reads.push(read),
                Ok(Ok(_)) => {
                    let Some(node) = &self.machines[&read.node].node else { continue };
                    let view = node.state().view();
                    for command in &read.answered_before {
                        let count = count_of(&view, command.as_bytes());
                        assert_eq!(count, 1, "seed {}: a read missed {command}", self.seed);
                    }
                    self.reads_checked += 1;
                }
                _ => {}
            }
        }
    }

    fn some_node(&mut self) -> u64 {
        1 + self.chance.below(self.machines.len() as u64)
    }

    fn act(&mut self) {
        for id in 1..=self.machines.len() as u64 {
            if self.chance.one_in(3) {
                self.run(id, NodeCore::tick);
            }
        }
        if self.chance.one_in(3) {
            let id = self.some_node();
            self.proposed += 1;
            let command = format!("c{}", self.proposed);
            let mut answer = None;
            let text = Bytes::from(command.clone());
            self.run(id, |node| {
                answer = Some(node.submit(text));
                Ok(())
            });
            self.proposals.extend(answer.map(|answer| (command, answer)));
        }
        if self.chance.one_in(20) {
            let id = self.some_node();
            let mut answer = None;
            let answered_before = self.answered.iter().cloned().collect();
            self.run(id, |node| {
                answer = Some(node.ask());
                Ok(())
            });
            self.reads.extend(answer.map(|answer| Read { node: id, answered_before, answer }));
        }
        if self.chance.one_in(150) {
            let (a, b) = (self.some_node(), self.some_node());
            self.cut.extend([(a, b), (b, a)]);
            if self.chance.one_in(2) {
                // Alone.
                for other in 1..=self.machines.len() as u64 {
                    self.cut.extend([(a, other), (other, a)]);
                }
            }
        }
        if self.chance.one_in(100) {
            self.cut.clear();
        }
        if self.chance.one_in(250) {
            let id = self.some_node();
            let lose_unsynced = self.chance.one_in(2);
            self.crash(id, lose_unsynced);
        }
        if self.chance.one_in(500) {
            let id = self.some_node();
            self.machines[&id].log.fail_writes(Some("simulated"));
        }
        if self.chance.one_in(400) {
            let id = self.some_node();
            // A follower refuses.
            self.run(id, |node| {
                drop(node.transfer_leadership(None));
                Ok(())
            });
        }
        if self.chance.one_in(60) {
            let id = self.some_node();
            if self.machines[&id].node.is_none() {
                self.launch(id, Start::Open);
            }
        }
    }

    fn step(&mut self, calm: bool) {
        self.now += 1;
        self.deliver();
        if calm {
            for id in 1..=self.machines.len() as u64 {
                self.run(id, NodeCore::tick);
            }
        } else {
            self.act();
        }
        self.post(calm);
        self.collect();
    }

    fn finish(&mut self) {
        self.cut.clear();
        self.machines.values().for_each(|machine| machine.log.fail_writes(None));
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        for id in &ids {
            if self.machines[id].node.is_none() {
                self.launch(*id, Start::Open);
            }
        }
        for _ in 0..3_000 {
            self.step(true);
            let statuses: Vec<_> =
                self.machines.values().map(|m| m.node.as_ref().unwrap().status().borrow().clone()).collect();
            let agreed = statuses.iter().all(|s| s.applied == statuses[0].applied && s.leader.is_some());
            let led = statuses.iter().any(|s| s.leads_with_current_state && s.applied == s.last_index);
            if agreed && led && self.proposals.is_empty() && self.wire.is_empty() {
                break;
            }
        }
        let views: Vec<_> = self.machines.values().map(|m| m.node.as_ref().unwrap().state().view()).collect();
        let seed = self.seed;
        for view in &views {
            assert_eq!(view.applied(), views[0].applied(), "seed {seed}: the members never agreed");
            assert_eq!(digest(view), digest(&views[0]), "seed {seed}");
        }
        assert!(self.proposals.is_empty(), "seed {seed}: a proposal was never answered");
        let count = |command: &String| count_of(&views[0], command.as_bytes());
        for command in &self.answered {
            assert_eq!(count(command), 1, "seed {seed}: {command} was answered");
        }
        for command in &self.unknown {
            assert!(count(command) <= 1, "seed {seed}: {command} was applied twice");
        }
        for command in &self.refused {
            assert_eq!(count(command), 0, "seed {seed}: {command} was refused");
        }
    }
}

fn simulate(seed: u64, size: u64, steps: u64) -> Simulation {
    let mut simulation = Simulation::new(seed, size);
    for _ in 0..steps {
        simulation.step(false);
    }
    simulation.finish();
    simulation
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn a_cluster_keeps_its_promises_whatever_happens() {
    let seeds: Vec<u64> = match number("STEVEDORE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("STEVEDORE_SEEDS").unwrap_or(12)).collect(),
    };
    let (mut answered, mut unknown, mut reads, mut snapshots, mut crashes) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let done = simulate(seed, if seed % 4 == 0 { 5 } else { 3 }, 4_000);
        answered += done.answered.len();
        unknown += done.unknown.len();
        reads += done.reads_checked;
        snapshots += done.snapshots;
        crashes += done.crashes;
    }
    println!(
        "{answered} answered, {unknown} unknown, {reads} reads, {snapshots} snapshots, {crashes} crashes"
    );
    assert!(answered > 0 && unknown > 0 && reads > 0 && snapshots > 0 && crashes > 0, "nothing was tested");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| simulate(seed, 3, 1_500).trace.finish();
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
