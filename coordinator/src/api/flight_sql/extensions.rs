//! The session messages of Flight that the `arrow-flight` crate does not have yet
//! (format/Flight.proto: SetSessionOptions, GetSessionOptions, CloseSession).

use std::collections::HashMap;

/// The action that sets options of the session.
pub const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
/// The action that reads them.
pub const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
/// The action that ends the session.
pub const CLOSE_SESSION: &str = "CloseSession";
/// The action that cancels a statement by its FlightInfo.
pub const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// A list of strings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringListValue {
    /// The strings.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// A value of an option; none at all unsets it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionOptionValue {
    /// The value.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

/// The kinds of values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// Boolean.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// Integer.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// Floating point.
    #[prost(double, tag = "4")]
    Double(f64),
    /// List.
    #[prost(message, tag = "5")]
    StringList(StringListValue),
}

/// Sets options.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsRequest {
    /// By name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// What went wrong, by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsResult {
    /// Empty: all were set.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, SetSessionOptionError>,
}

/// Why an option was not set: 1 invalid name, 2 invalid value, 3 other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionError {
    /// The reason.
    #[prost(int32, tag = "1")]
    pub value: i32,
}

/// All options of the session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetSessionOptionsResult {
    /// By name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// How a session was closed: 1 closed, 2 closing, 3 not closeable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSessionResult {
    /// The status.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl OptionValue {
    /// The value as SET would write it.
    pub fn to_text(&self) -> String {
        match self {
            Self::String(text) => text.clone(),
            Self::Bool(value) => value.to_string(),
            Self::Int64(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
            Self::StringList(list) => list.values.join(","),
        }
    }
}
