//! One step of each codec: some input in, some output out, and whether the member ended.

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use liblzma::stream::{Action, Stream};
use stevedore_common::file_format::Compression;
use stevedore_common::{Error, Result};
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::Step;

/// Memory that an xz stream may ask for.
const XZ_MEMORY: u64 = 128 << 20;
/// Window that a zstd stream may ask for, as a power of two.
const ZSTD_WINDOW_LOG: u32 = 27;

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// A codec in some state.
pub(super) enum Codec {
    Flate {
        decoder: Box<flate2::Decompress>,
        kind: Flate,
    },
    Bz2(Box<bzip2::Decompress>),
    Brotli(Box<Brotli>),
    Zstd(Box<ZstdDecoder<'static>>),
    Xz(Box<Stream>),
    /// Bytes as they are, this many.
    Stored(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flate {
    Gzip,
    Zlib,
    Raw,
}

impl Flate {
    fn decoder(self) -> Box<flate2::Decompress> {
        Box::new(match self {
            Self::Gzip => flate2::Decompress::new_gzip(15),
            Self::Zlib => flate2::Decompress::new(true),
            Self::Raw => flate2::Decompress::new(false),
        })
    }

    fn codec(self) -> Codec {
        Codec::Flate { decoder: self.decoder(), kind: self }
    }
}

fn brotli_state() -> Box<Brotli> {
    Box::new(BrotliState::new(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default()))
}

fn xz_stream() -> Result<Box<Stream>, String> {
    Stream::new_stream_decoder(XZ_MEMORY, 0).map(Box::new).map_err(|e| e.to_string())
}

impl Codec {
    pub(super) fn new(codec: Compression) -> Result<Self> {
        let setup = |what: String| Error::internal(format!("the {codec} codec cannot be set up: {what}"));
        Ok(match codec {
            Compression::Gzip => Flate::Gzip.codec(),
            Compression::Deflate => Flate::Zlib.codec(),
            Compression::RawDeflate | Compression::Zip => Flate::Raw.codec(),
            Compression::Bz2 => Self::Bz2(Box::new(bzip2::Decompress::new(false))),
            Compression::Brotli => Self::Brotli(brotli_state()),
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::new().map_err(|e| setup(e.to_string()))?;
                decoder
                    .set_parameter(zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                    .map_err(|e| setup(e.to_string()))?;
                Self::Zstd(Box::new(decoder))
            }
            Compression::Xz => Self::Xz(xz_stream().map_err(setup)?),
            Compression::Auto | Compression::None => {
                return Err(Error::internal(format!("{codec} is no codec to decompress with")));
            }
        })
    }

    /// The content of a zip member: deflate, or stored bytes.
    pub(super) fn zip_member(stored_bytes: Option<u64>) -> Self {
        match stored_bytes {
            Some(bytes) => Self::Stored(bytes),
            None => Flate::Raw.codec(),
        }
    }

    /// Whether another member may follow one.
    pub(super) fn has_members(&self) -> bool {
        match self {
            Self::Flate { kind, .. } => *kind == Flate::Gzip,
            Self::Bz2(_) | Self::Zstd(_) | Self::Xz(_) => true,
            Self::Brotli(_) | Self::Stored(_) => false,
        }
    }

    /// Makes ready for the next member.
    pub(super) fn reset(&mut self) -> Result<(), String> {
        match self {
            Self::Flate { decoder, kind } => *decoder = kind.decoder(),
            Self::Bz2(decoder) => **decoder = bzip2::Decompress::new(false),
            Self::Zstd(decoder) => decoder.reinit().map_err(|e| e.to_string())?,
            Self::Xz(stream) => *stream = xz_stream()?,
            Self::Brotli(_) | Self::Stored(_) => {}
        }
        Ok(())
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, String> {
        match self {
            Self::Flate { decoder, .. } => {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder
                    .decompress(input, output, flate2::FlushDecompress::None)
                    .map_err(|e| e.to_string())?;
                Ok(Step {
                    read: (decoder.total_in() - read) as usize,
                    written: (decoder.total_out() - written) as usize,
                    ended: status == flate2::Status::StreamEnd,
                })
            }
            Self::Bz2(decoder) => {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(input, output).map_err(|e| e.to_string())?;
                Ok(Step {
                    read: (decoder.total_in() - read) as usize,
                    written: (decoder.total_out() - written) as usize,
                    ended: status == bzip2::Status::StreamEnd,
                })
            }
            Self::Xz(stream) => {
                let (read, written) = (stream.total_in(), stream.total_out());
                let status = match stream.process(input, output, Action::Run) {
                    Ok(status) => Some(status),
                    // It asks for more input, or for the output to be taken.
                    Err(liblzma::stream::Error::NoCheck) => None,
                    Err(e) if input.is_empty() && stream.total_in() == read => {
                        let _ = e;
                        None
                    }
                    Err(e) => return Err(e.to_string()),
                };
                Ok(Step {
                    read: (stream.total_in() - read) as usize,
                    written: (stream.total_out() - written) as usize,
                    ended: status == Some(liblzma::stream::Status::StreamEnd),
                })
            }
            Self::Zstd(decoder) => {
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around(output);
                let hint = decoder.run(&mut source, &mut target).map_err(|e| e.to_string())?;
                Ok(Step { read: source.pos(), written: target.pos(), ended: hint == 0 && source.pos() > 0 })
            }
            Self::Brotli(state) => {
                let (mut available_in, mut read) = (input.len(), 0);
                let (mut available_out, mut written, mut total) = (output.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut available_in,
                    &mut read,
                    input,
                    &mut available_out,
                    &mut written,
                    output,
                    &mut total,
                    state,
                );
                match result {
                    BrotliResult::ResultFailure => Err("invalid data".to_owned()),
                    BrotliResult::ResultSuccess => Ok(Step { read, written, ended: true }),
                    _ => Ok(Step { read, written, ended: false }),
                }
            }
            Self::Stored(left) => {
                let n = input.len().min(output.len()).min(usize::try_from(*left).unwrap_or(usize::MAX));
                output[..n].copy_from_slice(&input[..n]);
                *left -= n as u64;
                Ok(Step { read: n, written: n, ended: *left == 0 })
            }
        }
    }
}
