//! One error type for everything that crosses a crate border: what kind, about what, where in the
//! text, what to do, and whether trying again can help.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, coarse enough to map onto gRPC codes and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The statement, option, URL or message is wrong; only changing it helps.
    InvalidInput,
    /// A named object does not exist.
    NotFound,
    /// A named object exists already.
    AlreadyExists,
    /// The effect rests on something that has moved (a lost race, another job's claim).
    Conflict,
    /// Not allowed: credentials, privileges, roots, egress policy.
    PermissionDenied,
    /// Understood but not built, or not possible in the table format.
    Unsupported,
    /// A file's content is bad: a row, a footer, a compressed stream.
    BadData,
    /// The object store answered with a failure.
    Storage,
    /// A component cannot be reached or is not ready.
    Unavailable,
    /// A configured limit was reached.
    ResourceExhausted,
    /// Cancelled by a client or by shutdown.
    Cancelled,
    /// The effect may or may not have happened; ask the state before trying again.
    OutcomeUnknown,
    /// An invariant of ours does not hold.
    Internal,
}

impl ErrorKind {
    /// The name used on the wire and in logs (`snake_case`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::PermissionDenied => "permission_denied",
            Self::Unsupported => "unsupported",
            Self::BadData => "bad_data",
            Self::Storage => "storage",
            Self::Unavailable => "unavailable",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Cancelled => "cancelled",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal => "internal",
        }
    }

    /// The inverse of [`ErrorKind::as_str`]; an unknown name is [`ErrorKind::Internal`].
    pub fn from_wire(name: &str) -> Self {
        [
            Self::InvalidInput,
            Self::NotFound,
            Self::AlreadyExists,
            Self::Conflict,
            Self::PermissionDenied,
            Self::Unsupported,
            Self::BadData,
            Self::Storage,
            Self::Unavailable,
            Self::ResourceExhausted,
            Self::Cancelled,
            Self::OutcomeUnknown,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == name)
        .unwrap_or(Self::Internal)
    }
}

/// A place in the text of a statement, both 1-based, counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inner {
    kind: ErrorKind,
    message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    context: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default)]
    retryable: bool,
}

/// The error of this project. Texts are lower case, name the object, and hold no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Error(Box<Inner>);

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, message) }
    )*};
}

impl Error {
    /// An error that retrying as it stands does not help, except for the kinds that say otherwise.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retryable = matches!(kind, ErrorKind::Unavailable);
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            position: None,
            subject: None,
            retryable,
        }))
    }

    constructors! {
        /// See [`ErrorKind::InvalidInput`].
        invalid => InvalidInput;
        /// See [`ErrorKind::NotFound`].
        not_found => NotFound;
        /// See [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// See [`ErrorKind::Conflict`].
        conflict => Conflict;
        /// See [`ErrorKind::PermissionDenied`].
        denied => PermissionDenied;
        /// See [`ErrorKind::BadData`].
        bad_data => BadData;
        /// See [`ErrorKind::Storage`].
        storage => Storage;
        /// See [`ErrorKind::Unavailable`]; retryable.
        unavailable => Unavailable;
        /// See [`ErrorKind::ResourceExhausted`].
        exhausted => ResourceExhausted;
        /// See [`ErrorKind::Cancelled`].
        cancelled => Cancelled;
        /// See [`ErrorKind::OutcomeUnknown`].
        outcome_unknown => OutcomeUnknown;
        /// See [`ErrorKind::Internal`].
        internal => Internal;
    }

    /// «not supported yet: …» for what parses but is not built.
    pub fn not_supported_yet(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("not supported yet: {what}"))
    }

    /// «not supported: …» for what will not be built.
    pub fn not_supported(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("not supported: {what}"))
    }

    /// Says what was being done, outermost last: `loading file 'a.csv'`.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.0.context.push(what.into());
        self
    }

    /// Says what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Points into the text of the statement. The first position set wins.
    #[must_use]
    pub fn at(mut self, line: u32, column: u32) -> Self {
        self.0.position.get_or_insert(Position { line, column });
        self
    }

    /// Says which name of the statement this is about, for those who know its text but not the error's
    /// place in it. The first one set wins.
    #[must_use]
    pub fn about(mut self, name: impl Into<String>) -> Self {
        self.0.subject.get_or_insert_with(|| name.into());
        self
    }

    /// Marks that the same request may succeed later.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The bare message, without context, place and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message with its context, without place and hint.
    pub fn message_with_context(&self) -> String {
        let mut text = String::new();
        for context in self.0.context.iter().rev() {
            text.push_str(context);
            text.push_str(": ");
        }
        text.push_str(&self.0.message);
        text
    }

    /// The hint, if any.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The place in the statement, if known.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// The name that the error is about, if known.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether nothing but somebody else's change in between was in the way: the same, made anew on what is there now,
    /// may succeed.
    pub fn is_lost_race(&self) -> bool {
        self.kind() == ErrorKind::Conflict && self.is_retryable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message_with_context())?;
        if let Some(Position { line, column }) = self.0.position {
            write!(f, " (line {line}, column {column})")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind.as_str())
    }
}

impl std::error::Error for Error {}

/// Adds context to a failed result.
pub trait ResultExt<T> {
    /// Adds `what()` to the error, if there is one.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().context(what()))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::BadData,
            _ => ErrorKind::Storage,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::new(ErrorKind::Internal, e.to_string())
    }
}

impl From<iceberg::Error> for Error {
    fn from(e: iceberg::Error) -> Self {
        Self::new(ErrorKind::Internal, format!("iceberg: {e}"))
    }
}

impl From<object_store::Error> for Error {
    fn from(e: object_store::Error) -> Self {
        use object_store::Error as E;
        match &e {
            E::NotFound { path, .. } => Self::not_found(format!("object '{path}' does not exist")),
            E::PermissionDenied { path, .. } | E::Unauthenticated { path, .. } => {
                Self::denied(format!("the object store refused access to '{path}'"))
                    .hint("check the credentials of the connection")
            }
            E::Precondition { path, .. } | E::NotModified { path, .. } => {
                Self::conflict(format!("object '{path}' changed while it was read"))
            }
            E::AlreadyExists { path, .. } => Self::already_exists(format!("object '{path}' exists already")),
            _ => Self::storage(e.to_string()).retryable(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_from_the_outside_in_and_ends_with_what_to_do() {
        let error = Error::not_found("stage 'landing' does not exist")
            .context("binding COPY INTO t")
            .at(1, 18)
            .hint("SHOW STAGES lists them");
        assert_eq!(
            error.to_string(),
            "binding COPY INTO t: stage 'landing' does not exist (line 1, column 18); SHOW STAGES lists them"
        );
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in [ErrorKind::InvalidInput, ErrorKind::OutcomeUnknown, ErrorKind::BadData] {
            assert_eq!(ErrorKind::from_wire(kind.as_str()), kind);
        }
    }
}
