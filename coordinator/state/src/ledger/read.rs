//! Reads of the ledger.

use stevedore_common::Result;
use stevedore_common::file_identity::StoreIdentity;
use stevedore_common::ids::TableId;

use crate::catalog::Table;
use crate::jobs;
use crate::keys;
use crate::ledger::{LedgerEntry, resolve};
use crate::view::ReadView;

/// What the ledger of a table says about a path: `loaded_by`, and the claims of live jobs.
///
/// # Errors
/// Storage.
pub fn ledger_entry(
    view: &dyn ReadView,
    table: &Table,
    store: &StoreIdentity,
    path: &str,
) -> Result<LedgerEntry> {
    let Some(store) = store_number(view, store)? else { return Ok(LedgerEntry::default()) };
    let key = keys::ledger_entry(table.id, table.ledger_generation, store, path);
    match keys::read(view, &key)? {
        Some(entry) => resolve(view, entry, &mut |job| jobs::job(view, job)),
        None => Ok(LedgerEntry::default()),
    }
}

/// Tables that want `SweepLedger`.
///
/// # Errors
/// Storage.
pub fn sweepable_ledgers(view: &dyn ReadView, limit: usize) -> Result<Vec<TableId>> {
    view.scan(&keys::sweepable_ledgers(), None, limit)?
        .iter()
        .map(|(key, _)| keys::last_u64(key).map(TableId))
        .collect()
}

/// The number under which a store identity is interned.
pub(crate) fn store_number(view: &dyn ReadView, store: &StoreIdentity) -> Result<Option<u32>> {
    keys::read(view, &store_key(store))
}

/// The key of an interned store identity: its parts, each ended, so that no two can be confused.
pub(crate) fn store_key(store: &StoreIdentity) -> keys::Key {
    keys::stores().text(&store.kind).end().text(&store.endpoint).end().text(&store.container)
}
