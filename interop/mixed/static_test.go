package mixed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/interop/cluster"
)

const (
	stepTimeout  = 20 * time.Second
	burstWriters = 24
	burstPuts    = 10
)

var compositions = []struct {
	name    string
	version string
	kinds   []cluster.Kind
}{
	{"two-etcd37-one-quorate", "3.7.0", []cluster.Kind{cluster.Etcd37, cluster.Etcd37, cluster.Quorate}},
	{"one-etcd37-two-quorate", "3.7.0", []cluster.Kind{cluster.Etcd37, cluster.Quorate, cluster.Quorate}},
	{"two-etcd36-one-quorate", "3.6.0", []cluster.Kind{cluster.Etcd36, cluster.Etcd36, cluster.Quorate}},
	{"one-etcd36-two-quorate", "3.6.0", []cluster.Kind{cluster.Etcd36, cluster.Quorate, cluster.Quorate}},
}

// Members of both kinds found a cluster together. Each leads in turn; whoever leads, each member takes writes and
// linearizable reads, of its own and for others; each is killed and comes back; and in the end all hold the same.
func TestMixedFromTheStart(t *testing.T) {
	for _, composition := range compositions {
		t.Run(composition.name, func(t *testing.T) {
			c := cluster.New(t, nil, composition.kinds...)
			for _, m := range c.Members {
				if m.Kind != cluster.Quorate {
					m.Flags = append(slices.Clone(m.Flags), etcdChecks...)
				}
			}
			c.Start()
			awaitClusterVersion(c, composition.version)
			step := &steps{t: t, c: c}
			step.leases()
			counted := map[string]bool{}
			for _, leader := range c.Members {
				c.MoveLeader(leader)
				step.everyMemberServes("leader-" + leader.Name)
				step.burst("burst-" + leader.Name)
				if !counted[leader.Kind.Name] {
					counted[leader.Kind.Name] = true
					step.renewals("renewed-" + leader.Name)
				}
			}
			c.EqualHashes()
			step.compact()
			step.awaitCompactHashCheck()
			for _, victim := range c.Members {
				c.MoveLeader(victim)
				step.killAndRestart(victim)
			}
			step.everyMemberServes("end")
			c.EqualHashes()
			step.noAlarms()
			c.Stop()
			equalLogs(t, c.Members, 500)
		})
	}
}

// etcdChecks have etcd compare its hashes with the others', each time it starts and after each compaction.
var etcdChecks = []string{
	"--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true", "--compact-hash-check-time=500ms",
}

const (
	etcdCheckedItself    = "initial corruption checking passed; no corruption"
	etcdCheckedCompacted = "successfully checked hash on whole cluster"
)

// awaitCompactHashCheck has an etcd lead until it has compared what compacting has left with the others.
func (s *steps) awaitCompactHashCheck() {
	s.t.Helper()
	etcd := s.firstEtcd()
	s.c.MoveLeader(etcd)
	s.c.Eventually(etcd.String()+" compares hashes", func(context.Context) error {
		if !strings.Contains(etcd.Log(), etcdCheckedCompacted) {
			return fmt.Errorf("its log has no line about it")
		}
		return nil
	})
}

// noAlarms demands that no check has found anything, and that etcd did check when it was restarted.
func (s *steps) noAlarms() {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	for _, m := range s.c.Members {
		alarms, err := m.Client().AlarmList(ctx)
		s.must(err, "alarms of %s", m)
		if len(alarms.Alarms) > 0 {
			s.t.Errorf("%s shows %v", m, alarms.Alarms)
		}
		if m.Kind != cluster.Quorate && !strings.Contains(m.Log(), etcdCheckedItself) {
			s.t.Errorf("%s did not compare hashes when it was restarted", m)
		}
	}
}

// steps are what a test does to a cluster and demands of it.
type steps struct {
	t *testing.T
	c *cluster.Cluster
}

func (s *steps) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), stepTimeout)
}

