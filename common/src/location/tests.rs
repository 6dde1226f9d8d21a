//! What users write as locations, and what becomes of it.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn parse(uri: &str) -> Location {
    Location::parse(uri).unwrap()
}

#[test]
fn uris_parse_into_scheme_authority_and_path() {
    for (uri, scheme, authority, path) in [
        ("s3://bucket/a/b/", Scheme::S3, "bucket", "a/b/"),
        ("S3://bucket", Scheme::S3, "bucket", ""),
        ("s3://b.u-c_k/k=v/x y.csv", Scheme::S3, "b.u-c_k", "k=v/x y.csv"),
        ("azblob://container/a/", Scheme::Azblob, "container", "a/"),
        ("gs://bucket/a/", Scheme::Gcs, "bucket", "a/"),
        ("hf://org/name", Scheme::Hf, "org/name", ""),
        ("hf://org/name/data/x.parquet", Scheme::Hf, "org/name", "data/x.parquet"),
        ("ipfs://QmAbC/d/", Scheme::Ipfs, "QmAbC", "d/"),
        ("fs:///data/in/", Scheme::Fs, "", "data/in/"),
        ("fs:///", Scheme::Fs, "", ""),
        ("https://Example.COM:443/d/x{a,b}[1-3].csv", Scheme::Https, "example.com", "d/x{a,b}[1-3].csv"),
        ("http://[::1]:8080/x", Scheme::Http, "[::1]:8080", "x"),
        ("http://2130706433/x", Scheme::Http, "127.0.0.1", "x"),
        ("https://h/x.csv?sig=../%00", Scheme::Https, "h", "x.csv?sig=../%00"),
    ] {
        let location = parse(uri);
        assert_eq!(
            (location.scheme(), location.authority(), location.path()),
            (scheme, authority, path),
            "{uri}"
        );
    }
}

