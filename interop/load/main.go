// Command load is the part of durability.py that has to be fast: it fills a server, writes to it until it dies, waits
// for it to answer again, and looks for everything that had been acknowledged.
//
//	load fill   -endpoint URL -prefix P -keys N
//	load write  -endpoint URL -prefix P -writers N -acks FILE   until the server fails every writer
//	load await  -endpoint URL -key K                            until a linearizable get finds K
//	load verify -endpoint URL -prefix P -acks FILE
//	load count  -endpoint URL -prefix P
//
// Each prints one JSON object on its last line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/interop/writers"
)

const (
	fillBatchKeys  = 100 // below the server's limit of 128 operations a transaction
	fillInParallel = 8
	pageKeys       = 5000
	shownMax       = 5
	awaitPause     = 2 * time.Millisecond
	awaitTimeout   = 60 * time.Second
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: load fill|write|await|verify|count FLAGS")
	}
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "client URL of the server")
	prefix := flags.String("prefix", "", "prefix of the keys")
	keys := flags.Int("keys", 0, "how many keys to fill in")
	count := flags.Int("writers", 64, "writers at the same time")
	valueBytes := flags.Int("value-bytes", 256, "length of each value")
	acks := flags.String("acks", "", "file of acknowledged puts, one a line: key, tab, revision")
	key := flags.String("key", "", "key to wait for")
	flags.Parse(os.Args[2:])

	ctx := context.Background()
	var result any
	var err error
	switch os.Args[1] {
	case "fill":
		result, err = fill(ctx, *endpoint, *prefix, *keys, *valueBytes)
	case "write":
		options := writers.Options{
			Endpoint: *endpoint, Prefix: *prefix, Writers: *count, ValueBytes: *valueBytes, PerConnection: 8,
		}
		result, err = write(ctx, options, *acks)
	case "await":
		result, err = await(ctx, *endpoint, *key)
	case "verify":
		result, err = verify(ctx, *endpoint, *prefix, *acks, *valueBytes)
	case "count":
		result, err = countKeys(ctx, *endpoint, *prefix)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fail(err.Error())
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "load:", message)
	os.Exit(1)
}

// fill puts `keys` keys in transactions, which is the quickest way in.
func fill(ctx context.Context, endpoint, prefix string, keys, valueBytes int) (any, error) {
	client, err := writers.Connect(endpoint)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	started := time.Now()
	batches := make(chan int)
	failures := make(chan error, fillInParallel)
	var ended sync.WaitGroup
	for range fillInParallel {
		ended.Go(func() {
			for first := range batches {
				var puts []clientv3.Op
				for number := first; number < min(first+fillBatchKeys, keys); number++ {
					key := writers.Key(prefix, 0, number)
					puts = append(puts, clientv3.OpPut(key, writers.Value(key, valueBytes)))
				}
				if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
					failures <- err
					for range batches {
						// Let the others' batches pass: the error is reported below.
					}
					return
				}
			}
		})
	}
	for first := 0; first < keys; first += fillBatchKeys {
		batches <- first
	}
	close(batches)
	ended.Wait()
	select {
	case err := <-failures:
		return nil, fmt.Errorf("filling in keys: %w", err)
	default:
	}
	return map[string]any{"keys": keys, "secs": time.Since(started).Seconds()}, nil
}

