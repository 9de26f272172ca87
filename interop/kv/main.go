// Command kv runs Go's own client, the newest 3.7, against a fresh server: KV, transactions, compaction, status.
//
// It asks above all for what etcdctl 3.4 and the PyPI client can't: count-only ranges, revision filters, compares of
// leases and of whole ranges, nested transactions, reads at old revisions, streamed ranges, typed errors. It prints
// `ok NAME` or `FAIL NAME: why` for each check and `end` last; clients.py counts them.
//
//	kv ENDPOINT
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const scenarioTimeout = 60 * time.Second

type scenario struct {
	ctx    context.Context
	client *clientv3.Client
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kv ENDPOINT")
		os.Exit(2)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:], Logger: zap.NewNop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scenarioTimeout)
	defer cancel()
	s := &scenario{ctx, client}
	s.puts()
	s.ranges()
	s.oldRevisions()
	s.filters()
	s.streams()
	s.transactions()
	s.nestedTransactions()
	s.refusals()
	s.deletes()
	s.compaction()
	s.status()
	fmt.Println("end")
}

func check(name string, got, want any) {
	if fmt.Sprint(got) == fmt.Sprint(want) {
		fmt.Println("ok", name)
	} else {
		fmt.Printf("FAIL %s: got %v, want %v\n", name, got, want)
	}
}

func checkRefused(name string, err, want error) {
	if errors.Is(err, want) {
		fmt.Println("ok", name)
	} else {
		fmt.Printf("FAIL %s: got error %v, want %v\n", name, err, want)
	}
}

// words prints its arguments with a space between any two of them.
func words(arguments ...any) string {
	return strings.TrimSpace(fmt.Sprintln(arguments...))
}

// must ends the run at an error that no check expects: what follows would only repeat it.
func must[T any](answer T, err error) T {
	if err != nil {
		fmt.Printf("FAIL an unexpected error: %v\n", err)
		os.Exit(1)
	}
	return answer
}

func (s *scenario) put(key, value string, options ...clientv3.OpOption) *clientv3.PutResponse {
	return must(s.client.Put(s.ctx, key, value, options...))
}

func (s *scenario) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	return must(s.client.Get(s.ctx, key, options...))
}

