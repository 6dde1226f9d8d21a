//! JSON: elements of arrays, and values one after the other.

use super::*;

fn json(columns: &[&str]) -> DecodeSpec {
    spec(FormatKind::Json, columns)
}

#[test]
fn json_arrays_and_values_one_after_the_other_load_like_lines() {
    let text = b"[\n {\"a\": 1, \"b\": {\"k\": [1,\n 2]}},\n {\"A\": 2, \"x\": \"]\", \"b\": null}\n]\n";
    for (block, piece) in [(1, 1), (16, 5), (1 << 20, 1 << 20)] {
        let decoded = decode_with(&json(&["a INT", "b VARIANT", "$1 VARIANT"]), text, block, piece).unwrap();
        assert_eq!(
            decoded.rows,
            ["1|{\"k\": [1,\n 2]}|{\"a\":1,\"b\":{\"k\":[1,2]}}", "2|~|{\"A\":2,\"b\":null,\"x\":\"]\"}"]
        );
        assert_eq!((decoded.lines, decoded.numbers), (vec![2, 4], vec![0, 1]));
        assert_eq!(decoded.input_bytes, text.len() as u64);
    }
    let lines = b"{\"a\":1}\n{\"a\":2}{\"a\":3}";
    let decoded = decode_with(&json(&["a INT"]), lines, 4, 3).unwrap();
    assert_eq!(decoded.rows, ["1", "2", "3"]);
    assert!(decode_with(&json(&["a INT"]), b" [ ] ", 4, 3).unwrap().rows.is_empty());
}

#[test]
fn a_bad_element_costs_its_row_and_a_broken_structure_the_rest() {
    let text = b"[{\"a\":1},\n{\"a\":\"x\"},\n{\"a\" 3},\n7,\n[{\"a\":4}],\n{\"b\":5},\n{\"a\":6}]";
    let decoded = decode_with(&json(&["a INT"]), text, 8, 9).unwrap();
    assert_eq!(decoded.rows, ["1", "6"]);
    assert_eq!(
        decoded.errors,
        [
            "line 2 row 1: invalid value 'x' for column 1 (a INT): invalid digit",
            "line 3 row 2: invalid JSON at byte 6 of the element: expected ':'",
            "line 4 row 3: expected an object",
            "line 5 row 4: expected an object",
            "line 6 row 5: missing field 'a' for column 1 (a INT)",
        ]
    );
    let broken = decode_with(&json(&["a INT"]), b"[{\"a\":1} {\"a\":2}]", 1 << 20, 100).unwrap_err();
    assert!(broken.message().contains("line 1, byte 10, after element 1"), "{broken}");
}

#[test]
fn what_is_told_of_bad_text_does_not_depend_on_the_pieces() {
    let failure = |encoding: &str, text: &[u8], piece| {
        let mut spec = json(&["a INT"]);
        spec.format.encoding = encoding.to_owned();
        decode_with(&spec, text, 1 << 20, piece).unwrap_err().message().to_owned()
    };
    for piece in [1, 3, 100] {
        // The structure is broken before the byte that is no text.
        assert!(
            failure("iso-2022-jp", b"[1,,\xff]", piece).contains("the JSON is broken at line 1, byte 4"),
            "{piece}"
        );
        let bad = b"[1,\xff,,]";
        assert_eq!(failure("iso-2022-jp", bad, piece), failure("UTF-8", bad, 100), "{piece}");
    }
}

proptest! {
    #[test]
    fn an_array_gives_what_its_lines_give(
        rows in proptest::collection::vec((any::<Option<i32>>(), "[\"a\\\\{}\\[\\],: ]{0,12}"), 0..40),
        block in 1usize..300,
        piece in 1usize..100,
    ) {
        let values: Vec<serde_json::Value> =
            rows.iter().map(|(n, s)| serde_json::json!({ "n": n, "s": s, "v": { "k": [s, n] } })).collect();
        let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
        let array = serde_json::Value::Array(values).to_string();
        let columns = ["n INT", "s VARCHAR", "v VARIANT"];
        let expected = decode_with(&ndjson(&columns), lines.as_bytes(), 1 << 20, 1 << 20).unwrap();
        for text in [array, lines] {
            let decoded = decode_with(&json(&columns), text.as_bytes(), block, piece).unwrap();
            prop_assert_eq!(&decoded.rows, &expected.rows);
            prop_assert_eq!(&decoded.numbers, &expected.numbers);
        }
    }
}
