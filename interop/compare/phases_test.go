package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"quorate/interop/cluster"
)

// Limits of the phase of small ones.
const (
	smallTxnOps       = 3
	smallRequestBytes = 2000
	// What gRPC takes beyond the limit of a request.
	grpcOverheadBytes = 512 << 10
)

// phases begin with those that take longest.
var phases = []phase{
	{"alone", 15, 60, startAlone, aloneDraws},
	{"plain", 880, 0, func(t *testing.T) Pair { return single(t) }, plainDraws},
	{"small", 40, 350, func(t *testing.T) Pair {
		return single(t, fmt.Sprintf("--max-txn-ops=%d", smallTxnOps), fmt.Sprintf("--max-request-bytes=%d", smallRequestBytes))
	}, smallDraws},
	{"full", 20, 100, func(t *testing.T) Pair { return single(t, "--quota-backend-bytes=1") }, fullDraws},
	{"downgrade", 10, 150, startDowngrade, downgradeDraws},
	{"members", 30, 150, startMembers, membersDraws},
	{"wounded", 3, 60, startWounded, woundedDraws},
	{"learner", 10, 60, startLearner, learnerDraws},
}

func smallDraws() []draw {
	text := func(g *generator, lengths ...int) string { return strings.Repeat("x", pick(g, lengths...)) }
	small := func(g *generator) *etcdserverpb.TxnRequest {
		r := g.txnMessage(1)
		for g.chance(60) {
			r.Success = append(r.Success, op(g.rangeMessage()))
		}
		for g.chance(30) {
			r.Compare = append(r.Compare, g.compare())
		}
		return r
	}
	return []draw{
		{10, func(g *generator) Request { return g.next(kvDraws) }},
		{10, func(g *generator) Request {
			return ask(put(g.key(), text(g, 1000, smallRequestBytes-g.dice.Intn(100), smallRequestBytes, 10_000)))
		}},
		{10, func(g *generator) Request { return ask(small(g)) }},
		{2, func(g *generator) Request {
			return ask(&etcdserverpb.TxnRequest{Success: ops(put("a", text(g, 900, 1500)), put("b", text(g, 400, 900)))})
		}},
		{3, func(g *generator) Request {
			// One byte more or less than what is taken.
			r := put("big", "")
			r.Value = make([]byte, smallRequestBytes+grpcOverheadBytes-10-g.dice.Intn(3))
			return ask(r)
		}},
		{2, func(g *generator) Request { return ask(get("a", text(g, 3000, smallRequestBytes+grpcOverheadBytes))) }},
		{1, func(g *generator) Request { return ask(&etcdserverpb.DeleteRangeRequest{Key: b(text(g, 1990, 3000))}) }},
		{1, func(g *generator) Request { return ask(campaign("big", 404, text(g, 3000))) }},
	}
}

func fullDraws() []draw {
	return []draw{
		{20, func(g *generator) Request { return g.next(kvDraws) }},
		{10, func(g *generator) Request { return g.next(leaseDraws) }},
		{3, func(g *generator) Request { return ask(lock("door", 404)) }},
		{3, func(g *generator) Request { return ask(campaign("post", 404, "")) }},
		{4, func(g *generator) Request { return ask(&etcdserverpb.AlarmRequest{}) }},
		{4, func(g *generator) Request { return ask(alarm(disarm, ownID, noSpace)) }},
		{2, func(g *generator) Request { return ask(&etcdserverpb.StatusRequest{}) }},
		{1, (*generator).conversation},
	}
}

// startDowngrade begins a downgrade and waits until the cluster is of the version before: from then on nothing changes by itself.
func startDowngrade(t *testing.T) Pair {
	pair := single(t)
	enable := ask(downgrade(etcdserverpb.DowngradeRequest_ENABLE, "3.6.0"))
	if v := askBoth(pair, &enable, newTally()); v.Differs || v.Theirs.Code != 0 {
		t.Fatalf("%s\n%s\n%s", enable.String(), v.Theirs.String(), v.Ours.String())
	}
	for _, target := range pair {
		await(t, target.Name+" is of version 3.6", func() bool {
			answer, err := http.Get("http://" + target.Conns[0].Target() + "/version")
			if err != nil {
				return false
			}
			defer answer.Body.Close()
			var version struct{ Etcdcluster string }
			return json.NewDecoder(answer.Body).Decode(&version) == nil && version.Etcdcluster == "3.6.0"
		})
	}
	return pair
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(versionTimeout); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", versionTimeout, what)
		}
	}
}

