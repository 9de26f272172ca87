//! Numbers and booleans as Go's `strconv` reads them with base 0: `0x1f`, `0o17`, `017`, `0b1`, `1_000`.

use std::fmt;

/// Why a text is no number; shown as Go's `flag` package shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not written as a number.
    Syntax,
    /// A number, but too large or too small for its type.
    Range,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Syntax => "parse error",
            Error::Range => "value out of range",
        })
    }
}

/// An unsigned number of at most `bits` bits.
pub fn parse_uint(text: &str, bits: u32) -> Result<u64, Error> {
    let (base, digits) = split_base(text);
    if digits.is_empty() || !underscores_are_well_placed(text) {
        return Err(Error::Syntax);
    }
    let mut number: u64 = 0;
    let mut fits = true;
    for digit in digits.chars().filter(|digit| *digit != '_') {
        let digit = digit.to_digit(base).ok_or(Error::Syntax)?;
        match number.checked_mul(u64::from(base)).and_then(|n| n.checked_add(u64::from(digit))) {
            Some(next) => number = next,
            None => fits = false,
        }
    }
    if !fits || (bits < 64 && number >> bits != 0) { Err(Error::Range) } else { Ok(number) }
}

/// A signed number of 64 bits.
pub fn parse_int(text: &str) -> Result<i64, Error> {
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(magnitude, 64)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| Error::Range)
}

/// One of the twelve words that Go takes for true and false.
pub fn parse_bool(text: &str) -> Result<bool, Error> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::Syntax),
    }
}

fn split_base(text: &str) -> (u32, &str) {
    let prefix = |letter: u8| {
        let bytes = text.as_bytes();
        bytes.len() >= 3 && bytes[0] == b'0' && bytes[1].eq_ignore_ascii_case(&letter)
    };
    if prefix(b'x') {
        (16, &text[2..])
    } else if prefix(b'o') {
        (8, &text[2..])
    } else if prefix(b'b') {
        (2, &text[2..])
    } else if text.len() > 1 && text.starts_with('0') {
        (8, &text[1..])
    } else {
        (10, text)
    }
}

/// Each underscore stands between two digits, or between the base's prefix and a digit.
fn underscores_are_well_placed(text: &str) -> bool {
    let digits = match split_base(text) {
        (10, digits) => digits,
        // The base's prefix (`0x`, `0`) counts as a digit before the first underscore.
        (_, digits) => return !digits.ends_with('_') && !digits.contains("__"),
    };
    !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_numbers() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("100", Ok(100)),
            ("0x1F", Ok(31)),
            ("0X1f", Ok(31)),
            ("017", Ok(15)),
            ("0o17", Ok(15)),
            ("0b101", Ok(5)),
            ("1_000", Ok(1000)),
            ("0x_1f", Ok(31)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(Error::Range)),
            ("99999999999999999999999", Err(Error::Range)),
            ("", Err(Error::Syntax)),
            ("-1", Err(Error::Syntax)),
            ("+1", Err(Error::Syntax)),
            ("1.5", Err(Error::Syntax)),
            ("0x", Err(Error::Syntax)),
            ("08", Err(Error::Syntax)),
            ("_1", Err(Error::Syntax)),
            ("1_", Err(Error::Syntax)),
            ("1__0", Err(Error::Syntax)),
            ("1 ", Err(Error::Syntax)),
            ("99999999999999999999999x", Err(Error::Syntax)),
        ] {
            assert_eq!(parse_uint(text, 64), expected, "{text:?}");
        }
        assert_eq!(parse_uint("4294967295", 32), Ok(4_294_967_295));
        assert_eq!(parse_uint("4294967296", 32), Err(Error::Range));
    }

    #[test]
    fn signed_numbers() {
        for (text, expected) in [
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("-0x10", Ok(-16)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(Error::Range)),
            ("-9223372036854775809", Err(Error::Range)),
            ("--1", Err(Error::Syntax)),
            ("-", Err(Error::Syntax)),
        ] {
            assert_eq!(parse_int(text), expected, "{text:?}");
        }
    }

    #[test]
    fn booleans() {
        for word in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(word), Ok(true));
        }
        for word in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(word), Ok(false));
        }
        for word in ["", "yes", "tRUE", "on", "2"] {
            assert_eq!(parse_bool(word), Err(Error::Syntax));
        }
    }
}
