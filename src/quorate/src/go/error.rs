//! Errors of the system in Go's words.

use std::io;

/// The system's text alone, in lower case.
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_in_gos_words() {
        let taken = io::Error::from_raw_os_error(98);
        assert_eq!(text(&taken), "address already in use");
    }
}
