//! Rows that a filter drops before they are decoded: the others are the same, with their numbers, and nothing
//! is dropped where statistics could lie.

use ::parquet::basic::Encoding;
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

    fn may_pass(&self, bounds: &dyn RowGroupBounds) -> Vec<bool> {
        let Some(of) = bounds.of(1) else { return vec![true; bounds.len()] };
        let greatest = of.greatest.as_primitive::<Int64Type>().clone();
        greatest.iter().map(|greatest| greatest.is_none_or(|greatest| greatest >= self.0)).collect()
    }
}

fn selected(file: &Bytes, spec: &DecodeSpec, filter: &dyn RowFilter) -> Vec<DecodedBatch> {
    let parquet = Arc::new(ParquetFile::open(metadata(file).unwrap(), spec).unwrap());
    assert!(parquet.can_filter());
    let mut batches = Vec::new();
    for task in parquet.without_hopeless(parquet.plan(None), filter) {
        let (first, rest) = parquet.split_task(&task, filter).unwrap();
        let looked_at = fetch(file, &first);
        let rows = parquet.select_rows(&first, &looked_at, filter).unwrap();
        let parts = ((&first, looked_at), (&rest, fetch(file, &rest)));
        for batch in parquet.decode_parts(parts.0, parts.1, Some(rows)).unwrap() {
            batches.push(batch.unwrap());
        }
    }
    batches
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
        let found = selected(&file, &spec, &AtLeast(least));
        prop_assert_eq!(found.iter().flat_map(|batch| batch.row_numbers.clone()).collect::<Vec<_>>(), expected);
        let all: Vec<RecordBatch> = decode(&file, &spec).unwrap().into_iter().map(|batch| batch.batch).collect();
        let all = compute::concat_batches(&all[0].schema(), &all).unwrap();
        let mask: BooleanArray = numbers.iter().map(|n| Some(passes(n))).collect();
        let all = compute::filter_record_batch(&all, &mask).unwrap();
        let found: Vec<RecordBatch> = found.into_iter().map(|batch| batch.batch).collect();
        let found = compute::concat_batches(&all.schema(), &found).unwrap();
        prop_assert_eq!(found, all);
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

    fn may_pass(&self, bounds: &dyn RowGroupBounds) -> Vec<bool> {
        *self.0.lock().unwrap() = bounds.of(0);
        vec![true; bounds.len()]
    }
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
