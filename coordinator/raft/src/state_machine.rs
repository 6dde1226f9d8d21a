//! The seam to the state machine, whose commands are opaque here.

use bytes::Bytes;
use stevedore_common::Result;
use stevedore_state::view::{ReadView, WriteBatch};

/// What applying one command gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its effects.
    pub batch: WriteBatch,
    /// Goes to the proposer, if it is waiting on this node.
    pub result: Bytes,
    /// Go to the subscribers of this node.
    pub events: Vec<Bytes>,
}

/// Applies commands in log order. Deterministic: every member computes the same from the same.
pub trait StateMachine: Send + 'static {
    /// Applies the command at a log index to the state as the view shows it. A command that is refused
    /// is a result, not an error.
    ///
    /// # Errors
    /// Only where the node must not go on: the store cannot be read, an invariant does not hold.
    fn apply(&mut self, view: &dyn ReadView, index: u64, command: &[u8]) -> Result<Applied>;

    /// A snapshot has replaced the state: forget whatever was remembered about it.
    fn state_replaced(&mut self, _view: &dyn ReadView) {}
}
