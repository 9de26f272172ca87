//! The simulated disk: a page cache in front of a medium that forgets.
//!
//! A machine has one [`SimDisk`]; it outlives the processes that use it through a [`ProcessDisk`]. Calls are synchronous and act
//! on the cache at once. Each has a drawn duration:
//!
//! - On a worker the calls of a job line up, one after the other, from the moment the job began ([`SimDisk::begin_job`]); the
//!   worker then sleeps for the sum ([`SimDisk::end_job`]) before anyone hears of the result. So at any moment of true time
//!   some calls of the job are done, one is under way, and the others have not happened.
//! - Outside a job (recovery at start-up) a call takes no time and is done at once.
//!
//! **What the disk promises**: bytes and length written before a `sync_data` that has returned stay; so do names after a
//! `sync_dir`. **What it breaks**: at a power failure each 512-byte sector of the rest is kept, lost or torn on its own
//! (`file`), each change of a name is kept or lost on its own (`names`). A killed process on a living machine loses
//! nothing that it had written. From a kill on, every call of the dead process fails, *before* its tasks are dropped:
//! destructors that would commit must not turn a crash into a clean shutdown.
//!
//! A *fuse* places a crash at a call instead of at a time: after so many more changing calls the power fails somewhere inside
//! that call. Calls that take no time become reachable too.

pub mod file;
pub mod image;
pub mod names;
mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_runtime::disk::{Disk, File, FileLock, Metadata, OpenMode};
use quorate_runtime::sync::Notify;

use crate::world::clock::{self, SimTime};
use crate::world::dice::{Dice, Latency};
use crate::world::disk::file::{CachedFile, Change};
use crate::world::disk::names::{CachedDirectory, NameChange, NodeId};
use crate::world::lock;
use crate::world::trace::{Event, Trace};

/// How the disk behaves; may be changed at any time.
#[derive(Clone, Copy, Debug)]
pub struct DiskKnobs {
    /// One read (mostly from the cache).
    pub read: Latency,
    /// One write into the cache.
    pub write: Latency,
    /// Flushing the cache, or any change of a name.
    pub sync: Latency,
    /// All durations times this, in percent.
    pub slowness_percent: u64,
    /// So many of a million reads fail with EIO.
    pub read_errors_per_million: u64,
    /// So many of a million writes fail with EIO and write nothing.
    pub write_errors_per_million: u64,
    /// So many of a million syncs fail with EIO and may have lost the data for good.
    pub sync_errors_per_million: u64,
    /// Size of the medium; a write beyond it fails with ENOSPC. `None` is endless.
    pub capacity_bytes: Option<u64>,
}

impl Default for DiskKnobs {
    fn default() -> Self {
        const fn micros(base: u64, spread: u64, tail_per_million: u64, tail: u64) -> Latency {
            Latency { base_ns: base * 1000, spread_ns: spread * 1000, tail_per_million, tail_ns: tail * 1000 }
        }
        Self {
            read: micros(2, 20, 1000, 5000),
            write: micros(2, 20, 500, 2000),
            sync: micros(80, 900, 20_000, 30_000),
            slowness_percent: 100,
            read_errors_per_million: 0,
            write_errors_per_million: 0,
            sync_errors_per_million: 0,
            capacity_bytes: None,
        }
    }
}

/// What happened on a disk, for the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Kills and power failures.
    pub crashes: u64,
    /// Power failures that lost or tore bytes which had been written and not synced.
    pub crashes_with_loss: u64,
    /// Those among them that tore a sector.
    pub crashes_with_torn_sectors: u64,
    /// Power failures that lost a change of a name.
    pub crashes_with_lost_names: u64,
    /// Bytes lost or torn.
    pub bytes_lost: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
    /// Errors that were injected.
    pub errors: u64,
}

