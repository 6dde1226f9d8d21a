//! GET: files of a stage into a local folder.
//!
//! A file is fetched under a name of its own beside its place, which tells its version; once it is whole it is
//! renamed. What an earlier try has fetched of the same version is kept, and the rest is asked for.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::download_stage_file_response::Part;
use stevedore_sql::ast::GetFiles;
use stevedore_status::error_of_status;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{Moved, Outcome, Progress, about, each, retried, sha256_of, stage_path};
use crate::client::Client;

pub(super) async fn run(client: &Client, get: &GetFiles, bar: &Progress) -> Result<Vec<Moved>> {
    let from = stage_path(&get.location)?;
    let folder = local_folder(&get.local)?;
    let files = list(client, &from, get.pattern.as_deref()).await?;
    if files.is_empty() {
        return Err(Error::not_found(format!("no file of the stage matches {}", get.location))
            .hint("LIST shows the files of a stage"));
    }
    let above = from.path.rfind('/').map_or("", |slash| from.path.get(..=slash).unwrap_or_default());
    let mut downloads = Vec::with_capacity(files.len());
    for file in files {
        let local = local_path(&folder, file.path.strip_prefix(above).unwrap_or(&file.path))?;
        downloads.push((file, local));
    }
    tokio::fs::create_dir_all(&folder).await.map_err(about(&folder))?;
    bar.expect(downloads.len(), downloads.iter().map(|(file, _)| file.size).sum());
    each(downloads, get.parallel, |(file, local)| {
        let from = from.clone();
        async move {
            let result = retried(|| fetch(client, &from, &file, &local, bar)).await;
            result.map_err(|e| e.context(format!("file '{}' of the stage", file.path)))
        }
    })
    .await
}

fn local_folder(url: &str) -> Result<PathBuf> {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("'{url}' is not a local folder")).hint("write fs:///folder/"));
    }
    let folder = PathBuf::from(path);
    if folder.is_file() {
        return Err(
            Error::invalid(format!("'{path}' is a file, and GET needs a folder")).hint("write fs:///folder/")
        );
    }
    Ok(folder)
}

/// The name of a file in a stage is somebody else's: it never leads out of the folder.
fn local_path(folder: &Path, name: &str) -> Result<PathBuf> {
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\']);
    if name.split('/').any(bad) {
        return Err(Error::invalid(format!("the name '{name}' of a file in the stage is no local path")));
    }
    Ok(folder.join(name))
}

