//! DDL on tables, and their commits outside of jobs.
//!
//! Whatever changes what a running load rests on (DROP, REPLACE, TRUNCATE, INSERT OVERWRITE) bumps
//! the table's epoch and aborts its live loads in the same command.

use stevedore_common::Error;
use stevedore_common::ids::{DatabaseId, JobId, TableId};

use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog::objects::check_name;
use crate::catalog::{self, Database, Table};
use crate::command::{NewTable, TableChange, TableChangeKind, TableContents};
use crate::event::Event;
use crate::jobs;
use crate::keys;
use crate::result::{CommandResult, TableCommitOutcome};
use crate::streams::define::check_no_stream;
use crate::transactions;

pub(crate) fn require_database(txn: &Transaction<'_>, name: &str) -> Outcome<Database> {
    match catalog::database(txn.view(), name)? {
        Some(database) => Ok(database),
        None => refuse(Error::not_found(format!("database '{name}' does not exist")).about(name)),
    }
}

fn missing(database: &str, name: &str) -> Error {
    Error::not_found(format!("table '{database}.{name}' does not exist")).about(name)
}

pub(crate) fn create(txn: &mut Transaction<'_>, new: &NewTable) -> Outcome<CommandResult> {
    let (table, created) = create_table(txn, new)?;
    Ok(CommandResult::Table { table, created })
}

/// Creates a table; answers its id and whether it is new.
pub(crate) fn create_table(txn: &mut Transaction<'_>, new: &NewTable) -> Outcome<(TableId, bool)> {
    check_name("table", &new.name)?;
    let database = require_database(txn, &new.database)?;
    if let Some(existing) = catalog::table(txn.view(), &new.database, &new.name)? {
        // The same UUID is the same proposal, tried again.
        if existing.uuid == new.uuid {
            return Ok((existing.id, true));
        }
        if new.if_not_exists {
            return Ok((existing.id, false));
        }
        if !new.or_replace {
            return refuse(
                Error::already_exists(format!("table '{}.{}' exists already", new.database, new.name))
                    .about(&new.name),
            );
        }
        drop_table(txn, existing, "was replaced")?;
    }
    check_no_stream(txn, &new.database, &new.name)?;
    let id = TableId(txn.count(|counters| next(&mut counters.tables))?);
    let table = Table {
        id,
        database: database.id,
        name: new.name.clone(),
        uuid: new.uuid,
        metadata_location: new.metadata_location.clone(),
        schema_id: new.schema_id,
        spec_id: new.spec_id,
        last_field_id: 0,
        epoch: 1,
        ledger_generation: 1,
        created_on_ms: txn.now_ms,
        updated_on_ms: txn.now_ms,
        comment: new.comment.clone(),
        transient: new.transient,
        options: new.options.clone(),
        num_rows: new.contents.num_rows,
        data_size: new.contents.data_size,
        snapshot_id: new.contents.snapshot_id,
        dropped_on_ms: None,
    };
    txn.put(keys::table_name(database.id, &new.name), &id)?;
    put(txn, &table)?;
    Ok((id, true))
}

/// Writes a table's record.
pub(crate) fn put(txn: &mut Transaction<'_>, table: &Table) -> Outcome<()> {
    transactions::keep_version(txn, table)?;
    txn.put(keys::table(table.id), table)?;
    txn.event(Event::TableChanged { table: table.id });
    Ok(())
}

fn drop_table(txn: &mut Transaction<'_>, mut table: Table, how: &str) -> Outcome<()> {
    abort_loads(txn, &table, None, how)?;
    txn.delete(keys::table_name(table.database, &table.name));
    let dropped = keys::dropped_tables(table.database, &table.name).descending(table.id.0);
    txn.put(dropped, &table.id)?;
    table.epoch += 1;
    table.dropped_on_ms = Some(txn.now_ms);
    put(txn, &table)
}

/// Aborts the live loads of a table, but for the job that is the cause.
pub(crate) fn abort_loads(
    txn: &mut Transaction<'_>,
    table: &Table,
    cause: Option<JobId>,
    how: &str,
) -> Outcome<()> {
    let databases = catalog::databases(txn.view())?;
    let database = databases.iter().find(|database| database.id == table.database);
    let prefix = database.map(|database| format!("{}.", database.name)).unwrap_or_default();
    for id in jobs::live_jobs_of_table(txn.view(), table.id)? {
        if Some(id) == cause {
            continue;
        }
        let in_transaction = jobs::job(txn.view(), id)?.is_some_and(|job| job.transaction.is_some());
        let (when, hint) = match in_transaction {
            true => ("the transaction was open", "nothing was changed; run the transaction again"),
            false => ("it was being loaded", "nothing was loaded; run the statement again"),
        };
        let error = Error::conflict(format!("table '{prefix}{}' {how} while {when}", table.name)).hint(hint);
        jobs::end::abort_by_id(txn, id, error)?;
    }
    Ok(())
}

/// Drops every table of a database that goes.
pub(crate) fn drop_all(txn: &mut Transaction<'_>, database: DatabaseId) -> Outcome<()> {
    for table in catalog::tables(txn.view(), database)? {
        drop_table(txn, table, "was dropped with its database")?;
    }
    Ok(())
}

