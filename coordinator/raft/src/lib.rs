//! The replicated log: raft-rs driven in the right order, over sled, for an opaque state machine.
//!
//! A node is one OS thread that owns everything ([`RaftNode::start`]); a [`RaftHandle`] hands inputs to
//! it and waits for answers. A command goes in as bytes ([`RaftHandle::propose`]), becomes a log entry
//! on a majority of disks, and is applied on every member by the [`StateMachine`], whose effects are
//! written together with the applied index ([`StateStore`]). What comes out are results for proposers,
//! [`Events`] for subscribers, and views of the state at exactly one applied index.
//!
//! The log is durable before anything is said about it; the state may lag behind on disk and catches up
//! from the log. A failure of a store, a panic, or a broken invariant ends the node
//! ([`RaftHandle::ended`]); it is opened again from its stores, which are never repaired.
//!
//! What the network does is up to a [`Transport`]. This crate knows no command, no gRPC, no clock but
//! its ticks.

pub mod config;
mod driver;
mod handle;
pub mod identity;
pub mod log_store;
pub mod memory_network;
pub mod node;
mod proposals;
mod reads;
mod slog_to_tracing;
mod snapshot_files;
mod state_machine;
pub mod state_store;
mod status;
mod storage;
mod transport;

pub use config::{NodeConfig, Start};
pub use handle::{RaftHandle, RaftNode, SnapshotReceiver};
pub use identity::Identity;
pub use node::{MembershipChange, NodeCore, Stores};
pub use proposals::{ProposeError, Proposed};
pub use snapshot_files::{
    SNAPSHOT_PIECE_BYTES, SnapshotFolder, SnapshotManifest, SnapshotPiece, SnapshotPieces,
};
pub use state_machine::{Applied, StateMachine};
pub use state_store::{Membership, StateMeta, StateStore, StateView};
pub use status::{Event, Events, Role, Status};
pub use transport::{NoTransport, Transport};

/// What a store takes as one value: larger ones would leave its pages for files that are never synced.
pub(crate) const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The largest command: what is left of a log entry of 64 KiB.
pub const MAX_COMMAND_BYTES: usize = MAX_VALUE_BYTES - 512;
