package compare

import (
	"fmt"
	"math"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func b(text string) []byte { return []byte(text) }

func put(key, value string) *etcdserverpb.PutRequest {
	return &etcdserverpb.PutRequest{Key: b(key), Value: b(value)}
}

func get(key, end string) *etcdserverpb.RangeRequest {
	return &etcdserverpb.RangeRequest{Key: b(key), RangeEnd: b(end)}
}

func del(key, end string) *etcdserverpb.DeleteRangeRequest {
	return &etcdserverpb.DeleteRangeRequest{Key: b(key), RangeEnd: b(end), PrevKv: true}
}

func compact(revision int64) *etcdserverpb.CompactionRequest {
	return &etcdserverpb.CompactionRequest{Revision: revision, Physical: true}
}

// op is a request within a transaction.
func op(message proto.Message) *etcdserverpb.RequestOp {
	switch request := message.(type) {
	case *etcdserverpb.RangeRequest:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: request}}
	case *etcdserverpb.PutRequest:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: request}}
	case *etcdserverpb.DeleteRangeRequest:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}}
	case *etcdserverpb.TxnRequest:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: request}}
	}
	panic(fmt.Sprintf("%T is no operation", message))
}

func ops(messages ...proto.Message) []*etcdserverpb.RequestOp {
	var all []*etcdserverpb.RequestOp
	for _, message := range messages {
		all = append(all, op(message))
	}
	return all
}

func when(result etcdserverpb.Compare_CompareResult, key string, set func(c *etcdserverpb.Compare)) *etcdserverpb.Compare {
	c := &etcdserverpb.Compare{Result: result, Key: b(key)}
	set(c)
	return c
}

func version(number int64) func(c *etcdserverpb.Compare) {
	return func(c *etcdserverpb.Compare) {
		c.Target, c.TargetUnion = etcdserverpb.Compare_VERSION, &etcdserverpb.Compare_Version{Version: number}
	}
}

func created(number int64) func(c *etcdserverpb.Compare) {
	return func(c *etcdserverpb.Compare) {
		c.Target, c.TargetUnion = etcdserverpb.Compare_CREATE, &etcdserverpb.Compare_CreateRevision{CreateRevision: number}
	}
}

func modified(number int64) func(c *etcdserverpb.Compare) {
	return func(c *etcdserverpb.Compare) {
		c.Target, c.TargetUnion = etcdserverpb.Compare_MOD, &etcdserverpb.Compare_ModRevision{ModRevision: number}
	}
}

func leased(number int64) func(c *etcdserverpb.Compare) {
	return func(c *etcdserverpb.Compare) {
		c.Target, c.TargetUnion = etcdserverpb.Compare_LEASE, &etcdserverpb.Compare_Lease{Lease: number}
	}
}

func value(text string) func(c *etcdserverpb.Compare) {
	return func(c *etcdserverpb.Compare) {
		c.Target, c.TargetUnion = etcdserverpb.Compare_VALUE, &etcdserverpb.Compare_Value{Value: b(text)}
	}
}

const (
	equal    = etcdserverpb.Compare_EQUAL
	notEqual = etcdserverpb.Compare_NOT_EQUAL
	less     = etcdserverpb.Compare_LESS
	greater  = etcdserverpb.Compare_GREATER
)

