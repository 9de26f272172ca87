package wal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

const segmentBytes = 64 << 10

// dumped is a line of wal_dump, quorate's reader: `{"index":1,"term":1,"type":0,"data_hex":"00ff"}`. The type is the
// number of raftpb.EntryType.
type dumped struct {
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	Type    int32  `json:"type"`
	DataHex string `json:"data_hex"`
}

func (d dumped) String() string {
	data := d.DataHex
	if len(data) > 64 {
		data = fmt.Sprintf("%s... (%d bytes)", data[:64], len(data)/2)
	}
	return fmt.Sprintf("index %d term %d type %d data %s", d.Index, d.Term, d.Type, data)
}

// The whole of the format: metadata, several segments, an entry larger than a segment, empty data, every kind of
// entry, hard states, a snapshot record in the middle.
func TestQuorateReadsALogOfSeveralSegments(t *testing.T) {
	dir, log := create(t)
	var all []*raftpb.Entry
	for index := uint64(1); index <= 200; index++ {
		all = append(all, sample(index, 1+index/80))
	}
	save(t, log, all[:1], 0)
	for first := 1; first < len(all); first += 7 {
		last := min(first+7, len(all))
		save(t, log, all[first:last], uint64(first))
		if first == 99 {
			saveSnapshot(t, log, all[first])
		}
	}
	closed(t, log)
	if found := len(segments(t, dir)); found < 4 {
		t.Fatalf("the test wants several segments, there are %d", found)
	}
	checkDump(t, dir, all)
}

// A follower's log after a change of leader: later records replace the end of earlier ones.
func TestQuorateReadsALogWithAReplacedEnd(t *testing.T) {
	dir, log := create(t)
	var first, second []*raftpb.Entry
	for index := uint64(1); index <= 60; index++ {
		first = append(first, sample(index, 1))
	}
	for index := uint64(41); index <= 50; index++ {
		second = append(second, sample(index, 2))
	}
	save(t, log, first, 40)
	save(t, log, second, 41)
	closed(t, log)
	checkDump(t, dir, append(slices.Clone(first[:40]), second...))
}

// As a kill leaves it: not closed, the rest of the segment zeros.
func TestQuorateReadsALogThatWasNotClosed(t *testing.T) {
	dir, log := create(t)
	var all []*raftpb.Entry
	for index := uint64(1); index <= 20; index++ {
		all = append(all, sample(index, 1))
		save(t, log, all[index-1:], index-1)
	}
	if err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	checkDump(t, copyOf(t, dir), all)
	closed(t, log)
}

// As a power cut leaves it: the last record's later sectors never reached the disk. What stands before is whole.
func TestQuorateReadsALogWithATornEnd(t *testing.T) {
	dir, log := create(t)
	var all []*raftpb.Entry
	for index := uint64(1); index <= 20; index++ {
		all = append(all, entry(index, 1, raftpb.EntryNormal, bytes.Repeat([]byte{0xab}, 5000)))
	}
	save(t, log, all[:3], 0)
	save(t, log, all[3:4], 3)
	closed(t, log)
	path := segments(t, dir)[0]
	content := must(os.ReadFile(path))(t)
	end := bytes.LastIndexByte(content, 0xab)
	tear := (end - 2000) &^ 511 // a sector's border within the last entry
	clear(content[tear:])
	write(t, path, content)
	checkDump(t, dir, all[:3])
}

// One byte of an old segment has changed: that was durable, so the reader must refuse, name the file, change nothing.
func TestQuorateRefusesADamagedLog(t *testing.T) {
	dir, log := create(t)
	for index := uint64(1); index <= 200; index++ {
		save(t, log, []*raftpb.Entry{sample(index, 1)}, index-1)
	}
	closed(t, log)
	path := segments(t, dir)[1]
	content := must(os.ReadFile(path))(t)
	content[len(content)/3] ^= 0x40
	write(t, path, content)
	before := must(contentOf(dir))(t)

	output, err := dump(t, dir)
	if err == nil {
		t.Fatalf("a damaged log was read without an error: %d lines", len(output))
	}
	if !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("the error does not name the damaged file %s: %v", filepath.Base(path), err)
	}
	if after := must(contentOf(dir))(t); after != before {
		t.Errorf("the damaged log was changed: before\n%s\nafter\n%s", before, after)
	}
}

func create(t *testing.T) (string, *wal.WAL) {
	t.Helper()
	kept := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = segmentBytes
	t.Cleanup(func() { wal.SegmentSizeBytes = kept })
	dir := filepath.Join(t.TempDir(), "wal")
	metadata := must(proto.Marshal(&etcdserverpb.Metadata{NodeID: new(uint64(0xb5179d13d0285315)), ClusterID: new(uint64(77))}))(t)
	return dir, must(wal.Create(zap.NewNop(), dir, metadata))(t)
}

func entry(index, term uint64, kind raftpb.EntryType, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: &term, Type: &kind, Data: data}
}

