package mixed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/interop/cluster"
)

const (
	fillClients   = 16
	fillKeys      = 5000
	fillLeaseSecs = 36_000 // none ends during a test
	fillTimeout   = 20 * time.Second
)

// filled counts what was done.
type filled struct {
	mutex                                   sync.Mutex
	puts, deletes, txns, grants, revocation int
}

func (f *filled) String() string {
	return fmt.Sprintf("%d puts, %d deletes, %d transactions, %d leases granted, %d revoked", f.puts, f.deletes, f.txns, f.grants, f.revocation)
}

// fill makes `operations` random changes through all members: puts with and without a lease, deletes of
// keys and ranges, transactions, leases that come and go; and a compaction in the middle.
func fill(t *testing.T, c *cluster.Cluster, operations int, seed uint64) *filled {
	t.Helper()
	done := &filled{}
	for half := range 2 {
		var clients sync.WaitGroup
		failed := make(chan error, fillClients)
		for number := range fillClients {
			dice := rand.New(rand.NewPCG(seed, uint64(half*fillClients+number)))
			m := c.Members[number%len(c.Members)]
			clients.Go(func() {
				var leases []clientv3.LeaseID
				for range operations / 2 / fillClients {
					if err := change(m.Client(), dice, &leases, done); err != nil {
						failed <- fmt.Errorf("filling through %s: %w", m, err)
						return
					}
				}
			})
		}
		clients.Wait()
		select {
		case err := <-failed:
			c.Must(err)
		default:
		}
		if half == 0 {
			(&steps{t: t, c: c}).compact()
		}
	}
	return done
}

func change(client *clientv3.Client, dice *rand.Rand, leases *[]clientv3.LeaseID, done *filled) error {
	ctx, cancel := context.WithTimeout(context.Background(), fillTimeout)
	defer cancel()
	key := func() string { return fmt.Sprintf("fill/%04d", dice.IntN(fillKeys)) }
	value := func() string { return strings.Repeat(string(rune('a'+dice.IntN(26))), dice.IntN(300)) }
	count := func(counter *int) {
		done.mutex.Lock()
		defer done.mutex.Unlock()
		*counter++
	}
	var err error
	switch draw := dice.IntN(100); {
	case draw < 60:
		var options []clientv3.OpOption
		if len(*leases) > 0 && draw < 20 {
			options = append(options, clientv3.WithLease((*leases)[dice.IntN(len(*leases))]))
		}
		_, err = client.Put(ctx, key(), value(), options...)
		count(&done.puts)
	case draw < 75:
		from := key()
		var options []clientv3.OpOption
		if draw < 63 {
			options = append(options, clientv3.WithRange(from+"9"))
		}
		_, err = client.Delete(ctx, from, options...)
		count(&done.deletes)
	case draw < 95:
		one, other := key(), key()
		_, err = client.Txn(ctx).
			If(clientv3.Compare(clientv3.Version(one), ">", dice.Int64N(3))).
			Then(clientv3.OpDelete(one), clientv3.OpTxn(
				[]clientv3.Cmp{clientv3.Compare(clientv3.Value(other), "<", "m")},
				[]clientv3.Op{clientv3.OpPut(other+"/then", value())},
				[]clientv3.Op{clientv3.OpDelete(other)})).
			Else(clientv3.OpPut(one, value()), clientv3.OpGet(other)).Commit()
		count(&done.txns)
	case draw < 98 || len(*leases) == 0:
		var granted *clientv3.LeaseGrantResponse
		if granted, err = client.Grant(ctx, fillLeaseSecs); err == nil {
			*leases = append(*leases, granted.ID)
		}
		count(&done.grants)
	default:
		_, err = client.Revoke(ctx, (*leases)[0])
		*leases = (*leases)[1:]
		count(&done.revocation)
	}
	return err
}
