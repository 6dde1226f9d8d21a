//! Google Cloud Storage.

use std::sync::Arc;

use base64::Engine as _;
use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::signer::Signer;

use crate::error::{Error, Result};

use super::super::StorageSpec;
use super::super::egress::PolicyConnector;
use super::super::failure::StoreLabel;
use super::{ObjectBackend, Signing, endpoint_of, retries};

const ENDPOINT: &str = "https://storage.googleapis.com";

/// The store of a bucket. Without CREDENTIAL it is read as a public one.
pub(crate) fn gcs(spec: &StorageSpec) -> Result<ObjectBackend> {
    let bucket = spec.root.authority();
    let endpoint = endpoint_of(spec)?;
    let at =
        endpoint.as_ref().map_or(ENDPOINT.to_owned(), |url| url.as_str().trim_end_matches('/').to_owned());
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_base_url(&at)
        .with_client_options(
            object_store::ClientOptions::new()
                .with_allow_http(endpoint.is_some_and(|url| url.scheme() == "http")),
        )
        .with_http_connector(PolicyConnector(spec.policy.egress()))
        .with_retry(retries());
    let credential = spec.value("credential").map(|text| service_account(&text)).transpose()?;
    let signs = credential.is_some();
    let builder = match credential {
        Some(key) => builder.with_service_account_key(key),
        // Given, and not used: otherwise the library looks for the identity of this machine.
        None => builder
            .with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential {
                bearer: String::new(),
            })))
            .with_skip_signature(true),
    };
    let label = StoreLabel { place: format!("bucket '{bucket}' at '{at}'"), keys: "CREDENTIAL" };
    // The library's text may quote the key.
    let store = Arc::new(builder.build().map_err(|_| {
        Error::invalid(format!(
            "the private key in CREDENTIAL of the connection to {} is not usable",
            label.place
        ))
        .hint("give the JSON key file of a service account, as Google made it, in base64")
    })?);
    Ok(ObjectBackend {
        signing: match at == ENDPOINT {
            true => Signing::with(signs.then(|| store.clone() as Arc<dyn Signer>)),
            false => Signing::OnlyFor("storage.googleapis.com"),
        },
        pages: Some(store.clone()),
        hides_prefix: false,
        store,
        label,
    })
}

/// The key file in a CREDENTIAL, which is base64. Messages never quote it.
fn service_account(text: &str) -> Result<String> {
    let wrong = |what: &str| {
        Error::invalid(format!("option CREDENTIAL {what}"))
            .hint("give the JSON key file of a service account in base64")
    };
    let compact: String = text.split_ascii_whitespace().collect();
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(compact).map_err(|_| wrong("is not base64"))?;
    let key: serde_json::Value = serde_json::from_slice(&decoded).map_err(|_| wrong("holds no JSON"))?;
    match key.get("type").and_then(|kind| kind.as_str()) {
        Some("service_account") | None => {}
        Some(kind) => {
            let kind: String =
                kind.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
            return Err(wrong(&format!("holds credentials of the type '{kind}', which are not supported")));
        }
    }
    for field in ["private_key", "private_key_id", "client_email"] {
        if key.get(field).and_then(|value| value.as_str()).is_none_or(str::is_empty) {
            return Err(wrong(&format!("lacks the field {field}")));
        }
    }
    // Only what is needed: a key file cannot redirect requests or switch off signing.
    let kept = serde_json::json!({
        "private_key": key["private_key"],
        "private_key_id": key["private_key_id"],
        "client_email": key["client_email"],
    });
    Ok(kept.to_string())
}
