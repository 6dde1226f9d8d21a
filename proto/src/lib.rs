//! The gRPC contracts, generated at build time from `stevedore/v1/*.proto` without `protoc`.
//! Only generated code lives here; conversions sit with the domain types they convert.

/// Package `stevedore.v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
pub mod v1 {
    tonic::include_proto!("stevedore.v1");
}

/// The encoded descriptor set, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stevedore.bin"));
