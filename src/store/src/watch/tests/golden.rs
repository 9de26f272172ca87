//! Golden scripts: `golden/watch/*`, what clients ask and what each stream is sent, in order.
//!
//! | command | does |
//! |---|---|
//! | `put KEY=VALUE..`, `del KEY [END]`, `multi KEY=VALUE.. KEY..` | entries; `multi` is one transaction of puts and deletes |
//! | `compact REV`, `jobs` | a compaction; what is due on the disk |
//! | `watch S KEY [END] [rev=N id=N] [prev,no_put,no_delete,notify]`, the latter as tags | asks for a watch on stream S, which opens with it |
//! | `cancel S ID`, `progress S`, `tick S`, `close S` | |
//! | `step [N]` | the hub works, N steps or to its end |
//! | `take S [N]` | what stream S is sent, N answers or all, after the hub has worked to its end |
//! | `counts` | what is there |
//!
//! `END` is `\0` for "no end" or any key. `UPDATE_GOLDENFILES=1` rewrites the expectations: read the difference.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use goldenscript::{Command as Line, Context};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use super::small_steps;
use crate::mvcc::encode::Fields;
use crate::testing::{Bench, entry};
use crate::watch::{Answer, Event, NewWatch, StreamId, WatchHub, WatchLimits};
use crate::{Outcome, StoreOptions};

type Printed = Result<String, Box<dyn Error>>;

