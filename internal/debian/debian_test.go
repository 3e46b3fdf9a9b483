package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// large is more than one read, and no part of it equals another.
var large = func() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20; i++ {
		fmt.Fprintf(&b, "%08d ", i)
	}
	return b.Bytes()
}()

func kindOf(err error) api.Kind {
	var e *api.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

func oneSuite(m *testMirror) {
	m.publish(publication{suite: "bookworm", debs: []debOf{
		{name: "hello", version: "1.0", content: large},
		{name: "other", version: "2.0", content: []byte("other")},
	}})
}

func TestFetch(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	a := open(t, m.options(), "bookworm")
	var events []progress.Event
	paths, err := a.Fetch(t.Context(), func(e progress.Event) { events = append(events, e) }, "hello", "other")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(paths[0])
	if err != nil || !bytes.Equal(got, large) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	last := events[len(events)-1]
	if last.Step != StepDownload || last.Done != last.Total || last.Total != int64(len(large)+5) {
		t.Errorf("last event is %+v", last)
	}
	if _, err := a.Fetch(t.Context(), progress.Discard, "absent"); kindOf(err) != api.KindNotFound {
		t.Errorf("an unknown package gives %v", err)
	}
}

func TestFind(t *testing.T) {
	m := newMirror(t)
	m.publish(publication{suite: "bookworm", debs: []debOf{
		{name: "linux-image-6.1.0-1-amd64", version: "1"},
		{name: "linux-image-6.12.9-amd64", version: "1"},
		{name: "linux-image-6.12.10-amd64", version: "1"},
		{name: "linux-image-6.12.10-amd64", version: "3"},
		{name: "linux-image-6.12.10-amd64", version: "2"},
	}})
	found, err := open(t, m.options(), "bookworm").Find("linux-image-6.12.*-amd64")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range found {
		got = append(got, p.Name+"="+p.Version)
	}
	if want := "linux-image-6.12.10-amd64=3 linux-image-6.12.9-amd64=1"; strings.Join(got, " ") != want {
		t.Errorf("got %v", got)
	}
}

// TestRefuses holds that whatever is not exactly what was signed is refused as
// untrusted, and that nothing of it stays in the cache.
func TestRefuses(t *testing.T) {
	const inRelease = "/debian/dists/bookworm/InRelease"
	replace := func(old, new string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
	}
	tests := map[string]func(m *testMirror){
		"a word in InRelease": func(m *testMirror) { m.change(inRelease, replace("Codename", "Codenane")) },
		"no signature":        func(m *testMirror) { m.change(inRelease, func([]byte) []byte { return []byte("Origin: Debian\n") }) },
		"nothing":             func(m *testMirror) { m.change(inRelease, func([]byte) []byte { return nil }) },
		"text before": func(m *testMirror) {
			m.change(inRelease, func(b []byte) []byte { return append([]byte("Origin: X\n"), b...) })
		},
		"text after":             func(m *testMirror) { m.change(inRelease, func(b []byte) []byte { return append(b, "Origin: X\n"...) }) },
		"cut off":                func(m *testMirror) { m.change(inRelease, func(b []byte) []byte { return b[:len(b)/2] }) },
		"a key of somebody else": func(m *testMirror) { m.key = newKey(m.t); oneSuite(m) },
		"another vendor":         func(m *testMirror) { m.publish(publication{suite: "bookworm", origin: "Ubuntu"}) },
		"past its time": func(m *testMirror) {
			m.publish(publication{suite: "bookworm", validUntil: time.Now().Add(-time.Minute)})
		},
		"another suite's InRelease": serveOtherSuite,
		"a bit in Packages":         func(m *testMirror) { m.change("/debian/dists/bookworm/main/binary-amd64/Packages.xz", flip) },
		"a longer Packages":         func(m *testMirror) { m.change("/debian/dists/bookworm/main/binary-amd64/Packages.xz", longer) },
		"a bit in a .deb":           func(m *testMirror) { m.change("/debian/pool/hello_1.0.deb", flip) },
		"a longer .deb":             func(m *testMirror) { m.change("/debian/pool/hello_1.0.deb", longer) },
		"a package with a wrong name": func(m *testMirror) {
			m.publish(publication{suite: "bookworm", debs: []debOf{{name: "../x", version: "1"}}})
		},
	}
	for name, break_ := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			oneSuite(m)
			opts := m.options()
			break_(m)
			a, err := Open(t.Context(), opts, progress.Discard, "bookworm")
			if err == nil {
				_, err = a.Fetch(t.Context(), progress.Discard, "hello")
			}
			if kindOf(err) != api.KindUntrusted {
				t.Fatalf("got %v, want it refused", err)
			}
			if kept, _ := filepath.Glob(filepath.Join(opts.Cache, "debs", "*")); anyWhole(kept) {
				t.Errorf("the cache keeps %v", kept)
			}
		})
	}
}

