package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"quorate/interop/cluster"
)

const (
	garbageConnections = 40
	exchangeTimeout    = 10 * time.Second
	// residentMax is what a member may come to hold while it is fed garbage.
	residentMax = 300 << 20
)

// stranger speaks to a member's peer port.
type stranger struct {
	t       *testing.T
	c       *cluster.Cluster
	target  *cluster.Member
	cluster uint64
	from    uint64
	to      uint64
	term    uint64
	applied uint64
}

// newStranger pretends to be another member than `target`.
func newStranger(t *testing.T, c *cluster.Cluster, target *cluster.Member) *stranger {
	t.Helper()
	s := &stranger{t: t, c: c, target: target}
	c.Eventually("the members tell who they are", func(ctx context.Context) error {
		own, err := target.Status(ctx)
		if err != nil {
			return err
		}
		s.cluster, s.to, s.term, s.applied = own.Header.ClusterId, own.Header.MemberId, own.RaftTerm, own.RaftAppliedIndex
		for _, m := range c.Members {
			if m != target {
				s.from, err = m.ID(ctx)
			}
		}
		return err
	})
	return s
}

// send makes a request with a member's headers, which `change` may change, and returns status and first line of the answer.
func (s *stranger) send(method, path string, body io.Reader, change func(http.Header)) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.target.ListenPeerURL+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	header := request.Header
	header.Set("X-Server-From", fmt.Sprintf("%x", s.from))
	header.Set("X-Server-Version", "3.7.1")
	header.Set("X-Min-Cluster-Version", "3.0.0")
	header.Set("X-Etcd-Cluster-Id", fmt.Sprintf("%x", s.cluster))
	header.Set("X-Raft-To", fmt.Sprintf("%x", s.to))
	if change != nil {
		change(header)
	}
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err != nil && len(text) == 0 {
		return answer.StatusCode, "", nil
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return answer.StatusCode, line, nil
}

func (s *stranger) expect(what string, status int, line string, method, path string, body io.Reader, change func(http.Header)) {
	s.t.Helper()
	gotStatus, gotLine, err := s.send(method, path, body, change)
	if err != nil || gotStatus != status || !strings.HasPrefix(gotLine, line) {
		s.t.Errorf("%s: %d %q (%v), expected %d %q", what, gotStatus, gotLine, err, status, line)
	}
}

// snapshotMessage is the begin of an upload: a MsgSnap as the leader would send it, of a state far ahead.
func (s *stranger) snapshotMessage(kind raftpb.MessageType) []byte {
	ids := []uint64{s.from, s.to}
	message := &raftpb.Message{
		Type: kind.Enum(), To: &s.to, From: &s.from, Term: &s.term,
		Snapshot: &raftpb.Snapshot{
			Data: []byte("{}"),
			Metadata: &raftpb.SnapshotMetadata{
				ConfState: &raftpb.ConfState{Voters: ids}, Index: proto.Uint64(s.applied + 1_000_000), Term: &s.term,
			},
		},
	}
	encoded, err := proto.Marshal(message)
	if err != nil {
		s.t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(len(encoded))), encoded...)
}

// cutReader gives what it has and then fails, so that a chunked body never comes to its end.
type cutReader struct{ rest io.Reader }

func (r cutReader) Read(buffer []byte) (int, error) {
	count, err := r.rest.Read(buffer)
	if err == io.EOF {
		err = fmt.Errorf("the sender dies")
	}
	return count, err
}

// Whoever speaks nonsense on a peer port, or the language of another cluster, or uploads half a snapshot or a hostile one,
// gets etcd's refusal or a cut connection. No member minds, nothing is lost, nothing stays behind.
func TestBadPeers(t *testing.T) {
	dice := rand.New(rand.NewPCG(drawSeed(t), 0))
	c := cluster.New(t, nil, cluster.Quorate, cluster.Quorate, cluster.Quorate)
	c.Start()
	load := cluster.StartLoad(cluster.NewGauge(c.Members), cluster.LoadOptions{Counters: 2, Others: 6, Think: 5 * time.Millisecond})
	leader := c.Leader()
	for _, target := range c.Members {
		s := newStranger(t, c, target)
		for range garbageConnections {
			s.garbage(dice)
		}
		s.foreigners()
		s.uploads(dice)
	}
	load.Finish(t)
	if now := c.Leader(); now != leader {
		t.Errorf("leadership went from %s to %s", leader, now)
	}
	c.EqualHashes()
	for _, m := range c.Members {
		noUploads(t, m)
		smallEnough(t, m)
	}
}

