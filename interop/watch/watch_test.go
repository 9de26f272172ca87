// Package watch asks etcd 3.7 and the server under test the same of their watch streams, step by step, and compares every field of
// every answer. Only ids of cluster and member and the term are masked. What one step brings is compared as a set in the order of
// watch ids, since etcd tells the watches of a stream in no order; the answers of one watch keep theirs.
//
//	QUORATE_SERVER   the server under test
//	QUORATE_ETCD37   etcd 3.7's server
//	QUORATE_INTEROP_FULL   set: more generated steps
package watch

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"quorate/interop/daemon"
)

// etcd looks after watchers that are behind every 100 ms; a step is over when nothing has come for longer than that.
const quiet = 180 * time.Millisecond

// server is one of the two, and its streams.
type server struct {
	name    string
	kv      etcdserverpb.KVClient
	watch   etcdserverpb.WatchClient
	streams map[string]*stream
}

type stream struct {
	client  etcdserverpb.Watch_WatchClient
	cancel  context.CancelFunc
	answers chan string
	ids     chan int64
}

// both starts the two servers.
func both(t *testing.T) [2]*server {
	ours := daemon.New(t)
	ours.Start(t)
	reference := daemon.StartEtcd37(t)
	return [2]*server{connect(t, "etcd", reference), connect(t, "quorate", ours.Endpoint)}
}

func connect(t *testing.T, name, endpoint string) *server {
	conn := daemon.Dial(t, endpoint)
	s := &server{name: name, kv: etcdserverpb.NewKVClient(conn), watch: etcdserverpb.NewWatchClient(conn), streams: map[string]*stream{}}
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := s.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("x")}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

// stream opens the stream of that name, if it is not open. Names that begin with "leader" want one.
func (s *server) stream(t *testing.T, name string) *stream {
	if known, ok := s.streams[name]; ok {
		return known
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if strings.HasPrefix(name, "leader") {
		ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	client, err := s.watch.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	opened := &stream{client: client, cancel: cancel, answers: make(chan string, 1<<20), ids: make(chan int64, 1<<20)}
	go func() {
		for {
			answer, err := client.Recv()
			if err != nil {
				if ctx.Err() == nil {
					opened.ids <- 1 << 40
					opened.answers <- fmt.Sprintf("ended: %v", err)
				}
				return
			}
			opened.ids <- answer.WatchId
			opened.answers <- show(answer)
		}
	}()
	s.streams[name] = opened
	return opened
}

// said is what has come on the stream, sorted by watch, once nothing comes any more.
func (s *stream) said() []string {
	type line struct {
		id   int64
		text string
	}
	var lines []line
	for {
		select {
		case id := <-s.ids:
			lines = append(lines, line{id, <-s.answers})
			continue
		case <-time.After(quiet):
		}
		break
	}
	sort.SliceStable(lines, func(i, j int) bool { return lines[i].id < lines[j].id })
	var texts []string
	for _, each := range lines {
		texts = append(texts, each.text)
	}
	return texts
}

func show(answer *etcdserverpb.WatchResponse) string {
	var text strings.Builder
	header := answer.Header
	fmt.Fprintf(&text, "id=%d revision=%d", answer.WatchId, header.GetRevision())
	if header.GetClusterId() == 0 || header.GetMemberId() == 0 || header.GetRaftTerm() == 0 {
		text.WriteString(" incomplete header")
	}
	fmt.Fprintf(&text, " created=%t canceled=%t compact=%d reason=%q fragment=%t events=%d",
		answer.Created, answer.Canceled, answer.CompactRevision, answer.CancelReason, answer.Fragment, len(answer.Events))
	for number, event := range answer.Events {
		if number == 40 {
			text.WriteString(" ...")
			break
		}
		fmt.Fprintf(&text, " [%v %s", event.Type, showKV(event.Kv))
		if event.PrevKv != nil {
			fmt.Fprintf(&text, " was %s", showKV(event.PrevKv))
		}
		text.WriteString("]")
	}
	if last := len(answer.Events) - 1; last >= 40 {
		fmt.Fprintf(&text, " last %s", showKV(answer.Events[last].Kv))
	}
	return text.String()
}

func showKV(kv *mvccpb.KeyValue) string {
	value := string(kv.Value)
	if len(value) > 20 {
		value = fmt.Sprintf("%d bytes", len(value))
	}
	return fmt.Sprintf("%q=%q create=%d mod=%d version=%d lease=%d", kv.Key, value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

// step is something that both servers are asked, and the streams on which answers may come.
type step struct {
	name string
	do   func(t *testing.T, s *server)
}

func put(pairs ...string) step {
	return step{"put " + strings.Join(pairs, " "), func(t *testing.T, s *server) {
		for _, pair := range pairs {
			key, value, _ := strings.Cut(pair, "=")
			if _, err := s.kv.Put(context.Background(), &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
				t.Fatal(err)
			}
		}
	}}
}

func putOp(key, value string) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func deleteOp(key string) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key)}}}
}

