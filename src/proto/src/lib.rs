//! etcd's wire types: the public v3 API, the internal raft request, raft's messages, the log's records.
//!
//! Generated at build time from `proto/`; names and numbers are etcd 3.7's. Keys, values and every other byte field are
//! [`bytes::Bytes`], so decoding from a `Bytes` copies nothing. Answers and events hold encoded [`mvccpb::KeyValue`]s
//! as `Bytes` (see `build.rs`).
//!
//! Nothing here behaves: what a message means is decided in the crates that use it.

/// Generated code: one module a protobuf package, named as the package.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::all)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

package!(
    /// The client API and what it puts into the log.
    etcdserverpb
);
package!(
    /// A key at one revision; an event.
    mvccpb
);
package!(
    /// Users, roles, permissions as stored.
    authpb
);
package!(
    /// Membership changes that travel as normal entries.
    membershippb
);
package!(
    /// Locks.
    v3lockpb
);
package!(
    /// Elections.
    v3electionpb
);
package!(
    /// Leases as stored, and between peers.
    leasepb
);
package!(
    /// Raft's messages.
    raftpb
);
package!(
    /// Records of the write-ahead log.
    walpb
);
package!(
    /// The frame of a raft snapshot file.
    snappb
);

/// gRPC's own services.
pub mod grpc {
    /// Whether a server serves.
    #[allow(missing_docs, clippy::all)]
    pub mod health {
        include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
    }

    /// What a server serves.
    #[allow(missing_docs, clippy::all)]
    pub mod reflection {
        include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
    }
}

/// All files of `proto/`, as an encoded `google.protobuf.FileDescriptorSet`: for who asks at run time what messages look like.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
