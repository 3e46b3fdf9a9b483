package hostenv

import (
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestProxyInBothSpellings(t *testing.T) {
	env := map[string]string{"HTTPS_PROXY": "http://p:1", "no_proxy": "localhost"}
	got := Proxy(func(k string) string { return env[k] })
	want := map[string]string{"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:1", "no_proxy": "localhost", "NO_PROXY": "localhost"}
	if !maps.Equal(got, want) {
		t.Errorf("Proxy = %v, want %v", got, want)
	}
}

func TestCertificatesOfEveryDistribution(t *testing.T) {
	root := t.TempDir()
	cert := func(text string) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)})
	}
	write := func(path string, data []byte) {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/local/share/ca-certificates/one.crt", cert("one"))
	write("usr/local/share/ca-certificates/corp/two.crt", append(cert("two"), cert("one")...))
	write("etc/pki/ca-trust/source/anchors/three.pem", cert("three"))
	write("etc/pki/ca-trust/source/anchors/README", []byte("no certificate"))
	write("usr/local/share/ca-certificates/key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	got := Certificates(root)
	want := []string{string(cert("one")), string(cert("two")), string(cert("three"))}
	if len(got) != len(want) {
		t.Fatalf("%d certificates, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("certificate %d is %q, want %q", i, got[i], want[i])
		}
	}
}
