//! Object stores: building one from a resolved location, listing, pinned reads, writes, and the
//! adapter that lets the `iceberg` crate use the same stack.
//!
//! Comes in: a [`StorageSpec`] (root, parameters, secrets, policy) and paths below its root, which
//! were joined in [`crate::location`]. Goes out: a [`Store`], cheap to clone. Every path is checked
//! again before it reaches a store; nothing is read or written above the root. Errors name the file,
//! the store and what to do, and never a secret. Requests that fail on the way are tried again with
//! jitter, within a budget of seconds.

mod backend;
pub mod egress;
mod failure;
mod fs;
mod http;
mod hub;
mod iceberg;
mod ipfs;
mod list;
mod object;
mod pinned;
mod retry;
#[cfg(test)]
mod tests;
mod warehouse;
mod web;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::location::{Location, Scheme, check_store_path};
use crate::secret::Secret;

use backend::{Backend, BackendWriter};
use egress::EgressPolicy;
use failure::StoreLabel;
use fs::FsBackend;
use http::HttpBackend;
use hub::HubBackend;
use ipfs::IpfsBackend;
use object::{ObjectBackend, Signing};

pub use backend::Presigned;
pub use iceberg::file_io;
pub use list::{ListOptions, StagePattern, UNFINISHED};
pub use pinned::{PinnedFile, ReadAhead};
pub use warehouse::Warehouse;

/// What the operator allows a store to reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoragePolicy {
    /// Whether network stores may be at loopback, private and link-local addresses.
    pub allow_private_network: bool,
    /// The folders that `fs://` may read and write below.
    pub allowed_fs_roots: Vec<PathBuf>,
    /// Whether S3 connections without keys use the identity of the machine.
    pub allow_ambient_credentials: bool,
}

impl StoragePolicy {
    /// The part that concerns the network.
    pub fn egress(&self) -> EgressPolicy {
        EgressPolicy { allow_private_network: self.allow_private_network }
    }
}

/// All that is needed to build a store.
#[derive(Clone, PartialEq, Eq)]
pub struct StorageSpec {
    /// The root: a folder, or the whole of a bucket, file system or host.
    pub root: Location,
    /// `endpoint_url`, `region`, … in lower case.
    pub params: BTreeMap<String, String>,
    /// `access_key_id`, `secret_access_key`, … in lower case.
    pub secrets: BTreeMap<String, Secret<String>>,
    /// What is allowed.
    pub policy: StoragePolicy,
}

impl fmt::Debug for StorageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSpec")
            .field("root", &self.root.to_string())
            .field("params", &self.params)
            .field("secrets", &self.secrets)
            .field("policy", &self.policy)
            .finish()
    }
}

impl StorageSpec {
    /// A spec without parameters and secrets.
    pub fn new(root: Location, policy: StoragePolicy) -> Self {
        Self { root, params: BTreeMap::new(), secrets: BTreeMap::new(), policy }
    }

    /// A spec from the text of a root (as messages between components carry it).
    ///
    /// # Errors
    /// As [`Location::parse`]; a root that is not a folder is refused.
    pub fn from_parts(
        root: &str,
        params: BTreeMap<String, String>,
        secrets: BTreeMap<String, Secret<String>>,
        policy: StoragePolicy,
    ) -> Result<Self> {
        let root = Location::parse(root)?;
        if !root.is_folder() {
            return Err(Error::invalid(format!("the root '{root}' of a store must be a folder")));
        }
        Ok(Self { root, params, secrets, policy })
    }

    /// The same store with another root in it (an internal stage below the warehouse).
    #[must_use]
    pub fn at(&self, root: Location) -> Self {
        Self { root, ..self.clone() }
    }

    /// Fills what an S3 spec leaves open from the usual `AWS_*` variables of the process. Only for
    /// stores of the operator's own, such as the warehouse.
    #[must_use]
    pub fn with_aws_environment(mut self) -> Self {
        if self.root.scheme() != Scheme::S3 {
            return self;
        }
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        for (key, names) in [
            ("endpoint_url", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"]),
        ] {
            if let Some(value) = names.iter().find_map(|name| env(name)) {
                self.params.entry(key.into()).or_insert(value);
            }
        }
        if self.value("access_key_id").is_none() {
            for (key, name) in [
                ("access_key_id", "AWS_ACCESS_KEY_ID"),
                ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
                ("session_token", "AWS_SESSION_TOKEN"),
            ] {
                if let Some(value) = env(name) {
                    self.secrets.insert(key.into(), Secret::new(value));
                }
            }
        }
        self
    }

    /// A parameter or secret; empty ones count as absent.
    fn value(&self, key: &str) -> Option<String> {
        let secret = self.secrets.get(key).map(|secret| secret.expose().clone());
        secret.or_else(|| self.params.get(key).cloned()).filter(|value| !value.is_empty())
    }

    /// A digest of everything, secrets included, for [`Stores`].
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        field(&self.root.to_string());
        for (key, value) in &self.params {
            field("p");
            field(key);
            field(value);
        }
        for (key, value) in &self.secrets {
            field("s");
            field(key);
            field(value.expose());
        }
        field(if self.policy.allow_private_network { "private" } else { "public" });
        field(if self.policy.allow_ambient_credentials { "ambient" } else { "own" });
        for root in &self.policy.allowed_fs_roots {
            field(&root.to_string_lossy());
        }
        hash.finalize().into()
    }
}