func txn(name string, ops ...*etcdserverpb.RequestOp) step {
	return step{"txn " + name, func(t *testing.T, s *server) {
		if _, err := s.kv.Txn(context.Background(), &etcdserverpb.TxnRequest{Success: ops}); err != nil {
			t.Fatal(err)
		}
	}}
}

func del(key, end string) step {
	return step{fmt.Sprintf("delete %q %q", key, end), func(t *testing.T, s *server) {
		if _, err := s.kv.DeleteRange(context.Background(), &etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}); err != nil {
			t.Fatal(err)
		}
	}}
}

func compact(revision int64) step {
	return step{fmt.Sprintf("compact %d", revision), func(t *testing.T, s *server) {
		// One that fails, fails on both.
		s.kv.Compact(context.Background(), &etcdserverpb.CompactionRequest{Revision: revision, Physical: true})
	}}
}

func send(name, stream string, request *etcdserverpb.WatchRequest) step {
	return step{name + " on " + stream, func(t *testing.T, s *server) {
		if err := s.stream(t, stream).client.Send(request); err != nil {
			t.Fatal(err)
		}
	}}
}

func create(stream string, request *etcdserverpb.WatchCreateRequest) step {
	text := fmt.Sprintf("create %q %q rev=%d id=%d filters=%v prev=%t notify=%t fragment=%t", request.Key, request.RangeEnd, request.StartRevision,
		request.WatchId, request.Filters, request.PrevKv, request.ProgressNotify, request.Fragment)
	return send(text, stream, &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: request}})
}

func cancel(stream string, id int64) step {
	return send(fmt.Sprintf("cancel %d", id), stream, &etcdserverpb.WatchRequest{
		RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: id}}})
}

