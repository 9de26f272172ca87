package cluster

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Network stands between members: each advertises an address of a proxy and listens elsewhere. A link that is cut lets no
// byte pass in its direction, as a network does that loses every packet; nothing is reset. Bytes that wait are delivered
// when the link is mended, if both ends still want them.
//
// Who dials is found by looking whose process owns the socket, so that links can be cut by direction: what A tells B
// travels on connections that A dialed as well as in the answers to those that B dialed.
type Network struct {
	cluster *Cluster
	mutex   sync.Mutex
	mended  *sync.Cond
	cut     map[link]bool
	closed  bool
}

type link struct{ from, to *Member }

// Proxied puts a Network between the members, before they are started.
func (c *Cluster) Proxied() *Network {
	c.t.Helper()
	n := &Network{cluster: c, cut: map[link]bool{}}
	n.mended = sync.NewCond(&n.mutex)
	for _, m := range c.Members {
		listener, err := net.Listen("tcp", strings.TrimPrefix(m.PeerURL, "http://"))
		if err != nil {
			c.t.Fatal(err)
		}
		m.ListenPeerURL = "http://" + freeAddress(c.t)
		c.t.Cleanup(func() { listener.Close() })
		go n.accept(listener, m)
	}
	c.t.Cleanup(func() {
		n.mutex.Lock()
		defer n.mutex.Unlock()
		n.closed = true
		n.mended.Broadcast()
	})
	return n
}

// Cut lets nothing more pass from one member to another; the other direction stays.
func (n *Network) Cut(from, to *Member) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.cut[link{from, to}] = true
}

// Isolate cuts a member off from all others, both ways.
func (n *Network) Isolate(m *Member) {
	for _, other := range n.cluster.Members {
		if other != m {
			n.Cut(m, other)
			n.Cut(other, m)
		}
	}
}

// Mend mends all links.
func (n *Network) Mend() {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	clear(n.cut)
	n.mended.Broadcast()
}

// awaitOpen returns once bytes may pass, or false once the network is taken down.
func (n *Network) awaitOpen(path link) bool {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for n.cut[path] && !n.closed {
		n.mended.Wait()
	}
	return !n.closed
}

func (n *Network) accept(listener net.Listener, to *Member) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go n.serve(connection.(*net.TCPConn), to)
	}
}

func (n *Network) serve(dialer *net.TCPConn, to *Member) {
	defer dialer.Close()
	from, err := n.owner(dialer)
	if err != nil {
		return // the dialer has gone already
	}
	if !n.awaitOpen(link{from, to}) {
		return
	}
	target, err := net.DialTimeout("tcp", strings.TrimPrefix(to.ListenPeerURL, "http://"), time.Second)
	if err != nil {
		return
	}
	defer target.Close()
	var pumps sync.WaitGroup
	pumps.Go(func() { n.pump(dialer, target.(*net.TCPConn), link{from, to}) })
	pumps.Go(func() { n.pump(target.(*net.TCPConn), dialer, link{to, from}) })
	pumps.Wait()
}

// pump carries bytes, and the end of them, one way.
func (n *Network) pump(source, sink *net.TCPConn, path link) {
	buffer := make([]byte, 32<<10)
	for {
		count, err := source.Read(buffer)
		if !n.awaitOpen(path) {
			return
		}
		if count > 0 {
			if _, err := sink.Write(buffer[:count]); err != nil {
				// Nobody reads any more: the source shall know.
				source.CloseRead()
				return
			}
		}
		if err != nil {
			if err == io.EOF {
				sink.CloseWrite()
			} else {
				sink.Close()
			}
			return
		}
	}
}

// owner finds the member whose process holds the other end of a connection.
func (n *Network) owner(connection *net.TCPConn) (*Member, error) {
	here := connection.LocalAddr().(*net.TCPAddr)
	there := connection.RemoteAddr().(*net.TCPAddr)
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	wanted := fmt.Sprintf(":%04X ", there.Port)
	remote := fmt.Sprintf(":%04X ", here.Port)
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 10 || !strings.HasSuffix(fields[1]+" ", wanted) || !strings.HasSuffix(fields[2]+" ", remote) {
			continue
		}
		for _, m := range n.cluster.Members {
			if m.holdsSocket(fields[9]) {
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("no member holds the connection from port %d", there.Port)
}

// holdsSocket tells whether a socket of this inode is open in the member's process.
func (m *Member) holdsSocket(inode string) bool {
	m.mutex.Lock()
	process := m.process
	m.mutex.Unlock()
	if process == nil {
		return false
	}
	folder := "/proc/" + strconv.Itoa(process.Process.Pid) + "/fd"
	files, err := os.ReadDir(folder)
	if err != nil {
		return false
	}
	for _, file := range files {
		if target, err := os.Readlink(folder + "/" + file.Name()); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