/// Small files that are read at a time, where each is a request.
const SMALL_AT_ONCE: usize = 8;

/// Stores that were built, so that slices of one job share connections. A cache belongs to one runtime.
#[derive(Debug, Default)]
pub struct Stores(Mutex<HashMap<[u8; 32], Store>>);

impl Stores {
    const LIMIT: usize = 256;

    /// The store of a spec, built at first use.
    ///
    /// # Errors
    /// As [`Store::build`].
    pub fn get(&self, spec: &StorageSpec) -> Result<Store> {
        let key = spec.digest();
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&key) {
            return Ok(store.clone());
        }
        let store = Store::build(spec)?;
        if stores.len() >= Self::LIMIT {
            stores.clear();
        }
        stores.insert(key, store.clone());
        Ok(store)
    }
}

/// A store at a root. Paths are relative to the root and use `/`.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    object: Option<ObjectBackend>,
    root: Arc<Location>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.root.to_string()).finish()
    }
}

impl Store {
    /// Builds the store of a spec. Does no I/O beyond looking at the allowed local roots.
    ///
    /// # Errors
    /// Invalid parameters; what the policy refuses; what is not built yet.
    pub fn build(spec: &StorageSpec) -> Result<Self> {
        if !spec.root.is_folder() {
            return Err(Error::invalid(format!("the root '{}' of a store must be a folder", spec.root)));
        }
        let root = Arc::new(spec.root.clone());
        match spec.root.scheme() {
            Scheme::S3 if spec.value("region").is_some() => Ok(Self::of_object(object::s3(spec)?, root)),
            Scheme::S3 => Ok(Self { backend: object::s3_of_any_region(spec)?, object: None, root }),
            Scheme::Azblob => Ok(Self::of_object(object::azblob(spec)?, root)),
            Scheme::Gcs => Ok(Self::of_object(object::gcs(spec)?, root)),
            Scheme::Oss => Ok(Self::of_object(object::oss(spec)?, root)),
            Scheme::Cos => Ok(Self::of_object(object::cos(spec)?, root)),
            Scheme::Hf => Ok(Self { backend: Arc::new(HubBackend::new(spec)?), object: None, root }),
            Scheme::Ipfs => Ok(Self { backend: Arc::new(IpfsBackend::new(spec)?), object: None, root }),
            Scheme::Fs => {
                let backend = FsBackend::new(&spec.policy.allowed_fs_roots)?;
                Ok(Self { backend: Arc::new(backend), object: None, root })
            }
            Scheme::Http | Scheme::Https => {
                let backend = HttpBackend::new(&spec.root, spec.policy.egress())?;
                Ok(Self { backend: Arc::new(backend), object: None, root })
            }
            Scheme::Memory => Err(Error::not_supported("stores in memory outside of tests")),
        }
    }

    /// A store in the memory of this process, for tests.
    pub fn in_memory() -> Self {
        let object = ObjectBackend {
            store: Arc::new(InMemory::new()),
            pages: None,
            hides_prefix: false,
            signing: Signing::NoKey,
            label: StoreLabel { place: "the store in memory".into(), keys: "" },
        };
        Self::of_object(object, Arc::new(Location::memory()))
    }

    fn of_object(object: ObjectBackend, root: Arc<Location>) -> Self {
        Self { backend: Arc::new(object.clone()), object: Some(object), root }
    }

    /// The root.
    pub fn root(&self) -> &Location {
        &self.root
    }

    /// Whether the operator's policy allows this place, as far as that can be told without the network:
    /// for local paths, whether they lie below an allowed folder.
    ///
    /// # Errors
    /// Denied.
    pub fn check_allowed(&self, path: &str) -> Result<()> {
        self.backend.check_allowed(&self.full_prefix(path)?)
    }

