//! Room on the disk: what is done before it is used up, and after there is some again.
//!
//! 1. Once a second the member looks how much is free where its log and its database are. Below the *reserve* (the log's next
//!    segment, and all rows that may wait for the database) it raises the NOSPACE alarm in its own name, as it does for its
//!    quota: the whole cluster refuses what would make it grow, while reads, deletes and compactions go on.
//! 2. When twice the reserve is free again, it takes the alarm back. A file beside the database, the *note*, remembers, also
//!    over a restart, that the alarm was for the disk: one for the quota is the operator's to disarm, as in etcd. An alarm that
//!    was asked for may take effect much later, also after who asked has died and started again: the note goes only when no
//!    alarm was seen for so long that none can be on its way, and the leader was asked. An alarm for the quota in just that
//!    time is taken back, too; the next write that does not fit raises it again.
//! 3. The alarm of a member that was removed is nobody's own any more, and no operator can make room for it: the leader takes it
//!    back. Whoever else has no room says so himself.
//! 4. Who fills a disk faster than that finds a log that has its next segment ahead, and a database that is not written to
//!    before there is room for it ([`wait_for_room`]): rows stay in memory and are read there. A write that fails all the same
//!    stops the member, and it must be started again when there is room.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::disk::OpenMode;
use quorate_runtime::spawn::{self, Worker, WorkerGone};
use quorate_runtime::{Rt, bug, mark, select};
use quorate_types::MemberId;

use crate::{Member, MemberConfig};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a flush needs beside its rows: pages that it copies, and the allocator's state.
const FLUSH_OVERHEAD_BYTES: u64 = 256 << 10;

/// Runs until the member stops.
pub async fn watch(member: Member) {
    let worker = member.runtime().worker("disk-room");
    select! {
        biased;
        () = member.stopping() => {}
        () = look_again_and_again(&member, &worker) => {}
    }
}

async fn look_again_and_again(member: &Member, worker: &Arc<dyn Worker>) {
    let mut had_failed = false;
    let mut watch = Watch { note: Note::Unknown, calm_since: member.runtime().mono_now() };
    loop {
        member.runtime().sleep(LOOK_INTERVAL).await;
        match watch.look(member, worker).await {
            Ok(()) => had_failed = false,
            Err(error) if !had_failed => {
                had_failed = true;
                tracing::warn!(error = %error, "cannot watch the room on the disk; trying again");
            }
            Err(_again) => {}
        }
    }
}

/// Whether the file that remembers is there, as far as we know. Only we make and remove it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Note {
    Unknown,
    Missing,
    There,
}

struct Watch {
    note: Note,
    /// Since then we neither saw our alarm nor asked for it.
    calm_since: MonoTime,
}

impl Watch {
    async fn look(&mut self, member: &Member, worker: &Arc<dyn Worker>) -> io::Result<()> {
        take_back_for_the_removed(member).await;
        let reserve_bytes = reserve_bytes(member.config());
        let free_bytes = on(worker, member, free_bytes).await?;
        let is_raised = is_raised(member);
        if is_raised {
            self.calm_since = member.runtime().mono_now();
        }
        if free_bytes < reserve_bytes && !is_raised {
            tracing::warn!(
                free_bytes,
                reserve_bytes,
                "the disk is nearly full: raising the NOSPACE alarm; it is taken back when twice the reserve is free"
            );
            self.note = Note::Unknown;
            on(worker, member, remember).await?;
            self.note = Note::There;
            mark!("disk_alarm_raised");
            set_alarm(member, AlarmAction::Activate).await;
            self.calm_since = member.runtime().mono_now();
        } else if free_bytes >= 2 * reserve_bytes && self.note != Note::Missing {
            if self.note == Note::Unknown {
                let is_there = on(worker, member, is_remembered).await?;
                self.note = if is_there { Note::There } else { Note::Missing };
            } else if is_raised {
                tracing::info!(free_bytes, "there is room on the disk again: taking the NOSPACE alarm back");
                mark!("disk_alarm_taken_back");
                set_alarm(member, AlarmAction::Deactivate).await;
            } else if self.is_calm_for_good(member).await {
                self.note = Note::Unknown;
                on(worker, member, forget).await?;
                self.note = Note::Missing;
            }
        }
        Ok(())
    }

    /// No alarm of ours is on its way any more: whoever proposes something, here or at the leader that it is passed on to,
    /// gives it up after the request's time.
    async fn is_calm_for_good(&self, member: &Member) -> bool {
        let calm = member.runtime().mono_now() - self.calm_since;
        bug!("alarm-for-the-disk-forgotten")
            || calm >= 3 * member.config().request_timeout() && member.linearize().await.is_ok() && !is_raised(member)
    }
}

