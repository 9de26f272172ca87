//! The heap as jemalloc tells it: a file of text with the stacks of sampled allocations that are still there.
//!
//! The crates that read it switch off prost's limit of nesting for the whole program, which keeps hostile requests from its stack.

use std::ffi::CString;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::SystemTime;
use std::{env, fs, process};

use tikv_jemalloc_ctl::raw;

/// Stacks, innermost address first, with the bytes that they stand for.
pub type Held = Vec<(Vec<usize>, i64)>;

/// Allocations are sampled from now on.
#[allow(unsafe_code)]
pub fn start() -> Result<(), String> {
    // SAFETY: jemalloc's manual gives this name the type bool.
    unsafe { raw::write(b"prof.active\0", true) }.map_err(|error| error.to_string())
}

/// What is held now.
#[allow(unsafe_code)]
pub fn held() -> Result<Held, String> {
    // A directory of our own, so that nobody else can have put something there.
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let dir = env::temp_dir().join(format!("quorate-heap-{}-{nanos}", process::id()));
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let path = dir.join("heap");
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: jemalloc's manual gives this name the type `const char *`, and reads the text during the call only.
    let dumped = unsafe { raw::write(b"prof.dump\0", name.as_ptr()) };
    let text = dumped
        .map_err(|error| error.to_string())
        .and_then(|()| fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display())));
    // What is left behind in a temporary directory does no harm.
    let _ = fs::remove_dir_all(&dir);
    parse(&text?).ok_or_else(|| "jemalloc's profile is of an unknown form".to_owned())
}

/// Reads jemalloc's second form.
fn parse(text: &str) -> Option<Held> {
    let mut lines = text.lines();
    let gap_bytes: f64 = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
    let mut held = Held::new();
    let mut stack = None;
    for line in lines.take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
        if let Some(addresses) = line.strip_prefix("@ ") {
            let addresses = addresses.split_ascii_whitespace().map(|word| word.trim_start_matches("0x"));
            stack = Some(addresses.map(|digits| usize::from_str_radix(digits, 16).ok()).collect::<Option<_>>()?);
        } else if let Some(counts) = line.trim_start().strip_prefix("t*: ")
            && let Some(stack) = stack.take()
        {
            let mut counts = counts.split(": ").map(|word| word.split(' ').next().unwrap_or_default().parse::<f64>());
            let (objects, bytes) = (counts.next()?.ok()?, counts.next()?.ok()?);
            if objects > 0.0 {
                // A small object is seldom sampled, and stands for many.
                held.push((stack, (bytes / (1.0 - (-(bytes / objects) / gap_bytes).exp())) as i64));
            }
        }
    }
    Some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jemallocs_text_is_read() {
        let text = "heap_v2/524288\n  t*: 3: 1049600 [0: 0]\n@ 0x10 0x2f\n  t*: 1: 1048576 [0: 0]\n  t3: 1: 1048576 [0: 0]\n\
            @ 0x30\n  t*: 2: 1024 [0: 0]\n@ 0x40\n  t*: 0: 0 [0: 0]\n\nMAPPED_LIBRARIES:\n@ nothing\n";
        let held = parse(text).unwrap();
        assert_eq!(held.len(), 2);
        assert_eq!((&held[0].0, held[0].1), (&vec![0x10, 0x2f], 1_212_696));
        // 512 bytes are sampled once in 1024 times and a half.
        assert_eq!((&held[1].0, held[1].1), (&vec![0x30], 1_049_088));
        assert_eq!(parse("heap_v3/1\n"), None);
    }
}