func progress(stream string) step {
	return send("progress", stream, &etcdserverpb.WatchRequest{
		RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
}

func on(key, end string) *etcdserverpb.WatchCreateRequest {
	return &etcdserverpb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func from(revision int64, request *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchCreateRequest {
	request.StartRevision = revision
	return request
}

func as(id int64, request *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchCreateRequest {
	request.WatchId = id
	return request
}

func with(request *etcdserverpb.WatchCreateRequest, filters ...etcdserverpb.WatchCreateRequest_FilterType) *etcdserverpb.WatchCreateRequest {
	request.Filters = filters
	request.PrevKv = true
	return request
}

// compare takes both servers through the steps; returns how many answers there were.
func compare(t *testing.T, servers [2]*server, steps []step) int {
	answers := 0
	for number, each := range steps {
		said := make([]chan []string, 2)
		for i, s := range servers {
			each.do(t, s)
			said[i] = make(chan []string, 1)
		}
		for i, s := range servers {
			go func() {
				var all []string
				var names []string
				for name := range s.streams {
					names = append(names, name)
				}
				sort.Strings(names)
				results := make(map[string]chan []string)
				for _, name := range names {
					results[name] = make(chan []string, 1)
					go func() { results[name] <- s.streams[name].said() }()
				}
				for _, name := range names {
					for _, line := range <-results[name] {
						all = append(all, name+": "+line)
					}
				}
				said[i] <- all
			}()
		}
		theirs, ours := <-said[0], <-said[1]
		answers += len(ours)
		if strings.Join(theirs, "\n") != strings.Join(ours, "\n") {
			t.Fatalf("step %d, %s:\netcd says\n  %s\nquorate says\n  %s", number, each.name, strings.Join(theirs, "\n  "), strings.Join(ours, "\n  "))
		}
	}
	return answers
}

const (
	noPut    = etcdserverpb.WatchCreateRequest_NOPUT
	noDelete = etcdserverpb.WatchCreateRequest_NODELETE
)

func TestStepByStep(t *testing.T) {
	t.Parallel()
	answers := compare(t, both(t), []step{
		progress("s"),
		create("s", on("a", "")),
		create("s", on("a", "c")),
		create("s", on("b", "\x00")),
		create("s", on("", "")),
		create("s", on("", "\x00")),
		create("leader", on("a", "")),
		put("a=1", "b=1", "d=1"),
		txn("a, c, not b", putOp("a", "2"), putOp("c", "1"), deleteOp("b")),
		del("a", "z"),
		progress("s"),
		cancel("s", 1),
		cancel("s", 1),
		cancel("s", 77),
		create("s", as(1, on("x", ""))),
		create("s", as(1, on("x", ""))),
		create("s", as(9, on("x", ""))),
		create("s", as(-1, on("x", ""))),
		create("s", as(-1, on("x", ""))),
		create("s", on("b", "a")),
		create("s", on("b", "b")),
		create("s", as(9, on("b", "b"))),
		create("s", from(-1, on("a", ""))),
		create("s", from(-5, on("b", "a"))),
		create("s", from(1<<62, on("a", ""))),
		put("x=1"),
		progress("s"),
		cancel("s", -1),
		send("nothing", "s", &etcdserverpb.WatchRequest{}),
		put("x=2"),
	})
	t.Logf("%d answers are equal", answers)
}

func TestThePast(t *testing.T) {
	t.Parallel()
	steps := []step{
		put("a=1", "b=1", "a=2", "c=1", "a=3"),
		del("a", ""),
		put("a=4", "b=2"),
		create("s", from(1, on("a", ""))),
		create("s", from(3, with(on("", "\x00")))),
		create("s", from(3, with(on("", "\x00"), noPut))),
		create("s", from(3, with(on("", "\x00"), noDelete))),
		create("s", from(3, with(on("", "\x00"), noDelete, noPut))),
		create("s", from(9, on("a", "z"))),
		create("s", from(10, on("a", "z"))),
		create("s", from(12, on("a", "z"))),
		progress("s"),
		put("a=5"),
		progress("s"),
		put("a=6", "a=7"),
		progress("s"),
		compact(7),
		create("s", from(6, on("a", ""))),
		create("s", from(7, on("a", ""))),
		create("s", as(50, from(1, on("a", "")))),
		progress("s"),
		create("s", as(50, on("a", ""))),
		cancel("s", 50),
		create("s", as(50, on("a", ""))),
		progress("s"),
		cancel("s", 8),
		progress("s"),
		create("s", from(7, with(on("a", "z")))),
		create("s", from(8, with(on("a", "z")))),
		compact(12),
		put("a=8"),
		create("s", from(12, with(on("a", "z")))),
		create("t", from(11, on("q", ""))),
		create("t", on("q", "")),
		progress("t"),
	}
	t.Logf("%d answers are equal", compare(t, both(t), steps))
}

func TestLongHistories(t *testing.T) {
	t.Parallel()
	var puts []string
	for i := 0; i < 2500; i++ {
		puts = append(puts, fmt.Sprintf("k%d=%d", i%3, i))
	}
	steps := []step{
		put(puts...),
		create("s", from(1, on("k0", ""))),
		create("s", from(2, on("k", "l"))),
		create("s", from(700, with(on("k1", "\x00"), noDelete))),
		create("s", from(1501, on("k", "l"))),
		create("s", from(1502, on("k", "l"))),
		create("s", from(1503, on("k", "l"))),
	}
	t.Logf("%d answers are equal", compare(t, both(t), steps))
}

func TestFragments(t *testing.T) {
	t.Parallel()
	value := func(bytes int) string { return strings.Repeat("x", bytes) }
	fragment := func(request *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchCreateRequest {
		request.Fragment = true
		return request
	}
	var small []*etcdserverpb.RequestOp
	for i := 0; i < 10; i++ {
		small = append(small, putOp(fmt.Sprintf("k%d", i), value(140_000)))
	}
	steps := []step{
		create("s", fragment(on("k", "l"))),
		create("s", on("k", "l")),
		create("s", fragment(with(on("k", "l")))),
		txn("1.4 MB", small...),
		txn("1.4 MB again, 2.8 MB with what was there before", small...),
		put("k=" + value(1_000_000)),
		put("k=" + value(1_000_000)),
		create("s", fragment(from(2, on("k", "l")))),
		create("s", fragment(with(from(2, on("k", "l"))))),
	}
	t.Logf("%d answers are equal", compare(t, both(t), steps))
}

func TestGenerated(t *testing.T) {
	t.Parallel()
	count := 120
	if os.Getenv("QUORATE_INTEROP_FULL") != "" {
		count = 1500
	}
	dice := rand.New(rand.NewSource(6))
	revision, compacted := int64(1), int64(0)
	key := func() string { return string(rune('a' + dice.Intn(5))) }
	streamOf := func() string { return []string{"s", "t", "leader"}[dice.Intn(3)] }
	var steps []step
	for len(steps) < count {
		switch draw := dice.Intn(20); {
		case draw < 7:
			var pairs []string
			for i := dice.Intn(3); i >= 0; i-- {
				pairs = append(pairs, fmt.Sprintf("%s=%d", key(), len(steps)))
				revision++
			}
			steps = append(steps, put(pairs...))
		case draw < 9:
			first, second := key(), key()+"x"
			steps = append(steps, txn(first+", "+second, putOp(first, "t"), putOp(second, "t")))
			revision++
		case draw < 10:
			steps = append(steps, put("e=1"), del("e", "\x00"))
			revision += 2
		case draw < 16:
			request := on(key(), []string{"", "", "\x00", "c", "e"}[dice.Intn(5)])
			if dice.Intn(2) == 0 {
				request.StartRevision = max(1, revision-int64(dice.Intn(30))+3)
			}
			if dice.Intn(4) == 0 {
				request.WatchId = int64(dice.Intn(6))
			}
			request.PrevKv = dice.Intn(2) == 0
			request.Fragment = dice.Intn(3) == 0
			if dice.Intn(4) == 0 {
				request.Filters = append(request.Filters, etcdserverpb.WatchCreateRequest_FilterType(dice.Intn(2)))
			}
			steps = append(steps, create(streamOf(), request))
		case draw < 18:
			steps = append(steps, cancel(streamOf(), int64(dice.Intn(12))))
		case draw < 19:
			steps = append(steps, progress(streamOf()))
		default:
			if at := revision - int64(dice.Intn(10)); at > compacted {
				steps = append(steps, compact(at))
				compacted = at
			}
		}
	}
	t.Logf("%d steps, %d answers are equal", len(steps), compare(t, both(t), steps))
}
