// Package compare asks etcd 3.7 and the server under test the same, one request after the other, over every service: a list that
// was chosen by hand, then requests that a seed draws. Status code, message and every field of each answer are compared.
//
//	QUORATE_SERVER         the server under test
//	QUORATE_ETCD37         etcd 3.7's server
//	QUORATE_INTEROP_FULL   set: 100,000 generated requests
//	QUORATE_COMPARE_SEED   the seed to draw from
//	QUORATE_COMPARE_COUNT  how many requests are generated
//
// The two servers are given the same name and advertise the same URLs, so that their ids need no mask. Where this cannot be (in
// clusters, whose members must find each other; ids that a server chose), both have the same alias for what differs: requests name
// the alias, and answers are shown with it.
package compare

import (
	"fmt"
	"reflect"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// Request is what both servers are asked: a call of one message, or a conversation on a stream.
type Request struct {
	// Method is the full name, as gRPC has it.
	Method string
	// Messages are what is sent. Within a watch, calls of other services stand between the messages of the stream.
	Messages []proto.Message
	// Headers are pairs of metadata.
	Headers []string
	// At is the member that is asked, the first one if there is but one.
	At int
	// Learn keeps what later requests need of an answer that was no error.
	Learn func(t *Target, answer proto.Message)
	// Talk replaces the plain way to ask.
	Talk func(t *Target, r *Request) Answer
	// Batch is asked at the same time instead, each for itself.
	Batch []Request
	// Title stands for requests that their messages do not tell.
	Title string
}

// methods are found by the message that is sent; where two share one, the second is named by who asks.
var methods = map[reflect.Type]string{}

const (
	kvService          = "/etcdserverpb.KV/"
	watchMethod        = "/etcdserverpb.Watch/Watch"
	keepAliveMethod    = "/etcdserverpb.Lease/LeaseKeepAlive"
	rangeStreamMethod  = kvService + "RangeStream"
	snapshotMethod     = "/etcdserverpb.Maintenance/Snapshot"
	observeMethod      = "/v3electionpb.Election/Observe"
	healthMethod       = "/grpc.health.v1.Health/"
	authService        = "/etcdserverpb.Auth/"
	maintenanceService = "/etcdserverpb.Maintenance/"
)

func init() {
	services := map[string][]proto.Message{
		kvService: {
			&etcdserverpb.RangeRequest{}, &etcdserverpb.PutRequest{}, &etcdserverpb.DeleteRangeRequest{}, &etcdserverpb.TxnRequest{},
		},
		"/etcdserverpb.Lease/": {
			&etcdserverpb.LeaseGrantRequest{}, &etcdserverpb.LeaseRevokeRequest{}, &etcdserverpb.LeaseTimeToLiveRequest{},
			&etcdserverpb.LeaseLeasesRequest{},
		},
		"/etcdserverpb.Cluster/": {
			&etcdserverpb.MemberAddRequest{}, &etcdserverpb.MemberRemoveRequest{}, &etcdserverpb.MemberUpdateRequest{},
			&etcdserverpb.MemberListRequest{}, &etcdserverpb.MemberPromoteRequest{},
		},
		maintenanceService: {
			&etcdserverpb.AlarmRequest{}, &etcdserverpb.StatusRequest{}, &etcdserverpb.DefragmentRequest{}, &etcdserverpb.HashRequest{},
			&etcdserverpb.HashKVRequest{}, &etcdserverpb.SnapshotRequest{}, &etcdserverpb.MoveLeaderRequest{}, &etcdserverpb.DowngradeRequest{},
		},
		authService: {
			&etcdserverpb.AuthEnableRequest{}, &etcdserverpb.AuthDisableRequest{}, &etcdserverpb.AuthStatusRequest{},
			&etcdserverpb.AuthenticateRequest{},
		},
		"/v3lockpb.Lock/": {&v3lockpb.LockRequest{}, &v3lockpb.UnlockRequest{}},
		"/v3electionpb.Election/": {
			&v3electionpb.CampaignRequest{}, &v3electionpb.ProclaimRequest{}, &v3electionpb.LeaderRequest{}, &v3electionpb.ResignRequest{},
		},
	}
	for service, messages := range services {
		for _, message := range messages {
			kind := reflect.TypeOf(message)
			methods[kind] = service + strings.TrimSuffix(kind.Elem().Name(), "Request")
		}
	}
	// Names that are not those of their messages.
	for name, message := range map[string]proto.Message{
		kvService + "Compact":                &etcdserverpb.CompactionRequest{},
		authService + "UserAdd":              &etcdserverpb.AuthUserAddRequest{},
		authService + "UserGet":              &etcdserverpb.AuthUserGetRequest{},
		authService + "UserList":             &etcdserverpb.AuthUserListRequest{},
		authService + "UserDelete":           &etcdserverpb.AuthUserDeleteRequest{},
		authService + "UserChangePassword":   &etcdserverpb.AuthUserChangePasswordRequest{},
		authService + "UserGrantRole":        &etcdserverpb.AuthUserGrantRoleRequest{},
		authService + "UserRevokeRole":       &etcdserverpb.AuthUserRevokeRoleRequest{},
		authService + "RoleAdd":              &etcdserverpb.AuthRoleAddRequest{},
		authService + "RoleGet":              &etcdserverpb.AuthRoleGetRequest{},
		authService + "RoleList":             &etcdserverpb.AuthRoleListRequest{},
		authService + "RoleDelete":           &etcdserverpb.AuthRoleDeleteRequest{},
		authService + "RoleGrantPermission":  &etcdserverpb.AuthRoleGrantPermissionRequest{},
		authService + "RoleRevokePermission": &etcdserverpb.AuthRoleRevokePermissionRequest{},
		healthMethod + "Check":               &grpc_health_v1.HealthCheckRequest{},
		healthMethod + "List":                &grpc_health_v1.HealthListRequest{},
	} {
		methods[reflect.TypeOf(message)] = name
	}
}

// ask is a call of the method that takes this message.
func ask(message proto.Message) Request {
	method, ok := methods[reflect.TypeOf(message)]
	if !ok {
		panic(fmt.Sprintf("no method takes a %T", message))
	}
	return Request{Method: method, Messages: []proto.Message{message}}
}

// asks is one request for each message.
func asks(messages ...proto.Message) []Request {
	var requests []Request
	for _, message := range messages {
		requests = append(requests, ask(message))
	}
	return requests
}

func rangeStream(message *etcdserverpb.RangeRequest) Request {
	return Request{Method: rangeStreamMethod, Messages: []proto.Message{message}}
}

func keepAlive(ids ...int64) Request {
	r := Request{Method: keepAliveMethod, Talk: talkKeepAlive}
	for _, id := range ids {
		r.Messages = append(r.Messages, &etcdserverpb.LeaseKeepAliveRequest{ID: id})
	}
	return r
}

func observe(name string) Request {
	return Request{Method: observeMethod, Messages: []proto.Message{&v3electionpb.LeaderRequest{Name: []byte(name)}}, Talk: talkFirst}
}

func healthWatch(service string) Request {
	r := ask(&grpc_health_v1.HealthCheckRequest{Service: service})
	r.Method, r.Talk = healthMethod+"Watch", talkFirst
	return r
}

// at asks another member than the first.
func (r Request) at(member int) Request {
	r.At = member
	return r
}

func (r Request) with(headers ...string) Request {
	r.Headers = append(r.Headers, headers...)
	return r
}

// weight is how many requests it counts for.
func (r *Request) weight() int {
	sent := 0
	for _, message := range r.Messages {
		if message != proto.Message(settle) {
			sent++
		}
	}
	return max(1, sent)
}

// String is the request in a form that can be read.
func (r *Request) String() string {
	if len(r.Batch) > 0 {
		var each []string
		for number := range r.Batch {
			each = append(each, r.Batch[number].String())
		}
		return "at the same time " + strings.Join(each, "\n       and ")
	}
	var said []string
	for _, message := range r.Messages {
		said = append(said, fmt.Sprintf("%s{%s}", message.ProtoReflect().Descriptor().Name(), show(message)))
	}
	text := r.Method + " " + r.Title + strings.Join(said, "; ")
	if len(r.Headers) > 0 {
		text += fmt.Sprintf(" with %q", r.Headers)
	}
	if r.At > 0 {
		text += fmt.Sprintf(" at member %d", r.At+1)
	}
	return text
}
