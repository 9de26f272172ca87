//! Sizes as etcd's log shows them to people, beside the exact number: `17 kB`, `2.1 MB`.

use std::fmt;

/// A number of bytes, rounded to two digits or to whole units of a thousand times the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let power = self.0.checked_ilog(1000).unwrap_or(0);
        let value = (self.0 as f64 / 1000_f64.powi(power.cast_signed()) * 10.0).round() / 10.0;
        let digits = usize::from(value < 10.0 && self.0 >= 10);
        write!(f, "{value:.digits$} {}", units[power as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_etcd_shows_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (16_384, "16 kB"),
            (20_480, "20 kB"),
            (2_097_152, "2.1 MB"),
            (9_949_999, "9.9 MB"),
            (1 << 31, "2.1 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(HumanBytes(bytes).to_string(), text);
        }
    }
}
