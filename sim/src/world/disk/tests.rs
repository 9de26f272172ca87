use super::*;

fn disk(seed: u64) -> Arc<SimDisk> {
    SimDisk::new(1, Dice::new(seed, "disk"), Trace::default())
}

fn create(process: &ProcessDisk, path: &str, contents: &[u8]) -> Box<dyn File> {
    let file = process.open(Path::new(path), OpenMode::CreateNew).unwrap();
    file.write_all_at(contents, 0).unwrap();
    file
}

fn read(process: &ProcessDisk, path: &str) -> io::Result<Vec<u8>> {
    quorate_runtime::disk::read_file(process, Path::new(path))
}

#[test]
fn an_unsynced_name_may_be_lost_and_a_synced_one_never() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..60 {
        let disk = disk(seed);
        let process = disk.begin_process();
        create(&process, "/var/lib/synced", b"a").sync_data().unwrap();
        process.sync_dir(Path::new("/var/lib")).unwrap();
        create(&process, "/var/lib/unsynced", b"b").sync_data().unwrap();
        disk.end_process(Death::PowerFailure, clock::now());
        let process = disk.begin_process();
        assert_eq!(read(&process, "/var/lib/synced").unwrap(), b"a");
        match read(&process, "/var/lib/unsynced") {
            Ok(contents) => {
                assert_eq!(contents, b"b");
                kept += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                lost += 1;
            }
        }
    }
    assert!(kept > 5 && lost > 5, "{kept} kept, {lost} lost");
}

#[test]
fn a_rename_happens_wholly_or_not_at_all_and_a_removal_may_be_undone() {
    let (mut renamed, mut undone) = (0, 0);
    for seed in 0..60 {
        let disk = disk(seed);
        let process = disk.begin_process();
        create(&process, "/var/lib/old", b"1").sync_data().unwrap();
        create(&process, "/var/lib/gone", b"2").sync_data().unwrap();
        process.sync_dir(Path::new("/var/lib")).unwrap();
        process.rename(Path::new("/var/lib/old"), Path::new("/var/lib/new")).unwrap();
        process.remove_file(Path::new("/var/lib/gone")).unwrap();
        disk.end_process(Death::PowerFailure, clock::now());
        let process = disk.begin_process();
        let (old, new) = (read(&process, "/var/lib/old").is_ok(), read(&process, "/var/lib/new").is_ok());
        assert!(old != new);
        renamed += u32::from(new);
        undone += u32::from(read(&process, "/var/lib/gone").is_ok());
    }
    assert!((10..50).contains(&renamed) && undone > 5, "{renamed} {undone}");
}

#[test]
fn a_dead_process_gets_errors_and_its_locks_are_free() {
    let disk = disk(1);
    let process = disk.begin_process();
    let file = create(&process, "/var/lib/file", b"x");
    let held = process.lock_exclusive(Path::new("/var/lib/lock")).unwrap();
    assert_eq!(process.lock_exclusive(Path::new("/var/lib/lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    disk.end_process(Death::Kill, clock::now());
    assert!(file.write_all_at(b"y", 0).is_err() && file.sync_data().is_err() && file.len_bytes().is_err());
    let next = disk.begin_process();
    let _held_now = next.lock_exclusive(Path::new("/var/lib/lock")).unwrap();
    drop(held);
    assert!(next.lock_exclusive(Path::new("/var/lib/lock")).is_err(), "a dead process's drop frees nothing");
    assert_eq!(read(&next, "/var/lib/file").unwrap(), b"x");
}

#[test]
fn a_fuse_reaches_calls_that_take_no_time() {
    let disk = disk(1);
    let process = disk.begin_process();
    disk.light_fuse(2);
    let file = create(&process, "/var/lib/file", b"x");
    assert!(file.sync_data().is_err(), "the third changing call finds no power");
    assert!(disk.is_fuse_blown());
    assert!(file.write_all_at(b"y", 1).is_err());
    disk.end_process(Death::PowerFailure, clock::now());
    let counters = disk.counters();
    assert_eq!(counters.crashes, 1);
}

#[test]
fn injected_errors_are_counted_and_a_full_disk_takes_nothing_more() {
    let disk = disk(1);
    let process = disk.begin_process();
    let file = create(&process, "/var/lib/file", &[1; 100]);
    disk.tune(|knobs| knobs.capacity_bytes = Some(20_000));
    assert_eq!(file.write_all_at(&[2; 30_000], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len_bytes().unwrap(), 100);
    disk.tune(|knobs| knobs.sync_errors_per_million = 1_000_000);
    assert!(file.sync_data().is_err());
    disk.tune(|knobs| knobs.read_errors_per_million = 1_000_000);
    assert!(file.read_exact_at(&mut [0], 0).is_err());
    assert_eq!(disk.counters().errors, 3);
    disk.tune(|knobs| *knobs = DiskKnobs::default());
    disk.rot(Path::new("/var/lib/file"), 5, 3).unwrap();
    assert_eq!(read(&process, "/var/lib/file").unwrap()[5], 1 ^ 8);
}

#[test]
fn a_crash_inside_a_job_is_counted_only_if_bytes_are_really_gone() {
    crate::run::in_world(5, |_| async {
        let (mut with_loss, mut crashes) = (0, 0);
        for seed in 0..50 {
            let disk = disk(seed);
            let process = disk.begin_process();
            let file = create(&process, "/var/lib/file", b"");
            disk.begin_job();
            file.write_all_at(&[seed as u8 + 1; 2000], 0).unwrap();
            file.sync_data().unwrap();
            let takes = disk.end_job();
            assert!(takes > Duration::from_micros(80));
            let finished = seed % 2 == 0;
            clock::sleep(if finished { takes } else { takes / 2 }).await;
            disk.end_process(Death::PowerFailure, clock::now());
            let counters = disk.counters();
            assert!(!finished || counters.bytes_lost == 0, "a finished sync loses nothing");
            with_loss += counters.crashes_with_loss;
            crashes += counters.crashes;
        }
        assert_eq!(crashes, 50);
        assert!((10..=25).contains(&with_loss), "{with_loss}");
    });
}
