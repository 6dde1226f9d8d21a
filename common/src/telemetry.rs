//! Logs, spans and metrics: set up once by a process, and the carrying of traces between processes.
//!
//! Comes in: a [`TelemetryConfig`]. Goes out: log lines on standard error, spans to an OTLP collector
//! if one is configured, a Prometheus page. Library code only uses `tracing` and `metrics`. A collector
//! that cannot be reached never stops the process; what it missed is lost. Nothing here logs a secret.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::error::{Error, Result};

/// What is logged when nothing else is asked for: our own news, others' warnings.
const DEFAULT_FILTER: &str = "warn,stevedore=info,stevedore_common=info,stevedore_coordinator=info,\
    stevedore_raft=info,stevedore_state=info,stevedore_sql=info,stevedore_worker=info,stevedore_decode=info";
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to set up.
#[derive(Debug, Clone, Default)]
pub struct TelemetryConfig {
    /// `stevedore-worker`, …: the service name of spans.
    pub service: String,
    /// This process among its like: a worker's or node's id.
    pub instance: String,
    /// A filter in `RUST_LOG` syntax; `None`: the variable itself, or the default.
    pub filter: Option<String>,
    /// The look of log lines.
    pub format: LogFormat,
    /// The gRPC endpoint of an OTLP collector (`http://host:4317`); `None`: no export.
    pub otlp_endpoint: Option<String>,
}

/// Keeps telemetry running. [`Telemetry::shutdown`] sends what is still held.
#[derive(Debug)]
#[must_use = "spans that are not sent yet are lost when this is dropped without shutdown"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is held; waits a few seconds at most. Call it off tokio's core threads.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(e) = provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::debug!(error = %e, "some spans were not exported");
        }
    }
}

/// Sets up logs and spans for the process. With an OTLP endpoint it must run inside a tokio runtime.
///
/// # Errors
/// Invalid input for a bad filter or endpoint; internal if the process is set up already.
pub fn init(config: &TelemetryConfig) -> Result<Telemetry> {
    let filter = match &config.filter {
        Some(text) => EnvFilter::try_new(text)
            .map_err(|e| Error::invalid(format!("invalid log filter '{text}': {e}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().with_current_span(true).with_span_list(false).boxed(),
    };
    let provider =
        config.otlp_endpoint.as_deref().map(|endpoint| span_exporter(config, endpoint)).transpose()?;
    let spans = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("stevedore")));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(|e| Error::internal(format!("telemetry is set up already: {e}")))?;
    Ok(Telemetry { provider })
}

fn span_exporter(config: &TelemetryConfig, endpoint: &str) -> Result<SdkTracerProvider> {
    install_crypto_provider();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|e| {
            Error::invalid(format!("invalid OTLP endpoint '{endpoint}': {e}")).hint("write http://host:4317")
        })?;
    let resource = Resource::builder()
        .with_service_name(config.service.clone())
        .with_attribute(KeyValue::new("service.instance.id", config.instance.clone()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The current span as a W3C `traceparent`, to be sent along with work; `None` without a trace.
pub fn current_traceparent() -> Option<String> {
    traceparent_of(&Span::current())
}

/// A span as a W3C `traceparent`.
pub fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut fields = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut fields);
    fields.remove("traceparent")
}

/// Spans that continue a trace of another process.
pub trait SpanParentExt {
    /// Makes the span a child of a W3C `traceparent`. An empty or malformed text changes nothing.
    fn set_parent_from(&self, traceparent: &str);
}

impl SpanParentExt for Span {
    fn set_parent_from(&self, traceparent: &str) {
        if traceparent.is_empty() {
            return;
        }
        let fields = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract(&fields);
        if context.span().span_context().is_valid() {
            // Without a layer for spans there is nothing to continue.
            let _ = self.set_parent(context);
        }
    }
}

/// The process's metrics: installed at the first call, the same handle ever after. `render()` gives the
/// Prometheus page; `run_upkeep()` wants calling every few seconds.
///
/// # Errors
/// Internal, if another recorder was installed before.
pub fn init_metrics() -> Result<PrometheusHandle> {
    static HANDLE: OnceLock<std::result::Result<PrometheusHandle, String>> = OnceLock::new();
    const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .set_buckets(SECONDS)
                .and_then(PrometheusBuilder::install_recorder)
                .map_err(|e| e.to_string())
        })
        .clone()
        .map_err(|e| Error::internal(format!("installing the metrics recorder failed: {e}")))
}

/// Makes `ring` the process's TLS provider. Any number of calls is fine; the first provider stays.
pub fn install_crypto_provider() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // Fails only if the program chose a provider before us, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_trace_continues_across_a_border() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let sender = tracing::info_span!("submit");
            let sent = sender.in_scope(|| current_traceparent().unwrap());
            let receiver = tracing::info_span!("slice");
            receiver.set_parent_from(&sent);
            let received = traceparent_of(&receiver).unwrap();
            let trace = |text: &str| text.split('-').nth(1).unwrap().to_owned();
            assert_eq!(trace(&sent), trace(&received));
            assert_ne!(sent, received);
        });
    }

    #[test]
    fn malformed_parents_and_missing_traces_are_harmless() {
        assert_eq!(current_traceparent(), None);
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("slice");
            for text in ["", "x", "00-zz-11-01", "00-00000000000000000000000000000000-0000000000000000-00"] {
                span.set_parent_from(text);
            }
            assert!(traceparent_of(&span).is_some());
        });
    }

    #[test]
    fn metrics_and_tls_install_once() {
        install_crypto_provider();
        install_crypto_provider();
        let handle = init_metrics().unwrap();
        metrics::counter!("stevedore_test_total").increment(2);
        assert!(handle.render().contains("stevedore_test_total 2"));
        assert!(init_metrics().unwrap().render().contains("stevedore_test_total"));
    }
}
