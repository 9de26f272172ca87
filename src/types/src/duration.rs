//! Durations as Go's `time` package writes and reads them: `1m30s`, `100ms`, `2h0m0s`.

use std::fmt;

use crate::Quoted;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A signed length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    /// Nanoseconds.
    pub nanos: i64,
}

impl From<std::time::Duration> for GoDuration {
    /// The longest that Go knows, for longer ones.
    fn from(duration: std::time::Duration) -> Self {
        GoDuration { nanos: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
    }
}

impl GoDuration {
    /// So many milliseconds.
    pub fn from_millis(millis: u64) -> Self {
        let nanos = i64::try_from(millis).ok().and_then(|millis| millis.checked_mul(MILLISECOND as i64));
        GoDuration { nanos: nanos.unwrap_or(i64::MAX) }
    }

    /// As the standard library's duration, if it is positive.
    pub fn positive(self) -> Option<std::time::Duration> {
        u64::try_from(self.nanos).ok().filter(|nanos| *nanos > 0).map(std::time::Duration::from_nanos)
    }

    /// Reads `text`.
    ///
    /// # Errors
    /// What Go says to what it does not read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {}", Quoted(text));
        let (negative, mut rest) = match text.as_bytes().first().ok_or_else(invalid)? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration { nanos: 0 });
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (number, unit, after) = split_part(rest).ok_or_else(invalid)?;
            let unit_nanos = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => MICROSECOND,
                "ms" => MILLISECOND,
                "s" => SECOND,
                "m" => MINUTE,
                "h" => HOUR,
                "" => return Err(format!("time: missing unit in duration {}", Quoted(text))),
                _ => return Err(format!("time: unknown unit {} in duration {}", Quoted(unit), Quoted(text))),
            };
            let part = nanos(number, unit_nanos).ok_or_else(invalid)?;
            total = total.checked_add(part).ok_or_else(invalid)?;
            rest = after;
        }
        let signed = if negative { -i128::from(total) } else { i128::from(total) };
        Ok(GoDuration { nanos: i64::try_from(signed).map_err(|_| invalid())? })
    }
}

/// The digits before and after the point of the first number, its unit, and what follows.
fn split_part(text: &str) -> Option<((&str, &str), &str, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    Some(((whole, fraction), unit, after))
}

fn nanos((whole, fraction): (&str, &str), unit_nanos: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole.checked_mul(unit_nanos)?;
    // In floating point and cut off, because that is what Go does with the digits after the point.
    let (mut digits, mut scale) = (0u64, 1.0);
    for digit in fraction.bytes() {
        match digits.checked_mul(10).and_then(|d| d.checked_add(u64::from(digit - b'0'))) {
            Some(more) if more <= 1 << 63 => digits = more,
            _ => break,
        }
        scale *= 10.0;
    }
    nanos.checked_add((digits as f64 * (unit_nanos as f64 / scale)) as u64)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        let nanos = self.nanos.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            1..MICROSECOND => write!(f, "{nanos}ns"),
            MICROSECOND..MILLISECOND => write!(f, "{}µs", Decimal { nanos, unit_nanos: MICROSECOND }),
            MILLISECOND..SECOND => write!(f, "{}ms", Decimal { nanos, unit_nanos: MILLISECOND }),
            _ => {
                let (hours, minutes) = (nanos / HOUR, nanos % HOUR / MINUTE);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if nanos >= MINUTE {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", Decimal { nanos: nanos % MINUTE, unit_nanos: SECOND })
            }
        }
    }
}

/// A count of units with as many decimals as it needs.
struct Decimal {
    nanos: u64,
    unit_nanos: u64,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.nanos / self.unit_nanos, self.nanos % self.unit_nanos);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let places = self.unit_nanos.ilog10() as usize;
        let decimals = format!("{rest:0places$}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_go_shows_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (7_200_000_000_000, "2h0m0s"),
            (-1_500_000_000, "-1.5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration { nanos }.to_string(), text);
        }
    }

    #[test]
    fn read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("5s", 5 * SECOND as i64),
            ("1478s", 1478 * SECOND as i64),
            ("-5s", -5 * SECOND as i64),
            ("+5s", 5 * SECOND as i64),
            ("5.0s", 5 * SECOND as i64),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.004s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("12us", 12_000),
            ("3h30m", 12_600_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration { nanos }), "{text:?}");
        }
        for text in
            ["", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", "1 s", "5", "9223372036854775808ns", "3000000h", "1.2.3s"]
        {
            assert!(GoDuration::parse(text).is_err(), "{text:?}");
        }
        for (text, words) in [
            ("", "time: invalid duration \"\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
        ] {
            assert_eq!(GoDuration::parse(text), Err(words.to_owned()));
        }
    }
}
