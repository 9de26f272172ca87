package compare

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

func (g *generator) lease() int64 {
	if g.chance(4) {
		return pick(g, int64(-1), 0, 404)
	}
	return 1 + g.dice.Int63n(6)
}

// leaseDraws have leases that outlive the run; each has a time of its own, so that their order by expiry is that of their times.
var leaseDraws = []draw{
	{20, func(g *generator) Request {
		id := g.lease()
		ttl := 10_000 * (1 + max(id, 0))
		if g.chance(10) {
			ttl = pick(g, int64(9_000_000_001), 1<<62)
		}
		if id == 0 {
			// It is revoked at once: nobody would know its id.
			g.queue = append(g.queue, ask(remaining(chosenAlias)), ask(revoke(chosenAlias)))
			return chose(chosenAlias, ask(grant(0, 5000)))
		}
		return ask(grant(id, ttl))
	}},
	{9, func(g *generator) Request { return ask(revoke(g.lease())) }},
	{10, func(g *generator) Request {
		var ids []int64
		for range g.dice.Intn(4) {
			ids = append(ids, g.lease())
		}
		return keepAlive(ids...)
	}},
	{10, func(g *generator) Request {
		r := remaining(g.lease())
		r.Keys = g.chance(70)
		return ask(r)
	}},
	{6, func(g *generator) Request { return ask(leases) }},
	{20, func(g *generator) Request { return ask(attached(g.key(), g.lease())) }},
}

// lockDraws never let a call wait for another: the holder that is known gives its lock back first. Who does wait, waits within a
// story.
var lockDraws = []draw{
	{10, func(g *generator) Request {
		name, lease := pick(g, "lock1", "lock2", "lock3"), g.owner()
		taken := ask(lock(name, lease))
		if holder := g.holders[name]; holder != 0 && holder != lease {
			g.queue = append(g.queue, taken)
			taken = ask(unlock(fmt.Sprintf("%s/%x", name, holder)))
		}
		g.holders[name] = lease
		return taken
	}},
	{4, func(g *generator) Request {
		return ask(unlock(fmt.Sprintf("%s/%x", pick(g, "lock1", "lock2", "lock3"), g.owner())))
	}},
	{1, func(g *generator) Request { return ask(unlock("")) }},
	{8, func(g *generator) Request {
		name, lease := pick(g, "post1", "post2"), g.owner()
		taken := ask(campaign(name, lease, g.value()))
		if holder := g.leaders[name]; holder != 0 && holder != lease {
			g.queue = append(g.queue, taken)
			taken = ask(del(fmt.Sprintf("%s/%x", name, holder), ""))
		}
		g.leaders[name] = lease
		return taken
	}},
	{4, func(g *generator) Request {
		return ask(&v3electionpb.ProclaimRequest{Leader: g.leader(), Value: b(g.value())})
	}},
	{4, func(g *generator) Request { return ask(&v3electionpb.ResignRequest{Leader: g.leader()}) }},
	{4, func(g *generator) Request { return ask(leader(pick(g, "post1", "post2", "nobody"))) }},
	{2, func(g *generator) Request {
		// Somebody leads, so that there is something to observe.
		lease := int64(31)
		g.queue = append(g.queue, ask(campaign("seen", lease, g.value())), observe("seen"), ask(revoke(lease)))
		return ask(grant(lease, 5000))
	}},
	{1, waiting},
}

// owner is a lease that may hold a lock: one that is not there is refused.
func (g *generator) owner() int64 {
	if g.chance(5) {
		return pick(g, int64(404), -1)
	}
	return 1 + g.dice.Int63n(6)
}

func (g *generator) leader() *v3electionpb.LeaderKey {
	if g.chance(15) {
		return nil
	}
	name := pick(g, "post1", "post2")
	lease := g.leaders[name]
	if lease == 0 {
		// The server would grant a lease of a minute.
		lease = 404
	}
	return leaderKey(name, fmt.Sprintf("%s/%x", name, lease), pick(g, 0, g.revision, max(0, g.revision-g.dice.Int63n(5))), lease)
}

