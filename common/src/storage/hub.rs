//! Repositories of the Hugging Face Hub, and of servers that speak its API: datasets and models, read only.
//!
//! A listing is of one commit, page by page. A file's etag is the hash of its content, as the Hub has it (SHA-256
//! for large files, the git blob otherwise), so a file is the same one in every commit that did not touch it. When
//! it is opened, its content must still be that of the listing; it is then read from the very commit that was
//! looked at, whatever becomes of the branch. The token goes to the Hub and not to where it redirects.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Method, Response};
use serde::Deserialize;
use url::Url;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};

use super::StorageSpec;
use super::backend::{Backend, BackendFile};
use super::failure::{StoreLabel, changed};
use super::object::endpoint_of;
use super::web::{Follow, ImmutableFile, WebClient, WebRequest, header, text};

/// A page of a listing, or what is told of a commit.
const MAX_ANSWER: usize = 32 << 20;
const PAGE: &str = "1000";

#[derive(Debug, Clone)]
pub(crate) struct HubBackend {
    web: WebClient,
    endpoint: Url,
    /// `datasets` or `models`.
    kind: &'static str,
    /// `org/name`.
    repository: String,
    revision: String,
    token: Option<reqwest::header::HeaderValue>,
}

/// A file or folder of a tree.
#[derive(Debug, Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Commit {
    sha: String,
}

impl HubBackend {
    pub(crate) fn new(spec: &StorageSpec) -> Result<Self> {
        let endpoint = match endpoint_of(spec)? {
            Some(endpoint) => endpoint,
            None => super::object::endpoint_url("ENDPOINT_URL", crate::location::HUB_ENDPOINT)?,
        };
        let repository = spec.root.authority().to_owned();
        let kind = match spec.value("repo_type").as_deref() {
            None | Some("dataset") => "datasets",
            Some("model") => "models",
            Some(other) => {
                return Err(Error::invalid(format!(
                    "option REPO_TYPE is '{other}'; allowed: dataset, model"
                )));
            }
        };
        let revision = spec.value("revision").unwrap_or_else(|| "main".to_owned());
        let token = spec
            .value("token")
            .map(|token| header(&format!("Bearer {token}")))
            .transpose()
            .map_err(|_| Error::invalid("option TOKEN holds characters that no token has"))?;
        let place = format!(
            "{} '{repository}' (revision '{revision}') at '{}'",
            kind.trim_end_matches('s'),
            endpoint.as_str().trim_end_matches('/')
        );
        let label = StoreLabel { place, keys: "TOKEN, REPO_TYPE" };
        let web = WebClient::new(&endpoint, label, spec.policy.egress())?;
        Ok(Self { web, endpoint, kind, repository, revision, token })
    }

    /// A URL below the endpoint; the segments are encoded.
    fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Result<Url> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| Error::invalid("ENDPOINT_URL cannot have a path"))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    fn api(&self, what: &str, revision: &str, path: &str) -> Result<Url> {
        let of_repository = ["api", self.kind].into_iter().chain(self.repository.split('/'));
        self.url(of_repository.chain([what, revision]).chain(path.split('/').filter(|s| !s.is_empty())))
    }

    fn file_url(&self, revision: &str, path: &str) -> Result<Url> {
        let kind = Some(self.kind).filter(|kind| *kind != "models");
        let of_repository = kind.into_iter().chain(self.repository.split('/'));
        self.url(of_repository.chain(["resolve", revision]).chain(path.split('/')))
    }

    fn request(&self, method: Method, url: Url) -> WebRequest {
        let mut request = WebRequest::new(method, url);
        if let Some(token) = &self.token {
            request.headers.insert(AUTHORIZATION, token.clone());
        }
        request
    }

    /// An answer that is a success. `path` is empty for the repository itself.
    async fn send(&self, request: &WebRequest, path: &str) -> Result<Response> {
        let name = if path.is_empty() { &self.repository } else { path };
        let response = self.web.send(request, name).await?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let place = &self.web.label().place;
        Err(match text(response.headers(), "x-error-code") {
            Some("EntryNotFound") => Error::not_found(format!("'{path}' does not exist in {place}")),
            Some("RevisionNotFound") => Error::not_found(format!("{place} does not exist: no such revision"))
                .hint("check REVISION of the connection: a branch, a tag or a commit"),
            Some("GatedRepo") => Error::denied(format!("{place} is gated"))
                .hint("ask for access on its page, and give a TOKEN of that account in the connection"),
            // The Hub tells nobody whether a private repository exists.
            Some("RepoNotFound") => Error::not_found(format!("{place} does not exist, or is private"))
                .hint(self.web.label().keys_hint()),
            _ if path.is_empty() && status.as_u16() == 401 => {
                Error::denied(format!("{place} does not exist, or is private"))
                    .hint(self.web.label().keys_hint())
            }
            _ => self.web.refused(status, name),
        })
    }

    async fn json<T: for<'a> Deserialize<'a>>(&self, response: Response, path: &str) -> Result<T> {
        let body = self.web.body(response, MAX_ANSWER, path).await?;
        serde_json::from_slice(&body).map_err(|e| {
            Error::storage(format!(
                "the answer of {} is not what the Hub answers: {e}",
                self.web.label().place
            ))
        })
    }

    /// The commit that the revision is now.
    async fn commit(&self) -> Result<String> {
        let response =
            self.send(&self.request(Method::GET, self.api("revision", &self.revision, "")?), "").await?;
        Ok(self.json::<Commit>(response, &self.repository).await?.sha)
    }

    /// The files below a folder, and where the next page is.
    async fn page(&self, url: Url, folder: &str) -> Result<(Vec<FileEntry>, Option<Url>)> {
        let response = match self.send(&self.request(Method::GET, url.clone()), folder).await {
            Err(e) if e.kind() == crate::ErrorKind::NotFound && !folder.is_empty() => {
                return Ok((Vec::new(), None));
            }
            other => other?,
        };
        let next = next_page(response.headers()).and_then(|next| url.join(next).ok());
        if next.as_ref().is_some_and(|next| next.origin() != url.origin()) {
            return Err(Error::denied(format!(
                "the listing of {} goes on at another server, which is refused",
                self.web.label().place
            )));
        }
        let entries: Vec<TreeEntry> = self.json(response, folder).await?;
        Ok((entries.into_iter().filter_map(entry).collect(), next))
    }
}

