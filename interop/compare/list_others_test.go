package compare

import (
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func grant(id, ttl int64) *etcdserverpb.LeaseGrantRequest {
	return &etcdserverpb.LeaseGrantRequest{ID: id, TTL: ttl}
}

func revoke(id int64) *etcdserverpb.LeaseRevokeRequest {
	return &etcdserverpb.LeaseRevokeRequest{ID: id}
}

func remaining(id int64) *etcdserverpb.LeaseTimeToLiveRequest {
	return &etcdserverpb.LeaseTimeToLiveRequest{ID: id, Keys: true}
}

func attached(key string, lease int64) *etcdserverpb.PutRequest {
	return &etcdserverpb.PutRequest{Key: b(key), Value: b("v"), Lease: lease, PrevKv: true}
}

var leases = &etcdserverpb.LeaseLeasesRequest{}

func listLease() []Request {
	list := asks(leases, grant(7, 6000), grant(7, 6000), grant(7, 0), grant(8, 0), grant(9, -5), grant(10, 1), revoke(8), revoke(9), revoke(10),
		grant(11, 9000000000), grant(12, 9000000001), grant(-1, 6000), grant(math.MaxInt64, 7000), grant(math.MinInt64, 8000), grant(13, math.MaxInt64),
		leases, attached("la", 7), attached("lb", 7), attached("lc", 99), attached("la", 11), attached("la", 7), attached("ld", -1), get("l", "m"),
		&etcdserverpb.PutRequest{Key: b("la"), Value: b("w"), IgnoreLease: true}, &etcdserverpb.PutRequest{Key: b("la"), IgnoreValue: true, Lease: 11},
		remaining(7), remaining(11), remaining(99), remaining(0), remaining(-1), &etcdserverpb.LeaseTimeToLiveRequest{ID: 7},
		put("lb", "detached"), remaining(7), attached("lb", 7),
		&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{when(equal, "lb", leased(7))}, Success: ops(attached("le", 7), attached("lf", 11)), Failure: ops(attached("lg", 7))},
		&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{when(greater, "lb", leased(7))}, Success: ops(attached("le", 7)), Failure: ops(attached("lg", 99))},
		remaining(7))
	list = append(list, keepAlive(7), keepAlive(99), keepAlive(0), keepAlive(), keepAlive(7, 99, 11, 7), keepAlive(-1, math.MaxInt64, math.MinInt64))
	list = append(list, asks(revoke(99), revoke(0), revoke(7), revoke(7), get("l", "m"), remaining(7), attached("lb", 7), grant(7, 3000), remaining(7),
		revoke(7), revoke(11), revoke(-1), revoke(math.MaxInt64), revoke(math.MinInt64), leases)...)
	list = append(list, chose(chosenAlias, ask(grant(0, 5000))))
	list = append(list, asks(leases, attached("lc", chosenAlias), remaining(chosenAlias), revoke(chosenAlias), get("l", "m"), leases)...)
	return append(list, watch(grant(3, 900), on("l", "m", withPrevious), attached("l1", 3), attached("l2", 3), revoke(3)))
}

func peers(urls ...string) []string { return urls }

