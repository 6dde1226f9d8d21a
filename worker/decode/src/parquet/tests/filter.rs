//! Rows that a filter drops before they are decoded: the others are the same, with their numbers, and nothing
//! is dropped where statistics could lie.

use arrow::compute;

use super::*;

/// `n` is at least this.
#[derive(Debug)]
struct AtLeast(i64);

impl RowFilter for AtLeast {
    fn columns(&self) -> &[usize] {
        &[1]
    }

    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        assert_eq!(batch.num_columns(), 1);
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        Ok(numbers.iter().map(|n| n.map(|n| n >= self.0)).collect())
    }

    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool> {
        let Some(of) = bounds.of(1) else { return vec![true; bounds.len()] };
        let greatest = of.greatest.as_primitive::<Int64Type>().clone();
        greatest.iter().map(|greatest| greatest.is_none_or(|greatest| greatest >= self.0)).collect()
    }
}

/// What was read of a file for a filter.
#[derive(Debug, Default)]
struct Found {
    batches: Vec<DecodedBatch>,
    /// Bytes fetched of the columns.
    bytes: u64,
}

impl Found {
    fn numbers(&self) -> Vec<u64> {
        self.batches.iter().flat_map(|batch| batch.row_numbers.clone()).collect()
    }

    fn rows(self, schema: &SchemaRef) -> RecordBatch {
        let batches: Vec<RecordBatch> = self.batches.into_iter().map(|batch| batch.batch).collect();
        compute::concat_batches(schema, &batches).unwrap()
    }
}

fn index_of(
    file: &Bytes,
    parquet: &ParquetFile,
    task: &RowGroupTask,
    filter: &dyn RowFilter,
) -> Option<PrunedPages> {
    let ranges = parquet.index_ranges(task, filter, file.len() as u64)?;
    let fetched = ranges.iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
    let indexes = RowGroupTask { byte_ranges: ranges, ..task.clone() };
    parquet.pruned_pages(task, filter, &indexes.fetched(fetched).unwrap())
}

/// The rows that pass; `index`: with the index of the pages, where it helps.
fn selected(file: &Bytes, spec: &DecodeSpec, filter: &dyn RowFilter, index: bool) -> Result<Found> {
    let parquet = Arc::new(ParquetFile::open(metadata(file)?, spec)?);
    assert!(parquet.can_filter());
    let mut found = Found::default();
    for task in parquet.without_hopeless(parquet.plan(None), filter) {
        let pages = if index { index_of(file, &parquet, &task, filter) } else { None };
        let pages = pages.as_ref();
        let first = parquet.first_part(&task, filter, pages).unwrap();
        let looked_at = fetch(file, &first);
        let rows = parquet.select_rows(&first, &looked_at, filter, pages)?;
        let rest = parquet.rest_part(&task, filter, pages, Some(&rows));
        found.bytes += first.input_bytes() + rest.input_bytes();
        let others = fetch(file, &rest);
        let count = rows.count;
        let mut seen = 0;
        for batch in parquet.decode_parts(vec![(first, looked_at), (rest, others)], pages, Some(rows))? {
            let batch = batch?;
            seen += batch.batch.num_rows() as u64;
            found.batches.push(batch);
        }
        assert_eq!(seen, count);
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..Default::default() })]

    #[test]
    fn what_passes_is_decoded_as_ever(
        numbers in prop::collection::vec(prop::option::of(0i64..1000), 1..400),
        least in 0i64..1100,
        group in 1usize..200,
        page in 1usize..50,
        batch_rows in 1usize..100,
        runs in any::<bool>(),
    ) {
        let mut numbers = numbers;
        if runs {
            numbers.sort();
        }
        let texts: ArrayRef = Arc::new(StringArray::from_iter(numbers.iter().map(|n| n.map(|n| format!("t{n}")))));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
            numbers.iter().map(|n| n.map(|n| (0..n % 4).map(|i| Some(i as i32)))),
        );
        let n: ArrayRef = Arc::new(Int64Array::from(numbers.clone()));
        let columns = [("t", texts), ("l", Arc::new(lists) as ArrayRef), ("n", n)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(group))
            .set_data_page_row_count_limit(page)
            .set_write_batch_size(page)
            .set_column_encoding("n".into(), Encoding::DELTA_BINARY_PACKED)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let file = Bytes::from(bytes);
        let mut spec = spec(vec![column("t", Some("VARCHAR")), column("n", Some("BIGINT")), column("l", None)]);
        spec.batch_rows = batch_rows;
        let passes = |n: &Option<i64>| n.is_some_and(|n| n >= least);
        let expected: Vec<u64> =
            numbers.iter().enumerate().filter(|(_, n)| passes(n)).map(|(row, _)| row as u64).collect();
        let all: Vec<RecordBatch> = decode(&file, &spec).unwrap().into_iter().map(|batch| batch.batch).collect();
        let all = compute::concat_batches(&all[0].schema(), &all).unwrap();
        let mask: BooleanArray = numbers.iter().map(|n| Some(passes(n))).collect();
        let all = compute::filter_record_batch(&all, &mask).unwrap();
        for index in [false, true] {
            let found = selected(&file, &spec, &AtLeast(least), index).unwrap();
            prop_assert_eq!(found.numbers(), expected.clone());
            prop_assert_eq!(found.rows(&all.schema()), all.clone());
        }
        // All that pages alone rule out is left out of what is decoded in one go.
        let parquet = Arc::new(ParquetFile::open(metadata(&file).unwrap(), &spec).unwrap());
        let mut numbers = Vec::new();
        for task in parquet.plan(None) {
            let pages = index_of(&file, &parquet, &task, &AtLeast(least));
            let task = pages.as_ref().map_or(task.clone(), |pages| parquet.pruned_task(&task, pages));
            let fetched = fetch(&file, &task);
            for batch in parquet.decode_parts(vec![(task, fetched)], pages.as_ref(), None).unwrap() {
                numbers.extend(batch.unwrap().row_numbers);
            }
        }
        prop_assert!(numbers.is_sorted() && expected.iter().all(|row| numbers.binary_search(row).is_ok()));
    }
}

