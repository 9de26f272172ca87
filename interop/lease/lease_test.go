// Package lease asks etcd 3.7 and the server under test the same of the lease service, and compares every field of every answer;
// and it runs what clients build on leases: sessions, locks, elections.
//
//	QUORATE_SERVER   the server under test
//	QUORATE_ETCD37   etcd 3.7's server
//	QUORATE_INTEROP_FULL   set: more generated steps
package lease

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"quorate/interop/daemon"
)

// server is one of the two.
type server struct {
	name  string
	kv    etcdserverpb.KVClient
	lease etcdserverpb.LeaseClient
}

func both(t *testing.T) [2]*server {
	servers := daemon.Both(t)
	return [2]*server{of(servers[0]), of(servers[1])}
}

func of(s daemon.Server) *server {
	return &server{s.Name, etcdserverpb.NewKVClient(s.Conn), etcdserverpb.NewLeaseClient(s.Conn)}
}

// A step is asked of both, and tells what it was told. What differs by nature is masked: ids of cluster and member, the term, ids
// that the server chose.
type step struct {
	name string
	run  func(s *server) string
}

func grant(id, ttl int64) step {
	return step{fmt.Sprintf("grant %d for %d s", id, ttl), func(s *server) string {
		answer, err := s.lease.LeaseGrant(context.Background(), &etcdserverpb.LeaseGrantRequest{ID: id, TTL: ttl})
		if err != nil {
			return daemon.Failure(err)
		}
		shown := fmt.Sprint(answer.ID)
		if id == 0 {
			shown = fmt.Sprintf("positive %v", answer.ID > 0)
			if _, err := s.lease.LeaseRevoke(context.Background(), &etcdserverpb.LeaseRevokeRequest{ID: answer.ID}); err != nil {
				return daemon.Failure(err)
			}
		}
		return fmt.Sprintf("%s, id %s, %d s, %q", daemon.Header(answer.Header), shown, answer.TTL, answer.Error)
	}}
}

func revoke(id int64) step {
	return step{fmt.Sprintf("revoke %d", id), func(s *server) string {
		answer, err := s.lease.LeaseRevoke(context.Background(), &etcdserverpb.LeaseRevokeRequest{ID: id})
		if err != nil {
			return daemon.Failure(err)
		}
		return daemon.Header(answer.Header)
	}}
}

func keepAlive(ids ...int64) step {
	return step{fmt.Sprintf("keep %v alive", ids), func(s *server) string {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stream, err := s.lease.LeaseKeepAlive(ctx)
		if err != nil {
			return daemon.Failure(err)
		}
		for _, id := range ids {
			if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}); err != nil {
				return daemon.Failure(err)
			}
		}
		stream.CloseSend()
		said := ""
		for {
			answer, err := stream.Recv()
			if err != nil {
				return said + fmt.Sprint(err)
			}
			said += fmt.Sprintf("%s, %d: %d s\n", daemon.Header(answer.Header), answer.ID, answer.TTL)
		}
	}}
}

func timeToLive(id int64, keys bool) step {
	return step{fmt.Sprintf("time to live of %d, keys %v", id, keys), func(s *server) string {
		request := &etcdserverpb.LeaseTimeToLiveRequest{ID: id, Keys: keys}
		answer, err := s.lease.LeaseTimeToLive(context.Background(), request)
		if err != nil {
			return daemon.Failure(err)
		}
		found := []string{}
		for _, key := range answer.Keys {
			found = append(found, string(key))
		}
		sort.Strings(found)
		// The two were granted a moment apart.
		left := fmt.Sprint(answer.TTL)
		if answer.TTL > 0 {
			left = fmt.Sprintf("nearly all %v", answer.GrantedTTL-answer.TTL <= 5)
		}
		return fmt.Sprintf("%s, %d: %s of %d s, keys %q", daemon.Header(answer.Header), answer.ID, left, answer.GrantedTTL, found)
	}}
}

func leases() step {
	return step{"all leases", func(s *server) string {
		answer, err := s.lease.LeaseLeases(context.Background(), &etcdserverpb.LeaseLeasesRequest{})
		if err != nil {
			return daemon.Failure(err)
		}
		ids := []int64{}
		for _, lease := range answer.Leases {
			ids = append(ids, lease.ID)
		}
		sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
		return fmt.Sprintf("%s: %v", daemon.Header(answer.Header), ids)
	}}
}

func put(request *etcdserverpb.PutRequest) step {
	return step{fmt.Sprintf("put %v", request), func(s *server) string {
		answer, err := s.kv.Put(context.Background(), request)
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s, before %v", daemon.Header(answer.Header), answer.PrevKv)
	}}
}