impl std::ops::AddAssign for DiskCounters {
    fn add_assign(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.crashes_with_loss += other.crashes_with_loss;
        self.crashes_with_torn_sectors += other.crashes_with_torn_sectors;
        self.crashes_with_lost_names += other.crashes_with_lost_names;
        self.bytes_lost += other.bytes_lost;
        self.writes += other.writes;
        self.syncs += other.syncs;
        self.errors += other.errors;
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It exited. The page cache survives.
    Exit,
    /// `kill -9`: the page cache survives.
    Kill,
    /// The machine loses power: the page cache is gone.
    PowerFailure,
}

/// A machine's disk.
pub struct SimDisk {
    state: Mutex<State>,
    /// Rings when a fuse has blown.
    fuse_blown: Notify,
}

struct State {
    machine: u64,
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    locked: BTreeSet<NodeId>,
    /// The process that may use the disk; 0 is none.
    process: u64,
    last_process: u64,
    /// Where the running job's calls have got to.
    cursor: Option<SimTime>,
    fuse: Option<Fuse>,
    /// A sync has failed since the machine was last without power: its cache may show what the medium does not hold.
    sync_failed: bool,
    knobs: DiskKnobs,
    dice: Dice,
    trace: Trace,
    counters: DiskCounters,
}

enum Node {
    File(CachedFile),
    Directory(CachedDirectory),
}

enum Fuse {
    /// So many more changing calls succeed.
    Burning(u64),
    /// The power fails at this time.
    Blown(SimTime),
}

/// The kinds of call, for durations and the trace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read = 1,
    Write = 2,
    SetLen = 3,
    Sync = 4,
    Name = 5,
    SyncDirectory = 6,
}

const ROOT: NodeId = 0;

impl SimDisk {
    /// An empty disk of machine number `machine`, with the durable directory `/var/lib`.
    pub fn new(machine: u64, dice: Dice, trace: Trace) -> Arc<Self> {
        let mut nodes = BTreeMap::new();
        nodes.insert(ROOT, Node::Directory(CachedDirectory::default()));
        let disk = Arc::new(Self {
            state: Mutex::new(State {
                machine,
                nodes,
                next_node: ROOT + 1,
                locked: BTreeSet::new(),
                process: 0,
                last_process: 0,
                cursor: None,
                fuse: None,
                sync_failed: false,
                knobs: DiskKnobs::default(),
                dice,
                trace,
                counters: DiskCounters::default(),
            }),
            fuse_blown: Notify::new(),
        });
        disk.format();
        disk.state().counters = DiskCounters::default();
        disk
    }

    /// Puts a new medium in the place of the old one, with none of its faults. There must be no process.
    pub fn replace(self: &Arc<Self>) {
        let counters = {
            let mut state = self.state();
            assert_eq!(state.process, 0, "somebody still uses the disk");
            state.nodes.clear();
            state.nodes.insert(ROOT, Node::Directory(CachedDirectory::default()));
            state.sync_failed = false;
            state.knobs = DiskKnobs::default();
            state.counters
        };
        self.format();
        self.state().counters = counters;
    }

