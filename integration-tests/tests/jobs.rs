//! Jobs as clients see them: submitted once, followed, cancelled, found again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "jobs/changes.rs"]
mod changes;
#[path = "jobs/evolution.rs"]
mod evolution;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use stevedore::client::Client;
use stevedore_common::ErrorKind;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::objectstore::{ACCESS_KEY, Operation, S3Server, SECRET_KEY};
use stevedore_integration_tests::oracle::Oracle;
use stevedore_integration_tests::{files, oracle, show};
use stevedore_proto::v1;
use stevedore_proto::v1::JobPhase;
use stevedore_status::error_of_status;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn run(client: &Client, sql: &str) -> Vec<Vec<String>> {
    show::rows(&client.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// An instance that packs every file into a slice of its own, with files and a table for them.
async fn instance_with_files(count: usize, rows: usize) -> TestInstance {
    let instance = TestInstance::start_with(|config| config.scheduling.slice_bytes = 1).await;
    for file in 0..count {
        files::write(&instance.files().join(format!("in/{file:04}.csv")), files::numbered_csv(file, rows));
    }
    let client = instance.client().await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    run(
        &client,
        &format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", instance.files().display()),
    )
    .await;
    instance
}

async fn submit(client: &Client, sql: &str, key: &str) -> v1::SubmitJobResponse {
    let request = v1::SubmitJobRequest { sql: sql.into(), idempotency_key: key.into(), ..Default::default() };
    client.jobs().submit_job(request).await.unwrap().into_inner()
}

/// The job's last state, and how many states a watcher saw on the way.
async fn watch(client: &Client, job_id: &str) -> (v1::Job, usize) {
    let watching = async {
        let mut states = client.watch(job_id).await.unwrap();
        let mut last = None;
        let mut seen = 0;
        while let Some(state) = states.next().await {
            last = Some(state.unwrap());
            seen += 1;
        }
        (last.unwrap(), seen)
    };
    timeout(PATIENCE, watching).await.expect("the watch ends with the job")
}

async fn get(client: &Client, job_id: &str) -> v1::Job {
    let request = v1::GetJobRequest { job_id: job_id.into(), ..Default::default() };
    client.jobs().get_job(request).await.unwrap().into_inner()
}

/// The job once it is as it should be.
async fn get_until(client: &Client, job_id: &str, reached: impl Fn(&v1::Job) -> bool) -> v1::Job {
    let start = Instant::now();
    loop {
        let job = get(client, job_id).await;
        if reached(&job) {
            return job;
        }
        assert!(start.elapsed() < PATIENCE, "the job does not get there: {job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A stage `held` over a bucket, whose server can hold the readers of its files.
async fn stage_in_s3(client: &Client) -> S3Server {
    let s3 = S3Server::start(&["bucket"]).await;
    let stage = format!(
        "CREATE STAGE held URL = 's3://bucket/' FILE_FORMAT = (TYPE = CSV) CONNECTION = (
         ENDPOINT_URL = '{}' ACCESS_KEY_ID = '{ACCESS_KEY}' SECRET_ACCESS_KEY = '{SECRET_KEY}')",
        s3.endpoint()
    );
    run(client, &stage).await;
    s3
}

async fn job_files(client: &Client, job_id: &str) -> Vec<v1::JobFile> {
    let mut files = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListJobFilesRequest { job_id: job_id.into(), page_size: 7, page_token };
        let page = client.jobs().list_job_files(request).await.unwrap().into_inner();
        files.extend(page.files);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return files;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_submitted_once_under_its_key_and_followed_to_its_end() {
    let instance = instance_with_files(20, 50).await;
    let client = instance.client().await;
    let copy = "COPY INTO t FROM @s/in/";
    let first = submit(&client, copy, "nightly-1").await;
    assert!(!first.existing);
    let again = submit(&client, copy, "nightly-1").await;
    assert_eq!((again.job_id.as_str(), again.existing), (first.job_id.as_str(), true));

    let (job, seen) = watch(&client, &first.job_id).await;
    assert!(seen >= 1);
    assert_eq!(job.phase(), JobPhase::Committed, "{job:?}");
    assert_eq!((job.rows_loaded, job.kind.as_str(), job.table.as_str()), (1_000, "copy", "default.t"));
    assert!(job.snapshot_id != 0 && job.ended_at_ms >= job.created_at_ms, "{job:?}");
    let progress = job.progress.unwrap();
    assert_eq!((progress.files_total, progress.files_done, progress.rows), (20, 20, 1_000));
    assert_eq!(progress.bytes_done, progress.bytes_total);

    // Found by its key, also by another client.
    let other = instance.client().await;
    let request = v1::GetJobRequest { idempotency_key: "nightly-1".into(), ..Default::default() };
    assert_eq!(other.jobs().get_job(request).await.unwrap().into_inner().job_id, first.job_id);
    // The key still names the first job, whatever came since.
    assert!(submit(&client, copy, "nightly-1").await.existing);

    let files = job_files(&client, &first.job_id).await;
    assert_eq!(files.len(), 20);
    assert!(files.iter().all(|file| file.status == "loaded" && file.rows_loaded == 50), "{files:?}");

    // A second job over the same files loads nothing, and says why.
    let second = submit(&client, copy, "nightly-2").await;
    let (job, _) = watch(&client, &second.job_id).await;
    assert_eq!((job.phase(), job.rows_loaded), (JobPhase::Committed, 0));
    assert_eq!(job.skipped.get("already_loaded"), Some(&20), "{:?}", job.skipped);
    let files = job_files(&client, &second.job_id).await;
    assert_eq!(files.len(), 20);
    assert!(files.iter().all(|file| file.status == "skipped_already_loaded"), "{files:?}");

    let list = v1::ListJobsRequest { page_size: 1, ..Default::default() };
    let page = client.jobs().list_jobs(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.jobs.len(), 1);
    let rest = v1::ListJobsRequest { page_token: page.next_page_token.clone(), ..list };
    let rest = client.jobs().list_jobs(rest).await.unwrap().into_inner();
    let ids: Vec<&str> = page.jobs.iter().chain(&rest.jobs).map(|job| job.job_id.as_str()).collect();
    assert_eq!(ids, [second.job_id.as_str(), first.job_id.as_str()]);
    let live = v1::ListJobsRequest { only_live: true, ..Default::default() };
    assert!(client.jobs().list_jobs(live).await.unwrap().into_inner().jobs.is_empty());

    oracle::assert_exactly_once(instance.url(), "t", 20, 50).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_job_and_what_is_not_known_is_told() {
    let instance = instance_with_files(1, 1).await;
    let client = instance.client().await;
    let ask = |sql: &str| v1::SubmitJobRequest { sql: sql.into(), ..Default::default() };
    let error = client.jobs().submit_job(ask("SHOW TABLES")).await.unwrap_err();
    assert!(error.message().contains("SHOW TABLES does not run as a job"), "{error:?}");
    let error = client.jobs().submit_job(ask("COPY INTO nothing FROM @s")).await.unwrap_err();
    let error = error_of_status(&error);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("table 'default.nothing' does not exist"), "{error}");
    let unknown = v1::GetJobRequest { idempotency_key: "never".into(), ..Default::default() };
    let error = client.jobs().get_job(unknown).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);

    // A job that fails says why, and keeps nothing.
    files::write(&instance.files().join("bad/x.csv"), "1,1,ok\nx,2,bad\n");
    let job = submit(&client, "COPY INTO t FROM @s/bad/", "bad").await;
    let (job, _) = watch(&client, &job.job_id).await;
    assert_eq!(job.phase(), JobPhase::Aborted);
    let error = job.error.unwrap();
    assert_eq!(error.kind, "bad_data");
    assert!(error.message.contains("file 'bad/x.csv', line 2: invalid value 'x'"), "{error:?}");
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["0"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_nothing_and_its_files_can_be_loaded_again() {
    let instance = instance_with_files(200, 20).await;
    let client = instance.client().await;
    let job = submit(&client, "COPY INTO t FROM @s/in/", "").await;
    let request = v1::CancelJobRequest { job_id: job.job_id.clone() };
    let cancelled = client.jobs().cancel_job(request.clone()).await.unwrap().into_inner();
    let (ended, _) = watch(&client, &job.job_id).await;
    assert_eq!(ended.phase(), cancelled.phase());
    // Cancelling and committing race; the first wins. With 200 slices to go it is the cancellation.
    assert_eq!(ended.phase(), JobPhase::Cancelled);
    assert!(oracle::numbered_rows(instance.url(), "t").await.is_empty());
    // Cancelling what ended changes nothing.
    let again = client.jobs().cancel_job(request).await.unwrap().into_inner();
    assert_eq!(again.phase(), JobPhase::Cancelled);

    let loaded = timeout(PATIENCE, run(&client, "COPY INTO t FROM @s/in/")).await.unwrap();
    assert_eq!(loaded.len(), 200);
    oracle::assert_exactly_once(instance.url(), "t", 200, 20).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_at_once_load_each_file_once_and_say_what_the_other_had() {
    let instance = instance_with_files(60, 20).await;
    let client = instance.client().await;
    let (a, b) = tokio::join!(
        submit(&client, "COPY INTO t FROM @s/in/", "a"),
        submit(&client, "COPY INTO t FROM @s/in/", "b")
    );
    let ((first, _), (second, _)) = tokio::join!(watch(&client, &a.job_id), watch(&client, &b.job_id));
    assert_eq!((first.phase(), second.phase()), (JobPhase::Committed, JobPhase::Committed));
    assert_eq!(first.rows_loaded + second.rows_loaded, 60 * 20);
    oracle::assert_exactly_once(instance.url(), "t", 60, 20).await;

    let (files_a, files_b) = (job_files(&client, &a.job_id).await, job_files(&client, &b.job_id).await);
    for (files, other) in [(&files_a, &b.job_id), (&files_b, &a.job_id)] {
        assert_eq!(files.len(), 60);
        for file in files.iter() {
            match file.status.as_str() {
                "loaded" => assert_eq!(file.rows_loaded, 20),
                "skipped_claimed" => assert_eq!(&file.claimed_by, other),
                // One of them was done before the other came to that file.
                "skipped_already_loaded" => {}
                status => panic!("{} is {status}", file.path),
            }
        }
    }
    let loaded = |files: &[v1::JobFile]| files.iter().filter(|file| file.status == "loaded").count();
    assert_eq!(loaded(&files_a) + loaded(&files_b), 60);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_running_job_has_claimed_is_left_to_it_and_named_with_it() {
    let instance = instance_with_files(0, 0).await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    let write = |file: usize| {
        files::write(&s3.folder(&format!("bucket/in/{file:04}.csv")), files::numbered_csv(file, 5));
    };
    (0..10).for_each(write);
    // The first job holds its files as long as it cannot read them.
    s3.hold(Operation::Read, "/bucket/in/", 0);
    let first = submit(&client, "COPY INTO t FROM @held/in/", "first").await.job_id;
    s3.wait_until_held(1).await;
    get_until(&client, &first, |job| job.phase() == JobPhase::Running).await;

    // The second one has nothing to do, and says whom it left its files to.
    let second = submit(&client, "COPY INTO t FROM @held/in/", "second").await.job_id;
    let (job, _) = watch(&client, &second).await;
    assert_eq!((job.phase(), job.rows_loaded), (JobPhase::Committed, 0));
    assert_eq!(job.skipped.get("claimed"), Some(&10), "{:?}", job.skipped);
    let of_second = job_files(&client, &second).await;
    assert_eq!(of_second.len(), 10);
    for file in &of_second {
        assert_eq!((file.status.as_str(), &file.claimed_by), ("skipped_claimed", &first), "{}", file.path);
    }
    assert_eq!(get(&client, &first).await.phase(), JobPhase::Running);

    s3.release();
    let (job, _) = watch(&client, &first).await;
    assert_eq!((job.phase(), job.rows_loaded), (JobPhase::Committed, 50));
    // What was left to another job is not forgotten: once that has loaded it, it is loaded.
    assert!(run(&client, "COPY INTO t FROM @held/in/").await.is_empty());
    write(10);
    assert_eq!(run(&client, "COPY INTO t FROM @held/in/").await.len(), 1);
    oracle::assert_exactly_once(instance.url(), "t", 11, 5).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_stands_for_one_statement() {
    let instance = instance_with_files(3, 5).await;
    let client = instance.client().await;
    let copy = "COPY INTO t FROM @s/in/";
    let first = submit(&client, copy, "nightly").await;
    // Another statement under the key of a job that runs, and of one that has ended.
    for ended in [false, true] {
        if ended {
            watch(&client, &first.job_id).await;
        }
        for sql in ["COPY INTO t FROM @s/in/ FORCE = TRUE", "INSERT INTO t VALUES (9, 9, 'x')"] {
            let request = v1::SubmitJobRequest {
                sql: sql.into(),
                idempotency_key: "nightly".into(),
                ..Default::default()
            };
            let error = error_of_status(&client.jobs().submit_job(request).await.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            let text = error.to_string();
            assert!(text.contains("'nightly'") && text.contains(&first.job_id), "{text}");
            assert!(text.contains("another statement"), "{text}");
        }
        assert!(submit(&client, copy, "nightly").await.existing, "the statement itself finds its job");
    }
    oracle::assert_exactly_once(instance.url(), "t", 3, 5).await;
    let all = client.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.jobs.len(), 1, "{all:?}");
    instance.stop().await;
}

/// The data files that lie in the warehouse, whatever refers to them.
fn files_in(warehouse: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(warehouse).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_in(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_copy_wrote_is_swept_and_what_others_committed_stays() {
    const FILES: usize = 20;
    let instance = TestInstance::start_with(|config| {
        config.scheduling.slice_bytes = 1;
        // What is left behind is swept when this time is over after the end.
        config.scheduling.lease_ms = 2_000;
        config.scheduling.heartbeat_ms = 200;
    })
    .await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    for file in 0..5 {
        files::write(&s3.folder(&format!("bucket/good/{file:04}.csv")), files::numbered_csv(file, 10));
    }
    assert_eq!(run(&client, "COPY INTO t FROM @held/good/").await.len(), 5);
    let warehouse = instance.data().join("warehouse");
    let committed = files_in(&warehouse);
    assert!(!committed.is_empty());

    // All slices but the last are done, and have written; the last one meets the bad row.
    for file in 0..FILES {
        files::write(&s3.folder(&format!("bucket/bad/{file:04}.csv")), files::numbered_csv(100 + file, 10));
    }
    files::write(&s3.folder(&format!("bucket/bad/{FILES:04}.csv")), "200,0,fine\nx,1,bad\n");
    s3.hold(Operation::Read, &format!("/bucket/bad/{FILES:04}.csv"), 0);
    let job = submit(&client, "COPY INTO t FROM @held/bad/ ON_ERROR = ABORT", "bad").await.job_id;
    get_until(&client, &job, |job| {
        job.progress.as_ref().is_some_and(|progress| progress.files_done >= FILES as u64)
    })
    .await;
    let of_job = |files: &[PathBuf]| {
        let named = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&job);
        files.iter().filter(named).count()
    };
    // A file is done when its rows are; the data file follows.
    let start = Instant::now();
    while of_job(&files_in(&warehouse)) < FILES {
        assert!(start.elapsed() < PATIENCE, "each slice writes its file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Aborted);
    assert_eq!(ended.error.unwrap().kind, "bad_data");
    let start = Instant::now();
    while files_in(&warehouse) != committed {
        let left = files_in(&warehouse);
        assert!(committed.iter().all(|file| left.contains(file)), "a committed file was swept: {left:?}");
        assert!(start.elapsed() < PATIENCE, "{} files of the failed job are still there", of_job(&left));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut referenced = Oracle::new(instance.url()).data_files("t").await;
    referenced.sort();
    assert_eq!(referenced, committed);
    oracle::assert_exactly_once(instance.url(), "t", 5, 10).await;

    // The corrected file, and all others, load now.
    files::write(&s3.folder(&format!("bucket/bad/{FILES:04}.csv")), "200,0,fine\n");
    assert_eq!(run(&client, "COPY INTO t FROM @held/bad/").await.len(), FILES + 1);
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["251"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_left_out_is_held_until_the_commit_and_free_afterwards() {
    let instance = TestInstance::start_with(|config| config.scheduling.slice_bytes = 1).await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    files::write(&s3.folder("bucket/in/0000.csv"), files::numbered_csv(0, 10));
    files::write(&s3.folder("bucket/in/0001.csv"), "1,0,fine\nx,1,bad\n");
    files::write(&s3.folder("bucket/in/0002.csv"), files::numbered_csv(2, 10));

    // The bad file is judged; a slice of the same job still waits.
    s3.hold(Operation::Read, "/bucket/in/0002.csv", 0);
    let job = submit(&client, "COPY INTO t FROM @held/in/ ON_ERROR = skip_file", "skips").await.job_id;
    get_until(&client, &job, |job| job.progress.as_ref().is_some_and(|progress| progress.files_done >= 2))
        .await;
    assert!(run(&client, "COPY INTO t FROM @held/in/ FILES = ('0001.csv')").await.is_empty());
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["0"]]);
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Committed);

    let listed = job_files(&client, &job).await;
    let of = |name: &str| {
        let file = listed.iter().find(|file| file.path.ends_with(name)).unwrap();
        (file.status.as_str(), file.rows_loaded, file.errors_seen, file.first_error_line)
    };
    assert_eq!(of("0000.csv"), ("loaded", 10, 0, 0));
    assert_eq!(of("0001.csv"), ("failed", 0, 1, 2));
    assert_eq!(of("0002.csv"), ("loaded", 10, 0, 0));
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["20"]]);

    files::write(&s3.folder("bucket/in/0001.csv"), files::numbered_csv(1, 10));
    assert_eq!(run(&client, "COPY INTO t FROM @held/in/ ON_ERROR = skip_file").await.len(), 1);
    oracle::assert_exactly_once(instance.url(), "t", 3, 10).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_it_was_found_good_is_left_out_and_nothing_is_doubled() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    files::write(&s3.folder("bucket/in/0000.csv"), files::numbered_csv(0, 10));
    files::write(&s3.folder("bucket/in/0002.csv"), files::numbered_csv(2, 10));
    // Too large, once unpacked, to be held until it is judged; small enough for one request.
    let row = format!("1,0,{}\n", "long ".repeat(100));
    let large = files::gzip(row.repeat((80 << 20) / row.len()).as_bytes());
    assert!(large.len() < 1 << 20, "{}", large.len());
    files::write(&s3.folder("bucket/in/0001.csv.gz"), large);

    // Read once to be judged; held when it is read to be loaded.
    s3.hold(Operation::Read, "/bucket/in/0001.csv.gz", 1);
    let job = submit(&client, "COPY INTO t FROM @held/in/ ON_ERROR = skip_file", "changes").await.job_id;
    timeout(PATIENCE, s3.wait_until_held(1)).await.unwrap();
    files::write(&s3.folder("bucket/in/0001.csv.gz"), files::gzip(files::numbered_csv(1, 10).as_bytes()));
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Committed, "{:?}", ended.error);
    let listed = job_files(&client, &job).await;
    let statuses: Vec<(&str, u64)> =
        listed.iter().map(|file| (file.status.as_str(), file.rows_loaded)).collect();
    assert_eq!(statuses, [("loaded", 10), ("failed", 0), ("loaded", 10)], "{listed:?}");
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["20"]]);

    // What is there now is another file, and loads.
    assert_eq!(run(&client, "COPY INTO t FROM @held/in/ ON_ERROR = skip_file").await.len(), 1);
    oracle::assert_exactly_once(instance.url(), "t", 3, 10).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disappears_does_not_harm_its_job() {
    let instance = instance_with_files(40, 20).await;
    let watcher = instance.client().await;
    let job_id = {
        let client = instance.client().await;
        let statement = client.prepare("COPY INTO t FROM @s/in/").await.unwrap();
        let job_id = statement.job_id.clone().unwrap();
        // Asks for the rows, and goes away as soon as the job exists.
        let running = tokio::spawn(async move { client.run(&statement).await.map(|_| ()) });
        let exists = async {
            let request = v1::GetJobRequest { job_id: job_id.clone(), ..Default::default() };
            while watcher.jobs().get_job(request.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, exists).await.unwrap();
        running.abort();
        let _ = running.await;
        job_id
    };
    let (job, _) = watch(&watcher, &job_id).await;
    assert_eq!((job.phase(), job.rows_loaded), (JobPhase::Committed, 800));
    assert_eq!(get(&watcher, &job_id).await.rows_loaded, 800);
    oracle::assert_exactly_once(instance.url(), "t", 40, 20).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_everything_again() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().canonicalize().unwrap().join("kept");
    let files_root = root.path().canonicalize().unwrap().join("files");
    files::write(&files_root.join("in/a.csv"), files::numbered_csv(0, 10));
    let start = || {
        let (data, files_root) = (data.clone(), files_root.clone());
        TestInstance::start_with(move |config| {
            config.data_dir = data;
            config.allowed_fs_roots = vec![files_root];
        })
    };
    let instance = start().await;
    let client = instance.client().await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    run(
        &client,
        &format!("CREATE STAGE s URL = 'fs://{}/' FILE_FORMAT = (TYPE = CSV)", files_root.display()),
    )
    .await;
    assert_eq!(run(&client, "COPY INTO t FROM @s/in/").await.len(), 1);
    drop(client);
    instance.stop().await;

    let instance = start().await;
    let client = instance.client().await;
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["10"]]);
    assert!(run(&client, "COPY INTO t FROM @s/in/").await.is_empty());
    files::write(&files_root.join("in/b.csv"), files::numbered_csv(1, 10));
    assert_eq!(run(&client, "COPY INTO t FROM @s/in/").await.len(), 1);
    oracle::assert_exactly_once(instance.url(), "t", 2, 10).await;
    instance.stop().await;
}

/// A COPY of ten files that runs, none of its slices done, and the server that holds it.
async fn held_copy(instance: &TestInstance, client: &Client, sql: &str) -> (S3Server, String) {
    let s3 = stage_in_s3(client).await;
    for file in 0..10 {
        files::write(&s3.folder(&format!("bucket/in/{file:04}.csv")), files::numbered_csv(file, 5));
    }
    s3.hold(Operation::Read, "/bucket/in/", 0);
    let job = submit(client, sql, "held").await.job_id;
    s3.wait_until_held(1).await;
    get_until(client, &job, |job| job.phase() == JobPhase::Running).await;
    assert!(!instance.url().is_empty());
    (s3, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_another_client_adds_during_a_copy_is_null_in_its_rows() {
    let instance = instance_with_files(0, 0).await;
    let client = instance.client().await;
    let (s3, job) = held_copy(&instance, &client, "COPY INTO t FROM @held/in/").await;
    // Between the plan and the commit, before most slices have begun.
    run(&instance.client().await, "ALTER TABLE t ADD COLUMN late INT").await;
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!((ended.phase(), ended.rows_loaded), (JobPhase::Committed, 50), "{:?}", ended.error);
    let counted = run(&client, "SELECT count(*), count(late), count(payload) FROM t").await;
    assert_eq!(counted, [["50", "0", "50"]]);
    assert!(run(&client, "COPY INTO t (file, row, payload) FROM @held/in/").await.is_empty());
    oracle::assert_exactly_once(instance.url(), "t", 10, 5).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_rows_of_a_copy_cannot_do_without_fails_it_and_loses_nothing() {
    let instance = instance_with_files(0, 0).await;
    let client = instance.client().await;
    let (s3, job) = held_copy(&instance, &client, "COPY INTO t (file, row, payload) FROM @held/in/").await;
    // The table is empty, so a column may be NOT NULL; the rows on their way have no value for it.
    run(&instance.client().await, "ALTER TABLE t ADD COLUMN late INT NOT NULL DEFAULT 7").await;
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Aborted);
    let error = format!("{:?}", ended.error);
    assert!(error.contains("column 'late' (NOT NULL) was added while the rows were written"), "{error}");
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["0"]]);
    // The same statement again is planned for the table as it is now.
    assert_eq!(run(&client, "COPY INTO t (file, row, payload) FROM @held/in/").await.len(), 10);
    assert_eq!(run(&client, "SELECT count(*), sum(late) FROM t").await, [["50", "350"]]);
    assert!(run(&client, "COPY INTO t (file, row, payload) FROM @held/in/").await.is_empty());
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_changes_while_it_is_read_loses_and_doubles_nothing() {
    // More than the two pages of a thousand that a listing comes in.
    const LISTED: usize = 2_100;
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let s3 = stage_in_s3(&client).await;
    run(&client, "CREATE TABLE t (file INT, row INT, payload STRING)").await;
    let path = |file: usize| s3.folder(&format!("bucket/in/{file:04}.csv"));
    let write = |file: usize| files::write(&path(file), files::numbered_csv(file, 1));
    (0..LISTED).for_each(write);
    // Held between its pages: one that comes later in order goes, one comes, and one before all others comes.
    s3.hold(Operation::List, "/bucket", 1);
    let job = submit(&client, "COPY INTO t FROM @held/in/", "changes").await.job_id;
    timeout(PATIENCE, s3.wait_until_held(1)).await.unwrap();
    std::fs::remove_file(path(LISTED - 1)).unwrap();
    write(LISTED);
    files::write(&s3.folder("bucket/in/0000-before.csv"), files::numbered_csv(LISTED - 1, 1));
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Committed, "{:?}", ended.error);
    // What the listing had passed is found by the next COPY, and nothing else.
    let (first, next) = (ended.rows_loaded as usize, run(&client, "COPY INTO t FROM @held/in/").await.len());
    assert_eq!(first + next, LISTED + 1, "{first} and {next}");
    assert!(run(&client, "COPY INTO t FROM @held/in/").await.is_empty());
    oracle::assert_exactly_once(instance.url(), "t", LISTED + 1, 1).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_after_it_was_listed_fails_the_copy_by_its_name() {
    let instance = instance_with_files(0, 0).await;
    let client = instance.client().await;
    let (s3, job) = held_copy(&instance, &client, "COPY INTO t FROM @held/in/").await;
    std::fs::remove_file(s3.folder("bucket/in/0007.csv")).unwrap();
    s3.release();
    let (ended, _) = watch(&client, &job).await;
    assert_eq!(ended.phase(), JobPhase::Aborted);
    assert!(format!("{:?}", ended.error).contains("in/0007.csv"), "{:?}", ended.error);
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["0"]]);
    assert_eq!(run(&client, "COPY INTO t FROM @held/in/").await.len(), 9);
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["45"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_validation_leave_a_running_job_its_files_and_claim_none() {
    let instance = instance_with_files(0, 0).await;
    let client = instance.client().await;
    let (s3, job) = held_copy(&instance, &client, "COPY INTO t FROM @held/in/").await;
    let explained = run(&client, "EXPLAIN COPY INTO t FROM @held/in/").await;
    let claimed: Vec<_> = explained.iter().filter(|row| row[0] == "file").collect();
    assert_eq!(claimed.len(), 10, "{explained:?}");
    assert!(
        claimed.iter().all(|row| row[2] == "claimed" && row[4] == format!("by job {job}")),
        "{claimed:?}"
    );
    // Another job has them: there is nothing to validate.
    assert!(run(&client, "COPY INTO t FROM @held/in/ VALIDATION_MODE = RETURN_ROWS").await.is_empty());
    s3.release();
    let rows = "COPY INTO t FROM @held/in/ FORCE = TRUE VALIDATION_MODE = RETURN_7_ROWS";
    assert_eq!(run(&client, rows).await.len(), 7);
    let (ended, _) = watch(&client, &job).await;
    assert_eq!((ended.phase(), ended.rows_loaded), (JobPhase::Committed, 50), "{:?}", ended.error);
    let jobs = client.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1, "no other job was made: {jobs:?}");
    let error = client
        .jobs()
        .submit_job(v1::SubmitJobRequest { sql: rows.into(), ..Default::default() })
        .await
        .map(|_| ())
        .map_err(|status| error_of_status(&status).to_string());
    assert!(error.clone().is_err_and(|error| error.contains("VALIDATION_MODE loads nothing")), "{error:?}");
    oracle::assert_exactly_once(instance.url(), "t", 10, 5).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_rows_are_jobs_that_count_them_and_run_once() {
    let instance = instance_with_files(1, 10).await;
    let client = instance.client().await;
    run(&client, "COPY INTO t FROM @s/in/").await;
    run(&client, "CREATE STREAM changes ON TABLE t APPEND_ONLY = FALSE").await;
    run(&client, "CREATE TABLE seen (row INT, action STRING)").await;
    let counts = |job: &v1::Job| (job.rows_loaded, job.rows_updated, job.rows_deleted);
    for (sql, kind, expected) in [
        ("DELETE FROM t WHERE row < 3", "delete", (0, 0, 3)),
        ("UPDATE t SET payload = 'x' WHERE row < 5", "update", (0, 2, 0)),
        (
            "MERGE INTO t USING (SELECT 5 AS r UNION ALL SELECT 6 UNION ALL SELECT 50) AS u ON t.row = u.r
             WHEN MATCHED AND u.r = 5 THEN DELETE WHEN MATCHED THEN UPDATE SET payload = 'y'
             WHEN NOT MATCHED THEN INSERT (file, row, payload) VALUES (0, u.r, 'new')",
            "merge",
            (1, 1, 1),
        ),
        ("INSERT INTO seen SELECT row, change$action FROM changes", "insert", (11, 0, 0)),
    ] {
        let first = submit(&client, sql, kind).await;
        let (job, _) = watch(&client, &first.job_id).await;
        assert_eq!((job.phase(), job.kind.as_str()), (JobPhase::Committed, kind), "{job:?}");
        assert_eq!(counts(&job), expected, "{sql}");
        let again = submit(&client, sql, kind).await;
        assert_eq!((again.job_id.as_str(), again.existing), (first.job_id.as_str(), true));
    }
    assert_eq!(run(&client, "SELECT count(*) FROM changes").await, [["0"]]);
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["7"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_readers_of_a_stream_at_the_same_time_each_row_reaches_one() {
    const READERS: usize = 6;
    const ROUNDS: usize = 5;
    let instance = instance_with_files(1, 1).await;
    let client = instance.client().await;
    run(&client, "CREATE TABLE numbers (n INT)").await;
    run(&client, "CREATE STREAM s ON TABLE numbers").await;
    run(&client, "CREATE TABLE seen (n INT)").await;
    let mut refused = 0;
    for round in 0..ROUNDS {
        run(&client, &format!("INSERT INTO numbers VALUES ({round}), ({})", round + 100)).await;
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..READERS {
            let client = instance.client().await;
            let sql = match reader % 2 {
                0 => "INSERT INTO seen SELECT n FROM s",
                _ => "MERGE INTO seen USING s ON seen.n = s.n WHEN NOT MATCHED THEN INSERT (n) VALUES (s.n)",
            };
            readers.spawn(async move { client.query(sql).await });
        }
        while let Some(reader) = timeout(PATIENCE, readers.join_next()).await.expect("the statements end") {
            if let Err(error) = reader.unwrap() {
                assert!(error.is_retryable(), "{error}");
                assert!(error.to_string().contains("consumed by another statement"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "readers never met");
    assert!(refused <= ROUNDS * (READERS - 1), "in each round somebody read");
    assert_eq!(run(&client, "SELECT count(*), count(DISTINCT n) FROM seen").await, [["10", "10"]]);
    assert_eq!(run(&client, "SELECT count(*) FROM s").await, [["0"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_is_a_job_that_runs_once_however_often_it_is_asked_for() {
    let instance = instance_with_files(3, 50).await;
    let client = instance.client().await;
    run(&client, "COPY INTO t FROM @s/in/").await;
    run(&client, "CREATE STAGE out").await;
    let unload = "COPY INTO @out FROM t FILE_FORMAT = (TYPE = NDJSON)";
    let first = submit(&client, unload, "export-1").await;
    let (job, _) = watch(&client, &first.job_id).await;
    assert_eq!(
        (job.phase(), job.kind.as_str(), job.rows_loaded),
        (JobPhase::Committed, "unload", 150),
        "{job:?}"
    );
    let again = submit(&client, unload, "export-1").await;
    assert_eq!((again.job_id.as_str(), again.existing), (first.job_id.as_str(), true));

    let statement = client.prepare("COPY INTO @out/ticket/ FROM t DETAILED_OUTPUT = true").await.unwrap();
    let mut results = Vec::new();
    for _ in 0..2 {
        let rows = client.run(&statement).await.unwrap();
        let batches: Vec<_> = futures::TryStreamExt::try_collect(rows.batches).await.unwrap();
        results.push(show::rows(&batches));
    }
    assert_eq!(results[0], results[1]);
    assert!(results[0][0][0].contains(statement.job_id.as_deref().unwrap()), "{results:?}");
    // One file a slice, of which each has one of the table's three data files; both unloads once.
    let names = run(&client, "SELECT name FROM list_stage(location => '@out')").await;
    assert_eq!((results[0].len(), names.len()), (3, 6), "{names:?}");
    assert_eq!(run(&client, "SELECT count(*) FROM @out/ticket/").await, [["150"]]);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_broke_off_is_gone_on_with_and_never_ends_in_a_damaged_file() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    run(&client, "CREATE STAGE s").await;
    let content: Vec<u8> = (0..24u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    files::write(&instance.files().join("up/large.bin"), &content);
    let transfer = |sql: String| {
        let client = client.clone();
        async move {
            let statement = stevedore::transfer::of_statement(&sql).expect("PUT or GET");
            stevedore::transfer::run(&client, &statement, false).await.map(|batch| show::rows(&[batch]))
        }
    };
    transfer(format!("PUT fs://{}/up/large.bin @s", instance.files().display())).await.unwrap();

    let down = instance.files().join("down");
    let get = format!("GET @s fs://{}/", down.display());
    let unfinished = || -> Option<(PathBuf, u64)> {
        let entry = std::fs::read_dir(&down)
            .ok()?
            .flatten()
            .find(|e| e.file_name().to_string_lossy().starts_with('.'))?;
        Some((entry.path(), entry.metadata().ok()?.len()))
    };
    for damaged in [false, true] {
        let getting = tokio::spawn(transfer(get.clone()));
        let part = loop {
            match unfinished() {
                Some((path, size)) if size > 1 << 20 => break path,
                _ if getting.is_finished() => panic!("the transfer ended before it could be broken off"),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        getting.abort();
        assert!(getting.await.unwrap_err().is_cancelled());
        assert!(!down.join("large.bin").exists());
        if damaged {
            let mut bytes = std::fs::read(&part).unwrap();
            bytes[0] ^= 1;
            std::fs::write(&part, bytes).unwrap();
        }
        let rows = transfer(get.clone()).await.unwrap();
        assert_eq!(rows[0][1], "SUCCESS");
        assert!(std::fs::read(down.join("large.bin")).unwrap() == content, "damaged: {damaged}");
        assert_eq!(unfinished(), None);
        std::fs::remove_dir_all(&down).unwrap();
    }
    instance.stop().await;
}

/// Statements that change rows of one table at once, while others add rows: each has its effect once.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_of_rows_each_happen_once() {
    const WRITERS: i32 = 4;
    const ROUNDS: i32 = 5;
    let instance = instance_with_files(10, 40).await;
    let client = instance.client().await;
    run(&client, "CREATE TABLE counters (id INT, n INT)").await;
    // Two writers share a data file.
    run(&client, "INSERT INTO counters VALUES (0, 0), (1, 0)").await;
    run(&client, "INSERT INTO counters VALUES (2, 0), (3, 0)").await;
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..WRITERS {
        let client = instance.client().await;
        tasks.spawn(async move {
            let mut done = 0;
            while done < ROUNDS {
                match client.query(&format!("UPDATE counters SET n = n + 1 WHERE id = {id}")).await {
                    Ok(batches) => {
                        assert_eq!(show::rows(&batches), [["1"]]);
                        done += 1;
                    }
                    // Others were faster each time: nothing was changed.
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        });
    }
    let adding = instance.client().await;
    tasks.spawn(async move {
        for n in 0..ROUNDS {
            let rows = run(&adding, &format!("INSERT INTO counters VALUES (100, {n})")).await;
            assert_eq!(rows, [["1"]]);
        }
    });
    while let Some(task) = timeout(PATIENCE, tasks.join_next()).await.expect("the statements end") {
        task.unwrap();
    }
    let rows = run(&client, "SELECT id, n FROM counters WHERE id < 100 ORDER BY id").await;
    let expected: Vec<Vec<String>> =
        (0..WRITERS).map(|id| vec![id.to_string(), ROUNDS.to_string()]).collect();
    assert_eq!(rows, expected);
    let added = run(&client, "SELECT count(*), sum(n) FROM counters WHERE id = 100").await;
    assert_eq!(added, [[ROUNDS.to_string(), (0..ROUNDS).sum::<i32>().to_string()]]);

    // A load that runs meanwhile loses nothing, and none of its rows is changed by what began before.
    let copying = instance.client().await;
    let copy = tokio::spawn(async move { run(&copying, "COPY INTO t FROM @s/in/").await });
    let mut deleted = 0;
    while !copy.is_finished() {
        let counts = run(&client, "DELETE FROM t WHERE row % 2 = 0").await;
        deleted += counts[0][0].parse::<u32>().unwrap();
    }
    assert_eq!(copy.await.unwrap().len(), 10);
    let counts = run(&client, "DELETE FROM t WHERE row % 2 = 0").await;
    assert_eq!(deleted + counts[0][0].parse::<u32>().unwrap(), 200);
    assert_eq!(run(&client, "SELECT count(*), count(DISTINCT row) FROM t").await, [["200", "20"]]);
    // What was loaded stays known.
    assert!(run(&client, "COPY INTO t FROM @s/in/").await.is_empty());
    instance.stop().await;
}

/// A change of rows as a job: it has a kind, is found under its key, and does not run again.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_rows_is_a_job_that_runs_once_under_its_key() {
    let instance = instance_with_files(3, 10).await;
    let client = instance.client().await;
    run(&client, "COPY INTO t FROM @s/in/").await;
    let delete = "DELETE FROM t WHERE file = 1";
    let first = submit(&client, delete, "clean-1").await;
    let (job, _) = watch(&client, &first.job_id).await;
    assert_eq!(
        (job.phase(), job.kind.as_str(), job.table.as_str()),
        (JobPhase::Committed, "delete", "default.t")
    );
    assert!(submit(&client, delete, "clean-1").await.existing);
    assert_eq!(run(&client, "SELECT count(*) FROM t").await, [["20"]]);
    let update = submit(&client, "UPDATE t SET payload = 'x' WHERE row < 5", "clean-2").await;
    let (job, _) = watch(&client, &update.job_id).await;
    assert_eq!((job.phase(), job.kind.as_str()), (JobPhase::Committed, "update"));
    assert_eq!(run(&client, "SELECT count(*) FROM t WHERE payload = 'x'").await, [["10"]]);
    instance.stop().await;
}
