//! COPY INTO a location that is killed, refused and cancelled half-way: in the end all of its files are there
//! or none, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::cluster_jobs::has_ended;
use stevedore_integration_tests::objectstore::{Operation, Refusal, S3Server};
use stevedore_integration_tests::{files, show};
use stevedore_proto::v1;
use stevedore_proto::v1::JobPhase;
use tokio::sync::Mutex;
use tokio::time::sleep;

const FILES: usize = 20;
const ROWS: usize = 2_000;
const KEY: &str = "the-unload";
const UNLOAD: &str =
    "COPY INTO @out FROM t FILE_FORMAT = (TYPE = CSV COMPRESSION = NONE) MAX_FILE_SIZE = 65536";
/// For an unload to end, whatever was done to the cluster.
const PATIENCE: Duration = Duration::from_secs(120);

/// Five processes are enough for a small machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// A cluster with a table of numbered rows, and a bucket with a stage over it.
async fn cluster_with_rows() -> (Cluster, S3Server) {
    let s3 = S3Server::start(&["bucket"]).await;
    let cluster = Cluster::start(ClusterConfig { slice_bytes: 1 << 30, ..ClusterConfig::default() }).await;
    for file in 0..FILES {
        files::write(&cluster.files().join(format!("in/{file:04}.csv")), files::numbered_csv(file, ROWS));
    }
    files::write(&s3.folder("bucket/x/kept.txt"), "of somebody else");
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    let url = format!("fs://{}/in/", cluster.files().display());
    run(&client, &format!("COPY INTO t FROM '{url}' FILE_FORMAT = (TYPE = CSV)")).await;
    let keys = s3.connection().map(|(key, value)| format!("{key} = '{value}'")).join(" ");
    run(&client, &format!("CREATE STAGE out URL = 's3://bucket/x/' CONNECTION = ({keys})")).await;
    (cluster, s3)
}

/// The same, its leader, and an unload whose writes of such names are held but for the first three.
async fn held_unload(part: &str) -> (Cluster, S3Server, usize, String) {
    let (cluster, s3) = cluster_with_rows().await;
    let (leader, _) = cluster.leader().await;
    s3.hold(Operation::Write, part, 3);
    let job = cluster.submit(leader, UNLOAD, KEY).await;
    s3.wait_until_held(1).await;
    (cluster, s3, leader, job)
}

/// The names of the files in the bucket, but somebody else's; hidden ones apart.
fn names(s3: &S3Server) -> (Vec<String>, Vec<String>) {
    let entries = std::fs::read_dir(s3.folder("bucket/x")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    names.filter(|name| name != "kept.txt").partition(|name| !name.starts_with('.'))
}

async fn until_swept(s3: &S3Server, what: &str, swept: impl Fn(&[String], &[String]) -> bool) {
    let start = Instant::now();
    loop {
        let (visible, hidden) = names(s3);
        if swept(&visible, &hidden) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {visible:?} and {hidden:?} are left");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The unload has committed; every row is in the files once; nothing else is left.
async fn assert_unloaded_exactly_once(cluster: &Cluster, s3: &S3Server, job: &str) {
    let ended = cluster.find_job_until(KEY, PATIENCE, "ended", has_ended).await;
    assert_eq!((ended.job_id.as_str(), ended.phase()), (job, JobPhase::Committed), "{ended:?}");
    let mut rows: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let (visible, _) = names(s3);
    assert!(visible.len() > 5, "{visible:?}");
    for name in &visible {
        let text = std::fs::read_to_string(s3.folder(&format!("bucket/x/{name}"))).unwrap();
        for line in text.lines() {
            let mut fields = line.split(',');
            let mut next = || fields.next().unwrap().parse::<usize>().unwrap();
            *rows.entry((next(), next())).or_default() += 1;
        }
    }
    assert!(rows.values().all(|times| *times == 1), "rows are in the files more than once");
    assert_eq!(rows.len(), FILES * ROWS);
    until_swept(s3, "nothing hidden is left", |now, hidden| hidden.is_empty() && now.len() == visible.len())
        .await;
    assert!(s3.folder("bucket/x/kept.txt").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_killed_while_it_writes_files() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3, _, job) = held_unload(".stevedore-unload").await;
    let (visible, hidden) = names(&s3);
    assert_eq!((visible.len(), hidden.is_empty()), (0, false), "{visible:?} {hidden:?}");
    let worker = cluster.busy_worker().await;
    cluster.kill_worker(worker);
    s3.release();
    assert_unloaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_while_a_worker_writes_files() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3, leader, job) = held_unload(".stevedore-unload").await;
    cluster.kill_coordinator(leader);
    s3.release();
    assert_unloaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_while_files_get_their_names() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3, leader, job) = held_unload("/x/data_").await;
    let found =
        cluster.find_job_until(KEY, PATIENCE, "committing", |job| job.phase() == JobPhase::Committing);
    assert_eq!(found.await.job_id, job);
    cluster.kill_coordinator(leader);
    s3.release();
    assert_unloaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_killed_while_files_get_their_names() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, s3, _, job) = held_unload("/x/data_").await;
    cluster.kill_all();
    s3.release();
    cluster.restart_all();
    cluster.ready().await;
    assert_unloaded_exactly_once(&cluster, &s3, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_that_is_cancelled_leaves_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3, leader, job) = held_unload(".stevedore-unload").await;
    let client = cluster.client(leader).await;
    client.jobs().cancel_job(v1::CancelJobRequest { job_id: job }).await.unwrap();
    s3.release();
    let ended = cluster.find_job_until(KEY, PATIENCE, "ended", has_ended).await;
    assert_eq!(ended.phase(), JobPhase::Cancelled, "{ended:?}");
    until_swept(&s3, "nothing is left", |visible, hidden| visible.is_empty() && hidden.is_empty()).await;
    assert!(s3.folder("bucket/x/kept.txt").exists());
}

