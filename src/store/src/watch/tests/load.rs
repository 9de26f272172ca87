//! Ten thousand watchers on one hub: all are told everything in order, and what waits for readers stays small.

use bytes::Bytes;
use quorate_proto::etcdserverpb::PutRequest;

use super::small_steps;
use crate::StoreOptions;
use crate::testing::{Bench, entry};
use crate::watch::{Answer, NewWatch, StreamId, WatchHub, WatchLimits};

const STREAMS: usize = 100;
const WATCHERS_PER_STREAM: usize = 100;
const EVENTS: i64 = 50;
const VALUE_BYTES: usize = 1000;

fn put(bench: &mut Bench, number: i64) {
    let put = PutRequest {
        key: Bytes::from(format!("k/{number}")),
        value: vec![b'x'; VALUE_BYTES].into(),
        ..Default::default()
    };
    bench.apply(entry(|request| request.put = Some(put)));
}

fn watch_everything(hub: &mut WatchHub, bench: &Bench) -> Vec<StreamId> {
    let streams: Vec<_> = (0..STREAMS).map(|_| hub.open()).collect();
    for stream in &streams {
        for _ in 0..WATCHERS_PER_STREAM {
            let new = NewWatch { key: "k/".into(), range_end: "k0".into(), start_revision: 2, ..NewWatch::default() };
            hub.create(&bench.store.reader(), *stream, new).unwrap();
        }
    }
    streams
}

/// Reads a stream; `next` is the revision that each of its watchers needs next.
fn read(hub: &mut WatchHub, stream: StreamId, next: &mut [i64]) {
    let mut taken = Vec::new();
    loop {
        hub.take(stream, 256, usize::MAX, &mut taken);
        if taken.is_empty() {
            return;
        }
        for answer in taken.drain(..) {
            let Answer::Events { watch_id, events, .. } = answer else { continue };
            for event in events.iter() {
                assert_eq!(event.revision(), next[watch_id as usize]);
                next[watch_id as usize] += 1;
            }
        }
    }
}

#[test]
fn ten_thousand_watchers_are_told_everything() {
    let mut bench = Bench::new(StoreOptions::default());
    let mut hub = WatchHub::new(small_steps());
    let streams = watch_everything(&mut hub, &bench);
    assert_eq!(hub.counts().watchers, 10_000);
    let mut next = vec![vec![2; WATCHERS_PER_STREAM]; STREAMS];
    for number in 0..EVENTS {
        put(&mut bench, number);
        let reader = bench.store.reader();
        while hub.step(&reader).unwrap() {}
        // All but the first stream read at once.
        for (place, stream) in streams.iter().enumerate().skip(1) {
            read(&mut hub, *stream, &mut next[place]);
        }
        // One event each, shared, for the one who does not read.
        assert!(hub.held_bytes() <= (number as usize + 1) * (VALUE_BYTES + 200), "{} bytes", hub.held_bytes());
    }
    assert!(next.iter().skip(1).flatten().all(|next| *next == EVENTS + 2));
    let reader = bench.store.reader();
    while next[0].iter().any(|next| *next < EVENTS + 2) {
        read(&mut hub, streams[0], &mut next[0]);
        while hub.step(&reader).unwrap() {}
    }
    assert_eq!((hub.counts().slow, hub.held_bytes()), (0, 0));
}

#[test]
fn who_never_reads_holds_no_more_than_its_share() {
    let mut bench = Bench::new(StoreOptions::default());
    let limits = WatchLimits { stream_bytes_max: 20_000, held_bytes_max: 50_000, ..small_steps() };
    let mut hub = WatchHub::new(limits);
    let silent = hub.open();
    let reading = hub.open();
    for stream in [silent, reading] {
        let new = NewWatch { key: "k/".into(), range_end: "k0".into(), ..NewWatch::default() };
        hub.create(&bench.store.reader(), stream, new).unwrap();
    }
    let mut next = [2];
    for number in 0..500 {
        put(&mut bench, number);
        let reader = bench.store.reader();
        while hub.step(&reader).unwrap() {}
        read(&mut hub, reading, &mut next);
        assert_eq!(next[0], number + 3, "the other one is told at once");
        assert!(hub.held_bytes() < 25_000, "{} bytes", hub.held_bytes());
    }
    assert_eq!(hub.counts().slow, 1);
    let mut next = [2];
    let reader = bench.store.reader();
    while next[0] < 502 {
        read(&mut hub, silent, &mut next);
        while hub.step(&reader).unwrap() {}
    }
    assert_eq!(hub.counts().slow, 0);
}
