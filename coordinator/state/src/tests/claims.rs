use super::*;

#[test]
fn of_two_copies_over_the_same_files_each_file_goes_to_one_and_the_other_names_it() {
    let mut world = World::new();
    let table = world.table("t");
    let (one, two) = (world.copy(1, table), world.copy(2, table));
    assert_eq!(world.claim(one, &["a", "b"]), [claimed(0), claimed(1)]);
    assert_eq!(
        world.claim(two, &["a", "b", "c"]),
        [ClaimOutcome::ClaimedBy(one), ClaimOutcome::ClaimedBy(one), claimed(0)]
    );
    let (skipped, _) = read::skipped_files(&world.state, two, None, 10).unwrap();
    assert_eq!(skipped.len(), 1);
    assert_eq!((skipped[0].reason, skipped[0].by), (SkipReason::Claimed, Some(one)));
    assert_eq!(skipped[0].names, ["a", "b"]);
    assert_eq!(world.job(two).skipped[&SkipReason::Claimed], 2);

    assert!(matches!(world.load(one), CommitOutcome::Committed(_)));
    assert!(matches!(world.load(two), CommitOutcome::Committed(_)));
    for (name, job) in [("a", one), ("b", one), ("c", two)] {
        assert_eq!(world.entry(table, name).loaded_by.unwrap().job, job);
    }
    let three = world.copy(3, table);
    assert_eq!(world.claim(three, &["a", "b", "c"]), [ClaimOutcome::AlreadyLoaded; 3]);
}

#[test]
fn a_chunk_proposed_again_claims_and_counts_nothing_twice() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["x"]);
    let two = world.copy(2, table);
    let files = vec![listed("a", 1), listed("x", 1), listed("b", 1)];
    let first = world.claim_files(two, files.clone());
    let before = world.job(two);
    let again = world.ok(Command::ClaimFiles { job: two, chunk: 0, files });
    assert_eq!(again, CommandResult::Claims(first));
    assert_eq!(world.job(two), before);
    assert_eq!(world.entry(table, "a").claims.len(), 1);
}

#[test]
fn a_new_listing_by_a_new_leader_keeps_the_indexes_and_takes_the_new_versions() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a", "b"]);
    world.claim(job, &["c"]);
    let listing = vec![listed("0", 1), listed("b", 2), listed("c", 1)];
    let again = world.ok(Command::ClaimFiles { job, chunk: 0, files: listing });
    assert_eq!(again, CommandResult::Claims(vec![claimed(3), claimed(1), claimed(2)]));
    assert_eq!(read::job_file(&world.state, job, FileIndex(1)).unwrap().unwrap().version, version(2));
    assert_eq!(world.job(job).files, 4);
}

#[test]
fn a_gap_in_the_listing_is_refused() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let error = world.refused(Command::ClaimFiles { job, chunk: 1, files: vec![listed("a", 1)] });
    assert!(error.to_string().contains("chunk 1"), "{error}");
    assert!(world.entry(table, "a").is_empty());
}

#[test]
fn a_loaded_file_with_other_content_is_skipped_as_changed() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a"]);
    world.load(one);
    let two = world.copy(2, table);
    assert_eq!(
        world.claim_files(two, vec![listed("a", 2), listed("b", 1)]),
        [ClaimOutcome::Changed, claimed(0)]
    );
    let (skipped, _) = read::skipped_files(&world.state, two, None, 10).unwrap();
    assert_eq!(
        (skipped[0].reason, skipped[0].names.as_slice()),
        (SkipReason::Changed, &["a".to_owned()][..])
    );
}

#[test]
fn force_claims_beside_loaded_by_and_its_abort_leaves_it() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a"]);
    world.load(one);
    let forced = world.copy_with(2, table, |spec| spec.force = true);
    assert_eq!(world.claim(forced, &["a"]), [claimed(0)]);
    let entry = world.entry(table, "a");
    assert_eq!((entry.loaded_by.unwrap().job, entry.claims[0].job), (one, forced));

    world.end(forced, JobEnding::Aborted(Error::storage("lost")));
    let entry = world.entry(table, "a");
    assert_eq!((entry.loaded_by.unwrap().job, entry.claims.len()), (one, 0));
    let three = world.copy(3, table);
    assert_eq!(world.claim(three, &["a"]), [ClaimOutcome::AlreadyLoaded]);
}

