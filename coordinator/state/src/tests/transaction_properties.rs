//! Random transactions beside each other, beside statements of their own and beside TRUNCATE. Whatever the order,
//! each has happened as a whole or not at all.

use proptest::prelude::*;
use stevedore_common::ids::TransactionId;

use super::properties::{config, replay};
use super::transactions::txn_id;
use super::*;
use crate::transactions::{TableChangeShape, TransactionCommand, TransactionPhase};

const TRANSACTIONS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Begin { of: u8 },
    Statement { of: u8, table: u8, rewrites: bool },
    Commit { of: u8, stale: bool },
    RollBack { of: u8 },
    Fail { of: u8 },
    Cancel { of: u8 },
    Alone { table: u8 },
    Truncate { table: u8 },
    Retry { back: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = || 0..TRANSACTIONS;
    let step = prop_oneof![
        6 => of().prop_map(|of| Step::Begin { of }),
        16 => (of(), 0u8..2, prop::bool::weighted(0.3))
            .prop_map(|(of, table, rewrites)| Step::Statement { of, table, rewrites }),
        8 => (of(), prop::bool::weighted(0.2)).prop_map(|(of, stale)| Step::Commit { of, stale }),
        1 => of().prop_map(|of| Step::RollBack { of }),
        1 => of().prop_map(|of| Step::Fail { of }),
        1 => of().prop_map(|of| Step::Cancel { of }),
        2 => (0u8..2).prop_map(|table| Step::Alone { table }),
        1 => (0u8..2).prop_map(|table| Step::Truncate { table }),
        3 => (0u8..30).prop_map(|back| Step::Retry { back }),
    ];
    prop::collection::vec(step, 1..120)
}

