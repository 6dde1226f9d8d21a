//! DDL on databases, connections, stages and file formats.

use std::collections::BTreeMap;

use stevedore_common::Error;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::ids::{ConnectionId, DatabaseId, FileFormatId, StageId};
use stevedore_common::secret::Sealed;

use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog::{
    self, Cluster, Connection, Database, NamedFileFormat, Stage, StageFormat, StageKind, StageSource, tables,
};
use crate::command::{Command, StageChange};
use crate::event::Event;
use crate::keys;
use crate::result::CommandResult;
use crate::streams;

const DEFAULT_DATABASE: &str = "default";
const RESERVED_DATABASES: [&str; 2] = ["system", "information_schema"];
const MAX_NAME_BYTES: usize = 255;

pub(crate) fn bootstrap(txn: &mut Transaction<'_>, cluster_id: &str) -> Outcome<CommandResult> {
    match catalog::cluster(txn.view())? {
        Some(cluster) if cluster.id == cluster_id => return Ok(CommandResult::Done),
        Some(cluster) => {
            return refuse(Error::already_exists(format!(
                "the cluster is bootstrapped already, as {}",
                cluster.id
            )));
        }
        None => {}
    }
    let cluster = Cluster { id: cluster_id.to_owned(), created_on_ms: txn.now_ms };
    txn.put(keys::cluster(), &cluster)?;
    put_database(txn, DEFAULT_DATABASE, "")?;
    Ok(CommandResult::Done)
}

fn put_database(txn: &mut Transaction<'_>, name: &str, comment: &str) -> Outcome<DatabaseId> {
    let id = DatabaseId(txn.count(|counters| next(&mut counters.databases))?);
    let database =
        Database { id, name: name.to_owned(), comment: comment.to_owned(), created_on_ms: txn.now_ms };
    txn.put(keys::database(name), &database)?;
    txn.event(Event::CatalogChanged);
    Ok(id)
}

/// Names become keys: they are bounded and hold no NUL.
pub(crate) fn check_name(what: &str, name: &str) -> Outcome<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
        return refuse(Error::invalid(format!(
            "'{}' cannot be the name of a {what}: 1 to {MAX_NAME_BYTES} bytes without NUL are allowed",
            name.escape_default().take(60).collect::<String>()
        )));
    }
    Ok(())
}

fn check_not_reserved(name: &str) -> Outcome<()> {
    if RESERVED_DATABASES.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return refuse(Error::denied(format!("database '{name}' is built in and cannot be changed")));
    }
    Ok(())
}

fn exists(what: &str, name: &str) -> Error {
    Error::already_exists(format!("{what} '{name}' exists already")).about(name)
}

pub(crate) fn missing(what: &str, name: &str) -> Error {
    Error::not_found(format!("{what} '{name}' does not exist")).about(name)
}

pub(crate) fn create_database(
    txn: &mut Transaction<'_>,
    name: &str,
    if_not_exists: bool,
    or_replace: bool,
    comment: &str,
) -> Outcome<CommandResult> {
    check_name("database", name)?;
    check_not_reserved(name)?;
    if let Some(database) = catalog::database(txn.view(), name)? {
        if if_not_exists {
            return Ok(CommandResult::Created { id: database.id.0, created: false });
        }
        if !or_replace {
            return refuse(exists("database", name));
        }
        tables::drop_all(txn, database.id)?;
    }
    let id = put_database(txn, name, comment)?;
    Ok(CommandResult::Created { id: id.0, created: true })
}

pub(crate) fn drop_database(
    txn: &mut Transaction<'_>,
    name: &str,
    if_exists: bool,
) -> Outcome<CommandResult> {
    check_not_reserved(name)?;
    if name == DEFAULT_DATABASE {
        return refuse(Error::denied("database 'default' cannot be dropped"));
    }
    let Some(database) = catalog::database(txn.view(), name)? else {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing("database", name))
        };
    };
    tables::drop_all(txn, database.id)?;
    streams::define::drop_all(txn, database.id)?;
    txn.delete(keys::database(name));
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Dropped { existed: true })
}

