//! SHOW and DESC.

use stevedore_common::Result;

use super::Parser;
use crate::ast::Statement;
use crate::lexer::Tok;

const SHOWABLE: &str = "DATABASES, TABLES, COLUMNS, CREATE TABLE, CONNECTIONS, STAGES, FILE FORMATS, STREAMS, TASKS, \
     NOTIFICATION INTEGRATIONS, WAREHOUSES or SETTINGS";

impl Parser<'_> {
    pub(super) fn show(&mut self) -> Result<Statement> {
        self.pos += 1;
        let full = self.is_kw("FULL");
        self.pos += usize::from(full);
        let Some(Tok::Word(kind)) = self.peek().map(|token| &token.tok) else {
            return Err(self.expected(SHOWABLE));
        };
        let kind = kind.to_ascii_uppercase();
        match kind.as_str() {
            "VIEWS" | "FUNCTIONS" | "USER" | "USERS" | "ROLES" | "GRANTS" | "INDEXES" | "PROCEDURES"
            | "PROCESSLIST" | "METRICS" | "ENGINES" | "CATALOGS" | "STATISTICS" | "SEQUENCES"
            | "PASSWORD" | "NETWORK" | "LOCKS" | "DROP" | "TABLE" | "VARIABLES" | "DICTIONARIES" | "TAGS"
            | "WORKERS" | "JOBS" => {
                self.skip_rest();
                return Ok(Statement::NotSupportedYet(format!("SHOW {kind}")));
            }
            _ => {}
        }
        if full && kind != "TABLES" && kind != "COLUMNS" && kind != "DATABASES" && kind != "STREAMS" {
            return Err(self.expected("TABLES, COLUMNS, DATABASES or STREAMS"));
        }
        self.pos += 1;
        let statement = match kind.as_str() {
            "DATABASES" | "SCHEMAS" => Statement::ShowDatabases { like: self.like()? },
            "TABLES" => {
                if self.is_kw("HISTORY") {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet("SHOW TABLES HISTORY".into()));
                }
                Statement::ShowTables { database: self.database_clause()?, like: self.like()? }
            }
            "COLUMNS" | "FIELDS" => {
                if !self.eat_kw("FROM") && !self.eat_kw("IN") {
                    return Err(self.expected("FROM"));
                }
                let mut table = self.object_ref("the name of a table")?;
                // `SHOW COLUMNS FROM t FROM db` is another way to name the database.
                if table.database.is_none() && (self.eat_kw("FROM") || self.eat_kw("IN")) {
                    table.database = Some(self.object_name("the name of a database")?);
                }
                Statement::ShowColumns { table, like: self.like()? }
            }
            "CREATE" => {
                if self.is_kw("DATABASE") || self.is_kw("SCHEMA") || self.is_kw("VIEW") {
                    let what = self.name("TABLE")?.text.to_ascii_uppercase();
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet(format!("SHOW CREATE {what}")));
                }
                self.expect_kw("TABLE")?;
                Statement::ShowCreateTable { table: self.object_ref("the name of a table")? }
            }
            "CONNECTIONS" => Statement::ShowConnections { like: self.like()? },
            "STAGES" => Statement::ShowStages { like: self.like()? },
            "FILE" => {
                self.expect_kw("FORMATS")?;
                Statement::ShowFileFormats { like: self.like()? }
            }
            "STREAMS" => Statement::ShowStreams { database: self.database_clause()?, like: self.like()? },
            "SETTINGS" => Statement::ShowSettings { like: self.like()? },
            "WAREHOUSES" => Statement::ShowWarehouses { like: self.like()? },
            "TASKS" => Statement::ShowTasks { like: self.like()? },
            "NOTIFICATIONS" => Statement::ShowNotifications { like: self.like()? },
            "NOTIFICATION" => {
                self.expect_kw("INTEGRATIONS")?;
                Statement::ShowNotifications { like: self.like()? }
            }
            _ => {
                self.pos -= 1;
                return Err(self.expected(SHOWABLE));
            }
        };
        if self.is_kw("WHERE") || self.is_kw("LIMIT") {
            self.skip_rest();
            return Ok(Statement::NotSupportedYet(format!(
                "SHOW {kind} with WHERE or LIMIT; LIKE is supported"
            )));
        }
        Ok(statement)
    }

    /// `[FROM | IN database]`.
    fn database_clause(&mut self) -> Result<Option<String>> {
        if self.eat_kw("FROM") || self.eat_kw("IN") {
            self.object_name("the name of a database").map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn describe(&mut self) -> Result<Statement> {
        self.pos += 1;
        // A table may be called as one of the words below.
        let alone = self.rest().len() == 1;
        if !alone {
            if self.eat_kw("TABLE") {
                return Ok(Statement::DescTable { table: self.object_ref("the name of a table")? });
            }
            if self.eat_kw("STAGE") {
                if let Some(Tok::At(at)) = self.peek().map(|token| &token.tok) {
                    let name = if at.quoted { at.name.clone() } else { at.name.to_lowercase() };
                    self.pos += 1;
                    return Ok(Statement::DescStage { name });
                }
                if self.eat_sym("~") {
                    return Ok(Statement::DescStage { name: "~".into() });
                }
                return Ok(Statement::DescStage { name: self.object_name("the name of a stage")? });
            }
            if self.eat_kw("CONNECTION") {
                return Ok(Statement::DescConnection { name: self.object_name("the name of a connection")? });
            }
            if self.eat_kw("STREAM") {
                return Ok(Statement::DescStream { stream: self.object_ref("the name of a stream")? });
            }
            if self.eat_kw("TASK") {
                return Ok(Statement::DescTask { name: self.object_name("the name of a task")? });
            }
            if self.eat_kws(&["NOTIFICATION", "INTEGRATION"]) {
                let name = self.object_name("the name of a notification integration")?;
                return Ok(Statement::DescNotification { name });
            }
            for kind in ["VIEW", "FUNCTION", "PROCEDURE", "DATABASE", "USER", "PIPE"] {
                if self.is_kw(kind) {
                    self.skip_rest();
                    return Ok(Statement::NotSupportedYet(format!("DESC {kind}")));
                }
            }
            if self.is_kw("FILE") && self.is_kw_at(1, "FORMAT") {
                self.skip_rest();
                return Ok(Statement::NotSupportedYet(
                    "DESC FILE FORMAT; SHOW FILE FORMATS lists them".into(),
                ));
            }
        }
        Ok(Statement::DescTable {
            table: self.object_ref("TABLE, STAGE, CONNECTION or the name of a table")?,
        })
    }
}
