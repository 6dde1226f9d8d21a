//! Opening a sled database and making it durable.
//!
//! sled's own `flush` ends in `sync_file_range` on Linux, which survives the death of the process but
//! not of the machine: after it we call `sync_data` on the database file ourselves. Pages over a
//! quarter of a segment would go to blob files that sled never syncs, hence the large segments here and
//! the limit on values at the callers. Opening never repairs.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stevedore_common::error::ResultExt as _;
use stevedore_common::{Error, Result};

/// With values under 64 KiB a leaf (16 of them, and up to ten updates before it is rewritten) stays
/// under a quarter of this, so that it never becomes a blob.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// How long a database that another one holds is waited for.
const LOCKED_FOR: Duration = Duration::from_secs(2);

/// A sled database and the file handle that makes it durable.
#[derive(Debug, Clone)]
pub(crate) struct DurableDb {
    pub(crate) db: sled::Db,
    file: std::sync::Arc<File>,
    folder: PathBuf,
}

impl DurableDb {
    /// Everything written so far is on disk when this returns.
    pub(crate) fn sync(&self) -> Result<()> {
        self.db.flush().map_err(|e| self.failed("flushing", &e))?;
        self.file.sync_data().map_err(|e| self.failed("syncing", &e))
    }

    /// An error about this store.
    pub(crate) fn failed(&self, doing: &str, error: &dyn std::fmt::Display) -> Error {
        Error::storage(format!("{doing} the store in '{}' failed: {error}", self.folder.display()))
            .hint(way_back(&self.folder))
    }

    /// An error about content that cannot be read back.
    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> Error {
        damaged(&self.folder, what)
    }
}

fn way_back(folder: &Path) -> String {
    format!(
        "if the disk is sound, start again; otherwise move '{}' and its sibling folders away and join the cluster again as a new member",
        folder.display()
    )
}

fn damaged(folder: &Path, what: impl std::fmt::Display) -> Error {
    Error::bad_data(format!("the store in '{}' is damaged: {what}", folder.display())).hint(format!(
        "it is not repaired: move '{}' and its sibling folders away and join the cluster again as a new member, or restore all of them from a backup",
        folder.display()
    ))
}

/// What opening gave; the outer error is a panic of sled's.
type Opened = std::thread::Result<sled::Result<sled::Db>>;

fn is_locked(opened: &Opened) -> bool {
    matches!(opened, Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock"))
}

/// Opens (or creates) a database. Blocks while another one holds it, for a while. A damaged one is an error that names the folder and the way back.
pub(crate) fn open_sled(folder: &Path, cache_bytes: u64) -> Result<DurableDb> {
    let fresh = !folder.join("db").exists();
    std::fs::create_dir_all(folder)
        .map_err(Error::from)
        .context(|| format!("creating the folder '{}'", folder.display()))?;
    if !fresh && !folder.join("conf").exists() {
        return Err(damaged(folder, "its file 'conf' is missing"));
    }
    let config = sled::Config::new()
        .path(folder)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None);
    // sled asserts on some kinds of damage instead of returning an error.
    let open = || catch_unwind(AssertUnwindSafe(|| config.open()));
    let mut opened = open();
    // Threads of sled's own let go of a store a moment after its last user in this process did.
    let given_up = Instant::now() + LOCKED_FOR;
    while is_locked(&opened) && Instant::now() < given_up {
        std::thread::sleep(LOCKED_FOR / 20);
        opened = open();
    }
    let db = match opened {
        Ok(Ok(db)) => db,
        locked if is_locked(&locked) => {
            return Err(Error::conflict(format!("another process uses the store in '{}'", folder.display()))
                .hint("stop it, or give this one a data folder of its own"));
        }
        Ok(Err(sled::Error::Io(e))) => {
            return Err(Error::from(e)
                .context(format!("opening the store in '{}'", folder.display()))
                .hint(way_back(folder)));
        }
        Ok(Err(e)) => return Err(damaged(folder, e)),
        Err(_) => return Err(damaged(folder, "its file 'db' cannot be read")),
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(folder.join("db"))
        .map_err(Error::from)
        .context(|| format!("opening the store in '{}'", folder.display()))?;
    let opened = DurableDb { db, file: std::sync::Arc::new(file), folder: folder.to_owned() };
    if fresh {
        opened.sync()?;
        File::open(folder.join("conf"))
            .and_then(|f| f.sync_all())
            .map_err(|e| opened.failed("syncing", &e))?;
        sync_folder(folder)?;
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(opened)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(Error::from)
        .context(|| format!("syncing the folder '{}'", folder.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_store_that_cannot_be_read_names_its_folder_and_the_way_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        {
            let store = open_sled(&path, 1 << 20).unwrap();
            for i in 0..2_000_u32 {
                store.db.insert(i.to_be_bytes(), vec![7_u8; 4_000]).unwrap();
            }
            store.sync().unwrap();
        }
        std::fs::remove_file(path.join("conf")).unwrap();

        let error = open_sled(&path, 1 << 20).unwrap_err();

        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.hint_text().unwrap().contains("join the cluster again as a new member"));
    }

    #[test]
    fn a_store_in_use_is_not_opened_twice() {
        let folder = tempfile::tempdir().unwrap();
        let _held = open_sled(folder.path(), 1 << 20).unwrap();
        let error = open_sled(folder.path(), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }
}
