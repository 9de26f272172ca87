//! `%q` of Go: text in double quotes, with what cannot be seen escaped. etcd's error texts show what they refuse so.

use std::fmt::{self, Write};

/// Shows a text as `%q` does.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\x07' => f.write_str("\\a")?,
                '\x08' => f.write_str("\\b")?,
                '\x0b' => f.write_str("\\v")?,
                '\x0c' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                hidden if hidden < ' ' || hidden == '\x7f' => write!(f, "\\x{:02x}", u32::from(hidden))?,
                hidden if hidden.is_control() => write!(f, "\\u{:04x}", u32::from(hidden))?,
                shown => f.write_char(shown)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn hidden_characters_are_escaped() {
        let quoted = |text| Quoted(text).to_string();
        assert_eq!(quoted("bad"), r#""bad""#);
        assert_eq!(quoted("a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(quoted("\n\t\r\x07\x00\x7f\u{85}"), r#""\n\t\r\a\x00\x7f\u0085""#);
        assert_eq!(quoted("größe 日本"), r#""größe 日本""#);
    }
}
