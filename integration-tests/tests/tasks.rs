//! Scheduled tasks at work: ticks, graphs, failures told to a webhook, and a schedule over the death of leaders.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::show;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(120);

async fn try_lines(client: &Client, sql: &str) -> Option<Vec<String>> {
    let batches = timeout(Duration::from_secs(10), client.query(sql)).await.ok()?.ok()?;
    Some(show::lines(&batches))
}

async fn lines(client: &Client, sql: &str) -> Vec<String> {
    let batches = timeout(PATIENCE, client.query(sql)).await.expect("the statement ends");
    show::lines(&batches.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// Asks until the answer is as expected.
async fn until(client: &Client, sql: &str, reached: impl Fn(&[String]) -> bool) -> Vec<String> {
    let start = Instant::now();
    loop {
        let found = lines(client, sql).await;
        if reached(&found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not reached: {sql}\n{found:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_on_its_schedule_and_a_script_in_its_own_session() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    lines(&client, "CREATE DATABASE d").await;
    lines(&client, "CREATE TABLE d.t (at TIMESTAMP)").await;
    lines(&client, "USE d").await;
    lines(
        &client,
        "CREATE TASK k SCHEDULE = 1 SECOND timezone = 'Asia/Tokyo' AS
         BEGIN INSERT INTO t VALUES ('2026-01-01 09:00:00'); SET timezone = 'UTC'; INSERT INTO t VALUES ('2026-01-01 09:00:00'); END",
    )
    .await;
    lines(&client, "ALTER TASK k RESUME").await;
    until(&client, "SELECT count(*) FROM d.t", |found| found[0].parse::<u64>().unwrap() >= 4).await;
    lines(&client, "ALTER TASK k SUSPEND").await;
    let history = "SELECT DISTINCT state FROM task_history('k')";
    until(&client, history, |found| found.iter().all(|state| state == "SUCCEEDED" || state == "SKIPPED"))
        .await;
    let rows = lines(&client, "SELECT at, count(*) FROM d.t GROUP BY at ORDER BY at").await;
    let runs = lines(&client, "SELECT count(*) FROM task_history('k') WHERE state = 'SUCCEEDED'").await;
    let expected: Vec<String> = ["2026-01-01 00:00:00", "2026-01-01 09:00:00"]
        .iter()
        .map(|at| format!("{at} | {}", runs[0]))
        .collect();
    let shown: Vec<String> =
        rows.iter().map(|row| row.replace('T', " ").replace(".000000", "").replace('Z', "")).collect();
    assert_eq!(shown, expected);
    // Ticks lie on one grid, and none was run twice.
    let grid = "SELECT count(*), count(DISTINCT scheduled_time),
                count(DISTINCT CAST(extract(epoch FROM scheduled_time) * 1000 AS BIGINT) % 1000)
                FROM task_history('k') WHERE state = 'SUCCEEDED'";
    assert_eq!(lines(&client, grid).await, [format!("{0} | {0} | 1", runs[0])]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_runs_from_its_root_and_conditions_skip() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    lines(&client, "CREATE TABLE t (who VARCHAR)").await;
    for (name, rest) in [("root", ""), ("a", "AFTER root"), ("b", "AFTER 'root'"), ("last", "AFTER 'a', 'b'")]
    {
        lines(&client, &format!("CREATE TASK {name} {rest} AS INSERT INTO t VALUES ('{name}')")).await;
    }
    lines(
        &client,
        "CREATE TASK never AFTER root WHEN (SELECT count(*) FROM t) < 0 AS INSERT INTO t VALUES ('never')",
    )
    .await;
    for name in ["a", "b", "last", "never"] {
        lines(&client, &format!("ALTER TASK {name} RESUME")).await;
    }
    lines(&client, "EXECUTE TASK root").await;
    let ended = "SELECT name, state FROM system.task_history WHERE completed_time IS NOT NULL ORDER BY name";
    let found = until(&client, ended, |found| found.len() == 5).await;
    assert_eq!(
        found,
        ["a | SUCCEEDED", "b | SUCCEEDED", "last | SUCCEEDED", "never | SKIPPED", "root | SUCCEEDED"]
    );
    assert_eq!(lines(&client, "SELECT who FROM t ORDER BY who").await, ["a", "b", "last", "root"]);
    let roots = "SELECT count(DISTINCT root_task_id) FROM system.task_history";
    assert_eq!(lines(&client, roots).await, ["1"]);
    let order = "SELECT max(completed_time) FILTER (WHERE name IN ('a', 'b')) <= max(scheduled_time) FILTER
                 (WHERE name = 'last') FROM system.task_history";
    assert_eq!(lines(&client, order).await, ["true"]);
    instance.stop().await;
}

type Received = Arc<Mutex<Vec<(String, serde_json::Value)>>>;

/// Refuses the first message, and takes those after it.
async fn receive(State(received): State<Received>, headers: HeaderMap, body: String) -> StatusCode {
    let header = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut received = received.lock().await;
    received.push((header.to_owned(), serde_json::from_str(&body).unwrap()));
    if received.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_task_is_suspended_and_told_until_it_is_heard() {
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/hook", post(receive)).with_state(received.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    // One that takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();

    let instance = TestInstance::start().await;
    let client = instance.client().await;
    for (name, address) in [("hook", address), ("silent", silent.local_addr().unwrap())] {
        lines(
            &client,
            &format!(
                "CREATE NOTIFICATION INTEGRATION {name} TYPE = WEBHOOK ENABLED = TRUE WEBHOOK =
                 (url = 'http://{address}/hook', method = 'POST', authorization_header = 'Bearer x')"
            ),
        )
        .await;
    }
    lines(&client, "CREATE TABLE t (a INT)").await;
    for (name, hook) in [("stuck", "silent"), ("failing", "hook")] {
        lines(
            &client,
            &format!(
                "CREATE TASK {name} SCHEDULE = 500 MILLISECOND SUSPEND_TASK_AFTER_NUM_FAILURES = 2
                 ERROR_INTEGRATION = '{hook}' AS INSERT INTO t SELECT * FROM gone"
            ),
        )
        .await;
        lines(&client, &format!("ALTER TASK {name} RESUME")).await;
    }
    let state = "SELECT state FROM system.tasks WHERE name = 'failing'";
    until(&client, state, |found| found == ["Suspended"]).await;
    let failures =
        "SELECT exception_code, exception_text FROM task_history(task_name => 'FAILING', error_only => true)";
    let failures = lines(&client, failures).await;
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures[0].contains("'default.gone' does not exist"), "{failures:?}");

    let start = Instant::now();
    let messages = loop {
        let messages = received.lock().await.clone();
        // Two failures, one of which was refused at first.
        if messages.len() >= 3 {
            break messages;
        }
        assert!(start.elapsed() < PATIENCE, "{messages:?}");
        sleep(Duration::from_millis(50)).await;
    };
    for (header, message) in &messages {
        assert_eq!(header, "Bearer x");
        assert_eq!(
            (&message["messageType"], &message["taskName"]),
            (&"TASK_FAILED".into(), &"failing".into())
        );
        assert!(message["messages"][0]["errorMessage"].as_str().unwrap().contains("gone"), "{message}");
    }
    let mut ids: Vec<&str> = messages.iter().map(|(_, m)| m["messageId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2, "a message that is sent again keeps its id");
    server.abort();
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tick_is_run_once_though_leaders_die() {
    let mut cluster = Cluster::start(ClusterConfig::default()).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    lines(&client, "CREATE TABLE t (a INT)").await;
    lines(&client, "CREATE TASK k SCHEDULE = 1 SECOND AS INSERT INTO t VALUES (1)").await;
    lines(&client, "ALTER TASK k RESUME").await;
    drop(client);
    for round in 0..3 {
        let (leader, _) = cluster.leader().await;
        let client = cluster.client(leader).await;
        let more =
            format!("SELECT count(*) >= {} FROM task_history('k') WHERE state = 'SUCCEEDED'", round + 2);
        until(&client, &more, |found| found == ["true"]).await;
        drop(client);
        cluster.kill_coordinator(leader);
        cluster.leader().await;
        cluster.restart_coordinator(leader);
    }
    let start = Instant::now();
    loop {
        let (leader, _) = cluster.leader().await;
        let client = cluster.client(leader).await;
        if try_lines(&client, "ALTER TASK k SUSPEND").await.is_some() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the task is not suspended");
    }
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    let live = "SELECT count(*) FROM task_history('k') WHERE state IN ('SCHEDULED', 'EXECUTING')";
    until(&client, live, |found| found == ["0"]).await;
    let runs = lines(
        &client,
        "SELECT count(*), count(DISTINCT scheduled_time) FROM task_history('k', 10000) WHERE state = 'SUCCEEDED'",
    )
    .await;
    let rows = lines(&client, "SELECT count(*) FROM t").await;
    assert_eq!(runs, [format!("{0} | {0}", rows[0])]);
    assert_eq!(lines(&client, "SELECT count(*) FROM task_history('k', error_only => true)").await, ["0"]);
}
