//! S3, and the stores that speak its protocol under other key names: OSS and COS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpConnector as _, HttpRequest, HttpRequestBody};
use object_store::signer::Signer;
use object_store::{ClientOptions, StaticCredentialProvider};
use tokio::sync::OnceCell;
use url::{Host, Url};

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::secret::Secret;

use super::super::StorageSpec;
use super::super::backend::{Backend, BackendFile, BackendWriter, Presigned};
use super::super::egress::{EgressPolicy, PolicyConnector};
use super::super::failure::StoreLabel;
use super::assume_role::{AssumedRole, Role};
use super::{ObjectBackend, Signing, endpoint_of, endpoint_url, retries};

/// The region of buckets that do not say theirs.
const DEFAULT_REGION: &str = "us-east-1";
const S3_KEYS: &str = "ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN";

/// The store of an S3 bucket, in the REGION given.
pub(crate) fn s3(spec: &StorageSpec) -> Result<ObjectBackend> {
    s3_in(spec, &spec.value("region").unwrap_or_else(|| DEFAULT_REGION.to_owned()))
}

/// The store of an S3 bucket that is asked for its region at the first use.
pub(crate) fn s3_of_any_region(spec: &StorageSpec) -> Result<Arc<dyn Backend>> {
    // Tells now what is wrong with the spec.
    let label = s3_in(spec, DEFAULT_REGION)?.label;
    Ok(Arc::new(S3AnyRegion { spec: Arc::new(spec.clone()), label, found: Arc::new(OnceCell::new()) }))
}

fn s3_in(spec: &StorageSpec, region: &str) -> Result<ObjectBackend> {
    if spec.value("master_key").is_some() {
        return Err(Error::not_supported(
            "MASTER_KEY of an S3 connection: files that their writer encrypted",
        )
        .hint("encryption by the store itself needs no key here"));
    }
    let endpoint = endpoint_of(spec)?;
    let bucket = spec.root.authority();
    let at = match &endpoint {
        Some(url) => format!("'{}'", url.as_str().trim_end_matches('/')),
        None => format!("region '{region}' of AWS"),
    };
    let label = StoreLabel { place: format!("bucket '{bucket}' at {at}"), keys: S3_KEYS };
    let keys = match (spec.value("access_key_id"), spec.value("secret_access_key")) {
        (Some(key_id), Some(secret_key)) => {
            Some(AwsCredential { key_id, secret_key, token: spec.value("session_token") })
        }
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "an S3 connection needs both ACCESS_KEY_ID and SECRET_ACCESS_KEY, or neither",
            ));
        }
    };
    let role = spec.value("role_arn");
    if role.is_none() && spec.value("external_id").is_some() {
        return Err(Error::invalid("option EXTERNAL_ID needs ROLE_ARN with it"));
    }
    let mut credentials = match keys {
        Some(keys) => Some(Arc::new(StaticCredentialProvider::new(keys)) as AwsCredentialProvider),
        None if spec.policy.allow_ambient_credentials => Some(ambient_credentials(region, &label)?),
        None if role.is_some() => {
            return Err(Error::denied(
                "option ROLE_ARN without ACCESS_KEY_ID would use the identity of this machine, which is not allowed",
            )
            .hint("give ACCESS_KEY_ID and SECRET_ACCESS_KEY; an operator can allow it with --allow-ambient-credentials"));
        }
        // Read as a public one: never with the machine's own identity.
        None => None,
    };
    if let (Some(arn), Some(base)) = (role, credentials.take_if(|_| spec.value("role_arn").is_some())) {
        let role = Role { arn, external_id: spec.value("external_id").map(Secret::new) };
        credentials = Some(Arc::new(AssumedRole::new(
            spec.policy.egress(),
            sts_endpoint(endpoint.as_ref(), region)?,
            region,
            base,
            role,
        )?));
    }
    let virtual_host =
        spec.value("enable_virtual_host_style").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let bucket = Bucket {
        name: bucket,
        region,
        endpoint: endpoint.as_ref(),
        virtual_host,
        policy: spec.policy.egress(),
    };
    bucket.store(credentials, label, None)
}

/// Web identity, container or instance credentials, or keys in the environment: whatever this machine has.
/// Their services are at addresses that stages may not reach, so this client may.
fn ambient_credentials(region: &str, label: &StoreLabel) -> Result<AwsCredentialProvider> {
    let store = AmazonS3Builder::from_env()
        .with_bucket_name("credentials-only")
        .with_region(region)
        .with_http_connector(PolicyConnector(EgressPolicy { allow_private_network: true }))
        .with_retry(retries())
        .build();
    Ok(Arc::clone(label.ok(store, "")?.credentials()))
}

