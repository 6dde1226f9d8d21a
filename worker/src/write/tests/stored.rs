//! Row groups whose columns are ready: copied where the source stores what the table would, encoded again
//! where it does not. Whatever the mixture, the table holds what row by row loading gives.

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_decode::parquet::{
    ColumnDefaults, Footer, ParquetFile, RowGroupTask, StoredColumn, StoredTarget, read_footer,
};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};

use super::*;

/// Types that Parquet stores under the table's own description.
const STORED_ALIKE: &[&str] = &[
    "BOOLEAN",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL(5, 2)",
    "DECIMAL(15, 3)",
    "DECIMAL(38, 10)",
    "DATE",
    "TIMESTAMP",
    "VARCHAR",
    "BINARY",
];

/// Every column's default is 7.
struct Sevens(Vec<SqlType>);

impl ColumnDefaults for Sevens {
    fn values(&self, column: usize, rows: usize) -> Result<ArrayRef> {
        assert_eq!(self.0[column], SqlType::Int64);
        Ok(Arc::new(Int64Array::from_value(7, rows)))
    }
}

/// A file and the table that it is loaded into.
struct Load {
    bytes: Bytes,
    parquet: Arc<ParquetFile>,
    target: StoredTarget,
}

impl Table {
    fn load(&self, bytes: &Bytes, layout: Arc<StoredLayout>, change: impl Fn(&mut DecodeSpec)) -> Load {
        let Footer::Ready(metadata) = read_footer(bytes.len() as u64, bytes).unwrap() else { panic!("cut") };
        let columns = self.schema.columns.iter().map(|column| OutputColumn {
            name: column.name.clone(),
            ty: Some(column.ty.clone()),
            source: ColumnSource::Name(column.name.clone()),
            nullable: column.nullable,
            has_default: false,
        });
        let mut spec = DecodeSpec::new(FileFormat::defaults(FormatKind::Parquet), columns.collect());
        change(&mut spec);
        let parquet = Arc::new(ParquetFile::open(metadata, &spec).unwrap());
        let defaults = Sevens(self.schema.columns.iter().map(|column| column.ty.clone()).collect());
        let columns = (0..self.schema.columns.len()).map(Some).collect();
        let target = StoredTarget { layout, columns, defaults: Arc::new(defaults), least_rows: 1 };
        Load { bytes: bytes.clone(), parquet, target }
    }

    /// The groups of a file, all of which have to come column by column.
    fn groups(&self, file: &Bytes, layout: Arc<StoredLayout>) -> Vec<StoredGroup> {
        let load = self.load(file, layout, |_| ());
        load.tasks().iter().map(|task| load.group(task).unwrap()).collect()
    }
}

impl Load {
    fn tasks(&self) -> Vec<RowGroupTask> {
        self.parquet.plan(None)
    }

    fn fetch(&self, task: &RowGroupTask) -> Vec<Bytes> {
        let ranges = task.byte_ranges.iter();
        ranges.map(|range| self.bytes.slice(range.start as usize..range.end as usize)).collect()
    }

    fn group(&self, task: &RowGroupTask) -> Option<StoredGroup> {
        let plan = self.parquet.stored_plan(task.row_group, &self.target)?;
        let bytes = task.fetched(self.fetch(task)).unwrap();
        let column = |index| self.parquet.stored_column(task, &bytes, &plan, &self.target, index);
        let columns = (0..plan.len()).map(column).collect::<Option<Vec<_>>>()?;
        Some(StoredGroup { rows: task.rows, columns, input_bytes: task.input_bytes() })
    }

    /// Which columns of the first row group are copied: `c` copied, `e` encoded, nothing for row by row.
    fn ways(&self) -> String {
        let columns = self.group(&self.tasks()[0]).map(|group| group.columns).unwrap_or_default();
        let letter =
            |column: &StoredColumn| if matches!(column, StoredColumn::Copied(_)) { 'c' } else { 'e' };
        columns.iter().map(letter).collect()
    }

