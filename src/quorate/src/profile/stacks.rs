//! Stacks of addresses as a profile that pprof's tools read (`profile.proto`), gzipped, with names in it: who reads it needs neither
//! this program nor its debug information.
//!
//! What was inlined has a name without a path, such as `poll`; then the file says whose it is: `member/raft_loop.rs:poll`.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::{Function, Line, Location, Mapping, Message as _, Profile, Sample, ValueType};

/// The one mapping: all of the process.
const PROCESS: u64 = 1;

/// A profile in the making.
pub struct Stacks {
    profile: Profile,
    /// Where a text stands in the profile's table.
    texts: HashMap<String, i64>,
    /// The number of a function, by its name and its file.
    functions: HashMap<(i64, i64), u64>,
    /// The number of an address.
    locations: HashMap<usize, u64>,
}

impl Stacks {
    /// Goes on with `profile`, whose stacks have these kinds of values, in these units; the last is also that of its period.
    pub fn new(profile: Profile, values: &[(&str, &str)]) -> Self {
        let mut stacks = Self { profile, texts: HashMap::new(), functions: HashMap::new(), locations: HashMap::new() };
        // The first text must be none.
        stacks.text("");
        for (kind, unit) in values {
            let value = ValueType { ty: stacks.text(kind), unit: stacks.text(unit) };
            stacks.profile.period_type = Some(value.clone());
            stacks.profile.sample_type.push(value);
        }
        let program = std::env::current_exe().unwrap_or_default();
        let filename = stacks.text(&program.to_string_lossy());
        stacks.profile.mapping.push(Mapping {
            id: PROCESS,
            memory_limit: u64::MAX,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
            ..Mapping::default()
        });
        stacks
    }

    /// Adds a stack, the innermost address first.
    pub fn add(&mut self, addresses: impl Iterator<Item = usize>, values: &[i64]) {
        let location_id = addresses.map(|address| self.location(address)).collect();
        self.profile.sample.push(Sample { location_id, value: values.to_vec(), ..Sample::default() });
    }

    /// Leaves out functions whose names this expression describes, with all that they call.
    pub fn leave_out(&mut self, names: &str) {
        self.profile.drop_frames = self.text(names);
    }

    /// The profile, gzipped.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        forget_names();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&self.profile.encode_to_vec())?;
        gzip.finish()
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.texts.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), number);
        number
    }

    fn location(&mut self, address: usize) -> u64 {
        if let Some(known) = self.locations.get(&address) {
            return *known;
        }
        let mut line = Vec::new();
        // Innermost first, as in a profile.
        backtrace::resolve(address as *mut _, |symbol| {
            let Some(name) = symbol.name() else { return };
            let file = symbol.filename().map(short).unwrap_or_default();
            let function_id = self.function(&qualified(&format!("{name:#}"), &file), &file);
            line.push(Line { function_id, line: i64::from(symbol.lineno().unwrap_or(0)) });
        });
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(Location {
            id,
            mapping_id: PROCESS,
            address: address as u64,
            line,
            ..Location::default()
        });
        self.locations.insert(address, id);
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        let functions = &mut self.profile.function;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename, ..Function::default() });
            id
        })
    }
}

/// The function at an address, the innermost of those that were inlined there.
pub fn function(address: usize) -> Option<String> {
    let mut found = None;
    backtrace::resolve(address as *mut _, |symbol| {
        if found.is_none() {
            let file = symbol.filename().map(short).unwrap_or_default();
            found = symbol.name().map(|name| qualified(&format!("{name:#}"), &file));
        }
    });
    forget_names();
    found
}

/// Gives back what was read to find names: many megabytes, for what is asked once a day.
fn forget_names() {
    backtrace::clear_symbol_cache();
}

/// A name that says whose it is.
fn qualified(name: &str, file: &str) -> String {
    // Paths of types within a name's parameters say nothing of the name, and Go's tool leaves them out.
    let is_qualified = name.split('<').next().is_some_and(|head| head.contains("::"));
    if is_qualified || file.is_empty() { name.to_owned() } else { format!("{file}:{name}") }
}

/// A file's path without what is the same for all of its kind: `member/raft_loop.rs` of this program's, `tokio-1.54.1/time.rs` of a
/// library's, `library/std/rt.rs` of Rust's.
fn short(path: &Path) -> String {
    let path = path.to_string_lossy();
    let root = env!("CARGO_MANIFEST_DIR").trim_end_matches("src/quorate");
    let after_name = |mark: &str| Some(path.split_once(mark)?.1.split_once('/')?.1);
    let rest = after_name("/registry/src/").or_else(|| after_name("/rustc/")).or_else(|| path.strip_prefix(root));
    let parts: Vec<&str> = rest.unwrap_or(&path).split('/').filter(|part| *part != "src").collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_stack_has_names_lines_and_values() {
        let mut addresses = Vec::new();
        backtrace::trace(|frame| {
            addresses.push(frame.ip() as usize);
            true
        });
        let mut stacks = Stacks::new(Profile::default(), &[("samples", "count"), ("cpu", "nanoseconds")]);
        stacks.add(addresses.iter().copied(), &[2, 20]);
        stacks.add(addresses.iter().copied(), &[3, 30]);
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&stacks.finish().unwrap()[..]).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&bytes[..]).unwrap();
        assert_eq!((profile.sample.len(), profile.sample[1].value.as_slice()), (2, &[3, 30][..]));
        assert_eq!((profile.location.len(), profile.sample[0].location_id.len()), (addresses.len(), addresses.len()));
        let text = |number: i64| profile.string_table[number as usize].as_str();
        let kinds: Vec<_> = profile.sample_type.iter().map(|value| (text(value.ty), text(value.unit))).collect();
        assert_eq!((text(0), kinds), ("", vec![("samples", "count"), ("cpu", "nanoseconds")]));
        let names: Vec<_> = profile.function.iter().map(|function| text(function.name)).collect();
        assert!(names.iter().any(|name| name.contains("a_stack_has_names_lines_and_values")), "{names:?}");
        assert!(profile.function.iter().any(|function| text(function.filename) == "quorate/profile/stacks.rs"));
    }

    #[test]
    fn files_and_names_say_whose_they_are() {
        let root = env!("CARGO_MANIFEST_DIR").trim_end_matches("src/quorate");
        for (path, expected) in [
            (format!("{root}src/member/src/raft_loop.rs"), "member/raft_loop.rs"),
            ("/home/a/.cargo/registry/src/index-1a2b/tokio-1.54.1/src/time/mod.rs".into(), "tokio-1.54.1/time/mod.rs"),
            ("/rustc/59807616e1fa/library/std/src/rt.rs".into(), "library/std/rt.rs"),
            ("./elf/dl-start.S".into(), "./elf/dl-start.S"),
        ] {
            assert_eq!(short(Path::new(&path)), expected);
        }
        for bare in ["poll<a::B>", "<a::B as c::D>::poll"] {
            assert_eq!(qualified(bare, "member/lib.rs"), format!("member/lib.rs:{bare}"));
        }
        assert_eq!(qualified("a::poll<b::C>", "member/lib.rs"), "a::poll<b::C>");
        assert_eq!(qualified("poll", ""), "poll");
    }
}
