//! The files of the tour, and what must be found in them.
//!
//! Blocking: it writes files. A file's rows are made batch by batch, so memory stays small.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

use super::events::{self, FRAMES_PER_SESSION, Frame, time_text};

const BATCH: u64 = 8_192;
/// The days that the names of the files tell: those of the two parts, and that of the file that comes later.
const DAYS: [&str; 2] = ["2024_08_16", "2024_08_17"];
const LATE_DAY: &str = "2024_08_18";
const CSV_HEADER: &str = "frame_id,session_id,frame_index,captured_at,event_type,risk_score";
/// The line of the bad row in the file that has one; the header is line 1.
pub(super) const BAD_LINE: u64 = 5;
/// Rows of that file.
pub(super) const BAD_FILE_ROWS: u64 = 10;

/// How many rows there are of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) sessions: u64,
    pub(super) frames: u64,
    pub(super) payloads: u64,
    pub(super) embeddings: u64,
    /// Rows of the file that comes later.
    pub(super) late_frames: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            sessions: 200,
            frames: 200 * FRAMES_PER_SESSION,
            payloads: 50_000,
            embeddings: 50_000,
            late_frames: 1_000,
        }
    }
}

/// What queries over the generated rows must answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected {
    pub(super) sessions: u64,
    pub(super) frames: u64,
    pub(super) payloads: u64,
    pub(super) embeddings: u64,
    pub(super) late_frames: u64,
    /// Frames that are near misses.
    pub(super) near_misses: u64,
    /// Sum of all risk scores, in ten-thousandths.
    pub(super) risk_sum: u64,
    /// Payloads above 100 km/h whose first detection is a pedestrian.
    pub(super) fast_pedestrians: u64,
    /// Near misses and hard brakes in the file that comes later.
    pub(super) late_risky: u64,
}

/// What was generated.
#[derive(Debug, Clone)]
pub(super) struct Generated {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) expected: Expected,
}

/// Writes all files below `folder`: Parquet in two files each, the frame events as CSV and NDJSON too.
///
/// # Errors
/// Those of the file system, naming the file.
pub(super) fn generate(folder: &Path, sizes: Sizes) -> Result<Generated> {
    let mut generated = Generated { files: 0, bytes: 0, expected: expected(sizes) };
    let mut write = |name: String, fill: &dyn Fn(&Path) -> Result<()>| {
        let path = folder.join(&name);
        generated.bytes += write_file(&path, fill)?;
        generated.files += 1;
        Ok::<_, Error>(())
    };
    for (part, day) in (0..).zip(DAYS) {
        write(format!("sessions/session_{day}.parquet"), &|path| {
            parquet(path, half(sizes.sessions, part), session_batch)
        })?;
        write(format!("frame-events/frame_events_{day}.parquet"), &|path| {
            parquet(path, half(sizes.frames, part), frame_batch)
        })?;
        write(format!("payloads/frame_payloads_{day}.parquet"), &|path| {
            parquet(path, half(sizes.payloads, part), payload_batch)
        })?;
        write(format!("embeddings/frame_embeddings_{day}.parquet"), &|path| {
            parquet(path, half(sizes.embeddings, part), embedding_batch)
        })?;
        write(format!("frame-events-csv/frame_events_{day}.csv"), &|path| {
            csv(path, half(sizes.frames, part))
        })?;
        write(format!("frame-events-ndjson/frame_events_{day}.ndjson"), &|path| {
            ndjson(path, half(sizes.frames, part))
        })?;
    }
    write("broken/frame_events.csv".to_owned(), &|path| broken_csv(path))?;
    Ok(generated)
}

/// The file of frame events that comes later, below the folder.
pub(super) fn late_file_name() -> String {
    format!("frame-events/frame_events_{LATE_DAY}.parquet")
}

/// Writes one more file of frame events, those after the last.
///
/// # Errors
/// Those of the file system, naming the file.
pub(super) fn late_file(folder: &Path, expected: &Expected) -> Result<()> {
    let range = expected.frames..expected.frames + expected.late_frames;
    write_file(&folder.join(late_file_name()), &|path| parquet(path, range.clone(), frame_batch))?;
    Ok(())
}

fn half(rows: u64, part: u64) -> Range<u64> {
    if part == 0 { 0..rows / 2 } else { rows / 2..rows }
}