#[test]
fn a_committed_force_is_what_counts_from_then_on() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a"]);
    world.load(one);
    let forced = world.copy_with(2, table, |spec| spec.force = true);
    world.claim_files(forced, vec![listed("a", 2)]);
    // The clock of a new leader is behind: the log's order counts.
    world.now_ms -= 500;
    world.load(forced);
    assert_eq!(world.entry(table, "a").loaded_by.unwrap().job, forced);
    let three = world.copy(3, table);
    assert_eq!(world.claim_files(three, vec![listed("a", 2)]), [ClaimOutcome::AlreadyLoaded]);
}

#[test]
fn another_copy_meets_the_claim_of_a_force() {
    let mut world = World::new();
    let table = world.table("t");
    let forced = world.copy_with(1, table, |spec| spec.force = true);
    world.claim(forced, &["a"]);
    let two = world.copy(2, table);
    assert_eq!(world.claim(two, &["a"]), [ClaimOutcome::ClaimedBy(forced)]);
}

#[test]
fn max_files_counts_only_what_was_not_loaded_so_that_calls_page_through() {
    let mut world = World::new();
    let table = world.table("t");
    let names = ["a", "b", "c"];
    let one = world.copy_with(1, table, |spec| spec.max_files = Some(2));
    assert_eq!(world.claim(one, &names), [claimed(0), claimed(1), ClaimOutcome::OverMaxFiles]);
    world.load(one);
    let two = world.copy_with(2, table, |spec| spec.max_files = Some(2));
    assert_eq!(
        world.claim(two, &names),
        [ClaimOutcome::AlreadyLoaded, ClaimOutcome::AlreadyLoaded, claimed(0)]
    );
}

#[test]
fn an_empty_file_is_recorded_and_not_claimed() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let mut empty = listed("a", 1);
    empty.version.size = 0;
    assert_eq!(world.claim_files(job, vec![empty]), [ClaimOutcome::Empty]);
    assert!(world.entry(table, "a").is_empty());
    assert_eq!(world.job(job).skipped[&SkipReason::Empty], 1);
}

#[test]
fn the_same_bucket_at_two_endpoints_is_two_stores() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a"]);
    let elsewhere = StoreIdentity { endpoint: "http://two".into(), ..store() };
    let two = world.copy_with(2, table, |spec| spec.store = Some(elsewhere));
    assert_eq!(world.claim(two, &["a"]), [claimed(0)]);
}

#[test]
fn names_of_loaded_files_are_recorded_up_to_a_limit_and_counted_beyond() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    let all: Vec<String> = (0..1200).map(|n| format!("{n:05}")).collect();
    for names in all.chunks(300) {
        world.claim(one, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    world.plan(one, 100);
    world.accept_all(one);
    world.commit(one);
    let two = world.copy(2, table);
    for names in all.chunks(300) {
        world.claim(two, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let (skipped, _) = read::skipped_files(&world.state, two, None, 100).unwrap();
    let named: usize = skipped.iter().map(|group| group.names.len()).sum();
    assert_eq!(named as u64, MAX_SKIPPED_NAMES);
    assert_eq!(world.job(two).skipped[&SkipReason::AlreadyLoaded], 1200);
}

#[test]
fn a_half_listed_job_never_runs() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a", "b"]);
    let slices = vec![NewSlice { files: vec![SliceFile::whole(FileIndex(0))], bytes: 1 }];
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices: slices.clone() });
    // A lease, a seal with the planner's count, a seal with the true count: none starts it.
    world.refused(lease(job, 0, "w", false));
    world.refused(Command::SealJob { job, files: 1, slices: 1 });
    let error = world.refused(Command::SealJob { job, files: 2, slices: 1 });
    assert!(error.to_string().contains("2 files claimed and 1 planned"), "{error}");
    // The same slices again change nothing; a second place for a file is refused.
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices: slices.clone() });
    let error = world.refused(Command::PlanSlices { job, first: SliceIndex(1), slices });
    assert!(error.to_string().contains("planned twice"), "{error}");
    let rest = vec![NewSlice { files: vec![SliceFile::whole(FileIndex(1))], bytes: 1 }];
    world.ok(Command::PlanSlices { job, first: SliceIndex(1), slices: rest });
    world.ok(Command::SealJob { job, files: 2, slices: 2 });
    assert_eq!(world.job(job).phase, JobPhase::Running);
    world.refused(Command::ClaimFiles { job, chunk: 1, files: vec![listed("c", 1)] });
}

