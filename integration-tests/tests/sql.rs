//! The dialect, statement by statement: the scripts in `slt/`.

use stevedore_integration_tests::script::{run_folder, run_folder_over_azure, run_folder_over_s3};

#[tokio::test(flavor = "multi_thread")]
async fn databases_tables_connections_and_formats() {
    run_folder("catalog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_and_their_files() {
    run_folder("stages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_into_tables() {
    run_folder("copy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_into_locations() {
    run_folder("unload").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_select_and_settings() {
    run_folder("query").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_tasks() {
    run_folder("tasks").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_their_consumption() {
    run_folder("streams").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_update_and_merge() {
    run_folder("dml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions() {
    run_folder("transactions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_and_what_is_not_built() {
    run_folder("errors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_into_tables_over_s3() {
    run_folder_over_s3("copy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_and_their_files_over_s3() {
    run_folder_over_s3("stages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_into_locations_over_s3() {
    run_folder_over_s3("unload").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_over_s3() {
    run_folder_over_s3("errors").await;
}

/// Azurite comes from npm: `integration-tests/python/run` starts it and runs this one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite"]
async fn statements_on_files_over_azure() {
    for folder in ["copy", "stages", "unload", "errors"] {
        run_folder_over_azure(folder).await;
    }
}
