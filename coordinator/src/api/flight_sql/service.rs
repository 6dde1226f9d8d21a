//! The Flight SQL handlers, and the Flight service around them.

use std::pin::Pin;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionEndTransactionRequest, Command, CommandGetCatalogs,
    CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate,
    CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult,
    EndTransaction, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty,
    FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use prost::Message;
use stevedore_common::{Error, Result as StevedoreResult};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::extensions::{
    CANCEL_FLIGHT_INFO, CLOSE_SESSION, CloseSessionResult, GET_SESSION_OPTIONS, GetSessionOptionsResult,
    OptionValue, SET_SESSION_OPTIONS, SessionOptionValue, SetSessionOptionError, SetSessionOptionsRequest,
    SetSessionOptionsResult,
};
use super::prepared::{parameter_schema, read_parameters, row_ipc, schema_bytes};
use super::{
    DEFERRED, DoGetStream, FlightSql, GIVEN_SESSION, advertised_schema, check_begin, command_of, encode,
    give_session, info_of, metadata, named_transaction, one_batch, statement_info, unsupported, with_cookie,
};
use crate::api::sessions::{new_token, session_id};
use crate::engine::StatementHandle;
use stevedore_status::status_of;

/// The longest name of a user, bytes: with it the token stays within what a session's id may have.
const MOST_USER: usize = 96;

type Result<T> = std::result::Result<T, Status>;

fn ok_or_status<T>(result: StevedoreResult<T>) -> Result<T> {
    result.map_err(status_of)
}

fn unpack<M: Message + Default>(body: &[u8]) -> Result<M> {
    M::decode(body).map_err(|e| status_of(Error::invalid(format!("the action's body cannot be read: {e}"))))
}

fn action_answer(body: Vec<u8>) -> Response<<FlightSql as FlightService>::DoActionStream> {
    Response::new(Box::pin(futures::stream::iter([Ok(arrow_flight::Result { body: body.into() })])))
}

impl FlightSql {
    fn prepared_handle(&self, bytes: &[u8]) -> Result<StatementHandle> {
        Ok(self.prepared.resolve(ok_or_status(StatementHandle::decode(bytes))?))
    }

    async fn redeem(&self, handle: &StatementHandle) -> Result<Response<DoGetStream>> {
        if let Some(finished) = self.finished.of(handle.id) {
            let batches = finished.batches.clone().into_iter().map(Ok);
            let batches = futures::stream::iter(batches).boxed();
            return Ok(Response::new(encode(finished.schema.clone(), batches)));
        }
        let execution = self.run(handle).await?;
        Ok(Response::new(encode(execution.schema, execution.batches)))
    }