// garbage is what port scanners, broken proxies and other protocols send.
func (s *stranger) garbage(dice *rand.Rand) {
	s.t.Helper()
	connection, err := net.Dial("tcp", strings.TrimPrefix(s.target.ListenPeerURL, "http://"))
	if err != nil {
		s.t.Errorf("%s does not listen any more: %v", s.target, err)
		return
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(exchangeTimeout))
	noise := make([]byte, 1+dice.IntN(100_000))
	for index := range noise {
		noise[index] = byte(dice.Uint32())
	}
	openings := []string{
		"", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /raft/stream/message/1 HTTP/1.1\r\n",
		"POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"GET /" + strings.Repeat("a", 70_000) + " HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 2000),
	}
	connection.Write(append([]byte(openings[dice.IntN(len(openings))]), noise...))
	if dice.IntN(2) == 0 {
		// Some wait for an answer, as long as they get one; the others go at once.
		connection.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, connection)
	}
}

// foreigners speak the protocol, of another cluster, another version, as somebody unknown.
func (s *stranger) foreigners() {
	s.t.Helper()
	set := func(name, value string) func(http.Header) {
		return func(header http.Header) { header.Set(name, value) }
	}
	own := fmt.Sprintf("/raft/stream/message/%x", s.from)
	s.expect("stream of another cluster", 412, "cluster ID mismatch", "GET", own, nil, set("X-Etcd-Cluster-Id", "dead"))
	s.expect("stream of an old version", 412, "incompatible version", "GET", own, nil, set("X-Server-Version", "2.3.8"))
	s.expect("stream of a new one", 412, "incompatible version", "GET", own, nil, set("X-Min-Cluster-Version", "4.0.0"))
	s.expect("stream of nobody", 404, "error sender not found", "GET", "/raft/stream/message/4711", nil, nil)
	s.expect("stream to another", 412, "to field mismatch", "GET", own, nil, set("X-Raft-To", "4711"))
	s.expect("post of another cluster", 412, "cluster ID mismatch", "POST", "/raft", strings.NewReader("x"), set("X-Etcd-Cluster-Id", "dead"))
	s.expect("post of noise", 400, "error unmarshalling raft message", "POST", "/raft", strings.NewReader("\xff\xff\xff"), nil)
	elsewhere, err := proto.Marshal(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), To: proto.Uint64(4711), From: &s.from, Term: &s.term})
	if err != nil {
		s.t.Fatal(err)
	}
	s.expect("post to another", 500, "error processing raft message", "POST", "/raft", bytes.NewReader(elsewhere), nil)
	s.expect("snapshot of another cluster", 412, "cluster ID mismatch", "POST", "/raft/snapshot", strings.NewReader("x"), set("X-Etcd-Cluster-Id", "dead"))
}

// uploads are snapshots that are none: cut at every point, or whole and hostile.
func (s *stranger) uploads(dice *rand.Rand) {
	s.t.Helper()
	const path = "/raft/snapshot"
	message := s.snapshotMessage(raftpb.MsgSnap)
	s.expect("upload of another message", 400, "wrong raft message type", "POST", path, bytes.NewReader(s.snapshotMessage(raftpb.MsgHeartbeat)), nil)
	s.expect("upload that ends in its message", 400, "failed to decode raft message", "POST", path, bytes.NewReader(message[:len(message)/2]), nil)
	huge := append(bytes.Repeat([]byte{0xff}, 8), message...)
	s.expect("upload of a message without end", 400, "failed to decode raft message", "POST", path, bytes.NewReader(huge), nil)
	s.expect("upload without a database", 500, "", "POST", path, bytes.NewReader(message), nil)

	database := s.database()
	for range 5 {
		s.send("POST", path, cutReader{bytes.NewReader(append(bytes.Clone(message), database[:dice.IntN(len(database))]...))}, nil)
	}
	// Only so many are received at a time, and it takes a moment to notice that a sender is gone.
	time.Sleep(200 * time.Millisecond)
	short := append(bytes.Clone(message), database[:4096*(1+dice.IntN(len(database)/4096-1))]...)
	s.expect("upload of a truncated database", 500, "", "POST", path, bytes.NewReader(short), nil)
	noise := bytes.Repeat([]byte{0xa5, 0x5a, 0x00}, 100_000)
	s.expect("upload of noise", 500, "", "POST", path, bytes.NewReader(append(bytes.Clone(message), noise...)), nil)
	for range 5 {
		damaged := bytes.Clone(database)
		// Pages 0 and 1 say where everything is: the damage is to come behind them as well.
		for range 200 {
			damaged[dice.IntN(len(damaged))] ^= byte(1 + dice.IntN(255))
		}
		s.expect("upload of a damaged database", 500, "", "POST", path, bytes.NewReader(append(bytes.Clone(message), damaged...)), nil)
	}
	s.expect("upload of a database of something else", 500, "", "POST", path, bytes.NewReader(append(bytes.Clone(message), database...)), nil)
}

