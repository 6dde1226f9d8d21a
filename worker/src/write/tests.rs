#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Files as written, read back by Parquet's own reader and by Iceberg's data file JSON.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use iceberg::arrow::arrow_primitive_to_literal;
use iceberg::spec::{
    DataFile, Literal, PartitionSpec, PrimitiveLiteral, Schema as IcebergSchema, Transform, Type,
    deserialize_data_file_from_json,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use proptest::prelude::*;
use stevedore_common::ids::{Attempt, AttemptKey, JobId, SliceIndex, SliceKey};
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;

use super::*;

mod stored;

const EVERY_TYPE: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "BIGINT",
    "TINYINT UNSIGNED",
    "SMALLINT UNSIGNED",
    "INT UNSIGNED",
    "BIGINT UNSIGNED",
    "FLOAT",
    "DOUBLE",
    "DECIMAL(5, 2)",
    "DECIMAL(15, 3)",
    "DECIMAL(38, 10)",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMP_TZ",
    "VARCHAR",
    "BINARY",
    "VARIANT",
    "VECTOR(3)",
    "ARRAY(INT)",
    "ARRAY(ARRAY(VARCHAR))",
    "MAP(VARCHAR, DOUBLE)",
    "MAP(INT, ARRAY(VECTOR(2)))",
    "TUPLE(a TINYINT, b TUPLE(c VARCHAR, d DOUBLE))",
    "ARRAY(TUPLE(x BIGINT UNSIGNED, y MAP(VARCHAR, DATE)))",
];

struct Table {
    schema: TableSchema,
    iceberg: IcebergSchema,
    spec: PartitionSpec,
    store: Arc<dyn ObjectStore>,
}

impl Table {
    fn new(types: &[&str]) -> Self {
        let columns = types
            .iter()
            .enumerate()
            .map(|(n, ty)| Column {
                id: n as i32 + 1,
                name: format!("c{n}"),
                ty: SqlType::parse(ty).unwrap(),
                nullable: true,
                default: None,
                comment: None,
            })
            .collect();
        let schema = TableSchema { columns };
        let (iceberg, _) = schema.to_new_iceberg().unwrap();
        Self { schema, iceberg, spec: PartitionSpec::unpartition_spec(), store: Arc::new(InMemory::new()) }
    }

    fn partitioned(mut self, column: &str, transform: Transform) -> Self {
        self.spec = PartitionSpec::builder(self.iceberg.clone())
            .add_partition_field(column, "p", transform)
            .unwrap()
            .build()
            .unwrap();
        self
    }

    fn target(&self, target_file_bytes: u64) -> WriteTarget {
        WriteTarget {
            schema: self.iceberg.clone(),
            spec: self.spec.clone(),
            data_location: "memory:///t/data".to_owned(),
            store: self.store.clone(),
            folder: Path::from("t/data"),
            target_file_bytes,
            compatible_encodings: false,
        }
    }

    fn writer(&self, target_file_bytes: u64) -> TableWriter {
        Self::writer_to(self.target(target_file_bytes))
    }

    fn writer_to(target: WriteTarget) -> TableWriter {
        Self::writer_with(target, Encoders::new(2, 1 << 30))
    }

    fn writer_with(target: WriteTarget, encoders: Encoders) -> TableWriter {
        let slice = SliceKey { job: JobId::generate(), slice: SliceIndex(0) };
        TableWriter::new(target, AttemptKey { slice, attempt: Attempt(1) }, encoders).unwrap()
    }

