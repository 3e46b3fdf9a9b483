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
	"errors"
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
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/testenv"
)

// server is Debian's docker-registry in the tests' internet. The scripts share
// it, and each takes a repository of its own.
type server struct {
	port, password string // of its user u; without one it is for everybody

	mu      sync.Mutex
	running *exec.Cmd // nil: not yet
}

// hub answers by docker.io's name; private wants to know who asks.
var (
	hub     = &server{port: "443"}
	private = &server{port: "5000", password: "correct-horse-battery"}
)

// dockerHub REPOSITORY:TAG ROOTFS pushes an image with what is in an ext4 file, or a
// tar archive, to docker.io, as the script's programs and guests see it. The image
// is umoci's and skopeo's.
func dockerHub(ts *testscript.TestScript, neg bool, args []string) { hub.push(ts, args[0], args[1]) }

// privateHub REPOSITORY:TAG ROOTFS pushes one to $SERVER:5000, whose user is u, and
// puts the password into $PASSWORD.
func privateHub(ts *testscript.TestScript, neg bool, args []string) {
	private.push(ts, args[0], args[1])
	ts.Setenv("PASSWORD", private.password)
}

func (s *server) push(ts *testscript.TestScript, image, rootfs string) {
	s.ensure(ts)
	layout := ts.MkAbs("hub/layout")
	ts.Check(os.MkdirAll(filepath.Dir(layout), 0o755))
	must(ts, "umoci", "init", "--layout", layout)
	must(ts, "umoci", "new", "--image", layout+":image")
	must(ts, "umoci", "raw", "add-layer", "--image", layout+":image", packed(ts, rootfs))
	must(ts, "umoci", "config", "--image", layout+":image", "--config.env", "FROM_IMAGE=yes", "--config.workingdir", "/tmp", "--config.cmd", "/bin/sh")
	ts.Check(world.Inside(func() error {
		out, err := exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "u:"+s.password,
			"oci:"+layout+":image", "docker://"+testenv.ServerAddr+":"+s.port+"/"+image).CombinedOutput()
		if err != nil {
			return fmt.Errorf("skopeo: %w\n%s", err, out)
		}
		return nil
	}))
	ts.Setenv("SSL_CERT_FILE", filepath.Join(hubDir, "cert.pem"))
}

// ensure starts the registry where that has not been done.
func (s *server) ensure(ts *testscript.TestScript) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return
	}
	ts.Check(makeHubDir())
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %[1]s/data-%[3]s}}\n"+
		"http: {addr: %[2]s:%[3]s, tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}}\n", hubDir, testenv.ServerAddr, s.port)
	if s.password != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(s.password), bcrypt.MinCost)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(hubDir, "htpasswd"), []byte("u:"+string(hash)+"\n"), 0o600))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", hubDir)
	}
	path := filepath.Join(hubDir, "config-"+s.port+".yml")
	ts.Check(os.WriteFile(path, []byte(config), 0o644))
	ts.Check(world.Inside(func() error { return s.start(path) }))
}

func (s *server) start(config string) error {
	server := exec.Command("docker-registry", "serve", config)
	said, err := server.StderrPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	s.running = server
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() { _, _ = io.Copy(io.Discard, said) }()
			return nil
		}
	}
	return fmt.Errorf("docker-registry ended before it listened")
}

// stopHubs ends the registries that there are.
func stopHubs() {
	for _, s := range []*server{hub, private} {
		if s.running != nil {
			_ = s.running.Process.Kill()
			_ = s.running.Wait()
		}
	}
	_ = os.RemoveAll(hubDir)
}

// hubDir is where the registries have what they need; "" until it is made.
var hubDir string

var makeHubDir = sync.OnceValue(func() (err error) {
	if hubDir, err = os.MkdirTemp("/var/tmp", "banger-hub"); err != nil {
		return err
	}
	return hubCertificate()
})

// hubCertificate writes cert.pem and key.pem for the registries, signed by itself,
// and makes the host trust it.
func hubCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Hub"}, DNSNames: append([]string{testenv.ServerName}, testenv.HubNames...),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return errors.Join(
		os.WriteFile(filepath.Join(hubDir, "cert.pem"), text, 0o644),
		os.WriteFile(filepath.Join(hubDir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
		trust("hub.crt", text))
}

// packed makes a tar archive of what is in an ext4 file.
func packed(ts *testscript.TestScript, rootfs string) string {
	if filepath.Ext(rootfs) == ".tar" {
		return rootfs
	}
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
