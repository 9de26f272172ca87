// Package bolt holds the tests that share database files with etcd: bolt_test.go has bbolt itself read what quorate wrote
// and the other way round, snapshot_test.go does the same with whole snapshots and etcd's own storage.
package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// contents are the pairs of each bucket.
type contents map[string]map[string]string

// What bbolt makes of a few thousand random changes, quorate reads and writes again; bbolt finds nothing wrong with that,
// finds the same pairs, and can go on writing.
func TestBboltReadsWhatQuorateCopied(t *testing.T) {
	for _, pageSize := range []int{1024, 4096, 16384} {
		for _, copySize := range []int{512, 4096, 65536} {
			t.Run(fmt.Sprintf("pages of %d to %d", pageSize, copySize), func(t *testing.T) {
				dir := t.TempDir()
				source := filepath.Join(dir, "source.db")
				churn(t, source, pageSize, uint64(pageSize))
				want := read(t, source)
				target := filepath.Join(dir, "copy.db")
				copyBy(t, source, target, fmt.Sprint(copySize))
				compare(t, read(t, target), want)
				writeOn(t, target)
			})
		}
	}
}

// A snapshot is what a transaction writes out: the file with its free pages, up to the high-water mark.
func TestQuorateReadsWhatATransactionWroteOut(t *testing.T) {
	dir := t.TempDir()
	source, written := filepath.Join(dir, "source.db"), filepath.Join(dir, "written.db")
	churn(t, source, 4096, 7)
	db := open(t, source, &bolt.Options{NoFreelistSync: true})
	file := must(os.Create(written))(t)
	if err := db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(file)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	file.Close()
	db.Close()
	target := filepath.Join(dir, "copy.db")
	copyBy(t, written, target)
	compare(t, read(t, target), read(t, source))
	if before, after := size(t, written), size(t, target); after > before {
		t.Errorf("the copy has %d bytes, bbolt's own %d", after, before)
	}
}

