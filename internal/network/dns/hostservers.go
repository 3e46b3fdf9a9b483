package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
)

// port is where name servers listen.
const port = 53

// HostServers are the name servers that the host itself uses, read again
// whenever the file that names them changes.
type HostServers struct {
	// Conf is a resolv.conf(5).
	Conf string
	// Behind is a second one, with the servers behind a stub resolver on the
	// loopback interface: that stub cannot be reached from another network
	// namespace than its own.
	Behind string

	mu      sync.Mutex
	conf    list
	behind  list
	servers []netip.AddrPort
}

// TheHost are the name servers of this host.
func TheHost() *HostServers {
	return &HostServers{Conf: "/etc/resolv.conf", Behind: "/run/systemd/resolve/resolv.conf"}
}

// list is a file's servers, as of the file that was read.
type list struct {
	file    os.FileInfo
	servers []netip.AddrPort
}

// Servers gives them in the order to ask in.
func (h *HostServers) Servers() []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := h.conf.refresh(h.Conf)
	if h.behind.refresh(h.Behind) || changed || h.servers == nil {
		h.servers = inOrder(h.conf.servers, h.behind.servers)
	}
	return h.servers
}

// inOrder puts the servers behind a stub after it, and leaves them out where
// there is none.
func inOrder(conf, behind []netip.AddrPort) []netip.AddrPort {
	servers := append([]netip.AddrPort{}, conf...)
	for _, s := range conf {
		if !s.Addr().IsLoopback() {
			return servers
		}
	}
	return append(servers, behind...)
}

// refresh reads the file if it is not the one that was read last, and says
// whether it did. A missing file has no servers.
func (l *list) refresh(path string) bool {
	now, err := os.Stat(path)
	if err != nil {
		gone := l.file != nil
		*l = list{}
		return gone
	}
	if l.file != nil && os.SameFile(now, l.file) && now.ModTime().Equal(l.file.ModTime()) && now.Size() == l.file.Size() {
		return false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	*l = list{now, parse(string(text))}
	return true
}

// parse reads the nameserver lines of a resolv.conf(5).
func parse(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, port))
		}
	}
	return servers
}
