//! Requests to web servers: redirects followed by hand under the egress policy, failures on the way tried again.
//!
//! What a token opens is the server it was given for: it is not sent to the host of a redirect elsewhere.

use std::ops::Range;
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::Utc;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode};
use url::Url;

use crate::error::{Error, Result};

use super::backend::BackendFile;
use super::egress::{EgressPolicy, EgressRefused, find_source, root_cause};
use super::failure::{StoreLabel, changed};
use super::retry::{Attempts, Failure};

const MAX_REDIRECTS: usize = 5;

/// Which redirects a request follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// All; a downgrade to plain http is refused.
    All,
    /// Those on the same host; another one is the answer.
    SameHost,
}

/// A request that may be sent several times.
#[derive(Debug, Clone)]
pub(crate) struct WebRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) follow: Follow,
}

impl WebRequest {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), follow: Follow::All }
    }
}

/// A server, and how messages speak of it.
#[derive(Debug, Clone)]
pub(crate) struct WebClient {
    client: Client,
    policy: EgressPolicy,
    label: StoreLabel,
}

impl WebClient {
    /// A client of the server at `url`.
    pub(crate) fn new(url: &Url, label: StoreLabel, policy: EgressPolicy) -> Result<Self> {
        policy.check_host(url.host_str().unwrap_or_default())?;
        Ok(Self { client: policy.client()?, policy, label })
    }

    pub(crate) fn label(&self) -> &StoreLabel {
        &self.label
    }

    /// Sends a request. `name` is what messages call the thing asked for. Answers of any status but those
    /// that ask for another attempt come back.
    pub(crate) async fn send(&self, request: &WebRequest, name: &str) -> Result<Response> {
        let (started, mut attempts) = (Instant::now(), Attempts::default());
        loop {
            let (failure, error) = match self.send_once(request, name).await {
                Ok(response) => match Failure::of(response.status(), response.headers(), Utc::now()) {
                    None => return Ok(response),
                    Some(failure) => {
                        let place = &self.label.place;
                        (
                            failure,
                            Error::unavailable(format!(
                                "{place} answered {} for '{name}'",
                                response.status()
                            )),
                        )
                    }
                },
                Err(e) if e.is_retryable() => (Failure::Broken, e),
                Err(e) => return Err(e),
            };
            match attempts.pause(failure, started.elapsed()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn send_once(&self, request: &WebRequest, name: &str) -> Result<Response> {
        let mut url = request.url.clone();
        let mut headers = request.headers.clone();
        let place = &self.label.place;
        for _ in 0..=MAX_REDIRECTS {
            self.policy.check_host(url.host_str().unwrap_or_default())?;
            let sent = self
                .client
                .request(request.method.clone(), url.clone())
                .headers(headers.clone())
                // The bytes as stored: sizes and ranges are of them.
                .header(ACCEPT_ENCODING, "identity")
                .body(request.body.clone());
            let response = sent.send().await.map_err(|e| self.explain(&e, name))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let next =
                response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| url.join(l).ok());
            let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
                return Err(Error::storage(format!("{place} redirects '{name}' to nowhere")));
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(Error::denied(format!(
                    "{place} redirects '{name}' from https to http, which is refused"
                )));
            }
            if next.origin() != url.origin() {
                if request.follow == Follow::SameHost {
                    return Ok(response);
                }
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
        Err(Error::storage(format!("{place} redirects '{name}' more than {MAX_REDIRECTS} times")))
    }

    pub(crate) fn explain(&self, e: &reqwest::Error, name: &str) -> Error {
        let place = &self.label.place;
        if let Some(refused) = find_source::<EgressRefused>(e) {
            return Error::from(refused.clone()).context(format!("reading '{name}'"));
        }
        if e.is_connect() {
            return Error::unavailable(format!("cannot connect to {place}: {}", root_cause(e)))
                .hint("check the host and the network");
        }
        Error::storage(format!("reading '{name}' from {place} failed: {}", root_cause(e))).retryable(true)
    }

    /// The error of a status that is no success.
    pub(crate) fn refused(&self, status: StatusCode, name: &str) -> Error {
        let place = &self.label.place;
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Error::not_found(format!("file '{name}' does not exist at {place}"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let error = Error::denied(format!("{place} refused access to '{name}' ({status})"));
                if self.label.keys.is_empty() { error } else { error.hint(self.label.keys_hint()) }
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => changed(name),
            _ => Error::storage(format!("{place} answered {status} for '{name}'")),
        }
    }

    /// The body of an answer, which may not be longer than `limit`.
    pub(crate) async fn body(&self, response: Response, limit: usize, name: &str) -> Result<Bytes> {
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|e| self.explain(&e, name))?);
            if body.len() > limit {
                return Err(Error::exhausted(format!(
                    "the answer of {} for '{name}' is longer than {limit} bytes",
                    self.label.place
                )));
            }
        }
        Ok(body.freeze())
    }

    /// A range of a file of a known size, whose version the request pins.
    pub(crate) async fn range(
        &self,
        mut request: WebRequest,
        range: Range<u64>,
        size: u64,
        name: &str,
    ) -> Result<Bytes> {
        request
            .headers
            .insert(RANGE, header(&format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?);
        let response = self.send(&request, name).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                if content_range(response.headers()) != Some((range.clone(), size)) {
                    return Err(changed(name));
                }
            }
            // A whole answer to a question for a part: the version is gone.
            status if status.is_success() => return Err(changed(name)),
            status => return Err(self.refused(status, name)),
        }
        self.body(response, usize::try_from(range.end - range.start).unwrap_or(usize::MAX), name).await
    }
}