// everyMemberServes changes keys through each member, and reads each change through each other.
func (s *steps) everyMemberServes(prefix string) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	for _, writer := range s.c.Members {
		key := prefix + "/" + writer.Name
		put, err := writer.Client().Put(ctx, key, "first")
		s.must(err, "put through %s", writer)
		txn, err := writer.Client().Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", put.Header.Revision)).
			Then(clientv3.OpPut(key, "second"), clientv3.OpPut(key+"/beside", ""), clientv3.OpGet(key)).
			Else(clientv3.OpGet(key)).Commit()
		s.must(err, "transaction through %s", writer)
		if !txn.Succeeded || txn.Header.Revision != put.Header.Revision+1 {
			s.t.Fatalf("transaction through %s after %v: %v", writer, put.Header, txn)
		}
		for _, reader := range s.c.Members {
			got, err := reader.Client().Get(ctx, key)
			s.must(err, "linearizable read through %s", reader)
			if got.Count != 1 || string(got.Kvs[0].Value) != "second" || got.Kvs[0].ModRevision != txn.Header.Revision {
				s.t.Fatalf("%s answers %v after %s had acknowledged revision %d", reader, got.Kvs, writer, txn.Header.Revision)
			}
		}
		deleted, err := writer.Client().Delete(ctx, key+"/beside")
		s.must(err, "delete through %s", writer)
		if deleted.Deleted != 1 {
			s.t.Fatalf("%s deleted %d keys, not 1", writer, deleted.Deleted)
		}
	}
}

// burst puts through all members at once, so that proposals travel in batches.
func (s *steps) burst(prefix string) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	var writers sync.WaitGroup
	failed := make(chan error, burstWriters)
	for number := range burstWriters {
		m := s.c.Members[number%len(s.c.Members)]
		writers.Go(func() {
			for put := range burstPuts {
				value := strings.Repeat("v", 1+put*put*10)
				if _, err := m.Client().Put(ctx, fmt.Sprintf("%s/%d/%d", prefix, number, put), value); err != nil {
					failed <- fmt.Errorf("put through %s: %w", m, err)
					return
				}
			}
		})
	}
	writers.Wait()
	select {
	case err := <-failed:
		s.c.Must(err)
	default:
	}
	for _, m := range s.c.Members {
		got, err := m.Client().Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		s.must(err, "counting through %s", m)
		if got.Count != burstWriters*burstPuts {
			s.t.Fatalf("%s counts %d keys, %d were put", m, got.Count, burstWriters*burstPuts)
		}
	}
}

// leases grants leases through each member, attaches keys to them through another, and revokes all but one.
func (s *steps) leases() {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	for number, m := range s.c.Members {
		granter := s.c.Members[(number+1)%len(s.c.Members)]
		granted, err := granter.Client().Grant(ctx, 3600)
		s.must(err, "granting a lease through %s", granter)
		key := fmt.Sprintf("leased/%d", number)
		_, err = m.Client().Put(ctx, key, "x", clientv3.WithLease(granted.ID))
		s.must(err, "put with a lease through %s", m)
		_, err = m.Client().Put(ctx, key+"/second", "x", clientv3.WithLease(granted.ID))
		s.must(err, "put with a lease through %s", m)
		if number == 0 {
			continue
		}
		_, err = granter.Client().Revoke(ctx, granted.ID)
		s.must(err, "revoking a lease through %s", granter)
		for _, reader := range s.c.Members {
			got, err := reader.Client().Get(ctx, key, clientv3.WithPrefix())
			s.must(err, "reading through %s", reader)
			if got.Count != 0 {
				s.t.Fatalf("%s still has %v, whose lease was revoked", reader, got.Kvs)
			}
		}
	}
}

