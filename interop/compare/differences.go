package compare

import (
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// difference is one that is known: an etcd bug, or a decision.
type difference struct {
	id, why string
	// is tells whether this is it: the request, etcd's answer, ours.
	is func(r *Request, theirs, ours *Answer) bool
}

// differencesMax is how many there may be.
const differencesMax = 20

// differences are all that are known.
var differences = []difference{
	{
		"stream-sorted-by-chunk",
		"etcd bug: a streamed range whose order is NONE and whose target is no KEY sorts each chunk by that target and goes on after " +
			"its last one, so that keys are skipped or come twice, and are counted wrongly; here nothing is",
		func(r *Request, theirs, ours *Answer) bool {
			if r.Method != rangeStreamMethod || theirs.Code != codes.OK || ours.Code != codes.OK {
				return false
			}
			asked := r.Messages[0].(*etcdserverpb.RangeRequest)
			return asked.SortOrder == etcdserverpb.RangeRequest_NONE && asked.SortTarget != etcdserverpb.RangeRequest_KEY &&
				agreeOnPairs(theirs, ours)
		},
	},
	{
		"stream-in-one-message",
		"etcd bug: a streamed range with a negative limit takes that for the limit of its first chunk, and sends everything in one " +
			"message however large; here in chunks, as without a limit",
		func(r *Request, theirs, ours *Answer) bool {
			return r.Method == rangeStreamMethod && theirs.Code == codes.OK && ours.Code == codes.OK &&
				r.Messages[0].(*etcdserverpb.RangeRequest).Limit < 0 && len(theirs.Messages) == 1 &&
				proto.Equal(merged(theirs), merged(ours))
		},
	},
	{
		"alarm-raised-once",
		"decision: a database that is over its quota is told to the cluster once; etcd proposes the same alarm again with every write " +
			"that it refuses, so that its log grows while the disk is full",
		func(r *Request, theirs, ours *Answer) bool {
			one, ok := theirs.Last.(*etcdserverpb.StatusResponse)
			other, both := ours.Last.(*etcdserverpb.StatusResponse)
			// A quota that nothing fits is that of one phase.
			if !ok || !both || one.DbSizeQuota != 1 || one.RaftIndex < other.RaftIndex {
				return false
			}
			same := proto.Clone(other).(*etcdserverpb.StatusResponse)
			same.RaftIndex, same.RaftAppliedIndex = one.RaftIndex, one.RaftAppliedIndex
			return proto.Equal(one, same)
		},
	},
	{
		"ties-of-a-sort",
		"decision: what is equal to what a range is sorted by comes in the order of its keys; etcd's sort leaves it in any order once " +
			"there are more than twelve",
		onlyTies,
	},
}

// notYet tells whether the call is one that the server under test refuses as not built.
func notYet(r *Request, ours *Answer) bool {
	return strings.HasPrefix(r.Method, authService) && ours.Code == codes.Unimplemented
}

// known finds the id of a difference.
func known(r *Request, theirs, ours *Answer) (string, bool) {
	for _, each := range differences {
		if each.is(r, theirs, ours) {
			return each.id + ": " + each.why, true
		}
	}
	return "", false
}

// agreeOnPairs tells whether ours has no key twice, and what both have is the same.
func agreeOnPairs(theirs, ours *Answer) bool {
	pairs := map[string]proto.Message{}
	for _, pair := range merged(ours).(*etcdserverpb.RangeResponse).Kvs {
		if _, twice := pairs[string(pair.Key)]; twice {
			return false
		}
		pairs[string(pair.Key)] = pair
	}
	for _, pair := range merged(theirs).(*etcdserverpb.RangeResponse).Kvs {
		if found, both := pairs[string(pair.Key)]; both && !proto.Equal(found, pair) {
			return false
		}
	}
	return true
}

// merged is a streamed range as one answer.
func merged(answer *Answer) proto.Message {
	all := &etcdserverpb.RangeResponse{}
	for _, message := range answer.Messages {
		proto.Merge(all, message.(*etcdserverpb.RangeStreamResponse).RangeResponse)
	}
	return all
}