// No buckets, empty ones, and a large tree with a value of many pages.
func TestExtremes(t *testing.T) {
	for name, fill := range map[string]func(tx *bolt.Tx) error{
		"nothing": func(tx *bolt.Tx) error { return nil },
		"empty buckets": func(tx *bolt.Tx) error {
			for _, name := range []string{"key", "meta", "z"} {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return nil
		},
		"many keys": func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucket([]byte("key"))
			if err != nil {
				return err
			}
			for number := range uint64(50_000) {
				key := binary.BigEndian.AppendUint64(nil, number)
				if err := bucket.Put(key, fmt.Appendf(nil, "value %d", number)); err != nil {
					return err
				}
			}
			return bucket.Put([]byte("\xffhuge"), bytes.Repeat([]byte("v"), 9<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			source, target := filepath.Join(dir, "source.db"), filepath.Join(dir, "copy.db")
			db := open(t, source, nil)
			if err := db.Update(fill); err != nil {
				t.Fatal(err)
			}
			db.Close()
			copyBy(t, source, target)
			compare(t, read(t, target), read(t, source))
			writeOn(t, target)
		})
	}
}

// What is cut short is refused, by name.
func TestQuorateRefusesACutFile(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source.db")
	churn(t, source, 4096, 3)
	whole := must(os.ReadFile(source))(t)
	for _, length := range []int{0, 100, 4096, len(whole) / 2} {
		cut := filepath.Join(dir, fmt.Sprintf("cut-%d.db", length))
		if err := os.WriteFile(cut, whole[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		output, err := command(t, "QUORATE_BOLT_COPY", cut, cut+".copy").CombinedOutput()
		if err == nil || !strings.Contains(string(output), cut) || strings.Contains(string(output), "panicked") {
			t.Errorf("a file cut to %d bytes: %v, %s", length, err, output)
		}
	}
}

// churn makes a database that has seen a lot: puts of all lengths, deletes, buckets removed and made again.
func churn(t *testing.T, path string, pageSize int, seed uint64) {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 1))
	db := open(t, path, &bolt.Options{PageSize: pageSize, NoSync: true, NoFreelistSync: seed%2 == 1})
	defer db.Close()
	for range 60 {
		err := db.Update(func(tx *bolt.Tx) error {
			name := fmt.Appendf(nil, "bucket-%d", dice.IntN(6))
			if dice.IntN(15) == 0 && tx.Bucket(name) != nil {
				return tx.DeleteBucket(name)
			}
			bucket, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			for range dice.IntN(200) {
				key := fmt.Appendf(nil, "key-%d", dice.IntN(3000))
				switch {
				case dice.IntN(4) == 0:
					err = bucket.Delete(key)
				case dice.IntN(100) == 0:
					err = bucket.Put(key, bytes.Repeat([]byte{byte(dice.IntN(256))}, dice.IntN(100_000)))
				default:
					err = bucket.Put(key, bytes.Repeat([]byte{byte(dice.IntN(256))}, dice.IntN(200)))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// read takes everything out of a database, which bbolt finds nothing wrong with.
func read(t *testing.T, path string) contents {
	t.Helper()
	db := open(t, path, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	defer db.Close()
	found := contents{}
	if err := db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("%s: bbolt's check: %v", filepath.Base(path), err)
		}
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
			pairs := map[string]string{}
			found[string(name)] = pairs
			return bucket.ForEach(func(key, value []byte) error {
				pairs[string(key)] = string(value)
				return nil
			})
		})
	}); err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
	return found
}

// writeOn changes what quorate wrote, as an etcd does that has received it.
func writeOn(t *testing.T, path string) {
	t.Helper()
	for _, options := range []*bolt.Options{{NoFreelistSync: true}, {}} {
		db := open(t, path, options)
		for round := range 5 {
			if err := db.Update(func(tx *bolt.Tx) error {
				bucket, err := tx.CreateBucketIfNotExists([]byte("key"))
				if err != nil {
					return err
				}
				return bucket.Put(fmt.Appendf(nil, "later-%d", round), bytes.Repeat([]byte("x"), 3000*round))
			}); err != nil {
				t.Fatal(err)
			}
		}
		db.Close()
		if found := read(t, path)["key"]["later-4"]; len(found) != 12000 {
			t.Errorf("bbolt wrote 12000 bytes and found %d", len(found))
		}
	}
}

func compare(t *testing.T, got, want contents) {
	t.Helper()
	for name, pairs := range want {
		if _, exists := got[name]; !exists {
			t.Errorf("bucket %q is missing", name)
		}
		for key, value := range pairs {
			if found, exists := got[name][key]; !exists || found != value {
				t.Errorf("bucket %q, key %x: got %.80x (%v), want %.80x", name, key, found, exists, value)
			}
		}
	}
	for name, pairs := range got {
		if len(pairs) != len(want[name]) {
			t.Errorf("bucket %q has %d keys, want %d", name, len(pairs), len(want[name]))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d buckets, want %d", len(got), len(want))
	}
}

func open(t *testing.T, path string, options *bolt.Options) *bolt.DB {
	t.Helper()
	return must(bolt.Open(path, 0o600, options))(t)
}

// copyBy has quorate read a file and write another.
func copyBy(t *testing.T, arguments ...string) {
	t.Helper()
	if output, err := command(t, "QUORATE_BOLT_COPY", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("bolt_copy %v: %v: %s", arguments, err, output)
	}
}

func command(t *testing.T, variable string, arguments ...string) *exec.Cmd {
	t.Helper()
	program := os.Getenv(variable)
	if program == "" {
		t.Fatalf("%s must name one of quorate's examples (target/release/examples)", variable)
	}
	return exec.Command(program, arguments...)
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	return must(os.Stat(path))(t).Size()
}

// must is for calls whose failure means that the test itself can't run.
func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
