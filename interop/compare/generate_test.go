package compare

import (
	"math/rand"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// generator draws requests from a seed. It looks at etcd's answers, to draw revisions that matter: the same seed gives the same
// requests as long as the answers are the same.
type generator struct {
	dice *rand.Rand
	// The store's revision, and up to which it was compacted.
	revision, compacted int64
	// What comes next, whatever is drawn.
	queue []Request
	// Who holds which lock and leads which election, by name: a lease, if anybody.
	holders map[string]int64
	leaders map[string]int64
	// How many peer URLs were drawn, and how many batches of what takes long.
	urls, batches int
}

// Within this time a compaction of the few rows that there are is done.
const compactionPause = 200 * time.Millisecond

func newGenerator(seed int64) *generator {
	return &generator{dice: rand.New(rand.NewSource(seed)), revision: 1, holders: map[string]int64{}, leaders: map[string]int64{}}
}

// draw is one kind of requests and how often it is drawn.
type draw struct {
	weight int
	from   func(g *generator) Request
}

// next is the next request: one that was announced, or one of these.
func (g *generator) next(draws []draw) Request {
	if len(g.queue) > 0 {
		first := g.queue[0]
		g.queue = g.queue[1:]
		return first
	}
	sum := 0
	for _, each := range draws {
		sum += each.weight
	}
	at := g.dice.Intn(sum)
	for _, each := range draws {
		if at -= each.weight; at < 0 {
			return each.from(g)
		}
	}
	panic("weights do not add up")
}

// observe learns from what etcd answered.
func (g *generator) observe(r *Request, answer *Answer) {
	if answer.Last != nil {
		g.revision = max(g.revision, revisionOf(answer.Last))
	}
	if asked, ok := r.Messages, answer.Code == codes.OK; ok && len(asked) > 0 {
		if compaction, ok := asked[0].(*etcdserverpb.CompactionRequest); ok {
			g.compacted = compaction.Revision
		}
	}
}

func (g *generator) chance(percent int) bool { return g.dice.Intn(100) < percent }

func pick[T any](g *generator, from ...T) T { return from[g.dice.Intn(len(from))] }

func (g *generator) key() string {
	if g.chance(3) {
		return pick(g, "", "\x00", "\xff", "dir/", "nobody")
	}
	return pick(g, "a", "b", "c", "d", "e", "f", "ab", "dir/1", "dir/2", "dir/3")
}

func (g *generator) end(key string) string {
	switch {
	case g.chance(45):
		return ""
	case g.chance(25):
		return "\x00"
	default:
		return pick(g, "a", "c", "e", "f", "g", "dir/2", "dir0", key)
	}
}

func (g *generator) value() string { return pick(g, "", "1", "2", "3", "value", "other value") }

// anyRevision is one near the newest, near the compaction, in the future, or none that can be.
func (g *generator) anyRevision() int64 {
	switch draw := g.dice.Intn(20); {
	case draw < 9:
		return max(1, g.revision-g.dice.Int63n(20))
	case draw < 13:
		return max(1, g.compacted-2+g.dice.Int63n(4))
	case draw < 16:
		return g.revision + g.dice.Int63n(3)
	case draw < 18:
		return g.compacted + g.dice.Int63n(max(1, g.revision-g.compacted)+1)
	default:
		return pick(g, int64(-1), 1, 1<<40)
	}
}

func (g *generator) rangeMessage() *etcdserverpb.RangeRequest {
	key := g.key()
	r := get(key, g.end(key))
	if g.chance(10) {
		r = get("\x00", "\x00")
	}
	if g.chance(25) {
		r.Limit = pick(g, int64(1), 1, 2, 3, 5, 100, -1)
	}
	if g.chance(25) {
		r.Revision = g.anyRevision()
	}
	if g.chance(25) {
		r.SortOrder = etcdserverpb.RangeRequest_SortOrder(g.dice.Intn(3))
		r.SortTarget = etcdserverpb.RangeRequest_SortTarget(g.dice.Intn(5))
	}
	if g.chance(2) {
		r.SortOrder = etcdserverpb.RangeRequest_SortOrder(pick(g, -1, 3, 9))
	}
	if g.chance(1) {
		r.SortTarget = etcdserverpb.RangeRequest_SortTarget(pick(g, -1, 5, 9))
	}
	r.Serializable, r.KeysOnly, r.CountOnly = g.chance(20), g.chance(10), g.chance(10)
	for _, bound := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if g.chance(4) {
			*bound = g.anyRevision()
		}
	}
	return r
}

func (g *generator) putMessage() *etcdserverpb.PutRequest {
	r := put(g.key(), g.value())
	r.PrevKv = g.chance(40)
	if g.chance(20) {
		r.Lease = g.lease()
	}
	if g.chance(8) {
		r.IgnoreValue = true
		if g.chance(70) {
			r.Value = nil
		}
	}
	r.IgnoreLease = g.chance(8)
	return r
}

func (g *generator) deleteMessage() *etcdserverpb.DeleteRangeRequest {
	key := g.key()
	r := del(key, "")
	if g.chance(25) {
		r.RangeEnd = b(g.end(key))
	}
	r.PrevKv = g.chance(50)
	return r
}

func (g *generator) compare() *etcdserverpb.Compare {
	number := pick(g, 0, 1, 2, 3, g.revision, max(1, g.revision-g.dice.Int63n(10)))
	set := pick(g, version(number), created(number), modified(number), leased(g.lease()), value(g.value()))
	c := when(etcdserverpb.Compare_CompareResult(g.dice.Intn(4)), g.key(), set)
	if g.chance(15) {
		c.RangeEnd = b(g.end(string(c.Key)))
	}
	if g.chance(2) {
		c.TargetUnion = nil
	}
	return c
}

