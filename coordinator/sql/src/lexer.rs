//! Text to tokens, by the dialect's own rules.
//!
//! Owns: string literals and their escapes, quoted names, `$n`, `@stage/path`, unquoted URIs, comments,
//! positions. Comes in: text. Goes out: [`Token`]s with byte ranges and 1-based lines and columns.
//! Never panics; fails with a position, and says whether more text could mend it.

use stevedore_common::Error;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tok {
    /// A keyword or unquoted name, as written.
    Word(String),
    /// A name in double quotes or backticks, without them.
    Quoted(String),
    /// A string literal, its escapes resolved.
    Str(String),
    /// `X'…'`.
    Hex(String),
    /// A number, as written.
    Number(String),
    /// `$n`.
    Dollar(u32),
    /// `@stage/path`.
    At(AtPath),
    /// An unquoted `scheme://…`.
    Uri(String),
    /// `?`.
    Param,
    /// An operator or a mark.
    Sym(&'static str),
}

/// `@name/path`, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AtPath {
    /// The name as written, or `~`.
    pub(crate) name: String,
    /// Whether the name stood in quotes.
    pub(crate) quoted: bool,
    /// What stands after the slash.
    pub(crate) path: String,
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    /// Byte range in the text.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// 1-based, in characters.
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Token {
    /// Whether this is the unquoted word, in any case.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.tok, Tok::Word(text) if text.eq_ignore_ascii_case(word))
    }

    /// Whether this is the mark.
    pub(crate) fn is_sym(&self, sym: &str) -> bool {
        matches!(&self.tok, Tok::Sym(text) if *text == sym)
    }
}

/// A failed tokenisation.
#[derive(Debug)]
pub(crate) struct LexError {
    pub(crate) error: Error,
    /// Byte offset of the token that failed.
    pub(crate) offset: usize,
    /// A string, name or comment is not closed: more text could mend it.
    pub(crate) unterminated: bool,
    /// The tokens before it.
    pub(crate) tokens: Vec<Token>,
}

/// Marks, longest first.
const SYMBOLS: &[&str] = &[
    "<=>", "->>", "#>>", "!~*", "::", ":=", "=>", ">=", "<=", "<>", "!=", "==", "||", "->", "#>", "@>", "<@",
    "!~", "~*", "<<", ">>", "&&", "(", ")", "[", "]", "{", "}", ",", ";", ".", ":", "+", "-", "*", "/", "%",
    "=", "<", ">", "~", "^", "&", "|", "!", "#",
];

struct Lexer<'a> {
    text: &'a str,
    pos: usize,
    line: u32,
    column: u32,
}

type Failed = (Error, bool);

pub(crate) fn is_name_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

pub(crate) fn is_name_part(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}

