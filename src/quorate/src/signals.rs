//! SIGTERM and SIGINT: a clean stop, after which the process dies of that very signal, as its parent expects.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_runtime::sync::oneshot;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// A signal that asks to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// In Go's words.
    pub fn name(self) -> &'static str {
        match self.0 {
            SIGINT => "interrupt",
            _ => "terminated",
        }
    }

    /// Ends the process as the signal would have.
    pub fn die(self) -> ! {
        // The kernel sends pid 1 (a container's first process) no signal that it does not handle.
        if process::id() != 1 {
            let _ = low_level::emulate_default_handler(self.0);
        }
        process::exit(0)
    }
}

/// Takes the two signals from now on; the receiver gets the first that comes. Further ones change nothing.
pub fn first() -> io::Result<oneshot::Receiver<Signal>> {
    let (mut woken, waker) = UnixStream::pair()?;
    let which = Arc::new(AtomicUsize::new(0));
    for signal in [SIGTERM, SIGINT] {
        // Registered first, so it is set when the pipe wakes the thread.
        flag::register_usize(signal, Arc::clone(&which), usize::try_from(signal).expect("signals are positive"))?;
        low_level::pipe::register(signal, waker.try_clone()?)?;
    }
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut byte = [0];
        if woken.read_exact(&mut byte).is_ok() {
            let signal = i32::try_from(which.load(Ordering::SeqCst)).unwrap_or(SIGTERM);
            // The receiver is gone if the program is ending for another reason.
            let _ = sender.send(Signal(signal));
        }
    })?;
    Ok(receiver)
}
