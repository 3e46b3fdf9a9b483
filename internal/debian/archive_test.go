package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/banger-vm/banger/internal/progress"
)

// testMirror is a small real archive over HTTP: what Publish signs is what
// clients get, unless a test breaks it.
type testMirror struct {
	*httptest.Server
	t   *testing.T
	key *openpgp.Entity

	mu    sync.Mutex
	files map[string][]byte // by path
	seen  map[string]int    // requests by path
	// Before, when set, may answer a request itself and then returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

// debOf describes a package for publishing.
type debOf struct {
	name, version, fields string
	content               []byte
}

// publication is what a suite says of itself.
type publication struct {
	suite, origin string
	validUntil    time.Time
	debs          []debOf
}

func newMirror(t *testing.T) *testMirror {
	t.Helper()
	m := &testMirror{t: t, key: newKey(t), files: map[string][]byte{}, seen: map[string]int{}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (m *testMirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.seen[r.URL.Path]++
	data, ok := m.files[r.URL.Path]
	before := m.before
	m.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (m *testMirror) requests(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[path]
}

// change edits a published file behind the signature's back.
func (m *testMirror) change(path string, edit func([]byte) []byte) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[path] == nil {
		m.t.Fatalf("no file %s", path)
	}
	m.files[path] = edit(bytes.Clone(m.files[path]))
}

// publish puts a suite and its packages below /debian, or the directory given.
func (m *testMirror) publish(p publication) {
	m.t.Helper()
	dir := "/debian"
	if strings.HasSuffix(p.suite, "-security") {
		dir = "/debian-security"
	}
	m.publishAt(dir, p)
}

func (m *testMirror) publishAt(dir string, p publication) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var list strings.Builder
	for _, d := range p.debs {
		file := "pool/" + d.name + "_" + d.version + ".deb"
		m.files[dir+"/"+file] = d.content
		fmt.Fprintf(&list, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %s\n%s\n",
			d.name, d.version, file, len(d.content), hexSum(d.content), d.fields)
	}
	plain := []byte(list.String())
	packed := packXZ(m.t, plain)
	suiteDir := dir + "/dists/" + p.suite + "/"
	m.files[suiteDir+"main/binary-amd64/Packages.xz"] = packed
	m.files[suiteDir+"InRelease"] = m.sign(m.key, releaseText(p, plain, packed))
}

func releaseText(p publication, plain, packed []byte) string {
	if p.origin == "" {
		p.origin = "Debian"
	}
	text := fmt.Sprintf("Origin: %s\nSuite: %s\nCodename: %s\nDate: %s\n", p.origin, p.suite, p.suite, time.Now().UTC().Format(time.RFC1123))
	if !p.validUntil.IsZero() {
		text += "Valid-Until: " + p.validUntil.UTC().Format(time.RFC1123) + "\n"
	}
	text += "SHA256:\n"
	text += fmt.Sprintf(" %s %d main/binary-amd64/Packages\n", hexSum(plain), len(plain))
	text += fmt.Sprintf(" %s %d main/binary-amd64/Packages.xz\n", hexSum(packed), len(packed))
	return text
}

func (m *testMirror) sign(key *openpgp.Entity, text string) []byte {
	m.t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, key.PrivateKey, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		m.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
	return out.Bytes()
}

// options reach this mirror and nothing else: the host's apt is not looked at.
func (m *testMirror) options() Options {
	return Options{
		Cache:    m.t.TempDir(),
		Mirror:   m.URL + "/debian",
		AptDir:   filepath.Join(m.t.TempDir(), "none"),
		Arch:     "amd64",
		Keyring:  armored(m.t, m.key),
		fallback: "http://127.0.0.1:1/debian",
		backoff:  time.Millisecond,
	}
}

func armored(t *testing.T, key *openpgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// open opens an archive that must open.
func open(t *testing.T, opts Options, suites ...string) *Archive {
	t.Helper()
	a, err := Open(t.Context(), opts, progress.Discard, suites...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func packXZ(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// pack compresses as the suffix of a data.tar says.
func pack(t *testing.T, suffix string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch suffix {
	case ".xz":
		return packXZ(t, data)
	case ".gz":
		w := gzip.NewWriter(&out)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	case ".zst":
		w, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	return data
}

// makeDeb makes a .deb whose data.tar has the suffix and the entries given.
func makeDeb(t *testing.T, suffix string, entries ...tar.Header) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, h := range entries {
		content := []byte(h.PAXRecords["content"])
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar", []byte("not looked at")},
		{"data.tar" + suffix, pack(t, suffix, data.Bytes())},
	} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", member.name, 0, 0, 0, 0o644, len(member.data))
		out.Write(member.data)
		if len(member.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// file is an entry for makeDeb.
func file(name string, mode int64, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, PAXRecords: map[string]string{"content": content}}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
