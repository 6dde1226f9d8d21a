//! Who asks, and where: roles, regions, hosts, keys of other stores.

use std::sync::Mutex;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};

use super::*;

const ROLE: &str = "arn:aws:iam::123456789012:role/loader";

/// What was asked of a server: what it says of itself, and bodies.
type Asked = Arc<Mutex<Vec<String>>>;

/// S3 that tells a region, with an STS that gives its one key to who knows the external id. Answers of STS
/// expire after so many seconds.
async fn s3_with_sts(root: &Path, lifetime: i64) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let front = from_fn(move |request: Request, next: Next| {
        let seen = Arc::clone(&seen);
        async move {
            let [scope, token] = ["authorization", "x-amz-security-token"].map(|name| {
                let value = request.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            });
            if request.method() == "HEAD" && scope.is_empty() {
                seen.lock().unwrap().push("region".into());
                let answer = Response::builder().status(403).header("x-amz-bucket-region", "eu-test-9");
                return answer.body(Body::empty()).unwrap();
            }
            if request.method() != "POST" {
                seen.lock().unwrap().push(format!("{scope} {token}"));
                return next.run(request).await;
            }
            let body = to_bytes(request.into_body(), 1 << 16).await.unwrap();
            let form = String::from_utf8(body.to_vec()).unwrap();
            seen.lock().unwrap().push(format!("{scope} {form}"));
            if !form.contains("ExternalId=tenant%2F7") {
                let body = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
                return Response::builder().status(403).body(Body::from(body)).unwrap();
            }
            let expires = (chrono::Utc::now() + chrono::TimeDelta::seconds(lifetime)).to_rfc3339();
            Response::new(Body::from(format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{KEY}</AccessKeyId>\
                 <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>a&amp;token==</SessionToken>\
                 <Expiration>{expires}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )))
        }
    });
    (serve(s3_app(root, None).layer(front)).await, asked)
}

fn role_spec(address: SocketAddr, external_id: &str) -> StorageSpec {
    let mut spec = s3_spec(address, "s3://bucket/", "the-users-own-secret");
    spec.params.insert("role_arn".into(), ROLE.into());
    spec.secrets.insert("external_id".into(), Secret::new(external_id.into()));
    spec
}

#[tokio::test]
async fn a_role_is_assumed_once_and_again_before_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    for (lifetime, expected) in [(3600, 1), (60, 4)] {
        let (address, asked) = s3_with_sts(dir.path(), lifetime).await;
        let store = Store::build(&role_spec(address, "tenant/7")).unwrap();
        store.put("a.csv", Bytes::from("1\n")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(names(&store, "", ListOptions::default()).await.unwrap(), ["a.csv"]);
        }
        let asked = asked.lock().unwrap().clone();
        let roles: Vec<&String> = asked.iter().filter(|line| line.contains("Action=AssumeRole")).collect();
        assert_eq!(roles.len(), expected, "{asked:?}");
        assert!(
            roles[0].contains("/eu-test-9/sts/aws4_request") && roles[0].contains("RoleArn=arn%3Aaws"),
            "{roles:?}"
        );
        assert!(
            asked.iter().any(|line| line.contains("/eu-test-9/s3/") && line.ends_with(" a&token==")),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn a_role_that_is_refused_is_told_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = s3_with_sts(dir.path(), 3600).await;
    let store = Store::build(&role_spec(address, "of-another-tenant")).unwrap();
    let error = names(&store, "", ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = format!("{error} {error:?}");
    assert!(text.contains(ROLE) && text.contains("AccessDenied") && text.contains("EXTERNAL_ID"), "{text}");
    assert!(!text.contains("of-another-tenant") && !text.contains("the-users-own-secret"), "{text}");

    let mut alone = role_spec(address, "x");
    alone.params.remove("role_arn");
    assert!(Store::build(&alone).unwrap_err().to_string().contains("EXTERNAL_ID needs ROLE_ARN"));
}

#[tokio::test]
async fn a_bucket_is_asked_once_for_the_region_that_the_connection_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let (address, asked) = s3_with_sts(dir.path(), 3600).await;
    let mut spec = s3_spec(address, "s3://bucket/", SECRET);
    let store = Store::build(&spec).unwrap();
    for _ in 0..2 {
        names(&store, "", ListOptions::default()).await.unwrap();
    }
    let url = store.presign(false, "a.csv", Duration::from_secs(60)).await.unwrap().url;
    assert!(url.expose().contains("eu-test-9"), "{}", url.expose());
    {
        let mut asked = asked.lock().unwrap();
        assert_eq!(asked.iter().filter(|line| *line == "region").count(), 1, "{asked:?}");
        assert!(asked.iter().skip(1).all(|line| line.contains("/eu-test-9/s3/aws4_request")), "{asked:?}");
        asked.clear();
    }
    spec.params.insert("region".into(), "mars-1".into());
    names(&Store::build(&spec).unwrap(), "", ListOptions::default()).await.unwrap();
    let asked = asked.lock().unwrap();
    assert!(asked.len() == 1 && asked[0].contains("/mars-1/s3/"), "{asked:?}");
}

#[tokio::test]
async fn oss_and_cos_are_spoken_to_with_the_bucket_in_the_host() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    std::fs::write(dir.path().join("bucket/a b.csv"), "1\n").unwrap();
    for (uri, endpoint, host, region, keys) in [
        (
            "oss://bucket/",
            "oss-cn-beijing-internal.aliyuncs.com",
            "public.oss.test",
            "oss-cn-beijing",
            ("access_key_id", "access_key_secret"),
        ),
        (
            "cos://bucket/",
            "cos.ap-guangzhou.myqcloud.com",
            "cos.ap-guangzhou.myqcloud.com",
            "ap-guangzhou",
            ("secret_id", "secret_key"),
        ),
    ] {
        let address = serve(s3_app(dir.path(), Some(host))).await;
        let mut spec = StorageSpec::new(Location::parse(uri).unwrap(), StoragePolicy::default());
        spec.params.insert("endpoint_url".into(), format!("http://{endpoint}"));
        if uri.starts_with("oss") {
            spec.params.insert("presign_endpoint_url".into(), format!("http://{host}"));
        }
        spec.secrets.insert(keys.0.into(), Secret::new(KEY.into()));
        spec.secrets.insert(keys.1.into(), Secret::new(SECRET.into()));
        let url = Store::build(&spec)
            .unwrap()
            .presign(false, "a b.csv", Duration::from_secs(60))
            .await
            .unwrap()
            .url;
        assert!(url.expose().starts_with(&format!("http://bucket.{host}/a%20b.csv?")), "{}", url.expose());
        assert!(url.expose().contains(&format!("%2F{region}%2Fs3%2F")), "{}", url.expose());
        // The server checks the signature, and takes the bucket from the host.
        let client = reqwest::Client::builder().no_proxy().resolve(&format!("bucket.{host}"), address);
        let url = url.expose().replacen(host, &format!("{host}:{}", address.port()), 1);
        let request = client.build().unwrap().get(url).header("host", format!("bucket.{host}"));
        let response = request.send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "1\n", "{uri}");
    }
}

