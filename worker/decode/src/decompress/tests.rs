#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn compress(codec: Compression, data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    match codec {
        Compression::Gzip => gzip(data),
        Compression::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::RawDeflate => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bz2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Brotli => {
            let mut out = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 4, 20);
            encoder.write_all(data).unwrap();
            drop(encoder);
            out
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zip => zip_of(&[("folder/data.csv", data)], ::zip::CompressionMethod::Deflated),
        Compression::Auto | Compression::None => data.to_vec(),
    }
}

fn zip_of(files: &[(&str, &[u8])], method: ::zip::CompressionMethod) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
    writer.add_directory("folder/", options).unwrap();
    for (name, data) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The entry of the folder `d/`.
fn zip_folder(packed: &[u8], descriptor: bool) -> Vec<u8> {
    let size = (packed.len() as u32).to_le_bytes();
    let sizes = [&[0; 4][..], &size, &[0; 4]].concat();
    let (flags, told) = if descriptor { (8, vec![0; 12]) } else { (0, sizes.clone()) };
    let mut entry =
        [b"PK\x03\x04\x14\0", &[flags, 0, 8, 0, 0, 0, 0, 0][..], &told, b"\x02\0\0\0d/", packed].concat();
    if descriptor {
        entry.extend([b"PK\x07\x08", &sizes[..]].concat());
    }
    entry
}

fn decompress(codec: Compression, input: &[u8], piece: usize, limits: DecompressLimits) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut each = |bytes: &[u8]| {
        assert!(!bytes.is_empty() && bytes.len() <= PIECE);
        out.extend_from_slice(bytes);
        Ok(())
    };
    let mut decompressor = Decompressor::new(codec, limits)?;
    for piece in input.chunks(piece) {
        decompressor.push(piece, &mut each)?;
    }
    decompressor.finish(&mut each)?;
    Ok(out)
}

const CODECS: [Compression; 8] = [
    Compression::Gzip,
    Compression::Deflate,
    Compression::RawDeflate,
    Compression::Bz2,
    Compression::Brotli,
    Compression::Zstd,
    Compression::Xz,
    Compression::Zip,
];

fn sample() -> Vec<u8> {
    (0..60_000u32).flat_map(|i| format!("{i},{},x\n", i.wrapping_mul(2_654_435_761)).into_bytes()).collect()
}

#[test]
fn every_codec_gives_back_what_went_in() {
    let data = sample();
    for codec in CODECS {
        for data in [&data[..], b"", b"a"] {
            let packed = compress(codec, data);
            for piece in [1 << 20, 1000, 17] {
                let out = decompress(codec, &packed, piece, DecompressLimits::default())
                    .unwrap_or_else(|e| panic!("{codec} by {piece}: {e}"));
                assert!(out == data, "{codec} by {piece}");
            }
        }
        assert_eq!(decompress(codec, b"", 1, DecompressLimits::default()).unwrap(), b"", "{codec}");
    }
}

#[test]
fn members_are_read_through() {
    for codec in [Compression::Gzip, Compression::Bz2, Compression::Zstd, Compression::Xz] {
        let packed = [compress(codec, b"one\n"), compress(codec, b""), compress(codec, b"two\n")].concat();
        for piece in [1, 5, 1000] {
            assert_eq!(
                decompress(codec, &packed, piece, DecompressLimits::default()).unwrap(),
                b"one\ntwo\n",
                "{codec} by {piece}"
            );
        }
    }
    let padded = [gzip(b"a"), vec![0; 512]].concat();
    assert_eq!(decompress(Compression::Gzip, &padded, 7, DecompressLimits::default()).unwrap(), b"a");
}

#[test]
fn truncated_and_damaged_streams_are_errors_that_name_the_codec() {
    let data = sample();
    for codec in CODECS {
        let packed = compress(codec, &data);
        let name = codec.as_str().to_ascii_lowercase();
        for cut in [1, packed.len() / 2, packed.len() - 1] {
            let error = decompress(codec, &packed[..cut], 4096, DecompressLimits::default())
                .map(|out| out.len())
                .expect_err(&format!("{codec} cut at {cut}"));
            assert!(
                error.to_string().contains(&format!("{name} stream is truncated after {cut} bytes")),
                "{error}"
            );
        }
        let error = decompress(codec, b"this is no compressed file at all", 100, DecompressLimits::default());
        assert!(error.unwrap_err().to_string().contains(&name));
        // Without a checksum a flipped bit may go unnoticed; it must never panic or hang.
        for at in (0..packed.len()).step_by(packed.len() / 50 + 1) {
            let mut flipped = packed.clone();
            flipped[at] ^= 0x10;
            let _ = decompress(codec, &flipped, 4096, DecompressLimits::default());
        }
    }
}

#[test]
fn limits_stop_bombs() {
    let bomb = compress(Compression::Zstd, &vec![b'a'; 4 << 20]);
    let limits = DecompressLimits { max_output_bytes: 1 << 20, max_ratio: u64::MAX };
    let error = decompress(Compression::Zstd, &bomb, 1 << 20, limits).unwrap_err();
    assert!(error.to_string().contains("max_decompressed_bytes"), "{error}");
    let big = compress(Compression::Zstd, &vec![b'a'; 300 << 20]);
    let error = decompress(Compression::Zstd, &big, 1 << 20, DecompressLimits::default()).unwrap_err();
    assert!(error.to_string().contains("max_decompression_ratio"), "{error}");
}

#[test]
fn a_zip_holds_one_file_stored_or_deflated() {
    let stored = zip_of(&[("a.csv", b"1,2\n")], ::zip::CompressionMethod::Stored);
    assert_eq!(decompress(Compression::Zip, &stored, 3, DecompressLimits::default()).unwrap(), b"1,2\n");
    let two = zip_of(&[("a", b"1"), ("b", b"2")], ::zip::CompressionMethod::Deflated);
    let error = decompress(Compression::Zip, &two, 100, DecompressLimits::default()).unwrap_err();
    assert!(error.to_string().contains("more than one file"), "{error}");
    // As archivers write folders: plain, packed, with a descriptor behind them; before the file and after it.
    for packed in [&b""[..], b"\x03\0"] {
        for descriptor in [false, true] {
            let folder = zip_folder(packed, descriptor);
            for piece in [1, 7, 1000] {
                let before = [&folder[..], &stored].concat();
                let read = |zip: &[u8]| {
                    decompress(Compression::Zip, zip, piece, DecompressLimits::default()).unwrap()
                };
                assert_eq!(read(&before), b"1,2\n", "{packed:?} {descriptor} by {piece}");
                let directory = memchr::memmem::find(&stored, b"PK\x01\x02").unwrap();
                let after = [&stored[..directory], &folder, &stored[directory..]].concat();
                assert_eq!(read(&after), b"1,2\n", "{packed:?} {descriptor} by {piece}");
            }
        }
    }
    let none = zip_of(&[], ::zip::CompressionMethod::Deflated);
    assert!(decompress(Compression::Zip, &none, 100, DecompressLimits::default()).is_err());
}
