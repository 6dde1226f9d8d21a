//! The grammar: tokens to statements.
//!
//! Owns: a cursor over tokens and the choice of the statement; each family of statements has its own
//! file. Comes in: the text and the tokens of one statement. Goes out: a [`Statement`] in which
//! everything that needs no catalog is checked. Fails at a token, saying what was expected there.

mod copy;
mod mutation;
mod options;
mod show;
mod stage;
mod stream;
mod table;
mod task;
mod transaction;
mod unload;
mod unsupported;

pub(crate) use stage::read_stage_source;
pub(crate) use table::read_type;

use stevedore_common::{Error, Result};

use crate::ast::{CreateMode, ObjectRef, Statement};
use crate::lexer::{Tok, Token};
use crate::query;

/// How much of an unexpected token an error quotes, in characters.
const QUOTED_CHARACTERS: usize = 40;

/// Statements that WITH does not stand before, and where its queries go.
const AFTER_WITH: [(&str, &str); 4] = [
    ("DELETE", "put the query into the subquery: DELETE FROM t WHERE id IN (WITH … SELECT …)"),
    ("UPDATE", "put the query into the subquery: UPDATE t SET … FROM (WITH … SELECT …) AS s WHERE …"),
    ("MERGE", "put the query into the source: MERGE INTO t USING (WITH … SELECT …) AS s ON …"),
    ("INSERT", "put it before the query: INSERT INTO t WITH … SELECT …"),
];

/// A cursor over the tokens of one statement.
pub(crate) struct Parser<'a> {
    /// The whole text that the tokens' byte ranges point into.
    pub(crate) text: &'a str,
    tokens: &'a [Token],
    pos: usize,
}

/// A name as written.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) quoted: bool,
}

impl Name {
    /// The name of an object: unquoted ones in lower case.
    pub(crate) fn object(self) -> String {
        if self.quoted { self.text } else { self.text.to_lowercase() }
    }
}

/// Parses one statement, whose tokens end before its `;`.
pub(crate) fn parse_statement(text: &str, tokens: &[Token]) -> Result<Statement> {
    let mut parser = Parser { text, tokens, pos: 0 };
    let statement = parser.statement()?;
    if parser.pos < parser.tokens.len() {
        return Err(parser.expected("the end of the statement"));
    }
    Ok(statement)
}

/// Reads `[database.]name`, and nothing more.
pub(crate) fn read_object_ref(text: &str, tokens: &[Token]) -> Result<ObjectRef> {
    let mut parser = Parser { text, tokens, pos: 0 };
    let name = parser.object_ref("the name of a table")?;
    if parser.at_end() { Ok(name) } else { Err(parser.expected("the end of the name")) }
}

/// What an error shows of an unexpected token: nothing that may hold a secret.
pub(crate) fn shown(token: &Token, text: &str) -> String {
    match &token.tok {
        Tok::Str(_) | Tok::Hex(_) => "a string".to_owned(),
        // A quote too many makes names of what was meant as values.
        Tok::Quoted(name) if !is_harmless(name) => "a name in quotes".to_owned(),
        Tok::At(at) if at.quoted && !is_harmless(&at.name) => "a stage whose name is in quotes".to_owned(),
        _ => format!("'{}'", excerpt(text.get(token.start..token.end).unwrap_or(""))),
    }
}

/// Whether a name in quotes holds nothing but what names are made of.
fn is_harmless(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ' ' | '.' | '-' | '$'))
}

/// What an error quotes of a piece of text.
fn excerpt(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > QUOTED_CHARACTERS {
        let cut: String = line.chars().take(QUOTED_CHARACTERS).collect();
        format!("{cut}…")
    } else {
        line
    }
}

