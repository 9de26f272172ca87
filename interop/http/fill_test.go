package http

import (
	"context"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// fill writes enough for a defragmentation to take its time.
func fill(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	kv := etcdserverpb.NewKVClient(conn)
	value := make([]byte, 1<<20)
	for number := range 30 {
		if _, err := kv.Put(context.Background(), &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", number), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
}

func defragment(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	if _, err := etcdserverpb.NewMaintenanceClient(conn).Defragment(context.Background(), &etcdserverpb.DefragmentRequest{}); err != nil {
		t.Fatal(err)
	}
}
