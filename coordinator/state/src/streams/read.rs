//! Reads of streams.

use stevedore_common::Result;
use stevedore_common::ids::{DatabaseId, StreamId};

use super::Stream;
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
