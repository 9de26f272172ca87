//! How numbers, times and machines are written: short for a reader, and exact, so that what is printed can be read again.

use std::fmt;

use crate::world::cluster::machine_name;
use crate::world::net::MachineId;

/// A machine by its name: `m1`, `c0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub MachineId);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&machine_name(self.0))
    }
}

/// A time in nanoseconds: `1.5s`, `200ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

/// The units of a time, largest first, with their nanoseconds.
const UNITS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("ns", 1),
];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole hours and minutes; below that a decimal fraction of a second, a milli- or a microsecond.
        let whole = UNITS[..2].iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) =
            *whole.or_else(|| UNITS[2..].iter().find(|(_, unit)| self.0 >= *unit)).unwrap_or(&("s", 1_000_000_000));
        write!(f, "{}", self.0 / unit)?;
        if !self.0.is_multiple_of(unit) {
            let width = unit.ilog10() as usize;
            let fraction = format!("{:0width$}", self.0 % unit);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str(name)
    }
}

impl Span {
    /// Reads `1.5s`, `200ms`, `8h0m2.6s`.
    pub fn read(text: &str) -> Option<Self> {
        let (mut total, mut rest) = (0u64, text);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (figure, after) = rest.split_at(digits);
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            let (_, unit) = UNITS.iter().find(|(known, _)| *known == name)?;
            total = total.checked_add(decimal(figure, *unit)?)?;
            rest = after;
        }
        (!text.is_empty()).then_some(Self(total))
    }
}

/// A figure with up to as many decimal places as `unit` has.
fn decimal(figure: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = figure.split_once('.').unwrap_or((figure, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if figure.contains('.') && fraction.is_empty() {
        return None;
    }
    let mut part = 0u64;
    let mut place = unit;
    for digit in fraction.chars() {
        if !place.is_multiple_of(10) {
            return None;
        }
        place /= 10;
        part += u64::from(digit.to_digit(10)?) * place;
    }
    whole.checked_add(part)
}

/// A time that may be negative, in nanoseconds: `+8h`, `-45s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed(pub i64);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.0 < 0 { '-' } else { '+' }, Span(self.0.unsigned_abs()))
    }
}

impl Signed {
    /// Reads it; the sign must be there.
    pub fn read(text: &str) -> Option<Self> {
        let (sign, figure) = text.split_at_checked(1)?;
        let span = i64::try_from(Span::read(figure)?.0).ok()?;
        match sign {
            "+" => Some(Self(span)),
            "-" => Some(Self(-span)),
            _ => None,
        }
    }
}

/// Parts of a million: `5%`, `200ppm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u64);

/// A percent in parts of a million.
const PERCENT: u64 = 10_000;

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(PERCENT) { write!(f, "{}%", self.0 / PERCENT) } else { write!(f, "{}ppm", self.0) }
    }
}

impl Share {
    /// Reads it.
    pub fn read(text: &str) -> Option<Self> {
        if let Some(figure) = text.strip_suffix('%') {
            return figure.parse::<u64>().ok()?.checked_mul(PERCENT).map(Self);
        }
        text.strip_suffix("ppm")?.parse().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_short_and_exact() {
        for (ns, text) in [
            (0, "0s"),
            (1_500_000_000, "1.5s"),
            (200_000_000, "200ms"),
            (28_800_000_000_000, "8h"),
            (120_000_000_000, "2m"),
            (61_000_000_000, "61s"),
            (1_000_000_001, "1.000000001s"),
            (50_500, "50.5us"),
        ] {
            assert_eq!(Span(ns).to_string(), text);
        }
        assert_eq!(Span::read("8h0m2.6s"), Some(Span(28_802_600_000_000)));
        for wrong in ["", "5", "5x", "1.s", "1.2345ns", "s", "-5s", "99999999999h"] {
            assert_eq!(Span::read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: prop::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn what_is_printed_is_read(ns in 0..i64::MAX as u64, share in 0u64..2_000_000) {
            prop_assert_eq!(Span::read(&Span(ns).to_string()), Some(Span(ns)));
            for signed in [Signed(ns as i64), Signed(-(ns as i64))] {
                prop_assert_eq!(Signed::read(&signed.to_string()), Some(signed));
            }
            prop_assert_eq!(Share::read(&Share(share).to_string()), Some(Share(share)));
        }
    }
}
