//! Decoding speed of CSV, NDJSON and JSON on one core, in MB of text a second: the whole of cutting and
//! decoding, and cutting by itself.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::types::SqlType;
use stevedore_decode::blocks::TextBlock;
use stevedore_decode::limits::{DecompressLimits, TextLimits};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};
use stevedore_decode::text::{TextInput, text_decoder};

const ROWS: u64 = 200_000;
const COLUMNS: [(&str, &str); 10] = [
    ("id", "BIGINT"),
    ("name", "VARCHAR"),
    ("city", "VARCHAR"),
    ("ts", "TIMESTAMP"),
    ("price", "DOUBLE"),
    ("ratio", "DOUBLE"),
    ("qty", "INT"),
    ("flag", "BOOLEAN"),
    ("comment", "VARCHAR"),
    ("day", "DATE"),
];

/// A fixed sequence, so that every run decodes the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn rows(mut each: impl FnMut([String; 9], String)) {
    let mut random = Random(42);
    let cities = ["Berlin", "New York", "Tokyo", "São Paulo", "Lagos", "Sydney"];
    for i in 0..ROWS {
        let day = format!("20{:02}-{:02}-{:02}", random.next(30), 1 + random.next(12), 1 + random.next(28));
        let comment = (0..4 + random.next(6))
            .map(|_| format!("word{}", random.next(1000)))
            .collect::<Vec<_>>()
            .join(" ");
        let comment = if random.next(10) == 0 { format!("{comment}, \"so\" it is") } else { comment };
        each(
            [
                (1_000_000_000 + i * 7).to_string(),
                format!("customer-{:06}", random.next(1_000_000)),
                cities[random.next(6) as usize].to_owned(),
                format!(
                    "{day} {:02}:{:02}:{:02}.{:06}",
                    random.next(24),
                    random.next(60),
                    random.next(60),
                    random.next(1_000_000)
                ),
                format!("{}.{:02}", random.next(10_000), random.next(100)),
                format!("0.{:015}", random.next(u64::MAX >> 33) * 123_457),
                random.next(1000).to_string(),
                (random.next(2) == 0).to_string(),
                day,
            ],
            comment,
        );
    }
}

fn csv() -> Vec<u8> {
    let mut out = String::new();
    rows(|[id, name, city, ts, price, ratio, qty, flag, day], comment| {
        let comment = if comment.contains(['"', ',']) {
            format!("\"{}\"", comment.replace('"', "\"\""))
        } else {
            comment
        };
        writeln!(out, "{id},{name},{city},{ts},{price},{ratio},{qty},{flag},{comment},{day}").unwrap();
    });
    out.into_bytes()
}

fn ndjson() -> Vec<u8> {
    let mut out = String::new();
    rows(|[id, name, city, ts, price, ratio, qty, flag, day], comment| {
        let comment = comment.replace('"', "\\\"");
        writeln!(out, r#"{{"id":{id},"name":"{name}","city":"{city}","ts":"{ts}","price":{price},"ratio":{ratio},"qty":{qty},"flag":{flag},"comment":"{comment}","day":"{day}"}}"#).unwrap();
    });
    out.into_bytes()
}

/// The lines as an array.
fn json() -> Vec<u8> {
    let lines = String::from_utf8(ndjson()).unwrap();
    format!("[{}]\n", lines.trim_end().replace('\n', ",\n")).into_bytes()
}

fn input(format: &FileFormat) -> TextInput {
    TextInput::new(format, Compression::None, DecompressLimits::default(), TextLimits::default()).unwrap()
}

/// Cuts and drops, as a pipeline that keeps up does.
fn cut(format: &FileFormat, data: &Bytes) -> usize {
    let mut cutter = input(format);
    let mut bytes = 0;
    let mut each = |block: TextBlock| {
        bytes += black_box(&block.bytes).len();
        Ok(())
    };
    cutter.push(data, &mut each).unwrap();
    cutter.finish(&mut each).unwrap();
    bytes
}

fn bench(c: &mut Criterion) {
    for (kind, data) in [(FormatKind::Csv, csv()), (FormatKind::Ndjson, ndjson()), (FormatKind::Json, json())]
    {
        let data = Bytes::from(data);
        let format = FileFormat::defaults(kind);
        let columns = COLUMNS
            .iter()
            .enumerate()
            .map(|(i, (name, ty))| OutputColumn {
                name: (*name).to_owned(),
                ty: Some(SqlType::parse(ty).unwrap()),
                source: match kind {
                    FormatKind::Csv => ColumnSource::Position(i),
                    _ => ColumnSource::Name((*name).to_owned()),
                },
                nullable: true,
                has_default: false,
            })
            .collect();
        let mut spec = DecodeSpec::new(format.clone(), columns);
        spec.record_fields = Some(COLUMNS.len());
        let decoder = text_decoder(Arc::new(spec)).unwrap();

        let mut group = c.benchmark_group(kind.as_str());
        group.throughput(Throughput::BytesDecimal(data.len() as u64));
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
        group.bench_function("cut", |b| b.iter(|| assert!(cut(&format, &data).abs_diff(data.len()) < 10)));
        group.bench_function("cut and decode", |b| {
            b.iter(|| {
                let mut cutter = input(&format);
                let mut rows = 0;
                let mut each = |block: TextBlock| {
                    decoder.decode_each(block, &mut |batch| {
                        assert!(batch.errors.is_empty());
                        rows += batch.batch.num_rows();
                        Ok(ControlFlow::Continue(()))
                    })?;
                    Ok(())
                };
                cutter.push(&data, &mut each).unwrap();
                cutter.finish(&mut each).unwrap();
                assert_eq!(rows as u64, ROWS);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
