//! Stores that `object_store` serves: S3, and the memory of the process for tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::buffered::BufWriter;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig,
};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};

use super::StorageSpec;
use super::backend::{Backend, BackendFile, BackendWriter};
use super::egress::PolicyConnector;
use super::failure::{StoreLabel, changed};

const PART_BYTES: usize = 8 << 20;

/// A store of `object_store`, and S3's own listing by raw prefix.
#[derive(Clone)]
pub(crate) struct ObjectBackend {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) s3: Option<Arc<AmazonS3>>,
    pub(crate) label: StoreLabel,
}

impl fmt::Debug for ObjectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectBackend").field(&self.label.0).finish()
    }
}

impl ObjectBackend {
    pub(crate) fn s3(spec: &StorageSpec) -> Result<Self> {
        let bucket = spec.root.authority();
        for (key, what) in
            [("role_arn", "ROLE_ARN"), ("external_id", "EXTERNAL_ID"), ("master_key", "MASTER_KEY")]
        {
            if spec.value(key).is_some() {
                return Err(Error::not_supported_yet(format!("{what} of an S3 connection")));
            }
        }
        let region = spec.value("region").unwrap_or_else(|| "us-east-1".to_owned());
        let virtual_host =
            spec.value("enable_virtual_host_style").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            .with_virtual_hosted_style_request(virtual_host)
            .with_http_connector(PolicyConnector(spec.policy.egress()))
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(3),
                    base: 2.0,
                },
                max_retries: 6,
                retry_timeout: Duration::from_secs(30),
            });
        let mut at = format!("region '{region}' of AWS");
        if let Some(endpoint) = spec.value("endpoint_url").filter(|e| !e.trim().is_empty()) {
            let endpoint = endpoint_url(&endpoint)?;
            spec.policy.egress().check_host(endpoint.host_str().unwrap_or_default())?;
            let text = endpoint.as_str().trim_end_matches('/').to_owned();
            at = format!("'{text}'");
            // For virtual hosts the library wants the bucket inside the endpoint's host.
            let text = match (virtual_host, endpoint.host_str()) {
                (true, Some(host)) if !host.starts_with(&format!("{bucket}.")) => {
                    text.replacen(host, &format!("{bucket}.{host}"), 1)
                }
                _ => text,
            };
            builder = builder.with_allow_http(endpoint.scheme() == "http").with_endpoint(text);
        }
        builder = match (spec.value("access_key_id"), spec.value("secret_access_key")) {
            (Some(id), Some(secret)) => builder.with_access_key_id(id).with_secret_access_key(secret),
            // Without keys the bucket is read as a public one: never with the machine's own identity.
            (None, None) => builder.with_skip_signature(true),
            _ => {
                return Err(Error::invalid(
                    "an S3 connection needs both ACCESS_KEY_ID and SECRET_ACCESS_KEY, or neither",
                ));
            }
        };
        if let Some(token) = spec.value("session_token") {
            builder = builder.with_token(token);
        }
        let label = StoreLabel(format!("bucket '{bucket}' at {at}"));
        let s3 = Arc::new(label.ok(builder.build(), "")?);
        Ok(Self { store: s3.clone(), s3: Some(s3), label })
    }

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
        if self.s3.is_some() { format!("\"{etag}\"") } else { etag.to_owned() }
    }
}

/// An endpoint as a URL; `https://` where it has no scheme.
fn endpoint_url(text: &str) -> Result<url::Url> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong = |what: &str| {
        Error::invalid(format!("invalid ENDPOINT_URL: {what}")).hint("write https://host[:port]")
    };
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
        let Some(s3) = self.s3.clone() else {
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
        let pages = futures::stream::try_unfold(Some(None::<String>), move |state| {
            let (s3, this, prefix) = (s3.clone(), this.clone(), prefix.clone());
            async move {
                let Some(page_token) = state else { return Ok(None) };
                let options = PaginatedListOptions { page_token, ..Default::default() };
                let page = s3.list_paginated(Some(prefix.as_str()).filter(|p| !p.is_empty()), options).await;
                let page = this.label.ok(page, "")?;
                let entries: Vec<FileEntry> =
                    page.result.objects.iter().map(|meta| this.entry(meta)).collect();
                let next = page.page_token.map(Some);
                Ok::<_, Error>(Some((futures::stream::iter(entries.into_iter().map(Ok)), next)))
            }
        });
        without_folder_markers(folder, pages.try_flatten().boxed())
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
                Err(Error::already_exists(format!("file '{path}' exists already in {}", self.label.0)))
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
                    self.name, self.backend.label.0
                )));
            }
            other => self.backend.label.ok(other, &self.name)?,
        };
        // Without a validator the size is all there is to compare.
        if got.meta.size != self.version.size {
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
            Err(e) => Error::storage(format!("writing '{}' to {} failed: {e}", self.name, self.label.0))
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