// sample makes entries as a cluster has them: the first adds the member, then puts of many lengths, some empty entries
// of new leaders, one larger than a segment.
func sample(index, term uint64) *raftpb.Entry {
	switch {
	case index == 1:
		change := &raftpb.ConfChange{
			Type: new(raftpb.ConfChangeAddNode), NodeId: new(uint64(0xb5179d13d0285315)),
			Context: []byte(`{"id":13049071153751544597,"peerURLs":["http://127.0.0.1:2380"]}`),
		}
		data, err := proto.Marshal(change)
		if err != nil {
			panic(err)
		}
		return entry(index, term, raftpb.EntryConfChange, data)
	case index%40 == 0:
		return entry(index, term, raftpb.EntryNormal, nil)
	}
	length := int(index*index*7%3001) + int(index%8)
	if index == 150 {
		length = segmentBytes + 1234
	}
	value := make([]byte, length)
	for at := range value {
		value[at] = byte(uint64(at)*index + term)
	}
	request := &etcdserverpb.InternalRaftRequest{
		Header: &etcdserverpb.RequestHeader{ID: index<<8 | term},
		Put:    &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "key/%d", index), Value: value},
	}
	data, err := proto.Marshal(request)
	if err != nil {
		panic(err)
	}
	return entry(index, term, raftpb.EntryNormal, data)
}

func save(t *testing.T, log *wal.WAL, entries []*raftpb.Entry, commit uint64) {
	t.Helper()
	state := &raftpb.HardState{Term: entries[len(entries)-1].Term, Vote: new(uint64(0xb5179d13d0285315)), Commit: &commit}
	if err := log.Save(state, entries); err != nil {
		t.Fatal(err)
	}
}

func saveSnapshot(t *testing.T, log *wal.WAL, at *raftpb.Entry) {
	t.Helper()
	mark := &walpb.Snapshot{Index: at.Index, Term: at.Term, ConfState: &raftpb.ConfState{Voters: []uint64{0xb5179d13d0285315}}}
	if err := log.SaveSnapshot(mark); err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, log *wal.WAL) {
	t.Helper()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// dump runs quorate's reader on a log. The error holds what it printed to standard error.
func dump(t *testing.T, dir string) ([]dumped, error) {
	t.Helper()
	program := os.Getenv("QUORATE_WAL_DUMP")
	if program == "" {
		t.Fatal("QUORATE_WAL_DUMP must name the program that lists a log (target/release/examples/wal_dump)")
	}
	var stdout, stderr bytes.Buffer
	command := exec.Command(program, dir)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if _, ran := err.(*exec.ExitError); !ran {
			t.Fatal(err)
		}
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var entries []dumped
	lines := json.NewDecoder(&stdout)
	lines.DisallowUnknownFields()
	for lines.More() {
		var one dumped
		if err := lines.Decode(&one); err != nil {
			t.Fatalf("%s printed something that is no entry: %v", program, err)
		}
		entries = append(entries, one)
	}
	return entries, nil
}

// checkDump compares quorate's list with what was saved, having made sure that etcd's own package finds the same.
func checkDump(t *testing.T, dir string, saved []*raftpb.Entry) {
	t.Helper()
	var want []dumped
	for _, each := range saved {
		want = append(want, dumped{each.GetIndex(), each.GetTerm(), int32(each.GetType()), hex.EncodeToString(each.Data)})
	}
	start := &walpb.Snapshot{Index: new(uint64(0)), Term: new(uint64(0))}
	log := must(wal.OpenForRead(zap.NewNop(), dir, start))(t)
	_, _, entries, err := log.ReadAll()
	log.Close()
	if err != nil || !slices.EqualFunc(entries, saved, func(a, b *raftpb.Entry) bool { return proto.Equal(a, b) }) {
		t.Fatalf("the test itself is wrong: etcd's package finds %d entries of %d (%v)", len(entries), len(saved), err)
	}
	got, err := dump(t, dir)
	if err != nil {
		t.Fatalf("quorate can't read the log: %v", err)
	}
	for at := range max(len(got), len(want)) {
		switch {
		case at >= len(got):
			t.Fatalf("quorate lists %d entries of %d", len(got), len(want))
		case at >= len(want):
			t.Fatalf("quorate lists an entry too many: %v", got[at])
		case got[at] != want[at]:
			t.Fatalf("entry number %d\n got %v\nwant %v", at+1, got[at], want[at])
		}
	}
}

// contentOf names each file of a directory with its length and a sum of its bytes.
func contentOf(dir string) (string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var lines []string
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return "", err
		}
		sum := 0
		for at, each := range content {
			sum += (at + 1) * int(each)
		}
		lines = append(lines, fmt.Sprintf("%s %d bytes, sum %x", file.Name(), len(content), sum))
	}
	return strings.Join(lines, "\n"), nil
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// must is for calls whose failure means that the test itself can't run.
func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
