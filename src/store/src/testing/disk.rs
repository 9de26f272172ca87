//! A disk in memory that can fail after any number of writes, and lose power.
//!
//! What it promises is what `quorate_runtime::disk` lets anybody assume, and no more: synced bytes and synced names
//! survive. Of everything else a power cut keeps any subset of sectors.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_runtime::disk::{Disk, File, FileLock, Metadata, OpenMode};

const SECTOR_BYTES: usize = 512;

/// A small generator of numbers, for tests that need many from one seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    files: Vec<Contents>,
    /// Raised by a power cut: handles from before are dead.
    epoch: u64,
    /// Changes and syncs until the power goes; then nothing works any more.
    operations_left: Option<u64>,
}

#[derive(Clone, Default)]
struct Contents {
    live: Vec<u8>,
    synced: Vec<u8>,
    since_sync: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Length(usize),
    Write { offset: usize, data: Vec<u8> },
}

fn dead() -> io::Error {
    io::Error::other("the power is out")
}

fn write(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if contents.len() < offset + data.len() {
        contents.resize(offset + data.len(), 0);
    }
    contents[offset..offset + data.len()].copy_from_slice(data);
}

impl World {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(dead()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl MemoryDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics with the disk in hand")
    }

    /// The power goes after that many more changes and syncs.
    pub(super) fn fail_after(&self, operations: u64) {
        self.world().operations_left = Some(operations);
    }

    /// The power was cut: unsynced sectors and names are kept or lost as `dice` say. Then it is back.
    pub(super) fn power_cycle(&self, dice: &mut Dice) {
        let mut world = self.world();
        world.epoch += 1;
        world.operations_left = None;
        for contents in &mut world.files {
            let mut after = std::mem::take(&mut contents.synced);
            for change in contents.since_sync.drain(..) {
                match change {
                    Change::Length(len) if dice.below(2) == 0 => after.resize(len, 0),
                    Change::Length(_) => {}
                    Change::Write { offset, data } => {
                        let keep_of_8 = dice.below(9);
                        for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                            if dice.below(8) < keep_of_8 {
                                write(&mut after, offset + number * SECTOR_BYTES, sector);
                            }
                        }
                    }
                }
            }
            contents.synced.clone_from(&after);
            contents.live = after;
        }
        if dice.below(2) == 0 {
            world.names = world.synced_names.clone();
        } else {
            world.synced_names = world.names.clone();
        }
    }

    /// Changes one byte behind everybody's back.
    pub(super) fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut world = self.world();
        let id = world.names[path];
        for image in [0, 1] {
            let contents = &mut world.files[id];
            let bytes = if image == 0 { &mut contents.live } else { &mut contents.synced };
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }

    pub(super) fn contents(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.files[world.names[path]].live.clone()
    }

    pub(super) fn set_contents(&self, path: &Path, contents: Vec<u8>) {
        let mut world = self.world();
        let id = world.names[path];
        world.files[id] = Contents { live: contents.clone(), synced: contents, since_sync: Vec::new() };
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut world = self.world();
        let found = world.names.get(path).copied();
        let id = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), _) => id,
            (None, OpenMode::ReadOnly | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::CreateNew | OpenMode::OpenOrCreate) => {
                world.spend()?;
                world.files.push(Contents::default());
                let id = world.files.len() - 1;
                world.names.insert(path.to_path_buf(), id);
                id
            }
        };
        Ok(Box::new(Handle { disk: self.clone(), id, epoch: world.epoch }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let world = self.world();
        let id = world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Metadata { is_dir: false, len_bytes: world.files[*id].live.len() as u64 })
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let names = world.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.spend()?;
        let id = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_path_buf(), id);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.spend()?;
        world.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.spend()?;
        world.synced_names = world.names.clone();
        Ok(())
    }

    fn free_space_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock_exclusive(&self, _path: &Path) -> io::Result<Box<dyn FileLock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Handle {
    disk: MemoryDisk,
    id: usize,
    epoch: u64,
}

impl Handle {
    fn alive(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.disk.world();
        if world.epoch == self.epoch && world.operations_left != Some(0) { Ok(world) } else { Err(dead()) }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut world = self.alive()?;
        world.spend()?;
        let contents = &mut world.files[self.id];
        match &change {
            Change::Length(len) => contents.live.resize(*len, 0),
            Change::Write { offset, data } => write(&mut contents.live, *offset, data),
        }
        contents.since_sync.push(change);
        Ok(())
    }
}

impl File for Handle {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.alive()?.files[self.id].live.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.change(Change::Length(len_bytes as usize))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = self.alive()?;
        let contents = &world.files[self.id].live;
        let found = contents.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, data: data.to_vec() })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.alive()?;
        world.spend()?;
        let contents = &mut world.files[self.id];
        contents.since_sync.clear();
        contents.synced.clone_from(&contents.live);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
