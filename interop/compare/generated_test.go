package compare

import (
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	countShort = 2_000
	countFull  = 100_000
	// How often every method and every error within reach must have been met by a full run.
	reachedMin = 100
	// How long a difference is made shorter.
	reduceTimeout = 2 * time.Minute
	// A sequence that is told in full.
	toldMax = 60
)

// phase is a way to start the two, and what they are asked.
type phase struct {
	name string
	// How many of a thousand requests are its own, and how many at least.
	share, min int
	start      func(t *testing.T) Pair
	draws      func() []draw
}

func full() bool { return os.Getenv("QUORATE_INTEROP_FULL") != "" }

// number is what a variable of the environment says.
func number(t *testing.T, variable string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is no number", variable, text)
	}
	return number
}

// seedOf gives each phase a seed of its own.
func seedOf(seed int64, name string) int64 {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%d %s", seed, name)
	return int64(hash.Sum64() >> 1)
}

func TestGeneratedRequests(t *testing.T) {
	seed := number(t, "QUORATE_COMPARE_SEED", 1)
	count := int64(countShort)
	if full() {
		count = countFull
	}
	count = number(t, "QUORATE_COMPARE_COUNT", count)
	t.Logf("QUORATE_COMPARE_SEED=%d", seed)
	if len(differences) > differencesMax {
		t.Errorf("%d differences are known, %d may be", len(differences), differencesMax)
	}
	total, started := newTally(), time.Now()
	tallies := make([]*Tally, len(phases))
	t.Run("phases", func(t *testing.T) {
		for number, phase := range phases {
			tallies[number] = newTally()
			t.Run(phase.name, func(t *testing.T) {
				t.Parallel()
				phase.run(t, seed, max(int(count)*phase.share/1000, phase.min), tallies[number])
			})
		}
	})
	for _, tally := range tallies {
		total.merge(tally)
	}
	for _, line := range total.table() {
		t.Log(line)
	}
	t.Logf("seed %d, %d requests in %.0f s, %d kinds of known differences", seed, total.Requests, time.Since(started).Seconds(), len(total.Known))
	if full() && !t.Failed() {
		for _, missing := range total.missing(reachedMin) {
			t.Errorf("%s, of %d", missing, reachedMin)
		}
	}
}

// run asks both what the seed draws, until there were so many requests.
func (p phase) run(t *testing.T, seed int64, count int, tally *Tally) {
	pair, g := p.start(t), newGenerator(seedOf(seed, p.name))
	draws := p.draws()
	var asked []Request
	for tally.Requests < count {
		asked = append(asked, g.next(draws))
		r := &asked[len(asked)-1]
		v := askBoth(pair, r, tally)
		g.observe(r, &v.Theirs)
		if v.Differs || silent(&v.Theirs) || silent(&v.Ours) {
			t.Errorf("QUORATE_COMPARE_SEED=%d: request %d of phase %s\n%s", seed, len(asked)-1, p.name, explain(asked, v))
			p.reduce(t, asked)
			return
		}
	}
}

// reduce makes a sequence that ends in a difference as short as it can in some time, against fresh servers each time, and tells it.
func (p phase) reduce(t *testing.T, asked []Request) {
	deadline := time.Now().Add(reduceTimeout)
	best, tries, last := asked, 0, asked[len(asked)-1].String()
	differs := func(sequence []Request) bool {
		tries++
		found := false
		t.Run(fmt.Sprintf("reduce %d", tries), func(t *testing.T) {
			pair, tally := p.start(t), newTally()
			for number := range sequence {
				v := askBoth(pair, &sequence[number], tally)
				if v.Differs && sequence[number].String() == last {
					best, found = sequence[:number+1:number+1], true
				}
				if found || silent(&v.Theirs) || silent(&v.Ours) {
					return
				}
			}
		})
		return found
	}
	for _, size := range []int{1, 10, 100, 1000, 10_000} {
		if size < len(asked) && time.Now().Before(deadline) && differs(asked[len(asked)-size:]) {
			break
		}
	}
	for piece := len(best) / 2; piece >= 1 && time.Now().Before(deadline); {
		shorter := false
		for from := 0; from+piece < len(best) && time.Now().Before(deadline); {
			if differs(append(append([]Request{}, best[:from]...), best[from+piece:]...)) {
				shorter = true
			} else {
				from += piece
			}
		}
		if piece > 1 || !shorter {
			piece /= 2
		}
	}
	var lines []string
	for number := max(0, len(best)-toldMax); number < len(best); number++ {
		lines = append(lines, best[number].String())
	}
	t.Errorf("after %d tries, these %d requests still tell the two apart:\n%s", tries, len(best), strings.Join(lines, "\n"))
}
