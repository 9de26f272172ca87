package http

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"quorate/interop/daemon"
)

// What is asked about profiles has the same status and headers; what is told is each one's own.
func TestPprofPaths(t *testing.T) {
	paths := []string{"", "cmdline", "symbol", "profile?seconds=1", "heap", "nothing"}
	for _, flag := range []string{"--enable-pprof", "--enable-pprof=false", "--log-level=debug"} {
		servers := both(t, []string{"metrics"}, flag)
		tellBothTheSame(t, servers, func(s *server) {
			for _, path := range paths {
				for _, listener := range []string{"client", "metrics"} {
					answer := s.send(request{method: "GET", path: "/debug/pprof/" + path, listener: listener})
					answer.Body.Close()
					s.note("%s %s %q: %d %s %q %q", flag, listener, path, answer.StatusCode, show(answer.Header),
						answer.Header["Content-Disposition"], answer.Header["X-Go-Pprof"])
				}
			}
			// Only the client's listener has the page, and only while the log shows everything.
			for _, listener := range []string{"client", "metrics"} {
				answer := s.send(request{method: "GET", path: "/debug/requests", listener: listener})
				answer.Body.Close()
				s.note("%s %s /debug/requests: %d %s", flag, listener, answer.StatusCode, show(answer.Header))
			}
		})
	}
}

// load puts until it is told to stop.
func load(t *testing.T, s *server) (stop func()) {
	t.Helper()
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !over.Load() {
			body := `{"key":"` + b64("a") + `","value":"` + b64(strings.Repeat("v", 4096)) + `"}`
			answer := s.send(request{method: "POST", path: "/v3/kv/put", body: body})
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}
	}()
	return func() {
		over.Store(true)
		<-ended
	}
}

// top is what Go's tool makes of a profile, the functions that are on most stacks first.
func top(t *testing.T, url string) string {
	t.Helper()
	command := exec.Command("go", "tool", "pprof", "-top", "-cum", "-nodecount=400", url)
	command.Env = append(command.Environ(), "PPROF_TMPDIR="+t.TempDir())
	var told, failed bytes.Buffer
	command.Stdout, command.Stderr = &told, &failed
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %v\n%s%s", command.Args, err, told.String(), failed.String())
	}
	return told.String()
}

func TestGosToolReadsProfiles(t *testing.T) {
	d := daemon.New(t)
	d.Flags = []string{"--enable-pprof"}
	d.Start(t)
	s := &server{t: t, name: "quorate", urls: map[string]string{"client": d.Endpoint}}
	daemon.Connect(t, s.name, s.urls["client"])
	stop := load(t, s)
	defer stop()

	cpu := top(t, d.Endpoint+"/debug/pprof/profile?seconds=3")
	for _, expected := range []string{"Type: cpu", "quorate/main.rs:", "member/", "api/"} {
		if !strings.Contains(cpu, expected) {
			t.Errorf("no %q in\n%s", expected, cpu)
		}
	}
	heap := top(t, d.Endpoint+"/debug/pprof/heap")
	for _, expected := range []string{"Type: inuse_space", "quorate/allocator.rs:", "store/"} {
		if !strings.Contains(heap, expected) {
			t.Errorf("no %q in\n%s", expected, heap)
		}
	}
	// One at a time, as in Go.
	first := make(chan int)
	go func() {
		answer := s.send(request{method: "GET", path: "/debug/pprof/profile?seconds=2"})
		answer.Body.Close()
		first <- answer.StatusCode
	}()
	time.Sleep(time.Second)
	answer := s.send(request{method: "GET", path: "/debug/pprof/profile?seconds=1"})
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != 500 || string(body) != "Could not enable CPU profiling: cpu profiling already in use\n" {
		t.Errorf("a second profile: %d %q, %v", answer.StatusCode, body, err)
	}
	if status := <-first; status != 200 {
		t.Errorf("the first profile: %d", status)
	}
}
