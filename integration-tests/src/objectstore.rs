//! An S3 server in this process: the real protocol, signatures included, over a folder.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::error_handling::HandleError;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use md5::{Digest, Md5};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The one access key that it knows.
pub const ACCESS_KEY: &str = "AKIASTEVEDORE";
/// Its secret.
pub const SECRET_KEY: &str = "a-very-secret-key";

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The content of a file, or a part of it.
    Read,
    /// One page of a listing.
    List,
    /// A file that is written as a whole.
    Write,
    /// The deletion of one file or of several.
    Delete,
}

impl Operation {
    fn of(request: &Request) -> Option<Self> {
        let uri = request.uri();
        let of_a_key = uri.path().trim_matches('/').split_once('/').is_some();
        let asks = |name: &str| {
            let names = uri.query().unwrap_or("").split('&').map(|pair| pair.split('=').next());
            names.flatten().any(|asked| asked == name)
        };
        match *request.method() {
            Method::GET if of_a_key => Some(Self::Read),
            Method::GET if asks("list-type") => Some(Self::List),
            Method::PUT if of_a_key && !asks("uploadId") => Some(Self::Write),
            Method::DELETE if of_a_key && !asks("uploadId") => Some(Self::Delete),
            Method::POST if asks("delete") => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A running server. Buckets are the folders below [`S3Server::folder`].
pub struct S3Server {
    address: SocketAddr,
    root: TempDir,
    gate: Arc<watch::Sender<Gate>>,
    task: JoinHandle<()>,
}

/// Holds some requests, so that a test can act in the very middle of something, and refuses some.
#[derive(Debug, Default)]
struct Gate {
    hold: Option<Hold>,
    /// Requests that are held now.
    held: usize,
    refusals: Vec<Refusing>,
    /// Requests that were refused.
    refused: usize,
}

/// What S3 answers instead of what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// `Code` of the error.
    pub code: &'static str,
    /// Retry-After, seconds.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// The session token is too old.
    pub const EXPIRED: Self = Self { status: 403, code: "ExpiredToken", retry_after: None };
    /// The bucket is busy, and asks to come back at once.
    pub const BUSY: Self = Self { status: 503, code: "SlowDown", retry_after: Some(0) };

    fn answer(self) -> Response {
        let body = format!("<Error><Code>{0}</Code><Message>{0}</Message></Error>", self.code);
        let mut response = Response::builder().status(self.status);
        if let Some(seconds) = self.retry_after {
            response = response.header(RETRY_AFTER, seconds);
        }
        response.body(body.into()).unwrap()
    }
}

/// Requests that are refused.
#[derive(Debug)]
struct Refusing {
    operation: Operation,
    /// A part of the target of those that are meant.
    part: String,
    /// How many may still pass.
    pass: usize,
    /// How many are refused after them.
    times: usize,
    refusal: Refusal,
}

impl Gate {
    fn refuse(&mut self, operation: Operation, target: &str) -> Option<Refusal> {
        let meant = |refusing: &&mut Refusing| {
            refusing.operation == operation && refusing.times > 0 && target.contains(&refusing.part)
        };
        let refusing = self.refusals.iter_mut().find(meant)?;
        if refusing.pass > 0 {
            refusing.pass -= 1;
            return None;
        }
        refusing.times -= 1;
        self.refused += 1;
        Some(refusing.refusal)
    }
}

#[derive(Debug)]
struct Hold {
    operation: Operation,
    /// A part of the target (path and query as sent) of those that are meant.
    part: String,
    moment: Moment,
    /// How many may still pass.
    left: usize,
}

/// When a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before anything is done.
    Before,
    /// When all is done, before its sender hears of it.
    Answer,
}

/// A request that is held; no more once it passes, or its sender is gone.
struct Held<'a>(&'a watch::Sender<Gate>);

impl<'a> Held<'a> {
    fn new(gate: &'a watch::Sender<Gate>) -> Self {
        gate.send_modify(|gate| gate.held += 1);
        Self(gate)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|gate| gate.held -= 1);
    }
}

/// Passes a request, once it may.
async fn pass(gate: &watch::Sender<Gate>, operation: Operation, target: &str, moment: Moment) {
    let mut held = None;
    let mut changes = gate.subscribe();
    loop {
        let mut may = true;
        gate.send_if_modified(|gate| match &mut gate.hold {
            Some(hold)
                if hold.operation == operation && hold.moment == moment && target.contains(&hold.part) =>
            {
                may = hold.left > 0;
                hold.left = hold.left.saturating_sub(1);
                may
            }
            _ => false,
        });
        if may {
            return;
        }
        held.get_or_insert_with(|| Held::new(gate));
        changes.changed().await.unwrap();
    }
}

