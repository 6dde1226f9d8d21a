//! Jobs of a cluster whose coordinators come and go: submitted under a key, and found by it wherever someone
//! answers.

use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_proto::v1;
use stevedore_proto::v1::JobPhase;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;

/// Whether it is over with a job.
pub fn has_ended(job: &v1::Job) -> bool {
    matches!(job.phase(), JobPhase::Committed | JobPhase::Aborted | JobPhase::Cancelled)
}

impl Cluster {
    /// Submits a statement through a coordinator and forgets about it.
    pub async fn submit(&self, coordinator: usize, sql: &str, key: &str) -> String {
        let client = self.client(coordinator).await;
        let request =
            v1::SubmitJobRequest { sql: sql.into(), idempotency_key: key.into(), ..Default::default() };
        client.jobs().submit_job(request).await.unwrap().into_inner().job_id
    }

    /// A job by its idempotency key, from any coordinator that answers.
    pub async fn find_job(&self, key: &str) -> Option<v1::Job> {
        for coordinator in 0..self.coordinators() {
            let ask = async {
                let client = Client::connect(self.url(coordinator)).await.ok()?;
                let request = v1::GetJobRequest { idempotency_key: key.into(), ..Default::default() };
                Some(client.jobs().get_job(request).await.ok()?.into_inner())
            };
            if let Ok(Some(job)) = timeout(Duration::from_secs(3), ask).await {
                return Some(job);
            }
        }
        None
    }

    /// The same once the job is as it should be, within `patience`.
    pub async fn find_job_until(
        &self,
        key: &str,
        patience: Duration,
        what: &str,
        reached: impl Fn(&v1::Job) -> bool,
    ) -> v1::Job {
        let start = Instant::now();
        let mut last = None;
        loop {
            if let Some(job) = self.find_job(key).await {
                if reached(&job) {
                    return job;
                }
                last = Some(job);
            }
            assert!(start.elapsed() < patience, "the job is not {what}: {last:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