// show prints the rows of a range as key=value@create/mod/version.
func show(answer *clientv3.GetResponse) string {
	var rows []string
	for _, kv := range answer.Kvs {
		rows = append(rows, fmt.Sprintf("%s=%s@%d/%d/%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version))
	}
	return strings.Join(rows, " ")
}

func keys(answer *clientv3.GetResponse) string {
	var names []string
	for _, kv := range answer.Kvs {
		names = append(names, string(kv.Key))
	}
	return strings.Join(names, " ")
}

// puts leaves a at revision 6 (created 2), b at 3, c at 5 (created 4).
func (s *scenario) puts() {
	first := s.put("a", "1")
	check("the first put is revision 2", first.Header.Revision, 2)
	check("a header names cluster, member and term",
		first.Header.ClusterId != 0 && first.Header.MemberId != 0 && first.Header.RaftTerm >= 2, true)
	s.put("b", "2")
	s.put("c", "3")
	answer := s.put("c", "4", clientv3.WithPrevKV())
	check("prev_kv is the row before", string(answer.PrevKv.Value), "3")
	s.put("a", "", clientv3.WithIgnoreValue())
	check("ignore_value keeps the value and makes a version", show(s.get("a")), "a=1@2/6/2")
	s.put("other", "1")
	check("a put without prev_kv answers none", s.put("other", "2", clientv3.WithIgnoreLease()).PrevKv == nil, true)
}

func (s *scenario) ranges() {
	all := clientv3.WithRange("d")
	check("a range in key order", show(s.get("a", all)), "a=1@2/6/2 b=2@3/3/1 c=4@4/5/2")
	check("from-key", keys(s.get("b", clientv3.WithFromKey())), "b c other")
	check("everything", keys(s.get("", clientv3.WithPrefix())), "a b c other")
	limited := s.get("a", all, clientv3.WithLimit(2))
	check("a limited range counts all and says that there is more", words(keys(limited), limited.Count, limited.More), "a b 3 true")
	exact := s.get("a", all, clientv3.WithLimit(3))
	check("a limit that fits says that there is no more", words(exact.Count, exact.More), "3 false")
	count := s.get("a", all, clientv3.WithCountOnly())
	check("count-only answers a count and no rows", words(count.Count, len(count.Kvs), count.More), "3 0 false")
	bare := s.get("a", all, clientv3.WithKeysOnly())
	check("keys-only leaves the values out", show(bare), "a=@2/6/2 b=@3/3/1 c=@4/5/2")
	for _, sorted := range []struct {
		name   string
		target clientv3.SortTarget
		order  clientv3.SortOrder
		want   string
	}{
		{"key, descending", clientv3.SortByKey, clientv3.SortDescend, "c b a"},
		{"version", clientv3.SortByVersion, clientv3.SortAscend, "b a c"},
		{"create revision, descending", clientv3.SortByCreateRevision, clientv3.SortDescend, "c b a"},
		{"mod revision", clientv3.SortByModRevision, clientv3.SortAscend, "b c a"},
		{"value, descending", clientv3.SortByValue, clientv3.SortDescend, "c b a"},
	} {
		check("sorted by "+sorted.name, keys(s.get("a", all, clientv3.WithSort(sorted.target, sorted.order))), sorted.want)
	}
	newest := s.get("a", all, clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1))
	check("the limit applies after sorting", words(keys(newest), newest.Count, newest.More), "a 3 true")
	check("a serializable read", show(s.get("b", clientv3.WithSerializable())), "b=2@3/3/1")
	none := s.get("x", clientv3.WithRange("b"))
	check("a range whose end lies before its start is empty", words(len(none.Kvs), none.Count), "0 0")
}

func (s *scenario) oldRevisions() {
	all := clientv3.WithRange("d")
	check("at revision 2", show(s.get("a", all, clientv3.WithRev(2))), "a=1@2/2/1")
	check("at revision 4", show(s.get("a", all, clientv3.WithRev(4))), "a=1@2/2/1 b=2@3/3/1 c=3@4/4/1")
	at5 := s.get("c", clientv3.WithRev(5))
	check("at revision 5, with the newest revision in the header", words(show(at5), at5.Header.Revision), "c=4@4/5/2 8")
	before := s.get("a", all, clientv3.WithRev(1))
	check("at revision 1 there is nothing", words(len(before.Kvs), before.Count), "0 0")
	counted := s.get("a", all, clientv3.WithRev(3), clientv3.WithCountOnly())
	check("count-only at an old revision", counted.Count, 2)
}

func (s *scenario) filters() {
	all := clientv3.WithRange("d")
	check("min_mod_revision", keys(s.get("a", all, clientv3.WithMinModRev(5))), "a c")
	check("max_mod_revision", keys(s.get("a", all, clientv3.WithMaxModRev(5))), "b c")
	check("min_create_revision", keys(s.get("a", all, clientv3.WithMinCreateRev(3))), "b c")
	check("max_create_revision", keys(s.get("a", all, clientv3.WithMaxCreateRev(3))), "a b")
	both := s.get("a", all, clientv3.WithMinModRev(4), clientv3.WithMaxCreateRev(3), clientv3.WithLimit(1))
	check("two filters and a limit", words(keys(both), both.Count, both.More), "a 3 false")
}

func (s *scenario) streams() {
	options := []clientv3.OpOption{clientv3.WithRange("d")}
	streamed := must(clientv3.GetStreamToGetResponse(must(s.client.GetStream(s.ctx, "a", options...))))
	check("a streamed range is the range", words(show(streamed), streamed.Count, streamed.Header.Revision),
		words(show(s.get("a", options...)), 3, s.get("a").Header.Revision))
	const rows, valueBytes = 300, 20_000 // more than fits into one message of the stream
	for number := range rows {
		s.put(fmt.Sprintf("stream/%03d", number), strings.Repeat("x", valueBytes))
	}
	chunks, received, bytes := 0, 0, 0
	for chunk := range must(s.client.GetStream(s.ctx, "stream/", clientv3.WithPrefix())) {
		if must(0, chunk.Err()) != 0 || chunk.RangeResponse == nil {
			continue
		}
		chunks++
		for _, kv := range chunk.Kvs {
			received++
			bytes += len(kv.Value)
		}
	}
	check("a large streamed range arrives whole, in several parts", words(received, bytes, chunks > 1),
		words(rows, rows*valueBytes, true))
	must(s.client.Delete(s.ctx, "stream/", clientv3.WithPrefix()))
}

func (s *scenario) commit(compares []clientv3.Cmp, then, otherwise []clientv3.Op) *clientv3.TxnResponse {
	return must(s.client.Txn(s.ctx).If(compares...).Then(then...).Else(otherwise...).Commit())
}

func (s *scenario) transactions() {
	row := s.get("a").Kvs[0]
	compare := func(compared clientv3.Cmp, operator string, value any) bool {
		return s.commit([]clientv3.Cmp{clientv3.Compare(compared, operator, value)}, nil, nil).Succeeded
	}
	targets := []struct {
		name   string
		target clientv3.Cmp
		equal  any
		less   any
		more   any
	}{
		{"value", clientv3.Value("a"), "1", "0", "2"},
		{"version", clientv3.Version("a"), row.Version, row.Version - 1, row.Version + 1},
		{"create revision", clientv3.CreateRevision("a"), row.CreateRevision, row.CreateRevision - 1, row.CreateRevision + 1},
		{"mod revision", clientv3.ModRevision("a"), row.ModRevision, row.ModRevision - 1, row.ModRevision + 1},
		{"lease", clientv3.LeaseValue("a"), 0, -1, 1},
	}
	for _, t := range targets {
		found := words(
			compare(t.target, "=", t.equal), compare(t.target, "=", t.more),
			compare(t.target, "!=", t.less), compare(t.target, "!=", t.equal),
			compare(t.target, ">", t.less), compare(t.target, ">", t.equal),
			compare(t.target, "<", t.more), compare(t.target, "<", t.equal),
		)
		check("compares of a "+t.name, found, "true false true false true false true false")
	}
	check("a missing key has version 0", compare(clientv3.Version("missing"), "=", 0), true)
	check("a missing key has create revision 0", compare(clientv3.CreateRevision("missing"), "=", 0), true)
	check("a missing key has lease 0", compare(clientv3.LeaseValue("missing"), "=", 0), true)
	check("a missing key equals no value, not even the empty one", compare(clientv3.Value("missing"), "=", ""), false)
	check("and differs from none", compare(clientv3.Value("missing"), "!=", "x"), false)
	all := func(operator string, value any) bool {
		return compare(clientv3.ModRevision("a").WithRange("d"), operator, value)
	}
	check("a compare of a range asks it of every key", words(all(">", 2), all(">", 3)), "true false")
	check("a compare of an empty range holds for version 0", compare(clientv3.Version("zz").WithPrefix(), "=", 0), true)

	before := s.put("doomed", "1").Header.Revision
	answer := s.commit(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value("a"), "=", "1")},
		[]clientv3.Op{
			clientv3.OpPut("t", "1"),
			clientv3.OpGet("t"),
			clientv3.OpDelete("doomed", clientv3.WithPrevKV()),
			clientv3.OpGet("doomed"),
			clientv3.OpPut("a", "2", clientv3.WithPrevKV()),
			clientv3.OpGet("a", clientv3.WithRev(2)),
			clientv3.OpGet("a", clientv3.WithRange("d"), clientv3.WithCountOnly()),
		},
		[]clientv3.Op{clientv3.OpPut("wrong", "1")},
	)
	check("a transaction is one revision", words(answer.Succeeded, answer.Header.Revision), words(true, before+1))
	inner := (*clientv3.GetResponse)(answer.Responses[1].GetResponseRange())
	check("inside it a put is seen", show(inner), fmt.Sprintf("t=1@%d/%d/1", before+1, before+1))
	deleted := answer.Responses[2].GetResponseDeleteRange()
	check("a delete answers its row", words(deleted.Deleted, string(deleted.PrevKvs[0].Value)), "1 1")
	check("which is then gone", answer.Responses[3].GetResponseRange().Count, 0)
	check("prev_kv inside", string(answer.Responses[4].GetResponsePut().PrevKv.Value), "1")
	check("an old revision inside", show((*clientv3.GetResponse)(answer.Responses[5].GetResponseRange())), "a=1@2/2/1")
	check("count-only inside", answer.Responses[6].GetResponseRange().Count, 3)
	check("the other branch was not taken", s.get("wrong").Count, 0)
	readOnly := s.commit(nil, []clientv3.Op{clientv3.OpGet("a"), clientv3.OpGet("b")}, nil)
	check("a transaction that only reads makes no revision", readOnly.Header.Revision, before+1)
	idle := s.commit(nil, []clientv3.Op{clientv3.OpDelete("missing")}, nil)
	check("nor does one that deletes nothing", idle.Header.Revision, before+1)
}

