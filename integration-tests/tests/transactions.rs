//! Transactions as Flight SQL clients have them, and what becomes of them when clients, coordinators and leaders go.
//! What the statements do is in `slt/transactions`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandStatementIngest, EndTransaction, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use arrow_flight::{Action, FlightInfo};
use futures::TryStreamExt;
use prost::bytes::Bytes;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::{files, show};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
/// Commits that a leader is killed beside.
const ROUNDS: i64 = 4;

type Client = FlightSqlServiceClient<Channel>;
type Failed = arrow_flight::error::FlightError;

async fn open(url: &str) -> Option<Client> {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().timeout(PATIENCE).connect().await.ok()?;
    Some(FlightSqlServiceClient::new(channel))
}

/// A client with a session of its own.
async fn connect(url: &str) -> Client {
    let mut client = open(url).await.expect("the coordinator answers");
    client.handshake("somebody", "anything").await.unwrap();
    client
}

async fn fetch(client: &mut Client, info: FlightInfo) -> Result<Vec<RecordBatch>, Failed> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let stream = client.do_get(endpoint.ticket.unwrap()).await?;
        batches.extend(stream.try_collect::<Vec<_>>().await?);
    }
    Ok(batches)
}

async fn attempt(client: &mut Client, sql: &str, id: Option<&Bytes>) -> Result<Vec<Vec<String>>, Failed> {
    let info = client.execute(sql.to_owned(), id.cloned()).await?;
    Ok(show::rows(&fetch(client, info).await?))
}

async fn run(client: &mut Client, sql: &str, id: Option<&Bytes>) -> Vec<Vec<String>> {
    attempt(client, sql, id).await.unwrap_or_else(|error| panic!("{error}\n{sql}"))
}

async fn refused(client: &mut Client, sql: &str, id: Option<&Bytes>) -> String {
    attempt(client, sql, id).await.expect_err(sql).to_string()
}

fn numbers(count: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    RecordBatch::try_from_iter([("id", ids)]).unwrap()
}

