//! The Flight SQL protocol as its clients speak it: metadata, prepared statements, updates, sessions,
//! tickets, polling, cancelling.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandGetDbSchemas,
    CommandGetTables, CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
    DoPutUpdateResult, ProstMessageExt, SqlInfo, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo,
    IpcMessage,
};
use futures::TryStreamExt;
use prost::Message;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::{files, oracle, show};
use stevedore_proto::v1;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);

type Client = FlightSqlServiceClient<Channel>;

async fn channel(instance: &TestInstance) -> Channel {
    Endpoint::from_shared(instance.url().to_owned()).unwrap().connect().await.unwrap()
}

/// A client with a session of its own, by bearer token.
async fn connect(instance: &TestInstance) -> Client {
    let mut client = FlightSqlServiceClient::new(channel(instance).await);
    client.handshake("somebody", "anything").await.unwrap();
    assert!(client.token().is_some(), "the handshake answers a bearer token");
    client
}

/// A client whose statements all run when their tickets are redeemed.
async fn deferring(instance: &TestInstance) -> Client {
    let mut client = connect(instance).await;
    client.set_header("x-stevedore-deferred", "true");
    client
}

async fn fetch(client: &mut Client, info: FlightInfo) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let stream = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
        batches.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    }
    batches
}

async fn query(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|e| panic!("{e}\n{sql}"));
    show::rows(&fetch(client, info).await)
}

