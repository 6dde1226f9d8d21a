//! ON_ERROR = skip_file and its kin: the same tables and reports, whether files are held or read twice.

use stevedore_common::storage::Store;

use super::super::copy::Input;
use super::super::errors::{FileState, SkipRule};
use super::super::whole_files::load_again;
use super::*;
use crate::transform::{Transform, TransformRequest};

const MANY: usize = 30_000;

/// How the rows of a file are kept until it is judged.
#[derive(Debug, Clone, Copy)]
struct Room {
    held_bytes: u64,
    memory: u64,
}

/// All of a file, nothing of it, some of it, and all but for the budget.
const ROOMS: [Room; 4] = [
    Room { held_bytes: 64 << 20, memory: 64 << 20 },
    Room { held_bytes: 0, memory: 64 << 20 },
    Room { held_bytes: 300 << 10, memory: 64 << 20 },
    Room { held_bytes: 64 << 20, memory: 1 << 20 },
];

fn fixture(room: Room) -> Fixture {
    let mut fixture = Fixture::with_memory(room.memory);
    fixture.runner.resources.settings.held_bytes = room.held_bytes;
    // So that a file that breaks has given rows before.
    fixture.runner.resources.settings.block_bytes = 16 << 10;
    fixture
}

/// Stored text as gzip that ends before its trailer.
fn cut_gzip(text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_le_bytes();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    bytes.extend([length[0], length[1], !length[0], !length[1]]);
    bytes.extend(text.as_bytes());
    bytes
}

/// Good, one bad row of four, three bad rows of four, broken half-way, gone, empty, one bad row at the end of many,
/// good again: what is left of a file that was left out would show in the next one.
fn files(fixture: &Fixture) -> Vec<FileTask> {
    let mut many: String = (1..MANY).map(|n| format!("{},many\n", n % 100)).collect();
    many.push_str("x,bad\n");
    let files = vec![
        fixture.file(0, "good.csv", "1,good\n2,good\n"),
        fixture.file(1, "one.csv", "1,one\n2,one\nx,bad\n4,one\n"),
        fixture.file(2, "three.csv", "1,three\nx,bad\ny,bad\nz,bad\n"),
        fixture.file(3, "cut.csv.gz", cut_gzip(&"9,cut\n".repeat(10_000))),
        fixture.file(4, "gone.csv", "1,gone\n"),
        fixture.file(5, "empty.csv", ""),
        fixture.file(6, "many.csv", many),
        fixture.file(7, "last.csv", "7,last\n"),
    ];
    std::fs::remove_file(fixture.path().join("in/gone.csv")).unwrap();
    files
}

fn spec(fixture: &Fixture, files: Vec<FileTask>, sql: &str, mode: ErrorMode, limit: u64) -> SliceSpec {
    let mut spec = fixture.copy(files, sql, mode);
    if let Some(Source::Copy(copy)) = &mut spec.source {
        copy.on_error = Some(OnError { mode: mode.into(), limit });
    }
    spec
}

/// Outcome, rows, errors and line of each file, and how many rows of each kind are in the table.
type Seen = (Vec<(FileOutcome, u64, u64, u64)>, Vec<(String, usize)>);

async fn load(room: Room, sql: &str, mode: ErrorMode, limit: u64) -> Seen {
    let fixture = fixture(room);
    let spec = spec(&fixture, files(&fixture), sql, mode, limit);
    let report = fixture.run(spec).await.unwrap();
    assert_eq!(fixture.runner.memory_used(), 0);
    let errors: u64 = report.files.iter().map(|file| file.errors).sum();
    let rows: u64 = report.files.iter().map(|file| file.rows).sum();
    assert_eq!((report.totals.errors, report.totals.rows, report.totals.files), (errors, rows, 8));
    assert!(report.files.iter().all(|file| (file.errors > 0) != file.first_error.is_empty()));
    let files = report
        .files
        .iter()
        .map(|file| (file.outcome(), file.rows, file.errors, file.first_error_line))
        .collect();
    let mut kinds: Vec<(String, usize)> = Vec::new();
    let mut names: Vec<String> =
        fixture.rows().iter().map(|row| row.split('|').nth(1).unwrap().to_owned()).collect();
    names.sort();
    for name in names {
        match kinds.last_mut().filter(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    (files, kinds)
}

fn kinds(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
    expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

#[tokio::test]
async fn files_are_loaded_whole_or_left_out_whole_however_they_are_held() {
    use FileOutcome::{Empty, LeftOut, Loaded};
    let (good, empty, last) = ((Loaded, 2, 0, 0), (Empty, 0, 0, 0), (Loaded, 1, 0, 0));
    // Broken half-way, and gone: each is an error of no line.
    let broken = (LeftOut, 0, 1, 0);
    let many = MANY as u64;
    let cases: [(ErrorMode, u64, Seen); 6] = [
        (
            ErrorMode::SkipFile,
            0,
            (
                vec![
                    good,
                    (LeftOut, 0, 1, 3),
                    (LeftOut, 0, 1, 2),
                    broken,
                    broken,
                    empty,
                    (LeftOut, 0, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1)]),
            ),
        ),
        (
            ErrorMode::SkipFileN,
            2,
            (
                vec![
                    good,
                    (Loaded, 3, 1, 3),
                    (LeftOut, 0, 2, 2),
                    broken,
                    broken,
                    empty,
                    (Loaded, many - 1, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1), ("many", MANY - 1), ("one", 3)]),
            ),
        ),
        (
            ErrorMode::SkipFileN,
            4,
            (
                vec![
                    good,
                    (Loaded, 3, 1, 3),
                    (Loaded, 1, 3, 2),
                    broken,
                    broken,
                    empty,
                    (Loaded, many - 1, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1), ("many", MANY - 1), ("one", 3), ("three", 1)]),
            ),
        ),
        (
            ErrorMode::SkipFilePercent,
            25,
            (
                vec![
                    good,
                    (LeftOut, 0, 1, 3),
                    (LeftOut, 0, 3, 2),
                    broken,
                    broken,
                    empty,
                    (Loaded, many - 1, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1), ("many", MANY - 1)]),
            ),
        ),
        (
            ErrorMode::SkipFilePercent,
            26,
            (
                vec![
                    good,
                    (Loaded, 3, 1, 3),
                    (LeftOut, 0, 3, 2),
                    broken,
                    broken,
                    empty,
                    (Loaded, many - 1, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1), ("many", MANY - 1), ("one", 3)]),
            ),
        ),
        (
            ErrorMode::SkipFilePercent,
            0,
            (
                vec![
                    good,
                    (LeftOut, 0, 1, 3),
                    (LeftOut, 0, 1, 2),
                    broken,
                    broken,
                    empty,
                    (LeftOut, 0, 1, many),
                    last,
                ],
                kinds(&[("good", 2), ("last", 1)]),
            ),
        ),
    ];
    for (mode, limit, expected) in cases {
        for room in ROOMS {
            assert_eq!(load(room, "", mode, limit).await, expected, "{mode:?} {limit} {room:?}");
        }
    }
}

