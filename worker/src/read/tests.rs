//! What a slice sees of its files: order, row numbers, parts, failures of one file among others, and an
//! end of everything when the stream is dropped.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow_avro::writer::AvroWriter;
use bytes::Bytes;
use orc_rust::ArrowWriterBuilder;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use stevedore_common::file_format::FileFormat;
use stevedore_common::types::SqlType;
use stevedore_decode::spec::{ColumnSource, OutputColumn};

use super::*;
use crate::query::test_support::put;

mod parquet_files;

fn spec(kind: FormatKind) -> Arc<DecodeSpec> {
    let source = match kind {
        FormatKind::Csv | FormatKind::Tsv => ColumnSource::Position(0),
        _ => ColumnSource::Name("a".into()),
    };
    let a = OutputColumn {
        name: "a".into(),
        ty: Some(SqlType::Int64),
        source,
        nullable: true,
        has_default: false,
    };
    let mut spec = DecodeSpec::new(FileFormat::defaults(kind), vec![a]);
    spec.batch_rows = 100;
    Arc::new(spec)
}

fn resources(memory: u64) -> WorkerResources {
    let mut resources = WorkerResources::new(3, memory).unwrap();
    resources.settings.block_bytes = 64 << 10;
    resources.settings.chunk_bytes = 64 << 10;
    resources
}

fn values(batch: &DecodedBatch) -> Vec<i64> {
    batch.batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// A file's rows, rejected lines, and how it ended.
#[derive(Debug, Default)]
struct Seen {
    values: Vec<i64>,
    row_numbers: Vec<u64>,
    lines: Vec<u64>,
    rejected: Vec<u64>,
    end: Option<Result<FileTotals>>,
}

impl Seen {
    fn totals(&self) -> FileTotals {
        self.end.clone().unwrap().unwrap()
    }
    fn error(&self) -> Error {
        self.end.clone().unwrap().unwrap_err()
    }
}

/// Reads all tasks and checks that their events come in order.
async fn read_all(
    tasks: Vec<FileTask>,
    store: &Store,
    spec: Arc<DecodeSpec>,
    resources: WorkerResources,
) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut events = read_files(tasks, store.clone(), spec, resources);
    let all = async {
        while let Some(FileRead { index, event }) = events.next().await {
            if matches!(event, FileEvent::Started) {
                assert!(seen.last().is_none_or(|before: &Seen| before.end.is_some()));
                assert_eq!(index, seen.len());
                seen.push(Seen::default());
                continue;
            }
            assert_eq!(index + 1, seen.len());
            let file = seen.last_mut().unwrap();
            assert!(file.end.is_none());
            match event {
                FileEvent::Started => {}
                FileEvent::Batch(batch) => {
                    file.values.extend(values(&batch));
                    file.row_numbers.extend(&batch.row_numbers);
                    file.lines.extend(&batch.lines);
                    file.rejected.extend(batch.errors.iter().map(|e| e.line));
                }
                FileEvent::Stored(..) => panic!("no layout was given"),
                FileEvent::Finished(totals) => file.end = Some(Ok(totals)),
                FileEvent::Failed(e) => file.end = Some(Err(e)),
            }
        }
    };
    // Not a measure of speed: a deadlock should fail rather than hang.
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    seen
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(content).unwrap();
    out.finish().unwrap()
}

