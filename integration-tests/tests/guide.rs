//! The EverDrive guide of Databend (Lakehouse ETL) from its first statement to its last, word for word but
//! for credentials, bucket and endpoint, against a server that speaks the S3 protocol: statement by statement
//! through Flight SQL, and as one script through `stevedore sql -f`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Float32Type;
use stevedore::client::Client;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::objectstore::{ACCESS_KEY, S3Server, SECRET_KEY};
use stevedore_integration_tests::{files, oracle, server, show};

const SESSIONS: usize = 20;
const FRAMES: usize = 1_000;
/// Frames of each batch that comes after the first.
const LATER: usize = 100;
/// How long a task may take to run.
const PATIENCE: Duration = Duration::from_secs(120);
/// 2024-08-16 00:00:00 UTC, microseconds.
const DAY: i64 = 1_723_766_400_000_000;

fn text(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(n: usize, offset: i64) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values((0..n).map(|i| DAY + offset + i as i64 * 1_000_000)))
}

fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    files::write(path, files::parquet_of(&RecordBatch::try_from_iter(columns).unwrap()));
}

/// The frame events of a day.
fn frame_events(raw: &Path, day: &str, rows: Range<usize>) {
    parquet(
        &raw.join(format!("frame-events/frame_events_2024_08_{day}.parquet")),
        vec![
            ("frame_id", text(rows.clone().map(|i| format!("FRAME-{i:05}")))),
            ("session_id", text(rows.clone().map(|i| format!("SES-{:03}", i % SESSIONS)))),
            ("frame_index", Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i as i64)))),
            (
                "captured_at",
                text(rows.clone().map(|i| format!("2024-08-16 09:{:02}:{:02}", i / 60 % 60, i % 60))),
            ),
            ("event_type", text(rows.clone().map(|i| ["SuddenBrake", "CrosswalkEntry"][i % 2].to_owned()))),
            ("risk_score", Arc::new(Float64Array::from_iter_values(rows.map(|i| i as f64 / FRAMES as f64)))),
        ],
    );
}

/// What the data engineering team exports: Parquet, the types not quite those of the tables.
fn export(raw: &Path) {
    let n = SESSIONS;
    parquet(
        &raw.join("sessions/session_2024_08_16.parquet"),
        vec![
            ("session_id", text((0..n).map(|i| format!("SES-{i:03}")))),
            ("vehicle_id", text((0..n).map(|i| format!("VEH-{}", i % 7)))),
            ("route_name", text((0..n).map(|i| format!("Seattle → Bellevue {i}")))),
            ("start_time", times(n, 0)),
            ("end_time", times(n, 3_600_000_000)),
            ("weather", text((0..n).map(|i| ["Sunny", "Light Rain"][i % 2].to_owned()))),
            ("camera_setup", text((0..n).map(|_| "Dual 1080p".to_owned()))),
        ],
    );
    for (file, rows) in [("16", 0..FRAMES / 2), ("17", FRAMES / 2..FRAMES)] {
        let n = rows.len();
        frame_events(raw, file, rows.clone());
        parquet(
            &raw.join(format!("payloads/payloads_2024_08_{file}.parquet")),
            vec![
                ("frame_id", text(rows.clone().map(|i| format!("FRAME-{i:05}")))),
                ("run_stage", text(rows.clone().map(|_| "detection".to_owned()))),
                (
                    "payload",
                    text(rows.clone().map(|i| {
                        format!(r#"{{"objects": [{{"type": "vehicle", "confidence": 0.{:02}}}], "ego": {{"speed_kmh": {i}}}}}"#, i % 100)
                    })),
                ),
                ("logged_at", times(n, 0)),
            ],
        );
        let embeddings = rows.clone().map(|i| Some([0.5, i as f32, -1.0, 0.25].map(Some)));
        parquet(
            &raw.join(format!("embeddings/embeddings_2024_08_{file}.parquet")),
            vec![
                ("frame_id", text(rows.clone().map(|i| format!("FRAME-{i:05}")))),
                ("session_id", text(rows.clone().map(|i| format!("SES-{:03}", i % SESSIONS)))),
                ("embedding", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(embeddings))),
                ("model_version", text(rows.clone().map(|_| "clip-v1".to_owned()))),
                ("created_at", times(n, 0)),
            ],
        );
    }
}

