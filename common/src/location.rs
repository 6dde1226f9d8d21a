//! Locations: where files are, as URIs, and the only place where paths are joined.
//!
//! Comes in: what a user wrote (`s3://bucket/dir/`, `fs:///data/`, `https://host/x{1,2}.csv`) and
//! relative paths (`@stage/…`, FILES). Goes out: a [`Location`] whose path cannot leave the place it
//! was joined to, the names users see, and the identity of the store for the ledger.
//! Paths are literal text with `/` between segments: nothing is decoded or normalised, and what a
//! later layer might decode into a way out (`..`, `%2e%2e`, backslashes, NUL) is refused here.
//! Does no I/O. Fails with errors that quote the text and say which part is wrong.

mod glob;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use url::{Host, Url};

use crate::error::{Error, Result};
use crate::file_identity::StoreIdentity;

/// The longest path accepted, in bytes (S3's limit for a key).
pub const MAX_PATH_BYTES: usize = 1024;
/// The most names that the globs of one URL may expand to.
pub const MAX_GLOB_NAMES: usize = 10_000;

/// Where the repositories of `hf://` are, unless a connection says otherwise.
pub(crate) const HUB_ENDPOINT: &str = "https://huggingface.co";

const KNOWN_BUT_NOT_BUILT: &[&str] = &["azfs", "obs", "webhdfs", "hdfs"];

/// How a store is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// S3 and what speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azblob,
    /// Google Cloud Storage.
    Gcs,
    /// Alibaba Cloud OSS.
    Oss,
    /// Tencent Cloud COS.
    Cos,
    /// Repositories of the Hugging Face Hub, read only.
    Hf,
    /// Folders of IPFS, through a gateway, read only.
    Ipfs,
    /// The machine's file system, below the roots that the operator allows.
    Fs,
    /// Plain HTTP, read only.
    Http,
    /// HTTPS, read only.
    Https,
    /// The memory of this process: for tests.
    Memory,
}

impl Scheme {
    /// As it stands in URIs and in STORAGE_TYPE.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azblob => "azblob",
            Self::Gcs => "gcs",
            Self::Oss => "oss",
            Self::Cos => "cos",
            Self::Hf => "hf",
            Self::Ipfs => "ipfs",
            Self::Fs => "fs",
            Self::Http => "http",
            Self::Https => "https",
            Self::Memory => "memory",
        }
    }

    /// The STORAGE_TYPE of a connection that can serve it.
    pub fn storage_type(self) -> &'static str {
        match self {
            Self::Http => "https",
            other => other.as_str(),
        }
    }

    /// Whether this is HTTP or HTTPS.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    fn parse(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "s3" | "s3a" => Ok(Self::S3),
            "azblob" => Ok(Self::Azblob),
            "gcs" | "gs" => Ok(Self::Gcs),
            "oss" => Ok(Self::Oss),
            "cos" => Ok(Self::Cos),
            "hf" => Ok(Self::Hf),
            "ipfs" => Ok(Self::Ipfs),
            "fs" => Ok(Self::Fs),
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            "file" => Err(Error::invalid("the scheme 'file' is not used for stages and locations")
                .hint("write fs:///dir/ for local folders")),
            other if KNOWN_BUT_NOT_BUILT.contains(&other) => {
                Err(Error::not_supported_yet(format!("locations of the scheme '{other}'")))
            }
            other => Err(Error::invalid(format!("unknown scheme '{other}' of a location"))
                .hint("known are s3, azblob, gcs, oss, cos, hf, ipfs, https, http, fs")),
        }
    }
}

/// A folder, a raw prefix or a file in a store.
///
/// The path has no leading slash; a trailing slash makes it a folder, anything else is a raw prefix
/// (which may happen to be the whole name of one file).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    scheme: Scheme,
    authority: String,
    path: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.as_str(), self.authority, self.path)
    }
}

