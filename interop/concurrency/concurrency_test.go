// Package concurrency asks etcd 3.7 and the server under test the same of the lock and election services, and compares every
// field of every answer, in the order in which the answers come.
//
//	QUORATE_SERVER   the server under test
//	QUORATE_ETCD37   etcd 3.7's server
package concurrency

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/metadata"

	"quorate/interop/daemon"
)

const (
	// Leases of the tests; a lease's id is in its keys in hex.
	one, two, three, four = 0x101, 0x102, 0x103, 0x104
	ttlSecs               = 600
	// What a call has to wait for comes within this time.
	patience = 10 * time.Second
	// What has to wait is still waiting after this time.
	aWhile = 300 * time.Millisecond
)

// server is one of the two.
type server struct {
	t           *testing.T
	name        string
	kv          etcdserverpb.KVClient
	lease       etcdserverpb.LeaseClient
	maintenance etcdserverpb.MaintenanceClient
	lock        v3lockpb.LockClient
	election    v3electionpb.ElectionClient
	// What it was told, line by line.
	told []string
	// The leader's keys, by who campaigned.
	leaders map[int64]*v3electionpb.LeaderKey
}

func both(t *testing.T) [2]*server {
	var servers [2]*server
	for number, s := range daemon.Both(t) {
		servers[number] = &server{
			t: t, name: s.Name, kv: etcdserverpb.NewKVClient(s.Conn), lease: etcdserverpb.NewLeaseClient(s.Conn),
			maintenance: etcdserverpb.NewMaintenanceClient(s.Conn), lock: v3lockpb.NewLockClient(s.Conn),
			election: v3electionpb.NewElectionClient(s.Conn), leaders: map[int64]*v3electionpb.LeaderKey{},
		}
		ctx, cancel := within(patience)
		defer cancel()
		for _, id := range []int64{one, two, three, four} {
			if _, err := servers[number].lease.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: id, TTL: ttlSecs}); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
	}
	return servers
}

// tellBothTheSame runs a story on both and compares what they were told.
func tellBothTheSame(t *testing.T, story func(s *server)) {
	t.Helper()
	servers := both(t)
	for _, s := range servers {
		story(s)
	}
	daemon.CompareTold(t, servers[0].told, servers[1].told)
}

// A lease that the server chose, in a key.
var chosenLease = regexp.MustCompile(`/[0-9a-f]{8,}`)

func (s *server) note(format string, arguments ...any) {
	s.told = append(s.told, chosenLease.ReplaceAllString(fmt.Sprintf(format, arguments...), "/CHOSEN"))
}

func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

// A call under way; its answer, shown.
type call struct {
	what   string
	answer chan string
	cancel context.CancelFunc
}

func (s *server) begin(what string, run func(ctx context.Context) string) *call {
	ctx, cancel := context.WithCancel(context.Background())
	c := &call{what, make(chan string, 1), cancel}
	go func() { c.answer <- run(ctx) }()
	return c
}

// expect notes the answer, which has to come.
func (s *server) expect(c *call) {
	s.t.Helper()
	select {
	case answer := <-c.answer:
		s.note("%s: %s", c.what, answer)
	case <-time.After(patience):
		s.t.Fatalf("%s: %s: no answer", s.name, c.what)
	}
}

// expectWaiting demands that there is no answer, yet.
func (s *server) expectWaiting(c *call) {
	s.t.Helper()
	select {
	case answer := <-c.answer:
		s.t.Fatalf("%s: %s was answered at once: %s", s.name, c.what, answer)
	case <-time.After(aWhile):
	}
}

func (s *server) beginLock(name string, lease int64) *call {
	return s.begin(fmt.Sprintf("lock %q by %x", name, lease), func(ctx context.Context) string {
		answer, err := s.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s, key %q", daemon.Header(answer.Header), answer.Key)
	})
}

func (s *server) unlock(key string) {
	ctx, cancel := within(patience)
	defer cancel()
	answer, err := s.lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: []byte(key)})
	if err != nil {
		s.note("unlock %q: %s", key, daemon.Failure(err))
		return
	}
	s.note("unlock %q: %s", key, daemon.Header(answer.Header))
}

// keys notes what is there under a prefix.
func (s *server) keys(prefix string) []string {
	ctx, cancel := within(patience)
	defer cancel()
	end := []byte(prefix)
	end[len(end)-1]++
	answer, err := s.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(prefix), RangeEnd: end})
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
	var shown []string
	for _, kv := range answer.Kvs {
		lease := fmt.Sprintf("%x", kv.Lease)
		if len(lease) >= 8 {
			lease = "CHOSEN"
		}
		shown = append(shown, fmt.Sprintf("%s=%s created %d modified %d version %d lease %s",
			kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, lease))
	}
	return shown
}

