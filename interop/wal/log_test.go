// Package wal holds the tests that share a write-ahead log between etcd's own wal package and quorate: read_test.go
// reads with etcd's package what quorate wrote, write_test.go has quorate read what etcd's package wrote.
package wal

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// contents is all that etcd's package finds in a directory, from a snapshot record on.
type contents struct {
	metadata *etcdserverpb.Metadata
	state    *raftpb.HardState
	snapshot *walpb.Snapshot
	entries  []*raftpb.Entry
}

var segmentName = regexp.MustCompile(`^[0-9a-f]{16}-[0-9a-f]{16}\.wal$`)

// segments are the paths of the log's files, in order. Files that etcd would not know fail the test.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range files {
		switch {
		case segmentName.MatchString(file.Name()):
			paths = append(paths, filepath.Join(dir, file.Name()))
		case filepath.Ext(file.Name()) == ".tmp": // a segment being prepared; etcd has the same
		default:
			t.Errorf("%s holds %s, which is no name of a segment", dir, file.Name())
		}
	}
	if len(paths) == 0 {
		t.Fatalf("%s holds no segment", dir)
	}
	return paths
}

// read reads a log as a starting etcd does: from the newest valid snapshot record on.
func read(t *testing.T, dir string) contents {
	t.Helper()
	snapshots, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		t.Fatalf("ValidSnapshotEntries: %v", err)
	}
	if len(snapshots) == 0 {
		t.Fatal("no snapshot record: even a new log begins with one of index 0, without which etcd reads nothing")
	}
	return readFrom(t, dir, snapshots[len(snapshots)-1])
}

// readAll reads a log whose first segment is still there from its begin, past all snapshot records.
func readAll(t *testing.T, dir string) contents {
	t.Helper()
	return readFrom(t, dir, &walpb.Snapshot{Index: new(uint64(0)), Term: new(uint64(0))})
}

func readFrom(t *testing.T, dir string, from *walpb.Snapshot) contents {
	t.Helper()
	segments(t, dir)
	verified, err := wal.Verify(zap.NewNop(), dir, from)
	if err != nil {
		t.Fatalf("Verify from snapshot %v: %v", from, err)
	}
	log, err := wal.OpenForRead(zap.NewNop(), dir, from)
	if err != nil {
		t.Fatalf("OpenForRead from snapshot %v: %v", from, err)
	}
	defer log.Close()
	metadata, state, entries, err := log.ReadAll()
	if err != nil {
		t.Fatalf("ReadAll from snapshot %v: %v", from, err)
	}
	if !proto.Equal(verified, state) {
		t.Errorf("Verify found the hard state %v, ReadAll %v", verified, state)
	}
	found := contents{metadata: &etcdserverpb.Metadata{}, state: state, snapshot: from, entries: entries}
	if err := proto.Unmarshal(metadata, found.metadata); err != nil {
		t.Fatalf("the metadata record: %v", err)
	}
	return found
}

// copyOf copies a log to where a test may change it.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "wal")
	if err := os.CopyFS(target, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return target
}
