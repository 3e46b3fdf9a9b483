// Package hostenv finds what of its host's surroundings a guest must share to
// reach the world as the host does: proxy settings and extra CA certificates.
package hostenv

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Proxy gives the host's proxy settings, in both spellings that programs look
// for.
func Proxy(getenv func(string) string) map[string]string {
	env := map[string]string{}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		upper := strings.ToUpper(name)
		value := getenv(name)
		if value == "" {
			value = getenv(upper)
		}
		if value != "" {
			env[name], env[upper] = value, value
		}
	}
	return env
}

// anchors are the directories where administrators put the certificates of
// their own authorities: Debian's, Fedora's, SUSE's and Arch's.
var anchors = []string{
	"/usr/local/share/ca-certificates",
	"/etc/pki/ca-trust/source/anchors",
	"/etc/pki/trust/anchors",
	"/etc/ca-certificates/trust-source/anchors",
}

const (
	maxCertFile  = 256 << 10 // bytes of one file
	maxCertBytes = 512 << 10 // bytes of all of them: they go to the guest in one message
)

// Certificates gives the extra CA certificates of the host whose root
// directory is root, a PEM block each, in a fixed order. A file that is not PEM
// is passed over.
func Certificates(root string) []string {
	var certs []string
	total := 0
	for _, dir := range anchors {
		for _, path := range files(filepath.Join(root, dir)) {
			for _, cert := range certsIn(path) {
				if total+len(cert) > maxCertBytes {
					return certs
				}
				if !slices.Contains(certs, cert) {
					certs, total = append(certs, cert), total+len(cert)
				}
			}
		}
	}
	return certs
}

// files lists a directory and its subdirectories, one level deep, sorted.
func files(dir string) []string {
	flat, _ := filepath.Glob(filepath.Join(dir, "*"))
	deep, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	return append(flat, deep...)
}

func certsIn(path string) []string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxCertFile {
		return nil
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var certs []string
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return certs
		}
		if block.Type == "CERTIFICATE" {
			certs = append(certs, string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})))
		}
	}
}