#[test]
fn a_file_is_sealed_only_with_all_its_parts() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a"]);
    let part = |part: u32| SliceFile {
        file: FileIndex(0),
        range_start: u64::from(part) * 50,
        range_end: u64::from(part) * 50 + 50,
        part,
        parts: 2,
    };
    let slice = |part: SliceFile| vec![NewSlice { files: vec![part], bytes: 50 }];
    world.refused(Command::PlanSlices { job, first: SliceIndex(0), slices: slice(part(1)) });
    world.ok(Command::PlanSlices { job, first: SliceIndex(0), slices: slice(part(0)) });
    world.refused(Command::SealJob { job, files: 1, slices: 1 });
    world.ok(Command::PlanSlices { job, first: SliceIndex(1), slices: slice(part(1)) });
    world.ok(Command::SealJob { job, files: 1, slices: 2 });
}

#[test]
fn a_leader_that_plans_for_other_workers_goes_on_from_what_is_planned() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a", "b", "c", "d"]);
    let part = |part: u32, parts: u32| SliceFile {
        range_start: u64::from(part) * 100 / u64::from(parts),
        range_end: u64::from(part + 1) * 100 / u64::from(parts),
        part,
        parts,
        ..SliceFile::whole(FileIndex(1))
    };
    let whole = |file: u32| SliceFile::whole(FileIndex(file));
    let slice = |files: &[SliceFile]| NewSlice { files: files.to_vec(), bytes: 1 };
    let plan = |first: u32, slices: &[NewSlice]| Command::PlanSlices {
        job,
        first: SliceIndex(first),
        slices: slices.to_vec(),
    };
    // The first leader cuts 'b' into 4, and is lost after two of them.
    world.ok(plan(0, &[slice(&[whole(0)]), slice(&[part(0, 4)]), slice(&[part(1, 4)])]));
    let planned = |world: &World| -> Vec<Option<(u32, u32)>> {
        (0..4).map(|n| read::planned_parts(&world.state, job, FileIndex(n)).unwrap()).collect()
    };
    assert_eq!(planned(&world), [Some((1, 1)), Some((2, 4)), None, None]);
    // What it had on its way comes before what the next leader plans, which would cut and gather otherwise.
    world.ok(plan(3, &[slice(&[part(2, 4)])]));
    let error = world.refused(plan(3, &[slice(&[part(2, 4), part(3, 4)]), slice(&[whole(2), whole(3)])]));
    assert!(error.to_string().contains("was planned otherwise") && error.is_retryable(), "{error}");
    // The next leader looks again, and goes on from there.
    assert_eq!(planned(&world)[1], Some((3, 4)));
    world.ok(plan(4, &[slice(&[part(3, 4)]), slice(&[whole(2), whole(3)])]));
    // Whatever of the first one still comes is refused, and doubles nothing.
    for late in [plan(4, &[slice(&[part(3, 4)]), slice(&[whole(2)])]), plan(6, &[slice(&[whole(2)])])] {
        let error = world.refused(late);
        assert!(error.kind() == ErrorKind::Conflict && error.is_retryable(), "{error}");
    }
    let error = world.refused(Command::SealJob { job, files: 4, slices: 5 });
    assert!(error.is_retryable(), "{error}");
    world.ok(Command::SealJob { job, files: 4, slices: 6 });
    let placed: Vec<SliceFile> = (0..6)
        .flat_map(|n| read::slice_files(&world.state, SliceKey { job, slice: SliceIndex(n) }).unwrap())
        .collect();
    let all = [whole(0), part(0, 4), part(1, 4), part(2, 4), part(3, 4), whole(2), whole(3)];
    assert_eq!(placed, all);
    world.accept_all(job);
    assert!(matches!(world.commit(job), CommitOutcome::Committed(_)));
}

#[test]
fn a_newer_listing_of_a_file_that_is_not_planned_counts_its_bytes_anew() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let sized = |size: u64| ListedFile { version: FileVersion { size, ..version(size) }, ..listed("a", 1) };
    for size in [10, 70, 30] {
        assert_eq!(world.claim_files(job, vec![sized(size)]), [claimed(0)]);
        assert_eq!((world.job(job).bytes, world.job(job).files), (size, 1));
    }
}

#[test]
fn a_copy_that_finds_nothing_is_committed_by_its_seal() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let sealed = world.ok(Command::SealJob { job, files: 0, slices: 0 });
    assert_eq!(sealed, CommandResult::Job { phase: JobPhase::Committed });
    assert_eq!(world.job(job).committed.unwrap().rows, 0);
    assert!(read::live_jobs(&world.state).unwrap().is_empty());
}

