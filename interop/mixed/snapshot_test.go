package mixed

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
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
	manager := snapshot.NewV3(zap.NewNop())
	status, err := manager.Status(file)
	if err != nil {
		t.Fatalf("etcdutl snapshot status: %v", err)
	}
	ctx := context.Background()
	count, err := c.Members[0].Client().Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
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
		SkipHashCheck: true, // as for every file that did not come through Maintenance.Snapshot
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
