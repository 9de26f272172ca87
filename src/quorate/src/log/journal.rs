//! Lines to systemd's journal, by its own protocol: one datagram for each, with what the journal sorts and searches by.
//!
//! An entry is what etcd's is: the whole line as its message, the level as its priority, the first part of the caller as its
//! `PACKAGE`. What cannot be sent, such as a line longer than a datagram may be, goes to standard error.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal as an output.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: String,
}

impl Journal {
    /// The journal that listens at `path`, if one does. The program is called `identifier` there.
    pub fn open(path: &Path, identifier: &str) -> io::Result<Journal> {
        // Only to see that somebody listens: who stays connected loses a journal that is restarted.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Journal { socket: UnixDatagram::unbound()?, path: path.to_owned(), identifier: identifier.to_owned() })
    }

    fn entry(&self, line: &str) -> Vec<u8> {
        let (level, caller) = level_and_caller(line);
        let mut entry = Vec::with_capacity(line.len() + 128);
        append(&mut entry, "MESSAGE", line);
        append(&mut entry, "PRIORITY", priority(level));
        append(&mut entry, "PACKAGE", caller.split_once('/').map_or(".", |(package, _)| package));
        append(&mut entry, "SYSLOG_IDENTIFIER", &self.identifier);
        entry
    }
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        match self.socket.send_to(&self.entry(text.trim_end_matches('\n')), &self.path) {
            Ok(_) => Ok(line.len()),
            Err(_) => io::stderr().write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds a field. A value of several lines is told by its length.
fn append(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// What a line says of itself, in either form.
fn level_and_caller(line: &str) -> (&str, &str) {
    let quoted = |key: &str| line.split_once(key)?.1.split('"').next();
    if line.starts_with('{') {
        return (quoted("\"level\":\"").unwrap_or_default(), quoted("\"caller\":\"").unwrap_or_default());
    }
    let mut parts = line.split('\t').skip(1);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The system's number for a level.
fn priority(level: &str) -> &'static str {
    match level {
        "debug" => "7",
        "info" => "6",
        "warn" => "4",
        "error" => "3",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let journal = Journal::open(&path, "quorate").unwrap();
        (dir, listener, journal)
    }

    fn received(listener: &UnixDatagram) -> String {
        let mut bytes = vec![0; 1 << 16];
        let len = listener.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_an_entry_with_its_priority() {
        let (_dir, listener, mut journal) = journal();
        let json = |level: &str| {
            format!(
                r#"{{"level":"{level}","ts":"2026-11-21T00:18:00.505000Z","caller":"quorate/run.rs:80","msg":"a \"caller\":\"b\""}}"#
            )
        };
        for (level, priority) in [("debug", 7), ("info", 6), ("warn", 4), ("error", 3), ("panic", 2), ("fatal", 2)] {
            let line = json(level);
            journal.write_all(format!("{line}\n").as_bytes()).unwrap();
            let expected = format!("MESSAGE={line}\nPRIORITY={priority}\nPACKAGE=quorate\nSYSLOG_IDENTIFIER=quorate\n");
            assert_eq!(received(&listener), expected);
        }
        journal.write_all(b"2026-11-21T00:18:00.505000Z\twarn\tmain.rs:7\thello\t{\"a\": 1}\n").unwrap();
        let entry = received(&listener);
        assert!(entry.contains("\nPRIORITY=4\nPACKAGE=.\n"), "{entry}");
    }

    #[test]
    fn several_lines_are_told_by_their_length() {
        let mut entry = Vec::new();
        append(&mut entry, "MESSAGE", "a\nb");
        assert_eq!(entry, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn a_journal_that_is_restarted_gets_the_next_line() {
        let (dir, listener, mut journal) = journal();
        drop(listener);
        let path = dir.path().join("socket");
        std::fs::remove_file(&path).unwrap();
        journal.write_all(b"{\"level\":\"info\",\"msg\":\"to standard error\"}\n").unwrap();
        let listener = UnixDatagram::bind(&path).unwrap();
        journal.write_all(b"{\"level\":\"info\",\"msg\":\"again\"}\n").unwrap();
        assert!(received(&listener).starts_with("MESSAGE={\"level\":\"info\",\"msg\":\"again\"}\n"));
    }

    #[test]
    fn without_a_journal_there_is_nothing_to_open() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Journal::open(&dir.path().join("none"), "quorate").err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
