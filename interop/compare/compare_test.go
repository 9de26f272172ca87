package compare

import (
	"strings"
	"testing"
)

// chosenMin is how many requests the list must have at least.
const chosenMin = 300

// chosen are the lists of requests that were chosen by hand; each is asked of fresh servers.
func chosen() []part {
	return []part{
		{"kv", [][]Request{listRange(), listPut(), listCompares(), listTxn(), listCompaction(), listWatch()}},
		{"leases", [][]Request{listLease()}},
		{"cluster", [][]Request{listCluster()}},
		{"maintenance", [][]Request{listHistory(), listMaintenance()}},
		{"locks", [][]Request{listConcurrency()}},
		{"auth", [][]Request{listAuth()}},
	}
}

type part struct {
	name  string
	lists [][]Request
}

// listHistory makes a few revisions, some of them compacted.
func listHistory() []Request {
	var list []Request
	for _, value := range "abcdefghij" {
		list = append(list, asks(put("a", string(value)), put(string(value), "v"), del(string(value), ""))...)
	}
	return append(list, ask(compact(25)))
}

func TestChosenRequests(t *testing.T) {
	parts := chosen()
	tallies := make([]*Tally, len(parts))
	t.Run("lists", func(t *testing.T) {
		for number, part := range parts {
			tallies[number] = newTally()
			t.Run(part.name, func(t *testing.T) {
				t.Parallel()
				pair := single(t)
				for _, list := range part.lists {
					compareList(t, pair, list, tallies[number])
				}
			})
		}
	})
	total := newTally()
	for _, tally := range tallies {
		total.merge(tally)
	}
	if total.Requests < chosenMin {
		t.Errorf("%d requests are listed, %d are wanted", total.Requests, chosenMin)
	}
	for _, line := range total.table() {
		// How often each method and each error is met is told of what is generated.
		if !strings.HasPrefix(line, "method") && !strings.HasPrefix(line, "error") {
			t.Log(line)
		}
	}
}
