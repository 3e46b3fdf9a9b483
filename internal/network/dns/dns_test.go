package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// server is a small name server on a port of its own, over UDP and TCP. It
// counts the queries it gets.
type server struct {
	addr netip.AddrPort
	udp  atomic.Int32
	tcp  atomic.Int32
}

// serve starts one that answers by the function.
func serve(t *testing.T, answer func(w dns.ResponseWriter, q *dns.Msg)) *server {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	s := &server{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	ln, err := net.Listen("tcp4", s.addr.String())
	must(t, err)
	for _, d := range []*dns.Server{
		{PacketConn: pc, Handler: counted(&s.udp, answer)},
		{Listener: ln, Handler: counted(&s.tcp, answer)},
	} {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go d.ActivateAndServe()
		<-started
		t.Cleanup(func() { d.Shutdown() })
	}
	return s
}

func counted(n *atomic.Int32, answer dns.HandlerFunc) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		n.Add(1)
		answer(w, q)
	})
}

// forward starts a forwarder to the servers.
func forward(t *testing.T, servers ...netip.AddrPort) *Forwarder {
	t.Helper()
	return start(t, Config{
		Listen:    netip.MustParseAddrPort("127.0.0.1:0"),
		Upstreams: func() []netip.AddrPort { return servers },
		Serves:    func(netip.Addr) bool { return true },
	})
}

func start(t *testing.T, cfg Config) *Forwarder {
	t.Helper()
	f, err := Listen(cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func question(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeA) }

func ask(t *testing.T, f *Forwarder, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	reply, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 65535}).Exchange(q, f.Addr().String())
	must(t, err)
	return reply
}

func anAddress(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(198, 51, 100, 7)}}
	w.WriteMsg(m)
}

// manyTexts does not fit a datagram: it says so over UDP and tells all over TCP.
func manyTexts(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	for range 100 {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{strings.Repeat("x", 100)}})
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(dns.MinMsgSize)
	}
	w.WriteMsg(m)
}

func withCode(code int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, code)) }
}

func TestForward(t *testing.T) {
	s := serve(t, anAddress)
	f := forward(t, s.addr)
	for _, network := range []string{"udp", "tcp"} {
		reply := ask(t, f, network, question("example.org."))
		if len(reply.Answer) != 1 || reply.Rcode != dns.RcodeSuccess || !reply.Answer[0].(*dns.A).A.Equal(net.IPv4(198, 51, 100, 7)) {
			t.Errorf("over %s: %v", network, reply)
		}
	}
}

func TestNotFoundIsAnAnswer(t *testing.T) {
	first, second := serve(t, withCode(dns.RcodeNameError)), serve(t, anAddress)
	f := forward(t, first.addr, second.addr)
	if reply := ask(t, f, "udp", question("nowhere.example.")); reply.Rcode != dns.RcodeNameError {
		t.Errorf("answer %v", reply)
	}
	if second.udp.Load() != 0 {
		t.Error("a second server was asked for a name that does not exist")
	}
}

func TestTheNextServerIsAsked(t *testing.T) {
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	nobody := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	must(t, closed.Close())
	good := serve(t, anAddress)
	for name, bad := range map[string]netip.AddrPort{
		"that is not there":                nobody,
		"that fails":                       serve(t, withCode(dns.RcodeServerFailure)).addr,
		"that refuses":                     serve(t, withCode(dns.RcodeRefused)).addr,
		"that answers to another question": serve(t, func(w dns.ResponseWriter, q *dns.Msg) { q.Question[0].Name = "other.example."; anAddress(w, q) }).addr,
	} {
		if reply := ask(t, forward(t, bad, good.addr), "udp", question("example.org.")); len(reply.Answer) != 1 {
			t.Errorf("after a server %s the answer is %v", name, reply)
		}
		if reply := ask(t, forward(t, bad), "udp", question("example.org.")); reply.Rcode != dns.RcodeServerFailure && reply.Rcode != dns.RcodeRefused {
			t.Errorf("with only a server %s the answer is %v", name, reply)
		}
	}
	if reply := ask(t, forward(t), "udp", question("example.org.")); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("with no server the answer is %v", reply)
	}
}

