//! Row groups larger than the budget, and rows that nobody wants.

use arrow::array::BooleanArray;
use stevedore_decode::parquet::PartBounds;

use super::*;

/// `b` is at least this; rows and row groups are counted.
#[derive(Debug)]
struct AtLeast(i64, AtomicUsize);

impl RowFilter for AtLeast {
    fn columns(&self) -> &[usize] {
        &[1]
    }

    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        self.1.fetch_add(batch.num_rows(), Ordering::SeqCst);
        let values = batch.column(0).as_primitive::<Int64Type>();
        Ok(values.iter().map(|value| value.map(|value| value >= self.0)).collect())
    }

    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool> {
        let greatest = bounds.of(1).unwrap().greatest;
        greatest.as_primitive::<Int64Type>().iter().map(|greatest| greatest.unwrap() >= self.0).collect()
    }
}

/// `a` counts rows, `b` is noise that rises from row group to row group.
fn file(rows: i64, group: i64) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]));
    let noise = |n: i64| n.wrapping_mul(0x1E37_79B9_7F4A_7C15).rem_euclid(1000) + n / group * 1000;
    let a = Arc::new(Int64Array::from_iter_values(0..rows));
    let b = Arc::new(Int64Array::from_iter_values((0..rows).map(noise)));
    let batch = RecordBatch::try_new(schema.clone(), vec![a, b]).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group as usize))
        .set_dictionary_enabled(false);
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

#[tokio::test]
async fn a_row_group_larger_than_the_budget_is_read_as_it_is_decoded() {
    let store = Store::in_memory();
    let content = file(200_000, 200_000);
    assert!(content.len() > 3 << 20);
    let whole = put(&store, 0, "a.parquet", content.clone()).await;
    let resources = resources(1 << 20);
    let seen = read_all(vec![whole], &store, spec(FormatKind::Parquet), resources.clone()).await;
    assert!(seen[0].values.iter().copied().eq(0..200_000));
    assert!(seen[0].row_numbers.iter().copied().eq(0..200_000));
    assert_eq!((seen[0].totals().rows, seen[0].totals().bytes), (200_000, content.len() as u64));
    assert_eq!(resources.memory.used(), 0);
    // Damage behind the first windows is damage of the file.
    let mut damaged = content;
    let middle = damaged.len() / 4;
    damaged[middle..middle + 5000].fill(0xFF);
    let task = put(&store, 0, "damaged.parquet", damaged).await;
    let mut spec = spec(FormatKind::Parquet).as_ref().clone();
    spec.columns[0].ty = Some(SqlType::String);
    let mut events = read_files(vec![task], store, Arc::new(spec), resources);
    let mut rows = 0;
    while let Some(FileRead { event, .. }) = events.next().await {
        match event {
            FileEvent::Batch(batch) => rows += batch.batch.num_rows(),
            FileEvent::Failed(error) => assert!(is_fault_of_file(&error), "{error}"),
            _ => {}
        }
    }
    // Plain numbers cannot be told from others; a page header can.
    assert!(rows <= 200_000);
}

#[tokio::test]
async fn rows_that_do_not_pass_are_left_out_and_counted() {
    let store = Store::in_memory();
    let whole = put(&store, 0, "a.parquet", file(10_000, 1000)).await;
    let mut spec = spec(FormatKind::Parquet).as_ref().clone();
    let b =
        OutputColumn { name: "b".into(), source: ColumnSource::Name("b".into()), ..spec.columns[0].clone() };
    spec.columns.push(b);
    // Nine row groups cannot pass; of the last one a tenth does.
    let filter = Arc::new(AtLeast(9900, AtomicUsize::new(0)));
    let consumer = Consumer { filter: Some(filter.clone()), ..Consumer::default() };
    let mut events = read_files_for(vec![whole], store, Arc::new(spec), resources(64 << 20), consumer);
    let (mut rows, mut numbers, mut totals) = (Vec::new(), Vec::new(), None);
    while let Some(FileRead { event, .. }) = events.next().await {
        match event {
            FileEvent::Batch(batch) => {
                assert!(
                    batch.batch.column(1).as_primitive::<Int64Type>().values().iter().all(|b| *b >= 9900)
                );
                rows.extend(values(&batch));
                numbers.extend(batch.row_numbers.iter().map(|row| *row as i64));
            }
            FileEvent::Finished(of_file) => totals = Some(of_file),
            _ => {}
        }
    }
    assert_eq!(rows, numbers);
    assert!((50..200).contains(&rows.len()) && rows.iter().all(|row| *row >= 9000), "{}", rows.len());
    assert_eq!(filter.1.load(Ordering::SeqCst), 1000);
    assert_eq!(totals.unwrap().rows, 10_000);
}

