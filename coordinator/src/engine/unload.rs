//! COPY INTO a location: a job whose query's rows become files of a store.
//!
//! Here the statement is bound and its result read from the job's record. Workers write the files under hidden
//! names; the leader gives them their own names in the job's committing phase (`scheduler::unload`).

use iceberg::spec::TableMetadata;
use stevedore_common::file_format::{Compression, FileFormat, FormatKind};
use stevedore_common::ids::JobId;
use stevedore_common::storage::ListOptions;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_sql::ast::{LocationRef, Unload};
use stevedore_state::jobs::{JobKind, JobSpec};

use futures::StreamExt;

use super::load::{query_job, query_plan};
use super::streams::consumed;
use super::{Engine, Execution, StatementHandle};
use crate::planner::plan::{JobPlan, PlacePlan, RelationPlan, RelationTarget, UnloadPlan};
use crate::results::ColumnKind::{BigInt, Text, UnsignedBigInt};
use crate::results::{Columns, Value};
use crate::scheduler::unload::unloaded_files;
use crate::stores::ResolvedSource;

/// The columns of COPY INTO a location.
const SUMMARY: Columns =
    &[("rows_unloaded", UnsignedBigInt), ("input_bytes", UnsignedBigInt), ("output_bytes", UnsignedBigInt)];
/// The same with DETAILED_OUTPUT.
const DETAILED: Columns = &[("file_name", Text), ("file_size", BigInt), ("row_count", BigInt)];
/// The most slices that read one table.
const MOST_PARTS: u64 = 64;

/// The columns that the statement answers.
pub(super) fn columns_of(unload: &Unload) -> Columns {
    if unload.detailed_output { DETAILED } else { SUMMARY }
}

impl Engine {
    pub(super) async fn copy_into_location(
        &self,
        handle: &StatementHandle,
        unload: &Unload,
    ) -> Result<Execution> {
        if !self.job_exists(handle).await? {
            let spec = self.bind_unload(handle, unload).await?;
            self.create_job(JobId(handle.id), spec).await?;
        }
        let job = self.job_result(JobId(handle.id)).await?;
        let view = self.replica.local();
        let files = unloaded_files(&*view, &job)?;
        if unload.detailed_output {
            let mut rows: Vec<(String, Vec<Value>)> = files
                .into_iter()
                .map(|file| (file.name.clone(), vec![file.name.into(), file.bytes.into(), file.rows.into()]))
                .collect();
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            let rows: Vec<Vec<Value>> = rows.into_iter().map(|(_, row)| row).collect();
            return Ok(Execution::rows(DETAILED, &rows)?.with_affected(job.rows as i64));
        }
        let input = job.accepted_bytes;
        let row = vec![job.rows.into(), input.into(), job.output_bytes.into()];
        Ok(Execution::rows(SUMMARY, &[row])?.with_affected(job.rows as i64))
    }

    pub(super) async fn bind_unload(&self, handle: &StatementHandle, unload: &Unload) -> Result<JobSpec> {
        let view = self.replica.read().await?;
        let (mut target, stage) = self.stores.plan(&*view, &handle.user, &unload.location, None, None)?;
        let format = self.resolve_format(&*view, unload.file_format.as_ref(), stage.as_ref())?;
        check_format(&format)?;
        if !unload.use_raw_path {
            as_folder(&mut target.path, &mut target.place, &unload.location);
        }
        let place = self.stores.resolve(&*view, &target)?;
        if place.spec.root.scheme().is_http() {
            return Err(Error::not_supported(format!(
                "unloading to '{}': HTTP is read only",
                place.spec.root
            )));
        }
        place.store.check_allowed(&place.prefix)?;
        if unload.use_raw_path {
            place.file().map_err(|e| e.context("USE_RAW_PATH = true"))?;
        }
        check_free(unload, &place).await?;
        let (schema, relations, _) = self.query_schema(handle, &unload.query).await?;
        let columns = schema.fields().len() - usize::from(unload.partitioned);
        if columns == 0 {
            return Err(Error::invalid("the query gives no column to unload"));
        }
        for (index, field) in schema.fields().iter().take(columns).enumerate() {
            let twin = schema.fields().iter().take(index).any(|other| other.name() == field.name());
            if twin && matches!(format.kind, FormatKind::Parquet | FormatKind::Ndjson) {
                return Err(Error::invalid(format!("the query gives two columns named '{}'", field.name()))
                    .hint("name them apart with AS"));
            }
        }
        let parts = match relations.as_slice() {
            [RelationPlan { target: RelationTarget::Table { metadata_location, snapshot_id, .. }, .. }]
                if unload.query.is_row_by_row && !unload.single =>
            {
                self.parts_of(&*self.committer.load(metadata_location).await?, *snapshot_id)
            }
            _ => 1,
        };
        let consumes = consumed(&relations);
        let plan = JobPlan::Unload(Box::new(UnloadPlan {
            query: query_plan(handle, unload.query.sql.clone(), relations, Vec::new(), None),
            target,
            format,
            single: unload.single,
            max_file_bytes: unload.max_file_size,
            partitioned: unload.partitioned,
            include_query_id: unload.include_query_id,
            raw_path: unload.use_raw_path,
            parts,
        }));
        let plan = plan.store(JobId(handle.id), self.stores.warehouse().store()).await?;
        let table_name = unload.location.to_string();
        Ok(JobSpec { table_name, consumes, ..query_job(JobKind::Unload, handle, plan)? })
    }

