//! Content identifiers: the text of a URL, the bytes of a link, the hash of a block.

use std::fmt;

use data_encoding::BASE32_NOPAD_NOCASE as BASE32;
use sha2::{Digest, Sha256};

/// Bytes that are themselves the content of a file.
const RAW: u64 = 0x55;
const SHA2_256: u64 = 0x12;
/// The longest digest; one that is its content itself is at most that long.
const MAX_DIGEST: usize = 128;
/// The longest text that is looked at.
const MAX_TEXT: usize = 256;

/// A CID, as one of version 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cid(cid::CidGeneric<MAX_DIGEST>);

impl fmt::Display for Cid {
    /// Always as version 1 in base 32, which also names hosts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two numbers beside the multihash.
        let mut bytes = [0; MAX_DIGEST + 40];
        let length = self.0.write_bytes(&mut bytes[..]).map_err(|_| fmt::Error)?;
        write!(f, "b{}", BASE32.encode(&bytes[..length]).to_ascii_lowercase())
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Cid {
    /// A CID as it is written: version 0 (`Qm…`), or version 1 in base 32, base 58 or hex.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let base58 = |text: &str| bs58::decode(text).into_vec().ok();
        if text.len() == 46 && text.starts_with("Qm") {
            return Self::from_bytes(&base58(text)?);
        }
        let bytes = match text.split_at_checked(1)? {
            ("b", rest) => BASE32.decode(rest.as_bytes()).ok()?,
            ("z", rest) => base58(rest)?,
            ("f", rest) => hex::decode(rest).ok()?,
            _ => return None,
        };
        (bytes.first() == Some(&1)).then(|| Self::from_bytes(&bytes)).flatten()
    }

    /// A CID as it stands in a link.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let cid = cid::CidGeneric::try_from(bytes).ok()?;
        // What follows one would be no part of it.
        (cid.encoded_len() == bytes.len()).then(|| cid.into_v1().ok().map(Self)).flatten()
    }

    /// Whether the block is the content of a file as it stands.
    pub(super) fn is_raw(&self) -> bool {
        self.0.codec() == RAW
    }

    /// Whether this names that block. Hashes other than SHA-256, which hardly anything uses, cannot be checked.
    pub(super) fn is_hash_of(&self, block: &[u8]) -> bool {
        let hash = self.0.hash();
        hash.code() != SHA2_256 || Sha256::digest(block).as_slice() == hash.digest()
    }
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
        for same in [
            "zdj7Wic6KcJAfWz1c9o4M6kq9Lwd5BfbxkVafnrojaaGiSFxM",
            "f01701220c3c4733ec8affd06cf9e9ff50ffc6bcd2ec85a6170004bb709669c31de94391a",
        ] {
            assert_eq!(Cid::parse(same).unwrap(), one, "{same}");
        }
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
