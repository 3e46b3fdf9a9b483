package agent

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// anchorDirs are where the distributions' own tools look for certificates that
// are to be added when they make the bundle anew.
var anchorDirs = []string{
	"/usr/local/share/ca-certificates",          // Debian, Alpine
	"/etc/pki/ca-trust/source/anchors",          // Fedora
	"/etc/ca-certificates/trust-source/anchors", // Arch
}

// bundles are the files that programs read; the first is made where there is none.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
}

// setTrust makes the guest trust the host's extra certificates at once: it
// writes them into the bundle itself, since update-ca-certificates takes
// seconds in a slow guest, and beside it, for the next time that runs.
func (a *Agent) setTrust(c proto.Config) error {
	if c.CACerts == nil {
		return nil
	}
	certs, err := certificates(c.CACerts)
	if err != nil {
		return err
	}
	return errors.Join(a.putAnchors(certs), a.putBundles(certs))
}

// certificates splits what came into single PEM certificates.
func certificates(texts []string) ([]string, error) {
	var certs []string
	for _, text := range texts {
		rest := []byte(text)
		for len(strings.TrimSpace(string(rest))) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
				return nil, badRequest("a CA certificate is not in PEM form")
			}
			block.Headers = nil
			certs = append(certs, strings.TrimSpace(string(pem.EncodeToMemory(block))))
		}
	}
	return certs, nil
}

func (a *Agent) putAnchors(certs []string) error {
	var errs []error
	for _, dir := range anchorDirs {
		dir = a.path(dir)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		errs = append(errs, removeAnchors(dir, len(certs)))
		for i, cert := range certs {
			errs = append(errs, putFile(anchor(dir, i), []byte(cert+"\n"), 0o644))
		}
	}
	return errors.Join(errs...)
}

func anchor(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("banger-%d.crt", i)) }

// removeAnchors removes those of an earlier call from number i on.
func removeAnchors(dir string, i int) error {
	for ; ; i++ {
		if err := os.Remove(anchor(dir, i)); os.IsNotExist(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot remove an old certificate: %w", err)
		}
	}
}

func (a *Agent) putBundles(certs []string) error {
	var errs []error
	for i, bundle := range bundles {
		bundle = a.path(bundle)
		_, err := os.Stat(bundle)
		if err == nil || i == 0 && len(certs) > 0 {
			errs = append(errs, putBlock(bundle, certs, 0o644))
		}
	}
	return errors.Join(errs...)
}
