//! What every log store has to do, run over each implementation, each also after reopening.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use raft::eraftpb::{Entry, HardState};

use super::{LogStart, LogStore, LogWrite, MemoryLogStore, SledLogStore};
use crate::identity::Identity;

/// Makes a store, and opens what the last one left.
trait Disk {
    fn open(&self) -> Box<dyn LogStore>;
}

struct Memory(MemoryLogStore);
impl Disk for Memory {
    fn open(&self) -> Box<dyn LogStore> {
        Box::new(self.0.clone())
    }
}

struct Sled(tempfile::TempDir);
impl Disk for Sled {
    fn open(&self) -> Box<dyn LogStore> {
        Box::new(SledLogStore::open(&self.0.path().join("log"), 16 << 20).unwrap())
    }
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: data.to_vec().into(), ..Entry::default() }
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    range.map(|i| entry(i, term, format!("{i}@{term}").as_bytes())).collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

fn identity() -> Identity {
    Identity::generate("cluster", 1, vec![1, 2, 3])
}

fn bootstrapped(disk: &dyn Disk) -> Box<dyn LogStore> {
    let mut store = disk.open();
    store.bootstrap(&identity(), LogStart { index: 1, term: 1 }, &hard_state(1, 0, 1)).unwrap();
    store
}

fn append(store: &mut dyn LogStore, entries: &[Entry]) {
    store.write(&LogWrite { entries, hard_state: None }, true).unwrap();
}

fn a_fresh_store_is_empty(disk: &dyn Disk) {
    let store = disk.open();
    assert_eq!(store.identity().unwrap(), None);
    assert_eq!((store.start(), store.last_index()), (LogStart::default(), 0));
    assert_eq!(store.hard_state().unwrap(), HardState::default());
}

fn an_identity_is_given_once_and_kept(disk: &dyn Disk) {
    let me = identity();
    let mut store = disk.open();
    store.bootstrap(&me, LogStart { index: 1, term: 1 }, &hard_state(1, 0, 1)).unwrap();
    assert!(store.bootstrap(&identity(), LogStart::default(), &HardState::default()).is_err());
    drop(store);
    let store = disk.open();
    assert_eq!(store.identity().unwrap(), Some(me));
    assert_eq!(store.start(), LogStart { index: 1, term: 1 });
    assert_eq!(store.term(1).unwrap(), 1);
}

fn entries_and_hard_state_come_back(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    let written = entries(2..=40, 3);
    store.write(&LogWrite { entries: &written, hard_state: Some(&hard_state(3, 2, 9)) }, true).unwrap();
    drop(store);
    let store = disk.open();
    assert_eq!(store.entries(2, 41, u64::MAX).unwrap(), written);
    assert_eq!(store.entries(10, 12, u64::MAX).unwrap(), written[8..10]);
    assert_eq!(store.hard_state().unwrap(), hard_state(3, 2, 9));
    assert_eq!((store.last_index(), store.term(40).unwrap()), (40, 3));
}

fn a_size_limit_gives_at_least_one_entry(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &[entry(2, 1, &[0; 100]), entry(3, 1, &[0; 100]), entry(4, 1, &[0; 100])]);
    assert_eq!(store.entries(2, 5, 0).unwrap().len(), 1);
    assert_eq!(store.entries(2, 5, 300).unwrap().len(), 2);
    assert_eq!(store.entries(2, 5, 10_000).unwrap().len(), 3);
}

fn a_conflicting_suffix_is_replaced(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &entries(2..=20, 1));
    append(&mut *store, &entries(10..=12, 2));
    drop(store);
    let store = disk.open();
    assert_eq!(store.last_index(), 12);
    assert_eq!((store.term(9).unwrap(), store.term(10).unwrap()), (1, 2));
    assert!(store.term(13).is_err());
}

fn gaps_and_entries_below_the_start_are_refused(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &entries(2..=5, 1));
    for wrong in [entries(7..=8, 1), entries(1..=2, 1), vec![entry(6, 1, b""), entry(8, 1, b"")]] {
        assert!(store.write(&LogWrite { entries: &wrong, hard_state: None }, true).is_err());
    }
    assert_eq!(store.last_index(), 5);
}