/// Runs `ask` where it may wait for the disk.
async fn on<T: Send + 'static>(
    worker: &Arc<dyn Worker>,
    member: &Member,
    ask: fn(&Rt, &MemberConfig) -> io::Result<T>,
) -> io::Result<T> {
    let (rt, config) = (member.runtime().clone(), member.config().clone());
    match spawn::run_on(&**worker, move || ask(&rt, &config)).await {
        Ok(answer) => answer,
        // The worker goes only when the process does.
        Err(WorkerGone) => std::future::pending().await,
    }
}

/// Less than this must not be left: the log's next segment, and all rows that may wait for the database.
fn reserve_bytes(config: &MemberConfig) -> u64 {
    config.wal_segment_bytes + config.pending_bytes_max as u64
}

/// Whether the database can be copied. If that cannot be found out, the copy shall try. The error says what is missing.
pub async fn check_room_for_a_copy(member: &Member, worker: &Arc<dyn Worker>) -> Result<(), String> {
    let Ok(free_bytes) = on(worker, member, free_bytes).await else { return Ok(()) };
    // What a database takes beside its rows is less than they take.
    let copy_bytes = 2 * member.view().db_size_in_use_bytes();
    let needed_bytes = copy_bytes + reserve_bytes(member.config());
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(format!(
        "no room on the disk for a copy of the database: {free_bytes} bytes are free, {needed_bytes} are needed, of which the \
         copy may take {copy_bytes}. Make room and try again; the database is as it was"
    ))
}

fn free_bytes(rt: &Rt, config: &MemberConfig) -> io::Result<u64> {
    Ok(rt.free_space_bytes(&config.wal_path())?.min(rt.free_space_bytes(&config.snap_dir())?))
}

fn is_raised(member: &Member) -> bool {
    let view = member.view();
    view.alarms().iter().any(|raised| raised.member_id == member.id().0 && raised.alarm() == AlarmType::Nospace)
}

async fn take_back_for_the_removed(member: &Member) {
    if member.raft_status().leader != Some(member.id()) || bug!("alarm-of-a-removed-member-stays") {
        return;
    }
    let view = member.view();
    let is_removed = |accused: &MemberId| view.removed().binary_search(accused).is_ok();
    let raised = view.alarms().iter().filter(|raised| raised.alarm() == AlarmType::Nospace);
    for accused in raised.map(|raised| MemberId(raised.member_id)).filter(is_removed) {
        tracing::info!(removed_member_id = %accused, "taking back the NOSPACE alarm of a member that was removed");
        mark!("alarm_of_a_removed_member_taken_back");
        set_alarm_of(member, accused, AlarmAction::Deactivate).await;
    }
}

async fn set_alarm(member: &Member, action: AlarmAction) {
    set_alarm_of(member, member.id(), action).await;
}

async fn set_alarm_of(member: &Member, accused: MemberId, action: AlarmAction) {
    let alarm = AlarmRequest { action: action as i32, member_id: accused.0, alarm: AlarmType::Nospace as i32 };
    let request = InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() };
    if let Err(error) = member.propose(request).await {
        tracing::warn!(%error, "could not change the NOSPACE alarm; trying again");
    }
}

const NOTE: &str = "nospace-for-disk";

fn remember(rt: &Rt, config: &MemberConfig) -> io::Result<()> {
    rt.open(&config.member_dir().join(NOTE), OpenMode::OpenOrCreate)?;
    rt.sync_dir(&config.member_dir())
}

fn is_remembered(rt: &Rt, config: &MemberConfig) -> io::Result<bool> {
    match rt.metadata(&config.member_dir().join(NOTE)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn forget(rt: &Rt, config: &MemberConfig) -> io::Result<()> {
    rt.remove_file(&config.member_dir().join(NOTE))?;
    rt.sync_dir(&config.member_dir())
}

/// Waits until the file system of `directory` has room for a flush of `row_bytes`. If that cannot be found out, the flush shall
/// try.
pub async fn wait_for_room(rt: &Rt, worker: &Arc<dyn Worker>, directory: &Path, row_bytes: u64) {
    // Rows are written to two tables, and pages are copied before they are changed.
    let needed_bytes = 4 * row_bytes + FLUSH_OVERHEAD_BYTES;
    let mut has_told = false;
    loop {
        let (disk, path) = (rt.clone(), directory.to_path_buf());
        let free = spawn::run_on(&**worker, move || disk.free_space_bytes(&path)).await;
        match free {
            Ok(Ok(free_bytes)) if free_bytes < needed_bytes => {
                if !has_told {
                    has_told = true;
                    mark!("flush_waited_for_room");
                    tracing::warn!(
                        free_bytes,
                        needed_bytes,
                        "no room on the disk: the database is written when there is"
                    );
                }
                rt.sleep(LOOK_INTERVAL).await;
            }
            _ => return,
        }
    }
}