/// The guide's own tables, without the indexes that its searches use.
const TABLES: &[&str] = &[
    "CREATE OR REPLACE TABLE drive_sessions (
  session_id   VARCHAR,
  vehicle_id   VARCHAR,
  route_name   VARCHAR,
  start_time   TIMESTAMP,
  end_time     TIMESTAMP,
  weather      VARCHAR,
  camera_setup VARCHAR
);",
    "CREATE OR REPLACE TABLE frame_events (
  frame_id     VARCHAR,
  session_id   VARCHAR,
  frame_index  INT,
  captured_at  TIMESTAMP,
  event_type   VARCHAR,
  risk_score   DOUBLE
);",
    "CREATE OR REPLACE TABLE frame_payloads (
  frame_id   VARCHAR,
  run_stage  VARCHAR,
  payload    VARIANT,
  logged_at  TIMESTAMP
);",
    "CREATE OR REPLACE TABLE frame_embeddings (
  frame_id      VARCHAR,
  session_id    VARCHAR,
  embedding     VECTOR(4),
  model_version VARCHAR,
  created_at    TIMESTAMP
);",
];

const CONNECTION: &str = "CREATE OR REPLACE CONNECTION everdrive_s3
  STORAGE_TYPE = 's3'
  ENDPOINT_URL = '{endpoint}'
  ACCESS_KEY_ID = '<AWS_ACCESS_KEY_ID>'
  SECRET_ACCESS_KEY = '<AWS_SECRET_ACCESS_KEY>';";

const STAGE: &str = "CREATE OR REPLACE STAGE drive_stage
  URL = 's3://everdrive-lakehouse/raw/'
  CONNECTION = (CONNECTION_NAME = 'everdrive_s3')
  FILE_FORMAT = (TYPE = 'PARQUET');";

/// A folder, and how many files the first batch has there.
const LISTS: [(&str, usize); 4] = [
    ("LIST @drive_stage/sessions/;", 1),
    ("LIST @drive_stage/frame-events/;", 2),
    ("LIST @drive_stage/payloads/;", 2),
    ("LIST @drive_stage/embeddings/;", 2),
];

/// A look at a file, and how many columns it has.
const PREVIEWS: [(&str, usize); 2] = [
    (
        "SELECT *
FROM @drive_stage/sessions/session_2024_08_16.parquet
LIMIT 5;",
        7,
    ),
    (
        "SELECT *
FROM @drive_stage/frame-events/frame_events_2024_08_16.parquet
LIMIT 5;",
        6,
    ),
];

/// A load, and how many files and rows it finds in the first batch.
const COPIES: [(&str, usize, usize); 4] = [
    (
        "COPY INTO drive_sessions (session_id, vehicle_id, route_name, start_time, end_time, weather, camera_setup)
FROM (
  SELECT session_id::STRING,
         vehicle_id::STRING,
         route_name::STRING,
         start_time::TIMESTAMP,
         end_time::TIMESTAMP,
         weather::STRING,
         camera_setup::STRING
  FROM @drive_stage/sessions/
)
FILE_FORMAT = (TYPE = 'PARQUET');",
        1,
        SESSIONS,
    ),
    (
        "COPY INTO frame_events (frame_id, session_id, frame_index, captured_at, event_type, risk_score)
FROM (
  SELECT frame_id::STRING,
         session_id::STRING,
         frame_index::INT,
         captured_at::TIMESTAMP,
         event_type::STRING,
         risk_score::DOUBLE
  FROM @drive_stage/frame-events/
)
FILE_FORMAT = (TYPE = 'PARQUET');",
        2,
        FRAMES,
    ),
    (
        "COPY INTO frame_payloads (frame_id, run_stage, payload, logged_at)
FROM (
  SELECT frame_id::STRING,
         run_stage::STRING,
         payload,
         logged_at::TIMESTAMP
  FROM @drive_stage/payloads/
)
FILE_FORMAT = (TYPE = 'PARQUET');",
        2,
        FRAMES,
    ),
    (
        "COPY INTO frame_embeddings (frame_id, session_id, embedding, model_version, created_at)
FROM (
  SELECT frame_id::STRING,
         session_id::STRING,
         embedding::VECTOR(4),     -- Replace 4 with your actual embedding dimension
         model_version::STRING,
         created_at::TIMESTAMP
  FROM @drive_stage/embeddings/
)
FILE_FORMAT = (TYPE = 'PARQUET');",
        2,
        FRAMES,
    ),
];

