package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
)

// Kind is a program that a member can be.
type Kind struct {
	Name string
	// variable of the environment that names the program.
	variable string
}

// The programs. All of them take etcd's flags.
var (
	Quorate = Kind{"quorate", "QUORATE_SERVER"}
	Etcd37  = Kind{"etcd 3.7", "QUORATE_ETCD37"}
	Etcd36  = Kind{"etcd 3.6", "QUORATE_ETCD36"}
)

// Program is the path of a program that a variable of the environment names.
func Program(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s must name a program: interop.py sets it", variable)
	}
	return path
}

// Member is one process with its data directory; it can be ended and started again.
type Member struct {
	Kind Kind
	Name string
	// ClientURL is where clients reach it.
	ClientURL string
	// PeerURL is what it advertises, ListenPeerURL where it listens.
	PeerURL, ListenPeerURL string
	DataDir                string
	// Flags come after all others.
	Flags []string

	program        string
	initialCluster string
	state          string

	mutex   sync.Mutex
	client  *clientv3.Client
	process *exec.Cmd
	ended   chan struct{}
	// exit is the process's end, once `ended` is closed.
	exit error
}

// ID is the member's own, as its answers tell it.
func (m *Member) ID(ctx context.Context) (uint64, error) {
	status, err := m.Status(ctx)
	if err != nil {
		return 0, err
	}
	return status.Header.MemberId, nil
}

// WALDir is where it keeps its write-ahead log.
func (m *Member) WALDir() string { return filepath.Join(m.DataDir, "member", "wal") }

// String names it in messages.
func (m *Member) String() string { return m.Name + " (" + m.Kind.Name + ")" }

// Spawn starts the process and returns without waiting for it to be ready.
func (m *Member) Spawn() error {
	flags := append([]string{
		"--name", m.Name, "--data-dir", m.DataDir,
		"--listen-client-urls", m.ClientURL, "--advertise-client-urls", m.ClientURL,
		"--listen-peer-urls", m.ListenPeerURL, "--initial-advertise-peer-urls", m.PeerURL,
		"--initial-cluster", m.initialCluster, "--initial-cluster-state", m.state,
	}, m.Flags...)
	log, err := os.OpenFile(m.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(m.program, flags...)
	process.Stdout, process.Stderr = log, log
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "ETCD") {
			process.Env = append(process.Env, variable)
		}
	}
	// A test that runs into its time limit cleans nothing up; its members must not stay.
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.process != nil {
		return fmt.Errorf("%s runs already", m)
	}
	if err := process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	m.process, m.ended, m.exit = process, ended, nil
	go func() {
		exit := process.Wait()
		m.mutex.Lock()
		m.process, m.exit = nil, exit
		m.mutex.Unlock()
		close(ended)
	}()
	return nil
}

// Runs tells whether the process is there, be it paused.
func (m *Member) Runs() bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.process != nil
}

// Signal sends a signal, if the process is there.
func (m *Member) Signal(signal syscall.Signal) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.process != nil {
		m.process.Process.Signal(signal)
	}
}

// Pause stops the process where it stands, Resume lets it go on.
func (m *Member) Pause() { m.Signal(syscall.SIGSTOP) }

// Resume is the opposite of Pause.
func (m *Member) Resume() { m.Signal(syscall.SIGCONT) }

// Kill sends SIGKILL, as `kill -9` does, and waits for the end.
func (m *Member) Kill() error {
	_, err := m.End(syscall.SIGKILL)
	return err
}

// Stop sends SIGTERM and waits for the end.
func (m *Member) Stop() error {
	_, err := m.End(syscall.SIGTERM)
	return err
}

// End sends a signal, waits for the end of the process and tells how long that took.
func (m *Member) End(signal syscall.Signal) (time.Duration, error) {
	if !m.Runs() {
		return 0, fmt.Errorf("%s does not run\n%s", m, m.LogTail())
	}
	sent := time.Now()
	m.Signal(signal)
	// A paused process takes only SIGKILL.
	m.Resume()
	err := m.AwaitEnd(stopTimeout)
	return time.Since(sent), err
}

// AwaitEnd waits until the process has ended by itself; it is killed if it does not.
func (m *Member) AwaitEnd(limit time.Duration) error {
	select {
	case <-m.ended:
		return nil
	case <-time.After(limit):
		m.Signal(syscall.SIGKILL)
		<-m.ended
		return fmt.Errorf("%s has not ended within %s\n%s", m, limit, m.LogTail())
	}
}

// ExitCode is that of the last process: -1 if a signal ended it.
func (m *Member) ExitCode() int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var exit *exec.ExitError
	if errors.As(m.exit, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// Client talks to this member alone and does not retry.
func (m *Member) Client() *clientv3.Client {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.client == nil {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:       []string{m.ClientURL},
			Logger:          zap.NewNop(),
			MaxUnaryRetries: 1,
			// A member that comes back is found at once.
			DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond,
				},
				MinConnectTimeout: time.Second,
			})},
		})
		if err != nil {
			panic(err) // the configuration is ours
		}
		m.client = client
	}
	return m.client
}

// KV is the bare service: what it answers is as it came.
func (m *Member) KV() etcdserverpb.KVClient {
	return etcdserverpb.NewKVClient(m.Client().ActiveConnection())
}

// Status asks the member for its own.
func (m *Member) Status(ctx context.Context) (*clientv3.StatusResponse, error) {
	return m.Client().Status(ctx, m.ClientURL)
}

// AwaitReady waits until it answers a linearizable read.
func (m *Member) AwaitReady() error {
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := m.Client().Get(ctx, "any")
		cancel()
		switch {
		case err == nil:
			return nil
		case !m.Runs():
			return fmt.Errorf("%s has ended: %v\n%s", m, m.exit, m.LogTail())
		case time.Now().After(deadline):
			return fmt.Errorf("%s does not answer within %s: %v\n%s", m, startTimeout, err, m.LogTail())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *Member) logPath() string { return m.DataDir + ".log" }

// Log is everything that it has written to its log so far.
func (m *Member) Log() string {
	text, _ := os.ReadFile(m.logPath())
	return string(text)
}

// LogTail is the end of the log.
func (m *Member) LogTail() string {
	lines := strings.Split(strings.TrimSpace(m.Log()), "\n")
	return fmt.Sprintf("-- the last lines of %s:\n%s", m.logPath(), strings.Join(lines[max(0, len(lines)-15):], "\n"))
}

// ResidentBytes is the memory that the process holds.
func (m *Member) ResidentBytes() (int64, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.process == nil {
		return 0, fmt.Errorf("%s does not run", m)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}
