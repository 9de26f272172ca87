package mixed

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"quorate/interop/cluster"
)

const snapshotOperations = 2_000

// etcd's etcdutl accepts a snapshot that quorate has made of its own database, and an etcd that is restored from it holds
// the same.
func TestEtcdutlRestoresQuoratesSnapshot(t *testing.T) {
	c := cluster.New(t, nil, cluster.Etcd37, cluster.Quorate, cluster.Quorate)
	c.Start()
	seed := rand.Uint64()
	t.Logf("seed %d: %s", seed, fill(t, c, snapshotOperations, seed))
	hash := c.EqualHashes()
	source := c.Members[1]
	c.Must(source.Stop())

	file := filepath.Join(c.Dir(), "quorate.snap.db")
	database := filepath.Join(source.DataDir, "member", "snap", "quorate.redb")
	output, err := exec.Command(cluster.Program(t, "QUORATE_SNAPSHOT_COPY"), database, file).Output()
	if err != nil {
		t.Fatalf("making a snapshot: %v", err)
	}
	var said struct {
		Revision int64 `json:"revision"`
	}
	if err := json.Unmarshal(output, &said); err != nil || said.Revision != hash.Revision {
		t.Fatalf("the snapshot is of %s (%v), the member was at revision %d", output, err, hash.Revision)
	}
	// Only a file that came through Maintenance.Snapshot ends with its digest.
	restoreAndCompare(t, c.Members[0], file, hash, true)
}

// An operator defragments a member of quorate and saves its snapshot, while others write; etcd is restored from it.
func TestEtcdutlRestoresASavedSnapshot(t *testing.T) {
	c := cluster.New(t, nil, cluster.Etcd37, cluster.Quorate, cluster.Quorate)
	c.Start()
	seed := rand.Uint64()
	t.Logf("seed %d: %s", seed, fill(t, c, snapshotOperations, seed))
	before := c.EqualHashes()
	source, ctx := c.Members[1], context.Background()
	if _, err := source.Client().Compact(ctx, before.Revision); err != nil {
		t.Fatal(err)
	}
	// A hash at the very revision that was compacted is one from before.
	if _, err := source.Client().Put(ctx, "compacted", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Client().Defragment(ctx, source.ClientURL); err != nil {
		t.Fatalf("defragmenting: %v", err)
	}
	status, err := source.Client().Status(ctx, source.ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	if status.DbSize != status.DbSizeInUse {
		t.Errorf("defragmented, and its size is %d, of which %d are in use", status.DbSize, status.DbSizeInUse)
	}

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Members[2].Client().Put(ctx, "while it is saved", strconv.Itoa(i)); err != nil {
				t.Errorf("a put while a snapshot is saved: %v", err)
				return
			}
		}
	}()
	file := filepath.Join(c.Dir(), "saved.db")
	saved, err := source.Client().Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(out, saved)
	if err != nil {
		t.Fatalf("saving: %v", err)
	}
	c.Must(out.Close())
	close(stop)
	<-stopped
	if size%512 != sha256.Size {
		t.Errorf("%d bytes are no pages and a digest", size)
	}
	revision := savedRevision(t, file)
	answer, err := source.Client().HashKV(ctx, source.ClientURL, revision)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, at revision %d", size, revision)
	restoreAndCompare(t, c.Members[0], file, cluster.MemberHash{Revision: revision, Hash: answer.Hash, CompactRevision: answer.CompactRevision}, false)
}

func savedRevision(t *testing.T, file string) int64 {
	t.Helper()
	status, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		t.Fatalf("etcdutl snapshot status: %v", err)
	}
	return status.Revision
}

// restoreAndCompare makes an etcd of the snapshot, whose revision has that hash on the member `other` of its cluster.
func restoreAndCompare(t *testing.T, other *cluster.Member, file string, hash cluster.MemberHash, skipDigest bool) {
	t.Helper()
	manager := snapshot.NewV3(zap.NewNop())
	status, err := manager.Status(file)
	if err != nil {
		t.Fatalf("etcdutl snapshot status: %v", err)
	}
	ctx := context.Background()
	count, err := other.Client().Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithRev(hash.Revision))
	if err != nil {
		t.Fatal(err)
	}
	if status.Revision != hash.Revision || int64(status.TotalKey) != count.Count || !strings.HasPrefix(status.Version, "3.7") {
		t.Errorf("etcdutl snapshot status: %+v; the cluster has %d keys at revision %d", status, count.Count, hash.Revision)
	}

	restored := cluster.New(t, nil, cluster.Etcd37)
	m := restored.Members[0]
	err = manager.Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: m.Name, OutputDataDir: m.DataDir, PeerURLs: []string{m.PeerURL},
		InitialCluster: m.Name + "=" + m.PeerURL, InitialClusterToken: "etcd-cluster",
		SkipHashCheck: skipDigest,
	})
	if err != nil {
		t.Fatalf("etcdutl snapshot restore: %v", err)
	}
	restored.Start()
	answer, err := m.Client().HashKV(ctx, m.ClientURL, hash.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Hash != hash.Hash || answer.CompactRevision != hash.CompactRevision {
		t.Errorf("the restored etcd has %x (compacted %d), the cluster had %x (compacted %d) at revision %d", answer.Hash,
			answer.CompactRevision, hash.Hash, hash.CompactRevision, hash.Revision)
	}
	leases, err := m.Client().Leases(ctx)
	if err != nil || len(leases.Leases) == 0 {
		t.Errorf("the restored etcd has the leases %v (%v)", leases, err)
	}
	(&steps{t: t, c: restored}).everyMemberServes("restored")
}