// listCluster is what one member may be asked without losing its quorum. A learner that never starts comes and goes.
func listCluster() []Request {
	learner := func(urls ...string) Request {
		return added(addedAlias, ask(&etcdserverpb.MemberAddRequest{PeerURLs: urls, IsLearner: true}))
	}
	list := asks(&etcdserverpb.MemberListRequest{}, &etcdserverpb.MemberListRequest{Linearizable: true}, &etcdserverpb.MemberAddRequest{},
		&etcdserverpb.MemberAddRequest{PeerURLs: peers("nothing")}, &etcdserverpb.MemberAddRequest{PeerURLs: peers(advertisedPeer), IsLearner: true},
		&etcdserverpb.MemberAddRequest{PeerURLs: peers(advertisedPeer)},
		&etcdserverpb.MemberRemoveRequest{}, &etcdserverpb.MemberRemoveRequest{ID: 5}, &etcdserverpb.MemberRemoveRequest{ID: ownID},
		&etcdserverpb.MemberUpdateRequest{}, &etcdserverpb.MemberUpdateRequest{ID: 5, PeerURLs: peers("http://127.0.0.1:1")},
		&etcdserverpb.MemberUpdateRequest{ID: 5, PeerURLs: peers(advertisedPeer)}, &etcdserverpb.MemberUpdateRequest{ID: ownID, PeerURLs: peers(advertisedPeer)},
		&etcdserverpb.MemberPromoteRequest{}, &etcdserverpb.MemberPromoteRequest{ID: 5}, &etcdserverpb.MemberPromoteRequest{ID: ownID})
	// What is no URL, and what is one after all: as learners, since a voter that never starts would stop the cluster.
	for _, url := range []string{
		"", " ", "http://127.0.0.1", "ftp://127.0.0.1:1", "http://127.0.0.1:1/path", "http://127.0.0.1:1/", "http://:1", "http://host:port", "http://h:1 ", " http://h:1",
		"127.0.0.1:1", "unix://socket:1", "unixs://a", "https://h:1", "HTTP://h:1", "http://h:99999", "http://h:1?q", "http://h:1#f", "http://[::1]:1", "http://u:p@h:1", "http://%zz:1",
	} {
		list = append(list, learner(url), ask(&etcdserverpb.MemberRemoveRequest{ID: addedAlias}))
	}
	list = append(list, learner("http://127.0.0.1:1", "x"), learner("http://127.0.0.1:1", advertisedPeer), learner("http://b:2", "http://a:1", "http://b:2"),
		ask(&etcdserverpb.MemberRemoveRequest{ID: addedAlias}), learner("http://127.0.0.1:1"), learner("http://127.0.0.1:2"))
	list = append(list, asks(&etcdserverpb.MemberListRequest{Linearizable: true},
		&etcdserverpb.MemberPromoteRequest{ID: addedAlias}, &etcdserverpb.MoveLeaderRequest{TargetID: addedAlias},
		&etcdserverpb.MemberUpdateRequest{ID: addedAlias, PeerURLs: peers(advertisedPeer)},
		&etcdserverpb.MemberUpdateRequest{ID: addedAlias, PeerURLs: peers("http://127.0.0.1:3", "http://127.0.0.1:4")},
		&etcdserverpb.MemberUpdateRequest{ID: addedAlias, PeerURLs: peers("http://127.0.0.1:3")},
		&etcdserverpb.MemberListRequest{}, &etcdserverpb.MemberRemoveRequest{ID: addedAlias}, &etcdserverpb.MemberRemoveRequest{ID: addedAlias},
		&etcdserverpb.MemberUpdateRequest{ID: addedAlias, PeerURLs: peers("http://127.0.0.1:5")}, &etcdserverpb.MemberPromoteRequest{ID: addedAlias},
		&etcdserverpb.MemberListRequest{Linearizable: true})...)
	return append(list, ask(&etcdserverpb.StatusRequest{}))
}

// ownID is the one member's, which both make of the URL that they advertise.
const ownID = 13195394291058371180

func alarm(action etcdserverpb.AlarmRequest_AlarmAction, member uint64, kind etcdserverpb.AlarmType) *etcdserverpb.AlarmRequest {
	return &etcdserverpb.AlarmRequest{Action: action, MemberID: member, Alarm: kind}
}

const (
	raise   = etcdserverpb.AlarmRequest_ACTIVATE
	disarm  = etcdserverpb.AlarmRequest_DEACTIVATE
	noSpace = etcdserverpb.AlarmType_NOSPACE
	corrupt = etcdserverpb.AlarmType_CORRUPT
)

func downgrade(action etcdserverpb.DowngradeRequest_DowngradeAction, version string) *etcdserverpb.DowngradeRequest {
	return &etcdserverpb.DowngradeRequest{Action: action, Version: version}
}

