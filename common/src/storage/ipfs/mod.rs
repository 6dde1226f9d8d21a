//! Folders of IPFS, through a gateway, read only.
//!
//! A gateway is asked for two things that every one of them serves: the raw block of a CID, from which folders are
//! listed ([`unixfs`]), and the content of a file by its own CID, whole or in ranges. A file's etag is its CID, so
//! what is read is what was listed, whatever the gateway does. Blocks are checked against their CID; the content of
//! files, which the gateway puts together, is not: the gateway is trusted with it.

mod cid;
mod unixfs;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use reqwest::header::ACCEPT;
use url::Url;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};

use super::StorageSpec;
use super::backend::{Backend, BackendFile};
use super::failure::StoreLabel;
use super::object::{endpoint_of, endpoint_url};
use super::web::{ImmutableFile, WebClient, WebRequest, content_length, header};

use cid::Cid;
use unixfs::Node;

const GATEWAY: &str = "https://ipfs.io";
/// Blocks are at most 2 MiB where they are exchanged.
const MAX_BLOCK: usize = 4 << 20;
const BLOCKS_AT_ONCE: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct IpfsBackend {
    web: WebClient,
    gateway: Url,
    root: Cid,
}

/// A file or folder, by name.
#[derive(Debug, Clone)]
struct Found {
    path: String,
    cid: Cid,
    node: Node,
}

impl IpfsBackend {
    pub(crate) fn new(spec: &StorageSpec) -> Result<Self> {
        let gateway = match endpoint_of(spec)? {
            Some(gateway) => gateway,
            None => endpoint_url("ENDPOINT_URL", GATEWAY)?,
        };
        let root = Cid::parse(spec.root.authority()).ok_or_else(|| {
            Error::invalid(format!("'{}' is not the CID of an IPFS folder", spec.root.authority()))
                .hint("names (IPNS) are not supported")
        })?;
        let place = format!("'{}' at the gateway '{}'", spec.root, gateway.as_str().trim_end_matches('/'));
        let web = WebClient::new(&gateway, StoreLabel { place, keys: "" }, spec.policy.egress())?;
        Ok(Self { web, gateway, root })
    }

    fn request(&self, cid: &Cid) -> Result<WebRequest> {
        let mut url = self.gateway.clone();
        url.path_segments_mut()
            .map_err(|()| Error::invalid("ENDPOINT_URL cannot have a path"))?
            .pop_if_empty()
            .extend(["ipfs", &cid.to_string()]);
        Ok(WebRequest::new(Method::GET, url))
    }

    /// What a CID is. `size` is what a link says of it.
    async fn node(&self, cid: &Cid, size: Option<u64>, path: &str) -> Result<Node> {
        match (cid.is_raw(), size) {
            (true, Some(size)) => return Ok(Node::File { size }),
            (true, None) => {
                let request = WebRequest { method: Method::HEAD, ..self.request(cid)? };
                let response = self.web.send(&request, path).await?;
                if !response.status().is_success() {
                    return Err(self.web.refused(response.status(), path));
                }
                let size = content_length(response.headers()).ok_or_else(|| {
                    Error::storage(format!("{} does not tell the size of '{path}'", self.web.label().place))
                })?;
                return Ok(Node::File { size });
            }
            _ => {}
        }
        let mut request = self.request(cid)?;
        request.url.query_pairs_mut().append_pair("format", "raw");
        request.headers.insert(ACCEPT, header("application/vnd.ipld.raw")?);
        let response = self.web.send(&request, path).await?;
        if !response.status().is_success() {
            return Err(self.web.refused(response.status(), path));
        }
        let block = self.web.body(response, MAX_BLOCK, path).await?;
        let wrong = |what: &str| {
            Error::bad_data(format!("the block {cid} of '{path}' from {} {what}", self.web.label().place))
        };
        if !cid.is_hash_of(&block) {
            return Err(wrong("is not what its CID says, or the gateway does not serve blocks"));
        }
        Node::parse(&block).map_err(|what| wrong(&what))
    }

