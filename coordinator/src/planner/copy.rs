//! The first phase of a COPY: listing, claiming, planning slices, sealing.
//!
//! Runs on the leader, from the job's plan alone, so a new leader does it again from the start: a file
//! that the job holds already keeps its index, slices that are planned already stay. Files that the ledger has
//! as loaded are not sent through the log one by one: a COPY that runs every minute over a large folder costs
//! its listing and a look at each name. Between claiming and planning there is time to look into the files that
//! were claimed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt, TryStreamExt};
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::file_identity::{FileEntry, StoreIdentity};
use stevedore_common::ids::{FileIndex, JobId, SliceIndex};
use stevedore_common::{Error, Result};
use stevedore_state::catalog::{self, Table};
use stevedore_state::command::{CHUNK_BYTES, Command, ListedFile, NewSlice};
use stevedore_state::jobs::{
    self, ClaimRule, ErrorMode, MAX_SKIPPED_NAMES, SkipReason, SkippedFiles, SliceFile, preview_claim,
};
use stevedore_state::result::{ClaimOutcome, CommandResult};
use stevedore_state::view::ReadView;

use super::plan::CopyPlan;
use super::slices::{PackFile, PackRule, pack};
use crate::config::Scheduling;
use crate::replica::Replica;
use crate::stores::ResolvedSource;

/// Most files of one statement.
const MOST_FILES: usize = 10_000_000;
/// Most file parts in one slice command (each is a few dozen bytes).
const PARTS_A_COMMAND: usize = 500;
/// Commands of one statement that are on their way at a time: the log is made durable for several at once.
const PROPOSED_AT_ONCE: usize = 4;
/// Bytes of the names of files that are not sent to be claimed; they travel in one command.
const UNSENT_NAME_BYTES: usize = 32 << 10;

/// The workers that a load is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// How many.
    pub workers: u32,
    /// Slices that they run at a time.
    pub slots: u32,
}

/// Files that a job has claimed.
#[derive(Debug)]
pub struct Claimed {
    files: Vec<PackFile>,
    took: Duration,
}

