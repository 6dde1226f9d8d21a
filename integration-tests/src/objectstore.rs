//! An S3 server in this process: the real protocol, signatures included, over a folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::error_handling::HandleError;
use axum::http::{HeaderMap, StatusCode};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The one access key that it knows.
pub const ACCESS_KEY: &str = "AKIASTEVEDORE";
/// Its secret.
pub const SECRET_KEY: &str = "a-very-secret-key";

/// A running server. Buckets are the folders below [`S3Server::folder`].
pub struct S3Server {
    address: SocketAddr,
    root: TempDir,
    task: JoinHandle<()>,
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
        let app = Router::new().fallback_service(service);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self { address, root, task }
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