/// Columns `t`, `n` (0, 1, …), `l` (lists) of so many rows; pages of 500 rows.
fn paged(rows: i64, version: WriterVersion) -> Bytes {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let noise = |n: i64| format!("{:x}", n.wrapping_mul(0x1E37_79B9_7F4A_7C15));
    let t: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(noise)));
    let l: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..rows).map(|n| Some((0..n % 4).map(move |i| Some((n * i) as i32)).collect::<Vec<_>>())),
    ));
    let batch = RecordBatch::try_from_iter([("t", t), ("n", n), ("l", l)]).unwrap();
    let properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(Compression::SNAPPY)
        .set_data_page_row_count_limit(500)
        .set_write_batch_size(500)
        // Dictionaries of values that all differ would be most of the file; the lists have one.
        .set_column_dictionary_enabled("t".into(), false)
        .set_column_dictionary_enabled("n".into(), false)
        .set_max_row_group_row_count(Some(rows as usize));
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

fn paged_spec() -> DecodeSpec {
    spec(vec![column("t", Some("VARCHAR")), column("n", Some("BIGINT")), column("l", None)])
}

#[test]
fn pages_that_cannot_match_are_not_fetched() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let file = paged(100_000, version);
        let whole = selected(&file, &paged_spec(), &AtLeast(99_400), false).unwrap();
        let pruned = selected(&file, &paged_spec(), &AtLeast(99_400), true).unwrap();
        assert_eq!(pruned.numbers(), (99_400..100_000).collect::<Vec<u64>>());
        assert_eq!(pruned.numbers(), whole.numbers());
        // Three of 200 pages, and what lies within the gaps that are cheaper to fetch.
        assert!(pruned.bytes < whole.bytes / 5, "{} of {}", pruned.bytes, whole.bytes);
        let schema = whole.batches[0].batch.schema();
        assert_eq!(pruned.rows(&schema), whole.rows(&schema));
    }
}

#[test]
fn a_row_group_of_which_no_page_can_match_has_no_rows_left() {
    let file = paged(5_000, WriterVersion::PARQUET_1_0);
    let parquet = ParquetFile::open(metadata(&file).unwrap(), &paged_spec()).unwrap();
    let task = parquet.plan(None).remove(0);
    let pages = |least| index_of(&file, &parquet, &task, &AtLeast(least)).unwrap();
    assert_eq!(pages(5_000).count, 0);
    assert!(parquet.pruned_task(&task, &pages(5_000)).byte_ranges.is_empty());
    assert_eq!((pages(4_600).count, pages(4_400).count, pages(0).count), (500, 1000, 5_000));
    assert!(pages(1).skips(&task) == (pages(1).count < 5_000) && !pages(0).skips(&task));
}

