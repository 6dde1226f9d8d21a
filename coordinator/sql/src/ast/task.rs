//! Scheduled tasks and notification integrations.

use stevedore_common::secret::Secret;

use super::CreateMode;

/// SCHEDULE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskSchedule {
    /// `n MINUTE`, `n SECOND`, `n MILLISECOND`.
    Interval {
        /// In milliseconds.
        ms: u64,
    },
    /// `USING CRON 'expression' 'time zone'`, as written.
    Cron {
        /// The expression.
        expression: String,
        /// The time zone.
        timezone: String,
    },
}

/// The name of another object, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenName {
    /// This name and no other.
    Exact(String),
    /// In single quotes: the object of exactly this name, or else of this name in lower case.
    Text(String),
}

impl GivenName {
    /// The name, as one that exists; where none does, in lower case.
    ///
    /// # Errors
    /// Those of `exists`.
    pub fn resolve<E>(&self, exists: impl FnOnce(&str) -> Result<bool, E>) -> Result<String, E> {
        match self {
            Self::Exact(name) => Ok(name.clone()),
            Self::Text(text) if exists(text)? => Ok(text.clone()),
            Self::Text(text) => Ok(text.to_lowercase()),
        }
    }
}

/// The options of a task, where given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// WAREHOUSE.
    pub warehouse: Option<String>,
    /// SCHEDULE.
    pub schedule: Option<TaskSchedule>,
    /// SUSPEND_TASK_AFTER_NUM_FAILURES; 0 is never.
    pub suspend_after: Option<u32>,
    /// ERROR_INTEGRATION.
    pub error_integration: Option<GivenName>,
    /// COMMENT.
    pub comment: Option<String>,
    /// Settings of its session, names in lower case.
    pub settings: Vec<(String, String)>,
}

/// CREATE TASK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTask {
    /// Name.
    pub name: String,
    /// What to do when it exists.
    pub mode: CreateMode,
    /// Its options.
    pub options: TaskOptions,
    /// AFTER.
    pub after: Vec<GivenName>,
    /// WHEN, checked, as written.
    pub condition: Option<String>,
    /// What stands behind AS, checked, as written.
    pub body: String,
}

/// ALTER TASK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterTask {
    /// Name.
    pub name: String,
    /// IF EXISTS.
    pub if_exists: bool,
    /// What changes.
    pub action: AlterTaskAction,
}

/// What ALTER TASK changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterTaskAction {
    /// RESUME.
    Resume,
    /// SUSPEND.
    Suspend,
    /// SET.
    Set(TaskOptions),
    /// UNSET: names of options and settings, in lower case.
    Unset(Vec<String>),
    /// MODIFY AS.
    ModifyBody(String),
    /// MODIFY WHEN.
    ModifyCondition(String),
    /// ADD AFTER.
    AddAfter(Vec<GivenName>),
    /// REMOVE AFTER.
    RemoveAfter(Vec<GivenName>),
}

/// WEBHOOK, where given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookOptions {
    /// url.
    pub url: Option<Secret<String>>,
    /// method, in upper case.
    pub method: Option<String>,
    /// authorization_header.
    pub authorization_header: Option<Secret<String>>,
}

/// CREATE and ALTER NOTIFICATION INTEGRATION; what is `None` stays, or has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationOptions {
    /// Name.
    pub name: String,
    /// ENABLED.
    pub enabled: Option<bool>,
    /// WEBHOOK.
    pub webhook: Option<WebhookOptions>,
    /// COMMENT.
    pub comment: Option<String>,
}
