//! Proposals in flight: who waits for which entry, and what a proposer can be told.

use std::collections::HashMap;

use bytes::Bytes;
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What a committed and applied proposal gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// The log index that it was applied at.
    pub index: u64,
    /// What the state machine answered.
    pub result: Bytes,
}

/// Why a proposal has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: this node does not lead. Certainly without effect.
    #[error("this node is not the leader{}", match leader { Some(id) => format!("; node {id} is"), None => "; none is known".to_owned() })]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Not proposed, for the reason given. Certainly without effect; trying again may help.
    #[error("the proposal was dropped: {reason}")]
    Dropped {
        /// Why.
        reason: String,
    },
    /// Proposed, and then leadership was lost or the node stopped: it may or may not take effect. Ask
    /// the state.
    #[error("the outcome of the proposal is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// Not proposed: the command is empty or larger than a log entry may be.
    #[error("a command of {bytes} bytes cannot be proposed: it must have 1 to {limit} bytes")]
    WrongSize {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// Not proposed: the node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl ProposeError {
    pub(crate) fn dropped(reason: impl Into<String>) -> Self {
        Self::Dropped { reason: reason.into() }
    }

    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self::OutcomeUnknown { reason: reason.into() }
    }

    /// Whether the proposal certainly has had and will have no effect.
    pub fn is_certainly_without_effect(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown { .. })
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        let kind = match &error {
            ProposeError::NotLeader { .. } | ProposeError::Dropped { .. } | ProposeError::Stopped => {
                ErrorKind::Unavailable
            }
            ProposeError::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            ProposeError::WrongSize { .. } => ErrorKind::InvalidInput,
        };
        Self::new(kind, error.to_string())
    }
}

pub(crate) type ProposeReply = oneshot::Sender<Result<Proposed, ProposeError>>;

/// A proposal on its way into the log.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) command: Bytes,
    pub(crate) reply: ProposeReply,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

struct Pending {
    term: u64,
    reply: ProposeReply,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Proposals of this run of this node, by the context of their entries: a random number of the run and
/// a sequence, so that entries of others and of earlier runs never match.
pub(crate) struct Proposals {
    run: [u8; 16],
    next: u64,
    pending: HashMap<u64, Pending>,
}

impl Proposals {
    pub(crate) fn new(run: [u8; 16]) -> Self {
        Self { run, next: 0, pending: HashMap::new() }
    }

    /// A context for the next entry; follow up with `insert` once the entry is in the log.
    pub(crate) fn next_context(&mut self) -> (u64, Vec<u8>) {
        self.next += 1;
        (self.next, [self.run.as_slice(), &self.next.to_be_bytes()].concat())
    }

    pub(crate) fn insert(
        &mut self,
        sequence: u64,
        term: u64,
        reply: ProposeReply,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        self.pending.insert(sequence, Pending { term, reply, _permit: permit });
    }

    /// The sequence of a context, if the entry was proposed here and someone still waits.
    pub(crate) fn waiting(&self, context: &[u8]) -> Option<u64> {
        let sequence = context.strip_prefix(self.run.as_slice())?.try_into().ok().map(u64::from_be_bytes)?;
        self.pending.contains_key(&sequence).then_some(sequence)
    }

    pub(crate) fn resolve(&mut self, sequence: u64, outcome: Result<Proposed, ProposeError>) {
        if let Some(pending) = self.pending.remove(&sequence) {
            // Whoever waited may have gone.
            let _ = pending.reply.send(outcome);
        }
    }

    /// Answers «unknown» to everything that was not proposed in the leadership of `term`.
    pub(crate) fn give_up(&mut self, still_leading_in: Option<u64>, reason: &str) {
        let lost: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| Some(pending.term) != still_leading_in)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in lost {
            self.resolve(sequence, Err(ProposeError::unknown(reason)));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}
