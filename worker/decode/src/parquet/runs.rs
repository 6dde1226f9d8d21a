//! Runs of small integers (levels, places in a dictionary) in Parquet's hybrid encoding.
//!
//! Comes in: bytes of a page. Goes out: each run, as one value that repeats or as packed values. Anything
//! odd is `None`: the caller then leaves the judgement to the library.

/// Values that follow each other.
pub(super) enum Run<'a> {
    /// The same value, so many times.
    Same(u32, usize),
    /// So many values, packed.
    Packed(Packed<'a>, usize),
}

/// Values of `width` bits each, the lowest bits first.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    bytes: &'a [u8],
    width: u32,
}

impl Packed<'_> {
    /// Gives the first `count` values.
    pub(super) fn each(self, count: usize, mut take: impl FnMut(u32) -> Option<()>) -> Option<()> {
        let width = self.width as usize;
        let mask = (1u64 << self.width) - 1;
        let mut bit = 0;
        for _ in 0..count {
            let start = bit / 8;
            let word = match self.bytes.get(start..).and_then(|rest| rest.first_chunk::<8>()) {
                Some(word) => u64::from_le_bytes(*word),
                None => {
                    let rest = self.bytes.get(start..)?;
                    let mut word = [0; 8];
                    word[..rest.len()].copy_from_slice(rest);
                    u64::from_le_bytes(word)
                }
            };
            // At most 7 bits of the word belong to the value before: 57 are enough for 32.
            take(((word >> (bit % 8)) & mask) as u32)?;
            bit += width;
        }
        Some(())
    }
}

/// How many of the first `count` bits are 1, the lowest bit of a byte first.
pub(super) fn ones_of(bits: &[u8], count: usize) -> Option<usize> {
    let (words, rest) = bits.get(..count / 8)?.as_chunks::<8>();
    let mut ones: usize = words.iter().map(|word| u64::from_le_bytes(*word).count_ones() as usize).sum();
    ones += rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    if !count.is_multiple_of(8) {
        ones += (bits.get(count / 8)? & ((1 << (count % 8)) - 1)).count_ones() as usize;
    }
    Some(ones)
}

/// Gives the runs of `count` values of `width` bits. What follows them is left alone.
pub(super) fn each_run<'a>(
    mut bytes: &'a [u8],
    width: u32,
    count: usize,
    mut take: impl FnMut(Run<'a>) -> Option<()>,
) -> Option<()> {
    if width > 32 {
        return None;
    }
    let mut left = count;
    while left > 0 {
        let header = varint(&mut bytes)?;
        let length = (header >> 1) as usize;
        if header & 1 == 0 {
            let size = width.div_ceil(8) as usize;
            let (value, rest) = bytes.split_at_checked(size)?;
            let mut whole = [0; 4];
            whole[..size].copy_from_slice(value);
            bytes = rest;
            let length = length.min(left);
            take(Run::Same(u32::from_le_bytes(whole), length))?;
            left -= length;
        } else {
            let (packed, rest) = bytes.split_at_checked(length.checked_mul(width as usize)?)?;
            bytes = rest;
            let length = length.saturating_mul(8).min(left);
            take(Run::Packed(Packed { bytes: packed, width }, length))?;
            left -= length;
        }
    }
    Some(())
}

/// How many of `count` levels are the greatest, `max`: values that are there.
pub(super) fn count_greatest(bytes: &[u8], max: u32, count: usize) -> Option<usize> {
    let width = u32::BITS - max.leading_zeros();
    let mut greatest = 0;
    each_run(bytes, width, count, |run| {
        match run {
            Run::Same(level, length) if level == max => greatest += length,
            Run::Same(level, _) if level > max => return None,
            Run::Same(..) => {}
            Run::Packed(packed, length) if max == 1 => greatest += ones_of(packed.bytes, length)?,
            Run::Packed(packed, length) => packed.each(length, |level| {
                greatest += usize::from(level == max);
                (level <= max).then_some(())
            })?,
        }
        Some(())
    })?;
    Some(greatest)
}