// proclaimed is what a campaign brought, proclaimed and given back: the key is known from the answer.
func proclaimed(g *generator) Request {
	return Request{Method: "/v3electionpb.Election/Campaign", Title: "told: campaign, proclaim, observe, resign", Messages: []proto.Message{
		campaign("told", 33, g.value())}, Talk: func(t *Target, r *Request) Answer {
		answer := t.askAll(ask(grant(33, 4000)), ask(r.Messages[0]))
		won, ok := answer.Last.(*v3electionpb.CampaignResponse)
		if !ok {
			return answer
		}
		return t.continued(answer, ask(&v3electionpb.ProclaimRequest{Leader: won.Leader, Value: b("proclaimed")}), observe("told"),
			ask(&v3electionpb.ResignRequest{Leader: won.Leader}), ask(&v3electionpb.ProclaimRequest{Leader: won.Leader}), ask(leader("told")), ask(revoke(33)))
	}}
}

// clusterDraws leave the one member its quorum: who comes is a learner that never starts.
var clusterDraws = []draw{
	{6, func(g *generator) Request { return ask(&etcdserverpb.MemberListRequest{Linearizable: g.chance(50)}) }},
	{9, func(g *generator) Request {
		urls := pick(g, g.fresh(), g.fresh(), g.fresh(), append(g.fresh(), g.fresh()...), peers(advertisedPeer), peers("nothing"), peers(), peers("http://h:1/p"))
		return added(addedAlias, ask(&etcdserverpb.MemberAddRequest{PeerURLs: urls, IsLearner: true}))
	}},
	{2, func(g *generator) Request {
		return ask(&etcdserverpb.MemberAddRequest{PeerURLs: pick(g, peers(advertisedPeer), peers("nothing"), peers())})
	}},
	{3, func(g *generator) Request { return ask(&etcdserverpb.MemberRemoveRequest{ID: g.member()}) }},
	{6, func(g *generator) Request { return ask(&etcdserverpb.MemberPromoteRequest{ID: g.member()}) }},
	{4, func(g *generator) Request {
		id := g.member()
		// Not what is no URL: etcd takes it, and dies of it.
		urls := pick(g, g.fresh(), peers(advertisedPeer))
		if id == ownID {
			urls = peers(advertisedPeer)
		}
		return ask(&etcdserverpb.MemberUpdateRequest{ID: id, PeerURLs: urls})
	}},
	{3, func(g *generator) Request { return ask(&etcdserverpb.MoveLeaderRequest{TargetID: g.member()}) }},
	{1, func(g *generator) Request { return ask(&etcdserverpb.MemberRemoveRequest{ID: ownID}) }},
}

// rareDraws take a second each.
var rareDraws = []draw{{1, twins}}

// fresh is a peer URL that nobody has had: the id of a member is made of it and of the second in which it is added.
func (g *generator) fresh() []string {
	g.urls++
	return peers(fmt.Sprintf("http://127.0.0.1:%d", g.urls))
}

// twins are members that are added again and again within one second, which makes their ids the same.
func twins(g *generator) Request {
	first, other := g.fresh(), g.fresh()
	add := &etcdserverpb.MemberAddRequest{PeerURLs: first, IsLearner: true}
	return Request{Method: "/etcdserverpb.Cluster/MemberAdd", Title: "again and again: ", Messages: []proto.Message{add},
		Talk: func(t *Target, r *Request) Answer {
			now := time.Now()
			time.Sleep(now.Truncate(time.Second).Add(time.Second).Sub(now))
			answer := t.askAll(ask(&etcdserverpb.MemberRemoveRequest{ID: addedAlias}), added(addedAlias, ask(add)),
				ask(&etcdserverpb.MemberUpdateRequest{ID: addedAlias, PeerURLs: other}))
			for range 10 {
				answer = t.continued(answer, ask(add))
			}
			return t.continued(answer, ask(&etcdserverpb.MemberRemoveRequest{ID: addedAlias}), ask(add))
		}}
}

func (g *generator) member() uint64 { return pick(g, uint64(addedAlias), addedAlias, ownID, 5, 0) }

