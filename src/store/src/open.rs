//! Making a database, and reading one back.
//!
//! A new file is complete before it has its name: it is made beside the place, with an empty state in it, synced, renamed,
//! and the directory is synced. A crash on the way leaves at most the file under its temporary name, which the next attempt
//! removes.
//!
//! Opening reads the records of `meta`, the leases, and the narrow table; values stay where they are. Every byte read is
//! checked, and so is what they say of each other. What does not fit is damage, and nothing is written over it.

use std::ops::ControlFlow;
use std::path::Path;

use prost::Message as _;
use quorate_proto::etcdserverpb::AlarmResponse;
use quorate_proto::leasepb;
use quorate_proto::raftpb::ConfState;
use quorate_runtime::bug;
use quorate_runtime::disk::{Disk, OpenMode, parent_dir};
use quorate_types::{LeaseId, Revision};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};

use crate::StoreOptions;
use crate::alarm::Alarms;
use crate::backend::{BackendOptions, OpenDatabase, open_database};
use crate::defragment;
use crate::error::{FileName, StoreError, guarded};
use crate::flush;
use crate::format::{self, FORMAT, StateRecord};
use crate::lease::{Grant, Leases};
use crate::membership::Membership;
use crate::mvcc::index::{IndexBuilder, IndexRow, KeyIndex, KeyRange, Written};
use crate::operations::Operations;
use crate::row_cache::RowCache;
use crate::rows::{Durable, KEY, LEASE, META, NARROW, Rows};
use crate::state::{Pending, State};
use crate::sync::Arc;

/// A store read back: the state in the file, and the file.
pub(crate) struct Opened {
    pub(crate) database: Arc<OpenDatabase>,
    pub(crate) cache: Arc<RowCache>,
    pub(crate) file: FileName,
    pub(crate) record: StateRecord,
    pub(crate) state: State,
}

/// The part of the cache that holds rows rather than pages. Where rows are missing the kernel's own cache has the pages.
fn row_cache_bytes(options: &StoreOptions) -> usize {
    options.cache_bytes / 4 * 3
}

pub(crate) fn backend_options(options: &StoreOptions) -> BackendOptions {
    BackendOptions {
        cache_bytes: options.cache_bytes - row_cache_bytes(options),
        unsafe_no_fsync: options.unsafe_no_fsync,
    }
}

