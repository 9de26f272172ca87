//! What lies in the data directory before a member is started on it.
//!
//! The member itself locks the directory and opens what is in it. Here is what must be known first, and without touching
//! anything: whether the directory belongs to etcd. Such a directory is refused, by name and with the next step; nothing is
//! created in it, not even a lock.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// bbolt's mark in its first two pages, little-endian, behind the page header.
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
const BBOLT_PAGE_HEADER_BYTES: u64 = 16;
/// Pages are as large as the system's were when the file was made. The second page has a copy of the first.
const BBOLT_PAGE_SIZES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// What a member makes in the data directory, and etcd does not.
const LOCK_FILE: &str = "quorate.lock";
const DATABASE_FILE: &str = "quorate.redb";

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No member.
    Empty,
    /// A member of ours.
    Member,
}

impl Found {
    /// As etcd's start line names it.
    pub fn name(self) -> &'static str {
        match self {
            Found::Empty => "empty",
            Found::Member => "member",
        }
    }
}

/// A directory that no member may be started on.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong, and what to do.
    pub why: String,
}

/// Looks, and warns about what does not belong there.
pub fn inspect(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Found, Refused> {
    let names = list(data_dir)?;
    warn_if_others_may_read(data_dir);
    let (mut has_member, mut has_proxy, mut is_ours) = (false, false, false);
    for name in names {
        match name.as_str() {
            "member" => has_member = true,
            "proxy" => has_proxy = true,
            LOCK_FILE => is_ours = true,
            _ => tracing::warn!(
                filename = name,
                data_dir = %data_dir.display(),
                "found invalid file under data directory"
            ),
        }
    }
    if has_proxy && has_member {
        return Err(Refused { why: "invalid datadir; both member and proxy directories exist".into() });
    }
    if has_proxy {
        return Err(Refused {
            why:
                "v2 http proxy has already been deprecated in 3.6: this data directory was a proxy's; start on another \
                  --data-dir"
                    .into(),
        });
    }
    let snap = data_dir.join("member/snap");
    is_ours |= snap.join(DATABASE_FILE).exists();
    if let Some(sign) = sign_of_etcd(&snap, wal_dir.unwrap_or(&data_dir.join("member/wal")), is_ours)? {
        return Err(Refused {
            why: format!(
                "{}: this data directory belongs to etcd and was left untouched. Start on an empty --data-dir, and copy \
                 the keys from the running etcd with `etcdctl make-mirror`",
                sign.display()
            ),
        });
    }
    Ok(if has_member { Found::Member } else { Found::Empty })
}

/// The file that shows that etcd wrote here.
fn sign_of_etcd(snap: &Path, wal: &Path, is_ours: bool) -> Result<Option<PathBuf>, Refused> {
    let database = snap.join("db");
    if database.exists() && is_bbolt(&database).map_err(|error| cannot_read(&database, &error))? {
        return Ok(Some(database));
    }
    if is_ours {
        return Ok(None);
    }
    // Logs have one format in both; a log, or a snapshot, that nobody of us was beside is etcd's.
    let file_of = |dir: &Path, ends: &[&str]| -> Result<Option<PathBuf>, Refused> {
        let names = list(dir)?;
        Ok(names.iter().find(|name| ends.iter().any(|end| name.ends_with(end))).map(|name| dir.join(name)))
    };
    match file_of(snap, &[".snap", ".snap.db"])? {
        None => file_of(wal, &[".wal"]),
        found => Ok(found),
    }
}

/// True for a bbolt file, also if one of its two first pages is damaged, and for one too short to tell.
fn is_bbolt(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let len_bytes = file.metadata()?.len();
    if len_bytes < BBOLT_PAGE_HEADER_BYTES + 4 {
        return Ok(true);
    }
    for page in [0].into_iter().chain(BBOLT_PAGE_SIZES) {
        let at = page + BBOLT_PAGE_HEADER_BYTES;
        if at + 4 > len_bytes {
            break;
        }
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut magic)?;
        if magic == BBOLT_MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Names in a directory, sorted; none if there is no such directory.
fn list(dir: &Path) -> Result<Vec<String>, Refused> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| cannot_read(dir, &error)),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Refused {
    Refused { why: format!("failed to list data directory: {}: {error}", path.display()) }
}

fn warn_if_others_may_read(dir: &Path) {
    let Ok(found) = fs::metadata(dir) else { return };
    let mode = found.permissions().mode() & 0o777;
    if found.is_dir() && mode != 0o700 {
        let error = format!(
            "directory {dir:?} exist, but the permission is \"d{}\". The recommended permission is \"-{}\" to prevent \
             possible unprivileged access to the data",
            letters(mode),
            letters(0o700)
        );
        tracing::warn!(error, "check file permission");
    }
}

/// `rwxr-x---`.
fn letters(mode: u32) -> String {
    (0..9).rev().map(|bit| if mode >> bit & 1 == 1 { ['x', 'w', 'r'][bit as usize % 3] } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &[u8])]) -> Result<Found, Refused> {
        let dir = dir_with(files);
        let before = walk(dir.path());
        let found = inspect(dir.path(), None);
        assert_eq!(walk(dir.path()), before, "looking changed something");
        found
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                paths.extend(walk(&path));
            }
            paths.push(path);
        }
        paths.sort();
        paths
    }

    fn bbolt(magic_at: usize) -> Vec<u8> {
        let mut file = vec![0; 32768];
        file[magic_at..magic_at + 4].copy_from_slice(&[0xED, 0xDA, 0x0C, 0xED]);
        file
    }

    #[test]
    fn empty_missing_and_our_own() {
        assert_eq!(found(&[]), Ok(Found::Empty));
        assert_eq!(inspect(Path::new("/nonexistent/data"), None), Ok(Found::Empty));
        assert_eq!(found(&[("stray", b"x")]), Ok(Found::Empty));
        assert_eq!(
            found(&[("quorate.lock", b""), ("member/snap/quorate.redb", b"x"), ("member/wal/0-0.wal", b"x")]),
            Ok(Found::Member)
        );
    }

    #[test]
    fn etcds_is_refused_by_name() {
        let refused = |files: &[(&str, &[u8])], name: &str| {
            let why = found(files).unwrap_err().why;
            assert!(why.contains(name) && why.contains("belongs to etcd") && why.contains("make-mirror"), "{why}");
        };
        refused(&[("member/snap/db", &bbolt(16))], "member/snap/db");
        refused(&[("member/snap/db", &bbolt(4096 + 16))], "member/snap/db");
        refused(&[("member/snap/db", &bbolt(16384 + 16))], "member/snap/db");
        refused(&[("member/snap/db", b"short")], "member/snap/db");
        refused(&[("quorate.lock", b""), ("member/snap/db", &bbolt(16))], "member/snap/db");
        refused(&[("member/snap/0000000000000002-0000000000000005.snap", b"x")], ".snap");
        refused(&[("member/wal/0000000000000000-0000000000000000.wal", b"x")], ".wal");
    }

    #[test]
    fn a_log_directory_elsewhere_is_looked_at() {
        let wal = dir_with(&[("0000000000000000-0000000000000000.wal", b"x")]);
        let data = dir_with(&[]);
        assert!(inspect(data.path(), Some(wal.path())).unwrap_err().why.contains(".wal"));
    }

    #[test]
    fn proxies_are_refused() {
        assert!(
            found(&[("proxy/cluster", b"{}")])
                .unwrap_err()
                .why
                .starts_with("v2 http proxy has already been deprecated")
        );
        assert_eq!(
            found(&[("proxy/cluster", b"{}"), ("member/x", b"")]).unwrap_err().why,
            "invalid datadir; both member and proxy directories exist"
        );
    }

    #[test]
    fn modes_in_letters() {
        assert_eq!((letters(0o700).as_str(), letters(0o754).as_str()), ("rwx------", "rwxr-xr--"));
    }
}
