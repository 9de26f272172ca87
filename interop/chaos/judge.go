package chaos

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"quorate/interop/cluster"
)

// judge hands a history to the simulator's checkers. It also forges two: a judge who finds nothing wrong with a write that
// never was and with a stale read proves nothing by his silence.
func judge(t *testing.T, h *history) {
	t.Helper()
	if err := h.flush(); err != nil {
		t.Fatal(err)
	}
	verdict, err := check(t, h.path)
	if err != nil {
		t.Errorf("the history %s is wrong: %v\n%s", h.path, err, verdict)
		return
	}
	var found counts
	if err := json.Unmarshal(verdict, &found); err != nil || found != h.counts {
		t.Errorf("the checkers read %s (%v), recorded was %+v", verdict, err, h.counts)
	}
	t.Logf("judged: %s", bytes.TrimSpace(verdict))
	for what, forge := range map[string]func([]operation) operation{
		"an acknowledged write is gone": h.lostWrite, "a read is stale": staleRead,
	} {
		forged := forgeHistory(t, h, forge)
		verdict, err := check(t, forged)
		if err == nil || !strings.Contains(string(verdict), "durable_acks") && !strings.Contains(string(verdict), "linearizable") {
			t.Errorf("forged so that %s, the history passes: %v %s", what, err, verdict)
		}
		os.Remove(forged)
	}
}

func check(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	checker := exec.Command(cluster.Program(t, "QUORATE_SIM"), "check-history", path)
	checker.Stdout, checker.Stderr = &out, &out
	err := checker.Run()
	return out.Bytes(), err
}

// forgeHistory writes a copy with one operation more, made from the operations that were answered.
func forgeHistory(t *testing.T, h *history, forge func([]operation) operation) string {
	t.Helper()
	text, err := os.ReadFile(h.path)
	if err != nil {
		t.Fatal(err)
	}
	var answered []operation
	for _, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		var record operation
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatal(err)
		}
		if record.Type == "operation" && record.Answer != nil {
			answered = append(answered, record)
		}
	}
	line, err := json.Marshal(forge(answered))
	if err != nil {
		t.Fatal(err)
	}
	path := h.path + ".forged"
	if err := os.WriteFile(path, append(text, line...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// lostWrite is a put that was acknowledged half-way and that nobody ever saw.
func (h *history) lostWrite(answered []operation) operation {
	forged := answered[len(answered)/2]
	forged.Client, forged.Call = 1, "put"
	forged.Request = encode(&etcdserverpb.PutRequest{Key: []byte(keyName(0)), Value: []byte("forged")})
	header := &etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 1, Revision: h.newestRevision() + 1, RaftTerm: 1}
	answer := encode(&etcdserverpb.PutResponse{Header: header})
	forged.Answer = &answer
	return forged
}

// staleRead gives the last linearizable read of a key the answer that an early one had got.
func staleRead(answered []operation) operation {
	var early, late *operation
	for index := range answered {
		each := &answered[index]
		request, answer := &etcdserverpb.RangeRequest{}, &etcdserverpb.RangeResponse{}
		if each.Call != "range" || decode(each.Request, request) != nil || decode(*each.Answer, answer) != nil {
			continue
		}
		if request.Serializable || request.Revision != 0 || len(request.RangeEnd) > 0 {
			continue
		}
		switch {
		case early == nil:
			early = each
		case each.Request == early.Request:
			late = each
		}
	}
	forged := *late
	forged.Answer = early.Answer
	return forged
}

func decode(text string, into proto.Message) error {
	encoded, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	return proto.Unmarshal(encoded, into)
}
