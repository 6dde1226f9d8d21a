use super::*;
use crate::apply;
use crate::view::ReadView;

fn envelope(proposer: &str, sequence: u64, command: Command) -> Envelope {
    Envelope { proposer: proposer.into(), sequence, time_ms: 1, command }
}

#[test]
fn a_retried_proposal_answers_what_it_answered_and_writes_nothing() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    world.claim(job, &["a"]);
    let retried = world.log.last().unwrap().clone();
    world.end(job, JobEnding::Cancelled);
    let applied = apply(&world.state, 99, &retried).unwrap();
    assert_eq!(applied.result, CommandResult::Claims(vec![claimed(0)]));
    assert!(applied.batch.is_empty() && applied.events.is_empty());
}

#[test]
fn refusals_are_remembered_too_and_leave_nothing_else() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let before: Vec<_> =
        world.state.pairs().filter(|(k, _)| k[0] != b'P').map(|(k, v)| (k.clone(), v.clone())).collect();
    // The first file is fine, the second one refuses the command.
    let mut bad = listed("b", 1);
    bad.path = String::new();
    world.refused(Command::ClaimFiles { job, chunk: 0, files: vec![listed("a", 1), bad] });
    assert!(world.events.is_empty());
    let after: Vec<_> =
        world.state.pairs().filter(|(k, _)| k[0] != b'P').map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(before, after);
}

#[test]
fn proposals_may_arrive_out_of_order_and_those_below_the_window_are_unknown() {
    let mut state = MemoryState::default();
    let create = |n: u64| Command::CreateDatabase {
        name: format!("d{n}"),
        if_not_exists: false,
        or_replace: false,
        comment: String::new(),
    };
    for sequence in [5, 3, 4, 300] {
        let (result, _) = state.apply(&envelope("p", sequence, create(sequence))).unwrap();
        assert!(matches!(result, CommandResult::Created { .. }), "{result:?}");
    }
    let (late, _) = state.apply(&envelope("p", 3, create(3))).unwrap();
    assert!(matches!(late, CommandResult::Refused(error) if error.kind() == ErrorKind::OutcomeUnknown));
    let (in_window, _) = state.apply(&envelope("p", 299, create(299))).unwrap();
    assert!(matches!(in_window, CommandResult::Created { .. }));
    let kept = state.scan(b"Pr", None, 1000).unwrap().len();
    assert_eq!(kept, 2, "300 and 299");
}

#[test]
fn the_proposer_that_was_quiet_longest_is_forgotten() {
    let mut state = MemoryState::default();
    for proposer in 0..40u64 {
        state.apply(&envelope(&format!("p{proposer}"), 1, Command::Noop)).unwrap();
        state.apply(&envelope("busy", proposer, Command::Noop)).unwrap();
    }
    assert_eq!(state.scan(b"Pm", None, 1000).unwrap().len(), crate::dedup::PROPOSERS);
    assert!(state.get(b"Pmbusy").unwrap().is_some());
    assert!(state.get(b"Pmp0").unwrap().is_none());
    assert!(state.scan(b"Prp0\0", None, 10).unwrap().is_empty());
}