impl Location {
    /// Parses a URI as a user writes it.
    ///
    /// # Errors
    /// Invalid input that quotes the URI; «not supported yet» for schemes that are known but not built.
    pub fn parse(uri: &str) -> Result<Self> {
        let wrong = |what: &str| Error::invalid(format!("invalid location '{}': {what}", shown(uri)));
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(
                wrong("it has no scheme").hint("write s3://bucket/path/, fs:///dir/ or https://host/file")
            );
        };
        let scheme = Scheme::parse(scheme)?;
        let (authority, path) = match scheme {
            // A repository is `org/name`.
            Scheme::Hf => {
                let end = rest.match_indices('/').nth(1).map_or(rest.len(), |(at, _)| at);
                (&rest[..end], rest[end..].strip_prefix('/').unwrap_or_default())
            }
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        let authority = match scheme {
            Scheme::Hf => {
                if matches!(authority.split('/').next(), Some("datasets" | "models" | "spaces")) {
                    return Err(wrong("the kind of a repository is not part of it").hint(
                        "write hf://org/name/path/, and REPO_TYPE = 'dataset' or 'model' in the connection",
                    ));
                }
                let plain = |name: &str| {
                    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
                };
                match authority.split_once('/') {
                    Some((org, name)) if plain(org) && plain(name) => authority.to_owned(),
                    _ => return Err(wrong("it needs a repository").hint("write hf://org/name/path/")),
                }
            }
            Scheme::Ipfs => {
                if authority.is_empty() || !authority.chars().all(|c| c.is_ascii_alphanumeric()) {
                    return Err(wrong("it needs the CID of a folder").hint("write ipfs://bafy…/path/"));
                }
                authority.to_owned()
            }
            Scheme::S3 | Scheme::Azblob | Scheme::Gcs | Scheme::Oss | Scheme::Cos | Scheme::Memory => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if authority.is_empty() || !authority.chars().all(plain) || authority.starts_with('.') {
                    return Err(wrong("the bucket's name must be letters, digits, '.', '-' or '_'"));
                }
                authority.to_owned()
            }
            Scheme::Fs => {
                if !authority.is_empty() || !rest.starts_with('/') {
                    return Err(
                        wrong("a local path starts at the root").hint("write fs:///dir/ with three slashes")
                    );
                }
                String::new()
            }
            Scheme::Http | Scheme::Https => normal_authority(scheme, authority)
                .ok_or_else(|| wrong("it needs a host, an optional port, and no user name or password"))?,
        };
        if scheme.is_http() && path.contains('#') {
            return Err(wrong("a '#' in a file's name must be written %23"));
        }
        check_path(scheme, path).map_err(|e| wrong(e.message()))?;
        Ok(Self { scheme, authority, path: path.to_owned() })
    }

    /// Parses the place of a warehouse or another root of ours: [`Location::parse`], and also
    /// `file:///dir` and a plain absolute path. The answer is always a folder.
    ///
    /// # Errors
    /// As [`Location::parse`]; what cannot be written to, or what readers of tables do not know, is refused.
    pub fn parse_root(text: &str) -> Result<Self> {
        let local = text.strip_prefix("file://").unwrap_or(text);
        let mut location =
            if local.starts_with('/') { Self::parse(&format!("fs://{local}"))? } else { Self::parse(text)? };
        match location.scheme {
            Scheme::S3 | Scheme::Fs | Scheme::Memory => {}
            Scheme::Azblob | Scheme::Gcs | Scheme::Oss | Scheme::Cos => {
                return Err(Error::not_supported_yet(format!("tables in '{}'", shown(text)))
                    .hint("use s3://bucket/path/ or a local folder"));
            }
            Scheme::Http | Scheme::Https | Scheme::Hf | Scheme::Ipfs => {
                return Err(Error::invalid(format!("'{}' cannot be written to", shown(text)))
                    .hint("use s3://bucket/path/ or a local folder"));
            }
        }
        if !location.path.is_empty() && !location.path.ends_with('/') {
            location.path.push('/');
        }
        Ok(location)
    }

    /// The root of a store in memory.
    pub(crate) fn memory() -> Self {
        Self { scheme: Scheme::Memory, authority: "test".into(), path: String::new() }
    }

    /// This location as Iceberg metadata and its readers write it: local files are `file:///…`.
    pub fn iceberg_uri(&self) -> String {
        match self.scheme {
            Scheme::Fs => format!("file:///{}", self.path),
            _ => self.to_string(),
        }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, container, repository, CID or `host[:port]`; empty for `fs`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path from the top of the store, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether this names a folder (the whole store, or a path with a trailing slash).
    pub fn is_folder(&self) -> bool {
        self.path.is_empty() || self.path.ends_with('/')
    }

    /// Checks the rule for the URL of a stage: buckets and local paths name a folder.
    ///
    /// # Errors
    /// Invalid input that says to add the slash.
    pub fn require_folder(&self) -> Result<()> {
        if self.scheme.is_http() || self.is_folder() {
            return Ok(());
        }
        Err(Error::invalid(format!("the URL '{self}' must name a folder")).hint(format!("write '{self}/'")))
    }

    /// The top of the store: `s3://bucket/`, `fs:///`, `https://host/`. Its paths are those of [`Location::path`].
    #[must_use]
    pub fn store_root(&self) -> Self {
        Self { path: String::new(), ..self.clone() }
    }

    /// What follows `@stage/` joined to the stage's location, as a raw prefix: `dir/ab` selects
    /// everything that begins so, `dir/` a folder, the empty text the stage itself.
    ///
    /// # Errors
    /// Invalid input for absolute paths, `..`, `.`, empty segments, NUL, control characters,
    /// backslashes, and what would decode to one of these.
    pub fn join(&self, relative: &str) -> Result<Self> {
        if relative.is_empty() {
            return Ok(self.clone());
        }
        let wrong = |what: &str| Error::invalid(format!("invalid path '{}': {what}", shown(relative)));
        if self.path.contains('?') && self.scheme.is_http() {
            return Err(wrong("nothing can be joined to a URL with a query"));
        }
        if relative.starts_with('/') {
            return Err(wrong("it must be relative, without a leading slash"));
        }
        check_path(self.scheme, relative).map_err(|e| wrong(e.message()))?;
        let slash = if self.is_folder() { "" } else { "/" };
        let path = format!("{}{slash}{relative}", self.path);
        check_path(self.scheme, &path).map_err(|e| wrong(e.message()))?;
        Ok(Self { path, ..self.clone() })
    }

    /// One file below this location (FILES): as [`Location::join`], and it must name something.
    ///
    /// # Errors
    /// As [`Location::join`]; also for an empty name and one with a trailing slash.
    pub fn join_file(&self, relative: &str) -> Result<Self> {
        if relative.is_empty() || relative.ends_with('/') {
            return Err(Error::invalid(format!("'{}' does not name a file", shown(relative))));
        }
        self.join(relative)
    }

    /// The folder of an internal stage below the root of the cluster's own storage.
    ///
    /// # Errors
    /// Invalid input if `stage` (an id) is not one plain segment.
    pub fn internal_stage(&self, stage: &str) -> Result<Self> {
        if stage.contains('/') {
            return Err(Error::internal(format!("'{}' is not the id of a stage", shown(stage))));
        }
        self.join(&format!("stages/{stage}/"))
    }

    /// The folder that names are relative to: the path up to its last slash (before any glob).
    pub fn folder_path(&self) -> &str {
        let plain = if self.scheme.is_http() {
            let end = self.path.find(['{', '[', '?']).unwrap_or(self.path.len());
            &self.path[..end]
        } else {
            &self.path
        };
        &plain[..plain.rfind('/').map_or(0, |slash| slash + 1)]
    }

    /// The name that users see for the file at `path` (from the top of the store): relative to this
    /// location's folder, without the query of a URL. A path that lies elsewhere is shown whole.
    pub fn relative_name<'a>(&self, path: &'a str) -> &'a str {
        let name = path.strip_prefix(self.folder_path()).unwrap_or(path);
        if self.scheme.is_http() { name.split('?').next().unwrap_or(name) } else { name }
    }

    /// Whether the path holds globs that [`Location::expand`] would expand.
    pub fn has_globs(&self) -> bool {
        self.scheme.is_http() && glob::is_pattern(&self.path)
    }

    /// The explicit paths that an HTTP URL with `{a,b}` and `[1-3]` stands for, in order; the path
    /// itself for everything else.
    ///
    /// # Errors
    /// Invalid input for malformed globs; resource exhausted beyond [`MAX_GLOB_NAMES`] names.
    pub fn expand(&self) -> Result<Vec<String>> {
        if !self.has_globs() {
            return Ok(vec![self.path.clone()]);
        }
        let paths =
            glob::expand(&self.path, MAX_GLOB_NAMES).map_err(|e| e.context(format!("expanding '{self}'")))?;
        for path in &paths {
            check_path(self.scheme, path).map_err(|e| {
                Error::invalid(format!(
                    "'{self}' expands to the invalid path '{}': {}",
                    shown(path),
                    e.message()
                ))
            })?;
        }
        Ok(paths)
    }

    /// The identity of the store for the ledger, from what the connection says of where it is: two endpoints
    /// with the same bucket never collide, and neither do two revisions of a repository. Credentials do not
    /// matter, and neither does the gateway to IPFS, where a name is what it holds.
    pub fn identity(&self, params: &BTreeMap<String, String>) -> StoreIdentity {
        let value = |key: &str| params.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let endpoint = value("endpoint_url").map(normal_endpoint);
        let (endpoint, container) = match self.scheme {
            Scheme::S3 | Scheme::Cos => (endpoint.unwrap_or_default(), self.authority.clone()),
            // The network within and the one without lead to the same buckets.
            Scheme::Oss => {
                (endpoint.unwrap_or_default().replacen("-internal.", ".", 1), self.authority.clone())
            }
            Scheme::Azblob => {
                let account = value("account_name").unwrap_or_default();
                let usual = format!("https://{account}.blob.core.windows.net");
                (endpoint.unwrap_or(usual), self.authority.clone())
            }
            Scheme::Gcs => {
                let usual = |url: &String| url != "https://storage.googleapis.com";
                (endpoint.filter(usual).unwrap_or_default(), self.authority.clone())
            }
            Scheme::Hf => {
                let kind = value("repo_type").unwrap_or("dataset");
                let revision = value("revision").unwrap_or("main");
                let endpoint = endpoint.filter(|url| url != HUB_ENDPOINT).unwrap_or_default();
                (endpoint, format!("{kind} {}@{revision}", self.authority))
            }
            Scheme::Ipfs | Scheme::Fs | Scheme::Http | Scheme::Https | Scheme::Memory => {
                (String::new(), self.authority.clone())
            }
        };
        StoreIdentity { kind: self.scheme.as_str().into(), endpoint, container }
    }
}

