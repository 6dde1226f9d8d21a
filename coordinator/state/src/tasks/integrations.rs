//! DDL on notification integrations.

use stevedore_common::Error;

use super::{NotificationIntegration, Webhook, integration, tasks};
use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog::objects::{check_name, missing};
use crate::event::Event;
use crate::keys;
use crate::result::CommandResult;

const KIND: &str = "notification integration";

pub(crate) fn create(
    txn: &mut Transaction<'_>,
    name: &str,
    enabled: bool,
    webhook: &Webhook,
    comment: &str,
    (if_not_exists, or_replace): (bool, bool),
) -> Outcome<CommandResult> {
    check_name(KIND, name)?;
    let existing = integration(txn.view(), name)?;
    if let Some(existing) = &existing {
        if if_not_exists {
            return Ok(CommandResult::Created { id: existing.version, created: false });
        }
        if !or_replace {
            return refuse(Error::already_exists(format!("{KIND} '{name}' exists already")).about(name));
        }
    }
    let (version, created_on_ms) =
        existing.map_or((1, txn.now_ms), |existing| (existing.version + 1, existing.created_on_ms));
    put(txn, name, (version, created_on_ms), enabled, webhook, comment)?;
    Ok(CommandResult::Created { id: version, created: true })
}

pub(crate) fn alter(
    txn: &mut Transaction<'_>,
    name: &str,
    version: u64,
    enabled: bool,
    webhook: &Webhook,
    comment: &str,
) -> Outcome<CommandResult> {
    let Some(existing) = integration(txn.view(), name)? else { return refuse(missing(KIND, name)) };
    if existing.version != version {
        let error = Error::conflict(format!("{KIND} '{name}' was changed meanwhile"));
        return refuse(error.retryable(true).hint("run the statement again"));
    }
    put(txn, name, (version + 1, existing.created_on_ms), enabled, webhook, comment)?;
    Ok(CommandResult::Done)
}

fn put(
    txn: &mut Transaction<'_>,
    name: &str,
    (version, created_on_ms): (u64, i64),
    enabled: bool,
    webhook: &Webhook,
    comment: &str,
) -> Outcome<()> {
    let integration = NotificationIntegration {
        name: name.to_owned(),
        enabled,
        webhook: webhook.clone(),
        comment: comment.to_owned(),
        created_on_ms,
        version,
    };
    txn.put(keys::integration(name), &integration)?;
    txn.event(Event::CatalogChanged);
    Ok(())
}

pub(crate) fn drop(txn: &mut Transaction<'_>, name: &str, if_exists: bool) -> Outcome<CommandResult> {
    if integration(txn.view(), name)?.is_none() {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing(KIND, name))
        };
    }
    let user = tasks(txn.view())?
        .into_iter()
        .find(|task| task.definition.error_integration.as_deref() == Some(name));
    if let Some(user) = user {
        return refuse(
            Error::conflict(format!("{KIND} '{name}' cannot be dropped: task '{}' names it", user.name))
                .about(name)
                .hint(format!("ALTER TASK {} UNSET ERROR_INTEGRATION", user.name)),
        );
    }
    txn.delete(keys::integration(name));
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Dropped { existed: true })
}
