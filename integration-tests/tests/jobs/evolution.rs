//! Loads that bring columns, at the same time as others do or as somebody alters the table.

use super::*;

/// An instance whose table `t` takes new columns, and NDJSON files for it that can be held.
async fn evolving_table() -> (TestInstance, Client, S3Server) {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    run(&client, "CREATE TABLE t (id INT) ENABLE_SCHEMA_EVOLUTION = true").await;
    (instance, client, s3)
}

/// Submits a COPY of the file of a folder, and returns once it is looked into and a slice is held while it reads it.
async fn held_load(client: &Client, s3: &S3Server, folder: &str, records: &str) -> String {
    files::write(&s3.folder(&format!("bucket/{folder}/a.ndjson")), records);
    // The first reader looks for columns.
    s3.hold(Operation::Read, &format!("/bucket/{folder}/"), 1);
    let job = submit(client, &copy(folder), folder).await.job_id;
    s3.wait_until_held(1).await;
    get_until(client, &job, |job| job.phase() == JobPhase::Running).await;
    job
}

fn copy(folder: &str) -> String {
    format!("COPY INTO t FROM @held/{folder}/ FILE_FORMAT = (TYPE = NDJSON)")
}

async fn columns(client: &Client) -> Vec<String> {
    let columns = run(client, "DESC TABLE t").await;
    columns.iter().map(|column| format!("{} {}", column[0], column[1])).collect()
}

