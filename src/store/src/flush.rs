//! Jobs: what is written to the database, one transaction each, on a thread that may wait for the disk.
//!
//! A **flush** takes a sealed generation of rows and, with it, everything else that entries up to the same one have made:
//! applied index and term, raft's configuration, current revision, compaction bounds, members, alarms, leases. So the file
//! is always the exact state after some entry, and the log is needed from the next one on. A **compaction slice** deletes
//! rows and changes the counts in the state record, nothing else. Before the first of them, the rows that it is about are
//! hashed, a slice at a time too; that writes nothing.
//!
//! Both commit durably, and with quick repair: redb then saves its allocator with each commit and commits in two phases, so
//! that a file is open again at once after a crash and no half-written commit can be taken for a whole one.

use quorate_proto::etcdserverpb::AlarmResponse;
use quorate_proto::raftpb::ConfState;
use quorate_runtime::disk::{Disk, File};
use quorate_types::LeaseId;
use redb::{Database, Table, WriteTransaction};

use crate::alarm::Alarms;
use crate::backend::OpenDatabase;
use crate::defragment::{Copied, Copying};
use crate::error::{FileName, StoreError, guarded};
use crate::format::{self, StateRecord};
use crate::hash_kv::{CompactionHash, Hashing};
use crate::lease::Grant;
use crate::membership::Membership;
use crate::mvcc::compact::Slice;
use crate::mvcc::encode::Fields;
use crate::pending::{Row, Seen};
use crate::row_cache::RowCache;
use crate::rows::{Durable, KEY, LEASE, META, NARROW};
use crate::sync::Arc;
use prost::Message as _;

/// Bytes of rows that one job hashes: a few milliseconds, a few more if they come from the disk.
const HASH_SLICE_BYTES: usize = if cfg!(test) { 100 } else { 4 << 20 };

/// One transaction, ready to run.
pub struct Job {
    pub(crate) database: Arc<OpenDatabase>,
    pub(crate) cache: Arc<RowCache>,
    pub(crate) file: FileName,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    Flush(Box<Flush>),
    Compact {
        slice: Slice,
        /// What the file says now.
        before: StateRecord,
    },
    /// A slice of a hash, before anything is deleted: reads only.
    Hash(Box<Hashing>),
    /// A slice of a copy.
    Copy {
        copying: Box<Copying>,
        /// What the file says now.
        record: StateRecord,
    },
}

/// Everything that one flush writes.
pub(crate) struct Flush {
    pub(crate) rows: Seen,
    /// Their length.
    pub(crate) row_bytes: u64,
    pub(crate) record: StateRecord,
    pub(crate) conf_state: Arc<ConfState>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) alarms: Alarms,
    /// Changed leases; `None` is gone.
    pub(crate) leases: Vec<(LeaseId, Option<Grant>)>,
}

/// How a job went; for [`Store::finish_job`](crate::Store::finish_job).
pub struct JobOutcome {
    pub(crate) result: Result<Done, StoreError>,
}

/// What a job has done.
pub(crate) enum Done {
    Committed(Box<Committed>),
    /// The hash, if it is complete, and where it goes on otherwise.
    Hashed {
        hashing: Box<Hashing>,
        hash: Option<CompactionHash>,
    },
    /// There is more to copy.
    Copied(Box<Copying>),
    /// The copy was given up; all is as before.
    NotCopied(StoreError),
    /// A copy has taken the database's place.
    Replaced(Box<Replacement>),
}

/// A job that is durable.
pub(crate) struct Committed {
    /// What the file says now.
    pub(crate) record: StateRecord,
    /// The table of rows as the file has it now.
    pub(crate) durable: Durable,
    pub(crate) kind: CommittedKind,
}

/// A copy that is the database now.
pub(crate) struct Replacement {
    pub(crate) database: OpenDatabase,
    /// What it says.
    pub(crate) record: StateRecord,
    /// Its table of rows.
    pub(crate) durable: Durable,
    /// The file that was the database before; it has no name any more.
    pub(crate) old_file: Box<dyn File>,
}

