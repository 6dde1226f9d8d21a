//! The worker: reads files, decodes, transforms, casts, writes data files; runs queries.
//!
//! Comes in: slices over the [`session`] that the worker opens to the leading coordinator, queries over its
//! [`flight`] service. Goes out: reports with Iceberg data files, and rows. A worker decides nothing about
//! what is loaded: its report counts only once the replicated state has accepted it. Memory is bounded by its
//! configuration, and nothing here knows the catalog.

pub mod flight;
pub mod flight_token;
pub mod inbox;
pub mod infer;
mod messages;
pub mod query;
pub mod read;
pub mod session;
pub mod slice;
mod spare_memory;
pub mod storage_access;
pub mod transform;
mod unload;
pub mod worker;
pub mod write;
