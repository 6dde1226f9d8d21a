//! The state store over memory and over sled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn meta(applied: u64) -> StateMeta {
    StateMeta { applied, applied_term: 1, incarnation: "i".into(), ..StateMeta::default() }
}

fn batch(pairs: &[(&str, Option<&str>)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in pairs {
        match value {
            Some(value) => batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec()),
            None => batch.delete(key.as_bytes().to_vec()),
        }
    }
    batch
}

fn keys(pairs: &[Pair]) -> Vec<String> {
    pairs
        .iter()
        .map(|(k, v)| format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)))
        .collect()
}

fn over_both(test: impl Fn(StateStore)) {
    test(StateStore::memory());
    let folder = tempfile::tempdir().unwrap();
    test(StateStore::open(&folder.path().join("state"), 16 << 20).unwrap());
}

#[test]
fn a_batch_and_its_applied_index_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = StateStore::open(folder.path(), 16 << 20).unwrap();
        store.write(&batch(&[("a", Some("1")), ("b", Some("2"))]), meta(5)).unwrap();
        store.sync().unwrap();
    }
    let store = StateStore::open(folder.path(), 16 << 20).unwrap();
    assert_eq!(store.meta().applied, 5);
    assert_eq!(keys(&store.view().scan(b"", None, 9).unwrap()), ["a=1", "b=2"]);
}

#[test]
fn an_index_is_never_applied_twice() {
    over_both(|store| {
        store.write(&batch(&[("a", Some("1"))]), meta(5)).unwrap();
        assert!(store.write(&batch(&[("a", Some("2"))]), meta(5)).is_err());
        assert_eq!(store.view().get(b"a").unwrap().unwrap(), "1");
    });
}

#[test]
fn a_view_shows_one_index_whatever_is_applied_after_it() {
    over_both(|store| {
        store.write(&batch(&[("k1", Some("a")), ("k3", Some("c")), ("k4", Some("d"))]), meta(2)).unwrap();
        let early = store.view();
        store.write(&batch(&[("k1", None), ("k2", Some("B")), ("k3", Some("C"))]), meta(3)).unwrap();
        let middle = store.view();
        store
            .write(&batch(&[("k1", Some("A")), ("k2", None), ("k4", None), ("k5", Some("E"))]), meta(4))
            .unwrap();

        assert_eq!(keys(&early.scan(b"k", None, 9).unwrap()), ["k1=a", "k3=c", "k4=d"]);
        assert_eq!(keys(&middle.scan(b"k", None, 9).unwrap()), ["k2=B", "k3=C", "k4=d"]);
        assert_eq!(keys(&store.view().scan(b"k", None, 9).unwrap()), ["k1=A", "k3=C", "k5=E"]);
        assert_eq!(early.get(b"k2").unwrap(), None);
        assert_eq!(middle.get(b"k1").unwrap(), None);
        assert_eq!((early.applied(), middle.applied()), (2, 3));
    });
}

