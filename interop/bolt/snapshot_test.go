package bolt

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/auth"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2store"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	memberID = types.ID(0x8e9e05c52164694d)
	index    = 4711
	term     = 8
)

// said is what snapshot_copy says of the database that it made.
type said struct {
	Index           uint64 `json:"index"`
	Term            uint64 `json:"term"`
	Revision        int64  `json:"revision"`
	CompactRevision int64  `json:"compact_revision"`
	Hashes          []struct {
		Hash            uint32 `json:"hash"`
		Revision        int64  `json:"revision"`
		CompactRevision int64  `json:"compact_revision"`
	} `json:"hashes"`
	Membership string `json:"membership"`
}

// storage is what an etcd has on its database file.
type storage struct {
	backend backend.Backend
	kv      mvcc.WatchableKV
	lessor  lease.Lessor
	cluster *membership.RaftCluster
}

// Version is what the lessor wants of a cluster.
func (s *storage) Version() *semver.Version { return semver.New("3.7.0") }

func openStorage(t *testing.T, path string) *storage {
	t.Helper()
	s := &storage{backend: backend.NewDefaultBackend(zap.NewNop(), path)}
	s.lessor = lease.NewLessor(zap.NewNop(), s.backend, s, lease.LessorConfig{MinLeaseTTL: 2})
	s.kv = mvcc.New(zap.NewNop(), s.backend, s.lessor, mvcc.StoreConfig{})
	s.cluster = membership.NewCluster(zap.NewNop())
	s.cluster.SetBackend(schema.NewMembershipBackend(zap.NewNop(), s.backend))
	return s
}

func (s *storage) close() {
	s.kv.Close()
	s.lessor.Stop()
	s.backend.Close()
}

// An etcd's snapshot becomes a database of quorate's and a snapshot again: the same pairs in all buckets, the same hash at
// every revision; and etcd's own storage opens it, hashes it alike, and finds keys, leases, members and versions in it.
func TestEtcdAndQuorateExchangeSnapshots(t *testing.T) {
	dir := t.TempDir()
	original := openStorage(t, filepath.Join(dir, "etcd.db"))
	defer original.close()
	fill(t, original)
	snapshot := filepath.Join(dir, "etcd.snap.db")
	save(t, original.backend, snapshot)

	copied := filepath.Join(dir, "quorate.snap.db")
	database := filepath.Join(dir, "quorate.db")
	output := must(command(t, "QUORATE_SNAPSHOT_COPY", snapshot, database, copied).Output())(t)
	var found said
	if err := json.Unmarshal(output, &found); err != nil {
		t.Fatal(err)
	}
	compare(t, read(t, copied), read(t, snapshot))
	if found.Index != index || found.Term != term {
		t.Errorf("index %d, term %d", found.Index, found.Term)
	}
	compared := 0
	for _, each := range found.Hashes {
		hash, current, err := original.kv.HashStorage().HashByRev(each.Revision)
		if err != nil || current != found.Revision {
			t.Fatalf("revision %d of %d: etcd is at %d (%v)", each.Revision, found.Revision, current, err)
		}
		if hash.CompactRevision != each.CompactRevision {
			continue // etcd still has the hash that the last compaction has left
		}
		compared++
		if hash.Hash != each.Hash {
			t.Errorf("revision %d: quorate has %+v, etcd %+v", each.Revision, each, hash)
		}
	}
	if compared < 500 || compared < len(found.Hashes)-1 {
		t.Errorf("only %d hashes of %d could be compared", compared, len(found.Hashes))
	}

	reopened := openStorage(t, copied)
	defer reopened.close()
	sameKeys(t, reopened, original, found.CompactRevision)
	if got, want := len(reopened.lessor.Leases()), len(original.lessor.Leases()); got != want || got == 0 {
		t.Errorf("%d leases, want %d", got, want)
	}
	reopened.cluster.Recover(func(*zap.Logger, *semver.Version) {})
	checkMembers(t, reopened.cluster)
	alarms := must(schema.NewAlarmBackend(zap.NewNop(), reopened.backend).GetAllAlarms())(t)
	if len(alarms) != 2 {
		t.Errorf("alarms: %v", alarms)
	}
	storedIndex, storedTerm := schema.ReadConsistentIndex(reopened.backend.ReadTx())
	if storedIndex != index || storedTerm != term {
		t.Errorf("consistent index %d of term %d", storedIndex, storedTerm)
	}
	if version := schema.ReadStorageVersion(reopened.backend.ReadTx()); version == nil || version.String() != "3.7.0" {
		t.Errorf("storage version %v", version)
	}
	if err := schema.Validate(zap.NewNop(), reopened.backend.ReadTx()); err != nil {
		t.Errorf("etcd would not start on it: %v", err)
	}
	// It goes on from there, and so does bbolt below it.
	for number := range 300 {
		reopened.kv.Put(fmt.Appendf(nil, "later-%d", number), []byte(strings.Repeat("x", number*10)), lease.NoLease)
	}
	done := must(reopened.kv.Compact(traceutil.TODO(), reopened.kv.Rev()-10))(t)
	<-done
	reopened.kv.Commit()
	later := filepath.Join(dir, "later.db")
	save(t, reopened.backend, later)
	read(t, later)
	again := filepath.Join(dir, "again.db")
	must(command(t, "QUORATE_SNAPSHOT_COPY", later, filepath.Join(dir, "later-quorate.db"), again).Output())(t)
	compare(t, read(t, again), read(t, later))

	// What goes into the Raft message beside the file: an etcd 3.5 or 3.6 loads it.
	tree := v2store.New("/0", "/1")
	if err := tree.Recovery([]byte(found.Membership)); err != nil {
		t.Fatal(err)
	}
	if only, err := membership.IsMetaStoreOnly(tree); err != nil || !only {
		t.Errorf("the tree holds more than members: %v, %v", only, err)
	}
	members, removed := membership.MembersFromStore(zap.NewNop(), tree)
	if member := members[memberID]; len(members) != 2 || member == nil || member.Name != "m1" || !removed[0xabc] {
		t.Errorf("members %v, removed %v", members, removed)
	}
	// A history without events takes 1000 and more.
	for number := range 1500 {
		if _, err := tree.Set("/1/x", false, fmt.Sprint(number), v2store.TTLOptionSet{ExpireTime: v2store.Permanent}); err != nil {
			t.Fatal(err)
		}
	}
}

