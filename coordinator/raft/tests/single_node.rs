//! One node on a real disk: what is answered is durable, and a wrong or damaged folder never opens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stevedore_common::ErrorKind;
use stevedore_common::ids::NodeId;
use stevedore_raft::{
    Event, MAX_COMMAND_BYTES, NoTransport, NodeConfig, ProposeError, RaftHandle, RaftNode, Start,
};
use support::{Counting, bytes, config, count_of, status_where};

fn on_disk(folder: &Path) -> NodeConfig {
    NodeConfig { data_dir: Some(folder.to_owned()), ..config(1, &[1]) }
}

fn start(config: NodeConfig, start: Start) -> stevedore_common::Result<RaftHandle> {
    RaftNode::start(config, start, Counting, Arc::new(NoTransport))
}

async fn stop(handle: RaftHandle) {
    handle.shutdown(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_applied_and_answered_and_seen() {
    let node = start(config(1, &[1]), Start::OpenOrBootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    let mut events = node.events();
    let first = node.propose(bytes("a")).await.unwrap();
    let second = node.propose(bytes("a")).await.unwrap();
    assert_eq!((first.result.as_ref(), second.result.as_ref()), (b"1".as_slice(), b"2".as_slice()));
    assert!(second.index > first.index);
    assert!(node.read_index().await.unwrap() >= second.index);
    assert_eq!(count_of(&*node.view(), b"a"), 2);
    assert_eq!(events.next().await.unwrap(), Event::Applied { index: first.index, event: bytes("a") });
    stop(node.clone()).await;
    assert_eq!(node.propose(bytes("b")).await, Err(ProposeError::Stopped));
    assert_eq!(events.next().await.unwrap(), Event::Applied { index: second.index, event: bytes("a") });
    assert_eq!(events.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_is_told_to_read_the_state_again() {
    let node = start(NodeConfig { event_buffer: 4, ..config(1, &[1]) }, Start::OpenOrBootstrap).unwrap();
    let mut events = node.events();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    for _ in 0..20 {
        node.propose(bytes("x")).await.unwrap();
    }
    assert_eq!(events.next().await.unwrap(), Event::ReadStateAgain);
    assert!(matches!(events.next().await.unwrap(), Event::Applied { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut incarnation = None;
    for round in 1..=3_u64 {
        let node = start(on_disk(folder.path()), Start::OpenOrBootstrap).unwrap();
        status_where(&node, "leading", |s| s.leads_with_current_state).await;
        assert_eq!(count_of(&*node.view(), b"kept"), (round - 1) * 10);
        for _ in 0..10 {
            node.propose(bytes("kept")).await.unwrap();
        }
        assert_eq!(incarnation.get_or_insert(node.incarnation().to_owned()), node.incarnation());
        stop(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_cut_off_and_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let small = || NodeConfig { compact_after_entries: 50, log_tail_entries: 20, ..on_disk(folder.path()) };
    let node = start(small(), Start::Bootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    for i in 0..300 {
        node.propose(Bytes::from(format!("{i}"))).await.unwrap();
    }
    let status = status_where(&node, "a shorter log", |s| s.first_index > 200).await;
    assert!(status.last_index - status.first_index >= 19);
    stop(node).await;
    let node = start(small(), Start::Open).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    assert_eq!(node.propose(bytes("299")).await.unwrap().result, "2");
    assert_eq!(std::fs::read_dir(folder.path().join("log/blobs")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("state/blobs")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_not_fit_are_refused_before_they_are_proposed() {
    let node = start(config(1, &[1]), Start::OpenOrBootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    node.propose(Bytes::from(vec![b'x'; MAX_COMMAND_BYTES])).await.unwrap();
    for size in [0, MAX_COMMAND_BYTES + 1] {
        let error = node.propose(Bytes::from(vec![b'x'; size])).await.unwrap_err();
        assert_eq!(error, ProposeError::WrongSize { bytes: size, limit: MAX_COMMAND_BYTES });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_where_it_cannot_go_on() {
    for (command, says) in [("fail", "an invariant does not hold"), ("panic", "the state machine panicked")] {
        let node = start(config(1, &[1]), Start::OpenOrBootstrap).unwrap();
        status_where(&node, "leading", |s| s.leads_with_current_state).await;
        let error = node.propose(bytes(command)).await.unwrap_err();
        assert!(matches!(error, ProposeError::OutcomeUnknown { .. }), "{error}");
        let ended = node.ended().await.unwrap_err();
        assert!(ended.to_string().contains(says), "{ended}");
        assert!(node.read_index().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_only_for_whom_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let error = start(on_disk(folder.path()), Start::Open).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("join again as a new member"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let node = start(on_disk(folder.path()), Start::Bootstrap).unwrap();
    let busy = start(on_disk(folder.path()), Start::Open).unwrap_err();
    assert!(busy.to_string().contains("another process"), "{busy}");
    stop(node).await;

    let other_cluster = NodeConfig { cluster_id: "other".into(), ..on_disk(folder.path()) };
    let other_node = NodeConfig { id: NodeId(2), voters: vec![NodeId(2)], ..on_disk(folder.path()) };
    let other_voters = NodeConfig { voters: vec![NodeId(1), NodeId(2)], ..on_disk(folder.path()) };
    for (config, how, kind) in [
        (on_disk(folder.path()), Start::Bootstrap, ErrorKind::AlreadyExists),
        (on_disk(folder.path()), Start::Join, ErrorKind::AlreadyExists),
        (other_cluster, Start::Open, ErrorKind::Conflict),
        (other_node, Start::Open, ErrorKind::Conflict),
        (other_voters, Start::OpenOrBootstrap, ErrorKind::Conflict),
    ] {
        let error = start(config, how).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    stop(start(on_disk(folder.path()), Start::Open).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_data_folder_does_not_open() {
    for lost in ["state", "log"] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(on_disk(folder.path()), Start::Bootstrap).unwrap();
        status_where(&node, "leading", |s| s.leads_with_current_state).await;
        node.propose(bytes("a")).await.unwrap();
        stop(node).await;
        std::fs::remove_dir_all(folder.path().join(lost)).unwrap();
        for how in [Start::Open, Start::OpenOrBootstrap] {
            let error = start(on_disk(folder.path()), how).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&folder.path().display().to_string()), "{text}");
            assert!(text.contains("new member"), "{text}");
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_a_snapshot_s_installation_is_made_good_and_a_shorter_log_is_not() {
    use stevedore_raft::log_store::MemoryLogStore;
    use stevedore_raft::{NodeCore, SnapshotFolder, StateMeta, StateStore, Stores};
    let log = MemoryLogStore::new();
    let state = StateStore::memory();
    let open = |state: &StateStore, how| {
        let snapshots = SnapshotFolder::temporary().unwrap();
        let stores = Stores { log: Box::new(log.clone()), state: state.clone(), snapshots };
        NodeCore::open(config(1, &[1, 2, 3]), how, stores, Counting, Arc::new(NoTransport))
    };
    drop(open(&state, Start::Bootstrap).unwrap());
    let ahead = StateMeta { applied: 100, applied_term: 7, ..(*state.meta()).clone() };

    state.begin_install().finish(ahead.clone()).unwrap();
    let error = open(&state, Start::Open).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::BadData);
    assert!(error.to_string().contains("which the log (up to 1) does not have"), "{error}");

    state.begin_install().finish(StateMeta { installed: 100, ..ahead.clone() }).unwrap();
    let status = open(&state, Start::Open).unwrap().status().borrow().clone();
    assert_eq!((status.applied, status.first_index, status.last_index, status.term), (100, 101, 100, 7));

    state.begin_install().finish(StateMeta { applied: 90, ..ahead }).unwrap();
    let error = open(&state, Start::Open).err().unwrap();
    assert!(
        error.to_string().contains("the state ends at log entry 90, the log begins after 100"),
        "{error}"
    );
}

const DYING_IN: &str = "STEVEDORE_TEST_DYING_IN";

/// The process that the next test kills: proposes as fast as it can, says what was answered, and dies.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn a_process_that_dies() {
    let Ok(folder) = std::env::var(DYING_IN) else { return };
    let mut config = on_disk(Path::new(&folder));
    (config.compact_after_entries, config.log_tail_entries) = (200, 20);
    let node = start(config, Start::OpenOrBootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    let run = node.status().borrow().last_index;
    let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for i in 0..3_000 {
        let (node, done) = (node.clone(), done.clone());
        tokio::spawn(async move {
            let mut command = format!("{run}/{i}/").into_bytes();
            command.resize(40 + i % 5_000, b'.');
            let name = String::from_utf8(command[..40].to_vec()).unwrap();
            if node.propose(command.into()).await.is_ok() {
                done.send(name).unwrap();
            }
        });
    }
    for _ in 0..1_000 {
        println!("\nanswered {}", answers.recv().await.unwrap());
    }
    std::process::abort();
}

#[test]
fn what_was_answered_survives_the_death_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered = Vec::new();
    for _ in 0..3 {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_dies", "--ignored", "--nocapture"])
            .env(DYING_IN, folder.path())
            .output()
            .unwrap();
        assert!(!output.status.success(), "it must have died");
        let said = String::from_utf8_lossy(&output.stdout);
        answered.extend(said.lines().filter_map(|line| line.strip_prefix("answered ")).map(str::to_owned));
    }
    assert_eq!(answered.len(), 3_000);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = start(on_disk(folder.path()), Start::Open).unwrap();
        let view = node.linearizable_view().await.unwrap();
        for command in &answered {
            assert_eq!(count_of(&view, command.as_bytes()), 1, "{command}");
        }
        stop(node).await;
    });
    assert_eq!(std::fs::read_dir(folder.path().join("log/blobs")).unwrap().count(), 0);
}

fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap());
    files.map(|f| if f.path().is_dir() { size_of(&f.path()) } else { f.metadata().unwrap().len() }).sum()
}

/// What a log that is written and cut off again takes on disk. Run with `-- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_log_that_is_cut_off_gives_its_space_back() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let node = start(on_disk(folder.path()), Start::Bootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    for round in 0..12 {
        let proposals = (0..5_000).map(|i| {
            let mut command = format!("{}/", (round * 5_000 + i) % 7_000).into_bytes();
            command.resize(40.max(i % 16_000), b'.');
            node.propose(command.into())
        });
        for outcome in futures::future::join_all(proposals).await {
            outcome.unwrap();
        }
        let status = node.status().borrow().clone();
        println!(
            "entries {}..{}: log {} MiB, state {} MiB",
            status.first_index,
            status.last_index,
            size_of(&folder.path().join("log")) >> 20,
            size_of(&folder.path().join("state")) >> 20
        );
    }
    stop(node).await;
}

/// 20,000 claims arrive as about 150 commands of 40 KB. Run with `--release -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn pipelined_commands_share_their_syncs() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let node = start(on_disk(folder.path()), Start::Bootstrap).unwrap();
    status_where(&node, "leading", |s| s.leads_with_current_state).await;
    for round in 0..3 {
        let begun = std::time::Instant::now();
        let proposals = (0..150).map(|i| {
            let mut command = format!("{round}/{i}/").into_bytes();
            command.resize(40_000, b'x');
            node.propose(command.into())
        });
        for outcome in futures::future::join_all(proposals).await {
            outcome.unwrap();
        }
        println!("150 commands of 40 KB: {:?}", begun.elapsed());
        let begun = std::time::Instant::now();
        for i in 0..100 {
            node.propose(bytes(&format!("{round}/{i}"))).await.unwrap();
        }
        println!("100 small commands one after another: {:?}", begun.elapsed());
        let begun = std::time::Instant::now();
        let proposals = (0..20_000).map(|i| node.propose(bytes(&format!("{round}/{i}"))));
        for outcome in futures::future::join_all(proposals).await {
            outcome.unwrap();
        }
        println!("20000 small commands at once: {:?}", begun.elapsed());
    }
    stop(node).await;
}
