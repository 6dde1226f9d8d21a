//! A web server in this process: a folder over plain HTTP.
//!
//! `/path` is the file, with a strong etag, ranges, HEAD and conditions, as object stores and good web
//! servers have them. `/bare/path` is the same file without any of that: only GET of the whole of it.
//! `/moved/path` redirects to `/path`. `/broken/path` is always an internal error.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_MATCH, IF_RANGE, LOCATION, RANGE,
};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tokio::task::JoinHandle;

/// A running server.
pub struct WebServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// An answer with these headers.
pub(crate) fn answer(status: StatusCode, headers: &[(HeaderName, String)], body: &[u8]) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body.to_vec())).unwrap()
}

/// `bytes=0-9`, within a file of some size.
fn range_of(text: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = first.parse().ok()?..size.min(last.parse::<usize>().ok()? + 1);
    (range.start < range.end).then_some(range)
}

fn serve(folder: &Path, request: &Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    if let Some(path) = path.strip_prefix("moved/") {
        return answer(StatusCode::FOUND, &[(LOCATION, format!("/{path}"))], b"");
    }
    if path.starts_with("broken/") {
        return answer(StatusCode::INTERNAL_SERVER_ERROR, &[], b"");
    }
    let (bare, path) = match path.strip_prefix("bare/") {
        Some(path) => (true, path),
        None => (false, path),
    };
    if *request.method() != Method::GET && (bare || *request.method() != Method::HEAD) {
        return answer(StatusCode::METHOD_NOT_ALLOWED, &[], b"");
    }
    let Ok(content) = std::fs::read(folder.join(path)) else {
        return answer(StatusCode::NOT_FOUND, &[], b"");
    };
    if bare {
        return answer(StatusCode::OK, &[(CONTENT_LENGTH, content.len().to_string())], &content);
    }
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    serve_content(request, &content, &format!("{:016x}", hasher.finish()))
}

/// Content under a strong etag, with ranges, HEAD and conditions.
pub(crate) fn serve_content(request: &Request, content: &[u8], etag: &str) -> Response {
    let (size, etag) = (content.len(), format!("\"{etag}\""));
    let asked = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if asked(IF_MATCH).is_some_and(|wanted| wanted != etag) {
        return answer(StatusCode::PRECONDITION_FAILED, &[], b"");
    }
    let mut headers = vec![(ETAG, etag.clone()), (ACCEPT_RANGES, "bytes".to_owned())];
    let ranged = asked(RANGE).filter(|_| asked(IF_RANGE).is_none_or(|wanted| wanted == etag));
    match ranged.map(|range| range_of(range, size)) {
        None if *request.method() == Method::HEAD => {
            headers.push((CONTENT_LENGTH, size.to_string()));
            answer(StatusCode::OK, &headers, b"")
        }
        None => answer(StatusCode::OK, &headers, content),
        Some(None) => answer(StatusCode::RANGE_NOT_SATISFIABLE, &headers, b""),
        Some(Some(range)) => {
            headers.push((CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1)));
            answer(StatusCode::PARTIAL_CONTENT, &headers, &content[range])
        }
    }
}

/// The files below a folder with their content, by path.
pub(crate) fn files_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Serves an app on a port of its own.
pub(crate) async fn start(app: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        axum::serve(listener, app).await.unwrap();
    });
    (address, task)
}

impl WebServer {
    /// Starts one over a folder, on a port of its own.
    pub async fn start(folder: PathBuf) -> Self {
        let app = Router::new().fallback(move |request: Request| {
            let response = serve(&folder, &request);
            async move { response }
        });
        let (address, task) = start(app).await;
        Self { address, task }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
