package compare

import (
	"fmt"
	"hash/crc32"
	"sort"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Longer values are shown by their length and checksum.
const shownBytesMax = 48

// show is a message in one line: every field that is set, in the order of their numbers, unknown ones too. A message that is there
// but empty differs from one that is not there.
func show(message proto.Message) string {
	return showMessage(message.ProtoReflect())
}

func showMessage(message protoreflect.Message) string {
	var fields []string
	descriptors := message.Descriptor().Fields()
	for number := range descriptors.Len() {
		field := descriptors.Get(number)
		if !message.Has(field) {
			continue
		}
		value := message.Get(field)
		switch {
		case field.IsList():
			var elements []string
			for i := range value.List().Len() {
				elements = append(elements, showValue(field, value.List().Get(i)))
			}
			fields = append(fields, fmt.Sprintf("%s:[%s]", field.Name(), strings.Join(elements, ", ")))
		case field.IsMap():
			var entries []string
			value.Map().Range(func(key protoreflect.MapKey, element protoreflect.Value) bool {
				entries = append(entries, fmt.Sprintf("%q:%s", key.String(), showValue(field.MapValue(), element)))
				return true
			})
			sort.Strings(entries)
			fields = append(fields, fmt.Sprintf("%s:{%s}", field.Name(), strings.Join(entries, ", ")))
		default:
			fields = append(fields, fmt.Sprintf("%s:%s", field.Name(), showValue(field, value)))
		}
	}
	if unknown := message.GetUnknown(); len(unknown) > 0 {
		fields = append(fields, fmt.Sprintf("unknown:%x", []byte(unknown)))
	}
	return strings.Join(fields, " ")
}

func showValue(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return "{" + showMessage(value.Message()) + "}"
	case protoreflect.BytesKind:
		return showBytes(value.Bytes())
	case protoreflect.StringKind:
		return fmt.Sprintf("%q", value.String())
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return string(known.Name())
		}
		return fmt.Sprint(value.Enum())
	default:
		return fmt.Sprint(value.Interface())
	}
}

func showBytes(bytes []byte) string {
	if len(bytes) > shownBytesMax {
		return fmt.Sprintf("%q…%d bytes, %08x", bytes[:8], len(bytes), crc32.ChecksumIEEE(bytes))
	}
	return fmt.Sprintf("%q", bytes)
}

// A lease that was granted a moment later has as much more left.
const ttlSlackSecs = 900

// How far what a status tells as applied may be behind.
const statusLagMax = 2

// neutral takes out of an answer what differs by nature: the version of the program, the size of its database and the hash over
// the file, how much of a lease is left to the second; and sorts what etcd tells in no order.
func neutral(message proto.Message) {
	switch answer := message.(type) {
	case *etcdserverpb.StatusResponse:
		answer.Version = fmt.Sprintf("set %t", answer.Version != "")
		answer.DbSize = sign(answer.DbSize)
		answer.DbSizeInUse = sign(answer.DbSizeInUse)
		// etcd answers before it tells that it has applied.
		if answer.RaftAppliedIndex+statusLagMax >= answer.RaftIndex {
			answer.RaftAppliedIndex = answer.RaftIndex
		}
		// Go's text form of a message has one space or two, by the build of the program.
		for i := range answer.Errors {
			answer.Errors[i] = strings.ReplaceAll(answer.Errors[i], "  ", " ")
		}
	case *etcdserverpb.AlarmResponse:
		sort.Slice(answer.Alarms, func(i, j int) bool {
			one, other := answer.Alarms[i], answer.Alarms[j]
			return one.MemberID < other.MemberID || (one.MemberID == other.MemberID && one.Alarm < other.Alarm)
		})
	case *etcdserverpb.HashResponse:
		answer.Hash = uint32(sign(int64(answer.Hash)))
	case *etcdserverpb.LeaseTimeToLiveResponse:
		if answer.TTL > 0 && answer.TTL <= answer.GrantedTTL && answer.GrantedTTL-answer.TTL < ttlSlackSecs {
			answer.TTL = answer.GrantedTTL
		}
		sort.Slice(answer.Keys, func(i, j int) bool { return string(answer.Keys[i]) < string(answer.Keys[j]) })
	case *etcdserverpb.MemberListResponse:
		sortMembers(answer.Members)
	case *etcdserverpb.MemberAddResponse:
		sortMembers(answer.Members)
	case *etcdserverpb.MemberRemoveResponse:
		sortMembers(answer.Members)
	case *etcdserverpb.MemberUpdateResponse:
		sortMembers(answer.Members)
	case *etcdserverpb.MemberPromoteResponse:
		sortMembers(answer.Members)
	}
}

// sortMembers sorts by the aliases of their ids.
func sortMembers(members []*etcdserverpb.Member) {
	sort.Slice(members, func(i, j int) bool { return members[i].ID < members[j].ID })
}

func sign(number int64) int64 {
	switch {
	case number > 0:
		return 1
	case number < 0:
		return -1
	}
	return 0
}