func TestLargeAnswers(t *testing.T) {
	f := forward(t, serve(t, manyTexts).addr)
	if reply := ask(t, f, "tcp", question("large.example.")); len(reply.Answer) != 100 || reply.Truncated {
		t.Errorf("over TCP: %d records, truncated %v", len(reply.Answer), reply.Truncated)
	}
	reply := ask(t, f, "udp", question("large.example."))
	reply.Compress = true // as it travelled
	if !reply.Truncated || reply.Len() > dns.MinMsgSize {
		t.Errorf("over UDP: %d bytes, truncated %v", reply.Len(), reply.Truncated)
	}
	wide := question("large.example.")
	wide.SetEdns0(65000, false)
	if reply := ask(t, f, "udp", wide); len(reply.Answer) != 100 || reply.Truncated {
		t.Errorf("over UDP with room: %d records, truncated %v", len(reply.Answer), reply.Truncated)
	}
}

func TestOddQueries(t *testing.T) {
	s := serve(t, anAddress)
	f := forward(t, s.addr)
	two := question("a.example.")
	two.Question = append(two.Question, two.Question[0])
	none := question("a.example.")
	none.Question = nil
	update := question("a.example.")
	update.Opcode = dns.OpcodeUpdate
	for name, try := range map[string]struct {
		query *dns.Msg
		want  int
	}{
		"two questions": {two, dns.RcodeFormatError},
		"no question":   {none, dns.RcodeFormatError},
		"an update":     {update, dns.RcodeNotImplemented},
	} {
		if reply := ask(t, f, "tcp", try.query); reply.Rcode != try.want {
			t.Errorf("%s: %v", name, reply)
		}
	}
	if n := s.udp.Load() + s.tcp.Load(); n != 0 {
		t.Errorf("%d of them were passed on", n)
	}
	c, err := net.Dial("udp4", f.Addr().String())
	must(t, err)
	defer c.Close()
	for _, garbage := range []string{"", "x", strings.Repeat("\xff", 600)} {
		c.Write([]byte(garbage))
	}
	ask(t, f, "udp", question("example.org.")) // it still serves
}

func TestOthersAreNotServed(t *testing.T) {
	s := serve(t, anAddress)
	f := start(t, Config{
		Listen:    netip.MustParseAddrPort("127.0.0.1:0"),
		Upstreams: func() []netip.AddrPort { return []netip.AddrPort{s.addr} },
		Serves:    func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.2") },
	})
	from := func(network, addr string, patience time.Duration) error {
		d := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr)}}
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
		}
		client := &dns.Client{Net: network, Dialer: d, Timeout: patience}
		_, _, err := client.Exchange(question("example.org."), f.Addr().String())
		return err
	}
	for _, network := range []string{"udp", "tcp"} {
		if err := from(network, "127.0.0.2", time.Minute); err != nil {
			t.Errorf("a guest is not served over %s: %v", network, err)
		}
		if err := from(network, "127.0.0.1", 300*time.Millisecond); err == nil {
			t.Errorf("a stranger is served over %s", network)
		}
	}
}

// TestAGuestThatFloodsHarmsNobodyElse has one guest ask without end, of a server
// that does not answer, and another ask once.
func TestAGuestThatFloodsHarmsNobodyElse(t *testing.T) {
	asked := make(chan struct{}, 10000)
	s := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "good.") {
			anAddress(w, q)
			return
		}
		asked <- struct{}{} // and no answer
	})
	f := forward(t, s.addr)
	flood, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}, net.UDPAddrFromAddrPort(f.Addr()))
	must(t, err)
	defer flood.Close()
	packed, err := question("bad.example.").Pack()
	must(t, err)
	for range guestQueries {
		flood.Write(packed)
	}
	for range guestQueries {
		<-asked
	}
	for range 1000 {
		flood.Write(packed)
	}
	if !insist(f, "good.example.") {
		t.Error("the other guest gets no answer")
	}
	if extra := len(asked); extra != 0 {
		t.Errorf("%d queries over the guest's limit were passed on", extra)
	}
}

