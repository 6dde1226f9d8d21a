//! What the tour says at its end: where the tables lie, how other programs reach them, what to try.

use std::path::Path;

use stevedore_common::Result;

use super::folder::TourFolder;

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The last page.
///
/// # Errors
/// A table's metadata file is not where it should be.
pub(super) fn farewell(folder: &TourFolder) -> Result<String> {
    let metadata = folder.newest_metadata("default", "frame_events")?;
    let quoted = metadata.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let sql_quoted = metadata.display().to_string().replace('\'', "''");
    let instance = shell_word(&folder.instance());
    let files = shell_word(&folder.files());
    Ok(format!(
        r#"── Where the tables lie, and how to go on

The newest Iceberg metadata of frame_events is
  {metadata}
and other engines read the table from it:
  PyIceberg   from pyiceberg.table import StaticTable
              StaticTable.from_metadata("{quoted}").scan().to_arrow()
  DuckDB      INSTALL iceberg; LOAD iceberg;
              SELECT count(*) FROM iceberg_scan('{sql_quoted}');

A server over the same data, and a shell for it:
  stevedore local --data-dir {instance} --allow-fs {files}
  stevedore sql
or the shell alone, without a server:
  stevedore sql --data-dir {instance} --allow-fs {files}
From Python, with the server running (pip install adbc-driver-flightsql pyarrow):
  import adbc_driver_flightsql.dbapi as flightsql
  with flightsql.connect("grpc://127.0.0.1:8900") as connection, connection.cursor() as cursor:
      cursor.execute("SELECT event_type, count(*) FROM frame_events GROUP BY 1")
      print(cursor.fetch_arrow_table())

To try next:
  SHOW CREATE TABLE frame_payloads;
  SELECT payload:detections[0].box FROM frame_payloads LIMIT 5;
  SHOW TASKS;      -- collect_risky_frames goes on every minute while a server runs
  CREATE TABLE near_misses AS SELECT * FROM frame_events WHERE event_type = 'near_miss';
  your own files: CREATE STAGE mine URL = 's3://bucket/path/' CONNECTION = (…);
"#,
        metadata = metadata.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(shell_word(Path::new("/tmp/qs-1/files")), "/tmp/qs-1/files");
        assert_eq!(shell_word(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }

    #[test]
    fn sizes_are_in_megabytes() {
        assert_eq!(size(12_345_678), "12.3 MB");
    }
}
