//! One trace from a client's statement to the worker that carries it out, as an OTLP collector gets it
//! from the processes of a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::collector::{Collector, Span};
use stevedore_integration_tests::files;
use stevedore_proto::v1;
use stevedore_proto::v1::job_service_client::JobServiceClient;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
const COORDINATOR: &str = "stevedore-coordinator";
const WORKER: &str = "stevedore-worker";
/// Each in a slice of its own.
const FILES: usize = 3;

/// What a client that traces its calls sends along.
struct Trace {
    id: String,
    /// The client's own span, which no collector of ours ever sees.
    span: String,
}

impl Trace {
    fn new(number: u8) -> Self {
        Self { id: format!("{number:02x}").repeat(16), span: format!("{number:02x}").repeat(8) }
    }

    fn parent(&self) -> String {
        format!("00-{}-{}-01", self.id, self.span)
    }
}

async fn cluster_that_exports(collector: &Collector) -> (Cluster, Channel) {
    let config = ClusterConfig {
        coordinators: 1,
        workers: 1,
        environment: vec![
            ("STEVEDORE_OTLP_ENDPOINT", collector.endpoint()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ],
        ..ClusterConfig::default()
    };
    let cluster = Cluster::start(config).await;
    for file in 0..FILES {
        files::write(&cluster.files().join(format!("in/{file}.csv")), files::numbered_csv(file, 10));
    }
    let channel = Endpoint::from_shared(cluster.url(0).to_owned()).unwrap().connect().await.unwrap();
    for sql in [
        "CREATE TABLE t (file INT, row INT, payload STRING)".to_owned(),
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", cluster.files().display()),
    ] {
        run(&channel, &sql, None).await;
    }
    (cluster, channel)
}

/// Runs a statement through Flight SQL and reads its rows to the end.
async fn run(channel: &Channel, sql: &str, trace: Option<&Trace>) {
    let mut client = FlightSqlServiceClient::new(channel.clone());
    if let Some(trace) = trace {
        client.set_header("traceparent", trace.parent());
    }
    let running = async {
        let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|e| panic!("{e}\n{sql}"));
        for endpoint in info.endpoint {
            let rows = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
            rows.try_collect::<Vec<_>>().await.unwrap();
        }
    };
    timeout(PATIENCE, running).await.expect("the statement ends");
}

/// The spans of a trace, once as many with this name have come as there should be, and `above`, which they
/// are below.
async fn spans_of(collector: &Collector, trace: &str, above: &str, name: &str, count: usize) -> Vec<Span> {
    let in_trace = |spans: &[Span]| -> Vec<Span> {
        spans.iter().filter(|span| span.trace_id == trace).cloned().collect()
    };
    let counted = |spans: &[Span], name: &str| spans.iter().filter(|span| span.name == name).count();
    let reached = collector.wait_until(|spans| {
        let spans = in_trace(spans);
        counted(&spans, above) > 0 && counted(&spans, name) >= count
    });
    if timeout(PATIENCE, reached).await.is_err() {
        panic!("trace {trace} lacks spans '{above}' or '{name}'; all there is: {:#?}", collector.spans());
    }
    in_trace(&collector.spans())
}

/// Asserts that all spans with a name came from a service, and that the spans above each of them lead to
/// the one named `above`, a coordinator's, and on to the client's own.
fn assert_lead_up(spans: &[Span], trace: &Trace, above: &str, service: &str, name: &str) {
    for span in spans.iter().filter(|span| span.name == name) {
        assert_eq!(span.service, service, "{span:?}");
        let mut passed = Vec::new();
        let mut at = span;
        while at.parent_id != trace.span {
            let parent = spans.iter().find(|span| span.span_id == at.parent_id);
            at = parent.unwrap_or_else(|| panic!("{at:?} has an unknown parent, of {spans:#?}"));
            assert!(!passed.contains(&at), "a circle: {passed:#?}");
            passed.push(at);
        }
        let found = passed.iter().any(|span| span.name == above && span.service == COORDINATOR);
        assert!(found, "no '{above}' above {span:?}, of {spans:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statements_trace_leads_from_the_client_to_the_workers() {
    let collector = Collector::start().await;
    let (_cluster, channel) = cluster_that_exports(&collector).await;

    // A load: every slice is below its statement.
    let trace = Trace::new(0x11);
    run(&channel, "COPY INTO t FROM @s/in/", Some(&trace)).await;
    let spans = spans_of(&collector, &trace.id, "statement", "slice", FILES).await;
    assert_lead_up(&spans, &trace, "statement", WORKER, "slice");

    // A query.
    let trace = Trace::new(0x22);
    run(&channel, "SELECT file, count(*) FROM t GROUP BY file", Some(&trace)).await;
    let spans = spans_of(&collector, &trace.id, "statement", "query", 1).await;
    assert_lead_up(&spans, &trace, "statement", WORKER, "query");

    // A job that is submitted and not waited for.
    let trace = Trace::new(0x33);
    let sql = "COPY INTO t FROM @s/in/ FORCE = true".to_owned();
    let mut request = tonic::Request::new(v1::SubmitJobRequest { sql, ..Default::default() });
    request.metadata_mut().insert("traceparent", trace.parent().parse().unwrap());
    JobServiceClient::new(channel.clone()).submit_job(request).await.unwrap();
    let spans = spans_of(&collector, &trace.id, "submit", "slice", FILES).await;
    assert_lead_up(&spans, &trace, "submit", WORKER, "slice");

    // A client that sends no trace: then the statement begins one, and its slices are in it all the same.
    run(&channel, "COPY INTO t FROM @s/in/ FORCE = true", None).await;
    let known = ["11", "22", "33"].map(|digits| digits.repeat(16));
    let own = |span: &&Span| span.name == "slice" && !known.contains(&span.trace_id);
    let reached = collector.wait_until(|spans| spans.iter().filter(own).count() >= FILES);
    timeout(PATIENCE, reached).await.expect("the slices' spans come");
    let all = collector.spans();
    let trace = all.iter().find(own).unwrap().trace_id.clone();
    let spans = spans_of(&collector, &trace, "statement", "slice", FILES).await;
    assert_lead_up(&spans, &Trace { id: trace, span: String::new() }, "statement", WORKER, "slice");
}
