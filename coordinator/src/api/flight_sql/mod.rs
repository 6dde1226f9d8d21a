//! Flight SQL on the client port.
//!
//! Owns: the protocol. Comes in: Flight calls. Goes out: calls to the [`Engine`], Arrow streams. A statement that
//! changes something runs when its `FlightInfo` is asked for (drivers need not fetch what it answers), in `DoPut` or in
//! a started poll; a query in `DoGet`. Nothing runs when it is prepared, or when `GetSchema` asks what it gives. Tickets
//! are [`StatementHandle`]s, so redeeming one twice, on any coordinator, runs it once.

mod extensions;
mod finished;
mod ingest;
mod metadata;
mod prepared;
mod service;

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{Any, Command, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use stevedore_common::ids::TransactionId;
use stevedore_common::{Error, Result};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::sessions::{ClientSession, SESSION_COOKIE, Sessions, session_id};
pub use crate::engine::CATALOG;
use crate::engine::{
    Description, Engine, Execution, SessionChange, StatementHandle, StatementKind, TransactionRef,
};
use stevedore_sql::ast;
use stevedore_status::status_of;

pub use service::FlightSqlServer;

type DoGetStream = Pin<Box<dyn Stream<Item = std::result::Result<FlightData, Status>> + Send + 'static>>;

/// The Flight SQL handlers; [`FlightSqlServer`] wraps them for the calls that arrow-flight's blanket
/// implementation leaves out.
#[derive(Clone)]
pub struct FlightSql {
    engine: Arc<Engine>,
    sessions: Arc<Sessions>,
    prepared: Arc<prepared::PreparedStatements>,
    info: Arc<metadata::StaticInfo>,
    finished: Arc<finished::FinishedStatements>,
}

impl FlightSql {
    /// The handlers over an engine.
    ///
    /// # Errors
    /// Internal, if the static metadata cannot be built.
    pub fn new(engine: Arc<Engine>, sessions: Arc<Sessions>) -> Result<Self> {
        Ok(Self {
            engine,
            sessions,
            prepared: Arc::new(prepared::PreparedStatements::default()),
            info: Arc::new(metadata::StaticInfo::new()?),
            finished: Arc::default(),
        })
    }

    fn session(&self, metadata: &MetadataMap) -> std::result::Result<(ClientSession, bool), Status> {
        self.sessions.of_request(metadata).map_err(status_of)
    }

    /// A statement in the transaction that the client names, else in the one that its session is in.
    async fn handle(
        &self,
        session: &ClientSession,
        sql: String,
        transaction: Option<&[u8]>,
    ) -> std::result::Result<StatementHandle, Status> {
        let handle = Self::free_handle(session, sql, named_transaction(transaction).map_err(status_of)?);
        self.in_session(handle).await
    }

    /// The handle in the transaction that its session is in now, unless it names one.
    async fn in_session(&self, mut handle: StatementHandle) -> std::result::Result<StatementHandle, Status> {
        if handle.transaction.is_none_or(|transaction| !transaction.named) {
            handle.transaction =
                self.engine.transaction_of_session(&handle.session).await.map_err(status_of)?;
        }
        Ok(handle)
    }

    fn free_handle(
        session: &ClientSession,
        sql: String,
        transaction: Option<TransactionRef>,
    ) -> StatementHandle {
        StatementHandle {
            transaction,
            id: Uuid::now_v7(),
            sql,
            session: session.id.clone(),
            user: session.user.clone(),
            database: session.database.clone(),
            settings: session.settings.clone(),
            parameters: None,
            pins: Default::default(),
            traceparent: session.traceparent.clone(),
        }
    }

    async fn run(&self, handle: &StatementHandle) -> std::result::Result<Execution, Status> {
        let execution = self.engine.execute(handle).await.map_err(status_of)?;
        if let Some(change) = &execution.session_change {
            self.sessions.update(&handle.session, |session| match change {
                SessionChange::Database(database) => session.database.clone_from(database),
                SessionChange::Setting(name, Some(value)) => {
                    session.settings.insert(name.clone(), value.clone());
                }
                SessionChange::Setting(name, None) => {
                    session.settings.remove(name);
                }
            });
        }
        Ok(execution)
    }

    /// Runs a statement for its row count; rows are read to the end, since a statement ends with them.
    async fn run_update(&self, handle: &StatementHandle) -> std::result::Result<i64, Status> {
        let mut execution = self.run(handle).await?;
        while let Some(batch) = execution.batches.next().await {
            batch.map_err(status_of)?;
        }
        Ok(execution.affected.unwrap_or(0))
    }
}

/// The transaction that a client names by the id that it was given.
fn named_transaction(id: Option<&[u8]>) -> Result<Option<TransactionRef>> {
    let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(None) };
    let known = Uuid::from_slice(id).ok().filter(|id| id.get_version_num() == 7);
    match known {
        Some(id) => Ok(Some(TransactionRef { id: TransactionId(id), named: true })),
        None => {
            Err(Error::invalid("the transaction's id is none of ours").hint("ask for one: BeginTransaction"))
        }
    }
}

