//! An S3 server in this process: the real protocol, signatures included, over a folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The one access key that it knows.
pub const ACCESS_KEY: &str = "AKIASTEVEDORE";
/// Its secret.
pub const SECRET_KEY: &str = "a-very-secret-key";

/// A running server. Buckets are the folders below [`S3Server::folder`].
pub struct S3Server {
    address: SocketAddr,
    root: TempDir,
    gate: Arc<watch::Sender<Gate>>,
    task: JoinHandle<()>,
}

/// Lets a number of files be read and holds whoever asks for more, so that a test can act in the very
/// middle of a load.
#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    /// Reads that may still pass; `None`: all.
    left: Option<usize>,
    /// Reads that are held now.
    held: usize,
}

/// Passes a read, once it may.
async fn pass(gate: &watch::Sender<Gate>) {
    let mut counted = false;
    let mut changes = gate.subscribe();
    loop {
        let mut may = false;
        gate.send_if_modified(|gate| {
            match &mut gate.left {
                None => may = true,
                Some(0) => {}
                Some(left) => {
                    *left -= 1;
                    may = true;
                }
            }
            match (may, counted) {
                (false, false) => {
                    gate.held += 1;
                    counted = true;
                    true
                }
                (true, true) => {
                    gate.held -= 1;
                    true
                }
                _ => may,
            }
        });
        if may {
            return;
        }
        changes.changed().await.unwrap();
    }
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
        let of_requests = gate.clone();
        let hold = from_fn(move |request: Request, next: Next| {
            let gate = of_requests.clone();
            async move {
                // Listings are GETs of the bucket, reads are GETs of a key.
                let key = request.uri().path().trim_matches('/').split_once('/').is_some();
                if request.method() == Method::GET && key {
                    pass(&gate).await;
                }
                next.run(request).await
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

    /// From now on, holds all reads of files but the next `reads`.
    pub fn hold_after(&self, reads: usize) {
        self.gate.send_modify(|gate| gate.left = Some(reads));
    }

    /// Waits until so many reads are held at once.
    pub async fn wait_until_held(&self, reads: usize) {
        let mut changes = self.gate.subscribe();
        let held = changes.wait_for(|gate| gate.held >= reads);
        tokio::time::timeout(Duration::from_secs(60), held).await.expect("reads come to the gate").unwrap();
    }

    /// Lets all reads pass.
    pub fn release(&self) {
        self.gate.send_modify(|gate| gate.left = None);
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
