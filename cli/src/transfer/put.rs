//! PUT: local files into a stage.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use regex::Regex;
use sha2::{Digest, Sha256};
use stevedore_common::file_format::Compression as Codec;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::upload_stage_file_request::Part;
use stevedore_sql::ast::PutFiles;
use stevedore_status::error_of_status;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Moved, Outcome, PIECE_BYTES, Progress, about, each, retried, sha256_of, stage_path};
use crate::client::Client;
use crate::load::Source;

/// Pieces that wait for the network.
const WAITING_PIECES: usize = 4;
/// Extensions of other files that compressing would not make smaller.
const COMPRESSED_WITHIN: &[&str] = &["lz4", "snappy", "parquet", "orc", "avro", "arrow"];

/// A local file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Upload {
    local: PathBuf,
    size: u64,
    to: v1::StagePath,
    gzip: bool,
}

pub(super) async fn run(client: &Client, put: &PutFiles, bar: &Progress) -> Result<Vec<Moved>> {
    let to = stage_path(&put.location)?;
    let local = put.local.clone();
    let files = tokio::task::spawn_blocking(move || local_files(&local))
        .await
        .map_err(|e| Error::internal(format!("looking for files failed: {e}")))??;
    if files.is_empty() {
        return Err(Error::not_found(format!("no local file matches '{}'", put.local)));
    }
    let uploads: Vec<Upload> =
        files.into_iter().map(|(local, size)| upload_of(local, size, &to, put.auto_compress)).collect();
    bar.expect(uploads.len(), uploads.iter().map(|upload| upload.size).sum());
    each(uploads, put.parallel, |upload| async move {
        let result = retried(|| send(client, &upload, bar)).await;
        result.map_err(|e| e.context(format!("local file '{}'", upload.local.display())))
    })
    .await
}

/// The files go into the folder that the location names, under their own names.
fn upload_of(local: PathBuf, size: u64, to: &v1::StagePath, auto_compress: bool) -> Upload {
    let name = local.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = Path::new(&name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let is_small = Codec::of_path(&name) != Codec::None
        || extension.is_some_and(|extension| COMPRESSED_WITHIN.contains(&extension.as_str()));
    let gzip = auto_compress && !is_small;
    let folder = to.path.trim_end_matches('/');
    let slash = if folder.is_empty() { "" } else { "/" };
    let suffix = if gzip { ".gz" } else { "" };
    let path = format!("{folder}{slash}{name}{suffix}");
    Upload { local, size, to: v1::StagePath { stage: to.stage.clone(), path }, gzip }
}

/// The regular files that a path or glob names, by path.
fn local_files(url: &str) -> Result<Vec<(PathBuf, u64)>> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let source = Source::parse(&format!("fs://{rest}"), Path::new("/"))?;
    let folder = source.local.ok_or_else(|| Error::invalid(format!("'{url}' is not a local path")))?;
    if source.pattern.as_deref() == Some("") {
        let file = folder.join(&source.path);
        let metadata = std::fs::metadata(&file).map_err(about(&file))?;
        if metadata.is_dir() {
            return Err(Error::invalid(format!("'{}' is a folder", file.display()))
                .hint(format!("write fs://{}/*", file.display())));
        }
        return Ok(vec![(file, metadata.len())]);
    }
    let rest = source.pattern.unwrap_or_else(|| "[^/]*".to_owned());
    let deep = rest.contains('/') || rest.contains(".*");
    let pattern = Regex::new(&format!("^{}(?:{rest})$", regex::escape(&source.path)))
        .map_err(|e| Error::invalid(format!("'{url}' is no glob: {e}")))?;
    let mut found = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).map_err(about(&at))? {
            let path = entry.map_err(about(&at))?.path();
            let metadata = std::fs::metadata(&path).map_err(about(&path))?;
            if metadata.is_dir() {
                // A link to a folder could lead back up.
                if deep && !path.is_symlink() {
                    folders.push(path);
                }
                continue;
            }
            let below = path.strip_prefix(&folder).ok().and_then(Path::to_str).unwrap_or_default();
            if metadata.is_file() && pattern.is_match(below) {
                found.push((path, metadata.len()));
            }
        }
    }
    found.sort();
    let names = |(path, _): &(PathBuf, u64)| path.file_name().map(ToOwned::to_owned);
    let mut seen = std::collections::HashMap::new();
    for file in &found {
        if let Some(other) = seen.insert(names(file), file.0.clone()) {
            return Err(Error::invalid(format!(
                "'{}' and '{}' would be one file in the stage",
                other.display(),
                file.0.display()
            ))
            .hint("put them into folders of their own"));
        }
    }
    Ok(found)
}

