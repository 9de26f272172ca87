package mixed

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"quorate/interop/cluster"
)

// foundingTerm is the term of the entries that founders write without an election.
const foundingTerm = 1

// committedLog reads the log of a stopped member with etcd's own package, from the oldest snapshot record whose segment
// is still there, up to what the member knew to be committed.
func committedLog(t *testing.T, m *cluster.Member) map[uint64]*raftpb.Entry {
	t.Helper()
	snapshots, err := wal.ValidSnapshotEntries(zap.NewNop(), m.WALDir())
	if err != nil || len(snapshots) == 0 {
		t.Fatalf("%s: %d snapshot records, %v", m, len(snapshots), err)
	}
	for _, from := range snapshots {
		log, openErr := wal.OpenForRead(zap.NewNop(), m.WALDir(), from)
		if openErr != nil {
			err = openErr
			continue
		}
		_, state, entries, readErr := log.ReadAll()
		log.Close()
		if errors.Is(readErr, wal.ErrSliceOutOfRange) {
			// The member was brought up by a snapshot: the log does not go on from here, but from a later one.
			err = readErr
			continue
		}
		if readErr != nil {
			t.Fatalf("%s: reading its log from %v: %v", m, from, readErr)
		}
		committed := map[uint64]*raftpb.Entry{}
		for _, entry := range entries {
			if entry.GetIndex() <= state.GetCommit() {
				committed[entry.GetIndex()] = entry
			}
		}
		return committed
	}
	t.Fatalf("%s: no snapshot record that its log can be read from: %v", m, err)
	return nil
}

// equalLogs demands that stopped members hold the same bytes at every index that two of them know to be committed, and
// that there are `entriesMin` such indexes for each pair.
func equalLogs(t *testing.T, members []*cluster.Member, entriesMin int) {
	t.Helper()
	logs := make([]map[uint64]*raftpb.Entry, len(members))
	for number, m := range members {
		logs[number] = committedLog(t, m)
	}
	for second := range members {
		for first := range second {
			compared := 0
			for index, one := range logs[first] {
				other := logs[second][index]
				if other == nil {
					continue
				}
				compared++
				if describe(one) != describe(other) {
					t.Fatalf("index %d:\n%s holds %s\n%s holds %s", index, members[first], describe(one), members[second], describe(other))
				}
			}
			if compared < entriesMin {
				t.Errorf("%s (%d entries) and %s (%d entries) have only %d indexes in common, expected %d or more",
					members[first], len(logs[first]), members[second], len(logs[second]), compared, entriesMin)
			}
		}
	}
}

// describe leaves out what etcd 3.6 writes and 3.7 does not: zeros, in an entry and, as each founder makes those itself, in
// the founding configuration changes. Those that are proposed have their bytes from one member.
func describe(entry *raftpb.Entry) string {
	var change raftpb.ConfChange
	if entry.GetType() == raftpb.EntryConfChange && entry.GetTerm() == foundingTerm && proto.Unmarshal(entry.Data, &change) == nil {
		return fmt.Sprintf("term %d, founding %s of %x, %s", entry.GetTerm(), change.GetType(), change.GetNodeId(), change.Context)
	}
	return fmt.Sprintf("term %d, %s, %x", entry.GetTerm(), entry.GetType(), entry.Data)
}