pub(crate) fn drop(
    txn: &mut Transaction<'_>,
    database: &str,
    name: &str,
    if_exists: bool,
) -> Outcome<CommandResult> {
    let Some(table) = catalog::table(txn.view(), database, name)? else {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing(database, name))
        };
    };
    drop_table(txn, table, "was dropped")?;
    Ok(CommandResult::Dropped { existed: true })
}

pub(crate) fn undrop(txn: &mut Transaction<'_>, database: &str, name: &str) -> Outcome<CommandResult> {
    let owner = require_database(txn, database)?;
    if catalog::table(txn.view(), database, name)?.is_some() {
        let error =
            Error::already_exists(format!("table '{database}.{name}' exists: another cannot be undropped"));
        return refuse(error.hint("rename it first"));
    }
    check_no_stream(txn, database, name)?;
    let candidates = keys::scan_all(txn.view(), &keys::dropped_tables(owner.id, name))?;
    let mut latest: Option<(Vec<u8>, Table)> = None;
    for (key, value) in candidates {
        let Some(table) = catalog::table_by_id(txn.view(), keys::decode(&key, &value)?)? else { continue };
        if latest.as_ref().is_none_or(|(_, best)| table.dropped_on_ms > best.dropped_on_ms) {
            latest = Some((key.to_vec(), table));
        }
    }
    let Some((key, mut table)) = latest else {
        return refuse(Error::not_found(format!("no dropped table '{database}.{name}' is kept")));
    };
    txn.delete(key);
    table.dropped_on_ms = None;
    table.updated_on_ms = txn.now_ms;
    txn.put(keys::table_name(owner.id, name), &table.id)?;
    put(txn, &table)?;
    Ok(CommandResult::Table { table: table.id, created: true })
}

pub(crate) fn rename(
    txn: &mut Transaction<'_>,
    database: &str,
    name: &str,
    new_database: &str,
    new_name: &str,
) -> Outcome<CommandResult> {
    check_name("table", new_name)?;
    let Some(mut table) = catalog::table(txn.view(), database, name)? else {
        return refuse(missing(database, name));
    };
    let target = require_database(txn, new_database)?;
    if catalog::table(txn.view(), new_database, new_name)?.is_some() {
        return refuse(Error::already_exists(format!("table '{new_database}.{new_name}' exists already")));
    }
    check_no_stream(txn, new_database, new_name)?;
    txn.delete(keys::table_name(table.database, &table.name));
    table.database = target.id;
    table.name = new_name.to_owned();
    table.updated_on_ms = txn.now_ms;
    txn.put(keys::table_name(target.id, new_name), &table.id)?;
    put(txn, &table)?;
    Ok(CommandResult::Table { table: table.id, created: true })
}

impl Table {
    pub(crate) fn set_contents(&mut self, contents: TableContents) {
        self.snapshot_id = contents.snapshot_id;
        self.num_rows = contents.num_rows;
        self.data_size = contents.data_size;
    }
}

pub(crate) fn commit(txn: &mut Transaction<'_>, change: &TableChange) -> Outcome<CommandResult> {
    let table = catalog::table_by_id(txn.view(), change.table)?;
    let Some(mut table) = table.filter(|table| table.dropped_on_ms.is_none()) else {
        return refuse(Error::not_found(format!("table {} does not exist any more", change.table)));
    };
    if table.uuid != change.uuid {
        return refuse(Error::conflict(format!(
            "table '{}' is another one than the change was made for",
            table.name
        )));
    }
    // The name of the new metadata is nobody else's: the table being there means it was this change.
    if table.metadata_location == change.new_location {
        return Ok(CommandResult::TableCommit(TableCommitOutcome::Committed { epoch: table.epoch }));
    }
    if table.metadata_location != change.expected_location {
        let current_location = table.metadata_location;
        return Ok(CommandResult::TableCommit(TableCommitOutcome::Moved { current_location }));
    }
    if table.epoch != change.epoch {
        return refuse(
            Error::conflict(format!("table '{}' was changed meanwhile", table.name)).retryable(true),
        );
    }
    if let Some(ids) = change.new_field_ids {
        // The data files of a load may hold the ids that were reserved meanwhile: the change takes others.
        if table.last_field_id > ids.after {
            let current_location = table.metadata_location;
            return Ok(CommandResult::TableCommit(TableCommitOutcome::Moved { current_location }));
        }
        table.last_field_id = ids.last;
    }
    match &change.kind {
        TableChangeKind::Alter { comment } => {
            if let Some(comment) = comment {
                table.comment.clone_from(comment);
            }
        }
        TableChangeKind::Options(options) => {
            table.options.extend(options.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        TableChangeKind::Truncate => {
            abort_loads(txn, &table, None, "was truncated")?;
            table.epoch += 1;
            table.ledger_generation += 1;
            txn.put(keys::sweepable_ledger(table.id), &())?;
        }
        TableChangeKind::Maintenance => {}
    }
    table.metadata_location.clone_from(&change.new_location);
    table.schema_id = change.schema_id;
    table.spec_id = change.spec_id;
    table.set_contents(change.contents);
    table.updated_on_ms = txn.now_ms;
    put(txn, &table)?;
    Ok(CommandResult::TableCommit(TableCommitOutcome::Committed { epoch: table.epoch }))
}
