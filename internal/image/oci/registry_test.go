package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// registry is a small registry: it serves blobs by digest, with ranges, and
// manifests by tag and digest. What it does wrong is asked for.
type registry struct {
	mu       sync.Mutex
	blobs    map[string][]byte // by digest; manifests are among them
	types    map[string]string // of manifests, by digest
	tags     map[string]string // tag → digest
	cutAfter int               // of each blob's answer, bytes; 0: never
	later    int               // how many requests for blobs are answered 429
	after    string            // the Retry-After of those
	password string            // of the user "u"; "": none is needed
	ranges   []string          // that were asked for
	served   int64             // bytes of blobs
	noRange  bool
}

func newRegistry() *registry {
	return &registry{blobs: map[string][]byte{}, types: map[string]string{}, tags: map[string]string{}}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// seen waits for the answers that are under way, and gives what was asked for.
func (r *registry) seen() (served int64, ranges []string, later int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served, r.ranges, r.later
}

func (r *registry) blob(data []byte) string {
	d := digestOf(data)
	r.blobs[d] = data
	return d
}

func (r *registry) manifest(mediaType string, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := r.blob(data)
	r.types[d] = mediaType
	return d
}

type object = map[string]any

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// image adds an image whose layers are tars, packed by pack, and gives its
// manifest's digest.
func (r *registry) image(arch string, pack func([]byte) []byte, layers ...[]byte) string {
	var descriptors []object
	var diffs []string
	for _, l := range layers {
		packed := pack(l)
		descriptors = append(descriptors, object{"mediaType": ociLayer, "digest": r.blob(packed), "size": len(packed)})
		diffs = append(diffs, digestOf(l))
	}
	config, err := json.Marshal(object{
		"os": "linux", "architecture": arch, "rootfs": object{"type": "layers", "diff_ids": diffs},
		"config": object{"Env": []string{"A=b"}, "WorkingDir": "/w", "User": "u", "Entrypoint": []string{"/e"}, "Cmd": []string{"c"}},
	})
	if err != nil {
		panic(err)
	}
	return r.manifest(ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest,
		"config": object{"mediaType": ociConfig, "digest": r.blob(config), "size": len(config)}, "layers": descriptors})
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, password, _ := q.BasicAuth(); password != r.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch rest := strings.TrimPrefix(q.URL.Path, "/v2/"); {
	case rest == "":
	case strings.HasPrefix(rest, "app/manifests/"):
		r.serveManifest(w, strings.TrimPrefix(rest, "app/manifests/"))
	case strings.HasPrefix(rest, "app/blobs/"):
		r.serveBlob(w, q, strings.TrimPrefix(rest, "app/blobs/"))
	case rest == "app/tags/list":
		var tags []string
		for tag := range r.tags {
			tags = append(tags, tag)
		}
		_ = json.NewEncoder(w).Encode(object{"name": "app", "tags": tags})
	default:
		http.NotFound(w, q)
	}
}

func (r *registry) serveManifest(w http.ResponseWriter, reference string) {
	digest := reference
	if d, ok := r.tags[reference]; ok {
		digest = d
	}
	if r.types[digest] == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", r.types[digest])
	_, _ = w.Write(r.blobs[digest])
}

