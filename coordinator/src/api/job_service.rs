//! JobService on the client port: submit a statement, follow it, find it again. Any coordinator serves it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use stevedore_common::ids::{FileIndex, JobId};
use stevedore_common::telemetry::SpanParentExt;
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::job_service_server::JobService;
use stevedore_state::event::Event;
use stevedore_state::jobs::{self, FileStatus, Job, JobPhase, SkippedFiles};
use stevedore_state::view::ReadView;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};
use tracing::Instrument;
use uuid::Uuid;

use crate::engine::{DEFAULT_USER, Engine, StatementHandle};
use crate::scheduler::progress::Progress;
use stevedore_status::{error_info, status_of};

/// Between two answers of a watch, at least.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The service.
#[derive(Clone)]
pub struct Jobs {
    engine: Arc<Engine>,
}

impl Jobs {
    /// Over the engine.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn job_message(&self, view: &dyn ReadView, job: &Job) -> Result<v1::Job> {
        let spec = jobs::job_spec(view, job.id)?;
        let live = match job.phase {
            JobPhase::Running => self.engine.progress().of_job(job.id).await,
            _ => Progress::default(),
        };
        let done = job.phase.is_committed();
        Ok(v1::Job {
            job_id: job.id.to_string(),
            idempotency_key: spec.as_ref().and_then(|spec| spec.idempotency_key.clone()).unwrap_or_default(),
            kind: job.kind.as_str().to_owned(),
            statement: spec.as_ref().map(|spec| spec.statement.clone()).unwrap_or_default(),
            table: spec.map(|spec| spec.table_name).unwrap_or_default(),
            phase: phase_message(job.phase).into(),
            progress: Some(v1::Progress {
                files_total: u64::from(job.files),
                files_done: u64::from(job.accepted_parts)
                    .max(if done { u64::from(job.files) } else { 0 })
                    .min(u64::from(job.files))
                    .saturating_add(live.files)
                    .min(u64::from(job.files)),
                rows: job.rows + live.rows,
                bytes_total: job.bytes,
                bytes_done: (job.accepted_bytes + live.bytes).min(job.bytes),
                errors: job.errors + live.errors,
            }),
            error: job.error.as_ref().map(error_info),
            created_at_ms: job.created_on_ms,
            ended_at_ms: job.ended_on_ms.unwrap_or(0),
            rows_loaded: job.committed.as_ref().map_or(0, |summary| summary.rows),
            rows_updated: job.committed.as_ref().map_or(0, |_| job.rows_updated),
            rows_deleted: job.committed.as_ref().map_or(0, |_| job.rows_deleted),
            snapshot_id: job.committed.as_ref().and_then(|summary| summary.snapshot_id).unwrap_or(0),
            warehouse: job.group.to_string(),
            skipped: job
                .skipped
                .iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), *count))
                .collect::<HashMap<_, _>>(),
        })
    }

    async fn find(&self, view: &dyn ReadView, id: JobId) -> Result<v1::Job> {
        let job = jobs::job(view, id)?.ok_or_else(|| unknown(id))?;
        self.job_message(view, &job).await
    }

    async fn submit(
        &self,
        request: v1::SubmitJobRequest,
        traceparent: String,
    ) -> Result<v1::SubmitJobResponse> {
        if request.idempotency_key.len() > 256 {
            return Err(Error::invalid("an idempotency key has at most 256 bytes"));
        }
        let handle = StatementHandle {
            transaction: None,
            id: Uuid::now_v7(),
            sql: request.sql,
            session: "jobs".to_owned(),
            user: DEFAULT_USER.to_owned(),
            database: if request.database.is_empty() { "default".to_owned() } else { request.database },
            settings: request.settings.into_iter().collect(),
            parameters: None,
            pins: Default::default(),
            traceparent,
        };
        for (name, value) in &handle.settings {
            self.engine.check_setting(name, Some(value)).await?;
        }
        let key = (!request.idempotency_key.is_empty()).then_some(request.idempotency_key);
        let span = tracing::info_span!("submit", id = %handle.id);
        span.set_parent_from(&handle.traceparent);
        let submitted = self.engine.submit(&handle, key).instrument(span).await?;
        Ok(v1::SubmitJobResponse { job_id: submitted.job.to_string(), existing: submitted.existing })
    }

    async fn get(&self, request: v1::GetJobRequest) -> Result<v1::Job> {
        let view = self.engine.replica().read().await?;
        let id = match (request.job_id.as_str(), request.idempotency_key.as_str()) {
            ("", "") => return Err(Error::invalid("GetJob needs a job id or an idempotency key")),
            ("", key) => jobs::job_by_key(&*view, key)?
                .ok_or_else(|| Error::not_found(format!("no job has the idempotency key '{key}'")))?,
            (id, _) => id.parse()?,
        };
        self.find(&*view, id).await
    }

    async fn list(&self, request: v1::ListJobsRequest) -> Result<v1::ListJobsResponse> {
        let view = self.engine.replica().read().await?;
        let limit = page_size(request.page_size, 100, 1_000);
        if request.only_live {
            let mut found = Vec::new();
            for id in jobs::live_jobs(&*view)?.into_iter().rev().take(limit) {
                found.push(self.find(&*view, id).await?);
            }
            return Ok(v1::ListJobsResponse { jobs: found, next_page_token: String::new() });
        }
        let before = token_number(&request.page_token)?;
        let page = jobs::jobs(&*view, before, limit)?;
        let next_page_token = match page.last() {
            Some(last) if page.len() == limit => last.number.to_string(),
            _ => String::new(),
        };
        let mut found = Vec::with_capacity(page.len());
        for job in &page {
            found.push(self.job_message(&*view, job).await?);
        }
        Ok(v1::ListJobsResponse { jobs: found, next_page_token })
    }

    /// Claimed files first, then those that were skipped, a listing chunk at a time.
    async fn list_files(&self, request: v1::ListJobFilesRequest) -> Result<v1::ListJobFilesResponse> {
        let view = self.engine.replica().read().await?;
        let id: JobId = request.job_id.parse()?;
        let job = jobs::job(&*view, id)?.ok_or_else(|| unknown(id))?;
        let limit = page_size(request.page_size, 1_000, 10_000);
        let mut files = Vec::new();
        let (in_skipped, place) = match request.page_token.strip_prefix('s') {
            Some(token) => (true, token_number(token)?),
            None => (false, token_number(&request.page_token)?),
        };
        if !in_skipped {
            let after = place.map(narrow).transpose()?.map(FileIndex);
            let page = jobs::file_statuses(&*view, &job, after, limit)?;
            let next = page.last().filter(|_| page.len() == limit).map(|last| last.file.to_string());
            files.extend(page.into_iter().map(file_message));
            if let Some(next_page_token) = next {
                return Ok(v1::ListJobFilesResponse { files, next_page_token });
            }
        }
        let after = if in_skipped { place.map(narrow).transpose()? } else { None };
        let (skipped, next) = jobs::skipped_files(&*view, id, after, 8)?;
        files.extend(skipped.into_iter().flat_map(skipped_messages));
        Ok(v1::ListJobFilesResponse {
            files,
            next_page_token: next.map(|chunk| format!("s{chunk}")).unwrap_or_default(),
        })
    }
}

