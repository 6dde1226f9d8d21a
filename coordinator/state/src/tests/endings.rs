use super::*;

/// A job with all slices accepted and the commit begun.
fn committing(world: &mut World, number: u128, table: TableId, name: &str) -> JobId {
    let job = world.copy(number, table);
    world.claim(job, &[name]);
    world.plan(job, 1);
    world.accept_all(job);
    world.ok(Command::BeginCommit { job });
    job
}

#[test]
fn cancel_before_commit_wins() {
    let mut world = World::new();
    let table = world.table("t");
    let job = committing(&mut world, 1, table, "a");
    let commit = world.commit_command(job);
    assert_eq!(world.end(job, JobEnding::Cancelled), JobPhase::Cancelled);
    assert!(
        matches!(world.commit_with(commit), CommitOutcome::Aborted(error) if error.kind() == ErrorKind::Cancelled)
    );
    let record = read::table_by_id(&world.state, table).unwrap().unwrap();
    assert_eq!((record.num_rows, record.metadata_location.as_str()), (0, "wh/t/v0"));
    let two = world.copy(2, table);
    assert_eq!(world.claim(two, &["a"]), [claimed(0)]);
}

#[test]
fn commit_before_cancel_wins_and_a_commit_again_answers_success() {
    let mut world = World::new();
    let table = world.table("t");
    let job = committing(&mut world, 1, table, "a");
    let commit = world.commit_command(job);
    let outcome = world.commit_with(commit.clone());
    assert!(matches!(&outcome, CommitOutcome::Committed(summary) if summary.rows == 2));
    assert_eq!(world.end(job, JobEnding::Cancelled), JobPhase::Committed);
    assert_eq!(world.end(job, JobEnding::Aborted(Error::internal("late"))), JobPhase::Committed);
    assert_eq!(world.commit_with(commit), outcome);
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().num_rows, 2);
    assert_eq!(world.job(job).error, None);
}

#[test]
fn a_commit_that_lost_the_race_is_told_where_the_table_is_and_rebases() {
    let mut world = World::new();
    let table = world.table("t");
    let one = committing(&mut world, 1, table, "a");
    let two = committing(&mut world, 2, table, "b");
    let (first, second) = (world.commit_command(one), world.commit_command(two));
    world.commit_with(first.clone());
    let moved = world.commit_with(second);
    assert_eq!(moved, CommitOutcome::Moved { table, current_location: first.tables[0].new_location.clone() });
    assert_eq!(world.job(two).phase, JobPhase::Committing);
    let rebased = world.commit_command(two);
    assert!(matches!(world.commit_with(rebased), CommitOutcome::Committed(_)));
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().num_rows, 4);
}

#[test]
fn truncate_during_a_load_aborts_it_and_clears_the_ledger() {
    let mut world = World::new();
    let table = world.table("t");
    let before = world.copy(1, table);
    world.claim(before, &["a"]);
    world.load(before);
    let loading = committing(&mut world, 2, table, "b");
    let stale = world.commit_command(loading);
    world.truncate(table);

    assert_eq!(world.job(loading).phase, JobPhase::Aborted);
    assert!(world.job(loading).error.unwrap().to_string().contains("was truncated"));
    assert!(matches!(world.commit_with(stale), CommitOutcome::Aborted(_)));
    assert!(world.entry(table, "a").is_empty());
    let mut spec = copy_spec(table);
    spec.epoch = 1;
    assert!(world.refused(Command::CreateJob { job: job_id(3), spec }).is_retryable());
    let after = world.copy(4, table);
    assert_eq!(world.claim(after, &["a", "b"]), [claimed(0), claimed(1)]);
    // Settling the old loads does not bring their entries back.
    world.ok(Command::SettleLedger { job: before, limit: 10 });
    world.ok(Command::SettleLedger { job: loading, limit: 10 });
    assert_eq!(world.entry(table, "a").loaded_by, None);
}

