//! StageService on the client port: the bytes of files in stages, in both directions.
//!
//! Owns: what PUT and GET of a client come to. Bytes are passed on, piece by piece, between the client and the
//! store; nothing is decoded, and no more than `MOST_TRANSFERS` files are on their way at a time, so that
//! memory stays bounded. A file appears only when all of it has come and its checksum is right.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use stevedore_common::file_identity::{FileEntry, FileVersion};
use stevedore_common::storage::ReadAhead;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::download_stage_file_response::Part as DownloadPart;
use stevedore_proto::v1::stage_service_server::StageService;
use stevedore_proto::v1::upload_stage_file_request::Part as UploadPart;
use stevedore_status::status_of;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::sessions::Sessions;
use crate::engine::Engine;
use crate::stores::ResolvedSource;

/// Files on their way at a time through this coordinator; an upload to an object store holds some parts.
const MOST_TRANSFERS: usize = 8;
/// Bytes of a message of a download.
const MESSAGE_BYTES: usize = 1 << 20;

/// The service.
#[derive(Clone)]
pub struct StageFiles {
    engine: Arc<Engine>,
    sessions: Arc<Sessions>,
    transfers: Arc<Semaphore>,
}

fn missing(what: &str) -> Error {
    Error::invalid(format!("the request names no {what}"))
}

fn file_message(name: &str, version: &FileVersion, sha256: Vec<u8>) -> v1::StageFile {
    v1::StageFile {
        path: name.to_owned(),
        size: version.size,
        etag: version.etag.clone().unwrap_or_default(),
        version: version.version.clone().unwrap_or_default(),
        last_modified_ms: version.last_modified_ms,
        sha256,
    }
}

fn version_of(file: &v1::StageFile) -> FileVersion {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    FileVersion {
        size: file.size,
        etag: given(&file.etag),
        version: given(&file.version),
        last_modified_ms: file.last_modified_ms,
    }
}

impl StageFiles {
    /// Over the engine and the sessions of the client port.
    pub fn new(engine: Arc<Engine>, sessions: Arc<Sessions>) -> Self {
        Self { engine, sessions, transfers: Arc::new(Semaphore::new(MOST_TRANSFERS)) }
    }

    async fn place(
        &self,
        metadata: &MetadataMap,
        at: Option<&v1::StagePath>,
        pattern: Option<String>,
    ) -> Result<ResolvedSource> {
        let at = at.ok_or_else(|| missing("file"))?;
        let (session, _) = self.sessions.of_request(metadata)?;
        self.engine.place_in_stage(&session.user, &at.stage, &at.path, pattern).await
    }

    async fn describe(&self, source: &ResolvedSource, with_sha256: bool) -> Result<v1::StageFile> {
        let FileEntry { path, version } = source.store.head(source.file()?).await?;
        let mut sha256 = Vec::new();
        if with_sha256 {
            let _transfer = self.transfers.acquire().await;
            let mut hash = Sha256::new();
            let file = source.store.open(&path, &version).await?;
            let mut bytes = file.chunks(0..version.size, ReadAhead::default());
            while let Some(piece) = bytes.try_next().await? {
                hash.update(&piece);
            }
            sha256 = hash.finalize().to_vec();
        }
        Ok(file_message(source.name_of(&path), &version, sha256))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadStageFileRequest>>) -> Result<v1::StageFile> {
        let (metadata, _, mut parts) = request.into_parts();
        let broken = |status: Status| stevedore_status::error_of_status(&status).context("receiving a file");
        let first = parts.message().await.map_err(broken)?.and_then(|message| message.part);
        let Some(UploadPart::File(at)) = first else { return Err(missing("file")) };
        let source = self.place(&metadata, Some(&at), None).await?;
        let path = source.file()?.to_owned();
        let _transfer = self.transfers.acquire().await;
        let mut writer = source.store.writer(&path).await?;
        let received = async {
            let mut hash = Sha256::new();
            let mut size = 0u64;
            loop {
                match parts.message().await.map_err(broken)?.and_then(|message| message.part) {
                    Some(UploadPart::Data(data)) => {
                        size += data.len() as u64;
                        hash.update(&data);
                        writer.write(Bytes::from(data)).await?;
                    }
                    Some(UploadPart::End(end)) => {
                        let sha256 = hash.finalize().to_vec();
                        if end.size != size || end.sha256 != sha256 {
                            return Err(Error::bad_data(format!(
                                "file '{}' came damaged: {size} of {} bytes, or another checksum",
                                at.path, end.size
                            ))
                            .retryable(true));
                        }
                        return Ok(sha256);
                    }
                    Some(UploadPart::File(_)) => return Err(Error::invalid("an upload is of one file")),
                    None => {
                        return Err(Error::unavailable(format!("file '{}' did not come whole", at.path)));
                    }
                }
            }
        };
        match received.await {
            Ok(sha256) => {
                writer.finish().await?;
                let entry = source.store.head(&path).await?;
                Ok(file_message(source.name_of(&path), &entry.version, sha256))
            }
            Err(error) => {
                if let Err(left) = writer.abort().await {
                    tracing::debug!(path, %left, "an unfinished upload was left behind");
                }
                Err(error)
            }
        }
    }