    async fn write(&self, batches: &[RecordBatch], target_file_bytes: u64) -> Vec<WrittenFile> {
        let mut writer = self.writer(target_file_bytes);
        for batch in batches {
            writer.write(batch.clone()).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    fn data_file(&self, file: &WrittenFile) -> DataFile {
        let partition_type = self.spec.partition_type(&self.iceberg).unwrap();
        deserialize_data_file_from_json(&file.json, self.spec.spec_id(), &partition_type, &self.iceberg)
            .unwrap()
    }

    async fn read(&self, file: &WrittenFile) -> Vec<RecordBatch> {
        let path = Path::from(file.location.strip_prefix("memory:///").unwrap());
        let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn batch(&self, rows: usize, numbers: &mut Numbers) -> RecordBatch {
        let columns = self.schema.columns.iter().map(|column| array(&column.ty, rows, numbers)).collect();
        RecordBatch::try_new(self.schema.to_arrow(), columns).unwrap()
    }
}

/// Deterministic numbers for tests.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 17) ^ (self.0 << 23)
    }

    fn options<T>(&mut self, rows: usize, make: impl Fn(u64) -> T) -> Vec<Option<T>> {
        (0..rows)
            .map(|_| if self.next().is_multiple_of(5) { None } else { Some(make(self.next())) })
            .collect()
    }

    fn text(number: u64) -> String {
        match number % 5 {
            0 => String::new(),
            1 => "ü".repeat((number % 40) as usize),
            2 => format!("{number}{number}"),
            3 => "\u{10FFFF}".repeat((number % 30) as usize),
            _ => format!("v{}", number % 10),
        }
    }
}

fn array(ty: &SqlType, rows: usize, n: &mut Numbers) -> ArrayRef {
    let child_nulls = |n: &mut Numbers| NullBuffer::from_iter((0..rows).map(|_| !n.next().is_multiple_of(4)));
    let offsets = |n: &mut Numbers| OffsetBuffer::from_lengths((0..rows).map(|_| (n.next() % 4) as usize));
    match ty {
        SqlType::Boolean => Arc::new(BooleanArray::from(n.options(rows, |v| v & 1 == 0))),
        SqlType::Int8 => Arc::new(Int8Array::from(n.options(rows, |v| v as i8))),
        SqlType::Int16 => Arc::new(Int16Array::from(n.options(rows, |v| v as i16))),
        SqlType::Int32 => Arc::new(Int32Array::from(n.options(rows, |v| v as i32))),
        SqlType::Int64 => Arc::new(Int64Array::from(n.options(rows, |v| v as i64))),
        SqlType::UInt8 => Arc::new(UInt8Array::from(n.options(rows, |v| v as u8))),
        SqlType::UInt16 => Arc::new(UInt16Array::from(n.options(rows, |v| v as u16))),
        SqlType::UInt32 => Arc::new(UInt32Array::from(n.options(rows, |v| v as u32))),
        SqlType::UInt64 => Arc::new(UInt64Array::from(n.options(rows, |v| v))),
        SqlType::Float32 => {
            let float = |v: u64| if v.is_multiple_of(7) { f32::NAN } else { v as i32 as f32 / 3.0 };
            Arc::new(Float32Array::from(n.options(rows, float)))
        }
        SqlType::Float64 => {
            let float = |v: u64| match v % 7 {
                0 => f64::NAN,
                1 => -0.0,
                2 => f64::NEG_INFINITY,
                _ => v as i64 as f64 / 3.0,
            };
            Arc::new(Float64Array::from(n.options(rows, float)))
        }
        SqlType::Decimal(p, s) => {
            let limit = 10i128.pow(u32::from(*p));
            let values = n.options(rows, |v| (i128::from(v as i64) * i128::from(v as i64 ^ 0x5555)) % limit);
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(*p, *s as i8).unwrap())
        }
        SqlType::Date => Arc::new(Date32Array::from(n.options(rows, |v| (v % 40_000) as i32 - 20_000))),
        SqlType::Timestamp | SqlType::TimestampTz => {
            let values = n.options(rows, |v| (v % 4_000_000_000_000_000) as i64 - 2_000_000_000_000_000);
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
        }
        SqlType::String | SqlType::Variant => Arc::new(StringArray::from(n.options(rows, Numbers::text))),
        SqlType::Binary => {
            let values = n.options(rows, |v| match v % 3 {
                0 => vec![0xFF; (v % 40) as usize],
                _ => v.to_le_bytes().repeat((v % 4) as usize),
            });
            Arc::new(BinaryArray::from_iter(values))
        }
        SqlType::Array(element) => {
            let (offsets, nulls) = (offsets(n), child_nulls(n));
            let values = array(element, *offsets.last().unwrap() as usize, n);
            let field = Arc::new(element.to_field("element", true));
            Arc::new(ListArray::new(field, offsets, values, Some(nulls)))
        }
        SqlType::Map(key, value) => {
            let (offsets, nulls) = (offsets(n), child_nulls(n));
            let total = *offsets.last().unwrap() as usize;
            let keys: ArrayRef = match **key {
                SqlType::String => {
                    Arc::new(StringArray::from_iter_values((0..total).map(|i| format!("k{i}"))))
                }
                _ => Arc::new(Int32Array::from_iter_values(0..total as i32)),
            };
            let DataType::Map(entries, _) = ty.to_arrow() else { unreachable!() };
            let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
            let entries_array = StructArray::new(fields.clone(), vec![keys, array(value, total, n)], None);
            Arc::new(MapArray::new(entries, offsets, entries_array, Some(nulls), false))
        }
        SqlType::Tuple(fields) => {
            let nulls = child_nulls(n);
            let columns = fields.iter().map(|(_, ty)| array(ty, rows, n)).collect();
            let DataType::Struct(fields) = ty.to_arrow() else { unreachable!() };
            Arc::new(StructArray::new(fields, columns, Some(nulls)))
        }
        SqlType::Vector(width) => {
            let values =
                Float32Array::from_iter_values((0..rows * *width as usize).map(|_| n.next() as i16 as f32));
            let field = Arc::new(Field::new("element", DataType::Float32, false));
            Arc::new(FixedSizeListArray::new(
                field,
                i32::from(*width),
                Arc::new(values),
                Some(child_nulls(n)),
            ))
        }
    }
}

