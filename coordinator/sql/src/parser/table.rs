//! Tables: CREATE, ALTER, INSERT.

use stevedore_common::schema::{Column, ColumnChange};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{
    CreateTable, Insert, InsertSource, ObjectRef, PartitionField, PartitionTransform, Statement,
};
use crate::lexer::{Tok, Token};
use crate::query;

/// How deep the parentheses of a type may nest.
const MAX_TYPE_DEPTH: usize = 16;
/// The options of a table.
const TABLE_OPTIONS: &str = "ENABLE_SCHEMA_EVOLUTION, STORAGE_SERIALIZATION_POLICY, TARGET_FILE_SIZE";

/// How many tokens a type takes: `WORD [PRECISION] [( … )] [UNSIGNED]`. `None`: no type stands here.
pub(crate) fn type_extent(tokens: &[Token]) -> Option<usize> {
    let Some(Tok::Word(word)) = tokens.first().map(|token| &token.tok) else { return None };
    let mut length = 1;
    if word.eq_ignore_ascii_case("DOUBLE")
        && tokens.get(length).is_some_and(|token| token.is_word("PRECISION"))
    {
        length += 1;
    }
    if tokens.get(length).is_some_and(|token| token.is_sym("(")) {
        let mut depth = 0usize;
        for token in tokens.get(length..)? {
            length += 1;
            if token.is_sym("(") {
                depth += 1;
            } else if token.is_sym(")") {
                depth -= 1;
            }
            if depth == 0 || depth > MAX_TYPE_DEPTH {
                break;
            }
        }
        if depth > 0 {
            return None;
        }
    }
    if tokens.get(length).is_some_and(|token| token.is_word("UNSIGNED")) {
        length += 1;
    }
    Some(length)
}

/// Reads a type at the start of the tokens; gives its length too.
pub(crate) fn read_type(text: &str, tokens: &[Token]) -> Result<(SqlType, usize)> {
    let place = |error: Error| match tokens.first() {
        Some(token) => error.at(token.line, token.column),
        None => error,
    };
    let length = type_extent(tokens).ok_or_else(|| place(Error::invalid("expected a type")))?;
    let words: Vec<&str> = tokens
        .get(..length)
        .unwrap_or(&[])
        .iter()
        .map(|token| text.get(token.start..token.end).unwrap_or(""))
        .collect();
    let ty = SqlType::parse(&words.join(" ")).map_err(place)?;
    Ok((ty, length))
}

impl<'a> Parser<'a> {
    pub(super) fn create_table(&mut self, or_replace: bool, transient: bool) -> Result<Statement> {
        let mode = self.create_mode(or_replace)?;
        let table = self.object_ref("the name of a table")?;
        let mut create = CreateTable {
            table,
            mode,
            transient,
            columns: Vec::new(),
            partition_by: Vec::new(),
            cluster_by: Vec::new(),
            options: Vec::new(),
            comment: None,
            as_query: None,
            like: None,
        };
        if self.eat_kw("LIKE") {
            create.like = Some(self.object_ref("the name of a table")?);
            return Ok(Statement::CreateTable(Box::new(create)));
        }
        let mut unsupported = None;
        let after_name = self.peek();
        if self.is_sym("(") {
            unsupported = self.column_definitions(&mut create)?;
        }
        while !self.at_end() {
            if self.eat_kw("AS") {
                create.as_query = Some(query::analyze_statement(self.text, self.rest())?);
                self.skip_rest();
            } else if self.is_kw("PARTITION") {
                let token = self.peek();
                self.pos += 1;
                self.expect_kw("BY")?;
                if !create.partition_by.is_empty() {
                    return Err(self.at_token(Error::invalid("PARTITION BY is given twice"), token));
                }
                create.partition_by = self.partition_by(&create.columns)?;
            } else if self.is_kw("CLUSTER") {
                self.pos += 1;
                self.expect_kw("BY")?;
                if self.is_kw("LINEAR") || self.is_kw("HILBERT") {
                    self.pos += 1;
                }
                create.cluster_by = self.expression_texts()?;
            } else if self.is_kw("COMMENT") {
                let token = self.peek();
                self.pos += 1;
                self.eat_sym("=");
                let comment = self.string("a comment in quotes")?;
                self.once(&mut create.comment, comment, "COMMENT", token)?;
            } else if self.is_kw("ENGINE") {
                let token = self.peek();
                self.pos += 1;
                self.expect_equals()?;
                let engine = self.option_value()?.0;
                let engine =
                    engine.as_text("ENGINE").map_err(|e| self.at_token(e, token))?.to_ascii_uppercase();
                if engine != "ICEBERG" && engine != "FUSE" {
                    let error = Error::invalid(format!("option ENGINE is '{engine}'; allowed: ICEBERG"));
                    return Err(self.at_token(error, token));
                }
            } else if self.option_name().is_some() {
                let option = self.table_option(&create.options)?;
                create.options.push(option);
                self.eat_sym(",");
            } else {
                let what = "PARTITION BY, CLUSTER BY, COMMENT, an option (NAME = value), AS or the end of the statement";
                return Err(self.expected(what));
            }
        }
        if let Some(what) = unsupported {
            return Ok(Statement::NotSupportedYet(what));
        }
        if create.columns.is_empty() && create.as_query.is_none() {
            return Err(self.expected_at("the columns of the table in parentheses, or AS SELECT", after_name));
        }
        Ok(Statement::CreateTable(Box::new(create)))
    }

