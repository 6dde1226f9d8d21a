use super::*;

/// A running job with so many files in one slice.
fn running(files: u32) -> (World, TableId, JobId) {
    running_with(files, |_| {})
}

fn running_with(files: u32, change: impl FnOnce(&mut JobSpec)) -> (World, TableId, JobId) {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy_with(1, table, change);
    let names: Vec<String> = (0..files).map(|n| format!("f{n}")).collect();
    world.claim(job, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.plan(job, 100);
    (world, table, job)
}

#[test]
fn a_zombie_cannot_report_after_its_slice_went_to_another() {
    let (mut world, _, job) = running(2);
    let zombie = world.lease(job, 0, "w1");
    world.ok(chunk(zombie, 0, vec![loaded(0, 0, 9)], vec!["zombie's".into()]));
    world.ok(Command::ReleaseSlice { attempt: zombie, reason: "lease expired".into(), failure: false });
    let current = world.lease(job, 0, "w2");
    assert_eq!(current.attempt, Attempt(2));

    let error = world.refused(chunk(zombie, 1, vec![loaded(1, 0, 9)], vec!["zombie's".into()]));
    assert!(error.to_string().contains("leased by worker 'w2'"), "{error}");
    let whole = world.whole_report(current);
    world.ok(whole);
    let late = report(zombie, 0, vec![loaded(0, 0, 9), loaded(1, 0, 9)], vec!["zombie's".into()]);
    assert!(world.refused(late).to_string().contains("is accepted"));
    world.refused(Command::FailSlice {
        attempt: zombie,
        error: Error::storage("late"),
        permanent: true,
        file: None,
    });

    assert_eq!(world.job(job).rows, 4);
    assert_eq!(world.data_files(job), [format!("{{\"data-file-of\":\"{current}\"}}")]);
    assert!(world.statuses(job).iter().all(|status| status.rows == 2));
}

#[test]
fn what_a_lost_attempt_staged_does_not_count() {
    let (mut world, _, job) = running(1);
    let lost = world.lease(job, 0, "w1");
    world.ok(chunk(lost, 0, vec![loaded(0, 0, 9)], vec!["lost".into(), "lost too".into()]));
    assert_eq!(world.statuses(job)[0].status, FileStatusKind::Pending);
    let result = world.ok(lease(job, 0, "w2", true));
    assert_eq!(result, CommandResult::Leased { attempt: Attempt(2) });
    assert_eq!(world.data_files(job), Vec::<String>::new());
    assert_eq!(world.statuses(job)[0].status, FileStatusKind::Pending);
    // The new attempt starts at chunk 0 and adds up by itself.
    world.ok(report(attempt_key(job, 0, 2), 0, vec![loaded(0, 0, 3)], vec!["kept".into()]));
    assert_eq!(world.data_files(job), ["kept"]);
    assert_eq!(world.statuses(job)[0].rows, 3);
}

#[test]
fn a_lease_is_refused_while_another_worker_holds_one_and_the_same_answers_its_holder() {
    let (mut world, _, job) = running(1);
    let attempt = world.lease(job, 0, "w1");
    world.refused(lease(job, 0, "w2", false));
    assert_eq!(world.lease(job, 0, "w1"), attempt);
    assert_eq!(read::leased_slices(&world.state, job, None, 9).unwrap().len(), 1);
    let whole = world.whole_report(attempt);
    world.ok(whole);
    world.refused(lease(job, 0, "w2", true));
    assert!(read::leased_slices(&world.state, job, None, 9).unwrap().is_empty());
}

#[test]
fn a_chunk_sent_twice_counts_once_and_a_missing_one_is_noticed() {
    let (mut world, _, job) = running(2);
    let attempt = world.lease(job, 0, "w");
    let first = chunk(attempt, 0, vec![loaded(0, 0, 2)], vec!["one".into()]);
    world.ok(first.clone());
    assert_eq!(world.ok(first), CommandResult::Staged { accepted: false, phase: JobPhase::Running });
    let error = world.refused(chunk(attempt, 2, vec![loaded(1, 0, 2)], vec![]));
    assert!(error.to_string().contains("comes before chunk 1"), "{error}");
    let last = Command::StageReport {
        attempt,
        sequence: 1,
        files: vec![loaded(1, 0, 2)],
        data_files: vec!["two".into()],
        last: true,
        totals: Some(SliceTotals { files: 2, rows: 4, data_files: 2, ..SliceTotals::default() }),
    };
    let accepted = CommandResult::Staged { accepted: true, phase: JobPhase::Running };
    assert_eq!(world.ok(last.clone()), accepted);
    assert_eq!(world.ok(last), accepted);
    assert_eq!((world.job(job).rows, world.job(job).accepted_slices), (4, 1));
    assert_eq!(world.data_files(job), ["one", "two"]);
}

#[test]
fn a_report_that_does_not_add_up_is_refused() {
    let (mut world, _, job) = running(2);
    let attempt = world.lease(job, 0, "w");
    let both = || vec![loaded(0, 0, 2), loaded(1, 0, 2)];
    let good = SliceTotals { files: 2, rows: 4, data_files: 1, ..SliceTotals::default() };
    for totals in [
        None,
        Some(SliceTotals { files: 1, ..good }),
        Some(SliceTotals { rows: 5, ..good }),
        Some(SliceTotals { data_files: 2, ..good }),
        Some(SliceTotals { errors: 1, ..good }),
    ] {
        world.refused(Command::StageReport {
            attempt,
            sequence: 0,
            files: both(),
            data_files: vec!["d".into()],
            last: true,
            totals,
        });
    }
    for files in [
        vec![loaded(0, 0, 2)],
        vec![loaded(0, 0, 2), loaded(0, 0, 2)],
        vec![loaded(0, 0, 2), loaded(7, 0, 2)],
        vec![loaded(0, 0, 2), loaded(1, 1, 2)],
    ] {
        world.refused(report(attempt, 0, files, vec!["d".into()]));
    }
    assert_eq!(world.job(job).accepted_slices, 0);
    world.ok(report(attempt, 0, both(), vec!["d".into()]));
}

#[test]
fn nothing_commits_before_every_slice_is_accepted() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a", "b"]);
    world.plan(job, 1);
    let attempt = world.lease(job, 0, "w");
    let whole = world.whole_report(attempt);
    world.ok(whole);
    assert!(world.refused(Command::BeginCommit { job }).to_string().contains("1 of 2 slices"));
    let commit = world.commit_command(job);
    world.refused(Command::CommitJob(commit));
}

