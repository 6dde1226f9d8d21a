//! The relations of a query as table providers.
//!
//! Comes in: what the spec says a generated name stands for. Goes out: a provider for each, and its
//! columns for the resolution of names. Stage relations get their columns from the names that the
//! statement mentions.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use iceberg::io::FileIO;
use stevedore_common::error::ResultExt;
use stevedore_common::storage::{Stores, file_io};
use stevedore_common::{Error, Result};
use stevedore_proto::v1::{Relation, StorageAccess, TableScan, relation};
use tokio::runtime::Handle;

use super::error::from_datafusion;
use super::manifests::MetadataCache;
use super::names::RelationColumns;
use super::numbered_scan::NumberedTable;
use super::origins::Origins;
use super::schema_scan;
use super::spelling::planned_names;
use super::stage_scan::{StageReader, StageTable};
use super::stream_scan;
use super::table_scan::IcebergTable;
use crate::storage_access::storage_spec;

/// What relations are built with.
pub(crate) struct Sources {
    pub(crate) stores: Arc<Stores>,
    pub(crate) cache: Arc<MetadataCache>,
    pub(crate) stages: Arc<dyn StageReader>,
    pub(crate) io: Handle,
}

/// What a statement mentions.
pub(crate) struct Mentions {
    /// Every identifier that may be a column.
    pub(crate) names: BTreeSet<String>,
    /// Whether there is a `*` in a select list.
    pub(crate) star: bool,
}

/// A relation, ready to be planned.
pub(crate) struct Provided {
    pub(crate) name: String,
    pub(crate) provider: Arc<dyn TableProvider>,
    pub(crate) columns: RelationColumns,
    /// Planned names and how they are spelt.
    pub(crate) spelling: Vec<(String, String)>,
}

impl Sources {
    /// Builds the provider of a relation. Runs on the I/O runtime.
    pub(crate) async fn provide(
        &self,
        relation: Relation,
        mentions: &Mentions,
        settings: &std::collections::HashMap<String, String>,
        origins: &Arc<Origins>,
    ) -> Result<Provided> {
        let name = relation.name;
        match relation.relation {
            Some(relation::Relation::Table(scan)) => {
                let table = self.table(&scan).await?;
                let spelling = table.spelling();
                let provider: Arc<dyn TableProvider> = match scan.numbered {
                    true => Arc::new(NumberedTable::new(table, scan.files, Arc::clone(origins))),
                    false => Arc::new(table),
                };
                Ok(Provided { columns: all_columns(&provider.schema()), provider, name, spelling })
            }
            Some(relation::Relation::Rows(bytes)) => {
                let (schema, batches) = read_ipc(&bytes).context(|| format!("the rows of {name}"))?;
                let planned = planned_names(schema.fields().iter().map(|field| field.name().as_str()));
                let fields: Vec<Field> = schema
                    .fields()
                    .iter()
                    .zip(&planned)
                    .map(|(field, name)| field.as_ref().clone().with_name(name))
                    .collect();
                let spelt = schema.fields().iter().map(|field| field.name().clone());
                let spelling = planned.iter().cloned().zip(spelt).collect();
                let schema = Arc::new(Schema::new(fields));
                let batches = batches
                    .into_iter()
                    .map(|batch| {
                        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                        let columns = batch.columns().to_vec();
                        RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)
                    })
                    .collect::<std::result::Result<Vec<_>, _>>()?;
                let table = MemTable::try_new(schema, vec![batches]).map_err(|e| from_datafusion(&e))?;
                let provider: Arc<dyn TableProvider> = Arc::new(table);
                Ok(Provided { columns: all_columns(&provider.schema()), provider, name, spelling })
            }
            Some(relation::Relation::Stage(scan)) => {
                let cast = super::functions::cast_options(settings)?;
                let (table, columns) =
                    StageTable::open(scan, cast, mentions, Arc::clone(&self.stages), self.io.clone()).await?;
                let spelling = table.spelling();
                Ok(Provided { columns, provider: Arc::new(table), name, spelling })
            }
            Some(relation::Relation::Schema(scan)) => {
                let provider = schema_scan::provider(scan, Arc::clone(&self.stages), self.io.clone())?;
                let columns = all_columns(&provider.schema());
                let spelling = columns.columns.iter().map(|name| (name.clone(), name.clone())).collect();
                Ok(Provided { columns, provider, name, spelling })
            }
            Some(relation::Relation::Stream(scan)) => {
                let file_io = self.file_io(scan.warehouse.as_ref())?;
                let (provider, spelling) =
                    stream_scan::provider(&scan, file_io, &self.cache, &self.io, origins).await?;
                Ok(Provided { columns: all_columns(&provider.schema()), provider, name, spelling })
            }
            None => Err(Error::internal(format!("relation {name} of the query is of an unknown kind"))),
        }
    }

    fn file_io(&self, access: Option<&StorageAccess>) -> Result<FileIO> {
        let access = access.ok_or_else(|| Error::internal("a table scan names no warehouse"))?;
        Ok(file_io(&self.stores.get(&storage_spec(access)?)?))
    }

    pub(crate) async fn table(&self, scan: &TableScan) -> Result<IcebergTable> {
        let file_io = self.file_io(scan.warehouse.as_ref())?;
        let cache = Arc::clone(&self.cache);
        let mut table =
            IcebergTable::open(file_io, &scan.metadata_location, scan.snapshot_id, cache, self.io.clone())
                .await?;
        if scan.empty {
            table.forget_snapshot();
        }
        // Numbers of files are places in the order that shares have.
        if scan.parts > 1 || scan.numbered {
            table.take_part(scan.part as usize, scan.parts.max(1) as usize);
        }
        Ok(table)
    }
}

fn all_columns(schema: &SchemaRef) -> RelationColumns {
    RelationColumns {
        columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
        ..RelationColumns::default()
    }
}

/// Reads an Arrow IPC stream.
pub(crate) fn read_ipc(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}
