//! Parquet, ORC, Avro and Arrow files from bytes to rows, driven as a worker drives the decoders.

use std::ops::Range;
use std::sync::Arc;

use arbitrary::Unstructured;
use arrow::array::ArrayRef;
use bytes::Bytes;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::arrow_ipc::{self, ArrowFile, Dictionaries, StreamCutter};
use stevedore_decode::avro::{self, AvroFile, BlockCutter, HEADER_BYTES, read_header};
use stevedore_decode::orc::{self, OrcFile, Tail, read_tail};
use stevedore_decode::parquet::{
    self, ColumnDefaults, ColumnEncoder, ColumnEncoders, Footer, ParquetFile, StoredLayout, StoredTarget,
    read_footer,
};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, DecodedBatch, OutputColumn};

use crate::{knobs, split};

/// Rows of a file that are looked at.
const MOST_ROWS: u64 = 100_000;

/// What is asked of a file: its columns as they are, or cast to any type, or whole rows, or nothing.
fn spec(
    u: &mut Unstructured<'_>,
    format: FileFormat,
    columns: &[(String, SqlType, bool)],
) -> arbitrary::Result<DecodeSpec> {
    let mode = u.int_in_range(0..=3)?;
    let column = |name: &str, ty, source| OutputColumn {
        name: name.to_owned(),
        ty,
        source,
        nullable: true,
        has_default: false,
    };
    let wanted = match mode {
        0 | 1 => {
            let mut wanted = Vec::new();
            for (name, ..) in columns.iter().take(20) {
                let ty = if mode == 0 { None } else { Some(knobs::sql_type(u, 0)?) };
                wanted.push(column(name, ty, ColumnSource::Name(name.clone())));
            }
            wanted
        }
        2 => vec![column("row", Some(SqlType::Variant), ColumnSource::WholeRow)],
        _ => Vec::new(),
    };
    let mut spec = DecodeSpec::new(format, wanted);
    spec.batch_rows = if u.arbitrary()? { 3 } else { 8192 };
    Ok(spec)
}

fn slice(file: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    if range.start > range.end || range.end > file.len() as u64 {
        return Err(Error::bad_data("outside of the file"));
    }
    Ok(file.slice(range.start as usize..range.end as usize))
}

/// Looks at batches until there are enough; rows are numbered on from `next`.
fn look(batches: impl Iterator<Item = Result<DecodedBatch>>, next: &mut u64, seen: &mut u64) -> Result<()> {
    for batch in batches {
        let batch = batch?;
        assert_eq!(batch.batch.num_rows(), batch.row_numbers.len());
        assert_eq!(batch.batch.num_rows(), batch.lines.len());
        let mut numbers: Vec<u64> =
            batch.row_numbers.iter().copied().chain(batch.errors.iter().map(|error| error.row)).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(*next..*next + numbers.len() as u64), "rows are numbered on");
        *next += numbers.len() as u64;
        *seen += numbers.len() as u64;
        if *seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}

/// One input of the target for Parquet.
pub fn parquet(input: &[u8]) {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let Ok(format) = knobs::format(&mut u, FormatKind::Parquet) else { return };
    let file = Bytes::copy_from_slice(file);
    let _ = parquet_file(&mut u, format, &file);
}