impl Claimed {
    /// Whether there is nothing to load.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Lists and claims.
///
/// # Errors
/// What listing says, naming the location; refusals (the job was cancelled meanwhile).
pub async fn list_and_claim(
    replica: &Replica,
    source: &ResolvedSource,
    job: JobId,
    plan: &CopyPlan,
) -> Result<Claimed> {
    let started = Instant::now();
    let files = claim(replica, job, source, plan).await?;
    Ok(Claimed { files, took: started.elapsed() })
}

/// Plans the slices of what was claimed, and seals.
///
/// # Errors
/// Refusals (the job was cancelled meanwhile).
pub async fn plan_and_seal(
    replica: &Replica,
    scheduling: &Scheduling,
    fleet: Fleet,
    job: JobId,
    claimed: Claimed,
) -> Result<()> {
    let started = Instant::now();
    let Claimed { files: claimed, took: claiming } = claimed;
    let slices: Vec<NewSlice> = pack(&claimed, pack_rule(scheduling, fleet))
        .into_iter()
        .map(|slice| NewSlice {
            bytes: slice.bytes,
            files: slice
                .parts
                .into_iter()
                .map(|part| SliceFile {
                    file: part.file,
                    range_start: part.start,
                    range_end: part.end,
                    part: part.part,
                    parts: part.parts,
                })
                .collect(),
        })
        .collect();
    let total = plan_slices(replica, job, slices).await?;
    let files =
        u32::try_from(claimed.len()).map_err(|_| Error::exhausted("too many files in one statement"))?;
    replica.propose(Command::SealJob { job, files, slices: total }).await?;
    tracing::info!(
        %job,
        files,
        slices = total,
        claiming_ms = claiming.as_millis() as u64,
        planning_ms = started.elapsed().as_millis() as u64,
        "listed, claimed and planned"
    );
    Ok(())
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
    let mut first = 0u32;
    let mut commands = Vec::new();
    let mut chunk = Vec::new();
    let mut parts = 0;
    let mut slices = slices.into_iter().peekable();
    while let Some(slice) = slices.next() {
        parts += slice.files.len().max(1);
        chunk.push(slice);
        let full = slices.peek().is_none_or(|next| parts + next.files.len() > PARTS_A_COMMAND);
        if full {
            let count = chunk.len() as u32;
            let slices = std::mem::take(&mut chunk);
            commands.push(Command::PlanSlices { job, first: SliceIndex(first), slices });
            first += count;
            parts = 0;
        }
    }
    // Each is first polled, and so proposed, in its turn.
    futures::stream::iter(commands)
        .map(|command| replica.propose(command))
        .buffered(PROPOSED_AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    Ok(first)
}

/// Whether parts of a file can be read, and loaded, apart.
pub fn can_split(format: &FileFormat, on_error: ErrorMode, file: &FileEntry) -> bool {
    let format_allows = match format.kind {
        FormatKind::Parquet | FormatKind::Orc | FormatKind::Arrow => true,
        // A quoted CSV field may hold a record delimiter, so a border cannot be found from the middle.
        FormatKind::Ndjson | FormatKind::Tsv => {
            format.compression.resolve(&file.path) == Compression::None
                && format.skip_header == 0
                && is_utf8(&format.encoding)
        }
        // Blocks of Avro, elements of JSON and messages of streams are found from the beginning only.
        FormatKind::Csv | FormatKind::Json | FormatKind::Avro | FormatKind::ArrowStream => false,
    };
    // Under skip_file the verdict on a file needs all of it, before any of it is loaded.
    format_allows && file.version.has_validator() && !on_error.takes_whole_files()
}

fn is_utf8(label: &str) -> bool {
    matches!(label.to_ascii_lowercase().as_str(), "utf-8" | "utf8")
}

/// A chunk of the listing that is proposed.
struct Proposed {
    outcomes: Vec<ClaimOutcome>,
    sizes: Vec<u64>,
    splittable: Vec<bool>,
}

async fn propose_chunk(
    replica: &Replica,
    job: JobId,
    chunk: u32,
    listed: Vec<(ListedFile, bool)>,
) -> Result<Proposed> {
    let (files, splittable): (Vec<_>, Vec<_>) = listed.into_iter().unzip();
    let sizes: Vec<u64> = files.iter().map(|file| file.version.size).collect();
    match replica.propose(Command::ClaimFiles { job, chunk, files }).await? {
        CommandResult::Claims(outcomes) => Ok(Proposed { outcomes, sizes, splittable }),
        result => Err(Error::internal(format!("unexpected answer to a claim: {result:?}"))),
    }
}

/// Files that need not be sent to be claimed, since the ledger here says already what would become of them.
struct Unsent<'a> {
    view: Arc<dyn ReadView>,
    table: Table,
    store: &'a StoreIdentity,
    rule: ClaimRule,
    skipped: BTreeMap<SkipReason, SkippedFiles>,
    name_bytes: usize,
}

impl Unsent<'_> {
    /// Whether the file is counted here and need not be sent; `taken` files are claimed for certain.
    fn takes(&mut self, file: &FileEntry, name: &str, taken: u32) -> Result<bool> {
        let outcome = preview_claim(&*self.view, &self.table, self.store, file, self.rule, taken)?;
        let reason = match outcome {
            // Once it was loaded it stays so, as long as the load lives: TRUNCATE ends the load too.
            ClaimOutcome::AlreadyLoaded => SkipReason::AlreadyLoaded,
            // Under FORCE it may be one that this very job holds.
            ClaimOutcome::OverMaxFiles if !self.rule.force => SkipReason::OverMaxFiles,
            _ => return Ok(false),
        };
        let group = self.skipped.entry(reason).or_insert_with(|| SkippedFiles {
            reason,
            by: None,
            count: 0,
            names: Vec::new(),
        });
        group.count += 1;
        if group.count <= MAX_SKIPPED_NAMES && self.name_bytes + name.len() < UNSENT_NAME_BYTES {
            self.name_bytes += name.len() + 8;
            group.names.push(name.to_owned());
        }
        Ok(true)
    }
}

