//! The services of the coordinator: thin, at the top. They decode requests, call what is below, encode
//! answers. Nothing below imports anything here.

pub mod admin_service;
pub mod flight_sql;
pub mod http;
pub mod job_service;
pub mod raft_service;
pub mod sessions;
pub mod stage_service;
pub mod worker_service;
