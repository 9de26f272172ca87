package maintenance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"quorate/interop/daemon"
)

const (
	period            = "2s"
	compactionTimeout = 20 * time.Second
)

// What is older than a period is compacted without anybody asking, and the log tells so in the same words.
func TestCompactionByItself(t *testing.T) {
	flag := "--auto-compaction-retention=" + period
	ours := daemon.New(t)
	ours.Flags = []string{flag}
	ours.Start(t)
	etcd, etcdLog := daemon.StartEtcd37With(t, flag)
	theirLines := compacts(t, "etcd", etcd, etcdLog)
	ourLines := compacts(t, "quorate", ours.Endpoint, ours.LogPath())
	for number, theirs := range theirLines {
		if theirs != ourLines[number] {
			t.Errorf("etcd:    %s\nquorate: %s", theirs, ourLines[number])
		}
	}
}

// compacts writes until the first revision is gone, and returns what the log tells of that.
func compacts(t *testing.T, name, endpoint, log string) [2]string {
	kv := etcdserverpb.NewKVClient(daemon.Dial(t, endpoint))
	deadline := time.Now().Add(compactionTimeout)
	for number := 0; ; number++ {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		put := &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte(fmt.Sprint(number))}
		if _, err := kv.Put(ctx, put, grpc.WaitForReady(true)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k"), Revision: 2})
		cancel()
		if status.Code(err) == codes.OutOfRange {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%s: revision 2 is still there: %v", name, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	var found [2]string
	for number, message := range []string{"starting auto periodic compaction", "completed auto periodic compaction"} {
		for found[number] == "" {
			if time.Now().After(deadline) {
				t.Fatalf("%s logs no %q", name, message)
			}
			found[number] = lastLine(t, log, message)
			time.Sleep(10 * time.Millisecond)
		}
	}
	return found
}

// lastLine is the newest line of a log with that message, without what differs by nature.
func lastLine(t *testing.T, path, message string) string {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	shown := ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if !strings.Contains(lines.Text(), message) {
			continue
		}
		fields := map[string]any{}
		if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		for _, differs := range []string{"ts", "caller"} {
			delete(fields, differs)
		}
		for _, figure := range []string{"revision", "took"} {
			if _, is := fields[figure]; is {
				fields[figure] = fmt.Sprintf("a %T", fields[figure])
			}
		}
		text, _ := json.Marshal(fields)
		shown = string(text)
	}
	return shown
}
