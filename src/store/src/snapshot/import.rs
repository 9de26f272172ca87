//! A snapshot file as a new database.
//!
//! The file may come from another member, an etcd perhaps, or from an operator: nothing in it is taken for granted. The small
//! buckets are read and compared with each other first, then leases and rows go over in transactions of a few megabytes.
//! Members stay as they are in the file.
//!
//! What an etcd 3.7 may have in its file and is left out here, because nothing depends on it:
//!
//! - `storageVersion`: which etcd can read the file. Whatever it says, the rest is checked.
//! - `authEnabled` and `authRevision`, if they say that auth was never used.

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use quorate_bolt::{Bucket, Reader};
use quorate_proto::etcdserverpb::AlarmMember;
use quorate_proto::leasepb;
use quorate_proto::raftpb::ConfState;
use quorate_runtime::Rt;
use quorate_runtime::disk::{Disk, OpenMode};
use quorate_types::{LeaseId, LogIndex, MemberId, Revision, Term};
use redb::{Database, WriteTransaction};

use super::{
    ALARM, AUTH, AUTH_ENABLED, AUTH_REVISION, AUTH_REVISION_FIRST, AUTH_ROLES, AUTH_USERS, BUCKETS, CLUSTER,
    CLUSTER_VERSION, CONF_STATE, CONSISTENT_INDEX, ConfStateJson, DOWNGRADE, FINISHED_COMPACT, KEY, LEASE, MEMBERS,
    MEMBERS_REMOVED, META, REMOVED, SCHEDULED_COMPACT, STORAGE_VERSION, SnapshotRowKey, TERM,
};
use crate::StoreOptions;
use crate::alarm::Alarms;
use crate::error::{FileName, StoreError};
use crate::flush;
use crate::format::{ROW_OVERHEAD_BYTES, StateRecord};
use crate::lease::{Grant, TTL_MAX_SECS};
use crate::membership::{Downgrade, Member, Membership};
use crate::mvcc::encode::Fields;
use crate::mvcc::revision::RowRevision;
use crate::open;
use crate::pending::Row;
use crate::rows;

/// Rows, or leases, that go over in one transaction.
const BATCH_BYTES: usize = if cfg!(test) { 200 } else { 16 << 20 };

/// What has become of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The last entry in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// Raft's configuration after that entry.
    pub conf_state: ConfState,
    /// The current revision.
    pub revision: Revision,
}

/// Makes a database of a snapshot file, for [`Store::open`](crate::Store::open). Nothing may be at `new_database`; after an
/// error or a crash there still is nothing, but for a file whose name ends in `.new`, which the next attempt removes. Of
/// `options`, memory and syncing matter. Blocks on the disk.
pub fn import_snapshot(
    rt: &Rt,
    bolt_file: &Path,
    new_database: &Path,
    options: &StoreOptions,
) -> Result<Imported, StoreError> {
    import_on(&**rt, bolt_file, new_database, options)
}

