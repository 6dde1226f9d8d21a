//! Scheduled tasks and notification integrations.

use stevedore_common::file_format::OptionValue;
use stevedore_common::secret::Secret;
use stevedore_common::{Error, Result};

use super::{Parser, parse_statement};
use crate::ast::{
    AlterTask, AlterTaskAction, CreateTask, GivenName, NotificationOptions, Statement, TaskOptions,
    TaskSchedule, WebhookOptions,
};
use crate::lexer::{Tok, Token};
use crate::script;

/// The longest text of a task's statements: it is kept with each of its runs.
const MAX_BODY_BYTES: usize = 16 * 1024;
const MAX_CONDITION_BYTES: usize = 4 * 1024;
const LONGEST_INTERVAL_MS: u64 = 366 * 24 * 3600 * 1000;
const TASK_OPTIONS: &str = "WAREHOUSE, SCHEDULE, AFTER, WHEN, SUSPEND_TASK_AFTER_NUM_FAILURES, \
                            ERROR_INTEGRATION, COMMENT, settings, and AS";
const NAMED_OPTIONS: &[&str] =
    &["WAREHOUSE", "SCHEDULE", "SUSPEND_TASK_AFTER_NUM_FAILURES", "ERROR_INTEGRATION", "COMMENT"];
const WEBHOOK_METHODS: &[&str] = &["POST", "PUT", "GET"];

/// Words of an expression that an operand follows.
const BEFORE_OPERANDS: &[&str] = &[
    "AND", "OR", "NOT", "IS", "LIKE", "ILIKE", "RLIKE", "REGEXP", "SIMILAR", "TO", "ESCAPE", "BETWEEN",
    "DISTINCT", "FROM", "CASE", "WHEN", "THEN", "ELSE", "DIV", "XOR", "INTERVAL",
];

/// A part of a task's text: as written, or what it needs that is not built.
enum Checked {
    Text(String),
    Unsupported(Statement),
}

