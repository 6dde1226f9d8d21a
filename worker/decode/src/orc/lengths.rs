//! How long the lists, maps and texts of a stripe claim to be.
//!
//! The library takes memory for the items of a batch before it looks for them, as many as the lengths say;
//! where damaged lengths say more than there is memory, the process would end. So lengths are added up
//! before, and how many rows a batch may have is told from them. Whatever cannot be read here is left to the library
//! to judge.

/// Adds up the values of a stream of lengths; `None` where it exceeds `most`.
pub(super) fn sum_within(stream: &[u8], version_2: bool, most: u128) -> Option<u128> {
    let mut sum = 0u128;
    for run in Runs::new(stream, version_2) {
        sum = sum.saturating_add(run.sum);
        if sum > most {
            return None;
        }
    }
    Some(sum)
}

/// What lengths that follow each other add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) sum: u128,
    pub(super) largest: u128,
    /// For each of the numbers of values that were asked for, what so many of them take at the most, about.
    pub(super) of_values: Vec<u128>,
}

impl Lengths {
    /// Looks at the lengths in parts of so many values each.
    pub(super) fn read(stream: &[u8], version_2: bool, counts: &[usize]) -> Self {
        let mut all = Self { sum: 0, largest: 0, of_values: vec![0; counts.len()] };
        // The part that each run begins in, and what that takes so far.
        let mut parts: Vec<(u64, u128)> = vec![(0, 0); counts.len()];
        let mut first = 0u64;
        for run in Runs::new(stream, version_2) {
            all.sum = all.sum.saturating_add(run.sum);
            all.largest = all.largest.max(run.largest);
            for ((count, part), most) in counts.iter().zip(&mut parts).zip(&mut all.of_values) {
                let count = (*count).max(1) as u64;
                if part.0 != first / count {
                    *part = (first / count, 0);
                }
                part.1 = part.1.saturating_add(run.sum.min(run.largest.saturating_mul(u128::from(count))));
                // Values anywhere stand in two of the parts, and in a run that began before them.
                *most = (*most).max(part.1.saturating_mul(3));
            }
            first = first.saturating_add(run.count);
        }
        for most in &mut all.of_values {
            *most = (*most).min(all.sum);
        }
        all
    }
}

/// Lengths that are encoded together.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    count: u64,
    sum: u128,
    largest: u128,
}

impl Run {
    fn add(&mut self, value: u128) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.largest = self.largest.max(value);
    }
}

/// The runs of a stream, up to what is damaged.
struct Runs<'a> {
    bytes: Bytes<'a>,
    version_2: bool,
}

impl<'a> Runs<'a> {
    fn new(stream: &'a [u8], version_2: bool) -> Self {
        Self { bytes: Bytes(stream), version_2 }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.bytes.0.is_empty() {
            return None;
        }
        if self.version_2 { run_v2(&mut self.bytes) } else { run_v1(&mut self.bytes) }
    }
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
fn run_v1(bytes: &mut Bytes<'_>) -> Option<Run> {
    let control = bytes.byte()? as i8;
    if control < 0 {
        let mut run = Run::default();
        for _ in 0..control.unsigned_abs() {
            run.add(u128::from(bytes.varint()?));
        }
        return Some(run);
    }
    let count = i128::from(control) + 3;
    let step = i128::from(bytes.byte()? as i8);
    let base = i128::from(bytes.varint()?);
    in_steps(base, step, count)
}

/// Values of which each is so much more than the one before.
fn in_steps(first: i128, step: i128, count: i128) -> Option<Run> {
    let sum = first * count + step * (count * (count - 1) / 2);
    let largest = first.max(first + step * (count - 1));
    Some(Run {
        count: u64::try_from(count).ok()?,
        sum: u128::try_from(sum).ok()?,
        largest: u128::try_from(largest).ok()?,
    })
}

fn run_v2(bytes: &mut Bytes<'_>) -> Option<Run> {
    let first = bytes.byte()?;
    let kind = first >> 6;
    if kind == 0 {
        let value = i128::from(bytes.big_endian(u32::from(first >> 3 & 7) + 1)?);
        return in_steps(value, 0, i128::from(first & 7) + 3);
    }
    let code = first >> 1 & 31;
    let count = (usize::from(first & 1) << 8 | usize::from(bytes.byte()?)) + 1;
    let mut run = Run::default();
    match kind {
        1 => bytes.packed(width_of(code), count, &mut |value| run.add(u128::from(value)))?,
        2 => {
            let (third, fourth) = (bytes.byte()?, bytes.byte()?);
            let base = u128::from(bytes.big_endian(u32::from(third >> 5) + 1)?);
            let width = width_of(code);
            bytes.packed(width, count, &mut |value| run.add(u128::from(value) + base))?;
            let patch = width_of(third & 31);
            let entry = closest_width(patch + u32::from(fourth >> 5) + 1);
            let mask = if patch == 64 { u64::MAX } else { (1 << patch) - 1 };
            let (mut sum, mut largest) = (0u128, 0);
            bytes.packed(entry, usize::from(fourth & 31), &mut |value| {
                let more = u128::from(value & mask) << width;
                sum = sum.saturating_add(more);
                largest = more.max(largest);
            })?;
            // Which value is patched does not matter.
            run.sum = run.sum.saturating_add(sum);
            run.largest = run.largest.saturating_add(largest);
        }
        _ => {
            let mut value = i128::from(bytes.varint()?);
            let raw = bytes.varint()?;
            let delta = i128::from((raw >> 1) as i64 ^ -((raw & 1) as i64));
            if code == 0 {
                return in_steps(value, delta, count as i128);
            }
            let mut total = value;
            let mut largest = value;
            if count > 1 {
                value += delta;
                total += value;
                largest = largest.max(value);
            }
            bytes.packed(width_of(code), count.saturating_sub(2), &mut |step| {
                value += if delta < 0 { -i128::from(step) } else { i128::from(step) };
                total += value;
                largest = largest.max(value);
            })?;
            let (sum, largest) = (u128::try_from(total).ok()?, u128::try_from(largest).ok()?);
            run = Run { count: count as u64, sum, largest };
        }
    }
    Some(run)
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

    #[test]
    fn lengths_are_told_in_parts() {
        // 100 times 7, five literals of which one is large, 100 times 7.
        let stream = [&[0x61, 0x00, 0x07][..], &[0xfb, 2, 3, 0xe8, 0x07, 7, 1], &[0x61, 0x00, 0x07]].concat();
        let lengths = Lengths::read(&stream, false, &[1000, 10, 1]);
        assert_eq!((lengths.sum, lengths.largest), (2413, 1000));
        // No less than it is, and no more than four times that.
        for (told, is) in lengths.of_values.iter().zip([2413, 1013 + 35, 1000]) {
            assert!((is..=4 * is).contains(told), "{told} of {is}");
        }
        // 512 times 9,000 in a run of version 2.
        let equal = Lengths::read(&[0xc1, 0xff, 0xa8, 0x46, 0], true, &[8192, 100, 1]);
        assert_eq!((equal.sum, equal.largest), (512 * 9000, 9000));
        assert_eq!(equal.of_values, [512 * 9000, 3 * 900_000, 3 * 9000]);
    }

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