    /// What a folder holds, in order of the names; the parts of a sharded one are put together.
    async fn children(&self, folder: &Found) -> Result<Vec<Found>> {
        let mut children = Vec::new();
        let mut parts = vec![folder.node.clone()];
        while let Some(part) = parts.pop() {
            let Node::Folder { links, shard_prefix } = part else { continue };
            let nodes = futures::stream::iter(links.into_iter().map(|link| async move {
                let path = format!("{}{}", folder.path, link.name.get(shard_prefix..).unwrap_or_default());
                let node = self.node(&link.cid, Some(link.size), &path).await?;
                Ok::<_, Error>((link, path, node))
            }))
            .buffered(BLOCKS_AT_ONCE);
            let nodes: Vec<_> = nodes.try_collect().await?;
            for (link, path, node) in nodes {
                if shard_prefix > 0 && link.name.len() == shard_prefix {
                    parts.push(node);
                } else if !link.name.get(shard_prefix..).unwrap_or_default().contains('/') {
                    children.push(Found { path, cid: link.cid, node });
                }
            }
        }
        for child in &mut children {
            if matches!(child.node, Node::Folder { .. }) {
                child.path.push('/');
            }
        }
        children.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(children)
    }

    async fn top(&self) -> Result<Found> {
        let node = self.node(&self.root, None, "").await?;
        if !matches!(node, Node::Folder { .. }) {
            return Err(Error::invalid(format!("{} is a file, not a folder", self.web.label().place))
                .hint("use the CID of the folder that holds it"));
        }
        Ok(Found { path: String::new(), cid: self.root, node })
    }

    /// The folder of a path (empty, or with a slash at its end).
    async fn folder(&self, path: &str) -> Result<Option<Found>> {
        let mut at = self.top().await?;
        for (end, _) in path.match_indices('/') {
            let wanted = &path[..=end];
            match self.children(&at).await?.into_iter().find(|child| child.path == wanted) {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

fn file(found: &Found) -> Option<FileEntry> {
    let Node::File { size } = found.node else { return None };
    Some(FileEntry {
        path: found.path.clone(),
        version: FileVersion { size, etag: Some(found.cid.to_string()), version: None, last_modified_ms: 0 },
    })
}

fn folder_of(path: &str) -> &str {
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

#[async_trait]
impl Backend for IpfsBackend {
    fn read_only(&self) -> Error {
        Error::not_supported("writing to IPFS")
    }

    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let this = self.clone();
        let listed = futures::stream::once(async move {
            let start = this.folder(folder_of(&prefix)).await?;
            let stack: Vec<Found> = start.into_iter().collect();
            let walk = futures::stream::try_unfold(stack, move |mut stack| {
                let (this, prefix) = (this.clone(), prefix.clone());
                async move {
                    while let Some(found) = stack.pop() {
                        if let Some(entry) = file(&found) {
                            return Ok(Some((entry, stack)));
                        }
                        let children = this.children(&found).await?.into_iter().rev();
                        // Only what the prefix selects, and the way there.
                        stack.extend(children.filter(|child| {
                            child.path.starts_with(&prefix) || prefix.starts_with(&child.path)
                        }));
                    }
                    Ok::<_, Error>(None)
                }
            });
            Ok::<_, Error>(walk)
        });
        listed.try_flatten().boxed()
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        let folder = self.folder(folder_of(path)).await?;
        let children = match &folder {
            Some(folder) => self.children(folder).await?,
            None => Vec::new(),
        };
        children.iter().find(|child| child.path == path).and_then(file).ok_or_else(|| {
            Error::not_found(format!("file '{path}' does not exist in {}", self.web.label().place))
        })
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        let cid = version
            .etag
            .as_deref()
            .and_then(Cid::parse)
            .ok_or_else(|| Error::internal(format!("the version of '{path}' is not a CID")))?;
        Ok(Arc::new(ImmutableFile {
            request: self.request(&cid)?,
            web: self.web.clone(),
            path: path.to_owned(),
            size: version.size,
        }))
    }
}
