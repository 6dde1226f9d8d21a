//! Holds the import rules of `docs/architecture.md`: which crates may see which.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Crate → our crates among its normal dependencies, read from the manifests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let folders = [
        "proto",
        "common",
        "common/status",
        "coordinator",
        "coordinator/state",
        "coordinator/raft",
        "coordinator/sql",
        "worker",
        "worker/decode",
        "cli",
    ];
    folders
        .iter()
        .map(|folder| {
            let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
            let mut section = "";
            let mut name = String::new();
            let mut ours = BTreeSet::new();
            for line in text.lines() {
                if line.starts_with('[') {
                    section = line;
                } else if section == "[package]" && line.starts_with("name = ") {
                    name = line.trim_start_matches("name = ").trim_matches('"').to_owned();
                } else if section == "[dependencies]" && line.starts_with("stevedore") {
                    ours.insert(line.split(['.', ' ']).next().unwrap().to_owned());
                }
            }
            (name, ours)
        })
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let allowed = BTreeMap::from([
        ("stevedore-proto", set(&[])),
        ("stevedore-common", set(&[])),
        ("stevedore-status", set(&["stevedore-common", "stevedore-proto"])),
        ("stevedore-state", set(&["stevedore-common"])),
        ("stevedore-raft", set(&["stevedore-common", "stevedore-state"])),
        ("stevedore-sql", set(&["stevedore-common"])),
        (
            "stevedore-coordinator",
            set(&[
                "stevedore-common",
                "stevedore-proto",
                "stevedore-status",
                "stevedore-state",
                "stevedore-raft",
                "stevedore-sql",
            ]),
        ),
        ("stevedore-decode", set(&["stevedore-common"])),
        (
            "stevedore-worker",
            set(&["stevedore-common", "stevedore-proto", "stevedore-status", "stevedore-decode"]),
        ),
        (
            "stevedore",
            set(&[
                "stevedore-common",
                "stevedore-proto",
                "stevedore-status",
                "stevedore-coordinator",
                "stevedore-worker",
                "stevedore-sql",
            ]),
        ),
    ]);
    for (name, ours) in dependencies() {
        let allowed = &allowed[name.as_str()];
        let extra: Vec<_> = ours.difference(allowed).collect();
        assert!(extra.is_empty(), "{name} may not depend on {extra:?}");
    }
}

#[test]
fn the_control_plane_and_the_decoders_do_not_link_datafusion() {
    for folder in [
        "common",
        "common/status",
        "coordinator",
        "coordinator/state",
        "coordinator/raft",
        "coordinator/sql",
        "worker/decode",
    ] {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(!text.contains("datafusion"), "{folder} must not link DataFusion");
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn nothing_in_the_coordinator_imports_its_api() {
    let source = root().join("coordinator/src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 5, "found only {files:?}");
    for file in files {
        let inside = file.strip_prefix(&source).unwrap();
        // The node assembles the services; everything else is below them.
        if inside.starts_with("api") || inside == Path::new("node.rs") || inside == Path::new("lib.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("crate::api"), "{} imports crate::api", inside.display());
    }
}

#[test]
fn scheduler_and_committer_never_write_the_state() {
    for folder in ["scheduler", "committer"] {
        let mut files = Vec::new();
        rust_files(&root().join("coordinator/src").join(folder), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for forbidden in ["WriteBatch", "stevedore_raft::"] {
                assert!(!text.contains(forbidden), "{} uses {forbidden}", file.display());
            }
        }
    }
}
