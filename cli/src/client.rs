//! A client of the client port: statements through Flight SQL, progress through JobService.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, Ticket};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use stevedore_common::{Error, Result};
use stevedore_coordinator::api::flight_sql::DEFERRED;
use stevedore_proto::v1;
use stevedore_proto::v1::admin_service_client::AdminServiceClient;
use stevedore_proto::v1::job_service_client::JobServiceClient;
use stevedore_proto::v1::stage_service_client::StageServiceClient;
use stevedore_status::error_of_status;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The largest message accepted, bytes.
const MAX_MESSAGE: usize = 256 << 20;
/// How long the end of a session may take.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);

/// Adds the session's token to each call.
#[derive(Debug, Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A connection with a session of its own.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    token: Token,
}

/// The rows of a statement.
pub struct Rows {
    /// Their schema; without fields for statements that give none.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// A statement that was accepted and not run yet.
#[derive(Debug, Clone)]
pub struct Statement {
    info: FlightInfo,
    /// The job that it will run as, if it is one.
    pub job_id: Option<String>,
}

impl Statement {
    /// The schema of its rows, as announced.
    ///
    /// # Errors
    /// Internal, if the server announced none.
    pub fn schema(&self) -> Result<SchemaRef> {
        let schema = Schema::try_from(self.info.clone())
            .map_err(|e| Error::internal(format!("the server gave no schema: {e}")))?;
        Ok(schema.into())
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Invalid input for a bad address; unavailable.
    pub async fn connect(address: &str) -> Result<Self> {
        let url = match address.split_once("://") {
            Some(("grpc" | "grpc+tcp" | "http", rest)) => format!("http://{rest}"),
            None => format!("http://{address}"),
            Some((scheme, _)) => {
                return Err(Error::not_supported_yet(format!(
                    "the scheme '{scheme}' of the address '{address}'"
                ))
                .hint("write grpc://host:port"));
            }
        };
        let channel = Endpoint::from_shared(url.clone())
            .map_err(|e| {
                Error::invalid(format!("'{address}' is no address: {e}")).hint("write grpc://host:port")
            })?
            .connect_timeout(std::time::Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|_| {
                Error::unavailable(format!("cannot reach {address}")).hint(
                    "start a server with 'stevedore local --data-dir DIR', or name its address with --addr",
                )
            })?;
        let token = format!("Bearer {}", uuid::Uuid::new_v4().simple())
            .parse()
            .map_err(|_| Error::internal("a token is no header value"))?;
        Ok(Self { channel, token: Token(token) })
    }

    fn flight(&self) -> FlightServiceClient<InterceptedService<Channel, Token>> {
        FlightServiceClient::with_interceptor(self.channel.clone(), self.token.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The jobs of the cluster.
    pub fn jobs(&self) -> JobServiceClient<InterceptedService<Channel, Token>> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    /// The files of stages.
    pub fn stages(&self) -> StageServiceClient<InterceptedService<Channel, Token>> {
        StageServiceClient::with_interceptor(self.channel.clone(), self.token.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// The cluster itself.
    pub fn admin(&self) -> AdminServiceClient<InterceptedService<Channel, Token>> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.token.clone())
    }

    /// Ends the session, and with it a transaction that was left open. Best effort: the server ends it after a while
    /// as well.
    pub async fn close(&self) {
        let close = Action { r#type: "CloseSession".to_owned(), body: Default::default() };
        let mut flight = self.flight();
        if let Ok(Err(status)) = tokio::time::timeout(GOODBYE, flight.do_action(close)).await {
            tracing::debug!(%status, "the session was not closed");
        }
    }

    /// Hands a statement in; it runs when its rows are asked for.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub async fn prepare(&self, sql: &str) -> Result<Statement> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let mut request = tonic::Request::new(descriptor);
        // So a job's progress can be shown.
        request.metadata_mut().insert(DEFERRED, MetadataValue::from_static("true"));
        let info =
            self.flight().get_flight_info(request).await.map_err(|s| error_of_status(&s))?.into_inner();
        let job_id = serde_json::from_slice::<serde_json::Value>(&info.app_metadata)
            .ok()
            .and_then(|value| value.get("job_id")?.as_str().map(str::to_owned));
        Ok(Statement { info, job_id })
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// What came in its way; later failures are items of the stream.
    pub async fn run(&self, statement: &Statement) -> Result<Rows> {
        let ticket: Ticket = statement
            .info
            .endpoint
            .first()
            .and_then(|endpoint| endpoint.ticket.clone())
            .ok_or_else(|| Error::internal("the server gave no ticket"))?;
        let schema = Schema::try_from(statement.info.clone())
            .map_err(|e| Error::internal(format!("the server gave no schema: {e}")))?;
        let data = self.flight().do_get(ticket).await.map_err(|s| error_of_status(&s))?.into_inner();
        let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
        let batches = FlightRecordBatchStream::new_from_flight_data(data).map_err(|error| match error {
            FlightError::Tonic(status) => error_of_status(&status),
            other => Error::internal(format!("reading rows: {other}")),
        });
        Ok(Rows { schema: schema.into(), batches: batches.boxed() })
    }

    /// Runs a statement and collects its rows.
    ///
    /// # Errors
    /// What is wrong with it, or came in its way.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let statement = self.prepare(sql).await?;
        self.run(&statement).await?.batches.try_collect().await
    }

    /// How a job goes on, until its end.
    ///
    /// # Errors
    /// Not found, as long as the job is not created.
    pub async fn watch(&self, job_id: &str) -> Result<tonic::Streaming<v1::Job>> {
        let request = v1::WatchJobRequest { job_id: job_id.to_owned() };
        Ok(self.jobs().watch_job(request).await.map_err(|s| error_of_status(&s))?.into_inner())
    }
}
