//! Files on web servers: no listing, explicit names only, read only.
//!
//! Size, etag and time come from HEAD (or from a one-byte GET where HEAD is not served). Servers that
//! answer ranges under a strong etag are read in pieces; all others in one pass. Redirects are
//! followed by hand, at most five, each checked against the egress policy.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, IF_MATCH, IF_RANGE, LAST_MODIFIED,
    LOCATION, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode};
use url::Url;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::location::Location;

use super::backend::{Backend, BackendFile, BackendWriter};
use super::egress::{EgressPolicy, EgressRefused, backoff, find_source, root_cause};
use super::failure::changed;

const MAX_REDIRECTS: usize = 5;
const ATTEMPTS: u32 = 3;
const HEADS_AT_ONCE: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct HttpBackend {
    root: Location,
    client: Client,
    policy: EgressPolicy,
}

impl HttpBackend {
    pub(crate) fn new(root: &Location, policy: EgressPolicy) -> Result<Self> {
        let root = root.store_root();
        let host = url_of(&root, "")?;
        policy.check_host(host.host_str().unwrap_or_default())?;
        Ok(Self { root, client: policy.client()?, policy })
    }

    /// Sends a request, following redirects and trying again what failed on the way.
    async fn send(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response> {
        let mut attempt = 1;
        loop {
            let failed = match self.send_once(method.clone(), path, headers.clone()).await {
                Ok(response) if !is_transient(response.status()) => return Ok(response),
                Ok(response) => Error::unavailable(format!(
                    "'{}' answered {} for '{}'",
                    self.root,
                    response.status(),
                    shown(path)
                )),
                Err(e) if !e.is_retryable() => return Err(e),
                Err(e) => e,
            };
            if attempt >= ATTEMPTS {
                return Err(failed);
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn send_once(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response> {
        let mut url = url_of(&self.root, path)?;
        for _ in 0..=MAX_REDIRECTS {
            self.policy.check_host(url.host_str().unwrap_or_default())?;
            let request = self
                .client
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                // The bytes as stored: sizes and ranges are of them.
                .header(ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|e| self.explain(&e, path))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let next =
                response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| url.join(l).ok());
            let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
                return Err(Error::storage(format!(
                    "'{}' redirects '{}' to nowhere",
                    self.root,
                    shown(path)
                )));
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(Error::denied(format!(
                    "'{}' redirects '{}' from https to http, which is refused",
                    self.root,
                    shown(path)
                )));
            }
            url = next;
        }
        Err(Error::storage(format!(
            "'{}' redirects '{}' more than {MAX_REDIRECTS} times",
            self.root,
            shown(path)
        )))
    }

    fn explain(&self, e: &reqwest::Error, path: &str) -> Error {
        if let Some(refused) = find_source::<EgressRefused>(e) {
            return Error::from(refused.clone()).context(format!("reading '{}'", shown(path)));
        }
        if e.is_connect() {
            return Error::unavailable(format!("cannot connect to '{}': {}", self.root, root_cause(e)))
                .hint("check the host and the network");
        }
        Error::storage(format!("reading '{}' from '{}' failed: {}", shown(path), self.root, root_cause(e)))
            .retryable(true)
    }

    /// The error of a status that is no success.
    fn refused(&self, status: StatusCode, path: &str) -> Error {
        let (place, path) = (&self.root, shown(path));
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Error::not_found(format!("file '{path}' does not exist at '{place}'"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::denied(format!("'{place}' refused access to '{path}' ({status})"))
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => changed(path),
            _ => Error::storage(format!("'{place}' answered {status} for '{path}'")),
        }
    }

    async fn probe(&self, path: &str) -> Result<(FileVersion, bool)> {
        let response = self.send(Method::HEAD, path, HeaderMap::new()).await?;
        let status = response.status();
        if status.is_success()
            && let Some(size) = content_length(response.headers())
        {
            return Ok((version_of(response.headers(), size), serves_ranges(response.headers())));
        }
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::UNAUTHORIZED) {
            return Err(self.refused(status, path));
        }
        // HEAD is not served, or does not tell the size: ask for one byte.
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, reqwest::header::HeaderValue::from_static("bytes=0-0"));
        let response = self.send(Method::GET, path, headers).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((_, size)) => Ok((version_of(response.headers(), size), true)),
                None => Err(self.no_size(path)),
            },
            // An empty file has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => Ok((version_of(response.headers(), 0), false)),
            status if status.is_success() => match content_length(response.headers()) {
                Some(size) => Ok((version_of(response.headers(), size), false)),
                None => Err(self.no_size(path)),
            },
            status => Err(self.refused(status, path)),
        }
    }

    fn no_size(&self, path: &str) -> Error {
        Error::not_supported(format!("'{}' does not tell the size of '{}'", self.root, shown(path)))
    }
}

fn url_of(root: &Location, path: &str) -> Result<Url> {
    Url::parse(&format!("{root}{path}"))
        .map_err(|e| Error::invalid(format!("invalid URL '{root}{}': {e}", shown(path))))
}