    /// The same store with another root in the same bucket or file system.
    ///
    /// # Errors
    /// Internal, if the location is in another store.
    pub fn at(&self, root: Location) -> Result<Self> {
        if root.store_root() != self.root.store_root() || !root.is_folder() {
            return Err(Error::internal(format!("'{root}' is not a folder in '{}'", self.root.store_root())));
        }
        Ok(Self { root: Arc::new(root), ..self.clone() })
    }

    /// `object_store`'s view for libraries that want one, rooted at the top of the bucket or of the
    /// file system: its paths are those of [`Store::object_path`]. It does not check allowed roots, so it
    /// is only for files of our own. `None` where the
    /// library does not serve the store, or its region is asked for at the first use.
    pub fn object_store(&self) -> Option<Arc<dyn ObjectStore>> {
        match (&self.object, self.root.scheme()) {
            (Some(object), _) => Some(Arc::clone(&object.store)),
            (None, Scheme::Fs) => Some(Arc::new(LocalFileSystem::new())),
            _ => None,
        }
    }

    /// The path of a file in [`Store::object_store`].
    ///
    /// # Errors
    /// Invalid input for a path that names no file below the root.
    pub fn object_path(&self, path: &str) -> Result<object_store::path::Path> {
        let full = self.full_path(path)?;
        object_store::path::Path::parse(&full)
            .map_err(|e| Error::invalid(format!("invalid path '{path}': {e}")))
    }

    /// The absolute URI of the root as Iceberg metadata has it, without a trailing slash: `s3://bucket/wh`,
    /// `file:///data/wh`.
    pub fn root_uri(&self) -> String {
        let root = self.root.iceberg_uri();
        root.strip_suffix('/').map(str::to_owned).unwrap_or(root)
    }

