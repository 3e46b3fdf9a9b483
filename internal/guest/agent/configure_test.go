package agent_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// newKey returns an SSH key: to sign with, its PEM form, and its line of an
// authorized_keys file.
func newKey(t testing.TB) (ssh.Signer, string, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

func newCA(t *testing.T) string {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// tree is all files below the guest's etc, run and usr, by name.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, dir := range []string{"etc", "root", "run", "usr"} {
		filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				info, _ := d.Info()
				files[strings.TrimPrefix(path, root)] = info.Mode().String() + " " + read(t, path)
			}
			return nil
		})
	}
	return files
}

func TestConfigure(t *testing.T) {
	g, socket := startNotified(t)
	write(t, filepath.Join(g.root, "etc/hosts"), "127.0.0.1 localhost\n")
	write(t, filepath.Join(g.root, "etc/environment"), "MINE=1") // no line end
	write(t, filepath.Join(g.root, "etc/ssh/sshd_config"), "")
	write(t, filepath.Join(g.root, "etc/ssl/certs/ca-certificates.crt"), "old bundle\n")
	write(t, filepath.Join(g.root, "root/.ssh/authorized_keys"), "ssh-ed25519 mine\n")
	write(t, filepath.Join(g.root, "etc/machine-id"), "systemd's\n")
	os.MkdirAll(filepath.Join(g.root, "usr/local/share/ca-certificates"), 0o755)
	os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(g.root, "etc/resolv.conf"))
	_, hostKey, hostLine := newKey(t)
	_, _, userLine := newKey(t)
	ca := newCA(t)
	now := time.Now()
	config := proto.Config{
		Hostname:       "box",
		Addresses:      []netip.Prefix{netip.MustParsePrefix("172.16.0.2/24")},
		Routes:         []proto.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.16.0.1")}},
		DNS:            []netip.Addr{netip.MustParseAddr("172.16.0.1")},
		AuthorizedKeys: []string{userLine},
		HostKey:        hostKey,
		Time:           now,
		Entropy:        make([]byte, 64),
		Env:            map[string]string{"http_proxy": `http://u:p%40"ss@p:1`, "NAME": "it's"},
		CACerts:        []string{ca},
		MachineID:      strings.Repeat("0a", 16),
	}
	if err := g.Configure(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	const begin, end = "# banger begin: written at each start\n", "# banger end\n"
	want := map[string]string{
		"/etc/hosts":                         "-rw-r--r-- 127.0.0.1 localhost\n" + begin + "127.0.1.1 box\n" + end,
		"/etc/hostname":                      "-rw-r--r-- box\n",
		"/etc/environment":                   "-rw-r--r-- MINE=1\n" + begin + "NAME=it's\nhttp_proxy=http://u:p%40\"ss@p:1\n" + end,
		"/etc/profile.d/banger.sh":           "-rw-r--r-- # written by banger at each start\nexport NAME='it'\\''s'\nexport http_proxy='http://u:p%40\"ss@p:1'\n",
		"/etc/resolv.conf":                   "-rw-r--r-- # written by banger at each start\nnameserver 172.16.0.1\n",
		"/etc/ssh/sshd_config":               "-rw-r--r-- " + begin + "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n" + end,
		"/etc/ssh/ssh_host_ed25519_key":      "-rw------- " + hostKey,
		"/etc/ssh/ssh_host_ed25519_key.pub":  "-rw-r--r-- " + hostLine,
		"/etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- old bundle\n" + begin + ca + end,
		"/etc/machine-id":                    "-rw-r--r-- systemd's\n",
		"/root/.ssh/authorized_keys":         "-rw-r--r-- ssh-ed25519 mine\n" + begin + userLine + end,
		"/run/banger/init":                   "-rw-r--r-- systemd\n",
		"/run/systemd/system/service.d/50-banger-environment.conf": "-rw-r--r-- # written by banger at each start\n[Service]\n" +
			"Environment=\"NAME=it's\"\nEnvironment=\"http_proxy=http://u:p%%40\\\"ss@p:1\"\n",
		"/usr/local/share/ca-certificates/banger-0.crt": "-rw-r--r-- " + ca,
	}
	if diff := cmp.Diff(want, tree(t, g.root)); diff != "" {
		t.Fatal(diff)
	}
	g.kernel.mu.Lock()
	if g.kernel.hostname != "box" || g.kernel.entropy != 64 || !g.kernel.clock.Equal(now) || len(g.kernel.addresses) != 1 || len(g.kernel.routes) != 1 {
		t.Errorf("the kernel was told %+v", g.kernel)
	}
	g.kernel.mu.Unlock()

	// The same again changes nothing, also when systemd is up; another identity
	// replaces the first.
	if err := agent.Notify(socket, "default"); err != nil {
		t.Fatal(err)
	}
	expect(t, g.watch(t), defaultReady)
	if err := g.Configure(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tree(t, g.root)); diff != "" {
		t.Fatal(diff)
	}
	config.Hostname, config.Env, config.CACerts, config.AuthorizedKeys = "other", map[string]string{}, []string{}, []string{}
	if err := g.Configure(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	want["/etc/hosts"] = "-rw-r--r-- 127.0.0.1 localhost\n" + begin + "127.0.1.1 other\n" + end
	want["/etc/hostname"] = "-rw-r--r-- other\n"
	want["/etc/environment"] = "-rw-r--r-- MINE=1\n"
	want["/etc/ssl/certs/ca-certificates.crt"] = "-rw-r--r-- old bundle\n"
	want["/root/.ssh/authorized_keys"] = "-rw-r--r-- ssh-ed25519 mine\n"
	delete(want, "/etc/profile.d/banger.sh")
	delete(want, "/run/systemd/system/service.d/50-banger-environment.conf")
	delete(want, "/usr/local/share/ca-certificates/banger-0.crt")
	if diff := cmp.Diff(want, tree(t, g.root)); diff != "" {
		t.Fatal(diff)
	}
}

// TestConfigureBareImage configures an image that has nothing at all.
func TestConfigureBareImage(t *testing.T) {
	g := start(t, proto.InitNone)
	_, hostKey, _ := newKey(t)
	_, _, userLine := newKey(t)
	ca := newCA(t)
	err := g.Configure(t.Context(), proto.Config{
		Hostname: "box", HostKey: hostKey, AuthorizedKeys: []string{userLine}, CACerts: []string{ca},
		Env: map[string]string{}, MachineID: strings.Repeat("0a", 16),
	})
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "# banger begin: written at each start\n", "# banger end\n"
	want := map[string]string{
		"/etc/hosts":                         "-rw-r--r-- " + begin + "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 box\n" + end,
		"/etc/hostname":                      "-rw-r--r-- box\n",
		"/etc/machine-id":                    "-r--r--r-- " + strings.Repeat("0a", 16) + "\n",
		"/etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- " + begin + ca + end,
		"/root/.ssh/authorized_keys":         "-rw------- " + begin + userLine + end,
		"/run/banger/init":                   "-rw-r--r-- none\n",
	}
	if diff := cmp.Diff(want, tree(t, g.root)); diff != "" {
		t.Fatal(diff)
	}
}

// TestTheFirstConfigurationIsTold: the program that started the agent waits for
// it, also where the guest could not be given all of it.
func TestTheFirstConfigurationIsTold(t *testing.T) {
	for name, config := range map[string]proto.Config{
		"a good one":       {Hostname: "box"},
		"one with a fault": {Hostname: "../../x"},
	} {
		told := 0
		root := t.TempDir()
		socket := filepath.Join(root, "link.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		a := agent.New(agent.Options{Root: root, Kernel: &memoryKernel{}, Configured: func() { told++ }})
		served := make(chan error, 1)
		go func() { served <- a.Serve(l) }()
		g := guestAt(a, root, socket)
		for range 2 {
			if err := g.Configure(t.Context(), config); (err != nil) != (name == "one with a fault") {
				t.Errorf("%s: %v", name, err)
			}
		}
		l.Close()
		<-served
		if told != 1 {
			t.Errorf("%s was told %d times", name, told)
		}
	}
}

// TestTheFirstCommandGoesBeforeTheInit: the image's init begins when the command
// that goes first is over, and without one after its head start; where none was
// announced, at once.
func TestTheFirstCommandGoesBeforeTheInit(t *testing.T) {
	const never = 24 * time.Hour
	for name, test := range map[string]struct {
		headStart    time.Duration
		commandFirst bool
		command      bool
	}{
		"a command":           {headStart: never, commandFirst: true, command: true},
		"none in time":        {headStart: time.Nanosecond, commandFirst: true},
		"none was to be":      {headStart: never},
		"a word about nobody": {headStart: never, command: true},
	} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{})
			g := startWith(t, proto.InitNone, agent.Options{HeadStart: test.headStart, Configured: func() { close(begun) }})
			if err := g.Configure(t.Context(), proto.Config{Hostname: "box", CommandFirst: test.commandFirst}); err != nil {
				t.Fatal(err)
			}
			if test.command {
				conn, err := g.Exec(t.Context(), shell("read line"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if test.commandFirst {
					select {
					case <-begun:
						t.Fatal("the init began beside the command")
					default:
					}
				}
				if _, err := proto.NewCommand(conn).Run(strings.NewReader("go on\n"), io.Discard, io.Discard); err != nil {
					t.Fatal(err)
				}
			}
			<-begun
		})
	}
}

