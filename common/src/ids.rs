//! Identifiers as types of their own, so that a job can never be taken for a table.
//!
//! ```compile_fail
//! use stevedore_common::ids::{StageId, TableId};
//! let table: TableId = StageId(1);
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{Error, Result};

macro_rules! number_ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                text.parse().map(Self).map_err(|_| {
                    Error::invalid(format!(concat!("'{}' is not a ", stringify!($name)), text))
                })
            }
        }
    )*};
}

number_ids! {
    /// A database, never reused.
    DatabaseId(u64);
    /// A table, never reused: a table dropped and created again has another id.
    TableId(u64);
    /// A connection.
    ConnectionId(u64);
    /// A stage, never reused; it names the folder of an internal stage.
    StageId(u64);
    /// A named file format.
    FileFormatId(u64);
    /// A member of the Raft group.
    NodeId(u64);
    /// The number of a try at a slice, from 1. Handed out by the replicated state only.
    Attempt(u32);
    /// The place of a file task within its job, from 0.
    FileIndex(u32);
    /// The place of a slice within its job, from 0.
    SliceIndex(u32);
    /// A scheduled task, never reused.
    TaskId(u64);
    /// A run of a scheduled task: its number, in the order in which runs began.
    TaskRun(u64);
    /// A stream, never reused: a stream dropped and created again has another id.
    StreamId(u64);
}

/// An id that is the same whenever it is made of the same: of another id, for something that belongs to it.
pub fn derived_id(of: Uuid, what: &[u8]) -> Uuid {
    let digest = Sha256::new().chain_update(of).chain_update(what).finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A job: one COPY, INSERT or CREATE TABLE AS from its submission to its end. A UUID (version 7)
/// that the proposer makes, so that a retried proposal names the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl JobId {
    /// A new id, ordered by the time it was made.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| Error::invalid(format!("'{text}' is not a job id (a UUID is expected)")))
    }
}

/// A multi-statement transaction: a UUID (version 7) that the proposer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(pub Uuid);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A worker as it names itself in its configuration, unique in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of one job: the unit of errors and of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileTaskKey {
    /// The job.
    pub job: JobId,
    /// The file within it.
    pub file: FileIndex,
}

/// One slice of one job: the unit that a worker leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// The job.
    pub job: JobId,
    /// The slice within it.
    pub slice: SliceIndex,
}

/// One try at a slice. Reports from any attempt but the current one are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The slice.
    pub slice: SliceKey,
    /// The try.
    pub attempt: Attempt,
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.slice)
    }
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.slice, self.attempt)
    }
}