/// A row group of 100,000 rows whose columns `a` and `b` count them, in pages of 2,000 rows.
fn paged() -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]));
    let count = || Arc::new(Int64Array::from_iter_values(0..100_000));
    let batch = RecordBatch::try_new(schema.clone(), vec![count(), count()]).unwrap();
    let properties = WriterProperties::builder()
        .set_data_page_row_count_limit(2_000)
        .set_write_batch_size(2_000)
        .set_dictionary_enabled(false);
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

/// The values of `a` in rows of which `b` is at least `least`, the rows that the filter saw, and the file's rows.
async fn at_least(content: Vec<u8>, least: i64, columns: &[&str]) -> Result<(Vec<i64>, usize, u64)> {
    let store = Store::in_memory();
    let whole = put(&store, 0, "a.parquet", content).await;
    let mut spec = spec(FormatKind::Parquet).as_ref().clone();
    let a = spec.columns[0].clone();
    let named = |name: &&str| OutputColumn {
        name: (*name).into(),
        source: ColumnSource::Name((*name).into()),
        ..a.clone()
    };
    spec.columns = columns.iter().map(named).collect();
    let filter = Arc::new(AtLeast(least, AtomicUsize::new(0)));
    let consumer = Consumer { filter: Some(filter.clone()), ..Consumer::default() };
    let resources = resources(64 << 20);
    let mut events = read_files_for(vec![whole], store, Arc::new(spec), resources.clone(), consumer);
    let (mut rows, mut total) = (Vec::new(), 0);
    while let Some(FileRead { event, .. }) = events.next().await {
        match event {
            FileEvent::Batch(batch) => {
                let numbers: Vec<i64> = batch.row_numbers.iter().map(|row| row.cast_signed()).collect();
                if values(&batch) != numbers {
                    return Err(Error::bad_data("other values than were written"));
                }
                rows.extend(numbers);
            }
            FileEvent::Finished(of_file) => total = of_file.rows,
            FileEvent::Failed(error) => return Err(error),
            FileEvent::Started | FileEvent::Stored(..) => {}
        }
    }
    assert_eq!(resources.memory.used(), 0);
    Ok((rows, filter.1.load(Ordering::SeqCst), total))
}

#[tokio::test]
async fn pages_that_cannot_match_are_not_read() {
    let mut content = paged();
    let clean = at_least(content.clone(), 99_900, &["a", "b"]).await.unwrap();
    // The filter sees the last page of fifty.
    assert!(clean == ((99_900..100_000).collect(), 2_000, 100_000));
    // What became of the others nobody needs to know.
    let first = content.windows(8).position(|bytes| bytes == 5_000i64.to_le_bytes()).unwrap();
    content[first..first + 200_000].fill(0xFF);
    assert!(at_least(content.clone(), 99_900, &["a", "b"]).await.unwrap() == clean);
    assert!(is_fault_of_file(&at_least(content.clone(), 1_000, &["a", "b"]).await.unwrap_err()));
    // Where the filter looks at all columns, its statement drops the rows of the same page.
    let last_page = ((98_000..100_000).collect(), 0, 100_000);
    assert!(at_least(content, 99_900, &["b", "b"]).await.unwrap() == last_page);
}

#[tokio::test]
async fn an_index_that_is_wrong_costs_no_rows() {
    let content = paged();
    let metadata = ::parquet::file::metadata::ParquetMetaDataReader::new()
        .parse_and_finish(&Bytes::from(content.clone()))
        .unwrap();
    for column in [0, 1] {
        let chunk = metadata.row_group(0).column(column);
        let start = chunk.offset_index_offset().unwrap() as usize;
        let index = start..start + chunk.offset_index_length().unwrap() as usize;
        // The 48th page begins at row 94,001 instead of 94,000, and at another place; the index is cut off.
        let zigzag = |row: u64| {
            let (mut left, mut bytes) = (row << 1, Vec::new());
            while left >= 0x80 {
                bytes.push(left as u8 | 0x80);
                left >>= 7;
            }
            bytes.push(left as u8);
            bytes
        };
        let mut moved = content.clone();
        let row = zigzag(94_000);
        let at = index.start + content[index.clone()].windows(3).position(|bytes| bytes == row).unwrap();
        moved[at..at + 3].copy_from_slice(&zigzag(94_001));
        let mut cut = content.clone();
        cut[at..index.end].fill(0);
        let mut other = content.clone();
        other[at - 4] ^= 1;
        for damaged in [moved, cut, other] {
            let (rows, seen, total) = at_least(damaged, 95_000, &["a", "b"]).await.unwrap();
            // More than half of the rows that were looked at pass: the statement drops the others.
            let passed: Vec<i64> = rows.into_iter().filter(|row| *row >= 95_000).collect();
            assert!(passed.into_iter().eq(95_000..100_000), "{column}");
            assert!(seen >= 6_000 && total == 100_000, "{seen} of {total}");
        }
    }
}
