package debian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
)

func mustKeys(t testing.TB, m *testMirror) openpgp.EntityList {
	t.Helper()
	return openpgp.EntityList{m.key}
}

func debianKeys(t testing.TB) openpgp.EntityList {
	t.Helper()
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(archiveKeys))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestEmbeddedKeys holds keys/README.md true: these keys and no other.
func TestEmbeddedKeys(t *testing.T) {
	readme, err := os.ReadFile("keys/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, embedded []string
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, "|"); len(cells) == 4 && len(strings.TrimSpace(cells[1])) == 40 {
			listed = append(listed, strings.TrimSpace(cells[1]))
		}
	}
	for _, key := range debianKeys(t) {
		embedded = append(embedded, fmt.Sprintf("%X", key.PrimaryKey.Fingerprint))
		if key.PrivateKey != nil {
			t.Error("a private key is embedded")
		}
	}
	slices.Sort(listed)
	slices.Sort(embedded)
	if len(listed) != 6 || !slices.Equal(listed, embedded) {
		t.Errorf("README lists %v, the file holds %v", listed, embedded)
	}
}

// The file is what Debian's security archive served on this day.
func debianInRelease(t testing.TB) ([]byte, time.Time) {
	t.Helper()
	data, err := os.ReadFile("testdata/bookworm-security.InRelease")
	if err != nil {
		t.Fatal(err)
	}
	return data, time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
}

// TestDebiansOwn verifies a real InRelease, which two keys signed of which one
// is not embedded.
func TestDebiansOwn(t *testing.T) {
	data, day := debianInRelease(t)
	text, err := verifyInRelease(data, debianKeys(t), day)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRelease(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.check("bookworm-security", day); err != nil {
		t.Error(err)
	}
	if r.files["main/binary-amd64/Packages.xz"].size == 0 {
		t.Error("it names no package list")
	}
	var expired *expiredError
	if err := r.check("bookworm-security", day.AddDate(0, 0, 6)); !errors.As(err, &expired) {
		t.Errorf("six days later: %v", err)
	}
	if err := r.check("bookworm", day); err == nil {
		t.Error("it passes for another suite")
	}
}

// TestSecondSignature puts a broken signature of a known key before the good
// one.
func TestSecondSignature(t *testing.T) {
	m := newMirror(t)
	other := newKey(t)
	const text = "Origin: Debian\nSHA256:\n"
	good, bad := m.sign(m.key, text), m.sign(other, "Origin: Debian\n\nSHA256: else\n")
	both := append(signatureOf(t, bad), signatureOf(t, good)...)
	head, _, _ := bytes.Cut(good, []byte("-----BEGIN PGP SIGNATURE-----"))
	var out bytes.Buffer
	out.Write(head)
	w, err := armor.Encode(&out, openpgp.SignatureType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(both); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	keys := openpgp.EntityList{other, m.key}
	if _, err := verifyInRelease(out.Bytes(), keys, time.Now()); err != nil {
		t.Errorf("the good signature does not count: %v", err)
	}
	if _, err := verifyInRelease(out.Bytes(), openpgp.EntityList{other}, time.Now()); err == nil {
		t.Error("the bad signature counts")
	}
}

// signatureOf gives the binary signature of a clear-signed text.
func signatureOf(t *testing.T, signed []byte) []byte {
	t.Helper()
	i := bytes.Index(signed, []byte("-----BEGIN PGP SIGNATURE-----"))
	block, err := armor.Decode(bytes.NewReader(signed[i:]))
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := splitSignatures(block.Body)
	if err != nil || len(signatures) != 1 {
		t.Fatal(len(signatures), err)
	}
	return signatures[0]
}

func TestParseRelease(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	good := "Origin: Debian\nValid-Until: Sun, 29 Nov 2026 19:58:56 UTC\nSHA256:\n " + hash + " 12 a/b\n"
	r, err := parseRelease(good)
	if err != nil {
		t.Fatal(err)
	}
	if r.files["a/b"] != (digest{12, hash}) || r.validUntil.Day() != 29 {
		t.Errorf("got %+v", r)
	}
	for _, bad := range []string{
		"", "Origin Debian\n", " x\n", good + "\n" + good,
		"SHA256:\n " + hash + " 12\n",
		"SHA256:\n " + hash[1:] + " 12 a\n",
		"SHA256:\n " + hash + " -1 a\n",
		"Valid-Until: tomorrow\n",
	} {
		if _, err := parseRelease(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// FuzzInRelease throws bytes at the verification: only what Debian's keys
// signed comes through, and then it is the text of the seed.
func FuzzInRelease(f *testing.F) {
	data, day := debianInRelease(f)
	keys := debianKeys(f)
	want, err := verifyInRelease(data, keys, day)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := verifyInRelease(data, keys, day)
		if err == nil && strings.TrimSpace(text) != strings.TrimSpace(want) {
			t.Errorf("an unsigned text passes: %.200q", text)
		}
	})
}

// FuzzRelease parses text as if it had been signed.
func FuzzRelease(f *testing.F) {
	f.Add("Origin: Debian\nSHA256:\n " + strings.Repeat("ab", 32) + " 12 a/b\nValid-Until: Sun, 29 Nov 2026 19:58:56 UTC\n")
	f.Add("SHA256: x\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRelease(text)
		if err != nil {
			return
		}
		for name, d := range r.files {
			if name == "" || d.size < 0 || len(d.sha256) != 64 {
				t.Errorf("%q: %+v", name, d)
			}
		}
	})
}
