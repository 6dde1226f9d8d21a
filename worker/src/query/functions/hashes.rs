//! Hashes of text and BINARY, and their hexadecimal and base64 forms. Values of other types are hashed
//! as their text.

use std::fmt::Write as _;

use arrow::array::ArrayRef;
use arrow::datatypes::UInt64Type;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use siphasher::sip::SipHasher13;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use twox_hash::{XxHash32, XxHash64};

use super::call::Call;
use super::definition::{Definition, Inputs, Kind};

pub(super) fn definitions() -> Vec<Definition> {
    let text = |_: &Inputs<'_>| Ok(SqlType::String);
    let binary = |_: &Inputs<'_>| Ok(SqlType::Binary);
    let from_hex = Definition::new("unhex", &[Kind::Text], binary, |call| {
        let source = call.text(0)?;
        call.binaries(|row| {
            let value = source.at(row);
            hex::decode(value).map(Some).map_err(|reason| call.wrong(value, reason))
        })
    })
    .or(&["from_hex"]);
    let from_base64 = Definition::new("from_base64", &[Kind::Text], binary, |call| {
        let source = call.text(0)?;
        call.binaries(|row| {
            let value = source.at(row);
            STANDARD.decode(value).map(Some).map_err(|reason| call.wrong(value, reason))
        })
    });
    vec![
        Definition::new("md5", &[Kind::Bytes], text, |call| {
            digests(call, |bytes, out| {
                push_hex(&Md5::digest(bytes), out);
            })
        }),
        Definition::new("sha", &[Kind::Bytes], text, |call| {
            digests(call, |bytes, out| {
                push_hex(&<sha1::Sha1 as sha1::Digest>::digest(bytes), out);
            })
        })
        .or(&["sha1"]),
        Definition::new("sha2", &[Kind::Bytes, Kind::Int], text, sha2_of),
        Definition::new(
            "crc32",
            &[Kind::Bytes],
            |_| Ok(SqlType::UInt32),
            |call| numbers(call, |bytes| crc32fast::hash(bytes).into()),
        ),
        Definition::new(
            "xxhash32",
            &[Kind::Bytes],
            |_| Ok(SqlType::UInt32),
            |call| numbers(call, |bytes| XxHash32::oneshot(0, bytes).into()),
        ),
        Definition::new(
            "xxhash64",
            &[Kind::Bytes],
            |_| Ok(SqlType::UInt64),
            |call| numbers(call, |bytes| XxHash64::oneshot(0, bytes)),
        ),
        Definition::new(
            "siphash64",
            &[Kind::Bytes],
            |_| Ok(SqlType::UInt64),
            |call| numbers(call, |bytes| SipHasher13::new().hash(bytes)),
        )
        .or(&["siphash"]),
        // A number in hexadecimal digits, or the bytes of anything else.
        Definition::new("to_hex", &[Kind::Any], text, to_hex).or(&["hex"]),
        from_hex.lenient("try_unhex", &["try_from_hex"]),
        from_hex,
        Definition::new("to_base64", &[Kind::Bytes], text, |call| {
            digests(call, |bytes, out| {
                STANDARD.encode_string(bytes, out);
            })
        }),
        from_base64.lenient("try_from_base64", &[]),
        from_base64,
    ]
}

fn digests(call: &Call<'_>, write: impl Fn(&[u8], &mut String)) -> Result<ArrayRef> {
    let source = call.bytes(0)?;
    call.texts(|row, out| {
        write(source.at(row), out);
        Ok(true)
    })
}

fn numbers(call: &Call<'_>, hash: impl Fn(&[u8]) -> u64) -> Result<ArrayRef> {
    let source = call.bytes(0)?;
    call.values::<UInt64Type>(|row| Ok(Some(hash(source.at(row)))))
}

fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)].into());
        out.push(DIGITS[usize::from(byte & 15)].into());
    }
}

fn sha2_of(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, lengths) = (call.bytes(0)?, call.int(1)?);
    call.texts(|row, out| {
        let bytes = source.at(row);
        match lengths.at(row) {
            0 | 256 => push_hex(&Sha256::digest(bytes), out),
            224 => push_hex(&Sha224::digest(bytes), out),
            384 => push_hex(&Sha384::digest(bytes), out),
            512 => push_hex(&Sha512::digest(bytes), out),
            other => {
                return Err(Error::invalid(format!("sha2 of {other} bits; there are 224, 256, 384 and 512")));
            }
        }
        Ok(true)
    })
}

fn to_hex(call: &Call<'_>) -> Result<ArrayRef> {
    let call = &call.read_as(0, |from| match from {
        SqlType::Binary => SqlType::Binary,
        ty if ty.is_integer() => SqlType::Int64,
        _ => SqlType::String,
    })?;
    if let Ok(source) = call.int(0) {
        return call.texts(|row, out| Ok(write!(out, "{:x}", source.at(row)).is_ok()));
    }
    digests(call, push_hex)
}
