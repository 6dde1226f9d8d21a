//! What a spec says about reaching a store, as `common` wants it.
//!
//! Comes in: `StorageAccess` of a message. Goes out: a [`StorageSpec`] with its secrets wrapped. The policy
//! is the operator's, as the coordinator sent it.

use std::path::PathBuf;

use stevedore_common::Result;
use stevedore_common::secret::Secret;
use stevedore_common::storage::{StoragePolicy, StorageSpec};
use stevedore_proto::v1::StorageAccess;

/// The spec of a store.
///
/// # Errors
/// Where the root is no folder.
pub fn storage_spec(access: &StorageAccess) -> Result<StorageSpec> {
    let policy = StoragePolicy {
        allow_private_network: access.allow_private_network,
        allowed_fs_roots: access.allowed_fs_roots.iter().map(PathBuf::from).collect(),
        allow_ambient_credentials: access.allow_ambient_credentials,
    };
    let params = access.params.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let secrets =
        access.secrets.iter().map(|(key, value)| (key.clone(), Secret::new(value.clone()))).collect();
    StorageSpec::from_parts(&access.root, params, secrets, policy)
}
