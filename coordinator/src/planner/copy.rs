//! The first phase of a COPY: listing, claiming, planning slices, sealing.
//!
//! Runs on the leader, from the job's plan alone, so a new leader does it again from the start: a file
//! that the job holds already keeps its index, slices that are planned already stay. Between claiming and planning
//! there is time to look into the files that were claimed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::file_identity::FileEntry;
use stevedore_common::ids::{FileIndex, JobId, SliceIndex};
use stevedore_common::{Error, Result};
use stevedore_state::command::{CHUNK_BYTES, Command, ListedFile, NewSlice};
use stevedore_state::jobs::{ErrorMode, SliceFile};
use stevedore_state::result::{ClaimOutcome, CommandResult};

use super::plan::CopyPlan;
use super::slices::{PackFile, PackRule, pack};
use crate::config::Scheduling;
use crate::replica::Replica;
use crate::stores::ResolvedSource;

/// Most files of one statement.
const MOST_FILES: usize = 10_000_000;
/// Most file parts in one slice command (each is a few dozen bytes).
const PARTS_A_COMMAND: usize = 500;

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
    let mut chunk = Vec::new();
    let mut parts = 0;
    let mut slices = slices.into_iter().peekable();
    while let Some(slice) = slices.next() {
        parts += slice.files.len().max(1);
        chunk.push(slice);
        let full = slices.peek().is_none_or(|next| parts + next.files.len() > PARTS_A_COMMAND);
        if full {
            let count = chunk.len() as u32;
            let command =
                Command::PlanSlices { job, first: SliceIndex(first), slices: std::mem::take(&mut chunk) };
            replica.propose(command).await?;
            first += count;
            parts = 0;
        }
    }
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

async fn claim(
    replica: &Replica,
    job: JobId,
    source: &ResolvedSource,
    plan: &CopyPlan,
) -> Result<Vec<PackFile>> {
    let mut listing = source.list()?;
    let mut claimed: BTreeMap<u32, PackFile> = BTreeMap::new();
    let mut chunk: Vec<(ListedFile, bool)> = Vec::new();
    let mut bytes = 0;
    let mut number = 0u32;
    let mut listed = 0usize;
    loop {
        let file = listing.next().await.transpose()?;
        let last = file.is_none();
        if let Some(file) = file {
            listed += 1;
            if listed > MOST_FILES {
                return Err(Error::exhausted(format!("more than {MOST_FILES} files match"))
                    .hint("narrow the path, or set MAX_FILES and repeat the statement"));
            }
            let splittable = can_split(&plan.format, plan.on_error.mode, &file);
            let name = source.name_of(&file.path).to_owned();
            bytes += file.path.len() + name.len() + 160;
            chunk.push((ListedFile { path: file.path, name, version: file.version }, splittable));
        }
        if (last || bytes >= CHUNK_BYTES - 4096) && !chunk.is_empty() {
            let (files, splittable): (Vec<_>, Vec<_>) = std::mem::take(&mut chunk).into_iter().unzip();
            let sizes: Vec<u64> = files.iter().map(|file| file.version.size).collect();
            let result = replica.propose(Command::ClaimFiles { job, chunk: number, files }).await?;
            let CommandResult::Claims(outcomes) = result else {
                return Err(Error::internal(format!("unexpected answer to a claim: {result:?}")));
            };
            for ((outcome, size), splittable) in outcomes.into_iter().zip(sizes).zip(splittable) {
                if let ClaimOutcome::Claimed(FileIndex(index)) = outcome {
                    // A path that is listed twice (FILES, overlapping globs) is one file.
                    claimed.entry(index).or_insert(PackFile { file: FileIndex(index), size, splittable });
                }
            }
            number += 1;
            bytes = 0;
        }
        if last {
            break;
        }
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
