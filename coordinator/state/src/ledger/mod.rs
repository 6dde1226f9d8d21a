//! The ledger: which files a table has loaded, and which jobs hold a claim.
//!
//! An entry per (table, ledger generation, store, path). Its claims say which jobs took the file;
//! what a claim *means* follows from its job: of a live job it holds the file, of a committed one
//! whose report says «loaded» it is as good as `loaded_by`, of any other it is nothing. So ending a
//! job of any size is one small command. Whoever rewrites an entry makes this explicit
//! ([`resolve`]); `SettleLedger` does it for a whole ended job, after which its record can go.
//!
//! Must never lose a `loaded_by`, except by TRUNCATE, which starts a new generation.

mod read;
pub(crate) mod settle;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stevedore_common::Result;
use stevedore_common::clock::UnixMillis;
use stevedore_common::file_identity::FileVersion;
use stevedore_common::ids::{FileIndex, JobId};

use crate::jobs::{self, FileStatusKind, Job, JobPhase};
use crate::view::ReadView;

pub use read::*;

/// A ledger entry as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The load that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_by: Option<LoadedBy>,
    /// Claims, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
}

impl LedgerEntry {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.loaded_by.is_none() && self.claims.is_empty()
    }
}

/// A job's claim of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// The file within it.
    pub file: FileIndex,
}

/// A committed load of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedBy {
    /// The job.
    pub job: JobId,
    /// The file within it.
    pub file: FileIndex,
    /// The version that was read.
    pub version: FileVersion,
    /// Rows loaded.
    pub rows: u64,
    /// Rows rejected.
    pub errors: u64,
    /// When the job committed.
    pub loaded_on_ms: UnixMillis,
    /// The number of the job's commit: of several loads the last in the log counts.
    pub commit_number: u64,
    /// PURGE deleted this version: when another appears under the path, it is a new file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purged: bool,
}

impl LoadedBy {
    /// What this load says about a file found under its path now. A listing older than the purge
    /// still shows the purged version itself, modification time included: that is no new file.
    pub fn verdict(&self, found: &FileVersion) -> LoadVerdict {
        if self.purged {
            if self.version == *found { LoadVerdict::Same } else { LoadVerdict::New }
        } else if self.version.same_content(found) {
            LoadVerdict::Same
        } else {
            LoadVerdict::Changed
        }
    }
}

/// See [`LoadedBy::verdict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadVerdict {
    /// It is loaded.
    Same,
    /// Other content under a path that is loaded.
    Changed,
    /// A new file.
    New,
}

/// Jobs that were looked up already, for who asks for many entries.
#[derive(Default)]
pub(crate) struct KnownJobs(BTreeMap<JobId, Option<Job>>);

impl KnownJobs {
    /// A job's record.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn job(&mut self, view: &dyn ReadView, id: JobId) -> Result<Option<Job>> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let found = jobs::job(view, id)?;
        self.0.insert(id, found.clone());
        Ok(found)
    }
}

/// What an entry means once its claims' jobs are looked up: `loaded_by`, and the claims of jobs
/// that can still load. `job` answers a job's record; it is a parameter so that callers who ask for
/// many entries look a job up once.
///
/// # Errors
/// Storage.
pub fn resolve(
    view: &dyn ReadView,
    entry: LedgerEntry,
    job: &mut dyn FnMut(JobId) -> Result<Option<Job>>,
) -> Result<LedgerEntry> {
    let LedgerEntry { mut loaded_by, claims } = entry;
    let mut live = Vec::new();
    for claim in claims {
        let Some(job) = job(claim.job)? else { continue };
        match job.phase {
            JobPhase::Claiming | JobPhase::Running | JobPhase::Committing => live.push(claim),
            JobPhase::Aborted | JobPhase::Cancelled => {}
            JobPhase::Purging | JobPhase::Committed => {
                let candidate = loaded(view, &job, claim.file)?;
                if let Some(candidate) = candidate
                    && loaded_by
                        .as_ref()
                        .is_none_or(|current| current.commit_number < candidate.commit_number)
                {
                    loaded_by = Some(candidate);
                }
            }
        }
    }
    Ok(LedgerEntry { loaded_by, claims: live })
}

fn loaded(view: &dyn ReadView, job: &Job, file: FileIndex) -> Result<Option<LoadedBy>> {
    let Some(status) = jobs::committed_file_status(view, job, file)? else { return Ok(None) };
    if !matches!(status.status, FileStatusKind::Loaded | FileStatusKind::PartiallyLoaded) {
        return Ok(None);
    }
    Ok(Some(LoadedBy {
        job: job.id,
        file,
        version: status.version,
        rows: status.rows,
        errors: status.errors,
        loaded_on_ms: job.committed.as_ref().map_or(0, |summary| summary.committed_on_ms),
        commit_number: job.commit_number,
        purged: status.purge.is_some_and(jobs::PurgeOutcome::is_gone),
    }))
}
