//! stub
pub mod write;
pub mod flight;
pub mod query;
pub mod read;
pub mod status;
pub mod storage_access;
pub mod transform;
pub mod session;
pub mod slice;
pub mod worker;