func (s *server) noteKeys(prefix string) {
	s.note("%s", strings.Join(s.keys(prefix), "; "))
}

// awaitKeys waits until there are so many keys under a prefix: nobody tells when a call that has gone away has cleaned up, or when
// one that waits has queued.
func (s *server) awaitKeys(prefix string, count int) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for len(s.keys(prefix)) != count {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %d keys are wanted under %s: %v", s.name, count, prefix, s.keys(prefix))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *server) revoke(lease int64) {
	ctx, cancel := within(patience)
	defer cancel()
	if _, err := s.lease.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: lease}); err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

func TestLocks(t *testing.T) {
	tellBothTheSame(t, func(s *server) {
		s.expect(s.beginLock("door", one))
		s.expect(s.beginLock("door", one))
		s.noteKeys("door/")
		s.expect(s.beginLock("door", 0x999))
		s.expect(s.beginLock("door", -1))
		s.expect(s.beginLock("", one))
		s.expect(s.beginLock("door/inner", two))
		s.expect(s.beginLock("chosen", 0))
		s.noteKeys("chosen/")
		s.unlock("door/101")
		s.unlock("door/101")
		s.unlock("nowhere")
		s.unlock("")
		s.unlock("door/inner/102")
		s.noteKeys("door/")
	})
}

func TestLocksAreWaitedFor(t *testing.T) {
	tellBothTheSame(t, func(s *server) {
		s.expect(s.beginLock("door", one))
		second := s.beginLock("door", two)
		s.awaitKeys("door/", 2)
		third := s.beginLock("door", three)
		s.awaitKeys("door/", 3)
		s.expectWaiting(second)
		s.expectWaiting(third)
		s.unlock("door/101")
		s.expect(second)
		s.expectWaiting(third)
		// The owner's session ends.
		s.revoke(two)
		s.expect(third)
		s.noteKeys("door/")

		// Who waits goes away, and takes its key with it.
		gone := s.beginLock("door", one)
		s.awaitKeys("door/", 2)
		behind := s.beginLock("door", four)
		s.awaitKeys("door/", 3)
		gone.cancel()
		s.expect(gone)
		s.awaitKeys("door/", 2)
		s.expectWaiting(behind)
		s.noteKeys("door/")

		// Who waits has lost its session when its turn comes.
		s.revoke(four)
		s.unlock("door/103")
		s.expect(behind)

		// One call waits for a lock that another call of the same session has got meanwhile.
		s.expect(s.beginLock("gate", one))
		first := s.beginLock("gate", three)
		s.awaitKeys("gate/", 2)
		again := s.beginLock("gate", three)
		s.expectWaiting(again)
		s.unlock("gate/101")
		s.expect(first)
		s.expect(again)
		s.noteKeys("gate/")
	})
}

func (s *server) beginCampaign(name string, lease int64, value string) *call {
	return s.begin(fmt.Sprintf("campaign %q by %x with %q", name, lease, value), func(ctx context.Context) string {
		answer, err := s.election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)})
		if err != nil {
			return daemon.Failure(err)
		}
		leader := answer.Leader
		s.leaders[lease] = leader
		chosen := lease
		if lease != 0 {
			chosen = leader.Lease
		}
		return fmt.Sprintf("%s, name %q key %q revision %d lease %x", daemon.Header(answer.Header), leader.Name, leader.Key, leader.Rev, chosen)
	})
}

func (s *server) proclaim(leader *v3electionpb.LeaderKey, value string) {
	ctx, cancel := within(patience)
	defer cancel()
	answer, err := s.election.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte(value)})
	if err != nil {
		s.note("proclaim %q: %s", value, daemon.Failure(err))
		return
	}
	s.note("proclaim %q: %s", value, daemon.Header(answer.Header))
}

func (s *server) resign(leader *v3electionpb.LeaderKey) {
	ctx, cancel := within(patience)
	defer cancel()
	answer, err := s.election.Resign(ctx, &v3electionpb.ResignRequest{Leader: leader})
	if err != nil {
		s.note("resign: %s", daemon.Failure(err))
		return
	}
	s.note("resign: %s", daemon.Header(answer.Header))
}

func (s *server) leader(name string) {
	ctx, cancel := within(patience)
	defer cancel()
	answer, err := s.election.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
	if err != nil {
		s.note("leader of %q: %s", name, daemon.Failure(err))
		return
	}
	s.note("leader of %q: %s, %s", name, daemon.Header(answer.Header), answer.Kv)
}

