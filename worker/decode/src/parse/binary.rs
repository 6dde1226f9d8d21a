//! BINARY from hexadecimal digits or base64.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use stevedore_common::file_format::BinaryFormat;

use super::Reason;

/// Appends the bytes that the text stands for. Nothing is appended on an error.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_binary(text: &[u8], format: BinaryFormat, out: &mut Vec<u8>) -> Result<(), Reason> {
    let start = out.len();
    let done = match format {
        BinaryFormat::Hex => {
            if !text.len().is_multiple_of(2) {
                return Err("an odd number of hexadecimal digits");
            }
            out.resize(start + text.len() / 2, 0);
            hex::decode_to_slice(text, &mut out[start..]).map_err(|_| "invalid hexadecimal digit")
        }
        BinaryFormat::Base64 => STANDARD
            .decode_vec(text, out)
            .or_else(|e| {
                if text.contains(&b'=') {
                    return Err(e);
                }
                out.truncate(start);
                STANDARD_NO_PAD.decode_vec(text, out)
            })
            .map_err(|_| "invalid base64"),
    };
    if done.is_err() {
        out.truncate(start);
    }
    done
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_formats_and_their_errors() {
        let parse = |text: &str, format| {
            let mut out = b"x".to_vec();
            let done = parse_binary(text.as_bytes(), format, &mut out);
            assert!(done.is_ok() || out == b"x");
            done.map(|()| out[1..].to_vec())
        };
        assert_eq!(parse("00fFa1", BinaryFormat::Hex), Ok(vec![0, 255, 0xa1]));
        assert_eq!(parse("0", BinaryFormat::Hex), Err("an odd number of hexadecimal digits"));
        assert_eq!(parse("0g", BinaryFormat::Hex), Err("invalid hexadecimal digit"));
        assert_eq!(parse("aGk=", BinaryFormat::Base64), Ok(b"hi".to_vec()));
        assert_eq!(parse("aGk", BinaryFormat::Base64), Ok(b"hi".to_vec()));
        assert_eq!(parse("a*", BinaryFormat::Base64), Err("invalid base64"));
    }
}