func downgradeDraws() []draw {
	return []draw{
		{20, func(g *generator) Request {
			action := pick(g, etcdserverpb.DowngradeRequest_VALIDATE, etcdserverpb.DowngradeRequest_ENABLE)
			return ask(downgrade(action, pick(g, "3.6.0", "3.6", "3.5.0", "3.7.0", "old", "")))
		}},
		{5, func(g *generator) Request { return g.next(kvDraws) }},
	}
}

// three starts clusters of three members, led by the first, in which members have the same aliases.
func three(t *testing.T) (Pair, [2]*cluster.Cluster) {
	t.Helper()
	var pair Pair
	var clusters [2]*cluster.Cluster
	for number, kind := range []cluster.Kind{cluster.Etcd37, cluster.Quorate} {
		c := cluster.New(t, []string{"--unsafe-no-fsync"}, kind, kind, kind)
		c.Start()
		c.MoveLeader(c.Members[0])
		pair[number], clusters[number] = clusterTarget(t, []string{"etcd", "quorate"}[number], c), c
	}
	return pair, clusters
}

// Members must have been connected for so long before one more is taken.
const healthInterval = 5 * time.Second

func startMembers(t *testing.T) Pair {
	pair, _ := three(t)
	time.Sleep(healthInterval + time.Second)
	return pair
}

func clusterTarget(t *testing.T, name string, c *cluster.Cluster) *Target {
	t.Helper()
	target := newTarget(name)
	target.elections = true
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for number, m := range c.Members {
		status, err := m.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		target.Conns = append(target.Conns, m.Client().ActiveConnection())
		target.real[clusterAlias] = status.Header.ClusterId
		target.real[uint64(memberAlias+number)] = status.Header.MemberId
		target.texts = append(target.texts, [2]string{fmt.Sprintf("http://client%d:1", number+1), m.ClientURL},
			[2]string{fmt.Sprintf("http://peer%d:1", number+1), m.PeerURL})
	}
	target.awaitVersion(t)
	return target
}

func anyone(g *generator) int { return g.dice.Intn(3) }

// after asks a member what it answers from its own state, after something that it has to have caught up for.
func (g *generator) after(member int, r Request) Request {
	g.queue = append(g.queue, r.at(member))
	return ask(get("a", "")).at(member)
}

func membersDraws() []draw {
	member := func(g *generator) uint64 {
		return pick(g, uint64(memberAlias), memberAlias+1, memberAlias+2, addedAlias, 5)
	}
	return []draw{
		{10, func(g *generator) Request {
			r := g.rangeMessage()
			r.Serializable = false
			return ask(r).at(anyone(g))
		}},
		{8, func(g *generator) Request { return ask(g.putMessage()).at(anyone(g)) }},
		{3, func(g *generator) Request { return ask(g.deleteMessage()).at(anyone(g)) }},
		{3, func(g *generator) Request {
			return g.drawn(leaseDraws[:1])
		}},
		{3, func(g *generator) Request { return g.after(anyone(g), keepAlive(g.lease(), g.lease())) }},
		{3, func(g *generator) Request { return g.after(anyone(g), ask(remaining(g.lease()))) }},
		{3, func(g *generator) Request { return g.after(anyone(g), ask(&etcdserverpb.StatusRequest{})) }},
		{3, func(g *generator) Request { return g.after(anyone(g), ask(&etcdserverpb.HashKVRequest{})) }},
		{3, func(g *generator) Request {
			return ask(&etcdserverpb.MemberListRequest{Linearizable: true}).at(anyone(g))
		}},
		{6, func(g *generator) Request {
			return ask(&etcdserverpb.MoveLeaderRequest{TargetID: member(g)}).at(1 + g.dice.Intn(2))
		}},
		{3, func(g *generator) Request {
			return ask(&etcdserverpb.MoveLeaderRequest{TargetID: pick(g, uint64(memberAlias), addedAlias, 5, 0)})
		}},
		{4, func(g *generator) Request {
			return ask(&etcdserverpb.MemberPromoteRequest{ID: member(g)}).at(anyone(g))
		}},
		{4, func(g *generator) Request {
			urls := pick(g, g.fresh(), g.fresh(), peers("http://peer2:1"), peers("x"))
			return added(addedAlias, ask(&etcdserverpb.MemberAddRequest{PeerURLs: urls, IsLearner: true}).at(anyone(g)))
		}},
		{2, func(g *generator) Request {
			return ask(&etcdserverpb.MemberRemoveRequest{ID: pick(g, uint64(addedAlias), 5)}).at(anyone(g))
		}},
		{2, func(g *generator) Request {
			id := pick(g, uint64(addedAlias), 5, memberAlias+1)
			return ask(&etcdserverpb.MemberUpdateRequest{ID: id, PeerURLs: peers(pick(g, "http://peer1:1", "http://peer3:1"))}).at(anyone(g))
		}},
		{1, func(g *generator) Request {
			g.queue = append(g.queue, moved(1, 0))
			return moved(0, 1)
		}},
	}
}

