//! The texts of the tour's statements, as a user would write them.

use crate::sql_text;

pub(super) const CREATE_CONNECTION: &str = "CREATE CONNECTION road_tests STORAGE_TYPE = 'fs'";

/// The stage over the generated files; `folder` is absolute.
pub(super) fn create_stage(folder: &str) -> String {
    let url = sql_text::literal(&format!("fs://{folder}/"));
    format!("CREATE STAGE drive_data\n    URL = {url}\n    CONNECTION = (CONNECTION_NAME = 'road_tests')")
}

pub(super) const LIST: &str = "LIST @drive_data";

pub(super) const PREVIEW: &str = "\
SELECT frame_id, captured_at, event_type, risk_score, metadata$filename
FROM @drive_data/frame-events/ (FILE_FORMAT => 'PARQUET', PATTERN => '.*[.]parquet')
LIMIT 5";

pub(super) const CREATE_FILE_FORMAT: &str = "CREATE FILE FORMAT csv_with_header TYPE = CSV SKIP_HEADER = 1";

pub(super) const PREVIEW_CSV: &str = "\
SELECT $1, $4, $5, $6
FROM @drive_data/frame-events-csv/ (FILE_FORMAT => 'csv_with_header')
LIMIT 3";

pub(super) const CREATE_SESSIONS: &str = "\
CREATE TABLE drive_sessions (
    session_id   VARCHAR NOT NULL,
    vehicle_id   VARCHAR,
    route_name   VARCHAR,
    start_time   TIMESTAMP,
    end_time     TIMESTAMP,
    weather      VARCHAR,
    camera_setup VARCHAR,
    distance_km  DECIMAL(8, 3)
)";

pub(super) const CREATE_PAYLOADS: &str = "\
CREATE TABLE frame_payloads (
    frame_id  VARCHAR NOT NULL,
    run_stage VARCHAR,
    payload   VARIANT,
    logged_at TIMESTAMP
)";

pub(super) const CREATE_EMBEDDINGS: &str = "\
CREATE TABLE frame_embeddings (
    frame_id      VARCHAR NOT NULL,
    session_id    VARCHAR,
    embedding     VECTOR(4),
    model_version VARCHAR,
    created_at    TIMESTAMP
)";

/// A table of frame events.
pub(super) fn create_events(table: &str) -> String {
    format!(
        "CREATE TABLE {table} (\n    frame_id    VARCHAR NOT NULL,\n    session_id  VARCHAR,\n    frame_index INT,\n    \
         captured_at TIMESTAMP,\n    event_type  VARCHAR,\n    risk_score  DOUBLE\n)"
    )
}

pub(super) const COPY_SESSIONS: &str = "\
COPY INTO drive_sessions (session_id, vehicle_id, route_name, start_time, end_time, weather, camera_setup, distance_km)
FROM (
    SELECT session_id::STRING, vehicle_id::STRING, route_name::STRING, start_time::TIMESTAMP, end_time::TIMESTAMP,
           weather::STRING, camera_setup::STRING, distance_km::DECIMAL(8, 3)
    FROM @drive_data/sessions/
)
FILE_FORMAT = (TYPE = PARQUET)
PATTERN = '.*[.]parquet'";

pub(super) const COPY_EVENTS: &str = "\
COPY INTO frame_events (frame_id, session_id, frame_index, captured_at, event_type, risk_score)
FROM (
    SELECT frame_id::STRING, session_id::STRING, frame_index::INT, captured_at::TIMESTAMP, event_type::STRING,
           risk_score::DOUBLE
    FROM @drive_data/frame-events/
)
FILE_FORMAT = (TYPE = PARQUET)
PATTERN = '.*[.]parquet'";

pub(super) const COPY_PAYLOADS: &str = "\
COPY INTO frame_payloads (frame_id, run_stage, payload, logged_at)
FROM (
    SELECT frame_id::STRING, run_stage::STRING, payload::VARIANT, logged_at::TIMESTAMP
    FROM @drive_data/payloads/
)
FILE_FORMAT = (TYPE = PARQUET)
PATTERN = '.*[.]parquet'";

pub(super) const COPY_EMBEDDINGS: &str = "\
COPY INTO frame_embeddings (frame_id, session_id, embedding, model_version, created_at)
FROM (
    SELECT frame_id::STRING, session_id::STRING, embedding::VECTOR(4), model_version::STRING, created_at::TIMESTAMP
    FROM @drive_data/embeddings/
)
FILE_FORMAT = (TYPE = PARQUET)
PATTERN = '.*[.]parquet'";

pub(super) const COUNTS: &str = "\
SELECT 'drive_sessions' AS table_name, count(*) AS num_rows FROM drive_sessions
UNION ALL SELECT 'frame_embeddings', count(*) FROM frame_embeddings
UNION ALL SELECT 'frame_events', count(*) FROM frame_events
UNION ALL SELECT 'frame_payloads', count(*) FROM frame_payloads
ORDER BY table_name";

pub(super) const RISKY_ROUTES: &str = "\
SELECT s.route_name, s.weather,
       count(*) AS near_misses,
       max(f.risk_score) AS highest_risk,
       min(f.captured_at) AS first_seen
FROM frame_events f JOIN drive_sessions s ON f.session_id = s.session_id
WHERE f.event_type = 'near_miss'
GROUP BY s.route_name, s.weather
ORDER BY near_misses DESC, s.route_name, s.weather";

