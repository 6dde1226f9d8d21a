//! Stores that `object_store` serves: S3 and what speaks its protocol, Azure Blob Storage, Google Cloud
//! Storage, and the memory of the process for tests.
//!
//! The modules below build one from a spec; everything else is the same for all of them. None of them ever
//! uses the identity of the machine, unless the operator allows it ([`super::StoragePolicy`]).

mod assume_role;
mod azblob;
mod gcs;
mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig,
};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::secret::Secret;

use super::StorageSpec;
use super::backend::{Backend, BackendFile, BackendWriter, Presigned};
use super::failure::{StoreLabel, changed};

pub(crate) use azblob::azblob;
pub(crate) use gcs::gcs;
pub(crate) use s3::{cos, oss, s3, s3_of_any_region};

const PART_BYTES: usize = 8 << 20;

/// A store of `object_store`, its listing by raw prefix, and what signs URLs of it.
#[derive(Clone)]
pub(crate) struct ObjectBackend {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// `None` in memory.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    /// The library leaves the object out of a listing whose name is the prefix itself.
    pub(crate) hides_prefix: bool,
    pub(crate) signing: Signing,
    pub(crate) label: StoreLabel,
}

/// How URLs of a store are signed.
#[derive(Clone)]
pub(crate) enum Signing {
    With {
        signer: Arc<dyn Signer>,
        /// Headers that an upload must carry.
        upload_headers: &'static [(&'static str, &'static str)],
    },
    /// There is no key to sign with.
    NoKey,
    /// The library signs for this host alone, and the store is at another one.
    OnlyFor(&'static str),
}

impl Signing {
    pub(crate) fn with(signer: Option<Arc<dyn Signer>>) -> Self {
        signer.map_or(Self::NoKey, |signer| Self::With { signer, upload_headers: &[] })
    }
}

impl fmt::Debug for ObjectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectBackend").field(&self.label.place).finish()
    }
}

impl ObjectBackend {
    fn path(&self, path: &str) -> Result<Path> {
        Path::parse(path).map_err(|e| Error::invalid(format!("invalid path '{path}': {e}")))
    }

    fn version(&self, meta: &ObjectMeta) -> FileVersion {
        FileVersion {
            size: meta.size,
            etag: meta
                .e_tag
                .as_deref()
                .map(|etag| etag.trim_matches('"').to_owned())
                .filter(|etag| !etag.is_empty()),
            version: meta.version.clone(),
            last_modified_ms: meta.last_modified.timestamp_millis(),
        }
    }

    fn entry(&self, meta: &ObjectMeta) -> FileEntry {
        FileEntry { path: meta.location.as_ref().to_owned(), version: self.version(meta) }
    }

    /// The etag as the store wants it in a condition.
    fn condition(&self, etag: &str) -> String {
        if self.pages.is_some() { format!("\"{etag}\"") } else { etag.to_owned() }
    }
}

/// How requests that fail on the way are tried again, beside those to a busy store ([`super::egress`]).
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(30),
    }
}

/// ENDPOINT_URL of a spec, allowed by its policy.
pub(crate) fn endpoint_of(spec: &StorageSpec) -> Result<Option<url::Url>> {
    let endpoint = spec.value("endpoint_url").map(|text| endpoint_url("ENDPOINT_URL", &text)).transpose()?;
    if let Some(endpoint) = &endpoint {
        spec.policy.egress().check_host(endpoint.host_str().unwrap_or_default())?;
    }
    Ok(endpoint)
}

/// An endpoint as a URL; `https://` where it has no scheme.
pub(crate) fn endpoint_url(option: &str, text: &str) -> Result<url::Url> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong =
        |what: &str| Error::invalid(format!("invalid {option}: {what}")).hint("write https://host[:port]");
    let url = url::Url::parse(&full).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it must be http or https"));
    }
    if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it needs a host, and no user name or password"));
    }
    Ok(url)
}