// With auth in it, a snapshot is refused, and the error says why.
func TestQuorateRefusesASnapshotWithAuth(t *testing.T) {
	dir := t.TempDir()
	original := openStorage(t, filepath.Join(dir, "etcd.db"))
	defer original.close()
	fill(t, original)
	users := authStore(t, original.backend)
	if _, err := users.RoleAdd(&etcdserverpb.AuthRoleAddRequest{Name: "root"}); err != nil {
		t.Fatal(err)
	}
	snapshot := filepath.Join(dir, "etcd.snap.db")
	save(t, original.backend, snapshot)
	output, err := command(t, "QUORATE_SNAPSHOT_COPY", snapshot, filepath.Join(dir, "q.db"), filepath.Join(dir, "c.db")).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "auth is in use, which this version does not support yet") {
		t.Errorf("%v: %s", err, output)
	}
	if _, err := os.Stat(filepath.Join(dir, "q.db")); !os.IsNotExist(err) {
		t.Errorf("a database was made: %v", err)
	}
}

func authStore(t *testing.T, be backend.Backend) auth.AuthStore {
	t.Helper()
	tokens := must(auth.NewTokenProvider(zap.NewNop(), "simple", func(uint64) <-chan struct{} { return nil }, time.Minute))(t)
	return auth.NewAuthStore(zap.NewNop(), schema.NewAuthBackend(zap.NewNop(), be), tokens, 4)
}