    /// The absolute URI of a path, as Iceberg metadata has it.
    pub fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.root.iceberg_uri())
    }

    /// The path below the root of an absolute URI from Iceberg metadata.
    ///
    /// # Errors
    /// Invalid input for a URI outside the root.
    pub fn path_of_uri(&self, uri: &str) -> Result<String> {
        let root = self.root.iceberg_uri();
        let plain = uri
            .strip_prefix("s3a://")
            .map(|rest| format!("s3://{rest}"))
            .or_else(|| uri.strip_prefix("fs://").map(|rest| format!("file://{rest}")))
            .or_else(|| {
                uri.strip_prefix("file:/").filter(|r| !r.starts_with('/')).map(|r| format!("file:///{r}"))
            })
            .unwrap_or_else(|| uri.to_owned());
        let path = plain
            .strip_prefix(&root)
            .ok_or_else(|| Error::invalid(format!("'{uri}' is outside of '{root}'")))?;
        Ok(path.to_owned())
    }

    fn full_path(&self, path: &str) -> Result<String> {
        let full = format!("{}{path}", self.root.path());
        check_store_path(self.root.scheme(), &full)?;
        if path.is_empty() {
            return Err(Error::invalid("an empty path names no file"));
        }
        Ok(full)
    }

    fn full_prefix(&self, prefix: &str) -> Result<String> {
        let full = format!("{}{prefix}", self.root.path());
        if !full.is_empty() {
            check_store_path(self.root.scheme(), full.trim_end_matches('/'))?;
        }
        Ok(full)
    }

    fn below_root(&self, mut entry: FileEntry) -> FileEntry {
        if let Some(below) = entry.path.strip_prefix(self.root.path()) {
            entry.path = below.to_owned();
        }
        entry
    }

    fn list_raw(&self, prefix: &str) -> BoxStream<'static, Result<FileEntry>> {
        let full = match self.full_prefix(prefix) {
            Ok(full) => full,
            Err(e) => return futures::stream::once(async move { Err(e) }).boxed(),
        };
        let this = self.clone();
        self.backend.list(full).map_ok(move |entry| this.below_root(entry)).boxed()
    }

    /// One file named in FILES, relative to a raw prefix.
    fn join_file(&self, prefix: &str, file: &str) -> Result<String> {
        let joined = self.root.join(prefix)?.join_file(file)?;
        joined
            .path()
            .strip_prefix(self.root.path())
            .map(str::to_owned)
            .ok_or_else(|| Error::internal(format!("'{joined}' left '{}'", self.root)))
    }

    /// The current version of a file.
    ///
    /// # Errors
    /// Not found, naming the file; what the store says.
    pub async fn head(&self, path: &str) -> Result<FileEntry> {
        let entry = self.backend.head(&self.full_path(path)?).await?;
        Ok(self.below_root(entry))
    }

    /// A file for reading, pinned to the version that was listed.
    ///
    /// # Errors
    /// Conflict if the file is another version already (some stores notice at the first read only).
    pub async fn open(&self, path: &str, version: &FileVersion) -> Result<PinnedFile> {
        let file = self.backend.open(&self.full_path(path)?, version).await?;
        Ok(PinnedFile::new(file, path, version.clone()))
    }

    /// Small files, whole, each pinned to the version that was listed; what became of each, in their order.
    pub async fn read_small(&self, files: Vec<(String, FileVersion)>) -> Vec<Result<Bytes>> {
        let full = files.iter().map(|(path, version)| Ok((self.full_path(path)?, version.clone())));
        if let Ok(full) = full.collect::<Result<Vec<_>>>()
            && let Some(read) = self.backend.read_at_once(full).await
        {
            return read;
        }
        futures::stream::iter(files)
            .map(|(path, version)| async move { self.open(&path, &version).await?.read_all(version.size).await })
            .buffered(SMALL_AT_ONCE)
            .collect()
            .await
    }

    /// A file as it is now: [`Store::head`], then [`Store::open`].
    ///
    /// # Errors
    /// As these.
    pub async fn open_current(&self, path: &str) -> Result<PinnedFile> {
        let entry = self.head(path).await?;
        self.open(path, &entry.version).await
    }

    /// Writes a whole file, replacing one of that name.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.backend.put(&self.full_path(path)?, bytes, false).await
    }

    /// Writes a whole file that must not exist yet.
    ///
    /// # Errors
    /// Already exists; what the store says.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.backend.put(&self.full_path(path)?, bytes, true).await
    }

    /// Writes a file piece by piece. It appears, durable, when [`StoreWriter::finish`] returns.
    ///
    /// # Errors
    /// What the store says.
    pub async fn writer(&self, path: &str) -> Result<StoreWriter> {
        Ok(StoreWriter(self.backend.writer(&self.full_path(path)?).await?))
    }

    /// Gives a file another name below the root, replacing one that has it. On object stores it is copied there
    /// by the store itself, then deleted.
    ///
    /// # Errors
    /// Not found, naming the file; what the store says.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.backend.rename(&self.full_path(from)?, &self.full_path(to)?).await
    }

    /// Deletes a file. One that is gone already is fine.
    ///
    /// # Errors
    /// What the store says.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.backend.delete(&self.full_path(path)?).await
    }

    /// Deletes a file if it is still the version given; answers whether it was deleted (or gone already).
    /// Between the look and the deletion a moment remains in which a replacement would be deleted.
    ///
    /// # Errors
    /// What the store says.
    pub async fn delete_if_unchanged(&self, path: &str, version: &FileVersion) -> Result<bool> {
        match self.head(path).await {
            Ok(entry) if entry.version.same_content(version) => self.delete(path).await.map(|()| true),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == crate::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Deletes everything below a folder of ours; answers how many files.
    ///
    /// # Errors
    /// What the store says; invalid input for an empty or unslashed prefix.
    pub async fn delete_folder(&self, folder: &str) -> Result<u64> {
        if !folder.ends_with('/') {
            return Err(Error::invalid(format!("'{folder}' is not a folder")));
        }
        let this = self;
        self.list_raw(folder)
            .map(|entry| async move {
                this.delete(&entry?.path).await?;
                Ok::<u64, Error>(1)
            })
            .buffer_unordered(8)
            .try_fold(0, |sum, one| std::future::ready(Ok(sum + one)))
            .await
    }

    /// A URL that anyone may use for a while to download or upload a file.
    ///
    /// # Errors
    /// Not supported where the store cannot sign, or has no key to sign with.
    pub async fn presign(&self, upload: bool, path: &str, expires: Duration) -> Result<Presigned> {
        self.backend.presign(upload, &self.full_path(path)?, expires).await
    }
}

/// A file that is being written. Dropping it leaves nothing visible behind.
pub struct StoreWriter(Box<dyn BackendWriter>);

impl fmt::Debug for StoreWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreWriter")
    }
}

impl StoreWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// What the store says; the file is then lost.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.0.write(bytes).await
    }

    /// Makes the file durable and visible.
    ///
    /// # Errors
    /// What the store says; whether the file appeared is then unknown.
    pub async fn finish(mut self) -> Result<()> {
        self.0.finish().await
    }

    /// Gives the file up and frees what the store holds of it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn abort(mut self) -> Result<()> {
        self.0.abort().await
    }
}
