//! The stores that statements and jobs reach: the warehouse, stages, URIs with credentials.
//!
//! Owns: the sealing and opening of secrets, the resolution of a planned source to a store, a prefix and
//! an identity. A source is resolved each time it is used, so that a changed connection takes effect.
//! Secrets leave this room only inside a store or a message to a worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_common::file_identity::{FileEntry, StoreIdentity};
use stevedore_common::ids::StageId;
use stevedore_common::location::{Location, internal_identity};
use stevedore_common::secret::{Sealed, SealingKey, Secret};
use stevedore_common::storage::egress::EgressPolicy;
use stevedore_common::storage::{
    ListOptions, StagePattern, StoragePolicy, StorageSpec, Store, Stores as StoreCache, Warehouse,
};
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::{ConnectionRef, LocationRef};
use stevedore_sql::connection::StorageType;
use stevedore_state::catalog::{self, Stage, StageKind, StageSource};
use stevedore_state::view::ReadView;

use crate::planner::plan::{PlacePlan, SourcePlan};

/// What is needed to reach stores.
#[derive(Debug)]
pub struct Stores {
    warehouse: Warehouse,
    sealing: SealingKey,
    policy: StoragePolicy,
    cache: StoreCache,
}

/// A source, ready to be listed and read.
#[derive(Debug, Clone)]
pub struct ResolvedSource {
    /// The store, at the top of its bucket (or of the internal stage).
    pub store: Store,
    /// How it was built.
    pub spec: StorageSpec,
    /// The raw prefix of the files.
    pub prefix: String,
    /// What names are relative to.
    base: Location,
    /// For the ledger.
    pub identity: StoreIdentity,
    files: Option<Vec<String>>,
    pattern: Option<String>,
}

impl ResolvedSource {
    /// The one file that the location names, for statements about a single file.
    ///
    /// # Errors
    /// Invalid input, if it names a folder.
    pub fn file(&self) -> Result<&str> {
        if self.prefix.is_empty() || self.prefix.ends_with('/') {
            return Err(Error::invalid("the location names a folder, and a file is needed")
                .hint("write @stage/path/file"));
        }
        Ok(&self.prefix)
    }

    /// The name that users see for a path of the store.
    pub fn name_of<'a>(&self, path: &'a str) -> &'a str {
        self.base.relative_name(path)
    }

    /// The files, as the store lists them.
    ///
    /// # Errors
    /// Invalid input for a PATTERN that is none; the stream's items fail with what the store says.
    pub fn list(&self) -> Result<BoxStream<'static, Result<FileEntry>>> {
        let pattern = self.pattern.as_deref().map(StagePattern::new).transpose()?;
        Ok(self.store.list(&self.prefix, ListOptions { files: self.files.clone(), pattern }).fuse().boxed())
    }

    /// What a worker needs to reach the store.
    pub fn access(&self) -> v1::StorageAccess {
        access_of(&self.spec)
    }
}

/// A spec as a message to a worker.
pub fn access_of(spec: &StorageSpec) -> v1::StorageAccess {
    v1::StorageAccess {
        root: spec.root.to_string(),
        params: spec.params.clone().into_iter().collect(),
        secrets: spec.secrets.iter().map(|(key, value)| (key.clone(), value.expose().clone())).collect(),
        allow_private_network: spec.policy.allow_private_network,
        allowed_fs_roots: spec
            .policy
            .allowed_fs_roots
            .iter()
            .map(|root| root.to_string_lossy().into_owned())
            .collect(),
        allow_ambient_credentials: spec.policy.allow_ambient_credentials,
    }
}

impl Stores {
    /// Over the warehouse, with what the operator allows stages to reach.
    pub fn new(warehouse: Warehouse, sealing: SealingKey, policy: StoragePolicy) -> Arc<Self> {
        Arc::new(Self { warehouse, sealing, policy, cache: StoreCache::default() })
    }

