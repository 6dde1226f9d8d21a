//! Rows into Parquet.

use std::io;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use stevedore_common::file_format::Compression;
use stevedore_common::{Error, Result};

use super::Target;

/// A row group ends at so many bytes, encoded: what an open file holds in memory.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Bytes that the library has let go of.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct ParquetEncoder {
    writer: ArrowWriter<Shared>,
    bytes: Shared,
}

fn failed(error: ParquetError) -> Error {
    Error::internal(format!("encoding rows as Parquet: {error}"))
}

impl ParquetEncoder {
    pub(super) fn new(target: &Target) -> Result<Self> {
        let codec = match target.format.compression {
            Compression::None => Codec::UNCOMPRESSED,
            _ => Codec::ZSTD(ZstdLevel::try_new(1).map_err(failed)?),
        };
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_created_by(format!("stevedore {}", env!("CARGO_PKG_VERSION")))
            .build();
        let bytes = Shared::default();
        let writer = ArrowWriter::try_new(bytes.clone(), target.schema.clone(), Some(properties));
        let writer = writer.map_err(|e| {
            Error::not_supported(format!("unloading these columns as Parquet: {e}"))
                .hint("cast them in the query")
        })?;
        Ok(Self { writer, bytes })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(failed)?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn waiting(&self) -> usize {
        self.bytes.0.lock().len()
    }

    pub(super) fn pending(&self) -> usize {
        self.waiting() + self.writer.in_progress_size()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.0.lock())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        let Self { writer, bytes } = self;
        writer.close().map_err(failed)?;
        let rest = std::mem::take(&mut *bytes.0.lock());
        Ok(rest)
    }
}
