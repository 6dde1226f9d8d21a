//! The state machine of the group: envelopes in, `stevedore_state::apply`, results and events out.

use bytes::Bytes;
use stevedore_common::{Error, Result};
use stevedore_raft::{Applied, StateMachine};
use stevedore_state::command::Envelope;
use stevedore_state::view::ReadView;

/// Applies commands to the replicated state.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommandMachine;

impl StateMachine for CommandMachine {
    fn apply(&mut self, view: &dyn ReadView, index: u64, command: &[u8]) -> Result<Applied> {
        let envelope = Envelope::decode(command)?;
        let applied = stevedore_state::apply(view, index, &envelope)?;
        let events = applied
            .events
            .iter()
            .map(|event| {
                serde_json::to_vec(event)
                    .map(Bytes::from)
                    .map_err(|e| Error::internal(format!("an event cannot be encoded: {e}")))
            })
            .collect::<Result<_>>()?;
        Ok(Applied { batch: applied.batch, result: applied.result.encode()?.into(), events })
    }
}