#[test]
fn keys_that_cannot_be_right_are_told_and_not_repeated() {
    let spec = |uri: &str, pairs: &[(&str, &str)]| {
        let mut spec = StorageSpec::new(Location::parse(uri).unwrap(), StoragePolicy::default());
        for (key, value) in pairs {
            spec.secrets.insert((*key).into(), Secret::new((*value).into()));
        }
        spec
    };
    let credential = |json: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, json);
    let user = credential(r#"{"type": "authorized_user", "client_id": "hush"}"#);
    let half = credential(r#"{"type": "service_account", "private_key": "hush"}"#);
    let bad = credential(r#"{"private_key": "hush", "private_key_id": "1", "client_email": "a@b"}"#);
    for (spec, expected) in [
        (spec("azblob://c/", &[]), "needs the name of its account"),
        (
            spec("azblob://c/", &[("account_name", "me"), ("account_key", "hush!")]),
            "ACCOUNT_KEY of the connection to container 'c'",
        ),
        (spec("azblob://c/", &[("account_name", "me.evil.test/")]), "ACCOUNT_NAME must be"),
        (spec("gcs://b/", &[("credential", "hush!")]), "CREDENTIAL is not base64"),
        (spec("gcs://b/", &[("credential", "aHVzaA==")]), "CREDENTIAL holds no JSON"),
        (spec("gcs://b/", &[("credential", &user)]), "type 'authorized_user', which are not supported"),
        (spec("gcs://b/", &[("credential", &half)]), "lacks the field private_key_id"),
        (spec("gcs://b/", &[("credential", &bad)]), "private key in CREDENTIAL"),
        (spec("oss://b/", &[]), "needs the endpoint of its region"),
        (spec("hf://o/r/", &[("token", "hush\n")]), "option TOKEN holds characters"),
        (spec("ipfs://docs/", &[]), "is not the CID"),
    ] {
        let error = Store::build(&spec).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected) && !text.contains("hush"), "{text}");
    }
    // Without keys they are read as public ones, never with the identity of this machine.
    for uri in ["gcs://b/", "s3://b/", "hf://o/r/"] {
        Store::build(&spec(uri, &[])).unwrap();
    }
}

#[test]
fn the_egress_policy_holds_for_the_endpoint_of_every_store() {
    for uri in [
        "s3://b/",
        "azblob://b/",
        "gcs://b/",
        "oss://b/",
        "cos://b/",
        "hf://o/r/",
        "ipfs://QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR/",
    ] {
        for endpoint in ["http://127.0.0.1:9", "https://169.254.169.254", "http://[::1]:9"] {
            let mut spec = StorageSpec::new(Location::parse(uri).unwrap(), StoragePolicy::default());
            spec.params.insert("endpoint_url".into(), endpoint.into());
            spec.params.insert("account_name".into(), "me".into());
            let error = Store::build(&spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{uri} at {endpoint}: {error}");
            assert!(error.to_string().contains("egress policy"), "{error}");
        }
    }
}
