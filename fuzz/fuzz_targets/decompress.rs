//! Compressed streams: the same output in whatever pieces they come, within the limits; what our own
//! encoders wrote comes back.
#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use stevedore_common::file_format::Compression;
use stevedore_decode::decompress::{Decompressor, PIECE};
use stevedore_decode::limits::DecompressLimits;

const CODECS: [Compression; 8] = [
    Compression::Gzip,
    Compression::Zstd,
    Compression::Bz2,
    Compression::Xz,
    Compression::Brotli,
    Compression::Deflate,
    Compression::RawDeflate,
    Compression::Zip,
];
const LIMITS: DecompressLimits = DecompressLimits { max_output_bytes: 1 << 20, max_ratio: 1000 };

/// The output, and the failure without the offset at which it showed.
fn decompress(codec: Compression, input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut output = Vec::new();
    let Ok(mut decompressor) = Decompressor::new(codec, LIMITS) else { return (output, true) };
    let mut each = |bytes: &[u8]| {
        assert!(bytes.len() <= PIECE);
        output.extend_from_slice(bytes);
        Ok(())
    };
    let mut result = Ok(());
    for bytes in input.chunks(piece) {
        result = result.and_then(|()| decompressor.push(bytes, &mut each));
    }
    let failed = result.and_then(|()| decompressor.finish(&mut each)).is_err();
    assert!(output.len() as u64 <= LIMITS.max_output_bytes);
    (output, failed)
}

fn compress(codec: Compression, input: &[u8]) -> std::io::Result<Vec<u8>> {
    let level = flate2::Compression::fast();
    macro_rules! write {
        ($encoder:expr) => {{
            let mut encoder = $encoder;
            encoder.write_all(input)?;
            encoder.finish()
        }};
    }
    match codec {
        Compression::Gzip => write!(flate2::write::GzEncoder::new(Vec::new(), level)),
        Compression::Deflate => write!(flate2::write::ZlibEncoder::new(Vec::new(), level)),
        Compression::RawDeflate => write!(flate2::write::DeflateEncoder::new(Vec::new(), level)),
        Compression::Bz2 => write!(bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast())),
        Compression::Zstd => zstd::encode_all(input, 1),
        Compression::Xz => write!(liblzma::write::XzEncoder::new(Vec::new(), 0)),
        Compression::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 18);
            encoder.write_all(input)?;
            Ok(encoder.into_inner())
        }
        _ => {
            let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
            writer.start_file("file", zip::write::SimpleFileOptions::default())?;
            writer.write_all(input)?;
            Ok(writer.finish()?.into_inner())
        }
    }
}

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let [choice, piece, data @ ..] = input else { return };
    let codec = CODECS[usize::from(choice & 7)];
    let piece = usize::from(*piece) + 1;
    if choice & 8 == 0 {
        let whole = decompress(codec, data, data.len().max(1));
        let pieces = decompress(codec, data, piece);
        // The library for Brotli notices damage at the end of a stream or not, depending on the pieces.
        let alike = codec != Compression::Brotli;
        assert!(!alike || pieces.1 == whole.1);
        if !whole.1 && !pieces.1 {
            assert_eq!(pieces.0, whole.0);
        }
    } else if let Ok(compressed) = compress(codec, data) {
        assert_eq!(decompress(codec, &compressed, piece), (data.to_vec(), false));
    }
}));
