//! The real network.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use quorate_runtime::Rt;
use quorate_runtime::io::{AsyncReadExt, AsyncWriteExt};
use quorate_runtime::net::{Address, ListenOptions, Listener};
use quorate_runtime::sync::mpsc;
use quorate_runtime_tokio::{RuntimeOptions, TokioRuntime};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn listen(rt: &Rt, address: Address) -> std::io::Result<Box<dyn Listener>> {
    rt.listen(address, ListenOptions::default()).await
}

/// Accepts one connection, gives it to the last reactor, and has it answer in capitals.
async fn echo_once(rt: Rt, listener: &mut dyn Listener) -> Address {
    let incoming = listener.accept().await.unwrap();
    let peer = incoming.peer_address();
    rt.spawn_on(
        rt.reactor_count() - 1,
        Box::new(move || {
            let mut stream = incoming.into_stream().unwrap();
            Box::pin(async move {
                let mut text = [0; 5];
                stream.read_exact(&mut text).await.unwrap();
                stream.write_all(text.to_ascii_uppercase().as_slice()).await.unwrap();
            })
        }),
    );
    peer
}

async fn say_hello(rt: &Rt, to: Address) {
    let mut stream = rt.connect(to).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"HELLO");
}

#[test]
fn a_connection_is_served_on_the_reactor_it_was_given_to() {
    TokioRuntime::run(2, |rt| async move {
        let mut listener = listen(&rt, Address::Tcp(ANY_PORT)).await.unwrap();
        let address = listener.local_address();
        assert!(matches!(&address, Address::Tcp(address) if address.port() != 0));
        for _ in 0..3 {
            let (peer, ()) =
                quorate_runtime::join!(echo_once(rt.clone(), &mut *listener), say_hello(&rt, address.clone()));
            assert!(matches!(peer, Address::Tcp(peer) if peer.ip() == ANY_PORT.ip()));
        }
    });
}

#[test]
fn a_wildcard_serves_both_families() {
    TokioRuntime::run(1, |rt| async move {
        let wildcard = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let mut listener = listen(&rt, Address::Tcp(wildcard)).await.unwrap();
        let Address::Tcp(bound) = listener.local_address() else { panic!("not TCP") };
        let mut targets = vec![SocketAddr::new(ANY_PORT.ip(), bound.port())];
        if bound.is_ipv6() {
            targets.push(SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), bound.port()));
        }
        for target in targets {
            let (peer, ()) =
                quorate_runtime::join!(echo_once(rt.clone(), &mut *listener), say_hello(&rt, Address::Tcp(target)));
            assert!(matches!(peer, Address::Tcp(peer) if peer.ip() == target.ip()), "{target}");
        }
    });
}

#[test]
fn a_taken_port_is_an_error_unless_both_share_it() {
    TokioRuntime::run(1, |rt| async move {
        let taken = listen(&rt, Address::Tcp(ANY_PORT)).await.unwrap();
        let error = listen(&rt, taken.local_address()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);

        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let one = rt.listen(Address::Tcp(ANY_PORT), shared).await.unwrap();
        rt.listen(one.local_address(), shared).await.unwrap();
        // Free again as soon as it is dropped.
        let address = taken.local_address();
        drop(taken);
        listen(&rt, address).await.unwrap();
    });
}

#[test]
fn a_stale_unix_socket_is_replaced_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    TokioRuntime::run(1, |rt| async move {
        // A process that died leaves its socket file: std's listener does not unlink either.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let address = Address::Unix(path.clone());
        let mut listener = listen(&rt, address.clone()).await.unwrap();
        let (peer, ()) = quorate_runtime::join!(echo_once(rt.clone(), &mut *listener), say_hello(&rt, address.clone()));
        assert_eq!(peer, address);

        assert_eq!(listen(&rt, address.clone()).await.err().unwrap().kind(), ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());

        std::fs::write(&path, "not a socket").unwrap();
        assert_eq!(listen(&rt, address).await.err().unwrap().kind(), ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"not a socket");
    });
}

#[test]
fn names_are_looked_up() {
    TokioRuntime::run(1, |rt| async move {
        assert_eq!(rt.lookup_host("127.0.0.1".into(), 7).await.unwrap(), [SocketAddr::new(ANY_PORT.ip(), 7)]);
        assert!(rt.lookup_host("localhost".into(), 7).await.unwrap().iter().all(|a| a.ip().is_loopback()));
        let srv = rt.lookup_srv("_etcd-server._tcp.example.org".into()).await.unwrap_err();
        assert_eq!(srv.kind(), ErrorKind::Unsupported);
        assert!(srv.to_string().contains("_etcd-server._tcp.example.org"), "{srv}");
    });
}

#[test]
fn accepting_may_be_given_up_and_taken_up_again() {
    TokioRuntime::run(1, |rt| async move {
        let mut listener = listen(&rt, Address::Tcp(ANY_PORT)).await.unwrap();
        for _ in 0..10 {
            let wait = Duration::from_millis(1);
            assert!(quorate_runtime::clock::timeout(&*rt, wait, listener.accept()).await.is_err());
        }
        let address = listener.local_address();
        let (sender, mut receiver) = mpsc::channel(1);
        let (rt_there, there) = (rt.clone(), address);
        rt.spawn(Box::pin(async move {
            say_hello(&rt_there, there).await;
            sender.send(()).await.unwrap();
        }));
        echo_once(rt.clone(), &mut *listener).await;
        receiver.recv().await.unwrap();
    });
}

#[test]
fn connections_are_made_from_the_address_that_was_asked_for() {
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    let options = RuntimeOptions { reactors: 1, source: Some(source) };
    let tried = TokioRuntime::try_run(options, |rt| async move {
        let mut listener = listen(&rt, Address::Tcp(ANY_PORT)).await.unwrap();
        let address = listener.local_address();
        let (peer, ()) = quorate_runtime::join!(echo_once(rt.clone(), &mut *listener), say_hello(&rt, address));
        assert!(matches!(peer, Address::Tcp(peer) if peer.ip() == source), "{peer:?}");

        // There is no way from an address of one family to one of the other.
        let error = rt.connect(Address::Tcp("[::1]:1".parse().unwrap())).await.err().unwrap();
        assert!(error.to_string().contains("from 127.0.0.7"), "{error}");
    });
    tried.unwrap();
}
