package mixed

import (
	"math/rand/v2"
	"testing"
	"time"

	"quorate/interop/cluster"
)

const (
	migrateOperationsShort, migrateOperationsFull = 3_000, 100_000
	migrateCounters, migrateOthers                = 3, 9
	migrateThink                                  = 8 * time.Millisecond

	// Between two changes of leadership, if an etcd takes part: it refuses what waits for the old leader, and drops what is
	// proposed while it hands over, so that a request that meets two changes fails twice.
	migrateRest = cluster.RequestMax
)

// Three etcd members under load are replaced one by one by quorate, and then back: no request takes longer than two election
// timeouts, none needs more than one retry on another endpoint, what is counted with compare-and-put is counted once; at each
// step all members hold the same, and each of them leads.
func TestMigration(t *testing.T) {
	operations := migrateOperationsShort
	if full() {
		operations = migrateOperationsFull
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := cluster.New(t, nil, cluster.Etcd37, cluster.Etcd37, cluster.Etcd37)
	c.Start()
	began := time.Now()
	done := fill(t, c, operations, seed)
	t.Logf("filled in %s: %s", time.Since(began).Round(time.Millisecond), done)
	gauge := cluster.NewGauge(c.Members)
	load := cluster.StartLoad(gauge, cluster.LoadOptions{Counters: migrateCounters, Others: migrateOthers, Think: migrateThink})
	for _, kind := range []cluster.Kind{cluster.Quorate, cluster.Etcd37} {
		for _, old := range append([]*cluster.Member(nil), c.Members...) {
			began := time.Now()
			replacement := c.Join(kind)
			gauge.Serve(c.Members)
			c.EqualHashes()
			if c.Leader() == old {
				c.MoveLeader(replacement)
				rest(c)
			}
			c.Remove(old)
			gauge.Serve(c.Members)
			for _, m := range c.Members {
				c.MoveLeader(m)
				rest(c)
			}
			hash := c.EqualHashes()
			t.Logf("%s replaced by %s in %s; each has led; HashKV %x at revision %d on all", old, replacement,
				time.Since(began).Round(time.Millisecond), hash.Hash, hash.Revision)
		}
	}
	load.Finish(t)
	c.EqualHashes()
	c.Stop()
	equalLogs(t, c.Members, 1)
}

func rest(c *cluster.Cluster) {
	for _, m := range c.Members {
		if m.Kind != cluster.Quorate {
			time.Sleep(migrateRest)
			return
		}
	}
}
