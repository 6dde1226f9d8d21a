//! The keys of connections, by storage type: names, aliases, which of them are secret.
//!
//! Comes in: key and value pairs of a statement. Goes out: [`ConnectionOptions`] with canonical keys
//! in lower case, secrets apart. Must never print a value of a secret key. Fails by naming the key
//! and listing what the type allows.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use stevedore_common::secret::{MASK, Secret};
use stevedore_common::{Error, Result};

/// STORAGE_TYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageType {
    /// S3 and compatible stores.
    S3,
    /// Azure Blob Storage.
    Azblob,
    /// Google Cloud Storage.
    Gcs,
    /// Alibaba Cloud OSS.
    Oss,
    /// Tencent Cloud COS.
    Cos,
    /// Hugging Face repositories.
    Hf,
    /// IPFS gateways.
    Ipfs,
    /// HTTP and HTTPS.
    Https,
    /// Local folders.
    Fs,
    /// The memory of the process: for tests.
    Memory,
}

/// A key of a storage type.
struct Key {
    /// The canonical name; the first of its names.
    names: &'static [&'static str],
    secret: bool,
    kind: ValueKind,
}

enum ValueKind {
    Text,
    Bool,
    OneOf(&'static [&'static str]),
    HttpUrl,
}

const fn open(names: &'static [&'static str], kind: ValueKind) -> Key {
    Key { names, secret: false, kind }
}

const fn secret(names: &'static [&'static str]) -> Key {
    Key { names, secret: true, kind: ValueKind::Text }
}

const ENDPOINT: Key = open(&["ENDPOINT_URL"], ValueKind::HttpUrl);

