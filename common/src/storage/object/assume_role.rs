//! Temporary credentials of a role, from STS.
//!
//! Comes in: credentials to ask with, a role, an external id. Goes out: the role's credentials, asked for
//! again before they expire. The service is reached under the egress policy, and follows no redirect.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use http::header::CONTENT_TYPE;
use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpErrorKind, HttpRequest};
use object_store::{ClientOptions, CredentialProvider};
use tokio::sync::Mutex;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::error::{Error, Result};
use crate::secret::Secret;

use super::super::egress::{EgressPolicy, EgressRefused, PolicyConnector, find_source, root_cause};
use super::super::failure::{Explained, xml_text};
use super::super::retry::{Attempts, Failure};

/// Asked for again when less than this is left: a request may be tried again for a while.
const LEAST_LEFT: Duration = Duration::from_secs(300);

/// The role that a connection names.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) external_id: Option<Secret<String>>,
}

impl Role {
    /// What STS is asked, as a form.
    fn question(&self) -> String {
        let mut form = Serializer::new(String::new());
        form.append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.arn)
            .append_pair("RoleSessionName", "stevedore");
        if let Some(id) = &self.external_id {
            form.append_pair("ExternalId", id.expose());
        }
        form.finish()
    }
}

/// The credentials of a role.
pub(super) struct AssumedRole {
    client: HttpClient,
    endpoint: Url,
    region: String,
    base: AwsCredentialProvider,
    role: Role,
    current: Mutex<Option<(Arc<AwsCredential>, DateTime<Utc>)>>,
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssumedRole").field("role", &self.role.arn).finish_non_exhaustive()
    }
}

impl AssumedRole {
    pub(super) fn new(
        policy: EgressPolicy,
        endpoint: Url,
        region: &str,
        base: AwsCredentialProvider,
        role: Role,
    ) -> Result<Self> {
        let client = PolicyConnector(policy)
            .connect(&ClientOptions::new())
            .map_err(|e| Error::internal(format!("building a client for STS failed: {e}")))?;
        Ok(Self { client, endpoint, region: region.to_owned(), base, role, current: Mutex::new(None) })
    }

    async fn assume(&self) -> Result<(Arc<AwsCredential>, DateTime<Utc>)> {
        let place = self.endpoint.as_str().trim_end_matches('/');
        let body = self.role.question();
        let (started, mut attempts) = (Instant::now(), Attempts::default());
        let (status, answer) = loop {
            let base = self.base.get_credential().await.map_err(|e| {
                Error::denied(format!(
                    "no credentials to assume the role '{}' with: {}",
                    self.role.arn,
                    root_cause(&e)
                ))
            })?;
            let mut request: HttpRequest = http::Request::post(self.endpoint.as_str())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body.clone().into())
                .map_err(|e| Error::internal(format!("a request to STS cannot be made: {e}")))?;
            AwsAuthorizer::new(&base, "sts", &self.region).authorize(&mut request, None);
            let failed = match self.client.execute(request).await {
                Ok(response) => {
                    let status = response.status();
                    match response.into_body().bytes().await {
                        Ok(answer) if !(status.is_server_error() || status.as_u16() == 429) => {
                            break (status, String::from_utf8_lossy(&answer).into_owned());
                        }
                        Ok(_) => Error::unavailable(format!("STS at '{place}' answered {status}")),
                        Err(e) => Error::unavailable(format!("STS at '{place}' failed: {}", root_cause(&e))),
                    }
                }
                Err(e) => match find_source::<EgressRefused>(&e) {
                    Some(refused) => {
                        return Err(
                            Error::from(refused.clone()).context(format!("reaching STS at '{place}'"))
                        );
                    }
                    None => {
                        let failed =
                            Error::unavailable(format!("cannot reach STS at '{place}': {}", root_cause(&e)));
                        // The client has tried again what is of this kind, as long as that makes sense.
                        if e.kind() == HttpErrorKind::Unknown {
                            return Err(failed);
                        }
                        failed
                    }
                },
            };
            match attempts.pause(Failure::Broken, started.elapsed()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failed),
            }
        };
        if !status.is_success() {
            let code = xml_text(&answer, "Code").unwrap_or(status.as_str());
            return Err(Error::denied(format!(
                "STS at '{place}' refused the role '{}' ({code})",
                self.role.arn
            ))
            .hint("check ROLE_ARN, EXTERNAL_ID, the keys of the connection, and whom the role trusts"));
        }
        let part = |name: &str| {
            xml_text(&answer, name)
                .map(unescaped)
                .ok_or_else(|| Error::storage(format!("the answer of STS at '{place}' lacks {name}")))
        };
        let credential = AwsCredential {
            key_id: part("AccessKeyId")?,
            secret_key: part("SecretAccessKey")?,
            token: Some(part("SessionToken")?),
        };
        let expires = DateTime::parse_from_rfc3339(&part("Expiration")?)
            .map_err(|e| Error::storage(format!("STS at '{place}' answered a wrong time: {e}")))?;
        Ok((Arc::new(credential), expires.to_utc()))
    }
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

#[async_trait]
impl CredentialProvider for AssumedRole {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut current = self.current.lock().await;
        if let Some((credential, expires)) = &*current
            && *expires > Utc::now() + LEAST_LEFT
        {
            return Ok(Arc::clone(credential));
        }
        let (credential, expires) = self.assume().await.map_err(Explained::wrap)?;
        *current = Some((Arc::clone(&credential), expires));
        Ok(credential)
    }
}
