//! A world with nothing in it but a disk in memory that crashes, for tests and the fuzzer.
//!
//! The disk assumes no more than [`quorate_runtime::disk`] promises. Between syncs it remembers every version of every 512-byte
//! sector, of every length and of every name; [`TestDisk::crash`] keeps any one of them, each chosen by itself.
//! [`TestDisk::fail_after`] ends the world in the middle of an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_runtime::clock::{Clock, MonoTime, WallTime};
use quorate_runtime::disk::{Disk, File, FileLock, Metadata, OpenMode, parent_dir};
use quorate_runtime::net::{Address, BoxStream, ListenOptions, Listener, Net, SrvRecord};
use quorate_runtime::random::Random;
use quorate_runtime::spawn::{Report, Spawn, Worker};
use quorate_runtime::{BoxFuture, Rt};

const SECTOR_BYTES: usize = 512;

/// Small numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next_u64() % limit as u64) as usize
    }
}

/// What a crash may do besides losing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Each unsynced sector has one of the contents it had since the last sync.
    OldOrNew,
    /// The bytes written can also have become anything, if they were zeros before; the rest of the sector is as it was.
    Garbage,
}

/// The world: hand out clones of [`TestDisk::rt`], keep this to make it misbehave.
#[derive(Clone, Default)]
pub struct TestDisk(Arc<World>);

#[derive(Default)]
struct World {
    state: Mutex<State>,
    random: AtomicU64,
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    /// What each path names now.
    names: BTreeMap<PathBuf, u64>,
    /// What each path named at the last sync of its directory, and everything since.
    name_versions: BTreeMap<PathBuf, Vec<Option<u64>>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// How many more changes succeed.
    changes_left: Option<u64>,
    dead: bool,
    changes: u64,
    syncs: u64,
    /// Reports of finished jobs are kept back.
    hold_reports: bool,
    reports: Vec<Report>,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    unsynced: BTreeMap<usize, Unsynced>,
    /// Lengths since the last sync.
    len_versions: Vec<usize>,
}

/// What happened to a sector since the last sync.
#[derive(Default)]
struct Unsynced {
    versions: Vec<Vec<u8>>,
    /// The first byte of the sector that was written.
    first: usize,
}

impl Inode {
    /// Notes the sectors that changed between two offsets.
    fn note(&mut self, start: usize, end: usize) {
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let first = start.saturating_sub(sector * SECTOR_BYTES);
            let unsynced = self.unsynced.entry(sector).or_insert_with(|| Unsynced { versions: Vec::new(), first });
            unsynced.versions.push(sector_of(&self.now, sector));
            unsynced.first = unsynced.first.min(first);
        }
    }

    fn set_len(&mut self, len: usize) {
        let before = self.now.len();
        self.now.resize(len, 0);
        self.len_versions.push(len);
        // What is cut off and written again later is zero in between.
        self.note(len, self.durable.len().max(before));
    }

    fn write(&mut self, data: &[u8], offset: usize) {
        let end = offset + data.len();
        if end > self.now.len() {
            self.now.resize(end, 0);
            self.len_versions.push(end);
        }
        self.now[offset..end].copy_from_slice(data);
        self.note(offset, end);
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let start = (sector * SECTOR_BYTES).min(self.now.len());
            let end = (start + SECTOR_BYTES).min(self.now.len());
            self.durable[start..end].copy_from_slice(&self.now[start..end]);
        }
        self.len_versions.clear();
    }

    fn crash(&mut self, dice: &mut Dice, torn: Torn) {
        let len = match dice.below(self.len_versions.len() + 1) {
            0 => self.durable.len(),
            version => self.len_versions[version - 1],
        };
        let mut after = self.durable.clone();
        let written = self.unsynced.keys().max().map_or(0, |sector| (sector + 1) * SECTOR_BYTES);
        after.resize(after.len().max(written).max(len), 0);
        for (sector, Unsynced { versions, first }) in &self.unsynced {
            let place = &mut after[sector * SECTOR_BYTES..];
            let place_bytes = place.len().min(SECTOR_BYTES);
            let place = &mut place[..place_bytes];
            match dice.below(versions.len() + 2) {
                0 => {}
                1 => {
                    let written = place.get_mut(*first..).unwrap_or_default();
                    if torn == Torn::Garbage && written.iter().all(|byte| *byte == 0) {
                        written.fill_with(|| dice.next_u64() as u8);
                    }
                }
                version => place.copy_from_slice(&versions[version - 2][..place_bytes]),
            }
        }
        after.truncate(len);
        *self = Inode { now: after.clone(), durable: after, ..Inode::default() };
    }
}

