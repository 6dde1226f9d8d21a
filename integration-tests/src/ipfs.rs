//! A gateway to IPFS in this process: the DAG of a folder, by block and by file.
//!
//! Files are raw blocks, but those whose name begins with `big` are nodes over several blocks. Folders are plain,
//! but those named `sharded` are made of parts.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::web::{answer, files_below, serve_content, start};

#[derive(Clone, PartialEq, Message)]
struct PbNode {
    #[prost(bytes = "vec", optional, tag = "1")]
    data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    links: Vec<PbLink>,
}

#[derive(Clone, PartialEq, Message)]
struct PbLink {
    #[prost(bytes = "vec", optional, tag = "1")]
    hash: Option<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    size: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct UnixFs {
    #[prost(uint64, tag = "1")]
    kind: u64,
    #[prost(uint64, optional, tag = "3")]
    file_size: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    fanout: Option<u64>,
}

/// Blocks by CID, with the content of those that are files.
#[derive(Debug, Default)]
struct Blocks(HashMap<String, (Vec<u8>, Option<Vec<u8>>)>);

impl Blocks {
    fn add(&mut self, codec: u8, block: Vec<u8>, content: Option<Vec<u8>>) -> Vec<u8> {
        let cid = [&[1, codec, 0x12, 0x20][..], &Sha256::digest(&block)].concat();
        self.0.insert(text(&cid), (block, content));
        cid
    }

    fn add_node(&mut self, fs: &UnixFs, links: Vec<PbLink>, content: Option<Vec<u8>>) -> Vec<u8> {
        let node = PbNode { data: Some(fs.encode_to_vec()), links };
        self.add(0x70, node.encode_to_vec(), content)
    }

    fn add_file(&mut self, name: &str, content: Vec<u8>) -> PbLink {
        let size = content.len() as u64;
        if !name.starts_with("big") {
            let hash = self.add(0x55, content.clone(), Some(content));
            return PbLink { hash: Some(hash), name: Some(name.to_owned()), size: Some(size) };
        }
        let leaves = content.chunks(content.len().div_ceil(2).max(1)).map(|leaf| {
            let hash = self.add(0x55, leaf.to_vec(), None);
            PbLink { hash: Some(hash), name: Some(String::new()), size: Some(leaf.len() as u64) }
        });
        let leaves = leaves.collect();
        let fs = UnixFs { kind: 2, file_size: Some(size), fanout: None };
        let hash = self.add_node(&fs, leaves, Some(content));
        // What a link says of a node is more than the file.
        PbLink { hash: Some(hash), name: Some(name.to_owned()), size: Some(size + 100) }
    }

    fn add_folder(&mut self, name: &str, files: Vec<(String, Vec<u8>)>) -> PbLink {
        let mut folders = BTreeMap::<String, Vec<_>>::new();
        let mut links = Vec::new();
        for (path, content) in files {
            match path.split_once('/') {
                Some((folder, rest)) => {
                    folders.entry(folder.to_owned()).or_default().push((rest.to_owned(), content));
                }
                None => links.push(self.add_file(&path, content)),
            }
        }
        for (folder, files) in folders {
            links.push(self.add_folder(&folder, files));
        }
        let hash = if name == "sharded" {
            self.add_parts(links)
        } else {
            self.add_node(&UnixFs { kind: 1, file_size: None, fanout: None }, links, None)
        };
        PbLink { hash: Some(hash), name: Some(name.to_owned()), size: Some(1) }
    }

    /// A folder whose first entry is in it and whose others are in another part.
    fn add_parts(&mut self, links: Vec<PbLink>) -> Vec<u8> {
        let part = UnixFs { kind: 5, file_size: None, fanout: Some(256) };
        let mut links: Vec<PbLink> = links
            .into_iter()
            .enumerate()
            .map(|(at, link)| PbLink { name: link.name.map(|name| format!("{at:02X}{name}")), ..link })
            .collect();
        let below = self.add_node(&part, links.split_off(1), None);
        links.push(PbLink { hash: Some(below), name: Some("FF".to_owned()), size: Some(1) });
        self.add_node(&part, links, None)
    }
}

/// A CID in base 32.
fn text(cid: &[u8]) -> String {
    let bits: String = cid.iter().map(|byte| format!("{byte:08b}")).collect();
    let digits = bits.as_bytes().chunks(5).map(|five| {
        let five = format!("{:0<5}", std::str::from_utf8(five).unwrap());
        char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from_str_radix(&five, 2).unwrap()])
    });
    std::iter::once('b').chain(digits).collect()
}

/// A running gateway.
pub struct IpfsGateway {
    address: SocketAddr,
    root: String,
    task: JoinHandle<()>,
}

impl IpfsGateway {
    /// Starts one over what a folder holds now, on a port of its own.
    pub async fn start(folder: &Path) -> Self {
        let mut blocks = Blocks::default();
        let root = text(&blocks.add_folder("", files_below(folder)).hash.unwrap());
        let blocks = Arc::new(blocks);
        let app = Router::new().fallback(move |request: Request| {
            let blocks = Arc::clone(&blocks);
            async move {
                let cid = request.uri().path().strip_prefix("/ipfs/").unwrap_or_default();
                match blocks.0.get(cid) {
                    Some((block, _)) if request.uri().query() == Some("format=raw") => {
                        answer(StatusCode::OK, &[], block)
                    }
                    Some((_, Some(content))) => serve_content(&request, content, cid),
                    _ => answer(StatusCode::NOT_FOUND, &[], b""),
                }
            }
        });
        let (address, task) = start(app).await;
        Self { address, root, task }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The CID of the folder.
    pub fn root(&self) -> &str {
        &self.root
    }
}

impl Drop for IpfsGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}
