//! How the files of a COPY become slices: pure, file by file.
//!
//! Owns: the packing rule. Comes in: the claimed files with their sizes, in order, whether their
//! format lets them be split, and what of them has slices already. Goes out: slices of file parts, as soon as they
//! are full. It reads no file: a part is a byte range, and the worker takes the records (or row groups) that begin
//! in it.
//!
//! The problem: slices of similar input size, so that no worker is left with the long tail, but not so
//! many that their data files are small. The rule: aim at an equal share for every slot, within
//! [`MIN_SLICE_BYTES`] and the configured size (which wins); fill slices in file order; cut files above the split size.
//!
//! Files that are not cut make lanes where that is allowed: slices so large that their data files are of a good size.
//! One that several workers could work at is read by all of them (see `worker/src/slice/lane.rs`), so it needs no
//! slice for each. A single worker reads the files of a slice on all its cores; but slices on all its slots overlap
//! the end of one with the middle of another, so it gets no fewer than those.

use std::convert::Infallible;

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
    /// What slices aim at where all files have so many bytes.
    fn aim(&self, bytes: u64) -> u64 {
        let share = bytes.div_ceil(u64::from(self.slots.max(1)));
        // Who configures less than the minimum means it.
        let most = self.slice_bytes.max(1);
        share.clamp(MIN_SLICE_BYTES.min(most), most)
    }

    /// Whether a file is cut into parts, where all files have so many bytes.
    pub fn is_cut(&self, bytes: u64, file: &PackFile) -> bool {
        file.splittable && file.size > self.split_above_bytes.max(self.aim(bytes))
    }

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

/// What of a file has slices already: its first parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedParts {
    /// So many.
    pub planned: u32,
    /// Of so many.
    pub parts: u32,
}

/// Packs files into slices, as they come.
#[derive(Debug)]
pub struct Packer {
    rule: PackRule,
    bytes: u64,
    aim: u64,
    lane_aim: u64,
    most_files: usize,
    open: PackedSlice,
    /// Runs of files that follow each other in it.
    runs: usize,
}

impl Packer {
    /// For files of so many bytes together, `whole` of them in files that are not cut.
    pub fn new(rule: PackRule, bytes: u64, whole: u64) -> Self {
        let aim = rule.aim(bytes);
        let (lane_aim, most_files) = rule.lanes(whole, aim);
        Self { rule, bytes, aim, lane_aim, most_files, open: PackedSlice::default(), runs: 0 }
    }

    /// Packs what of the next file has no slice yet, and gives on each slice that is full.
    ///
    /// # Errors
    /// Those of `add`.
    pub fn push<E>(
        &mut self,
        file: PackFile,
        planned: Option<PlannedParts>,
        add: &mut impl FnMut(PackedSlice) -> Result<(), E>,
    ) -> Result<(), E> {
        match planned {
            Some(PlannedParts { planned, parts }) => add_parts(file, planned, parts, add),
            None if self.rule.is_cut(self.bytes, &file) => {
                let parts = file.size.div_ceil(self.aim);
                add_parts(file, 0, u32::try_from(parts).unwrap_or(u32::MAX), add)
            }
            None => self.push_whole(file, add),
        }
    }

    fn push_whole<E>(
        &mut self,
        file: PackFile,
        add: &mut impl FnMut(PackedSlice) -> Result<(), E>,
    ) -> Result<(), E> {
        let last = self.open.parts.last();
        let follows = last.is_some_and(|last| last.file.0.checked_add(1) == Some(file.file.0));
        let full = !self.open.parts.is_empty()
            && (self.open.bytes + file.size > self.lane_aim + self.lane_aim / 8
                || self.open.parts.len() >= self.most_files.max(1)
                // A run of files is told by its first and their number; the list of them must stay small.
                || (!follows && self.runs >= self.rule.slice_files.max(1)));
        if full {
            self.runs = 0;
            add(std::mem::take(&mut self.open))?;
        }
        self.runs += usize::from(!follows || self.open.parts.is_empty());
        self.open.parts.push(FilePart { file: file.file, start: 0, end: 0, part: 0, parts: 1 });
        self.open.bytes += file.size;
        Ok(())
    }

    /// Gives on what is left.
    ///
    /// # Errors
    /// Those of `add`.
    pub fn finish<E>(self, add: &mut impl FnMut(PackedSlice) -> Result<(), E>) -> Result<(), E> {
        if self.open.parts.is_empty() { Ok(()) } else { add(self.open) }
    }
}

/// The parts of a file from `from` on, a slice each.
fn add_parts<E>(
    file: PackFile,
    from: u32,
    parts: u32,
    add: &mut impl FnMut(PackedSlice) -> Result<(), E>,
) -> Result<(), E> {
    for part in from..parts {
        // The quotient fits: it is at most the file's size.
        let border = |n: u64| (u128::from(file.size) * u128::from(n) / u128::from(parts)) as u64;
        let (start, end) = (border(u64::from(part)), border(u64::from(part) + 1));
        let bytes = end - start;
        add(PackedSlice { parts: vec![FilePart { file: file.file, start, end, part, parts }], bytes })?;
    }
    Ok(())
}

/// Packs files into slices.
pub fn pack(files: &[PackFile], rule: PackRule) -> Vec<PackedSlice> {
    let bytes = files.iter().map(|file| file.size).sum();
    let whole = files.iter().filter(|file| !rule.is_cut(bytes, file)).map(|file| file.size).sum();
    let mut packer = Packer::new(rule, bytes, whole);
    let mut slices = Vec::new();
    let mut add = |slice| {
        slices.push(slice);
        Ok::<(), Infallible>(())
    };
    for file in files {
        let Ok(()) = packer.push(*file, None, &mut add);
    }
    let Ok(()) = packer.finish(&mut add);
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

    #[test]
    fn what_is_planned_stays_and_the_rest_is_planned_for_the_workers_of_now() {
        let all = [files(&[2048 * MIB], true), files(&[1; 6], false)].concat();
        let all: Vec<PackFile> =
            (0..).zip(all).map(|(n, file)| PackFile { file: FileIndex(n), ..file }).collect();
        // The first file had 16 parts for the workers of then, ten of them planned; the last file is not.
        let planned = |file: u32| match file {
            0 => Some(PlannedParts { planned: 10, parts: 16 }),
            1..6 => Some(PlannedParts { planned: 1, parts: 1 }),
            _ => None,
        };
        let mut packer = Packer::new(PackRule { slots: 100, ..rule(100) }, 2048 * MIB + 6, 6);
        let mut rest = Vec::new();
        let mut add = |slice: PackedSlice| {
            rest.extend(slice.parts);
            Ok::<(), Infallible>(())
        };
        for file in &all {
            packer.push(*file, planned(file.file.0), &mut add).unwrap();
        }
        packer.finish(&mut add).unwrap();
        let before = pack(&all, rule(4));
        let before: Vec<FilePart> = before.into_iter().flat_map(|slice| slice.parts).collect();
        assert_eq!(rest[..6], before[10..16]);
        assert_eq!(rest[6..], [FilePart { file: FileIndex(6), start: 0, end: 0, part: 0, parts: 1 }]);
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
