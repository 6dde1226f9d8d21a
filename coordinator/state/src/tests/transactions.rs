use stevedore_common::ids::TransactionId;
use stevedore_common::types::SqlType;

use super::*;
use crate::transactions::{
    ClientTransaction, JobPreparation, MOST_OPEN, MOST_STATEMENTS, TableChangeShape, TransactionCommand,
    TransactionPhase, has_old_transactions, running_job,
};

pub(super) fn txn_id(number: u128) -> TransactionId {
    TransactionId(Uuid::from_u128(1_000 + number))
}

fn begin_command(number: u128, session: Option<&str>) -> Command {
    Command::Transaction(TransactionCommand::Begin {
        id: txn_id(number),
        session: session.map(str::to_owned),
        user: "ada".into(),
        idle_limit_ms: 1_000,
    })
}

impl World {
    pub(super) fn begin(&mut self, number: u128, session: Option<&str>) -> TransactionId {
        match self.ok(begin_command(number, session)) {
            CommandResult::Transaction(TransactionOutcome::Open(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    fn transact(&mut self, command: TransactionCommand) -> TransactionOutcome {
        match self.ok(Command::Transaction(command)) {
            CommandResult::Transaction(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn transaction(&self, id: TransactionId) -> ClientTransaction {
        read::transaction(&self.state, id).unwrap().unwrap()
    }

    /// A COPY of a file within a transaction, up to Committing.
    fn statement(&mut self, number: u128, id: TransactionId, table: TableId, name: &str) -> JobId {
        let job = self.copy_with(number, table, |spec| spec.transaction = Some(id));
        self.claim(job, &[name]);
        self.plan(job, 1);
        self.accept_all(job);
        self.ok(Command::BeginCommit { job });
        job
    }

    /// The table as the transaction sees it.
    pub(super) fn seen(&self, id: TransactionId, table: TableId) -> crate::catalog::Table {
        let record = read::table_by_id(&self.state, table).unwrap().unwrap();
        read::version_in(&self.state, &self.transaction(id), record).unwrap()
    }

    fn preparation(&self, id: TransactionId, job: JobId, shape: TableChangeShape) -> TransactionCommand {
        let table = self.seen(id, self.job(job).table.unwrap());
        TransactionCommand::Prepare(JobPreparation {
            job,
            table: table.id,
            expected_location: table.metadata_location.clone(),
            new_location: format!("{}+{job}", table.metadata_location),
            new_schema_id: None,
            contents: TableContents {
                snapshot_id: Some(9),
                num_rows: table.num_rows + self.job(job).rows,
                data_size: 1,
            },
            shape,
            written: vec![format!("{}+{job}", table.metadata_location)],
        })
    }

    pub(super) fn prepare(&mut self, id: TransactionId, job: JobId, shape: TableChangeShape) {
        let command = self.preparation(id, job, shape);
        assert_eq!(self.transact(command), TransactionOutcome::Prepared { snapshot_id: Some(9) });
    }

    /// The commit as it would be proposed: on the tables as they are, whether or not that is right.
    pub(super) fn commit_of(&self, id: TransactionId) -> TransactionCommand {
        let own = read::transaction_tables(&self.state, id).unwrap();
        let tables = own.into_iter().map(|own| {
            let table = read::table_by_id(&self.state, own.table).unwrap().unwrap();
            let moved = table.metadata_location != own.base_location;
            let rebased = format!("{}+{id}", table.metadata_location);
            TableCommit {
                table: own.table,
                uuid: own.uuid,
                epoch: own.version.epoch,
                expected_location: table.metadata_location,
                new_location: if moved { rebased } else { own.version.location },
                schema_id: own.evolved_from.unwrap_or(table.schema_id),
                spec_id: 0,
                new_schema_id: own.evolved_from.map(|_| own.version.schema_id),
                overwrite: own.overwritten,
                contents: own.version.contents,
            }
        });
        TransactionCommand::Commit { id, tables: tables.collect() }
    }

    pub(super) fn rows(&self, table: TableId) -> u64 {
        read::table_by_id(&self.state, table).unwrap().unwrap().num_rows
    }
}

fn two_tables(world: &mut World) -> (TableId, TableId) {
    (world.table("t"), world.table("uu"))
}

#[test]
fn all_tables_flip_in_one_command_and_not_before() {
    let mut world = World::new();
    let (t, u) = two_tables(&mut world);
    let id = world.begin(1, Some("s"));
    let jobs = [world.statement(1, id, t, "a"), world.statement(2, id, u, "a")];
    for job in jobs {
        world.prepare(id, job, TableChangeShape::Appended);
    }
    assert_eq!((world.rows(t), world.rows(u)), (0, 0));
    assert_eq!((world.seen(id, t).num_rows, world.seen(id, u).num_rows), (2, 2));
    assert_eq!(world.job(jobs[0]).phase, JobPhase::Committing);
    // Until then its files are its own.
    let other = world.copy(3, t);
    assert_eq!(world.claim(other, &["a"]), [ClaimOutcome::ClaimedBy(jobs[0])]);
    assert!(
        world.refused(Command::CommitJob(world.commit_command(jobs[0]))).to_string().contains("transaction")
    );

    let commit = world.commit_of(id);
    assert_eq!(world.transact(commit.clone()), TransactionOutcome::Committed);
    assert_eq!((world.rows(t), world.rows(u)), (2, 2));
    for job in jobs {
        let job = world.job(job);
        assert_eq!((job.phase, job.committed.unwrap().snapshot_id), (JobPhase::Committed, Some(9)));
        assert!(!job.prepared, "it waits for nothing any more");
    }
    assert!(world.entry(t, "a").loaded_by.is_some() && world.entry(u, "a").loaded_by.is_some());
    assert_eq!(read::transaction_of_session(&world.state, "s").unwrap(), None);
    // Again, as a client whose answer was lost would.
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
    assert_eq!(world.rows(t), 2);
    let rolled_back = world.transact(TransactionCommand::RollBack { id });
    assert_eq!(rolled_back, TransactionOutcome::Committed);
}

impl World {
    /// A COPY within a transaction that brings a column, prepared: the transaction's version has that schema then.
    fn evolve(
        &mut self,
        number: u128,
        id: TransactionId,
        table: TableId,
        column: &str,
        schema_id: i32,
    ) -> i32 {
        let job = self.copy_with(number, table, |spec| spec.transaction = Some(id));
        self.claim(job, &[&format!("f{number}")]);
        let seen = self.seen(id, table).schema_id;
        let columns = vec![WantedColumn { name: column.into(), ty: SqlType::Int32, exists: false }];
        let reserve = |schema_id, last_column_id| Command::ReserveColumns {
            job,
            schema_id,
            last_column_id,
            columns: columns.clone(),
        };
        let moved = CommandResult::Columns(ColumnsOutcome::Moved);
        assert_eq!(self.ok(reserve(seen + 100, 2 + seen)), moved);
        let CommandResult::Columns(ColumnsOutcome::Reserved(record)) = self.ok(reserve(seen, 2 + seen))
        else {
            panic!("not reserved")
        };
        self.plan(job, 1);
        assert!(self.refused(Command::BeginCommit { job }).to_string().contains("brings columns"));
        self.accept_all(job);
        let TransactionCommand::Prepare(preparation) = self.preparation(id, job, TableChangeShape::Appended)
        else {
            panic!("no preparation")
        };
        let preparation = JobPreparation { new_schema_id: Some(schema_id), ..preparation };
        let prepared = self.transact(TransactionCommand::Prepare(preparation));
        assert_eq!(prepared, TransactionOutcome::Prepared { snapshot_id: Some(9) });
        assert_eq!((self.job(job).phase, self.job(job).prepared), (JobPhase::Committing, true));
        record.columns[0].id
    }

    fn schema(&self, table: TableId) -> i32 {
        read::table_by_id(&self.state, table).unwrap().unwrap().schema_id
    }
}

#[test]
fn columns_of_a_transaction_are_its_own_until_it_commits() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    assert_eq!(world.evolve(1, id, table, "x", 1), 3);
    // The next statement's columns come after those, and on the schema that they made.
    assert_eq!(world.evolve(2, id, table, "y", 2), 4);
    assert_eq!((world.schema(table), world.seen(id, table).schema_id), (0, 2));
    // Rows that others add do not stand in the way.
    let other = world.copy(3, table);
    world.claim(other, &["other"]);
    world.load(other);
    let commit = world.commit_of(id);
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
    assert_eq!((world.schema(table), world.rows(table)), (2, 4));
}

#[test]
fn columns_of_a_rolled_back_transaction_are_nobodys_and_their_ids_are_not_used_again() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    assert_eq!(world.evolve(1, id, table, "x", 1), 3);
    world.transact(TransactionCommand::RollBack { id });
    assert_eq!((world.schema(table), world.rows(table)), (0, 0));
    let again = world.begin(2, None);
    assert_eq!(world.evolve(2, again, table, "y", 1), 4);
}

#[test]
fn a_transaction_that_adds_columns_does_not_follow_a_table_whose_columns_changed() {
    let mut world = World::new();
    let (t, u) = two_tables(&mut world);
    let (one, two) = (world.begin(1, None), world.begin(2, None));
    // The same column: one field id, and still two schemas of one number.
    assert_eq!(world.evolve(1, one, t, "x", 1), 3);
    assert_eq!(world.evolve(2, two, t, "x", 1), 3);
    let job = world.statement(3, two, u, "a");
    world.prepare(two, job, TableChangeShape::Appended);
    let commit = world.commit_of(one);
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
    let commit = world.commit_of(two);
    let TransactionOutcome::RolledBack(error) = world.transact(commit) else { panic!("committed") };
    assert!(error.is_retryable() && error.to_string().contains("got other columns"), "{error}");
    assert_eq!((world.schema(t), world.rows(t), world.rows(u)), (1, 2, 0));
    assert_eq!(world.job(job).phase, JobPhase::Aborted);
}

#[test]
fn only_a_job_that_reserved_columns_may_bring_a_schema() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    let job = world.statement(1, id, table, "a");
    let TransactionCommand::Prepare(preparation) = world.preparation(id, job, TableChangeShape::Appended)
    else {
        panic!("no preparation")
    };
    let preparation = JobPreparation { new_schema_id: Some(1), ..preparation };
    let refused = world.refused(Command::Transaction(TransactionCommand::Prepare(preparation)));
    assert!(refused.to_string().contains("brings no columns"), "{refused}");
}

#[test]
fn a_rolled_back_transaction_gives_its_files_back() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, Some("s"));
    let prepared = world.statement(1, id, table, "a");
    world.prepare(id, prepared, TableChangeShape::Appended);
    let running = world.copy_with(2, table, |spec| spec.transaction = Some(id));
    world.claim(running, &["b"]);
    assert!(matches!(world.transact(TransactionCommand::RollBack { id }), TransactionOutcome::RolledBack(_)));
    for job in [prepared, running] {
        assert_eq!(world.job(job).phase, JobPhase::Aborted);
    }
    assert_eq!(world.rows(table), 0);
    let next = world.copy(3, table);
    assert_eq!(world.claim(next, &["a", "b"]), [claimed(0), claimed(1)]);
    let commit = world.commit_of(id);
    assert!(matches!(world.transact(commit), TransactionOutcome::RolledBack(_)));
    let mut spec = copy_spec(table);
    spec.transaction = Some(id);
    assert!(world.refused(Command::CreateJob { job: job_id(4), spec }).to_string().contains("aborted"));
}

#[test]
fn what_a_transaction_sees_is_of_its_beginning() {
    let mut world = World::new();
    let (t, u) = two_tables(&mut world);
    let id = world.begin(1, None);
    for (number, table) in [(1, t), (2, u), (3, t)] {
        let job = world.copy(number, table);
        world.claim(job, &[&format!("f{number}")]);
        world.load(job);
    }
    assert_eq!((world.rows(t), world.rows(u)), (4, 2));
    assert_eq!((world.seen(id, t).num_rows, world.seen(id, u).num_rows), (0, 0));
    assert_eq!(world.seen(id, t).metadata_location, "wh/t/v0");
    let later = world.table("later");
    let record = read::table_by_id(&world.state, later).unwrap().unwrap();
    let error = read::version_in(&world.state, &world.transaction(id), record).unwrap_err();
    assert!(error.to_string().contains("was created or replaced after the transaction began"), "{error}");

    // Rows that it adds are built on what it sees, and added to what is there by then.
    let job = world.statement(4, id, t, "mine");
    world.prepare(id, job, TableChangeShape::Appended);
    let stale = TransactionCommand::Commit {
        id,
        tables: match world.commit_of(id) {
            TransactionCommand::Commit { tables, .. } => tables
                .into_iter()
                .map(|target| TableCommit { expected_location: "wh/t/v0".into(), ..target })
                .collect(),
            other => panic!("{other:?}"),
        },
    };
    assert!(matches!(world.transact(stale), TransactionOutcome::Moved { table, .. } if table == t));
    let commit = world.commit_of(id);
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
}

#[test]
fn rows_that_were_changed_do_not_follow_a_table_that_moved() {
    for shape in [TableChangeShape::Rewritten, TableChangeShape::Overwritten] {
        let mut world = World::new();
        let (t, u) = two_tables(&mut world);
        let id = world.begin(1, None);
        let (one, two) = (world.statement(1, id, t, "a"), world.statement(2, id, u, "a"));
        world.prepare(id, one, shape);
        world.prepare(id, two, TableChangeShape::Appended);
        let other = world.copy(3, t);
        world.claim(other, &["b"]);
        world.load(other);
        let commit = world.commit_of(id);
        let TransactionOutcome::RolledBack(error) = world.transact(commit) else {
            panic!("{shape:?} committed")
        };
        assert!(error.is_retryable() && error.to_string().contains("default.t"), "{error}");
        assert_eq!((world.rows(t), world.rows(u)), (2, 0));
    }
}

#[test]
fn a_truncated_table_fails_the_transaction_and_its_session_hears_of_it() {
    let mut world = World::new();
    let (t, u) = two_tables(&mut world);
    let id = world.begin(1, Some("s"));
    let (one, two) = (world.statement(1, id, t, "a"), world.statement(2, id, u, "a"));
    world.prepare(id, one, TableChangeShape::Appended);
    world.prepare(id, two, TableChangeShape::Appended);
    world.truncate(t);
    let record = read::transaction_of_session(&world.state, "s").unwrap().unwrap();
    assert_eq!((record.phase, record.told), (TransactionPhase::Failed, false));
    assert!(record.error.unwrap().to_string().contains("was truncated"));
    assert_eq!(world.job(two).phase, JobPhase::Aborted);
    let commit = world.commit_of(id);
    assert!(matches!(world.transact(commit), TransactionOutcome::RolledBack(_)));
    assert!(
        world.refused(begin_command(2, Some("s"))).to_string().contains("current transaction is aborted")
    );
    world.transact(TransactionCommand::RollBack { id });
    assert_eq!(read::transaction_of_session(&world.state, "s").unwrap(), None);
    assert_eq!(world.begin(3, Some("s")), txn_id(3));
}

#[test]
fn an_overwrite_ends_the_loads_of_others_and_not_its_own() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    let own = world.statement(1, id, table, "a");
    world.prepare(id, own, TableChangeShape::Overwritten);
    let second = world.statement(2, id, table, "b");
    world.prepare(id, second, TableChangeShape::Appended);
    let other = world.copy(3, table);
    world.claim(other, &["c"]);
    let commit = world.commit_of(id);
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
    assert_eq!(world.job(second).phase, JobPhase::Committed);
    assert_eq!(world.job(other).phase, JobPhase::Aborted);
    assert_eq!(read::table_by_id(&world.state, table).unwrap().unwrap().epoch, 2);
}

#[test]
fn two_statements_at_once_build_on_each_other() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    let (one, two) = (world.statement(1, id, table, "a"), world.statement(2, id, table, "b"));
    let second = world.preparation(id, two, TableChangeShape::Appended);
    let commit = world.commit_of(id);
    assert!(world.refused(Command::Transaction(commit)).to_string().contains("still runs"));
    assert_eq!(running_job(&world.state, id).unwrap(), Some(two));
    world.prepare(id, one, TableChangeShape::Appended);
    assert!(matches!(world.transact(second), TransactionOutcome::Moved { .. }));
    world.prepare(id, two, TableChangeShape::Appended);
    assert_eq!(running_job(&world.state, id).unwrap(), None);
    assert_eq!(world.seen(id, table).num_rows, 4);
    let commit = world.commit_of(id);
    assert_eq!(world.transact(commit), TransactionOutcome::Committed);
    assert_eq!(world.rows(table), 4);
}

