//! Whether a page holds as many values as it claims, where the library takes memory for each of them before it
//! looks: texts and bytes in the delta encodings, whose lengths are a list of their own.
//!
//! Comes in: a decompressed page. Goes out: nothing, or what is wrong. Damage that costs no memory is left to the
//! library to judge.

use ::parquet::basic::Encoding;
use ::parquet::column::page::Page;
use ::parquet::schema::types::ColumnDescriptor;

use super::footer_shape::{Walk, Walked};

/// Pages may claim this many values, whatever they are: 4 MiB of lengths.
const FEW: u64 = 1 << 20;
/// More than that takes a byte for so many values: the common writers pack 26 to 52 equal lengths into a byte.
const VALUES_PER_BYTE: u64 = 64;

/// Checks a page of a column.
///
/// # Errors
/// That it claims more values than it has.
pub(super) fn check(page: &Page, column: &ColumnDescriptor) -> Result<(), String> {
    let lists = match page_encoding(page) {
        Some(Encoding::DELTA_LENGTH_BYTE_ARRAY) => 1,
        // Lengths of what is shared with the value before, then of what is not.
        Some(Encoding::DELTA_BYTE_ARRAY) => 2,
        _ => return Ok(()),
    };
    let Some(values) = values_of(page, column) else { return Ok(()) };
    let mut walk = Walk::new(values);
    let bytes = page.buffer().len() as u64;
    for list in 1..=lists {
        let Ok(header) = Lengths::read(&mut walk) else { return Ok(()) };
        let values = u64::from(page.num_values());
        if header.count > values || (header.count > FEW && header.count / VALUES_PER_BYTE > bytes) {
            let count = header.count;
            return Err(format!("a page of {bytes} bytes and {values} values claims the lengths of {count}"));
        }
        if list < lists && header.skip(&mut walk).is_none() {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) fn page_encoding(page: &Page) -> Option<Encoding> {
    match page {
        Page::DataPage { encoding, .. } | Page::DataPageV2 { encoding, .. } => Some(*encoding),
        Page::DictionaryPage { .. } => None,
    }
}

/// What follows the levels of a data page.
pub(super) fn values_of<'a>(page: &'a Page, column: &ColumnDescriptor) -> Option<&'a [u8]> {
    match page {
        Page::DataPage { buf, num_values, rep_level_encoding, def_level_encoding, .. } => {
            let mut rest: &[u8] = buf;
            let levels = [
                (column.max_rep_level(), *rep_level_encoding),
                (column.max_def_level(), *def_level_encoding),
            ];
            for (greatest, encoding) in levels {
                if greatest > 0 {
                    split_levels(&mut rest, greatest, encoding, *num_values)?;
                }
            }
            Some(rest)
        }
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            buf.get((*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)?..)
        }
        Page::DictionaryPage { .. } => None,
    }
}

/// Splits the levels off the beginning of a data page of version 1.
pub(super) fn split_levels<'a>(
    page: &mut &'a [u8],
    greatest: i16,
    encoding: Encoding,
    count: u32,
) -> Option<&'a [u8]> {
    #[expect(deprecated, reason = "old files have such levels")]
    let packed = Encoding::BIT_PACKED;
    let length = match encoding {
        Encoding::RLE => {
            let (length, rest) = page.split_first_chunk::<4>()?;
            *page = rest;
            u64::from(u32::from_le_bytes(*length))
        }
        encoding if encoding == packed => {
            (u64::from(i16::BITS - greatest.leading_zeros()) * u64::from(count)).div_ceil(8)
        }
        _ => return None,
    };
    let (levels, rest) = page.split_at_checked(usize::try_from(length).ok()?)?;
    *page = rest;
    Some(levels)
}

/// How long the longest of values is that are given as the one before and a little more; `None` where the lengths
/// cannot be read.
pub(super) fn delta_lengths(values: &[u8]) -> Option<u64> {
    let mut walk = Walk::new(values);
    let shared = Lengths::read(&mut walk).ok()?.longest(&mut walk)?;
    let own = Lengths::read(&mut walk).ok()?.longest(&mut walk)?;
    Some(shared.saturating_add(own))
}

/// The header of a list in the delta encoding.
struct Lengths {
    per_block: u64,
    mini_blocks: u64,
    count: u64,
    first: i64,
}

impl Lengths {
    fn read(walk: &mut Walk<'_>) -> Walked<Self> {
        let (per_block, mini_blocks, count) = (walk.varint()?, walk.varint()?, walk.varint()?);
        Ok(Self { per_block, mini_blocks, count, first: walk.zigzag()? })
    }

    /// Passes over the list, as the library does: blocks of mini-blocks, each as wide as its byte says.
    fn skip(&self, walk: &mut Walk<'_>) -> Option<()> {
        self.blocks(walk, &mut |_, _, _, _| {})
    }

    /// The longest length. Passes over the list.
    fn longest(&self, walk: &mut Walk<'_>) -> Option<u64> {
        let (mut length, mut longest) = (self.first, self.first);
        self.blocks(walk, &mut |least, width, bytes, count| {
            let (mut held, mut bits) = (0u128, 0);
            let mut bytes = bytes.iter();
            for _ in 0..count {
                while bits < width {
                    held |= u128::from(bytes.next().copied().unwrap_or_default()) << bits;
                    bits += 8;
                }
                let step = (held & ((1 << width) - 1)) as i64;
                (held, bits) = (held >> width, bits - width);
                length = length.wrapping_add(least).wrapping_add(step);
                longest = longest.max(length);
            }
        })?;
        u64::try_from(longest).ok()
    }