    /// The rows as row by row loading gives them; rejected ones are left out.
    fn rows(&self) -> Vec<RecordBatch> {
        let tasks = self.tasks();
        let decode = |task| self.parquet.decode_row_group(task, self.fetch(task)).unwrap();
        tasks.iter().flat_map(decode).map(|batch| batch.unwrap().batch).collect()
    }
}

fn properties(compression: Compression) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(70_000))
        .set_data_page_row_count_limit(5_000)
        .build()
}

fn file_of(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

fn foreign_file(batch: &RecordBatch, compression: Compression) -> Bytes {
    file_of(batch, properties(compression))
}

/// A column as it is stored, bit by bit.
fn whole_column(batches: &[RecordBatch], column: usize) -> ArrayRef {
    let last = batches.last().unwrap().column(column).data_type();
    let stored: Vec<ArrayRef> =
        batches.iter().map(|batch| storage_arrays::to_storage(batch.column(column), last).unwrap()).collect();
    let arrays: Vec<&dyn Array> = stored.iter().map(AsRef::as_ref).collect();
    arrow::compute::concat(&arrays).unwrap()
}

#[tokio::test]
async fn row_groups_are_taken_as_they_are_stored_between_rows_that_are_encoded() {
    let table = Table::new(STORED_ALIKE);
    let mut numbers = Numbers(3);
    let (before, whole, after) =
        (table.batch(100, &mut numbers), table.batch(6_000, &mut numbers), table.batch(50, &mut numbers));
    let rows = [before.clone(), whole.clone(), after.clone()];
    for compression in [Compression::SNAPPY, Compression::ZSTD(Default::default()), Compression::LZ4_RAW] {
        let mut writer = table.writer(0);
        let groups = table.groups(&foreign_file(&whole, compression), writer.stored_layout().unwrap());
        assert_eq!(groups.iter().map(|group| group.rows).collect::<Vec<_>>(), [6_000]);
        writer.write(before.clone()).await.unwrap();
        for group in groups {
            assert!(group.columns.iter().all(|column| matches!(column, StoredColumn::Copied(_))));
            writer.write_stored(group).await.unwrap();
        }
        writer.write(after.clone()).await.unwrap();
        let files = writer.finish().await.unwrap();
        assert_eq!((files.len(), files[0].rows), (1, 6_150));
        let read = table.read(&files[0]).await;
        for (column, ty) in STORED_ALIKE.iter().enumerate() {
            assert!(whole_column(&read, column) == whole_column(&rows, column), "{ty}, {compression:?}");
        }
        let file = table.data_file(&files[0]);
        assert_eq!((file.record_count(), file.file_size_in_bytes()), (6_150, files[0].bytes));
        check_statistics(&table, &file, &rows);
    }
}

#[tokio::test]
async fn a_file_of_stored_row_groups_alone_is_ended_at_its_target_size() {
    let table = Table::new(STORED_ALIKE);
    let whole = table.batch(140_000, &mut Numbers(4));
    let mut writer = table.writer(1 << 20);
    let layout = writer.stored_layout().unwrap();
    for group in table.groups(&foreign_file(&whole, Compression::SNAPPY), layout) {
        writer.write_stored(group).await.unwrap();
    }
    let files = writer.finish().await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [70_000, 70_000]);
}

#[test]
fn a_table_for_old_readers_takes_no_pages_that_they_do_not_know() {
    let table = Table::new(&["INT", "VARCHAR"]);
    let batch = table.batch(1000, &mut Numbers(3));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_column_encoding("c0".into(), Encoding::DELTA_BINARY_PACKED);
    let file = file_of(&batch, properties.build());
    for (compatible_encodings, ways) in [(false, "cc"), (true, "ec")] {
        let writer = Table::writer_to(WriteTarget { compatible_encodings, ..table.target(0) });
        assert_eq!(table.load(&file, writer.stored_layout().unwrap(), |_| ()).ways(), ways);
    }
}

