//! Claiming files: the meeting of a listing and the ledger. The hot path of a COPY of many small
//! files: a claimed file costs two records, its ledger entry and its place in the job; a skipped one
//! costs a look. Whoever lists may look first, and send what is loaded already as a number ([`skip_unsent`]).

use std::collections::BTreeMap;

use stevedore_common::file_identity::{FileEntry, FileVersion, StoreIdentity};
use stevedore_common::ids::{FileIndex, JobId};
use stevedore_common::{Error, Result};

use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog::Table;
use crate::command::ListedFile;
use crate::jobs::create::{put, require, require_spec, wrong_phase};
use crate::jobs::{self, Job, JobFile, JobPhase, MAX_SKIPPED_NAMES, SkipReason, SkippedFiles};
use crate::keys;
use crate::ledger::{Claim, KnownJobs, LedgerEntry, LoadVerdict, ledger_entry, resolve};
use crate::result::{ClaimOutcome, CommandResult};
use crate::view::ReadView;

const MAX_PATH_BYTES: usize = 8 * 1024;

pub(crate) fn claim(
    txn: &mut Transaction<'_>,
    id: JobId,
    chunk: u32,
    files: &[ListedFile],
) -> Outcome<CommandResult> {
    let mut job = require_chunk(txn, id, chunk)?;
    let Some(table) = job.table else {
        return refuse(Error::invalid(format!("job {id} has no table to claim files for")));
    };
    forget_skipped(txn, &mut job, chunk)?;
    let spec = require_spec(txn, id)?;
    let mut known = KnownJobs::default();
    let mut skipped: BTreeMap<(SkipReason, Option<JobId>), SkippedFiles> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(files.len());
    for file in files {
        if file.path.is_empty() || file.path.len() > MAX_PATH_BYTES {
            return refuse(Error::invalid(format!(
                "the path of file '{}' has {} bytes; 1 to {MAX_PATH_BYTES} are allowed",
                file.name.chars().take(100).collect::<String>(),
                file.path.len()
            )));
        }
        let key = keys::ledger_entry(table, job.ledger_generation, job.store, &file.path);
        let stored: LedgerEntry = txn.read(&key)?.unwrap_or_default();
        let entry = resolve(txn.view(), stored, &mut |other| known.job(txn.view(), other))?;
        let own = entry.claims.iter().find(|claim| claim.job == id).map(|claim| claim.file);
        let rule = ClaimRule { force: spec.force, max_files: spec.max_files };
        let outcome = decide(own, rule, job.files, &entry, &file.version);
        match outcome {
            ClaimOutcome::Claimed(index) if index.0 < job.files => repin(txn, &mut job, index, file)?,
            ClaimOutcome::Claimed(index) => {
                let LedgerEntry { loaded_by, mut claims } = entry;
                claims.push(Claim { job: id, file: index });
                txn.put(key, &LedgerEntry { loaded_by, claims })?;
                let record = JobFile {
                    path: file.path.clone(),
                    name: file.name.clone(),
                    version: file.version.clone(),
                };
                txn.put(keys::job_file(id, index), &record)?;
                job.files += 1;
                job.bytes = job.bytes.saturating_add(file.version.size);
            }
            ClaimOutcome::AlreadyLoaded => {
                skip(&mut job, &mut skipped, SkipReason::AlreadyLoaded, None, file)
            }
            ClaimOutcome::Changed => skip(&mut job, &mut skipped, SkipReason::Changed, None, file),
            ClaimOutcome::ClaimedBy(by) => skip(&mut job, &mut skipped, SkipReason::Claimed, Some(by), file),
            ClaimOutcome::Empty => skip(&mut job, &mut skipped, SkipReason::Empty, None, file),
            ClaimOutcome::OverMaxFiles => skip(&mut job, &mut skipped, SkipReason::OverMaxFiles, None, file),
        }
        outcomes.push(outcome);
    }
    if !skipped.is_empty() {
        let groups: Vec<SkippedFiles> = skipped.into_values().collect();
        txn.put(keys::skipped_chunk(id, chunk), &groups)?;
    }
    job.chunks = job.chunks.max(chunk + 1);
    put(txn, &job)?;
    Ok(CommandResult::Claims(outcomes))
}

/// The job of a chunk that comes in its turn, or again.
fn require_chunk(txn: &Transaction<'_>, id: JobId, chunk: u32) -> Outcome<Job> {
    let job = require(txn, id)?;
    if job.phase != JobPhase::Claiming {
        return refuse(wrong_phase(&job, "it claims no more files"));
    }
    if chunk > job.chunks {
        let error = format!("chunk {chunk} of the listing of job {id} comes before chunk {}", job.chunks);
        // Several are on their way at a time, and one before it was lost: listing again sets it right.
        return refuse(Error::conflict(error).retryable(true));
    }
    Ok(job)
}

