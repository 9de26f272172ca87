//! A process without a free descriptor waits between accepts instead of spinning. Alone in its file: the limit is the
//! whole process's.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime_tokio::TokioRuntime;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn accepting_without_descriptors_does_not_spin_and_recovers() {
    TokioRuntime::run(1, |rt| async move {
        let any_port = Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
        let mut listener = rt.listen(any_port, ListenOptions::default()).await.unwrap();
        let Address::Tcp(address) = listener.local_address() else { panic!("not TCP") };
        let _client = TcpStream::connect(address).unwrap();

        // Descriptors are given out lowest first, so a limit at the next number allows no more.
        let next = std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open("/dev/null").unwrap());
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(next as u64), maximum: before.maximum }).unwrap();
        let (mut refused, start) = (0, rt.mono_now());
        while rt.mono_now() - start < Duration::from_millis(300) {
            let error = listener.accept().await.err().expect("there was a descriptor left");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
            refused += 1;
        }
        setrlimit(Resource::Nofile, before).unwrap();
        assert!((2..=20).contains(&refused), "{refused} attempts in 300 ms");

        let incoming = listener.accept().await.unwrap();
        assert!(matches!(incoming.peer_address(), Address::Tcp(peer) if peer.ip().is_loopback()));
    });
}
