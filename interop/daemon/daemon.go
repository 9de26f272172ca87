// Package daemon starts the server under test for Go tests, with etcd's flags and one member.
//
//	QUORATE_SERVER        path of the server's binary
//	QUORATE_SERVER_FLAGS  more flags for it, separated by spaces
package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"quorate/interop/writers"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
)

// Dial connects to a server until the end of the test; messages may have any size.
func Dial(t *testing.T, endpoint string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(endpoint, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Daemon is a server on a data directory; it can be ended and started again.
type Daemon struct {
	Endpoint string
	// Flags are further ones for the next start.
	Flags   []string
	dataDir string
	peerURL string
	process *exec.Cmd
	ended   chan error
}

// New prepares a server with a fresh data directory; whatever runs at the end of the test is killed.
func New(t *testing.T) *Daemon {
	d := &Daemon{
		Endpoint: "http://" + freeAddress(t),
		peerURL:  "http://" + freeAddress(t),
		dataDir:  filepath.Join(t.TempDir(), "member.etcd"),
	}
	t.Cleanup(func() {
		if d.process != nil {
			d.Kill(t)
		}
	})
	return d
}

// WALDir is where the server keeps its write-ahead log.
func (d *Daemon) WALDir() string { return filepath.Join(d.dataDir, "member", "wal") }

// LogPath is where the server's log goes.
func (d *Daemon) LogPath() string { return d.dataDir + ".log" }

// Start starts the server and waits until it answers a linearizable read.
func (d *Daemon) Start(t *testing.T) {
	t.Helper()
	binary := os.Getenv("QUORATE_SERVER")
	if binary == "" {
		t.Fatal("QUORATE_SERVER must name the server's binary")
	}
	flags := append([]string{
		"--name", "m1", "--data-dir", d.dataDir,
		"--listen-client-urls", d.Endpoint, "--advertise-client-urls", d.Endpoint,
		"--listen-peer-urls", d.peerURL, "--initial-advertise-peer-urls", d.peerURL,
		"--initial-cluster", "m1=" + d.peerURL,
	}, strings.Fields(os.Getenv("QUORATE_SERVER_FLAGS"))...)
	flags = append(flags, d.Flags...)
	log, err := os.OpenFile(d.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command(binary, flags...)
	d.process.Stdout, d.process.Stderr = log, log
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	d.ended = make(chan error, 1)
	go func(process *exec.Cmd) { d.ended <- process.Wait() }(d.process)
	if err := d.waitForAnswer(); err != nil {
		t.Fatalf("%s does not answer: %v\n%s", binary, err, d.logTail())
	}
}

func (d *Daemon) waitForAnswer() error {
	client, err := writers.Connect(d.Endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := client.Get(ctx, "any")
		cancel()
		switch {
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return err
		}
		select {
		case status := <-d.ended:
			d.ended <- status
			return fmt.Errorf("it ended: %v", status)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop sends SIGTERM and waits for the end.
func (d *Daemon) Stop(t *testing.T) { d.end(t, syscall.SIGTERM) }

// Kill sends SIGKILL, as `kill -9` does, and waits for the end.
func (d *Daemon) Kill(t *testing.T) { d.end(t, syscall.SIGKILL) }

func (d *Daemon) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	process := d.process
	d.process = nil
	process.Process.Signal(signal)
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		process.Process.Kill()
		<-d.ended
		t.Fatalf("no end within %s of signal %v\n%s", stopTimeout, signal, d.logTail())
	}
}

// MemoryMiB is what the server has in memory now.
func (d *Daemon) MemoryMiB(t *testing.T) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	t.Fatal("/proc tells no VmRSS")
	return 0
}

func (d *Daemon) logTail() string {
	text, _ := os.ReadFile(d.LogPath())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// FreeURL is a URL on the loopback address where nobody listens right now.
func FreeURL(t *testing.T) string { return "http://" + freeAddress(t) }

// given are the addresses that were told to be free: what takes one may not be there yet when the next is asked for.
var given struct {
	sync.Mutex
	addresses map[string]bool
}

func freeAddress(t *testing.T) string {
	given.Lock()
	defer given.Unlock()
	for {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := listener.Addr().String()
		listener.Close()
		if !given.addresses[address] {
			if given.addresses == nil {
				given.addresses = map[string]bool{}
			}
			given.addresses[address] = true
			return address
		}
	}
}
