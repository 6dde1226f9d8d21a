//! Text to every type: the cast of a query and the decoder of a file agree on what a text means, and what a
//! value's own text means is the value.
#![no_main]

use std::sync::Arc;

use arbitrary::Unstructured;
use arrow::array::{Array, ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use libfuzzer_sys::fuzz_target;
use stevedore_common::file_format::{FileFormat, FormatKind};
use stevedore_common::types::SqlType;
use stevedore_decode::blocks::TextBlock;
use stevedore_decode::cast::{CastContext, cast};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, OutputColumn};
use stevedore_decode::text::text_decoder;
use stevedore_fuzz::{knobs, split};

const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "-03:30", "America/St_Johns"];

/// The value that a CSV file's decoder makes of a field, NULL where it is refused.
fn decoded(spec: DecodeSpec, text: &str) -> (bool, Option<ArrayRef>) {
    let decoder = text_decoder(Arc::new(spec)).expect("the specification is sound");
    let bytes = format!("\"{}\"\n", text.replace('"', "\"\"")).into_bytes();
    let input_bytes = bytes.len() as u64;
    let block = TextBlock { bytes: bytes.into(), first_line: 1, last_line: 1, input_bytes, elements: None };
    let batches = decoder.decode(block).expect("rows or errors");
    let refused = batches.iter().any(|batch| !batch.errors.is_empty());
    let values = batches.into_iter().map(|batch| batch.batch).find(|batch| batch.num_rows() == 1);
    (refused, values.map(|batch| batch.column(0).clone()))
}

fn target(input: &[u8]) -> arbitrary::Result<()> {
    let (chosen, text) = split(input);
    let Ok(text) = std::str::from_utf8(text) else { return Ok(()) };
    let mut u = Unstructured::new(chosen);
    let (zone, truncate) = (*u.choose(&ZONES)?, u.arbitrary()?);
    let ty = knobs::sql_type(&mut u, 0)?;
    let mut spec = DecodeSpec::new(
        FileFormat::defaults(FormatKind::Csv),
        vec![OutputColumn {
            name: "c".into(),
            ty: Some(ty.clone()),
            source: ColumnSource::Position(0),
            nullable: true,
            has_default: false,
        }],
    );
    spec.cast.timezone = zone.to_owned();
    spec.cast.truncate = truncate;
    let context = CastContext { column_number: 1, column_name: "c".into() };
    let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let field = Field::new("c", DataType::Utf8, true);
    let result = cast(&array, &field, &ty, &spec.cast, &context).expect("text casts to everything");
    assert_eq!(result.values.data_type(), &ty.to_arrow());
    assert_eq!(result.values.len(), 1);
    let refused = result.rejects.is_some();
    assert!(!refused || result.values.is_null(0));

    // BINARY in files is digits, in casts the text itself; composite values of files are read more strictly.
    let alike = ty.is_numeric()
        || matches!(ty, SqlType::Boolean | SqlType::Date | SqlType::Timestamp | SqlType::String);
    let options = spec.cast.clone();
    if alike && !text.is_empty() {
        let (file_refused, value) = decoded(spec, text);
        assert_eq!(file_refused, refused, "{text:?} as {ty}");
        if let Some(value) = value {
            assert_eq!(&value, &result.values, "{text:?} as {ty}");
        }
    }
    if !refused && !result.values.is_null(0) {
        let to_text = |values: &ArrayRef| {
            let field = ty.to_field("c", true);
            cast(values, &field, &SqlType::String, &options, &context).map(|done| done.values)
        };
        let Ok(shown) = to_text(&result.values) else { return Ok(()) };
        if matches!(ty, SqlType::Date | SqlType::Timestamp) || ty.is_numeric() || ty == SqlType::Boolean {
            let back = cast(&shown, &field, &ty, &options, &context).expect("text casts to everything");
            // An hour that clocks repeat is told apart by nobody, and years have four digits.
            let ambiguous = ty == SqlType::Timestamp && zone != "UTC";
            assert!(
                ambiguous || back.rejects.is_some() || back.values == result.values,
                "{text:?} as {ty}: {shown:?}"
            );
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| stevedore_fuzz::run(|| {
    let _ = target(input);
}));
