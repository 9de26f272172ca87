package watch

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/interop/daemon"
)

const (
	loadConnections = 20
	loadStreams     = 5
	loadWatches     = 100
)

// Ten thousand watches, and a thousand events for each: none lost, none twice, none out of order. One more stream, with as many
// watches as the others, reads nothing until all is over; what that costs the others is the time of the second round.
func TestTenThousandWatches(t *testing.T) {
	events := 100
	if os.Getenv("QUORATE_INTEROP_FULL") != "" {
		events = 1000
	}
	server := daemon.New(t)
	server.Start(t)
	before := server.MemoryMiB(t)
	var streams []etcdserverpb.Watch_WatchClient
	for i := 0; i < loadConnections; i++ {
		client := etcdserverpb.NewWatchClient(daemon.Dial(t, server.Endpoint))
		for j := 0; j < loadStreams; j++ {
			streams = append(streams, openLoad(t, client))
		}
	}
	t.Logf("%d watches: %.0f MiB, %.0f before", loadConnections*loadStreams*loadWatches, server.MemoryMiB(t), before)
	kv := etcdserverpb.NewKVClient(daemon.Dial(t, server.Endpoint))

	revision := int64(1)
	round := func(name string) {
		start := time.Now()
		var readers sync.WaitGroup
		for _, stream := range streams {
			readers.Add(1)
			go func() {
				defer readers.Done()
				if err := readLoad(stream, revision+1, events); err != nil {
					t.Error(err)
				}
			}()
		}
		for i := 0; i < events; i++ {
			put := &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte(strings.Repeat("x", 100))}
			if _, err := kv.Put(context.Background(), put); err != nil {
				t.Fatal(err)
			}
		}
		readers.Wait()
		revision += int64(events)
		told := len(streams) * loadWatches * events
		took := time.Since(start)
		t.Logf("%s: %d events in %.1f s, %.0f a second, %.0f MiB", name, told, took.Seconds(), float64(told)/took.Seconds(), server.MemoryMiB(t))
	}
	round("all read")
	silent := openLoad(t, etcdserverpb.NewWatchClient(daemon.Dial(t, server.Endpoint)))
	round("one stream more, which nobody reads")
	if err := readLoad(silent, revision-int64(events)+1, events); err != nil {
		t.Errorf("the one that read late: %v", err)
	}
}

func openLoad(t *testing.T, client etcdserverpb.WatchClient) etcdserverpb.Watch_WatchClient {
	stream, err := client.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < loadWatches; i++ {
		request := &etcdserverpb.WatchCreateRequest{Key: []byte("k")}
		if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < loadWatches; i++ {
		if answer, err := stream.Recv(); err != nil || !answer.Created {
			t.Fatalf("no watch %d: %v, %v", i, answer, err)
		}
	}
	return stream
}

// readLoad reads until every watch of the stream was told `events` revisions from `first` on.
func readLoad(stream etcdserverpb.Watch_WatchClient, first int64, events int) error {
	next := make([]int64, loadWatches)
	for i := range next {
		next[i] = first
	}
	for left := loadWatches * events; left > 0; {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, event := range answer.Events {
			if event.Kv.ModRevision != next[answer.WatchId] {
				return fmt.Errorf("watch %d was told of %d instead of %d", answer.WatchId, event.Kv.ModRevision, next[answer.WatchId])
			}
			next[answer.WatchId]++
			left--
		}
	}
	return nil
}
