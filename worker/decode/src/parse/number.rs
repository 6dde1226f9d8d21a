//! Integers and floating-point numbers from text.
//!
//! Integers accept a sign, and the forms that floating point has (`1.5`, `2e3`): the fraction is rounded
//! half away from zero, or cut under `numeric_cast_option = 'truncate'`. Floats are correctly rounded.

use super::decimal::Digits;
use super::{INVALID_DIGIT, OUT_OF_RANGE, Reason, trim};

/// An integer type that text can become.
pub trait Integer: Copy + Sized {
    /// The value, if the type holds it.
    fn from_i64(value: i64) -> Option<Self>;
    /// The value, if the type holds it.
    fn from_i128(value: i128) -> Option<Self>;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Integer for $ty {
            #[inline(always)]
            fn from_i64(value: i64) -> Option<Self> { Self::try_from(value).ok() }
            #[inline(always)]
            fn from_i128(value: i128) -> Option<Self> { Self::try_from(value).ok() }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

/// The value of eight ASCII digits, first digit in the lowest byte; `None` where one is no digit.
#[inline(always)]
pub(crate) fn eight_digits(text: &[u8; 8]) -> Option<u64> {
    let word = u64::from_le_bytes(*text);
    let digits = word ^ 0x3030_3030_3030_3030;
    // Bytes above 9 overflow into their high bit when 0x76 is added; bytes with the high bit show it.
    if (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff)
}

/// The value of 1 to 18 digits; `None` for anything else.
#[inline(always)]
fn short_digits(mut text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    let mut value = 0u64;
    while let Some((head, rest)) = text.split_first_chunk::<8>() {
        value = value * 100_000_000 + eight_digits(head)?;
        text = rest;
    }
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value)
}

/// Reads an integer.
///
/// # Errors
/// `invalid digit` or `out of range`.
#[inline]
pub fn parse_integer<T: Integer>(text: &[u8], truncate: bool) -> Result<T, Reason> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if let Some(value) = short_digits(digits) {
        let value = value as i64;
        return T::from_i64(if negative { -value } else { value }).ok_or(OUT_OF_RANGE);
    }
    integer_slowly(text, truncate).and_then(|value| T::from_i128(value).ok_or(OUT_OF_RANGE))
}

#[cold]
fn integer_slowly(text: &[u8], truncate: bool) -> Result<i128, Reason> {
    Digits::parse(trim(text))?.scaled(0, truncate)
}

/// A floating-point type that text can become.
pub trait Float: fast_float2::FastFloat {
    /// Mantissas up to this are exact.
    const MANTISSA: u64;
    /// Powers of ten up to this are exact.
    const POWERS: usize;
    /// An exact mantissa over an exact power of ten, which one division rounds correctly.
    fn exact(mantissa: u64, power: usize, negative: bool) -> Self;
    /// Whether it is infinite.
    fn infinite(self) -> bool;
    /// Not a number.
    const NOT_A_NUMBER: Self;
}

const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

macro_rules! floats {
    ($($ty:ty, $mantissa:literal, $powers:literal);*) => {$(
        impl Float for $ty {
            const MANTISSA: u64 = 1 << $mantissa;
            const POWERS: usize = $powers;
            const NOT_A_NUMBER: Self = <$ty>::NAN;
            #[inline(always)]
            fn exact(mantissa: u64, power: usize, negative: bool) -> Self {
                let value = mantissa as $ty / POWERS_OF_TEN[power] as $ty;
                if negative { -value } else { value }
            }
            #[inline(always)]
            fn infinite(self) -> bool { self.is_infinite() }
        }
    )*};
}
floats!(f64, 53, 22; f32, 24, 10);

/// Reads a floating-point number. `nan` is the text that stands for NaN; `NaN`, `inf` and `infinity` in
/// any case are read too.
///
/// # Errors
/// `invalid number`, or `out of range` for digits that the type cannot hold.
#[inline]
pub fn parse_float<T: Float>(text: &[u8], nan: &[u8]) -> Result<T, Reason> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut mantissa = 0u64;
    let mut at = 0;
    let mut point = usize::MAX;
    if digits.len() <= 19 {
        while at < digits.len() {
            let digit = digits[at].wrapping_sub(b'0');
            if digit <= 9 {
                mantissa = mantissa.wrapping_mul(10) + u64::from(digit);
            } else if digits[at] == b'.' && point == usize::MAX {
                point = at;
            } else {
                break;
            }
            at += 1;
        }
        let fraction = if point == usize::MAX { 0 } else { at - point - 1 };
        let some_digit = at > usize::from(point != usize::MAX);
        if at == digits.len() && some_digit && mantissa <= T::MANTISSA && fraction <= T::POWERS {
            return Ok(T::exact(mantissa, fraction, negative));
        }
    }
    float_slowly(text, nan)
}

#[cold]
fn float_slowly<T: Float>(text: &[u8], nan: &[u8]) -> Result<T, Reason> {
    if text == nan {
        return Ok(T::NOT_A_NUMBER);
    }
    let text = trim(text);
    let unsigned = match text {
        [b'+', rest @ ..] if !rest.starts_with(b"-") && !rest.starts_with(b"+") => rest,
        _ => text,
    };
    let value: T = fast_float2::parse(unsigned).map_err(|_| "invalid number")?;
    if value.infinite() && unsigned.iter().any(u8::is_ascii_digit) {
        return Err(OUT_OF_RANGE);
    }
    Ok(value)
}

