//! Columns that a load brings: their field ids, and the slices that run again when the table's columns
//! have become others than those that the slices wrote.
//!
//! A field id means one column for ever: data files say by ids which values are whose. So ids are handed
//! out here, before anything is written, and never again, whether or not their column comes to be. Live loads
//! of one table that bring the same column (name and type) share its id: whichever commits first adds it, and the
//! others add to it. Whoever brings a column of the same name and another type has an id of its own, and finds at
//! its commit that the name is taken.
//!
//! Must never: share an id that the table's metadata knows already (its column was dropped, or renamed), let a slice
//! run while some are still to be reopened.

use stevedore_common::Error;
use stevedore_common::ids::{JobId, SliceIndex, SliceKey, TableId};
use stevedore_common::schema::{Column, new_iceberg_field};

use crate::apply::{Outcome, Transaction, refuse};
use crate::catalog::{self, Table, tables};
use crate::command::WantedColumn;
use crate::jobs::create::{put, require, wrong_phase};
use crate::jobs::lease::discard;
use crate::jobs::plan::put_slice;
use crate::jobs::{self, Job, JobColumns, JobPhase, MAX_NEW_COLUMNS, SliceState};
use crate::keys;
use crate::result::{ColumnsOutcome, CommandResult};
use crate::{streams, transactions};

const MAX_NAME_BYTES: usize = 1024;
const MAX_RECORD_BYTES: usize = 60 * 1024;

pub(crate) fn reserve(
    txn: &mut Transaction<'_>,
    id: JobId,
    schema_id: i32,
    last_column_id: i32,
    wanted: &[WantedColumn],
) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    let known = jobs::job_columns(txn.view(), id)?;
    let ran = match job.phase {
        JobPhase::Claiming => false,
        JobPhase::Running if job.all_accepted() && known.is_some() => true,
        _ => return refuse(wrong_phase(&job, "it brings no other columns")),
    };
    let Some(mut table) = target(txn, &job)? else {
        return refuse(Error::not_found(format!("the table of job {id} does not exist any more")));
    };
    let seen = match job.transaction {
        Some(_) => transactions::table_of_job(txn.view(), job.transaction, table.id)?,
        None => None,
    };
    if seen.map_or(table.schema_id, |seen| seen.schema_id) != schema_id {
        return Ok(CommandResult::Columns(ColumnsOutcome::Moved));
    }
    check(wanted)?;
    for column in wanted {
        if let Some(error) = streams::hides_column(txn.view(), table.id, &column.name)? {
            return refuse(error);
        }
    }
    let shared = columns_of_others(txn, id, table.id, last_column_id)?;
    let mut last = table.last_field_id.max(last_column_id);
    let mut columns = Vec::with_capacity(wanted.len());
    for WantedColumn { name, ty, exists } in wanted {
        let mut column = Column {
            id: 0,
            name: name.clone(),
            ty: ty.clone(),
            nullable: true,
            default: None,
            comment: None,
        };
        if !exists {
            let same = shared.iter().find(|other| other.name == *name && other.ty == *ty);
            column.id = match same {
                Some(other) => other.id,
                None => {
                    last += 1;
                    let first = last;
                    // Its nested fields have the ids after it.
                    new_iceberg_field(&column, first, &mut last);
                    first
                }
            };
        }
        columns.push(column);
    }
    let rounds = known.map_or(0, |known| known.rounds) + u32::from(ran);
    let record = JobColumns { schema_id, columns, rounds };
    let key = keys::job_columns(id);
    let encoded = keys::encode(&key, &record)?;
    if encoded.len() > MAX_RECORD_BYTES {
        return refuse(too_many(wanted.len()));
    }
    txn.put_bytes(key, encoded);
    if last > table.last_field_id {
        table.last_field_id = last;
        tables::put(txn, &table)?;
    }
    if ran {
        job.reopening = Some(SliceIndex(0));
        put(txn, &job)?;
    }
    Ok(CommandResult::Columns(ColumnsOutcome::Reserved(record)))
}

/// The job's table, while the job may load into it.
fn target(txn: &Transaction<'_>, job: &Job) -> Outcome<Option<Table>> {
    let Some(table) = job.table else { return Ok(None) };
    Ok(catalog::table_by_id(txn.view(), table)?.filter(|table| table.dropped_on_ms.is_none()))
}

fn too_many(columns: usize) -> Error {
    Error::exhausted(format!("the files have {columns} columns that the table lacks, which is more than one load adds"))
        .hint(format!(
            "up to {MAX_NEW_COLUMNS} are added, and their names take 40 KiB at most; load names that are data as a VARIANT"
        ))
}

fn check(wanted: &[WantedColumn]) -> Outcome<()> {
    if wanted.len() > MAX_NEW_COLUMNS {
        return refuse(too_many(wanted.len()));
    }
    match wanted.iter().find(|column| column.name.is_empty() || column.name.len() > MAX_NAME_BYTES) {
        Some(column) => refuse(Error::invalid(format!(
            "the files have a column whose name has {} bytes; 1 to {MAX_NAME_BYTES} are allowed",
            column.name.len()
        ))),
        None => Ok(()),
    }
}

/// The columns that the other live loads of a table bring, with their ids.
fn columns_of_others(
    txn: &Transaction<'_>,
    id: JobId,
    table: TableId,
    last_column_id: i32,
) -> Outcome<Vec<Column>> {
    let mut columns = Vec::new();
    for other in jobs::live_jobs_of_table(txn.view(), table)? {
        if other != id
            && let Some(record) = jobs::job_columns(txn.view(), other)?
        {
            // An id that the metadata knows has had its column: it may be dropped by now.
            columns.extend(record.columns.into_iter().filter(|column| column.id > last_column_id));
        }
    }
    Ok(columns)
}

pub(crate) fn reopen(txn: &mut Transaction<'_>, id: JobId, limit: u32) -> Outcome<CommandResult> {
    let mut job = require(txn, id)?;
    let Some(first) = job.reopening else {
        return Ok(CommandResult::Progress { done: true });
    };
    if job.phase != JobPhase::Running {
        return refuse(wrong_phase(&job, "its slices do not run again"));
    }
    let end = job.slices.min(first.0.saturating_add(limit.max(1)));
    for index in first.0..end {
        let key = SliceKey { job: id, slice: SliceIndex(index) };
        let Some(mut slice) = jobs::slice(txn.view(), id, key.slice)? else { continue };
        if slice.state != SliceState::Accepted {
            continue;
        }
        job.uncount_accepted(&slice);
        discard(txn, key, &mut slice);
        slice.state = SliceState::Pending;
        put_slice(txn, key, &slice)?;
    }
    job.reopening = (end < job.slices).then_some(SliceIndex(end));
    put(txn, &job)?;
    Ok(CommandResult::Progress { done: job.reopening.is_none() })
}