/// Records files that whoever listed them did not send to be claimed.
pub(crate) fn skip_unsent(
    txn: &mut Transaction<'_>,
    id: JobId,
    chunk: u32,
    skipped: &[SkippedFiles],
) -> Outcome<CommandResult> {
    let mut job = require_chunk(txn, id, chunk)?;
    forget_skipped(txn, &mut job, chunk)?;
    let mut groups = Vec::with_capacity(skipped.len());
    for group in skipped {
        if !is_limited(group.reason) || group.by.is_some() || group.names.len() as u64 > group.count {
            return refuse(Error::invalid(format!(
                "{} files of job {id} cannot be skipped as {} unless they are claimed",
                group.count,
                group.reason.as_str()
            )));
        }
        let counted = job.skipped.entry(group.reason).or_default();
        let names = usize::try_from(MAX_SKIPPED_NAMES.saturating_sub(*counted)).unwrap_or(usize::MAX);
        *counted += group.count;
        groups
            .push(SkippedFiles { names: group.names.iter().take(names).cloned().collect(), ..group.clone() });
    }
    job.skipped.retain(|_, count| *count > 0);
    if !groups.is_empty() {
        txn.put(keys::skipped_chunk(id, chunk), &groups)?;
    }
    job.chunks = job.chunks.max(chunk + 1);
    put(txn, &job)?;
    Ok(CommandResult::Claims(Vec::new()))
}

/// Whether the names of files that are skipped for this reason are recorded up to a limit only: there may be as
/// many as the bucket has.
fn is_limited(reason: SkipReason) -> bool {
    matches!(reason, SkipReason::AlreadyLoaded | SkipReason::OverMaxFiles)
}

/// What a COPY says about the files that it may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClaimRule {
    /// FORCE.
    pub force: bool,
    /// MAX_FILES.
    pub max_files: Option<u32>,
}

/// What would become of a listed file if a COPY that has taken `taken` files claimed it now.
///
/// # Errors
/// Storage.
pub fn preview_claim(
    view: &dyn ReadView,
    table: &Table,
    store: &StoreIdentity,
    file: &FileEntry,
    rule: ClaimRule,
    taken: u32,
) -> Result<ClaimOutcome> {
    let entry = ledger_entry(view, table, store, &file.path)?;
    Ok(decide(None, rule, taken, &entry, &file.version))
}

/// What becomes of a file that the job itself has claimed as `own`, or not yet, given what its ledger entry
/// means and how many files the job has taken.
fn decide(
    own: Option<FileIndex>,
    rule: ClaimRule,
    taken: u32,
    entry: &LedgerEntry,
    version: &FileVersion,
) -> ClaimOutcome {
    if let Some(own) = own {
        return ClaimOutcome::Claimed(own);
    }
    if version.size == 0 {
        return ClaimOutcome::Empty;
    }
    // FORCE loads whatever the ledger says, and puts its claim beside what is there.
    if !rule.force {
        match entry.loaded_by.as_ref().map(|loaded| loaded.verdict(version)) {
            Some(LoadVerdict::Same) => return ClaimOutcome::AlreadyLoaded,
            Some(LoadVerdict::Changed) => return ClaimOutcome::Changed,
            Some(LoadVerdict::New) | None => {}
        }
        if let Some(other) = entry.claims.first() {
            return ClaimOutcome::ClaimedBy(other.job);
        }
    }
    if rule.max_files.is_some_and(|max| taken >= max) {
        return ClaimOutcome::OverMaxFiles;
    }
    ClaimOutcome::Claimed(FileIndex(taken))
}

/// Takes over the version of a newer listing, as long as no slice has been made of the older one.
fn repin(txn: &mut Transaction<'_>, job: &mut Job, index: FileIndex, file: &ListedFile) -> Outcome<()> {
    let id = job.id;
    let planned = txn.read::<jobs::FilePart>(&keys::file_part(id, index, 0))?.is_some();
    let key = keys::job_file(id, index);
    if !planned
        && let Some(mut record) = txn.read::<JobFile>(&key)?
        && record.version != file.version
    {
        job.bytes = job.bytes.saturating_sub(record.version.size).saturating_add(file.version.size);
        record.version = file.version.clone();
        txn.put(key, &record)?;
    }
    Ok(())
}

fn skip(
    job: &mut Job,
    skipped: &mut BTreeMap<(SkipReason, Option<JobId>), SkippedFiles>,
    reason: SkipReason,
    by: Option<JobId>,
    file: &ListedFile,
) {
    let group = skipped.entry((reason, by)).or_insert_with(|| SkippedFiles {
        reason,
        by,
        count: 0,
        names: Vec::new(),
    });
    let counted = job.skipped.entry(reason).or_default();
    // A COPY that runs every minute over a folder that is loaded must not fill the state with it.
    if !is_limited(reason) || *counted < MAX_SKIPPED_NAMES {
        group.names.push(file.name.clone());
    }
    group.count += 1;
    *counted += 1;
}

/// Takes back what an earlier proposal of the same chunk recorded as skipped.
fn forget_skipped(txn: &mut Transaction<'_>, job: &mut Job, chunk: u32) -> Outcome<()> {
    let key = keys::skipped_chunk(job.id, chunk);
    let Some(groups) = txn.read::<Vec<SkippedFiles>>(&key)? else { return Ok(()) };
    for group in groups {
        if let Some(count) = job.skipped.get_mut(&group.reason) {
            *count = count.saturating_sub(group.count);
        }
    }
    job.skipped.retain(|_, count| *count > 0);
    txn.delete(key);
    Ok(())
}
