//! Rows that take far more than the file: batches of fewer rows.

use super::super::batch_memory::BATCH_BYTES;
use super::*;

const MIB: usize = 1 << 20;

fn file(texts: ArrayRef, properties: ::parquet::file::properties::WriterPropertiesBuilder) -> Bytes {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let properties = properties.set_compression(Compression::ZSTD(Default::default())).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

/// Reads a file and checks that no batch is larger than it may be, and that no row is lost.
fn check(file: &Bytes, ty: &str, rows: i64) {
    assert!(file.len() < MIB, "{} bytes", file.len());
    let spec = spec(vec![column("id", Some("BIGINT")), column("text", Some(ty))]);
    let parquet = Arc::new(ParquetFile::open(metadata(file).unwrap(), &spec).unwrap());
    let (mut next, mut batches) = (0, 0);
    for task in parquet.plan(None) {
        for batch in parquet.decode_row_group(&task, fetch(file, &task)).unwrap() {
            let batch = batch.unwrap();
            // A builder may have twice the room that it needs.
            let taken = batch.memory_bytes() as u64;
            assert!(taken < 2 * BATCH_BYTES + MIB as u64, "a batch of {taken} bytes");
            for id in batch.batch.column(0).as_primitive::<Int64Type>().values() {
                assert_eq!(*id, next);
                next += 1;
            }
            batches += 1;
        }
    }
    assert_eq!(next, rows);
    assert!(batches > 1);
}

fn texts(short: usize, long: usize) -> ArrayRef {
    let shorts = (0..short).map(|n| n.to_string());
    Arc::new(StringArray::from_iter_values(shorts.chain(std::iter::repeat_n("x".repeat(MIB), long))))
}

#[test]
fn a_text_that_stands_once_and_in_all_rows_comes_in_short_batches() {
    let dictionary = WriterProperties::builder().set_dictionary_page_size_limit(4 * MIB);
    check(&file(texts(0, 150), dictionary), "VARCHAR", 150);
    // Short values before them do not hide them.
    let plain =
        || WriterProperties::builder().set_dictionary_enabled(false).set_data_page_size_limit(64 * MIB);
    check(
        &file(texts(5000, 150), plain().set_column_encoding("text".into(), Encoding::DELTA_BYTE_ARRAY)),
        "VARCHAR",
        5150,
    );
    check(&file(texts(5000, 150), plain()), "VARCHAR", 5150);
}

#[test]
fn lists_count_by_their_values() {
    let items = Int64Array::from_iter((0..12_000_000).map(|_| None::<i64>));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(std::iter::repeat_n(200_000, 60));
    let field = Arc::new(Field::new("item", items.data_type().clone(), true));
    let lists: ArrayRef = Arc::new(ListArray::new(field, offsets, Arc::new(items), None));
    let properties = WriterProperties::builder().set_data_page_row_count_limit(7).set_write_batch_size(7);
    check(&file(lists, properties), "ARRAY(BIGINT)", 60);
}

#[test]
fn lengths_in_steps_are_added_up() {
    let wide = |n: usize| "y".repeat(n * n % 701);
    let longest = (0..900).map(|n| wide(n).len()).max().unwrap() as u64;
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..900).map(wide)));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_encoding("text".into(), Encoding::DELTA_BYTE_ARRAY);
    let file = file(texts, properties);
    let parquet = metadata(&file).unwrap();
    let chunk = parquet.row_group(0).column(1);
    let source = Arc::new(file.clone());
    let mut pages =
        ::parquet::file::serialized_reader::SerializedPageReader::new(source, chunk, 900, None).unwrap();
    let mut told = 0;
    while let Some(page) = ::parquet::column::page::PageReader::get_next_page(&mut pages).unwrap() {
        let values = super::super::value_counts::values_of(&page, chunk.column_descr()).unwrap();
        told = told.max(super::super::value_counts::delta_lengths(values).unwrap());
    }
    // What is shared and what is not, each at its longest.
    assert!((longest..=2 * longest).contains(&told), "{told} of {longest}");
}
