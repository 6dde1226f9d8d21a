//! What one file may ask of a worker.

use clap::Args;
use stevedore_worker::read::ReadLimits;

use crate::config::WorkerFile;

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// The largest record of a text file, bytes (64 MiB).
    #[arg(long, env = "STEVEDORE_MAX_RECORD_BYTES")]
    max_record_bytes: Option<usize>,
    /// The largest page of a Parquet file or block of an Avro file, decompressed, bytes (128 MiB).
    #[arg(long, env = "STEVEDORE_MAX_BLOCK_BYTES")]
    max_block_bytes: Option<usize>,
    /// Bytes that a compressed text file may become (1 TiB).
    #[arg(long, env = "STEVEDORE_MAX_DECOMPRESSED_BYTES")]
    max_decompressed_bytes: Option<u64>,
    /// Bytes that it may become for each of its own, once it is larger than 256 MiB (1000).
    #[arg(long, env = "STEVEDORE_MAX_DECOMPRESSION_RATIO")]
    max_decompression_ratio: Option<u64>,
}

impl LimitArgs {
    /// The limits: those given here, else those of the file, else the defaults.
    pub(super) fn or(&self, file: &WorkerFile) -> ReadLimits {
        let known = ReadLimits::default();
        ReadLimits {
            max_record_bytes: self
                .max_record_bytes
                .or(file.max_record_bytes)
                .unwrap_or(known.max_record_bytes),
            max_block_bytes: self.max_block_bytes.or(file.max_block_bytes).unwrap_or(known.max_block_bytes),
            max_decompressed_bytes: self
                .max_decompressed_bytes
                .or(file.max_decompressed_bytes)
                .unwrap_or(known.max_decompressed_bytes),
            max_decompression_ratio: self
                .max_decompression_ratio
                .or(file.max_decompression_ratio)
                .unwrap_or(known.max_decompression_ratio),
        }
    }
}