#[test]
fn columns_go_their_own_ways() {
    let rows = 1000;
    let table = Table::new(&["VARCHAR", "TIMESTAMP", "INT"]);
    let layout = table.writer(0).stored_layout().unwrap();
    let ways = |batch: &RecordBatch, compression| {
        table.load(&foreign_file(batch, compression), layout.clone(), |_| ()).ways()
    };
    let batch = table.batch(rows, &mut Numbers(5));
    assert_eq!(ways(&batch, Compression::SNAPPY), "ccc");
    // Not compressed: better encoded again, all of it, and so row by row.
    assert_eq!(ways(&batch, Compression::UNCOMPRESSED), "");
    let with = |index: usize, array: ArrayRef| {
        let mut columns = batch.columns().to_vec();
        columns[index] = array;
        let names = batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap()
    };
    let micros = || (0..rows).map(|n| (n != 3).then_some(n as i64));
    // A time without zone is the same where the session's zone is UTC.
    let naive = with(1, Arc::new(TimestampMicrosecondArray::from_iter(micros())));
    assert_eq!(ways(&naive, Compression::SNAPPY), "ccc");
    let tokyo = |spec: &mut DecodeSpec| spec.cast.timezone = "Asia/Tokyo".into();
    let in_tokyo = table.load(&foreign_file(&naive, Compression::SNAPPY), layout.clone(), tokyo);
    assert_eq!(in_tokyo.ways(), "cec");
    let millis = with(1, Arc::new(TimestampMillisecondArray::from_iter(micros()).with_timezone("UTC")));
    assert_eq!(ways(&millis, Compression::SNAPPY), "cec");
    // Another number type; values that cannot be NULL; a smaller type, stored alike; one without sign.
    let ints = 0..rows as i32;
    assert_eq!(ways(&with(2, Arc::new(Int64Array::from_iter(micros()))), Compression::SNAPPY), "cce");
    assert_eq!(
        ways(&with(2, Arc::new(Int32Array::from_iter_values(ints.clone()))), Compression::SNAPPY),
        "ccc"
    );
    let small = Int16Array::from_iter(ints.clone().map(|n| (n != 3).then_some(n as i16)));
    assert_eq!(ways(&with(2, Arc::new(small)), Compression::SNAPPY), "ccc");
    let unsigned = UInt32Array::from_iter(ints.map(|n| (n != 3).then_some(n as u32)));
    assert_eq!(ways(&with(2, Arc::new(unsigned)), Compression::SNAPPY), "cce");
    // Texts that are NULL by NULL_IF.
    let listed = |spec: &mut DecodeSpec| spec.format.null_if = vec!["v1".into()];
    let file = foreign_file(&batch, Compression::SNAPPY);
    assert_eq!(table.load(&file, layout.clone(), listed).ways(), "ecc");
    // Damage shows when the values are decoded, and a row that does not fit when they are cast.
    let mut damaged = file.to_vec();
    damaged[40..60].fill(0xA5);
    assert_eq!(table.load(&damaged.into(), layout.clone(), |_| ()).ways(), "");
    let wide = with(2, Arc::new(Int64Array::from_iter((0..rows).map(|n| Some((n as i64) << 30)))));
    assert_eq!(ways(&wide, Compression::SNAPPY), "");
    // Values within what their own type allows, and outside of the table's.
    let tiny = Table::new(&["TINYINT UNSIGNED", "INT"]);
    let layout = tiny.writer(0).stored_layout().unwrap();
    for (most, expected) in [(255, "cc"), (256, "")] {
        let numbers =
            || Arc::new(Int32Array::from_iter((0..=most).map(|n| (n != 3).then_some(n)))) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("c0", numbers()), ("c1", numbers())]).unwrap();
        let file = foreign_file(&batch, Compression::SNAPPY);
        assert_eq!(tiny.load(&file, layout.clone(), |_| ()).ways(), expected);
    }
    // VARIANT is text that has to be JSON.
    let variant = Table::new(&["VARIANT", "TIMESTAMP", "INT"]);
    let layout = variant.writer(0).stored_layout().unwrap();
    let json =
        with(0, Arc::new(StringArray::from_iter((0..rows).map(|n| (n > 0).then(|| format!("[{n}]"))))));
    let load = variant.load(&foreign_file(&json, Compression::SNAPPY), layout, |_| ());
    assert_eq!(load.ways(), "ecc");
    // Small row groups are merged with others; partitions have no such layout.
    let mut load = table.load(&file, table.writer(0).stored_layout().unwrap(), |_| ());
    load.target.least_rows = 1001;
    assert_eq!(load.ways(), "");
    assert!(Table::new(&["INT"]).partitioned("c0", Transform::Identity).writer(0).stored_layout().is_none());
}

