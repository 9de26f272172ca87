//! Golden scripts: `golden/*/*`, a few commands and what they print, bytes included.
//!
//! | command | does |
//! |---|---|
//! | `put KEY=VALUE.. [lease=N] [prev_kv,ignore_value,ignore_lease]` | a put for each pair |
//! | `del KEY [END] [prev_kv]` | deletes |
//! | `get KEY [END] [rev=N limit=N order=N target=N min_mod=N ..] [keys_only,count_only]` | a range on the newest view |
//! | `> txn COMPARE & .. ? OP ; .. : OP ; ..` | a transaction; `{ .. }` is a nested one |
//! | `compact REV`, `grant ID TTL`, `revoke ID`, `checkpoint ID TTL`, `alarm ACTION MEMBER KIND` | entries |
//! | `conf TYPE NODE CONTEXT`, `attributes ID NAME URL..`, `version V` | entries |
//! | `jobs`, `reopen`, `rows`, `narrow`, `meta`, `status` | what the file does and holds |
//!
//! `END` is `\0` for "no end" or any key. `UPDATE_GOLDENFILES=1` rewrites the expectations: read the difference.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command as Line, Context};
use quorate_proto::etcdserverpb::compare::TargetUnion;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::response_op::Response as OpResponse;
use quorate_proto::etcdserverpb::*;
use quorate_proto::membershippb;
use quorate_proto::raftpb::{ConfChange, ConfState};
use redb::{ReadableDatabase, ReadableTable};

use super::{Bench, entry};
use crate::format;
use crate::mvcc::encode::Fields;
use crate::rows::{KEY, META, NARROW};
use crate::{Command, Compacted, Finished, Outcome, ReadError, Response, StoreOptions, is_read_only};

type Answer<T = String> = Result<T, Box<dyn Error>>;

