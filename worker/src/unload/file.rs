//! One file that is being written under its hidden name.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::storage::StoreWriter;
use stevedore_common::{Error, Result};

use super::parquet::ParquetEncoder;
use super::text::TextEncoder;
use super::{Target, UnloadedFile};

/// Encoded bytes are handed to the store in pieces of at least this size.
const PIECE_BYTES: usize = 256 << 10;

/// Rows into bytes.
enum Encoder {
    Text(Box<TextEncoder>),
    Parquet(Box<ParquetEncoder>),
}

impl Encoder {
    fn new(target: &Target) -> Result<Self> {
        Ok(match target.format.kind {
            FormatKind::Parquet => Self::Parquet(Box::new(ParquetEncoder::new(target)?)),
            _ => Self::Text(Box::new(TextEncoder::new(&target.format, &target.schema, &target.cast)?)),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Text(encoder) => encoder.write(batch),
            Self::Parquet(encoder) => encoder.write(batch),
        }
    }

    /// Bytes that wait to be taken.
    fn waiting(&self) -> usize {
        match self {
            Self::Text(encoder) => encoder.waiting(),
            Self::Parquet(encoder) => encoder.waiting(),
        }
    }

    /// Bytes that the file would still get, about, if it ended now.
    fn pending(&self) -> usize {
        match self {
            Self::Text(encoder) => encoder.waiting(),
            Self::Parquet(encoder) => encoder.pending(),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Text(encoder) => encoder.take(),
            Self::Parquet(encoder) => encoder.take(),
        }
    }

    fn finish(self) -> Result<Vec<u8>> {
        match self {
            Self::Text(encoder) => encoder.finish(),
            Self::Parquet(encoder) => encoder.finish(),
        }
    }
}

/// A file on its way. Dropping it leaves nothing that anybody sees.
pub(super) struct OpenFile {
    target: Arc<Target>,
    writer: StoreWriter,
    encoder: Option<Encoder>,
    hidden: String,
    name: String,
    rows: u64,
    written: u64,
    pending: u64,
}

impl OpenFile {
    pub(super) async fn create(target: &Arc<Target>, hidden: String, name: String) -> Result<Self> {
        let writer = target.store.writer(&format!("{}{hidden}", target.folder)).await?;
        let encoder = Some(Encoder::new(target)?);
        Ok(Self { target: target.clone(), writer, encoder, hidden, name, rows: 0, written: 0, pending: 0 })
    }

    /// Bytes so far, about.
    pub(super) fn bytes(&self) -> u64 {
        self.written + self.pending
    }

    fn encoder(&mut self) -> Result<Encoder> {
        self.encoder.take().ok_or_else(|| Error::internal("a file was written to after it had failed"))
    }

    /// Encodes off the core threads.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut encoder = self.encoder()?;
        self.rows += batch.num_rows() as u64;
        let (encoder, bytes) = self
            .target
            .resources
            .cpu
            .run(move || {
                encoder.write(&batch)?;
                let bytes = if encoder.waiting() >= PIECE_BYTES { encoder.take() } else { Vec::new() };
                Ok((encoder, bytes))
            })
            .await?;
        self.pending = encoder.pending() as u64;
        self.encoder = Some(encoder);
        self.send(bytes).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.written += bytes.len() as u64;
        self.writer.write(Bytes::from(bytes)).await
    }

    /// Ends the file; it is durable then.
    pub(super) async fn close(mut self) -> Result<UnloadedFile> {
        let encoder = self.encoder()?;
        let bytes = self.target.resources.cpu.run(move || encoder.finish()).await?;
        self.send(bytes).await?;
        self.writer.finish().await?;
        Ok(UnloadedFile { hidden: self.hidden, name: self.name, rows: self.rows, bytes: self.written })
    }
}

/// `csv`, `csv.gz`, `parquet`.
pub(super) fn extension(format: &FileFormat) -> String {
    let kind = format.kind.as_str().to_ascii_lowercase();
    match format.compression.extension() {
        // Parquet compresses within the file.
        Some(compression) if format.kind != FormatKind::Parquet => format!("{kind}.{compression}"),
        _ => kind,
    }
}
