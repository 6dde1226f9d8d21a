//! Content identifiers: the text of a URL, the bytes of a link, the hash of a block.

use std::fmt;

use sha2::{Digest, Sha256};

/// Bytes that are themselves the content of a file.
const RAW: u64 = 0x55;
/// Nodes of files and folders.
const DAG_PB: u64 = 0x70;
const SHA2_256: u64 = 0x12;
const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const MAX_BYTES: usize = 128;

/// A CID: what kind of block, and its multihash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cid {
    codec: u64,
    hash: Vec<u8>,
}

impl fmt::Display for Cid {
    /// Always as version 1 in base 32, which also names hosts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![1];
        put_varint(&mut bytes, self.codec);
        bytes.extend_from_slice(&self.hash);
        write!(f, "b{}", to_base32(&bytes))
    }
}

impl Cid {
    /// A CID as it is written: version 0 (`Qm…`), or version 1 in base 32, base 58 or hex.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > 2 * MAX_BYTES {
            return None;
        }
        if text.len() == 46 && text.starts_with("Qm") {
            return Self::from_bytes(&from_base58(text)?);
        }
        let bytes = match text.split_at_checked(1)? {
            ("b", rest) => from_base32(rest)?,
            ("z", rest) => from_base58(rest)?,
            ("f", rest) => hex::decode(rest).ok()?,
            _ => return None,
        };
        (bytes.first() == Some(&1)).then(|| Self::from_bytes(&bytes)).flatten()
    }

    /// A CID as it stands in a link.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let [0x12, 0x20, digest @ ..] = bytes
            && digest.len() == 32
        {
            return Some(Self { codec: DAG_PB, hash: bytes.to_vec() });
        }
        let (1, rest) = varint(bytes)? else { return None };
        let (codec, hash) = varint(rest)?;
        let (_, rest) = varint(hash)?;
        let (length, digest) = varint(rest)?;
        let whole = usize::try_from(length).ok()? == digest.len() && bytes.len() <= MAX_BYTES;
        whole.then(|| Self { codec, hash: hash.to_vec() })
    }

    /// Whether the block is the content of a file as it stands.
    pub(super) fn is_raw(&self) -> bool {
        self.codec == RAW
    }

    /// Whether this names that block. Hashes other than SHA-256, which hardly anything uses, cannot be checked.
    pub(super) fn is_hash_of(&self, block: &[u8]) -> bool {
        let Some((kind, rest)) = varint(&self.hash) else { return false };
        let Some((_, digest)) = varint(rest) else { return false };
        kind != SHA2_256 || Sha256::digest(block).as_slice() == digest
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or(0));
}

fn digit(alphabet: &[u8], c: u8) -> Option<u32> {
    alphabet.iter().position(|known| *known == c).and_then(|at| u32::try_from(at).ok())
}

fn from_base58(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::<u8>::new();
    for c in text.bytes() {
        let mut carry = digit(BASE58, c)?;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 58;
            *byte = u8::try_from(carry & 0xff).ok()?;
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(u8::try_from(carry & 0xff).ok()?);
            carry >>= 8;
        }
    }
    bytes.extend(text.bytes().take_while(|c| *c == b'1').map(|_| 0));
    bytes.reverse();
    Some(bytes)
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        held = (held << 5) | digit(BASE32, c)?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

fn to_base32(bytes: &[u8]) -> String {
    let (mut text, mut held, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(held >> bits) as usize & 31]));
            held &= (1 << bits) - 1;
        }
    }
    if bits > 0 {
        text.push(char::from(BASE32[(held << (5 - bits)) as usize & 31]));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_spelling_of_a_cid_is_one_cid() {
        // The example of the CID specification, in both versions.
        let one = Cid::parse("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR").unwrap();
        let other = Cid::parse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi").unwrap();
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi");
        assert!(!one.is_raw());
        for wrong in ["", "b", "Qm", "not-a-cid", "bAFY", "k51qzi5uqu5d", "bafybeigdyrzt", "é", "zé"] {
            assert!(Cid::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_block_is_checked_against_its_cid() {
        // The raw block `hello world`, as ipfs adds it.
        let cid = Cid::parse("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e").unwrap();
        assert!(cid.is_raw() && cid.is_hash_of(b"hello world") && !cid.is_hash_of(b"hello World"));
    }
}
