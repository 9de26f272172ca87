package compare

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"quorate/interop/daemon"
)

// Target is one of the two that are compared: a server, or a cluster.
type Target struct {
	Name string
	// Conns are the members, in the order in which requests name them.
	Conns []*grpc.ClientConn
	// real has what an alias stands for here.
	real map[uint64]uint64
	// texts are pairs of an alias and what it stands for here, in strings and bytes.
	texts [][2]string
	// In a cluster terms are those of elections, and the log has an entry more for each.
	elections bool
}

// Pair is etcd and the server under test, in this order.
type Pair [2]*Target

// What both advertise; nobody else dials it while there is one member.
const (
	advertisedClient = "http://127.0.0.1:2379"
	advertisedPeer   = "http://127.0.0.1:2380"
)

// The cluster's version is decided within a few seconds of the start; until then the log grows by itself.
const versionTimeout = 30 * time.Second

// single starts both with one member and the same flags.
func single(t *testing.T, flags ...string) Pair {
	t.Helper()
	// Nothing here is lost with the power, and half the time is saved.
	flags = append([]string{
		"--unsafe-no-fsync", "--advertise-client-urls", advertisedClient, "--initial-advertise-peer-urls", advertisedPeer,
		"--initial-cluster", "m1=" + advertisedPeer,
	}, flags...)
	theirs, _ := daemon.StartEtcd37With(t, flags...)
	ours := daemon.New(t)
	ours.Flags = flags
	ours.Start(t)
	var pair Pair
	for number, server := range []struct{ name, endpoint string }{{"etcd", theirs}, {"quorate", ours.Endpoint}} {
		s := daemon.Connect(t, server.name, server.endpoint)
		pair[number] = newTarget(s.Name, s.Conn)
		pair[number].awaitVersion(t)
	}
	return pair
}

func newTarget(name string, conns ...*grpc.ClientConn) *Target {
	return &Target{Name: name, Conns: conns, real: map[uint64]uint64{}}
}

// awaitVersion waits until every member's storage is of the cluster's version.
func (t *Target) awaitVersion(test *testing.T) {
	test.Helper()
	for deadline, member := time.Now().Add(versionTimeout), 0; member < len(t.Conns); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := etcdserverpb.NewMaintenanceClient(t.Conns[member]).Status(ctx, &etcdserverpb.StatusRequest{})
		cancel()
		if err == nil && status.StorageVersion == "3.7.0" {
			member++
		} else if time.Now().After(deadline) {
			test.Fatalf("member %d of %s has no storage of version 3.7: %v, %v", member+1, t.Name, status, err)
		}
	}
}

// Aliases of ids: of members of a cluster, of members that were added, of leases that the server chose.
const (
	clusterAlias = 100
	memberAlias  = 101
	addedAlias   = 7001
	chosenAlias  = 8001
)

// own is the message as this server is to be asked.
func (t *Target) own(message proto.Message) proto.Message {
	if len(t.real) == 0 && len(t.texts) == 0 {
		return message
	}
	message = proto.Clone(message)
	t.replace(message.ProtoReflect(), func(id uint64) uint64 {
		if real, ok := t.real[id]; ok {
			return real
		}
		return id
	}, 0, 1)
	return message
}

// common is an answer as it is compared.
func (t *Target) common(message proto.Message) proto.Message {
	message = proto.Clone(message)
	t.replace(message.ProtoReflect(), func(id uint64) uint64 {
		for alias, real := range t.real {
			if real == id && id != 0 {
				return alias
			}
		}
		return id
	}, 1, 0)
	if t.elections {
		withoutElections(message.ProtoReflect())
	}
	neutral(message)
	return message
}

// Fields that hold the id of a member, a cluster or a lease.
var idFields = map[protoreflect.Name]bool{
	"ID": true, "lease": true, "cluster_id": true, "member_id": true, "memberID": true, "leader": true, "targetID": true,
}

// replace changes ids by `id`, and texts from one side of their pairs to the other.
func (t *Target) replace(message protoreflect.Message, id func(uint64) uint64, from, to int) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.IsMap() {
			return true
		}
		if field.IsList() {
			list := value.List()
			for i := range list.Len() {
				if changed, ok := t.replaced(field, list.Get(i), id, from, to); ok {
					list.Set(i, changed)
				}
			}
			return true
		}
		if changed, ok := t.replaced(field, value, id, from, to); ok {
			message.Set(field, changed)
		}
		return true
	})
}

func (t *Target) replaced(field protoreflect.FieldDescriptor, value protoreflect.Value, id func(uint64) uint64, from, to int) (protoreflect.Value, bool) {
	text := func(s string) string {
		for _, pair := range t.texts {
			s = strings.ReplaceAll(s, pair[from], pair[to])
		}
		return s
	}
	switch field.Kind() {
	case protoreflect.MessageKind:
		t.replace(value.Message(), id, from, to)
	case protoreflect.Uint64Kind:
		if idFields[field.Name()] {
			return protoreflect.ValueOfUint64(id(value.Uint())), true
		}
	case protoreflect.Int64Kind:
		if idFields[field.Name()] {
			return protoreflect.ValueOfInt64(int64(id(uint64(value.Int())))), true
		}
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text(value.String())), true
	case protoreflect.BytesKind:
		if len(t.texts) > 0 {
			return protoreflect.ValueOfBytes([]byte(text(string(value.Bytes())))), true
		}
	}
	return value, false
}

// withoutElections blanks terms and indexes of the log.
func withoutElections(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Kind() == protoreflect.MessageKind && !field.IsMap():
			if field.IsList() {
				for i := range value.List().Len() {
					withoutElections(value.List().Get(i).Message())
				}
			} else {
				withoutElections(value.Message())
			}
		case electionFields[field.Name()]:
			message.Set(field, protoreflect.ValueOfUint64(1))
		}
		return true
	})
}

var electionFields = map[protoreflect.Name]bool{"raft_term": true, "raftTerm": true, "raftIndex": true, "raftAppliedIndex": true}

// added takes a member that is added under an alias.
func added(alias uint64, r Request) Request {
	r.Learn = func(t *Target, answer proto.Message) {
		t.real[alias] = answer.(*etcdserverpb.MemberAddResponse).Member.ID
	}
	return r
}

// chose takes a lease whose id the server chooses under an alias; keys tell it in hexadecimal.
func chose(alias uint64, r Request) Request {
	r.Learn = func(t *Target, answer proto.Message) {
		id := uint64(answer.(*etcdserverpb.LeaseGrantResponse).ID)
		t.real[alias] = id
		t.texts = append(t.texts, [2]string{fmt.Sprintf("%x", alias), fmt.Sprintf("%x", id)})
	}
	return r
}