/// AWS's own service for temporary credentials, or that of a store which speaks S3's protocol (they serve
/// both at one endpoint).
fn sts_endpoint(endpoint: Option<&Url>, region: &str) -> Result<Url> {
    let aws = |url: &&Url| url.host_str().unwrap_or_default().contains(".amazonaws.com");
    match endpoint.filter(|url| !aws(url)) {
        Some(url) => Ok(url.clone()),
        None => {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            endpoint_url("REGION", &format!("https://sts.{region}.{domain}"))
        }
    }
}

/// The store of a bucket of Alibaba Cloud OSS, through its S3-compatible endpoint.
pub(crate) fn oss(spec: &StorageSpec) -> Result<ObjectBackend> {
    let endpoint = required_endpoint(spec, "https://oss-cn-hangzhou.aliyuncs.com")?;
    let presign = spec
        .value("presign_endpoint_url")
        .map(|text| endpoint_url("PRESIGN_ENDPOINT_URL", &text))
        .transpose()?;
    // `oss-cn-hangzhou-internal.aliyuncs.com`, `s3.oss-cn-hangzhou.aliyuncs.com`.
    let region = endpoint
        .host_str()
        .into_iter()
        .flat_map(|host| host.split('.'))
        .find_map(|label| label.starts_with("oss-").then(|| label.trim_end_matches("-internal")))
        .unwrap_or("oss")
        .to_owned();
    compatible(
        spec,
        &endpoint,
        presign.as_ref(),
        &region,
        ("access_key_id", "access_key_secret"),
        "ACCESS_KEY_ID, ACCESS_KEY_SECRET",
    )
}

/// The store of a bucket of Tencent Cloud COS, through its S3-compatible endpoint.
pub(crate) fn cos(spec: &StorageSpec) -> Result<ObjectBackend> {
    let endpoint = required_endpoint(spec, "https://cos.ap-guangzhou.myqcloud.com")?;
    // `cos.ap-guangzhou.myqcloud.com`, `cos-internal.ap-guangzhou.tencentcos.cn`.
    let region = endpoint
        .host_str()
        .and_then(|host| host.strip_prefix("cos.").or_else(|| host.strip_prefix("cos-internal.")))
        .and_then(|rest| rest.split('.').next())
        .unwrap_or(DEFAULT_REGION)
        .to_owned();
    compatible(spec, &endpoint, None, &region, ("secret_id", "secret_key"), "SECRET_ID, SECRET_KEY")
}

fn required_endpoint(spec: &StorageSpec, example: &str) -> Result<Url> {
    endpoint_of(spec)?.ok_or_else(|| {
        Error::invalid(format!("the bucket '{}' needs the endpoint of its region", spec.root.authority()))
            .hint(format!("set ENDPOINT_URL of the connection, as in {example}"))
    })
}

fn compatible(
    spec: &StorageSpec,
    endpoint: &Url,
    presign: Option<&Url>,
    region: &str,
    (id, secret): (&str, &str),
    keys: &'static str,
) -> Result<ObjectBackend> {
    let credentials = match (spec.value(id), spec.value(secret)) {
        (Some(key_id), Some(secret_key)) => {
            let keys = AwsCredential { key_id, secret_key, token: None };
            Some(Arc::new(StaticCredentialProvider::new(keys)) as AwsCredentialProvider)
        }
        (None, None) => None,
        _ => return Err(Error::invalid(format!("the connection needs all of {keys}, or none of them"))),
    };
    let name = spec.root.authority();
    let label = StoreLabel {
        place: format!("bucket '{name}' at '{}'", endpoint.as_str().trim_end_matches('/')),
        keys,
    };
    // The services themselves want the bucket in the host's name; an address or a plain name cannot have it.
    let virtual_host = matches!(endpoint.host(), Some(Host::Domain(host)) if host.contains('.'));
    let policy = spec.policy.egress();
    let bucket = Bucket { name, region, endpoint: Some(endpoint), virtual_host, policy };
    let signer = match (presign, &credentials) {
        (Some(presign), Some(credentials)) => {
            let virtual_host = matches!(presign.host(), Some(Host::Domain(host)) if host.contains('.'));
            let bucket = Bucket { endpoint: Some(presign), virtual_host, ..bucket };
            Some(Arc::new(label.ok(bucket.build(Some(Arc::clone(credentials))), "")?) as Arc<dyn Signer>)
        }
        _ => None,
    };
    bucket.store(credentials, label, signer)
}