/// Whether the stage holds this very content already.
async fn is_there(client: &Client, upload: &Upload) -> Result<bool> {
    let ask = |with_sha256| v1::DescribeStageFileRequest { file: Some(upload.to.clone()), with_sha256 };
    match client.stages().describe_stage_file(ask(false)).await.map_err(|s| error_of_status(&s)) {
        Ok(there) if there.get_ref().size == upload.size => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let there = client.stages().describe_stage_file(ask(true)).await.map_err(|s| error_of_status(&s))?;
    Ok(there.into_inner().sha256 == sha256_of(&upload.local, upload.size).await?)
}

async fn send(client: &Client, upload: &Upload, bar: &Progress) -> Result<Moved> {
    let moved = |outcome, size| Moved { file: upload.local.display().to_string(), outcome, size };
    if !upload.gzip && is_there(client, upload).await? {
        bar.add(upload.size);
        return Ok(moved(Outcome::Skipped, upload.size));
    }
    let (parts, sent) = mpsc::channel(WAITING_PIECES);
    let message = |part| v1::UploadStageFileRequest { part: Some(part) };
    let read = async move {
        let gone = |_| Error::unavailable("the server took no more");
        parts.send(message(Part::File(upload.to.clone()))).await.map_err(gone)?;
        let mut file = tokio::fs::File::open(&upload.local).await.map_err(about(&upload.local))?;
        let mut packed = upload.gzip.then(|| GzEncoder::new(Vec::new(), Compression::default()));
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).await.map_err(about(&upload.local))?;
            let bytes = piece.get(..read).unwrap_or_default();
            let data = match &mut packed {
                None => bytes.to_vec(),
                Some(encoder) if read > 0 => {
                    encoder.write_all(bytes)?;
                    std::mem::take(encoder.get_mut())
                }
                Some(encoder) => {
                    encoder.try_finish()?;
                    std::mem::take(encoder.get_mut())
                }
            };
            if !data.is_empty() {
                hash.update(&data);
                size += data.len() as u64;
                parts.send(message(Part::Data(data))).await.map_err(gone)?;
            }
            if read == 0 {
                break;
            }
            bar.add(read as u64);
        }
        let end = v1::TransferEnd { size, sha256: hash.finalize().to_vec() };
        parts.send(message(Part::End(end))).await.map_err(gone)?;
        Ok::<_, Error>(())
    };
    let mut stages = client.stages();
    let uploaded = stages.upload_stage_file(ReceiverStream::new(sent));
    tokio::pin!(uploaded, read);
    // The server's answer says more than the end of the stream to it.
    let answer = tokio::select! {
        answer = &mut uploaded => answer,
        read = &mut read => match read {
            Ok(()) => uploaded.await,
            Err(error) if error.kind() == ErrorKind::Unavailable => uploaded.await,
            Err(error) => return Err(error),
        },
    };
    let file = answer.map_err(|s| error_of_status(&s))?.into_inner();
    Ok(moved(Outcome::Success, file.size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_glob_names_regular_files_of_one_folder_or_of_all_below() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/c.csv")).unwrap();
        for name in ["a1.csv", "a2.csv", "x.txt", "b/a3.csv"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let names = |glob: &str| {
            let found = local_files(&format!("fs://{}/{glob}", folder.path().display())).unwrap();
            let below =
                |(path, _): (PathBuf, u64)| path.strip_prefix(folder.path()).unwrap().display().to_string();
            found.into_iter().map(below).collect::<Vec<_>>()
        };
        assert_eq!(names("*.csv"), ["a1.csv", "a2.csv"]);
        assert_eq!(names("a[2-9].csv"), ["a2.csv"]);
        assert_eq!(names("**/*.csv"), ["a1.csv", "a2.csv", "b/a3.csv"]);
        assert_eq!(names("x.txt"), ["x.txt"]);
        assert_eq!(names(""), ["a1.csv", "a2.csv", "x.txt"]);
        assert!(local_files(&format!("fs://{}/nothing", folder.path().display())).is_err());
        assert!(local_files(&format!("fs://{}/b", folder.path().display())).is_err());
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("same.csv"), name).unwrap();
        }
        let error = local_files(&format!("fs://{}/**/*.csv", folder.path().display())).unwrap_err();
        assert!(error.to_string().contains("would be one file"), "{error}");
    }

    #[test]
    fn files_keep_their_names_below_the_location() {
        let to = |path: &str| v1::StagePath { stage: "s".into(), path: path.into() };
        let path = |at: &str, gzip| upload_of(PathBuf::from("/d/a.csv"), 1, &to(at), gzip).to.path;
        assert_eq!(path("", false), "a.csv");
        assert_eq!(path("in/", false), "in/a.csv");
        assert_eq!(path("in", true), "in/a.csv.gz");
        for name in ["a.PARQUET", "a.csv.gz", "a.csv.zl"] {
            assert!(!upload_of(PathBuf::from(name), 1, &to(""), true).gzip, "{name}");
        }
    }
}
