//! Reading the Parquet files of a table.
//!
//! Comes in: absolute locations below a table's store. Goes out: readers for DataFusion's Parquet scan
//! whose requests run on the I/O runtime, whichever thread polls them; ranges that almost touch are one
//! request. Errors name the file.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::io::{FileIO, FileRead};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use stevedore_common::{Error, Result};
use tokio::runtime::Handle;

use super::error::{from_iceberg, to_datafusion};

/// Bytes read at the end of a file to get its footer in one request, mostly.
pub(crate) const FOOTER_BYTES: usize = 64 << 10;
/// Ranges with a gap of at most this are read in one request.
const GAP_BYTES: u64 = 1 << 20;

/// Opens Parquet files of a table's store for reading on the I/O runtime.
#[derive(Debug, Clone)]
pub(crate) struct ParquetFiles {
    pub(crate) file_io: FileIO,
    pub(crate) io: Handle,
}

impl ParquetFiles {
    pub(crate) fn open(&self, location: &str, size: u64) -> Result<TableFileReader> {
        let input = self.file_io.new_input(location)?;
        Ok(TableFileReader { input: Arc::new(input), reader: None, size, io: self.io.clone() })
    }

    /// Runs a read on the I/O runtime.
    pub(crate) async fn on_io<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.io.spawn(task).await {
            Ok(result) => result,
            Err(e) => Err(Error::internal(format!("a read failed: {e}"))),
        }
    }
}

/// Reads ranges of one file.
pub(crate) struct TableFileReader {
    input: Arc<iceberg::io::InputFile>,
    reader: Option<Arc<dyn FileRead>>,
    size: u64,
    io: Handle,
}

impl TableFileReader {
    async fn read(&mut self, ranges: Vec<Range<u64>>) -> parquet::errors::Result<Vec<Bytes>> {
        let (input, reader) = (Arc::clone(&self.input), self.reader.clone());
        let task = self.io.spawn(async move {
            let reader = match reader {
                Some(reader) => reader,
                None => Arc::from(input.reader().await?),
            };
            let reads = ranges.into_iter().map(|range| {
                let reader = Arc::clone(&reader);
                async move { reader.read(range).await }
            });
            let bytes = futures::future::try_join_all(reads).await?;
            Ok::<_, iceberg::Error>((reader, bytes))
        });
        let (reader, bytes) =
            task.await
                .map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))?
                .map_err(|e| parquet::errors::ParquetError::External(Box::new(read_error(&self.input, e))))?;
        self.reader = Some(reader);
        Ok(bytes)
    }
}

fn read_error(input: &iceberg::io::InputFile, error: iceberg::Error) -> Error {
    from_iceberg(error).context(format!("reading '{}'", input.location()))
}

impl AsyncFileReader for TableFileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { Ok(self.read(vec![range]).await?.pop().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            // One request for ranges that almost touch.
            let merged = merge_ranges(&ranges, GAP_BYTES);
            let bytes = self.read(merged.clone()).await?;
            Ok(ranges
                .iter()
                .map(|range| {
                    let at = merged.partition_point(|whole| whole.start <= range.start).saturating_sub(1);
                    match (merged.get(at), bytes.get(at)) {
                        (Some(whole), Some(bytes)) => {
                            let start = ((range.start - whole.start) as usize).min(bytes.len());
                            let end = ((range.end - whole.start) as usize).min(bytes.len());
                            bytes.slice(start..end)
                        }
                        _ => Bytes::new(),
                    }
                })
                .collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let column = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::column_index_policy);
            let offset = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::offset_index_policy);
            let size = self.size;
            let metadata = ParquetMetaDataReader::new()
                .with_column_index_policy(column)
                .with_offset_index_policy(offset)
                .with_prefetch_hint(Some(FOOTER_BYTES))
                .load_and_finish(self, size)
                .await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// Joins ranges with gaps of at most `gap` bytes.
fn merge_ranges(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Finds the reader of a planned file, whose path is its place in `locations`.
#[derive(Debug)]
pub(crate) struct ReaderFactory {
    pub(crate) files: ParquetFiles,
    pub(crate) locations: Vec<String>,
}

impl ParquetFileReaderFactory for ReaderFactory {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> DfResult<Box<dyn AsyncFileReader + Send>> {
        let location = file
            .path()
            .as_ref()
            .parse::<usize>()
            .ok()
            .and_then(|index| self.locations.get(index))
            .ok_or_else(|| DataFusionError::Internal(format!("'{}' is no file of this scan", file.path())))?;
        Ok(Box::new(self.files.open(location, file.object_meta.size).map_err(to_datafusion)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_almost_touch_are_one_request() {
        assert_eq!(merge_ranges(&[30..40, 0..10, 12..20, 35..50], 5), [0..20, 30..50]);
        assert!(merge_ranges(&[], 5).is_empty());
    }
}