const S3_KEYS: &[Key] = &[
    ENDPOINT,
    open(&["ACCESS_KEY_ID", "AWS_KEY_ID"], ValueKind::Text),
    secret(&["SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]),
    secret(&["SESSION_TOKEN", "AWS_TOKEN", "SECURITY_TOKEN"]),
    open(&["REGION"], ValueKind::Text),
    open(&["ENABLE_VIRTUAL_HOST_STYLE"], ValueKind::Bool),
    secret(&["MASTER_KEY"]),
    open(&["ROLE_ARN", "AWS_ROLE_ARN"], ValueKind::Text),
    secret(&["EXTERNAL_ID", "AWS_EXTERNAL_ID"]),
];
const AZBLOB_KEYS: &[Key] = &[ENDPOINT, open(&["ACCOUNT_NAME"], ValueKind::Text), secret(&["ACCOUNT_KEY"])];
const GCS_KEYS: &[Key] = &[secret(&["CREDENTIAL"]), ENDPOINT];
const OSS_KEYS: &[Key] = &[
    ENDPOINT,
    open(&["ACCESS_KEY_ID"], ValueKind::Text),
    secret(&["ACCESS_KEY_SECRET"]),
    open(&["PRESIGN_ENDPOINT_URL"], ValueKind::HttpUrl),
];
const COS_KEYS: &[Key] = &[ENDPOINT, open(&["SECRET_ID"], ValueKind::Text), secret(&["SECRET_KEY"])];
const HF_KEYS: &[Key] = &[
    ENDPOINT,
    open(&["REPO_TYPE"], ValueKind::OneOf(&["dataset", "model"])),
    open(&["REVISION"], ValueKind::Text),
    secret(&["TOKEN"]),
];
const IPFS_KEYS: &[Key] = &[ENDPOINT];

/// Every storage type, as STORAGE_TYPE names it.
const STORAGE_TYPES: &[(&str, StorageType)] = &[
    ("s3", StorageType::S3),
    ("azblob", StorageType::Azblob),
    ("gcs", StorageType::Gcs),
    ("oss", StorageType::Oss),
    ("cos", StorageType::Cos),
    ("hf", StorageType::Hf),
    ("ipfs", StorageType::Ipfs),
    ("https", StorageType::Https),
    ("fs", StorageType::Fs),
];

impl StorageType {
    /// Reads STORAGE_TYPE in any case.
    ///
    /// # Errors
    /// Names the option and lists what is allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let name = match lower.as_str() {
            "http" => "https",
            "azure" => "azblob",
            "gs" => "gcs",
            "huggingface" => "hf",
            other => other,
        };
        STORAGE_TYPES.iter().find(|(known, _)| *known == name).map(|(_, found)| *found).ok_or_else(|| {
            let allowed: Vec<&str> = STORAGE_TYPES.iter().map(|(name, _)| *name).collect();
            Error::invalid(format!("option STORAGE_TYPE is '{text}'; allowed: {}", allowed.join(", ")))
        })
    }

    /// The storage type that serves a URI.
    ///
    /// # Errors
    /// Invalid input for a URI without a scheme or with one that is unknown.
    pub fn of_uri(uri: &str) -> Result<Self> {
        let Some((scheme, _)) = uri.split_once("://") else {
            return Err(Error::invalid(format!("the location '{uri}' has no scheme"))
                .hint("write s3://bucket/path/, fs:///dir/ or https://host/file"));
        };
        Ok(match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Self::S3,
            "azblob" => Self::Azblob,
            "gcs" | "gs" => Self::Gcs,
            "oss" => Self::Oss,
            "cos" => Self::Cos,
            "hf" => Self::Hf,
            "ipfs" => Self::Ipfs,
            "http" | "https" => Self::Https,
            "fs" => Self::Fs,
            "memory" => Self::Memory,
            "file" => {
                return Err(Error::invalid("the scheme 'file' is not used for stages and locations")
                    .hint("write fs:///dir/ for local folders"));
            }
            other => {
                return Err(Error::invalid(format!("unknown scheme '{other}' of the location '{uri}'"))
                    .hint("known are s3, azblob, gcs, oss, cos, hf, ipfs, https, http, fs"));
            }
        })
    }

    /// As it stands in STORAGE_TYPE.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            _ => STORAGE_TYPES.iter().find(|(_, ty)| *ty == self).map_or("memory", |(name, _)| name),
        }
    }

    fn keys(self) -> &'static [Key] {
        match self {
            Self::S3 => S3_KEYS,
            Self::Azblob => AZBLOB_KEYS,
            Self::Gcs => GCS_KEYS,
            Self::Oss => OSS_KEYS,
            Self::Cos => COS_KEYS,
            Self::Hf => HF_KEYS,
            Self::Ipfs => IPFS_KEYS,
            Self::Https | Self::Fs | Self::Memory => &[],
        }
    }

    fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().iter().find(|key| key.names.contains(&name))
    }

    fn allowed(self) -> String {
        let names: Vec<String> = self.keys().iter().map(|key| key.names.join("|")).collect();
        if names.is_empty() {
            "it takes no keys".to_owned()
        } else {
            format!("allowed: {}", names.join(", "))
        }
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an option's name is, or looks like, that of a secret: what masking hides, whatever the
/// statement around it.
pub fn is_secret_option(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    STORAGE_TYPES
        .iter()
        .flat_map(|(_, ty)| ty.keys())
        .any(|key| key.secret && key.names.contains(&upper.as_str()))
        || ["SECRET", "PASSWORD", "TOKEN", "CREDENTIAL", "AUTHORIZATION"]
            .iter()
            .any(|part| upper.contains(part))
        || ["ACCOUNT_KEY", "MASTER_KEY", "SAS_KEY", "PRIVATE_KEY"].contains(&upper.as_str())
}

/// A connection's type and keys, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// STORAGE_TYPE.
    pub storage_type: StorageType,
    /// What may be shown, by canonical key in lower case.
    pub params: BTreeMap<String, String>,
    /// What must not, by canonical key in lower case.
    pub secrets: BTreeMap<String, Secret<String>>,
}

impl ConnectionOptions {
    /// Checks keys, in any case and with their aliases, against a storage type.
    ///
    /// # Errors
    /// Invalid input that names the key, for one that the type does not have, that is given twice
    /// (under an alias too), or whose value is not allowed.
    pub fn from_pairs(
        storage_type: StorageType,
        pairs: impl IntoIterator<Item = (String, Secret<String>)>,
    ) -> Result<Self> {
        let options = Self::of_keys(storage_type, pairs)?;
        options.check()?;
        Ok(options)
    }

