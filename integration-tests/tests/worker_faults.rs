//! Workers that are lost while a client's rows are ingested through any coordinator, workers whose reports the
//! coordinator refuses, and callers that a worker refuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use arrow_flight::{Criteria, FlightData, FlightDescriptor, Ticket};
use futures::StreamExt;
use prost::Message;
use stevedore::client::Client;
use stevedore_integration_tests::cluster::{Cluster, ClusterConfig};
use stevedore_integration_tests::cluster_jobs::has_ended;
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::{files, show};
use stevedore_proto::v1;
use stevedore_proto::v1::worker_service_client::WorkerServiceClient;
use stevedore_proto::v1::{JobPhase, coordinator_message, worker_message};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// Rows of a batch.
const ROWS: usize = 1_000;
const TABLE: &str = "CREATE TABLE t (file INT, row INT, payload STRING)";
const PATIENCE: Duration = Duration::from_secs(90);

/// Five processes are enough for a small machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// The batch of a number, as the file of that number would have its rows.
fn batch(file: usize) -> RecordBatch {
    let files: ArrayRef = Arc::new(Int32Array::from(vec![file as i32; ROWS]));
    let rows: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS as i32));
    let payloads = (0..ROWS).map(|row| format!("payload of row {row} of file {file}"));
    let payloads: ArrayRef = Arc::new(StringArray::from_iter_values(payloads));
    RecordBatch::try_from_iter([("file", files), ("row", rows), ("payload", payloads)]).unwrap()
}

fn command(
    table: &str,
    if_missing: TableNotExistOption,
    if_there: TableExistsOption,
) -> CommandStatementIngest {
    let options = TableDefinitionOptions { if_not_exist: if_missing.into(), if_exists: if_there.into() };
    CommandStatementIngest {
        table_definition_options: Some(options),
        table: table.to_owned(),
        ..CommandStatementIngest::default()
    }
}

fn appending() -> CommandStatementIngest {
    command("t", TableNotExistOption::Fail, TableExistsOption::Append)
}

async fn sender(cluster: &Cluster, coordinator: usize) -> FlightSqlServiceClient<Channel> {
    let channel =
        Endpoint::from_shared(cluster.url(coordinator).to_owned()).unwrap().connect().await.unwrap();
    let mut client = FlightSqlServiceClient::new(channel);
    client.handshake("somebody", "anything").await.unwrap();
    client
}

async fn ingest_all(
    cluster: &Cluster,
    coordinator: usize,
    command: CommandStatementIngest,
    batches: std::ops::Range<usize>,
) -> Result<i64, String> {
    let rows = futures::stream::iter(batches.map(|number| Ok(batch(number))));
    let mut sender = sender(cluster, coordinator).await;
    sender.execute_ingest(command, rows).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_coordinator_takes_rows_to_be_ingested() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(ClusterConfig::default()).await;
    let (leader, _) = cluster.leader().await;
    run(&cluster.client(leader).await, TABLE).await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for (turn, coordinator) in followers.into_iter().chain([leader]).enumerate() {
        let rows = ingest_all(&cluster, coordinator, appending(), turn * 10..turn * 10 + 10).await;
        assert_eq!(rows, Ok(10 * ROWS as i64));
        // Who has the answer sees the rows, wherever it asks.
        let counted = run(&cluster.client(coordinator).await, "SELECT count(*) FROM t").await;
        assert_eq!(counted, [[((turn + 1) * 10 * ROWS).to_string()]]);
    }
    Oracle::new(cluster.url(leader)).assert_exactly_once("t", 30, ROWS).await;
    let create = command("made", TableNotExistOption::Create, TableExistsOption::Fail);
    assert_eq!(ingest_all(&cluster, followers[0], create.clone(), 0..3).await, Ok(3 * ROWS as i64));
    Oracle::new(cluster.url(leader)).assert_exactly_once("made", 3, ROWS).await;
    let error = ingest_all(&cluster, followers[1], create, 0..3).await.unwrap_err();
    assert!(error.contains("exists already"), "{error}");
}

/// A client in the middle of sending.
struct Sending {
    batches: mpsc::Sender<Result<RecordBatch, FlightError>>,
    answer: JoinHandle<Result<i64, FlightError>>,
}

impl Sending {
    async fn start(cluster: &Cluster, coordinator: usize) -> Self {
        let (batches, rows) = mpsc::channel(1);
        let mut sender = sender(cluster, coordinator).await;
        let rows = ReceiverStream::new(rows);
        let answer = tokio::spawn(async move { sender.execute_ingest(appending(), rows).await });
        Self { batches, answer }
    }

    async fn send(&self, batches: std::ops::Range<usize>) {
        for number in batches {
            // A call that has ended takes no more.
            if self.batches.send(Ok(batch(number))).await.is_err() {
                return;
            }
        }
    }

