package wal

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"quorate/interop/daemon"
	"quorate/interop/writers"
)

const (
	loadWriters    = 24
	loadValueBytes = 256
	killRounds     = 2
	largeValues    = 70 // of 1 MiB, so that a segment of 64 MB is filled and a second one begun
)

// A clean life: values of many lengths, a delete, a transaction, a compaction; SIGTERM. Everything is in the log, as
// the requests that etcd would have written, in the order of their revisions.
func TestEtcdReadsALogAfterACleanStop(t *testing.T) {
	server := daemon.New(t)
	server.Start(t)
	client := connect(t, server)
	ctx := context.Background()
	var want []*etcdserverpb.InternalRaftRequest
	var header *etcdserverpb.ResponseHeader
	for _, length := range []int{0, 1, 7, 8, 9, 100, 511, 512, 513, 4095, 4096, 4097, 100_000, 1_000_000} {
		key, value := "length", strings.Repeat("v", length)
		answer, err := client.Put(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		header = answer.Header
		want = append(want, &etcdserverpb.InternalRaftRequest{
			Put: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}})
	}
	if _, err := client.Txn(ctx).Then(clientv3.OpPut("in", "txn"), clientv3.OpDelete("length")).Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, header.Revision); err != nil {
		t.Fatal(err)
	}
	client.Close()
	server.Stop(t)

	found := readAll(t, server.WALDir())
	checkWellFormed(t, found)
	checkBegin(t, found, header)
	var got []*etcdserverpb.InternalRaftRequest
	var txns, compactions int
	for _, request := range requests(t, found.entries) {
		switch {
		case request.Put != nil:
			got = append(got, &etcdserverpb.InternalRaftRequest{Put: request.Put})
		case request.Txn != nil:
			txns++
		case request.Compaction != nil:
			compactions++
		}
	}
	if !slices.EqualFunc(got, want, func(a, b *etcdserverpb.InternalRaftRequest) bool { return proto.Equal(a, b) }) {
		t.Errorf("the log holds %d puts that differ from the %d that were sent", len(got), len(want))
	}
	if txns != 1 || compactions != 1 {
		t.Errorf("the log holds %d transactions and %d compactions, sent was one of each", txns, compactions)
	}
	checkEtcdGoesOn(t, server.WALDir())
}

// kill -9 under load, a restart on the same log, and the same again: every acknowledged put is in the log.
func TestEtcdReadsALogAfterKills(t *testing.T) {
	server := daemon.New(t)
	var acknowledged []writers.Ack
	for round := range killRounds {
		server.Start(t)
		load, err := writers.Start(t.Context(), writers.Options{
			Endpoint: server.Endpoint, Prefix: []string{"first", "second"}[round], Writers: loadWriters,
			ValueBytes: loadValueBytes, PerConnection: 6,
		})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-load.Running:
		case <-time.After(20 * time.Second):
			t.Fatalf("not every writer had a put acknowledged: %v", load.FirstError.Load())
		}
		time.Sleep(300*time.Millisecond + rand.N(700*time.Millisecond))
		server.Kill(t)
		acks := load.Wait()
		t.Logf("round %d: %d puts acknowledged", round, len(acks))
		acknowledged = append(acknowledged, acks...)

		checkWellFormed(t, read(t, server.WALDir()))
		// A few MB fit into the first segment, so nothing of it can have been given up.
		found := readAll(t, server.WALDir())
		checkWellFormed(t, found)
		checkAcknowledged(t, found, acknowledged)
	}
	checkEtcdGoesOn(t, server.WALDir())
}

