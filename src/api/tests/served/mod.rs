//! A member with its client port on a real socket, and a connection to it.

use std::net::SocketAddr;

use quorate_api::{ApiOptions, ApiService, serve};
use quorate_client::Connection;
use quorate_member::{Member, MemberConfig};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_runtime::Rt;
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::watch;
use quorate_runtime_tokio::TokioRuntime;

/// A member behind a port.
pub struct Served {
    pub rt: Rt,
    pub member: Member,
    pub service: ApiService,
    pub address: Address,
    pub connection: Connection,
    pub shutdown: watch::Sender<bool>,
}

/// Starts a member behind a port, gives it to `test`, and stops it.
pub fn with_member(
    change: impl FnOnce(&mut MemberConfig, &mut ApiOptions),
    reactors: usize,
    test: impl AsyncFnOnce(&Served),
) {
    let dir = tempfile::tempdir().unwrap();
    TokioRuntime::run(reactors, async |rt| {
        let mut config =
            MemberConfig::single("m1", &dir.path().join("m1.etcd"), "http://127.0.0.1:2380", "http://127.0.0.1:2379");
        let mut options = ApiOptions::default();
        change(&mut config, &mut options);
        let member = Member::start(rt.clone(), config).await.unwrap();
        member.ready().await;
        let any_port = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = rt.listen(any_port, ListenOptions::default()).await.unwrap();
        let address = listener.local_address();
        let (shutdown, asked) = watch::channel(false);
        let service = quorate_api::service(rt.clone(), member.clone(), options);
        rt.spawn(Box::pin(serve(rt.clone(), listener, service.clone(), asked)));
        let connection = Connection::connect(&rt, address.clone()).await.unwrap();
        let served = Served { rt, member, service, address, connection, shutdown };
        test(&served).await;
        served.shutdown.send_replace(true);
        served.member.stop();
        served.member.stopped().await;
    });
}

/// Changes nothing.
pub fn plain(_: &mut MemberConfig, _: &mut ApiOptions) {}

impl Served {
    pub fn kv(&self) -> KvClient<Connection> {
        KvClient::with_origin(self.connection.clone(), self.connection.origin())
    }
}
