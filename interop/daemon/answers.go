package daemon

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
)

// Failure shows an error of a call, to be compared between two servers.
func Failure(err error) string {
	return fmt.Sprintf("%s: %q", status.Code(err), status.Convert(err).Message())
}

// Header shows the header of an answer without what differs by nature between two servers.
func Header(h *etcdserverpb.ResponseHeader) string {
	if h == nil {
		return "no header"
	}
	return fmt.Sprintf("revision %d, ids %v", h.Revision, h.ClusterId != 0 && h.MemberId != 0 && h.RaftTerm != 0)
}