    /// `(col TYPE …, …)`. Gives what is not supported yet, if something is.
    fn column_definitions(&mut self, create: &mut CreateTable) -> Result<Option<String>> {
        self.expect_sym("(")?;
        let mut unsupported = None;
        loop {
            if let Some(what) = self.index_definition() {
                unsupported = Some(what);
                self.skip_to_comma()?;
            } else {
                let token = self.peek();
                let (column, missing) = self.column_definition()?;
                unsupported = unsupported.or(missing);
                if create.columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
                    let error = Error::invalid(format!("column '{}' stands twice", column.name));
                    return Err(self.at_token(error, token));
                }
                create.columns.push(column);
            }
            if !self.eat_sym(",") {
                break;
            }
        }
        if !self.is_sym(")") {
            return Err(self.expected("NULL, NOT NULL, DEFAULT, COMMENT, ',' or ')'"));
        }
        self.pos += 1;
        Ok(unsupported)
    }

    /// `[ASYNC|SYNC] [INVERTED|NGRAM|VECTOR] INDEX name (…)` and constraints.
    fn index_definition(&self) -> Option<String> {
        for kind in ["INVERTED", "NGRAM", "VECTOR", "SPATIAL", "ASYNC", "SYNC"] {
            if self.is_kw(kind)
                && (self.is_kw_at(1, "INDEX") || (self.is_kw_at(2, "INDEX") && kind.ends_with("SYNC")))
            {
                return Some(format!("{kind} INDEX in CREATE TABLE"));
            }
        }
        if self.is_kw("PRIMARY") && self.is_kw_at(1, "KEY") {
            return Some("PRIMARY KEY".into());
        }
        ((self.is_kw("CONSTRAINT") && !self.peek_at(2).is_some_and(|t| t.is_sym(",") || t.is_sym(")")))
            || (self.is_kw("CHECK") && self.peek_at(1).is_some_and(|t| t.is_sym("("))))
        .then(|| "constraints".into())
    }

    /// To the `,` or `)` at this depth.
    fn skip_to_comma(&mut self) -> Result<()> {
        let mut depth = 0usize;
        while let Some(token) = self.peek() {
            match &token.tok {
                Tok::Sym("(") => depth += 1,
                Tok::Sym(")") if depth == 0 => return Ok(()),
                Tok::Sym(")") => depth -= 1,
                Tok::Sym(",") if depth == 0 => return Ok(()),
                _ => {}
            }
            self.pos += 1;
        }
        Err(self.expected("')'"))
    }

    /// `name TYPE [NULL | NOT NULL] [DEFAULT expr] [COMMENT '…']`, the attributes in any order.
    fn column_definition(&mut self) -> Result<(Column, Option<String>)> {
        let (said, unsupported) = self.column_attributes()?;
        let ColumnChange { name, ty, nullable, default, comment } = said;
        let Some(ty) = ty else {
            return Err(self.expected(&format!("the type of column '{name}'")));
        };
        let column = Column { id: 0, name, ty, nullable: nullable.unwrap_or(true), default, comment };
        Ok((column, unsupported))
    }

    /// The same, where only the name must stand.
    fn column_attributes(&mut self) -> Result<(ColumnChange, Option<String>)> {
        let name = self.name("the name of a column")?.text;
        let attributes = ["NULL", "NOT", "DEFAULT", "COMMENT"];
        let has_type = !attributes.iter().any(|word| self.is_kw(word));
        let mut ty = None;
        if has_type {
            if self.at_end() || type_extent(self.rest()).is_none() {
                return Err(self.expected(&format!("the type of column '{name}'")));
            }
            let (read, length) = read_type(self.text, self.rest())?;
            self.pos += length;
            ty = Some(read);
        }
        let (mut nullable, mut default, mut comment) = (None, None, None);
        let mut unsupported = None;
        loop {
            let token = self.peek();
            if self.eat_kws(&["NOT", "NULL"]) {
                self.once(&mut nullable, false, "NOT NULL", token)?;
            } else if self.eat_kw("NULL") {
                self.once(&mut nullable, true, "NULL", token)?;
            } else if self.eat_kw("DEFAULT") {
                let length = default_extent(self.rest());
                if length == 0 {
                    return Err(self.expected("an expression"));
                }
                let tokens = self.rest().get(..length).unwrap_or(&[]);
                let sql = query::render_default(self.text, tokens, &name)?;
                self.pos += length;
                self.once(&mut default, sql, "DEFAULT", token)?;
            } else if self.eat_kw("COMMENT") {
                self.eat_sym("=");
                let text = self.string("a comment in quotes")?;
                self.once(&mut comment, text, "COMMENT", token)?;
            } else if [
                "AUTOINCREMENT",
                "AUTO_INCREMENT",
                "IDENTITY",
                "UNIQUE",
                "PRIMARY",
                "REFERENCES",
                "CHECK",
            ]
            .iter()
            .any(|word| self.is_kw(word))
                || (self.is_kw("AS") && self.peek_at(1).is_some_and(|t| t.is_sym("(")))
            {
                let word = self.name("an attribute")?.text.to_ascii_uppercase();
                unsupported = Some(format!("{word} on a column"));
                self.skip_to_comma_or_end();
            } else {
                break;
            }
        }
        Ok((ColumnChange { name, ty, nullable, default, comment }, unsupported))
    }

    fn skip_to_comma_or_end(&mut self) {
        if self.skip_to_comma().is_err() {
            self.skip_rest();
        }
    }

    fn partition_by(&mut self, columns: &[Column]) -> Result<Vec<PartitionField>> {
        self.expect_sym("(")?;
        let mut fields: Vec<PartitionField> = Vec::new();
        loop {
            let token = self.peek();
            let name = self.name("a column, or year, month, day, hour, bucket, truncate of one")?;
            let (transform, column, column_token) = if !name.quoted && self.eat_sym("(") {
                let transform = match name.text.to_ascii_lowercase().as_str() {
                    "year" | "years" => PartitionTransform::Year,
                    "month" | "months" => PartitionTransform::Month,
                    "day" | "days" => PartitionTransform::Day,
                    "hour" | "hours" => PartitionTransform::Hour,
                    "bucket" => PartitionTransform::Bucket(self.partition_width()?),
                    "truncate" => PartitionTransform::Truncate(self.partition_width()?),
                    other => {
                        let error = Error::invalid(format!("unknown partition transform '{other}'"))
                            .hint("allowed: year, month, day, hour, bucket, truncate");
                        return Err(self.at_token(error, token));
                    }
                };
                let column_token = self.peek();
                let column = self.name("the name of a column")?;
                self.expect_sym(")")?;
                (transform, column, column_token)
            } else {
                (PartitionTransform::Identity, name, token)
            };
            let column = match columns.iter().find(|known| known.name.eq_ignore_ascii_case(&column.text)) {
                Some(known) => known.name.clone(),
                None if columns.is_empty() => column.text,
                None => {
                    let error = Error::invalid(format!("the table has no column '{}'", column.text));
                    return Err(self.at_token(error, column_token));
                }
            };
            let field = PartitionField { column, transform };
            if fields.contains(&field) {
                let error = Error::invalid(format!("partition field '{field}' stands twice"));
                return Err(self.at_token(error, token));
            }
            let known = |known: &&PartitionField| known.column == field.column && known.transform.is_time();
            if let Some(known) = fields.iter().find(known).filter(|_| field.transform.is_time()) {
                let error = Error::invalid(format!("'{field}' stands beside '{known}'"))
                    .hint("the finer one alone says both");
                return Err(self.at_token(error, token));
            }
            fields.push(field);
            if !self.eat_sym(",") {
                break;
            }
        }
        self.expect_sym(")")?;
        Ok(fields)
    }

    fn partition_width(&mut self) -> Result<u32> {
        let token = self.peek();
        let width: u32 = self.number("a whole number from 1")?;
        if width == 0 || width > i32::MAX as u32 {
            return Err(self.at_token(Error::invalid("a whole number from 1 is expected"), token));
        }
        self.expect_sym(",")?;
        Ok(width)
    }

    /// `(expr, …)` as texts.
    fn expression_texts(&mut self) -> Result<Vec<String>> {
        self.expect_sym("(")?;
        let mut texts = Vec::new();
        loop {
            let from = self.pos;
            self.skip_to_comma()?;
            if self.pos == from {
                return Err(self.expected("an expression"));
            }
            texts.push(self.text_between(from, self.pos).to_owned());
            if !self.eat_sym(",") {
                break;
            }
        }
        self.expect_sym(")")?;
        Ok(texts)
    }

    /// `NAME = value` of a table.
    fn table_option(&mut self, known: &[(String, String)]) -> Result<(String, String)> {
        let token = self.peek();
        let name = self.name("the name of an option")?.text.to_ascii_uppercase();
        self.expect_equals()?;
        let value_token = self.peek();
        let (value, _) = self.option_value()?;
        if known.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            return Err(self.at_token(Error::invalid(format!("option {name} is given twice")), token));
        }
        match name.as_str() {
            "ENABLE_SCHEMA_EVOLUTION" => {
                let on = value.as_bool(&name).map_err(|e| self.at_token(e, value_token))?;
                Ok((name.to_ascii_lowercase(), on.to_string()))
            }
            "STORAGE_SERIALIZATION_POLICY" => {
                let policy = value.as_text(&name).map_err(|e| self.at_token(e, value_token))?;
                Ok((name.to_ascii_lowercase(), policy.to_ascii_lowercase()))
            }
            "TARGET_FILE_SIZE" => {
                let bytes = value.as_u64(&name).map_err(|e| self.at_token(e, value_token))?;
                Ok((name.to_ascii_lowercase(), bytes.to_string()))
            }
            _ => {
                let error = Error::invalid(format!("tables have no option {name}"))
                    .hint(format!("allowed: {TABLE_OPTIONS}"));
                Err(self.at_token(error, token))
            }
        }
    }

    /// After ALTER TABLE.
    pub(super) fn alter_table(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let table = self.object_ref("the name of a table")?;
        let not_yet = |parser: &mut Self, what: &str| {
            parser.skip_rest();
            Ok(Statement::NotSupportedYet(format!("ALTER TABLE {what}")))
        };
        if self.eat_kw("ADD") {
            if self.is_kw("CONSTRAINT") || (self.is_kw("ROW") && self.is_kw_at(1, "ACCESS")) {
                return not_yet(self, "ADD CONSTRAINT");
            }
            self.eat_kw("COLUMN");
            let if_not_exists = self.eat_kws(&["IF", "NOT", "EXISTS"]);
            let (column, unsupported) = self.column_definition()?;
            if let Some(what) = unsupported {
                self.skip_rest();
                return Ok(Statement::NotSupportedYet(what));
            }
            if self.is_kw("FIRST") || self.is_kw("AFTER") {
                return not_yet(self, "ADD COLUMN … FIRST | AFTER: new columns go to the end");
            }
            if !self.at_end() {
                return Err(self.expected("NULL, NOT NULL, DEFAULT, COMMENT or the end of the statement"));
            }
            return Ok(Statement::AlterTableAddColumn { table, if_exists, if_not_exists, column });
        }
        if self.is_kw("DROP") && !self.is_kw_at(1, "CLUSTER") {
            self.pos += 1;
            self.eat_kw("COLUMN");
            let column = self.name("the name of a column")?.text;
            return Ok(Statement::AlterTableDropColumn { table, if_exists, column });
        }
        if self.eat_kws(&["RENAME", "TO"]) {
            let to = self.object_ref("the new name of the table")?;
            return Ok(Statement::RenameTable { table, if_exists, to });
        }
        if self.is_kw("RENAME") {
            self.pos += 1;
            self.eat_kw("COLUMN");
            let column = self.name("the name of a column")?.text;
            self.expect_kw("TO")?;
            let to = self.name("the new name of the column")?.text;
            return Ok(Statement::AlterTableRenameColumn { table, if_exists, column, to });
        }
        if self.is_kw("MODIFY") {
            self.pos += 1;
            return self.modify_columns(table, if_exists);
        }
        if self.eat_kws(&["SET", "OPTIONS"]) {
            self.expect_sym("(")?;
            let mut options = Vec::new();
            loop {
                let option = self.table_option(&options)?;
                options.push(option);
                self.eat_sym(",");
                if self.eat_sym(")") {
                    break;
                }
            }
            return Ok(Statement::AlterTableSetOptions { table, if_exists, options });
        }
        for (words, what) in [
            (&["DROP", "CLUSTER"][..], "DROP CLUSTER KEY"),
            (&["SET", "COMMENT"], "SET COMMENT"),
            (&["COMMENT"], "COMMENT"),
            (&["UNSET"], "UNSET OPTIONS"),
            (&["CLUSTER", "BY"], "CLUSTER BY"),
            (&["RECLUSTER"], "RECLUSTER"),
            (&["SWAP", "WITH"], "SWAP WITH"),
            (&["FLASHBACK"], "FLASHBACK"),
            (&["CONNECTION"], "CONNECTION"),
            (&["REFRESH"], "REFRESH"),
        ] {
            if words.iter().enumerate().all(|(i, word)| self.is_kw_at(i, word)) {
                if self.rest().len() == words.len() && !matches!(what, "DROP CLUSTER KEY" | "RECLUSTER") {
                    self.skip_rest();
                    return Err(self.expected("the rest of ALTER TABLE"));
                }
                return not_yet(self, what);
            }
        }
        Err(self.expected("ADD COLUMN, SET OPTIONS, DROP, RENAME or MODIFY"))
    }

    /// After MODIFY: `[COLUMN] name [TYPE] [NULL | NOT NULL] [DEFAULT expr] [COMMENT '…'], …`.
    fn modify_columns(&mut self, table: ObjectRef, if_exists: bool) -> Result<Statement> {
        let mut changes: Vec<ColumnChange> = Vec::new();
        loop {
            self.eat_kw("COLUMN");
            let token = self.peek();
            let (change, unsupported) = self.column_attributes()?;
            if let Some(what) = unsupported {
                self.skip_rest();
                return Ok(Statement::NotSupportedYet(what));
            }
            if changes.iter().any(|other| other.name.eq_ignore_ascii_case(&change.name)) {
                let error = Error::invalid(format!("column '{}' stands twice", change.name));
                return Err(self.at_token(error, token));
            }
            changes.push(change);
            if !self.eat_sym(",") {
                return Ok(Statement::AlterTableModifyColumns { table, if_exists, changes });
            }
        }
    }

    /// `RENAME TABLE [IF EXISTS] a TO b`.
    pub(super) fn rename_table(&mut self) -> Result<Statement> {
        self.pos += 2;
        let if_exists = self.if_exists();
        let table = self.object_ref("the name of a table")?;
        self.expect_kw("TO")?;
        let to = self.object_ref("the new name of the table")?;
        Ok(Statement::RenameTable { table, if_exists, to })
    }

    pub(super) fn insert(&mut self) -> Result<Statement> {
        let replace = self.is_kw("REPLACE");
        self.pos += 1;
        if replace {
            self.expect_kw("INTO")?;
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("REPLACE INTO".into()));
        }
        if self.is_kw("ALL") || self.is_kw("FIRST") || (self.is_kw("OVERWRITE") && self.is_kw_at(1, "ALL")) {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("INSERT into several tables".into()));
        }
        let overwrite = self.eat_kw("OVERWRITE");
        if !self.eat_kw("INTO") && !overwrite {
            return Err(self.expected("INTO or OVERWRITE"));
        }
        if self.is_kw("TABLE")
            && !self.peek_at(1).is_some_and(|token| token.is_sym("(") || token.is_word("VALUES"))
        {
            self.pos += 1;
        }
        let table = self.object_ref("the name of a table")?;
        let is_query = |token: Option<&Token>| {
            token.is_some_and(|token| {
                token.is_word("SELECT")
                    || token.is_word("WITH")
                    || token.is_word("VALUES")
                    || token.is_sym("(")
            })
        };
        let columns =
            if self.is_sym("(") && !is_query(self.peek_at(1)) { Some(self.column_list()?) } else { None };
        if self.is_kw("FROM") || self.is_kw("FORMAT") || self.is_kw("FILE_FORMAT") || self.is_kw("SETTINGS") {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet(
                "INSERT from a stage or a stream of data; COPY INTO does it".into(),
            ));
        }
        if !is_query(self.peek()) {
            return Err(self.expected("VALUES or a query"));
        }
        let source = if self.is_kw("VALUES") {
            let (query, width, rows) = query::analyze_values(self.text, self.rest())?;
            if let Some(columns) = &columns
                && columns.len() != width
            {
                let error = Error::invalid(format!(
                    "the rows of VALUES have {width} values, the statement names {} columns",
                    columns.len()
                ));
                return Err(self.at_token(error, self.peek()));
            }
            InsertSource::Values { query, width, rows }
        } else {
            InsertSource::Select(query::analyze_statement(self.text, self.rest())?)
        };
        self.skip_rest();
        Ok(Statement::Insert(Box::new(Insert { table, columns, source, overwrite })))
    }
}

/// How many tokens the expression of a DEFAULT takes.
fn default_extent(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate() {
        match &token.tok {
            Tok::Sym("(" | "[" | "{") => depth += 1,
            Tok::Sym(")" | "]" | "}") if depth == 0 => return i,
            Tok::Sym(")" | "]" | "}") => depth -= 1,
            Tok::Sym(",") if depth == 0 => return i,
            Tok::Word(word) if depth == 0 && i > 0 => {
                let next_is_null = tokens.get(i + 1).is_some_and(|next| next.is_word("NULL"));
                if word.eq_ignore_ascii_case("COMMENT")
                    || word.eq_ignore_ascii_case("NULL")
                    || (word.eq_ignore_ascii_case("NOT") && next_is_null)
                    || word.eq_ignore_ascii_case("FIRST")
                    || word.eq_ignore_ascii_case("AFTER")
                {
                    return i;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}
