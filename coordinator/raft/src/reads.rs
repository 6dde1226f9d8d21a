//! Linearizable reads: the way from «read now» to an applied index that it is safe to read at.
//!
//! Reads that arrive in one cycle share one question to the leader. raft-rs forgets questions silently
//! (no leader, no commit in the term yet, lost messages), so they are asked again under a new context
//! until their time is up.

use std::collections::{BTreeMap, HashMap};

use stevedore_common::{Error, Result};
use tokio::sync::oneshot;

/// Ticks after which a question is asked again.
const ASK_AGAIN_AFTER: u64 = 3;

pub(crate) type ReadReply = oneshot::Sender<Result<u64>>;

struct Waiting {
    reply: ReadReply,
    deadline: u64,
}

struct Asked {
    at: u64,
    waiting: Vec<Waiting>,
}

pub(crate) struct Reads {
    run: [u8; 16],
    next: u64,
    tick: u64,
    timeout: u64,
    fresh: Vec<Waiting>,
    asked: HashMap<u64, Asked>,
    answered: BTreeMap<u64, Vec<Waiting>>,
}

impl Reads {
    pub(crate) fn new(run: [u8; 16], timeout: u64) -> Self {
        Self {
            run,
            next: 0,
            tick: 0,
            timeout,
            fresh: Vec::new(),
            asked: HashMap::new(),
            answered: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, reply: ReadReply) {
        self.fresh.push(Waiting { reply, deadline: self.tick + self.timeout });
    }

    /// The context of the question to ask now, if there is one.
    pub(crate) fn question(&mut self) -> Option<Vec<u8>> {
        if self.fresh.is_empty() {
            return None;
        }
        self.next += 1;
        let waiting = std::mem::take(&mut self.fresh);
        self.asked.insert(self.next, Asked { at: self.tick, waiting });
        Some([self.run.as_slice(), &self.next.to_be_bytes()].concat())
    }

    pub(crate) fn answer(&mut self, context: &[u8], index: u64) {
        let sequence = context
            .strip_prefix(self.run.as_slice())
            .and_then(|rest| rest.try_into().ok())
            .map(u64::from_be_bytes);
        if let Some(asked) = sequence.and_then(|sequence| self.asked.remove(&sequence)) {
            self.answered.entry(index).or_default().extend(asked.waiting);
        }
    }

    /// Lets go those whose index has been applied.
    pub(crate) fn applied(&mut self, applied: u64) {
        while let Some(entry) = self.answered.first_entry().filter(|entry| *entry.key() <= applied) {
            for waiting in entry.remove() {
                // Whoever waited may have gone.
                let _ = waiting.reply.send(Ok(applied));
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.tick += 1;
        let now = self.tick;
        let stale: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.at + ASK_AGAIN_AFTER <= now)
            .map(|(k, _)| *k)
            .collect();
        for sequence in stale {
            if let Some(asked) = self.asked.remove(&sequence) {
                self.fresh.extend(asked.waiting);
            }
        }
        self.fresh = expire(std::mem::take(&mut self.fresh), now);
        for waiting in self.answered.values_mut() {
            *waiting = expire(std::mem::take(waiting), now);
        }
    }

    pub(crate) fn fail(&mut self, error: &Error) {
        let asked = self.asked.drain().flat_map(|(_, asked)| asked.waiting);
        let answered = std::mem::take(&mut self.answered).into_values().flatten();
        for waiting in self.fresh.drain(..).chain(asked).chain(answered) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }
}

fn expire(waiting: Vec<Waiting>, now: u64) -> Vec<Waiting> {
    let (expired, kept): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| w.deadline <= now);
    for waiting in expired {
        let error = Error::unavailable("no leader confirmed a linearizable read in time")
            .hint("a majority of the coordinators must be running and reachable");
        let _ = waiting.reply.send(Err(error));
    }
    kept
}