#[test]
fn a_scan_in_pages_equals_a_scan_at_once() {
    over_both(|store| {
        for i in 0..40_u64 {
            store.write(&batch(&[(&format!("p{:02}", i * 7 % 40), Some("x"))]), meta(i + 1)).unwrap();
        }
        let view = store.view();
        let deletions: Vec<_> = (0..40).step_by(3).map(|i| format!("p{i:02}")).collect();
        let pairs: Vec<_> =
            deletions.iter().map(|k| (k.as_str(), None)).chain([("p005", Some("new"))]).collect();
        store.write(&batch(&pairs), meta(50)).unwrap();
        for (view, expected) in [(&view, 40), (&store.view(), 27)] {
            let whole = view.scan(b"p", None, 100).unwrap();
            assert_eq!(whole.len(), expected);
            let mut paged: Vec<Pair> = Vec::new();
            loop {
                let page = view.scan(b"p", paged.last().map(|(k, _)| k.as_ref()), 3).unwrap();
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            assert_eq!(paged, whole);
        }
    });
}

#[test]
fn earlier_values_are_dropped_with_the_last_view_that_needs_them() {
    let store = StateStore::memory();
    store.write(&batch(&[("a", Some("1"))]), meta(1)).unwrap();
    let view = store.view();
    store.write(&batch(&[("a", Some("2"))]), meta(2)).unwrap();
    assert_eq!(view.get(b"a").unwrap().unwrap(), "1");
    assert_eq!(store.current().earlier_values(), 1);
    drop(view);
    assert_eq!(store.current().earlier_values(), 0);
}

#[test]
fn large_values_come_back_and_never_become_blobs() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = StateStore::open(folder.path(), 16 << 20).unwrap();
        for (index, size) in [(1, 500_000), (2, 3_000_000), (3, 70_000), (4, 10)] {
            let mut batch = WriteBatch::default();
            batch.put("large", vec![index as u8; size]);
            batch.put(format!("kept{index}"), vec![index as u8; size]);
            let before = store.view();
            store.write(&batch, meta(index)).unwrap();
            assert_eq!(store.view().get(b"large").unwrap().unwrap(), vec![index as u8; size]);
            if index > 1 {
                assert_eq!(before.get(b"large").unwrap().unwrap()[0], index as u8 - 1);
            }
        }
        store.sync().unwrap();
    }
    let store = StateStore::open(folder.path(), 16 << 20).unwrap();
    let kept = store.view().scan(b"kept", None, 10).unwrap();
    assert_eq!(kept.iter().map(|(_, v)| v.len()).collect::<Vec<_>>(), [500_000, 3_000_000, 70_000, 10]);
    assert_eq!(std::fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn entries_that_are_applied_together_see_each_other() {
    over_both(|store| {
        let stored = batch(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3")), ("e", Some("5"))]);
        store.write(&stored, meta(1)).unwrap();
        let effects = batch(&[("a", None), ("b", Some("B")), ("d", Some("D")), ("f", Some("F"))]);
        let view = store.overlaid(&effects);
        assert_eq!(keys(&view.scan(b"", None, 9).unwrap()), ["b=B", "c=3", "d=D", "e=5", "f=F"]);
        assert_eq!(keys(&view.scan(b"", None, 3).unwrap()), ["b=B", "c=3", "d=D"]);
        assert_eq!(keys(&view.scan(b"", Some(b"c"), 2).unwrap()), ["d=D", "e=5"]);
        assert_eq!(view.scan(b"", None, 0).unwrap(), []);
        assert_eq!(view.get(b"a").unwrap(), None);
    });
}

#[test]
fn a_snapshot_replaces_the_state_and_old_views_stay_good() {
    over_both(|store| {
        store.write(&batch(&[("old", Some("1")), ("both", Some("old"))]), meta(3)).unwrap();
        let before = store.view();
        let mut install = store.begin_install();
        install.put(&Bytes::from("both"), &Bytes::from("new")).unwrap();
        install.put(&Bytes::from("large"), &Bytes::from(vec![1; 100_000])).unwrap();
        install.finish(meta(100)).unwrap();

        assert_eq!(store.meta().applied, 100);
        assert_eq!(store.view().get(b"old").unwrap(), None);
        assert_eq!(store.view().scan(b"", None, 9).unwrap().len(), 2);
        assert_eq!(keys(&before.scan(b"", None, 9).unwrap()), ["both=old", "old=1"]);
        assert!(!store.sweep(100).unwrap(), "a generation that a view looks at must not be swept");
        assert_eq!(keys(&before.scan(b"", None, 9).unwrap()), ["both=old", "old=1"]);
        drop(before);
        assert!(store.sweep(1).unwrap());
        while store.sweep(1).unwrap() {}
        assert_eq!(store.view().scan(b"", None, 9).unwrap().len(), 2);
        store.write(&batch(&[("more", Some("1"))]), meta(101)).unwrap();
        assert_eq!(store.view().scan(b"", None, 9).unwrap().len(), 3);
    });
}

#[test]
fn a_snapshot_that_was_not_finished_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = StateStore::open(folder.path(), 16 << 20).unwrap();
        store.write(&batch(&[("a", Some("1"))]), meta(3)).unwrap();
        let mut install = store.begin_install();
        for i in 0..40 {
            install.put(&Bytes::from(format!("k{i}")), &Bytes::from(vec![0; 60_000])).unwrap();
        }
        drop(install);
        store.sync().unwrap();
    }
    let store = StateStore::open(folder.path(), 16 << 20).unwrap();
    assert_eq!(keys(&store.view().scan(b"", None, 9).unwrap()), ["a=1"]);
    assert!(store.sweep(10).unwrap());
    while store.sweep(10).unwrap() {}
    let next = store.begin_install();
    next.finish(meta(9)).unwrap();
    assert_eq!(store.view().scan(b"", None, 9).unwrap(), []);
}

#[test]
fn a_reader_never_sees_half_a_batch() {
    over_both(|store| {
        let write = |index: u64| {
            let mut batch = WriteBatch::default();
            for key in 0..50_u8 {
                // Keys come and go as well as change.
                if (u64::from(key) + index).is_multiple_of(3) {
                    batch.delete(vec![b'k', key]);
                } else {
                    batch.put(vec![b'k', key], index.to_string());
                }
            }
            batch.put("count", batch.writes.values().filter(|v| v.is_some()).count().to_string());
            batch.put("index", index.to_string());
            batch
        };
        store.write(&write(1), meta(1)).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let view = store.view();
                        let index = view.get(b"index").unwrap().unwrap();
                        assert_eq!(index, view.applied().to_string());
                        let count = view.get(b"count").unwrap().unwrap();
                        let pairs = view.scan(b"k", None, 1_000).unwrap();
                        assert_eq!(pairs.len().to_string().as_bytes(), count);
                        assert!(pairs.iter().all(|(_, value)| *value == index));
                    }
                });
            }
            for index in 2..300 {
                store.write(&write(index), meta(index)).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}
