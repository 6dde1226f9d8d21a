//! The Flight service of a worker: query results out, a client's rows in.
//!
//! Comes in: a `QuerySpec` (a query, a question about what a COPY would do, or a portion of another worker's slice)
//! as the bytes of a ticket (run it, stream the rows) or of a descriptor's command (only say what its columns
//! are). Goes out: Arrow batches in messages of bounded size, produced as fast
//! as the reader takes them; a reader that goes away stops the query. Rows that are put go to the attempt that their
//! descriptor names, undecoded, as fast as it takes them ([`crate::inbox`]). Anything else is unimplemented.
//! Only coordinators and workers are meant to call: specs hold credentials, so nothing of them is ever logged.

use std::pin::Pin;
use std::sync::Arc;

use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use stevedore_common::Error;
use stevedore_common::telemetry::SpanParentExt;
use stevedore_proto::v1::{PutCommand, QuerySpec};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::query::QueryEngine;
use crate::slice::{SliceRunner, attempt_key};
use stevedore_status::{error_of_status, status_of};

/// The size at which a batch is cut into several messages. Rows larger than this travel alone.
pub(crate) const TARGET_MESSAGE_BYTES: usize = 2 << 20;
/// The largest message that is sent or taken; a single row may be as large as the decoders allow.
pub const MAX_MESSAGE_BYTES: usize = 160 << 20;

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Serves queries.
#[derive(Clone)]
pub struct WorkerFlight {
    engine: Arc<QueryEngine>,
    runner: Arc<SliceRunner>,
}

impl WorkerFlight {
    /// A service over an engine for queries, and a runner for what a COPY would do.
    pub fn new(engine: Arc<QueryEngine>, runner: Arc<SliceRunner>) -> Self {
        Self { engine, runner }
    }

    /// The service for a gRPC server, with its message limits.
    pub fn into_server(self) -> FlightServiceServer<Self> {
        FlightServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn described(&self, descriptor: &FlightDescriptor) -> Result<arrow::datatypes::SchemaRef, Status> {
        let spec = spec(&descriptor.cmd)?;
        if let Some(check) = &spec.check {
            return SliceRunner::check_schema(check).map_err(status_of);
        }
        let planned = self.engine.plan(&spec).await.map_err(status_of)?;
        Ok(Arc::clone(planned.schema()))
    }
}

fn spec(bytes: &[u8]) -> Result<QuerySpec, Status> {
    QuerySpec::decode(bytes).map_err(|e| {
        status_of(Error::invalid(format!("the ticket is no query of this version of the cluster: {e}")))
    })
}

fn no_rows(what: &str) -> Status {
    status_of(Error::invalid(what).hint("connect to a coordinator; workers only take rows from those"))
}

fn unimplemented<T>(what: &str) -> Result<T, Status> {
    let error = Error::not_supported(format!("{what} on a worker"))
        .hint("connect to a coordinator; workers only serve the queries that it sends");
    Err(status_of(error))
}

#[tonic::async_trait]
impl FlightService for WorkerFlight {
    type HandshakeStream = Answer<HandshakeResponse>;
    type ListFlightsStream = Answer<FlightInfo>;
    type DoGetStream = Answer<FlightData>;
    type DoPutStream = Answer<PutResult>;
    type DoExchangeStream = Answer<FlightData>;
    type DoActionStream = Answer<arrow_flight::Result>;
    type ListActionsStream = Answer<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let spec = spec(&request.into_inner().ticket)?;
        let span = tracing::info_span!("query");
        span.set_parent_from(&spec.traceparent);
        if let Some(portion) = spec.portion {
            let portion = self.runner.clone().portion(portion, spec.settings);
            return Ok(Response::new(span.in_scope(|| portion).map_err(status_of)?));
        }
        let (schema, stream) = match &spec.check {
            Some(check) => {
                self.runner.check(check, &spec.settings).instrument(span).await.map_err(status_of)?
            }
            None => {
                let stream = self.engine.query(&spec).instrument(span).await.map_err(status_of)?;
                (Arc::clone(stream.schema()), stream.boxed())
            }
        };
        let batches = stream.map_err(|e| FlightError::Tonic(Box::new(status_of(e))));
        let data = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_max_flight_data_size(TARGET_MESSAGE_BYTES)
            .build(batches)
            .map_err(|e| match e {
                FlightError::Tonic(status) => *status,
                other => status_of(Error::internal(format!("a result could not be encoded: {other}"))),
            });
        Ok(Response::new(data.boxed()))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let descriptor = request.into_inner();
        let schema = self.described(&descriptor).await?;
        let info = FlightInfo::new()
            .try_with_schema(&schema)
            .map_err(|e| status_of(Error::internal(e.to_string())))?
            .with_descriptor(descriptor);
        Ok(Response::new(info))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let schema = self.described(&request.into_inner()).await?;
        let options = IpcWriteOptions::default();
        let result: SchemaResult = SchemaAsIpc::new(&schema, &options)
            .try_into()
            .map_err(|e: arrow::error::ArrowError| status_of(Error::internal(e.to_string())))?;
        Ok(Response::new(result))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unimplemented("Handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unimplemented("ListFlights")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unimplemented("PollFlightInfo")
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| no_rows("a DoPut without a message"))?;
        let command = first.flight_descriptor.as_ref().map(|descriptor| descriptor.cmd.clone());
        let slice = PutCommand::decode(command.unwrap_or_default())
            .ok()
            .and_then(|command| command.slice)
            .ok_or_else(|| no_rows("a DoPut that names no attempt of a slice"))?;
        let attempt = attempt_key(&slice).map_err(status_of)?;
        let messages = futures::stream::iter([Ok(first)])
            .chain(messages.map_err(|status| error_of_status(&status)))
            .boxed();
        self.runner.inbox.put(attempt, messages).await.map_err(status_of)?;
        Ok(Response::new(futures::stream::iter([Ok(PutResult::default())]).boxed()))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        unimplemented("DoExchange")
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        unimplemented("DoAction")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unimplemented("ListActions")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use arrow_flight::decode::FlightRecordBatchStream;
    use stevedore_common::ErrorKind;

