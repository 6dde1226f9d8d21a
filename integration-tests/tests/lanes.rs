//! Many small files over two workers end in few data files, each row once, whatever happens to the worker that writes
//! them or to the one that helps it read.
//!
//! One slice holds all files. Its holder writes; the other worker reads portions for it. The middle of a load is no
//! matter of luck: the store answers some requests and holds the others until the test has done its worst.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::objectstore::{Operation, S3Server};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::{files, show};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const FILES: usize = 400;
const ROWS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);
const HELPS: &str = "reading a portion for another worker";

/// One cluster at a time is enough for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let batches = timeout(PATIENCE, client.query(sql)).await.expect("the statement ends");
    show::rows(&batches.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// One coordinator and two workers, files to load, and a table for them.
async fn cluster_with_files(table: &str) -> (Cluster, S3Server) {
    let s3 = S3Server::start(&["bucket"]).await;
    for file in 0..FILES {
        let path = s3.folder(&format!("bucket/in/{file:04}.csv"));
        files::write(&path, files::numbered_csv(file, ROWS));
    }
    // All files are one slice, of some thirty portions.
    let config = ClusterConfig { coordinators: 1, lane_bytes: 2 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).await;
    let client = cluster.client(0).await;
    run(&client, table).await;
    run(&client, &s3.create_stage("s", "bucket")).await;
    (cluster, s3)
}

const TABLE: &str = "CREATE TABLE t (file INT, row INT, payload STRING)";

/// Starts the load and returns in its middle: some files are done, and both workers are held while they read others.
/// Answers the load, the worker that writes, and the one that helps it.
async fn load_halfway(cluster: &Cluster, s3: &S3Server) -> (JoinHandle<usize>, usize, usize) {
    s3.hold(Operation::Read, "/bucket/in/", FILES / 4);
    let client = cluster.client(0).await;
    let load = tokio::spawn(async move { run(&client, "COPY INTO t FROM @s/in/").await.len() });
    let writer = cluster.busy_worker().await;
    let helper = 1 - writer;
    let start = Instant::now();
    while !cluster.worker_log(helper).contains(HELPS) {
        assert!(start.elapsed() < PATIENCE, "nobody helps");
        sleep(Duration::from_millis(20)).await;
    }
    s3.wait_until_held(2).await;
    (load, writer, helper)
}

/// All rows are there once, in so many data files, and a repeated load loads nothing.
async fn assert_loaded(cluster: &Cluster, load: JoinHandle<usize>, data_files: usize) {
    assert_eq!(timeout(PATIENCE, load).await.expect("the load ends").unwrap(), FILES);
    let oracle = Oracle::new(cluster.url(0));
    oracle.assert_exactly_once("t", FILES, ROWS).await;
    assert_eq!(oracle.data_files("t").await.len(), data_files);
    let client = cluster.client(0).await;
    assert!(run(&client, "COPY INTO t FROM @s/in/").await.is_empty(), "a repeated COPY loads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_fill_one_data_file() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3) = cluster_with_files(TABLE).await;
    let (load, writer, _) = load_halfway(&cluster, &s3).await;
    assert!(!cluster.worker_log(writer).contains(HELPS));
    s3.release();
    assert_loaded(&cluster, load, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_fill_one_data_file_a_partition() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let table = "CREATE TABLE t (file INT, row INT, payload STRING) PARTITION BY (truncate(25, row))";
    let (cluster, s3) = cluster_with_files(table).await;
    let (load, ..) = load_halfway(&cluster, &s3).await;
    s3.release();
    assert_loaded(&cluster, load, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_writes_is_killed_halfway() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files(TABLE).await;
    let (load, writer, helper) = load_halfway(&cluster, &s3).await;
    cluster.kill_worker(writer);
    s3.release();
    // The one that helped writes now.
    assert_loaded(&cluster, load, 1).await;
    assert_eq!(cluster.leader().await.1.workers[0].worker_id, format!("worker-{}", helper + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_helps_is_killed_halfway() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files(TABLE).await;
    let (load, _, helper) = load_halfway(&cluster, &s3).await;
    cluster.kill_worker(helper);
    s3.release();
    assert_loaded(&cluster, load, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_helps_stands_still() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3) = cluster_with_files(TABLE).await;
    let (load, _, helper) = load_halfway(&cluster, &s3).await;
    cluster.worker(helper).freeze();
    s3.release();
    assert_loaded(&cluster, load, 1).await;
    cluster.worker(helper).thaw();
    // What it had still to send went nowhere.
    cluster.ready().await;
    Oracle::new(cluster.url(0)).assert_exactly_once("t", FILES, ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_that_a_helper_reads_is_an_error_of_its_file() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3) = cluster_with_files(TABLE).await;
    for file in 0..FILES {
        let path = s3.folder(&format!("bucket/bad/{file:04}.csv"));
        files::write(&path, files::numbered_csv(file, ROWS) + "x,0,bad\n");
    }
    let client = cluster.client(0).await;
    let error = client.query("COPY INTO t FROM @s/bad/").await.unwrap_err().to_string();
    assert!(
        error.contains("invalid value 'x' for column 1 (file INT)") && error.contains("line 101"),
        "{error}"
    );
    let rows = run(&client, "COPY INTO t FROM @s/bad/ ON_ERROR = continue").await;
    assert_eq!(rows.len(), FILES);
    assert!(rows.iter().all(|row| row[1..3] == ["100", "1"] && row[4] == "101"), "{:?}", rows[0]);
    Oracle::new(cluster.url(0)).assert_exactly_once("t", FILES, ROWS).await;
}

/// The figures of a load as it is meant: `STEVEDORE_LANE_FILES` (10,000) files of 50 KB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes half a gigabyte"]
async fn ten_thousand_files_of_50_kb_over_two_workers() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count: usize =
        std::env::var("STEVEDORE_LANE_FILES").map_or(10_000, |text| text.parse().expect("a number"));
    let rows = 50_000 / 32;
    let config = ClusterConfig { coordinators: 1, slice_bytes: 128 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).await;
    for file in 0..count {
        let text: String =
            (0..rows).map(|row| format!("{file},{row},{:020}\n", (file * row) % 999_983)).collect();
        files::write(&cluster.files().join(format!("in/{file:05}.csv")), text);
    }
    let client = cluster.client(0).await;
    run(&client, TABLE).await;
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", cluster.files().display());
    run(&client, &stage).await;
    let start = Instant::now();
    let loaded = client.query("COPY INTO t FROM @s/in/").await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(show::rows(&loaded).len(), count);
    let oracle = Oracle::new(cluster.url(0));
    let sizes: Vec<u64> =
        oracle.data_files("t").await.iter().map(|f| f.metadata().unwrap().len() >> 20).collect();
    let helped = |worker| cluster.worker_log(worker).matches(HELPS).count();
    println!(
        "{count} files in {seconds:.1} s: data files of {sizes:?} MiB; portions read by helpers: {:?}",
        [helped(0), helped(1)]
    );
    oracle.assert_exactly_once("t", count, rows).await;
    assert_eq!(sizes.len(), (count * 50_000).div_ceil(512 << 20).max(1));
}