    fn format(self: &Arc<Self>) {
        let installer = self.begin_process();
        for path in ["/var/lib", "/var", "/"] {
            installer.create_dir_all(Path::new(path)).expect("an empty disk takes a directory");
            installer.sync_dir(Path::new(path)).expect("an empty disk syncs");
        }
        self.end_process(Death::Exit, clock::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives the disk to a new process. There must be none.
    pub fn begin_process(self: &Arc<Self>) -> ProcessDisk {
        let mut state = self.state();
        assert_eq!(state.process, 0, "a disk serves one process at a time");
        state.last_process += 1;
        state.process = state.last_process;
        state.fuse = None;
        state.cursor = None;
        ProcessDisk { disk: Arc::clone(self), process: state.process }
    }

    /// The process died at `at` (not later than now): from here on its calls fail, its locks are free, and the disk holds what
    /// such a death leaves.
    pub fn end_process(&self, death: Death, at: SimTime) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.process = 0;
        state.locked.clear();
        state.cursor = None;
        state.fuse = None;
        state.sync_failed &= death != Death::PowerFailure;
        state.counters.crashes += u64::from(death != Death::Exit);
        let (mut loss_bytes, mut torn_sectors, mut names_lost) = (0, 0, 0);
        for node in state.nodes.values_mut() {
            match (node, death) {
                (Node::File(file), Death::Exit | Death::Kill) => file.process_died(at),
                (Node::Directory(directory), Death::Exit | Death::Kill) => directory.process_died(at),
                (Node::File(file), Death::PowerFailure) => {
                    let loss = file.power_failed(at, &mut state.dice);
                    loss_bytes += loss.bytes;
                    torn_sectors += loss.torn_sectors;
                }
                (Node::Directory(directory), Death::PowerFailure) => {
                    names_lost += directory.power_failed(at, &mut state.dice);
                }
            }
        }
        state.counters.crashes_with_loss += u64::from(loss_bytes > 0);
        state.counters.crashes_with_torn_sectors += u64::from(loss_bytes > 0 && torn_sectors > 0);
        state.counters.crashes_with_lost_names += u64::from(names_lost > 0);
        state.counters.bytes_lost += loss_bytes;
        state.collect_unreachable();
        state.trace.note(Event::Disk, &[state.machine, loss_bytes, torn_sectors, names_lost], b"crash");
    }

    /// The calls that follow belong to a job that begins now.
    pub fn begin_job(&self) {
        self.state().cursor = Some(clock::now());
    }

    /// The job's calls are made; returns how long they take together.
    pub fn end_job(&self) -> Duration {
        let end = self.state().cursor.take();
        end.map_or(Duration::ZERO, |end| end.since(clock::now()))
    }

    /// Lets the power fail inside the changing call after the next `calls`.
    pub fn light_fuse(&self, calls: u64) {
        self.state().fuse = Some(Fuse::Burning(calls));
    }

    /// Takes an unblown fuse away.
    pub fn remove_fuse(&self) {
        let mut state = self.state();
        if matches!(state.fuse, Some(Fuse::Burning(_))) {
            state.fuse = None;
        }
    }

    /// Waits until the fuse has blown; returns when the power fails (never in the past).
    pub async fn fuse_blown(&self) -> SimTime {
        loop {
            let rung = self.fuse_blown.notified();
            if let Some(Fuse::Blown(at)) = self.state().fuse {
                return at;
            }
            rung.await;
        }
    }

    /// True from the moment a fuse has blown until the process is ended.
    pub fn is_fuse_blown(&self) -> bool {
        matches!(self.state().fuse, Some(Fuse::Blown(_)))
    }

    /// True if a sync has failed since the machine was last without power.
    pub fn has_failed_to_sync(&self) -> bool {
        self.state().sync_failed
    }

    /// Changes the knobs.
    pub fn tune(&self, change: impl FnOnce(&mut DiskKnobs)) {
        change(&mut self.state().knobs);
    }

    /// What happened so far.
    pub fn counters(&self) -> DiskCounters {
        self.state().counters
    }

    /// Bytes that files and directories take up now.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Flips one bit of a file, on the medium and in the cache.
    pub fn rot(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state();
        let node = state.resolve(path)?;
        state.file(node)?.rot(offset, bit);
        Ok(())
    }
}

impl State {
    /// Counts, times and traces a call. Returns when it begins and ends, or the error that it gets instead.
    fn call(&mut self, call: Call, words: [u64; 3], bytes: &[u8], blown: &Notify) -> io::Result<(SimTime, SimTime)> {
        let latency = match call {
            Call::Read => self.knobs.read,
            Call::Write | Call::SetLen => self.knobs.write,
            Call::Sync | Call::Name | Call::SyncDirectory => self.knobs.sync,
        };
        let start = self.cursor.unwrap_or_else(clock::now);
        let mut end = start;
        if let Some(cursor) = &mut self.cursor {
            let mut cost_ns = latency.draw(&mut self.dice) * self.knobs.slowness_percent / 100;
            // About 1 GB/s through the cache.
            cost_ns += words[2].min(1 << 40);
            if call == Call::Name {
                cost_ns /= 20;
            }
            end = start.plus_nanos(cost_ns);
            *cursor = end;
        }
        let words = [self.machine, call as u64, words[0], words[1], words[2]];
        self.trace.note(Event::Disk, &words, bytes);
        if call != Call::Read {
            if matches!(self.fuse, Some(Fuse::Blown(at)) if at <= start && self.cursor.is_none()) {
                return Err(power_is_gone());
            }
            match &mut self.fuse {
                Some(Fuse::Burning(0)) => {
                    let at = start.plus_nanos(self.dice.below(end.since(start).as_nanos() as u64));
                    self.fuse = Some(Fuse::Blown(at));
                    blown.notify_waiters();
                    if start == end {
                        return Err(power_is_gone());
                    }
                }
                Some(Fuse::Burning(calls)) => *calls -= 1,
                _ => {}
            }
        }
        Ok((start, end))
    }

