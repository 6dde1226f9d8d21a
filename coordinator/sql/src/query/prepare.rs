//! The dialect's tokens to tokens that the query parser library understands.
//!
//! What the library does not know is replaced by names that are looked up again in the tree:
//! - a location after FROM or JOIN becomes `"__stage_<i>"`;
//! - the type of a cast becomes `__type_<i>`, so that our own types need no grammar there;
//! - a path (`:a.b[0]`, `['k']`) becomes a cast to `__path_<i>`, which binds as tightly as `::`;
//! - `$n` becomes a quoted name, `?` becomes a numbered placeholder.
//!
//! `AT (…)` after a table and `WITH …` after a stream are taken out, and found again by where the name before
//! them stands.
//!
//! Names that begin so are refused in the text. Also measures how deep the tree will be, because
//! dropping and printing a tree take stack.

use sqlparser::tokenizer::{Location, Span, Token as LibToken, TokenWithSpan};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::mutation::TARGET;
use super::suffix::{self, Found, Suffix};
use crate::ast::StageSource;
use crate::lexer::{Tok, Token, at_of_string};
use crate::parser;

/// How deep an expression may become by chaining operators.
const MAX_CHAIN: usize = 1000;
/// How many elements a path may have.
const MAX_PATH: usize = 100;

pub(super) const STAGE: &str = "__stage_";
pub(super) const TYPE: &str = "__type_";
pub(super) const PATH: &str = "__path_";
/// Names that begin so are ours.
const RESERVED: &[&str] =
    &[STAGE, TYPE, PATH, TARGET, "__rel_", "__cast", "__try_cast", "__variant_get", "__col_"];

/// Tokens for the library, and what its names stand for.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) tokens: Vec<TokenWithSpan>,
    pub(super) types: Vec<SqlType>,
    /// JSON arrays.
    pub(super) paths: Vec<String>,
    pub(super) stages: Vec<StageSource>,
    pub(super) suffixes: Vec<Found>,
    pub(super) parameters: usize,
    /// The texts of the items of the outermost SELECT.
    pub(super) items: Vec<String>,
    /// Where each token stands: line, column, byte range.
    pub(super) places: Vec<(u64, u64, std::ops::Range<usize>)>,
}

/// What the walk knows about one level of parentheses.
#[derive(Debug, Default)]
struct Frame {
    saw_select: bool,
    in_from: bool,
    /// A relation may stand here.
    expecting: bool,
    /// Inside CAST( … ) and its like, AS is followed by a type.
    cast: bool,
    /// How deep the expression here is by now, and was at most.
    depth: usize,
    deepest: usize,
}

struct Walk<'a> {
    text: &'a str,
    tokens: &'a [Token],
    /// Where the parameters begin, in the order of the text.
    given: Vec<usize>,
    pos: usize,
    frames: Vec<Frame>,
    frame: Frame,
    /// Whether what stands before is an operand that `:` or `[` can follow.
    operand: bool,
    out: Prepared,
    /// Parentheses that the whole query stands in.
    base: usize,
    /// Where the current item of the outermost SELECT began.
    item: ItemState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemState {
    Before,
    From(usize),
    Done,
}

/// Prepares the tokens of a query or an expression.
pub(super) fn prepare(text: &str, tokens: &[Token]) -> Result<Prepared> {
    let base = tokens.iter().take_while(|token| token.is_sym("(")).count();
    let is_parameter = |token: &&Token| token.tok == Tok::Param;
    let mut given: Vec<usize> = tokens.iter().filter(is_parameter).map(|token| token.start).collect();
    given.sort_unstable();
    let mut walk = Walk {
        text,
        tokens,
        given,
        pos: 0,
        frames: Vec::new(),
        frame: Frame::default(),
        operand: false,
        out: Prepared::default(),
        base,
        item: ItemState::Before,
    };
    while walk.pos < tokens.len() {
        walk.step()?;
    }
    walk.end_item();
    while let Some(parent) = walk.frames.pop() {
        walk.close(parent);
    }
    let deepest = walk.frame.deepest.max(walk.frame.depth);
    if deepest > MAX_CHAIN {
        return Err(walk.too_deep(tokens.first()));
    }
    Ok(walk.out)
}

fn place(error: Error, token: Option<&Token>) -> Error {
    match token {
        Some(token) => error.at(token.line, token.column),
        None => error,
    }
}

