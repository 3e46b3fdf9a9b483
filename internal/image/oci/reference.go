package oci

import (
	"fmt"
	"net"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/banger-vm/banger/api"
)

// Reference names an image in a registry.
type Reference struct{ parsed name.Reference }

// IsReference tells a reference from the name of an image in the store, and
// from a path: it begins with a host or a repository, and has a repository's
// slash, a tag's colon or a digest's at sign.
func IsReference(s string) bool {
	return strings.ContainsAny(s, "/:@") && !strings.ContainsAny(s[:1], "./~-_:@")
}

// Parse reads a reference as docker does: without a registry it is of
// docker.io, without a tag it is latest. Errors carry an *api.Error of kind
// bad-request.
func Parse(s string) (Reference, error) {
	scheme, rest, isAddress := strings.Cut(s, "://")
	switch {
	case isAddress:
		return Reference{}, noReference(s, fmt.Sprintf("write it without %s://, like %s", scheme, rest))
	case s != "" && strings.ContainsRune("./~", rune(s[0])):
		return Reference{}, noReference(s, fmt.Sprintf("`banger image pull --tar %s --name app` takes an image from a file", s))
	}
	parsed, err := name.ParseReference(s, name.WithDefaultTag("latest"))
	if err != nil {
		return Reference{}, noReference(s, "write one like docker.io/library/alpine:3.20, or with a digest: registry.example/app@sha256:…")
	}
	return Reference{parsed}, nil
}

func noReference(s, hint string) error {
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("%.300q is no reference to an image", s), Hint: hint}
}

// dockerHub is how ggcr calls docker.io, as Docker's own configuration does.
const dockerHub = name.DefaultRegistry

// String is the whole reference: registry, repository and tag or digest.
func (r Reference) String() string {
	repository := r.parsed.Context().RepositoryStr()
	separator := ":"
	if _, ok := r.parsed.(name.Digest); ok {
		separator = "@"
	}
	return r.Registry() + "/" + repository + separator + r.parsed.Identifier()
}

// Registry is the registry's host, with its port.
func (r Reference) Registry() string {
	if host := r.parsed.Context().RegistryStr(); host != dockerHub {
		return host
	}
	return "docker.io"
}

// Digest is the digest that the reference pins, or empty.
func (r Reference) Digest() string {
	if d, ok := r.parsed.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

// ImageName makes a name for the store: the repository's last part and the
// tag, or the begin of the digest.
func (r Reference) ImageName() string {
	version := r.parsed.Identifier()
	if hex, ok := strings.CutPrefix(version, "sha256:"); ok {
		version = hex[:12]
	}
	return nameOf(path.Base(r.parsed.Context().RepositoryStr()) + "-" + version)
}

// nameOf leaves of s what the store takes for a name.
func nameOf(s string) string {
	clean := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return '-'
	}, s)
	for strings.Contains(clean, "..") {
		clean = strings.ReplaceAll(clean, "..", ".")
	}
	return strings.Trim(clean[:min(len(clean), 63)], "-.")
}

// isLoopback tells a registry on this host, which may speak plain HTTP.
func (r Reference) isLoopback() bool { return isLoopback(r.parsed.Context().RegistryStr()) }

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
