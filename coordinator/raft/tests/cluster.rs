//! Several nodes: elections, losses, partitions, snapshots, linearizable reads, membership.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use stevedore_common::ErrorKind;
use stevedore_common::ids::NodeId;
use stevedore_raft::{Event, MembershipChange, ProposeError, Role, Start};
use support::{Cluster, bytes, count_of, status_where};

const ALL: [u64; 3] = [1, 2, 3];

fn others(id: u64) -> Vec<u64> {
    ALL.into_iter().filter(|other| *other != id).collect()
}

fn ids(of: &[u64]) -> Vec<NodeId> {
    of.iter().copied().map(NodeId).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_applies_what_the_leader_commits() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let proposed = leader.propose(bytes("a")).await.unwrap();
    for node in cluster.running() {
        node.wait_applied(proposed.index).await.unwrap();
        assert_eq!(count_of(&*node.view(), b"a"), 1);
        let status = node.status().borrow().clone();
        assert_eq!(status.leader, Some(leader.id()));
        assert_eq!(status.membership.voters, ALL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_instead_of_proposing() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let follower = cluster.node(others(leader.id().0)[0]);
    status_where(&follower, "knowing the leader", |s| s.leader == Some(leader.id())).await;
    let refused = follower.propose(bytes("a")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader.id()) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_serve_linearizable_reads() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    for round in 1..=20_u64 {
        leader.propose(bytes("a")).await.unwrap();
        for id in ALL {
            let view = cluster.node(id).linearizable_view().await.unwrap();
            assert!(count_of(&view, b"a") >= round);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_leads_when_the_leader_dies_and_it_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(3);
    let first = cluster.leader().await.id().0;
    cluster.propose_surely(&ALL, "before").await;
    cluster.kill(first).await;
    let second = cluster.leader_among(&others(first)).await;
    assert_ne!(second.id().0, first);
    assert_eq!(count_of(&*second.view(), b"before"), 1);
    cluster.propose_surely(&others(first), "meanwhile").await;
    cluster.launch(first, &[], Start::Open);
    let back = cluster.node(first);
    let view = back.linearizable_view().await.unwrap();
    assert_eq!((count_of(&view, b"before"), count_of(&view, b"meanwhile")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_answers_unknown_and_nothing_is_applied_twice() {
    let cluster = Cluster::start(3);
    let old = cluster.leader().await;
    cluster.propose_surely(&ALL, "before").await;
    let rest = others(old.id().0);
    cluster.network.partition(&[old.id()], &ids(&rest));

    let doomed = old.propose(bytes("doomed")).await;
    assert!(matches!(doomed, Err(ProposeError::OutcomeUnknown { .. })), "{doomed:?}");
    status_where(&old, "having stepped down", |s| s.role != Role::Leader).await;
    let refused = old.propose(bytes("refused")).await.unwrap_err();
    assert!(refused.is_certainly_without_effect(), "{refused}");
    assert_eq!(old.read_index().await.unwrap_err().kind(), ErrorKind::Unavailable);

    cluster.propose_surely(&rest, "after").await;
    cluster.network.heal();
    for id in ALL {
        let view = cluster.node(id).linearizable_view().await.unwrap();
        assert_eq!(count_of(&view, b"before"), 1);
        assert_eq!(count_of(&view, b"after"), 1);
        assert_eq!(count_of(&view, b"doomed"), 0, "only the cut-off leader had it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::tuned(3, |config| {
        config.compact_after_entries = 40;
        config.log_tail_entries = 10;
    });
    let leader = cluster.leader().await;
    let behind = others(leader.id().0)[0];
    let rest: Vec<u64> = ALL.into_iter().filter(|id| *id != behind).collect();
    cluster.kill(behind).await;
    for i in 0..400 {
        cluster.propose_surely(&rest, &format!("c{i}")).await;
    }
    let leader = cluster.leader_among(&rest).await;
    status_where(&leader, "a log that begins later", |s| s.first_index > 100).await;

    cluster.launch(behind, &[], Start::Open);
    let node = cluster.node(behind);
    let mut events = node.events();
    let view = node.linearizable_view().await.unwrap();
    for i in 0..400 {
        assert_eq!(count_of(&view, format!("c{i}").as_bytes()), 1);
    }
    assert!(cluster.network.snapshots_delivered() >= 1);
    status_where(&node, "a log that begins with the snapshot", |s| s.snapshot_index > 100).await;
    assert_eq!(events.next().await, Some(Event::ReadStateAgain));
    // It is a full member again, also after a restart from what the snapshot left.
    drop(view);
    cluster.kill(behind).await;
    cluster.launch(behind, &[], Start::Open);
    cluster.propose_surely(&ALL, "again").await;
    assert_eq!(count_of(&cluster.node(behind).linearizable_view().await.unwrap(), b"again"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_on_request_and_at_a_graceful_shutdown() {
    let mut cluster = Cluster::start(3);
    let first = cluster.leader().await;
    let second = NodeId(others(first.id().0)[0]);
    first.transfer_leadership(Some(second)).await.unwrap();
    let second = cluster.node(second.0);
    status_where(&second, "leading", |s| s.leads_with_current_state).await;
    assert!(first.transfer_leadership(None).await.is_err(), "it does not lead any more");
    assert_eq!(
        second.transfer_leadership(Some(NodeId(9))).await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );

    let term = second.status().borrow().term;
    second.shutdown(true).await.unwrap();
    cluster.network.disconnect(second.id());
    cluster.members[second.id().0 as usize - 1].handle = None;
    let third = cluster.leader_among(&others(second.id().0)).await;
    assert_eq!(third.status().borrow().term, term + 1, "handed over, not elected after a silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_as_a_learner_then_votes_then_leaves() {
    let mut cluster = Cluster::tuned(1, |config| {
        config.compact_after_entries = 40;
        config.log_tail_entries = 10;
    });
    let leader = cluster.leader().await;
    for i in 0..200 {
        leader.propose(bytes(&format!("c{i}"))).await.unwrap();
    }
    cluster.join(2);
    let add = MembershipChange::AddLearner { node: NodeId(2), note: "host2:7000".into() };
    leader.change_membership(add.clone()).await.unwrap();
    assert!(leader.change_membership(add).await.is_err(), "it is a member already");
    let joined = cluster.node(2);
    status_where(&joined, "being a learner", |s| s.membership.learners == [2] && s.applied > 200).await;
    assert_eq!(count_of(&joined.linearizable_view().await.unwrap(), b"c199"), 1);

    loop {
        match leader.change_membership(MembershipChange::Promote { node: NodeId(2) }).await {
            Ok(_) => break,
            Err(error) => assert!(error.to_string().contains("not caught up"), "{error}"),
        }
    }
    let status = status_where(&joined, "being a voter", |s| s.membership.voters == [1, 2]).await;
    assert_eq!(status.membership.notes[&2], "host2:7000");
    leader.propose(bytes("both")).await.unwrap();

    leader.change_membership(MembershipChange::Remove { node: NodeId(2) }).await.unwrap();
    cluster.kill(2).await;
    leader.propose(bytes("alone")).await.unwrap();
    assert_eq!(leader.status().borrow().membership.voters, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_disk_is_not_admitted() {
    let mut cluster = Cluster::start(1);
    let node = cluster.leader().await;
    node.admit_peer("test", NodeId(2), "first").await.unwrap();
    node.admit_peer("test", NodeId(2), "first").await.unwrap();
    let wiped = node.admit_peer("test", NodeId(2), "second").await.unwrap_err();
    assert!(wiped.to_string().contains("another disk"), "{wiped}");
    assert!(node.admit_peer("other", NodeId(2), "first").await.is_err());
    assert!(node.admit_peer("test", NodeId(1), "first").await.is_err());
    drop(node);
    cluster.kill(1).await;
    cluster.launch(1, &[], Start::Open);
    assert!(cluster.node(1).admit_peer("test", NodeId(2), "second").await.is_err(), "it is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_ends_the_node_and_the_others_go_on() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    cluster.propose_surely(&ALL, "before").await;
    let id = leader.id().0;
    cluster.members[id as usize - 1].log.fail_writes(Some("no space left"));
    let outcome = leader.propose(bytes("lost")).await.unwrap_err();
    assert!(!outcome.is_certainly_without_effect(), "others may have it: {outcome}");
    let ended = leader.ended().await.unwrap_err();
    assert!(ended.to_string().contains("no space left"), "{ended}");
    cluster.network.disconnect(leader.id());
    cluster.propose_surely(&others(id), "after").await;

    cluster.members[id as usize - 1].log.fail_writes(None);
    cluster.launch(id, &[], Start::Open);
    let view = cluster.node(id).linearizable_view().await.unwrap();
    assert_eq!((count_of(&view, b"before"), count_of(&view, b"after")), (1, 1));
    assert!(count_of(&view, b"lost") <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_somebody_else_are_refused() {
    let cluster = Cluster::start(1);
    let node = cluster.leader().await;
    assert_eq!(node.step(&[bytes("nonsense\u{1}")]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(node.begin_snapshot(&bytes("")).is_err());
}