// maintenanceDraws are cheap but for a few.
var maintenanceDraws = []draw{
	{12, func(g *generator) Request { return ask(&etcdserverpb.StatusRequest{}) }},
	{12, func(g *generator) Request {
		return ask(&etcdserverpb.HashKVRequest{Revision: pick(g, 0, g.anyRevision())})
	}},
	{5, func(g *generator) Request { return ask(&etcdserverpb.HashRequest{}) }},
	{3, func(g *generator) Request { return ask(&etcdserverpb.DefragmentRequest{}) }},
	{4, func(g *generator) Request { return snapshot() }},
	{12, func(g *generator) Request {
		return ask(downgrade(pick(g, etcdserverpb.DowngradeRequest_VALIDATE, etcdserverpb.DowngradeRequest_CANCEL, 7),
			pick(g, "3.6", "3.6.0", "3.5.0", "3.7", "3.8.1", "old", "", "3")))
	}},
	{2, func(g *generator) Request {
		return ask(downgrade(etcdserverpb.DowngradeRequest_ENABLE, pick(g, "3.5.0", "3.7", "old", "")))
	}},
	{4, func(g *generator) Request { return ask(&etcdserverpb.AlarmRequest{}) }},
	{4, alarmed},
	{6, func(g *generator) Request {
		return ask(&grpc_health_v1.HealthCheckRequest{Service: pick(g, "", "etcdserverpb.KV")})
	}},
	{4, func(g *generator) Request { return ask(&grpc_health_v1.HealthListRequest{}) }},
	{4, func(g *generator) Request { return healthWatch(pick(g, "", "etcdserverpb.KV")) }},
	{4, func(g *generator) Request { return badVersion(g.putMessage()) }},
}

// alarmed raises an alarm, asks this and that, and takes it back.
func alarmed(g *generator) Request {
	kind := pick(g, noSpace, corrupt)
	for range 5 + g.dice.Intn(10) {
		g.queue = append(g.queue, g.drawn(pick(g, kvDraws, kvDraws, leaseDraws)))
	}
	g.queue = append(g.queue, ask(&etcdserverpb.AlarmRequest{}), ask(alarm(disarm, ownID, kind)))
	return ask(alarm(raise, ownID, kind))
}

// drawn is one of these that announces nothing.
func (g *generator) drawn(draws []draw) Request {
	kept := g.queue
	g.queue = nil
	one := g.next(draws)
	g.queue = kept
	return one
}

// plainDraws are all services of one member, most of them its key-value service.
func plainDraws() []draw {
	return []draw{
		{560, func(g *generator) Request { return g.next(kvDraws) }},
		{160, func(g *generator) Request { return g.next(leaseDraws) }},
		{100, func(g *generator) Request { return g.next(lockDraws) }},
		{6, proclaimed},
		{50, func(g *generator) Request { return g.next(clusterDraws) }},
		{60, func(g *generator) Request { return g.next(maintenanceDraws) }},
		{7, (*generator).conversation},
		{1, func(g *generator) Request {
			if g.chance(20) {
				return g.next(rareDraws)
			}
			return g.conversation()
		}},
	}
}

// waiting is a lock that one waits for until another gives it back.
func waiting(g *generator) Request {
	name := pick(g, "queue1", "queue2")
	return Request{Method: "/v3lockpb.Lock/Lock", Title: "one waits: ", Messages: []proto.Message{lock(name, 42)},
		Talk: func(t *Target, r *Request) Answer {
			first, second := ask(lock(name, 41)), ask(lock(name, 42))
			answer := t.askAll(ask(grant(41, 4000)), ask(grant(42, 4100)), first)
			waits := make(chan Answer, 1)
			go func() { waits <- t.Ask(&second) }()
			// It waits once its key is there.
			for begun := time.Now(); time.Since(begun) < patience; time.Sleep(2 * time.Millisecond) {
				count := ask(&etcdserverpb.RangeRequest{Key: b(name + "/"), RangeEnd: b(name + "0"), CountOnly: true})
				counted := t.Ask(&count)
				if found, ok := counted.Last.(*etcdserverpb.RangeResponse); ok && found.Count == 2 {
					break
				}
			}
			answer = t.continued(answer, ask(unlock(name+"/29")))
			later := <-waits
			answer.Lines = append(answer.Lines, later.String())
			return t.continued(answer, ask(get(name+"/", name+"0")), ask(revoke(42)), ask(revoke(41)))
		}}
}
