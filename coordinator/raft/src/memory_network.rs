//! A network within the process, for tests: nodes reach each other through it until links are cut.
//!
//! Messages are delivered in order by a thread per receiver; snapshots travel in pieces as on a real
//! network.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use bytes::Bytes;
use parking_lot::Mutex;
use stevedore_common::Result;
use stevedore_common::ids::NodeId;

use crate::handle::RaftHandle;
use crate::snapshot_files::SnapshotPieces;
use crate::transport::Transport;

enum Parcel {
    Messages(Vec<Bytes>),
    Snapshot { from: NodeId, message: Bytes, file: PathBuf },
}

#[derive(Default)]
struct Links {
    inboxes: HashMap<NodeId, Sender<Parcel>>,
    handles: HashMap<NodeId, RaftHandle>,
    cut: HashSet<(NodeId, NodeId)>,
    snapshots_delivered: usize,
}

/// See the module. A clone is the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    links: Arc<Mutex<Links>>,
}

impl MemoryNetwork {
    /// A network without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of a node.
    pub fn transport(&self, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport { from, network: self.clone() })
    }

    /// Connects a started node (again).
    ///
    /// # Errors
    /// Storage, if no thread can be started for it.
    pub fn connect(&self, handle: &RaftHandle) -> Result<()> {
        let (sender, receiver) = channel();
        let node = handle.clone();
        let network = self.clone();
        std::thread::Builder::new().name(format!("network-{}", handle.id())).spawn(move || {
            for parcel in receiver {
                match parcel {
                    // A node that has ended takes no more messages.
                    Parcel::Messages(messages) => drop(node.step(&messages)),
                    Parcel::Snapshot { from, message, file } => {
                        let delivered = deliver(&node, &message, &file).is_ok();
                        let mut links = network.links.lock();
                        links.snapshots_delivered += usize::from(delivered);
                        if let Some(sender) = links.handles.get(&from) {
                            sender.report_snapshot(node.id(), delivered);
                        }
                    }
                }
            }
        })?;
        let mut links = self.links.lock();
        links.inboxes.insert(handle.id(), sender);
        links.handles.insert(handle.id(), handle.clone());
        Ok(())
    }

    /// Takes a node off the network.
    pub fn disconnect(&self, node: NodeId) {
        let mut links = self.links.lock();
        links.inboxes.remove(&node);
        links.handles.remove(&node);
    }

    /// Cuts every link between the two sides.
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        let mut links = self.links.lock();
        for a in one {
            for b in other {
                links.cut.insert((*a, *b));
                links.cut.insert((*b, *a));
            }
        }
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.links.lock().cut.clear();
    }

    /// How many snapshots have arrived.
    pub fn snapshots_delivered(&self) -> usize {
        self.links.lock().snapshots_delivered
    }

    fn deliver(&self, from: NodeId, to: NodeId, parcel: Parcel) -> bool {
        let links = self.links.lock();
        if links.cut.contains(&(from, to)) {
            return false;
        }
        links.inboxes.get(&to).is_some_and(|inbox| inbox.send(parcel).is_ok())
    }

    fn handle(&self, node: NodeId) -> Option<RaftHandle> {
        self.links.lock().handles.get(&node).cloned()
    }
}

fn deliver(node: &RaftHandle, message: &Bytes, file: &Path) -> Result<()> {
    let mut receiver = node.begin_snapshot(message)?;
    for piece in SnapshotPieces::open(file)? {
        let piece = piece?;
        receiver.write(piece.offset, &piece.data, piece.crc32)?;
    }
    receiver.finish()
}

struct MemoryTransport {
    from: NodeId,
    network: MemoryNetwork,
}

impl Transport for MemoryTransport {
    fn send(&self, to: NodeId, messages: Vec<Bytes>) {
        if !self.network.deliver(self.from, to, Parcel::Messages(messages))
            && let Some(sender) = self.network.handle(self.from)
        {
            sender.report_unreachable(to);
        }
    }

    fn send_snapshot(&self, to: NodeId, message: Bytes, file: PathBuf) {
        let parcel = Parcel::Snapshot { from: self.from, message, file };
        if !self.network.deliver(self.from, to, parcel)
            && let Some(sender) = self.network.handle(self.from)
        {
            sender.report_snapshot(to, false);
        }
    }
}
