//! Which row a row is, across the files that it is copied into, and which snapshots keep that known.
//!
//! Owns: the columns that data files carry beside those of their table once rows were copied into them, and the
//! rule that says whether all changes between two snapshots are known row by row.
//!
//! A row is the file and the position in which it was first written. Files that only hold new rows say nothing
//! more; files that a DELETE, UPDATE or MERGE INTO wrote have these columns for the rows that they took over:
//!
//! | column | in a row that was taken over | NULL |
//! |---|---|---|
//! | origin file | the data file that it was first written to | the row is new: this file |
//! | origin position | its physical position there | this position |
//! | added | the data sequence number of the snapshot that inserted it | that of this file |
//! | updated | that of the snapshot in which it last changed | that of this file |
//!
//! Their field ids lie in the range that Iceberg reserves, so that no column of a table has one of them, and other
//! engines, which read columns by field id, pass over them.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{
    NestedField, NestedFieldRef, Operation, PrimitiveType, Schema, SnapshotRef, TableMetadata, Type,
};

use crate::error::{Error, Result};

/// The summary key that names the job whose rows a snapshot added.
pub const JOB_ID: &str = "stevedore.job-id";
/// The summary key of snapshots that replaced data files: all rows that they took over say which they are.
pub const ROW_LINEAGE: &str = "stevedore.row-lineage";

/// Field id of the origin file.
pub const ORIGIN_FILE: i32 = 2_147_483_448;
/// Field id of the origin position.
pub const ORIGIN_POSITION: i32 = 2_147_483_449;
/// Field id of the data sequence number with which a row was inserted.
pub const ADDED_SEQUENCE: i32 = 2_147_483_450;
/// Field id of the data sequence number with which a row last changed, as in Iceberg's format version 3.
pub const UPDATED_SEQUENCE: i32 = 2_147_483_539;
/// Field ids above this one are reserved.
const LAST_FREE_ID: i32 = i32::MAX - 200;

/// The columns, in the order in which they follow those of a table.
pub const COLUMNS: [(&str, i32, PrimitiveType); 4] = [
    ("_row_origin_file", ORIGIN_FILE, PrimitiveType::String),
    ("_row_origin_position", ORIGIN_POSITION, PrimitiveType::Long),
    ("_row_added_sequence_number", ADDED_SEQUENCE, PrimitiveType::Long),
    ("_last_updated_sequence_number", UPDATED_SEQUENCE, PrimitiveType::Long),
];

/// Whether no column of a table has this field id.
pub fn is_reserved(field_id: i32) -> bool {
    field_id > LAST_FREE_ID
}

/// The schema of files that hold rows which were taken over. A column whose name the table uses gets another one:
/// only ids count.
///
/// # Errors
/// Internal: the fields make no schema.
pub fn with_lineage(schema: &Schema) -> Result<Schema> {
    let mut fields: Vec<NestedFieldRef> = schema.as_struct().fields().to_vec();
    for (name, id, ty) in COLUMNS {
        let mut name = name.to_owned();
        while fields.iter().any(|field| field.name.eq_ignore_ascii_case(&name)) {
            name.push('_');
        }
        fields.push(Arc::new(NestedField::optional(id, name, Type::Primitive(ty))));
    }
    Schema::builder()
        .with_schema_id(schema.schema_id())
        .with_identifier_field_ids(schema.identifier_field_ids())
        .with_fields(fields)
        .build()
        .map_err(|e| Error::internal(format!("a table's columns and those of row lineage: {e}")))
}

/// The columns of a stream that follow those of its table: what happened to a row, whether that is half of an update,
/// and which row it is.
pub const CHANGE_COLUMNS: [&str; 3] = ["change$action", "change$is_update", "change$row_id"];

/// What a data file is called as the origin of rows: its name below the table's data folder, or all of its location.
pub fn origin_name<'f>(table_location: &str, file: &'f str) -> &'f str {
    let below = file.strip_prefix(table_location.trim_end_matches('/'));
    below.and_then(|path| path.strip_prefix("/data/")).unwrap_or(file)
}

/// Why the changes between two snapshots are not known row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unexplained {
    /// The first one is gone.
    FromGone(i64),
    /// The last one is gone.
    ToGone(i64),
    /// One between them is gone.
    BetweenGone(i64),
    /// The first one does not lead to the last one: the table was set back.
    NotAncestor {
        /// The first one.
        from: i64,
        /// The last one.
        to: i64,
    },
    /// A snapshot replaced data files and did not keep which row is which.
    Replaced {
        /// The snapshot.
        snapshot: i64,
        /// What it did, as its summary says.
        operation: String,
    },
}