/// The tokens of a text, without comments and white space.
pub(crate) fn tokenize(text: &str) -> Result<Vec<Token>, Box<LexError>> {
    let mut lexer = Lexer { text, pos: 0, line: 1, column: 1 };
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let fail = |(error, unterminated): Failed, at: (usize, u32, u32), tokens: Vec<Token>| {
            Err(Box::new(LexError { error: error.at(at.1, at.2), offset: at.0, unterminated, tokens }))
        };
        let mut at = (lexer.pos, lexer.line, lexer.column);
        let skipped = lexer.skip_space(&mut at);
        if let Err(failed) = skipped {
            return fail(failed, at, tokens);
        }
        if lexer.rest().is_empty() {
            return Ok(tokens);
        }
        let at = (lexer.pos, lexer.line, lexer.column);
        match lexer.token(tokens.last()) {
            Ok(tok) => tokens.push(Token { tok, start: at.0, end: lexer.pos, line: at.1, column: at.2 }),
            Err(failed) => return fail(failed, at, tokens),
        }
    }
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn peek_second(&self) -> Option<char> {
        self.rest().chars().nth(1)
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
        Some(c)
    }

    fn bump_by(&mut self, chars: usize) {
        for _ in 0..chars {
            self.bump();
        }
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let start = self.pos;
        while self.peek().is_some_and(&accept) {
            self.bump();
        }
        self.text.get(start..self.pos).unwrap_or("")
    }

    /// `at` follows the start of what is being skipped, for the position of an unclosed comment.
    fn skip_space(&mut self, at: &mut (usize, u32, u32)) -> Result<(), Failed> {
        loop {
            self.take_while(|c| c.is_whitespace() || c == '\u{feff}');
            *at = (self.pos, self.line, self.column);
            if self.rest().starts_with("--") {
                self.take_while(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                let Some(length) = self.rest().get(2..).and_then(|rest| rest.find("*/")) else {
                    self.pos = self.text.len();
                    return Err((Error::invalid("the comment /* is not closed with */"), true));
                };
                let end = self.pos + 2 + length + 2;
                while self.pos < end {
                    self.bump();
                }
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self, previous: Option<&Token>) -> Result<Tok, Failed> {
        let Some(c) = self.peek() else { return Err((Error::internal("no token at the end"), false)) };
        match c {
            '\'' => Ok(Tok::Str(self.string()?)),
            '"' | '`' => Ok(Tok::Quoted(self.quoted(c)?)),
            '?' => {
                self.bump();
                Ok(Tok::Param)
            }
            '$' => self.dollar(),
            '@' => self.at(),
            '0'..='9' => self.number(),
            '.' if self.peek_second().is_some_and(|c| c.is_ascii_digit())
                && !self.follows_operand(previous) =>
            {
                self.number()
            }
            c if is_name_start(c) => self.word(),
            _ => {
                let Some(symbol) = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol)) else {
                    return Err((Error::invalid(format!("unexpected character {c:?}")), false));
                };
                self.bump_by(symbol.len());
                Ok(Tok::Sym(symbol))
            }
        }
    }

    /// Whether a dot here continues the operand before it, as in `t.1`.
    fn follows_operand(&self, previous: Option<&Token>) -> bool {
        previous.is_some_and(|token| {
            token.end == self.pos
                && match &token.tok {
                    Tok::Word(_) | Tok::Quoted(_) | Tok::Dollar(_) => true,
                    Tok::Sym(symbol) => matches!(*symbol, ")" | "]"),
                    _ => false,
                }
        })
    }

    fn word(&mut self) -> Result<Tok, Failed> {
        let word = self.take_while(is_name_part);
        if matches!(word, "x" | "X") && self.peek() == Some('\'') {
            let digits = self.string()?;
            if digits.len() % 2 != 0 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return Err((Error::invalid("X'…' must hold an even number of hexadecimal digits"), false));
            }
            return Ok(Tok::Hex(digits));
        }
        if self.rest().starts_with("://") {
            let rest =
                self.take_while(|c| !c.is_whitespace() && !matches!(c, ';' | '(' | ')' | ',' | '\'' | '"'));
            return Ok(Tok::Uri(format!("{word}{rest}")));
        }
        Ok(Tok::Word(word.to_owned()))
    }

    fn string(&mut self) -> Result<String, Failed> {
        self.bump();
        let mut value = String::new();
        loop {
            match self.bump() {
                None => {
                    return Err((Error::invalid("the string literal is not closed with '"), true));
                }
                Some('\'') if self.peek() == Some('\'') => {
                    self.bump();
                    value.push('\'');
                }
                Some('\'') => return Ok(value),
                Some('\\') => self.escape(&mut value)?,
                Some(c) => value.push(c),
            }
        }
    }

    /// After a backslash: resolves the escapes of the dialect, keeps any other backslash.
    fn escape(&mut self, value: &mut String) -> Result<(), Failed> {
        let resolved = match self.peek() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('0') => '\0',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('\\') => '\\',
            Some('\'') => '\'',
            Some('x') => return self.bytes(value),
            _ => {
                value.push('\\');
                return Ok(());
            }
        };
        self.bump();
        value.push(resolved);
        Ok(())
    }

    /// At the `x` of `\xHH`: it and those right behind it are the bytes of UTF-8.
    fn bytes(&mut self, value: &mut String) -> Result<(), Failed> {
        let Some(first) = self.hex_byte() else {
            value.push('\\');
            return Ok(());
        };
        let mut bytes = vec![first];
        while self.peek() == Some('\\') && self.peek_second() == Some('x') {
            self.bump();
            match self.hex_byte() {
                Some(byte) => bytes.push(byte),
                None => {
                    // As after any other backslash.
                    value.push_str(&utf8(bytes)?);
                    value.push('\\');
                    return Ok(());
                }
            }
        }
        value.push_str(&utf8(bytes)?);
        Ok(())
    }

    /// Takes `xHH`, if that is what comes.
    fn hex_byte(&mut self) -> Option<u8> {
        let digits = self.rest().get(1..3).filter(|d| d.chars().all(|c| c.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        self.bump_by(3);
        Some(byte)
    }

    fn quoted(&mut self, quote: char) -> Result<String, Failed> {
        self.bump();
        let mut name = String::new();
        loop {
            match self.bump() {
                None => return Err((Error::invalid(format!("the name is not closed with {quote}")), true)),
                Some(c) if c == quote => {
                    if self.peek() == Some(quote) {
                        self.bump();
                        name.push(quote);
                    } else if name.is_empty() {
                        return Err((Error::invalid("a name in quotes is empty"), false));
                    } else {
                        return Ok(name);
                    }
                }
                Some('\0') => return Err((Error::invalid("a name holds a NUL character"), false)),
                Some(c) => name.push(c),
            }
        }
    }

    fn dollar(&mut self) -> Result<Tok, Failed> {
        self.bump();
        if self.peek() == Some('$') {
            self.bump();
            let Some(length) = self.rest().find("$$") else {
                self.pos = self.text.len();
                return Err((Error::invalid("the text $$ is not closed with $$"), true));
            };
            let text = self.rest().get(..length).unwrap_or("").to_owned();
            let end = self.pos + length + 2;
            while self.pos < end {
                self.bump();
            }
            return Ok(Tok::Str(text));
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse::<u32>() {
            Ok(n) if n > 0 && n <= 100_000 && !self.peek().is_some_and(is_name_part) => Ok(Tok::Dollar(n)),
            _ => Err((
                Error::invalid("after $ the number of a file's column is expected, as in $1, counted from 1"),
                false,
            )),
        }
    }

    fn at(&mut self) -> Result<Tok, Failed> {
        if self.rest().starts_with("@>") {
            self.bump_by(2);
            return Ok(Tok::Sym("@>"));
        }
        self.bump();
        let mut at = AtPath { name: String::new(), quoted: false, path: String::new() };
        match self.peek() {
            Some(quote @ ('"' | '`')) => {
                at.name = self.quoted(quote)?;
                at.quoted = true;
            }
            Some('~') => {
                self.bump();
                at.name.push('~');
            }
            _ => at.name = self.take_while(|c| is_name_part(c) || c == '-').to_owned(),
        }
        let ends =
            |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || matches!(c, ';' | '(' | ')' | ','));
        if at.name.is_empty() || !(ends(self.peek()) || self.peek() == Some('/')) {
            return Err((
                Error::invalid(
                    "after @ the name of a stage is expected, as in @stage, @stage/path or @~/path",
                ),
                false,
            ));
        }
        if self.peek() == Some('/') {
            self.bump();
            loop {
                match self.peek() {
                    c if ends(c) => break,
                    Some('\\') => {
                        self.bump();
                        match self.bump() {
                            Some(c) => at.path.push(c),
                            None => at.path.push('\\'),
                        }
                    }
                    Some('\'' | '"') => {
                        return Err((
                            Error::invalid("a quote stands inside a path")
                                .hint("write the whole location as a string: '@stage/path'"),
                            false,
                        ));
                    }
                    Some(c) => {
                        self.bump();
                        at.path.push(c);
                    }
                    None => break,
                }
            }
        }
        Ok(Tok::At(at))
    }

    fn number(&mut self) -> Result<Tok, Failed> {
        let start = self.pos;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.bump_by(2);
            let digits = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
            return u64::from_str_radix(digits, 16)
                .map(|n| Tok::Number(n.to_string()))
                .map_err(|_| (Error::invalid("0x… is not a hexadecimal number of at most 64 bits"), false));
        }
        self.take_while(|c| c.is_ascii_digit());
        if self.peek() == Some('.') && !self.peek_second().is_some_and(|c| is_name_start(c) || c == '.') {
            self.bump();
            self.take_while(|c| c.is_ascii_digit());
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            let after = self.peek_second();
            let third = self.rest().chars().nth(2);
            if after.is_some_and(|c| c.is_ascii_digit())
                || (matches!(after, Some('+' | '-')) && third.is_some_and(|c| c.is_ascii_digit()))
            {
                self.bump_by(2);
                self.take_while(|c| c.is_ascii_digit());
            }
        }
        let number = self.text.get(start..self.pos).unwrap_or("");
        if self.peek().is_some_and(is_name_part) {
            // Not quoted: it may be a piece of a secret.
            let error = Error::invalid("a number runs into letters: this is neither a number nor a name");
            return Err((error, false));
        }
        Ok(Tok::Number(number.to_owned()))
    }
}