/// Adds what S3's listings have and those of the file system lack: etags, which are MD5 sums here too.
async fn with_etags(response: Response, bucket: &Path) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut rest = std::str::from_utf8(&body).unwrap();
    let mut listing = String::with_capacity(2 * rest.len());
    while let Some((before, after)) = rest.split_once("</Key>") {
        let key = before.rsplit_once("<Key>").unwrap().1.replace("&amp;", "&");
        listing.push_str(before);
        listing.push_str("</Key>");
        // A file may be gone since it was listed.
        if let Ok(content) = std::fs::read(bucket.join(key)) {
            let _ = write!(listing, "<ETag>&quot;{:x}&quot;</ETag>", Md5::digest(content));
        }
        rest = after;
    }
    listing.push_str(rest);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, listing.into())
}

impl S3Server {
    /// Starts a server with these (empty) buckets on a port of its own.
    pub async fn start(buckets: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir_all(root.path().join(bucket)).unwrap();
        }
        let service = {
            let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
            builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
            builder.build()
        };
        let service = HandleError::new(service, |error: s3s::HttpError| async move {
            (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), format!("{error:?}"))
        });
        let gate = Arc::new(watch::Sender::new(Gate::default()));
        let (of_requests, buckets) = (gate.clone(), root.path().to_owned());
        let hold = from_fn(move |request: Request, next: Next| {
            let (gate, buckets) = (of_requests.clone(), buckets.clone());
            async move {
                let Some(operation) = Operation::of(&request) else { return next.run(request).await };
                let target = request.uri().to_string();
                let bucket = buckets.join(request.uri().path().trim_matches('/'));
                let mut refusal = None;
                gate.send_modify(|gate| refusal = gate.refuse(operation, &target));
                if let Some(refusal) = refusal {
                    return refusal.answer();
                }
                pass(&gate, operation, &target, Moment::Before).await;
                let response = next.run(request).await;
                pass(&gate, operation, &target, Moment::Answer).await;
                match operation {
                    Operation::List => with_etags(response, &bucket).await,
                    _ => response,
                }
            }
        });
        let app = Router::new().fallback_service(service).layer(hold);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self { address, root, gate, task }
    }

    /// From now on, holds all requests of a kind whose target (`/bucket/path?query`, as sent) contains
    /// `part`, but the next `pass` of them. Only the last hold counts.
    pub fn hold(&self, operation: Operation, part: &str, pass: usize) {
        self.hold_at(Moment::Before, operation, part, pass);
    }

    /// The same for their answers: what they ask for is done, and they do not hear of it.
    pub fn hold_answers(&self, operation: Operation, part: &str, pass: usize) {
        self.hold_at(Moment::Answer, operation, part, pass);
    }

    fn hold_at(&self, moment: Moment, operation: Operation, part: &str, left: usize) {
        let hold = Hold { operation, part: part.to_owned(), moment, left };
        self.gate.send_modify(|gate| gate.hold = Some(hold));
    }

    /// Waits until so many requests are held at once.
    pub async fn wait_until_held(&self, requests: usize) {
        let mut changes = self.gate.subscribe();
        let held = changes.wait_for(|gate| gate.held >= requests);
        let held = tokio::time::timeout(Duration::from_secs(60), held).await;
        held.expect("requests come to the gate").unwrap();
    }

    /// Lets everything pass that was held.
    pub fn release(&self) {
        self.gate.send_modify(|gate| gate.hold = None);
    }

    /// From now on, refuses requests of a kind whose target contains `part`: not the next `pass` of them, but the
    /// `times` after these.
    pub fn refuse(&self, operation: Operation, part: &str, pass: usize, times: usize, refusal: Refusal) {
        let refusing = Refusing { operation, part: part.to_owned(), pass, times, refusal };
        self.gate.send_modify(|gate| gate.refusals.push(refusing));
    }

    /// Refuses nothing any more; how many requests were refused until now.
    pub fn forgive(&self) -> usize {
        let mut refused = 0;
        self.gate.send_modify(|gate| {
            gate.refusals.clear();
            refused = std::mem::take(&mut gate.refused);
        });
        refused
    }

    /// The connection keys of this server.
    pub fn connection(&self) -> [(&'static str, String); 3] {
        [
            ("endpoint_url", self.endpoint()),
            ("access_key_id", ACCESS_KEY.to_owned()),
            ("secret_access_key", SECRET_KEY.to_owned()),
        ]
    }

    /// The statement that makes a stage of a bucket's CSV files.
    pub fn create_stage(&self, name: &str, bucket: &str) -> String {
        let keys = self.connection().map(|(key, value)| format!("{key} = '{value}'")).join(" ");
        format!("CREATE STAGE {name} URL = 's3://{bucket}/' CONNECTION = ({keys}) FILE_FORMAT = (TYPE = CSV)")
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder of a path in a bucket (`bucket/path`).
    pub fn folder(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// The folder that holds the buckets.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
