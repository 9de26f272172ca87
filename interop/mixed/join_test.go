package mixed

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"quorate/interop/cluster"
)

// What a member writes when it was brought up by a snapshot: quorate and etcd each in its own words.
const (
	quorateInstalled = "received a database snapshot"
	etcdInstalled    = "applied snapshot"
)

// join is a member of one kind that comes to a running cluster of another.
type join struct {
	name     string
	founders []cluster.Kind
	joiner   cluster.Kind
	// bySnapshot: there is more in the log than is kept for those that come late.
	bySnapshot bool
	// voter: not as a learner first.
	voter bool
	// always: in the short form too.
	always bool
}

var joins = []join{
	{"quorate-to-one-etcd-by-log", []cluster.Kind{cluster.Etcd37}, cluster.Quorate, false, true, true},
	{"quorate-to-one-etcd-by-snapshot", []cluster.Kind{cluster.Etcd37}, cluster.Quorate, true, false, false},
	{"quorate-to-two-etcd-by-log", []cluster.Kind{cluster.Etcd37, cluster.Etcd37}, cluster.Quorate, false, false, false},
	{"quorate-to-two-etcd-by-snapshot", []cluster.Kind{cluster.Etcd37, cluster.Etcd37}, cluster.Quorate, true, true, true},
	{"quorate-to-one-etcd36-by-log", []cluster.Kind{cluster.Etcd36}, cluster.Quorate, false, false, false},
	{"quorate-to-two-etcd36-by-snapshot", []cluster.Kind{cluster.Etcd36, cluster.Etcd36}, cluster.Quorate, true, false, false},
	{"etcd-to-one-quorate-by-log", []cluster.Kind{cluster.Quorate}, cluster.Etcd37, false, false, false},
	{"etcd-to-one-quorate-by-snapshot", []cluster.Kind{cluster.Quorate}, cluster.Etcd37, true, true, true},
	{"etcd-to-two-quorate-by-log", []cluster.Kind{cluster.Quorate, cluster.Quorate}, cluster.Etcd37, false, true, true},
	{"etcd-to-two-quorate-by-snapshot", []cluster.Kind{cluster.Quorate, cluster.Quorate}, cluster.Etcd37, true, false, false},
}

// A member joins a running cluster of members of the other kind, from the log or by a snapshot. Then it is a member like
// the others: it serves, leads, dies and comes back.
func TestJoin(t *testing.T) {
	for _, join := range joins {
		if !join.always && !full() {
			continue
		}
		t.Run(join.name, func(t *testing.T) {
			// etcd since 3.6 gives up the begin of its log after a hundred entries, whatever these flags say.
			var flags []string
			puts := 30
			if join.bySnapshot {
				flags = []string{"--snapshot-count", "100", "--snapshot-catchup-entries", "20"}
				puts = 400
			}
			c := cluster.New(t, flags, join.founders...)
			c.Start()
			step := &steps{t: t, c: c}
			fewPuts(step, puts)
			if join.bySnapshot {
				// A log is cut when its database has been written, which is ten times a second at most, and not without a reason.
				for range 3 {
					time.Sleep(300 * time.Millisecond)
					fewPuts(step, 3)
				}
			}
			var joiner *cluster.Member
			if join.voter {
				joiner = c.JoinAsVoter(join.joiner)
			} else {
				joiner = c.Join(join.joiner)
			}
			installed := strings.Contains(joiner.Log(), quorateInstalled) || strings.Contains(joiner.Log(), etcdInstalled)
			if installed != join.bySnapshot {
				t.Errorf("%s was brought up by a snapshot: %t, expected %t", joiner, installed, join.bySnapshot)
			}
			c.EqualHashes()
			step.everyMemberServes("joined")
			c.MoveLeader(joiner)
			step.everyMemberServes("led")
			step.burst("burst")
			c.EqualHashes()
			if len(c.Members) > 2 {
				step.killAndRestart(joiner)
			} else {
				c.Must(joiner.Kill())
				c.Must(joiner.Spawn())
				c.AwaitReady()
			}
			step.everyMemberServes("restarted")
			// Who comes back is brought up by a snapshot once more when a log was cut while it was dead, and its own log begins
			// there. What the logs must have in common is written after that.
			c.MoveLeader(joiner)
			step.burst("burst-of-the-restarted")
			c.EqualHashes()
			c.Stop()
			equalLogs(t, c.Members, burstPuts*burstWriters)
		})
	}
}

func fewPuts(s *steps, count int) {
	s.t.Helper()
	for number := range count {
		m := s.c.Members[number%len(s.c.Members)]
		s.c.Eventually("a put through "+m.String(), func(ctx context.Context) error {
			_, err := m.Client().Put(ctx, fmt.Sprintf("before/%d", number), strings.Repeat("v", number))
			return err
		})
	}
}
