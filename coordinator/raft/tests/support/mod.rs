//! A small state machine and a cluster of real nodes on a network in memory.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use bytes::Bytes;
use stevedore_common::Result;
use stevedore_common::ids::NodeId;
use stevedore_raft::log_store::MemoryLogStore;
use stevedore_raft::memory_network::MemoryNetwork;
use stevedore_raft::{
    Applied, NodeConfig, RaftHandle, RaftNode, SnapshotFolder, Start, StateMachine, StateStore, Status,
    Stores,
};
use stevedore_state::view::{ReadView, WriteBatch};

/// Counts how often each command was applied; `fail` breaks an invariant, `panic` panics.
#[derive(Default)]
pub struct Counting;

pub fn counter_key(command: &[u8]) -> Vec<u8> {
    [b"n/", &command[..command.len().min(40)]].concat()
}

pub fn count_of(view: &dyn ReadView, command: &[u8]) -> u64 {
    let value = view.get(&counter_key(command)).unwrap();
    value.map_or(0, |v| String::from_utf8_lossy(&v).parse().unwrap())
}

impl StateMachine for Counting {
    fn apply(&mut self, view: &dyn ReadView, index: u64, command: &[u8]) -> Result<Applied> {
        match command {
            b"fail" => return Err(stevedore_common::Error::internal("an invariant does not hold")),
            b"panic" => panic!("the state machine panicked"),
            _ => {}
        }
        let count = count_of(view, command) + 1;
        let mut batch = WriteBatch::default();
        batch.put(counter_key(command), count.to_string());
        batch.put("last", index.to_string());
        Ok(Applied {
            batch,
            result: format!("{count}").into(),
            events: vec![Bytes::copy_from_slice(&command[..command.len().min(40)])],
        })
    }
}

pub fn config(id: u64, voters: &[u64]) -> NodeConfig {
    let mut config = NodeConfig::new(NodeId(id), "test", voters.iter().copied().map(NodeId).collect());
    config.tick = Duration::from_millis(20);
    config
}

pub async fn status_where(handle: &RaftHandle, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
    let mut status = handle.status();
    let reached = tokio::time::timeout(Duration::from_secs(60), status.wait_for(|s| condition(s))).await;
    match reached {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("node {} never came to: {what}; it is at {:?}", handle.id(), handle.status().borrow()),
    }
}

pub struct Member {
    pub handle: Option<RaftHandle>,
    pub log: MemoryLogStore,
    pub state: StateStore,
}

/// Nodes with disks in memory, which survive the node.
pub struct Cluster {
    pub network: MemoryNetwork,
    pub members: Vec<Member>,
    pub tune: fn(&mut NodeConfig),
}

impl Cluster {
    pub fn start(size: u64) -> Self {
        Self::tuned(size, |_| {})
    }

    pub fn tuned(size: u64, tune: fn(&mut NodeConfig)) -> Self {
        let mut cluster = Self { network: MemoryNetwork::new(), members: Vec::new(), tune };
        let voters: Vec<u64> = (1..=size).collect();
        for id in 1..=size {
            cluster.members.push(Member {
                handle: None,
                log: MemoryLogStore::new(),
                state: StateStore::memory(),
            });
            cluster.launch(id, &voters, Start::Bootstrap);
        }
        cluster
    }

    pub fn launch(&mut self, id: u64, voters: &[u64], start: Start) {
        let mut config = config(id, voters);
        (self.tune)(&mut config);
        let member = &mut self.members[id as usize - 1];
        member.state = member.state.reopen_memory(false).unwrap();
        let stores = Stores {
            log: Box::new(member.log.clone()),
            state: member.state.clone(),
            snapshots: SnapshotFolder::temporary().unwrap(),
        };
        let transport = self.network.transport(NodeId(id));
        let handle = RaftNode::start_over(config, start, stores, Counting, transport).unwrap();
        self.network.connect(&handle).unwrap();
        member.handle = Some(handle);
    }

    pub fn join(&mut self, id: u64) {
        assert_eq!(self.members.len() as u64 + 1, id);
        self.members.push(Member { handle: None, log: MemoryLogStore::new(), state: StateStore::memory() });
        self.launch(id, &[], Start::Join);
    }

    pub fn node(&self, id: u64) -> RaftHandle {
        self.members[id as usize - 1].handle.clone().expect("the node runs")
    }

    pub fn running(&self) -> Vec<RaftHandle> {
        self.members.iter().filter_map(|m| m.handle.clone()).collect()
    }

    pub async fn kill(&mut self, id: u64) {
        self.network.disconnect(NodeId(id));
        let handle = self.members[id as usize - 1].handle.take().expect("the node runs");
        handle.shutdown(false).await.unwrap();
    }

    /// The leader among some nodes, once it may decide.
    pub async fn leader_among(&self, ids: &[u64]) -> RaftHandle {
        let handles: Vec<RaftHandle> = ids.iter().map(|id| self.node(*id)).collect();
        let waits = handles.iter().map(|handle| {
            Box::pin(async move {
                status_where(handle, "leading", |s| s.leads_with_current_state).await;
                handle.clone()
            })
        });
        futures::future::select_all(waits).await.0
    }

    pub async fn leader(&self) -> RaftHandle {
        let ids: Vec<u64> = self.running().iter().map(|h| h.id().0).collect();
        self.leader_among(&ids).await
    }

    /// Proposes on whoever leads until it is certain that it was applied; counts nothing twice, since a
    /// proposal of unknown outcome is looked up first.
    pub async fn propose_surely(&self, ids: &[u64], command: &str) {
        loop {
            let leader = self.leader_among(ids).await;
            match leader.propose(Bytes::from(command.to_owned())).await {
                Ok(_) => return,
                Err(error) if error.is_certainly_without_effect() => tokio::task::yield_now().await,
                Err(_) => {
                    let leader = self.leader_among(ids).await;
                    let Ok(view) = leader.linearizable_view().await else { continue };
                    if count_of(&view, command.as_bytes()) > 0 {
                        return;
                    }
                }
            }
        }
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}
