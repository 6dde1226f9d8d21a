//! References to places and formats, as they stand in statements.

use std::fmt;

use serde::{Deserialize, Serialize};
use stevedore_common::file_format::FileFormat;
use stevedore_common::secret::Secret;

use crate::connection::{ConnectionOptions, StorageType};

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocationRef {
    /// `@name[/path]`.
    Stage {
        /// The stage, normalised.
        name: String,
        /// What stands after `@name/`, without that slash; a raw prefix, or a folder where it ends
        /// in a slash (or is empty).
        path: String,
    },
    /// `@~[/path]`: the user's own stage.
    UserStage {
        /// As for a stage.
        path: String,
    },
    /// `'scheme://…' [CONNECTION = (…)]`.
    Uri {
        /// As written.
        url: String,
        /// Credentials.
        connection: Option<ConnectionRef>,
    },
}

impl fmt::Display for LocationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage { name, path } if path.is_empty() => write!(f, "@{name}"),
            Self::Stage { name, path } => write!(f, "@{name}/{path}"),
            Self::UserStage { path } if path.is_empty() => f.write_str("@~"),
            Self::UserStage { path } => write!(f, "@~/{path}"),
            Self::Uri { url, .. } => write!(f, "'{url}'"),
        }
    }
}

/// Credentials of a URI, whose scheme says the storage type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionRef {
    /// CONNECTION_NAME: the named connection must have this type.
    Named {
        /// The connection, normalised.
        name: String,
        /// What the URI's scheme needs.
        storage_type: StorageType,
    },
    /// Keys inside the statement.
    Inline(ConnectionOptions),
}

/// Credentials where the storage type is not known from the statement (ALTER STAGE SET CONNECTION).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionSpec {
    /// CONNECTION_NAME.
    Named(String),
    /// Keys, to be checked with [`ConnectionOptions::from_pairs`].
    Inline(Vec<(String, Secret<String>)>),
}

/// FILE_FORMAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormatRef {
    /// FORMAT_NAME, normalised; the built-in ones equal the type names.
    Named(String),
    /// TYPE and options.
    Inline(Box<FileFormat>),
}