fn compaction_keeps_the_tail_and_the_term_before_it(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &entries(2..=50, 4));
    store.compact(30).unwrap();
    store.compact(10).unwrap();
    append(&mut *store, &entries(51..=52, 5));
    drop(store);
    let store = disk.open();
    assert_eq!((store.start(), store.last_index()), (LogStart { index: 30, term: 4 }, 52));
    assert_eq!(store.term(30).unwrap(), 4);
    assert!(store.entries(30, 32, u64::MAX).is_err());
    assert_eq!(store.entries(31, 53, u64::MAX).unwrap().len(), 22);
}

fn the_whole_log_can_be_compacted(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &entries(2..=5, 2));
    assert!(store.compact(6).is_err());
    store.compact(5).unwrap();
    assert_eq!((store.start().index, store.last_index(), store.term(5).unwrap()), (5, 5, 2));
    append(&mut *store, &entries(6..=6, 2));
    assert_eq!(store.last_index(), 6);
}

fn a_restart_after_a_snapshot_forgets_the_old_log(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    append(&mut *store, &entries(2..=9, 1));
    store.restart_at(LogStart { index: 100, term: 7 }, &hard_state(7, 0, 100)).unwrap();
    append(&mut *store, &entries(101..=102, 7));
    drop(store);
    let store = disk.open();
    assert_eq!((store.start(), store.last_index()), (LogStart { index: 100, term: 7 }, 102));
    assert_eq!(store.hard_state().unwrap().commit, 100);
}

fn peers_are_remembered_and_forgotten(disk: &dyn Disk) {
    let mut store = bootstrapped(disk);
    store.set_peer(2, Some("abc")).unwrap();
    store.set_peer(3, Some("def")).unwrap();
    store.set_peer(3, None).unwrap();
    drop(store);
    let store = disk.open();
    assert_eq!((store.peer(2).unwrap().as_deref(), store.peer(3).unwrap()), (Some("abc"), None));
}

macro_rules! over_every_store {
    ($($test:ident)*) => {
        mod memory { $( #[test] fn $test() { super::$test(&super::Memory(super::MemoryLogStore::new())); } )* }
        mod sled { $( #[test] fn $test() { super::$test(&super::Sled(tempfile::tempdir().unwrap())); } )* }
    };
}

over_every_store! {
    a_fresh_store_is_empty
    an_identity_is_given_once_and_kept
    entries_and_hard_state_come_back
    a_size_limit_gives_at_least_one_entry
    a_conflicting_suffix_is_replaced
    gaps_and_entries_below_the_start_are_refused
    compaction_keeps_the_tail_and_the_term_before_it
    the_whole_log_can_be_compacted
    a_restart_after_a_snapshot_forgets_the_old_log
    peers_are_remembered_and_forgotten
}

#[test]
fn entries_of_the_largest_size_never_become_blobs() {
    let disk = Sled(tempfile::tempdir().unwrap());
    let mut store = bootstrapped(&disk);
    for start in (2..400_u64).step_by(40) {
        let large: Vec<_> =
            (start..start + 40).map(|i| entry(i, 1, &vec![i as u8; crate::MAX_COMMAND_BYTES])).collect();
        append(&mut *store, &large);
        if start > 100 {
            store.compact(start - 50).unwrap();
        }
    }
    drop(store);
    let blobs = std::fs::read_dir(disk.0.path().join("log/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
}

#[test]
fn a_log_that_lost_committed_entries_does_not_open() {
    let disk = Sled(tempfile::tempdir().unwrap());
    {
        let mut store = SledLogStore::open(&disk.0.path().join("log"), 1 << 20).unwrap();
        store.bootstrap(&identity(), LogStart { index: 1, term: 1 }, &hard_state(1, 0, 1)).unwrap();
        store
            .write(&LogWrite { entries: &entries(2..=4, 1), hard_state: Some(&hard_state(1, 0, 9)) }, true)
            .unwrap();
    }
    let error = SledLogStore::open(&disk.0.path().join("log"), 1 << 20).unwrap_err();
    assert!(error.to_string().contains("committed up to log entry 9 and now ends at 4"), "{error}");
}