func anyWhole(paths []string) bool {
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Size() > 0 {
			return true
		}
	}
	return false
}

func serveOtherSuite(m *testMirror) {
	m.publish(publication{suite: "bullseye"})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files["/debian/dists/bookworm/InRelease"] = m.files["/debian/dists/bullseye/InRelease"]
}

func flip(b []byte) []byte   { b[len(b)/2] ^= 1; return b }
func longer(b []byte) []byte { return append(b, 'x') }

func TestValidUntilInTheFuture(t *testing.T) {
	m := newMirror(t)
	m.publish(publication{suite: "bookworm", validUntil: time.Now().Add(time.Minute)})
	open(t, m.options(), "bookworm")
}

// TestResume breaks each transfer off after 300 KB; the rest must be asked for
// and the file must come out whole.
func TestResume(t *testing.T) {
	const deb = "/debian/pool/hello_1.0.deb"
	const most = 300_000
	tests := map[string]struct {
		ranges bool
		works  bool
	}{
		"a server that resumes":         {ranges: true, works: true},
		"a server that always restarts": {ranges: false, works: false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			oneSuite(m)
			a := open(t, m.options(), "bookworm")
			m.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != deb {
					return false
				}
				if !test.ranges {
					r.Header.Del("Range")
				}
				http.ServeContent(&breakingWriter{w, most}, r, "", time.Time{}, bytes.NewReader(large))
				panic(http.ErrAbortHandler)
			}
			_, err := a.Fetch(t.Context(), progress.Discard, "hello")
			if test.works && err != nil {
				t.Fatal(err)
			}
			if !test.works && kindOf(err) != api.KindUnreachable {
				t.Fatalf("got %v", err)
			}
			if n := m.requests(deb); test.works && n != 4 {
				t.Errorf("%d requests, want 4 pieces", n)
			}
		})
	}
}

// breakingWriter stops after some bytes.
type breakingWriter struct {
	http.ResponseWriter
	left int
}

func (w *breakingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	if _, err := w.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, errors.New("broken off")
	}
	return n, nil
}

