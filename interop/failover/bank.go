package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	bank        = "bank/"
	accounts    = bank + "accounts/"
	transferred = bank + "transferred/"
	account     = 100 // what each account holds in the beginning
	tellers     = 2
)

var names = []string{"anna", "bert", "cleo"}

// A teller moves money between accounts, in software transactions that other tellers get in the way of. It numbers its
// transfers and writes the number with each, so that one whose outcome it was not told is not made twice.
type teller struct {
	client *clientv3.Client
	key    string
	mutex  sync.Mutex
	last   int
	stop   bool
	ended  chan struct{}
	// acknowledged holds the revision of each transfer whose outcome was told.
	acknowledged map[int]int64
}

// lost is an error that tells of transfers that were acknowledged and are not there.
type lost struct{ error }

func startTeller(ctx context.Context, client *clientv3.Client, number int) *teller {
	t := &teller{client: client, key: fmt.Sprint(transferred, number), ended: make(chan struct{}), acknowledged: map[int]int64{}}
	go func() {
		defer close(t.ended)
		for !t.stopped() {
			t.transfer(ctx, t.last+1)
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return t
}

func (t *teller) transfer(ctx context.Context, number int) {
	from, to := accounts+names[number%3], accounts+names[(number/3+1)%3]
	deadline := time.Now().Add(patience)
	for {
		answer, err := concurrency.NewSTM(t.client, func(stm concurrency.STM) error {
			switch last, _ := strconv.Atoi(stm.Get(t.key)); last {
			case number:
				return nil
			case number - 1:
			default:
				return lost{fmt.Errorf("transfer %d is the last one before %d", last, number)}
			}
			held, _ := strconv.Atoi(stm.Get(from))
			if from != to && held > 0 {
				has, _ := strconv.Atoi(stm.Get(to))
				stm.Put(from, strconv.Itoa(held-1))
				stm.Put(to, strconv.Itoa(has+1))
			}
			stm.Put(t.key, strconv.Itoa(number))
			return nil
		}, concurrency.WithAbortContext(ctx))
		t.mutex.Lock()
		if err == nil {
			t.last = number
			if len(answer.Responses) > 0 { // else it only saw that it was made before
				t.acknowledged[number] = answer.Header.Revision
			}
			t.mutex.Unlock()
			return
		}
		t.mutex.Unlock()
		if time.Now().After(deadline) || errors.As(err, &lost{}) {
			done(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (t *teller) stopped() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.stop
}

func (t *teller) made() int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.last
}

func (t *teller) end() {
	t.mutex.Lock()
	t.stop = true
	t.mutex.Unlock()
	<-t.ended
}

// An auditor watches the bank and keeps its own books. One watch lasts from the beginning to the end: resuming it is the
// client's work.
type auditor struct {
	mutex   sync.Mutex
	books   map[string]string
	numbers map[string][]string
	// revisions that a transfer of a teller was seen at.
	seenAt map[string]map[int]int64
	wrong  []string
	newest int64
}

func startAuditor(ctx context.Context, client *clientv3.Client, from int64) *auditor {
	a := &auditor{books: map[string]string{}, numbers: map[string][]string{}, seenAt: map[string]map[int]int64{}}
	watch := client.Watch(ctx, bank, clientv3.WithPrefix(), clientv3.WithRev(from))
	go func() {
		for answer := range watch {
			a.mutex.Lock()
			if err := answer.Err(); err != nil {
				a.wrong = append(a.wrong, err.Error())
			}
			a.enter(answer.Events)
			a.mutex.Unlock()
		}
	}()
	return a
}

// enter takes events whose revisions are complete: an answer never ends within one.
func (a *auditor) enter(events []*clientv3.Event) {
	for place, event := range events {
		key, value, revision := string(event.Kv.Key), string(event.Kv.Value), event.Kv.ModRevision
		first := place == 0 || events[place-1].Kv.ModRevision != revision
		if revision < a.newest || first && revision == a.newest || event.Type != mvccpb.Event_PUT {
			a.wrong = append(a.wrong, fmt.Sprintf("%v of %s=%s at %d after %d", event.Type, key, value, revision, a.newest))
		}
		a.newest = revision
		a.books[key] = value
		if strings.HasPrefix(key, transferred) {
			number, _ := strconv.Atoi(value)
			if a.seenAt[key] == nil {
				a.seenAt[key] = map[int]int64{}
			}
			a.seenAt[key][number] = revision
			a.numbers[key] = append(a.numbers[key], value)
		}
		last := place == len(events)-1 || events[place+1].Kv.ModRevision != revision
		if last && a.total() != account*len(names) {
			a.wrong = append(a.wrong, fmt.Sprintf("%d in all at revision %d", a.total(), revision))
		}
	}
}

func (a *auditor) total() int {
	total := 0
	for _, name := range names {
		held, _ := strconv.Atoi(a.books[accounts+name])
		total += held
	}
	return total
}

func (a *auditor) sawTransfers(key string) []string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.numbers[key]
}
