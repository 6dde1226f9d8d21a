//! Planning: what a job has claimed becomes slices, and the job is sealed.
//!
//! Comes in: the files of a job, read from the state page by page, and the workers that there are. Goes out:
//! commands of bounded size, as they are full. What a leader before this one has planned stays as it is, for however
//! many workers that was; the rest is planned for those of now. Neither files nor slices are gathered in memory, and no
//! view of the state is held while commands are waited for.

use std::time::Instant;

use futures::stream::Stream;
use futures::{StreamExt, TryStreamExt};
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::file_identity::FileEntry;
use stevedore_common::ids::{JobId, SliceIndex};
use stevedore_common::{Error, Result};
use stevedore_state::command::{Command, NewSlice};
use stevedore_state::jobs::{self, ErrorMode, Job, JobFile, SliceFile};
use stevedore_state::view::ReadView;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::copy::{Claimed, PROPOSED_AT_ONCE, record_of};
use super::plan::CopyPlan;
use super::slices::{FilePart, PackFile, PackRule, PackedSlice, Packer, PlannedParts};
use crate::config::Scheduling;
use crate::replica::Replica;

/// Most file parts in one slice command (each is a few dozen bytes).
const PARTS_A_COMMAND: usize = 500;
/// Claimed files read from the state at a time.
const FILES_A_PAGE: usize = 1_000;

/// The workers that a load is planned for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fleet {
    /// How many.
    pub workers: u32,
    /// Slices that they run at a time.
    pub slots: u32,
}

/// Plans the slices of what was claimed and has none yet, and seals.
///
/// # Errors
/// Refusals (the job was cancelled meanwhile); a conflict that may be tried again, if what a leader before this one
/// had on its way comes between.
pub async fn plan_and_seal(
    replica: &Replica,
    scheduling: &Scheduling,
    fleet: Fleet,
    job: JobId,
    plan: &CopyPlan,
    claimed: Claimed,
) -> Result<()> {
    let started = Instant::now();
    let (format, on_error) = (plan.format.clone(), plan.on_error.mode);
    let files = ClaimedFiles { replica: replica.clone(), job, format, on_error };
    let (files, slices) = plan_rest(replica, scheduling, fleet, files).await?;
    tracing::info!(
        %job,
        files,
        slices,
        claiming_ms = claimed.took.as_millis() as u64,
        planning_ms = started.elapsed().as_millis() as u64,
        "listed, claimed and planned"
    );
    Ok(())
}

/// Answers how many files and slices the job has.
async fn plan_rest(
    replica: &Replica,
    scheduling: &Scheduling,
    fleet: Fleet,
    files: ClaimedFiles,
) -> Result<(u32, u32)> {
    let job = files.job;
    let record = record_of(&*replica.read().await?, job)?;
    let (sender, commands) = mpsc::channel(PROPOSED_AT_ONCE);
    let slices = SliceCommands::new(job, SliceIndex(record.slices), sender);
    let packing = packed(pack_rule(scheduling, fleet), slices, record, files);
    propose_in_order(replica, job, ReceiverStream::new(commands)).await?;
    let (files, slices) = planned(packing).await?;
    replica.propose(Command::SealJob { job, files, slices }).await?;
    Ok((files, slices))
}

/// Packs what has no slice yet, on a thread of its own since the state is read from disk; answers how many files and
/// slices the job has.
fn packed(
    rule: PackRule,
    mut slices: SliceCommands,
    record: Job,
    files: ClaimedFiles,
) -> JoinHandle<Result<(u32, u32)>> {
    tokio::task::spawn_blocking(move || {
        let files = files.pack(&record, rule, |slice| slices.add(new_slice(slice)))?;
        slices.finish().map(|slices| (files, slices))
    })
}

async fn planned<T>(planning: JoinHandle<Result<T>>) -> Result<T> {
    planning.await.map_err(|error| Error::internal(format!("planning slices failed: {error}")))?
}

