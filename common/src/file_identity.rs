//! Which file, and which version of it: what the ledger keys on and what a read is pinned to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;

/// The store that a path lives in, so that two endpoints with the same bucket name never collide:
/// (kind, endpoint or account, bucket), with the revision for a hub and the stage id for an
/// internal stage folded into the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Storage type: `s3`, `fs`, `https`, `internal`, …
    pub kind: String,
    /// Endpoint URL or account; empty where the kind has just one.
    pub endpoint: String,
    /// Bucket, container, host, or `stage-<id>`.
    pub container: String,
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}|{}", self.kind, self.endpoint, self.container)
    }
}

/// One version of a file, as the listing showed it. Reads are pinned to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileVersion {
    /// Bytes.
    pub size: u64,
    /// The store's entity tag, where it has one (quotes removed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The store's version id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Last modification.
    pub last_modified_ms: UnixMillis,
}

impl FileVersion {
    /// Whether the store gave something that changes with the content, so that separate ranged
    /// reads can be proven to be of one version. Without it a file is read in one go.
    pub fn has_validator(&self) -> bool {
        self.etag.is_some() || self.version.is_some()
    }

    /// Whether `other` is the same content as far as the store can tell.
    pub fn same_content(&self, other: &Self) -> bool {
        match (&self.version, &other.version, &self.etag, &other.etag) {
            (Some(a), Some(b), _, _) => a == b,
            (_, _, Some(a), Some(b)) => a == b && self.size == other.size,
            // HTTP dates are whole seconds, listings often finer.
            _ => {
                let seconds = |version: &Self| version.last_modified_ms.div_euclid(1000);
                self.size == other.size && seconds(self) == seconds(other)
            }
        }
    }
}

/// A file as a listing gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The path within the store (from the bucket's or root's top), without a leading slash.
    pub path: String,
    /// The version listed.
    pub version: FileVersion,
}