    /// Passes over the list; of each mini-block is told the least step, its width, its bytes, and how many steps it has.
    fn blocks(&self, walk: &mut Walk<'_>, each: &mut impl FnMut(i64, u32, &[u8], u64)) -> Option<()> {
        let per_mini_block = self.per_block.checked_div(self.mini_blocks).filter(|values| *values > 0)?;
        let mini_blocks = usize::try_from(self.mini_blocks).ok()?;
        // The first value stands in the header.
        let mut left = self.count.saturating_sub(1);
        while left > 0 {
            let least = walk.zigzag().ok()?;
            let widths = walk.rest().get(..mini_blocks)?;
            walk.skip(self.mini_blocks).ok()?;
            for width in widths {
                // Mini-blocks behind the last value are not there, whatever they say.
                if left == 0 {
                    break;
                }
                let size = u64::from(*width).checked_mul(per_mini_block)? / 8;
                // The last one may be cut off behind its last value.
                let bytes = walk.rest();
                let bytes = bytes.get(..usize::try_from(size).ok()?).unwrap_or(bytes);
                if *width <= 64 {
                    each(least, u32::from(*width), bytes, left.min(per_mini_block));
                }
                left = left.saturating_sub(per_mini_block);
                walk.skip(size).ok()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use ::parquet::basic::Type as PhysicalType;
    use ::parquet::schema::types::{ColumnPath, Type};

    use super::*;

    fn column(levels: i16) -> ColumnDescriptor {
        let ty = Type::primitive_type_builder("c", PhysicalType::BYTE_ARRAY).build().unwrap();
        ColumnDescriptor::new(Arc::new(ty), levels, 0, ColumnPath::new(vec!["c".into()]))
    }

    /// A list of so many lengths that are all 1: the header, and blocks of four mini-blocks without bits.
    fn ones(count: u32) -> Vec<u8> {
        let mut bytes = vec![0x80, 1, 4];
        let mut left = count;
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.extend([left as u8, 2]);
        bytes.extend([0, 0, 0, 0, 0].repeat(count.saturating_sub(1).div_ceil(128) as usize));
        bytes
    }

    fn page(values: &[u8], num_values: u32, encoding: Encoding) -> Page {
        Page::DataPage {
            buf: values.to_vec().into(),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn lengths_are_no_more_than_the_values_of_their_page() {
        let (delta, both) = (Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY);
        let lie =
            |count: u32| Err(format!("a page of 12 bytes and 300 values claims the lengths of {count}"));
        let claims = |count: u32| [&ones(count)[..], &[0; 12]].concat()[..12].to_vec();
        assert_eq!(check(&page(&ones(300), 300, delta), &column(0)), Ok(()));
        assert_eq!(check(&page(&claims(800_000_000), 300, delta), &column(0)), lie(800_000_000));
        assert_eq!(check(&page(&claims(301), 300, delta), &column(0)), lie(301));
        // The second list of two stands behind the first, whose last blocks may be anything.
        let two = [ones(300), ones(300), vec![0; 300]].concat();
        assert_eq!(check(&page(&two, 300, both), &column(0)), Ok(()));
        let two = [ones(300), ones(800_000_000)[..12].to_vec()].concat();
        let told = check(&page(&two, 300, both), &column(0)).unwrap_err();
        assert!(told.ends_with("300 values claims the lengths of 800000000"), "{told}");
        // Levels stand before them: here three bytes of a run.
        let levels = [&[3, 0, 0, 0, 0xD8, 4, 1][..], &claims(301)].concat();
        assert!(check(&page(&levels, 300, delta), &column(1)).is_err());
        // Other encodings, and what is cut off, are for the library.
        assert_eq!(check(&page(&claims(301), 300, Encoding::PLAIN), &column(0)), Ok(()));
        assert_eq!(check(&page(&claims(301)[..4], 300, delta), &column(0)), Ok(()));
    }

    #[test]
    fn many_lengths_take_bytes() {
        let delta = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        // As many as the page and its file claim, of which it has none.
        let claims = ones(800_000_000)[..100].to_vec();
        assert!(check(&page(&claims, 800_000_000, delta), &column(0)).is_err());
        let many = ones(3 << 20);
        assert_eq!(check(&page(&many, 3 << 20, delta), &column(0)), Ok(()));
    }

    #[test]
    fn version_2_keeps_its_levels_apart() {
        let values = [&[9, 9, 9][..], &ones(301)].concat();
        let page = |num_values| Page::DataPageV2 {
            buf: values.clone().into(),
            num_values,
            encoding: Encoding::DELTA_LENGTH_BYTE_ARRAY,
            num_nulls: 0,
            num_rows: num_values,
            def_levels_byte_len: 2,
            rep_levels_byte_len: 1,
            is_compressed: false,
            statistics: None,
        };
        assert!(check(&page(300), &column(1)).is_err());
        assert_eq!(check(&page(301), &column(1)), Ok(()));
    }
}
