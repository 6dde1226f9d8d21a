//! Worker groups: statements and tasks run on the workers of their warehouse, whoever of the others has time, over the
//! death of leaders and of workers.
//!
//! Events: workers of one group or of the other are killed and come back, in the same group or in another; the leader is
//! killed with a load of a group without workers in its state. Who ran a load is told by who was alive meanwhile, and by
//! the slices that the leader counts for each worker while the store holds their files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use futures::TryStreamExt;
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::objectstore::{Operation, S3Server};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::{files, show};
use stevedore_proto::v1::{self, JobPhase};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

const FILES: usize = 6;
const ROWS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(120);
/// The leader looks for slices to lease five times a second; in this time it would have found any that it may lease.
const MANY_ROUNDS: Duration = Duration::from_secs(5);
/// The workers by number.
const DEFAULT: usize = 0;
const ETL: usize = 1;

/// One cluster at a time is enough for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let batches = timeout(PATIENCE, client.query(sql)).await.expect("the statement ends");
    show::rows(&batches.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

async fn refused(client: &Client, sql: &str) -> String {
    match timeout(PATIENCE, client.query(sql)).await.expect("the statement ends") {
        Ok(batches) => panic!("not refused: {sql}\n{:?}", show::rows(&batches)),
        Err(error) => error.to_string(),
    }
}

/// Three coordinators, a worker that names no group and one of `etl`; files to load, and tables for them.
async fn cluster_of_two_groups() -> (Cluster, S3Server) {
    let s3 = S3Server::start(&["bucket"]).await;
    for file in 0..FILES {
        let path = s3.folder(&format!("bucket/in/{file:04}.csv"));
        files::write(&path, files::numbered_csv(file, ROWS));
    }
    let groups = vec!["", "ETL"];
    let cluster = Cluster::start(ClusterConfig { groups, ..ClusterConfig::default() }).await;
    let client = cluster.client(cluster.leader().await.0).await;
    for table in ["t", "u"] {
        run(&client, &format!("CREATE TABLE {table} (file INT, row INT, payload STRING)")).await;
    }
    run(&client, &s3.create_stage("s", "bucket")).await;
    (cluster, s3)
}

/// Submits a COPY in a session of `etl`, by the gRPC service: its settings are those of a session.
async fn submit_copy(cluster: &Cluster, key: &str) {
    let client = cluster.client(cluster.leader().await.0).await;
    let request = v1::SubmitJobRequest {
        sql: "COPY INTO t FROM @s/in/".into(),
        idempotency_key: key.into(),
        settings: [("warehouse".to_owned(), "etl".to_owned())].into(),
        ..Default::default()
    };
    client.jobs().submit_job(request).await.unwrap();
}

async fn ended(cluster: &Cluster, key: &str) -> v1::Job {
    let is_over = stevedore_integration_tests::cluster_jobs::has_ended;
    let job = cluster.find_job_until(key, PATIENCE, "over", is_over).await;
    assert_eq!(job.phase(), JobPhase::Committed, "{:?}", job.error);
    job
}

/// Waits until the leader counts so many workers.
async fn until_workers(cluster: &Cluster, count: usize) {
    let start = Instant::now();
    while cluster.leader().await.1.workers.len() != count {
        assert!(start.elapsed() < PATIENCE, "the leader does not count {count} workers");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The runs of a task, newest first, once so many have ended.
async fn task_ended(client: &Client, task: &str, runs: usize) -> Vec<Vec<String>> {
    let start = Instant::now();
    loop {
        let sql = format!(
            "SELECT state, warehouse, exception_text FROM task_history('{task}') WHERE completed_time IS NOT NULL"
        );
        let found = run(client, &sql).await;
        if found.len() >= runs {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "task {task} has not run {runs} times: {found:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Some rows into a table by bulk ingestion, in a session of the warehouse.
async fn ingest(cluster: &Cluster, coordinator: usize, warehouse: &str) -> Result<i64, String> {
    let channel =
        Endpoint::from_shared(cluster.url(coordinator).to_owned()).unwrap().connect().await.unwrap();
    let mut client = FlightSqlServiceClient::new(channel);
    client.handshake("somebody", "anything").await.unwrap();
    let info = client.execute(format!("USE WAREHOUSE {warehouse}"), None).await.unwrap();
    for endpoint in info.endpoint {
        let rows = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
        rows.try_collect::<Vec<_>>().await.unwrap();
    }
    let options = TableDefinitionOptions {
        if_not_exist: TableNotExistOption::Create.into(),
        if_exists: TableExistsOption::Append.into(),
    };
    let command = CommandStatementIngest {
        table_definition_options: Some(options),
        table: "ingested".into(),
        ..CommandStatementIngest::default()
    };
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let rows = futures::stream::iter([Ok(rows)]);
    client.execute_ingest(command, rows).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_of_a_group_waits_for_its_workers_over_a_change_of_leaders() {
    let _one = ONE_AT_A_TIME.lock().await;
    let (mut cluster, _s3) = cluster_of_two_groups().await;
    cluster.kill_worker(ETL);
    until_workers(&cluster, 1).await;
    submit_copy(&cluster, "waits").await;
    let running = |job: &v1::Job| job.phase() == JobPhase::Running;
    let job = cluster.find_job_until("waits", PATIENCE, "running", running).await;
    assert_eq!(job.warehouse, "etl");

    // The worker of the default group has nothing to do, and gets none of it: not from this leader, not from the next.
    let never_leased = async |cluster: &Cluster| {
        let since = Instant::now();
        while since.elapsed() < MANY_ROUNDS {
            let (_, status) = cluster.leader().await;
            let busy = status.workers.iter().find(|worker| worker.running > 0);
            assert!(busy.is_none(), "a worker of another group has a slice: {busy:?}");
            sleep(Duration::from_millis(50)).await;
        }
        let job = cluster.find_job("waits").await.unwrap();
        assert_eq!(job.progress.unwrap().files_done, 0);
        assert!(running(&cluster.find_job("waits").await.unwrap()));
    };
    never_leased(&cluster).await;
    let (leader, _) = cluster.leader().await;
    cluster.kill_coordinator(leader);
    let (next, _) = cluster.leader().await;
    assert_ne!(leader, next);
    until_workers(&cluster, 1).await;
    never_leased(&cluster).await;

    // Meanwhile the default group works as ever.
    let client = cluster.client(next).await;
    run(&client, "INSERT INTO u VALUES (1, 1, 'x')").await;
    assert_eq!(run(&client, "SELECT count(*) FROM u").await, [["1"]]);

    // Its own worker comes back and does all of it, while no other lives.
    cluster.kill_worker(DEFAULT);
    cluster.restart_worker(ETL);
    ended(&cluster, "waits").await;
    cluster.restart_worker(DEFAULT);
    cluster.restart_coordinator(leader);
    until_workers(&cluster, 2).await;
    Oracle::new(cluster.url(next)).assert_exactly_once("t", FILES, ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_tasks_run_on_the_workers_of_their_warehouse_alone() {
    let _one = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_of_two_groups().await;
    let (leader, _) = cluster.leader().await;
    let (plain, etl) = (cluster.client(leader).await, cluster.client(leader).await);
    run(&etl, "USE WAREHOUSE etl").await;
    run(&etl, "CREATE TASK k WAREHOUSE = 'etl' AS COPY INTO t FROM @s/in/").await;
    run(&etl, "CREATE TASK d AS INSERT INTO u SELECT 1, 1, 'd'").await;
    let shown = run(&plain, "SHOW WAREHOUSES").await;
    let named: Vec<[&str; 3]> = shown.iter().map(|row| [&row[0][..], &row[1], &row[2]]).collect();
    assert_eq!(named, [["default", "Running", "1"], ["etl", "Running", "1"]]);

    // There are more slices than the etl worker has slots, and still the other gets none.
    s3.hold(Operation::Read, "/bucket/in/", 0);
    run(&etl, "EXECUTE TASK k").await;
    s3.wait_until_held(1).await;
    let busy = || async {
        let (_, status) = cluster.leader().await;
        let busy = status.workers.into_iter().filter(|worker| worker.running > 0);
        busy.map(|worker| (worker.worker_id, worker.group)).collect::<Vec<_>>()
    };
    assert_eq!(busy().await, [("worker-2".to_owned(), "etl".to_owned())]);
    sleep(MANY_ROUNDS).await;
    assert_eq!(busy().await, [("worker-2".to_owned(), "etl".to_owned())]);
    s3.release();
    assert_eq!(task_ended(&plain, "k", 1).await, [["SUCCEEDED", "etl", "NULL"]]);
    Oracle::new(cluster.url(leader)).assert_exactly_once("t", FILES, ROWS).await;

    // Without the default worker the etl session reads and writes, and the default one waits in vain.
    cluster.kill_worker(DEFAULT);
    until_workers(&cluster, 1).await;
    assert_eq!(run(&etl, "SELECT count(*) FROM t").await, [[(FILES * ROWS).to_string()]]);
    assert_eq!(run(&etl, "COPY INTO u FROM @s/in/").await.len(), FILES);
    run(&etl, "INSERT INTO u VALUES (100, 1, 'x')").await;
    run(&etl, "UPDATE u SET payload = 'y' WHERE file = 100").await;
    assert_eq!(run(&etl, "SELECT payload FROM u WHERE file = 100").await, [["y"]]);
    run(&etl, "MERGE INTO u USING (SELECT 100 AS file) AS n ON u.file = n.file WHEN MATCHED THEN DELETE")
        .await;
    assert_eq!(run(&etl, "SELECT count(*) FROM u").await, [[(FILES * ROWS).to_string()]]);
    // Whatever else is asked of a worker.
    assert_eq!(run(&etl, "SELECT $1 FROM @s/in/ (FILES => ('0000.csv')) LIMIT 1").await, [["0"]]);
    assert_eq!(run(&etl, "SELECT count(*) FROM infer_schema(location => '@s/in/0000.csv')").await, [["3"]]);
    run(&etl, "COPY INTO u FROM @s/in/ FORCE = TRUE VALIDATION_MODE = RETURN_1_ROWS").await;
    let explained = run(&etl, "EXPLAIN COPY INTO u FROM @s/in/").await.concat().join(" ");
    assert!(explained.contains("1 slices at a time, warehouse etl"), "{explained}");
    run(&etl, "SELECT count(*) FROM u AT (TIMESTAMP => now()::TIMESTAMP)").await;
    run(&etl, "CREATE TABLE made AS SELECT * FROM u").await;
    run(&etl, "COPY INTO @s/out/ FROM made FILE_FORMAT = (TYPE = NDJSON)").await;
    run(&etl, "CREATE TABLE grows (file BIGINT) ENABLE_SCHEMA_EVOLUTION = true").await;
    run(&etl, "COPY INTO grows FROM @s/out/ FILE_FORMAT = (TYPE = NDJSON)").await;
    assert_eq!(run(&etl, "SELECT count(payload) FROM grows").await, [[(FILES * ROWS).to_string()]]);
    assert_eq!(ingest(&cluster, leader, "etl").await.unwrap(), ROWS as i64);
    run(
        &etl,
        "CREATE TASK c WAREHOUSE = etl WHEN (SELECT count(*) FROM t) > 0 AS INSERT INTO u SELECT * FROM u",
    )
    .await;
    run(&etl, "EXECUTE TASK c").await;
    assert_eq!(task_ended(&etl, "c", 1).await, [["SUCCEEDED", "etl", "NULL"]]);
    let error = refused(&plain, "SELECT count(*) FROM t").await;
    assert!(error.contains("no worker of warehouse 'default' is connected"), "{error}");
    let shown = run(&plain, "SHOW WAREHOUSES LIKE 'def%'").await;
    assert_eq!((&shown[0][1][..], &shown[0][2][..]), ("No workers", "0"));
    run(&etl, "EXECUTE TASK k").await;
    assert_eq!(task_ended(&etl, "k", 2).await[0], ["SUCCEEDED", "etl", "NULL"]);

    // The other way round.
    cluster.restart_worker(DEFAULT);
    until_workers(&cluster, 2).await;
    cluster.kill_worker(ETL);
    until_workers(&cluster, 1).await;
    let error = refused(&etl, "SELECT count(*) FROM t").await;
    assert!(error.contains("no worker of warehouse 'etl' is connected"), "{error}");
    assert!(error.contains("stevedore worker --group etl"), "{error}");
    let error = ingest(&cluster, leader, "etl").await.unwrap_err();
    assert!(error.contains("no worker of warehouse 'etl' is connected"), "{error}");
    run(&plain, "EXECUTE TASK d").await;
    assert_eq!(task_ended(&plain, "d", 1).await, [["SUCCEEDED", "default", "NULL"]]);
    // A group whose workers are away is there all the same.
    run(&plain, "SET warehouse = 'etl'").await;
    run(&plain, "UNSET warehouse").await;
    assert_eq!(
        run(&plain, "SELECT name, warehouse FROM system.tasks ORDER BY name").await,
        [["c", "etl"], ["d", "default"], ["k", "etl"]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_names_is_not_found_and_one_that_is_gone_can_be_dropped() {
    let _one = ONE_AT_A_TIME.lock().await;
    let (mut cluster, _s3) = cluster_of_two_groups().await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    for sql in [
        "USE WAREHOUSE elt",
        "SET warehouse = 'elt'",
        "CREATE TASK k WAREHOUSE = 'elt' AS SELECT 1",
        "DROP WAREHOUSE elt",
    ] {
        let error = refused(&client, sql).await;
        assert!(error.contains("warehouse 'elt' does not exist"), "{sql}: {error}");
        assert!(error.contains("default, etl") && error.contains("worker --group elt"), "{sql}: {error}");
    }
    run(&client, "CREATE TASK k WAREHOUSE = 'ETL' AS SELECT 1").await;
    let error = refused(&client, "ALTER TASK k SET WAREHOUSE = 'elt'").await;
    assert!(error.contains("warehouse 'elt' does not exist"), "{error}");
    let request = v1::SubmitJobRequest {
        sql: "COPY INTO t FROM @s/in/".into(),
        settings: [("warehouse".to_owned(), "elt".to_owned())].into(),
        ..Default::default()
    };
    let error = client.jobs().submit_job(request).await.unwrap_err();
    assert!(error.message().contains("warehouse 'elt' does not exist"), "{error}");

    // It is in use as long as it has workers or a task; on any coordinator.
    let follower = cluster.client((leader + 1) % cluster.coordinators()).await;
    let error = refused(&follower, "DROP WAREHOUSE etl").await;
    assert!(error.contains("worker 'worker-2' is in it"), "{error}");
    cluster.kill_worker(ETL);
    until_workers(&cluster, 1).await;
    let error = refused(&client, "DROP WAREHOUSE etl").await;
    assert!(error.contains("task 'k' names it"), "{error}");
    run(&client, "ALTER TASK k UNSET WAREHOUSE").await;
    assert_eq!(run(&client, "SELECT warehouse FROM system.tasks").await, [["default"]]);
    run(&client, "DROP WAREHOUSE etl").await;
    run(&client, "DROP WAREHOUSE IF EXISTS etl").await;
    assert_eq!(run(&client, "SELECT name FROM system.warehouses").await, [["default"]]);
    assert!(refused(&client, "USE WAREHOUSE etl").await.contains("does not exist"));
    let error = refused(&client, "DROP WAREHOUSE default").await;
    assert!(error.contains("always exists"), "{error}");

    // A worker of it makes it anew.
    cluster.restart_worker(ETL);
    until_workers(&cluster, 2).await;
    run(&client, "USE WAREHOUSE etl").await;
    assert_eq!(run(&client, "SELECT 1").await, [["1"]]);
}
