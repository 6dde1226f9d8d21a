//! Random logs over a few tables, files, jobs and workers. Whatever the order, the rules hold.

use proptest::prelude::*;
use stevedore_common::types::SqlType;

use super::*;

const TABLES: [&str; 2] = ["t", "uu"];
const JOBS: u8 = 4;

/// A step that is made into a command by what the state is then, so that most do something.
#[derive(Debug, Clone)]
enum Step {
    Copy { job: u8, table: u8, force: bool, purge: bool, max_files: Option<u32> },
    Claim { job: u8, files: Vec<(u8, u8)> },
    Advance { job: u8, left_out: bool },
    Plan { job: u8, per_slice: u8 },
    Lease { job: u8, slice: u8, worker: u8, steal: bool },
    Release { job: u8, slice: u8, attempt: u8 },
    Report { job: u8, slice: u8, attempt: u8, left_out: bool },
    Fail { job: u8, slice: u8, permanent: bool },
    Commit { job: u8, stale: bool },
    Purge { job: u8 },
    EndPurge { job: u8 },
    End { job: u8, cancel: bool },
    Reserve { job: u8, columns: Vec<(u8, bool)> },
    AddColumn { table: u8, stale: bool },
    Truncate { table: u8 },
    Drop { table: u8 },
    Undrop { table: u8 },
    Settle { job: u8 },
    Sweep { table: u8 },
    Trim { age: u8 },
    Retry { back: u8 },
}

fn max_files() -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.2, 1u32..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let job = || 0u8..JOBS;
    let copy = (job(), 0u8..4, prop::bool::weighted(0.15), prop::bool::weighted(0.3), max_files());
    let step = prop_oneof![
        16 => copy.prop_map(|(job, table, force, purge, max_files)| {
            Step::Copy { job, table: table / 3, force, purge, max_files }
        }),
        16 => (job(), prop::collection::vec((0u8..6, 0u8..2), 1..5))
            .prop_map(|(job, files)| Step::Claim { job, files }),
        // Towards the commit, so that most jobs get there unless something comes between.
        140 => (job(), prop::bool::weighted(0.15)).prop_map(|(job, left_out)| Step::Advance { job, left_out }),
        2 => (job(), 1u8..3).prop_map(|(job, per_slice)| Step::Plan { job, per_slice }),
        6 => (job(), 0u8..4, 0u8..2, any::<bool>())
            .prop_map(|(job, slice, worker, steal)| Step::Lease { job, slice, worker, steal }),
        2 => (job(), 0u8..4, 1u8..3).prop_map(|(job, slice, attempt)| Step::Release { job, slice, attempt }),
        6 => (job(), 0u8..4, 0u8..3, prop::bool::weighted(0.15))
            .prop_map(|(job, slice, attempt, left_out)| Step::Report { job, slice, attempt, left_out }),
        2 => (job(), 0u8..4, prop::bool::weighted(0.1))
            .prop_map(|(job, slice, permanent)| Step::Fail { job, slice, permanent }),
        2 => (job(), any::<bool>()).prop_map(|(job, stale)| Step::Commit { job, stale }),
        4 => job().prop_map(|job| Step::Purge { job }),
        1 => job().prop_map(|job| Step::EndPurge { job }),
        1 => (job(), any::<bool>()).prop_map(|(job, cancel)| Step::End { job, cancel }),
        8 => (job(), prop::collection::vec((0u8..3, any::<bool>()), 0..3))
            .prop_map(|(job, columns)| Step::Reserve { job, columns }),
        2 => (0u8..2, prop::bool::weighted(0.3))
            .prop_map(|(table, stale)| Step::AddColumn { table, stale }),
        1 => (0u8..2).prop_map(|table| Step::Truncate { table }),
        1 => (0u8..2).prop_map(|table| Step::Drop { table }),
        4 => (0u8..2).prop_map(|table| Step::Undrop { table }),
        6 => job().prop_map(|job| Step::Settle { job }),
        2 => (0u8..2).prop_map(|table| Step::Sweep { table }),
        2 => (0u8..50).prop_map(|age| Step::Trim { age }),
        4 => (0u8..20).prop_map(|back| Step::Retry { back }),
    ];
    prop::collection::vec(step, 1..400)
}

/// The job, whether it was forced, and the version it read.
type Load = (JobId, bool, FileVersion);

/// What a user who watches the commits knows.
#[derive(Default)]
struct Oracle {
    /// Loads whose path has not been purged since, by table, ledger generation and path.
    loads: BTreeMap<(TableId, u64, String), Vec<Load>>,
    rows: BTreeMap<TableId, u64>,
    /// What each field id was handed out for, by its name and type.
    field_ids: BTreeMap<(TableId, i32), String>,
}

/// The last field id in the metadata of the tables.
const LAST_COLUMN: i32 = 2;