func get() step {
	return step{"get all", func(s *server) string {
		answer, err := s.kv.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s: %v", daemon.Header(answer.Header), answer.Kvs)
	}}
}

func putTwo(first, second int64) step {
	return step{fmt.Sprintf("one transaction puts with %d and %d", first, second), func(s *server) string {
		op := func(key string, lease int64) *etcdserverpb.RequestOp {
			request := &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("t"), Lease: lease}
			return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: request}}
		}
		answer, err := s.kv.Txn(context.Background(), &etcdserverpb.TxnRequest{
			Success: []*etcdserverpb.RequestOp{op("t1", first), op("t2", second)},
		})
		if err != nil {
			return daemon.Failure(err)
		}
		return daemon.Header(answer.Header)
	}}
}

func compare(t *testing.T, servers [2]*server, steps []step) {
	t.Helper()
	for number, step := range steps {
		theirs, ours := step.run(servers[0]), step.run(servers[1])
		if theirs != ours {
			t.Errorf("step %d, %s:\n etcd    %s\n quorate %s", number, step.name, theirs, ours)
		}
	}
	t.Logf("%d answers compared", len(steps))
}

func with(key string, lease int64) *etcdserverpb.PutRequest {
	return &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: lease, PrevKv: true}
}

// Everything that can be asked, and every way to ask wrongly.
func TestAnswersAreEqual(t *testing.T) {
	compare(t, both(t), []step{
		leases(), grant(7, 60), grant(7, 60), grant(7, 0), grant(0, 60), grant(8, 0), grant(9, -5), grant(10, 1),
		grant(11, 9000000000), grant(12, 9000000001), grant(-1, 60), grant(1<<62, 60), leases(),
		put(with("a", 7)), put(with("b", 7)), put(with("c", 99)), put(with("a", 11)), put(with("a", 7)), put(with("d", -1)), get(),
		put(&etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("w"), IgnoreLease: true}),
		put(&etcdserverpb.PutRequest{Key: []byte("n"), Value: []byte("w"), IgnoreLease: true}),
		put(&etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("w"), IgnoreLease: true, Lease: 7}),
		put(&etcdserverpb.PutRequest{Key: []byte("a"), IgnoreValue: true, Lease: 11}), timeToLive(7, true), timeToLive(11, true),
		put(&etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("x")}), timeToLive(7, true), put(with("b", 7)), get(),
		putTwo(7, 99), putTwo(99, 7), putTwo(7, 7), putTwo(0, 7), get(),
		timeToLive(7, false), timeToLive(7, true), timeToLive(99, true), timeToLive(0, true), timeToLive(-1, true), timeToLive(11, false),
		keepAlive(7), keepAlive(99), keepAlive(0), keepAlive(), keepAlive(7, 99, 11, 7), keepAlive(-1, 1<<62),
		revoke(99), revoke(0), revoke(7), revoke(7), get(), keepAlive(7), timeToLive(7, true), put(with("b", 7)),
		grant(7, 30), timeToLive(7, true), revoke(7), revoke(11), revoke(-1), get(), revoke(1 << 62), leases(),
	})
}

// Steps from a seed, the same for both.
func TestGeneratedStepsAreEqual(t *testing.T) {
	count := 1500
	if os.Getenv("QUORATE_INTEROP_FULL") != "" {
		count = 20000
	}
	dice := rand.New(rand.NewSource(1))
	id := func() int64 { return int64(dice.Intn(6)) + 1 }
	key := func() string { return fmt.Sprintf("k%d", dice.Intn(8)) }
	var steps []step
	for len(steps) < count {
		switch dice.Intn(12) {
		case 0, 1:
			// Long enough not to end meanwhile.
			steps = append(steps, grant(id(), 3000+int64(dice.Intn(3000))))
		case 2:
			steps = append(steps, revoke(id()))
		case 3, 4, 5:
			steps = append(steps, put(with(key(), id())))
		case 6:
			steps = append(steps, put(&etcdserverpb.PutRequest{Key: []byte(key()), Value: []byte("i"), IgnoreLease: true}))
		case 7:
			steps = append(steps, putTwo(id(), id()))
		case 8:
			steps = append(steps, keepAlive(id(), id()))
		case 9:
			steps = append(steps, timeToLive(id(), true))
		case 10:
			steps = append(steps, get())
		default:
			steps = append(steps, leases())
		}
	}
	compare(t, both(t), steps)
}

