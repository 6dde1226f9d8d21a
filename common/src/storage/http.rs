//! Files on web servers: no listing, explicit names only, read only.
//!
//! Size, etag and time come from HEAD (or from a one-byte GET where HEAD is not served). Servers that
//! answer ranges under a strong etag are read in pieces; all others in one pass. Redirects are
//! followed by hand, at most five, each checked against the egress policy.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT_RANGES, ETAG, HeaderMap, IF_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::location::Location;

use super::backend::{Backend, BackendFile};
use super::egress::EgressPolicy;
use super::failure::{StoreLabel, changed};
use super::web::{WebClient, WebRequest, content_length, content_range, header, text};

const HEADS_AT_ONCE: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct HttpBackend {
    root: Location,
    web: WebClient,
}

impl HttpBackend {
    pub(crate) fn new(root: &Location, policy: EgressPolicy) -> Result<Self> {
        let root = root.store_root();
        let label = StoreLabel { place: format!("'{root}'"), keys: "" };
        let web = WebClient::new(&url_of(&root, "")?, label, policy)?;
        Ok(Self { root, web })
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response> {
        let request = WebRequest { headers, ..WebRequest::new(method, url_of(&self.root, path)?) };
        self.web.send(&request, shown(path)).await
    }

    fn refused(&self, status: StatusCode, path: &str) -> Error {
        self.web.refused(status, shown(path))
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

fn serves_ranges(headers: &HeaderMap) -> bool {
    text(headers, ACCEPT_RANGES.as_str()).is_some_and(|units| units.eq_ignore_ascii_case("bytes"))
}

/// A weak etag does not promise the same bytes, so it is no validator.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = text(headers, ETAG.as_str())?.trim();
    Some(etag.strip_prefix('"')?.strip_suffix('"')?.to_owned()).filter(|etag| !etag.is_empty())
}

fn version_of(headers: &HeaderMap, size: u64) -> FileVersion {
    let modified = text(headers, LAST_MODIFIED.as_str()).and_then(|t| DateTime::parse_from_rfc2822(t).ok());
    FileVersion {
        size,
        etag: strong_etag(headers),
        version: None,
        last_modified_ms: modified.map_or(0, |t| t.timestamp_millis()),
    }
}

#[async_trait]
impl Backend for HttpBackend {
    fn read_only(&self) -> Error {
        Error::not_supported("writing to HTTP locations")
    }

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
}

#[derive(Debug)]
struct HttpFile {
    backend: HttpBackend,
    path: String,
    version: FileVersion,
    ranges: bool,
}

impl HttpFile {
    /// A request for this version of the file.
    fn request(&self, ranged: bool) -> Result<WebRequest> {
        let mut request = WebRequest::new(Method::GET, url_of(&self.backend.root, &self.path)?);
        if let Some(etag) = &self.version.etag {
            let etag = header(&format!("\"{etag}\""))?;
            if ranged {
                request.headers.insert(IF_RANGE, etag.clone());
            }
            request.headers.insert(IF_MATCH, etag);
        }
        Ok(request)
    }
}

#[async_trait]
impl BackendFile for HttpFile {
    fn can_split(&self) -> bool {
        self.ranges && self.version.etag.is_some()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let request = self.request(true)?;
        self.backend.web.range(request, range, self.version.size, shown(&self.path)).await
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let response = self.backend.web.send(&self.request(false)?, shown(&self.path)).await?;
        if !response.status().is_success() {
            return Err(self.backend.refused(response.status(), &self.path));
        }
        let now =
            version_of(response.headers(), content_length(response.headers()).unwrap_or(self.version.size));
        if !now.same_content(&self.version) {
            return Err(changed(shown(&self.path)));
        }
        let (backend, path) = (self.backend.clone(), self.path.clone());
        Ok(response.bytes_stream().map_err(move |e| backend.web.explain(&e, shown(&path))).boxed())
    }
}
