//! The node as a step function: inputs go in, one cycle processes them, messages and replies come out.
//!
//! Owns `RawNode`, the stores, the state machine, and everybody who waits. Knows no threads and no
//! clock, so that a simulation can drive it: the driver (or the simulation) calls `tick`, `step`,
//! `propose`, … and then `cycle`, which handles everything that is ready before it returns. Any error
//! from `cycle` is final: drop the node, and open it again from its stores.

use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};
use stevedore_state::view::WriteBatch;
use tokio::sync::{broadcast, oneshot, watch};
use uuid::Uuid;

use crate::MAX_COMMAND_BYTES;
use crate::config::{NodeConfig, Start};
use crate::identity::Identity;
use crate::log_store::{LogStart, LogStore, MemoryLogStore, SledLogStore};
use crate::proposals::{Proposal, Proposals, ProposeError, Proposed};
use crate::reads::{ReadReply, Reads};
use crate::slog_to_tracing;
use crate::snapshot_files::{SnapshotFolder, SnapshotManifest, SnapshotPieces};
use crate::state_machine::StateMachine;
use crate::state_store::{Membership, StateMeta, StateStore, StateView};
use crate::status::{Event, Role, Status};
use crate::storage::{AvailableSnapshot, RaftStorage};
use crate::transport::Transport;

mod membership;
mod open;
mod ready;

pub use membership::MembershipChange;
pub use open::Stores;

/// Keys of an old generation that are removed per tick.
const SWEEP_PER_TICK: usize = 500;

/// A snapshot to be written, off the node's thread.
pub struct SnapshotJob {
    view: StateView,
    folder: SnapshotFolder,
}

impl SnapshotJob {
    /// Writes it. Blocks.
    pub fn run(self) -> SnapshotMade {
        let outcome = self.folder.write(&self.view);
        SnapshotMade { outcome, membership: self.view.meta().membership.clone() }
    }
}

/// Goes back to [`NodeCore::snapshot_made`].
pub struct SnapshotMade {
    outcome: Result<SnapshotManifest>,
    membership: Membership,
}

/// See the module.
pub struct NodeCore<M> {
    config: NodeConfig,
    identity: Identity,
    raw: RawNode<RaftStorage>,
    state: StateStore,
    machine: M,
    transport: Arc<dyn Transport>,
    snapshots: SnapshotFolder,
    proposals: Proposals,
    reads: Reads,
    /// Effects of entries that are applied but not yet in the store.
    effects: WriteBatch,
    effects_bytes: usize,
    meta: StateMeta,
    settled: Vec<(u64, Result<Proposed, ProposeError>)>,
    said: Vec<Event>,
    snapshot_job: Option<SnapshotJob>,
    /// The index of the snapshot that is being written.
    snapshot_in_progress: Option<u64>,
    forgotten_peers: Vec<u64>,
    events: broadcast::Sender<Event>,
    status: watch::Sender<Status>,
}

impl<M: StateMachine> NodeCore<M> {
    /// Opens the node over its stores.
    ///
    /// # Errors
    /// Invalid input or conflict, if configuration and stores do not belong together; bad data, if a
    /// store is damaged.
    pub fn open(
        config: NodeConfig,
        start: Start,
        stores: Stores,
        machine: M,
        transport: Arc<dyn Transport>,
    ) -> Result<Self> {
        config.validate()?;
        let Stores { mut log, state, snapshots } = stores;
        let identity = open::prepare(&config, start, &mut *log, &state)?;
        let meta = (*state.meta()).clone();
        let raft_config = config.raft(meta.applied);
        let storage = RaftStorage::new(log, meta.membership.conf_state());
        let raw = RawNode::new(&raft_config, storage, &slog_to_tracing::logger())
            .map_err(|e| Error::internal(format!("starting raft failed: {e}")))?;
        let run = match config.seed {
            Some(seed) => Uuid::from_u64_pair(seed, config.id.0),
            None => Uuid::new_v4(),
        };
        let mut node = Self {
            proposals: Proposals::new(*run.as_bytes()),
            reads: Reads::new(*run.as_bytes(), config.read_timeout_ticks),
            events: broadcast::Sender::new(config.event_buffer),
            status: watch::Sender::new(Status::default()),
            config,
            identity,
            raw,
            state,
            machine,
            transport,
            snapshots,
            effects: WriteBatch::default(),
            effects_bytes: 0,
            meta,
            settled: Vec::new(),
            said: Vec::new(),
            snapshot_job: None,
            snapshot_in_progress: None,
            forgotten_peers: Vec::new(),
        };
        // A cluster of one need not wait for its own silence.
        if node.meta.membership.voters == [node.config.id.0] && node.config.seed.is_none() {
            node.raw.campaign().map_err(|e| Error::internal(format!("starting raft failed: {e}")))?;
        }
        node.fix_election_timeout();
        node.publish_status();
        Ok(node)
    }

