//! DECIMAL from text: every digit counts, rounding is half away from zero.

use super::{INVALID_DIGIT, OUT_OF_RANGE, Reason, trim};

/// 10^n for n up to 38.
pub fn power_of_ten(n: u32) -> i128 {
    10i128.pow(n.min(38))
}

/// A decimal number as written: sign, digits without leading zeros, and the power of ten of the last digit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digits<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Digits<'a> {
    /// Reads `[+-]digits[.digits][e[+-]digits]` with a digit before or after the point.
    #[inline]
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Reason> {
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let run = |text: &[u8]| text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let (whole, mut rest) = rest.split_at(run(rest));
        let mut fraction: &[u8] = &[];
        if let [b'.', after @ ..] = rest {
            (fraction, rest) = after.split_at(run(after));
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(INVALID_DIGIT);
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => {
                let (below, digits) = match rest {
                    [b'-', digits @ ..] => (true, digits),
                    [b'+', digits @ ..] => (false, digits),
                    _ => (false, rest),
                };
                super::number::digits_only(digits)?;
                // Past a million every answer is the same: zero or out of range.
                let size = digits.iter().fold(0i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000));
                if below { -size } else { size }
            }
            _ => return Err(INVALID_DIGIT),
        };
        Ok(Self { negative, whole, fraction, exponent })
    }

    /// The value times 10^scale as an integer, rounded half away from zero or truncated.
    pub(crate) fn scaled(&self, scale: u32, truncate: bool) -> Result<i128, Reason> {
        // How many digits, from the first, stand before the point of the result.
        let kept = self.whole.len() as i64 + self.exponent + i64::from(scale);
        let mut value: i128 = 0;
        let mut digits = self.whole.iter().chain(self.fraction).map(|d| d - b'0');
        let mut taken = 0;
        while taken < kept {
            let Some(digit) = digits.next() else { break };
            value =
                value.checked_mul(10).and_then(|v| v.checked_add(i128::from(digit))).ok_or(OUT_OF_RANGE)?;
            taken += 1;
        }
        if taken < kept {
            if value != 0 {
                let zeros = u32::try_from(kept - taken).map_err(|_| OUT_OF_RANGE)?;
                let factor = 10i128.checked_pow(zeros).ok_or(OUT_OF_RANGE)?;
                value = value.checked_mul(factor).ok_or(OUT_OF_RANGE)?;
            }
        } else if !truncate && kept >= 0 && digits.next().is_some_and(|digit| digit >= 5) {
            value = value.checked_add(1).ok_or(OUT_OF_RANGE)?;
        }
        Ok(if self.negative { -value } else { value })
    }
}

/// Reads a DECIMAL(precision, scale) as the integer that is its value times 10^scale.
///
/// # Errors
/// `invalid digit`, or `out of range` where the precision cannot hold it.
#[inline]
pub fn parse_decimal(text: &[u8], precision: u8, scale: u8) -> Result<i128, Reason> {
    let scale = u32::from(scale);
    let value = match short(text, scale) {
        Some(value) => value,
        None => Digits::parse(trim(text))?.scaled(scale, false)?,
    };
    if value.unsigned_abs() < power_of_ten(u32::from(precision)).unsigned_abs() {
        Ok(value)
    } else {
        Err(OUT_OF_RANGE)
    }
}

/// The common case: up to 18 digits and no more of them after the point than the scale has.
#[inline(always)]
fn short(text: &[u8], scale: u32) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.len() > 18 || scale > 18 {
        return None;
    }
    let mut value = 0i64;
    let mut places = None;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value * 10 + i64::from(digit);
            places = places.map(|n| n + 1);
        } else if *byte == b'.' && places.is_none() {
            places = Some(0);
        } else {
            return None;
        }
    }
    let written = places.unwrap_or(0);
    if written > scale || digits.len() <= usize::from(places.is_some()) {
        return None;
    }
    let value = i128::from(value) * i128::from(10i64.pow(scale - written));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_round_half_away_from_zero_and_know_their_precision() {
        for (text, p, s, expected) in [
            ("1.23", 5, 2, Ok(123)),
            ("-1.235", 5, 2, Ok(-124)),
            ("1.2349999", 5, 2, Ok(123)),
            ("0.005", 3, 2, Ok(1)),
            ("-.5", 3, 0, Ok(-1)),
            ("12e-1", 5, 2, Ok(120)),
            ("1e2", 5, 2, Ok(10000)),
            ("999.99", 5, 2, Ok(99999)),
            ("999.995", 5, 2, Err(OUT_OF_RANGE)),
            ("1000", 5, 2, Err(OUT_OF_RANGE)),
            ("99999999999999999999999999999999999999", 38, 0, Ok(10i128.pow(38) - 1)),
            ("100000000000000000000000000000000000000", 38, 0, Err(OUT_OF_RANGE)),
            ("0.00000000000000000000000000000000000001", 38, 38, Ok(1)),
            ("", 5, 2, Err(INVALID_DIGIT)),
            ("1.2.3", 5, 2, Err(INVALID_DIGIT)),
            ("x", 5, 2, Err(INVALID_DIGIT)),
            (".", 5, 2, Err(INVALID_DIGIT)),
            ("-", 5, 2, Err(INVALID_DIGIT)),
        ] {
            assert_eq!(parse_decimal(text.as_bytes(), p, s), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_and_the_long_way_agree(value in any::<i64>(), places in 0u32..12, scale in 0u8..12) {
            let value = value / 1000;
            let text = format!("{}{}.{:0width$}", if value < 0 { "-" } else { "" }, (value / 10i64.pow(places)).abs(),
                (value % 10i64.pow(places)).abs(), width = places as usize);
            let text = if places == 0 { value.to_string() } else { text };
            let long = Digits::parse(text.as_bytes()).unwrap().scaled(u32::from(scale), false).unwrap();
            prop_assert_eq!(parse_decimal(text.as_bytes(), 38, scale), Ok(long));
        }

        #[test]
        fn any_bytes_are_an_answer(text in "[0-9eE+.-]{0,40}") {
            let _ = parse_decimal(text.as_bytes(), 38, 10);
        }
    }
}