pub(crate) fn import_on(
    disk: &(dyn Disk + '_),
    bolt_file: &Path,
    new_database: &Path,
    options: &StoreOptions,
) -> Result<Imported, StoreError> {
    let file = disk
        .open(bolt_file, OpenMode::ReadOnly)
        .map_err(|error| StoreError::io(bolt_file, "opening the snapshot", error))?;
    let from = Snapshot { file: bolt_file, reader: Reader::open(file, bolt_file).map_err(failed)? };
    from.check_buckets()?;
    let meta = from.meta()?;
    let membership = from.membership()?;
    let alarms = from.alarms()?;
    from.check_auth()?;
    open::create_with(disk, new_database, options, |database, to| {
        let transaction = flush::begin(database, to)?;
        open::create_tables(&transaction, to)?;
        flush::commit(transaction, to)?;
        from.copy_leases(database, to)?;
        let rows = from.copy_rows(database, to)?;
        let record = StateRecord {
            applied_index: meta.index,
            applied_term: meta.term,
            revision: rows.newest.max(meta.compact_scheduled).max(StateRecord::EMPTY.revision),
            compact_scheduled: meta.compact_scheduled,
            compact_finished: meta.compact_finished,
            row_count: rows.count,
            row_bytes: rows.bytes,
            row_bytes_high: rows.bytes,
        };
        let transaction = flush::begin(database, to)?;
        flush::put_state(&transaction, to, &record, &meta.conf_state, &membership, &alarms)?;
        flush::commit(transaction, to)?;
        let Meta { index, term, conf_state, .. } = meta;
        Ok(Imported { index, term, conf_state, revision: Revision(record.revision) })
    })
}

/// Begins a transaction of a database that is not complete, and is thrown away after a crash: nobody repairs it, so its allocator
/// need not be saved. It is durable all the same, for otherwise the last one would keep the disk from others for long.
fn begin_unfinished(database: &Database, to: &FileName) -> Result<WriteTransaction, StoreError> {
    database.begin_write().map_err(|error| StoreError::database(to, "beginning to write", error))
}

fn failed(error: quorate_bolt::ReadError) -> StoreError {
    match error {
        quorate_bolt::ReadError::Io { file, page: _, source } => {
            StoreError::Io { file, action: "reading the snapshot", source }
        }
        quorate_bolt::ReadError::Invalid { file, page, what } => {
            StoreError::Snapshot { file, what: format!("page {page}: {what}") }
        }
    }
}

/// The file that is read.
struct Snapshot<'a> {
    file: &'a Path,
    reader: Reader,
}

struct Meta {
    index: LogIndex,
    term: Term,
    conf_state: ConfState,
    compact_scheduled: i64,
    compact_finished: i64,
}

/// What the rows have shown.
#[derive(Default)]
struct Copied {
    count: u64,
    bytes: u64,
    /// The largest revision.
    newest: i64,
}

fn u64_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// A key in a message: text as text, else hex.
fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

