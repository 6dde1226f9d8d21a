//! A row group like those of the load benchmark (10 columns, 200,000 rows, zstd): decoded, and verified to be
//! copied. `cargo bench -p stevedore-decode --bench parquet`

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::WriterProperties;
use stevedore_common::error::{Error, Result};
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::types::SqlType;
use stevedore_decode::parquet::{
    ColumnDefaults, ColumnEncoder, ColumnEncoders, Footer, ParquetFile, StoredLayout, StoredTarget,
    read_footer,
};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};

const ROWS: u64 = 200_000;
const WORDS: [&str; 12] = [
    "lane", "change", "slow", "truck", "wet", "road", "left", "merge", "night", "tunnel", "crossing", "stop",
];

/// Nothing is encoded here.
struct Nothing;

impl ColumnEncoders for Nothing {
    fn allow(&self, _: Encoding) -> bool {
        true
    }

    fn allow_version_2(&self) -> bool {
        true
    }

    fn begin(&self, column: usize, _: &[ArrayRef]) -> Result<Box<dyn ColumnEncoder>> {
        Err(Error::internal(format!("column {column} is not copied")))
    }
}

impl ColumnDefaults for Nothing {
    fn values(&self, column: usize, _: usize) -> Result<ArrayRef> {
        Err(Error::internal(format!("column {column} is not copied")))
    }
}

/// A fixed sequence, so that every run decodes the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn texts(&mut self, make: impl Fn(&mut Self) -> String) -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| make(self))))
    }

    fn degrees(&mut self) -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..ROWS).map(|_| self.next(10_000_000) as f64 / 1e6)))
    }
}

fn rows() -> RecordBatch {
    let mut random = Random(1);
    let seconds = |row: u64| 1_714_550_400 + row as i64;
    let at: Vec<i64> =
        (0..ROWS).map(|row| seconds(row) * 1_000_000 + random.next(1_000_000) as i64).collect();
    let word = |random: &mut Random| WORDS[random.next(12) as usize];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("vehicle", random.texts(|random| format!("vehicle-{:05}", random.next(5000)))),
        ("sensor", random.texts(|random| format!("camera_{}", random.next(12)))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC"))),
        ("latitude", random.degrees()),
        ("longitude", random.degrees()),
        ("speed", Arc::new(Int32Array::from_iter_values((0..ROWS).map(|_| random.next(140) as i32)))),
        ("braking", Arc::new(BooleanArray::from_iter((0..ROWS).map(|_| Some(random.next(10) == 0))))),
        ("note", random.texts(|random| (0..6).map(|_| word(random)).collect::<Vec<_>>().join(" "))),
        ("day", Arc::new(Date32Array::from_iter_values((0..ROWS).map(|row| (seconds(row) / 86_400) as i32)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

fn benches(criterion: &mut Criterion) {
    let batch = rows();
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let file = Bytes::from(bytes);
    let Footer::Ready(metadata) = read_footer(file.len() as u64, &file).unwrap() else { return };
    let fields = batch.schema();
    let columns = fields.fields().iter().map(|field| OutputColumn {
        name: field.name().clone(),
        ty: Some(SqlType::from_arrow_field(field).unwrap()),
        source: ColumnSource::Name(field.name().clone()),
        nullable: true,
        has_default: false,
    });
    let spec = DecodeSpec::new(FileFormat::defaults(FormatKind::Parquet), columns.collect());
    let parquet = Arc::new(ParquetFile::open(metadata, &spec).unwrap());
    let task = parquet.plan(None).remove(0);
    let fetched: Vec<Bytes> =
        task.byte_ranges.iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
    let schema = ArrowSchemaConverter::new().convert(&batch.schema()).unwrap();
    let layout = Arc::new(StoredLayout::new(&schema, Arc::new(Nothing)));
    let columns = (0..batch.num_columns()).map(Some).collect();
    let target = StoredTarget { layout, columns, defaults: Arc::new(Nothing), least_rows: 1 };
    let plan = parquet.stored_plan(0, &target).unwrap();

    let mut group = criterion.benchmark_group("parquet");
    group.throughput(Throughput::Bytes(file.len() as u64)).sample_size(20);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| parquet.decode_row_group(&task, fetched.clone()).unwrap().count());
    });
    let bytes = task.fetched(fetched.clone()).unwrap();
    group.bench_function("verify", |bencher| {
        bencher.iter(|| {
            for index in 0..plan.len() {
                black_box(parquet.stored_column(&task, &bytes, &plan, &target, index).unwrap());
            }
        });
    });
    for (index, field) in fields.fields().iter().enumerate() {
        group.bench_function(format!("verify {}", field.name()), |bencher| {
            bencher.iter(|| parquet.stored_column(&task, &bytes, &plan, &target, index).unwrap());
        });
    }
    group.finish();
}

criterion_group!(parquet_benches, benches);
criterion_main!(parquet_benches);