/// The text that the bytes of adjacent `\xHH` make.
fn utf8(bytes: Vec<u8>) -> Result<String, Failed> {
    String::from_utf8(bytes).map_err(|error| {
        let wrong = error.as_bytes().get(error.utf8_error().valid_up_to()).copied().unwrap_or_default();
        let error = Error::invalid(format!(
            "the string literal has the byte \\x{wrong:02X}, which is no character"
        ))
        .hint("bytes from \\x80 up must make UTF-8, as \\xC3\\xA9 makes é; or write the character itself");
        (error, false)
    })
}

/// Splits the text of a string literal that names a stage: `'@stage/path'`, anything in the path.
pub(crate) fn at_of_string(text: &str) -> Option<AtPath> {
    let rest = text.strip_prefix('@')?;
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty()
        || !(name == "~" || name.chars().all(|c| is_name_part(c) || matches!(c, '-' | ' ' | '.')))
    {
        return None;
    }
    Some(AtPath { name: name.to_owned(), quoted: false, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn toks(text: &str) -> Vec<Tok> {
        tokenize(text).unwrap().into_iter().map(|t| t.tok).collect()
    }

    fn string(text: &str) -> String {
        match toks(text).as_slice() {
            [Tok::Str(value)] => value.clone(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn at(text: &str) -> (String, String) {
        match toks(text).into_iter().next() {
            Some(Tok::At(at)) => (at.name, at.path),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn string_literals_resolve_the_dialects_escapes_and_keep_other_backslashes() {
        for (text, value) in [
            (r"'a\nb\tc\rd'", "a\nb\tc\rd"),
            (r"'\0\b\f'", "\0\u{8}\u{c}"),
            (r"'it''s \'here\''", "it's 'here'"),
            (r"'\\'", "\\"),
            (r"'\x01\x7c'", "\u{1}|"),
            (r"'\x1'", r"\x1"),
            (r"'\xC2\xA2a\x41\xe2\x82\xac'", "¢aA€"),
            (r"'\xc3\xa9\xzz'", r"é\xzz"),
            (r"'\xzz'", r"\xzz"),
            (r"'.*[.]csv'", ".*[.]csv"),
            (r"'\d+\.csv'", r"\d+\.csv"),
            (r"'\\d'", r"\d"),
            ("'ä\nö'", "ä\nö"),
            ("$$it's \\n$$", r"it's \n"),
            ("''", ""),
        ] {
            assert_eq!(string(text), value, "{text}");
        }
    }

    #[test]
    fn bytes_that_make_no_character_are_refused() {
        for (text, byte) in [
            (r"'\xfe'", "FE"),
            (r"'a\xc3\n\xa9'", "C3"),
            (r"'\x41\xc3\xa9\xa9'", "A9"),
            (r"'\xe9t\xe9'", "E9"),
        ] {
            let error = tokenize(text).unwrap_err().error.to_string();
            let expected = format!("the string literal has the byte \\x{byte}, which is no character");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn stage_paths_end_at_white_space_parentheses_commas_and_semicolons() {
        assert_eq!(at("@s"), ("s".into(), "".into()));
        assert_eq!(at("@~"), ("~".into(), "".into()));
        assert_eq!(at("@~/a b"), ("~".into(), "a".into()));
        assert_eq!(
            at("@My_s/dir/with-dots.and%chars=1/*.csv;"),
            ("My_s".into(), "dir/with-dots.and%chars=1/*.csv".into())
        );
        assert_eq!(at("@s/a--b/c(FILE_FORMAT"), ("s".into(), "a--b/c".into()));
        assert_eq!(at(r"@s/a\ b"), ("s".into(), "a b".into()));
        assert_eq!(at("@\"my stage\"/x"), ("my stage".into(), "x".into()));
        assert_eq!(at_of_string("@s/a b(1),c").unwrap().path, "a b(1),c");
    }

    #[test]
    fn numbers_dots_and_dollars() {
        assert_eq!(toks("1 2.5 .5 1e3 1.5E-3 0x10"), {
            ["1", "2.5", ".5", "1e3", "1.5E-3", "16"].map(|n| Tok::Number(n.to_owned())).to_vec()
        });
        assert_eq!(toks("t.$2"), [Tok::Word("t".into()), Tok::Sym("."), Tok::Dollar(2)]);
        assert_eq!(toks("$1:a").len(), 3);
        assert_eq!(toks("metadata$filename"), [Tok::Word("metadata$filename".into())]);
        assert_eq!(toks("fs:///tmp/*.csv @s"), {
            let at = AtPath { name: "s".into(), quoted: false, path: String::new() };
            [Tok::Uri("fs:///tmp/*.csv".into()), Tok::At(at)]
        });
    }

    #[test]
    fn positions_count_characters() {
        let tokens = tokenize("-- ä\nä /* x\n */ b").unwrap();
        assert_eq!((tokens[0].line, tokens[0].column), (2, 1));
        assert_eq!((tokens[1].line, tokens[1].column), (3, 5));
    }

    #[test]
    fn what_is_not_closed_says_so_and_where() {
        for (text, line, column) in [("a 'b", 1, 3), ("a\n \"b", 2, 2), ("x /* y", 1, 3), ("$$a", 1, 1)] {
            let failed = tokenize(text).unwrap_err();
            assert!(failed.unterminated, "{text}");
            let position = failed.error.position().unwrap();
            assert_eq!((position.line, position.column), (line, column), "{text}");
        }
        for text in ["1abc", "$x", "$0", "@", "@(", "\u{1}", "\"\"", "@s/a'b'"] {
            assert!(!tokenize(text).unwrap_err().unterminated, "{text}");
        }
    }
}