fn numbers(range: std::ops::Range<i64>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

#[tokio::test]
async fn many_small_files_come_in_order_and_a_bad_one_fails_alone() {
    let store = Store::in_memory();
    let mut tasks = Vec::new();
    for n in 0..60 {
        let content = numbers(n * 10..n * 10 + 10);
        tasks.push(put(&store, n as u32, &format!("f{n:02}.csv"), content).await);
    }
    let torn = gzip(numbers(0..1000).as_bytes());
    tasks[7] = put(&store, 7, "torn.csv.gz", torn[..torn.len() / 2].to_vec()).await;
    store.delete("f20.csv").await.unwrap();
    store.put("f30.csv", Bytes::from("1\n2\n3\n4\n5\n6\n7\n8\n9\n0\n!!!")).await.unwrap();
    tasks[40] = put(&store, 40, "empty.csv", "").await;

    let seen = read_all(tasks, &store, spec(FormatKind::Csv), resources(64 << 20)).await;
    assert_eq!(seen.len(), 60);
    assert_eq!(seen[7].error().kind(), ErrorKind::BadData);
    assert_eq!(seen[20].error().kind(), ErrorKind::NotFound);
    assert!(seen[20].error().to_string().contains("f20.csv"));
    assert_eq!(seen[30].error().kind(), ErrorKind::Conflict);
    assert_eq!(seen[40].totals(), FileTotals::default());
    for bad in [7, 20, 30] {
        assert!(is_fault_of_file(&seen[bad].error()));
    }
    for good in (0..60).filter(|n| ![7, 20, 30, 40].contains(n)) {
        let first = good as i64 * 10;
        assert_eq!(seen[good].values, (first..first + 10).collect::<Vec<_>>());
        assert_eq!(seen[good].totals().rows, 10);
        assert_eq!(seen[good].totals().lines, 10);
    }
}

#[tokio::test]
async fn a_large_file_is_decoded_in_parallel_and_keeps_its_order_lines_and_numbers() {
    let store = Store::in_memory();
    let mut content = numbers(0..200_000);
    content = content.replacen("\n150000\n", "\nbad\n", 1);
    let plain = put(&store, 0, "a.csv", content.clone()).await;
    let packed = put(&store, 1, "b.csv.gz", gzip(content.as_bytes())).await;
    for seen in read_all(vec![plain, packed], &store, spec(FormatKind::Csv), resources(64 << 20)).await {
        let expected = || (0..200_000).filter(|n| *n != 150_000);
        assert!(seen.values.iter().copied().eq(expected()));
        assert!(seen.row_numbers.iter().copied().eq(expected().map(|n| n as u64)));
        assert!(seen.lines.iter().copied().eq(expected().map(|n| n as u64 + 1)));
        assert_eq!(seen.rejected, [150_001]);
        assert_eq!((seen.totals().rows, seen.totals().lines), (200_000, 200_000));
    }
}

#[tokio::test]
async fn a_small_file_that_becomes_large_is_read_all_the_same() {
    let store = Store::in_memory();
    let packed = gzip("7\n".repeat(6 << 20).as_bytes());
    assert!(packed.len() < 100 << 10);
    let task = put(&store, 0, "bomb.csv.gz", packed).await;
    let mut rows = 0;
    let mut batches = read_file(task, store, spec(FormatKind::Csv), resources(64 << 20));
    while let Some(batch) = batches.next().await {
        rows += batch.unwrap().batch.num_rows();
    }
    assert_eq!(rows, 6 << 20);
}

#[tokio::test]
async fn a_small_file_that_becomes_large_does_not_disturb_its_neighbours() {
    let store = Store::in_memory();
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(put(&store, n, &format!("f{n:02}.csv"), format!("{n}\n")).await);
    }
    tasks[9] = put(&store, 9, "large.csv.gz", gzip("7\n".repeat(6 << 20).as_bytes())).await;
    let seen = read_all(tasks, &store, spec(FormatKind::Csv), resources(64 << 20)).await;
    for (n, file) in seen.iter().enumerate() {
        if n == 9 {
            assert_eq!(file.totals().rows, 6 << 20);
        } else {
            assert_eq!((file.values.as_slice(), file.totals().rows), ([n as i64].as_slice(), 1));
        }
    }
}

#[tokio::test]
async fn a_small_file_that_is_given_up_among_others_gives_no_more() {
    let store = Store::in_memory();
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(put(&store, n, &format!("f{n:02}.csv"), numbers(0..1000)).await);
    }
    let (resources, given_up) = (resources(64 << 20), GivenUp::default());
    let consumer = Consumer { given_up: given_up.clone(), ..Consumer::default() };
    let mut events = read_files_for(tasks, store, spec(FormatKind::Csv), resources.clone(), consumer);
    let mut rows = [0; 20];
    while let Some(FileRead { index, event }) = events.next().await {
        if let FileEvent::Batch(batch) = event {
            rows[index] += batch.batch.num_rows();
            if index == 12 {
                given_up.give_up(index);
            }
        }
    }
    // Batches have 100 rows.
    for (index, rows) in rows.into_iter().enumerate() {
        assert_eq!(rows, if index == 12 { 100 } else { 1000 }, "file {index}");
    }
    drop(events);
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn a_torn_large_file_gives_its_rows_and_then_fails() {
    let store = Store::in_memory();
    let packed = gzip(numbers(0..400_000).as_bytes());
    assert!(packed.len() > 600 << 10);
    let task = put(&store, 0, "torn.csv.gz", packed[..packed.len() - 10].to_vec()).await;
    let seen = read_all(vec![task], &store, spec(FormatKind::Csv), resources(64 << 20)).await;
    assert_eq!(seen[0].error().kind(), ErrorKind::BadData);
    assert!(seen[0].values.len() > 300_000);
    assert!(seen[0].values.iter().copied().eq(0..seen[0].values.len() as i64));
}

