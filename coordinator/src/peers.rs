//! The other coordinators over gRPC: Raft messages out, snapshots out, proposals forwarded.
//!
//! Owns: one connection and one bounded queue a peer. Raft messages may be lost (a full queue drops
//! them, Raft sends again); a proposal's answer is known or said to be unknown. Never blocks the Raft
//! thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use stevedore_common::ids::{JobId, NodeId};
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::raft_service_client::RaftServiceClient;
use stevedore_raft::{RaftHandle, Transport};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::config::Peer;
use crate::scheduler::progress::Progress;
use stevedore_status::{error_of, error_of_status};

const QUEUE: usize = 4096;
const SNAPSHOT_CHUNK: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
const PROGRESS_TIMEOUT: Duration = Duration::from_millis(500);
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// The largest gRPC message between coordinators.
pub const MAX_CLUSTER_MESSAGE: usize = 64 << 20;

#[derive(Debug)]
struct Link {
    peer: Peer,
    channel: Channel,
    queue: mpsc::Sender<Bytes>,
}

/// The links to all peers but this node.
#[derive(Debug)]
pub struct Peers {
    cluster_id: String,
    me: NodeId,
    links: BTreeMap<NodeId, Link>,
    node: Arc<OnceLock<RaftHandle>>,
}

impl Peers {
    /// Links to `peers` (this node among them is left out). Connections are made when first needed.
    ///
    /// # Errors
    /// Invalid input that names the address.
    pub fn new(cluster_id: &str, me: NodeId, peers: &[Peer]) -> Result<Arc<Self>> {
        let node: Arc<OnceLock<RaftHandle>> = Arc::default();
        let mut links = BTreeMap::new();
        for peer in peers.iter().filter(|peer| peer.id != me) {
            let channel = Endpoint::from_shared(peer.cluster_address.clone())
                .map_err(|e| {
                    Error::invalid(format!(
                        "cluster address '{}' of coordinator {}: {e}",
                        peer.cluster_address, peer.id
                    ))
                    .hint("http://host:port is expected")
                })?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5))
                .connect_lazy();
            let (queue, outgoing) = mpsc::channel(QUEUE);
            let envelope = v1::RaftEnvelope {
                cluster_id: cluster_id.to_owned(),
                from: me.0,
                from_incarnation: String::new(),
                to: peer.id.0,
                messages: Vec::new(),
            };
            tokio::spawn(pump(peer.id, channel.clone(), outgoing, envelope, node.clone()));
            links.insert(peer.id, Link { peer: peer.clone(), channel, queue });
        }
        Ok(Arc::new(Self { cluster_id: cluster_id.to_owned(), me, links, node }))
    }

    /// Tells the links which node to report to.
    pub fn attach(&self, handle: RaftHandle) {
        // Attached once, by whoever started the node.
        let _ = self.node.set(handle);
    }

    /// The configured peer.
    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.links.get(&id).map(|link| &link.peer)
    }

    fn client(&self, id: NodeId) -> Result<RaftServiceClient<Channel>> {
        let link = self.links.get(&id).ok_or_else(|| {
            Error::unavailable(format!("coordinator {id} is not in this node's configuration"))
        })?;
        Ok(RaftServiceClient::new(link.channel.clone())
            .max_decoding_message_size(MAX_CLUSTER_MESSAGE)
            .max_encoding_message_size(MAX_CLUSTER_MESSAGE))
    }

    /// Has another coordinator propose a command.
    ///
    /// # Errors
    /// Unavailable, when it certainly did not; outcome unknown, when it may have.
    pub async fn propose(&self, to: NodeId, command: Bytes) -> Result<Bytes> {
        let mut client = self.client(to)?;
        let request = v1::ProposeRequest { cluster_id: self.cluster_id.clone(), command: command.into() };
        let answer = match tokio::time::timeout(PROPOSE_TIMEOUT, client.propose(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                // A broken connection may have broken after the command was received.
                return Err(Error::outcome_unknown(format!(
                    "forwarding to coordinator {to}: {}",
                    error_of_status(&status)
                )));
            }
            Err(_) => {
                return Err(Error::outcome_unknown(format!(
                    "coordinator {to} did not answer a proposal in time"
                )));
            }
        };
        match answer.error {
            Some(info) => Err(error_of(&info)),
            None => Ok(answer.result.into()),
        }
    }

    /// What the workers of another coordinator say of a job.
    ///
    /// # Errors
    /// Unavailable, when it does not answer soon.
    pub async fn job_progress(&self, of: NodeId, job: JobId) -> Result<Progress> {
        let mut client = self.client(of)?;
        let request = v1::JobProgressRequest { cluster_id: self.cluster_id.clone(), job_id: job.to_string() };
        let answer = tokio::time::timeout(PROGRESS_TIMEOUT, client.job_progress(request))
            .await
            .map_err(|_| Error::unavailable(format!("coordinator {of} did not answer in time")))?
            .map_err(|status| error_of_status(&status))?
            .into_inner();
        Ok(Progress { files: answer.files, rows: answer.rows, bytes: answer.bytes, errors: answer.errors })
    }

    async fn deliver_snapshot(&self, to: NodeId, message: Bytes, file: std::fs::File) -> Result<()> {
        let mut client = self.client(to)?;
        let mut reader = tokio::fs::File::from_std(file);
        let (chunks, stream) = mpsc::channel(4);
        let head = v1::SnapshotChunk {
            cluster_id: self.cluster_id.clone(),
            from: self.me.0,
            from_incarnation: self.node.get().map(|node| node.incarnation().to_owned()).unwrap_or_default(),
            to: to.0,
            ..Default::default()
        };
        let send = async move {
            let mut offset = 0;
            let mut message = Some(message);
            loop {
                let mut data = vec![0; SNAPSHOT_CHUNK];
                let mut filled = 0;
                while filled < data.len() {
                    match reader.read(&mut data[filled..]).await? {
                        0 => break,
                        n => filled += n,
                    }
                }
                data.truncate(filled);
                let last = filled < SNAPSHOT_CHUNK;
                let chunk = v1::SnapshotChunk {
                    message: message.take().map(Into::into).unwrap_or_default(),
                    offset,
                    crc32: crc32fast::hash(&data),
                    data,
                    last,
                    ..head.clone()
                };
                offset += filled as u64;
                if chunks.send(chunk).await.is_err() || last {
                    return Ok::<(), Error>(());
                }
            }
        };
        let receive = async {
            client.send_snapshot(ReceiverStream::new(stream)).await.map_err(|s| error_of_status(&s))
        };
        let (sent, received) = tokio::join!(send, receive);
        sent?;
        received?;
        Ok(())
    }
}