fn new_slice(slice: PackedSlice) -> NewSlice {
    let file = |part: FilePart| SliceFile {
        file: part.file,
        range_start: part.start,
        range_end: part.end,
        part: part.part,
        parts: part.parts,
    };
    NewSlice { bytes: slice.bytes, files: slice.parts.into_iter().map(file).collect() }
}

/// The files that a job has claimed, as the state has them.
struct ClaimedFiles {
    replica: Replica,
    job: JobId,
    format: FileFormat,
    on_error: ErrorMode,
}

impl ClaimedFiles {
    /// Gives each file to `take`, in order, and how many there are.
    fn each(&self, mut take: impl FnMut(&dyn ReadView, PackFile) -> Result<()>) -> Result<u32> {
        let (mut files, mut after) = (0, None);
        loop {
            let view = self.replica.local();
            let page = jobs::job_files(&*view, self.job, after, FILES_A_PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(files) };
            after = Some(*last);
            files += page.len() as u32;
            for (file, JobFile { path, version, .. }) in page {
                let entry = FileEntry { path, version };
                let splittable = can_split(&self.format, self.on_error, &entry);
                take(&*view, PackFile { file, size: entry.version.size, splittable })?;
            }
        }
    }

    /// Packs what has no slice yet; answers the number of all files.
    fn pack(
        &self,
        record: &Job,
        rule: PackRule,
        mut add: impl FnMut(PackedSlice) -> Result<()>,
    ) -> Result<u32> {
        let bytes = record.bytes;
        let mut whole = bytes;
        if rule.lane_bytes.is_some() && may_be_split(&self.format, self.on_error) {
            self.each(|_, file| {
                let cut = if rule.is_cut(bytes, &file) { file.size } else { 0 };
                whole = whole.saturating_sub(cut);
                Ok(())
            })?;
        }
        let mut packer = Packer::new(rule, bytes, whole);
        let files = self.each(|view, file| {
            // By a leader before this one.
            let planned = match record.planned_files > 0 {
                true => jobs::planned_parts(view, self.job, file.file)?,
                false => None,
            };
            let planned = planned.map(|(planned, parts)| PlannedParts { planned, parts });
            packer.push(file, planned, &mut add)
        })?;
        packer.finish(&mut add)?;
        Ok(files)
    }
}

/// How the files of a COPY are packed.
pub fn pack_rule(scheduling: &Scheduling, fleet: Fleet) -> PackRule {
    PackRule {
        slots: fleet.slots,
        workers: fleet.workers,
        lane_bytes: scheduling.lane_bytes(),
        slice_bytes: scheduling.slice_bytes,
        slice_files: scheduling.slice_files,
        split_above_bytes: scheduling.split_above_bytes,
    }
}

/// Plans slices in commands of bounded size.
///
/// # Errors
/// Refusals.
pub async fn plan_slices(replica: &Replica, job: JobId, slices: Vec<NewSlice>) -> Result<u32> {
    let (sender, commands) = mpsc::channel(PROPOSED_AT_ONCE);
    let cutting = tokio::task::spawn_blocking(move || {
        let mut commands = SliceCommands::new(job, SliceIndex(0), sender);
        slices.into_iter().try_for_each(|slice| commands.add(slice))?;
        commands.finish()
    });
    propose_in_order(replica, job, ReceiverStream::new(commands)).await?;
    planned(cutting).await
}

/// Several are on their way at a time; each is first polled, and so proposed, in its turn.
async fn propose_in_order(
    replica: &Replica,
    job: JobId,
    commands: impl Stream<Item = Command>,
) -> Result<()> {
    commands
        .map(|command| replica.propose(command))
        .buffered(PROPOSED_AT_ONCE)
        .try_for_each(|answer| {
            tracing::debug!(%job, ?answer, "planned slices");
            std::future::ready(Ok(()))
        })
        .await
}

