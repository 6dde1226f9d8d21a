//! Proposal dedup: a window of results per proposer, so that a proposal which is tried again answers
//! what it answered the first time.
//!
//! A proposer numbers its commands; several may be in flight, be lost, or arrive out of order. The
//! results of the last [`WINDOW`] numbers are kept. A number below the window can no longer be
//! judged: it is refused as *outcome unknown*, and the proposer asks the state. Of many proposers
//! the one that was quiet longest is forgotten; natural keys in the commands (job ids, attempts,
//! expected locations) keep even its late retries harmless.

use serde::{Deserialize, Serialize};
use stevedore_common::{Error, Result};

use crate::apply::Transaction;
use crate::command::Envelope;
use crate::keys;
use crate::result::CommandResult;
use crate::view::ReadView;

/// Results kept per proposer.
pub(crate) const WINDOW: u64 = 256;

/// Proposers kept.
pub(crate) const PROPOSERS: usize = 32;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Proposer {
    max_sequence: u64,
    last_index: u64,
}

/// The result of a command that was applied before, if it was.
pub(crate) fn known_result(view: &dyn ReadView, envelope: &Envelope) -> Result<Option<CommandResult>> {
    let key = keys::proposal_result(&envelope.proposer, envelope.sequence);
    if let Some(result) = keys::read(view, &key)? {
        return Ok(Some(result));
    }
    let proposer: Option<Proposer> = keys::read(view, &keys::proposer(&envelope.proposer))?;
    Ok(proposer.filter(|p| envelope.sequence.saturating_add(WINDOW) <= p.max_sequence).map(|p| {
        CommandResult::Refused(
            Error::outcome_unknown(format!(
                "command {} of proposer {} is too old to know whether it was applied (the newest is {})",
                envelope.sequence, envelope.proposer, p.max_sequence
            ))
            .hint("ask the state"),
        )
    }))
}

/// Keeps the result of a command.
pub(crate) fn remember(
    txn: &mut Transaction<'_>,
    index: u64,
    envelope: &Envelope,
    result: &CommandResult,
) -> Result<()> {
    let key = keys::proposer(&envelope.proposer);
    let known: Option<Proposer> = txn.read(&key)?;
    if known.is_none() {
        forget_the_quietest(txn)?;
    }
    let mut proposer = known.unwrap_or_default();
    if envelope.sequence > proposer.max_sequence {
        // Results stand between the old lower end of the window and the old upper one.
        let old_start = (proposer.max_sequence.saturating_add(1)).saturating_sub(WINDOW);
        let new_start = envelope.sequence.saturating_add(1).saturating_sub(WINDOW);
        for sequence in old_start..new_start.min(proposer.max_sequence.saturating_add(1)) {
            txn.delete(keys::proposal_result(&envelope.proposer, sequence));
        }
        proposer.max_sequence = envelope.sequence;
    }
    proposer.last_index = index;
    txn.put(key, &proposer)?;
    txn.put(keys::proposal_result(&envelope.proposer, envelope.sequence), result)
}

fn forget_the_quietest(txn: &mut Transaction<'_>) -> Result<()> {
    let proposers = keys::scan_all(txn.view(), &keys::proposers())?;
    if proposers.len() < PROPOSERS {
        return Ok(());
    }
    let mut quietest: Option<(u64, &[u8])> = None;
    for (key, value) in &proposers {
        let proposer: Proposer = keys::decode(key, value)?;
        if quietest.is_none_or(|(index, _)| proposer.last_index < index) {
            quietest = Some((proposer.last_index, key));
        }
    }
    let Some((_, key)) = quietest else { return Ok(()) };
    let name = String::from_utf8_lossy(&key[keys::proposers().len()..]).into_owned();
    for (stored, _) in keys::scan_all(txn.view(), &keys::proposal_results(&name))? {
        txn.delete(stored);
    }
    txn.delete(key.to_vec());
    Ok(())
}
