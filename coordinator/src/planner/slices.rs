//! How the files of a COPY become slices: a pure function.
//!
//! Owns: the packing rule. Comes in: the claimed files with their sizes, in order, and whether their
//! format lets them be split. Goes out: slices of file parts. It reads no file: a part is a byte range, and
//! the worker takes the records (or row groups) that begin in it.
//!
//! The problem: slices of similar input size, so that no worker is left with the long tail, but not so
//! many that their data files are small. The rule: aim at an equal share for every slot, within
//! [`MIN_SLICE_BYTES`] and the configured size (which wins); fill slices in file order; cut files above the split size.
//!
//! Files that are not cut make lanes where that is allowed: slices so large that their data files are of a good size.
//! One that several workers could work at is read by all of them (see `worker/src/slice/lane.rs`), so it needs no
//! slice for each. A single worker reads the files of a slice on all its cores; but slices on all its slots overlap
//! the end of one with the middle of another, so it gets no fewer than those.

use stevedore_common::ids::FileIndex;

/// Below this a slice is not worth its own data files.
pub const MIN_SLICE_BYTES: u64 = 32 << 20;

/// Most files of a lane: what their names take in one message to a worker.
const MOST_LANE_FILES: usize = 16 << 10;

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
    /// Workers.
    pub workers: u32,
    /// Input bytes that whole files are gathered to; `None`: they make slices as parts of files do.
    pub lane_bytes: Option<u64>,
}

impl PackRule {
    /// The bytes of slices of whole files and the most files of one, where files make slices of `aim` bytes else.
    fn lanes(&self, whole: u64, aim: u64) -> (u64, usize) {
        let Some(lane) = self.lane_bytes.map(|bytes| bytes.max(1)) else { return (aim, self.slice_files) };
        let mut lanes = whole.div_ceil(lane);
        if self.workers <= 1 {
            lanes = lanes.max(whole.div_ceil(aim).min(u64::from(self.slots)));
        }
        (whole.div_ceil(lanes.max(1)).max(1), MOST_LANE_FILES)
    }
}

/// Packs files into slices.
pub fn pack(files: &[PackFile], rule: PackRule) -> Vec<PackedSlice> {
    let total: u64 = files.iter().map(|file| file.size).sum();
    let share = total.div_ceil(u64::from(rule.slots.max(1)));
    // Who configures less than the minimum means it.
    let most = rule.slice_bytes.max(1);
    let aim = share.clamp(MIN_SLICE_BYTES.min(most), most);
    let is_split = |file: &&PackFile| file.splittable && file.size > rule.split_above_bytes.max(aim);
    let whole = files.iter().filter(|file| !is_split(file)).map(|file| file.size).sum();
    let (lane_aim, most_files) = rule.lanes(whole, aim);
    let mut slices = Vec::new();
    let mut open = PackedSlice::default();
    let mut runs = 0;
    for file in files {
        if is_split(&file) {
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
        let follows = open.parts.last().is_some_and(|last| last.file.0.checked_add(1) == Some(file.file.0));
        let full = !open.parts.is_empty()
            && (open.bytes + file.size > lane_aim + lane_aim / 8
                || open.parts.len() >= most_files.max(1)
                // A run of files is told by its first and their number; the list of them must stay small.
                || (!follows && runs >= rule.slice_files.max(1)));
        if full {
            slices.push(std::mem::take(&mut open));
            runs = 0;
        }
        runs += usize::from(!follows || open.parts.is_empty());
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
        PackRule {
            slots,
            slice_bytes: 128 * MIB,
            slice_files: 1000,
            split_above_bytes: 512 * MIB,
            workers: 2,
            lane_bytes: None,
        }
    }

    fn files(sizes: &[u64], splittable: bool) -> Vec<PackFile> {
        let file = |(i, size): (usize, &u64)| PackFile { file: FileIndex(i as u32), size: *size, splittable };
        sizes.iter().enumerate().map(file).collect()
    }

    #[test]
    fn small_files_make_lanes_of_a_good_size() {
        let small = files(&[50_000; 10_000], false);
        let lanes = |workers, slots| PackRule { workers, lane_bytes: Some(512 * MIB), ..rule(slots) };
        // One for two workers, who share it; for one worker as many as it runs at a time.
        assert_eq!(pack(&small, lanes(2, 4)).len(), 1);
        assert_eq!(pack(&small, lanes(1, 2)).len(), 2);
        // No more of them for one worker than slices of the least size.
        assert_eq!(pack(&files(&[50_000; 1_000], false), lanes(1, 16)).len(), 2);
        let large = files(&[50 * MIB; 100], false);
        assert_eq!(pack(&large, lanes(2, 4)).len(), 10);
        // Parts of files are slices as ever.
        let parts = pack(&files(&[4096 * MIB], true), lanes(2, 4));
        assert_eq!(parts.len(), 32);
    }

    #[test]
    fn a_list_of_files_that_do_not_follow_each_other_stays_short() {
        let mut small = files(&[1; 5_000], false);
        small.iter_mut().for_each(|file| file.file.0 *= 2);
        let slices = pack(&small, PackRule { lane_bytes: Some(512 * MIB), ..rule(4) });
        assert!(slices.iter().all(|slice| slice.parts.len() <= 1_000));
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
