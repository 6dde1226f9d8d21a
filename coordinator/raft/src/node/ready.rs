//! Processing what raft-rs has ready, in the one order that is safe: send what may go at once; install
//! a snapshot; make entries and hard state durable in one batch; send what had to wait for that; apply
//! what is committed, its effects and the applied index in one batch; advance; the same once more for
//! what became ready by that. Nothing is stepped or proposed in between.

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, EntryType, Snapshot};

use super::*;

/// Effects are written to the state store when they reach one of these.
const FLUSH_KEYS: usize = 2_000;
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

impl<M: StateMachine> NodeCore<M> {
    pub(super) fn process_ready(&mut self) -> Result<()> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.send(ready.take_messages())?;
            if !ready.snapshot().is_empty() {
                self.install(ready.snapshot())?;
            }
            let must_sync = ready.must_sync();
            let entries = ready.take_entries();
            if !entries.is_empty() || ready.hs().is_some() {
                let hard_state = ready.hs().cloned();
                self.raw.mut_store().write(&entries, hard_state.as_ref(), must_sync)?;
            }
            self.send(ready.take_persisted_messages())?;
            for read in ready.take_read_states() {
                self.reads.answer(&read.request_ctx, read.index);
            }
            self.apply(ready.take_committed_entries())?;
            let mut light = self.raw.advance(ready);
            self.send(light.take_messages())?;
            self.apply(light.take_committed_entries())?;
            self.raw.advance_apply();
        }
        let leading_in = self.leads().then_some(self.raw.raft.term);
        self.proposals.give_up(leading_in, "this node lost the leadership before it was applied");
        self.reads.applied(self.meta.applied);
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<()> {
        let mut by_peer: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
        let mut snapshots = Vec::new();
        for message in messages {
            let bytes = message
                .write_to_bytes()
                .map_err(|e| Error::internal(format!("encoding a raft message failed: {e}")))?;
            if message.msg_type == MessageType::MsgSnapshot {
                let manifest = SnapshotManifest::decode(&message.get_snapshot().data)?;
                snapshots.push((message.to, bytes, self.snapshots.path_of(&manifest)));
            } else {
                by_peer.entry(message.to).or_default().push(bytes.into());
            }
        }
        for (to, messages) in by_peer {
            self.transport.send(NodeId(to), messages);
        }
        for (to, message, file) in snapshots {
            tracing::info!(to, file = %file.display(), "sending a snapshot");
            self.transport.send_snapshot(NodeId(to), message.into(), file);
        }
        Ok(())
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.flush()?;
        let manifest = SnapshotManifest::decode(&snapshot.data)?;
        // The state first: on opening, a state that leads by an installed snapshot is told from a log
        // that lost entries, and the log follows it.
        self.meta = self.snapshots.install(&manifest, &self.state)?;
        let mut hard_state = self.raw.raft.hard_state();
        hard_state.commit = manifest.index;
        let start = LogStart { index: manifest.index, term: manifest.term };
        self.raw.mut_store().restart_at(start, &hard_state)?;
        self.raw.store().available.replace(None);
        self.snapshots.keep_only(&[])?;
        self.machine.state_replaced(&self.state.view());
        // Nobody may be listening.
        let _ = self.events.send(Event::ReadStateAgain);
        tracing::info!(index = manifest.index, bytes = manifest.bytes, "installed a snapshot");
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<()> {
        for entry in entries {
            if entry.index <= self.meta.applied {
                return Err(Error::internal(format!(
                    "raft gave log entry {} again after {}",
                    entry.index, self.meta.applied
                )));
            }
            match entry.entry_type {
                EntryType::EntryNormal => self.apply_command(&entry)?,
                EntryType::EntryConfChange => self.apply_membership(&entry)?,
                EntryType::EntryConfChangeV2 => {
                    return Err(Error::internal(
                        "a joint membership change is in the log; none is ever proposed",
                    ));
                }
            }
            self.meta.applied = entry.index;
            self.meta.applied_term = entry.term;
            if self.effects.writes.len() >= FLUSH_KEYS || self.effects_bytes >= FLUSH_BYTES {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn apply_command(&mut self, entry: &Entry) -> Result<()> {
        // What a new leader begins its term with.
        if entry.data.is_empty() {
            return Ok(());
        }
        let applied = {
            let view = self.state.overlaid(&self.effects);
            self.machine
                .apply(&view, entry.index, &entry.data)
                .map_err(|e| e.context(format!("applying log entry {}", entry.index)))?
        };
        for (key, value) in applied.batch.writes {
            self.effects_bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            self.effects.writes.insert(key, value);
        }
        self.said
            .extend(applied.events.into_iter().map(|event| Event::Applied { index: entry.index, event }));
        if let Some(sequence) = self.proposals.waiting(&entry.context) {
            self.settled.push((sequence, Ok(Proposed { index: entry.index, result: applied.result })));
        }
        Ok(())
    }

    /// Writes the effects with the applied index, then lets everybody know.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.meta.applied > self.state.meta().applied {
            let effects = std::mem::take(&mut self.effects);
            self.effects_bytes = 0;
            self.state.write(&effects, self.meta.clone())?;
        }
        for (sequence, outcome) in self.settled.drain(..) {
            self.proposals.resolve(sequence, outcome);
        }
        for event in self.said.drain(..) {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        Ok(())
    }
}