#[tokio::test]
async fn the_parts_of_a_file_hold_each_record_once_and_their_lines_add_up() {
    let store = Store::in_memory();
    let content: String = (0..30_000).map(|n| format!("{{\"a\": {n}}}\n")).collect();
    let whole = put(&store, 0, "a.ndjson", format!("\u{feff}{content}")).await;
    for step in [whole.size / 3 + 1, 50_001] {
        let bounds: Vec<u64> = (0..whole.size.div_ceil(step)).map(|n| n * step).collect();
        let parts = bounds
            .iter()
            .enumerate()
            .map(|(part, start)| FileTask {
                range_start: *start,
                range_end: (start + step).min(whole.size),
                part: part as u32,
                parts: bounds.len() as u32,
                ..whole.clone()
            })
            .collect();
        let seen = read_all(parts, &store, spec(FormatKind::Ndjson), resources(64 << 20)).await;
        let values: Vec<i64> = seen.iter().flat_map(|part| part.values.clone()).collect();
        assert!(values.into_iter().eq(0..30_000));
        assert_eq!(seen.iter().map(|part| part.totals().lines).sum::<u64>(), 30_000);
        assert_eq!(seen.iter().map(|part| part.totals().bytes).sum::<u64>(), whole.size);
    }
}

fn parquet_file(rows: i64, group: usize) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]));
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, Arc::clone(&schema), Some(properties)).unwrap();
    let a = Arc::new(Int64Array::from_iter_values(0..rows));
    let b = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n * 7)));
    writer.write(&RecordBatch::try_new(schema, vec![a, b]).unwrap()).unwrap();
    writer.close().unwrap();
    out
}