struct Run {
    world: World,
    tables: Vec<TableId>,
    /// How many transactions each slot has had.
    generations: [u128; TRANSACTIONS as usize],
    jobs: u128,
    /// The jobs of each transaction whose statements were answered.
    answered: BTreeMap<TransactionId, Vec<JobId>>,
    rows: BTreeMap<TableId, u64>,
    /// What each transaction saw of each table at first, and has added.
    seen: BTreeMap<(TransactionId, TableId), u64>,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let tables = vec![world.table("t"), world.table("uu")];
        Self {
            world,
            tables,
            generations: [0; TRANSACTIONS as usize],
            jobs: 0,
            answered: BTreeMap::new(),
            rows: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn id(&self, of: u8) -> TransactionId {
        txn_id(u128::from(of) + 100 * self.generations[usize::from(of)])
    }

    fn is_open(&self, id: TransactionId) -> bool {
        read::transaction(&self.world.state, id).unwrap().is_some_and(|r| r.phase == TransactionPhase::Open)
    }

    fn run_transaction(&mut self, command: TransactionCommand) -> Option<TransactionOutcome> {
        match self.world.run(Command::Transaction(command)) {
            CommandResult::Transaction(outcome) => Some(outcome),
            _ => None,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Begin { of } => {
                if !self.is_open(self.id(of)) {
                    self.generations[usize::from(of)] += 1;
                }
                let id = self.id(of);
                let began = !self.is_open(id);
                self.world.begin(u128::from(of) + 100 * self.generations[usize::from(of)], None);
                for table in self.tables.clone().into_iter().filter(|_| began) {
                    self.seen.insert((id, table), self.world.rows(table));
                }
            }
            Step::Statement { of, table, rewrites } => {
                let (id, table) = (self.id(of), self.tables[usize::from(table)]);
                if !self.is_open(id) {
                    return;
                }
                self.jobs += 1;
                let name = format!("f{}", self.jobs % 7);
                let mut spec = copy_spec(table);
                spec.epoch = self.world.seen(id, table).epoch;
                spec.transaction = Some(id);
                let job = job_id(self.jobs);
                if matches!(self.world.run(Command::CreateJob { job, spec }), CommandResult::Refused(_)) {
                    return;
                }
                self.world.claim(job, &[&name]);
                self.world.plan(job, 1);
                if self.world.job(job).phase.is_ended() {
                    // Others hold its only file, or have loaded it: there is nothing to commit.
                    return;
                }
                self.world.accept_all(job);
                self.world.ok(Command::BeginCommit { job });
                let shape = if rewrites { TableChangeShape::Rewritten } else { TableChangeShape::Appended };
                self.world.prepare(id, job, shape);
                self.answered.entry(id).or_default().push(job);
                *self.seen.entry((id, table)).or_default() += self.world.job(job).rows;
            }
            Step::Commit { of, stale } => self.commit(self.id(of), stale),
            Step::RollBack { of } => {
                self.run_transaction(TransactionCommand::RollBack { id: self.id(of) });
            }
            Step::Fail { of } => {
                let (id, error) = (self.id(of), Error::cancelled("a statement failed"));
                self.run_transaction(TransactionCommand::Fail { id, error, told: true, idle_since_ms: None });
            }
            Step::Cancel { of } => {
                if let Some(job) = self.answered.get(&self.id(of)).and_then(|jobs| jobs.last()).copied() {
                    self.world.end(job, JobEnding::Cancelled);
                }
            }
            Step::Alone { table } => {
                let table = self.tables[usize::from(table)];
                self.jobs += 1;
                let job = self.world.copy(self.jobs, table);
                self.world.claim(job, &[&format!("f{}", self.jobs % 7)]);
                self.world.plan(job, 1);
                if self.world.job(job).phase.is_ended() {
                    return;
                }
                self.world.accept_all(job);
                self.world.commit(job);
                *self.rows.entry(table).or_default() += self.world.job(job).rows;
            }
            Step::Truncate { table } => {
                let table = self.tables[usize::from(table)];
                self.world.truncate(table);
                self.rows.insert(table, 0);
            }
            Step::Retry { back } => {
                let log = &self.world.log;
                let Some(at) = log.len().checked_sub(1 + usize::from(back)) else { return };
                let envelope = log[at].clone();
                self.world.state.apply(&envelope).unwrap();
                self.world.log.push(envelope);
            }
        }
    }

    /// Commits as whoever looks at the tables as they are would, or with what was right before.
    fn commit(&mut self, id: TransactionId, stale: bool) {
        if !self.is_open(id) {
            return;
        }
        let TransactionCommand::Commit { mut tables, .. } = self.world.commit_of(id) else { return };
        for target in &mut tables {
            let own = read::transaction_tables(&self.world.state, id).unwrap();
            let own = own.into_iter().find(|own| own.table == target.table).unwrap();
            let added: u64 = self.answered[&id]
                .iter()
                .filter(|job| self.world.job(**job).table == Some(target.table))
                .map(|job| self.world.job(*job).rows)
                .sum();
            target.contents.num_rows = self.world.rows(target.table) + added;
            if stale {
                target.expected_location = own.base_location;
            }
        }
        let answered = self.answered.get(&id).cloned().unwrap_or_default();
        match self.run_transaction(TransactionCommand::Commit { id, tables }) {
            Some(TransactionOutcome::Committed) => {
                for job in answered {
                    let job = self.world.job(job);
                    assert!(job.phase.is_committed());
                    *self.rows.entry(job.table.unwrap()).or_default() += job.rows;
                }
            }
            Some(TransactionOutcome::Moved { .. }) => assert!(stale),
            Some(TransactionOutcome::RolledBack(_)) => assert!(!self.is_open(id)),
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) {
        for table in &self.tables {
            assert_eq!(self.world.rows(*table), self.rows.get(table).copied().unwrap_or(0));
        }
        for (id, jobs) in &self.answered {
            let record = self.world.transaction(*id);
            for job in jobs {
                let phase = self.world.job(*job).phase;
                match record.phase {
                    TransactionPhase::Open => assert_eq!(phase, JobPhase::Committing),
                    TransactionPhase::Committed => assert!(phase.is_committed()),
                    _ => assert!(matches!(phase, JobPhase::Aborted | JobPhase::Cancelled)),
                }
            }
        }
        for ((id, table), rows) in self.seen.iter().filter(|((id, _), _)| self.is_open(*id)) {
            assert_eq!(self.world.seen(*id, *table).num_rows, *rows, "transaction {id} sees its own time");
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn in_any_order_a_transaction_happens_as_a_whole_and_the_same_log_makes_the_same_bytes(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        let mut replayed = MemoryState::default();
        replay(&mut replayed, &run.world.log);
        prop_assert!(replayed.pairs().eq(run.world.state.pairs()));
    }
}
