package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/connectivity"

	"quorate/interop/cluster"
)

const (
	keys = 64
	// callTimeout ends a call whose outcome is unknown then.
	callTimeout = 1500 * time.Millisecond
	// avoidAfter a failed call a client goes to other members for so long.
	avoidAfter = time.Second
	// noMemberPause is between two looks when no member is connected.
	noMemberPause = 50 * time.Millisecond
	servedLimit   = 30 * time.Second
)

// clients talk to a cluster and record everything, until they are told to stop.
type clients struct {
	t       *testing.T
	c       *cluster.Cluster
	history *history
	think   time.Duration
	numbers []int
	stopped atomic.Bool
	running sync.WaitGroup
	// Highest revision whose compaction was asked for.
	compacted atomic.Int64
}

// client is one of them.
type client struct {
	*clients
	number int
	dice   *rand.Rand
	marks  int
	avoid  map[*cluster.Member]time.Time
}

// startClients begins; each client draws what it does from the seed and its number.
func startClients(t *testing.T, c *cluster.Cluster, h *history, writers, readers int, think time.Duration, seed uint64) *clients {
	all := &clients{t: t, c: c, history: h, think: think}
	for number := 1; number <= writers+readers; number++ {
		one := all.client(number, seed)
		all.numbers = append(all.numbers, number)
		step := one.write
		if number > writers {
			step = one.read
		}
		all.running.Go(func() {
			for !all.stopped.Load() {
				step()
				time.Sleep(time.Duration((0.5 + one.dice.Float64()) * float64(all.think)))
			}
		})
	}
	return all
}

func (all *clients) client(number int, seed uint64) *client {
	return &client{
		clients: all, number: number, dice: rand.New(rand.NewPCG(seed, uint64(number))), avoid: map[*cluster.Member]time.Time{},
	}
}

func keyName(number int) string { return fmt.Sprintf("k%03d", number) }

func (one *client) key() []byte { return []byte(keyName(one.dice.IntN(keys))) }

// value is one that no other write has: the write's mark, a part number, and some padding.
func (one *client) value(part int) []byte {
	return fmt.Appendf(nil, "c%d.%d/%d/%s", one.number, one.marks, part, strings.Repeat("x", one.dice.IntN(40)))
}

// member picks one that is connected and has not just failed; nil if there is none.
func (one *client) member() *cluster.Member {
	var fit []*cluster.Member
	for _, m := range one.c.Members {
		connection := m.Client().ActiveConnection()
		if connection.GetState() != connectivity.Ready {
			connection.Connect()
		} else if time.Now().After(one.avoid[m]) {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[one.dice.IntN(len(fit))]
}

// write puts, deletes, compares and puts, or puts two keys at once.
func (one *client) write() {
	m := one.member()
	if m == nil {
		time.Sleep(noMemberPause)
		return
	}
	one.marks++
	switch draw := one.dice.IntN(100); {
	case draw < 50:
		one.call(m, &etcdserverpb.PutRequest{Key: one.key(), Value: one.value(0), PrevKv: draw < 15})
	case draw < 60:
		one.call(m, &etcdserverpb.DeleteRangeRequest{Key: one.key(), PrevKv: draw < 55})
	case draw < 80:
		one.compareAndPut(m)
	default:
		first, second := one.key(), one.key()
		if slices.Equal(first, second) {
			return
		}
		one.call(m, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{putOp(first, one.value(0)), putOp(second, one.value(1))}})
	}
}

func putOp(key, value []byte) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{
		Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key, Value: value}},
	}
}

// compareAndPut reads, and puts only if nobody else did meanwhile; else it reads again in the same transaction.
func (one *client) compareAndPut(m *cluster.Member) {
	key := one.key()
	answer, ok := one.call(m, &etcdserverpb.RangeRequest{Key: key})
	if !ok {
		return
	}
	var seen int64
	if rows := answer.(*etcdserverpb.RangeResponse).Kvs; len(rows) == 1 {
		seen = rows[0].ModRevision
	}
	get := &etcdserverpb.RequestOp{
		Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: key}},
	}
	one.call(m, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_MOD, Key: key,
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: seen},
		}},
		Success: []*etcdserverpb.RequestOp{putOp(key, one.value(0))},
		Failure: []*etcdserverpb.RequestOp{get},
	})
}

