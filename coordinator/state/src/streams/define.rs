//! CREATE and DROP STREAM, and the moving of offsets.

use stevedore_common::Error;
use stevedore_common::ids::{DatabaseId, StreamId};

use super::{NewStream, Stream, StreamMove, stream, streams_of, unmoved};
use crate::apply::{Outcome, Transaction, next, refuse};
use crate::catalog::objects::{check_name, missing};
use crate::catalog::{self, tables};
use crate::event::Event;
use crate::keys;
use crate::result::CommandResult;

fn put(txn: &mut Transaction<'_>, stream: &Stream) -> Outcome<()> {
    txn.put(keys::stream(stream.id), stream)?;
    txn.event(Event::CatalogChanged);
    Ok(())
}

fn remove(txn: &mut Transaction<'_>, stream: &Stream) {
    txn.delete(keys::stream(stream.id));
    txn.delete(keys::stream_name(stream.database, &stream.name));
    txn.event(Event::CatalogChanged);
}

pub(crate) fn create(
    txn: &mut Transaction<'_>,
    new: &NewStream,
    if_not_exists: bool,
    or_replace: bool,
) -> Outcome<CommandResult> {
    check_name("stream", &new.name)?;
    let database = tables::require_database(txn, &new.database)?;
    if let Some(existing) = stream(txn.view(), &new.database, &new.name)? {
        if if_not_exists {
            return Ok(CommandResult::Created { id: existing.id.0, created: false });
        }
        if !or_replace {
            let error =
                Error::already_exists(format!("stream '{}.{}' exists already", new.database, new.name));
            return refuse(error.about(&new.name));
        }
        remove(txn, &existing);
    }
    if catalog::table(txn.view(), &new.database, &new.name)?.is_some() {
        let error = Error::already_exists(format!(
            "'{}.{}' is a table: a stream has a name of its own",
            new.database, new.name
        ));
        return refuse(error.about(&new.name));
    }
    if catalog::table_by_id(txn.view(), new.table)?.is_none_or(|table| table.dropped_on_ms.is_some()) {
        return refuse(Error::not_found(format!(
            "the table of stream '{}' does not exist any more",
            new.name
        )));
    }
    let id = StreamId(txn.count(|counters| next(&mut counters.streams))?);
    let stream = Stream {
        id,
        database: database.id,
        name: new.name.clone(),
        table: new.table,
        append_only: new.append_only,
        offset: new.offset,
        created_on_ms: txn.now_ms,
        updated_on_ms: txn.now_ms,
        comment: new.comment.clone(),
        owner: new.owner.clone(),
    };
    txn.put(keys::stream_name(database.id, &new.name), &id)?;
    put(txn, &stream)?;
    Ok(CommandResult::Created { id: id.0, created: true })
}

pub(crate) fn drop(
    txn: &mut Transaction<'_>,
    database: &str,
    name: &str,
    if_exists: bool,
) -> Outcome<CommandResult> {
    let Some(stream) = stream(txn.view(), database, name)? else {
        return if if_exists {
            Ok(CommandResult::Dropped { existed: false })
        } else {
            refuse(missing("stream", name))
        };
    };
    remove(txn, &stream);
    Ok(CommandResult::Dropped { existed: true })
}

/// Drops every stream of a database that goes.
pub(crate) fn drop_all(txn: &mut Transaction<'_>, database: DatabaseId) -> Outcome<()> {
    for stream in streams_of(txn.view(), database)? {
        remove(txn, &stream);
    }
    Ok(())
}

/// Refuses a name that a stream of the database has.
pub(crate) fn check_no_stream(txn: &Transaction<'_>, database: &str, name: &str) -> Outcome<()> {
    if stream(txn.view(), database, name)?.is_none() {
        return Ok(());
    }
    let error =
        Error::already_exists(format!("'{database}.{name}' is a stream: a table has a name of its own"));
    refuse(error.about(name))
}

/// Moves the offsets of streams that [`unmoved`] answered.
pub(crate) fn advance(txn: &mut Transaction<'_>, streams: Vec<Stream>, moves: &[StreamMove]) -> Outcome<()> {
    for (mut stream, wanted) in streams.into_iter().zip(moves) {
        stream.offset = wanted.to;
        stream.updated_on_ms = txn.now_ms;
        put(txn, &stream)?;
    }
    Ok(())
}

pub(crate) fn consume(txn: &mut Transaction<'_>, moves: &[StreamMove]) -> Outcome<CommandResult> {
    match unmoved(txn.view(), moves)? {
        Ok(streams) => {
            advance(txn, streams, moves)?;
            Ok(CommandResult::Done)
        }
        Err(error) => refuse(error),
    }
}
