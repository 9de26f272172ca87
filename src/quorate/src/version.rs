//! What `--version` says: etcd's four lines, as tools read them, then our own.

/// The etcd release that we claim to be.
pub const ETCD_VERSION: &str = quorate_member::SERVER_VERSION;

/// Ours.
pub const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, if the build was told.
pub const GIT_SHA: &str = match option_env!("QUORATE_GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided",
};

/// Stands where etcd names its Go release.
pub const GO_VERSION: &str = "none (written in Rust)";

/// The operating system, in Go's words.
pub const OS: &str = std::env::consts::OS;

/// The architecture, in Go's words.
pub const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
    "ppc64le"
} else {
    std::env::consts::ARCH
};

/// All lines.
pub fn lines() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: {GIT_SHA}\n\
         Go Version: {GO_VERSION}\n\
         Go OS/Arch: {OS}/{ARCH}\n\
         Quorate Version: {QUORATE_VERSION}\n"
    )
}