func (r *registry) serveBlob(w http.ResponseWriter, q *http.Request, digest string) {
	data, ok := r.blobs[digest]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.later > 0 {
		r.later--
		w.Header().Set("Retry-After", r.after)
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	status, from := http.StatusOK, 0
	if asked := q.Header.Get("Range"); asked != "" {
		r.ranges = append(r.ranges, asked)
		from, _ = strconv.Atoi(strings.Trim(asked, "bytes=-"))
		if r.noRange {
			from = 0
		} else {
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		}
	}
	data = data[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.cutAfter > 0 && len(data) > r.cutAfter {
		data = data[:r.cutAfter]
	}
	n, _ := w.Write(data)
	r.served += int64(n)
}

// serve gives the registry's host.
func (r *registry) serve(t *testing.T) string {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func plain(data []byte) []byte { return data }

func gzipped(data []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(data)
	z.Close()
	return out.Bytes()
}

func zstded(data []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return z.EncodeAll(data, nil)
}

// pull gets an image and unpacks it in memory.
func pull(t *testing.T, cache, reference, platform string) (*memory, *Image, error) {
	t.Helper()
	ref, err := Parse(reference)
	if err != nil {
		return nil, nil, err
	}
	r := &Registry{Cache: Cache{cache}}
	image, err := r.Resolve(t.Context(), ref, platform, progress.Discard)
	if err != nil {
		return nil, nil, err
	}
	m := newMemory()
	return m, image, image.Unpack(t.Context(), m, 64<<20, func(string) {}, func(progress.Event) {})
}

func kindOf(err error) api.Kind {
	var told *api.Error
	if errors.As(err, &told) {
		return told.Kind
	}
	return ""
}

func TestPull(t *testing.T) {
	for name, pack := range map[string]func([]byte) []byte{"plain": plain, "gzip": gzipped, "zstd": zstded} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry()
			r.tags["1"] = r.image("amd64", pack, layer(t, 0, file("a"), file("b")), layer(t, 1, file(".wh.a")), layer(t, 1, file(".wh.a")))
			host := r.serve(t)
			cache := t.TempDir()
			m, image, err := pull(t, cache, host+"/app:1", "linux/amd64")
			if err != nil {
				t.Fatal(err)
			}
			if m.paths() != "b" || image.Digest != r.tags["1"] || image.Reference != host+"/app:1" {
				t.Errorf("got %s, %s, %s", m.paths(), image.Digest, image.Reference)
			}
			if c := image.Config; fmt.Sprintf("%v %s %s %v %v", c.Env, c.WorkingDir, c.User, c.Entrypoint, c.Cmd) != "[A=b] /w u [/e] [c]" {
				t.Errorf("got %+v", c)
			}
			served, _, _ := r.seen()
			if _, _, err := pull(t, cache, host+"/app@"+r.tags["1"], "linux/amd64"); err != nil {
				t.Fatal(err)
			}
			if now, _, _ := r.seen(); now-served > 600 { // the configuration
				t.Errorf("%d bytes came again", now-served)
			}
		})
	}
}

func TestPlatforms(t *testing.T) {
	r := newRegistry()
	intel, arm := r.image("amd64", plain, layer(t, 0, file("intel"))), r.image("arm", plain, layer(t, 0, file("arm")))
	r.tags["1"] = r.manifest(ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{
		{"mediaType": ociManifest, "digest": intel, "size": len(r.blobs[intel]), "platform": object{"os": "unknown", "architecture": "unknown"}},
		{"mediaType": ociManifest, "digest": arm, "size": len(r.blobs[arm]), "platform": object{"os": "linux", "architecture": "arm", "variant": "v7"}},
		{"mediaType": ociManifest, "digest": intel, "size": len(r.blobs[intel]), "platform": object{"os": "linux", "architecture": "amd64"}},
	}})
	r.tags["arm"] = arm
	host := r.serve(t)
	for platform, want := range map[string]string{"linux/amd64": "intel", "linux/arm": "arm", "linux/arm/v7": "arm"} {
		m, _, err := pull(t, t.TempDir(), host+"/app:1", platform)
		if err != nil || m.paths() != want {
			t.Errorf("%s: got %v, %v", platform, m, err)
		}
	}
	for reference, say := range map[string]string{"1": "linux/amd64, linux/arm/v7", "arm": "linux/arm"} {
		_, _, err := pull(t, t.TempDir(), host+"/app:"+reference, "linux/s390x")
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindNotFound || !strings.Contains(told.Hint, say) {
			t.Errorf("no such platform: %v (%+v)", err, told)
		}
	}
	if _, _, err := pull(t, t.TempDir(), host+"/app:1", "linux"); kindOf(err) != api.KindBadRequest {
		t.Errorf("no platform: %v", err)
	}
}

