//! The async face of a node: every method hands an input to its thread and waits for the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::Message;
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};
use stevedore_state::view::ReadView;
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

use crate::MAX_COMMAND_BYTES;
use crate::config::{NodeConfig, Start};
use crate::driver::{self, DriverLinks, Input};
use crate::identity::Identity;
use crate::node::{MembershipChange, NodeCore, Stores};
use crate::proposals::{Proposal, ProposeError, Proposed};
use crate::snapshot_files::{PartialSnapshot, SnapshotFolder};
use crate::state_machine::StateMachine;
use crate::state_store::{StateStore, StateView};
use crate::status::{Event, Events, Status};
use crate::transport::Transport;

/// Messages that may wait for the node; Raft sends again what is dropped beyond.
const MAX_QUEUED_MESSAGES: usize = 8_192;

/// Starts nodes.
#[derive(Debug, Clone, Copy)]
pub struct RaftNode;

impl RaftNode {
    /// Opens the stores of the configuration and starts the node's thread. Blocks while opening.
    ///
    /// # Errors
    /// As [`Stores::open`] and [`NodeCore::open`].
    pub fn start<M: StateMachine>(
        config: NodeConfig,
        start: Start,
        machine: M,
        transport: Arc<dyn Transport>,
    ) -> Result<RaftHandle> {
        config.validate()?;
        let stores = Stores::open(&config, start)?;
        Self::start_over(config, start, stores, machine, transport)
    }

    /// The same over given stores.
    ///
    /// # Errors
    /// As [`NodeCore::open`].
    pub fn start_over<M: StateMachine>(
        config: NodeConfig,
        start: Start,
        stores: Stores,
        machine: M,
        transport: Arc<dyn Transport>,
    ) -> Result<RaftHandle> {
        let node = NodeCore::open(config.clone(), start, stores, machine, transport)?;
        let (inputs, receiver) = std::sync::mpsc::channel();
        let queued_messages = Arc::new(AtomicUsize::new(0));
        let admitted: Arc<Mutex<HashMap<u64, String>>> = Arc::default();
        let forget = Arc::clone(&admitted);
        let links = DriverLinks {
            queued_messages: Arc::clone(&queued_messages),
            forget_peer: Box::new(move |peer| drop(forget.lock().remove(&peer))),
            inputs: inputs.clone(),
        };
        let handle = RaftHandle {
            shared: Arc::new(Shared {
                id: config.id,
                identity: node.identity().clone(),
                inputs,
                state: node.state().clone(),
                snapshots: node.snapshot_folder().clone(),
                status: node.status(),
                events: node.event_sender().downgrade(),
                budget: Arc::new(Semaphore::new(config.max_bytes_in_flight)),
                queued_messages,
                admitted,
            }),
        };
        std::thread::Builder::new().name(format!("raft-{}", config.id)).spawn(move || {
            driver::run(
                node,
                receiver,
                links,
                config.tick,
                config.max_ticks_at_once,
                config.max_inputs_per_cycle,
            );
        })?;
        Ok(handle)
    }
}

struct Shared {
    id: NodeId,
    identity: Identity,
    inputs: Sender<Input>,
    state: StateStore,
    snapshots: SnapshotFolder,
    status: watch::Receiver<Status>,
    events: broadcast::WeakSender<Event>,
    budget: Arc<Semaphore>,
    queued_messages: Arc<AtomicUsize>,
    admitted: Arc<Mutex<HashMap<u64, String>>>,
}

/// A running node. The node runs until [`RaftHandle::shutdown`] or a fatal error, which
/// [`RaftHandle::ended`] tells. The store's folder is free again once the node has ended and every
/// handle and view is gone.
#[derive(Clone)]
pub struct RaftHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHandle").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

fn stopped() -> Error {
    Error::unavailable("the raft node has stopped")
}

impl RaftHandle {
    /// This node.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Who this member is: what peers are told in Hello.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// The random name of this member's disk.
    pub fn incarnation(&self) -> &str {
        &self.shared.identity.incarnation
    }