/// The bytes of the indexes of the first row group.
fn index_bytes(file: &Bytes, offsets: bool) -> std::ops::Range<usize> {
    let metadata = metadata(file).unwrap();
    let ranges = metadata.row_group(0).columns().iter().map(|chunk| {
        let (start, length) = match offsets {
            true => (chunk.offset_index_offset().unwrap(), chunk.offset_index_length().unwrap()),
            false => (chunk.column_index_offset().unwrap(), chunk.column_index_length().unwrap()),
        };
        start as usize..start as usize + length as usize
    });
    ranges.reduce(|all, range| all.start.min(range.start)..all.end.max(range.end)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn a_damaged_index_never_gives_other_rows(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        offsets in any::<bool>(),
        v2 in any::<bool>(),
        least in 0i64..5_000,
    ) {
        let file = paged(5_000, if v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 });
        let index = index_bytes(&file, offsets);
        let mut damaged = file.to_vec();
        damaged[index.start + place.index(index.len())] = byte;
        match selected(&damaged.into(), &paged_spec(), &AtLeast(least), true) {
            // The file is read again without its index then.
            Err(error) => prop_assert_eq!(error.kind(), stevedore_common::ErrorKind::BadData),
            Ok(found) => {
                let all: Vec<u64> = (least.cast_unsigned()..5_000).collect();
                let found = found.numbers();
                prop_assert!(found.is_sorted() && found.iter().all(|row| all.binary_search(row).is_ok()));
                // What stands beside pages that are not read is believed: only where bounds are as they were are
                // all rows sure to be there.
                prop_assert!(!offsets || found == all);
            }
        }
    }
}

#[test]
fn files_that_may_reject_a_row_are_not_filtered() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let batch = RecordBatch::try_from_iter([
        ("n", n.clone()),
        ("small", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
        ("millis", Arc::new(TimestampMillisecondArray::from(vec![1, 2])) as ArrayRef),
        ("micros", Arc::new(TimestampMicrosecondArray::from(vec![1, 2])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["1", "2"])) as ArrayRef),
    ]);
    let file = write(&batch.unwrap(), 10);
    let can = |columns: Vec<OutputColumn>, zone: &str| {
        let mut spec = spec(columns);
        spec.cast.timezone = zone.into();
        ParquetFile::open(metadata(&file).unwrap(), &spec).unwrap().can_filter()
    };
    assert!(can(vec![column("n", Some("BIGINT")), column("text", Some("VARCHAR"))], "UTC"));
    assert!(!can(vec![column("n", Some("BIGINT")), column("text", Some("BIGINT"))], "UTC"));
    assert!(!can(vec![column("n", Some("INT"))], "UTC"));
    assert!(!can(vec![column("millis", Some("TIMESTAMP"))], "UTC"));
    assert!(can(vec![column("micros", Some("TIMESTAMP"))], "UTC"));
    assert!(!can(vec![column("micros", Some("TIMESTAMP"))], "Asia/Tokyo"));
    assert!(!can(vec![OutputColumn { nullable: false, ..column("n", Some("BIGINT")) }], "UTC"));
    assert!(!can(vec![whole_row()], "UTC"));
}

/// Asks for the bounds of the second column, and keeps everything.
#[derive(Debug, Default)]
struct Asks(std::sync::Mutex<Option<ColumnBounds>>);

impl RowFilter for Asks {
    fn columns(&self) -> &[usize] {
        &[0]
    }

    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        Ok(BooleanArray::from(vec![true; batch.num_rows()]))
    }

    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool> {
        *self.0.lock().unwrap() = bounds.of(0);
        vec![true; bounds.len()]
    }
}

/// Both columns may hold anything.
#[derive(Debug)]
struct Both(std::sync::Mutex<(usize, Vec<bool>)>);

impl RowFilter for Both {
    fn columns(&self) -> &[usize] {
        &[0, 1]
    }

    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        Ok(BooleanArray::from(vec![true; batch.num_rows()]))
    }

    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool> {
        *self.0.lock().unwrap() = (bounds.len(), [0, 1].map(|column| bounds.of(column).is_some()).to_vec());
        vec![true; bounds.len()]
    }
}

#[test]
fn long_bounds_are_not_repeated_for_ever() {
    let rows = 20_000;
    for (length, expected) in [(10, vec![true, true]), (9_000, vec![false, true])] {
        let long = "x".repeat(length);
        // One page of the text that repeats, four thousand of the number.
        let t: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| long.as_str())));
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("t", t), ("n", n)]).unwrap();
        let properties = WriterProperties::builder()
            .set_column_index_truncate_length(None)
            .set_column_dictionary_enabled("n".into(), false)
            .set_data_page_size_limit(5 * 8)
            .set_write_batch_size(5)
            .set_max_row_group_row_count(Some(rows as usize));
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let file = Bytes::from(bytes);
        let wanted = spec(vec![column("t", Some("VARCHAR")), column("n", Some("BIGINT"))]);
        let parquet = ParquetFile::open(metadata(&file).unwrap(), &wanted).unwrap();
        let task = parquet.plan(None).remove(0);
        let both = Both(std::sync::Mutex::default());
        let (offsets, columns) = (index_bytes(&file, true), index_bytes(&file, false));
        let ranges = vec![columns.start as u64..columns.end as u64, offsets.start as u64..offsets.end as u64];
        let indexes = RowGroupTask { byte_ranges: ranges, ..task.clone() };
        let fetched = indexes.fetched(vec![file.slice(columns), file.slice(offsets)]).unwrap();
        parquet.pruned_pages(&task, &both, &fetched).unwrap();
        let (runs, known) = both.0.into_inner().unwrap();
        assert!(runs > 1_000, "{runs}");
        assert_eq!(known, expected);
    }
}