async fn claim(
    replica: &Replica,
    job: JobId,
    source: &ResolvedSource,
    plan: &CopyPlan,
) -> Result<Vec<PackFile>> {
    let view = replica.local();
    let spec = jobs::job_spec(&*view, job)?
        .ok_or_else(|| Error::internal(format!("job {job} has no specification")))?;
    let table = spec.table.map(|table| catalog::table_by_id(&*view, table)).transpose()?.flatten();
    let rule = ClaimRule { force: spec.force, max_files: spec.max_files };
    let mut unsent = table.map(|table| Unsent {
        view,
        table,
        store: &source.identity,
        rule,
        skipped: BTreeMap::new(),
        name_bytes: 0,
    });
    let mut listing = source.list()?;
    let mut claimed: BTreeMap<u32, PackFile> = BTreeMap::new();
    let mut proposed = FuturesOrdered::new();
    let mut chunk: Vec<(ListedFile, bool)> = Vec::new();
    let (mut bytes, mut number, mut listed) = (0, 0u32, 0usize);
    // The ledger is looked at here once a chunk has told that it saves something: a first load has only new files.
    let mut look_first = false;
    loop {
        let file = listing.next().await.transpose()?;
        let last = file.is_none();
        if let Some(file) = file {
            listed += 1;
            if listed > MOST_FILES {
                return Err(Error::exhausted(format!("more than {MOST_FILES} files match"))
                    .hint("narrow the path, or set MAX_FILES and repeat the statement"));
            }
            let name = source.name_of(&file.path);
            let taken = u32::try_from(claimed.len()).unwrap_or(u32::MAX);
            if let Some(unsent) = unsent.as_mut().filter(|_| look_first)
                && unsent.takes(&file, name, taken)?
            {
                continue;
            }
            let (name, splittable) = (name.to_owned(), can_split(&plan.format, plan.on_error.mode, &file));
            bytes += file.path.len() + name.len() + 160;
            chunk.push((ListedFile { path: file.path, name, version: file.version }, splittable));
        }
        if (last || bytes >= CHUNK_BYTES - 4096) && !chunk.is_empty() {
            // First polled below, in this order: so they are proposed, and applied, in this order.
            proposed.push_back(propose_chunk(replica, job, number, std::mem::take(&mut chunk)));
            number += 1;
            bytes = 0;
        } else if !last {
            continue;
        }
        loop {
            let answer = match last || proposed.len() >= PROPOSED_AT_ONCE {
                true => proposed.next().await,
                false => proposed.next().now_or_never().flatten(),
            };
            let Some(answer) = answer else { break };
            let Proposed { outcomes, sizes, splittable } = answer?;
            look_first = outcomes
                .iter()
                .any(|outcome| matches!(outcome, ClaimOutcome::AlreadyLoaded | ClaimOutcome::OverMaxFiles));
            for ((outcome, size), splittable) in outcomes.into_iter().zip(sizes).zip(splittable) {
                if let ClaimOutcome::Claimed(FileIndex(index)) = outcome {
                    // A path that is listed twice (FILES, overlapping globs) is one file.
                    claimed.entry(index).or_insert(PackFile { file: FileIndex(index), size, splittable });
                }
            }
        }
        if last {
            break;
        }
    }
    let skipped: Vec<SkippedFiles> =
        unsent.into_iter().flat_map(|unsent| unsent.skipped.into_values()).collect();
    if !skipped.is_empty() {
        replica.propose(Command::SkipFiles { job, chunk: number, skipped }).await?;
        number += 1;
    }
    // What a leader before this one has recorded of a listing in more chunks is counted no longer.
    let chunks = jobs::job(&*replica.local(), job)?.map_or(0, |job| job.chunks);
    for chunk in number..chunks {
        replica.propose(Command::SkipFiles { job, chunk, skipped: Vec::new() }).await?;
    }
    Ok(claimed.into_values().collect())
}

#[cfg(test)]
mod tests {
    use stevedore_common::file_identity::FileVersion;

    use super::*;

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
}
