//! Which workers there are, from any coordinator, and their Flight services for queries.
//!
//! Workers have a session with the leader only; another coordinator asks the leader for them and keeps
//! the answer for a moment. Queries go to the workers of a group in turn; one that cannot be reached is passed over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use stevedore_common::ids::WorkerId;
use stevedore_common::secret::Secret;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::admin_service_client::AdminServiceClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::peers::Peers;
use crate::replica::Replica;
use crate::scheduler::workers::Workers;
use stevedore_status::{ShownToken, error_of_status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FRESH_FOR: Duration = Duration::from_millis(500);
/// How long a query waits for a first worker to appear.
const WAIT_FOR_WORKERS: Duration = Duration::from_secs(10);
const MAX_MESSAGE: usize = 64 << 20;

/// The directory.
pub struct WorkerDirectory {
    replica: Replica,
    peers: Arc<Peers>,
    sessions: Arc<Workers>,
    next: AtomicUsize,
    known: Mutex<Option<(Instant, Vec<v1::WorkerStatus>)>>,
    channels: Mutex<HashMap<String, Channel>>,
    token: ShownToken,
}

type WorkerClient = FlightServiceClient<InterceptedService<Channel, ShownToken>>;

impl WorkerDirectory {
    /// Over this node's sessions, for when it leads, and its peers, for when it does not; `token` opens the workers'
    /// Flight services.
    ///
    /// # Errors
    /// Internal, for a token that no header can hold.
    pub fn new(
        replica: Replica,
        peers: Arc<Peers>,
        sessions: Arc<Workers>,
        token: &Secret<String>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            replica,
            peers,
            sessions,
            next: AtomicUsize::new(0),
            known: Mutex::new(None),
            channels: Mutex::new(HashMap::new()),
            token: ShownToken::new(token)?,
        }))
    }

    /// How many workers a group has, and how many slices they run at a time.
    ///
    /// # Errors
    /// Unavailable, when the leader cannot be asked.
    pub async fn size(&self, group: &WorkerGroup) -> Result<(usize, u32)> {
        let mut listed = self.listed().await?;
        listed.retain(|worker| is_of(worker, group));
        Ok((listed.len(), listed.iter().map(|worker| worker.slots).sum()))
    }

    /// The workers as the leader lists them.
    ///
    /// # Errors
    /// Unavailable, when the leader cannot be asked.
    pub async fn listed(&self) -> Result<Vec<v1::WorkerStatus>> {
        if self.replica.is_leader() {
            return Ok(self.sessions.statuses());
        }
        if let Some((at, known)) = &*self.known.lock()
            && at.elapsed() < FRESH_FOR
        {
            return Ok(known.clone());
        }
        let leader = self.replica.leader().ok_or_else(|| Error::unavailable("the group has no leader"))?;
        let address = self.peers.peer(leader).map(|peer| peer.client_address.clone()).ok_or_else(|| {
            Error::unavailable(format!("the leader {leader} is not in this node's configuration"))
        })?;
        let mut client = AdminServiceClient::new(self.channel(&address)?);
        let status = client
            .cluster_status(v1::ClusterStatusRequest {})
            .await
            .map_err(|status| error_of_status(&status).context("asking the leader for its workers"))?
            .into_inner();
        *self.known.lock() = Some((Instant::now(), status.workers.clone()));
        Ok(status.workers)
    }

    /// Sends rows to a worker. Answers once it has taken them to their end.
    ///
    /// # Errors
    /// Why it did not take them; unavailable where it cannot be reached.
    pub async fn put(
        &self,
        worker: &WorkerId,
        messages: impl Stream<Item = FlightData> + Send + 'static,
    ) -> Result<()> {
        let listed = self.listed().await?;
        let address = listed.iter().find(|listed| listed.worker_id == worker.0);
        let address = address.map(|listed| listed.flight_address.as_str());
        let address = address.ok_or_else(|| Error::unavailable(format!("worker '{worker}' went away")))?;
        let mut client = self.client(address)?.max_encoding_message_size(usize::MAX);
        let put = async {
            let mut answers = client.do_put(messages).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        put.await.map_err(|status: Status| error_of_status(&status).context(format!("worker at {address}")))
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(address.to_owned())
            .map_err(|e| Error::invalid(format!("the address '{address}' is no URL: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        if channels.len() > 1_000 {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn client(&self, address: &str) -> Result<WorkerClient> {
        Ok(FlightServiceClient::with_interceptor(self.channel(address)?, self.token.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    /// Tries the workers of a group in turn until one can be reached.
    async fn with_worker<T, F, Fut>(&self, group: &WorkerGroup, call: F) -> Result<T>
    where
        F: Fn(WorkerClient) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + WAIT_FOR_WORKERS;
        loop {
            let listed = self.listed().await;
            let mut last = match &listed {
                Err(error) => error.clone(),
                Ok(_) => no_worker(group),
            };
            let mut listed = listed.unwrap_or_default();
            listed.retain(|worker| is_of(worker, group));
            let addresses: Vec<String> = listed.into_iter().map(|worker| worker.flight_address).collect();
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            for turn in 0..addresses.len() {
                let Some(address) = addresses.get((first + turn) % addresses.len()) else { continue };
                match call(self.client(address)?).await {
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        last = error.context(format!("worker at {address}"));
                    }
                    result => return result,
                }
            }
            if Instant::now() >= deadline {
                return Err(last);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The columns of a query, planned by a worker of the group but not run.
    ///
    /// # Errors
    /// What is wrong with the query; unavailable without a worker.
    pub async fn describe(&self, group: &WorkerGroup, spec: &v1::QuerySpec) -> Result<SchemaRef> {
        let command = spec.encode_to_vec();
        self.with_worker(group, |mut client| {
            let descriptor = FlightDescriptor::new_cmd(command.clone());
            async move {
                let info =
                    client.get_flight_info(descriptor).await.map_err(|s| error_of_status(&s))?.into_inner();
                let schema = Schema::try_from(info)
                    .map_err(|e| Error::internal(format!("a worker answered no schema: {e}")))?;
                Ok(Arc::new(schema))
            }
        })
        .await
    }

    /// Runs a query on a worker of the group.
    ///
    /// # Errors
    /// What is wrong with the query; unavailable without a worker. Later failures are items of the stream.
    pub async fn run(
        &self,
        group: &WorkerGroup,
        spec: &v1::QuerySpec,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
        let ticket = Ticket::new(spec.encode_to_vec());
        self.with_worker(group, |mut client| {
            let ticket = ticket.clone();
            async move {
                let data = client.do_get(ticket).await.map_err(|s| error_of_status(&s))?.into_inner();
                let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
                let mut stream = FlightRecordBatchStream::new_from_flight_data(data);
                // The schema comes first; a plan that fails does so here.
                let first = stream.next().await.transpose().map_err(flight_error)?;
                let schema = stream
                    .schema()
                    .cloned()
                    .ok_or_else(|| Error::internal("a worker answered a query without a schema"))?;
                let batches = futures::stream::iter(first.map(Ok)).chain(stream.map_err(flight_error));
                Ok((schema, batches.boxed()))
            }
        })
        .await
    }
}

/// The group of a worker as it is listed.
pub fn group_of(worker: &v1::WorkerStatus) -> WorkerGroup {
    // The leader checked the name when the worker registered.
    WorkerGroup::of_message(&worker.group).unwrap_or_default()
}

fn is_of(worker: &v1::WorkerStatus, group: &WorkerGroup) -> bool {
    group_of(worker) == *group
}

/// What is said where nobody of a group is there.
pub fn no_worker(group: &WorkerGroup) -> Error {
    if group.is_default() {
        return Error::unavailable("no worker of warehouse 'default' is connected").hint(
            "start one: stevedore worker; SHOW WAREHOUSES lists the others, and USE WAREHOUSE takes one",
        );
    }
    Error::unavailable(format!("no worker of warehouse '{group}' is connected"))
        .hint(format!("start one: stevedore worker --group {group}"))
}

fn flight_error(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => error_of_status(&status),
        other => Error::internal(format!("reading a query's rows from a worker: {other}")),
    }
}
