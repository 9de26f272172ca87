package chaos

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// full is true where there is time for the whole number of rounds.
func full() bool { return os.Getenv("QUORATE_INTEROP_FULL") != "" }

// rounds is a number of rounds: the short one for each push, the full one for a night.
func rounds(short, long int) int {
	if full() {
		return long
	}
	return short
}

// drawSeed draws a seed and prints it; QUORATE_CHAOS_SEED repeats one. What a fault hits depends on the machine's timing
// as well.
func drawSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv("QUORATE_CHAOS_SEED"); given != "" {
		parsed, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatalf("QUORATE_CHAOS_SEED=%q: %v", given, err)
		}
		seed = parsed
	}
	t.Logf("QUORATE_CHAOS_SEED=%d", seed)
	return seed
}