/// Whether the text is a plain integer, and which.
pub(crate) fn plain_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = match short_digits(digits) {
        Some(value) => i128::from(value),
        None if digits.len() == 19 && digits.iter().all(u8::is_ascii_digit) => {
            digits.iter().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'))
        }
        None => return None,
    };
    i64::try_from(if negative { -value } else { value }).ok()
}

/// For callers that need an error text for what is no digit.
pub(crate) fn digits_only(text: &[u8]) -> Result<(), Reason> {
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) { Ok(()) } else { Err(INVALID_DIGIT) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_round_half_away_from_zero_and_know_their_range() {
        let int = |text: &str| parse_integer::<i32>(text.as_bytes(), false);
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("2147483647", i32::MAX),
            ("-2147483648", i32::MIN),
            ("1.4", 1),
            ("1.5", 2),
            ("-1.5", -2),
            ("-0.5", -1),
            ("1e3", 1000),
            ("1.25E1", 13),
            ("12e-1", 1),
            (" 12 ", 12),
            ("000000000000000000000000000012", 12),
            (".5", 1),
            ("5.", 5),
            ("1e-400", 0),
            ("0e999999999999", 0),
        ] {
            assert_eq!(int(text), Ok(value), "{text}");
        }
        for text in
            ["2147483648", "-2147483649", "1e10", "99999999999999999999999999999999999999999", "1e999999999"]
        {
            assert_eq!(int(text), Err(OUT_OF_RANGE), "{text}");
        }
        for text in ["", "-", "+", "b", "1b", "1 2", "--1", "+-1", ".", "1e", "e5", "0x10", "1_000", "1e1.5"]
        {
            assert_eq!(int(text), Err(INVALID_DIGIT), "{text}");
        }
        assert_eq!(parse_integer::<i64>(b"1.9", true), Ok(1));
        assert_eq!(parse_integer::<i64>(b"-1.9", true), Ok(-1));
        assert_eq!(parse_integer::<i64>(b"9223372036854775807", false), Ok(i64::MAX));
        assert_eq!(parse_integer::<i64>(b"-9223372036854775808", false), Ok(i64::MIN));
        assert_eq!(parse_integer::<i64>(b"9223372036854775808", false), Err(OUT_OF_RANGE));
        assert_eq!(parse_integer::<u64>(b"18446744073709551615", false), Ok(u64::MAX));
        assert_eq!(parse_integer::<u8>(b"-1", false), Err(OUT_OF_RANGE));
        assert_eq!(parse_integer::<u8>(b"255.5", false), Err(OUT_OF_RANGE));
    }

    #[test]
    fn floats_take_every_spelling_and_refuse_what_overflows() {
        let float = |text: &str| parse_float::<f64>(text.as_bytes(), b"nix");
        assert_eq!(float("1.5"), Ok(1.5));
        assert_eq!(float("-0.1"), Ok(-0.1));
        assert_eq!(float("+3"), Ok(3.0));
        assert_eq!(float("1e-7"), Ok(1e-7));
        assert_eq!(float(" 2.5 "), Ok(2.5));
        assert_eq!(float("123456789012345678901234567890"), Ok(123456789012345678901234567890.0));
        assert_eq!(float("-inf"), Ok(f64::NEG_INFINITY));
        assert!(float("nix").unwrap().is_nan());
        assert!(float("NaN").unwrap().is_nan());
        assert_eq!(float("1e999"), Err(OUT_OF_RANGE));
        assert_eq!(parse_float::<f32>(b"1e39", b""), Err(OUT_OF_RANGE));
        for text in ["", "-", ".", "1.2.3", "abc", "1,5", "+-1", "--1"] {
            assert!(float(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn floats_agree_with_the_standard_library(value in any::<f64>(), places in 0usize..25) {
            for text in [format!("{value}"), format!("{value:e}"), format!("{:.places$}", value % 1e15)] {
                let ours: f64 = parse_float(text.as_bytes(), b"NaN").unwrap();
                let theirs: f64 = text.parse().unwrap();
                prop_assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{}", text);
                if let Ok(small) = parse_float::<f32>(text.as_bytes(), b"NaN") {
                    let theirs: f32 = text.parse().unwrap();
                    prop_assert!(small == theirs || small.is_nan() && theirs.is_nan(), "{}", text);
                }
            }
        }

        #[test]
        fn integers_agree_with_the_standard_library(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            prop_assert_eq!(parse_integer::<i64>(value.to_string().as_bytes(), false), Ok(value));
            prop_assert_eq!(plain_integer(value.to_string().as_bytes()), Some(value));
            prop_assert_eq!(parse_integer::<i16>(value.to_string().as_bytes(), false).ok(), i16::try_from(value).ok());
        }

        #[test]
        fn any_bytes_are_an_answer(text in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = parse_integer::<i64>(&text, false);
            let _ = parse_float::<f64>(&text, b"NaN");
        }
    }
}
