use stevedore_common::types::SqlType;

use super::*;

fn wanted(columns: &[(&str, &str)]) -> Vec<WantedColumn> {
    let column = |(name, ty): &(&str, &str)| WantedColumn {
        name: (*name).to_owned(),
        ty: SqlType::parse(ty).unwrap(),
        exists: false,
    };
    columns.iter().map(column).collect()
}

impl World {
    /// Reserves over metadata whose last field id is 2.
    fn reserve(&mut self, job: JobId, columns: Vec<WantedColumn>) -> Vec<(String, i32)> {
        let command = Command::ReserveColumns { job, schema_id: 0, last_column_id: 2, columns };
        match self.ok(command) {
            CommandResult::Columns(ColumnsOutcome::Reserved(record)) => {
                assert_eq!(read::job_columns(&self.state, job).unwrap(), Some(record.clone()));
                record.columns.into_iter().map(|column| (column.name, column.id)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// A load that brings columns, claimed and not yet planned.
    fn bringing(&mut self, number: u128, table: TableId, columns: &[(&str, &str)]) -> (JobId, Vec<i32>) {
        let job = self.copy(number, table);
        let names: Vec<String> = (0..3).map(|n| format!("{number}-{n}")).collect();
        self.claim(job, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let reserved = self.reserve(job, wanted(columns));
        (job, reserved.into_iter().map(|(_, id)| id).collect())
    }

    /// Flips a table to another schema, as ALTER TABLE does.
    fn alter(&mut self, table: TableId, schema_id: i32, ids: Option<FieldIds>) -> TableCommitOutcome {
        let record = read::table_by_id(&self.state, table).unwrap().unwrap();
        let kind = TableChangeKind::Alter { comment: None };
        let change = TableChange {
            schema_id,
            new_field_ids: ids,
            ..table_change(&record, &format!("altered-{schema_id}"), kind)
        };
        match self.ok(Command::CommitTable(change)) {
            CommandResult::TableCommit(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn loads_that_bring_the_same_column_share_its_id_and_no_other_is_handed_out_twice() {
    let mut world = World::new();
    let table = world.table("t");
    let (_, a) = world.bringing(1, table, &[("x", "INT"), ("list", "ARRAY(INT)"), ("y", "INT")]);
    // The elements of a list have an id as well.
    assert_eq!(a, [3, 4, 6]);
    let (b, ids) = world.bringing(2, table, &[("y", "INT"), ("x", "DOUBLE"), ("z", "INT")]);
    assert_eq!(ids, [6, 7, 8]);
    // A name in another case is another column until its commit.
    assert_eq!(world.bringing(3, table, &[("X", "INT")]).1, [9]);
    // What was reserved for a job that is gone is not used again.
    world.end(b, JobEnding::Cancelled);
    assert_eq!(world.bringing(4, table, &[("z", "INT"), ("y", "INT")]).1, [10, 6]);
    // Another table has ids of its own.
    let other = world.table("other");
    assert_eq!(world.bringing(5, other, &[("x", "INT")]).1, [3]);
}

#[test]
fn an_id_that_the_metadata_knows_is_not_shared() {
    let mut world = World::new();
    let table = world.table("t");
    let (_, a) = world.bringing(1, table, &[("x", "INT")]);
    assert_eq!(a, [3]);
    // Meanwhile the column came to be, and was dropped: the metadata counts it.
    let job = world.copy(2, table);
    let columns = wanted(&[("x", "INT")]);
    let command = Command::ReserveColumns { job, schema_id: 0, last_column_id: 3, columns };
    let CommandResult::Columns(ColumnsOutcome::Reserved(record)) = world.ok(command) else { panic!() };
    assert_eq!(record.columns[0].id, 4);
}

#[test]
fn columns_are_compared_with_the_schema_that_the_table_has() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a"]);
    world.alter(table, 1, None);
    let reserve = |schema_id| Command::ReserveColumns {
        job,
        schema_id,
        last_column_id: 2,
        columns: vec![
            WantedColumn { exists: true, ..wanted(&[("there", "INT")]).remove(0) },
            wanted(&[("new", "INT")]).remove(0),
        ],
    };
    assert_eq!(world.ok(reserve(0)), CommandResult::Columns(ColumnsOutcome::Moved));
    assert_eq!(read::job_columns(&world.state, job).unwrap(), None);
    let CommandResult::Columns(ColumnsOutcome::Reserved(record)) = world.ok(reserve(1)) else { panic!() };
    let ids: Vec<i32> = record.columns.iter().map(|column| column.id).collect();
    assert_eq!((record.schema_id, ids.as_slice()), (1, [0, 3].as_slice()));
}

#[test]
fn alter_table_steps_around_ids_that_were_reserved_meanwhile() {
    let mut world = World::new();
    let table = world.table("t");
    let before = FieldIds { after: 0, last: 3 };
    let (_, ids) = world.bringing(1, table, &[("x", "INT")]);
    assert_eq!(ids, [3]);
    let moved = world.alter(table, 1, Some(before));
    assert_eq!(moved, TableCommitOutcome::Moved { current_location: "wh/t/v0".into() });
    let committed = world.alter(table, 1, Some(FieldIds { after: 3, last: 4 }));
    assert!(matches!(committed, TableCommitOutcome::Committed { .. }));
    // And loads step around its ids, whatever the metadata that they looked at says.
    let job = world.copy(2, table);
    let columns = wanted(&[("y", "INT")]);
    let command = Command::ReserveColumns { job, schema_id: 1, last_column_id: 2, columns };
    let CommandResult::Columns(ColumnsOutcome::Reserved(record)) = world.ok(command) else { panic!() };
    assert_eq!(record.columns[0].id, 5);
}

#[test]
fn a_load_that_brings_columns_commits_from_running() {
    let mut world = World::new();
    let table = world.table("t");
    let (job, _) = world.bringing(1, table, &[("x", "INT")]);
    world.plan(job, 1);
    let early = world.commit_command(job);
    assert_eq!(world.refused(Command::CommitJob(early)).kind(), ErrorKind::Conflict);
    world.accept_all(job);
    assert!(world.refused(Command::BeginCommit { job }).to_string().contains("brings columns"));
    let mut commit = world.commit_command(job);
    commit.tables[0].new_schema_id = Some(1);
    assert!(matches!(world.commit_with(commit), CommitOutcome::Committed(summary) if summary.rows == 6));
    let record = read::table_by_id(&world.state, table).unwrap().unwrap();
    assert_eq!((record.schema_id, record.num_rows, record.last_field_id), (1, 6, 3));
}

#[test]
fn slices_run_again_when_other_columns_are_reserved_and_what_they_reported_counts_no_more() {
    let mut world = World::new();
    let table = world.table("t");
    let (job, _) = world.bringing(1, table, &[("x", "INT"), ("y", "INT")]);
    world.plan(job, 1);
    let first = world.lease(job, 0, "w");
    let report = world.whole_report(first);
    let zombie = report.clone();
    world.ok(report);
    // Not while slices run: they would write different columns.
    let columns = wanted(&[("x", "DOUBLE"), ("y", "INT")]);
    let again = Command::ReserveColumns { job, schema_id: 0, last_column_id: 2, columns };
    assert_eq!(world.refused(again.clone()).kind(), ErrorKind::Conflict);
    world.accept_all(job);
    assert_eq!((world.job(job).rows, world.data_files(job).len()), (6, 3));
    let stale = world.commit_command(job);

    let CommandResult::Columns(ColumnsOutcome::Reserved(record)) = world.ok(again) else { panic!() };
    let ids: Vec<i32> = record.columns.iter().map(|column| column.id).collect();
    assert_eq!((record.rounds, ids.as_slice()), (1, [5, 6].as_slice()));
    // Nothing runs and nothing commits until all of them are reopened.
    assert_eq!(world.refused(Command::CommitJob(stale.clone())).kind(), ErrorKind::Conflict);
    assert_eq!(world.ok(Command::ReopenSlices { job, limit: 2 }), CommandResult::Progress { done: false });
    assert_eq!(world.refused(lease(job, 0, "w", false)).kind(), ErrorKind::Conflict);
    assert_eq!(world.ok(Command::ReopenSlices { job, limit: 2 }), CommandResult::Progress { done: true });
    assert_eq!(world.ok(Command::ReopenSlices { job, limit: 2 }), CommandResult::Progress { done: true });
    let reopened = world.job(job);
    assert_eq!((reopened.phase, reopened.accepted_slices, reopened.rows), (JobPhase::Running, 0, 0));
    assert_eq!((reopened.accepted_parts, reopened.accepted_bytes, reopened.data_files), (0, 0, 0));
    assert_eq!(reopened.output_bytes, 0);
    assert!(world.data_files(job).is_empty());
    assert!(world.statuses(job).iter().all(|file| file.status == FileStatusKind::Pending));
    // A report of the earlier round is late.
    assert_eq!(world.refused(zombie).kind(), ErrorKind::Conflict);

    world.accept_all(job);
    assert_eq!((world.job(job).rows, world.data_files(job).len()), (6, 3));
    assert!(matches!(world.commit_with(stale), CommitOutcome::Committed(summary) if summary.rows == 6));
}

#[test]
fn a_load_that_brings_columns_can_be_cancelled_while_its_slices_are_reopened() {
    let mut world = World::new();
    let table = world.table("t");
    let (job, _) = world.bringing(1, table, &[("x", "INT")]);
    world.plan(job, 1);
    world.accept_all(job);
    let columns = wanted(&[("x", "DOUBLE")]);
    world.ok(Command::ReserveColumns { job, schema_id: 0, last_column_id: 2, columns });
    world.end(job, JobEnding::Cancelled);
    assert_eq!(world.refused(Command::ReopenSlices { job, limit: 9 }).kind(), ErrorKind::Conflict);
    let two = world.copy(2, table);
    assert_eq!(world.claim(two, &["1-0", "1-1"]), [claimed(0), claimed(1)]);
}

#[test]
fn names_without_end_are_refused() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let many: Vec<String> = (0..=MAX_NEW_COLUMNS).map(|n| format!("c{n}")).collect();
    let columns = wanted(&many.iter().map(|name| (name.as_str(), "INT")).collect::<Vec<_>>());
    let reserve = |columns| Command::ReserveColumns { job, schema_id: 0, last_column_id: 2, columns };
    let error = world.refused(reserve(columns));
    assert!(error.to_string().contains("1001 columns that the table lacks"), "{error}");
    assert_eq!(world.refused(reserve(wanted(&[("", "INT")]))).kind(), ErrorKind::InvalidInput);
}