fn expected(sizes: Sizes) -> Expected {
    let (mut near_misses, mut risk_sum) = (0, 0);
    for frame in (0..sizes.frames).map(events::frame) {
        near_misses += u64::from(frame.event_type == "near_miss");
        risk_sum += u64::from(frame.risk.unwrap_or(0));
    }
    let fast = (0..sizes.payloads)
        .map(events::payload)
        .filter(|payload| payload.speed > 1_000 && payload.first_label == Some("pedestrian"));
    let late_risky = (sizes.frames..sizes.frames + sizes.late_frames)
        .map(events::frame)
        .filter(|frame| matches!(frame.event_type, "near_miss" | "hard_brake"));
    Expected {
        sessions: sizes.sessions,
        frames: sizes.frames,
        payloads: sizes.payloads,
        embeddings: sizes.embeddings,
        late_frames: sizes.late_frames,
        near_misses,
        risk_sum,
        fast_pedestrians: fast.count() as u64,
        late_risky: late_risky.count() as u64,
    }
}

/// Answers the file's size.
fn write_file(path: &Path, fill: &dyn Fn(&Path) -> Result<()>) -> Result<u64> {
    let named = || format!("writing '{}'", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(named)?;
    }
    fill(path).context(named)?;
    Ok(fs::metadata(path).context(named)?.len())
}

fn parquet(path: &Path, rows: Range<u64>, batch_of: fn(Range<u64>) -> Result<RecordBatch>) -> Result<()> {
    let failed = |e: parquet::errors::ParquetError| Error::internal(e.to_string());
    let schema = batch_of(0..0)?.schema();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema, Some(properties)).map_err(failed)?;
    let mut start = rows.start;
    while start < rows.end {
        let end = (start + BATCH).min(rows.end);
        writer.write(&batch_of(start..end)?).map_err(failed)?;
        start = end;
    }
    writer.close().map_err(failed)?;
    Ok(())
}

fn strings<S: AsRef<str>>(values: impl Iterator<Item = S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values))
}

/// Times as text and distances as numbers with a fraction: the load casts them.
fn session_batch(rows: Range<u64>) -> Result<RecordBatch> {
    let rows: Vec<_> = rows.map(events::session).collect();
    let setup = |index: usize| if index.is_multiple_of(4) { "stereo" } else { "surround" };
    Ok(RecordBatch::try_from_iter([
        ("session_id", strings(rows.iter().map(|s| &s.session_id))),
        ("vehicle_id", strings(rows.iter().map(|s| &s.vehicle_id))),
        ("route_name", strings(rows.iter().map(|s| s.route_name))),
        ("start_time", strings(rows.iter().map(|s| time_text(s.start_micros, ' ', "")))),
        ("end_time", strings(rows.iter().map(|s| time_text(s.end_micros, ' ', "")))),
        ("weather", strings(rows.iter().map(|s| s.weather))),
        ("camera_setup", strings((0..rows.len()).map(setup))),
        (
            "distance_km",
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|s| s.distance as f64 / 1_000.0)))
                as ArrayRef,
        ),
    ])?)
}

fn frame_batch(rows: Range<u64>) -> Result<RecordBatch> {
    let rows: Vec<_> = rows.map(events::frame).collect();
    let risks: Float64Array = rows.iter().map(|f| f.risk.map(|risk| f64::from(risk) / 10_000.0)).collect();
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("frame_id", strings(rows.iter().map(|f| &f.frame_id)), false),
        ("session_id", strings(rows.iter().map(|f| &f.session_id)), false),
        (
            "frame_index",
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|f| f.frame_index))) as ArrayRef,
            false,
        ),
        ("captured_at", times(rows.iter().map(|f| f.captured_micros)), false),
        ("event_type", strings(rows.iter().map(|f| f.event_type)), false),
        ("risk_score", Arc::new(risks) as ArrayRef, true),
    ])?)
}

fn payload_batch(rows: Range<u64>) -> Result<RecordBatch> {
    let rows: Vec<_> = rows.map(events::payload).collect();
    Ok(RecordBatch::try_from_iter([
        ("frame_id", strings(rows.iter().map(|p| &p.frame_id))),
        ("run_stage", strings(rows.iter().map(|p| p.run_stage))),
        ("payload", strings(rows.iter().map(|p| &p.payload))),
        ("logged_at", times(rows.iter().map(|p| p.logged_micros))),
    ])?)
}

fn embedding_batch(rows: Range<u64>) -> Result<RecordBatch> {
    let rows: Vec<_> = rows.map(events::embedding).collect();
    let values = Float32Array::from_iter_values(rows.iter().flat_map(|e| e.embedding));
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|e| e.embedding.len()));
    let embeddings = ListArray::try_new(item, offsets, Arc::new(values), None)?;
    Ok(RecordBatch::try_from_iter([
        ("frame_id", strings(rows.iter().map(|e| &e.frame_id))),
        ("session_id", strings(rows.iter().map(|e| &e.session_id))),
        ("embedding", Arc::new(embeddings) as ArrayRef),
        ("model_version", strings(rows.iter().map(|e| e.model_version))),
        ("created_at", times(rows.iter().map(|e| e.created_micros))),
    ])?)
}

