package daemon

import "testing"

// CompareTold demands that two servers have answered the same, line by line.
func CompareTold(t *testing.T, theirs, ours []string) {
	t.Helper()
	for number := range max(len(theirs), len(ours)) {
		line := func(told []string) string {
			if number < len(told) {
				return told[number]
			}
			return "nothing"
		}
		if line(theirs) != line(ours) {
			t.Errorf("line %d\netcd:    %s\nquorate: %s", number, line(theirs), line(ours))
		}
	}
	t.Logf("%d answers compared", len(theirs))
}