impl Parser<'_> {
    /// After CREATE [OR REPLACE] TASK.
    pub(super) fn create_task(&mut self, or_replace: bool) -> Result<Statement> {
        let mode = self.create_mode(or_replace)?;
        let name = self.object_name("the name of a task")?;
        let mut options = TaskOptions::default();
        let (mut after, mut condition, mut unsupported) = (None, None, None);
        while !self.is_kw("AS") {
            let token = self.peek();
            if self.eat_kw("AFTER") {
                let names = self.task_names()?;
                self.once(&mut after, names, "AFTER", token)?;
            } else if self.eat_kw("WHEN") {
                match self.task_condition()? {
                    Checked::Text(text) => self.once(&mut condition, text, "WHEN", token)?,
                    Checked::Unsupported(statement) => unsupported = Some(statement),
                }
            } else {
                self.task_option(&mut options)?;
            }
            self.eat_sym(",");
        }
        if let (Some(_), Some(_)) = (&options.schedule, &after) {
            return Err(self.at_token(schedule_and_after(), self.peek()));
        }
        self.pos += 1;
        let body = match self.task_body()? {
            Checked::Text(text) => text,
            Checked::Unsupported(statement) => return Ok(statement),
        };
        if let Some(statement) = unsupported {
            return Ok(statement);
        }
        let after = after.unwrap_or_default();
        Ok(Statement::CreateTask(Box::new(CreateTask { name, mode, options, after, condition, body })))
    }

    /// After ALTER TASK.
    pub(super) fn alter_task(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.object_name("the name of a task")?;
        let modify = self.eat_kw("MODIFY");
        let action = if self.eat_kw("AS") {
            match self.task_body()? {
                Checked::Text(text) => AlterTaskAction::ModifyBody(text),
                Checked::Unsupported(statement) => return Ok(statement),
            }
        } else if self.eat_kw("WHEN") {
            match self.task_condition()? {
                Checked::Text(text) => AlterTaskAction::ModifyCondition(text),
                Checked::Unsupported(statement) => return Ok(statement),
            }
        } else if modify {
            return Err(self.expected("AS or WHEN"));
        } else if self.eat_kw("RESUME") {
            AlterTaskAction::Resume
        } else if self.eat_kw("SUSPEND") {
            AlterTaskAction::Suspend
        } else if self.eat_kws(&["ADD", "AFTER"]) {
            AlterTaskAction::AddAfter(self.task_names()?)
        } else if self.eat_kws(&["REMOVE", "AFTER"]) {
            AlterTaskAction::RemoveAfter(self.task_names()?)
        } else if self.eat_kw("UNSET") {
            let mut names = Vec::new();
            loop {
                names.push(self.name("the name of an option")?.text.to_lowercase());
                if !self.eat_sym(",") && self.at_end() {
                    break AlterTaskAction::Unset(names);
                }
            }
        } else if self.eat_kw("SET") || self.option_name().is_some() {
            let mut options = TaskOptions::default();
            loop {
                self.task_option(&mut options)?;
                self.eat_sym(",");
                if self.at_end() {
                    break AlterTaskAction::Set(options);
                }
            }
        } else {
            return Err(self
                .expected("RESUME, SUSPEND, SET, UNSET, MODIFY AS, MODIFY WHEN, ADD AFTER or REMOVE AFTER"));
        };
        Ok(Statement::AlterTask(Box::new(AlterTask { name, if_exists, action })))
    }

    fn task_option(&mut self, options: &mut TaskOptions) -> Result<()> {
        let token = self.peek();
        let option = self.option_name().ok_or_else(|| self.expected(TASK_OPTIONS))?;
        self.pos += 1;
        self.expect_equals()?;
        match option.as_str() {
            "WAREHOUSE" => {
                let (value, _) = self.option_value()?;
                let name = value.as_text(&option).map_err(|e| self.at_token(e, token))?.to_owned();
                self.once(&mut options.warehouse, name, "WAREHOUSE", token)
            }
            "SCHEDULE" => {
                let schedule = self.task_schedule()?;
                self.once(&mut options.schedule, schedule, "SCHEDULE", token)
            }
            "SUSPEND_TASK_AFTER_NUM_FAILURES" => {
                let count = self.number("a number of failures")?;
                self.once(&mut options.suspend_after, count, "SUSPEND_TASK_AFTER_NUM_FAILURES", token)
            }
            "ERROR_INTEGRATION" => {
                let (value, exact) = self.option_value()?;
                let text = value.as_text(&option).map_err(|e| self.at_token(e, token))?.to_owned();
                let name = match value {
                    OptionValue::Text(_) if exact => GivenName::Exact(text),
                    OptionValue::Text(_) => GivenName::Text(text),
                    _ => GivenName::Exact(text.to_lowercase()),
                };
                self.once(&mut options.error_integration, name, "ERROR_INTEGRATION", token)
            }
            "COMMENT" => {
                let text = self.string("a comment in quotes")?;
                self.once(&mut options.comment, text, "COMMENT", token)
            }
            _ => {
                let name = option.to_lowercase();
                let value = match self.option_value()?.0 {
                    OptionValue::Text(text) | OptionValue::Word(text) => text,
                    OptionValue::List(_) => return Err(self.expected_at("a value", token)),
                };
                if options.settings.iter().any(|(known, _)| *known == name) {
                    let error = Error::invalid(format!("setting {name} is given twice"));
                    return Err(self.at_token(error, token));
                }
                options.settings.push((name, value));
                Ok(())
            }
        }
    }

    fn task_schedule(&mut self) -> Result<TaskSchedule> {
        if self.eat_kw("USING") {
            self.expect_kw("CRON")?;
            let expression = self.string("a cron expression in quotes, as in '0 0 9 * * *'")?;
            let timezone = self.string("a time zone in quotes, as in 'UTC'")?;
            return Ok(TaskSchedule::Cron { expression, timezone });
        }
        let token = self.peek();
        let count: u64 = self.number("a number, as in 10 MINUTE, or USING CRON '…' '…'")?;
        let at_unit = self.peek();
        let unit = self.name("MINUTE, SECOND or MILLISECOND")?.text.to_ascii_uppercase();
        let ms = match unit.as_str() {
            "HOUR" | "HOURS" => count.saturating_mul(3_600_000),
            "MINUTE" | "MINUTES" => count.saturating_mul(60_000),
            "SECOND" | "SECONDS" => count.saturating_mul(1_000),
            "MILLISECOND" | "MILLISECONDS" if (500..=999).contains(&count) => count,
            "MILLISECOND" | "MILLISECONDS" => {
                let error = Error::invalid(format!("SCHEDULE is {count} MILLISECOND"))
                    .hint("allowed: 500 to 999 MILLISECOND, or a number of SECOND or MINUTE");
                return Err(self.at_token(error, token));
            }
            _ => return Err(self.expected_at("MINUTE, SECOND or MILLISECOND", at_unit)),
        };
        if ms == 0 || ms > LONGEST_INTERVAL_MS {
            let error = Error::invalid(format!("SCHEDULE is {count} {unit}"))
                .hint("allowed: 500 MILLISECOND to 366 days");
            return Err(self.at_token(error, token));
        }
        Ok(TaskSchedule::Interval { ms })
    }

    /// `'a', b, …`
    fn task_names(&mut self) -> Result<Vec<GivenName>> {
        let mut names: Vec<GivenName> = Vec::new();
        loop {
            let token = self.peek();
            let name = match token.map(|token| &token.tok) {
                Some(Tok::Str(name)) => {
                    self.pos += 1;
                    GivenName::Text(name.clone())
                }
                _ => GivenName::Exact(self.object_name("the name of a task")?),
            };
            names.push(name);
            // `AFTER a, COMMENT = …`: the comma may also be that of the options.
            let more = self.is_sym(",")
                && !self.peek_at(2).is_some_and(|token| token.is_sym("=") || token.is_sym("=>"));
            if !more {
                return Ok(names);
            }
            self.pos += 1;
        }
    }

    /// After WHEN: up to AS, or to another option.
    fn task_condition(&mut self) -> Result<Checked> {
        let start = self.pos;
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            if token.is_sym("(") || token.is_sym("[") {
                depth += 1;
            } else if token.is_sym(")") || token.is_sym("]") {
                depth = depth.saturating_sub(1);
            } else if depth == 0 {
                let option = NAMED_OPTIONS.iter().any(|name| token.is_word(name))
                    && self.peek_at(1).is_some_and(|next| next.is_sym("="));
                let setting = self.pos > start && self.begins_setting();
                if token.is_word("AS") || token.is_word("AFTER") || token.is_sym(",") || option || setting {
                    break;
                }
            }
            self.pos += 1;
        }
        let first = self.tokens.get(start);
        if start == self.pos {
            return Err(self.expected("a condition"));
        }
        let text = self.text_between(start, self.pos);
        if text.len() > MAX_CONDITION_BYTES {
            let error = Error::exhausted(format!("WHEN has {} bytes", text.len()))
                .hint(format!("at most {MAX_CONDITION_BYTES} are allowed"));
            return Err(self.at_token(error, first));
        }
        let question = crate::task::condition_query(text);
        let wrong = |error: Error| {
            let (line, column) = self.place(first);
            // Its place is one in the question, not in the statement.
            Error::invalid(format!("the condition of WHEN: {}", error.message())).at(line, column)
        };
        match crate::parse(&question).map_err(wrong)? {
            Statement::Query(query) if query.parameters == 0 => Ok(Checked::Text(text.to_owned())),
            Statement::Query(_) => {
                Err(self.at_token(Error::invalid("a task has no parameters: ? in WHEN"), first))
            }
            other => Ok(Checked::Unsupported(other)),
        }
    }

    /// Whether `name = …` stands where an operator would have to stand in a condition: it is a setting.
    fn begins_setting(&self) -> bool {
        let operand_ended = match self.pos.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|t| &t.tok) {
            Some(Tok::Str(_) | Tok::Number(_) | Tok::Quoted(_) | Tok::Sym(")" | "]")) => true,
            Some(Tok::Word(word)) => !BEFORE_OPERANDS.iter().any(|known| word.eq_ignore_ascii_case(known)),
            _ => false,
        };
        operand_ended && self.option_name().is_some()
    }

    /// After AS: one statement, or `BEGIN …; … END`.
    fn task_body(&mut self) -> Result<Checked> {
        let start = self.pos;
        let first = self.peek();
        let tokens = self.rest();
        if tokens.is_empty() {
            return Err(self.expected("a statement, or BEGIN …; … END"));
        }
        let pieces = script::body_statements(tokens);
        let alone = pieces.len() == 1;
        for piece in pieces {
            let token = piece.first();
            if let Some(what) = script::procedural(piece) {
                let error = Error::not_supported(format!("{what} in the script of a task"))
                    .hint("a script is statements between BEGIN and END, one after the other; WHEN says when it runs");
                return Err(self.at_token(error, token));
            }
            let is = |at: usize, word: &str| piece.get(at).is_some_and(|token| token.is_word(word));
            let about_tasks =
                (is(0, "CREATE") && (is(1, "TASK") || is(3, "TASK"))) || (is(0, "ALTER") && is(1, "TASK"));
            if about_tasks {
                let error = Error::not_supported("CREATE TASK and ALTER TASK within a task");
                return Err(self.at_token(error, token));
            }
            let statement = parse_statement(self.text, piece)?;
            if let (true, Statement::Transaction(_)) = (alone, &statement) {
                let error = Error::invalid(format!("a task of {} alone does nothing", statement.name()))
                    .hint(
                        "several statements stand in BEGIN … END: AS BEGIN BEGIN TRANSACTION; …; COMMIT; END",
                    );
                return Err(self.at_token(error, token));
            }
            if statement.unsupported().is_some() {
                self.skip_rest();
                return Ok(Checked::Unsupported(statement));
            }
            if let Statement::Put(_) | Statement::Get(_) = statement {
                let error = Error::not_supported(format!(
                    "{} in a task: it moves files of a client",
                    statement.name()
                ));
                return Err(self.at_token(error, token));
            }
            if statement.parameters() > 0 {
                return Err(self.at_token(Error::invalid("a task has no parameters: ?"), token));
            }
        }
        self.skip_rest();
        let text = self.text_between(start, self.pos);
        if text.len() > MAX_BODY_BYTES {
            let error = Error::exhausted(format!("the statements of a task have {} bytes", text.len()))
                .hint(format!("at most {MAX_BODY_BYTES} are allowed"));
            return Err(self.at_token(error, first));
        }
        Ok(Checked::Text(text.to_owned()))
    }

    // --- notification integrations ----------------------------------------------------------------

    /// After CREATE [OR REPLACE] NOTIFICATION INTEGRATION.
    pub(super) fn create_notification(&mut self, or_replace: bool) -> Result<Statement> {
        let mode = self.create_mode(or_replace)?;
        let (options, has_type) = self.notification_options()?;
        let end = self.peek();
        if !has_type {
            return Err(self.at_token(Error::invalid("a notification integration needs TYPE = WEBHOOK"), end));
        }
        if options.enabled.is_none() {
            let error = Error::invalid("a notification integration needs ENABLED = TRUE or FALSE");
            return Err(self.at_token(error, end));
        }
        if options.webhook.as_ref().is_none_or(|webhook| webhook.url.is_none()) {
            let error = Error::invalid("a notification integration needs WEBHOOK = (url = '…')");
            return Err(self.at_token(error, end));
        }
        Ok(Statement::CreateNotification { options: Box::new(options), mode })
    }

    /// After ALTER NOTIFICATION INTEGRATION.
    pub(super) fn alter_notification(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let (options, _) = self.notification_options()?;
        Ok(Statement::AlterNotification { options: Box::new(options), if_exists })
    }

    fn notification_options(&mut self) -> Result<(NotificationOptions, bool)> {
        let name = self.object_name("the name of a notification integration")?;
        let (mut ty, mut enabled, mut webhook, mut comment) = (None, None, None, None);
        self.eat_kw("SET");
        while !self.at_end() {
            let token = self.peek();
            let option =
                self.option_name().ok_or_else(|| self.expected("TYPE, ENABLED, WEBHOOK or COMMENT"))?;
            self.pos += 1;
            self.expect_equals()?;
            match option.as_str() {
                "TYPE" => {
                    let (value, _) = self.option_value()?;
                    let value = value.as_text(&option).map_err(|e| self.at_token(e, token))?;
                    if !value.eq_ignore_ascii_case("WEBHOOK") {
                        let error =
                            Error::invalid(format!("option TYPE is {value}")).hint("allowed: WEBHOOK");
                        return Err(self.at_token(error, token));
                    }
                    self.once(&mut ty, (), "TYPE", token)?;
                }
                "ENABLED" => {
                    let (value, _) = self.option_value()?;
                    let value = value.as_bool(&option).map_err(|e| self.at_token(e, token))?;
                    self.once(&mut enabled, value, "ENABLED", token)?;
                }
                "WEBHOOK" => {
                    let value = self.webhook(token)?;
                    self.once(&mut webhook, value, "WEBHOOK", token)?;
                }
                "COMMENT" => {
                    let text = self.string("a comment in quotes")?;
                    self.once(&mut comment, text, "COMMENT", token)?;
                }
                other => {
                    let error = Error::invalid(format!("a notification integration has no option {other}"))
                        .hint("allowed: TYPE, ENABLED, WEBHOOK, COMMENT");
                    return Err(self.at_token(error, token));
                }
            }
            self.eat_sym(",");
        }
        Ok((NotificationOptions { name, enabled, webhook, comment }, ty.is_some()))
    }

    fn webhook(&mut self, token: Option<&Token>) -> Result<WebhookOptions> {
        let mut webhook = WebhookOptions::default();
        for pair in self.option_list()? {
            let at = Some(pair.token);
            let value = pair.value.as_text(&pair.name).map_err(|e| self.at_token(e, at))?.to_owned();
            match pair.name.as_str() {
                "URL" => self.once(&mut webhook.url, Secret::new(value), "url", at)?,
                "METHOD" => {
                    let method = value.to_ascii_uppercase();
                    if !WEBHOOK_METHODS.contains(&method.as_str()) {
                        let error = Error::invalid(format!("method is '{value}'"))
                            .hint(format!("allowed: {}", WEBHOOK_METHODS.join(", ")));
                        return Err(self.at_token(error, at));
                    }
                    self.once(&mut webhook.method, method, "method", at)?;
                }
                "AUTHORIZATION_HEADER" => {
                    self.once(
                        &mut webhook.authorization_header,
                        Secret::new(value),
                        "authorization_header",
                        at,
                    )?;
                }
                other => {
                    let error = Error::invalid(format!("WEBHOOK has no option {other}"))
                        .hint("allowed: url, method, authorization_header");
                    return Err(self.at_token(error, at));
                }
            }
        }
        if webhook == WebhookOptions::default() {
            return Err(self.at_token(Error::invalid("WEBHOOK is empty"), token));
        }
        Ok(webhook)
    }
}

fn schedule_and_after() -> Error {
    Error::invalid("a task cannot have both SCHEDULE and AFTER")
        .hint("what runs after other tasks has no schedule of its own: it runs whenever their graph does")
}