/// Sends what is queued for one peer over one streaming call, again and again.
async fn pump(
    to: NodeId,
    channel: Channel,
    mut outgoing: mpsc::Receiver<Bytes>,
    mut envelope: v1::RaftEnvelope,
    node: Arc<OnceLock<RaftHandle>>,
) {
    // The first message of a call waits here while the connection is made.
    while let Some(first) = outgoing.recv().await {
        // The node is attached before it can have anything to send.
        let Some(handle) = node.get() else { continue };
        handle.incarnation().clone_into(&mut envelope.from_incarnation);
        let (relay, stream) = mpsc::channel::<v1::RaftEnvelope>(64);
        let first = v1::RaftEnvelope { messages: vec![first.into()], ..envelope.clone() };
        if relay.try_send(first).is_err() {
            continue;
        }
        let mut client =
            RaftServiceClient::new(channel.clone()).max_encoding_message_size(MAX_CLUSTER_MESSAGE);
        let call = client.send(ReceiverStream::new(stream).fuse());
        tokio::pin!(call);
        let failed = loop {
            tokio::select! {
                result = &mut call => break result.err(),
                message = outgoing.recv() => {
                    let Some(message) = message else { return };
                    let mut messages: Vec<Vec<u8>> = vec![message.into()];
                    while let Ok(more) = outgoing.try_recv() {
                        messages.push(more.into());
                        if messages.len() >= 256 {
                            break;
                        }
                    }
                    // A slow peer loses messages; Raft sends them again.
                    let _ = relay.try_send(v1::RaftEnvelope { messages, ..envelope.clone() });
                }
            }
        };
        if let Some(status) = failed {
            tracing::debug!(peer = to.0, error = %status, "raft messages were not delivered");
        }
        handle.report_unreachable(to);
        while outgoing.try_recv().is_ok() {}
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

/// [`Peers`] as the Raft node sees them.
#[derive(Debug, Clone)]
pub struct PeerTransport {
    /// The links.
    pub peers: Arc<Peers>,
    /// Where snapshots are sent from: the Raft thread has no runtime of its own.
    pub runtime: tokio::runtime::Handle,
}

impl Transport for PeerTransport {
    fn send(&self, to: NodeId, messages: Vec<Bytes>) {
        if let Some(link) = self.peers.links.get(&to) {
            for message in messages {
                if link.queue.try_send(message).is_err() {
                    break;
                }
            }
        }
    }

    fn send_snapshot(&self, to: NodeId, message: Bytes, file: PathBuf) {
        let peers = self.peers.clone();
        // Opened at once: the file may be removed after a newer one is made.
        let opened = std::fs::File::open(&file);
        self.runtime.spawn(async move {
            let delivered = match opened {
                Ok(file) => peers.deliver_snapshot(to, message, file).await,
                Err(error) => Err(Error::from(error)),
            };
            if let Err(error) = &delivered {
                tracing::warn!(peer = to.0, %error, "a snapshot was not delivered");
            }
            if let Some(handle) = peers.node.get() {
                handle.report_snapshot(to, delivered.is_ok());
            }
        });
    }
}