async fn list(client: &Client, from: &v1::StagePath, pattern: Option<&str>) -> Result<Vec<v1::StageFile>> {
    let ask = |one_file| v1::ListStageFilesRequest {
        location: Some(from.clone()),
        pattern: pattern.unwrap_or_default().to_owned(),
        one_file,
    };
    // A location that names a file exactly is that file, not whatever begins like it.
    if pattern.is_none() && !from.path.is_empty() && !from.path.ends_with('/') {
        let one = client.stages().list_stage_files(ask(true)).await.map_err(|s| error_of_status(&s))?;
        let one: Vec<_> = one.into_inner().try_collect().await.map_err(|s| error_of_status(&s))?;
        if !one.is_empty() {
            return Ok(one);
        }
    }
    let files = client.stages().list_stage_files(ask(false)).await.map_err(|s| error_of_status(&s))?;
    let mut files: Vec<v1::StageFile> =
        files.into_inner().try_collect().await.map_err(|s| error_of_status(&s))?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Where a version of a file is fetched to before it is whole.
fn unfinished_path(local: &Path, file: &v1::StageFile) -> PathBuf {
    let mut hash = Sha256::new();
    for text in [&file.etag, &file.version] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.update(file.size.to_le_bytes());
    hash.update(file.last_modified_ms.to_le_bytes());
    let version = hex::encode(&hash.finalize()[..8]);
    let name = local.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    local.with_file_name(format!(".{name}.{version}.unfinished"))
}

/// Whether the local file is this very content already.
async fn is_here(client: &Client, at: &v1::StagePath, file: &v1::StageFile, local: &Path) -> Result<bool> {
    match tokio::fs::metadata(local).await {
        Ok(here) if here.is_file() && here.len() == file.size => {}
        Ok(here) if here.is_dir() => {
            return Err(Error::invalid(format!("'{}' is a folder", local.display())));
        }
        _ => return Ok(false),
    }
    Ok(sha256_there(client, at).await? == sha256_of(local, file.size).await?)
}

/// The checksum of the file in the stage.
async fn sha256_there(client: &Client, at: &v1::StagePath) -> Result<Vec<u8>> {
    let request = v1::DescribeStageFileRequest { file: Some(at.clone()), with_sha256: true };
    let there = client.stages().describe_stage_file(request).await.map_err(|s| error_of_status(&s))?;
    Ok(there.into_inner().sha256)
}

async fn fetch(
    client: &Client,
    from: &v1::StagePath,
    file: &v1::StageFile,
    local: &Path,
    bar: &Progress,
) -> Result<Moved> {
    let moved = |outcome| Moved { file: local.display().to_string(), outcome, size: file.size };
    let at = v1::StagePath { stage: from.stage.clone(), path: file.path.clone() };
    if is_here(client, &at, file, local).await? {
        bar.add(file.size);
        return Ok(moved(Outcome::Skipped));
    }
    if let Some(parent) = local.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(about(parent))?;
    }
    let unfinished = unfinished_path(local, file);
    let failed = about(&unfinished);
    let mut out = tokio::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&unfinished)
        .await
        .map_err(&failed)?;
    let mut offset = out.metadata().await.map_err(&failed)?.len();
    if offset > file.size {
        out.set_len(0).await.map_err(&failed)?;
        offset = 0;
    }
    out.seek(std::io::SeekFrom::Start(offset)).await.map_err(&failed)?;
    bar.add(offset);
    let request =
        v1::DownloadStageFileRequest { location: Some(from.clone()), file: Some(file.clone()), offset };
    let mut parts =
        client.stages().download_stage_file(request).await.map_err(|s| error_of_status(&s))?.into_inner();
    let (mut hash, mut size) = (Sha256::new(), 0u64);
    let end = loop {
        match parts.message().await {
            Ok(Some(message)) => match message.part {
                Some(Part::Data(data)) => {
                    hash.update(&data);
                    size += data.len() as u64;
                    out.write_all(&data).await.map_err(&failed)?;
                    bar.add(data.len() as u64);
                }
                Some(Part::End(end)) => break end,
                None => {}
            },
            // What has come stays, for the next try.
            Ok(None) => {
                out.flush().await.map_err(&failed)?;
                return Err(Error::unavailable("the file did not come whole"));
            }
            Err(status) => {
                out.flush().await.map_err(&failed)?;
                return Err(error_of_status(&status));
            }
        }
    };
    if end.size != size || end.sha256 != hash.finalize().to_vec() || offset + size != file.size {
        drop(out);
        tokio::fs::remove_file(&unfinished).await.map_err(&failed)?;
        return Err(Error::bad_data("the file came damaged: its checksum is another").retryable(true));
    }
    out.sync_all().await.map_err(&failed)?;
    drop(out);
    // The checksum was that of what came just now; what an earlier try has left may be damaged.
    if offset > 0 && sha256_of(&unfinished, file.size).await? != sha256_there(client, &at).await? {
        tokio::fs::remove_file(&unfinished).await.map_err(&failed)?;
        return Err(Error::bad_data("what an earlier try has fetched is damaged").retryable(true));
    }
    tokio::fs::rename(&unfinished, local).await.map_err(about(local))?;
    Ok(moved(Outcome::Success))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_in_a_stage_never_leads_out_of_the_folder() {
        let folder = Path::new("/out");
        assert_eq!(local_path(folder, "a/b.csv").unwrap(), Path::new("/out/a/b.csv"));
        for name in ["../x", "a/../../x", "/etc/x", "a//b", "", ".", "a\0b"] {
            assert!(local_path(folder, name).is_err(), "{name}");
        }
        assert!(local_folder("fs:///a/../b").is_err());
        assert!(local_folder("fs://relative").is_err());
    }

    #[test]
    fn what_was_fetched_of_another_version_is_not_gone_on_with() {
        let file = v1::StageFile { path: "a".into(), size: 5, etag: "e1".into(), ..Default::default() };
        let other = v1::StageFile { etag: "e2".into(), ..file.clone() };
        let local = Path::new("/out/a.csv");
        assert_eq!(unfinished_path(local, &file), unfinished_path(local, &file));
        assert_ne!(unfinished_path(local, &file), unfinished_path(local, &other));
    }
}
