//! Vouches for the pages of a flat column without building arrays: every value is decompressed and looked
//! at, those in a dictionary once.
//!
//! Comes in: a column chunk and the table's descriptor for it. Goes out: [`Facts`], where every page is
//! sound and of the common encodings. Anything else is `None`, never an error: the library decodes such a
//! chunk then and has the last word.

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, Encoding, LogicalType, Type as PhysicalType};
use ::parquet::column::page::{Page, PageReader};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::ColumnDescriptor;
use bytes::Bytes;

use super::facts::Facts;
use crate::parquet::chunks::GroupBytes;
use crate::parquet::runs::{Run, count_greatest, each_run, ones_of};

/// The values of a column, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Int32,
    Int64,
    Float,
    Double,
    /// A big-endian integer of so many bytes.
    Decimal(usize),
    /// Text, UTF-8.
    Text,
    Bytes,
}

impl Kind {
    fn of(column: &ColumnDescriptor) -> Option<Self> {
        Some(match column.physical_type() {
            PhysicalType::BOOLEAN => Self::Boolean,
            PhysicalType::INT32 => Self::Int32,
            PhysicalType::INT64 => Self::Int64,
            PhysicalType::FLOAT => Self::Float,
            PhysicalType::DOUBLE => Self::Double,
            PhysicalType::FIXED_LEN_BYTE_ARRAY => {
                let decimal = matches!(column.logical_type_ref(), Some(LogicalType::Decimal { .. }));
                let length = usize::try_from(column.type_length()).ok()?;
                if !decimal || !(1..=16).contains(&length) {
                    return None;
                }
                Self::Decimal(length)
            }
            PhysicalType::BYTE_ARRAY => match (column.logical_type_ref(), column.converted_type()) {
                (Some(LogicalType::String), _) | (None, ConvertedType::UTF8) => Self::Text,
                (None, ConvertedType::NONE) => Self::Bytes,
                _ => return None,
            },
            PhysicalType::INT96 => return None,
        })
    }
}

/// What the pages of a chunk hold; `None` where the library has to tell.
pub(super) fn look(
    chunk: &ColumnChunkMetaData,
    bytes: &GroupBytes,
    target: &ColumnDescriptor,
    rows: u64,
    largest_page: usize,
) -> Option<Facts> {
    let kind = Kind::of(target)?;
    let greatest_level = u32::try_from(chunk.column_descr().max_def_level()).ok()?;
    if target.max_rep_level() != 0 || u64::try_from(chunk.num_values()) != Ok(rows) {
        return None;
    }
    bytes.check_pages(chunk, largest_page).ok()?;
    let mut pages =
        SerializedPageReader::new(Arc::new(bytes.clone()), chunk, usize::try_from(rows).ok()?, None).ok()?;
    let mut column = Column { kind, facts: Facts::default(), dictionary: None };
    let mut seen = 0;
    while let Some(page) = pages.get_next_page().ok()? {
        match page {
            Page::DictionaryPage { buf, num_values, encoding, .. } => {
                let plain = matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY);
                if !plain || column.dictionary.is_some() || seen > 0 {
                    return None;
                }
                column.dictionary = Some(Dictionary::read(kind, buf, num_values as usize)?);
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let mut values: &[u8] = &buf;
                let mut present = num_values as usize;
                if greatest_level > 0 {
                    if def_level_encoding != Encoding::RLE {
                        return None;
                    }
                    let levels = prefixed(&mut values)?;
                    present = count_greatest(levels, greatest_level, present)?;
                }
                seen += u64::from(num_values);
                column.facts.nulls += u64::from(num_values) - present as u64;
                column.page(values, encoding, present)?;
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                if num_rows != num_values || rep_levels_byte_len != 0 {
                    return None;
                }
                let (levels, values) = buf.split_at_checked(def_levels_byte_len as usize)?;
                let mut present = num_values as usize;
                if greatest_level > 0 {
                    present = count_greatest(levels, greatest_level, present)?;
                }
                let nulls = u64::from(num_values) - present as u64;
                if nulls != u64::from(num_nulls) {
                    return None;
                }
                seen += u64::from(num_values);
                column.facts.nulls += nulls;
                column.page(values, encoding, present)?;
            }
        }
    }
    let Column { mut facts, dictionary, .. } = column;
    if let Some(dictionary) = dictionary {
        dictionary.tell(&mut facts)?;
    }
    (seen == rows).then_some(facts)
}

