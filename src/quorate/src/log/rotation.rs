//! A log file that is put aside when it is full (`--enable-log-rotation`).
//!
//! The names are those that operators' scripts know from etcd (lumberjack's): `etcd.log` is written to, `etcd-2026-11-23T01-02-03.456.log`
//! was put aside then, and ends in `.gz` once it is compressed. What is to be removed is told from these names, never from the
//! files' own times. Files that are named otherwise are nobody's business here.
//!
//! Removing and compressing is the work of a thread of its own: a hundred megabytes take seconds, and lines must not wait for them.
//! What it leaves unfinished when the process ends is found by the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use serde::Deserialize;

const MEGABYTE: u64 = 1024 * 1024;

/// A file's mode if there was none before it.
const MODE: u32 = 0o600;

/// How the time stands in a name; [`READ_FORM`] reads it.
const WRITE_FORM: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const READ_FORM: &str = "%Y-%m-%dT%H-%M-%S%.f";

/// What is added to the name of a compressed file.
const COMPRESSED: &str = ".gz";

/// When to put a file aside, and what to keep: `--log-rotation-config-json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RotationConfig {
    /// A file is put aside when a line would make it larger than so many megabytes; 0: than a hundred.
    maxsize: u32,
    /// Files older than so many days are removed; 0: none.
    maxage: u32,
    /// So many files that were put aside are kept; 0: all.
    maxbackups: u32,
    /// Times in names are local ones, not UTC.
    localtime: bool,
    /// Files that were put aside are compressed.
    compress: bool,
}

impl RotationConfig {
    /// Of the flag's value.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => format!("invalid log rotation config: {error}"),
            _ => format!("improperly formatted log rotation config: {error}"),
        })
    }

    fn max_bytes(&self) -> u64 {
        u64::from(if self.maxsize == 0 { 100 } else { self.maxsize }) * MEGABYTE
    }

    fn now(&self) -> DateTime {
        let zone = if self.localtime { TimeZone::system() } else { TimeZone::UTC };
        Zoned::now().with_time_zone(zone).datetime()
    }
}

/// The file that is written to.
pub struct RotatingFile {
    names: Names,
    config: RotationConfig,
    max_bytes: u64,
    file: File,
    bytes: u64,
    /// Asks for files to be removed and compressed.
    cleaner: mpsc::Sender<()>,
}

impl RotatingFile {
    /// Goes on with the file at `path`, or begins it.
    pub fn open(path: &Path, config: RotationConfig) -> io::Result<Self> {
        let names = Names::of(path);
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let bytes = file.metadata()?.len();
        let (cleaner, wanted) = mpsc::channel();
        let (its_names, its_config) = (names.clone(), config.clone());
        thread::Builder::new().name("log-files".to_owned()).spawn(move || {
            while wanted.recv().is_ok() {
                if let Err(error) = its_names.clean(&its_config, its_config.now()) {
                    tracing::warn!(%error, "failed to remove or compress log files that were put aside");
                }
            }
        })?;
        let max_bytes = config.max_bytes();
        let rotating = Self { names, config, max_bytes, file, bytes, cleaner };
        rotating.want_cleaning();
        Ok(rotating)
    }

