//! The machine's file system, below the roots that the operator allows.
//!
//! Every path is resolved (symbolic links and all) before it is used and must lie below an allowed
//! root; what was opened is checked once more. A listing skips links that lead out, and goes in the
//! order of an object store. Files are written under a hidden name, made durable, and renamed.
//! All system calls run on tokio's blocking threads.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind as IoKind, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::buffers::BufferPool;
use crate::error::{Error, Result};
use crate::file_identity::{FileEntry, FileVersion};

use super::backend::{Backend, BackendFile, BackendWriter};
use super::failure::changed;
use super::list::UNFINISHED;

const STREAM_CHUNK: u64 = 1 << 20;
/// Text is read in pieces of 1 MiB, row groups in larger ones. Shared by all stores, so that what is kept is
/// bounded.
static READ_BUFFERS: LazyLock<BufferPool> = LazyLock::new(|| BufferPool::of_sizes(1 << 20, 7, 64 << 20));
const MAX_DEPTH: usize = 128;

#[derive(Debug, Clone)]
pub(crate) struct FsBackend {
    roots: Arc<[PathBuf]>,
}

impl FsBackend {
    pub(crate) fn new(allowed: &[PathBuf]) -> Result<Self> {
        let hint = "an operator allows folders with --allow-fs";
        if allowed.is_empty() {
            return Err(Error::denied("local files are not allowed on this cluster").hint(hint));
        }
        // A root that does not exist here allows nothing; others still count.
        let roots: Vec<PathBuf> = allowed.iter().filter_map(|root| root.canonicalize().ok()).collect();
        if roots.is_empty() {
            let names: Vec<String> = allowed.iter().map(|root| format!("'{}'", root.display())).collect();
            return Err(Error::denied(format!(
                "none of the allowed local folders exists here: {}",
                names.join(", ")
            ))
            .hint(hint));
        }
        Ok(Self { roots: roots.into() })
    }

    fn allowed(&self, resolved: &Path) -> bool {
        self.roots.iter().any(|root| resolved.starts_with(root))
    }

    fn refused(&self, path: &str) -> Error {
        Error::denied(format!("the local path '/{path}' is outside the folders that are allowed"))
            .hint("an operator allows folders with --allow-fs")
    }

    /// The real path of something that exists.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let named = Path::new("/").join(path);
        match named.canonicalize() {
            Ok(real) if self.allowed(&real) => Ok(real),
            Ok(_) => Err(self.refused(path)),
            Err(e) => {
                // Whether a file exists outside the roots is nobody's business.
                self.resolve_ancestor(path)?;
                Err(explain(e, path))
            }
        }
    }

    /// The real path of the nearest folder that exists above `path`.
    fn resolve_ancestor(&self, path: &str) -> Result<PathBuf> {
        let named = Path::new("/").join(path);
        let real = named.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok());
        real.filter(|real| self.allowed(real)).ok_or_else(|| self.refused(path))
    }

    /// Where a new file goes, its folders made.
    fn prepare(&self, path: &str) -> Result<PathBuf> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.resolve_ancestor(path)?;
        let named = Path::new("/").join(folder);
        std::fs::create_dir_all(&named).map_err(|e| explain(e, folder))?;
        let real = named.canonicalize().map_err(|e| explain(e, folder))?;
        if !self.allowed(&real) {
            return Err(self.refused(path));
        }
        Ok(real.join(name))
    }

    fn open_now(&self, path: String, version: FileVersion) -> Result<FsFile> {
        let real = self.resolve(&path)?;
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(&real).map_err(|e| explain(e, &path))?.is_file() {
            return Err(Error::invalid(format!("'/{path}' is not a regular file")));
        }
        let file = File::open(&real).map_err(|e| explain(e, &path))?;
        // A folder may have become a link between the check and the opening.
        if let Ok(opened) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            && !self.allowed(&opened)
        {
            return Err(self.refused(&path));
        }
        check_version(&file, &path, &version)?;
        Ok(FsFile { file: Arc::new(file), path, version })
    }
}

fn explain(e: std::io::Error, path: &str) -> Error {
    match e.kind() {
        IoKind::NotFound | IoKind::NotADirectory => {
            Error::not_found(format!("file '/{path}' does not exist"))
        }
        IoKind::PermissionDenied => {
            Error::denied(format!("the operating system refuses access to '/{path}'"))
                .hint("check the permissions of the file and its folders for the user that runs this process")
        }
        IoKind::StorageFull => Error::exhausted(format!("no space left for '/{path}'")),
        _ => Error::storage(format!("'/{path}': {e}")).retryable(true),
    }
}

fn version_of(meta: &Metadata) -> FileVersion {
    let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    FileVersion {
        size: meta.len(),
        etag: Some(format!("{nanos:x}-{:x}", meta.len())),
        version: None,
        last_modified_ms: i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX),
    }
}