/// The rows of a column as text: what a user would see is the same before and after.
fn texts(batches: &[RecordBatch], column: usize) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    batches
        .iter()
        .flat_map(|batch| {
            let array = batch.column(column);
            let formatter = ArrayFormatter::try_new(array, &options).unwrap();
            (0..array.len()).map(|row| formatter.value(row).to_string()).collect::<Vec<_>>()
        })
        .collect()
}

/// Every value of every bounded column lies within the file's bounds, and counts are right.
fn check_statistics(table: &Table, file: &DataFile, rows: &[RecordBatch]) {
    for field in table.iceberg.as_struct().fields() {
        let index = table.iceberg.as_struct().fields().iter().position(|f| f.id == field.id).unwrap();
        if !matches!(*field.field_type, Type::Primitive(_)) {
            assert!(!file.lower_bounds().contains_key(&field.id));
            continue;
        }
        let stored: Vec<ArrayRef> = rows
            .iter()
            .map(|batch| {
                let target = iceberg::arrow::type_to_arrow_type(&field.field_type).unwrap();
                storage_arrays::to_storage(batch.column(index), &target).unwrap()
            })
            .collect();
        let nulls: usize = stored.iter().map(|array| array.null_count()).sum();
        assert_eq!(file.null_value_counts()[&field.id], nulls as u64, "{}", field.field_type);
        assert_eq!(file.value_counts()[&field.id], file.record_count());
        let (lower, upper) = (file.lower_bounds().get(&field.id), file.upper_bounds().get(&field.id));
        let mut nans = 0;
        let mut others = 0;
        for literal in
            stored.iter().flat_map(|a| arrow_primitive_to_literal(a, &field.field_type).unwrap()).flatten()
        {
            let Literal::Primitive(value) = literal else { panic!("{literal:?}") };
            let nan = match &value {
                PrimitiveLiteral::Float(v) => v.is_nan(),
                PrimitiveLiteral::Double(v) => v.is_nan(),
                _ => false,
            };
            if nan {
                nans += 1;
                continue;
            }
            others += 1;
            assert!(
                lower.is_none_or(|bound| bound.literal() <= &value),
                "{}: {value:?} {lower:?}",
                field.field_type
            );
            assert!(
                upper.is_none_or(|bound| bound.literal() >= &value),
                "{}: {value:?} {upper:?}",
                field.field_type
            );
        }
        let can_be_unbounded = matches!(field.field_type.to_string().as_str(), "string" | "binary");
        assert!(
            others == 0 || can_be_unbounded || (lower.is_some() && upper.is_some()),
            "{}",
            field.field_type
        );
        assert_eq!(file.nan_value_counts().get(&field.id).copied().unwrap_or(0), nans);
    }
}

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    let table = Table::new(EVERY_TYPE);
    let mut numbers = Numbers(1);
    let whole = table.batch(3000, &mut numbers);
    // Slices too: their buffers begin elsewhere than their rows.
    let batches = [whole.slice(0, 1000), whole.slice(1000, 1), whole.slice(1001, 1999)];
    let files = table.write(&batches, 0).await;
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].rows, 3000);
    let read = table.read(&files[0]).await;
    for (column, ty) in EVERY_TYPE.iter().enumerate() {
        assert_eq!(texts(&read, column), texts(&batches, column), "{ty}");
    }
    let file = table.data_file(&files[0]);
    assert_eq!((file.record_count(), file.file_size_in_bytes()), (3000, files[0].bytes));
    assert_eq!(file.split_offsets().unwrap(), [4]);
    check_statistics(&table, &file, &batches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bounds_hold_every_value(seed in any::<u64>(), rows in 1usize..200, parts in 1usize..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = Table::new(&EVERY_TYPE[..20]);
            let mut numbers = Numbers(seed);
            let batches: Vec<RecordBatch> = (0..parts).map(|_| table.batch(rows, &mut numbers)).collect();
            let files = table.write(&batches, 0).await;
            check_statistics(&table, &table.data_file(&files[0]), &batches);
        });
    }
}