#[tokio::test]
async fn columns_that_a_file_lacks_are_null_or_have_their_default() {
    let table = Table::new(&["BIGINT", "BIGINT", "BIGINT", "TUPLE(a INT, b DOUBLE)"]);
    let numbers = Int64Array::from_iter((0..3000).map(|n| (n != 3).then_some(n)));
    let batch = RecordBatch::try_from_iter([("c0", Arc::new(numbers) as ArrayRef)]).unwrap();
    let mut writer = table.writer(0);
    let file = foreign_file(&batch, Compression::SNAPPY);
    let mut load = table.load(&file, writer.stored_layout().unwrap(), |spec| {
        spec.format.missing_field_as = stevedore_common::file_format::MissingFieldAs::FieldDefault;
        spec.columns[1].has_default = true;
    });
    // The third column is not among those that the statement names.
    load.target.columns[2] = None;
    assert_eq!(load.ways(), "ceee");
    writer.write_stored(load.group(&load.tasks()[0]).unwrap()).await.unwrap();
    let files = writer.finish().await.unwrap();
    let read = table.read(&files[0]).await;
    assert!(texts(&read, 1).iter().chain(&texts(&read, 2)).all(|text| text == "7"));
    assert!(texts(&read, 3).iter().all(|text| text == "NULL"));
    assert_eq!(texts(&read, 0)[..4], ["0", "1", "2", "NULL"]);
}