fn check_version(file: &File, path: &str, version: &FileVersion) -> Result<()> {
    let now = version_of(&file.metadata().map_err(|e| explain(e, path))?);
    if now.same_content(version) { Ok(()) } else { Err(changed(path)) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_cancelled() => Err(Error::cancelled("the process is shutting down")),
        Err(e) => Err(Error::internal(format!("a file operation failed: {e}"))),
    }
}

#[async_trait]
impl Backend for FsBackend {
    fn check_allowed(&self, path: &str) -> Result<()> {
        match Path::new("/").join(path).canonicalize() {
            Ok(real) if self.allowed(&real) => Ok(()),
            Ok(_) => Err(self.refused(path)),
            // Not there (yet): then what is above it counts.
            Err(_) => self.resolve_ancestor(path).map(|_| ()),
        }
    }

    fn list(&self, prefix: String) -> BoxStream<'static, Result<FileEntry>> {
        let (sender, receiver) = mpsc::channel(256);
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let walk = Walk { backend: &this, prefix: &prefix, out: &sender };
            if let Err(e) = walk.run() {
                let _ = sender.blocking_send(Err(e));
            }
        });
        futures::stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        )
        .boxed()
    }

    async fn head(&self, path: &str) -> Result<FileEntry> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let meta = std::fs::metadata(this.resolve(&path)?).map_err(|e| explain(e, &path))?;
            if !meta.is_file() {
                return Err(Error::not_found(format!("'/{path}' is not a file")));
            }
            Ok(FileEntry { version: version_of(&meta), path })
        })
        .await
    }

    async fn open(&self, path: &str, version: &FileVersion) -> Result<Arc<dyn BackendFile>> {
        let (this, path, version) = (self.clone(), path.to_owned(), version.clone());
        blocking(move || Ok(Arc::new(this.open_now(path, version)?) as Arc<dyn BackendFile>)).await
    }

    async fn read_at_once(&self, files: Vec<(String, FileVersion)>) -> Option<Vec<Result<Bytes>>> {
        let this = self.clone();
        let read = move |(path, version): (String, FileVersion)| {
            let size = version.size;
            this.open_now(path, version)?.read_now(0..size)
        };
        blocking(move || Ok(files.into_iter().map(read).collect())).await.ok()
    }

    async fn put(&self, path: &str, bytes: Bytes, new: bool) -> Result<()> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let mut unfinished = Unfinished::create(this.prepare(&path)?, path)?;
            unfinished.write(&bytes)?;
            unfinished.finish(new)
        })
        .await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn BackendWriter>> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let unfinished = Unfinished::create(this.prepare(&path)?, path)?;
            Ok(Box::new(FsWriter(Some(unfinished))) as Box<dyn BackendWriter>)
        })
        .await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (this, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        blocking(move || {
            let source = this.resolve(&from)?;
            let target = this.prepare(&to)?;
            std::fs::rename(&source, &target).map_err(|e| explain(e, &to))?;
            match target.parent() {
                Some(folder) => File::open(folder).and_then(|f| f.sync_all()).map_err(|e| explain(e, &to)),
                None => Ok(()),
            }
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            // The link itself goes, never what it leads to; so only the folder is resolved.
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let folder = match this.resolve(folder) {
                Ok(folder) => folder,
                Err(e) if e.kind() == crate::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            match std::fs::remove_file(folder.join(name)) {
                Err(e) if e.kind() != IoKind::NotFound => Err(explain(e, &path)),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// One listing: depth first, names in the order of an object store (a folder sorts as `name/`).
struct Walk<'a> {
    backend: &'a FsBackend,
    prefix: &'a str,
    out: &'a mpsc::Sender<Result<FileEntry>>,
}

impl Walk<'_> {
    fn run(&self) -> Result<()> {
        let folder = &self.prefix[..self.prefix.rfind('/').map_or(0, |slash| slash + 1)];
        let real = match self.backend.resolve(folder.trim_end_matches('/')) {
            Ok(real) => real,
            Err(e) if e.kind() == crate::ErrorKind::NotFound => return Ok(()),
            // The folder above a raw prefix may be the one above an allowed root.
            Err(e) => return Err(e),
        };
        self.folder(&real, folder, &mut vec![real.clone()]).map(|_| ())
    }

    /// Answers whether to go on.
    fn folder(&self, real: &Path, name: &str, above: &mut Vec<PathBuf>) -> Result<bool> {
        let mut children: Vec<(String, PathBuf, Metadata)> = Vec::new();
        let entries = match std::fs::read_dir(real) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => return Ok(true),
            Err(e) => return Err(explain(e, name.trim_end_matches('/'))),
        };
        for entry in entries {
            let entry = entry.map_err(|e| explain(e, name.trim_end_matches('/')))?;
            let child = entry.file_name().into_string().map_err(|raw: OsString| {
                Error::not_supported(format!(
                    "the file name '{}' in '/{name}', which is not UTF-8",
                    raw.display()
                ))
            })?;
            let path = format!("{name}{child}");
            let wanted = path.starts_with(self.prefix) || self.prefix.starts_with(&format!("{path}/"));
            let asked_for = self.prefix.get(name.len()..).is_some_and(|rest| rest.starts_with(UNFINISHED));
            if (child.starts_with(UNFINISHED) && !asked_for) || !wanted {
                continue;
            }
            // Links are followed to where they lead, if that is allowed.
            let Ok(real) = entry.path().canonicalize() else {
                tracing::warn!(path = %format!("/{path}"), "a file that vanished or a broken link was left out of a listing");
                continue;
            };
            if !self.backend.allowed(&real) {
                tracing::warn!(path = %format!("/{path}"), "a link out of the allowed folders was left out of a listing");
                continue;
            }
            let Ok(meta) = std::fs::metadata(&real) else { continue };
            if meta.is_dir() {
                children.push((format!("{path}/"), real, meta));
            } else if meta.is_file() {
                children.push((path, real, meta));
            }
        }
        children.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, real, meta) in children {
            if meta.is_dir() {
                if above.contains(&real) {
                    tracing::warn!(path = %format!("/{path}"), "a link to a folder above itself was left out of a listing");
                    continue;
                }
                if above.len() >= MAX_DEPTH {
                    return Err(Error::exhausted(format!(
                        "'/{path}' lies more than {MAX_DEPTH} folders deep"
                    )));
                }
                above.push(real.clone());
                let go_on = self.folder(&real, &path, above)?;
                above.pop();
                if !go_on {
                    return Ok(false);
                }
            } else if self.out.blocking_send(Ok(FileEntry { version: version_of(&meta), path })).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[derive(Debug, Clone)]
struct FsFile {
    file: Arc<File>,
    path: String,
    version: FileVersion,
}

impl FsFile {
    fn read_now(&self, range: Range<u64>) -> Result<Bytes> {
        let Self { file, path, version } = self;
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::exhausted(format!("'/{path}': the range is too large")))?;
        let bytes = match read_exact_at(file, range.start, len) {
            Err(e) if e.kind() == IoKind::UnexpectedEof => return Err(changed(path)),
            other => other.map_err(|e| explain(e, path))?,
        };
        check_version(file, path, version)?;
        Ok(bytes)
    }
}

/// Reads so many bytes, into memory that is not filled with zeros first.
fn read_exact_at(file: &File, offset: u64, len: usize) -> std::io::Result<Bytes> {
    let mut pooled = READ_BUFFERS.take(len);
    let buffer = pooled.vec();
    while buffer.len() < len {
        let at = offset.saturating_add(buffer.len() as u64);
        let read = retry_on_intr(|| pread(file, spare_capacity(buffer), at))?;
        if read == 0 {
            return Err(IoKind::UnexpectedEof.into());
        }
    }
    // More may have been reserved, and read.
    buffer.truncate(len);
    Ok(pooled.freeze())
}

#[async_trait]
impl BackendFile for FsFile {
    fn can_split(&self) -> bool {
        true
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let file = self.clone();
        blocking(move || file.read_now(range)).await
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let file = self.clone();
        Ok(futures::stream::try_unfold(0, move |at| {
            let file = file.clone();
            async move {
                let end = file.version.size.min(at + STREAM_CHUNK);
                if at >= end {
                    return Ok(None);
                }
                Ok(Some((blocking(move || file.read_now(at..end)).await?, end)))
            }
        })
        .boxed())
    }
}

/// A file under its hidden name; removed when dropped before it is finished.
#[derive(Debug)]
struct Unfinished {
    file: File,
    hidden: PathBuf,
    target: PathBuf,
    path: String,
    done: bool,
}

impl Unfinished {
    fn create(target: PathBuf, path: String) -> Result<Self> {
        let hidden = target.with_file_name(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
        let file =
            OpenOptions::new().write(true).create_new(true).open(&hidden).map_err(|e| explain(e, &path))?;
        Ok(Self { file, hidden, target, path, done: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| explain(e, &self.path))
    }

    /// File first, then its name, then the folder: what is acknowledged survives a power cut.
    fn finish(mut self, new: bool) -> Result<()> {
        let placed = self.file.sync_all().and_then(|()| {
            if new {
                std::fs::hard_link(&self.hidden, &self.target)
            } else {
                std::fs::rename(&self.hidden, &self.target)
            }
        });
        match placed {
            Err(e) if e.kind() == IoKind::AlreadyExists => {
                return Err(Error::already_exists(format!("file '/{}' exists already", self.path)));
            }
            other => other.map_err(|e| explain(e, &self.path))?,
        }
        self.done = !new;
        if let Some(folder) = self.target.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| explain(e, &self.path))?;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.hidden);
        }
    }
}

struct FsWriter(Option<Unfinished>);

impl FsWriter {
    fn take(&mut self) -> Result<Unfinished> {
        self.0
            .take()
            .ok_or_else(|| Error::internal("a file was written to after it was finished or had failed"))
    }
}

#[async_trait]
impl BackendWriter for FsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut unfinished = self.take()?;
        let unfinished = blocking(move || {
            unfinished.write(&bytes)?;
            Ok(unfinished)
        })
        .await?;
        self.0 = Some(unfinished);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let unfinished = self.take()?;
        blocking(move || unfinished.finish(false)).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }
}