/// Refuses BEGIN where the session that would be in the transaction is not the client's to come back to.
fn check_begin(handle: &StatementHandle, session: Option<String>, given: bool) -> Result<()> {
    if handle.transaction.is_some() || (!given && session.as_deref() == Some(handle.session.as_str())) {
        return Ok(());
    }
    let statement = stevedore_sql::parse(&handle.sql);
    if !matches!(statement, Ok(ast::Statement::Transaction(ast::TransactionControl::Begin))) {
        return Ok(());
    }
    Err(Error::invalid("BEGIN needs a session, and this client has none to come back to").hint(format!(
        "log in, or keep the cookie {SESSION_COOKIE}; ADBC does where adbc.flight.sql.rpc.with_cookie_middleware is true"
    )))
}

/// The answer to `GetFlightInfo` for a statement.
fn statement_info(
    handle: &StatementHandle,
    description: &Description,
    descriptor: FlightDescriptor,
) -> std::result::Result<FlightInfo, Status> {
    let mut handle = handle.clone();
    handle.pins.clone_from(&description.pins);
    let ticket = TicketStatementQuery { statement_handle: handle.encode().into() };
    let mut info = info_of(&description.schema, &ticket, descriptor)?;
    if description.is_job {
        info.app_metadata = format!(r#"{{"job_id":"{}"}}"#, handle.id).into();
    }
    Ok(info)
}

fn info_of<M: ProstMessageExt>(
    schema: &SchemaRef,
    ticket: &M,
    descriptor: FlightDescriptor,
) -> std::result::Result<FlightInfo, Status> {
    // No location: the client redeems the ticket where it got it.
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
    Ok(FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|e| status_of(e.into()))?
        .with_endpoint(endpoint)
        .with_descriptor(descriptor))
}

/// Batches as Flight data, the schema first, every message well under the gRPC limit.
fn encode(schema: SchemaRef, batches: BoxStream<'static, Result<RecordBatch>>) -> DoGetStream {
    let batches = batches.map_err(|e| FlightError::Tonic(Box::new(status_of(e))));
    let stream = FlightDataEncoderBuilder::new().with_schema(schema).build(batches).map_err(|e| match e {
        FlightError::Tonic(status) => *status,
        other => status_of(Error::internal(format!("encoding a result: {other}"))),
    });
    Box::pin(stream)
}

fn one_batch(batch: RecordBatch) -> DoGetStream {
    encode(batch.schema(), futures::stream::iter([Ok(batch)]).boxed())
}

fn command_of(descriptor: &FlightDescriptor) -> std::result::Result<Command, Status> {
    let any = Any::decode(&*descriptor.cmd)
        .map_err(|e| status_of(Error::invalid(format!("the descriptor is no Flight SQL command: {e}"))))?;
    Command::try_from(any).map_err(|e| status_of(Error::invalid(format!("unknown Flight SQL command: {e}"))))
}

/// What a client sends that redeems the ticket of each statement: nothing runs before, so that it knows the id of a job
/// while it runs.
pub const DEFERRED: &str = "x-stevedore-deferred";
/// What marks a call whose client did not name a session.
const GIVEN_SESSION: &str = "x-stevedore-given-session";

/// Gives a call without a session one: the handlers find it in the request, whatever the call is.
fn give_session<T>(request: &mut Request<T>) -> Option<AsciiMetadataValue> {
    request.metadata_mut().remove(GIVEN_SESSION);
    if session_id(request.metadata()).is_some() {
        return None;
    }
    let cookie = format!("{SESSION_COOKIE}={}", Uuid::new_v4().simple());
    let value = cookie.parse().ok()?;
    request.metadata_mut().append("cookie", value);
    request.metadata_mut().insert(GIVEN_SESSION, AsciiMetadataValue::from_static("true"));
    format!("{cookie}; Path=/").parse().ok()
}

/// Tells a client how to keep the session that it was given.
fn with_cookie<T>(mut response: Response<T>, given: Option<AsciiMetadataValue>) -> Response<T> {
    if let Some(value) = given {
        response.metadata_mut().insert("set-cookie", value);
    }
    response
}

/// Whether the statement has rows to advertise to whoever prepares it.
fn advertised_schema(description: &Description) -> Option<&SchemaRef> {
    match description.kind {
        StatementKind::Query | StatementKind::RowsAndChanges => Some(&description.schema),
        StatementKind::Dml | StatementKind::Ddl => None,
    }
}

fn unsupported<T>(what: &str) -> std::result::Result<T, Status> {
    Err(status_of(Error::not_supported_yet(what)))
}

impl FlightSql {
    /// The answer to `GetFlightInfo`; the statement has run then, if it changes something.
    async fn run_for_info(
        &self,
        handle: &StatementHandle,
        request: Request<FlightDescriptor>,
    ) -> std::result::Result<FlightInfo, Status> {
        let description = self.engine.describe(handle).await.map_err(status_of)?;
        let metadata = request.metadata();
        if description.kind != StatementKind::Query && !metadata.contains_key(DEFERRED) {
            let given = metadata.contains_key(GIVEN_SESSION);
            check_begin(handle, session_id(metadata), given).map_err(status_of)?;
            let execution = self.run(handle).await?;
            if let Some(result) = finished::Finished::of(execution).await.map_err(status_of)? {
                self.finished.keep(handle.id, result);
            }
        }
        statement_info(handle, &description, request.into_inner())
    }
}