// TestResumeOfKilled finds what a killed process left; once it fits, once it
// is of another file, once it is too long.
func TestResumeOfKilled(t *testing.T) {
	tests := map[string]struct {
		left     []byte
		requests int
	}{
		"the first half":  {large[:len(large)/2], 1},
		"all of it":       {large, 0},
		"something else":  {bytes.Repeat([]byte("z"), 1000), 2},
		"more than it is": {append(bytes.Clone(large), "more"...), 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			oneSuite(m)
			opts := m.options()
			writeFile(t, filepath.Join(opts.Cache, "debs", hexSum(large)+".part"), string(test.left))
			paths, err := open(t, opts, "bookworm").Fetch(t.Context(), progress.Discard, "hello")
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(paths[0]); !bytes.Equal(got, large) {
				t.Error("the file is wrong")
			}
			if n := m.requests("/debian/pool/hello_1.0.deb"); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
}

func TestSpoiledCacheIsMended(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	opts := m.options()
	path := filepath.Join(opts.Cache, "debs", hexSum(large))
	writeFile(t, path, string(flip(bytes.Clone(large))))
	if _, err := open(t, opts, "bookworm").Fetch(t.Context(), progress.Discard, "hello"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, large) {
		t.Error("the cache is still spoiled")
	}
}

func TestRetries(t *testing.T) {
	tests := map[string]struct {
		failures int // answers of 503 before the first good one
		kind     api.Kind
	}{
		"two failures":  {2, ""},
		"five failures": {5, ""},
		"always":        {1000, api.KindUnreachable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			oneSuite(m)
			var asked atomic.Int32
			m.before = func(w http.ResponseWriter, r *http.Request) bool {
				if asked.Add(1) > int32(test.failures) {
					return false
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			_, err := Open(t.Context(), m.options(), progress.Discard, "bookworm")
			if kindOf(err) != test.kind {
				t.Fatalf("got %v", err)
			}
			if test.kind != "" && asked.Load() != maxAttempts {
				t.Errorf("%d attempts, want %d", asked.Load(), maxAttempts)
			}
		})
	}
}

func TestAbsentIsNotRetried(t *testing.T) {
	m := newMirror(t)
	_, err := Open(t.Context(), m.options(), progress.Discard, "bookworm")
	if kindOf(err) != api.KindUnreachable || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	if n := m.requests("/debian/dists/bookworm/InRelease"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestCancel(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	a := open(t, m.options(), "bookworm")
	ctx, cancel := context.WithCancel(t.Context())
	m.before = func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	}
	_, err := a.Fetch(ctx, progress.Discard, "hello")
	if !errors.Is(err, context.Canceled) || kindOf(err) != "" {
		t.Errorf("got %v", err)
	}
}

// TestSharedDownload lets two archives of one cache want a file at once: only
// one fetches it.
func TestSharedDownload(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	opts := m.options()
	first, second := open(t, opts, "bookworm"), open(t, opts, "bookworm")
	started := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	m.before = func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(started) })
		<-release
		return false
	}
	var group errgroup.Group
	fetch := func(a *Archive) {
		group.Go(func() error {
			_, err := a.Fetch(t.Context(), progress.Discard, "hello")
			return err
		})
	}
	fetch(first)
	<-started
	fetch(second)
	close(release)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := m.requests("/debian/pool/hello_1.0.deb"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// proxyFor answers every request with what the mirror has, whatever host is
// asked for.
func proxyFor(t *testing.T, m *testMirror) (proxy *httptest.Server, hosts func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Host)
		mu.Unlock()
		m.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	return proxy, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

const proxyChild = "BANGER_TEST_PROXY_CHILD"

// TestEnvironmentProxy runs itself in a process of its own, since Go reads
// http_proxy once in a process. No resolver knows the mirror's name.
func TestEnvironmentProxy(t *testing.T) {
	if keys := os.Getenv(proxyChild); keys != "" {
		keyring, err := os.ReadFile(keys)
		if err != nil {
			t.Fatal(err)
		}
		open(t, Options{Cache: t.TempDir(), Mirror: "http://mirror.test/debian", AptDir: t.TempDir(), Arch: "amd64", Keyring: keyring}, "bookworm")
		return
	}
	m := newMirror(t)
	oneSuite(m)
	proxy, hosts := proxyFor(t, m)
	keys := filepath.Join(t.TempDir(), "keys")
	writeFile(t, keys, string(armored(t, m.key)))
	cmd := exec.Command(os.Args[0], "-test.run=^TestEnvironmentProxy$")
	cmd.Env = append(os.Environ(), proxyChild+"="+keys, "http_proxy="+proxy.URL, "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(hosts()) == 0 || hosts()[0] != "mirror.test" {
		t.Errorf("the proxy was asked for %v", hosts())
	}
}

// TestAptProxy finds the mirror and the proxy in the host's apt configuration.
func TestAptProxy(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	proxy, hosts := proxyFor(t, m)
	opts := m.options()
	opts.Mirror = ""
	writeFile(t, filepath.Join(opts.AptDir, "sources.list"), "deb http://mirror.test/debian bookworm main\n")
	writeFile(t, filepath.Join(opts.AptDir, "apt.conf.d", "90proxy"), `Acquire::http::Proxy "`+proxy.URL+`";`)
	a := open(t, opts, "bookworm")
	if len(hosts()) == 0 || hosts()[0] != "mirror.test" {
		t.Errorf("the proxy was asked for %v", hosts())
	}
	if got := a.Sources()[0].URL; got != "http://mirror.test/debian" {
		t.Errorf("the source is %s", got)
	}
}

func TestOptionsProxy(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	proxy, hosts := proxyFor(t, m)
	opts := m.options()
	opts.Mirror = "http://mirror.test/debian"
	opts.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	open(t, opts, "bookworm")
	if len(hosts()) == 0 {
		t.Error("the proxy was not asked")
	}
}

func TestByHash(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	const list = "/debian/dists/bookworm/main/binary-amd64/"
	m.mu.Lock()
	packed := m.files[list+"Packages.xz"]
	m.files[list+"by-hash/SHA256/"+hexSum(packed)] = packed
	m.files[list+"Packages.xz"] = []byte("already the next version")
	text, err := verifyInRelease(m.files["/debian/dists/bookworm/InRelease"], mustKeys(t, m), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.files["/debian/dists/bookworm/InRelease"] = m.sign(m.key, "Acquire-By-Hash: yes\n"+text)
	m.mu.Unlock()
	open(t, m.options(), "bookworm")
}

func TestPasswordIsNotShown(t *testing.T) {
	m := newMirror(t)
	opts := m.options()
	opts.Mirror = strings.Replace(m.URL, "http://", "http://user:secret@", 1) + "/debian"
	_, err := Open(t.Context(), opts, progress.Discard, "bookworm")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	opts.Mirror = "http://user:secret@127.0.0.1:1/debian"
	_, err = Open(t.Context(), opts, progress.Discard, "bookworm")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// What an archive has downloaded stays while it is used.
func TestCacheInUse(t *testing.T) {
	m := newMirror(t)
	oneSuite(m)
	opts := m.options()
	a := open(t, opts, "bookworm")
	if took, err := CacheDir(opts.Cache).Empty(); took != 0 || err != nil {
		t.Errorf("in use: %d, %v", took, err)
	}
	a.Close()
	if took, err := CacheDir(opts.Cache).Empty(); took == 0 || err != nil {
		t.Errorf("afterwards: %d, %v", took, err)
	}
}
