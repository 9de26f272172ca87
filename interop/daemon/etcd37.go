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
	binary := os.Getenv("QUORATE_ETCD37")
	if binary == "" {
		t.Fatal("QUORATE_ETCD37 must name etcd 3.7's binary")
	}
	dir := t.TempDir()
	client, peer := FreeURL(t), FreeURL(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	process := exec.Command(binary, "--name", "m1", "--data-dir", filepath.Join(dir, "m1.etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "m1="+peer)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	return client
}