// TestResume cuts every answer short: the rest is asked for.
func TestResume(t *testing.T) {
	for name, noRange := range map[string]bool{"with ranges": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry()
			var entries []tar.Header
			for i := range 200 {
				entries = append(entries, file(fmt.Sprint("f", i)))
			}
			l := layer(t, 0, entries...)
			r.tags["1"] = r.image("amd64", plain, l)
			host := r.serve(t)
			cache := t.TempDir()
			digest := digestOf(l)
			partial := filepath.Join(cache, "sha256", digest[7:]+".partial")
			if err := errors.Join(os.MkdirAll(filepath.Dir(partial), 0o755), os.WriteFile(partial, l[:len(l)/2], 0o644)); err != nil {
				t.Fatal(err)
			}
			r.noRange = noRange
			if !noRange {
				r.cutAfter = len(l) / 3
			}
			if _, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); err != nil {
				t.Fatal(err)
			}
			served, ranges, _ := r.seen()
			if len(ranges) == 0 || ranges[0] != fmt.Sprintf("bytes=%d-", len(l)/2) {
				t.Errorf("asked for %q", ranges)
			}
			if !noRange && (len(ranges) < 2 || served > int64(len(l)/2+600)) {
				t.Errorf("asked for %q, %d of %d bytes came", ranges, served, len(l))
			}
			if _, err := os.Stat(partial); err == nil {
				t.Error("the partial file is left")
			}
		})
	}
}

// TestWrongPartial has half a blob that is not what it should be, as a power
// cut leaves it.
func TestWrongPartial(t *testing.T) {
	r := newRegistry()
	l := layer(t, 0, file("a"))
	r.tags["1"] = r.image("amd64", plain, l)
	host := r.serve(t)
	for name, wrong := range map[string][]byte{"zeros": make([]byte, 100), "too long": make([]byte, len(l)+1), "full": make([]byte, len(l))} {
		cache := t.TempDir()
		partial := filepath.Join(cache, "sha256", digestOf(l)[7:]+".partial")
		if err := errors.Join(os.MkdirAll(filepath.Dir(partial), 0o755), os.WriteFile(partial, wrong, 0o644)); err != nil {
			t.Fatal(err)
		}
		if m, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); err != nil || m.paths() != "a" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWrongCache has a blob in the cache whose bytes have changed: it is told,
// and fetched anew by the next pull.
func TestWrongCache(t *testing.T) {
	r := newRegistry()
	l := layer(t, 0, file("a"))
	r.tags["1"] = r.image("amd64", plain, l)
	host, cache := r.serve(t), t.TempDir()
	if _, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Replace(l, []byte("a of layer 0"), []byte("b of layer 0"), 1)
	if err := os.WriteFile(filepath.Join(cache, "sha256", digestOf(l)[7:]), wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); kindOf(err) != api.KindUntrusted || !errors.Is(err, ErrBadImage) {
		t.Errorf("got %v", err)
	}
	if m, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); err != nil || m.paths() != "a" {
		t.Errorf("the next pull: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	r := newRegistry()
	r.tags["1"] = r.image("amd64", plain, layer(t, 0, file("a")))
	host := r.serve(t)
	r.later, r.after = 1, "2"
	begun := time.Now()
	if _, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("asked again after %s", took)
	}
	r.seen()
	r.later, r.after = 1, time.Now().Add(time.Second).UTC().Format(http.TimeFormat)
	if _, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	r.seen()
	r.later, r.after = 100, "3600"
	_, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64")
	_, _, later := r.seen()
	if kindOf(err) != api.KindUnreachable || !strings.Contains(err.Error(), "limits") || later != 99 {
		t.Errorf("an hour: %v, asked %d times", err, 100-later)
	}
}

// TestTokenAndRedirect asks a registry as the large ones are: it sends who asks
// to another server for a token, and for blobs to a third, which must not see
// the token.
func TestTokenAndRedirect(t *testing.T) {
	r := newRegistry()
	l := layer(t, 0, file("a"))
	r.tags["1"] = r.image("amd64", plain, l)
	var leaked, stored atomic.Int32
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		stored.Add(1)
		if q.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		r.serveBlob(w, q, strings.TrimPrefix(q.URL.Path, "/"))
	}))
	defer storage.Close()
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.FormValue("scope") != "repository:app:pull" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(object{"token": "opaque"})
	}))
	defer tokens.Close()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.Header.Get("Authorization") != "Bearer opaque":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test"`, strings.Replace(tokens.URL, "127.0.0.1", "localhost", 1)))
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(q.URL.Path, "/v2/app/blobs/"):
			http.Redirect(w, q, storage.URL+"/"+strings.TrimPrefix(q.URL.Path, "/v2/app/blobs/"), http.StatusTemporaryRedirect)
		default:
			r.ServeHTTP(w, q)
		}
	}))
	defer front.Close()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	m, _, err := pull(t, t.TempDir(), strings.TrimPrefix(front.URL, "http://")+"/app:1", "linux/amd64")
	if err != nil || m.paths() != "a" {
		t.Fatal(err)
	}
	if stored.Load() != 2 || leaked.Load() > 0 {
		t.Errorf("%d blobs from storage, %d with the token", stored.Load(), leaked.Load())
	}
}