#[test]
fn drop_during_a_load_aborts_it_and_undrop_finds_the_ledger() {
    let mut world = World::new();
    let table = world.table("t");
    let before = world.copy(1, table);
    world.claim(before, &["a"]);
    world.load(before);
    let loading = committing(&mut world, 2, table, "b");
    let stale = world.commit_command(loading);
    world.ok(Command::DropTable { database: "default".into(), name: "t".into(), if_exists: false });
    assert_eq!(world.job(loading).phase, JobPhase::Aborted);
    assert!(read::table(&world.state, "default", "t").unwrap().is_none());
    assert!(matches!(world.commit_with(stale.clone()), CommitOutcome::Aborted(_)));

    world.ok(Command::UndropTable { database: "default".into(), name: "t".into() });
    assert!(matches!(world.commit_with(stale), CommitOutcome::Aborted(_)));
    let after = world.copy(3, table);
    assert_eq!(world.claim(after, &["a", "b"]), [ClaimOutcome::AlreadyLoaded, claimed(0)]);
}

#[test]
fn replace_during_a_load_aborts_it_and_starts_an_empty_ledger() {
    let mut world = World::new();
    let table = world.table("t");
    let loading = committing(&mut world, 1, table, "a");
    let mut replacement = new_table("t");
    replacement.uuid = Uuid::from_u128(99);
    replacement.or_replace = true;
    world.ok(Command::CreateTable(replacement));
    assert_eq!(world.job(loading).phase, JobPhase::Aborted);
    let new = read::table(&world.state, "default", "t").unwrap().unwrap();
    assert_ne!(new.id, table);
    let after = world.copy(2, new.id);
    assert_eq!(world.claim(after, &["a"]), [claimed(0)]);
}

#[test]
fn an_overwrite_aborts_the_other_loads_of_its_table() {
    let mut world = World::new();
    let table = world.table("t");
    let other = committing(&mut world, 1, table, "a");
    let overwriting = committing(&mut world, 2, table, "b");
    let mut commit = world.commit_command(overwriting);
    commit.tables[0].overwrite = true;
    assert!(matches!(world.commit_with(commit), CommitOutcome::Committed(_)));
    assert_eq!(world.job(other).phase, JobPhase::Aborted);
    assert_eq!(world.job(overwriting).phase, JobPhase::Committed);
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().epoch, 2);
}

#[test]
fn a_commit_flips_several_tables_together_or_none() {
    let mut world = World::new();
    let (table, log) = (world.table("t"), world.table("log"));
    let job = committing(&mut world, 1, table, "a");
    let mut commit = world.commit_command(job);
    let mut second = commit.tables[0].clone();
    let record = read::table_by_id(&world.state, log).unwrap().unwrap();
    second.table = log;
    second.uuid = record.uuid;
    second.expected_location = "elsewhere".into();
    commit.tables.push(second);
    assert!(matches!(world.commit_with(commit.clone()), CommitOutcome::Moved { table, .. } if table == log));
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().metadata_location, "wh/t/v0");
    commit.tables[1].expected_location = record.metadata_location;
    assert!(matches!(world.commit_with(commit), CommitOutcome::Committed(_)));
    assert_ne!(read::table_by_id(&world.state, log).unwrap().unwrap().metadata_location, "wh/log/v0");
}

#[test]
fn a_commit_aborts_when_any_of_its_tables_is_not_the_one_it_rests_on() {
    let mut world = World::new();
    let (table, log) = (world.table("t"), world.table("log"));
    let job = committing(&mut world, 1, table, "a");
    let mut commit = world.commit_command(job);
    let record = read::table_by_id(&world.state, log).unwrap().unwrap();
    let mut second = commit.tables[0].clone();
    (second.table, second.uuid, second.expected_location) = (log, record.uuid, record.metadata_location);
    commit.tables.push(second);
    // The same metadata as before, but another epoch. The job does not load into it by itself.
    world.ok(Command::DropTable { database: "default".into(), name: "log".into(), if_exists: false });
    world.ok(Command::UndropTable { database: "default".into(), name: "log".into() });
    assert!(matches!(world.commit_with(commit), CommitOutcome::Aborted(_)));
    assert_eq!(world.job(job).phase, JobPhase::Aborted);
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().metadata_location, "wh/t/v0");
}

