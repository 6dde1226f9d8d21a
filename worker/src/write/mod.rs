//! From batches to the data files of a table.
//!
//! Comes in: batches in the natural Arrow types of the table's columns, every column, in order, NOT NULL
//! and VECTOR lengths already enforced. Goes out: Parquet files in the table's data folder and, for each,
//! the JSON of an Iceberg data file with its statistics. Encoding is CPU work and runs off tokio's core
//! threads, the columns of a row group in parallel; memory is bounded by a row group a file being written, and
//! row groups end sooner where all files together hold more than their share.
//!
//! Must never: commit anything, reuse a file name, answer for a file that is not durable. Fails with
//! storage errors (retryable), with bad data where a value cannot be stored; then nothing that was
//! written counts, and [`BatchSink::abort`] removes it.

mod encode;
mod file_names;
mod file_writer;
mod memory;
mod partition;
mod sample;
mod stats;
mod storage_arrays;
mod stored;
mod table_writer;
mod upload;

pub use encode::Encoders;
pub use file_names::FileNames;
pub use table_writer::{TableWriter, WriteTarget};

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{StoredGroup, StoredLayout};

/// A data file that is durable and in no snapshot yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Absolute location.
    pub location: String,
    /// The Iceberg data file as JSON (`iceberg::spec::serialize_data_file_to_json`).
    pub json: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Where rows go: to data files, or to a writer that is fed by several readers.
#[async_trait]
pub trait BatchSink: Send {
    /// Takes the next rows. Returns when there is room for more.
    ///
    /// # Errors
    /// Storage, bad data. The sink can only be aborted then.
    async fn write(&mut self, batch: RecordBatch) -> Result<()>;

    /// How the sink stores rows, where it can take row groups column by column.
    fn stored_layout(&self) -> Option<Arc<StoredLayout>> {
        None
    }

    /// Takes a row group whose columns are ready, made for [`BatchSink::stored_layout`].
    ///
    /// # Errors
    /// As [`BatchSink::write`]; internal where the sink has no layout.
    async fn write_stored(&mut self, _group: StoredGroup) -> Result<()> {
        Err(Error::internal("this sink takes no stored row groups"))
    }

    /// Ends the rows and waits until everything is durable.
    ///
    /// # Errors
    /// As [`BatchSink::write`].
    async fn finish(&mut self) -> Result<Vec<WrittenFile>>;

    /// Gives up: removes what was written, best effort.
    async fn abort(&mut self);
}

#[cfg(test)]
mod tests;
