//! Where in a text a mistake is: the line with a caret under the place.

use stevedore_common::Error;
use stevedore_common::error::Position;

/// Characters of a line that are shown around the place.
const SHOWN: usize = 100;

/// The line that the error points at, with a caret under its column; nothing if it points nowhere.
pub(super) fn excerpt(text: &str, error: &Error) -> Option<String> {
    let Position { line, column } = error.position()?;
    let chars: Vec<char> = text.lines().nth(line.checked_sub(1)? as usize)?.chars().collect();
    let column = (column.max(1) as usize - 1).min(chars.len());
    let start = if column > SHOWN * 3 / 4 { column - SHOWN / 2 } else { 0 };
    let shown: String =
        chars.iter().skip(start).take(SHOWN).map(|c| if c.is_control() { ' ' } else { *c }).collect();
    let (before, after) =
        (if start > 0 { "…" } else { "" }, if chars.len() > start + SHOWN { "…" } else { "" });
    let margin = format!("{line} | ");
    let indent = margin.chars().count() + before.chars().count() + column - start;
    Some(format!("{margin}{before}{shown}{after}\n{:indent$}^\n", ""))
}

/// The error of a statement, for the text that it is a part of.
pub(super) fn in_script(error: Error, statement: Position, statements: usize) -> Error {
    let Some(position) = error.position() else {
        return if statements > 1 {
            error.context(format!("statement in line {}", statement.line))
        } else {
            error
        };
    };
    let mut moved = Error::new(error.kind(), error.message_with_context()).retryable(error.is_retryable());
    if let Some(hint) = error.hint_text() {
        moved = moved.hint(hint);
    }
    let column = if position.line == 1 { statement.column + position.column - 1 } else { position.column };
    moved.at(statement.line + position.line - 1, column)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_caret_stands_under_the_place() {
        let error = Error::invalid("unknown column").at(2, 8);
        assert_eq!(excerpt("SELECT 1;\nSELECT\tnope", &error).unwrap(), "2 | SELECT nope\n           ^\n");
        assert_eq!(excerpt("SELECT 1", &Error::invalid("nowhere")), None);
        assert_eq!(excerpt("SELECT 1", &error), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("SELECT {} nope {}", "x, ".repeat(100), ", y".repeat(100));
        let column = text.find("nope").unwrap() as u32 + 1;
        let shown = excerpt(&text, &Error::invalid("unknown").at(1, column)).unwrap();
        let (line, caret) = shown.split_once('\n').unwrap();
        let under = caret.find('^').unwrap();
        assert_eq!(line.chars().skip(under).take(4).collect::<String>(), "nope");
        assert!(line.chars().count() < 120);
    }

    #[test]
    fn a_place_in_a_statement_is_moved_to_its_place_in_the_script() {
        let at = |line, column| Position { line, column };
        let moved = |error| in_script(error, at(3, 5), 2);
        assert_eq!(moved(Error::invalid("x").at(1, 8)).position().unwrap(), at(3, 12));
        assert_eq!(moved(Error::invalid("x").at(2, 8)).position().unwrap(), at(4, 8));
        assert_eq!(moved(Error::invalid("x").hint("y")).to_string(), "statement in line 3: x; y");
    }
}