#[test]
fn a_silent_client_loses_its_transaction_once_nothing_of_it_runs() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, Some("s"));
    let idle = |since: i64| TransactionCommand::Fail {
        id: txn_id(1),
        error: Error::cancelled("idle"),
        told: false,
        idle_since_ms: Some(since),
    };
    let job = world.copy_with(1, table, |spec| spec.transaction = Some(id));
    let since = world.transaction(id).active_on_ms;
    assert_eq!(world.transact(idle(since)), TransactionOutcome::Open(id));
    world.claim(job, &["a"]);
    world.plan(job, 1);
    world.accept_all(job);
    world.ok(Command::BeginCommit { job });
    world.prepare(id, job, TableChangeShape::Appended);
    // A sign that came meanwhile counts.
    assert_eq!(world.transact(idle(since)), TransactionOutcome::Open(id));
    let since = world.transaction(id).active_on_ms;
    assert!(matches!(world.transact(idle(since)), TransactionOutcome::RolledBack(_)));
    assert_eq!(world.job(job).phase, JobPhase::Aborted);
    assert_eq!(read::transaction_of_session(&world.state, "s").unwrap().unwrap().id, id);
}

#[test]
fn a_session_is_in_one_transaction_at_a_time() {
    let mut world = World::new();
    let id = world.begin(1, Some("s"));
    assert_eq!(world.begin(2, Some("s")), id);
    assert_eq!(world.begin(1, Some("s")), id);
    assert_eq!(world.begin(3, Some("other")), txn_id(3));
    assert_eq!(read::open_transactions(&world.state).unwrap().len(), 2);
}

