//! The replicated state machine: all that members agree on, over one database file.
//!
//! How an entry becomes state. The apply loop owns the [`Store`] and hands it each committed entry as a [`Command`]
//! ([`Store::start`]); `apply` is the only door. The effect is in memory alone: the key index, the pending rows, leases,
//! alarms, members. After a batch of entries [`Store::publish`] announces that there is news, and whoever waits may be
//! answered. Readers take the newest [`View`] from a [`Reader`], on any thread; who reads for the first time in a while waits
//! for the entry that is being applied.
//!
//! How state becomes durable. The log already is; the database follows behind, to let the log be cut. About every 100 ms
//! [`Store::take_job`] seals what is pending into a [`Job`], a thread that may block runs it, one transaction, and
//! [`Store::finish_job`] publishes the same view on the new file before the pending rows go. The file thus always holds the
//! state after exactly one entry, whose index it holds too; after a crash, [`Store::open`] reads it and the log tells the
//! rest.
//!
//! | file | holds |
//! |---|---|
//! | `store` | the writer: entries in, views and jobs out |
//! | `apply` | what an entry does |
//! | `mvcc` | keys, revisions, ranges, transactions, compaction |
//! | `lease` `alarm` `membership` `quota` | a state machine each |
//! | `view` `publish` | what readers see, and how it gets to them |
//! | `pending` `rows` `row_cache` `row_scan` | rows in memory, where a row is found, and all of them in order |
//! | `watch` | who is told of which keys, and what they were not told yet |
//! | `hash_kv` | etcd's hash over rows, by which members find out that they differ |
//! | `snapshot` | the whole state as etcd's snapshot file, and back |
//! | `flush` `open` `format` `backend` | writing and reading the file |
//! | `defragment` | the same in a new file, without what was given back |
//! | `operations` | what entries did, counted |
//!
//! There is no clock, no thread and no network here; the only I/O is the database's, through the runtime's disk.

mod alarm;
mod apply;
mod backend;
mod defragment;
mod error;
mod flush;
mod format;
mod hash_kv;
mod lease;
mod membership;
pub mod mvcc;
mod open;
mod operations;
mod pending;
mod publish;
mod quota;
mod row_cache;
mod row_scan;
mod rows;
mod snapshot;
mod state;
mod store;
mod sync;
#[cfg(test)]
mod testing;
mod view;
pub mod watch;

pub use apply::{Command, Outcome, Progress, Response};
pub use error::{ReadError, StoreError};
pub use flush::{Job, JobOutcome};
pub use hash_kv::{CompactionHash, HashKv};
pub use lease::Grant;
pub use membership::{Member, Membership};
pub use mvcc::txn::is_read_only;
pub use operations::Operations;
pub use snapshot::{Imported, SnapshotExport, SnapshotSource, import_snapshot};
pub use store::{Compacted, Defragmented, Finished, Retired, Store, StoreOptions};
pub use view::{Reader, View};
