//! Statements that change rows of several data files, and what streams tell of them.

use stevedore::client::Client;
use stevedore_integration_tests::instance::TestInstance;

use super::run;

/// A table of six data files with nine rows each, numbered from 0, 10, 20, …
async fn six_files(client: &Client, name: &str) {
    run(client, &format!("CREATE TABLE {name} (a INT, b STRING, at TIMESTAMP, day DATE)")).await;
    for file in 0..6 {
        let insert = format!("INSERT INTO {name} (a) SELECT value FROM range({file}0, {file}9)");
        run(client, &insert).await;
    }
}

/// A source that comes out differently each time it is read would be another one for each slice.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_comes_by_chance_is_one_source_for_all_files_of_the_target() {
    // Each data file is a slice.
    let instance = TestInstance::start_with(|config| config.scheduling.slice_bytes = 1).await;
    let client = instance.client().await;
    run(&client, "CREATE TABLE t (a INT, b STRING, at TIMESTAMP)").await;
    for file in 0..6 {
        let (first, end) = (file * 100, file * 100 + 100);
        run(&client, &format!("INSERT INTO t SELECT value, 'x', NULL FROM range({first}, {end})")).await;
    }
    let number = |rows: &[Vec<String>]| rows[0].iter().map(|n| n.parse::<u64>().unwrap()).sum::<u64>();

    // Half of the target's keys and as many others, mixed: each of them is updated or inserted.
    let some = "(SELECT value AS a FROM range(0, 1200) ORDER BY random() LIMIT 300) AS u";
    let merge = format!(
        "MERGE INTO t USING {some} ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = 'm'
         WHEN NOT MATCHED THEN INSERT (a, b) VALUES (u.a, 'new')"
    );
    assert_eq!(number(&run(&client, &merge).await), 300);
    assert_eq!(run(&client, "SELECT count(*) FROM t WHERE b <> 'x'").await, [["300"]]);
    let by_chance =
        "MERGE INTO t USING (SELECT value AS a FROM range(0, 600)) AS u ON t.a = u.a AND random() < 0.5
        WHEN MATCHED THEN UPDATE SET b = 'c' WHEN NOT MATCHED THEN INSERT (a, b) VALUES (u.a, 'chance')";
    assert_eq!(number(&run(&client, by_chance).await), 600);
    assert_eq!(run(&client, "SELECT count(*) FROM t WHERE b IN ('c', 'chance')").await, [["600"]]);
    let one = "UPDATE t SET b = u.b FROM (SELECT uuid() AS b) AS u WHERE t.a < 600";
    run(&client, one).await;
    assert_eq!(run(&client, "SELECT count(DISTINCT b) FROM t WHERE a < 600").await, [["1"]]);
    let rows = || run(&client, "SELECT count(DISTINCT a) FROM t WHERE a < 600");
    assert_eq!(rows().await, [["600"]]);
    run(&client, "DELETE FROM t WHERE a IN (SELECT value FROM range(600) ORDER BY random() LIMIT 1)").await;
    assert_eq!(rows().await, [["599"]]);

    // All slices have one time, and each row a value of its own.
    six_files(&client, "own").await;
    run(&client, "UPDATE own SET at = now(), day = current_date(), b = uuid()").await;
    assert_eq!(
        run(&client, "SELECT count(*), count(DISTINCT at), count(DISTINCT day), count(DISTINCT b) FROM own")
            .await,
        [["54", "1", "1", "54"]]
    );
    let written = "SELECT added_files FROM system.snapshots('own') WHERE operation = 'overwrite'";
    assert_eq!(run(&client, written).await, [["6"]], "it is shared out all the same");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_which_files_would_be_looked_at_and_changes_nothing() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    six_files(&client, "own").await;
    let explained = async |sql: &str| run(&client, sql).await.concat().join("\n");
    let plan = explained("EXPLAIN UPDATE own SET b = 'x' WHERE a < 9 AND length(b) > 3").await;
    assert!(
        plan.contains("files=[1 files, 9 rows, ") && plan.contains("pruned=[5 files, 45 rows, "),
        "{plan}"
    );
    assert!(plan.contains("logical_plan") && plan.contains("physical_plan"), "{plan}");
    let plan = explained("EXPLAIN DELETE FROM own").await;
    assert!(plan.contains("files=[6 files, 54 rows, ") && plan.contains("pruned=[0 files"), "{plan}");
    let merge = "EXPLAIN MERGE INTO own USING (SELECT value AS a FROM range(1000, 1003)) AS u ON own.a = u.a \
                 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (a) VALUES (u.a)";
    let plan = explained(merge).await;
    assert!(plan.contains("JoinExec") && plan.contains("files=[6 files"), "{plan}");
    assert_eq!(
        run(&client, "SELECT count(*), sum(CASE WHEN b = 'x' THEN 1 ELSE 0 END) FROM own").await,
        [["54", "0"]]
    );
    // It consumes nothing either, and fails where the statement would.
    run(&client, "CREATE STREAM changed ON TABLE own").await;
    run(&client, "INSERT INTO own (a) VALUES (77)").await;
    let merge = "MERGE INTO own USING changed ON own.a = changed.a WHEN MATCHED THEN UPDATE SET b = 'seen'";
    assert!(explained(&format!("EXPLAIN {merge}")).await.contains("NumberedScanExec"));
    assert_eq!(run(&client, "SELECT count(*) FROM changed").await, [["1"]]);
    let error = client.query("EXPLAIN UPDATE own SET nothing = 1").await.unwrap_err().to_string();
    assert!(error.contains("column 'nothing'"), "{error}");
    instance.stop().await;
}

/// What a stream compares takes a bit a row: a table of the keys that changed would not fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_more_changes_than_their_keys_have_memory() {
    let instance = TestInstance::start_with(|config| config.memory_budget = 16 << 20).await;
    let client = instance.client().await;
    run(&client, "CREATE TABLE t AS SELECT value AS id, 'some name' AS name FROM range(400000)").await;
    run(&client, "CREATE STREAM s ON TABLE t APPEND_ONLY = FALSE").await;
    assert_eq!(run(&client, "UPDATE t SET name = 'x' WHERE id % 2 = 0").await, [["200000"]]);
    assert_eq!(run(&client, "DELETE FROM t WHERE id % 10 = 1").await, [["40000"]]);
    let changes =
        "SELECT change$action, change$is_update, count(*), sum(id) FROM s GROUP BY 1, 2 ORDER BY 1, 2";
    let expected = [
        ["DELETE", "false", "40000", "7999840000"],
        ["DELETE", "true", "200000", "39999800000"],
        ["INSERT", "true", "200000", "39999800000"],
    ];
    assert_eq!(run(&client, changes).await, expected);
    run(&client, "CREATE TABLE copied (id BIGINT)").await;
    run(&client, "INSERT INTO copied SELECT id FROM s WHERE change$action = 'INSERT'").await;
    assert_eq!(run(&client, "SELECT count(*), count(DISTINCT id) FROM copied").await, [["200000", "200000"]]);
    assert!(run(&client, changes).await.is_empty(), "it was consumed");
    instance.stop().await;
}