#[tokio::test]
async fn rows_that_a_transform_filters_are_no_rows_of_a_percentage() {
    // One bad row beside three good ones of one.csv; the WHERE leaves one of them.
    let sql = r#"SELECT CAST("$1" AS INT), "$2" FROM "s1" WHERE "$1" NOT IN ('1', '2') OR "$2" = 'good'"#;
    for room in ROOMS {
        for (limit, outcome, rows) in [(50, FileOutcome::LeftOut, 0), (51, FileOutcome::Loaded, 1)] {
            let (files, kinds) = load(room, sql, ErrorMode::SkipFilePercent, limit).await;
            assert_eq!(files[0], (FileOutcome::Loaded, 2, 0, 0));
            assert_eq!(files[1], (outcome, rows, 1, 3), "{limit} {room:?}");
            assert_eq!(kinds.iter().filter(|(kind, _)| kind == "one").count() as u64, rows);
        }
    }
}

#[tokio::test]
async fn a_slice_whose_files_are_all_left_out_writes_nothing() {
    for room in ROOMS {
        let fixture = fixture(room);
        let files = vec![fixture.file(0, "a.csv", "1,a\nx,b\n"), fixture.file(1, "b.csv", "x,b\n")];
        let spec = spec(&fixture, files, "", ErrorMode::SkipFile, 0);
        let report = fixture.run(spec).await.unwrap();
        assert!(report.files.iter().all(|file| file.outcome() == FileOutcome::LeftOut));
        assert_eq!((report.data_files.len(), report.totals.rows, report.totals.errors), (0, 0, 2));
        assert!(fixture.data_files().is_empty());
    }
}

fn input(fixture: &Fixture, spec: &SliceSpec, transform: Transform) -> Input {
    let Some(Source::Copy(copy)) = &spec.source else { panic!("{spec:?}") };
    let scan = copy.scan.as_ref().unwrap();
    let store: Store =
        fixture.runner.stores.get(&storage_spec(scan.storage.as_ref().unwrap()).unwrap()).unwrap();
    fixture.runner.input(scan, store, Arc::new(transform))
}

#[tokio::test]
async fn a_file_that_is_judged_otherwise_when_it_is_loaded_ends_the_attempt_for_another_one() {
    let fixture = Fixture::new();
    let files = vec![
        fixture.file(0, "good.csv", "1,good\n"),
        fixture.file(1, "turned.csv", "1,turned\nx,bad\n"),
        fixture.file(2, "gone.csv", "1,gone\n"),
    ];
    std::fs::remove_file(fixture.path().join("in/gone.csv")).unwrap();
    let spec = spec(&fixture, files.clone(), "", ErrorMode::SkipFile, 0);
    let target = spec.target.as_ref().unwrap();
    let parsed = parse_target(target).unwrap();
    let format = FileFormat::defaults(FormatKind::Csv);
    let request = TransformRequest {
        format: &format,
        case_sensitive: false,
        sql: "",
        relation: "s1",
        source_columns: &[],
        table: &parsed.table,
        field_ids: &target.field_ids,
        settings: &HashMap::new(),
        disable_variant_check: false,
        evolves: false,
    };
    let transform = Transform::compile(&fixture.runner.engine, request).await.unwrap();
    let input = input(&fixture, &spec, transform);
    let mut sink = fixture.runner.sink(&spec, target, &parsed).unwrap();
    let counters = SliceCounters::default();
    let rules = [SkipRule::Errors(1), SkipRule::Percent(50)];
    for rule in rules {
        let mut again = async |index: usize| {
            load_again(&input, index, rule, FileState::new(&files[index]), &mut sink, &counters).await
        };
        let report = again(0).await.unwrap().report();
        assert_eq!((report.outcome(), report.rows), (FileOutcome::Loaded, 1));
        let turned = again(1).await.unwrap_err();
        assert!(!turned.permanent);
        assert!(turned.error.to_string().starts_with("file 'turned.csv': it was good"), "{}", turned.error);
        let gone = again(2).await.unwrap_err();
        assert!(!gone.permanent && gone.error.to_string().contains("gone.csv"), "{}", gone.error);
    }
    sink.abort().await;
}
