use std::net::Ipv4Addr;

use quorate_runtime::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::run::in_world;
use crate::world::World;

fn address(machine: u8) -> Address {
    Address::Tcp(SocketAddr::new(ip(machine), 2379))
}

fn ip(machine: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, machine).into()
}

/// Two machines and a connection between them: opener's stream, accepter's stream.
async fn pair(world: &World) -> (BoxStream, BoxStream) {
    world.net.add_machine(1, "one", ip(1));
    world.net.add_machine(2, "two", ip(2));
    let mut listener = world.net.listen(2, address(2), ListenOptions::default()).unwrap();
    let opener = Arc::clone(&world.net).connect(1, address(2)).await.unwrap();
    let accepted = listener.accept().await.unwrap().into_stream().unwrap();
    (opener, accepted)
}

#[test]
fn bytes_arrive_in_order_and_later_than_sent_whatever_the_portions() {
    in_world(1, |world| async move {
        let (mut left, mut right) = pair(&world).await;
        world.net.tune(|knobs| {
            knobs.partial_percent = 50;
            knobs.loss_per_million = 50_000;
        });
        let sent: Vec<u8> = (0..100_000_u32).map(|at| (at * 7) as u8).collect();
        let expected = sent.clone();
        let before = clock::now();
        let write = async move {
            left.write_all(&sent).await.unwrap();
            left.shutdown().await.unwrap();
            left
        };
        let read = async move {
            let mut received = Vec::new();
            right.read_to_end(&mut received).await.unwrap();
            received
        };
        let (_left, received) = quorate_runtime::join!(write, read);
        assert!(received == expected);
        assert!(clock::now().since(before) >= Duration::from_micros(50));
        assert!(world.net.counters().deliveries > 1);
    });
}

#[test]
fn a_cut_link_delays_one_direction_until_it_is_mended() {
    in_world(2, |world| async move {
        let (mut left, mut right) = pair(&world).await;
        world.net.cut(1, 2);
        left.write_all(b"late").await.unwrap();
        right.write_all(b"soon").await.unwrap();
        let mut bytes = [0; 4];
        left.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"soon");
        let cut_at = clock::now();
        let mend = async {
            clock::sleep(Duration::from_secs(2)).await;
            world.net.mend(1, 2);
        };
        let read = async {
            let mut bytes = [0; 4];
            right.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"late");
            clock::now()
        };
        let ((), arrived) = quorate_runtime::join!(mend, read);
        assert!(arrived.since(cut_at) >= Duration::from_secs(2));
    });
}

#[test]
fn a_reset_breaks_both_ends_in_the_middle() {
    in_world(3, |world| async move {
        let (mut left, mut right) = pair(&world).await;
        left.write_all(b"never read").await.unwrap();
        assert!(world.net.reset_one(2));
        assert_eq!(right.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(left.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_killed_process_is_noticed_and_a_machine_without_power_is_not() {
    in_world(4, |world| async move {
        let (mut left, right) = pair(&world).await;
        world.net.process_died(2);
        drop(right);
        let mut bytes = Vec::new();
        let result = left.read_to_end(&mut bytes).await;
        assert!(matches!(&result, Ok(0)) || result.unwrap_err().kind() == io::ErrorKind::ConnectionReset);

        let mut listener = world.net.listen(2, address(2), ListenOptions::default()).unwrap();
        let mut left = Arc::clone(&world.net).connect(1, address(2)).await.unwrap();
        let right = listener.accept().await.unwrap().into_stream().unwrap();
        world.net.power_failed(2);
        drop(right);
        drop(listener);
        left.write_all(b"is anybody there?").await.unwrap();
        let reading = quorate_runtime::select! {
            biased;
            result = left.read_u8() => Some(result),
            () = clock::sleep(Duration::from_secs(60)) => None,
        };
        assert!(reading.is_none(), "half-open: nothing is heard");
        world.net.power_returned(2);
        assert_eq!(left.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        // Who only listens hears of it by TCP's keepalive.
        let mut listener = world.net.listen(2, address(2), ListenOptions::default()).unwrap();
        let mut left = Arc::clone(&world.net).connect(1, address(2)).await.unwrap();
        let right = listener.accept().await.unwrap().into_stream().unwrap();
        world.net.power_failed(2);
        drop((right, listener));
        world.net.power_returned(2);
        let since = clock::now();
        assert_eq!(left.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(clock::now().since(since) <= Duration::from_secs(30));
    });
}

#[test]
fn connecting_is_refused_without_a_listener_and_times_out_without_power() {
    in_world(5, |world| async move {
        world.net.add_machine(1, "one", ip(1));
        world.net.add_machine(2, "two", ip(2));
        let refused = Arc::clone(&world.net).connect(1, address(2)).await;
        assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        world.net.power_failed(2);
        let silent = Arc::clone(&world.net).connect(1, address(2)).await;
        assert_eq!(silent.err().unwrap().kind(), io::ErrorKind::TimedOut);
        assert_eq!(world.net.lookup("two").unwrap(), vec![ip(2)]);
        assert!(world.net.lookup("three").is_err());
    });
}

#[test]
fn an_address_has_one_listener_and_is_free_when_it_is_dropped() {
    in_world(6, |world| async move {
        world.net.add_machine(1, "one", ip(1));
        let listen = || world.net.listen(1, address(1), ListenOptions::default());
        let first = listen().unwrap();
        assert_eq!(listen().err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen().unwrap();
        let any = Address::Tcp(SocketAddr::new(ip(1), 0));
        let listener = world.net.listen(1, any.clone(), ListenOptions::default()).unwrap();
        assert_ne!(listener.local_address(), any);
    });
}