/// The same values as another writer might store them.
fn disguised(array: &ArrayRef, numbers: &mut Numbers) -> ArrayRef {
    let choice = numbers.next() % 4;
    let to = match (array.data_type(), choice) {
        (DataType::Int32, 0) => DataType::Int64,
        (DataType::Int64, 0) => DataType::Decimal128(25, 0),
        (DataType::UInt16, 0) => DataType::Int32,
        (DataType::Float32, 0) => DataType::Float64,
        (DataType::Utf8, 0) => DataType::LargeUtf8,
        (DataType::Utf8, 1) => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        (DataType::Utf8, 2) => DataType::Utf8View,
        (DataType::Binary, 0) => DataType::LargeBinary,
        (DataType::Date32, 0) => DataType::Timestamp(TimeUnit::Microsecond, None),
        (DataType::Timestamp(..), 0) => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        (DataType::Timestamp(..), 1) => DataType::Timestamp(TimeUnit::Microsecond, None),
        (DataType::Timestamp(..), 2) => DataType::Timestamp(TimeUnit::Microsecond, Some("+09:00".into())),
        (DataType::Decimal128(5, 2), 0) => DataType::Decimal128(9, 2),
        (DataType::Decimal128(15, 3), 0) => DataType::Utf8,
        _ => return array.clone(),
    };
    arrow::compute::cast(array, &to).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Random columns, stored in random ways, are the same in the table as loaded row by row.
    #[test]
    fn any_mixture_gives_the_rows_that_row_by_row_loading_gives(
        seed in any::<u64>(),
        picked in prop::collection::vec(0..EVERY_TYPE.len(), 1..7),
        rows in 1usize..700,
        encodings in prop::collection::vec(0u8..5, 7),
        compression in 0u8..4,
        version_2 in any::<bool>(),
        page_rows in 1usize..300,
        required in prop::collection::vec(any::<bool>(), 7),
    ) {
        let types: Vec<&str> = picked.iter().map(|index| EVERY_TYPE[*index]).collect();
        let table = Table::new(&types);
        let mut numbers = Numbers(seed);
        let batch = table.batch(rows, &mut numbers);
        let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let columns = types.iter().zip(batch.columns()).map(|(ty, array)| {
            // Text that is no JSON would be rejected.
            let json = || StringArray::from_iter((0..rows).map(|n| (n % 5 > 0).then(|| format!("[{n}]"))));
            if *ty == "VARIANT" { Arc::new(json()) as ArrayRef } else { disguised(array, &mut numbers) }
        });
        let columns = columns.zip(&required);
        let columns: Vec<ArrayRef> =
            columns.map(|(array, required)| if *required { without_nulls(&array) } else { array }).collect();
        let source = RecordBatch::try_from_iter(names.iter().cloned().zip(columns)).unwrap();
        let compressions =
            [Compression::SNAPPY, Compression::ZSTD(Default::default()), Compression::LZ4_RAW, Compression::UNCOMPRESSED];
        let version = if version_2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        let mut properties = WriterProperties::builder()
            .set_compression(compressions[0])
            .set_writer_version(version)
            .set_write_batch_size(page_rows)
            .set_data_page_row_count_limit(page_rows)
            .set_dictionary_page_size_limit(1000)
            .set_max_row_group_row_count(Some(500));
        for (index, name) in names.iter().enumerate() {
            let path = ColumnPath::from(name.as_str());
            properties = match encodings[index] {
                0 => properties.set_column_dictionary_enabled(path, false),
                1 if matches!(source.column(index).data_type(), DataType::Int32 | DataType::Int64) => properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
                2 => properties.set_column_compression(path, compressions[usize::from(compression)]),
                _ => properties,
            };
        }
        let file = file_of(&source, properties.build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut writer = table.writer(0);
            let load = table.load(&file, writer.stored_layout().unwrap(), |_| ());
            let expected = load.rows();
            prop_assert_eq!(expected.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
            for task in load.tasks() {
                match load.group(&task) {
                    Some(group) => writer.write_stored(group).await.unwrap(),
                    // No column can be copied.
                    None => {
                        let plan = load.parquet.stored_plan(task.row_group, &load.target);
                        prop_assert!(plan.is_none(), "{:?}", plan);
                        for batch in load.parquet.decode_row_group(&task, load.fetch(&task)).unwrap() {
                            writer.write(batch.unwrap().batch).await.unwrap();
                        }
                    }
                }
            }
            let files = writer.finish().await.unwrap();
            prop_assert_eq!(files.len(), 1);
            let read = table.read(&files[0]).await;
            for (column, ty) in types.iter().enumerate() {
                let (found, wanted) = (whole_column(&read, column), whole_column_as(&expected, column, &read));
                prop_assert!(found == wanted, "{}", ty);
            }
            check_statistics(&table, &table.data_file(&files[0]), &expected);
            Ok(())
        })?;
    }
}

/// The values, where a row has NULL another one.
fn without_nulls(array: &ArrayRef) -> ArrayRef {
    let Some(there) = (0..array.len()).find(|row| array.is_valid(*row)) else { return array.clone() };
    let places = (0..array.len()).map(|row| if array.is_valid(row) { row } else { there } as u64);
    arrow::compute::take(array, &UInt64Array::from_iter_values(places), None).unwrap()
}

