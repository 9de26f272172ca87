package chaos

import (
	"syscall"
	"testing"
	"time"

	"quorate/interop/cluster"
)

const (
	terminationsShort, terminationsFull = 2, 10
	newLeaderMax                        = 500 * time.Millisecond
	goneMax                             = 1500 * time.Millisecond
)

// A leader that is asked to go hands leadership over first: another leads within 500 ms, and the process is gone within
// 1.5 s.
func TestTerminatedLeader(t *testing.T) {
	c := cluster.New(t, nil, cluster.Quorate, cluster.Quorate, cluster.Quorate)
	c.Start()
	load := cluster.StartLoad(cluster.NewGauge(c.Members), cluster.LoadOptions{Counters: 2, Others: 6, Think: 5 * time.Millisecond})
	for round := range rounds(terminationsShort, terminationsFull) {
		leader := c.Leader()
		var others []*cluster.Member
		for _, m := range c.Members {
			if m != leader {
				others = append(others, m)
			}
		}
		asked := time.Now()
		elected := make(chan time.Duration, 1)
		go func() {
			awaitOtherLeader(c, others, leader)
			elected <- time.Since(asked)
		}()
		gone, err := leader.End(syscall.SIGTERM)
		c.Must(err)
		took := <-elected
		t.Logf("round %d: %s: another leader after %s, gone after %s", round+1, leader, took.Round(time.Millisecond), gone.Round(time.Millisecond))
		if took > newLeaderMax {
			t.Errorf("another leader came after %s, the limit is %s", took, newLeaderMax)
		}
		if gone > goneMax {
			t.Errorf("%s was gone after %s, the limit is %s", leader, gone, goneMax)
		}
		c.Must(leader.Spawn())
		c.AwaitReady()
	}
	load.Finish(t)
	c.EqualHashes()
}