/// Slices on their way into commands of bounded size. Blocks while the receiver has enough of them.
struct SliceCommands {
    job: JobId,
    first: SliceIndex,
    slices: Vec<NewSlice>,
    parts: usize,
    sender: mpsc::Sender<Command>,
}

impl SliceCommands {
    fn new(job: JobId, first: SliceIndex, sender: mpsc::Sender<Command>) -> Self {
        Self { job, first, slices: Vec::new(), parts: 0, sender }
    }

    fn add(&mut self, slice: NewSlice) -> Result<()> {
        let parts = slice.files.len().max(1);
        if self.parts + parts > PARTS_A_COMMAND {
            self.send()?;
        }
        self.parts += parts;
        self.slices.push(slice);
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.slices.is_empty() {
            return Ok(());
        }
        let slices = std::mem::take(&mut self.slices);
        let first = self.first;
        self.first = SliceIndex(first.0 + slices.len() as u32);
        self.parts = 0;
        // Who proposes them tells why it stopped.
        let gone = |_| Error::cancelled(format!("planning slices of job {} was stopped", self.job));
        self.sender.blocking_send(Command::PlanSlices { job: self.job, first, slices }).map_err(gone)
    }

    /// Sends what is left; answers how many slices the job has.
    fn finish(mut self) -> Result<u32> {
        self.send()?;
        Ok(self.first.0)
    }
}

/// Whether parts of a file can be read, and loaded, apart.
pub fn can_split(format: &FileFormat, on_error: ErrorMode, file: &FileEntry) -> bool {
    let is_text = matches!(format.kind, FormatKind::Ndjson | FormatKind::Tsv);
    may_be_split(format, on_error)
        && (!is_text || format.compression.resolve(&file.path) == Compression::None)
        && file.version.has_validator()
}

/// Whether that is so of some files.
fn may_be_split(format: &FileFormat, on_error: ErrorMode) -> bool {
    let format_allows = match format.kind {
        FormatKind::Parquet | FormatKind::Orc | FormatKind::Arrow => true,
        // A quoted CSV field may hold a record delimiter, so a border cannot be found from the middle.
        FormatKind::Ndjson | FormatKind::Tsv => format.skip_header == 0 && is_utf8(&format.encoding),
        // Blocks of Avro, elements of JSON and messages of streams are found from the beginning only.
        FormatKind::Csv | FormatKind::Json | FormatKind::Avro | FormatKind::ArrowStream => false,
    };
    // Under skip_file the verdict on a file needs all of it, before any of it is loaded.
    format_allows && !on_error.takes_whole_files()
}

