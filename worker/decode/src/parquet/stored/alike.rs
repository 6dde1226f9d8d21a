//! Which columns of a row group mean the same in a table, so that their pages can stand there as they are.
//!
//! Only metadata are looked at here. Whether the values are sound, and within what the table's type allows,
//! is seen when they are decoded.

use std::ops::Range;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use ::parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use ::parquet::schema::types::{BasicTypeInfo, ColumnDescriptor, Type};
use arrow::datatypes::DataType;
use stevedore_common::types::SqlType;

use crate::cast;
use crate::columnar::{FileColumn, is_text};
use crate::parse::datetime::Zone;
use crate::spec::DecodeSpec;

use super::TableColumn;

/// A column that may be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alike {
    /// The range of its integers (or what is stored as such) in the table, where the table's is narrower.
    pub(super) allowed: Option<(i128, i128)>,
    /// How its values are verified.
    pub(super) by: Verified,
    /// It cannot be NULL, and the table's column may be: its pages lack the levels that the table's have.
    pub(super) adds_levels: bool,
}

/// How the values of a column are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    /// Page by page, or by the library where that does not do.
    PagesOrLibrary,
    /// Page by page alone: the library would cut what its Arrow type cannot hold.
    Pages,
    /// By the library: a nested column.
    Library,
}

/// A column of a file, as the file describes it.
pub(super) struct Described<'a> {
    pub(super) column: &'a FileColumn,
    pub(super) field: &'a Type,
    /// Its leaves among those of the row group.
    pub(super) leaves: Range<usize>,
}

/// Whether a column of a row group may stand in the table as `ty`, as far as metadata tell: the same
/// meaning, and well compressed.
pub(super) fn alike(
    source: &Described<'_>,
    group: &RowGroupMetaData,
    target: &TableColumn,
    ty: &SqlType,
    spec: &DecodeSpec,
) -> Option<Alike> {
    let column = source.column;
    let chunks = group.columns().get(source.leaves.clone())?;
    let adds_levels = lacks_levels(source, chunks, target);
    let null_if = !spec.format.null_if.is_empty() && is_text(column.source.data_type());
    if column.physical.is_some()
        || column.raw.is_some()
        || null_if
        || chunks.len() != target.leaves.len()
        || !chunks.iter().all(is_well_stored)
        || !chunks
            .iter()
            .zip(&target.leaves)
            .all(|(chunk, leaf)| is_laid_out_alike(chunk.column_descr(), leaf, adds_levels))
    {
        return None;
    }
    // What casts start from: text that claims to be JSON is text.
    let from = cast::natural_type(&column.source).ok()?;
    if let ([chunk], [leaf], true, true) =
        (chunks, target.leaves.as_slice(), source.field.is_primitive(), target.field.is_primitive())
    {
        let allowed = values_alike(chunk.column_descr(), leaf, column.source.data_type(), &from, ty, spec)?;
        let by = match Meaning::of(chunk.column_descr()) {
            _ if leaf.max_rep_level() > 0 => return None,
            Some(Meaning::Integer { bits: 8 | 16, .. }) => Verified::Pages,
            _ => Verified::PagesOrLibrary,
        };
        return Some(Alike { allowed, by, adds_levels });
    }
    let same_type = from == *ty
        || matches!((&from, ty), (SqlType::Array(item), SqlType::Vector(_)) if **item == SqlType::Float32);
    let same_leaves = chunks.iter().zip(&target.leaves).all(|(chunk, leaf)| {
        let meaning = Meaning::of(chunk.column_descr());
        meaning.is_some() && meaning == Meaning::of(leaf)
    });
    (same_type && same_leaves && same_shape(source.field, &target.field)).then_some(Alike {
        allowed: None,
        by: Verified::Library,
        adds_levels: false,
    })
}

/// Compressed by what readers know, and where its metadata say.
fn is_well_stored(chunk: &ColumnChunkMetaData) -> bool {
    let compressed = matches!(
        chunk.compression(),
        Compression::ZSTD(_)
            | Compression::SNAPPY
            | Compression::LZ4_RAW
            | Compression::GZIP(_)
            | Compression::BROTLI(_)
    );
    let first_page = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    compressed
        && chunk.crypto_metadata().is_none()
        && u64::try_from(first_page).is_ok_and(|first| first == chunk.byte_range().0)
}

/// Whether a flat column cannot be NULL, and that of the table may be.
fn lacks_levels(source: &Described<'_>, chunks: &[ColumnChunkMetaData], target: &TableColumn) -> bool {
    match (chunks, target.leaves.as_slice()) {
        ([chunk], [leaf]) if source.field.is_primitive() && target.field.is_primitive() => {
            let source = chunk.column_descr();
            source.max_def_level() == 0
                && leaf.max_def_level() == 1
                && source.max_rep_level() == 0
                && leaf.max_rep_level() == 0
        }
        _ => false,
    }
}

/// Whether values and levels have the same layout, but for levels that are added.
fn is_laid_out_alike(source: &ColumnDescriptor, target: &ColumnDescriptor, adds_levels: bool) -> bool {
    source.physical_type() == target.physical_type()
        && (source.physical_type() != PhysicalType::FIXED_LEN_BYTE_ARRAY
            || source.type_length() == target.type_length())
        && source.max_rep_level() == target.max_rep_level()
        && (adds_levels || source.max_def_level() == target.max_def_level())
}

/// Whether fields have the same levels at every depth.
fn same_shape(source: &Type, target: &Type) -> bool {
    let (of_source, of_target) = (source.get_basic_info(), target.get_basic_info());
    let repetition = |info: &BasicTypeInfo| info.has_repetition().then(|| info.repetition());
    if repetition(of_source) != repetition(of_target) || source.is_primitive() != target.is_primitive() {
        return false;
    }
    if source.is_primitive() {
        return true;
    }
    let (from, to) = (source.get_fields(), target.get_fields());
    from.len() == to.len() && from.iter().zip(to).all(|(from, to)| same_shape(from, to))
}

