// Package chaos breaks clusters of real processes and asks afterwards whether what clients were told can be true: members
// are killed, paused, cut off, replaced, and spoken to by peers that are none.
//
//	QUORATE_SIM           path of quorate-sim, whose checkers judge the recorded histories
//	QUORATE_INTEROP_FULL  if not empty: as many rounds as a night has time for
//
// and what package cluster wants.
package chaos

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"quorate/interop/cluster"
)

// history records what clients ask and are told, in the form that `quorate-sim check-history` reads (sim/src/recorded.rs).
type history struct {
	path  string
	began time.Time

	mutex sync.Mutex
	file  *os.File
	out   *bufio.Writer
	// Revisions that answered writes claim, or that were explained by reading them.
	explained map[int64]bool
	newest    int64
	counts    counts
}

// counts are what the checker must find in the file.
type counts struct {
	Operations int `json:"operations"`
	Answered   int `json:"answered"`
	Refused    int `json:"refused"`
	Unknown    int `json:"unknown"`
	Writes     int `json:"writes"`
	Taps       int `json:"taps"`
	Crashes    int `json:"crashes"`
	Hashes     int `json:"hashes"`
}

func newHistory(t *testing.T, path string) *history {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return &history{path: path, began: time.Now(), file: file, out: bufio.NewWriterSize(file, 1<<20), explained: map[int64]bool{}}
}

func (h *history) nowNs() int64 { return time.Since(h.began).Nanoseconds() }

// write appends a record; the caller holds the mutex.
func (h *history) write(record any) {
	line, err := json.Marshal(record)
	if err != nil {
		panic(err) // records are ours
	}
	h.out.Write(append(line, '\n'))
}

type refusal struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type operation struct {
	Type    string   `json:"type"`
	Client  int      `json:"client"`
	StartNs int64    `json:"start_ns"`
	EndNs   int64    `json:"end_ns"`
	Call    string   `json:"call"`
	Request string   `json:"request"`
	Answer  *string  `json:"answer,omitempty"`
	Refused *refusal `json:"refused,omitempty"`
	Unknown bool     `json:"unknown,omitempty"`
}

// refusals promise that nothing was changed, and the checkers can judge them. The list is the simulator's.
var refusals = []error{
	rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCKeyNotFound, rpctypes.ErrGRPCValueProvided, rpctypes.ErrGRPCLeaseProvided,
	rpctypes.ErrGRPCTooManyOps, rpctypes.ErrGRPCDuplicateKey, rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev,
	rpctypes.ErrGRPCLeaseNotFound,
}

func refusalOf(err error) *refusal {
	found := status.Convert(err)
	for _, known := range refusals {
		if wanted := status.Convert(known); wanted.Code() == found.Code() && wanted.Message() == found.Message() {
			return &refusal{int(found.Code()), found.Message()}
		}
	}
	return nil
}

// call makes one call of the KV service on one member and records it.
func (h *history) call(client int, m *cluster.Member, limit time.Duration, request proto.Message) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	record := operation{Type: "operation", Client: client}
	kv := m.KV()
	record.StartNs = h.nowNs()
	answer, err := func() (proto.Message, error) {
		switch request := request.(type) {
		case *etcdserverpb.RangeRequest:
			record.Call = "range"
			return kv.Range(ctx, request)
		case *etcdserverpb.PutRequest:
			record.Call = "put"
			return kv.Put(ctx, request)
		case *etcdserverpb.DeleteRangeRequest:
			record.Call = "delete"
			return kv.DeleteRange(ctx, request)
		case *etcdserverpb.TxnRequest:
			record.Call = "txn"
			return kv.Txn(ctx, request)
		case *etcdserverpb.CompactionRequest:
			record.Call = "compact"
			return kv.Compact(ctx, request)
		}
		panic("no call of the KV service")
	}()
	record.EndNs = h.nowNs()
	record.Request = encode(request)

	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.counts.Operations++
	switch refused := refusalOf(err); {
	case err == nil:
		h.counts.Answered++
		encoded := encode(answer)
		record.Answer = &encoded
		revision, wrote := effect(answer)
		h.newest = max(h.newest, revision)
		if wrote {
			h.counts.Writes++
			h.explained[revision] = true
		}
	case refused != nil:
		h.counts.Refused++
		record.Refused = refused
	default:
		h.counts.Unknown++
		record.Unknown = true
	}
	h.write(record)
	return answer, err
}

