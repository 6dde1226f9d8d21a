//! What a kind of store has to be able to do. Paths are whole (from the top of the bucket or file
//! system) and were checked by [`super::Store`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};
use crate::secret::Secret;

#[async_trait]
pub(crate) trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Whether the operator allows this place, as far as that can be told without the network.
    fn check_allowed(&self, _path: &str) -> Result<()> {
        Ok(())
    }

    /// Everything whose path begins with `prefix`, in the order of the store, page by page.
    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>>;

    /// One file's current version.
    async fn head(&self, path: &str) -> Result<FileEntry>;

    /// The file for reading, pinned to a version.
    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>>;

    /// Small files, whole. `None` where the store has no shorter way than to open each.
    async fn read_at_once(&self, _files: Vec<(String, FileVersion)>) -> Option<Vec<Result<Bytes>>> {
        None
    }

    /// Why nothing can be written or deleted here; only asked where it cannot.
    fn read_only(&self) -> Error {
        Error::not_supported("writing to locations of this kind")
    }

    /// Writes a file in one step; `new` refuses to replace one.
    async fn put(&self, _path: &str, _bytes: Bytes, _new: bool) -> Result<()> {
        Err(self.read_only())
    }

    /// Writes a file in pieces; it appears only when the writer is finished.
    async fn writer(&self, _path: &str) -> Result<Box<dyn BackendWriter>> {
        Err(self.read_only())
    }

    /// Gives a file another name, replacing one that has it.
    async fn rename(&self, _from: &str, _to: &str) -> Result<()> {
        Err(self.read_only())
    }

    /// Deletes a file; one that is gone already is fine.
    async fn delete(&self, _path: &str) -> Result<()> {
        Err(self.read_only())
    }

    /// A URL that anyone may use for a while.
    async fn presign(&self, _upload: bool, _path: &str, _expires: Duration) -> Result<Presigned> {
        Err(Error::not_supported("PRESIGN in locations of this kind"))
    }
}

/// A URL that anyone may use for a while, in one way.
#[derive(Debug)]
pub struct Presigned {
    /// Whoever has it reaches the file.
    pub url: Secret<String>,
    /// Headers that the request must carry.
    pub headers: Vec<(&'static str, &'static str)>,
}

/// A file pinned to one version. Every read fails with a conflict once the version is gone.
#[async_trait]
pub(crate) trait BackendFile: fmt::Debug + Send + Sync + 'static {
    /// Whether ranges read apart are known to be of one version.
    fn can_split(&self) -> bool;

    /// The bytes of a range that lies within the file.
    async fn read(&self, range: Range<u64>) -> Result<Bytes>;

    /// The whole file in one pass.
    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// A file that is being written.
#[async_trait]
pub(crate) trait BackendWriter: Send + 'static {
    async fn write(&mut self, bytes: Bytes) -> Result<()>;
    /// Makes the file durable and visible.
    async fn finish(&mut self) -> Result<()>;
    async fn abort(&mut self) -> Result<()>;
}