/// The identity of an internal stage, whose paths are relative to the stage.
pub fn internal_identity(stage: impl fmt::Display) -> StoreIdentity {
    StoreIdentity { kind: "internal".into(), endpoint: String::new(), container: format!("stage-{stage}") }
}

/// An endpoint in one spelling: scheme and host in lower case, default port and trailing slash
/// dropped, `https://` where no scheme is given, AWS's own endpoints as the empty text.
pub fn normal_endpoint(endpoint: &str) -> String {
    let endpoint = endpoint.trim();
    let text = if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") };
    let Ok(url) = Url::parse(&text) else { return endpoint.to_ascii_lowercase() };
    let aws = |host: &str| {
        host == "s3.amazonaws.com"
            || (host.ends_with(".amazonaws.com") && (host.starts_with("s3.") || host.starts_with("s3-")))
    };
    if url.host_str().is_some_and(aws) {
        return String::new();
    }
    url.as_str().trim_end_matches('/').to_owned()
}

/// Checks a path that a listing or a task gave, before it reaches a store: no way out, nothing empty.
///
/// # Errors
/// Invalid input that quotes the path.
pub(crate) fn check_store_path(scheme: Scheme, path: &str) -> Result<()> {
    let wrong = |what: &str| Error::invalid(format!("invalid path '{}': {what}", shown(path)));
    if path.is_empty() || path.ends_with('/') {
        return Err(wrong("it does not name a file"));
    }
    if scheme.is_http() {
        return check_path(scheme, path).map_err(|e| wrong(e.message()));
    }
    if path.starts_with('/') || path.contains('\0') {
        return Err(wrong("it must be relative and free of NUL"));
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(wrong("'..', '.' and empty segments are refused"));
    }
    Ok(())
}

