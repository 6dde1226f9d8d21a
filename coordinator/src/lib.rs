//! The coordinator: catalog, ledger, planning, scheduling, commits, and the services that clients, workers
//! and the other coordinators speak to.
//!
//! A statement comes in at the top ([`api`]), is bound and run by the [`engine`], planned by the
//! [`planner`], made durable through the [`replica`], carried out by the [`scheduler`]'s driver on the
//! leader, and committed by the [`committer`]. What comes back up are events and results. No row data is
//! decoded here and no query is run: that is the workers' part.

pub mod api;
pub mod committer;
pub mod config;
pub mod cron;
pub mod engine;
mod leadership;
pub mod node;
mod peers;
pub mod planner;
pub mod replica;
pub mod results;
pub mod scheduler;
mod state_machine;
pub mod stores;
pub mod worker_directory;

pub use config::CoordinatorConfig;
pub use node::Coordinator;