fn sector_of(contents: &[u8], sector: usize) -> Vec<u8> {
    let start = (sector * SECTOR_BYTES).min(contents.len());
    let end = (start + SECTOR_BYTES).min(contents.len());
    let mut content = contents[start..end].to_vec();
    content.resize(SECTOR_BYTES, 0);
    content
}

fn gone() -> io::Error {
    io::Error::other("the simulated machine is down")
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(gone()) } else { Ok(()) }
    }

    /// Counts a change. The one that ends the world takes place, in memory, but is not reported to have.
    fn changing(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.changes += 1;
        match &mut self.changes_left {
            Some(0) => {
                self.dead = true;
                Ok(false)
            }
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    fn inode_at(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn set_name(&mut self, path: &Path, inode: Option<u64>) {
        let before = match inode {
            Some(inode) => self.names.insert(path.to_path_buf(), inode),
            None => self.names.remove(path),
        };
        self.name_versions.entry(path.to_path_buf()).or_insert_with(|| vec![before]).push(inode);
    }
}

impl TestDisk {
    /// A handle for the code under test.
    pub fn rt(&self) -> Rt {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics while it holds the disk")
    }

    /// After `changes` more changes, the one that follows and everything after it fails: the machine is down, in the middle
    /// of that operation.
    pub fn fail_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// How many changes (writes, syncs, names) there were.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// From now on, or no longer, jobs on workers run but their results arrive only at [`TestDisk::deliver_reports`].
    pub fn hold_reports(&self, hold: bool) {
        self.state().hold_reports = hold;
    }

    /// Delivers the results that were kept back.
    pub fn deliver_reports(&self) {
        let reports = std::mem::take(&mut self.state().reports);
        for report in reports {
            report();
        }
    }

    /// The machine comes up again, with what the crash has left.
    pub fn crash(&self, dice: &mut Dice, torn: Torn) {
        let mut state = self.state();
        for (path, versions) in std::mem::take(&mut state.name_versions) {
            match versions[dice.below(versions.len())] {
                Some(inode) => state.names.insert(path, inode),
                None => state.names.remove(&path),
            };
        }
        for inode in state.inodes.values_mut() {
            inode.crash(dice, torn);
        }
        state.locks.clear();
        state.reports.clear();
        state.changes_left = None;
        state.dead = false;
    }

    /// Contents of a file, now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inodes[state.names.get(path)?].now.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.state();
        let inode = state.names.get(path).copied().unwrap_or(state.inodes.len() as u64);
        state.names.insert(path.to_path_buf(), inode);
        state.dirs.insert(parent_dir(path));
        state.inodes.insert(inode, Inode { now: contents.clone(), durable: contents, ..Inode::default() });
    }

    /// Removes a file, durably.
    pub fn delete(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.name_versions.remove(path);
    }

    /// Turns one bit of a file around, on the medium.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u32) {
        let mut state = self.state();
        let inode = state.names[path];
        let inode = state.inodes.get_mut(&inode).expect("names lead to files");
        inode.now[byte] ^= 1 << bit;
        if let Some(durable) = inode.durable.get_mut(byte) {
            *durable ^= 1 << bit;
        }
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }
}

struct TestFile {
    disk: TestDisk,
    inode: u64,
    writable: bool,
}

impl TestFile {
    fn change(&self, change: impl FnOnce(&mut Inode)) -> io::Result<()> {
        assert!(self.writable, "a file opened for reading is only read");
        let mut state = self.disk.state();
        let reported = state.changing()?;
        change(state.inodes.get_mut(&self.inode).expect("files are never forgotten"));
        if reported { Ok(()) } else { Err(gone()) }
    }
}

