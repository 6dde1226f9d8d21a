//! The egress policy: which addresses a store may be reached at, and the HTTP client that keeps to it.
//!
//! Names are resolved by a resolver of ours that drops addresses the policy refuses, so what is
//! connected to is what was checked; hosts written as addresses are checked before every request.
//! Proxies from the environment are not used, since they would resolve names behind our back.
//! Connections that fail are tried three times within about ten seconds, then given up. A store that says it is
//! busy is asked again at its pace (`retry.rs`).

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use rand::Rng as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::{Error, Result};
use crate::telemetry::install_crypto_provider;

use super::retry::{Attempts, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_ATTEMPTS: u32 = 3;

/// Which addresses network stores may be reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EgressPolicy {
    /// Whether loopback, private, link-local and similar addresses are allowed.
    pub allow_private_network: bool,
}

/// The policy said no. Kept as a type so that it is found again inside a library's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EgressRefused {
    pub(crate) host: String,
}

impl fmt::Display for EgressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the host '{}' is in a private or reserved network, which the egress policy refuses",
            self.host
        )
    }
}

impl StdError for EgressRefused {}

impl From<EgressRefused> for Error {
    fn from(refused: EgressRefused) -> Self {
        Self::denied(refused.to_string()).hint("an operator can allow it with --allow-private-network")
    }
}

/// All attempts to connect failed.
#[derive(Debug)]
pub(crate) struct ConnectFailed(HttpError);

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot connect")
    }
}

impl StdError for ConnectFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// A store was busy for as long as we wait.
#[derive(Debug)]
pub(crate) struct StillBusy {
    pub(crate) status: http::StatusCode,
    pub(crate) spent: Duration,
}

impl fmt::Display for StillBusy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {} for {} seconds", self.status, self.spent.as_secs())
    }
}

impl StdError for StillBusy {}

impl EgressPolicy {
    /// Whether an address may be connected to.
    pub fn permits(self, ip: IpAddr) -> bool {
        self.allow_private_network || is_public(ip)
    }

    /// Checks a host as it stands in a URL. A name passes here and is checked when it is resolved.
    pub(crate) fn check_host(self, host: &str) -> Result<(), EgressRefused> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(ip) if !self.permits(ip) => Err(EgressRefused { host: bare.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Checks the host of a URL as [`EgressPolicy::client`] would meet it. A name passes here and is checked when
    /// it is resolved.
    ///
    /// # Errors
    /// Permission denied.
    pub fn check_url(self, url: &url::Url) -> Result<()> {
        Ok(self.check_host(url.host_str().unwrap_or_default())?)
    }

    /// A client that keeps to the policy and follows no redirect by itself. Hosts written as addresses are the
    /// caller's to check: [`EgressPolicy::check_url`].
    ///
    /// # Errors
    /// Internal, if the client cannot be built.
    pub fn client(self) -> Result<reqwest::Client> {
        install_crypto_provider();
        reqwest::Client::builder()
            .dns_resolver(Arc::new(PolicyResolver(self)))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_keepalive(Duration::from_secs(30))
            .user_agent(concat!("stevedore/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::internal(format!("building an HTTP client failed: {e}")))
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // An IPv4 address inside an IPv6 one is judged as what it is.
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => false,
        // Teredo, documentation, and everything outside global unicast: loopback, fe80::/10, fc00::/7, ff00::/8.
        [0x2001, 0, ..] | [0x2001, 0x0db8, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[derive(Debug, Clone, Copy)]
struct PolicyResolver(EgressPolicy);

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = match tokio::time::timeout(
                RESOLVE_TIMEOUT,
                tokio::net::lookup_host((host.as_str(), 0)),
            )
            .await
            {
                Ok(found) => found.map_err(|e| format!("the name '{host}' does not resolve: {e}"))?.collect(),
                Err(_) => return Err(format!("resolving the name '{host}' timed out").into()),
            };
            if found.is_empty() {
                return Err(format!("the name '{host}' has no address").into());
            }
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|a| policy.permits(a.ip())).collect();
            if allowed.is_empty() {
                return Err(Box::new(EgressRefused { host }) as Box<dyn StdError + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Gives `object_store` clients that keep to the policy.
#[derive(Debug)]
pub(crate) struct PolicyConnector(pub(crate) EgressPolicy);

impl HttpConnector for PolicyConnector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self
            .0
            .client()
            .map_err(|e| object_store::Error::Generic { store: "http", source: Box::new(e) })?;
        Ok(HttpClient::new(PolicyService { policy: self.0, client }))
    }
}

#[derive(Debug)]
struct PolicyService {
    policy: EgressPolicy,
    client: reqwest::Client,
}

#[async_trait]
impl HttpService for PolicyService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().host().unwrap_or_default();
        // `Unknown` is the kind that the library above does not try again.
        self.policy.check_host(host).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let (started, mut busy_attempts) = (std::time::Instant::now(), Attempts::default());
        let mut attempt = 1;
        loop {
            match HttpService::call(&self.client, request.clone()).await {
                Err(e) if find_source::<EgressRefused>(&e).is_some() => {
                    return Err(HttpError::new(HttpErrorKind::Unknown, ConnectFailed(e)));
                }
                Err(e) if e.kind() == HttpErrorKind::Connect || is_connect_timeout(&e) => {
                    if attempt >= CONNECT_ATTEMPTS {
                        return Err(HttpError::new(HttpErrorKind::Unknown, ConnectFailed(e)));
                    }
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Ok(answer) => {
                    let failure = Failure::of(answer.status(), answer.headers(), chrono::Utc::now());
                    // What is broken is the library's to try again.
                    let Some(busy @ Failure::Busy { .. }) = failure else { return Ok(answer) };
                    match busy_attempts.pause(busy, started.elapsed()) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => {
                            let error = StillBusy { status: answer.status(), spent: started.elapsed() };
                            return Err(HttpError::new(HttpErrorKind::Unknown, error));
                        }
                    }
                }
                other => return other,
            }
        }
    }
}

/// A pause before another attempt, with jitter.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let ceiling = 100u64 << attempt.min(5);
    Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling))
}

fn is_connect_timeout(e: &HttpError) -> bool {
    find_source::<reqwest::Error>(e).is_some_and(reqwest::Error::is_connect)
}

/// The first error of type `T` in a chain of sources.
pub(crate) fn find_source<'a, T: StdError + 'static>(e: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        at = e.source();
    }
    None
}

/// The innermost text of a chain of sources: what really happened.
pub(crate) fn root_cause(e: &(dyn StdError + 'static)) -> String {
    let mut at = e;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const STRICT: EgressPolicy = EgressPolicy { allow_private_network: false };

    #[test]
    fn private_and_reserved_addresses_are_refused_in_every_spelling() {
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
        ] {
            assert!(!STRICT.permits(ip.parse().unwrap()), "{ip} was permitted");
            assert!(EgressPolicy { allow_private_network: true }.permits(ip.parse().unwrap()));
        }
        for ip in ["1.1.1.1", "52.216.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]
        {
            assert!(STRICT.permits(ip.parse().unwrap()), "{ip} was refused");
        }
    }

    #[test]
    fn hosts_written_as_addresses_are_checked_without_dns() {
        assert!(STRICT.check_host("[::1]").is_err());
        assert!(STRICT.check_host("169.254.169.254").is_err());
        assert!(STRICT.check_host("example.com").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_refused() {
        let error = PolicyResolver(STRICT).resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(find_source::<EgressRefused>(&*error).is_some(), "{error}");
        let allowed = PolicyResolver(EgressPolicy { allow_private_network: true });
        assert!(allowed.resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