#[test]
fn open_transactions_and_their_statements_are_bounded() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(0, None);
    for number in 0..u128::from(MOST_STATEMENTS) {
        let mut spec = copy_spec(table);
        spec.transaction = Some(id);
        world.ok(Command::CreateJob { job: job_id(number), spec });
    }
    let mut spec = copy_spec(table);
    spec.transaction = Some(id);
    let error = world.refused(Command::CreateJob { job: job_id(5_000), spec });
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    for number in 1..MOST_OPEN {
        world.begin(number as u128, None);
    }
    assert_eq!(world.refused(begin_command(9_999, None)).kind(), ErrorKind::ResourceExhausted);
    world.transact(TransactionCommand::RollBack { id });
    world.begin(9_999, None);
}

#[test]
fn one_that_changed_nothing_begins_anew_and_ended_ones_are_forgotten() {
    let mut world = World::new();
    let table = world.table("t");
    let id = world.begin(1, None);
    let job = world.copy(1, table);
    world.claim(job, &["a"]);
    world.load(job);
    assert_eq!(world.seen(id, table).num_rows, 0);
    world.transact(TransactionCommand::Renew { id });
    assert_eq!(read::transaction(&world.state, id).unwrap(), None);
    assert_eq!(world.begin(1, None), id);
    assert_eq!(world.seen(id, table).num_rows, 2);

    let job = world.statement(2, id, table, "b");
    world.prepare(id, job, TableChangeShape::Appended);
    assert!(
        world
            .refused(Command::Transaction(TransactionCommand::Renew { id }))
            .to_string()
            .contains("has begun")
    );
    let commit = world.commit_of(id);
    world.transact(commit);
    assert_eq!(read::unswept_transactions(&world.state, 10).unwrap().len(), 1);
    world.ok(Command::Transaction(TransactionCommand::Swept { id }));
    assert!(read::transaction_tables(&world.state, id).unwrap().is_empty());
    let ended = world.transaction(id).ended_on_ms.unwrap();
    assert!(!has_old_transactions(&world.state, ended).unwrap());
    assert!(has_old_transactions(&world.state, ended + 1).unwrap());
    world.ok(Command::Transaction(TransactionCommand::Trim { before_ms: ended, limit: 10 }));
    assert!(read::transaction(&world.state, id).unwrap().is_some());
    world.ok(Command::Transaction(TransactionCommand::Trim { before_ms: ended + 1, limit: 10 }));
    assert_eq!(read::transaction(&world.state, id).unwrap(), None);
}

