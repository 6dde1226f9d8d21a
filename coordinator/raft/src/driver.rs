//! The thread that owns the node: takes inputs, up to a limit per cycle so that they share one write to
//! disk, keeps the clock, and ends at the first error or panic, never going on after either.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};
use tokio::sync::oneshot;

use crate::node::{MembershipChange, NodeCore, SnapshotMade};
use crate::proposals::{Proposal, ProposeError, ProposeReply};
use crate::reads::ReadReply;
use crate::state_machine::StateMachine;

pub(crate) enum Input {
    Propose(Proposal),
    ReadIndex(ReadReply),
    Step(Vec<Message>),
    StepSnapshot(Message),
    ChangeMembership(MembershipChange, ProposeReply),
    Transfer(Option<NodeId>, oneshot::Sender<Result<()>>),
    AdmitPeer { cluster_id: String, peer: NodeId, incarnation: String, reply: oneshot::Sender<Result<()>> },
    Unreachable(NodeId),
    SnapshotDelivery(NodeId, bool),
    SnapshotMade(SnapshotMade),
    Shutdown { graceful: bool },
}

/// What the driver shares with the handles besides the node's own channels.
pub(crate) struct DriverLinks {
    /// Messages that wait in the queue, so that handles can drop more of them.
    pub(crate) queued_messages: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    /// Called with peers whose admission must be forgotten.
    pub(crate) forget_peer: Box<dyn Fn(u64) + Send>,
    /// For jobs that report back.
    pub(crate) inputs: Sender<Input>,
}

struct Driver<M> {
    node: NodeCore<M>,
    links: DriverLinks,
    tick: Duration,
    max_ticks_at_once: u32,
    max_inputs: usize,
    /// Ticks left until a graceful shutdown no longer waits for its successor.
    leaving: Option<u32>,
    stop: bool,
}

/// Runs the node until it ends.
pub(crate) fn run<M: StateMachine>(
    node: NodeCore<M>,
    inputs: Receiver<Input>,
    links: DriverLinks,
    tick: Duration,
    max_ticks_at_once: u32,
    max_inputs: usize,
) {
    let status = node.status_sender();
    let mut driver = Driver { node, links, tick, max_ticks_at_once, max_inputs, leaving: None, stop: false };
    // raft-rs panics where it cannot go on (an error from the storage, a broken invariant).
    let outcome = catch_unwind(AssertUnwindSafe(|| driver.run(&inputs))).unwrap_or_else(|panic| {
        Err(Error::internal(format!("the raft node panicked: {}", panic_text(&*panic))))
    });
    let reason = match &outcome {
        Ok(()) => Error::cancelled("the node was shut down"),
        Err(error) => {
            tracing::error!(%error, "the raft node ended");
            error.clone()
        }
    };
    let closed = catch_unwind(AssertUnwindSafe(|| {
        driver.node.give_up(&reason);
        refuse_the_rest(&inputs);
        driver.node.close()
    }));
    if !matches!(closed, Ok(Ok(()))) && outcome.is_ok() {
        tracing::warn!("closing the state store failed; the log has everything");
    }
    drop(driver);
    // Whoever comes from now on finds nobody, and so knows that nothing was proposed.
    drop(inputs);
    status.send_modify(|status| {
        status.role = crate::status::Role::Follower;
        status.leads_with_current_state = false;
        status.pending_proposals = 0;
        status.ended = Some(outcome);
    });
}

fn refuse_the_rest(inputs: &Receiver<Input>) {
    while let Ok(input) = inputs.try_recv() {
        // Whoever waited may have gone. Dropping a reply says the same to the others.
        match input {
            Input::Propose(proposal) => drop(proposal.reply.send(Err(ProposeError::Stopped))),
            Input::ChangeMembership(_, reply) => drop(reply.send(Err(ProposeError::Stopped))),
            Input::ReadIndex(reply) => drop(reply.send(Err(Error::unavailable("the node has stopped")))),
            _ => {}
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".to_owned())
}

impl<M: StateMachine> Driver<M> {
    fn run(&mut self, inputs: &Receiver<Input>) -> Result<()> {
        let mut next_tick = Instant::now() + self.tick;
        self.cycle()?;
        loop {
            match inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(input) => {
                    self.handle(input)?;
                    for _ in 1..self.max_inputs {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.handle(input)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            let mut ticks = 0;
            while now >= next_tick {
                next_tick += self.tick;
                ticks += 1;
                if ticks <= self.max_ticks_at_once {
                    self.node.tick()?;
                    self.leaving = self.leaving.map(|left| left.saturating_sub(1));
                } else {
                    next_tick = now + self.tick;
                }
            }
            self.cycle()?;
            if self.may_stop() {
                return Ok(());
            }
        }
    }

    fn may_stop(&self) -> bool {
        self.stop || self.leaving == Some(0) || (self.leaving.is_some() && !self.node.leads_now())
    }

    fn cycle(&mut self) -> Result<()> {
        self.node.cycle()?;
        for peer in self.node.take_forgotten_peers() {
            (self.links.forget_peer)(peer);
        }
        if let Some(job) = self.node.take_snapshot_job() {
            let inputs = self.links.inputs.clone();
            std::thread::Builder::new()
                .name("raft-snapshot".to_owned())
                // If the node has ended meanwhile, nobody needs the snapshot.
                .spawn(move || drop(inputs.send(Input::SnapshotMade(job.run()))))?;
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Propose(proposal) => self.node.propose(proposal),
            Input::ReadIndex(reply) => self.node.read_index(reply),
            Input::Step(messages) => {
                self.links.queued_messages.fetch_sub(messages.len(), std::sync::atomic::Ordering::Relaxed);
                for message in messages {
                    self.node.step(message);
                }
            }
            Input::StepSnapshot(message) => self.node.step_snapshot(message),
            Input::ChangeMembership(change, reply) => self.node.change_membership(change, reply),
            // In what follows, whoever waited may have gone.
            Input::Transfer(to, reply) => drop(reply.send(self.node.transfer_leadership(to))),
            Input::AdmitPeer { cluster_id, peer, incarnation, reply } => {
                drop(reply.send(self.node.admit_peer(&cluster_id, peer, &incarnation)));
            }
            Input::Unreachable(peer) => self.node.report_unreachable(peer),
            Input::SnapshotDelivery(peer, delivered) => self.node.report_snapshot(peer, delivered),
            Input::SnapshotMade(made) => self.node.snapshot_made(made)?,
            Input::Shutdown { graceful } => {
                if graceful && self.node.transfer_leadership(None).is_ok() {
                    self.leaving = Some(self.node.election_ticks());
                } else {
                    self.stop = true;
                }
            }
        }
        Ok(())
    }
}

/// Decodes messages from the network and refuses those that are not for this node.
pub(crate) fn decode(messages: &[Bytes], me: u64) -> Result<Vec<Message>> {
    use protobuf::Message as _;
    messages
        .iter()
        .map(|bytes| {
            let message = Message::parse_from_carllerche_bytes(bytes)
                .map_err(|e| Error::invalid(format!("a raft message cannot be read: {e}")))?;
            // A question for the leader is handed on with its origin: it may come back to where it began,
            // if that leads by then.
            let own = message.from == me && message.msg_type != MessageType::MsgReadIndex;
            if message.to != me || message.from == 0 || own {
                return Err(Error::invalid(format!(
                    "a raft message from node {} to node {} reached node {me}",
                    message.from, message.to
                )));
            }
            Ok(message)
        })
        .collect()
}
