//! Reads of streams.

use stevedore_common::ids::{DatabaseId, StreamId, TableId};
use stevedore_common::row_lineage::CHANGE_COLUMNS;
use stevedore_common::{Error, Result};

use super::{Stream, StreamMove};
use crate::catalog;
use crate::keys;
use crate::view::ReadView;

/// A stream by its names.
///
/// # Errors
/// Storage.
pub fn stream(view: &dyn ReadView, database: &str, name: &str) -> Result<Option<Stream>> {
    let Some(database) = catalog::database(view, database)? else { return Ok(None) };
    let id: Option<StreamId> = keys::read(view, &keys::stream_name(database.id, name))?;
    id.map_or(Ok(None), |id| stream_by_id(view, id))
}

/// A stream by its id.
///
/// # Errors
/// Storage.
pub fn stream_by_id(view: &dyn ReadView, id: StreamId) -> Result<Option<Stream>> {
    keys::read(view, &keys::stream(id))
}

/// The streams of a database, by name.
///
/// # Errors
/// Storage.
pub fn streams_of(view: &dyn ReadView, database: DatabaseId) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for (key, value) in keys::scan_all(view, &keys::stream_names(database))? {
        streams.extend(stream_by_id(view, keys::decode(&key, &value)?)?);
    }
    Ok(streams)
}

/// Whether a column of this name could not be read in a stream: it is one of the stream's own.
pub fn is_change_column(name: &str) -> bool {
    CHANGE_COLUMNS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Why a table may not take a column of this name, if a stream on it would hide the column.
///
/// # Errors
/// Storage.
pub fn hides_column(view: &dyn ReadView, table: TableId, name: &str) -> Result<Option<Error>> {
    if !is_change_column(name) {
        return Ok(None);
    }
    for database in catalog::databases(view)? {
        let streams = streams_of(view, database.id)?;
        if let Some(stream) = streams.into_iter().find(|stream| stream.table == table) {
            let error = Error::invalid(format!(
                "the table cannot have a column '{name}': stream '{}.{}' on it has a column of that name",
                database.name, stream.name
            ));
            return Ok(Some(error.about(name).hint("give the column another name, or drop the stream")));
        }
    }
    Ok(None)
}

/// The streams of consumptions as they stand; the inner error: one of them was consumed otherwise.
///
/// # Errors
/// Storage.
pub fn unmoved(view: &dyn ReadView, moves: &[StreamMove]) -> Result<std::result::Result<Vec<Stream>, Error>> {
    let mut streams = Vec::with_capacity(moves.len());
    for wanted in moves {
        let lost = match stream_by_id(view, wanted.stream)? {
            Some(stream) if stream.offset == wanted.from => {
                streams.push(stream);
                continue;
            }
            Some(stream) => format!("stream '{}' was consumed by another statement meanwhile", stream.name),
            None => "a stream that was to be consumed was dropped meanwhile".to_owned(),
        };
        // Who asks may be a statement, or the COMMIT of a transaction.
        let error = Error::conflict(lost)
            .hint("nothing was changed; run the statement again, in a transaction all of its statements");
        return Ok(Err(error.retryable(true)));
    }
    Ok(Ok(streams))
}
