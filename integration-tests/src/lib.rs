//! What the integration tests stand on: instances and clusters to talk to, stores to load from, files to
//! load, and an oracle that reads tables without our own scan.
//!
//! Everything here cleans up when it is dropped: processes are killed, folders removed. Ports are chosen
//! by the system. Nothing here knows the sources under test but their public surfaces.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod cluster;
pub mod cluster_jobs;
pub mod collector;
pub mod files;
pub mod hub;
pub mod instance;
pub mod ipfs;
pub mod large_bucket;
pub mod objectstore;
pub mod oracle;
pub mod script;
pub mod server;
pub mod show;
pub mod web;