    fn injected(&mut self, per_million: u64) -> io::Result<()> {
        if self.dice.per_million(per_million) {
            self.counters.errors += 1;
            self.trace.note(Event::Fault, &[self.machine], b"input/output error");
            return Err(io::Error::other("input/output error (injected by the simulator)"));
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        let sizes = self.nodes.values().map(|node| match node {
            Node::File(file) => file.cache().len_bytes(),
            Node::Directory(_) => 4096,
        });
        sizes.sum()
    }

    fn room_for(&mut self, node: NodeId, new_len_bytes: u64) -> io::Result<()> {
        let Some(capacity_bytes) = self.knobs.capacity_bytes else { return Ok(()) };
        let grows_by = new_len_bytes.saturating_sub(self.file(node)?.cache().len_bytes());
        if grows_by > 0 && self.used_bytes() + grows_by > capacity_bytes {
            self.counters.errors += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"));
        }
        Ok(())
    }

    fn file(&mut self, node: NodeId) -> io::Result<&mut CachedFile> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn directory(&mut self, node: NodeId) -> io::Result<&mut CachedDirectory> {
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn resolve(&mut self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let name = name.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
                node = *self.directory(node)?.names().get(name).ok_or_else(|| not_found(path))?;
            }
        }
        Ok(node)
    }

    /// The directory that holds `path`, and the last name in it.
    fn resolve_parent(&mut self, path: &Path) -> io::Result<(NodeId, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.resolve(parent)?, name.to_owned()))
    }

    fn new_node(&mut self, node: Node) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    /// Forgets nodes without a name. Only between processes: an open file may have no name.
    fn collect_unreachable(&mut self) {
        let mut found = BTreeSet::from([ROOT]);
        let mut to_visit = vec![ROOT];
        while let Some(node) = to_visit.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&node) {
                to_visit.extend(directory.reachable().filter(|&child| found.insert(child)));
            }
        }
        self.nodes.retain(|id, _| found.contains(id));
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

fn power_is_gone() -> io::Error {
    io::Error::other("the simulated power failed")
}

/// A disk as one process sees it.
#[derive(Clone)]
pub struct ProcessDisk {
    disk: Arc<SimDisk>,
    process: u64,
}

impl ProcessDisk {
    /// The disk.
    pub fn machine_disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.process != self.process {
            return Err(io::Error::other("the simulated process is dead"));
        }
        Ok(state)
    }

    fn change_name(&self, state: &mut State, directory: NodeId, change: NameChange) -> io::Result<()> {
        let text = format!("{change:?}");
        let (start, end) = state.call(Call::Name, [directory, 0, 0], text.as_bytes(), &self.disk.fuse_blown)?;
        state.directory(directory)?.change(start, end, change);
        Ok(())
    }
}

