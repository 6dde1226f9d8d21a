//! The columns of a file: their Arrow types, their SQL types, what the Parquet schema knows beyond Arrow.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use ::parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{FileMetaData, ParquetMetaData};
use ::parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use stevedore_common::error::{Error, Result};
use stevedore_common::file_format::FileFormat;
use stevedore_common::types::{EXTENSION_NAME, JSON_EXTENSION, SqlType};

use crate::cast;
use crate::columnar::{FileColumn, columns_in_sql, guarded, map_fields};

/// The columns of a file, their types and whether they may be NULL.
///
/// # Errors
/// Names the column that the dialect has no type for; bad data for a damaged schema.
pub fn file_schema(
    metadata: &Arc<ParquetMetaData>,
    format: &FileFormat,
) -> Result<Vec<(String, SqlType, bool)>> {
    let (_, columns) = resolve(metadata, format)?;
    let columns: Vec<FileColumn> = columns.into_iter().map(|(column, _)| column).collect();
    columns_in_sql(&columns)
}

/// A column and the leaves that it consists of.
type ColumnLeaves = (FileColumn, Range<usize>);

/// The library's reading plan for a whole file, and its columns with the leaves that they consist of.
pub(super) fn resolve(
    metadata: &Arc<ParquetMetaData>,
    format: &FileFormat,
) -> Result<(ArrowReaderMetadata, Vec<ColumnLeaves>)> {
    guarded(
        || "the schema of the Parquet file".into(),
        || {
            let plain = without_intervals(metadata)?;
            let damaged =
                |error| Error::bad_data(format!("the schema of the Parquet file cannot be read: {error}"));
            let options = || ArrowReaderOptions::new().with_skip_arrow_metadata(!format.use_logic_type);
            let mut reader = match ArrowReaderMetadata::try_new(plain.clone(), options()) {
                Ok(reader) => reader,
                // The Arrow schema that a writer may embed is advice; the Parquet schema is the law.
                Err(_) => {
                    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
                    ArrowReaderMetadata::try_new(plain.clone(), options).map_err(damaged)?
                }
            };
            let parquet = metadata.file_metadata().schema_descr();
            let mut leaf = 0;
            let fields: Fields =
                reader.schema().fields().iter().map(|f| map_leaves(f, &mut leaf, parquet, &retype)).collect();
            if fields != *reader.schema().fields() {
                let schema = Schema::new_with_metadata(fields, reader.schema().metadata().clone());
                let options = options().with_schema(Arc::new(schema));
                reader = ArrowReaderMetadata::try_new(plain.clone(), options).map_err(damaged)?;
            }
            let mut leaf = 0;
            let columns = reader
                .schema()
                .fields()
                .iter()
                .map(|field| {
                    let first = leaf;
                    let marked = map_leaves(field, &mut leaf, parquet, &mark);
                    let mut field = marked.as_ref().clone();
                    let mut physical = None;
                    if !format.use_logic_type {
                        let ty = physical_type(field.data_type());
                        if ty != *field.data_type() {
                            field.set_data_type(ty.clone());
                            physical = Some(ty);
                        }
                    }
                    (FileColumn::unchecked(field, physical), first..leaf)
                })
                .collect();
            Ok((reader, columns))
        },
    )
}

/// Rebuilds a field with each of its leaves changed; leaves come in the order of the Parquet schema.
fn map_leaves(
    field: &FieldRef,
    leaf: &mut usize,
    parquet: &SchemaDescriptor,
    change: &dyn Fn(Field, &SchemaDescriptor, usize) -> Field,
) -> FieldRef {
    if let Some(nested) = map_fields(field.data_type(), |field| map_leaves(field, leaf, parquet, change)) {
        return Arc::new(field.as_ref().clone().with_data_type(nested));
    }
    let index = *leaf;
    *leaf += 1;
    if index >= parquet.num_columns() {
        return field.clone();
    }
    Arc::new(change(field.as_ref().clone(), parquet, index))
}

