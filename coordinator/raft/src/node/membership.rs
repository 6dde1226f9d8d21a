//! Changes of the membership: one at a time, a learner first, then a voter.

use raft::eraftpb::{ConfChange, ConfChangeType, Entry};

use super::*;
use crate::proposals::ProposeReply;

/// A change of who takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Adds a member that receives the log and does not vote.
    AddLearner {
        /// Its id: one that was never used before.
        node: NodeId,
        /// What others need to know about it (its address): opaque here, kept in the membership.
        note: String,
    },
    /// Makes a learner that has caught up a voter.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Removes a member. A leader hands its leadership over first.
    Remove {
        /// The member.
        node: NodeId,
    },
}

impl<M: StateMachine> NodeCore<M> {
    /// Proposes a membership change; the reply comes when it is applied.
    pub(crate) fn change_membership(&mut self, change: MembershipChange, reply: ProposeReply) {
        let change = match self.checked(change) {
            Ok(change) => change,
            Err(error) => {
                // Whoever waited may have gone.
                let _ = reply.send(Err(error));
                return;
            }
        };
        let (sequence, context) = self.proposals.next_context();
        let term = self.raw.raft.term;
        match self.raw.propose_conf_change(context, change) {
            Ok(()) => self.proposals.insert(sequence, term, reply, None),
            Err(error) => {
                let _ = reply.send(Err(self.dropped(&error)));
            }
        }
    }

    fn checked(&self, change: MembershipChange) -> Result<ConfChange, ProposeError> {
        if !self.leads() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        // raft-rs would silently turn a second change into an empty entry.
        if self.raw.raft.has_pending_conf() {
            return Err(ProposeError::dropped("another membership change is not applied yet"));
        }
        let Membership { voters, learners, .. } = &self.meta.membership;
        let mut checked = ConfChange::default();
        match change {
            MembershipChange::AddLearner { node, note } => {
                if node.0 == 0 || voters.contains(&node.0) || learners.contains(&node.0) {
                    return Err(ProposeError::dropped(format!(
                        "node {node} is a member already, or not an id"
                    )));
                }
                if note.len() > MAX_COMMAND_BYTES / 2 {
                    return Err(ProposeError::dropped(format!("the note about node {node} is too long")));
                }
                checked.change_type = ConfChangeType::AddLearnerNode;
                checked.node_id = node.0;
                checked.context = note.into_bytes().into();
            }
            MembershipChange::Promote { node } => {
                if !learners.contains(&node.0) {
                    return Err(ProposeError::dropped(format!("node {node} is not a learner")));
                }
                let matched = self.raw.raft.prs().get(node.0).map_or(0, |progress| progress.matched);
                let last = self.raw.raft.raft_log.last_index();
                if matched + self.config.log_tail_entries < last || matched == 0 {
                    return Err(ProposeError::dropped(format!(
                        "node {node} has not caught up yet: it has {matched} of {last} log entries"
                    )));
                }
                checked.change_type = ConfChangeType::AddNode;
                checked.node_id = node.0;
            }
            MembershipChange::Remove { node } => {
                if node == self.config.id {
                    return Err(ProposeError::dropped(
                        "the leader cannot remove itself: hand the leadership over first",
                    ));
                }
                if !voters.contains(&node.0) && !learners.contains(&node.0) {
                    return Err(ProposeError::dropped(format!("node {node} is not a member")));
                }
                checked.change_type = ConfChangeType::RemoveNode;
                checked.node_id = node.0;
            }
        }
        Ok(checked)
    }

    pub(super) fn apply_membership(&mut self, entry: &Entry) -> Result<()> {
        // The membership is written on its own, so that the effects before it go first.
        self.flush()?;
        let change = ConfChange::parse_from_bytes(&entry.data).map_err(|e| {
            Error::internal(format!("log entry {} is no membership change: {e}", entry.index))
        })?;
        let conf_state = self.raw.apply_conf_change(&change).map_err(|e| {
            Error::internal(format!("the membership change of log entry {} failed: {e}", entry.index))
        })?;
        let membership = &mut self.meta.membership;
        if change.change_type == ConfChangeType::AddLearnerNode {
            let note = String::from_utf8_lossy(&change.context).into_owned();
            membership.notes.insert(change.node_id, note);
        }
        membership.set_conf_state(&conf_state);
        if change.change_type == ConfChangeType::RemoveNode {
            self.raw.mut_store().log_mut().set_peer(change.node_id, None)?;
            self.forgotten_peers.push(change.node_id);
        }
        tracing::info!(
            index = entry.index,
            voters = ?self.meta.membership.voters,
            learners = ?self.meta.membership.learners,
            "the membership changed"
        );
        if let Some(sequence) = self.proposals.waiting(&entry.context) {
            self.settled.push((sequence, Ok(Proposed { index: entry.index, result: Bytes::new() })));
        }
        Ok(())
    }
}