#[test]
fn a_slice_that_keeps_failing_is_cut_and_its_poisonous_file_ends_the_job() {
    let (mut world, _, job) = running(3);
    let failing = |attempt: AttemptKey| Command::FailSlice {
        attempt,
        error: Error::unavailable("the worker ran out of memory"),
        permanent: false,
        file: None,
    };
    for failure in 1..=MAX_SLICE_FAILURES {
        let attempt = world.lease(job, 0, "w");
        let result = world.ok(failing(attempt));
        if failure < MAX_SLICE_FAILURES {
            assert_eq!(result, CommandResult::Job { phase: JobPhase::Running });
        } else {
            assert_eq!(result, CommandResult::SliceCut { first: SliceIndex(1), count: 3 });
        }
    }
    world.refused(lease(job, 0, "w", true));
    let pending = read::pending_slices(&world.state, job, None, 9).unwrap();
    assert_eq!(pending, [SliceIndex(1), SliceIndex(2), SliceIndex(3)]);
    for slice in [1, 3] {
        let attempt = world.lease(job, slice, "w");
        let whole = world.whole_report(attempt);
        world.ok(whole);
    }
    for _ in 1..=MAX_SLICE_FAILURES {
        let attempt = world.lease(job, 2, "w");
        world.ok(Command::ReleaseSlice { attempt, reason: "the worker is gone".into(), failure: true });
    }
    assert_eq!(world.job(job).phase, JobPhase::Aborted);
    let error = world.job(job).error.unwrap().to_string();
    assert_eq!(error, "loading file 'f1' failed 5 times: the worker is gone");
}

#[test]
fn a_slice_that_was_cut_loads_by_its_pieces() {
    let (mut world, _, job) = running(2);
    for _ in 0..MAX_SLICE_FAILURES {
        let attempt = world.lease(job, 0, "w");
        world.ok(chunk(attempt, 0, vec![loaded(0, 0, 7)], vec!["half".into()]));
        world.ok(Command::ReleaseSlice { attempt, reason: "gone".into(), failure: true });
    }
    world.accept_all(job);
    assert!(matches!(world.commit(job), CommitOutcome::Committed(summary) if summary.rows == 4));
    assert_eq!(world.data_files(job).len(), 2);
}

#[test]
fn a_worker_that_drains_is_no_failure_of_the_slice() {
    let (mut world, _, job) = running(1);
    for _ in 0..MAX_SLICE_FAILURES * 2 {
        let attempt = world.lease(job, 0, "w");
        world.ok(Command::ReleaseSlice { attempt, reason: "drains".into(), failure: false });
    }
    assert_eq!(world.job(job).phase, JobPhase::Running);
}

#[test]
fn a_permanent_failure_aborts_the_job_and_marks_the_file() {
    let (mut world, table, job) = running(2);
    let attempt = world.lease(job, 0, "w");
    let bad = with_errors(loaded(1, 0, 0), 1, 3);
    let error = Error::bad_data("file 'f1', line 3: invalid digit");
    world.ok(Command::FailSlice { attempt, error: error.clone(), permanent: true, file: Some(bad) });
    assert_eq!((world.job(job).phase, world.job(job).error), (JobPhase::Aborted, Some(error)));
    let statuses = world.statuses(job);
    assert_eq!(statuses[0].status, FileStatusKind::Pending);
    assert_eq!((statuses[1].status, statuses[1].first_error_line), (FileStatusKind::Failed, 3));
    assert!(world.entry(table, "f0").is_empty());
}