fn unknown(id: JobId) -> Error {
    Error::not_found(format!("job {id} is not known"))
}

fn page_size(asked: u32, default: usize, most: usize) -> usize {
    if asked == 0 { default } else { (asked as usize).min(most) }
}

fn token_number(token: &str) -> Result<Option<u64>> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| Error::invalid(format!("'{token}' is no page token of this call")))
}

fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::invalid(format!("'{number}' is no page token of this call")))
}

fn phase_message(phase: JobPhase) -> v1::JobPhase {
    match phase {
        JobPhase::Claiming => v1::JobPhase::Claiming,
        JobPhase::Running => v1::JobPhase::Running,
        JobPhase::Committing => v1::JobPhase::Committing,
        JobPhase::Purging => v1::JobPhase::Purging,
        JobPhase::Committed => v1::JobPhase::Committed,
        JobPhase::Aborted => v1::JobPhase::Aborted,
        JobPhase::Cancelled => v1::JobPhase::Cancelled,
    }
}

fn file_message(file: FileStatus) -> v1::JobFile {
    v1::JobFile {
        path: file.name,
        status: file.status.as_str().to_owned(),
        size: file.version.size,
        rows_loaded: file.rows,
        errors_seen: file.errors,
        first_error: file.first_error,
        first_error_line: file.first_error_line,
        claimed_by: String::new(),
    }
}