impl Disk for ProcessDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut state = self.enter()?;
        let (directory, name) = state.resolve_parent(path)?;
        let existing = state.directory(directory)?.names().get(&name).copied();
        let node = match (existing, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(node), _) => node,
            (None, OpenMode::ReadOnly | OpenMode::ReadWrite) => return Err(not_found(path)),
            (None, OpenMode::CreateNew | OpenMode::OpenOrCreate) => {
                let node = state.new_node(Node::File(CachedFile::default()));
                self.change_name(&mut state, directory, NameChange::Link(name, node))?;
                node
            }
        };
        state.file(node)?;
        Ok(Box::new(OpenFile { owner: self.clone(), node, writable: mode != OpenMode::ReadOnly }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let mut state = self.enter()?;
        let node = state.resolve(path)?;
        Ok(match &state.nodes[&node] {
            Node::File(file) => Metadata { is_dir: false, len_bytes: file.cache().len_bytes() },
            Node::Directory(_) => Metadata { is_dir: true, len_bytes: 0 },
        })
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.enter()?;
        let node = state.resolve(path)?;
        Ok(state.directory(node)?.names().keys().cloned().collect())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        let mut node = ROOT;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let name = name.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
            node = match state.directory(node)?.names().get(name) {
                Some(&child) => child,
                None => {
                    let child = state.new_node(Node::Directory(CachedDirectory::default()));
                    self.change_name(&mut state, node, NameChange::Link(name.to_owned(), child))?;
                    child
                }
            };
            state.directory(node)?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        let (from_directory, from_name) = state.resolve_parent(from)?;
        let (to_directory, to_name) = state.resolve_parent(to)?;
        let names = state.directory(from_directory)?.names();
        let node = *names.get(&from_name).ok_or_else(|| not_found(from))?;
        if from_directory == to_directory {
            let change = NameChange::Rename { from: from_name, to: to_name, node };
            return self.change_name(&mut state, from_directory, change);
        }
        self.change_name(&mut state, to_directory, NameChange::Link(to_name, node))?;
        self.change_name(&mut state, from_directory, NameChange::Unlink(from_name))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        let node = state.resolve(path)?;
        state.file(node)?;
        let (directory, name) = state.resolve_parent(path)?;
        self.change_name(&mut state, directory, NameChange::Unlink(name))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        let node = state.resolve(path)?;
        state.directory(node)?;
        let (start, end) = state.call(Call::SyncDirectory, [node, 0, 0], &[], &self.disk.fuse_blown)?;
        state.counters.syncs += 1;
        let per_million = state.knobs.sync_errors_per_million;
        if let Err(error) = state.injected(per_million) {
            state.sync_failed = true;
            return Err(error);
        }
        state.directory(node)?.change(start, end, NameChange::Sync);
        Ok(())
    }

    fn free_space_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.enter()?;
        Ok(match state.knobs.capacity_bytes {
            Some(capacity_bytes) => capacity_bytes.saturating_sub(state.used_bytes()),
            None => 1 << 50,
        })
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.open(path, OpenMode::OpenOrCreate)?;
        let mut state = self.enter()?;
        let node = state.resolve(path)?;
        if !state.locked.insert(node) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock { owner: self.clone(), node }))
    }
}

struct HeldLock {
    owner: ProcessDisk,
    node: NodeId,
}

impl FileLock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // A dead process's locks are free already, and may be another's by now.
        if let Ok(mut state) = self.owner.enter() {
            state.locked.remove(&self.node);
        }
    }
}

struct OpenFile {
    owner: ProcessDisk,
    node: NodeId,
    writable: bool,
}

impl OpenFile {
    fn change(&self, call: Call, words: [u64; 3], change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading only"));
        }
        let mut state = self.owner.enter()?;
        let bytes: &[u8] = if let Change::Write { data, .. } = &change { data } else { &[] };
        let (start, end) = state.call(call, words, bytes, &self.owner.disk.fuse_blown)?;
        match &change {
            Change::Sync => {
                state.counters.syncs += 1;
                let per_million = state.knobs.sync_errors_per_million;
                if let Err(error) = state.injected(per_million) {
                    state.sync_failed = true;
                    let mut dice = state.dice.clone();
                    state.file(self.node)?.fail_sync(start, &mut dice);
                    state.dice = dice;
                    return Err(error);
                }
            }
            Change::Write { offset, data } => {
                state.counters.writes += 1;
                let per_million = state.knobs.write_errors_per_million;
                state.injected(per_million)?;
                state.room_for(self.node, offset + data.len() as u64)?;
            }
            Change::SetLen(len_bytes) => state.room_for(self.node, *len_bytes)?,
        }
        state.file(self.node)?.change(start, end, change);
        Ok(())
    }
}

impl File for OpenFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.owner.enter()?.file(self.node)?.cache().len_bytes())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.change(Call::SetLen, [self.node, len_bytes, 0], Change::SetLen(len_bytes))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.owner.enter()?;
        let words = [self.node, offset, buffer.len() as u64];
        state.call(Call::Read, words, &[], &self.owner.disk.fuse_blown)?;
        let per_million = state.knobs.read_errors_per_million;
        state.injected(per_million)?;
        let image = state.file(self.node)?.cache();
        if offset + buffer.len() as u64 > image.len_bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        image.read(buffer, offset);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let words = [self.node, offset, data.len() as u64];
        self.change(Call::Write, words, Change::Write { offset, data: data.to_vec() })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Call::Sync, [self.node, 0, 0], Change::Sync)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests;