func TestCredentials(t *testing.T) {
	r := newRegistry()
	r.tags["1"] = r.image("amd64", plain, layer(t, 0, file("a")))
	host := r.serve(t)
	r.password = "secret"
	_, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64")
	if kindOf(err) != api.KindUnauthorized {
		t.Errorf("without: %v", err)
	}
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("config.json", fmt.Sprintf(`{"auths":{%q:{"auth":"dTpzZWNyZXQ="}}}`, host), 0o600) // u:secret
	if _, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64"); err != nil {
		t.Errorf("from the configuration: %v", err)
	}
	put("docker-credential-test", `#!/bin/sh
read host; [ "$1" = get ] && [ "$host" = "`+host+`" ] && echo '{"ServerURL":"'$host'","Username":"u","Secret":"secret"}'
`, 0o755)
	put("config.json", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host), 0o600)
	if _, _, err := pull(t, t.TempDir(), host+"/app:1", "linux/amd64"); err != nil {
		t.Errorf("from a helper: %v", err)
	}
	put("config.json", fmt.Sprintf(`{"auths":{%q:{"auth":"dTp3cm9uZw=="}}}`, host), 0o600) // u:wrong
	_, _, err = pull(t, t.TempDir(), host+"/app:1", "linux/amd64")
	if kindOf(err) != api.KindUnauthorized || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong ones: %v", err)
	}
}

// TestNotThere looks for what a registry does not have, and for a registry that
// is not there.
func TestNotThere(t *testing.T) {
	r := newRegistry()
	r.tags["3.19"] = r.image("amd64", plain, layer(t, 0, file("a")))
	r.tags["3.20"], r.tags["edge"] = r.tags["3.19"], r.tags["3.19"]
	host := r.serve(t)
	_, _, err := pull(t, t.TempDir(), host+"/app:3.21", "")
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindNotFound || !strings.Contains(told.Hint, "3.20") {
		t.Errorf("got %v, %+v", err, told)
	}
	if _, _, err := pull(t, t.TempDir(), "127.0.0.1:1/app:1", ""); kindOf(err) != api.KindUnreachable {
		t.Errorf("nobody listens: %v", err)
	}
	if _, _, err := pull(t, t.TempDir(), "Not a reference", ""); kindOf(err) != api.KindBadRequest {
		t.Errorf("no reference: %v", err)
	}
}

// TestHTTPNeedsLeave asks a registry that is not on this host without TLS.
func TestHTTPNeedsLeave(t *testing.T) {
	p := &patient{inner: http.DefaultTransport}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://192.0.2.1/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.RoundTrip(q); kindOf(err) != api.KindBadRequest || !strings.Contains(fmt.Sprint(err), "without encryption") {
		t.Errorf("got %v", err)
	}
}