    fn want_cleaning(&self) {
        // The thread ends only when this is dropped.
        let _ = self.cleaner.send(());
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode();
        match fs::rename(&self.names.path, self.names.free_aside(self.config.now())) {
            // Somebody took it away, or it could be put aside before and not begun anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = OpenOptions::new().append(true).create(true).mode(mode).open(&self.names.path)?;
        self.bytes = 0;
        self.want_cleaning();
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            // A file that is too long is better than a line that is lost.
            let _ = self.rotate();
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The names of a log's files.
#[derive(Clone)]
struct Names {
    path: PathBuf,
    /// What comes before and after the time.
    prefix: String,
    suffix: String,
}

/// A file that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Aside {
    at: DateTime,
    name: String,
}

impl Aside {
    fn is_compressed(&self) -> bool {
        self.name.ends_with(COMPRESSED)
    }

    /// Its name before it was compressed.
    fn plain_name(&self) -> &str {
        self.name.strip_suffix(COMPRESSED).unwrap_or(&self.name)
    }
}

impl Names {
    fn of(path: &Path) -> Self {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let suffix = path.extension().map_or_else(String::new, |extension| format!(".{}", part(Some(extension))));
        Self { path: path.to_owned(), prefix: format!("{}-", part(path.file_stem())), suffix }
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Where a file goes that is put aside at `at`, or a moment later if that name is taken.
    fn free_aside(&self, at: DateTime) -> PathBuf {
        let named = |milliseconds| {
            let at = at.saturating_add(Span::new().milliseconds(milliseconds));
            self.folder().join(format!("{}{}{}", self.prefix, at.strftime(WRITE_FORM), self.suffix))
        };
        let taken = |path: &PathBuf| path.exists() || Path::new(&format!("{}{COMPRESSED}", path.display())).exists();
        (0..).map(named).find(|path| !taken(path)).expect("some name is free")
    }

    /// What was put aside, the newest first.
    fn asides(&self) -> io::Result<Vec<Aside>> {
        let mut asides = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let plain = name.strip_suffix(COMPRESSED).unwrap_or(&name);
            let time = plain.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix(&self.suffix));
            if let Some(Ok(at)) = time.map(|time| DateTime::strptime(READ_FORM, time)) {
                asides.push(Aside { at, name });
            }
        }
        asides.sort_by(|left, right| (right.at, &right.name).cmp(&(left.at, &left.name)));
        Ok(asides)
    }

    /// Removes what is not to be kept, and compresses the rest if that is wanted.
    fn clean(&self, config: &RotationConfig, now: DateTime) -> io::Result<()> {
        let oldest = now.saturating_sub(Span::new().days(i64::from(config.maxage)));
        let mut kept = Vec::<String>::new();
        for aside in self.asides()? {
            // A file and what it is being compressed into count as one.
            if kept.last().is_none_or(|last| last != aside.plain_name()) {
                kept.push(aside.plain_name().to_owned());
            }
            let is_one_too_many = config.maxbackups > 0 && kept.len() > config.maxbackups as usize;
            let is_too_old = config.maxage > 0 && aside.at < oldest;
            let path = self.folder().join(&aside.name);
            if is_one_too_many || is_too_old {
                fs::remove_file(path)?;
            } else if config.compress && !aside.is_compressed() {
                compress(&path)?;
            }
        }
        Ok(())
    }
}

/// Makes `path` a compressed file beside it. One that was begun before is written anew.
fn compress(path: &Path) -> io::Result<()> {
    let mut plain = File::open(path)?;
    let into = format!("{}{COMPRESSED}", path.display());
    let mode = plain.metadata()?.permissions().mode();
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&into)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    let written = io::copy(&mut plain, &mut encoder).and_then(|_| encoder.finish()).and_then(|file| file.sync_all());
    if let Err(error) = written {
        // The plain file is still there.
        let _ = fs::remove_file(&into);
        return Err(error);
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use flate2::read::GzDecoder;

    use super::*;

    fn config(json: &str) -> RotationConfig {
        RotationConfig::parse(json).unwrap()
    }

    fn listed(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn at(hour: i8) -> DateTime {
        jiff::civil::date(2026, 11, 23).at(hour, 2, 3, 456_000_000)
    }

    #[test]
    fn a_full_file_is_put_aside_and_no_line_is_lost_or_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.log");
        fs::write(&path, "from before\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut file = RotatingFile::open(&path, RotationConfig::default()).unwrap();
        file.max_bytes = 100;
        let lines: Vec<String> = (0..30).map(|number| format!("line number {number:04}\n")).collect();
        for line in &lines {
            file.write_all(line.as_bytes()).unwrap();
        }
        let names = listed(folder.path());
        assert_eq!(names.len(), 6, "{names:?}: each takes five lines");
        assert_eq!(names.last().unwrap(), "etcd.log");
        let mut whole = String::new();
        for name in &names {
            let file = folder.path().join(name);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
            let text = fs::read_to_string(file).unwrap();
            assert!(text.len() <= 100 && text.ends_with('\n'), "{name}: {text:?}");
            whole += &text;
        }
        assert_eq!(whole, format!("from before\n{}", lines.concat()));
    }

    #[test]
    fn who_took_the_file_away_gets_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = RotatingFile::open(&path, RotationConfig::default()).unwrap();
        file.max_bytes = 10;
        file.write_all(b"123456789\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(b"next\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next\n");
        assert_eq!(listed(folder.path()), ["log"]);
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = RotatingFile::open(&path, RotationConfig::default()).unwrap();
        file.max_bytes = 10;
        file.write_all(&[b'x'; 50]).unwrap();
        file.write_all(b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(listed(folder.path()).len(), 2);
    }

    #[test]
    fn too_many_and_too_old_ones_go_and_others_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::of(&folder.path().join("etcd.log"));
        let aside = |hour: i8| names.free_aside(at(hour));
        for hour in [1, 5, 3, 7] {
            fs::write(aside(hour), "").unwrap();
        }
        fs::write(folder.path().join("etcd-2026-11-23T07-02-03.456.log.gz"), "half").unwrap();
        for other in
            ["etcd.log", "etcd-yesterday.log", "etcd2-2026-11-23T01-02-03.456.log", "etcd-2026-11-23T01-02-03.456.txt"]
        {
            fs::write(folder.path().join(other), "").unwrap();
        }
        names.clean(&config(r#"{"maxbackups": 3}"#), at(8)).unwrap();
        let left = listed(folder.path());
        assert_eq!(left.len(), 8, "{left:?}: a file and its compressed form are one");
        assert!(!left.contains(&"etcd-2026-11-23T01-02-03.456.log".to_owned()));
        names.clean(&config(r#"{"maxage": 1}"#), at(4).saturating_add(Span::new().days(1))).unwrap();
        assert_eq!(
            listed(folder.path()),
            [
                "etcd-2026-11-23T01-02-03.456.txt",
                "etcd-2026-11-23T05-02-03.456.log",
                "etcd-2026-11-23T07-02-03.456.log",
                "etcd-2026-11-23T07-02-03.456.log.gz",
                "etcd-yesterday.log",
                "etcd.log",
                "etcd2-2026-11-23T01-02-03.456.log",
            ]
        );
    }

    #[test]
    fn what_is_compressed_can_be_read_again_and_is_not_compressed_twice() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::of(&folder.path().join("log"));
        fs::write(names.free_aside(at(1)), "the lines").unwrap();
        for _ in 0..2 {
            names.clean(&config(r#"{"compress": true}"#), at(2)).unwrap();
            assert_eq!(listed(folder.path()), ["log-2026-11-23T01-02-03.456.gz"]);
        }
        let mut text = String::new();
        let file = File::open(folder.path().join("log-2026-11-23T01-02-03.456.gz")).unwrap();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "the lines");
        assert!(names.free_aside(at(1)).ends_with("log-2026-11-23T01-02-03.457"), "the name is taken");
    }

    #[test]
    fn the_thread_does_it_after_each_rotation_and_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.log");
        for hour in 1..4 {
            fs::write(Names::of(&path).free_aside(at(hour)), "").unwrap();
        }
        let mut file = RotatingFile::open(&path, config(r#"{"maxbackups": 1, "compress": true}"#)).unwrap();
        file.max_bytes = 10;
        file.write_all(b"123456789\n").unwrap();
        file.write_all(b"next\n").unwrap();
        for _ in 0..500 {
            let names = listed(folder.path());
            if names.len() == 2 && names[0].ends_with(".log.gz") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("after five seconds: {:?}", listed(folder.path()));
    }

    #[test]
    fn the_flag_is_read_as_etcd_reads_it() {
        assert_eq!(config("{}").max_bytes(), 100 * MEGABYTE);
        let all = r#"{"maxsize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true}"#;
        let expected = RotationConfig { maxsize: 1, maxage: 2, maxbackups: 3, localtime: true, compress: true };
        assert_eq!(config(all), expected);
        let error = |json| RotationConfig::parse(json).unwrap_err();
        assert!(error("{").starts_with("improperly formatted log rotation config: "));
        assert!(error(r#"{"maxsize": "1"}"#).starts_with("invalid log rotation config: "));
        assert!(error(r#"{"maxsize": -1}"#).starts_with("invalid log rotation config: "));
    }
}
