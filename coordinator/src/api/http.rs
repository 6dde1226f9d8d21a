//! Health, readiness and metrics over HTTP, for probes and Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use stevedore_common::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Answers whether the process can serve, with the reason where it cannot.
pub type Readiness = Arc<dyn Fn() -> std::result::Result<(), String> + Send + Sync>;
/// Renders the metrics in Prometheus' text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves until the token is cancelled. Answers the address it listens on.
///
/// # Errors
/// Unavailable, if the port is taken.
pub async fn serve(
    listen: SocketAddr,
    ready: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await.map_err(|e| {
        Error::unavailable(format!("cannot listen on {listen} for HTTP: {e}"))
            .hint("choose another --http address")
    })?;
    let address = listener.local_addr()?;
    let app = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route(
            "/ready",
            get(move || async move {
                match ready() {
                    Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                    Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move { ([("content-type", "text/plain; version=0.0.4")], metrics()) }),
        );
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(address)
}