// fill puts some of everything into a storage, as an etcd would: keys, deletes, transactions, a compaction, leases, alarms,
// members, versions, and what it needs to start on the file.
func fill(t *testing.T, s *storage) {
	t.Helper()
	tx := s.backend.BatchTx()
	tx.Lock()
	for _, bucket := range schema.AllBuckets {
		tx.UnsafeCreateBucket(bucket)
	}
	schema.UnsafeUpdateConsistentIndex(tx, index, term)
	schema.MustUnsafeSaveConfStateToBackend(zap.NewNop(), tx, &raftpb.ConfState{
		Voters: []uint64{uint64(memberID)}, Learners: []uint64{77}, AutoLeave: new(false),
	})
	schema.UnsafeSetStorageVersion(tx, semver.New("3.7.0"))
	tx.Unlock()
	authStore(t, s.backend).Close()

	for id := lease.LeaseID(1); id <= 200; id++ {
		if _, err := s.lessor.Grant(id<<50|id, 60); err != nil {
			t.Fatal(err)
		}
	}
	for number := range 3000 {
		key := fmt.Appendf(nil, "key-%d", number*number%701)
		switch {
		case number%11 == 0:
			s.kv.DeleteRange(key, nil)
		case number%97 == 0:
			write := s.kv.Write(traceutil.TODO())
			for each := range 20 {
				write.Put(fmt.Appendf(nil, "txn-%d", (number+each)%50), []byte(strings.Repeat("t", each)), lease.NoLease)
			}
			write.DeleteRange(key, append(key, '5'))
			write.End()
		case number%501 == 0:
			s.kv.Put(key, []byte(strings.Repeat("long ", 30_000)), lease.NoLease)
		default:
			id := lease.NoLease
			if number%5 == 0 {
				id = lease.LeaseID(number%200 + 1)
				id |= id << 50
			}
			s.kv.Put(key, []byte(strings.Repeat("v", number%300)), id)
		}
		if number == 1000 || number == 2000 {
			<-must(s.kv.Compact(traceutil.TODO(), s.kv.Rev()-20))(t)
		}
	}

	alarms := schema.NewAlarmBackend(zap.NewNop(), s.backend)
	for id := uint64(300); id > 100; id -= 150 {
		alarms.MustPutAlarm(&etcdserverpb.AlarmMember{MemberID: id, Alarm: etcdserverpb.AlarmType_NOSPACE})
	}
	voter := &membership.Member{
		ID:             memberID,
		RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://127.0.0.1:2380"}},
		Attributes:     membership.Attributes{Name: "m1", ClientURLs: []string{"http://127.0.0.1:2379"}},
	}
	learner := &membership.Member{
		ID:             77,
		RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://127.0.0.1:2390"}, IsLearner: true},
	}
	gone := &membership.Member{ID: 0xabc, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://127.0.0.1:1"}}}
	for _, member := range []*membership.Member{voter, learner, gone} {
		s.cluster.AddMember(member, membership.ApplyBoth)
	}
	s.cluster.RemoveMember(gone.ID, membership.ApplyBoth)
	s.cluster.SetVersion(semver.New("3.7.0"), func(*zap.Logger, *semver.Version) {}, membership.ApplyBoth)
	s.kv.Commit()
}

// save writes a snapshot out, as etcd sends it to a peer.
func save(t *testing.T, be backend.Backend, path string) {
	t.Helper()
	be.ForceCommit()
	snapshot := be.Snapshot()
	defer snapshot.Close()
	file := must(os.Create(path))(t)
	defer file.Close()
	if written := must(snapshot.WriteTo(file))(t); written != snapshot.Size() {
		t.Fatalf("%d bytes written of %d", written, snapshot.Size())
	}
}

func sameKeys(t *testing.T, got, want *storage, compacted int64) {
	t.Helper()
	if got.kv.Rev() != want.kv.Rev() {
		t.Fatalf("current revision %d, want %d", got.kv.Rev(), want.kv.Rev())
	}
	for revision := compacted; revision <= want.kv.Rev(); revision++ {
		all := mvcc.RangeOptions{Rev: revision}
		first := must(got.kv.Range(t.Context(), []byte{0}, []byte{}, all))(t)
		second := must(want.kv.Range(t.Context(), []byte{0}, []byte{}, all))(t)
		if fmt.Sprint(first.KVs) != fmt.Sprint(second.KVs) || len(first.KVs) == 0 {
			t.Fatalf("revision %d: %d keys differ from %d", revision, len(first.KVs), len(second.KVs))
		}
		if revision == compacted {
			continue // the one asked first has the hash that its compaction has left
		}
		firstHash, _, err1 := got.kv.HashStorage().HashByRev(revision)
		secondHash, _, err2 := want.kv.HashStorage().HashByRev(revision)
		if firstHash != secondHash || err1 != nil || err2 != nil {
			t.Fatalf("revision %d: %+v (%v), want %+v (%v)", revision, firstHash, err1, secondHash, err2)
		}
	}
}

func checkMembers(t *testing.T, cluster *membership.RaftCluster) {
	t.Helper()
	voter, learner := cluster.Member(memberID), cluster.Member(77)
	switch {
	case voter == nil || voter.Name != "m1" || voter.IsLearner || len(voter.ClientURLs) != 1:
		t.Errorf("the voter: %+v", voter)
	case learner == nil || !learner.IsLearner || learner.PeerURLs[0] != "http://127.0.0.1:2390":
		t.Errorf("the learner: %+v", learner)
	case !cluster.IsIDRemoved(0xabc) || len(cluster.Members()) != 2:
		t.Errorf("members %v", cluster.Members())
	case cluster.Version().String() != "3.7.0":
		t.Errorf("cluster version %v", cluster.Version())
	}
}
