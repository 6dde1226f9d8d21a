use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::secret::Sealed;

use super::*;
use crate::catalog::{StageFormat, StageKind, StageSource};

fn create_database(name: &str, if_not_exists: bool, or_replace: bool) -> Command {
    Command::CreateDatabase { name: name.into(), if_not_exists, or_replace, comment: String::new() }
}

fn create_connection(name: &str, or_replace: bool) -> Command {
    let sealed = Sealed { key_id: "k".into(), data: "sealed".into() };
    Command::CreateConnection {
        name: name.into(),
        storage_type: "s3".into(),
        params: BTreeMap::new(),
        secrets: BTreeMap::from([("secret_access_key".to_owned(), sealed)]),
        if_not_exists: false,
        or_replace,
    }
}

fn create_stage(name: &str, connection: Option<&str>) -> Command {
    let kind = match connection {
        Some(name) => {
            StageKind::External { url: "s3://bucket/".into(), source: StageSource::Named(name.into()) }
        }
        None => StageKind::Internal,
    };
    Command::CreateStage {
        name: name.into(),
        kind,
        file_format: None,
        copy_options: vec![],
        comment: String::new(),
        creator: "root".into(),
        if_not_exists: false,
        or_replace: false,
    }
}

#[test]
fn a_fresh_cluster_has_default_and_is_bootstrapped_once() {
    let mut world = World::new();
    let names: Vec<String> =
        read::databases(&world.state).unwrap().into_iter().map(|database| database.name).collect();
    assert_eq!(names, ["default"]);
    world.ok(Command::Bootstrap { cluster_id: "test".into() });
    world.refused(Command::Bootstrap { cluster_id: "other".into() });
    assert_eq!(read::cluster(&world.state).unwrap().unwrap().id, "test");
}

#[test]
fn databases_are_created_replaced_and_dropped_with_their_tables() {
    let mut world = World::new();
    world.ok(create_database("d", false, false));
    assert_eq!(world.refused(create_database("d", false, false)).kind(), ErrorKind::AlreadyExists);
    assert!(matches!(
        world.ok(create_database("d", true, false)),
        CommandResult::Created { created: false, .. }
    ));
    let mut table = new_table("t");
    table.database = "d".into();
    world.ok(Command::CreateTable(table));
    world.ok(create_database("d", false, true));
    assert!(read::table(&world.state, "d", "t").unwrap().is_none());
    for name in ["system", "INFORMATION_SCHEMA"] {
        world.refused(create_database(name, false, false));
        world.refused(Command::DropDatabase { name: name.into(), if_exists: true });
    }
    world.ok(Command::DropDatabase { name: "d".into(), if_exists: false });
    assert_eq!(
        world.refused(Command::DropDatabase { name: "d".into(), if_exists: false }).kind(),
        ErrorKind::NotFound
    );
    let none = world.ok(Command::DropDatabase { name: "d".into(), if_exists: true });
    assert_eq!(none, CommandResult::Dropped { existed: false });
}

#[test]
fn tables_are_found_renamed_dropped_and_brought_back() {
    let mut world = World::new();
    let table = world.table("t");
    let mut other = new_table("t");
    other.uuid = Uuid::from_u128(9);
    assert_eq!(world.refused(Command::CreateTable(other.clone())).kind(), ErrorKind::AlreadyExists);
    other.if_not_exists = true;
    assert_eq!(world.ok(Command::CreateTable(other.clone())), CommandResult::Table { table, created: false });
    // The same proposal, tried again after its result was forgotten.
    assert_eq!(world.ok(Command::CreateTable(new_table("t"))), CommandResult::Table { table, created: true });

    let rename = |from: &str, to: &str| Command::RenameTable {
        database: "default".into(),
        name: from.into(),
        new_database: "default".into(),
        new_name: to.into(),
    };
    world.ok(rename("t", "u"));
    assert_eq!(read::table(&world.state, "default", "u").unwrap().unwrap().id, table);
    world.ok(Command::DropTable { database: "default".into(), name: "u".into(), if_exists: false });
    other.name = "u".into();
    world.ok(Command::CreateTable(other));
    world.refused(Command::UndropTable { database: "default".into(), name: "u".into() });
    world.ok(rename("u", "v"));
    world.ok(Command::UndropTable { database: "default".into(), name: "u".into() });
    assert_eq!(read::table(&world.state, "default", "u").unwrap().unwrap().id, table);
    let names: Vec<String> = {
        let database = read::database(&world.state, "default").unwrap().unwrap();
        read::tables(&world.state, database.id).unwrap().into_iter().map(|table| table.name).collect()
    };
    assert_eq!(names, ["u", "v"]);
    let mut lost = new_table("x");
    lost.database = "nowhere".into();
    assert!(world.refused(Command::CreateTable(lost)).to_string().contains("database 'nowhere'"));
}