    /// Who this member is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The applied state.
    pub fn state(&self) -> &StateStore {
        &self.state
    }

    pub(crate) fn snapshot_folder(&self) -> &SnapshotFolder {
        &self.snapshots
    }

    /// What the node says about itself after every cycle.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn status_sender(&self) -> watch::Sender<Status> {
        self.status.clone()
    }

    pub(crate) fn event_sender(&self) -> broadcast::Sender<Event> {
        self.events.clone()
    }

    fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn leads_now(&self) -> bool {
        self.leads()
    }

    pub(crate) fn election_ticks(&self) -> u32 {
        u32::try_from(self.config.election_ticks).unwrap_or(u32::MAX)
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != raft::INVALID_ID).map(NodeId)
    }

    /// One tick of the clock.
    ///
    /// # Errors
    /// Storage, if cutting off the log fails: the node must end.
    pub fn tick(&mut self) -> Result<()> {
        self.raw.tick();
        self.reads.tick();
        self.fix_election_timeout();
        self.state.sweep(SWEEP_PER_TICK)?;
        self.compact_log()
    }

    /// A message from a peer. One that is not fit for the network is ignored.
    pub fn step(&mut self, message: Message) {
        // Proposals are forwarded as requests, not as entries; snapshots come with their file.
        if matches!(message.msg_type, MessageType::MsgPropose | MessageType::MsgSnapshot) {
            return;
        }
        self.step_any(message);
    }

    fn step_any(&mut self, message: Message) {
        let from = message.from;
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(from, %error, "raft ignored a message");
        }
        self.fix_election_timeout();
    }

    /// The message of a snapshot whose file has arrived and been checked.
    pub fn step_snapshot(&mut self, message: Message) {
        if message.msg_type == MessageType::MsgSnapshot {
            self.step_any(message);
        }
    }

    /// Proposes a command, for whoever drives the node by itself. The answer comes during a later cycle;
    /// a closed channel says that the node is gone and the outcome unknown.
    pub fn submit(&mut self, command: Bytes) -> oneshot::Receiver<Result<Proposed, ProposeError>> {
        let (reply, answer) = oneshot::channel();
        self.propose(Proposal { command, reply, permit: None });
        answer
    }

    /// Asks for a linearizable read, for whoever drives the node by itself.
    pub fn ask(&mut self) -> oneshot::Receiver<Result<u64>> {
        let (reply, answer) = oneshot::channel();
        self.read_index(reply);
        answer
    }

    /// Receives the snapshot that a message announces from an open file, checks it and steps it, for
    /// whoever drives the node by itself. Blocks.
    ///
    /// # Errors
    /// Bad data or invalid input, if message and file do not fit; storage, if writing fails.
    pub fn receive_snapshot(&mut self, message: &Bytes, pieces: SnapshotPieces) -> Result<()> {
        let (_, mut partial) = self.snapshots.receive(message)?;
        for piece in pieces {
            let piece = piece?;
            partial.write(piece.offset, &piece.data)?;
        }
        partial.finish()?;
        let message = Message::parse_from_carllerche_bytes(message)
            .map_err(|e| Error::invalid(format!("a snapshot message cannot be read: {e}")))?;
        self.step_snapshot(message);
        Ok(())
    }

    /// Steps encoded messages from peers.
    ///
    /// # Errors
    /// Invalid input, if one cannot be read or is not for this node; then none is stepped.
    pub fn step_bytes(&mut self, messages: &[Bytes]) -> Result<()> {
        for message in crate::driver::decode(messages, self.config.id.0)? {
            self.step(message);
        }
        Ok(())
    }

    /// Proposes a command; the reply comes when it is applied, or when its outcome can no longer be
    /// known.
    pub(crate) fn propose(&mut self, proposal: Proposal) {
        let Proposal { command, reply, permit } = proposal;
        if let Some(error) = self.refusal(command.len()) {
            // Whoever waited may have gone.
            let _ = reply.send(Err(error));
            return;
        }
        let (sequence, context) = self.proposals.next_context();
        let term = self.raw.raft.term;
        match self.raw.propose(context, command.to_vec()) {
            Ok(()) => self.proposals.insert(sequence, term, reply, permit),
            Err(error) => {
                let _ = reply.send(Err(self.dropped(&error)));
            }
        }
    }

    fn refusal(&self, bytes: usize) -> Option<ProposeError> {
        if bytes == 0 || bytes > MAX_COMMAND_BYTES {
            return Some(ProposeError::WrongSize { bytes, limit: MAX_COMMAND_BYTES });
        }
        if !self.leads() {
            return Some(ProposeError::NotLeader { leader: self.leader() });
        }
        None
    }

    /// Says which of its causes a dropped proposal had.
    fn dropped(&self, error: &raft::Error) -> ProposeError {
        if *error != raft::Error::ProposalDropped {
            return ProposeError::dropped(error.to_string());
        }
        if let Some(to) = self.raw.raft.lead_transferee {
            return ProposeError::dropped(format!("leadership is being handed to node {to}"));
        }
        if self.raw.raft.prs().get(self.config.id.0).is_none() {
            return ProposeError::dropped("this node has been removed from the cluster");
        }
        ProposeError::dropped("too much is waiting to be committed; is a majority of the members keeping up?")
    }

    /// Asks for an index at which a read is linearizable.
    pub(crate) fn read_index(&mut self, reply: ReadReply) {
        self.reads.add(reply);
    }

    /// Hands leadership to a voter, or to the one that is furthest. Does nothing on a follower.
    ///
    /// # Errors
    /// Invalid input, if the node is no other voter; unavailable, if this node does not lead.
    pub fn transfer_leadership(&mut self, to: Option<NodeId>) -> Result<()> {
        if !self.leads() {
            return Err(Error::unavailable("this node is not the leader and cannot hand leadership over"));
        }
        let me = self.config.id.0;
        let voters = &self.meta.membership.voters;
        let to = match to {
            Some(to) if to.0 != me && voters.contains(&to.0) => to.0,
            Some(to) => {
                return Err(Error::invalid(format!("node {to} is not another voter of this cluster")));
            }
            None => {
                let progress = self.raw.raft.prs();
                let active =
                    voters.iter().filter(|id| **id != me).filter_map(|id| Some((id, progress.get(*id)?)));
                match active.filter(|(_, pr)| pr.recent_active).max_by_key(|(_, pr)| pr.matched) {
                    Some((id, _)) => *id,
                    None => return Err(Error::unavailable("no other voter is reachable")),
                }
            }
        };
        self.raw.transfer_leader(to);
        Ok(())
    }

    /// The last messages to a peer were lost.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.0);
    }

    /// A snapshot for a peer was delivered, or not.
    pub fn report_snapshot(&mut self, peer: NodeId, delivered: bool) {
        let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer.0, status);
    }

    /// A snapshot that has to be written, if a follower needs one.
    pub fn take_snapshot_job(&mut self) -> Option<SnapshotJob> {
        self.snapshot_job.take()
    }

    /// A snapshot has been written.
    ///
    /// # Errors
    /// Storage, if it could not be: the node must end.
    pub fn snapshot_made(&mut self, made: SnapshotMade) -> Result<()> {
        self.snapshot_in_progress = None;
        let manifest = made.outcome?;
        tracing::info!(index = manifest.index, bytes = manifest.bytes, "wrote a snapshot for a follower");
        let available = AvailableSnapshot { manifest: manifest.clone(), membership: made.membership };
        let replaced = self.raw.store().available.replace(Some(available)).map(|a| a.manifest);
        // The one before may still be on its way to somebody.
        let mut keep = vec![&manifest];
        keep.extend(replaced.as_ref());
        self.snapshots.keep_only(&keep)
    }

    /// Checks that a peer is the member that it says it is. The first incarnation that a peer shows is
    /// remembered; another one under the same id is a disk that was lost, whose votes are forgotten.
    ///
    /// # Errors
    /// Conflict, if it is another cluster's or another incarnation; storage, if remembering fails.
    pub fn admit_peer(&mut self, cluster_id: &str, peer: NodeId, incarnation: &str) -> Result<()> {
        if cluster_id != self.identity.cluster_id {
            return Err(Error::conflict(format!(
                "node {peer} belongs to cluster '{cluster_id}', this one is '{}'",
                self.identity.cluster_id
            )));
        }
        if peer.0 == self.identity.node_id {
            return Err(Error::conflict(format!("another process runs as node {peer}, as this one does")));
        }
        let log = self.raw.mut_store().log_mut();
        match log.peer(peer.0)? {
            Some(known) if known == incarnation => Ok(()),
            Some(_) => Err(Error::conflict(format!("node {peer} has come back with another disk")).hint(
                "a member that lost its disk joins again: remove it, wipe it, and add it as a new member",
            )),
            None => log.set_peer(peer.0, Some(incarnation)),
        }
    }

    /// Peers that were removed from the cluster since the last call: whoever caches their admission
    /// forgets it.
    pub(crate) fn take_forgotten_peers(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten_peers)
    }

    /// Processes everything that came in.
    ///
    /// # Errors
    /// Anything: the node must end.
    pub fn cycle(&mut self) -> Result<()> {
        if let Some(context) = self.reads.question() {
            self.raw.read_index(context);
        }
        self.process_ready()?;
        self.fix_election_timeout();
        self.start_snapshot_if_wanted();
        self.publish_status();
        Ok(())
    }

    fn start_snapshot_if_wanted(&mut self) {
        if !self.raw.store().take_wanted() || self.snapshot_in_progress.is_some() {
            return;
        }
        let view = self.state.view();
        self.snapshot_in_progress = Some(view.applied());
        self.snapshot_job = Some(SnapshotJob { view, folder: self.snapshots.clone() });
    }

    /// Cuts off the log where nobody is likely to need it any more.
    fn compact_log(&mut self) -> Result<()> {
        let applied = self.meta.applied;
        let storage = self.raw.store();
        let first = storage.log().start().index;
        let long =
            applied - first.min(applied) >= self.config.compact_after_entries + self.config.log_tail_entries;
        let heavy = storage.bytes_since_compaction >= self.config.compact_after_bytes;
        if !long && !heavy {
            return Ok(());
        }
        let mut up_to = applied.saturating_sub(self.config.log_tail_entries);
        // What a reachable follower still needs stays, within reason: a snapshot is dear.
        let patience = 4 * (self.config.compact_after_entries + self.config.log_tail_entries);
        if applied - first.min(applied) < patience {
            if let Some(snapshot) = self.snapshot_in_progress {
                up_to = up_to.min(snapshot);
            }
            if self.leads() {
                let me = self.config.id.0;
                for (_, progress) in
                    self.raw.raft.prs().iter().filter(|(id, pr)| **id != me && pr.recent_active)
                {
                    up_to = up_to.min(progress.matched.max(progress.pending_snapshot));
                }
            }
        }
        if up_to <= first {
            return Ok(());
        }
        // From here on the effects of these entries are nowhere but in the state store.
        self.state.sync()?;
        self.raw.mut_store().compact(up_to)?;
        // A snapshot from before the new start is of no use any more; who sends it has opened it.
        let useless = |available: &AvailableSnapshot| available.manifest.index < up_to;
        if self.raw.store().available.borrow().as_ref().is_some_and(useless) {
            self.raw.store().available.replace(None);
            self.snapshots.keep_only(&[])?;
        }
        Ok(())
    }

    fn publish_status(&mut self) {
        let raft = &self.raw.raft;
        let log = self.raw.store().log();
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let snapshot_index = self.raw.store().available.borrow().as_ref().map_or(0, |a| a.manifest.index);
        let next = Status {
            id: self.config.id.0,
            role,
            leader: self.leader(),
            term: raft.term,
            leads_with_current_state: role == Role::Leader && self.meta.applied_term == raft.term,
            commit: raft.raft_log.committed,
            applied: self.meta.applied,
            first_index: log.start().index + 1,
            last_index: log.last_index(),
            pending_proposals: self.proposals.len(),
            snapshot_index: snapshot_index.max(self.meta.installed),
            membership: self.meta.membership.clone(),
            ended: None,
        };
        self.status.send_if_modified(|status| {
            let moved = *status != next;
            if moved {
                *status = next;
            }
            moved
        });
    }

    /// With a seed, election timeouts are a function of seed, node and term.
    fn fix_election_timeout(&mut self) {
        let Some(seed) = self.config.seed else { return };
        let mut mixed =
            seed ^ self.config.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.raw.raft.term << 20;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^= mixed >> 29;
        let range = self.config.election_ticks;
        self.raw.raft.set_randomized_election_timeout(range + (mixed % range as u64) as usize);
    }

    /// Tells everybody who waits that nothing more will come.
    pub(crate) fn give_up(&mut self, error: &Error) {
        self.proposals.give_up(None, &format!("the node stopped before it was applied ({error})"));
        self.reads.fail(error);
    }

    /// Makes the state durable before the node goes.
    ///
    /// # Errors
    /// Storage, if that fails; nothing is lost then, since the log has it.
    pub fn close(&mut self) -> Result<()> {
        self.state.sync()
    }
}
