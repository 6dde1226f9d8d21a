//! What a store's failure means to a user: one message that names the file, the bucket and the
//! endpoint, says what to do, and repeats no secret.

use crate::error::{Error, Result};

use super::egress::{ConnectFailed, EgressRefused, StillBusy, find_source, root_cause};

/// How messages speak of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreLabel {
    /// `bucket 'b' at 'http://minio:9000'`.
    pub(crate) place: String,
    /// The keys of its connections that hold credentials.
    pub(crate) keys: &'static str,
}

impl StoreLabel {
    pub(crate) fn keys_hint(&self) -> String {
        if self.keys.is_empty() {
            return "check the permissions of the store".to_owned();
        }
        format!("check {} and the permissions of the connection", self.keys)
    }

    /// What the error of `object_store` means. `path` is empty where the whole store is meant.
    pub(crate) fn explain(&self, error: object_store::Error, path: &str) -> Error {
        use object_store::Error as E;
        let place = &self.place;
        if let Some(Explained(known)) = find_source::<Explained>(&error) {
            return known.clone();
        }
        if let Some(refused) = find_source::<EgressRefused>(&error) {
            return Error::from(refused.clone()).context(format!("reaching {place}"));
        }
        if find_source::<ConnectFailed>(&error).is_some() {
            return Error::unavailable(format!("cannot connect to {place}: {}", root_cause(&error)))
                .hint("check ENDPOINT_URL of the connection (for S3, REGION too) and the network");
        }
        if let Some(busy) = find_source::<StillBusy>(&error) {
            let what = if path.is_empty() { String::new() } else { format!(" for '{path}'") };
            return Error::unavailable(format!("{place} {busy}{what}")).hint("run the statement again later");
        }
        let text = error.to_string();
        if text.contains("NoSuchBucket") || text.contains("ContainerNotFound") {
            return Error::not_found(format!("{place} does not exist"))
                .hint("check the name in the URL, and ENDPOINT_URL of the connection");
        }
        let credentials = |reason: &str| {
            let what = if path.is_empty() { String::new() } else { format!(" to '{path}'") };
            Error::denied(format!("access{what} was refused by {place}{reason}")).hint(self.keys_hint())
        };
        match &error {
            E::NotFound { .. } if path.is_empty() => Error::not_found(format!("{place} does not exist")),
            E::NotFound { .. } => Error::not_found(format!("file '{path}' does not exist in {place}")),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => credentials(reason_of(&text)),
            // A listing's failure has no kind of its own.
            _ if text.contains("status code: 403") || text.contains("status code: 401") => {
                credentials(reason_of(&text))
            }
            _ if text.contains("status code: 404") && path.is_empty() => {
                Error::not_found(format!("{place} does not exist"))
            }
            E::Precondition { .. } | E::NotModified { .. } => changed(path),
            E::AlreadyExists { .. } => {
                Error::already_exists(format!("file '{path}' exists already in {place}"))
            }
            E::InvalidPath { source } => Error::not_supported(format!("a file's name in {place}: {source}"))
                .hint("rename the file, or choose a prefix that leaves it out"),
            // The library reports a short or over-long range as a generic error: the file has shrunk.
            _ if text.contains("416")
                || text.contains("Range Not Satisfiable")
                || text.contains("UnexpectedRange") =>
            {
                changed(path)
            }
            _ if ["incorrectly configured region", "PermanentRedirect", "AuthorizationHeaderMalformed"]
                .iter()
                .any(|sign| text.contains(sign)) =>
            {
                Error::invalid(format!("{place} is in another region")).hint("set REGION of the connection")
            }
            _ => {
                let what = if path.is_empty() { String::new() } else { format!(" for '{path}'") };
                Error::storage(format!("{place} failed{what}: {}", without_markup(&root_cause(&error))))
                    .retryable(true)
            }
        }
    }

    /// [`StoreLabel::explain`] on a result.
    pub(crate) fn ok<T>(&self, result: object_store::Result<T>, path: &str) -> Result<T> {
        result.map_err(|e| self.explain(e, path))
    }
}

/// An error of ours on its way through `object_store`.
#[derive(Debug)]
pub(crate) struct Explained(pub(crate) Error);

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Explained {}

impl Explained {
    pub(crate) fn wrap(error: Error) -> object_store::Error {
        object_store::Error::Generic { store: "credentials", source: Box::new(Self(error)) }
    }
}

/// The error of a file that is no longer the version that was listed.
pub(crate) fn changed(path: &str) -> Error {
    Error::conflict(format!("file '{path}' changed while it was read"))
        .hint("load files only once they are complete, or give changed files new names")
}

/// A server's answer with the XML around its code left out, and cut.
fn without_markup(text: &str) -> String {
    let code = xml_text(text, "Code");
    let plain = text.split('<').next().unwrap_or(text).trim_end_matches([' ', ':']);
    let plain: String = plain.chars().take(300).collect();
    match code {
        Some(code) => format!("{plain} ({code})"),
        None => plain,
    }
}

/// The text of the first element of a name, as it stands.
pub(crate) fn xml_text<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

fn reason_of(text: &str) -> &'static str {
    if text.contains("SignatureDoesNotMatch") {
        " (the signature does not match: wrong secret key)"
    } else if text.contains("InvalidAccessKeyId") {
        " (unknown access key)"
    } else if text.contains("ExpiredToken") || text.contains("token has expired") {
        " (the session token has expired)"
    } else if text.contains("AuthenticationFailed") {
        " (the account or its key is wrong)"
    } else if text.contains("RequestTimeTooSkewed") {
        " (this machine's clock is wrong)"
    } else {
        ""
    }
}