    /// How many slices read a table as a snapshot has it, none: the current one.
    pub(super) fn parts_of(&self, metadata: &TableMetadata, snapshot: Option<i64>) -> u32 {
        let snapshot = match snapshot {
            Some(id) => metadata.snapshot_by_id(id),
            None => metadata.current_snapshot(),
        };
        let total = |key: &str| {
            let summary = &snapshot?.summary().additional_properties;
            summary.get(key)?.parse::<u64>().ok()
        };
        match (total("total-files-size"), total("total-data-files")) {
            (Some(bytes), Some(files)) => parts(bytes, files, self.scheduling.slice_bytes),
            _ => 1,
        }
    }
}

/// How many slices read so many bytes in so many files.
fn parts(bytes: u64, files: u64, slice_bytes: u64) -> u32 {
    let parts = bytes.div_ceil(slice_bytes.max(1)).min(files).clamp(1, MOST_PARTS);
    u32::try_from(parts).unwrap_or(1)
}

/// A location names a folder, also without its slash.
fn as_folder(path: &mut String, place: &mut PlacePlan, location: &LocationRef) {
    let slashed = |text: &mut String| {
        if !text.is_empty() && !text.ends_with('/') {
            text.push('/');
        }
    };
    match (location, place) {
        (LocationRef::Uri { .. }, PlacePlan::Connection { url, .. } | PlacePlan::Inline { url, .. }) => {
            slashed(url);
        }
        _ => slashed(path),
    }
}

fn check_format(format: &FileFormat) -> Result<()> {
    if !matches!(format.kind, FormatKind::Csv | FormatKind::Tsv | FormatKind::Ndjson | FormatKind::Parquet) {
        return Err(Error::not_supported(format!("unloading as {}", format.kind))
            .hint("allowed: CSV, TSV, NDJSON, PARQUET"));
    }
    if !matches!(format.encoding.to_ascii_lowercase().as_str(), "utf-8" | "utf8") {
        return Err(Error::not_supported(format!("unloading with ENCODING = '{}'", format.encoding))
            .hint("files are written in UTF-8"));
    }
    if format.compression == Compression::Zip {
        return Err(Error::not_supported("unloading with COMPRESSION = ZIP")
            .hint("allowed: AUTO, NONE, GZIP, BZ2, BROTLI, ZSTD, DEFLATE, RAW_DEFLATE, XZ"));
    }
    let escapes = |c: char| "bfrnt0'\\".contains(c);
    if format.kind == FormatKind::Tsv && format.field_delimiter.chars().any(escapes) {
        return Err(Error::not_supported(format!(
            "unloading TSV with FIELD_DELIMITER = '{}': one of its characters after a backslash means another",
            format.field_delimiter.escape_default()
        )));
    }
    Ok(())
}

/// Names without the query's id may be taken.
async fn check_free(unload: &Unload, place: &ResolvedSource) -> Result<()> {
    if unload.overwrite || (unload.include_query_id && !unload.use_raw_path) {
        return Ok(());
    }
    let taken = if unload.use_raw_path {
        match place.store.head(place.file()?).await {
            Ok(file) => Some(file.path),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        }
    } else {
        // Partitions have folders of their own: any file of such a name counts.
        let mut files = place.store.list(&place.prefix, ListOptions::default());
        let mut found = None;
        while let Some(file) = files.next().await {
            let path = file?.path;
            if path.rsplit('/').next().is_some_and(|name| name.starts_with("data_")) {
                found = Some(path);
                break;
            }
        }
        found
    };
    match taken {
        Some(path) => Err(Error::already_exists(format!("file '{}' exists already", place.name_of(&path)))
            .hint("remove it, or add OVERWRITE = true")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_without_its_slash_is_a_folder() {
        let mut place = PlacePlan::User("ada".into());
        for (given, wanted) in [("", ""), ("a", "a/"), ("a/", "a/")] {
            let mut path = given.to_owned();
            let location = LocationRef::UserStage { path: path.clone() };
            as_folder(&mut path, &mut place, &location);
            assert_eq!(path, wanted);
        }
    }

    #[test]
    fn a_large_table_is_read_in_parts_and_none_without_a_file() {
        let cases = [
            (0, 0, 1),
            (100, 9, 1),
            (101, 9, 2),
            (u64::MAX, 1, 1),
            (u64::MAX, 9, 9),
            (u64::MAX, u64::MAX, 64),
        ];
        for (bytes, files, expected) in cases {
            assert_eq!(parts(bytes, files, 100), expected, "{bytes} bytes in {files} files");
        }
    }

    #[test]
    fn formats_that_cannot_be_written_are_named() {
        let refused =
            |format: FileFormat| check_format(&format).map_err(|e| e.to_string()).err().unwrap_or_default();
        assert!(refused(FileFormat::defaults(FormatKind::Orc)).contains("unloading as ORC"));
        let csv = FileFormat::defaults(FormatKind::Csv);
        assert!(refused(FileFormat { encoding: "GBK".into(), ..csv.clone() }).contains("ENCODING = 'GBK'"));
        assert!(refused(FileFormat { compression: Compression::Zip, ..csv.clone() }).contains("ZIP"));
        assert_eq!(refused(csv), "");
        let tsv = FileFormat { field_delimiter: "n".into(), ..FileFormat::defaults(FormatKind::Tsv) };
        assert!(refused(tsv).contains("FIELD_DELIMITER"));
    }
}