const CREATE_STREAM: &str = "CREATE OR REPLACE STREAM frame_events_stream ON TABLE frame_events;";

const READ_STREAM: &str = "SELECT * FROM frame_events_stream;  -- Shows new rows since the last consumption";

const CONSUME_STREAM: &str = "CONSUME STREAM frame_events_stream;";

/// How a later edition of the guide consumes it.
const READ_AND_CONSUME: &str = "SELECT * FROM frame_events_stream WITH CONSUME;  -- advance the offset";

/// The tasks of the guide and how they are started: each runs one of its loads.
fn tasks() -> [String; 4] {
    let create = |name: &str, (load, _, _): (&str, usize, usize)| {
        let load = load.replace('\n', "\n  ");
        format!("CREATE OR REPLACE TASK {name}\n  WAREHOUSE = 'default'\n  SCHEDULE = 5 MINUTE\nAS\n  {load}")
    };
    [
        create("task_load_sessions", COPIES[0]),
        "ALTER TASK task_load_sessions RESUME;".to_owned(),
        create("task_load_frame_events", COPIES[1]),
        "ALTER TASK task_load_frame_events RESUME;\n\n-- Repeat for frame_payloads and frame_embeddings"
            .to_owned(),
    ]
}

/// The statement that names the store, with the store of the test.
fn connection(s3: &S3Server) -> String {
    CONNECTION
        .replace("{endpoint}", &s3.endpoint())
        .replace("<AWS_ACCESS_KEY_ID>", ACCESS_KEY)
        .replace("<AWS_SECRET_ACCESS_KEY>", SECRET_KEY)
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// Runs a task at once, and waits until it is done.
async fn execute(client: &Client, task: &str) {
    let runs = format!("SELECT count(*) FROM task_history('{task}') WHERE completed_time IS NOT NULL");
    let before = rows(client, &runs).await;
    rows(client, &format!("EXECUTE TASK {task}")).await;
    let start = Instant::now();
    while rows(client, &runs).await == before {
        assert!(start.elapsed() < PATIENCE, "task '{task}' does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last = format!("SELECT state, exception_text FROM task_history('{task}', 1)");
    assert_eq!(rows(client, &last).await[0][0], "SUCCEEDED");
}

/// The frames that are new in the stream: once each, as insertions, with all that the file says of them.
fn assert_new(stream: &[Vec<String>], frames: Range<usize>) {
    let mut found: Vec<Vec<String>> = stream.iter().map(|row| row[..8].to_vec()).collect();
    found.sort();
    let expected: Vec<Vec<String>> = frames
        .map(|i| {
            vec![
                format!("FRAME-{i:05}"),
                format!("SES-{:03}", i % SESSIONS),
                i.to_string(),
                format!("2024-08-16 09:{:02}:{:02}", i / 60 % 60, i % 60),
                ["SuddenBrake", "CrosswalkEntry"][i % 2].to_owned(),
                format!("{:?}", i as f64 / FRAMES as f64),
                "INSERT".to_owned(),
                "false".to_owned(),
            ]
        })
        .collect();
    assert_eq!(found, expected);
    let ids: HashSet<&String> = stream.iter().map(|row| &row[8]).collect();
    assert_eq!(ids.len(), stream.len(), "two rows have one change$row_id");
}

/// The bucket with what was exported, its folder, and an instance with the guide's tables.
async fn exported() -> (S3Server, PathBuf, TestInstance, Client) {
    let s3 = S3Server::start(&["everdrive-lakehouse"]).await;
    let raw = s3.folder("everdrive-lakehouse/raw");
    export(&raw);
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    for table in TABLES {
        rows(&client, table).await;
    }
    (s3, raw, instance, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_runs_word_for_word() {
    let (s3, raw, instance, client) = exported().await;
    rows(&client, &connection(&s3)).await;
    rows(&client, STAGE).await;
    for (list, expected) in LISTS {
        let listed = rows(&client, list).await;
        let folder = list.trim_start_matches("LIST @drive_stage/").trim_end_matches(';');
        assert_eq!(listed.len(), expected, "{listed:?}");
        assert!(listed.iter().all(|row| row[0].starts_with(folder)), "{listed:?}");
    }
    for (preview, columns) in PREVIEWS {
        let preview = rows(&client, preview).await;
        assert_eq!((preview.len(), preview[0].len()), (5, columns), "{preview:?}");
    }
    for (copy, files, expected) in COPIES {
        let result = rows(&client, copy).await;
        assert_eq!(result.len(), files, "{result:?}");
        let loaded: usize = result.iter().map(|row| row[1].parse::<usize>().unwrap()).sum();
        assert_eq!(loaded, expected, "{result:?}");
        assert!(result.iter().all(|row| row[2] == "0" && row[3] == "NULL" && row[4] == "NULL"), "{result:?}");
    }
    what_was_loaded(&client).await;
    // The same COPYs again load nothing.
    for (copy, _, _) in COPIES {
        assert!(rows(&client, copy).await.is_empty());
    }

    // A stream shows what came after it was made, until it is consumed.
    rows(&client, CREATE_STREAM).await;
    assert!(rows(&client, READ_STREAM).await.is_empty());
    let first = FRAMES..FRAMES + LATER;
    frame_events(&raw, "18", first.clone());
    let (copy_events, _, _) = COPIES[1];
    let copied = rows(&client, copy_events).await;
    assert_eq!(copied[0][..3], ["frame-events/frame_events_2024_08_18.parquet", &LATER.to_string(), "0"]);
    assert_eq!(copied.len(), 1, "{copied:?}");
    assert_new(&rows(&client, READ_STREAM).await, first.clone());
    assert_new(&rows(&client, READ_STREAM).await, first);
    rows(&client, CONSUME_STREAM).await;
    assert!(rows(&client, READ_STREAM).await.is_empty());

    // The tasks load what comes, and nothing twice.
    for statement in tasks() {
        rows(&client, &statement).await;
    }
    assert_started(&client).await;
    execute(&client, "task_load_sessions").await;
    execute(&client, "task_load_frame_events").await;
    assert!(rows(&client, READ_STREAM).await.is_empty());
    let second = FRAMES + LATER..FRAMES + 2 * LATER;
    frame_events(&raw, "19", second.clone());
    execute(&client, "task_load_frame_events").await;
    execute(&client, "task_load_frame_events").await;
    assert_new(&rows(&client, READ_AND_CONSUME).await, second);
    assert!(rows(&client, READ_STREAM).await.is_empty());
    assert_eq!(rows(&client, "SELECT count(*) FROM drive_sessions").await, [[SESSIONS.to_string()]]);

    // What is in the table by another reader: each frame once.
    let mut frames = HashSet::new();
    for batch in oracle::batches(instance.url(), "frame_events").await {
        for id in batch.column_by_name("frame_id").unwrap().as_string::<i32>() {
            assert!(frames.insert(id.unwrap().to_owned()), "{id:?} is there twice");
        }
    }
    assert_eq!(frames.len(), FRAMES + 2 * LATER);
    instance.stop().await;
}

/// Rows of the first batch, asked for by queries like those of the guides that go on from here.
async fn what_was_loaded(client: &Client) {
    assert_eq!(
        rows(client, "SELECT count(*), min(start_time), max(end_time) FROM drive_sessions").await,
        [[SESSIONS.to_string(), "2024-08-16 00:00:00".to_owned(), "2024-08-16 01:00:19".to_owned()]]
    );
    let sum: usize = (0..FRAMES).sum();
    assert_eq!(
        rows(client, "SELECT count(DISTINCT frame_id), sum(frame_index), max(captured_at) FROM frame_events")
            .await,
        [[FRAMES.to_string(), sum.to_string(), "2024-08-16 09:16:39".to_owned()]]
    );
    assert_eq!(
        rows(
            client,
            "SELECT payload['objects'][0]['type']::STRING, payload:ego.speed_kmh::INT
             FROM frame_payloads WHERE frame_id = 'FRAME-00042'"
        )
        .await,
        [["vehicle".to_owned(), "42".to_owned()]]
    );
    assert_eq!(
        rows(client, "SELECT frame_id FROM frame_embeddings ORDER BY L2_DISTANCE(embedding, [0.5, 77, -1, 0.25]::VECTOR(4)) LIMIT 1")
            .await,
        [["FRAME-00077".to_owned()]]
    );
}

/// Both tasks of the guide wait for their next tick.
async fn assert_started(client: &Client) {
    let tasks = "SELECT name, warehouse, schedule, state, next_schedule_time > created_on
                 FROM system.tasks ORDER BY name";
    let expected = ["task_load_frame_events", "task_load_sessions"]
        .map(|name| [name, "default", "INTERVAL 300 SECOND", "Started", "true"].map(str::to_owned));
    assert_eq!(rows(client, tasks).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_runs_as_a_script_of_the_command_line() {
    let (s3, raw, instance, client) = exported().await;
    let connection = connection(&s3);
    let tasks = tasks();
    let mut script = vec![connection.as_str(), STAGE];
    script.extend(LISTS.map(|(list, _)| list));
    script.extend(PREVIEWS.map(|(preview, _)| preview));
    script.extend(COPIES.map(|(copy, _, _)| copy));
    script.extend([CREATE_STREAM, READ_STREAM, CONSUME_STREAM]);
    script.extend(tasks.iter().map(String::as_str));
    let path = instance.files().join("everdrive.sql");
    files::write(&path, script.join("\n\n"));
    let run = async || {
        let mut command = Command::new(server::binary());
        command.args(["sql", "--format", "csv", "--addr", instance.url(), "-f"]).arg(&path);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (out, errors) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{errors}\n{out}");
        out
    };

    let loaded = |out: &str| -> Vec<String> {
        let reports = out.lines().filter(|line| line.contains(".parquet,") && line.ends_with(",0,,"));
        reports.map(|line| line.trim_end_matches(",0,,").to_owned()).collect()
    };
    let expected = [
        "sessions/session_2024_08_16.parquet,20",
        "frame-events/frame_events_2024_08_16.parquet,500",
        "frame-events/frame_events_2024_08_17.parquet,500",
        "payloads/payloads_2024_08_16.parquet,500",
        "payloads/payloads_2024_08_17.parquet,500",
        "embeddings/embeddings_2024_08_16.parquet,500",
        "embeddings/embeddings_2024_08_17.parquet,500",
    ];
    assert_eq!(loaded(&run().await), expected);
    what_was_loaded(&client).await;
    assert_started(&client).await;

    // All of it again: what is there is made anew, and only the new file is loaded.
    frame_events(&raw, "18", FRAMES..FRAMES + LATER);
    assert_eq!(loaded(&run().await), ["frame-events/frame_events_2024_08_18.parquet,100"]);
    assert_started(&client).await;
    let count = rows(&client, "SELECT count(*), count(DISTINCT frame_id) FROM frame_events").await;
    assert_eq!(count, [[(FRAMES + LATER).to_string(), (FRAMES + LATER).to_string()]]);
    instance.stop().await;
}