pub(crate) fn create_connection(
    txn: &mut Transaction<'_>,
    name: &str,
    storage_type: &str,
    (params, secrets): (BTreeMap<String, String>, BTreeMap<String, Sealed>),
    if_not_exists: bool,
    or_replace: bool,
) -> Outcome<CommandResult> {
    check_name("connection", name)?;
    let existing = catalog::connection(txn.view(), name)?;
    if let Some(connection) = &existing {
        if if_not_exists {
            return Ok(CommandResult::Created { id: connection.id.0, created: false });
        }
        if !or_replace {
            return refuse(exists("connection", name));
        }
        let users = users_of_connection(txn, name)?;
        if connection.storage_type != storage_type && !users.is_empty() {
            return refuse(Error::conflict(format!(
                "connection '{name}' cannot change its type from {} to {storage_type}: {}",
                connection.storage_type,
                named_by(&users)
            )));
        }
    }
    let (id, version, created_on_ms) = match existing {
        Some(connection) => (connection.id, connection.version + 1, connection.created_on_ms),
        None => (ConnectionId(txn.count(|counters| next(&mut counters.connections))?), 1, txn.now_ms),
    };
    let connection = Connection {
        id,
        name: name.to_owned(),
        storage_type: storage_type.to_owned(),
        params,
        secrets,
        created_on_ms,
        version,
    };
    txn.put(keys::connection(name), &connection)?;
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Created { id: id.0, created: true })
}

fn users_of_connection(txn: &Transaction<'_>, name: &str) -> Outcome<Vec<String>> {
    let stages = catalog::stages(txn.view())?;
    Ok(stages.into_iter().filter(|stage| stage.connection() == Some(name)).map(|stage| stage.name).collect())
}

fn named_by(stages: &[String]) -> String {
    const SHOWN: usize = 5;
    let list: Vec<String> = stages.iter().take(SHOWN).map(|stage| format!("'{stage}'")).collect();
    let more = stages.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "stage{} {}{more} use{} it",
        if stages.len() > 1 { "s" } else { "" },
        list.join(", "),
        if stages.len() > 1 { "" } else { "s" }
    )
}

pub(crate) fn drop_connection(
    txn: &mut Transaction<'_>,
    name: &str,
    if_exists: bool,
) -> Outcome<CommandResult> {
    if catalog::connection(txn.view(), name)?.is_none() {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing("connection", name))
        };
    }
    let users = users_of_connection(txn, name)?;
    if !users.is_empty() {
        let error = Error::conflict(format!("connection '{name}' cannot be dropped: {}", named_by(&users)));
        return refuse(error.hint("drop those stages first, or give them another connection"));
    }
    txn.delete(keys::connection(name));
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Dropped { existed: true })
}

fn check_stage_refers(txn: &Transaction<'_>, kind: &StageKind, format: Option<&StageFormat>) -> Outcome<()> {
    if let StageKind::External { source: StageSource::Named(connection), .. } = kind
        && catalog::connection(txn.view(), connection)?.is_none()
    {
        return refuse(missing("connection", connection));
    }
    if let Some(StageFormat::Named(format)) = format
        && FormatKind::parse("TYPE", format).is_err()
        && catalog::file_format(txn.view(), format)?.is_none()
    {
        return refuse(missing("file format", format));
    }
    Ok(())
}

pub(crate) fn create_stage(txn: &mut Transaction<'_>, command: &Command) -> Outcome<CommandResult> {
    let Command::CreateStage {
        name,
        kind,
        file_format,
        copy_options,
        comment,
        creator,
        if_not_exists,
        or_replace,
    } = command
    else {
        return Err(Error::internal(format!("{} is no create_stage", command.name())).into());
    };
    check_name("stage", name)?;
    if let Some(stage) = catalog::stage(txn.view(), name)? {
        if *if_not_exists {
            return Ok(CommandResult::Created { id: stage.id.0, created: false });
        }
        if !*or_replace {
            return refuse(exists("stage", name));
        }
    }
    check_stage_refers(txn, kind, file_format.as_ref())?;
    let id = StageId(txn.count(|counters| next(&mut counters.stages))?);
    let stage = Stage {
        id,
        name: name.clone(),
        kind: kind.clone(),
        file_format: file_format.clone(),
        copy_options: copy_options.clone(),
        comment: comment.clone(),
        creator: creator.clone(),
        created_on_ms: txn.now_ms,
    };
    txn.put(keys::stage(name), &stage)?;
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Created { id: id.0, created: true })
}