#[test]
fn an_idempotency_key_finds_the_job_of_the_first_call() {
    let mut world = World::new();
    let table = world.table("t");
    let keyed = |spec: &mut JobSpec| spec.idempotency_key = Some("k".into());
    let one = world.copy_with(1, table, keyed);
    let mut spec = copy_spec(table);
    keyed(&mut spec);
    let again = world.ok(Command::CreateJob { job: job_id(2), spec });
    assert_eq!(again, CommandResult::JobCreated { job: one, existing: true });
    assert!(read::job(&world.state, job_id(2)).unwrap().is_none());
    assert_eq!(read::job_by_key(&world.state, "k").unwrap(), Some(one));
    // Two at once under one key: the second is told that its own request will not run.
    let mut other = copy_spec(table);
    keyed(&mut other);
    other.request = "another statement".into();
    let error = world.refused(Command::CreateJob { job: job_id(3), spec: other });
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("'k'"), "{error}");
}

#[test]
fn a_preview_says_what_a_claim_would_and_changes_nothing() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a", "b"]);
    world.load(one);
    let holder = world.copy(2, table);
    world.claim(holder, &["held"]);
    let files = vec![
        listed("a", 1),
        listed("b", 2),
        listed("held", 1),
        ListedFile { version: FileVersion { size: 0, ..version(1) }, ..listed("empty", 1) },
        listed("c", 1),
        listed("d", 1),
    ];
    let record = read::table_by_id(&world.state, table).unwrap().unwrap();
    for (number, rule) in [
        ClaimRule::default(),
        ClaimRule { force: true, max_files: None },
        ClaimRule { force: false, max_files: Some(1) },
        ClaimRule { force: true, max_files: Some(2) },
    ]
    .into_iter()
    .enumerate()
    {
        let mut taken = 0;
        let before: Vec<_> = world.state.pairs().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        let preview: Vec<ClaimOutcome> = files
            .iter()
            .map(|file| {
                let entry = FileEntry { path: file.path.clone(), version: file.version.clone() };
                let outcome = preview_claim(&world.state, &record, &store(), &entry, rule, taken).unwrap();
                taken += u32::from(matches!(outcome, ClaimOutcome::Claimed(_)));
                outcome
            })
            .collect();
        let after: Vec<_> = world.state.pairs().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(before, after);
        let job = world.copy_with(10 + number as u128, table, |spec| {
            (spec.force, spec.max_files) = (rule.force, rule.max_files);
        });
        assert_eq!(preview, world.claim_files(job, files.clone()), "{rule:?}");
        world.end(job, JobEnding::Cancelled);
    }
}

#[test]
fn files_that_were_not_sent_are_counted_and_named_up_to_a_limit_and_never_twice() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a"]);
    let group = |reason, count: u64, names: std::ops::Range<u64>| SkippedFiles {
        reason,
        by: None,
        count,
        names: names.map(|n| format!("{n:05}")).collect(),
    };
    let unsent = vec![
        group(SkipReason::AlreadyLoaded, 5_000, 0..1_200),
        group(SkipReason::OverMaxFiles, 3, 5_000..5_003),
    ];
    let skip = Command::SkipFiles { job, chunk: 1, skipped: unsent };
    world.ok(skip.clone());
    let once = world.job(job);
    world.ok(skip);
    assert_eq!(world.job(job), once);
    assert_eq!(
        (once.skipped[&SkipReason::AlreadyLoaded], once.skipped[&SkipReason::OverMaxFiles]),
        (5_000, 3)
    );
    let (skipped, _) = read::skipped_files(&world.state, job, None, 100).unwrap();
    assert_eq!(skipped.iter().map(|group| group.names.len()).collect::<Vec<_>>(), [1_000, 3]);
    // A gap; a reason that only the ledger may find; more names than files.
    world.refused(Command::SkipFiles { job, chunk: 3, skipped: Vec::new() });
    let changed = vec![group(SkipReason::Changed, 1, 0..1)];
    let error = world.refused(Command::SkipFiles { job, chunk: 2, skipped: changed });
    assert!(error.to_string().contains("cannot be skipped as changed"), "{error}");
    world.refused(Command::SkipFiles {
        job,
        chunk: 2,
        skipped: vec![group(SkipReason::OverMaxFiles, 1, 0..2)],
    });
    assert_eq!(world.job(job), once);
}
