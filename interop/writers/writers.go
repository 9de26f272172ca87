// Package writers puts load on a server that is about to be killed, and remembers what was acknowledged.
//
// Each writer puts one key after another, waits for each answer, and stops at its first error. Keys are never used
// twice and a value follows from its key. So after a crash anyone can tell without further notes: an acknowledged put
// must be there with its own value and revision; of the others at most one a writer, the one in flight, may be there,
// and if it is there it is whole.
package writers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// putTimeout is far longer than a put takes: a put that runs into it counts as refused, and its writer stops.
const putTimeout = 10 * time.Second

// Ack is a put that the server acknowledged, and the revision it answered.
type Ack struct {
	Key      string
	Revision int64
}

// Options of a load.
type Options struct {
	Endpoint   string
	Prefix     string // keys are PREFIX/WRITER/NUMBER
	Writers    int
	ValueBytes int
	// PerConnection is how many writers share one HTTP/2 connection.
	PerConnection int
}

// Load is a running load.
type Load struct {
	acks  [][]Ack
	ended sync.WaitGroup
	// Running is closed once every writer has its first acknowledgement: from here a kill hits all of them at work.
	Running chan struct{}
	// FirstError is what stopped the first writer to stop.
	FirstError atomic.Pointer[error]
}

// Connect makes a client that doesn't log and doesn't wait for the connection.
func Connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
}

// Value is the value that belongs to a key: printable, of the given length, different for each key.
func Value(key string, length int) string {
	sum := sha256.Sum256([]byte(key))
	text := hex.EncodeToString(sum[:])
	return strings.Repeat(text, length/len(text)+1)[:length]
}

// Key is the key of one put: writer and number are zero-filled so that keys sort in the order in which they are put.
func Key(prefix string, writer, number int) string {
	return fmt.Sprintf("%s/%03d/%07d", prefix, writer, number)
}

// Start starts the writers. They run until the server fails them or the context ends.
func Start(ctx context.Context, options Options) (*Load, error) {
	load := &Load{acks: make([][]Ack, options.Writers), Running: make(chan struct{})}
	var waiting atomic.Int64
	waiting.Store(int64(options.Writers))
	var client *clientv3.Client
	for writer := range options.Writers {
		if writer%options.PerConnection == 0 {
			connected, err := Connect(options.Endpoint)
			if err != nil {
				return nil, err
			}
			client = connected
			context.AfterFunc(ctx, func() { connected.Close() })
		}
		load.ended.Add(1)
		go func(client *clientv3.Client) {
			defer load.ended.Done()
			for number := 0; ; number++ {
				key := Key(options.Prefix, writer, number)
				putCtx, cancel := context.WithTimeout(ctx, putTimeout)
				answer, err := client.Put(putCtx, key, Value(key, options.ValueBytes))
				cancel()
				if err != nil {
					load.FirstError.CompareAndSwap(nil, &err)
					return
				}
				load.acks[writer] = append(load.acks[writer], Ack{key, answer.Header.Revision})
				if number == 0 && waiting.Add(-1) == 0 {
					close(load.Running)
				}
			}
		}(client)
	}
	return load, nil
}

// Wait waits until every writer has stopped, and returns what was acknowledged, writer by writer.
func (load *Load) Wait() []Ack {
	load.ended.Wait()
	var all []Ack
	for _, acks := range load.acks {
		all = append(all, acks...)
	}
	return all
}