/// Makes a database that holds an empty state. Nothing may be at `path`.
pub(crate) fn create(disk: &(dyn Disk + '_), path: &Path, options: &StoreOptions) -> Result<(), StoreError> {
    create_with(disk, path, options, |database, file| {
        let transaction = flush::begin(database, file)?;
        create_tables(&transaction, file)?;
        let (conf_state, membership, alarms) = (ConfState::default(), Membership::default(), Alarms::default());
        flush::put_state(&transaction, file, &StateRecord::EMPTY, &conf_state, &membership, &alarms)?;
        flush::commit(transaction, file)
    })
}

/// Makes the tables that hold more than one record.
pub(crate) fn create_tables(transaction: &WriteTransaction, file: &FileName) -> Result<(), StoreError> {
    let failed = |error| StoreError::database(file, "creating tables", error);
    transaction.open_table(KEY).map_err(failed)?;
    transaction.open_table(NARROW).map_err(failed)?;
    transaction.open_table(LEASE).map_err(failed)?;
    Ok(())
}

/// Makes a database that holds what `fill` puts into it, whole or not at all. Nothing may be at `path`.
pub(crate) fn create_with<T>(
    disk: &(dyn Disk + '_),
    path: &Path,
    options: &StoreOptions,
    fill: impl FnOnce(&Database, &FileName) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if disk.exists(path).map_err(|error| StoreError::io(path, "looking for the file", error))? {
        return Err(StoreError::io(path, "creating the database", std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    if disk.exists(unfinished).map_err(|error| StoreError::io(unfinished, "looking for the file", error))? {
        disk.remove_file(unfinished)
            .map_err(|error| StoreError::io(unfinished, "removing an unfinished file", error))?;
    }
    let file: FileName = unfinished.into();
    let filled = guarded(unfinished, "creating the database", || {
        let database = open_database(disk, unfinished, OpenMode::CreateNew, &backend_options(options))?;
        fill(&database, &file)
    })?;
    disk.rename(unfinished, path).map_err(|error| StoreError::io(path, "naming the database", error))?;
    if !options.unsafe_no_fsync {
        let directory = parent_dir(path);
        disk.sync_dir(&directory).map_err(|error| StoreError::io(&directory, "syncing the directory", error))?;
    }
    Ok(filled)
}

/// Reads a database back.
pub(crate) fn open(disk: &(dyn Disk + '_), path: &Path, options: &StoreOptions) -> Result<Opened, StoreError> {
    let file: FileName = path.into();
    defragment::remove_left_over(disk, path)?;
    guarded(path, "opening the database", || {
        let database = open_database(disk, path, OpenMode::ReadWrite, &backend_options(options))?;
        let transaction =
            database.begin_read().map_err(|error| StoreError::database(&file, "beginning to read", error))?;
        let reading = Reading { transaction, file: &file };
        let record = reading.state_record()?;
        let conf_state = ConfState::decode(&reading.meta(format::CONF_STATE)?[..])
            .map_err(|error| reading.damaged("meta", format::CONF_STATE, error))?;
        let membership: Membership = serde_json::from_slice(&reading.meta(format::MEMBERSHIP)?)
            .map_err(|error| reading.damaged("meta", format::MEMBERSHIP, error))?;
        if !membership.is_consistent() {
            return Err(reading.damaged("meta", format::MEMBERSHIP, "ids out of order"));
        }
        let alarms = AlarmResponse::decode(&reading.meta(format::ALARMS)?[..])
            .map_err(|error| reading.damaged("meta", format::ALARMS, error))?;
        let mut leases = reading.leases()?;
        let index = reading.index(&record)?;
        let cache = Arc::new(RowCache::new(row_cache_bytes(options)));
        attach(&index, &mut leases);
        let state = State {
            applied_index: record.applied_index,
            applied_term: record.applied_term,
            conf_state: Arc::new(conf_state),
            revision: match bug!("revision-of-the-surviving-rows") {
                true => index.keep_at(Revision(record.revision)).map(|row| row.main).max().unwrap_or(record.revision),
                false => record.revision,
            },
            compacted: record.compact_scheduled,
            compacted_before: None,
            compaction_hashes: Arc::default(),
            index,
            rows: Rows::new(Durable::begin(&database, &cache, &file, &record)?),
            leases,
            alarms: match bug!("alarms-forgotten-at-restart") {
                true => Alarms::default(),
                false => Alarms::restore(alarms.alarms),
            },
            membership: Arc::new(membership),
            row_bytes: record.row_bytes,
            row_bytes_high: record.row_bytes_high,
            pending: Pending::default(),
            operations: Operations::default(),
        };
        Ok(Opened { database: Arc::new(database), cache, file: file.clone(), record, state })
    })
}

/// Hangs the living keys on the leases that they name.
fn attach(index: &KeyIndex, leases: &mut Leases) {
    index.scan(&KeyRange::all(), |key, version| {
        if version.lease != LeaseId::NONE {
            leases.moved(key, LeaseId::NONE, version.lease);
        }
        ControlFlow::Continue(())
    });
}

struct Reading<'a> {
    transaction: ReadTransaction,
    file: &'a FileName,
}

impl Reading<'_> {
    fn damaged(&self, table: &str, key: impl std::fmt::Display, what: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(self.file, format!("table {table}, {key}: {what}"))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            // Creation ends with all tables in place.
            redb::Error::TableDoesNotExist(table) => StoreError::damaged(self.file, format!("table {table}: missing")),
            error => StoreError::database(self.file, "reading the database", error),
        }
    }

    /// A record of the table `meta`, checked.
    fn meta(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let table = self.transaction.open_table(META).map_err(|error| self.failed(error))?;
        let value = table.get(name).map_err(|error| self.failed(error))?;
        let value = value.ok_or_else(|| self.damaged("meta", name, "missing"))?;
        let payload = format::opened(format::META_TABLE, name.as_bytes(), value.value());
        payload.map(<[u8]>::to_vec).ok_or_else(|| self.damaged("meta", name, "checksum mismatch"))
    }

    fn state_record(&self) -> Result<StateRecord, StoreError> {
        let payload = self.meta(format::STATE)?;
        let record = match StateRecord::decode(&payload) {
            Some((_, Some(record))) => record,
            Some((found, None)) if found > FORMAT => {
                return Err(StoreError::Format { file: self.file.to_path_buf(), found, known: FORMAT });
            }
            _ => return Err(self.damaged("meta", format::STATE, "not a state record")),
        };
        if record.revision < 1
            || record.compact_scheduled > record.revision
            || record.compact_finished > record.compact_scheduled
            || record.row_bytes > record.row_bytes_high
        {
            return Err(self.damaged("meta", format::STATE, format!("impossible state {record:?}")));
        }
        Ok(record)
    }

    fn leases(&self) -> Result<Leases, StoreError> {
        let mut leases = Leases::default();
        let table = self.transaction.open_table(LEASE).map_err(|error| self.failed(error))?;
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (key, value) = entry.map_err(|error| self.failed(error))?;
            let key = key.value();
            let at = || format!("lease {key:x}");
            let payload = format::opened(format::LEASE_TABLE, &key.to_be_bytes(), value.value())
                .ok_or_else(|| self.damaged("lease", at(), "checksum mismatch"))?;
            let record = leasepb::Lease::decode(payload).map_err(|error| self.damaged("lease", at(), error))?;
            let (id, grant) = Grant::from_record(&record);
            if id.0 as u64 != key {
                return Err(self.damaged("lease", at(), format!("holds lease {id}")));
            }
            leases.restore(id, grant);
        }
        Ok(leases)
    }

    /// The key index, from the narrow table alone.
    fn index(&self, record: &StateRecord) -> Result<KeyIndex, StoreError> {
        let wide = self.transaction.open_table(KEY).map_err(|error| self.failed(error))?;
        let table = self.transaction.open_table(NARROW).map_err(|error| self.failed(error))?;
        let wide_len = wide.len().map_err(|error| self.failed(error))?;
        if wide_len != record.row_count {
            let what = format!("{wide_len} rows, and {} were written", record.row_count);
            return Err(StoreError::damaged(self.file, format!("table key: {what}")));
        }
        let mut builder = IndexBuilder::default();
        let mut rows = 0;
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (key, value) = entry.map_err(|error| self.failed(error))?;
            let key = key.value();
            let row = format::row_revision(key);
            let narrow = format::read_narrow(key, value.value())
                .ok_or_else(|| self.damaged("narrow", format!("row {row}"), "checksum mismatch"))?;
            if row.main > record.revision {
                let what = format!("newer than the current revision {}", record.revision);
                return Err(self.damaged("narrow", format!("row {row}"), what));
            }
            let written =
                narrow.live.map(|live| Written { create: live.create, version: live.version, lease: live.lease });
            builder.push(IndexRow { key: narrow.key, row, written });
            rows += 1;
        }
        if rows != record.row_count {
            let what = format!("{rows} rows, and {} were written", record.row_count);
            return Err(StoreError::damaged(self.file, format!("table narrow: {what}")));
        }
        Ok(builder.finish())
    }
}
