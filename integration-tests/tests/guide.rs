//! The EverDrive guide of Databend (Lakehouse ETL), word for word but for credentials, bucket and
//! endpoint, against a server that speaks the S3 protocol.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Float32Type;
use stevedore::client::Client;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::objectstore::{ACCESS_KEY, S3Server, SECRET_KEY};
use stevedore_integration_tests::{files, oracle, show};

const SESSIONS: usize = 20;
const FRAMES: usize = 1_000;
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
        parquet(
            &raw.join(format!("frame-events/frame_events_2024_08_{file}.parquet")),
            vec![
                ("frame_id", text(rows.clone().map(|i| format!("FRAME-{i:05}")))),
                ("session_id", text(rows.clone().map(|i| format!("SES-{:03}", i % SESSIONS)))),
                ("frame_index", Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i as i64)))),
                (
                    "captured_at",
                    text(rows.clone().map(|i| format!("2024-08-16 09:{:02}:{:02}", i / 60 % 60, i % 60))),
                ),
                (
                    "event_type",
                    text(rows.clone().map(|i| ["SuddenBrake", "CrosswalkEntry"][i % 2].to_owned())),
                ),
                (
                    "risk_score",
                    Arc::new(Float64Array::from_iter_values(rows.clone().map(|i| i as f64 / FRAMES as f64))),
                ),
            ],
        );
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

const COPIES: &[(&str, usize, usize)] = &[
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

async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_runs_word_for_word() {
    let s3 = S3Server::start(&["everdrive-lakehouse"]).await;
    export(&s3.folder("everdrive-lakehouse/raw"));
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    for table in TABLES {
        rows(&client, table).await;
    }

    rows(
        &client,
        &format!(
            "CREATE OR REPLACE CONNECTION everdrive_s3
  STORAGE_TYPE = 's3'
  ENDPOINT_URL = '{}'
  ACCESS_KEY_ID = '{ACCESS_KEY}'
  SECRET_ACCESS_KEY = '{SECRET_KEY}';",
            s3.endpoint()
        ),
    )
    .await;
    rows(
        &client,
        "CREATE OR REPLACE STAGE drive_stage
  URL = 's3://everdrive-lakehouse/raw/'
  CONNECTION = (CONNECTION_NAME = 'everdrive_s3')
  FILE_FORMAT = (TYPE = 'PARQUET');",
    )
    .await;

    for (folder, expected) in [("sessions", 1), ("frame-events", 2), ("payloads", 2), ("embeddings", 2)] {
        let listed = rows(&client, &format!("LIST @drive_stage/{folder}/;")).await;
        assert_eq!(listed.len(), expected, "{listed:?}");
        assert!(listed.iter().all(|row| row[0].starts_with(&format!("{folder}/"))), "{listed:?}");
    }

    let preview = rows(
        &client,
        "SELECT *
FROM @drive_stage/sessions/session_2024_08_16.parquet
LIMIT 5;",
    )
    .await;
    assert_eq!((preview.len(), preview[0].len()), (5, 7), "{preview:?}");
    let preview = rows(
        &client,
        "SELECT *
FROM @drive_stage/frame-events/frame_events_2024_08_16.parquet
LIMIT 5;",
    )
    .await;
    assert_eq!((preview.len(), preview[0].len()), (5, 6), "{preview:?}");

    for (copy, files, expected) in COPIES {
        let result = rows(&client, copy).await;
        assert_eq!(result.len(), *files, "{result:?}");
        let loaded: usize = result.iter().map(|row| row[1].parse::<usize>().unwrap()).sum();
        assert_eq!(loaded, *expected, "{result:?}");
        assert!(result.iter().all(|row| row[2] == "0" && row[3] == "NULL" && row[4] == "NULL"), "{result:?}");
    }

    assert_eq!(
        rows(&client, "SELECT count(*), min(start_time), max(end_time) FROM drive_sessions").await,
        [[SESSIONS.to_string(), "2024-08-16 00:00:00".to_owned(), "2024-08-16 01:00:19".to_owned()]]
    );
    let sum: usize = (0..FRAMES).sum();
    assert_eq!(
        rows(
            &client,
            "SELECT count(DISTINCT frame_id), sum(frame_index), max(captured_at) FROM frame_events"
        )
        .await,
        [[FRAMES.to_string(), sum.to_string(), "2024-08-16 09:16:39".to_owned()]]
    );
    assert_eq!(
        rows(
            &client,
            "SELECT payload['objects'][0]['type']::STRING, payload:ego.speed_kmh::INT
             FROM frame_payloads WHERE frame_id = 'FRAME-00042'"
        )
        .await,
        [["vehicle".to_owned(), "42".to_owned()]]
    );
    assert_eq!(
        rows(&client, "SELECT frame_id FROM frame_embeddings ORDER BY L2_DISTANCE(embedding, [0.5, 77, -1, 0.25]::VECTOR(4)) LIMIT 1")
            .await,
        [["FRAME-00077".to_owned()]]
    );

    // What is in the table by another reader: each frame once.
    let mut frames = HashSet::new();
    for batch in oracle::batches(instance.url(), "frame_events").await {
        for id in batch.column_by_name("frame_id").unwrap().as_string::<i32>() {
            assert!(frames.insert(id.unwrap().to_owned()), "{id:?} is there twice");
        }
    }
    assert_eq!(frames.len(), FRAMES);

    // The same COPYs again load nothing.
    for (copy, _, _) in COPIES {
        assert!(rows(&client, copy).await.is_empty());
    }
    instance.stop().await;
}
