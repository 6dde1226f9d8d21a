//! The nodes of files and folders in IPFS: dag-pb blocks that hold UnixFS.

use bytes::Bytes;
use prost::Message;

use super::cid::Cid;

/// What a block says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    File {
        size: u64,
    },
    /// A folder, or a part of a large one. In a part the names begin with so many digits of where they belong;
    /// a name of nothing else is another part.
    Folder {
        links: Vec<Link>,
        shard_prefix: usize,
    },
    /// A symbolic link: not followed.
    Other,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) cid: Cid,
    /// Of everything below: of a raw block its very size.
    pub(super) size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PbNode {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) data: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(super) links: Vec<PbLink>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PbLink {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) hash: Option<Bytes>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) size: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UnixFs {
    #[prost(uint64, tag = "1")]
    pub(super) kind: u64,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) data: Option<Bytes>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) file_size: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) fanout: Option<u64>,
}

impl Node {
    /// Reads a block; the error says what is wrong with it.
    pub(super) fn parse(block: &[u8]) -> Result<Self, String> {
        let node = PbNode::decode(block).map_err(|e| format!("is no node of a file or folder: {e}"))?;
        let fs = UnixFs::decode(node.data.unwrap_or_default()).map_err(|e| format!("is not UnixFS: {e}"))?;
        let shard_prefix = match fs.kind {
            // Bytes, or a file of several blocks.
            0 | 2 => {
                let size = fs.file_size.unwrap_or_else(|| fs.data.map_or(0, |data| data.len() as u64));
                return Ok(Self::File { size });
            }
            1 => 0,
            5 => {
                let fanout =
                    fs.fanout.filter(|fanout| fanout.is_power_of_two() && (8..=1 << 16).contains(fanout));
                format!("{:X}", fanout.ok_or("is a part of a folder with a wrong fanout")? - 1).len()
            }
            4 => return Ok(Self::Other),
            kind => return Err(format!("is of the unknown kind {kind}")),
        };
        let links = node.links.into_iter().map(|link| {
            let cid = link.hash.as_deref().and_then(Cid::from_bytes).ok_or("has a link that is no CID")?;
            Ok(Link { name: link.name.unwrap_or_default(), cid, size: link.size.unwrap_or(0) })
        });
        Ok(Self::Folder { links: links.collect::<Result<_, String>>()?, shard_prefix })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn block(fs: &UnixFs, links: &[(&str, u64)]) -> Vec<u8> {
        let cid = [&[1, 0x55, 0x12, 0x20][..], &[7; 32]].concat();
        let links = links.iter().map(|(name, size)| PbLink {
            hash: Some(Bytes::from(cid.clone())),
            name: Some((*name).to_owned()),
            size: Some(*size),
        });
        PbNode { data: Some(fs.encode_to_vec().into()), links: links.collect() }.encode_to_vec()
    }

    #[test]
    fn files_folders_and_parts_of_large_folders_are_told_apart() {
        let file = UnixFs { kind: 2, file_size: Some(300_000), ..UnixFs::default() };
        assert_eq!(Node::parse(&block(&file, &[("", 1), ("", 2)])).unwrap(), Node::File { size: 300_000 });
        let folder = UnixFs { kind: 1, ..UnixFs::default() };
        let Node::Folder { links, shard_prefix: 0 } = Node::parse(&block(&folder, &[("a.csv", 5)])).unwrap()
        else {
            panic!("no folder")
        };
        assert_eq!((links[0].name.as_str(), links[0].size), ("a.csv", 5));
        let part = UnixFs { kind: 5, fanout: Some(256), ..UnixFs::default() };
        let parsed = Node::parse(&block(&part, &[("0Aa.csv", 5), ("0B", 9)])).unwrap();
        assert!(matches!(parsed, Node::Folder { shard_prefix: 2, .. }));
    }

    #[test]
    fn what_is_no_node_is_refused() {
        let odd = UnixFs { kind: 5, fanout: Some(3), ..UnixFs::default() };
        for (wrong, reason) in [
            (block(&odd, &[]), "fanout"),
            (block(&UnixFs { kind: 9, ..UnixFs::default() }, &[]), "kind 9"),
            (b"<html>".to_vec(), "no node"),
        ] {
            let error = Node::parse(&wrong).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