async fn instance_with_table() -> (TestInstance, Client) {
    let instance = TestInstance::start().await;
    let mut client = connect(&instance).await;
    query(&mut client, "CREATE TABLE t (id BIGINT, name STRING)").await;
    (instance, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_calls_describe_the_catalog() {
    let (instance, mut client) = instance_with_table().await;
    query(&mut client, "CREATE DATABASE roads").await;
    query(&mut client, "CREATE TABLE roads.r (v VARIANT, e VECTOR(3))").await;

    let info = client.get_catalogs().await.unwrap();
    assert_eq!(show::rows(&fetch(&mut client, info).await), [["stevedore"]]);

    let all = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
    let info = client.get_db_schemas(all).await.unwrap();
    let schemas = show::rows(&fetch(&mut client, info).await);
    for name in ["default", "roads", "system", "information_schema"] {
        assert!(schemas.contains(&vec!["stevedore".to_owned(), name.to_owned()]), "{schemas:?}");
    }
    let some = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("ro%".into()) };
    let info = client.get_db_schemas(some).await.unwrap();
    assert_eq!(show::rows(&fetch(&mut client, info).await), [["stevedore", "roads"]]);

    let request = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: Some("roads".into()),
        table_name_filter_pattern: None,
        table_types: vec![],
        include_schema: false,
    };
    let info = client.get_tables(request.clone()).await.unwrap();
    assert_eq!(show::rows(&fetch(&mut client, info).await), [["stevedore", "roads", "r", "TABLE"]]);
    let info = client.get_tables(CommandGetTables { include_schema: true, ..request }).await.unwrap();
    let batches = fetch(&mut client, info).await;
    assert_eq!((batches[0].num_rows(), batches[0].num_columns()), (1, 5));

    // The tables that are made when they are read are listed too, with the columns that SELECT gives.
    let request = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: Some("system".into()),
        table_name_filter_pattern: Some("work%".into()),
        table_types: vec!["SYSTEM VIEW".into()],
        include_schema: true,
    };
    let info = client.get_tables(request.clone()).await.unwrap();
    let batches = fetch(&mut client, info).await;
    assert_eq!(
        show::rows(&[batches[0].project(&[1, 2, 3]).unwrap()]),
        [["system", "workers", "SYSTEM VIEW"]]
    );
    let listed = batches[0].column(4).as_binary::<i32>().value(0);
    let listed = arrow::datatypes::Schema::try_from(IpcMessage(listed.to_vec().into())).unwrap();
    let info = client.execute("SELECT * FROM system.workers".to_owned(), None).await.unwrap();
    assert_eq!(listed.fields(), fetch(&mut client, info).await[0].schema().fields());
    let none = CommandGetTables { table_types: vec!["TABLE".into()], ..request };
    let info = client.get_tables(none).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0);

    // A stream is listed with the columns that SELECT gives.
    query(&mut client, "CREATE STREAM roads.changes ON TABLE roads.r").await;
    let request = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: Some("roads".into()),
        table_name_filter_pattern: None,
        table_types: vec!["STREAM".into()],
        include_schema: true,
    };
    let info = client.get_tables(request).await.unwrap();
    let batches = fetch(&mut client, info).await;
    assert_eq!(show::rows(&[batches[0].project(&[1, 2, 3]).unwrap()]), [["roads", "changes", "STREAM"]]);
    let listed = batches[0].column(4).as_binary::<i32>().value(0);
    let listed = arrow::datatypes::Schema::try_from(IpcMessage(listed.to_vec().into())).unwrap();
    let info = client.execute("SELECT * FROM roads.changes".to_owned(), None).await.unwrap();
    let given = info.clone().try_decode_schema().unwrap();
    let columns = |schema: &arrow::datatypes::Schema| -> Vec<(String, arrow::datatypes::DataType)> {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    assert_eq!(columns(&listed), columns(&given));

    let info = client.get_table_types().await.unwrap();
    assert_eq!(show::rows(&fetch(&mut client, info).await), [["STREAM"], ["SYSTEM VIEW"], ["TABLE"]]);

    // What is asked for; nothing asked means all.
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await.unwrap();
    let rows = show::rows(&fetch(&mut client, info).await);
    assert_eq!(rows.len(), 1);
    assert!(rows[0][1].to_lowercase().contains("stevedore"), "{rows:?}");
    let info = client.get_sql_info(vec![]).await.unwrap();
    assert!(show::rows(&fetch(&mut client, info).await).len() > 5);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_take_parameters_and_run_more_than_once() {
    let (instance, mut client) = instance_with_table().await;

    let mut insert = client.prepare("INSERT INTO t VALUES (?, ?)".to_owned(), None).await.unwrap();
    assert_eq!(insert.parameter_schema().unwrap().fields().len(), 2);
    // Preparing runs nothing.
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["0"]]);
    for (id, name) in [(1, Some("Ada")), (2, None), (3, Some("Cyd"))] {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![name]));
        let row = RecordBatch::try_from_iter_with_nullable([("a", ids, true), ("b", names, true)]).unwrap();
        insert.set_parameters(row).unwrap();
        assert_eq!(insert.execute_update().await.unwrap(), 1);
    }
    insert.close().await.unwrap();
    assert_eq!(
        query(&mut client, "SELECT * FROM t ORDER BY id").await,
        [["1", "Ada"], ["2", "NULL"], ["3", "Cyd"]]
    );

    // Several rows with the update itself, as ADBC sends them: it runs once for each.
    let create = ActionCreatePreparedStatementRequest {
        query: "INSERT INTO t VALUES (?, ?)".into(),
        transaction_id: None,
    };
    let action =
        Action { r#type: "CreatePreparedStatement".into(), body: create.as_any().encode_to_vec().into() };
    let mut answer = client.do_action(tonic::Request::new(action)).await.unwrap();
    let body = Any::decode(answer.message().await.unwrap().unwrap().body).unwrap();
    let created: ActionCreatePreparedStatementResult = body.unpack().unwrap().unwrap();
    let command =
        CommandPreparedStatementUpdate { prepared_statement_handle: created.prepared_statement_handle };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![5, 6]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["Eve", "Fay"]));
    let rows = RecordBatch::try_from_iter([("a", ids), ("b", names)]).unwrap();
    let data = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command.as_any().encode_to_vec())))
        .build(futures::stream::iter([Ok(rows)]));
    let data: Vec<_> = data.try_collect().await.unwrap();
    let mut answer = client.do_put(futures::stream::iter(data)).await.unwrap();
    let result = DoPutUpdateResult::decode(answer.message().await.unwrap().unwrap().app_metadata).unwrap();
    assert_eq!(result.record_count, 2);
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["5"]]);

    let mut select = client.prepare("SELECT name FROM t WHERE id = ?".to_owned(), None).await.unwrap();
    assert_eq!(select.dataset_schema().unwrap().fields().len(), 1);
    for (id, name) in [(1, "Ada"), (3, "Cyd")] {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        select.set_parameters(RecordBatch::try_from_iter([("a", ids)]).unwrap()).unwrap();
        let info = select.execute().await.unwrap();
        assert_eq!(show::rows(&fetch(&mut client, info).await), [[name]]);
    }
    select.close().await.unwrap();

    // A prepared DML advertises no result schema, and each execution is a run of its own.
    let mut again = client.prepare("INSERT INTO t VALUES (9, 'x')".to_owned(), None).await.unwrap();
    assert!(again.dataset_schema().map_or(true, |schema| schema.fields().is_empty()));
    assert_eq!(again.execute_update().await.unwrap(), 1);
    assert_eq!(again.execute_update().await.unwrap(), 1);
    again.close().await.unwrap();
    assert_eq!(query(&mut client, "SELECT count(*) FROM t WHERE id = 9").await, [["2"]]);

    let error = client.prepare("SELECT nope FROM t".to_owned(), None).await.unwrap_err();
    assert!(error.to_string().contains("column 'nope' does not exist"), "{error}");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_take_every_statement() {
    let (instance, mut client) = instance_with_table().await;
    files::write(&instance.files().join("in/a.csv"), "1,Ada\n2,Bob\n");
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", instance.files().display());
    assert_eq!(client.execute_update(stage, None).await.unwrap(), 0);
    // COPY through the door of updates answers its row count, through the other its rows.
    assert_eq!(client.execute_update("COPY INTO t FROM @s/in/".to_owned(), None).await.unwrap(), 2);
    assert!(query(&mut client, "COPY INTO t FROM @s/in/").await.is_empty());
    assert_eq!(client.execute_update("INSERT INTO t VALUES (3, 'Cyd')".to_owned(), None).await.unwrap(), 1);
    assert_eq!(query(&mut client, "INSERT INTO t VALUES (4, 'Dan')").await, [["1"]]);

    // A prepared COPY advertises its five columns.
    let copy = client.prepare("COPY INTO t FROM @s/in/".to_owned(), None).await.unwrap();
    let names: Vec<String> =
        copy.dataset_schema().unwrap().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["File", "Rows_loaded", "Errors_seen", "First_error", "First_error_line"]);
    copy.close().await.unwrap();
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_redeemed_twice_runs_once() {
    let (instance, mut client) = instance_with_table().await;
    for file in 0..3 {
        files::write(&instance.files().join(format!("in/{file}.csv")), format!("{file},x\n"));
    }
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", instance.files().display());
    query(&mut client, &stage).await;

    // For a client that asks for it nothing runs before the ticket is redeemed.
    let mut other = deferring(&instance).await;
    let copy = other.execute("COPY INTO t FROM @s/in/ FORCE = true".to_owned(), None).await.unwrap();
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["0"]]);
    let first = show::rows(&fetch(&mut client, copy.clone()).await);
    assert_eq!(first.len(), 3);
    assert_eq!(show::rows(&fetch(&mut other, copy).await), first);
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["3"]]);

    for (id, client) in [(8, &mut other), (9, &mut client)] {
        let insert = format!("INSERT INTO t VALUES ({id}, 'once')");
        let insert = client.execute(insert, None).await.unwrap();
        for _ in 0..2 {
            assert_eq!(show::rows(&fetch(client, insert.clone()).await), [["1"]]);
        }
        let create = client.execute(format!("CREATE TABLE u{id} (x INT)"), None).await.unwrap();
        for _ in 0..2 {
            assert!(fetch(client, create.clone()).await.is_empty());
        }
        let count = format!("SELECT count(*) FROM t WHERE id = {id}");
        assert_eq!(query(client, &count).await, [["1"]]);
    }
    query(&mut client, "DELETE FROM t WHERE id = 8").await;

    // A SELECT runs again at its snapshot.
    let select = client.execute("SELECT count(*) FROM t".to_owned(), None).await.unwrap();
    query(&mut client, "INSERT INTO t VALUES (10, 'later')").await;
    assert_eq!(show::rows(&fetch(&mut client, select).await), [["4"]]);
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["5"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_has_run_when_its_info_is_there() {
    let (instance, mut client) = instance_with_table().await;
    client.execute("INSERT INTO t VALUES (1, 'Ada')".to_owned(), None).await.unwrap();
    client.execute("CREATE TABLE u AS SELECT * FROM t".to_owned(), None).await.unwrap();
    assert_eq!(query(&mut client, "SELECT id, name FROM u").await, [["1", "Ada"]]);
    let error = client.execute("DELETE FROM nowhere".to_owned(), None).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");

    // To ask what a statement gives, or to prepare it, runs nothing.
    let command = CommandStatementQuery { query: "DELETE FROM u".into(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let schema = client.inner_mut().get_schema(descriptor).await.unwrap().into_inner();
    let schema = arrow::datatypes::Schema::try_from(&schema).unwrap();
    assert_eq!(schema.field(0).name(), "number of rows deleted");
    let mut prepared = client.prepare("DELETE FROM u".to_owned(), None).await.unwrap();
    assert_eq!(query(&mut client, "SELECT count(*) FROM u").await, [["1"]]);
    prepared.execute().await.unwrap();
    assert_eq!(query(&mut client, "SELECT count(*) FROM u").await, [["0"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_kept_by_bearer_token_and_by_cookie() {
    let (instance, mut client) = instance_with_table().await;
    query(&mut client, "CREATE DATABASE roads").await;
    query(&mut client, "CREATE TABLE roads.only_here (x INT)").await;
    query(&mut client, "USE roads").await;
    assert_eq!(query(&mut client, "SELECT count(*) FROM only_here").await, [["0"]]);
    // The session is the token's, not the connection's.
    let mut same = FlightSqlServiceClient::new(channel(&instance).await);
    same.set_token(client.token().unwrap().clone());
    assert_eq!(query(&mut same, "SELECT count(*) FROM only_here").await, [["0"]]);
    let mut other = connect(&instance).await;
    let error = other.execute("SELECT count(*) FROM only_here".to_owned(), None).await.unwrap_err();
    assert!(error.to_string().contains("default.only_here"), "{error}");

    // A client without a token is given a cookie.
    let mut raw = FlightServiceClient::new(channel(&instance).await);
    let command = CommandStatementQuery { query: "USE roads".into(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let answer = raw.get_flight_info(descriptor).await.unwrap();
    let cookie = answer.metadata().get("set-cookie").unwrap().to_str().unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("arrow_flight_session_id="), "{cookie}");
    let ticket = answer.into_inner().endpoint[0].ticket.clone().unwrap();
    raw.do_get(ticket).await.unwrap().into_inner().try_collect::<Vec<_>>().await.unwrap();
    let mut with_cookie = FlightSqlServiceClient::new(channel(&instance).await);
    with_cookie.set_header("cookie", cookie);
    assert_eq!(query(&mut with_cookie, "SELECT count(*) FROM only_here").await, [["0"]]);

    // Closing it forgets what it had set.
    let close = Action { r#type: "CloseSession".into(), body: Default::default() };
    with_cookie.do_action(tonic::Request::new(close)).await.unwrap();
    assert!(with_cookie.execute("SELECT count(*) FROM only_here".to_owned(), None).await.is_err());
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_starts_a_statement_once_and_ends_with_its_result() {
    let (instance, mut client) = instance_with_table().await;
    for file in 0..5 {
        files::write(&instance.files().join(format!("in/{file}.csv")), files::numbered_csv(file, 10));
    }
    query(&mut client, "CREATE TABLE n (file INT, row INT, payload STRING)").await;
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", instance.files().display());
    query(&mut client, &stage).await;
    let command =
        CommandStatementQuery { query: "COPY INTO n FROM @s/in/ FORCE = true".into(), transaction_id: None };
    let mut descriptor = Some(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
    let mut last = None;
    let polling = async {
        while let Some(next) = descriptor.take() {
            let answer = client.inner_mut().poll_flight_info(next).await.unwrap().into_inner();
            if let Some(progress) = answer.progress {
                assert!((0.0..=1.0).contains(&progress));
            }
            descriptor = answer.flight_descriptor;
            last = answer.info;
        }
    };
    timeout(PATIENCE, polling).await.unwrap();
    let rows = show::rows(&fetch(&mut client, last.unwrap()).await);
    assert_eq!(rows.len(), 5);
    oracle::assert_exactly_once(instance.url(), "n", 5, 10).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_cancelled_by_its_info() {
    let instance = TestInstance::start_with(|config| config.scheduling.slice_bytes = 1).await;
    let mut client = connect(&instance).await;
    for file in 0..200 {
        files::write(&instance.files().join(format!("in/{file}.csv")), files::numbered_csv(file, 10));
    }
    query(&mut client, "CREATE TABLE n (file INT, row INT, payload STRING)").await;
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", instance.files().display());
    query(&mut client, &stage).await;
    let mut runner = deferring(&instance).await;
    let info = runner.execute("COPY INTO n FROM @s/in/".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let running = tokio::spawn(async move {
        let stream = runner.do_get(ticket).await?;
        stream.try_collect::<Vec<_>>().await
    });
    let cancelling = async {
        loop {
            let body = CancelFlightInfoRequest { info: Some(info.clone()) }.encode_to_vec();
            let action = Action { r#type: "CancelFlightInfo".into(), body: body.into() };
            let mut answer = client.do_action(tonic::Request::new(action)).await.unwrap();
            let body = answer.message().await.unwrap().unwrap().body;
            let status = CancelFlightInfoResult::decode(body).unwrap().status();
            // Before the job exists there is nothing to cancel.
            if status == CancelStatus::Cancelled {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, cancelling).await.unwrap();
    let error = timeout(PATIENCE, running).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert!(oracle::numbered_rows(instance.url(), "n").await.is_empty());
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_says_its_place_and_what_to_do() {
    let (instance, mut client) = instance_with_table().await;
    let error = client.execute("SELECT 1\n FROM\n  nowhere".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("table 'default.nowhere' does not exist"), "{error}");
    let error = client.execute("SELEKT 1".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("line 1, column 1"), "{error}");
    // A descriptor that is none of Flight SQL's.
    let error =
        client.inner_mut().get_flight_info(FlightDescriptor::new_cmd(vec![1, 2, 3])).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error:?}");
    let any = Any::pack(&CommandStatementQuery { query: String::new(), transaction_id: None }).unwrap();
    let error =
        client.inner_mut().get_flight_info(FlightDescriptor::new_cmd(any.encode_to_vec())).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error:?}");
    instance.stop().await;
}

fn ingestion(if_not_exist: TableNotExistOption, if_exists: TableExistsOption) -> CommandStatementIngest {
    let definition =
        TableDefinitionOptions { if_not_exist: if_not_exist.into(), if_exists: if_exists.into() };
    CommandStatementIngest {
        table_definition_options: Some(definition),
        table: "t".into(),
        ..CommandStatementIngest::default()
    }
}

fn appending() -> CommandStatementIngest {
    ingestion(TableNotExistOption::Fail, TableExistsOption::Append)
}

fn numbered(from: i64, to: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((from..to).map(|id| format!("row {id}"))));
    // Not in the order of the table's columns.
    RecordBatch::try_from_iter([("name", names), ("id", ids)]).unwrap()
}

async fn ingest(client: &mut Client, command: CommandStatementIngest, rows: Vec<RecordBatch>) -> String {
    match client.execute_ingest(command, futures::stream::iter(rows.into_iter().map(Ok))).await {
        Ok(rows) => rows.to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_ingested_in_one_commit() {
    let (instance, mut client) = instance_with_table().await;
    let batches = (0..10).map(|n| numbered(n * 1000, (n + 1) * 1000)).collect();
    assert_eq!(ingest(&mut client, appending(), batches).await, "10000");
    let sums = "SELECT count(*), sum(id), count(DISTINCT name) FROM t";
    assert_eq!(query(&mut client, sums).await, [["10000", "49995000", "10000"]]);
    let jobs = ingestions(&instance).await;
    assert_eq!((jobs[0].kind.as_str(), jobs[0].rows_loaded), ("insert", 10_000));

    // A value that does not fit, a column that is not there: nothing of it is loaded.
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["1", "2", "two"]));
    let bad = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let error = ingest(&mut client, appending(), vec![bad]).await;
    assert!(error.contains("row 3 of the ingested data") && error.contains("id BIGINT"), "{error}");
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let unknown = RecordBatch::try_from_iter([("colour", ids)]).unwrap();
    let error = ingest(&mut client, appending(), vec![unknown]).await;
    assert!(error.contains("column 'colour' does not exist in table 'default.t'"), "{error}");
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["10000"]]);

    for (command, said) in [
        (CommandStatementIngest { temporary: true, ..appending() }, "temporary tables"),
        (
            CommandStatementIngest { transaction_id: Some("x".into()), ..appending() },
            "the transaction's id is none of ours",
        ),
        (
            CommandStatementIngest { table: "nope".into(), ..appending() },
            "table 'default.nope' does not exist",
        ),
        (CommandStatementIngest { catalog: Some("nope".into()), ..appending() }, "catalog 'nope'"),
        (ingestion(TableNotExistOption::Create, TableExistsOption::Fail), "exists already"),
    ] {
        let error = ingest(&mut client, command, vec![numbered(0, 1)]).await;
        assert!(error.contains(said), "{error}");
    }

    let replace = ingestion(TableNotExistOption::Create, TableExistsOption::Replace);
    assert_eq!(ingest(&mut client, replace, vec![numbered(0, 3)]).await, "3");
    assert_eq!(query(&mut client, "SELECT id, name FROM t WHERE id > 1").await, [["2", "row 2"]]);
    instance.stop().await;
}

/// The jobs of bulk ingestions, newest first.
async fn ingestions(instance: &TestInstance) -> Vec<v1::Job> {
    let client = instance.client().await;
    let list = v1::ListJobsRequest::default();
    let mut jobs = client.jobs().list_jobs(list).await.unwrap().into_inner().jobs;
    jobs.retain(|job| job.statement.starts_with("bulk ingestion"));
    jobs.sort_by(|a, b| b.job_id.cmp(&a.job_id));
    jobs
}

/// The data files of all tables.
fn data_files(instance: &TestInstance) -> usize {
    let tables = glob_folders(&instance.data().join("warehouse/default"));
    let files = tables.iter().map(|table| table.join("data"));
    files.filter_map(|data| std::fs::read_dir(data).ok()).map(Iterator::count).sum()
}

fn glob_folders(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_while_it_sends_rows_leaves_nothing() {
    let (instance, mut client) = instance_with_table().await;
    let create = ingestion(TableNotExistOption::Create, TableExistsOption::Fail);
    for command in [appending(), CommandStatementIngest { table: "fresh".into(), ..create }] {
        // Rows, and then nothing more, for as long as the call lasts.
        let rows = futures::stream::iter((0..4).map(|n| Ok(numbered(n * 100_000, (n + 1) * 100_000))));
        let rows = futures::StreamExt::chain(rows, futures::stream::pending());
        let mut sender = connect(&instance).await;
        let sending = tokio::spawn(async move { sender.execute_ingest(command, rows).await });
        let last_is = |phase: v1::JobPhase| {
            let instance = &instance;
            async move {
                while ingestions(instance).await.first().is_none_or(|job| job.phase() != phase) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        timeout(PATIENCE, last_is(v1::JobPhase::Running)).await.unwrap();
        sending.abort();
        timeout(PATIENCE, last_is(v1::JobPhase::Aborted)).await.unwrap();
    }
    assert_eq!(query(&mut client, "SELECT count(*) FROM t").await, [["0"]]);
    assert_eq!(query(&mut client, "SELECT count(*) FROM system.tables WHERE name = 'fresh'").await, [["0"]]);
    // What the worker had written is removed as the slice ends, or swept.
    let swept = async {
        while data_files(&instance) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, swept).await.unwrap();
    instance.stop().await;
}
