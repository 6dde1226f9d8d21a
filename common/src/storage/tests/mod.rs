//! What users see of stores, on a real folder, in memory, over HTTP and over S3's protocol (both on
//! loopback).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod identities;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleError;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::any;
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::S3ServiceBuilder;

use super::*;
use crate::ErrorKind;

fn fs_store(root: &Path) -> Store {
    let policy = StoragePolicy { allowed_fs_roots: vec![root.to_owned()], ..StoragePolicy::default() };
    Store::build(&StorageSpec::new(Location::parse("fs:///").unwrap(), policy)).unwrap()
}

/// The path of a file below `fs:///`.
fn under(root: &Path, name: &str) -> String {
    format!("{}/{name}", root.canonicalize().unwrap().to_str().unwrap().trim_start_matches('/'))
}

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

async fn names(store: &Store, prefix: &str, options: ListOptions) -> Result<Vec<String>> {
    store.list(prefix, options).map_ok(|entry| entry.path).try_collect().await
}

fn files(names: &[&str]) -> ListOptions {
    ListOptions { files: Some(names.iter().map(ToString::to_string).collect()), pattern: None }
}

fn pattern(text: &str) -> ListOptions {
    ListOptions { files: None, pattern: Some(StagePattern::new(text).unwrap()) }
}

async fn text(file: &PinnedFile) -> Result<String> {
    Ok(String::from_utf8(file.read_all(1 << 20).await?.to_vec()).unwrap())
}

