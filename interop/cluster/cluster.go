// Package cluster runs members of several programs as real processes: quorate beside etcd's own servers, in one cluster.
//
//	QUORATE_SERVER         path of quorate's binary
//	QUORATE_ETCD37         path of etcd 3.7's (interop/mixed/etcd37)
//	QUORATE_ETCD36         path of etcd 3.6's (interop/mixed/etcd36)
//	QUORATE_INTEROP_PORTS  the ports to use, FIRST-LAST
//
// Data and logs of a test that failed are kept in a folder that its output names.
package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ElectionTimeout is etcd's default, which all members run with.
const ElectionTimeout = time.Second

const settleTimeout = 20 * time.Second

// Cluster is a set of members that belong together.
type Cluster struct {
	Members []*Member

	t     testing.TB
	dir   string
	flags []string
	names int
}

// New prepares a cluster of members of these kinds; `flags` go to all of them. Whatever runs at the end of the test is
// killed.
func New(t testing.TB, flags []string, kinds ...Kind) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, dir: dir, flags: flags}
	// Registered first, so that it comes last.
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("data and logs are kept in %s", dir)
		} else {
			os.RemoveAll(dir)
		}
	})
	var initial []string
	for _, kind := range kinds {
		m := c.prepare(kind)
		c.Members = append(c.Members, m)
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	for _, m := range c.Members {
		m.initialCluster, m.state = strings.Join(initial, ","), "new"
	}
	return c
}

// prepare makes a member that is not part of the cluster yet.
func (c *Cluster) prepare(kind Kind) *Member {
	c.names++
	name := fmt.Sprintf("m%d", c.names)
	peer := "http://" + freeAddress(c.t)
	m := &Member{
		Kind: kind, Name: name, ClientURL: "http://" + freeAddress(c.t), PeerURL: peer, ListenPeerURL: peer,
		DataDir: filepath.Join(c.dir, name+".etcd"), Flags: c.flags, program: Program(c.t, kind.variable),
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Log(m.LogTail())
		}
		if m.Runs() {
			m.Kill()
		}
		m.Client().Close()
	})
	return m
}

// Start starts all members at once, which none could alone, and waits until each serves.
func (c *Cluster) Start() {
	c.t.Helper()
	for _, m := range c.Members {
		c.Must(m.Spawn())
	}
	c.AwaitReady()
}

// AwaitReady waits until every member answers a linearizable read.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	for _, m := range c.Members {
		c.Must(m.AwaitReady())
	}
}

// Stop ends all members with SIGTERM.
func (c *Cluster) Stop() {
	c.t.Helper()
	for _, m := range c.Members {
		c.Must(m.Stop())
	}
}

// Must ends the test on an error.
func (c *Cluster) Must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%v\nthe cluster: %s", err, c.describe())
	}
}

func (c *Cluster) describe() string {
	var each []string
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := m.Status(ctx)
		cancel()
		if err != nil {
			each = append(each, fmt.Sprintf("%s: %v", m, err))
			continue
		}
		each = append(each, fmt.Sprintf("%s: id %x leader %x term %d index %d applied %d revision %d %v", m, status.Header.MemberId,
			status.Leader, status.RaftTerm, status.RaftIndex, status.RaftAppliedIndex, status.Header.Revision, status.Errors))
	}
	return strings.Join(each, "\n  ")
}

// Leader is the member that all running members hold for the leader; it waits for them to agree.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	c.Eventually("the members agree on a leader", func(ctx context.Context) error {
		var err error
		leader, err = c.findLeader(ctx)
		return err
	})
	return leader
}

func (c *Cluster) findLeader(ctx context.Context) (*Member, error) {
	var leaderID uint64
	byID := map[uint64]*Member{}
	for _, m := range c.Members {
		if !m.Runs() {
			continue
		}
		status, err := m.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
		byID[status.Header.MemberId] = m
		if leaderID == 0 {
			leaderID = status.Leader
		}
		if status.Leader == 0 || status.Leader != leaderID {
			return nil, fmt.Errorf("%s holds %x for the leader, others %x", m, status.Leader, leaderID)
		}
	}
	if leader := byID[leaderID]; leader != nil {
		return leader, nil
	}
	return nil, fmt.Errorf("the leader %x does not run", leaderID)
}

// MoveLeader makes `to` the leader.
func (c *Cluster) MoveLeader(to *Member) {
	c.t.Helper()
	leader := c.Leader()
	if leader == to {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	id, err := to.ID(ctx)
	c.Must(err)
	if _, err := leader.Client().MoveLeader(ctx, id); err != nil {
		c.Must(fmt.Errorf("moving leadership from %s to %s: %w", leader, to, err))
	}
	if now := c.Leader(); now != to {
		c.Must(fmt.Errorf("leadership was moved from %s to %s and is with %s", leader, to, now))
	}
}

// Eventually repeats `check` until it returns no error.
func (c *Cluster) Eventually(what string, check func(ctx context.Context) error) {
	c.t.Helper()
	deadline := time.Now().Add(settleTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := check(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Must(fmt.Errorf("not within %s: %s: %w", settleTimeout, what, err))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Dir is where data and logs lie; a test may keep other things there.
func (c *Cluster) Dir() string { return c.dir }

// Phantom adds a founding member that is no process: whoever listens at its peer URL is the test's own.
func (c *Cluster) Phantom(peerURL string) {
	c.names++
	for _, m := range c.Members {
		m.initialCluster += fmt.Sprintf(",m%d=%s", c.names, peerURL)
	}
}
