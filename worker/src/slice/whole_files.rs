//! ON_ERROR = skip_file, skip_file_N and skip_file_N%: a file is loaded whole, or left out whole.
//!
//! Comes in: the events of files, in order. Goes out: the rows of good files to the sink. A row reaches the
//! sink only when its file is known to be good, since the sink cannot take it back. Until then a file's
//! batches are held, within `held_bytes` and the budget of memory. A file that takes more is decoded to its
//! end to be judged, and read a second time to be loaded. What is reported of it is what the second
//! reading gave, and is judged again: should it come out otherwise (the file was replaced in a store that
//! cannot pin versions, or an expression of the transform is random), the attempt ends and its data files
//! with it, and another one judges anew.
//!
//! Must never: load a part of a file, wait for memory while it holds some.

use arrow::array::RecordBatch;
use futures::StreamExt;
use stevedore_common::Error;

use super::copy::{Input, Ready, state_of, try_again};
use super::errors::{FileState, SkipRule};
use super::{SliceCounters, SliceFailure};
use crate::read::{Consumer, FileEvent, GivenUp, Reservation, WorkerResources, is_fault_of_file};
use crate::write::BatchSink;

/// What a slice may hold whatever the budget says, so that small files are not read twice because other
/// slices read ahead.
const FREE_BYTES: u64 = 1 << 20;

/// Loads the files that the rule lets pass.
pub(super) async fn load(
    input: &Input,
    rule: SkipRule,
    states: &mut [FileState],
    sink: &mut dyn BatchSink,
    counters: &SliceCounters,
) -> Result<(), SliceFailure> {
    let given_up = GivenUp::default();
    let mut ready =
        input.read(0..states.len(), Consumer { given_up: given_up.clone(), ..Consumer::default() });
    let mut held = Held::default();
    while let Some((index, event)) = ready.next().await {
        let file = state_of(states, index)?;
        if file.is_left_out() {
            // It was on its way when the file was given up.
            continue;
        }
        match event? {
            Ready::Rows(loaded) => {
                SliceCounters::add(&counters.bytes, loaded.input_bytes);
                for error in &loaded.errors {
                    SliceCounters::add(&counters.errors, 1);
                    file.count(error.line, &error.message);
                    if rule.is_out_already(file) {
                        break;
                    }
                }
                if rule.is_out_already(file) {
                    file.leave_out();
                    held = Held::default();
                    given_up.give_up(index);
                    SliceCounters::add(&counters.files_done, 1);
                } else {
                    file.rows += loaded.batch.num_rows() as u64;
                    held.hold(loaded.batch, &input.resources);
                }
            }
            Ready::Other(FileEvent::Finished(totals)) => {
                file.finished(totals);
                match std::mem::take(&mut held) {
                    _ if rule.is_out(file) => file.leave_out(),
                    Held { too_much: true, .. } => {
                        *file = load_again(input, index, rule, file.anew(), sink, counters).await?;
                    }
                    Held { batches, .. } => {
                        for (batch, _memory) in batches {
                            let rows = batch.num_rows() as u64;
                            sink.write(batch).await?;
                            SliceCounters::add(&counters.rows, rows);
                        }
                    }
                }
                SliceCounters::add(&counters.files_done, 1);
            }
            Ready::Other(FileEvent::Failed(error)) => {
                if !is_fault_of_file(&error) {
                    return Err(try_again(file, error));
                }
                SliceCounters::add(&counters.errors, 1);
                file.count(0, &error.to_string());
                file.leave_out();
                held = Held::default();
                SliceCounters::add(&counters.files_done, 1);
            }
            // Batches are made ready, and no target was given.
            Ready::Other(FileEvent::Started | FileEvent::Batch(_) | FileEvent::Stored(..)) => {}
        }
    }
    Ok(())
}

/// Reads a file that was found good once more, now into the sink.
///
/// # Errors
/// It is not good any more, or cannot be read; the attempt cannot go on then.
pub(super) async fn load_again(
    input: &Input,
    index: usize,
    rule: SkipRule,
    mut file: FileState,
    sink: &mut dyn BatchSink,
    counters: &SliceCounters,
) -> Result<FileState, SliceFailure> {
    let otherwise = || {
        Error::conflict(
            "it was good when it was read to be judged, and was not when it was read to be loaded",
        )
        .hint("the file changed meanwhile, or the transform has an expression that is random")
    };
    let mut ready = input.read(index..index + 1, Consumer::default());
    while let Some((_, event)) = ready.next().await {
        match event? {
            Ready::Rows(loaded) => {
                for error in &loaded.errors {
                    file.count(error.line, &error.message);
                }
                if rule.is_out_already(&file) {
                    return Err(try_again(&file, otherwise()));
                }
                let rows = loaded.batch.num_rows() as u64;
                file.rows += rows;
                sink.write(loaded.batch).await?;
                SliceCounters::add(&counters.rows, rows);
            }
            Ready::Other(FileEvent::Finished(totals)) => file.finished(totals),
            Ready::Other(FileEvent::Failed(error)) => return Err(try_again(&file, error)),
            // Batches are made ready, and no target was given.
            Ready::Other(FileEvent::Started | FileEvent::Batch(_) | FileEvent::Stored(..)) => {}
        }
    }
    if rule.is_out(&file) {
        return Err(try_again(&file, otherwise()));
    }
    Ok(file)
}

/// The rows of the file at hand, until it is known to be good.
#[derive(Debug, Default)]
struct Held {
    /// Each with its part of the budget.
    batches: Vec<(RecordBatch, Option<Reservation>)>,
    bytes: u64,
    /// They did not fit, and none is held.
    too_much: bool,
}

impl Held {
    fn hold(&mut self, batch: RecordBatch, resources: &WorkerResources) {
        if self.too_much || batch.num_rows() == 0 {
            return;
        }
        let bytes = batch.get_array_memory_size() as u64;
        self.bytes += bytes;
        let memory = match self.bytes {
            all if all > resources.settings.held_bytes => None,
            all if all <= FREE_BYTES => Some(None),
            _ => resources.memory.try_reserve(bytes).map(Some),
        };
        match memory {
            Some(memory) => self.batches.push((batch, memory)),
            None => *self = Self { too_much: true, ..Self::default() },
        }
    }
}