/// Words after which an expression begins, so that `[` there opens an array.
fn precedes_expression(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "SELECT", "DISTINCT", "ALL", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "RLIKE", "REGEXP",
        "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "BY", "HAVING", "ON", "VALUES", "ARRAY", "IS", "FROM",
        "LIMIT", "OFFSET", "INTERVAL", "USING", "ESCAPE", "QUALIFY", "AS", "DIV", "XOR", "SIMILAR", "TO",
        "DEFAULT", "ANY", "SOME",
    ];
    WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

impl<'a> Walk<'a> {
    fn token(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.pos + ahead)
    }

    fn rest_after(&self, ahead: usize) -> &'a [Token] {
        self.tokens.get(self.pos + ahead + 1..).unwrap_or(&[])
    }

    fn too_deep(&self, token: Option<&Token>) -> Error {
        let error = Error::exhausted(format!("an expression chains more than {MAX_CHAIN} operators"))
            .hint("use IN (…) for long lists of alternatives");
        place(error, token)
    }

    fn emit(&mut self, token: &Token, lib: LibToken) {
        let start = Location { line: u64::from(token.line), column: u64::from(token.column) };
        self.out.places.push((start.line, start.column, token.start..token.end));
        self.out.tokens.push(TokenWithSpan { token: lib, span: Span { start, end: start } });
    }

    fn deeper(&mut self, token: &Token) -> Result<()> {
        self.frame.depth += 1;
        if self.frame.depth > MAX_CHAIN { Err(self.too_deep(Some(token))) } else { Ok(()) }
    }

    fn reset(&mut self) {
        self.frame.deepest = self.frame.deepest.max(self.frame.depth);
        self.frame.depth = 0;
    }

    fn close(&mut self, mut parent: Frame) {
        let inner = self.frame.deepest.max(self.frame.depth);
        parent.depth = parent.depth.max(inner) + 1;
        self.frame = parent;
    }

    fn end_item(&mut self) {
        if let ItemState::From(start) = self.item {
            self.item_text(start, self.pos);
            self.item = ItemState::Done;
        }
    }

    fn item_text(&mut self, from: usize, to: usize) {
        let (first, last) = (self.tokens.get(from), to.checked_sub(1).and_then(|last| self.tokens.get(last)));
        let text = match (first, last) {
            (Some(first), Some(last)) if from < to => self.text.get(first.start..last.end).unwrap_or(""),
            _ => "",
        };
        self.out.items.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    fn step(&mut self) -> Result<()> {
        let Some(token) = self.token(0) else { return Ok(()) };
        match &token.tok {
            Tok::Word(word) => self.word(token, word),
            Tok::Quoted(name) => {
                self.check_reserved(token, name)?;
                self.operand(token, LibToken::make_word(name, Some('"')));
                Ok(())
            }
            Tok::Dollar(n) => {
                self.operand(token, LibToken::make_word(&format!("${n}"), Some('"')));
                Ok(())
            }
            Tok::Param => {
                self.out.parameters += 1;
                // Clauses may stand in another order here than the user wrote them.
                let before = self.given.partition_point(|start| *start < token.start);
                let name = format!("${}", before + 1);
                self.operand(token, LibToken::Placeholder(name));
                Ok(())
            }
            Tok::Number(number) => {
                self.operand(token, LibToken::Number(number.clone(), false));
                self.operand = false;
                Ok(())
            }
            Tok::Hex(digits) => {
                self.operand(token, LibToken::HexStringLiteral(digits.clone()));
                self.operand = false;
                Ok(())
            }
            Tok::Str(text) => {
                if self.frame.expecting && (at_of_string(text).is_some() || text.contains("://")) {
                    return self.stage(token);
                }
                self.operand(token, LibToken::SingleQuotedString(text.clone()));
                self.operand = false;
                Ok(())
            }
            Tok::At(_) | Tok::Uri(_) => {
                if self.frame.expecting {
                    return self.stage(token);
                }
                let error =
                    Error::invalid("a location stands only after FROM or JOIN, and as a string elsewhere");
                Err(place(error, Some(token)))
            }
            Tok::Sym(symbol) => self.symbol(token, symbol),
        }
    }

    fn operand(&mut self, token: &Token, lib: LibToken) {
        self.emit(token, lib);
        self.frame.expecting = false;
        self.operand = true;
        self.pos += 1;
    }

    fn check_reserved(&self, token: &Token, name: &str) -> Result<()> {
        let lower = name.to_ascii_lowercase();
        // A token of no length is not the user's.
        if token.start < token.end && RESERVED.iter().any(|prefix| lower.starts_with(prefix)) {
            return Err(place(Error::invalid(format!("the name '{name}' is reserved")), Some(token)));
        }
        Ok(())
    }

    fn word(&mut self, token: &'a Token, word: &str) -> Result<()> {
        if word.contains('$') {
            self.operand(token, LibToken::make_word(&word.to_ascii_lowercase(), Some('"')));
            return Ok(());
        }
        self.check_reserved(token, word)?;
        let upper = word.to_ascii_uppercase();
        let at_base = self.frames.len() == self.base;
        let after_period = self
            .pos
            .checked_sub(1)
            .and_then(|before| self.tokens.get(before))
            .is_some_and(|before| before.is_sym("."));
        let mut expecting = false;
        if upper == "AT"
            && !after_period
            && self.token(1).is_some_and(|next| next.is_sym("("))
            && self.token(3).is_some_and(|next| next.is_sym("=>"))
        {
            return self.time_travel(token);
        }
        if !after_period {
            match upper.as_str() {
                "SELECT" => {
                    self.frame.saw_select = true;
                    self.frame.in_from = false;
                    self.reset();
                    if at_base && self.item == ItemState::Before {
                        let quantified =
                            self.token(1).is_some_and(|t| t.is_word("DISTINCT") || t.is_word("ALL"));
                        self.item = if self.token(2).is_some_and(|t| quantified && t.is_word("ON")) {
                            ItemState::Done
                        } else {
                            ItemState::From(self.pos + 1 + usize::from(quantified))
                        };
                    }
                }
                "FROM" if self.frame.saw_select && !self.is_distinct_from() => {
                    self.frame.in_from = true;
                    expecting = true;
                    self.reset();
                    if at_base {
                        self.end_item();
                    }
                }
                "JOIN" if self.frame.in_from => {
                    expecting = true;
                    self.reset();
                }
                "LATERAL" => expecting = self.frame.expecting,
                "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "OFFSET" | "QUALIFY" | "WINDOW"
                | "FETCH" => {
                    self.frame.in_from = false;
                    self.reset();
                    if at_base {
                        self.end_item();
                    }
                }
                "UNION" | "EXCEPT" | "INTERSECT" | "MINUS" => {
                    // `* EXCEPT (a)` is no set operation.
                    let wildcard = self.token(1).is_some_and(|next| next.is_sym("("))
                        && self
                            .pos
                            .checked_sub(1)
                            .and_then(|before| self.tokens.get(before))
                            .is_some_and(|before| before.is_sym("*"));
                    if !wildcard {
                        self.frame.in_from = false;
                        if at_base {
                            self.end_item();
                        }
                        // Each makes the tree one deeper, whatever stands between them.
                        let depth = self.frame.depth.max(self.frame.deepest);
                        self.frame.deepest = depth + 1;
                        self.frame.depth = 0;
                        if self.frame.deepest > MAX_CHAIN {
                            return Err(self.too_deep(Some(token)));
                        }
                    }
                }
                "AND" | "OR" | "NOT" | "IS" | "IN" | "LIKE" | "ILIKE" | "BETWEEN" | "XOR" | "DIV"
                | "REGEXP" | "RLIKE" | "COLLATE" | "AT" | "CASE" | "INTERVAL" => self.deeper(token)?,
                "AS" if self.frame.cast => {
                    self.emit(token, LibToken::make_word(word, None));
                    self.pos += 1;
                    return self.cast_type();
                }
                // Where a relation may stand, WITH begins a query.
                "WITH"
                    if self.frame.in_from
                        && !self.frame.expecting
                        && suffix::reads_stream(self.rest_after(0)) =>
                {
                    let (options, length) = suffix::stream_options(self.rest_after(0))?;
                    return self.suffix(token, Suffix::With(options), 1 + length);
                }
                _ => {}
            }
        }
        self.emit(token, LibToken::make_word(word, None));
        self.frame.expecting = expecting;
        self.operand = after_period || !precedes_expression(word);
        self.pos += 1;
        Ok(())
    }

    /// IS [NOT] DISTINCT FROM.
    fn is_distinct_from(&self) -> bool {
        let before = |n: usize| self.pos.checked_sub(n).and_then(|i| self.tokens.get(i));
        before(1).is_some_and(|token| token.is_word("DISTINCT"))
            && before(2).is_some_and(|token| token.is_word("IS") || token.is_word("NOT"))
    }

    /// At the type of a cast.
    fn cast_type(&mut self) -> Result<()> {
        let rest = self.tokens.get(self.pos..).unwrap_or(&[]);
        let Some(first) = rest.first() else {
            return Err(place(
                Error::invalid("expected a type, found the end of the statement"),
                self.tokens.last(),
            ));
        };
        let (ty, length) = parser::read_type(self.text, rest)?;
        let name = format!("{TYPE}{}", self.out.types.len());
        self.out.types.push(ty);
        self.emit(first, LibToken::make_word(&name, None));
        self.pos += length;
        self.operand = true;
        Ok(())
    }

    /// At what stands behind the name of a relation and makes so many tokens.
    fn suffix(&mut self, token: &'a Token, suffix: Suffix, length: usize) -> Result<()> {
        let Some((line, column, _)) = self.out.places.last().filter(|_| self.frame.in_from) else {
            let (what, name) = match suffix {
                Suffix::At(_) => ("AT (…)", "a table"),
                Suffix::With(_) => ("WITH …", "a stream"),
            };
            let error = Error::invalid(format!("{what} stands only after the name of {name} in FROM"));
            return Err(place(error, Some(token)));
        };
        let after = (*line, *column);
        self.out.suffixes.push(Found { after, place: (token.line, token.column), suffix });
        self.pos += length;
        self.frame.expecting = false;
        self.operand = false;
        Ok(())
    }

    /// At `AT (key => value)`.
    fn time_travel(&mut self, token: &'a Token) -> Result<()> {
        let value = suffix::inside(self.rest_after(3), "AT (…)", Some(token))?;
        let at = suffix::time_travel(self.text, self.token(2), value)?;
        self.suffix(token, Suffix::At(at), 4 + value.len() + 1)
    }

    fn stage(&mut self, token: &'a Token) -> Result<()> {
        let rest = self.tokens.get(self.pos..).unwrap_or(&[]);
        let (source, length) = parser::read_stage_source(self.text, rest)?;
        let name = format!("{STAGE}{}", self.out.stages.len());
        self.out.stages.push(source);
        self.emit(token, LibToken::make_word(&name, Some('"')));
        self.pos += length;
        self.frame.expecting = false;
        self.operand = false;
        Ok(())
    }

    fn symbol(&mut self, token: &'a Token, symbol: &'static str) -> Result<()> {
        match symbol {
            "(" => {
                let before = self.pos.checked_sub(1).and_then(|i| self.tokens.get(i));
                let cast = before.is_some_and(|before| {
                    before.is_word("CAST") || before.is_word("TRY_CAST") || before.is_word("SAFE_CAST")
                });
                let child = Frame {
                    cast,
                    in_from: self.frame.expecting,
                    expecting: self.frame.expecting,
                    ..Frame::default()
                };
                let mut parent = std::mem::replace(&mut self.frame, child);
                parent.expecting = false;
                self.frames.push(parent);
                self.operand = false;
            }
            ")" => {
                if self.frames.len() == self.base {
                    self.end_item();
                }
                let Some(parent) = self.frames.pop() else {
                    let error =
                        Error::invalid("expected the end of the statement, found ')' that nothing opens");
                    return Err(place(error, Some(token)));
                };
                self.close(parent);
                if self.frame.depth > MAX_CHAIN {
                    return Err(self.too_deep(Some(token)));
                }
                self.operand = true;
            }
            "," => {
                self.reset();
                self.frame.expecting = self.frame.in_from;
                if self.frames.len() == self.base
                    && let ItemState::From(start) = self.item
                {
                    self.item_text(start, self.pos);
                    self.item = ItemState::From(self.pos + 1);
                }
                self.operand = false;
            }
            "::" => {
                self.deeper(token)?;
                self.emit(token, LibToken::DoubleColon);
                self.pos += 1;
                return self.cast_type();
            }
            ":" if self.operand && self.name_at(1).is_some() => return self.path(token),
            "[" if self.operand && self.key_at(0).is_some() => return self.path(token),
            "]" | "}" => self.operand = true,
            "." | ";" | "[" | "{" => self.operand = false,
            _ => {
                self.deeper(token)?;
                self.operand = false;
            }
        }
        let lib = library_symbol(symbol)
            .ok_or_else(|| place(Error::invalid(format!("unexpected '{symbol}' in a query")), Some(token)))?;
        self.emit(token, lib);
        self.pos += 1;
        Ok(())
    }

    /// The name of a path's element.
    fn name_at(&self, ahead: usize) -> Option<&'a str> {
        match self.token(ahead).map(|token| &token.tok) {
            Some(Tok::Word(name) | Tok::Quoted(name)) => Some(name),
            _ => None,
        }
    }

    /// `['key']`.
    fn key_at(&self, ahead: usize) -> Option<&'a str> {
        let closed = self.token(ahead + 2).is_some_and(|token| token.is_sym("]"));
        match self.token(ahead + 1).map(|token| &token.tok) {
            Some(Tok::Str(key)) if closed => Some(key),
            _ => None,
        }
    }

    /// `[n]`.
    fn index_at(&self, ahead: usize) -> Option<u64> {
        let closed = self.token(ahead + 2).is_some_and(|token| token.is_sym("]"));
        match self.token(ahead + 1).map(|token| &token.tok) {
            Some(Tok::Number(n)) if closed => n.parse().ok(),
            _ => None,
        }
    }

    /// `:a.b[0]['k']` or `['k'].a`, whose first element is known to stand here.
    fn path(&mut self, token: &'a Token) -> Result<()> {
        self.deeper(token)?;
        let mut elements: Vec<serde_json::Value> = Vec::new();
        while let Some(next) = self.token(0) {
            let (element, length) = if next.is_sym(":") || (next.is_sym(".") && !elements.is_empty()) {
                match self.name_at(1) {
                    Some(name) => (serde_json::Value::from(name), 2),
                    None => break,
                }
            } else if next.is_sym("[") {
                match (self.key_at(0), self.index_at(0)) {
                    (Some(key), _) => (serde_json::Value::from(key), 3),
                    (None, Some(index)) => (serde_json::Value::from(index), 3),
                    (None, None) => break,
                }
            } else {
                break;
            };
            elements.push(element);
            self.pos += length;
            if elements.len() > MAX_PATH {
                let error = Error::exhausted(format!("a path has more than {MAX_PATH} elements"));
                return Err(place(error, Some(token)));
            }
        }
        let name = format!("{PATH}{}", self.out.paths.len());
        self.out.paths.push(serde_json::Value::from(elements).to_string());
        self.emit(token, LibToken::DoubleColon);
        self.emit(token, LibToken::make_word(&name, None));
        self.operand = true;
        Ok(())
    }
}

