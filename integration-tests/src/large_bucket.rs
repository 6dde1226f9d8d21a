//! A bucket of very many small files that are made when they are asked for: what S3's protocol has for listing,
//! reading and deleting, without signatures. `in/0000042.csv` holds the rows of file 42 as [`numbered_csv`]
//! has them; what is deleted stays away.
//!
//! A test may let so many requests pass and have the others wait, to act at that very point.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderValue, LAST_MODIFIED};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::files::numbered_csv;
use crate::web::{answer, serve_content, start};

/// The name of the bucket.
pub const BUCKET: &str = "large";
/// Keys of one page of a listing, as S3 has them at most.
const PAGE: usize = 1_000;
const WRITTEN: &str = "2024-05-01T10:00:00.000Z";
const WRITTEN_HTTP: &str = "Wed, 01 May 2024 10:00:00 GMT";

/// A running server.
pub struct LargeBucket {
    address: SocketAddr,
    bucket: Arc<Bucket>,
    task: JoinHandle<()>,
}

struct Bucket {
    files: usize,
    content: Box<dyn Fn(usize) -> String + Send + Sync>,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that may still pass.
    left: usize,
    /// Requests that wait now.
    waiting: usize,
    /// Requests that have passed.
    passed: usize,
    deleted: Vec<bool>,
}

/// A request that waits; no more once it passes, or its sender is gone.
struct Waiting<'a>(&'a watch::Sender<State>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.waiting -= 1);
    }
}

/// The path of a file in the bucket.
pub fn key(file: usize) -> String {
    format!("in/{file:07}.csv")
}

fn file_of(key: &str) -> Option<usize> {
    key.strip_prefix("in/")?.strip_suffix(".csv")?.parse().ok()
}

