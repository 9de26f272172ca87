//! Scripts that show the log's bytes: the folder `golden` beside the sources. `UPDATE_GOLDENFILES=1` rewrites what they expect.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use goldenscript::{Command, Context};
use quorate_types::{LogIndex, Term};

use super::super::read_all;
use super::super::test_disk::{Dice, TestDisk, Torn};
use super::*;

/// One log on one disk.
struct Script {
    disk: TestDisk,
    wal: Option<Wal>,
    options: WalOptions,
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            // create [segment=BYTES]
            "create" => {
                if let Some(bytes) = args.take_key("segment") {
                    self.options.segment_bytes = bytes.parse()?;
                }
                self.wal = Some(Wal::create(self.disk.rt(), dir(), metadata(), self.options)?);
            }
            // append [term=T vote=V commit=C] [sync=false] INDEX@TERM=DATA ...
            "append" => {
                let mut hard_state = raftpb::HardState::default();
                for (name, field) in
                    [("term", &mut hard_state.term), ("vote", &mut hard_state.vote), ("commit", &mut hard_state.commit)]
                {
                    *field = args.take_key(name).map(str::parse).transpose()?;
                }
                let sync = args.take_key("sync").map_or(Ok(true), str::parse)?;
                let mut entries = Vec::new();
                while let Some((at, data)) = args.next_key() {
                    let (index, term) = at.split_once('@').ok_or("an entry is INDEX@TERM=DATA")?;
                    entries.push(entry(index.parse()?, term.parse()?, data.to_owned()));
                }
                let hard_state = Some(hard_state).filter(|hard_state| *hard_state != Default::default());
                self.wal()?.append(&Batch { hard_state, entries, sync })?;
            }
            // mark INDEX@TERM
            "mark" => {
                let (index, term) = args.next_pos().and_then(|at| at.split_once('@')).ok_or("a mark is INDEX@TERM")?;
                self.wal()?.mark_snapshot(mark(index.parse()?, term.parse()?))?;
            }
            // release INDEX
            "release" => {
                let index = args.next_pos().ok_or("up to where?")?.parse()?;
                self.wal()?.release_below(LogIndex(index))?;
            }
            // close
            "close" => self.wal = None,
            // open [from=INDEX@TERM] [consistent=INDEX]
            "open" => {
                self.wal = None;
                let mut from = SnapshotMark::START;
                if let Some((index, term)) = args.take_key("from").and_then(|at| at.split_once('@')) {
                    from = SnapshotMark { index: LogIndex(index.parse()?), term: Term(term.parse()?) };
                }
                let consistent = LogIndex(args.take_key("consistent").map_or(Ok(0), str::parse)?);
                match Wal::open(self.disk.rt(), dir(), from, consistent, self.options) {
                    Ok((wal, recovered)) => {
                        show(&mut output, &recovered)?;
                        self.wal = Some(wal);
                    }
                    Err(error) => writeln!(output, "{error}")?,
                }
            }
            // crash SEED
            "crash" => {
                self.wal = None;
                let seed = args.next_pos().ok_or("which one?")?.parse()?;
                self.disk.crash(&mut Dice::new(seed), Torn::OldOrNew);
            }
            // flip FILE BYTE BIT
            "flip" => {
                let mut next = || args.next_pos().ok_or("flip FILE BYTE BIT");
                let (file, byte, bit) = (next()?, next()?, next()?);
                self.disk.flip_bit(&dir().join(file), byte.parse()?, bit.parse()?);
            }
            // list
            "list" => show(&mut output, &read_all(&self.disk.rt(), dir())?)?,
            // files
            "files" => {
                for path in self.disk.paths() {
                    let bytes = self.disk.contents(&path).unwrap_or_default().len();
                    writeln!(output, "{} {bytes} bytes", path.file_name().unwrap_or_default().display())?;
                }
            }
            // dump FILE
            "dump" => {
                let file = args.next_pos().ok_or("which file?")?;
                dump(&mut output, &self.disk.contents(&dir().join(file)).ok_or("no such file")?)?;
            }
            name => return Err(format!("no command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

impl Script {
    fn wal(&mut self) -> Result<&mut Wal, Box<dyn Error>> {
        self.wal.as_mut().ok_or_else(|| "no log is open".into())
    }
}

fn show(output: &mut String, recovered: &Recovered) -> Result<(), Box<dyn Error>> {
    let state = recovered.hard_state;
    writeln!(output, "state term={} vote={} commit={}", state.term(), state.vote(), state.commit())?;
    for snapshot in &recovered.snapshots {
        writeln!(output, "mark {}@{}", snapshot.index(), snapshot.term())?;
    }
    for entry in &recovered.entries {
        let data = entry.data.as_deref().unwrap_or_default();
        writeln!(output, "entry {}@{} {}", entry.index(), entry.term(), String::from_utf8_lossy(data))?;
    }
    if let Some(torn) = &recovered.torn {
        let file = torn.file.file_name().unwrap_or_default().display();
        writeln!(output, "torn {file} at {}: {} bytes lost", torn.offset_bytes, torn.lost_bytes)?;
    }
    Ok(())
}

/// Hex, sixteen bytes a line, up to the last byte that is not zero.
fn dump(output: &mut String, contents: &[u8]) -> Result<(), Box<dyn Error>> {
    let end = contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for (line, bytes) in contents[..end].chunks(16).enumerate() {
        let hex: Vec<_> =
            bytes.chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>()).collect();
        let text: String =
            bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        writeln!(output, "{:04x} {:39} {text}", line * 16, hex.join(" "))?;
    }
    let rest = contents.len() - end;
    if rest > 0 {
        writeln!(output, "… {rest} zeros")?;
    }
    Ok(())
}

#[test]
fn scripts() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/wal/golden"));
    for name in ["bytes", "cut_and_release", "torn_and_damaged"] {
        let mut script = Script { disk: TestDisk::default(), wal: None, options: small() };
        goldenscript::run(&mut script, folder.join(name)).expect("a script that runs");
    }
}