async fn assert_committed(client: &Client, job: &str, rows: u64) {
    let (job, _) = watch(client, job).await;
    assert_eq!((job.phase(), job.rows_loaded), (JobPhase::Committed, rows), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_loads_that_bring_the_same_column_make_one_of_it() {
    let (instance, client, s3) = evolving_table().await;
    let first = held_load(&client, &s3, "a", "{\"id\":1,\"x\":10,\"only_a\":true}\n").await;
    // The second one is done while the first one waits.
    files::write(&s3.folder("bucket/b/b.ndjson"), "{\"id\":2,\"only_b\":\"b\",\"x\":20}\n");
    run(&client, &copy("b")).await;
    assert_eq!(columns(&client).await, ["id INT", "only_b VARCHAR", "x BIGINT"]);
    s3.release();
    assert_committed(&client, &first, 1).await;
    assert_eq!(columns(&client).await, ["id INT", "only_b VARCHAR", "x BIGINT", "only_a BOOLEAN"]);
    let rows = run(&client, "SELECT id, x, only_a, only_b FROM t ORDER BY id").await;
    assert_eq!(rows, [["1", "10", "true", "NULL"], ["2", "20", "NULL", "b"]]);
    instance.stop().await;
}

/// Each builds on what the other has prepared, which nobody else sees.
#[tokio::test(flavor = "multi_thread")]
async fn two_loads_of_one_transaction_at_once_agree_on_their_columns() {
    let (instance, client, s3) = evolving_table().await;
    let other = instance.client().await;
    files::write(&s3.folder("bucket/a/a.ndjson"), "{\"id\":1,\"x\":10.0,\"y\":\"a\"}\n");
    files::write(&s3.folder("bucket/b/b.ndjson"), "{\"id\":2,\"x\":20}\n");
    run(&client, "BEGIN").await;
    s3.hold(Operation::Read, "/bucket/a/", 1);
    let beside = async {
        s3.wait_until_held(1).await;
        run(&client, &copy("b")).await;
        assert_eq!(columns(&client).await, ["id INT", "x BIGINT"]);
        s3.release();
    };
    let sql = copy("a");
    let (loaded, ()) = tokio::join!(run(&client, &sql), beside);
    assert_eq!(loaded[0][..2], ["a/a.ndjson", "1"]);
    assert_eq!(columns(&client).await, ["id INT", "x BIGINT", "y VARCHAR"]);
    assert_eq!(columns(&other).await, ["id INT"]);
    run(&client, "COMMIT").await;
    assert_eq!(columns(&other).await, ["id INT", "x BIGINT", "y VARCHAR"]);
    let rows = run(&other, "SELECT id, x, y FROM t ORDER BY id").await;
    assert_eq!(rows, [["1", "10", "a"], ["2", "20", "NULL"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_finds_its_column_with_another_type_loads_into_that_one() {
    let (instance, client, s3) = evolving_table().await;
    // What it writes before the other one commits is a DOUBLE under an id of its own.
    let first =
        held_load(&client, &s3, "a", "{\"id\":1,\"x\":10.0,\"y\":\"a\"}\n{\"id\":3,\"y\":\"c\"}\n").await;
    files::write(&s3.folder("bucket/b/b.ndjson"), "{\"id\":2,\"X\":20}\n");
    run(&client, &copy("b")).await;
    s3.release();
    assert_committed(&client, &first, 2).await;
    assert_eq!(columns(&client).await, ["id INT", "X BIGINT", "y VARCHAR"]);
    let rows = run(&client, "SELECT id, x, y FROM t ORDER BY id").await;
    assert_eq!(rows, [["1", "10", "a"], ["2", "20", "NULL"], ["3", "NULL", "c"]]);
    let history = "SELECT file_name, rows_loaded, status FROM copy_history('t') ORDER BY file_name";
    assert_eq!(run(&client, history).await, [["a/a.ndjson", "2", "loaded"], ["b/b.ndjson", "1", "loaded"]]);
    assert!(run(&client, &copy("a")).await.is_empty(), "a repeated COPY loads nothing");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_does_not_fit_the_column_that_came_first_says_so() {
    let (instance, client, s3) = evolving_table().await;
    let first = held_load(&client, &s3, "a", "{\"id\":1,\"x\":\"text\"}\n").await;
    files::write(&s3.folder("bucket/b/b.ndjson"), "{\"id\":2,\"x\":20}\n");
    run(&client, &copy("b")).await;
    s3.release();
    let (job, _) = watch(&client, &first).await;
    assert_eq!(job.phase(), JobPhase::Aborted);
    let error = job.error.unwrap().message;
    assert!(
        error.contains("file 'a/a.ndjson', line 1: invalid value 'text' for column 2 (x BIGINT)"),
        "{error}"
    );
    assert_eq!(columns(&client).await, ["id INT", "x BIGINT"]);
    assert_eq!(run(&client, "SELECT id, x FROM t").await, [["2", "20"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_somebody_adds_during_a_load_are_the_ones_it_loads_into() {
    let (instance, client, s3) = evolving_table().await;
    let job = held_load(&client, &s3, "a", "{\"id\":1,\"x\":10,\"y\":\"a\"}\n").await;
    // Neither of them takes the field id that the load writes its values under.
    run(&client, "ALTER TABLE t ADD COLUMN theirs INT").await;
    run(&client, "ALTER TABLE t ADD COLUMN X VARCHAR").await;
    run(&client, "INSERT INTO t (id, theirs, x) VALUES (2, 7, 'seven')").await;
    s3.release();
    assert_committed(&client, &job, 1).await;
    assert_eq!(columns(&client).await, ["id INT", "theirs INT", "X VARCHAR", "y VARCHAR"]);
    let rows = run(&client, "SELECT id, theirs, x, y FROM t ORDER BY id").await;
    assert_eq!(rows, [["1", "NULL", "10", "a"], ["2", "7", "seven", "NULL"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_brought_and_dropped_comes_back_without_its_old_values() {
    let (instance, client, s3) = evolving_table().await;
    let job = held_load(&client, &s3, "a", "{\"id\":1,\"x\":10}\n").await;
    files::write(&s3.folder("bucket/b/b.ndjson"), "{\"id\":2,\"x\":20}\n");
    run(&client, &copy("b")).await;
    run(&client, "ALTER TABLE t DROP COLUMN x").await;
    s3.release();
    assert_committed(&client, &job, 1).await;
    assert_eq!(columns(&client).await, ["id INT", "x BIGINT"]);
    assert_eq!(run(&client, "SELECT id, x FROM t ORDER BY id").await, [["1", "10"], ["2", "NULL"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_that_all_bring_columns_at_once_load_each_file_once() {
    const LOADS: usize = 6;
    let (instance, client, s3) = evolving_table().await;
    let mut jobs = Vec::new();
    for load in 0..LOADS {
        // One name for all, with a type that depends on the load, and one of its own.
        let value = if load % 2 == 0 { "1" } else { "1.0" };
        let records: String = (0..50)
            .map(|row| format!("{{\"id\":{},\"shared\":{value},\"own_{load}\":{row}}}\n", load * 50 + row))
            .collect();
        files::write(&s3.folder(&format!("bucket/{load}/a.ndjson")), records);
        jobs.push(submit(&client, &copy(&load.to_string()), &load.to_string()).await.job_id);
    }
    for job in &jobs {
        assert_committed(&client, job, 50).await;
    }
    let sums = "SELECT count(*), count(DISTINCT id), sum(shared)::INT FROM t";
    assert_eq!(run(&client, sums).await, [["300", "300", "300"]]);
    assert_eq!(columns(&client).await.len(), 2 + LOADS);
    for load in 0..LOADS {
        let own = format!("SELECT count(*), min(id), sum(own_{load}) FROM t WHERE own_{load} IS NOT NULL");
        assert_eq!(run(&client, &own).await, [["50".to_owned(), (load * 50).to_string(), "1225".to_owned()]]);
    }
    instance.stop().await;
}
