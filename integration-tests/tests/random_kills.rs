//! A load of many files whose processes are killed again and again, at points that a seed chooses: it ends once,
//! every row in the table once, the ledger the same as the table, nothing left behind.
//!
//! By default a few thousand files and some kills, so that it stays short. `STEVEDORE_KILL_FILES=100000
//! STEVEDORE_KILLS=20 cargo test --test random_kills -- --nocapture` is the full size and prints its figures;
//! `STEVEDORE_KILL_SEED` repeats a run's choices.
//!
//! The points are counted in requests to the bucket (pages of its listing, files read, files deleted), from the
//! first to about the last: the bucket has the next request wait until the kill is done, so that no load is too
//! fast for its kills. How long after that a process dies is chosen too, and what has begun by then goes on
//! meanwhile: reports, acceptances, the commit.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::cluster_jobs::has_ended;
use stevedore_integration_tests::files::numbered_csv;
use stevedore_integration_tests::large_bucket::{LargeBucket, key};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::show;
use stevedore_proto::v1::JobPhase;
use tokio::sync::Mutex;
use tokio::time::sleep;

const ROWS: usize = 2;
/// For the load to go on after a kill.
const PATIENCE: Duration = Duration::from_secs(120);
/// What it takes longer, for each thousand files: they are listed and claimed before the first of them is read.
const PATIENCE_A_THOUSAND: Duration = Duration::from_secs(1);
/// For the load to end when the kills are over.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(900);
/// Files of the load history that one statement may read.
const MOST_HISTORY: usize = 100_000;
/// One of so many files has a row that is none.
const BAD_EVERY: usize = 50;

/// Five processes are enough for a small machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn is_bad(file: usize) -> bool {
    file % BAD_EVERY == 7
}

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// Kills what the seed says, and starts it again after a while. The words of it.
async fn kill(cluster: &mut Cluster, random: &mut StdRng) -> String {
    let what = match random.random_range(0..10) {
        0..4 => {
            let (leader, _) = cluster.leader().await;
            cluster.kill_coordinator(leader);
            format!("leader {leader}")
        }
        4..8 => {
            let worker = random.random_range(0..cluster.workers());
            cluster.kill_worker(worker);
            format!("worker {worker}")
        }
        8 => {
            let (leader, _) = cluster.leader().await;
            let worker = random.random_range(0..cluster.workers());
            cluster.kill_coordinator(leader);
            cluster.kill_worker(worker);
            format!("leader {leader} and worker {worker}")
        }
        _ => {
            cluster.kill_all();
            "everything".to_owned()
        }
    };
    let pause = random.random_range(0..1_500);
    sleep(Duration::from_millis(pause)).await;
    cluster.restart_all();
    format!("{what}, back after {pause} ms")
}

