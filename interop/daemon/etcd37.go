package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// StartEtcd37 starts etcd 3.7 with one member, kills it at the end of the test, and returns its client URL.
//
//	QUORATE_ETCD37  path of its binary
func StartEtcd37(t *testing.T) string {
	t.Helper()
	client, _ := StartEtcd37With(t)
	return client
}

// StartEtcd37With does the same with further flags, and returns where its log goes, too.
func StartEtcd37With(t *testing.T, flags ...string) (clientURL, logPath string) {
	t.Helper()
	binary := os.Getenv("QUORATE_ETCD37")
	if binary == "" {
		t.Fatal("QUORATE_ETCD37 must name etcd 3.7's binary")
	}
	dir := t.TempDir()
	client, peer := FreeURL(t), FreeURL(t)
	logPath = filepath.Join(dir, "log")
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	flags = append([]string{"--name", "m1", "--data-dir", filepath.Join(dir, "m1.etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "m1=" + peer}, flags...)
	process := exec.Command(binary, flags...)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	return client, logPath
}
