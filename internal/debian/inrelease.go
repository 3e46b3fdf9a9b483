package debian

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// The sizes that a mirror may make us read. Debian's largest InRelease is
// 210 KB, its largest package list 55 MB.
const (
	maxInRelease = 8 << 20
	maxPackages  = 512 << 20
	maxDeb       = 4 << 30
)

// clockSkew is how far ahead of the host's clock a signature may be.
const clockSkew = 24 * time.Hour

// digest is what a file must be.
type digest struct {
	size   int64
	sha256 string // lower-case hex
}

// release is a verified InRelease.
type release struct {
	origin     string
	suite      string
	codename   string
	byHash     bool
	validUntil time.Time // zero: it says none, as the main suite of a stable release
	files      map[string]digest
}

// verifyInRelease checks the signature over a clear-signed InRelease and gives
// exactly the text that was signed. One good signature by a key of the keyring
// is enough: Debian signs with the keys of several releases.
func verifyInRelease(data []byte, keys openpgp.EntityList, now time.Time) (string, error) {
	block, rest := clearsign.Decode(data)
	if block == nil {
		return "", errors.New("it is not clear-signed")
	}
	if lead, _, _ := bytes.Cut(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")); len(bytes.TrimSpace(lead)) > 0 {
		return "", errors.New("it has text before the signed part")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return "", errors.New("it has text after the signature")
	}
	signatures, err := splitSignatures(block.ArmoredSignature.Body)
	if err != nil {
		return "", fmt.Errorf("cannot read its signature: %w", err)
	}
	config := &packet.Config{Time: func() time.Time { return now.Add(clockSkew) }}
	err = errors.New("it has no signature")
	for _, signature := range signatures {
		if _, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), bytes.NewReader(signature), config); err == nil {
			return string(block.Plaintext), nil
		}
	}
	return "", fmt.Errorf("no signature by a trusted key: %w", err)
}

// splitSignatures takes a signature block apart, since the OpenPGP library
// gives up at the first bad signature whose key it knows.
func splitSignatures(body io.Reader) ([][]byte, error) {
	const most = 64
	var all [][]byte
	packets := packet.NewReader(body)
	for len(all) < most {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		signature, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		var buf bytes.Buffer
		if err := signature.Serialize(&buf); err != nil {
			return nil, err
		}
		all = append(all, buf.Bytes())
	}
	return nil, fmt.Errorf("more than %d signatures", most)
}

// parseRelease reads the signed text.
func parseRelease(text string) (*release, error) {
	var r *release
	err := parseControl(text, func(s stanza) error {
		if r != nil {
			return errors.New("more than one stanza")
		}
		files, err := parseDigests(s.get("SHA256"))
		if err != nil {
			return err
		}
		r = &release{
			origin:   s.get("Origin"),
			suite:    s.get("Suite"),
			codename: s.get("Codename"),
			byHash:   s.get("Acquire-By-Hash") == "yes",
			files:    files,
		}
		r.validUntil, err = parseDate(s.get("Valid-Until"))
		return err
	})
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errors.New("it is empty")
	}
	return r, nil
}

// parseDigests reads the lines " <sha256> <size> <path>".
func parseDigests(value string) (map[string]digest, error) {
	files := map[string]digest{}
	for line := range strings.SplitSeq(value, "\n") {
		parts := strings.Fields(line)
		if len(parts) == 0 {
			continue
		}
		if len(parts) != 3 {
			return nil, fmt.Errorf("not a line of a hash list: %.80q", line)
		}
		d, err := parseDigest(parts[0], parts[1])
		if err != nil {
			return nil, err
		}
		files[parts[2]] = d
	}
	return files, nil
}

func parseDigest(hash, size string) (digest, error) {
	raw, err := hex.DecodeString(hash)
	if err != nil || len(raw) != 32 {
		return digest{}, fmt.Errorf("not a SHA-256: %.80q", hash)
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return digest{}, fmt.Errorf("not a size: %.80q", size)
	}
	return digest{size: n, sha256: strings.ToLower(hash)}, nil
}

// parseDate reads RFC 5322's date, as it is in a Release; "" is the zero time.
func parseDate(value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, "Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("not a date: %.80q", value)
}

// check refuses what is signed well but is not what was asked for: another
// suite, another vendor, or one that is past its time.
func (r *release) check(suite string, now time.Time) error {
	if r.origin != "Debian" && r.origin != "Debian Backports" {
		return fmt.Errorf("its Origin is %q, not Debian", r.origin)
	}
	if r.codename != suite && r.suite != suite {
		return fmt.Errorf("it is of the suite %q (%q), not %q", r.codename, r.suite, suite)
	}
	if !r.validUntil.IsZero() && now.After(r.validUntil) {
		return &expiredError{r.validUntil}
	}
	return nil
}

// expiredError says that Valid-Until has passed: an attacker, or a stale
// mirror, may be holding updates back.
type expiredError struct{ until time.Time }

func (e *expiredError) Error() string {
	return fmt.Sprintf("it was valid until %s only (is the mirror stale, or the host's clock wrong?)",
		e.until.UTC().Format(time.RFC3339))
}

// suite is one that a mirror carries.
type suite struct {
	name    string
	base    string // URL, no slash at its end
	release *release
}

// fetchSuite gets and verifies dists/<name>/InRelease of the mirror at base.
func fetchSuite(ctx context.Context, f *fetcher, base, name string, attempts int) (suite, error) {
	base = strings.TrimSuffix(base, "/")
	url := base + "/dists/" + name + "/InRelease"
	data, err := f.small(ctx, url, maxInRelease, attempts)
	if err != nil {
		return suite{}, err
	}
	fail := func(err error) (suite, error) {
		return suite{}, untrusted(fmt.Errorf("cannot trust %s: %w", withoutPassword(url), err))
	}
	text, err := verifyInRelease(data, f.keys, f.now())
	if err != nil {
		return fail(err)
	}
	r, err := parseRelease(text)
	if err != nil {
		return fail(err)
	}
	if err := r.check(name, f.now()); err != nil {
		return fail(err)
	}
	return suite{name: name, base: base, release: r}, nil
}

// packages gives the package list of main, from the cache where it is.
func (s suite) packages(ctx context.Context, f *fetcher, arch string) (packedList, error) {
	dir := "main/binary-" + arch + "/"
	whole, ok := s.release.files[dir+"Packages"]
	if !ok {
		return packedList{}, notInArchive("the suite %s of %s has no packages for %s", s.name, withoutPassword(s.base), arch)
	}
	if whole.size > maxPackages {
		return packedList{}, untrusted(fmt.Errorf("the package list of %s has %d bytes, more than is sensible", s.name, whole.size))
	}
	for _, suffix := range []string{".xz", ".gz"} {
		if packed, ok := s.release.files[dir+"Packages"+suffix]; ok {
			path, err := f.file(ctx, listDir(f.cache), s.urls(dir, suffix, packed), packed, nil)
			if err != nil {
				return packedList{}, err
			}
			return packedList{path, suffix, whole}, nil
		}
	}
	return packedList{}, notInArchive("the suite %s of %s has no package list that is packed by xz or gzip", s.name, withoutPassword(s.base))
}

// urls names the places of a list. The one by hash stays right while the
// mirror is being updated.
func (s suite) urls(dir, suffix string, d digest) []string {
	root := s.base + "/dists/" + s.name + "/" + dir
	urls := []string{root + "Packages" + suffix}
	if s.release.byHash {
		urls = slices.Insert(urls, 0, root+"by-hash/SHA256/"+d.sha256)
	}
	return urls
}
