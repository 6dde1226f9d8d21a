//! Finding bytes 64 at a time: the masks that the tokenisers are built on.
//!
//! Comes in: 64 bytes. Goes out: a `u64` whose bit i says something about byte i. The compares are
//! the SIMD of the target's baseline (SSE2, NEON), so nothing is detected at run time. It must never read beyond the bytes it is given. It cannot fail.

use wide::u8x16;

/// 64 bytes loaded for comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk([u8x16; 4]);

impl Chunk {
    /// Loads 64 bytes.
    #[inline(always)]
    pub(crate) fn load(bytes: &[u8; 64]) -> Self {
        let (lanes, _) = bytes.as_chunks::<16>();
        Self([u8x16::new(lanes[0]), u8x16::new(lanes[1]), u8x16::new(lanes[2]), u8x16::new(lanes[3])])
    }

    /// The bytes with some bits set.
    #[inline(always)]
    pub(crate) fn with_bit(&self, bit: u8) -> Self {
        let bit = u8x16::splat(bit);
        Self(self.0.map(|lane| lane | bit))
    }

    /// The bytes that equal `byte`.
    #[inline(always)]
    pub(crate) fn eq(&self, byte: u8) -> u64 {
        let wanted = u8x16::splat(byte);
        let mask = |i: usize| u64::from(self.0[i].simd_eq(wanted).to_bitmask());
        mask(0) | mask(1) << 16 | mask(2) << 32 | mask(3) << 48
    }
}

/// The 64 bytes of `bytes` from `at`, filled up with zeros at the end, and the mask of those that exist.
#[inline(always)]
pub(crate) fn chunk_at(bytes: &[u8], at: usize) -> (Chunk, u64) {
    match bytes[at..].first_chunk::<64>() {
        Some(chunk) => (Chunk::load(chunk), u64::MAX),
        None => last_chunk(&bytes[at..]),
    }
}

#[cold]
fn last_chunk(rest: &[u8]) -> (Chunk, u64) {
    let mut padded = [0; 64];
    padded[..rest.len()].copy_from_slice(rest);
    (Chunk::load(&padded), (1 << rest.len()) - 1)
}

/// Bit i is the parity of bits 0…i: between an opening quote (set) and its closing one (clear).
#[inline(always)]
pub(crate) fn prefix_xor(mut mask: u64) -> u64 {
    mask ^= mask << 1;
    mask ^= mask << 2;
    mask ^= mask << 4;
    mask ^= mask << 8;
    mask ^= mask << 16;
    mask ^ mask << 32
}

/// The bytes that a backslash before them escapes: those after an odd run of backslashes.
/// `carry` says whether byte 0 is escaped by the chunk before, and is set for the next one.
#[inline(always)]
pub(crate) fn escaped(backslashes: u64, carry: &mut bool) -> u64 {
    if backslashes == 0 {
        let first = u64::from(*carry);
        *carry = false;
        return first;
    }
    let mut escaped = 0;
    let mut rest = backslashes;
    if *carry {
        escaped = 1;
        rest &= !1;
    }
    *carry = false;
    // Backslashes are rare enough to walk; a backslash that is escaped itself escapes nothing.
    while rest != 0 {
        let at = rest.trailing_zeros();
        rest &= rest - 1;
        if at == 63 {
            *carry = true;
        } else {
            escaped |= 1 << (at + 1);
            rest &= !(1 << (at + 1));
        }
    }
    escaped
}

/// The first byte from `at` that ends a plain run inside a JSON string: a quote, a backslash or a control
/// character; the length where there is none.
#[inline(always)]
pub(crate) fn json_string_stop(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let lane = u8x16::new(*block);
        let special = lane.simd_eq(u8x16::splat(b'"')) | lane.simd_eq(u8x16::splat(b'\\'));
        let control = lane.min(u8x16::splat(0x1f)).simd_eq(lane);
        let stop = (special | control).to_bitmask();
        if stop != 0 {
            return at + stop.trailing_zeros() as usize;
        }
        at += 16;
    }
    while at < bytes.len() && !(bytes[at] == b'"' || bytes[at] == b'\\' || bytes[at] < 0x20) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_say_where_a_byte_stands() {
        let mut bytes = [0u8; 64];
        for i in [0, 1, 7, 8, 15, 16, 31, 33, 63] {
            bytes[i] = b',';
        }
        bytes[2] = b',' ^ 0x80;
        let expected = bytes.iter().enumerate().fold(0, |m, (i, b)| m | u64::from(*b == b',') << i);
        assert_eq!(Chunk::load(&bytes).eq(b','), expected);
        let (chunk, valid) = chunk_at(b"a,b", 1);
        assert_eq!((chunk.eq(b',') & valid, valid), (1, 0b11));
        assert_eq!(chunk.eq(0) & valid, 0);
    }

    #[test]
    fn quotes_toggle_and_backslashes_pair_up() {
        for mask in [0, 0b1001_0010, u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef] {
            assert_eq!(prefix_xor(mask), reference_xor(mask));
        }
        let mut carry = false;
        // \\n \n: bytes 0,1 are a pair, byte 3 escapes byte 4.
        assert_eq!(escaped(0b1011, &mut carry), 0b10010);
        assert!(!carry);
        assert_eq!(escaped(1 << 63, &mut carry), 0);
        assert!(carry);
        // The pair of the backslash before is byte 0, so only byte 1 escapes.
        assert_eq!(escaped(0b11, &mut carry), 0b101);
    }

    fn reference_xor(mask: u64) -> u64 {
        let mut inside = false;
        (0..64).fold(0, |out, i| {
            inside ^= mask >> i & 1 == 1;
            out | u64::from(inside) << i
        })
    }

    #[test]
    fn a_string_run_stops_at_quotes_escapes_and_controls() {
        for stop in [b'"', b'\\', b'\n', 0, 0x1f] {
            for at in [0, 3, 15, 16, 40] {
                let mut text = vec![b'x'; 45];
                text[at] = stop;
                assert_eq!(json_string_stop(&text, 0), at);
            }
        }
        assert_eq!(json_string_stop("größer als €".as_bytes(), 0), "größer als €".len());
    }
}