    /// The warehouse.
    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// Seals secrets for their owner.
    ///
    /// # Errors
    /// Internal.
    pub fn seal_all(
        &self,
        owner: &str,
        secrets: &BTreeMap<String, Secret<String>>,
    ) -> Result<BTreeMap<String, Sealed>> {
        secrets
            .iter()
            .map(|(key, value)| Ok((key.clone(), self.sealing.seal(&format!("{owner}/{key}"), value)?)))
            .collect()
    }

    /// Seals one secret for its owner.
    ///
    /// # Errors
    /// Internal.
    pub fn seal(&self, owner: &str, secret: &Secret<String>) -> Result<Sealed> {
        self.sealing.seal(owner, secret)
    }

    /// Opens what [`Stores::seal`] made for the same owner.
    ///
    /// # Errors
    /// Permission denied, for another key; internal, if it is damaged.
    pub fn open(&self, owner: &str, sealed: &Sealed) -> Result<Secret<String>> {
        self.sealing.open(owner, sealed)
    }

    /// Which addresses may be reached.
    pub fn egress(&self) -> EgressPolicy {
        self.policy.egress()
    }

    fn open_all(
        &self,
        owner: &str,
        sealed: &BTreeMap<String, Sealed>,
    ) -> Result<BTreeMap<String, Secret<String>>> {
        sealed
            .iter()
            .map(|(key, value)| Ok((key.clone(), self.sealing.open(&format!("{owner}/{key}"), value)?)))
            .collect()
    }

    /// A connection that exists and is of this type.
    ///
    /// # Errors
    /// Not found; invalid input for another type.
    pub fn require_connection(
        &self,
        view: &dyn ReadView,
        name: &str,
        storage_type: StorageType,
    ) -> Result<catalog::Connection> {
        let connection = catalog::require_connection(view, name)?;
        if connection.storage_type != storage_type.as_str() {
            return Err(Error::invalid(format!(
                "connection '{name}' is of type {}, the URL needs {storage_type}",
                connection.storage_type
            )));
        }
        Ok(connection)
    }

    /// The plan of a location in a statement of a user, and the stage if it names one.
    ///
    /// # Errors
    /// Not found; invalid input for a bad URL or path.
    pub fn plan(
        &self,
        view: &dyn ReadView,
        user: &str,
        location: &LocationRef,
        files: Option<Vec<String>>,
        pattern: Option<String>,
    ) -> Result<(SourcePlan, Option<Stage>)> {
        let (place, path, stage) = match location {
            LocationRef::Stage { name, path } => {
                let stage = catalog::require_stage(view, name)?;
                (stage_place(&stage), path.clone(), Some(stage))
            }
            LocationRef::UserStage { path } => (PlacePlan::User(user.to_owned()), path.clone(), None),
            LocationRef::Uri { url, connection } => {
                (self.uri_place(view, url, connection.as_ref())?, String::new(), None)
            }
        };
        let source = SourcePlan { place, path, files, pattern };
        self.resolve(view, &source)?;
        Ok((source, stage))
    }

    fn uri_place(
        &self,
        view: &dyn ReadView,
        url: &str,
        connection: Option<&ConnectionRef>,
    ) -> Result<PlacePlan> {
        Ok(match connection {
            Some(ConnectionRef::Named { name, storage_type }) => {
                self.require_connection(view, name, *storage_type)?;
                PlacePlan::Connection { url: url.to_owned(), connection: name.clone() }
            }
            Some(ConnectionRef::Inline(options)) => PlacePlan::Inline {
                url: url.to_owned(),
                owner: "statement".to_owned(),
                params: options.params.clone(),
                secrets: self.seal_all("statement", &options.secrets)?,
            },
            None => PlacePlan::Inline {
                url: url.to_owned(),
                owner: "statement".to_owned(),
                params: BTreeMap::new(),
                secrets: BTreeMap::new(),
            },
        })
    }

