//! The block cutter: blocks put together are the file, and so are those of the parts of a file.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use stevedore_common::Result;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_decode::blocks::{BlockCutter, TextBlock};
use stevedore_decode::limits::TextLimits;
use stevedore_fuzz::{knobs, split};

fn cut(mut cutter: BlockCutter, file: &[u8], piece: usize) -> Result<Vec<TextBlock>> {
    let mut blocks = Vec::new();
    let mut each = |block| {
        blocks.push(block);
        Ok(())
    };
    for bytes in file[(cutter.read_from() as usize).min(file.len())..].chunks(piece) {
        if cutter.is_done() {
            break;
        }
        cutter.push(bytes, &mut each)?;
    }
    cutter.finish(&mut each)?;
    Ok(blocks)
}

/// Lines end at the last byte of the record delimiter.
fn check(format: &FileFormat, blocks: &[TextBlock]) {
    let end = match format.kind {
        FormatKind::Ndjson => b'\n',
        _ => format.record_delimiter.bytes().last().unwrap_or(b'\n'),
    };
    let mut line = blocks.first().map_or(1, |block| block.first_line);
    for block in blocks {
        assert_eq!(block.first_line, line);
        line += block.bytes.iter().filter(|byte| **byte == end).count() as u64;
    }
}

fn target(input: &[u8]) -> arbitrary::Result<()> {
    let (chosen, file) = split(input);
    let mut u = Unstructured::new(chosen);
    let kind = *u.choose(&[FormatKind::Csv, FormatKind::Tsv, FormatKind::Ndjson])?;
    let (piece, block, parts): (u8, u8, u8) = u.arbitrary()?;
    let format = FileFormat { skip_header: 0, ..knobs::format(&mut u, kind)? };
    let limits = TextLimits { block_bytes: usize::from(block) + 1, max_record_bytes: 1 << 20 };
    let piece = usize::from(piece) + 1;
    let Ok(blocks) = cut(BlockCutter::new(&format, limits), file, piece) else { return Ok(()) };
    check(&format, &blocks);
    let bytes: Vec<u8> = blocks.into_iter().flat_map(|block| block.bytes).collect();
    assert_eq!(bytes, file);
    if !BlockCutter::is_splittable(&format) {
        return Ok(());
    }
    let size = file.len() as u64;
    let step = (size / (u64::from(parts % 8) + 1)).max(1);
    let mut together = Vec::new();
    let mut start = 0;
    while start < size {
        let end = (start + step).min(size);
        let cutter = BlockCutter::for_range(&format, limits, start, end).expect("the format is splittable");
        let blocks = cut(cutter, file, piece).expect("what the whole file did");
        check(&format, &blocks);
        together.extend(blocks.into_iter().flat_map(|block| block.bytes));
        start = end;
    }
    // Parts leave the mark of byte order out.
    assert_eq!(together, file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file));
    Ok(())
}

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let _ = target(input);
}));
