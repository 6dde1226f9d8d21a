//! Bulk ingestion: rows that a client sends, through a coordinator, into the table.
//!
//! The spec says which columns the rows have, in their order; types come with the rows and are cast as those of an
//! INSERT. The first row that does not fit fails the statement. A stream that ends without saying so was cut off, and
//! nothing of it counts.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use futures::TryStreamExt;
use stevedore_common::ids::AttemptKey;
use stevedore_common::schema::TableSchema;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::TableTarget;

use super::insert::Insert;
use super::{SliceCounters, SliceFailure, SliceRunner};
use crate::inbox::Delivery;
use crate::messages::{batches, failure, owned};
use crate::write::BatchSink;

/// Rows that are cast in one go: a client's batch may hold all that it has.
const ROWS_TOGETHER: usize = 64 << 10;

impl SliceRunner {
    /// Waits for the rows of an attempt and gives them to the sink.
    pub(super) async fn ingest(
        &self,
        attempt: AttemptKey,
        settings: &HashMap<String, String>,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<(), SliceFailure> {
        let Delivery { messages, taken } = self.inbox.rows_of(attempt).await?;
        let (rows, completion) = batches(messages);
        let written = self.write_ingested(rows, settings, target, table, sink, counters).await;
        let outcome = match written {
            Ok(()) if completion.metadata().is_none() => {
                Err(Error::unavailable("the rows ended before all of them had come")
                    .hint("nothing was loaded; send them again"))
            }
            outcome => outcome,
        };
        // Nobody may be left to hear it.
        let _ = taken.send(outcome.clone());
        Ok(outcome?)
    }

    async fn write_ingested(
        &self,
        mut rows: FlightRecordBatchStream,
        settings: &HashMap<String, String>,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<()> {
        let mut insert: Option<Arc<Insert>> = None;
        let mut first = 0;
        while let Some(batch) = rows.try_next().await.map_err(|e| failure(e, "the ingested data"))? {
            let insert = match &insert {
                Some(insert) => insert.clone(),
                None => {
                    let columns = batch.schema();
                    let compiled = Insert::compile(
                        &self.engine,
                        settings,
                        target,
                        table,
                        &columns,
                        "the ingested data",
                    )?;
                    insert.insert(Arc::new(compiled)).clone()
                }
            };
            for piece in pieces(batch) {
                let piece = self.resources.cpu.run(move || owned(&piece)).await?;
                SliceCounters::add(&counters.bytes, piece.get_array_memory_size() as u64);
                self.write_cast(&insert, piece, &mut first, sink, counters).await?;
            }
        }
        Ok(())
    }
}

fn pieces(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> {
    (0..batch.num_rows())
        .step_by(ROWS_TOGETHER)
        .map(move |from| batch.slice(from, ROWS_TOGETHER.min(batch.num_rows() - from)))
}