/// The bounds of the first row group's pages.
fn page_bounds(file: &Bytes, spec: &DecodeSpec) -> Option<ColumnBounds> {
    let asks = Asks::default();
    let parquet = ParquetFile::open(metadata(file).unwrap(), spec).unwrap();
    let task = parquet.plan(None).remove(0);
    let group = parquet.metadata().row_group(0);
    let (offsets, columns) = (index_bytes(file, true), index_bytes(file, false));
    assert!(group.columns().len() == 1);
    let ranges = vec![columns.start as u64..columns.end as u64, offsets.start as u64..offsets.end as u64];
    let fetched = vec![file.slice(columns), file.slice(offsets)];
    let indexes = RowGroupTask { byte_ranges: ranges, ..task.clone() };
    parquet.pruned_pages(&task, &asks, &indexes.fetched(fetched).unwrap())?;
    asks.0.into_inner().unwrap()
}

#[test]
fn bounds_of_pages_are_those_that_row_groups_of_their_rows_have() {
    let nulls = |n: i64| n % 7 == 3 || (20..30).contains(&n);
    let numbers = || (0..95i64).map(|n| (!nulls(n)).then_some((n * 37) % 50));
    let columns: Vec<(ArrayRef, &str)> = vec![
        (Arc::new(Int64Array::from_iter(numbers())), "BIGINT"),
        (Arc::new(Int8Array::from_iter(numbers().map(|n| n.map(|n| n as i8 - 20)))), "TINYINT"),
        (
            Arc::new(UInt16Array::from_iter(numbers().map(|n| n.map(|n| 65_000 + n as u16)))),
            "SMALLINT UNSIGNED",
        ),
        (Arc::new(UInt32Array::from_iter(numbers().map(|n| n.map(|n| u32::MAX - n as u32)))), "INT UNSIGNED"),
        (Arc::new(BooleanArray::from_iter(numbers().map(|n| n.map(|n| n > 25)))), "BOOLEAN"),
        (Arc::new(Date32Array::from_iter(numbers().map(|n| n.map(|n| n as i32 - 20)))), "DATE"),
        (Arc::new(TimestampMillisecondArray::from_iter(numbers()).with_timezone("UTC")), "TIMESTAMP"),
        (Arc::new(TimestampNanosecondArray::from_iter(numbers().map(|n| n.map(|n| n * 999)))), "TIMESTAMP"),
        (Arc::new(StringArray::from_iter(numbers().map(|n| n.map(|n| format!("é{n}"))))), "VARCHAR"),
        (
            Arc::new(
                Decimal128Array::from_iter(numbers().map(|n| n.map(|n| i128::from(n) - 20)))
                    .with_precision_and_scale(7, 2)
                    .unwrap(),
            ),
            "DECIMAL(7, 2)",
        ),
        (
            Arc::new(
                Decimal128Array::from_iter(numbers().map(|n| n.map(|n| (i128::from(n) - 20) << 80)))
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
            "DECIMAL(38, 10)",
        ),
    ];
    for (array, ty) in columns {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array.clone(), true)]).unwrap();
        let wanted = spec(vec![column("c", Some(ty))]);
        let write = |group: usize| {
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(group))
                .set_data_page_row_count_limit(10)
                .set_write_batch_size(10);
            let mut bytes = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            Bytes::from(bytes)
        };
        let of_pages = page_bounds(&write(1000), &wanted).unwrap_or_else(|| panic!("{ty} has no bounds"));
        let of_groups = bounds(&write(10), &wanted).unwrap();
        assert_eq!(&of_pages.least, &of_groups.least, "{ty}");
        assert_eq!(&of_pages.greatest, &of_groups.greatest, "{ty}");
        assert_eq!(of_pages.nulls, of_groups.nulls, "{ty}");
        assert!(of_pages.least.len() == 10 && of_pages.least.is_null(2), "{ty}");
    }
    // NaN lies outside of the bounds.
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
    let floats = super::write(&RecordBatch::try_from_iter([("c", floats)]).unwrap(), 2);
    assert!(page_bounds(&floats, &spec(vec![column("c", Some("DOUBLE"))])).is_none());
}