// A log that fills more than one segment. Old segments may be gone by the end, but only below a snapshot record.
func TestEtcdReadsALogOfSeveralSegments(t *testing.T) {
	server := daemon.New(t)
	server.Start(t)
	client := connect(t, server)
	value := strings.Repeat("v", 1<<20)
	var keys []string
	for number := range largeValues {
		key := writers.Key("large", 0, number)
		if _, err := client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	client.Close()
	server.Kill(t)

	names := segments(t, server.WALDir())
	last := names[len(names)-1]
	if len(names) < 2 && strings.HasSuffix(last, "/0000000000000000-0000000000000000.wal") {
		t.Fatalf("%d MiB fitted into one segment", largeValues)
	}
	found := read(t, server.WALDir())
	checkWellFormed(t, found)
	var stored []string
	for _, request := range requests(t, found.entries) {
		if request.Put != nil {
			stored = append(stored, string(request.Put.Key))
			if string(request.Put.Value) != value {
				t.Errorf("%s has another value", request.Put.Key)
			}
		}
	}
	missing := len(keys) - len(stored)
	if missing < 0 || !slices.Equal(stored, keys[missing:]) {
		t.Fatalf("the log holds %v, sent was %v", stored, keys)
	}
	if uint64(missing) > found.snapshot.GetIndex() {
		t.Errorf("%d puts are missing, more than the snapshot of index %d covers", missing, found.snapshot.GetIndex())
	}
}

func connect(t *testing.T, server *daemon.Daemon) *clientv3.Client {
	t.Helper()
	client, err := writers.Connect(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// checkWellFormed: entries follow each other without a gap, terms never go down, and the hard state fits them.
func checkWellFormed(t *testing.T, found contents) {
	t.Helper()
	if len(found.entries) == 0 && found.snapshot.GetIndex() == 0 {
		t.Fatal("the log holds no entry")
	}
	index, term := found.snapshot.GetIndex(), found.snapshot.GetTerm()
	for _, entry := range found.entries {
		if entry.GetIndex() != index+1 {
			t.Fatalf("entry %d follows entry %d", entry.GetIndex(), index)
		}
		if entry.GetTerm() < term {
			t.Fatalf("entry %d has term %d, the one before has %d", entry.GetIndex(), entry.GetTerm(), term)
		}
		index, term = entry.GetIndex(), entry.GetTerm()
	}
	if found.state.GetTerm() < term || found.state.GetCommit() > index {
		t.Errorf("the hard state %v does not fit a log that ends with entry %d of term %d", found.state, index, term)
	}
	if found.metadata.GetNodeID() == 0 || found.metadata.GetClusterID() == 0 {
		t.Errorf("the metadata name no member or no cluster: %v", found.metadata)
	}
}

// checkBegin: the ids of the metadata are those of the answers, and the log of a new cluster begins as etcd's does.
func checkBegin(t *testing.T, found contents, header *etcdserverpb.ResponseHeader) {
	t.Helper()
	if found.metadata.GetNodeID() != header.MemberId || found.metadata.GetClusterID() != header.ClusterId {
		t.Errorf("the metadata say member %x of cluster %x, answers say %x of %x",
			found.metadata.GetNodeID(), found.metadata.GetClusterID(), header.MemberId, header.ClusterId)
	}
	first := found.entries[0]
	if first.GetIndex() != 1 || first.GetTerm() != 1 || first.GetType() != raftpb.EntryConfChange {
		t.Fatalf("the first entry is not a membership change of index 1 and term 1: %v", first)
	}
	var change raftpb.ConfChange
	if err := proto.Unmarshal(first.Data, &change); err != nil {
		t.Fatalf("the first entry is no membership change: %v", err)
	}
	var member struct {
		ID       uint64   `json:"id"`
		PeerURLs []string `json:"peerURLs"`
	}
	if err := json.Unmarshal(change.Context, &member); err != nil {
		t.Fatalf("the context of the membership change %q: %v", change.Context, err)
	}
	if change.GetType() != raftpb.ConfChangeAddNode || change.GetNodeId() != header.MemberId ||
		member.ID != header.MemberId || len(member.PeerURLs) != 1 {
		t.Errorf("the first entry does not add this member: %v, context %s", &change, change.Context)
	}
}

// requests decodes the ordinary entries, the empty ones of new leaders left out. A field that etcd doesn't know in a
// one-member cluster without the v2 API means that an etcd could not have written this log.
func requests(t *testing.T, entries []*raftpb.Entry) []*etcdserverpb.InternalRaftRequest {
	t.Helper()
	var decoded []*etcdserverpb.InternalRaftRequest
	for _, entry := range entries {
		if entry.GetType() != raftpb.EntryNormal || len(entry.Data) == 0 {
			continue
		}
		request := &etcdserverpb.InternalRaftRequest{}
		if err := proto.Unmarshal(entry.Data, request); err != nil {
			t.Fatalf("entry %d is no InternalRaftRequest: %v", entry.GetIndex(), err)
		}
		if unknown := request.ProtoReflect().GetUnknown(); len(unknown) != 0 {
			t.Fatalf("entry %d has fields that etcd does not know: %x", entry.GetIndex(), unknown)
		}
		decoded = append(decoded, request)
	}
	return decoded
}

// checkAcknowledged: each acknowledged put is in the log, with its value, in the order of the revisions.
func checkAcknowledged(t *testing.T, found contents, acknowledged []writers.Ack) {
	t.Helper()
	position := map[string]int{}
	values := map[string]string{}
	for at, request := range requests(t, found.entries) {
		if request.Put != nil {
			key := string(request.Put.Key)
			if _, twice := position[key]; twice {
				t.Errorf("%s is in the log twice", key)
			}
			position[key], values[key] = at, string(request.Put.Value)
		}
	}
	slices.SortFunc(acknowledged, func(a, b writers.Ack) int { return int(a.Revision - b.Revision) })
	lost, before := 0, -1
	for _, ack := range acknowledged {
		at, there := position[ack.Key]
		switch {
		case !there:
			if lost++; lost <= 5 {
				t.Errorf("%s, acknowledged at revision %d, is not in the log", ack.Key, ack.Revision)
			}
		case values[ack.Key] != writers.Value(ack.Key, loadValueBytes):
			t.Errorf("%s has another value in the log", ack.Key)
		case at <= before:
			t.Errorf("%s, acknowledged at revision %d, stands before a put of a lower revision", ack.Key, ack.Revision)
		default:
			before = at
		}
	}
	t.Logf("%d puts acknowledged, %d in the log, %d lost", len(acknowledged), len(position), lost)
}

// checkEtcdGoesOn opens a copy of the log as a starting etcd does, for writing, repaired if its end is torn, and
// appends an entry.
func checkEtcdGoesOn(t *testing.T, dir string) {
	t.Helper()
	before := read(t, dir)
	dir = copyOf(t, dir)
	log, err := wal.Open(zap.NewNop(), dir, before.snapshot)
	if err != nil {
		t.Fatalf("Open for writing: %v", err)
	}
	_, state, entries, err := log.ReadAll()
	if err != nil {
		log.Close()
		t.Logf("a torn end, which etcd repairs: %v", err)
		if !wal.Repair(zap.NewNop(), dir) {
			t.Fatal("Repair failed")
		}
		if log, err = wal.Open(zap.NewNop(), dir, before.snapshot); err != nil {
			t.Fatalf("Open for writing after Repair: %v", err)
		}
		if _, state, entries, err = log.ReadAll(); err != nil {
			t.Fatalf("ReadAll after Repair: %v", err)
		}
	}
	next := before.snapshot.GetIndex() + uint64(len(entries)) + 1
	added := entry(next, state.GetTerm(), raftpb.EntryNormal, []byte("by etcd"))
	if err := log.Save(state, []*raftpb.Entry{added}); err != nil {
		t.Fatalf("Save: %v", err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	after := read(t, dir)
	if len(after.entries) != len(entries)+1 || !proto.Equal(after.entries[len(entries)], added) {
		t.Errorf("etcd appended one entry to %d and then read %d", len(entries), len(after.entries))
	}
}