    /// Each key by itself; not yet what they need of each other.
    pub(crate) fn of_keys(
        storage_type: StorageType,
        pairs: impl IntoIterator<Item = (String, Secret<String>)>,
    ) -> Result<Self> {
        let mut options = Self { storage_type, params: BTreeMap::new(), secrets: BTreeMap::new() };
        for (name, value) in pairs {
            let upper = name.to_ascii_uppercase();
            let key = storage_type.key(&upper).ok_or_else(|| {
                Error::invalid(format!("connections of type {storage_type} have no option {upper}"))
                    .hint(storage_type.allowed())
            })?;
            let canonical = key.names.first().map_or_else(String::new, |name| name.to_ascii_lowercase());
            if options.params.contains_key(&canonical) || options.secrets.contains_key(&canonical) {
                return Err(Error::invalid(format!(
                    "option {} is given twice{}",
                    canonical.to_ascii_uppercase(),
                    if key.names.len() > 1 {
                        format!("; {} are one option", key.names.join(" and "))
                    } else {
                        String::new()
                    }
                )));
            }
            if key.secret {
                options.secrets.insert(canonical, value);
                continue;
            }
            let text = value.expose();
            let text = match key.kind {
                ValueKind::Text => text.clone(),
                ValueKind::Bool => {
                    let lower = text.to_ascii_lowercase();
                    if lower != "true" && lower != "false" {
                        return Err(Error::invalid(format!(
                            "option {upper} is '{text}'; allowed: TRUE, FALSE"
                        )));
                    }
                    lower
                }
                ValueKind::OneOf(allowed) => {
                    let lower = text.to_ascii_lowercase();
                    if !allowed.contains(&lower.as_str()) {
                        return Err(Error::invalid(format!(
                            "option {upper} is '{text}'; allowed: {}",
                            allowed.join(", ")
                        )));
                    }
                    lower
                }
                ValueKind::HttpUrl => {
                    let lower = text.to_ascii_lowercase();
                    if text.is_empty() || (lower.contains("://") && !lower.starts_with("http")) {
                        return Err(Error::invalid(format!(
                            "option {upper} is '{text}'; a URL that begins with https:// or http:// is expected"
                        )));
                    }
                    // A bare host means HTTPS, as in the reference.
                    if lower.contains("://") { text.clone() } else { format!("https://{text}") }
                }
            };
            options.params.insert(canonical, text);
        }
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let needs = |option: &str| match self.params.contains_key(option) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "connections of type {} need option {}",
                self.storage_type,
                option.to_uppercase()
            ))),
        };
        match self.storage_type {
            StorageType::Azblob => needs("account_name")?,
            StorageType::Oss | StorageType::Cos => needs("endpoint_url")?,
            _ => {}
        }
        if self.secrets.contains_key("master_key") {
            return Err(Error::not_supported("option MASTER_KEY: files that their writer encrypted")
                .hint("encryption by the store itself needs no key here"));
        }
        if self.secrets.contains_key("external_id") && !self.params.contains_key("role_arn") {
            return Err(Error::invalid("option EXTERNAL_ID needs ROLE_ARN with it"));
        }
        let pair = match self.storage_type {
            StorageType::S3 => Some(("access_key_id", "secret_access_key")),
            StorageType::Oss => Some(("access_key_id", "access_key_secret")),
            StorageType::Cos => Some(("secret_id", "secret_key")),
            StorageType::Azblob => Some(("account_name", "account_key")),
            _ => None,
        };
        let Some((id, key)) = pair else { return Ok(()) };
        match (self.params.contains_key(id), self.secrets.contains_key(key)) {
            (true, false) if self.storage_type != StorageType::Azblob => Err(Error::invalid(format!(
                "option {} needs {} with it",
                id.to_uppercase(),
                key.to_uppercase()
            ))),
            (false, true) => Err(Error::invalid(format!(
                "option {} needs {} with it",
                key.to_uppercase(),
                id.to_uppercase()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether there is nothing but the type.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty() && self.secrets.is_empty()
    }

    /// All keys in order as `key = 'value'`, secrets masked: the `storage_params` of SHOW and DESC.
    pub fn masked(&self) -> String {
        masked_params(&self.params, self.secrets.keys())
    }
}

/// `key = 'value'` of all parameters in order of the keys, with masks for the secret ones.
pub fn masked_params<'a>(
    params: &BTreeMap<String, String>,
    secret_keys: impl IntoIterator<Item = &'a String>,
) -> String {
    let mut shown: BTreeMap<&str, &str> = params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    shown.extend(secret_keys.into_iter().map(|key| (key.as_str(), MASK)));
    let parts: Vec<String> =
        shown.iter().map(|(key, value)| format!("{key} = '{}'", value.replace('\'', "''"))).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn of(ty: StorageType, pairs: &[(&str, &str)]) -> Result<ConnectionOptions> {
        ConnectionOptions::from_pairs(
            ty,
            pairs.iter().map(|(k, v)| ((*k).to_owned(), Secret::new((*v).to_owned()))),
        )
    }

    #[test]
    fn aliases_become_the_canonical_key_and_secrets_stay_apart() {
        let options = of(
            StorageType::S3,
            &[("aws_key_id", "AKIA"), ("AWS_SECRET_KEY", "shh"), ("security_token", "tok"), ("REGION", "eu")],
        )
        .unwrap();
        assert_eq!(options.params.keys().collect::<Vec<_>>(), ["access_key_id", "region"]);
        assert_eq!(options.secrets.keys().collect::<Vec<_>>(), ["secret_access_key", "session_token"]);
        assert_eq!(
            options.masked(),
            "access_key_id = 'AKIA' region = 'eu' secret_access_key = '******' session_token = '******'"
        );
        assert!(!format!("{options:?}").contains("shh"));
    }

    #[test]
    fn wrong_keys_and_values_are_named_with_what_is_allowed() {
        for (ty, pairs, expected) in [
            (StorageType::S3, &[("REGIO", "x")][..], "type s3 have no option REGIO; allowed: ENDPOINT_URL"),
            (StorageType::Fs, &[("REGION", "x")], "have no option REGION; it takes no keys"),
            (
                StorageType::S3,
                &[("AWS_KEY_ID", "a"), ("ACCESS_KEY_ID", "b")],
                "option ACCESS_KEY_ID is given twice; ACCESS_KEY_ID and AWS_KEY_ID are one option",
            ),
            (StorageType::S3, &[("ENABLE_VIRTUAL_HOST_STYLE", "ja")], "allowed: TRUE, FALSE"),
            (StorageType::Hf, &[("REPO_TYPE", "space")], "allowed: dataset, model"),
            (StorageType::S3, &[("ENDPOINT_URL", "ftp://x")], "https://"),
            (StorageType::S3, &[("ACCESS_KEY_ID", "x")], "needs SECRET_ACCESS_KEY"),
            (StorageType::S3, &[("EXTERNAL_ID", "x")], "EXTERNAL_ID needs ROLE_ARN"),
            (StorageType::S3, &[("MASTER_KEY", "hush")], "not supported: option MASTER_KEY"),
            (StorageType::Azblob, &[("ACCOUNT_KEY", "hush")], "azblob need option ACCOUNT_NAME"),
            (StorageType::Oss, &[], "oss need option ENDPOINT_URL"),
            (StorageType::Cos, &[("ENDPOINT_URL", "cos.x"), ("SECRET_KEY", "hush")], "needs SECRET_ID"),
            (StorageType::S3, &[("SECRET_ACCESS_KEY", "hush")], "needs ACCESS_KEY_ID"),
        ] {
            let error = of(ty, pairs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hush"));
        }
        assert!(StorageType::parse("S4").unwrap_err().to_string().contains("allowed: s3, azblob"));
    }

    #[test]
    fn a_uri_says_its_storage_type() {
        assert_eq!(StorageType::of_uri("S3://b/").unwrap(), StorageType::S3);
        assert_eq!(StorageType::of_uri("http://h/x").unwrap(), StorageType::Https);
        assert!(StorageType::of_uri("file:///x").unwrap_err().to_string().contains("fs:///dir/"));
        assert!(StorageType::of_uri("/x").unwrap_err().to_string().contains("no scheme"));
    }
}