fn scripts(directory: &str, options: &StoreOptions) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(directory);
    let mut names: Vec<_> =
        directory.read_dir().expect("golden scripts").map(|file| file.expect("a file").path()).collect();
    names.sort();
    assert!(!names.is_empty());
    for path in names {
        goldenscript::run(&mut Runner { bench: Some(Bench::new(options.clone())) }, &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn mvcc() {
    scripts("mvcc", &StoreOptions::default());
}

#[test]
fn lease() {
    scripts("lease", &StoreOptions::default());
}

#[test]
fn alarm() {
    scripts("alarm", &StoreOptions { quota_bytes: Some(16_900), ..StoreOptions::default() });
}

#[test]
fn membership() {
    scripts("membership", &StoreOptions::default());
}

struct Runner {
    bench: Option<Bench>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn unescape(argument: &str) -> Bytes {
    if argument == "\\0" { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(argument.as_bytes()) }
}

fn kv(encoded: &Bytes) -> String {
    if encoded.is_empty() {
        return "none".into();
    }
    let Fields { key, create_revision, mod_revision, version, value, lease } = Fields::parse(encoded).expect("a row");
    let lease = if lease == 0 { String::new() } else { format!(" lease={lease}") };
    format!("{}={} create={create_revision} mod={mod_revision} version={version}{lease}", text(key), text(value))
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(-1, |header| header.revision)
}

fn show_range(response: &RangeResponse, indent: &str) -> String {
    let more = if response.more { " more" } else { "" };
    let mut out = format!("{indent}rev={} count={}{more}\n", revision(response.header.as_ref()), response.count);
    for encoded in &response.kvs {
        let _ = writeln!(out, "{indent}  {}", kv(encoded));
    }
    out
}

fn show_put(response: &PutResponse, indent: &str) -> String {
    let previous =
        if response.prev_kv.is_empty() { String::new() } else { format!(" prev: {}", kv(&response.prev_kv)) };
    format!("{indent}rev={}{previous}\n", revision(response.header.as_ref()))
}

fn show_delete(response: &DeleteRangeResponse, indent: &str) -> String {
    let mut out = format!("{indent}rev={} deleted={}\n", revision(response.header.as_ref()), response.deleted);
    for encoded in &response.prev_kvs {
        let _ = writeln!(out, "{indent}  prev: {}", kv(encoded));
    }
    out
}

fn show_txn(response: &TxnResponse, indent: &str) -> String {
    let branch = if response.succeeded { "succeeded" } else { "failed" };
    let mut out = format!("{indent}rev={} {branch}\n", revision(response.header.as_ref()));
    let deeper = format!("{indent}  ");
    for op in &response.responses {
        out += &match op.response.as_ref().expect("an answer") {
            OpResponse::ResponseRange(response) => format!("{deeper}range\n{}", show_range(response, &deeper)),
            OpResponse::ResponsePut(response) => format!("{deeper}put\n{}", show_put(response, &deeper)),
            OpResponse::ResponseDeleteRange(response) => format!("{deeper}del\n{}", show_delete(response, &deeper)),
            OpResponse::ResponseTxn(response) => format!("{deeper}txn\n{}", show_txn(response, &deeper)),
        };
    }
    out
}

fn show_alarms(alarms: &[AlarmMember]) -> String {
    alarms.iter().map(|alarm| format!(" {}:{}", alarm.member_id, alarm.alarm)).collect()
}

fn show(outcome: Outcome) -> String {
    let answer = match outcome.result {
        Err(error) => format!("{error}\n"),
        Ok(Response::Empty) => "done\n".into(),
        Ok(Response::Put(response)) => show_put(&response, ""),
        Ok(Response::DeleteRange(response)) => show_delete(&response, ""),
        Ok(Response::Txn(response)) => show_txn(&response, ""),
        Ok(Response::Compaction(response)) => format!("rev={}\n", revision(response.header.as_ref())),
        Ok(Response::LeaseGrant(response)) => {
            format!("rev={} id={} ttl={}\n", revision(response.header.as_ref()), response.id, response.ttl)
        }
        Ok(Response::LeaseRevoke(response)) => format!("rev={}\n", revision(response.header.as_ref())),
        Ok(Response::Alarm(response)) => {
            format!("rev={}{}\n", revision(response.header.as_ref()), show_alarms(&response.alarms))
        }
        Ok(Response::Members(members)) => {
            let ids: Vec<_> = members.iter().map(|member| member.id.0).collect();
            format!("members {ids:?}\n")
        }
    };
    let over = if outcome.over_quota { "over quota\n" } else { "" };
    answer + over
}

fn number<T: std::str::FromStr<Err: Error + 'static> + Default>(args: &mut ArgumentConsumer, name: &str) -> Answer<T> {
    Ok(args.take_key(name).map(str::parse).transpose()?.unwrap_or_default())
}

fn position<T: std::str::FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer, what: &str) -> Answer<T> {
    Ok(args.next_pos().ok_or_else(|| format!("{what} is missing"))?.parse()?)
}

fn range_request(args: &mut ArgumentConsumer, context: &Context) -> Answer<RangeRequest> {
    Ok(RangeRequest {
        revision: number(args, "rev")?,
        limit: number(args, "limit")?,
        sort_order: number(args, "order")?,
        sort_target: number(args, "target")?,
        min_mod_revision: number(args, "min_mod")?,
        max_mod_revision: number(args, "max_mod")?,
        min_create_revision: number(args, "min_create")?,
        max_create_revision: number(args, "max_create")?,
        keys_only: context.tags.contains("keys_only"),
        count_only: context.tags.contains("count_only"),
        serializable: false,
        key: unescape(args.next_pos().ok_or("a key is missing")?),
        range_end: args.next_pos().map(unescape).unwrap_or_default(),
    })
}

/// `txn` in words: comparisons, `?`, operations, `:`, operations.
fn parse_txn<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Answer<TxnRequest> {
    let mut txn = TxnRequest::default();
    loop {
        match words.next().ok_or("a transaction ends early")? {
            "?" => break,
            "&" => {}
            word => txn.compare.push(parse_compare(word)?),
        }
    }
    for branch in [&mut txn.success, &mut txn.failure] {
        loop {
            match words.next() {
                None | Some(":" | "}") => break,
                Some(";") => {}
                Some("{") => branch.push(RequestOp { request: Some(Request::RequestTxn(parse_txn(words)?)) }),
                Some(op) => {
                    let mut words_of_op = Vec::new();
                    while let Some(word) = words.next_if(|word| ![";", ":", "}"].contains(word)) {
                        words_of_op.push(word);
                    }
                    branch.push(RequestOp { request: Some(parse_op(op, &words_of_op)?) });
                }
            }
        }
    }
    Ok(txn)
}

/// `TARGET(KEY[,END])OPERATOR OPERAND`, as in `version(a)=0` or `value(a)!=x`.
fn parse_compare(word: &str) -> Answer<Compare> {
    let (target, rest) = word.split_once('(').ok_or("a comparison needs a key")?;
    let (keys, rest) = rest.split_once(')').ok_or("a comparison needs a key")?;
    let (key, range_end) = keys.split_once(',').unwrap_or((keys, ""));
    let (result, operand) = ["!=", "=", ">", "<"]
        .into_iter()
        .find_map(|sign| Some((sign, rest.strip_prefix(sign)?)))
        .ok_or("a comparison needs an operator")?;
    let result = match result {
        "=" => 0,
        ">" => 1,
        "<" => 2,
        _ => 3,
    };
    let (target, target_union) = match target {
        "version" => (0, TargetUnion::Version(operand.parse()?)),
        "create" => (1, TargetUnion::CreateRevision(operand.parse()?)),
        "mod" => (2, TargetUnion::ModRevision(operand.parse()?)),
        "value" => (3, TargetUnion::Value(unescape(operand))),
        "lease" => (4, TargetUnion::Lease(operand.parse()?)),
        target => return Err(format!("unknown target {target}").into()),
    };
    let (key, range_end) = (unescape(key), unescape(range_end));
    Ok(Compare { result, target, key, range_end, target_union: Some(target_union) })
}

fn parse_op(op: &str, words: &[&str]) -> Answer<Request> {
    let flag = |name: &str| words.contains(&name);
    let setting = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let key = unescape(words.first().ok_or("an operation needs a key")?);
    let range_end = words.get(1).filter(|word| !word.contains('=')).map(|word| unescape(word)).unwrap_or_default();
    Ok(match op {
        "put" => {
            let (key, value) = words[0].split_once('=').unwrap_or((words[0], ""));
            Request::RequestPut(PutRequest {
                key: unescape(key),
                value: unescape(value),
                lease: setting("lease=").map_or(Ok(0), str::parse)?,
                prev_kv: flag("prev_kv"),
                ignore_value: flag("ignore_value"),
                ignore_lease: flag("ignore_lease"),
            })
        }
        "get" => Request::RequestRange(RangeRequest {
            key,
            range_end,
            revision: setting("rev=").map_or(Ok(0), str::parse)?,
            ..RangeRequest::default()
        }),
        "del" => Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }),
        op => return Err(format!("unknown operation {op}").into()),
    })
}

