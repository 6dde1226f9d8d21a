//! Texts of statements without their secrets, for logs, job records and histories.
//!
//! Works on any text, also on one that is no statement: what cannot be read to its end is cut.

use stevedore_common::secret::MASK;

use crate::connection::is_secret_option;
use crate::lexer::{Tok, Token, tokenize};

/// The text with the value of every option that is, or looks like, a secret replaced by `******`, and
/// with the user part of URLs (`scheme://user:password@host`) replaced too.
pub fn mask_secrets(sql: &str) -> String {
    let (tokens, readable) = match tokenize(sql) {
        Ok(tokens) => (tokens, sql.len()),
        // Behind the place that cannot be read a secret may stand in any form.
        Err(failed) => (failed.tokens, failed.offset),
    };
    let mut masked = String::with_capacity(sql.len());
    let mut copied = 0;
    for (i, token) in tokens.iter().enumerate() {
        let replacement = if is_secret_value(&tokens, i) {
            match &token.tok {
                Tok::Str(_) => Some(format!("'{MASK}'")),
                _ => Some(MASK.to_owned()),
            }
        } else {
            match &token.tok {
                Tok::Str(text) | Tok::Uri(text) if user_part(text).is_some() => {
                    sql.get(token.start..token.end).map(mask_user_parts)
                }
                _ => None,
            }
        };
        if let Some(replacement) = replacement {
            masked.push_str(sql.get(copied..token.start).unwrap_or(""));
            masked.push_str(&replacement);
            copied = token.end;
        }
    }
    masked.push_str(sql.get(copied..readable).unwrap_or(""));
    if readable < sql.len() {
        masked.push_str(MASK);
    }
    masked
}

/// Whether the token is the value of a secret option: `NAME = value`, `NAME => value`, `NAME 'value'`.
fn is_secret_value(tokens: &[Token], index: usize) -> bool {
    // Many services put what authorises a message into the URL of their webhook.
    let of_webhook = tokens
        .iter()
        .take(5)
        .zip(tokens.iter().skip(1))
        .any(|(a, b)| a.is_word("NOTIFICATION") && b.is_word("INTEGRATION"));
    let is_secret = |token: Option<&Token>| match token.map(|token| &token.tok) {
        Some(Tok::Word(name) | Tok::Quoted(name) | Tok::Str(name)) => {
            is_secret_option(name) || (of_webhook && name.eq_ignore_ascii_case("URL"))
        }
        _ => false,
    };
    let back = |n: usize| index.checked_sub(n).and_then(|i| tokens.get(i));
    let Some(before) = back(1) else { return false };
    if before.is_sym("=") || before.is_sym("=>") || before.is_sym(":=") || before.is_sym(":") {
        return is_secret(back(2));
    }
    // Pieces of a value without quotes: `KEY = a/b+c`.
    let same_piece = before.end == tokens.get(index).map_or(0, |token| token.start);
    if same_piece && !before.is_sym("(") && !before.is_sym(",") && index > 0 {
        return is_secret_value(tokens, index - 1)
            && !matches!(tokens.get(index).map(|t| &t.tok), Some(Tok::Sym(")" | "," | ";")));
    }
    matches!(tokens.get(index).map(|token| &token.tok), Some(Tok::Str(_))) && is_secret(Some(before))
}

/// The `user:password@` of a URL, as a byte range.
fn user_part(text: &str) -> Option<std::ops::Range<usize>> {
    let start = text.find("://")? + 3;
    let rest = text.get(start..)?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let at = authority.rfind('@')?;
    Some(start..start + at)
}

fn mask_user_parts(text: &str) -> String {
    match user_part(text) {
        Some(range) => {
            let mut masked = text.to_owned();
            masked.replace_range(range, MASK);
            masked
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_options_are_masked_wherever_they_stand() {
        for (sql, expected) in [
            (
                "CREATE CONNECTION c STORAGE_TYPE='s3' ACCESS_KEY_ID = 'AKIA' secret_access_key='s3''cr\\'et'",
                "CREATE CONNECTION c STORAGE_TYPE='s3' ACCESS_KEY_ID = 'AKIA' secret_access_key='******'",
            ),
            (
                "COPY INTO t FROM 's3://b/' CONNECTION = (AWS_KEY_ID='a', AWS_SECRET_KEY=abc SESSION_TOKEN = \"x\")",
                "COPY INTO t FROM 's3://b/' CONNECTION = (AWS_KEY_ID='a', AWS_SECRET_KEY=****** SESSION_TOKEN = ******)",
            ),
            (
                "SELECT * FROM 's3://b/' (CONNECTION => (SECRET_ACCESS_KEY => 'x'))",
                "SELECT * FROM 's3://b/' (CONNECTION => (SECRET_ACCESS_KEY => '******'))",
            ),
            (
                "ALTER STAGE s SET CONNECTION = (token='hf_x')",
                "ALTER STAGE s SET CONNECTION = (token='******')",
            ),
            (
                "CREATE NOTIFICATION INTEGRATION n WEBHOOK = (url = 'https://x/T0/B1', authorization_header = 'Bearer x')",
                "CREATE NOTIFICATION INTEGRATION n WEBHOOK = (url = '******', authorization_header = '******')",
            ),
            ("CREDENTIAL 'eyJ'", "CREDENTIAL '******'"),
            ("SELECT 'https://me:pw@host/x'", "SELECT 'https://******@host/x'"),
            ("SELECT token FROM t WHERE a = 'b'", "SELECT token FROM t WHERE a = 'b'"),
        ] {
            assert_eq!(mask_secrets(sql), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_cut() {
        assert_eq!(mask_secrets("x SECRET_KEY = 'abc"), "x SECRET_KEY = ******");
        let masked =
            mask_secrets("CREATE CONNECTION c SECRET_ACCESS_KEY = 'a' \u{1} SECRET_ACCESS_KEY = 'hush'");
        assert!(!masked.contains("hush") && masked.contains("= '******'"), "{masked}");
    }
}