struct Column {
    kind: Kind,
    facts: Facts,
    dictionary: Option<Dictionary>,
}

impl Column {
    /// Looks at the values of a page.
    fn page(&mut self, values: &[u8], encoding: Encoding, count: usize) -> Option<()> {
        if count == 0 {
            return Some(());
        }
        match encoding {
            Encoding::PLAIN => self.plain(values, count),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                self.dictionary.as_mut()?.use_values(values, count)
            }
            Encoding::RLE if self.kind == Kind::Boolean => {
                let mut values = values;
                let runs = prefixed(&mut values)?;
                let ones = count_greatest(runs, 1, count)?;
                self.facts.booleans(Some((ones == count, ones > 0)));
                Some(())
            }
            _ => None,
        }
    }

    fn plain(&mut self, values: &[u8], count: usize) -> Option<()> {
        let facts = &mut self.facts;
        match self.kind {
            Kind::Boolean => {
                let ones = ones_of(values, count)?;
                facts.booleans(Some((ones == count, ones > 0)));
            }
            Kind::Int32 => {
                let range = range(fixed::<4>(values, count)?.iter().map(|v| i32::from_le_bytes(*v)));
                facts.integers(range.map(|(least, greatest)| (least.into(), greatest.into())));
            }
            Kind::Int64 => {
                let range = range(fixed::<8>(values, count)?.iter().map(|v| i64::from_le_bytes(*v)));
                facts.integers(range.map(|(least, greatest)| (least.into(), greatest.into())));
            }
            Kind::Float => facts.floats(fixed::<4>(values, count)?.iter().map(|v| f32::from_le_bytes(*v))),
            Kind::Double => facts.doubles(fixed::<8>(values, count)?.iter().map(|v| f64::from_le_bytes(*v))),
            Kind::Decimal(length) => {
                let values = values.get(..count.checked_mul(length)?)?;
                facts.integers(range(values.chunks_exact(length).map(decimal)));
            }
            Kind::Text | Kind::Bytes => {
                let mut extremes = Extremes::default();
                let mut texts = true;
                // The lengths between the values are ASCII too where the values are short.
                let check = self.kind == Kind::Text && !values.is_ascii();
                each_value(values, count, |value| {
                    texts &= !check || std::str::from_utf8(value).is_ok();
                    extremes.include(value);
                })?;
                if !texts {
                    return None;
                }
                facts.bytes(extremes.range());
            }
        }
        Some(())
    }
}

/// The values that pages refer to by their place.
struct Dictionary {
    kind: Kind,
    page: Bytes,
    /// How often each value is used.
    uses: Vec<u64>,
}

impl Dictionary {
    fn read(kind: Kind, page: Bytes, count: usize) -> Option<Self> {
        match kind {
            Kind::Boolean => return None,
            Kind::Int32 | Kind::Float => drop(fixed::<4>(&page, count)?),
            Kind::Int64 | Kind::Double => drop(fixed::<8>(&page, count)?),
            Kind::Decimal(length) => drop(page.get(..count.checked_mul(length)?)?),
            Kind::Text | Kind::Bytes => {
                // Values that no row uses must be sound as well: readers decode them all.
                let mut texts = true;
                let check = kind == Kind::Text && !page.is_ascii();
                each_value(&page, count, |value| texts &= !check || std::str::from_utf8(value).is_ok())?;
                if !texts {
                    return None;
                }
            }
        }
        Some(Self { kind, page, uses: vec![0; count] })
    }

    /// Counts the uses of a page.
    fn use_values(&mut self, places: &[u8], count: usize) -> Option<()> {
        let (width, runs) = places.split_first()?;
        let uses = &mut self.uses;
        each_run(runs, u32::from(*width), count, |run| {
            match run {
                Run::Same(place, length) => *uses.get_mut(place as usize)? += length as u64,
                Run::Packed(packed, length) => packed.each(length, |place| {
                    *uses.get_mut(place as usize)? += 1;
                    Some(())
                })?,
            }
            Some(())
        })
    }

