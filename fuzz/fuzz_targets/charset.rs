//! Text in any encoding: the same UTF-8 in whatever pieces it comes, and what encoding_rs makes of the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stevedore_common::file_format::EncodingErrorMode;
use stevedore_decode::charset::Transcoder;

const LABELS: [&str; 16] = [
    "UTF-8",
    "utf-16le",
    "utf-16be",
    "gb18030",
    "gbk",
    "big5",
    "shift_jis",
    "euc-jp",
    "iso-2022-jp",
    "euc-kr",
    "windows-1252",
    "koi8-u",
    "iso-8859-8-i",
    "macintosh",
    "x-user-defined",
    "windows-874",
];

fn transcode(label: &str, mode: EncodingErrorMode, input: &[u8], piece: usize) -> (Vec<u8>, Option<String>) {
    let mut output = Vec::new();
    let Ok(mut transcoder) = Transcoder::new(label, mode) else { return (output, None) };
    let mut each = |bytes: &[u8]| {
        output.extend_from_slice(bytes);
        Ok(())
    };
    let mut result = Ok(());
    for bytes in input.chunks(piece) {
        result = result.and_then(|()| transcoder.push(bytes, &mut each));
    }
    let failure = result.and_then(|()| transcoder.finish(&mut each)).err().map(|error| error.to_string());
    (output, failure)
}

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let [choice, piece, data @ ..] = input else { return };
    let label = LABELS[usize::from(choice & 15)];
    let strict = choice & 16 == 0;
    let mode = if strict { EncodingErrorMode::Strict } else { EncodingErrorMode::Replace };
    let whole = transcode(label, mode, data, data.len().max(1));
    let pieces = transcode(label, mode, data, usize::from(*piece) + 1);
    assert_eq!((whole.1, pieces.1), (None, None));
    assert_eq!(pieces.0, whole.0);
    let Some(encoding) = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()) else { return };
    if encoding == encoding_rs::UTF_8 {
        if !strict {
            assert_eq!(whole.0, encoding.decode_with_bom_removal(data).0.as_bytes());
        }
        return;
    }
    let (expected, _, damaged) = encoding.decode(data);
    // Under STRICT what is no text is no UTF-8 either, so that it costs its row.
    assert_eq!(String::from_utf8_lossy(&whole.0), expected);
    assert_eq!(std::str::from_utf8(&whole.0).is_err(), strict && damaged);
}));
