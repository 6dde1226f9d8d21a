//! Finding the leading coordinator and opening a session with it.

use std::time::Duration;

use rand::Rng;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::coordinator_message::Message as FromCoordinator;
use stevedore_proto::v1::worker_message::Message as ToCoordinator;
use stevedore_proto::v1::worker_service_client::WorkerServiceClient;
use stevedore_proto::v1::{CoordinatorMessage, Register, WorkerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::{OUTBOX, message_of};
use stevedore_status::error_of_status;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A slice can have many thousands of files.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// An open session.
pub(super) struct Connection {
    pub(super) incoming: Streaming<CoordinatorMessage>,
    pub(super) outgoing: mpsc::Sender<WorkerMessage>,
    pub(super) heartbeat_interval: Duration,
    pub(super) lease: Duration,
    pub(super) flight_token: String,
}

/// What a coordinator said to the registration.
pub(super) enum Connected {
    Registered(Box<Connection>),
    /// With the address of the leader, if it knows it.
    NotLeader(Option<String>),
}

/// The addresses to try, and how long to wait between tries.
pub(super) struct Coordinators {
    addresses: Vec<String>,
    next: usize,
    hint: Option<String>,
    failures: u32,
}

impl Coordinators {
    pub(super) fn new(addresses: &[String]) -> Result<Self> {
        if addresses.is_empty() {
            return Err(Error::invalid("a worker needs the address of at least one coordinator"));
        }
        for address in addresses {
            endpoint(address)?;
        }
        Ok(Self { addresses: addresses.to_vec(), next: 0, hint: None, failures: 0 })
    }

    /// A session is up: start over with short pauses, and from the same address.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Tries the leader that a follower named before any other.
    pub(super) fn follow(&mut self, leader: Option<String>) {
        self.hint = leader.filter(|address| endpoint(address).is_ok());
    }

    /// How long to wait before the next try: none to follow a hint, else longer with every failure, with
    /// jitter so that the workers of a cluster do not come back all at once.
    pub(super) fn pause(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        if self.hint.is_some() && self.failures == 1 {
            return Duration::ZERO;
        }
        rand::rng().random_range(longest / 2..=longest)
    }

    pub(super) async fn connect(&mut self, register: &Register) -> Result<Connected> {
        let address = match self.hint.take() {
            Some(hint) => hint,
            None => {
                let address = self.addresses[self.next % self.addresses.len()].clone();
                // The next try goes elsewhere; a session that comes up and breaks comes back here later.
                self.next = self.next.wrapping_add(1);
                address
            }
        };
        open(&address, register).await.map_err(|e| e.context(format!("coordinator {address}")))
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    Endpoint::from_shared(url)
        .map_err(|e| Error::invalid(format!("'{address}' is no address of a coordinator: {e}")))
}

async fn open(address: &str, register: &Register) -> Result<Connected> {
    let channel = endpoint(address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|e| Error::unavailable(e.to_string()))?;
    let mut client = WorkerServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (outgoing, messages) = mpsc::channel(OUTBOX);
    let first = message_of(ToCoordinator::Register(register.clone()));
    outgoing.send(first).await.map_err(|_| Error::internal("a new session was closed"))?;
    let answer = async {
        let mut incoming = client
            .session(ReceiverStream::new(messages))
            .await
            .map_err(|e| error_of_status(&e))?
            .into_inner();
        let first = incoming.message().await.map_err(|e| error_of_status(&e))?;
        Ok::<_, Error>((incoming, first.and_then(|first| first.message)))
    };
    let (incoming, first) = tokio::time::timeout(CONNECT_TIMEOUT, answer)
        .await
        .map_err(|_| Error::unavailable("no answer to the registration"))??;
    match first {
        Some(FromCoordinator::Registered(registered)) => Ok(Connected::Registered(Box::new(Connection {
            incoming,
            outgoing,
            heartbeat_interval: Duration::from_millis(registered.heartbeat_interval_ms.max(10)),
            lease: Duration::from_millis(registered.lease_ms.max(100)),
            flight_token: registered.flight_token,
        }))),
        Some(FromCoordinator::NotLeader(hint)) => {
            Ok(Connected::NotLeader(Some(hint.leader_address).filter(|address| !address.is_empty())))
        }
        _ => Err(Error::unavailable("the coordinator did not answer the registration")),
    }
}
