//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/testenv"
)

// hub is the registry that answers by docker.io's name in the tests' internet;
// the scripts share it, and each takes a repository of its own.
var hub struct {
	sync.Mutex
	dir    string // "" until it is up
	server *exec.Cmd
}

// dockerHub REPOSITORY:TAG ROOTFS pushes an image with what is in an ext4 file to
// docker.io, as the script's programs and guests see it. The registry is Debian's,
// the image is umoci's and skopeo's.
func dockerHub(ts *testscript.TestScript, neg bool, args []string) {
	cert := filepath.Join(ensureHub(ts), "cert.pem")
	layout := ts.MkAbs("hub/layout")
	ts.Check(os.MkdirAll(filepath.Dir(layout), 0o755))
	must(ts, "umoci", "init", "--layout", layout)
	must(ts, "umoci", "new", "--image", layout+":image")
	must(ts, "umoci", "raw", "add-layer", "--image", layout+":image", packed(ts, args[1]))
	must(ts, "umoci", "config", "--image", layout+":image", "--config.env", "FROM_IMAGE=yes", "--config.workingdir", "/tmp", "--config.cmd", "/bin/sh")
	ts.Check(world.Inside(func() error {
		out, err := exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+layout+":image", "docker://"+testenv.ServerAddr+":443/"+args[0]).CombinedOutput()
		if err != nil {
			return fmt.Errorf("skopeo: %w\n%s", err, out)
		}
		return nil
	}))
	ts.Setenv("SSL_CERT_FILE", cert)
}

// ensureHub starts the registry where that has not been done, and gives its
// directory.
func ensureHub(ts *testscript.TestScript) string {
	hub.Lock()
	defer hub.Unlock()
	if hub.dir != "" {
		return hub.dir
	}
	dir, err := os.MkdirTemp("/var/tmp", "banger-hub")
	ts.Check(err)
	hubCertificate(ts, dir)
	config := filepath.Join(dir, "config.yml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/data}}\n"+
		"http: {addr: %s:443, tls: {certificate: %s/cert.pem, key: %s/key.pem}}\n", dir, testenv.ServerAddr, dir, dir), 0o644))
	ts.Check(world.Inside(func() error { return startHub(config) }))
	hub.dir = dir
	return dir
}

func startHub(config string) error {
	server := exec.Command("docker-registry", "serve", config)
	said, err := server.StderrPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	hub.server = server
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() { _, _ = io.Copy(io.Discard, said) }()
			return nil
		}
	}
	return fmt.Errorf("docker-registry ended before it listened")
}

// stopHub ends the registry, if there is one.
func stopHub() {
	if hub.server != nil {
		_ = hub.server.Process.Kill()
		_ = hub.server.Wait()
	}
	_ = os.RemoveAll(hub.dir)
}

// hubCertificate writes cert.pem and key.pem for docker.io's registry, signed by
// itself.
func hubCertificate(ts *testscript.TestScript, dir string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Hub"}, DNSNames: testenv.HubNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	ts.Check(err)
	secret, err := x509.MarshalECPrivateKey(key)
	ts.Check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	ts.Check(os.WriteFile(filepath.Join(dir, "cert.pem"), text, 0o644))
	trust(ts, "hub.crt", text)
	ts.Check(os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
}

// packed makes a tar archive of what is in an ext4 file.
func packed(ts *testscript.TestScript, rootfs string) string {
	tree, file := ts.MkAbs("hub/tree"), ts.MkAbs("hub/layer.tar")
	ts.Check(os.MkdirAll(tree, 0o755))
	must(ts, "mount", "-o", "loop,ro", rootfs, tree)
	defer func() { _ = unix.Unmount(tree, unix.MNT_DETACH) }()
	must(ts, "tar", "-c", "-f", file, "-C", tree, "--exclude=./lost+found", ".")
	return file
}

func must(ts *testscript.TestScript, name string, args ...string) {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		ts.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
