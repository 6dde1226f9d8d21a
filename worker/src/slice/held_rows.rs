//! Rows that wait for a verdict: in memory while there is some to be had, else in a file.
//!
//! Comes in: batches of one schema. Goes out: the same batches, once, or nothing where they are dropped. Memory is
//! taken from the worker's budget, up to a limit a holder; what goes beyond it is spilled. The file has no name that
//! outlives the process.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use stevedore_common::{Error, Result};

use crate::messages::owned;
use crate::read::{MemoryBudget, Reservation};

/// Bytes in memory of one holder.
const IN_MEMORY: u64 = 32 << 20;

/// The rows.
pub(super) struct HeldRows {
    budget: MemoryBudget,
    folder: PathBuf,
    in_memory: Vec<(RecordBatch, Reservation)>,
    bytes: u64,
    most: u64,
    spilled: Option<StreamWriter<BufWriter<File>>>,
}

impl HeldRows {
    /// Nothing yet; files go to `folder`.
    pub(super) fn new(budget: MemoryBudget, folder: &Path) -> Self {
        Self {
            budget,
            folder: folder.to_owned(),
            in_memory: Vec::new(),
            bytes: 0,
            most: IN_MEMORY,
            spilled: None,
        }
    }

    /// Holds a batch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let bytes = batch.get_array_memory_size() as u64;
        if self.spilled.is_none()
            && self.bytes + bytes <= self.most
            && let Some(reservation) = self.budget.try_reserve(bytes)
        {
            self.bytes += bytes;
            self.in_memory.push((batch, reservation));
            return Ok(());
        }
        let (writer, folder) = (self.spilled.take(), self.folder.clone());
        let spill = move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => {
                    std::fs::create_dir_all(&folder)?;
                    let file = tempfile::tempfile_in(&folder)?;
                    StreamWriter::try_new(BufWriter::new(file), &batch.schema())?
                }
            };
            writer.write(&batch)?;
            Ok::<_, Error>(writer)
        };
        self.spilled = Some(blocking(spill).await.map_err(spilling)?);
        Ok(())
    }

    /// The rows, one batch after the other.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) async fn release(self) -> Result<Released> {
        let reader = match self.spilled {
            Some(writer) => Some(
                blocking(move || {
                    let mut writer = writer;
                    writer.finish()?;
                    let buffer = writer.into_inner()?;
                    let mut file = buffer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                    file.seek(SeekFrom::Start(0))?;
                    Ok(StreamReader::try_new(BufReader::new(file), None)?)
                })
                .await
                .map_err(spilling)?,
            ),
            None => None,
        };
        Ok(Released { in_memory: self.in_memory.into_iter(), spilled: reader })
    }
}

/// Rows on their way out.
pub(super) struct Released {
    in_memory: std::vec::IntoIter<(RecordBatch, Reservation)>,
    spilled: Option<StreamReader<BufReader<File>>>,
}

impl Released {
    /// The next batch.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some((batch, _)) = self.in_memory.next() {
            return Ok(Some(batch));
        }
        let Some(mut reader) = self.spilled.take() else { return Ok(None) };
        let (reader, batch) = blocking(move || {
            let batch = reader.next().transpose()?.map(|batch| owned(&batch)).transpose()?;
            Ok((reader, batch))
        })
        .await
        .map_err(spilling)?;
        self.spilled = Some(reader);
        Ok(batch)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("spilling rows failed: {e}")))?
}

fn spilling(error: Error) -> Error {
    error.context("spilling rows to disk")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch(from: i64) -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 1000));
        RecordBatch::try_from_iter([("id", ids)]).unwrap()
    }

    async fn ids_through(mut held: HeldRows) -> (Vec<i64>, usize) {
        for n in 0..10 {
            held.push(batch(n * 1000)).await.unwrap();
        }
        let kept = held.in_memory.len();
        let mut rows = held.release().await.unwrap();
        let mut ids = Vec::new();
        while let Some(batch) = rows.next().await.unwrap() {
            ids.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
        }
        (ids, kept)
    }

    #[tokio::test]
    async fn rows_come_back_whether_they_fit_in_memory_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let everything: Vec<i64> = (0..10_000).collect();
        let budget = MemoryBudget::new(64 << 20);
        let roomy = HeldRows::new(budget.clone(), folder.path());
        assert_eq!(ids_through(roomy).await, (everything.clone(), 10));
        let tight = HeldRows { most: 20_000, ..HeldRows::new(budget.clone(), folder.path()) };
        assert_eq!(ids_through(tight).await, (everything.clone(), 2));
        // Nothing of the budget is free: all of it is spilled.
        let taken = budget.try_reserve(budget.bytes()).unwrap();
        let poor = HeldRows::new(budget.clone(), folder.path());
        assert_eq!(ids_through(poor).await, (everything, 0));
        drop(taken);
        assert_eq!(budget.used(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
