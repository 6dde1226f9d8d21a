//! The headers of pages, read before the library reads them: whether a page can become as large as it claims, and
//! whether it is what an index says that it is.
//!
//! Comes in: the bytes of a chunk, or of a page, and the chunk's limits. Goes out: what a header says, or what is wrong. For
//! Snappy and LZ4 the library fills as much memory as a page's header claims, up to 2 GiB, and decompresses into
//! it then; these codecs cannot reach any size, so lies are told from the bytes. A header that cannot be read here is
//! refused, since the library reads some that are damaged: numbers of too many bytes.

use ::parquet::basic::{Compression, Type};
use ::parquet::file::metadata::ColumnChunkMetaData;

use super::footer_shape::Walk;

/// Pages this small may claim anything.
const SMALL: i64 = 1 << 20;

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Data,
    DataV2,
    Dictionary,
    Other,
}

/// What the header of a page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    pub(super) uncompressed: i64,
    pub(super) compressed: i64,
    /// Levels, of a data page.
    pub(super) values: i64,
    /// The number of the values' encoding.
    pub(super) encoding: i64,
    /// Bytes of both kinds of levels, of a data page of version 2.
    pub(super) levels: i64,
    /// Whether the values are compressed, of a data page of version 2.
    pub(super) is_compressed: bool,
    /// Bytes of the header itself.
    pub(super) length: usize,
}

/// What the pages of a chunk may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageLimits {
    codec: Compression,
    /// The fewest bytes of a value in a dictionary, where it has any.
    value_bytes: i64,
    /// Bytes that a page may become.
    largest: usize,
}

impl PageLimits {
    pub(super) fn of(chunk: &ColumnChunkMetaData, largest: usize) -> Self {
        let value_bytes = match chunk.column_type() {
            Type::BOOLEAN => 0,
            Type::INT32 | Type::FLOAT => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            // Its length.
            Type::BYTE_ARRAY => 4,
            Type::FIXED_LEN_BYTE_ARRAY => i64::from(chunk.column_descr().type_length()),
        };
        Self { codec: chunk.compression(), value_bytes, largest }
    }
}

/// What a codec's output can be, in multiples of its input; `None` where the library writes as it goes.
fn most(codec: Compression) -> Option<i64> {
    match codec {
        // 64 bytes for three.
        Compression::SNAPPY => Some(22),
        // 255 bytes for one.
        Compression::LZ4 | Compression::LZ4_RAW => Some(256),
        _ => None,
    }
}

/// Checks the headers of all pages of a chunk.
///
/// # Errors
/// What is wrong with one.
pub(super) fn check(chunk: &[u8], limits: PageLimits) -> Result<(), String> {
    let mut rest = chunk;
    while !rest.is_empty() {
        let header = PageHeader::first(rest, limits)?;
        let after = usize::try_from(header.compressed).ok().and_then(|size| size.checked_add(header.length));
        let Some(after) = after.and_then(|after| rest.get(after..)) else { return Ok(()) };
        rest = after;
    }
    Ok(())
}

impl PageHeader {
    /// The checked header that begins with the first of these bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn first(bytes: &[u8], limits: PageLimits) -> Result<Self, String> {
        let header = Self::read(bytes).ok_or("the header of a page is damaged")?;
        header.check(limits)?;
        Ok(header)
    }

    /// The header that begins with the first of these bytes; `None` where they are no header.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut walk = Walk::new(bytes);
        let mut header = Self {
            kind: PageKind::Other,
            uncompressed: 0,
            compressed: 0,
            values: 0,
            encoding: 0,
            levels: 0,
            is_compressed: true,
            length: 0,
        };
        let mut last = 0;
        while let Some((id, kind)) = walk.field(last).ok()? {
            last = id;
            match id {
                1 => {
                    header.kind = match walk.zigzag().ok()? {
                        0 => PageKind::Data,
                        2 => PageKind::Dictionary,
                        3 => PageKind::DataV2,
                        _ => PageKind::Other,
                    }
                }
                2 => header.uncompressed = size(&mut walk)?,
                3 => header.compressed = size(&mut walk)?,
                5 | 7 | 8 => header.of_kind(id, &mut walk)?,
                _ => walk.skip_field(kind).ok()?,
            }
        }
        header.length = bytes.len() - walk.rest().len();
        Some(header)
    }

    /// The structure that says more of a data page (5, of version 2 8) or a dictionary page (7).
    fn of_kind(&mut self, of: i16, walk: &mut Walk<'_>) -> Option<()> {
        let mut last = 0;
        while let Some((id, kind)) = walk.field(last).ok()? {
            last = id;
            match (of, id) {
                (5 | 7 | 8, 1) => self.values = size(walk)?,
                (5 | 7, 2) | (8, 4) => self.encoding = walk.zigzag().ok()?,
                (8, 5 | 6) => self.levels += size(walk)?,
                // The value is the type.
                (8, 7) => self.is_compressed = kind == 1,
                _ => walk.skip_field(kind).ok()?,
            }
        }
        Some(())
    }

    /// Whether the page can become as large as it claims, and may; and, if it is a dictionary, have as many values,
    /// for all of which the library makes room before it reads them.
    ///
    /// # Errors
    /// That it cannot, or may not.
    pub(super) fn check(&self, limits: PageLimits) -> Result<(), String> {
        let PageLimits { codec, value_bytes, largest } = limits;
        let Self { uncompressed, compressed, values, .. } = self;
        if usize::try_from(*uncompressed).is_ok_and(|bytes| bytes > largest) {
            return Err(format!(
                "a page becomes {uncompressed} bytes, at most {largest} are read (limit max_block_bytes)"
            ));
        }
        let is_full = |bytes: i64| bytes > *uncompressed;
        if self.kind == PageKind::Dictionary && values.checked_mul(value_bytes).is_none_or(is_full) {
            return Err(format!("a dictionary of {uncompressed} bytes claims to have {values} values"));
        }
        match most(codec) {
            Some(most) if *uncompressed > SMALL && uncompressed / most > *compressed => {
                Err(format!("a page of {compressed} bytes claims to become {uncompressed}"))
            }
            _ => Ok(()),
        }
    }
}

