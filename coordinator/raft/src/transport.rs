//! How messages leave a node. The network itself lives with whoever implements this.

use std::path::PathBuf;

use bytes::Bytes;
use stevedore_common::ids::NodeId;

/// Sends to peers. Nothing here may block: queue (bounded) or drop, since Raft repeats what matters.
///
/// What a transport owes the node: `RaftHandle::report_unreachable` when a peer cannot be reached, and
/// `RaftHandle::report_snapshot` once for every `send_snapshot`, delivered or not (until then the
/// leader sends that peer nothing else).
pub trait Transport: Send + Sync + 'static {
    /// Messages for one peer, in order. A message may name another origin than this node: questions for
    /// the leader are handed on as they are. So admit the connection, not the message.
    fn send(&self, to: NodeId, messages: Vec<Bytes>);

    /// A snapshot for one peer: the file in pieces first, the message with it; the receiver hands both
    /// to `RaftHandle::begin_snapshot`. Open the file at once: it may be removed after a newer one is
    /// made.
    fn send_snapshot(&self, to: NodeId, message: Bytes, file: PathBuf);
}

/// Drops everything: for a single node.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, _to: NodeId, _messages: Vec<Bytes>) {}
    fn send_snapshot(&self, _to: NodeId, _message: Bytes, _file: PathBuf) {}
}
