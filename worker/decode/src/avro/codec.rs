//! What blocks are compressed with.

use std::io::Read;

use stevedore_common::error::{Error, Result};

/// Memory that an xz block may ask for.
const XZ_MEMORY: u64 = 128 << 20;
/// Window that a zstandard block may ask for, as a power of two.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A block codec of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockCodec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
    Bzip2,
    Xz,
}

impl BlockCodec {
    pub(super) fn parse(name: &[u8]) -> Result<Self> {
        Ok(match name {
            b"null" | b"" => Self::Null,
            b"deflate" => Self::Deflate,
            b"snappy" => Self::Snappy,
            b"zstandard" => Self::Zstandard,
            b"bzip2" => Self::Bzip2,
            b"xz" => Self::Xz,
            other => {
                return Err(Error::not_supported(format!(
                    "Avro blocks compressed by '{}'",
                    crate::errors::cut(&String::from_utf8_lossy(other))
                )));
            }
        })
    }

    /// Appends what a block holds, at most so many bytes. The error says what is wrong, without the block.
    pub(super) fn decompress(self, block: &[u8], most: usize, out: &mut Vec<u8>) -> Result<()> {
        let failed = |error: std::io::Error| Error::bad_data(error.to_string());
        match self {
            Self::Null => out.extend_from_slice(block),
            Self::Deflate => append(flate2::bufread::DeflateDecoder::new(block), most, out)?,
            Self::Bzip2 => append(bzip2::bufread::BzDecoder::new(block), most, out)?,
            Self::Zstandard => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(block).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
                append(decoder, most, out)?;
            }
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
                    .map_err(|error| Error::bad_data(error.to_string()))?;
                append(liblzma::bufread::XzDecoder::new_stream(block, stream), most, out)?;
            }
            Self::Snappy => {
                // Four bytes of checksum follow what is compressed.
                let (packed, sum) =
                    block.split_last_chunk::<4>().ok_or_else(|| Error::bad_data("it has no checksum"))?;
                let snappy = |error: snap::Error| Error::bad_data(error.to_string());
                let length = snap::raw::decompress_len(packed).map_err(snappy)?;
                if length > most {
                    return Err(too_large(most));
                }
                let start = out.len();
                out.resize(start + length, 0);
                let written =
                    snap::raw::Decoder::new().decompress(packed, &mut out[start..]).map_err(snappy)?;
                out.truncate(start + written);
                if crc32fast::hash(&out[start..]) != u32::from_be_bytes(*sum) {
                    return Err(Error::bad_data("its checksum does not match"));
                }
            }
        }
        Ok(())
    }
}

fn append(decoder: impl Read, most: usize, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    let read = decoder.take((most as u64).saturating_add(1)).read_to_end(out);
    read.map_err(|error| Error::bad_data(error.to_string()))?;
    if out.len() - start > most { Err(too_large(most)) } else { Ok(()) }
}

fn too_large(most: usize) -> Error {
    Error::exhausted(format!("it has more than {most} bytes (limit max_block_bytes)"))
}