func TestConfigureRefuses(t *testing.T) {
	g := start(t, proto.InitNone)
	before := tree(t, g.root)
	for name, config := range map[string]proto.Config{
		"a host name with a line end": {Hostname: "a\nb"},
		"a host name with dots":       {Hostname: "../../x"},
		"a variable's name":           {Env: map[string]string{"A B": "1"}},
		"a variable's value":          {Env: map[string]string{"A": "1\nLD_PRELOAD=x"}},
		"a key":                       {AuthorizedKeys: []string{"no key"}},
		"two keys in one":             {AuthorizedKeys: []string{"ssh-ed25519 AAAA\nssh-ed25519 AAAA"}},
		"a machine id":                {MachineID: "x"},
		"too much entropy":            {Entropy: make([]byte, 513)},
	} {
		if err := g.Configure(t.Context(), config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if diff := cmp.Diff(before, tree(t, g.root)); diff != "" {
		t.Fatal(diff)
	}
	// What an agent does not know it refuses, so that a newer host learns it.
	conn, err := g.dial(context.Background(), proto.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	proto.NewWriter(conn).Frame(proto.TypeRequest, []byte(`{"op":"configure","body":{"swap":1}}`))
	f, err := proto.ReadFrame(conn)
	if err != nil || !bytes.Contains(f.Payload, []byte("swap")) {
		t.Fatalf("%s, %v", f.Payload, err)
	}
}