/// How many of `count` values of `width` bits are 0.
pub(super) fn count_zeros(bytes: &[u8], width: u32, count: usize) -> Option<usize> {
    let mut zeros = 0;
    each_run(bytes, width, count, |run| {
        match run {
            Run::Same(0, length) => zeros += length,
            Run::Same(..) => {}
            Run::Packed(packed, length) => packed.each(length, |value| {
                zeros += usize::from(value == 0);
                Some(())
            })?,
        }
        Some(())
    })?;
    Some(zeros)
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u32::from(byte & 0x7F);
        value |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn values(bytes: &[u8], width: u32, count: usize) -> Option<Vec<u32>> {
        let mut values = Vec::new();
        each_run(bytes, width, count, |run| {
            match run {
                Run::Same(value, length) => values.extend(std::iter::repeat_n(value, length)),
                Run::Packed(packed, length) => packed.each(length, |value| {
                    values.push(value);
                    Some(())
                })?,
            }
            Some(())
        })?;
        Some(values)
    }

    #[test]
    fn runs_repeat_or_are_packed() {
        // 0 to 7 in three bits, as in the format's own example; then 5 four times.
        let bytes = [0x03, 0b1000_1000, 0b1100_0110, 0b1111_1010, 0x08, 5];
        assert_eq!(values(&bytes, 3, 12).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5]);
        assert_eq!(values(&bytes, 3, 5).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(values(&bytes, 3, 13), None);
        assert_eq!(values(&bytes[..3], 3, 3), None);
        // A width of no bits: all of them are 0.
        assert_eq!(values(&[0x03], 0, 8).unwrap(), [0; 8]);
        assert_eq!(values(&[0x02, 1, 2, 3, 4], 32, 1).unwrap(), [0x0403_0201]);
        assert_eq!(values(&[0x80, 0x80, 0x80, 0x80, 0x7F, 1], 8, 1), None);
        assert_eq!(values(&[], 33, 0), None);
    }

    #[test]
    fn zeros_are_counted() {
        // 0 to 7, then 5 four times, then 0 three times.
        let bytes = [0x03, 0b1000_1000, 0b1100_0110, 0b1111_1010, 0x08, 5, 0x06, 0];
        assert_eq!(count_zeros(&bytes, 3, 15).unwrap(), 4);
        assert_eq!(count_zeros(&bytes, 3, 12).unwrap(), 1);
        assert_eq!(count_zeros(&bytes, 3, 16), None);
    }

    #[test]
    fn wide_values_cross_words() {
        for width in 1..=32u32 {
            let expected: Vec<u32> =
                (0..64u64).map(|n| ((n * 0x9E37_79B9) & ((1 << width) - 1)) as u32).collect();
            let mut bits = vec![0u8; 8 * width as usize];
            for (n, value) in expected.iter().enumerate() {
                for bit in 0..width as usize {
                    let at = n * width as usize + bit;
                    bits[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
                }
            }
            let mut bytes = vec![8 << 1 | 1];
            bytes.extend(bits);
            assert_eq!(values(&bytes, width, 64).unwrap(), expected, "{width}");
        }
    }

    #[test]
    fn the_greatest_levels_are_counted() {
        let bytes = [0x05, 0b0101_0101, 0b1000_0001, 0x06, 1];
        assert_eq!(count_greatest(&bytes, 1, 19).unwrap(), 4 + 2 + 3);
        assert_eq!(count_greatest(&bytes, 1, 9).unwrap(), 5);
        assert_eq!(count_greatest(&[0x06, 2], 2, 3).unwrap(), 3);
        assert_eq!(count_greatest(&[0x06, 3], 2, 3), None);
        assert_eq!(count_greatest(&[0x03, 0b1101_1000, 0], 2, 4), None);
    }
}
