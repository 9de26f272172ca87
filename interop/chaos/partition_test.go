package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/interop/cluster"
)

const (
	partitionWriters, partitionReaders = 8, 4
	partitionThink                     = 20 * time.Millisecond
	goesOnWithin                       = 5 * time.Second
	// refusedWithin is etcd's own time limit for a request (5 s and two election timeouts), and a little.
	refusedWithin = 9 * time.Second
	// unansweredFor is how long the short form waits for an answer that must not come.
	unansweredFor = 2 * time.Second
)

// partition is a way in which a network fails.
type partition struct {
	name string
	// cut gets the leader and the others.
	cut func(n *cluster.Network, leader, second, third *cluster.Member)
	// minority is the member that must refuse while the others go on: 0 is the leader; -1 nobody.
	minority int
	// deposes tells that another leader must come.
	deposes bool
}

var partitions = []partition{
	{"the leader is cut off", func(n *cluster.Network, leader, _, _ *cluster.Member) { n.Isolate(leader) }, 0, true},
	{"a follower is cut off", func(n *cluster.Network, _, second, _ *cluster.Member) { n.Isolate(second) }, 1, false},
	{"the leader is heard and hears nobody", func(n *cluster.Network, leader, second, third *cluster.Member) {
		n.Cut(second, leader)
		n.Cut(third, leader)
	}, 0, true},
	{"the leader hears and is not heard", func(n *cluster.Network, leader, second, third *cluster.Member) {
		n.Cut(leader, second)
		n.Cut(leader, third)
	}, 0, true},
	{"a follower is heard and hears nobody", func(n *cluster.Network, leader, second, third *cluster.Member) {
		n.Cut(leader, second)
		n.Cut(third, second)
	}, 1, false},
	{"a follower hears and is not heard", func(n *cluster.Network, leader, second, third *cluster.Member) {
		n.Cut(second, leader)
		n.Cut(second, third)
	}, 1, false},
}

// The network between members fails, in one direction or in both. Whoever is without a majority refuses writes and
// linearizable reads and goes on to answer serializable ones; the others go on; when the network is mended, everybody is
// back without help. What clients were told meanwhile is linearizable.
func TestPartitions(t *testing.T) {
	seed := drawSeed(t)
	chosen := partitions
	if !full() {
		// One of each sort.
		chosen = []partition{partitions[0], partitions[2], partitions[5]}
	}
	c := cluster.New(t, nil, cluster.Quorate, cluster.Quorate, cluster.Quorate)
	network := c.Proxied()
	c.Start()
	h := newHistory(t, filepath.Join(c.Dir(), "history.jsonl"))
	all := startClients(t, c, h, partitionWriters, partitionReaders, partitionThink, seed)
	for _, each := range chosen {
		leader := c.Leader()
		order := []*cluster.Member{leader}
		for _, m := range c.Members {
			if m != leader {
				order = append(order, m)
			}
		}
		began := time.Now()
		each.cut(network, order[0], order[1], order[2])
		minority := order[each.minority]
		var majority []*cluster.Member
		for _, m := range order {
			if m != minority {
				majority = append(majority, m)
			}
		}
		if each.deposes {
			awaitOtherLeader(c, majority, leader)
		}
		goesOn(c, majority, began)
		resumed := time.Since(began)
		refuses(t, c, each.name, minority)
		network.Mend()
		mended := time.Now()
		c.Must(minority.AwaitReady())
		t.Logf("%s: the others served again after %s; mended, %s serves again after %s", each.name, resumed.Round(time.Millisecond),
			minority, time.Since(mended).Round(time.Millisecond))
		if !each.deposes && c.Leader() != leader {
			t.Errorf("%s: leadership went from %s to %s, although a majority was with it", each.name, leader, c.Leader())
		}
	}
	all.finish()
}

// awaitOtherLeader waits until a majority follows somebody of its own.
func awaitOtherLeader(c *cluster.Cluster, majority []*cluster.Member, deposed *cluster.Member) {
	c.Eventually(fmt.Sprintf("another leader than %s", deposed), func(ctx context.Context) error {
		own := map[uint64]bool{}
		for _, m := range majority {
			id, err := m.ID(ctx)
			if err != nil {
				return err
			}
			own[id] = true
		}
		for _, m := range majority {
			status, err := m.Status(ctx)
			if err != nil {
				return err
			}
			if !own[status.Leader] {
				return fmt.Errorf("%s holds %x for the leader", m, status.Leader)
			}
		}
		return nil
	})
}

// goesOn demands a write and a linearizable read of each of these members.
func goesOn(c *cluster.Cluster, members []*cluster.Member, began time.Time) {
	for _, m := range members {
		key := fmt.Sprintf("partition/%d", began.UnixNano())
		for what, call := range map[string]func(context.Context) error{
			"a write": func(ctx context.Context) error {
				_, err := m.Client().Delete(ctx, key) // changes nothing that the history would miss
				return err
			},
			"a linearizable read": func(ctx context.Context) error {
				_, err := m.Client().Get(ctx, key)
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), goesOnWithin)
			err := call(ctx)
			cancel()
			if err != nil {
				c.Must(fmt.Errorf("%s of %s, which is with the majority: %w", what, m, err))
			}
		}
	}
}

// refuses demands that a member without a majority acknowledges no write and no linearizable read, says so by itself (which
// only the full form waits for), and still answers a serializable read.
func refuses(t *testing.T, c *cluster.Cluster, partition string, m *cluster.Member) {
	t.Helper()
	type refused struct {
		what string
		err  error
	}
	answers := make(chan refused, 2)
	limit := unansweredFor
	if full() {
		limit = refusedWithin
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	go func() {
		_, err := m.Client().Delete(ctx, "minority")
		answers <- refused{"a write", err}
	}()
	go func() {
		_, err := m.Client().Get(ctx, "minority")
		answers <- refused{"a linearizable read", err}
	}()
	got, err := m.Client().Get(ctx, keyName(0), clientv3.WithSerializable())
	if err != nil {
		c.Must(fmt.Errorf("%s: a serializable read of %s: %w", partition, m, err))
	}
	if got.Header.Revision < 2 {
		t.Errorf("%s: %s shows revision %d", partition, m, got.Header.Revision)
	}
	for range cap(answers) {
		answer := <-answers
		switch {
		case answer.err == nil:
			t.Errorf("%s: %s of %s was answered", partition, answer.what, m)
		case full() && ctx.Err() != nil:
			t.Errorf("%s: %s of %s was not refused within %s", partition, answer.what, m, limit)
		}
	}
}