#[test]
fn streams_move_with_the_commit_and_with_nothing_else() {
    let mut world = World::new();
    let table = world.table("t");
    let stream = crate::streams::NewStream {
        database: "default".into(),
        name: "s".into(),
        table,
        append_only: true,
        offset: None,
        comment: String::new(),
        owner: "ada".into(),
    };
    let create = crate::streams::StreamCommand::Create { stream, if_not_exists: false, or_replace: false };
    world.ok(Command::Stream(create));
    let found = |world: &World| crate::streams::stream(&world.state, "default", "s").unwrap().unwrap();
    let moved = |world: &World, to: i64| crate::streams::StreamMove {
        stream: found(world).id,
        from: found(world).offset,
        to: Some(to),
    };
    for (number, commits) in [(1, false), (2, true)] {
        let id = world.begin(number, None);
        let wanted = moved(&world, 7);
        let job = world.copy_with(number, table, |spec| {
            spec.transaction = Some(id);
            spec.consumes = vec![wanted];
        });
        world.claim(job, &["a"]);
        world.plan(job, 1);
        world.accept_all(job);
        world.ok(Command::BeginCommit { job });
        world.prepare(id, job, TableChangeShape::Appended);
        world.transact(TransactionCommand::Consume { id, moves: vec![wanted] });
        let other = Command::Transaction(TransactionCommand::Consume { id, moves: vec![moved(&world, 8)] });
        assert!(world.refused(other).to_string().contains("up to different places"));
        assert_eq!(found(&world).offset, None);
        if commits {
            let commit = world.commit_of(id);
            assert_eq!(world.transact(commit), TransactionOutcome::Committed);
        } else {
            world.transact(TransactionCommand::RollBack { id });
        }
    }
    assert_eq!(found(&world).offset, Some(7));

    let id = world.begin(3, None);
    let stale = crate::streams::StreamMove { from: None, ..moved(&world, 9) };
    world.transact(TransactionCommand::Consume { id, moves: vec![stale] });
    let commit = world.commit_of(id);
    let TransactionOutcome::RolledBack(error) = world.transact(commit) else { panic!("committed") };
    assert!(error.is_retryable(), "{error}");
    assert_eq!(found(&world).offset, Some(7));
}
