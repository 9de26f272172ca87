package compare

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// snapshot takes a snapshot; the file is each one's own, so it is only looked at as a whole: every message, its length, its digest.
func snapshot() Request {
	return Request{Method: snapshotMethod, Talk: func(t *Target, r *Request) Answer {
		var answer Answer
		ctx, cancel := t.context(r)
		defer cancel()
		stream, err := etcdserverpb.NewMaintenanceClient(t.Conns[r.At]).Snapshot(ctx, &etcdserverpb.SnapshotRequest{})
		if err != nil {
			answer.fail(err)
			return answer
		}
		var last []byte
		digest, wrong, versions, remaining := sha256.New(), 0, map[string]bool{}, uint64(0)
		for number := 0; ; number++ {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				answer.fail(err)
				return answer
			}
			if number > 1 && message.RemainingBytes != remaining-min(remaining, uint64(len(message.Blob))) {
				wrong++
			}
			digest.Write(last)
			last, remaining = message.Blob, message.RemainingBytes
			versions[fmt.Sprintf("%q header %t", message.Version, message.Header != nil)] = true
		}
		answer.Lines = append(answer.Lines, fmt.Sprintf("%v, %d steps wrong, digest right %t, %d to come", versions, wrong,
			string(digest.Sum(nil)) == string(last), remaining))
		return answer
	}}
}

// askAll asks one after the other and ends at the first error.
func (t *Target) askAll(requests ...Request) Answer {
	return t.continued(Answer{}, requests...)
}

// continued adds the answers of further requests to one.
func (t *Target) continued(answer Answer, requests ...Request) Answer {
	for number := range requests {
		one := t.Ask(&requests[number])
		answer.Lines = append(answer.Lines, one.String())
		answer.Reasons = append(answer.Reasons, one.Reasons...)
		if one.Code != 0 {
			answer.Errors = append(answer.Errors, failure{one.Code, one.Text})
		}
		if one.Last != nil {
			answer.Last = one.Last
		}
		answer.Asked = append(answer.Asked, requests[number].Method)
	}
	return answer
}