async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_listing_knows_raw_prefixes_folders_patterns_and_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["in/ab.csv", "in/abc/x.csv", "in/b.csv", "in/ab/1 2%20é.csv", "in/.stevedore-123", "other/z.csv"]
    {
        write(dir.path(), name, "1\n");
    }
    let store = fs_store(dir.path());
    let store = store.at(store.root().join(&under(dir.path(), "")).unwrap()).unwrap();
    let list = |prefix: &'static str, options| {
        let store = store.clone();
        async move { names(&store, prefix, options).await.unwrap() }
    };
    assert_eq!(
        list("in/", ListOptions::default()).await,
        ["in/ab.csv", "in/ab/1 2%20é.csv", "in/abc/x.csv", "in/b.csv"]
    );
    assert_eq!(
        list("in/ab", ListOptions::default()).await,
        ["in/ab.csv", "in/ab/1 2%20é.csv", "in/abc/x.csv"]
    );
    assert_eq!(list("in/ab/", ListOptions::default()).await, ["in/ab/1 2%20é.csv"]);
    assert_eq!(list("in/", pattern("[^/]*[.]csv")).await, ["in/ab.csv", "in/b.csv"]);
    assert_eq!(list("in", pattern("abc/.*")).await, ["in/abc/x.csv"]);
    assert_eq!(list("in/", files(&["b.csv", "abc/x.csv", "b.csv"])).await, ["in/b.csv", "in/abc/x.csv"]);
    assert!(list("nowhere/", ListOptions::default()).await.is_empty());

    let missing = names(&store, "in/", files(&["b.csv", "nope.csv"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("'nope.csv' of FILES"), "{missing}");
    assert!(names(&store, "in/", files(&["../other/z.csv"])).await.is_err());
}

#[tokio::test]
async fn local_files_outside_the_allowed_roots_are_refused_also_through_links() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(outside.path(), "secret.csv", "x");
    write(dir.path(), "in/ok.csv", "x");
    std::os::unix::fs::symlink(outside.path(), dir.path().join("in/way_out")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.csv"), dir.path().join("in/link.csv")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("in"), dir.path().join("in/loop")).unwrap();
    let store = fs_store(dir.path());

    assert_eq!(
        names(&store, &under(dir.path(), "in/"), ListOptions::default()).await.unwrap(),
        [under(dir.path(), "in/ok.csv")]
    );
    for path in [
        under(outside.path(), "secret.csv"),
        under(outside.path(), "absent.csv"),
        under(dir.path(), "in/link.csv"),
        under(dir.path(), "in/way_out/secret.csv"),
        "etc/passwd".to_owned(),
    ] {
        assert_eq!(store.head(&path).await.unwrap_err().kind(), ErrorKind::PermissionDenied, "{path}");
    }
    let written = store.put(&under(dir.path(), "in/way_out/new.csv"), Bytes::from("x")).await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(store.head(&under(dir.path(), "../x")).await.is_err());
    assert!(names(&store, "etc/", ListOptions::default()).await.is_err());

    let nothing_allowed = StorageSpec::new(Location::parse("fs:///").unwrap(), StoragePolicy::default());
    assert_eq!(Store::build(&nothing_allowed).unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_local_file_that_changes_while_it_is_read_is_a_conflict_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.csv", "one");
    let store = fs_store(dir.path());
    let path = under(dir.path(), "a.csv");
    let listed = store.head(&path).await.unwrap();
    let open = store.open(&path, &listed.version).await.unwrap();
    assert_eq!(text(&open).await.unwrap(), "one");

    write(dir.path(), "a.csv", "one and more");
    let error = text(&open).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("a.csv' changed while it was read"), "{error}");
    assert_eq!(store.open(&path, &listed.version).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(!store.delete_if_unchanged(&path, &listed.version).await.unwrap());
    let now = store.head(&path).await.unwrap();
    assert!(store.delete_if_unchanged(&path, &now.version).await.unwrap());
    assert!(store.delete_if_unchanged(&path, &now.version).await.unwrap());
    assert_eq!(store.head(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn small_files_are_read_many_at_a_time_and_each_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let local = fs_store(dir.path());
    let local = local.at(local.root().join(&under(dir.path(), "")).unwrap()).unwrap();
    for store in [local, Store::in_memory()] {
        let mut wanted = Vec::new();
        for name in ["a", "b", "c", "d"] {
            store.put(name, Bytes::from(name.repeat(3))).await.unwrap();
            wanted.push((name.to_owned(), store.head(name).await.unwrap().version));
        }
        store.put("b", Bytes::from_static(b"longer than before")).await.unwrap();
        store.delete("c").await.unwrap();
        let read = store.read_small(wanted).await;
        assert_eq!(read[0].as_deref().unwrap(), b"aaa");
        assert_eq!(read[1].as_ref().unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(read[2].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read[3].as_deref().unwrap(), b"ddd");
    }
}

#[tokio::test]
async fn a_file_appears_only_when_its_writer_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = fs_store(dir.path());
    let path = under(dir.path(), "out/deep/a.bin");
    let mut writer = store.writer(&path).await.unwrap();
    writer.write(Bytes::from("12")).await.unwrap();
    assert!(store.head(&path).await.is_err());
    assert!(names(&store, &under(dir.path(), ""), ListOptions::default()).await.unwrap().is_empty());
    writer.write(Bytes::from("34")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(text(&store.open_current(&path).await.unwrap()).await.unwrap(), "1234");

    let mut dropped = store.writer(&under(dir.path(), "out/deep/b.bin")).await.unwrap();
    dropped.write(Bytes::from("12")).await.unwrap();
    drop(dropped);
    assert_eq!(std::fs::read_dir(dir.path().join("out/deep")).unwrap().count(), 1);
    assert_eq!(store.put_new(&path, Bytes::from("x")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_dir(dir.path().join("out/deep")).unwrap().count(), 1);
}

#[tokio::test]
async fn ranges_come_back_in_the_order_asked_and_chunks_in_file_order() {
    let store = Store::in_memory();
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    store.put("a/b.bin", Bytes::from(content.clone())).await.unwrap();
    let file = store.open_current("a/b.bin").await.unwrap();
    let got = file.read_ranges(&[200_000..200_010, 5..9, 7..7, 0..20]).await.unwrap();
    assert_eq!(got, [&content[200_000..200_010], &content[5..9], &[], &content[..20]]);
    let ahead = ReadAhead { chunk_bytes: 64 << 10, ahead: 3 };
    let chunks: Vec<Bytes> = file.chunks(10..300_000, ahead).try_collect().await.unwrap();
    assert_eq!(chunks.len(), 5);
    assert_eq!(chunks.concat(), &content[10..]);
    assert!(file.read_range(0..300_001).await.is_err());
    assert!(file.read_all(10).await.unwrap_err().to_string().contains("300000 bytes"));

    store.put("a/b.bin", Bytes::from("other")).await.unwrap();
    assert_eq!(file.read_range(0..5).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(names(&store, "a", ListOptions::default()).await.unwrap(), ["a/b.bin"]);
}

/// A web server with a few bad habits, chosen by the first segment of the path.
async fn web_server() -> (SocketAddr, std::sync::Arc<AtomicUsize>) {
    let flaky = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&flaky);
    let answer = move |request: axum::extract::Request| {
        let counter = std::sync::Arc::clone(&counter);
        async move {
            let path = request.uri().path().to_owned();
            let (kind, name) = path[1..].split_once('/').unwrap_or(("", ""));
            let status = |code: StatusCode| Response::builder().status(code).body(Body::empty()).unwrap();
            let get =
                |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let redirect = |to: &str| {
                Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap()
            };
            match kind {
                "moved" => return redirect(&format!("/plain/{name}")),
                "loop" => return redirect(&path),
                "inward" => return redirect("http://169.254.169.254/latest/meta-data"),
                _ if name.starts_with("missing") => return status(StatusCode::NOT_FOUND),
                "nohead" if request.method() == "HEAD" => return status(StatusCode::METHOD_NOT_ALLOWED),
                "flaky" if counter.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                    return status(StatusCode::SERVICE_UNAVAILABLE);
                }
                _ => {}
            }
            let content = format!("content of {name}\n");
            let etag = if kind == "changing" {
                format!("\"v{}\"", counter.fetch_add(1, Ordering::SeqCst))
            } else {
                "\"v1\"".to_owned()
            };
            if get("if-match").is_some_and(|wanted| wanted != etag) {
                return status(StatusCode::PRECONDITION_FAILED);
            }
            let mut response =
                Response::builder().header(header::LAST_MODIFIED, "Wed, 21 Oct 2015 07:28:00 GMT");
            if kind == "whole" {
                return response.body(Body::from(content)).unwrap();
            }
            response = response.header(header::ETAG, etag).header(header::ACCEPT_RANGES, "bytes");
            match get("range").and_then(|r| Some(r.strip_prefix("bytes=")?.split_once('-')?.to_owned_pair()))
            {
                Some((start, end)) => {
                    let end = end.min(content.len() - 1);
                    response
                        .status(206)
                        .header(header::CONTENT_RANGE, format!("bytes {start}-{end}/{}", content.len()))
                        .body(Body::from(content[start..=end].to_owned()))
                        .unwrap()
                }
                None => response.body(Body::from(content)).unwrap(),
            }
        }
    };
    (serve(Router::new().fallback(any(answer))).await, flaky)
}

trait ToOwnedPair {
    fn to_owned_pair(self) -> (usize, usize);
}

impl ToOwnedPair for (&str, &str) {
    fn to_owned_pair(self) -> (usize, usize) {
        (self.0.parse().unwrap(), self.1.parse().unwrap())
    }
}

fn http_store(address: SocketAddr) -> Store {
    let policy = StoragePolicy { allow_private_network: true, ..StoragePolicy::default() };
    Store::build(&StorageSpec::new(Location::parse(&format!("http://{address}/")).unwrap(), policy)).unwrap()
}

#[tokio::test]
async fn web_files_are_named_by_globs_and_read_in_ranges() {
    let (address, _) = web_server().await;
    let store = http_store(address);
    let listed = names(&store, "plain/x{a,b}[1-2].csv", ListOptions::default()).await.unwrap();
    assert_eq!(listed, ["plain/xa1.csv", "plain/xa2.csv", "plain/xb1.csv", "plain/xb2.csv"]);
    let listed = names(&store, "plain/x{a,b}[1-2].csv", pattern("x.1[.]csv")).await.unwrap();
    assert_eq!(listed, ["plain/xa1.csv", "plain/xb1.csv"]);

    let file = store.open_current("plain/xa1.csv").await.unwrap();
    assert!(file.can_split());
    assert_eq!(file.version().etag.as_deref(), Some("v1"));
    assert_eq!(file.version().last_modified_ms, 1_445_412_480_000);
    assert_eq!(file.read_range(8..10).await.unwrap(), "of");
    for path in ["moved/x", "nohead/x", "flaky/x"] {
        assert_eq!(text(&store.open_current(path).await.unwrap()).await.unwrap(), "content of x\n", "{path}");
    }

    let missing = names(&store, "plain/{x,missing}.csv", ListOptions::default()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("plain/missing.csv"), "{missing}");
    assert!(names(&store, "plain/", ListOptions::default()).await.is_err());
    assert!(store.head("loop/x").await.unwrap_err().to_string().contains("redirects"));
    assert_eq!(store.put("plain/x", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_in_one_pass() {
    let (address, _) = web_server().await;
    let file = http_store(address).open_current("whole/x.csv").await.unwrap();
    assert!(!file.can_split());
    assert_eq!(text(&file).await.unwrap(), "content of x.csv\n");
    let chunks: Vec<Bytes> = file.chunks(8..10, ReadAhead::default()).try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"of");
    assert_eq!(file.read_range(8..10).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_web_file_that_changes_is_a_conflict() {
    let (address, _) = web_server().await;
    let store = http_store(address);
    let listed = store.head("changing/x.csv").await.unwrap();
    assert_eq!(store.open("changing/x.csv", &listed.version).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn the_egress_policy_holds_for_addresses_names_and_redirects() {
    let (address, _) = web_server().await;
    let strict = StoragePolicy::default();
    let spec = |uri: &str| StorageSpec::new(Location::parse(uri).unwrap(), strict.clone());
    let error = Store::build(&spec(&format!("http://{address}/"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("egress policy"), "{error}");
    assert!(Store::build(&spec("http://2130706433/")).is_err());

    let named = Store::build(&spec(&format!("http://localhost:{}/", address.port()))).unwrap();
    let error = named.head("plain/x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    let mut s3 = spec("s3://bucket/");
    s3.params.insert("endpoint_url".into(), format!("http://{address}"));
    assert_eq!(Store::build(&s3).unwrap_err().kind(), ErrorKind::PermissionDenied);
    s3.params.insert("endpoint_url".into(), format!("http://localhost:{}", address.port()));
    let error = names(&Store::build(&s3).unwrap(), "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("bucket 'bucket'"), "{error}");
}

const KEY: &str = "AKIATEST";
const SECRET: &str = "very-secret-key";

/// S3 over a folder, with the bucket in the host's name or in the path.
fn s3_app(root: &Path, host: Option<&str>) -> Router {
    let service = {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        if let Some(host) = host {
            builder.set_host(SingleDomain::new(host).unwrap());
        }
        builder.build()
    };
    let service = HandleError::new(service, |e: s3s::HttpError| async move {
        (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), format!("{e:?}"))
    });
    Router::new().fallback_service(service)
}

async fn s3_server(root: &Path) -> SocketAddr {
    serve(s3_app(root, None)).await
}

fn s3_spec(address: SocketAddr, uri: &str, secret: &str) -> StorageSpec {
    let policy = StoragePolicy { allow_private_network: true, ..StoragePolicy::default() };
    let mut spec = StorageSpec::new(Location::parse(uri).unwrap(), policy);
    spec.params.insert("endpoint_url".into(), format!("http://{address}"));
    spec.secrets.insert("access_key_id".into(), Secret::new(KEY.into()));
    spec.secrets.insert("secret_access_key".into(), Secret::new(secret.into()));
    spec
}

#[tokio::test]
async fn a_bucket_is_listed_read_written_and_pinned() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let address = s3_server(dir.path()).await;
    let stores = Stores::default();
    let store = stores.get(&s3_spec(address, "s3://bucket/base/", SECRET)).unwrap();
    for name in ["in/ab.csv", "in/abc/x.csv", "in/b.csv", "z.csv"] {
        store.put(name, Bytes::from("1\n2\n")).await.unwrap();
    }
    assert_eq!(names(&store, "in/ab", ListOptions::default()).await.unwrap(), ["in/ab.csv", "in/abc/x.csv"]);
    assert_eq!(names(&store, "in/", pattern("[a-z]*[.]csv")).await.unwrap(), ["in/ab.csv", "in/b.csv"]);
    assert_eq!(names(&store, "in/", files(&["b.csv"])).await.unwrap(), ["in/b.csv"]);
    assert!(names(&store, "in/", files(&["no.csv"])).await.unwrap_err().to_string().contains("'no.csv'"));

    let listed: Vec<FileEntry> = store.list("in/b", ListOptions::default()).try_collect().await.unwrap();
    assert_eq!(listed[0].version.size, 4);
    let head = store.head("in/b.csv").await.unwrap();
    let file = store.open("in/b.csv", &head.version).await.unwrap();
    assert_eq!(file.read_range(2..4).await.unwrap(), "2\n");
    store.put("in/b.csv", Bytes::from("longer than before\n")).await.unwrap();
    let error = file.read_range(0..4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("in/b.csv' changed while it was read"), "{error}");

    let mut writer = store.writer("big.bin").await.unwrap();
    for _ in 0..3 {
        writer.write(Bytes::from(vec![7u8; 4 << 20])).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert_eq!(store.head("big.bin").await.unwrap().version.size, 12 << 20);
    store.delete("big.bin").await.unwrap();
    store.delete("big.bin").await.unwrap();
    assert_eq!(store.delete_folder("in/").await.unwrap(), 3);
    assert_eq!(names(&store, "", ListOptions::default()).await.unwrap(), ["z.csv"]);
    let url = store.presign(false, "z.csv", Duration::from_secs(60)).await.unwrap().url;
    assert!(url.expose().contains("X-Amz-Signature"));
    assert_eq!(reqwest::get(url.expose()).await.unwrap().text().await.unwrap(), "1\n2\n");
    // Whoever has a URL for an upload writes that file, and no other.
    let put = store.presign(true, "up/new.csv", Duration::from_secs(60)).await.unwrap();
    assert!(put.headers.is_empty());
    let client = reqwest::Client::new();
    let other = put.url.expose().replace("new.csv", "other.csv");
    let refused = client.put(other).body("3\n").send().await.unwrap();
    assert_eq!(refused.status(), reqwest::StatusCode::FORBIDDEN);
    let request = client.put(put.url.expose()).header("content-type", "text/csv").body("3\n4\n");
    request.send().await.unwrap().error_for_status().unwrap();
    assert_eq!(text(&store.open_current("up/new.csv").await.unwrap()).await.unwrap(), "3\n4\n");
    assert_eq!(names(&store, "up/", ListOptions::default()).await.unwrap(), ["up/new.csv"]);
}

/// A file under a hidden name is listed only by who asks for such names, until it gets another.
async fn hidden_until_renamed(store: &Store, folder: &str) {
    let (hidden, shown) = (format!("{folder}.stevedore-x-1"), format!("{folder}deep/shown.csv"));
    store.put(&hidden, Bytes::from("1\n")).await.unwrap();
    let none: [&str; 0] = [];
    assert_eq!(names(store, folder, ListOptions::default()).await.unwrap(), none);
    assert_eq!(names(store, &format!("{folder}.stevedore-y-"), ListOptions::default()).await.unwrap(), none);
    let asked = names(store, &format!("{folder}.stevedore-x-"), ListOptions::default()).await.unwrap();
    assert_eq!(asked, [hidden.as_str()]);
    store.rename(&hidden, &shown).await.unwrap();
    assert_eq!(names(store, folder, ListOptions::default()).await.unwrap(), [shown.as_str()]);
    assert_eq!(store.rename(&hidden, &shown).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Another takes its place.
    store.put(&hidden, Bytes::from("22\n")).await.unwrap();
    store.rename(&hidden, &shown).await.unwrap();
    assert_eq!(text(&store.open_current(&shown).await.unwrap()).await.unwrap(), "22\n");
    store.delete(&shown).await.unwrap();
}

#[tokio::test]
async fn a_file_is_hidden_until_it_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let s3 = Store::build(&s3_spec(s3_server(dir.path()).await, "s3://bucket/", SECRET)).unwrap();
    hidden_until_renamed(&s3, "s3/").await;
    hidden_until_renamed(&Store::in_memory(), "memory/").await;
    let store = fs_store(dir.path());
    hidden_until_renamed(&store, &under(dir.path(), "fs/")).await;
    let outside = tempfile::tempdir().unwrap();
    store.put(&under(dir.path(), "a"), Bytes::from("a")).await.unwrap();
    let error = store.rename(&under(dir.path(), "a"), &under(outside.path(), "a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn wrong_keys_missing_buckets_and_dead_endpoints_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let address = s3_server(dir.path()).await;

    let store = Store::build(&s3_spec(address, "s3://bucket/", "wrong-secret")).unwrap();
    let error = names(&store, "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(
        error.to_string().contains("bucket 'bucket'") && error.to_string().contains("SECRET_ACCESS_KEY"),
        "{error}"
    );
    assert!(!format!("{error:?} {store:?}").contains("wrong-secret"));

    let store = Store::build(&s3_spec(address, "s3://nope/", SECRET)).unwrap();
    let error = names(&store, "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("bucket 'nope'"), "{error}");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::build(&s3_spec(closed, "s3://bucket/", SECRET)).unwrap();
    let error = names(&store, "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("cannot connect to bucket 'bucket'") && text.contains(&closed.to_string()),
        "{text}"
    );

    let mut half = s3_spec(closed, "s3://bucket/", SECRET);
    half.secrets.remove("access_key_id");
    assert!(
        Store::build(&half).unwrap_err().to_string().contains("both ACCESS_KEY_ID and SECRET_ACCESS_KEY")
    );
    half.secrets.clear();
    half.params.insert("role_arn".into(), "arn:x".into());
    let error = Store::build(&half).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--allow-ambient-credentials")), "{error}");
    half.secrets.insert("master_key".into(), Secret::new("k".into()));
    assert!(Store::build(&half).unwrap_err().to_string().contains("not supported: MASTER_KEY"));
}

#[tokio::test]
async fn a_warehouse_speaks_the_uris_that_iceberg_readers_know() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("wh");
    let warehouse = Warehouse::open(root.to_str().unwrap(), BTreeMap::new(), BTreeMap::new()).unwrap();
    assert_eq!(warehouse.root_uri(), format!("file://{}", root.display()));
    let uuid = uuid::Uuid::nil();
    let location = warehouse.table_location("default", "a/../b", uuid);
    assert_eq!(location, format!("file://{}/default/a____b-{uuid}", root.display()));

    let io = warehouse.file_io();
    let file = format!("{location}/metadata/v1.json");
    io.new_output(&file).unwrap().write(Bytes::from("{}")).await.unwrap();
    assert!(root.join(format!("default/a____b-{uuid}/metadata/v1.json")).is_file());
    assert_eq!(io.new_input(&file).unwrap().read().await.unwrap(), "{}");
    let mut writer = io.new_output(format!("{location}/data/1.parquet")).unwrap().writer().await.unwrap();
    writer.write(Bytes::from("abc")).await.unwrap();
    writer.close().await.unwrap();
    let input = io.new_input(format!("{location}/data/1.parquet")).unwrap();
    assert_eq!(input.metadata().await.unwrap().size, 3);
    assert_eq!(input.reader().await.unwrap().read(1..3).await.unwrap(), "bc");
    assert!(io.exists(&file).await.unwrap() && !io.exists(format!("{location}/nope")).await.unwrap());
    io.delete_prefix(&location).await.unwrap();
    assert!(!io.exists(&file).await.unwrap());

    for outside in ["file:///etc/passwd", "s3://b/x", &format!("{}/../x", warehouse.root_uri())] {
        assert!(io.new_input(outside).is_err() || io.exists(outside).await.is_err(), "{outside}");
    }
    let stage = Store::build(&warehouse.stage_spec(7).unwrap()).unwrap();
    stage.put("a.csv", Bytes::from("1")).await.unwrap();
    assert!(root.join("stages/7/a.csv").is_file());
    assert!(warehouse.stage_spec("../x").is_err());
}

#[test]
fn a_spec_prints_no_secret_but_tells_secrets_apart() {
    let spec = format!("{:?}", s3_spec("127.0.0.1:1".parse().unwrap(), "s3://b/", SECRET));
    assert!(!spec.contains(SECRET) && !spec.contains(KEY), "{spec}");
    assert_ne!(
        s3_spec("127.0.0.1:1".parse().unwrap(), "s3://b/", "one").digest(),
        s3_spec("127.0.0.1:1".parse().unwrap(), "s3://b/", "two").digest()
    );
}
