//! Limits on what a text file may ask of memory and time, with the names under which an operator sets them.
//!
//! Comes in: configured numbers. Goes out: settings that the decompressor and the block cutter obey; each
//! error names the limit that was reached.

/// What a compressed stream may grow to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecompressLimits {
    /// `max_decompressed_bytes`: bytes that one file may become.
    pub max_output_bytes: u64,
    /// `max_decompression_ratio`: output bytes for each input byte, once the output is past
    /// [`DecompressLimits::RATIO_FLOOR`].
    pub max_ratio: u64,
}

impl DecompressLimits {
    /// Output below this is never refused for its ratio.
    pub const RATIO_FLOOR: u64 = 256 << 20;
}

impl Default for DecompressLimits {
    fn default() -> Self {
        Self { max_output_bytes: 1 << 40, max_ratio: 1000 }
    }
}

/// How text is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Bytes of a block, about; a block holds at least one record, however large.
    pub block_bytes: usize,
    /// `max_record_bytes`: the largest record.
    pub max_record_bytes: usize,
}

impl TextLimits {
    /// Offsets within a block are 32 bits with flags in the top one, so records end below this.
    pub const LARGEST_RECORD: usize = 1 << 30;

    /// The limit on records in force.
    pub fn record_bytes(&self) -> usize {
        self.max_record_bytes.clamp(1, Self::LARGEST_RECORD)
    }
}

impl Default for TextLimits {
    fn default() -> Self {
        Self { block_bytes: 1 << 20, max_record_bytes: 64 << 20 }
    }
}
