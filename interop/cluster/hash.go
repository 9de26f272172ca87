package cluster

import (
	"context"
	"fmt"
)

// MemberHash is what a member holds at a revision.
type MemberHash struct {
	Member          *Member
	Revision        int64
	CompactRevision int64
	Hash            uint32
}

// Hashes asks every running member for the hash of everything that it holds, dead versions included, at one revision: the
// newest. It works under load.
func (c *Cluster) Hashes() []MemberHash {
	c.t.Helper()
	// Of a revision that was compacted just now etcd answers another hash, made while compacting: so a fresh one.
	var revision int64
	c.Eventually("a write", func(ctx context.Context) error {
		answer, err := c.via(nil).Client().Put(ctx, "hash-marker", "")
		if err == nil {
			revision = answer.Header.Revision
		}
		return err
	})
	var hashes []MemberHash
	for _, m := range c.Members {
		if !m.Runs() {
			continue
		}
		c.Eventually(fmt.Sprintf("%s hashes revision %d", m, revision), func(ctx context.Context) error {
			// A linearizable read waits until the member has applied the write.
			if _, err := m.Client().Get(ctx, "hash-marker"); err != nil {
				return err
			}
			answer, err := m.Client().HashKV(ctx, m.ClientURL, revision)
			if err == nil {
				hashes = append(hashes, MemberHash{m, revision, answer.CompactRevision, answer.Hash})
			}
			return err
		})
	}
	return hashes
}

// EqualHashes demands that all running members hold the same. Returns the revision at which they were compared.
func (c *Cluster) EqualHashes() MemberHash {
	c.t.Helper()
	hashes := c.Hashes()
	first := hashes[0]
	for _, other := range hashes[1:] {
		if other.Hash != first.Hash || other.CompactRevision != first.CompactRevision {
			c.Must(fmt.Errorf("HashKV at revision %d: %s has %x (compacted %d), %s has %x (compacted %d)", first.Revision,
				first.Member, first.Hash, first.CompactRevision, other.Member, other.Hash, other.CompactRevision))
		}
	}
	return first
}