impl Snapshot<'_> {
    fn invalid(&self, bucket: &str, what: impl std::fmt::Display) -> StoreError {
        StoreError::Snapshot { file: self.file.to_path_buf(), what: format!("bucket {bucket}: {what}") }
    }

    fn invalid_key(&self, bucket: &str, key: &[u8], what: impl std::fmt::Display) -> StoreError {
        self.invalid(bucket, format!("key {}: {what}", shown(key)))
    }

    fn check_buckets(&self) -> Result<(), StoreError> {
        for name in BUCKETS {
            if self.reader.bucket(name.as_bytes()).is_none() {
                return Err(self.invalid(name, "missing"));
            }
        }
        for (name, _) in self.reader.buckets() {
            if !BUCKETS.iter().any(|known| known.as_bytes() == name) {
                return Err(self.invalid(&shown(name), "not one that etcd 3.7 has"));
            }
        }
        Ok(())
    }

    fn bucket(&self, name: &str) -> &Bucket {
        self.reader.bucket(name.as_bytes()).expect("all buckets are there: that was checked first")
    }

    /// The pairs of a bucket.
    fn pairs(&self, bucket: &str) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> {
        self.bucket(bucket).entries().map(|pair| pair.map_err(failed))
    }

    fn meta(&self) -> Result<Meta, StoreError> {
        let (mut index, mut term, mut conf_state) = (None, None, None);
        let (mut compact_scheduled, mut compact_finished) = (None, None);
        for pair in self.pairs(META) {
            let (key, value) = pair?;
            let invalid = |what: &str| self.invalid_key(META, &key, what);
            let number = || u64_of(&value).filter(|number| *number > 0).ok_or_else(|| invalid("not a positive u64"));
            let revision = || match SnapshotRowKey::parse(&value) {
                Some((RowRevision { main, sub: 0 }, false)) => Ok(main),
                _ => Err(invalid("not a revision")),
            };
            match std::str::from_utf8(&key) {
                Ok(CONSISTENT_INDEX) => index = Some(number()?),
                Ok(TERM) => term = Some(number()?),
                Ok(SCHEDULED_COMPACT) => compact_scheduled = Some(revision()?),
                Ok(FINISHED_COMPACT) => compact_finished = Some(revision()?),
                Ok(CONF_STATE) => {
                    let json: ConfStateJson =
                        serde_json::from_slice(&value).map_err(|error| invalid(&error.to_string()))?;
                    conf_state = Some(ConfState::from(json));
                }
                Ok(STORAGE_VERSION) => {}
                _ => return Err(invalid("not one that etcd 3.7 has")),
            }
        }
        let missing = |name: &str| self.invalid_key(META, name.as_bytes(), "missing");
        let compact_finished = compact_finished.unwrap_or(-1);
        let compact_scheduled = compact_scheduled.unwrap_or(-1).max(compact_finished);
        Ok(Meta {
            index: LogIndex(index.ok_or_else(|| missing(CONSISTENT_INDEX))?),
            term: Term(term.ok_or_else(|| missing(TERM))?),
            conf_state: conf_state.ok_or_else(|| missing(CONF_STATE))?,
            compact_scheduled,
            compact_finished,
        })
    }

    fn membership(&self) -> Result<Membership, StoreError> {
        let mut members = Vec::new();
        for pair in self.pairs(MEMBERS) {
            let (key, value) = pair?;
            let member: Member =
                serde_json::from_slice(&value).map_err(|error| self.invalid_key(MEMBERS, &key, error))?;
            if member.id.to_string().as_bytes() != &key[..] {
                return Err(self.invalid_key(MEMBERS, &key, format!("holds member {}", member.id)));
            }
            members.push(member);
        }
        let mut removed = Vec::new();
        for pair in self.pairs(MEMBERS_REMOVED) {
            let (key, value) = pair?;
            let invalid = |what: &str| self.invalid_key(MEMBERS_REMOVED, &key, what);
            let id = std::str::from_utf8(&key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok()).map(MemberId);
            let id =
                id.filter(|id| id.to_string().as_bytes() == &key[..]).ok_or_else(|| invalid("not an id in hex"))?;
            if &value[..] != REMOVED.as_bytes() {
                return Err(invalid("not marked as removed"));
            }
            if members.iter().any(|member| member.id == id) {
                return Err(invalid("still a member"));
            }
            removed.push(id);
        }
        let mut membership = Membership::restore(members, removed);
        for pair in self.pairs(CLUSTER) {
            let (key, value) = pair?;
            let invalid = |what: &str| self.invalid_key(CLUSTER, &key, what);
            match std::str::from_utf8(&key) {
                Ok(CLUSTER_VERSION) => {
                    let version = std::str::from_utf8(&value).map_err(|_| invalid("not text"))?;
                    membership.set_cluster_version(version).map_err(|_| invalid("not a version"))?;
                }
                Ok(DOWNGRADE) => {
                    let downgrade: Downgrade =
                        serde_json::from_slice(&value).map_err(|error| invalid(&error.to_string()))?;
                    membership.set_downgrade(downgrade).map_err(|_| invalid("not a version"))?;
                }
                _ => return Err(invalid("not one that etcd 3.7 has")),
            }
        }
        Ok(membership)
    }

    fn alarms(&self) -> Result<Alarms, StoreError> {
        let mut alarms = Vec::new();
        for pair in self.pairs(ALARM) {
            let (key, value) = pair?;
            let alarm = AlarmMember::decode(&key[..]).map_err(|error| self.invalid_key(ALARM, &key, error))?;
            if alarm.encode_to_vec() != key || !value.is_empty() {
                return Err(self.invalid_key(ALARM, &key, "not an alarm"));
            }
            alarms.push(alarm);
        }
        Ok(Alarms::restore(alarms))
    }

    /// There is no auth here yet. A state that has it must not be served to everybody.
    fn check_auth(&self) -> Result<(), StoreError> {
        const UNSUPPORTED: &str = "auth is in use, which this version does not support yet";
        for pair in self.pairs(AUTH) {
            let (key, value) = pair?;
            let is_fresh = match std::str::from_utf8(&key) {
                Ok(AUTH_ENABLED) => value[..] == [0],
                Ok(AUTH_REVISION) => u64_of(&value).is_some_and(|revision| revision <= AUTH_REVISION_FIRST),
                _ => return Err(self.invalid_key(AUTH, &key, "not one that etcd 3.7 has")),
            };
            if !is_fresh {
                return Err(self.invalid_key(AUTH, &key, UNSUPPORTED));
            }
        }
        for bucket in [AUTH_USERS, AUTH_ROLES] {
            if let Some(pair) = self.pairs(bucket).next() {
                return Err(self.invalid_key(bucket, &pair?.0, UNSUPPORTED));
            }
        }
        Ok(())
    }

    fn copy_leases(&self, database: &Database, to: &FileName) -> Result<(), StoreError> {
        let mut leases =
            self.pairs(LEASE).map(|pair| pair.and_then(|(key, value)| self.lease(&key, &value))).peekable();
        while leases.peek().is_some() {
            let transaction = begin_unfinished(database, to)?;
            {
                let wrote = |error: redb::Error| StoreError::database(to, "writing leases", error);
                let mut table = transaction.open_table(rows::LEASE).map_err(|error| wrote(error.into()))?;
                let batch_len = BATCH_BYTES / size_of::<(LeaseId, Grant)>();
                for lease in leases.by_ref().take(batch_len) {
                    let (id, grant) = lease?;
                    flush::put_lease(&mut table, id, grant).map_err(wrote)?;
                }
            }
            flush::commit(transaction, to)?;
        }
        Ok(())
    }

    fn lease(&self, key: &[u8], value: &[u8]) -> Result<(LeaseId, Grant), StoreError> {
        let invalid = |what: String| self.invalid_key(LEASE, key, what);
        let record = leasepb::Lease::decode(value).map_err(|error| invalid(error.to_string()))?;
        let (id, grant) = Grant::from_record(&record);
        if id == LeaseId::NONE || id.0.to_be_bytes() != key {
            return Err(invalid(format!("holds lease {id}")));
        }
        if grant.ttl_secs > TTL_MAX_SECS {
            return Err(invalid(format!("a time to live of {} seconds", grant.ttl_secs)));
        }
        Ok((id, grant))
    }

    fn copy_rows(&self, database: &Database, to: &FileName) -> Result<Copied, StoreError> {
        let mut copied = Copied::default();
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let put = |batch: &mut Vec<Row>| -> Result<(), StoreError> {
            let transaction = begin_unfinished(database, to)?;
            flush::put_rows(&transaction, to, || batch.iter())?;
            batch.clear();
            flush::commit(transaction, to)
        };
        for pair in self.pairs(KEY) {
            let (key, encoded) = pair?;
            let row = self.row(&key, encoded)?;
            copied.count += 1;
            copied.bytes += row.encoded.len() as u64 + ROW_OVERHEAD_BYTES;
            copied.newest = row.revision.main;
            batch_bytes += row.encoded.len() + size_of::<Row>();
            batch.push(row);
            if batch_bytes >= BATCH_BYTES {
                put(&mut batch)?;
                batch_bytes = 0;
            }
        }
        if !batch.is_empty() {
            put(&mut batch)?;
        }
        Ok(copied)
    }

    /// A row, as far as it can be judged alone.
    fn row(&self, key: &[u8], encoded: Bytes) -> Result<Row, StoreError> {
        let Some((revision, tombstone)) = SnapshotRowKey::parse(key).filter(|(revision, _)| revision.main >= 1) else {
            return Err(self.invalid_key(KEY, key, "not a revision"));
        };
        let invalid = |what: &str| self.invalid(KEY, format!("row {revision}: {what}"));
        // Its bytes are hashed and compared between members, so they have to be the ones that every member would write.
        let fields = Fields::parse(&encoded)
            .filter(|fields| fields.encoded_len() == encoded.len())
            .ok_or_else(|| invalid("not a KeyValue as etcd writes it"))?;
        if fields.key.is_empty() {
            return Err(invalid("without a key"));
        }
        let is_sane = if tombstone {
            fields == Fields { key: fields.key, ..Fields::default() }
        } else {
            fields.mod_revision == revision.main
                && (1..=revision.main).contains(&fields.create_revision)
                && fields.version >= 1
        };
        if !is_sane {
            return Err(invalid("its KeyValue contradicts its key"));
        }
        Ok(Row { revision, tombstone, encoded })
    }
}
