//! Three coordinators and two workers as real processes, killed and frozen in the middle of a load. Each
//! time every row is in the table exactly once, by a reader other than ours.
//!
//! The middle is no matter of luck: the files lie in an S3 server of the test, which hands out some of
//! them and holds the readers of the next ones until the test has done its worst.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::objectstore::{ACCESS_KEY, S3Server, SECRET_KEY};
use stevedore_integration_tests::{files, oracle, show};
use stevedore_proto::v1;
use stevedore_proto::v1::JobPhase;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const FILES: usize = 200;
const ROWS: usize = 100;
const COPY: &str = "COPY INTO t FROM @s/in/";
const KEY: &str = "the-load";
/// For a load to end, whatever was done to the cluster.
const PATIENCE: Duration = Duration::from_secs(120);

/// Five processes are enough for a small machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn write_files(s3: &S3Server, range: std::ops::Range<usize>) {
    for file in range {
        files::write(&s3.folder(&format!("bucket/in/{file:04}.csv")), files::numbered_csv(file, ROWS));
    }
}

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let running = client.query(sql);
    let batches = timeout(PATIENCE, running).await.expect("the statement ends");
    show::rows(&batches.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// A cluster, files to load in a bucket, and a table for them.
async fn cluster_with_files() -> (Cluster, S3Server) {
    let cluster = Cluster::start(ClusterConfig::default()).await;
    let s3 = S3Server::start(&["bucket"]).await;
    write_files(&s3, 0..FILES);
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    let stage = format!(
        "CREATE STAGE s URL = 's3://bucket/' CONNECTION = (ENDPOINT_URL = '{}' ACCESS_KEY_ID = '{ACCESS_KEY}'
         SECRET_ACCESS_KEY = '{SECRET_KEY}') FILE_FORMAT = (TYPE = CSV)",
        s3.endpoint()
    );
    run(&client, &stage).await;
    (cluster, s3)
}

/// Submits the COPY through a coordinator and forgets about it.
async fn submit(cluster: &Cluster, coordinator: usize) -> String {
    let client = cluster.client(coordinator).await;
    let request =
        v1::SubmitJobRequest { sql: COPY.into(), idempotency_key: KEY.into(), ..Default::default() };
    client.jobs().submit_job(request).await.unwrap().into_inner().job_id
}

/// The job by its idempotency key, from any coordinator that answers.
async fn find(cluster: &Cluster) -> Option<v1::Job> {
    for coordinator in 0..3 {
        let ask = async {
            let client = Client::connect(cluster.url(coordinator)).await.ok()?;
            let request = v1::GetJobRequest { idempotency_key: KEY.into(), ..Default::default() };
            Some(client.jobs().get_job(request).await.ok()?.into_inner())
        };
        if let Ok(Some(job)) = timeout(Duration::from_secs(3), ask).await {
            return Some(job);
        }
    }
    None
}

async fn find_until(cluster: &Cluster, what: &str, reached: impl Fn(&v1::Job) -> bool) -> v1::Job {
    let start = Instant::now();
    let mut last = None;
    loop {
        if let Some(job) = find(cluster).await {
            if reached(&job) {
                return job;
            }
            last = Some(job);
        }
        assert!(start.elapsed() < PATIENCE, "the job is not {what}: {last:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn ended(job: &v1::Job) -> bool {
    matches!(job.phase(), JobPhase::Committed | JobPhase::Aborted | JobPhase::Cancelled)
}

/// Starts the load through a coordinator, and returns in its middle: some files are done, both workers are
/// held while they read the next ones.
async fn load_halfway(cluster: &Cluster, s3: &S3Server, coordinator: usize) -> String {
    s3.hold_after(FILES / 4);
    let job = submit(cluster, coordinator).await;
    s3.wait_until_held(2).await;
    let found = find_until(cluster, "running", |job| {
        job.phase() == JobPhase::Running
            && job.progress.as_ref().is_some_and(|progress| progress.files_done > 0)
    })
    .await;
    assert!(found.progress.unwrap().files_done < FILES as u64);
    job
}

/// The job is found by its key and committed; every row is there once; the same COPY loads nothing, and
/// one more file is loaded alone.
async fn assert_loaded_exactly_once(cluster: &Cluster, s3: &S3Server, job_id: &str) {
    let job = find_until(cluster, "ended", ended).await;
    assert_eq!(job.job_id, job_id);
    assert_eq!(job.phase(), JobPhase::Committed, "{job:?}");
    assert_eq!(job.rows_loaded, (FILES * ROWS) as u64);
    let (leader, _) = cluster.leader().await;
    oracle::assert_exactly_once(cluster.url(leader), "t", FILES, ROWS).await;

    let client = cluster.client(leader).await;
    assert!(run(&client, COPY).await.is_empty(), "a repeated COPY loads nothing");
    let request =
        v1::SubmitJobRequest { sql: COPY.into(), idempotency_key: KEY.into(), ..Default::default() };
    let again = client.jobs().submit_job(request).await.unwrap().into_inner();
    assert_eq!((again.job_id.as_str(), again.existing), (job_id, true));
    write_files(s3, FILES..FILES + 1);
    assert_eq!(run(&client, COPY).await.len(), 1);
    oracle::assert_exactly_once(cluster.url(leader), "t", FILES + 1, ROWS).await;
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [[((FILES + 1) * ROWS).to_string()]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_during_a_copy() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files().await;
    let (leader, _) = cluster.leader().await;
    // Through a follower, which lives on.
    let job = load_halfway(&cluster, &s3, (leader + 1) % 3).await;
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
    // The one that was killed comes back and catches up.
    cluster.restart_coordinator(leader);
    let start = Instant::now();
    loop {
        if let Ok(client) = Client::connect(cluster.url(leader)).await
            && let Ok(batches) = client.query("SELECT count(*) FROM t").await
        {
            assert_eq!(show::rows(&batches), [[((FILES + 1) * ROWS).to_string()]]);
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the old leader does not come back");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_killed_during_a_slice() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files().await;
    let (leader, _) = cluster.leader().await;
    let job = load_halfway(&cluster, &s3, leader).await;
    let worker = cluster.busy_worker().await;
    cluster.kill_worker(worker);
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_killed_at_once_and_started_again() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files().await;
    let (leader, _) = cluster.leader().await;
    let job = load_halfway(&cluster, &s3, leader).await;
    cluster.kill_all();
    s3.release();
    cluster.restart_all();
    cluster.ready().await;
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_doubles_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3) = cluster_with_files().await;
    let (leader, _) = cluster.leader().await;
    let job = load_halfway(&cluster, &s3, leader).await;
    let zombie = cluster.busy_worker().await;
    cluster.worker(zombie).freeze();
    s3.release();
    // The other one finishes without it.
    find_until(&cluster, "ended", ended).await;
    cluster.worker(zombie).thaw();
    // It reports in again; whatever it still had to say was refused.
    cluster.ready().await;
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}
