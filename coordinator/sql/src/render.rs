//! What rendered SQL is, and what whoever runs it must do.
//!
//! This module holds no code: it is the contract between [`crate::ast::AnalyzedQuery`] (and
//! [`crate::ast::AnalyzedTransform`]) and the worker's engine, which parses the text again with the
//! library's generic dialect.
//!
//! # Names
//! Every name of a column, alias or relation is in double quotes; function names are not, and are in
//! lower case. So the engine's normalisation of unquoted names plays no part, switched on or off.
//! - **Relations** are `"__rel_0"`, `"__rel_1"` …: register each under exactly that name. A table without
//!   an alias is aliased to its own name in lower case, so that `t.c` works.
//! - **Columns match in any case**: every name inside the text is in lower case. Register each relation
//!   with its columns' names in lower case (ASCII and beyond: `str::to_lowercase`), and remember the
//!   spelling that the table or file has. Where two columns of a relation differ only in case, the first
//!   takes the lower-case name and the others keep their own spelling, out of reach.
//! - **Output names**: an alias of the outermost SELECT is written as the user wrote it. An expression
//!   without an alias is aliased to its own text (`"count(*)"`, `"a::INT"`). A plain column, and `*`, have
//!   no alias: their output field still has a relation as its qualifier (`DFSchema::qualified_field`).
//!   After planning, give each output field *with* a qualifier the spelling that its column has in its
//!   relation; leave fields without one alone. In `ORDER BY`, `GROUP BY` and `HAVING` of the outermost
//!   query an alias is written as in its definition.
//! - **`$n`** is the column `"$n"` of a stage relation; `metadata$filename` and its like are the columns
//!   `"metadata$filename"` …: register those of a stage relation that the plan asks for. A format with
//!   named columns has `"$1"`, the whole row as VARIANT.
//!
//! # Functions to register
//! - `__cast(expr, 'TYPE')` and `__try_cast(expr, 'TYPE')`: a cast by the dialect's rules; TYPE is the
//!   canonical text that `SqlType::parse` reads. The result type follows from the literal. `__try_cast`
//!   gives NULL where `__cast` fails. Typed literals (`DATE '…'`, `TIMESTAMP '…'`) become `__cast` too.
//! - `__variant_get(expr, '["a","b",0]')`: the element at a path, a JSON array of names and of indexes
//!   from 0. On VARIANT the result is VARIANT, NULL where the path leads nowhere. It must also take MAP
//!   (one name: a key) and TUPLE/struct columns (names match in any case): `column.field` and
//!   `column['key']` are rendered with it as well.
//!
//! # Literals and parameters
//! String literals are standard SQL (`''` for a quote, nothing else escaped). Parameters are `$1` … `$n`
//! placeholders, numbered in the order of their `?`.
//!
//! # Depth
//! A chain of casts and paths becomes nested calls, so the text may nest deeper than the statement did:
//! let the engine's parser recurse to at least 1,100 levels (DataFusion: `sql_parser.recursion_limit`) and
//! give it, and the planning, the stack for that (`stacker::maybe_grow`, or a thread with 64 MiB).
//!
//! # Transforms
//! `SELECT e AS "__col_0", … FROM "__rel_0" [AS "alias"] [WHERE …]`: the names of the output say
//! nothing, the order does. A transform of `*` is `SELECT * FROM "__rel_0"`. An item that is just a column
//! or a cast of one says so in its `source` and `cast`, and needs no engine at all.