    async fn cancel_info(&self, info: &FlightInfo) -> Result<CancelStatus> {
        let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref());
        let descriptor = FlightDescriptor::new_cmd(ticket.map(|t| t.ticket.clone()).unwrap_or_default());
        let Command::TicketStatementQuery(ticket) = command_of(&descriptor)? else {
            return Ok(CancelStatus::NotCancellable);
        };
        let handle = ok_or_status(StatementHandle::decode(&ticket.statement_handle))?;
        let cancelled = ok_or_status(self.engine.cancel(handle.id).await)?;
        Ok(if cancelled { CancelStatus::Cancelled } else { CancelStatus::NotCancellable })
    }

    async fn set_options(&self, session: &str, request: SetSessionOptionsRequest) -> SetSessionOptionsResult {
        let mut errors = std::collections::HashMap::new();
        for (name, value) in request.session_options {
            let name = name.to_ascii_lowercase();
            let text = value.option_value.map(|value| value.to_text());
            let refused = match (name.as_str(), &text) {
                ("catalog", _) => false,
                ("schema" | "database", Some(database)) => {
                    let known = self.engine.has_database(database).unwrap_or(false);
                    if known {
                        self.sessions.update(session, |s| s.database.clone_from(database));
                    }
                    !known
                }
                (_, text) => match self.engine.check_setting(&name, text.as_deref()).await {
                    Ok(()) => {
                        self.sessions.update(session, |s| match text {
                            Some(text) => {
                                s.settings.insert(name.clone(), text.clone());
                            }
                            None => {
                                s.settings.remove(&name);
                            }
                        });
                        false
                    }
                    Err(_) => true,
                },
            };
            if refused {
                errors.insert(name, SetSessionOptionError { value: 2 });
            }
        }
        SetSessionOptionsResult { errors }
    }
}

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse>> + Send>>>> {
        // There are no accounts yet: any name is let in, and gets a session of its own.
        let basic = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, text)| BASE64.decode(text.trim()).ok())
            .and_then(|basic| String::from_utf8(basic).ok());
        let Some(basic) = basic else {
            return Err(Status::unauthenticated(
                "the handshake needs basic authentication (user and password)",
            ));
        };
        let user = basic.split_once(':').map_or(basic.as_str(), |(user, _)| user);
        if user.len() > MOST_USER {
            return Err(status_of(Error::invalid(format!("a user's name has at most {MOST_USER} bytes"))));
        }
        let token = new_token(user);
        ok_or_status(self.sessions.get_or_make(&token))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let stream: Pin<Box<dyn Stream<Item = Result<HandshakeResponse>> + Send>> =
            Box::pin(futures::stream::iter([Ok(answer)]));
        let mut response = Response::new(stream);
        if let Ok(value) = format!("Bearer {token}").parse() {
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let (session, _) = self.session(request.metadata())?;
        let handle = self.handle(&session, query.query, query.transaction_id.as_deref()).await?;
        let info = self.run_for_info(&handle, request).await?;
        Ok(Response::new(info))
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        // Each execution of a prepared statement is a run of its own.
        let handle = self.prepared_handle(&query.prepared_statement_handle)?.fresh();
        let handle = self.in_session(handle).await?;
        let info = self.run_for_info(&handle, request).await?;
        Ok(Response::new(info))
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = query.into_builder().schema();
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = query.clone().into_builder().schema();
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = query.clone().into_builder().schema();
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = query.into_builder().schema();
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = self.info.sql_info_schema(query.clone());
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        let schema = self.info.types_schema(query);
        Ok(Response::new(info_of(&schema, &query, request.into_inner())?))
    }

    async fn get_flight_info_primary_keys(
        &self,
        _query: CommandGetPrimaryKeys,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        Err(status_of(Error::not_supported("keys: tables have none")))
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        let handle = ok_or_status(StatementHandle::decode(&ticket.statement_handle))?;
        ok_or_status(check_begin(&handle, session_id(request.metadata()), false))?;
        self.redeem(&handle).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        let handle = self.in_session(self.prepared_handle(&query.prepared_statement_handle)?).await?;
        ok_or_status(check_begin(&handle, session_id(request.metadata()), false))?;
        self.redeem(&handle).await
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        Ok(Response::new(one_batch(ok_or_status(metadata::catalogs(query))?)))
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        let databases = ok_or_status(self.engine.list_databases().await)?;
        Ok(Response::new(one_batch(ok_or_status(metadata::schemas(query, &databases))?)))
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        let tables = ok_or_status(self.engine.list_tables(query.include_schema).await)?;
        Ok(Response::new(one_batch(ok_or_status(metadata::tables(query, &tables))?)))
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        Ok(Response::new(one_batch(ok_or_status(metadata::table_types(query))?)))
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        Ok(Response::new(one_batch(ok_or_status(self.info.sql_info(query))?)))
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<Ticket>,
    ) -> Result<Response<DoGetStream>> {
        Ok(Response::new(one_batch(ok_or_status(self.info.types(query))?)))
    }

    async fn do_put_statement_update(
        &self,
        ticket: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64> {
        let (session, _) = self.session(request.metadata())?;
        let handle = self.handle(&session, ticket.query, ticket.transaction_id.as_deref()).await?;
        let given = request.metadata().contains_key(GIVEN_SESSION);
        ok_or_status(check_begin(&handle, Some(session.id), given))?;
        self.run_update(&handle).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64> {
        let (session, _) = self.session(request.metadata())?;
        self.ingest(&session, command, request.into_inner()).await
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult> {
        let handle = ok_or_status(StatementHandle::decode(&query.prepared_statement_handle))?;
        let batches = read_parameters(request).await?;
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        if rows > 1 {
            return Err(status_of(
                Error::not_supported("a query with more than one row of parameters")
                    .hint("bind one row, or run it as an update"),
            ));
        }
        let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1) else {
            return Ok(DoPutPreparedStatementResult { prepared_statement_handle: None });
        };
        let ipc = ok_or_status(row_ipc(batch, 0))?;
        self.prepared.bind(handle.id, ipc.clone());
        let bound = handle.with_parameters(&ipc).encode();
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(bound.into()) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64> {
        let handle = ok_or_status(StatementHandle::decode(&query.prepared_statement_handle))?;
        let handle = self.in_session(handle).await?;
        let given = request.metadata().contains_key(GIVEN_SESSION);
        ok_or_status(check_begin(&handle, session_id(request.metadata()), given))?;
        let batches = read_parameters(request).await?;
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return self.run_update(&self.prepared.resolve(handle).fresh()).await;
        }
        let mut affected = 0;
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let ipc = ok_or_status(row_ipc(batch, row))?;
                affected += self.run_update(&handle.clone().fresh().with_parameters(&ipc)).await?;
            }
        }
        Ok(affected)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult> {
        let (session, _) = self.session(request.metadata())?;
        let handle = self.handle(&session, query.query, query.transaction_id.as_deref()).await?;
        let description = ok_or_status(self.engine.describe(&handle).await)?;
        let dataset_schema = match advertised_schema(&description) {
            Some(schema) => ok_or_status(schema_bytes(schema))?,
            None => bytes::Bytes::new(),
        };
        let parameter_schema = match description.parameters {
            0 => bytes::Bytes::new(),
            n => ok_or_status(schema_bytes(&parameter_schema(n)))?,
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.encode().into(),
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult> {
        let id = self.engine.new_transaction();
        Ok(ActionBeginTransactionResult { transaction_id: id.0.as_bytes().to_vec().into() })
    }

    async fn do_action_end_transaction(
        &self,
        query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<()> {
        let named = ok_or_status(named_transaction(Some(&query.transaction_id)))?;
        let Some(transaction) = named else {
            return Err(status_of(Error::invalid("EndTransaction names no transaction")));
        };
        let commits = match query.action() {
            EndTransaction::Commit => true,
            EndTransaction::Rollback => false,
            EndTransaction::Unspecified => {
                return Err(status_of(Error::invalid(
                    "EndTransaction leaves open whether to commit or to roll back",
                )));
            }
        };
        ok_or_status(self.engine.end_transaction(transaction.id, commits).await)
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<()> {
        let handle = ok_or_status(StatementHandle::decode(&query.prepared_statement_handle))?;
        self.prepared.close(handle.id);
        Ok(())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _request: Request<Action>,
    ) -> Result<ActionCancelQueryResult> {
        let info: FlightInfo = unpack(&query.info)?;
        Ok(ActionCancelQueryResult { result: self.cancel_info(&info).await? as i32 })
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType>>> {
        let action = |r#type: &str, description: &str| {
            Ok(ActionType { r#type: r#type.to_owned(), description: description.to_owned() })
        };
        Some(vec![
            action(CANCEL_FLIGHT_INFO, "Cancels a statement by its FlightInfo."),
            action(SET_SESSION_OPTIONS, "Sets options of the session."),
            action(GET_SESSION_OPTIONS, "Reads the options of the session."),
            action(CLOSE_SESSION, "Closes the session."),
        ])
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>> {
        let (session, _) = self.session(request.metadata())?;
        let action = request.into_inner();
        let answer = match action.r#type.as_str() {
            CANCEL_FLIGHT_INFO => {
                let request: CancelFlightInfoRequest = unpack(&action.body)?;
                let info = request
                    .info
                    .ok_or_else(|| status_of(Error::invalid("CancelFlightInfo needs the FlightInfo")))?;
                CancelFlightInfoResult { status: self.cancel_info(&info).await? as i32 }.encode_to_vec()
            }
            SET_SESSION_OPTIONS => self.set_options(&session.id, unpack(&action.body)?).await.encode_to_vec(),
            GET_SESSION_OPTIONS => {
                let text =
                    |text: String| SessionOptionValue { option_value: Some(OptionValue::String(text)) };
                let mut session_options: std::collections::HashMap<_, _> = session
                    .settings
                    .iter()
                    .map(|(name, value)| (name.clone(), text(value.clone())))
                    .collect();
                session_options.insert("schema".to_owned(), text(session.database.clone()));
                GetSessionOptionsResult { session_options }.encode_to_vec()
            }
            CLOSE_SESSION => {
                ok_or_status(self.engine.close_session(&session.id).await)?;
                self.sessions.close(&session.id);
                CloseSessionResult { status: 1 }.encode_to_vec()
            }
            other => return Err(status_of(Error::invalid(format!("unknown action '{other}'")))),
        };
        Ok(action_answer(answer))
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

/// The Flight service: the blanket implementation of arrow-flight over [`FlightSql`], and the calls that
/// it leaves out (`PollFlightInfo`, `GetSchema`).
#[derive(Clone)]
pub struct FlightSqlServer(pub FlightSql);

type BoxedStream<T> = BoxStream<'static, Result<T>>;

impl FlightSqlServer {
    /// Starts the statement at the first poll, then tells how far it is; the last answer has the ticket.
    async fn poll(&self, request: Request<FlightDescriptor>) -> Result<PollInfo> {
        let sql = &self.0;
        let (session, _) = sql.session(request.metadata())?;
        let descriptor = request.into_inner();
        let handle = match command_of(&descriptor)? {
            Command::CommandStatementQuery(query) => {
                sql.handle(&session, query.query, query.transaction_id.as_deref()).await?
            }
            Command::CommandPreparedStatementQuery(query) => {
                let handle = sql.prepared_handle(&query.prepared_statement_handle)?.fresh();
                sql.in_session(handle).await?
            }
            Command::TicketStatementQuery(ticket) => {
                ok_or_status(StatementHandle::decode(&ticket.statement_handle))?
            }
            _ => return unsupported("polling for anything but a statement"),
        };
        let description = ok_or_status(sql.engine.describe(&handle).await)?;
        let info = statement_info(&handle, &description, descriptor)?;
        if !description.is_job {
            return Ok(PollInfo { info: Some(info), progress: Some(1.0), ..Default::default() });
        }
        ok_or_status(sql.engine.start_job(&handle).await)?;
        let progress = ok_or_status(sql.engine.poll_job(handle.id, Duration::from_secs(5)).await)?;
        if progress.ended {
            return Ok(PollInfo { info: Some(info), progress: Some(1.0), ..Default::default() });
        }
        let again = TicketStatementQuery { statement_handle: handle.encode().into() };
        Ok(PollInfo {
            info: Some(FlightInfo { endpoint: Vec::new(), ..info }),
            flight_descriptor: Some(FlightDescriptor::new_cmd(again.as_any().encode_to_vec())),
            progress: progress.fraction,
            expiration_time: None,
        })
    }
}

#[tonic::async_trait]
impl FlightService for FlightSqlServer {
    type HandshakeStream = BoxedStream<HandshakeResponse>;
    type ListFlightsStream = BoxedStream<FlightInfo>;
    type DoGetStream = BoxedStream<FlightData>;
    type DoPutStream = BoxedStream<PutResult>;
    type DoActionStream = BoxedStream<arrow_flight::Result>;
    type ListActionsStream = BoxedStream<ActionType>;
    type DoExchangeStream = BoxedStream<FlightData>;

    async fn handshake(
        &self,
        r: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>> {
        Ok(FlightService::handshake(&self.0, r).await?.map(StreamExt::boxed))
    }

    async fn list_flights(&self, r: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>> {
        Ok(FlightService::list_flights(&self.0, r).await?.map(StreamExt::boxed))
    }

    async fn get_flight_info(&self, mut r: Request<FlightDescriptor>) -> Result<Response<FlightInfo>> {
        let given = give_session(&mut r);
        Ok(with_cookie(FlightService::get_flight_info(&self.0, r).await?, given))
    }

    async fn poll_flight_info(&self, mut r: Request<FlightDescriptor>) -> Result<Response<PollInfo>> {
        let given = give_session(&mut r);
        Ok(with_cookie(Response::new(self.poll(r).await?), given))
    }

    async fn get_schema(&self, mut r: Request<FlightDescriptor>) -> Result<Response<SchemaResult>> {
        // What a statement gives is known before it runs.
        r.metadata_mut().insert(DEFERRED, AsciiMetadataValue::from_static("true"));
        let info = FlightService::get_flight_info(&self.0, r).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: IpcMessage(info.schema).0 }))
    }

    async fn do_get(&self, r: Request<Ticket>) -> Result<Response<Self::DoGetStream>> {
        Ok(FlightService::do_get(&self.0, r).await?.map(StreamExt::boxed))
    }

    async fn do_put(&self, mut r: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>> {
        let given = give_session(&mut r);
        Ok(with_cookie(FlightService::do_put(&self.0, r).await?.map(StreamExt::boxed), given))
    }

    async fn list_actions(&self, r: Request<Empty>) -> Result<Response<Self::ListActionsStream>> {
        Ok(FlightService::list_actions(&self.0, r).await?.map(StreamExt::boxed))
    }

    async fn do_action(&self, mut r: Request<Action>) -> Result<Response<Self::DoActionStream>> {
        let given = give_session(&mut r);
        Ok(with_cookie(FlightService::do_action(&self.0, r).await?.map(StreamExt::boxed), given))
    }

    async fn do_exchange(
        &self,
        r: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>> {
        Ok(FlightService::do_exchange(&self.0, r).await?.map(StreamExt::boxed))
    }
}