    async fn download(
        &self,
        request: Request<v1::DownloadStageFileRequest>,
    ) -> Result<BoxStream<'static, Result<v1::DownloadStageFileResponse>>> {
        let (metadata, _, request) = request.into_parts();
        let file = request.file.ok_or_else(|| missing("file"))?;
        let stage = request.location.ok_or_else(|| missing("stage"))?.stage;
        let at = v1::StagePath { stage, path: file.path.clone() };
        let source = self.place(&metadata, Some(&at), None).await?;
        let version = version_of(&file);
        if request.offset > version.size {
            return Err(Error::invalid(format!("offset {} is after the end of the file", request.offset)));
        }
        let pinned = source.store.open(source.file()?, &version).await?;
        let transfer = self.transfers.clone().acquire_owned().await;
        let mut bytes = pinned.chunks(request.offset..version.size, ReadAhead::default());
        Ok(async_stream::try_stream! {
            let _transfer = transfer;
            let mut hash = Sha256::new();
            let mut size = 0;
            while let Some(piece) = bytes.try_next().await? {
                hash.update(&piece);
                size += piece.len() as u64;
                for part in piece.chunks(MESSAGE_BYTES) {
                    yield v1::DownloadStageFileResponse { part: Some(DownloadPart::Data(part.to_vec())) };
                }
            }
            let end = v1::TransferEnd { size, sha256: hash.finalize().to_vec() };
            yield v1::DownloadStageFileResponse { part: Some(DownloadPart::End(end)) };
        }
        .boxed())
    }
}

#[tonic::async_trait]
impl StageService for StageFiles {
    type ListStageFilesStream = BoxStream<'static, std::result::Result<v1::StageFile, Status>>;
    type DownloadStageFileStream =
        BoxStream<'static, std::result::Result<v1::DownloadStageFileResponse, Status>>;

    async fn list_stage_files(
        &self,
        request: Request<v1::ListStageFilesRequest>,
    ) -> std::result::Result<Response<Self::ListStageFilesStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let pattern = (!request.pattern.is_empty()).then_some(request.pattern);
        let source = self.place(&metadata, request.location.as_ref(), pattern).await.map_err(status_of)?;
        let files = if request.one_file {
            match self.describe(&source, false).await {
                Ok(file) => futures::stream::iter([Ok(file)]).boxed(),
                Err(error) if error.kind() == ErrorKind::NotFound => futures::stream::empty().boxed(),
                Err(error) => return Err(status_of(error)),
            }
        } else {
            let files = source.list().map_err(status_of)?;
            files
                .map_ok(move |file| file_message(source.name_of(&file.path), &file.version, Vec::new()))
                .map_err(status_of)
                .boxed()
        };
        Ok(Response::new(files))
    }

    async fn describe_stage_file(
        &self,
        request: Request<v1::DescribeStageFileRequest>,
    ) -> std::result::Result<Response<v1::StageFile>, Status> {
        let (metadata, _, request) = request.into_parts();
        let source = self.place(&metadata, request.file.as_ref(), None).await.map_err(status_of)?;
        self.describe(&source, request.with_sha256).await.map(Response::new).map_err(status_of)
    }

    async fn upload_stage_file(
        &self,
        request: Request<Streaming<v1::UploadStageFileRequest>>,
    ) -> std::result::Result<Response<v1::StageFile>, Status> {
        self.upload(request).await.map(Response::new).map_err(status_of)
    }

    async fn download_stage_file(
        &self,
        request: Request<v1::DownloadStageFileRequest>,
    ) -> std::result::Result<Response<Self::DownloadStageFileStream>, Status> {
        let bytes = self.download(request).await.map_err(status_of)?;
        Ok(Response::new(bytes.map_err(status_of).boxed()))
    }
}
