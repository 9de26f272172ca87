// Package maintenance asks etcd 3.7 and the server under test the same of the maintenance service, and compares every field of
// every answer.
//
//	QUORATE_SERVER   the server under test
//	QUORATE_ETCD37   etcd 3.7's server
package maintenance

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/interop/daemon"
)

const (
	blobBytes = 32 << 10
	// A cluster's version changes within a few seconds of the wish.
	versionTimeout = 30 * time.Second
)

// server is one of the two.
type server struct {
	name        string
	kv          etcdserverpb.KVClient
	maintenance etcdserverpb.MaintenanceClient
}

func both(t *testing.T) [2]*server {
	var servers [2]*server
	for number, s := range daemon.Both(t) {
		servers[number] = &server{s.Name, etcdserverpb.NewKVClient(s.Conn), etcdserverpb.NewMaintenanceClient(s.Conn)}
		servers[number].waitForVersion(t, "3.7.0")
	}
	return servers
}

func (s *server) put(t *testing.T, key string, bytes int) {
	t.Helper()
	value := strings.Repeat("v", bytes)
	if _, err := s.kv.Put(context.Background(), &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
}

func (s *server) status(t *testing.T) *etcdserverpb.StatusResponse {
	t.Helper()
	answer, err := s.maintenance.Status(context.Background(), &etcdserverpb.StatusRequest{})
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	return answer
}

// waitForVersion waits until the storage is of the cluster's version.
func (s *server) waitForVersion(t *testing.T, version string) {
	t.Helper()
	deadline := time.Now().Add(versionTimeout)
	for s.status(t).StorageVersion != version {
		if time.Now().After(deadline) {
			t.Fatalf("%s: its storage version is %q, not %q", s.name, s.status(t).StorageVersion, version)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A step is asked of both, and tells what it was told. What differs by nature is masked: ids of cluster and member, the term.
type step struct {
	name string
	run  func(s *server) string
}

func downgrade(action etcdserverpb.DowngradeRequest_DowngradeAction, version string) step {
	return step{fmt.Sprintf("downgrade %v %q", action, version), func(s *server) string {
		answer, err := s.maintenance.Downgrade(context.Background(), &etcdserverpb.DowngradeRequest{Action: action, Version: version})
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s, version %q", daemon.Header(answer.Header), answer.Version)
	}}
}

func statusOfDowngrade() step {
	return step{"status", func(s *server) string {
		answer, err := s.maintenance.Status(context.Background(), &etcdserverpb.StatusRequest{})
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s, %v %q", daemon.Header(answer.Header), answer.DowngradeInfo.Enabled, answer.DowngradeInfo.TargetVersion)
	}}
}

func alarm(action etcdserverpb.AlarmRequest_AlarmAction, kind etcdserverpb.AlarmType) step {
	return step{fmt.Sprintf("alarm %v %v", action, kind), func(s *server) string {
		ctx := context.Background()
		of := uint64(0)
		if raised, err := s.maintenance.Alarm(ctx, &etcdserverpb.AlarmRequest{}); err == nil && len(raised.Alarms) > 0 {
			of = raised.Alarms[0].MemberID
		}
		answer, err := s.maintenance.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: action, MemberID: of, Alarm: kind})
		if err != nil {
			return daemon.Failure(err)
		}
		shown := daemon.Header(answer.Header)
		for _, raised := range answer.Alarms {
			shown += fmt.Sprintf(", %v", raised.Alarm)
		}
		return shown
	}}
}

func put(key string) step {
	return step{"put " + key, func(s *server) string {
		answer, err := s.kv.Put(context.Background(), &etcdserverpb.PutRequest{Key: []byte(key)})
		if err != nil {
			return daemon.Failure(err)
		}
		return daemon.Header(answer.Header)
	}}
}

var steps = []step{
	put("a"),
	{"defragment", func(s *server) string {
		answer, err := s.maintenance.Defragment(context.Background(), &etcdserverpb.DefragmentRequest{})
		if err != nil {
			return daemon.Failure(err)
		}
		return daemon.Header(answer.Header)
	}},
	{"hash", func(s *server) string {
		answer, err := s.maintenance.Hash(context.Background(), &etcdserverpb.HashRequest{})
		if err != nil {
			return daemon.Failure(err)
		}
		return fmt.Sprintf("%s, a hash %v", daemon.Header(answer.Header), answer.Hash != 0)
	}},
	{"move the leader to nobody", func(s *server) string {
		_, err := s.maintenance.MoveLeader(context.Background(), &etcdserverpb.MoveLeaderRequest{TargetID: 5})
		return daemon.Failure(err)
	}},
	alarm(etcdserverpb.AlarmRequest_GET, etcdserverpb.AlarmType_NONE),
	alarm(etcdserverpb.AlarmRequest_ACTIVATE, etcdserverpb.AlarmType_NONE),
	alarm(etcdserverpb.AlarmRequest_ACTIVATE, etcdserverpb.AlarmType_NOSPACE),
	put("b"),
	alarm(etcdserverpb.AlarmRequest_GET, etcdserverpb.AlarmType_NOSPACE),
	alarm(etcdserverpb.AlarmRequest_DEACTIVATE, etcdserverpb.AlarmType_CORRUPT),
	alarm(etcdserverpb.AlarmRequest_DEACTIVATE, etcdserverpb.AlarmType_NOSPACE),
	put("b"),
	statusOfDowngrade(),
	downgrade(etcdserverpb.DowngradeRequest_CANCEL, ""),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6.9"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6.0-rc.1"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.5.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.7.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.8.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "4.6.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "v3.6.0"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "old"),
	downgrade(etcdserverpb.DowngradeRequest_VALIDATE, ""),
	downgrade(etcdserverpb.DowngradeRequest_ENABLE, "3.5"),
	downgrade(etcdserverpb.DowngradeRequest_ENABLE, "old"),
	downgrade(7, "3.6.0"),
	statusOfDowngrade(),
}

func ask(t *testing.T, servers [2]*server, steps []step) {
	for number, step := range steps {
		if theirs, ours := step.run(servers[0]), step.run(servers[1]); theirs != ours {
			t.Errorf("step %d, %s\netcd:    %s\nquorate: %s", number, step.name, theirs, ours)
		}
	}
}

func TestAnswersAreEqual(t *testing.T) {
	ask(t, both(t), steps)
	t.Logf("%d answers compared", len(steps))
}

// The cluster's version goes down by one, and up again.
func TestDowngradeAndBack(t *testing.T) {
	servers := both(t)
	enable := downgrade(etcdserverpb.DowngradeRequest_ENABLE, "3.6")
	ask(t, servers, []step{enable, statusOfDowngrade(), downgrade(etcdserverpb.DowngradeRequest_ENABLE, "3.6")})
	for _, s := range servers {
		// etcd does not take its storage down while its log is newer.
		if s.name == "quorate" {
			s.waitForVersion(t, "3.6.0")
		} else {
			time.Sleep(6 * time.Second)
		}
	}
	ask(t, servers, []step{
		downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6.0"),
		downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.5.0"),
		put("a"),
		downgrade(etcdserverpb.DowngradeRequest_CANCEL, ""),
		statusOfDowngrade(),
	})
	for _, s := range servers {
		s.waitForVersion(t, "3.7.0")
	}
	time.Sleep(6 * time.Second)
	ask(t, servers, []step{downgrade(etcdserverpb.DowngradeRequest_VALIDATE, "3.6.0"), downgrade(etcdserverpb.DowngradeRequest_CANCEL, "")})
}

// How a snapshot comes: what is still to come, pieces of equal size, the digest at the end.
func TestSnapshotsComeAlike(t *testing.T) {
	for _, s := range both(t) {
		for i := 0; i < 40; i++ {
			s.put(t, fmt.Sprint(i), 10_000)
		}
		stream, err := s.maintenance.Snapshot(context.Background(), &etcdserverpb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var messages []*etcdserverpb.SnapshotResponse
		for {
			message, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			messages = append(messages, message)
		}
		last := len(messages) - 1
		digest, total, sent := sha256.New(), messages[0].RemainingBytes+uint64(len(messages[0].Blob)), uint64(0)
		for number, message := range messages {
			if message.Header != nil || message.Version != "3.7.0" {
				t.Errorf("%s: message %d has header %v and version %q", s.name, number, message.Header, message.Version)
			}
			if number == last {
				if message.RemainingBytes != 0 || string(message.Blob) != string(digest.Sum(nil)) {
					t.Errorf("%s: the last message has %d bytes to come, and the digest %x", s.name, message.RemainingBytes, message.Blob)
				}
				break
			}
			digest.Write(message.Blob)
			sent += uint64(len(message.Blob))
			if message.RemainingBytes != total-sent || (len(message.Blob) != blobBytes && number != last-1) {
				t.Errorf("%s: message %d of %d has %d bytes, and %d are to come, of %d", s.name, number, last, len(message.Blob), message.RemainingBytes, total)
			}
		}
		if sent != total || total < 400_000 {
			t.Errorf("%s: %d bytes came, of %d", s.name, sent, total)
		}
		t.Logf("%s: %d bytes in %d messages", s.name, total, len(messages))
	}
}
