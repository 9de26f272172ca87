//! The gRPC methods that this server answers. What is not in this table is unimplemented.

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One there, one back.
    Unary,
    /// One there, many back.
    ServerStream,
    /// Many each way, at any time.
    BidiStream,
}

impl Kind {
    /// As the metrics name it.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($variant:ident $service:literal $name:literal $kind:ident;)*) => {
        /// A method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method {
            $(#[doc = concat!($service, "/", $name)] $variant,)*
        }

        impl Method {
            /// All methods; each one's place is its number.
            pub const ALL: &[Method] = &[$(Method::$variant,)*];

            /// The method at an HTTP path.
            pub fn from_path(path: &str) -> Option<Method> {
                match path {
                    $(concat!("/", $service, "/", $name) => Some(Method::$variant),)*
                    _ => None,
                }
            }

            /// Package and name of its service.
            pub const fn service(self) -> &'static str {
                match self {
                    $(Method::$variant => $service,)*
                }
            }

            /// Its name within the service.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Method::$variant => $name,)*
                }
            }

            /// How many messages go each way.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Method::$variant => Kind::$kind,)*
                }
            }
        }
    };
}

methods! {
    Range "etcdserverpb.KV" "Range" Unary;
    RangeStream "etcdserverpb.KV" "RangeStream" ServerStream;
    Put "etcdserverpb.KV" "Put" Unary;
    DeleteRange "etcdserverpb.KV" "DeleteRange" Unary;
    Txn "etcdserverpb.KV" "Txn" Unary;
    Compact "etcdserverpb.KV" "Compact" Unary;
    Watch "etcdserverpb.Watch" "Watch" BidiStream;
    LeaseGrant "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LeaseTimeToLive "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm "etcdserverpb.Maintenance" "Alarm" Unary;
    Status "etcdserverpb.Maintenance" "Status" Unary;
    MoveLeader "etcdserverpb.Maintenance" "MoveLeader" Unary;
    HashKv "etcdserverpb.Maintenance" "HashKV" Unary;
    Hash "etcdserverpb.Maintenance" "Hash" Unary;
    Snapshot "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    Defragment "etcdserverpb.Maintenance" "Defragment" Unary;
    Downgrade "etcdserverpb.Maintenance" "Downgrade" Unary;
    Lock "v3lockpb.Lock" "Lock" Unary;
    Unlock "v3lockpb.Lock" "Unlock" Unary;
    Campaign "v3electionpb.Election" "Campaign" Unary;
    Proclaim "v3electionpb.Election" "Proclaim" Unary;
    Leader "v3electionpb.Election" "Leader" Unary;
    Observe "v3electionpb.Election" "Observe" ServerStream;
    Resign "v3electionpb.Election" "Resign" Unary;
    HealthCheck "grpc.health.v1.Health" "Check" Unary;
    HealthList "grpc.health.v1.Health" "List" Unary;
    HealthWatch "grpc.health.v1.Health" "Watch" ServerStream;
    Reflection "grpc.reflection.v1.ServerReflection" "ServerReflectionInfo" BidiStream;
    ReflectionAlpha "grpc.reflection.v1alpha.ServerReflection" "ServerReflectionInfo" BidiStream;
}

/// True if some method of `service` is answered here.
pub fn knows_service(service: &str) -> bool {
    Method::ALL.iter().any(|method| method.service() == service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_methods() {
        for (number, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, number);
            assert_eq!(Method::from_path(&format!("/{}/{}", method.service(), method.name())), Some(*method));
            assert!(knows_service(method.service()));
        }
        assert_eq!(Method::from_path("/etcdserverpb.KV/range"), None);
        assert_eq!(Method::from_path("etcdserverpb.KV/Range"), None);
        assert!(!knows_service("etcdserverpb.Auth"));
    }
}
