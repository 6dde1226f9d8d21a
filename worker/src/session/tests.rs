#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Sessions against a coordinator that the test plays, over loopback.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use stevedore_proto::v1::{
    CancelSlice, CoordinatorMessage, ErrorInfo, HeartbeatAnswer, NotLeader, Registered, ReportAnswer,
    ReportChunk, SliceFailed, SliceRef, SliceTotals,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::slice::{SliceCounters, SliceFailure, SliceReport};

/// What `session` got, for the test to play with.
struct Side {
    to_worker: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    from_worker: Streaming<WorkerMessage>,
}

impl Side {
    async fn send(&self, message: FromCoordinator) {
        self.to_worker.send(Ok(CoordinatorMessage { message: Some(message) })).await.unwrap();
    }

    async fn next(&mut self) -> ToCoordinator {
        self.from_worker.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next message that is neither a heartbeat nor progress.
    async fn next_result(&mut self) -> ToCoordinator {
        loop {
            match self.next().await {
                ToCoordinator::Heartbeat(_) | ToCoordinator::Progress(_) => {}
                other => return other,
            }
        }
    }

    async fn next_chunk(&mut self) -> ReportChunk {
        match self.next_result().await {
            ToCoordinator::Report(chunk) => chunk,
            other => panic!("{other:?}"),
        }
    }

    async fn next_failed(&mut self) -> SliceFailed {
        match self.next_result().await {
            ToCoordinator::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a heartbeat that lists exactly these slices.
    async fn heartbeat_with(&mut self, jobs: &[&str]) {
        loop {
            if let ToCoordinator::Heartbeat(beat) = self.next().await {
                let mut listed: Vec<String> = beat.running.into_iter().map(|slice| slice.job_id).collect();
                listed.sort();
                if listed == jobs {
                    return;
                }
            }
        }
    }

    async fn register(&mut self, lease_ms: u64) -> Register {
        let ToCoordinator::Register(register) = self.next().await else { panic!("not registered") };
        self.send(FromCoordinator::Registered(Registered {
            heartbeat_interval_ms: 20,
            lease_ms,
            ..Registered::default()
        }))
        .await;
        register
    }

    async fn assign(&self, job: &str) {
        self.send(FromCoordinator::Assign(SliceSpec { slice: Some(slice(job)), ..SliceSpec::default() }))
            .await;
    }

    async fn accept(&self, chunk: &ReportChunk) {
        let answer = ReportAnswer {
            slice: chunk.slice.clone(),
            sequence: chunk.sequence,
            accepted: true,
            refused: None,
        };
        self.send(FromCoordinator::ReportAnswer(answer)).await;
    }
}

fn slice(job: &str) -> SliceRef {
    SliceRef { job_id: job.to_owned(), slice: 0, attempt: 1 }
}

struct Fake(mpsc::Sender<Side>);

#[async_trait]
impl WorkerService for Fake {
    type SessionStream = BoxStream<'static, Result<CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (to_worker, messages) = mpsc::channel(16);
        self.0.send(Side { to_worker, from_worker: request.into_inner() }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }
}

async fn coordinator() -> (String, mpsc::Receiver<Side>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sides, received) = mpsc::channel(4);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(WorkerServiceServer::new(Fake(sides)))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (address, received)
}

/// Does what the job's name says, and tells which were cancelled.
struct Script(mpsc::UnboundedSender<String>);

#[async_trait]
impl SliceExecutor for Script {
    async fn run(
        &self,
        spec: SliceSpec,
        _: Arc<SliceCounters>,
        cancel: CancellationToken,
    ) -> Result<SliceReport, SliceFailure> {
        let job = spec.slice.unwrap().job_id;
        match job.as_str() {
            "report" => Ok(SliceReport {
                files: vec![],
                data_files: vec!["d".repeat(30_000), "e".repeat(30_000)],
                totals: SliceTotals { rows: 5, ..SliceTotals::default() },
            }),
            "fail" => Err(SliceFailure {
                error: Error::bad_data("bad row").hint("fix it"),
                permanent: true,
                file: None,
            }),
            "panic" => panic!("a bug"),
            _ => {
                cancel.cancelled().await;
                self.0.send(job).unwrap();
                Err(Error::cancelled("cancelled").into())
            }
        }
    }

    fn memory_used(&self) -> u64 {
        7
    }
}

struct Worker {
    shutdown: CancellationToken,
    cancelled: mpsc::UnboundedReceiver<String>,
    session: tokio::task::JoinHandle<Result<()>>,
}

fn worker(addresses: &[&str]) -> Worker {
    let (cancelled_sender, cancelled) = mpsc::unbounded_channel();
    let config = SessionConfig {
        register: Register { worker_id: "w1".into(), ..Register::default() },
        coordinators: addresses.iter().map(ToString::to_string).collect(),
        slots: 2,
        token: FlightToken::default(),
    };
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run_session(config, Arc::new(Script(cancelled_sender)), shutdown.clone()));
    Worker { shutdown, cancelled, session }
}

const LONG_LEASE: u64 = 60_000;

#[tokio::test]
async fn a_report_goes_chunk_by_chunk_each_after_the_answer_to_the_one_before() {
    let (address, mut sides) = coordinator().await;
    let worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    assert_eq!(side.register(LONG_LEASE).await.worker_id, "w1");
    side.heartbeat_with(&[]).await;
    side.assign("report").await;
    let first = side.next_chunk().await;
    assert_eq!((first.sequence, first.data_files.len(), first.last), (0, 1, false));
    // Held until its last chunk is answered.
    side.heartbeat_with(&["report"]).await;
    side.accept(&first).await;
    let last = side.next_chunk().await;
    assert_eq!((last.sequence, last.last, last.totals.unwrap().rows), (1, true, 5));
    side.accept(&last).await;
    side.heartbeat_with(&[]).await;
    worker.shutdown.cancel();
    worker.session.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_chunk_without_an_answer_is_sent_again_on_the_next_connection() {
    let (address, mut sides) = coordinator().await;
    let _worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("report").await;
    let first = side.next_chunk().await;
    drop(side);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    assert_eq!(side.next_chunk().await, first);
    side.accept(&first).await;
    // A second answer to the same chunk does no harm.
    side.accept(&first).await;
    assert_eq!(side.next_chunk().await.sequence, 1);
}

#[tokio::test]
async fn a_refused_report_is_dropped() {
    let (address, mut sides) = coordinator().await;
    let _worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("report").await;
    let chunk = side.next_chunk().await;
    let refused = Some(ErrorInfo { message: "another attempt runs".into(), ..ErrorInfo::default() });
    let answer = ReportAnswer { slice: chunk.slice, sequence: 0, accepted: false, refused };
    side.send(FromCoordinator::ReportAnswer(answer)).await;
    side.heartbeat_with(&[]).await;
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let (leader, mut leaders) = coordinator().await;
    let (follower, mut followers) = coordinator().await;
    let _worker = worker(&[&follower]);
    let mut side = followers.recv().await.unwrap();
    side.next().await;
    side.send(FromCoordinator::NotLeader(NotLeader { leader_address: leader })).await;
    leaders.recv().await.unwrap().register(LONG_LEASE).await;
}

#[tokio::test]
async fn failures_say_whether_another_attempt_can_help() {
    let (address, mut sides) = coordinator().await;
    let _worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("fail").await;
    let failed = side.next_failed().await;
    let error = failed.error.unwrap();
    assert!(failed.permanent);
    assert_eq!(
        (error.kind.as_str(), error.message.as_str(), error.hint.as_str()),
        ("bad_data", "bad row", "fix it")
    );
    side.assign("panic").await;
    let failed = side.next_failed().await;
    assert!(!failed.permanent);
    side.heartbeat_with(&[]).await;
}

#[tokio::test]
async fn cancelled_and_revoked_slices_stop_without_a_report() {
    let (address, mut sides) = coordinator().await;
    let mut worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("wait-a").await;
    side.assign("wait-a").await;
    side.assign("wait-b").await;
    side.heartbeat_with(&["wait-a", "wait-b"]).await;
    side.send(FromCoordinator::Cancel(CancelSlice {
        slice: Some(slice("wait-a")),
        reason: "job ended".into(),
    }))
    .await;
    assert_eq!(worker.cancelled.recv().await.unwrap(), "wait-a");
    side.send(FromCoordinator::HeartbeatAnswer(HeartbeatAnswer { revoked: vec![slice("wait-b")] })).await;
    assert_eq!(worker.cancelled.recv().await.unwrap(), "wait-b");
    side.heartbeat_with(&[]).await;
    side.assign("fail").await;
    assert_eq!(side.next_failed().await.slice.unwrap().job_id, "fail");
}

#[tokio::test]
async fn a_worker_that_hears_nothing_for_a_lease_stops_its_slices() {
    let (address, mut sides) = coordinator().await;
    let mut worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(300).await;
    side.assign("wait").await;
    // The connection stays up and silent.
    assert_eq!(worker.cancelled.recv().await.unwrap(), "wait");
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.heartbeat_with(&[]).await;
}

#[tokio::test]
async fn slices_outlive_a_lost_connection_within_their_lease() {
    let (address, mut sides) = coordinator().await;
    let mut worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("wait").await;
    side.heartbeat_with(&["wait"]).await;
    drop(side);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.heartbeat_with(&["wait"]).await;
    assert!(worker.cancelled.try_recv().is_err());
}

#[tokio::test]
async fn a_worker_that_shuts_down_hands_its_slices_back() {
    let (address, mut sides) = coordinator().await;
    let worker = worker(&[&address]);
    let mut side = sides.recv().await.unwrap();
    side.register(LONG_LEASE).await;
    side.assign("wait").await;
    side.heartbeat_with(&["wait"]).await;
    worker.shutdown.cancel();
    let failed = side.next_failed().await;
    assert!(!failed.permanent);
    assert!(failed.error.unwrap().retryable);
    worker.session.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    let config = SessionConfig {
        register: Register::default(),
        coordinators: vec!["not an address".into()],
        slots: 1,
        token: FlightToken::default(),
    };
    let (sender, _) = mpsc::unbounded_channel();
    let error = run_session(config, Arc::new(Script(sender)), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("'not an address'"), "{error}");
}