// insist asks again when there is no answer, as resolvers do: a datagram may be
// lost where another guest's fill the socket.
func insist(f *Forwarder, name string) bool {
	client := &dns.Client{Net: "udp", Timeout: time.Second}
	for range 10 {
		if reply, _, err := client.Exchange(question(name), f.Addr().String()); err == nil && len(reply.Answer) == 1 {
			return true
		}
	}
	return false
}

func TestLimits(t *testing.T) {
	now := time.Unix(0, 0)
	l := limits{now: func() time.Time { return now }}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	begun := func(guest netip.Addr) (n int) {
		for l.query(guest) {
			l.queryDone(guest)
			n++
		}
		return n
	}
	if n := begun(a); n != burst {
		t.Errorf("at once %d queries, want %d", n, burst)
	}
	now = now.Add(100 * time.Millisecond)
	if n := begun(a); n != perSecond/10 {
		t.Errorf("in a tenth of a second %d queries, want %d", n, perSecond/10)
	}
	if n := begun(b); n != burst {
		t.Errorf("another guest has %d queries, want %d", n, burst)
	}
	now = now.Add(time.Hour)
	for range guestQueries {
		if !l.query(a) {
			t.Fatal("too few under way")
		}
	}
	if l.query(a) {
		t.Error("too many queries under way")
	}
	for range guestStreams {
		if !l.stream(a) {
			t.Fatal("too few connections")
		}
	}
	if l.stream(a) {
		t.Error("too many connections")
	}
	l.streamDone(a)
	if !l.stream(a) {
		t.Error("an ended connection still counts")
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	asked := make(chan struct{}, 10)
	s := serve(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	f := forward(t, s.addr)
	udp, err := net.Dial("udp4", f.Addr().String())
	must(t, err)
	defer udp.Close()
	packed, err := question("slow.example.").Pack()
	must(t, err)
	udp.Write(packed)
	<-asked
	tcp, err := net.Dial("tcp4", f.Addr().String())
	must(t, err)
	defer tcp.Close()
	began := time.Now()
	must(t, f.Close())
	if took := time.Since(began); took > serverTime/2 {
		t.Errorf("it took %v: it waited for the server", took)
	}
	again, err := Listen(Config{Listen: f.Addr(), Upstreams: f.cfg.Upstreams, Serves: f.cfg.Serves}, f.log)
	if err != nil {
		t.Fatalf("the address is not free after Close: %v", err)
	}
	again.Close()
}

func TestHostServers(t *testing.T) {
	dir := t.TempDir()
	h := &HostServers{Conf: filepath.Join(dir, "resolv.conf"), Behind: filepath.Join(dir, "behind.conf")}
	is := func(want ...string) {
		t.Helper()
		var got []string
		for _, s := range h.Servers() {
			got = append(got, s.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	write := func(path, text string) {
		t.Helper()
		must(t, os.WriteFile(path+".new", []byte(text), 0o600))
		must(t, os.Rename(path+".new", path))
	}
	is()
	write(h.Conf, "# made by hand\nsearch example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\nnameserver\nnameserver nonsense\n")
	is("192.0.2.53:53", "[2001:db8::53]:53")
	write(h.Behind, "nameserver 198.51.100.53\n")
	is("192.0.2.53:53", "[2001:db8::53]:53")
	write(h.Conf, "nameserver 127.0.0.53\n")
	is("127.0.0.53:53", "198.51.100.53:53")
	write(h.Behind, "nameserver 198.51.100.54\n")
	is("127.0.0.53:53", "198.51.100.54:53")
	must(t, os.Remove(h.Behind))
	is("127.0.0.53:53")
	must(t, os.Remove(h.Conf))
	is()
}

// TestOwnAddressIsNotAsked has the host's resolv.conf name the forwarder itself.
func TestOwnAddressIsNotAsked(t *testing.T) {
	f := &Forwarder{
		cfg: Config{Listen: netip.MustParseAddrPort("127.0.0.1:53"), Upstreams: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
		}},
		ctx: context.Background(),
	}
	if reply, err := f.ask(question("example.org.")); !errors.Is(err, errNoServers) {
		t.Errorf("answer %v, error %v", reply, err)
	}
}
