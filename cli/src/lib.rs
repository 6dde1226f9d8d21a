//! The `stevedore` binary: an embedded instance, the servers, and the client verbs.
//!
//! The library is what the binary is made of, so that tests can start the very same instance.

pub mod client;
pub mod commands;
pub mod config;
pub mod instance;
pub mod load;
pub mod quickstart;
pub mod shell;
mod sql_text;
pub mod transfer;