// listRange is every option of a range, over keys that differ in each thing that can be sorted by.
func listRange() []Request {
	list := asks(
		get("a", ""), get("", ""), get("", "\x00"), get("\x00", "\x00"), put("b", "2"), put("a", "3"), put("c", "1"), put("a", "0"),
		put("ab", ""), put("\x00", "zero"), put("\xff", "high"), put("\xff\xff", "higher"), put("dir/1", "x"), put("dir/2", "y"),
		put("b", "2"), put("b", "5"),
	)
	for _, ends := range [][2]string{
		{"a", ""}, {"a", "\x00"}, {"a", "b"}, {"a", "c"}, {"b", "a"}, {"b", "b"}, {"\x00", "\x00"}, {"\x00", "a"}, {"\xff", "\x00"},
		{"\xff", ""}, {"dir/", "dir0"}, {"missing", ""}, {"zz", "\x00"}, {"a", "\xff\xff\xff"},
	} {
		list = append(list, ask(get(ends[0], ends[1])), rangeStream(get(ends[0], ends[1])))
	}
	all := func(set func(r *etcdserverpb.RangeRequest)) *etcdserverpb.RangeRequest {
		r := get("\x00", "\x00")
		set(r)
		return r
	}
	for target := range int32(len(etcdserverpb.RangeRequest_SortTarget_name)) {
		for order := range int32(len(etcdserverpb.RangeRequest_SortOrder_name)) {
			for _, limit := range []int64{0, 3} {
				sorted := all(func(r *etcdserverpb.RangeRequest) {
					r.SortTarget, r.SortOrder = etcdserverpb.RangeRequest_SortTarget(target), etcdserverpb.RangeRequest_SortOrder(order)
					r.Limit = limit
				})
				list = append(list, ask(sorted), rangeStream(sorted))
			}
		}
	}
	for _, set := range []func(r *etcdserverpb.RangeRequest){
		func(r *etcdserverpb.RangeRequest) { r.SortOrder = 7 },
		func(r *etcdserverpb.RangeRequest) { r.SortTarget = 7 },
		func(r *etcdserverpb.RangeRequest) { r.SortOrder, r.SortTarget = -1, -1 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = 1 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = 9 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = 1000 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = -1 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = math.MaxInt64 },
		func(r *etcdserverpb.RangeRequest) { r.Limit = math.MinInt64 },
		func(r *etcdserverpb.RangeRequest) { r.KeysOnly = true },
		func(r *etcdserverpb.RangeRequest) { r.KeysOnly, r.Limit = true, 2 },
		func(r *etcdserverpb.RangeRequest) { r.CountOnly = true },
		func(r *etcdserverpb.RangeRequest) { r.CountOnly, r.KeysOnly, r.Limit = true, true, 2 },
		func(r *etcdserverpb.RangeRequest) { r.Serializable = true },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 1 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 2 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 5 },
		func(r *etcdserverpb.RangeRequest) { r.Revision, r.CountOnly = 5, true },
		func(r *etcdserverpb.RangeRequest) { r.Revision, r.Limit = 5, 1 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 13 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 14 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = 100 },
		func(r *etcdserverpb.RangeRequest) { r.Revision, r.Serializable = 100, true },
		func(r *etcdserverpb.RangeRequest) { r.Revision = -1 },
		func(r *etcdserverpb.RangeRequest) { r.Revision = math.MaxInt64 },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision = 5 },
		func(r *etcdserverpb.RangeRequest) { r.MaxModRevision = 5 },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision, r.MaxModRevision = 4, 7 },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision, r.MaxModRevision = 7, 4 },
		func(r *etcdserverpb.RangeRequest) { r.MinCreateRevision = 5 },
		func(r *etcdserverpb.RangeRequest) { r.MaxCreateRevision = 5 },
		func(r *etcdserverpb.RangeRequest) { r.MinCreateRevision, r.MaxModRevision = 3, 9 },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision, r.Limit = 5, 2 },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision, r.CountOnly = 5, true },
		func(r *etcdserverpb.RangeRequest) { r.MinModRevision = -5 },
		func(r *etcdserverpb.RangeRequest) { r.MaxModRevision, r.KeysOnly, r.Limit, r.SortOrder = 9, true, 3, 2 },
	} {
		list = append(list, ask(all(set)), rangeStream(all(set)))
	}
	// Enough for several messages of a stream, and values that make it change how many it sends.
	for number := range 30 {
		list = append(list, ask(put(fmt.Sprintf("many/%02d", number), strings.Repeat("m", number*200))))
	}
	return append(list, rangeStream(get("many/", "many0")), rangeStream(&etcdserverpb.RangeRequest{Key: b("many/"), RangeEnd: b("many0"), Limit: 25}),
		ask(del("many/", "many0")))
}

