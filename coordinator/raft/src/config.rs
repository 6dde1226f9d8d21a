//! What a node is started with.

use std::path::PathBuf;
use std::time::Duration;

use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};

/// How to treat the data folder. None of them ever replaces a store that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The store must be there already: the normal restart. A voter that lost its disk stops here.
    Open,
    /// Makes the store of a founding member; refused if there is one. Done once in a cluster's life,
    /// on every founding member, with the same voters.
    Bootstrap,
    /// Opens the store if there is one, otherwise bootstraps, and only into an empty folder. For
    /// single nodes and tests: a voter of a larger cluster that lost its disk must not vote again.
    OpenOrBootstrap,
    /// Makes an empty store for a member that others add later; refused if there is one.
    Join,
}

/// The configuration of one node. Start from [`NodeConfig::new`].
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The number of this node, from 1.
    pub id: NodeId,
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// The founding voters (with [`Start::Bootstrap`] and [`Start::OpenOrBootstrap`]).
    pub voters: Vec<NodeId>,
    /// Where log, state and snapshots lie; `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// The length of a tick.
    pub tick: Duration,
    /// Ticks without a leader before an election (randomised up to twice that).
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// After a stall at most this many ticks are made up for, so that it does not look like an
    /// election timeout.
    pub max_ticks_at_once: u32,
    /// How many inputs share one write to disk.
    pub max_inputs_per_cycle: usize,
    /// Entries behind the applied index that stay in the log for slow followers.
    pub log_tail_entries: u64,
    /// The log is cut off when it has this many entries before the tail …
    pub compact_after_entries: u64,
    /// … or when this many bytes have been added since.
    pub compact_after_bytes: u64,
    /// Bytes of proposals that may wait for their commit; further callers wait.
    pub max_bytes_in_flight: usize,
    /// Ticks after which a linearizable read gives up.
    pub read_timeout_ticks: u64,
    /// sled's cache for the log. Its newest entries are kept apart from it.
    pub log_cache_bytes: u64,
    /// sled's cache for the state, as its pages lie on disk: in memory they take up to four times that.
    pub state_cache_bytes: u64,
    /// Events that a slow subscriber may lag behind before it has to read the state again.
    pub event_buffer: usize,
    /// Makes elections and proposal contexts repeatable. For simulations only, and another one for
    /// every start: entries of an earlier run must not pass for this run's.
    pub seed: Option<u64>,
}

impl NodeConfig {
    /// The defaults, in memory.
    pub fn new(id: NodeId, cluster_id: impl Into<String>, voters: Vec<NodeId>) -> Self {
        Self {
            id,
            cluster_id: cluster_id.into(),
            voters,
            data_dir: None,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 2,
            max_ticks_at_once: 3,
            max_inputs_per_cycle: 128,
            log_tail_entries: 1_000,
            compact_after_entries: 10_000,
            compact_after_bytes: 64 * 1024 * 1024,
            max_bytes_in_flight: 32 * 1024 * 1024,
            read_timeout_ticks: 50,
            log_cache_bytes: 16 * 1024 * 1024,
            state_cache_bytes: 64 * 1024 * 1024,
            event_buffer: 4_096,
            seed: None,
        }
    }

    /// Checks what can be checked without the disk.
    ///
    /// # Errors
    /// Invalid input, naming the option.
    pub fn validate(&self) -> Result<()> {
        if self.id.0 == 0 {
            return Err(Error::invalid("a node id must not be 0"));
        }
        if self.cluster_id.is_empty() {
            return Err(Error::invalid("the cluster id must not be empty"));
        }
        if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            return Err(Error::invalid(format!(
                "the election timeout of {} ticks must be longer than the heartbeat of {} ticks, which must not be 0",
                self.election_ticks, self.heartbeat_ticks
            )));
        }
        if self.max_bytes_in_flight < 2 * crate::MAX_COMMAND_BYTES {
            return Err(Error::invalid(
                "the bytes in flight must have room for two commands of the largest size",
            ));
        }
        if self.tick.is_zero() || self.max_inputs_per_cycle == 0 || self.event_buffer == 0 {
            return Err(Error::invalid("tick, inputs per cycle and event buffer must not be 0"));
        }
        Ok(())
    }

    /// The founding voters, sorted, after checking them.
    pub(crate) fn founding_voters(&self) -> Result<Vec<u64>> {
        let mut voters: Vec<u64> = self.voters.iter().map(|v| v.0).collect();
        voters.sort_unstable();
        let count = voters.len();
        voters.dedup();
        if voters.len() != count || voters.contains(&0) {
            return Err(Error::invalid(format!("the voters {:?} must differ and not be 0", self.voters)));
        }
        if !voters.contains(&self.id.0) {
            return Err(Error::invalid(format!("node {} is not among the voters {voters:?}", self.id)));
        }
        Ok(voters)
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: 64 * 1024,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: 64 * 1024 * 1024,
            max_committed_size_per_ready: 8 * 1024 * 1024,
            ..raft::Config::default()
        }
    }
}