impl<'a> Parser<'a> {
    // --- the cursor -------------------------------------------------------------------------------

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.pos)
    }

    fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.pos + ahead)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.pos)?;
        self.pos += 1;
        Some(token)
    }

    fn at_end(&self) -> bool {
        self.pos >= self.tokens.len()
    }

    /// Skips what is left, for statements that are recognised but not built.
    fn skip_rest(&mut self) {
        self.pos = self.tokens.len();
    }

    fn rest(&self) -> &'a [Token] {
        self.tokens.get(self.pos..).unwrap_or(&[])
    }

    /// The text between two token positions.
    fn text_between(&self, from: usize, to: usize) -> &'a str {
        match (self.tokens.get(from), to.checked_sub(1).and_then(|last| self.tokens.get(last))) {
            (Some(first), Some(last)) => self.text.get(first.start..last.end).unwrap_or(""),
            _ => "",
        }
    }

    // --- errors -----------------------------------------------------------------------------------

    /// Where a token, or the end of the statement, stands.
    fn place(&self, token: Option<&Token>) -> (u32, u32) {
        if let Some(token) = token {
            return (token.line, token.column);
        }
        match self.tokens.last() {
            None => (1, 1),
            Some(last) => {
                let text = self.text.get(last.start..last.end).unwrap_or("");
                let lines = text.matches('\n').count() as u32;
                let tail = text.rsplit('\n').next().unwrap_or("").chars().count() as u32;
                if lines == 0 {
                    (last.line, last.column.saturating_add(tail))
                } else {
                    (last.line.saturating_add(lines), tail.saturating_add(1))
                }
            }
        }
    }

    fn expected_at(&self, what: &str, token: Option<&Token>) -> Error {
        let found = match token {
            None => "the end of the statement".to_owned(),
            Some(token) => shown(token, self.text),
        };
        let (line, column) = self.place(token);
        Error::invalid(format!("expected {what}, found {found}")).at(line, column)
    }

    /// «expected …, found …» at the next token.
    fn expected(&self, what: &str) -> Error {
        self.expected_at(what, self.peek())
    }

    /// Points an error at a token, unless it has a position.
    fn at_token(&self, error: Error, token: Option<&Token>) -> Error {
        let (line, column) = self.place(token);
        error.at(line, column)
    }

    // --- words and marks --------------------------------------------------------------------------

    fn is_kw(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is_word(word))
    }

    fn is_kw_at(&self, ahead: usize, word: &str) -> bool {
        self.peek_at(ahead).is_some_and(|token| token.is_word(word))
    }

    fn eat_kw(&mut self, word: &str) -> bool {
        let found = self.is_kw(word);
        self.pos += usize::from(found);
        found
    }

    /// All of the words, or none.
    fn eat_kws(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, word)| self.is_kw_at(i, word));
        if found {
            self.pos += words.len();
        }
        found
    }

    fn expect_kw(&mut self, word: &str) -> Result<()> {
        if self.eat_kw(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    fn is_sym(&self, sym: &str) -> bool {
        self.peek().is_some_and(|token| token.is_sym(sym))
    }

    fn eat_sym(&mut self, sym: &str) -> bool {
        let found = self.is_sym(sym);
        self.pos += usize::from(found);
        found
    }

    fn expect_sym(&mut self, sym: &str) -> Result<()> {
        if self.eat_sym(sym) { Ok(()) } else { Err(self.expected(&format!("'{sym}'"))) }
    }

    // --- names and literals -----------------------------------------------------------------------

    fn name(&mut self, what: &str) -> Result<Name> {
        match self.peek().map(|token| &token.tok) {
            Some(Tok::Word(text)) => {
                self.pos += 1;
                Ok(Name { text: text.clone(), quoted: false })
            }
            Some(Tok::Quoted(text)) => {
                self.pos += 1;
                Ok(Name { text: text.clone(), quoted: true })
            }
            _ => Err(self.expected(what)),
        }
    }

    fn object_name(&mut self, what: &str) -> Result<String> {
        Ok(self.name(what)?.object())
    }

    /// `[database.]name`.
    fn object_ref(&mut self, what: &str) -> Result<ObjectRef> {
        let first = self.object_name(what)?;
        if !self.eat_sym(".") {
            return Ok(ObjectRef { database: None, name: first });
        }
        let name = self.object_name(what)?;
        if self.is_sym(".") {
            let error = Error::invalid("a name has at most two parts: database.name");
            return Err(self.at_token(error, self.peek()));
        }
        Ok(ObjectRef { database: Some(first), name })
    }

    /// `(name, …)`, as written; names that stand twice are refused.
    fn column_list(&mut self) -> Result<Vec<String>> {
        self.expect_sym("(")?;
        let mut columns: Vec<String> = Vec::new();
        loop {
            let token = self.peek();
            let name = self.name("the name of a column")?.text;
            if columns.iter().any(|column| column.eq_ignore_ascii_case(&name)) {
                return Err(self.at_token(Error::invalid(format!("column '{name}' stands twice")), token));
            }
            columns.push(name);
            if !self.eat_sym(",") {
                break;
            }
        }
        self.expect_sym(")")?;
        Ok(columns)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        match self.peek().map(|token| &token.tok) {
            Some(Tok::Str(text)) => {
                self.pos += 1;
                Ok(text.clone())
            }
            _ => Err(self.expected(what)),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        if let Some(Tok::Number(text)) = self.peek().map(|token| &token.tok)
            && let Ok(number) = text.parse()
        {
            self.pos += 1;
            return Ok(number);
        }
        Err(self.expected(what))
    }

    fn if_exists(&mut self) -> bool {
        self.eat_kws(&["IF", "EXISTS"])
    }

    /// `[IF NOT EXISTS]` after `[OR REPLACE]`, which exclude each other.
    fn create_mode(&mut self, or_replace: bool) -> Result<CreateMode> {
        let token = self.peek();
        let if_not_exists = self.eat_kws(&["IF", "NOT", "EXISTS"]);
        match (or_replace, if_not_exists) {
            (true, true) => {
                Err(self.at_token(Error::invalid("OR REPLACE and IF NOT EXISTS exclude each other"), token))
            }
            (true, false) => Ok(CreateMode::OrReplace),
            (false, true) => Ok(CreateMode::IfNotExists),
            (false, false) => Ok(CreateMode::Create),
        }
    }

    /// `[LIKE 'pattern']`.
    fn like(&mut self) -> Result<Option<String>> {
        if self.eat_kw("LIKE") { self.string("a pattern, as in LIKE 'a%'").map(Some) } else { Ok(None) }
    }

    // --- statements -------------------------------------------------------------------------------

    fn statement(&mut self) -> Result<Statement> {
        let Some(first) = self.peek() else {
            return Err(Error::invalid("the statement is empty").at(1, 1));
        };
        let word = match &first.tok {
            Tok::Word(word) => word.to_ascii_uppercase(),
            Tok::Sym("(") => "SELECT".to_owned(),
            _ => return Err(self.expected("a statement")),
        };
        match word.as_str() {
            "SELECT" | "WITH" | "VALUES" => self.query_statement(),
            "EXPLAIN" => self.explain(),
            "CREATE" => self.create(),
            "DROP" => self.drop(),
            "ALTER" => self.alter(),
            "SHOW" => self.show(),
            "DESC" | "DESCRIBE" => self.describe(),
            "USE" => {
                self.pos += 1;
                if self.rest().len() > 1 && self.eat_kw("WAREHOUSE") {
                    return Ok(Statement::Set { name: "warehouse".into(), value: self.warehouse_name()? });
                }
                self.eat_kw("DATABASE");
                Ok(Statement::Use { database: self.object_name("the name of a database")? })
            }
            "TRUNCATE" => {
                self.pos += 1;
                self.eat_kw("TABLE");
                Ok(Statement::TruncateTable { table: self.object_ref("the name of a table")? })
            }
            "UNDROP" if self.is_kw_at(1, "TABLE") => {
                self.pos += 2;
                Ok(Statement::UndropTable { table: self.object_ref("the name of a table")? })
            }
            "RENAME" if self.is_kw_at(1, "TABLE") => self.rename_table(),
            "EXECUTE" if self.is_kw_at(1, "TASK") => {
                self.pos += 2;
                Ok(Statement::ExecuteTask { name: self.object_name("the name of a task")? })
            }
            "CONSUME" if self.is_kw_at(1, "STREAM") => {
                self.pos += 2;
                Ok(Statement::ConsumeStream { stream: self.object_ref("the name of a stream")? })
            }
            "INSERT" | "REPLACE" => self.insert(),
            "DELETE" => self.delete(),
            "UPDATE" => self.update(),
            "MERGE" => self.merge(),
            "COPY" => self.copy(),
            "LIST" | "LS" => {
                self.pos += 1;
                Ok(Statement::List(self.list_files("LIST")?))
            }
            "REMOVE" | "RM" => {
                self.pos += 1;
                Ok(Statement::Remove(self.list_files("REMOVE")?))
            }
            "PRESIGN" => self.presign(),
            "PUT" => self.put(),
            "GET" => self.get(),
            "SET" | "UNSET" => self.set(),
            "BEGIN" | "START" | "COMMIT" | "ROLLBACK" => self.transaction(&word),
            _ => self.unsupported(&word),
        }
    }

    fn query_statement(&mut self) -> Result<Statement> {
        self.check_with()?;
        let query = query::analyze_statement(self.text, self.rest())?;
        self.skip_rest();
        Ok(Statement::Query(Box::new(query)))
    }

    /// Refuses WITH before a statement that changes rows, and says where it goes instead.
    fn check_with(&self) -> Result<()> {
        if !self.is_kw("WITH") {
            return Ok(());
        }
        // The statement begins behind the last of the queries in parentheses.
        let (mut depth, mut closed) = (0_usize, false);
        let begins = |token: &&Token| {
            let found = closed && depth == 0 && !token.is_sym(",") && !token.is_word("AS");
            closed = token.is_sym(")");
            depth += usize::from(token.is_sym("("));
            depth = depth.saturating_sub(usize::from(closed));
            found
        };
        let Some(token) = self.rest().iter().find(begins) else { return Ok(()) };
        let Some((word, hint)) = AFTER_WITH.iter().find(|(word, _)| token.is_word(word)) else {
            return Ok(());
        };
        let error = Error::not_supported(format!("WITH before {word}")).hint(*hint);
        Err(self.at_token(error, Some(token)))
    }

    /// EXPLAIN of DELETE, UPDATE and MERGE INTO, which stand next.
    fn explain_mutation(&mut self, analyze: bool, verbose: bool) -> Result<Statement> {
        let token = self.peek();
        let statement = match token {
            Some(token) if token.is_word("DELETE") => self.delete()?,
            Some(token) if token.is_word("UPDATE") => self.update()?,
            _ => self.merge()?,
        };
        match statement {
            Statement::Mutation(_) if analyze => {
                let error = Error::not_supported("EXPLAIN ANALYZE of a statement that changes rows")
                    .hint("EXPLAIN says what it would do; ANALYZE would have to do it");
                Err(self.at_token(error, token))
            }
            Statement::Mutation(mutation) => Ok(Statement::ExplainMutation { mutation, verbose }),
            other => Ok(other),
        }
    }

    fn explain(&mut self) -> Result<Statement> {
        self.pos += 1;
        let (mut analyze, mut verbose) = (false, false);
        loop {
            if self.eat_kw("ANALYZE") {
                analyze = true;
            } else if self.eat_kw("VERBOSE") {
                verbose = true;
            } else {
                break;
            }
        }
        if ["AST", "RAW", "SYNTAX", "PIPELINE", "FRAGMENTS", "PERF", "MEMO", "OPTIMIZED", "PLAN"]
            .iter()
            .any(|kind| self.is_kw(kind))
        {
            let kind = self.name("a query")?.text.to_ascii_uppercase();
            self.skip_rest();
            return Ok(Statement::NotSupportedYet(format!("EXPLAIN {kind}")));
        }
        match self.peek().map(|token| &token.tok) {
            Some(Tok::Word(word))
                if !["SELECT", "WITH", "VALUES"].iter().any(|w| w.eq_ignore_ascii_case(word)) =>
            {
                if word.eq_ignore_ascii_case("COPY") && !analyze && !verbose {
                    return self.explain_copy();
                }
                if ["DELETE", "UPDATE", "MERGE"].iter().any(|w| w.eq_ignore_ascii_case(word)) {
                    return self.explain_mutation(analyze, verbose);
                }
                if ["COPY", "INSERT", "REPLACE", "CREATE"].iter().any(|w| w.eq_ignore_ascii_case(word)) {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet(format!("EXPLAIN {}", word.to_ascii_uppercase())));
                }
                Err(self.expected("a query"))
            }
            Some(_) => match self.query_statement()? {
                Statement::Query(query) => Ok(Statement::Explain { query, analyze, verbose }),
                other => Ok(other),
            },
            None => Err(self.expected("a query")),
        }
    }

    fn create(&mut self) -> Result<Statement> {
        self.pos += 1;
        let or_replace = self.eat_kws(&["OR", "REPLACE"]);
        let transient = self.eat_kw("TRANSIENT");
        if transient && !self.is_kw("TABLE") {
            return Err(self.expected("TABLE"));
        }
        let Some(Tok::Word(kind)) = self.peek().map(|token| &token.tok) else {
            return Err(self.expected(CREATABLE));
        };
        match kind.to_ascii_uppercase().as_str() {
            "DATABASE" | "SCHEMA" => {
                self.pos += 1;
                let mode = self.create_mode(or_replace)?;
                let name = self.object_name("the name of a database")?;
                Ok(Statement::CreateDatabase { name, mode })
            }
            "TABLE" => {
                self.pos += 1;
                self.create_table(or_replace, transient)
            }
            "CONNECTION" => {
                self.pos += 1;
                self.create_connection(or_replace)
            }
            "STAGE" => {
                self.pos += 1;
                self.create_stage(or_replace)
            }
            "FILE" if self.is_kw_at(1, "FORMAT") => {
                self.pos += 2;
                self.create_file_format(or_replace)
            }
            "STREAM" => {
                self.pos += 1;
                self.create_stream(or_replace)
            }
            "TASK" => {
                self.pos += 1;
                self.create_task(or_replace)
            }
            "NOTIFICATION" if self.is_kw_at(1, "INTEGRATION") => {
                self.pos += 2;
                self.create_notification(or_replace)
            }
            "TEMPORARY" | "TEMP" => {
                self.pos += 1;
                match self.peek().map(|token| &token.tok) {
                    Some(Tok::Word(word)) => {
                        let what = format!("CREATE TEMPORARY {}", word.to_ascii_uppercase());
                        self.skip_rest();
                        Ok(Statement::NotSupportedYet(what))
                    }
                    _ => Err(self.expected("TABLE or STAGE")),
                }
            }
            other => self.unsupported_object("CREATE", other).ok_or_else(|| self.expected(CREATABLE)),
        }
    }

    fn drop(&mut self) -> Result<Statement> {
        self.pos += 1;
        let Some(Tok::Word(kind)) = self.peek().map(|token| &token.tok) else {
            return Err(self.expected(CREATABLE));
        };
        match kind.to_ascii_uppercase().as_str() {
            "DATABASE" | "SCHEMA" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropDatabase { name: self.object_name("the name of a database")?, if_exists })
            }
            "TABLE" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                let table = self.object_ref("the name of a table")?;
                if self.is_kw("ALL") {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet("DROP TABLE ALL".into()));
                }
                Ok(Statement::DropTable { table, if_exists })
            }
            "CONNECTION" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropConnection {
                    name: self.object_name("the name of a connection")?,
                    if_exists,
                })
            }
            "STAGE" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropStage { name: self.object_name("the name of a stage")?, if_exists })
            }
            "FILE" if self.is_kw_at(1, "FORMAT") => {
                self.pos += 2;
                let if_exists = self.if_exists();
                Ok(Statement::DropFileFormat {
                    name: self.object_name("the name of a file format")?,
                    if_exists,
                })
            }
            "STREAM" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropStream { stream: self.object_ref("the name of a stream")?, if_exists })
            }
            "TASK" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropTask { name: self.object_name("the name of a task")?, if_exists })
            }
            "WAREHOUSE" => {
                self.pos += 1;
                let if_exists = self.if_exists();
                Ok(Statement::DropWarehouse { name: self.warehouse_name()?, if_exists })
            }
            "NOTIFICATION" if self.is_kw_at(1, "INTEGRATION") => {
                self.pos += 2;
                let if_exists = self.if_exists();
                let name = self.object_name("the name of a notification integration")?;
                Ok(Statement::DropNotification { name, if_exists })
            }
            other => self.unsupported_object("DROP", other).ok_or_else(|| self.expected(CREATABLE)),
        }
    }

    fn alter(&mut self) -> Result<Statement> {
        self.pos += 1;
        if self.eat_kw("TABLE") {
            return self.alter_table();
        }
        if self.eat_kw("STAGE") {
            return self.alter_stage();
        }
        if self.eat_kw("TASK") {
            return self.alter_task();
        }
        if self.eat_kws(&["NOTIFICATION", "INTEGRATION"]) {
            return self.alter_notification();
        }
        let kind = match self.peek().map(|token| &token.tok) {
            Some(Tok::Word(kind)) => kind.to_ascii_uppercase(),
            _ => return Err(self.expected("TABLE, STAGE or TASK")),
        };
        self.unsupported_object("ALTER", &kind).ok_or_else(|| self.expected("TABLE, STAGE or TASK"))
    }

    /// A warehouse's name, in quotes of any kind or without.
    fn warehouse_name(&mut self) -> Result<String> {
        if let Some(Tok::Str(name)) = self.peek().map(|token| &token.tok) {
            self.pos += 1;
            return Ok(name.clone());
        }
        self.object_name("the name of a warehouse")
    }

    /// SET and UNSET of settings.
    fn set(&mut self) -> Result<Statement> {
        let unset = self.is_kw("UNSET");
        self.pos += 1;
        if self.is_kw("GLOBAL") && !self.peek_at(1).is_some_and(|token| token.is_sym("=")) {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("global settings".into()));
        }
        self.eat_kw("SESSION");
        if self.is_kw("VARIABLE") || self.is_kw("ROLE") || self.is_kw("SECONDARY") || self.is_kw("DEFAULT") {
            let what = self.name("a setting")?.text.to_ascii_uppercase();
            if !self.is_sym("=") {
                self.skip_rest();
                return Ok(Statement::NotSupportedYet(format!("SET {what}")));
            }
            self.pos -= 1;
        }
        if self.is_sym("(") {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet("setting several settings at once".into()));
        }
        let name = self.name("the name of a setting")?.text.to_lowercase();
        if unset {
            return Ok(Statement::Unset { name });
        }
        if !self.eat_sym("=") && !self.eat_kw("TO") {
            return Err(self.expected("'='"));
        }
        let negative = self.eat_sym("-");
        let value = match self.next().map(|token| &token.tok) {
            Some(Tok::Number(text)) => format!("{}{text}", if negative { "-" } else { "" }),
            Some(Tok::Str(text) | Tok::Word(text) | Tok::Quoted(text)) if !negative => text.clone(),
            _ => {
                self.pos = self.pos.saturating_sub(1).min(self.tokens.len());
                return Err(self.expected("a value"));
            }
        };
        Ok(Statement::Set { name, value })
    }
}

const CREATABLE: &str = "DATABASE, TABLE, CONNECTION, STAGE, FILE FORMAT, STREAM or TASK";
