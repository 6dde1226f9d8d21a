//! Adding data files to a table, the first time and again on newer metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use iceberg::spec::{Operation, PrimitiveType, Schema, SchemaRef, TableMetadata, Type};
use stevedore_common::clock::UnixMillis;
use stevedore_common::{Error, Result};

use super::evolve::Evolution;
use super::manifests::{ParsedFiles, parse_data_files};
use super::snapshot::{Change, NewSnapshot, Totals};
use super::{Committer, Prepared, check_writable, failed};

/// Rows to add.
#[derive(Debug, Clone)]
pub struct Append {
    /// The data files as the workers reported them.
    pub data_files: Vec<String>,
    /// The schema that they were written with.
    pub schema_id: i32,
    /// The partition spec that they were written with.
    pub spec_id: i32,
    /// The job that wrote them.
    pub job_id: String,
    /// The try at committing it.
    pub commit_id: String,
    /// Now, by the leader's clock.
    pub now_ms: UnixMillis,
    /// More for the snapshot's summary.
    pub summary: BTreeMap<String, String>,
    /// Columns that come with the rows. The data files were written with `schema_id` and these.
    pub evolution: Option<Evolution>,
}

impl Committer {
    /// A version with the data files added. On newer metadata this is the rebase. Without data files
    /// there is still a snapshot, so that the job finds its commit.
    ///
    /// # Errors
    /// Conflict where the files no longer fit the table's columns or partitioning; storage.
    pub async fn append(&self, metadata_location: &str, append: &Append) -> Result<Prepared> {
        let base = self.prepare_base(metadata_location, append).await?;
        let mut written = Vec::new();
        let mut manifests = self.live_manifests(&base.metadata).await?;
        let snapshot = NewSnapshot::new(&base.metadata, append.now_ms);
        self.merge_small_manifests(&base.metadata, &snapshot, &mut manifests, &mut written).await?;
        let added =
            self.write_added(&base.metadata, &snapshot, &base.schema, append.spec_id, &base.files).await?;
        written.extend(added.iter().map(|manifest| manifest.manifest_path.clone()));
        // The newest first, as other engines write them: scans of recent rows find them early.
        let manifests = added.into_iter().chain(manifests).collect();
        let change = Change::added(&base.files);
        self.finish_snapshot(
            metadata_location,
            base,
            append,
            snapshot,
            Operation::Append,
            change,
            manifests,
            written,
        )
        .await
    }

    /// The metadata to build on, and the files as they are in it.
    pub(super) async fn prepare_base(&self, metadata_location: &str, append: &Append) -> Result<Base> {
        let current = self.load(metadata_location).await?;
        check_writable(&current)?;
        let totals = self.totals(&current).await?;
        let base = current.schema_by_id(append.schema_id).cloned().ok_or_else(|| {
            Error::conflict(format!("the table has no schema {} any more", append.schema_id))
        })?;
        let (metadata, schema) = match &append.evolution {
            Some(evolution) => evolution.apply(&current, &base)?,
            None => (current.clone(), base),
        };
        check_fits(&schema, metadata.current_schema())?;
        if append.spec_id != metadata.default_partition_spec_id() {
            return Err(Error::conflict("the table's partitioning changed while its rows were written"));
        }
        let partition_type = metadata
            .default_partition_spec()
            .partition_type(&schema)
            .map_err(|e| failed("binding the partition spec", e))?;
        let files =
            parse_data_files(append.data_files.clone(), append.spec_id, partition_type, schema.clone())
                .await?;
        Ok(Base { metadata, totals, schema, files })
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one snapshot, each used once")]
    pub(super) async fn finish_snapshot(
        &self,
        metadata_location: &str,
        base: Base,
        append: &Append,
        snapshot: NewSnapshot,
        operation: Operation,
        change: Change,
        manifests: Vec<iceberg::spec::ManifestFile>,
        mut written: Vec<String>,
    ) -> Result<Prepared> {
        let totals = change.apply(base.totals);
        let summary = snapshot.summary(operation, &change, &totals, append);
        let list = self.write_manifest_list(&base.metadata, &snapshot, manifests).await?;
        written.push(list.clone());
        let built = snapshot
            .build(&base.metadata, metadata_location, list, summary)
            .map_err(|e| failed("building table metadata", e))?;
        self.write_next(metadata_location, built, totals, written).await
    }
}

/// What a new snapshot is built on.
pub(super) struct Base {
    pub(super) metadata: Arc<TableMetadata>,
    pub(super) totals: Totals,
    pub(super) schema: SchemaRef,
    pub(super) files: ParsedFiles,
}

/// Whether files written with one schema can be read with another: every column that both have keeps
/// its type (or a promotion of it), and columns that only the current one has may be NULL.
fn check_fits(written: &Schema, current: &Schema) -> Result<()> {
    if written.schema_id() == current.schema_id() {
        return Ok(());
    }
    for field in current.as_struct().fields() {
        match written.field_by_id(field.id) {
            None if field.required => {
                return Err(Error::conflict(format!(
                    "column '{}' (NOT NULL) was added while the rows were written",
                    field.name
                )));
            }
            Some(old)
                if !reads_as(&old.field_type, &field.field_type) || (field.required && !old.required) =>
            {
                return Err(Error::conflict(format!(
                    "column '{}' changed from {} to {} while the rows were written",
                    field.name, old.field_type, field.field_type
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn reads_as(written: &Type, current: &Type) -> bool {
    match (written, current) {
        (Type::Primitive(PrimitiveType::Int), Type::Primitive(PrimitiveType::Long))
        | (Type::Primitive(PrimitiveType::Float), Type::Primitive(PrimitiveType::Double)) => true,
        (
            Type::Primitive(PrimitiveType::Decimal { precision: p, scale: s }),
            Type::Primitive(PrimitiveType::Decimal { precision: q, scale: t }),
        ) => s == t && p <= q,
        _ => written == current,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use iceberg::spec::NestedField;

    use super::*;

    fn schema(id: i32, fields: Vec<NestedField>) -> Schema {
        Schema::builder().with_schema_id(id).with_fields(fields.into_iter().map(Arc::new)).build().unwrap()
    }

    #[test]
    fn files_fit_while_their_columns_keep_their_types() {
        let int = || Type::Primitive(PrimitiveType::Int);
        let long = || Type::Primitive(PrimitiveType::Long);
        let string = || Type::Primitive(PrimitiveType::String);
        let written = schema(0, vec![NestedField::optional(1, "a", int())]);
        let cases = [
            (vec![NestedField::optional(1, "renamed", int()), NestedField::optional(2, "b", string())], true),
            (vec![NestedField::optional(1, "a", long())], true),
            (vec![NestedField::optional(2, "b", string())], true),
            (vec![NestedField::optional(1, "a", string())], false),
            (vec![NestedField::required(1, "a", int())], false),
            (vec![NestedField::optional(1, "a", int()), NestedField::required(2, "b", int())], false),
        ];
        for (fields, fits) in cases {
            let current = schema(1, fields);
            assert_eq!(check_fits(&written, &current).is_ok(), fits, "{current}");
        }
    }
}
