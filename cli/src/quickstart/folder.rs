//! The tour's folder: made, recognised by its marker, and emptied for the next tour.
//!
//! Only a folder with the marker is ever touched, and only the two subfolders that a tour makes are removed.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use stevedore_common::error::ResultExt;
use stevedore_common::{Error, Result};

const MARKER: &str = ".stevedore-quickstart";
const MARKER_TEXT: &str = "Made by 'stevedore quickstart', which empties 'files' and 'instance' beside this file when it runs again.\n";
const FILES: &str = "files";
const INSTANCE: &str = "instance";

/// A folder that is the tour's alone, as long as this is held.
#[derive(Debug)]
pub(super) struct TourFolder {
    root: PathBuf,
    /// Locked, so that two tours do not empty each other's folder.
    _marker: File,
}

impl TourFolder {
    /// Makes the folder, or empties it if a tour made it.
    ///
    /// # Errors
    /// Invalid input where the folder is somebody else's; conflict where another tour runs in it; those of
    /// the file system.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self> {
        let named = || format!("folder '{}'", data_dir.display());
        fs::create_dir_all(data_dir).context(named)?;
        let root = data_dir.canonicalize().context(named)?;
        let marker_path = root.join(MARKER);
        if !marker_path.is_file() {
            if fs::read_dir(&root).context(named)?.next().is_some() {
                return Err(Error::invalid(format!(
                    "'{}' is not empty and was not made by the quickstart, so nothing in it is touched",
                    root.display()
                ))
                .hint("name an empty or new folder with --data-dir"));
            }
            fs::write(&marker_path, MARKER_TEXT).context(named)?;
        }
        let marker = File::open(&marker_path).context(named)?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::conflict(format!("another quickstart runs in '{}'", root.display()))
                    .hint("wait for it, or name another folder with --data-dir"));
            }
            // A file system without locks still gets its tour.
            Err(TryLockError::Error(_)) => {}
        }
        for name in [FILES, INSTANCE] {
            let old = root.join(name);
            match fs::remove_dir_all(&old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::from(error).context(format!("removing '{}'", old.display())));
                }
                _ => fs::create_dir(&old).context(|| format!("folder '{}'", old.display()))?,
            }
        }
        if root.to_str().is_none() {
            return Err(Error::invalid(format!("the path '{}' is not UTF-8", root.display()))
                .hint("name another folder with --data-dir"));
        }
        Ok(Self { root, _marker: marker })
    }

    /// The folder, absolute.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files to load lie.
    pub(super) fn files(&self) -> PathBuf {
        self.root.join(FILES)
    }

    /// Where the instance lives.
    pub(super) fn instance(&self) -> PathBuf {
        self.root.join(INSTANCE)
    }

    /// The newest metadata file of a table.
    ///
    /// # Errors
    /// Not found; those of the file system.
    pub(super) fn newest_metadata(&self, database: &str, table: &str) -> Result<PathBuf> {
        let tables = self.instance().join("warehouse").join(database);
        let mut newest: Option<(String, PathBuf)> = None;
        let listing =
            |folder: &Path| fs::read_dir(folder).context(|| format!("folder '{}'", folder.display()));
        for folder in listing(&tables)? {
            let folder = folder?;
            let name = folder.file_name().to_string_lossy().into_owned();
            // <table>-<uuid>
            if name.strip_prefix(table).is_none_or(|rest| !rest.starts_with('-')) {
                continue;
            }
            for file in listing(&folder.path().join("metadata"))? {
                let file = file?;
                let name = file.file_name().to_string_lossy().into_owned();
                // 00003-<uuid>.metadata.json: the names grow with the versions.
                if name.ends_with(".metadata.json") && newest.as_ref().is_none_or(|(best, _)| *best < name) {
                    newest = Some((name, file.path()));
                }
            }
        }
        newest.map(|(_, path)| path).ok_or_else(|| {
            Error::not_found(format!("table '{table}' has no metadata file below '{}'", tables.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_new_folder_becomes_the_tours_and_a_second_tour_starts_clean() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tour");
        let first = TourFolder::prepare(&root).unwrap();
        fs::write(first.files().join("old.csv"), "1").unwrap();
        fs::write(root.join("mine.txt"), "kept").unwrap();
        let busy = TourFolder::prepare(&root).unwrap_err().to_string();
        assert!(busy.contains("another quickstart"), "{busy}");
        drop(first);
        let second = TourFolder::prepare(&root).unwrap();
        assert_eq!(fs::read_dir(second.files()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(second.instance()).unwrap().count(), 0);
        assert!(root.join("mine.txt").exists());
    }

    #[test]
    fn a_foreign_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FILES)).unwrap();
        fs::write(dir.path().join(FILES).join("precious.csv"), "1").unwrap();
        let error = TourFolder::prepare(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not empty") && error.contains("--data-dir"), "{error}");
        assert!(dir.path().join(FILES).join("precious.csv").exists());
        assert!(!dir.path().join(MARKER).exists());
    }

    #[test]
    fn the_newest_metadata_is_found_among_tables_with_similar_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = TourFolder::prepare(&dir.path().join("tour")).unwrap();
        for (table, file) in [
            ("t-1", "00000-b.metadata.json"),
            ("t-1", "00002-a.metadata.json"),
            ("t-1", "snap-9.avro"),
            ("t_more-2", "00009-a.metadata.json"),
        ] {
            let metadata = folder.instance().join("warehouse/default").join(table).join("metadata");
            fs::create_dir_all(&metadata).unwrap();
            fs::write(metadata.join(file), "").unwrap();
        }
        let newest = folder.newest_metadata("default", "t").unwrap();
        assert!(newest.ends_with("t-1/metadata/00002-a.metadata.json"), "{}", newest.display());
        assert!(folder.newest_metadata("default", "none").is_err());
    }
}
