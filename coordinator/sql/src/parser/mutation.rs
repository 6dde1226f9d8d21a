//! DELETE, UPDATE and MERGE INTO.
//!
//! The statement is cut at its clauses; the expressions, conditions and sources between them are put into
//! one SELECT over the target, so that they mean what they mean in a query. What is wrong with them is
//! told where it stands.

use stevedore_common::{Error, Result};

use super::Parser;
use crate::ast::{Assignment, Change, MergeAction, MergeClause, Mutation, ObjectRef, Statement};
use crate::lexer::{Tok, Token};
use crate::query::{Item, Pieces, TARGET, analyze_mutation};

/// The table that a statement changes.
struct Target {
    table: ObjectRef,
    /// As written, or the table's own name.
    alias: String,
}

/// The SELECT in the making.
struct Made {
    tokens: Vec<Token>,
    items: Vec<Item>,
    /// Where tokens stand that nobody wrote.
    at: Token,
}

impl Made {
    fn push(&mut self, tok: Tok) {
        self.tokens.push(Token { tok, ..self.at.clone() });
    }

    fn word(&mut self, word: &str) {
        self.push(Tok::Word(word.to_owned()));
    }

    /// `"__target" AS "alias"`.
    fn target(&mut self, target: &Target) {
        self.push(Tok::Quoted(TARGET.to_owned()));
        self.word("AS");
        self.push(Tok::Quoted(target.alias.clone()));
    }

    /// The first item, of no clause.
    fn first_item(&mut self) {
        self.push(Tok::Number("1".to_owned()));
        let place = (self.at.line, self.at.column);
        self.items.push(Item { clause: "SELECT", of_source: false, place });
    }

    /// One more item of the list after SELECT.
    fn item(&mut self, tokens: &[Token], clause: &'static str, of_source: bool) {
        let first = tokens.first().unwrap_or(&self.at);
        self.items.push(Item { clause, of_source, place: (first.line, first.column) });
        self.push(Tok::Sym(","));
        // Each is one expression, whatever commas or words are in it.
        self.push(Tok::Sym("("));
        self.tokens.extend_from_slice(tokens);
        self.push(Tok::Sym(")"));
    }
}

/// A value as it stands: `None` is DEFAULT.
type Written<'a> = Option<&'a [Token]>;

