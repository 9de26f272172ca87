//! How a scenario tells what it found: a line for each check (`../../scenario.py` reads them).

use std::fmt::Debug;
use std::io::Write;
use std::time::Duration;

use etcd_client::Error;
use tokio::time::{Instant, sleep, timeout};

/// Far longer than an election takes, and than a lease lives on after the death of a leader.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one call. Waiting for a lock or an election is not one of these.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

pub fn check<T: PartialEq + Debug>(name: &str, found: T, expected: T) {
    if found == expected {
        say(&format!("ok {name}"));
    } else {
        fail(name, &format!("found {found:?}, expected {expected:?}"));
    }
}

pub fn fail(name: &str, why: &str) {
    say(&format!("FAIL {name}: {}", why.replace('\n', " | ")));
}

pub fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output is read by the harness");
}

pub async fn wait_until(name: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    check(name, condition(), true);
}

/// Asks again while nobody answers: `call` must not mind to be made twice. An error that no check expects ends the run: what
/// follows would only repeat it.
pub async fn persist<T>(call: impl AsyncFn() -> Result<T, Error>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match in_time(call()).await {
            Ok(answer) => return answer,
            Err(error) if is_unreachable(&error) && Instant::now() < deadline => {
                sleep(Duration::from_millis(100)).await
            }
            Err(error) => {
                fail("an unexpected error", &error.to_string());
                std::process::exit(1);
            }
        }
    }
}

pub async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::IoError(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A server that can't be reached or knows no leader: canceled, unknown, deadline exceeded, internal, unavailable.
pub fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => matches!(i32::from(status.code()), 1 | 2 | 4 | 13 | 14),
        Error::IoError(_) | Error::TransportError(_) => true,
        _ => false,
    }
}

/// Returns once the leader is dead.
pub async fn have_leader_killed() {
    say("kill leader");
    let answer =
        tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await.expect("the reader does not panic");
    check("somebody kills the leader", answer.and_then(Result::ok).as_deref(), Some("killed"));
}
