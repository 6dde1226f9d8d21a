//! Three coordinators and two workers as real processes, killed and frozen in the middle of a load. Each
//! time every row is in the table exactly once, by a reader other than ours.
//!
//! The middle is no matter of luck: the files lie in an S3 server of the test, which answers some requests
//! and holds the next ones of their kind until the test has done its worst.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::cluster_jobs::has_ended;
use stevedore_integration_tests::large_bucket::LargeBucket;
use stevedore_integration_tests::objectstore::{Operation, S3Server};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::{files, show};
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

fn file_of(s3: &S3Server, file: usize) -> PathBuf {
    s3.folder(&format!("bucket/in/{file:04}.csv"))
}

fn write_files(s3: &S3Server, range: std::ops::Range<usize>) {
    for file in range {
        files::write(&file_of(s3, file), files::numbered_csv(file, ROWS));
    }
}

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let running = client.query(sql);
    let batches = timeout(PATIENCE, running).await.expect("the statement ends");
    show::rows(&batches.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// A cluster, files to load in a bucket, and a table for them.
async fn cluster_with_files() -> (Cluster, S3Server) {
    let s3 = S3Server::start(&["bucket"]).await;
    (cluster_over(&s3, ClusterConfig::default()).await, s3)
}

/// The same with the table in a bucket too. What is loaded and what is written lie in buckets apart.
async fn cluster_with_files_and_warehouse_in_s3(slice_bytes: u64) -> (Cluster, S3Server) {
    let s3 = S3Server::start(&["bucket", "lake"]).await;
    let warehouse = Some(("s3://lake/wh/".to_owned(), s3.connection().to_vec()));
    let config = ClusterConfig { warehouse, slice_bytes, ..ClusterConfig::default() };
    (cluster_over(&s3, config).await, s3)
}

async fn cluster_over(s3: &S3Server, config: ClusterConfig) -> Cluster {
    let cluster = Cluster::start(config).await;
    write_files(s3, 0..FILES);
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    run(&client, &s3.create_stage("s", "bucket")).await;
    cluster
}

/// Submits a COPY through a coordinator and forgets about it.
async fn submit(cluster: &Cluster, coordinator: usize, sql: &str) -> String {
    cluster.submit(coordinator, sql, KEY).await
}

async fn find_until(cluster: &Cluster, what: &str, reached: impl Fn(&v1::Job) -> bool) -> v1::Job {
    cluster.find_job_until(KEY, PATIENCE, what, reached).await
}

/// Starts the load through a coordinator, and returns in its middle: some files are done, both workers are
/// held while they read the next ones.
async fn load_halfway(cluster: &Cluster, s3: &S3Server, coordinator: usize) -> String {
    s3.hold(Operation::Read, "/bucket/in/", FILES / 4);
    let job = submit(cluster, coordinator, COPY).await;
    s3.wait_until_held(2).await;
    let found = find_until(cluster, "running", |job| {
        job.phase() == JobPhase::Running
            && job.progress.as_ref().is_some_and(|progress| progress.files_done > 0)
    })
    .await;
    assert!(found.progress.unwrap().files_done < FILES as u64);
    job
}

/// The job is found by its key and committed with all rows of `files` files of `rows` rows, each in the table
/// once.
async fn assert_committed(cluster: &Cluster, s3: &S3Server, job_id: &str, files: usize, rows: usize) {
    let job = find_until(cluster, "ended", has_ended).await;
    assert_eq!(job.job_id, job_id);
    assert_eq!(job.phase(), JobPhase::Committed, "{job:?}");
    assert_eq!(job.rows_loaded, (files * rows) as u64);
    assert_in_table(cluster, s3, files, rows).await;
}

async fn assert_in_table(cluster: &Cluster, s3: &S3Server, files: usize, rows: usize) {
    let (leader, _) = cluster.leader().await;
    Oracle::with_buckets(cluster.url(leader), s3.root()).assert_exactly_once("t", files, rows).await;
    let counted = run(&cluster.client(leader).await, "SELECT count(*) FROM t").await;
    assert_eq!(counted, [[(files * rows).to_string()]]);
}

/// The job is found by its key and committed; every row is there once; the same COPY loads nothing, and
/// one more file is loaded alone.
async fn assert_loaded_exactly_once(cluster: &Cluster, s3: &S3Server, job_id: &str) {
    assert_committed(cluster, s3, job_id, FILES, ROWS).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    assert!(run(&client, COPY).await.is_empty(), "a repeated COPY loads nothing");
    let request =
        v1::SubmitJobRequest { sql: COPY.into(), idempotency_key: KEY.into(), ..Default::default() };
    let again = client.jobs().submit_job(request).await.unwrap().into_inner();
    assert_eq!((again.job_id.as_str(), again.existing), (job_id, true));
    write_files(s3, FILES..FILES + 1);
    assert_eq!(run(&client, COPY).await.len(), 1);
    assert_in_table(cluster, s3, FILES + 1, ROWS).await;
}

/// A coordinator that was started again comes to answer with what [`assert_loaded_exactly_once`] left.
async fn assert_answers(cluster: &Cluster, coordinator: usize) {
    let start = Instant::now();
    loop {
        if let Ok(client) = Client::connect(cluster.url(coordinator)).await
            && let Ok(batches) = client.query("SELECT count(*) FROM t").await
        {
            assert_eq!(show::rows(&batches), [[((FILES + 1) * ROWS).to_string()]]);
            return;
        }
        assert!(start.elapsed() < PATIENCE, "coordinator {coordinator} does not come back");
        sleep(Duration::from_millis(100)).await;
    }
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
    assert_answers(&cluster, leader).await;
}

/// Two slices of a hundred files: none of them is accepted while the readers are held, so that only the
/// leader, to which the workers talk, knows of any progress.
#[tokio::test(flavor = "multi_thread")]
async fn every_coordinator_tells_how_far_running_slices_are() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let s3 = S3Server::start(&["bucket"]).await;
    let config = ClusterConfig { slice_bytes: 1 << 30, ..ClusterConfig::default() };
    let cluster = cluster_over(&s3, config).await;
    let (leader, _) = cluster.leader().await;
    s3.hold(Operation::Read, "/bucket/in/", FILES / 4);
    let job = submit(&cluster, leader, COPY).await;
    s3.wait_until_held(2).await;
    for follower in (0..3).filter(|coordinator| *coordinator != leader) {
        let client = cluster.client(follower).await;
        let start = Instant::now();
        loop {
            let request = v1::GetJobRequest { job_id: job.clone(), ..Default::default() };
            let progress = client.jobs().get_job(request).await.unwrap().into_inner().progress.unwrap();
            if progress.files_done > 0 && progress.rows > 0 && progress.bytes_done > 0 {
                assert!(progress.files_done <= (FILES / 4) as u64, "{progress:?}");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "coordinator {follower} tells no progress: {progress:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
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
    find_until(&cluster, "ended", has_ended).await;
    cluster.worker(zombie).thaw();
    // It reports in again; whatever it still had to say was refused.
    cluster.ready().await;
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_while_it_lists_and_claims_files() {
    const MANY: usize = 1_100;
    let _alone = ONE_AT_A_TIME.lock().await;
    let s3 = S3Server::start(&["bucket"]).await;
    let mut cluster =
        cluster_over(&s3, ClusterConfig { slice_bytes: 4_096, ..ClusterConfig::default() }).await;
    for file in 0..MANY {
        files::write(&s3.folder(&format!("bucket/many/{file:04}.csv")), files::numbered_csv(file, 1));
    }
    let (leader, _) = cluster.leader().await;
    // A page holds a thousand files: the first passes and its files are claimed, the second never comes.
    s3.hold(Operation::List, "prefix=many", 1);
    let job = submit(&cluster, (leader + 1) % 3, "COPY INTO t FROM @s/many/").await;
    s3.wait_until_held(1).await;
    let found = find_until(&cluster, "claiming", |job| job.phase() == JobPhase::Claiming).await;
    assert_eq!(found.job_id, job);
    let client = cluster.client((leader + 1) % 3).await;
    let start = Instant::now();
    loop {
        let request = v1::ListJobFilesRequest { job_id: job.clone(), ..Default::default() };
        if !client.jobs().list_job_files(request).await.unwrap().into_inner().files.is_empty() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no file is claimed");
        sleep(Duration::from_millis(20)).await;
    }
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);
    s3.release();
    assert_committed(&cluster, &s3, &job, MANY, 1).await;
    let client = cluster.client(successor).await;
    assert!(run(&client, "COPY INTO t FROM @s/many/").await.is_empty(), "a repeated COPY loads nothing");
}

/// Each coordinator would make slices of another size, and one of the two workers goes with the leader.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_while_it_plans_slices_and_its_successor_plans_otherwise() {
    const MANY: usize = 10_000;
    const SEALED: &str = "listed, claimed and planned";
    let _alone = ONE_AT_A_TIME.lock().await;
    let bucket = LargeBucket::start(MANY, 1).await;
    let config = ClusterConfig {
        slice_bytes: 500,
        slice_bytes_step: 700,
        environment: vec![("RUST_LOG", "info,stevedore_coordinator::planner=debug".to_owned())],
        ..ClusterConfig::default()
    };
    let mut cluster = Cluster::start(config).await;
    let client = cluster.client(cluster.leader().await.0).await;
    run(&client, &bucket.create_stage("s")).await;
    // Planning may be over before the leader is dead: then once more.
    for round in 0..5 {
        let (leader, _) = cluster.leader().await;
        let client = cluster.client(leader).await;
        let (table, key) = (format!("t{round}"), format!("load-{round}"));
        run(&client, &format!("CREATE TABLE {table} (file INT, row INT, payload STRING)")).await;
        let job = cluster.submit((leader + 1) % 3, &format!("COPY INTO {table} FROM @s/in/"), &key).await;
        let start = Instant::now();
        let says = |cluster: &Cluster, coordinator: usize, what: &str| {
            cluster
                .coordinator_log(coordinator)
                .lines()
                .any(|line| line.contains(what) && line.contains(&job))
        };
        while !says(&cluster, leader, "planned slices") {
            assert!(start.elapsed() < PATIENCE, "no slices are planned");
            sleep(Duration::from_millis(1)).await;
        }
        cluster.kill_coordinator(leader);
        cluster.kill_worker(1);
        let was_in_time = !says(&cluster, leader, SEALED);
        let ended = cluster.find_job_until(&key, PATIENCE, "ended", has_ended).await;
        assert_eq!((ended.job_id.as_str(), ended.phase()), (job.as_str(), JobPhase::Committed), "{ended:?}");
        assert_eq!(ended.rows_loaded, MANY as u64);
        let (successor, _) = cluster.leader().await;
        Oracle::new(cluster.url(successor)).assert_exactly_once(&table, MANY, 1).await;
        if was_in_time {
            assert!(says(&cluster, successor, SEALED), "the successor has sealed the job");
            return;
        }
        cluster.restart_all();
        cluster.ready().await;
    }
    panic!("the leader was never killed while it planned slices");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_and_a_worker_are_killed_while_a_load_brings_a_column() {
    /// Files that are looked into for new columns.
    const SAMPLED: usize = 64;
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files().await;
    for file in 0..FILES {
        let record = |row| format!("{{\"file\":{file},\"row\":{row},\"brought\":\"{file}-{row}\"}}\n");
        let records: String = (0..ROWS).map(record).collect();
        files::write(&s3.folder(&format!("bucket/nd/{file:04}.ndjson")), records);
    }
    let (leader, _) = cluster.leader().await;
    let create = "CREATE TABLE e (file INT, row INT) ENABLE_SCHEMA_EVOLUTION = true";
    run(&cluster.client(leader).await, create).await;

    // While a worker looks into the files for the leader.
    s3.hold(Operation::Read, "/bucket/nd/", SAMPLED / 2);
    let copy = "COPY INTO e FROM @s/nd/ FILE_FORMAT = (TYPE = NDJSON)";
    let job = submit(&cluster, (leader + 1) % 3, copy).await;
    s3.wait_until_held(1).await;
    find_until(&cluster, "claiming", |job| job.phase() == JobPhase::Claiming).await;
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);

    // While slices write the column.
    s3.hold(Operation::Read, "/bucket/nd/", 2 * SAMPLED + FILES / 4);
    find_until(&cluster, "running", |job| job.phase() == JobPhase::Running).await;
    s3.wait_until_held(2).await;
    let worker = cluster.busy_worker().await;
    cluster.kill_worker(worker);
    s3.release();

    let found = find_until(&cluster, "ended", has_ended).await;
    assert_eq!((found.phase(), found.job_id), (JobPhase::Committed, job));
    let client = cluster.client(successor).await;
    Oracle::with_buckets(cluster.url(successor), s3.root()).assert_exactly_once("e", FILES, ROWS).await;
    let columns =
        run(&client, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'e'")
            .await;
    assert_eq!(columns, [["file", "INT"], ["row", "INT"], ["brought", "VARCHAR"]]);
    let right = "SELECT count(*) FROM e WHERE brought = concat(file::STRING, '-', row::STRING)";
    assert_eq!(run(&client, right).await, [[(FILES * ROWS).to_string()]]);
    assert!(run(&client, copy).await.is_empty(), "a repeated COPY loads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_while_it_purges_what_was_loaded() {
    const PURGE: &str = "COPY INTO t FROM @s/in/ PATTERN = '[0-9]+[.]csv' PURGE = TRUE";
    // Deletions are recorded by the hundred: at the hundred and thirtieth, thirty are done and not recorded.
    const DELETED: usize = 130;
    let _alone = ONE_AT_A_TIME.lock().await;
    let s3 = S3Server::start(&["bucket"]).await;
    let mut cluster =
        cluster_over(&s3, ClusterConfig { slice_bytes: 64 << 10, ..ClusterConfig::default() }).await;
    files::write(&s3.folder("bucket/in/not-loaded.csv"), "1,1,a\n");
    files::write(&s3.folder("bucket/elsewhere/0000.csv"), "1,1,a\n");
    let (leader, _) = cluster.leader().await;
    s3.hold(Operation::Delete, "/bucket", DELETED);
    let job = submit(&cluster, (leader + 1) % 3, PURGE).await;
    // As many as are deleted at a time: none of those that passed is still on its way.
    s3.wait_until_held(16).await;
    let found = find_until(&cluster, "purging", |job| job.phase() == JobPhase::Purging).await;
    assert_eq!(found.rows_loaded, (FILES * ROWS) as u64);
    let is_there = |file: usize| file_of(&s3, file).exists();
    assert_eq!((0..FILES).filter(|file| is_there(*file)).count(), FILES - DELETED);
    // What is deleted already and written again, and what is changed before it is deleted, was not loaded.
    let again = (0..FILES).rev().find(|file| !is_there(*file)).unwrap();
    let changed = (0..FILES).rev().find(|file| is_there(*file)).unwrap();
    for file in [again, changed] {
        files::write(&file_of(&s3, file), "other,content\n");
    }
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);
    s3.release();
    assert_committed(&cluster, &s3, &job, FILES, ROWS).await;
    let mut left: Vec<usize> = (0..FILES).filter(|file| is_there(*file)).collect();
    left.sort_unstable();
    let mut kept = [again, changed];
    kept.sort_unstable();
    assert_eq!(left, kept, "exactly what was loaded is gone");
    assert!(s3.folder("bucket/in/not-loaded.csv").exists());
    assert!(s3.folder("bucket/elsewhere/0000.csv").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_killed_over_a_warehouse_in_s3() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files_and_warehouse_in_s3(1).await;
    let (leader, _) = cluster.leader().await;
    let job = load_halfway(&cluster, &s3, leader).await;
    let worker = cluster.busy_worker().await;
    cluster.kill_worker(worker);
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}

/// Submits the load through a follower, and returns when the leader is committing: its new version of the
/// table is held by the server, before or after it was written.
async fn load_to_commit(cluster: &Cluster, s3: &S3Server, leader: usize) -> String {
    let job = submit(cluster, (leader + 1) % 3, COPY).await;
    s3.wait_until_held(1).await;
    let found = find_until(cluster, "committing", |job| job.phase() == JobPhase::Committing).await;
    assert_eq!(found.job_id, job);
    job
}

fn versions_written(s3: &S3Server) -> usize {
    let metadata = std::fs::read_dir(s3.folder("lake/wh/default")).unwrap();
    let files = metadata.flat_map(|table| std::fs::read_dir(table.unwrap().path().join("metadata")).unwrap());
    files
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".metadata.json"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_before_its_commit_is_written() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files_and_warehouse_in_s3(64 << 10).await;
    let (leader, _) = cluster.leader().await;
    let versions = versions_written(&s3);
    s3.hold(Operation::Write, ".metadata.json", 0);
    let job = load_to_commit(&cluster, &s3, leader).await;
    assert_eq!(versions_written(&s3), versions);
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);
    // What the killed one had sent may be written only now.
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_when_its_commit_is_written_and_not_agreed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3) = cluster_with_files_and_warehouse_in_s3(64 << 10).await;
    let (leader, _) = cluster.leader().await;
    let versions = versions_written(&s3);
    s3.hold_answers(Operation::Write, ".metadata.json", 0);
    let job = load_to_commit(&cluster, &s3, leader).await;
    assert_eq!(versions_written(&s3), versions + 1);
    cluster.kill_coordinator(leader);
    let (successor, _) = cluster.leader().await;
    assert_ne!(successor, leader);
    s3.release();
    assert_loaded_exactly_once(&cluster, &s3, &job).await;
    // The killed one comes back, and knows better than its own version.
    cluster.restart_coordinator(leader);
    assert_answers(&cluster, leader).await;
}
