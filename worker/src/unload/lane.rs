//! One lane of an unload: batches in, files out.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use stevedore_common::Result;
use tokio::sync::mpsc;

use super::file::OpenFile;
use super::{Target, UnloadedFile, partition, weight};

/// Partitions whose files are open at a time; the largest gives way to another.
const MOST_OPEN: usize = 16;

/// Runs until its rows end.
pub(super) async fn run(
    target: Arc<Target>,
    lane: usize,
    mut batches: mpsc::Receiver<RecordBatch>,
) -> Result<Vec<UnloadedFile>> {
    let mut open: HashMap<String, OpenFile> = HashMap::new();
    let mut done = Vec::new();
    let mut next = 0u32;
    while let Some(batch) = batches.recv().await {
        for (path, rows) in partition::split(&target, &batch)? {
            for rows in pieces(&target, &rows) {
                let mut file = match open.remove(&path) {
                    Some(file) => file,
                    None => {
                        if open.len() >= MOST_OPEN
                            && let Some(largest) = largest(&open)
                            && let Some(file) = open.remove(&largest)
                        {
                            done.push(file.close().await?);
                        }
                        next += 1;
                        let n = next - 1;
                        OpenFile::create(&target, target.hidden(lane, n), target.name(&path, lane, n)).await?
                    }
                };
                file.write(rows).await?;
                if !target.single && file.bytes() >= target.max_file_bytes {
                    done.push(file.close().await?);
                } else {
                    open.insert(path.clone(), file);
                }
            }
        }
    }
    for file in open.into_values() {
        done.push(file.close().await?);
    }
    Ok(done)
}

fn largest(open: &HashMap<String, OpenFile>) -> Option<String> {
    open.iter().max_by_key(|(_, file)| file.bytes()).map(|(path, _)| path.clone())
}

/// A batch in parts of about a quarter of a file at most, so that files do not outgrow MAX_FILE_SIZE by much.
fn pieces(target: &Target, batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    if target.single || rows == 0 {
        return vec![batch.clone()];
    }
    let row_bytes = (weight(batch) / rows as u64).max(1);
    let step = usize::try_from(target.max_file_bytes / 4 / row_bytes).unwrap_or(rows).clamp(1, rows);
    (0..rows).step_by(step).map(|first| batch.slice(first, step.min(rows - first))).collect()
}
