//! What a store's failure means to a user: one message that names the file, the bucket and the
//! endpoint, says what to do, and repeats no secret.

use crate::error::{Error, Result};

use super::egress::{ConnectFailed, EgressRefused, find_source, root_cause};

/// How messages name a store: `bucket 'b' at 'http://minio:9000'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreLabel(pub(crate) String);

impl StoreLabel {
    /// What the error of `object_store` means. `path` is empty where the whole store is meant.
    pub(crate) fn explain(&self, error: object_store::Error, path: &str) -> Error {
        use object_store::Error as E;
        let place = &self.0;
        if let Some(refused) = find_source::<EgressRefused>(&error) {
            return Error::from(refused.clone()).context(format!("reaching {place}"));
        }
        if find_source::<ConnectFailed>(&error).is_some() {
            return Error::unavailable(format!("cannot connect to {place}: {}", root_cause(&error)))
                .hint("check ENDPOINT_URL and REGION of the connection, and the network");
        }
        let text = error.to_string();
        if text.contains("NoSuchBucket") {
            return Error::not_found(format!("{place} does not exist"))
                .hint("check the bucket's name, ENDPOINT_URL and REGION");
        }
        let credentials = |reason: &str| {
            let what = if path.is_empty() { String::new() } else { format!(" to '{path}'") };
            Error::denied(format!("access{what} was refused by {place}{reason}")).hint(
                "check ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN and the permissions of the connection",
            )
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

/// The error of a file that is no longer the version that was listed.
pub(crate) fn changed(path: &str) -> Error {
    Error::conflict(format!("file '{path}' changed while it was read"))
        .hint("load files only once they are complete, or give changed files new names")
}

/// A server's answer with the XML around its code left out, and cut.
fn without_markup(text: &str) -> String {
    let code =
        text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let plain = text.split('<').next().unwrap_or(text).trim_end_matches([' ', ':']);
    let plain: String = plain.chars().take(300).collect();
    match code {
        Some(code) => format!("{plain} ({code})"),
        None => plain,
    }
}

fn reason_of(text: &str) -> &'static str {
    if text.contains("SignatureDoesNotMatch") {
        " (the signature does not match: wrong secret key)"
    } else if text.contains("InvalidAccessKeyId") {
        " (unknown access key)"
    } else if text.contains("ExpiredToken") {
        " (the session token has expired)"
    } else if text.contains("RequestTimeTooSkewed") {
        " (this machine's clock is wrong)"
    } else {
        ""
    }
}
