package chaos

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate/interop/cluster"
)

const (
	roundsShort, roundsFull = 3, 50
	roundsWriters           = 32
	roundsReaders           = 8
	roundsThink             = 30 * time.Millisecond
	faultMin, faultMax      = 200 * time.Millisecond, 3 * time.Second
	calmMin, calmMax        = 300 * time.Millisecond, 1500 * time.Millisecond
	compactEvery            = 5
	answeredUnderFaults     = 50
)

// fault is something that happens to some members and is over after a while.
type fault struct {
	name string
	// victims draws them.
	victims func(c *cluster.Cluster, dice *rand.Rand) []*cluster.Member
	begin   func(h *history, m *cluster.Member) error
	end     func(m *cluster.Member) error
}

func oneOfThem(c *cluster.Cluster, dice *rand.Rand) []*cluster.Member {
	return []*cluster.Member{c.Members[dice.IntN(len(c.Members))]}
}

func leader(c *cluster.Cluster, _ *rand.Rand) []*cluster.Member { return []*cluster.Member{c.Leader()} }

func everyone(c *cluster.Cluster, _ *rand.Rand) []*cluster.Member { return c.Members }

func kill(h *history, m *cluster.Member) error {
	h.crash()
	return m.Kill()
}

func terminate(_ *history, m *cluster.Member) error {
	_, err := m.End(syscall.SIGTERM)
	return err
}

func restart(m *cluster.Member) error { return m.Spawn() }

func pause(_ *history, m *cluster.Member) error {
	m.Pause()
	return nil
}

func resume(m *cluster.Member) error {
	m.Resume()
	return nil
}

// faults in the order in which the short form has them; after that they are drawn.
var faults = []fault{
	{"kill the leader", leader, kill, restart},
	{"pause the leader", leader, pause, resume},
	{"kill all", everyone, kill, restart},
	{"kill one", oneOfThem, kill, restart},
	{"pause one", oneOfThem, pause, resume},
	{"pause all", everyone, pause, resume},
	{"terminate one", oneOfThem, terminate, restart},
}

// Members are killed, paused and restarted, one at a time and at times all at once, under 32 writers and 8 readers: no
// acknowledged write is lost, in the end all hold the same, and everything that clients were told is linearizable.
func TestRoundsOfFaults(t *testing.T) {
	seed := drawSeed(t)
	dice := rand.New(rand.NewPCG(seed, 0))
	// Snapshots and truncation happen under way.
	c := cluster.New(t, []string{"--snapshot-count", "500", "--snapshot-catchup-entries", "100"},
		cluster.Quorate, cluster.Quorate, cluster.Quorate)
	c.Start()
	h := newHistory(t, filepath.Join(c.Dir(), "history.jsonl"))
	all := startClients(t, c, h, roundsWriters, roundsReaders, roundsThink, seed)
	compactor := all.client(roundsWriters+roundsReaders+1, seed)
	underFaults := 0
	for round := range rounds(roundsShort, roundsFull) {
		chosen := faults[dice.IntN(len(faults))]
		if round < len(faults) {
			chosen = faults[round]
		}
		victims := chosen.victims(c, dice)
		before := h.answered()
		for _, m := range victims {
			c.Must(chosen.begin(h, m))
		}
		length := draw(dice, faultMin, faultMax)
		time.Sleep(length)
		during := h.answered() - before
		for _, m := range victims {
			c.Must(chosen.end(m))
		}
		c.AwaitReady()
		t.Logf("round %d: %s for %s: %v; %d operations answered meanwhile", round+1, chosen.name, length.Round(time.Millisecond), victims, during)
		if len(victims) == 1 {
			underFaults += during
		}
		time.Sleep(draw(dice, calmMin, calmMax))
		if (round+1)%compactEvery == 0 {
			all.compact(compactor)
		}
	}
	all.finish()
	if underFaults < answeredUnderFaults || h.counts.Unknown == 0 {
		t.Errorf("the faults hit nobody: %d operations answered meanwhile, %+v", underFaults, h.counts)
	}
	installed := 0
	for _, m := range c.Members {
		installed += strings.Count(m.Log(), "received a database snapshot")
	}
	t.Logf("%d snapshots came from the leader", installed)
	if full() && (installed == 0 || h.counts.Refused == 0) {
		t.Errorf("no member was ever left behind, or nobody asked for what was compacted: %d snapshots, %+v", installed, h.counts)
	}
}

func draw(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)))
}