    /// Refuses a stage that could never be read.
    ///
    /// # Errors
    /// What building its store says.
    pub fn check_source(
        &self,
        view: &dyn ReadView,
        stage: &str,
        url: &str,
        source: &StageSource,
    ) -> Result<()> {
        let place = external_place(stage, url, source);
        let source =
            self.resolve(view, &SourcePlan { place, path: String::new(), files: None, pattern: None })?;
        source.base.expand()?;
        source.store.check_allowed(&source.prefix)
    }

    /// The store, prefix and identity of a planned source.
    ///
    /// # Errors
    /// Not found, when the connection is gone; denied by the policy; invalid paths.
    pub fn resolve(&self, view: &dyn ReadView, plan: &SourcePlan) -> Result<ResolvedSource> {
        let (url, params, secrets) = match &plan.place {
            PlacePlan::Internal(stage) => return self.resolve_internal(stage, plan),
            PlacePlan::User(user) => return self.resolve_internal(user_folder(user), plan),
            PlacePlan::Connection { url, connection } => {
                let connection = self.require_connection(view, connection, StorageType::of_uri(url)?)?;
                let secrets =
                    self.open_all(&format!("connection/{}", connection.name), &connection.secrets)?;
                (url, connection.params, secrets)
            }
            PlacePlan::Inline { url, owner, params, secrets } => {
                (url, params.clone(), self.open_all(owner, secrets)?)
            }
        };
        let base = Location::parse(url)?;
        let full = if plan.path.is_empty() { base.clone() } else { base.join(&plan.path)? };
        let identity = base.identity(&params);
        let spec = StorageSpec { root: base.store_root(), params, secrets, policy: self.policy.clone() };
        Ok(ResolvedSource {
            store: self.cache.get(&spec)?,
            prefix: full.path().to_owned(),
            base,
            identity,
            spec,
            files: plan.files.clone(),
            pattern: plan.pattern.clone(),
        })
    }

    /// A source in the cluster's own storage, in the folder of this name among the internal stages'.
    fn resolve_internal(&self, folder: impl std::fmt::Display, plan: &SourcePlan) -> Result<ResolvedSource> {
        let spec = self.warehouse.stage_spec(&folder)?;
        let base = spec.root.clone();
        let full = base.join(&plan.path)?;
        let prefix = full.path().strip_prefix(base.path()).unwrap_or_default().to_owned();
        Ok(ResolvedSource {
            store: self.cache.get(&spec)?,
            prefix,
            // Paths are relative to the stage already.
            base: Location::parse("fs:///")?,
            identity: internal_identity(folder),
            spec,
            files: plan.files.clone(),
            pattern: plan.pattern.clone(),
        })
    }

    /// Deletes the files of an internal stage.
    ///
    /// # Errors
    /// What the store says.
    pub async fn delete_internal_stage(&self, stage: StageId) -> Result<()> {
        let spec = self.warehouse.stage_spec(stage)?;
        let store = self.cache.get(&spec)?;
        let mut files = store.list("", ListOptions::default());
        while let Some(file) = files.next().await {
            store.delete(&file?.path).await?;
        }
        Ok(())
    }
}

/// The folder of a user's own stage. Stages have numbers, so the names never meet.
fn user_folder(user: &str) -> String {
    format!("user-{}", hex::encode(user))
}

fn stage_place(stage: &Stage) -> PlacePlan {
    match &stage.kind {
        StageKind::Internal => PlacePlan::Internal(stage.id),
        StageKind::External { url, source } => external_place(&stage.name, url, source),
    }
}

fn external_place(stage: &str, url: &str, source: &StageSource) -> PlacePlan {
    match source {
        StageSource::Named(connection) => {
            PlacePlan::Connection { url: url.to_owned(), connection: connection.clone() }
        }
        StageSource::Inline { params, secrets, .. } => PlacePlan::Inline {
            url: url.to_owned(),
            owner: format!("stage/{stage}"),
            params: params.clone(),
            secrets: secrets.clone(),
        },
    }
}
