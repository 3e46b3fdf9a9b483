// Package archivetest is a small signed Debian archive on the loopback, for the
// tests of what is built out of one.
package archivetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Archive serves whatever was published in it.
type Archive struct {
	// URL is its base, the part before "/dists/".
	URL string
	// Keyring is the armored public key that its suites are signed with.
	Keyring []byte

	dir string
	key *openpgp.Entity
}

// New starts an archive that is empty and ends with the test.
func New(t *testing.T) *Archive {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	check(t, err)
	var public bytes.Buffer
	w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	check(t, err)
	check(t, errors.Join(key.Serialize(w), w.Close()))
	a := &Archive{Keyring: public.Bytes(), dir: t.TempDir(), key: key}
	server := httptest.NewServer(http.FileServer(http.Dir(a.dir)))
	t.Cleanup(server.Close)
	a.URL = server.URL
	return a
}

// Package is one package of a suite: its .deb, its name and version, and what
// else its control file says, each line with its end.
type Package struct {
	Name, Version, Fields string
	Deb                   []byte
}

// Deb makes a .deb (deb(5)) of these files, uncompressed, all of them programs.
func Deb(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for name, content := range files {
		check(t, w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o755, Size: int64(len(content)), Format: tar.FormatUSTAR}))
		_, err := w.Write(content)
		check(t, err)
	}
	check(t, w.Close())
	deb := []byte("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", nil}, {"data.tar", data.Bytes()}} {
		deb = fmt.Appendf(deb, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o644, len(m.data))
		deb = append(deb, m.data...)
		if len(m.data)%2 == 1 {
			deb = append(deb, '\n')
		}
	}
	return deb
}

// Publish makes a signed suite of amd64 packages.
func (a *Archive) Publish(t *testing.T, suite string, packages ...Package) {
	t.Helper()
	var list strings.Builder
	for _, p := range packages {
		file := fmt.Sprintf("pool/%s_%s.deb", p.Name, p.Version)
		a.put(t, file, p.Deb)
		fmt.Fprintf(&list, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %x\n%s\n",
			p.Name, p.Version, file, len(p.Deb), sha256.Sum256(p.Deb), p.Fields)
	}
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	check(t, err)
	_, err = w.Write([]byte(list.String()))
	check(t, errors.Join(err, w.Close()))
	const name = "main/binary-amd64/Packages"
	a.put(t, "dists/"+suite+"/"+name+".xz", packed.Bytes())
	a.put(t, "dists/"+suite+"/InRelease", a.sign(t,
		fmt.Sprintf("Origin: Debian\nSuite: %s\nCodename: %s\nDate: %s\nSHA256:\n", suite, suite, time.Now().UTC().Format(time.RFC1123))+
			fmt.Sprintf(" %x %d %s\n", sha256.Sum256([]byte(list.String())), list.Len(), name)+
			fmt.Sprintf(" %x %d %s.xz\n", sha256.Sum256(packed.Bytes()), packed.Len(), name)))
}

func (a *Archive) sign(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, a.key.PrivateKey, nil)
	check(t, err)
	_, err = w.Write([]byte(text))
	check(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

func (a *Archive) put(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(a.dir, name)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, data, 0o644))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