fn risk_text(risk: u32) -> String {
    format!("{}.{:04}", risk / 10_000, risk % 10_000)
}

fn csv_line(frame: &Frame, frame_index: &str) -> String {
    format!(
        "{},{},{frame_index},{},{},{}\n",
        frame.frame_id,
        frame.session_id,
        time_text(frame.captured_micros, ' ', ""),
        frame.event_type,
        frame.risk.map_or(String::new(), risk_text)
    )
}

fn csv(path: &Path, rows: Range<u64>) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "{CSV_HEADER}")?;
    for frame in rows.map(events::frame) {
        out.write_all(csv_line(&frame, &frame.frame_index.to_string()).as_bytes())?;
    }
    Ok(out.flush()?)
}

/// One row has a word where a number belongs.
fn broken_csv(path: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "{CSV_HEADER}")?;
    for (line, frame) in (2..).zip((0..BAD_FILE_ROWS).map(events::frame)) {
        let index = if line == BAD_LINE { "three".to_owned() } else { frame.frame_index.to_string() };
        out.write_all(csv_line(&frame, &index).as_bytes())?;
    }
    Ok(out.flush()?)
}

fn ndjson(path: &Path, rows: Range<u64>) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for frame in rows.map(events::frame) {
        writeln!(
            out,
            r#"{{"frame_id":"{}","session_id":"{}","frame_index":{},"captured_at":"{}","event_type":"{}","risk_score":{}}}"#,
            frame.frame_id,
            frame.session_id,
            frame.frame_index,
            time_text(frame.captured_micros, 'T', "Z"),
            frame.event_type,
            frame.risk.map_or("null".to_owned(), risk_text)
        )?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    const SMALL: Sizes =
        Sizes { sessions: 5, frames: 5_000, payloads: 300, embeddings: 300, late_frames: 10 };

    fn rows(path: &Path) -> i64 {
        let file = File::open(path).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().file_metadata().num_rows()
    }

    #[test]
    fn every_row_is_in_one_of_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let generated = generate(dir.path(), SMALL).unwrap();
        assert_eq!(generated.files, 13);
        for (name, count) in [
            ("sessions/session", 5),
            ("frame-events/frame_events", 5_000),
            ("payloads/frame_payloads", 300),
            ("embeddings/frame_embeddings", 300),
        ] {
            let found: i64 =
                DAYS.iter().map(|day| rows(&dir.path().join(format!("{name}_{day}.parquet")))).sum();
            assert_eq!(found, count, "{name}");
        }
        late_file(dir.path(), &generated.expected).unwrap();
        assert_eq!(rows(&dir.path().join(late_file_name())), 10);
        let lines = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        let csv = DAYS.map(|day| lines(&format!("frame-events-csv/frame_events_{day}.csv")));
        assert_eq!(csv.iter().sum::<usize>(), 5_000 + 2);
        assert_eq!(lines("frame-events-ndjson/frame_events_2024_08_16.ndjson"), 2_500);
    }

    #[test]
    fn two_runs_give_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = generate(a.path(), SMALL).unwrap();
        let second = generate(b.path(), SMALL).unwrap();
        assert_eq!((first.bytes, first.expected), (second.bytes, second.expected));
        for name in [
            "frame-events/frame_events_2024_08_17.parquet",
            "payloads/frame_payloads_2024_08_16.parquet",
            "broken/frame_events.csv",
        ] {
            assert_eq!(
                fs::read(a.path().join(name)).unwrap(),
                fs::read(b.path().join(name)).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn the_bad_row_is_where_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        generate(dir.path(), SMALL).unwrap();
        let text = fs::read_to_string(dir.path().join("broken/frame_events.csv")).unwrap();
        assert_eq!(text.lines().count() as u64, BAD_FILE_ROWS + 1);
        assert!(text.lines().nth(BAD_LINE as usize - 1).unwrap().contains(",three,"));
    }

    #[test]
    fn the_full_sizes_hold_something_to_find() {
        let expected = expected(Sizes::default());
        assert_eq!((expected.sessions, expected.frames), (200, 200_000));
        assert_eq!((expected.payloads, expected.embeddings), (50_000, 50_000));
        assert!(expected.near_misses > 100 && expected.fast_pedestrians > 100 && expected.risk_sum > 0);
        assert!(expected.late_risky > 10 && expected.late_risky < expected.late_frames);
    }
}