// moved moves the leader from one to another and waits until every member knows.
func moved(from, to int) Request {
	r := ask(&etcdserverpb.MoveLeaderRequest{TargetID: uint64(memberAlias + to)}).at(from)
	r.Talk = func(t *Target, r *Request) Answer {
		plain := *r
		plain.Talk = nil
		answer := t.Ask(&plain)
		for begun := time.Now(); time.Since(begun) < patience; time.Sleep(5 * time.Millisecond) {
			agreed := 0
			for member := range t.Conns {
				status := ask(&etcdserverpb.StatusRequest{}).at(member)
				told := t.Ask(&status)
				if known, ok := told.Last.(*etcdserverpb.StatusResponse); ok && known.Leader == uint64(memberAlias+to) {
					agreed++
				}
			}
			if agreed == len(t.Conns) {
				break
			}
		}
		return answer
	}
	return r
}

// startWounded has a third member that is dead.
func startWounded(t *testing.T) Pair {
	pair, clusters := three(t)
	for number, c := range clusters {
		c.Must(c.Members[2].Kill())
		// Who has just been connected may be gone again without having been noticed.
		refused := ask(&etcdserverpb.MemberRemoveRequest{ID: memberAlias + 1})
		await(t, "its members notice", func() bool {
			answer := pair[number].Ask(&refused)
			return strings.Contains(answer.Text, "unhealthy")
		})
	}
	return pair
}

func woundedDraws() []draw {
	some := func(g *generator) int { return g.dice.Intn(2) }
	return []draw{
		{6, func(g *generator) Request {
			return ask(&etcdserverpb.MemberAddRequest{PeerURLs: pick(g, peers("http://127.0.0.1:1"), peers("http://127.0.0.1:1", "x"))}).at(some(g))
		}},
		{6, func(g *generator) Request {
			return ask(&etcdserverpb.MemberRemoveRequest{ID: memberAlias + 1}).at(some(g))
		}},
		{2, func(g *generator) Request {
			return ask(&etcdserverpb.MemberListRequest{Linearizable: true}).at(some(g))
		}},
		{2, func(g *generator) Request { return ask(g.putMessage()).at(some(g)) }},
	}
}

// startAlone has one member that is left of three, and no leader.
func startAlone(t *testing.T) Pair {
	pair, clusters := three(t)
	for number, c := range clusters {
		c.Must(c.Members[1].Kill())
		c.Must(c.Members[2].Kill())
		status := ask(&etcdserverpb.StatusRequest{})
		await(t, "there is no leader", func() bool {
			answer := pair[number].Ask(&status)
			known, ok := answer.Last.(*etcdserverpb.StatusResponse)
			return ok && known.Leader == 0
		})
	}
	return pair
}

