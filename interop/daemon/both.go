package daemon

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Server is one that answers, perhaps one of two that are compared.
type Server struct {
	Name string
	Conn *grpc.ClientConn
}

// Connect connects to a server until the end of the test, and waits until it answers a linearizable read.
func Connect(t *testing.T, name, endpoint string) Server {
	t.Helper()
	s := Server{name, Dial(t, endpoint)}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	read := &etcdserverpb.RangeRequest{Key: []byte("any")}
	if _, err := etcdserverpb.NewKVClient(s.Conn).Range(ctx, read, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("%s does not answer: %v", name, err)
	}
	return s
}

// Both starts etcd 3.7 and the server under test, and connects to them, in this order.
func Both(t *testing.T) [2]Server {
	t.Helper()
	ours := New(t)
	ours.Start(t)
	return [2]Server{Connect(t, "etcd", StartEtcd37(t)), Connect(t, "quorate", ours.Endpoint)}
}
