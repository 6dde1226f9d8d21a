//! What a coordinator is told at start. Reading files, flags and the environment is the command's work.

use std::net::SocketAddr;
use std::path::PathBuf;

use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};

use crate::planner::slices::MIN_SLICE_BYTES;

/// A voter of the group, this node included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Where its cluster port answers: `http://host:8901`.
    pub cluster_address: String,
    /// Where its client port answers: `http://host:8900`.
    pub client_address: String,
}

/// Below it hardly a page stays in the cache.
const LEAST_STATE_CACHE: u64 = 4 << 20;

/// A larger portion makes whoever writes its rows wait for them.
const MOST_PORTION: u64 = 8 << 20;

/// Limits on what clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest gRPC message, bytes.
    pub message_bytes: usize,
    /// Largest Flight message, bytes: bulk ingestion sends a whole batch in one.
    pub batch_bytes: usize,
    /// Most client sessions at a time.
    pub sessions: usize,
    /// A session that was not used for this long is closed, milliseconds.
    pub session_idle_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 16 << 20,
            batch_bytes: 160 << 20,
            sessions: 10_000,
            session_idle_ms: 24 * 3600 * 1000,
        }
    }
}

/// How work is cut and leased.
#[derive(Debug, Clone)]
pub struct Scheduling {
    /// A worker that was not heard for this long has lost its slices, milliseconds.
    pub lease_ms: i64,
    /// How often workers send heartbeats, milliseconds.
    pub heartbeat_ms: u64,
    /// Input bytes that a slice of small files is packed to.
    pub slice_bytes: u64,
    /// Most files of a slice.
    pub slice_files: usize,
    /// Input bytes that small files are gathered to, whatever `slice_bytes` says, so that they end in data files of a
    /// good size. 0: twice `target_file_bytes`, where `slice_bytes` is no smaller than usual.
    pub lane_bytes: u64,
    /// A file that can be split is, above this size, bytes.
    pub split_above_bytes: u64,
    /// Size that written data files aim at, bytes.
    pub target_file_bytes: u64,
    /// The records of jobs that ended this many days ago are trimmed. What stops a second load of a file
    /// is kept.
    pub job_history_days: i64,
    /// Runs of scheduled tasks that ended this many days ago are forgotten.
    pub task_history_days: i64,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            lease_ms: 10_000,
            heartbeat_ms: 1_000,
            slice_bytes: 128 << 20,
            slice_files: 1_000,
            lane_bytes: 0,
            split_above_bytes: 512 << 20,
            target_file_bytes: 256 << 20,
            job_history_days: 30,
            task_history_days: 7,
        }
    }
}

impl Scheduling {
    /// What small files are gathered to; `None`: slices are what `slice_bytes` says.
    pub fn lane_bytes(&self) -> Option<u64> {
        match self.lane_bytes {
            0 if self.slice_bytes < MIN_SLICE_BYTES => None,
            0 => Some(self.target_file_bytes.saturating_mul(2)),
            bytes => Some(bytes),
        }
    }

    /// Input bytes of a portion of such a slice, which a worker reads for another.
    pub fn portion_bytes(&self) -> u64 {
        self.lane_bytes().map_or(MOST_PORTION, |lane| lane / 32).clamp(1, MOST_PORTION)
    }
}

/// A coordinator's configuration.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// This node.
    pub node_id: NodeId,
    /// The cluster's name; peers of another one are refused.
    pub cluster_id: String,
    /// Where the log and the state lie.
    pub data_dir: PathBuf,
    /// Client port: Flight SQL, jobs, health, reflection.
    pub listen: SocketAddr,
    /// Cluster port: Raft and worker sessions.
    pub cluster_listen: SocketAddr,
    /// Health, readiness and metrics over HTTP.
    pub http_listen: Option<SocketAddr>,
    /// All voters. One: a group of one node.
    pub peers: Vec<Peer>,
    /// Make a new group where the data folder is empty. Without it an empty folder is an error.
    pub bootstrap: bool,
    /// Where table data lies (URI); `None`: `warehouse/` in the data folder.
    pub warehouse: Option<String>,
    /// Connection keys of the warehouse (`endpoint_url`, `access_key_id`, …).
    pub warehouse_options: Vec<(String, String)>,
    /// Local folders that `fs://` stages may name.
    pub allowed_fs_roots: Vec<PathBuf>,
    /// Whether stages may name loopback and private network addresses.
    pub allow_private_network: bool,
    /// Whether S3 connections without keys use the identity of the machine (of the coordinator and of workers).
    pub allow_ambient_credentials: bool,
    /// The key that seals secrets (base64 of 32 bytes); `None`: made and kept in the data folder,
    /// which only a group of one node may do.
    pub sealing_key: Option<String>,
    /// Listen on addresses that are not loopback although there are no accounts yet.
    pub insecure: bool,
    /// What of the replicated state is kept in memory, bytes as on disk (in memory up to four times as many);
    /// `None`: 64 MiB.
    pub state_cache_bytes: Option<u64>,
    /// Limits.
    pub limits: Limits,
    /// Scheduling.
    pub scheduling: Scheduling,
}

impl CoordinatorConfig {
    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// Invalid input that names the option.
    pub fn validate(&self) -> Result<()> {
        if !matches!(self.peers.len(), 1 | 3 | 5) {
            return Err(Error::invalid(format!(
                "a group has 1, 3 or 5 coordinators, {} are given",
                self.peers.len()
            )));
        }
        if !self.peers.iter().any(|peer| peer.id == self.node_id) {
            return Err(Error::invalid(format!("node_id {} is not among the peers", self.node_id)));
        }
        if self.peers.len() > 1 && self.sealing_key.is_none() {
            return Err(Error::invalid("a group of several coordinators needs the same sealing key on each")
                .hint("set sealing_key, or STEVEDORE_SEALING_KEY, to base64 of 32 random bytes"));
        }
        if self.peers.len() > 1 && self.warehouse.is_none() {
            return Err(Error::invalid(
                "a group of several coordinators needs a warehouse that all can reach",
            )
            .hint("set warehouse to s3://bucket/path/ or a shared folder"));
        }
        if self.state_cache_bytes.is_some_and(|bytes| bytes < LEAST_STATE_CACHE) {
            return Err(Error::invalid(format!("state_cache_bytes must be {LEAST_STATE_CACHE} at least")));
        }
        if !self.insecure {
            for (option, address) in [
                ("listen", Some(self.listen)),
                ("cluster_listen", Some(self.cluster_listen)),
                ("http", self.http_listen),
            ] {
                if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
                    return Err(Error::denied(format!(
                        "{option} is {address}, which others can reach, and there are no accounts yet"
                    ))
                    .hint("listen on 127.0.0.1, or allow it with --insecure"));
                }
            }
        }
        Ok(())
    }
}
