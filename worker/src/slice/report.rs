//! A report, and its cutting into chunks that fit a replicated command.

use stevedore_proto::v1::{FileReport, ReportChunk, SliceRef, SliceTotals};

/// Bytes of a chunk as the replicated command has it, JSON, which must stay under 64 KiB.
const CHUNK_BYTES: usize = 44 << 10;
/// The same of a file's report, beside the text of its first error: names and numbers.
const FILE_BYTES: usize = 256;
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
            make_room(&mut chunk, &mut bytes, FILE_BYTES + json_bytes(&file.first_error));
            chunk.files.push(file);
        }
        for data_file in self.data_files {
            make_room(&mut chunk, &mut bytes, json_bytes(&data_file));
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

/// What a text takes in JSON, escaped.
fn json_bytes(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '"' | '\\' => 2,
            c if c.is_ascii_control() => 6,
            c => c.len_utf8(),
        })
        .sum::<usize>()
        + 3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use prost::Message;

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
    fn chunks_are_small_as_commands_too() {
        let file = FileReport {
            file: u32::MAX,
            outcome: 1,
            rows: u64::MAX,
            errors: u64::MAX,
            first_error: "invalid value \"x\" for column 1".into(),
            first_error_line: u64::MAX,
            lines: u64::MAX,
            part: u32::MAX,
        };
        let text = serde_json::to_string(&file.first_error).unwrap();
        assert_eq!(json_bytes(&file.first_error), text.len() + 1);
        let names = ["file", "part", "outcome", "rows", "errors", "first_error", "first_error_line", "lines"];
        let numbers = 2 * 10 + 4 * 20 + "partially_loaded".len();
        let most = names.iter().map(|name| name.len() + 4).sum::<usize>() + numbers + 2;
        assert!(most <= FILE_BYTES, "{most}");
        let totals = SliceTotals::default();
        let report = SliceReport { files: vec![file; 1000], data_files: Vec::new(), totals };
        for chunk in report.chunks(&SliceRef::default()) {
            assert!(chunk.files.len() * (FILE_BYTES + text.len()) < 48 << 10);
        }
    }

    #[test]
    fn a_report_of_nothing_is_one_chunk() {
        let report = SliceReport { files: vec![], data_files: vec![], totals: SliceTotals::default() };
        let chunks = report.chunks(&SliceRef::default());
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].last);
    }
}