fn bounds(file: &Bytes, spec: &DecodeSpec) -> Option<ColumnBounds> {
    let asks = Asks::default();
    let parquet = ParquetFile::open(metadata(file).unwrap(), spec).unwrap();
    parquet.without_hopeless(parquet.plan(None), &asks);
    asks.0.into_inner().unwrap()
}

#[test]
fn bounds_are_given_where_they_hold_for_sql() {
    let one = |array: ArrayRef| write(&RecordBatch::try_from_iter([("c", array)]).unwrap(), 2);
    let wanted = |ty: &str| spec(vec![column("c", Some(ty))]);
    let dates = one(Arc::new(Date32Array::from(vec![Some(3), Some(1), None, None, Some(7)])));
    let found = bounds(&dates, &wanted("DATE")).unwrap();
    assert_eq!(found.least.as_primitive::<Date32Type>(), &Date32Array::from(vec![Some(1), None, Some(7)]));
    assert_eq!(found.greatest.as_primitive::<Date32Type>(), &Date32Array::from(vec![Some(3), None, Some(7)]));
    assert_eq!(found.nulls, UInt64Array::from(vec![0, 2, 0]));
    // Bounds are cast as values are.
    let nanos = one(Arc::new(TimestampNanosecondArray::from(vec![-1, 1999]).with_timezone("UTC")));
    let found = bounds(&nanos, &wanted("TIMESTAMP")).unwrap();
    assert_eq!(found.least.as_primitive::<TimestampMicrosecondType>().value(0), -1);
    assert_eq!(found.greatest.as_primitive::<TimestampMicrosecondType>().value(0), 1);
    let decimals = one(Arc::new(Decimal128Array::from(vec![-5, 5]).with_precision_and_scale(30, 2).unwrap()));
    let found = bounds(&decimals, &wanted("DECIMAL(30, 2)")).unwrap();
    assert_eq!(found.least.as_primitive::<Decimal128Type>().value(0), -5);
    // With NULL_IF more may be NULL than the statistics say.
    let texts = one(Arc::new(StringArray::from(vec!["a", "b"])));
    assert_eq!(bounds(&texts, &wanted("VARCHAR")).unwrap().nulls, UInt64Array::from(vec![0]));
    let mut null_if = wanted("VARCHAR");
    null_if.format.null_if = vec!["a".into()];
    assert_eq!(bounds(&texts, &null_if).unwrap().nulls.null_count(), 1);
    // NaN lies outside of the bounds of floating point numbers.
    let floats = one(Arc::new(Float64Array::from(vec![1.0, f64::NAN])));
    assert!(bounds(&floats, &wanted("DOUBLE")).is_none());
    assert!(bounds(&floats, &wanted("VARCHAR")).is_none());
    let lists = one(Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])])));
    assert!(bounds(&lists, &wanted("ARRAY(INT)")).is_none());
    // A missing column is NULL; that it is so is no business of statistics.
    let mut missing = spec(vec![column("other", Some("INT")), column("c", None)]);
    missing.format = format(&[("MISSING_FIELD_AS", "FIELD_DEFAULT")]);
    assert!(bounds(&texts, &missing).is_none());
}

#[test]
fn bounds_of_the_time_when_orders_were_not_defined_are_not_given() {
    let schema = "message m { required binary c (UTF8); }";
    let file = raw_file(schema, |column| {
        let ColumnWriter::ByteArrayColumnWriter(column) = column else { unreachable!() };
        column.write_batch(&[ByteArray::from("a"), ByteArray::from("é")], None, None).unwrap();
    });
    assert!(bounds(&file, &spec(vec![column("c", None)])).is_some());
    // The same footer without its column orders.
    let old = metadata(&file).unwrap();
    let of_file = old.file_metadata();
    let of_file = ::parquet::file::metadata::FileMetaData::new(
        of_file.version(),
        of_file.num_rows(),
        None,
        None,
        of_file.schema_descr_ptr(),
        None,
    );
    let old = ::parquet::file::metadata::ParquetMetaData::new(of_file, old.row_groups().to_vec());
    let asks = Asks::default();
    let parquet = ParquetFile::open(Arc::new(old), &spec(vec![column("c", None)])).unwrap();
    parquet.without_hopeless(parquet.plan(None), &asks);
    assert!(asks.0.into_inner().unwrap().is_none());
}
