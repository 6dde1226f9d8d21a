//! Streams: names, offsets that move in the commit of their reader or not at all, and of two readers one.

use stevedore_common::ids::StreamId;

use super::*;
use crate::streams::{NewStream, Stream, StreamCommand, StreamMove};

impl World {
    fn create_stream(&mut self, name: &str, table: TableId, offset: Option<i64>) -> StreamId {
        match self.ok(create(new_stream(name, table, offset), false, false)) {
            CommandResult::Created { id, created: true } => StreamId(id),
            other => panic!("{other:?}"),
        }
    }

    fn stream(&self, name: &str) -> Option<Stream> {
        read::stream(&self.state, "default", name).unwrap()
    }

    fn offset(&self, name: &str) -> Option<i64> {
        self.stream(name).unwrap().offset
    }

    /// A load whose commit consumes.
    fn reader(&mut self, number: u128, table: TableId, consumes: Vec<StreamMove>) -> JobId {
        let job = self.copy_with(number, table, |spec| spec.consumes = consumes);
        self.claim(job, &[&format!("f{number}.csv")]);
        job
    }
}

fn new_stream(name: &str, table: TableId, offset: Option<i64>) -> NewStream {
    NewStream {
        database: "default".into(),
        name: name.into(),
        table,
        append_only: true,
        offset,
        comment: String::new(),
        owner: "root".into(),
    }
}

fn create(stream: NewStream, if_not_exists: bool, or_replace: bool) -> Command {
    Command::Stream(StreamCommand::Create { stream, if_not_exists, or_replace })
}

fn drop_stream(name: &str, if_exists: bool) -> Command {
    Command::Stream(StreamCommand::Drop { database: "default".into(), name: name.into(), if_exists })
}

fn consume(moves: Vec<StreamMove>) -> Command {
    Command::Stream(StreamCommand::Consume { moves })
}

fn step(stream: StreamId, from: Option<i64>, to: Option<i64>) -> StreamMove {
    StreamMove { stream, from, to }
}

#[test]
fn a_stream_and_a_table_never_have_the_same_name() {
    let mut world = World::new();
    let table = world.table("t");
    let first = world.create_stream("s", table, None);
    let error = world.refused(create(new_stream("s", table, None), false, false));
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let again = world.ok(create(new_stream("s", table, Some(1)), true, false));
    assert_eq!(again, CommandResult::Created { id: first.0, created: false });
    assert_eq!(world.offset("s"), None);
    let error = world.refused(create(new_stream("t", table, None), false, true));
    assert!(error.to_string().contains("is a table"), "{error}");
    let error = world.refused(Command::CreateTable(NewTable { or_replace: true, ..new_table("s") }));
    assert!(error.to_string().contains("is a stream"), "{error}");
    let rename = Command::RenameTable {
        database: "default".into(),
        name: "t".into(),
        new_database: "default".into(),
        new_name: "s".into(),
    };
    assert!(world.refused(rename).to_string().contains("is a stream"));

    world.ok(drop_stream("s", false));
    assert_eq!(world.stream("s"), None);
    assert_eq!(world.refused(drop_stream("s", false)).kind(), ErrorKind::NotFound);
    world.ok(drop_stream("s", true));
    world.table("s");
}

#[test]
fn a_replaced_stream_is_another_one() {
    let mut world = World::new();
    let table = world.table("t");
    let old = world.create_stream("s", table, None);
    world.ok(create(new_stream("s", table, Some(5)), false, true));
    let new = world.stream("s").unwrap();
    assert_ne!(new.id, old);
    let error = world.refused(consume(vec![step(old, None, Some(7))]));
    assert!(error.is_lost_race() && error.to_string().contains("dropped"), "{error}");
    assert_eq!(world.offset("s"), Some(5));
}