// A lease that nobody renews ends after its time, with all its keys in one revision; one that is kept alive does not.
func TestLeasesEnd(t *testing.T) {
	ours := daemon.New(t)
	ours.Start(t)
	s := of(daemon.Connect(t, "quorate", ours.Endpoint))
	granted := time.Now()
	for _, step := range []step{grant(1, 3), grant(2, 3), put(with("a", 1)), put(with("b", 1)), put(with("c", 2))} {
		step.run(s)
	}
	before, _ := s.kv.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte("a")})
	for {
		time.Sleep(100 * time.Millisecond)
		keepAlive(2).run(s)
		answer, err := s.kv.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			t.Fatal(err)
		}
		lived := time.Since(granted)
		if len(answer.Kvs) == 3 && lived < 6*time.Second {
			continue
		}
		if len(answer.Kvs) != 1 || answer.Header.Revision != before.Header.Revision+1 || lived < 3*time.Second {
			t.Errorf("after %s there is %v", lived, answer)
		}
		t.Logf("a lease of 3 s lived %.1f s", lived.Seconds())
		break
	}
	if said := keepAlive(1).run(s); !strings.Contains(said, "1: 0 s") {
		t.Errorf("a lease that has ended: %s", said)
	}
}

// Many leases: granted, kept alive on a few streams, listed.
func TestManyLeases(t *testing.T) {
	count := 10000
	if os.Getenv("QUORATE_INTEROP_FULL") != "" {
		count = 100000
	}
	ours := daemon.New(t)
	ours.Start(t)
	s := of(daemon.Connect(t, "quorate", ours.Endpoint))
	before := ours.MemoryMiB(t)
	timed := func(what string, work func(worker, workers int) error) {
		start := time.Now()
		var group sync.WaitGroup
		for worker := range 64 {
			group.Add(1)
			go func() {
				defer group.Done()
				if err := work(worker, 64); err != nil {
					t.Error(err)
				}
			}()
		}
		group.Wait()
		seconds := time.Since(start).Seconds()
		t.Logf("%d leases %s in %.1f s, %.0f a second", count, what, seconds, float64(count)/seconds)
	}
	timed("granted", func(worker, workers int) error {
		for id := worker; id < count; id += workers {
			request := &etcdserverpb.LeaseGrantRequest{ID: int64(id) + 1, TTL: 600}
			if _, err := s.lease.LeaseGrant(context.Background(), request); err != nil {
				return err
			}
		}
		return nil
	})
	timed("kept alive", func(worker, workers int) error {
		stream, err := s.lease.LeaseKeepAlive(context.Background())
		if err != nil {
			return err
		}
		go func() {
			for id := worker; id < count; id += workers {
				stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id) + 1})
			}
			stream.CloseSend()
		}()
		for id := worker; id < count; id += workers {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			if answer.ID != int64(id)+1 || answer.TTL != 600 {
				return fmt.Errorf("lease %d: %v", id+1, answer)
			}
		}
		return nil
	})
	answer, err := s.lease.LeaseLeases(context.Background(), &etcdserverpb.LeaseLeasesRequest{})
	if err != nil || len(answer.Leases) != count {
		t.Errorf("%d leases are told, %v", len(answer.GetLeases()), err)
	}
	t.Logf("memory: %.0f MiB before, %.0f MiB with them", before, ours.MemoryMiB(t))
}

// What clients build on leases: a session, a lock that one after the other holds, an election, and who dies gives both back.
func TestSessionsLocksAndElections(t *testing.T) {
	ours := daemon.New(t)
	ours.Start(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{ours.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var group sync.WaitGroup
	held, counted := 0, 0
	for range 8 {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(5))
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		group.Add(1)
		go func() {
			defer group.Done()
			mutex := concurrency.NewMutex(session, "/lock")
			for range 10 {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				held++
				if held != 1 {
					t.Errorf("%d hold the lock", held)
				}
				counted++
				held--
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	if counted != 80 {
		t.Errorf("the lock was held %d times", counted)
	}

	// The first leader dies without a word: its session is not kept alive, and ends.
	dying, err := concurrency.NewSession(client, concurrency.WithTTL(2))
	if err != nil {
		t.Fatal(err)
	}
	first := concurrency.NewElection(dying, "/election")
	if err := first.Campaign(ctx, "first"); err != nil {
		t.Fatal(err)
	}
	dying.Orphan()
	living, err := concurrency.NewSession(client, concurrency.WithTTL(5))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	started := time.Now()
	second := concurrency.NewElection(living, "/election")
	if err := second.Campaign(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the second leads %.1f s after the first, of 2 s, was left alone", time.Since(started).Seconds())
	leader, err := second.Leader(ctx)
	if err != nil || string(leader.Kvs[0].Value) != "second" {
		t.Errorf("who leads: %v, %v", leader, err)
	}
}
