//! LIST and REMOVE.

use futures::StreamExt;
use stevedore_common::Result;
use stevedore_sql::ast::ListFiles;

use super::{Engine, Execution, show};
use crate::results::ColumnKind::Text;
use crate::results::{Columns, Value, batch_of, schema_of};

/// The columns of REMOVE.
pub(super) const REMOVED: Columns = &[("name", Text)];
/// Rows in one batch of LIST.
const BATCH_ROWS: usize = 4096;
/// A listing up to this size is sorted by name; beyond it the order is the store's.
const MOST_SORTED: usize = 100_000;

impl Engine {
    pub(super) async fn list_files(&self, list: &ListFiles) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (plan, stage) = self.stores.plan(&*view, &list.location, None, list.pattern.clone())?;
        let source = self.stores.resolve(&*view, &plan)?;
        let creator = stage.map(|stage| stage.creator);
        let mut files = source.list()?;
        let row = move |path: &str, version: &stevedore_common::file_identity::FileVersion| {
            vec![
                Value::from(source.name_of(path)),
                version.size.into(),
                version.etag.clone().into(),
                // Not every store tells it.
                Some(version.last_modified_ms).filter(|ms| *ms != 0).into(),
                creator.clone().into(),
            ]
        };
        let mut head = Vec::new();
        while head.len() < MOST_SORTED {
            match files.next().await {
                Some(file) => {
                    let file = file?;
                    head.push(row(&file.path, &file.version));
                }
                None => break,
            }
        }
        let name = |row: &Vec<Value>| match row.first() {
            Some(Value::Text(name)) => name.clone(),
            _ => String::new(),
        };
        head.sort_by_cached_key(name);
        let sorted = head.chunks(BATCH_ROWS).map(|rows| batch_of(show::FILES, rows)).collect::<Vec<_>>();
        let rest = files.chunks(BATCH_ROWS).map(move |chunk| {
            let rows = chunk
                .into_iter()
                .map(|file| file.map(|file| row(&file.path, &file.version)))
                .collect::<Result<Vec<_>>>()?;
            batch_of(show::FILES, &rows)
        });
        Ok(Execution {
            schema: schema_of(show::FILES),
            batches: futures::stream::iter(sorted).chain(rest).boxed(),
            affected: None,
            session_change: None,
        })
    }

    pub(super) async fn remove_files(&self, list: &ListFiles) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (plan, _) = self.stores.plan(&*view, &list.location, None, list.pattern.clone())?;
        let source = self.stores.resolve(&*view, &plan)?;
        let mut files = source.list()?;
        let mut removed = Vec::new();
        while let Some(file) = files.next().await {
            let file = file?;
            source.store.delete(&file.path).await?;
            removed.push(vec![Value::from(source.name_of(&file.path))]);
        }
        Ok(Execution::rows(REMOVED, &removed)?.with_affected(removed.len() as i64))
    }
}
