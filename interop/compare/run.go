package compare

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// lastShown is how many requests before one that differs are told.
const lastShown = 15

// methodOf is the method that takes a message, if only one does.
func methodOf(message proto.Message) (string, bool) {
	method, ok := methods[reflect.TypeOf(message)]
	return method, ok
}

// Verdict is what became of a request that was asked of both.
type Verdict struct {
	Theirs, Ours Answer
	// Differs is a difference that nobody knows.
	Differs bool
}

// askBoth asks both at the same time, and counts.
func askBoth(pair Pair, r *Request, tally *Tally) Verdict {
	if len(r.Batch) > 0 {
		return askBatch(pair, r.Batch, tally)
	}
	theirs := make(chan Answer, 1)
	go func() { theirs <- pair[0].Ask(r) }()
	ours := pair[1].Ask(r)
	v := Verdict{Theirs: <-theirs, Ours: ours}
	switch {
	case v.Theirs.String() == v.Ours.String():
		tally.count(r, &v.Theirs)
	case notYet(r, &v.Ours):
		tally.NotYet[r.Method]++
	default:
		id, ok := known(r, &v.Theirs, &v.Ours)
		if ok {
			tally.Known[id]++
			tally.count(r, &v.Theirs)
		}
		v.Differs = !ok
	}
	return v
}

// askBatch asks both everything at the same time. The verdict is that of the first that differs, or the last one's.
func askBatch(pair Pair, batch []Request, tally *Tally) Verdict {
	verdicts, tallies := make([]Verdict, len(batch)), make([]*Tally, len(batch))
	var group sync.WaitGroup
	for number := range batch {
		tallies[number] = newTally()
		group.Go(func() { verdicts[number] = askBoth(pair, &batch[number], tallies[number]) })
	}
	group.Wait()
	for number, v := range verdicts {
		tally.merge(tallies[number])
		if v.Differs {
			v.Theirs.Lines = append([]string{batch[number].String()}, v.Theirs.Lines...)
			return v
		}
	}
	return verdicts[len(verdicts)-1]
}

// explain is the text of a difference.
func explain(asked []Request, v Verdict) string {
	var text strings.Builder
	for number := max(0, len(asked)-lastShown); number < len(asked); number++ {
		fmt.Fprintf(&text, "%6d %s\n", number, asked[number].String())
	}
	fmt.Fprintf(&text, "etcd     %s\nquorate  %s", v.Theirs.String(), v.Ours.String())
	return text.String()
}

// compareList asks both everything in a list, and tells every difference.
func compareList(t *testing.T, pair Pair, list []Request, tally *Tally) {
	t.Helper()
	for number := range list {
		v := askBoth(pair, &list[number], tally)
		if v.Differs {
			t.Errorf("request %d\n%s\netcd     %s\nquorate  %s", number, list[number].String(), v.Theirs.String(), v.Ours.String())
		}
		if silent(&v.Theirs) || silent(&v.Ours) {
			t.Fatalf("request %d was not answered\n%s", number, list[number].String())
		}
	}
}

// silent tells whether there was no answer at all, after which nothing that is asked tells anything.
func silent(answer *Answer) bool {
	return answer.Took >= patience || (answer.Code == codes.Unavailable && strings.Contains(answer.Text, "connection error"))
}
