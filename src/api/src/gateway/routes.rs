//! Which path is which method: etcd's `google.api.http` annotations (`api/etcdserverpb/rpc.proto`).

use crate::method::Method;

/// Every path, with the method behind it.
pub const ALL: &[(&str, Method)] = &[
    ("/v3/kv/range", Method::Range),
    ("/v3/kv/put", Method::Put),
    ("/v3/kv/deleterange", Method::DeleteRange),
    ("/v3/kv/txn", Method::Txn),
    ("/v3/kv/compaction", Method::Compact),
    ("/v3/watch", Method::Watch),
    ("/v3/lease/grant", Method::LeaseGrant),
    ("/v3/lease/revoke", Method::LeaseRevoke),
    ("/v3/kv/lease/revoke", Method::LeaseRevoke),
    ("/v3/lease/keepalive", Method::LeaseKeepAlive),
    ("/v3/lease/timetolive", Method::LeaseTimeToLive),
    ("/v3/kv/lease/timetolive", Method::LeaseTimeToLive),
    ("/v3/lease/leases", Method::LeaseLeases),
    ("/v3/kv/lease/leases", Method::LeaseLeases),
    ("/v3/cluster/member/add", Method::MemberAdd),
    ("/v3/cluster/member/remove", Method::MemberRemove),
    ("/v3/cluster/member/update", Method::MemberUpdate),
    ("/v3/cluster/member/list", Method::MemberList),
    ("/v3/cluster/member/promote", Method::MemberPromote),
    ("/v3/maintenance/alarm", Method::Alarm),
    ("/v3/maintenance/status", Method::Status),
    ("/v3/maintenance/defragment", Method::Defragment),
    ("/v3/maintenance/hash", Method::Hash),
    ("/v3/maintenance/hashkv", Method::HashKv),
    ("/v3/maintenance/snapshot", Method::Snapshot),
    ("/v3/maintenance/transfer-leadership", Method::MoveLeader),
    ("/v3/maintenance/downgrade", Method::Downgrade),
    ("/v3/lock/lock", Method::Lock),
    ("/v3/lock/unlock", Method::Unlock),
    ("/v3/election/campaign", Method::Campaign),
    ("/v3/election/proclaim", Method::Proclaim),
    ("/v3/election/leader", Method::Leader),
    ("/v3/election/observe", Method::Observe),
    ("/v3/election/resign", Method::Resign),
];

/// The method at `path`.
pub fn find(path: &str) -> Option<Method> {
    ALL.iter().find(|(known, _)| *known == path).map(|(_, method)| *method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_etcds_methods_has_a_path_but_one() {
        let without: Vec<Method> = Method::ALL
            .iter()
            .copied()
            .filter(|method| !method.service().starts_with("grpc.") && !ALL.iter().any(|(_, known)| known == method))
            .collect();
        assert_eq!(without, [Method::RangeStream]);
        assert_eq!(find("/v3/kv/range"), Some(Method::Range));
        assert_eq!(find("/v3/kv/range/"), None);
    }
}