/// The rows with columns that cannot be NULL.
fn required_of(batch: &RecordBatch) -> RecordBatch {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, array)| (field.name(), without_nulls(array), false));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test]
async fn columns_that_cannot_be_null_are_given_levels() {
    let table = Table::new(STORED_ALIKE);
    let rows = required_of(&table.batch(6_000, &mut Numbers(11)));
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for (compression, dictionary) in [
            (Compression::SNAPPY, true),
            (Compression::ZSTD(Default::default()), false),
            (Compression::LZ4_RAW, true),
            (Compression::GZIP(Default::default()), false),
        ] {
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_writer_version(version)
                .set_dictionary_enabled(dictionary)
                .set_data_page_row_count_limit(1_000)
                .set_write_batch_size(1_000);
            let file = file_of(&rows, properties.build());
            let mut writer = table.writer(0);
            for group in table.groups(&file, writer.stored_layout().unwrap()) {
                assert!(group.columns.iter().all(|column| matches!(column, StoredColumn::Copied(_))));
                writer.write_stored(group).await.unwrap();
            }
            let files = writer.finish().await.unwrap();
            let read = table.read(&files[0]).await;
            for (column, ty) in STORED_ALIKE.iter().enumerate() {
                let (found, wanted) =
                    (whole_column(&read, column), whole_column(std::slice::from_ref(&rows), column));
                assert!(found.null_count() == 0 && found == wanted, "{ty}, {version:?}, {compression:?}");
            }
            check_statistics(&table, &table.data_file(&files[0]), std::slice::from_ref(&rows));
            // Nothing but levels was added.
            let source = file.len() as u64;
            assert!(files[0].bytes < source + source / 20, "{} of {source}", files[0].bytes);
            // Such pages are of version 2, which the oldest readers do not know.
            let compatible = Table::writer_to(WriteTarget { compatible_encodings: true, ..table.target(0) });
            assert_eq!(table.load(&file, compatible.stored_layout().unwrap(), |_| ()).ways(), "");
        }
    }
}

/// As [`whole_column`], stored as another is.
fn whole_column_as(batches: &[RecordBatch], column: usize, like: &[RecordBatch]) -> ArrayRef {
    let target = like[0].column(column).data_type();
    let stored: Vec<ArrayRef> = batches
        .iter()
        .map(|batch| storage_arrays::to_storage(batch.column(column), target).unwrap())
        .collect();
    let arrays: Vec<&dyn Array> = stored.iter().map(AsRef::as_ref).collect();
    arrow::compute::concat(&arrays).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever bytes of a file are changed: a row group that comes column by column is one that can be loaded
    /// row by row, and is the same in the table.
    #[test]
    fn what_is_copied_of_a_damaged_file_is_what_it_says(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        dictionary in any::<bool>(),
        compression in 0usize..2,
        required in any::<bool>(),
    ) {
        let types = ["INT", "VARCHAR", "BOOLEAN", "DECIMAL(25, 2)", "ARRAY(INT)", "DOUBLE"];
        let table = Table::new(&types);
        let batch = table.batch(300, &mut Numbers(9));
        let batch = if required { required_of(&batch) } else { batch };
        // A literal-only compression leaves values where damage is seen as values.
        let compression = [Compression::SNAPPY, Compression::ZSTD(Default::default())][compression];
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_enabled(dictionary)
            .set_data_page_row_count_limit(100)
            .set_write_batch_size(100);
        let good = file_of(&batch, properties.build());
        let Footer::Ready(metadata) = read_footer(good.len() as u64, &good).unwrap() else { panic!("cut") };
        let data = metadata.row_groups()[0].columns().iter().map(|chunk| chunk.byte_range()).map(|(a, n)| a + n);
        let end = data.max().unwrap() as usize;
        let mut bytes = good.to_vec();
        for (at, value) in changes {
            bytes[4 + at.index(end - 4)] = value;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut writer = table.writer(0);
            let load = table.load(&bytes.into(), writer.stored_layout().unwrap(), |_| ());
            let [task] = <[RowGroupTask; 1]>::try_from(load.tasks()).unwrap();
            let Some(group) = load.group(&task) else { return Ok(()) };
            let copied: Vec<bool> = group.columns.iter().map(|c| matches!(c, StoredColumn::Copied(_))).collect();
            writer.write_stored(group).await.unwrap();
            let files = writer.finish().await.unwrap();
            let read = table.read(&files[0]).await;
            let expected = load.rows();
            check_statistics(&table, &table.data_file(&files[0]), &expected);
            for (column, ty) in types.iter().enumerate() {
                let (found, wanted) = (whole_column(&read, column), whole_column_as(&expected, column, &read));
                prop_assert!(found == wanted, "{} {:?}", ty, copied);
            }
            Ok(())
        })?;
    }
}