    /// Proposes a command and waits until it is applied on this node. Waits for room first, while too
    /// many bytes are in flight. Dropping the future does not take the proposal back.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `OutcomeUnknown` may have had an effect.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        let bytes = command.len();
        if bytes == 0 || bytes > MAX_COMMAND_BYTES {
            return Err(ProposeError::WrongSize { bytes, limit: MAX_COMMAND_BYTES });
        }
        let weight = u32::try_from(bytes + 64).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.shared.budget);
        let permit = budget.acquire_many_owned(weight).await.map_err(|_| ProposeError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal { command, reply, permit: Some(permit) };
        self.shared.inputs.send(Input::Propose(proposal)).map_err(|_| ProposeError::Stopped)?;
        answer.await.unwrap_or_else(|_| Err(ProposeError::unknown("the node stopped")))
    }

    /// Changes who takes part, and waits until that is applied.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Proposed, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inputs.send(Input::ChangeMembership(change, reply)).map_err(|_| ProposeError::Stopped)?;
        answer.await.unwrap_or_else(|_| Err(ProposeError::unknown("the node stopped")))
    }

    /// Waits until this node has applied everything that was committed when this was called, anywhere
    /// in the cluster. What [`RaftHandle::view`] shows then is linearizable. Followers may be asked.
    ///
    /// # Errors
    /// Unavailable, if no leader confirms it in time.
    pub async fn read_index(&self) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        self.shared.inputs.send(Input::ReadIndex(reply)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The state that this node has applied, as of one index. Reading blocks briefly on the store.
    pub fn view(&self) -> Arc<dyn ReadView> {
        Arc::new(self.shared.state.view())
    }

    /// The same, with the index that it shows.
    pub fn state_view(&self) -> StateView {
        self.shared.state.view()
    }

    /// A linearizable view: [`RaftHandle::read_index`], then a view.
    ///
    /// # Errors
    /// Unavailable, if no leader confirms it in time.
    pub async fn linearizable_view(&self) -> Result<StateView> {
        self.read_index().await?;
        Ok(self.shared.state.view())
    }

    /// Waits until this node has applied a log entry: after a proposal that another node ran, what it
    /// did is visible here then.
    ///
    /// # Errors
    /// What the node ended with, or unavailable, if it was shut down first.
    pub async fn wait_applied(&self, index: u64) -> Result<()> {
        let mut status = self.shared.status.clone();
        match status.wait_for(|status| status.applied >= index || status.ended.is_some()).await {
            Ok(status) if status.applied >= index => Ok(()),
            Ok(status) => Err(status.ended.clone().and_then(Result::err).unwrap_or_else(stopped)),
            Err(_) => Err(stopped()),
        }
    }

    /// What the node says about itself.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// Subscribes to events from now on. To miss nothing: subscribe first, then read the state.
    pub fn events(&self) -> Events {
        let receiver = match self.shared.events.upgrade() {
            Some(sender) => sender.subscribe(),
            // Ended: a channel whose sender is gone says so.
            None => broadcast::channel(1).1,
        };
        Events { receiver }
    }

    /// Hands leadership to a voter, or to the one that is furthest. Answers when that has begun; watch
    /// the status for the outcome.
    ///
    /// # Errors
    /// Invalid input, if the node is no other voter; unavailable, if this node does not lead.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.shared.inputs.send(Input::Transfer(to, reply)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends the node; gracefully, a leader hands its leadership over first (for at most an election
    /// timeout). Answers when the node has ended.
    ///
    /// # Errors
    /// What the node ended with, if that was not this.
    pub async fn shutdown(&self, graceful: bool) -> Result<()> {
        // If it has ended already, `ended` says how.
        drop(self.shared.inputs.send(Input::Shutdown { graceful }));
        self.ended().await
    }

    /// Waits until the node has ended. A process whose node ends with an error must end too.
    ///
    /// # Errors
    /// What the node ended with, unless it was shut down.
    pub async fn ended(&self) -> Result<()> {
        let mut status = self.shared.status.clone();
        match status.wait_for(|status| status.ended.is_some()).await {
            Ok(status) => status.ended.clone().unwrap_or(Ok(())),
            Err(_) => Err(stopped()),
        }
    }

    /// Messages from a peer that was admitted. When the node cannot keep up, they are dropped.
    ///
    /// # Errors
    /// Invalid input, if one cannot be read or is not for this node; unavailable, if the node has ended.
    pub fn step(&self, messages: &[Bytes]) -> Result<()> {
        let decoded = driver::decode(messages, self.shared.id.0)?;
        let queued = self.shared.queued_messages.fetch_add(decoded.len(), Ordering::Relaxed);
        if queued > MAX_QUEUED_MESSAGES {
            self.shared.queued_messages.fetch_sub(decoded.len(), Ordering::Relaxed);
            tracing::debug!(dropped = decoded.len(), "the raft node is busy; messages were dropped");
            return Ok(());
        }
        self.shared.inputs.send(Input::Step(decoded)).map_err(|_| stopped())
    }

    /// Checks that a peer is the member that it says it is, before its first message is stepped and
    /// before the first is sent to it. Cheap when it was admitted before.
    ///
    /// # Errors
    /// Conflict, if it is another cluster's, or has come back with another disk.
    pub async fn admit_peer(&self, cluster_id: &str, peer: NodeId, incarnation: &str) -> Result<()> {
        let known = self.shared.admitted.lock().get(&peer.0).is_some_and(|known| known == incarnation);
        if known && cluster_id == self.shared.identity.cluster_id {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let input = Input::AdmitPeer {
            cluster_id: cluster_id.to_owned(),
            peer,
            incarnation: incarnation.to_owned(),
            reply,
        };
        self.shared.inputs.send(input).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))?;
        self.shared.admitted.lock().insert(peer.0, incarnation.to_owned());
        Ok(())
    }

    /// The transport could not reach a peer.
    pub fn report_unreachable(&self, peer: NodeId) {
        // A node that has ended does not care.
        drop(self.shared.inputs.send(Input::Unreachable(peer)));
    }

    /// The transport has delivered a snapshot to a peer, or has given up.
    pub fn report_snapshot(&self, peer: NodeId, delivered: bool) {
        // A node that has ended does not care.
        drop(self.shared.inputs.send(Input::SnapshotDelivery(peer, delivered)));
    }

    /// Begins to receive a snapshot. Blocks, as do the methods of what it answers: use a blocking task.
    ///
    /// # Errors
    /// Invalid input, if the message is no snapshot for this node; storage, if the file cannot be made.
    pub fn begin_snapshot(&self, message: &Bytes) -> Result<SnapshotReceiver> {
        let decoded = driver::decode(std::slice::from_ref(message), self.shared.id.0)?;
        let (_, partial) = self.shared.snapshots.receive(message)?;
        let message = decoded.into_iter().next().unwrap_or_default();
        Ok(SnapshotReceiver { partial, message, inputs: self.shared.inputs.clone() })
    }
}

/// A snapshot on its way in. Dropped unfinished, nothing remains of it. Its methods block.
pub struct SnapshotReceiver {
    partial: PartialSnapshot,
    message: Message,
    inputs: Sender<Input>,
}

impl SnapshotReceiver {
    /// The next piece.
    ///
    /// # Errors
    /// Bad data, if it does not match its checksum; invalid input, if it is not the next one; storage,
    /// if writing fails.
    pub fn write(&mut self, offset: u64, data: &[u8], crc32: u32) -> Result<()> {
        if crc32fast::hash(data) != crc32 {
            return Err(Error::bad_data(format!(
                "the piece of a snapshot at {offset} does not match its checksum"
            )));
        }
        self.partial.write(offset, data)
    }

    /// Checks the whole, makes it durable, and hands it to the node.
    ///
    /// # Errors
    /// Bad data, if it is not what was announced; storage, if writing fails.
    pub fn finish(self) -> Result<()> {
        self.partial.finish()?;
        self.inputs.send(Input::StepSnapshot(self.message)).map_err(|_| stopped())
    }
}