    /// Adds the values that are used.
    fn tell(self, facts: &mut Facts) -> Option<()> {
        let count = self.uses.len();
        let used = |place: &usize| self.uses.get(*place).is_some_and(|uses| *uses > 0);
        let places = || (0..count).filter(used);
        match self.kind {
            Kind::Boolean => return None,
            Kind::Int32 => {
                let values = fixed::<4>(&self.page, count)?;
                let range = range(places().map(|place| i32::from_le_bytes(values[place])));
                facts.integers(range.map(|(least, greatest)| (least.into(), greatest.into())));
            }
            Kind::Int64 => {
                let values = fixed::<8>(&self.page, count)?;
                let range = range(places().map(|place| i64::from_le_bytes(values[place])));
                facts.integers(range.map(|(least, greatest)| (least.into(), greatest.into())));
            }
            Kind::Float => {
                let values = fixed::<4>(&self.page, count)?;
                let value = |place: usize| f32::from_le_bytes(values[place]);
                facts.floats(places().map(value).filter(|value| !value.is_nan()));
                let nans = places().filter(|place| value(*place).is_nan());
                facts.nans += nans.map(|place| self.uses[place]).sum::<u64>();
            }
            Kind::Double => {
                let values = fixed::<8>(&self.page, count)?;
                let value = |place: usize| f64::from_le_bytes(values[place]);
                facts.doubles(places().map(value).filter(|value| !value.is_nan()));
                let nans = places().filter(|place| value(*place).is_nan());
                facts.nans += nans.map(|place| self.uses[place]).sum::<u64>();
            }
            Kind::Decimal(length) => {
                let value = |place: usize| decimal(&self.page[place * length..(place + 1) * length]);
                facts.integers(range(places().map(value)));
            }
            Kind::Text | Kind::Bytes => {
                let mut extremes = Extremes::default();
                let mut place = 0;
                each_value(&self.page, count, |value| {
                    if used(&place) {
                        extremes.include(value);
                    }
                    place += 1;
                })?;
                facts.bytes(extremes.range());
            }
        }
        Some(())
    }
}

/// Splits off what a length of four bytes stands before.
fn prefixed<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *bytes = rest;
    Some(part)
}

/// So many values of a fixed width.
fn fixed<const WIDTH: usize>(bytes: &[u8], count: usize) -> Option<&[[u8; WIDTH]]> {
    Some(bytes.get(..count.checked_mul(WIDTH)?)?.as_chunks().0)
}

fn range<T: Ord + Copy>(mut values: impl Iterator<Item = T>) -> Option<(T, T)> {
    let first = values.next()?;
    Some(values.fold((first, first), |(least, greatest), value| (least.min(value), greatest.max(value))))
}

/// A big-endian integer of at most 16 bytes.
fn decimal(bytes: &[u8]) -> i128 {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = [if negative { 0xFF } else { 0 }; 16];
    if let Some(start) = whole.len().checked_sub(bytes.len()) {
        whole[start..].copy_from_slice(bytes);
    }
    i128::from_be_bytes(whole)
}

/// Gives values that each stand behind their length.
fn each_value<'a>(mut bytes: &'a [u8], count: usize, mut take: impl FnMut(&'a [u8])) -> Option<()> {
    for _ in 0..count {
        take(prefixed(&mut bytes)?);
    }
    Some(())
}

/// The least and the greatest of some bytes, told apart by their first eight where these differ.
#[derive(Default)]
struct Extremes<'a> {
    range: Option<(&'a [u8], &'a [u8])>,
    least: u64,
    greatest: u64,
}

impl<'a> Extremes<'a> {
    fn include(&mut self, value: &'a [u8]) {
        let start = match value.first_chunk::<8>() {
            Some(start) => u64::from_be_bytes(*start),
            None => {
                let mut start = [0; 8];
                start[..value.len()].copy_from_slice(value);
                u64::from_be_bytes(start)
            }
        };
        let Some((least, greatest)) = &mut self.range else {
            self.range = Some((value, value));
            (self.least, self.greatest) = (start, start);
            return;
        };
        if start <= self.least && value < *least {
            *least = value;
            self.least = start;
        }
        if start >= self.greatest && value > *greatest {
            *greatest = value;
            self.greatest = start;
        }
    }

    fn range(&self) -> Option<(&'a [u8], &'a [u8])> {
        self.range
    }
}