#[test]
fn settling_changes_no_answer_and_lets_the_job_be_trimmed() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy_with(1, table, |spec| spec.idempotency_key = Some("k".into()));
    world.claim(one, &["a", "b", "c"]);
    world.load(one);
    let cancelled = world.copy(2, table);
    world.claim(cancelled, &["d"]);
    world.end(cancelled, JobEnding::Cancelled);
    let before: Vec<LedgerEntry> = ["a", "b", "c", "d"].map(|name| world.entry(table, name)).into();
    // Not settled: it cannot be trimmed, or its loads would be forgotten.
    assert_eq!(world.ok(trim(i64::MAX)), CommandResult::Progress { done: true });
    assert_eq!(read::unsettled_jobs(&world.state, 9).unwrap(), [one, cancelled]);

    assert_eq!(
        world.ok(Command::SettleLedger { job: one, limit: 2 }),
        CommandResult::Progress { done: false }
    );
    assert_eq!(
        world.ok(Command::SettleLedger { job: one, limit: 2 }),
        CommandResult::Progress { done: true }
    );
    world.ok(Command::SettleLedger { job: cancelled, limit: 2 });
    assert!(read::unsettled_jobs(&world.state, 9).unwrap().is_empty());
    assert_eq!(world.history(table, 2).len(), 3);

    world.ok(trim(0));
    assert!(read::job(&world.state, one).unwrap().is_some());
    assert_eq!(world.ok(trim(i64::MAX)), CommandResult::Progress { done: true });
    assert!(read::job(&world.state, one).unwrap().is_none());
    assert!(read::job_by_key(&world.state, "k").unwrap().is_none());
    assert!(read::jobs(&world.state, None, 10).unwrap().is_empty());
    let left = world.state.pairs().filter(|(key, _)| matches!(key[0], b'J' | b'j')).count();
    assert_eq!(left, 0);
    let after: Vec<LedgerEntry> = ["a", "b", "c", "d"].map(|name| world.entry(table, name)).into();
    assert_eq!(before, after);
    let three = world.copy(3, table);
    assert_eq!(world.claim(three, &["a", "d"]), [ClaimOutcome::AlreadyLoaded, claimed(0)]);
}

fn trim(before_ms: i64) -> Command {
    Command::TrimJobs { before_ms, limit: 1000 }
}

#[test]
fn trimming_goes_a_bounded_number_of_records_at_a_time() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    world.claim(job, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.end(job, JobEnding::Cancelled);
    world.ok(Command::SettleLedger { job, limit: 100 });
    let mut rounds = 0;
    while world.ok(Command::TrimJobs { before_ms: i64::MAX, limit: 20 })
        != (CommandResult::Progress { done: true })
    {
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!(rounds >= 2, "{rounds}");
    assert_eq!(world.state.pairs().filter(|(key, _)| matches!(key[0], b'J' | b'j')).count(), 0);
}

#[test]
fn what_truncate_left_behind_is_swept_and_the_rest_stays() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a", "b", "c"]);
    world.load(one);
    world.truncate(table);
    let two = world.copy(2, table);
    world.claim(two, &["a"]);
    world.load(two);
    assert_eq!(read::sweepable_ledgers(&world.state, 9).unwrap(), [table]);
    assert_eq!(world.ok(Command::SweepLedger { table, limit: 2 }), CommandResult::Progress { done: false });
    assert_eq!(world.ok(Command::SweepLedger { table, limit: 2 }), CommandResult::Progress { done: true });
    assert!(read::sweepable_ledgers(&world.state, 9).unwrap().is_empty());
    world.ok(Command::SettleLedger { job: one, limit: 10 });
    assert_eq!(world.entry(table, "a").loaded_by.unwrap().job, two);
    assert_eq!(world.state.scan(b"Le", None, 10).unwrap().len(), 1);
    let history = world.history(table, 10);
    assert_eq!(history.iter().map(|entry| entry.job).collect::<Vec<_>>(), [two]);
}

#[test]
fn history_and_jobs_are_read_in_pages_newest_first() {
    let mut world = World::new();
    let table = world.table("t");
    for number in 1..=3 {
        let job = world.copy(number, table);
        let names: Vec<String> = (0..3).map(|n| format!("{number}-{n}")).collect();
        world.claim(job, &names.iter().map(String::as_str).collect::<Vec<_>>());
        world.load(job);
    }
    for limit in [1, 2, 3, 100] {
        let names: Vec<String> = world.history(table, limit).iter().map(history_name).collect();
        assert_eq!(names, ["3-0", "3-1", "3-2", "2-0", "2-1", "2-2", "1-0", "1-1", "1-2"], "{limit}");
    }
    let page = read::jobs(&world.state, None, 2).unwrap();
    assert_eq!(page.iter().map(|job| job.number).collect::<Vec<_>>(), [3, 2]);
    let rest = read::jobs(&world.state, Some(2), 2).unwrap();
    assert_eq!(rest.iter().map(|job| job.number).collect::<Vec<_>>(), [1]);
}