enum Action<'a> {
    Delete,
    Update(Vec<(String, Written<'a>)>),
    UpdateAll,
    Insert(Option<Vec<String>>, Vec<Written<'a>>),
    InsertAll,
}

impl<'a> Parser<'a> {
    fn made(&self) -> Made {
        // An empty range tells that nobody wrote the token.
        let at = self.tokens.first().map(|first| Token { end: first.start, ..first.clone() });
        let at = at.unwrap_or(Token { tok: Tok::Param, start: 0, end: 0, line: 1, column: 1 });
        let mut made = Made { tokens: Vec::new(), items: Vec::new(), at };
        made.word("SELECT");
        made
    }

    /// `[db.]t [[AS] alias]`, before one of the words.
    fn target(&mut self, statement: &str, before: &[&str]) -> Result<Target> {
        let token = self.peek();
        if token.is_some_and(|token| matches!(token.tok, Tok::At(_) | Tok::Uri(_) | Tok::Str(_))) {
            return Err(self.expected("the name of a table"));
        }
        let table = self.object_ref("the name of a table")?;
        if self.is_kw("AT") && self.peek_at(1).is_some_and(|token| token.is_sym("(")) {
            let error = Error::not_supported(format!("AT (…) on the table that {statement} changes"))
                .hint("only what it is now can change; a query reads it as it was");
            return Err(self.at_token(error, self.peek()));
        }
        let named = self.eat_kw("AS") || (!self.at_end() && !before.iter().any(|word| self.is_kw(word)));
        let alias = if named { self.name("an alias")?.text } else { table.name.clone() };
        Ok(Target { table, alias })
    }

    /// The tokens until one of the words, or a comma where `commas` end them, outside of parentheses and CASE.
    fn until(&mut self, words: &[&str], commas: bool) -> &'a [Token] {
        let start = self.pos;
        let (mut depth, mut cases) = (0usize, 0usize);
        while let Some(token) = self.peek() {
            let before = self.pos.checked_sub(1).and_then(|before| self.tokens.get(before));
            let qualified = before.is_some_and(|before| before.is_sym("."));
            let is_distinct =
                token.is_word("FROM") && before.is_some_and(|before| before.is_word("DISTINCT"));
            match &token.tok {
                Tok::Sym("(" | "[" | "{") => depth += 1,
                Tok::Sym(")" | "]" | "}") if depth == 0 => break,
                Tok::Sym(")" | "]" | "}") => depth -= 1,
                Tok::Sym(",") if commas && depth == 0 && cases == 0 => break,
                Tok::Word(_) if !qualified && token.is_word("CASE") => cases += 1,
                Tok::Word(_) if !qualified && token.is_word("END") => cases = cases.saturating_sub(1),
                Tok::Word(_)
                    if depth == 0
                        && cases == 0
                        && !qualified
                        && !is_distinct
                        && words.iter().any(|word| token.is_word(word)) =>
                {
                    break;
                }
                _ => {}
            }
            self.pos += 1;
        }
        self.tokens.get(start..self.pos).unwrap_or(&[])
    }

    /// An expression, or DEFAULT.
    fn value(&mut self, words: &[&str]) -> Result<Written<'a>> {
        let value = self.until(words, true);
        match value {
            [] => Err(self.expected("an expression")),
            [only] if only.is_word("DEFAULT") => Ok(None),
            _ => Ok(Some(value)),
        }
    }

    fn condition(&mut self, words: &[&str]) -> Result<&'a [Token]> {
        let condition = self.until(words, false);
        if condition.is_empty() { Err(self.expected("a condition")) } else { Ok(condition) }
    }

    /// `a = 1, t.b = 2`, before one of the words.
    fn assignments(&mut self, target: &Target, words: &[&str]) -> Result<Vec<(String, Written<'a>)>> {
        let mut set: Vec<(String, Written<'a>)> = Vec::new();
        loop {
            let token = self.peek();
            let mut column = self.name("the name of a column")?.text;
            while self.eat_sym(".") {
                let qualifies = column.eq_ignore_ascii_case(&target.alias)
                    || target.table.database.as_ref().is_some_and(|db| column.eq_ignore_ascii_case(db));
                if !qualifies {
                    let error = Error::invalid(format!("'{column}' is not the table that changes"))
                        .hint(format!("SET names columns of '{}'", target.alias));
                    return Err(self.at_token(error, token));
                }
                column = self.name("the name of a column")?.text;
            }
            self.expect_sym("=")?;
            let value = self.value(words)?;
            if set.iter().any(|(known, _)| known.eq_ignore_ascii_case(&column)) {
                return Err(self.at_token(Error::invalid(format!("column '{column}' is set twice")), token));
            }
            set.push((column, value));
            if !self.eat_sym(",") {
                return Ok(set);
            }
        }
    }

    fn analyzed(
        &mut self,
        made: &Made,
        statement: &str,
        target: &Target,
        change: impl FnOnce(&mut Pieces) -> Result<Change>,
    ) -> Result<Statement> {
        let alias = format!("\"{}\"", target.alias.to_lowercase().replace('"', "\"\""));
        let named = (&target.table, alias.as_str());
        let mut pieces = analyze_mutation(self.text, &made.tokens, &made.items, statement, named)?;
        let change = change(&mut pieces)?;
        Ok(Statement::Mutation(Box::new(Mutation {
            table: target.table.clone(),
            target: pieces.target,
            alias,
            relations: pieces.relations,
            parameters: pieces.parameters,
            repeatable: pieces.repeatable,
            change,
        })))
    }

    /// `DELETE FROM t [alias] [WHERE condition]`.
    pub(super) fn delete(&mut self) -> Result<Statement> {
        self.pos += 1;
        self.expect_kw("FROM")?;
        let target = self.target("DELETE", &["WHERE", "USING"])?;
        if self.is_kw("USING") {
            let error = Error::not_supported("DELETE … USING")
                .hint("write DELETE FROM t WHERE EXISTS (SELECT … FROM other WHERE …)");
            return Err(self.at_token(error, self.peek()));
        }
        let mut made = self.made();
        made.first_item();
        made.word("FROM");
        made.target(&target);
        self.given_filter(&mut made)?;
        self.analyzed(&made, "DELETE", &target, |pieces| {
            Ok(Change::Delete { from: std::mem::take(&mut pieces.from), filter: pieces.filter.take() })
        })
    }

    fn given_filter(&mut self, made: &mut Made) -> Result<()> {
        if self.eat_kw("WHERE") {
            made.word("WHERE");
            let condition = self.condition(&[])?;
            made.tokens.extend_from_slice(condition);
        }
        if self.at_end() { Ok(()) } else { Err(self.expected("WHERE or the end of the statement")) }
    }

    /// `UPDATE t [alias] SET a = …, … [FROM …] [WHERE condition]`.
    pub(super) fn update(&mut self) -> Result<Statement> {
        self.pos += 1;
        let target = self.target("UPDATE", &["SET"])?;
        self.expect_kw("SET")?;
        let set = self.assignments(&target, &["FROM", "WHERE"])?;
        let mut made = self.made();
        made.first_item();
        for value in set.iter().filter_map(|(_, value)| *value) {
            made.item(value, "SET", false);
        }
        made.word("FROM");
        made.target(&target);
        if self.eat_kw("FROM") {
            made.push(Tok::Sym(","));
            let from = self.until(&["WHERE"], false);
            if from.is_empty() {
                return Err(self.expected("what UPDATE reads"));
            }
            made.tokens.extend_from_slice(from);
        }
        self.given_filter(&mut made)?;
        self.analyzed(&made, "UPDATE", &target, |pieces| {
            let mut values = std::mem::take(&mut pieces.items).into_iter().skip(1);
            let set = set
                .into_iter()
                .map(|(column, value)| Assignment { column, value: value.and_then(|_| values.next()) })
                .collect();
            let (from, filter) = (std::mem::take(&mut pieces.from), pieces.filter.take());
            Ok(Change::Update { from, filter, set })
        })
    }

    /// `MERGE INTO t [alias] USING source ON condition WHEN …`.
    pub(super) fn merge(&mut self) -> Result<Statement> {
        self.pos += 1;
        self.eat_kw("INTO");
        let target = self.target("MERGE INTO", &["USING"])?;
        self.expect_kw("USING")?;
        let source = self.until(&["ON"], false);
        if source.is_empty() {
            return Err(self.expected("the source: a table, a stage, or (SELECT …) with an alias"));
        }
        self.expect_kw("ON")?;
        let on = self.condition(&["WHEN"])?;
        let mut clauses: Vec<(Option<&'a [Token]>, Action<'a>)> = Vec::new();
        // Whether a clause for all pairs, and for all others, was there.
        let mut complete = [false; 2];
        while !self.at_end() {
            let token = self.peek();
            self.expect_kw("WHEN")?;
            let inserts = self.eat_kw("NOT");
            self.expect_kw("MATCHED")?;
            if self.is_kw("BY") {
                let error = Error::not_supported("WHEN NOT MATCHED BY");
                return Err(self.at_token(error, self.peek()));
            }
            let condition = if self.eat_kw("AND") { Some(self.condition(&["THEN"])?) } else { None };
            self.expect_kw("THEN")?;
            let action = self.merge_action(&target, inserts)?;
            let done = &mut complete[usize::from(inserts)];
            if std::mem::replace(done, *done || condition.is_none()) {
                let error = Error::invalid("this WHEN is never reached: the one before it has no condition");
                return Err(self.at_token(error, token));
            }
            clauses.push((condition, action));
        }
        if clauses.is_empty() {
            return Err(self.expected("WHEN MATCHED or WHEN NOT MATCHED"));
        }
        let mut made = self.made();
        made.first_item();
        for (condition, action) in &clauses {
            let of_source = matches!(action, Action::Insert(..) | Action::InsertAll);
            condition.iter().for_each(|condition| made.item(condition, "WHEN", of_source));
            let (values, clause): (Vec<Written<'a>>, _) = match action {
                Action::Update(set) => (set.iter().map(|(_, value)| *value).collect(), "SET"),
                Action::Insert(_, values) => (values.clone(), "VALUES"),
                Action::Delete | Action::UpdateAll | Action::InsertAll => continue,
            };
            values.into_iter().flatten().for_each(|value| made.item(value, clause, of_source));
        }
        made.word("FROM");
        made.target(&target);
        made.word("JOIN");
        made.tokens.extend_from_slice(source);
        made.word("ON");
        made.tokens.extend_from_slice(on);
        let nameless = Error::invalid("the source of MERGE INTO has no name")
            .hint("give it an alias: MERGE INTO t USING (SELECT …) AS s ON …");
        let nameless = self.at_token(nameless, source.first());
        self.analyzed(&made, "MERGE INTO", &target, |pieces| {
            let (source, source_alias, on) = pieces.join.take().ok_or(nameless)?;
            let mut items = std::mem::take(&mut pieces.items).into_iter().skip(1);
            let clauses = clauses
                .into_iter()
                .map(|(condition, action)| {
                    let condition = condition.and_then(|_| items.next());
                    let mut rendered = |value: Written<'_>| value.and_then(|_| items.next());
                    let action = match action {
                        Action::Delete => MergeAction::Delete,
                        Action::UpdateAll => MergeAction::UpdateAll,
                        Action::InsertAll => MergeAction::InsertAll,
                        Action::Update(set) => MergeAction::Update(
                            set.into_iter()
                                .map(|(column, value)| Assignment { column, value: rendered(value) })
                                .collect(),
                        ),
                        Action::Insert(columns, values) => MergeAction::Insert {
                            columns,
                            values: values.into_iter().map(&mut rendered).collect(),
                        },
                    };
                    MergeClause { condition, action }
                })
                .collect();
            Ok(Change::Merge { source, source_alias, on, clauses })
        })
    }

    fn merge_action(&mut self, target: &Target, inserts: bool) -> Result<Action<'a>> {
        if inserts {
            self.expect_kw("INSERT")?;
            if self.eat_sym("*") {
                return Ok(Action::InsertAll);
            }
            let columns = if self.is_sym("(") { Some(self.column_list()?) } else { None };
            self.expect_kw("VALUES")?;
            self.expect_sym("(")?;
            let mut values = Vec::new();
            loop {
                values.push(self.value(&[])?);
                if !self.eat_sym(",") {
                    break;
                }
            }
            let token = self.peek();
            self.expect_sym(")")?;
            if let Some(columns) = columns.as_ref().filter(|columns| columns.len() != values.len()) {
                let error = Error::invalid(format!("{} values for {} columns", values.len(), columns.len()));
                return Err(self.at_token(error, token));
            }
            return Ok(Action::Insert(columns, values));
        }
        if self.eat_kw("DELETE") {
            return Ok(Action::Delete);
        }
        if !self.eat_kw("UPDATE") {
            return Err(self.expected("UPDATE or DELETE"));
        }
        if self.eat_sym("*") {
            return Ok(Action::UpdateAll);
        }
        self.expect_kw("SET")?;
        Ok(Action::Update(self.assignments(target, &["WHEN"])?))
    }
}
