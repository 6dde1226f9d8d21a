//! Pipelines of scheduled tasks and streams, while leaders and workers are killed again and again: what arrives at
//! their ends is what went in, each row once.
//!
//! Files go into a folder. One task loads them, another takes the new rows from a stream and inserts them into a
//! second table. Beside it the rows of a table are updated and deleted, and a task merges what a standard stream
//! shows into a mirror of it. By default some rounds, so that it stays short; `STEVEDORE_PIPELINE_ROUNDS=300 cargo
//! test --test pipeline -- --nocapture` is the full size, `STEVEDORE_KILL_SEED` repeats a run's choices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::files::{numbered_csv, write};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::show;
use tokio::time::sleep;

const ROWS: usize = 3;
/// For a statement to be taken, whatever was killed.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Runs a statement that may be run again, on whoever leads, until it is taken.
async fn insist(cluster: &Cluster, sql: &str) -> Vec<Vec<String>> {
    let start = Instant::now();
    loop {
        let (leader, _) = cluster.leader().await;
        let answer = match Client::connect(cluster.url(leader)).await {
            Ok(client) => client.query(sql).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(batches) => return show::rows(&batches),
            Err(error) => {
                assert!(start.elapsed() < PATIENCE, "{error}\n{sql}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn wait_until(cluster: &Cluster, question: &str, expected: &str) {
    let start = Instant::now();
    loop {
        let answer = insist(cluster, question).await;
        if answer == [[expected]] {
            return;
        }
        if start.elapsed() > PATIENCE {
            let history = insist(
                cluster,
                "SELECT name, state, scheduled_time, exception_text FROM system.task_history LIMIT 40",
            )
            .await;
            panic!("{question} gives {answer:?}, not {expected}, within {PATIENCE:?}: {history:#?}");
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Kills what the seed says and starts it again after a while.
async fn kill(cluster: &mut Cluster, random: &mut StdRng) {
    match random.random_range(0..8) {
        0..4 => {
            let (leader, _) = cluster.leader().await;
            cluster.kill_coordinator(leader);
        }
        4..7 => {
            let worker = random.random_range(0..cluster.workers());
            cluster.kill_worker(worker);
        }
        _ => cluster.kill_all(),
    }
    sleep(Duration::from_millis(random.random_range(0..600))).await;
    cluster.restart_all();
}

const SETUP: &[&str] = &[
    "CREATE TABLE loaded (file INT, row INT, payload STRING)",
    "CREATE TABLE moved (file INT, row INT, payload STRING)",
    "CREATE STREAM arrivals ON TABLE loaded",
    "CREATE TABLE moving (id INT, value INT)",
    "CREATE TABLE mirror (id INT, value INT)",
    "CREATE STREAM changes ON TABLE moving APPEND_ONLY = FALSE",
    "CREATE TASK load_files SCHEDULE = 1 SECOND AS COPY INTO loaded FROM @drop_off/in/",
    "CREATE TASK move_rows SCHEDULE = 1 SECOND WHEN STREAM_STATUS('arrivals')
     AS INSERT INTO moved SELECT file, row, payload FROM arrivals",
    "CREATE TASK follow SCHEDULE = 1 SECOND WHEN STREAM_STATUS('changes') AS
     MERGE INTO mirror USING
         (SELECT * FROM changes WHERE NOT (change$action = 'DELETE' AND change$is_update)) AS c ON mirror.id = c.id
     WHEN MATCHED AND c.change$action = 'DELETE' THEN DELETE
     WHEN MATCHED THEN UPDATE SET value = c.value
     WHEN NOT MATCHED THEN INSERT (id, value) VALUES (c.id, c.value)",
    "ALTER TASK load_files RESUME",
    "ALTER TASK move_rows RESUME",
    "ALTER TASK follow RESUME",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_once_whatever_dies() {
    let rounds = number("STEVEDORE_PIPELINE_ROUNDS", 8) as usize;
    let seed = number("STEVEDORE_KILL_SEED", u64::from(std::process::id()));
    println!("{rounds} rounds, STEVEDORE_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(ClusterConfig { lease_ms: 1_000, ..ClusterConfig::default() }).await;
    let files = cluster.files().to_path_buf();
    std::fs::create_dir_all(files.join("in")).unwrap();
    let stage = format!("CREATE STAGE drop_off URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", files.display());
    insist(&cluster, &stage).await;
    for sql in SETUP {
        insist(&cluster, sql).await;
    }

    let started = Instant::now();
    for round in 0..rounds {
        // Nobody may see half of a file.
        write(&files.join(format!("{round}.part")), numbered_csv(round, ROWS));
        std::fs::rename(files.join(format!("{round}.part")), files.join(format!("in/{round:04}.csv")))
            .unwrap();
        let change = match random.random_range(0..4) {
            // Run again by whoever did not hear the answer, these change nothing more.
            0 | 1 => format!(
                "MERGE INTO moving USING (SELECT {round} AS id, 0 AS value) AS u ON moving.id = u.id
                 WHEN NOT MATCHED THEN INSERT *"
            ),
            2 => format!("UPDATE moving SET value = {round} WHERE id % 3 = {}", round % 3),
            _ => format!("DELETE FROM moving WHERE id % 5 = {}", round % 5),
        };
        insist(&cluster, &change).await;
        kill(&mut cluster, &mut random).await;
        sleep(Duration::from_millis(random.random_range(0..1_200))).await;
    }
    println!("{rounds} rounds of kills in {:.1} s", started.elapsed().as_secs_f64());

    wait_until(&cluster, "SELECT count(*) FROM moved", &(rounds * ROWS).to_string()).await;
    wait_until(&cluster, "SELECT STREAM_STATUS('changes')", "false").await;
    for (one, other) in [("moving", "mirror"), ("mirror", "moving")] {
        let question = format!("SELECT id, value FROM {one} EXCEPT ALL SELECT id, value FROM {other}");
        let differ = insist(&cluster, &question).await;
        assert!(differ.is_empty(), "in {one} and not in {other}: {differ:?}");
    }
    let (leader, _) = cluster.leader().await;
    for table in ["loaded", "moved"] {
        Oracle::new(cluster.url(leader)).assert_exactly_once(table, rounds, ROWS).await;
    }
}