/// Where a bucket is and how it is addressed.
#[derive(Clone, Copy)]
struct Bucket<'a> {
    name: &'a str,
    region: &'a str,
    endpoint: Option<&'a Url>,
    virtual_host: bool,
    policy: EgressPolicy,
}

impl Bucket<'_> {
    fn build(&self, credentials: Option<AwsCredentialProvider>) -> object_store::Result<AmazonS3> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(self.name)
            .with_region(self.region)
            .with_virtual_hosted_style_request(self.virtual_host)
            .with_http_connector(PolicyConnector(self.policy))
            .with_retry(retries());
        if let Some(endpoint) = self.endpoint {
            let text = endpoint.as_str().trim_end_matches('/').to_owned();
            // For virtual hosts the library wants the bucket inside the endpoint's host.
            let text = match (self.virtual_host, endpoint.host_str()) {
                (true, Some(host)) if !host.starts_with(&format!("{}.", self.name)) => {
                    text.replacen(host, &format!("{}.{host}", self.name), 1)
                }
                _ => text,
            };
            builder = builder.with_allow_http(endpoint.scheme() == "http").with_endpoint(text);
        }
        match credentials {
            Some(credentials) => builder.with_credentials(credentials),
            None => builder.with_skip_signature(true),
        }
        .build()
    }

    fn store(
        &self,
        credentials: Option<AwsCredentialProvider>,
        label: StoreLabel,
        signer: Option<Arc<dyn Signer>>,
    ) -> Result<ObjectBackend> {
        let signs = credentials.is_some();
        let store = Arc::new(label.ok(self.build(credentials), "")?);
        let signer = signer.or_else(|| signs.then(|| store.clone() as Arc<dyn Signer>));
        Ok(ObjectBackend {
            pages: Some(store.clone()),
            hides_prefix: false,
            store,
            signing: Signing::with(signer),
            label,
        })
    }
}

/// A bucket whose region is asked for once, before anything else is.
#[derive(Debug, Clone)]
struct S3AnyRegion {
    spec: Arc<StorageSpec>,
    label: StoreLabel,
    found: Arc<OnceCell<ObjectBackend>>,
}

impl S3AnyRegion {
    async fn bucket(&self) -> Result<&ObjectBackend> {
        self.found
            .get_or_try_init(|| async {
                let region = self.ask().await?.unwrap_or_else(|| DEFAULT_REGION.to_owned());
                s3_in(&self.spec, &region)
            })
            .await
    }

    /// What the bucket says its region is. S3 tells it to anyone, also with a refusal.
    async fn ask(&self) -> Result<Option<String>> {
        let policy = self.spec.policy.egress();
        let bucket = self.spec.root.authority();
        let url = match endpoint_of(&self.spec)? {
            Some(endpoint) => format!("{}/{bucket}", endpoint.as_str().trim_end_matches('/')),
            None => format!("https://s3.amazonaws.com/{bucket}"),
        };
        let client = self.label.ok(PolicyConnector(policy).connect(&ClientOptions::new()), "")?;
        let request: HttpRequest = http::Request::head(url)
            .body(HttpRequestBody::empty())
            .map_err(|e| Error::internal(format!("a request for a region cannot be made: {e}")))?;
        match client.execute(request).await {
            Ok(response) => Ok(response
                .headers()
                .get("x-amz-bucket-region")
                .and_then(|region| region.to_str().ok())
                .filter(|region| {
                    !region.is_empty() && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                })
                .map(str::to_owned)),
            Err(e) => {
                Err(self.label.explain(object_store::Error::Generic { store: "S3", source: Box::new(e) }, ""))
            }
        }
    }
}

#[async_trait]
impl Backend for S3AnyRegion {
    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let this = self.clone();
        futures::stream::once(async move { Ok::<_, Error>(this.bucket().await?.list(prefix)) })
            .try_flatten()
            .boxed()
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        self.bucket().await?.head(path).await
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        self.bucket().await?.open(path, version).await
    }

    async fn put(&self, path: &str, bytes: Bytes, new: bool) -> Result<()> {
        self.bucket().await?.put(path, bytes, new).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn BackendWriter>> {
        self.bucket().await?.writer(path).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.bucket().await?.rename(from, to).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.bucket().await?.delete(path).await
    }

    async fn presign(&self, upload: bool, path: &str, expires: Duration) -> Result<Presigned> {
        self.bucket().await?.presign(upload, path, expires).await
    }
}