    use super::*;
    use crate::flight_token::FlightToken;
    use crate::query::test_support::{Fixture, text_rows};
    use stevedore_status::error_of_status;

    fn flight() -> WorkerFlight {
        let Fixture { engine, .. } = Fixture::new();
        let engine = Arc::new(engine);
        let stores = Arc::new(stevedore_common::storage::Stores::default());
        let resources = crate::read::WorkerResources::new(1, 64 << 20).unwrap();
        let stages = Arc::new(crate::slice::StageFiles::new(stores.clone(), resources.clone()));
        let encoders = crate::write::Encoders::new(1, 64 << 20);
        let runner = SliceRunner {
            engine: engine.clone(),
            stores,
            resources,
            encoders,
            stages,
            inbox: Arc::default(),
            lanes: crate::slice::LaneResources::new(1, std::env::temp_dir()),
            token: FlightToken::default(),
        };
        WorkerFlight::new(engine, Arc::new(runner))
    }

    fn query(sql: &str) -> Vec<u8> {
        QuerySpec { sql: sql.to_owned(), ..QuerySpec::default() }.encode_to_vec()
    }

    #[tokio::test]
    async fn a_ticket_is_run_and_streamed_in_small_messages() {
        let flight = flight();
        let ticket =
            Ticket::new(query("SELECT repeat('x', 100) AS \"X\", value FROM generate_series(1, 100000)"));
        let data = flight.do_get(Request::new(ticket)).await.unwrap().into_inner();
        let data: Vec<FlightData> = data.try_collect().await.unwrap();
        assert!(data.iter().all(|message| message.data_body.len() <= TARGET_MESSAGE_BYTES));
        let stream = futures::stream::iter(data.into_iter().map(Ok));
        let batches: Vec<_> =
            FlightRecordBatchStream::new_from_flight_data(stream).try_collect().await.unwrap();
        assert_eq!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 100_000);
        assert_eq!(batches[0].schema().field(0).name(), "X");
    }

    #[tokio::test]
    async fn a_result_without_rows_still_has_its_schema() {
        let ticket = Ticket::new(query("SELECT 1 AS a WHERE false"));
        let data = flight().do_get(Request::new(ticket)).await.unwrap().into_inner();
        let mut stream =
            FlightRecordBatchStream::new_from_flight_data(data.map_err(|e| FlightError::Tonic(Box::new(e))));
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.unwrap());
        }
        assert!(text_rows(&batches).is_empty());
        assert_eq!(stream.schema().unwrap().field(0).name(), "a");
    }

    #[tokio::test]
    async fn a_descriptor_is_only_described() {
        let descriptor = FlightDescriptor::new_cmd(query("SELECT 1 / 0 AS a, now() AS b"));
        let info = flight().get_flight_info(Request::new(descriptor)).await.unwrap().into_inner();
        let schema = info.try_decode_schema().unwrap();
        assert_eq!(schema.fields().len(), 2);
    }

    #[tokio::test]
    async fn errors_arrive_whole() {
        let flight = flight();
        let ticket = Ticket::new(query("SELECT nope"));
        let Err(status) = flight.do_get(Request::new(ticket)).await else { panic!("it ran") };
        let error = error_of_status(&status);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with("column 'nope' does not exist"), "{error}");

        let ticket = Ticket::new(query("SELECT __cast(name, 'INT') FROM (VALUES ('1'), ('b')) AS t(name)"));
        let status = match flight.do_get(Request::new(ticket)).await {
            Ok(data) => data.into_inner().try_collect::<Vec<_>>().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(error_of_status(&status).to_string(), "invalid value 'b' for INT: invalid digit");

        let Err(status) = flight.list_flights(Request::new(Criteria::default())).await else { panic!() };
        assert_eq!(error_of_status(&status).kind(), ErrorKind::Unsupported);
    }
}