func encode(message proto.Message) string {
	encoded, err := proto.Marshal(message)
	if err != nil {
		panic(err) // it came over the wire or goes over it
	}
	return hex.EncodeToString(encoded)
}

// effect tells the revision of an answer, and whether the call made it.
func effect(answer proto.Message) (int64, bool) {
	switch answer := answer.(type) {
	case *etcdserverpb.RangeResponse:
		return answer.Header.GetRevision(), false
	case *etcdserverpb.PutResponse:
		return answer.Header.GetRevision(), true
	case *etcdserverpb.DeleteRangeResponse:
		return answer.Header.GetRevision(), answer.Deleted > 0
	case *etcdserverpb.TxnResponse:
		return answer.Header.GetRevision(), txnWrote(answer)
	case *etcdserverpb.CompactionResponse:
		return answer.Header.GetRevision(), false
	}
	return 0, false
}

func txnWrote(answer *etcdserverpb.TxnResponse) bool {
	for _, response := range answer.Responses {
		if response.GetResponsePut() != nil || response.GetResponseDeleteRange().GetDeleted() > 0 {
			return true
		}
		if inner := response.GetResponseTxn(); inner != nil && txnWrote(inner) {
			return true
		}
	}
	return false
}

// newestRevision is the highest that any answer has told.
func (h *history) newestRevision() int64 {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.newest
}

func (h *history) answered() int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.counts.Answered
}

// crash notes that a member was killed.
func (h *history) crash() {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.counts.Crashes++
	h.write(map[string]any{"type": "crash", "at_ns": h.nowNs()})
}

// hashes notes what members hold.
func (h *history) hashes(hashes []cluster.MemberHash) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for _, each := range hashes {
		h.counts.Hashes++
		h.write(map[string]any{
			"type": "hash", "member": each.Member.Name, "revision": each.Revision, "compact_revision": each.CompactRevision,
			"hash": each.Hash,
		})
	}
}

// healed notes that all faults are over: within the limit each client must be served.
func (h *history) healed(limit time.Duration, clients []int) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.write(map[string]any{"type": "healed", "at_ns": h.nowNs(), "limit_ns": limit.Nanoseconds(), "clients": clients})
}

// unexplained are the revisions up to `to` that no answered write claims and that nobody has read.
func (h *history) unexplained(to int64) []int64 {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	var revisions []int64
	for revision := int64(2); revision <= to; revision++ {
		if !h.explained[revision] {
			revisions = append(revisions, revision)
		}
	}
	return revisions
}

// tap notes what a revision has changed, from the whole store at it and before it.
func (h *history) tap(revision int64, before, after []*mvccpb.KeyValue) {
	changed := map[string]any{}
	old := map[string]string{}
	for _, row := range before {
		old[string(row.Key)] = encode(row)
	}
	for _, row := range after {
		if encoded := encode(row); old[string(row.Key)] != encoded {
			changed[hex.EncodeToString(row.Key)] = encoded
		}
		delete(old, string(row.Key))
	}
	for key := range old {
		changed[hex.EncodeToString([]byte(key))] = nil
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.explained[revision] = true
	h.counts.Taps++
	h.write(map[string]any{"type": "tap", "revision": revision, "changed": changed})
}

// flush completes the file.
func (h *history) flush() error {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.out.Flush()
}

// message is a request or an answer.
type message = proto.Message