#[test]
fn twenty_thousand_files_are_claimed_loaded_and_ended_by_commands_of_bounded_size() {
    let mut world = World::new();
    let table = world.table("t");
    let job = world.copy(1, table);
    let names: Vec<String> = (0..20_000).map(|n| format!("part-{n:06}.csv")).collect();
    for names in names.chunks(250) {
        let outcomes = world.claim(job, &names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(outcomes.iter().all(|outcome| matches!(outcome, ClaimOutcome::Claimed(_))));
    }
    let indexes: Vec<SliceFile> = (0..20_000).map(|n| SliceFile::whole(FileIndex(n))).collect();
    for (first, files) in (0u32..).zip(indexes.chunks(200)) {
        let slices = vec![NewSlice { files: files.to_vec(), bytes: 1 }];
        world.ok(Command::PlanSlices { job, first: SliceIndex(first), slices });
    }
    world.ok(Command::SealJob { job, files: 20_000, slices: 100 });
    world.accept_all(job);
    world.ok(Command::BeginCommit { job });
    let commit = envelope("c", 1, Command::CommitJob(world.commit_command(job)));
    let applied = apply(&world.state, 1, &commit).unwrap();
    assert!(applied.batch.writes.len() < 20, "{}", applied.batch.writes.len());
    world.state.write(&applied.batch);

    let two = world.copy(2, table);
    for names in names.chunks(250) {
        let outcomes = world.claim(two, &names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(outcomes.iter().all(|outcome| *outcome == ClaimOutcome::AlreadyLoaded));
    }
    assert!(world.state.pairs().all(|(_, value)| value.len() < 64 * 1024));
}

#[test]
fn history_says_why_a_listed_file_was_not_loaded_and_what_failed() {
    let mut world = World::new();
    let table = world.table("t");
    let one = world.copy(1, table);
    world.claim(one, &["a", "b"]);
    world.load(one);
    let holder = world.copy(2, table);
    world.claim(holder, &["held"]);

    // A load that takes nothing: each file with its reason, over two chunks of the listing.
    let nothing = world.copy_with(3, table, |spec| spec.max_files = Some(0));
    let empty = ListedFile { version: FileVersion { size: 0, ..version(1) }, ..listed("empty", 1) };
    world.claim_files(nothing, vec![listed("a", 1), listed("b", 2), listed("held", 1)]);
    world.claim_files(nothing, vec![empty, listed("new", 1)]);
    let Job { files, slices, .. } = world.job(nothing);
    world.ok(Command::SealJob { job: nothing, files, slices });
    world.commit(nothing);

    // A load that a file failed: only that file is told of, not those that nothing is known of.
    let failed = world.copy(4, table);
    world.claim(failed, &["c", "d"]);
    world.plan(failed, 1);
    let attempt = world.lease(failed, 1, "w");
    let file = with_errors(FileReport { outcome: FileOutcome::Failed, ..loaded(1, 0, 0) }, 1, 3);
    world.ok(Command::FailSlice {
        attempt,
        error: Error::bad_data("bad"),
        permanent: true,
        file: Some(file),
    });

    for limit in [1, 100] {
        let told: Vec<(String, String)> = world
            .history(table, limit)
            .iter()
            .map(|entry| {
                let what = match &entry.file {
                    HistoryFile::Taken(file) => file.status.as_str().to_owned(),
                    HistoryFile::Skipped { reason, by, .. } => {
                        assert_eq!(*by, (*reason == SkipReason::Claimed).then_some(holder));
                        reason.as_str().to_owned()
                    }
                };
                (history_name(entry), what)
            })
            .collect();
        let expected = [
            ("d", "failed"),
            ("a", "already_loaded"),
            ("b", "changed"),
            ("held", "claimed"),
            ("empty", "empty"),
            ("new", "over_max_files"),
            ("a", "loaded"),
            ("b", "loaded"),
        ];
        assert!(told.iter().map(|(name, what)| (name.as_str(), what.as_str())).eq(expected), "{told:?}");
    }
    let of = |job| world.history(table, 9).into_iter().find(|entry| entry.job == job).unwrap();
    assert_eq!((of(one).snapshot_id, of(failed).snapshot_id), (Some(7), None));

    // TRUNCATE begins it anew.
    world.truncate(table);
    assert!(world.history(table, 9).is_empty());
}