async fn ingest(client: &mut Client, table: &str, creates: bool, id: &Bytes) -> Result<i64, Failed> {
    let not_exist = if creates { TableNotExistOption::Create } else { TableNotExistOption::Fail };
    let exists = if creates { TableExistsOption::Fail } else { TableExistsOption::Append };
    let command = CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: not_exist.into(),
            if_exists: exists.into(),
        }),
        table: table.to_owned(),
        transaction_id: Some(id.clone()),
        ..CommandStatementIngest::default()
    };
    client.execute_ingest(command, futures::stream::iter([Ok(numbers(5))])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_its_client_names_is_seen_by_whoever_names_it() {
    let instance = TestInstance::start().await;
    let (mut one, mut two) = (connect(instance.url()).await, connect(instance.url()).await);
    run(&mut one, "CREATE TABLE t (id BIGINT)", None).await;

    let id = one.begin_transaction().await.unwrap();
    assert_eq!(
        one.execute_update("INSERT INTO t VALUES (1), (2)".into(), Some(id.clone())).await.unwrap(),
        2
    );
    let mut prepared = one.prepare("DELETE FROM t WHERE id = 1".into(), Some(id.clone())).await.unwrap();
    assert_eq!(prepared.execute_update().await.unwrap(), 1);
    assert_eq!(ingest(&mut one, "t", false, &id).await.unwrap(), 5);
    let count = "SELECT count(*) FROM t";
    assert_eq!(run(&mut one, count, Some(&id)).await, [["6"]]);
    // Neither the same session nor another one sees it; another one that names it does.
    assert_eq!(run(&mut one, count, None).await, [["0"]]);
    assert_eq!(run(&mut two, count, Some(&id)).await, [["6"]]);
    two.end_transaction(id.clone(), EndTransaction::Commit).await.unwrap();
    assert_eq!(run(&mut two, count, None).await, [["6"]]);
    // The answer may have been lost.
    one.end_transaction(id.clone(), EndTransaction::Commit).await.unwrap();
    let error = one.end_transaction(id.clone(), EndTransaction::Rollback).await.unwrap_err().to_string();
    assert!(error.contains("has committed"), "{error}");
    assert!(refused(&mut one, count, Some(&id)).await.contains("has committed: begin another one"));

    let id = one.begin_transaction().await.unwrap();
    assert_eq!(ingest(&mut one, "t", false, &id).await.unwrap(), 5);
    one.end_transaction(id.clone(), EndTransaction::Rollback).await.unwrap();
    assert_eq!(run(&mut one, count, None).await, [["6"]]);
    assert!(refused(&mut one, count, Some(&id)).await.contains("current transaction is aborted"));

    // A commit of what has failed is no success, whatever was said before.
    let id = one.begin_transaction().await.unwrap();
    one.execute_update("INSERT INTO t VALUES (7)".into(), Some(id.clone())).await.unwrap();
    assert!(refused(&mut one, "SELECT nothing FROM t", Some(&id)).await.contains("nothing"));
    let error = one.end_transaction(id, EndTransaction::Commit).await.unwrap_err().to_string();
    assert!(error.contains("the transaction was rolled back"), "{error}");
    assert_eq!(run(&mut one, count, None).await, [["6"]]);

    for bad in [Bytes::from_static(b"x"), Bytes::copy_from_slice(&[7; 16])] {
        assert!(refused(&mut one, count, Some(&bad)).await.contains("the transaction's id is none of ours"));
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drivers_transaction_stands_in_the_way_of_ddl_once_it_has_changed_something() {
    let instance = TestInstance::start().await;
    let mut client = connect(instance.url()).await;
    let id = client.begin_transaction().await.unwrap();
    run(&mut client, "CREATE TABLE t (id BIGINT)", Some(&id)).await;
    assert_eq!(run(&mut client, "SELECT count(*) FROM t", Some(&id)).await, [["0"]]);
    run(&mut client, "CREATE TABLE u (id BIGINT)", Some(&id)).await;
    assert_eq!(ingest(&mut client, "made", true, &id).await.unwrap(), 5);
    let error = refused(&mut client, "DROP TABLE u", Some(&id)).await;
    assert!(
        error.contains("DROP TABLE cannot run inside a transaction: COMMIT or ROLLBACK first"),
        "{error}"
    );
    let error = ingest(&mut client, "another", true, &id).await.unwrap_err().to_string();
    assert!(error.contains("cannot run inside a transaction"), "{error}");
    // Refused is not failed: it goes on.
    assert_eq!(run(&mut client, "SELECT count(*) FROM made", Some(&id)).await, [["5"]]);
    assert_eq!(run(&mut client, "SELECT count(*) FROM made", None).await, [["0"]]);
    client.end_transaction(id, EndTransaction::Commit).await.unwrap();
    assert_eq!(run(&mut client, "SELECT count(*) FROM made", None).await, [["5"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_with_its_session() {
    let instance = TestInstance::start().await;
    let mut other = connect(instance.url()).await;
    run(&mut other, "CREATE TABLE t (id BIGINT)", None).await;
    files::write(&instance.files().join("in/a.csv"), "1\n2\n");
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/in/' FILE_FORMAT = (TYPE = CSV)", instance.files().display());
    run(&mut other, &stage, None).await;

    // A client without a session would never come back to its transaction.
    let mut nobody = open(instance.url()).await.unwrap();
    assert!(refused(&mut nobody, "BEGIN", None).await.contains("BEGIN needs a session"));
    let error = nobody.execute_update("BEGIN".into(), None).await.unwrap_err().to_string();
    assert!(error.contains("BEGIN needs a session"), "{error}");

    // One that says goodbye.
    let mut client = connect(instance.url()).await;
    run(&mut client, "BEGIN", None).await;
    assert_eq!(run(&mut client, "COPY INTO t FROM @s", None).await.len(), 1);
    assert_eq!(run(&mut other, "COPY INTO t FROM @s", None).await.len(), 0);
    let mut close = tonic::Request::new(Action::new("CloseSession", Bytes::new()));
    let token = format!("Bearer {}", client.token().unwrap());
    close.metadata_mut().insert("authorization", token.parse().unwrap());
    client.inner_mut().do_action(close).await.unwrap();

    // And one that is not heard of any more.
    let mut client = connect(instance.url()).await;
    run(&mut client, "SET transaction_idle_timeout = 1", None).await;
    run(&mut client, "BEGIN", None).await;
    assert_eq!(run(&mut client, "COPY INTO t FROM @s", None).await.len(), 1);
    drop(client);
    let given_back = async {
        while run(&mut other, "COPY INTO t FROM @s", None).await.is_empty() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, given_back).await.unwrap();
    assert_eq!(run(&mut other, "SELECT count(*) FROM t", None).await, [["2"]]);
    let phases = "SELECT phase, count(*) FROM system.transactions GROUP BY phase ORDER BY phase";
    assert_eq!(run(&mut other, phases, None).await, [["failed", "1"], ["rolled back", "1"]]);

    // A driver's transaction that only read goes on, with what is there by then.
    let mut reader = connect(instance.url()).await;
    let id = reader.begin_transaction().await.unwrap();
    run(&mut reader, "SET transaction_idle_timeout = 1", Some(&id)).await;
    assert_eq!(run(&mut reader, "SELECT count(*) FROM t", Some(&id)).await, [["2"]]);
    run(&mut other, "INSERT INTO t VALUES (0)", None).await;
    assert_eq!(run(&mut reader, "SELECT count(*) FROM t", Some(&id)).await, [["2"]]);
    let anew = async {
        let open = "SELECT id FROM system.transactions WHERE phase = 'open'";
        while !run(&mut other, open, None).await.is_empty() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, anew).await.unwrap();
    assert_eq!(run(&mut reader, "SELECT count(*) FROM t", Some(&id)).await, [["3"]]);

    // What they had written is removed; what was committed stays.
    let table =
        std::fs::read_dir(instance.data().join("warehouse/default")).unwrap().next().unwrap().unwrap();
    let metadata = || std::fs::read_dir(table.path().join("metadata")).unwrap().count();
    let swept = async {
        while metadata() > 7 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, swept).await.unwrap();
    assert_eq!(run(&mut other, "SELECT sum(id) FROM t", None).await, [["3"]]);
    instance.stop().await;
}

/// A session of this token on another coordinator.
async fn elsewhere(cluster: &Cluster, token: &str) -> Client {
    let (leader, _) = cluster.leader().await;
    let mut client = open(cluster.url(leader)).await.expect("the leader answers");
    client.set_token(token.to_owned());
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_finds_its_transaction_after_its_coordinator_and_leader_was_killed() {
    let mut cluster = Cluster::start(ClusterConfig::default()).await;
    let (leader, _) = cluster.leader().await;
    let mut client = connect(cluster.url(leader)).await;
    let token = client.token().unwrap().clone();
    for table in ["a", "b"] {
        run(&mut client, &format!("CREATE TABLE {table} (id BIGINT)"), None).await;
    }
    run(&mut client, "BEGIN", None).await;
    run(&mut client, "INSERT INTO a VALUES (1)", None).await;
    cluster.kill_coordinator(leader);

    let mut client = elsewhere(&cluster, &token).await;
    cluster.ready().await;
    assert_eq!(run(&mut client, "SELECT id FROM a", None).await, [["1"]]);
    run(&mut client, "INSERT INTO b SELECT id + 1 FROM a", None).await;
    run(&mut client, "UPDATE a SET id = 10", None).await;
    cluster.restart_coordinator(leader);
    let (second, _) = cluster.leader().await;
    let mut other = connect(cluster.url(second)).await;
    assert_eq!(run(&mut other, "SELECT count(*) FROM a", None).await, [["0"]]);
    run(&mut client, "COMMIT", None).await;
    assert_eq!(run(&mut other, "SELECT a.id, b.id FROM a, b", None).await, [["10", "2"]]);

    // Killed beside the commit: the client asks until it knows, and both tables have the row, or would have neither.
    for round in 100..100 + ROUNDS {
        while cluster.status(leader).await.is_none() || cluster.status(second).await.is_none() {
            sleep(Duration::from_millis(100)).await;
        }
        let (leading, _) = cluster.leader().await;
        cluster.ready().await;
        let mut client = connect(cluster.url(leading)).await;
        let id = client.begin_transaction().await.unwrap();
        for table in ["a", "b"] {
            let insert = format!("INSERT INTO {table} VALUES ({round})");
            run(&mut client, &insert, Some(&id)).await;
        }
        let committed = id.clone();
        let committing =
            tokio::spawn(async move { client.end_transaction(committed, EndTransaction::Commit).await });
        sleep(Duration::from_millis(u64::try_from(round % 4).unwrap() * 7)).await;
        cluster.kill_coordinator(leading);
        let first = committing.await.unwrap();
        let asked = async {
            loop {
                let mut client = connect(cluster.url(cluster.leader().await.0)).await;
                match client.end_transaction(id.clone(), EndTransaction::Commit).await {
                    Ok(()) => return,
                    Err(error) => assert!(!error.to_string().contains("rolled back"), "{error}"),
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| panic!("no answer in round {round}; at first: {first:?}"));
        cluster.ready().await;
        let mut client = connect(cluster.url(cluster.leader().await.0)).await;
        let seen = format!(
            "SELECT (SELECT count(*) FROM a WHERE id = {round}), (SELECT count(*) FROM b WHERE id = {round})"
        );
        assert_eq!(run(&mut client, &seen, None).await, [["1", "1"]]);
        cluster.restart_coordinator(leading);
    }
}