func aloneDraws() []draw {
	return []draw{
		{20, func(g *generator) Request { return ask(get("a", "")).with("hasleader", "true") }},
		{10, func(g *generator) Request { return ask(put("a", "")).with("hasleader", "true") }},
		{10, func(g *generator) Request { return watch(on("a", "")).with("hasleader", "true") }},
		{10, func(g *generator) Request {
			r := g.rangeMessage()
			r.Serializable = true
			return ask(r)
		}},
		{2, func(g *generator) Request {
			if g.batches++; g.batches > batchesMax() {
				return ask(get("a", "")).with("hasleader", "true")
			}
			return together(g, func(g *generator) Request {
				return pick(g, ask(g.putMessage()), ask(get("a", "")), ask(g.txnMessage(1)), ask(grant(1, 6000)), ask(compact(1)), ask(del("a", "")),
					ask(&etcdserverpb.MemberListRequest{Linearizable: true}), ask(lock("a", 1)), ask(leader("a")), ask(revoke(1)), ask(remaining(1)), keepAlive(1))
			})
		}},
		{5, func(g *generator) Request { return ask(&etcdserverpb.MemberListRequest{}) }},
		{5, func(g *generator) Request { return ask(&etcdserverpb.StatusRequest{}) }},
		{5, func(g *generator) Request { return ask(&etcdserverpb.MoveLeaderRequest{TargetID: memberAlias + 1}) }},
	}
}

// batchesMax is how often there is time to wait until calls are given up.
func batchesMax() int {
	if full() {
		return 16
	}
	return 1
}

// startLearner has a member and a learner that has caught up.
func startLearner(t *testing.T) Pair {
	var pair Pair
	for number, kind := range []cluster.Kind{cluster.Etcd37, cluster.Quorate} {
		c := cluster.New(t, []string{"--unsafe-no-fsync"}, kind)
		c.Start()
		client := etcdserverpb.NewKVClient(c.Members[0].Client().ActiveConnection())
		for _, key := range []string{"a", "b", "b", "dir/1", "e"} {
			if _, err := client.Put(context.Background(), put(key, "v")); err != nil {
				t.Fatal(err)
			}
		}
		c.JoinAsLearner(kind)
		pair[number] = clusterTarget(t, []string{"etcd", "quorate"}[number], c)
	}
	return pair
}

func learnerDraws() []draw {
	learner := func(r Request) Request { return r.at(1) }
	return []draw{
		{10, func(g *generator) Request { return learner(ask(g.rangeMessage())) }},
		{10, func(g *generator) Request { return learner(ask(g.putMessage())) }},
		{5, func(g *generator) Request { return learner(ask(g.txnMessage(0))) }},
		{5, func(g *generator) Request { return learner(rangeStream(g.rangeMessage())) }},
		{5, func(g *generator) Request { return learner(watch(on("a", ""))) }},
		{5, func(g *generator) Request { return learner(keepAlive(g.lease())) }},
		{5, func(g *generator) Request { return learner(ask(remaining(g.lease()))) }},
		{5, func(g *generator) Request { return learner(ask(&etcdserverpb.StatusRequest{})) }},
		{5, func(g *generator) Request {
			return learner(ask(&etcdserverpb.MemberListRequest{Linearizable: g.chance(50)}))
		}},
		{3, func(g *generator) Request { return learner(ask(&etcdserverpb.HashKVRequest{})) }},
		{3, func(g *generator) Request { return learner(ask(&v3lockpb.UnlockRequest{Key: b("a")})) }},
		{2, func(g *generator) Request { return learner(snapshot()) }},
		{2, func(g *generator) Request { return learner(healthWatch("")) }},
		{3, func(g *generator) Request { return ask(&etcdserverpb.MoveLeaderRequest{TargetID: memberAlias + 1}) }},
		{3, func(g *generator) Request {
			return learner(ask(&etcdserverpb.MoveLeaderRequest{TargetID: memberAlias}))
		}},
	}
}

// together asks at the same time what is only answered after seconds.
func together(g *generator, from func(g *generator) Request) Request {
	batch := make([]Request, 40)
	for number := range batch {
		batch[number] = from(g)
	}
	return Request{Batch: batch}
}