pub(crate) enum CommittedKind {
    Flushed {
        /// The configuration that went into the transaction.
        conf_state: Arc<ConfState>,
    },
    Compacted {
        /// The revision whose compaction this was the last slice of.
        finished: Option<i64>,
    },
}

impl Job {
    /// The length of the rows that it writes to the database; `None` if it only reads that.
    pub fn writes_row_bytes(&self) -> Option<u64> {
        match &self.work {
            Work::Flush(flush) => Some(flush.row_bytes),
            Work::Compact { .. } => Some(0),
            Work::Hash(_) | Work::Copy { .. } => None,
        }
    }

    /// It is a slice of a compaction.
    pub fn compacts(&self) -> bool {
        matches!(self.work, Work::Compact { .. } | Work::Hash(_))
    }

    /// Writes and commits. Blocks on the disk, which is `disk`.
    pub fn run(self, disk: &(dyn Disk + '_)) -> JobOutcome {
        let Self { database, cache, file, work } = self;
        let result = guarded(&file, "writing", || {
            let (record, kind) = match work {
                Work::Flush(flush) => {
                    let record = flush.run(&database, &file)?;
                    (record, CommittedKind::Flushed { conf_state: flush.conf_state })
                }
                Work::Compact { slice, before } => {
                    let record = delete_rows(&database, &file, &slice, before)?;
                    (record, CommittedKind::Compacted { finished: slice.finishes })
                }
                Work::Hash(mut hashing) => {
                    let hash = hashing.step(HASH_SLICE_BYTES)?;
                    return Ok(Done::Hashed { hashing, hash });
                }
                Work::Copy { copying, record } => {
                    return match copying.step(disk, &database, &file, record)? {
                        Copied::Part(copying) => Ok(Done::Copied(copying)),
                        Copied::GivenUp(error) => Ok(Done::NotCopied(error)),
                        Copied::All { database, record, old_file } => {
                            let durable = Durable::begin(&database, &cache, &file, &record)?;
                            Ok(Done::Replaced(Box::new(Replacement { database, record, durable, old_file })))
                        }
                    };
                }
            };
            let durable = Durable::begin(&database, &cache, &file, &record)?;
            Ok(Done::Committed(Box::new(Committed { record, durable, kind })))
        });
        JobOutcome { result }
    }
}

/// Begins a transaction as all of ours are.
pub(crate) fn begin(database: &Database, file: &FileName) -> Result<WriteTransaction, StoreError> {
    let mut transaction =
        database.begin_write().map_err(|error| StoreError::database(file, "beginning to write", error))?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Writes a record of the table `meta`.
pub(crate) fn put_meta(
    transaction: &WriteTransaction,
    file: &FileName,
    name: &str,
    payload: &[u8],
) -> Result<(), StoreError> {
    let failed = |error: redb::Error| StoreError::database(file, "writing table meta", error);
    let value = format::sealed(format::META_TABLE, name.as_bytes(), payload);
    let mut table = transaction.open_table(META).map_err(|error| failed(error.into()))?;
    table.insert(name, &value[..]).map_err(|error| failed(error.into()))?;
    Ok(())
}

pub(crate) fn commit(transaction: WriteTransaction, file: &FileName) -> Result<(), StoreError> {
    transaction.commit().map_err(|error| StoreError::database(file, "committing", error))
}

impl Flush {
    fn run(&self, database: &Database, file: &FileName) -> Result<StateRecord, StoreError> {
        let transaction = begin(database, file)?;
        if !self.rows.is_empty() {
            put_rows(&transaction, file, || self.rows.rows())?;
        }
        self.put_leases(&transaction).map_err(|error| StoreError::database(file, "writing leases", error))?;
        put_state(&transaction, file, &self.record, &self.conf_state, &self.membership, &self.alarms)?;
        commit(transaction, file)?;
        Ok(self.record)
    }

    fn put_leases(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let mut table = transaction.open_table(LEASE)?;
        for (id, grant) in &self.leases {
            match grant {
                Some(grant) => put_lease(&mut table, *id, *grant)?,
                None => {
                    table.remove(id.0 as u64)?;
                }
            }
        }
        Ok(())
    }
}

/// Appends rows at the right edge of both trees, one tree after the other.
pub(crate) fn put_rows<'a, I: Iterator<Item = &'a Row>>(
    transaction: &WriteTransaction,
    file: &FileName,
    rows: impl Fn() -> I,
) -> Result<(), StoreError> {
    let put = || -> Result<(), redb::Error> {
        let mut table = transaction.open_table(KEY)?;
        for row in rows() {
            let key = format::row_key(row.revision);
            let mut value = table.insert_reserve(&key, format::row_value_len(row))?;
            format::write_row(row, &key, value.as_mut());
        }
        let mut narrow = transaction.open_table(NARROW)?;
        let mut value = Vec::new();
        for row in rows() {
            let key = format::row_key(row.revision);
            let fields = Fields::parse(&row.encoded).expect("a row is parsed before it gets here");
            format::write_narrow(row, &fields, &key, &mut value);
            narrow.insert(&key, &value[..])?;
        }
        Ok(())
    };
    put().map_err(|error| StoreError::database(file, "writing rows", error))
}

/// Writes the record of a lease.
pub(crate) fn put_lease(
    table: &mut Table<'_, u64, &'static [u8]>,
    id: LeaseId,
    grant: Grant,
) -> Result<(), redb::Error> {
    let key = id.0 as u64;
    let payload = grant.to_record(id).encode_to_vec();
    let value = format::sealed(format::LEASE_TABLE, &key.to_be_bytes(), &payload);
    table.insert(key, &value[..])?;
    Ok(())
}

/// Writes all records of the table `meta`.
pub(crate) fn put_state(
    transaction: &WriteTransaction,
    file: &FileName,
    record: &StateRecord,
    conf_state: &ConfState,
    membership: &Membership,
    alarms: &Alarms,
) -> Result<(), StoreError> {
    let alarms = AlarmResponse { header: None, alarms: alarms.all().to_vec() };
    let membership = serde_json::to_vec(membership).expect("strings and numbers become JSON");
    put_meta(transaction, file, format::STATE, &record.encode())?;
    put_meta(transaction, file, format::CONF_STATE, &conf_state.encode_to_vec())?;
    put_meta(transaction, file, format::MEMBERSHIP, &membership)?;
    put_meta(transaction, file, format::ALARMS, &alarms.encode_to_vec())
}

/// Deletes the rows of a slice from both tables.
fn delete_rows(
    database: &Database,
    file: &FileName,
    slice: &Slice,
    before: StateRecord,
) -> Result<StateRecord, StoreError> {
    let failed = |error: redb::Error| StoreError::database(file, "deleting compacted rows", error);
    let missing = |table: &str, row| {
        StoreError::damaged(file, format!("table {table}, row {row}: missing, found while compacting"))
    };
    let transaction = begin(database, file)?;
    let mut record = before;
    {
        let mut table = transaction.open_table(KEY).map_err(|error| failed(error.into()))?;
        let mut narrow = transaction.open_table(NARROW).map_err(|error| failed(error.into()))?;
        for row in &slice.doomed {
            let key = format::row_key(*row);
            let value = table.remove(&key).map_err(|error| failed(error.into()))?;
            let value_len = value.map(|value| format::encoded_len(value.value()));
            let bytes = value_len.ok_or_else(|| missing(format::KEY_TABLE, row))? as u64 + format::ROW_OVERHEAD_BYTES;
            if narrow.remove(&key).map_err(|error| failed(error.into()))?.is_none() {
                return Err(missing(format::NARROW_TABLE, row));
            }
            let (Some(rows), Some(row_bytes)) = (record.row_count.checked_sub(1), record.row_bytes.checked_sub(bytes))
            else {
                return Err(StoreError::damaged(
                    file,
                    format!("table key, row {row}: more rows than the state counts"),
                ));
            };
            record.row_count = rows;
            record.row_bytes = row_bytes;
        }
    }
    if let Some(finished) = slice.finishes {
        record.compact_finished = finished;
    }
    put_meta(&transaction, file, format::STATE, &record.encode())?;
    commit(transaction, file)?;
    Ok(record)
}