pub(super) const FAST_DETECTIONS: &str = "\
SELECT payload:detections[0].label::STRING AS first_seen,
       count(*) AS frames,
       max(payload:vehicle.speed_kmh::DOUBLE) AS top_speed
FROM frame_payloads
WHERE payload:vehicle.speed_kmh::DOUBLE > 100
GROUP BY first_seen
ORDER BY frames DESC";

/// Frames that look like one of them.
pub(super) fn similar_frames(frame_id: &str) -> String {
    format!(
        "SELECT e.frame_id, f.event_type, cosine_distance(e.embedding, x.embedding) AS distance\nFROM frame_embeddings \
         e\nJOIN frame_events f ON f.frame_id = e.frame_id\nCROSS JOIN (SELECT embedding FROM frame_embeddings WHERE \
         frame_id = '{frame_id}') x\nORDER BY distance, e.frame_id\nLIMIT 4"
    )
}

pub(super) const NEAREST: &str = "\
SELECT frame_id, embedding, cosine_distance(embedding, [0.9, 0.1, 0.4, 0.2]::VECTOR(4)) AS distance
FROM frame_embeddings
ORDER BY distance, frame_id
LIMIT 3";

pub(super) const CREATE_STREAM: &str = "CREATE STREAM new_frames ON TABLE frame_events";

pub(super) const NEW_FRAMES: &str = "\
SELECT change$action, event_type, count(*) AS num_rows
FROM new_frames
GROUP BY change$action, event_type
ORDER BY num_rows DESC";

pub(super) const CREATE_RISKY: &str =
    "CREATE TABLE risky_frames (frame_id VARCHAR NOT NULL, event_type VARCHAR, risk_score DOUBLE)";

pub(super) const CREATE_TASK: &str = "\
CREATE TASK collect_risky_frames
    SCHEDULE = 1 MINUTE
    WHEN STREAM_STATUS('new_frames')
AS
INSERT INTO risky_frames
SELECT frame_id, event_type, risk_score
FROM new_frames
WHERE event_type IN ('near_miss', 'hard_brake')";

pub(super) const RESUME_TASK: &str = "ALTER TASK collect_risky_frames RESUME";

pub(super) const EXECUTE_TASK: &str = "EXECUTE TASK collect_risky_frames";

/// Runs that have ended, whatever came of them.
pub(super) const ENDED_RUNS: &str =
    "SELECT count(*) FROM task_history('collect_risky_frames') WHERE completed_time IS NOT NULL";

pub(super) const TASK_RUNS: &str = "\
SELECT name, state, schedule, exception_text
FROM task_history('collect_risky_frames', 1)";

pub(super) const RISKY: &str = "\
SELECT event_type, count(*) AS num_rows, (SELECT count(*) FROM new_frames) AS left_in_the_stream
FROM risky_frames
GROUP BY event_type
ORDER BY event_type";

pub(super) const COPY_CSV: &str = "\
COPY INTO frame_events_csv
FROM @drive_data/frame-events-csv/
FILE_FORMAT = (TYPE = CSV SKIP_HEADER = 1)
PATTERN = '.*[.]csv'";

pub(super) const COPY_NDJSON: &str = "\
COPY INTO frame_events_ndjson
FROM @drive_data/frame-events-ndjson/
FILE_FORMAT = (TYPE = NDJSON)
PATTERN = '.*[.]ndjson'";

/// The three tables hold the same events, whatever they came from.
pub(super) const COMPARE: &str = "\
SELECT 'CSV' AS loaded_from, count(*) AS num_rows, round(sum(risk_score), 4) AS risk, count(risk_score) AS scored
FROM frame_events_csv
UNION ALL
SELECT 'NDJSON', count(*), round(sum(risk_score), 4), count(risk_score)
FROM frame_events_ndjson
ORDER BY loaded_from";

pub(super) const COPY_BROKEN: &str = "\
COPY INTO frame_events_csv
FROM @drive_data/broken/
FILE_FORMAT = (TYPE = CSV SKIP_HEADER = 1)
ON_ERROR = CONTINUE";

pub(super) const SHOW_TABLES: &str = "SHOW TABLES";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_statement_parses() {
        let stage = create_stage("/tmp/it's here");
        assert!(stage.contains("fs:///tmp/it''s here/"), "{stage}");
        let texts = [
            CREATE_CONNECTION,
            &stage,
            LIST,
            PREVIEW,
            CREATE_FILE_FORMAT,
            PREVIEW_CSV,
            CREATE_SESSIONS,
            CREATE_PAYLOADS,
            CREATE_EMBEDDINGS,
            &create_events("frame_events"),
            COPY_SESSIONS,
            COPY_EVENTS,
            COPY_PAYLOADS,
            COPY_EMBEDDINGS,
            COUNTS,
            RISKY_ROUTES,
            FAST_DETECTIONS,
            &similar_frames("F-1"),
            NEAREST,
            CREATE_STREAM,
            NEW_FRAMES,
            CREATE_RISKY,
            CREATE_TASK,
            RESUME_TASK,
            EXECUTE_TASK,
            ENDED_RUNS,
            TASK_RUNS,
            RISKY,
            COPY_CSV,
            COPY_NDJSON,
            COMPARE,
            COPY_BROKEN,
            SHOW_TABLES,
        ];
        for text in texts {
            let statement = stevedore_sql::parse(text).unwrap();
            assert!(statement.unsupported().is_none(), "{text}");
        }
    }
}
