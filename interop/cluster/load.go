package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	counterKey = "counter/value"
	doneKey    = "counter/done/"
)

// Load is a load that goes on while members come and go, every request of it judged by a Gauge: some clients count
// together, with compare-and-put, the others put, get and delete.
type Load struct {
	Gauge   *Gauge
	stop    atomic.Bool
	ended   sync.WaitGroup
	counted atomic.Int64
	broken  chan error
}

// LoadOptions say how much load.
type LoadOptions struct {
	// Counters are the clients that count, Others the rest.
	Counters, Others int
	// Think is the mean pause between two requests of a client.
	Think time.Duration
}

// StartLoad begins.
func StartLoad(gauge *Gauge, options LoadOptions) *Load {
	load := &Load{Gauge: gauge, broken: make(chan error, options.Counters+options.Others)}
	run := func(client func(*Load, int, func()) error, number int) {
		pause := func() { time.Sleep(time.Duration((0.5 + rand.Float64()) * float64(options.Think))) }
		load.ended.Go(func() {
			if err := client(load, number, pause); err != nil {
				load.broken <- err
			}
		})
	}
	for number := range options.Counters {
		run((*Load).count, number)
	}
	for number := range options.Others {
		run((*Load).mix, number)
	}
	return load
}

// Finish ends the load and judges it: each request within the measure, each count exactly once.
func (load *Load) Finish(t testing.TB) {
	t.Helper()
	load.stop.Store(true)
	load.ended.Wait()
	t.Logf("clients saw: %s; counted to %d", load.Gauge.Summary(), load.counted.Load())
	if err := load.Gauge.Verdict(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-load.broken:
		t.Error(err)
	default:
	}
	var value int
	var marks int64
	err := load.Gauge.Do("reading the counter", func(ctx context.Context, client *clientv3.Client) error {
		answer, err := client.Get(ctx, counterKey)
		if err != nil {
			return err
		}
		done, err := client.Get(ctx, doneKey, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		if answer.Count == 1 {
			if value, err = strconv.Atoi(string(answer.Kvs[0].Value)); err != nil {
				return err
			}
		}
		marks = done.Count
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if counted := load.counted.Load(); int64(value) != counted || marks != counted || counted == 0 {
		t.Errorf("the counter stands at %d with %d marks, counted was %d times", value, marks, counted)
	}
}

// count adds one, again and again: it reads the counter and puts the next number if nobody else did meanwhile. The mark
// beside it tells a second attempt that the first had worked.
func (load *Load) count(number int, pause func()) error {
	for step := 0; !load.stop.Load(); step++ {
		mark := fmt.Sprintf("%s%d-%d", doneKey, number, step)
		for counted := false; !counted; {
			err := load.Gauge.Do("compare-and-put", func(ctx context.Context, client *clientv3.Client) error {
				var err error
				counted, err = countOnce(ctx, client, mark)
				return err
			})
			if err != nil {
				return fmt.Errorf("counting stopped: %w", err)
			}
			pause()
		}
		load.counted.Add(1)
	}
	return nil
}

// countOnce is false without an error if another client was quicker.
func countOnce(ctx context.Context, client *clientv3.Client, mark string) (bool, error) {
	read, err := client.Txn(ctx).Then(clientv3.OpGet(counterKey), clientv3.OpGet(mark)).Commit()
	if err != nil {
		return false, err
	}
	counter, marks := read.Responses[0].GetResponseRange(), read.Responses[1].GetResponseRange()
	if marks.Count == 1 {
		return true, nil
	}
	var value int
	var revision int64
	if counter.Count == 1 {
		revision = counter.Kvs[0].ModRevision
		if value, err = strconv.Atoi(string(counter.Kvs[0].Value)); err != nil {
			return false, err
		}
	}
	put, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(counterKey), "=", revision), clientv3.Compare(clientv3.Version(mark), "=", 0)).
		Then(clientv3.OpPut(counterKey, strconv.Itoa(value+1)), clientv3.OpPut(mark, "")).
		Commit()
	return err == nil && put.Succeeded, err
}

var errStale = errors.New("a linearizable read misses what was acknowledged before")

// mix puts, gets and deletes keys of its own. A key is put once and, once deleted, not looked at again: a first attempt of
// unknown outcome may still take effect long after the second has succeeded.
func (load *Load) mix(number int, pause func()) error {
	key := func(step int) string { return fmt.Sprintf("load/%d/%d", number, step) }
	var putSteps []int
	for step := 0; !load.stop.Load(); step++ {
		var err error
		switch draw := rand.IntN(10); {
		case draw < 5 || len(putSteps) == 0:
			err = load.Gauge.Do("put", func(ctx context.Context, client *clientv3.Client) error {
				_, err := client.Put(ctx, key(step), strconv.Itoa(step))
				return err
			})
			putSteps = append(putSteps, step)
		case draw < 9:
			wanted := putSteps[rand.IntN(len(putSteps))]
			err = load.Gauge.Do("get", func(ctx context.Context, client *clientv3.Client) error {
				answer, err := client.Get(ctx, key(wanted))
				if err == nil && (answer.Count != 1 || string(answer.Kvs[0].Value) != strconv.Itoa(wanted)) {
					err = fmt.Errorf("%w: %s is %v", errStale, key(wanted), answer.Kvs)
				}
				return err
			})
		default:
			doomed := putSteps[0]
			putSteps = putSteps[1:]
			err = load.Gauge.Do("delete", func(ctx context.Context, client *clientv3.Client) error {
				_, err := client.Delete(ctx, key(doomed))
				return err
			})
		}
		if err != nil {
			return err
		}
		pause()
	}
	return nil
}