#[tokio::test]
async fn encodings_are_chosen_by_the_values_unless_the_table_wants_those_that_every_reader_knows() {
    let table = Table::new(&["BIGINT", "BIGINT UNSIGNED", "DATE", "DOUBLE"]);
    let rows = 10_000;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..rows)),
        Arc::new(UInt64Array::from_iter_values(0..rows.cast_unsigned())),
        Arc::new(Date32Array::from_iter_values((0..rows).map(|day| day as i32))),
        Arc::new(Float64Array::from_iter_values((0..rows).map(|n| 30.0 + f64::sin(n as f64)))),
    ];
    let batch = RecordBatch::try_new(table.schema.to_arrow(), columns).unwrap();
    for compatible_encodings in [false, true] {
        let target = WriteTarget { compatible_encodings, ..table.target(0) };
        let mut writer = Table::writer_to(target);
        writer.write(batch.clone()).await.unwrap();
        let files = writer.finish().await.unwrap();
        let path = Path::from(files[0].location.strip_prefix("memory:///").unwrap());
        let bytes = table.store.get(&path).await.unwrap().bytes().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let chosen: Vec<Option<Encoding>> = reader
            .metadata()
            .row_group(0)
            .columns()
            .iter()
            .map(|chunk| chunk.encodings().find(|e| !matches!(e, Encoding::PLAIN | Encoding::RLE)))
            .collect();
        let (delta, split) = (Some(Encoding::DELTA_BINARY_PACKED), Some(Encoding::BYTE_STREAM_SPLIT));
        // An unsigned BIGINT is stored as a decimal.
        let expected = if compatible_encodings { [None; 4] } else { [delta, None, delta, split] };
        assert_eq!(chosen, expected);
        assert_eq!(table.read(&files[0]).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 10_000);
    }
}

#[tokio::test]
async fn a_writer_begins_a_new_file_when_one_is_full() {
    let table = Table::new(&["BIGINT", "VARCHAR"]);
    let ids = Int64Array::from_iter_values(0..400_000);
    let texts = StringArray::from_iter_values(
        (0..400_000u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))),
    );
    let whole = RecordBatch::try_new(table.schema.to_arrow(), vec![Arc::new(ids), Arc::new(texts)]).unwrap();
    let batches: Vec<RecordBatch> = (0..50).map(|n| whole.slice(n * 8000, 8000)).collect();
    let files = table.write(&batches, 2 << 20).await;
    assert!(files.len() >= 2, "{}", files.len());
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 400_000);
    let mut ids = Vec::new();
    for file in &files {
        assert_eq!(table.data_file(file).record_count(), file.rows);
        for batch in table.read(file).await {
            ids.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    assert!(ids.into_iter().eq(0..400_000));
}

#[tokio::test]
async fn rows_go_to_the_file_of_their_partition() {
    for (ty, transform) in [
        ("VARCHAR", Transform::Identity),
        ("TIMESTAMP", Transform::Day),
        ("BIGINT UNSIGNED", Transform::Bucket(4)),
        ("TIMESTAMP", Transform::Identity),
        ("VARCHAR", Transform::Truncate(1)),
    ] {
        let table = Table::new(&[ty, "INT"]).partitioned("c0", transform);
        let mut numbers = Numbers(7);
        // More partitions than files may be open, so that some are finished early and begun again.
        let batches: Vec<RecordBatch> = (0..3).map(|_| table.batch(60, &mut numbers)).collect();
        let files = table.write(&batches, 0).await;
        assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 180, "{ty} {transform}");
        let mut read = Vec::new();
        for file in &files {
            let data_file = table.data_file(file);
            assert_eq!(data_file.partition().fields().len(), 1);
            let rows = table.read(file).await;
            if transform == Transform::Identity {
                let values: std::collections::HashSet<String> = texts(&rows, 0).into_iter().collect();
                assert_eq!(values.len(), 1);
                assert_eq!(data_file.partition().fields()[0].is_none(), values.contains("NULL"));
            }
            read.extend(rows);
        }
        let (mut before, mut after) = (texts(&batches, 1), texts(&read, 1));
        before.sort();
        after.sort();
        assert_eq!(before, after, "{ty} {transform}");
    }
}

