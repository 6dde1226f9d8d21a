//! Reads of the catalog.

use stevedore_common::Result;
use stevedore_common::ids::{DatabaseId, TableId};

use crate::catalog::objects::missing;
use crate::catalog::{Cluster, Connection, Database, NamedFileFormat, Stage, Table};
use crate::keys;
use crate::view::ReadView;

/// The cluster; none before Bootstrap.
///
/// # Errors
/// Storage.
pub fn cluster(view: &dyn ReadView) -> Result<Option<Cluster>> {
    keys::read(view, &keys::cluster())
}

/// All databases, by name.
///
/// # Errors
/// Storage.
pub fn databases(view: &dyn ReadView) -> Result<Vec<Database>> {
    keys::read_all(view, &keys::databases())
}

/// A database.
///
/// # Errors
/// Storage.
pub fn database(view: &dyn ReadView, name: &str) -> Result<Option<Database>> {
    keys::read(view, &keys::database(name))
}

/// The tables of a database, by name.
///
/// # Errors
/// Storage.
pub fn tables(view: &dyn ReadView, database: DatabaseId) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (key, value) in keys::scan_all(view, &keys::table_names(database))? {
        tables.extend(table_by_id(view, keys::decode(&key, &value)?)?);
    }
    Ok(tables)
}

/// A table by its names.
///
/// # Errors
/// Storage.
pub fn table(view: &dyn ReadView, database: &str, name: &str) -> Result<Option<Table>> {
    let Some(database) = self::database(view, database)? else { return Ok(None) };
    let id: Option<TableId> = keys::read(view, &keys::table_name(database.id, name))?;
    id.map_or(Ok(None), |id| table_by_id(view, id))
}

/// A table by its id, also a dropped one.
///
/// # Errors
/// Storage.
pub fn table_by_id(view: &dyn ReadView, id: TableId) -> Result<Option<Table>> {
    keys::read(view, &keys::table(id))
}

/// All connections, by name.
///
/// # Errors
/// Storage.
pub fn connections(view: &dyn ReadView) -> Result<Vec<Connection>> {
    keys::read_all(view, &keys::connections())
}

/// A connection.
///
/// # Errors
/// Storage.
pub fn connection(view: &dyn ReadView, name: &str) -> Result<Option<Connection>> {
    keys::read(view, &keys::connection(name))
}

/// A connection that must be there.
///
/// # Errors
/// Not found; storage.
pub fn require_connection(view: &dyn ReadView, name: &str) -> Result<Connection> {
    connection(view, name)?.ok_or_else(|| missing("connection", name).hint("SHOW CONNECTIONS lists them"))
}

/// All stages, by name.
///
/// # Errors
/// Storage.
pub fn stages(view: &dyn ReadView) -> Result<Vec<Stage>> {
    keys::read_all(view, &keys::stages())
}

/// A stage.
///
/// # Errors
/// Storage.
pub fn stage(view: &dyn ReadView, name: &str) -> Result<Option<Stage>> {
    keys::read(view, &keys::stage(name))
}

/// A stage that must be there.
///
/// # Errors
/// Not found; storage.
pub fn require_stage(view: &dyn ReadView, name: &str) -> Result<Stage> {
    stage(view, name)?.ok_or_else(|| missing("stage", name).hint("SHOW STAGES lists them"))
}

/// All named file formats, by name.
///
/// # Errors
/// Storage.
pub fn file_formats(view: &dyn ReadView) -> Result<Vec<NamedFileFormat>> {
    keys::read_all(view, &keys::file_formats())
}

/// A named file format.
///
/// # Errors
/// Storage.
pub fn file_format(view: &dyn ReadView, name: &str) -> Result<Option<NamedFileFormat>> {
    keys::read(view, &keys::file_format(name))
}
