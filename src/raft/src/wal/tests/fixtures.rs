//! Logs that etcd wrote: the first 768 bytes of what Debian's etcd 3.4.23 left after two puts, and three segments of 2 KiB
//! that the `wal` package of etcd 3.7.3 wrote (60 entries of about 35 bytes, a mark at 25).

use quorate_types::LogIndex;

use super::super::test_disk::TestDisk;
use super::super::{newest_mark, read_all};
use super::*;

const ETCD_3_4: &[(&str, &[u8])] = &[(
    "0000000000000000-0000000000000000.wal",
    include_bytes!("fixtures/etcd-3.4/0000000000000000-0000000000000000.wal"),
)];

fn on_disk(files: &[(&str, &[u8])]) -> TestDisk {
    let disk = TestDisk::default();
    for (name, contents) in files {
        disk.put(&dir().join(name), contents.to_vec());
    }
    disk
}

fn data(entry: &raftpb::Entry) -> &[u8] {
    entry.data.as_deref().unwrap_or_default()
}

#[test]
fn what_etcd_3_4_wrote_is_read_and_continued() {
    let disk = on_disk(ETCD_3_4);
    let (mut wal, recovered) = Wal::open(disk.rt(), dir(), SnapshotMark::START, LogIndex(6), small()).unwrap();
    assert_eq!(recovered.torn, None);
    assert_eq!(recovered.metadata.node_id, Some(9_685_874_076_489_904_787));
    assert_eq!(recovered.metadata.cluster_id, Some(6_964_728_607_212_473_779));
    assert_eq!(recovered.hard_state, hard_state(2, 9_685_874_076_489_904_787, 6));
    assert_eq!(indices(&recovered), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        recovered.entries.iter().map(|entry| entry.r#type()).collect::<Vec<_>>()[0],
        raftpb::EntryType::EntryConfChange
    );
    assert!(data(&recovered.entries[4]).starts_with(b"\x22\x0a\x0a\x03foo\x12\x03bar"));
    assert!(recovered.entries[1].data.is_none(), "an empty entry has no data");

    let before = disk.contents(&dir().join(ETCD_3_4[0].0)).unwrap();
    wal.append(&Batch { hard_state: Some(hard_state(3, 1, 6)), entries: vec![entry(7, 3, "ours")], sync: true })
        .unwrap();
    drop(wal);
    let after = disk.contents(&dir().join(ETCD_3_4[0].0)).unwrap();
    assert!(after.len() > before.len() && after.starts_with(&before));
    assert_eq!(indices(&open(&disk, small()).unwrap().1), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn damage_in_what_etcd_wrote_is_told_by_etcds_test() {
    // No state record says what was durable; but a crash loses whole sectors, and none is missing.
    let disk = on_disk(ETCD_3_4);
    disk.flip_bit(&dir().join(ETCD_3_4[0].0), 0x260, 0);
    let error = open(&disk, small()).err().unwrap().to_string();
    assert!(
        error.contains("offset 584: crc mismatch") && error.contains("no sector of the record is missing"),
        "{error}"
    );

    // The last record without what lies in the second sector: torn.
    let disk = on_disk(ETCD_3_4);
    let path = dir().join(ETCD_3_4[0].0);
    let mut contents = disk.contents(&path).unwrap();
    contents[512..].fill(0);
    disk.put(&path, contents);
    let (_, recovered) = open(&disk, small()).unwrap();
    assert_eq!(indices(&recovered), [1, 2, 3]);
    assert_eq!(recovered.torn.unwrap().offset_bytes, 0x1c8);
}

macro_rules! etcd_3_7 {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("fixtures/etcd-3.7/", $name)))),*]
    };
}

const ETCD_3_7: &[(&str, &[u8])] = etcd_3_7![
    "0000000000000000-0000000000000000.wal",
    "0000000000000001-0000000000000019.wal",
    "0000000000000002-0000000000000030.wal"
];

#[test]
fn segments_that_etcd_3_7_cut_are_read_and_continued() {
    let disk = on_disk(ETCD_3_7);
    assert_eq!(newest_mark(&disk.rt(), dir(), LogIndex(60)).unwrap(), Some(from(25, 2)));
    let listed = read_all(&disk.rt(), dir()).unwrap();
    assert_eq!(
        listed.snapshots,
        [walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None }, {
            let conf_state = raftpb::ConfState {
                voters: vec![7],
                auto_leave: listed.snapshots[1].conf_state.as_ref().unwrap().auto_leave,
                ..Default::default()
            };
            walpb::Snapshot { conf_state: Some(conf_state), ..mark(25, 2) }
        }]
    );
    assert_eq!(listed.hard_state, hard_state(2, 7, 59));
    for (position, entry) in listed.entries.iter().enumerate() {
        let text = format!("entry {} written by etcd's wal package", position + 1);
        assert_eq!((entry.index(), data(entry)), (position as u64 + 1, text.as_bytes()));
    }

    let (mut wal, recovered) = Wal::open(disk.rt(), dir(), from(25, 2), LogIndex(40), small()).unwrap();
    assert_eq!(indices(&recovered), (26..=60).collect::<Vec<_>>());
    for index in 61..=100 {
        append(&mut wal, 2, index..=index);
    }
    assert!(wal.segment_count() > 3);
    drop(wal);
    assert_eq!(indices(&open(&disk, small()).unwrap().1), (1..=100).collect::<Vec<_>>());
}