/// A size or a number of values, of 31 bits. The library would take the lower 32 bits of a larger one.
fn size(walk: &mut Walk<'_>) -> Option<i64> {
    let size = walk.zigzag().ok()?;
    (0..=i64::from(i32::MAX)).contains(&size).then_some(size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(codec: Compression, largest: usize) -> PageLimits {
        PageLimits { codec, value_bytes: 4, largest }
    }

    /// A page of 4 bytes: type 0, so many bytes uncompressed, 4 compressed, a header of a data page.
    fn page(uncompressed: u32) -> Vec<u8> {
        let mut bytes = vec![0x15, 0, 0x15];
        let mut size = u64::from(uncompressed) << 1;
        while size >= 0x80 {
            bytes.push(size as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes.extend([0x15, 8, 0x2c, 0x15, 2, 0x15, 0, 0x11, 0, 0, 1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn a_page_claims_no_more_than_its_codec_can_give() {
        let lie = Err("a page of 4 bytes claims to become 2000000000".to_owned());
        let pages = [page(100), page(2_000_000_000)].concat();
        for codec in [Compression::SNAPPY, Compression::LZ4_RAW] {
            assert_eq!(check(&pages, limits(codec, usize::MAX)), lie);
            assert_eq!(check(&page(1000).repeat(3), limits(codec, 1000)), Ok(()));
            // What is missing is for the library to tell.
            assert_eq!(check(&pages[..page(100).len() - 2], limits(codec, usize::MAX)), Ok(()));
            let error = check(&pages[..5], limits(codec, usize::MAX)).unwrap_err();
            assert_eq!(error, "the header of a page is damaged");
        }
        assert_eq!(check(&pages, limits(Compression::UNCOMPRESSED, usize::MAX)), Ok(()));
        let error = check(&page(1000), limits(Compression::UNCOMPRESSED, 999)).unwrap_err();
        assert!(error.contains("limit max_block_bytes"), "{error}");
    }

    #[test]
    fn a_dictionary_has_no_more_values_than_bytes_for_them() {
        // A dictionary of 40 bytes, PLAIN, of 10 values.
        let dictionary = |values: u8| [0x15, 4, 0x15, 80, 0x15, 80, 0x4c, 0x15, values << 1, 0x15, 0, 0, 0];
        for (value_bytes, most) in [(4, 10), (8, 5), (12, 3), (0, 60)] {
            let limits = PageLimits { value_bytes, ..limits(Compression::ZSTD(Default::default()), 1000) };
            assert_eq!(check(&dictionary(most), limits), Ok(()));
            if value_bytes > 0 {
                let error = check(&dictionary(most + 1), limits).unwrap_err();
                assert_eq!(error, format!("a dictionary of 40 bytes claims to have {} values", most + 1));
            }
        }
    }

    #[test]
    fn numbers_of_too_many_bytes_and_sizes_of_more_than_31_bits_are_damage() {
        let limits = limits(Compression::SNAPPY, 1000);
        let dictionary =
            |values: &[u8]| [&[0x15, 4, 0x15, 80, 0x15, 80, 0x4c, 0x15], values, &[0x15, 0, 0, 0]].concat();
        assert_eq!(check(&dictionary(&[0x80, 0]), limits), Ok(()));
        let too_long = [&[0xa9; 15][..], &[4]].concat();
        // -1, and 2^32 + 1, whose lower bits are a size.
        for values in [&too_long[..], &[1], &[0x82, 0x80, 0x80, 0x80, 0x20]] {
            assert_eq!(check(&dictionary(values), limits).unwrap_err(), "the header of a page is damaged");
        }
    }

    #[test]
    fn headers_say_what_a_page_is() {
        // 300 values, RLE_DICTIONARY (8), levels in RLE (3), and statistics with a NULL count.
        let data = [
            0x15, 0, 0x15, 20, 0x15, 16, 0x2c, 0x15, 0xd8, 4, 0x15, 16, 0x15, 6, 0x15, 6, 0x1c, 0x36, 2, 0,
            0, 0,
        ];
        let header = PageHeader::read(&[&data[..], b"body"].concat()).unwrap();
        assert_eq!((header.kind, header.uncompressed, header.compressed), (PageKind::Data, 10, 8));
        assert_eq!((header.values, header.encoding, header.length), (300, 8, data.len()));
        // Version 2: 5 values, 1 NULL, 4 rows, PLAIN, 3 bytes of levels and 2, not compressed.
        let data = [
            0x15, 6, 0x15, 40, 0x15, 40, 0x5c, 0x15, 10, 0x15, 2, 0x15, 8, 0x15, 0, 0x15, 6, 0x15, 4, 0x12,
            0, 0,
        ];
        let header = PageHeader::read(&data).unwrap();
        assert_eq!((header.kind, header.values, header.levels), (PageKind::DataV2, 5, 5));
        assert!(!header.is_compressed && header.length == data.len());
        for cut in 0..data.len() {
            assert_eq!(PageHeader::read(&data[..cut]), None);
        }
    }
}
