package compare

import (
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func on(key, end string, set ...func(c *etcdserverpb.WatchCreateRequest)) proto.Message {
	c := &etcdserverpb.WatchCreateRequest{Key: b(key), RangeEnd: b(end)}
	for _, each := range set {
		each(c)
	}
	return create(c)
}

func from(revision int64) func(c *etcdserverpb.WatchCreateRequest) {
	return func(c *etcdserverpb.WatchCreateRequest) { c.StartRevision = revision }
}

func as(id int64) func(c *etcdserverpb.WatchCreateRequest) {
	return func(c *etcdserverpb.WatchCreateRequest) { c.WatchId = id }
}

func withPrevious(c *etcdserverpb.WatchCreateRequest) { c.PrevKv = true }

func fragmented(c *etcdserverpb.WatchCreateRequest) { c.Fragment = true }

func notified(c *etcdserverpb.WatchCreateRequest) { c.ProgressNotify = true }

func without(filters ...etcdserverpb.WatchCreateRequest_FilterType) func(c *etcdserverpb.WatchCreateRequest) {
	return func(c *etcdserverpb.WatchCreateRequest) { c.Filters = filters }
}

const (
	noPut    = etcdserverpb.WatchCreateRequest_NOPUT
	noDelete = etcdserverpb.WatchCreateRequest_NODELETE
)

// listWatch expects a store that was compacted below its newest revision.
func listWatch() []Request {
	return []Request{
		watch(on("w", "")), watch(on("w", ""), put("w", "1"), put("v", "1"), put("w", "2"), del("w", "")),
		watch(on("", ""), put("w", "1")), watch(on("", "\x00"), put("w", "1"), put("v", "2")), watch(on("w", "\x00"), put("x", "1"), put("v", "1")),
		watch(on("v", "x"), put("w", "1"), put("x", "1"), del("v", "x")), watch(on("w", "v"), put("w", "1")), watch(on("w", "w"), put("w", "1")),
		watch(on("w", "", as(7)), on("w", "", as(7)), on("w", ""), on("w", "", as(1)), on("w", "", as(-5)), put("w", "1")),
		watch(on("w", ""), on("w", ""), cancelWatch(0), cancelWatch(0), cancelWatch(9), put("w", "1"), cancelWatch(1), on("w", "", as(1)), put("w", "2")),
		watch(on("w", "", from(1))), watch(on("w", "", from(25))), watch(on("w", "", from(24))), watch(on("w", "", from(-1)), on("w", "", from(math.MinInt64))),
		watch(on("", "\x00", from(26))), watch(on("", "\x00", from(26), withPrevious)), watch(on("w", "", from(26), without(noPut))),
		watch(on("w", "", from(26), without(noDelete))), watch(on("w", "", from(26), without(noPut, noDelete))), watch(on("w", "", from(26), without(noPut, noPut))),
		watch(on("w", "", from(26), without(9))), watch(on("w", "", from(26), fragmented)),
		watch(on("w", "", withPrevious, notified, fragmented), put("w", "a"), put("w", "b"), del("w", ""), del("w", ""), put("w", "c")),
		watch(on("w", "", without(noPut), withPrevious), put("w", "a"), del("w", "")), watch(on("w", "", without(noDelete)), put("w", "a"), del("w", "")),
		watch(on("w", "", from(math.MaxInt64)), put("w", "1")), watch(on("w", "", from(1<<40)), on("w", ""), put("w", "2")),
		watch(progress()), watch(on("w", ""), progress(), put("w", "1"), progress()), watch(cancelWatch(0)), watch(cancelWatch(-1)),
		watch(on("w", "", from(1)), on("v", ""), put("v", "1"), cancelWatch(0), cancelWatch(1)),
		watch(&etcdserverpb.WatchRequest{}, on("w", ""), put("w", "1")),
		watch(on("x", "z", withPrevious), &etcdserverpb.TxnRequest{Success: ops(put("x1", "1"), put("x2", "2"), del("x1", ""), put("y", "3"))},
			&etcdserverpb.TxnRequest{Success: ops(put("x1", "1"), del("x1", ""))}, del("x", "z")),
		watch(on("w", ""), get("w", ""), &etcdserverpb.RangeRequest{}, put("", "")), watch(on("w", "")).with("hasleader", "true"),
		watch(on("w", "")).with("client-api-version", "3.7"), watch(on("w", "")).with("client-api-version-bin", "x"),
	}
}