// nestedTransactions: every compare at every depth is made on what was there before the outermost one changed it.
func (s *scenario) nestedTransactions() {
	s.put("n", "old")
	before := s.get("n").Header.Revision
	oldValue := clientv3.Compare(clientv3.Value("n"), "=", "old")
	deepest := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Version("n"), "=", 1), clientv3.Compare(clientv3.LeaseValue("n"), "=", 0)},
		[]clientv3.Op{clientv3.OpPut("n/3", "then"), clientv3.OpGet("n")},
		[]clientv3.Op{clientv3.OpPut("n/3", "else")},
	)
	answer := s.commit(
		[]clientv3.Cmp{oldValue},
		[]clientv3.Op{
			clientv3.OpPut("n", "new"),
			clientv3.OpTxn(
				[]clientv3.Cmp{oldValue, clientv3.Compare(clientv3.ModRevision("n"), "=", before)},
				[]clientv3.Op{clientv3.OpPut("n/2", "then"), deepest},
				[]clientv3.Op{clientv3.OpPut("n/2", "else")},
			),
			clientv3.OpTxn(
				[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision("n"), ">", before)},
				[]clientv3.Op{clientv3.OpPut("n/4", "then")},
				[]clientv3.Op{clientv3.OpPut("n/4", "else"), clientv3.OpDelete("b", clientv3.WithPrevKV())},
			),
		}, nil,
	)
	check("a nested transaction is one revision", answer.Header.Revision, before+1)
	middle := answer.Responses[1].GetResponseTxn()
	check("the middle one compared what was before", middle.Succeeded, true)
	innermost := middle.Responses[1].GetResponseTxn()
	check("the innermost too", innermost.Succeeded, true)
	seen := innermost.Responses[1].GetResponseRange().Kvs[0]
	check("but it reads what the outer one wrote", words(string(seen.Value), seen.ModRevision), words("new", before+1))
	last := answer.Responses[2].GetResponseTxn()
	check("a nested one whose compares fail takes its other branch", last.Succeeded, false)
	check("with its deletes", last.Responses[1].GetResponseDeleteRange().Deleted, 1)
	found := s.get("n", clientv3.WithPrefix())
	check("all of it was done", show(found), fmt.Sprintf("n=new@%d/%d/2 n/2=then@%[2]d/%[2]d/1 n/3=then@%[2]d/%[2]d/1 n/4=else@%[2]d/%[2]d/1",
		before, before+1))
}

