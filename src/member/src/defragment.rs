//! Defragmentation, as an operator asks for it: who wants one, and who is told what came of it.
//!
//! The store copies its database while entries go on (`quorate_store`, `defragment`). Who asks while that is under way gets one
//! of his own, after it: what was compacted meanwhile is still in the copy. A snapshot that is installed ends it, well: its
//! database is as dense as a copy.
//!
//! A member may be told to do so when it starts (`--bootstrap-defrag-threshold-megabytes`). etcd then copies before it serves
//! anybody; here the copy is made as every other one, while the member serves. Nor does the start fail with it.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::clock::MonoTime;
use quorate_runtime::mark;
use quorate_runtime::sync::oneshot;
use quorate_store::{Defragmented, Store, StoreError, View};
use quorate_types::{Error, GoDuration};

use crate::human_bytes::HumanBytes;
use crate::shared::StateQuestion;
use crate::{Member, disk_room};

/// A defragmentation that did not take place. The database is as it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DefragmentError {
    /// This member stops.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The disk has no room for it, or failed, or what it holds is damaged.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// Told once it has ended.
pub type Reply = oneshot::Sender<Result<(), DefragmentError>>;

impl Member {
    /// Copies the database into a new file, without what was given back, and goes on with that. Requests are served meanwhile.
    pub async fn defragment(&self) -> Result<(), DefragmentError> {
        let failed = |text: String| DefragmentError::Failed(text.into());
        disk_room::check_room_for_a_copy(self, &self.inner.hash_worker).await.map_err(failed)?;
        let (reply, answer) = oneshot::channel();
        let asked = self.inner.state_questions.send(StateQuestion::Defragment { reply });
        asked.map_err(|_gone| DefragmentError::Refused(Error::Stopped))?;
        answer.await.unwrap_or(Err(DefragmentError::Refused(Error::Stopped)))
    }
}

/// When a member starts: defragments its database, if that gives back at least `threshold_bytes` (etcd
/// `server/etcdserver/bootstrap.go`).
pub async fn at_start(member: Member, threshold_bytes: u64) {
    let sizes = Sizes::of(&member.view());
    if sizes.total_bytes.saturating_sub(sizes.in_use_bytes) < threshold_bytes {
        tracing::info!(
            current_db_size_bytes = sizes.total_bytes,
            current_db_size = %HumanBytes(sizes.total_bytes),
            current_db_size_in_use_bytes = sizes.in_use_bytes,
            current_db_size_in_use = %HumanBytes(sizes.in_use_bytes),
            bootstrap_defrag_threshold_bytes = threshold_bytes,
            bootstrap_defrag_threshold = %HumanBytes(threshold_bytes),
            "Skipping defragmentation"
        );
        return;
    }
    if let Err(error) = member.defragment().await {
        tracing::warn!(%error, "the database is not defragmented at this start");
    }
}

/// The apply loop's side.
#[derive(Default)]
pub struct Defragmentations {
    /// The next one is theirs.
    waiting: Vec<Reply>,
    /// One is under way.
    current: Option<Current>,
}

struct Current {
    replies: Vec<Reply>,
    begun_at: MonoTime,
    before: Sizes,
}

#[derive(Clone, Copy)]
struct Sizes {
    total_bytes: u64,
    in_use_bytes: u64,
}

impl Sizes {
    fn of(view: &View) -> Self {
        Self { total_bytes: view.db_size_bytes(), in_use_bytes: view.db_size_in_use_bytes() }
    }
}

impl Defragmentations {
    /// Somebody wants one.
    pub fn want(&mut self, reply: Reply) {
        self.waiting.push(reply);
    }

    /// One is under way.
    pub fn is_active(&self) -> bool {
        self.current.is_some()
    }

    /// Begins what is wanted, unless one is under way.
    pub fn begin(&mut self, store: &mut Store, now: MonoTime) {
        if self.waiting.is_empty() || self.current.is_some() {
            return;
        }
        let before = Sizes::of(&store.reader().view());
        tracing::info!(
            current_db_size_bytes = before.total_bytes,
            current_db_size = %HumanBytes(before.total_bytes),
            current_db_size_in_use_bytes = before.in_use_bytes,
            current_db_size_in_use = %HumanBytes(before.in_use_bytes),
            "defragmenting"
        );
        store.defragment();
        self.current = Some(Current { replies: std::mem::take(&mut self.waiting), begun_at: now, before });
    }

    /// The one that is under way has ended. Returns the database that it has replaced and how long it took.
    pub fn end(
        &mut self,
        ended: Result<Defragmented, StoreError>,
        store: &Store,
        now: MonoTime,
    ) -> Option<(Defragmented, Duration)> {
        let Current { replies, begun_at, before } = self.current.take().expect("one was begun");
        let took = now - begun_at;
        match ended {
            Ok(defragmented) => {
                let after = Sizes::of(&store.reader().view());
                tracing::info!(
                    current_db_size_bytes_diff = after.total_bytes.cast_signed() - before.total_bytes.cast_signed(),
                    current_db_size_bytes = after.total_bytes,
                    current_db_size = %HumanBytes(after.total_bytes),
                    current_db_size_in_use_bytes_diff =
                        after.in_use_bytes.cast_signed() - before.in_use_bytes.cast_signed(),
                    current_db_size_in_use_bytes = after.in_use_bytes,
                    current_db_size_in_use = %HumanBytes(after.in_use_bytes),
                    took = %GoDuration::from(took),
                    "finished defragmenting directory"
                );
                mark!("defragmented");
                answer(replies, &Ok(()));
                Some((defragmented, took))
            }
            Err(error) => {
                tracing::warn!(%error, "failed to defragment; the database is as it was");
                answer(replies, &Err(DefragmentError::Failed(error.to_string().into())));
                None
            }
        }
    }

    /// A new database has taken the place of the one that was copied.
    pub fn overtaken(&mut self) {
        if let Some(current) = self.current.take() {
            mark!("defragmentation_overtaken");
            answer(current.replies, &Ok(()));
        }
    }
}

fn answer(replies: Vec<Reply>, result: &Result<(), DefragmentError>) {
    for reply in replies {
        // Who asked may have gone away.
        let _ = reply.send(result.clone());
    }
}