struct Run {
    world: World,
    tables: Vec<TableId>,
    /// The generation of jobs: a number that was trimmed or ended is used again for a new job.
    ids: [u128; JOBS as usize],
    oracle: Oracle,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let tables = TABLES.map(|name| world.table(name)).into();
        Self { world, tables, ids: [0; JOBS as usize], oracle: Oracle::default() }
    }

    fn id(&self, job: u8) -> JobId {
        job_id(u128::from(job) + 1000 * self.ids[usize::from(job)])
    }

    fn found(&self, job: u8) -> Option<Job> {
        read::job(&self.world.state, self.id(job)).unwrap()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Copy { job, table, force, purge, max_files } => {
                if self.found(job).is_none_or(|job| job.phase.is_ended()) {
                    self.ids[usize::from(job)] += 1;
                }
                let table = self.tables[usize::from(table)];
                let record = read::table_by_id(&self.world.state, table).unwrap().unwrap();
                let mut spec = copy_spec(table);
                spec.epoch = record.epoch;
                (spec.force, spec.purge, spec.max_files) = (force, purge, max_files);
                spec.on_error = OnError { mode: ErrorMode::Continue, limit: 0 };
                self.world.run(Command::CreateJob { job: self.id(job), spec });
            }
            Step::Claim { job, ref files } => {
                let Some(record) = self.found(job) else { return };
                let files =
                    files.iter().map(|(name, content)| listed(&name.to_string(), u64::from(*content)));
                let chunk = record.chunks;
                self.world.run(Command::ClaimFiles { job: record.id, chunk, files: files.collect() });
            }
            Step::Advance { job, left_out } => self.advance(job, left_out),
            Step::Plan { job, per_slice } => {
                let Some(record) = self.found(job) else { return };
                let files: Vec<SliceFile> =
                    (record.planned_files..record.files).map(|n| SliceFile::whole(FileIndex(n))).collect();
                let slices = files
                    .chunks(usize::from(per_slice))
                    .map(|files| NewSlice { files: files.to_vec(), bytes: 1 })
                    .collect();
                let first = SliceIndex(record.slices);
                self.world.run(Command::PlanSlices { job: record.id, first, slices });
                let Job { files, slices, .. } = self.world.job(record.id);
                self.world.run(Command::SealJob { job: record.id, files, slices });
            }
            Step::Lease { job, slice, worker, steal } => {
                self.world.run(lease(self.id(job), u32::from(slice), &format!("w{worker}"), steal));
            }
            Step::Release { job, slice, attempt } => {
                let attempt = attempt_key(self.id(job), u32::from(slice), u32::from(attempt));
                self.world.run(Command::ReleaseSlice { attempt, reason: "lost".into(), failure: true });
            }
            Step::Report { job, slice, attempt, left_out } => self.report(job, slice, attempt, left_out),
            Step::Fail { job, slice, permanent } => {
                let index = SliceIndex(u32::from(slice));
                let Some(current) = read::slice(&self.world.state, self.id(job), index).unwrap() else {
                    return;
                };
                let attempt = attempt_key(self.id(job), u32::from(slice), current.attempt.0);
                let error = Error::storage("failed");
                self.world.run(Command::FailSlice { attempt, error, permanent, file: None });
            }
            Step::Commit { job, stale } => self.commit(job, stale),
            Step::Purge { job } => self.purge(job),
            Step::EndPurge { job } => drop(self.world.run(Command::EndPurge { job: self.id(job) })),
            Step::End { job, cancel } => {
                let end =
                    if cancel { JobEnding::Cancelled } else { JobEnding::Aborted(Error::internal("x")) };
                self.world.run(Command::EndJob { job: self.id(job), end });
            }
            Step::Reserve { job, ref columns } => self.reserve(job, columns),
            Step::AddColumn { table, stale } => {
                let id = self.tables[usize::from(table)];
                let record = read::table_by_id(&self.world.state, id).unwrap().unwrap();
                let after = if stale { LAST_COLUMN } else { record.last_field_id.max(LAST_COLUMN) };
                let suffix = format!("a{}", self.world.log.len());
                let change = TableChange {
                    new_field_ids: Some(FieldIds { after, last: after + 1 }),
                    contents: TableContents {
                        snapshot_id: record.snapshot_id,
                        num_rows: record.num_rows,
                        data_size: record.data_size,
                    },
                    ..table_change(&record, &suffix, TableChangeKind::Alter { comment: None })
                };
                let result = self.world.run(Command::CommitTable(change));
                if let CommandResult::TableCommit(TableCommitOutcome::Committed { .. }) = result {
                    self.handed_out(id, after + 1, suffix);
                }
            }
            Step::Truncate { table } => {
                let id = self.tables[usize::from(table)];
                let record = read::table_by_id(&self.world.state, id).unwrap().unwrap();
                let suffix = format!("t{}", self.world.log.len());
                let change = table_change(&record, &suffix, TableChangeKind::Truncate);
                if let CommandResult::TableCommit(_) = self.world.run(Command::CommitTable(change)) {
                    self.oracle.rows.insert(id, 0);
                }
            }
            Step::Drop { table } => {
                let name = TABLES[usize::from(table)].into();
                self.world.run(Command::DropTable { database: "default".into(), name, if_exists: true });
            }
            Step::Undrop { table } => {
                let name = TABLES[usize::from(table)].into();
                self.world.run(Command::UndropTable { database: "default".into(), name });
            }
            Step::Settle { job } => {
                drop(self.world.run(Command::SettleLedger { job: self.id(job), limit: 2 }))
            }
            Step::Sweep { table } => {
                let table = self.tables[usize::from(table)];
                self.world.run(Command::SweepLedger { table, limit: 2 });
            }
            Step::Trim { age } => {
                let before_ms = self.world.now_ms - i64::from(age);
                self.world.run(Command::TrimJobs { before_ms, limit: 15 });
            }
            Step::Retry { back } => {
                let Some(at) = self.world.log.len().checked_sub(usize::from(back) + 1) else { return };
                let retried = self.world.log[at].clone();
                let before = self.world.state.clone();
                let (result, events) = self.world.state.apply(&retried).unwrap();
                assert!(
                    !matches!(&result, CommandResult::Refused(e) if e.kind() == ErrorKind::OutcomeUnknown)
                );
                assert!(events.is_empty());
                assert!(
                    before.pairs().eq(self.world.state.pairs()),
                    "a retry of {retried:?} changed something"
                );
                self.world.log.push(retried);
            }
        }
    }

    fn reserve(&mut self, job: u8, columns: &[(u8, bool)]) {
        let Some(record) = self.found(job) else { return };
        let column = |(name, is_text): &(u8, bool)| WantedColumn {
            name: format!("c{name}"),
            ty: if *is_text { SqlType::String } else { SqlType::Array(Box::new(SqlType::Int32)) },
            exists: false,
        };
        let columns = columns.iter().map(column).collect();
        let command =
            Command::ReserveColumns { job: record.id, schema_id: 0, last_column_id: LAST_COLUMN, columns };
        if let CommandResult::Columns(ColumnsOutcome::Reserved(reserved)) = self.world.run(command) {
            for column in reserved.columns {
                self.handed_out(record.table.unwrap(), column.id, format!("{} {}", column.name, column.ty));
            }
        }
    }

    fn handed_out(&mut self, table: TableId, id: i32, to: String) {
        assert!(id > LAST_COLUMN);
        let known = self.oracle.field_ids.entry((table, id)).or_insert_with(|| to.clone());
        assert_eq!(*known, to, "field id {id} of table {table}");
    }

    /// Does what the job waits for.
    fn advance(&mut self, job: u8, left_out: bool) {
        let Some(record) = self.found(job) else { return };
        match record.phase {
            JobPhase::Running if record.reopening.is_some() => {
                self.world.run(Command::ReopenSlices { job: record.id, limit: 1 });
            }
            JobPhase::Claiming if record.chunks > 0 => self.step(&Step::Plan { job, per_slice: 2 }),
            JobPhase::Running => {
                let pending = read::pending_slices(&self.world.state, record.id, None, 1).unwrap();
                let leased = read::leased_slices(&self.world.state, record.id, None, 1).unwrap();
                if let Some((slice, _)) = leased.first() {
                    self.report(job, u8::try_from(slice.0).unwrap(), 0, left_out);
                } else if let Some(slice) = pending.first() {
                    self.world.run(lease(record.id, slice.0, "w0", false));
                } else {
                    self.commit(job, false);
                }
            }
            JobPhase::Committing => self.commit(job, false),
            JobPhase::Purging => {
                let purged = self.world.log.len();
                self.purge(job);
                if purged == self.world.log.len() {
                    self.world.run(Command::EndPurge { job: record.id });
                }
            }
            _ => {}
        }
    }

    fn report(&mut self, job: u8, slice: u8, attempt: u8, left_out: bool) {
        let (id, index) = (self.id(job), u32::from(slice));
        if self.found(job).is_none() {
            return;
        }
        let Some(current) = read::slice(&self.world.state, id, SliceIndex(index)).unwrap() else { return };
        // 0: the current attempt; else the number of some attempt, perhaps a zombie's.
        let number = if attempt == 0 { current.attempt.0 } else { u32::from(attempt) };
        let key = attempt_key(id, index, number);
        let files = read::slice_files(&self.world.state, key.slice).unwrap();
        let reports = files
            .iter()
            .enumerate()
            .map(|(n, file)| {
                let mut one = loaded(file.file.0, file.part, 2);
                if left_out && n == 0 {
                    one.outcome = FileOutcome::LeftOut;
                    one.rows = 0;
                    one = with_errors(one, 1, 1);
                }
                one
            })
            .collect();
        let result = self.world.run(report(key, 0, reports, vec![key.to_string()]));
        if let CommandResult::Staged { accepted: true, .. } = result {
            assert_eq!(number, current.attempt.0, "a zombie was accepted");
        }
    }

    fn commit(&mut self, job: u8, stale: bool) {
        let Some(record) = self.found(job) else { return };
        self.world.run(Command::BeginCommit { job: record.id });
        let mut commit = self.world.commit_command(record.id);
        if stale {
            commit.tables[0].expected_location = "stale".into();
        }
        let was_committed = record.phase.is_committed();
        let result = self.world.run(Command::CommitJob(commit));
        if let CommandResult::Commit(CommitOutcome::Committed(_)) = result
            && !was_committed
        {
            assert!(!stale);
            self.committed(record.id);
        }
    }

    fn committed(&mut self, id: JobId) {
        let job = self.world.job(id);
        let table = job.table.unwrap();
        *self.oracle.rows.entry(table).or_default() += job.rows;
        let force = read::job_spec(&self.world.state, id).unwrap().unwrap().force;
        let mut rows = 0;
        for status in self.world.statuses(id) {
            rows += status.rows;
            assert!(!matches!(status.status, FileStatusKind::Pending), "a commit without {status:?}");
            if !matches!(status.status, FileStatusKind::Loaded | FileStatusKind::PartiallyLoaded) {
                continue;
            }
            let key = (table, job.ledger_generation, status.path);
            self.oracle.loads.entry(key).or_default().push((id, force, status.version));
        }
        assert_eq!(rows, job.rows);
        let accepted: usize = self.world.data_files(id).len();
        assert_eq!(accepted as u32, job.accepted_slices, "one data file for each accepted slice");
    }

    fn purge(&mut self, job: u8) {
        let Some(record) = self.found(job) else { return };
        let (files, _) = read::purgeable_files(&self.world.state, &record, None, 1).unwrap();
        let Some(file) = files.first() else { return };
        let files = vec![(file.file, PurgeOutcome::Deleted)];
        if self.world.run(Command::RecordPurged { job: record.id, files }) == CommandResult::Done {
            let key = (record.table.unwrap(), record.ledger_generation, file.path.clone());
            // What was deleted is what was loaded last: the path is free again.
            let loads = self.oracle.loads.entry(key).or_default();
            if loads.last().is_some_and(|(_, _, version)| version.same_content(&file.version)) {
                loads.clear();
            }
        }
    }

    fn check(&self) {
        for ((table, generation, path), loads) in &self.oracle.loads {
            let unforced = loads.iter().filter(|(_, force, _)| !force).count();
            assert!(unforced <= 1, "{path} of table {table} was loaded by {loads:?}");
            let record = read::table_by_id(&self.world.state, *table).unwrap().unwrap();
            if record.ledger_generation == *generation
                && let Some((job, ..)) = loads.last()
            {
                let entry = read::ledger_entry(&self.world.state, &record, &store(), path).unwrap();
                assert_eq!(entry.loaded_by.map(|loaded| loaded.job), Some(*job), "{path}");
            }
        }
        for table in &self.tables {
            let record = read::table_by_id(&self.world.state, *table).unwrap().unwrap();
            assert_eq!(record.num_rows, self.oracle.rows.get(table).copied().unwrap_or(0));
            for job in read::live_jobs_of_table(&self.world.state, *table).unwrap() {
                assert!(self.world.job(job).phase.is_loading());
            }
        }
        for job in read::live_jobs(&self.world.state).unwrap() {
            assert!(!self.world.job(job).phase.is_ended());
        }
    }
}

pub(super) fn replay(state: &mut MemoryState, log: &[Envelope]) {
    for envelope in log {
        state.apply(envelope).unwrap();
    }
}

/// Few cases, unless PROPTEST_CASES asks for more.
pub(super) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 64 };
    ProptestConfig { cases, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_order_of_commands_loads_each_file_once_and_replays_to_the_same_bytes(
        steps in steps(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        // The same log makes the same bytes; a snapshot of any prefix and the rest do too.
        let log = &run.world.log;
        let cut = cut.index(log.len());
        let mut replayed = MemoryState::default();
        replay(&mut replayed, &log[..cut]);
        let snapshot: Vec<_> = replayed.pairs().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut restored = MemoryState::restore(replayed.applied(), snapshot);
        replay(&mut replayed, &log[cut..]);
        replay(&mut restored, &log[cut..]);
        prop_assert!(replayed.pairs().eq(run.world.state.pairs()));
        prop_assert!(restored.pairs().eq(run.world.state.pairs()));
    }
}