func (s *scenario) refusals() {
	before := s.get("", clientv3.WithPrefix())
	_, err := s.client.Put(s.ctx, "", "x")
	checkRefused("an empty key", err, rpctypes.ErrEmptyKey)
	_, err = s.client.Get(s.ctx, "a", clientv3.WithRev(before.Header.Revision+100))
	checkRefused("a future revision", err, rpctypes.ErrFutureRev)
	_, err = s.client.Put(s.ctx, "a", "x", clientv3.WithLease(4711))
	checkRefused("an unknown lease", err, rpctypes.ErrLeaseNotFound)
	_, err = s.client.Put(s.ctx, "missing", "", clientv3.WithIgnoreValue())
	checkRefused("ignore_value without a row", err, rpctypes.ErrKeyNotFound)
	_, err = s.client.Put(s.ctx, "a", strings.Repeat("x", 1_600_000))
	checkRefused("an oversize value", err, rpctypes.ErrRequestTooLarge)
	put := clientv3.OpPut("twice", "x")
	_, err = s.client.Txn(s.ctx).Then(put, put).Commit()
	checkRefused("a key put twice", err, rpctypes.ErrDuplicateKey)
	_, err = s.client.Txn(s.ctx).Then(put, clientv3.OpDelete("twi", clientv3.WithPrefix())).Commit()
	checkRefused("a key put and deleted", err, rpctypes.ErrDuplicateKey)
	_, err = s.client.Txn(s.ctx).Then(put, clientv3.OpTxn(nil, []clientv3.Op{put}, nil)).Commit()
	checkRefused("a key put inside and outside of a nested transaction", err, rpctypes.ErrDuplicateKey)
	var many []clientv3.Op
	for number := range 129 {
		many = append(many, clientv3.OpPut(fmt.Sprint("many/", number), "x"))
	}
	_, err = s.client.Txn(s.ctx).Then(many...).Commit()
	checkRefused("129 operations", err, rpctypes.ErrTooManyOps)
	_, err = s.client.Txn(s.ctx).Then(put, clientv3.OpGet("a", clientv3.WithRev(before.Header.Revision+100))).Commit()
	checkRefused("a future revision inside a transaction", err, rpctypes.ErrFutureRev)
	// Clients of this language check the sort order themselves, so this one goes around them.
	_, err = pb.NewKVClient(s.client.ActiveConnection()).Range(s.ctx,
		&pb.RangeRequest{Key: []byte("a"), SortOrder: 77})
	checkRefused("an unknown sort order", rpctypes.Error(err), rpctypes.ErrInvalidSortOption)
	after := s.get("", clientv3.WithPrefix())
	check("nothing was changed by any of them", words(show(after), after.Header.Revision), words(show(before), before.Header.Revision))
	must(s.client.Txn(s.ctx).Then(many[:128]...).Commit())
	check("128 operations are not too many", s.get("many/", clientv3.WithPrefix(), clientv3.WithCountOnly()).Count, 128)
}