/// A path without its query, which may hold a signature.
fn shown(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, reqwest::header::CONTENT_LENGTH)?.parse().ok()
}

fn serves_ranges(headers: &HeaderMap) -> bool {
    text(headers, ACCEPT_RANGES).is_some_and(|units| units.eq_ignore_ascii_case("bytes"))
}

/// `bytes 0-9/100`: the range and the whole size.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, size) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let end: u64 = end.trim().parse().ok()?;
    Some((start.trim().parse().ok()?..end.checked_add(1)?, size.trim().parse().ok()?))
}

/// A weak etag does not promise the same bytes, so it is no validator.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = text(headers, ETAG)?.trim();
    Some(etag.strip_prefix('"')?.strip_suffix('"')?.to_owned()).filter(|etag| !etag.is_empty())
}

fn version_of(headers: &HeaderMap, size: u64) -> FileVersion {
    let modified = text(headers, LAST_MODIFIED).and_then(|t| DateTime::parse_from_rfc2822(t).ok());
    FileVersion {
        size,
        etag: strong_etag(headers),
        version: None,
        last_modified_ms: modified.map_or(0, |t| t.timestamp_millis()),
    }
}

fn read_only() -> Error {
    Error::not_supported("writing to HTTP locations")
}

#[async_trait]
impl Backend for HttpBackend {
    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let this = self.clone();
        let location = Location::parse(&format!("{}{prefix}", self.root));
        let paths = match location.and_then(|location| {
            if location.is_folder() {
                return Err(Error::not_supported(format!(
                    "listing '{location}': web servers have no listing"
                ))
                .hint("name the files: https://host/path/file{1,2,3}.csv, or FILES = ('…')"));
            }
            location.expand()
        }) {
            Ok(paths) => paths,
            Err(e) => return futures::stream::once(async move { Err(e) }).boxed(),
        };
        futures::stream::iter(paths)
            .map(move |path| {
                let this = this.clone();
                async move { this.head(&path).await }
            })
            .buffered(HEADS_AT_ONCE)
            .boxed()
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        let (version, _) = self.probe(path).await?;
        Ok(FileEntry { path: path.to_owned(), version })
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        let (now, ranges) = self.probe(path).await?;
        if !now.same_content(version) {
            return Err(changed(shown(path)));
        }
        Ok(Arc::new(HttpFile {
            backend: self.clone(),
            path: path.to_owned(),
            version: version.clone(),
            ranges,
        }))
    }

    async fn put(&self, _path: &str, _bytes: Bytes, _new: bool) -> Result<()> {
        Err(read_only())
    }

    async fn writer(&self, _path: &str) -> Result<Box<dyn BackendWriter>> {
        Err(read_only())
    }

    async fn rename(&self, _from: &str, _to: &str) -> Result<()> {
        Err(read_only())
    }

    async fn delete(&self, _path: &str) -> Result<()> {
        Err(read_only())
    }
}

#[derive(Debug)]
struct HttpFile {
    backend: HttpBackend,
    path: String,
    version: FileVersion,
    ranges: bool,
}

impl HttpFile {
    fn headers(&self, range: Option<&Range<u64>>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let value = |text: String| {
            reqwest::header::HeaderValue::from_str(&text)
                .map_err(|_| Error::storage(format!("the etag of '{}' is malformed", shown(&self.path))))
        };
        if let Some(etag) = &self.version.etag {
            headers.insert(IF_MATCH, value(format!("\"{etag}\""))?);
            if range.is_some() {
                headers.insert(IF_RANGE, value(format!("\"{etag}\""))?);
            }
        }
        if let Some(range) = range {
            headers.insert(RANGE, value(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?);
        }
        Ok(headers)
    }
}

#[async_trait]
impl BackendFile for HttpFile {
    fn can_split(&self) -> bool {
        self.ranges && self.version.etag.is_some()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let response = self.backend.send(Method::GET, &self.path, self.headers(Some(&range))?).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            // A whole answer to a ranged question under If-Range: the version is gone.
            status if status.is_success() => return Err(changed(shown(&self.path))),
            status => return Err(self.backend.refused(status, &self.path)),
        }
        if content_range(response.headers()) != Some((range.clone(), self.version.size)) {
            return Err(changed(shown(&self.path)));
        }
        let mut body = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|e| self.backend.explain(&e, &self.path))?);
        }
        Ok(body.freeze())
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let response = self.backend.send(Method::GET, &self.path, self.headers(None)?).await?;
        if !response.status().is_success() {
            return Err(self.backend.refused(response.status(), &self.path));
        }
        let now =
            version_of(response.headers(), content_length(response.headers()).unwrap_or(self.version.size));
        if !now.same_content(&self.version) {
            return Err(changed(shown(&self.path)));
        }
        let (backend, path) = (self.backend.clone(), self.path.clone());
        Ok(response.bytes_stream().map_err(move |e| backend.explain(&e, &path)).boxed())
    }
}