/// The store lets some files have their names and refuses the others: it is all or none.
#[tokio::test(flavor = "multi_thread")]
async fn an_unload_whose_files_cannot_all_get_their_names_leaves_none() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, s3) = cluster_with_rows().await;
    let (leader, _) = cluster.leader().await;
    s3.refuse(Operation::Write, "/x/data_", 3, usize::MAX, Refusal::EXPIRED);
    cluster.submit(leader, UNLOAD, KEY).await;
    let ended = cluster.find_job_until(KEY, PATIENCE, "ended", has_ended).await;
    assert_eq!(ended.phase(), JobPhase::Aborted, "{ended:?}");
    let error = ended.error.unwrap().message;
    assert!(error.contains("the session token has expired"), "{error}");
    until_swept(&s3, "nothing is left", |visible, hidden| visible.is_empty() && hidden.is_empty()).await;
    assert!(s3.folder("bucket/x/kept.txt").exists());
    // With the keys that it needs, the same statement runs.
    s3.forgive();
    let client = cluster.client(leader).await;
    assert_eq!(run(&client, UNLOAD).await[0][0], (FILES * ROWS).to_string());
    assert!(names(&s3).1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_table_are_shared_out_to_slices_for_unloads_and_changes() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(ClusterConfig { coordinators: 1, ..ClusterConfig::default() }).await;
    let client = cluster.client(0).await;
    run(&client, "CREATE TABLE t (a INT, b STRING)").await;
    for file in 0..6 {
        run(
            &client,
            &format!("INSERT INTO t SELECT value, 'x' FROM range({}, {})", file * 10, file * 10 + 10),
        )
        .await;
    }
    run(&client, "CREATE STAGE out").await;
    for (query, expected) in [
        ("SELECT a * 2 AS a, upper(b) AS b FROM t WHERE a <> 3", 59),
        ("SELECT a * 2 AS a, b FROM t PARTITION BY ('p' || (a % 2)::STRING)", 60),
    ] {
        let (query, partition) =
            query.split_once(" PARTITION").map_or((query, ""), |(query, by)| (query, by));
        let partition = if partition.is_empty() { String::new() } else { format!("PARTITION{partition}") };
        let unload = format!(
            "COPY INTO @out/{expected}/ FROM ({query}) {partition} FILE_FORMAT = (TYPE = NDJSON) DETAILED_OUTPUT = true"
        );
        let files = run(&client, &unload).await;
        let rows: usize = files.iter().map(|file| file[2].parse::<usize>().unwrap()).sum();
        assert_eq!((files.len() >= 6, rows), (true, expected), "{files:?}");
        let read = format!(
            "SELECT count(*), count(DISTINCT a) FROM @out/{expected}/ (FILE_FORMAT => (TYPE = NDJSON))"
        );
        assert_eq!(run(&client, &read).await, [[expected.to_string(), expected.to_string()]]);
    }

    assert_eq!(run(&client, "UPDATE t SET b = 'y' WHERE a % 20 < 10").await, [["30"]]);
    assert_eq!(run(&client, "DELETE FROM t WHERE a % 10 = 9").await, [["6"]]);
    let merge = "MERGE INTO t USING (SELECT value AS a FROM range(0, 60)) AS u ON t.a = u.a
                 WHEN MATCHED AND u.a < 5 THEN DELETE WHEN MATCHED AND u.a < 8 THEN UPDATE SET b = 'z'";
    assert_eq!(run(&client, merge).await, [["3", "5"]]);
    assert_eq!(
        run(&client, "SELECT b, count(*), count(DISTINCT a) FROM t GROUP BY b ORDER BY b").await,
        [["x", "27", "27"], ["y", "19", "19"], ["z", "3", "3"]]
    );
    // Rows that match nothing are inserted once, whatever share of the target a slice looks at.
    let merge = "MERGE INTO t USING (SELECT value AS a FROM range(50, 70)) AS u ON t.a = u.a
                 WHEN MATCHED THEN UPDATE SET b = 'm' WHEN NOT MATCHED THEN INSERT (a, b) VALUES (u.a, 'new')";
    assert_eq!(run(&client, merge).await, [["11", "9"]]);
    assert_eq!(run(&client, merge).await, [["0", "20"]]);
    assert_eq!(
        run(&client, "SELECT count(*), count(DISTINCT a), sum(CASE WHEN b = 'm' THEN 1 ELSE 0 END) FROM t")
            .await,
        [["60", "60", "20"]]
    );

    // Each slice writes the rows of its own share.
    let written =
        "SELECT added_files FROM system.snapshots('t') WHERE operation = 'overwrite' ORDER BY timestamp";
    assert_eq!(run(&client, written).await[..3], [["3"], ["6"], ["1"]]);
}