#[tokio::test]
async fn parquet_row_groups_come_in_order_and_parts_share_them() {
    let store = Store::in_memory();
    let whole = put(&store, 0, "a.parquet", parquet_file(10_000, 900)).await;
    let columns =
        parquet_columns(&whole, &store, &FileFormat::defaults(FormatKind::Parquet), &resources(64 << 20))
            .await;
    assert_eq!(columns.unwrap().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let halves = [(0, whole.size / 2), (whole.size / 2, whole.size)];
    let mut tasks = vec![whole.clone()];
    tasks.extend(halves.map(|(start, end)| FileTask { range_start: start, range_end: end, ..whole.clone() }));
    let seen = read_all(tasks, &store, spec(FormatKind::Parquet), resources(64 << 20)).await;
    assert!(seen[0].values.iter().copied().eq(0..10_000));
    assert!(seen[0].row_numbers.iter().copied().eq(0..10_000));
    assert_eq!(seen[0].totals().rows, 10_000);
    let both: Vec<i64> = seen[1].values.iter().chain(&seen[2].values).copied().collect();
    assert!(both.into_iter().eq(0..10_000) && !seen[1].values.is_empty() && !seen[2].values.is_empty());
}

#[tokio::test]
async fn a_damaged_parquet_file_fails_alone() {
    let store = Store::in_memory();
    let good = parquet_file(1000, 300);
    let mut broken_footer = good.clone();
    let at = broken_footer.len() - 30;
    broken_footer[at..at + 15].fill(0xff);
    let tasks = vec![
        put(&store, 0, "a.parquet", good.clone()).await,
        put(&store, 1, "cut.parquet", good[..good.len() - 100].to_vec()).await,
        put(&store, 2, "footer.parquet", broken_footer).await,
        put(&store, 3, "text.parquet", "a,b\n").await,
        put(&store, 4, "z.parquet", good).await,
    ];
    let seen = read_all(tasks, &store, spec(FormatKind::Parquet), resources(64 << 20)).await;
    for bad in &seen[1..4] {
        assert_eq!(bad.error().kind(), ErrorKind::BadData, "{:?}", bad.error());
    }
    assert_eq!(seen[4].totals().rows, 1000);
}

#[tokio::test]
async fn a_budget_smaller_than_everything_slows_but_never_stops() {
    let store = Store::in_memory();
    let content = numbers(0..50_000);
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(put(&store, n, &format!("{n}.csv"), content.clone()).await);
    }
    let resources = resources(1 << 20);
    let streams = (0..3).map(|_| read_all(tasks.clone(), &store, spec(FormatKind::Csv), resources.clone()));
    for seen in futures::future::join_all(streams).await {
        assert!(seen.iter().all(|file| file.totals().rows == 50_000));
    }
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn dropping_the_stream_stops_the_reads() {
    let store = Store::in_memory();
    let tasks = vec![
        put(&store, 0, "a.csv", numbers(0..500_000)).await,
        put(&store, 1, "b.csv", numbers(0..500_000)).await,
    ];
    let resources = resources(64 << 20);
    let mut events = read_files(tasks, store, spec(FormatKind::Csv), resources.clone());
    while !matches!(events.next().await.unwrap().event, FileEvent::Batch(_)) {}
    assert!(resources.memory.used() > 0);
    drop(events);
    let released = async {
        while resources.memory.used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), released).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_given_up_is_not_read_on_and_the_next_one_follows() {
    let store = Store::in_memory();
    let tasks = vec![
        put(&store, 0, "a.csv", numbers(0..500_000)).await,
        put(&store, 1, "b.csv", numbers(0..7)).await,
    ];
    let (resources, given_up) = (resources(64 << 20), GivenUp::default());
    let spec = spec(FormatKind::Csv);
    let mut events = read_files_for(
        tasks,
        store,
        spec,
        resources.clone(),
        Consumer { given_up: given_up.clone(), ..Consumer::default() },
    );
    while !matches!(events.next().await.unwrap().event, FileEvent::Batch(_)) {}
    given_up.give_up(0);
    let mut rows = 0;
    while let Some(FileRead { index, event }) = events.next().await {
        assert_eq!(index, 1);
        if let FileEvent::Batch(batch) = event {
            rows += batch.batch.num_rows();
        }
    }
    assert_eq!(rows, 7);
    let released = async {
        while resources.memory.used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), released).await.unwrap();
}

fn avro_file(blocks: i64, rows: i64) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("b", DataType::Int64, true),
        Field::new("a", DataType::Int64, true),
    ]));
    let mut writer = AvroWriter::new(Vec::new(), schema.as_ref().clone()).unwrap();
    for block in 0..blocks {
        let a = Arc::new(Int64Array::from_iter_values(block * rows..(block + 1) * rows));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&a) as _, a]).unwrap();
        writer.write(&batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner()
}

fn orc_file(rows: i64, stripe_bytes: usize) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]));
    let a = Arc::new(Int64Array::from_iter_values(0..rows));
    // Noise, so that stripes fill.
    let b = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n.wrapping_mul(0x1E37_79B9_7F4A_7C15))));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![a, b]).unwrap();
    let mut out = Vec::new();
    let builder = ArrowWriterBuilder::new(&mut out, schema).with_stripe_byte_size(stripe_bytes);
    let mut writer = builder.try_build().unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

