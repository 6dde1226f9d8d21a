//! What a node says about itself, and the events it hands to subscribers.

use bytes::Bytes;
use stevedore_common::Error;
use stevedore_common::ids::NodeId;
use tokio::sync::broadcast;

use crate::state_store::Membership;

/// What a node currently is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// The name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre_candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// A node as of its last cycle; every field can serve as a metric.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This node.
    pub id: u64,
    /// What it is.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Leads, and has applied an entry of its own term: its state holds everything that any leader
    /// before it has committed. Only then may it decide on anything.
    pub leads_with_current_state: bool,
    /// The last index known to be committed.
    pub commit: u64,
    /// The last index applied.
    pub applied: u64,
    /// The first entry that the log still has.
    pub first_index: u64,
    /// The last entry of the log.
    pub last_index: u64,
    /// Proposals that wait for their outcome.
    pub pending_proposals: usize,
    /// The index of the newest snapshot that was made or installed (0: none).
    pub snapshot_index: u64,
    /// Who takes part.
    pub membership: Membership,
    /// Set once the node has ended: `Ok` after a shutdown.
    pub ended: Option<Result<(), Error>>,
}

/// What a subscriber learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state machine said this when the entry was applied. The state that a view shows is at this
    /// index or later.
    Applied {
        /// The log index.
        index: u64,
        /// What it said.
        event: Bytes,
    },
    /// Events were missed (a slow subscriber, or a snapshot replaced the state): read the state again.
    ReadStateAgain,
}

/// A subscription to events, from the moment it was made.
#[derive(Debug)]
pub struct Events {
    pub(crate) receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` once the node has ended.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::ReadStateAgain),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
