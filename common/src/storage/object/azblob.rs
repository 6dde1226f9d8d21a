//! Azure Blob Storage.

use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::signer::Signer;

use crate::error::{Error, Result};

use super::super::StorageSpec;
use super::super::egress::PolicyConnector;
use super::super::failure::StoreLabel;
use super::{ObjectBackend, Signing, endpoint_of, retries};

/// The store of a container. Without a key it is read as a public one.
pub(crate) fn azblob(spec: &StorageSpec) -> Result<ObjectBackend> {
    let container = spec.root.authority();
    let Some(account) = spec.value("account_name") else {
        return Err(Error::invalid(format!("the container '{container}' needs the name of its account"))
            .hint("set ACCOUNT_NAME of the connection"));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !account.chars().all(plain) {
        return Err(Error::invalid("option ACCOUNT_NAME must be letters and digits"));
    }
    let endpoint = endpoint_of(spec)?;
    let at = endpoint.as_ref().map_or_else(
        || format!("https://{account}.blob.core.windows.net"),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    let builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(container)
        .with_endpoint(at.clone())
        .with_allow_http(endpoint.is_some_and(|url| url.scheme() == "http"))
        .with_http_connector(PolicyConnector(spec.policy.egress()))
        .with_retry(retries());
    let key = spec.value("account_key");
    let signs = key.is_some();
    let builder = match key {
        Some(key) => builder.with_access_key(key),
        None => builder.with_skip_signature(true),
    };
    let label =
        StoreLabel { place: format!("container '{container}' at '{at}'"), keys: "ACCOUNT_NAME, ACCOUNT_KEY" };
    let store = builder.build().map_err(|e| {
        // The library's text may quote the key.
        tracing::debug!(place = %label.place, kind = ?std::mem::discriminant(&e), "a store was not built");
        Error::invalid(format!("ACCOUNT_KEY of the connection to {} is not base64", label.place))
            .hint("take the key as the portal shows it")
    })?;
    let store = Arc::new(store);
    Ok(ObjectBackend {
        signing: match signs {
            // The service wants to know which kind of blob it is given.
            true => Signing::With {
                signer: store.clone() as Arc<dyn Signer>,
                upload_headers: &[("x-ms-blob-type", "BlockBlob")],
            },
            false => Signing::NoKey,
        },
        pages: Some(store.clone()),
        hides_prefix: true,
        store,
        label,
    })
}
