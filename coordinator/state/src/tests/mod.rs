//! The rules of exactly once, each with the interleaving that it guards against.
//!
//! - `claims`: two loads over the same files, chunks proposed again, changed files, FORCE, MAX_FILES.
//! - `attempts`: zombies, lost workers, reports that do not add up, poisonous files, ON_ERROR.
//! - `columns`: field ids of columns that loads bring, slices that run again.
//! - `endings`: commit against cancel, rebase, TRUNCATE, DROP and REPLACE during a load, PURGE.
//! - `catalog`: DDL and its refusals.
//! - `upkeep`: retried proposals, settling, sweeping and trimming.
//! - `streams`: offsets that move with the commit of their reader.
//! - `tasks`: ticks that are taken once, graphs, failures.
//! - `transactions`: several jobs in one commit, snapshots, conflicts, what ends a transaction.
//! - `worker_groups`: which groups jobs and tasks may name, when one is forgotten.
//! - `properties`, `transaction_properties`: random logs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attempts;
mod catalog;
mod claims;
mod columns;
mod endings;
mod properties;
mod streams;
mod tasks;
mod transaction_properties;
mod transactions;
mod upkeep;
mod worker_groups;

use std::collections::BTreeMap;

use stevedore_common::file_identity::{FileEntry, FileVersion, StoreIdentity};
use stevedore_common::ids::{Attempt, AttemptKey, FileIndex, JobId, SliceIndex, SliceKey, TableId, WorkerId};
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind};
use uuid::Uuid;

use crate::command::*;
use crate::jobs::*;
use crate::ledger::LedgerEntry;
use crate::read;
use crate::result::*;
use crate::{Event, MemoryState};

