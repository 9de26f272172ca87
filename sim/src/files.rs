//! Scenario files on the disk.

use std::path::{Path, PathBuf};

use quorate_sim::scenario::{Scenario, parse};

/// What a scenario file's name ends with.
const EXTENSION: &str = "scenario";

/// Reads the files, and those in the directories, in order of their names. The error is ready to be shown.
pub fn read_all<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Vec<Scenario>, String> {
    let mut files = Vec::new();
    for path in paths.map(Path::new) {
        if path.is_dir() {
            let mut found = scenarios_in(path).map_err(|error| format!("cannot list {}: {error}", path.display()))?;
            found.sort();
            files.extend(found);
        } else {
            files.push(path.to_path_buf());
        }
    }
    if files.is_empty() {
        return Err(format!("there is no *.{EXTENSION} here"));
    }
    files.iter().map(|file| read(file)).collect()
}

fn scenarios_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect())
}

fn read(file: &Path) -> Result<Scenario, String> {
    let path = file.display().to_string();
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let source = std::fs::read_to_string(file).map_err(|error| format!("cannot read {path}: {error}"))?;
    parse(&path, &source).map_err(|trouble| trouble.render(&path, &source))
}
