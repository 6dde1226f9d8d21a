//! The arguments of the table functions: which there are, what they may hold.
//!
//! Comes in: a call with constant arguments. Goes out: nothing, or what is wrong with it; who answers the
//! call finds its arguments as they should be.

use stevedore_common::{Error, Result};

use crate::ast::FunctionArg;
use crate::connection::StorageType;

type Arguments = [(Option<String>, FunctionArg)];

/// What an argument holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    /// `[database.]table`.
    Table,
    /// `[database.]stream`.
    Stream,
    /// `@stage/path`.
    Stage,
    /// `@stage/path` or a URL.
    Location,
    Pattern,
    /// An integer from 1.
    Count,
}

struct Signature {
    /// Names and what they hold; the first is needed.
    arguments: &'static [(&'static str, Holds)],
    /// Whether the first may be given without its name.
    by_place: bool,
    /// How it is called.
    example: &'static str,
}

fn signature(function: &str) -> Signature {
    match function {
        "infer_schema" => Signature {
            arguments: &[
                ("location", Holds::Location),
                ("pattern", Holds::Pattern),
                ("file_format", Holds::Text),
                ("connection", Holds::Text),
                ("max_records_per_file", Holds::Count),
                ("max_file_count", Holds::Count),
            ],
            by_place: false,
            example: "infer_schema(location => '@stage/path', pattern => '…', file_format => '…', \
                      max_records_per_file => 1000, max_file_count => 10)",
        },
        "inspect_parquet" => Signature {
            arguments: &[("location", Holds::Location), ("connection", Holds::Text)],
            by_place: true,
            example: "inspect_parquet('@stage/file.parquet')",
        },
        "copy_history" => Signature {
            arguments: &[("table_name", Holds::Table), ("result_limit", Holds::Count)],
            by_place: true,
            example: "copy_history('t') or copy_history('database.t', result_limit => 1000)",
        },
        "system.snapshots" => Signature {
            arguments: &[("table_name", Holds::Table), ("result_limit", Holds::Count)],
            by_place: true,
            example: "system.snapshots('t') or system.snapshots('database.t', result_limit => 1000)",
        },
        "stream_status" => Signature {
            arguments: &[("stream_name", Holds::Stream)],
            by_place: true,
            example: "stream_status('s') or stream_status('database.s')",
        },
        _ => Signature {
            arguments: &[("location", Holds::Stage), ("pattern", Holds::Pattern)],
            by_place: false,
            example: "list_stage(location => '@stage/path', pattern => '…')",
        },
    }
}

/// Checks the arguments of a call.
///
/// # Errors
/// Invalid input that names the function, the argument and what is allowed.
pub(super) fn check(function: &str, arguments: &Arguments) -> Result<()> {
    if function == "task_history" {
        return check_task_history(arguments);
    }
    let signature = signature(function);
    let first = signature.arguments.first().map_or("location", |(name, _)| *name);
    let mut has_first = false;
    for (place, (name, value)) in arguments.iter().enumerate() {
        let name = match name.as_deref() {
            Some(name) => name,
            None if signature.by_place && place == 0 => first,
            None if signature.by_place => {
                let what = match first {
                    "location" => "file",
                    "stream_name" => "stream",
                    _ => "table",
                };
                return Err(Error::invalid(format!("{function} takes one {what}"))
                    .hint(format!("write {}", signature.example)));
            }
            None => {
                return Err(Error::invalid(format!("{function} takes its arguments by name"))
                    .hint(format!("write {}", signature.example)));
            }
        };
        let Some((_, holds)) = signature.arguments.iter().find(|(known, _)| *known == name) else {
            return Err(Error::invalid(format!("{function} has no argument {name}"))
                .hint(format!("allowed: {}", signature.example)));
        };
        if name == first && std::mem::replace(&mut has_first, true) {
            return Err(Error::invalid(format!("argument {name} of {function} is given twice")));
        }
        check_value(function, name, value, *holds, &signature)?;
    }
    if has_first {
        return Ok(());
    }
    let needed = match first {
        "location" => "location => '@stage/path'",
        "stream_name" => "the name of a stream",
        _ => "the name of a table",
    };
    Err(Error::invalid(format!("{function} needs {needed}")).hint(format!("write {}", signature.example)))
}