// listPut is every flag of a put and of a delete.
func listPut() []Request {
	return asks(
		put("", ""), put("", "v"), put("p", ""), put("p", "1"), &etcdserverpb.PutRequest{Key: b("p"), Value: b("2"), PrevKv: true},
		&etcdserverpb.PutRequest{Key: b("new"), Value: b("1"), PrevKv: true},
		&etcdserverpb.PutRequest{Key: b("p"), IgnoreValue: true}, &etcdserverpb.PutRequest{Key: b("p"), IgnoreValue: true, PrevKv: true},
		&etcdserverpb.PutRequest{Key: b("p"), Value: b("3"), IgnoreValue: true}, &etcdserverpb.PutRequest{Key: b("none"), IgnoreValue: true},
		&etcdserverpb.PutRequest{Key: b("p"), Value: b("4"), IgnoreLease: true}, &etcdserverpb.PutRequest{Key: b("none"), IgnoreLease: true},
		&etcdserverpb.PutRequest{Key: b("p"), Lease: 5, IgnoreLease: true}, &etcdserverpb.PutRequest{Key: b("p"), IgnoreLease: true, IgnoreValue: true},
		&etcdserverpb.PutRequest{Key: b("none"), IgnoreLease: true, IgnoreValue: true},
		&etcdserverpb.PutRequest{IgnoreValue: true, Value: b("x")}, &etcdserverpb.PutRequest{Key: b("p"), Value: b("x"), Lease: 5, IgnoreLease: true, IgnoreValue: true},
		&etcdserverpb.PutRequest{Key: b("p"), Lease: 404}, &etcdserverpb.PutRequest{Key: b("p"), Lease: -1}, get("p", ""),
		del("", ""), del("none", ""), del("p", ""), del("p", ""), get("p", ""), put("p", "again"), get("p", ""),
		&etcdserverpb.DeleteRangeRequest{Key: b("a"), RangeEnd: b("c")}, del("dir/", "dir0"), del("c", "a"), del("c", "c"), del("\xff", "\x00"),
		del("\x00", "\x00"), del("\x00", "\x00"), get("\x00", "\x00"), put(strings.Repeat("k", 5000), "long key"), del("k", "l"),
	)
}

// listCompares is every target with every result, of a key that exists, of one that does not, and of ranges.
func listCompares() []Request {
	list := asks(put("t1", "m"), put("t1", "n"), put("t2", "n"))
	won, lost := ops(get("won", "")), ops(get("lost", ""), get("lost", ""))
	for _, result := range []etcdserverpb.Compare_CompareResult{equal, notEqual, less, greater} {
		for _, key := range []string{"t1", "none"} {
			for _, set := range []func(c *etcdserverpb.Compare){
				version(0), version(1), version(2), version(3), created(0), created(1 << 40), modified(0), modified(-1), leased(0), leased(7), value("m"), value("n"),
				value(""), value("o"),
			} {
				list = append(list, ask(&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{when(result, key, set)}, Success: won, Failure: lost}))
			}
		}
		for _, ends := range [][2]string{{"t1", "t3"}, {"t1", "\x00"}, {"none", "nonf"}, {"t3", "t1"}, {"t1", "t1"}} {
			for _, set := range []func(c *etcdserverpb.Compare){version(1), value("n"), modified(0), created(0)} {
				c := when(result, ends[0], set)
				c.RangeEnd = b(ends[1])
				list = append(list, ask(&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{c}, Success: won, Failure: lost}))
			}
		}
	}
	compares := func(all ...*etcdserverpb.Compare) Request {
		return ask(&etcdserverpb.TxnRequest{Compare: all, Success: won, Failure: lost})
	}
	return append(list,
		compares(), compares(when(equal, "", version(0))), compares(when(equal, "t1", version(2)), when(equal, "t2", version(1))),
		compares(when(equal, "t1", version(2)), when(equal, "t2", version(2))), compares(when(9, "t1", version(2))),
		compares(&etcdserverpb.Compare{Key: b("t1")}), compares(&etcdserverpb.Compare{Key: b("none")}),
		compares(&etcdserverpb.Compare{Key: b("t1"), Target: etcdserverpb.Compare_VALUE}),
		compares(&etcdserverpb.Compare{Key: b("t1"), Target: 9}),
		compares(&etcdserverpb.Compare{Key: b("t1"), Target: etcdserverpb.Compare_MOD, TargetUnion: &etcdserverpb.Compare_Version{Version: 2}}),
		compares(&etcdserverpb.Compare{Key: b("t1"), Target: etcdserverpb.Compare_VERSION, TargetUnion: &etcdserverpb.Compare_Value{Value: b("n")}}),
	)
}