fn parquet_file(u: &mut Unstructured<'_>, format: FileFormat, bytes: &Bytes) -> Result<()> {
    let size = bytes.len() as u64;
    let mut tail = parquet::TAIL_BYTES.min(size);
    let mut metadata = None;
    for _ in 0..3 {
        match read_footer(size, &slice(bytes, &(size - tail..size))?)? {
            Footer::Ready(ready) => metadata = Some(ready),
            Footer::Need(more) => tail = more.min(size),
        }
    }
    let Some(metadata) = metadata else { return Ok(()) };
    let columns = parquet::file_schema(&metadata, &format)?;
    let Ok(spec) = spec(u, format, &columns) else { return Ok(()) };
    let file = Arc::new(ParquetFile::open(Arc::clone(&metadata), &spec)?);
    let target = as_it_is(&metadata, &spec);
    let mut seen = 0;
    for task in file.plan(None).into_iter().take(50) {
        let fetched: Vec<Bytes> =
            task.byte_ranges.iter().map(|range| slice(bytes, range)).collect::<Result<_>>()?;
        if let Some(plan) = file.stored_plan(task.row_group, &target) {
            let bytes = task.fetched(fetched.clone())?;
            for index in 0..plan.len() {
                let _ = file.stored_column(&task, &bytes, &plan, &target, index);
            }
        }
        let mut next = task.first_row;
        // The next row group may be better.
        let _ = file.decode_row_group(&task, fetched).and_then(|group| look(group, &mut next, &mut seen));
        if seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}

/// A table that stores its columns as a file does: what can be copied is.
fn as_it_is(metadata: &::parquet::file::metadata::ParquetMetaData, spec: &DecodeSpec) -> StoredTarget {
    let schema = metadata.file_metadata().schema_descr();
    let wanted = |name: &str| {
        spec.columns.iter().position(|column| matches!(&column.source, ColumnSource::Name(n) if n == name))
    };
    StoredTarget {
        layout: Arc::new(StoredLayout::new(schema, Arc::new(CopyOnly))),
        columns: schema.root_schema().get_fields().iter().map(|field| wanted(field.name())).collect(),
        defaults: Arc::new(CopyOnly),
        least_rows: 0,
    }
}

/// Encodes nothing, and has no defaults.
struct CopyOnly;

impl ColumnEncoders for CopyOnly {
    fn allow(&self, _: ::parquet::basic::Encoding) -> bool {
        true
    }

    fn allow_version_2(&self) -> bool {
        true
    }

    fn begin(&self, _: usize, _: &[ArrayRef]) -> Result<Box<dyn ColumnEncoder>> {
        Err(Error::not_supported("encoding"))
    }
}

impl ColumnDefaults for CopyOnly {
    fn values(&self, _: usize, _: usize) -> Result<ArrayRef> {
        Err(Error::not_supported("defaults"))
    }
}

/// One input of the target for ORC.
pub fn orc(input: &[u8]) {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let Ok(format) = knobs::format(&mut u, FormatKind::Orc) else { return };
    let file = Bytes::copy_from_slice(file);
    let _ = orc_file(&mut u, format, &file);
}

fn orc_file(u: &mut Unstructured<'_>, format: FileFormat, bytes: &Bytes) -> Result<()> {
    let size = bytes.len() as u64;
    let mut tail = orc::TAIL_BYTES.min(size);
    let mut metadata = None;
    for _ in 0..3 {
        match read_tail(size, &slice(bytes, &(size - tail..size))?)? {
            Tail::Ready(ready) => metadata = Some(ready),
            Tail::Need(more) => tail = more.min(size),
        }
    }
    let Some(metadata) = metadata else { return Ok(()) };
    let columns = orc::file_schema(&metadata)?;
    let Ok(spec) = spec(u, format, &columns) else { return Ok(()) };
    let file = Arc::new(OrcFile::open(metadata, &spec)?);
    let mut seen = 0;
    for task in file.plan(None).into_iter().take(50) {
        let mut fetched = Vec::new();
        if let Some(first) = task.first_range.clone() {
            let footer = slice(bytes, &first)?;
            let streams = file.streams(&task, &footer);
            fetched.push((first, footer));
            for range in streams.unwrap_or_default() {
                fetched.push((range.clone(), slice(bytes, &range)?));
            }
        }
        let mut next = task.first_row;
        let _ = file.decode_stripe(&task, fetched).and_then(|stripe| look(stripe, &mut next, &mut seen));
        if seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}

/// One input of the target for Avro.
pub fn avro(input: &[u8]) {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let Ok(piece) = u.arbitrary::<u8>() else { return };
    let Ok(format) = knobs::format(&mut u, FormatKind::Avro) else { return };
    let _ = avro_file(&mut u, format, file, usize::from(piece) * 16 + 1);
}

fn avro_file(u: &mut Unstructured<'_>, format: FileFormat, bytes: &[u8], piece: usize) -> Result<()> {
    let first = bytes.len().min(HEADER_BYTES);
    let header = match read_header(&bytes[..first], first == bytes.len())? {
        Some(header) => header,
        None => match read_header(bytes, true)? {
            Some(header) => header,
            None => return Ok(()),
        },
    };
    let columns = avro::file_schema(&header, &format)?;
    let Ok(spec) = spec(u, format, &columns) else { return Ok(()) };
    let file = Arc::new(AvroFile::open(&header, &spec)?);
    let mut cutter = BlockCutter::new(&header, &spec);
    let mut groups = Vec::new();
    let mut result = Ok(());
    for bytes in bytes.chunks(piece) {
        result = result.and_then(|()| cutter.push(bytes, &mut groups));
    }
    let _ = result.and_then(|()| cutter.finish(&mut groups));
    let mut seen = 0;
    for group in groups {
        let mut next = group.first_row;
        let _ = look(file.decode(group), &mut next, &mut seen);
        if seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}

/// What record batches and dictionaries of an Arrow file may take.
const ARROW_LIMIT: u64 = 256 << 20;

/// One input of the target for Arrow IPC: the first byte says whether it is a file or a stream.
pub fn arrow_ipc(input: &[u8]) {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let Ok((is_stream, piece)) = u.arbitrary::<(bool, u8)>() else { return };
    if is_stream {
        let _ = arrow_stream(&mut u, file, usize::from(piece) * 16 + 1);
    } else {
        let _ = arrow_file(&mut u, &Bytes::copy_from_slice(file));
    }
}

fn arrow_file(u: &mut Unstructured<'_>, bytes: &Bytes) -> Result<()> {
    let size = bytes.len() as u64;
    let mut tail = arrow_ipc::TAIL_BYTES.min(size);
    let mut layout = None;
    for _ in 0..3 {
        match arrow_ipc::read_tail(size, &slice(bytes, &(size - tail..size))?)? {
            arrow_ipc::Tail::Ready(ready) => layout = Some(ready),
            arrow_ipc::Tail::Need(more) => tail = more.min(size),
        }
    }
    let Some(layout) = layout else { return Ok(()) };
    let columns = arrow_ipc::schema_columns(layout.schema())?;
    let Ok(spec) = spec(u, FileFormat::defaults(FormatKind::Arrow), &columns) else { return Ok(()) };
    let file = Arc::new(ArrowFile::open(layout.schema(), &spec, ARROW_LIMIT)?);
    let mut dictionaries = Dictionaries::default();
    for place in layout.dictionaries() {
        layout.add_dictionary(place, &slice(bytes, &place.range)?, &mut dictionaries, ARROW_LIMIT)?;
    }
    let dictionaries = Arc::new(dictionaries);
    let (mut next, mut seen) = (0, 0);
    for place in layout.plan(None).into_iter().take(50) {
        let head = layout.head(&place, &slice(bytes, &place.metadata_range())?)?;
        let message = layout.message(&place, &slice(bytes, &place.range)?, &dictionaries, next)?;
        assert_eq!(message.rows, head.rows);
        look(file.decode(message), &mut next, &mut seen)?;
        if seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}

fn arrow_stream(u: &mut Unstructured<'_>, bytes: &[u8], piece: usize) -> Result<()> {
    let mut cutter = StreamCutter::new(bytes.len() as u64, ARROW_LIMIT);
    let mut messages = Vec::new();
    let mut result = Ok(());
    for bytes in bytes.chunks(piece) {
        result = result.and_then(|()| cutter.push(bytes, &mut messages));
    }
    let _ = result.and_then(|()| cutter.finish());
    let Some(schema) = cutter.schema() else { return Ok(()) };
    let columns = arrow_ipc::schema_columns(schema)?;
    let Ok(spec) = spec(u, FileFormat::defaults(FormatKind::ArrowStream), &columns) else { return Ok(()) };
    let file = Arc::new(ArrowFile::open(schema, &spec, ARROW_LIMIT)?);
    let (mut next, mut seen) = (0, 0);
    for message in messages {
        look(file.decode(message), &mut next, &mut seen)?;
        if seen > MOST_ROWS {
            break;
        }
    }
    Ok(())
}