fn answered<T>(answer: Result<T, ReadError>, show: impl FnOnce(T) -> String) -> Answer {
    match answer {
        Ok(answer) => Ok(show(answer)),
        Err(ReadError::Refused(error)) => Ok(format!("{error}\n")),
        Err(ReadError::Damaged(error) | ReadError::Closed(error)) => Err(error.into()),
    }
}

impl Runner {
    fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().expect("a store")
    }

    fn apply(&mut self, fill: impl FnOnce(&mut InternalRaftRequest)) -> String {
        show(self.bench().apply(entry(fill)))
    }

    fn put(&mut self, args: &mut ArgumentConsumer, context: &Context) -> Answer {
        let lease = number(args, "lease")?;
        let mut out = String::new();
        while let Some((key, value)) = args.next_key() {
            let put = PutRequest {
                key: unescape(key),
                value: unescape(value),
                lease,
                prev_kv: context.tags.contains("prev_kv"),
                ignore_value: context.tags.contains("ignore_value"),
                ignore_lease: context.tags.contains("ignore_lease"),
            };
            out += &self.apply(|request| request.put = Some(put));
        }
        Ok(out)
    }

    fn txn(&mut self, words: &str) -> Answer {
        let txn = parse_txn(&mut words.split_whitespace().peekable())?;
        if is_read_only(&txn) {
            let view = self.bench().store.reader().view();
            return answered(view.read_txn(&txn), |response| show_txn(&response, ""));
        }
        Ok(self.apply(|request| request.txn = Some(txn)))
    }

    fn jobs(&mut self) -> Answer {
        let finished = self.bench().run_jobs()?;
        Ok(finished
            .iter()
            .map(|finished| match finished {
                Finished::Flushed { index, conf_state } if conf_state.voters.is_empty() => format!("flushed {index}\n"),
                Finished::Flushed { index, conf_state } => format!("flushed {index} voters={:?}\n", conf_state.voters),
                Finished::Compacted(Compacted { revision, rows, .. }) => {
                    format!("compacted {revision} rows={rows}\n")
                }
            })
            .collect())
    }

    fn rows(&mut self) -> Answer {
        let store = &self.bench().store;
        let mut out = String::new();
        let table = store.database.begin_read()?.open_table(KEY)?;
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            let (tombstone, encoded) = format::read_row(key, value).ok_or("damaged")?;
            let dead = if tombstone { " tombstone" } else { "" };
            let encoded = Bytes::copy_from_slice(encoded);
            writeln!(out, "durable {} → {}", hex(key), hex(value))?;
            writeln!(out, "    {} {}{dead}", format::row_revision(key), kv(&encoded))?;
        }
        for row in store.published.lock().rows.pending() {
            let dead = if row.tombstone { " tombstone" } else { "" };
            writeln!(out, "pending {} → {}", hex(&format::row_key(row.revision)), hex(&row.encoded))?;
            writeln!(out, "    {} {}{dead}", row.revision, kv(&row.encoded))?;
        }
        Ok(out)
    }

    fn narrow(&mut self) -> Answer {
        let mut out = String::new();
        let table = self.bench().store.database.begin_read()?.open_table(NARROW)?;
        for row in table.iter()? {
            let (key, value) = row?;
            let narrow = format::read_narrow(key.value(), value.value()).ok_or("damaged")?;
            let live = narrow.live.map_or("tombstone".into(), |live| {
                format!("create={} version={} lease={}", live.create, live.version, live.lease)
            });
            writeln!(out, "{} → {}", hex(key.value()), hex(value.value()))?;
            writeln!(out, "    {} {} {live}", format::row_revision(key.value()), text(narrow.key))?;
        }
        Ok(out)
    }

    fn meta(&mut self) -> Answer {
        let mut out = String::new();
        let table = self.bench().store.database.begin_read()?.open_table(META)?;
        for record in table.iter()? {
            let (name, value) = record?;
            let payload =
                format::opened(format::META_TABLE, name.value().as_bytes(), value.value()).ok_or("damaged")?;
            writeln!(out, "{} → {}", name.value(), hex(value.value()))?;
            if name.value() == format::STATE {
                writeln!(out, "    {:?}", format::StateRecord::decode(payload).and_then(|(_, record)| record))?;
            }
            if name.value() == format::MEMBERSHIP {
                writeln!(out, "    {}", text(payload))?;
            }
        }
        Ok(out)
    }

    fn status(&mut self) -> String {
        let store = &self.bench().store;
        let view = store.reader().view();
        let mut out = format!(
            "applied={} durable={} revision={} compacted={} size={} in_use={}\n",
            view.applied().0,
            store.durable_index(),
            view.revision(),
            view.compact_revision(),
            view.db_size_bytes(),
            view.db_size_in_use_bytes(),
        );
        for (id, grant) in view.leases() {
            let keys: Vec<_> = store.published.lock().leases.keys(id).map(text).collect();
            let _ = writeln!(
                out,
                "lease {} ttl={} remaining={} keys={}",
                id.0,
                grant.ttl_secs,
                grant.remaining_ttl_secs,
                keys.join(",")
            );
        }
        for member in view.members() {
            let _ = writeln!(out, "{member:?}");
        }
        if !view.removed().is_empty() {
            let _ = writeln!(out, "removed={:?}", view.removed());
        }
        if let Some(version) = view.cluster_version() {
            let _ = writeln!(out, "version={version}");
        }
        if !view.alarms().is_empty() {
            let _ = writeln!(out, "alarms{}", show_alarms(view.alarms()));
        }
        if !store.conf_state().voters.is_empty() {
            let _ = writeln!(out, "voters={:?}", store.conf_state().voters);
        }
        out
    }

    fn conf(&mut self, args: &mut ArgumentConsumer) -> Answer {
        let change = ConfChange {
            id: None,
            r#type: Some(position(args, "a type")?),
            node_id: Some(position(args, "a member")?),
            context: args.next_pos().map(unescape),
        };
        if let Err(error) = self.bench().store.check_conf_change(&change) {
            let outcome = self.bench().apply(Command::RefusedConfChange(error));
            return Ok(format!("refused: {}", show(outcome)));
        }
        let conf_state = ConfState { voters: vec![change.node_id()], ..ConfState::default() };
        Ok(show(self.bench().apply(Command::ConfChange { change, conf_state })))
    }
}