// TestBadManifests has manifests that lie.
func TestBadManifests(t *testing.T) {
	r := newRegistry()
	l := layer(t, 0, file("a"))
	good := r.image("amd64", plain, l)
	change := func(f func(m object)) string {
		m := object{}
		if err := json.Unmarshal(r.blobs[good], &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		return r.manifest(ociManifest, m)
	}
	first := func(m object) object { return m["layers"].([]any)[0].(object) }
	r.tags["artifact"] = change(func(m object) { m["config"].(object)["mediaType"] = "application/vnd.cncf.helm.config.v1+json" })
	r.tags["layertype"] = change(func(m object) { first(m)["mediaType"] = "application/wasm" })
	r.tags["moresize"] = change(func(m object) { first(m)["size"] = len(l) + 1 })
	r.tags["lesssize"] = change(func(m object) { first(m)["size"] = len(l) - 1 })
	r.tags["hugeconfig"] = change(func(m object) { m["config"].(object)["size"] = 1 << 40 })
	r.tags["count"] = change(func(m object) { m["layers"] = append(m["layers"].([]any), first(m)) })
	host := r.serve(t)
	for tag := range r.tags {
		_, _, err := pull(t, t.TempDir(), host+"/app:"+tag, "linux/amd64")
		if k := kindOf(err); k != api.KindUntrusted && k != api.KindUnreachable {
			t.Errorf("%s: %v", tag, err)
		}
	}
	// A blob that is not what its digest says.
	r.blobs[digestOf(l)] = append([]byte("x"), l[1:]...)
	r.tags["1"] = good
	cache := t.TempDir()
	if _, _, err := pull(t, cache, host+"/app:1", "linux/amd64"); kindOf(err) != api.KindUntrusted {
		t.Errorf("wrong bytes: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "sha256", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestBombs has layers that are small and unpack to too much, and broken ones.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 80<<20)
	tests := map[string]struct {
		packed []byte
		kind   api.Kind
	}{
		"gzip bomb": {gzipped(zeros), api.KindBadRequest},
		"zstd bomb": {zstded(zeros), api.KindBadRequest},
		"cut gzip":  {gzipped(layer(t, 0, file("a")))[:60], api.KindUntrusted},
		"cut zstd":  {zstded(layer(t, 0, file("a")))[:60], api.KindUntrusted},
		"no gzip":   {append([]byte{0x1f, 0x8b}, zeros[:600]...), api.KindUntrusted},
	}
	for name, test := range tests {
		l := Layer{Size: int64(len(test.packed)), DiffID: digestOf(nil), open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(test.packed)), nil
		}}
		image := &Image{Layers: []Layer{l}}
		err := image.Unpack(t.Context(), newMemory(), 64<<20, func(string) {}, progress.Discard)
		if kindOf(err) != test.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWindow has a zstd layer that asks for more memory than it may.
func TestWindow(t *testing.T) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(512<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = decompressed(bytes.NewReader(out.Bytes()))
	if err == nil {
		plain, done, _ := decompressed(bytes.NewReader(out.Bytes()))
		defer done()
		_, err = io.Copy(io.Discard, plain)
		err = decompressError(err)
	}
	if !errors.Is(err, ErrBadImage) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("got %v", err)
	}
}

func TestReferences(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	tests := []struct{ in, whole, name string }{
		{"alpine:3.20", "docker.io/library/alpine:3.20", "alpine-3.20"},
		{"docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20", "alpine-3.20"},
		{"library/alpine", "docker.io/library/alpine:latest", "alpine-latest"},
		{"ghcr.io/Org/app:V1_2", "", ""},
		{"ghcr.io/org/my_app:V1_2", "ghcr.io/org/my_app:V1_2", "my-app-v1-2"},
		{"localhost:5000/x/y@sha256:" + hex, "localhost:5000/x/y@sha256:" + hex, "y-0123456789ab"},
		{"127.0.0.1:5000/a__b:_", "127.0.0.1:5000/a__b:_", "a--b"},
		{"", "", ""},
		{"a:b:c", "", ""},
	}
	for _, test := range tests {
		ref, err := Parse(test.in)
		if test.whole == "" {
			if kindOf(err) != api.KindBadRequest {
				t.Errorf("%q: %v", test.in, err)
			}
			continue
		}
		if err != nil || ref.String() != test.whole || ref.ImageName() != test.name {
			t.Errorf("%q: %v, %v", test.in, ref, err)
		}
	}
}

// TestCacheIsNoDirectory has a host's trouble that is not the registry's.
func TestCacheIsNoDirectory(t *testing.T) {
	r := newRegistry()
	r.tags["1"] = r.image("amd64", plain, layer(t, 0, file("a")))
	host, cache := r.serve(t), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(cache, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := pull(t, cache, host+"/app:1", "linux/amd64")
	if !errors.Is(err, syscall.ENOTDIR) || kindOf(err) != "" {
		t.Errorf("got %v of kind %q", err, kindOf(err))
	}
}