fn skipped_messages(skipped: SkippedFiles) -> Vec<v1::JobFile> {
    let status = format!("skipped_{}", skipped.reason.as_str());
    let claimed_by = skipped.by.map(|job| job.to_string()).unwrap_or_default();
    skipped
        .names
        .into_iter()
        .map(|path| v1::JobFile {
            path,
            status: status.clone(),
            claimed_by: claimed_by.clone(),
            ..Default::default()
        })
        .collect()
}

#[tonic::async_trait]
impl JobService for Jobs {
    type WatchJobStream = BoxStream<'static, std::result::Result<v1::Job, Status>>;

    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> std::result::Result<Response<v1::SubmitJobResponse>, Status> {
        let traceparent = request.metadata().get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = traceparent.unwrap_or_default().to_owned();
        self.submit(request.into_inner(), traceparent).await.map(Response::new).map_err(status_of)
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> std::result::Result<Response<v1::Job>, Status> {
        self.get(request.into_inner()).await.map(Response::new).map_err(status_of)
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> std::result::Result<Response<Self::WatchJobStream>, Status> {
        let id: JobId = request.into_inner().job_id.parse().map_err(status_of)?;
        // The first look is linearizable: a job that was just submitted elsewhere is found.
        let view = self.engine.replica().read().await.map_err(status_of)?;
        self.find(&*view, id).await.map_err(status_of)?;
        let service = self.clone();
        let stream = async_stream::try_stream! {
            let mut events = service.engine.replica().events();
            let mut last: Option<v1::Job> = None;
            loop {
                // Let go before the client has taken the message, which may be long after.
                let (job, message) = {
                    let view = service.engine.replica().local();
                    let job = jobs::job(&*view, id).and_then(|job| job.ok_or_else(|| unknown(id))).map_err(status_of)?;
                    let message = service.job_message(&*view, &job).await.map_err(status_of)?;
                    (job, message)
                };
                let ended = job.phase.is_ended();
                if last.as_ref() != Some(&message) {
                    last = Some(message.clone());
                    yield message;
                }
                if ended {
                    break;
                }
                let changed = async {
                    loop {
                        match events.recv().await {
                            Ok(Event::JobChanged { job, phase }) if job == id && phase.is_ended() => return,
                            Ok(_) => {}
                            Err(_) => return sleep(WATCH_EVERY).await,
                        }
                    }
                };
                let _ = timeout(WATCH_EVERY, changed).await;
            }
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> std::result::Result<Response<v1::Job>, Status> {
        let id: JobId = request.into_inner().job_id.parse().map_err(status_of)?;
        self.engine.cancel_job(id).await.map_err(status_of)?;
        let view = self.engine.replica().read().await.map_err(status_of)?;
        self.find(&*view, id).await.map(Response::new).map_err(status_of)
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> std::result::Result<Response<v1::ListJobsResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new).map_err(status_of)
    }

    async fn list_job_files(
        &self,
        request: Request<v1::ListJobFilesRequest>,
    ) -> std::result::Result<Response<v1::ListJobFilesResponse>, Status> {
        self.list_files(request.into_inner()).await.map(Response::new).map_err(status_of)
    }
}
