//! What scripts cannot show of a Hub: files that change between a listing and its reading.

#![allow(clippy::unwrap_used)]

use futures::TryStreamExt;
use stevedore_common::ErrorKind;
use stevedore_common::location::Location;
use stevedore_common::storage::{ListOptions, StoragePolicy, StorageSpec, Store};
use stevedore_integration_tests::hub::HubServer;

#[tokio::test]
async fn a_file_that_changed_since_it_was_listed_is_a_conflict_and_others_are_not() {
    stevedore_common::telemetry::install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.csv", "b.csv", "c.parquet"] {
        std::fs::write(path(name), "1\n").unwrap();
    }
    let hub = HubServer::start(folder.path().to_owned()).await;
    let policy = StoragePolicy { allow_private_network: true, ..StoragePolicy::default() };
    let mut spec = StorageSpec::new(Location::parse("hf://acme/sales/").unwrap(), policy);
    spec.params.insert("endpoint_url".into(), hub.url());
    let store = Store::build(&spec).unwrap();
    let listed: Vec<_> = store.list("", ListOptions::default()).try_collect().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["a.csv", "b.csv", "c.parquet"]);
    assert_eq!(store.head("c.parquet").await.unwrap(), listed[2]);

    // A commit that changes two of them.
    std::fs::write(path("a.csv"), "2\n").unwrap();
    std::fs::write(path("c.parquet"), "2\n").unwrap();
    for (file, conflict) in listed.iter().zip([true, false, true]) {
        match store.open(&file.path, &file.version).await {
            Ok(open) => {
                assert!(!conflict, "{} was opened", file.path);
                assert_eq!(open.read_range(0..2).await.unwrap(), "1\n");
            }
            Err(error) => {
                assert!(conflict, "{error}");
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert!(
                    error.to_string().contains(&format!("'{}' changed while it was read", file.path)),
                    "{error}"
                );
            }
        }
    }
}