#[tokio::test]
async fn avro_blocks_come_in_order_also_within_a_small_budget() {
    let store = Store::in_memory();
    let content = avro_file(40, 3_000);
    assert!(content.len() > 8 * (64 << 10));
    let whole = put(&store, 0, "a.avro", content.clone()).await;
    let format = FileFormat::defaults(FormatKind::Avro);
    let columns = file_columns(&whole, &store, &format, &resources(64 << 20)).await;
    assert_eq!(columns.unwrap().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let cut = put(&store, 1, "cut.avro", content[..content.len() - 9].to_vec()).await;
    let tasks = vec![whole.clone(), cut, put(&store, 2, "text.avro", "a,b\n").await, whole];
    let resources = resources(1 << 20);
    let seen = read_all(tasks, &store, spec(FormatKind::Avro), resources.clone()).await;
    for good in [0, 3] {
        assert!(seen[good].values.iter().copied().eq(0..120_000));
        assert!(seen[good].row_numbers.iter().copied().eq(0..120_000));
        assert_eq!(seen[good].totals().rows, 120_000);
        assert_eq!(seen[good].totals().bytes, content.len() as u64);
    }
    // The rows before the damage are given.
    assert_eq!(seen[1].values.len(), 117_000);
    assert!(seen[1].error().to_string().contains("the Avro file is cut off within block 40"));
    assert!(seen[2].error().to_string().contains("not an Avro file"));
    assert!(seen[1..3].iter().all(|file| is_fault_of_file(&file.error())));
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn orc_stripes_come_in_order_and_parts_share_them() {
    let store = Store::in_memory();
    let content = orc_file(200_000, 700_000);
    let whole = put(&store, 0, "a.orc", content.clone()).await;
    let format = FileFormat::defaults(FormatKind::Orc);
    let columns = file_columns(&whole, &store, &format, &resources(64 << 20)).await;
    assert_eq!(columns.unwrap().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let halves = [(0, whole.size / 2), (whole.size / 2, whole.size)];
    let mut tasks = vec![whole.clone()];
    tasks.extend(halves.map(|(start, end)| FileTask { range_start: start, range_end: end, ..whole.clone() }));
    tasks.push(put(&store, 3, "cut.orc", content[..content.len() - 9].to_vec()).await);
    let resources = resources(1 << 20);
    let seen = read_all(tasks, &store, spec(FormatKind::Orc), resources.clone()).await;
    assert!(seen[0].values.iter().copied().eq(0..200_000));
    assert!(seen[0].row_numbers.iter().copied().eq(0..200_000));
    assert_eq!(seen[0].totals().rows, 200_000);
    let both: Vec<i64> = seen[1].values.iter().chain(&seen[2].values).copied().collect();
    assert!(both.into_iter().eq(0..200_000) && !seen[1].values.is_empty() && !seen[2].values.is_empty());
    assert!(seen[3].error().to_string().contains("not an ORC file"));
    assert_eq!(resources.memory.used(), 0);
}

/// Arrow IPC of some record batches, as a file and as a stream.
fn arrow_files(batches: i64, rows: i64) -> (Vec<u8>, Vec<u8>) {
    let schema =
        Schema::new(vec![Field::new("b", DataType::Int64, true), Field::new("a", DataType::Int64, true)]);
    let mut file = FileWriter::try_new(Vec::new(), &schema).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in 0..batches {
        let a = Arc::new(Int64Array::from_iter_values(batch * rows..(batch + 1) * rows));
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::clone(&a) as _, a]).unwrap();
        file.write(&batch).unwrap();
        stream.write(&batch).unwrap();
    }
    (file.into_inner().unwrap(), stream.into_inner().unwrap())
}

#[tokio::test]
async fn arrow_batches_come_in_order_and_parts_share_them() {
    let store = Store::in_memory();
    let (content, _) = arrow_files(40, 3_000);
    let whole = put(&store, 0, "a.arrow", content.clone()).await;
    let format = FileFormat::defaults(FormatKind::Arrow);
    let columns = file_columns(&whole, &store, &format, &resources(64 << 20)).await;
    assert_eq!(columns.unwrap().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let halves = [(0, whole.size / 2), (whole.size / 2, whole.size)];
    let mut tasks = vec![whole.clone()];
    tasks.extend(halves.map(|(start, end)| FileTask { range_start: start, range_end: end, ..whole.clone() }));
    tasks.push(put(&store, 3, "cut.arrow", content[..content.len() - 9].to_vec()).await);
    let mut damaged = content;
    let middle = damaged.len() / 2;
    // Whatever it hits, some batch is not what it was.
    damaged[middle..middle + 60_000].fill(0xee);
    tasks.push(put(&store, 4, "bad.arrow", damaged).await);
    let resources = resources(1 << 20);
    let seen = read_all(tasks, &store, spec(FormatKind::Arrow), resources.clone()).await;
    assert!(seen[0].values.iter().copied().eq(0..120_000));
    assert!(seen[0].row_numbers.iter().copied().eq(0..120_000));
    assert_eq!(seen[0].totals().rows, 120_000);
    let both: Vec<i64> = seen[1].values.iter().chain(&seen[2].values).copied().collect();
    assert!(both.into_iter().eq(0..120_000) && !seen[1].values.is_empty() && !seen[2].values.is_empty());
    assert!(seen[2].row_numbers.iter().map(|row| *row as i64).eq(seen[2].values.iter().copied()));
    assert!(seen[3].error().to_string().contains("not an Arrow file"));
    // The rows before the damage are given.
    assert!(seen[4].error().to_string().contains("of the Arrow data is damaged"), "{}", seen[4].error());
    assert!(!seen[4].values.is_empty() && is_fault_of_file(&seen[4].error()));
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn arrow_streams_come_in_order_also_within_a_small_budget() {
    let store = Store::in_memory();
    let (file, content) = arrow_files(40, 3_000);
    let whole = put(&store, 0, "a.arrows", content.clone()).await;
    let format = FileFormat::defaults(FormatKind::ArrowStream);
    let columns = file_columns(&whole, &store, &format, &resources(64 << 20)).await;
    assert_eq!(columns.unwrap().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let cut = put(&store, 1, "cut.arrows", content[..content.len() - 9].to_vec()).await;
    let other = put(&store, 2, "file.arrow", file).await;
    let (_, large) = arrow_files(1, 100_000);
    let large = put(&store, 3, "large.arrows", large).await;
    let tasks = vec![whole.clone(), cut, other, large, whole];
    let resources = resources(1 << 20);
    let seen = read_all(tasks, &store, spec(FormatKind::ArrowStream), resources.clone()).await;
    for good in [0, 4] {
        assert!(seen[good].values.iter().copied().eq(0..120_000));
        assert!(seen[good].row_numbers.iter().copied().eq(0..120_000));
        assert_eq!(seen[good].totals().bytes, content.len() as u64);
    }
    assert_eq!(seen[1].values.len(), 117_000);
    assert!(seen[1].error().to_string().contains("message 41"), "{}", seen[1].error());
    assert!(seen[2].error().to_string().contains("TYPE = ARROW"));
    // A batch that the budget cannot hold.
    assert!(seen[3].error().to_string().contains("smaller record batches"), "{}", seen[3].error());
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn json_elements_come_in_order_whatever_the_size() {
    let store = Store::in_memory();
    let array = |rows: i64| {
        let rows: Vec<String> = (0..rows).map(|n| format!("{{\n \"x\": [\"]\"],\n \"a\": {n}\n}}")).collect();
        format!("[\n{}\n]\n", rows.join(",\n"))
    };
    let whole = array(100_000);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(whole.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let tasks = vec![
        put(&store, 0, "a.json", whole.clone()).await,
        put(&store, 1, "a.json.gz", gzip).await,
        put(&store, 2, "small.json", array(10)).await,
        put(&store, 3, "cut.json", whole[..whole.len() - 3].to_owned()).await,
        put(&store, 4, "empty.json", "[]").await,
    ];
    let resources = resources(4 << 20);
    let seen = read_all(tasks, &store, spec(FormatKind::Json), resources.clone()).await;
    for same in &seen[..2] {
        assert!(same.values.iter().copied().eq(0..100_000));
        assert!(same.row_numbers.iter().copied().eq(0..100_000));
        assert_eq!((same.totals().rows, same.totals().lines), (100_000, 400_002));
    }
    assert_eq!((seen[2].values.len(), seen[2].totals().lines), (10, 42));
    assert_eq!(seen[3].values.len(), 100_000);
    assert!(seen[3].error().to_string().contains("has no end: the file ends after element 100000"));
    assert_eq!(seen[4].totals().rows, 0);
    assert_eq!(resources.memory.used(), 0);
}

#[tokio::test]
async fn limits_are_those_of_the_operator() {
    let store = Store::in_memory();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(numbers(0..10_000).as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let long = format!("1\n\"{}\"\n2\n", "x".repeat(600_000));
    let tasks = vec![
        put(&store, 0, "long.csv", long).await,
        put(&store, 1, "large.csv.gz", gzip).await,
        put(&store, 2, "small.csv", numbers(0..7)).await,
    ];
    let mut resources = resources(64 << 20);
    resources.settings.limits.max_record_bytes = 200_000;
    resources.settings.limits.max_decompressed_bytes = 10_000;
    let seen = read_all(tasks, &store, spec(FormatKind::Csv), resources).await;
    assert!(seen[0].error().to_string().contains("limit max_record_bytes"), "{}", seen[0].error());
    assert!(seen[1].error().to_string().contains("limit max_decompressed_bytes"), "{}", seen[1].error());
    assert_eq!(seen[2].values.len(), 7);
}