/// All arguments of `task_history` may be left out; two may stand without names.
fn check_task_history(arguments: &Arguments) -> Result<()> {
    const EXAMPLE: &str = "task_history(scheduled_time_range_start => '…', scheduled_time_range_end => '…', \
                           result_limit => 100, task_name => '…', error_only => true, root_task_id => '…') or \
                           task_history('name', 100)";
    for (place, (name, value)) in arguments.iter().enumerate() {
        let name = match (name.as_deref(), place) {
            (Some(name), _) => name,
            (None, 0) => "task_name",
            (None, 1) => "result_limit",
            (None, _) => {
                return Err(Error::invalid("task_history takes two arguments without names")
                    .hint(format!("write {EXAMPLE}")));
            }
        };
        let wrong = |what: &str| Err(Error::invalid(format!("{name} of task_history must be {what}")));
        match name {
            "scheduled_time_range_start" | "scheduled_time_range_end" => {
                if !matches!(value, FunctionArg::Text(_) | FunctionArg::Time(_)) {
                    return wrong("a time, as a string or an expression");
                }
            }
            "task_name" => {
                if value.text().is_none() {
                    return wrong("a string");
                }
            }
            "root_task_id" => {
                if !matches!(value, FunctionArg::Text(_) | FunctionArg::Number(_)) {
                    return wrong("the id of a task");
                }
            }
            "result_limit" => {
                if !matches!(value.count(), Some(1..=10_000)) {
                    return wrong("an integer from 1 to 10000");
                }
            }
            "error_only" => {
                if !matches!(value, FunctionArg::Bool(_)) {
                    return wrong("TRUE or FALSE");
                }
            }
            _ => {
                return Err(Error::invalid(format!("task_history has no argument {name}"))
                    .hint(format!("allowed: {EXAMPLE}")));
            }
        }
    }
    Ok(())
}

/// A part of a name in double quotes, which it may have already.
fn in_quotes(part: &str) -> String {
    match part.starts_with('"') && part.ends_with('"') {
        true => part.to_owned(),
        false => format!("\"{}\"", part.replace('"', "\"\"")),
    }
}

fn check_value(
    function: &str,
    name: &str,
    value: &FunctionArg,
    holds: Holds,
    signature: &Signature,
) -> Result<()> {
    if holds == Holds::Count {
        return match value.count() {
            Some(1..) => Ok(()),
            _ => Err(Error::invalid(format!("{name} of {function} must be an integer from 1"))),
        };
    }
    let text =
        value.text().ok_or_else(|| Error::invalid(format!("{name} of {function} must be a string")))?;
    match holds {
        Holds::Table | Holds::Stream => {
            let what = if holds == Holds::Table { "table" } else { "stream" };
            crate::parse_table_name(text).map(|_| ()).map_err(|e| {
                let parts: Vec<String> = text.splitn(2, '.').map(in_quotes).collect();
                Error::invalid(format!("{name} of {function} names no {what}: {}", e.message()))
                    .hint(format!("other names stand in double quotes, as in '{}'", parts.join(".")))
            })
        }
        Holds::Pattern => crate::pattern::compile(text).map(|_| ()),
        Holds::Stage | Holds::Location if crate::lexer::at_of_string(text).is_some() => Ok(()),
        Holds::Location if text.contains("://") => StorageType::of_uri(text).map(|_| ()),
        Holds::Stage | Holds::Location => {
            Err(Error::invalid(format!("{function} needs location => '@stage/path', not '{text}'"))
                .hint(format!("write {}", signature.example)))
        }
        Holds::Text | Holds::Count => Ok(()),
    }
}