pub(crate) fn alter_stage(
    txn: &mut Transaction<'_>,
    name: &str,
    if_exists: bool,
    changes: &[StageChange],
) -> Outcome<CommandResult> {
    let Some(mut stage) = catalog::stage(txn.view(), name)? else {
        return if if_exists { Ok(CommandResult::Done) } else { refuse(missing("stage", name)) };
    };
    for change in changes {
        match change {
            StageChange::SetUrl(new) => match &mut stage.kind {
                StageKind::External { url, .. } => url.clone_from(new),
                StageKind::Internal => return refuse(internal_stage(name, "URL")),
            },
            StageChange::SetSource(new) => match &mut stage.kind {
                StageKind::External { source, .. } => source.clone_from(new),
                StageKind::Internal => return refuse(internal_stage(name, "connection")),
            },
            StageChange::SetFileFormat(format) => stage.file_format = Some(format.clone()),
            StageChange::UnsetFileFormat => stage.file_format = None,
            StageChange::SetCopyOptions(options) => stage.copy_options.clone_from(options),
            StageChange::SetComment(comment) => stage.comment.clone_from(comment),
            StageChange::UnsetComment => stage.comment.clear(),
        }
    }
    check_stage_refers(txn, &stage.kind, stage.file_format.as_ref())?;
    txn.put(keys::stage(name), &stage)?;
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Done)
}

fn internal_stage(name: &str, what: &str) -> Error {
    Error::invalid(format!("stage '{name}' is internal: it has no {what}"))
        .hint("CREATE OR REPLACE STAGE … URL = … makes it external")
}

pub(crate) fn drop_stage(txn: &mut Transaction<'_>, name: &str, if_exists: bool) -> Outcome<CommandResult> {
    let Some(stage) = catalog::stage(txn.view(), name)? else {
        return if if_exists {
            Ok(CommandResult::StageDropped { stage: None, internal: false })
        } else {
            refuse(missing("stage", name))
        };
    };
    txn.delete(keys::stage(name));
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::StageDropped { stage: Some(stage.id), internal: stage.kind == StageKind::Internal })
}

pub(crate) fn create_file_format(
    txn: &mut Transaction<'_>,
    name: &str,
    format: &FileFormat,
    if_not_exists: bool,
    or_replace: bool,
) -> Outcome<CommandResult> {
    check_name("file format", name)?;
    if FormatKind::parse("TYPE", name).is_ok() {
        return refuse(
            Error::already_exists(format!("file format '{name}' is built in")).hint("choose another name"),
        );
    }
    let existing = catalog::file_format(txn.view(), name)?;
    if let Some(existing) = &existing {
        if if_not_exists {
            return Ok(CommandResult::Created { id: existing.id.0, created: false });
        }
        if !or_replace {
            return refuse(exists("file format", name));
        }
    }
    let id = match existing {
        Some(existing) => existing.id,
        None => FileFormatId(txn.count(|counters| next(&mut counters.file_formats))?),
    };
    let record =
        NamedFileFormat { id, name: name.to_owned(), format: format.clone(), created_on_ms: txn.now_ms };
    txn.put(keys::file_format(name), &record)?;
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Created { id: id.0, created: true })
}

pub(crate) fn drop_file_format(
    txn: &mut Transaction<'_>,
    name: &str,
    if_exists: bool,
) -> Outcome<CommandResult> {
    if catalog::file_format(txn.view(), name)?.is_none() {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing("file format", name))
        };
    }
    txn.delete(keys::file_format(name));
    txn.event(Event::CatalogChanged);
    Ok(CommandResult::Dropped { existed: true })
}