/// What the stored values of a leaf mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Boolean,
    Integer { bits: u8, signed: bool },
    Float,
    Date,
    Microseconds { utc: bool },
    Decimal { scale: i32 },
    Text,
    Bytes,
}

impl Meaning {
    fn of(leaf: &ColumnDescriptor) -> Option<Self> {
        let physical = leaf.physical_type();
        let integer = |bits: u8, signed: bool| Self::Integer { bits, signed };
        Some(match (physical, leaf.logical_type_ref()) {
            (PhysicalType::BOOLEAN, None) => Self::Boolean,
            (PhysicalType::FLOAT | PhysicalType::DOUBLE, None) => Self::Float,
            (
                PhysicalType::INT32 | PhysicalType::INT64,
                Some(LogicalType::Integer { bit_width, is_signed }),
            ) => integer(u8::try_from(*bit_width).ok()?, *is_signed),
            (PhysicalType::INT32, Some(LogicalType::Date)) => Self::Date,
            (
                PhysicalType::INT64,
                Some(LogicalType::Timestamp { is_adjusted_to_u_t_c, unit: TimeUnit::MICROS }),
            ) => Self::Microseconds { utc: *is_adjusted_to_u_t_c },
            (
                PhysicalType::INT32 | PhysicalType::INT64 | PhysicalType::FIXED_LEN_BYTE_ARRAY,
                Some(LogicalType::Decimal { scale, .. }),
            ) => Self::Decimal { scale: *scale },
            (PhysicalType::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Json | LogicalType::Enum)) => {
                Self::Text
            }
            (physical, None) => match (physical, leaf.converted_type()) {
                (PhysicalType::INT32, ConvertedType::NONE | ConvertedType::INT_32) => integer(32, true),
                (PhysicalType::INT64, ConvertedType::NONE | ConvertedType::INT_64) => integer(64, true),
                (PhysicalType::INT32, ConvertedType::INT_8) => integer(8, true),
                (PhysicalType::INT32, ConvertedType::INT_16) => integer(16, true),
                (PhysicalType::INT32, ConvertedType::UINT_8) => integer(8, false),
                (PhysicalType::INT32, ConvertedType::UINT_16) => integer(16, false),
                (PhysicalType::INT32, ConvertedType::UINT_32) => integer(32, false),
                (PhysicalType::INT64, ConvertedType::UINT_64) => integer(64, false),
                (PhysicalType::INT32, ConvertedType::DATE) => Self::Date,
                (PhysicalType::INT64, ConvertedType::TIMESTAMP_MICROS) => Self::Microseconds { utc: true },
                (
                    PhysicalType::INT32 | PhysicalType::INT64 | PhysicalType::FIXED_LEN_BYTE_ARRAY,
                    ConvertedType::DECIMAL,
                ) => Self::Decimal { scale: leaf.type_scale() },
                (
                    PhysicalType::BYTE_ARRAY,
                    ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM,
                ) => Self::Text,
                (PhysicalType::BYTE_ARRAY, ConvertedType::NONE) => Self::Bytes,
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// Whether the values of a flat column are, bit by bit, what a cast makes of them; and the range that the
/// cast allows. `None`: they are not.
fn values_alike(
    source: &ColumnDescriptor,
    target: &ColumnDescriptor,
    array: &DataType,
    from: &SqlType,
    ty: &SqlType,
    spec: &DecodeSpec,
) -> Option<Option<(i128, i128)>> {
    let array = match array {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    let is_instant = |ty: &SqlType| matches!(ty, SqlType::Timestamp | SqlType::TimestampTz);
    match (Meaning::of(source)?, Meaning::of(target)?) {
        (Meaning::Boolean, Meaning::Boolean)
        | (Meaning::Float, Meaning::Float)
        | (Meaning::Text, Meaning::Text)
        | (Meaning::Bytes, Meaning::Bytes) => (from == ty).then_some(None),
        (Meaning::Date, Meaning::Date) => (from == ty && *array == DataType::Date32).then_some(None),
        // An unsigned integer as wide as its physical type would be negative there.
        (Meaning::Integer { bits, signed }, Meaning::Integer { bits: wide, .. })
            if from.is_integer() && (signed || bits < wide) =>
        {
            integers_of(ty).map(Some)
        }
        (Meaning::Microseconds { utc }, Meaning::Microseconds { utc: true }) => {
            // What a writer embeds may ask for nanoseconds, and they end sooner.
            let micros = matches!(array, DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _));
            let same_zone = utc || Zone::parse(&spec.cast.timezone).is_ok_and(|zone| zone == Zone::Utc);
            (micros && same_zone && is_instant(from) && is_instant(ty)).then_some(None)
        }
        (Meaning::Decimal { scale }, Meaning::Decimal { scale: to }) if scale == to => match (from, ty) {
            (SqlType::Decimal(..), SqlType::Decimal(precision, _)) => {
                let greatest = 10i128.checked_pow(u32::from(*precision))? - 1;
                Some(Some((-greatest, greatest)))
            }
            _ => None,
        },
        _ => None,
    }
}

fn integers_of(ty: &SqlType) -> Option<(i128, i128)> {
    Some(match ty {
        SqlType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        SqlType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        SqlType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        SqlType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        SqlType::UInt8 => (0, u8::MAX.into()),
        SqlType::UInt16 => (0, u16::MAX.into()),
        SqlType::UInt32 => (0, u32::MAX.into()),
        _ => return None,
    })
}
