package chaos

import (
	"testing"
	"time"

	"quorate/interop/cluster"
)

// All three members are replaced, one at a time, under load: no request takes longer than two election timeouts, none
// needs more than one retry on another endpoint, and what is counted with compare-and-put is counted once.
func TestReplaceAllMembers(t *testing.T) {
	c := cluster.New(t, nil, cluster.Quorate, cluster.Quorate, cluster.Quorate)
	c.Start()
	gauge := cluster.NewGauge(c.Members)
	load := cluster.StartLoad(gauge, cluster.LoadOptions{Counters: 3, Others: 9, Think: 5 * time.Millisecond})
	for _, old := range append([]*cluster.Member(nil), c.Members...) {
		began := time.Now()
		replacement := c.Join(cluster.Quorate)
		gauge.Serve(c.Members)
		if c.Leader() == old {
			c.MoveLeader(replacement)
		}
		c.Remove(old)
		gauge.Serve(c.Members)
		hash := c.EqualHashes()
		t.Logf("%s replaced by %s in %s; HashKV at revision %d equal on all", old, replacement,
			time.Since(began).Round(time.Millisecond), hash.Revision)
	}
	load.Finish(t)
	c.EqualHashes()
}