func (g *generator) operation(depth int) *etcdserverpb.RequestOp {
	switch draw := g.dice.Intn(100); {
	case draw < 40:
		return op(g.putMessage())
	case draw < 65:
		return op(g.rangeMessage())
	case draw < 85:
		return op(g.deleteMessage())
	case draw < 99 && depth < 3:
		return op(g.txnMessage(depth + 1))
	case draw < 99:
		return op(g.rangeMessage())
	default:
		return &etcdserverpb.RequestOp{}
	}
}

// txnMessage is a transaction that etcd survives: a delete from some key on is not seen where puts and deletes of the same key are
// refused, and a put behind it that keeps the lease or the value of what is gone ends etcd's members, at each start again.
func (g *generator) txnMessage(depth int) *etcdserverpb.TxnRequest {
	r := g.anyTxn(depth)
	fromSomeKey := false
	operations(r, func(op *etcdserverpb.RequestOp) {
		fromSomeKey = fromSomeKey || string(op.GetRequestDeleteRange().GetRangeEnd()) == "\x00"
	})
	operations(r, func(op *etcdserverpb.RequestOp) {
		if put := op.GetRequestPut(); put != nil && fromSomeKey {
			put.IgnoreValue, put.IgnoreLease = false, false
		}
	})
	return r
}

// operations visits every operation of a transaction, nested ones too.
func operations(txn *etcdserverpb.TxnRequest, visit func(op *etcdserverpb.RequestOp)) {
	for _, branch := range [][]*etcdserverpb.RequestOp{txn.Success, txn.Failure} {
		for _, op := range branch {
			visit(op)
			if nested := op.GetRequestTxn(); nested != nil {
				operations(nested, visit)
			}
		}
	}
}

// unsorted takes the sorts out of a transaction.
func unsorted(txn *etcdserverpb.TxnRequest) *etcdserverpb.TxnRequest {
	operations(txn, func(op *etcdserverpb.RequestOp) {
		if inner := op.GetRequestRange(); inner != nil {
			inner.SortOrder, inner.SortTarget = 0, 0
		}
	})
	return txn
}

func (g *generator) anyTxn(depth int) *etcdserverpb.TxnRequest {
	r := &etcdserverpb.TxnRequest{}
	for range pick(g, 0, 1, 1, 2) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range pick(g, 0, 1, 1, 2, 3) {
		r.Success = append(r.Success, g.operation(depth))
	}
	for range pick(g, 0, 0, 1, 2) {
		r.Failure = append(r.Failure, g.operation(depth))
	}
	return r
}

func (g *generator) compactMessage() *etcdserverpb.CompactionRequest {
	r := compact(g.anyRevision())
	if g.chance(30) && g.revision-g.compacted > 60 {
		r.Revision = g.revision - g.dice.Int63n(50)
	}
	// One that is far in the past of what is looked at leaves something to look at.
	r.Physical = g.chance(97)
	return r
}

// kvDraws are the requests of the key-value service.
var kvDraws = []draw{
	{24, func(g *generator) Request { return ask(g.rangeMessage()) }},
	{8, func(g *generator) Request { return rangeStream(g.rangeMessage()) }},
	{18, func(g *generator) Request { return ask(g.putMessage()) }},
	{7, func(g *generator) Request { return ask(g.deleteMessage()) }},
	{18, func(g *generator) Request { return ask(g.txnMessage(0)) }},
	{2, func(g *generator) Request { return compacted(g.compactMessage()) }},
}

// compacted gives a compaction that answers before its rows are gone the time to end: the hash of its revision is there only then.
func compacted(message *etcdserverpb.CompactionRequest) Request {
	r := ask(message)
	if !message.Physical {
		r.Talk = func(t *Target, r *Request) Answer {
			plain := *r
			plain.Talk = nil
			defer time.Sleep(compactionPause)
			return t.Ask(&plain)
		}
	}
	return r
}

func (g *generator) watchMessage() proto.Message {
	key := g.key()
	c := &etcdserverpb.WatchCreateRequest{Key: b(key), RangeEnd: b(g.end(key)), PrevKv: g.chance(40), Fragment: g.chance(20), ProgressNotify: g.chance(10)}
	if g.chance(40) {
		c.StartRevision = max(1, g.revision-g.dice.Int63n(30))
	}
	if g.chance(4) {
		c.StartRevision = g.anyRevision()
	}
	if g.chance(25) {
		c.WatchId = g.dice.Int63n(4)
	}
	if g.chance(20) {
		c.Filters = append(c.Filters, etcdserverpb.WatchCreateRequest_FilterType(g.dice.Intn(2)))
	}
	return create(c)
}

// conversation is a stream of watches with writes between.
func (g *generator) conversation() Request {
	var messages []proto.Message
	if g.chance(25) {
		// Ids that are in use.
		for range 2 + g.dice.Intn(3) {
			messages = append(messages, on(g.key(), "", as(1+g.dice.Int63n(2))))
		}
	}
	messages = append(messages, g.watchMessage())
	for range 2 + g.dice.Intn(8) {
		switch draw := g.dice.Intn(20); {
		case draw < 5:
			messages = append(messages, g.watchMessage())
		case draw < 10:
			messages = append(messages, g.putMessage())
		case draw < 12:
			messages = append(messages, g.deleteMessage())
		case draw < 15:
			messages = append(messages, unsorted(g.txnMessage(1)))
		case draw < 17:
			messages = append(messages, cancelWatch(g.dice.Int63n(4)))
		case draw < 18:
			messages = append(messages, progress())
		case draw < 19:
			// So that a watch that begins below it is canceled.
			messages = append(messages, compact(max(1, g.revision-g.dice.Int63n(40))))
		default:
			messages = append(messages, settle)
		}
	}
	return watch(messages...)
}
