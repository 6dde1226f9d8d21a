//! What names one run of a statement: the ticket of Flight SQL, self-contained, so that any coordinator
//! can redeem it and redeeming it twice runs it once.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use stevedore_common::ids::TransactionId;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use uuid::Uuid;

/// A statement to run, with everything that its meaning depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementHandle {
    /// Names this run: the job's id, the key by which its commands are deduplicated.
    pub id: Uuid,
    /// The text.
    pub sql: String,
    /// The client's session; USE and SET change it.
    pub session: String,
    /// Whose session it is.
    #[serde(default = "default_user")]
    pub user: String,
    /// The session's database.
    pub database: String,
    /// The session's settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The values of `?`: one Arrow IPC stream of one row, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// The metadata location of each table read, by table id, so that a SELECT that is run again reads
    /// the same snapshots; and the snapshots that `AT (…)` chose, by table id and relation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, String>,
    /// The W3C trace of the client's call; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// The transaction that it runs in; none: it is one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionRef>,
}

/// How a statement belongs to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRef {
    /// The transaction.
    pub id: TransactionId,
    /// The client named it, by Flight SQL's own calls. Such a transaction begins with its first statement; drivers
    /// ask for one beforehand whether or not there will be a statement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

/// The user of sessions that name none.
pub const DEFAULT_USER: &str = "root";

fn default_user() -> String {
    DEFAULT_USER.to_owned()
}

impl StatementHandle {
    /// The bytes that a client carries.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of strings and maps of strings always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The inverse.
    ///
    /// # Errors
    /// Invalid input: the bytes are not a handle of ours.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|_| Error::invalid("this is not a statement handle of Stevedore"))
    }

    /// The same statement with parameters.
    #[must_use]
    pub fn with_parameters(mut self, ipc: &[u8]) -> Self {
        self.parameters = Some(BASE64.encode(ipc));
        self
    }

    /// The parameters' Arrow IPC stream.
    ///
    /// # Errors
    /// Invalid input, if it is damaged.
    pub fn parameter_bytes(&self) -> Result<Option<Vec<u8>>> {
        self.parameters
            .as_deref()
            .map(|text| {
                BASE64.decode(text).map_err(|_| Error::invalid("the parameters of a handle are damaged"))
            })
            .transpose()
    }

    /// See [`StatementHandle::pins`]. In a transaction it is that which fixes what is read, its own changes included.
    pub fn pin(&self, name: &str) -> Option<&String> {
        if self.transaction.is_some() { None } else { self.pins.get(name) }
    }

    /// The workers that it runs on.
    ///
    /// # Errors
    /// Invalid input, for a setting that no session may have.
    pub fn group(&self) -> Result<WorkerGroup> {
        super::settings::group_of(&self.settings)
    }

    /// The id of its transaction.
    pub fn transaction_id(&self) -> Option<TransactionId> {
        self.transaction.map(|transaction| transaction.id)
    }

    /// The same statement outside of its transaction.
    #[must_use]
    pub fn outside(&self) -> Self {
        Self { transaction: None, ..self.clone() }
    }

    /// The same statement as a run of its own.
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.id = Uuid::now_v7();
        self
    }
}

/// What a statement is to a client that has not run it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// Gives rows and changes nothing.
    Query,
    /// Changes something and gives rows (COPY, REMOVE).
    RowsAndChanges,
    /// Changes something and gives a row count.
    Dml,
    /// Changes something and gives nothing.
    Ddl,
}

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Description {
    /// What it is.
    pub kind: StatementKind,
    /// The schema of its rows; empty for DDL.
    pub schema: SchemaRef,
    /// How many `?` it has.
    pub parameters: usize,
    /// See [`StatementHandle::pins`].
    pub pins: BTreeMap<String, String>,
    /// Whether it runs as a job, whose id is the handle's.
    pub is_job: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_handle_carries_everything_through_its_bytes() {
        let handle = StatementHandle {
            id: Uuid::now_v7(),
            sql: "SELECT ?".into(),
            session: "s".into(),
            user: "ada".into(),
            database: "default".into(),
            settings: [("timezone".to_owned(), "UTC".to_owned())].into(),
            parameters: None,
            pins: BTreeMap::new(),
            traceparent: String::new(),
            transaction: Some(TransactionRef { id: TransactionId(Uuid::now_v7()), named: true }),
        }
        .with_parameters(&[1, 2, 255]);
        let back = StatementHandle::decode(&handle.encode()).unwrap();
        assert_eq!(back, handle);
        assert_eq!(back.parameter_bytes().unwrap().unwrap(), [1, 2, 255]);
        assert!(StatementHandle::decode(b"{}").is_err());
    }
}
