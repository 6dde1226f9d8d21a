//! How many items the lists and maps of a stripe claim to have.
//!
//! The library takes memory for the items of a batch before it looks for them, as many as the lengths say;
//! where damaged lengths say more than there is memory, the process would end. So lengths are added up
//! before. Whatever cannot be read here is left to the library to judge.

/// Adds up the values of a stream of lengths; `None` where it exceeds `most`.
pub(super) fn sum_within(stream: &[u8], version_2: bool, most: u128) -> Option<u128> {
    let mut bytes = Bytes(stream);
    let mut sum = 0u128;
    while !bytes.0.is_empty() {
        let run = if version_2 { run_v2(&mut bytes) } else { run_v1(&mut bytes) };
        let Some(run) = run else { break };
        sum = sum.saturating_add(run);
        if sum > most {
            return None;
        }
    }
    Some(sum)
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A number of so many bytes, the first the highest.
    fn big_endian(&mut self, bytes: u32) -> Option<u64> {
        (0..bytes).try_fold(0u64, |value, _| Some(value << 8 | u64::from(self.byte()?)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for place in 0..10 {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Numbers of so many bits, packed; the last byte is filled up.
    fn packed(&mut self, width: u32, count: usize, each: &mut dyn FnMut(u64)) -> Option<()> {
        let (mut held, mut bits) = (0u128, 0);
        for _ in 0..count {
            while bits < width {
                held = held << 8 | u128::from(self.byte()?);
                bits += 8;
            }
            bits -= width;
            each((held >> bits) as u64);
            held &= (1 << bits) - 1;
        }
        Some(())
    }
}

/// Runs of up to 130 values in steps, or up to 128 values as they are.
fn run_v1(bytes: &mut Bytes<'_>) -> Option<u128> {
    let control = bytes.byte()? as i8;
    if control < 0 {
        return (0..control.unsigned_abs()).try_fold(0u128, |sum, _| Some(sum + u128::from(bytes.varint()?)));
    }
    let count = i128::from(control) + 3;
    let step = i128::from(bytes.byte()? as i8);
    let base = i128::from(bytes.varint()?);
    u128::try_from(base * count + step * (count * (count - 1) / 2)).ok()
}

fn run_v2(bytes: &mut Bytes<'_>) -> Option<u128> {
    let first = bytes.byte()?;
    let kind = first >> 6;
    if kind == 0 {
        let value = bytes.big_endian(u32::from(first >> 3 & 7) + 1)?;
        return Some(u128::from(value) * (u128::from(first & 7) + 3));
    }
    let code = first >> 1 & 31;
    let count = (usize::from(first & 1) << 8 | usize::from(bytes.byte()?)) + 1;
    let mut sum = 0u128;
    match kind {
        1 => bytes.packed(width_of(code), count, &mut |value| sum += u128::from(value))?,
        2 => {
            let (third, fourth) = (bytes.byte()?, bytes.byte()?);
            let base = bytes.big_endian(u32::from(third >> 5) + 1)?;
            let width = width_of(code);
            bytes.packed(width, count, &mut |value| sum += u128::from(value))?;
            let patch = width_of(third & 31);
            let entry = closest_width(patch + u32::from(fourth >> 5) + 1);
            let mask = if patch == 64 { u64::MAX } else { (1 << patch) - 1 };
            bytes.packed(entry, usize::from(fourth & 31), &mut |value| {
                sum = sum.saturating_add(u128::from(value & mask) << width);
            })?;
            sum = sum.saturating_add(u128::from(base) * count as u128);
        }
        _ => {
            let mut value = i128::from(bytes.varint()?);
            let raw = bytes.varint()?;
            let delta = i128::from((raw >> 1) as i64 ^ -((raw & 1) as i64));
            let mut total = value;
            if code == 0 {
                let count = count as i128;
                total = value * count + delta * (count * (count - 1) / 2);
            } else {
                if count > 1 {
                    value += delta;
                    total += value;
                }
                bytes.packed(width_of(code), count.saturating_sub(2), &mut |step| {
                    value += if delta < 0 { -i128::from(step) } else { i128::from(step) };
                    total += value;
                })?;
            }
            sum = u128::try_from(total).ok()?;
        }
    }
    Some(sum)
}

/// The bits that a code of five bits stands for.
fn width_of(code: u8) -> u32 {
    match u32::from(code) {
        code @ 0..=23 => code + 1,
        code @ 24..=27 => 26 + 2 * (code - 24),
        code => 40 + 8 * (code - 28),
    }
}

/// The width that values of so many bits are packed in.
fn closest_width(bits: u32) -> u32 {
    match bits {
        ..=24 => bits.max(1),
        25..=32 => bits.div_ceil(2) * 2,
        33..=56 => bits.div_ceil(8) * 8,
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// The examples of the specification.
    #[test]
    fn every_kind_of_run_is_added_up() {
        let sum = |bytes: &[u8], version_2| sum_within(bytes, version_2, u128::MAX).unwrap();
        // Version 1: 100 times 7; 100 down to 1; five literals.
        assert_eq!(sum(&[0x61, 0x00, 0x07], false), 700);
        assert_eq!(sum(&[0x61, 0xff, 0x64], false), 5050);
        assert_eq!(sum(&[0xfb, 0x02, 0x03, 0x06, 0x07, 0x0b], false), 29);
        // Version 2: short repeat, direct, delta, patched base.
        assert_eq!(sum(&[0x0a, 0x27, 0x10], true), 50_000);
        let direct = [0x5e, 0x03, 0x5c, 0xa1, 0xab, 0x1e, 0xde, 0xad, 0xbe, 0xef];
        assert_eq!(sum(&direct, true), 23713 + 43806 + 57005 + 48879);
        let primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29u128];
        assert_eq!(sum(&[0xc6, 0x09, 0x02, 0x02, 0x22, 0x42, 0x42, 0x46], true), primes.iter().sum());
        let patched = [
            0x8e, 0x13, 0x2b, 0x21, 0x07, 0xd0, 0x1e, 0x00, 0x14, 0x70, 0x28, 0x32, 0x3c, 0x46, 0x50, 0x5a,
            0x64, 0x6e, 0x78, 0x82, 0x8c, 0x96, 0xa0, 0xaa, 0xb4, 0xbe, 0xfc, 0xe8,
        ];
        let values = (0..20u128).map(|n| match n {
            0 => 2030,
            1 => 2000,
            2 => 2020,
            3 => 1_000_000,
            n => 2000 + 10 * n,
        });
        assert_eq!(sum(&patched, true), values.sum());
        assert_eq!(sum(&[[0x0a, 0x27, 0x10], [0x0a, 0x27, 0x10]].concat(), true), 100_000);
        // What is too much, also where it would not fit into 64 bits; what is cut off.
        assert_eq!(sum_within(&[0x0a, 0x27, 0x10], true, 49_999), None);
        assert_eq!(sum_within(&[0x3f, 255, 255, 255, 255, 255, 255, 255, 255], true, 1 << 64), None);
        assert_eq!(sum_within(&patched[..20], true, 10), Some(0));
    }
}