// whileAlarmed is asked while alarms are raised.
func whileAlarmed() []Request {
	list := asks(&etcdserverpb.AlarmRequest{}, alarm(0, ownID, noSpace), alarm(0, 0, corrupt), &etcdserverpb.StatusRequest{}, put("al", "1"), put("", "1"),
		&etcdserverpb.PutRequest{Key: b("none"), IgnoreValue: true}, get("a", "b"), del("al", ""), del("none", ""),
		&etcdserverpb.TxnRequest{Success: ops(put("al", "2"))}, &etcdserverpb.TxnRequest{Success: ops(get("al", ""))}, &etcdserverpb.TxnRequest{},
		&etcdserverpb.TxnRequest{Success: ops(del("al", ""))}, &etcdserverpb.TxnRequest{Failure: ops(put("al", "2"))},
		&etcdserverpb.TxnRequest{Success: ops(&etcdserverpb.TxnRequest{Success: ops(put("al", "2"))})}, grant(20, 6000), revoke(20), revoke(404), remaining(20),
		leases, compact(1), &etcdserverpb.HashKVRequest{}, &etcdserverpb.DefragmentRequest{}, &etcdserverpb.MemberListRequest{Linearizable: true},
		&etcdserverpb.MemberRemoveRequest{ID: 5}, &v3lockpb.LockRequest{Name: b("al"), Lease: 404}, &v3lockpb.UnlockRequest{Key: b("al/1")},
		&v3electionpb.CampaignRequest{Name: b("al"), Lease: 404}, &grpc_health_v1.HealthCheckRequest{})
	return append(list, rangeStream(get("a", "b")), keepAlive(20), watch(on("al", ""), put("al", "1"), del("al", "")))
}

// listMaintenance has no alarm with an unknown action: etcd's members die of it, each time they start.
func listMaintenance() []Request {
	hash := func(revision int64) *etcdserverpb.HashKVRequest {
		return &etcdserverpb.HashKVRequest{Revision: revision}
	}
	list := asks(&etcdserverpb.StatusRequest{}, &etcdserverpb.HashRequest{}, hash(0), hash(-1), hash(1), hash(24), hash(25), hash(26), hash(30), hash(1<<40),
		&etcdserverpb.DefragmentRequest{}, hash(0), &etcdserverpb.MoveLeaderRequest{}, &etcdserverpb.MoveLeaderRequest{TargetID: 5},
		&etcdserverpb.MoveLeaderRequest{TargetID: ownID}, alarm(0, 0, 0), alarm(raise, 0, 0), alarm(disarm, 0, 0), alarm(raise, ownID, 7),
		alarm(disarm, ownID, noSpace), &etcdserverpb.AlarmRequest{}, alarm(disarm, ownID, 7), &etcdserverpb.AlarmRequest{})
	for _, kind := range []etcdserverpb.AlarmType{noSpace, corrupt} {
		list = append(list, ask(alarm(raise, ownID, kind)), ask(alarm(raise, ownID, kind)))
		list = append(list, whileAlarmed()...)
		list = append(list, asks(alarm(disarm, 0, kind), alarm(disarm, ownID, 3-kind), alarm(disarm, ownID, kind), alarm(disarm, ownID, kind))...)
	}
	list = append(list, asks(alarm(raise, 77, noSpace), alarm(raise, 78, corrupt), put("al", "3"), &etcdserverpb.AlarmRequest{}, alarm(0, 77, noSpace),
		alarm(disarm, 77, noSpace), alarm(disarm, 78, corrupt), put("al", "4"))...)
	for _, version := range []string{"3.6.0", "3.6", "3.6.9", "3.6.0-rc.1", "3.5.0", "3.7.0", "3.8.0", "4.6.0", "v3.6.0", "3", "old", "", "3.6.0.0", "-1.2", "3.06", " 3.6"} {
		list = append(list, ask(downgrade(etcdserverpb.DowngradeRequest_VALIDATE, version)))
	}
	list = append(list, asks(downgrade(etcdserverpb.DowngradeRequest_CANCEL, ""), downgrade(etcdserverpb.DowngradeRequest_CANCEL, "3.6"),
		downgrade(etcdserverpb.DowngradeRequest_ENABLE, "3.5"), downgrade(etcdserverpb.DowngradeRequest_ENABLE, "old"), downgrade(7, "3.6.0"),
		&etcdserverpb.StatusRequest{}, &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckRequest{Service: "etcdserverpb.KV"},
		&grpc_health_v1.HealthListRequest{})...)
	return append(list, snapshot(), healthWatch(""), healthWatch("etcdserverpb.KV"), ask(get("a", "")).with("hasleader", "true"),
		ask(get("a", "")).with("client-api-version", "3.7"), ask(get("a", "")).with("token", "some"), ask(get("a", "")).with("authorization", "Bearer x"),
		ask(put("a", "")).with("client-api-version", "3.\xff"), watch(on("a", "")).with("client-api-version", "3.\xff"))
}

