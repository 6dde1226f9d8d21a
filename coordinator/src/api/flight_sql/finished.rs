//! Results of statements that ran before their tickets are redeemed.
//!
//! Comes in: the rows of a statement that changed something. Goes out: the same rows, as often as they are asked for,
//! for a while. Must never be needed: a ticket whose result was forgotten, or that comes to another coordinator, runs
//! its statement again, which changes nothing more.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use parking_lot::Mutex;
use stevedore_common::Result;
use uuid::Uuid;

use crate::engine::Execution;

/// Results kept, and the bytes that they may take together.
const MOST_RESULTS: usize = 1024;
const MOST_BYTES: usize = 32 << 20;

/// The rows of a statement.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Finished {
    /// Reads the rows to their end; `None` where they are more than are kept.
    ///
    /// # Errors
    /// What came in the statement's way.
    pub(super) async fn of(mut execution: Execution) -> Result<Option<Self>> {
        let mut finished = Self { schema: execution.schema, batches: Vec::new(), bytes: 0 };
        while let Some(batch) = execution.batches.next().await {
            let batch = batch?;
            finished.bytes += batch.get_array_memory_size();
            if finished.bytes <= MOST_BYTES / 4 {
                finished.batches.push(batch);
            } else {
                // The statement ends with its rows.
                finished.batches.clear();
            }
        }
        Ok((finished.bytes <= MOST_BYTES / 4).then_some(finished))
    }
}

/// The latest results, by statement, oldest first.
#[derive(Debug, Default)]
pub(super) struct FinishedStatements(Mutex<VecDeque<(Uuid, Arc<Finished>)>>);

impl FinishedStatements {
    pub(super) fn keep(&self, statement: Uuid, result: Finished) {
        let mut kept = self.0.lock();
        kept.push_back((statement, Arc::new(result)));
        let mut bytes: usize = kept.iter().map(|(_, result)| result.bytes).sum();
        while kept.len() > MOST_RESULTS || bytes > MOST_BYTES {
            let Some((_, oldest)) = kept.pop_front() else { break };
            bytes -= oldest.bytes;
        }
    }

    pub(super) fn of(&self, statement: Uuid) -> Option<Arc<Finished>> {
        let kept = self.0.lock();
        kept.iter().rev().find(|(known, _)| *known == statement).map(|(_, result)| Arc::clone(result))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn result(rows: i64) -> Finished {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let fields = vec![arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int64, false)];
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let batches = RecordBatch::try_new(Arc::clone(&schema), vec![values]).into_iter().collect();
        Finished { schema, batches, bytes: rows as usize * 8 }
    }

    #[test]
    fn the_oldest_results_are_forgotten() {
        let finished = FinishedStatements::default();
        let ids: Vec<Uuid> = (0..6).map(|_| Uuid::new_v4()).collect();
        for id in &ids {
            finished.keep(*id, result(MOST_BYTES as i64 / 32));
        }
        let known: Vec<bool> = ids.iter().map(|id| finished.of(*id).is_some()).collect();
        assert_eq!(known, [false, false, true, true, true, true]);
        for _ in 0..MOST_RESULTS {
            finished.keep(Uuid::new_v4(), result(1));
        }
        assert!(finished.of(ids[5]).is_none());
    }
}
