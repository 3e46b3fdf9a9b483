// Package testenv makes the world that end-to-end tests and benchmarks live
// in: a network namespace of their own with a small internet behind it, so that
// nothing they do touches the host's interfaces.
package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideVar marks a process that is in its own namespaces already.
const insideVar = "BANGER_TEST_INSIDE"

// The small internet: one server with one name. The addresses are those that
// RFC 5737 sets aside for documentation.
const (
	ServerName  = "server.example.test"
	ServerAddr  = "198.51.100.1"
	OutsideAddr = "198.51.100.2" // the host's own, towards the internet
	Greeting    = "hello from the internet\n"
)

// HubNames are what docker.io's registry is called on the wire, by
// go-containerregistry and by Docker.
var HubNames = []string{"index.docker.io", "registry-1.docker.io"}

// Entered says whether the program runs in namespaces of its own already.
func Entered() bool { return os.Getenv(insideVar) != "" }

// Enter runs this program once more in network and mount namespaces of its own
// and ends it with that one's status. In the inner program it returns.
func Enter() error {
	if Entered() {
		return nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("cannot enter namespaces of our own (are you root?): %w", err)
	}
	os.Exit(0)
	return nil
}

// World is the small internet behind the namespace that the program is in.
type World struct {
	namespace netns.NsHandle
	web       *http.Server
	names     []*dns.Server
	dir       string
}

// NewWorld makes the internet: it brings up the loopback and a link to a second
// namespace where a web server and a name server answer, and puts that name
// server into the resolv.conf of this mount namespace.
func NewWorld() (*World, error) {
	w := &World{}
	for _, step := range []func() error{w.privateMounts, w.connect, w.serveWeb, w.serveNames, w.resolve} {
		if err := step(); err != nil {
			w.Close()
			return nil, fmt.Errorf("cannot make the tests' internet: %w", err)
		}
	}
	return w, nil
}

// Close ends the internet.
func (w *World) Close() {
	if w.web != nil {
		w.web.Close()
	}
	for _, s := range w.names {
		_ = s.Shutdown()
	}
	if w.namespace.IsOpen() {
		w.namespace.Close()
	}
	if w.dir != "" {
		os.RemoveAll(w.dir)
	}
}

// Shield lays a writable layer over dir, in this mount namespace only, so that
// what a test writes there does not stay. The layer is kept below scratch.
func Shield(dir, scratch string) error {
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return fmt.Errorf("cannot shield %s: %w", dir, err)
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot shield %s: %w", dir, err)
	}
	return nil
}

func (w *World) privateMounts() error {
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// connect makes the second namespace and the link to it.
func (w *World) connect() error {
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	err = w.elsewhere(func() error {
		there, err := netns.New()
		w.namespace = there
		return err
	})
	if err != nil {
		return err
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "inet0", PeerNamespace: netlink.NsFd(int(w.namespace))}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	if err := errors.Join(bringUp("lo", ""), bringUp("up0", OutsideAddr+"/24")); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(ServerAddr)}); err != nil {
		return err
	}
	return w.Inside(func() error { return errors.Join(bringUp("lo", ""), bringUp("inet0", ServerAddr+"/24")) })
}

func bringUp(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if addr != "" {
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// elsewhere runs do on an OS thread that is thrown away afterwards, so that do
// may change the thread's namespace.
func (w *World) elsewhere(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- do()
	}()
	return <-done
}

// Inside runs do in the internet's namespace. Sockets that it opens stay there.
func (w *World) Inside(do func() error) error {
	return w.elsewhere(func() error {
		if err := netns.Set(w.namespace); err != nil {
			return err
		}
		return do()
	})
}

func (w *World) serveWeb() error {
	var l net.Listener
	err := w.Inside(func() (err error) {
		l, err = net.Listen("tcp", ServerAddr+":80")
		return err
	})
	if err != nil {
		return err
	}
	w.web = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, Greeting) })}
	go w.web.Serve(l)
	return nil
}

func (w *World) serveNames() error {
	var udp net.PacketConn
	var tcp net.Listener
	err := w.Inside(func() (err error) {
		if udp, err = net.ListenPacket("udp", ServerAddr+":53"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp", ServerAddr+":53")
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: dns.HandlerFunc(answerName)}, {Listener: tcp, Handler: dns.HandlerFunc(answerName)}} {
		w.names = append(w.names, s)
		go s.ActivateAndServe()
	}
	return nil
}

// answerName knows the server's address, by its names, and nothing else.
func answerName(rw dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	question := q.Question[0]
	switch {
	case question.Name != ServerName+"." && !slices.Contains(HubNames, strings.TrimSuffix(question.Name, ".")):
		m.Rcode = dns.RcodeNameError
	case question.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.ParseIP(ServerAddr),
		}}
	}
	_ = rw.WriteMsg(m)
}

func (w *World) resolve() error {
	dir, err := os.MkdirTemp("", "banger-world-")
	if err != nil {
		return err
	}
	w.dir = dir
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+ServerAddr+"\n"), 0o644); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return err
	}
	return unix.Mount(conf, real, "", unix.MS_BIND, "")
}