func lock(name string, lease int64) *v3lockpb.LockRequest {
	return &v3lockpb.LockRequest{Name: b(name), Lease: lease}
}

func unlock(key string) *v3lockpb.UnlockRequest { return &v3lockpb.UnlockRequest{Key: b(key)} }

func campaign(name string, lease int64, value string) *v3electionpb.CampaignRequest {
	return &v3electionpb.CampaignRequest{Name: b(name), Lease: lease, Value: b(value)}
}

func leaderKey(name, key string, revision, lease int64) *v3electionpb.LeaderKey {
	return &v3electionpb.LeaderKey{Name: b(name), Key: b(key), Rev: revision, Lease: lease}
}

func leader(name string) *v3electionpb.LeaderRequest {
	return &v3electionpb.LeaderRequest{Name: b(name)}
}

func listConcurrency() []Request {
	proclaim := func(l *v3electionpb.LeaderKey, value string) *v3electionpb.ProclaimRequest {
		return &v3electionpb.ProclaimRequest{Leader: l, Value: b(value)}
	}
	resign := func(l *v3electionpb.LeaderKey) *v3electionpb.ResignRequest {
		return &v3electionpb.ResignRequest{Leader: l}
	}
	list := asks(grant(1, 6000), grant(2, 7000), lock("door", 1), lock("door", 1), lock("door", 404), lock("door", -1), lock("", 1), lock("door/in", 2),
		get("door", "doos"), unlock("door/1"), unlock("door/1"), unlock(""), unlock("nowhere"), unlock("door/in/2"), lock("door", 2), unlock("door/2"), unlock("door/in/2"), unlock("/1"),
		leader("post"), leader(""), campaign("post", 1, "a"), campaign("post", 1, "a"), campaign("post", 1, "b"), campaign("post", 404, "c"), leader("post"))
	list = append(list, observe("post"))
	return append(list, asks(proclaim(nil, "x"), proclaim(leaderKey("", "", 0, 0), "x"), proclaim(leaderKey("post", "post/1", 1, 1), "x"),
		proclaim(leaderKey("post", "none", 1, 1), "x"), resign(nil), resign(leaderKey("post", "post/1", 1, 1)), resign(leaderKey("post", "", 1, 1)), leader("post"),
		campaign("", 2, "e"), leader(""), revoke(1), leader("post"), revoke(2), leader(""))...)
}

// listAuth is asked at the end: it changes what else may be asked.
func listAuth() []Request {
	permission := &etcdserverpb.AuthRoleGrantPermissionRequest{Name: "r"}
	return asks(&etcdserverpb.AuthStatusRequest{}, &etcdserverpb.AuthDisableRequest{}, &etcdserverpb.AuthEnableRequest{},
		&etcdserverpb.AuthenticateRequest{Name: "u", Password: "p"}, &etcdserverpb.AuthUserAddRequest{}, &etcdserverpb.AuthUserGetRequest{Name: "u"},
		&etcdserverpb.AuthUserListRequest{}, &etcdserverpb.AuthUserDeleteRequest{Name: "u"}, &etcdserverpb.AuthUserChangePasswordRequest{Name: "u", Password: "q"},
		&etcdserverpb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, &etcdserverpb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"}, &etcdserverpb.AuthRoleAddRequest{},
		&etcdserverpb.AuthRoleGetRequest{Role: "r"}, &etcdserverpb.AuthRoleListRequest{}, &etcdserverpb.AuthRoleDeleteRequest{Role: "r"}, permission,
		&etcdserverpb.AuthRoleRevokePermissionRequest{Role: "r"})
}