impl std::fmt::Display for Unexplained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FromGone(id) | Self::ToGone(id) | Self::BetweenGone(id) => {
                write!(f, "snapshot {id} of the table is gone; it may have been expired")
            }
            Self::NotAncestor { from, to } => {
                write!(f, "snapshot {to} does not follow snapshot {from}: the table was set back")
            }
            Self::Replaced { snapshot, operation } => write!(
                f,
                "snapshot {snapshot} ({operation}) was made by a writer that does not keep which row is which"
            ),
        }
    }
}

/// Whether it is known what a snapshot did to each row: it only added rows or only took files away, or it kept the
/// lineage of the rows that it copied.
pub fn explains_rows(operation: &Operation, summary: &HashMap<String, String>) -> bool {
    match operation {
        Operation::Append => true,
        // Other engines may delete rows beside their files, which changes files that stay.
        Operation::Delete if summary.contains_key(JOB_ID) => true,
        Operation::Delete | Operation::Overwrite | Operation::Replace => {
            summary.get(ROW_LINEAGE).is_some_and(|kept| kept == "true")
        }
    }
}

/// Checks that all changes after snapshot `from` up to snapshot `to` are known row by row. `from` 0 is before the
/// first one: whatever is there at `to` is new then. `to` 0: there is no snapshot yet.
///
/// # Errors
/// Why they are not.
pub fn explain(metadata: &TableMetadata, from: i64, to: i64) -> std::result::Result<(), Unexplained> {
    if to == 0 {
        return match from {
            0 => Ok(()),
            from => Err(Unexplained::NotAncestor { from, to }),
        };
    }
    let mut snapshot: &SnapshotRef = metadata.snapshot_by_id(to).ok_or(Unexplained::ToGone(to))?;
    if from == 0 {
        return Ok(());
    }
    if metadata.snapshot_by_id(from).is_none() {
        return Err(Unexplained::FromGone(from));
    }
    let mut between = Vec::new();
    while snapshot.snapshot_id() != from {
        between.push(snapshot);
        let parent = snapshot.parent_snapshot_id().ok_or(Unexplained::NotAncestor { from, to })?;
        snapshot = metadata.snapshot_by_id(parent).ok_or(Unexplained::BetweenGone(parent))?;
    }
    for snapshot in between.into_iter().rev() {
        let summary = snapshot.summary();
        if !explains_rows(&summary.operation, &summary.additional_properties) {
            let operation = summary.operation.as_str().to_owned();
            return Err(Unexplained::Replaced { snapshot: snapshot.snapshot_id(), operation });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use iceberg::TableCreation;
    use iceberg::spec::{MAIN_BRANCH, Snapshot, Summary, TableMetadataBuilder};

    use super::*;

    fn schema(names: &[&str]) -> Schema {
        let field = |(id, name): (i32, &&str)| {
            Arc::new(NestedField::optional(id, *name, Type::Primitive(PrimitiveType::Int)))
        };
        Schema::builder().with_fields((1..).zip(names).map(field)).build().unwrap()
    }

    /// A table whose snapshots 1, 2, 3, … follow one another.
    fn table(snapshots: &[(Operation, &[(&str, &str)])]) -> TableMetadata {
        let creation = TableCreation::builder()
            .name("t".to_owned())
            .location("file:///t".to_owned())
            .schema(schema(&["a"]))
            .build();
        let mut metadata =
            TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
        for (id, (operation, summary)) in (1..).zip(snapshots) {
            let additional_properties =
                summary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let snapshot = Snapshot::builder()
                .with_snapshot_id(id)
                .with_parent_snapshot_id((id > 1).then_some(id - 1))
                .with_sequence_number(id)
                .with_timestamp_ms(metadata.last_updated_ms() + 1)
                .with_manifest_list(format!("file:///t/metadata/{id}.avro"))
                .with_summary(Summary { operation: operation.clone(), additional_properties })
                .with_schema_id(0)
                .build();
            let builder = metadata.into_builder(None).set_branch_snapshot(snapshot, MAIN_BRANCH).unwrap();
            metadata = builder.build().unwrap().metadata;
        }
        metadata
    }

    fn without(metadata: TableMetadata, snapshot: i64) -> TableMetadata {
        metadata.into_builder(None).remove_snapshots(&[snapshot]).build().unwrap().metadata
    }

    #[test]
    fn a_snapshot_explains_its_rows_where_it_kept_them_apart() {
        let ours: &[(&str, &str)] = &[(JOB_ID, "j")];
        let kept: &[(&str, &str)] = &[(JOB_ID, "j"), (ROW_LINEAGE, "true")];
        let cases = [
            (Operation::Append, &[][..], true),
            (Operation::Append, ours, true),
            (Operation::Delete, ours, true),
            (Operation::Delete, &[][..], false),
            (Operation::Overwrite, kept, true),
            (Operation::Overwrite, ours, false),
            (Operation::Overwrite, &[(ROW_LINEAGE, "false")], false),
            (Operation::Replace, &[][..], false),
            (Operation::Replace, kept, true),
        ];
        for (operation, summary, explained) in cases {
            let summary = summary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            assert_eq!(explains_rows(&operation, &summary.collect()), explained, "{operation:?}");
        }
    }

    #[test]
    fn the_changes_between_snapshots_are_explained_by_each_of_them() {
        let metadata = table(&[
            (Operation::Overwrite, &[]),
            (Operation::Append, &[]),
            (Operation::Overwrite, &[(ROW_LINEAGE, "true")]),
            (Operation::Append, &[]),
            (Operation::Replace, &[]),
            (Operation::Append, &[]),
        ]);
        // What led to the first snapshot does not matter, nor what came after the last one.
        assert_eq!(explain(&metadata, 1, 4), Ok(()));
        assert_eq!(explain(&metadata, 4, 4), Ok(()));
        assert_eq!(explain(&metadata, 5, 6), Ok(()));
        let replaced = Unexplained::Replaced { snapshot: 5, operation: "replace".to_owned() };
        assert_eq!(explain(&metadata, 4, 5), Err(replaced.clone()));
        assert_eq!(explain(&metadata, 1, 6), Err(replaced));
        // Before the first snapshot there was no row.
        assert_eq!(explain(&metadata, 0, 6), Ok(()));
        assert_eq!(explain(&metadata, 0, 0), Ok(()));
        assert_eq!(explain(&metadata, 1, 0), Err(Unexplained::NotAncestor { from: 1, to: 0 }));
        assert_eq!(explain(&metadata, 4, 2), Err(Unexplained::NotAncestor { from: 4, to: 2 }));
    }

    #[test]
    fn snapshots_that_are_gone_explain_nothing() {
        let appends =
            || table(&[(Operation::Append, &[]), (Operation::Append, &[]), (Operation::Append, &[])]);
        assert_eq!(explain(&appends(), 7, 3), Err(Unexplained::FromGone(7)));
        assert_eq!(explain(&appends(), 0, 7), Err(Unexplained::ToGone(7)));
        assert_eq!(explain(&without(appends(), 1), 1, 3), Err(Unexplained::FromGone(1)));
        assert_eq!(explain(&without(appends(), 2), 1, 3), Err(Unexplained::BetweenGone(2)));
        assert_eq!(explain(&without(appends(), 1), 2, 3), Ok(()));
    }

    #[test]
    fn the_columns_of_lineage_give_way_to_those_of_the_table() {
        let extended = with_lineage(&schema(&["a", "_ROW_origin_file"])).unwrap();
        let fields: Vec<(i32, &str)> =
            extended.as_struct().fields().iter().map(|field| (field.id, field.name.as_str())).collect();
        assert_eq!(fields[2], (ORIGIN_FILE, "_row_origin_file_"));
        assert_eq!(fields[5], (UPDATED_SEQUENCE, "_last_updated_sequence_number"));
        assert!(fields[2..].iter().all(|(id, _)| is_reserved(*id)));
        assert!(!is_reserved(1) && !is_reserved(i32::MAX - 200));
    }

    #[test]
    fn origins_are_named_within_the_data_folder() {
        assert_eq!(origin_name("s3://b/t", "s3://b/t/data/f.parquet"), "f.parquet");
        assert_eq!(origin_name("s3://b/t/", "s3://b/t/data/x=1/f.parquet"), "x=1/f.parquet");
        assert_eq!(origin_name("s3://b/t", "s3://b/t2/data/f.parquet"), "s3://b/t2/data/f.parquet");
    }
}
