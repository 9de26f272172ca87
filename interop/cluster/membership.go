package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const membershipTimeout = 15 * time.Second

// Join adds a member of this kind to the running cluster: as a learner first, which costs no quorum, and as a voter once
// it has caught up.
func (c *Cluster) Join(kind Kind) *Member {
	c.t.Helper()
	m, id := c.add(kind, clientv3.Cluster.MemberAddAsLearner)
	c.Eventually(fmt.Sprintf("%s is promoted", m), func(ctx context.Context) error {
		_, err := c.via(m).Client().MemberPromote(ctx, id)
		if err != nil && !isNotReady(err) {
			c.Must(fmt.Errorf("promoting %s: %w", m, err))
		}
		return err
	})
	c.Must(m.AwaitReady())
	return m
}

// JoinAsVoter adds a member that votes from the start.
func (c *Cluster) JoinAsVoter(kind Kind) *Member {
	c.t.Helper()
	m, _ := c.add(kind, clientv3.Cluster.MemberAdd)
	c.Must(m.AwaitReady())
	return m
}

// JoinAsLearner adds a learner, and waits until it holds what the others do.
func (c *Cluster) JoinAsLearner(kind Kind) *Member {
	c.t.Helper()
	m, _ := c.add(kind, clientv3.Cluster.MemberAddAsLearner)
	c.Eventually(fmt.Sprintf("%s has caught up", m), func(ctx context.Context) error {
		others, err := c.via(m).Status(ctx)
		if err != nil {
			return err
		}
		own, err := m.Status(ctx)
		if err == nil && (own.Leader != others.Leader || own.RaftAppliedIndex < others.RaftAppliedIndex) {
			err = fmt.Errorf("it has applied %d of %d", own.RaftAppliedIndex, others.RaftAppliedIndex)
		}
		return err
	})
	return m
}

func isNotReady(err error) bool {
	return strings.Contains(err.Error(), rpctypes.ErrMemberLearnerNotReady.Error())
}

type addCall = func(clientv3.Cluster, context.Context, []string) (*clientv3.MemberAddResponse, error)

func (c *Cluster) add(kind Kind, call addCall) (*Member, uint64) {
	c.t.Helper()
	m := c.prepare(kind)
	ctx, cancel := context.WithTimeout(context.Background(), membershipTimeout)
	defer cancel()
	added, err := call(c.via(nil).Client(), ctx, []string{m.PeerURL})
	// A member must have been connected to the others for five seconds before it takes one more.
	for err != nil && strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCUnhealthy)) && ctx.Err() == nil {
		time.Sleep(500 * time.Millisecond)
		added, err = call(c.via(nil).Client(), ctx, []string{m.PeerURL})
	}
	if err != nil {
		c.Must(fmt.Errorf("adding %s: %w", m, err))
	}
	initial := []string{m.Name + "=" + m.PeerURL}
	for _, other := range added.Members {
		if other.ID != added.Member.ID {
			for _, url := range other.PeerURLs {
				initial = append(initial, other.Name+"="+url)
			}
		}
	}
	m.initialCluster, m.state = strings.Join(initial, ","), "existing"
	c.Members = append(c.Members, m)
	c.Must(m.Spawn())
	return m, added.Member.ID
}

// via is a running member, if possible other than `not`: changes of members can be asked of any.
func (c *Cluster) via(not *Member) *Member {
	c.t.Helper()
	for _, m := range c.Members {
		if m != not && m.Runs() {
			return m
		}
	}
	c.Must(fmt.Errorf("no member runs"))
	return nil
}

// Remove takes a member out and waits until its process has gone by itself, as a removed member must.
func (c *Cluster) Remove(m *Member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), membershipTimeout)
	defer cancel()
	id, err := m.ID(ctx)
	c.Must(err)
	if _, err := c.via(m).Client().MemberRemove(ctx, id); err != nil {
		c.Must(fmt.Errorf("removing %s: %w", m, err))
	}
	c.Must(m.AwaitEnd(stopTimeout))
	if code := m.ExitCode(); code != 0 {
		c.Must(fmt.Errorf("%s was removed and exited with %d, not 0\n%s", m, code, m.LogTail()))
	}
	c.forget(m)
}

func (c *Cluster) forget(m *Member) {
	var rest []*Member
	for _, other := range c.Members {
		if other != m {
			rest = append(rest, other)
		}
	}
	c.Members = rest
}