func write(ctx context.Context, options writers.Options, path string) (any, error) {
	load, err := writers.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	go func() {
		<-load.Running
		fmt.Println("running") // durability.py kills the server some time after this line
	}()
	acks := load.Wait()
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriter(file)
	for _, ack := range acks {
		fmt.Fprintf(out, "%s\t%d\n", ack.Key, ack.Revision)
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	return map[string]any{"acknowledged": len(acks), "stopped_by": (*load.FirstError.Load()).Error()}, file.Close()
}

// await dials until somebody listens, then asks until the key is found. It prints the time as nanoseconds since 1970,
// which the caller compares with its own clock before it started the process.
func await(ctx context.Context, endpoint, key string) (any, error) {
	address, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(awaitPause) {
		connection, err := net.Dial("tcp", address.Host)
		if err != nil {
			continue
		}
		connection.Close()
		client, err := writers.Connect(endpoint)
		if err != nil {
			return nil, err
		}
		getCtx, cancelGet := context.WithTimeout(ctx, 2*time.Second)
		answer, err := client.Get(getCtx, key)
		now := time.Now()
		cancelGet()
		client.Close()
		if err != nil {
			continue
		}
		if answer.Count != 1 {
			return nil, fmt.Errorf("the server answers, but the key %q is gone", key)
		}
		return map[string]any{"answered_unix_ns": now.UnixNano()}, nil
	}
	return nil, fmt.Errorf("no answer within %s", awaitTimeout)
}

type found struct {
	revision int64
	whole    bool
}

// verify compares what is stored below the prefix with the acknowledgements.
func verify(ctx context.Context, endpoint, prefix, path string, valueBytes int) (any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	client, err := writers.Connect(endpoint)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	stored, revision, err := readAll(ctx, client, prefix, valueBytes)
	if err != nil {
		return nil, err
	}

	result := struct {
		Acknowledged   int      `json:"acknowledged"`
		Unacknowledged int      `json:"unacknowledged_found"`
		Lost           int      `json:"lost"`
		Wrong          int      `json:"wrong"`
		Examples       []string `json:"examples"`
	}{}
	complain := func(count *int, format string, arguments ...any) {
		*count++
		if len(result.Examples) < shownMax {
			result.Examples = append(result.Examples, fmt.Sprintf(format, arguments...))
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var ack writers.Ack
		if _, err := fmt.Sscanf(line, "%s\t%d", &ack.Key, &ack.Revision); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		result.Acknowledged++
		row, there := stored[ack.Key]
		delete(stored, ack.Key)
		switch {
		case !there:
			complain(&result.Lost, "%s was acknowledged at revision %d and is gone", ack.Key, ack.Revision)
		case row.revision != ack.Revision:
			complain(&result.Wrong, "%s was acknowledged at revision %d and has %d", ack.Key, ack.Revision, row.revision)
		case !row.whole:
			complain(&result.Wrong, "%s has another value than the one that was acknowledged", ack.Key)
		case ack.Revision > revision:
			complain(&result.Wrong, "%s was acknowledged at revision %d, the store is at %d", ack.Key, ack.Revision, revision)
		}
	}
	// What is left was in flight: whole, and at most one for each writer.
	inFlight := map[string]string{}
	for key, row := range stored {
		result.Unacknowledged++
		writer := key[:strings.LastIndex(key, "/")]
		if !row.whole {
			complain(&result.Wrong, "%s was not acknowledged and is there in part", key)
		}
		if other, twice := inFlight[writer]; twice {
			complain(&result.Wrong, "%s and %s are there, one writer can't have had both in flight", key, other)
		}
		inFlight[writer] = key
	}
	return result, nil
}

func readAll(ctx context.Context, client *clientv3.Client, prefix string, valueBytes int) (map[string]found, int64, error) {
	stored := map[string]found{}
	from, end := prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/")
	for {
		page, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageKeys))
		if err != nil {
			return nil, 0, fmt.Errorf("reading back: %w", err)
		}
		for _, kv := range page.Kvs {
			key := string(kv.Key)
			stored[key] = found{kv.ModRevision, string(kv.Value) == writers.Value(key, valueBytes)}
			from = key + "\x00"
		}
		if !page.More {
			return stored, page.Header.Revision, nil
		}
	}
}

func countKeys(ctx context.Context, endpoint, prefix string) (any, error) {
	client, err := writers.Connect(endpoint)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	answer, err := client.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, fmt.Errorf("counting: %w", err)
	}
	return map[string]any{"count": answer.Count}, nil
}