#[tokio::test]
async fn an_aborted_writer_leaves_no_files() {
    use futures::TryStreamExt as _;
    let table = Table::new(&["BIGINT"]);
    let batch = RecordBatch::try_new(
        table.schema.to_arrow(),
        vec![Arc::new(Int64Array::from_iter_values(
            (0..80_000).map(|n: i64| n.wrapping_mul(0x9E37_79B9_7F4A)),
        ))],
    )
    .unwrap();
    let mut writer = table.writer(1);
    // The first file is durable once the second is full.
    for _ in 0..8 {
        writer.write(batch.clone()).await.unwrap();
    }
    let written: Vec<_> = table.store.list(None).try_collect().await.unwrap();
    assert!(!written.is_empty());
    writer.abort().await;
    let left: Vec<_> = table.store.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(table.write(&[], 0).await, []);
}

#[tokio::test]
async fn a_null_in_a_not_null_column_is_refused() {
    let mut table = Table::new(&["BIGINT"]);
    table.schema.columns[0].nullable = false;
    (table.iceberg, _) = table.schema.to_new_iceberg().unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable([(
        "c0",
        Arc::new(Int64Array::from(vec![None])) as ArrayRef,
        true,
    )])
    .unwrap();
    let mut writer = table.writer(0);
    writer.write(batch).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(error.to_string().contains("column 'c0' is NOT NULL"), "{error}");
}

#[tokio::test]
async fn the_statistics_of_a_wide_table_fit_into_a_report() {
    let types: Vec<&str> = std::iter::repeat_n(["VARCHAR", "BIGINT", "DOUBLE"], 400).flatten().collect();
    let table = Table::new(&types);
    let batch = table.batch(20, &mut Numbers(3));
    let files = table.write(&[batch], 0).await;
    assert!(files[0].json.len() < 48 << 10, "{}", files[0].json.len());
    assert_eq!(table.data_file(&files[0]).record_count(), 20);
}

#[tokio::test]
async fn row_groups_end_sooner_where_memory_is_short() {
    let table = Table::new(&["BIGINT"]);
    let mut numbers = Numbers(13);
    let batches: Vec<RecordBatch> = (0..8).map(|_| table.batch(64 << 10, &mut numbers)).collect();
    // Row groups of 16 MiB, or of a sixteenth of that.
    for (memory, least, most) in [(1 << 30, 1, 1), (1 << 20, 2, 5)] {
        let encoders = Encoders::new(2, memory);
        let mut writer = Table::writer_with(table.target(16 << 20), encoders.clone());
        for batch in &batches {
            writer.write(batch.clone()).await.unwrap();
            // The rows that were taken, and what became of those before.
            assert!(encoders.memory().held() >= batch.get_array_memory_size() as u64);
        }
        let files = writer.finish().await.unwrap();
        assert_eq!((files.len(), encoders.memory().held()), (1, 0));
        let file = table.store.get(&Path::from(files[0].location.trim_start_matches("memory:///"))).await;
        let file = file.unwrap().bytes().await.unwrap();
        let groups = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().num_row_groups();
        assert!((least..=most).contains(&groups), "{groups} row groups");
        assert_eq!(whole(&table.read(&files[0]).await), whole(&batches));
    }
    // Files of partitions end then, those that hold the most first.
    let table = Table::new(&["BIGINT", "BIGINT"]).partitioned("c0", Transform::Identity);
    let two = |n: i64| Arc::new(Int64Array::from_iter_values((0..1000).map(|row| row % 2 * n))) as ArrayRef;
    let batch = RecordBatch::try_new(table.schema.to_arrow(), vec![two(1), two(7)]).unwrap();
    for (memory, files) in [(1 << 30, 2), (1 << 10, 6)] {
        let encoders = Encoders::new(2, memory);
        let mut writer = Table::writer_with(table.target(0), encoders.clone());
        for _ in 0..3 {
            writer.write(batch.clone()).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        assert_eq!((written.len(), written.iter().map(|file| file.rows).sum::<u64>()), (files, 3000));
        assert_eq!(encoders.memory().held(), 0);
    }
    // Giving a file up gives its memory back.
    let table = Table::new(&["BIGINT"]);
    let encoders = Encoders::new(2, 1 << 30);
    let mut writer = Table::writer_with(table.target(0), encoders.clone());
    writer.write(batches[0].clone()).await.unwrap();
    assert!(encoders.memory().held() > 0);
    writer.abort().await;
    assert_eq!(encoders.memory().held(), 0);
}

/// The first column, all of it.
fn whole(batches: &[RecordBatch]) -> Vec<Option<i64>> {
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>())
        .collect()
}
