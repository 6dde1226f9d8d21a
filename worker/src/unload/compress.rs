//! The bytes of text files, compressed as they come.

use std::io::{self, Write};

use brotli::CompressorWriter;
use bzip2::write::BzEncoder;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use liblzma::write::XzEncoder;
use stevedore_common::file_format::Compression;
use stevedore_common::{Error, Result};

const XZ_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_BUFFER: usize = 64 << 10;
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW: u32 = 22;

/// A codec that writes into memory.
pub(super) enum Compressor {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    RawDeflate(DeflateEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
    Bz2(BzEncoder<Vec<u8>>),
    Xz(XzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

fn failed(error: io::Error) -> Error {
    Error::internal(format!("compressing a file: {error}"))
}

impl Compressor {
    /// AUTO is none.
    pub(super) fn new(compression: Compression) -> Result<Self> {
        let out = Vec::new();
        Ok(match compression {
            Compression::Auto | Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Compression::Deflate => Self::Deflate(ZlibEncoder::new(out, flate2::Compression::default())),
            Compression::RawDeflate => {
                Self::RawDeflate(DeflateEncoder::new(out, flate2::Compression::default()))
            }
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?),
            Compression::Bz2 => Self::Bz2(BzEncoder::new(out, bzip2::Compression::default())),
            Compression::Xz => Self::Xz(XzEncoder::new(out, XZ_LEVEL)),
            Compression::Brotli => Self::Brotli(Box::new(CompressorWriter::new(
                out,
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW,
            ))),
            Compression::Zip => return Err(Error::not_supported("unloading with COMPRESSION = ZIP")),
        })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::None(out) => out.write_all(data),
            Self::Gzip(encoder) => encoder.write_all(data),
            Self::Deflate(encoder) => encoder.write_all(data),
            Self::RawDeflate(encoder) => encoder.write_all(data),
            Self::Zstd(encoder) => encoder.write_all(data),
            Self::Bz2(encoder) => encoder.write_all(data),
            Self::Xz(encoder) => encoder.write_all(data),
            Self::Brotli(encoder) => encoder.write_all(data),
        }
        .map_err(failed)
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::None(out) => out,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::RawDeflate(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Bz2(encoder) => encoder.get_mut(),
            Self::Xz(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
        }
    }

    /// Bytes that came out and were not taken.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::None(out) => out.len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Deflate(encoder) => encoder.get_ref().len(),
            Self::RawDeflate(encoder) => encoder.get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
            Self::Bz2(encoder) => encoder.get_ref().len(),
            Self::Xz(encoder) => encoder.get_ref().len(),
            Self::Brotli(encoder) => encoder.get_ref().len(),
        }
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.out())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::RawDeflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Bz2(encoder) => encoder.finish(),
            Self::Xz(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
        }
        .map_err(failed)
    }
}