fn is_utf8(label: &str) -> bool {
    matches!(label.to_ascii_lowercase().as_str(), "utf-8" | "utf8")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::sync::Arc;

    use stevedore_common::clock::SystemClock;
    use stevedore_common::file_identity::{FileVersion, StoreIdentity};
    use stevedore_common::ids::{FileIndex, NodeId, SliceKey};
    use stevedore_common::worker_group::WorkerGroup;
    use stevedore_raft::{NoTransport, NodeConfig, RaftNode, Start};
    use stevedore_state::command::{ListedFile, NewTable, TableContents};
    use stevedore_state::jobs::{JobKind, JobPhase, JobSpec, OnError};
    use stevedore_state::result::CommandResult;
    use uuid::Uuid;

    use super::*;
    use crate::peers::Peers;
    use crate::state_machine::CommandMachine;

    #[test]
    fn a_file_is_split_where_its_format_its_store_and_on_error_allow_it() {
        let file = |path: &str, etag: Option<&str>| FileEntry {
            path: path.to_owned(),
            version: FileVersion {
                size: 1 << 40,
                etag: etag.map(str::to_owned),
                version: None,
                last_modified_ms: 1,
            },
        };
        let pinned = file("a.parquet", Some("e"));
        let parquet = FileFormat::defaults(FormatKind::Parquet);
        for mode in [ErrorMode::Abort, ErrorMode::AbortN, ErrorMode::Continue] {
            assert!(can_split(&parquet, mode, &pinned));
            assert!(!can_split(&parquet, mode, &file("a.parquet", None)));
        }
        // A part cannot tell whether its file is good.
        for mode in [ErrorMode::SkipFile, ErrorMode::SkipFileN, ErrorMode::SkipFilePercent] {
            assert!(!can_split(&parquet, mode, &pinned));
        }
        let ndjson = FileFormat::defaults(FormatKind::Ndjson);
        assert!(can_split(&ndjson, ErrorMode::Continue, &file("a.ndjson", Some("e"))));
        assert!(!can_split(&ndjson, ErrorMode::Continue, &file("a.ndjson.gz", Some("e"))));
        let csv = FileFormat::defaults(FormatKind::Csv);
        assert!(!can_split(&csv, ErrorMode::Continue, &file("a.csv", Some("e"))));
    }

    /// A leader whose state is in memory.
    async fn leader() -> Replica {
        let node = NodeConfig::new(NodeId(1), "test", vec![NodeId(1)]);
        let node =
            RaftNode::start(node, Start::OpenOrBootstrap, CommandMachine, Arc::new(NoTransport)).unwrap();
        node.status().wait_for(|status| status.leads_with_current_state).await.unwrap();
        let peers = Peers::new("test", NodeId(1), &[]).unwrap();
        let replica = Replica::new(node, peers, Arc::new(SystemClock));
        replica.propose(Command::Bootstrap { cluster_id: "test".to_owned() }).await.unwrap();
        replica
    }

    const SMALL: u32 = 3_000;
    const LARGE: u64 = 10 << 30;

    /// A COPY that has claimed a large file, many small ones, and another large one.
    async fn claimed_job(replica: &Replica) -> JobId {
        let table = NewTable {
            database: "default".to_owned(),
            name: "t".to_owned(),
            uuid: Uuid::from_u128(1),
            metadata_location: "wh/t/v0".to_owned(),
            schema_id: 0,
            spec_id: 0,
            comment: String::new(),
            transient: false,
            options: std::collections::BTreeMap::new(),
            if_not_exists: false,
            or_replace: false,
            contents: TableContents::default(),
        };
        let CommandResult::Table { table, .. } = replica.propose(Command::CreateTable(table)).await.unwrap()
        else {
            panic!("no table")
        };
        let job = JobId(Uuid::from_u128(2));
        let spec = JobSpec {
            kind: JobKind::Copy,
            statement: "COPY INTO t FROM @s".to_owned(),
            table: Some(table),
            table_name: "default.t".to_owned(),
            epoch: 1,
            schema_id: 0,
            spec_id: 0,
            store: Some(StoreIdentity {
                kind: "s3".to_owned(),
                endpoint: "http://one".to_owned(),
                container: "bucket".to_owned(),
            }),
            on_error: OnError::default(),
            force: false,
            purge: false,
            max_files: None,
            idempotency_key: None,
            request: String::new(),
            consumes: Vec::new(),
            transaction: None,
            group: WorkerGroup::default(),
            plan: "{}".to_owned(),
        };
        replica.propose(Command::CreateJob { job, spec }).await.unwrap();
        let file = |n: u32| {
            let size = if n == 0 || n > SMALL { LARGE } else { 1 << 20 };
            let name = format!("{n:06}.parquet");
            let version =
                FileVersion { size, etag: Some("e".to_owned()), version: None, last_modified_ms: 1 };
            ListedFile { path: name.clone(), name, version }
        };
        let files: Vec<ListedFile> = (0..SMALL + 2).map(file).collect();
        for (chunk, files) in (0..).zip(files.chunks(100)) {
            replica.propose(Command::ClaimFiles { job, chunk, files: files.to_vec() }).await.unwrap();
        }
        job
    }

    async fn plan(replica: &Replica, job: JobId, fleet: Fleet) -> Result<()> {
        let files = ClaimedFiles {
            replica: replica.clone(),
            job,
            format: FileFormat::defaults(FormatKind::Parquet),
            on_error: ErrorMode::Abort,
        };
        plan_rest(replica, &Scheduling::default(), fleet, files).await.map(|_| ())
    }

    /// As the driver of jobs does it: what may be tried again is.
    async fn plan_at_last(replica: &Replica, job: JobId, fleet: Fleet) {
        while let Err(error) = plan(replica, job, fleet).await {
            if record_of(&*replica.local(), job).unwrap().phase > JobPhase::Claiming {
                return;
            }
            assert!(error.is_retryable(), "{error}");
            tokio::task::yield_now().await;
        }
    }

    /// Every byte of every file is in one slice.
    fn assert_planned(replica: &Replica, job: JobId) {
        let view = replica.local();
        let record = record_of(&*view, job).unwrap();
        assert_eq!((record.phase, record.files), (JobPhase::Running, SMALL + 2));
        let mut whole = BTreeSet::new();
        let mut ranges = vec![Vec::new(), Vec::new()];
        for slice in 0..record.slices {
            let key = SliceKey { job, slice: SliceIndex(slice) };
            for file in jobs::slice_files(&*view, key).unwrap() {
                if file.parts == 1 {
                    assert!(whole.insert(file.file.0), "file {} has two slices", file.file);
                } else {
                    ranges[usize::from(file.file != FileIndex(0))].push((file.range_start, file.range_end));
                }
            }
        }
        assert_eq!(whole, (1..=SMALL).collect());
        for ranges in ranges {
            assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, LARGE));
            assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_goes_on_where_another_one_stopped_whatever_the_number_of_workers() {
        let (many, one) = (Fleet { workers: 30, slots: 120 }, Fleet { workers: 1, slots: 2 });
        for (before, after) in [(many, one), (one, many)] {
            // What the one before was to send, of which so many commands arrive.
            let sent: Vec<Command> = {
                let replica = leader().await;
                let job = claimed_job(&replica).await;
                let (sender, receiver) = mpsc::channel(PROPOSED_AT_ONCE);
                let packing = packed(
                    pack_rule(&Scheduling::default(), before),
                    SliceCommands::new(job, SliceIndex(0), sender),
                    record_of(&*replica.local(), job).unwrap(),
                    ClaimedFiles {
                        replica: replica.clone(),
                        job,
                        format: FileFormat::defaults(FormatKind::Parquet),
                        on_error: ErrorMode::Abort,
                    },
                );
                let sent = ReceiverStream::new(receiver).collect().await;
                packing.await.unwrap().unwrap();
                sent
            };
            assert!(sent.len() > 3, "{}", sent.len());
            for arrived in 0..=sent.len() {
                let replica = leader().await;
                let job = claimed_job(&replica).await;
                for command in &sent[..arrived] {
                    replica.propose(command.clone()).await.unwrap();
                }
                let planned_before = record_of(&*replica.local(), job).unwrap().slices;
                plan(&replica, job, after).await.unwrap();
                assert_planned(&replica, job);
                assert!(record_of(&*replica.local(), job).unwrap().slices >= planned_before);
                // The rest comes too late.
                for command in &sent[arrived..] {
                    replica.propose(command.clone()).await.unwrap_err();
                }
                assert_planned(&replica, job);
                replica.handle().shutdown(true).await.unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_that_plan_at_once_for_different_workers_plan_each_file_once() {
        for _ in 0..3 {
            let replica = leader().await;
            let job = claimed_job(&replica).await;
            tokio::join!(
                plan_at_last(&replica, job, Fleet { workers: 30, slots: 120 }),
                plan_at_last(&replica, job, Fleet { workers: 1, slots: 2 }),
                plan_at_last(&replica, job, Fleet { workers: 3, slots: 9 }),
            );
            assert_planned(&replica, job);
            replica.handle().shutdown(true).await.unwrap();
        }
    }
}
