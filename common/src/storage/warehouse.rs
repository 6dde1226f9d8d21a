//! The cluster's own storage: table data and internal stages, below one root.

use std::collections::BTreeMap;
use std::path::Path;

use iceberg::io::FileIO;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::location::{Location, Scheme};
use crate::secret::Secret;

use super::{StoragePolicy, StorageSpec, Store, file_io};

const MAX_NAME: usize = 64;

/// The warehouse. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Warehouse {
    spec: StorageSpec,
    store: Store,
}

impl Warehouse {
    /// Opens the warehouse at `s3://bucket/path`, `file:///dir`, `fs:///dir` or an absolute path. A local
    /// folder is made if it is missing. S3 credentials that are not given come from the environment; the
    /// egress policy does not apply, since the operator names the endpoint.
    ///
    /// # Errors
    /// Invalid input for other locations; what making the folder says.
    pub fn open(
        root: &str,
        params: BTreeMap<String, String>,
        secrets: BTreeMap<String, Secret<String>>,
    ) -> Result<Self> {
        let mut location = Location::parse_root(root)?;
        let mut policy = StoragePolicy { allow_private_network: true, ..StoragePolicy::default() };
        if location.scheme() == Scheme::Fs {
            let folder = Path::new("/").join(location.path());
            let failed = |e: std::io::Error| {
                Error::from(e).context(format!("making the warehouse folder '{}'", folder.display()))
            };
            std::fs::create_dir_all(&folder).map_err(failed)?;
            // One spelling of the root, whatever links lead to it: it ends up in table metadata.
            let real = folder.canonicalize().map_err(failed)?;
            let text = real
                .to_str()
                .ok_or_else(|| Error::invalid(format!("the path '{}' is not UTF-8", real.display())))?;
            location = Location::parse_root(text)?;
            policy.allowed_fs_roots.push(real);
        }
        let mut spec = StorageSpec { root: location, params, secrets, policy }.with_aws_environment();
        if spec.root.scheme() == Scheme::S3 {
            // Never asked for: what writes tables wants the store at once.
            spec.params.entry("region".into()).or_insert_with(|| "us-east-1".into());
        }
        let store = Store::build(&spec)?;
        Ok(Self { spec, store })
    }

    /// All that a worker needs to reach it.
    pub fn spec(&self) -> &StorageSpec {
        &self.spec
    }

    /// The store, rooted at the warehouse.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The root as Iceberg metadata has it, without a trailing slash.
    pub fn root_uri(&self) -> String {
        self.store.root_uri()
    }

    /// A `FileIO` for the `iceberg` crate.
    pub fn file_io(&self) -> FileIO {
        file_io(&self.store)
    }

    /// The location of a new table: `<root>/<database>/<table>-<uuid>`, without a trailing slash. Names
    /// serve the reader only, so what does not belong in a path is replaced; the uuid makes it unique.
    pub fn table_location(&self, database: &str, table: &str, uuid: Uuid) -> String {
        format!("{}/{}/{}-{uuid}", self.root_uri(), segment(database), segment(table))
    }

    /// The store of an internal stage; its paths are relative to the stage.
    ///
    /// # Errors
    /// Internal, for an id that is no plain segment.
    pub fn stage_spec(&self, stage: impl std::fmt::Display) -> Result<StorageSpec> {
        Ok(self.spec.at(self.spec.root.internal_stage(&stage.to_string())?))
    }
}

fn segment(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    let segment: String = name.chars().take(MAX_NAME).map(plain).collect();
    if segment.is_empty() { "_".to_owned() } else { segment }
}