/// A file at a URL whose content never changes.
#[derive(Debug)]
pub(crate) struct ImmutableFile {
    pub(crate) web: WebClient,
    pub(crate) request: WebRequest,
    pub(crate) path: String,
    pub(crate) size: u64,
}

#[async_trait]
impl BackendFile for ImmutableFile {
    fn can_split(&self) -> bool {
        true
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.web.range(self.request.clone(), range, self.size, &self.path).await
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let response = self.web.send(&self.request, &self.path).await?;
        if !response.status().is_success() {
            return Err(self.web.refused(response.status(), &self.path));
        }
        let (web, path) = (self.web.clone(), self.path.clone());
        Ok(response.bytes_stream().map_err(move |e| web.explain(&e, &path)).boxed())
    }
}

/// A header's value.
pub(crate) fn header(text: &str) -> Result<reqwest::header::HeaderValue> {
    reqwest::header::HeaderValue::from_str(text)
        .map_err(|_| Error::invalid("a header's value holds control characters"))
}

/// A header's text.
pub(crate) fn text(headers: &HeaderMap, name: impl AsRef<str>) -> Option<&str> {
    headers.get(HeaderName::from_bytes(name.as_ref().as_bytes()).ok()?)?.to_str().ok()
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-length")?.parse().ok()
}

/// `bytes 0-9/100`: the range and the whole size.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, size) = text(headers, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let end: u64 = end.trim().parse().ok()?;
    Some((start.trim().parse().ok()?..end.checked_add(1)?, size.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::Router;
    use axum::http::header::LOCATION as TO;
    use axum::response::Response as Answer;

    use super::*;

    /// A server that redirects to what its path says after `to/`, and shows the authorization it is given.
    async fn server() -> Url {
        let app = Router::new().fallback(|request: axum::extract::Request| async move {
            let to = request.uri().to_string();
            match to.split_once("/to/") {
                Some((_, to)) => Answer::builder().status(302).header(TO, to).body(String::new()).unwrap(),
                None => Answer::new(format!("{:?}", request.headers().get(AUTHORIZATION))),
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Url::parse(&format!("http://localhost:{port}/")).unwrap()
    }

    fn request(url: &Url, path: &str) -> WebRequest {
        let mut request = WebRequest::new(Method::GET, url.join(path).unwrap());
        request.headers.insert(AUTHORIZATION, header("Bearer hush").unwrap());
        request
    }

    const OPEN: EgressPolicy = EgressPolicy { allow_private_network: true };

    fn label() -> StoreLabel {
        StoreLabel { place: "'the server'".into(), keys: "TOKEN" }
    }

    #[tokio::test]
    async fn a_redirect_into_a_private_network_is_refused() {
        let url = server().await;
        // Names are checked when they are resolved; this one may be, so that there is a server to test with.
        let client = OPEN.client().unwrap();
        let web = WebClient { client, policy: EgressPolicy { allow_private_network: false }, label: label() };
        for target in ["http://169.254.169.254/latest/meta-data", "http://[::1]:9/", "http://2130706433/x"] {
            let error = web.send(&request(&url, &format!("to/{target}")), "a.csv").await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::PermissionDenied, "{target}: {error}");
            assert!(error.to_string().contains("egress policy"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_stays_with_the_server_that_it_is_for() {
        let (url, other) = (server().await, server().await);
        let web = WebClient::new(&url, label(), OPEN).unwrap();
        let body = async |request: WebRequest| {
            let response = web.send(&request, "a.csv").await.unwrap();
            String::from_utf8(web.body(response, 1 << 10, "a.csv").await.unwrap().to_vec()).unwrap()
        };
        assert!(body(request(&url, "to//x")).await.contains("Bearer hush"));
        assert_eq!(body(request(&url, &format!("to/{other}x"))).await, "None");
        let stays = WebRequest { follow: Follow::SameHost, ..request(&url, &format!("to/{other}x")) };
        assert_eq!(web.send(&stays, "a.csv").await.unwrap().status(), 302);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut() {
        let url = server().await;
        let web = WebClient::new(&url, label(), OPEN).unwrap();
        let response = web.send(&request(&url, "x"), "a.csv").await.unwrap();
        let error = web.body(response, 3, "a.csv").await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::ResourceExhausted, "{error}");
    }
}