#[test]
fn wrong_uris_are_refused_with_a_reason() {
    for (uri, reason) in [
        ("bucket/path", "no scheme"),
        ("ftp://h/x", "unknown scheme 'ftp'"),
        ("file:///data/", "fs:///dir/"),
        ("hdfs://c/x/", "not supported yet: locations of the scheme 'hdfs'"),
        ("hf://org", "needs a repository"),
        ("hf://org//x", "needs a repository"),
        ("hf://datasets/org/name/", "REPO_TYPE"),
        ("ipfs://", "CID of a folder"),
        ("azblob:///x", "bucket's name"),
        ("s3:///x", "bucket's name"),
        ("s3://bu cket/x", "bucket's name"),
        ("fs://host/x", "three slashes"),
        ("fs://data", "three slashes"),
        ("https:///x", "needs a host"),
        ("s3://b/a//b", "empty segments"),
        ("s3://b/../x", "'..'"),
        ("s3://b/a/%2e%2E/x", "'..'"),
        ("fs:///data/..", "'..'"),
        ("https://h/a#b", "%23"),
    ] {
        let error = Location::parse(uri).unwrap_err().to_string();
        assert!(error.contains(reason), "{uri}: {error}");
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let error = Location::parse("https://me:hunter2@h/x").unwrap_err().to_string();
    assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
}

#[test]
fn joins_are_raw_prefixes_below_the_stage() {
    let stage = parse("s3://b/in/");
    for (relative, path) in [
        ("", "in/"),
        ("dir/", "in/dir/"),
        ("dir/ab", "in/dir/ab"),
        ("a b/%41.csv", "in/a b/%41.csv"),
        ("...", "in/..."),
    ] {
        assert_eq!(stage.join(relative).unwrap().path(), path);
    }
    assert_eq!(stage.join("dir").unwrap().join_file("x.csv").unwrap().path(), "in/dir/x.csv");
}

#[test]
fn joins_that_could_lead_elsewhere_are_refused() {
    let stage = parse("fs:///data/in/");
    for relative in [
        "..",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        ".",
        "/etc/passwd",
        "a//b",
        "//",
        "a\0b",
        "a\\..\\b",
        "..\\x",
        "%2e%2e/x",
        "%2E./x",
        ".%2e",
        "a/%252e%252e/b",
        "%2e%2e%2fx",
        "a%2f..%2fb",
        "a%00",
        "%5c..%5cx",
        "a\nb",
    ] {
        assert!(stage.join(relative).is_err(), "{relative:?} was joined");
    }
    for file in ["", "dir/"] {
        assert!(stage.join_file(file).is_err(), "{file:?}");
    }
}

#[test]
fn a_stage_names_a_folder() {
    assert!(parse("s3://b/in/").require_folder().is_ok());
    assert!(parse("s3://b").require_folder().is_ok());
    let error = parse("s3://b/in").require_folder().unwrap_err().to_string();
    assert!(error.contains("write 's3://b/in/'"), "{error}");
}

#[test]
fn names_are_relative_to_the_folder() {
    assert_eq!(parse("s3://b/in/").relative_name("in/a/x.csv"), "a/x.csv");
    assert_eq!(parse("s3://b/in/ab").relative_name("in/abc.csv"), "abc.csv");
    assert_eq!(parse("https://h/d/x[1-2].csv").relative_name("d/x1.csv"), "x1.csv");
    assert_eq!(parse("https://h/d/x.csv?sig=1").relative_name("d/x.csv?sig=1"), "x.csv");
}

#[test]
fn two_endpoints_with_one_bucket_are_two_stores() {
    let bucket = parse("s3://b/in/");
    let at = |url: &str| bucket.identity(&BTreeMap::from([("endpoint_url".to_owned(), url.to_owned())]));
    assert_eq!(at("http://Minio:9000/"), at("http://minio:9000"));
    assert_eq!(at("https://s3.eu-central-1.amazonaws.com"), bucket.identity(&BTreeMap::new()));
    assert_ne!(at("http://minio:9000"), at("http://other:9000"));
    assert_ne!(internal_identity(3), internal_identity(4));
}

#[test]
fn the_same_files_by_another_way_are_one_store_and_other_files_are_not() {
    let at = |uri: &str, params: &[(&str, &str)]| {
        let params = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(uri).identity(&params)
    };
    let azure = at("azblob://c/", &[("account_name", "me")]);
    assert_eq!(
        at("azblob://c/", &[("account_name", "me"), ("endpoint_url", "https://me.blob.core.windows.net/")]),
        azure
    );
    assert_ne!(at("azblob://c/", &[("account_name", "you")]), azure);
    let gcs = at("gs://b/", &[]);
    assert_eq!(at("gcs://b/x/", &[("endpoint_url", "https://storage.googleapis.com")]), gcs);
    assert_ne!(at("gcs://b/", &[("endpoint_url", "http://localhost:9")]), gcs);
    let oss = at("oss://b/", &[("endpoint_url", "https://oss-cn-beijing.aliyuncs.com")]);
    assert_eq!(at("oss://b/", &[("endpoint_url", "https://oss-cn-beijing-internal.aliyuncs.com")]), oss);
    let hub = at("hf://o/r/", &[]);
    assert_eq!(at("hf://o/r/x", &[("repo_type", "dataset"), ("revision", "main")]), hub);
    assert_ne!(at("hf://o/r/", &[("revision", "v2")]), hub);
    assert_ne!(at("hf://o/r/", &[("repo_type", "model")]), hub);
    let ipfs = at("ipfs://QmAbC/", &[]);
    assert_eq!(at("ipfs://QmAbC/", &[("endpoint_url", "https://dweb.link")]), ipfs);
}

#[test]
fn roots_are_folders_and_writable() {
    assert_eq!(Location::parse_root("/data/wh").unwrap().to_string(), "fs:///data/wh/");
    assert_eq!(Location::parse_root("file:///data/wh/").unwrap().to_string(), "fs:///data/wh/");
    assert_eq!(
        Location::parse_root("s3://b/wh").unwrap().internal_stage("7").unwrap().path(),
        "wh/stages/7/"
    );
    assert!(Location::parse_root("https://h/x").is_err());
    assert!(Location::parse_root("gcs://b/wh").unwrap_err().to_string().contains("not supported yet"));
    assert!(Location::parse_root("relative/dir").is_err());
}

proptest! {
    #[test]
    fn a_join_never_leaves_its_folder(relative in r"([a-z.%/\\\x00]|%2e|%2f|%5c|%25|\.\.|é){0,12}") {
        let stage = parse("fs:///data/in/");
        if let Ok(joined) = stage.join(&relative) {
            prop_assert!(joined.path().starts_with("data/in/"));
            for text in [joined.path().to_owned(), percent_decoded(joined.path()), percent_decoded(&percent_decoded(joined.path()))] {
                let mut depth = 0i32;
                for segment in text.replace('\\', "/").split('/') {
                    depth += match segment { ".." => -1, "" | "." => 0, _ => 1 };
                    prop_assert!(segment != ".." && depth >= 0, "{text}");
                }
            }
        }
    }

    #[test]
    fn parsing_never_panics(uri in r"(s3|fs|https?|x)?(://|:|/)?\PC{0,40}") {
        if let Ok(location) = Location::parse(&uri) {
            let _ = location.expand();
            prop_assert_eq!(Location::parse(&location.to_string()).unwrap(), location);
        }
    }
}
