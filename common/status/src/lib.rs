//! Errors at the border: [`stevedore_common::Error`] to gRPC status and back, the whole of it in the
//! status' details, so that nothing is lost on the way through several processes. And the cluster's token as calls
//! show it ([`ShownToken`]).

mod token;

pub use token::{ShownToken, shown_token};

use prost::Message;
use stevedore_common::{Error, ErrorKind};
use stevedore_proto::v1::{ErrorInfo, RpcDetail, RpcStatus};
use tonic::{Code, Status};

/// What a status' details hold, as the type URL of an `Any`.
const DETAIL_TYPE: &str = "type.googleapis.com/stevedore.v1.ErrorInfo";

/// The message form of an error.
pub fn error_info(error: &Error) -> ErrorInfo {
    let position = error.position();
    ErrorInfo {
        kind: error.kind().as_str().to_owned(),
        message: error.message_with_context(),
        hint: error.hint_text().unwrap_or_default().to_owned(),
        line: position.map_or(0, |p| p.line),
        column: position.map_or(0, |p| p.column),
        retryable: error.is_retryable(),
        subject: error.subject().unwrap_or_default().to_owned(),
    }
}

/// The error of a message.
pub fn error_of(info: &ErrorInfo) -> Error {
    let mut error =
        Error::new(ErrorKind::from_wire(&info.kind), info.message.clone()).retryable(info.retryable);
    if !info.hint.is_empty() {
        error = error.hint(info.hint.clone());
    }
    if !info.subject.is_empty() {
        error = error.about(info.subject.clone());
    }
    if info.line > 0 {
        error = error.at(info.line, info.column);
    }
    error
}

/// The status that says an error to a gRPC client. Other clients than ours read the text, so it holds
/// place and hint too.
pub fn status_of(error: Error) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::BadData => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Storage | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::OutcomeUnknown => Code::Unknown,
        ErrorKind::Internal => Code::Internal,
    };
    let text = error.to_string();
    let detail = RpcDetail { type_url: DETAIL_TYPE.to_owned(), value: error_info(&error).encode_to_vec() };
    let details = RpcStatus { code: code as i32, message: text.clone(), details: vec![detail] };
    Status::with_details(code, text, details.encode_to_vec().into())
}

/// The error in a status' details, if one of our processes put it there.
fn info_of_status(status: &Status) -> Option<ErrorInfo> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let detail = details.into_iter().find(|detail| detail.type_url == DETAIL_TYPE)?;
    ErrorInfo::decode(detail.value.as_slice()).ok()
}

/// The error that a status from one of our processes carries; what came from elsewhere becomes an error
/// of its code.
pub fn error_of_status(status: &Status) -> Error {
    if let Some(info) = info_of_status(status) {
        return error_of(&info);
    }
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ErrorKind::InvalidInput,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Aborted => ErrorKind::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unavailable | Code::DeadlineExceeded => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::Unknown => ErrorKind::OutcomeUnknown,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, status.message())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_a_status() {
        let error = Error::not_found("table 't' does not exist")
            .context("binding COPY INTO t")
            .at(1, 11)
            .hint("SHOW TABLES lists them");
        let back = error_of_status(&status_of(error.clone()));
        assert_eq!(back.to_string(), error.to_string());
        assert_eq!(back.kind(), error.kind());
    }

    #[test]
    fn the_details_are_a_google_rpc_status_of_the_same_code() {
        // Clients in Go and C++ refuse details whose code is not the status' own.
        let status = status_of(Error::not_found("table 't' does not exist"));
        let details = RpcStatus::decode(status.details()).expect("google.rpc.Status");
        assert_eq!((details.code, details.message.as_str()), (Code::NotFound as i32, status.message()));
    }
}