#[test]
fn an_alter_that_lost_the_race_is_told_where_the_table_is() {
    let mut world = World::new();
    let table = world.table("t");
    let record = read::table_by_id(&world.state, table).unwrap().unwrap();
    let options = BTreeMap::from([("enable_schema_evolution".to_owned(), "true".to_owned())]);
    let one = table_change(&record, "one", TableChangeKind::Options(options.clone()));
    let two = table_change(&record, "two", TableChangeKind::Alter { comment: Some("c".into()) });
    let committed = CommandResult::TableCommit(TableCommitOutcome::Committed { epoch: 1 });
    assert_eq!(world.ok(Command::CommitTable(one.clone())), committed);
    assert_eq!(world.ok(Command::CommitTable(one)), committed);
    assert_eq!(
        world.ok(Command::CommitTable(two)),
        CommandResult::TableCommit(TableCommitOutcome::Moved { current_location: "wh/t/v0+one".into() })
    );
    let record = read::table_by_id(&world.state, table).unwrap().unwrap();
    assert_eq!((record.options, record.comment.as_str()), (options, ""));
}

#[test]
fn a_connection_that_stages_name_is_not_dropped_and_may_change() {
    let mut world = World::new();
    assert!(world.refused(create_stage("s", Some("c"))).to_string().contains("connection 'c'"));
    world.ok(create_connection("c", false));
    world.ok(create_stage("s", Some("c")));
    world.ok(create_stage("s2", Some("c")));
    let error = world.refused(Command::DropConnection { name: "c".into(), if_exists: false });
    assert!(error.to_string().contains("stages 's', 's2' use it"), "{error}");
    world.refused(create_connection("c", false));
    let before = read::connection(&world.state, "c").unwrap().unwrap();
    world.ok(create_connection("c", true));
    let after = read::connection(&world.state, "c").unwrap().unwrap();
    assert_eq!((after.id, after.version), (before.id, 2));
    for name in ["s", "s2"] {
        world.ok(Command::DropStage { name: name.into(), if_exists: false });
    }
    world.ok(Command::DropConnection { name: "c".into(), if_exists: false });
}

#[test]
fn stages_are_altered_within_what_they_are() {
    let mut world = World::new();
    world.ok(create_connection("c", false));
    world.ok(create_stage("outside", Some("c")));
    world.ok(create_stage("inside", None));
    let alter = |name: &str, changes: Vec<StageChange>| Command::AlterStage {
        name: name.into(),
        if_exists: false,
        changes,
    };
    let csv = StageFormat::Named("CSV".into());
    world.ok(alter("outside", vec![StageChange::SetUrl("s3://b2/".into()), StageChange::SetFileFormat(csv)]));
    let stage = read::stage(&world.state, "outside").unwrap().unwrap();
    assert!(matches!(stage.kind, StageKind::External { url, .. } if url == "s3://b2/"));
    world.refused(alter("inside", vec![StageChange::SetUrl("s3://b2/".into())]));
    world.refused(alter("outside", vec![StageChange::SetFileFormat(StageFormat::Named("none_such".into()))]));
    world.refused(alter("missing", vec![]));
    let dropped = world.ok(Command::DropStage { name: "inside".into(), if_exists: false });
    assert!(matches!(dropped, CommandResult::StageDropped { stage: Some(_), internal: true }));
}

#[test]
fn file_formats_have_names_of_their_own() {
    let mut world = World::new();
    let create = |name: &str, or_replace: bool| Command::CreateFileFormat {
        name: name.into(),
        format: FileFormat::defaults(FormatKind::Csv),
        if_not_exists: false,
        or_replace,
    };
    assert!(world.refused(create("csv", false)).to_string().contains("built in"));
    world.ok(create("mine", false));
    world.refused(create("mine", false));
    world.ok(create("mine", true));
    assert_eq!(read::file_formats(&world.state).unwrap().len(), 1);
    world.ok(Command::DropFileFormat { name: "mine".into(), if_exists: false });
    world.refused(Command::DropFileFormat { name: "mine".into(), if_exists: false });
}

#[test]
fn names_that_cannot_be_keys_are_refused() {
    let mut world = World::new();
    for name in ["", "a\0b", &"x".repeat(300)] {
        world.refused(create_database(name, false, false));
        world.refused(create_stage(name, None));
        let mut table = new_table("t");
        table.name = name.into();
        world.refused(Command::CreateTable(table));
    }
}