// renewals has each member grant a lease that all members renew in turn, for twice its time, and one that nobody renews. Whoever does
// not lead passes renewals and questions on to the leader, which is of the other kind for some of them.
func (s *steps) renewals(prefix string) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	const secs = 3
	grant := func(m *cluster.Member, key string) clientv3.LeaseID {
		granted, err := m.Client().Grant(ctx, secs)
		s.must(err, "granting a lease through %s", m)
		_, err = m.Client().Put(ctx, key, "x", clientv3.WithLease(granted.ID))
		s.must(err, "put with a lease through %s", m)
		return granted.ID
	}
	kept := make([]clientv3.LeaseID, len(s.c.Members))
	for number, m := range s.c.Members {
		kept[number] = grant(m, prefix+"/kept/"+m.Name)
		grant(m, prefix+"/left/"+m.Name)
	}
	for until := time.Now().Add(2 * secs * time.Second); time.Now().Before(until); time.Sleep(300 * time.Millisecond) {
		for number, id := range kept {
			for _, m := range s.c.Members {
				renewed, err := m.Client().KeepAliveOnce(ctx, id)
				s.must(err, "renewing a lease through %s", m)
				left, err := m.Client().TimeToLive(ctx, id, clientv3.WithAttachedKeys())
				s.must(err, "asking %s what a lease has left", m)
				key := prefix + "/kept/" + s.c.Members[number].Name
				if renewed.TTL != secs || left.GrantedTTL != secs || left.TTL < secs-1 || len(left.Keys) != 1 || string(left.Keys[0]) != key {
					s.t.Fatalf("%s renewed %v, and says of it %v", m, renewed, left)
				}
			}
		}
	}
	for _, m := range s.c.Members {
		left, err := m.Client().Get(ctx, prefix+"/left/", clientv3.WithPrefix())
		s.must(err, "reading through %s", m)
		stays, err := m.Client().Get(ctx, prefix+"/kept/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		s.must(err, "reading through %s", m)
		if left.Count != 0 || stays.Count != int64(len(s.c.Members)) {
			s.t.Fatalf("%s has %v of leases that nobody renewed, and %d of those that were renewed", m, left.Kvs, stays.Count)
		}
	}
}

func (s *steps) firstEtcd() *cluster.Member {
	for _, m := range s.c.Members {
		if m.Kind != cluster.Quorate {
			return m
		}
	}
	return nil
}

// compact compacts at a revision in the middle of what there is.
func (s *steps) compact() {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	m := s.c.Members[0]
	now, err := m.Client().Get(ctx, "any")
	s.must(err, "reading through %s", m)
	_, err = m.Client().Compact(ctx, now.Header.Revision/2, clientv3.WithCompactPhysical())
	s.must(err, "compacting through %s", m)
}

// killAndRestart kills a member, has the others go on without it, and demands everything of it once it is back.
func (s *steps) killAndRestart(victim *cluster.Member) {
	s.t.Helper()
	s.c.Must(victim.Kill())
	prefix := "without-" + victim.Name
	const puts = 50
	for number := range puts {
		s.c.Eventually("a put while "+victim.String()+" is dead", func(ctx context.Context) error {
			m := s.c.Members[number%len(s.c.Members)]
			if m == victim {
				return nil
			}
			// What was sent to the dead leader is lost.
			ctx, cancel := context.WithTimeout(ctx, cluster.ElectionTimeout)
			defer cancel()
			_, err := m.Client().Put(ctx, fmt.Sprintf("%s/%d", prefix, number), "x")
			return err
		})
	}
	s.c.Must(victim.Spawn())
	s.c.Must(victim.AwaitReady())
	ctx, cancel := s.context()
	defer cancel()
	for number := range puts {
		key := fmt.Sprintf("%s/%d", prefix, number)
		got, err := victim.Client().Get(ctx, key)
		s.must(err, "reading through %s", victim)
		if wanted := s.c.Members[number%len(s.c.Members)] != victim; wanted != (got.Count == 1) {
			s.t.Fatalf("%s came back and has %d of %s", victim, got.Count, key)
		}
	}
}

func (s *steps) must(err error, format string, arguments ...any) {
	s.t.Helper()
	if err != nil {
		s.c.Must(fmt.Errorf(format+": %w", append(arguments, err)...))
	}
}

// awaitClusterVersion waits until every member shows the cluster's version.
func awaitClusterVersion(c *cluster.Cluster, want string) {
	c.Eventually("the cluster's version is "+want, func(ctx context.Context) error {
		for _, m := range c.Members {
			found, err := clusterVersion(ctx, m)
			if err != nil {
				return err
			}
			if found != want {
				return fmt.Errorf("%s shows %s", m, found)
			}
		}
		return nil
	})
}

func clusterVersion(ctx context.Context, m *cluster.Member) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.ClientURL+"/version", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var versions struct {
		Cluster string `json:"etcdcluster"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&versions); err != nil {
		return "", err
	}
	return versions.Cluster, nil
}