/// A value of the query, as sent.
fn asked<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Bucket {
    async fn pass(&self) {
        let mut waiting = None;
        let mut changes = self.state.subscribe();
        loop {
            let mut may = false;
            self.state.send_if_modified(|state| {
                may = state.left > 0;
                state.left = state.left.saturating_sub(1);
                state.passed += usize::from(may);
                // Only who waits for the limit hears of it.
                false
            });
            if may {
                return;
            }
            waiting.get_or_insert_with(|| {
                self.state.send_modify(|state| state.waiting += 1);
                Waiting(&self.state)
            });
            changes.changed().await.unwrap();
        }
    }

    fn is_deleted(&self, file: usize) -> bool {
        self.state.borrow().deleted[file]
    }

    async fn serve(&self, request: Request) -> Response {
        self.pass().await;
        let (path, query) = (request.uri().path().trim_matches('/'), request.uri().query().unwrap_or(""));
        let key = match path.split_once('/') {
            None if path == BUCKET => {
                return match *request.method() {
                    Method::GET => self.list(query),
                    Method::POST => self.delete(request.into_body()).await,
                    _ => answer(StatusCode::OK, &[], b""),
                };
            }
            Some((BUCKET, key)) => key,
            _ => return answer(StatusCode::NOT_FOUND, &[], b"<Error><Code>NoSuchBucket</Code></Error>"),
        };
        let Some(file) = file_of(key).filter(|file| *file < self.files && !self.is_deleted(*file)) else {
            return answer(StatusCode::NOT_FOUND, &[], b"<Error><Code>NoSuchKey</Code></Error>");
        };
        let content = (self.content)(file);
        let mut response = serve_content(&request, content.as_bytes(), &etag(file));
        response.headers_mut().insert(LAST_MODIFIED, HeaderValue::from_static(WRITTEN_HTTP));
        response
    }

    /// Several files by name, as S3's DeleteObjects has them.
    async fn delete(&self, body: Body) -> Response {
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = std::str::from_utf8(&body).unwrap();
        let mut deleted = "<DeleteResult>".to_owned();
        for rest in body.split("<Key>").skip(1) {
            let key = rest.split("</Key>").next().unwrap_or_default();
            let file = file_of(key).filter(|file| *file < self.files);
            self.state.send_if_modified(|state| {
                file.into_iter().for_each(|file| state.deleted[file] = true);
                false
            });
            let _ = write!(deleted, "<Deleted><Key>{key}</Key></Deleted>");
        }
        deleted.push_str("</DeleteResult>");
        answer(StatusCode::OK, &[(CONTENT_TYPE, "application/xml".to_owned())], deleted.as_bytes())
    }

    fn list(&self, query: &str) -> Response {
        let prefix = asked(query, "prefix").unwrap_or("").replace("%2F", "/").replace("%2f", "/");
        let mut next = asked(query, "continuation-token").map_or(0, |token| token.parse().unwrap());
        let mut page = String::with_capacity(PAGE * 200);
        page.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>");
        let state = self.state.borrow();
        let mut listed = 0;
        while listed < PAGE && next < self.files {
            let (file, key) = (next, key(next));
            next += 1;
            if state.deleted[file] || !key.starts_with(&prefix) {
                continue;
            }
            let size = (self.content)(file).len();
            let etag = etag(file);
            let _ = write!(
                page,
                "<Contents><Key>{key}</Key><LastModified>{WRITTEN}</LastModified><ETag>&quot;{etag}&quot;</ETag>\
                 <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            );
            listed += 1;
        }
        let more = next < self.files;
        let _ = write!(page, "<KeyCount>{listed}</KeyCount><IsTruncated>{more}</IsTruncated>");
        if more {
            let _ = write!(page, "<NextContinuationToken>{next}</NextContinuationToken>");
        }
        page.push_str("</ListBucketResult>");
        answer(StatusCode::OK, &[(CONTENT_TYPE, "application/xml".to_owned())], page.as_bytes())
    }
}

fn etag(file: usize) -> String {
    format!("{file:032x}")
}

impl LargeBucket {
    /// Starts a server of so many files of so many rows.
    pub async fn start(files: usize, rows: usize) -> Self {
        Self::start_with(files, move |file| numbered_csv(file, rows)).await
    }

    /// The same with content of the test's own.
    pub async fn start_with(files: usize, content: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let state = State { left: usize::MAX, waiting: 0, passed: 0, deleted: vec![false; files] };
        let bucket = Arc::new(Bucket { files, content: Box::new(content), state: watch::Sender::new(state) });
        let served = Arc::clone(&bucket);
        let app = Router::new().fallback(move |request: Request| {
            let bucket = Arc::clone(&served);
            async move { bucket.serve(request).await }
        });
        let (address, task) = start(app).await;
        Self { address, bucket, task }
    }

    /// Lets the next `requests` pass; those after them wait.
    pub fn pass_only(&self, requests: usize) {
        self.bucket.state.send_modify(|state| state.left = requests);
    }

    /// Lets all pass.
    pub fn pass_all(&self) {
        self.pass_only(usize::MAX);
    }

    /// The requests that it has served, or is serving.
    pub fn requests(&self) -> usize {
        self.bucket.state.borrow().passed
    }

    /// Waits until a request waits, for so long; whether one does.
    pub async fn wait_until_held(&self, patience: Duration) -> bool {
        let mut changes = self.bucket.state.subscribe();
        let held = changes.wait_for(|state| state.waiting > 0);
        tokio::time::timeout(patience, held).await.is_ok()
    }

    /// The files that were deleted, in order.
    pub fn deleted(&self) -> Vec<usize> {
        let state = self.bucket.state.borrow();
        (0..self.bucket.files).filter(|file| state.deleted[*file]).collect()
    }

    /// A stage over it.
    pub fn create_stage(&self, name: &str) -> String {
        format!(
            "CREATE STAGE {name} URL = 's3://{BUCKET}/' CONNECTION = (ENDPOINT_URL = 'http://{}' REGION = 'us-east-1')
             FILE_FORMAT = (TYPE = CSV)",
            self.address
        )
    }
}

impl Drop for LargeBucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}