#[test]
fn abort_n_counts_the_errors_of_all_slices() {
    let mut world = World::new();
    let table = world.table("t");
    let on_error = OnError { mode: ErrorMode::AbortN, limit: 3 };
    let job = world.copy_with(1, table, |spec| spec.on_error = on_error);
    world.claim(job, &["a", "b"]);
    world.plan(job, 1);
    let first = world.lease(job, 0, "w");
    let result = world.ok(report(first, 0, vec![with_errors(loaded(0, 0, 5), 2, 4)], vec!["d".into()]));
    assert_eq!(result, CommandResult::Staged { accepted: true, phase: JobPhase::Running });
    let second = world.lease(job, 1, "w");
    let result = world.ok(report(second, 0, vec![with_errors(loaded(1, 0, 5), 1, 2)], vec!["d".into()]));
    assert_eq!(result, CommandResult::Staged { accepted: true, phase: JobPhase::Aborted });
    let error = world.job(job).error.unwrap().to_string();
    assert!(error.starts_with("file 'b', line 2: invalid value 'b'"), "{error}");
    assert!(error.contains("3 rows were rejected, and ON_ERROR fails the load at 3"), "{error}");
    assert!(world.entry(table, "a").is_empty());
}

#[test]
fn the_parts_of_a_file_add_up_and_the_first_error_is_that_of_the_lowest_part() {
    let mut world = World::new();
    let table = world.table("t");
    let on_error = OnError { mode: ErrorMode::Continue, limit: 0 };
    let job = world.copy_with(1, table, |spec| spec.on_error = on_error);
    world.claim(job, &["a"]);
    let parts = (0..3).map(|part| SliceFile {
        file: FileIndex(0),
        range_start: u64::from(part) * 10,
        range_end: u64::from(part) * 10 + 10,
        part,
        parts: 3,
    });
    let slices: Vec<NewSlice> = parts.map(|part| NewSlice { files: vec![part], bytes: 10 }).collect();
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices });
    world.ok(Command::SealJob { job, files: 1, slices: 3 });
    // The last part reports first.
    for (part, errors) in [(2, 1), (1, 2), (0, 0)] {
        assert_eq!(world.statuses(job)[0].status, FileStatusKind::Pending);
        let attempt = world.lease(job, part, "w");
        let mut one = loaded(0, part, 10);
        if errors > 0 {
            one = with_errors(one, errors, 4);
        }
        world.ok(report(attempt, 0, vec![one], vec!["d".into()]));
    }
    let status = world.statuses(job).remove(0);
    assert_eq!((status.rows, status.errors), (30, 3));
    // Part 0 has 10 lines, the error is in the fourth of part 1.
    assert_eq!((status.first_error_line, status.status), (14, FileStatusKind::PartiallyLoaded));
}

#[test]
fn files_left_out_and_empty_ones_release_their_claim_at_the_commit() {
    let (mut world, table, job) =
        running_with(3, |spec| spec.on_error = OnError { mode: ErrorMode::SkipFile, limit: 0 });
    let attempt = world.lease(job, 0, "w");
    let mut left_out = with_errors(loaded(1, 0, 0), 1, 2);
    left_out.outcome = FileOutcome::LeftOut;
    let mut empty = loaded(2, 0, 0);
    empty.outcome = FileOutcome::Empty;
    world.ok(report(attempt, 0, vec![loaded(0, 0, 2), left_out, empty], vec!["d".into()]));
    world.commit(job);
    assert_eq!(world.entry(table, "f0").loaded_by.unwrap().rows, 2);
    let kinds: Vec<FileStatusKind> = world.statuses(job).iter().map(|status| status.status).collect();
    assert_eq!(kinds, [FileStatusKind::Loaded, FileStatusKind::Failed, FileStatusKind::Empty]);
    let two = world.copy(2, table);
    assert_eq!(world.claim(two, &["f0", "f1", "f2"]), [ClaimOutcome::AlreadyLoaded, claimed(0), claimed(1)]);
}

#[test]
fn an_insert_runs_a_slice_without_files() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy_with(1, table, |spec| {
        spec.kind = JobKind::Insert;
        spec.store = None;
    });
    let slices = vec![NewSlice { files: vec![], bytes: 0 }];
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices });
    world.ok(Command::SealJob { job, files: 0, slices: 1 });
    let attempt = world.lease(job, 0, "w");
    world.ok(Command::StageReport {
        attempt,
        sequence: 0,
        files: vec![],
        data_files: vec!["d".into()],
        last: true,
        totals: Some(SliceTotals { rows: 12, data_files: 1, ..SliceTotals::default() }),
    });
    assert!(matches!(world.commit(job), CommitOutcome::Committed(summary) if summary.rows == 12));
}