// listTxn is transactions that write, nested ones, and what they may not hold.
func listTxn() []Request {
	won := func(inner ...proto.Message) *etcdserverpb.TxnRequest {
		return &etcdserverpb.TxnRequest{Success: ops(inner...)}
	}
	lost := func(inner ...proto.Message) *etcdserverpb.TxnRequest {
		return &etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{when(equal, "never", version(5))}, Failure: ops(inner...)}
	}
	future := get("x1", "")
	future.Revision = 1 << 40
	old := get("x1", "")
	old.Revision = 2
	previous := put("x1", "p")
	previous.PrevKv = true
	many := func(count int) *etcdserverpb.TxnRequest {
		var all []proto.Message
		for number := range count {
			all = append(all, put(fmt.Sprintf("n%d", number), ""))
		}
		return won(all...)
	}
	return asks(
		&etcdserverpb.TxnRequest{}, won(put("x1", "1"), put("x2", "1")), won(get("x1", "x3")), won(put("x1", "2"), get("x1", ""), del("x2", ""), get("x2", "")),
		won(previous), lost(put("x3", "1"), get("x3", "")), won(del("x3", "")), won(del("x3", "")), won(del("none", ""), get("none", "")),
		won(put("x1", "a"), put("x1", "b")), won(put("x1", "a"), del("x1", "")), won(del("x1", ""), put("x1", "a")), won(del("w", "z"), put("x1", "a")),
		won(del("x1", ""), del("x1", "")), won(del("x", "y"), del("x", "z")), won(put("x1", "a"), get("x1", "")), lost(put("x1", "a"), put("x1", "b")),
		won(put("x1", "a"), won(put("x1", "b"))), won(won(put("x1", "a")), won(put("x1", "b"))), won(won(put("x1", "a")), won(put("x2", "b"))),
		won(&etcdserverpb.TxnRequest{Success: ops(put("x1", "a")), Failure: ops(put("x1", "b"))}), won(del("x", "y"), won(put("x1", "b"))),
		won(won(del("x", "y")), put("x1", "b")), won(won(del("x", "y")), won(put("x1", "b"))), won(won(del("x1", "")), won(del("x1", ""))),
		won(put("x1", "outer"), lost(put("x2", "inner"), won(put("x3", "innermost"), get("x1", "x4")))), won(lost(), won()),
		won(put("", "v")), won(get("", "")), won(del("", "")), won(won(put("", "v"))), &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{{}}},
		&etcdserverpb.TxnRequest{Failure: []*etcdserverpb.RequestOp{{}}}, won(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{{}}}),
		won(&etcdserverpb.PutRequest{Key: b("x1"), Value: b("v"), IgnoreValue: true}), won(&etcdserverpb.PutRequest{Key: b("x1"), Lease: 4, IgnoreLease: true}),
		won(&etcdserverpb.PutRequest{Key: b("none"), IgnoreValue: true}), won(&etcdserverpb.PutRequest{Key: b("none"), IgnoreLease: true}),
		won(&etcdserverpb.PutRequest{Key: b("x1"), IgnoreValue: true}), won(put("x9", "v"), &etcdserverpb.PutRequest{Key: b("x9"), IgnoreValue: true}),
		won(&etcdserverpb.PutRequest{Key: b("x1"), Lease: 404}), won(put("x8", "v"), &etcdserverpb.PutRequest{Key: b("x1"), Lease: 404}), get("x8", ""),
		won(future), won(put("x7", "v"), future), lost(future), won(old), won(put("x7", "v"), old), get("x7", ""),
		won(&etcdserverpb.RangeRequest{Key: b("x"), RangeEnd: b("y"), SortOrder: 9}), won(&etcdserverpb.RangeRequest{Key: b("x"), RangeEnd: b("y"), Limit: 1}),
		won(&etcdserverpb.RangeRequest{Key: b("x"), RangeEnd: b("y"), CountOnly: true}, &etcdserverpb.RangeRequest{Key: b("x"), RangeEnd: b("y"), KeysOnly: true, SortOrder: 2}),
		won(&etcdserverpb.RangeRequest{Key: b("x1"), Serializable: true}), won(&etcdserverpb.DeleteRangeRequest{Key: b("n"), RangeEnd: b("o")}),
		many(128), many(129), del("n", "o"), won(many(127)), won(many(128)), won(many(1), many(1)), lost(many(127)), del("n", "o"),
		won(won(won(won(won(put("deep", "v")))))), get("deep", ""),
	)
}

// listCompaction is what is refused above and below a compaction, and what remains readable.
func listCompaction() []Request {
	at := func(revision int64) *etcdserverpb.RangeRequest {
		r := get("\x00", "\x00")
		r.Revision = revision
		return r
	}
	list := asks(compact(0), compact(-1), compact(1<<40), compact(20), compact(20), compact(19), compact(21), at(19), at(20), at(21), at(22), at(-1),
		&etcdserverpb.CompactionRequest{Revision: 25}, &etcdserverpb.CompactionRequest{Revision: 25}, at(24), at(25),
		&etcdserverpb.TxnRequest{Success: ops(at(24))}, &etcdserverpb.TxnRequest{Success: ops(put("z", "v"), at(24))}, get("z", ""),
		&etcdserverpb.TxnRequest{Success: ops(&etcdserverpb.TxnRequest{Success: ops(at(24))})}, &etcdserverpb.TxnRequest{Success: ops(at(25))})
	return append(list, rangeStream(at(24)), rangeStream(at(25)), rangeStream(at(1<<40)))
}