fn parquet_files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            parquet_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// Loads the bucket under kills, and checks what became of it. With `purge` some files are bad and left out, and
/// what is loaded is deleted.
async fn load_under_kills(purge: bool) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (files, kills) =
        (number("STEVEDORE_KILL_FILES", 3_000) as usize, number("STEVEDORE_KILLS", 4) as usize);
    let seed = number("STEVEDORE_KILL_SEED", u64::from(std::process::id()));
    println!("{files} files, {kills} kills, purge {purge}, STEVEDORE_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let content = move |file: usize| match purge && is_bad(file) {
        true => format!("{}no number,0,x\n", numbered_csv(file, ROWS)),
        false => numbered_csv(file, ROWS),
    };
    let bucket = LargeBucket::start_with(files, content).await;
    // Some hundred slices at any size.
    let slice_bytes = (files as u64 * 60 / 200).max(2_000);
    let mut cluster = Cluster::start(ClusterConfig { slice_bytes, ..ClusterConfig::default() }).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    run(&client, &bucket.create_stage("s")).await;

    // Reading a file and, to purge it, asking for it and deleting it; a page of the listing has a thousand.
    let requests = files * if purge { 3 } else { 1 } + files / 1_000;
    let mut points: Vec<usize> = (0..kills).map(|_| random.random_range(0..requests * 9 / 10)).collect();
    points.sort_unstable();
    let copy = if purge {
        "COPY INTO t FROM @s/in/ ON_ERROR = SKIP_FILE PURGE = TRUE"
    } else {
        "COPY INTO t FROM @s/in/"
    };
    let started = Instant::now();
    let (mut passed, mut killed) = (0, 0);
    bucket.pass_only(points.first().copied().unwrap_or(usize::MAX));
    let job = cluster.submit((leader + 1) % 3, copy, "kills").await;
    for (place, point) in points.iter().enumerate() {
        // What is done again after a kill counts too, so that the last points come before the end.
        if place > 0 {
            bucket.pass_only(point - passed);
        }
        passed = *point;
        let patience = PATIENCE + PATIENCE_A_THOUSAND * (files as u32 / 1_000);
        assert!(bucket.wait_until_held(patience).await, "the load stands still before request {point}");
        sleep(Duration::from_millis(random.random_range(0..400))).await;
        let phase = cluster.find_job("kills").await.map(|job| job.phase());
        let what = kill(&mut cluster, &mut random).await;
        killed += 1;
        println!("{:6.1} s, request {point} ({phase:?}): {what}", started.elapsed().as_secs_f64());
    }
    bucket.pass_all();
    let patience = PATIENCE_AT_THE_END + PATIENCE_A_THOUSAND * (files as u32 / 1_000) * 2;
    let ended = cluster.find_job_until("kills", patience, "ended", has_ended).await;
    let took = started.elapsed();
    assert_eq!((ended.job_id.as_str(), ended.phase()), (job.as_str(), JobPhase::Committed), "{ended:?}");
    println!("{files} files, {killed} kills, {} requests: {:.1} s", bucket.requests(), took.as_secs_f64());

    let good: Vec<usize> = (0..files).filter(|file| !purge || !is_bad(*file)).collect();
    assert_eq!(ended.rows_loaded, (good.len() * ROWS) as u64);
    cluster.ready().await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;

    // Every row of every good file once, by a reader other than ours.
    let oracle = Oracle::new(cluster.url(leader));
    let found = oracle.numbered_rows("t").await;
    let doubled = found.iter().filter(|(_, times)| **times > 1).count();
    let missing = good
        .iter()
        .flat_map(|file| (0..ROWS).map(move |row| (*file as i64, row as i64)))
        .filter(|at| !found.contains_key(at));
    assert_eq!((doubled, missing.count(), found.len()), (0, 0, good.len() * ROWS));

    // The ledger has the same files, each once, with the same rows; one statement reads so much of it.
    let history = "SELECT count(*), count(DISTINCT file_name), sum(rows_loaded) FROM copy_history('t')
                   WHERE status = 'loaded'";
    let counted = good.len().to_string();
    if files <= MOST_HISTORY {
        let rows = (good.len() * ROWS).to_string();
        assert_eq!(run(&client, history).await, [[counted.clone(), counted, rows]]);
    }

    // Exactly what was loaded is gone.
    if purge {
        assert_eq!(bucket.deleted(), good);
    } else {
        assert!(bucket.deleted().is_empty());
        assert!(run(&client, copy).await.is_empty(), "a repeated COPY loads nothing");
    }
    let left_out =
        run(&client, &format!("SELECT count(*) FROM list_stage(location => '@s/{}')", key(7))).await;
    assert_eq!(left_out, [["1"]]);

    // What lost attempts wrote is swept.
    let wanted: BTreeSet<String> = oracle
        .data_files("t")
        .await
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let start = Instant::now();
    loop {
        let mut there = BTreeSet::new();
        parquet_files(cluster.warehouse(), &mut there);
        if there == wanted {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{} data files, {} of the table", there.len(), wanted.len());
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_killed_again_and_again_ends_exactly_once() {
    load_under_kills(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_killed_again_and_again_purges_exactly_what_it_loaded() {
    load_under_kills(true).await;
}