fn library_symbol(symbol: &str) -> Option<LibToken> {
    Some(match symbol {
        "(" => LibToken::LParen,
        ")" => LibToken::RParen,
        "[" => LibToken::LBracket,
        "]" => LibToken::RBracket,
        "{" => LibToken::LBrace,
        "}" => LibToken::RBrace,
        "," => LibToken::Comma,
        "." => LibToken::Period,
        ":" => LibToken::Colon,
        "::" => LibToken::DoubleColon,
        "=>" => LibToken::RArrow,
        "=" => LibToken::Eq,
        "==" => LibToken::DoubleEq,
        "<>" | "!=" => LibToken::Neq,
        "<" => LibToken::Lt,
        ">" => LibToken::Gt,
        "<=" => LibToken::LtEq,
        ">=" => LibToken::GtEq,
        "<=>" => LibToken::Spaceship,
        "+" => LibToken::Plus,
        "-" => LibToken::Minus,
        "*" => LibToken::Mul,
        "/" => LibToken::Div,
        "%" => LibToken::Mod,
        "||" => LibToken::StringConcat,
        "->" => LibToken::Arrow,
        "->>" => LibToken::LongArrow,
        "#>" => LibToken::HashArrow,
        "#>>" => LibToken::HashLongArrow,
        "@>" => LibToken::AtArrow,
        "<@" => LibToken::ArrowAt,
        "~" => LibToken::Tilde,
        "~*" => LibToken::TildeAsterisk,
        "!~" => LibToken::ExclamationMarkTilde,
        "!~*" => LibToken::ExclamationMarkTildeAsterisk,
        "<<" => LibToken::ShiftLeft,
        ">>" => LibToken::ShiftRight,
        "&&" => LibToken::Overlap,
        "&" => LibToken::Ampersand,
        "|" => LibToken::Pipe,
        "^" => LibToken::Caret,
        "!" => LibToken::ExclamationMark,
        _ => return None,
    })
}

/// Whether a text holds a name that was put in place of something.
pub(super) fn mentions_generated(text: &str) -> bool {
    [STAGE, TYPE, PATH].iter().any(|prefix| text.contains(prefix))
}
