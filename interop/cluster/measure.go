package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// RequestMax is what a request may take while an operator works on the cluster, its retry included.
const RequestMax = 2 * ElectionTimeout

// attemptMax is what its first attempt gets: what hangs longer is given up while there is time for another.
const attemptMax = ElectionTimeout

// retryAfter is clientv3's own pause between two attempts. An etcd that is handing over leadership drops, without an answer,
// what another member forwards to it in that moment.
const retryAfter = 25 * time.Millisecond

// Gauge judges requests of clients while members come and go: none may take longer than RequestMax, and none may need
// more than one retry, on another endpoint. It is the client's view of an operation "without downtime".
type Gauge struct {
	mutex     sync.Mutex
	endpoints []*Member
	requests  int
	retries   int
	longest   time.Duration
	all       []time.Duration
	failures  []string
}

// NewGauge judges requests to these members.
func NewGauge(members []*Member) *Gauge {
	g := &Gauge{}
	g.Serve(members)
	return g
}

// Serve tells clients which endpoints there are now.
func (g *Gauge) Serve(members []*Member) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.endpoints = slices.Clone(members)
}

// pick chooses an endpoint other than `not`; as gRPC's balancer does, one that is connected if there is any.
func (g *Gauge) pick(not *Member) *Member {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	var connected, others []*Member
	for _, m := range g.endpoints {
		switch {
		case m == not:
		case m.Client().ActiveConnection().GetState() == connectivity.Ready:
			connected = append(connected, m)
		default:
			// Begin to connect, for later.
			m.Client().ActiveConnection().Connect()
			others = append(others, m)
		}
	}
	if len(connected) == 0 {
		connected = others
	}
	return connected[rand.IntN(len(connected))]
}

// Do makes one request: `call` on one endpoint, and if that fails once more on another. `call` must be one of which it
// does not matter that an attempt of unknown outcome took effect.
func (g *Gauge) Do(what string, call func(ctx context.Context, client *clientv3.Client) error) error {
	began := time.Now()
	endpoint := g.pick(nil)
	err := attempt(endpoint, attemptMax, call)
	retried := err != nil
	first := err
	if retried {
		time.Sleep(retryAfter)
		other := g.pick(endpoint)
		if err = attempt(other, RequestMax-time.Since(began), call); err != nil {
			err = fmt.Errorf("%s failed twice: on %s: %v; on %s: %w", what, endpoint, first, other, err)
		}
	}
	took := time.Since(began)
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.requests++
	g.longest = max(g.longest, took)
	g.all = append(g.all, took)
	if retried {
		g.retries++
	}
	switch {
	case err != nil:
		g.failures = append(g.failures, fmt.Sprintf("%s after %s: %v", began.Format("15:04:05.000"), took, err))
	case took > RequestMax:
		g.failures = append(g.failures, fmt.Sprintf("%s: %s took %s (first attempt: %v)", began.Format("15:04:05.000"), what, took, first))
	}
	return err
}

func attempt(m *Member, limit time.Duration, call func(ctx context.Context, client *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return call(ctx, m.Client())
}

// Verdict is nil if no request broke the measure.
func (g *Gauge) Verdict() error {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if len(g.failures) == 0 {
		return nil
	}
	shown := g.failures[:min(len(g.failures), 5)]
	return fmt.Errorf("%d of %d requests took longer than %s or failed on two endpoints:\n  %s",
		len(g.failures), g.requests, RequestMax, strings.Join(shown, "\n  "))
}

// Summary says in a line what clients saw.
func (g *Gauge) Summary() string {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.requests == 0 {
		return "no request"
	}
	sorted := slices.Sorted(slices.Values(g.all))
	at := func(share float64) time.Duration {
		return sorted[int(float64(len(sorted)-1)*share)].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d requests, p50 %s, p99 %s, p99.9 %s, longest %s, %d retried once", g.requests, at(0.5), at(0.99), at(0.999),
		g.longest.Round(time.Millisecond), g.retries)
}
