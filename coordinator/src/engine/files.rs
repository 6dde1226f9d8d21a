//! LIST, REMOVE and PRESIGN.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use stevedore_common::Result;
use stevedore_sql::ast::{ListFiles, LocationRef, PresignFile};

use super::{Engine, Execution, StatementHandle, show};
use crate::results::ColumnKind::Text;
use crate::results::{Columns, Value, batch_of, schema_of};
use crate::stores::ResolvedSource;

/// The columns of REMOVE.
pub(super) const REMOVED: Columns = &[("name", Text)];
/// The columns of PRESIGN; the headers are those that the request must carry, as JSON.
pub(super) const PRESIGNED: Columns = &[("method", Text), ("headers", Text), ("url", Text)];
/// Rows in one batch of LIST.
const BATCH_ROWS: usize = 4096;
/// A listing up to this size is sorted by name; beyond it the order is the store's.
pub(super) const MOST_SORTED: usize = 100_000;

impl Engine {
    /// A place in a stage, by the names that the catalog has; `~` is the user's own stage.
    ///
    /// # Errors
    /// Not found; invalid input for a path that leaves the stage.
    pub async fn place_in_stage(
        &self,
        user: &str,
        stage: &str,
        path: &str,
        pattern: Option<String>,
    ) -> Result<ResolvedSource> {
        let path = path.to_owned();
        let location = match stage {
            "~" => LocationRef::UserStage { path },
            name => LocationRef::Stage { name: name.to_owned(), path },
        };
        let view = self.replica.read().await?;
        let (plan, _) = self.stores.plan(&*view, user, &location, None, pattern)?;
        self.stores.resolve(&*view, &plan)
    }

    pub(super) async fn list_files(&self, handle: &StatementHandle, list: &ListFiles) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (plan, stage) =
            self.stores.plan(&*view, &handle.user, &list.location, None, list.pattern.clone())?;
        let source = self.stores.resolve(&*view, &plan)?;
        let creator = match &list.location {
            LocationRef::UserStage { .. } => Some(handle.user.clone()),
            _ => stage.map(|stage| stage.creator),
        };
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

    pub(super) async fn remove_files(&self, handle: &StatementHandle, list: &ListFiles) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (plan, _) = self.stores.plan(&*view, &handle.user, &list.location, None, list.pattern.clone())?;
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

    /// The URL is signed here; whoever has it reaches the file without the cluster.
    pub(super) async fn presign(&self, handle: &StatementHandle, presign: &PresignFile) -> Result<Execution> {
        let view = self.replica.read().await?;
        let (plan, _) = self.stores.plan(&*view, &handle.user, &presign.location, None, None)?;
        let source = self.stores.resolve(&*view, &plan)?;
        let at = |e: stevedore_common::Error| e.context(format!("location {}", presign.location));
        let path = source.file().map_err(at)?;
        let expires = Duration::from_secs(u64::from(presign.expire_seconds));
        let signed = source.store.presign(presign.upload, path, expires).await.map_err(at)?;
        let mut headers: BTreeMap<&str, &str> = signed.headers.into_iter().collect();
        headers.extend(presign.content_type.as_deref().map(|content_type| ("content-type", content_type)));
        let method = if presign.upload { "PUT" } else { "GET" };
        let row = vec![
            method.into(),
            serde_json::json!(headers).to_string().into(),
            signed.url.expose().as_str().into(),
        ];
        Execution::rows(PRESIGNED, &[row])
    }
}
