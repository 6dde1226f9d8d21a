//! Stores that are busy, break off, or change: over S3's protocol and over plain HTTP.

use std::sync::Mutex;

use axum::extract::Request;
use futures::stream;

use super::*;

/// What the next requests for a file's content meet, first to last; then they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// 503, with a Retry-After.
    Busy,
    /// 429, without one.
    TooMany,
    Broken,
    /// Half of the body, then the connection is reset.
    Reset,
    /// 403, as S3 answers an old session token.
    Expired,
    /// From now on the file is another version.
    Changed,
}

struct Faulty {
    address: SocketAddr,
    served: Arc<Mutex<(Vec<Fault>, usize)>>,
}

const SIZE: usize = 200_000;

fn content(version: u8) -> Vec<u8> {
    (0..SIZE).map(|n| version + u8::try_from(n % 100).unwrap()).collect()
}

impl Faulty {
    /// A server of one file, at any path.
    async fn start(faults: &[Fault]) -> Self {
        let faults = faults.iter().rev().copied().collect();
        let served = Arc::new(Mutex::new((faults, 0)));
        let state = Arc::clone(&served);
        let changed = Arc::new(AtomicUsize::new(0));
        let answer = move |request: Request| {
            let (state, changed) = (Arc::clone(&state), Arc::clone(&changed));
            async move { Self::answer(&request, &state, &changed) }
        };
        Self { address: serve(Router::new().fallback(any(answer))).await, served }
    }

    fn answer(request: &Request, state: &Mutex<(Vec<Fault>, usize)>, changed: &AtomicUsize) -> Response {
        let get = |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
        let status = |code: u16| Response::builder().status(code);
        let fault = match request.method().as_str() {
            "GET" => {
                let mut state = state.lock().unwrap();
                state.1 += 1;
                state.0.pop()
            }
            _ => None,
        };
        match fault {
            Some(Fault::Busy) => {
                return status(503).header(header::RETRY_AFTER, "0").body(Body::from("SlowDown")).unwrap();
            }
            Some(Fault::TooMany) => return status(429).body(Body::empty()).unwrap(),
            Some(Fault::Broken) => return status(500).body(Body::empty()).unwrap(),
            Some(Fault::Expired) => {
                let body = "<Error><Code>ExpiredToken</Code><Message>old</Message></Error>";
                return status(403).body(Body::from(body)).unwrap();
            }
            Some(Fault::Changed) => changed.store(1, Ordering::SeqCst),
            Some(Fault::Reset) | None => {}
        }
        let version = u8::try_from(changed.load(Ordering::SeqCst)).unwrap();
        let etag = format!("\"v{version}\"");
        if get(header::IF_MATCH).is_some_and(|wanted| wanted != etag) {
            return status(412).body(Body::empty()).unwrap();
        }
        let range =
            get(header::RANGE).and_then(|r| Some(r.strip_prefix("bytes=")?.split_once('-')?.to_owned_pair()));
        let (from, to) = range.map_or((0, SIZE), |(from, to)| (from, to + 1));
        let part = Bytes::from(content(version)).slice(from..to);
        let mut response = status(if range.is_some() { 206 } else { 200 })
            .header(header::ETAG, etag)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::LAST_MODIFIED, "Wed, 21 Oct 2015 07:28:00 GMT")
            .header(header::CONTENT_LENGTH, part.len());
        if range.is_some() {
            response = response.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{SIZE}", to - 1));
        }
        let body = match fault {
            Some(Fault::Reset) => {
                let half = part.slice(..part.len() / 2);
                Body::from_stream(stream::iter([Ok(half), Err(std::io::Error::other("reset"))]))
            }
            _ if request.method() == "HEAD" => Body::empty(),
            _ => Body::from(part),
        };
        response.body(body).unwrap()
    }

    fn requests(&self) -> usize {
        self.served.lock().unwrap().1
    }

    /// The file over both protocols.
    async fn files(&self) -> [PinnedFile; 2] {
        let mut spec = s3_spec(self.address, "s3://bucket/", SECRET);
        spec.params.insert("region".into(), "us-east-1".into());
        let s3 = Store::build(&spec).unwrap();
        [
            s3.open_current("a.bin").await.unwrap(),
            http_store(self.address).open_current("a.bin").await.unwrap(),
        ]
    }
}

#[tokio::test]
async fn busy_and_broken_stores_are_asked_again() {
    use Fault::{Broken, Busy, TooMany};
    for kind in 0..2 {
        let faults = [Busy, TooMany, Broken, Busy, Busy, Busy, Busy, Busy];
        let server = Faulty::start(&faults).await;
        let file = &server.files().await[kind];
        assert_eq!(file.read_all(1 << 20).await.unwrap(), content(0), "{kind}");
        assert_eq!(server.requests(), faults.len() + 1);
    }
}

#[tokio::test]
async fn a_read_that_was_reset_half_way_goes_on() {
    for kind in 0..2 {
        let server = Faulty::start(&[Fault::Reset, Fault::Broken, Fault::Reset]).await;
        let file = &server.files().await[kind];
        assert_eq!(file.read_range(10..150_000).await.unwrap(), content(0)[10..150_000], "{kind}");
        assert!(server.requests() >= 4, "{}", server.requests());
    }
}

#[tokio::test]
async fn a_file_that_changes_after_a_reset_is_a_conflict_and_never_a_mix() {
    for kind in 0..2 {
        let server = Faulty::start(&[Fault::Reset, Fault::Changed]).await;
        let file = &server.files().await[kind];
        let error = file.read_range(10..150_000).await.unwrap_err();
        // Where the library was already reading, it tells of the reset; the next attempt tells of the change.
        assert_eq!(error.kind(), ErrorKind::Conflict, "{kind}: {error}");
        assert!(error.to_string().contains("a.bin' changed while it was read"), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_expired_are_named_as_such() {
    let server = Faulty::start(&[Fault::Expired]).await;
    let error = server.files().await[0].read_range(0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    assert!(
        text.contains("a.bin")
            && text.contains("session token has expired")
            && text.contains("SESSION_TOKEN"),
        "{text}"
    );
}

#[tokio::test]
async fn a_gateway_that_serves_other_blocks_is_found_out() {
    let address = serve(Router::new().fallback(any(|| async { "<html>sign in</html>" }))).await;
    let policy = StoragePolicy { allow_private_network: true, ..StoragePolicy::default() };
    let root = "ipfs://QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR/";
    let mut spec = StorageSpec::new(Location::parse(root).unwrap(), policy);
    spec.params.insert("endpoint_url".into(), format!("http://{address}"));
    let error = names(&Store::build(&spec).unwrap(), "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
    assert!(error.to_string().contains("is not what its CID says"), "{error}");
}