// read gets keys and ranges: mostly linearizable and of now.
func (one *client) read() {
	m := one.member()
	if m == nil {
		time.Sleep(noMemberPause)
		return
	}
	request := &etcdserverpb.RangeRequest{Key: one.key()}
	switch draw := one.dice.IntN(100); {
	case draw < 70:
	case draw < 80:
		request.Serializable = true
	case draw < 90:
		request.RangeEnd = []byte(keyName(keys))
		request.Limit = int64(1 + one.dice.IntN(5))
	case draw < 93:
		request.Key, request.RangeEnd = []byte{0}, []byte{0}
	default:
		// The past, as far as it is there; sometimes what was compacted a moment ago.
		oldest := max(1, one.compacted.Load()-1)
		newest := max(oldest, one.history.newestRevision())
		request.Revision = oldest
		if draw < 99 {
			request.Revision += one.dice.Int64N(newest - oldest + 1)
		}
	}
	one.call(m, request)
}

// call is false without an answer.
func (one *client) call(m *cluster.Member, request message) (message, bool) {
	answer, err := one.history.call(one.number, m, callTimeout, request)
	if err != nil && refusalOf(err) == nil {
		one.avoid[m] = time.Now().Add(avoidAfter)
	}
	return answer, err == nil
}

// finish lets clients come to their end once all faults are over: each must be served; what nobody claims is explained;
// every member shows what it holds. Then the history is judged.
func (all *clients) finish() {
	all.t.Helper()
	all.history.healed(servedLimit, all.numbers)
	all.stopped.Store(true)
	all.running.Wait()
	var farewells sync.WaitGroup
	for _, number := range all.numbers {
		farewells.Go(func() { all.farewell(all.client(number, 0)) })
	}
	farewells.Wait()
	auditor := all.client(len(all.numbers)+1, 0)
	all.explain(auditor)
	for _, m := range all.c.Members {
		// Linearizable, then the member's own.
		for _, serializable := range []bool{false, true} {
			auditor.call(m, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: serializable})
		}
	}
	for key := range keys {
		// For the checkers' own check: the forged stale read needs a late read of whatever key was read early.
		auditor.call(all.c.Members[key%len(all.c.Members)], &etcdserverpb.RangeRequest{Key: []byte(keyName(key))})
	}
	all.history.hashes(all.c.Hashes())
	judge(all.t, all.history)
}

// farewell calls until one put and one linearizable read were answered.
func (all *clients) farewell(one *client) {
	deadline := time.Now().Add(servedLimit)
	wrote, read := false, false
	for !(wrote && read) && time.Now().Before(deadline) {
		m := one.member()
		if m == nil {
			time.Sleep(noMemberPause)
			continue
		}
		one.marks++
		// The mark of a farewell differs from all marks of the client before.
		value := fmt.Appendf(nil, "farewell of c%d.%d", one.number, one.marks)
		if !wrote {
			_, wrote = one.call(m, &etcdserverpb.PutRequest{Key: one.key(), Value: value})
		}
		_, read = one.call(m, &etcdserverpb.RangeRequest{Key: one.key()})
	}
}

// explain reads what revisions of unknown makers have changed, as long as they are not compacted.
func (all *clients) explain(auditor *client) {
	all.t.Helper()
	for _, revision := range all.history.unexplained(all.history.newestRevision()) {
		before, after := all.readAt(auditor, revision-1), all.readAt(auditor, revision)
		if after == nil {
			all.t.Errorf("revision %d, which no answered write claims, could not be read", revision)
			return
		}
		all.history.tap(revision, before.Kvs, after.Kvs)
	}
}

func (all *clients) readAt(auditor *client, revision int64) *etcdserverpb.RangeResponse {
	if revision == 1 {
		return &etcdserverpb.RangeResponse{}
	}
	deadline := time.Now().Add(servedLimit)
	for time.Now().Before(deadline) {
		m := auditor.member()
		if m == nil {
			time.Sleep(noMemberPause)
			continue
		}
		answer, ok := auditor.call(m, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
		if ok {
			return answer.(*etcdserverpb.RangeResponse)
		}
	}
	return nil
}

// compact explains everything so far and compacts most of it away.
func (all *clients) compact(auditor *client) {
	all.t.Helper()
	newest := all.history.newestRevision()
	all.explain(auditor)
	at := newest - newest/10
	if at <= all.compacted.Load() {
		return
	}
	m := auditor.member()
	if m == nil {
		all.t.Error("no member is connected when the faults of a round are over")
		return
	}
	all.compacted.Store(at)
	auditor.call(m, &etcdserverpb.CompactionRequest{Revision: at})
}