/// The rule for paths that users write. A trailing slash is fine; everything else must be plain.
fn check_path(scheme: Scheme, path: &str) -> Result<()> {
    if path.len() > MAX_PATH_BYTES * if scheme.is_http() { 4 } else { 1 } {
        return Err(Error::invalid(format!("it is longer than {MAX_PATH_BYTES} bytes")));
    }
    if path.chars().any(char::is_control) {
        return Err(Error::invalid("control characters are refused"));
    }
    // The query of a URL is opaque: it names no segment of the path.
    let path = if scheme.is_http() { path.split('?').next().unwrap_or(path) } else { path };
    if path.contains('\\') {
        return Err(Error::invalid("backslashes are refused").hint("separate folders with '/'"));
    }
    let body = path.strip_suffix('/').unwrap_or(path);
    if path == "/" || (!body.is_empty() && body.split('/').any(str::is_empty)) {
        return Err(Error::invalid("empty segments ('//') are refused"));
    }
    // Decoded as often as a careless layer below might: `%252e%252e` is no way out either.
    let mut text = path.to_owned();
    for _ in 0..4 {
        if text.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")) {
            return Err(Error::invalid("'..' and '.' are refused, also when encoded"));
        }
        if text.contains('\0') {
            return Err(Error::invalid("an encoded NUL is refused"));
        }
        let decoded = percent_decoded(&text);
        if decoded == text {
            return Ok(());
        }
        text = decoded;
    }
    Err(Error::invalid("it is percent-encoded too many times over"))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `host[:port]` in the one spelling that the URL standard gives it (so that `0x7f.1` is `127.0.0.1`).
fn normal_authority(scheme: Scheme, authority: &str) -> Option<String> {
    if authority.is_empty() || authority.contains(['@', '\\', '?', '#', ' ']) {
        return None;
    }
    let url = Url::parse(&format!("{}://{authority}/", scheme.as_str())).ok()?;
    if !url.username().is_empty() || url.password().is_some() || url.path() != "/" {
        return None;
    }
    match url.host()? {
        Host::Domain("") => None,
        host => Some(match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        }),
    }
}

/// A piece of a user's text for a message: cut, without control characters, and without the query of
/// a URL, which may be a signature.
fn shown(text: &str) -> String {
    let mut out: String = text.split('?').next().unwrap_or(text).chars().take(200).collect::<String>();
    if out.chars().any(char::is_control) {
        out = out.escape_default().to_string();
    }
    // `https://user:password@host/`: never repeat the password.
    match (out.find("://"), out.find('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &out[..scheme + 3], &out[at..]),
        _ => out,
    }
}