#[test]
fn files_written_with_another_schema_or_partition_spec_are_not_committed() {
    let mut world = World::new();
    let table = world.table("t");
    let job = committing(&mut world, 1, table, "a");
    let mut commit = world.commit_command(job);
    commit.tables[0].schema_id = 3;
    assert!(world.refused(Command::CommitJob(commit)).to_string().contains("written with schema 3"));
    assert_eq!(world.job(job).phase, JobPhase::Committing);
}

#[test]
fn create_table_as_creates_its_table_with_the_rows_or_not_at_all() {
    for exists in [false, true] {
        let mut world = World::new();
        let job = job_id(1);
        let mut spec = copy_spec(TableId(0));
        spec.kind = JobKind::CreateTableAs;
        (spec.table, spec.store) = (None, None);
        world.ok(Command::CreateJob { job, spec });
        let slices = vec![NewSlice { files: vec![], bytes: 0 }];
        world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices });
        world.ok(Command::SealJob { job, files: 0, slices: 1 });
        world.accept_all(job);
        world.ok(Command::BeginCommit { job });
        if exists {
            world.table("made");
        }
        let mut table = new_table("made");
        table.uuid = Uuid::from_u128(5);
        table.contents = TableContents { snapshot_id: Some(1), num_rows: 3, data_size: 9 };
        let commit = JobCommit { job, tables: vec![], new_table: Some(table) };
        if exists {
            assert_eq!(world.refused(Command::CommitJob(commit)).kind(), ErrorKind::AlreadyExists);
        } else {
            assert!(matches!(world.commit_with(commit), CommitOutcome::Committed(s) if s.table.is_some()));
            assert_eq!(read::table(&world.state, "default", "made").unwrap().unwrap().num_rows, 3);
        }
    }
}

#[test]
fn purge_is_recorded_file_by_file_and_a_path_that_appears_again_is_new() {
    // The ledger's entries are made explicit before the purge, or after it.
    purge(true);
    purge(false);
}

fn purge(settle_first: bool) {
    let mut world = World::new();
    let table = world.table("t");
    let on_error = OnError { mode: ErrorMode::Continue, limit: 0 };
    let job = world.copy_with(1, table, |spec| (spec.purge, spec.on_error) = (true, on_error));
    world.claim(job, &["a", "bad", "c", "d"]);
    world.plan(job, 4);
    let attempt = world.lease(job, 0, "w");
    let bad = with_errors(loaded(1, 0, 1), 1, 1);
    world.ok(report(attempt, 0, vec![loaded(0, 0, 2), bad, loaded(2, 0, 2), loaded(3, 0, 2)], vec![]));
    world.commit(job);
    assert_eq!(world.job(job).phase, JobPhase::Purging);
    if settle_first {
        world.ok(Command::SettleLedger { job, limit: 100 });
    }
    assert_eq!(read::live_jobs(&world.state).unwrap(), [job]);
    let purgeable = |world: &World| {
        let (files, _) = read::purgeable_files(&world.state, &world.job(job), None, 100).unwrap();
        files.into_iter().map(|file| file.name).collect::<Vec<_>>()
    };
    assert_eq!(purgeable(&world), ["a", "c", "d"]);
    let files = vec![(FileIndex(0), PurgeOutcome::Deleted), (FileIndex(2), PurgeOutcome::Changed)];
    world.ok(Command::RecordPurged { job, files: files.clone() });
    world.ok(Command::RecordPurged { job, files });
    assert_eq!((purgeable(&world), world.job(job).purged), (vec!["d".to_owned()], 2));
    world.refused(Command::RecordPurged { job, files: vec![(FileIndex(1), PurgeOutcome::Deleted)] });
    // A cancel comes too late.
    assert_eq!(world.end(job, JobEnding::Cancelled), JobPhase::Purging);
    world.ok(Command::EndPurge { job });
    assert_eq!(world.job(job).phase, JobPhase::Committed);

    let two = world.copy(2, table);
    let mut again = listed("a", 1);
    again.version.last_modified_ms = 77;
    let found = vec![listed("a", 1), listed("c", 2), listed("d", 1)];
    assert_eq!(
        world.claim_files(two, found),
        // A listing older than the purge still shows the very version that was purged.
        [ClaimOutcome::AlreadyLoaded, ClaimOutcome::Changed, ClaimOutcome::AlreadyLoaded]
    );
    assert_eq!(world.claim_files(two, vec![again]), [claimed(0)]);
    world.load(two);
    let three = world.copy(3, table);
    assert_eq!(world.claim(three, &["a"]), [ClaimOutcome::AlreadyLoaded]);
}

