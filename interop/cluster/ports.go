package cluster

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
)

// portsDefault lies below the range from which the system takes the ports of outgoing connections: a member that is
// down must find its port free when it comes back.
const portsDefault = "20000-29999"

var ports struct {
	sync.Mutex
	first, last, next int
}

// freeAddress is an address of the loopback network on which nobody listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		given := os.Getenv("QUORATE_INTEROP_PORTS")
		if given == "" {
			given = portsDefault
		}
		if _, err := fmt.Sscanf(given, "%d-%d", &ports.first, &ports.last); err != nil || ports.last <= ports.first {
			t.Fatalf("QUORATE_INTEROP_PORTS=%q: want FIRST-LAST", given)
		}
		// Two runs at the same time begin at different places.
		ports.next = ports.first + os.Getpid()*64%(ports.last-ports.first)
	}
	for range ports.last - ports.first {
		address := fmt.Sprintf("127.0.0.1:%d", ports.next)
		if ports.next++; ports.next > ports.last {
			ports.next = ports.first
		}
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatalf("no free port from %d to %d", ports.first, ports.last)
	return ""
}
