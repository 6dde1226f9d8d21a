//! File format options: any names and values are answered, and a format's text gives the format again.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};
use stevedore_fuzz::knobs;
use stevedore_sql::Statement;

const KINDS: [FormatKind; 9] = [
    FormatKind::Csv,
    FormatKind::Tsv,
    FormatKind::Ndjson,
    FormatKind::Parquet,
    FormatKind::Orc,
    FormatKind::Avro,
    FormatKind::Json,
    FormatKind::Arrow,
    FormatKind::ArrowStream,
];

/// The names of all options, and some that are none.
fn names() -> Vec<&'static str> {
    let all = KINDS.iter().flat_map(|kind| FileFormat::allowed_options(*kind)).copied();
    let mut names: Vec<&str> = all.chain(["TYPE", "other"]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn any(u: &mut Unstructured<'_>) -> arbitrary::Result<Option<FileFormat>> {
    let mut options = vec![("TYPE".to_owned(), OptionValue::Word(u.choose(&KINDS)?.as_str().to_owned()))];
    let names = names();
    while !u.is_empty() && options.len() < 10 {
        let name = (*u.choose(&names)?).to_owned();
        let value = match u.int_in_range(0..=2)? {
            0 => OptionValue::Text(u.arbitrary()?),
            1 => OptionValue::Word(u.arbitrary()?),
            _ => OptionValue::List(u.arbitrary()?),
        };
        options.push((name, value));
    }
    Ok(FileFormat::from_options(&options).ok())
}

fn target(input: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(input);
    let format = if u.arbitrary()? {
        let kind = *u.choose(&KINDS)?;
        Some(knobs::format(&mut u, kind)?)
    } else {
        any(&mut u)?
    };
    let Some(format) = format else { return Ok(()) };
    let sql = format!("CREATE FILE FORMAT f {format}");
    match stevedore_sql::parse(&sql) {
        Ok(Statement::CreateFileFormat { format: again, .. }) => assert_eq!(*again, format, "{sql}"),
        other => panic!("{sql}: {other:?}"),
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let _ = target(input);
}));