impl goldenscript::Runner for Runner {
    type Command = Line;

    fn run(&mut self, line: &Line, context: &Context) -> Answer {
        if let Some(words) = line.name.strip_prefix("txn ") {
            return self.txn(words);
        }
        let mut args = line.consume_args();
        let out = match line.name.as_str() {
            "put" => self.put(&mut args, context)?,
            "del" => {
                let delete = DeleteRangeRequest {
                    key: unescape(args.next_pos().ok_or("a key is missing")?),
                    range_end: args.next_pos().map(unescape).unwrap_or_default(),
                    prev_kv: context.tags.contains("prev_kv"),
                };
                self.apply(|request| request.delete_range = Some(delete))
            }
            "get" => {
                let request = range_request(&mut args, context)?;
                let view = self.bench().store.reader().view();
                answered(view.range(&request), |response| show_range(&response, ""))?
            }
            "compact" => {
                let compaction = CompactionRequest { revision: position(&mut args, "a revision")?, physical: false };
                self.apply(|request| request.compaction = Some(compaction))
            }
            "grant" => {
                let (id, ttl) = (position(&mut args, "an id")?, position(&mut args, "a time to live")?);
                self.apply(|request| request.lease_grant = Some(LeaseGrantRequest { id, ttl }))
            }
            "revoke" => {
                let id = position(&mut args, "an id")?;
                self.apply(|request| request.lease_revoke = Some(LeaseRevokeRequest { id }))
            }
            "checkpoint" => {
                let (id, remaining_ttl) = (position(&mut args, "an id")?, position(&mut args, "a time to live")?);
                let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl }];
                self.apply(|request| request.lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints }))
            }
            "alarm" => {
                let action = position(&mut args, "an action")?;
                let (member_id, alarm) = (position(&mut args, "a member")?, position(&mut args, "a kind")?);
                self.apply(|request| request.alarm = Some(AlarmRequest { action, member_id, alarm }))
            }
            "conf" => self.conf(&mut args)?,
            "attributes" => {
                let member_id = position(&mut args, "a member")?;
                let name = position(&mut args, "a name")?;
                let client_urls = std::iter::from_fn(|| args.next_pos().map(str::to_owned)).collect();
                let member_attributes = Some(membershippb::Attributes { name, client_urls });
                self.apply(|request| {
                    request.cluster_member_attr_set =
                        Some(membershippb::ClusterMemberAttrSetRequest { member_id, member_attributes });
                })
            }
            "version" => {
                let ver = position(&mut args, "a version")?;
                self.apply(|request| {
                    request.cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver });
                })
            }
            "empty" => show(self.bench().apply(Command::Empty)),
            "auth_enable" => self.apply(|request| request.auth_enable = Some(AuthEnableRequest {})),
            "nothing" => self.apply(|_| {}),
            "jobs" => self.jobs()?,
            "reopen" => {
                let bench = self.bench.take().expect("a store");
                self.bench = Some(bench.reopen()?);
                self.status()
            }
            "rows" => self.rows()?,
            "narrow" => self.narrow()?,
            "meta" => self.meta()?,
            "status" => self.status(),
            name => return Err(format!("unknown command {name}").into()),
        };
        args.reject_next()?;
        Ok(out)
    }
}