    async fn answer(self) -> Result<i64, String> {
        drop(self.batches);
        let answer = timeout(PATIENCE, self.answer).await.expect("the client is answered").unwrap();
        answer.map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_takes_rows_loads_all_of_them_or_none() {
    const BATCHES: usize = 40;
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Cluster::start(ClusterConfig::default()).await;
    let (leader, _) = cluster.leader().await;
    let client = cluster.client(leader).await;
    run(&client, TABLE).await;
    let mut loaded = 0;
    // Killed before any row comes, in the middle of them, and when all of them are sent.
    for (turn, sent_before) in [0, BATCHES / 2, BATCHES].into_iter().enumerate() {
        let coordinator = (leader + turn) % 3;
        let first = loaded * BATCHES;
        let sending = Sending::start(&cluster, coordinator).await;
        // The first message has the schema with it.
        sending.send(first..first + 1).await;
        let busy = cluster.busy_worker().await;
        sending.send(first + 1..first + sent_before.max(1)).await;
        cluster.kill_worker(busy);
        sending.send(first + sent_before.max(1)..first + BATCHES).await;
        let answer = sending.answer().await;
        let counted = run(&client, "SELECT count(*) FROM t").await;
        match &answer {
            Ok(rows) => {
                assert_eq!(*rows as usize, BATCHES * ROWS);
                loaded += 1;
            }
            Err(error) => assert!(error.contains("nothing was loaded; send them again"), "{error}"),
        }
        assert_eq!(counted, [[(loaded * BATCHES * ROWS).to_string()]], "{answer:?}");
        assert!(turn == 2 || answer.is_err(), "rows were sent to a worker that was dead");
        // The same rows again, to the worker that is left; those that were answered are not doubled.
        if answer.is_err() {
            let again = ingest_all(&cluster, coordinator, appending(), first..first + BATCHES).await;
            assert_eq!(again, Ok((BATCHES * ROWS) as i64));
            loaded += 1;
        }
        Oracle::new(cluster.url(leader)).assert_exactly_once("t", loaded * BATCHES, ROWS).await;
        cluster.restart_worker(busy);
        cluster.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_calls_of_its_own_cluster_only() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let config = ClusterConfig { coordinators: 1, workers: 1, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).await;
    let channel = Endpoint::from_shared(cluster.worker_url(0).to_owned()).unwrap().connect().await.unwrap();
    let query = v1::QuerySpec { sql: "SELECT 1 AS a".into(), ..v1::QuerySpec::default() }.encode_to_vec();
    for guess in [None, Some("Bearer "), Some("Bearer 0123456789abcdef"), Some("Basic c29tZWJvZHk6")] {
        let mut worker = FlightServiceClient::with_interceptor(channel.clone(), |mut call: Request<()>| {
            if let Some(guess) = guess {
                call.metadata_mut().insert("authorization", guess.parse().unwrap());
            }
            Ok(call)
        });
        let put =
            FlightData { flight_descriptor: Some(FlightDescriptor::new_cmd("x")), ..Default::default() };
        let refused = [
            worker.do_get(Ticket::new(query.clone())).await.map(drop),
            worker.get_flight_info(FlightDescriptor::new_cmd(query.clone())).await.map(drop),
            worker.do_put(futures::stream::iter([put])).await.map(drop),
            worker.list_flights(Criteria::default()).await.map(drop),
        ];
        for refused in refused {
            let status = refused.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
            assert!(status.message().contains("workers of its cluster only"), "{status:?}");
        }
    }
    assert_eq!(run(&cluster.client(0).await, "SELECT 1 AS a").await, [["1"]]);
}

/// A worker that the test plays.
struct Played {
    outbox: mpsc::Sender<v1::WorkerMessage>,
    inbox: tonic::Streaming<v1::CoordinatorMessage>,
    signs_of_life: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.signs_of_life.abort();
    }
}

impl Played {
    async fn register(cluster: &Cluster) -> Self {
        let channel =
            Endpoint::from_shared(cluster.cluster_url(0).to_owned()).unwrap().connect().await.unwrap();
        let (outbox, messages) = mpsc::channel(8);
        let register = v1::Register {
            worker_id: "played".into(),
            incarnation: "once".into(),
            flight_address: "http://127.0.0.1:1".into(),
            version: "test".into(),
            cores: 1,
            memory_budget: 1 << 30,
            slots: 1,
            group: String::new(),
        };
        let message = Some(worker_message::Message::Register(register));
        outbox.send(v1::WorkerMessage { message }).await.unwrap();
        let session = WorkerServiceClient::new(channel).session(ReceiverStream::new(messages)).await.unwrap();
        let outbox_of_signs = outbox.clone();
        let signs_of_life = tokio::spawn(async move {
            let progress = || worker_message::Message::Progress(v1::SliceProgress::default());
            while outbox_of_signs.send(v1::WorkerMessage { message: Some(progress()) }).await.is_ok() {
                sleep(Duration::from_millis(200)).await;
            }
        });
        Self { outbox, inbox: session.into_inner(), signs_of_life }
    }

    async fn next(&mut self) -> coordinator_message::Message {
        let message = timeout(PATIENCE, self.inbox.next()).await.expect("the coordinator says something");
        message.unwrap().unwrap().message.unwrap()
    }

    /// The next slice that it is to run.
    async fn assigned(&mut self) -> v1::SliceRef {
        loop {
            if let coordinator_message::Message::Assign(spec) = self.next().await {
                return spec.slice.unwrap();
            }
        }
    }

    /// Sends a report; the error that it is refused with.
    async fn refused(&mut self, report: v1::ReportChunk) -> v1::ErrorInfo {
        let slice = report.slice.clone();
        let message = Some(worker_message::Message::Report(report));
        self.outbox.send(v1::WorkerMessage { message }).await.unwrap();
        loop {
            if let coordinator_message::Message::ReportAnswer(answer) = self.next().await {
                assert_eq!((answer.slice, answer.accepted), (slice, false));
                return answer.refused.unwrap();
            }
        }
    }
}

/// What is done to a report.
type Break = fn(&mut v1::ReportChunk);

/// A report of one file of two rows that would be accepted.
fn report(slice: &v1::SliceRef) -> v1::ReportChunk {
    let file = v1::FileReport {
        file: 0,
        outcome: v1::FileOutcome::Loaded.into(),
        rows: 2,
        lines: 2,
        ..v1::FileReport::default()
    };
    let totals = v1::SliceTotals {
        files: 1,
        rows: 2,
        data_files: 1,
        input_bytes: 9,
        output_bytes: 9,
        ..Default::default()
    };
    v1::ReportChunk {
        slice: Some(slice.clone()),
        sequence: 0,
        files: vec![file],
        data_files: vec!["{\"file_path\":\"none\"}".to_owned()],
        last: true,
        totals: Some(totals),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_recorded_is_a_failure_of_its_slice_and_ends_the_load_in_time() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let config = ClusterConfig { coordinators: 1, workers: 1, ..ClusterConfig::default() };
    let mut cluster = Cluster::start(config).await;
    let client = cluster.client(0).await;
    run(&client, TABLE).await;
    files::write(&cluster.files().join("in/0.csv"), files::numbered_csv(0, 2));
    let stage =
        format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", cluster.files().display());
    run(&client, &stage).await;
    cluster.kill_worker(0);
    while !cluster.leader().await.1.workers.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    let mut worker = Played::register(&cluster).await;
    let job = cluster.submit(0, "COPY INTO t FROM @s/in/", "refused").await;

    let slice = worker.assigned().await;
    assert_eq!((slice.job_id.as_str(), slice.slice, slice.attempt), (job.as_str(), 0, 1));
    // Of another attempt: stale, and no failure of the one that runs.
    for attempt in [0, 2] {
        let stale = v1::SliceRef { attempt, ..slice.clone() };
        let error = worker.refused(report(&stale)).await;
        assert!(error.message.contains("attempt"), "{error:?}");
    }
    // What cannot be recorded, one thing after the other; each costs the attempt.
    let broken: [(&str, Break); 5] = [
        ("is no JSON object", |report| report.data_files = vec!["{\"file_path\":".to_owned()]),
        ("is described in", |report| {
            report.data_files = vec![format!("{{\"file_path\":\"{}\"}}", "x".repeat(60 << 10))];
        }),
        ("the limit is 65536", |report| {
            report.data_files = vec![format!("{{\"file_path\":\"{}\"}}", "x".repeat(200 << 10))]
        }),
        ("are not the sums", |report| report.totals.as_mut().unwrap().rows = 3),
        ("no outcome", |report| report.files[0].outcome = 0),
    ];
    let mut slice = slice;
    for (number, (told, break_it)) in broken.into_iter().enumerate() {
        assert_eq!((slice.slice, slice.attempt as usize), (0, number + 1));
        let mut report = report(&slice);
        break_it(&mut report);
        let error = worker.refused(report).await;
        assert!(error.message.contains(told), "{error:?}");
        if number < 4 {
            slice = worker.assigned().await;
        }
    }
    // The fifth failure of a slice of one file is the load's.
    let ended = cluster.find_job_until("refused", PATIENCE, "ended", has_ended).await;
    assert_eq!(ended.phase(), JobPhase::Aborted, "{ended:?}");
    let error = ended.error.unwrap();
    assert!(error.message.contains("no outcome"), "{error:?}");
    assert_eq!(run(&client, "SHOW TABLES").await.len(), 1);

    // Nothing of it is held any longer.
    drop(worker);
    while !cluster.leader().await.1.workers.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    cluster.restart_worker(0);
    cluster.ready().await;
    assert_eq!(run(&client, "COPY INTO t FROM @s/in/").await.len(), 1);
    Oracle::new(cluster.url(0)).assert_exactly_once("t", 1, 2).await;
}