#[async_trait]
impl Backend for ObjectBackend {
    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let this = self.clone();
        let Some(pages) = self.pages.clone() else {
            // The library lists by whole segments; the raw prefix is applied on top, in a stable order.
            let folder = prefix.rfind('/').map(|slash| Path::from_iter(prefix[..slash].split('/')));
            let listed = self.store.list(folder.as_ref());
            return futures::stream::once(async move {
                let mut found: Vec<FileEntry> = listed
                    .map_ok(|meta| this.entry(&meta))
                    .map_err(|e| this.label.explain(e, ""))
                    .try_filter(|entry| std::future::ready(entry.path.starts_with(&prefix)))
                    .try_collect()
                    .await?;
                found.sort_by(|a, b| a.path.cmp(&b.path));
                Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
            })
            .try_flatten()
            .boxed();
        };
        let folder = prefix.trim_end_matches('/').to_owned();
        let may_be_hidden = self.hides_prefix && !prefix.is_empty() && !prefix.ends_with('/');
        let listed = futures::stream::try_unfold(Some(None::<String>), move |state| {
            let (pages, this, prefix) = (pages.clone(), this.clone(), prefix.clone());
            async move {
                let Some(page_token) = state else { return Ok(None) };
                let options = PaginatedListOptions { page_token, ..Default::default() };
                let prefix = Some(prefix.as_str()).filter(|p| !p.is_empty());
                let page = pages.list_paginated(prefix, options).await;
                let page = this.label.ok(page, "")?;
                let entries: Vec<FileEntry> =
                    page.result.objects.iter().map(|meta| this.entry(meta)).collect();
                let next = page.page_token.map(Some);
                Ok::<_, Error>(Some((futures::stream::iter(entries.into_iter().map(Ok)), next)))
            }
        });
        let listed = listed.try_flatten();
        if !may_be_hidden {
            return without_folder_markers(folder, listed.boxed());
        }
        let (this, name) = (self.clone(), folder.clone());
        let hidden = futures::stream::once(async move {
            match this.store.head(&this.path(&name)?).await {
                Ok(meta) => Ok(Some(this.entry(&meta))),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(this.label.explain(error, &name)),
            }
        });
        let hidden = hidden.try_filter_map(|entry| std::future::ready(Ok(entry)));
        without_folder_markers(folder, hidden.chain(listed).boxed())
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        let meta = self.label.ok(self.store.head(&self.path(path)?).await, path)?;
        Ok(self.entry(&meta))
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        Ok(Arc::new(ObjectFile {
            path: self.path(path)?,
            name: path.to_owned(),
            backend: self.clone(),
            version: version.clone(),
        }))
    }

    async fn put(&self, path: &str, bytes: Bytes, new: bool) -> Result<()> {
        let mode = if new { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, ..Default::default() };
        let put = self.store.put_opts(&self.path(path)?, bytes.into(), options).await;
        match put {
            // S3 answers a lost race of two conditional puts with «precondition failed».
            Err(object_store::Error::Precondition { .. }) if new => {
                Err(Error::already_exists(format!("file '{path}' exists already in {}", self.label.place)))
            }
            other => self.label.ok(other, path).map(|_| ()),
        }
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn BackendWriter>> {
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), self.path(path)?, PART_BYTES)
            .with_max_concurrency(4);
        Ok(Box::new(ObjectWriter { writer, name: path.to_owned(), label: self.label.clone() }))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.label.ok(self.store.rename(&self.path(from)?, &self.path(to)?).await, from)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.path(path)?).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => self.label.ok(other, path),
        }
    }

    async fn presign(&self, upload: bool, path: &str, expires: Duration) -> Result<Presigned> {
        let place = &self.label.place;
        let (signer, upload_headers) = match &self.signing {
            Signing::With { signer, upload_headers } => (signer, upload_headers),
            Signing::NoKey => {
                return Err(Error::not_supported(format!("PRESIGN in {place} without a key to sign with"))
                    .hint(self.label.keys_hint()));
            }
            Signing::OnlyFor(host) => {
                return Err(Error::not_supported(format!("PRESIGN in {place}: URLs are signed for {host}"))
                    .hint("leave ENDPOINT_URL out of the connection"));
            }
        };
        let method = if upload { reqwest::Method::PUT } else { reqwest::Method::GET };
        let url = self.label.ok(signer.signed_url(method, &self.path(path)?, expires).await, path)?;
        let headers = if upload { upload_headers.to_vec() } else { Vec::new() };
        Ok(Presigned { url: Secret::new(url.to_string()), headers })
    }
}

