//! The real disk.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use quorate_runtime::Rt;
use quorate_runtime::disk::{OpenMode, read_file, remove_gently, shrink_gently};
use quorate_runtime_tokio::TokioRuntime;

fn with_dir(test: impl FnOnce(&Rt, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    TokioRuntime::run(1, |rt| async move { test(&rt, dir.path()) });
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_read_back_at_its_place() {
    with_dir(|rt, dir| {
        let path = dir.join("file");
        let file = rt.open(&path, OpenMode::CreateNew).unwrap();
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello ", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read_file(&**rt, &path).unwrap(), b"hello world");

        file.set_len(13).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.len_bytes().unwrap(), 13);
        let mut tail = [1; 4];
        file.read_exact_at(&mut tail, 9).unwrap();
        assert_eq!(&tail, b"ld\0\0");
        assert_eq!(file.read_exact_at(&mut tail, 10).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_large_file_is_freed_before_it_goes() {
    with_dir(|rt, dir| {
        let (path, other) = (dir.join("file"), dir.join("other"));
        let file = rt.open(&path, OpenMode::CreateNew).unwrap();
        file.set_len(100 << 20).unwrap();
        // Another file took its name: what is freed is the one that was opened.
        rt.open(&other, OpenMode::CreateNew).unwrap().write_all_at(b"new", 0).unwrap();
        rt.rename(&other, &path).unwrap();
        shrink_gently(&*file).unwrap();
        assert!((1..=16 << 20).contains(&file.len_bytes().unwrap()));
        assert_eq!(read_file(&**rt, &path).unwrap(), b"new");
        remove_gently(&**rt, &path).unwrap();
        assert!(!rt.exists(&path).unwrap());
        assert_eq!(remove_gently(&**rt, &path).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn open_modes_say_what_must_exist() {
    with_dir(|rt, dir| {
        let path = dir.join("file");
        let kind = |mode| rt.open(&path, mode).err().map(|error| error.kind());
        assert_eq!(kind(OpenMode::ReadOnly), Some(ErrorKind::NotFound));
        assert_eq!(kind(OpenMode::ReadWrite), Some(ErrorKind::NotFound));
        assert!(!rt.exists(&path).unwrap());
        assert_eq!(kind(OpenMode::OpenOrCreate), None);
        assert!(rt.exists(&path).unwrap());
        assert_eq!(kind(OpenMode::OpenOrCreate), None);
        assert_eq!(kind(OpenMode::CreateNew), Some(ErrorKind::AlreadyExists));
        let read_only = rt.open(&path, OpenMode::ReadOnly).unwrap();
        assert!(read_only.write_all_at(b"x", 0).is_err());
    });
}

#[test]
fn files_and_directories_are_the_owners_alone() {
    with_dir(|rt, dir| {
        let deep = dir.join("a/b");
        rt.create_dir_all(&deep).unwrap();
        rt.create_dir_all(&deep).unwrap();
        rt.open(&deep.join("file"), OpenMode::CreateNew).unwrap();
        assert_eq!((mode(&dir.join("a")), mode(&deep), mode(&deep.join("file"))), (0o700, 0o700, 0o600));
        assert!(rt.metadata(&deep).unwrap().is_dir);
    });
}

#[test]
fn names_are_listed_in_order_and_follow_renames_and_removals() {
    with_dir(|rt, dir| {
        for name in ["c", "a", "b"] {
            let file = rt.open(&dir.join(name), OpenMode::CreateNew).unwrap();
            file.write_all_at(name.as_bytes(), 0).unwrap();
        }
        assert_eq!(rt.list_dir(dir).unwrap(), ["a", "b", "c"]);
        rt.rename(&dir.join("c"), &dir.join("a")).unwrap();
        rt.remove_file(&dir.join("b")).unwrap();
        rt.sync_dir(dir).unwrap();
        assert_eq!(rt.list_dir(dir).unwrap(), ["a"]);
        assert_eq!(read_file(&**rt, &dir.join("a")).unwrap(), b"c");
        assert!(rt.free_space_bytes(dir).unwrap() > 0);
    });
}

#[test]
fn a_lock_is_held_until_dropped() {
    with_dir(|rt, dir| {
        let path = dir.join("lock");
        let held = rt.lock_exclusive(&path).unwrap();
        assert_eq!(rt.lock_exclusive(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(held);
        rt.lock_exclusive(&path).unwrap();
    });
}

#[test]
fn the_kernels_errors_pass_unchanged() {
    with_dir(|rt, _| {
        let full = rt.open(Path::new("/dev/full"), OpenMode::ReadWrite).unwrap();
        assert_eq!(full.write_all_at(b"x", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    });
}