/// A state that is driven command by command and keeps its log.
struct World {
    state: MemoryState,
    log: Vec<Envelope>,
    events: Vec<Event>,
    phases: BTreeMap<JobId, JobPhase>,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        let mut world = Self::blank();
        world.ok(Command::Bootstrap { cluster_id: "test".into() });
        world
    }

    fn blank() -> Self {
        Self {
            state: MemoryState::default(),
            log: Vec::new(),
            events: Vec::new(),
            phases: BTreeMap::new(),
            now_ms: 1_000,
        }
    }

    fn run(&mut self, command: Command) -> CommandResult {
        self.now_ms += 1;
        let sequence = u64::try_from(self.log.len()).unwrap();
        let envelope = Envelope { proposer: "p1".into(), sequence, time_ms: self.now_ms, command };
        let envelope = Envelope::decode(&envelope.encode().unwrap()).unwrap();
        let (result, events) = self.state.apply(&envelope).unwrap();
        assert_eq!(CommandResult::decode(&result.encode().unwrap()).unwrap(), result);
        for event in &events {
            if let Event::JobChanged { job, phase } = event {
                let before = self.phases.insert(*job, *phase).unwrap_or(JobPhase::Claiming);
                assert!(before <= *phase, "job {job} went back from {before:?} to {phase:?}");
                assert!(!before.is_ended() || before == *phase, "job {job} ended twice");
            }
        }
        self.log.push(envelope);
        self.events = events;
        result
    }

    fn ok(&mut self, command: Command) -> CommandResult {
        self.run(command).into_result().unwrap()
    }

    fn refused(&mut self, command: Command) -> Error {
        match self.run(command) {
            CommandResult::Refused(error) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn table(&mut self, name: &str) -> TableId {
        match self.ok(Command::CreateTable(new_table(name))) {
            CommandResult::Table { table, created: true } => table,
            other => panic!("{other:?}"),
        }
    }

    fn copy(&mut self, number: u128, table: TableId) -> JobId {
        self.copy_with(number, table, |_| {})
    }

    fn copy_with(&mut self, number: u128, table: TableId, change: impl FnOnce(&mut JobSpec)) -> JobId {
        let job = job_id(number);
        let record = read::table_by_id(&self.state, table).unwrap().unwrap();
        let mut spec = copy_spec(table);
        spec.epoch = record.epoch;
        change(&mut spec);
        match self.ok(Command::CreateJob { job, spec }) {
            CommandResult::JobCreated { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, job: JobId, names: &[&str]) -> Vec<ClaimOutcome> {
        let files = names.iter().map(|name| listed(name, 1)).collect();
        self.claim_files(job, files)
    }

    fn claim_files(&mut self, job: JobId, files: Vec<ListedFile>) -> Vec<ClaimOutcome> {
        let chunk = self.job(job).chunks;
        match self.ok(Command::ClaimFiles { job, chunk, files }) {
            CommandResult::Claims(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// Plans every claimed file, so many to a slice, and seals.
    fn plan(&mut self, job: JobId, per_slice: usize) {
        let files: Vec<SliceFile> =
            (0..self.job(job).files).map(|n| SliceFile::whole(FileIndex(n))).collect();
        let slices: Vec<NewSlice> =
            files.chunks(per_slice).map(|files| NewSlice { files: files.to_vec(), bytes: 10 }).collect();
        self.ok(Command::PlanSlices { job, first: SliceIndex(0), slices });
        let Job { files, slices, .. } = self.job(job);
        self.ok(Command::SealJob { job, files, slices });
    }

    fn lease(&mut self, job: JobId, slice: u32, worker: &str) -> AttemptKey {
        match self.ok(lease(job, slice, worker, false)) {
            CommandResult::Leased { attempt } => attempt_key(job, slice, attempt.0),
            other => panic!("{other:?}"),
        }
    }

    /// Runs and accepts every pending slice: two rows a file.
    fn accept_all(&mut self, job: JobId) {
        for slice in read::pending_slices(&self.state, job, None, usize::MAX).unwrap() {
            let attempt = self.lease(job, slice.0, "w");
            let report = self.whole_report(attempt);
            self.ok(report);
        }
    }

    /// A report in one chunk that loads everything, into one data file.
    fn whole_report(&self, attempt: AttemptKey) -> Command {
        let files = read::slice_files(&self.state, attempt.slice).unwrap();
        let reports: Vec<FileReport> = files.iter().map(|file| loaded(file.file.0, file.part, 2)).collect();
        let json = format!("{{\"data-file-of\":\"{attempt}\"}}");
        report(attempt, 0, reports, vec![json])
    }

    fn commit(&mut self, job: JobId) -> CommitOutcome {
        self.ok(Command::BeginCommit { job });
        let commit = self.commit_command(job);
        self.commit_with(commit)
    }

    fn commit_with(&mut self, commit: JobCommit) -> CommitOutcome {
        match self.ok(Command::CommitJob(commit)) {
            CommandResult::Commit(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn commit_command(&self, job: JobId) -> JobCommit {
        let table = read::table_by_id(&self.state, self.job(job).table.unwrap()).unwrap().unwrap();
        let rows = self.job(job).rows;
        JobCommit {
            job,
            tables: vec![TableCommit {
                table: table.id,
                uuid: table.uuid,
                epoch: table.epoch,
                expected_location: table.metadata_location.clone(),
                new_location: format!("{}+{}", table.metadata_location, job),
                schema_id: 0,
                spec_id: 0,
                new_schema_id: None,
                overwrite: false,
                contents: TableContents {
                    snapshot_id: Some(7),
                    num_rows: table.num_rows + rows,
                    data_size: 1,
                },
            }],
            new_table: None,
        }
    }

    fn load(&mut self, job: JobId) -> CommitOutcome {
        self.plan(job, 1);
        self.accept_all(job);
        self.commit(job)
    }

    fn end(&mut self, job: JobId, end: JobEnding) -> JobPhase {
        match self.ok(Command::EndJob { job, end }) {
            CommandResult::Job { phase } => phase,
            other => panic!("{other:?}"),
        }
    }

    fn truncate(&mut self, table: TableId) {
        let record = read::table_by_id(&self.state, table).unwrap().unwrap();
        let change = table_change(&record, "truncated", TableChangeKind::Truncate);
        self.ok(Command::CommitTable(change));
    }

    fn job(&self, job: JobId) -> Job {
        read::job(&self.state, job).unwrap().unwrap()
    }

    fn entry(&self, table: TableId, name: &str) -> LedgerEntry {
        let table = read::table_by_id(&self.state, table).unwrap().unwrap();
        read::ledger_entry(&self.state, &table, &store(), &format!("dir/{name}")).unwrap()
    }

    /// The whole load history, read in pages.
    fn history(&self, table: TableId, limit: usize) -> Vec<HistoryEntry> {
        let table = read::table_by_id(&self.state, table).unwrap().unwrap();
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = read::load_history(&self.state, &table, after, limit).unwrap();
            entries.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return entries,
            }
        }
    }

    fn statuses(&self, job: JobId) -> Vec<FileStatus> {
        read::file_statuses(&self.state, &self.job(job), None, usize::MAX).unwrap()
    }

    fn data_files(&self, job: JobId) -> Vec<String> {
        read::data_files(&self.state, &self.job(job), None, usize::MAX).unwrap().0
    }
}

fn history_name(entry: &HistoryEntry) -> String {
    match &entry.file {
        HistoryFile::Taken(file) => file.name.clone(),
        HistoryFile::Skipped { name, .. } => name.clone(),
    }
}

fn store() -> StoreIdentity {
    StoreIdentity { kind: "s3".into(), endpoint: "http://one".into(), container: "bucket".into() }
}

fn new_table(name: &str) -> NewTable {
    NewTable {
        database: "default".into(),
        name: name.into(),
        uuid: Uuid::from_u128(u128::from_be_bytes(*b"0123456789abcdef") ^ name.len() as u128),
        metadata_location: format!("wh/{name}/v0"),
        schema_id: 0,
        spec_id: 0,
        comment: String::new(),
        transient: false,
        options: BTreeMap::new(),
        if_not_exists: false,
        or_replace: false,
        contents: TableContents::default(),
    }
}

fn table_change(table: &crate::catalog::Table, suffix: &str, kind: TableChangeKind) -> TableChange {
    TableChange {
        table: table.id,
        uuid: table.uuid,
        epoch: table.epoch,
        expected_location: table.metadata_location.clone(),
        new_location: format!("{}+{suffix}", table.metadata_location),
        kind,
        schema_id: 0,
        spec_id: 0,
        contents: TableContents::default(),
        new_field_ids: None,
    }
}

fn copy_spec(table: TableId) -> JobSpec {
    JobSpec {
        kind: JobKind::Copy,
        statement: "COPY INTO t FROM @s".into(),
        table: Some(table),
        table_name: "default.t".into(),
        epoch: 1,
        schema_id: 0,
        spec_id: 0,
        store: Some(store()),
        on_error: OnError::default(),
        force: false,
        purge: false,
        max_files: None,
        idempotency_key: None,
        request: String::new(),
        consumes: Vec::new(),
        plan: "{}".into(),
        transaction: None,
        group: WorkerGroup::default(),
    }
}

fn job_id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

/// A file whose content is a number: equal numbers, equal content.
fn version(content: u64) -> FileVersion {
    FileVersion { size: 100, etag: Some(format!("e{content}")), version: None, last_modified_ms: 5 }
}

fn listed(name: &str, content: u64) -> ListedFile {
    ListedFile { path: format!("dir/{name}"), name: name.into(), version: version(content) }
}

fn lease(job: JobId, slice: u32, worker: &str, steal: bool) -> Command {
    Command::LeaseSlice {
        job,
        slice: SliceIndex(slice),
        worker: WorkerId(worker.into()),
        incarnation: "i1".into(),
        steal,
    }
}

fn attempt_key(job: JobId, slice: u32, attempt: u32) -> AttemptKey {
    AttemptKey { slice: SliceKey { job, slice: SliceIndex(slice) }, attempt: Attempt(attempt) }
}

fn loaded(file: u32, part: u32, rows: u64) -> FileReport {
    FileReport {
        file: FileIndex(file),
        part,
        outcome: FileOutcome::Loaded,
        rows,
        errors: 0,
        first_error: String::new(),
        first_error_line: 0,
        lines: rows,
    }
}

fn with_errors(mut report: FileReport, errors: u64, line: u64) -> FileReport {
    report.errors = errors;
    report.first_error = "invalid value 'b' for column 1 (b INT): invalid digit".into();
    report.first_error_line = line;
    report.lines = report.rows + errors;
    report
}

/// A report in one chunk, with the totals that it adds up to.
fn report(attempt: AttemptKey, sequence: u32, files: Vec<FileReport>, data_files: Vec<String>) -> Command {
    let totals = SliceTotals {
        files: files.len() as u64,
        rows: files.iter().map(|file| file.rows).sum(),
        data_files: data_files.len() as u64,
        input_bytes: 10,
        output_bytes: 5,
        errors: files.iter().map(|file| file.errors).sum(),
        ..SliceTotals::default()
    };
    Command::StageReport { attempt, sequence, files, data_files, last: true, totals: Some(totals) }
}

fn chunk(attempt: AttemptKey, sequence: u32, files: Vec<FileReport>, data_files: Vec<String>) -> Command {
    Command::StageReport { attempt, sequence, files, data_files, last: false, totals: None }
}

fn claimed(index: u32) -> ClaimOutcome {
    ClaimOutcome::Claimed(FileIndex(index))
}