#[test]
fn an_abort_in_any_phase_frees_the_files_at_once() {
    for phase in [JobPhase::Claiming, JobPhase::Running, JobPhase::Committing] {
        let mut world = World::new();
        let table = world.table("t");
        let job = world.copy(1, table);
        world.claim(job, &["a"]);
        if phase >= JobPhase::Running {
            world.plan(job, 1);
        }
        if phase >= JobPhase::Committing {
            world.accept_all(job);
            world.ok(Command::BeginCommit { job });
        }
        assert_eq!(world.job(job).phase, phase);
        world.end(job, JobEnding::Aborted(Error::storage("gone")));
        assert_eq!(world.end(job, JobEnding::Cancelled), JobPhase::Aborted);
        let two = world.copy(2, table);
        assert_eq!(world.claim(two, &["a"]), [claimed(0)], "{phase:?}");
        assert!(matches!(world.load(two), CommitOutcome::Committed(_)));
    }
}

/// An unload with its only slice accepted.
fn unloaded(world: &mut World, number: u128) -> JobId {
    let job = job_id(number);
    let mut spec = copy_spec(TableId(1));
    (spec.kind, spec.table, spec.store) = (JobKind::Unload, None, None);
    world.ok(Command::CreateJob { job, spec });
    let slices = vec![NewSlice { files: Vec::new(), bytes: 0 }];
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices });
    world.ok(Command::SealJob { job, files: 0, slices: 1 });
    world.accept_all(job);
    job
}

#[test]
fn an_unload_names_no_table_and_is_not_cancelled_once_its_files_get_their_names() {
    let mut world = World::new();
    let table = world.table("t");
    let job = unloaded(&mut world, 1);
    world.ok(Command::BeginCommit { job });
    assert_eq!(world.end(job, JobEnding::Cancelled), JobPhase::Committing);
    let other = world.copy(2, table);
    let tables = world.commit_command(other).tables;
    let wrong = JobCommit { job, tables, new_table: None };
    assert!(world.refused(Command::CommitJob(wrong)).to_string().contains("does not name its table"));
    let outcome = world.commit_with(JobCommit { job, tables: Vec::new(), new_table: None });
    assert!(matches!(outcome, CommitOutcome::Committed(summary) if summary.table.is_none()));
    assert_eq!(world.job(job).phase, JobPhase::Committed);

    let cancelled = unloaded(&mut world, 3);
    assert_eq!(world.end(cancelled, JobEnding::Cancelled), JobPhase::Cancelled);
    let failed = unloaded(&mut world, 4);
    world.ok(Command::BeginCommit { job: failed });
    assert_eq!(world.end(failed, JobEnding::Aborted(Error::storage("full"))), JobPhase::Aborted);
}
