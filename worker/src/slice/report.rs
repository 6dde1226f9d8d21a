//! A report, and its cutting into chunks that fit a replicated command.

use prost::Message;
use stevedore_proto::v1::{FileReport, ReportChunk, SliceRef, SliceTotals};

/// Bytes of a chunk, so that with its envelope it stays under 48 KiB.
const CHUNK_BYTES: usize = 44 << 10;
/// Characters of an error's text.
const ERROR_LENGTH: usize = 2000;

/// What an attempt did: its data files are durable and in no snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceReport {
    /// One for each file task, in their order; none for a query.
    pub files: Vec<FileReport>,
    /// Iceberg data files as JSON.
    pub data_files: Vec<String>,
    /// Sums.
    pub totals: SliceTotals,
}

impl SliceReport {
    /// The chunks in order. There is always one: the last, with the totals.
    pub fn chunks(self, slice: &SliceRef) -> Vec<ReportChunk> {
        let empty = || ReportChunk { slice: Some(slice.clone()), ..ReportChunk::default() };
        let mut chunks = Vec::new();
        let mut chunk = empty();
        let mut bytes = 0;
        let mut make_room = |chunk: &mut ReportChunk, bytes: &mut usize, size: usize| {
            if *bytes > 0 && *bytes + size > CHUNK_BYTES {
                chunks.push(std::mem::replace(chunk, empty()));
                *bytes = 0;
            }
            *bytes += size;
        };
        for mut file in self.files {
            if let Some((end, _)) = file.first_error.char_indices().nth(ERROR_LENGTH) {
                file.first_error.truncate(end);
                file.first_error.push('…');
            }
            make_room(&mut chunk, &mut bytes, file.encoded_len() + 8);
            chunk.files.push(file);
        }
        for data_file in self.data_files {
            make_room(&mut chunk, &mut bytes, data_file.len() + 8);
            chunk.data_files.push(data_file);
        }
        chunk.last = true;
        chunk.totals = Some(self.totals);
        chunks.push(chunk);
        for (sequence, chunk) in chunks.iter_mut().enumerate() {
            chunk.sequence = sequence as u32;
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn chunks_are_small_and_hold_everything_once_and_in_order() {
        let files: Vec<FileReport> = (0..3000)
            .map(|n| FileReport {
                file: n,
                first_error: "x".repeat((n % 50) as usize),
                ..FileReport::default()
            })
            .collect();
        let data_files: Vec<String> = (0..50).map(|n| format!("{n}{}", "d".repeat(20_000))).collect();
        let totals = SliceTotals { files: 3000, rows: 7, ..SliceTotals::default() };
        let report = SliceReport { files: files.clone(), data_files: data_files.clone(), totals };
        let slice = SliceRef { job_id: "j".into(), slice: 1, attempt: 1 };
        let chunks = report.chunks(&slice);
        assert!(chunks.len() > 20);
        assert!(chunks.iter().all(|chunk| chunk.encoded_len() < 48 << 10));
        assert!(chunks.iter().map(|chunk| chunk.sequence).eq(0..chunks.len() as u32));
        assert!(chunks.iter().rev().skip(1).all(|chunk| !chunk.last && chunk.totals.is_none()));
        assert_eq!(chunks.last().unwrap().totals, Some(totals));
        assert!(chunks.iter().flat_map(|chunk| chunk.files.clone()).eq(files));
        assert!(chunks.iter().flat_map(|chunk| chunk.data_files.clone()).eq(data_files));
    }

    #[test]
    fn a_report_of_nothing_is_one_chunk() {
        let report = SliceReport { files: vec![], data_files: vec![], totals: SliceTotals::default() };
        let chunks = report.chunks(&SliceRef::default());
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].last);
    }
}