/// What the reader is to give for a leaf, where its own choice is not ours.
fn retype(field: Field, parquet: &SchemaDescriptor, leaf: usize) -> Field {
    let column = parquet.column(leaf);
    let is_enum = matches!(
        (column.logical_type_ref(), column.converted_type()),
        (Some(LogicalType::Enum), _) | (None, ConvertedType::ENUM)
    );
    match field.data_type() {
        // Those who write INT96 write instants, and nanoseconds would end in the year 2262.
        DataType::Timestamp(TimeUnit::Nanosecond, None) if column.physical_type() == PhysicalType::INT96 => {
            field.with_data_type(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
        }
        DataType::Binary if is_enum => field.with_data_type(DataType::Utf8),
        _ => field,
    }
}

/// The metadata with intervals as the bytes that they are: the reader would leave their months out.
fn without_intervals(metadata: &Arc<ParquetMetaData>) -> Result<Arc<ParquetMetaData>> {
    let of_file = metadata.file_metadata();
    let schema = of_file.schema_descr();
    if !schema.columns().iter().any(|column| column.converted_type() == ConvertedType::INTERVAL) {
        return Ok(metadata.clone());
    }
    let damaged = |error: ParquetError| {
        Error::bad_data(format!("the schema of the Parquet file cannot be read: {error}"))
    };
    let root = plain_field(&schema.root_schema_ptr()).map_err(damaged)?;
    let of_file = FileMetaData::new(
        of_file.version(),
        of_file.num_rows(),
        of_file.created_by().map(str::to_owned),
        of_file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(root)),
        of_file.column_orders().cloned(),
    );
    Ok(Arc::new(ParquetMetaData::new(of_file, metadata.row_groups().to_vec())))
}

fn plain_field(field: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = field.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let plain = match field.as_ref() {
        Type::PrimitiveType { .. } if info.converted_type() == ConvertedType::INTERVAL => {
            Type::primitive_type_builder(field.name(), PhysicalType::FIXED_LEN_BYTE_ARRAY)
                .with_length(12)
                .with_repetition(info.repetition())
                .with_id(id)
                .build()?
        }
        Type::PrimitiveType { .. } => return Ok(field.clone()),
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(plain_field).collect::<Result<_, _>>()?;
            let mut group = Type::group_type_builder(field.name())
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_id(id)
                .with_fields(fields);
            if info.has_repetition() {
                group = group.with_repetition(info.repetition());
            }
            group.build()?
        }
    };
    Ok(Arc::new(plain))
}

/// Marks JSON, UUID and interval leaves by an Arrow extension.
fn mark(field: Field, parquet: &SchemaDescriptor, leaf: usize) -> Field {
    let column = parquet.column(leaf);
    let text = matches!(
        field.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..)
    );
    let extension = match column.logical_type_ref() {
        Some(LogicalType::Json) if text => JSON_EXTENSION,
        Some(LogicalType::Uuid) if *field.data_type() == DataType::FixedSizeBinary(16) => {
            cast::UUID_EXTENSION
        }
        None if text && column.converted_type() == ConvertedType::JSON => JSON_EXTENSION,
        None if column.converted_type() == ConvertedType::INTERVAL => cast::INTERVAL_EXTENSION,
        _ => return field,
    };
    let mut metadata = field.metadata().clone();
    metadata.insert(EXTENSION_NAME.into(), extension.into());
    field.with_metadata(metadata)
}

/// Dates, times and timestamps as the integers that they are stored as.
fn physical_type(data_type: &DataType) -> DataType {
    let walk =
        |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(physical_type(field.data_type())));
    match data_type {
        DataType::Date32 | DataType::Time32(_) => DataType::Int32,
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(..) => DataType::Int64,
        DataType::List(item) => DataType::List(walk(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(walk).collect()),
        DataType::Map(entries, sorted) => DataType::Map(walk(entries), *sorted),
        other => other.clone(),
    }
}