func TestElections(t *testing.T) {
	tellBothTheSame(t, func(s *server) {
		s.leader("post")
		s.expect(s.beginCampaign("post", one, "a"))
		s.expect(s.beginCampaign("post", one, "a"))
		s.expect(s.beginCampaign("post", one, "b"))
		s.noteKeys("post/")
		s.leader("post")
		s.expect(s.beginCampaign("post", 0x999, "c"))
		s.expect(s.beginCampaign("", two, ""))
		s.expect(s.beginCampaign("chosen", 0, "d"))
		s.noteKeys("chosen/")

		of := func(change func(leader *v3electionpb.LeaderKey)) *v3electionpb.LeaderKey {
			leader := s.leaders[one]
			changed := &v3electionpb.LeaderKey{Name: leader.Name, Key: leader.Key, Rev: leader.Rev, Lease: leader.Lease}
			change(changed)
			return changed
		}
		s.proclaim(s.leaders[one], "e")
		s.proclaim(nil, "f")
		s.proclaim(&v3electionpb.LeaderKey{}, "g")
		s.proclaim(of(func(leader *v3electionpb.LeaderKey) { leader.Rev++ }), "h")
		s.proclaim(of(func(leader *v3electionpb.LeaderKey) { leader.Lease = 0x999 }), "i")
		s.proclaim(of(func(leader *v3electionpb.LeaderKey) { leader.Name = nil }), "j")
		s.noteKeys("post/")

		second := s.beginCampaign("post", three, "k")
		s.awaitKeys("post/", 2)
		s.expectWaiting(second)
		s.resign(nil)
		s.resign(of(func(leader *v3electionpb.LeaderKey) { leader.Rev++ }))
		s.resign(of(func(leader *v3electionpb.LeaderKey) { leader.Key = nil }))
		s.resign(s.leaders[one])
		s.expect(second)
		s.leader("post")
		s.resign(s.leaders[one])
		s.proclaim(s.leaders[one], "l")

		// A candidate goes away, and the next one's session ends.
		gone := s.beginCampaign("post", one, "m")
		s.awaitKeys("post/", 2)
		gone.cancel()
		s.expect(gone)
		s.awaitKeys("post/", 1)
		lost := s.beginCampaign("post", four, "n")
		s.awaitKeys("post/", 2)
		s.revoke(four)
		s.resign(s.leaders[three])
		s.expect(lost)
		s.leader("post")
	})
}

func TestElectionsAreObserved(t *testing.T) {
	tellBothTheSame(t, func(s *server) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		observe := func(ctx context.Context) func() string {
			stream, err := s.election.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("post")})
			if err != nil {
				s.t.Fatalf("%s: %v", s.name, err)
			}
			return func() string {
				answer, err := stream.Recv()
				if err != nil {
					return daemon.Failure(err)
				}
				return fmt.Sprintf("%s, %s", daemon.Header(answer.Header), answer.Kv)
			}
		}
		early := observe(ctx)
		time.Sleep(aWhile)
		s.expect(s.beginCampaign("post", one, "a"))
		s.note("early: %s", early())
		s.proclaim(s.leaders[one], "b")
		s.note("early: %s", early())
		// Its client wants a leader, and there is one.
		late := observe(metadata.AppendToOutgoingContext(ctx, "hasleader", "true"))
		s.note("late: %s", late())
		second := s.beginCampaign("post", two, "c")
		s.awaitKeys("post/", 2)
		s.proclaim(s.leaders[one], "d")
		s.note("early: %s", early())
		s.note("late: %s", late())
		s.resign(s.leaders[one])
		s.expect(second)
		s.note("early: %s", early())
		s.note("late: %s", late())
		s.revoke(two)
		time.Sleep(aWhile)
		s.expect(s.beginCampaign("post", three, "e"))
		s.note("early: %s", early())
		s.note("late: %s", late())
		cancel()
		s.note("early: %s", early())
	})
}

// A database that is full refuses who queues, and lets go who owns.
func TestNoSpace(t *testing.T) {
	tellBothTheSame(t, func(s *server) {
		s.expect(s.beginLock("door", one))
		s.expect(s.beginCampaign("post", one, "a"))
		full := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE}
		ctx, cancel := within(patience)
		defer cancel()
		if _, err := s.maintenance.Alarm(ctx, full); err != nil {
			s.t.Fatalf("%s: %v", s.name, err)
		}
		s.expect(s.beginLock("door", two))
		s.expect(s.beginLock("door", 0))
		s.expect(s.beginCampaign("post", two, "b"))
		s.proclaim(s.leaders[one], "c")
		s.leader("post")
		s.resign(s.leaders[one])
		s.unlock("door/101")
		s.noteKeys("door/")
		s.noteKeys("post/")
	})
}