impl File for TestFile {
    fn len_bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.inodes[&self.inode].now.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.change(|inode| inode.set_len(len_bytes as usize))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        state.alive()?;
        let contents = &state.inodes[&self.inode].now;
        let from = contents.get(offset as usize..).unwrap_or_default();
        buffer.copy_from_slice(from.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(|inode| inode.write(data, offset as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if !state.changing()? {
            return Err(gone());
        }
        state.syncs += 1;
        state.inodes.get_mut(&self.inode).expect("files are never forgotten").sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

struct TestLock {
    disk: TestDisk,
    path: PathBuf,
}

impl FileLock for TestLock {}

impl Drop for TestLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl Disk for TestDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.alive()?;
        let inode = match (state.inode_at(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), _) => inode,
            (Err(error), OpenMode::ReadOnly | OpenMode::ReadWrite) => return Err(error),
            (Err(_), OpenMode::OpenOrCreate | OpenMode::CreateNew) => {
                let reported = state.changing()?;
                let inode = state.inodes.len() as u64;
                state.inodes.insert(inode, Inode::default());
                state.set_name(path, Some(inode));
                if !reported {
                    return Err(gone());
                }
                inode
            }
        };
        Ok(Box::new(TestFile { disk: self.clone(), inode, writable: mode != OpenMode::ReadOnly }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.state();
        state.alive()?;
        if state.dirs.contains(path) || path == Path::new("/") {
            return Ok(Metadata { is_dir: true, len_bytes: 0 });
        }
        let len_bytes = state.inodes[&state.inode_at(path)?].now.len() as u64;
        Ok(Metadata { is_dir: false, len_bytes })
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = state.names.keys().filter(|name| parent_dir(name) == path);
        Ok(here.map(|name| name.file_name().expect("files have names").to_string_lossy().into_owned()).collect())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        state.dirs.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.inode_at(from)?;
        let reported = state.changing()?;
        // On a crash either name can have changed without the other: that is more than most file systems do.
        state.set_name(from, None);
        state.set_name(to, Some(inode));
        if reported { Ok(()) } else { Err(gone()) }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        state.inode_at(path)?;
        let reported = state.changing()?;
        state.set_name(path, None);
        if reported { Ok(()) } else { Err(gone()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.changing()? {
            return Err(gone());
        }
        state.name_versions.retain(|name, _| parent_dir(name) != path);
        Ok(())
    }

    fn free_space_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.open(path, OpenMode::OpenOrCreate)?;
        let mut state = self.state();
        match state.locks.insert(path.to_path_buf()) {
            true => Ok(Box::new(TestLock { disk: self.clone(), path: path.to_path_buf() })),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Worker for TestDisk {
    fn submit(&self, job: Box<dyn FnOnce() -> Report + Send>) {
        let report = job();
        if self.state().hold_reports {
            self.state().reports.push(report);
        } else {
            report();
        }
    }
}

impl Spawn for TestDisk {
    fn spawn(&self, _task: BoxFuture<'static, ()>) {
        panic!("there are no tasks in this world");
    }

    fn spawn_on(&self, _reactor: usize, _start: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>) {
        panic!("there are no tasks in this world");
    }

    fn worker(&self, _name: &str) -> Arc<dyn Worker> {
        Arc::new(self.clone())
    }
}

impl Clock for TestDisk {
    fn mono_now(&self) -> MonoTime {
        MonoTime::from_nanos(0)
    }

    fn wall_now(&self) -> WallTime {
        WallTime::from_unix_nanos(0)
    }

    fn sleep_until(&self, _deadline: MonoTime) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Random for TestDisk {
    fn fill_random(&self, buffer: &mut [u8]) {
        let mut dice = Dice::new(self.0.random.fetch_add(1, Ordering::Relaxed));
        buffer.fill_with(|| dice.next_u64() as u8);
    }
}

fn no_network<T: Send + 'static>() -> BoxFuture<'static, io::Result<T>> {
    Box::pin(std::future::ready(Err(io::ErrorKind::NetworkUnreachable.into())))
}

impl Net for TestDisk {
    fn listen(&self, _address: Address, _options: ListenOptions) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        no_network()
    }

    fn connect(&self, _address: Address) -> BoxFuture<'_, io::Result<BoxStream>> {
        no_network()
    }

    fn lookup_host(&self, _host: String, _port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        no_network()
    }

    fn lookup_srv(&self, _name: String) -> BoxFuture<'_, io::Result<Vec<SrvRecord>>> {
        no_network()
    }
}