/// Drops the empty objects that stand for folders. The library trims their trailing slash, so they are
/// known by being the prefix itself, or by being empty and followed by what lies below them.
fn without_folder_markers(
    folder: String,
    entries: BoxStream<'static, Result<FileEntry>>,
) -> BoxStream<'static, Result<FileEntry>> {
    let state = (entries, None::<FileEntry>, folder);
    futures::stream::try_unfold(state, |(mut entries, mut held, folder)| async move {
        loop {
            let next = entries.try_next().await?;
            let is_marker = |entry: &FileEntry, next: Option<&FileEntry>| {
                entry.version.size == 0
                    && (entry.path == folder
                        || next.is_some_and(|n| {
                            n.path.strip_prefix(entry.path.as_str()).is_some_and(|rest| rest.starts_with('/'))
                        }))
            };
            let out = held.take().filter(|entry| !is_marker(entry, next.as_ref()));
            let ended = next.is_none();
            held = next;
            match out {
                Some(entry) => return Ok(Some((entry, (entries, held, folder)))),
                None if ended => return Ok(None),
                None => {}
            }
        }
    })
    .boxed()
}

#[derive(Debug)]
struct ObjectFile {
    backend: ObjectBackend,
    path: Path,
    name: String,
    version: FileVersion,
}

impl ObjectFile {
    fn options(&self, range: Option<Range<u64>>) -> GetOptions {
        GetOptions {
            if_match: self.version.etag.as_deref().map(|etag| self.backend.condition(etag)),
            version: self.version.version.clone(),
            range: range.map(GetRange::Bounded),
            ..Default::default()
        }
    }

    async fn get(&self, range: Option<Range<u64>>) -> Result<object_store::GetResult> {
        let got = self.backend.store.get_opts(&self.path, self.options(range)).await;
        let got = match got {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::not_found(format!(
                    "file '{}' is gone from {}",
                    self.name, self.backend.label.place
                )));
            }
            other => self.backend.label.ok(other, &self.name)?,
        };
        // Not every store that speaks the protocol heeds If-Match: its own word for what it sends must agree
        // too. Without a validator the size is all there is to compare.
        let sent = self.backend.version(&got.meta);
        let other = |told: &Option<String>, listed: &Option<String>| {
            told.is_some() && listed.is_some() && told != listed
        };
        if sent.size != self.version.size
            || other(&sent.etag, &self.version.etag)
            || other(&sent.version, &self.version.version)
        {
            return Err(changed(&self.name));
        }
        Ok(got)
    }
}

#[async_trait]
impl BackendFile for ObjectFile {
    fn can_split(&self) -> bool {
        self.version.has_validator()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let got = self.get(Some(range)).await?;
        self.backend.label.ok(got.bytes().await, &self.name)
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let got = self.get(None).await?;
        let (label, name) = (self.backend.label.clone(), self.name.clone());
        Ok(got.into_stream().map_err(move |e| label.explain(e, &name)).boxed())
    }
}

struct ObjectWriter {
    writer: BufWriter,
    name: String,
    label: StoreLabel,
}

impl ObjectWriter {
    fn explain(&self, e: std::io::Error) -> Error {
        match e.downcast::<object_store::Error>() {
            Ok(e) => self.label.explain(e, &self.name),
            Err(e) => Error::storage(format!("writing '{}' to {} failed: {e}", self.name, self.label.place))
                .retryable(true),
        }
    }
}

#[async_trait]
impl BackendWriter for ObjectWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let put = self.writer.put(bytes).await;
        self.label.ok(put, &self.name)
    }

    async fn finish(&mut self) -> Result<()> {
        let shutdown = self.writer.shutdown().await;
        shutdown.map_err(|e| self.explain(e))
    }

    async fn abort(&mut self) -> Result<()> {
        let abort = self.writer.abort().await;
        self.label.ok(abort, &self.name)
    }
}
