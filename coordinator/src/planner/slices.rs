//! How the files of a COPY become slices: a pure function.
//!
//! Owns: the packing rule. Comes in: the claimed files with their sizes, in order, and whether their
//! format lets them be split. Goes out: slices of file parts. It reads no file: a part is a byte range, and
//! the worker takes the records (or row groups) that begin in it.
//!
//! The problem: slices of similar input size, so that no worker is left with the long tail, but not so
//! many that their data files are small. The rule: aim at an equal share for every slot, within
//! [`MIN_SLICE_BYTES`] and the configured size (which wins); fill slices in file order; cut files above the split size.

use stevedore_common::ids::FileIndex;

/// Below this a slice is not worth its own data files.
pub const MIN_SLICE_BYTES: u64 = 32 << 20;

/// A file to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFile {
    /// Its place within the job.
    pub file: FileIndex,
    /// Bytes.
    pub size: u64,
    /// Whether byte ranges of it can be read apart: the format allows it, it is not compressed, and the
    /// store pins its version.
    pub splittable: bool,
}

/// A part of a file, `[start, end)`; both 0 for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePart {
    /// The file.
    pub file: FileIndex,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// Number of this part, from 0.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
}

/// A slice to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedSlice {
    /// What it reads.
    pub parts: Vec<FilePart>,
    /// Input bytes.
    pub bytes: u64,
}

/// The rule's numbers.
#[derive(Debug, Clone, Copy)]
pub struct PackRule {
    /// Slices that can run at a time, over all workers.
    pub slots: u32,
    /// Largest aim for a slice, bytes.
    pub slice_bytes: u64,
    /// Most files of a slice.
    pub slice_files: usize,
    /// Files above this size are split where they can be, bytes.
    pub split_above_bytes: u64,
}

/// Packs files into slices.
pub fn pack(files: &[PackFile], rule: PackRule) -> Vec<PackedSlice> {
    let total: u64 = files.iter().map(|file| file.size).sum();
    let share = total.div_ceil(u64::from(rule.slots.max(1)));
    // Who configures less than the minimum means it.
    let most = rule.slice_bytes.max(1);
    let aim = share.clamp(MIN_SLICE_BYTES.min(most), most);
    let mut slices = Vec::new();
    let mut open = PackedSlice::default();
    for file in files {
        let split = file.splittable && file.size > rule.split_above_bytes.max(aim);
        if split {
            let parts = file.size.div_ceil(aim);
            for part in 0..parts {
                // The product fits: a file is under 2^60 bytes and has few parts.
                let border = |n: u64| (u128::from(file.size) * u128::from(n) / u128::from(parts)) as u64;
                let (start, end) = (border(part), border(part + 1));
                slices.push(PackedSlice {
                    parts: vec![FilePart {
                        file: file.file,
                        start,
                        end,
                        part: part as u32,
                        parts: parts as u32,
                    }],
                    bytes: end - start,
                });
            }
            continue;
        }
        let full = !open.parts.is_empty()
            && (open.bytes + file.size > aim + aim / 8 || open.parts.len() >= rule.slice_files.max(1));
        if full {
            slices.push(std::mem::take(&mut open));
        }
        open.parts.push(FilePart { file: file.file, start: 0, end: 0, part: 0, parts: 1 });
        open.bytes += file.size;
    }
    if !open.parts.is_empty() {
        slices.push(open);
    }
    slices
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn rule(slots: u32) -> PackRule {
        PackRule { slots, slice_bytes: 128 * MIB, slice_files: 1000, split_above_bytes: 512 * MIB }
    }

    fn files(sizes: &[u64], splittable: bool) -> Vec<PackFile> {
        let file = |(i, size): (usize, &u64)| PackFile { file: FileIndex(i as u32), size: *size, splittable };
        sizes.iter().enumerate().map(file).collect()
    }

    #[test]
    fn every_slot_gets_an_equal_share() {
        let slices = pack(&files(&[27 * MIB; 8], false), rule(2));
        assert_eq!(slices.iter().map(|s| s.parts.len()).collect::<Vec<_>>(), [4, 4]);
    }

    #[test]
    fn small_files_are_packed_together() {
        let slices = pack(&files(&[50_000; 2_500], false), rule(4));
        assert!(slices.len() <= 4, "{}", slices.len());
        assert_eq!(slices.iter().map(|s| s.parts.len()).sum::<usize>(), 2_500);
    }

    #[test]
    fn a_large_file_is_split_only_where_it_can_be() {
        let sizes = [2048 * MIB];
        assert_eq!(pack(&files(&sizes, false), rule(4)).len(), 1);
        let slices = pack(&files(&sizes, true), rule(4));
        assert_eq!(slices.len(), 16);
        assert_eq!(
            slices[0].parts[0],
            FilePart { file: FileIndex(0), start: 0, end: 128 * MIB, part: 0, parts: 16 }
        );
        assert_eq!(slices[15].parts[0].end, 2048 * MIB);
    }

    proptest! {
        #[test]
        fn every_byte_of_every_file_is_in_exactly_one_slice(
            sizes in proptest::collection::vec(0u64..3_000_000_000, 0..60), slots in 1u32..20, splittable: bool
        ) {
            let files = files(&sizes, splittable);
            let slices = pack(&files, rule(slots));
            let mut parts: Vec<FilePart> = slices.iter().flat_map(|s| s.parts.iter().copied()).collect();
            parts.sort_by_key(|p| (p.file, p.part));
            for file in &files {
                let of: Vec<_> = parts.iter().filter(|p| p.file == file.file).collect();
                prop_assert_eq!(of.len() as u32, of[0].parts);
                if of.len() > 1 {
                    prop_assert_eq!(of[0].start, 0);
                    prop_assert!(of.windows(2).all(|w| w[0].end == w[1].start));
                    prop_assert_eq!(of[of.len() - 1].end, file.size);
                }
            }
        }
    }
}