#[test]
fn a_stream_goes_with_its_database_and_outlives_its_table() {
    let mut world = World::new();
    let table = world.table("t");
    let database = Command::CreateDatabase {
        name: "d".into(),
        if_not_exists: false,
        or_replace: false,
        comment: String::new(),
    };
    world.ok(database.clone());
    world.ok(create(NewStream { database: "d".into(), ..new_stream("s", table, None) }, false, false));
    world.create_stream("kept", table, None);
    world.ok(Command::DropDatabase { name: "d".into(), if_exists: false });
    world.ok(database);
    assert_eq!(read::stream(&world.state, "d", "s").unwrap(), None);
    world.ok(Command::DropTable { database: "default".into(), name: "t".into(), if_exists: false });
    assert_eq!(world.stream("kept").unwrap().table, table);
    assert_eq!(
        world.refused(create(new_stream("late", table, None), false, false)).kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn the_commit_of_its_reader_moves_a_stream_and_nothing_else_of_the_reader_does() {
    let mut world = World::new();
    let table = world.table("t");
    let target = world.table("target");
    let stream = world.create_stream("s", table, None);
    let job = world.reader(1, target, vec![step(stream, None, Some(40))]);
    world.plan(job, 1);
    world.accept_all(job);
    world.ok(Command::BeginCommit { job });
    assert_eq!(world.offset("s"), None);

    // Somebody else committed to the target: the commit is to be made anew, and nothing is consumed.
    let mut stale = world.commit_command(job);
    stale.tables[0].expected_location = "wh/target/older".into();
    assert!(matches!(world.commit_with(stale), CommitOutcome::Moved { .. }));
    assert_eq!(world.offset("s"), None);

    let commit = world.commit_command(job);
    assert!(matches!(world.commit_with(commit.clone()), CommitOutcome::Committed(_)));
    assert_eq!(world.offset("s"), Some(40));
    // The same commit again answers the same, whatever became of the stream.
    world.ok(consume(vec![step(stream, Some(40), Some(50))]));
    assert!(matches!(world.commit_with(commit), CommitOutcome::Committed(_)));
    assert_eq!(world.offset("s"), Some(50));
}

#[test]
fn of_two_readers_of_the_same_changes_one_commits() {
    let mut world = World::new();
    let table = world.table("t");
    let (one, two) = (world.table("one"), world.table("second"));
    let stream = world.create_stream("s", table, None);
    let other = world.create_stream("other", table, Some(3));
    let first = world.reader(1, one, vec![step(stream, None, Some(40))]);
    let second = world.reader(2, two, vec![step(stream, None, Some(41)), step(other, Some(3), Some(41))]);
    for job in [first, second] {
        world.plan(job, 1);
        world.accept_all(job);
    }
    assert!(matches!(world.commit(first), CommitOutcome::Committed(_)));
    let CommitOutcome::Aborted(error) = world.commit(second) else { panic!("both committed") };
    assert!(error.is_lost_race() && error.to_string().contains("'s' was consumed by another"), "{error}");
    assert_eq!(world.job(second).phase, JobPhase::Aborted);
    assert_eq!(read::table_by_id(&world.state, two).unwrap().unwrap().num_rows, 0);
    assert_eq!((world.offset("s"), world.offset("other")), (Some(40), Some(3)));
}

#[test]
fn readers_that_find_nothing_new_do_not_hinder_each_other() {
    let mut world = World::new();
    let table = world.table("t");
    let target = world.table("target");
    let stream = world.create_stream("s", table, Some(40));
    for number in 1..=2 {
        let job = world.reader(number, target, vec![step(stream, Some(40), Some(40))]);
        assert!(matches!(world.load(job), CommitOutcome::Committed(_)));
    }
    assert_eq!(world.offset("s"), Some(40));
}

#[test]
fn several_streams_are_consumed_together_or_not_at_all() {
    let mut world = World::new();
    let table = world.table("t");
    let (a, b) = (world.create_stream("a", table, None), world.create_stream("b", table, Some(2)));
    let error = world.refused(consume(vec![step(a, None, Some(9)), step(b, Some(1), Some(9))]));
    assert!(error.is_lost_race());
    assert_eq!((world.offset("a"), world.offset("b")), (None, Some(2)));
    world.ok(consume(vec![step(a, None, Some(9)), step(b, Some(2), Some(9))]));
    assert_eq!((world.offset("a"), world.offset("b")), (Some(9), Some(9)));
}
