//! What a table holds, found without our own scan: the catalog is only asked for the metadata file;
//! from there on manifests are read by the `iceberg` crate and data files by the `parquet` crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow_flight::FlightInfo;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{Any, Command, TicketStatementQuery};
use iceberg::spec::{DataContentType, FormatVersion, Manifest, ManifestList, ManifestStatus, TableMetadata};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use tonic::transport::Endpoint;

/// The statement handle inside a FlightInfo's ticket, as JSON.
pub fn handle_of(info: &FlightInfo) -> serde_json::Value {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let any = Any::decode(&*ticket.ticket).unwrap();
    let Command::TicketStatementQuery(TicketStatementQuery { statement_handle }) =
        Command::try_from(any).unwrap()
    else {
        panic!("the ticket is not one of a statement");
    };
    serde_json::from_slice(&statement_handle).unwrap()
}

/// The metadata file that a table's readers are given now; `None` while it has no snapshot.
pub async fn metadata_location(url: &str, table: &str) -> Option<String> {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut client = FlightSqlServiceClient::new(channel);
    let info = client.execute(format!("SELECT * FROM {table}"), None).await.unwrap();
    let handle = handle_of(&info);
    let pins = handle.get("pins").and_then(|pins| pins.as_object()).cloned().unwrap_or_default();
    assert!(pins.len() <= 1, "one table is read: {pins:?}");
    pins.values().next().map(|location| location.as_str().unwrap().to_owned())
}

/// A reader of one coordinator's tables.
pub struct Oracle<'a> {
    url: &'a str,
    buckets: Option<&'a Path>,
}

impl<'a> Oracle<'a> {
    /// Over tables on the local disk.
    pub fn new(url: &'a str) -> Self {
        Self { url, buckets: None }
    }

    /// Also over tables in an S3 server's buckets, which are folders in this one.
    pub fn with_buckets(url: &'a str, buckets: &'a Path) -> Self {
        Self { url, buckets: Some(buckets) }
    }

    fn local(&self, uri: &str) -> PathBuf {
        if let Some(key) = uri.strip_prefix("s3://") {
            return self.buckets.unwrap_or_else(|| panic!("no buckets for {uri}")).join(key);
        }
        PathBuf::from(uri.split_once("://").map_or(uri, |(_, path)| path))
    }

    /// The data files of a table's current snapshot.
    pub async fn data_files(&self, table: &str) -> Vec<PathBuf> {
        let Some(location) = metadata_location(self.url, table).await else { return Vec::new() };
        let metadata = std::fs::read(self.local(&location)).unwrap();
        let metadata: TableMetadata = serde_json::from_slice(&metadata).unwrap();
        let Some(snapshot) = metadata.current_snapshot() else { return Vec::new() };
        let list = std::fs::read(self.local(snapshot.manifest_list())).unwrap();
        let list = ManifestList::parse_with_version(&list, FormatVersion::V2).unwrap();
        let mut files = Vec::new();
        for manifest in list.entries() {
            let manifest = std::fs::read(self.local(&manifest.manifest_path)).unwrap();
            for entry in Manifest::parse_avro(&manifest).unwrap().entries() {
                if entry.status() == ManifestStatus::Deleted {
                    continue;
                }
                let file = entry.data_file();
                assert_eq!(file.content_type(), DataContentType::Data, "delete files are not expected");
                files.push(self.local(file.file_path()));
            }
        }
        files
    }

    /// All rows of a table, by the Parquet crate.
    pub async fn batches(&self, table: &str) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for path in self.data_files(table).await {
            let file = File::open(&path).unwrap_or_else(|e| panic!("data file {}: {e}", path.display()));
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            batches.extend(reader.map(Result::unwrap));
        }
        batches
    }

    /// How often each (file, row) pair is in a table with such columns.
    pub async fn numbered_rows(&self, table: &str) -> BTreeMap<(i64, i64), usize> {
        let mut found = BTreeMap::new();
        for batch in self.batches(table).await {
            let column = |name: &str| {
                let array = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
                cast(array, &DataType::Int64).unwrap()
            };
            let (files, rows) = (column("file"), column("row"));
            let (files, rows) = (files.as_primitive::<Int64Type>(), rows.as_primitive::<Int64Type>());
            for (file, row) in files.iter().zip(rows) {
                *found.entry((file.unwrap(), row.unwrap())).or_default() += 1;
            }
        }
        found
    }

    /// Asserts that a table holds each row of each of `files` files exactly once, and nothing else.
    pub async fn assert_exactly_once(&self, table: &str, files: usize, rows: usize) {
        let found = self.numbered_rows(table).await;
        let doubled: Vec<_> = found.iter().filter(|(_, times)| **times > 1).take(5).collect();
        assert!(doubled.is_empty(), "rows that are there more than once, among others: {doubled:?}");
        let missing: Vec<(usize, usize)> = (0..files)
            .flat_map(|file| (0..rows).map(move |row| (file, row)))
            .filter(|(file, row)| !found.contains_key(&(*file as i64, *row as i64)))
            .take(5)
            .collect();
        assert!(missing.is_empty(), "rows that are missing, among others: {missing:?}");
        assert_eq!(found.len(), files * rows, "rows that no file has");
    }
}

/// All rows of a table on the local disk.
pub async fn batches(url: &str, table: &str) -> Vec<RecordBatch> {
    Oracle::new(url).batches(table).await
}

/// How often each (file, row) pair is in a table on the local disk.
pub async fn numbered_rows(url: &str, table: &str) -> BTreeMap<(i64, i64), usize> {
    Oracle::new(url).numbered_rows(table).await
}

/// [`Oracle::assert_exactly_once`] for a table on the local disk.
pub async fn assert_exactly_once(url: &str, table: &str, files: usize, rows: usize) {
    Oracle::new(url).assert_exactly_once(table, files, rows).await;
}
