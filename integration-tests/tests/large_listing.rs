//! A bucket with very many files is listed, claimed and planned page by page: what that costs, and that memory and
//! state do not grow with what is left alone.
//!
//! By default some thousand files. `STEVEDORE_LISTED=1000000 cargo test --test large_listing -- --nocapture` is the
//! full size and prints its figures: seconds, and the most memory that the coordinator has had.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::cluster_jobs::has_ended;
use stevedore_integration_tests::large_bucket::LargeBucket;
use stevedore_integration_tests::show;
use stevedore_proto::v1;
use stevedore_proto::v1::JobPhase;

const MAX_FILES: usize = 1_000;
/// What the coordinator may take, however many files it lists and leaves alone.
const MEMORY: u64 = 256 << 20;
/// What it may take more for each file that a job has claimed, since the state's store keeps what it has written
/// lately, and for all of them, however many they are.
const MEMORY_A_CLAIMED_FILE: u64 = 2 << 10;
const MEMORY_FOR_CLAIMED: u64 = 512 << 20;

struct Measured {
    cluster: Cluster,
    client: Client,
    started: Instant,
    most_claimed: u64,
}

impl Measured {
    /// What has been done, how long it took, and the coordinator's memory.
    fn note(&mut self, what: &str) {
        let peak = self.cluster.coordinator(0).peak_memory();
        println!("{what}: {:.2} s, peak {} MiB", self.started.elapsed().as_secs_f64(), peak >> 20);
        let most = MEMORY + (self.most_claimed * MEMORY_A_CLAIMED_FILE).min(MEMORY_FOR_CLAIMED);
        assert!(peak < most, "{what}: the coordinator has taken {peak} bytes");
        self.started = Instant::now();
    }

    async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        show::rows(&self.client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listing_claiming_and_planning_very_many_files_cost() {
    let listed: usize = std::env::var("STEVEDORE_LISTED").map_or(5_000, |text| text.parse().unwrap());
    let patience = Duration::from_secs(60 + listed as u64 / 1_000);
    let bucket = LargeBucket::start(listed, 1).await;
    let config =
        ClusterConfig { coordinators: 1, workers: 1, slice_bytes: 1 << 30, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).await;
    let client = cluster.client(0).await;
    let mut measured = Measured { cluster, client, started: Instant::now(), most_claimed: 0 };
    measured.run("CREATE TABLE t (file INT, row INT, payload STRING)").await;
    measured.run(&bucket.create_stage("s")).await;
    measured.note("a table and a stage");

    // Handed on as it comes.
    let statement = measured.client.prepare("LIST @s").await.unwrap();
    let mut batches = measured.client.run(&statement).await.unwrap().batches;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert_eq!(rows, listed);
    measured.note(&format!("LIST of {listed}"));

    let copy = format!("COPY INTO t FROM @s/in/ MAX_FILES = {MAX_FILES}");
    let explained = measured.run(&format!("EXPLAIN {copy}")).await;
    let over = (listed - MAX_FILES).to_string();
    let counts =
        |status: &str| explained.iter().find(|row| row[0] == "files" && row[2] == status).unwrap()[3].clone();
    assert_eq!((counts("new"), counts("over_max_files")), (MAX_FILES.to_string(), over.clone()));
    measured.note(&format!("EXPLAIN COPY of {listed}, MAX_FILES = {MAX_FILES}"));

    // What is left alone is counted, and named up to a limit.
    for turn in 0..2 {
        assert_eq!(measured.run(&copy).await.len(), MAX_FILES);
        measured.note(&format!("COPY of {listed}, MAX_FILES = {MAX_FILES}, turn {turn}"));
    }
    let history = "SELECT status, count(*) FROM copy_history('t') GROUP BY status ORDER BY status";
    println!("{:?}", measured.run(history).await);
    let in_table = measured.run("SELECT count(*), count(DISTINCT file), max(file) FROM t").await;
    assert_eq!(in_table, [["2000", "2000", "1999"]]);

    // All others are claimed and planned; what was loaded is not sent through the log.
    bucket.pass_only(listed / 1_000 + 1);
    let job = measured.cluster.submit(0, "COPY INTO t FROM @s/in/", "all").await;
    let running = |job: &v1::Job| job.phase() != JobPhase::Claiming;
    let found = measured.cluster.find_job_until("all", patience, "running", running).await;
    assert_eq!((found.job_id.as_str(), found.phase()), (job.as_str(), JobPhase::Running), "{found:?}");
    assert_eq!(found.progress.unwrap().files_total as usize, listed - 2 * MAX_FILES);
    measured.most_claimed = (listed - 2 * MAX_FILES) as u64;
    measured.note(&format!("{} files claimed and planned", listed - 2 * MAX_FILES));
    let cancel = v1::CancelJobRequest { job_id: job.clone() };
    measured.client.jobs().cancel_job(cancel).await.unwrap();
    bucket.pass_all();
    measured.cluster.find_job_until("all", patience, "ended", has_ended).await;
    measured.note("cancelled");

    // Nothing of it is held any longer: the next COPY has the next files.
    assert_eq!(measured.run(&copy).await.len(), MAX_FILES);
    measured.note(&format!("COPY of {listed}, MAX_FILES = {MAX_FILES}, once more"));
    let in_table = measured.run("SELECT count(*), count(DISTINCT file), max(file) FROM t").await;
    assert_eq!(in_table, [["3000", "3000", "2999"]]);
}