#[test]
fn watch() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/watch");
    let mut names: Vec<_> =
        directory.read_dir().expect("golden scripts").map(|file| file.expect("a file").path()).collect();
    names.sort();
    assert!(!names.is_empty());
    for path in names {
        // One script is about streams that take little.
        let is_small = path.file_name().is_some_and(|name| name == "slow");
        let stream_answers_max = if is_small { 6 } else { WatchLimits::default().stream_answers_max };
        let limits = WatchLimits { stream_answers_max, answer_revisions_max: 3, ..small_steps() };
        goldenscript::run(&mut Runner::new(limits), &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

struct Runner {
    bench: Bench,
    hub: WatchHub,
    streams: BTreeMap<String, StreamId>,
}

impl Runner {
    fn new(limits: WatchLimits) -> Self {
        Self { bench: Bench::new(StoreOptions::default()), hub: WatchHub::new(limits), streams: BTreeMap::new() }
    }

    fn stream(&mut self, name: &str) -> StreamId {
        *self.streams.entry(name.to_owned()).or_insert_with(|| self.hub.open())
    }

    fn work(&mut self) -> Result<(), Box<dyn Error>> {
        let reader = self.bench.store.reader();
        while self.hub.step(&reader)? {}
        Ok(())
    }
}

fn refusal(outcome: &Outcome) -> String {
    outcome.result.as_ref().err().map_or_else(String::new, |error| format!("{error}\n"))
}

fn bytes(argument: &str) -> Bytes {
    if argument == "\\0" { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(argument.as_bytes()) }
}

fn kv(encoded: &Bytes) -> String {
    let fields = Fields::parse(encoded).expect("a row");
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let Fields { create_revision, mod_revision, version, .. } = fields;
    match version {
        0 => format!("{} mod={mod_revision}", text(fields.key)),
        _ => format!("{}={} {create_revision}/{mod_revision}/{version}", text(fields.key), text(fields.value)),
    }
}

fn event(event: &Event, with_previous: bool) -> String {
    let kind = if event.is_delete() { "del" } else { "put" };
    let previous = if with_previous && !event.prev_kv().is_empty() {
        format!(" was {}", kv(event.prev_kv()))
    } else {
        String::new()
    };
    format!("{kind} {}{previous}", kv(event.kv()))
}

fn show(answer: &Answer) -> String {
    match answer {
        Answer::Created { watch_id, revision } => format!("{watch_id} created rev={revision}\n"),
        Answer::Refused { reason, revision } => format!("refused {reason:?} rev={revision}\n"),
        Answer::Canceled { watch_id, revision } => format!("{watch_id} canceled rev={revision}\n"),
        Answer::Compacted { watch_id, compact_revision } => format!("{watch_id} compacted at={compact_revision}\n"),
        Answer::Progress { watch_id: None, revision } => format!("all progress rev={revision}\n"),
        Answer::Progress { watch_id: Some(id), revision } => format!("{id} progress rev={revision}\n"),
        Answer::Events { watch_id, revision, events, with_previous, .. } => {
            let mut text = format!("{watch_id} rev={revision}");
            for told in events.iter() {
                let _ = write!(text, " [{}]", event(told, *with_previous));
            }
            text + "\n"
        }
    }
}

impl Runner {
    fn line(&mut self, line: &Line, context: &Context) -> Printed {
        let reader = self.bench.store.reader();
        let mut args = line.consume_args();
        let tag = |name: &str| context.tags.contains(name);
        let printed = match line.name.as_str() {
            "put" => {
                while let Some((key, value)) = args.next_key() {
                    let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
                    self.bench.apply(entry(|request| request.put = Some(put)));
                }
                String::new()
            }
            "del" => {
                let key = bytes(args.next_pos().ok_or("a key is missing")?);
                let range_end = args.next_pos().map(bytes).unwrap_or_default();
                let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
                refusal(&self.bench.apply(entry(|request| request.delete_range = Some(delete))))
            }
            "multi" => {
                let mut ops = Vec::new();
                while let Some((key, value)) = args.next_key() {
                    let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
                    ops.push(Request::RequestPut(put));
                }
                while let Some(key) = args.next_pos() {
                    ops.push(Request::RequestDeleteRange(DeleteRangeRequest { key: bytes(key), ..Default::default() }));
                }
                let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
                let txn = TxnRequest { success, ..Default::default() };
                refusal(&self.bench.apply(entry(|request| request.txn = Some(txn))))
            }
            "compact" => {
                let revision = args.next_pos().ok_or("a revision is missing")?.parse()?;
                let compaction = CompactionRequest { revision, physical: false };
                refusal(&self.bench.apply(entry(|request| request.compaction = Some(compaction))))
            }
            "jobs" => {
                self.bench.run_jobs()?;
                String::new()
            }
            "watch" => {
                let stream = self.stream(args.next_pos().ok_or("a stream is missing")?);
                let number = |value: Option<&str>| value.map_or(Ok(0), str::parse::<i64>);
                let new = NewWatch {
                    start_revision: number(args.take_key("rev"))?,
                    watch_id: number(args.take_key("id"))?,
                    key: args.next_pos().map(bytes).unwrap_or_default(),
                    range_end: args.next_pos().map(bytes).unwrap_or_default(),
                    no_put: tag("no_put"),
                    no_delete: tag("no_delete"),
                    with_previous: tag("prev"),
                    progress_notify: tag("notify"),
                    fragment: false,
                };
                self.hub.create(&reader, stream, new)?;
                String::new()
            }
            "cancel" => {
                let stream = self.stream(args.next_pos().ok_or("a stream is missing")?);
                let id = args.next_pos().ok_or("an id is missing")?.parse()?;
                self.hub.cancel(&reader, stream, id);
                String::new()
            }
            name @ ("progress" | "tick" | "close") => {
                let stream_name = args.next_pos().ok_or("a stream is missing")?;
                let stream = self.stream(stream_name);
                match name {
                    "progress" => self.hub.request_progress(&reader, stream)?,
                    "tick" => self.hub.tell_progress(&reader, stream)?,
                    _ => {
                        self.hub.close(stream);
                        self.streams.remove(stream_name);
                    }
                }
                String::new()
            }
            "step" => {
                match args.next_pos() {
                    None => self.work()?,
                    Some(count) => {
                        for _ in 0..count.parse()? {
                            self.hub.step(&reader)?;
                        }
                    }
                }
                String::new()
            }
            "take" => {
                let stream = self.stream(args.next_pos().ok_or("a stream is missing")?);
                let count = args.next_pos().map_or(Ok(usize::MAX), str::parse)?;
                let mut taken = Vec::new();
                loop {
                    self.work()?;
                    let before = taken.len();
                    self.hub.take(stream, count, usize::MAX, &mut taken);
                    if taken.len() == before || taken.len() >= count {
                        break;
                    }
                }
                taken.iter().map(show).collect()
            }
            "counts" => format!("{:?}\n", self.hub.counts()),
            name => return Err(format!("unknown command {name}").into()),
        };
        args.reject_next()?;
        self.hub.check_invariants();
        Ok(printed)
    }
}

impl goldenscript::Runner for Runner {
    type Command = Line;

    fn run(&mut self, line: &Line, context: &Context) -> Printed {
        self.line(line, context)
    }
}
