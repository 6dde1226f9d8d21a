//! An embedded instance with folders of its own: the quickest thing to talk to.

use std::path::{Path, PathBuf};

use stevedore::client::Client;
use stevedore::instance::{Instance, InstanceConfig, no_metrics};
use tempfile::TempDir;

/// A running embedded instance.
pub struct TestInstance {
    instance: Option<Instance>,
    url: String,
    data: PathBuf,
    files: PathBuf,
    // Last, so that the folders outlive what writes to them.
    _root: TempDir,
}

impl TestInstance {
    /// Starts one with default sizes and times, that may read `fs://` below [`TestInstance::files`] and
    /// servers on loopback.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with the configuration changed.
    pub async fn start_with(change: impl FnOnce(&mut InstanceConfig)) -> Self {
        stevedore_common::telemetry::install_crypto_provider();
        let root = tempfile::tempdir().unwrap();
        // Listings show canonical paths.
        let base = root.path().canonicalize().unwrap();
        let (data, files) = (base.join("data"), base.join("files"));
        std::fs::create_dir_all(&files).unwrap();
        let mut config = InstanceConfig::new(data.clone());
        config.allowed_fs_roots = vec![files.clone()];
        config.allow_private_network = true;
        change(&mut config);
        let instance = Instance::start(config, no_metrics()).await.unwrap();
        Self { url: instance.url(), instance: Some(instance), data, files, _root: root }
    }

    /// A client with a session of its own.
    pub async fn client(&self) -> Client {
        Client::connect(&self.url).await.unwrap()
    }

    /// The client port as a URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder that stages may name.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops it in an orderly way.
    pub async fn stop(mut self) {
        if let Some(instance) = self.instance.take() {
            instance.stop().await.unwrap();
        }
    }
}
