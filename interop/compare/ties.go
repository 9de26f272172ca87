package compare

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Up to so many Go's sort leaves what is equal where it was.
const stableSortMax = 12

// onlyTies tells whether two answers differ in nothing but the order of what is equal to what a range was sorted by.
func onlyTies(r *Request, theirs, ours *Answer) bool {
	if theirs.Code != codes.OK || ours.Code != codes.OK || len(r.Messages) != 1 {
		return false
	}
	switch asked := r.Messages[0].(type) {
	case *etcdserverpb.RangeRequest:
		one, ok := theirs.Last.(*etcdserverpb.RangeResponse)
		other, both := ours.Last.(*etcdserverpb.RangeResponse)
		return ok && both && tiesOfRange(asked, one, other)
	case *etcdserverpb.TxnRequest:
		one, ok := theirs.Last.(*etcdserverpb.TxnResponse)
		other, both := ours.Last.(*etcdserverpb.TxnResponse)
		return ok && both && tiesOfTxn(asked, one, other)
	}
	return false
}

func tiesOfRange(asked *etcdserverpb.RangeRequest, one, other *etcdserverpb.RangeResponse) bool {
	if asked.SortOrder == etcdserverpb.RangeRequest_NONE && asked.SortTarget == etcdserverpb.RangeRequest_KEY {
		return false
	}
	if one.Count <= stableSortMax || len(one.Kvs) != len(other.Kvs) {
		return false
	}
	there := map[string]int{}
	for number := range one.Kvs {
		if !tied(asked.SortTarget, one.Kvs[number], other.Kvs[number]) {
			return false
		}
		there[show(one.Kvs[number])]++
		there[show(other.Kvs[number])]--
	}
	for _, count := range there {
		// A limit may cut between what is equal.
		if count != 0 && asked.Limit <= 0 {
			return false
		}
	}
	same := proto.Clone(other).(*etcdserverpb.RangeResponse)
	same.Kvs = one.Kvs
	return proto.Equal(one, same)
}

func tied(target etcdserverpb.RangeRequest_SortTarget, one, other *mvccpb.KeyValue) bool {
	switch target {
	case etcdserverpb.RangeRequest_VERSION:
		return one.Version == other.Version
	case etcdserverpb.RangeRequest_CREATE:
		return one.CreateRevision == other.CreateRevision
	case etcdserverpb.RangeRequest_MOD:
		return one.ModRevision == other.ModRevision
	case etcdserverpb.RangeRequest_VALUE:
		return string(one.Value) == string(other.Value)
	}
	return false
}

func tiesOfTxn(asked *etcdserverpb.TxnRequest, one, other *etcdserverpb.TxnResponse) bool {
	if one.Succeeded != other.Succeeded || !proto.Equal(one.Header, other.Header) || len(one.Responses) != len(other.Responses) {
		return false
	}
	operations := asked.Failure
	if one.Succeeded {
		operations = asked.Success
	}
	for number, operation := range operations {
		a, b := one.Responses[number], other.Responses[number]
		if proto.Equal(a, b) {
			continue
		}
		inner := operation.GetRequestRange()
		nested := operation.GetRequestTxn()
		switch {
		case inner != nil && tiesOfRange(inner, a.GetResponseRange(), b.GetResponseRange()):
		case nested != nil && tiesOfTxn(nested, a.GetResponseTxn(), b.GetResponseTxn()):
		default:
			return false
		}
	}
	return true
}
