//! A server with the shape of the Hugging Face Hub's API, over a folder.
//!
//! The dataset and model `acme/sales` are the folder; their revision `old` is its folder `old`. The dataset
//! `acme/private` is the same and wants the token; `acme/gated` is gated for everyone. Listings come two files a
//! page. Files whose name ends with `.parquet` are large ones: they redirect to another server, which refuses the
//! token. A commit can be read as long as nothing has changed since.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderName, LINK, LOCATION};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::web::{answer, files_below, serve_content, start};

/// What opens `acme/private`.
pub const TOKEN: &str = "hf_stevedore";
const PAGE: usize = 2;

/// A running server.
pub struct HubServer {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

fn hash(content: &[u8]) -> String {
    format!("{:x}", Md5::digest(content))
}

fn refuse(status: StatusCode, code: &str) -> Response {
    answer(status, &[(HeaderName::from_static("x-error-code"), code.to_owned())], b"")
}

/// A path of a URL as the name of a file.
fn decoded(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut name = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        name.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        name.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(name).unwrap()
}

/// The files of a revision, and its commit.
fn revision(folder: &Path, name: &str) -> Option<(String, Vec<(String, Vec<u8>)>)> {
    ["main", "old"].into_iter().find_map(|branch| {
        let folder = if branch == "main" { folder.to_owned() } else { folder.join(branch) };
        let files = files_below(&folder);
        let all: String = files.iter().map(|(path, content)| format!("{path} {}\n", hash(content))).collect();
        let commit = format!("{}{}", hash(all.as_bytes()), &hash(branch.as_bytes())[..8]);
        (name == branch || name == commit).then_some((commit, files))
    })
}

fn described(path: &str, content: &[u8]) -> Value {
    let mut entry = json!({ "type": "file", "path": path, "size": content.len(), "oid": hash(content) });
    if path.ends_with(".parquet") {
        entry["oid"] = json!(format!("pointer-{}", hash(content)));
        entry["lfs"] = json!({ "oid": hash(content), "size": content.len(), "pointerSize": 130 });
    }
    entry
}

async fn serve(folder: PathBuf, cdn: SocketAddr, request: Request) -> Response {
    let path = decoded(request.uri().path().trim_start_matches('/'));
    let query = request.uri().query().unwrap_or("").to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let (what, org, name, rest) = match parts[..] {
        ["api", "datasets" | "models", org, name, what, ref rest @ ..] => (what, org, name, rest.to_vec()),
        ["datasets", org, name, "resolve", ref rest @ ..] | [org, name, "resolve", ref rest @ ..] => {
            ("resolve", org, name, rest.to_vec())
        }
        _ => return answer(StatusCode::NOT_FOUND, &[], b""),
    };
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match (org, name) {
        ("acme", "sales") => {}
        ("acme", "private") if token == Some(&format!("Bearer {TOKEN}")) => {}
        ("acme", "gated") => return refuse(StatusCode::FORBIDDEN, "GatedRepo"),
        _ => return refuse(StatusCode::UNAUTHORIZED, "RepoNotFound"),
    }
    let Some((commit, files)) = rest.first().and_then(|name| revision(&folder, name)) else {
        return refuse(StatusCode::NOT_FOUND, "RevisionNotFound");
    };
    let below = rest[1..].join("/");
    let json_of = |value: &Value| value.to_string().into_bytes();
    match what {
        "revision" => answer(StatusCode::OK, &[], &json_of(&json!({ "sha": commit }))),
        "tree" => {
            let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
            let found: Vec<Value> = files
                .iter()
                .filter(|(path, _)| path.starts_with(&prefix))
                .map(|(path, content)| described(path, content))
                .collect();
            if found.is_empty() && !below.is_empty() {
                return refuse(StatusCode::NOT_FOUND, "EntryNotFound");
            }
            let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
            let from: usize = asked("cursor=").map_or(0, |text| text.parse().unwrap());
            let page = &found[from..found.len().min(from + PAGE)];
            let mut headers = Vec::new();
            if from + PAGE < found.len() {
                let next = format!(
                    "<http://{}/{path}?recursive=true&cursor={}>; rel=\"next\"",
                    request.headers()["host"].to_str().unwrap(),
                    from + PAGE
                );
                headers.push((LINK, next));
            }
            answer(StatusCode::OK, &headers, &json_of(&json!(page)))
        }
        "paths-info" => {
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let asked: Vec<&str> =
                asked["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let found: Vec<Value> = files
                .iter()
                .filter(|(path, _)| asked.contains(&path.as_str()))
                .map(|(path, content)| described(path, content))
                .collect();
            answer(StatusCode::OK, &[], &json_of(&json!(found)))
        }
        "resolve" => {
            let Some((_, content)) = files.iter().find(|(path, _)| *path == below) else {
                return refuse(StatusCode::NOT_FOUND, "EntryNotFound");
            };
            let of_commit = (HeaderName::from_static("x-repo-commit"), commit.clone());
            if below.ends_with(".parquet") {
                let headers = [
                    of_commit,
                    (ETAG, "\"of-the-pointer\"".to_owned()),
                    (HeaderName::from_static("x-linked-etag"), format!("\"{}\"", hash(content))),
                    (LOCATION, format!("http://{cdn}/{}", below.replace('%', "%25"))),
                ];
                return answer(StatusCode::FOUND, &headers, b"");
            }
            if *request.method() == Method::HEAD {
                let size = content.len().to_string();
                let etag = format!("\"{}\"", hash(content));
                return answer(StatusCode::OK, &[of_commit, (ETAG, etag), (CONTENT_LENGTH, size)], b"");
            }
            serve_content(&request, content, &hash(content))
        }
        _ => answer(StatusCode::NOT_FOUND, &[], b""),
    }
}

fn serve_large(folder: &Path, request: &Request) -> Response {
    if request.headers().contains_key(AUTHORIZATION) {
        return answer(StatusCode::BAD_REQUEST, &[], b"a token of another server");
    }
    match std::fs::read(folder.join(decoded(request.uri().path().trim_start_matches('/')))) {
        Ok(content) => serve_content(request, &content, "an-etag-of-its-own"),
        Err(_) => answer(StatusCode::NOT_FOUND, &[], b""),
    }
}

impl HubServer {
    /// Starts one over a folder, on ports of its own.
    pub async fn start(folder: PathBuf) -> Self {
        let of_cdn = folder.clone();
        let app = Router::new().fallback(move |request: Request| {
            let response = serve_large(&of_cdn, &request);
            async move { response }
        });
        let (cdn, large) = start(app).await;
        let app = Router::new().fallback(move |request: Request| serve(folder.clone(), cdn, request));
        let (address, api) = start(app).await;
        Self { address, tasks: [large, api] }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
