//! Row groups larger than the budget, and rows that nobody wants.

use arrow::array::BooleanArray;
use stevedore_decode::parquet::RowGroupBounds;

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

    fn may_pass(&self, bounds: &dyn RowGroupBounds) -> Vec<bool> {
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