/// The file of a tree; `None` for a folder.
fn entry(found: TreeEntry) -> Option<FileEntry> {
    if found.kind != "file" {
        return None;
    }
    let (size, etag) = match found.lfs {
        Some(large) => (large.size, large.oid),
        None => (found.size, found.oid),
    };
    Some(FileEntry {
        path: found.path,
        // Of times a tree says nothing.
        version: FileVersion { size, etag: Some(etag), version: None, last_modified_ms: 0 },
    })
}

/// `Link: <https://…?cursor=…>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<&str> {
    text(headers, LINK.as_str())?.split(',').find_map(|link| {
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then_some(target)
    })
}

fn plain_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

#[async_trait]
impl Backend for HubBackend {
    fn read_only(&self) -> Error {
        Error::not_supported("writing to Hugging Face repositories")
    }

    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let folder = prefix.rfind('/').map_or("", |slash| &prefix[..slash]).to_owned();
        enum At {
            Start,
            Page(Url),
            End,
        }
        let this = self.clone();
        futures::stream::try_unfold(At::Start, move |at| {
            let (this, prefix, folder) = (this.clone(), prefix.clone(), folder.clone());
            async move {
                let url = match at {
                    At::Start => {
                        let mut url = this.api("tree", &this.commit().await?, &folder)?;
                        url.query_pairs_mut().append_pair("recursive", "true").append_pair("limit", PAGE);
                        url
                    }
                    At::Page(url) => url,
                    At::End => return Ok(None),
                };
                let (mut files, next) = this.page(url, &folder).await?;
                files.retain(|file| file.path.starts_with(&prefix));
                let next = next.map_or(At::End, At::Page);
                Ok::<_, Error>(Some((futures::stream::iter(files.into_iter().map(Ok)), next)))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        let mut request = self.request(Method::POST, self.api("paths-info", &self.revision, "")?);
        request.headers.insert(CONTENT_TYPE, header("application/json")?);
        request.body = serde_json::json!({ "paths": [path], "expand": false }).to_string().into();
        let response = self.send(&request, path).await?;
        let found: Vec<TreeEntry> = self.json(response, path).await?;
        found.into_iter().filter_map(entry).find(|file| file.path == path).ok_or_else(|| {
            Error::not_found(format!("file '{path}' does not exist in {}", self.web.label().place))
        })
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        let request = WebRequest {
            follow: Follow::SameHost,
            ..self.request(Method::HEAD, self.file_url(&self.revision, path)?)
        };
        let response = self.send(&request, path).await?;
        let of = |name: &str| text(response.headers(), name);
        let etag = of("x-linked-etag").or_else(|| of("etag")).map(plain_etag);
        let (Some(etag), Some(commit)) = (etag, of("x-repo-commit")) else {
            return Err(Error::storage(format!(
                "{} does not tell the version of '{path}', as the Hub does",
                self.web.label().place
            )));
        };
        if version.etag.as_deref().is_some_and(|listed| listed != etag) {
            return Err(changed(path));
        }
        Ok(Arc::new(ImmutableFile {
            request: self.request(Method::GET, self.file_url(commit, path)?),
            web: self.web.clone(),
            path: path.to_owned(),
            size: version.size,
        }))
    }
}
