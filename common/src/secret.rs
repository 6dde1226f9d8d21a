//! Secrets: values that cannot be printed by accident, and their sealing before they are
//! replicated or stored.
//!
//! Sealing is ChaCha20-Poly1305 (RFC 8439) with a random nonce, the key's id stored beside the
//! ciphertext and the owner's name bound in as associated data, so that a sealed value cannot be
//! moved to another object.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What masked secrets print as.
pub const MASK: &str = "******";

/// A value without `Debug`, `Display` or serialisation of its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A sealed value as it stands in the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The id of the key, from [`SealingKey::id`].
    pub key_id: String,
    /// base64 of nonce and ciphertext.
    pub data: String,
}

/// The cluster's key for sealing, the same on all coordinators.
#[derive(Clone)]
pub struct SealingKey {
    id: String,
    cipher: ChaCha20Poly1305,
    /// What other secrets of the cluster are derived from; it tells nothing of the key.
    root: Secret<[u8; 32]>,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SealingKey {
    /// A new random key in the text form that [`SealingKey::from_text`] reads.
    pub fn generate_text() -> Secret<String> {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        Secret::new(BASE64.encode(bytes))
    }

    /// Reads a key from base64 of 32 bytes.
    ///
    /// # Errors
    /// Invalid input, without the text.
    pub fn from_text(text: &str) -> Result<Self> {
        let bytes = BASE64
            .decode(text.trim())
            .ok()
            .filter(|bytes| bytes.len() == 32)
            .ok_or_else(|| Error::invalid("the sealing key must be base64 of 32 bytes"))?;
        let id = hex::encode(&Sha256::digest(&bytes)[..4]);
        let root = Sha256::new_with_prefix("stevedore derived secrets").chain_update(&bytes).finalize();
        let cipher = ChaCha20Poly1305::new(Key::from_slice(&bytes));
        Ok(Self { id, cipher, root: Secret::new(root.into()) })
    }

    /// The key's id: the first bytes of its hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A secret that every coordinator with this key derives alike, another one for each purpose.
    pub fn derive(&self, purpose: &str) -> Secret<String> {
        let keyed = || Sha256::new_with_prefix(self.root.expose());
        let inner = keyed().chain_update(purpose).finalize();
        Secret::new(hex::encode(keyed().chain_update(inner).finalize()))
    }

    /// Seals `value` for `owner` (`connection/3/secret_access_key`).
    ///
    /// # Errors
    /// Internal, if the cipher fails.
    pub fn seal(&self, owner: &str, value: &Secret<String>) -> Result<Sealed> {
        let mut nonce = [0u8; 12];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: value.expose().as_bytes(), aad: owner.as_bytes() };
        let ciphertext = self
            .cipher
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| Error::internal("sealing a secret failed"))?;
        let mut data = nonce.to_vec();
        data.extend_from_slice(&ciphertext);
        Ok(Sealed { key_id: self.id.clone(), data: BASE64.encode(data) })
    }

    /// Opens what [`SealingKey::seal`] made for the same owner.
    ///
    /// # Errors
    /// Names the key that is needed, or says that the value was not sealed for this owner.
    pub fn open(&self, owner: &str, sealed: &Sealed) -> Result<Secret<String>> {
        if sealed.key_id != self.id {
            return Err(Error::denied(format!(
                "a secret of {owner} is sealed with key {}, this coordinator has key {}",
                sealed.key_id, self.id
            ))
            .hint("start the coordinator with the cluster's sealing key"));
        }
        let damaged = || Error::internal(format!("the sealed secret of {owner} is damaged"));
        let data = BASE64.decode(&sealed.data).map_err(|_| damaged())?;
        if data.len() < 12 {
            return Err(damaged());
        }
        let (nonce, ciphertext) = data.split_at(12);
        let plain = self
            .cipher
            .decrypt(Nonce::from_slice(nonce), Payload { msg: ciphertext, aad: owner.as_bytes() })
            .map_err(|_| damaged())?;
        String::from_utf8(plain).map(Secret::new).map_err(|_| damaged())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sealed_secret_opens_for_its_owner_only() {
        let key = SealingKey::from_text(SealingKey::generate_text().expose()).unwrap();
        let sealed = key.seal("connection/1/key", &Secret::new("s3cr3t".into())).unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("s3cr3t"));
        assert_eq!(key.open("connection/1/key", &sealed).unwrap().expose(), "s3cr3t");
        assert!(key.open("connection/2/key", &sealed).is_err());
        let other = SealingKey::from_text(SealingKey::generate_text().expose()).unwrap();
        assert!(other.open("connection/1/key", &sealed).unwrap_err().to_string().contains("sealing key"));
    }

    #[test]
    fn who_has_the_key_derives_the_same_secrets() {
        let text = SealingKey::generate_text();
        let key = || SealingKey::from_text(text.expose()).unwrap();
        let derived = key().derive("one");
        assert_eq!(derived.expose(), key().derive("one").expose());
        assert_ne!(derived.expose(), key().derive("two").expose());
        let other = SealingKey::from_text(SealingKey::generate_text().expose()).unwrap();
        assert_ne!(derived.expose(), other.derive("one").expose());
        assert_eq!(derived.expose().len(), 64);
    }

    #[test]
    fn a_secret_prints_as_a_mask() {
        assert_eq!(format!("{:?}", Secret::new("x")), MASK);
    }
}
