//! The replicated state as the rest of the coordinator uses it: typed proposals from any node, reads that
//! are linearizable or local, events.
//!
//! Owns: the retry of a proposal until its outcome is known. A proposal goes to the leader, wherever it
//! is, always under the same (proposer, sequence), so that trying again can never apply it twice. Fails
//! with `unavailable` when it certainly did not happen and with `outcome unknown` when it may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stevedore_common::clock::Clock;
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_raft::{Event as RaftEvent, ProposeError, RaftHandle, Role};
use stevedore_state::command::{Command, Envelope};
use stevedore_state::event::Event;
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::peers::Peers;

/// How long a proposal is tried.
const PROPOSE_FOR: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// This node's view of the group.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    handle: RaftHandle,
    peers: Arc<Peers>,
    proposer: String,
    sequence: AtomicU64,
    clock: Arc<dyn Clock>,
    events: broadcast::Sender<Event>,
}

impl Replica {
    /// Over a running node.
    pub fn new(handle: RaftHandle, peers: Arc<Peers>, clock: Arc<dyn Clock>) -> Self {
        let (events, _) = broadcast::channel(4096);
        let inner = Inner {
            handle,
            peers,
            proposer: Uuid::new_v4().simple().to_string(),
            sequence: AtomicU64::new(1),
            clock,
            events,
        };
        let replica = Self { inner: Arc::new(inner) };
        replica.forward_events();
        replica
    }

    fn forward_events(&self) {
        let mut applied = self.inner.handle.events();
        let events = self.inner.events.clone();
        tokio::spawn(async move {
            while let Some(event) = applied.next().await {
                // `ReadStateAgain` needs no relay: whoever listens looks at the state now and then as well.
                if let RaftEvent::Applied { event, .. } = event
                    && let Ok(event) = serde_json::from_slice::<Event>(&event)
                {
                    // Nobody listening is fine: the state is the truth.
                    let _ = events.send(event);
                }
            }
        });
    }

    /// Proposes a command and waits for what it answered; a refusal is an error.
    ///
    /// # Errors
    /// The refusal; unavailable; outcome unknown.
    pub async fn propose(&self, command: Command) -> Result<CommandResult> {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        self.propose_as(self.inner.proposer.clone(), sequence, command).await
    }

    /// Proposes under a key of the caller's, so that whoever proposes it again gets the same answer.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub async fn propose_as(
        &self,
        proposer: String,
        sequence: u64,
        command: Command,
    ) -> Result<CommandResult> {
        let name = command.name();
        let envelope = Envelope { proposer, sequence, time_ms: self.inner.clock.now_ms(), command };
        let bytes = Bytes::from(envelope.encode()?);
        let deadline = Instant::now() + PROPOSE_FOR;
        let mut may_have_happened = false;
        loop {
            let error = match self.propose_once(bytes.clone()).await {
                Ok(result) => return CommandResult::decode(&result)?.into_result(),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::OutcomeUnknown => may_have_happened = true,
                ErrorKind::Unavailable => {}
                _ => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(if may_have_happened {
                    Error::outcome_unknown(format!(
                        "command {name} was proposed, its outcome is not known: {error}"
                    ))
                    .hint("ask for the object's state before trying again")
                } else {
                    Error::unavailable(format!("command {name} could not be proposed: {error}"))
                });
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn propose_once(&self, bytes: Bytes) -> Result<Bytes> {
        match self.inner.handle.propose(bytes.clone()).await {
            Ok(applied) => Ok(applied.result),
            Err(ProposeError::NotLeader { leader: Some(leader) }) if leader != self.inner.handle.id() => {
                self.inner.peers.propose(leader, bytes).await
            }
            Err(error) => Err(propose_error(error)),
        }
    }

    /// Proposes on this node only: for other coordinators, which forward to the leader.
    ///
    /// # Errors
    /// Unavailable, when this node does not lead.
    pub async fn propose_locally(&self, bytes: Bytes) -> Result<(Bytes, u64)> {
        let applied = self.inner.handle.propose(bytes).await.map_err(propose_error)?;
        Ok((applied.result, applied.index))
    }

    /// The state as of now or later: waits for a ReadIndex round.
    ///
    /// # Errors
    /// Unavailable, when no leader answers in time.
    pub async fn read(&self) -> Result<Arc<dyn ReadView>> {
        self.inner.handle.read_index().await?;
        Ok(self.inner.handle.view())
    }

    /// The state as applied here, which may be behind.
    pub fn local(&self) -> Arc<dyn ReadView> {
        self.inner.handle.view()
    }

    /// What happens, from now on. A lagging receiver must read the state.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Role, leader, term, indexes.
    pub fn status(&self) -> watch::Receiver<stevedore_raft::Status> {
        self.inner.handle.status()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.inner.handle.status().borrow().role == Role::Leader
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.handle.status().borrow().leader
    }

    /// The links to the other coordinators.
    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.handle.id()
    }

    /// The Raft node itself, for the services of the cluster port.
    pub fn handle(&self) -> &RaftHandle {
        &self.inner.handle
    }

    /// The clock that stamps commands.
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }
}

fn propose_error(error: ProposeError) -> Error {
    match error {
        ProposeError::OutcomeUnknown { .. } => Error::outcome_unknown(error.to_string()),
        ProposeError::WrongSize { .. } => Error::exhausted(error.to_string()),
        ProposeError::NotLeader { .. } | ProposeError::Dropped { .. } | ProposeError::Stopped => {
            Error::unavailable(error.to_string())
        }
    }
}