// database is a sound bbolt file that is no etcd's.
func (s *stranger) database() []byte {
	path := filepath.Join(s.t.TempDir(), "bolt.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "meta", "lease", "members"} {
			bucket, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for number := range 500 {
				if err := bucket.Put(fmt.Appendf(nil, "%06d", number), bytes.Repeat([]byte("v"), number)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return content
}

// noUploads demands that nothing of an upload lies in the member's directory any more: a later snapshot of the same index
// would be taken for received.
func noUploads(t *testing.T, m *cluster.Member) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.DataDir, "member", "snap", "*.snap*"))
	if err != nil || len(found) > 0 {
		t.Errorf("%s keeps %v (%v)", m, found, err)
	}
}

func smallEnough(t *testing.T, m *cluster.Member) {
	t.Helper()
	resident, err := m.ResidentBytes()
	if err != nil || resident > residentMax {
		t.Errorf("%s holds %d MiB (%v), the limit is %d MiB", m, resident>>20, err, residentMax>>20)
	}
}

// One of three founding members answers nonsense to whatever the others ask of it, be it a stream of frames that never end.
// The other two are a majority and do not mind.
func TestMemberThatAnswersGarbage(t *testing.T) {
	dice := drawSeed(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var served atomic.Int64
	go babble(listener, rand.New(rand.NewPCG(dice, 0)), &served)
	c := cluster.New(t, nil, cluster.Quorate, cluster.Quorate)
	c.Phantom("http://" + listener.Addr().String())
	c.Start()
	load := cluster.StartLoad(cluster.NewGauge(c.Members), cluster.LoadOptions{Counters: 2, Others: 6, Think: 5 * time.Millisecond})
	leader := c.Leader()
	time.Sleep(time.Duration(rounds(3, 30)) * time.Second)
	load.Finish(t)
	if now := c.Leader(); now != leader {
		t.Errorf("leadership went from %s to %s", leader, now)
	}
	if served.Load() < 20 {
		t.Errorf("the babbler was asked only %d times", served.Load())
	}
	t.Logf("nonsense was answered %d times", served.Load())
	c.EqualHashes()
	for _, m := range c.Members {
		smallEnough(t, m)
	}
}

// babble answers every connection with something else that is wrong.
func babble(listener net.Listener, dice *rand.Rand, served *atomic.Int64) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		served.Add(1)
		noise := make([]byte, dice.IntN(200_000))
		for index := range noise {
			noise[index] = byte(dice.Uint32())
		}
		const ok = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n"
		answers := [][]byte{
			noise,
			append([]byte(ok), noise...),
			fmt.Appendf([]byte(ok), "%x\r\n%s\r\n", len(noise), noise),
			// A frame of nearly 2^63 bytes.
			append([]byte(ok), "10\r\n\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\r\n"...),
			// A million empty entries.
			append([]byte(ok), "9\r\n\x01\x00\x00\x00\x00\x00\x0f\x42\x40\r\n"...),
			[]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 999 x\r\n\r\n"),
			nil,
		}
		answer := answers[dice.IntN(len(answers))]
		go func() {
			defer connection.Close()
			connection.SetDeadline(time.Now().Add(exchangeTimeout))
			connection.Read(make([]byte, 4096))
			connection.Write(answer)
		}()
	}
}