func (s *scenario) deletes() {
	answer := must(s.client.Delete(s.ctx, "many/", clientv3.WithPrefix(), clientv3.WithPrevKV()))
	check("a delete of a prefix answers each row", words(answer.Deleted, len(answer.PrevKvs)), "128 128")
	check("in the order of keys", string(answer.PrevKvs[0].Key), "many/0")
	again := must(s.client.Delete(s.ctx, "many/", clientv3.WithPrefix()))
	check("deleting nothing makes no revision", words(again.Deleted, again.Header.Revision), words(0, answer.Header.Revision))
	old := s.get("many/", clientv3.WithPrefix(), clientv3.WithRev(answer.Header.Revision-1), clientv3.WithCountOnly())
	check("the rows are still there at the revision before", old.Count, 128)
	s.put("many/0", "back")
	row := s.get("many/0").Kvs[0]
	check("a key that comes back is new", words(row.Version, row.CreateRevision == row.ModRevision), "1 true")
	must(s.client.Delete(s.ctx, "many/", clientv3.WithFromKey()))
	check("a delete from a key on", keys(s.get("", clientv3.WithPrefix())), "a c")
}

func (s *scenario) compaction() {
	first := s.put("compact", "1").Header.Revision
	s.put("compact", "2")
	s.put("compact", "3")
	answer := must(s.client.Compact(s.ctx, first+1, clientv3.WithCompactPhysical()))
	check("a compaction makes no revision", answer.Header.Revision, first+2)
	_, err := s.client.Get(s.ctx, "compact", clientv3.WithRev(first))
	checkRefused("a compacted revision can't be read", err, rpctypes.ErrCompacted)
	check("the compacted revision itself can", string(s.get("compact", clientv3.WithRev(first+1)).Kvs[0].Value), "2")
	_, err = s.client.Compact(s.ctx, first+1)
	checkRefused("compacting the same revision again", err, rpctypes.ErrCompacted)
	_, err = s.client.Compact(s.ctx, first+100)
	checkRefused("compacting a future revision", err, rpctypes.ErrFutureRev)
	_, err = s.client.Txn(s.ctx).Then(clientv3.OpPut("x", "1"), clientv3.OpGet("a", clientv3.WithRev(2))).Commit()
	checkRefused("a compacted revision inside a transaction", err, rpctypes.ErrCompacted)
	check("and that transaction did nothing", s.get("x").Count, 0)
	must(s.client.Compact(s.ctx, first+2))
	check("what is newest survives", keys(s.get("", clientv3.WithPrefix())), "a c compact")
}

func (s *scenario) status() {
	header := s.put("status", "x").Header
	status := must(s.client.Status(s.ctx, s.client.Endpoints()[0]))
	check("status names the leader", status.Leader, header.MemberId)
	check("status has the header's fields", words(status.Header.ClusterId, status.Header.MemberId, status.Header.Revision),
		words(header.ClusterId, header.MemberId, header.Revision))
	check("status answers the term", status.RaftTerm, header.RaftTerm)
	check("all that is committed is applied", status.RaftAppliedIndex, status.RaftIndex)
	check("status answers sizes", status.DbSize > 0 && status.DbSizeInUse > 0 && status.DbSizeInUse <= status.DbSize, true)
	check("status claims 3.7", strings.HasPrefix(status.Version, "3.7."), true)
	check("a voter without errors", words(status.IsLearner, len(status.Errors)), "false 0")
	s.put("status", "y")
	later := must(s.client.Status(s.ctx, s.client.Endpoints()[0]))
	check("each put is one raft entry", later.RaftIndex, status.RaftIndex+1)
}
