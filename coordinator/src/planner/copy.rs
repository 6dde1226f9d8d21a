//! The first phase of a COPY: listing and claiming; then its slices are planned ([`super::planning`]).
//!
//! Runs on the leader, from the job's plan alone, so a new leader does it again from the start: a file
//! that the job holds already keeps its index. Files that the ledger has
//! as loaded are not sent through the log one by one: a COPY that runs every minute over a large folder costs
//! its listing and a look at each name. Between claiming and planning there is time to look into the files that
//! were claimed.
//!
//! Nothing here grows with the number of files: the listing is claimed as it comes. No view of the state is held
//! meanwhile, since it would keep in memory what is overwritten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use stevedore_common::file_identity::{FileEntry, StoreIdentity};
use stevedore_common::ids::{FileIndex, JobId};
use stevedore_common::{Error, Result};
use stevedore_state::catalog::{self, Table};
use stevedore_state::command::{CHUNK_BYTES, Command, ListedFile};
use stevedore_state::jobs::{
    self, ClaimRule, Job, MAX_SKIPPED_NAMES, SkipReason, SkippedFiles, preview_claim,
};
use stevedore_state::result::{ClaimOutcome, CommandResult};
use stevedore_state::view::ReadView;

use crate::replica::Replica;
use crate::stores::ResolvedSource;

/// Most files of one statement.
const MOST_FILES: usize = 10_000_000;
/// Commands of one statement that are on their way at a time: the log is made durable for several at once.
pub(super) const PROPOSED_AT_ONCE: usize = 4;
/// Bytes of the names of files that are not sent to be claimed; they travel in one command.
const UNSENT_NAME_BYTES: usize = 32 << 10;

/// What a job has claimed; the files themselves are in the state.
#[derive(Debug)]
pub struct Claimed {
    files: u32,
    pub(super) took: Duration,
}

impl Claimed {
    /// Whether there is nothing to load.
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }
}

/// Lists and claims.
///
/// # Errors
/// What listing says, naming the location; refusals (the job was cancelled meanwhile).
pub async fn list_and_claim(replica: &Replica, source: &ResolvedSource, job: JobId) -> Result<Claimed> {
    let started = Instant::now();
    claim(replica, job, source).await?;
    // Those of a listing before this one too, by a leader before this one: they are the job's as well.
    let files = record_of(&*replica.read().await?, job)?.files;
    Ok(Claimed { files, took: started.elapsed() })
}

pub(super) fn record_of(view: &dyn ReadView, job: JobId) -> Result<Job> {
    jobs::job(view, job)?.ok_or_else(|| Error::not_found(format!("job {job} is gone")))
}

async fn propose_chunk(
    replica: &Replica,
    job: JobId,
    chunk: u32,
    files: Vec<ListedFile>,
) -> Result<Vec<ClaimOutcome>> {
    match replica.propose(Command::ClaimFiles { job, chunk, files }).await? {
        CommandResult::Claims(outcomes) => Ok(outcomes),
        result => Err(Error::internal(format!("unexpected answer to a claim: {result:?}"))),
    }
}

/// Files that need not be sent to be claimed, since the ledger here says already what would become of them.
struct Unsent<'a> {
    replica: &'a Replica,
    table: Table,
    store: &'a StoreIdentity,
    rule: ClaimRule,
    skipped: BTreeMap<SkipReason, SkippedFiles>,
    name_bytes: usize,
}

impl Unsent<'_> {
    /// Whether the file is counted here and need not be sent; `taken` files are claimed for certain.
    fn takes(&mut self, file: &FileEntry, name: &str, taken: u32) -> Result<bool> {
        let view = self.replica.local();
        let outcome = preview_claim(&*view, &self.table, self.store, file, self.rule, taken)?;
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

async fn claim(replica: &Replica, job: JobId, source: &ResolvedSource) -> Result<()> {
    let (table, rule) = {
        let view = replica.local();
        let spec = jobs::job_spec(&*view, job)?
            .ok_or_else(|| Error::internal(format!("job {job} has no specification")))?;
        let table = spec.table.map(|table| catalog::table_by_id(&*view, table)).transpose()?.flatten();
        (table, ClaimRule { force: spec.force, max_files: spec.max_files })
    };
    let store = &source.identity;
    let mut unsent =
        table.map(|table| Unsent { replica, table, store, rule, skipped: BTreeMap::new(), name_bytes: 0 });
    let mut listing = source.list()?;
    let mut proposed = FuturesOrdered::new();
    let mut chunk: Vec<ListedFile> = Vec::new();
    let (mut bytes, mut number, mut listed) = (0, 0u32, 0usize);
    // Files that are claimed for certain.
    let mut taken = 0u32;
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
            if let Some(unsent) = unsent.as_mut().filter(|_| look_first)
                && unsent.takes(&file, name, taken)?
            {
                continue;
            }
            let name = name.to_owned();
            bytes += file.path.len() + name.len() + 160;
            chunk.push(ListedFile { path: file.path, name, version: file.version });
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
            look_first = false;
            for outcome in answer? {
                match outcome {
                    // A path that is listed twice (FILES, overlapping globs) is one file.
                    ClaimOutcome::Claimed(FileIndex(index)) => taken = taken.max(index.saturating_add(1)),
                    ClaimOutcome::AlreadyLoaded | ClaimOutcome::OverMaxFiles => look_first = true,
                    ClaimOutcome::Changed | ClaimOutcome::ClaimedBy(_) | ClaimOutcome::Empty => {}
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
    Ok(())
}
