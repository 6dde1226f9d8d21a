//! File tasks of a slice as they are recorded: whole files that follow each other are one entry.
//!
//! A slice of ten thousand small files so takes a few bytes in a command and in the state, whose entries are small.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stevedore_common::ids::FileIndex;

use super::SliceFile;

/// A file task, and how many whole files it and those after it are.
#[derive(Serialize, Deserialize)]
struct Run {
    #[serde(flatten)]
    first: SliceFile,
    #[serde(rename = "c", default = "one", skip_serializing_if = "is_one")]
    count: u32,
}

fn one() -> u32 {
    1
}

fn is_one(count: &u32) -> bool {
    *count == 1
}

pub(crate) fn serialize<S: Serializer>(files: &[SliceFile], serializer: S) -> Result<S::Ok, S::Error> {
    let mut runs: Vec<Run> = Vec::new();
    for file in files {
        if let Some(run) = runs.last_mut()
            && run.first == SliceFile::whole(run.first.file)
            && run.first.file.0.checked_add(run.count).map(FileIndex).map(SliceFile::whole) == Some(*file)
        {
            run.count += 1;
            continue;
        }
        runs.push(Run { first: *file, count: 1 });
    }
    runs.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SliceFile>, D::Error> {
    let runs = Vec::<Run>::deserialize(deserializer)?;
    let mut files = Vec::with_capacity(runs.len());
    for Run { first, count } in runs {
        files.push(first);
        files.extend((1..count).map(|n| SliceFile::whole(FileIndex(first.file.0.saturating_add(n)))));
    }
    Ok(files)
}

/// A list of file tasks that is recorded so.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FileRuns(#[serde(with = "super::file_runs")] pub(crate) Vec<SliceFile>);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn files_that_follow_each_other_take_little() {
        let whole = |range: std::ops::Range<u32>| range.map(|n| SliceFile::whole(FileIndex(n)));
        let part = SliceFile { file: FileIndex(7), range_start: 0, range_end: 9, part: 0, parts: 2 };
        let mut files: Vec<SliceFile> = whole(0..10_000).collect();
        files.push(part);
        files.extend(whole(20_000..20_002));
        files.push(SliceFile::whole(FileIndex(30_000)));
        let text = serde_json::to_string(&FileRuns(files.clone())).unwrap();
        assert_eq!(text, r#"[{"f":0,"c":10000},{"f":7,"e":9,"n":2},{"f":20000,"c":2},{"f":30000}]"#);
        assert_eq!(serde_json::from_str::<FileRuns>(&text).unwrap().0, files);
        // As they were recorded before.
        let old = serde_json::to_string(&files).unwrap();
        assert_eq!(serde_json::from_str::<FileRuns>(&old).unwrap().0, files);
    }
}
