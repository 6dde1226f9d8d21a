//! Failures of tasks, told to webhooks: at least once, with retries, under the egress policy.
//!
//! A failure stays in the state until a webhook has taken it, or a day has passed. Each try has a deadline, and
//! tries run beside everything else: a webhook that hangs holds up nobody but itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{TaskRun, derived_id};
use stevedore_common::{Error, Result};
use stevedore_state::command::Command;
use stevedore_state::tasks::{self, Notification, NotificationIntegration, Run, TaskCommand};
use stevedore_state::{catalog, view::ReadView};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use crate::engine::{Engine, webhook_owner};
use crate::stores::Stores;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_AHEAD: usize = 256;
const AT_ONCE: usize = 16;
/// One try, from the name's resolution to the answer's head.
const DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const GIVE_UP_AFTER_MS: i64 = 24 * 3600 * 1000;

/// What a try came to.
enum Outcome {
    /// Told, or not to be told any more.
    Done,
    /// To be tried again.
    Failed(Error),
}

/// Delivers failures until it is dropped.
pub(super) async fn deliver(engine: Arc<Engine>, stores: Arc<Stores>) {
    let mut tries: JoinSet<(TaskRun, Outcome)> = JoinSet::new();
    let mut under_way: HashSet<TaskRun> = HashSet::new();
    let mut failed: HashMap<TaskRun, (u32, Instant)> = HashMap::new();
    loop {
        let view = engine.replica().local();
        let waiting = tasks::notifications(&*view, LOOK_AHEAD).unwrap_or_else(|error| {
            tracing::error!(%error, "notifications could not be read");
            Vec::new()
        });
        for notification in waiting {
            let run = notification.run;
            let due = failed.get(&run).is_none_or(|(_, at)| *at <= Instant::now());
            if due && under_way.len() < AT_ONCE && under_way.insert(run) {
                let (engine, stores) = (engine.clone(), stores.clone());
                tries.spawn(async move { (run, one_try(&engine, &stores, &notification).await) });
            }
        }
        drop(view);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(ended) = tries.join_next() => match ended {
                Ok((run, Outcome::Done)) => {
                    failed.remove(&run);
                    let command = Command::Task(TaskCommand::EndNotification { run });
                    if let Err(error) = engine.replica().propose(command).await {
                        tracing::warn!(%run, %error, "a notification is delivered once more");
                    }
                    under_way.remove(&run);
                }
                Ok((run, Outcome::Failed(error))) => {
                    let (count, at) = failed.entry(run).or_insert((0, Instant::now()));
                    *count += 1;
                    let pause = Duration::from_secs(1 << (*count).min(9)).min(LONGEST_PAUSE);
                    *at = Instant::now() + pause;
                    tracing::warn!(%run, %error, tries = *count, "a webhook did not take a notification");
                    under_way.remove(&run);
                }
                Err(error) => {
                    tracing::error!(%error, "a delivery ended unexpectedly");
                    tries.abort_all();
                    while tries.join_next().await.is_some() {}
                    under_way.clear();
                }
            },
        }
    }
}

async fn one_try(engine: &Engine, stores: &Stores, notification: &Notification) -> Outcome {
    let view = engine.replica().local();
    let (run, integration) = match (
        tasks::task_run(&*view, notification.run),
        tasks::integration(&*view, &notification.integration),
    ) {
        (Ok(Some(run)), Ok(Some(integration))) => (run, integration),
        (Err(error), _) | (_, Err(error)) => return Outcome::Failed(error),
        _ => {
            tracing::warn!(integration = notification.integration, "a failure has nobody to be told to");
            return Outcome::Done;
        }
    };
    if !integration.enabled {
        return Outcome::Done;
    }
    let cluster = cluster_of(&*view);
    match tokio::time::timeout(DEADLINE, send(stores, &integration, payload(&run, &cluster))).await {
        Ok(Ok(())) => {
            metrics::counter!("stevedore_notifications_total", "outcome" => "delivered").increment(1);
            Outcome::Done
        }
        failed => {
            metrics::counter!("stevedore_notifications_total", "outcome" => "failed").increment(1);
            let error = match failed {
                Ok(Err(error)) => error,
                _ => Error::unavailable(format!(
                    "the webhook of '{}' did not answer within {} seconds",
                    integration.name,
                    DEADLINE.as_secs()
                )),
            };
            if engine.replica().now_ms() - notification.created_on_ms > GIVE_UP_AFTER_MS {
                tracing::error!(run = %run.number, %error, "a notification is given up after a day");
                return Outcome::Done;
            }
            Outcome::Failed(error)
        }
    }
}

fn cluster_of(view: &dyn ReadView) -> String {
    catalog::cluster(view).ok().flatten().map(|cluster| cluster.id).unwrap_or_default()
}

async fn send(
    stores: &Stores,
    integration: &NotificationIntegration,
    payload: serde_json::Value,
) -> Result<()> {
    let webhook = &integration.webhook;
    let owner = |key: &str| webhook_owner(&integration.name, key);
    let url = stores.open(&owner("url"), &webhook.url)?;
    let url = Url::parse(url.expose()).map_err(|_| Error::invalid("the URL of a webhook cannot be read"))?;
    let egress = stores.egress();
    egress.check_url(&url)?;
    let method = reqwest::Method::from_bytes(webhook.method.as_bytes())
        .map_err(|_| Error::internal("the method of a webhook cannot be read"))?;
    let mut request = egress
        .client()?
        .request(method, url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(payload.to_string());
    if let Some(header) = &webhook.authorization_header {
        let header = stores.open(&owner("authorization_header"), header)?;
        request = request.header(reqwest::header::AUTHORIZATION, header.expose());
    }
    // The library's messages name the URL, which may hold a secret.
    let answer = request.send().await.map_err(|error| {
        Error::unavailable(format!(
            "the webhook of '{}' cannot be reached: {}",
            integration.name,
            error.without_url()
        ))
    })?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(Error::unavailable(format!("the webhook of '{}' answered {}", integration.name, answer.status())))
}

fn time(ms: Option<UnixMillis>) -> serde_json::Value {
    ms.and_then(DateTime::from_timestamp_millis)
        .map_or(serde_json::Value::Null, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true).into())
}

/// What is told of a failed run. A message that is sent again has the same id.
fn payload(run: &Run, cluster: &str) -> serde_json::Value {
    let error = run.error.as_ref();
    serde_json::json!({
        "version": "1.0",
        "messageId": derived_id(run.id, b"failed").to_string(),
        "messageType": "TASK_FAILED",
        "timestamp": time(run.completed_on_ms),
        "tenantId": cluster,
        "taskName": run.name,
        "taskId": run.task.to_string(),
        "rootTaskName": run.root_name,
        "rootTaskId": run.root.to_string(),
        "messages": [{
            "runId": run.id.to_string(),
            "scheduledTime": time(Some(run.scheduled_on_ms)),
            "queryStartTime": time(run.begun_on_ms),
            "completedTime": time(run.completed_on_ms),
            "queryId": run.query.map(|query| query.to_string()).unwrap_or_default(),
            "errorKind": error.map(|error| error.kind().as_str()),
            "errorCode": error.map(|error| error.kind().as_str()),
            "errorMessage": error.map(ToString::to_string),
        }],
    })
}
